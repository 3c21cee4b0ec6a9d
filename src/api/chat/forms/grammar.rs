//! Grammars that force a call in a model's own form, in llguidance's dialect of Lark.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::form::{Body, Form, Keys, Parameters, Piece};
use super::thinking::Thinking;
use crate::api::chat::arguments::{Kinds, quoted};
use crate::api::chat::tools::parameters;
use crate::model::{Added, Vocab};
use crate::sampling::pattern_in_lark;

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
    /// How many bytes the grammar of the calls may have.
    pub most: usize,
}

/// The grammar, for a model with this vocabulary. `None`: that of the calls would be longer than it may be.
pub fn constraint(forced: &Forced, vocab: &Vocab) -> Option<String> {
    let mut lark = Lark {
        vocab,
        rules: String::new(),
        count: 0,
        most: usize::MAX,
        is_full: false,
    };
    let thinking = lark.thinking(forced);
    let mut answers = Vec::new();
    if let Some(or) = forced.or {
        let answer = lark.answer(forced, or);
        answers.push(lark.rule(&answer));
    }
    if !forced.tools.is_empty() {
        lark.most = lark.rules.len().saturating_add(forced.most);
        let calls = lark.calls(forced);
        answers.push(lark.rule(&calls));
        if lark.is_full {
            return None;
        }
        lark.most = usize::MAX;
    }
    let answer = lark.rule(&answers.join(" | "));
    Some(format!("start: {thinking} {answer}\n{}", lark.rules))
}

/// A grammar that is being written.
struct Lark<'a> {
    vocab: &'a Vocab,
    rules: String,
    count: usize,
    /// How many bytes the rules may have.
    most: usize,
    /// Whether there would be more: no other rule is added, and what is written does not count.
    is_full: bool,
}

