//! Finds tool calls in a model's text while it is generated.

use std::sync::Arc;

use serde_json::Value;

use super::tools::{CLOSE, Format, OPEN};

/// What a code block begins and ends with.
const FENCE: &str = "```";
const FENCE_JSON: &str = "```json";

/// The calls that a text may have.
#[derive(Debug, Clone)]
pub struct Calls {
    format: Format,
    /// Names of the functions. An object with another name is not a call.
    names: Arc<[String]>,
    /// Whether there can be more than one.
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

/// A piece of a model's text.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Content(String),
    /// A call begins.
    Call {
        name: String,
    },
    /// A piece of the arguments of the last call, as the model wrote it.
    Arguments(String),
}

/// Reads a model's text while it is generated. Text that may begin a call is held back until that is known.
#[derive(Debug)]
pub struct Reader {
    may_be: Calls,
    /// Text that is held back.
    held: String,
    state: State,
    /// Whether there was a call.
    calls: bool,
}

#[derive(Debug)]
enum State {
    /// The beginning, or after a call: where an object may be a call that lacks its tag.
    Start,
    /// Text outside of calls.
    Content,
    /// Within the object of a call.
    Call(Call),
    /// After a call, which this may close.
    AfterCall(&'static str),
    /// Text until the end.
    Text,
}

impl Reader {
    pub fn new(may_be: Calls) -> Self {
        Self {
            state: State::before_call(may_be.format),
            may_be,
            held: String::new(),
            calls: false,
        }
    }

    /// Takes text and returns the parts that are known now.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        if self.may_be.format == Format::Arguments {
            return content_or_nothing(text, Part::Arguments);
        }
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// The remaining parts at the end of the text. An incomplete call has been emitted as far as it goes if its name is known.
    pub fn finish(&mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        match &mut self.state {
            // Whitespace between and after calls.
            State::Start | State::Content if self.calls && held.trim().is_empty() => Vec::new(),
            State::Start | State::Content => content_or_nothing(&held, Part::Content),
            State::Call(call) if !call.is_emitted => {
                let text = format!("{}{}", call.lead, call.text);
                vec![Part::Content(text)]
            }
            State::Text => content_or_nothing(&held, Part::Content),
            State::Call(_) | State::AfterCall(_) => Vec::new(),
        }
    }

    /// Takes one step through the held text; returns whether another may be possible.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match &mut self.state {
            State::Start => self.find_untagged(),
            State::Content if self.may_be.format == Format::Tagged => self.find_tag(parts),
            State::Content => match self.held.trim_start().chars().next() {
                None => false,
                Some('{') => {
                    // Llama 3 separates calls by semicolons.
                    self.state = State::Call(Call::after(String::new(), ";"));
                    true
                }
                Some(_) => {
                    self.state = State::Text;
                    true
                }
            },
            State::Call(call) => {
                let taken = call.push(&self.held, &self.may_be, parts);
                self.held.drain(..taken);
                self.calls |= call.is_emitted;
                if !call.is_over {
                    return false;
                }
                if call.is_emitted {
                    self.state = State::AfterCall(call.closed_by);
                } else {
                    // An object that is not a call.
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
            &mut State::AfterCall(closed_by) => self.find_next_call(closed_by),
        }
    }

    /// Looks for an object where a tag is expected. Small models leave the tag out, or write a code block instead.
    fn find_untagged(&mut self) -> bool {
        let text = self.held.trim_start();
        let inside = text
            .strip_prefix(FENCE)
            .map(|text| text.strip_prefix("json").unwrap_or(text));
        let object = inside.unwrap_or(text).trim_start();
        if object.is_empty() || FENCE_JSON.starts_with(text) {
            return false;
        }
        self.state = if object.starts_with('{') {
            let closed_by = if inside.is_some() { FENCE } else { "" };
            let lead = self.held.len() - object.len();
            State::Call(Call::after(self.held.drain(..lead).collect(), closed_by))
        } else {
            State::Content
        };
        true
    }

