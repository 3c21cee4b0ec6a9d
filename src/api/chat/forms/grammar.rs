//! Grammars that force a call in a model's own form, in llguidance's dialect of Lark.

use serde_json::{Map, Value, json};

use super::form::{Body, Channels, Form, Keys, Parameters, Piece};
use super::thinking::Thinking;
use crate::api::chat::tools::parameters;
use crate::api::chat::value::{Kinds, quoted};
use crate::model::{Added, Vocab};

/// Any text.
const ANY_TEXT: &str = "/(.|\\n)*/";

/// What a text must be.
pub struct Forced<'a> {
    pub form: &'static Form,
    /// The functions that may be called.
    pub tools: &'a [Value],
    /// Whether there may be several calls.
    pub several: bool,
    /// Whether reasoning may come before.
    pub reasons: bool,
    /// How the model marks it.
    pub thinking: Option<&'static Thinking>,
    /// Whether the prompt began reasoning.
    pub inside: bool,
    /// What the text may be instead of a call: a Lark expression.
    pub or: Option<&'a str>,
}

/// The grammar, for a model with this vocabulary.
pub fn constraint(forced: &Forced, vocab: &Vocab) -> String {
    let mut lark = Lark {
        vocab,
        rules: String::new(),
        count: 0,
    };
    let thinking = lark.thinking(forced);
    let calls = (!forced.tools.is_empty()).then(|| lark.calls(forced));
    let or = forced.or.map(|or| lark.answer(forced, or));
    let answers: Vec<String> = calls
        .iter()
        .chain(&or)
        .map(|answer| lark.rule(answer))
        .collect();
    let answer = lark.rule(&answers.join(" | "));
    format!("start: {thinking} {answer}\n{}", lark.rules)
}

/// A grammar that is being written.
struct Lark<'a> {
    vocab: &'a Vocab,
    rules: String,
    count: usize,
}