impl Lark<'_> {
    /// Adds a rule and returns its name.
    fn rule(&mut self, expression: &str) -> String {
        self.rule_with("", expression)
    }

    fn rule_with(&mut self, attributes: &str, expression: &str) -> String {
        self.named("r", attributes, expression)
    }

    /// Adds a rule, or a terminal, whose name begins with a capital letter.
    fn named(&mut self, initial: &str, attributes: &str, expression: &str) -> String {
        let name = format!("{initial}{}", self.count);
        self.count += 1;
        let length = self.rules.len() + attributes.len() + expression.len();
        self.is_full |= length > self.most;
        if !self.is_full {
            self.rules
                .push_str(&format!("{name}{attributes}: {expression}\n"));
        }
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
        if let Body::Channels(form) = &forced.form.body
            && let Some([open, close, next]) = form.thought
        {
            let open = self.text(open);
            let thought = self.until(ANY_TEXT, close);
            let next = self.text(next);
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
            return format!("{} {or}", self.text(form.answer));
        }
        let markers = forced.thinking.and_then(|thinking| thinking.answer.first());
        match markers {
            Some((open, close)) if !open.is_empty() => {
                format!("({})? {or} ({})?", self.text(open), self.text(close))
            }
            _ => or,
        }
    }

    fn calls(&mut self, forced: &Forced) -> String {
        let form = forced.form;
        let mut calls = Vec::new();
        for tool in forced.tools {
            if self.is_full {
                break;
            }
            let call = self.call(form, &tool["function"]);
            calls.push(self.rule(&call));
        }
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
            if self.is_full {
                break;
            }
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
            let value = self.value(kinds, property.schema, schema, &close);
            let line = self.text(form.line);
            let optional = if property.required { "" } else { "?" };
            written.push(format!("({key} {value} {line}){optional}"));
        }
        written.push(self.text(form.end));
        written.join(" ")
    }

    /// A value as text, up to and with `close`.
    fn value(&mut self, kinds: Kinds, schema: &Value, root: &Value, close: &str) -> String {
        let schema = resolved(schema, root);
        if !kinds.string {
            let value = self.json(&with_definitions(schema, root));
            return format!("{value} {}", self.text(close));
        }
        if let Some(texts) = listed(schema) {
            let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
            return format!("({}) {}", texts.join(" | "), self.text(close));
        }
        match self.string(schema) {
            Some(expression) => self.until(&expression, close),
            // It is refused, with what is wrong about the schema.
            None => self.json(schema),
        }
    }

    fn python(&mut self, name: &str, schema: &Value) -> String {
        let mut arguments = Vec::new();
        for property in properties(schema) {
            if self.is_full {
                break;
            }
            let value = resolved(property.schema, schema);
            let value = if value["type"] == "boolean" {
                "(\"True\" | \"False\")".to_owned()
            } else {
                self.json(&with_definitions(value, schema))
            };
            let key = quoted(&format!("{}=", property.name));
            arguments.push((format!("{key} {value}"), property.required));
        }
        let open = quoted(&format!("{name}("));
        let arguments = self.separated(&arguments, "\", \"");
        format!("{open} {arguments} \")\"")
    }

    fn gemma(&mut self, name: &str, schema: &Value) -> String {
        const QUOTE: &str = "<|\"|>";
        let mut arguments = Vec::new();
        for property in properties(schema) {
            if self.is_full {
                break;
            }
            let kinds = Kinds::of_argument(schema, property.name);
            let value = if kinds.string {
                let value = self.value(kinds, property.schema, schema, QUOTE);
                format!("{} {value}", self.text(QUOTE))
            } else {
                self.json(&with_definitions(resolved(property.schema, schema), schema))
            };
            let key = quoted(&format!("{}:", property.name));
            arguments.push((format!("{key} {value}"), property.required));
        }
        let open = quoted(&format!("call:{name}{{"));
        let arguments = self.separated(&arguments, "\",\"");
        format!("{open} {arguments} \"}}\"")
    }

    /// The strings of a schema, as an expression. `None`: its pattern is not supported.
    fn string(&mut self, schema: &Value) -> Option<String> {
        if let Some(pattern) = schema["pattern"].as_str() {
            let terms = pattern_in_lark(pattern)?;
            return Some(match &terms[..] {
                [term] => term.clone(),
                // Only terminals may combine terms.
                terms => self.named("T", "", &terms.join(" & ")),
            });
        }
        let bound = |name: &str| schema[name].as_u64();
        Some(match (bound("minLength"), bound("maxLength")) {
            (None, None) => ANY_TEXT.to_owned(),
            (least, most) => format!(
                "/(.|\\n){{{},{}}}/",
                least.unwrap_or(0),
                most.map_or_else(String::new, |most| most.to_string())
            ),
        })
    }

    /// Arguments with a separator between them, of which some may be left out. Their number squared is its length.
    fn separated(&mut self, arguments: &[(String, bool)], separator: &str) -> String {
        let optional = arguments.iter().filter(|it| !it.1).enumerate();
        let lengths = optional.map(|(place, it)| (place + 1) * (it.0.len() + separator.len()));
        self.is_full |= self.rules.len() + lengths.sum::<usize>() > self.most;
        if self.is_full {
            return String::new();
        }
        separated(arguments, separator)
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
    let required = schema["required"].as_array().into_iter().flatten();
    let required: BTreeSet<&str> = required.filter_map(Value::as_str).collect();
    let is_required = |name: &str| required.contains(name);
    let all = schema["properties"].as_object();
    let properties = all.into_iter().flatten().map(|(name, schema)| Property {
        name,
        schema,
        required: is_required(name),
    });
    properties.collect()
}

/// The schema of an argument itself.
fn resolved<'a>(mut schema: &'a Value, root: &'a Value) -> &'a Value {
    // References may refer to each other in a circle.
    const MOST_REFERENCES: usize = 16;
    for _ in 0..MOST_REFERENCES {
        let target = schema["$ref"].as_str().and_then(|it| it.strip_prefix('#'));
        let Some(target) = target.and_then(|target| root.pointer(target)) else {
            break;
        };
        schema = target;
    }
    schema
}

/// The schema with the definitions that it refers to.
fn with_definitions(schema: &Value, root: &Value) -> Value {
    let mut schema = schema.clone();
    if !has_references(&schema) {
        return schema;
    }
    if let Value::Object(fields) = &mut schema {
        for name in ["$defs", "definitions"] {
            if let Some(definitions) = root.get(name) {
                fields.entry(name).or_insert_with(|| definitions.clone());
            }
        }
    }
    schema
}

