//! Chat templates render messages as the text that a model was trained with. They are Jinja as in Hugging Face's
//! transformers (`apply_chat_template`): Jinja2 in a sandbox with a few more functions ([`jinja2`]).
//!
//! A client may send its own template. It can access only its variables; its time and memory are limited ([`apart`]).

mod apart;
mod compiled;
mod error;
mod fit;
mod jinja2;
mod render;
#[cfg(test)]
mod tests;

pub use apart::{render_apart, render_template};
pub use compiled::Scope;
pub use error::TemplateError;
pub use render::{Order, render};
