//! How much memory an engine needs, and whether it is available. Checked before it is allocated: Linux overcommits, and
//! kills the process when the memory is used.

use sysinfo::{MemoryRefreshKind, System};

use crate::config::{self, Limits};
use crate::logprobs::TokenLogprob;
use crate::model::{self, ContextShape, Heads, Model, Token};

const MIB: u64 = 1 << 20;

/// What an engine needs, in bytes. Estimates; whatever else llama.cpp allocates is small in comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Already loaded when this is computed.
    pub weights: u64,
    /// Keys and values of all lanes; `None` if the model's metadata does not say.
    pub kv_cache: Option<u64>,
    /// Rows of logits that all contexts may return at once.
    pub logits: u64,
    /// Bounds of the scores cached with the tokens of all lanes.
    scores: ScoreBounds,
    /// In all contexts.
    lanes: usize,
    lane_tokens: usize,
}

/// Bounds of the scores of a lane's prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct ScoreBounds {
    /// Maximum number of alternatives per token; `None`: nothing is scored.
    alternatives: Option<usize>,
    /// Maximum number of alternatives of all tokens together: those of one answer.
    entries: usize,
}

impl ScoreBounds {
    /// Bytes of the scores of this many tokens.
    fn bytes(self, tokens: usize) -> u64 {
        /// Per token: the allocator's and `Arc`'s overhead, and the pointers in the lane and in the complete prompt.
        const BESIDE: usize = 64;
        let Some(alternatives) = self.alternatives else {
            return 0;
        };
        let entries = (tokens * alternatives).min(self.entries);
        let token_bytes = size_of::<TokenLogprob>() + BESIDE;
        (tokens * token_bytes + entries * size_of::<(Token, f32)>()) as u64
    }
}

/// Not enough memory; for the person at the terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "too little memory: besides its weights the model needs about {} MiB, {} MiB of them for {} lanes of {} tokens and {} \
     MiB for their log-probabilities (limits.logprobs), but only {} MiB are available. {}, or free memory on this machine.",
    need.beside_weights(*kv_cache) / MIB, kv_cache / MIB, need.lanes, need.lane_tokens, need.scores() / MIB,
    available / MIB, need.advice(*kv_cache, *available)
)]
pub struct TooLittle {
    need: Need,
    kv_cache: u64,
    available: u64,
}

impl Need {
    /// For this many contexts of this shape.
    pub fn of(model: &Model, shape: &ContextShape, contexts: usize) -> Self {
        let lanes = contexts * (shape.lanes + model::spare_lanes(model, shape.output));
        let cells = lanes * shape.lane_tokens.next_multiple_of(256);
        let cell_bytes = model.kv_bytes_per_token(shape.kv_type_k.bytes(), shape.kv_type_v.bytes());
        // llama.cpp computes them in one buffer, and returns them in another.
        let row_bytes = 2 * model.vocab().len() * size_of::<f32>();
        Self {
            weights: model.facts().size_bytes,
            kv_cache: cell_bytes.map(|bytes| (bytes * cells as f64) as u64),
            logits: (contexts * shape.logits_rows * row_bytes) as u64,
            scores: ScoreBounds::default(),
            lanes,
            lane_tokens: shape.lane_tokens,
        }
    }

    /// Adds the scores of prompts, up to these limits.
    pub fn with_scores(self, vocabulary: usize, limits: &Limits) -> Self {
        Self {
            scores: ScoreBounds {
                alternatives: Some(limits.logprobs.min(vocabulary)),
                entries: limits.answer_entries,
            },
            ..self
        }
    }

    /// Scores cached with the tokens of all lanes, if every prompt asks for as many alternatives as it may.
    pub fn scores(&self) -> u64 {
        self.lanes as u64 * self.scores.bytes(self.lane_tokens)
    }

    pub fn total(&self) -> u64 {
        self.weights + self.beside_weights(self.kv_cache.unwrap_or(0))
    }

    fn beside_weights(&self, kv_cache: u64) -> u64 {
        kv_cache + self.logits + self.scores()
    }

    /// Fails if there is not enough memory for what is not yet allocated.
    pub fn check(self, available: u64) -> Result<(), TooLittle> {
        match self.kv_cache {
            Some(kv_cache) if self.beside_weights(kv_cache) > available => Err(TooLittle {
                need: self,
                kv_cache,
                available,
            }),
            _ => Ok(()),
        }
    }

    /// What to change so that everything fits: the context length, unless it would be too short to be useful.
    fn advice(&self, kv_cache: u64, available: u64) -> String {
        /// Lanes are padded to as many cells.
        const STEP: usize = 256;
        let available = available.saturating_sub(self.logits);
        if kv_cache < available / 10 * 9 && self.scores() > kv_cache {
            return "Lower limits.logprobs or limits.answer_entries".to_owned();
        }
        let cells = self.lane_tokens.next_multiple_of(STEP);
        // Leaves a tenth for other things that grow.
        let fits = |length: &usize| {
            let kv_cache = u128::from(kv_cache) * *length as u128 / cells as u128;
            let scores = u128::from(self.lanes as u64 * self.scores.bytes(*length));
            kv_cache + scores <= u128::from(available) * 9 / 10
        };
        let mut shorter = (2..cells / STEP).rev().map(|steps| steps * STEP);
        match shorter.find(fits) {
            Some(fitting) => format!(
                "--context-length {fitting} would fit; fewer --parallel-sequences or --cache-lanes may, too"
            ),
            None => {
                "Lower --parallel-sequences and --cache-lanes, or use a smaller model".to_owned()
            }
        }
    }
}

