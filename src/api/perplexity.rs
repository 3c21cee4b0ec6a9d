//! `POST /v1/perplexity`: how well a model foretells whole texts, which may be longer than its context.

use std::ops::Range;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::AppState;
use super::answer::{Head, Usage, finite, gather, respond};
use super::body::{JsonObject, counted};
use super::error::ApiError;
use super::fields::Fields;
use super::generate::Entries;
use super::guard::Client;
use super::input::{self, Input};
use super::lora;
use super::models::{Served, model_field};
use super::route::Route;
use super::score::scored;
use crate::engine::Request;
use crate::logprobs::TokenLogprob;
use crate::model::{Adapters, Token, Vocab};

/// Bytes of a text, at most: a tokenizer's time does not always grow as its text does.
const TEXT_BYTES: usize = 4 << 20;

pub fn route() -> Route {
    Route::post(
        "/v1/perplexity",
        post(create),
        "The perplexity of whole texts, window by window.",
        |served| Fields::describe(json!({"text": "a"}), |fields| read(fields, served)),
    )
    .answers::<Perplexities>()
}

/// Reads the request, has its windows scored, and answers.
async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: JsonObject,
) -> Result<Response, ApiError> {
    let (served, prepared) = state.prepare(body, prepare).await?;
    let Prepared {
        texts,
        adapters,
        requests,
    } = prepared;
    let lengths: Vec<usize> = requests.iter().map(|it| it.prompt.len()).collect();
    let generations = served
        .engine
        .submit(client.name, client.arrived, requests)
        .await?;
    let head = Head::new("ppl", "perplexity", &served, (&adapters, false));
    let vocab = served.model.vocab();
    let mut usage = Usage::default();
    let mut windows = generations.into_iter().zip(lengths);
    let mut data = Vec::with_capacity(texts.len());
    for (index, text) in texts.into_iter().enumerate() {
        let mut sums = Sums::default();
        for from in &text.scored_from {
            let Some((generation, length)) = windows.next() else {
                return Err(ApiError::internal());
            };
            // One after the other, so that no more scores are held than need be.
            let prompt = gather(generation).await?.prompt;
            usage.prompt(length, prompt.cached_tokens);
            sums.add(&prompt.logprobs[from - 1..], vocab);
        }
        data.push(sums.answer(index, &text));
    }
    respond(
        Perplexities { head, data, usage },
        &Entries::default(),
        &state,
    )
    .await
}

/// What a client asks for.
struct PerplexityFields {
    texts: Vec<Input>,
    cut: Cut,
    adds_special: bool,
    parses_special: bool,
    adapters: Adapters,
}

/// How a text is cut into windows, and which tokens of each are scored.
#[derive(Debug, Clone, Copy)]
struct Cut {
    /// Tokens of a window.
    window: usize,
    /// Tokens from the beginning of one to that of the next.
    stride: usize,
    /// Tokens that stand before one that is scored, in its window; at least one.
    min_context: usize,
    /// Whether a last window that is shorter counts.
    partial: bool,
}

/// Reads the fields: what the documents say of the route, too, comes from here.
fn read(fields: &mut Fields, served: &Served) -> Result<PerplexityFields, ApiError> {
    /// llama-perplexity's.
    const WINDOW: usize = 512;
    model_field(fields)?;
    let text = fields
        .field(
            "text",
            "The text, or several, as texts or as token ids. A text gets what the model wants before it; ids are taken as \
             they are.",
        )
        .required()
        .value(input::schema)
        .ok_or_else(|| {
            let message = format!("`text` is missing: it must be {}.", input::SHAPES);
            ApiError::field("text", message)
        })?;
    let limits = &served.config.limits;
    let vocabulary = served.model.vocab().len();
    let texts = input::read(text, "text", limits.prompts, vocabulary)?;
    let most = match limits.prompt_tokens {
        0 => served.engine.context_length(),
        most => most.min(served.engine.context_length()),
    };
    // A window of one token scores nothing; where no more are taken, that is said below.
    let most = most.max(2);
    let window = fields
        .field(
            "window",
            "Tokens that the model sees at once: a text is cut into windows of so many.",
        )
        .count_or(2..=most, most.min(WINDOW))?;
    let stride = fields
        .field(
            "stride",
            "A window begins so many tokens after the one before, at most `window`. Smaller ones give each token more \
             context, and take longer. Default: half the window.",
        )
        .count(1..=most)?
        .unwrap_or(window / 2);
    let min_context = fields
        .field(
            "min_context",
            "A token is scored in the first window in which so many others stand before it, fewer than `window`; one of \
             which that is true nowhere is not scored.",
        )
        .count_or(1..=most - 1, 1)?;
    for (name, number, largest) in [
        ("stride", stride, window),
        ("min_context", min_context, window - 1),
    ] {
        if number > largest {
            return Err(ApiError::field(
                name,
                format!(
                    "`{name}` must not be larger than {largest} where `window` is {window}, but it is {number}."
                ),
            ));
        }
    }
    let partial = fields
        .field(
            "partial",
            "Whether the last window counts if the text ends within it.",
        )
        .boolean(true)?;
    let read = PerplexityFields {
        texts,
        cut: Cut {
            window,
            stride,
            min_context,
            partial,
        },
        adds_special: fields
            .field(
                "add_special_tokens",
                "Whether a text gets the tokens that the model wants before it. If tokens begin with the BOS that a model \
                 wants, each window does: it stands in place of the window's first token.",
            )
            .boolean(true)?,
        parses_special: fields
            .field(
                "parse_special",
                "Whether `<|im_start|>` and its like become control tokens.",
            )
            .boolean(true)?,
        adapters: lora::adapters(fields, &served.model)?,
    };
    fields.refuse_others(served.config.server.unknown_fields)?;
    Ok(read)
}