    /// Looks for the tag that begins a call, and emits the text before it.
    fn find_tag(&mut self, parts: &mut Vec<Part>) -> bool {
        let start = self.held.find(OPEN);
        let end = start.unwrap_or_else(|| {
            // A tag may have begun.
            let begun = (1..OPEN.len().min(self.held.len() + 1))
                .rev()
                .find(|&length| self.held.ends_with(&OPEN[..length]));
            self.held.len() - begun.unwrap_or(0)
        });
        // Whitespace before a tag belongs to it.
        let emitted = self.held[..end].trim_end().len();
        let content: String = self.held.drain(..emitted).collect();
        parts.extend(content_or_nothing(&content, Part::Content));
        if let Some(start) = start {
            let lead = self.held.drain(..start - emitted + OPEN.len()).collect();
            self.state = State::Call(Call::after(lead, CLOSE));
        }
        start.is_some()
    }

    fn find_next_call(&mut self, closed_by: &str) -> bool {
        let rest = self.held.trim_start();
        if rest.is_empty() {
            return false;
        }
        let next = if self.may_be.several {
            State::before_call(self.may_be.format)
        } else {
            State::Text
        };
        if let Some(rest) = rest.strip_prefix(closed_by) {
            self.held = rest.to_owned();
            self.state = next;
            return !self.held.is_empty();
        }
        if closed_by.starts_with(rest) {
            return false;
        }
        self.state = next;
        true
    }
}

impl State {
    fn before_call(format: Format) -> Self {
        match format {
            Format::Tagged => Self::Start,
            _ => Self::Content,
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

/// The object of a call, read character by character: it has `name`, and `arguments` or `parameters`.
#[derive(Debug, Default)]
struct Call {
    /// The whitespace and tag before it, which are text if this is not a call.
    lead: String,
    /// What may follow it.
    closed_by: &'static str,
    /// All of it so far.
    text: String,
    /// Open objects and arrays.
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// At depth 1: whether the next value belongs to `key`.
    after_colon: bool,
    /// The current or last string at depth 1.
    string: String,
    key: String,
    /// Where in `text` the arguments begin, and up to where they have been emitted.
    arguments: Option<(usize, usize)>,
    /// Where they end.
    arguments_end: Option<usize>,
    name: Option<String>,
    is_emitted: bool,
    is_over: bool,
}

impl Call {
    fn after(lead: String, closed_by: &'static str) -> Self {
        Self {
            lead,
            closed_by,
            ..Self::default()
        }
    }

    /// Takes text up to the end of the object; returns how many bytes.
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
        self.emit(may_be, parts);
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
            // Not an object.
            _ if self.depth == 0 && !character.is_whitespace() => self.is_over = true,
            _ => {}
        }
    }

    /// Whether the current value is the arguments.
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

    /// Emits the call as soon as its name is known and its arguments begin.
    fn emit(&mut self, may_be: &Calls, parts: &mut Vec<Part>) {
        let Some(name) = self
            .name
            .as_ref()
            .filter(|name| may_be.names.contains(name))
        else {
            return;
        };
        // A bare object with a name but no arguments may be anything.
        let without = self.is_over && self.closed_by == CLOSE;
        if !self.is_emitted && (self.arguments.is_some() || without) {
            parts.push(Part::Call { name: name.clone() });
            self.is_emitted = true;
            if self.arguments.is_none() {
                parts.push(Part::Arguments("{}".to_owned()));
            }
        }
        if self.is_emitted
            && let Some((_, emitted)) = &mut self.arguments
        {
            let end = self.arguments_end.unwrap_or(self.text.len());
            if *emitted < end {
                parts.push(Part::Arguments(self.text[*emitted..end].to_owned()));
                *emitted = end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Reads the text in pieces of each length, which must give the same result.
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
        // Without the tag.
        check(
            Tagged,
            "\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n{\"name\": \"g\", \"arguments\": {}}",
            "",
            &[("f", "{\"a\": 1}"), ("g", "{}")],
        );
        check(
            Tagged,
            "```json\n{\n  \"name\": \"f\",\n  \"arguments\": {\"a\": 1}\n}\n```\nDone.",
            "\nDone.",
            &[("f", "{\"a\": 1}")],
        );
        check(
            Tagged,
            "```{\"name\": \"f\", \"arguments\": {}}```",
            "",
            &[("f", "{}")],
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
        // What is not a call stays text.
        for text in [
            "the <tool_call> tag",
            "<tool_call>\n<function=f></function>\n</tool_call>",
            "<tool_call>{\"name\": \"h\", \"arguments\": {}}</tool_call>",
            "{\"name\": \"f\", \"age\": 30}",
            "Use {\"name\": \"f\", \"arguments\": {}}",
            "```json\n{\"name\": \"h\", \"arguments\": {}}\n```",
            "```js",
            "```python\n{}\n```",
            " {",
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
