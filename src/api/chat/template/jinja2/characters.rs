//! What Python knows about characters.

/// The first digits of Unicode's decimal systems in its first plane: each has ten, one after another.
const DECIMAL_ZEROS: [u32; 37] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66,
    0xde6, 0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90,
    0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
];

/// White space: Unicode's, and four separators of ASCII.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// A digit of a decimal system.
pub fn is_decimal(c: char) -> bool {
    DECIMAL_ZEROS
        .iter()
        .any(|zero| (*zero..zero + 10).contains(&u32::from(c)))
}

/// A digit, which may be raised, lowered or in a circle.
pub fn is_digit(c: char) -> bool {
    is_decimal(c)
        || matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐' | '⓪' | '⓵'..='⓽' | '⓿' | '❶'..='❾' | '➀'..='➈' | '➊'..='➒')
}

/// A letter that has a case.
pub fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

/// The lines of a text, with their ends: Python knows ten kinds.
pub fn lines(text: &str) -> Vec<(&str, &str)> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let is_end = |c: char| {
            matches!(
                c,
                '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                    ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
            )
        };
        let Some(start) = rest.find(is_end) else {
            lines.push((rest, ""));
            break;
        };
        let (line, after) = rest.split_at(start);
        let length = match after.strip_prefix("\r\n") {
            Some(_) => 2,
            None => after.chars().next().map_or(0, char::len_utf8),
        };
        let (end, after) = after.split_at(length);
        lines.push((line, end));
        rest = after;
    }
    lines
}

/// The first letter of each word in upper case, the others in lower case. A word ends at what has no case: `'` does.
pub fn title(text: &str) -> String {
    let mut after_cased = false;
    let mut title = String::with_capacity(text.len());
    for c in text.chars() {
        if after_cased {
            title.extend(c.to_lowercase());
        } else {
            push_title(&mut title, c);
        }
        after_cased = is_cased(c);
    }
    title
}

/// The first character in upper case, the others in lower case.
pub fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    let mut capitalized = String::with_capacity(text.len());
    if let Some(first) = characters.next() {
        push_title(&mut capitalized, first);
    }
    capitalized.push_str(&characters.as_str().to_lowercase());
    capitalized
}

fn push_title(text: &mut String, c: char) {
    let mut upper = c.to_uppercase();
    text.extend(upper.next());
    text.extend(upper.flat_map(char::to_lowercase));
}