fn has_references(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => fields.contains_key("$ref") || fields.values().any(has_references),
        Value::Array(items) => items.iter().any(has_references),
        _ => false,
    }
}

/// The strings that a schema lists, if it lists any.
fn listed(schema: &Value) -> Option<Vec<&str>> {
    let values = schema["enum"].as_array();
    let values = values.into_iter().flatten().chain(schema.get("const"));
    let texts: Vec<&str> = values.filter_map(Value::as_str).collect();
    (!texts.is_empty()).then_some(texts)
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
    use std::path::Path;

    use super::super::table::FORMS;
    use super::*;
    use crate::config::Config;
    use crate::model::Model;
    use crate::sampling::Constraint;

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

    fn forced<'a>(form: &str, tools: &'a [Value], most: usize) -> Forced<'a> {
        let mut forms = FORMS.iter();
        let form = forms.find(|it| it.name == form).expect("a form");
        Forced {
            form,
            tools,
            several: true,
            reasons: false,
            thinking: None,
            inside: false,
            or: None,
            most,
        }
    }

    fn model() -> Model {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/llama2-vocab-tiny.gguf");
        Model::load(&path, &Config::default().model).expect("the model loads")
    }

    #[test]
    fn grammars_that_are_too_long_are_not_written() {
        let model = model();
        let length = |form: &str, properties: &Value, defs: &Value, most| {
            let parameters = json!({"type": "object", "properties": properties, "$defs": defs});
            let tools = [json!({"function": {"name": "f", "parameters": parameters}})];
            let grammar = constraint(&forced(form, &tools, most), model.vocab());
            grammar.map(|grammar| grammar.len())
        };
        let many = |count: usize, schema: Value| -> Value {
            let names = (0..count).map(|place| (format!("p{place}"), schema.clone()));
            Value::Object(names.collect())
        };
        let big = json!({"a": {"enum": many(2_000, json!(1))}});
        for form in ["Hermes", "Qwen3-Coder", "LFM2", "Gemma 4", "Mistral"] {
            let few = many(3, json!({"type": "integer"}));
            let least = length(form, &few, &json!({}), usize::MAX).expect("a grammar");
            assert_eq!(length(form, &few, &json!({}), least), Some(least), "{form}");
            assert_eq!(length(form, &few, &json!({}), least / 2), None, "{form}");
            // Each has all definitions, or stands beside all others.
            let refers = json!({"items": {"$ref": "#/$defs/a"}, "type": "array"});
            let all = many(2_000, refers);
            assert_eq!(length(form, &all, &big, 65_536), None, "{form}");
            let all = many(50_000, json!({"type": "boolean"}));
            assert_eq!(length(form, &all, &big, 65_536), None, "{form}");
        }
        // Definitions are written where they are referred to.
        let few = many(3, json!({"type": "integer"}));
        assert!(length("Qwen3-Coder", &few, &big, 2_000).is_some());
    }

    #[test]
    fn patterns_hold_in_forms_that_are_no_json() {
        let model = model();
        for form in ["Qwen3-Coder", "Gemma 4"] {
            for (pattern, expect) in [
                (r"^https?:\/\/x$", true),
                ("^a/b$", true),
                ("^(?=.*[0-9])(?=.*[a-z])[a-z0-9]{2,4}$", true),
                ("^(?!a)b", false),
                (r"^a\", true),
                ("^a)(b$", false),
            ] {
                let parameters =
                    json!({"properties": {"p": {"type": "string", "pattern": pattern}}});
                let tools = [json!({"function": {"name": "f", "parameters": parameters}})];
                let grammar = constraint(&forced(form, &tools, 65_536), model.vocab());
                let lark = grammar.expect("a grammar");
                let checked = Constraint::lark_of_json(&model, &lark);
                assert_eq!(checked.is_ok(), expect, "{form} {pattern}\n{lark}");
            }
        }
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
