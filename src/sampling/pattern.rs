//! The `pattern` of a JSON schema in llguidance's dialect of Lark, for texts that are not within JSON.

use llguidance::regex_to_lark;
use regex_syntax::ast::parse::Parser;

use super::look_ahead::{alternatives, conditions};

/// Terms that a text matches if all of them match it. `pattern` is found anywhere in a text, unless it says where. `None`: it
/// is no expression, or not supported.
pub fn pattern_in_lark(pattern: &str) -> Option<Vec<String>> {
    let conditions = conditions(pattern)?;
    let is_valid = |it: &String| Parser::new().parse(&regex_to_lark(it, "dw")).is_ok();
    let are_valid = conditions.iter().all(is_valid);
    are_valid.then(|| conditions.iter().map(|it| literal(it)).collect())
}

/// An expression that is found in a text, as one that matches all of it.
fn literal(pattern: &str) -> String {
    const ANY: &str = r"(.|\n)*";
    let alternatives = alternatives(pattern).into_iter().map(|pattern| {
        let inner = pattern.strip_prefix('^');
        let before = if inner.is_some() { "" } else { ANY };
        let inner = inner.unwrap_or(pattern);
        let whole = inner.strip_suffix('$').filter(|inner| !is_escaping(inner));
        let after = if whole.is_some() { "" } else { ANY };
        // It also sees to slashes, which would end the literal.
        let inner = regex_to_lark(whole.unwrap_or(inner), "dw");
        format!("{before}({inner}){after}")
    });
    format!("/{}/", alternatives.collect::<Vec<_>>().join("|"))
}

/// Whether a text ends with a backslash that escapes what follows.
fn is_escaping(text: &str) -> bool {
    let slashes = text.len() - text.trim_end_matches('\\').len();
    slashes % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_literals() {
        for (pattern, expect) in [
            ("^a$", &["/(a)/"][..]),
            ("a", &[r"/(.|\n)*(a)(.|\n)*/"]),
            (r"^https?:\/\/x$", &[r"/(https?:\/\/x)/"]),
            ("^a/b$", &[r"/(a\/b)/"]),
            (r"^a\\/b$", &[r"/(a\\\/b)/"]),
            ("^[/]\n$", &[r"/([\/]\n)/"]),
            (r"^a\$", &[r"/(a\$)(.|\n)*/"]),
            (r"^a\\$", &[r"/(a\\)/"]),
            ("^a|b$", &[r"/(a)(.|\n)*|(.|\n)*(b)/"]),
            (r"^\d$", &["/([0-9])/"]),
            (
                "^(?=.*a)(?=b)c$",
                &[r"/((?:.*a))(.|\n)*/", r"/((?:b))(.|\n)*/", "/(c)/"],
            ),
            // Nothing leaves the literal. In JSON, too, a backslash at the end is nothing.
            (r"^a\", &[r"/(a)(.|\n)*/"]),
            (r"^a/ b: /c$", &[r"/(a\/ b: \/c)/"]),
        ] {
            let terms = pattern_in_lark(pattern);
            assert_eq!(terms.expect(pattern), expect, "{pattern}");
        }
        for pattern in ["^a)(b$", "^(?!a)b", "a)|(b"] {
            assert_eq!(pattern_in_lark(pattern), None, "{pattern}");
        }
    }
}
