//! Which free lane is evicted, and whether cells are worth waiting for or fetching. Everything here is arithmetic.

/// Cells that must be gained for a sequence to wait until a neighbour in the same context has evaluated them. Evaluating
/// fewer again is quicker.
const WORTH_WAITING: usize = 32;
/// Cells that must be gained for a lane to be fetched from another context.
pub const WORTH_FETCHING: usize = 64;
/// A neighbour that is evaluating cells is not waited for once its context has evaluated this many times as many of other
/// prompts since it last got on: evaluating them again is quicker than waiting behind a queue.
const PATIENCE: usize = 4;
/// At least so many times these cells: a chunk or two of another prompt may always come in between.
const LEAST_AWAITED: usize = 128;
/// How often a sequence asks other contexts for cells. The sequence that evaluates them may end, or others may displace them,
/// before they come. In the end it evaluates them itself.
pub const MOST_FETCHES: usize = 4;
/// Cells of generated tokens that a fork may cut off to continue in place. Evaluating more of them again, one by one, takes
/// longer than copying the lane.
const WORTH_CUTTING: usize = 8;
/// Free lanes between two busy ones that a decode of several sequences bridges at little cost.
pub const BRIDGED: usize = 2;

/// Where a prompt's first cells come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub lane: usize,
    /// Cells to reuse.
    pub cells: usize,
}

/// A lane, as the policy sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Candidate {
    pub free: bool,
    /// Filled cells.
    pub cells: usize,
    /// Those that any prompt may reuse.
    pub reusable: usize,
    /// The first cells that must not be lost, because this lane alone holds a pinned prefix.
    pub pinned: usize,
    /// When it was last released: greater is later.
    pub last_use: u64,
}

/// Where a request is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// In any lane.
    Anywhere,
    /// Next to those that run: a decode of several sequences is quick when their lanes are side by side.
    Together,
}

/// Whether to wait for a neighbour that will have `promised` cells, when `here` can be had at once. A complete prompt leaves
/// nothing to evaluate, so it is worth waiting for however short it is.
pub fn is_worth_waiting(here: usize, promised: usize, prompt_len: usize) -> bool {
    promised >= here + WORTH_WAITING || (here < prompt_len && promised >= prompt_len)
}

/// Whether a neighbour is no longer waited for that would save `gain` cells, and has not got on while its context evaluated
/// `passed` cells of other prompts.
pub fn is_overdue(passed: usize, gain: usize) -> bool {
    passed > PATIENCE * gain.max(LEAST_AWAITED)
}

/// **The eviction policy**: the free lane whose cells are evicted. It is the least recently used one: first those that
/// hold nothing, last those that hold a pinned prefix. `keep` is evicted only if no other lane is free.
pub fn victim(lanes: &[Candidate], placement: Placement, keep: Option<usize>) -> Option<usize> {
    let key = |lane: usize| {
        let candidate = &lanes[lane];
        let distance = match placement {
            Placement::Anywhere => 0,
            Placement::Together => distance(lanes, lane),
        };
        let last_use = Some(candidate.last_use).filter(|_| candidate.cells > 0);
        (keep == Some(lane), distance, candidate.pinned > 0, last_use)
    };
    (0..lanes.len())
        .filter(|&lane| lanes[lane].free)
        .min_by_key(|&lane| key(lane))
}

/// The free lane to run a request in: its source if it can continue there, else the victim.
pub fn place(lanes: &[Candidate], source: Option<Source>, placement: Placement) -> Option<usize> {
    if let Some(source) = source {
        let lane = &lanes[source.lane];
        let is_near = match placement {
            Placement::Anywhere => true,
            Placement::Together => distance(lanes, source.lane) <= BRIDGED,
        };
        // Unless that loses a pinned prefix, or more of another prompt than it saves.
        if lane.free
            && is_near
            && lane.pinned <= source.cells
            && lane.reusable <= source.cells.saturating_mul(2)
        {
            return Some(source.lane);
        }
    }
    victim(lanes, placement, source.map(|source| source.lane))
}

/// Whether a fork may continue in the lane that it takes `source` from. A copy leaves the answer there to other forks.
pub fn may_cut(lanes: &[Candidate], source: Source, prompt_len: usize) -> bool {
    let lost = lanes[source.lane].cells - source.cells;
    source.cells < prompt_len || lost <= WORTH_CUTTING
}

/// Where to copy the cells of a free lane before a request runs there that takes its first cells from `source`: to the
/// victim, if that is another lane.
pub fn spill_target(lanes: &[Candidate], lane: usize, source: Option<Source>) -> Option<usize> {
    let source = source.map(|source| source.lane);
    if lanes[lane].reusable == 0 || source == Some(lane) {
        return None;
    }
    victim(lanes, Placement::Anywhere, source).filter(|&victim| victim != lane)
}

