//! What llama.cpp's routines do on this CPU, found out before the server's first decode, by a process that may die of it.
//!
//! Routines for some kinds of CPU have ended the process on others, or where a compiler translated them wrongly. So for
//! each build, CPU and set of kinds of weights, a small model with such weights ([`model::write_specimen`]) is run once by
//! a process of its own. If that dies of a signal, or computes something else than llama.cpp's plain routines do, the
//! server goes on without the routine, more slowly. What was found is kept beside the figures of [`tune`](mod@super::tune).
//!
//! The bits of what is computed are part of it: two machines whose routines round alike find equal ones
//! ([`bits_class`](mod@super::bits_class)).

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cores::{self, Cores};
use crate::config::{self, Config, KvType, Use};
use crate::model::{
    self, Context, ContextShape, Heads, LoadError, Model, Output, Routines, Row, Runner, Token,
};
use crate::program;
use crate::random;

/// What a process is to try.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// How weights are stored, by ggml's numbers.
    kinds: Vec<u32>,
    pub routines: Routines,
    flash_attention: bool,
    kv_type_k: KvType,
    kv_type_v: KvType,
    /// The small model with weights of these kinds.
    specimen: PathBuf,
}

/// How that went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The routines compute what the plain ones do, to within rounding. The hash of all bits of it.
    Fine(String),
    /// They do not, or the process ended before it could say so. Goes on from "the routine".
    Bad(String),
    /// Nothing was found out, through no fault of the routines.
    Untried(String),
}

/// Tries an order; a test can put something here that fails on command.
pub type Trials = Arc<dyn Fn(&Order) -> Outcome + Send + Sync>;

/// By a process of this program.
pub fn trials() -> Trials {
    Arc::new(|order| {
        let mut command = match program::path() {
            Ok(program) => Command::new(program),
            Err(error) => return Outcome::Untried(error.to_string()),
        };
        command.arg("try-routines");
        by_process(command, order)
    })
}

/// What was found, and so how the server evaluates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Those that may be used.
    pub routines: Routines,
    /// Those that this CPU and build have, and that may not, with the reason.
    pub refused: Vec<Refused>,
    /// The hash of what they compute; `None` if nothing could be tried.
    pub bits: Option<String>,
}

/// A routine that is not used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refused {
    /// The setting that rules it out: `amx` or `repack` of `[engine]`.
    pub routine: String,
    /// Goes on from "the routine".
    pub why: String,
}

/// What may be used for weights of these kinds: as was found before, else as is found now, in some tenths of a second.
pub fn verdict(kinds: &[u32], config: &Config, trials: &Trials) -> Result<Verdict, LoadError> {
    let settings = &config.engine;
    let wanted = Routines {
        amx: settings.amx == Use::Auto,
        repack: settings.repack == Use::Auto,
    };
    let wanted = wanted.here()?;
    let order = |routines| Order {
        kinds: kinds.to_vec(),
        routines,
        flash_attention: settings.flash_attention,
        kv_type_k: settings.kv_type_k,
        kv_type_v: settings.kv_type_v,
        specimen: PathBuf::new(),
    };
    let notes = notes(&order(wanted), config);
    let known = notes.as_deref().and_then(load);
    let verdict = known.unwrap_or_else(|| {
        let specimen = Specimen::write(kinds, notes.as_deref());
        let verdict = descend(wanted, |routines| {
            let outcome = match &specimen {
                Ok(specimen) => trials(&Order {
                    specimen: specimen.0.clone(),
                    ..order(routines)
                }),
                Err(error) => Outcome::Untried(error.to_string()),
            };
            tracing::debug!(?routines, ?outcome, "tried llama.cpp's routines");
            outcome
        });
        if verdict.bits.is_some()
            && let Some(path) = &notes
        {
            super::tune::save(path, &verdict);
        }
        verdict
    });
    for Refused { routine, why } in &verdict.refused {
        tracing::warn!(
            "llama.cpp's routine `{routine}` {why} on this CPU: the server goes on without it, more slowly \
             (engine.{routine} = \"off\" does so, too)"
        );
    }
    Ok(verdict)
}

