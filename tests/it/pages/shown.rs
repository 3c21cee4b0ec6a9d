//! An answer as a page shows it, and whether it is the one that came.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

/// Stands for the rest of a text that differs from answer to answer.
const REST: char = '…';
/// Columns of a line.
const WIDTH: usize = 110;
/// When pages were written, as far as answers tell.
const CREATED: u64 = 1_767_225_600;

/// The value with what differs from answer to answer taken out.
pub fn shown(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), shown_field(name, value)))
            .collect(),
        Value::Array(items) => items.iter().map(shown).collect(),
        other => other.clone(),
    }
}

fn shown_field(name: &str, value: &Value) -> Value {
    match (name, value) {
        ("created" | "created_at" | "completed_at", Value::Number(_)) => CREATED.into(),
        ("id" | "item_id" | "call_id", Value::String(text)) => {
            random_end(text).unwrap_or_else(|| text.clone()).into()
        }
        ("system_fingerprint" | "bits_class", Value::String(_)) => REST.to_string().into(),
        (_, other) => shown(other),
    }
}

/// `cmpl-…` of `cmpl-` and 32 hexadecimal digits; likewise with `_`.
fn random_end(text: &str) -> Option<String> {
    let digits = text.rsplit(['-', '_']).next()?;
    let random = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let kind = text.strip_suffix(digits).filter(|kind| !kind.is_empty())?;
    random.then(|| format!("{kind}{REST}"))
}

/// JSON in lines that are no longer than need be: what fits into one stands in one.
pub fn lines(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, 0, &mut text);
    text.push('\n');
    text
}

/// JSON in one line, with blanks as people set them.
pub fn line(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{}: {}", Value::from(name.as_str()), line(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(items) => {
            format!(
                "[{}]",
                items.iter().map(line).collect::<Vec<_>>().join(", ")
            )
        }
        other => other.to_string(),
    }
}

fn write(value: &Value, indent: usize, before: usize, text: &mut String) {
    let whole = line(value);
    let (open, close, parts): (_, _, Vec<(String, &Value)>) = match value {
        Value::Object(fields) => {
            let name = |name: &String| format!("{}: ", Value::from(name.as_str()));
            (
                '{',
                '}',
                fields
                    .iter()
                    .map(|(key, value)| (name(key), value))
                    .collect(),
            )
        }
        Value::Array(items) => (
            '[',
            ']',
            items.iter().map(|value| (String::new(), value)).collect(),
        ),
        _ => return text.push_str(&whole),
    };
    if indent + before + whole.chars().count() < WIDTH || parts.is_empty() {
        return text.push_str(&whole);
    }
    let last = parts.len() - 1;
    text.push(open);
    for (place, (name, value)) in parts.into_iter().enumerate() {
        text.push('\n');
        text.push_str(&" ".repeat(indent + 2));
        text.push_str(&name);
        write(value, indent + 2, name.chars().count(), text);
        if place < last {
            text.push(',');
        }
    }
    text.push('\n');
    text.push_str(&" ".repeat(indent));
    text.push(close);
}

/// Whether what came is what is written; if not, where they part.
pub fn agree(written: &Value, came: &Value, place: &str) -> Result<(), String> {
    let differ = || Err(format!("{place} is {came}, written is {written}"));
    match (written, came) {
        (Value::Number(one), Value::Number(other)) => {
            let whole = |number: &serde_json::Number| number.is_i64() || number.is_u64();
            // Depends on when and after whom it was asked.
            let varies = [".created", ".created_at", ".completed_at", ".cached_tokens"]
                .iter()
                .any(|name| place.ends_with(name));
            let equal = match (whole(one), whole(other)) {
                (true, true) => varies || one == other,
                _ => near(
                    one.as_f64().unwrap_or(f64::NAN),
                    other.as_f64().unwrap_or(f64::NAN),
                ),
            };
            if equal { Ok(()) } else { differ() }
        }
        (Value::String(one), Value::String(other)) => {
            if fits(one, other) || (place.ends_with("embedding") && same_vector(one, other)) {
                Ok(())
            } else {
                differ()
            }
        }
        (Value::Array(ones), Value::Array(others)) if ones.len() == others.len() => {
            let pairs = ones.iter().zip(others).enumerate();
            pairs
                .into_iter()
                .try_for_each(|(at, (one, other))| agree(one, other, &format!("{place}[{at}]")))
        }
        (Value::Object(ones), Value::Object(others)) if ones.keys().eq(others.keys()) => ones
            .iter()
            .try_for_each(|(name, one)| agree(one, &others[name], &format!("{place}.{name}"))),
        _ if written == came => Ok(()),
        _ => differ(),
    }
}

