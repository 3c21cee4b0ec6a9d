//! JSON schemas, regular expressions, Lark grammars and lists of choices, by llguidance.
//!
//! Its cost is bounded: the settings limit bytes, llguidance itself limits the work of one mask and of parsing a grammar, and
//! the checks here limit depth and the rest. It runs on stacks that hold any depth it allows, and a panic in it becomes an
//! error.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie,
};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::Value;

use super::digits::Digits;
use super::error::{ConstraintError, InvalidConstraint};
use super::look_ahead::has_look_around;
use super::rules::{Follow, Rules};
use super::schema::rewritten;
use crate::model::{Sorted, Token, Vocab};

/// Between two parts of a JSON value: nothing, a space, or a line break with indentation. Small models handle any of these;
/// without a bound some generate nothing but white space.
const WHITE_SPACE: &str = r"\x20|\n\x20{0,24}";
/// A token of more bytes is never allowed: llguidance's tree of tokens is no deeper than 1,024.
const TOKEN_BYTES: usize = 512;
/// The parser of grammars recurses as deep as they are nested.
const STACK_BYTES: usize = 64 << 20;
/// Every pair of an object's `patternProperties` is compared, in a quarter of a millisecond at worst.
const MOST_PAIRS: usize = 2_000;
/// An object with more optional properties has too many ways to continue.
const MOST_PROPERTIES: usize = 1000;
/// Parsing an expression takes time quadratic in the number of its optional parts.
const MOST_OPTIONAL: usize = 4_000;
/// The most characters shown of a message of llguidance.
const MOST_MESSAGE_CHARACTERS: usize = 300;

const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2_000,
    initial_lexer_fuel: 1_000_000,
    // About 15 ms.
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    // A few kB each.
    max_lexer_states: 20_000,
    max_grammar_size: 200_000,
    precompute_large_lexemes: true,
    verbose_errors: false,
};

/// A vocabulary in the form that llguidance needs. Built once for each model, which takes 100 ms.
pub(super) struct Guidance {
    factory: ParserFactory,
    /// Pairs of tokens with equal bytes; llguidance knows only the first of each.
    twins: Vec<(Token, Token)>,
    /// Tokens that begin with a digit.
    digits: Vec<Token>,
    /// Tokens of a letter that is no part of JSON outside of strings.
    letters: Vec<Token>,
    ends: Box<[Token]>,
}

impl Guidance {
    pub(super) fn of(vocab: &Vocab) -> Result<Arc<Self>, InvalidConstraint> {
        let made: Arc<Result<Arc<Self>, InvalidConstraint>> = vocab.derived(|vocab| {
            let control = |token| vocab.bytes(token).is_empty().then(|| vocab.literal(token));
            guarded(|| Self::new(&vocab.sorted(), vocab.ends(), control)).map(Arc::new)
        });
        Result::clone(&made)
    }

