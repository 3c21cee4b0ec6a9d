//! llama.cpp's CPU routines: which of them may be used, and which are.
//!
//! For some tensor types and CPUs llama.cpp has routines that need the weights in a special layout. The layout of a matrix
//! determines the routine that multiplies it, so the name of its buffer type identifies both.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The layouts that a model's weights may have. llama.cpp's plain layout is always available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Routines {
    /// For the matrix unit of Intel's server CPUs.
    pub amx: bool,
    /// Rows interleaved, for wider instructions: `CPU_REPACK`, and ARM's KleidiAI.
    pub repack: bool,
}

impl Routines {
    pub const ALL: Self = Self {
        amx: true,
        repack: true,
    };

    /// Whether weights may be in the buffer type of this name.
    pub(super) fn allow(self, buffer: &str) -> bool {
        match buffer {
            AMX => self.amx,
            _ => self.repack,
        }
    }
}

/// The buffer type of weights that AMX multiplies.
pub(super) const AMX: &str = "AMX";

/// A tensor type and the layout of some of its tensors.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placement {
    /// ggml's name of the tensor type, as in `q4_K`.
    pub kind: String,
    /// The name of the buffer type.
    pub buffer: String,
    /// Whether the layout is the file's.
    pub is_plain: bool,
    /// Whether they are in a GPU's memory.
    pub on_gpu: bool,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Mapping a file changes the buffer's name, but not the routine.
        let layout = if self.is_plain { "plain" } else { &self.buffer };
        write!(f, "{} {layout}", self.kind)
    }
}

/// The layouts of a model's matrices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placements(pub(super) BTreeSet<Placement>);

/// With this many rows or more, llama.cpp uses a different routine for some tensor types (`ggml_tiled_min_batch`).
const TILED_ROWS: usize = 8;

/// These tensor types: K-quants and most IQ-quants (`ggml_tiled_supported` in ggml-cpu/tiled). Most rows then have the same
/// bits as alone, but about 2 in 100 do not.
const TILED: [&str; 13] = [
    "q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s",
    "iq3_xxs", "iq3_s", "iq4_xs",
];

impl Placements {
    pub fn iter(&self) -> impl Iterator<Item = &Placement> {
        self.0.iter()
    }

    /// Whether a GPU multiplies some of the weights.
    pub fn on_gpu(&self) -> bool {
        self.iter().any(|one| one.on_gpu)
    }

    /// Whether AMX multiplies some of the weights.
    pub fn amx(&self) -> bool {
        self.iter().any(|one| one.buffer == AMX)
    }

    /// Whether AMX multiplies all quantized weights.
    pub fn all_amx(&self) -> bool {
        let is_float = |one: &Placement| matches!(&*one.kind, "f32" | "f16" | "bf16");
        self.amx() && self.iter().all(|one| one.buffer == AMX || is_float(one))
    }

    /// The number of rows in a decode from which on llama.cpp multiplies some of the weights by another routine: on either
    /// side of it, rows have different bits. Within a side they may, too, which is measured; but a measurement does not find
    /// all differences. `usize::MAX`: none is known.
    pub fn border(&self) -> usize {
        let is_tiled = |one: &Placement| one.is_plain && TILED.contains(&one.kind.as_str());
        // An unknown layout may be such a one.
        if (self.0.is_empty() || self.iter().any(is_tiled)) && !tiling_is_off() {
            TILED_ROWS
        } else {
            usize::MAX
        }
    }
}

impl fmt::Display for Placements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all: Vec<String> = self.iter().map(Placement::to_string).collect();
        all.dedup();
        f.write_str(&all.join(", "))
    }
}

/// llama.cpp's line about the CPU, without AMX if it multiplies none of the weights: the line lists what the CPU has.
pub(super) fn system_info_of(placements: &Placements, line: &str) -> String {
    if placements.amx() {
        line.to_owned()
    } else {
        line.replace(" | AMX_INT8 = 1", "")
    }
}

