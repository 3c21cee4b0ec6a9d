//! Lays the layers over each other, remembers where each value comes from, and checks what comes out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::settings::{Allowed, OF_A_MODEL, SETTINGS, Setting};
use super::{Config, ConfigError, KvType, LoadAt, Problem};

/// The defaults, and the documentation of every setting.
pub(super) const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Stands for secrets wherever settings are shown.
const HIDDEN: &str = "***";

/// Where settings may come from, beside the defaults. What stands below wins.
#[derive(Debug, Default)]
pub struct Sources {
    /// A TOML file laid out like `config/default.toml`, of which it may leave out anything.
    pub file: Option<PathBuf>,
    /// The whole environment: what does not start with `CANDOR_` is passed over.
    pub environment: Vec<(OsString, OsString)>,
    /// In the order of the command line.
    pub flags: Vec<Flag>,
}

/// A setting given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// As it was written: `--port`.
    pub name: String,
    /// `section.field`.
    pub key: String,
    /// What came after it.
    pub given: Given,
}

/// What came after a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// Read as the setting's type asks for.
    One(String),
    /// The values of a flag that may be repeated: a list as it is, commas and all.
    Repeated(Vec<String>),
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

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// The settings in force.
#[derive(Debug)]
pub struct Loaded {
    /// What the server runs with.
    pub config: Config,
    /// The same as they were written, with their origins, in the order of `config/default.toml`.
    effective: Vec<(&'static Setting, Value, Origin)>,
    /// The tables of `[[models]]` that are in force, as they were written.
    tables: Vec<ModelTable>,
}

/// A table of `[[models]]`.
#[derive(Debug)]
struct ModelTable {
    /// What it says, in the order of `config/default.toml`.
    values: Vec<(&'static Setting, Value)>,
    /// The file it stands in.
    origin: Origin,
}

impl ModelTable {
    /// The settings in force for its model, given all others.
    fn over(&self, sections: &Figment) -> Result<Config, ConfigError> {
        self.values
            .iter()
            .map(|(setting, value)| layer(self.origin.clone(), setting.key, value.clone()))
            .fold(sections.clone(), Figment::merge)
            .extract()
            .map_err(refused_by_figment)
    }
}

/// What belongs to one model and to no other, so that no table inherits it.
const ITS_OWN: [&str; 3] = ["model.source", "model.name", "model.aliases"];

impl Loaded {
    /// Where the value of `section.field` comes from.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.effective
            .iter()
            .find(|(setting, ..)| setting.key == key)
            .map(|(.., origin)| origin)
    }

