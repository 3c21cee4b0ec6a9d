//! Lays the layers over each other, remembers where each value comes from, and checks what comes out.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::settings::{Allowed, SETTINGS, Setting};
use super::{Config, ConfigError, KvType, Problem};

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
}

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
            let (section, field) = setting.section_and_field();
            if section != last_section {
                if !last_section.is_empty() {
                    lines.push(String::new());
                }
                lines.push(format!("[{section}]"));
                last_section = section;
            }
            // A line break in a file's name must not end the comment.
            let origin = origin.to_string().replace(char::is_control, "?");
            lines.push(format!(
                "{:<40} # {origin}",
                format!("{field} = {}", shown(setting, value))
            ));
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
        if let Some(path) = &sources.file {
            layers.push(file_layer(path, &mut problems)?);
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
                    key: setting.key,
                    got: shown(setting, &value),
                    allowed: setting.allowed.to_string(),
                    origin: origin.clone(),
                });
            }
            effective.push((setting, value, origin.clone()));
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
        let template = &config.model.chat_template_file;
        if !template.is_empty() {
            let template = read("model.chat_template_file", Path::new(template))?;
            config.model.chat_template = Some(template);
        }
        if problems.is_empty() {
            Ok(Loaded { config, effective })
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

/// The file's settings; keys that do not exist are left out and reported.
fn file_layer(path: &PathBuf, problems: &mut Vec<Problem>) -> Result<Layer, ConfigError> {
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
                key: setting.key,
                got: "not valid UTF-8".to_owned(),
                allowed: setting.allowed.to_string(),
                origin,
            }),
        }
    }
    layers
}

/// Variables that start with `CANDOR_` and are no settings: what `main` reads, what the test suite reads, and what
/// Kubernetes gives to every pod beside a service named `candor`.
fn is_someone_elses(name: &str, value: &str) -> bool {
    let of_kubernetes = name.starts_with("CANDOR_SERVICE_")
        || name.starts_with("CANDOR_PORT_")
        || name == "CANDOR_PORT" && value.contains("://");
    matches!(name, "CANDOR_CONFIG" | "CANDOR_LOG")
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
