//! Why a constraint was refused, or could not be followed any further.

use std::fmt;

/// The most nodes of a grammar; each takes about 16 bytes.
pub(super) const MAX_NODES: usize = 250_000;

/// Why a grammar was refused, in words for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    #[error("it has no rule named \"root\"")]
    NoRoot,
    #[error("it allows nothing")]
    AllowsNothing,
    #[error("its groups are nested more than 64 deep (line {line})")]
    TooDeep { line: usize },
    #[error("it has more than 4096 rules")]
    TooManyRules,
    #[error("it has more than {MAX_NODES} parts when its repetitions are written out")]
    TooLarge,
    #[error(
        "its rule \"{rule}\" refers to itself before it reads anything (left recursion); write it as a repetition"
    )]
    LeftRecursion { rule: String },
    #[error("its rule \"{rule}\" is used but not defined")]
    Undefined { rule: String },
    #[error("it names the token \"{token}\", which the model does not have (line {line})")]
    UnknownToken { token: String, line: usize },
    #[error(
        "it names an end-of-generation token; such tokens are allowed wherever the grammar may end, and nowhere else"
    )]
    EndToken,
    #[error(transparent)]
    TooAmbiguous(#[from] TooAmbiguous),
    #[error("it is not valid GBNF: {what} (line {line})")]
    Syntax { what: &'static str, line: usize },
}

/// Computing what may come next takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it can be read in so many ways that following it takes too long")]
pub struct TooAmbiguous;

/// Why a constraint was refused, in words for the client.
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
    #[error("internal error: it could not be read")]
    Panicked,
}

/// A constraint could not be followed any further as the text grew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConstraintError {
    /// The request field.
    pub field: &'static str,
    pub(super) why: String,
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
