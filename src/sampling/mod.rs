//! Turns a row of logits and [`SamplingParams`] into a token, stage by stage (`stages`). The arithmetic of
//! each stage is llama.cpp's own, in llama-cpp-python's order, so that a seed draws the same tokens as there. Grammars are
//! implemented here, because llama.cpp keeps every way to parse a text, which can double with each character, and ends the
//! process on some. So is DRY (`dry` says why). JSON schemas, regular expressions and Lark grammars are llguidance's.

mod automaton;
mod bad_texts;
mod bans;
mod breakers;
mod candidates;
mod constraint;
mod digits;
mod disjoint;
mod dry;
mod error;
mod follower;
mod gbnf;
mod grammar;
mod guidance;
mod infill;
mod look_ahead;
mod observe;
mod params;
mod pattern;
mod repetition;
mod rules;
mod sampler;
mod sampler_name;
mod schema;
mod stages;

pub use bad_texts::BadTexts;
pub use bans::{bad_word, ban_everything};
pub use breakers::Breakers;
pub use constraint::Constraint;
pub use error::{ConstraintError, GrammarError, InvalidConstraint, TooAmbiguous};
pub use follower::Follower;
pub use infill::Infill;
pub use observe::{Draw, Mode, Observed, Recording, Trace, TracedStage, Watch};
pub use params::SamplingParams;
pub use pattern::pattern_in_lark;
pub use rules::{Follow, Rules};
pub use sampler::Sampler;
pub use sampler_name::SamplerName;