impl Lark<'_> {
    /// Adds a rule and returns its name.
    fn rule(&mut self, expression: &str) -> String {
        self.rule_with("", expression)
    }

    fn rule_with(&mut self, attributes: &str, expression: &str) -> String {
        let name = format!("r{}", self.count);
        self.count += 1;
        self.rules
            .push_str(&format!("{name}{attributes}: {expression}\n"));
        name
    }

    /// A text, with the control tokens that it names. No text contains those.
    fn text(&self, text: &str) -> String {
        let mut expression = Vec::new();
        let mut rest = text;
        for token in self.vocab.tokenize(text, Added::Nothing, true) {
            let name = std::str::from_utf8(self.vocab.literal(token)).unwrap_or_default();
            if !self.vocab.bytes(token).is_empty() || name.is_empty() {
                continue;
            }
            if let Some((before, after)) = rest.split_once(name) {
                if !before.is_empty() {
                    expression.push(quoted(before));
                }
                // A token that ends the text may follow it anyway.
                if !self.vocab.is_end(token) {
                    expression.push(format!("<[{}]>", token.0));
                }
                rest = after;
            }
        }
        if !rest.is_empty() {
            expression.push(quoted(rest));
        }
        expression.join(" ")
    }

    /// Text that matches an expression, up to and with `end`.
    fn until(&mut self, expression: &str, end: &str) -> String {
        let marker = self.text(end);
        let attributes = if marker.starts_with('"') && !marker.contains("<[") {
            format!("[suffix={marker}]")
        } else {
            String::new()
        };
        if attributes.is_empty() {
            let text = self.rule(expression);
            format!("{text} {marker}")
        } else {
            self.rule_with(&attributes, expression)
        }
    }

    fn json(&mut self, schema: &Value) -> String {
        self.rule(&format!("%json {schema}"))
    }

    fn thinking(&mut self, forced: &Forced) -> String {
        if !forced.reasons {
            return String::new();
        }
        if let Body::Channels(Channels {
            reasoning: Some(mark),
            ..
        }) = &forced.form.body
        {
            let open = self.text(&format!("<|channel|>{mark}<|message|>"));
            let thought = self.until(ANY_TEXT, "<|end|>");
            let next = self.text("<|start|>assistant");
            return format!("({open} {thought} {next})?");
        }
        let Some(thinking) = forced.thinking else {
            return String::new();
        };
        let thought = self.until(ANY_TEXT, thinking.close);
        if forced.inside {
            format!("{thought} /\\n{{0,2}}/")
        } else {
            let open = self.text(thinking.open);
            format!("({open} {thought} /\\n{{0,2}}/)?")
        }
    }

    /// An answer that is no call, within its markers.
    fn answer(&mut self, forced: &Forced, or: &str) -> String {
        let or = self.rule(or);
        if let Body::Channels(form) = &forced.form.body {
            let header = match form.reasoning {
                Some(_) => "<|channel|>final<|message|>",
                None => "all\n",
            };
            return format!("{} {or}", self.text(header));
        }
        match forced.thinking.map(|thinking| thinking.drops) {
            Some([open, close, ..]) => {
                format!("({})? {or} ({})?", self.text(open), self.text(close))
            }
            _ => or,
        }
    }

    fn calls(&mut self, forced: &Forced) -> String {
        let form = forced.form;
        let calls: Vec<String> = (forced.tools.iter())
            .map(|tool| {
                let call = self.call(form, &tool["function"]);
                self.rule(&call)
            })
            .collect();
        let call = self.rule(&calls.join(" | "));
        let open = self.pieces(form.list.0);
        let close = self.pieces(form.list.1);
        let more = match form.between.filter(|_| forced.several) {
            None => String::new(),
            Some(between) => format!("({} {call})*", self.pieces(between)),
        };
        format!("{open} {call} {more} {close}")
    }

    /// Pieces that are the same for all functions.
    fn pieces(&self, pieces: &[Piece]) -> String {
        let texts = pieces.iter().map(|piece| match piece {
            Piece::Text(text) => self.text(text),
            Piece::Matching(expression) => format!("/{expression}/"),
            Piece::Name | Piece::Arguments => String::new(),
        });
        texts.collect::<Vec<_>>().join(" ")
    }

    fn call(&mut self, form: &Form, function: &Value) -> String {
        let name = function["name"].as_str().unwrap_or_default();
        let mut written = Vec::new();
        for piece in form.written {
            written.push(match piece {
                Piece::Text(text) => self.text(text),
                Piece::Name => quoted(name),
                Piece::Matching(expression) => format!("/{expression}/"),
                Piece::Arguments => {
                    let schema = parameters(function);
                    match &form.body {
                        Body::Object(keys) => self.json(&object(keys, name, schema)),
                        Body::Named(_) | Body::Channels(_) => self.json(&schema),
                        Body::Parameters(form) => self.parameters(form, name, &schema),
                        Body::Python => self.python(name, &schema),
                        Body::Gemma => self.gemma(name, &schema),
                    }
                }
            });
        }
        written.join(" ")
    }

    fn parameters(&mut self, form: &Parameters, name: &str, schema: &Value) -> String {
        let after = if form.name.0.is_empty() {
            ""
        } else {
            form.name.1
        };
        let mut written = vec![self.text(&format!("{}{name}{after}{}", form.name.0, form.line))];
        for property in properties(schema) {
            let value = value_schema(property.schema, schema);
            let kinds = Kinds::of_argument(schema, property.name);
            let (string, other) = form.attributes;
            let attribute = if kinds.string { string } else { other };
            let gap = if form.value.0.is_empty() {
                ""
            } else {
                form.line
            };
            let open = self.text(form.key.0);
            let after = format!("{attribute}{}{gap}{}{}", form.key.1, form.value.0, form.pad);
            let key = format!("{open} {} {}", quoted(property.name), self.text(&after));
            let close = format!("{}{}", form.pad, form.value.1);
            let value = self.value(kinds, &value, &close);
            let line = self.text(form.line);
            let optional = if property.required { "" } else { "?" };
            written.push(format!("({key} {value} {line}){optional}"));
        }
        written.push(self.text(form.end));
        written.join(" ")
    }

    /// A value as text, up to and with `close`.
    fn value(&mut self, kinds: Kinds, schema: &Value, close: &str) -> String {
        if !kinds.string {
            let value = self.json(schema);
            return format!("{value} {}", self.text(close));
        }
        if let Some(texts) = listed(schema) {
            let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
            return format!("({}) {}", texts.join(" | "), self.text(close));
        }
        self.until(&expression(schema), close)
    }

    fn python(&mut self, name: &str, schema: &Value) -> String {
        let mut arguments = Vec::new();
        for property in properties(schema) {
            let value = value_schema(property.schema, schema);
            let value = if value["type"] == "boolean" {
                "(\"True\" | \"False\")".to_owned()
            } else {
                self.json(&value)
            };
            let key = quoted(&format!("{}=", property.name));
            arguments.push((format!("{key} {value}"), property.required));
        }
        let open = quoted(&format!("{name}("));
        format!("{open} {} \")\"", separated(&arguments, "\", \""))
    }

    fn gemma(&mut self, name: &str, schema: &Value) -> String {
        const QUOTE: &str = "<|\"|>";
        let mut arguments = Vec::new();
        for property in properties(schema) {
            let value = value_schema(property.schema, schema);
            let kinds = Kinds::of_argument(schema, property.name);
            let value = if kinds.string {
                format!("{} {}", self.text(QUOTE), self.value(kinds, &value, QUOTE))
            } else {
                self.json(&value)
            };
            let key = quoted(&format!("{}:", property.name));
            arguments.push((format!("{key} {value}"), property.required));
        }
        let open = quoted(&format!("call:{name}{{"));
        format!("{open} {} \"}}\"", separated(&arguments, "\",\""))
    }
}

