//! Operators with other meanings than minijinja's. It compiles a template to instructions, and has no way to define
//! operators; here an instruction is replaced by the call of a filter that takes the same values from the stack.

use std::fmt;
use std::sync::Arc;

use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{Environment, Error, State, Value};

use super::args::{ensure, wrong};
use super::filters::escaped;
use super::percent::percent;
use super::text::{is_dict, is_float, text};

const ADDITION: &str = "+";
const CONCATENATION: &str = "~";
const REMAINDER: &str = "%";

/// In Python these are attributes of each dictionary: `schema.items` is never an item of it, and `schema["items"]` is the
/// method if there is no such item. With the names of the filters that look them up so. Other methods are forbidden by
/// Jinja2's sandbox.
const DICT_METHODS: [(&str, &str, &str); 5] = [
    ("items", ".items", "[items]"),
    ("keys", ".keys", "[keys]"),
    ("values", ".values", "[values]"),
    ("get", ".get", "[get]"),
    ("copy", ".copy", "[copy]"),
];

/// No place among the filters that minijinja remembers.
const NOT_REMEMBERED: u8 = !0;

/// Filters whose results are marked as HTML. What is added to them is escaped.
const HTML_FILTERS: [&str; 4] = ["safe", "e", "escape", "forceescape"];

/// Replaces instructions in place, so that jumps and positions in the source stay.
pub fn replace(instructions: &mut Instructions) {
    let is_html = |instruction: &Instruction| match instruction {
        Instruction::ApplyFilter(name, ..) => HTML_FILTERS.contains(name),
        _ => false,
    };
    let has_html = (0..)
        .map_while(|place| instructions.get(place))
        .any(is_html);
    let mut key = None;
    let mut place = 0;
    while let Some(instruction) = instructions.get_mut(place) {
        let filter = match instruction {
            Instruction::Add if has_html => Some((ADDITION, 2)),
            Instruction::StringConcat => Some((CONCATENATION, 2)),
            Instruction::Rem => Some((REMAINDER, 2)),
            Instruction::GetAttr(name) => method(name).map(|(_, attribute, _)| (attribute, 1)),
            Instruction::GetItem => key.map(|item| (item, 2)),
            _ => None,
        };
        key = match instruction {
            Instruction::LoadConst(key) => key.as_str().and_then(method).map(|(_, _, item)| item),
            _ => None,
        };
        if let Some((filter, count)) = filter {
            *instruction = Instruction::ApplyFilter(filter, Some(count), NOT_REMEMBERED);
        }
        place += 1;
    }
}

fn method(name: &str) -> Option<(&'static str, &'static str, &'static str)> {
    DICT_METHODS
        .into_iter()
        .find(|(method, _, _)| *method == name)
}

pub fn add(environment: &mut Environment) {
    environment.add_filter(ADDITION, addition);
    environment.add_filter(CONCATENATION, concatenation);
    environment.add_filter(REMAINDER, remainder);
    for (name, attribute, item) in DICT_METHODS {
        let method = move |value: &Value| {
            let of = value.clone();
            Value::from_object(Method { of, name })
        };
        environment.add_filter(attribute, move |value: &Value| {
            if is_dict(value) {
                Ok(method(value))
            } else {
                value.get_attr(name)
            }
        });
        environment.add_filter(item, move |value: &Value, key: &Value| {
            let found = value.get_item(key)?;
            let is_missing = found.is_undefined() && is_dict(value);
            Ok::<_, Error>(if is_missing { method(value) } else { found })
        });
    }
}

fn addition(state: &State, left: &Value, right: &Value) -> Result<Value, Error> {
    let undefined = || {
        let kinds = format!("a {} and a {}", left.kind(), right.kind());
        wrong(format!("`+` is not defined for {kinds}"))
    };
    let is_number = |value: &Value| [ValueKind::Number, ValueKind::Bool].contains(&value.kind());
    match (left.kind(), right.kind()) {
        (ValueKind::String, ValueKind::String) if left.is_safe() || right.is_safe() => {
            let escaped = |value: &Value| {
                let text = value.as_str().unwrap_or_default();
                if value.is_safe() {
                    text.to_owned()
                } else {
                    escaped(text)
                }
            };
            let sum = escaped(left) + &escaped(right);
            ensure(state, sum.len())?;
            Ok(Value::from_safe_string(sum))
        }
        (ValueKind::String, ValueKind::String) => {
            concatenation(state, left, right).map(Value::from)
        }
        (ValueKind::Seq, ValueKind::Seq) if left.is_tuple() == right.is_tuple() => {
            let items: Vec<Value> = left.try_iter()?.chain(right.try_iter()?).collect();
            Ok(match left.is_tuple() {
                true => Value::from(Tuple::from(items)),
                false => Value::from(items),
            })
        }
        _ if !is_number(left) || !is_number(right) => Err(undefined()),
        _ if is_float(left) || is_float(right) => {
            let sum = f64::try_from(left.clone())? + f64::try_from(right.clone())?;
            Ok(Value::from(sum))
        }
        _ => {
            let (left, right) = (
                i128::try_from(left.clone())?,
                i128::try_from(right.clone())?,
            );
            left.checked_add(right)
                .map(Value::from)
                .ok_or_else(undefined)
        }
    }
}

fn concatenation(state: &State, left: &Value, right: &Value) -> Result<String, Error> {
    let sizes = [left, right].map(|value| value.as_str().map_or(0, str::len));
    ensure(state, sizes[0].saturating_add(sizes[1]))?;
    let mut joined = String::with_capacity(sizes[0] + sizes[1]);
    for value in [left, right] {
        match value.as_str() {
            Some(text) => joined.push_str(text),
            None => joined.push_str(&text(state, value)?),
        }
    }
    Ok(joined)
}

/// The remainder has the sign of the divisor. Of a string, this is formatting.
fn remainder(state: &State, left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        return percent(state, format, right).map(Value::from);
    }
    for value in [left, right] {
        if ![ValueKind::Number, ValueKind::Bool].contains(&value.kind()) {
            let kinds = format!("a {} and a {}", left.kind(), right.kind());
            return Err(wrong(format!("`%` is not defined for {kinds}")));
        }
    }
    if is_float(left) || is_float(right) {
        let (left, right) = (f64::try_from(left.clone())?, f64::try_from(right.clone())?);
        if right == 0.0 {
            return Err(wrong("division by zero"));
        }
        let remainder = left % right;
        let has_other_sign = remainder != 0.0 && (remainder < 0.0) != (right < 0.0);
        return Ok(Value::from(if has_other_sign {
            remainder + right
        } else {
            remainder
        }));
    }
    let (left, right) = (
        i128::try_from(left.clone())?,
        i128::try_from(right.clone())?,
    );
    let remainder = left
        .checked_rem(right)
        .ok_or_else(|| wrong("division by zero"))?;
    let has_other_sign = remainder != 0 && (remainder < 0) != (right < 0);
    Ok(Value::from(if has_other_sign {
        remainder + right
    } else {
        remainder
    }))
}

/// A method of a value, which is not called yet.
#[derive(Debug)]
struct Method {
    of: Value,
    name: &'static str,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        self.of.call_method(state, self.name, args)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<built-in method {} of dict object>", self.name)
    }
}
