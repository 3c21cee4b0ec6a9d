//! The functions that a template may call: Jinja2's, and those that transformers adds.

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, functions};

use super::args::wrong;
use super::text::text;

pub fn add(environment: &mut Environment) {
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_function("dict", |args: Rest<Value>, by_name: Kwargs| {
        Ok::<_, Error>(Value::from_pairs(pairs(&args, &by_name)?))
    });
    environment.add_function("namespace", |args: Rest<Value>, by_name: Kwargs| {
        let defaults = Value::from_pairs(pairs(&args, &by_name)?);
        functions::namespace(Some(ValueOrKwargs::from(defaults)))
    });
    environment.add_function("cycler", |items: Rest<Value>| {
        minijinja_contrib::globals::cycler(items.0)
    });
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
}

/// The prefix that tells messages of [`raise_exception`] from other errors.
const RAISED: &str = "raised: ";

fn raise_exception(state: &State, message: &Value) -> Result<Value, Error> {
    let message = text(state, message)?;
    Err(Error::new(
        ErrorKind::InvalidOperation,
        format!("{RAISED}{message}"),
    ))
}

/// What the template says, if it raised this error.
pub fn raised(error: &Error) -> Option<String> {
    let message = error.detail()?.strip_prefix(RAISED)?;
    Some(message.to_owned())
}

/// The local time of this machine.
fn strftime_now(format: &str) -> Result<String, Error> {
    let now = jiff::ZonedDateTime::now();
    jiff::fmt::strtime::format(format, &now).map_err(|error| wrong(error.to_string()))
}

/// What Python's `dict` takes: a dictionary or pairs, and arguments by name.
fn pairs(by_place: &[Value], by_name: &Kwargs) -> Result<Vec<(Value, Value)>, Error> {
    let mut pairs = Vec::new();
    match by_place {
        [] => {}
        [one] if one.kind() == ValueKind::Map => {
            for key in one.try_iter()? {
                let value = one.get_item(&key)?;
                pairs.push((key, value));
            }
        }
        [one] => {
            for pair in one.try_iter()?.checked() {
                let pair: Vec<Value> = pair?.try_iter()?.collect();
                let [key, value] = <[Value; 2]>::try_from(pair)
                    .map_err(|_| wrong("`dict` takes pairs of a key and a value"))?;
                pairs.push((key, value));
            }
        }
        _ => return Err(Error::from(ErrorKind::TooManyArguments)),
    }
    for name in by_name.args() {
        pairs.push((Value::from(name), by_name.get::<Value>(name)?));
    }
    Ok(pairs)
}
