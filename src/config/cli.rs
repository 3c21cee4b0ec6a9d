//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use super::{Config, ConfigError, Flag, Given, Loaded, Server, Sources};

/// An OpenAI-compatible completion server whose log-probabilities can be trusted.
#[derive(Debug, Parser)]
#[command(name = "candor", version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Try it:
  candor serve
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
    -d '{\"prompt\": \"The sky is\", \"max_tokens\": 8, \"logprobs\": 3}'";

const SETTINGS_HELP: &str = "\
Where settings come from, the last one wins:
  1. the defaults (config/default.toml in the source tells about every setting)
  2. a TOML file: --config FILE or CANDOR_CONFIG; it alone can hold several models ([[models]])
  3. the environment: CANDOR_SECTION__FIELD, as in CANDOR_LIMITS__LOGPROBS=20;
     lists with commas or as TOML: CANDOR_MODEL__ALIASES=a,b
  4. flags; those without a name of their own with --set: --set limits.logprobs=20
`candor config` with the same flags shows what comes out, and from where.

CANDOR_LOG chooses what is logged: error, warn, info (the default), debug, trace,
or by module: info,candor::engine=debug";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load the models and answer requests, until Ctrl-C or SIGTERM.
    ///
    /// The first signal lets running requests finish; a second one ends at once.
    #[command(after_help = SETTINGS_HELP)]
    Serve(SettingFlags),
    /// Print the settings in force as TOML, each with where it comes from. API keys are hidden.
    #[command(after_help = SETTINGS_HELP)]
    Config(SettingFlags),
    /// Measure how this machine is fastest with each model, print a table, and keep it for the next start.
    ///
    /// The first start measures what it needs by itself; this is for looking, and for a machine that was busy then.
    #[command(after_help = SETTINGS_HELP)]
    Tune(SettingFlags),
    /// Check this machine and these settings before a server is started: one line for each check.
    ///
    /// Each line begins with `ok`, `warning` or `error`. Ends with 0 if all are ok, with 2 if there are
    /// warnings, and with 1 if there are errors. Nothing is loaded or downloaded.
    #[command(after_help = DOCTOR_HELP)]
    Doctor(SettingFlags),
    /// Download the model, or all of `[[models]]`, into the cache, if not there yet, and print the paths.
    Fetch(Fetch),
    /// Ask a server whether it can serve requests: print what its `/health` says, and end with 0 if it can, else with 1.
    ///
    /// For the health checks of containers. Without --url it asks the server on this machine that has the same settings.
    #[command(after_help = HEALTH_HELP)]
    Health(Health),
    /// Run the request of a receipt again, and compare every token and every bit of its log-probabilities.
    ///
    /// Ends with 0 if all are equal, with 1 if one is not, and with 2 if they could not be compared.
    #[command(after_help = VERIFY_HELP)]
    Verify(Verify),
    /// Render the chat template that comes on standard input, with its scope, as JSON. The server has a process of its own
    /// do so for templates of clients.
    #[command(hide = true)]
    RenderTemplate,
    /// Try llama.cpp's routines on a small model, as the order on standard input says, as JSON. The server has a process of
    /// its own do so, which may die of it.
    #[command(hide = true)]
    TryRoutines,
    /// Print what a shell needs to complete this command line.
    #[command(after_help = COMPLETIONS_HELP)]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print a manual page: of `candor` itself, or of one of its commands.
    #[command(after_help = MAN_HELP)]
    Man {
        /// The command, as in `candor man serve`.
        #[arg(value_parser = command_name)]
        command: Option<String>,
    },
}

const DOCTOR_HELP: &str = "\
Try it:
  candor doctor
  candor doctor --model hf:ORG/REPO:Q4_K_M --context-length 8192

It takes the flags of `candor serve`, and settings from the same places: `candor serve --help`.";

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

The engine is started with what the receipt says of it: mode, flash attention, formats, lengths.
What flags set wins over that, to see what it moves: --set engine.flash_attention=true";

const COMPLETIONS_HELP: &str = "\
Try it:
  source <(candor completions bash)
To keep it:
  candor completions bash > ~/.local/share/bash-completion/completions/candor
  candor completions fish > ~/.config/fish/completions/candor.fish
  candor completions zsh > _candor, in a folder of $fpath";

const MAN_HELP: &str = "\
Try it:
  candor man | man -l -
  candor man serve | man -l -
To keep it:
  candor man > ~/.local/share/man/man1/candor.1
  candor man serve > ~/.local/share/man/man1/candor-serve.1";

/// The script by which a shell completes this command line.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "candor", &mut script);
    script
}

/// The manual page of a command, or of the program if none is named.
pub fn man(command: Option<&str>) -> std::io::Result<Vec<u8>> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    // Each command then knows its whole name, `candor serve`, and its page's, candor-serve.
    cli.build();
    let page = command
        .and_then(|name| cli.find_subcommand(name))
        .unwrap_or(&cli);
    let mut text = Vec::new();
    clap_mangen::Man::new(page.clone())
        .source(concat!("candor ", env!("CARGO_PKG_VERSION")))
        .render(&mut text)?;
    Ok(text)
}

