//! The answer of `POST /v1/completions`, and how deltas add up to it.

use std::sync::Arc;

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};

use super::prompt::Prompt;
use crate::engine::{FinishReason, PromptOutput, TokenOutput};
use crate::logprobs::TokenLogprob;
use crate::model::{Model, Token, Vocab};

/// What all parts of one answer begin with.
#[derive(Debug, Clone, Serialize)]
pub struct Head {
    pub id: String,
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The name that the client used.
    pub model: String,
    pub system_fingerprint: String,
}

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct Completion {
    #[serde(flatten)]
    pub head: Head,
    pub choices: Vec<Choice>,
    pub usage: Usage,
}

/// One continuation, or a piece of one in a stream.
#[derive(Debug, Serialize)]
pub struct Choice {
    pub text: String,
    pub index: usize,
    pub logprobs: Option<CompletionLogprobs>,
    pub finish_reason: Option<&'static str>,
}

/// Tokens used.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Usage {
    /// Of each prompt once, however many choices.
    pub prompt_tokens: usize,
    /// Of all sequences that were generated.
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptTokensDetails,
}

#[derive(Debug, Default, Clone, Serialize)]
pub struct PromptTokensDetails {
    /// Prompt tokens that were not evaluated anew.
    pub cached_tokens: usize,
}

impl Usage {
    pub fn new(prompt_tokens: usize, completion_tokens: usize, cached_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
        }
    }
}

/// Four arrays of one length, written straight from the scores: `text_offset` (characters), `token_logprobs` (nats),
/// `tokens`, `top_logprobs` (objects text → nats, likeliest first).
pub struct CompletionLogprobs {
    pub model: Arc<Model>,
    pub entries: Vec<Entry>,
}

/// A token's place in the four arrays.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub token: Token,
    pub offset: usize,
    /// `None`: nothing predicts it, as the first token of a prompt.
    pub score: Option<Arc<TokenLogprob>>,
}

impl std::fmt::Debug for CompletionLogprobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CompletionLogprobs")
            .field(&self.entries)
            .finish()
    }
}

impl Serialize for CompletionLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let vocab = self.model.vocab();
        let entries = &self.entries;
        let mut arrays = serializer.serialize_struct("CompletionLogprobs", 4)?;
        arrays.serialize_field(
            "text_offset",
            &Seq(|| entries.iter().map(|entry| entry.offset)),
        )?;
        arrays.serialize_field(
            "token_logprobs",
            &Seq(|| {
                entries
                    .iter()
                    .map(|entry| entry.score.as_ref().map(|score| finite(score.logprob)))
            }),
        )?;
        arrays.serialize_field(
            "tokens",
            &Seq(|| entries.iter().map(|entry| vocab.text(entry.token))),
        )?;
        arrays.serialize_field(
            "top_logprobs",
            &Seq(|| {
                entries
                    .iter()
                    .map(|entry| entry.score.as_deref().map(|score| Top { score, vocab }))
            }),
        )?;
        arrays.end()
    }
}

/// An iterator written as an array.
struct Seq<F>(F);

impl<F, I> Serialize for Seq<F>
where
    F: Fn() -> I,
    I: Iterator<Item: Serialize>,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// Text → logprob. Of two tokens with one text the likelier one's value stands, but the chosen token's own always;
/// the chosen token comes last if it is not among the likeliest.
struct Top<'a> {
    score: &'a TokenLogprob,
    vocab: &'a Vocab,
}

impl Serialize for Top<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pairs = top_pairs(self.score, |token| self.vocab.text(token));
        let mut object = serializer.serialize_map(Some(pairs.len()))?;
        for (text, logprob) in pairs {
            object.serialize_entry(text, &finite(logprob))?;
        }
        object.end()
    }
}

fn top_pairs<'a>(score: &TokenLogprob, text: impl Fn(Token) -> &'a str) -> Vec<(&'a str, f32)> {
    let mut pairs: Vec<(&str, f32)> = Vec::with_capacity(score.top.len() + 1);
    for &(token, logprob) in &score.top {
        let text = text(token);
        if !pairs.iter().any(|(other, _)| *other == text) {
            pairs.push((text, logprob));
        }
    }
    let chosen = text(score.token);
    match pairs.iter_mut().find(|(other, _)| *other == chosen) {
        Some(pair) => pair.1 = score.logprob,
        None => pairs.push((chosen, score.logprob)),
    }
    pairs
}

/// JSON has no infinity. No finite logit of a model comes near this.
fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() {
        logprob
    } else {
        -9999.0
    }
}

