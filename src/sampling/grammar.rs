//! Which tokens a grammar allows next in a text.
//!
//! The rules are compiled to the nodes of a recursive automaton. A text so far is at several nodes at once, each with its
//! set of callers. This is cheap because the sets are interned and compared by number: a rule that is called several times
//! in one place is followed once, and what is computed for a place is reused wherever it recurs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::automaton::{Node, NodeId, Nodes};
use super::error::{ConstraintError, GrammarError, TooAmbiguous};
use super::gbnf;
use super::rules::Follow;
use crate::model::{Added, Model, Sorted, Token};

/// The most steps for one token: 100 ms at worst.
const FUEL: usize = 1_000_000;
/// The cache of places is cleared beyond this size; each takes about 16 bytes.
const MAX_KNOWN: usize = 1 << 20;

/// A checked grammar.
#[derive(Debug, Clone, PartialEq)]
pub struct Grammar(Arc<Nodes>);

impl Grammar {
    /// Checks a grammar. Takes milliseconds; 100 ms at worst.
    pub fn new(model: &Model, gbnf: &str) -> Result<Self, GrammarError> {
        let vocab = model.vocab();
        let named = |text: &str| {
            if let Some(id) = text.strip_prefix("<[") {
                let token = Token(id.strip_suffix("]>")?.parse().ok()?);
                return (token.index() < vocab.len()).then_some(token);
            }
            match vocab.tokenize(text, Added::Nothing, true)[..] {
                [token] => Some(token),
                _ => None,
            }
        };
        let grammar = Self(Arc::new(Nodes::new(
            &gbnf::read(gbnf, &named)?,
            vocab.ends(),
        )?));
        let mut beginning = grammar.matcher(vocab.sorted(), vocab.ends())?;
        if !beginning.allowed()?.contains(&true) {
            return Err(GrammarError::AllowsNothing);
        }
        Ok(grammar)
    }

    /// Starts a text.
    pub(super) fn matcher(
        &self,
        vocab: Arc<Sorted>,
        ends: &[Token],
    ) -> Result<Matcher, TooAmbiguous> {
        Matcher::new(Arc::clone(&self.0), vocab, ends)
    }
}

/// A node, and the number of the set of places to return to at the end of its rule.
type Place = (NodeId, u32);

/// Interned sets of places.
#[derive(Default)]
struct Sets {
    sets: Vec<Arc<[Place]>>,
    numbers: HashMap<Arc<[Place]>, u32>,
    /// How many places they hold in total.
    size: usize,
}

impl Sets {
    fn number(&mut self, mut places: Vec<Place>) -> u32 {
        places.sort_unstable();
        places.dedup();
        if let Some(&number) = self.numbers.get(&*places) {
            return number;
        }
        let (set, number): (Arc<[Place]>, _) = (places.into(), self.sets.len() as u32);
        self.size += set.len() + 1;
        self.sets.push(Arc::clone(&set));
        self.numbers.insert(set, number);
        number
    }

    fn get(&self, number: u32) -> &[Place] {
        &self.sets[number as usize]
    }
}

/// A dead end: the number of the empty set.
const DEAD: u32 = 0;
const UNKNOWN: u32 = u32::MAX;

/// A text so far, and what may come next.
pub struct Matcher {
    grammar: Arc<Nodes>,
    vocab: Arc<Sorted>,
    ends: Box<[Token]>,
    /// Places to return to. A set refers only to older sets.
    stacks: Sets,
    /// Where a text may be.
    states: Sets,
    /// Where the text is.
    state: u32,
    /// The transitions: from a state, by a class of bytes, to a state.
    steps: Vec<u32>,
    fuel: usize,
    /// For each token, whether it may come next, and the state in which that holds: within a string that state stays the same
    /// for many tokens.
    allowed: Vec<bool>,
    allowed_in: Option<u32>,
    // Kept to reuse their memory.
    seen: HashSet<Place>,
    path: Vec<u32>,
}

