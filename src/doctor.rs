//! `candor doctor`: checks the machine and the settings before a server starts, one line per check.
//!
//! [`run`] collects facts, and a function of [`checks`] turns those of each check into a [`Finding`].

mod checks;

use std::fmt;
use std::io;
use std::time::Duration;

use crate::config::cli::ServerAddress;
use crate::config::{self, Config, LoadAt};
use crate::engine;
use crate::http_client;
use crate::model::source::{self, Located};
use crate::model::{self, Device, Heads, LoadError, Routines};
use checks::{File, FileFacts, Finding, MemoryNeed};

pub use checks::Outcome;

/// All findings with the names of their checks, in a fixed order.
pub struct Report(Vec<(&'static str, Finding)>);

impl Report {
    fn add(&mut self, check: &'static str, finding: Finding) {
        self.0.push((check, finding));
    }

    /// Adds a finding for each model that the check concerns, with the model's name if there are several.
    fn add_each(
        &mut self,
        check: &'static str,
        models: &[ModelInfo],
        check_model: impl Fn(&ModelInfo) -> Option<Finding>,
    ) {
        for info in models {
            let Some(Finding(outcome, text)) = check_model(info) else {
                continue;
            };
            let text = match models.len() {
                1 => text,
                _ => format!("{}: {text}", info.name),
            };
            self.add(check, Finding(outcome, text));
        }
    }

    fn marks(&self) -> impl Iterator<Item = Outcome> {
        self.0.iter().map(|(_, Finding(outcome, _))| *outcome)
    }

    pub fn worst(&self) -> Outcome {
        self.marks().max().unwrap_or(Outcome::Ok)
    }

    pub fn count(&self, wanted: Outcome) -> usize {
        self.marks().filter(|outcome| *outcome == wanted).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (check, Finding(outcome, text)) in &self.0 {
            let outcome = match outcome {
                Outcome::Ok => "ok",
                Outcome::Warning => "warning",
                Outcome::Error => "error",
            };
            // Some messages list files, one per line.
            let words: Vec<&str> = text.lines().map(str::trim).collect();
            writeln!(f, "{outcome:<8} {check:<11} {}", words.join(" "))?;
        }
        Ok(())
    }
}

/// Runs every check. Takes a second or two, or more if a cached model is hashed for the first time.
pub fn run(config: &Config) -> Report {
    // This initializes llama.cpp, on which other checks depend.
    let devices = model::devices();
    let models: Vec<ModelInfo> = config.of_each_model().iter().map(ModelInfo::new).collect();
    let mut report = Report(Vec::new());
    report.add("cpu", cpu(devices.as_ref().err()));
    report.add_each("routines", &models, |info| Some(routines(info)));
    let (total, available) = (engine::total_memory(), engine::available_memory());
    report.add(
        "memory",
        checks::memory(total, available, MemoryNeed::of(&models)),
    );
    report.add("huge-pages", huge_pages());
    let (cores, free) = engine::free_cores();
    report.add(
        "threads",
        checks::threads(config.engine.threads, cores, free),
    );
    report.add("port", port(&config.server));
    report.add_each("model", &models, |info| Some(checks::model(&info.file)));
    report.add_each("tuning", &models, |info| Some(tuning(info)));
    if models.iter().any(ModelInfo::is_on_hub) {
        report.add_each("hub", &models, |info| info.is_on_hub().then(|| hub(info)));
    } else {
        report.add("hub", Finding::ok("not needed"));
    }
    report.add("gpu", gpu(config, devices));
    report
}

/// What is known of a model without loading it.
struct ModelInfo<'a> {
    config: &'a Config,
    name: String,
    file: Result<File, String>,
}

impl<'a> ModelInfo<'a> {
    fn new(config: &'a Config) -> Self {
        let name = config.model.names().into_iter().next();
        Self {
            config,
            name: name.unwrap_or(config.model.source.clone()),
            file: locate(config).map_err(|error| error.to_string()),
        }
    }

    fn facts(&self) -> Option<&FileFacts> {
        match &self.file {
            Ok(File::Local(facts)) => Some(facts),
            _ => None,
        }
    }

    /// Whether it would be downloaded from the hub.
    fn is_on_hub(&self) -> bool {
        matches!(&self.file, Ok(File::Remote(remote)) if remote.on_hub)
    }
}

fn locate(config: &Config) -> Result<File, Box<dyn std::error::Error>> {
    let (path, verified) = match source::locate(&config.model)? {
        Located::Local { path, verified } => (path, verified),
        Located::Remote(remote) => return Ok(File::Remote(remote)),
    };
    let heads = Heads::read(&path)?;
    Ok(File::Local(FileFacts {
        path: path.display().to_string(),
        verified,
        bytes: heads.bytes(),
        fingerprint: heads.fingerprint()?,
        description: heads.description(),
        kinds: heads.kinds(),
        kv_cache: engine::least_kv_cache(&heads, &config.engine),
    }))
}

fn cpu(failed: Option<&LoadError>) -> Finding {
    if let Some(error) = failed {
        return Finding::error(error);
    }
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    checks::cpu(&text, cores, &model::system_info())
}

fn routines(info: &ModelInfo) -> Finding {
    /// Types of which most models have some. Each is tried alone.
    const COMMON: [&str; 6] = ["q4_K", "q6_K", "q8_0", "q4_0", "q4_1", "f16"];
    let (trials, about) = match info.facts() {
        Some(facts) => (vec![facts.kinds.clone()], "the model's tensor types"),
        None => {
            let kinds = model::kinds_named(&COMMON).into_iter();
            let each = kinds.map(|kind| vec![kind]).collect();
            (each, "common tensor types")
        }
    };
    let judge = |kinds: Vec<u32>| {
        let verdict = engine::verdict(&kinds, info.config, &engine::trials());
        match verdict.and_then(|verdict| Ok((Routines::ALL.here()?, verdict))) {
            Ok((here, verdict)) => checks::routines(here, &info.config.engine, &verdict, about),
            Err(error) => Finding::error(error),
        }
    };
    let findings = trials.into_iter().map(judge);
    let worst = findings.max_by_key(|Finding(outcome, _)| *outcome);
    worst.unwrap_or(Finding::ok("none to try"))
}

impl MemoryNeed {
    fn of(models: &[ModelInfo]) -> Self {
        let mut need = Self::default();
        let counts = |info: &&ModelInfo| {
            let model = &info.config.model;
            model.load == LoadAt::Start && model.gpu_layers == 0
        };
        for info in models.iter().filter(counts) {
            let bytes = match &info.file {
                Ok(File::Local(facts)) => facts.bytes,
                Ok(File::Remote(remote)) => remote.bytes.unwrap_or(0),
                Err(_) => 0,
            };
            match info.config.model.mmap {
                true => need.mapped += bytes,
                false => need.read += bytes,
            }
            let kv_cache = info.facts().and_then(|facts| facts.kv_cache);
            need.kv_cache += kv_cache.unwrap_or(0);
        }
        need
    }
}

fn huge_pages() -> Finding {
    if cfg!(not(target_os = "linux")) {
        return Finding::ok("not applicable: Linux only");
    }
    checks::huge_pages(std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok())
}

fn port(server: &config::Server) -> Finding {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let listening = crate::listen(&server.host, server.port);
    let listening = runtime.and_then(|runtime| runtime.block_on(listening).map(drop));
    let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let asked = ServerAddress::local(server);
    let runs_candor = listening.as_ref().is_err_and(is_taken) && is_candor(&asked);
    checks::port(server, listening, runs_candor.then_some(asked.url))
}

/// Asks a server for its `/health`.
pub fn ask_health(server: &ServerAddress) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
    /// The answer does not wait for a model, so a server that takes longer has a problem.
    const TIMEOUT: Duration = Duration::from_secs(5);
    let agent = http_client::for_candor(server.checks_certificate)
        .timeout_global(Some(TIMEOUT))
        .build()
        .new_agent();
    agent.get(format!("{}/health", server.url)).call()
}

