//! Expressions that begin with look-aheads, as for passwords: `^(?=.*[0-9])(?=.*[a-z]).{8,}$`. The engines know none, but
//! each is a condition of its own on the whole text.

use regex_syntax::ast::ErrorKind;
use regex_syntax::ast::parse::Parser;

/// An expression divided at its look-aheads.
#[derive(Debug, PartialEq, Eq)]
struct LookAheads<'a> {
    /// What the text must begin with.
    required: Vec<&'a str>,
    /// The expression without them.
    rest: &'a str,
}

impl<'a> LookAheads<'a> {
    /// `None`: it does not begin with any.
    fn split(expression: &'a str) -> Option<Self> {
        let mut split = Self {
            required: Vec::new(),
            rest: expression.strip_prefix('^')?,
        };
        while let Some(inner) = split.rest.strip_prefix("(?=") {
            let end = outside(inner).find(|&(_, c)| c == ')')?.0;
            split.required.push(&inner[..end]);
            split.rest = &inner[end + 1..];
        }
        // They belong to the first alternative only.
        let has_alternatives = outside(split.rest).any(|(_, c)| c == '|');
        (!split.required.is_empty() && !has_alternatives).then_some(split)
    }
}

/// Expressions without look-around that all match a text if this one does, the last of them without its look-aheads. `None`:
/// it has other look-around.
pub fn conditions(expression: &str) -> Option<Vec<String>> {
    if !has_look_around(expression) {
        return Some(vec![expression.to_owned()]);
    }
    let split = LookAheads::split(expression)?;
    let required = split.required.iter();
    let mut all: Vec<String> = required.map(|ahead| format!("^(?:{ahead})")).collect();
    all.push(format!("^{}", split.rest));
    let is_plain = !all.iter().any(|condition| has_look_around(condition));
    is_plain.then_some(all)
}

/// The alternatives of an expression that are not within a group.
pub fn alternatives(expression: &str) -> Vec<&str> {
    let mut all = Vec::new();
    let mut start = 0;
    for (place, _) in outside(expression).filter(|&(_, c)| c == '|') {
        all.push(&expression[start..place]);
        start = place + 1;
    }
    all.push(&expression[start..]);
    all
}

/// Whether an expression has look-around anywhere.
pub fn has_look_around(expression: &str) -> bool {
    let parsed = Parser::new().parse(expression);
    parsed.is_err_and(|error| matches!(error.kind(), ErrorKind::UnsupportedLookAround))
}

/// The characters of an expression that are outside of groups and classes and have a meaning, up to the end of the group
/// that it may be within.
fn outside(expression: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut depth, mut in_class, mut escaped) = (0_usize, false, false);
    expression.char_indices().filter(move |&(_, c)| {
        if escaped || c == '\\' {
            escaped = !escaped;
            return false;
        }
        match c {
            '[' => in_class = true,
            ']' => in_class = false,
            _ if in_class => {}
            '(' => depth += 1,
            ')' if depth > 0 => depth -= 1,
            _ => return depth == 0,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_aheads_at_the_beginning_are_split_off() {
        let split = |expression| {
            let split = LookAheads::split(expression)?;
            Some((split.required, split.rest))
        };
        assert_eq!(
            split(r"^(?=.*[)\d])(?=(a|b)\)).{8,}(x|y)$"),
            Some((vec![r".*[)\d]", r"(a|b)\)"], ".{8,}(x|y)$")),
        );
        for expression in ["^a(?=b)", "(?=a)", "^(?=a", "^a$", "", "^(?=a)b|c"] {
            assert_eq!(split(expression), None, "{expression}");
        }
    }

    #[test]
    fn alternatives_are_those_outside_of_groups() {
        assert_eq!(
            alternatives(r"^a(b|c)|[|]\||d$"),
            [r"^a(b|c)", r"[|]\|", "d$"]
        );
        assert_eq!(alternatives(""), [""]);
    }

    #[test]
    fn look_around_is_seen_where_it_is_none_of_the_text() {
        for expression in ["a(?=b)", "(?!a)", "(?<=a)b", "(?<!a)b"] {
            assert!(has_look_around(expression), "{expression}");
        }
        for expression in [r"\(?=a", "[(?=]", "(?:a)", "(a", ""] {
            assert!(!has_look_around(expression), "{expression}");
        }
    }
}