impl Matcher {
    fn new(grammar: Arc<Nodes>, vocab: Arc<Sorted>, ends: &[Token]) -> Result<Self, TooAmbiguous> {
        let mut matcher = Self {
            grammar,
            vocab,
            ends: ends.into(),
            stacks: Sets::default(),
            states: Sets::default(),
            state: DEAD,
            steps: Vec::new(),
            fuel: FUEL,
            allowed: Vec::new(),
            allowed_in: None,
            seen: HashSet::new(),
            path: Vec::new(),
        };
        matcher.states.number(Vec::new());
        let bottom = matcher.stacks.number(vec![(0, 0)]);
        let start = matcher.grammar.starts[matcher.grammar.root];
        matcher.state = matcher.close(vec![(start, bottom)])?;
        Ok(matcher)
    }

    /// For each token, whether it may come next.
    pub fn allowed(&mut self) -> Result<&[bool], TooAmbiguous> {
        self.fuel = FUEL;
        self.forget()?;
        if self.allowed_in.take() != Some(self.state) {
            let vocab = Arc::clone(&self.vocab);
            let mut allowed = std::mem::take(&mut self.allowed);
            allowed.clear();
            allowed.resize(vocab.len(), false);
            let found = self.find(&vocab, &mut allowed);
            self.allowed = allowed;
            found?;
        }
        self.allowed_in = Some(self.state);
        Ok(&self.allowed)
    }

    fn find(&mut self, vocab: &Sorted, allowed: &mut [bool]) -> Result<(), TooAmbiguous> {
        // The states after each byte of the previous token, up to a dead end.
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        path.push(self.state);
        for (token, shared, bytes) in vocab.iter() {
            if shared >= path.len() {
                continue;
            }
            path.truncate(shared + 1);
            let mut state = path[shared];
            for &byte in &bytes[shared..] {
                state = self.step(state, byte)?;
                if state == DEAD {
                    break;
                }
                path.push(state);
            }
            allowed[token.index()] = state != DEAD;
        }
        self.path = path;
        for &(node, _) in self.states.get(self.state) {
            match self.grammar.nodes[node as usize] {
                Node::Token {
                    token, not: false, ..
                } => allowed[token.index()] = true,
                Node::Token {
                    token, not: true, ..
                } => {
                    let before = allowed[token.index()];
                    allowed.fill(true);
                    allowed[token.index()] = before;
                }
                _ => {}
            }
        }
        let may_end = self
            .states
            .get(self.state)
            .first()
            .is_some_and(|&(node, _)| node == 0);
        for &token in &self.ends {
            allowed[token.index()] = may_end;
        }
        Ok(())
    }

    /// Appends an allowed token.
    pub fn accept(&mut self, token: Token) -> Result<(), TooAmbiguous> {
        if self.ends.contains(&token) {
            return Ok(());
        }
        let mut places: Vec<Place> = Vec::new();
        for &(node, stack) in self.states.get(self.state) {
            if let Node::Token {
                token: named,
                not,
                next,
            } = self.grammar.nodes[node as usize]
                && (named == token) != not
            {
                places.push((next, stack));
            }
        }
        let vocab = Arc::clone(&self.vocab);
        let bytes = vocab.bytes(token);
        let mut state = if bytes.is_empty() { DEAD } else { self.state };
        for &byte in bytes {
            state = self.step(state, byte)?;
        }
        if !places.is_empty() {
            places.extend_from_slice(self.states.get(state));
            state = self.close(places)?;
        }
        self.state = state;
        Ok(())
    }

    fn spend(&mut self, fuel: usize) -> Result<(), TooAmbiguous> {
        self.fuel = self.fuel.checked_sub(fuel).ok_or(TooAmbiguous)?;
        Ok(())
    }

