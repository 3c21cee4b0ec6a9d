//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use super::error::{ConfigError, Problem};
use super::load::Loaded;
use super::sections::{Config, Server, reachable};
use super::server_url::server_url;
use super::shard::Shard;
use super::sources::{Flag, FlagValue, Sources};

/// An OpenAI-compatible completion server whose log-probabilities can be trusted.
#[derive(Debug, Parser)]
#[command(name = "candor", version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Try it:
  candor serve
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
    -d '{\"prompt\": \"The sky is\", \"max_tokens\": 8, \"logprobs\": 3}'";

const SETTINGS_HELP: &str = "\
Settings are read from four sources; later ones override earlier ones:
  1. the defaults (config/default.toml in the source tree documents every setting)
  2. a TOML file: --config FILE or CANDOR_CONFIG; only a file can list several models ([[models]])
  3. environment variables: CANDOR_SECTION__FIELD, as in CANDOR_LIMITS__LOGPROBS=20;
     lists with commas or as TOML: CANDOR_MODEL__ALIASES=a,b
  4. flags; settings without a flag of their own with --set: --set limits.logprobs=20
`candor config` with the same flags prints the settings in force and their sources.

CANDOR_LOG sets the log level: error, warn, info (the default), debug or trace,
also for single modules: info,candor::engine=debug";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load the models and answer requests until Ctrl-C or SIGTERM.
    ///
    /// The first signal lets running requests finish; the second one exits immediately.
    #[command(after_help = SETTINGS_HELP)]
    Serve(SettingFlags),
    /// Print the settings in force as TOML, with the source of each. API keys are hidden.
    #[command(after_help = SETTINGS_HELP)]
    Config(SettingFlags),
    /// Measure which setup is fastest for each model on this machine, print a table, and keep it for the next start.
    ///
    /// The first start of the server measures by itself. Use this to see the figures, or to measure again if the machine
    /// was busy at that time.
    #[command(after_help = SETTINGS_HELP)]
    Tune(SettingFlags),
    /// Check this machine and these settings before starting a server: one line per check.
    ///
    /// Each line begins with `ok`, `warning` or `error`. The exit status is 0 if all checks are ok, 2 if there are
    /// warnings, and 1 if there are errors. Nothing is loaded or downloaded.
    #[command(after_help = DOCTOR_HELP)]
    Doctor(SettingFlags),
    /// Download the model, or all of `[[models]]`, into the cache unless already there, and print the paths.
    Fetch(Fetch),
    /// Check whether a server is healthy: print its `/health`, and exit with 0 if it can serve requests, else with 1.
    ///
    /// For health checks of containers. Without --url, it asks the server on this machine with the same settings.
    #[command(after_help = HEALTH_HELP)]
    Health(Health),
    /// Run the request of a receipt again, and compare every token and every bit of its log-probabilities.
    ///
    /// The exit status is 0 if all are equal, 1 if any differs, and 2 if they could not be compared.
    #[command(after_help = VERIFY_HELP)]
    Verify(Verify),
    /// Send the requests in a file to one or several servers, and append their answers to another file.
    ///
    /// Both files have the format of OpenAI's Batch API. If the command ends early, run it again: it goes on where it was.
    /// The exit status is 0 if every line has an answer, 3 if some have an error, 2 if nothing was sent because files, flags
    /// or servers do not fit, 130 after a signal, and 1 if it could not go on.
    #[command(after_help = BATCH_HELP)]
    Batch(Box<Batch>),
    /// Render the chat template read from standard input, as JSON. The server runs this in its own process for
    /// templates that clients send.
    #[command(hide = true)]
    RenderTemplate,
    /// Try llama.cpp's CPU routines on a small model, by the JSON read from standard input. The server runs this in a
    /// process of its own, because a routine may crash it.
    #[command(hide = true)]
    TryRoutines,
    /// Print the completion script for a shell.
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page of `candor` or of one of its commands.
    #[command(after_help = MAN_HELP)]
    Man {
        /// The command, as in `candor man serve` or `candor man batch-merge`.
        #[arg(value_parser = name_of_page)]
        command: Option<String>,
    },
}