/// Whether what came has the form of what is written, whatever the model said.
pub fn alike(written: &Value, came: &Value) -> bool {
    match (written, came) {
        (Value::Object(ones), Value::Object(others)) => {
            let alike = |(name, one): (&String, &Value)| match others.get(name) {
                // Its names are tokens.
                Some(_) if name == "top_logprobs" => true,
                other => other.is_some_and(|other| alike(one, other)),
            };
            ones.len() == others.len() && ones.iter().all(alike)
        }
        (Value::Array(ones), Value::Array(others)) => others
            .iter()
            .all(|other| ones.is_empty() || ones.iter().any(|one| alike(one, other))),
        (Value::Null, _) | (_, Value::Null) => true,
        _ => std::mem::discriminant(written) == std::mem::discriminant(came),
    }
}

/// Low bits are the processor's: kernels add up in the order that suits it. What is written in docs/api/README.md promises
/// a few thousandths.
fn near(one: f64, other: f64) -> bool {
    (one - other).abs() <= 5e-3
}

/// Whether a text is the written one, `…` standing for whatever there is.
pub fn fits(written: &str, came: &str) -> bool {
    let mut parts = written.split(REST);
    let Some(mut rest) = came.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut open = false;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        open = part.is_empty();
    }
    rest.is_empty() || open
}

/// Both in base64.
fn same_vector(one: &str, other: &str) -> bool {
    let numbers = |text: &str| -> Option<Vec<f32>> {
        let bytes = BASE64_STANDARD.decode(text).ok()?;
        let words = bytes.chunks_exact(4);
        Some(
            words
                .map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
                .collect(),
        )
    };
    let (Some(one), Some(other)) = (numbers(one), numbers(other)) else {
        return false;
    };
    let near = |(one, other): (&f32, &f32)| near(f64::from(*one), f64::from(*other));
    one.len() == other.len() && one.iter().zip(&other).all(near)
}

#[test]
fn what_differs_is_found() {
    use serde_json::json;
    let check = |written: Value, came: Value, expect: bool| {
        assert_eq!(
            agree(&written, &came, "").is_ok(),
            expect,
            "{written} {came}"
        );
    };
    check(json!({"a": [1, "b…d"]}), json!({"a": [1, "bcd"]}), true);
    check(json!({"a": 1}), json!({"a": 2}), false);
    check(json!({"a": 1}), json!({"a": 1, "b": 2}), false);
    check(json!([1]), json!([1, 2]), false);
    check(json!("b…d"), json!("bce"), false);
    check(json!("b"), json!("bc"), false);
    check(json!("cmpl-…"), json!("cmpl-0"), true);
    check(json!(-2.5), json!(-2.5001), true);
    check(json!(-2.5), json!(-2.6), false);
    check(json!(-20.35), json!(-20.48), false);
    check(json!({"created": 1}), json!({"created": 2}), true);
    check(json!({"created": 1}), json!({"created": "2"}), false);
    check(json!(null), json!(0), false);
    check(
        json!({"embedding": "AACAPwAAAAA="}),
        json!({"embedding": "AQCAPwAAAAA="}),
        true,
    );
    check(
        json!({"embedding": "AACAPwAAAAA="}),
        json!({"embedding": "AACAPwAAgD8="}),
        false,
    );
    let form = |one: Value, other: Value| alike(&one, &other);
    assert!(form(json!({"a": ["b", null]}), json!({"a": ["c"]})));
    assert!(form(
        json!({"top_logprobs": [{"a": -1.5}]}),
        json!({"top_logprobs": []})
    ));
    assert!(!form(json!({"a": 1}), json!({"b": 1})));
    assert!(!form(json!({"a": 1}), json!({"a": "1"})));
    assert!(!form(json!(["a"]), json!([1])));
    let id = format!("cmpl-{}", "0a".repeat(16));
    assert_eq!(shown(&json!({"id": id}))["id"], "cmpl-…");
    assert_eq!(shown(&json!({"id": "a-model"}))["id"], "a-model");
}