    fn step(&mut self, state: u32, byte: u8) -> Result<u32, TooAmbiguous> {
        let class = usize::from(self.grammar.classes[usize::from(byte)]);
        let place = state as usize * self.grammar.class_count + class;
        if let Some(&to) = self.steps.get(place)
            && to != UNKNOWN
        {
            return Ok(to);
        }
        let from = self.states.get(state);
        let cost = from.len() / 8 + 4;
        let states = self.states.sets.len();
        let places: Vec<Place> = from
            .iter()
            .filter_map(|&(node, stack)| match self.grammar.nodes[node as usize] {
                Node::Bytes { first, last, next } if (first..=last).contains(&byte) => {
                    Some((next, stack))
                }
                _ => None,
            })
            .collect();
        self.spend(cost)?;
        let to = self.close(places)?;
        // For the transitions of a new state.
        if self.states.sets.len() > states {
            self.spend(self.grammar.class_count / 8)?;
        }
        self.steps
            .resize(self.states.sets.len() * self.grammar.class_count, UNKNOWN);
        self.steps[place] = to;
        Ok(to)
    }

    /// The state of a text that is at these places: follows forks, calls and returns up to where something is consumed.
    ///
    /// A rule is called once, for all its callers here. They are all known by then: a rule that calls it before consuming
    /// anything has a lower rank, and a rule that matches the empty text is left as soon as it is called, so that a return
    /// adds nothing new.
    fn close(&mut self, mut work: Vec<Place>) -> Result<u32, TooAmbiguous> {
        let grammar = Arc::clone(&self.grammar);
        let mut kept = Vec::new();
        let mut calls: BTreeMap<usize, Vec<Place>> = BTreeMap::new();
        self.seen.clear();
        loop {
            while let Some((node, stack)) = work.pop() {
                self.spend(1)?;
                if !self.seen.insert((node, stack)) {
                    continue;
                }
                match &grammar.nodes[node as usize] {
                    Node::End | Node::Bytes { .. } | Node::Token { .. } => kept.push((node, stack)),
                    Node::Fork(nodes) => work.extend(nodes.iter().map(|&node| (node, stack))),
                    Node::Return => work.extend_from_slice(self.stacks.get(stack)),
                    &Node::Call { rule, next } => {
                        let back = calls.entry(grammar.ranks[rule]).or_default();
                        // A tail call does not return to its caller: however long a list, it is at one place.
                        if grammar.nodes[next as usize] == Node::Return {
                            back.extend_from_slice(self.stacks.get(stack));
                        } else {
                            back.push((next, stack));
                        }
                        if grammar.nullable[rule] {
                            work.push((next, stack));
                        }
                    }
                }
            }
            let Some((rank, back)) = calls.pop_first() else {
                break;
            };
            self.spend(back.len())?;
            let stack = self.stacks.number(back);
            work.push((grammar.starts[grammar.by_rank[rank]], stack));
        }
        Ok(self.states.number(kept))
    }

    /// Clears all but the current state, if the cache is too large.
    fn forget(&mut self) -> Result<(), TooAmbiguous> {
        if self.stacks.size + self.states.size + self.steps.len() <= MAX_KNOWN {
            return Ok(());
        }
        self.allowed_in = None;
        let state = self.states.get(self.state).to_vec();
        let mut used = vec![false; self.stacks.sets.len()];
        used[0] = true;
        for &(_, stack) in &state {
            used[stack as usize] = true;
        }
        for number in (0..used.len()).rev() {
            if used[number] {
                for &(_, stack) in self.stacks.get(number as u32) {
                    used[stack as usize] = true;
                }
            }
        }
        let mut renamed = vec![0; used.len()];
        let old = std::mem::take(&mut self.stacks);
        for (number, set) in old.sets.iter().enumerate() {
            if used[number] {
                let set = set
                    .iter()
                    .map(|&(node, stack)| (node, renamed[stack as usize]));
                renamed[number] = self.stacks.number(set.collect());
            }
        }
        self.states = Sets::default();
        self.states.number(Vec::new());
        let state = state
            .into_iter()
            .map(|(node, stack)| (node, renamed[stack as usize]));
        self.state = self.states.number(state.collect());
        self.steps = Vec::new();
        // The state itself is too large to scan for each token.
        if self.stacks.size + self.states.size > MAX_KNOWN / 2 {
            return Err(TooAmbiguous);
        }
        Ok(())
    }
}

