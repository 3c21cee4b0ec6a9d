//! How much memory an engine is going to take, and whether it is there. Asked before it is taken: Linux gives out more
//! than it has, and ends the process when that is used.

use sysinfo::{MemoryRefreshKind, System};

use crate::model::{self, ContextShape, Model};

const MIB: u64 = 1 << 20;

/// What an engine takes, in bytes. Each is close, not exact; what else llama.cpp takes is small beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// They are there by the time that this is known.
    pub weights: u64,
    /// Keys and values of all lanes; none if the model's metadata do not tell.
    pub kv_cache: Option<u64>,
    /// Rows of logits that all contexts may be asked for at once.
    pub logits: u64,
    /// Of all contexts.
    lanes: usize,
    lane_tokens: usize,
}

/// There is less memory than will be needed; for the person at the terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "too little memory: beside its weights the model needs about {} MiB, {} MiB of them for {} lanes of {} tokens, and {} \
     MiB are available. {}, or stop what else takes memory here.",
    (kv_cache + need.logits) / MIB, kv_cache / MIB, need.lanes, need.lane_tokens, available / MIB,
    advice(need.lane_tokens, *kv_cache, available.saturating_sub(need.logits))
)]
pub struct TooLittle {
    need: Need,
    kv_cache: u64,
    available: u64,
}

impl Need {
    /// Of so many contexts of this shape.
    pub fn of(model: &Model, shape: &ContextShape, contexts: usize) -> Self {
        let lanes = contexts * (shape.lanes + model::spare_lanes(model, shape.output));
        let cells = lanes * shape.lane_tokens.next_multiple_of(256);
        let cell_bytes = model.kv_bytes_per_token(shape.kv_type_k.bytes(), shape.kv_type_v.bytes());
        // llama.cpp computes them in one buffer, and hands them out in another.
        let row_bytes = 2 * model.vocab().len() * size_of::<f32>();
        Self {
            weights: model.facts().size_bytes,
            kv_cache: cell_bytes.map(|bytes| (bytes * cells as f64) as u64),
            logits: (contexts * shape.logits_rows * row_bytes) as u64,
            lanes,
            lane_tokens: shape.lane_tokens,
        }
    }

    pub fn total(&self) -> u64 {
        self.weights + self.kv_cache.unwrap_or(0) + self.logits
    }

    /// Whether what is still to be taken is there.
    pub fn check(self, available: u64) -> Result<(), TooLittle> {
        match self.kv_cache {
            Some(kv_cache) if kv_cache + self.logits > available => Err(TooLittle {
                need: self,
                kv_cache,
                available,
            }),
            _ => Ok(()),
        }
    }
}

/// For the log; what is there at all is no nothing.
pub fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(MIB)
}

/// A length of context at which the cache fits, unless it is too short to be of use.
fn advice(lane_tokens: usize, kv_cache: u64, available: u64) -> String {
    /// Lanes are padded to as many cells.
    const STEP: u64 = 256;
    let cells = lane_tokens.next_multiple_of(256) as u64;
    // Below what is available: other things grow too.
    let fitting = u128::from(cells) * u128::from(available) * 9 / 10 / u128::from(kv_cache.max(1));
    let fitting = u64::try_from(fitting).unwrap_or(u64::MAX) / STEP * STEP;
    if fitting >= 2 * STEP {
        format!(
            "--context-length {fitting} would fit; so may fewer --parallel-sequences or --cache-lanes"
        )
    } else {
        "Lower --parallel-sequences and --cache-lanes, or take a smaller model".to_owned()
    }
}

/// Bytes that this process may still take without anyone being ended for it; `None` where the system does not tell.
pub fn available() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::everything());
    if system.total_memory() == 0 {
        return None;
    }
    // A container's bound counts what it reads from files too, but gives that up when memory is wanted. Swap that the
    // machine has is no room beyond the bound.
    let contained = system.cgroup_limits().map_or(u64::MAX, |limits| {
        limits.total_memory.saturating_sub(limits.rss)
    });
    Some((system.available_memory() + system.free_swap()).min(contained))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kv_mib: u64, available_mib: u64, expect: Option<&str>) {
        let need = Need {
            weights: 100 * MIB,
            kv_cache: Some(kv_mib * MIB),
            logits: 10 * MIB,
            lanes: 20,
            lane_tokens: 2048,
        };
        let error = need.check(available_mib * MIB).err();
        match (error.map(|error| error.to_string()), expect) {
            (None, None) => {}
            (Some(error), Some(expect)) => assert!(error.contains(expect), "{error}"),
            (error, _) => panic!("{kv_mib} of {available_mib}: {error:?}"),
        }
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_would() {
        check(900, 910, None);
        check(
            900,
            909,
            Some(
                "needs about 910 MiB, 900 MiB of them for 20 lanes of 2048 tokens, and 909 MiB are",
            ),
        );
        check(900, 909, Some("--context-length 1792 would fit"));
        check(900, 460, Some("--context-length 768 would fit"));
        check(
            900,
            210,
            Some("Lower --parallel-sequences and --cache-lanes"),
        );
        check(900, 0, Some("Lower --parallel-sequences and --cache-lanes"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells_what_is_available() {
        assert!(available().expect("told") > MIB);
    }
}
