//! Jinja2's filters and tests, where minijinja's have other results or take other arguments.

use minijinja::value::{DynObject, Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, State, Value, filters};

use super::args::{bind_both, ensure, required, string, truth, whole, wrong};
use super::characters::{capitalize, is_space};
use super::methods::{padded, strip};
use super::percent::percent;
use super::text::{is_dict, repr, text};

pub fn add(environment: &mut Environment) {
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("string", |state: &State, value: &Value| text(state, value));
    environment.add_filter("join", join);
    environment.add_filter("trim", trim);
    environment.add_filter("title", title);
    environment.add_filter("capitalize", |state: &State, value: &Value| {
        text(state, value).map(|text| capitalize(&text))
    });
    environment.add_filter("replace", replace);
    environment.add_filter("truncate", truncate);
    environment.add_filter("wordcount", wordcount);
    environment.add_filter("wordwrap", wordwrap);
    environment.add_filter("indent", indent);
    environment.add_filter("center", center);
    environment.add_filter("format", format);
    environment.add_filter("urlencode", urlencode);
    for name in ["e", "escape", "forceescape"] {
        environment.add_filter(name, escape);
    }
    for name in ["default", "d"] {
        environment.add_filter(name, default);
    }
    environment.add_filter("attr", attr);
    environment.add_filter("batch", batch);
    environment.add_filter("slice", slice);
    environment.add_filter("pprint", pprint);
    // These have the same results, but take their arguments by name only.
    environment.add_filter(
        "sort",
        |state: &State, value: Value, args: Rest<Value>, by_name: Kwargs| {
            let named = named(&args, &by_name, ["reverse", "case_sensitive", "attribute"])?;
            filters::sort(state, value, named)
        },
    );
    environment.add_filter(
        "unique",
        |state: &State, value: Value, args: Rest<Value>, by_name: Kwargs| {
            let named = named(&args, &by_name, ["case_sensitive", "attribute"])?;
            filters::unique(state, value, named)
        },
    );
    environment.add_filter(
        "min",
        |state: &State, value: Value, args: Rest<Value>, by_name: Kwargs| {
            filters::min(
                state,
                value,
                named(&args, &by_name, ["case_sensitive", "attribute"])?,
            )
        },
    );
    environment.add_filter(
        "max",
        |state: &State, value: Value, args: Rest<Value>, by_name: Kwargs| {
            filters::max(
                state,
                value,
                named(&args, &by_name, ["case_sensitive", "attribute"])?,
            )
        },
    );
    environment.add_filter(
        "dictsort",
        |value: &Value, args: Rest<Value>, by_name: Kwargs| {
            filters::dictsort(
                value,
                named(&args, &by_name, ["case_sensitive", "by", "reverse"])?,
            )
        },
    );
    environment.add_test("iterable", |value: &Value| {
        let iterates = [ValueKind::Seq, ValueKind::Iterable, ValueKind::Bytes];
        has_length(value) || iterates.contains(&value.kind())
    });
    environment.add_test("sequence", |value: &Value| {
        has_length(value) || [ValueKind::Seq, ValueKind::Bytes].contains(&value.kind())
    });
    environment.add_test("mapping", is_dict);
    environment.add_test("callable", |value: &Value| {
        let is_macro = |object: &DynObject| object.type_name().ends_with("Macro");
        let object = value.as_object();
        object.is_some_and(|object| value.kind() == ValueKind::Plain || is_macro(object))
    });
}

/// Strings, dictionaries, and what is undefined, which counts as empty.
fn has_length(value: &Value) -> bool {
    value.is_undefined() || value.as_str().is_some() || is_dict(value)
}

/// The arguments as if all were given by name.
fn named<const N: usize>(
    args: &[Value],
    by_name: &Kwargs,
    names: [&str; N],
) -> Result<Kwargs, Error> {
    let bound = bind_both(args, by_name, names)?;
    let given = names.into_iter().zip(bound);
    let given = given.filter_map(|(name, value)| Some((name, value?)));
    Ok(Kwargs::from_iter(given))
}