impl Follow for Matcher {
    fn allowed(&mut self) -> Result<&[bool], ConstraintError> {
        Ok(Self::allowed(self)?)
    }

    fn accept(&mut self, token: Token) -> Result<(), ConstraintError> {
        // The tokens of an existing text are accepted in a row, without `allowed` between them.
        self.fuel = FUEL;
        self.forget()?;
        Self::accept(self, token)?;
        if self.state == DEAD {
            return Err(ConstraintError::new(
                "it does not allow what the text begins with",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::super::gbnf::{Part, Rule};
    use super::*;

    const VOCABULARY: usize = 100;

    fn nodes(gbnf: &str) -> Result<Nodes, GrammarError> {
        Nodes::new(&read(gbnf)?, &[Token(99)])
    }

    fn read(gbnf: &str) -> Result<Vec<Rule>, GrammarError> {
        gbnf::read(gbnf, &|text| {
            let id = text.strip_prefix("<[")?.strip_suffix("]>")?.parse().ok()?;
            (id < VOCABULARY as i32).then_some(Token(id))
        })
    }

    /// A matcher over tokens of these bytes; the token after them ends a text.
    pub(in crate::sampling) fn gbnf(text: &str, tokens: &[&[u8]]) -> Matcher {
        matcher(nodes(text).expect("a grammar"), tokens)
    }

    /// A vocabulary of tokens of these bytes; the last one ends a text.
    fn matcher(nodes: Nodes, tokens: &[&[u8]]) -> Matcher {
        let sorted = Sorted::new(tokens.iter().copied().chain([&[][..]]));
        let end = Token(tokens.len() as i32);
        Matcher::new(Arc::new(nodes), Arc::new(sorted), &[end]).expect("not ambiguous")
    }

    /// By definition: all places where the parts, from a place on, may end.
    struct Reference<'a> {
        rules: &'a [Rule],
        text: Vec<char>,
    }

    impl Reference<'_> {
        fn alternatives(&self, alternatives: &[Vec<Part>], from: usize) -> BTreeSet<usize> {
            let each = alternatives.iter();
            each.flat_map(|parts| self.parts(parts, from)).collect()
        }

        fn parts(&self, parts: &[Part], from: usize) -> BTreeSet<usize> {
            parts.iter().fold(BTreeSet::from([from]), |places, part| {
                let each = places.into_iter();
                each.flat_map(|place| self.part(part, place)).collect()
            })
        }

        fn part(&self, part: &Part, from: usize) -> BTreeSet<usize> {
            match part {
                Part::Text(text) => {
                    let found = text.iter().zip(from..).all(|(&c, place)| {
                        self.text
                            .get(place)
                            .is_some_and(|&found| u32::from(found) == c)
                    });
                    found.then_some(from + text.len()).into_iter().collect()
                }
                Part::Class(ranges) => {
                    let found = self.text.get(from).is_some_and(|&c| {
                        let mut ranges = ranges.iter();
                        ranges.any(|&(first, last)| (first..=last).contains(&c.into()))
                    });
                    found.then_some(from + 1).into_iter().collect()
                }
                Part::Token { .. } => unreachable!("not in these"),
                Part::Rule(rule) => {
                    self.alternatives(self.rules[*rule].body.as_ref().expect("defined"), from)
                }
                Part::Group(alternatives) => self.alternatives(alternatives, from),
                Part::Repeat { parts, least, most } => {
                    let mut all = BTreeSet::new();
                    let mut places = BTreeSet::from([from]);
                    // More often than there are characters brings nothing new.
                    let most = most.unwrap_or(least + self.text.len() + 1);
                    for times in 0..=most {
                        if times >= *least {
                            all.extend(&places);
                        }
                        if times < most {
                            let each = places.iter();
                            places = each.flat_map(|&place| self.parts(parts, place)).collect();
                        }
                    }
                    all
                }
            }
        }

        fn takes(&self) -> bool {
            let root = self
                .rules
                .iter()
                .find(|rule| rule.name == "root")
                .expect("root");
            let body = root.body.as_ref().expect("defined");
            self.alternatives(body, 0).contains(&self.text.len())
        }
    }

    /// All texts of these letters, up to a length.
    fn texts(letters: &[&str], length: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut longest = all.clone();
        for _ in 0..length {
            let longer = longest.iter();
            longest = longer
                .flat_map(|text| letters.iter().map(move |letter| format!("{text}{letter}")))
                .collect();
            all.extend_from_slice(&longest);
        }
        all
    }

    fn check_all(rules: &[Rule], letters: &[&str], length: usize) -> usize {
        let tokens = texts(letters, 2);
        let bytes: Vec<&[u8]> = tokens.iter().map(|text| text.as_bytes()).collect();
        let token = |text: &str| {
            let found = tokens.iter().position(|token| token == text);
            Token(found.expect("a token") as i32)
        };
        let mut taken = 0;
        for text in texts(letters, length) {
            let chars: Vec<char> = text.chars().collect();
            let reference = Reference {
                rules,
                text: chars.clone(),
            };
            let nodes = Nodes::new(rules, &[]).expect("taken before");
            let mut matcher = matcher(nodes, &bytes);
            // In tokens of one character, and of two where there are.
            let mut alive = true;
            for place in 0..chars.len() {
                let allowed = matcher.allowed().expect("cheap").to_vec();
                let one = token(&chars[place].to_string());
                if let Some(pair) = chars.get(place..place + 2) {
                    let pair = token(&pair.iter().collect::<String>());
                    let mut ahead = Matcher::new(
                        Arc::clone(&matcher.grammar),
                        Arc::clone(&matcher.vocab),
                        &matcher.ends,
                    )
                    .expect("cheap");
                    for c in &chars[..=place] {
                        ahead.accept(token(&c.to_string())).expect("cheap");
                    }
                    let next = token(&chars[place + 1].to_string());
                    let both = ahead.allowed().expect("cheap")[next.index()];
                    assert_eq!(allowed[pair.index()], both, "{text:?} {place} {rules:?}");
                }
                alive = allowed[one.index()];
                if !alive {
                    break;
                }
                matcher.accept(one).expect("cheap");
            }
            let may_end = alive && matcher.allowed().expect("cheap")[tokens.len()];
            assert_eq!(may_end, reference.takes(), "{text:?} {rules:?}");
            taken += usize::from(may_end);
        }
        taken
    }

    #[test]
    fn it_takes_what_gbnf_takes() {
        // And how many of these texts each takes, where that is easily counted.
        for (gbnf, expect) in [
            (r#"root ::= [a-z]+ "x""#, Some(120)),
            (r#"root ::= ("a" | "ab") "b""#, Some(2)),
            (r#"root ::= "a" root "b" | "a" root "x" | """#, Some(7)),
            (r#"root ::= "a"? "a"? "a"? "b""#, Some(4)),
            (r#"root ::= (("a"*)* | "b")* "x""#, Some(31)),
            (r#"root ::= ("a" | "b" root?)+"#, None),
            (
                "root ::= s \"x\" s | t\ns ::= t*\nt ::= \"ab\"{0,2} | \"b\"",
                None,
            ),
            ("root ::= (\"a\" |\n \"b\" root \"x\")\n", Some(3)),
            (r#"root ::= [^a]{2} . | "a"{2,3}"#, Some(14)),
            (
                "root ::= ws v ws\nv ::= \"b\" ws \"b\" | \"b\" v\nws ::= \"a\" ws |",
                None,
            ),
        ] {
            let taken = check_all(&read(gbnf).expect(gbnf), &["a", "b", "x"], 5);
            assert!(
                expect.is_none_or(|expect| expect == taken),
                "{gbnf}: {taken}"
            );
        }
        check_all(
            &read("root ::= [^é]* \"漢\" | [é-漢]").expect("a grammar"),
            &["é", "漢", "a", "😀"],
            4,
        );
    }

    /// Draws a grammar's parts.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 20) % bound
        }

        fn alternatives(&mut self, depth: usize) -> Vec<Vec<Part>> {
            (0..1 + self.below(3)).map(|_| self.parts(depth)).collect()
        }

        fn parts(&mut self, depth: usize) -> Vec<Part> {
            (0..self.below(4)).map(|_| self.part(depth)).collect()
        }

        fn part(&mut self, depth: usize) -> Part {
            match self.below(if depth > 0 { 9 } else { 6 }) {
                0 | 1 => Part::Text(vec!['a'.into()]),
                2 => Part::Text(vec!['a'.into(), 'b'.into()]),
                3 => Part::Class(vec![('a'.into(), 'b'.into())]),
                4 | 5 => Part::Rule(self.below(3) as usize),
                6 => Part::Group(self.alternatives(depth - 1)),
                _ => {
                    let least = self.below(3) as usize;
                    Part::Repeat {
                        parts: self.parts(depth - 1),
                        least,
                        most: (self.below(2) == 0).then(|| least + self.below(3) as usize),
                    }
                }
            }
        }
    }

    #[test]
    fn it_takes_what_gbnf_takes_whatever_the_grammar() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut followed = 0;
        while followed < 200 {
            let rules: Vec<Rule> = ["root", "s", "t"]
                .into_iter()
                .map(|name| Rule {
                    name: name.to_owned(),
                    body: Some(random.alternatives(2)),
                })
                .collect();
            match Nodes::new(&rules, &[]) {
                Ok(_) => {
                    check_all(&rules, &["a", "b"], 4);
                    followed += 1;
                }
                Err(error) => assert!(matches!(error, GrammarError::LeftRecursion { .. })),
            }
        }
    }

    #[test]
    fn characters_may_come_in_pieces() {
        let bytes: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).collect();
        let tokens: Vec<&[u8]> = bytes.iter().map(|byte| &byte[..]).collect();
        let takes = |gbnf: &str, text: &[u8]| {
            let mut matcher = matcher(nodes(gbnf).expect("a grammar"), &tokens);
            for &byte in text {
                if !matcher.allowed().expect("cheap")[usize::from(byte)] {
                    return false;
                }
                matcher.accept(Token(byte.into())).expect("cheap");
            }
            matcher.allowed().expect("cheap")[256]
        };
        let some = [
            '\0', 'a', '\x7f', '\u{80}', '\u{7ff}', '\u{800}', '\u{d7ff}', '\u{e000}',
        ];
        let more = [
            '\u{ffff}',
            '\u{10000}',
            '\u{3ffff}',
            '\u{40000}',
            '漢',
            '😀',
            char::MAX,
        ];
        for c in some.into_iter().chain(more) {
            let number = u32::from(c);
            let text = c.to_string();
            assert!(takes("root ::= .", text.as_bytes()), "{c:?}");
            assert!(takes("root ::= [^b]", text.as_bytes()), "{c:?}");
            assert!(
                takes(&format!("root ::= \"\\U{number:08x}\""), text.as_bytes()),
                "{c:?}"
            );
            assert!(
                !takes(&format!("root ::= [^\\U{number:08x}]"), text.as_bytes()),
                "{c:?}"
            );
            assert!(
                takes(
                    &format!("root ::= [\\ud8f0-\\U{number:08x}\\x00-\\U{number:08x}]"),
                    text.as_bytes()
                ),
                "{c:?}"
            );
            if number > 0 {
                assert!(
                    !takes(
                        &format!("root ::= [\\x00-\\U{:08x}]", number - 1),
                        text.as_bytes()
                    ),
                    "{c:?}"
                );
            }
        }
        for broken in [
            &b"\x80"[..],
            b"\xc3",
            b"\xc0\x80",
            b"\xed\xa0\x80",
            b"\xf5",
            b"\xff",
        ] {
            assert!(!takes("root ::= .", broken), "{broken:x?}");
            assert!(!takes("root ::= [^a]", broken), "{broken:x?}");
        }
        // Numbers that are not characters: a dead end.
        for none in [
            "\"\\ud800\"",
            "[\\ud800-\\udfff]",
            "\"\\Uffffffff\"",
            "[z-a]",
        ] {
            let mut matcher = matcher(nodes(&format!("root ::= {none}")).expect(none), &tokens);
            assert!(!matcher.allowed().expect("cheap").contains(&true), "{none}");
        }
    }

    #[test]
    fn tokens_are_allowed_by_id_and_by_no_text() {
        // 0 is a control token: it has no text. 3 ends.
        let tokens: [&[u8]; 3] = [b"", b"a", b"ab"];
        let follow = |gbnf: &str, drawn: &[i32]| {
            let mut matcher = matcher(nodes(gbnf).expect("a grammar"), &tokens);
            for &id in drawn {
                assert!(
                    matcher.allowed().expect("cheap")[Token(id).index()],
                    "{gbnf} {id}"
                );
                matcher.accept(Token(id)).expect("cheap");
            }
            let allowed = matcher.allowed().expect("cheap").to_vec();
            (0..4).filter(|&id| allowed[id]).collect::<Vec<_>>()
        };
        assert_eq!(follow("root ::= .*", &[]), [1, 2, 3]);
        assert_eq!(follow("root ::= <[0]> \"b\"? | \"a\"", &[]), [0, 1]);
        assert_eq!(follow("root ::= <[0]>+ \"a\"", &[0]), [0, 1]);
        assert_eq!(follow("root ::= !<[1]> | !<[0]>", &[]), [0, 1, 2]);
        assert_eq!(follow("root ::= !<[1]> <[2]>", &[]), [0, 2]);
        assert_eq!(follow("root ::= !<[1]> <[2]>", &[0]), [2]);
        // By its id and by its text at once; a token may follow text.
        assert_eq!(follow("root ::= <[1]> <[0]> | \"a\" \"ab\"", &[]), [1]);
        assert_eq!(
            follow("root ::= <[1]> <[0]> | \"a\" \"ab\"", &[1]),
            [0, 1, 2]
        );
        assert_eq!(follow("root ::= \"a\" \"b\"? <[0]>", &[2]), [0]);
        assert_eq!(follow("root ::= \"a\" \"b\"? <[0]>", &[2, 0]), [3]);
        assert_eq!(nodes("root ::= <[99]>"), Err(GrammarError::EndToken));
        assert!(matches!(
            nodes("root ::= <[100]>"),
            Err(GrammarError::UnknownToken { .. })
        ));
        assert!(matches!(
            nodes("root ::= !\"a\""),
            Err(GrammarError::Syntax { .. })
        ));
    }

    #[test]
    fn a_text_can_be_long() {
        let tokens: [&[u8]; 3] = [b"a", b"b", b"c"];
        // The first keeps as many sets as there are characters, in the second they are all the same.
        for (gbnf, places) in [
            ("root ::= \"a\" root \"b\" | \"a\" root \"c\"", 2),
            ("root ::= \"a\" root |", 2),
            ("root ::= \"a\" (\"b\" | root)* \"c\"", 4),
        ] {
            let mut matcher = matcher(nodes(gbnf).expect("a grammar"), &tokens);
            for _ in 0..10_000 {
                assert!(matcher.allowed().expect("cheap")[0], "{gbnf}");
                matcher.accept(Token(0)).expect("cheap");
                assert!(matcher.states.get(matcher.state).len() <= places, "{gbnf}");
            }
        }
    }

    #[test]
    fn a_text_that_is_there_already_is_taken_or_refused() {
        let tokens: [&[u8]; 3] = [b"a", b"b", b"c"];
        let mut text: Box<dyn Follow> = Box::new(gbnf(r#"root ::= "a" [b]* "c""#, &tokens));
        // More than may be spent on one token, all together.
        for token in std::iter::once(0).chain(std::iter::repeat_n(1, FUEL)) {
            assert_eq!(text.accept(Token(token)), Ok(()));
        }
        assert_eq!(text.allowed(), Ok(&[false, true, true, false][..]));
        let refused = text.accept(Token(0)).expect_err("refused").to_string();
        assert!(refused.contains("what the text begins with"), "{refused}");
    }

    #[test]
    fn what_is_known_is_forgotten_and_found_again() {
        let tokens: [&[u8]; 2] = [b"(", b")"];
        let nodes = nodes("root ::= \"(\" root \")\" root |").expect("a grammar");
        let mut matcher = matcher(nodes, &tokens);
        let depth = 100_000;
        for id in std::iter::repeat_n(0, depth).chain(std::iter::repeat_n(1, depth)) {
            assert!(matcher.allowed().expect("cheap")[id]);
            matcher.accept(Token(id as i32)).expect("cheap");
            assert!(
                matcher.stacks.size + matcher.states.size + matcher.steps.len() <= MAX_KNOWN + 100
            );
        }
        assert_eq!(matcher.allowed().expect("cheap"), [true, false, true]);
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        let tokens: [&[u8]; 2] = [b"a", b"aaaaaaaaaaaaaaaa"];
        let nodes = nodes(&format!("root ::= {}", "[a-z]?{2000} ".repeat(25))).expect("a grammar");
        let mut matcher = matcher(nodes, &tokens);
        assert_eq!(matcher.allowed(), Err(TooAmbiguous));
    }

    #[test]
    fn grammars_people_write_pass() {
        for gbnf in [
            r#"root ::= "yes" | "no""#,
            "root ::= \"{\" ws pair (\",\" ws pair)* \"}\"\npair ::= \"\\\"\" [a-z]+ \"\\\":\" value\nvalue ::= root | [0-9]{1,3}\nws ::= \" \"? # space\n",
            "root ::= (\n  \"a\" |\n  \"b\" root\n)\n",
            "root ::= expr\nexpr ::= term ([-+*/] term)*\nterm ::= [0-9]+ | \"(\" expr \")\"",
            "root ::= [^\"\\\\]* .",
            "root ::= <[98]> !<[3]>",
            "s ::= \"a\"?\nr ::= s{0,200}\nroot ::= \"b\" r{200}",
        ] {
            assert_eq!(nodes(gbnf).err(), None, "{gbnf}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000));
        let many: String = (0..5000).map(|i| format!("r{i} ::= \"a\"\n")).collect();
        let refused = |gbnf: &str| nodes(gbnf).expect_err("refused");
        assert!(matches!(refused(&deep), GrammarError::TooDeep { .. }));
        assert_eq!(refused(&many), GrammarError::TooManyRules);
        for large in [
            "(((\"a\"{99}){99}){99}){99}",
            "(((()){2000}){2000}){2000}",
            "[^a]{2000}{2000}",
        ] {
            assert_eq!(
                refused(&format!("root ::= {large}")),
                GrammarError::TooLarge,
                "{large}"
            );
        }
        for left in [
            "root ::= root \"a\"",
            "root ::= a\na ::= b? c\nb ::= \"x\"\nc ::= a \"y\"",
            "root ::= (root)* \"a\"",
        ] {
            assert!(
                matches!(refused(left), GrammarError::LeftRecursion { .. }),
                "{left}"
            );
        }
        assert_eq!(refused("a ::= \"b\""), GrammarError::NoRoot);
        assert_eq!(refused(""), GrammarError::NoRoot);
        assert_eq!(
            refused("root ::= a"),
            GrammarError::Undefined { rule: "a".into() }
        );
        for syntax in [
            "root ::= \"a\"{99999999999999999999}",
            "root := \"a\"",
            "root ::= \"a",
            "root ::= \"a\"*********",
        ] {
            assert!(
                matches!(refused(syntax), GrammarError::Syntax { .. }),
                "{syntax}"
            );
        }
        for bounds in [
            "{3,2}", "{2001}", "{-1}", "{+1}", "{}", "{,2}", "{1,2,3}", "{1",
        ] {
            let gbnf = format!("root ::= \"a\"{bounds}");
            assert!(
                matches!(refused(&gbnf), GrammarError::Syntax { .. }),
                "{bounds}"
            );
        }
    }
}
