//! The sampler for filling in the middle, with llama.cpp's rules. Its own implementation compares each candidate with each,
//! and ends the process on a token of more than 512 bytes.

use std::sync::Arc;

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::model::{Sorted, Token, Vocab};

/// Candidates that are compared with each other: the likeliest. Others have no chance of the probability that is needed.
const COMPARED: usize = 1024;
/// The probability below which no text is sure enough.
const LEAST: f32 = 0.2;

/// What the sampler knows of the vocabulary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Infill {
    texts: Arc<Sorted>,
    /// The tokens that end a generation, ascending.
    ends: Box<[Token]>,
}

/// A candidate and its probability, to which those of other candidates are added.
struct Likely {
    data: LlamaTokenData,
    probability: f32,
}

impl Infill {
    pub fn new(vocab: &Vocab) -> Self {
        Self {
            texts: vocab.sorted(),
            ends: vocab.ends().into(),
        }
    }

    /// Keeps the ends if an end is likely. Otherwise a token that begins with another gives its probability to that one, or
    /// takes it, whichever is likelier, and those that are then likely enough stay, with the ends; if there are none, an end
    /// does. Logits stay as they are. `may_end`: whether the text may end at any token; if not, the likeliest stays instead.
    pub fn apply(&self, candidates: &mut LlamaTokenDataArray, may_end: bool) {
        let data = &mut candidates.data;
        let all = data.len() as f32;
        if !candidates.sorted {
            data.sort_by(|a, b| b.logit().total_cmp(&a.logit()));
        }
        data.retain(|one| one.logit() > f32::NEG_INFINITY);
        let mut likely = probabilities(data);
        let ends = |one: &Likely| self.is_end(one.data.id());
        let of_ends: f32 = sum(likely.iter().filter(|one| ends(one)));
        let of_texts: f32 = sum(likely.iter().filter(|one| !ends(one)));
        if 3.0 * of_ends * all > of_texts {
            likely.retain(ends);
        } else {
            let first = likely.first().map(|one| one.data);
            likely.truncate(COMPARED);
            self.combine(&mut likely);
            likely.retain(|one| ends(one) || one.probability >= LEAST);
            let texts = likely.iter().filter(|one| !ends(one)).count();
            if texts == 0 {
                likely.clear();
                likely.extend(self.end(may_end).or(first).map(|data| Likely {
                    data,
                    probability: 1.0,
                }));
            } else {
                let together = sum(likely.iter());
                let least = 1.0 / (texts as f32 + 1.0);
                likely.retain(|one| ends(one) || one.probability / together >= least);
            }
        }
        data.clear();
        data.extend(likely.into_iter().map(|one| one.data));
        candidates.sorted = true;
        candidates.selected = None;
    }

    /// Combines candidates of which one begins with the other.
    fn combine(&self, likely: &mut [Likely]) {
        let text = |one: &Likely| self.texts.bytes(Token(one.data.id().0));
        for shorter in 0..likely.len() {
            for longer in 0..likely.len() {
                let (a, b) = (&likely[shorter], &likely[longer]);
                if a.probability == 0.0 {
                    break;
                }
                if shorter == longer || b.probability == 0.0 {
                    continue;
                }
                if text(a).is_empty() || !text(b).starts_with(text(a)) {
                    continue;
                }
                let (to, from) = if b.probability > a.probability {
                    (longer, shorter)
                } else {
                    (shorter, longer)
                };
                likely[to].probability += likely[from].probability;
                likely[from].probability = 0.0;
            }
        }
    }

    fn is_end(&self, token: LlamaToken) -> bool {
        self.ends.binary_search(&Token(token.0)).is_ok()
    }

    /// A candidate that ends the text. Which one makes no difference.
    fn end(&self, may_end: bool) -> Option<LlamaTokenData> {
        let end = self.ends.first().filter(|_| may_end)?;
        Some(LlamaTokenData::new(LlamaToken::new(end.0), 1.0, 1.0))
    }
}

/// The probabilities of candidates, which are sorted by their logits.
fn probabilities(data: &[LlamaTokenData]) -> Vec<Likely> {
    let largest = data.first().map_or(0.0, LlamaTokenData::logit);
    let powers = data.iter().map(|one| (one.logit() - largest).exp());
    let all: f32 = powers.clone().sum();
    let likely = data.iter().zip(powers);
    likely
        .map(|(&data, power)| Likely {
            data,
            probability: power / all,
        })
        .collect()
}

fn sum<'a>(likely: impl Iterator<Item = &'a Likely>) -> f32 {
    likely.map(|one| one.probability).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vocabulary of these tests.
    const TEXTS: [&[u8]; 10] = [
        b"re", b"return", b" x", b" xy", b"z", b"", b"unlike", b"a", b"b", b"c",
    ];
    /// Ends a text.
    const END: i32 = 5;

    /// What is left of candidates with these probabilities in per cent, by id.
    fn left(per_cent: [u32; 10], may_end: bool) -> Vec<i32> {
        let infill = Infill {
            texts: Arc::new(Sorted::new(TEXTS.into_iter())),
            ends: [Token(END)].into(),
        };
        let data = (0..).zip(per_cent).map(|(id, per_cent)| {
            let logit = (per_cent as f32 / 100.0).ln();
            LlamaTokenData::new(LlamaToken::new(id), logit, 0.0)
        });
        let mut candidates = LlamaTokenDataArray::new(data.collect(), false);
        infill.apply(&mut candidates, may_end);
        candidates.data.iter().map(|one| one.id().0).collect()
    }

    #[test]
    fn it_ends_where_an_end_is_likely_and_combines_what_begins_alike() {
        let check = |per_cent, expect: &[i32]| {
            assert_eq!(left(per_cent, true), expect, "{per_cent:?}");
            assert_eq!(left(per_cent, false), expect, "{per_cent:?}");
        };
        // Among ten candidates an end of 4 % is likely, one of 3 % is not.
        check([51, 0, 45, 0, 0, 4, 0, 0, 0, 0], &[END]);
        check([51, 0, 46, 0, 0, 3, 0, 0, 0, 0], &[0, 2, END]);
        // The likelier of "re" and "return" takes what the other has.
        check([20, 39, 41, 0, 0, 0, 0, 0, 0, 0], &[2, 1]);
        check([39, 20, 41, 0, 0, 0, 0, 0, 0, 0], &[2, 0]);
        // The least share of three is a quarter.
        check([14, 10, 31, 15, 30, 0, 0, 0, 0, 0], &[2, 4]);
        // What has less than a fifth is not counted.
        check([19, 0, 18, 0, 18, 0, 45, 0, 0, 0], &[6]);
    }

    #[test]
    fn where_nothing_is_sure_the_text_ends_if_it_may() {
        let unsure = [15, 0, 15, 0, 16, 0, 14, 14, 13, 13];
        assert_eq!(left(unsure, true), [END]);
        assert_eq!(left(unsure, false), [4]);
    }
}
