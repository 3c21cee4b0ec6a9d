//! Compiles GBNF rules to the nodes of a recursive automaton.

use regex_syntax::utf8::{Utf8Sequence, Utf8Sequences};

use super::error::{GrammarError, MAX_NODES};
use super::gbnf::{Part, Rule};
use crate::model::Token;

pub type NodeId = u32;

/// What may come next at a point of a text.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// The text may end here.
    End,
    Bytes {
        first: u8,
        last: u8,
        next: NodeId,
    },
    /// One token, or any token except this.
    Token {
        token: Token,
        not: bool,
        next: NodeId,
    },
    Call {
        rule: usize,
        next: NodeId,
    },
    Fork(Vec<NodeId>),
    Return,
}

/// A compiled grammar.
#[derive(Debug, PartialEq)]
pub struct Nodes {
    /// [`Node::End`] comes first.
    pub nodes: Vec<Node>,
    /// Where each rule begins.
    pub starts: Vec<NodeId>,
    pub root: usize,
    /// Rules that match the empty text.
    pub nullable: Vec<bool>,
    /// A rule that calls another before it consumes anything has the lower rank of the two.
    pub ranks: Vec<usize>,
    pub by_rank: Vec<usize>,
    /// Bytes that no node distinguishes share a class.
    pub classes: [u8; 256],
    pub class_count: usize,
}

impl Nodes {
    pub fn new(rules: &[Rule], ends: &[Token]) -> Result<Self, GrammarError> {
        let mut writer = Writer {
            nodes: vec![Node::End],
            parts: 0,
            ends,
        };
        let mut starts = Vec::new();
        for rule in rules {
            let back = writer.push(Node::Return)?;
            starts.push(writer.alternatives(rule.body.as_deref().unwrap_or_default(), back)?);
        }
        let nodes = writer.nodes;
        let (nullable, first_calls) = first_calls(&nodes, &starts);
        let mut order = Order {
            calls: &first_calls,
            seen: vec![None; rules.len()],
            callees_first: Vec::new(),
        };
        for rule in 0..rules.len() {
            order
                .visit(rule)
                .map_err(|rule| GrammarError::LeftRecursion {
                    rule: rules[rule].name.clone(),
                })?;
        }
        let by_rank: Vec<usize> = order.callees_first.into_iter().rev().collect();
        let mut ranks = vec![0; rules.len()];
        for (rank, &rule) in by_rank.iter().enumerate() {
            ranks[rule] = rank;
        }
        let mut begins = [false; 257];
        for node in &nodes {
            if let Node::Bytes { first, last, .. } = node {
                begins[usize::from(*first)] = true;
                begins[usize::from(*last) + 1] = true;
            }
        }
        let mut classes = [0_u8; 256];
        for byte in 1..256 {
            classes[byte] = classes[byte - 1] + u8::from(begins[byte]);
        }
        Ok(Self {
            nodes,
            starts,
            root: rules
                .iter()
                .position(|rule| rule.name == "root")
                .ok_or(GrammarError::NoRoot)?,
            nullable,
            ranks,
            by_rank,
            classes,
            class_count: usize::from(classes[255]) + 1,
        })
    }
}

/// Compiles rules to nodes, from the last part to the first.
struct Writer<'a> {
    nodes: Vec<Node>,
    /// Parts compiled so far, including those that took no node.
    parts: usize,
    ends: &'a [Token],
}

