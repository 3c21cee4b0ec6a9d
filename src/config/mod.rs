//! Settings: defaults < file < environment < flags.
//!
//! | file | holds |
//! |---|---|
//! | [`sections`] | [`Config`], one type for each section of `config/default.toml` |
//! | [`settings`] | the table of all settings, with the values that each allows |
//! | [`entry`] | a value with its origin |
//! | [`sources`] | reads the file, the environment and the flags into entries |
//! | [`load`] | merges the entries and checks the result |
//! | [`checks`] | what no single setting can break: combinations, names of models |
//! | [`display`] | entries as text: `candor config`, values in messages |
//! | [`error`] | why settings are rejected |
//! | [`cli`] | the command line |
//! | [`shard`], [`server_url`] | the values of some of its flags |
//!
//! `config/default.toml` is compiled in: it holds the default of every setting and documents it. No other module knows
//! clap or TOML.

#![warn(missing_docs)]

mod checks;
pub mod cli;
mod display;
mod entry;
mod error;
mod load;
mod sections;
mod server_url;
mod settings;
mod shard;
mod sources;
#[cfg(test)]
mod tests;

pub use checks::gpu_back_ends;
pub use entry::Origin;
pub use error::{ConfigError, Problem};
pub use load::Loaded;
pub use sections::*;
pub use shard::Shard;
pub use sources::{Flag, FlagValue, Sources};