/// One of the program's commands.
fn command_name(name: &str) -> Result<String, String> {
    let cli = Cli::command();
    let names: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
    if names.contains(&name) {
        Ok(name.to_owned())
    } else {
        Err(format!("the commands are {}", names.join(", ")))
    }
}

/// The flags of `candor fetch`.
#[derive(Debug, Args)]
pub struct Fetch {
    /// `default`, `hf:ORG/REPO[:FILE-or-QUANT]`, or a path (which is only checked). Default: what the settings say.
    model: Option<String>,
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `candor health`.
#[derive(Debug, Args)]
pub struct Health {
    /// Where the server is, as in http://127.0.0.1:8000. Default: what the settings say.
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    common: CommonFlags,
}

/// The flags of `candor verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// A file with the receipt, or with the answer that has it, as JSON; `-`: standard input.
    pub receipt: PathBuf,
    /// A server that runs already, to be asked instead of an engine started here. Its key is the first of
    /// server.api_keys.
    #[arg(long)]
    pub url: Option<String>,
    /// The model that the receipt is of; with --url the name that it has there. Default: what the settings say; with
    /// --url the name in the receipt.
    #[arg(long, short)]
    pub model: Option<String>,
    /// With --url: how long the server may take for its whole answer. One that generates for longer needs more.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "url", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: u64,
    #[command(flatten)]
    common: CommonFlags,
}

/// The server that `candor health` and `candor doctor` ask.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// Without a path.
    pub url: String,
    /// Not of this machine's own server: its certificate is for another name than the one it is asked by here.
    pub checks_certificate: bool,
}

/// The flags every command has.
#[derive(Debug, Args)]
struct CommonFlags {
    /// Settings file (TOML). It may leave out whatever keeps its default.
    #[arg(
        long,
        value_name = "FILE",
        env = "CANDOR_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    /// Any setting, by its name in the settings file; may be repeated, and wins over the flags with a name.
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
}

/// The flags of `candor serve`, `candor config`, `candor tune` and `candor doctor`. All values are texts here:
/// [`Config::load`] reads and checks them by the same rules as those from the environment.
#[derive(Debug, Args)]
pub struct SettingFlags {
    /// Model to serve: `default`, a path to a GGUF file, or `hf:ORG/REPO[:FILE-or-QUANT]` [env: CANDOR_MODEL__SOURCE].
    #[arg(long, short, value_name = "MODEL")]
    model: Option<String>,
    /// Address to listen on; 0.0.0.0 lets other machines in [env: CANDOR_SERVER__HOST].
    #[arg(long)]
    host: Option<String>,
    /// Port to listen on; 0 takes any free one [env: CANDOR_SERVER__PORT].
    #[arg(long, short, allow_negative_numbers = true)]
    port: Option<String>,
    /// Ask requests for this key; may be repeated. Other users of the machine can read flags: prefer the file or the
    /// environment [env: CANDOR_SERVER__API_KEYS].
    #[arg(long = "api-key", value_name = "KEY")]
    api_keys: Vec<String>,
    /// Name the model answers to, instead of its file's name; may be repeated [env: CANDOR_MODEL__ALIASES].
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<String>,
    /// LoRA adapter to load, `[NAME=]PATH[@SCALE]`; may be repeated [env: CANDOR_MODEL__LORA].
    #[arg(long = "lora", value_name = "ADAPTER")]
    adapters: Vec<String>,
    /// Tokens one sequence may hold, prompt and completion together [env: CANDOR_ENGINE__CONTEXT_LENGTH].
    #[arg(long, short, value_name = "TOKENS", allow_negative_numbers = true)]
    context_length: Option<String>,
    /// Sequences that advance at once [env: CANDOR_ENGINE__PARALLEL_SEQUENCES].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    parallel_sequences: Option<String>,
    /// llama.cpp contexts, each on a thread of its own; 0: as many as are fastest, as measured [env: CANDOR_ENGINE__CONTEXTS].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    contexts: Option<String>,
    /// CPU threads in all; 0: one for each core that others leave free [env: CANDOR_ENGINE__THREADS].
    #[arg(long, short, value_name = "N", allow_negative_numbers = true)]
    threads: Option<String>,
    /// What is promised about bits: auto, exact or throughput [env: CANDOR_ENGINE__MODE].
    #[arg(long)]
    mode: Option<String>,
    /// Layers on the GPU, in a build with a GPU back end [env: CANDOR_MODEL__GPU_LAYERS].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    gpu_layers: Option<String>,
    /// Use flash attention; moves log-probabilities by up to 0.1 [env: CANDOR_ENGINE__FLASH_ATTENTION].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    flash_attention: Option<String>,
    /// How log lines are written: text or json [env: CANDOR_SERVER__LOG_FORMAT].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    #[command(flatten)]
    common: CommonFlags,
}

