//! Values that models write as text become JSON, by the schema of the argument.

use std::cell::Cell;

use serde_json::Value;

/// The kinds of values that a schema allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds {
    pub string: bool,
    number: bool,
    boolean: bool,
    null: bool,
    object: bool,
    array: bool,
}

/// Schemas that are looked at for one argument: references may refer to each other in a circle.
const MOST_STEPS: usize = 1000;

impl Kinds {
    pub const ANY: Self = Self {
        string: true,
        number: true,
        boolean: true,
        null: true,
        object: true,
        array: true,
    };
    pub const STRING: Self = Self {
        string: true,
        number: false,
        boolean: false,
        null: false,
        object: false,
        array: false,
    };
    pub const NO_STRING: Self = Self {
        string: false,
        ..Self::ANY
    };

    /// Those of an argument. An unknown one may be anything.
    pub fn of_argument(parameters: &Value, key: &str) -> Self {
        match parameters.get("properties").and_then(|all| all.get(key)) {
            Some(schema) => Self::of(schema, parameters, &Cell::new(MOST_STEPS)),
            None => Self::ANY,
        }
    }

    pub fn is_string_alone(self) -> bool {
        self == Self::STRING
    }

    fn of(schema: &Value, root: &Value, steps: &Cell<usize>) -> Self {
        let Value::Object(fields) = schema else {
            return Self::ANY;
        };
        let Some(left) = steps.get().checked_sub(1) else {
            return Self::ANY;
        };
        steps.set(left);
        let inner = |schema: &Value| Self::of(schema, root, steps);
        if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
            let target = target
                .strip_prefix('#')
                .and_then(|target| root.pointer(target));
            return target.map_or(Self::ANY, inner);
        }
        let mut kinds = Self::default();
        match fields.get("type") {
            Some(Value::String(name)) => return kinds.with_type(name),
            Some(Value::Array(names)) => {
                let names = names.iter().filter_map(Value::as_str);
                return names.fold(kinds, Self::with_type);
            }
            _ => {}
        }
        let listed = fields.get("enum").and_then(Value::as_array);
        for value in listed.into_iter().flatten().chain(fields.get("const")) {
            kinds = kinds.with(value);
        }
        if kinds != Self::default() {
            return kinds;
        }
        for name in ["anyOf", "oneOf"] {
            let schemas = fields.get(name).and_then(Value::as_array);
            for schema in schemas.into_iter().flatten() {
                kinds = kinds.or(inner(schema));
            }
        }
        if kinds != Self::default() {
            return kinds;
        }
        let all = fields.get("allOf").and_then(Value::as_array);
        let mut all = all.into_iter().flatten().map(inner);
        if let Some(narrow) = all.find(|kinds| *kinds != Self::ANY) {
            return narrow;
        }
        let has = |names: &[&str]| names.iter().any(|name| fields.contains_key(*name));
        if has(&["properties", "additionalProperties", "required"]) {
            kinds.object = true;
        } else if has(&["items", "prefixItems"]) {
            kinds.array = true;
        } else if has(&["pattern", "minLength", "maxLength", "format"]) {
            kinds.string = true;
        } else {
            return Self::ANY;
        }
        kinds
    }

    fn with_type(mut self, name: &str) -> Self {
        match name {
            "string" => self.string = true,
            "number" | "integer" => self.number = true,
            "boolean" => self.boolean = true,
            "null" => self.null = true,
            "object" => self.object = true,
            "array" => self.array = true,
            _ => return Self::ANY,
        }
        self
    }

    fn with(self, value: &Value) -> Self {
        self.with_type(match value {
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "boolean",
            Value::Null => "null",
            Value::Object(_) => "object",
            Value::Array(_) => "array",
        })
    }

    fn or(self, other: Self) -> Self {
        Self {
            string: self.string || other.string,
            number: self.number || other.number,
            boolean: self.boolean || other.boolean,
            null: self.null || other.null,
            object: self.object || other.object,
            array: self.array || other.array,
        }
    }

    fn allow(self, value: &Value) -> bool {
        self.or(Self::default().with(value)) == self
    }

    /// The text as JSON: a value if it is one that is allowed, else a string.
    pub fn to_json(self, text: &str) -> String {
        let bare = text.trim();
        if !self.is_string_alone() {
            // A string within quotes is what it says only where nothing else can be.
            let fits = |value: &Value| {
                if self.string {
                    !value.is_string() && self.allow(value)
                } else {
                    true
                }
            };
            if let Ok(value) = serde_json::from_str::<Value>(bare)
                && fits(&value)
            {
                return bare.to_owned();
            }
            if let Some(json) = python(bare)
                && let Ok(value) = serde_json::from_str::<Value>(&json)
                && fits(&value)
            {
                return json;
            }
        }
        quoted(text)
    }
}