fn int(value: &Value, args: Rest<Value>, by_name: Kwargs) -> Result<Value, Error> {
    let [default, base] = bind_both(&args, &by_name, ["default", "base"])?;
    if value.is_undefined() {
        return Err(wrong("`int` of an undefined value"));
    }
    let base = whole(&base, "base")?.unwrap_or(10);
    let base = u32::try_from(base)
        .ok()
        .filter(|base| (2..=36).contains(base));
    let base = base.ok_or_else(|| wrong("`base` must be from 2 to 36"))?;
    let number = match value.as_str() {
        Some(text) => parse_int(text, base).map(Value::from).or_else(|| {
            let number = parse_float(text).filter(|number| number.is_finite());
            number.map(|number| Value::from(number as i128))
        }),
        None => match value.kind() {
            ValueKind::Bool => Some(Value::from(i64::from(value.is_true()))),
            ValueKind::Number if value.is_integer() => Some(value.clone()),
            ValueKind::Number => {
                let number = f64::try_from(value.clone()).ok();
                let number = number.filter(|number| number.is_finite());
                number.map(|number| Value::from(number as i128))
            }
            _ => None,
        },
    };
    Ok(number.unwrap_or_else(|| default.unwrap_or_else(|| Value::from(0))))
}

/// `int(text, base)`.
fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = strip(text, "strip", None);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let digits = match digits.get(..prefix.len()) {
        Some(start) if !prefix.is_empty() && start.eq_ignore_ascii_case(prefix) => {
            &digits[prefix.len()..]
        }
        _ => digits,
    };
    let digits = without_underscores(digits)?;
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from_str_radix(&digits, base).ok()?;
    Some(if negative { -number } else { number })
}

/// Python allows one underscore between two digits.
fn without_underscores(digits: &str) -> Option<String> {
    let is_wrong = digits.starts_with('_') || digits.ends_with('_') || digits.contains("__");
    (!is_wrong).then(|| digits.replace('_', ""))
}

fn float(value: &Value, args: Rest<Value>, by_name: Kwargs) -> Result<Value, Error> {
    let [default] = bind_both(&args, &by_name, ["default"])?;
    if value.is_undefined() {
        return Err(wrong("`float` of an undefined value"));
    }
    let number = match value.as_str() {
        Some(text) => parse_float(text),
        None => match value.kind() {
            ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
            ValueKind::Number => f64::try_from(value.clone()).ok(),
            _ => None,
        },
    };
    Ok(match number {
        Some(number) => Value::from(number),
        None => default.unwrap_or_else(|| Value::from(0.0)),
    })
}

/// `float(text)`.
fn parse_float(text: &str) -> Option<f64> {
    let text = without_underscores(strip(text, "strip", None))?;
    text.parse().ok()
}

fn join(
    state: &mut State,
    value: &Value,
    args: Rest<Value>,
    by_name: Kwargs,
) -> Result<String, Error> {
    let [between, attribute] = bind_both(&args, &by_name, ["d", "attribute"])?;
    let between = match &between {
        Some(between) => text(state, between)?,
        None => String::new(),
    };
    let items = match attribute.filter(|attribute| !attribute.is_none()) {
        Some(attribute) => {
            let by = Value::from(Kwargs::from_iter([("attribute", attribute)]));
            state.apply_filter("map", &[value.clone(), by])?
        }
        None => value.clone(),
    };
    let mut joined = String::new();
    for (place, item) in items.try_iter()?.checked().enumerate() {
        if place > 0 {
            joined.push_str(&between);
        }
        joined.push_str(&text(state, &item?)?);
        ensure(state, joined.len())?;
    }
    Ok(joined)
}

fn trim(state: &State, value: &Value, args: Rest<Value>, by_name: Kwargs) -> Result<String, Error> {
    let [chars] = bind_both(&args, &by_name, ["chars"])?;
    let text = text(state, value)?;
    Ok(strip(&text, "strip", string(&chars, "chars")?).to_owned())
}