/// Recognized by an answer in JSON with a request id, even if it cannot serve yet.
fn is_candor(server: &ServerAddress) -> bool {
    ask_health(server).is_ok_and(|mut answer| {
        let has_id = answer.headers().contains_key("x-request-id");
        let body = answer.body_mut().read_to_string().unwrap_or_default();
        has_id && serde_json::from_str::<serde_json::Value>(&body).is_ok()
    })
}

fn tuning(info: &ModelInfo) -> Finding {
    let classes = info.facts().map_or_else(Vec::new, |facts| {
        engine::kept_classes(&facts.fingerprint, &info.config.model)
    });
    let classes: Vec<String> = classes.iter().map(ToString::to_string).collect();
    Finding::ok(match &classes[..] {
        [] => "not measured yet: the next start measures for some seconds".to_owned(),
        classes => format!(
            "measured: decodes of {} sequences give equal bits (a start on another CPU or with other settings measures again)",
            classes.join(", and of ")
        ),
    })
}

fn hub(info: &ModelInfo) -> Finding {
    match source::reach_hub(&info.config.model) {
        Ok(address) => Finding::ok(format!("{address} answers")),
        Err(error) => Finding(Outcome::Warning, error.to_string()),
    }
}

fn gpu(config: &Config, devices: Result<Vec<Device>, LoadError>) -> Finding {
    let layers = config.of_each_model().iter().map(|it| it.model.gpu_layers);
    match devices {
        Ok(devices) => checks::gpu(
            &config::gpu_back_ends(),
            &devices,
            layers.max().unwrap_or(0),
        ),
        Err(error) => Finding::error(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_with_the_name_of_its_model_if_there_are_several() {
        let config = Config::default();
        let info = |name: &str| ModelInfo {
            config: &config,
            name: name.to_owned(),
            file: Err("one of:\n  a.gguf\n  b.gguf".to_owned()),
        };
        let check = |models: &[ModelInfo], expect: &str| {
            let mut report = Report(Vec::new());
            report.add("cpu", Finding::ok("fast"));
            report.add_each("model", models, |info| Some(checks::model(&info.file)));
            assert_eq!(report.to_string(), expect);
            assert_eq!(report.worst(), Outcome::Error);
            assert_eq!(report.count(Outcome::Error), models.len());
        };
        check(
            &[info("one")],
            "ok       cpu         fast\nerror    model       one of: a.gguf b.gguf\n",
        );
        check(
            &[info("one"), info("two")],
            "ok       cpu         fast\nerror    model       one: one of: a.gguf b.gguf\n\
             error    model       two: one of: a.gguf b.gguf\n",
        );
    }
}