/// The most that works of what is wanted: first without AMX, then with the plain routines alone.
fn descend(wanted: Routines, mut attempt: impl FnMut(Routines) -> Outcome) -> Verdict {
    let mut verdict = Verdict {
        routines: wanted,
        refused: Vec::new(),
        bits: None,
    };
    loop {
        let why = match attempt(verdict.routines) {
            Outcome::Fine(bits) => {
                verdict.bits = Some(bits);
                return verdict;
            }
            Outcome::Untried(why) => {
                tracing::warn!(
                    why,
                    "llama.cpp's routines could not be tried before they are used"
                );
                return verdict;
            }
            Outcome::Bad(why) => why,
        };
        let routine = match &mut verdict.routines {
            Routines {
                amx: amx @ true, ..
            } => {
                *amx = false;
                "amx"
            }
            Routines {
                repack: repack @ true,
                ..
            } => {
                *repack = false;
                "repack"
            }
            // What all of them have in common is the cause, then.
            _ => {
                tracing::error!(
                    "llama.cpp's plain routines {why} on this CPU, too: the server may end at its first decode"
                );
                return Verdict {
                    routines: wanted,
                    refused: Vec::new(),
                    bits: None,
                };
            }
        };
        verdict.refused.push(Refused {
            routine: routine.to_owned(),
            why,
        });
    }
}

/// Hands the order to a process, and waits for what it says, for some time.
pub fn by_process(mut command: Command, order: &Order) -> Outcome {
    /// It takes tenths of a second on an idle machine.
    const PATIENCE: Duration = Duration::from_secs(30);
    let mut run = || -> io::Result<Outcome> {
        let mut child = command
            // Else ggml has a debugger look at it as it aborts.
            .env("GGML_NO_BACKTRACE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        // It reads all before it writes anything. If it ends before that, its status says so.
        if let Some(mut input) = child.stdin.take() {
            let _ = input.write_all(serde_json::to_string(order)?.as_bytes());
        }
        let Some(status) = wait(&mut child, PATIENCE)? else {
            // A machine that is too busy, maybe.
            return Ok(Outcome::Untried(format!(
                "the process that was to try them did not end within {} seconds",
                PATIENCE.as_secs()
            )));
        };
        let mut answer = String::new();
        if let Some(mut output) = child.stdout.take() {
            output.read_to_string(&mut answer)?;
        }
        if let Some(why) = died(status) {
            return Ok(why);
        }
        Ok(serde_json::from_str(&answer).unwrap_or_else(|_| {
            Outcome::Untried(format!(
                "the process that was to try them ended with {status}"
            ))
        }))
    };
    run().unwrap_or_else(|error| Outcome::Untried(error.to_string()))
}

/// How it ended; `None`: not in time, and it was killed.
fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a signal that ended it says of the routines; `None`: it ended by itself.
fn died(status: ExitStatus) -> Option<Outcome> {
    use std::os::unix::process::ExitStatusExt;
    let signal = status.signal()?;
    let name = match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGILL => "SIGILL",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGABRT => "SIGABRT",
        // Sent by somebody, or by a system that is out of memory.
        _ => {
            return Some(Outcome::Untried(format!(
                "the process that was to try them was ended by signal {signal}"
            )));
        }
    };
    Some(Outcome::Bad(format!("ends the process ({name})")))
}

/// What the process does: an [`Order`] in, an [`Outcome`] out, in JSON.
pub fn run(order: &str) -> String {
    let _ = rlimit::Resource::CORE.set(0, 0);
    let outcome = match serde_json::from_str::<Order>(order) {
        Ok(order) => compare(&order).unwrap_or_else(|error| Outcome::Untried(error.to_string())),
        Err(error) => Outcome::Untried(error.to_string()),
    };
    serde_json::to_string(&outcome).unwrap_or_default()
}