/// Words begin after white space and after `-`, `(`, `{`, `[` and `<`.
fn title(state: &State, value: &Value) -> Result<String, Error> {
    let mut title = String::new();
    let mut word = String::new();
    for c in text(state, value)?.chars() {
        if is_space(c) || "-({[<".contains(c) {
            title.push_str(&capitalize(&word));
            word.clear();
            title.push(c);
        } else {
            word.push(c);
        }
    }
    title.push_str(&capitalize(&word));
    Ok(title)
}

fn replace(
    state: &State,
    value: &Value,
    args: Rest<Value>,
    by_name: Kwargs,
) -> Result<String, Error> {
    let [old, new, most] = bind_both(&args, &by_name, ["old", "new", "count"])?;
    let whole_text = text(state, value)?;
    let old = text(state, &required(old, "old")?)?;
    let new = text(state, &required(new, "new")?)?;
    let most = whole(&most, "count")?.and_then(|most| usize::try_from(most).ok());
    let count = whole_text
        .matches(&old)
        .count()
        .min(most.unwrap_or(usize::MAX));
    ensure(
        state,
        whole_text
            .len()
            .saturating_add(count.saturating_mul(new.len())),
    )?;
    Ok(whole_text.replacen(&old, &new, count))
}

fn truncate(
    state: &State,
    value: &Value,
    args: Rest<Value>,
    by_name: Kwargs,
) -> Result<String, Error> {
    let names = ["length", "killwords", "end", "leeway"];
    let [length, killwords, end, leeway] = bind_both(&args, &by_name, names)?;
    let size = |value: &Option<Value>, name, default| {
        let size = whole(value, name)?.map(|size| usize::try_from(size).unwrap_or(0));
        Ok::<_, Error>(size.unwrap_or(default))
    };
    let length = size(&length, "length", 255)?;
    let leeway = size(&leeway, "leeway", 5)?;
    let end = string(&end, "end")?.unwrap_or("...");
    let text = text(state, value)?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept = length
        .checked_sub(end.chars().count())
        .ok_or_else(|| wrong("`length` is less than the length of `end`"))?;
    let kept: String = text.chars().take(kept).collect();
    let kept = match kept.rsplit_once(' ') {
        Some((words, _)) if !truth(&killwords) => words,
        _ => &kept,
    };
    Ok(format!("{kept}{end}"))
}

fn wordcount(state: &State, value: &Value) -> Result<usize, Error> {
    let text = text(state, value)?;
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    Ok(words.filter(|word| !word.is_empty()).count())
}

/// Python's `textwrap.wrap`, applied to each line.
fn wordwrap(
    state: &State,
    value: &Value,
    args: Rest<Value>,
    by_name: Kwargs,
) -> Result<String, Error> {
    let names = [
        "width",
        "break_long_words",
        "wrapstring",
        "break_on_hyphens",
    ];
    let [width, break_long, wrap, hyphens] = bind_both(&args, &by_name, names)?;
    let width = whole(&width, "width")?.unwrap_or(79);
    let width = usize::try_from(width).ok().filter(|width| *width > 0);
    let width = width.ok_or_else(|| wrong("`width` must be more than 0"))?;
    let break_long = break_long.is_none_or(|value| value.is_true());
    let wrap = string(&wrap, "wrapstring")?.unwrap_or("\n");
    let text = text(state, value)?;
    if text.contains('-') && hyphens.is_none_or(|value| value.is_true()) {
        return Err(wrong(
            "`wordwrap` of a text with hyphens needs `break_on_hyphens=false`",
        ));
    }
    let mut lines: Vec<String> = Vec::new();
    for line in super::characters::lines(&text) {
        let mut current = String::new();
        let mut length = 0;
        for part in chunks(line.0) {
            let size = part.chars().count();
            if length + size <= width {
                current.push_str(part);
                length += size;
                continue;
            }
            let mut rest = part;
            if size > width && break_long {
                let room = width - length;
                let cut = rest
                    .char_indices()
                    .nth(room)
                    .map_or(rest.len(), |(at, _)| at);
                let (start, after) = rest.split_at(cut);
                current.push_str(start);
                rest = after;
            }
            lines.push(std::mem::take(&mut current).trim_end().to_owned());
            length = 0;
            while break_long && rest.chars().count() > width {
                let cut = rest
                    .char_indices()
                    .nth(width)
                    .map_or(rest.len(), |(at, _)| at);
                lines.push(rest[..cut].to_owned());
                rest = &rest[cut..];
            }
            if !rest.trim().is_empty() {
                current.push_str(rest);
                length = rest.chars().count();
            }
        }
        lines.push(current.trim_end().to_owned());
    }
    ensure(
        state,
        text.len()
            .saturating_add(lines.len().saturating_mul(wrap.len())),
    )?;
    Ok(lines.join(wrap))
}

