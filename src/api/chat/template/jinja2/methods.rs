//! The methods of Python's strings, lists, dictionaries and numbers, as far as the sandbox of Jinja2 allows them.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::args::{bind, ensure, required, required_string, string, truth, whole, wrong};
use super::characters::{capitalize, is_cased, is_decimal, is_digit, is_space, lines, title};
use super::text::{is_dict, is_float, is_printable};

pub fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => of_string(state, value, method, args),
        ValueKind::Seq => match method {
            "index" => {
                let [wanted] = bind(args, ["value"])?;
                let wanted = required(wanted, "value")?;
                for (place, item) in value.try_iter()?.checked().enumerate() {
                    if item? == wanted {
                        return Ok(Value::from(place));
                    }
                }
                Err(wrong(format!("{wanted} is not in the list")))
            }
            "copy" if !value.is_tuple() => bind(args, []).map(|[]| value.clone()),
            _ => pycompat::unknown_method_callback(state, value, method, args),
        },
        ValueKind::Map if is_dict(value) => match method {
            "copy" => bind(args, []).map(|[]| value.clone()),
            _ => pycompat::unknown_method_callback(state, value, method, args),
        },
        ValueKind::Number => match method {
            "is_integer" if is_float(value) => {
                let number = f64::try_from(value.clone())?;
                bind(args, []).map(|[]| Value::from(number.fract() == 0.0))
            }
            "is_integer" => bind(args, []).map(|[]| Value::from(true)),
            "bit_length" if !is_float(value) => {
                let size = i128::try_from(value.clone())?.unsigned_abs();
                bind(args, []).map(|[]| Value::from(u128::BITS - size.leading_zeros()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        },
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn of_string(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let text = value.as_str().unwrap_or_default();
    if let Some(changed) = changed(text, method) {
        return bind(args, []).map(|[]| Value::from(changed));
    }
    if let Some(is) = property(text, method) {
        return bind(args, []).map(|[]| Value::from(is));
    }
    match method {
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = bind(args, ["chars"])?;
            Ok(Value::from(strip(text, method, string(&chars, "chars")?)))
        }
        "split" | "rsplit" => {
            let [separator, most] = bind(args, ["sep", "maxsplit"])?;
            let most = whole(&most, "maxsplit")?.and_then(|most| usize::try_from(most).ok());
            let from_end = method == "rsplit";
            let parts = match string(&separator, "sep")? {
                Some("") => return Err(wrong("`sep` is empty")),
                Some(separator) => split(text, separator, most, from_end),
                None => words(text, most, from_end),
            };
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let [separator] = bind(args, ["sep"])?;
            let separator = required_string(separator, "sep")?;
            let separator = &*separator;
            if separator.is_empty() {
                return Err(wrong("`sep` is empty"));
            }
            let parts = match method {
                "partition" => match text.split_once(separator) {
                    Some((before, after)) => [before, separator, after],
                    None => [text, "", ""],
                },
                _ => match text.rsplit_once(separator) {
                    Some((before, after)) => [before, separator, after],
                    None => ["", "", text],
                },
            };
            Ok(Value::from(Tuple::from(parts.map(Value::from))))
        }
        "splitlines" => {
            let [keep] = bind(args, ["keepends"])?;
            let keep = truth(&keep);
            let lines = lines(text).into_iter();
            let lines = lines.map(|(line, end)| match keep {
                true => Value::from(format!("{line}{end}")),
                false => Value::from(line),
            });
            Ok(lines.collect())
        }
        "removeprefix" => {
            let [prefix] = bind(args, ["prefix"])?;
            let prefix = string(&prefix, "prefix")?.unwrap_or_default();
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let [suffix] = bind(args, ["suffix"])?;
            let suffix = string(&suffix, "suffix")?.unwrap_or_default();
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "find" | "index" | "rfind" | "rindex" | "count" => {
            let [wanted, start, end] = bind(args, ["sub", "start", "end"])?;
            let wanted = required_string(wanted, "sub")?;
            let wanted = &*wanted;
            let part = within(text, &start, &end)?;
            if method == "count" {
                let count = part.map_or(0, |(part, _)| part.matches(wanted).count());
                return Ok(Value::from(count));
            }
            let found = part.and_then(|(part, before)| {
                let place = match method.starts_with('r') {
                    true => part.rfind(wanted),
                    false => part.find(wanted),
                };
                place.map(|place| before + part[..place].chars().count())
            });
            match found {
                Some(place) => Ok(Value::from(place)),
                None if method.ends_with("find") => Ok(Value::from(-1)),
                None => Err(wrong(format!("{wanted:?} is not in the string"))),
            }
        }
        "startswith" | "endswith" => {
            let [wanted, start, end] = bind(args, ["prefix", "start", "end"])?;
            let wanted = required(wanted, "prefix")?;
            let wanted: Vec<Value> = match wanted.as_str() {
                Some(_) => vec![wanted],
                None if wanted.is_tuple() => wanted.try_iter()?.collect(),
                None => {
                    return Err(wrong(format!(
                        "`{method}` takes a string or a tuple of them"
                    )));
                }
            };
            let Some((part, _)) = within(text, &start, &end)? else {
                return Ok(Value::from(false));
            };
            let fits = |one: &Value| {
                one.as_str().is_some_and(|one| match method {
                    "startswith" => part.starts_with(one),
                    _ => part.ends_with(one),
                })
            };
            Ok(Value::from(wanted.iter().any(fits)))
        }
        "zfill" | "ljust" | "rjust" | "center" => {
            let names = ["width", "fillchar"];
            let [width, fill] = bind(args, names)?;
            let width = whole(&width, "width")?.ok_or_else(|| wrong("`width` is missing"))?;
            let width = usize::try_from(width).unwrap_or(0);
            let fill = string(&fill, "fillchar")?.unwrap_or(" ");
            if fill.chars().count() != 1 {
                return Err(wrong("`fillchar` must be one character"));
            }
            ensure(state, width.saturating_mul(fill.len()))?;
            Ok(Value::from(padded(text, method, width, fill)))
        }
        "expandtabs" => {
            let [size] = bind(args, ["tabsize"])?;
            let size = whole(&size, "tabsize")?.unwrap_or(8);
            let size = usize::try_from(size).unwrap_or(0);
            ensure(state, text.matches('\t').count().saturating_mul(size))?;
            Ok(Value::from(expanded(text, size)))
        }
        "join" => {
            let [parts] = bind(args, ["iterable"])?;
            let mut joined = String::new();
            let parts = required(parts, "iterable")?;
            for (place, part) in parts.try_iter()?.checked().enumerate() {
                let part = part?;
                let part = part.as_str().ok_or_else(|| {
                    wrong(format!(
                        "`join` takes strings, but item {place} is a {}",
                        part.kind()
                    ))
                })?;
                if place > 0 {
                    joined.push_str(text);
                }
                joined.push_str(part);
                ensure(state, joined.len())?;
            }
            Ok(Value::from(joined))
        }
        "replace" => {
            let [old, new, most] = bind(args, ["old", "new", "count"])?;
            let (old, new) = (required_string(old, "old")?, required_string(new, "new")?);
            let (old, new) = (&*old, &*new);
            let most = whole(&most, "count")?.and_then(|most| usize::try_from(most).ok());
            let count = text.matches(old).count().min(most.unwrap_or(usize::MAX));
            ensure(
                state,
                text.len().saturating_add(count.saturating_mul(new.len())),
            )?;
            Ok(Value::from(text.replacen(old, new, count)))
        }
        "encode" => {
            let [encoding, _] = bind(args, ["encoding", "errors"])?;
            let encoding = string(&encoding, "encoding")?.unwrap_or("utf-8");
            if !["utf-8", "utf8"].contains(&encoding.to_ascii_lowercase().as_str()) {
                return Err(wrong("only UTF-8 is supported by `encode`"));
            }
            Ok(Value::from_bytes(text.as_bytes().to_vec()))
        }
        "format_map" => {
            let [values] = bind(args, ["mapping"])?;
            let values = required(values, "mapping")?;
            let values: Vec<(String, Value)> = values
                .try_iter()?
                .map(|key| Ok((key.to_string(), values.get_item(&key)?)))
                .collect::<Result<_, Error>>()?;
            let values = [Value::from(Kwargs::from_iter(values))];
            pycompat::unknown_method_callback(state, value, "format", &values)
        }
        "format" => {
            let _: (&[Value], Kwargs) = from_args(args)?;
            pycompat::unknown_method_callback(state, value, method, args)
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// What a method without arguments makes of a text.
fn changed(text: &str, method: &str) -> Option<String> {
    Some(match method {
        "upper" => text.to_uppercase(),
        "lower" => text.to_lowercase(),
        "title" => title(text),
        "capitalize" => capitalize(text),
        // Close to Unicode's folding of case, which has tables of its own.
        "casefold" => {
            let upper = text.chars().flat_map(char::to_uppercase);
            upper.flat_map(char::to_lowercase).collect()
        }
        "swapcase" => {
            let mut swapped = String::with_capacity(text.len());
            for c in text.chars() {
                if c.is_uppercase() {
                    swapped.extend(c.to_lowercase());
                } else {
                    swapped.extend(c.to_uppercase());
                }
            }
            swapped
        }
        _ => return None,
    })
}

/// What a method without arguments says of a text.
fn property(text: &str, method: &str) -> Option<bool> {
    let all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    Some(match method {
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(|c| c.is_alphabetic() || c.is_numeric()),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_space),
        "isascii" => text.is_ascii(),
        "isprintable" => text.chars().all(is_printable),
        "islower" => text.chars().any(is_cased) && !text.chars().any(char::is_uppercase),
        "isupper" => text.chars().any(is_cased) && !text.chars().any(char::is_lowercase),
        "istitle" => text.chars().any(is_cased) && text == title(text),
        "isidentifier" => {
            let is_start = |c: char| c == '_' || c.is_alphabetic();
            text.starts_with(is_start) && text.chars().all(|c| is_start(c) || c.is_numeric())
        }
        _ => return None,
    })
}

pub fn strip<'a>(text: &'a str, method: &str, chars: Option<&str>) -> &'a str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    match method {
        "lstrip" => text.trim_start_matches(goes),
        "rstrip" => text.trim_end_matches(goes),
        _ => text.trim_matches(goes),
    }
}

fn split<'a>(text: &'a str, separator: &str, most: Option<usize>, from_end: bool) -> Vec<&'a str> {
    let parts = most.map_or(usize::MAX, |most| most.saturating_add(1));
    if !from_end {
        return text.splitn(parts, separator).collect();
    }
    let mut parts: Vec<_> = text.rsplitn(parts, separator).collect();
    parts.reverse();
    parts
}