    /// `control` gives the name of a control token. Such tokens are not part of any text: only a grammar that names them,
    /// for example `<|tool_call|>`, allows them.
    fn new<'a>(
        sorted: &Sorted,
        ends: &[Token],
        control: impl Fn(Token) -> Option<&'a [u8]>,
    ) -> Result<Self, String> {
        let mut first: HashMap<Vec<u8>, Token> = HashMap::new();
        let mut twins = Vec::new();
        let mut words = Vec::with_capacity(sorted.len());
        for token in (0..).map(Token).take(sorted.len()) {
            let mut word = sorted.bytes(token).to_vec();
            if word.is_empty()
                && !ends.contains(&token)
                && let Some(name) = control(token)
                && name.first() == Some(&b'<')
                && name.last() == Some(&b'>')
            {
                word.push(TokTrie::SPECIAL_TOKEN_MARKER);
                word.extend_from_slice(name);
            } else if word.contains(&TokTrie::SPECIAL_TOKEN_MARKER) {
                // It is not part of any text, and has a special meaning to llguidance.
                word.clear();
            }
            if word.len() > TOKEN_BYTES {
                word.clear();
            }
            if !word.is_empty() {
                if let Some(&same) = first.get(&word) {
                    twins.push((same, token));
                    word.clear();
                } else {
                    first.insert(word.clone(), token);
                }
            }
            words.push(word);
        }
        let beginning = |bytes: std::ops::RangeInclusive<u8>| {
            let tokens = bytes.flat_map(|byte| sorted.beginning_with(&[byte]).collect::<Vec<_>>());
            tokens.collect::<Vec<_>>()
        };
        let digits = beginning(b'0'..=b'9').into_iter().map(|(token, _)| token);
        let letters = beginning(b'k'..=b'k').into_iter();
        let letters = letters
            .filter(|(_, bytes)| bytes.len() == 1)
            .map(|(token, _)| token);
        let (digits, letters) = (digits.collect(), letters.collect());
        let id = |token: Token| u32::try_from(token.0).unwrap_or(INVALID_TOKEN);
        let info = TokRxInfo::new(
            u32::try_from(words.len()).unwrap_or(INVALID_TOKEN),
            ends.first().map_or(INVALID_TOKEN, |&end| id(end)),
        );
        let mut trie = TokTrie::from(&info, &words);
        if !ends.is_empty() {
            let ends: Vec<u32> = ends.iter().map(|&end| id(end)).collect();
            trie = trie.with_eos_tokens(&ends);
        }
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new(
            &env,
            InferenceCapabilities::default(),
            &SlicedBiasComputer::general_slices(),
        )
        .map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = LIMITS;
        Ok(Self {
            factory,
            twins,
            digits,
            letters,
            ends: ends.into(),
        })
    }

    /// Parses a grammar and computes what may come first.
    fn compile(
        self: &Arc<Self>,
        grammar: TopLevelGrammar,
        bounds_digits: bool,
    ) -> Result<Compiled, InvalidConstraint> {
        let matcher = guarded(|| {
            let parser = self.factory.create_parser(grammar);
            let parser = parser.map_err(|error| error.to_string())?;
            let mut matcher = Matcher::new(Ok(parser));
            matcher
                .compute_mask_or_eos()
                .map_err(|error| error.to_string())?;
            Ok(matcher)
        })?;
        Ok(Compiled {
            guidance: Arc::clone(self),
            matcher: Mutex::new(matcher),
            bounds_digits,
        })
    }

    pub(super) fn json_schema(
        self: &Arc<Self>,
        schema: &Value,
    ) -> Result<Arc<dyn Rules>, InvalidConstraint> {
        if check_schema(schema)? > MOST_PAIRS {
            return Err(TOO_MANY_PAIRS);
        }
        let rewritten = rewritten(schema)?;
        match self.compile(
            TopLevelGrammar::from_json_schema(with_options(rewritten)),
            true,
        ) {
            Ok(compiled) => Ok(Arc::new(compiled)),
            Err(InvalidConstraint::Refused(why)) => {
                let place = find_fault(self, schema, &why);
                Err(InvalidConstraint::Schema(why, place))
            }
            Err(other) => Err(other),
        }
    }

    pub(super) fn regex(
        self: &Arc<Self>,
        regex: &str,
    ) -> Result<Arc<dyn Rules>, InvalidConstraint> {
        check_optional(&[regex])?;
        if has_look_around(regex) {
            return Err(InvalidConstraint::Refused(
                "look-around is not supported; write what is allowed as an expression".to_owned(),
            ));
        }
        // regex-syntax reports positions better; llguidance checks the rest.
        if let Err(error) = regex_syntax::ast::parse::Parser::new().parse(regex) {
            let place = error.span().start;
            return Err(InvalidConstraint::Refused(format!(
                "{} (line {}, character {})",
                error.kind(),
                place.line,
                place.column
            )));
        }
        match self.compile(TopLevelGrammar::from_regex(regex), false) {
            Ok(compiled) => Ok(Arc::new(compiled)),
            // The expression is parsed within a Lark grammar, so its positions are meaningless.
            Err(InvalidConstraint::Refused(why)) => {
                let said = why
                    .split_once("(in regex): ")
                    .map_or(&*why, |(_, said)| said);
                let said = said.split(" (line ").next().unwrap_or(said);
                Err(InvalidConstraint::Refused(said.to_owned()))
            }
            Err(other) => Err(other),
        }
    }

    /// `bounds_digits`: whether numbers outside of strings are JSON, and so end after some digits.
    pub(super) fn lark(
        self: &Arc<Self>,
        text: &str,
        bounds_digits: bool,
    ) -> Result<Arc<dyn Rules>, InvalidConstraint> {
        let grammar = TopLevelGrammar::from_lark(with_checked_schemas(text)?);
        Ok(Arc::new(self.compile(grammar, bounds_digits)?))
    }

    pub(super) fn choice(
        self: &Arc<Self>,
        texts: &[&str],
    ) -> Result<Arc<dyn Rules>, InvalidConstraint> {
        let escaped: Vec<String> = texts
            .iter()
            .map(|text| regex_syntax::escape(text))
            .collect();
        let grammar = TopLevelGrammar::from_regex(&format!("(?:{})", escaped.join("|")));
        Ok(Arc::new(self.compile(grammar, false)?))
    }
}

/// Runs work that recurses deeply and may panic.
fn guarded<T: Send>(
    work: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, InvalidConstraint> {
    let work = AssertUnwindSafe(work);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("constraint".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || catch_unwind(work));
        let outcome = match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(Ok(outcome))) => outcome,
            _ => return Err(InvalidConstraint::Panicked),
        };
        outcome.map_err(|message| {
            if message.starts_with("panic: ") {
                InvalidConstraint::Panicked
            } else {
                InvalidConstraint::Refused(plain(&message))
            }
        })
    })
}

const NOTHING_FOLLOWS: &str = "nothing can follow";

/// llguidance's message in one line, without the excerpts of the grammar.
fn plain(message: &str) -> String {
    let message = message.split("\n<").next().unwrap_or_default();
    let first = message.lines().next().unwrap_or_default();
    let (place, said) = placed(first);
    let said = match message
        .lines()
        .find_map(|line| line.strip_prefix("error: "))
    {
        // regex-syntax shows the expression with the error below it.
        Some(error) => error,
        None if said == "NoExtensionBias" => NOTHING_FOLLOWS,
        None if said.contains("Only absolute $ref's") => {
            "a `$ref` must point into the schema itself, as `#/…`"
        }
        // Drops its advice, which is for its caller.
        None => {
            let advice = ["; following special", "; consider ", "; either increase"];
            let end = advice.iter().find_map(|advice| said.find(advice));
            let said = &said[..end.unwrap_or(said.len())];
            ["Parser Error: ", "parser error: ", "lexer error: "]
                .iter()
                .find_map(|kind| said.strip_prefix(kind))
                .unwrap_or(said)
        }
    };
    let said = match said.char_indices().nth(MOST_MESSAGE_CHARACTERS) {
        Some((end, _)) => format!("{}…", &said[..end]),
        None => said.to_owned(),
    };
    match place {
        Some((line, character)) => format!("{said} (line {line}, character {character})"),
        None => said,
    }
}

