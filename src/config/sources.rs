//! Reads each source into entries. Errors in a source are added to the problems, and the rest is still read.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::display::{on_one_line, shown};
use super::entry::{Entry, Origin};
use super::error::{ConfigError, Problem};
use super::settings::{MODEL_SECTIONS, SETTINGS, Setting};

/// The defaults, and the documentation of every setting.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Where settings may come from, besides the defaults. Later fields override earlier ones.
#[derive(Debug, Default)]
pub struct Sources {
    /// A TOML file with the layout of `config/default.toml`; it may leave out anything.
    pub file: Option<PathBuf>,
    /// The whole environment: variables without the prefix `CANDOR_` are ignored.
    pub environment: Vec<(OsString, OsString)>,
    /// In the order of the command line.
    pub flags: Vec<Flag>,
}

/// A setting on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// As it was written: `--port`.
    pub name: String,
    /// `section.field`.
    pub key: String,
    /// Its value.
    pub value: FlagValue,
}

/// The value of a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagValue {
    /// Parsed as the setting's type.
    One(String),
    /// The values of a flag that may be repeated, each an item of a list: commas do not split them.
    Repeated(Vec<String>),
}

/// The content of all sources.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// The sections: of several entries for one setting the last wins.
    pub(super) entries: Vec<Entry>,
    /// The tables of `[[models]]`, each in the order of `config/default.toml`.
    pub(super) tables: Vec<Vec<Entry>>,
    /// What cannot be read.
    pub(super) problems: Vec<Problem>,
}

/// Reads the defaults and all sources.
pub(super) fn read(sources: &Sources) -> Result<Read, ConfigError> {
    let mut read = Read::default();
    // Compiled in, and a test loads it.
    read.sections(
        toml::from_str(DEFAULTS).unwrap_or_default(),
        &Origin::Default,
    );
    if let Some(path) = &sources.file {
        read.sections(parse(path)?, &Origin::File(path.clone()));
    }
    read.environment(&sources.environment);
    read.flags(&sources.flags);
    Ok(read)
}

fn parse(path: &Path) -> Result<Table, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| ConfigError::NotToml {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })
}

impl Read {
    fn unknown(&mut self, name: &str, origin: &Origin) {
        self.problems.push(Problem::Unknown {
            name: name.to_owned(),
            origin: origin.clone(),
        });
    }

    /// The sections of a file, and its tables of `[[models]]`.
    fn sections(&mut self, file: Table, origin: &Origin) {
        let is_section = |name: &str| {
            SETTINGS
                .iter()
                .any(|setting| setting.section_and_field().0 == name)
        };
        for (section, content) in file {
            match content {
                Value::Array(tables) if section == "models" => {
                    for (number, table) in tables.into_iter().enumerate() {
                        self.model_table(number, table, origin);
                    }
                }
                other if section == "models" => {
                    self.problems.push(no_tables(section, &other, origin))
                }
                Value::Table(fields) if is_section(&section) => {
                    for (field, value) in fields {
                        let key = format!("{section}.{field}");
                        match Setting::find(&key) {
                            Some(setting) => self.entries.push(Entry {
                                setting,
                                value,
                                origin: origin.clone(),
                            }),
                            None => self.unknown(&key, origin),
                        }
                    }
                }
                _ => self.unknown(&section, origin),
            }
        }
    }

    /// A table of `[[models]]`, checked right away: no other source overrides it.
    fn model_table(&mut self, number: usize, table: Value, origin: &Origin) {
        let name = format!("models[{number}]");
        let Value::Table(fields) = table else {
            self.problems.push(no_tables(name, &table, origin));
            return;
        };
        let has_source = fields.contains_key("source");
        let mut entries = Vec::new();
        for (field, value) in fields {
            match value {
                Value::Table(fields) if MODEL_SECTIONS.contains(&field.as_str()) => {
                    for (of_section, value) in fields {
                        let key = format!("{name}.{field}.{of_section}");
                        entries.extend(self.model_field(key, (&field, &of_section), value, origin));
                    }
                }
                value => {
                    let key = format!("{name}.{field}");
                    entries.extend(self.model_field(key, ("model", &field), value, origin));
                }
            }
        }
        if !has_source {
            self.problems.push(Problem::Conflict(format!(
                "{name} has no source ({origin}): set {name}.source to the model it serves."
            )));
        }
        let place = |key| SETTINGS.iter().position(|setting| setting.key == key);
        entries.sort_by_key(|entry| place(entry.setting.key));
        self.tables.push(entries);
    }

    /// A setting in a table of `[[models]]`, which is called `key` there.
    fn model_field(
        &mut self,
        key: String,
        section_and_field: (&str, &str),
        value: Value,
        origin: &Origin,
    ) -> Option<Entry> {
        let mut settings = SETTINGS.iter();
        let Some(setting) = settings.find(|it| it.section_and_field() == section_and_field) else {
            self.unknown(&key, origin);
            return None;
        };
        if !setting.allowed.admits(&value) {
            self.problems.push(Problem::NotAllowed {
                key,
                got: shown(setting, &value),
                allowed: setting.allowed.to_string(),
                origin: origin.clone(),
            });
            return None;
        }
        Some(Entry {
            setting,
            value,
            origin: origin.clone(),
        })
    }

    fn environment(&mut self, variables: &[(OsString, OsString)]) {
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with("CANDOR_")) else {
                continue;
            };
            if is_no_setting(name, &value.to_string_lossy()) {
                continue;
            }
            let origin = Origin::Variable(name.to_owned());
            let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == name) else {
                self.unknown(name, &origin);
                continue;
            };
            match value.to_str() {
                Some(text) => self.entries.push(Entry {
                    setting,
                    value: setting.allowed.parse(text),
                    origin,
                }),
                None => self.problems.push(Problem::NotAllowed {
                    key: setting.key.to_owned(),
                    got: "not valid UTF-8".to_owned(),
                    allowed: setting.allowed.to_string(),
                    origin,
                }),
            }
        }
    }

    fn flags(&mut self, flags: &[Flag]) {
        for flag in flags {
            let origin = Origin::Flag(flag.name.clone());
            let Some(setting) = Setting::find(&flag.key) else {
                self.unknown(&flag.key, &origin);
                continue;
            };
            let value = match &flag.value {
                FlagValue::One(text) => setting.allowed.parse(text),
                FlagValue::Repeated(texts) => texts.clone().into(),
            };
            self.entries.push(Entry {
                setting,
                value,
                origin,
            });
        }
    }
}

fn no_tables(key: impl Into<String>, value: &Value, origin: &Origin) -> Problem {
    Problem::NotAllowed {
        key: key.into(),
        got: on_one_line(value),
        allowed: "a table for each model, written [[models]]".to_owned(),
        origin: origin.clone(),
    }
}

/// Variables that start with `CANDOR_` but are not settings: those that `main`, the test suite and the examples read,
/// and those that Kubernetes sets in every pod next to a service named `candor`.
fn is_no_setting(name: &str, value: &str) -> bool {
    let of_kubernetes = name.starts_with("CANDOR_SERVICE_")
        || name.starts_with("CANDOR_PORT_")
        || name == "CANDOR_PORT" && value.contains("://");
    matches!(name, "CANDOR_CONFIG" | "CANDOR_LOG" | "CANDOR_URL")
        || name.starts_with("CANDOR_TEST_")
        || of_kubernetes
}