/// Words and the white space between them.
fn chunks(line: &str) -> Vec<&str> {
    let (mut chunks, mut rest) = (Vec::new(), line);
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_space(c) != is_space(first));
        let (chunk, after) = rest.split_at(end.unwrap_or(rest.len()));
        chunks.push(chunk);
        rest = after;
    }
    chunks
}

fn indent(
    state: &State,
    value: &Value,
    args: Rest<Value>,
    by_name: Kwargs,
) -> Result<String, Error> {
    let [width, first, blank] = bind_both(&args, &by_name, ["width", "first", "blank"])?;
    let indention = match width.as_ref().and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None => {
            let width = usize::try_from(whole(&width, "width")?.unwrap_or(4)).unwrap_or(0);
            ensure(state, width)?;
            " ".repeat(width)
        }
    };
    let text = text(state, value)?;
    let lines = super::characters::lines(&text);
    let ends_with_line = lines.last().is_none_or(|(_, end)| !end.is_empty());
    let mut lines: Vec<&str> = lines.into_iter().map(|(line, _)| line).collect();
    // Jinja2 adds a line end, so that a last one is not lost.
    if ends_with_line {
        lines.push("");
    }
    ensure(
        state,
        text.len()
            .saturating_add(lines.len().saturating_mul(indention.len())),
    )?;
    let mut indented = String::new();
    for (place, line) in lines.into_iter().enumerate() {
        if place > 0 {
            indented.push('\n');
        }
        let wants = match place {
            0 => truth(&first),
            _ => truth(&blank) || !line.is_empty(),
        };
        if wants {
            indented.push_str(&indention);
        }
        indented.push_str(line);
    }
    Ok(indented)
}

fn center(
    state: &State,
    value: &Value,
    args: Rest<Value>,
    by_name: Kwargs,
) -> Result<String, Error> {
    let [width] = bind_both(&args, &by_name, ["width"])?;
    let width = usize::try_from(whole(&width, "width")?.unwrap_or(80)).unwrap_or(0);
    ensure(state, width)?;
    Ok(padded(&text(state, value)?, "center", width, " "))
}

fn format(
    state: &State,
    value: &Value,
    args: Rest<Value>,
    by_name: Kwargs,
) -> Result<String, Error> {
    let names: Vec<&str> = by_name.args().collect();
    let values = match names.is_empty() {
        true => Value::from(minijinja::value::Tuple::from(&args[..])),
        false if args.is_empty() => names
            .iter()
            .map(|name| Ok((*name, by_name.get::<Value>(name)?)))
            .collect::<Result<Vec<_>, Error>>()
            .map(Value::from_pairs)?,
        false => return Err(wrong("`format` takes values by place or by name, not both")),
    };
    percent(state, &text(state, value)?, &values)
}

