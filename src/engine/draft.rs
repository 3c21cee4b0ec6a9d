//! Prompt lookup decoding: what followed the last tokens when they occurred earlier in the text is likely to follow again,
//! in code, in quotations, in answers that repeat the question. Several such tokens are evaluated in one decode, and each
//! is accepted only if it is the token drawn from the row before it. So every token is drawn and scored from the model's own
//! row. (Rows evaluated together may differ from single ones in their low bits, as all rows in throughput mode do.)

use crate::model::Token;

/// Tokens that must have occurred before.
const CONTEXT: usize = 3;

/// At most `most` tokens that followed the most recent earlier occurrence of the text's last tokens.
pub fn propose(prompt: &[Token], generated: &[Token], most: usize) -> Vec<Token> {
    let length = prompt.len() + generated.len();
    let at = |place: usize| match place.checked_sub(prompt.len()) {
        Some(place) => generated[place],
        None => prompt[place],
    };
    let Some(last) = length.checked_sub(CONTEXT) else {
        return Vec::new();
    };
    (0..last)
        .rev()
        .find(|&start| (0..CONTEXT).all(|i| at(start + i) == at(last + i)))
        .map(|start| {
            let follows = start + CONTEXT;
            (follows..length.min(follows + most)).map(at).collect()
        })
        .unwrap_or_default()
}

/// When to draft: exponentially less often while nothing is accepted.
#[derive(Debug, Default)]
pub struct DraftBackoff {
    misses: u32,
    /// Tokens to draw before the next draft.
    pause: u32,
}

impl DraftBackoff {
    /// Whether to draft now; asked once for each token.
    pub fn is_due(&mut self) -> bool {
        self.pause = self.pause.saturating_sub(1);
        self.pause == 0
    }

    /// A draft was evaluated, and this many of its tokens were accepted.
    pub fn record(&mut self, accepted: usize) {
        const MOST_DOUBLINGS: u32 = 7;
        self.misses = if accepted > 0 {
            0
        } else {
            (self.misses + 1).min(MOST_DOUBLINGS)
        };
        self.pause = if self.misses == 0 {
            0
        } else {
            1 << self.misses
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tokens_that_followed_before_are_proposed() {
        let check = |prompt: &[i32], generated: &[i32], most, expect: &[i32]| {
            let tokens = |ids: &[i32]| ids.iter().copied().map(Token).collect::<Vec<_>>();
            assert_eq!(
                propose(&tokens(prompt), &tokens(generated), most),
                tokens(expect)
            );
        };
        check(&[1, 2, 3, 4, 5, 6], &[1, 2, 3], 2, &[4, 5]);
        check(&[1, 2, 3, 4], &[1, 2, 3], 9, &[4, 1, 2, 3]);
        // The most recent occurrence counts.
        check(&[1, 2, 3, 4, 1, 2, 3, 5, 0], &[1, 2, 3], 1, &[5]);
        // The draft may overlap the tokens that it follows.
        check(&[7, 7], &[7, 7], 4, &[7]);
        check(&[1, 2, 3, 4], &[2, 3], 4, &[]);
        check(&[1], &[2], 4, &[]);
        check(&[], &[], 4, &[]);
    }

    #[test]
    fn failing_drafts_become_rare() {
        let mut backoff = DraftBackoff::default();
        assert!(backoff.is_due());
        backoff.record(0);
        assert!(!backoff.is_due());
        assert!(backoff.is_due());
        for _ in 0..20 {
            backoff.record(0);
        }
        assert_eq!((1..).find(|_| backoff.is_due()), Some(128));
        backoff.record(3);
        assert!(backoff.is_due());
    }
}