/// A request that can be run.
struct Prepared {
    texts: Vec<Text>,
    adapters: Adapters,
    /// One for each window of each text.
    requests: Vec<Request>,
}

/// A text that is cut into windows.
struct Text {
    tokens: usize,
    /// For each window the place of its first scored token in it.
    scored_from: Vec<usize>,
}

/// Checks a request and makes tokens of its texts: pure work, of some time if one is long.
fn prepare(body: JsonObject, served: &Served) -> Result<Prepared, ApiError> {
    let PerplexityFields {
        texts,
        cut,
        adds_special,
        parses_special,
        adapters,
    } = read(&mut Fields::new(body.0), served)?;
    let vocab = served.model.vocab();
    let most = served.config.limits.prompts;
    // What is held of them until it is added up.
    let mut entries = Entries::default();
    let mut requests = Vec::new();
    let mut cut_texts = Vec::new();
    for (place, input) in texts.into_iter().enumerate() {
        let tokens = match input {
            Input::Tokens(tokens) => tokens,
            Input::Text(text) => {
                check_length(&text, place)?;
                vocab.tokenize(&text, adds_special, parses_special)
            }
        };
        let begin = vocab
            .bos()
            .filter(|&bos| vocab.adds_bos() && tokens.first() == Some(&bos));
        let mut text = Text {
            tokens: tokens.len(),
            scored_from: Vec::new(),
        };
        for (range, from) in cut.windows(tokens.len()) {
            if requests.len() == most {
                return Err(ApiError::field(
                    "text",
                    format!(
                        "`text` comes to more than the {most} windows that one request may have. Send less of it, or ask \
                         for a larger `window` or `stride`."
                    ),
                ));
            }
            let mut window: Arc<[Token]> = tokens[range].into();
            if let (Some(begin), Some(window)) = (begin, Arc::get_mut(&mut window)) {
                window[0] = begin;
            }
            entries.add(window.len(), 0, served)?;
            requests.push(scored(window, 0, &adapters, true));
            text.scored_from.push(from);
        }
        if text.scored_from.is_empty() {
            return Err(ApiError::field(
                "text",
                format!(
                    "The text at place {place} of `text` has {}, none of which is scored: so many as `min_context` must \
                     stand before one, in a window.",
                    counted(text.tokens, "token")
                ),
            ));
        }
        cut_texts.push(text);
    }
    Ok(Prepared {
        texts: cut_texts,
        adapters,
        requests,
    })
}

fn check_length(text: &str, place: usize) -> Result<(), ApiError> {
    if text.len() <= TEXT_BYTES {
        return Ok(());
    }
    Err(ApiError::field(
        "text",
        format!(
            "A text must not be longer than {TEXT_BYTES} bytes, but that at place {place} of `text` has {}.",
            text.len()
        ),
    ))
}

impl Cut {
    /// The windows of so many tokens in which some are scored, each with the place in it of the first of those.
    fn windows(self, tokens: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
        let starts = (0..tokens).step_by(self.stride);
        let mut scored = 0;
        let mut over = false;
        starts
            .map_while(move |start| {
                let end = tokens.min(start + self.window);
                // What follows the window that reaches the end is within it.
                let last = std::mem::replace(&mut over, end == tokens);
                let counts = self.partial || end - start == self.window;
                (!last && counts).then_some(start..end)
            })
            .filter_map(move |window| {
                let from = scored.max(window.start + self.min_context);
                (from < window.end).then(|| {
                    scored = window.end;
                    (window.clone(), from - window.start)
                })
            })
    }
}