fn urlencode(state: &State, value: &Value) -> Result<String, Error> {
    if value.as_str().is_some() {
        return Ok(quoted(value.as_str().unwrap_or_default(), "/", "%20"));
    }
    let pairs: Vec<(Value, Value)> = match value.kind() {
        ValueKind::Map => value
            .try_iter()?
            .map(|key| Ok((key.clone(), value.get_item(&key)?)))
            .collect::<Result<_, Error>>()?,
        ValueKind::Seq | ValueKind::Iterable => value
            .try_iter()?
            .map(|pair| Ok((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?)))
            .collect::<Result<_, Error>>()?,
        _ => return Ok(quoted(&text(state, value)?, "/", "%20")),
    };
    let mut written = String::new();
    for (name, value) in pairs {
        if !written.is_empty() {
            written.push('&');
        }
        written.push_str(&quoted(&text(state, &name)?, "", "+"));
        written.push('=');
        written.push_str(&quoted(&text(state, &value)?, "", "+"));
    }
    Ok(written)
}

/// Percent-encoded, except letters, digits, `_.-~` and what is `safe`.
fn quoted(text: &str, safe: &str, space: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if byte.is_ascii_alphanumeric() || "_.-~".contains(c) || safe.contains(c) {
            written.push(c);
        } else if byte == b' ' {
            written.push_str(space);
        } else {
            written.push_str(&format!("%{byte:02X}"));
        }
    }
    written
}

fn escape(state: &State, value: &Value) -> Result<Value, Error> {
    Ok(Value::from_safe_string(escaped(&text(state, value)?)))
}

/// A text as HTML.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn default(value: &Value, args: Rest<Value>, by_name: Kwargs) -> Result<Value, Error> {
    let [default, boolean] = bind_both(&args, &by_name, ["default_value", "boolean"])?;
    if value.is_undefined() || truth(&boolean) && !value.is_true() {
        return Ok(default.unwrap_or_else(|| Value::from("")));
    }
    Ok(value.clone())
}

/// An attribute, which is never an item: dictionaries and lists have none that can be shown.
fn attr(value: &Value, name: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => Ok(Value::UNDEFINED),
        ValueKind::Map if is_dict(value) => Ok(Value::UNDEFINED),
        _ => filters::attr(value, name),
    }
}

fn batch(state: &State, value: Value, args: Rest<Value>, by_name: Kwargs) -> Result<Value, Error> {
    let [count, fill] = bind_both(&args, &by_name, ["linecount", "fill_with"])?;
    let count = required(count, "linecount")?;
    filters::batch(state, value, usize::try_from(count)?, fill)
}

fn slice(state: &State, value: Value, args: Rest<Value>, by_name: Kwargs) -> Result<Value, Error> {
    let [count, fill] = bind_both(&args, &by_name, ["slices", "fill_with"])?;
    let count = required(count, "slices")?;
    filters::slice(state, value, usize::try_from(count)?, fill)
}

/// The length of a line beyond which Python's `pprint` breaks it.
const PPRINT_WIDTH: usize = 80;

fn pprint(state: &State, value: &Value) -> Result<String, Error> {
    let sorted = sorted(value)?;
    let text = repr(state, &sorted)?;
    if text.chars().count() >= PPRINT_WIDTH {
        return Err(wrong(
            "`pprint` of a value longer than a line is not supported; use `tojson`",
        ));
    }
    Ok(text)
}

/// A value whose dictionaries are sorted by their keys.
fn sorted(value: &Value) -> Result<Value, Error> {
    Ok(match value.kind() {
        ValueKind::Seq if !value.is_tuple() => value
            .try_iter()?
            .map(|item| sorted(&item))
            .collect::<Result<Value, Error>>()?,
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            keys.sort();
            let pairs = keys.into_iter().map(|key| {
                let item = sorted(&value.get_item(&key)?)?;
                Ok((key, item))
            });
            Value::from_pairs(pairs.collect::<Result<Vec<_>, Error>>()?)
        }
        _ => value.clone(),
    })
}
