//! How a prompt is cut into decodes, and how much of a cached prefix may be reused, so that every bit is that of the prompt
//! evaluated alone on a fresh context. This is pure arithmetic on lengths.

use crate::model::{Adapters, Token};

/// llama.cpp's kernels take rows four at a time and compute the rest with a different routine, which gives different low
/// bits; and decodes of fewer than eight rows differ throughout. So prompts are cut at multiples of this, and no decode is
/// smaller: then each row falls into the same group as in the uncut prompt.
///
/// Measured on Gemma 3's K-quants, where a cut elsewhere moves logits by up to 1; Q4_1 is the same wherever it is cut.
/// `engine::widths` checks it on each machine, and finds what holds there if it does not.
pub const GROUP_ROWS: usize = 8;

/// Maximum number of rows of a prompt's decode with flash attention: from 64 rows on llama.cpp uses a different routine for
/// it, and prompts are cut in other places if their beginning is cached or they are scored.
pub const FLASH_ROWS: usize = 56;

/// Where prompts are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cuts {
    /// The reference cuts prompts at multiples of this many tokens; a multiple of `rows`.
    pub batch_tokens: usize,
    /// A prompt may be cut at multiples of this many tokens, into decodes of no fewer.
    pub rows: usize,
}

/// A prompt that is to be evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptPlan {
    /// Tokens of the prompt.
    length: usize,
    /// Where the reference starts its last decode if that has fewer rows than a group, whose bits are their own; else the
    /// prompt's length.
    border: usize,
    /// Rows of a group.
    group: usize,
}

impl PromptPlan {
    pub fn new(length: usize, cuts: Cuts) -> Self {
        let last = length.saturating_sub(1) / cuts.batch_tokens * cuts.batch_tokens;
        let border = if length - last < cuts.rows {
            last
        } else {
            length
        };
        Self {
            length,
            border,
            group: cuts.rows,
        }
    }

    /// Tokens whose cells any other prompt may reuse once they are evaluated: whole groups.
    pub fn shareable(&self) -> usize {
        self.floor(self.border)
    }

    /// How many cells to reuse when those of the first `known` tokens are cached: whole groups, and enough tokens must be
    /// left for a decode.
    pub fn reuse(&self, known: usize) -> usize {
        if self.border < self.length && known >= self.border {
            return self.border;
        }
        self.floor(known.min(self.border.saturating_sub(self.group)))
    }

    /// Where the decode that starts at `start` ends, with at most `rows` rows (no fewer than two groups).
    pub fn chunk_end(&self, start: usize, rows: usize) -> usize {
        let piece_end = if start < self.border {
            self.border
        } else {
            self.length
        };
        let left = piece_end - start;
        if left <= rows {
            piece_end
        } else {
            start + self.floor(rows.min(left - self.group))
        }
    }

    /// Rounded down to whole groups.
    fn floor(&self, rows: usize) -> usize {
        rows / self.group * self.group
    }
}

/// Everything cells depend on: tokens, and the adapters under which they are evaluated. Cells of one sequence are reused by
/// another only as far as their keys agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixKey<'a> {
    pub tokens: &'a [Token],
    pub adapters: &'a Adapters,
}

impl PrefixKey<'_> {
    /// Tokens that both begin with; none if their adapters differ.
    pub fn common(self, other: PrefixKey<'_>) -> usize {
        if self.adapters != other.adapters {
            return 0;
        }
        let pairs = self.tokens.iter().zip(other.tokens);
        pairs.take_while(|(a, b)| a == b).count()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub const CUTS: Cuts = Cuts {
        batch_tokens: 512,
        rows: GROUP_ROWS,
    };

    #[test]
    fn whole_groups_are_reused_and_a_decode_is_left() {
        let check = |length, known, expect| {
            assert_eq!(
                PromptPlan::new(length, CUTS).reuse(known),
                expect,
                "{length} {known}"
            );
        };
        check(1, 1, 0);
        check(7, 7, 0);
        check(8, 8, 0);
        check(16, 16, 8);
        check(20, 20, 8);
        check(24, 20, 16);
        check(24, 7, 0);
        check(512, 512, 504);
        // The reference evaluates 512, then 3: those 3 rows are a decode of their own.
        check(515, 515, 512);
        check(515, 512, 512);
        check(515, 511, 504);
        check(515, 100, 96);
        check(520, 520, 512);
        check(1024 + 9, 5000, 1024);
    }

    #[test]
    fn smaller_groups_leave_less_to_evaluate() {
        let pairs = Cuts { rows: 2, ..CUTS };
        let check = |length, known, expect| {
            assert_eq!(
                PromptPlan::new(length, pairs).reuse(known),
                expect,
                "{length} {known}"
            );
        };
        check(20, 20, 18);
        check(20, 17, 16);
        check(515, 515, 512);
        // One row alone has bits of its own.
        check(513, 513, 512);
        check(513, 512, 512);
    }

    #[test]
    fn chunks_tile_the_prompt_in_whole_groups() {
        for (group, length) in [2, GROUP_ROWS].into_iter().flat_map(|group| {
            (1..600)
                .chain(1015..1045)
                .map(move |length| (group, length))
        }) {
            let cuts = Cuts {
                rows: group,
                ..CUTS
            };
            let plan = PromptPlan::new(length, cuts);
            for rows in [16, 17, 64, 256, 512] {
                for known in [0, 1, 9, 100, 500, 511, 512, 513, 520, length] {
                    let mut at = plan.reuse(known.min(length));
                    assert!(at <= known.min(length) && at < length);
                    while at < length {
                        let end = plan.chunk_end(at, rows);
                        assert!(end > at && end <= length && end - at <= rows);
                        let short = end == length && length - length / 512 * 512 < group;
                        assert_eq!(at % group, 0);
                        assert!(end - at >= group || short, "{length} {rows} {at}..{end}");
                        at = end;
                    }
                }
            }
        }
    }

    #[test]
    fn prefixes_are_common_under_equal_adapters() {
        let none = Adapters::default();
        let half = Adapters::new([(0, 0.5), (1, 0.0)]);
        let same = Adapters::new([(0, 0.5)]);
        let other = Adapters::new([(1, 0.5)]);
        let tokens: Vec<Token> = (0..9).map(Token).collect();
        let check = |a: &Adapters, b: &Adapters, expect| {
            let key = |adapters, length| PrefixKey {
                tokens: &tokens[..length],
                adapters,
            };
            assert_eq!(key(a, 9).common(key(b, 5)), expect, "{a:?} {b:?}");
            assert_eq!(key(a, 9) == key(b, 9), expect > 0, "{a:?} {b:?}");
        };
        check(&none, &none, 5);
        check(&half, &same, 5);
        check(&none, &half, 0);
        check(&half, &other, 0);
        check(&half, &Adapters::new([(0, 0.25)]), 0);
    }

    #[test]
    fn only_whole_groups_are_shared() {
        assert_eq!(PromptPlan::new(5, CUTS).shareable(), 0);
        assert_eq!(PromptPlan::new(8, CUTS).shareable(), 8);
        assert_eq!(PromptPlan::new(15, CUTS).shareable(), 8);
        assert_eq!(PromptPlan::new(515, CUTS).shareable(), 512);
        assert_eq!(PromptPlan::new(1003, CUTS).shareable(), 1000);
    }
}