type Failure = Box<dyn std::error::Error>;

/// Evaluates the small model by the routines of the order, and by the plain ones.
fn compare(order: &Order) -> Result<Outcome, Failure> {
    let (rows, threaded) = evaluate(order, order.routines)?;
    let is_finite = |rows: &Rows| rows.iter().flatten().all(|logit| logit.is_finite());
    if !is_finite(&rows) || !is_finite(&threaded) {
        return Ok(Outcome::Bad("computes what is not a number".to_owned()));
    }
    const PLAIN: Routines = Routines {
        amx: false,
        repack: false,
    };
    if order.routines != PLAIN {
        let (plain, plain_threaded) = evaluate(order, PLAIN)?;
        let mut pairs = rows
            .iter()
            .zip(&plain)
            .chain(threaded.iter().zip(&plain_threaded));
        if !pairs.all(|(one, other)| are_close(one, other)) {
            return Ok(Outcome::Bad(
                "computes something else than the plain routines".to_owned(),
            ));
        }
    }
    let mut hash = Sha256::new();
    for logit in rows.iter().flatten() {
        hash.update(logit.to_le_bytes());
    }
    Ok(Outcome::Fine(model::hex(&hash.finalize()[..8])))
}

/// Whether two rows of logits are those of one model. Routines round differently, by some hundredths of what lies between
/// the least and the greatest logit at most; a wrong one is far off.
fn are_close(one: &[f32], other: &[f32]) -> bool {
    const SHARE: f32 = 0.1;
    let least = other.iter().copied().fold(f32::INFINITY, f32::min);
    let most = other.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let apart = one.iter().zip(other).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max) <= SHARE * (most - least)
}

/// Sequences that share the widest decode.
const WIDTH: usize = 16;
/// Tokens of the long prompt, all of one decode.
const PROMPT: usize = 64;
/// Tokens of the others.
const SHORT: usize = 8;

/// Rows of logits.
type Rows = Vec<Vec<f32>>;

/// The logits of a prompt, of single rows after it, and of decodes of two and of [`WIDTH`] sequences, by one thread; and of
/// such a decode by all, whose number may move bits.
fn evaluate(order: &Order, routines: Routines) -> Result<(Rows, Rows), Failure> {
    let settings: config::Model = Config::default().model;
    let heads = Heads::read(&order.specimen)?;
    let model = Arc::new(Model::load_with(&heads, &settings, routines)?);
    let shape = ContextShape {
        lanes: WIDTH + 1,
        lane_tokens: 256,
        batch_rows: PROMPT,
        logits_rows: PROMPT,
        output: Output::Logits,
        flash_attention: order.flash_attention,
        kv_type_k: order.kv_type_k,
        kv_type_v: order.kv_type_v,
    };
    let mut context = Context::new(&model, shape)?;
    let row = |lane: usize, position: usize, logits| Row {
        token: Token(((lane * 31 + position * 7 + 3) % model.vocab().len()) as i32),
        position,
        lane,
        logits,
    };
    let mut all = Vec::new();
    let mut decode = |rows: &[Row], threads: usize| -> Result<(), Failure> {
        context.decode(rows, threads)?;
        for (place, _) in rows.iter().enumerate().filter(|(_, row)| row.logits) {
            let logits = context.logits(place).ok_or("a row of logits is missing")?;
            all.push(logits.to_vec());
        }
        Ok(())
    };
    let prompt: Vec<Row> = (0..PROMPT).map(|at| row(0, at, true)).collect();
    decode(&prompt, 1)?;
    for at in PROMPT..PROMPT + 2 {
        decode(&[row(0, at, true)], 1)?;
    }
    for lane in 1..=WIDTH {
        let prompt: Vec<Row> = (0..SHORT).map(|at| row(lane, at, false)).collect();
        decode(&prompt, 1)?;
    }
    for (step, width) in [2, WIDTH].into_iter().enumerate() {
        let rows: Vec<Row> = (1..=width)
            .map(|lane| row(lane, SHORT + if lane <= 2 { step } else { 0 }, true))
            .collect();
        decode(&rows, 1)?;
    }
    // Each thread that multiplies by AMX loads its own configuration.
    let threads = Cores::new(0).most();
    let rows: Vec<Row> = (1..=WIDTH)
        .map(|lane| row(lane, SHORT + if lane <= 2 { 2 } else { 1 }, true))
        .collect();
    decode(&rows, threads)?;
    let threaded = all.split_off(all.len() - WIDTH);
    Ok((all, threaded))
}

