//! The bits class: a short name of all that decides how numbers are rounded, such as `avx2-1b9f03c2`.
//!
//! Two servers that evaluate exactly (`engine.mode`) and have equal classes give equal bits for the same request to the
//! same model, as far as a small Llama that both evaluated shows. Unequal ones may differ, by some hundredths of a nat with weights of four bits, so that their numbers are
//! not to be mixed. The first part is for people: the widest instructions that compute.

use sha2::{Digest, Sha256};

use super::cores;
use super::trial::Verdict;
use crate::config::Config;
use crate::model::{self, Model};

/// Of a model as these settings evaluate it, by this many threads where their number moves bits.
pub fn bits_class(
    model: &Model,
    verdict: &Verdict,
    config: &Config,
    threads: Option<usize>,
) -> String {
    let system = model::system_info();
    let kind = if config.model.gpu_layers > 0 {
        "gpu"
    } else if model.placements().amx() {
        "amx"
    } else {
        model::instructions(&system)
    };
    // What was computed in the trial tells more than the names of a CPU's instructions, many of which decide nothing.
    let computed = verdict.bits.clone().unwrap_or_else(|| {
        let cpu = cores::described(&["model name"]);
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
    format!("{kind}-{}", model::hex(&Sha256::digest(what)[..4]))
}