/// A text as a JSON string.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A text as the inside of a JSON string.
pub fn escaped(text: &str) -> String {
    let quoted = quoted(text);
    quoted[1..quoted.len() - 1].to_owned()
}

/// The JSON of a Python literal.
pub fn python(text: &str) -> Option<String> {
    let mut reader = Literal {
        text,
        json: String::new(),
    };
    reader.value(0)?;
    reader.text.trim().is_empty().then_some(reader.json)
}

struct Literal<'a> {
    /// What has not been read yet.
    text: &'a str,
    json: String,
}

impl Literal<'_> {
    fn eat(&mut self, start: &str) -> bool {
        self.text = self.text.trim_start();
        match self.text.strip_prefix(start) {
            Some(rest) => {
                self.text = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        const MOST_NESTED: usize = 64;
        if depth > MOST_NESTED {
            return None;
        }
        if self.eat("[") {
            return self.items("]", depth);
        }
        if self.eat("(") {
            return self.items(")", depth);
        }
        if self.eat("{") {
            self.json.push('{');
            let mut first = true;
            while !self.eat("}") {
                if !first {
                    self.json.push_str(", ");
                }
                first = false;
                self.string()?;
                if !self.eat(":") {
                    return None;
                }
                self.json.push_str(": ");
                self.value(depth + 1)?;
                if !self.eat(",") && !self.text.trim_start().starts_with('}') {
                    return None;
                }
            }
            self.json.push('}');
            return Some(());
        }
        self.text = self.text.trim_start();
        if self.text.starts_with(['"', '\'']) {
            return self.string();
        }
        let end = self
            .text
            .find(|c: char| c.is_whitespace() || ",)]}".contains(c))
            .unwrap_or(self.text.len());
        let (word, rest) = self.text.split_at(end);
        let json = match word {
            "True" | "true" => "true",
            "False" | "false" => "false",
            "None" | "null" => "null",
            number if serde_json::from_str::<serde_json::Number>(number).is_ok() => number,
            _ => return None,
        };
        self.json.push_str(json);
        self.text = rest;
        Some(())
    }

    fn items(&mut self, close: &str, depth: usize) -> Option<()> {
        self.json.push('[');
        let mut first = true;
        while !self.eat(close) {
            if !first {
                self.json.push_str(", ");
            }
            first = false;
            self.value(depth + 1)?;
            if !self.eat(",") && !self.text.trim_start().starts_with(close) {
                return None;
            }
        }
        self.json.push(']');
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        self.text = self.text.trim_start();
        let quote = self.text.chars().next().filter(|c| "'\"".contains(*c))?;
        let mut read = String::new();
        let mut characters = self.text.char_indices().skip(1);
        while let Some((position, character)) = characters.next() {
            if character == quote {
                self.text = &self.text[position + 1..];
                self.json.push_str(&quoted(&read));
                return Some(());
            }
            if character != '\\' {
                read.push(character);
                continue;
            }
            let (_, escape) = characters.next()?;
            let mut code = |digits: usize| {
                let code: String = (0..digits)
                    .filter_map(|_| characters.next())
                    .map(|(_, digit)| digit)
                    .collect();
                u32::from_str_radix(&code, 16).ok()
            };
            match escape {
                'n' => read.push('\n'),
                't' => read.push('\t'),
                'r' => read.push('\r'),
                'b' => read.push('\u{8}'),
                'f' => read.push('\u{c}'),
                'x' => read.push(char::from_u32(code(2)?)?),
                'u' => {
                    let mut unit = code(4)?;
                    // Half of a character, as JSON writes those beyond 16 bits.
                    if (0xd800..0xdc00).contains(&unit) {
                        let (_, '\\') = characters.next()? else {
                            return None;
                        };
                        characters.next()?;
                        let mut code = String::new();
                        code.extend((0..4).filter_map(|_| characters.next()).map(|it| it.1));
                        let low = u32::from_str_radix(&code, 16).ok()?;
                        unit = 0x10000 + ((unit - 0xd800) << 10) + low.checked_sub(0xdc00)?;
                    }
                    read.push(char::from_u32(unit)?);
                }
                '\n' => {}
                '\\' | '\'' | '"' | '/' => read.push(escape),
                // Python keeps the backslash of an escape that it does not know.
                other => read.extend(['\\', other]),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_that_refer_to_themselves_end() {
        let itself = json!({"$ref": "#/properties/a"});
        let parameters = json!({"properties": {"a": {"anyOf": vec![itself; 12]}}});
        assert_eq!(Kinds::of_argument(&parameters, "a"), Kinds::ANY);
    }

    #[test]
    fn texts_become_the_values_that_the_schema_allows() {
        let check = |schema: Value, text: &str, expect: &str| {
            let parameters =
                json!({"properties": {"a": schema}, "$defs": {"n": {"type": "integer"}}});
            let kinds = Kinds::of_argument(&parameters, "a");
            assert_eq!(kinds.to_json(text), expect, "{parameters}: {text}");
        };
        check(json!({"type": "string"}), "12", "\"12\"");
        check(json!({"type": "string"}), "a\n\"b\"", "\"a\\n\\\"b\\\"\"");
        check(json!({"type": "integer"}), " 12\n", "12");
        check(json!({"$ref": "#/$defs/n"}), "12", "12");
        check(json!({"type": "boolean"}), "True", "true");
        check(json!({"type": "number"}), "many", "\"many\"");
        check(json!({"type": "object"}), "{'a': None}", "{\"a\": null}");
        check(json!({"type": ["string", "null"]}), "null", "null");
        check(json!({"type": ["string", "null"]}), "12", "\"12\"");
        check(json!({"enum": ["C", "F"]}), "C", "\"C\"");
        check(json!({"enum": [1, 2]}), "2", "2");
        check(
            json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}),
            "2 dollars",
            "\"2 dollars\"",
        );
        check(
            json!({"anyOf": [{"type": "object"}, {"type": "string"}]}),
            "{\"a\": 1}",
            "{\"a\": 1}",
        );
        check(json!({"items": {}}), "[1, 2]", "[1, 2]");
        check(json!({}), "1.50", "1.50");
        check(json!({}), "\"x\"", "\"\\\"x\\\"\"");
        assert_eq!(Kinds::of_argument(&json!(null), "a"), Kinds::ANY);
        // A circle.
        check(json!({"$ref": "#/properties/a"}), "x", "\"x\"");
    }

    #[test]
    fn python_literals_become_json() {
        for (text, expect) in [
            ("'it\\'s'", Some("\"it's\"")),
            ("\"a\\nb\\x41\\u00e9\"", Some("\"a\\nbAé\"")),
            ("\"\\ud83d\\ude80\"", Some("\"🚀\"")),
            (
                "[1, -2.5e3, True, None, ('x',)]",
                Some("[1, -2.5e3, true, null, [\"x\"]]"),
            ),
            ("{'a': {'b': [],},}", Some("{\"a\": {\"b\": []}}")),
            (
                "{\"a\": true, \"b\": null}",
                Some("{\"a\": true, \"b\": null}"),
            ),
            ("f(x)", None),
            ("'open", None),
            ("[1 2]", None),
            ("{1: 2}", None),
            ("01", None),
            ("1 2", None),
        ] {
            assert_eq!(python(text).as_deref(), expect, "{text}");
        }
        assert_eq!(python(&"[".repeat(100_000)), None);
    }
}
