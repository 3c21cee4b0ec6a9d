//! What a text must follow, whichever engine interprets it: checked when a request comes in, then followed token by token.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde_json::Value;

use super::grammar::{Grammar, GrammarError, TooAmbiguous};
use super::guidance::Guidance;
use crate::model::{Model, Sorted, Token};

/// A checked constraint on a text.
#[derive(Clone)]
pub struct Constraint {
    rules: Arc<dyn Rules>,
    /// The request field it came in.
    field: &'static str,
}

/// Checked rules.
pub trait Rules: Send + Sync {
    /// Starts a text.
    fn follow(&self) -> Result<Box<dyn Follow>, ConstraintError>;
}

/// A text so far, and what may come next.
pub trait Follow: Send {
    /// For each token, whether it may come next. A second call returns at once.
    fn allowed(&mut self) -> Result<&[bool], ConstraintError>;
    /// Appends an allowed token.
    fn accept(&mut self, token: Token) -> Result<(), ConstraintError>;
}

/// Why a constraint was refused, written for the person who sent it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidConstraint {
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// In the engine's words, with the position.
    #[error("{0}")]
    Refused(String),
    #[error("{0}, in the schema at {1}")]
    Schema(String, String),
    #[error("it is too large: {0}")]
    TooMuch(&'static str),
    #[error("it could not be read, which is a fault of the server's")]
    Panicked,
}

/// A constraint turned out, as the text grew, not to be followable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConstraintError {
    /// The request field.
    pub field: &'static str,
    why: String,
}

impl ConstraintError {
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            field: "",
            why: why.into(),
        }
    }
}

impl fmt::Display for ConstraintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, why } = self;
        write!(f, "`{field}` cannot be followed any further: {why}.")
    }
}

impl std::error::Error for ConstraintError {}

impl From<TooAmbiguous> for ConstraintError {
    fn from(error: TooAmbiguous) -> Self {
        Self::new(error.to_string())
    }
}

impl Constraint {
    /// A GBNF grammar; takes milliseconds, and a tenth of a second at worst.
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
        Guidance::of(model.vocab())?.lark(text).map(Self::new)
    }

    /// One of several texts.
    pub fn choice(model: &Model, texts: &[String]) -> Result<Self, InvalidConstraint> {
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

/// Follows a constraint through one text. Slow work is deferred until the allowed tokens are needed, so that any thread can
/// do it; a panic in it becomes an error.
pub struct Follower {
    state: State,
    field: &'static str,
    /// Drawn tokens that the state has not seen yet.
    drawn: Vec<Token>,
}

enum State {
    New(Arc<dyn Rules>),
    Running(Box<dyn Follow>),
    Failed(ConstraintError),
}

impl Follower {
    pub fn new(constraint: &Constraint) -> Self {
        Self {
            state: State::New(Arc::clone(&constraint.rules)),
            field: constraint.field,
            drawn: Vec::new(),
        }
    }

    /// Takes it out; the rest allows nothing.
    pub(super) fn take(&mut self) -> Self {
        let away = ConstraintError {
            field: self.field,
            why: "what it allows is not known yet".to_owned(),
        };
        let left = Self {
            state: State::Failed(away),
            field: self.field,
            drawn: Vec::new(),
        };
        std::mem::replace(self, left)
    }

    /// Appends an allowed token.
    pub fn accept(&mut self, token: Token) {
        self.drawn.push(token);
    }

    /// Checks that a token that was not drawn may come next.
    pub fn check(&mut self, token: Token) -> Result<(), ConstraintError> {
        let field = self.field;
        if self.allowed()?.get(token.index()) == Some(&true) {
            return Ok(());
        }
        Err(ConstraintError {
            field,
            why: "it does not allow the token that is given to come next".to_owned(),
        })
    }

    /// Computes what is allowed, however long that takes, so that [`Follower::allowed`] returns at once.
    pub fn prepare(&mut self) {
        self.prepare_while(|| true);
    }

    /// Like [`Follower::prepare`], but gives up between two tokens once the result is no longer wanted: a fork may start with
    /// many tokens.
    pub fn prepare_while(&mut self, is_wanted: impl Fn() -> bool) {
        let step = AssertUnwindSafe(|| self.step(is_wanted));
        if let Err(error) = catch_unwind(step).unwrap_or_else(|_| {
            tracing::error!(field = self.field, "a constraint panicked");
            Err(ConstraintError::new("it ran into a fault of the server's"))
        }) {
            // The state may be inconsistent.
            self.state = State::Failed(ConstraintError {
                field: self.field,
                ..error
            });
        }
    }

    fn step(&mut self, is_wanted: impl Fn() -> bool) -> Result<(), ConstraintError> {
        if let State::New(rules) = &self.state {
            self.state = State::Running(rules.follow()?);
        }
        let follow = match &mut self.state {
            State::Running(follow) => follow,
            State::Failed(error) => return Err(error.clone()),
            State::New(_) => return Ok(()),
        };
        let check = || {
            let unwanted = || ConstraintError::new("nobody waits for it");
            is_wanted().then_some(()).ok_or_else(unwanted)
        };
        for token in self.drawn.drain(..) {
            check()?;
            follow.accept(token)?;
        }
        check()?;
        follow.allowed().map(drop)
    }

    /// For each token, whether it may come next.
    pub fn allowed(&mut self) -> Result<&[bool], ConstraintError> {
        self.prepare();
        match &mut self.state {
            State::Running(follow) => follow.allowed(),
            State::Failed(error) => Err(error.clone()),
            State::New(_) => Ok(&[]),
        }
    }
}
