//! Which prefixes are kept while one-off prompts come and go: those that different prompts begin with most often.

use std::cmp::Reverse;
use std::sync::Arc;

use super::holding::Holding;
use super::reach::{Ask, shared_cells};
use crate::engine::plan::PrefixKey;
use crate::engine::request::{PromptLogprobs, Request};
use crate::model::{Adapters, Token};

/// Cells that a prefix must save each time to be pinned.
const WORTH_PINNING: usize = 64;
/// How often a prefix must have been reused.
const LEAST_REUSES: u32 = 2;
/// Prompts after which what was counted is halved, so that what counts is recent use.
const HALF_LIFE: u32 = 256;
/// Prefixes that are counted at once.
const MOST_PREFIXES: usize = 128;

/// Counts how often prefixes are reused.
#[derive(Debug, Default)]
pub struct Pins {
    /// How many are pinned.
    most: usize,
    /// Most reused first.
    prefixes: Vec<Prefix>,
    /// Prompts since the counts were halved.
    prompts: u32,
}

/// The beginning of several prompts.
#[derive(Debug)]
struct Prefix {
    /// One of these prompts, of which it is the first `len` tokens.
    prompt: Arc<[Token]>,
    len: usize,
    adapters: Adapters,
    /// As of [`Ask`]: cells are only of use to such requests if they hold what these want.
    exact: bool,
    prompt_logprobs: Option<PromptLogprobs>,
    reuses: u32,
}

impl Pins {
    /// Pins the `most` prefixes that are reused most.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            ..Self::default()
        }
    }

    /// Counts a request that reuses the first `cells` cells of its prompt. Requests for one and the same prompt share no
    /// prefix, nor do a fork and its answer: it is their answer that is repeated.
    pub fn count(&mut self, request: &Request, cells: usize) {
        if self.most == 0 {
            return;
        }
        self.prompts += 1;
        if self.prompts == HALF_LIFE {
            self.prompts = 0;
            self.prefixes.retain_mut(|prefix| {
                prefix.reuses /= 2;
                prefix.reuses > 0
            });
        }
        if cells < WORTH_PINNING || cells >= request.prompt.len() || request.is_fork() {
            return;
        }
        let known = self.prefixes.iter_mut().find_map(|prefix| {
            let common = prefix.common(request, cells)?;
            Some((prefix, common))
        });
        match known {
            Some((prefix, common)) => {
                prefix.prompt = Arc::clone(&request.prompt);
                prefix.len = common;
                prefix.reuses += 1;
            }
            None => {
                self.prefixes.truncate(MOST_PREFIXES - 1);
                self.prefixes.push(Prefix {
                    prompt: Arc::clone(&request.prompt),
                    len: cells,
                    adapters: request.adapters.clone(),
                    exact: request.exact,
                    prompt_logprobs: scores_within(request, cells).cloned(),
                    reuses: 1,
                });
            }
        }
        self.prefixes.sort_by_key(|prefix| Reverse(prefix.reuses));
    }

    /// For each pinned prefix, those of the holdings that have it, and its length.
    pub fn holders<'a, T: Copy>(
        &self,
        holdings: impl Iterator<Item = (T, &'a Holding)> + Clone,
    ) -> impl Iterator<Item = (Vec<T>, usize)> {
        let pinned = self.prefixes.iter().take(self.most);
        pinned
            .take_while(|prefix| prefix.reuses >= LEAST_REUSES)
            .map(move |prefix| {
                let holders = holdings
                    .clone()
                    .filter(|(_, holding)| prefix.is_held_by(holding));
                (holders.map(|(holder, _)| holder).collect(), prefix.len)
            })
    }
}

impl Prefix {
    fn ask(&self) -> Ask<'_> {
        Ask {
            prompt: PrefixKey {
                tokens: &self.prompt,
                adapters: &self.adapters,
            },
            forced_prefix: &[],
            exact: self.exact,
            prompt_logprobs: self.prompt_logprobs.as_ref(),
            first_row: None,
        }
    }

    /// How long a prefix both have, if a request that reuses `cells` cells shares this one: the two differ in an eighth at
    /// most.
    fn common(&self, request: &Request, cells: usize) -> Option<usize> {
        let is_alike = self.adapters == request.adapters
            && self.exact == request.exact
            && self.prompt_logprobs.as_ref() == scores_within(request, cells);
        let pairs = self.prompt[..self.len].iter().zip(&request.prompt[..cells]);
        let common = pairs.take_while(|(a, b)| a == b).count();
        (is_alike && 8 * common >= 7 * self.len.max(cells)).then_some(common)
    }

    fn is_held_by(&self, holding: &Holding) -> bool {
        shared_cells(&self.ask(), holding) >= self.len
    }
}

