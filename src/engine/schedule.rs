//! Which sequences advance next: a pure function of the sequences and of the round before.

/// What a sequence needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It waits: for a lane, for cells, or for a mask.
    Waiting,
    /// This many tokens of its prompt are left to evaluate.
    Prompt { left: usize },
    /// It has a token to evaluate.
    Generating,
}

/// One round: a token for each sequence that generates, then prompt tokens, up to a chunk. So a stream never waits for more than
/// one chunk, and prompts are not starved by streams. It is reused from round to round.
#[derive(Debug, Default)]
pub struct Round {
    /// Sequences whose newest token is evaluated, in order of arrival.
    pub tokens: Vec<usize>,
    /// Sequences whose prompts are evaluated, or a chunk of one: the shortest, so that a short request does not wait for a long
    /// prompt, and others as far as they fit into the chunk as a whole: the sooner they generate, the more of them share a
    /// decode. After prompts have overtaken an older one, the oldest is next, so that no prompt is starved.
    pub prompts: Vec<usize>,
    /// Whether the last prompts overtook an older one.
    overtook: bool,
}

impl Round {
    /// Plans the next round, given the sequences in order of arrival. `chunk`: prompt tokens of a round.
    pub fn fill(&mut self, sequences: impl Iterator<Item = Progress>, chunk: usize) {
        self.tokens.clear();
        let mut prompts = Vec::new();
        for (index, progress) in sequences.enumerate() {
            match progress {
                Progress::Waiting => {}
                Progress::Generating => self.tokens.push(index),
                Progress::Prompt { left } => prompts.push((left, index)),
            }
        }
        let oldest = prompts.first().map(|&(_, index)| index);
        let is_next = |index| self.overtook && Some(index) == oldest;
        prompts.sort_by_key(|&(left, index)| (!is_next(index), left, index));
        self.prompts.clear();
        /// A decode of few rows takes longer than its share of a chunk.
        const LEAST: usize = 32;
        let mut room = chunk;
        for (left, index) in prompts {
            let left = left.max(LEAST);
            if !self.prompts.is_empty() && left > room {
                continue;
            }
            room = room.saturating_sub(left);
            self.prompts.push(index);
        }
        self.overtook = oldest.is_some_and(|oldest| !self.prompts.contains(&oldest));
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.prompts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Progress::{Generating, Prompt, Waiting};
    use super::*;

    fn check(round: &mut Round, sequences: &[Progress], tokens: &[usize], prompts: &[usize]) {
        round.fill(sequences.iter().copied(), 128);
        assert_eq!(round.tokens, tokens, "{sequences:?}");
        assert_eq!(round.prompts, prompts, "{sequences:?}");
        assert_eq!(round.is_empty(), tokens.is_empty() && prompts.is_empty());
    }

    #[test]
    fn every_sequence_gets_a_token_and_prompts_a_chunk() {
        let mut round = Round::default();
        check(&mut round, &[], &[], &[]);
        check(&mut round, &[Waiting], &[], &[]);
        let prompt = |left| Prompt { left };
        let sequences = [Generating, prompt(90), Waiting, prompt(90), Generating];
        check(&mut round, &sequences, &[0, 4], &[1]);
        check(&mut round, &sequences, &[0, 4], &[1]);
        // Short ones are evaluated together.
        let sequences = [prompt(60), prompt(200), prompt(50), prompt(18), prompt(1)];
        check(&mut round, &sequences, &[], &[4, 3, 2]);
        check(&mut round, &sequences[..3], &[], &[0, 2]);
        check(&mut round, &[prompt(1); 9], &[], &[0, 1, 2, 3]);
    }

    #[test]
    fn a_short_prompt_overtakes_a_long_one_without_starving_it() {
        let mut round = Round::default();
        let long = Prompt { left: 4000 };
        check(&mut round, &[long], &[], &[0]);
        let both = [long, Prompt { left: 300 }];
        check(&mut round, &both, &[], &[1]);
        check(&mut round, &both, &[], &[0]);
        check(&mut round, &both, &[], &[1]);
        check(&mut round, &[long, Generating], &[1], &[0]);
        // A new prompt is first, unless another overtook in the round before.
        check(&mut round, &[long, Prompt { left: 8 }], &[], &[1]);
    }
}
