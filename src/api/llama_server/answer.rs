//! A completion in llama-server's shape.

use std::sync::Arc;

use serde::Serialize;
use serde::ser::{Error, Serializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::request::Form;
use super::settings;
use crate::api::completions::{self, Prompt};
use crate::api::gathered::{Gathered, finite};
use crate::api::served::Served;
use crate::engine::{FinishReason, ModelInUse, Report, Request, Stops, TokenOutput};
use crate::logprobs::TokenLogprob;
use crate::model::{Token, Vocab};

/// What is sent back.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum LlamaAnswer {
    /// Of one prompt with one choice.
    One(Box<LlamaCompletion>),
    /// Of several, in order.
    Several(Vec<LlamaCompletion>),
    /// With `response_fields`: these.
    #[schema(value_type = Object)]
    Parts(Parts),
    /// With `response_fields` and several completions.
    #[schema(value_type = Vec<Object>)]
    PartsOfSeveral(Vec<Parts>),
}

/// A completion, or the last event of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct LlamaCompletion {
    /// The number of the completion, from 0; those of the first prompt come first.
    index: usize,
    /// The text; empty in a stream, whose events had it.
    content: String,
    /// With `return_tokens`: its tokens.
    tokens: Vec<i32>,
    /// As in the request; -1 without one.
    id_slot: i64,
    /// Always true.
    stop: bool,
    /// The name that the client used.
    model: String,
    /// Generated tokens.
    tokens_predicted: usize,
    /// Tokens of the prompt, cached ones included.
    tokens_evaluated: usize,
    /// The sampling parameters and some more of the request.
    #[schema(value_type = Object)]
    generation_settings: Settings,
    /// The text of the prompt's tokens, control tokens by their names.
    prompt: String,
    /// Whether the text has a line break.
    has_new_line: bool,
    /// Whether the text ended because the context was full.
    truncated: bool,
    /// "eos", "word" (a stop string) or "limit" (`n_predict`, the context, `t_max_predict_ms` or `n_indent`).
    stop_type: &'static str,
    /// The stop string, or empty.
    stopping_word: String,
    /// Tokens of prompt and completion in the context.
    tokens_cached: usize,
    timings: Timings,
    /// With `n_probs`: an entry for each generated token. In a stream its events have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_probabilities: Option<Vec<TokenProbability>>,
}

/// The same for all completions of a request.
#[derive(Debug, Clone)]
struct Settings(Arc<Map<String, Value>>);

/// Any event of a stream but the last.
#[derive(Debug, Serialize, ToSchema)]
pub struct LlamaPiece {
    /// The number of the completion.
    index: usize,
    /// The next piece of its text.
    content: String,
    /// The token that it comes from.
    tokens: Vec<i32>,
    /// Always false.
    stop: bool,
    id_slot: i64,
    /// Generated tokens so far.
    tokens_predicted: usize,
    tokens_evaluated: usize,
    /// With `n_probs`: the entry of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_probabilities: Option<Vec<TokenProbability>>,
}

/// An event of a stream.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum LlamaEvent {
    Piece(LlamaPiece),
    Last(Box<LlamaCompletion>),
    /// With `response_fields`: these, of the last event.
    #[schema(value_type = Object)]
    Parts(Parts),
}

/// The parts of a completion that these paths name.
#[derive(Debug)]
pub struct Parts {
    completion: Box<LlamaCompletion>,
    paths: Arc<[String]>,
}

/// How long it took. Times per token and tokens per second are 0 where nothing was measured.
#[derive(Debug, Serialize, ToSchema)]
struct Timings {
    /// Tokens of the prompt that came from the cache.
    cache_n: usize,
    /// Tokens of the prompt that were evaluated.
    prompt_n: usize,
    /// The time to the first token, without that in the queue.
    prompt_ms: f64,
    prompt_per_token_ms: f64,
    prompt_per_second: f64,
    /// Generated tokens.
    predicted_n: usize,
    /// The time from the first token to the last.
    predicted_ms: f64,
    predicted_per_token_ms: f64,
    predicted_per_second: f64,
}