const DOCTOR_HELP: &str = "\
Try it:
  candor doctor
  candor doctor --model hf:ORG/REPO:Q4_K_M --context-length 8192

Flags and settings are those of `candor serve`: see `candor serve --help`.";

const HEALTH_HELP: &str = "\
Try it:
  candor health
  candor health --url http://127.0.0.1:8000";

const VERIFY_HELP: &str = "\
Try it:
  curl -s http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
    -d '{\"prompt\": \"The sky is\", \"receipt\": true}' > answer.json
  candor verify answer.json
  candor verify answer.json --url http://127.0.0.1:8000

The engine is started with the settings in the receipt: mode, flash attention, formats, lengths.
Flags override them, to see what changes: --set engine.flash_attention=true";

const BATCH_HELP: &str = "\
Try it:
  echo '{\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/completions\",
    \"body\": {\"prompt\": \"The sky is\", \"max_tokens\": 8}}' | tr -d '\\n' > in.jsonl
  candor batch in.jsonl out.jsonl
  candor batch in.jsonl out.jsonl --url http://10.0.0.1:8000 --url http://10.0.0.2:8000
On a cluster, for a task of an array of eight (docs/batch.md):
  candor batch in.jsonl out-$SLURM_ARRAY_TASK_ID.jsonl --shard $SLURM_ARRAY_TASK_ID/8
  candor batch merge in.jsonl out.jsonl out-[0-7].jsonl

Without --url, the flags of `candor serve` set up the engine: see `candor serve --help`.";

const COMPLETIONS_HELP: &str = "\
Try it:
  source <(candor completions bash)
To install it:
  candor completions bash > ~/.local/share/bash-completion/completions/candor
  candor completions fish > ~/.config/fish/completions/candor.fish
  candor completions zsh > _candor, in a folder of $fpath";

const MAN_HELP: &str = "\
Try it:
  candor man | man -l -
  candor man serve | man -l -
To install it:
  candor man > ~/.local/share/man/man1/candor.1
  candor man serve > ~/.local/share/man/man1/candor-serve.1";

/// The completion script for a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "candor", &mut script);
    script
}

/// The manual page with this name, or without one that of the program.
pub fn man(name: Option<&str>) -> std::io::Result<Vec<u8>> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    // Sets the full name of each command (`candor serve`) and of its page (candor-serve).
    cli.build();
    let named = name.and_then(|name| pages(&cli).into_iter().find(|(other, _)| other == name));
    let page = named.map_or(&cli, |(_, page)| page);
    let mut text = Vec::new();
    clap_mangen::Man::new(page.clone())
        .source(concat!("candor ", env!("CARGO_PKG_VERSION")))
        .render(&mut text)?;
    Ok(text)
}

/// The commands of a command, and theirs. Each has a manual page with this name after the command's own: `batch-merge`.
fn pages(command: &clap::Command) -> Vec<(String, &clap::Command)> {
    let mut all = Vec::new();
    for one in command.get_subcommands() {
        let name = one.get_name();
        let of_one = pages(one).into_iter();
        all.push((name.to_owned(), one));
        all.extend(of_one.map(|(rest, page)| (format!("{name}-{rest}"), page)));
    }
    all
}

/// Accepts the name of a command's manual page.
fn name_of_page(name: &str) -> Result<String, String> {
    let cli = Cli::command();
    let names: Vec<String> = pages(&cli).into_iter().map(|(name, _)| name).collect();
    match names.iter().any(|other| other == name) {
        true => Ok(name.to_owned()),
        false => Err(format!("the commands are {}", names.join(", "))),
    }
}

