//! Parses GBNF into rules.

use std::collections::HashMap;

use super::error::GrammarError;
use crate::model::Token;

/// The deepest nesting of groups: parsing and compiling them recurses.
const MAX_DEPTH: usize = 64;
/// The most signs of repetition in a row, for the same reason.
const MAX_SIGNS: usize = 8;
/// The most rules: the search for left recursion recurses.
const MAX_RULES: usize = 4096;
/// llama.cpp refuses `S{m}` above this, and treats `S{m,n}` as unbounded.
const MAX_REPETITIONS: usize = 2000;

/// A part of an alternative.
#[derive(Debug)]
pub(super) enum Part {
    Text(Vec<u32>),
    /// One character from these ranges.
    Class(Vec<(u32, u32)>),
    /// One token, or any token except this.
    Token {
        token: Token,
        not: bool,
    },
    Rule(usize),
    Group(Vec<Vec<Part>>),
    Repeat {
        parts: Vec<Part>,
        least: usize,
        most: Option<usize>,
    },
}

#[derive(Debug)]
pub(super) struct Rule {
    /// Shortened for messages.
    pub name: String,
    /// Alternatives; `None` if the rule has only been used so far.
    pub body: Option<Vec<Vec<Part>>>,
}

/// Parses rules; they include `root`, and each has a body. `named` finds a token by its text, as in `<text>`, or by its id,
/// as in `<[42]>`.
pub(super) fn read(
    gbnf: &str,
    named: &dyn Fn(&str) -> Option<Token>,
) -> Result<Vec<Rule>, GrammarError> {
    let rules = Reader {
        rest: gbnf.chars().peekable(),
        line: 1,
        rules: Vec::new(),
        names: HashMap::new(),
        named,
    }
    .rules()?;
    if !rules
        .iter()
        .any(|rule| rule.name == "root" && rule.body.is_some())
    {
        return Err(GrammarError::NoRoot);
    }
    match rules.iter().find(|rule| rule.body.is_none()) {
        Some(rule) => Err(GrammarError::Undefined {
            rule: rule.name.clone(),
        }),
        None => Ok(rules),
    }
}

struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
    rules: Vec<Rule>,
    names: HashMap<String, usize>,
    named: &'a dyn Fn(&str) -> Option<Token>,
}