/// Rounded up, so that a non-zero size is never logged as 0.
pub fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(MIB)
}

/// Whether there is twice the memory that another context of this shape needs. It is allocated in addition to the engine's
/// memory for a while.
pub fn holds_twice(model: &Model, shape: &ContextShape) -> bool {
    let need = Need::of(model, shape, 1);
    let taken = need.kv_cache.unwrap_or(u64::MAX / 4) + need.logits;
    available().is_some_and(|available| available / 2 >= taken)
}

/// The least size in bytes of the KV cache of a model that is not loaded yet. More contexts, if they turn out to be faster,
/// have more cache lanes. `None` if the model's metadata does not say.
pub fn least_kv_cache(heads: &Heads, settings: &config::Engine) -> Option<u64> {
    let contexts = settings.contexts.clamp(1, settings.parallel_sequences);
    let lanes = contexts * (settings.parallel_sequences.div_ceil(contexts) + settings.cache_lanes);
    let cells = lanes * settings.context_length.next_multiple_of(256);
    let (bytes_k, bytes_v) = (settings.kv_type_k.bytes(), settings.kv_type_v.bytes());
    let cell_bytes = heads.kv_bytes_per_token(bytes_k, bytes_v)?;
    Some((cell_bytes * cells as f64) as u64)
}

/// Bytes of memory and swap, within a container's limit; `None` where the system does not say.
pub fn total() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::everything());
    let bound = system
        .cgroup_limits()
        .map_or(u64::MAX, |it| it.total_memory);
    let total = (system.total_memory() + system.total_swap()).min(bound);
    (total > 0).then_some(total)
}

/// Bytes that this process can still allocate without causing the system to kill a process; `None` where the system does
/// not say.
pub fn available() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::everything());
    if system.total_memory() == 0 {
        return None;
    }
    // A container's usage includes cached files, which are dropped when memory is short. The machine's swap does not extend
    // the container's limit.
    let contained = system.cgroup_limits().map_or(u64::MAX, |limits| {
        limits.total_memory.saturating_sub(limits.rss)
    });
    Some((system.available_memory() + system.free_swap()).min(contained))
}

/// Bytes that the drivers of all GPUs say are free.
pub fn free_on_gpus() -> u64 {
    let devices = model::devices().unwrap_or_default().into_iter();
    let gpus = devices.filter(|device| device.is_gpu);
    gpus.map(|gpu| gpu.free_bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(kv_mib: u64) -> Need {
        Need {
            weights: 100 * MIB,
            kv_cache: Some(kv_mib * MIB),
            logits: 10 * MIB,
            scores: ScoreBounds::default(),
            lanes: 20,
            lane_tokens: 2048,
        }
    }

    fn check(kv_mib: u64, available_mib: u64, expect: Option<&str>) {
        let error = need(kv_mib).check(available_mib * MIB).err();
        match (error.map(|error| error.to_string()), expect) {
            (None, None) => {}
            (Some(error), Some(expect)) => assert!(error.contains(expect), "{error}"),
            (error, _) => panic!("{kv_mib} of {available_mib}: {error:?}"),
        }
    }

    #[test]
    fn an_error_says_what_would_fit() {
        check(900, 910, None);
        check(
            900,
            909,
            Some("needs about 910 MiB, 900 MiB of them for 20 lanes of 2048 tokens and 0 MiB for"),
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
    fn scores_count_up_to_the_limits() {
        let with = |logprobs: usize, answer_entries: usize| {
            let limits = Limits {
                logprobs,
                answer_entries,
                ..crate::config::Config::default().limits
            };
            let with = need(100).with_scores(32_000, &limits);
            assert_eq!(with.total(), need(100).total() + with.scores());
            with
        };
        assert_eq!(need(100).scores(), 0);
        let tokens = 20 * 2048;
        let none = with(0, 5_000_000).scores();
        assert!((tokens * 80..tokens * 256).contains(&none), "{none}");
        let few = with(100, 5_000_000);
        assert_eq!(few.scores() - none, tokens * 100 * 8);
        assert_eq!(few.check(250 * MIB), Ok(()));
        // At most what one answer may hold, per lane, and at most one alternative per token of the vocabulary.
        let many = with(100_000, 5_000_000);
        assert_eq!(many.scores() - none, 20 * 5_000_000 * 8);
        let all = with(100_000, 1_000_000_000);
        assert_eq!(all.scores() - none, tokens * 32_000 * 8);
        let refused = |need: Need, available| {
            let error = need.check(available).expect_err("too much");
            error.to_string()
        };
        let error = refused(many, 250 * MIB);
        assert!(error.contains("768 MiB for their log-prob"), "{error}");
        assert!(error.contains("Lower limits.logprobs"), "{error}");
        // Shorter lanes have fewer scores.
        let error = refused(few, 100 * MIB);
        assert!(error.contains("--context-length 1024 would"), "{error}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn linux_says_what_is_available() {
        assert!(available().expect("a number") > MIB);
    }
}
