//! `"%s: %d" % (a, b)`: Python's older way to format strings.

use std::iter::Peekable;
use std::str::Chars;

use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

use super::args::{bytes_left, ensure, wrong};
use super::text::{Bounded, is_dict, repr, signed_exponent, text};

/// One `%…` of a format.
#[derive(Default)]
struct Spec {
    key: Option<String>,
    left: bool,
    plus: bool,
    space: bool,
    zero: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// The values that a format takes, one after another or by name.
struct Values<'a> {
    given: &'a Value,
    listed: Vec<Value>,
    taken: usize,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value, Error> {
        let value = self.listed.get(self.taken).cloned();
        self.taken += 1;
        value.ok_or_else(|| wrong("not enough arguments for the format"))
    }
}

pub fn percent(state: &State, format: &str, given: &Value) -> Result<String, Error> {
    let listed = if given.is_tuple() {
        given.try_iter()?.collect()
    } else {
        vec![given.clone()]
    };
    let mut values = Values {
        given,
        listed,
        taken: 0,
    };
    let mut out = Bounded::new(bytes_left(state));
    let mut characters = format.chars().peekable();
    while let Some(c) = characters.next() {
        if c != '%' {
            out.push(c.encode_utf8(&mut [0; 4]))?;
            continue;
        }
        let (spec, kind) = spec(&mut characters, &mut values)?;
        if kind == '%' {
            out.push("%")?;
            continue;
        }
        let value = match &spec.key {
            Some(key) => values.given.get_item(&Value::from(key.as_str()))?,
            None => values.next()?,
        };
        ensure(
            state,
            spec.width.saturating_add(spec.precision.unwrap_or(0)),
        )?;
        out.push(&spec.padded(state, &value, kind)?)?;
    }
    if values.taken < values.listed.len() && !is_dict(given) {
        return Err(wrong("not all arguments are used by the format"));
    }
    Ok(out.written)
}

/// Reads what follows a `%`.
fn spec(characters: &mut Peekable<Chars>, values: &mut Values) -> Result<(Spec, char), Error> {
    let mut spec = Spec::default();
    if characters.next_if_eq(&'(').is_some() {
        if !is_dict(values.given) {
            return Err(wrong("the format names a key, which needs a mapping"));
        }
        spec.key = Some(characters.by_ref().take_while(|c| *c != ')').collect());
        values.taken = values.listed.len();
    }
    while let Some(flag) = characters.next_if(|c| "-+ 0#".contains(*c)) {
        match flag {
            '-' => spec.left = true,
            '+' => spec.plus = true,
            ' ' => spec.space = true,
            '0' => spec.zero = true,
            _ => spec.alternate = true,
        }
    }
    let width = count(characters, values)?;
    spec.left |= width < 0;
    spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
    if characters.next_if_eq(&'.').is_some() {
        spec.precision = Some(usize::try_from(count(characters, values)?).unwrap_or(0));
    }
    while characters.next_if(|c| "hlL".contains(*c)).is_some() {}
    let kind = characters.next();
    Ok((spec, kind.ok_or_else(|| wrong("the format is incomplete"))?))
}

/// A number in a format, or the next value for `*`.
fn count(characters: &mut Peekable<Chars>, values: &mut Values) -> Result<i64, Error> {
    if characters.next_if_eq(&'*').is_some() {
        let value = values.next()?;
        return i64::try_from(value).map_err(|_| wrong("`*` in a format needs a whole number"));
    }
    let mut count: i64 = 0;
    while let Some(digit) = characters.peek().and_then(|c| c.to_digit(10)) {
        characters.next();
        count = count.saturating_mul(10).saturating_add(i64::from(digit));
    }
    Ok(count)
}

