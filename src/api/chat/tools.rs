//! Calls of tools: what a model is told of them, how its text is read for them, as it comes.
//!
//! Two forms are read. Templates that know `<tool_call>` (Hermes, Qwen and many others) have the model write
//! `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, several after each other; those of Llama 3 have it write the
//! bare object `{"name": …, "parameters": {…}}` as its whole answer. Of a template that knows no tools nothing can be
//! expected: the model is told of them in a system message, in the first form.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::structured::Structured;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// How a model writes its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Between `<tool_call>` and `</tool_call>`.
    Tagged,
    /// As an answer that is an object and nothing else.
    Bare,
    /// The whole text is the arguments of the function that the client named.
    Arguments,
}

impl Format {
    /// The form that a template asks for; `None`: it does not know tools.
    pub fn of_template(template: &str) -> Option<Self> {
        if !template.contains("tools") {
            None
        } else if template.contains(OPEN) || !template.contains("\"parameters\"") {
            Some(Self::Tagged)
        } else {
            Some(Self::Bare)
        }
    }
}

/// What a model whose template knows no tools is told of them.
pub fn instructions(tools: &[Value]) -> String {
    let mut text =
        "You may call these functions to answer. They are described by JSON Schema:\n".to_owned();
    for tool in tools {
        text.push_str(&format!("{}\n", tool["function"]));
    }
    text.push_str(
        "To call one, write its name and arguments as JSON within <tool_call></tool_call>, like this:\n\
         <tool_call>\n{\"name\": \"function\", \"arguments\": {\"argument\": \"value\"}}\n</tool_call>",
    );
    text
}

impl Format {
    /// What a text must follow to be a call of one of these functions, or with `several` any number of them.
    pub fn structure(self, tools: &[Value], several: bool) -> Structured {
        if self != Self::Tagged {
            return Structured::schema("tool_choice", call_schema(tools, "parameters"));
        }
        let more = if several {
            format!(" (\"\\n{OPEN}\\n\" call \"\\n{CLOSE}\")*")
        } else {
            String::new()
        };
        let schema = call_schema(tools, "arguments");
        let text =
            format!("start: \"{OPEN}\\n\" call \"\\n{CLOSE}\"{more}\ncall: %json {schema}\n");
        Structured::lark("tool_choice", text)
    }
}

/// The schema of a call of one of these functions.
fn call_schema(tools: &[Value], arguments: &str) -> Value {
    let calls: Vec<Value> = tools
        .iter()
        .enumerate()
        .map(|(place, tool)| {
            let function = &tool["function"];
            let mut parameters = parameters(function);
            // What points into it points to where it stands now.
            let way = format!("/properties/{arguments}");
            move_references(
                &mut parameters,
                &match tools.len() {
                    1 => way,
                    _ => format!("/anyOf/{place}{way}"),
                },
            );
            json!({
                "type": "object",
                "properties": {
                    "name": {"const": function["name"]},
                    arguments: parameters,
                },
                "required": ["name", arguments],
                "additionalProperties": false,
            })
        })
        .collect();
    if calls.len() == 1 {
        calls.into_iter().next().unwrap_or_default()
    } else {
        json!({"anyOf": calls})
    }
}

/// The schema of a function's arguments: an object, if nothing is said of it.
pub fn parameters(function: &Value) -> Value {
    match &function["parameters"] {
        Value::Object(schema) if !schema.is_empty() => Value::Object(schema.clone()),
        _ => json!({"type": "object", "properties": {}, "additionalProperties": false}),
    }
}

/// Puts `way` before all references of a schema that point into it.
fn move_references(schema: &mut Value, way: &str) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str().and_then(|target| target.strip_prefix('#')) {
                    Some(rest) if name == "$ref" => *value = format!("#{way}{rest}").into(),
                    _ => move_references(value, way),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                move_references(item, way);
            }
        }
        _ => {}
    }
}

/// The calls that there may be in a text.
#[derive(Debug, Clone)]
pub struct Calls {
    format: Format,
    /// Of the functions; what has another name is no call.
    names: Arc<[String]>,
    /// Whether there may be more than one.
    several: bool,
}

impl Calls {
    pub fn new(format: Format, tools: &[Value], several: bool) -> Self {
        let names = tools
            .iter()
            .filter_map(|tool| tool["function"]["name"].as_str());
        Self {
            format,
            names: names.map(str::to_owned).collect(),
            several,
        }
    }
}

/// What a piece of text turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Content(String),
    /// A call begins.
    Call {
        name: String,
    },
    /// A piece of the arguments of the call that began last, as the model wrote it.
    Arguments(String),
}

