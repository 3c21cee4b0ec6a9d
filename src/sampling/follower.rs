//! A constraint, followed through one text.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::constraint::Constraint;
use super::error::ConstraintError;
use super::rules::{Follow, Rules};
use crate::model::Token;

/// Follows a constraint through one text. Slow work is deferred until the allowed tokens are needed, so that any thread can
/// do it. A panic in it becomes an error.
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

    /// Takes the follower out. What is left allows nothing.
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

    /// Checks that a forced token may come next.
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

    /// The error that it cannot be followed any further.
    pub fn stuck(&self, why: &str) -> ConstraintError {
        ConstraintError {
            field: self.field,
            why: why.to_owned(),
        }
    }

    /// Computes what is allowed, however long that takes, so that [`Follower::allowed`] returns at once.
    pub fn prepare(&mut self) {
        self.prepare_while(|| true);
    }

    /// Like [`Follower::prepare`], but stops between two tokens once the result is no longer wanted: a fork may start with
    /// many tokens.
    pub fn prepare_while(&mut self, is_wanted: impl Fn() -> bool) {
        let step = AssertUnwindSafe(|| self.step(is_wanted));
        if let Err(error) = catch_unwind(step).unwrap_or_else(|_| {
            tracing::error!(field = self.field, "a constraint panicked");
            Err(ConstraintError::new("internal error"))
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
