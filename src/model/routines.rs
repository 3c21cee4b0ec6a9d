//! llama.cpp's routines for CPUs: which of them may be used, and which compute.
//!
//! For some kinds of weights and some CPUs llama.cpp has routines that want the weights in a layout of their own. Where a
//! matrix of weights lies decides by which routine it is multiplied, so both are said by the name of its buffer type.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::context;

/// Which layouts a model's weights may be put into. llama.cpp's plain layout is always there.
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

    /// Whether weights may be put into a buffer type of this name.
    pub(super) fn allow(self, buffer: &str) -> bool {
        match buffer {
            AMX => self.amx,
            _ => self.repack,
        }
    }

    /// The same without what this CPU or build has no routines for. Initialises llama.cpp.
    pub fn here(self) -> Result<Self, super::LoadError> {
        super::backend()?;
        let names = context::extra_buffer_types();
        Ok(Self {
            amx: self.amx && names.iter().any(|name| name == AMX),
            repack: self.repack && names.iter().any(|name| name != AMX),
        })
    }
}

/// The buffer type whose weights are multiplied by AMX.
const AMX: &str = "AMX";

/// A kind of weights and where llama.cpp put some of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placement {
    /// How the numbers are stored, by ggml's name, as in `q4_K`.
    pub kind: String,
    /// The name of the buffer type.
    pub buffer: String,
    /// Whether the numbers lie there as in the file.
    pub is_plain: bool,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whether a file is mapped changes the buffer's name, and no routine.
        let layout = if self.is_plain { "plain" } else { &self.buffer };
        write!(f, "{} {layout}", self.kind)
    }
}

/// Where the matrices of a model lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placements(pub(super) BTreeSet<Placement>);

/// Rows from which on llama.cpp multiplies weights of some kinds by a routine of its own (`ggml_tiled_min_batch`).
const TILED_ROWS: usize = 8;

/// The kinds for which it does: K quants and most IQ quants (`ggml_tiled_supported` of ggml-cpu/tiled). Most rows have the
/// same bits there as alone, but some 2 in 100 have not.
const TILED: [&str; 13] = [
    "q2_K", "q3_K", "q4_K", "q5_K", "q6_K", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s",
    "iq3_xxs", "iq3_s", "iq4_xs",
];

impl Placements {
    pub fn iter(&self) -> impl Iterator<Item = &Placement> {
        self.0.iter()
    }

    /// Whether some of the weights are multiplied by AMX.
    pub fn amx(&self) -> bool {
        self.iter().any(|one| one.buffer == AMX)
    }

    /// Whether all of the weights are, but for numbers that are not quantised.
    pub fn all_amx(&self) -> bool {
        let is_float = |one: &Placement| matches!(&*one.kind, "f32" | "f16" | "bf16");
        self.amx() && self.iter().all(|one| one.buffer == AMX || is_float(one))
    }

    /// Generated rows that may share a decode, at most, if each is to have the bits that it has alone. More may have them
    /// on this machine, or fewer: that is measured. But not all that differ are found so.
    pub fn widest_equal(&self) -> usize {
        let is_tiled = |one: &Placement| one.is_plain && TILED.contains(&one.kind.as_str());
        // What is not known may be so.
        if (self.0.is_empty() || self.iter().any(is_tiled)) && !tiling_is_off() {
            TILED_ROWS - 1
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

/// llama.cpp's line about itself, without AMX where it multiplies none of the weights: the line says what the CPU has.
pub(super) fn system_info_of(placements: &Placements, line: &str) -> String {
    if placements.amx() {
        line.to_owned()
    } else {
        line.replace(" | AMX_INT8 = 1", "")
    }
}

/// By llama.cpp's own switch.
fn tiling_is_off() -> bool {
    std::env::var("GGML_CPU_TILED_MM").is_ok_and(|value| value.trim().parse() == Ok(0))
}

/// Whether llama.cpp's line about itself (`system_info`) has this feature.
pub fn has_feature(system_info: &str, feature: &str) -> bool {
    let mut words = system_info.split([':', '|']).map(str::trim);
    words.any(|word| word.strip_prefix(feature) == Some(" = 1"))
}

/// The widest instructions of llama.cpp's build that this CPU has, as its line about itself (`system_info`) says.
pub fn instructions(system_info: &str) -> &'static str {
    /// What must be there for each, best first.
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
    use super::*;

    fn placements(all: &[(&str, &str, bool)]) -> Placements {
        let one = |&(kind, buffer, is_plain): &(&str, &str, bool)| Placement {
            kind: kind.to_owned(),
            buffer: buffer.to_owned(),
            is_plain,
        };
        Placements(all.iter().map(one).collect())
    }

    #[test]
    fn names_of_tiled_kinds_are_ggmls() {
        let names: Vec<String> = (0..context::kinds())
            .filter_map(context::kind_name)
            .collect();
        for kind in TILED {
            assert!(names.iter().any(|name| name == kind), "{kind}: {names:?}");
        }
    }

    #[test]
    fn tiled_routines_bound_a_decode_only_where_they_compute() {
        let check = |all: &[(&str, &str, bool)], expect| {
            assert_eq!(placements(all).widest_equal(), expect, "{all:?}");
        };
        check(&[], 7);
        check(&[("q4_1", "CPU", true)], usize::MAX);
        check(&[("q4_1", "CPU", true), ("q6_K", "CPU_Mapped", true)], 7);
        check(&[("q4_K", "CPU_REPACK", false)], usize::MAX);
        check(
            &[("q4_K", "AMX", false), ("q6_K", "AMX", false)],
            usize::MAX,
        );
        check(&[("q4_K", "AMX", false), ("q3_K", "CPU", true)], 7);
    }

    #[test]
    fn amx_is_only_told_of_where_it_computes() {
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
    fn layouts_are_ruled_out_by_name() {
        let routines = Routines {
            amx: false,
            repack: true,
        };
        assert!(!routines.allow("AMX"));
        assert!(routines.allow("CPU_REPACK"));
        assert!(routines.allow("CPU_KLEIDIAI"));
    }
}