/// Reads a model's text as it comes. Text that may be the beginning of a call is held back until that is known.
#[derive(Debug)]
pub struct Reader {
    may_be: Calls,
    /// Not told of yet.
    held: String,
    state: State,
    /// Whether there was a call.
    calls: bool,
}

#[derive(Debug)]
enum State {
    /// Text for people.
    Content,
    /// In the object of a call.
    Call(Call),
    /// Behind a call: a tag may close it.
    Behind,
    /// Text for people until the end.
    Text,
}

impl Reader {
    pub fn new(may_be: Calls) -> Self {
        Self {
            may_be,
            held: String::new(),
            state: State::Content,
            calls: false,
        }
    }

    /// What is known with this text.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        if self.may_be.format == Format::Arguments {
            return content_or_nothing(text, Part::Arguments);
        }
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// What is left when the text is over. A call that is not whole was told of as far as it came, if its name was known.
    pub fn finish(&mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        match &mut self.state {
            // What stands between calls and behind them.
            State::Content if self.calls && held.trim().is_empty() => Vec::new(),
            State::Content => content_or_nothing(&held, Part::Content),
            State::Call(call) if !call.is_told => {
                let text = format!("{}{}", call.lead, call.text);
                vec![Part::Content(text)]
            }
            State::Text => content_or_nothing(&held, Part::Content),
            State::Call(_) | State::Behind => Vec::new(),
        }
    }

    /// Goes on as far as what is held allows; whether there may be more.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match &mut self.state {
            State::Content => match self.may_be.format {
                Format::Tagged => {
                    if let Some(start) = self.held.find(OPEN) {
                        let told = self.held[..start].trim_end().len();
                        let content: String = self.held.drain(..told).collect();
                        parts.extend(content_or_nothing(&content, Part::Content));
                        self.state = State::Call(Call {
                            lead: self.held.drain(..start - told + OPEN.len()).collect(),
                            ..Call::default()
                        });
                        return true;
                    }
                    // A tag may have begun, and blanks before it would go with it.
                    let begun = (1..OPEN.len().min(self.held.len() + 1))
                        .rev()
                        .find(|&length| self.held.ends_with(&OPEN[..length]))
                        .unwrap_or(0);
                    let told = self.held[..self.held.len() - begun].trim_end().len();
                    let content: String = self.held.drain(..told).collect();
                    parts.extend(content_or_nothing(&content, Part::Content));
                    false
                }
                _ => match self.held.trim_start().chars().next() {
                    None => false,
                    Some('{') => {
                        self.state = State::Call(Call::default());
                        true
                    }
                    Some(_) => {
                        self.state = State::Text;
                        true
                    }
                },
            },
            State::Call(call) => {
                let taken = call.push(&self.held, &self.may_be, parts);
                self.held.drain(..taken);
                self.calls |= call.is_told;
                if !call.is_over {
                    return false;
                }
                if call.is_told {
                    self.state = State::Behind;
                } else {
                    // An object, but no call.
                    parts.push(Part::Content(format!("{}{}", call.lead, call.text)));
                    self.state = match self.may_be.format {
                        Format::Tagged => State::Content,
                        _ => State::Text,
                    };
                }
                true
            }
            State::Text => {
                let content = std::mem::take(&mut self.held);
                parts.extend(content_or_nothing(&content, Part::Content));
                false
            }
            State::Behind => {
                let rest = self.held.trim_start();
                if rest.is_empty() {
                    return false;
                }
                // Llama 3 separates calls by semicolons.
                let between = if self.may_be.format == Format::Bare {
                    ";"
                } else {
                    CLOSE
                };
                let next = if self.may_be.several {
                    State::Content
                } else {
                    State::Text
                };
                if let Some(rest) = rest.strip_prefix(between) {
                    self.held = rest.to_owned();
                    self.state = next;
                    return !self.held.is_empty();
                }
                if between.starts_with(rest) {
                    return false;
                }
                self.state = next;
                true
            }
        }
    }
}

fn content_or_nothing(text: &str, part: fn(String) -> Part) -> Vec<Part> {
    if text.is_empty() {
        Vec::new()
    } else {
        vec![part(text.to_owned())]
    }
}