/// What the scored tokens of a text add up to.
#[derive(Debug, Default)]
struct Sums {
    scored: usize,
    bytes: usize,
    /// Of logprobs, in nats.
    sum: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, scores: &[Arc<TokenLogprob>], vocab: &Vocab) {
        for score in scores {
            let logprob = f64::from(finite(score.logprob));
            self.scored += 1;
            self.bytes += vocab.literal(score.token).len();
            self.sum += logprob;
            self.squares += logprob * logprob;
        }
    }

    fn answer(&self, index: usize, text: &Text) -> Perplexity {
        let number = self.scored as f64;
        let mean = self.sum / number;
        // JSON has no infinity.
        let perplexity = (-mean).exp().min(f64::MAX);
        let variance = (self.squares / number - mean * mean).max(0.0);
        Perplexity {
            index,
            tokens: text.tokens,
            windows: text.scored_from.len(),
            scored: self.scored,
            bytes: self.bytes,
            sum: self.sum,
            mean,
            perplexity,
            standard_error: (self.scored > 1)
                .then(|| ((variance / (number - 1.0)).sqrt() * perplexity).min(f64::MAX)),
            bits_per_byte: (self.bytes > 0)
                .then(|| -self.sum / std::f64::consts::LN_2 / self.bytes as f64),
        }
    }
}

/// The texts' perplexities, in their order.
#[derive(Debug, Serialize, ToSchema)]
struct Perplexities {
    #[serde(flatten)]
    head: Head,
    data: Vec<Perplexity>,
    usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
struct Perplexity {
    /// The text's place in `text`.
    index: usize,
    /// Of the text, with what was put before it.
    tokens: usize,
    /// Windows that were evaluated.
    windows: usize,
    /// Tokens that were scored.
    scored: usize,
    /// Of the scored tokens' text, control tokens written out.
    bytes: usize,
    /// Of the scored tokens' logprobs, in nats: log-softmax of the raw logits over the whole vocabulary.
    sum: f64,
    /// The sum divided by the tokens that were scored.
    mean: f64,
    /// e to the power of minus the mean.
    perplexity: f64,
    /// Of the perplexity, from the spread of the logprobs, as llama-perplexity gives it behind `+/-`; null for one token.
    standard_error: Option<f64>,
    /// Minus the sum, in bits, divided by `bytes`; null if there are none.
    bits_per_byte: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cut: Cut, tokens: usize, expect: &[(Range<usize>, usize)]) {
        let windows: Vec<_> = cut.windows(tokens).collect();
        assert_eq!(windows, expect, "{cut:?} of {tokens}");
    }

    #[test]
    fn each_token_but_the_first_is_scored_once() {
        let cut = Cut {
            window: 8,
            stride: 4,
            min_context: 1,
            partial: true,
        };
        check(cut, 0, &[]);
        check(cut, 1, &[]);
        check(cut, 2, &[(0..2, 1)]);
        check(cut, 8, &[(0..8, 1)]);
        check(cut, 9, &[(0..8, 1), (4..9, 4)]);
        check(cut, 16, &[(0..8, 1), (4..12, 4), (8..16, 4)]);
        for window in 2..9 {
            for stride in 1..window {
                for tokens in 2..40 {
                    let cut = Cut {
                        window,
                        stride,
                        ..cut
                    };
                    let scored: Vec<usize> = cut
                        .windows(tokens)
                        .flat_map(|(range, from)| range.start + from..range.end)
                        .collect();
                    assert_eq!(scored, (1..tokens).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn windows_side_by_side_are_those_of_llama_perplexity() {
        let cut = Cut {
            window: 512,
            stride: 512,
            min_context: 257,
            partial: false,
        };
        check(cut, 511, &[]);
        check(cut, 1023, &[(0..512, 257)]);
        check(cut, 1024, &[(0..512, 257), (512..1024, 257)]);
        let whole = Cut {
            min_context: 1,
            partial: true,
            ..cut
        };
        // The first token of a window has nothing before it.
        check(whole, 1025, &[(0..512, 1), (512..1024, 1)]);
        check(whole, 1026, &[(0..512, 1), (512..1024, 1), (1024..1026, 1)]);
    }

    #[test]
    fn a_token_without_enough_before_it_is_left_out() {
        let cut = Cut {
            window: 8,
            stride: 4,
            min_context: 6,
            partial: true,
        };
        // 6 and 7, then those that have six before them in the next.
        check(cut, 12, &[(0..8, 6), (4..12, 6)]);
        check(cut, 9, &[(0..8, 6)]);
    }

    #[test]
    fn sums_become_a_perplexity() {
        let sums = Sums {
            scored: 4,
            bytes: 8,
            sum: -4.0,
            squares: 6.0,
        };
        let text = Text {
            tokens: 5,
            scored_from: vec![1],
        };
        let answer = sums.answer(0, &text);
        assert_eq!(answer.perplexity, 1.0_f64.exp());
        let spread = (0.5_f64 / 3.0).sqrt();
        assert!((answer.standard_error.expect("one") - spread * 1.0_f64.exp()).abs() < 1e-12);
        let bits = answer.bits_per_byte.expect("bytes");
        assert!((bits - 0.5 / std::f64::consts::LN_2).abs() < 1e-12);
    }
}
