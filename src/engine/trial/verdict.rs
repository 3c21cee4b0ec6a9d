//! Which of llama.cpp's routines may be used on this CPU.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::order::{Order, Outcome};
use super::process::by_process;
use super::specimen::Specimen;
use crate::config::{Config, Use};
use crate::engine::persist::{load, save};
use crate::engine::procfs;
use crate::model::{self, LoadError, Routines};
use crate::program;

/// Tries an order; tests replace it.
pub type Trials = Arc<dyn Fn(&Order) -> Outcome + Send + Sync>;

/// Trials by a process of this program.
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

/// What the trials found, and so how the server evaluates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Routines that may be used.
    pub routines: Routines,
    /// Routines that this CPU and build support, but that may not be used.
    pub refused: Vec<Refused>,
    /// The hash of their results; `None` if nothing could be tried.
    pub bits: Option<String>,
}

/// A routine that is not used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Refused {
    /// The setting that turns it off: `amx` or `repack` of `[engine]`.
    pub routine: String,
    /// Completes the sentence "the routine …".
    pub why: String,
}

/// The verdict for weights of these types: the saved one, or else that of trials, which take some tenths of a second.
pub fn verdict(kinds: &[u32], config: &Config, trials: &Trials) -> Result<Verdict, LoadError> {
    let settings = &config.engine;
    let wanted = Routines {
        amx: settings.amx == Use::Auto,
        repack: settings.repack == Use::Auto,
    };
    let wanted = wanted.here()?;
    let order = |routines, specimen: &Path| Order {
        routines,
        flash_attention: settings.flash_attention,
        kv_type_k: settings.kv_type_k,
        kv_type_v: settings.kv_type_v,
        specimen: specimen.to_path_buf(),
    };
    let path = verdict_path(kinds, &order(wanted, Path::new("")), config);
    let saved = path.as_deref().and_then(load);
    let verdict = saved.unwrap_or_else(|| {
        let specimen = Specimen::write(kinds, path.as_deref());
        let verdict = descend(wanted, |routines| {
            let outcome = match &specimen {
                Ok(specimen) => trials(&order(routines, specimen.path())),
                Err(error) => Outcome::Untried(error.to_string()),
            };
            tracing::debug!(?routines, ?outcome, "tried llama.cpp's routines");
            outcome
        });
        if verdict.bits.is_some()
            && let Some(path) = &path
        {
            save(path, &verdict);
        }
        verdict
    });
    for Refused { routine, why } in &verdict.refused {
        tracing::warn!(
            "llama.cpp's routine `{routine}` {why} on this CPU: the server runs without it, more slowly \
             (as with engine.{routine} = \"off\")"
        );
    }
    Ok(verdict)
}

/// Drops routines until the rest works: first AMX, then all but the plain ones.
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
                tracing::warn!(why, "llama.cpp's routines are used without a trial");
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
            // All of them share the cause.
            _ => {
                tracing::error!(
                    "llama.cpp's plain routines {why} on this CPU too: the server may crash at its first decode"
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

/// Where the verdict is saved: one file per program, CPU and everything that is tried.
fn verdict_path(kinds: &[u32], wanted: &Order, config: &Config) -> Option<PathBuf> {
    let cpu = procfs::cpu_info(&["model name", "flags"]);
    let program = program::path().ok()?.metadata().ok()?;
    let key = format!(
        "{} {} {:?} {cpu} {} {} {kinds:?} {:?} {:?}",
        env!("CARGO_PKG_VERSION"),
        program.len(),
        program.modified().ok(),
        model::llama_cpp_version(),
        // That of the library for this CPU, where there is one per kind of CPU.
        model::system_info(),
        wanted,
        std::env::vars_os()
            .filter(|(name, _)| name.to_string_lossy().starts_with("GGML_"))
            .collect::<Vec<_>>(),
    );
    let key = model::hex(&Sha256::digest(key)[..8]);
    let directory = model::source::cache_directory(&config.model).ok()?;
    Some(directory.join(format!("{key}.trial.json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routines_that_fail_are_dropped_amx_first() {
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
        let routines = |amx, repack| Routines { amx, repack };
        let (all, repack, plain) = (Routines::ALL, routines(false, true), routines(false, false));
        check(&[], all, &[]);
        check(&[all], repack, &["amx"]);
        check(&[all, repack], plain, &["amx", "repack"]);
        check(&[all, repack, plain], all, &[]);
    }

    #[test]
    fn routines_that_could_not_be_tried_are_used() {
        let verdict = descend(Routines::ALL, |_| {
            Outcome::Untried("no processes".to_owned())
        });
        assert_eq!(verdict.routines, Routines::ALL);
        assert_eq!((verdict.bits, verdict.refused), (None, vec![]));
    }
}