/// llama.cpp's own switch.
fn tiling_is_off() -> bool {
    std::env::var("GGML_CPU_TILED_MM").is_ok_and(|value| value.trim().parse() == Ok(0))
}

/// Whether llama.cpp's line about itself (`system_info`) has this feature.
pub fn has_feature(system_info: &str, feature: &str) -> bool {
    let mut words = system_info.split([':', '|']).map(str::trim);
    words.any(|word| word.strip_prefix(feature) == Some(" = 1"))
}

/// The widest vector instructions that llama.cpp uses, according to its line about itself (`system_info`).
pub fn instructions(system_info: &str) -> &'static str {
    /// With the features that each needs, best first.
    const KINDS: [(&str, &[&str]); 8] = [
        ("avx512", &["AVX512", "AVX512_VNNI"]),
        ("avx512f", &["AVX512"]),
        ("avx2", &["AVX2"]),
        ("avx", &["AVX"]),
        ("sse", &["SSE3"]),
        ("sve", &["SVE"]),
        ("neon", &["NEON"]),
        ("plain", &[]),
    ];
    let has = |feature: &&str| has_feature(system_info, feature);
    let found = KINDS.iter().find(|(_, needed)| needed.iter().all(has));
    found.map_or("plain", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::super::llama;
    use super::*;

    fn placements(all: &[(&str, &str, bool)]) -> Placements {
        let one = |&(kind, buffer, is_plain): &(&str, &str, bool)| Placement {
            kind: kind.to_owned(),
            buffer: buffer.to_owned(),
            is_plain,
            on_gpu: buffer.starts_with("Vulkan"),
        };
        Placements(all.iter().map(one).collect())
    }

    #[test]
    fn tiled_types_have_names_of_ggml() {
        let names: Vec<String> = (0..llama::kinds()).filter_map(llama::kind_name).collect();
        for kind in TILED {
            assert!(names.iter().any(|name| name == kind), "{kind}: {names:?}");
        }
    }

    #[test]
    fn tiled_routines_limit_a_decode_only_if_they_are_used() {
        let check = |all: &[(&str, &str, bool)], expect| {
            assert_eq!(placements(all).border(), expect, "{all:?}");
        };
        check(&[], 8);
        check(&[("q4_1", "CPU", true)], usize::MAX);
        check(&[("q4_1", "CPU", true), ("q6_K", "CPU_Mapped", true)], 8);
        check(&[("q4_K", "CPU_REPACK", false)], usize::MAX);
        check(
            &[("q4_K", "AMX", false), ("q6_K", "AMX", false)],
            usize::MAX,
        );
        check(&[("q4_K", "AMX", false), ("q3_K", "CPU", true)], 8);
    }

    #[test]
    fn amx_is_listed_only_if_it_is_used() {
        let line = "CPU : AVX512_BF16 = 1 | AMX_INT8 = 1 | REPACK = 1 |";
        let amx = placements(&[("q4_K", "AMX", false), ("f32", "CPU", true)]);
        assert_eq!(system_info_of(&amx, line), line);
        let plain = placements(&[("q4_K", "CPU", true)]);
        let expect = "CPU : AVX512_BF16 = 1 | REPACK = 1 |";
        assert_eq!(system_info_of(&plain, line), expect);
    }

    #[test]
    fn the_widest_instructions_are_read() {
        let check = |line: &str, expect| assert_eq!(instructions(line), expect, "{line}");
        check("CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | ", "avx2");
        check("CPU : AVX2 = 1 | AVX512 = 1 | AVX512_VNNI = 1", "avx512");
        check("CPU : AVX2 = 1 | AVX512 = 1 | AVX512_VBMI = 1", "avx512f");
        check("CPU : NEON = 1 | DOTPROD = 1", "neon");
        check("", "plain");
    }

    #[test]
    fn layouts_are_excluded_by_name() {
        let routines = Routines {
            amx: false,
            repack: true,
        };
        assert!(!routines.allow("AMX"));
        assert!(routines.allow("CPU_REPACK"));
        assert!(routines.allow("CPU_KLEIDIAI"));
    }
}