/// The object of a call, read character by character: `name`, and `arguments` or `parameters`.
#[derive(Debug, Default)]
struct Call {
    /// What stands before it, blanks and a tag; it is text again if this is no call.
    lead: String,
    /// All of it so far.
    text: String,
    /// Objects and arrays that are open.
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// At depth 1: whether the next value belongs to `key`.
    after_colon: bool,
    /// The string at depth 1 that is being read, or was read last.
    string: String,
    key: String,
    /// Where in `text` the arguments begin, and how far they were told.
    arguments: Option<(usize, usize)>,
    /// Where they end.
    arguments_end: Option<usize>,
    name: Option<String>,
    is_told: bool,
    is_over: bool,
}

impl Call {
    /// Takes text until the object is over; how many bytes of it.
    fn push(&mut self, text: &str, may_be: &Calls, parts: &mut Vec<Part>) -> usize {
        let mut taken = 0;
        for character in text.chars() {
            taken += character.len_utf8();
            let start = self.text.len();
            self.text.push(character);
            self.take(character, start);
            if self.is_over {
                break;
            }
        }
        self.tell(may_be, parts);
        taken
    }

    fn take(&mut self, character: char, start: usize) {
        if self.in_string {
            match character {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.in_string = false;
                    if self.depth == 1 {
                        if self.after_colon {
                            self.value_ended(start + 1);
                            if self.key == "name" {
                                self.name = self.unescaped();
                            }
                        } else {
                            self.key = self.unescaped().unwrap_or_default();
                        }
                    }
                    return;
                }
                _ => {}
            }
            if self.depth == 1 {
                self.string.push(character);
            }
            return;
        }
        if self.depth == 1 && self.after_colon && !character.is_whitespace() {
            self.value_begins(start);
        }
        match character {
            '"' => {
                self.in_string = true;
                if self.depth == 1 {
                    self.string.clear();
                }
            }
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                if self.depth == 1 {
                    self.value_ended(start);
                    self.is_over = true;
                }
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 1 {
                    self.value_ended(start + 1);
                }
            }
            ':' if self.depth == 1 => self.after_colon = true,
            ',' if self.depth == 1 => {
                self.value_ended(start);
                self.after_colon = false;
            }
            // Something before the object: it is none.
            _ if self.depth == 0 && !character.is_whitespace() => self.is_over = true,
            _ => {}
        }
    }

    /// Whether the value that is read is the arguments.
    fn is_at_arguments(&self) -> bool {
        ["arguments", "parameters"].contains(&self.key.as_str())
    }

    fn value_begins(&mut self, start: usize) {
        if self.arguments.is_none() && self.is_at_arguments() {
            self.arguments = Some((start, start));
        }
    }

    fn value_ended(&mut self, end: usize) {
        if self.is_at_arguments() && self.arguments.is_some() && self.arguments_end.is_none() {
            self.arguments_end = Some(end);
        }
    }

    fn unescaped(&self) -> Option<String> {
        serde_json::from_str(&format!("\"{}\"", self.string)).ok()
    }

    /// Tells of the call as soon as its name is known and its arguments begin.
    fn tell(&mut self, may_be: &Calls, parts: &mut Vec<Part>) {
        let Some(name) = self
            .name
            .as_ref()
            .filter(|name| may_be.names.contains(name))
        else {
            return;
        };
        // A bare object without arguments may be anything that has a name.
        let without = self.is_over && may_be.format == Format::Tagged;
        if !self.is_told && (self.arguments.is_some() || without) {
            parts.push(Part::Call { name: name.clone() });
            self.is_told = true;
            if self.arguments.is_none() {
                parts.push(Part::Arguments("{}".to_owned()));
            }
        }
        if self.is_told
            && let Some((_, told)) = &mut self.arguments
        {
            let end = self.arguments_end.unwrap_or(self.text.len());
            if *told < end {
                parts.push(Part::Arguments(self.text[*told..end].to_owned()));
                *told = end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the text in pieces of each length, which must come to the same.
    fn check(format: Format, text: &str, content: &str, calls: &[(&str, &str)]) {
        let tools = ["f", "g"].map(|name| json!({"function": {"name": name}}));
        check_with(Calls::new(format, &tools, true), text, content, calls);
    }

    fn check_with(may_be: Calls, text: &str, content: &str, calls: &[(&str, &str)]) {
        for length in 1..=text.chars().count() {
            let mut reader = Reader::new(may_be.clone());
            let characters: Vec<char> = text.chars().collect();
            let mut parts: Vec<Part> = characters
                .chunks(length)
                .flat_map(|piece| reader.push(&piece.iter().collect::<String>()))
                .collect();
            parts.extend(reader.finish());
            let mut got_content = String::new();
            let mut got: Vec<(String, String)> = Vec::new();
            for part in parts {
                match part {
                    Part::Content(text) => got_content.push_str(&text),
                    Part::Call { name } => got.push((name, String::new())),
                    Part::Arguments(text) => {
                        if got.is_empty() {
                            got.push((String::new(), String::new()));
                        }
                        got.last_mut().expect("a call").1.push_str(&text);
                    }
                }
            }
            let calls: Vec<(String, String)> = calls
                .iter()
                .map(|&(name, arguments)| (name.to_owned(), arguments.to_owned()))
                .collect();
            assert_eq!(got, calls, "{text:?} by {length}");
            assert_eq!(got_content, content, "{text:?} by {length}");
        }
    }

    #[test]
    fn references_go_where_the_schema_goes() {
        let parameters = json!({
            "$defs": {"city": {"type": "string"}},
            "properties": {"a": {"$ref": "#/$defs/city"}, "$ref": {"type": "string"}, "b": {"items": [{"$ref": "#"}]}},
        });
        let tool = json!({"function": {"name": "f", "parameters": parameters}});
        let schema = call_schema(std::slice::from_ref(&tool), "arguments");
        let moved = &schema["properties"]["arguments"]["properties"];
        assert_eq!(moved["a"]["$ref"], "#/properties/arguments/$defs/city");
        assert_eq!(moved["b"]["items"][0]["$ref"], "#/properties/arguments");
        assert_eq!(moved["$ref"]["type"], "string");
        let schema = call_schema(&[tool.clone(), tool], "parameters");
        assert_eq!(
            schema["anyOf"][1]["properties"]["parameters"]["properties"]["a"]["$ref"],
            "#/anyOf/1/properties/parameters/$defs/city"
        );
    }

    #[test]
    fn calls_are_found_however_the_text_comes() {
        use Format::{Arguments, Bare, Tagged};
        check(Tagged, "Hello <b>you</b>.", "Hello <b>you</b>.", &[]);
        check(
            Tagged,
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"{\", \"b\": [1, {\"c\": 2}]}}\n</tool_call>",
            "",
            &[("f", "{\"a\": \"}\\\"{\", \"b\": [1, {\"c\": 2}]}")],
        );
        check(
            Tagged,
            "Let me see.\n<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"f\"}</tool_call>\n<tool_call>{\"name\": \"g\"}</tool_call> Done.",
            "Let me see. Done.",
            &[("f", "{\"a\": 1}"), ("g", "{}")],
        );
        check(
            Tagged,
            "<tool_call>{\"name\": \"f\", \"arguments\": \"text\"}</tool_call>",
            "",
            &[("f", "\"text\"")],
        );
        // Cut off by max_tokens.
        check(
            Tagged,
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": ",
            "",
            &[("f", "{\"a\": ")],
        );
        check(Tagged, "a <tool_ca", "a <tool_ca", &[]);
        check(Tagged, "<tool_call>{\"na", "<tool_call>{\"na", &[]);
        check(
            Bare,
            "{\"name\": \"f\", \"parameters\": {\"é\": \"ü\"}}",
            "",
            &[("f", "{\"é\": \"ü\"}")],
        );
        check(
            Bare,
            "{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
            "",
            &[("f", "{}"), ("g", "{}")],
        );
        // What is no call stays as it was.
        for text in [
            "the <tool_call> tag",
            "<tool_call>\n<function=f></function>\n</tool_call>",
            "<tool_call>{\"name\": \"h\", \"arguments\": {}}</tool_call>",
        ] {
            check(Tagged, text, text, &[]);
        }
        for text in [
            "Use {\"name\": \"f\", \"parameters\": {}}",
            "{\"name\": \"f\", \"age\": 30}",
            "{\"name\": \"h\", \"parameters\": {}}",
            "{\"a\": 1}\n\nDone; {\"name\": \"f\", \"parameters\": {}}",
        ] {
            check(Bare, text, text, &[]);
        }
        // One call and no more.
        let tools = [json!({"function": {"name": "f"}})];
        let two =
            "<tool_call>{\"name\": \"f\"}</tool_call><tool_call>{\"name\": \"f\"}</tool_call>";
        let second = "<tool_call>{\"name\": \"f\"}</tool_call>";
        check_with(
            Calls::new(Tagged, &tools, false),
            two,
            second,
            &[("f", "{}")],
        );
        check(Bare, "No {call}.", "No {call}.", &[]);
        check(Bare, "{\"answer\": 42}", "{\"answer\": 42}", &[]);
        check(Arguments, "{\"a\": 1}", "", &[("", "{\"a\": 1}")]);
    }
}
