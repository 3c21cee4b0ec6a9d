//! What a text must follow, whichever engine reads it: checked when a request comes in, then followed token by token.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde_json::Value;

use super::grammar::{Grammar, GrammarError, TooAmbiguous};
use super::guidance::Guidance;
use crate::model::{Model, Sorted, Token};

/// What a text must follow, checked.
#[derive(Clone)]
pub struct Constraint {
    rules: Arc<dyn Rules>,
    /// The field of the request that it stands in.
    field: &'static str,
}

/// Rules that were checked.
pub trait Rules: Send + Sync {
    /// At a text's beginning.
    fn follow(&self) -> Result<Box<dyn Follow>, Stuck>;
}

/// A text so far, and what may follow.
pub trait Follow: Send {
    /// Of each token, whether it may come next. Asked again, it answers at once.
    fn allowed(&mut self) -> Result<&[bool], Stuck>;
    /// Goes on with a token that is allowed.
    fn accept(&mut self, token: Token) -> Result<(), Stuck>;
}

/// What is wrong with a constraint, for the person who sent it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConstraintError {
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// In the engine's own words, with the place.
    #[error("{0}")]
    Refused(String),
    #[error("{0}, in the schema at {1}")]
    Schema(String, String),
    #[error("it is too much: {0}")]
    TooMuch(&'static str),
    #[error("it could not be read, which is a fault of the server's")]
    Panicked,
}

/// Only as the text grew did it show that it cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The field of the request.
    pub field: &'static str,
    why: String,
}

impl Stuck {
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            field: "",
            why: why.into(),
        }
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, why } = self;
        write!(f, "`{field}` cannot be followed any further: {why}.")
    }
}

impl std::error::Error for Stuck {}

impl From<TooAmbiguous> for Stuck {
    fn from(error: TooAmbiguous) -> Self {
        Self::new(error.to_string())
    }
}

impl Constraint {
    /// A GBNF grammar; takes milliseconds, and a tenth of a second at worst.
    pub fn gbnf(model: &Model, text: &str) -> Result<Self, ConstraintError> {
        let vocab = model.vocab();
        Ok(Self::new(Arc::new(Gbnf {
            grammar: Grammar::new(model, text)?,
            vocab: vocab.sorted(),
            ends: vocab.ends().into(),
        })))
    }

    /// A JSON schema, of which the text is one value.
    pub fn json_schema(model: &Model, schema: &Value) -> Result<Self, ConstraintError> {
        Guidance::of(model.vocab())?
            .json_schema(schema)
            .map(Self::new)
    }

    /// A JSON object, whatever it holds.
    pub fn json_object(model: &Model) -> Result<Self, ConstraintError> {
        Self::json_schema(model, &serde_json::json!({"type": "object"}))
    }

    /// A regular expression that the whole text matches.
    pub fn regex(model: &Model, regex: &str) -> Result<Self, ConstraintError> {
        Guidance::of(model.vocab())?.regex(regex).map(Self::new)
    }

    /// A grammar in llguidance's kind of Lark.
    pub fn lark(model: &Model, text: &str) -> Result<Self, ConstraintError> {
        Guidance::of(model.vocab())?.lark(text).map(Self::new)
    }

    /// One of several texts.
    pub fn choice(model: &Model, texts: &[String]) -> Result<Self, ConstraintError> {
        Guidance::of(model.vocab())?.choice(texts).map(Self::new)
    }

    pub fn new(rules: Arc<dyn Rules>) -> Self {
        Self {
            rules,
            field: "grammar",
        }
    }

    /// As the client calls it.
    pub fn named(mut self, field: &'static str) -> Self {
        self.field = field;
        self
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not what the client wrote: that is for no log.
        f.debug_tuple("Constraint").field(&self.field).finish()
    }
}

impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rules, &other.rules) && self.field == other.field
    }
}

/// A GBNF grammar and the tokens that it is followed with.
struct Gbnf {
    grammar: Grammar,
    vocab: Arc<Sorted>,
    ends: Box<[Token]>,
}

impl Rules for Gbnf {
    fn follow(&self) -> Result<Box<dyn Follow>, Stuck> {
        let matcher = self.grammar.matcher(Arc::clone(&self.vocab), &self.ends)?;
        Ok(Box::new(matcher))
    }
}

/// Follows a constraint through one text. What takes time is put off until it is asked what is allowed, so that it can
/// be done by any thread; a panic in there becomes an error.
pub struct Follower {
    state: State,
    field: &'static str,
    /// Tokens that were drawn, and which the state does not know of yet.
    drawn: Vec<Token>,
}

enum State {
    New(Arc<dyn Rules>),
    Running(Box<dyn Follow>),
    Stuck(Stuck),
}

impl Follower {
    pub fn new(constraint: &Constraint) -> Self {
        Self {
            state: State::New(Arc::clone(&constraint.rules)),
            field: constraint.field,
            drawn: Vec::new(),
        }
    }

    /// Itself; what stays behind allows nothing.
    pub(super) fn take(&mut self) -> Self {
        let away = Stuck {
            field: self.field,
            why: "what it allows is not known yet".to_owned(),
        };
        let left = Self {
            state: State::Stuck(away),
            field: self.field,
            drawn: Vec::new(),
        };
        std::mem::replace(self, left)
    }

    /// Goes on with a token that is allowed.
    pub fn accept(&mut self, token: Token) {
        self.drawn.push(token);
    }

    /// Whether a token that was not drawn may come next.
    pub fn check(&mut self, token: Token) -> Result<(), Stuck> {
        let field = self.field;
        if self.allowed()?.get(token.index()) == Some(&true) {
            return Ok(());
        }
        Err(Stuck {
            field,
            why: "it does not allow the token that is given to come next".to_owned(),
        })
    }

    /// Finds out what is allowed, however long that takes, so that [`Follower::allowed`] answers at once.
    pub fn prepare(&mut self) {
        self.prepare_while(|| true);
    }

    /// As [`Follower::prepare`], but gives up between two tokens once it is not wanted any more: a fork may have many behind it.
    pub fn prepare_while(&mut self, is_wanted: impl Fn() -> bool) {
        let step = AssertUnwindSafe(|| self.step(is_wanted));
        if let Err(stuck) = catch_unwind(step).unwrap_or_else(|_| {
            tracing::error!(field = self.field, "a constraint panicked");
            Err(Stuck::new("it ran into a fault of the server's"))
        }) {
            // Whatever was kept may be broken.
            self.state = State::Stuck(Stuck {
                field: self.field,
                ..stuck
            });
        }
    }

    fn step(&mut self, is_wanted: impl Fn() -> bool) -> Result<(), Stuck> {
        if let State::New(rules) = &self.state {
            self.state = State::Running(rules.follow()?);
        }
        let follow = match &mut self.state {
            State::Running(follow) => follow,
            State::Stuck(stuck) => return Err(stuck.clone()),
            State::New(_) => return Ok(()),
        };
        let check = || {
            let unwanted = || Stuck::new("nobody waits for it");
            is_wanted().then_some(()).ok_or_else(unwanted)
        };
        for token in self.drawn.drain(..) {
            check()?;
            follow.accept(token)?;
        }
        check()?;
        follow.allowed().map(drop)
    }

    /// Of each token, whether it may come next.
    pub fn allowed(&mut self) -> Result<&[bool], Stuck> {
        self.prepare();
        match &mut self.state {
            State::Running(follow) => follow.allowed(),
            State::Stuck(stuck) => Err(stuck.clone()),
            State::New(_) => Ok(&[]),
        }
    }
}
