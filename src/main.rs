//! Parses the command line, and runs the command.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use candor::batch;
use candor::config::cli::{self, BatchTask, Cli, Command};
use candor::config::{Config, LogFormat};
use candor::doctor::Outcome;
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The exit status after Ctrl-C.
const INTERRUPTED: i32 = 130;

/// A message for the person at the terminal, and the exit status: 2 for invalid flags and settings, 1 for everything else;
/// `verify`, `batch` and `doctor` have their own.
struct Failure {
    message: String,
    status: i32,
}

fn main() {
    let status = match run(Cli::parse().command) {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("candor: {}", failure.message.replace('\n', "\ncandor: "));
            failure.status
        }
    };
    let _ = io::stdout().flush();
    #[cfg(feature = "otel")]
    candor::otel::finish();
    leave(status);
}

/// Exits without running destructors of static objects: llama.cpp's threads may still be at work, in a decode or loading
/// a model, and would crash.
fn leave(status: i32) -> ! {
    signal_hook::low_level::exit(status)
}

fn run(command: Command) -> Result<(), Failure> {
    let environment = env::vars_os().collect();
    match command {
        Command::Serve(flags) => {
            let config = flags.load(environment).map_err(wrong_settings)?.config;
            start_logging(config.server.log_format, DEFAULT_LOG)?;
            let runtime = tokio::runtime::Runtime::new().map_err(failed)?;
            let outcome = runtime.block_on(serve(config));
            // Dropping it would wait for work that is no longer needed.
            runtime.shutdown_background();
            outcome
        }
        Command::Config(flags) => print(flags.load(environment).map_err(wrong_settings)?.to_toml()),
        Command::Tune(flags) => {
            let config = flags.load(environment).map_err(wrong_settings)?.config;
            start_logging(config.server.log_format, DEFAULT_LOG)?;
            for one in config.of_each_model() {
                if !config.models.is_empty() {
                    print(format!("{}:\n\n", one.model.names().join(", ")))?;
                }
                print(format!("{}\n", candor::engine::tune(one).map_err(failed)?))?;
            }
            Ok(())
        }
        Command::Doctor(flags) => examine(flags, environment),
        Command::Fetch(fetch) => {
            let config = fetch.load(environment).map_err(wrong_settings)?.config;
            start_logging(config.server.log_format, DEFAULT_LOG)?;
            for one in config.of_each_model() {
                let path = candor::model::source::resolve(&one.model).map_err(failed)?;
                print(format!("{}\n", path.display()))?;
            }
            Ok(())
        }
        Command::Health(health) => ask_health(&health.server(environment).map_err(wrong_settings)?),
        Command::Verify(asked) => verify(asked, environment),
        Command::Batch(asked) => run_batch(asked, environment),
        Command::RenderTemplate => {
            let input = io::read_to_string(io::stdin()).map_err(failed)?;
            print(candor::api::render_template(&input))
        }
        Command::TryRoutines => {
            let order = io::read_to_string(io::stdin()).map_err(failed)?;
            print(candor::engine::try_routines(&order))
        }
        Command::Completions { shell } => print(cli::completions(shell)),
        Command::Man { command } => print(cli::man(command.as_deref()).map_err(failed)?),
    }
}

/// Binds first, so that a port in use is reported before a model is loaded or downloaded.
async fn serve(config: Config) -> Result<(), Failure> {
    let (host, port) = (config.server.host.clone(), config.server.port);
    let listener = candor::listen(&host, port).await.map_err(|error| Failure {
        message: candor::cannot_listen(&host, port, &error),
        status: 1,
    })?;
    let is_open = listener
        .local_addr()
        .is_ok_and(|address| !address.ip().is_loopback());
    if is_open && config.server.api_keys.is_empty() {
        tracing::warn!(
            "other machines can reach this server, and no key is required: consider server.api_keys"
        );
    }
    let shutdown = shutdown_signal().map_err(failed)?;
    candor::run(config, listener, shutdown)
        .await
        .map_err(failed)
}

/// Prints the findings. Exits with 1 if there are errors, and with 2 if there are only warnings.
fn examine(
    flags: cli::SettingFlags,
    environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
) -> Result<(), Failure> {
    // If nothing could be checked, that is an error.
    let unable = |failure: Failure| Failure {
        status: 1,
        ..failure
    };
    let loaded = flags.load(environment).map_err(wrong_settings);
    let config = loaded.map_err(unable)?.config;
    start_logging(config.server.log_format, SILENT_LOG).map_err(unable)?;
    let report = candor::doctor::run(&config);
    print(report.to_string())?;
    let status = match report.worst() {
        Outcome::Ok => return Ok(()),
        Outcome::Warning => 2,
        Outcome::Error => 1,
    };
    let (errors, warnings) = (report.count(Outcome::Error), report.count(Outcome::Warning));
    Err(Failure {
        message: format!("errors: {errors}, warnings: {warnings}"),
        status,
    })
}

/// Prints a server's health. Fails if the server does not answer, or cannot serve requests now.
fn ask_health(server: &cli::ServerAddress) -> Result<(), Failure> {
    let url = format!("{}/health", server.url);
    let unwell = |what: String| Failure {
        message: format!("{url} {what}"),
        status: 1,
    };
    let mut answer = candor::doctor::ask_health(server)
        .map_err(|error| unwell(format!("does not answer: {error}")))?;
    let status = answer.status();
    let body = answer.body_mut().read_to_string().map_err(failed)?;
    print(format!("{}\n", body.trim_end()))?;
    if status.is_success() {
        Ok(())
    } else {
        Err(unwell(format!("answered {status}")))
    }
}

