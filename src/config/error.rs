//! Why the settings cannot be used, written for the person who starts the server.

use std::fmt;
use std::path::PathBuf;

use super::Origin;
use super::settings::{OF_A_MODEL, SETTINGS, Setting};

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named by `--config` or `CANDOR_CONFIG` is not there, or may not be read.
    #[error("Cannot read the settings file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file that a setting names is not there, or may not be read.
    #[error("Cannot read the file of {setting}, {}: {source}", path.display())]
    FileUnreadable {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("The settings file {} is not valid TOML: {message}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// Where and what, over several lines.
        message: String,
    },
    /// All that is wrong with the settings, a line each.
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Problem>),
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// There is no such setting.
    Unknown {
        /// As it was written.
        name: String,
        /// Where.
        origin: Origin,
    },
    /// There is such a setting, and its value is not one it may have.
    NotAllowed {
        /// `section.field`, or `models[0].field`.
        key: String,
        /// What came; `***` for secrets.
        got: String,
        /// What may come.
        allowed: String,
        /// Where.
        origin: Origin,
    },
    /// Each value may be, but not with the others or with this build.
    NotTogether(String),
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
                    instead_of(&name)
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
            Problem::NotTogether(why) => f.write_str(why),
        }
    }
}

/// What the writer of an unknown name in a table of `[[models]]` may have meant: the same field in another place, the
/// section's fields, or all that may stand there.
fn instead_of_in_a_model(table: &str, name: &str) -> String {
    let write = |setting: &Setting| Some(format!("{table}.{}", setting.of_a_model()?));
    let (section, field) = name.split_once('.').unwrap_or(("model", name));
    let has_field = |setting: &&Setting| setting.section_and_field().1 == field;
    let same_field: Vec<_> = SETTINGS
        .iter()
        .filter(has_field)
        .filter_map(write)
        .collect();
    if !same_field.is_empty() {
        return format!("Did you mean {}?", same_field.join(" or "));
    }
    let in_section = |setting: &&Setting| setting.section_and_field().0 == section;
    let mut there: Vec<_> = SETTINGS
        .iter()
        .filter(in_section)
        .filter_map(write)
        .collect();
    if section == "model" {
        there.extend(OF_A_MODEL.map(|section| format!("{table}.{section}")));
    }
    if there.is_empty() {
        return instead_of_in_a_model(table, "");
    }
    format!("There are {}.", there.join(", "))
}

/// What the writer of an unknown name may have meant: the same field elsewhere, the section's fields, the sections.
fn instead_of(name: &str) -> String {
    if let Some((table, rest)) = name
        .split_once("].")
        .filter(|_| name.starts_with("models["))
    {
        return instead_of_in_a_model(&format!("{table}]"), rest);
    }
    let is_variable = name.starts_with("CANDOR_");
    let write = |setting: &Setting| {
        if is_variable {
            setting.variable()
        } else {
            setting.key.to_owned()
        }
    };
    let path = name
        .trim_start_matches("CANDOR_")
        .to_lowercase()
        .replace("__", ".");
    let (section, field) = path.split_once('.').unwrap_or(("", &path));

    let same_field: Vec<_> = SETTINGS
        .iter()
        .filter(|setting| {
            let (its_section, its_field) = setting.section_and_field();
            its_field == field || format!("{its_section}_{its_field}") == path
        })
        .map(write)
        .collect();
    if !same_field.is_empty() {
        return format!("Did you mean {}?", same_field.join(" or "));
    }
    let same_section: Vec<_> = SETTINGS
        .iter()
        .filter(|setting| setting.section_and_field().0 == section)
        .map(write)
        .collect();
    if !same_section.is_empty() {
        return format!("There are {}.", same_section.join(", "));
    }
    let mut sections: Vec<_> = SETTINGS
        .iter()
        .map(|setting| setting.section_and_field().0)
        .collect();
    sections.dedup();
    let form = if is_variable {
        "CANDOR_SECTION__FIELD"
    } else {
        "section.field"
    };
    format!(
        "A setting is written {form}; the sections are {}; `candor config` lists all.",
        sections.join(", ")
    )
}