/// The small model's file. It is removed in the end.
struct Specimen(PathBuf);

impl Specimen {
    /// Beside `notes`, or in the system's folder for temporary files.
    fn write(kinds: &[u32], notes: Option<&Path>) -> io::Result<Self> {
        let beside = notes.and_then(Path::parent).map(Path::to_path_buf);
        let mut outcome = Err(io::ErrorKind::NotFound.into());
        for folder in beside.into_iter().chain([std::env::temp_dir()]) {
            outcome = Self::write_in(&folder, kinds);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn write_in(folder: &Path, kinds: &[u32]) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let name = format!("trial-{:x}.gguf", unique());
        let file = File::create_new(folder.join(&name))?;
        let specimen = Self(folder.join(name));
        let mut file = BufWriter::new(file);
        model::write_specimen(kinds, &mut file)?;
        file.flush()?;
        Ok(specimen)
    }
}

impl Drop for Specimen {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Different at each call, and not to be guessed.
pub fn unique() -> u64 {
    u64::from_le_bytes(random::bytes())
}

/// Where the verdict is kept: for this program, this CPU, and all that is tried.
fn notes(wanted: &Order, config: &Config) -> Option<PathBuf> {
    let cpu = cores::described(&["model name", "flags"]);
    let program = program::path().ok()?.metadata().ok()?;
    let what = format!(
        "{} {} {:?} {cpu} {} {} {:?} {:?}",
        env!("CARGO_PKG_VERSION"),
        program.len(),
        program.modified().ok(),
        model::llama_cpp_version(),
        // Of the library for this CPU, where there is one for each kind.
        model::system_info(),
        wanted,
        std::env::vars_os()
            .filter(|(name, _)| name.to_string_lossy().starts_with("GGML_"))
            .collect::<Vec<_>>(),
    );
    let key = model::hex(&Sha256::digest(what)[..8]);
    let directory = model::source::cache_directory(&config.model).ok()?;
    Some(directory.join(format!("{key}.trial.json")))
}

fn load(path: &Path) -> Option<Verdict> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn routines(amx: bool, repack: bool) -> Routines {
        Routines { amx, repack }
    }

    fn order(routines: Routines) -> Order {
        Order {
            kinds: vec![],
            routines,
            flash_attention: false,
            kv_type_k: KvType::f16,
            kv_type_v: KvType::f16,
            specimen: PathBuf::new(),
        }
    }

    #[test]
    fn what_fails_is_left_out_amx_first() {
        let check = |fails: &[Routines], expect: Routines, refused: &[&str]| {
            let verdict = descend(Routines::ALL, |tried| {
                if fails.contains(&tried) {
                    Outcome::Bad("failed".to_owned())
                } else {
                    Outcome::Fine("bits".to_owned())
                }
            });
            assert_eq!(verdict.routines, expect);
            let found: Vec<&str> = verdict.refused.iter().map(|it| &*it.routine).collect();
            assert_eq!(found, refused);
            assert_eq!(verdict.bits.is_some(), !fails.contains(&expect));
        };
        let (all, repack, plain) = (Routines::ALL, routines(false, true), routines(false, false));
        check(&[], all, &[]);
        check(&[all], repack, &["amx"]);
        check(&[all, repack], plain, &["amx", "repack"]);
        check(&[all, repack, plain], all, &[]);
    }