impl Spec {
    fn padded(&self, state: &State, value: &Value, kind: char) -> Result<String, Error> {
        let (sign, body, is_number) = match kind {
            's' => (String::new(), self.cut(text(state, value)?), false),
            'r' | 'a' => (String::new(), self.cut(repr(state, value)?), false),
            'c' => (String::new(), character(value)?, false),
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
                let (negative, body) = self.whole(value, kind)?;
                (self.sign(negative), body, true)
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let number = number(value, kind)?;
                let body = match number.abs() {
                    size if size.is_nan() => "nan".to_owned(),
                    size if size.is_infinite() => "inf".to_owned(),
                    size => self.float(size, kind),
                };
                let body = if kind.is_uppercase() {
                    body.to_uppercase()
                } else {
                    body
                };
                (
                    self.sign(number.is_sign_negative() && !number.is_nan()),
                    body,
                    true,
                )
            }
            kind => return Err(wrong(format!("the format has the unknown type `{kind}`"))),
        };
        let written = sign.chars().count() + body.chars().count();
        let padding = self.width.saturating_sub(written);
        Ok(if self.left {
            format!("{sign}{body}{}", " ".repeat(padding))
        } else if self.zero && is_number {
            format!("{sign}{}{body}", "0".repeat(padding))
        } else {
            format!("{}{sign}{body}", " ".repeat(padding))
        })
    }

    fn cut(&self, text: String) -> String {
        match self.precision {
            Some(most) => text.chars().take(most).collect(),
            None => text,
        }
    }

    fn sign(&self, negative: bool) -> String {
        let sign = match (negative, self.plus, self.space) {
            (true, _, _) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        sign.to_owned()
    }

    fn whole(&self, value: &Value, kind: char) -> Result<(bool, String), Error> {
        let whole = match i128::try_from(value.clone()) {
            Ok(whole) => whole,
            Err(_) if "diu".contains(kind) => number(value, kind)?.trunc() as i128,
            Err(_) => return Err(mismatch(value, kind)),
        };
        let size = whole.unsigned_abs();
        let prefix = if self.alternate { kind } else { 'd' };
        let digits = match kind {
            'x' => format!("{size:x}"),
            'X' => format!("{size:X}"),
            'o' => format!("{size:o}"),
            _ => size.to_string(),
        };
        let zeros = "0".repeat(self.precision.unwrap_or(0).saturating_sub(digits.len()));
        let prefix = match prefix {
            'x' => "0x",
            'X' => "0X",
            'o' => "0o",
            _ => "",
        };
        Ok((whole < 0, format!("{prefix}{zeros}{digits}")))
    }

    /// A number that is not negative.
    fn float(&self, number: f64, kind: char) -> String {
        let precision = self.precision.unwrap_or(6).min(MOST_DIGITS);
        match kind.to_ascii_lowercase() {
            'f' => format!("{number:.precision$}"),
            'e' => scientific(number, precision),
            _ => {
                let digits = precision.max(1);
                let written = format!("{number:.*e}", digits - 1);
                let exponent = written.split_once('e').and_then(|(_, it)| it.parse().ok());
                let exponent: i32 = exponent.unwrap_or_default();
                let most = i32::try_from(digits).unwrap_or(i32::MAX);
                let (mantissa, exponent) = if (-4..most).contains(&exponent) {
                    let decimals = usize::try_from(most - 1 - exponent).unwrap_or(0);
                    (format!("{number:.decimals$}"), String::new())
                } else {
                    let written = scientific(number, digits - 1);
                    let (mantissa, exponent) = written.split_once('e').unwrap_or((&written, ""));
                    (mantissa.to_owned(), format!("e{exponent}"))
                };
                let mantissa = if mantissa.contains('.') && !self.alternate {
                    mantissa.trim_end_matches('0').trim_end_matches('.')
                } else {
                    &mantissa
                };
                format!("{mantissa}{exponent}")
            }
        }
    }
}

/// More digits than a double has.
const MOST_DIGITS: usize = 400;

fn scientific(number: f64, decimals: usize) -> String {
    let written = format!("{number:.decimals$e}");
    let (mantissa, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let exponent = exponent.parse().unwrap_or_default();
    format!("{mantissa}e{}", signed_exponent(exponent))
}

fn number(value: &Value, kind: char) -> Result<f64, Error> {
    match value.kind() {
        ValueKind::Number | ValueKind::Bool => {
            f64::try_from(value.clone()).map_err(|_| mismatch(value, kind))
        }
        _ => Err(mismatch(value, kind)),
    }
}

fn character(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        let mut characters = text.chars();
        if let (Some(one), None) = (characters.next(), characters.next()) {
            return Ok(one.to_string());
        }
    }
    let code = u32::try_from(value.clone()).ok().and_then(char::from_u32);
    code.map(String::from).ok_or_else(|| mismatch(value, 'c'))
}

fn mismatch(value: &Value, kind: char) -> Error {
    wrong(format!("`%{kind}` cannot write a {}", value.kind()))
}