impl Reader<'_> {
    fn rules(mut self) -> Result<Vec<Rule>, GrammarError> {
        loop {
            self.space(true);
            if self.rest.peek().is_none() {
                return Ok(self.rules);
            }
            let name = self.name();
            if name.is_empty() {
                return Err(self.syntax("expected the name of a rule"));
            }
            self.space(false);
            for expected in "::=".chars() {
                if self.next() != Some(expected) {
                    return Err(self.syntax("expected \"::=\" after the name of a rule"));
                }
            }
            self.space(true);
            let id = self.rule(name)?;
            self.rules[id].body = Some(self.alternatives(0)?);
        }
    }

    /// Alternatives up to the end of the rule or of the group.
    fn alternatives(&mut self, depth: usize) -> Result<Vec<Vec<Part>>, GrammarError> {
        if depth > MAX_DEPTH {
            return Err(GrammarError::TooDeep { line: self.line });
        }
        let nested = depth > 0;
        let mut alternatives = Vec::new();
        let mut current = Vec::new();
        // Where in `current` the part before a sign of repetition begins, and how many signs it has already.
        let (mut last, mut signs) = (0, 0);
        loop {
            let first = self.rest.peek().copied();
            if first.is_some_and(|c| matches!(c, '"' | '[' | '.' | '<' | '!' | '(') || is_word(c)) {
                (last, signs) = (current.len(), 0);
            }
            match first {
                Some('"') => {
                    let text = self.text()?;
                    if !text.is_empty() {
                        current.push(Part::Text(text));
                    }
                }
                Some('[') => current.push(self.class()?),
                Some('.') => {
                    self.next();
                    current.push(Part::Class(vec![(0, u32::from(char::MAX))]));
                }
                Some('<' | '!') => current.push(self.token()?),
                Some('(') => {
                    self.next();
                    self.space(true);
                    current.push(Part::Group(self.alternatives(depth + 1)?));
                    if self.next() != Some(')') {
                        return Err(self.syntax("expected \")\""));
                    }
                }
                Some(sign @ ('*' | '+' | '?' | '{')) => {
                    self.next();
                    let (least, most) = match sign {
                        '*' => (0, None),
                        '+' => (1, None),
                        '?' => (0, Some(1)),
                        _ => self.bounds()?,
                    };
                    let parts = current.split_off(last);
                    if parts.is_empty() {
                        return Err(self.syntax("there is nothing to repeat"));
                    }
                    signs += 1;
                    if signs > MAX_SIGNS {
                        return Err(self.syntax("at most 8 repetitions may follow one another"));
                    }
                    current.push(Part::Repeat { parts, least, most });
                }
                Some('|') => {
                    self.next();
                    alternatives.push(std::mem::take(&mut current));
                    last = 0;
                    self.space(true);
                    continue;
                }
                Some(c) if is_word(c) => {
                    let name = self.name();
                    current.push(Part::Rule(self.rule(name)?));
                }
                _ => {
                    alternatives.push(current);
                    return Ok(alternatives);
                }
            }
            self.space(nested);
        }
    }

    /// `m}`, `m,}` or `m,n}`.
    fn bounds(&mut self) -> Result<(usize, Option<usize>), GrammarError> {
        let mut bounds = String::new();
        loop {
            match self.next() {
                Some('}') => break,
                Some(c) => bounds.push(c),
                None => return Err(self.syntax("expected \"}\"")),
            }
        }
        let number = |text: &str| {
            let text = text.trim();
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let number = text.parse::<u32>().ok().filter(|_| digits);
            number.ok_or_else(|| {
                self.syntax(
                    "the bounds of a repetition are whole numbers below 2^32, as in {2} or {2,4}",
                )
            })
        };
        let (least, most) = match bounds.split_once(',') {
            None => (number(&bounds)?, Some(number(&bounds)?)),
            Some((least, most)) if most.trim().is_empty() => (number(least)?, None),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        if most.is_some_and(|most| most < least) {
            return Err(self.syntax("the second bound of a repetition is smaller than the first"));
        }
        let (least, most) = (least as usize, most.map(|most| most as usize));
        if least > MAX_REPETITIONS {
            return Err(self.syntax("a part can be repeated at most 2000 times"));
        }
        Ok((least, most.filter(|&most| most <= MAX_REPETITIONS)))
    }

    /// The index of the rule.
    fn rule(&mut self, name: String) -> Result<usize, GrammarError> {
        if let Some(&id) = self.names.get(&name) {
            return Ok(id);
        }
        let id = self.rules.len();
        if id >= MAX_RULES {
            return Err(GrammarError::TooManyRules);
        }
        self.rules.push(Rule {
            // "root" is shorter.
            name: name.chars().take(60).collect(),
            body: None,
        });
        self.names.insert(name, id);
        Ok(id)
    }

    fn text(&mut self) -> Result<Vec<u32>, GrammarError> {
        self.next();
        let mut text = Vec::new();
        while self.rest.next_if_eq(&'"').is_none() {
            text.push(self.character()?);
        }
        Ok(text)
    }

    fn class(&mut self) -> Result<Part, GrammarError> {
        self.next();
        let not = self.rest.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        while self.rest.next_if_eq(&']').is_none() {
            let first = self.character()?;
            let mut ahead = self.rest.clone();
            let ranged = ahead.next() == Some('-') && ahead.next() != Some(']');
            let last = if ranged {
                self.next();
                self.character()?
            } else {
                first
            };
            ranges.push((first, last));
        }
        // llama.cpp ignores it.
        if ranges.is_empty() {
            return Err(self.syntax("a character class is empty"));
        }
        // A range from high to low contains no character.
        ranges.retain(|(first, last)| first <= last);
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last)
                }
                _ => merged.push((first, last)),
            }
        }
        if !not {
            return Ok(Part::Class(merged));
        }
        let mut others = Vec::new();
        let mut from = 0;
        for (first, last) in merged {
            if from < first {
                others.push((from, first - 1));
            }
            from = last.saturating_add(1);
        }
        others.push((from, u32::MAX));
        Ok(Part::Class(others))
    }

    /// A character of a string or class. An escaped number does not have to be a valid character.
    fn character(&mut self) -> Result<u32, GrammarError> {
        match self.next() {
            Some('\n') | None => Err(self.syntax("a string or class is not closed")),
            Some('\\') => self.escape(),
            Some(c) => Ok(c.into()),
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<u32, GrammarError> {
        let digits = match self.next() {
            Some('t') => return Ok('\t'.into()),
            Some('r') => return Ok('\r'.into()),
            Some('n') => return Ok('\n'.into()),
            Some(c @ ('\\' | '"' | '[' | ']' | '-')) => return Ok(c.into()),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => {
                return Err(
                    self.syntax("a backslash must be followed by one of t r n x u U \\ \" [ ] -")
                );
            }
        };
        let mut number = 0;
        for _ in 0..digits {
            let digit = self.next().and_then(|c| c.to_digit(16)).ok_or_else(|| {
                self.syntax("\\x is followed by two hexadecimal digits, \\u by four, \\U by eight")
            })?;
            number = number << 4 | digit;
        }
        Ok(number)
    }

    /// A token by its text or, as in `<[42]>`, by its id.
    fn token(&mut self) -> Result<Part, GrammarError> {
        let not = self.rest.next_if_eq(&'!').is_some();
        if self.rest.peek() != Some(&'<') {
            return Err(self.syntax("\"!\" must be followed by a token in angle brackets"));
        }
        let mut text = String::new();
        while !text.ends_with('>') {
            match self.next() {
                Some(c) if c != '\n' => text.push(c),
                _ => return Err(self.syntax("a token is not closed with \">\"")),
            }
        }
        match (self.named)(&text) {
            Some(token) => Ok(Part::Token { token, not }),
            None => Err(GrammarError::UnknownToken {
                token: text.chars().take(60).collect(),
                line: self.line,
            }),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(&c) = self.rest.peek() {
            if !is_word(c) {
                break;
            }
            name.push(c);
            self.next();
        }
        name
    }

    /// Skips space and comments; newlines only where the rule continues.
    fn space(&mut self, newlines: bool) {
        while let Some(&c) = self.rest.peek() {
            match c {
                ' ' | '\t' => {
                    self.next();
                }
                '#' => {
                    while self.rest.peek().is_some_and(|&c| c != '\n' && c != '\r') {
                        self.next();
                    }
                }
                '\n' | '\r' if newlines => {
                    self.next();
                }
                _ => return,
            }
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next();
        if c == Some('\n') {
            self.line += 1;
        }
        c
    }

    fn syntax(&self, what: &'static str) -> GrammarError {
        GrammarError::Syntax {
            what,
            line: self.line,
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}