/// A token and its probability: as `logprob`, the natural logarithm of the model's own, or with `post_sampling_probs` as
/// `prob`.
#[derive(Debug, Serialize, ToSchema)]
struct TokenProbability {
    id: i32,
    /// Its text, without incomplete UTF-8.
    token: String,
    bytes: Vec<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprob: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prob: Option<f32>,
    /// The most likely tokens at its position, most likely first.
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<LikelyToken>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_probs: Option<Vec<LikelyToken>>,
}

/// A token that is likely at a position.
#[derive(Debug, Serialize, ToSchema)]
struct LikelyToken {
    id: i32,
    /// Its text, without incomplete UTF-8.
    token: String,
    bytes: Vec<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprob: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prob: Option<f32>,
}

/// What the answer needs to know about its request.
pub struct Asked {
    pub completion: completions::Asked,
    pub view: Arc<View>,
}

/// How completions are shown.
pub struct View {
    model: ModelInUse,
    name: String,
    context_length: usize,
    stops: Arc<Stops>,
    settings: Settings,
    form: Form,
}

/// What is known of a completion besides its text and tokens.
#[derive(Debug, Default)]
pub struct Progress {
    pub cached: usize,
    pub generated: usize,
    pub has_new_line: bool,
    pub report: Report,
}

impl View {
    /// Of a request whose first sequence this is.
    pub fn new(first: &Request, form: Form, served: &Served) -> Self {
        Self {
            model: served.model.clone(),
            name: served.name.clone(),
            context_length: served.engine.context_length(),
            stops: Arc::clone(&first.stop),
            settings: Settings(Arc::new(settings::of_request(first, &form))),
            form,
        }
    }

    /// The answer with these completions.
    pub fn answer(&self, completions: Vec<LlamaCompletion>) -> LlamaAnswer {
        let Some(paths) = &self.form.response_fields else {
            return match <[_; 1]>::try_from(completions) {
                Ok([only]) => LlamaAnswer::One(Box::new(only)),
                Err(several) => LlamaAnswer::Several(several),
            };
        };
        let parts = completions.into_iter().map(|completion| Parts {
            completion: Box::new(completion),
            paths: Arc::clone(paths),
        });
        match <[_; 1]>::try_from(parts.collect::<Vec<_>>()) {
            Ok([only]) => LlamaAnswer::Parts(only),
            Err(several) => LlamaAnswer::PartsOfSeveral(several),
        }
    }

    /// The last event of a stream.
    pub fn last_event(
        &self,
        index: usize,
        prompt: &Prompt,
        progress: &Progress,
        reason: FinishReason,
    ) -> LlamaEvent {
        let completion = Box::new(self.end(index, prompt, progress, reason));
        match &self.form.response_fields {
            None => LlamaEvent::Last(completion),
            Some(paths) => LlamaEvent::Parts(Parts {
                completion,
                paths: Arc::clone(paths),
            }),
        }
    }

    /// A whole completion.
    pub fn completion(
        &self,
        index: usize,
        prompt: &Prompt,
        gathered: &Gathered,
    ) -> LlamaCompletion {
        let content: String = gathered.text().collect();
        let progress = Progress {
            cached: gathered.prompt.cached_tokens,
            generated: gathered.tokens.len(),
            has_new_line: content.contains('\n'),
            report: gathered.report,
        };
        let tokens = gathered.tokens.iter();
        let probabilities = tokens.clone().map(|output| self.probability(output));
        LlamaCompletion {
            content,
            tokens: if self.form.return_tokens {
                tokens.map(|output| output.token.0).collect()
            } else {
                Vec::new()
            },
            completion_probabilities: (self.form.n_probs > 0)
                .then(|| probabilities.flatten().collect()),
            ..self.end(index, prompt, &progress, gathered.reason)
        }
    }

