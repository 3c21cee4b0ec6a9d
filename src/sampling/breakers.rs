//! Where DRY's repetitions end.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Added, Token, Vocab};

/// The most tokens of a breaker after its first, as in llama.cpp.
const TAIL: usize = 20;

/// Sequences of tokens that repetitions do not extend across.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Breakers(Arc<HashMap<Token, Tails>>);

/// For a token in which a breaker begins: what must follow to complete the breaker.
type Tails = Vec<Arc<[Token]>>;

impl Breakers {
    /// Finds the tokens that contain one of these texts or in which one begins, in one pass over the vocabulary that
    /// takes a few milliseconds. Empty texts break nothing.
    pub fn new(vocab: &Vocab, texts: &[String]) -> Self {
        if texts.iter().all(String::is_empty) {
            return Self::default();
        }
        let mut begin_with: Vec<Vec<usize>> = vec![Vec::new(); 256];
        for (number, text) in texts.iter().enumerate() {
            if let Some(&first) = text.as_bytes().first() {
                begin_with[usize::from(first)].push(number);
            }
        }
        // For each breaker, its rest by the number of leading bytes left out.
        let mut rests: Vec<Vec<Option<Arc<[Token]>>>> =
            texts.iter().map(|text| vec![None; text.len()]).collect();
        let whole: Arc<[Token]> = Arc::new([]);
        let mut found: HashMap<Token, Tails> = HashMap::new();
        for token in (0..).map(Token).take(vocab.len()) {
            let word = vocab.literal(token);
            for (place, &byte) in word.iter().enumerate() {
                for &number in &begin_with[usize::from(byte)] {
                    let (text, here) = (&texts[number], &word[place..]);
                    let shared = text.len().min(here.len());
                    if text.as_bytes()[..shared] != here[..shared] {
                        continue;
                    }
                    let tail = if shared == text.len() {
                        Arc::clone(&whole)
                    } else if let Some(rest) = text.get(shared..) {
                        let tail = rests[number][shared].get_or_insert_with(|| {
                            let mut tokens = vocab.tokenize(rest, Added::Nothing, false);
                            tokens.truncate(TAIL);
                            tokens.into()
                        });
                        Arc::clone(tail)
                    } else {
                        // The rest begins within a character, so it is not a text.
                        continue;
                    };
                    let tails = found.entry(token).or_default();
                    if !tails.contains(&tail) {
                        tails.push(tail);
                    }
                }
            }
        }
        Self(Arc::new(found))
    }

    /// Whether the token alone is or contains a breaker.
    pub(super) fn is_whole(&self, token: Token) -> bool {
        self.0
            .get(&token)
            .is_some_and(|tails| tails.iter().any(|tail| tail.is_empty()))
    }

    /// How many tokens follow the last breaker in `text`.
    pub(super) fn tokens_since(&self, text: &[Token]) -> usize {
        if self.0.is_empty() {
            return text.len();
        }
        for after in 0..text.len() {
            let (before, following) = text.split_at(text.len() - after);
            let Some(tails) = before.last().and_then(|head| self.0.get(head)) else {
                continue;
            };
            let longest = tails
                .iter()
                .filter(|tail| following.starts_with(tail))
                .map(|tail| tail.len())
                .max();
            if let Some(longest) = longest {
                return after - longest;
            }
        }
        text.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[i32]) -> Vec<Token> {
        ids.iter().copied().map(Token).collect()
    }

    #[test]
    fn a_breaker_may_be_several_tokens() {
        let tail = |ids: &[i32]| -> Arc<[Token]> { tokens(ids).into() };
        let breakers = Breakers(Arc::new(HashMap::from([
            (
                Token(5),
                vec![tail(&[6, 7]), tail(&[6]), tail(&[6, 7, 8, 9])],
            ),
            (Token(9), vec![tail(&[])]),
        ])));
        let check = |text: &[i32], expect: usize| {
            assert_eq!(breakers.tokens_since(&tokens(text)), expect, "{text:?}");
        };
        check(&[], 0);
        check(&[1, 2, 3], 3);
        check(&[1, 9], 0);
        check(&[1, 9, 2, 3], 2);
        check(&[1, 5], 2);
        check(&[1, 5, 6], 0);
        check(&[1, 5, 6, 7], 0);
        check(&[1, 5, 6, 7, 8, 1], 2);
        check(&[1, 5, 7, 6, 7], 5);
        check(&[9, 1, 5, 6, 1, 2, 3], 3);
        assert_eq!(Breakers::default().tokens_since(&tokens(&[9, 9])), 2);
    }
}