/// A message's leading `at LINE(CHARACTER): `, if there is one, and the rest.
fn placed(message: &str) -> (Option<(usize, usize)>, &str) {
    let read = || {
        let (line, rest) = message
            .strip_prefix("at ")
            .unwrap_or(message)
            .split_once('(')?;
        let (character, said) = rest.split_once("): ")?;
        Some(((line.parse().ok()?, character.parse().ok()?), said))
    };
    read().map_or((None, message), |(place, said)| (Some(place), said))
}

/// A parsed grammar.
struct Compiled {
    guidance: Arc<Guidance>,
    /// In the initial state; copied for each text.
    matcher: Mutex<Matcher>,
    /// Whether numbers end after some digits.
    bounds_digits: bool,
}

impl Rules for Compiled {
    fn follow(&self) -> Result<Box<dyn Follow>, ConstraintError> {
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Box::new(Text {
            guidance: Arc::clone(&self.guidance),
            matcher: matcher.deep_clone(),
            digits: self.bounds_digits.then(Digits::default),
            allowed: Vec::new(),
            is_known: false,
        }))
    }
}

/// A text so far.
struct Text {
    guidance: Arc<Guidance>,
    matcher: Matcher,
    /// Of the last number, if they are bounded.
    digits: Option<Digits>,
    allowed: Vec<bool>,
    /// Whether `allowed` is up to date.
    is_known: bool,
}

impl Follow for Text {
    fn allowed(&mut self) -> Result<&[bool], ConstraintError> {
        if self.is_known {
            return Ok(&self.allowed);
        }
        let failed = |error: &dyn std::fmt::Display| {
            let why = match plain(&error.to_string()) {
                why if why == NOTHING_FOLLOWS => {
                    "its rules have led to a place where nothing can follow".to_owned()
                }
                why => why,
            };
            ConstraintError::new(why)
        };
        let trie = self.guidance.factory.tok_env().tok_trie();
        self.allowed.clear();
        self.allowed.resize(trie.vocab_size(), false);
        let may_end = if self.matcher.is_stopped() && !self.matcher.is_error() {
            true
        } else {
            let mask = self.matcher.compute_mask();
            let mask = mask.map_err(|error| failed(&error))?;
            mask.iter_set_entries(|token| {
                if let Some(allowed) = self.allowed.get_mut(token) {
                    *allowed = true;
                }
            });
            self.matcher
                .is_accepting()
                .map_err(|error| failed(&error))?
        };
        for &(first, twin) in &self.guidance.twins {
            self.allowed[twin.index()] = self.allowed[first.index()];
        }
        for &end in &self.guidance.ends {
            self.allowed[end.index()] = may_end;
        }
        if self.digits.as_ref().is_some_and(Digits::are_enough) {
            self.end_number();
        }
        self.is_known = true;
        Ok(&self.allowed)
    }

    fn accept(&mut self, token: Token) -> Result<(), ConstraintError> {
        self.is_known = false;
        let guidance = &self.guidance;
        if guidance.ends.contains(&token) {
            return Ok(());
        }
        if let Some(digits) = &mut self.digits {
            let trie = guidance.factory.tok_env().tok_trie();
            digits.push(trie.token(u32::try_from(token.0).unwrap_or(INVALID_TOKEN)));
        }
        let first = guidance.twins.iter().find(|&&(_, twin)| twin == token);
        let known = first.map_or(token, |&(first, _)| first);
        self.matcher
            .consume_token(u32::try_from(known.0).unwrap_or(INVALID_TOKEN))
            .map_err(|error| ConstraintError::new(plain(&error.to_string())))
    }
}

impl Text {
    /// Allows no further digit if something else may follow, unless that is any text.
    fn end_number(&mut self) {
        let Guidance {
            digits, letters, ..
        } = &*self.guidance;
        if letters.iter().any(|letter| self.allowed[letter.index()]) {
            return;
        }
        let mut others = self.allowed.clone();
        for digit in digits {
            others[digit.index()] = false;
        }
        if others.contains(&true) {
            self.allowed = others;
        }
    }
}

/// llguidance's key for its options, which clients may not set.
const OPTIONS: &str = "x-guidance";

fn with_options(mut schema: Value) -> Value {
    let options = JsonCompileOptions {
        whitespace_flexible: false,
        whitespace_pattern: Some(WHITE_SPACE.to_owned()),
        ..JsonCompileOptions::default()
    };
    if schema.is_object() {
        options.apply_to(&mut schema);
    }
    schema
}

