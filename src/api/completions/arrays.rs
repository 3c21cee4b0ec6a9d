//! The arrays of logprobs: the four of the contract, and those that a request asks for. They are serialized directly from
//! the scores.

use std::borrow::Cow;
use std::sync::Arc;

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::api::gathered::finite;
use crate::api::token_options::OutputOptions;
use crate::engine::ModelInUse;
use crate::logprobs::{Detail, TokenLogprob};
use crate::model::{Token, Vocab};
use crate::sampling::{Mode, Observed};

/// Arrays of equal length: `text_offset` (characters), `token_logprobs` (nats), `tokens`, `top_logprobs` (objects text →
/// nats, most likely first), and optional ones.
pub struct CompletionLogprobs {
    pub model: ModelInUse,
    pub options: Arc<OutputOptions>,
    pub entries: Vec<Entry>,
}

/// [`CompletionLogprobs`] as it is serialized, for the documentation.
#[derive(ToSchema)]
#[schema(as = CompletionLogprobs)]
#[expect(dead_code, reason = "only a schema")]
pub struct LogprobsSchema {
    /// Characters (Unicode scalar values) of prompt and completion before each token.
    text_offset: Vec<usize>,
    /// Log-softmax of the raw logits over the whole vocabulary, in nats; null for a token that nothing predicts, or
    /// before `scored_from`.
    token_logprobs: Vec<Option<f32>>,
    /// The text of each token, without incomplete UTF-8; with `skip_special_tokens: false` also the names of control tokens.
    tokens: Vec<String>,
    /// For each token the most likely tokens at its position, text → nats.
    top_logprobs: Vec<Option<std::collections::BTreeMap<String, f32>>>,
    /// With `logprobs_detail`: the id of each token.
    #[schema(required = false)]
    token_ids: Vec<i32>,
    /// With `logprobs_detail`: the bytes of each token; for a control token, those of its name.
    #[schema(required = false)]
    bytes: Vec<Vec<u8>>,
    /// With `logprobs_detail`: for each token the most likely tokens at its position, most likely first; tokens with equal
    /// text are all listed.
    #[schema(required = false)]
    top: Vec<Option<Vec<Alternative>>>,
    /// With `logprobs_detail`: each token's rank by likelihood, from 1.
    #[schema(required = false)]
    rank: Vec<Option<usize>>,
    /// With `logprobs_detail`: the entropy of the distribution at each position, in nats.
    #[schema(required = false)]
    entropy: Vec<Option<f32>>,
    /// With `logprobs_detail`: the probability of all tokens outside `top`.
    #[schema(required = false)]
    tail_mass: Vec<Option<f32>>,
    /// With `logprob_token_ids` or `logprob_tokens`: for each token the requested tokens, in that order.
    #[schema(required = false)]
    named: Vec<Option<Vec<Alternative>>>,
    /// With `logprobs_mode`: for each token, the total probability, after bias and penalties, of the tokens that the
    /// constraint and `allowed_token_ids` allow.
    #[schema(required = false)]
    kept_mass: Vec<Option<f32>>,
    /// With an array as `logprobs_mode`: the arrays of each mode, without texts, ids and bytes.
    #[schema(required = false)]
    modes:
        std::collections::BTreeMap<String, std::collections::BTreeMap<String, serde_json::Value>>,
}

/// A token of the distribution at a position.
#[derive(Serialize, ToSchema)]
pub struct Alternative {
    pub id: i32,
    /// Its text, without incomplete UTF-8.
    pub token: String,
    pub bytes: Vec<u8>,
    /// In nats.
    pub logprob: f32,
}

impl Alternative {
    fn new(token: Token, logprob: f32, vocab: &Vocab) -> Self {
        Self {
            id: token.0,
            token: vocab.text(token).to_owned(),
            bytes: vocab.literal(token).to_vec(),
            logprob: finite(logprob),
        }
    }
}

/// A token's entry in the arrays.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub token: Token,
    pub offset: usize,
    /// Of the model's own distribution. `None`: nothing predicts the token, as for the first of a prompt.
    pub score: Option<Arc<TokenLogprob>>,
    /// Of a generated token, if the request asks for other distributions.
    pub observed: Option<Arc<Observed>>,
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
        let Self {
            model,
            options,
            entries,
        } = self;
        let vocab = model.vocab();
        let modes = &options.watch.modes;
        let main = Distribution {
            arrays: self,
            place: modes.first().map(|&mode| (0, mode)),
        };
        let detail = options.logprobs.as_ref().is_some_and(|spec| spec.detail);
        let mut arrays = serializer.serialize_struct("CompletionLogprobs", 4)?;
        arrays.serialize_field(
            "text_offset",
            &Seq(|| entries.iter().map(|entry| entry.offset)),
        )?;
        arrays.serialize_field("token_logprobs", &Seq(|| main.logprobs()))?;
        arrays.serialize_field(
            "tokens",
            &Seq(|| entries.iter().map(|entry| self.name(entry.token))),
        )?;
        arrays.serialize_field("top_logprobs", &Seq(|| main.top_logprobs()))?;
        if detail {
            arrays.serialize_field(
                "token_ids",
                &Seq(|| entries.iter().map(|entry| entry.token.0)),
            )?;
            arrays.serialize_field(
                "bytes",
                &Seq(|| entries.iter().map(|entry| vocab.literal(entry.token))),
            )?;
        }
        for (name, array) in main.more() {
            arrays.serialize_field(name, &array)?;
        }
        if !modes.is_empty() {
            let kept = || {
                let observed = entries.iter().map(|entry| entry.observed.as_ref());
                observed.map(|observed| observed.map(|observed| observed.kept_mass))
            };
            arrays.serialize_field("kept_mass", &Seq(kept))?;
        }
        if options.side_by_side {
            arrays.serialize_field("modes", &SideBySide(self))?;
        }
        arrays.end()
    }
}