    /// The settings in force as a settings file, with the origin of each behind it. Secrets are hidden.
    pub fn to_toml(&self) -> String {
        let mut lines = Vec::new();
        let mut last_section = "";
        for (setting, value, origin) in &self.effective {
            if !self.tables.is_empty() && ITS_OWN.contains(&setting.key) {
                continue;
            }
            let (section, field) = setting.section_and_field();
            if section != last_section {
                if !last_section.is_empty() {
                    lines.push(String::new());
                }
                lines.push(format!("[{section}]"));
                last_section = section;
            }
            lines.push(line(setting, field, value, origin));
        }
        for table in &self.tables {
            lines.extend([String::new(), "[[models]]".to_owned()]);
            let mut last_section = "model";
            for (setting, value) in &table.values {
                let (section, field) = setting.section_and_field();
                if section != last_section {
                    lines.push(format!("[models.{section}]"));
                    last_section = section;
                }
                lines.push(line(setting, field, value, &table.origin));
            }
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

impl Config {
    /// Reads all sources over the defaults and checks the result. All that is wrong is reported at once.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let mut problems = Vec::new();
        let mut layers = vec![defaults()];
        let mut tables = Vec::new();
        if let Some(path) = &sources.file {
            layers.push(file_layer(path, &mut tables, &mut problems)?);
        }
        layers.extend(variable_layers(&sources.environment, &mut problems));
        layers.extend(flag_layers(&sources.flags, &mut problems));

        let origins: Vec<Origin> = layers.iter().map(|layer| layer.origin.clone()).collect();
        let figment = layers.into_iter().fold(Figment::new(), Figment::merge);

        let mut effective = Vec::with_capacity(SETTINGS.len());
        for setting in SETTINGS {
            let value = figment
                .find_value(setting.key)
                .map_err(refused_by_figment)?;
            let name = figment
                .get_metadata(value.tag())
                .map_or("", |metadata| &metadata.name);
            let origin = origins
                .iter()
                .find(|origin| origin.to_string() == name)
                .unwrap_or(&Origin::Default);
            if !setting.allowed.admits(&value) {
                problems.push(Problem::NotAllowed {
                    key: setting.key.to_owned(),
                    got: shown(setting, &value),
                    allowed: setting.allowed.to_string(),
                    origin: origin.clone(),
                });
            }
            effective.push((setting, value, origin.clone()));
        }
        for (setting, _, origin) in &effective {
            // What stands above a file wins over its tables, as over all else in it.
            if setting.key == "model.source"
                && matches!(origin, Origin::Variable(_) | Origin::Flag(_))
            {
                tables.clear();
            }
            if !tables.is_empty() && ITS_OWN.contains(&setting.key) && *origin != Origin::Default {
                problems.push(Problem::NotTogether(format!(
                    "{} is set ({}), but with [[models]] each table says its own, and [model] is for defaults.",
                    setting.key,
                    origin.to_string().replace(char::is_control, "?")
                )));
            }
        }
        if !problems.is_empty() {
            return Err(ConfigError::Refused(problems));
        }
        let mut config: Config = figment.extract().map_err(refused_by_figment)?;
        problems.extend(not_together(&config));
        if !config.server.api_keys_file.is_empty() {
            let keys = keys_in(Path::new(&config.server.api_keys_file), &mut problems)?;
            config.server.api_keys.extend(keys);
        }
        with_template(&mut config)?;
        for (number, table) in tables.iter().enumerate() {
            let mut one = Config {
                server: config.server.clone(),
                ..table.over(&figment)?
            };
            with_template(&mut one)?;
            // What is wrong with the sections was said.
            let wrong = not_together(&one).filter(|problem| !problems.contains(problem));
            problems
                .extend(wrong.map(|why| Problem::NotTogether(format!("models[{number}]: {why}"))));
            config.models.push(one);
        }
        problems.extend(wrong_names(&config));
        problems.extend(too_many_at_start(&config));
        if problems.is_empty() {
            Ok(Loaded {
                config,
                effective,
                tables,
            })
        } else {
            Err(ConfigError::Refused(problems))
        }
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

/// What one source says.
struct Layer {
    origin: Origin,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

fn defaults() -> Layer {
    let values = toml::from_str::<Dict>(DEFAULTS);
    Layer {
        origin: Origin::Default,
        values: values.unwrap_or_default(),
    }
}

/// The file's settings, and its tables of `[[models]]`; keys that do not exist are left out and reported.
fn file_layer(
    path: &PathBuf,
    tables: &mut Vec<ModelTable>,
    problems: &mut Vec<Problem>,
) -> Result<Layer, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.clone(),
        source,
    })?;
    let table: Dict =
        toml::from_str(&text).map_err(|error: toml::de::Error| ConfigError::NotToml {
            path: path.clone(),
            message: error.to_string().trim_end().to_owned(),
        })?;

    let origin = Origin::File(path.clone());
    let is_section = |name: &str| {
        SETTINGS
            .iter()
            .any(|setting| setting.section_and_field().0 == name)
    };
    let mut values = Dict::new();
    for (section, content) in table {
        match content {
            Value::Array(_, content) if section == "models" => {
                for (number, table) in content.into_iter().enumerate() {
                    tables.extend(model_table(number, table, &origin, problems));
                }
            }
            other if section == "models" => problems.push(no_tables("models", &other, &origin)),
            Value::Dict(tag, fields) if is_section(&section) => {
                let (known, unknown): (Dict, Dict) = fields
                    .into_iter()
                    .partition(|(field, _)| Setting::find(&format!("{section}.{field}")).is_some());
                problems.extend(unknown.into_keys().map(|field| Problem::Unknown {
                    name: format!("{section}.{field}"),
                    origin: origin.clone(),
                }));
                values.insert(section, Value::Dict(tag, known));
            }
            _ => problems.push(Problem::Unknown {
                name: section,
                origin: origin.clone(),
            }),
        }
    }
    Ok(Layer { origin, values })
}

/// A table of `[[models]]`, checked as the sections are. What is wrong with it is reported.
fn model_table(
    number: usize,
    table: Value,
    origin: &Origin,
    problems: &mut Vec<Problem>,
) -> Option<ModelTable> {
    let name = format!("models[{number}]");
    let Value::Dict(_, fields) = table else {
        problems.push(no_tables(&name, &table, origin));
        return None;
    };
    let mut values = Vec::new();
    let mut take = |section: &str, field: &str, value: Value| {
        let named = |setting: &&Setting| setting.section_and_field() == (section, field);
        let key = match section {
            "model" => format!("{name}.{field}"),
            section => format!("{name}.{section}.{field}"),
        };
        match SETTINGS.iter().find(named) {
            None => problems.push(Problem::Unknown {
                name: key,
                origin: origin.clone(),
            }),
            Some(setting) if !setting.allowed.admits(&value) => {
                problems.push(Problem::NotAllowed {
                    key,
                    got: shown(setting, &value),
                    allowed: setting.allowed.to_string(),
                    origin: origin.clone(),
                })
            }
            Some(setting) => values.push((setting, value)),
        }
    };
    let has_source = fields.contains_key("source");
    for (field, value) in fields {
        match value {
            Value::Dict(_, fields) if OF_A_MODEL.contains(&field.as_str()) => {
                for (of_section, value) in fields {
                    take(&field, &of_section, value);
                }
            }
            value => take("model", &field, value),
        }
    }
    if !has_source {
        problems.push(Problem::NotTogether(format!(
            "{name} has no source: {name}.source must say which model it is ({}).",
            origin.to_string().replace(char::is_control, "?")
        )));
    }
    let place = |key| SETTINGS.iter().position(|setting| setting.key == key);
    values.sort_by_key(|(setting, _)| place(setting.key));
    Some(ModelTable {
        values,
        origin: origin.clone(),
    })
}

fn no_tables(name: &str, value: &Value, origin: &Origin) -> Problem {
    Problem::NotAllowed {
        key: name.to_owned(),
        got: toml::Value::try_from(value)
            .map_or_else(|_| format!("{value:?}"), |value| in_a_line(&value)),
        allowed: "a table for each model, written [[models]]".to_owned(),
        origin: origin.clone(),
    }
}

/// Names that requests could not tell models by.
fn wrong_names(config: &Config) -> Vec<Problem> {
    let is_one = config.models.is_empty();
    let mut problems = Vec::new();
    let mut known: Vec<(String, usize)> = Vec::new();
    for (number, one) in config.of_each_model().iter().enumerate() {
        let names = one.model.names();
        if names.is_empty() && !(is_one && one.model.load == LoadAt::Start) {
            problems.push(if is_one {
                "model.load = \"first-use\" needs model.name: requests must have a name to ask for."
                    .to_owned()
            } else {
                format!(
                    "models[{number}] needs a name: only the path of a file tells one by itself."
                )
            });
        }
        for name in names {
            match known.iter().find(|(other, _)| *other == name) {
                Some((_, other)) => problems.push(format!(
                    "models[{other}] and models[{number}] both answer to {}: give one of them another name.",
                    quoted(&name)
                )),
                None => known.push((name, number)),
            }
        }
    }
    problems.into_iter().map(Problem::NotTogether).collect()
}

fn too_many_at_start(config: &Config) -> Option<Problem> {
    let at_start = |one: &&Config| one.model.load == LoadAt::Start;
    let wanted = config.of_each_model().iter().filter(at_start).count();
    let most = config.limits.loaded_models;
    (most > 0 && wanted > most).then(|| {
        Problem::NotTogether(format!(
            "limits.loaded_models is {most}, but {wanted} models are to be loaded at the start: set load = \"first-use\" \
             for some of them."
        ))
    })
}

/// Reads the chat template of the model, if the settings name a file for it.
fn with_template(config: &mut Config) -> Result<(), ConfigError> {
    let path = &config.model.chat_template_file;
    if !path.is_empty() {
        let template = read("model.chat_template_file", Path::new(path))?;
        config.model.chat_template = Some(template);
    }
    Ok(())
}

/// What a file holds that a setting names.
fn read(setting: &'static str, path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|source| ConfigError::FileUnreadable {
        setting,
        path: path.to_owned(),
        source,
    })
}

/// The keys of a file, one on each line.
fn keys_in(path: &Path, problems: &mut Vec<Problem>) -> Result<Vec<String>, ConfigError> {
    let text = read("server.api_keys_file", path)?;
    let lines = text.lines().map(str::trim);
    let keys: Vec<String> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    // A file without a key would leave the server open to everyone.
    if keys.is_empty() || !Allowed::Keys.admits(&keys.clone().into()) {
        problems.push(Problem::NotTogether(format!(
            "server.api_keys_file, {}, must hold one key on each line, of visible ASCII characters without spaces, and at \
             least one.",
            path.display()
        )));
    }
    Ok(keys)
}

/// A layer for each `CANDOR_` variable that is a setting; the others are reported.
fn variable_layers(
    environment: &[(OsString, OsString)],
    problems: &mut Vec<Problem>,
) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with("CANDOR_")) else {
            continue;
        };
        if is_someone_elses(name, &value.to_string_lossy()) {
            continue;
        }
        let origin = Origin::Variable(name.to_owned());
        let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == name) else {
            problems.push(Problem::Unknown {
                name: name.to_owned(),
                origin,
            });
            continue;
        };
        match value.to_str() {
            Some(text) => layers.push(layer(origin, setting.key, setting.allowed.read(text))),
            None => problems.push(Problem::NotAllowed {
                key: setting.key.to_owned(),
                got: "not valid UTF-8".to_owned(),
                allowed: setting.allowed.to_string(),
                origin,
            }),
        }
    }
    layers
}