/// The Lark grammar with our options in each embedded schema (`%json {…}`), after the same checks as other schemas.
fn with_checked_schemas(text: &str) -> Result<String, InvalidConstraint> {
    const KEYWORD: &str = "%json";
    let (mut checked, mut expressions) = (String::new(), Vec::new());
    let (mut rest, mut pairs) = (text, 0_usize);
    while let Some(place) = rest.find(KEYWORD) {
        let (before, after) = rest.split_at(place + KEYWORD.len());
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<Value>();
        let Some(Ok(schema)) = values.next() else {
            return Err(InvalidConstraint::Refused(
                "`%json` must be followed by a JSON schema".to_owned(),
            ));
        };
        pairs = pairs.saturating_add(check_schema(&schema)?);
        expressions.push(before);
        checked.push_str(before);
        checked.push_str(&format!(" {}", with_options(rewritten(&schema)?)));
        rest = &after[values.byte_offset()..];
    }
    if pairs > MOST_PAIRS {
        return Err(TOO_MANY_PAIRS);
    }
    expressions.push(rest);
    check_optional(&expressions)?;
    checked.push_str(rest);
    Ok(checked)
}

const TOO_MANY_PAIRS: InvalidConstraint = InvalidConstraint::TooMuch(
    "there are too many `patternProperties` in an object, or too many of `$ref`, `allOf`, `anyOf` and `oneOf` beside them",
);

/// Refuses what llguidance does not bound. Returns how many pairs of patterns it will compare.
fn check_schema(schema: &Value) -> Result<usize, InvalidConstraint> {
    if schema.get(OPTIONS).is_some() {
        return Err(InvalidConstraint::Refused(
            "clients may not set `x-guidance`".to_owned(),
        ));
    }
    let mut expressions: Vec<&str> = Vec::new();
    // Pairs of patterns that must not match the same name, and the number of schemas that are combined.
    let (mut pairs, mut combined) = (0_usize, 1_usize);
    let mut left = vec![schema];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(fields) => {
                left.extend(fields.values());
                let inner = |name: &str| fields.get(name).and_then(Value::as_object);
                if inner("properties").is_some_and(|inner| inner.len() > MOST_PROPERTIES) {
                    return Err(InvalidConstraint::TooMuch(
                        "an object of a schema may have at most 1000 properties",
                    ));
                }
                if let Some(patterns) = inner("patternProperties") {
                    expressions.extend(patterns.keys().map(String::as_str));
                    pairs += patterns.len() * patterns.len().saturating_sub(1) / 2;
                }
                expressions.extend(fields.get("pattern").and_then(Value::as_str));
                combined += usize::from(fields.contains_key("$ref"));
                for name in ["allOf", "anyOf", "oneOf"] {
                    let parts = fields.get(name).and_then(Value::as_array);
                    combined += parts.map_or(0, Vec::len);
                }
            }
            _ => {}
        }
    }
    // Combining schemas can repeat an object once for each combination.
    check_optional(&expressions)?;
    Ok(combined.saturating_pow(2).saturating_mul(pairs))
}

fn check_optional(expressions: &[&str]) -> Result<(), InvalidConstraint> {
    let optional: usize = expressions
        .iter()
        .map(|text| {
            let marks = text.bytes().filter(|byte| b"?*{".contains(byte)).count();
            let empty = ["(|", "||", "|)"].map(|mark| text.matches(mark).count());
            marks + empty.iter().sum::<usize>()
        })
        .sum();
    if optional > MOST_OPTIONAL {
        return Err(InvalidConstraint::TooMuch(
            "expressions may have at most 4000 optional or repeated parts",
        ));
    }
    Ok(())
}

/// The innermost part of a schema that is refused for the same reason, as a JSON pointer.
fn find_fault(guidance: &Arc<Guidance>, schema: &Value, why: &str) -> String {
    /// The place is only a hint for the reader.
    const MOST_TIME: Duration = Duration::from_millis(200);
    let started = Instant::now();
    let mut place = "#".to_owned();
    let mut part = schema;
    'deeper: loop {
        for (step, inner) in parts(part) {
            if started.elapsed() > MOST_TIME {
                return place;
            }
            let mut alone = inner.clone();
            if let (Value::Object(alone), Value::Object(whole)) = (&mut alone, schema) {
                for name in ["$defs", "definitions", "$schema"] {
                    if let Some(value) = whole.get(name) {
                        alone.entry(name).or_insert_with(|| value.clone());
                    }
                }
            }
            let Ok(alone) = rewritten(&alone) else {
                continue;
            };
            let grammar = TopLevelGrammar::from_json_schema(with_options(alone));
            let outcome = guidance.compile(grammar, true);
            if matches!(outcome, Err(InvalidConstraint::Refused(same)) if same == why) {
                place.push_str(&step);
                part = inner;
                continue 'deeper;
            }
        }
        return place;
    }
}

