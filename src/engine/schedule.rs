//! Who advances next: a pure function of the sequences and the limits.

/// Where a sequence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It waits for cells of another lane; nothing can be done for it.
    Waiting,
    /// Its prompt is being evaluated.
    Prompt,
    /// It has a token to evaluate.
    Generating,
}

/// One decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The next chunk of this sequence's prompt.
    Prompt(usize),
    /// This sequence's newest token: one row, which is the reference's own shape.
    Token(usize),
}

/// One round: a token for everyone who generates, then one chunk of the prompt that came first. So a stream waits for
/// no more than one chunk, and prompts are not starved by streams.
pub fn round(sequences: impl Iterator<Item = Progress>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut prompt = None;
    for (index, progress) in sequences.enumerate() {
        match progress {
            Progress::Waiting => {}
            Progress::Generating => steps.push(Step::Token(index)),
            Progress::Prompt => prompt = prompt.or(Some(Step::Prompt(index))),
        }
    }
    steps.extend(prompt);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_gets_a_token_and_the_first_prompt_a_chunk() {
        use Progress::{Generating, Prompt, Waiting};
        let check = |sequences: &[Progress], expect: &[Step]| {
            assert_eq!(round(sequences.iter().copied()), expect);
        };
        check(&[], &[]);
        check(&[Waiting], &[]);
        check(
            &[Generating, Prompt, Waiting, Prompt, Generating],
            &[Step::Token(0), Step::Token(4), Step::Prompt(1)],
        );
    }
}