impl CompletionLogprobs {
    fn name(&self, token: Token) -> Cow<'_, str> {
        self.options.name(token, self.model.vocab())
    }
}

/// The arrays of one distribution.
#[derive(Clone, Copy)]
struct Distribution<'a> {
    arrays: &'a CompletionLogprobs,
    /// The mode, and its index among those that were observed; `None`: the model's own distribution.
    place: Option<(usize, Mode)>,
}

/// An optional array.
#[derive(Serialize)]
#[serde(untagged)]
enum Array {
    Counts(Vec<Option<usize>>),
    Numbers(Vec<Option<f32>>),
    Alternatives(Vec<Option<Vec<Alternative>>>),
}

impl<'a> Distribution<'a> {
    /// The score of each token, if there is one: tokens of the prompt only have the model's own.
    fn scores(self) -> impl Iterator<Item = Option<&'a TokenLogprob>> {
        let entries = self.arrays.entries.iter();
        entries.map(move |entry| match (self.place, &entry.observed) {
            (None | Some((_, Mode::Raw)), _) => entry.score.as_deref(),
            (Some((place, _)), Some(observed)) => observed.modes.get(place),
            (Some(_), None) => None,
        })
    }

    fn logprobs(self) -> impl Iterator<Item = Option<f32>> {
        self.scores()
            .map(|score| score.map(|score| finite(score.logprob)))
    }

    fn top_logprobs(self) -> impl Iterator<Item = Option<Top<'a>>> {
        let arrays = self.arrays;
        self.scores()
            .map(move |score| score.map(|score| Top { score, arrays }))
    }

    /// The arrays beyond the four.
    fn more(self) -> Vec<(&'static str, Array)> {
        let (vocab, options) = (self.arrays.model.vocab(), &self.arrays.options);
        let Some(spec) = &options.logprobs else {
            return Vec::new();
        };
        let mut more = Vec::new();
        if spec.detail {
            let details = || {
                self.scores()
                    .map(|score| score.and_then(|score| score.detail))
            };
            let top = self.scores().map(|score| {
                let top = score?.top.iter();
                Some(
                    top.map(|&(token, logprob)| Alternative::new(token, logprob, vocab))
                        .collect(),
                )
            });
            let ranks = details().map(|detail| Some(detail?.rank));
            let number = |of: fn(Detail) -> f32| {
                Array::Numbers(details().map(|detail| Some(of(detail?))).collect())
            };
            more.push(("top", Array::Alternatives(top.collect())));
            more.push(("rank", Array::Counts(ranks.collect())));
            more.push(("entropy", number(|detail| detail.entropy)));
            more.push(("tail_mass", number(|detail| detail.tail_mass)));
        }
        if !spec.named.is_empty() {
            let named = self.scores().map(|score| {
                let pairs = spec.named.iter().zip(&score?.named);
                Some(
                    pairs
                        .map(|(&token, &logprob)| Alternative::new(token, logprob, vocab))
                        .collect(),
                )
            });
            more.push(("named", Array::Alternatives(named.collect())));
        }
        more
    }
}

/// The arrays of each distribution by its name.
struct SideBySide<'a>(&'a CompletionLogprobs);

impl Serialize for SideBySide<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let modes = self.0.options.watch.modes.iter();
        serializer.collect_map(modes.enumerate().map(|(place, &mode)| {
            let distribution = Distribution {
                arrays: self.0,
                place: Some((place, mode)),
            };
            (mode.as_str(), OfOne(distribution))
        }))
    }
}

struct OfOne<'a>(Distribution<'a>);

impl Serialize for OfOne<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut arrays = serializer.serialize_map(None)?;
        arrays.serialize_entry("token_logprobs", &Seq(|| self.0.logprobs()))?;
        arrays.serialize_entry("top_logprobs", &Seq(|| self.0.top_logprobs()))?;
        for (name, array) in self.0.more() {
            arrays.serialize_entry(name, &array)?;
        }
        arrays.end()
    }
}

/// An iterator that is serialized as an array.
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

/// Text → logprob. Among tokens with equal text the most likely counts, but the chosen token always does; it comes last if
/// it is not among the most likely.
struct Top<'a> {
    score: &'a TokenLogprob,
    arrays: &'a CompletionLogprobs,
}

impl Serialize for Top<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pairs = top_pairs(self.score, |token| self.arrays.name(token));
        let mut object = serializer.serialize_map(Some(pairs.len()))?;
        for (text, logprob) in pairs {
            object.serialize_entry(&text, &finite(logprob))?;
        }
        object.end()
    }
}

fn top_pairs<'a>(
    score: &TokenLogprob,
    text: impl Fn(Token) -> Cow<'a, str>,
) -> Vec<(Cow<'a, str>, f32)> {
    let mut pairs: Vec<(Cow<str>, f32)> = Vec::with_capacity(score.top.len() + 1);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logprobs::tests::scored;

    #[test]
    fn among_tokens_with_equal_text_the_likeliest_or_chosen_counts() {
        let texts = ["a", "", "", "b"];
        let check = |chosen: i32, logprob: f32, top: &[(i32, f32)], expect: &[(&str, f32)]| {
            let score = scored(chosen, logprob, top);
            let pairs = top_pairs(&score, |token| texts[token.index()].into());
            let pairs: Vec<(&str, f32)> = pairs.iter().map(|(text, x)| (&**text, *x)).collect();
            assert_eq!(pairs, expect);
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
