//! The text of a template, rewritten where minijinja reads it otherwise than Jinja2 does, or not at all: line ends, escapes
//! in strings, a sign before a number, and the tag `{% generation %}` of transformers.

/// A template as minijinja is to read it. An error names what it cannot have.
pub fn source(template: &str) -> Result<String, String> {
    let template = template.replace("\r\n", "\n").replace('\r', "\n");
    let mut reader = Reader {
        rest: &template,
        written: String::with_capacity(template.len()),
    };
    while let Some(start) = reader.rest.find('{') {
        reader.copy(start);
        match reader.rest.as_bytes().get(1) {
            Some(b'#') => {
                let end = reader.rest.find("#}");
                reader.copy(end.map_or(reader.rest.len(), |end| end + 2));
            }
            Some(b'%') if is_tag(reader.rest, "raw") => reader.raw(),
            Some(b'%') => reader.code("%}")?,
            Some(b'{') => reader.code("}}")?,
            _ => reader.copy(1),
        }
    }
    reader.copy(reader.rest.len());
    Ok(reader.written)
}

/// Whether a text begins with `{% name %}`.
fn is_tag(text: &str, name: &str) -> bool {
    let word = text.trim_start_matches("{%").trim_start_matches(['-', '+']);
    let after = word.trim_start().strip_prefix(name);
    let end = after.map(|after| after.trim_start().trim_start_matches(['-', '+']));
    end.is_some_and(|end| end.starts_with("%}"))
}

struct Reader<'a> {
    rest: &'a str,
    written: String,
}

/// What came before in an expression.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    /// A value has ended, so that `+` adds to it.
    Value,
    /// A value begins here, so that `+` is its sign.
    Operator,
}

/// Words after which a value begins. None of them is the name of a variable.
const WORDS: [&str; 8] = ["and", "elif", "else", "if", "in", "is", "not", "or"];

