//! How a sequence gets its lane, with what is known already: from a lane beside it, from one of another context, or from a
//! neighbour who is evaluating it at this moment.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::{Message, Phase, Sequence, Worker};
use crate::engine::lanes::{Entry, Known, Placement, Source, best_source, choose_lane, refuge};
use crate::engine::plan::{PromptPlan, Stem};
use crate::engine::request::Request;
use crate::model::{Adapters, LaneState, Token};

/// Cells that must be won for a sequence to wait for a neighbour in the same context who is evaluating them. Below,
/// evaluating them again is sooner done.
const WORTH_WAITING: usize = 32;
/// Cells that must be won for a lane to be fetched from another context.
const WORTH_FETCHING: usize = 64;
/// Cells of generated tokens that a fork may cut off to go on where they stood. More take longer to evaluate again, one
/// by one, than a lane takes to be copied.
const WORTH_LEAVING: usize = 8;

/// A lane that another worker asks for. It is sent as soon as it holds what is asked, or when it is clear that it
/// never will.
pub struct Want {
    sequence: u64,
    /// Taken when it is answered.
    reply: Option<Sender<Message>>,
    lane: usize,
    cells: usize,
    prompt: Arc<[Token]>,
    adapters: Adapters,
}

impl Want {
    fn stem(&self) -> Stem<'_> {
        Stem {
            tokens: &self.prompt,
            adapters: &self.adapters,
        }
    }

    fn answer(&mut self, gift: Option<Gift>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Message::Gift {
                sequence: self.sequence,
                gift,
            });
        }
    }
}

impl Drop for Want {
    /// Whoever waits for an answer gets one, also from a worker that goes down.
    fn drop(&mut self) {
        self.answer(None);
    }
}

/// A lane's cells and what is known of them.
pub struct Gift {
    known: Known,
    /// As of the lane: see `Lane`.
    suspect: bool,
    state: LaneState,
}