/// The flags of `candor fetch`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// `default`, `hf:ORG/REPO[:FILE-or-QUANT]`, or a path, which is only checked [default: model.source].
    model: Option<String>,
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `candor health`.
#[derive(Debug, Args)]
pub struct Health {
    /// The server's address, as in http://127.0.0.1:8000 [default: server.host and server.port].
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `candor verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// JSON file with the receipt, or with the answer that contains it; `-` for standard input.
    pub receipt: PathBuf,
    /// Ask this running server instead of starting an engine. The API key is the first of server.api_keys.
    #[arg(long)]
    pub url: Option<String>,
    /// The model of the receipt [default: model.source]; with --url, its name on that server [default: the name in the
    /// receipt].
    #[arg(long, short)]
    pub model: Option<String>,
    /// With --url: time limit for the whole answer. Increase it for long generations.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "url", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
    #[command(flatten)]
    common: CommonFlags,
}

/// The most requests at once to one server.
pub const MOST_CONCURRENT: usize = 1024;

/// The flags of `candor batch`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Batch {
    /// Another task than to send requests.
    #[command(subcommand)]
    pub task: Option<BatchTask>,
    /// File with the requests, one JSON object on each line: `custom_id`, `method`, `url`, `body`.
    #[arg(value_name = "IN", required = true)]
    pub input: Option<PathBuf>,
    /// File that the answers are appended to. Beside it, OUT.state says what it is for.
    #[arg(value_name = "OUT", required = true)]
    pub output: Option<PathBuf>,
    /// Ask this running server instead of starting an engine; may be repeated for more servers, with the same model and bits
    /// class. The API key is the first of server.api_keys.
    #[arg(long = "url", value_name = "URL", value_parser = server_url)]
    pub urls: Vec<String>,
    /// Requests at once to each server [default: twice as many as it runs at once].
    #[arg(long, value_name = "N", value_parser = count_of_requests)]
    pub concurrency: Option<usize>,
    /// Send only part I of N, from 0/N to (N-1)/N. All parts together are the whole input.
    #[arg(long, value_name = "I/N", default_value = "0/1")]
    pub shard: Shard,
    /// Ask for a receipt with each completion and chat completion.
    #[arg(long)]
    pub receipts: bool,
    /// Allow answers of different bits classes in one output. Each line has its class.
    #[arg(long)]
    pub allow_mixed: bool,
    /// Time limit for an answer; then the request is sent again. Increase it for long generations.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
    /// Give up when no line has been answered for so long; time in which one is running, or a server has asked for a pause, does
    /// not count.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub patience: u64,
    #[command(flatten)]
    settings: SettingFlags,
}

/// What `candor batch` does beside sending requests.
#[derive(Debug, Subcommand)]
pub enum BatchTask {
    /// Join the outputs of all shards, in the order of the input.
    ///
    /// Fails unless every line of the input has exactly one answer in them. The exit status is 0 if every line has an
    /// answer, 3 if some have an error, and 2 if the files do not fit.
    Merge(Merge),
}

/// The flags of `candor batch merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// The input of all shards.
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// A new file for the answers.
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// The outputs of all shards, in any order.
    #[arg(value_name = "SHARD", required = true)]
    pub shards: Vec<PathBuf>,
    /// Join shards of different bits classes, too.
    #[arg(long)]
    pub allow_mixed: bool,
}

/// The server that `candor health` and `candor doctor` ask.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// Without a path.
    pub url: String,
    /// Off for the server on this machine, whose certificate is for another name than its local address.
    pub checks_certificate: bool,
}

