//! Merges the sources into the settings in force, and checks them.

use std::fs;
use std::path::Path;

use toml::{Table, Value};

use super::checks;
use super::display;
use super::entry::{Entry, Origin};
use super::error::{ConfigError, Problem};
use super::sections::Config;
use super::settings::{Allowed, SETTINGS};
use super::sources::{self, Sources};

/// The settings in force.
#[derive(Debug)]
pub struct Loaded {
    /// What the server runs with.
    pub config: Config,
    /// The same as they were written, in the order of `config/default.toml`.
    effective: Vec<Entry>,
    /// The tables of `[[models]]` in force, as they were written.
    tables: Vec<Vec<Entry>>,
}

impl Loaded {
    /// Where the value of `section.field` comes from.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        let mut entries = self.effective.iter();
        let entry = entries.find(|entry| entry.setting.key == key)?;
        Some(&entry.origin)
    }

    /// The settings in force as a settings file, each with its origin as a comment. Secrets are hidden.
    pub fn to_toml(&self) -> String {
        let is_in_tables = |key| !self.tables.is_empty() && checks::OWN_TO_A_MODEL.contains(&key);
        let entries = self.effective.iter();
        let effective: Vec<_> = entries
            .filter(|entry| !is_in_tables(entry.setting.key))
            .collect();
        display::settings_file(&effective, &self.tables)
    }
}

impl Config {
    /// Merges all sources over the defaults and checks the result. Reports all problems at once.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let sources::Read {
            entries,
            mut tables,
            mut problems,
        } = sources::read(sources)?;
        let effective = merged(&entries);
        problems.extend(effective.iter().filter_map(checks::not_allowed));
        if names_one_model(&effective) {
            tables.clear();
        }
        if !tables.is_empty() {
            problems.extend(checks::beside_tables(&effective));
        }
        if !problems.is_empty() {
            return Err(ConfigError::Refused(problems));
        }
        let mut config = deserialized(&effective)?;
        problems.extend(checks::combination(&config));
        if !config.server.api_keys_file.is_empty() {
            let keys = keys_in(Path::new(&config.server.api_keys_file), &mut problems)?;
            config.server.api_keys.extend(keys);
        }
        read_template(&mut config)?;
        for (number, table) in tables.iter().enumerate() {
            let mut one = Config {
                server: config.server.clone(),
                ..deserialized(&merged(effective.iter().chain(table)))?
            };
            read_template(&mut one)?;
            // Problems of the sections are already reported.
            let wrong = checks::combination(&one).filter(|problem| !problems.contains(problem));
            problems.extend(wrong.map(|why| Problem::Conflict(format!("models[{number}]: {why}"))));
            config.models.push(one);
        }
        problems.extend(checks::names(&config));
        problems.extend(checks::loaded_at_start(&config));
        if !problems.is_empty() {
            return Err(ConfigError::Refused(problems));
        }
        Ok(Loaded {
            config,
            effective,
            tables,
        })
    }
}

/// The settings of `config/default.toml` alone.
impl Default for Config {
    fn default() -> Self {
        // The file is compiled in, and a test loads it.
        Config::load(&Sources::default())
            .expect("config/default.toml is a valid settings file")
            .config
    }
}

/// The last entry of each setting, in the order of [`SETTINGS`].
fn merged<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<Entry> {
    let entries: Vec<&Entry> = entries.into_iter().collect();
    let last = |key| entries.iter().rfind(|entry| entry.setting.key == key);
    SETTINGS
        .iter()
        .filter_map(|setting| last(setting.key).copied().cloned())
        .collect()
}

/// Fails only if [`SETTINGS`] and [`Config`] disagree, which a test excludes.
fn deserialized(effective: &[Entry]) -> Result<Config, ConfigError> {
    let mut sections = Table::new();
    for entry in effective {
        let (section, field) = entry.setting.section_and_field();
        let fields = sections
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        if let Some(fields) = fields.as_table_mut() {
            fields.insert(field.to_owned(), entry.value.clone());
        }
    }
    sections.try_into().map_err(|error: toml::de::Error| {
        ConfigError::Refused(vec![Problem::Conflict(error.to_string())])
    })
}

/// Whether a flag or variable names the model: it wins over the tables of `[[models]]`, as over all else in the file.
fn names_one_model(effective: &[Entry]) -> bool {
    effective.iter().any(|entry| {
        entry.setting.key == "model.source"
            && matches!(entry.origin, Origin::Variable(_) | Origin::Flag(_))
    })
}

/// Reads the chat template of the model, if the settings name a file for it.
fn read_template(config: &mut Config) -> Result<(), ConfigError> {
    let path = &config.model.chat_template_file;
    if !path.is_empty() {
        let template = read("model.chat_template_file", Path::new(path))?;
        config.model.chat_template = Some(template);
    }
    Ok(())
}

/// Reads a file that a setting names.
fn read(setting: &'static str, path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|source| ConfigError::FileUnreadable {
        setting,
        path: path.to_owned(),
        source,
    })
}

/// The keys of a file, one per line.
fn keys_in(path: &Path, problems: &mut Vec<Problem>) -> Result<Vec<String>, ConfigError> {
    let text = read("server.api_keys_file", path)?;
    let lines = text.lines().map(str::trim);
    let keys: Vec<String> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    // A file without a key would leave the server open to everyone.
    if keys.is_empty() || !Allowed::Keys.admits(&keys.clone().into()) {
        problems.push(Problem::Conflict(format!(
            "server.api_keys_file, {}, must contain at least one key, one per line, of visible ASCII characters without \
             spaces.",
            path.display()
        )));
    }
    Ok(keys)
}