/// Steps from a lane to the nearest end of those that run; 0 between these, or if none runs.
fn distance(lanes: &[Candidate], lane: usize) -> usize {
    let runs = |lane: &Candidate| !lane.free;
    match (lanes.iter().position(runs), lanes.iter().rposition(runs)) {
        (Some(first), Some(last)) => first.saturating_sub(lane) + lane.saturating_sub(last),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(cells: usize, last_use: u64) -> Candidate {
        Candidate {
            free: true,
            cells,
            reusable: cells,
            pinned: 0,
            last_use,
        }
    }

    fn busy() -> Candidate {
        Candidate {
            free: false,
            ..free(40, 0)
        }
    }

    fn from(lane: usize, cells: usize) -> Option<Source> {
        Some(Source { lane, cells })
    }

    #[test]
    fn the_lane_that_is_missed_least_is_given_up() {
        let check = |lanes: &[Candidate], keep, expect| {
            assert_eq!(
                victim(lanes, Placement::Anywhere, keep),
                expect,
                "{lanes:?}"
            );
        };
        let pinned = Candidate {
            pinned: 32,
            ..free(40, 1)
        };
        check(&[], None, None);
        check(&[busy(), busy()], None, None);
        check(
            &[free(40, 5), busy(), free(40, 2), free(40, 3)],
            None,
            Some(2),
        );
        check(
            &[free(40, 5), busy(), free(40, 2), free(40, 3)],
            Some(2),
            Some(3),
        );
        // Of lanes that hold nothing, it does not matter when they were used.
        check(&[free(40, 5), free(0, 9)], None, Some(1));
        check(&[pinned, free(40, 5), free(40, 9)], None, Some(1));
        // Running sequences come first.
        check(&[pinned, busy()], None, Some(0));
        check(&[pinned, busy(), free(40, 7)], Some(2), Some(0));
        check(&[busy(), free(40, 7)], Some(1), Some(1));
    }

    #[test]
    fn a_long_prompt_is_not_given_up_for_a_short_common_beginning() {
        let check = |lanes: &[Candidate], source, expect| {
            assert_eq!(place(lanes, source, Placement::Anywhere), expect);
        };
        let lanes = [free(1000, 1), free(0, 9)];
        check(&lanes, from(0, 30), Some(1));
        check(&lanes, from(0, 900), Some(0));
        // Nothing else is free.
        check(&[free(1000, 1), busy()], from(0, 30), Some(0));
        check(&[busy(), busy()], None, None);
        // A busy lane is copied from.
        check(&[free(20, 5), busy(), free(40, 1)], from(1, 56), Some(2));
    }

    #[test]
    fn a_pinned_prefix_is_continued_in_place_only_as_a_whole() {
        let pinned = Candidate {
            pinned: 600,
            ..free(620, 1)
        };
        let check = |lanes: &[Candidate], source, expect| {
            assert_eq!(place(lanes, source, Placement::Anywhere), expect);
        };
        check(&[pinned, free(40, 5)], from(0, 600), Some(0));
        check(&[pinned, free(40, 5)], from(0, 592), Some(1));
    }

    #[test]
    fn lanes_that_share_decodes_are_side_by_side() {
        let free = |last_use| free(40, last_use);
        let check = |lanes: &[Candidate], source: Option<usize>, expect| {
            let source = source.map(|lane| Source { lane, cells: 32 });
            assert_eq!(place(lanes, source, Placement::Together), expect);
        };
        check(&[free(5), free(3), free(4)], None, Some(1));
        check(
            &[free(1), free(2), busy(), busy(), free(9), free(3)],
            None,
            Some(1),
        );
        check(&[free(1), busy(), free(9), busy()], None, Some(2));
        // In place if that is near, else a copy next to the others.
        check(&[free(1), free(2), free(3), busy()], Some(1), Some(1));
        check(
            &[free(1), free(2), free(3), free(4), busy()],
            Some(0),
            Some(3),
        );
    }

    #[test]
    fn cells_are_spilled_to_the_victim() {
        let check = |lanes: &[Candidate], lane, source: Option<usize>, expect| {
            let source = source.map(|lane| Source { lane, cells: 32 });
            assert_eq!(spill_target(lanes, lane, source), expect);
        };
        let lanes = [free(40, 5), busy(), free(40, 2), free(40, 3)];
        check(&lanes, 0, None, Some(2));
        check(&lanes, 2, None, None);
        // A source is not overwritten, and cells that are continued in place stay.
        check(&lanes, 0, Some(2), Some(3));
        check(&lanes, 0, Some(0), None);
        check(&[free(0, 9), free(40, 1)], 0, None, None);
        // Next to those that run, a pinned prefix may be displaced; it is not lost.
        let pinned = Candidate {
            pinned: 32,
            ..free(40, 1)
        };
        check(&[pinned, busy(), free(40, 7)], 0, None, Some(2));
    }

    #[test]
    fn a_fork_leaves_its_answer_to_others() {
        let lanes = [free(130, 1)];
        let check = |cells, expect| {
            let source = Source { lane: 0, cells };
            assert_eq!(may_cut(&lanes, source, 100), expect, "{cells}");
        };
        // The prompt is not complete there.
        check(96, true);
        check(100, false);
        check(121, false);
        check(122, true);
    }

    #[test]
    fn only_what_saves_time_is_waited_for() {
        let check = |here, promised, expect| {
            let worth = is_worth_waiting(here, promised, 100);
            assert_eq!(worth, expect, "{here} {promised}");
        };
        check(0, 24, false);
        check(0, 32, true);
        check(64, 88, false);
        // Nothing is left to evaluate then.
        check(96, 100, true);
        check(96, 120, true);
        check(100, 100, false);
        check(100, 131, false);
        check(100, 132, true);
        check(110, 0, false);
    }

    #[test]
    fn a_queue_is_not_waited_for_longer_than_it_saves() {
        let check = |passed, gain, expect| {
            assert_eq!(is_overdue(passed, gain), expect, "{passed} {gain}");
        };
        check(0, 0, false);
        check(512, 1, false);
        check(513, 1, true);
        check(1200, 300, false);
        check(1201, 300, true);
    }
}
