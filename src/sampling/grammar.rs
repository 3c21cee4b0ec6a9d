//! GBNF: what of it is safe to hand to llama.cpp, which aborts, recurses or never ends on the rest.

use std::sync::Arc;

use llama_cpp_2::sampling::LlamaSampler;

use crate::model::Model;

/// Groups within groups: each level is a call of llama.cpp's parser within another.
const MAX_DEPTH: usize = 64;
/// Rules, groups and optional repetitions: each may be a call of its left-recursion check within another.
const MAX_RULES: usize = 4096;
/// Characters and references after repetitions are written out: eight bytes each, in every sequence's sampler.
const MAX_SIZE: usize = 250_000;
/// `S{m}` is refused by llama.cpp above this, and `S{m,n}` has no end there.
const MAX_REPETITIONS: usize = 2000;
/// Ways to reach a first character: each is a stack that llama.cpp keeps, compares with the others, and holds against
/// the whole vocabulary at each token, while neighbours wait. So many take a tenth of a second.
const MAX_PATHS: u64 = 5_000;
/// The ways of all rules together: its left-recursion check walks each.
const MAX_ALL_PATHS: u64 = 200_000;

/// A grammar that llama.cpp has accepted once.
#[derive(Debug, Clone, PartialEq)]
pub struct Grammar(Arc<str>);

/// What is wrong with a grammar, for the person who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    #[error("it has no rule named \"root\"")]
    NoRoot,
    #[error("its groups are nested more than {MAX_DEPTH} deep (line {line})")]
    TooDeep { line: usize },
    #[error(
        "it has more than {MAX_RULES} rules; each group, each optional part and each step from m to n of a \
         repetition {{m,n}} is one"
    )]
    TooManyRules,
    #[error(
        "it has more than {MAX_SIZE} characters when its repetitions are written out (line {line})"
    )]
    TooLarge { line: usize },
    #[error(
        "its rule \"{rule}\" refers to itself before it reads anything (left recursion); write it as a repetition"
    )]
    LeftRecursion { rule: String },
    #[error("its rule \"{rule}\" is used but not defined")]
    Undefined { rule: String },
    #[error(
        "its rule \"{rule}\" can begin in more than {MAX_PATHS} ways; a grammar so ambiguous would stall the server"
    )]
    TooAmbiguous { rule: String },
    #[error(
        "its rules can begin in more than {MAX_ALL_PATHS} ways in all; a grammar so ambiguous would stall the server"
    )]
    AllTooAmbiguous,
    #[error(
        "in its rule \"{rule}\" a token in angle brackets may follow text, which llama.cpp cannot read safely; let such \
         tokens come first, or write the text between quotes"
    )]
    TokenAfterText { rule: String },
    #[error("it holds a NUL character")]
    Nul,
    #[error("it is not valid GBNF: {what} (line {line})")]
    Syntax { what: &'static str, line: usize },
    #[error(
        "llama.cpp does not take it; it names a token that the model lacks, or repeats too often what holds repetitions"
    )]
    Refused,
}

impl Grammar {
    /// Checks a grammar; takes milliseconds.
    pub fn new(model: &Model, gbnf: &str) -> Result<Self, GrammarError> {
        check(gbnf, model.vocab().len())?;
        let grammar = Self(gbnf.into());
        grammar.sampler(model)?;
        Ok(grammar)
    }

    /// A sampler at the grammar's start.
    pub(super) fn sampler(&self, model: &Model) -> Result<LlamaSampler, GrammarError> {
        LlamaSampler::grammar(model.weights(), &self.0, "root").map_err(|_| GrammarError::Refused)
    }
}

/// What an alternative holds, as far as the check needs it.
#[derive(Debug, Clone, Copy)]
enum Item {
    /// Reads at least one character. How many it is written with.
    Text(usize),
    /// Reads one token, by its text or id.
    Token,
    /// A rule, a group, or a part that may be left out.
    Rule(usize),
}

impl Item {
    /// What it takes in llama.cpp's rules.
    fn size(&self) -> usize {
        match *self {
            Self::Text(size) => size,
            Self::Token | Self::Rule(_) => 1,
        }
    }
}

#[derive(Debug, Default, Clone)]
struct Rule {
    name: String,
    alternatives: Vec<Vec<Item>>,
    defined: bool,
}