/// The flags of every command.
#[derive(Debug, Args)]
struct CommonFlags {
    /// Settings file (TOML); settings it leaves out keep their defaults.
    #[arg(
        long,
        value_name = "FILE",
        env = "CANDOR_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    /// Any setting, by its name in the settings file; may be repeated, and overrides the other flags.
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

/// The flags of `candor serve`, `candor config`, `candor tune` and `candor doctor`. All values are strings here:
/// [`Config::load`] parses and checks them by the same rules as environment variables.
#[derive(Debug, Args)]
pub struct SettingFlags {
    /// Model to serve: `default`, a path to a GGUF file, or `hf:ORG/REPO[:FILE-or-QUANT]` [env: CANDOR_MODEL__SOURCE].
    #[arg(long, short, value_name = "MODEL")]
    model: Option<String>,
    /// Address to listen on; 0.0.0.0 accepts connections from other machines [env: CANDOR_SERVER__HOST].
    #[arg(long)]
    host: Option<String>,
    /// Port to listen on; 0 for any free port [env: CANDOR_SERVER__PORT].
    #[arg(long, short, allow_negative_numbers = true)]
    port: Option<String>,
    /// Require this API key in requests; may be repeated. Other users of the machine can read flags: prefer the file or
    /// the environment [env: CANDOR_SERVER__API_KEYS].
    #[arg(long = "api-key", value_name = "KEY")]
    api_keys: Vec<String>,
    /// Name of the model in requests, instead of its file's name; may be repeated [env: CANDOR_MODEL__ALIASES].
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<String>,
    /// LoRA adapter to load, `[NAME=]PATH[@SCALE]`; may be repeated [env: CANDOR_MODEL__LORA].
    #[arg(long = "lora", value_name = "ADAPTER")]
    adapters: Vec<String>,
    /// Maximum tokens of a sequence, prompt and completion together [env: CANDOR_ENGINE__CONTEXT_LENGTH].
    #[arg(long, short, value_name = "TOKENS", allow_negative_numbers = true)]
    context_length: Option<String>,
    /// Sequences that are generated concurrently [env: CANDOR_ENGINE__PARALLEL_SEQUENCES].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    parallel_sequences: Option<String>,
    /// llama.cpp contexts, each on its own thread; 0: the fastest number, by measurement [env: CANDOR_ENGINE__CONTEXTS].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    contexts: Option<String>,
    /// Total CPU threads; 0: one for each core that other processes leave free [env: CANDOR_ENGINE__THREADS].
    #[arg(long, short, value_name = "N", allow_negative_numbers = true)]
    threads: Option<String>,
    /// Guarantee about reproducible bits: auto, exact or throughput [env: CANDOR_ENGINE__MODE].
    #[arg(long)]
    mode: Option<String>,
    /// Layers on the GPU, in a build with a GPU back end [env: CANDOR_MODEL__GPU_LAYERS].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    gpu_layers: Option<String>,
    /// Use flash attention; changes log-probabilities by up to 0.1 [env: CANDOR_ENGINE__FLASH_ATTENTION].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    flash_attention: Option<String>,
    /// Log format: text or json [env: CANDOR_SERVER__LOG_FORMAT].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    #[command(flatten)]
    common: CommonFlags,
}

impl SettingFlags {
    /// A flag that is given, and only matters to a server that others use.
    fn of_listener(&self) -> Option<&'static str> {
        let given = [
            ("--host", self.host.is_some()),
            ("--port", self.port.is_some()),
        ];
        first(given)
    }

