//! Why settings are rejected, for the person who starts the server.

use std::fmt;
use std::path::PathBuf;

use super::entry::Origin;
use super::settings::{MODEL_SECTIONS, SETTINGS, Setting};

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named by `--config` or `CANDOR_CONFIG` does not exist, or may not be read.
    #[error("Cannot read the settings file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file that a setting names does not exist, or may not be read.
    #[error("Cannot read the file of {setting}, {}: {source}", path.display())]
    FileUnreadable {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("The settings file {} is not valid TOML: {message}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Line, column and reason, over several lines.
        message: String,
    },
    /// All problems of the settings, one per line.
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Problem>),
}

/// One problem of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// There is no such setting.
    Unknown {
        /// As it was written.
        name: String,
        /// Where it was written.
        origin: Origin,
    },
    /// The setting does not allow the value.
    NotAllowed {
        /// `section.field`, or `models[0].field`.
        key: String,
        /// The value; `***` for secrets.
        got: String,
        /// What is allowed.
        allowed: String,
        /// Where it was written.
        origin: Origin,
    },
    /// Each value is allowed, but not together with the others, or not in this build.
    Conflict(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unknown { name, origin } => {
                // A line break in a name must not end the line.
                let name = name.replace(char::is_control, "?");
                write!(
                    f,
                    "Unknown setting {name} ({origin}). {}",
                    suggestion(&name)
                )
            }
            Problem::NotAllowed {
                key,
                got,
                allowed,
                origin,
            } => {
                write!(f, "{key} is {got} ({origin}). Allowed: {allowed}.")
            }
            Problem::Conflict(why) => f.write_str(why),
        }
    }
}

/// A suggestion for an unknown name.
fn suggestion(name: &str) -> String {
    let table = name
        .split_once("].")
        .filter(|_| name.starts_with("models["));
    match table {
        Some((table, rest)) => suggestion_in_table(&format!("{table}]"), rest),
        None => suggestion_in_section(name),
    }
}

/// For a name in a table of `[[models]]`: the same field in another section, else what the section holds, else what the
/// table holds.
fn suggestion_in_table(table: &str, name: &str) -> String {
    let write = |setting: &Setting| Some(format!("{table}.{}", setting.key_of_a_model()?));
    let (section, field) = name.split_once('.').unwrap_or(("model", name));
    let named = |matches: &dyn Fn(&Setting) -> bool| {
        let settings = SETTINGS.iter().filter(|setting| matches(setting));
        settings.filter_map(write).collect::<Vec<_>>()
    };
    let same_field = named(&|setting| setting.section_and_field().1 == field);
    if !same_field.is_empty() {
        return did_you_mean(&same_field);
    }
    let mut there = named(&|setting| setting.section_and_field().0 == section);
    if section == "model" {
        there.extend(MODEL_SECTIONS.map(|section| format!("{table}.{section}")));
    }
    if there.is_empty() {
        return suggestion_in_table(table, "");
    }
    one_of(&there)
}

/// For any other name: the same field in another section, else what the section holds, else the sections.
fn suggestion_in_section(name: &str) -> String {
    let is_variable = name.starts_with("CANDOR_");
    let path = name
        .trim_start_matches("CANDOR_")
        .to_lowercase()
        .replace("__", ".");
    let (section, field) = path.split_once('.').unwrap_or(("", &path));
    let named = |matches: &dyn Fn(&str, &str) -> bool| {
        let settings = SETTINGS.iter().filter(|setting| {
            let (its_section, its_field) = setting.section_and_field();
            matches(its_section, its_field)
        });
        let write = |setting: &Setting| match is_variable {
            true => setting.variable(),
            false => setting.key.to_owned(),
        };
        settings.map(write).collect::<Vec<_>>()
    };
    let same_field = named(&|its_section, its_field| {
        its_field == field || format!("{its_section}_{its_field}") == path
    });
    if !same_field.is_empty() {
        return did_you_mean(&same_field);
    }
    let same_section = named(&|its_section, _| its_section == section);
    if !same_section.is_empty() {
        return one_of(&same_section);
    }
    let mut sections: Vec<_> = SETTINGS
        .iter()
        .map(|setting| setting.section_and_field().0)
        .collect();
    sections.dedup();
    let form = match is_variable {
        true => "CANDOR_SECTION__FIELD",
        false => "section.field",
    };
    format!(
        "Settings are written {form}, and the sections are {}; `candor config` lists all settings.",
        sections.join(", ")
    )
}

fn did_you_mean(names: &[String]) -> String {
    format!("Did you mean {}?", names.join(" or "))
}

fn one_of(names: &[String]) -> String {
    format!("Expected one of {}.", names.join(", "))
}
