//! The bits class: a short name, such as `avx2-1b9f03c2`, for everything that decides how numbers are rounded.
//!
//! Two servers in exact or invariant mode (`engine.mode`) with equal classes give equal bits for the same request to the same model, as
//! far as a small Llama that both evaluated shows. With unequal classes they may differ, by some hundredths of a nat with
//! four-bit weights, so their numbers should not be mixed. The first part is for people: the widest instruction set used.

use sha2::{Digest, Sha256};

use super::procfs;
use super::trial::Verdict;
use crate::config::Config;
use crate::model::{self, Model};

/// The class of a model with these settings. `threads`: the number of threads, if it changes bits. `least_width`: that of the
/// decodes in which generated tokens are evaluated.
pub fn bits_class(
    model: &Model,
    verdict: &Verdict,
    config: &Config,
    threads: Option<usize>,
    least_width: usize,
) -> String {
    let system = model::system_info();
    let kind = if config.model.gpu_layers > 0 {
        "gpu"
    } else if model.placements().amx() {
        "amx"
    } else {
        model::instructions(&system)
    };
    // The results of the trial say more than a CPU's instruction sets, many of which change nothing.
    let computed = verdict.bits.clone().unwrap_or_else(|| {
        let cpu = procfs::cpu_info(&["model name"]);
        format!("untried {system} {cpu:?}")
    });
    let devices = match config.model.gpu_layers {
        0 => Vec::new(),
        _ => model::devices().unwrap_or_default(),
    };
    let gpus: Vec<String> = devices
        .into_iter()
        .filter(|device| device.is_gpu)
        .map(|device| device.description)
        .collect();
    let engine = &config.engine;
    let what = format!(
        "{computed} {} {} {} {:?} {:?} {} {threads:?} {} {gpus:?}",
        model::llama_cpp_version(),
        model.placements(),
        engine.flash_attention,
        engine.kv_type_k,
        engine.kv_type_v,
        engine.batch_tokens,
        config.model.gpu_layers,
    );
    // Exact mode's class has the name that it had before there were others.
    let what = match least_width {
        1 => what,
        width => format!("{what} {width}"),
    };
    format!("{kind}-{}", model::hex(&Sha256::digest(what)[..4]))
}
