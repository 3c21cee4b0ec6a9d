//! How many cells a request can reuse. Lanes, running prompts and the lanes of other workers are all judged here.

use super::holding::Holding;
use crate::engine::plan::{PrefixKey, PromptPlan};
use crate::engine::request::{PromptLogprobs, Request};
use crate::model::Token;

/// What of a request decides which cells it can reuse.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub prompt: PrefixKey<'a>,
    /// Tokens that its completion begins with.
    pub forced_prefix: &'a [Token],
    /// Whether only exact cells will do.
    pub exact: bool,
    /// Which of its prompt's tokens are scored, and with what, if any.
    pub prompt_logprobs: Option<&'a PromptLogprobs>,
    /// The first token of the scored prompt whose whole row is wanted. Rows are not kept.
    pub first_row: Option<usize>,
}

impl<'a> Ask<'a> {
    pub fn of(request: &'a Request) -> Self {
        let prompt_logprobs = request.prompt_logprobs.as_ref();
        Self {
            prompt: request.prefix_key(),
            forced_prefix: &request.forced_prefix,
            exact: request.exact,
            prompt_logprobs,
            first_row: prompt_logprobs.and_then(|_| request.first_prompt_row()),
        }
    }

    pub fn prompt_len(&self) -> usize {
        self.prompt.tokens.len()
    }

    /// Cells it may reuse at most: the last token of the forced prefix is evaluated in any case, for the row that predicts
    /// what follows.
    pub fn most_cells(&self) -> usize {
        self.prompt_len() + self.forced_prefix.len().saturating_sub(1)
    }
}

/// Cells that a request can reuse: first those of its prompt and, if the very same prompt is complete, then those of its
/// forced prefix.
pub fn reach(ask: &Ask, holding: &Holding, plan: &PromptPlan) -> usize {
    if completes(ask, holding) {
        let is_same = holding.generated_exact == ask.exact;
        let generated = if is_same { &holding.generated[..] } else { &[] };
        return ask.prompt_len() + resumed(ask.forced_prefix, generated);
    }
    plan.reuse(shared_cells(ask, holding))
}

/// Cells of the request's prompt that are held, before [`PromptPlan::reuse`] says how many of them may be used.
pub fn shared_cells(ask: &Ask, holding: &Holding) -> usize {
    let len = if ask.exact {
        holding.exact_len
    } else {
        holding.len
    };
    let common = holding.prefix(len).common(ask.prompt);
    let Some(asked) = ask.prompt_logprobs else {
        return common;
    };
    let unscored = common.min(asked.from - 1);
    // The last cell predicts the token after it, which may be another one here: that score must be known, too.
    let is_known = holding.scores.start <= asked.from && asked.spec.within(&holding.score_spec);
    let scored = if is_known {
        common.min(holding.scores.end).saturating_sub(1)
    } else {
        0
    };
    // From the first wanted row on everything is evaluated.
    let most = ask.first_row.map_or(usize::MAX, |row| row - 1);
    unscored.max(scored).min(most)
}

/// Whether nothing of the request's prompt is left to evaluate.
fn completes(ask: &Ask, holding: &Holding) -> bool {
    let Some(complete) = holding.complete(ask.prompt) else {
        return false;
    };
    let same_scores = match (ask.prompt_logprobs, complete.scored_from) {
        (None, None) => true,
        (Some(asked), Some(from)) => {
            from <= asked.from && asked.spec.within(&holding.score_spec) && ask.first_row.is_none()
        }
        _ => false,
    };
    same_scores && (complete.exact || !ask.exact)
}

