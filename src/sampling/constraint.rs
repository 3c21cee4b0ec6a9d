//! Constraints on a text, of any engine: checked when a request comes in, then followed token by token.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::error::{ConstraintError, InvalidConstraint};
use super::grammar::Grammar;
use super::guidance::Guidance;
use super::rules::{Follow, Rules};
use crate::model::{Model, Sorted, Token};

/// A checked constraint on a text.
#[derive(Clone)]
pub struct Constraint {
    pub(super) rules: Arc<dyn Rules>,
    /// The request field it came in.
    pub(super) field: &'static str,
}

impl Constraint {
    /// A GBNF grammar. Takes milliseconds; 100 ms at worst.
    pub fn gbnf(model: &Model, text: &str) -> Result<Self, InvalidConstraint> {
        let vocab = model.vocab();
        Ok(Self::new(Arc::new(Gbnf {
            grammar: Grammar::new(model, text)?,
            vocab: vocab.sorted(),
            ends: vocab.ends().into(),
        })))
    }

    /// A JSON schema: the text is one value that is valid against it.
    pub fn json_schema(model: &Model, schema: &Value) -> Result<Self, InvalidConstraint> {
        Guidance::of(model.vocab())?
            .json_schema(schema)
            .map(Self::new)
    }

    /// Any JSON object.
    pub fn json_object(model: &Model) -> Result<Self, InvalidConstraint> {
        Self::json_schema(model, &serde_json::json!({"type": "object"}))
    }

    /// A regular expression that the whole text matches.
    pub fn regex(model: &Model, regex: &str) -> Result<Self, InvalidConstraint> {
        Guidance::of(model.vocab())?.regex(regex).map(Self::new)
    }

    /// A grammar in llguidance's dialect of Lark.
    pub fn lark(model: &Model, text: &str) -> Result<Self, InvalidConstraint> {
        Guidance::of(model.vocab())?
            .lark(text, false)
            .map(Self::new)
    }

    /// Likewise, of texts in which numbers outside of strings are JSON: they end after some digits.
    pub fn lark_of_json(model: &Model, text: &str) -> Result<Self, InvalidConstraint> {
        Guidance::of(model.vocab())?.lark(text, true).map(Self::new)
    }

    /// One of several texts.
    pub fn choice(model: &Model, texts: &[&str]) -> Result<Self, InvalidConstraint> {
        Guidance::of(model.vocab())?.choice(texts).map(Self::new)
    }

    pub fn new(rules: Arc<dyn Rules>) -> Self {
        Self {
            rules,
            field: "grammar",
        }
    }

    /// Sets the request field it came in.
    pub fn named(mut self, field: &'static str) -> Self {
        self.field = field;
        self
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the client's text, which must not be logged.
        f.debug_tuple("Constraint").field(&self.field).finish()
    }
}

impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rules, &other.rules) && self.field == other.field
    }
}

/// A GBNF grammar and the tokens to follow it with.
struct Gbnf {
    grammar: Grammar,
    vocab: Arc<Sorted>,
    ends: Box<[Token]>,
}

impl Rules for Gbnf {
    fn follow(&self) -> Result<Box<dyn Follow>, ConstraintError> {
        let matcher = self.grammar.matcher(Arc::clone(&self.vocab), &self.ends)?;
        Ok(Box::new(matcher))
    }
}