impl SettingFlags {
    /// The settings that these flags, the file they name and `environment` make.
    pub fn load(self, environment: Vec<(OsString, OsString)>) -> Result<Loaded, ConfigError> {
        let mut flags = Vec::new();
        let mut one = |name: &str, key: &str, value: Option<String>| {
            flags.extend(value.map(|value| flag(name, key, Given::One(value))));
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
                flags.push(flag(name, key, Given::Repeated(values)));
            }
        };
        repeated("--api-key", "server.api_keys", self.api_keys);
        repeated("--alias", "model.aliases", self.aliases);
        repeated("--lora", "model.lora", self.adapters);
        self.common.load(environment, flags)
    }
}

impl Fetch {
    /// The settings that these flags, the file they name and `environment` make.
    pub fn load(self, environment: Vec<(OsString, OsString)>) -> Result<Loaded, ConfigError> {
        let model = self
            .model
            .map(|model| flag("MODEL", "model.source", Given::One(model)));
        self.common.load(environment, model.into_iter().collect())
    }
}

impl Health {
    /// The server that is named, or that these flags, the file they name and `environment` make.
    pub fn server(self, environment: Vec<(OsString, OsString)>) -> Result<Asked, ConfigError> {
        if let Some(url) = self.url {
            return Ok(Asked {
                url: url.trim_end_matches('/').to_owned(),
                checks_certificate: true,
            });
        }
        let server = self.common.load(environment, Vec::new())?.config.server;
        Ok(Asked::own(&server))
    }
}

impl Asked {
    /// This machine's own server, which these settings make.
    pub fn own(server: &Server) -> Self {
        let scheme = if server.tls_certificate.is_empty() {
            "http"
        } else {
            "https"
        };
        let (host, port) = (&server.host, server.port);
        let authority = match host.parse() {
            Ok(address) => SocketAddr::new(super::reachable(address), port).to_string(),
            Err(_) => format!("{host}:{port}"),
        };
        Self {
            url: format!("{scheme}://{authority}"),
            checks_certificate: false,
        }
    }
}

impl Verify {
    /// The settings that these flags, the file they name and `environment` make; those of the receipt win over the latter
    /// two.
    pub fn load(
        self,
        environment: Vec<(OsString, OsString)>,
        of_receipt: Vec<(&'static str, String)>,
    ) -> Result<Loaded, ConfigError> {
        let of_receipt = of_receipt.into_iter();
        let mut flags: Vec<Flag> = of_receipt
            .map(|(key, value)| flag("RECEIPT", key, Given::One(value)))
            .collect();
        if self.url.is_none() {
            let model = self.model;
            flags.extend(model.map(|model| flag("--model", "model.source", Given::One(model))));
        }
        self.common.load(environment, flags)
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
                .map(|(key, value)| flag("--set", &key, Given::One(value))),
        );
        // `CANDOR_CONFIG=` switches the file off, as an empty variable usually does.
        let file = self.config.filter(|path| !path.as_os_str().is_empty());
        Config::load(&Sources {
            file,
            environment,
            flags,
        })
    }
}

fn flag(name: &str, key: &str, given: Given) -> Flag {
    Flag {
        name: name.to_owned(),
        key: key.to_owned(),
        given,
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
            Command::Health(_)
            | Command::Verify(_)
            | Command::Completions { .. }
            | Command::Man { .. }
            | Command::RenderTemplate
            | Command::TryRoutines => {
                panic!("no settings")
            }
        }
    }

    #[test]
    fn clap_finds_nothing_wrong_with_the_command_line() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_settings_that_know_the_flag() {
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
    fn health_is_asked_where_the_settings_have_the_server() {
        let check = |arguments: &[&str], url: &str, checks_certificate: bool| {
            let all = ["candor", "health"].iter().chain(arguments);
            let Command::Health(health) = Cli::try_parse_from(all).unwrap().command else {
                panic!("another command")
            };
            let asked = Asked {
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
    fn what_a_receipt_says_wins_over_the_settings_and_flags_over_it() {
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
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            check(Some(name), &format!("candor-{name}"), "SYNOPSIS");
        }
        // And the archive of a release has them.
        let script = include_str!("../../scripts/dist.sh");
        let line = script
            .lines()
            .find(|line| line.starts_with("for command in "));
        let shipped: Vec<&str> = line
            .and_then(|line| line.strip_prefix("for command in ")?.strip_suffix("; do"))
            .expect("the commands")
            .split(' ')
            .collect();
        let cli = Cli::command();
        let shown = cli.get_subcommands().filter(|one| !one.is_hide_set());
        let names: Vec<&str> = shown.map(clap::Command::get_name).collect();
        assert_eq!(shipped, names);
    }

    #[test]
    fn a_manual_page_that_there_is_not_is_refused_with_those_there_are() {
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