/// The schema of a call's object.
fn object(keys: &Keys, name: &str, mut arguments: Value) -> Value {
    let (key, named) = match keys {
        Keys::Two(name, arguments) => (*arguments, Some(*name)),
        Keys::Name => (name, None),
    };
    // The schema's own references point to where it is now.
    let escaped = key.replace('~', "~0").replace('/', "~1");
    move_references(&mut arguments, &format!("/properties/{escaped}"));
    let mut properties = Map::new();
    let mut required = Vec::new();
    if let Some(named) = named {
        properties.insert(named.to_owned(), json!({"const": name}));
        required.push(named);
    }
    properties.insert(key.to_owned(), arguments);
    required.push(key);
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// Prefixes all references within a schema with `way`.
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

/// An argument of a function.
struct Property<'a> {
    name: &'a str,
    schema: &'a Value,
    required: bool,
}

fn properties(schema: &Value) -> Vec<Property<'_>> {
    let required = schema["required"].as_array();
    let is_required = |name: &str| required.is_some_and(|all| all.iter().any(|one| one == name));
    let all = schema["properties"].as_object();
    let properties = all.into_iter().flatten().map(|(name, schema)| Property {
        name,
        schema,
        required: is_required(name),
    });
    properties.collect()
}

/// The schema of an argument by itself, with the definitions that it may refer to.
fn value_schema<'a>(mut schema: &'a Value, root: &'a Value) -> Value {
    // References may refer to each other in a circle.
    const MOST_REFERENCES: usize = 16;
    for _ in 0..MOST_REFERENCES {
        let target = schema["$ref"].as_str().and_then(|it| it.strip_prefix('#'));
        let Some(target) = target.and_then(|target| root.pointer(target)) else {
            break;
        };
        schema = target;
    }
    let mut schema = schema.clone();
    if let Value::Object(fields) = &mut schema {
        for name in ["$defs", "definitions"] {
            if let Some(definitions) = root.get(name) {
                fields.entry(name).or_insert_with(|| definitions.clone());
            }
        }
    }
    schema
}

