//! Drafting by looking it up: what followed the last tokens when they stood in the text before is likely to follow
//! again, in code, in quotations, in answers that repeat the question. Several tokens are then evaluated in one decode,
//! and each is kept only if it is the very token that is drawn from the row before it: every token is drawn, and scored,
//! from a row of the model's own. (Rows that are evaluated together may differ from single ones in their low bits, as
//! all rows in throughput mode do.)

use crate::model::Token;

/// Tokens that must have stood in the text before.
const CONTEXT: usize = 3;

/// At most `most` tokens that followed when the last tokens of the text stood there before, most recently.
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

/// When to draft: after drafts of which nothing was kept, ever more rarely.
#[derive(Debug, Default)]
pub struct Patience {
    misses: u32,
    /// Tokens to be drawn before the next draft.
    pause: u32,
}

impl Patience {
    /// Whether it is time for a draft; asked once for each token.
    pub fn is_over(&mut self) -> bool {
        self.pause = self.pause.saturating_sub(1);
        self.pause == 0
    }

    /// A draft of which this many tokens were kept.
    pub fn learn(&mut self, kept: usize) {
        const RAREST: u32 = 7;
        self.misses = if kept > 0 {
            0
        } else {
            (self.misses + 1).min(RAREST)
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
    fn what_followed_before_is_proposed() {
        let check = |prompt: &[i32], generated: &[i32], most, expect: &[i32]| {
            let tokens = |ids: &[i32]| ids.iter().copied().map(Token).collect::<Vec<_>>();
            assert_eq!(
                propose(&tokens(prompt), &tokens(generated), most),
                tokens(expect)
            );
        };
        check(&[1, 2, 3, 4, 5, 6], &[1, 2, 3], 2, &[4, 5]);
        check(&[1, 2, 3, 4], &[1, 2, 3], 9, &[4, 1, 2, 3]);
        // The most recent one counts.
        check(&[1, 2, 3, 4, 1, 2, 3, 5, 0], &[1, 2, 3], 1, &[5]);
        // It may reach into what it follows from.
        check(&[7, 7], &[7, 7], 4, &[7]);
        check(&[1, 2, 3, 4], &[2, 3], 4, &[]);
        check(&[1], &[2], 4, &[]);
        check(&[], &[], 4, &[]);
    }

    #[test]
    fn drafts_that_fail_grow_rare() {
        let mut patience = Patience::default();
        assert!(patience.is_over());
        patience.learn(0);
        assert!(!patience.is_over());
        assert!(patience.is_over());
        for _ in 0..20 {
            patience.learn(0);
        }
        assert_eq!((1..).find(|_| patience.is_over()), Some(128));
        patience.learn(3);
        assert!(patience.is_over());
    }
}
