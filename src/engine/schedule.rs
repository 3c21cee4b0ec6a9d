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

/// One round: a token for each sequence that generates, then one chunk of a prompt. So a stream never waits for more than one
/// chunk, and prompts are not starved by streams. It is reused from round to round.
#[derive(Debug, Default)]
pub struct Round {
    /// Sequences whose newest token is evaluated, in order of arrival.
    pub tokens: Vec<usize>,
    /// The sequence whose prompt gets a chunk: the shortest, so that a short request does not wait for a long prompt. After a
    /// prompt has overtaken an older one, the oldest is next, so that no prompt is starved.
    pub prompt: Option<usize>,
    /// Whether the last prompt overtook an older one.
    overtook: bool,
}

impl Round {
    /// Plans the next round, given the sequences in order of arrival.
    pub fn fill(&mut self, sequences: impl Iterator<Item = Progress>) {
        self.tokens.clear();
        let mut oldest = None;
        let mut shortest: Option<(usize, usize)> = None;
        for (index, progress) in sequences.enumerate() {
            match progress {
                Progress::Waiting => {}
                Progress::Generating => self.tokens.push(index),
                Progress::Prompt { left } => {
                    oldest = oldest.or(Some(index));
                    if shortest.is_none_or(|(_, least)| left < least) {
                        shortest = Some((index, left));
                    }
                }
            }
        }
        self.prompt = if self.overtook {
            oldest
        } else {
            shortest.map(|(index, _)| index)
        };
        self.overtook = self.prompt != oldest;
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.prompt.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::Progress::{Generating, Prompt, Waiting};
    use super::*;

    fn check(round: &mut Round, sequences: &[Progress], tokens: &[usize], prompt: Option<usize>) {
        round.fill(sequences.iter().copied());
        assert_eq!(round.tokens, tokens, "{sequences:?}");
        assert_eq!(round.prompt, prompt, "{sequences:?}");
        assert_eq!(round.is_empty(), tokens.is_empty() && prompt.is_none());
    }

    #[test]
    fn every_sequence_gets_a_token_and_one_prompt_a_chunk() {
        let mut round = Round::default();
        check(&mut round, &[], &[], None);
        check(&mut round, &[Waiting], &[], None);
        let sequences = [
            Generating,
            Prompt { left: 9 },
            Waiting,
            Prompt { left: 9 },
            Generating,
        ];
        check(&mut round, &sequences, &[0, 4], Some(1));
        check(&mut round, &sequences, &[0, 4], Some(1));
    }

    #[test]
    fn a_short_prompt_overtakes_a_long_one_without_starving_it() {
        let mut round = Round::default();
        let long = Prompt { left: 4000 };
        check(&mut round, &[long], &[], Some(0));
        let both = [long, Prompt { left: 300 }];
        check(&mut round, &both, &[], Some(1));
        check(&mut round, &both, &[], Some(0));
        check(&mut round, &both, &[], Some(1));
        check(&mut round, &[long, Generating], &[1], Some(0));
        // A new prompt is first, unless another overtook in the round before.
        check(&mut round, &[long, Prompt { left: 8 }], &[], Some(1));
    }
}