/// The strings that a schema lists, if it lists any.
fn listed(schema: &Value) -> Option<Vec<&str>> {
    let values = schema["enum"].as_array();
    let values = values.into_iter().flatten().chain(schema.get("const"));
    let texts: Vec<&str> = values.filter_map(Value::as_str).collect();
    (!texts.is_empty()).then_some(texts)
}

/// The strings of a schema, as an expression.
fn expression(schema: &Value) -> String {
    if let Some(pattern) = schema["pattern"].as_str() {
        let inner = pattern.strip_prefix('^');
        let before = if inner.is_some() { "" } else { "(.|\\n)*" };
        let inner = inner.unwrap_or(pattern);
        let whole = inner
            .strip_suffix('$')
            .filter(|inner| !inner.ends_with('\\'));
        let after = if whole.is_some() { "" } else { "(.|\\n)*" };
        let inner = whole.unwrap_or(inner).replace('/', "\\/");
        return format!("/{before}({inner}){after}/");
    }
    let bound = |name: &str| schema[name].as_u64();
    match (bound("minLength"), bound("maxLength")) {
        (None, None) => ANY_TEXT.to_owned(),
        (least, most) => format!(
            "/(.|\\n){{{},{}}}/",
            least.unwrap_or(0),
            most.map_or_else(String::new, |most| most.to_string())
        ),
    }
}

/// Arguments with a separator between them, of which some may be left out.
fn separated(arguments: &[(String, bool)], separator: &str) -> String {
    let (required, optional): (Vec<_>, Vec<_>) = arguments.iter().partition(|it| it.1);
    let required: Vec<&str> = required.iter().map(|it| it.0.as_str()).collect();
    let rest = |optional: &[&(String, bool)]| {
        let each = optional.iter().map(|it| format!("({separator} {})?", it.0));
        each.collect::<Vec<_>>().join(" ")
    };
    if !required.is_empty() {
        let required = required.join(&format!(" {separator} "));
        return format!("{required} {}", rest(&optional));
    }
    if optional.is_empty() {
        return String::new();
    }
    // Whichever comes first has no separator before it.
    let first = optional
        .iter()
        .enumerate()
        .map(|(place, it)| format!("{} {}", it.0, rest(&optional[place + 1..])));
    format!("({})?", first.collect::<Vec<_>>().join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_go_where_the_schema_goes() {
        let parameters = json!({
            "$defs": {"city": {"type": "string"}},
            "properties": {"a": {"$ref": "#/$defs/city"}, "$ref": {"type": "string"}, "b": {"items": [{"$ref": "#"}]}},
        });
        let schema = object(&Keys::Two("name", "arguments"), "f", parameters.clone());
        let moved = &schema["properties"]["arguments"]["properties"];
        assert_eq!(moved["a"]["$ref"], "#/properties/arguments/$defs/city");
        assert_eq!(moved["b"]["items"][0]["$ref"], "#/properties/arguments");
        assert_eq!(moved["$ref"]["type"], "string");
        let schema = object(&Keys::Name, "f", parameters);
        assert_eq!(
            schema["properties"]["f"]["properties"]["a"]["$ref"],
            "#/properties/f/$defs/city"
        );
    }

    #[test]
    fn arguments_may_be_left_out_with_their_separators() {
        let check = |arguments: &[(&str, bool)], expect: &str| {
            let arguments: Vec<_> = arguments
                .iter()
                .map(|&(text, required)| (text.to_owned(), required))
                .collect();
            assert_eq!(separated(&arguments, "S"), expect);
        };
        check(&[], "");
        check(&[("a", true), ("b", false), ("c", true)], "a S c (S b)?");
        check(&[("a", false), ("b", false)], "(a (S b)? | b )?");
    }
}
