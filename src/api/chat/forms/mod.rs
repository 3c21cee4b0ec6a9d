//! The forms in which models write calls and reasoning: tables, and the grammars that force a call.

mod form;
mod grammar;
mod table;
mod thinking;

pub use form::{Body, Channels, Form, Ids, Keys, Parameters};
pub use grammar::{Forced, constraint};
#[cfg(test)]
pub use table::FORMS;
pub use table::{HERMES, of_template};
pub use thinking::{Thinking, thinking_of_template};
