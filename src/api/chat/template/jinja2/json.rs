//! The filter `tojson`: `json.dumps` with the options that transformers gives it.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, State, Value};

use super::args::{bind_both, bytes_left, string, truth, wrong};
use super::text::{Bounded, float, is_dict, is_float};

pub fn to_json(
    state: &State,
    value: &Value,
    args: Rest<Value>,
    by_name: Kwargs,
) -> Result<Value, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ensure_ascii, indent, separators, sort_keys] = bind_both(&args, &by_name, names)?;
    let indent = match &indent {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) => Some(match (indent.as_str(), i64::try_from(indent.clone())) {
            (Some(text), _) => text.to_owned(),
            (None, Ok(spaces)) => " ".repeat(usize::try_from(spaces).unwrap_or(0).min(MOST_SPACES)),
            (None, Err(_)) => return Err(wrong("`indent` must be a number or a string")),
        }),
    };
    let [item, key] = match separators {
        Some(separators) if !separators.is_none() => {
            let parts: Vec<Value> = separators.try_iter()?.collect();
            let [item, key] = <[Value; 2]>::try_from(parts)
                .map_err(|_| wrong("`separators` must have two strings"))?;
            [Some(item), Some(key)]
        }
        _ => [None, None],
    };
    let default = if indent.is_some() { "," } else { ", " };
    let format = Format {
        indent,
        item: string(&item, "separators")?.unwrap_or(default).to_owned(),
        key: string(&key, "separators")?.unwrap_or(": ").to_owned(),
        ensure_ascii: truth(&ensure_ascii),
        sort_keys: truth(&sort_keys),
    };
    let mut out = Bounded::new(bytes_left(state));
    format.write(&mut out, value, 0)?;
    // Walking a value costs more than copying its text.
    state.consume_fuel((out.written.len() / 4) as u64)?;
    Ok(Value::from(out.written))
}

const MOST_SPACES: usize = 64;

struct Format {
    indent: Option<String>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Format {
    fn write(&self, out: &mut Bounded, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push("null"),
            ValueKind::Bool => out.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push(&number(value)),
            ValueKind::String => self.quoted(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                out.push("[")?;
                let mut is_empty = true;
                for item in value.try_iter()?.checked() {
                    self.begin(out, is_empty, depth + 1)?;
                    is_empty = false;
                    self.write(out, &item?, depth + 1)?;
                }
                self.end(out, is_empty, depth)?;
                out.push("]")
            }
            ValueKind::Map if is_dict(value) => {
                let mut keys: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
                if self.sort_keys {
                    keys.sort();
                }
                out.push("{")?;
                let mut is_empty = true;
                for key in keys {
                    self.begin(out, is_empty, depth + 1)?;
                    is_empty = false;
                    let name = match key.kind() {
                        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
                        ValueKind::None => "null".to_owned(),
                        ValueKind::Bool => key.is_true().to_string(),
                        ValueKind::Number => number(&key),
                        kind => return Err(wrong(format!("a key of JSON cannot be a {kind}"))),
                    };
                    self.quoted(out, &name)?;
                    out.push(&self.key)?;
                    self.write(out, &value.get_item(&key)?, depth + 1)?;
                }
                self.end(out, is_empty, depth)?;
                out.push("}")
            }
            kind => Err(wrong(format!("a value of type {kind} has no JSON"))),
        }
    }

    /// What is before an item.
    fn begin(&self, out: &mut Bounded, is_first: bool, depth: usize) -> Result<(), Error> {
        if !is_first {
            out.push(&self.item)?;
        }
        self.line(out, depth)
    }

    fn end(&self, out: &mut Bounded, is_empty: bool, depth: usize) -> Result<(), Error> {
        if is_empty {
            Ok(())
        } else {
            self.line(out, depth)
        }
    }

    fn line(&self, out: &mut Bounded, depth: usize) -> Result<(), Error> {
        let Some(indent) = &self.indent else {
            return Ok(());
        };
        out.push("\n")?;
        (0..depth).try_for_each(|_| out.push(indent))
    }

    fn quoted(&self, out: &mut Bounded, text: &str) -> Result<(), Error> {
        let mut written = String::with_capacity(text.len() + 2);
        written.push('"');
        for c in text.chars() {
            match c {
                '"' => written.push_str("\\\""),
                '\\' => written.push_str("\\\\"),
                '\n' => written.push_str("\\n"),
                '\r' => written.push_str("\\r"),
                '\t' => written.push_str("\\t"),
                '\u{8}' => written.push_str("\\b"),
                '\u{c}' => written.push_str("\\f"),
                c if c < ' ' || self.ensure_ascii && c > '~' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        written.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => written.push(c),
            }
        }
        written.push('"');
        out.push(&written)
    }
}

fn number(value: &Value) -> String {
    if !is_float(value) {
        return value.to_string();
    }
    match f64::try_from(value.clone()).unwrap_or_default() {
        number if number.is_nan() => "NaN".to_owned(),
        number if number.is_infinite() => if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned(),
        number => float(number),
    }
}
