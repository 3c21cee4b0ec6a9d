//! Jinja2 as transformers sets it up, made from minijinja: everything that the two do differently.

mod args;
mod characters;
mod environment;
mod filters;
mod functions;
mod json;
mod methods;
mod operators;
mod percent;
mod source;
mod text;

pub use environment::{compile, environment};
pub use functions::raised;
pub use source::source;