/// Reads the grammar's outline, and refuses what llama.cpp would not survive. The fine print of the syntax is left to
/// llama.cpp.
fn check(gbnf: &str, vocabulary: usize) -> Result<(), GrammarError> {
    if gbnf.contains('\0') {
        return Err(GrammarError::Nul);
    }
    let rules = Reader::new(gbnf, vocabulary).rules()?;
    if !rules.iter().any(|rule| rule.name == "root" && rule.defined) {
        return Err(GrammarError::NoRoot);
    }
    if let Some(rule) = rules.iter().find(|rule| !rule.defined) {
        return Err(GrammarError::Undefined {
            rule: rule.name.clone(),
        });
    }
    let nullable = nullable(&rules);
    let mut paths = vec![None; rules.len()];
    let mut all = 0;
    for id in 0..rules.len() {
        all += count_paths(&rules, &nullable, id, &mut paths)?;
        if all > MAX_ALL_PATHS {
            return Err(GrammarError::AllTooAmbiguous);
        }
    }
    // After a character, too, what follows may begin in many ways.
    for rule in &rules {
        for items in &rule.alternatives {
            let mut from_here = 0;
            for item in items.iter().rev() {
                from_here = match *item {
                    Item::Rule(id) => {
                        let own = paths[id].flatten().unwrap_or(0);
                        own + if nullable[id] { from_here } else { 0 }
                    }
                    Item::Text(_) | Item::Token => 1,
                };
                if from_here > MAX_PATHS {
                    return Err(GrammarError::TooAmbiguous {
                        rule: rule.name.clone(),
                    });
                }
            }
        }
    }
    check_tokens(&rules, &nullable)
}

/// Refuses a token that may follow text. A token of the model may hold that text and more; llama.cpp takes it for
/// allowed when it is asked which are, and ends the process when it is told that it was drawn.
fn check_tokens(rules: &[Rule], nullable: &[bool]) -> Result<(), GrammarError> {
    // Which rules may begin with a token, and which may end with text: least fixed points.
    let mut begins = vec![false; rules.len()];
    let mut ends = vec![false; rules.len()];
    let begin = |item: &Item, begins: &[bool]| match *item {
        Item::Text(_) => false,
        Item::Token => true,
        Item::Rule(id) => begins[id],
    };
    let end = |item: &Item, ends: &[bool]| match *item {
        Item::Text(_) => true,
        Item::Token => false,
        Item::Rule(id) => ends[id],
    };
    let skips = |item: &Item| matches!(*item, Item::Rule(id) if nullable[id]);
    loop {
        let mut changed = false;
        for (id, rule) in rules.iter().enumerate() {
            for items in &rule.alternatives {
                if !begins[id] {
                    let reached = items.iter().position(|item| !skips(item));
                    let first = &items[..reached.map_or(items.len(), |place| place + 1)];
                    begins[id] = first.iter().any(|item| begin(item, &begins));
                    changed |= begins[id];
                }
                if !ends[id] {
                    let reached = items.iter().rposition(|item| !skips(item));
                    let last = &items[reached.unwrap_or(0)..];
                    ends[id] = last.iter().any(|item| end(item, &ends));
                    changed |= ends[id];
                }
            }
        }
        if !changed {
            break;
        }
    }
    for rule in rules {
        for items in &rule.alternatives {
            let mut after_text = false;
            for item in items {
                if after_text && begin(item, &begins) {
                    return Err(GrammarError::TokenAfterText {
                        rule: rule.name.clone(),
                    });
                }
                after_text = end(item, &ends) || after_text && skips(item);
            }
        }
    }
    Ok(())
}

/// Which rules may read nothing: the least fixed point.
fn nullable(rules: &[Rule]) -> Vec<bool> {
    let mut nullable = vec![false; rules.len()];
    loop {
        let mut changed = false;
        for (id, rule) in rules.iter().enumerate() {
            let empty = |item: &Item| match *item {
                Item::Text(_) | Item::Token => false,
                Item::Rule(id) => nullable[id],
            };
            if !nullable[id]
                && rule
                    .alternatives
                    .iter()
                    .any(|items| items.iter().all(empty))
            {
                nullable[id] = true;
                changed = true;
            }
        }
        if !changed {
            return nullable;
        }
    }
}