/// How the deltas of a prompt's choices are shown.
#[derive(Clone)]
pub struct View {
    pub model: Arc<Model>,
    pub prompt: Arc<Prompt>,
    pub echo: bool,
    /// Whether the arrays are wanted.
    pub logprobs: bool,
    /// Characters that stand before the completion.
    pub base: usize,
}

impl View {
    pub fn new(model: Arc<Model>, prompt: Arc<Prompt>, echo: bool, logprobs: bool) -> Self {
        let base = if echo && logprobs {
            prompt.offsets(model.vocab()).last().copied().unwrap_or(0)
        } else {
            prompt.text.chars().count()
        };
        Self {
            model,
            prompt,
            echo,
            logprobs,
            base,
        }
    }

    /// The echoed prompt's entries.
    pub fn prompt_entries(&self, output: &PromptOutput) -> Vec<Entry> {
        if !self.echo || !self.logprobs {
            return Vec::new();
        }
        let offsets = self.prompt.offsets(self.model.vocab());
        let first = self.prompt.first_entry;
        (first..self.prompt.tokens.len())
            .map(|place| Entry {
                token: self.prompt.tokens[place],
                offset: offsets[place],
                // The arrays begin with null, as OpenAI's did.
                score: if place == first {
                    None
                } else {
                    output.logprobs.get(place - 1).cloned()
                },
            })
            .collect()
    }

    pub fn entry(&self, output: &TokenOutput) -> Entry {
        Entry {
            token: output.token,
            offset: self.base + output.offset,
            score: output.logprob.clone(),
        }
    }

    pub fn arrays(&self, entries: Vec<Entry>) -> Option<CompletionLogprobs> {
        self.logprobs.then(|| CompletionLogprobs {
            model: Arc::clone(&self.model),
            entries,
        })
    }
}

/// A choice while its deltas come in.
pub struct Growing {
    view: View,
    text: String,
    entries: Vec<Entry>,
    /// Of generated tokens.
    logprob_sum: f64,
    pub tokens: usize,
    pub cached_tokens: usize,
}

impl Growing {
    pub fn new(view: View) -> Self {
        Self {
            text: if view.echo {
                view.prompt.text.clone()
            } else {
                String::new()
            },
            entries: Vec::new(),
            logprob_sum: 0.0,
            tokens: 0,
            cached_tokens: 0,
            view,
        }
    }

    pub fn prompt(&mut self, output: &PromptOutput) {
        self.cached_tokens = output.cached_tokens;
        self.entries = self.view.prompt_entries(output);
    }

    pub fn token(&mut self, output: &TokenOutput) {
        self.text.push_str(&output.text);
        self.tokens += 1;
        if let Some(score) = &output.logprob {
            self.logprob_sum += f64::from(score.logprob);
        }
        if self.view.logprobs {
            self.entries.push(self.view.entry(output));
        }
    }

    /// What `best_of` ranks by; of nothing, the best.
    pub fn mean_logprob(&self) -> f64 {
        if self.tokens == 0 {
            0.0
        } else {
            self.logprob_sum / self.tokens as f64
        }
    }

    pub fn finish(self, index: usize, reason: FinishReason) -> Choice {
        Choice {
            text: self.text,
            index,
            logprobs: self.view.arrays(self.entries),
            finish_reason: Some(reason.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_tokens_with_one_text_the_likelier_or_chosen_one_stands() {
        let texts = ["a", "", "", "b"];
        let check = |chosen: i32, logprob: f32, top: &[(i32, f32)], expect: &[(&str, f32)]| {
            let score = TokenLogprob {
                token: Token(chosen),
                logprob,
                top: top
                    .iter()
                    .map(|&(id, logprob)| (Token(id), logprob))
                    .collect(),
            };
            assert_eq!(top_pairs(&score, |token| texts[token.index()]), expect);
        };
        check(0, -1.0, &[], &[("a", -1.0)]);
        check(
            0,
            -1.0,
            &[(0, -1.0), (3, -2.0)],
            &[("a", -1.0), ("b", -2.0)],
        );
        check(3, -5.0, &[(0, -1.0)], &[("a", -1.0), ("b", -5.0)]);
        check(
            0,
            -3.0,
            &[(1, -1.0), (2, -2.0), (0, -3.0)],
            &[("", -1.0), ("a", -3.0)],
        );
        check(2, -2.0, &[(1, -1.0), (2, -2.0)], &[("", -2.0)]);
    }

    #[test]
    fn infinities_are_written_as_numbers() {
        assert_eq!(finite(f32::NEG_INFINITY), -9999.0);
        assert_eq!(finite(-3.5), -3.5);
    }
}