/// Variables that start with `CANDOR_` and are no settings: what `main` reads, what the test suite and the
/// examples read, and what Kubernetes gives to every pod beside a service named `candor`.
fn is_someone_elses(name: &str, value: &str) -> bool {
    let of_kubernetes = name.starts_with("CANDOR_SERVICE_")
        || name.starts_with("CANDOR_PORT_")
        || name == "CANDOR_PORT" && value.contains("://");
    matches!(name, "CANDOR_CONFIG" | "CANDOR_LOG" | "CANDOR_URL")
        || name.starts_with("CANDOR_TEST_")
        || of_kubernetes
}

/// A layer for each flag; names that `--set` got wrong are reported.
fn flag_layers(flags: &[Flag], problems: &mut Vec<Problem>) -> Vec<Layer> {
    let mut layers = Vec::new();
    for flag in flags {
        let origin = Origin::Flag(flag.name.clone());
        let Some(setting) = Setting::find(&flag.key) else {
            problems.push(Problem::Unknown {
                name: flag.key.clone(),
                origin,
            });
            continue;
        };
        let value = match &flag.given {
            Given::One(text) => setting.allowed.read(text),
            Given::Repeated(texts) => texts.clone().into(),
        };
        layers.push(layer(origin, setting.key, value));
    }
    layers
}