impl Worker<'_> {
    pub(super) fn publish_known(&self, lane: usize) {
        let known = &self.lanes[lane].known;
        let entry = (known.cells() > 0).then(|| Entry {
            adapters: known.adapters.clone(),
            prompt: match &known.whole {
                Some(whole) if whole.prompt.len() >= known.tokens.len() => {
                    Arc::clone(&whole.prompt)
                }
                _ => known.tokens.as_slice().into(),
            },
            tokens: known.tokens.len(),
            pure: known.pure,
            told: (known.scores.len() + 1 >= known.tokens.len()).then(|| known.told.clone()),
            whole: known.whole.as_ref().map(|whole| whole.scores.is_some()),
            whole_is_pure: known.whole.as_ref().is_some_and(|whole| whole.pure),
            generated: known.generated.clone(),
        });
        self.shared.directory.publish(self.number, lane, entry);
    }

    /// Gives lanes to those who have none, unless it pays to wait for a neighbour.
    pub(super) fn start_new(&mut self) {
        for index in 0..self.sequences.len() {
            if let Phase::New { may_fetch } = self.sequences[index].phase {
                self.start(index, may_fetch);
            }
        }
    }

    fn start(&mut self, index: usize, may_fetch: bool) {
        let sequence = &self.sequences[index];
        let (request, plan) = (&sequence.request, sequence.plan);
        let reuses = request.cache_prompt && self.runner.model().can_cut();
        let source = if reuses {
            best_source(&self.lanes, request, &plan)
        } else {
            None
        };
        let here = source.map_or(0, |source| source.cells);
        if reuses && here < request.most_cells() {
            // Who has a lane and is still at its prompt, or at what it keeps, goes on, so nobody waits for somebody who
            // waits.
            let promised = self
                .sequences
                .iter()
                .filter(|other| match other.phase {
                    Phase::Prompt { .. } => here < request.prompt.len(),
                    Phase::Generating { .. } => other.drawn < other.request.forced_prefix.len(),
                    Phase::New { .. } | Phase::Fetching => false,
                })
                .filter(|other| !request.exact || self.stays_pure(other))
                .map(|other| promised(other, &self.lanes[other.lane].known, request, &plan))
                .max()
                .unwrap_or(0);
            if promised >= here + WORTH_WAITING {
                return;
            }
            if may_fetch
                && let Some((worker, there)) =
                    self.shared
                        .directory
                        .best(Some(self.number), request, &plan)
                && there.cells >= here + WORTH_FETCHING
            {
                // One neighbour has asked for it already: it is copied from that one, then.
                if self.sequences.iter().any(|other| {
                    let common = other.request.stem().common(request.stem());
                    matches!(other.phase, Phase::Fetching)
                        && common >= there.cells.min(request.prompt.len())
                }) {
                    return;
                }
                let want = Want {
                    sequence: sequence.id,
                    reply: Some(self.shared.mailboxes[self.number].clone()),
                    lane: there.lane,
                    cells: there.cells,
                    prompt: Arc::clone(&request.prompt),
                    adapters: request.adapters.clone(),
                };
                if self.shared.mailboxes[worker]
                    .send(Message::Want(want))
                    .is_ok()
                {
                    self.sequences[index].phase = Phase::Fetching;
                    return;
                }
            }
        }
        // A fork leaves the answer that it comes from as it is, for others: it goes on in a copy, unless there is little to
        // lose, or no lane that is missed less.
        let continued = source.filter(|source| {
            let lost = self.lanes[source.lane].known.cells() - source.cells;
            !request.is_fork() || source.cells < request.prompt.len() || lost <= WORTH_LEAVING
        });
        // There are as many lanes as sequences may run, and more: one is free.
        let Some(lane) = choose_lane(&self.lanes, continued, self.placement()) else {
            return;
        };
        self.displace(lane, source);
        let mut cells = here;
        match source {
            Some(source) => {
                if source.lane != lane {
                    self.runner.copy(source.lane, lane);
                    self.lanes[lane].known = self.lanes[source.lane].known.clone();
                    self.lanes[lane].suspect = self.lanes[source.lane].suspect;
                }
            }
            None => cells = 0,
        }
        self.occupy(index, lane, cells);
    }

    fn placement(&self) -> Placement {
        if self.shared.sharing.width() > 1 {
            Placement::Together
        } else {
            Placement::Anywhere
        }
    }

    /// Keeps what a lane knows before it is used for something else, if it is not the lane that is missed least.
    fn displace(&mut self, lane: usize, source: Option<Source>) {
        if let Some(to) = refuge(&self.lanes, lane, source) {
            self.runner.copy(lane, to);
            self.lanes[to].known = std::mem::take(&mut self.lanes[lane].known);
            self.lanes[to].used = self.lanes[lane].used;
            self.lanes[to].suspect = self.lanes[lane].suspect;
            self.publish_known(to);
        }
    }

    /// Starts a sequence's prompt in a lane that holds its first `cells` tokens, and of those that it keeps, if they are
    /// more than the prompt has.
    fn occupy(&mut self, index: usize, lane: usize, mut cells: usize) {
        if !self.runner.cut(lane, cells) {
            // Forgetting all never fails.
            cells = 0;
            self.runner.cut(lane, 0);
        }
        if cells == 0 && self.lanes[lane].suspect {
            self.runner.cleanse(lane);
            self.lanes[lane].suspect = false;
        }
        let sequence = &mut self.sequences[index];
        sequence.lane = lane;
        sequence.cached = cells;
        let resumed = cells.saturating_sub(sequence.request.prompt.len());
        sequence.drawn = resumed;
        sequence.phase = Phase::Prompt {
            evaluated: cells - resumed,
        };
        let state = &mut self.lanes[lane];
        state.sequence = Some(sequence.id);
        if cells >= sequence.request.prompt.len() {
            // `usable` found the very same prompt: nothing is to be evaluated, and what is known of it holds.
            state.known.tokens.truncate(sequence.plan.shareable());
            state.known.generated.truncate(resumed);
            state.known.pure = state.known.pure.min(state.known.tokens.len());
            return self.publish_started(index);
        }
        let known = &mut state.known;
        // The score of the token that follows the kept cells belongs to the request's own token, when it is asked
        // for: `usable` saw to that.
        let next_score = sequence
            .request
            .prompt_logprobs
            .as_ref()
            .and_then(|_| known.scores.get(cells.wrapping_sub(1)).cloned());
        known.truncate(cells);
        known.adapters = sequence.request.adapters.clone();
        if known.scores.is_empty() {
            known.told = sequence.request.prompt_logprobs.clone().unwrap_or_default();
        }
        if cells > 0 && known.scores.len() + 1 == cells {
            known.scores.extend(next_score);
        }
        self.publish_started(index);
    }

    /// Whether exact requests can have all of a prompt that is being evaluated.
    fn stays_pure(&self, sequence: &Sequence) -> bool {
        let known = &self.lanes[sequence.lane].known;
        known.is_pure() && self.shared.keeps_pure(&sequence.request)
    }

    /// Tells the other workers what a lane is about to hold.
    fn publish_started(&self, index: usize) {
        let sequence = &self.sequences[index];
        let known = &self.lanes[sequence.lane].known;
        let shareable = sequence.plan.shareable();
        let pure = self.stays_pure(sequence);
        self.shared.directory.publish(
            self.number,
            sequence.lane,
            Some(Entry {
                adapters: sequence.request.adapters.clone(),
                prompt: Arc::clone(&sequence.request.prompt),
                tokens: shareable,
                pure: if pure { shareable } else { known.pure },
                told: (sequence.request.prompt_logprobs.as_ref()).map(|_| known.told.clone()),
                whole: Some(sequence.request.prompt_logprobs.is_some()),
                whole_is_pure: known.whole.as_ref().map_or(pure, |whole| whole.pure),
                generated: Vec::new(),
            }),
        );
    }

    /// Sends lanes that others asked for, as soon as they hold what was asked.
    pub(super) fn serve_wants(&mut self) {
        let (ready, later): (Vec<Want>, Vec<Want>) = std::mem::take(&mut self.wants)
            .into_iter()
            .partition(|want| {
                let lane = &self.lanes[want.lane];
                lane.known.holds(want.stem(), want.cells)
                    || !self.sequences.iter().any(|sequence| {
                        Some(sequence.id) == lane.sequence
                            && matches!(sequence.phase, Phase::Prompt { .. })
                            && sequence.request.stem().common(want.stem()) >= want.cells
                    })
            });
        self.wants = later;
        for mut want in ready {
            let known = &self.lanes[want.lane].known;
            let worth = known.holds(want.stem(), WORTH_FETCHING);
            let known = worth.then(|| known.clone());
            let gift = known.and_then(|known| {
                Some(Gift {
                    known,
                    suspect: self.lanes[want.lane].suspect,
                    state: self.runner.export(want.lane)?,
                })
            });
            want.answer(gift);
        }
    }

    /// Puts cells from another context into a free lane, for the sequence that waits for them.
    pub(super) fn unwrap_gift(&mut self, sequence: u64, gift: Option<Gift>) {
        let Some(index) = self.sequences.iter().position(|other| other.id == sequence) else {
            return;
        };
        if !matches!(self.sequences[index].phase, Phase::Fetching) {
            return;
        }
        self.sequences[index].phase = Phase::New { may_fetch: false };
        let Some(gift) = gift else { return };
        // The one that is missed least; the sequence may be run in another, to which it is copied then.
        let Some(lane) = choose_lane(&self.lanes, None, Placement::Anywhere) else {
            return;
        };
        if self.runner.import(lane, &gift.state) {
            // The donor may have gone on from there.
            self.runner.cut(lane, gift.known.cells());
            self.lanes[lane].known = gift.known;
            self.lanes[lane].suspect |= gift.suspect;
            self.clock += 1;
            self.lanes[lane].used = self.clock;
        } else {
            tracing::warn!(lane, "cells from another context did not fit");
            self.lanes[lane].known = Known::default();
        }
        self.publish_known(lane);
    }
}