    /// A flag that is given, and only matters to an engine.
    fn of_engine(&self) -> Option<&'static str> {
        let set = self.common.set.iter();
        let is_key = |key: &str| key.starts_with("server.api_keys");
        let given = [
            ("--model", self.model.is_some()),
            ("--alias", !self.aliases.is_empty()),
            ("--lora", !self.adapters.is_empty()),
            ("--context-length", self.context_length.is_some()),
            ("--parallel-sequences", self.parallel_sequences.is_some()),
            ("--contexts", self.contexts.is_some()),
            ("--threads", self.threads.is_some()),
            ("--mode", self.mode.is_some()),
            ("--gpu-layers", self.gpu_layers.is_some()),
            ("--flash-attention", self.flash_attention.is_some()),
            ("--set", !set.clone().all(|(key, _)| is_key(key))),
        ];
        first(given)
    }

    /// Loads the settings from these flags, the file they name and `environment`.
    pub fn load(self, environment: Vec<(OsString, OsString)>) -> Result<Loaded, ConfigError> {
        let mut flags = Vec::new();
        let mut one = |name: &str, key: &str, value: Option<String>| {
            flags.extend(value.map(|value| flag(name, key, FlagValue::One(value))));
        };
        one("--model", "model.source", self.model);
        one("--host", "server.host", self.host);
        one("--port", "server.port", self.port);
        one(
            "--context-length",
            "engine.context_length",
            self.context_length,
        );
        one(
            "--parallel-sequences",
            "engine.parallel_sequences",
            self.parallel_sequences,
        );
        one("--mode", "engine.mode", self.mode);
        one("--contexts", "engine.contexts", self.contexts);
        one("--threads", "engine.threads", self.threads);
        one("--gpu-layers", "model.gpu_layers", self.gpu_layers);
        one(
            "--flash-attention",
            "engine.flash_attention",
            self.flash_attention,
        );
        one("--log-format", "server.log_format", self.log_format);
        let mut repeated = |name: &str, key: &str, values: Vec<String>| {
            if !values.is_empty() {
                flags.push(flag(name, key, FlagValue::Repeated(values)));
            }
        };
        repeated("--api-key", "server.api_keys", self.api_keys);
        repeated("--alias", "model.aliases", self.aliases);
        repeated("--lora", "model.lora", self.adapters);
        self.common.load(environment, flags)
    }
}

impl Fetch {
    /// Loads the settings from these flags, the file they name and `environment`.
    pub fn load(self, environment: Vec<(OsString, OsString)>) -> Result<Loaded, ConfigError> {
        let model = self
            .model
            .map(|model| flag("MODEL", "model.source", FlagValue::One(model)));
        self.common.load(environment, model.into_iter().collect())
    }
}