/// A layer of one setting.
fn layer(origin: Origin, key: &str, value: Value) -> Layer {
    let values = figment::util::nest(key, value)
        .into_dict()
        .unwrap_or_default();
    Layer { origin, values }
}

/// A setting as a line of a settings file, with its origin behind it.
fn line(setting: &Setting, field: &str, value: &Value, origin: &Origin) -> String {
    // A line break in a file's name must not end the comment.
    let origin = origin.to_string().replace(char::is_control, "?");
    format!(
        "{:<40} # {origin}",
        format!("{field} = {}", shown(setting, value))
    )
}

/// A value as TOML writes it; secrets hidden; numbers with a point where the setting is not a whole number.
fn shown(setting: &Setting, value: &Value) -> String {
    if setting.is_secret() {
        return match value {
            Value::Array(_, items) => {
                format!("[{}]", vec![format!("{HIDDEN:?}"); items.len()].join(", "))
            }
            _ => HIDDEN.to_owned(),
        };
    }
    if let (Allowed::Number(..) | Allowed::NumberAbove(..), Some(whole)) =
        (setting.allowed, value.to_i128())
    {
        return format!("{:?}", whole as f64);
    }
    toml::Value::try_from(value).map_or_else(|_| format!("{value:?}"), |value| in_a_line(&value))
}

/// As TOML writes it, but for texts with line breaks, which it would spread over several lines.
fn in_a_line(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) if text.contains(['\n', '\r']) => quoted(text),
        toml::Value::Array(items) => {
            let items: Vec<_> = items.iter().map(in_a_line).collect();
            format!("[{}]", items.join(", "))
        }
        toml::Value::Table(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| format!("{} = {}", quoted(name), in_a_line(value)))
                .collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// A text between quotes, as TOML reads it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// What no single setting can be blamed for.
fn not_together(config: &Config) -> Option<Problem> {
    let has_gpu = cfg!(any(
        feature = "cuda",
        feature = "metal",
        feature = "vulkan",
        feature = "rocm"
    ));
    let why = if config.engine.kv_type_v == KvType::q8_0 && !config.engine.flash_attention {
        "engine.kv_type_v = \"q8_0\" needs engine.flash_attention = true: llama.cpp cannot read quantized values without it."
    } else if config.engine.pinned_prefixes > config.engine.cache_lanes {
        "engine.pinned_prefixes is above engine.cache_lanes: each pinned prefix takes one of these lanes. Raise cache_lanes, or pin fewer."
    } else if config.model.gpu_layers > 0 && !has_gpu {
        "model.gpu_layers is above 0, but this build has no GPU back end. Build with `--features cuda` (or metal, vulkan, rocm), or set it to 0."
    } else if config.server.tls_certificate.is_empty() != config.server.tls_key.is_empty() {
        "server.tls_certificate and server.tls_key belong together: set both, or none."
    } else {
        return None;
    };
    Some(Problem::NotTogether(why.to_owned()))
}

/// Reached only if [`SETTINGS`] and [`Config`] disagree, which a test excludes.
fn refused_by_figment(error: figment::Error) -> ConfigError {
    ConfigError::Refused(vec![Problem::NotTogether(error.to_string())])
}
