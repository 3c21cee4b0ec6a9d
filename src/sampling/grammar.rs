//! GBNF: what of it is safe to hand to llama.cpp, which aborts, recurses or never ends on the rest.

use std::sync::Arc;

use llama_cpp_2::sampling::LlamaSampler;

use crate::model::Model;

/// Groups within groups: each level is a call of llama.cpp's parser within another.
const MAX_DEPTH: usize = 64;
/// Rules, groups and repetitions: each may be a call of its left-recursion check within another.
const MAX_RULES: usize = 2048;
/// Ways to reach a first character: each is a stack that llama.cpp keeps, and a path its check walks.
const MAX_PATHS: u64 = 20_000;

/// A grammar that llama.cpp has accepted once.
#[derive(Debug, Clone, PartialEq)]
pub struct Grammar(Arc<str>);

/// What is wrong with a grammar, for the person who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    #[error("the grammar has no rule named \"root\"")]
    NoRoot,
    #[error("the grammar's groups are nested more than {MAX_DEPTH} deep (line {line})")]
    TooDeep { line: usize },
    #[error("the grammar has more than {MAX_RULES} rules and groups")]
    TooManyRules,
    #[error(
        "the rule \"{rule}\" refers to itself before it reads anything (left recursion); write it as a repetition"
    )]
    LeftRecursion { rule: String },
    #[error("the rule \"{rule}\" is used but not defined")]
    Undefined { rule: String },
    #[error(
        "the rule \"{rule}\" can begin in more than {MAX_PATHS} ways; a grammar so ambiguous would stall the server"
    )]
    TooAmbiguous { rule: String },
    #[error("the grammar holds a NUL character")]
    Nul,
    #[error("the grammar is not valid GBNF{}", line.map(|line| format!(": {what} (line {line})", what = what)).unwrap_or_default())]
    Syntax {
        what: &'static str,
        line: Option<usize>,
    },
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
        LlamaSampler::grammar(model.weights(), &self.0, "root").map_err(|_| GrammarError::Syntax {
            what: "",
            line: None,
        })
    }
}

/// What an alternative holds, as far as the check needs it.
#[derive(Debug, Clone, Copy)]
enum Item {
    /// Reads at least one character, or is a token.
    Terminal,
    /// A rule or a group, and whether it may be left out.
    Rule { id: usize, optional: bool },
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
    for id in 0..rules.len() {
        count_paths(&rules, &nullable, id, &mut paths)?;
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
                Item::Terminal => false,
                Item::Rule { id, optional } => optional || nullable[id],
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
                Item::Terminal => break,
                Item::Rule { id, optional } => {
                    total = total.saturating_add(count_paths(rules, nullable, id, paths)?);
                    if !optional && !nullable[id] {
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
}

impl<'a> Reader<'a> {
    fn new(gbnf: &'a str, vocabulary: usize) -> Self {
        Self {
            vocabulary,
            rest: gbnf.chars().peekable(),
            line: 1,
            rules: Vec::new(),
            names: std::collections::HashMap::new(),
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
        loop {
            match self.rest.peek().copied() {
                Some('"') => {
                    let empty = self.quoted('"')?;
                    if !empty {
                        current.push(Item::Terminal);
                    }
                }
                Some('[') => {
                    self.quoted(']')?;
                    current.push(Item::Terminal);
                }
                Some('.') => {
                    self.next();
                    current.push(Item::Terminal);
                }
                Some('<' | '!') => {
                    self.token()?;
                    current.push(Item::Terminal);
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
                    current.push(Item::Rule {
                        id,
                        optional: false,
                    });
                }
                Some('*' | '?') => {
                    self.next();
                    self.optional(&mut current)?;
                }
                Some('+') => {
                    self.next();
                    if current.is_empty() {
                        return Err(self.syntax("there is nothing to repeat"));
                    }
                }
                Some('{') => {
                    let mut bounds = String::new();
                    while let Some(c) = self.next() {
                        if c == '}' {
                            break;
                        }
                        bounds.push(c);
                    }
                    let least = bounds
                        .trim_start_matches('{')
                        .split(',')
                        .next()
                        .unwrap_or_default()
                        .trim();
                    // llama.cpp reads it with a function that throws on overflow.
                    let Ok(least) = least.parse::<u32>() else {
                        return Err(self.syntax("a repetition's bounds are whole numbers"));
                    };
                    if bounds.split(',').nth(1).is_some_and(|most| {
                        !most.trim().is_empty() && most.trim().parse::<u32>().is_err()
                    }) {
                        return Err(self.syntax("a repetition's bounds are whole numbers"));
                    }
                    if least == 0 {
                        self.optional(&mut current)?;
                    }
                }
                Some('|') => {
                    self.next();
                    alternatives.push(std::mem::take(&mut current));
                    self.space(true);
                    continue;
                }
                Some(c) if is_word(c) => {
                    let name = self.name();
                    let id = self.rule(name)?;
                    current.push(Item::Rule {
                        id,
                        optional: false,
                    });
                }
                _ => {
                    alternatives.push(current);
                    return Ok(alternatives);
                }
            }
            self.space(nested);
        }
    }

    /// The last item may be left out; a terminal becomes a rule of its own, as it does in llama.cpp.
    fn optional(&mut self, current: &mut Vec<Item>) -> Result<(), GrammarError> {
        match current.pop() {
            Some(Item::Rule { id, .. }) => current.push(Item::Rule { id, optional: true }),
            Some(Item::Terminal) => {
                let id = self.rule(String::new())?;
                self.rules[id].defined = true;
                self.rules[id].alternatives = vec![vec![Item::Terminal]];
                current.push(Item::Rule { id, optional: true });
            }
            None => return Err(self.syntax("there is nothing to repeat")),
        }
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
            self.names.insert(name.clone(), id);
            self.rules.push(Rule {
                name,
                ..Rule::default()
            });
        }
        Ok(id)
    }

    /// A string or a character class with its closing sign; whether it was empty.
    fn quoted(&mut self, close: char) -> Result<bool, GrammarError> {
        self.next();
        let mut empty = true;
        loop {
            match self.next() {
                Some('\\') => {
                    self.next();
                    empty = false;
                }
                Some(c) if c == close => return Ok(empty),
                Some('\n') | None => return Err(self.syntax("a string or class is not closed")),
                Some(_) => empty = false,
            }
        }
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
            Some(_) => Err(self.syntax("a token's id is outside the vocabulary")),
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
            line: Some(self.line),
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
        assert_eq!(check("root ::= \"\0\""), GrammarError::Nul);
        assert_eq!(check(""), GrammarError::NoRoot);
        assert!(matches!(
            check("root ::= <[100]>"),
            GrammarError::Syntax { .. }
        ));
    }
}