/// Counts the ways from a rule to a first character; finds left recursion on the way. Its own recursion is as deep as
/// there are rules, which are bounded.
fn count_paths(
    rules: &[Rule],
    nullable: &[bool],
    id: usize,
    paths: &mut [Option<Option<u64>>],
) -> Result<u64, GrammarError> {
    match paths[id] {
        Some(Some(count)) => return Ok(count),
        Some(None) => {
            return Err(GrammarError::LeftRecursion {
                rule: rules[id].name.clone(),
            });
        }
        None => paths[id] = Some(None),
    }
    let mut total = 0_u64;
    for items in &rules[id].alternatives {
        total += 1;
        for item in items {
            match *item {
                Item::Text(_) | Item::Token => break,
                Item::Rule(id) => {
                    total = total.saturating_add(count_paths(rules, nullable, id, paths)?);
                    if !nullable[id] {
                        break;
                    }
                }
            }
        }
        if total > MAX_PATHS {
            return Err(GrammarError::TooAmbiguous {
                rule: rules[id].name.clone(),
            });
        }
    }
    paths[id] = Some(Some(total));
    Ok(total)
}

/// Reads rules, groups, references and repetitions.
struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
    /// Tokens that `<[id]>` may name.
    vocabulary: usize,
    rules: Vec<Rule>,
    names: std::collections::HashMap<String, usize>,
    /// What repetitions have added.
    size: usize,
}

impl<'a> Reader<'a> {
    fn new(gbnf: &'a str, vocabulary: usize) -> Self {
        Self {
            vocabulary,
            rest: gbnf.chars().peekable(),
            line: 1,
            rules: Vec::new(),
            names: std::collections::HashMap::new(),
            size: 0,
        }
    }

    fn rules(mut self) -> Result<Vec<Rule>, GrammarError> {
        loop {
            self.space(true);
            if self.rest.peek().is_none() {
                return Ok(self.rules);
            }
            let name = self.name();
            if name.is_empty() {
                return Err(self.syntax("a rule's name is expected"));
            }
            self.space(false);
            for expected in "::=".chars() {
                if self.next() != Some(expected) {
                    return Err(self.syntax("\"::=\" is expected after a rule's name"));
                }
            }
            self.space(true);
            let id = self.rule(name)?;
            self.rules[id].defined = true;
            let alternatives = self.alternatives(0)?;
            self.rules[id].alternatives = alternatives;
        }
    }