/// Splits at white space, however long it is. The part that is not split further keeps the blanks on its far side.
fn words(text: &str, most: Option<usize>, from_end: bool) -> Vec<&str> {
    let near = if from_end { "rstrip" } else { "lstrip" };
    let (mut words, mut rest) = (Vec::new(), strip(text, near, None));
    while !rest.is_empty() {
        let is_last = most.is_some_and(|most| words.len() >= most);
        let place = match from_end {
            _ if is_last => None,
            true => rest.rfind(is_space),
            false => rest.find(is_space),
        };
        let (word, after) = match place {
            None => (rest, ""),
            Some(place) if from_end => {
                let blank = rest[place..].chars().next().map_or(0, char::len_utf8);
                (&rest[place + blank..], &rest[..place])
            }
            Some(place) => rest.split_at(place),
        };
        words.push(word);
        rest = strip(after, near, None);
    }
    if from_end {
        words.reverse();
    }
    words
}

/// The part of a text between two places, which may count from its end, and the number of characters before it. `None`: it
/// begins after the text's end.
fn within<'a>(
    text: &'a str,
    start: &Option<Value>,
    end: &Option<Value>,
) -> Result<Option<(&'a str, usize)>, Error> {
    let (start, end) = (whole(start, "start")?, whole(end, "end")?);
    if start.is_none() && end.is_none() {
        return Ok(Some((text, 0)));
    }
    let count = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let absolute = |place: i64| {
        if place < 0 {
            (place + count).max(0)
        } else {
            place
        }
    };
    let start = absolute(start.unwrap_or(0));
    let end = absolute(end.unwrap_or(count)).min(count);
    if start > end {
        return Ok(None);
    }
    let byte = |place: i64| {
        let place = usize::try_from(place).unwrap_or(0);
        text.char_indices()
            .nth(place)
            .map_or(text.len(), |(byte, _)| byte)
    };
    let part = &text[byte(start)..byte(end)];
    Ok(Some((part, usize::try_from(start).unwrap_or(0))))
}

pub fn padded(text: &str, method: &str, width: usize, fill: &str) -> String {
    let padding = width.saturating_sub(text.chars().count());
    match method {
        "ljust" => format!("{text}{}", fill.repeat(padding)),
        "rjust" => format!("{}{text}", fill.repeat(padding)),
        "zfill" => {
            let (sign, digits) = match text.strip_prefix(['+', '-']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", text),
            };
            format!("{sign}{}{digits}", "0".repeat(padding))
        }
        _ => {
            // Where Python puts the odd one.
            let left = padding / 2 + (padding & width & 1);
            let right = padding - left;
            format!("{}{text}{}", fill.repeat(left), fill.repeat(right))
        }
    }
}

fn expanded(text: &str, size: usize) -> String {
    let (mut expanded, mut column) = (String::with_capacity(text.len()), 0);
    for c in text.chars() {
        match c {
            '\t' if size > 0 => {
                let blanks = size - column % size;
                expanded.push_str(&" ".repeat(blanks));
                column += blanks;
            }
            '\t' => {}
            c => {
                expanded.push(c);
                column = if matches!(c, '\n' | '\r') {
                    0
                } else {
                    column + 1
                };
            }
        }
    }
    expanded
}