/// Compares an answer with its receipt, and prints the result. Exits with 2 if they cannot be compared.
fn verify(
    asked: cli::Verify,
    environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
) -> Result<(), Failure> {
    let unable = |message: String| Failure { message, status: 2 };
    let text = if asked.receipt.as_os_str() == "-" {
        io::read_to_string(io::stdin())
    } else {
        std::fs::read_to_string(&asked.receipt)
    };
    let unread = |error| {
        let path = asked.receipt.display();
        unable(format!(
            "cannot read {path}: {error}. Pass a file with the answer, or with its `receipt`."
        ))
    };
    let mut receipt =
        candor::verify::read(&text.map_err(unread)?).map_err(|it| unable(it.to_string()))?;
    let (url, name, timeout) = (asked.url.clone(), asked.model.clone(), asked.timeout);
    let settings = candor::verify::settings(&receipt);
    let config = asked
        .load(environment, settings)
        .map_err(wrong_settings)?
        .config;
    start_logging(config.server.log_format, QUIET_LOG)?;
    let compared = match url {
        Some(url) => {
            if let Some(name) = name {
                receipt.request.insert("model".to_owned(), name.into());
            }
            let key = config.server.api_keys.first().cloned();
            candor::verify::on_server(&url, key, Duration::from_secs(timeout), &receipt)
        }
        None => candor::verify::here(config, &receipt),
    };
    let compared = compared.map_err(|it| unable(it.to_string()))?;
    print(compared.to_string())?;
    if compared.is_equal() {
        return Ok(());
    }
    Err(Failure {
        message: "the result differs from the receipt".to_owned(),
        status: 1,
    })
}

/// Sends a batch, or joins its shards, and prints a summary. Exits with 3 if lines have an error.
fn run_batch(
    mut asked: Box<cli::Batch>,
    environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
) -> Result<(), Failure> {
    let ended = match (asked.task.take(), asked.input.take(), asked.output.take()) {
        (Some(BatchTask::Merge(merge)), ..) => batch::merge(&batch::Merge {
            input: merge.input,
            output: merge.output,
            shards: merge.shards,
            allow_mixed: merge.allow_mixed,
        }),
        (None, Some(input), Some(output)) => {
            let (shard, concurrency) = (asked.shard, asked.concurrency);
            let (receipts, allow_mixed) = (asked.receipts, asked.allow_mixed);
            let (timeout, patience) = (asked.timeout, asked.patience);
            let urls = asked.urls.clone();
            let config = asked.load(environment).map_err(wrong_settings)?.config;
            start_logging(config.server.log_format, BATCH_LOG)?;
            let servers = if urls.is_empty() {
                batch::Servers::Own(Box::new(config))
            } else {
                let key = config.server.api_keys.first().cloned();
                batch::Servers::At { urls, key }
            };
            let job = batch::Job {
                input,
                output,
                shard,
                servers,
                concurrency,
                timeout: Duration::from_secs(timeout),
                patience: Duration::from_secs(patience),
                receipts,
                allow_mixed,
            };
            let interrupted = interruption().map_err(failed)?;
            batch::run(job, &interrupted)
        }
        // clap requires both.
        _ => return Ok(()),
    };
    let summary = ended.map_err(|failure| Failure {
        message: failure.to_string(),
        status: match failure {
            batch::Failure::Refused(_) => 2,
            batch::Failure::Stopped(_) => 1,
            batch::Failure::Interrupted(_) => INTERRUPTED,
        },
    })?;
    print(summary.to_string())?;
    if summary.is_complete() {
        return Ok(());
    }
    Err(Failure {
        message: "some lines have an error instead of an answer".to_owned(),
        status: 3,
    })
}

/// Is set by the first Ctrl-C or SIGTERM. The second ends the process at once.
fn interruption() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&interrupted))?;
        flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

/// Completes on the first Ctrl-C or SIGTERM. The second ends the process at once.
fn shutdown_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        tracing::info!(
            "stopping: running requests may finish; a second signal stops the server immediately"
        );
        // The receiver is gone if the server has ended by itself.
        let _ = sender.send(());
        either(&mut interrupt, &mut terminate).await;
        leave(INTERRUPTED);
    });
    Ok(async move {
        let _ = receiver.await;
    })
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// The default of CANDOR_LOG. llama.cpp would log a hundred lines at each start.
const DEFAULT_LOG: &str = "info,llama-cpp-2=warn,llama_cpp_2=error";
/// The default for a command with its own server, which should be silent.
const QUIET_LOG: &str = "warn,llama_cpp_2=error";
/// The default for a command with its own server, which says how it goes.
const BATCH_LOG: &str = "warn,candor::batch=info,candor::model=info,llama_cpp_2=error";
/// The default for a command that prints warnings itself.
const SILENT_LOG: &str = "error";

/// Logs to standard error; standard output is for the command's result.
fn start_logging(format: LogFormat, default: &str) -> Result<(), Failure> {
    let wanted = env::var("CANDOR_LOG")
        .ok()
        .filter(|text| !text.trim().is_empty());
    let wanted = wanted.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(wanted).map_err(|error| Failure {
        message: format!("CANDOR_LOG is {wanted:?}: {error}. Allowed: error, warn, info, debug, trace, or by module: info,candor::engine=debug."),
        status: 2,
    })?;
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !no_color);
    let registry = tracing_subscriber::registry().with(filter);
    #[cfg(feature = "otel")]
    let registry = registry.with(candor::otel::layer());
    match format {
        LogFormat::Text => registry.with(lines).init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
    Ok(())
}

/// Prints to standard output. A closed pipe (`candor config | head`) is no failure.
fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_ref()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error)),
        _ => Ok(()),
    }
}

fn wrong_settings(error: candor::config::ConfigError) -> Failure {
    Failure {
        message: error.to_string(),
        status: 2,
    }
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure {
        message: error.to_string(),
        status: 1,
    }
}
