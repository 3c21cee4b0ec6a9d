//! A value of a setting, and where it comes from.

use std::fmt;
use std::path::PathBuf;

use toml::Value;

use super::settings::Setting;

/// A setting's value in one source.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) setting: &'static Setting,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `config/default.toml`, compiled in.
    Default,
    /// The settings file.
    File(PathBuf),
    /// The environment variable of that name.
    Variable(String),
    /// The flag of that name.
    Flag(String),
}

/// On one line, whatever the file's name is.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Origin::Default => return f.write_str("default"),
            Origin::File(path) => format!("file {}", path.display()),
            Origin::Variable(name) => format!("environment variable {name}"),
            Origin::Flag(name) => format!("flag {name}"),
        };
        f.write_str(&text.replace(char::is_control, "?"))
    }
}