    /// Alternatives up to the end of the rule or of the group.
    fn alternatives(&mut self, depth: usize) -> Result<Vec<Vec<Item>>, GrammarError> {
        if depth > MAX_DEPTH {
            return Err(GrammarError::TooDeep { line: self.line });
        }
        let nested = depth > 0;
        let mut alternatives = Vec::new();
        let mut current: Vec<Item> = Vec::new();
        // Where in `current` begins what a repetition repeats.
        let mut last = 0;
        loop {
            let first = self.rest.peek().copied();
            if first.is_some_and(|c| matches!(c, '"' | '[' | '.' | '<' | '!' | '(') || is_word(c)) {
                last = current.len();
            }
            match first {
                Some('"') => current.extend(self.quoted('"')?),
                Some('[') => current.extend(self.quoted(']')?),
                Some('.') => {
                    self.next();
                    current.push(Item::Text(1));
                }
                Some('<' | '!') => {
                    self.token()?;
                    current.push(Item::Token);
                }
                Some('(') => {
                    self.next();
                    self.space(true);
                    let id = self.rule(String::new())?;
                    self.rules[id].defined = true;
                    let inner = self.alternatives(depth + 1)?;
                    self.rules[id].alternatives = inner;
                    if self.next() != Some(')') {
                        return Err(self.syntax("\")\" is expected"));
                    }
                    current.push(Item::Rule(id));
                }
                Some('*') => {
                    self.next();
                    self.repeat(&mut current, last, 0, None)?;
                }
                Some('+') => {
                    self.next();
                    self.repeat(&mut current, last, 1, None)?;
                }
                Some('?') => {
                    self.next();
                    self.repeat(&mut current, last, 0, Some(1))?;
                }
                Some('{') => {
                    self.next();
                    let (least, most) = self.bounds()?;
                    self.repeat(&mut current, last, least, most)?;
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
                    let id = self.rule(name)?;
                    current.push(Item::Rule(id));
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
                None => return Err(self.syntax("\"}\" is expected")),
            }
        }
        let number = |text: &str| {
            let text = text.trim();
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            // llama.cpp reads it with a function that throws on overflow.
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
        // llama.cpp would take the difference modulo 2^64 and write out as many rules.
        if most.is_some_and(|most| most < least) {
            return Err(self.syntax("the second bound of a repetition is smaller than the first"));
        }
        let (least, most) = (least as usize, most.map(|most| most as usize));
        if least > MAX_REPETITIONS {
            return Err(self.syntax("a part can be asked for at most 2000 times"));
        }
        Ok((least, most.filter(|&most| most <= MAX_REPETITIONS)))
    }

    /// Writes a repetition out as llama.cpp does: `S{2,4}` is `S S a`, where `a` is `S b |` and `b` is `S |`; `S*` is a
    /// rule `a`, where `a` is `S a |`.
    fn repeat(
        &mut self,
        current: &mut Vec<Item>,
        start: usize,
        least: usize,
        most: Option<usize>,
    ) -> Result<(), GrammarError> {
        let repeated = current.split_off(start);
        if repeated.is_empty() {
            return Err(self.syntax("there is nothing to repeat"));
        }
        // Of an endless one two steps show all that may stand side by side.
        let optional = most.map_or(2, |most| most - least);
        let size: usize = repeated.iter().map(Item::size).sum();
        self.size = self
            .size
            .saturating_add(size.saturating_mul(least + optional));
        if self.size > MAX_SIZE {
            return Err(GrammarError::TooLarge { line: self.line });
        }
        for _ in 0..least {
            current.extend_from_slice(&repeated);
        }
        // An endless repetition's reference to itself is left out: llama.cpp takes it well, and it adds no way.
        let mut rest = None;
        for _ in 0..optional {
            let id = self.rule(String::new())?;
            let mut items = repeated.clone();
            items.extend(rest);
            self.rules[id].defined = true;
            self.rules[id].alternatives = vec![items, Vec::new()];
            rest = Some(Item::Rule(id));
        }
        current.extend(rest);
        Ok(())
    }

    /// The rule's number; a group has no name.
    fn rule(&mut self, name: String) -> Result<usize, GrammarError> {
        if let Some(&id) = self.names.get(&name) {
            return Ok(id);
        }
        let id = self.rules.len();
        if id >= MAX_RULES {
            return Err(GrammarError::TooManyRules);
        }
        if name.is_empty() {
            self.rules.push(Rule {
                name: "(group)".to_owned(),
                ..Rule::default()
            });
        } else {
            // As much of it as a message repeats; "root" is shorter.
            let shown = name.chars().take(60).collect();
            self.names.insert(name, id);
            self.rules.push(Rule {
                name: shown,
                ..Rule::default()
            });
        }
        Ok(id)
    }

    /// A string or a character class with its closing sign; nothing if it is empty.
    fn quoted(&mut self, close: char) -> Result<Option<Item>, GrammarError> {
        self.next();
        if close == ']' && self.rest.peek() == Some(&'^') {
            self.next();
        }
        let mut size = 0;
        loop {
            match self.next() {
                // llama.cpp takes it for nothing at all.
                Some(']') if close == ']' && size == 0 => {
                    return Err(self.syntax("a character class is empty"));
                }
                Some(c) if c == close => return Ok((size > 0).then_some(Item::Text(size))),
                Some('\n') | None => return Err(self.syntax("a string or class is not closed")),
                Some('\\') => self.escape()?,
                Some(_) => {}
            }
            size += 1;
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<(), GrammarError> {
        let digits = match self.next() {
            Some('t' | 'r' | 'n' | '\\' | '"' | '[' | ']' | '-') => 0,
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => {
                return Err(
                    self.syntax("a backslash must be followed by one of t r n x u U \\ \" [ ] -")
                );
            }
        };
        for _ in 0..digits {
            if !self.next().is_some_and(|c| c.is_ascii_hexdigit()) {
                return Err(self.syntax(
                    "\\x is followed by two hexadecimal digits, \\u by four, \\U by eight",
                ));
            }
        }
        Ok(())
    }

    /// A token by its text or, as in `<[42]>`, by its id.
    fn token(&mut self) -> Result<(), GrammarError> {
        let mut inner = String::new();
        loop {
            match self.next() {
                Some('>') => break,
                Some(c) if c != '\n' => inner.push(c),
                _ => return Err(self.syntax("a token is not closed with \">\"")),
            }
        }
        let id = inner
            .trim_start_matches(['!', '<'])
            .strip_prefix('[')
            .and_then(|inner| inner.strip_suffix(']'));
        match id.map(str::parse::<usize>) {
            Some(Ok(id)) if id < self.vocabulary => Ok(()),
            Some(_) => Err(self.syntax("the model has no token with this id")),
            None => Ok(()),
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

    /// Space and comments; newlines only where the rule goes on.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammars_people_write_pass() {
        for gbnf in [
            r#"root ::= "yes" | "no""#,
            "root ::= \"{\" ws pair (\",\" ws pair)* \"}\"\npair ::= \"\\\"\" [a-z]+ \"\\\":\" value\nvalue ::= root | [0-9]{1,3}\nws ::= \" \"? # space\n",
            "root ::= (\n  \"a\" |\n  \"b\" root\n)\n",
            "root ::= expr\nexpr ::= term ([-+*/] term)*\nterm ::= [0-9]+ | \"(\" expr \")\"",
            "root ::= [^\"\\\\]* .",
            "root ::= <[99]> !<[3]>",
        ] {
            assert_eq!(check(gbnf, 100), Ok(()), "{gbnf}");
        }
    }

    #[test]
    fn what_would_end_the_process_is_refused() {
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000));
        let wide: String = std::iter::once("root ::= r0\n".to_owned())
            .chain((0..40).map(|i| format!("r{i} ::= r{j} | r{j}\n", j = i + 1)))
            .chain(std::iter::once("r40 ::= \"a\"\n".to_owned()))
            .collect();
        let many: String = (0..5000).map(|i| format!("r{i} ::= \"a\"\n")).collect();
        let check = |gbnf: &str| check(gbnf, 100).expect_err("refused");
        assert!(matches!(check(&deep), GrammarError::TooDeep { .. }));
        assert!(matches!(check(&wide), GrammarError::TooAmbiguous { .. }));
        assert_eq!(check(&many), GrammarError::TooManyRules);
        for left in [
            "root ::= root \"a\"",
            "root ::= a\na ::= b? c\nb ::= \"x\"\nc ::= a \"y\"",
            "root ::= (root)* \"a\"",
        ] {
            assert!(
                matches!(check(left), GrammarError::LeftRecursion { .. }),
                "{left}"
            );
        }
        assert_eq!(check("a ::= \"b\""), GrammarError::NoRoot);
        assert_eq!(
            check("root ::= a"),
            GrammarError::Undefined { rule: "a".into() }
        );
        assert!(matches!(
            check("root ::= \"a\"{99999999999999999999}"),
            GrammarError::Syntax { .. }
        ));
        assert!(matches!(
            check("root := \"a\""),
            GrammarError::Syntax { .. }
        ));
        assert!(matches!(check("root ::= \"a"), GrammarError::Syntax { .. }));
        for bounds in [
            "{3,2}", "{2001}", "{-1}", "{+1}", "{}", "{,2}", "{1,2,3}", "{1",
        ] {
            let gbnf = format!("root ::= \"a\"{bounds}");
            assert!(
                matches!(check(&gbnf), GrammarError::Syntax { .. }),
                "{bounds}"
            );
        }
        assert_eq!(check("root ::= \"\0\""), GrammarError::Nul);
        assert_eq!(check(""), GrammarError::NoRoot);
        assert!(matches!(
            check("root ::= <[100]>"),
            GrammarError::Syntax { .. }
        ));
    }

    #[test]
    fn repetitions_are_counted_as_they_are_written_out() {
        let check = |gbnf: &str| check(gbnf, 100);
        assert_eq!(check("root ::= [a-z]{0,2000} \"b\"{5,2000}"), Ok(()));
        assert_eq!(
            check(&format!("root ::= {}", "\"a\"{0,2000} ".repeat(3))),
            Err(GrammarError::TooManyRules)
        );
        assert_eq!(
            check(&format!("root ::= \"{}\"{{2000}}", "a".repeat(200))),
            Err(GrammarError::TooLarge { line: 1 })
        );
        // What is repeated may be empty: each time is one more way to begin.
        assert_eq!(check("r ::= \"a\"?\nroot ::= r{0,10} r{10}"), Ok(()));
        for root in ["r{0,100}", "r{100}", "\"a\" r{100}"] {
            let gbnf = format!("s ::= \"a\"?\nr ::= s{{0,100}}\nroot ::= {root}");
            let error = check(&gbnf).expect_err("refused");
            let ambiguous = matches!(
                error,
                GrammarError::TooAmbiguous { .. } | GrammarError::AllTooAmbiguous
            );
            assert!(ambiguous, "{root}: {error}");
        }
    }
}
