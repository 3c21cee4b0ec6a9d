//! How a text is cut into windows.

use std::ops::Range;

/// How a text is cut into windows, and which tokens of each are scored.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Tokens of a window.
    pub window: usize,
    /// Tokens from the start of a window to the start of the next.
    pub stride: usize,
    /// Tokens that must precede a scored token in its window; at least one.
    pub min_context: usize,
    /// Whether a last window that is shorter counts.
    pub partial: bool,
}

impl Cut {
    /// The windows of a text of `tokens` tokens, each with the index in it of the first token that is scored there. Windows in
    /// which none is scored are left out.
    pub fn windows(self, tokens: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
        let starts = (0..tokens).step_by(self.stride);
        let mut scored = 0;
        let mut over = false;
        starts
            .map_while(move |start| {
                let end = tokens.min(start + self.window);
                // Later windows would be within the one that reaches the end.
                let last = std::mem::replace(&mut over, end == tokens);
                let counts = self.partial || end - start == self.window;
                (!last && counts).then_some(start..end)
            })
            .filter_map(move |window| {
                let from = scored.max(window.start + self.min_context);
                (from < window.end).then(|| {
                    scored = window.end;
                    (window.clone(), from - window.start)
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cut: Cut, tokens: usize, expect: &[(Range<usize>, usize)]) {
        let windows: Vec<_> = cut.windows(tokens).collect();
        assert_eq!(windows, expect, "{cut:?} of {tokens}");
    }

    #[test]
    fn each_token_but_the_first_is_scored_once() {
        let cut = Cut {
            window: 8,
            stride: 4,
            min_context: 1,
            partial: true,
        };
        check(cut, 0, &[]);
        check(cut, 1, &[]);
        check(cut, 2, &[(0..2, 1)]);
        check(cut, 8, &[(0..8, 1)]);
        check(cut, 9, &[(0..8, 1), (4..9, 4)]);
        check(cut, 16, &[(0..8, 1), (4..12, 4), (8..16, 4)]);
        for window in 2..9 {
            for stride in 1..window {
                for tokens in 2..40 {
                    let cut = Cut {
                        window,
                        stride,
                        ..cut
                    };
                    let scored: Vec<usize> = cut
                        .windows(tokens)
                        .flat_map(|(range, from)| range.start + from..range.end)
                        .collect();
                    assert_eq!(scored, (1..tokens).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn windows_side_by_side_are_those_of_llama_perplexity() {
        let cut = Cut {
            window: 512,
            stride: 512,
            min_context: 257,
            partial: false,
        };
        check(cut, 511, &[]);
        check(cut, 1023, &[(0..512, 257)]);
        check(cut, 1024, &[(0..512, 257), (512..1024, 257)]);
        let whole = Cut {
            min_context: 1,
            partial: true,
            ..cut
        };
        // The first token of a window has nothing before it.
        check(whole, 1025, &[(0..512, 1), (512..1024, 1)]);
        check(whole, 1026, &[(0..512, 1), (512..1024, 1), (1024..1026, 1)]);
    }

    #[test]
    fn a_token_without_enough_before_it_is_left_out() {
        let cut = Cut {
            window: 8,
            stride: 4,
            min_context: 6,
            partial: true,
        };
        // 6 and 7, then those that have six before them in the next.
        check(cut, 12, &[(0..8, 6), (4..12, 6)]);
        check(cut, 9, &[(0..8, 6)]);
    }
}