/// Cells that a request could take from a neighbour when that one's prompt is evaluated, or what it keeps.
fn promised(neighbour: &Sequence, known: &Known, request: &Request, plan: &PromptPlan) -> usize {
    let scored = match (&request.prompt_logprobs, &neighbour.request.prompt_logprobs) {
        (None, _) => 0,
        (Some(tell), Some(_)) if tell.within(&known.told) => 1,
        (Some(_), _) => return 0,
    };
    let row = request.first_prompt_row();
    let scores = |request: &Request| request.prompt_logprobs.is_some();
    if row.is_none()
        && neighbour.request.stem() == request.stem()
        && scores(&neighbour.request) == scores(request)
    {
        let resumed = request.resumed(&neighbour.request.forced_prefix);
        return match neighbour.phase {
            Phase::Generating { .. } => request.prompt.len() + resumed,
            // Nothing is left to do then, so that is worth waiting for, however short it is.
            _ => request.prompt.len() + resumed + WORTH_WAITING,
        };
    }
    if matches!(neighbour.phase, Phase::Generating { .. }) {
        return 0;
    }
    let common = neighbour.request.stem().common(request.stem());
    plan.reuse(
        common
            .min(neighbour.plan.shareable())
            .saturating_sub(scored)
            .min(row.map_or(usize::MAX, |position| position - 1)),
    )
}