/// The scores that a request wants of the first `cells` cells of its prompt: none if only later tokens are scored.
fn scores_within(request: &Request, cells: usize) -> Option<&PromptLogprobs> {
    let scores = request.prompt_logprobs.as_ref();
    scores.filter(|scores| scores.from <= cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cache::tests::request;
    use crate::logprobs::LogprobSpec;

    /// A stem, and a tail that no other prompt has.
    fn ask(stem: std::ops::Range<i32>, tail: i32) -> Request {
        let mut request = request(0..0, None);
        let tail = (0..40).map(|i| Token(10_000 + 100 * tail + i));
        request.prompt = stem.map(Token).chain(tail).collect();
        request
    }

    fn holding(request: &Request) -> Holding {
        Holding {
            tokens: Arc::clone(&request.prompt),
            len: request.prompt.len(),
            exact_len: request.prompt.len(),
            ..Holding::default()
        }
    }

    /// Lengths of the pinned prefixes that the holding has.
    fn pinned(pins: &Pins, holding: &Holding) -> Vec<usize> {
        let holders = pins.holders([((), holding)].into_iter());
        let held = holders.filter(|(holders, _)| !holders.is_empty());
        held.map(|(_, len)| len).collect()
    }

    #[test]
    fn a_prefix_is_pinned_once_three_prompts_share_it() {
        let mut pins = Pins::new(1);
        let stem = holding(&ask(0..200, 0));
        pins.count(&ask(0..200, 1), 200);
        assert!(pinned(&pins, &stem).is_empty());
        // Tokens of the tails that happen to agree are no part of it.
        pins.count(&ask(0..200, 2), 216);
        assert_eq!(pinned(&pins, &stem), [200]);
        pins.count(&ask(0..200, 3), 192);
        assert_eq!(pinned(&pins, &stem), [192]);
        assert!(pinned(&pins, &holding(&ask(0..100, 3))).is_empty());
        // What is short, repeated or forked does not count.
        for tail in 0..5 {
            pins.count(&ask(500..540, tail), 40);
            pins.count(&ask(600..700, 0), 140);
            let mut fork = ask(700..800, tail);
            fork.forced_token = Some(Token(1));
            pins.count(&fork, 100);
        }
        for stem in [500..540, 600..700, 700..800] {
            assert!(pinned(&pins, &holding(&ask(stem, 0))).is_empty());
        }
        assert_eq!(pinned(&pins, &stem), [192]);
    }

    #[test]
    fn the_prefixes_that_are_reused_most_are_pinned() {
        let mut pins = Pins::new(2);
        for (stem, reuses) in [(0, 3), (1000, 5), (2000, 4), (3000, 1)] {
            for tail in 0..reuses {
                pins.count(&ask(stem..stem + 100, tail), 100);
            }
        }
        let held = |stem| !pinned(&pins, &holding(&ask(stem..stem + 100, 9))).is_empty();
        assert_eq!([0, 1000, 2000, 3000].map(held), [false, true, true, false]);
    }

    #[test]
    fn prefixes_are_forgotten_with_time() {
        let mut pins = Pins::new(1);
        let stem = holding(&ask(0..200, 0));
        for tail in 0..4 {
            pins.count(&ask(0..200, tail), 200);
        }
        for tail in 0..HALF_LIFE as i32 {
            pins.count(&ask(0..0, tail), 0);
        }
        assert_eq!(pinned(&pins, &stem), [200]);
        for tail in 0..HALF_LIFE as i32 {
            pins.count(&ask(0..0, tail), 0);
        }
        assert!(pinned(&pins, &stem).is_empty());
        // However many there are, few are counted.
        for stem in 0..MOST_PREFIXES as i32 + 20 {
            pins.count(&ask(100 * stem..100 * stem + 80, 0), 80);
        }
        assert_eq!(pins.prefixes.len(), MOST_PREFIXES);
    }

    #[test]
    fn a_prefix_is_held_by_cells_that_its_requests_can_use() {
        let mut pins = Pins::new(1);
        for tail in 0..3 {
            let mut scored = ask(0..200, tail);
            scored.prompt_logprobs = Some(PromptLogprobs::all(LogprobSpec::top(5)));
            pins.count(&scored, 192);
        }
        let stem = holding(&ask(0..200, 0));
        assert!(pinned(&pins, &stem).is_empty());
        let scored = Holding {
            scores: 1..stem.len,
            score_spec: LogprobSpec::top(5),
            ..stem
        };
        assert_eq!(pinned(&pins, &scored), [192]);
    }
}