    #[test]
    fn what_could_not_be_tried_is_used() {
        let verdict = descend(Routines::ALL, |_| {
            Outcome::Untried("no processes".to_owned())
        });
        assert_eq!(verdict.routines, Routines::ALL);
        assert_eq!((verdict.bits, verdict.refused), (None, vec![]));
    }

    #[test]
    fn a_process_that_dies_is_told_from_one_that_was_ended() {
        let run = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            by_process(command, &order(Routines::ALL))
        };
        for signal in ["SEGV", "ILL", "BUS", "FPE", "ABRT"] {
            let outcome = run(&format!("kill -{signal} $$"));
            let expect = format!("ends the process (SIG{signal})");
            assert_eq!(outcome, Outcome::Bad(expect));
        }
        assert!(matches!(run("kill -KILL $$"), Outcome::Untried(_)));
        assert!(matches!(run("exit 3"), Outcome::Untried(_)));
        assert!(matches!(run("echo nonsense"), Outcome::Untried(_)));
        let answer = r#"cat > /dev/null; echo '{"Fine": "abc"}'"#;
        assert_eq!(run(answer), Outcome::Fine("abc".to_owned()));
    }

    #[test]
    fn rows_that_are_far_apart_are_told() {
        let row = [0.0, 1.0, -3.0, 2.0];
        assert!(are_close(&[0.01, 1.1, -3.2, 1.9], &row));
        assert!(!are_close(&[0.0, 1.0, 2.0, -3.0], &row));
    }

    #[test]
    fn kinds_that_models_mix_are_evaluated_together() {
        let folder = tempfile::tempdir().expect("a folder");
        let check = |kinds: &[u32]| {
            let specimen = Specimen::write_in(folder.path(), kinds).expect("written");
            let order = Order {
                specimen: specimen.0.clone(),
                ..order(Routines::ALL)
            };
            let outcome = compare(&order).expect("it can be tried");
            assert!(
                matches!(outcome, Outcome::Fine(_)),
                "{kinds:?}: {outcome:?}"
            );
        };
        // Q4_1 with Q6_K and Q8_0; F16 with Q4_K and Q6_K; Q4_K_M; all kinds, and all in the opposite order.
        check(&[3, 8, 14]);
        check(&[1, 12, 14]);
        check(&[6, 8, 12, 14]);
        let all: Vec<u32> = (0..model::kinds()).collect();
        check(&all);
        check(&all.into_iter().rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_specimen_is_written_where_that_is_possible_and_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("written");
        let is_in = |notes: &Path, folder: &Path| {
            let specimen = Specimen::write(&[1], Some(notes)).expect("written");
            assert!(specimen.0.starts_with(folder) && specimen.0.exists());
            let path = specimen.0.clone();
            drop(specimen);
            assert!(!path.exists());
        };
        is_in(&folder.path().join("new/notes.json"), folder.path());
        // No folder can be made there.
        is_in(&file.join("notes.json"), &std::env::temp_dir());
    }

    #[test]
    fn every_kind_of_weights_is_evaluated_to_the_same_bits_again() {
        let folder = tempfile::tempdir().expect("a folder");
        for kind in 0..model::kinds() {
            let specimen = Specimen::write_in(folder.path(), &[kind]).expect("written");
            let order = |routines| Order {
                specimen: specimen.0.clone(),
                ..order(routines)
            };
            let first = compare(&order(Routines::ALL)).expect("it can be tried");
            assert!(matches!(first, Outcome::Fine(_)), "{kind}: {first:?}");
            let again = compare(&order(Routines::ALL)).expect("it can be tried");
            assert_eq!(first, again, "{kind}");
        }
    }
}