    /// A completion without its text and tokens.
    fn end(
        &self,
        index: usize,
        prompt: &Prompt,
        progress: &Progress,
        reason: FinishReason,
    ) -> LlamaCompletion {
        let Progress {
            generated, report, ..
        } = *progress;
        let evaluated = prompt.tokens.len();
        let word = report.stop_string;
        let word = word.and_then(|index| self.stops.strings().get(index));
        LlamaCompletion {
            index,
            content: String::new(),
            tokens: Vec::new(),
            id_slot: self.form.id_slot,
            stop: true,
            model: self.name.clone(),
            tokens_predicted: generated,
            tokens_evaluated: evaluated,
            generation_settings: self.settings.clone(),
            prompt: literal(&prompt.tokens, self.model.vocab()),
            has_new_line: progress.has_new_line,
            truncated: reason == FinishReason::Length
                && evaluated + generated >= self.context_length,
            stop_type: match (reason, word) {
                (FinishReason::Length, _) => "limit",
                (FinishReason::Stop, Some(_)) => "word",
                (FinishReason::Stop, None) => "eos",
            },
            stopping_word: word.cloned().unwrap_or_default(),
            tokens_cached: evaluated + generated,
            timings: Timings::of(progress, evaluated),
            completion_probabilities: None,
        }
    }

    /// An event for a token, after which so many are generated.
    pub fn piece(
        &self,
        index: usize,
        prompt: &Prompt,
        generated: usize,
        output: &TokenOutput,
    ) -> LlamaEvent {
        LlamaEvent::Piece(LlamaPiece {
            index,
            content: output.text.clone(),
            tokens: vec![output.token.0],
            stop: false,
            id_slot: self.form.id_slot,
            tokens_predicted: generated,
            tokens_evaluated: prompt.tokens.len(),
            completion_probabilities: (self.form.n_probs > 0)
                .then(|| self.probability(output).into_iter().collect()),
        })
    }

    fn probability(&self, output: &TokenOutput) -> Option<TokenProbability> {
        let post_sampling = self.form.post_sampling;
        let score: &TokenLogprob = if post_sampling {
            output.details.observed.as_ref()?.modes.first()?
        } else {
            output.details.logprob.as_deref()?
        };
        let vocab = self.model.vocab();
        let top = score.top.iter().take(self.form.n_probs);
        let top = top.map(|&(token, logprob)| LikelyToken {
            id: token.0,
            token: vocab.text(token).to_owned(),
            bytes: vocab.literal(token).to_vec(),
            logprob: (!post_sampling).then(|| finite(logprob)),
            prob: post_sampling.then(|| logprob.exp()),
        });
        let top = || top.collect::<Vec<_>>();
        let (token, logprob) = (output.token, score.logprob);
        let mut probability = TokenProbability {
            id: token.0,
            token: vocab.text(token).to_owned(),
            bytes: vocab.literal(token).to_vec(),
            logprob: None,
            prob: None,
            top_logprobs: None,
            top_probs: None,
        };
        if post_sampling {
            probability.prob = Some(logprob.exp());
            probability.top_probs = Some(top());
        } else {
            probability.logprob = Some(finite(logprob));
            probability.top_logprobs = Some(top());
        }
        Some(probability)
    }
}

impl Timings {
    fn of(progress: &Progress, prompt_tokens: usize) -> Self {
        let Progress {
            cached,
            generated,
            report,
            ..
        } = *progress;
        let evaluated = prompt_tokens.saturating_sub(cached);
        let (prompt_ms, predicted_ms) = (
            report.prompt_time.as_secs_f64() * 1e3,
            report.generation_time.as_secs_f64() * 1e3,
        );
        // The first token is a part of the time before it.
        let further = generated.saturating_sub(1);
        Self {
            cache_n: cached,
            prompt_n: evaluated,
            prompt_ms,
            prompt_per_token_ms: ratio(prompt_ms, evaluated as f64),
            prompt_per_second: ratio(evaluated as f64 * 1e3, prompt_ms),
            predicted_n: generated,
            predicted_ms,
            predicted_per_token_ms: ratio(predicted_ms, further as f64),
            predicted_per_second: ratio(further as f64 * 1e3, predicted_ms),
        }
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

/// The text of tokens, with the names of control tokens.
fn literal(tokens: &[Token], vocab: &Vocab) -> String {
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|&token| vocab.literal(token))
        .copied()
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Serialize for Parts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let whole = serde_json::to_value(&self.completion).map_err(S::Error::custom)?;
        let part = |path: &str| {
            let mut names = path.split('/');
            names.try_fold(&whole, |value, name| value.as_object()?.get(name))
        };
        let paths = self.paths.iter();
        serializer.collect_map(paths.filter_map(|path| Some((path, part(path)?))))
    }
}