impl Writer<'_> {
    fn push(&mut self, node: Node) -> Result<NodeId, GrammarError> {
        if self.nodes.len() >= MAX_NODES {
            return Err(GrammarError::TooLarge);
        }
        self.nodes.push(node);
        Ok(self.nodes.len() as NodeId - 1)
    }

    /// Any of several; with none, a dead end.
    fn fork(&mut self, nodes: Vec<NodeId>) -> Result<NodeId, GrammarError> {
        match nodes[..] {
            [node] => Ok(node),
            _ => self.push(Node::Fork(nodes)),
        }
    }

    fn alternatives(
        &mut self,
        alternatives: &[Vec<Part>],
        next: NodeId,
    ) -> Result<NodeId, GrammarError> {
        let nodes: Result<_, _> = alternatives
            .iter()
            .map(|parts| self.parts(parts, next))
            .collect();
        self.fork(nodes?)
    }

    fn parts(&mut self, parts: &[Part], mut next: NodeId) -> Result<NodeId, GrammarError> {
        self.parts += 1 + parts.len();
        if self.parts > MAX_NODES {
            return Err(GrammarError::TooLarge);
        }
        for part in parts.iter().rev() {
            next = self.part(part, next)?;
        }
        Ok(next)
    }

    fn part(&mut self, part: &Part, mut next: NodeId) -> Result<NodeId, GrammarError> {
        match part {
            Part::Text(text) => {
                for &c in text.iter().rev() {
                    next = self.class(&[(c, c)], next)?;
                }
                Ok(next)
            }
            Part::Class(ranges) => self.class(ranges, next),
            &Part::Token { token, not } => {
                if !not && self.ends.contains(&token) {
                    return Err(GrammarError::EndToken);
                }
                self.push(Node::Token { token, not, next })
            }
            &Part::Rule(rule) => self.push(Node::Call { rule, next }),
            Part::Group(alternatives) => self.alternatives(alternatives, next),
            Part::Repeat { parts, least, most } => {
                let after = next;
                if let Some(most) = most {
                    for _ in *least..*most {
                        let more = self.parts(parts, next)?;
                        next = self.push(Node::Fork(vec![more, after]))?;
                    }
                } else {
                    next = self.push(Node::Fork(Vec::new()))?;
                    let more = self.parts(parts, next)?;
                    self.nodes[next as usize] = Node::Fork(vec![more, after]);
                }
                for _ in 0..*least {
                    next = self.parts(parts, next)?;
                }
                Ok(next)
            }
        }
    }

    /// One character from these ranges.
    fn class(&mut self, ranges: &[(u32, u32)], next: NodeId) -> Result<NodeId, GrammarError> {
        let sequences: Vec<Utf8Sequence> = ranges
            .iter()
            .filter_map(|&(first, last)| {
                // Surrogates are not characters.
                let first = char::from_u32(first)
                    .or((0xd800..0xe000).contains(&first).then_some('\u{e000}'))?;
                let last = char::from_u32(last).unwrap_or(if last < 0xe000 {
                    '\u{d7ff}'
                } else {
                    char::MAX
                });
                (first <= last).then(|| Utf8Sequences::new(first, last))
            })
            .flatten()
            .collect();
        self.bytes(&sequences, 0, next)
    }

    /// The bytes of sequences that are equal up to `depth`.
    fn bytes(
        &mut self,
        sequences: &[Utf8Sequence],
        depth: usize,
        next: NodeId,
    ) -> Result<NodeId, GrammarError> {
        let mut nodes = Vec::new();
        for same in sequences.chunk_by(|a, b| a.as_slice()[depth] == b.as_slice()[depth]) {
            let range = same[0].as_slice()[depth];
            let next = if depth + 1 == same[0].len() {
                next
            } else {
                self.bytes(same, depth + 1, next)?
            };
            nodes.push(self.push(Node::Bytes {
                first: range.start,
                last: range.end,
                next,
            })?);
        }
        self.fork(nodes)
    }
}

/// Which rules match the empty text, and which rules each calls before it consumes anything.
fn first_calls(nodes: &[Node], starts: &[NodeId]) -> (Vec<bool>, Vec<Vec<usize>>) {
    let mut nullable = vec![false; starts.len()];
    let mut calls = vec![Vec::new(); starts.len()];
    // Where callers continue once a rule is known to match the empty text.
    let mut waiting = vec![Vec::new(); starts.len()];
    let mut seen = vec![false; nodes.len()];
    let mut work: Vec<(NodeId, usize)> = starts.iter().copied().zip(0..).collect();
    while let Some((id, rule)) = work.pop() {
        if std::mem::replace(&mut seen[id as usize], true) {
            continue;
        }
        match &nodes[id as usize] {
            Node::Fork(nodes) => work.extend(nodes.iter().map(|&node| (node, rule))),
            &Node::Call { rule: called, next } => {
                calls[rule].push(called);
                if nullable[called] {
                    work.push((next, rule));
                } else {
                    waiting[called].push((next, rule));
                }
            }
            Node::Return => {
                nullable[rule] = true;
                work.append(&mut waiting[rule]);
            }
            Node::End | Node::Bytes { .. } | Node::Token { .. } => {}
        }
    }
    (nullable, calls)
}

/// Orders rules after those that they call before they consume anything.
struct Order<'a> {
    calls: &'a [Vec<usize>],
    /// Whether everything that a rule calls has been visited.
    seen: Vec<Option<bool>>,
    callees_first: Vec<usize>,
}

impl Order<'_> {
    /// Recurses at most as deep as there are rules, which are bounded. The error is a left-recursive rule.
    fn visit(&mut self, rule: usize) -> Result<(), usize> {
        match self.seen[rule] {
            Some(true) => return Ok(()),
            Some(false) => return Err(rule),
            None => self.seen[rule] = Some(false),
        }
        for &called in &self.calls[rule] {
            self.visit(called)?;
        }
        self.seen[rule] = Some(true);
        self.callees_first.push(rule);
        Ok(())
    }
}