/// The schemas within a schema, each with its relative JSON pointer.
fn parts(schema: &Value) -> Vec<(String, &Value)> {
    let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
    let mut parts = Vec::new();
    for (keyword, value) in schema.as_object().into_iter().flatten() {
        match (keyword.as_str(), value) {
            (
                "properties" | "patternProperties" | "$defs" | "definitions",
                Value::Object(inner),
            ) => {
                let each = inner.iter();
                parts.extend(
                    each.map(|(name, value)| (format!("/{keyword}/{}", escaped(name)), value)),
                );
            }
            ("anyOf" | "allOf" | "oneOf" | "prefixItems", Value::Array(inner)) => {
                let each = inner.iter().enumerate();
                parts.extend(each.map(|(place, value)| (format!("/{keyword}/{place}"), value)));
            }
            ("items" | "additionalItems" | "additionalProperties", Value::Object(_)) => {
                parts.push((format!("/{keyword}"), value));
            }
            _ => {}
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::super::grammar::tests::gbnf;
    use super::*;

    /// Over tokens of these bytes; the last but one is a control token, the last one ends a text.
    fn guidance(tokens: &[&[u8]]) -> Arc<Guidance> {
        let sorted = Sorted::new(tokens.iter().copied().chain([&[][..], &[][..]]));
        let control = Token(tokens.len() as i32);
        let end = Token(control.0 + 1);
        let name = |token| (token == control).then_some(&b"<|call|>"[..]);
        Arc::new(Guidance::new(&sorted, &[end], name).expect("a vocabulary"))
    }

    /// All bytes that a text of ASCII holds, and some longer tokens.
    fn ascii() -> Arc<Guidance> {
        let bytes: Vec<Vec<u8>> = (1..=255).map(|byte| vec![byte]).collect();
        let mut tokens: Vec<&[u8]> = bytes.iter().map(|byte| &byte[..]).collect();
        tokens.extend([
            &b"true"[..],
            b"\": ",
            b"\",\n",
            b"  ",
            b"\n  ",
            b"{\"",
            b"12",
        ]);
        guidance(&tokens)
    }

    fn allowed(text: &mut dyn Follow) -> Vec<usize> {
        let allowed = text.allowed().expect("not stuck").iter().enumerate();
        allowed
            .filter(|&(_, &allowed)| allowed)
            .map(|(id, _)| id)
            .collect()
    }

    /// Whether it is taken whole, byte by byte.
    fn takes(guidance: &Guidance, rules: &Arc<dyn Rules>, text: &str) -> bool {
        let mut follow = rules.follow().expect("a beginning");
        for &byte in text.as_bytes() {
            let id = usize::from(byte) - 1;
            if !follow.allowed().expect("not stuck")[id] {
                return false;
            }
            follow.accept(Token(id as i32)).expect("not stuck");
        }
        let end = guidance.ends[0].index();
        follow.allowed().expect("not stuck")[end]
    }

    /// Follows both through every row of tokens that both allow, up to a length; how many rows they are.
    fn compare(
        one: &dyn Fn() -> Box<dyn Follow>,
        other: &dyn Fn() -> Box<dyn Follow>,
        end: usize,
        length: usize,
        before: &mut Vec<Token>,
    ) -> usize {
        let after = |new: &dyn Fn() -> Box<dyn Follow>| {
            let mut follow = new();
            for &token in before.iter() {
                follow.allowed().expect("not stuck");
                follow.accept(token).expect("not stuck");
            }
            allowed(&mut *follow)
        };
        let next = after(one);
        assert_eq!(next, after(other), "{before:?}");
        let mut rows = 1;
        if before.len() < length {
            for id in next.into_iter().filter(|&id| id < end) {
                before.push(Token(id as i32));
                rows += compare(one, other, end, length, before);
                before.pop();
            }
        }
        rows
    }

    #[test]
    fn what_is_allowed_is_what_another_engine_allows() {
        // The last has the bytes of the first.
        let tokens: [&[u8]; 8] = [b"a", b"b", b"x", b"ab", b"ba", b"xx", b"abx", b"a"];
        let guidance = guidance(&tokens);
        // Tokens, a control token that text never allows, the end.
        let end = tokens.len() + 1;
        let check = |rules: Result<Arc<dyn Rules>, InvalidConstraint>, same: &str, least: usize| {
            let rules = rules.unwrap_or_else(|error| panic!("{same}: {error}"));
            let other = || {
                let mut tokens = tokens.to_vec();
                tokens.push(b"");
                Box::new(gbnf(same, &tokens)) as Box<dyn Follow>
            };
            let one = || rules.follow().expect("a beginning");
            let rows = compare(&one, &other, tokens.len(), 5, &mut Vec::new());
            assert!(rows >= least, "{same}: {rows} rows");
            assert_eq!(guidance.ends[0].index(), end);
        };
        let regex = |regex| guidance.regex(regex);
        check(
            regex("a(b|ab)*x?"),
            r#"root ::= "a" ("b" | "ab")* "x"?"#,
            50,
        );
        check(regex("[ab]+x"), r#"root ::= [ab]+ "x""#, 500);
        check(
            regex("(a|b)*a(a|b)(a|b)"),
            r#"root ::= [ab]* "a" [ab] [ab]"#,
            500,
        );
        check(regex("a{2,3}b{0,2}"), r#"root ::= "a"{2,3} "b"{0,2}"#, 10);
        check(regex("^(?:ab|x+)$"), r#"root ::= "ab" | "x"+"#, 5);
        let lark = |text| guidance.lark(text, false);
        check(
            lark("start: \"a\" start \"b\" | \"x\""),
            r#"root ::= "a" root "b" | "x""#,
            15,
        );
        check(
            lark("start: (s \"x\")+\ns: \"a\" | \"b\" s s"),
            "root ::= (s \"x\")+\ns ::= \"a\" | \"b\" s s",
            100,
        );
        check(
            lark("start: A+\nA: /ab?/ | \"x\""),
            r#"root ::= ("a" "b"? | "x")+"#,
            500,
        );
        let choice = |texts: &[&str]| guidance.choice(texts);
        check(
            choice(&["ab", "abx", "b"]),
            r#"root ::= "ab" | "abx" | "b""#,
            6,
        );
        check(choice(&["a"]), r#"root ::= "a""#, 3);
    }

    #[test]
    fn a_control_token_is_allowed_by_its_name_alone() {
        let guidance = guidance(&[b"<", b"|", b"call", b">", b"<|call|>", b"a"]);
        let begin = |text: &str| {
            let rules = guidance.lark(text, false).expect(text);
            allowed(&mut *rules.follow().expect("a beginning"))
        };
        // The one of these bytes, not the control token.
        assert_eq!(begin("start: \"<|call|>\""), [0, 4]);
        assert_eq!(begin("start: /(.|\\n)+/"), [0, 1, 2, 3, 4, 5]);
        assert_eq!(begin("start: <|call|>"), [6]);
        assert_eq!(begin("start: <[6]> | \"a\""), [5, 6]);
        // An end is allowed where a text may end, and nowhere else.
        assert_eq!(begin("start: <[*]>"), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(begin("start: \"a\"*"), [5, 7]);
    }

    #[test]
    fn schemas_take_what_is_valid_and_nothing_else() {
        let guidance = ascii();
        let check = |schema: &str, taken: &[&str], refused: &[&str]| {
            let schema: Value = serde_json::from_str(schema).expect(schema);
            let rules = guidance
                .json_schema(&schema)
                .unwrap_or_else(|e| panic!("{schema}: {e}"));
            for text in taken {
                assert!(takes(&guidance, &rules, text), "{schema}: {text}");
                serde_json::from_str::<Value>(text).expect(text);
            }
            for text in refused {
                assert!(!takes(&guidance, &rules, text), "{schema}: {text}");
            }
        };
        let person = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 3},
            "age": {"type": "integer", "minimum": 0, "maximum": 150}}, "required": ["name"],
            "additionalProperties": false}"#;
        check(
            person,
            &[
                r#"{"name":"Bo"}"#,
                r#"{"name": "Bo", "age": 150}"#,
                "{\n  \"name\": \"\\n\",\n  \"age\": 7\n}",
            ],
            &[
                "",
                " {\"name\":\"Bo\"}",
                r#"{"name":"Bobo"}"#,
                r#"{"age":1}"#,
                r#"{"name":"Bo","age":151}"#,
                r#"{"name":"Bo","x":1}"#,
                // White space has an end.
                "{  \"name\":\"Bo\"}",
                "{\n\n\"name\":\"Bo\"}",
                "{\t\"name\":\"Bo\"}",
            ],
        );
        check(
            r##"{"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}"##,
            &["[]", "[[],[[]]]", "[[], []]"],
            &["[", "[[]", "1", "[1]"],
        );
        check(
            r#"{"enum": ["a", 1, null, {"b": [true]}]}"#,
            &["\"a\"", "1", "null", "{\"b\":[true]}"],
            &["\"b\"", "2", "{}"],
        );
        check(
            r#"{"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "^x[0-9]+$"}]}"#,
            &["true", "\"x12\""],
            &["\"x\"", "\"y1\"", "1"],
        );
        check(
            r#"{"type": "object"}"#,
            &["{}", r#"{"a": {"b": [1.5, null]}}"#],
            &["[]", "1", "{a}"],
        );
        check("{}", &["1", "\"é\"", "[]"], &["x"]);
        check(
            r#"{"type": "array", "maxItems": 1000000000, "items": {"const": 1}}"#,
            &["[1,1]"],
            &["[2]"],
        );
    }

    #[test]
    fn look_aheads_are_conditions() {
        let guidance = ascii();
        let schema: Value = serde_json::from_str(
            r#"{"type": "string", "pattern": "^(?=.*[0-9])(?=.*[a-z])[a-z0-9]{3,5}$"}"#,
        )
        .expect("JSON");
        let string = guidance.json_schema(&schema).expect("a schema");
        for (text, expect) in [
            ("ab1", true),
            ("1234a", true),
            ("abc", false),
            ("123", false),
            ("a1", false),
            ("abcde1", false),
        ] {
            assert_eq!(
                takes(&guidance, &string, &format!("\"{text}\"")),
                expect,
                "{text}"
            );
        }
        let error = guidance.regex("^(?=a)b").err().expect("refused");
        assert!(
            error
                .to_string()
                .starts_with("look-around is not supported"),
            "{error}"
        );
    }

    #[test]
    fn patterns_hold_outside_of_json() {
        let guidance = ascii();
        for (pattern, texts, others) in [
            (r"^https?:\/\/x$", &["https://x"][..], &["https:/x"][..]),
            (
                "^(?=.*a)(?=.*[0-9])[a-z0-9]{2,3}$",
                &["a1", "b2a"],
                &["ab", "12", "a"],
            ),
            ("^a|b$", &["ac", "cb"], &["c"]),
            ("b", &["abc"], &["ac"]),
        ] {
            let terms = super::super::pattern::pattern_in_lark(pattern)
                .expect(pattern)
                .join(" & ");
            let lark = format!("start: r\nr[suffix=\"</p>\"]: T\nT: {terms}\n");
            let rules = guidance.lark(&lark, true).expect(pattern);
            for (texts, expect) in [(texts, true), (others, false)] {
                for text in texts {
                    let text = format!("{text}</p>");
                    assert_eq!(takes(&guidance, &rules, &text), expect, "{pattern} {text}");
                }
            }
        }
    }

    #[test]
    fn excluded_bounds_are_excluded() {
        let guidance = ascii();
        let check = |schema: &str, is_valid: &dyn Fn(f64) -> bool| {
            let schema: Value = serde_json::from_str(schema).expect(schema);
            let rules = guidance.json_schema(&schema).expect("a schema");
            let mut taken = 0;
            for hundredths in -450..=450 {
                let number = f64::from(hundredths) / 100.0;
                let text = format!("{number}");
                let takes = takes(&guidance, &rules, &text);
                // Some spellings of a number are not taken, but none of another.
                assert!(!takes || is_valid(number), "{schema}: {text}");
                let longer = format!("{number:.3}");
                let takes_longer = super::tests::takes(&guidance, &rules, &longer);
                assert!(!takes_longer || is_valid(number), "{schema}: {longer}");
                assert!(
                    takes || takes_longer || !is_valid(number),
                    "{schema}: {text}"
                );
                taken += usize::from(takes);
            }
            assert!(taken > 5, "{schema}");
        };
        check(
            r#"{"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}"#,
            &|x| x > 0.0 && x <= 0.5,
        );
        check(
            r#"{"type": "number", "exclusiveMinimum": 3, "exclusiveMaximum": 3.5}"#,
            &|x| x > 3.0 && x < 3.5,
        );
        check(
            r#"{"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}"#,
            &|x| (-0.5..0.0).contains(&x),
        );
        check(
            r#"{"type": "number", "minimum": -3.5, "exclusiveMaximum": -3}"#,
            &|x| (-3.5..-3.0).contains(&x),
        );
        check(
            r#"{"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 1}"#,
            &|x| x > -1.0 && x < 1.0,
        );
        check(r#"{"exclusiveMinimum": 0, "type": "number"}"#, &|x| x > 0.0);
        check(
            r#"{"allOf": [{"exclusiveMinimum": 0}, {"maximum": 0.5, "type": "number"}]}"#,
            &|x| x > 0.0 && x <= 0.5,
        );
        check(
            r#"{"type": "number", "minimum": 0, "exclusiveMinimum": true, "maximum": 0.5}"#,
            &|x| x > 0.0 && x <= 0.5,
        );
        check(
            r#"{"type": ["number", "null"], "exclusiveMaximum": 2, "minimum": 1.25}"#,
            &|x| (1.25..2.0).contains(&x),
        );
    }

    #[test]
    fn numbers_end() {
        let guidance = ascii();
        let rules = |schema: &str| {
            let schema: Value = serde_json::from_str(schema).expect(schema);
            guidance.json_schema(&schema).expect("a schema")
        };
        // Digits as long as they are allowed.
        let longest = |schema: &str, begin: &str| {
            let mut follow = rules(schema).follow().expect("a beginning");
            let mut text = String::new();
            for byte in begin.bytes().chain([b'7'].repeat(100)) {
                let id = usize::from(byte) - 1;
                if !follow.allowed().expect("not stuck")[id] {
                    break;
                }
                follow.accept(Token(id as i32)).expect("not stuck");
                text.push(byte.into());
            }
            text.len() - begin.len()
        };
        let number = r#"{"type": "number"}"#;
        assert_eq!(longest(number, ""), 20);
        assert_eq!(longest(number, "-1."), 20);
        assert_eq!(longest(number, "1.5e-"), 3);
        assert_eq!(longest(r#"{"items": {"type": "integer"}}"#, "[12, "), 20);
        // Where nothing else may follow, and in strings, there is no such end.
        assert_eq!(
            longest(r#"{"type": "integer", "minimum": 100000000000000000}"#, ""),
            20
        );
        assert_eq!(
            longest(r#"{"type": "string", "pattern": "^7{30}$"}"#, "\""),
            30
        );
        assert_eq!(longest("{}", "\""), 100);
        assert_eq!(
            longest(
                r#"{"type": "number", "minimum": 0.5, "maximum": 0.51}"#,
                "0.5"
            ),
            0
        );
    }

    #[test]
    fn no_schema_leads_to_a_place_where_nothing_can_follow() {
        let guidance = ascii();
        let check = |schema: &str, text: &str, refused: &str| {
            let schema: Value = serde_json::from_str(schema).expect(schema);
            let rules = guidance.json_schema(&schema).expect("a schema");
            assert!(takes(&guidance, &rules, text), "{schema}: {text}");
            assert!(!takes(&guidance, &rules, refused), "{schema}: {refused}");
            // Whatever comes next, something can follow it.
            for length in 0..text.len() {
                let before = || {
                    let mut follow = rules.follow().expect("a beginning");
                    for &byte in &text.as_bytes()[..length] {
                        follow
                            .accept(Token(i32::from(byte) - 1))
                            .expect("not stuck");
                    }
                    follow
                };
                for id in allowed(&mut *before()) {
                    let mut after = before();
                    after.accept(Token(id as i32)).expect("not stuck");
                    assert!(after.allowed().is_ok(), "{schema}: {id} after {length}");
                }
            }
        };
        let ok = r#"{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
            "additionalProperties": false, "patternProperties": {"^ok$": {}}}"#;
        check(ok, r#"{"ok":true}"#, r#"{"ok":true,"#);
        let both = r#"{"type": "object", "properties": {"a": {}}, "required": ["a", "b"],
            "additionalProperties": false, "patternProperties": {"^(a|b)$": {"type": "null"}}}"#;
        check(both, r#"{"a":null,"b":null}"#, r#"{"a":1,"b":null}"#);
    }

    #[test]
    fn what_is_refused_is_refused_with_its_place() {
        let guidance = ascii();
        let schema = |schema: &str| {
            let schema: Value = serde_json::from_str(schema).expect(schema);
            let error = guidance.json_schema(&schema).err().expect("refused");
            error.to_string()
        };
        for (text, expect) in [
            (
                r#"{"properties": {"a": {"items": {"not": {}}}}}"#,
                "`not` is not supported; say what is allowed instead, with `enum`, `pattern` or `anyOf`, in the schema at \
                 #/properties/a/items",
            ),
            (
                r#"{"type": "object", "anyOf": [{}, {"properties": {"a/b": {"pattern": "(("}}}]}"#,
                "unclosed group, in the schema at #/anyOf/1/properties/a~1b",
            ),
            (
                r##"{"$ref": "https://example.com/a"}"##,
                "a `$ref` must point into the schema itself, as `#/…`, in the schema at #",
            ),
            (
                r##"{"$defs": {"a": {"type": "strin"}}, "items": {"$ref": "#/$defs/a"}}"##,
                "Invalid type: strin, in the schema at #/$defs/a",
            ),
            (
                r##"{"$ref": "#"}"##,
                "nothing can follow, in the schema at #",
            ),
            (
                r#"{"type": "object", "x-guidance": {"lenient": true}}"#,
                "clients may not set `x-guidance`",
            ),
        ] {
            assert_eq!(schema(text), expect);
        }
        // Schemas within Lark have the same bounds.
        let lark = |text: &str| {
            guidance
                .lark(text, false)
                .err()
                .expect("refused")
                .to_string()
        };
        let patterns: Vec<String> = (0..200).map(|i| format!("\"^a{i}$\": true")).collect();
        let patterns = format!("{{\"patternProperties\": {{{}}}}}", patterns.join(","));
        for text in [
            format!("start: %json {patterns}"),
            format!("start: a b\na: %json {{}}\nb: %lark {{ start: %json {patterns} }}"),
        ] {
            assert!(
                lark(&text).contains("too many `patternProperties`"),
                "{text}"
            );
        }
        assert!(lark(r#"start: %json {"x-guidance": {}}"#).contains("may not set"));
        assert!(lark("start: %json x").contains("must be followed by a JSON schema"));
        assert!(
            guidance
                .lark(r#"start: "[" %json {"type": "integer"} "]""#, false)
                .is_ok()
        );
        let regex = |regex: &str| guidance.regex(regex).err().expect("refused").to_string();
        assert_eq!(regex("ab(c"), "unclosed group (line 1, character 3)");
        assert_eq!(
            regex("(a)\\1"),
            "backreferences are not supported (line 1, character 4)"
        );
        let many: String = (0..2_100).map(|i| format!("{{\"a\":{i}}},")).collect();
        let many = format!("{{\"enum\": [{}]}}", many.trim_end_matches(','));
        let many: Value = serde_json::from_str(&many).expect("JSON");
        let rules = guidance.json_schema(&many).expect("it shows later");
        let mut text = rules.follow().expect("a beginning");
        let failed = text
            .allowed()
            .map(drop)
            .and_then(|()| text.accept(Token(i32::from(b'{') - 1)))
            .and_then(|()| text.allowed().map(drop));
        let said = failed.expect_err("too many ways to go on").to_string();
        assert!(
            said.contains("any further: Current row has 2100 items; max is 2000."),
            "{said}"
        );
        let lark = |text: &str| {
            guidance
                .lark(text, false)
                .err()
                .expect("refused")
                .to_string()
        };
        assert!(regex(r"\bfoo").starts_with("lookarounds not supported yet"));
        for (text, expect) in [
            (
                "start: \"a\" b",
                "unknown name: \"b\" (line 1, character 8)",
            ),
            (
                "start: <|nope|>",
                "unknown special token: \"<|nope|>\" (line 1, character 8)",
            ),
            ("\nstart: /(/", "unclosed group (line 2, character 8)"),
            ("a: \"b\"", "no start rule found"),
            (
                "start: <[999]>",
                "Token range end too large: 999 (line 1, character 8)",
            ),
            ("start: a\na: b\nb: a", "nothing can follow"),
            (
                "\nstart: %json {\"$ref\": \"https://example.com/a\"}",
                "a `$ref` must point into the schema itself, as `#/…` (line 2, character 8)",
            ),
        ] {
            assert_eq!(lark(text), expect);
        }
    }
}