impl Health {
    /// The server given by --url, else by the settings.
    pub fn server(
        self,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<ServerAddress, ConfigError> {
        if let Some(url) = self.url {
            return Ok(ServerAddress {
                url: url.trim_end_matches('/').to_owned(),
                checks_certificate: true,
            });
        }
        let server = self.common.load(environment, Vec::new())?.config.server;
        Ok(ServerAddress::local(&server))
    }
}

impl ServerAddress {
    /// The server on this machine with these settings.
    pub fn local(server: &Server) -> Self {
        let scheme = if server.tls_certificate.is_empty() {
            "http"
        } else {
            "https"
        };
        let (host, port) = (&server.host, server.port);
        let authority = match host.parse() {
            Ok(address) => SocketAddr::new(reachable(address), port).to_string(),
            Err(_) => format!("{host}:{port}"),
        };
        Self {
            url: format!("{scheme}://{authority}"),
            checks_certificate: false,
        }
    }
}

impl Verify {
    /// Loads the settings from these flags, the file they name and `environment`. The settings of the receipt override the
    /// file and the environment, and flags override them.
    pub fn load(
        self,
        environment: Vec<(OsString, OsString)>,
        of_receipt: Vec<(&'static str, String)>,
    ) -> Result<Loaded, ConfigError> {
        let of_receipt = of_receipt.into_iter();
        let mut flags: Vec<Flag> = of_receipt
            .map(|(key, value)| flag("RECEIPT", key, FlagValue::One(value)))
            .collect();
        if self.url.is_none() {
            let model = self.model;
            flags.extend(model.map(|model| flag("--model", "model.source", FlagValue::One(model))));
        }
        self.common.load(environment, flags)
    }
}

impl Batch {
    /// Loads the settings from these flags, the file they name and `environment`. With --url, flags for an engine are
    /// refused.
    pub fn load(self, environment: Vec<(OsString, OsString)>) -> Result<Loaded, ConfigError> {
        let mut ignored = self.settings.of_listener();
        let mut why = "candor batch listens on no address that others use";
        if !self.urls.is_empty() && ignored.is_none() {
            ignored = self.settings.of_engine();
            why = "with --url, no engine is started";
        }
        match ignored {
            Some(flag) => Err(ConfigError::Refused(vec![Problem::Conflict(format!(
                "{flag} would have no effect: {why}. Leave it out."
            ))])),
            None => self.settings.load(environment),
        }
    }
}

impl CommonFlags {
    fn load(
        self,
        environment: Vec<(OsString, OsString)>,
        mut flags: Vec<Flag>,
    ) -> Result<Loaded, ConfigError> {
        flags.extend(
            self.set
                .into_iter()
                .map(|(key, value)| flag("--set", &key, FlagValue::One(value))),
        );
        // `CANDOR_CONFIG=` counts as unset.
        let file = self.config.filter(|path| !path.as_os_str().is_empty());
        Config::load(&Sources {
            file,
            environment,
            flags,
        })
    }
}

/// The first flag that is given.
fn first<const N: usize>(flags: [(&'static str, bool); N]) -> Option<&'static str> {
    let mut given = flags.into_iter().filter(|(_, is_given)| *is_given);
    given.next().map(|(name, _)| name)
}

fn count_of_requests(text: &str) -> Result<usize, String> {
    let count = text.parse().ok();
    let count = count.filter(|count| (1..=MOST_CONCURRENT).contains(count));
    count.ok_or_else(|| format!("expected a number from 1 to {MOST_CONCURRENT}"))
}

fn flag(name: &str, key: &str, value: FlagValue) -> Flag {
    Flag {
        name: name.to_owned(),
        key: key.to_owned(),
        value,
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("expected SECTION.FIELD=VALUE, as in limits.logprobs=20")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::settings::SETTINGS;
    use super::*;

    fn load(arguments: &[&str]) -> Result<Loaded, ConfigError> {
        let cli = Cli::try_parse_from(arguments).unwrap();
        match cli.command {
            Command::Serve(flags)
            | Command::Config(flags)
            | Command::Tune(flags)
            | Command::Doctor(flags) => flags.load(Vec::new()),
            Command::Fetch(fetch) => fetch.load(Vec::new()),
            Command::Batch(batch) => batch.load(Vec::new()),
            Command::Health(_)
            | Command::Verify(_)
            | Command::Completions { .. }
            | Command::Man { .. }
            | Command::RenderTemplate
            | Command::TryRoutines => {
                panic!("a command without settings")
            }
        }
    }

    #[test]
    fn clap_finds_nothing_wrong_with_the_command_line() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_from_flags_know_their_flag() {
        let loaded = load(&[
            "candor",
            "serve",
            "-m",
            "some.gguf",
            "--port=81",
            "--alias",
            "a,b",
            "--alias",
            "c",
            "--lora",
            "a=a.gguf@0.5",
            "--flash-attention",
            "--set",
            "limits.logprobs=7",
            "--set",
            "sampling.temperature=0",
        ])
        .unwrap();
        let config = &loaded.config;
        assert_eq!(config.model.source, "some.gguf");
        assert_eq!(config.server.port, 81);
        assert_eq!(config.model.aliases, ["a,b", "c"]);
        assert_eq!(config.model.lora, ["a=a.gguf@0.5"]);
        assert!(config.engine.flash_attention);
        assert_eq!(config.limits.logprobs, 7);
        assert_eq!(config.sampling.values.temperature, 0.0);
        assert_eq!(
            loaded.origin("model.aliases").unwrap().to_string(),
            "flag --alias"
        );
        assert_eq!(
            loaded.origin("limits.logprobs").unwrap().to_string(),
            "flag --set"
        );
    }

    #[test]
    fn flash_attention_can_be_switched_off() {
        assert!(
            !load(&["candor", "serve", "--flash-attention=false"])
                .unwrap()
                .config
                .engine
                .flash_attention
        );
    }

    #[test]
    fn fetch_takes_the_model_as_its_argument() {
        assert_eq!(
            load(&["candor", "fetch", "hf:a/b"])
                .unwrap()
                .config
                .model
                .source,
            "hf:a/b"
        );
        assert_eq!(
            load(&["candor", "fetch"]).unwrap().config.model.source,
            "default"
        );
    }

    #[test]
    fn health_asks_the_server_of_the_settings() {
        let check = |arguments: &[&str], url: &str, checks_certificate: bool| {
            let all = ["candor", "health"].iter().chain(arguments);
            let Command::Health(health) = Cli::try_parse_from(all).unwrap().command else {
                panic!("another command")
            };
            let asked = ServerAddress {
                url: url.to_owned(),
                checks_certificate,
            };
            assert_eq!(health.server(Vec::new()).unwrap(), asked);
        };
        check(&[], "http://127.0.0.1:8000", false);
        check(
            &["--set", "server.host=0.0.0.0", "--set", "server.port=81"],
            "http://127.0.0.1:81",
            false,
        );
        check(&["--set", "server.host=::"], "http://[::1]:8000", false);
        check(
            &["--set", "server.host=box.example"],
            "http://box.example:8000",
            false,
        );
        check(
            &["--url", "https://box.example/"],
            "https://box.example",
            true,
        );
    }

    #[test]
    fn a_receipt_overrides_the_settings_and_flags_override_it() {
        let check = |arguments: &[&str], model: &str, length: usize| {
            let all = ["candor", "verify", "receipt.json"].iter().chain(arguments);
            let Command::Verify(verify) = Cli::try_parse_from(all).unwrap().command else {
                panic!("another command")
            };
            let environment = vec![("CANDOR_ENGINE__CONTEXT_LENGTH".into(), "64".into())];
            let of_receipt = vec![("engine.context_length", "128".to_owned())];
            let config = verify.load(environment, of_receipt).unwrap().config;
            assert_eq!(config.model.source, model);
            assert_eq!(config.engine.context_length, length);
        };
        check(&[], "default", 128);
        check(&["--model", "some.gguf"], "some.gguf", 128);
        // There it is a name, not a file.
        check(
            &["--url", "http://box.example", "--model", "some"],
            "default",
            128,
        );
        check(&["--set", "engine.context_length=256"], "default", 256);
    }

    #[test]
    fn a_batch_takes_the_flags_that_matter_to_it() {
        let load_with = |flags: &[&str]| {
            let all = [&["candor", "batch", "in", "out"], flags].concat();
            load(&all).map(|loaded| loaded.config)
        };
        let config = load_with(&["--model", "some.gguf", "--set", "engine.mode=exact"]).unwrap();
        assert_eq!(config.model.source, "some.gguf");
        let config = load_with(&["--url", "http://box.example", "--api-key", "k"]).unwrap();
        assert_eq!(config.server.api_keys, ["k"]);
        let refused = |flags: &[&str]| {
            let error = load_with(flags).unwrap_err().to_string();
            assert!(error.contains("would have no effect"), "{error}");
        };
        refused(&["--port", "1"]);
        refused(&["--url", "http://box.example", "--model", "some.gguf"]);
        refused(&["--url", "http://box.example", "--set", "engine.mode=exact"]);
    }

    #[test]
    fn a_batch_has_files_or_a_task() {
        let parse = |words: &[&str]| {
            let all = [&["candor", "batch"], words].concat();
            match Cli::try_parse_from(all).map(|cli| cli.command) {
                Ok(Command::Batch(batch)) => Ok(batch),
                Ok(_) => panic!("another command"),
                Err(error) => Err(error.to_string()),
            }
        };
        let batch = parse(&["in", "out", "--shard", "1/4", "--concurrency", "8"]).unwrap();
        assert!(batch.task.is_none());
        assert_eq!(batch.output, Some("out".into()));
        assert_eq!((batch.shard.index, batch.shard.of), (1, 4));
        assert_eq!(batch.concurrency, Some(8));
        let batch = parse(&["merge", "in", "out", "a", "b"]).unwrap();
        let Some(BatchTask::Merge(merge)) = batch.task else {
            panic!("no task")
        };
        assert_eq!(merge.shards.len(), 2);
        for wrong in [
            &["in"][..],
            &[],
            &["merge", "in", "out"],
            &["in", "out", "--shard", "4/4"],
            &["in", "out", "--concurrency", "0"],
            &["in", "out", "--url", "localhost:8000"],
            &["in", "out", "--url", ""],
        ] {
            parse(wrong).unwrap_err();
        }
    }

    #[test]
    fn completions_know_every_command_and_flag() {
        let check = |shell: Shell, word: &str| {
            let script = String::from_utf8(completions(shell)).unwrap();
            assert!(script.contains(word), "{shell}: {word}");
        };
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            check(shell, "context-length");
            for command in Cli::command().get_subcommands() {
                check(shell, command.get_name());
            }
        }
    }

    #[test]
    fn every_command_has_a_manual_page() {
        let check = |command: Option<&str>, title: &str, word: &str| {
            let page = String::from_utf8(man(command).unwrap()).unwrap();
            assert!(page.contains(&format!(".TH {title} 1")), "{page}");
            assert!(page.contains(word), "{word}: {page}");
        };
        check(None, "candor", "SUBCOMMANDS");
        check(Some("serve"), "candor-serve", "CANDOR_SERVER__PORT");
        let cli = Cli::command();
        for (name, _) in pages(&cli) {
            check(Some(&name), &format!("candor-{name}"), "SYNOPSIS");
        }
        // The release archive contains them all.
        let script = include_str!("../../scripts/dist.sh");
        let line = script
            .lines()
            .find(|line| line.starts_with("for command in "));
        let shipped: Vec<&str> = line
            .and_then(|line| line.strip_prefix("for command in ")?.strip_suffix("; do"))
            .expect("the commands")
            .split(' ')
            .collect();
        let shown = pages(&cli).into_iter().filter(|(_, it)| !it.is_hide_set());
        let names: Vec<String> = shown.map(|(name, _)| name).collect();
        assert_eq!(shipped, names);
        // A page names no other one.
        for name in [None]
            .into_iter()
            .chain(names.iter().map(|it| Some(it.as_str())))
        {
            let page = String::from_utf8(man(name).unwrap()).unwrap();
            for named in page.lines().filter_map(|line| line.strip_suffix("(1)")) {
                let named = named.replace("\\-", "-");
                let named = named.strip_prefix("candor-").map(str::to_owned);
                assert!(
                    named.is_some_and(|it| names.contains(&it)),
                    "{name:?}: {page}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_manual_page_is_refused_with_the_list_of_commands() {
        let error = Cli::try_parse_from(["candor", "man", "milk"]).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("milk") && error.contains("serve"), "{error}");
    }

    #[test]
    fn every_variable_that_the_help_names_exists() {
        let mut command = Cli::command();
        let help = command
            .find_subcommand_mut("serve")
            .unwrap()
            .render_long_help()
            .to_string();
        let named: Vec<&str> = help
            .split(|character: char| !character.is_ascii_uppercase() && character != '_')
            .filter(|word| {
                word.starts_with("CANDOR_")
                    && word.contains("__")
                    && *word != "CANDOR_SECTION__FIELD"
            })
            .collect();
        assert!(named.len() > 10, "{help}");
        for name in named {
            assert!(
                SETTINGS.iter().any(|setting| setting.variable() == name),
                "{name}"
            );
        }
    }
}
