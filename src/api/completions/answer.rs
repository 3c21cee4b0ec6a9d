//! The answer of `POST /v1/completions`, and how deltas add up to it.

use std::sync::Arc;

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::prompt::Prompt;
use crate::api::answer::{Gathered, finite};
use crate::api::stream::Show;
use crate::engine::{Delta, PromptOutput, TokenOutput};
use crate::logprobs::TokenLogprob;
use crate::model::{Model, Token, Vocab};

/// One continuation, or a piece of one in a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct Choice {
    /// What was generated, behind the prompt with `echo`; in a stream the next piece of it.
    pub text: String,
    /// Which choice this is, from 0; those of the first prompt come first.
    pub index: usize,
    #[schema(value_type = Option<LogprobsSchema>)]
    pub logprobs: Option<CompletionLogprobs>,
    /// "stop" or "length"; in a stream null until the end.
    pub finish_reason: Option<&'static str>,
}

/// Four arrays of one length, written straight from the scores: `text_offset` (characters), `token_logprobs` (nats),
/// `tokens`, `top_logprobs` (objects text → nats, likeliest first).
pub struct CompletionLogprobs {
    pub model: Arc<Model>,
    pub entries: Vec<Entry>,
}

/// [`CompletionLogprobs`] as it is written, for the documents.
#[derive(ToSchema)]
#[schema(as = CompletionLogprobs)]
#[expect(dead_code, reason = "it only describes")]
struct LogprobsSchema {
    /// Characters (Unicode scalar values) of prompt and completion that stand before each token.
    text_offset: Vec<usize>,
    /// Log-softmax of the raw logits over the whole vocabulary, in nats; null where nothing predicts a token.
    token_logprobs: Vec<Option<f32>>,
    /// The text of each token, broken bytes left out.
    tokens: Vec<String>,
    /// For each token the likeliest ones at its place, text → nats.
    top_logprobs: Vec<Option<std::collections::BTreeMap<String, f32>>>,
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
    fn prompt_entries(&self, output: &PromptOutput) -> Vec<Entry> {
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

    fn entry(&self, output: &TokenOutput) -> Entry {
        Entry {
            token: output.token,
            offset: self.base + output.offset,
            score: output.logprob.clone(),
        }
    }

    /// The choice of this index, from all that was told of it.
    pub fn choice(&self, index: usize, gathered: &Gathered) -> Choice {
        let echoed = Some(self.prompt.text.as_str()).filter(|_| self.echo);
        let mut entries = Vec::new();
        if self.logprobs {
            entries = self.prompt_entries(&gathered.prompt);
            entries.extend(gathered.tokens.iter().map(|output| self.entry(output)));
        }
        Choice {
            text: echoed.into_iter().chain(gathered.text()).collect(),
            index,
            logprobs: self.arrays(entries),
            finish_reason: Some(gathered.reason.as_str()),
        }
    }

    fn arrays(&self, entries: Vec<Entry>) -> Option<CompletionLogprobs> {
        self.logprobs.then(|| CompletionLogprobs {
            model: Arc::clone(&self.model),
            entries,
        })
    }
}

impl Show for (usize, View) {
    type Piece = Choice;

    fn show(&mut self, delta: Delta) -> Vec<Choice> {
        let (index, view) = (self.0, &self.1);
        let piece = |text, logprobs, finish_reason| Choice {
            text,
            index,
            logprobs,
            finish_reason,
        };
        let piece = match delta {
            Delta::Prompt(output) if view.echo => piece(
                view.prompt.text.clone(),
                view.arrays(view.prompt_entries(&output)),
                None,
            ),
            Delta::Token(output) if view.logprobs || !output.text.is_empty() => {
                let entry = view.entry(&output);
                piece(output.text, view.arrays(vec![entry]), None)
            }
            Delta::Finished(reason) => piece(String::new(), None, Some(reason.as_str())),
            _ => return Vec::new(),
        };
        vec![piece]
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
}