impl Reader<'_> {
    fn copy(&mut self, length: usize) {
        let (copied, rest) = self.rest.split_at(length);
        self.written.push_str(copied);
        self.rest = rest;
    }

    /// Copies a raw block up to its end. Its first line ends stay, which minijinja takes for those of the tag.
    fn raw(&mut self) {
        let tag = self.rest.find("%}").map_or(self.rest.len(), |end| end + 2);
        let removes = self.rest[..tag].ends_with("-%}");
        self.copy(tag);
        let lines = self.rest.len() - self.rest.trim_start_matches('\n').len();
        if lines > 0 && !removes {
            let ends = "\\n".repeat(lines);
            self.written
                .push_str(&format!("{{% endraw %}}{{{{ '{ends}' }}}}{{% raw %}}"));
            self.rest = &self.rest[lines..];
        }
        let mut tags = self.rest.match_indices("{%").map(|(place, _)| place);
        let end = tags.find(|place| is_tag(&self.rest[*place..], "endraw"));
        self.copy(end.unwrap_or(self.rest.len()));
    }

    /// Copies a tag or an expression up to its end.
    fn code(&mut self, end: &str) -> Result<(), String> {
        for (name, instead) in [("generation", "with"), ("endgeneration", "endwith")] {
            if end == "%}" && is_tag(self.rest, name) {
                let length = self.rest.find(end).map_or(self.rest.len(), |it| it + 2);
                let (tag, rest) = self.rest.split_at(length);
                self.written.push_str(&tag.replace(name, instead));
                self.rest = rest;
                return Ok(());
            }
        }
        self.copy(2);
        // The sign for white space.
        if self.rest.starts_with(['-', '+']) {
            self.copy(1);
        }
        let (mut depth, mut before) = (0_usize, Before::Operator);
        while let Some(c) = self.rest.chars().next() {
            let signed = self.rest.strip_prefix(['-', '+']).unwrap_or(self.rest);
            if depth == 0 && (self.rest.starts_with(end) || signed.starts_with(end)) {
                self.copy(self.rest.len() - signed.len() + end.len());
                return Ok(());
            }
            match c {
                '\'' | '"' => {
                    self.string(c)?;
                    before = Before::Value;
                }
                '(' | '[' | '{' => {
                    depth += 1;
                    self.copy(1);
                    before = Before::Operator;
                }
                ')' | ']' | '}' => {
                    depth = depth.saturating_sub(1);
                    self.copy(1);
                    before = Before::Value;
                }
                '+' if before == Before::Operator => self.rest = &self.rest[1..],
                c if c == '_' || c.is_alphanumeric() => {
                    let is_end = |c: char| c != '_' && !c.is_alphanumeric();
                    let length = self.rest.find(is_end).unwrap_or(self.rest.len());
                    let is_word = WORDS.contains(&&self.rest[..length]);
                    before = if is_word && !self.written.ends_with('.') {
                        Before::Operator
                    } else {
                        Before::Value
                    };
                    self.copy(length);
                    self.exponent(c);
                }
                c if c.is_whitespace() => self.copy(c.len_utf8()),
                c => {
                    self.copy(c.len_utf8());
                    before = Before::Operator;
                }
            }
        }
        Ok(())
    }

    /// The `+5` of `1e+5`.
    fn exponent(&mut self, first: char) {
        if first.is_ascii_digit()
            && self.written.ends_with(['e', 'E'])
            && self.rest.starts_with('+')
        {
            self.copy(1);
        }
    }

    /// Copies a string. Its escapes are those of Python.
    fn string(&mut self, quote: char) -> Result<(), String> {
        self.copy(1);
        loop {
            let Some(place) = self.rest.find(['\\', quote]) else {
                self.copy(self.rest.len());
                return Ok(());
            };
            self.copy(place);
            if self.rest.starts_with(quote) {
                self.copy(1);
                return Ok(());
            }
            let escaped = self.rest[1..].chars().next();
            match escaped {
                None => self.copy(1),
                Some('\n') => self.rest = &self.rest[2..],
                Some('a') => self.escape(2, "\\x07"),
                Some('v') => self.escape(2, "\\x0b"),
                Some('/') => self.escape(2, "\\\\/"),
                Some('U') => {
                    let digits = self.rest.get(2..10).unwrap_or_default();
                    let code = u32::from_str_radix(digits, 16).ok();
                    let c = code.and_then(char::from_u32);
                    let c = c.ok_or_else(|| format!("`\\U{digits}` is not a character"))?;
                    self.escape(10, &c.to_string());
                }
                Some('N') if self.rest[2..].starts_with('{') => {
                    let length = self.rest.find('}').map_or(self.rest.len(), |end| end + 1);
                    let name = &self.rest[..length];
                    return Err(format!("names of characters are not supported: `{name}`"));
                }
                Some(c) => self.copy(1 + c.len_utf8()),
            }
        }
    }

    fn escape(&mut self, length: usize, instead: &str) {
        self.written.push_str(instead);
        self.rest = &self.rest[length..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_minijinja_reads_otherwise_is_rewritten() {
        let check = |template: &str, expect: &str| {
            assert_eq!(source(template).as_deref(), Ok(expect), "{template}");
        };
        for same in [
            "a + b {{ a + b }} {{ 1 + +1e+5 ~ '+' }}",
            "{% if a %}+{% endif +%} {%+ if b %} {{- -a -}} {# {{ +a }} #}",
            "{% raw %}{{ +a '\\v' }}{% endraw %} {{ {'a': {'b': '}}'}} }}",
            "{{ '\\n\\x41\\u00e9\\'' }} {{ a[+1:][1] }} {{ 'open",
            "{% for call in calls %}{{ call + a.if + set }}{% endfor %}",
        ] {
            check(same, &same.replace("+ +1", "+ 1").replace("[+1", "[1"));
        }
        check("a\r\nb\rc", "a\nb\nc");
        check("{{ +a }}{{ f(+1, b=+2) }}", "{{ a }}{{ f(1, b=2) }}");
        check("{% if +a in +b %}", "{% if a in b %}");
        check("{{ '\\v\\/\\U0001F600\\\nx' }}", "{{ '\\x0b\\\\/😀x' }}");
        check(
            "{%- generation -%}a{% endgeneration %}",
            "{%- with -%}a{% endwith %}",
        );
        check(
            "{%- raw %}\n\na{{{% endraw %}\n",
            "{%- raw %}{% endraw %}{{ '\\n\\n' }}{% raw %}a{{{% endraw %}\n",
        );
        let error = source("{{ '\\N{BULLET}' }}").expect_err("not supported");
        assert!(error.contains("\\N{BULLET}"), "{error}");
    }
}
