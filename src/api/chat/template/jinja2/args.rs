//! Arguments, bound to parameters as Python binds them.

use std::sync::Arc;

use minijinja::value::{Kwargs, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// A unit of fuel pays for this many bytes.
const BYTES_PER_FUEL: u64 = 64;

/// The arguments of a method, bound to its parameters.
pub fn bind<const N: usize>(args: &[Value], names: [&str; N]) -> Result<[Option<Value>; N], Error> {
    let (by_place, by_name): (&[Value], Kwargs) = from_args(args)?;
    bind_both(by_place, &by_name, names)
}

/// The argument of each parameter, given by its place or its name. `None`: neither.
pub fn bind_both<const N: usize>(
    by_place: &[Value],
    by_name: &Kwargs,
    names: [&str; N],
) -> Result<[Option<Value>; N], Error> {
    if by_place.len() > N {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut bound = [const { None }; N];
    for (place, name) in names.into_iter().enumerate() {
        if by_name.has(name) {
            bound[place] = Some(by_name.get::<Value>(name)?);
        }
        if let Some(value) = by_place.get(place) {
            if bound[place].is_some() {
                return Err(wrong(format!("`{name}` is given twice")));
            }
            bound[place] = Some(value.clone());
        }
    }
    by_name.assert_all_used()?;
    Ok(bound)
}

/// An argument that must be given.
pub fn required(value: Option<Value>, name: &str) -> Result<Value, Error> {
    value.ok_or_else(|| wrong(format!("the argument `{name}` is missing")))
}

/// A string that must be given.
pub fn required_string(value: Option<Value>, name: &str) -> Result<Arc<str>, Error> {
    let value = required(value, name)?;
    let text = value.to_str();
    text.ok_or_else(|| wrong(format!("`{name}` must be a string, not {}", value.kind())))
}

/// A string, or `None` for Python's `None` and for nothing.
pub fn string<'a>(value: &'a Option<Value>, name: &str) -> Result<Option<&'a str>, Error> {
    match value {
        None => Ok(None),
        Some(value) if value.is_none() => Ok(None),
        Some(value) => match value.as_str() {
            Some(text) => Ok(Some(text)),
            None => Err(wrong(format!(
                "`{name}` must be a string, not {}",
                value.kind()
            ))),
        },
    }
}

/// A whole number, or `None` for Python's `None` and for nothing.
pub fn whole(value: &Option<Value>, name: &str) -> Result<Option<i64>, Error> {
    match value {
        None => Ok(None),
        Some(value) if value.is_none() => Ok(None),
        Some(value) => i64::try_from(value.clone()).map(Some).map_err(|_| {
            wrong(format!(
                "`{name}` must be a whole number, not {}",
                value.kind()
            ))
        }),
    }
}

/// Whether the value counts as true.
pub fn truth(value: &Option<Value>) -> bool {
    value.as_ref().is_some_and(Value::is_true)
}

pub fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// The number of bytes that may still be written.
pub fn bytes_left(state: &State) -> usize {
    let fuel = state.fuel_levels().map_or(u64::MAX, |(_, left)| left);
    usize::try_from(fuel.saturating_mul(BYTES_PER_FUEL)).unwrap_or(usize::MAX)
}

/// Fails if this many bytes are more than may be written: before they are.
pub fn ensure(state: &State, bytes: usize) -> Result<(), Error> {
    if bytes > bytes_left(state) {
        return Err(Error::from(ErrorKind::OutOfFuel));
    }
    Ok(())
}