/// How many tokens of a forced prefix need not be evaluated again after `generated` was.
fn resumed(forced_prefix: &[Token], generated: &[Token]) -> usize {
    let most = forced_prefix.len().saturating_sub(1);
    let pairs = forced_prefix[..most].iter().zip(generated);
    pairs.take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;

    use super::*;
    use crate::engine::cache::holding::CompletePrompt;
    use crate::engine::cache::tests::request;
    use crate::engine::plan::Cuts;
    use crate::engine::plan::tests::CUTS;
    use crate::engine::request::Rows;
    use crate::logprobs::LogprobSpec;
    use crate::model::Adapters;

    /// The first tokens, of which those in `scores` are scored with the 5 likeliest.
    fn holding(tokens: i32, scores: Range<usize>) -> Holding {
        let tokens: Arc<[Token]> = (0..tokens).map(Token).collect();
        Holding {
            len: tokens.len(),
            exact_len: tokens.len(),
            tokens,
            scores,
            score_spec: LogprobSpec::top(5),
            ..Holding::default()
        }
    }

    /// The same prompt to its end, of which `len` cells are shareable.
    fn complete(tokens: i32, len: usize, scored: bool) -> Holding {
        let prompt = CompletePrompt {
            len: usize::try_from(tokens).expect("a length"),
            scored_from: scored.then_some(1),
            exact: true,
        };
        Holding {
            len,
            exact_len: len,
            complete_prompt: Some(prompt),
            ..holding(tokens, if scored { 1..len } else { 0..0 })
        }
    }

    fn check(request: &Request, holding: &Holding, expect: usize) {
        let plan = PromptPlan::new(request.prompt.len(), CUTS);
        let cells = reach(&Ask::of(request), holding, &plan);
        assert_eq!(cells, expect, "{request:?} {holding:?}");
    }

    #[test]
    fn scored_prompts_start_where_scores_are_known() {
        let check = |holding, top, expect| check(&request(0..100, top), &holding, expect);
        check(holding(64, 1..64), None, 64);
        // Token 64 differs or is unknown, and is predicted by cell 63: that one is evaluated again, with its group.
        check(holding(64, 1..64), Some(5), 56);
        check(holding(64, 1..31), Some(1), 24);
        check(holding(64, 1..64), Some(6), 0);
        check(holding(64, 0..0), Some(0), 0);
        check(holding(64, 9..64), Some(0), 0);
    }

    #[test]
    fn cells_before_the_first_scored_token_need_no_scores() {
        let check = |from, holding: &Holding, expect| {
            let mut request = request(0..100, Some(1));
            request.prompt_logprobs = Some(PromptLogprobs {
                spec: LogprobSpec::top(1),
                from,
            });
            check(&request, holding, expect);
        };
        // The row before the scored token is evaluated, with its group.
        for (from, expect) in [(90, 64), (65, 64), (64, 56), (49, 48), (48, 40), (1, 0)] {
            check(from, &holding(64, 0..0), expect);
        }
        let some = holding(64, 41..64);
        for (from, expect) in [(65, 64), (64, 56), (49, 56), (41, 56), (40, 32), (1, 0)] {
            check(from, &some, expect);
        }
        let mut prompt = complete(100, 96, true);
        let Some(complete) = &mut prompt.complete_prompt else {
            unreachable!()
        };
        complete.scored_from = Some(81);
        prompt.scores = 81..97;
        for (from, expect) in [(100, 100), (90, 100), (81, 100), (80, 72)] {
            check(from, &prompt, expect);
        }
    }

    #[test]
    fn a_prompt_is_evaluated_from_the_first_wanted_row_on() {
        let check = |rows, top: Option<usize>, expect| {
            let request = Request {
                rows,
                ..request(0..100, top)
            };
            check(&request, &complete(100, 96, top.is_some()), expect);
        };
        check(Rows::None, Some(0), 100);
        check(Rows::From(0), Some(0), 0);
        check(Rows::From(50), Some(0), 48);
        check(Rows::These([49, 90].into()), Some(0), 48);
        check(Rows::These([48].into()), Some(0), 40);
        check(Rows::These([0].into()), Some(0), 100);
        // Rows of generated tokens come as these are generated.
        check(Rows::From(100), None, 100);
        check(Rows::These([100, 105].into()), Some(0), 100);
        // Rows of a prompt that is not scored are not wanted.
        check(Rows::From(50), None, 100);
    }

    #[test]
    fn nothing_is_left_to_evaluate_of_the_very_same_prompt() {
        let check = |tokens, scored, top, expect| {
            check(&request(0..100, top), &complete(tokens, 96, scored), expect);
        };
        check(100, false, None, 100);
        check(100, true, Some(5), 100);
        // More alternatives than are known, scored and not, or another prompt.
        check(100, true, Some(6), 0);
        check(100, false, Some(5), 0);
        check(100, true, None, 88);
        check(101, false, None, 88);
    }

    #[test]
    fn generated_tokens_are_for_forks_only() {
        let check = |forced: std::ops::Range<i32>, generated: std::ops::Range<i32>, expect| {
            let mut fork = request(0..20, None);
            fork.forced_prefix = forced.map(Token).collect();
            let mut held = complete(20, 16, false);
            held.generated = generated.map(Token).collect();
            assert_eq!(held.cells(), 20 + held.generated.len());
            check(&fork, &held, expect);
            // A prompt that continues with the very same tokens was not evaluated as one.
            check(&request(0..28, None), &held, 16);
        };
        check(20..20, 20..30, 20);
        // The last forced token is evaluated again, for what follows it.
        check(20..25, 20..30, 24);
        check(20..25, 20..22, 22);
        check(20..31, 20..30, 30);
        check(20..25, 21..30, 20);
        check(20..21, 20..30, 20);
        check(20..25, 20..20, 20);
    }

    #[test]
    fn exact_requests_start_from_exact_cells() {
        let check = |exact, exact_len, complete_exact: Option<bool>, expect| {
            let mut request = request(0..100, None);
            request.exact = exact;
            let mut held = complete(100, 96, false);
            held.exact_len = exact_len;
            held.complete_prompt = held.complete_prompt.and_then(|prompt| {
                let exact = complete_exact?;
                Some(CompletePrompt { exact, ..prompt })
            });
            assert_eq!(held.is_exact(), exact_len == 96);
            check(&request, &held, expect);
        };
        check(false, 40, None, 88);
        check(true, 40, None, 40);
        check(true, 96, None, 88);
        check(true, 0, None, 0);
        check(false, 40, Some(false), 100);
        check(true, 40, Some(false), 40);
        check(true, 96, Some(true), 100);
    }

    #[test]
    fn cells_of_other_adapters_are_of_no_use() {
        let [none, some, other] =
            [&[][..], &[(0, 1.0)], &[(0, 0.5)]].map(|scales| Adapters::new(scales.iter().copied()));
        let check = |held: &Adapters, asked: &Adapters, is_equal: bool| {
            let mut request = request(0..100, None);
            request.adapters = asked.clone();
            for (mut holding, expect) in [(holding(96, 0..0), 88), (complete(100, 96, false), 100)]
            {
                holding.adapters = held.clone();
                check(&request, &holding, if is_equal { expect } else { 0 });
                assert_eq!(holding.covers(request.prefix_key(), 64), is_equal);
                let all = holding.covers(request.prefix_key(), 100);
                assert_eq!(all, is_equal && holding.complete_prompt.is_some());
            }
        };
        check(&none, &none, true);
        check(&some, &some, true);
        check(&none, &some, false);
        check(&some, &none, false);
        check(&some, &other, false);
    }

    /// What [`reach`] should be, cell by cell.
    fn naive(ask: &Ask, holding: &Holding, plan: &PromptPlan) -> usize {
        let prompt = ask.prompt.tokens;
        if ask.prompt.adapters != &holding.adapters {
            return 0;
        }
        let is_within = |spec: &LogprobSpec| spec.within(&holding.score_spec);
        if let Some(complete) = holding.complete_prompt
            && complete.len == prompt.len()
            && (0..prompt.len()).all(|i| holding.tokens[i] == prompt[i])
            && (complete.exact || !ask.exact)
            && complete.scored_from.is_some() == ask.prompt_logprobs.is_some()
            && ask.prompt_logprobs.is_none_or(|asked| {
                is_within(&asked.spec)
                    && (asked.from..=prompt.len().max(asked.from))
                        .all(|i| Some(i) >= complete.scored_from)
            })
            && ask.first_row.is_none()
        {
            let mut cells = prompt.len();
            for (i, token) in holding.generated.iter().enumerate() {
                // The last forced token is evaluated again.
                if holding.generated_exact != ask.exact
                    || i + 1 >= ask.forced_prefix.len()
                    || ask.forced_prefix[i] != *token
                {
                    break;
                }
                cells += 1;
            }
            return cells;
        }
        let is_cell_held = |i: usize| {
            i < prompt.len()
                && i < holding.len
                && (i < holding.exact_len || !ask.exact)
                && holding.tokens[i] == prompt[i]
        };
        // The cells before a scored token are reused only with its score, and without its row.
        let is_score_held = |i: usize| {
            ask.prompt_logprobs.is_none_or(|asked| {
                let is_known =
                    is_cell_held(i) && holding.scores.contains(&i) && is_within(&asked.spec);
                (i < asked.from || is_known) && ask.first_row.is_none_or(|row| i < row)
            })
        };
        let can_reuse =
            |&cells: &usize| (0..cells).all(is_cell_held) && (1..=cells).all(is_score_held);
        let known = (1..=prompt.len()).take_while(can_reuse).last().unwrap_or(0);
        plan.reuse(known)
    }

    /// All lists of at most `len` tokens, each 0 or 1.
    fn lists(len: u32) -> impl Iterator<Item = Vec<Token>> {
        (0..=len).flat_map(|len| {
            (0..1 << len).map(move |bits| (0..len).map(|i| Token(bits >> i & 1)).collect())
        })
    }

    /// All holdings of three tokens. Only whether tokens are equal counts, so these are all 0.
    fn holdings() -> Vec<Holding> {
        const LEN: usize = 3;
        let mut holdings = Vec::new();
        for len in 0..=LEN {
            let mut ends = vec![(None, 0)];
            for complete_len in len..=LEN {
                for (scored_from, exact) in [None, Some(1), Some(2)]
                    .into_iter()
                    .flat_map(|from| [(from, false), (from, true)])
                {
                    let complete = CompletePrompt {
                        len: complete_len,
                        scored_from,
                        exact,
                    };
                    ends.extend((0..3).map(|generated| (Some(complete), generated)));
                }
            }
            // None are known, or some that end within the cells or predict the token after them.
            let starts = 1..=len + 1;
            let scores = starts.flat_map(|start| (start..=len + 1).map(move |end| start..end));
            let scores: Vec<_> = std::iter::once(0..0).chain(scores).collect();
            for (exact_len, scores) in
                (0..=len).flat_map(|exact| scores.iter().map(move |scores| (exact, scores)))
            {
                holdings.extend(ends.iter().map(|&(complete_prompt, generated)| Holding {
                    tokens: [Token(0); LEN].into(),
                    len,
                    exact_len,
                    generated_exact: generated == 2,
                    scores: scores.clone(),
                    score_spec: LogprobSpec::top(1),
                    complete_prompt,
                    generated: vec![Token(0); generated],
                    ..Holding::default()
                }));
            }
        }
        holdings
    }

    #[test]
    fn reach_is_what_a_naive_model_finds() {
        let (none, some) = (Adapters::default(), Adapters::new([(0, 1.0)]));
        let asked = |top, from| {
            let spec = LogprobSpec::top(top);
            Some(PromptLogprobs { spec, from })
        };
        let holdings = holdings();
        let mut reached = [0; 6];
        for (prompt, forced_prefix) in
            lists(3).flat_map(|prompt| lists(2).map(move |forced| (prompt.clone(), forced)))
        {
            let plans = [1, 2].map(|rows| {
                let cuts = Cuts {
                    batch_tokens: 2,
                    rows,
                };
                PromptPlan::new(prompt.len(), cuts)
            });
            for (prompt_logprobs, first_row) in [
                (None, None),
                (asked(0, 1), None),
                (asked(0, 1), Some(1)),
                (asked(0, 1), Some(2)),
                (asked(0, 2), None),
                (asked(0, 2), Some(1)),
                (asked(0, 3), None),
                (asked(0, 3), Some(2)),
                (asked(2, 1), None),
                (asked(2, 2), None),
            ] {
                for (exact, adapters) in [(false, &none), (true, &none), (false, &some)] {
                    let ask = Ask {
                        prompt: PrefixKey {
                            tokens: &prompt,
                            adapters,
                        },
                        forced_prefix: &forced_prefix,
                        exact,
                        prompt_logprobs: prompt_logprobs.as_ref(),
                        first_row,
                    };
                    for (holding, plan) in holdings
                        .iter()
                        .flat_map(|holding| plans.iter().map(move |plan| (holding, plan)))
                    {
                        let cells = reach(&ask, holding, plan);
                        assert_eq!(cells, naive(&ask, holding, plan), "{ask:?} {holding:?}");
                        reached[cells] += 1;
                    }
                }
            }
        }
        // The last forced token is never reused: 3 + 1 cells are most.
        assert!(reached[..5].iter().all(|&count| count > 100), "{reached:?}");
    }
}
