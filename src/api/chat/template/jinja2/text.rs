//! Values as Python's `str` and `repr` write them.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::args::bytes_left;

/// Walking a value costs more than copying its text: the fuel of a byte, as minijinja counts it.
const BYTES_PER_FUEL_OF_WALKING: usize = 4;

/// `str(value)`.
pub fn text(state: &State, value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        _ => repr(state, value),
    }
}

/// `repr(value)`.
pub fn repr(state: &State, value: &Value) -> Result<String, Error> {
    let mut text = Bounded::new(bytes_left(state));
    write(&mut text, value)?;
    let walked = if value.as_object().is_some() {
        text.written.len() / BYTES_PER_FUEL_OF_WALKING
    } else {
        0
    };
    state.consume_fuel(walked as u64)?;
    Ok(text.written)
}

/// A text that may not become longer than a number of bytes: a value may contain itself many times over.
pub struct Bounded {
    pub written: String,
    most: usize,
}

impl Bounded {
    pub fn new(most: usize) -> Self {
        Self {
            written: String::new(),
            most,
        }
    }

    pub fn push(&mut self, text: &str) -> Result<(), Error> {
        if self.written.len() + text.len() > self.most {
            return Err(Error::from(ErrorKind::OutOfFuel));
        }
        self.written.push_str(text);
        Ok(())
    }
}

fn write(out: &mut Bounded, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => out.push("Undefined"),
        ValueKind::String => quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Number if is_float(value) => {
            out.push(&float(f64::try_from(value.clone()).unwrap_or_default()))
        }
        ValueKind::Bytes => bytes(out, value.as_bytes().unwrap_or_default()),
        ValueKind::Seq => {
            let (open, close) = if value.is_tuple() {
                ("(", ")")
            } else {
                ("[", "]")
            };
            out.push(open)?;
            for (place, item) in value.try_iter()?.checked().enumerate() {
                if place > 0 {
                    out.push(", ")?;
                }
                write(out, &item?)?;
            }
            if value.is_tuple() && value.len() == Some(1) {
                out.push(",")?;
            }
            out.push(close)
        }
        ValueKind::Map if is_dict(value) => {
            out.push("{")?;
            for (place, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                if place > 0 {
                    out.push(", ")?;
                }
                write(out, &key)?;
                out.push(": ")?;
                write(out, &value.get_item(&key)?)?;
            }
            out.push("}")
        }
        _ => out.push(&value.to_string()),
    }
}

/// Whether a value is a number with a point. Whole numbers and booleans are not.
pub fn is_float(value: &Value) -> bool {
    value.kind() == ValueKind::Number && !value.is_integer()
}

/// Whether a value is what Python calls a dictionary, and not an object with attributes, such as a namespace.
pub fn is_dict(value: &Value) -> bool {
    let is_namespace =
        |object: &minijinja::value::DynObject| object.type_name().ends_with("Namespace");
    value.kind() == ValueKind::Map && !value.as_object().is_some_and(is_namespace)
}

/// A number as Python writes it: the shortest digits that read back as the same number, with an exponent of two digits or
/// more below 0.0001 and from 1e16 on.
pub fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let written = format!("{number:e}");
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        // Which never has an exponent.
        let mut text = format!("{number}");
        if !text.contains('.') {
            text.push_str(".0");
        }
        return text;
    }
    format!("{digits}e{}", signed_exponent(exponent))
}

/// An exponent with its sign and at least two digits.
pub fn signed_exponent(exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{:02}", exponent.unsigned_abs())
}

fn quoted(out: &mut Bounded, text: &str) -> Result<(), Error> {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut written = String::with_capacity(text.len() + 2);
    written.push(quote);
    for c in text.chars() {
        match c {
            '\n' => written.push_str("\\n"),
            '\r' => written.push_str("\\r"),
            '\t' => written.push_str("\\t"),
            '\\' => written.push_str("\\\\"),
            c if c == quote => {
                written.push('\\');
                written.push(c);
            }
            c if is_printable(c) => written.push(c),
            c => written.push_str(&match u32::from(c) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    written.push(quote);
    out.push(&written)
}

/// Whether Python's `repr` writes a character as it is.
pub fn is_printable(c: char) -> bool {
    // Rust escapes the same characters, and marks that would combine with a quote; those follow a letter here.
    c == '\'' || c == '"' || c == '\\' || format!("a{c}").escape_debug().count() == 2
}

fn bytes(out: &mut Bounded, bytes: &[u8]) -> Result<(), Error> {
    let mut written = String::from("b'");
    for byte in bytes {
        match byte {
            b'\n' => written.push_str("\\n"),
            b'\r' => written.push_str("\\r"),
            b'\t' => written.push_str("\\t"),
            b'\\' | b'\'' => {
                written.push('\\');
                written.push(char::from(*byte));
            }
            b' '..=b'~' => written.push(char::from(*byte)),
            byte => written.push_str(&format!("\\x{byte:02x}")),
        }
    }
    written.push('\'');
    out.push(&written)
}
