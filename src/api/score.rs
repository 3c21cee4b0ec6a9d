//! `POST /v1/score`: how likely each of some choices is to follow a stem.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::AppState;
use super::answer::{Head, Usage, finite, gather, respond};
use super::body::JsonObject;
use super::chat::{self, Conversation};
use super::error::ApiError;
use super::fields::{Fields, wrong};
use super::generate::{Entries, Room};
use super::guard::Client;
use super::input::{self, Input};
use super::lora;
use super::models::{Served, model_field};
use super::route::Route;
use crate::engine::{Request, Rows, Utf8Decoder};
use crate::logprobs::{LogprobSpec, TokenLogprob};
use crate::model::{Adapters, Token, Vocab};
use crate::sampling::{SamplingParams, Watch};

/// Bytes of all stems, each before each of its choices, as they are made into tokens.
const JOINED_BYTES: usize = 32 << 20;

pub fn route() -> Route {
    Route::post(
        "/v1/score",
        post(create),
        "Scores choices behind a stem: which of these answers does the model hold likely?",
        |served| {
            let sample = json!({"stem": "a", "choices": ["b"]});
            Fields::describe(sample, |fields| read(fields, served))
        },
    )
    .answers::<Scores>()
}

/// Reads the request, has its sequences scored, and answers.
async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: JsonObject,
) -> Result<Response, ApiError> {
    let (served, prepared) = state.prepare(body, prepare).await?;
    let Prepared {
        items,
        adapters,
        requests,
        entries,
    } = prepared;
    let lengths: Vec<usize> = requests.iter().map(|it| it.prompt.len()).collect();
    let generations = served
        .engine
        .submit(client.name, client.arrived, requests)
        .await?;
    let head = Head::new("score", "score", &served, (&adapters, false));
    let mut usage = Usage::default();
    let mut scored = Vec::with_capacity(lengths.len());
    for (generation, length) in generations.into_iter().zip(lengths) {
        let prompt = gather(generation).await?.prompt;
        usage.prompt(length, prompt.cached_tokens);
        scored.push(prompt.logprobs);
    }
    let vocab = served.model.vocab();
    let items = items.into_iter().enumerate();
    let scores = Scores {
        head,
        data: items
            .map(|(index, item)| item.answer(index, &scored, vocab))
            .collect(),
        usage,
    };
    respond(scores, &entries, &state).await
}

/// A sequence whose tokens are scored and not continued.
pub fn scored(prompt: Arc<[Token]>, top: usize, adapters: &Adapters, cache: bool) -> Request {
    Request {
        prompt,
        adapters: adapters.clone(),
        max_tokens: 0,
        kept: Arc::default(),
        given: None,
        logprobs: None,
        prompt_logprobs: Some(LogprobSpec::top(top)),
        rows: Rows::None,
        watch: Watch::default(),
        sampling: SamplingParams::default(),
        stop: Arc::new([]),
        include_stop: false,
        cache_prompt: cache,
        exact: false,
        streamed: false,
        deliver_end_token: false,
    }
}

/// What a client asks for.
struct ScoreFields {
    items: Vec<Item>,
    /// Whether stems that are texts get what the model wants before them.
    adds_special: bool,
    adapters: Adapters,
    cache: bool,
    /// The field that the items came in: `items`, or none if there is but one.
    within: Option<&'static str>,
}

/// A stem and its choices.
struct Item {
    stem: Stem,
    choices: Vec<Input>,
    neutral: Option<Input>,
}

enum Stem {
    Input(Input),
    Conversation(Box<Conversation>),
}

/// The fields of an item, as they came.
struct ItemFields {
    stem: Option<Value>,
    messages: Option<Value>,
    choices: Option<Value>,
    neutral: Option<Value>,
}

/// What holds for the conversations of all items.
struct Chat {
    kwargs: Option<Value>,
    continues: bool,
}

/// Reads the fields: what the documents say of the route, too, comes from here.
fn read(fields: &mut Fields, served: &Served) -> Result<ScoreFields, ApiError> {
    const WHAT: &str = "with `stem` or `messages`, and with `choices`";
    model_field(fields)?;
    let one = ItemFields::read(fields);
    let items = fields
        .field(
            "items",
            "Several at once, instead of `stem`, `messages` and `choices`: each with its own, and with its own `neutral` if \
             that is to be another.",
        )
        .value(|| {
            let text = input::one_schema();
            json!({"type": "array", "minItems": 1, "items": {
                "type": "object",
                "required": ["choices"],
                "properties": {
                    "stem": text,
                    "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                    "choices": {"type": "array", "minItems": 1, "items": text},
                    "neutral": text,
                },
            }})
        });
    let chat = Chat {
        kwargs: fields
            .field(
                "chat_template_kwargs",
                "What else is in the scope of the template that writes `messages` out, as `{\"enable_thinking\": false}`.",
            )
            .value(|| json!({"type": "object"})),
        continues: fields
            .field(
                "continue_final_message",
                "The choices go on with the last of `messages`, instead of answering it.",
            )
            .boolean(false)?,
    };
    let adds_special = fields
        .field(
            "add_special_tokens",
            "Whether a stem that is a text gets the tokens that the model wants before it, as its BOS.",
        )
        .boolean(true)?;
    let cache = fields
        .field(
            "cache_prompt",
            "Whether what is known of a sequence's beginning may be used again, which is what evaluates a stem once. \
             `false`: each is evaluated whole.",
        )
        .boolean(true)?;
    let adapters = lora::adapters(fields, &served.model)?;
    let how = served.config.server.unknown_fields;
    fields.refuse_others(how)?;
    let asked = |items, within| ScoreFields {
        items,
        adds_special,
        adapters,
        cache,
        within,
    };
    let items = match items {
        None => return Ok(asked(vec![one.check(None, &chat, served)?], None)),
        Some(Value::Array(items)) if !items.is_empty() => items,
        Some(other) => {
            let allowed = format!("an array of objects {WHAT}, at least one");
            return Err(wrong("items", &allowed, &other));
        }
    };
    if let Some(name) = one.given() {
        return Err(ApiError::field(
            name,
            format!("`{name}` and `items` exclude each other: each item has its own."),
        ));
    }
    check_number("items", items.len(), served)?;
    let checked = items.into_iter().enumerate().map(|(place, item)| {
        let Value::Object(item) = item else {
            return Err(ApiError {
                param: Some("items".to_owned()),
                ..wrong(
                    &format!("items[{place}]"),
                    &format!("an object {WHAT}"),
                    &item,
                )
            });
        };
        let mut fields = Fields::new(item);
        let item = ItemFields::read(&mut fields);
        fields
            .refuse_others(how)
            .and_then(|()| item.check(one.neutral.as_ref(), &chat, served))
            .map_err(|error| of_item(place, error))
    });
    Ok(asked(checked.collect::<Result<_, _>>()?, Some("items")))
}

/// The same error, about an item.
fn of_item(place: usize, error: ApiError) -> ApiError {
    ApiError {
        message: format!("Of `items[{place}]`: {}", error.message),
        param: Some("items".to_owned()),
        ..error
    }
}

/// 400 if there are more of these than a request may have prompts.
fn check_number(name: &'static str, number: usize, served: &Served) -> Result<(), ApiError> {
    let most = served.config.limits.prompts;
    if number <= most {
        return Ok(());
    }
    Err(ApiError::field(
        name,
        format!("`{name}` must hold at most {most} {name}, but it holds {number}."),
    ))
}

impl ItemFields {
    fn read(fields: &mut Fields) -> Self {
        Self {
            stem: fields
                .field(
                    "stem",
                    "What the choices follow, as a text or as token ids. A text gets what the model wants before it, and its \
                     control tokens are read; ids are taken as they are. Of an empty one nothing is left but the token that \
                     texts begin with: BOS, or else EOS.",
                )
                .value(input::one_schema),
            messages: fields
                .field(
                    "messages",
                    "A conversation instead of a stem, as for chat completions: written out by the model's template, up to \
                     where an answer begins.",
                )
                .value(|| json!({"type": "array", "minItems": 1, "items": {"type": "object"}})),
            choices: fields
                .field(
                    "choices",
                    "What may follow: texts, which are made into tokens together with the stem, or token ids. Blanks \
                     between the two count to the choice.",
                )
                .value(|| json!({"type": "array", "minItems": 1, "items": input::one_schema()})),
            neutral: fields
                .field(
                    "neutral",
                    "A second stem, one that tells nothing, as `\"Answer:\"`: what a choice scores behind it is taken off in \
                     `corrected`. For all items that have none of their own.",
                )
                .value(input::one_schema),
        }
    }

    /// The name of one that is there and that stands in items, too.
    fn given(&self) -> Option<&'static str> {
        [
            ("stem", &self.stem),
            ("messages", &self.messages),
            ("choices", &self.choices),
        ]
        .into_iter()
        .find(|(_, value)| value.is_some())
        .map(|(name, _)| name)
    }

    fn check(
        self,
        neutral: Option<&Value>,
        chat: &Chat,
        served: &Served,
    ) -> Result<Item, ApiError> {
        let vocabulary = served.model.vocab().len();
        let stem = match (self.stem, self.messages) {
            (Some(stem), None) => Stem::Input(input::one(stem, "stem", "stem", vocabulary)?),
            (None, Some(messages)) => Stem::Conversation(Box::new(chat.read(messages)?)),
            (None, None) => {
                return Err(ApiError::field(
                    "stem",
                    "Of `stem` and `messages`, one is to be sent (or `items`).",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(ApiError::field(
                    "messages",
                    "Of `stem` and `messages`, one is to be sent, not both.",
                ));
            }
        };
        let choices = match self.choices {
            Some(Value::Array(choices)) if !choices.is_empty() => choices,
            other => {
                let allowed = "an array of strings or of arrays of token ids, at least one";
                return Err(match other {
                    None => ApiError::field(
                        "choices",
                        format!("`choices` is missing: it must be {allowed}."),
                    ),
                    Some(other) => wrong("choices", allowed, &other),
                });
            }
        };
        check_number("choices", choices.len(), served)?;
        let choices = choices.into_iter().enumerate().map(|(place, choice)| {
            let place = format!("choices[{place}]");
            match input::one(choice, &place, "choices", vocabulary)? {
                Input::Text(text) if text.is_empty() => Err(ApiError::field(
                    "choices",
                    format!("`{place}` is empty: there is nothing to score."),
                )),
                choice => Ok(choice),
            }
        });
        Ok(Item {
            stem,
            choices: choices.collect::<Result<_, _>>()?,
            neutral: self
                .neutral
                .or(neutral.cloned())
                .map(|neutral| input::one(neutral, "neutral", "neutral", vocabulary))
                .transpose()?,
        })
    }
}

impl Chat {
    /// A conversation of these messages.
    fn read(&self, messages: Value) -> Result<Conversation, ApiError> {
        let mut fields = Map::new();
        fields.insert("messages".to_owned(), messages);
        if let Some(kwargs) = &self.kwargs {
            fields.insert("chat_template_kwargs".to_owned(), kwargs.clone());
        }
        let continues = self.continues.into();
        fields.insert("continue_final_message".to_owned(), continues);
        Conversation::parse(&mut Fields::new(fields))
    }
}

/// A request that can be run.
struct Prepared {
    items: Vec<Planned>,
    adapters: Adapters,
    /// One for each sequence.
    requests: Vec<Request>,
    /// What the answer may come to.
    entries: Entries,
}

/// Checks a request and makes tokens of it: pure work, of milliseconds if there is much.
fn prepare(body: JsonObject, served: &Served) -> Result<Prepared, ApiError> {
    let ScoreFields {
        items,
        adds_special,
        adapters,
        cache,
        within,
    } = read(&mut Fields::new(body.0), served)?;
    let number: usize = items.iter().map(|item| item.choices.len()).sum();
    if number > served.config.limits.prompts {
        return Err(ApiError::field(
            within.unwrap_or("choices"),
            format!(
                "The `items` have {number} choices together, which is more than the {} that one request may have.",
                served.config.limits.prompts
            ),
        ));
    }
    let mut plan = Plan {
        served,
        adds_special,
        sequences: Vec::new(),
        known: HashMap::new(),
        entries: Entries::default(),
        joined_bytes: 0,
    };
    let planned = items.into_iter().enumerate().map(|(place, item)| {
        let planned = plan.item(item);
        planned.map_err(|error| match within {
            // An answer that is too large is not any one item's fault.
            Some(_) if error.param.is_some() => of_item(place, error),
            _ => error,
        })
    });
    let items = planned.collect::<Result<_, _>>()?;
    let Plan {
        sequences, entries, ..
    } = plan;
    Ok(Prepared {
        items,
        requests: sequences
            .into_iter()
            // The likeliest token beside each, to tell whether it is the one.
            .map(|prompt| scored(prompt, 1, &adapters, cache))
            .collect(),
        adapters,
        entries,
    })
}

/// The sequences of a request, as they are found. One that is asked for several times is scored once, as choices behind a
/// neutral stem are which come with each item.
struct Plan<'a> {
    served: &'a Served,
    adds_special: bool,
    sequences: Vec<Arc<[Token]>>,
    /// Where each stands among them.
    known: HashMap<Arc<[Token]>, usize>,
    entries: Entries,
    joined_bytes: usize,
}

/// A stem as tokens.
struct Tokens {
    tokens: Vec<Token>,
    /// The text that they were made of.
    text: Option<String>,
    /// Of a text: the tokens that choices are scored behind, without those of blanks at its end.
    kept: Vec<Token>,
    /// The token that was put there because nothing else was.
    prefix: Option<Token>,
}

/// Which sequence holds a choice, and its first token in there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    sequence: usize,
    from: usize,
}

/// An item whose sequences are known.
struct Planned {
    stem_tokens: usize,
    choices: Vec<PlannedChoice>,
}

struct PlannedChoice {
    text: String,
    bytes: usize,
    place: Place,
    /// Behind the neutral stem.
    unconditional: Option<Place>,
}

impl Plan<'_> {
    fn item(&mut self, item: Item) -> Result<Planned, ApiError> {
        let (param, stem) = match item.stem {
            Stem::Input(input) => ("stem", input),
            Stem::Conversation(conversation) => {
                let text = chat::render(*conversation, self.served)?.text;
                ("messages", Input::Text(text))
            }
        };
        let stem = self.stem(stem, param)?;
        let neutral = item.neutral.map(|neutral| self.stem(neutral, "neutral"));
        let neutral = neutral.transpose()?;
        let choices = item.choices.iter().enumerate().map(|(number, choice)| {
            let place = self.choice(&stem, choice, number, param)?;
            let unconditional = neutral
                .as_ref()
                .map(|neutral| self.choice(neutral, choice, number, "neutral"));
            let (text, bytes) = self.shown(choice);
            Ok(PlannedChoice {
                text,
                bytes,
                place,
                unconditional: unconditional.transpose()?,
            })
        });
        Ok(Planned {
            choices: choices.collect::<Result<_, ApiError>>()?,
            stem_tokens: stem.tokens.len(),
        })
    }

    fn vocab(&self) -> &Vocab {
        self.served.model.vocab()
    }

    fn room(&self, param: &'static str) -> Room {
        Room {
            param,
            max_tokens: Some(0),
        }
    }

    /// A stem's tokens; what cannot fit is refused before they are made of it.
    fn stem(&self, stem: Input, param: &'static str) -> Result<Tokens, ApiError> {
        let (vocab, room) = (self.vocab(), self.room(param));
        let text = match stem {
            Input::Tokens(tokens) => {
                room.check_length(tokens.len(), true, self.served)?;
                return Ok(Tokens {
                    tokens,
                    text: None,
                    kept: Vec::new(),
                    prefix: None,
                });
            }
            Input::Text(text) => text,
        };
        room.check_length(vocab.least_tokens(&text), false, self.served)?;
        let mut tokens = vocab.tokenize(&text, self.adds_special, true);
        room.check_length(tokens.len(), true, self.served)?;
        // Some choices join with a blank, and others do not: so it counts to all, as in lm-evaluation-harness. What a
        // template ends with is no such blank.
        let trimmed = text.trim_end();
        let mut kept = if param == "messages" || trimmed.len() == text.len() {
            tokens.clone()
        } else {
            vocab.tokenize(trimmed, self.adds_special, true)
        };
        // Something must predict the first token: what the harness puts there.
        let begin = vocab.bos().or(vocab.eos()).unwrap_or(Token(0));
        let prefix = kept.is_empty().then_some(begin);
        kept.extend(prefix);
        tokens.splice(..0, prefix);
        Ok(Tokens {
            tokens,
            text: Some(text),
            kept,
            prefix,
        })
    }

    /// Has a choice scored behind a stem, which came in the field `param`.
    fn choice(
        &mut self,
        stem: &Tokens,
        choice: &Input,
        number: usize,
        param: &'static str,
    ) -> Result<Place, ApiError> {
        let (vocab, room) = (self.served.model.vocab(), self.room(param));
        let (tokens, from) = match (&stem.text, choice) {
            (Some(before), Input::Text(text)) => {
                let joined = [before.as_str(), text].concat();
                self.joined_bytes += joined.len();
                if self.joined_bytes > JOINED_BYTES {
                    return Err(ApiError::body(format!(
                        "The stems, each before each of its choices, come to more than {JOINED_BYTES} bytes. Ask for fewer \
                         items or choices at once.",
                    )));
                }
                room.check_length(vocab.least_tokens(&joined), false, self.served)?;
                let mut tokens: Vec<Token> = stem.prefix.into_iter().collect();
                tokens.extend(vocab.tokenize(&joined, self.adds_special, true));
                let pairs = tokens.iter().zip(&stem.kept);
                let from = pairs.take_while(|(one, other)| one == other).count();
                (tokens, from)
            }
            (_, choice) => {
                let mut tokens = stem.tokens.clone();
                match choice {
                    Input::Tokens(ids) => tokens.extend(ids),
                    Input::Text(text) => {
                        let least = tokens.len() + vocab.least_tokens(text);
                        room.check_length(least, false, self.served)?;
                        tokens.extend(vocab.tokenize(text, false, true));
                    }
                }
                (tokens, stem.tokens.len())
            }
        };
        if from == tokens.len() {
            return Err(ApiError::field(
                "choices",
                format!(
                    "`choices[{number}]` adds no token to `{param}`: there is nothing to score."
                ),
            ));
        }
        if from == 0 {
            return Err(ApiError::field(
                "choices",
                format!(
                    "`choices[{number}]` begins within the first token of `{param}`, which nothing predicts. Send a longer \
                     `{param}`, or token ids.",
                ),
            ));
        }
        room.after(tokens.len(), self.served)?;
        let sequence = self.add(tokens)?;
        Ok(Place { sequence, from })
    }

    fn add(&mut self, tokens: Vec<Token>) -> Result<usize, ApiError> {
        if let Some(&known) = self.known.get(&tokens[..]) {
            return Ok(known);
        }
        self.entries.add(tokens.len(), 0, self.served)?;
        let tokens: Arc<[Token]> = tokens.into();
        let number = self.sequences.len();
        self.sequences.push(Arc::clone(&tokens));
        self.known.insert(tokens, number);
        Ok(number)
    }

    /// The text of a choice, and its bytes.
    fn shown(&self, choice: &Input) -> (String, usize) {
        match choice {
            Input::Text(text) => (text.clone(), text.len()),
            Input::Tokens(ids) => {
                let mut decoder = Utf8Decoder::new();
                let literal = |id: &Token| self.vocab().literal(*id);
                let text = ids.iter().map(|id| decoder.push(literal(id))).collect();
                (text, ids.iter().map(|id| literal(id).len()).sum())
            }
        }
    }
}

impl Planned {
    /// `scored` has the scores of each sequence, of all its tokens but the first.
    fn answer(self, index: usize, scored: &[Vec<Arc<TokenLogprob>>], vocab: &Vocab) -> ScoredItem {
        let of = |place: Place| &scored[place.sequence][place.from - 1..];
        let sums: Vec<f64> = self.choices.iter().map(|it| sum(of(it.place))).collect();
        let probabilities = softmax(&sums);
        let choices: Vec<ScoredChoice> = (0..)
            .zip(self.choices)
            .map(|(number, choice)| {
                let (scores, sum_of) = (of(choice.place), sums[number]);
                let unconditional = choice.unconditional.map(|place| sum(of(place)));
                let per = |parts: usize| (parts > 0).then(|| (sum_of / parts as f64) as f32);
                ScoredChoice {
                    index: number,
                    tokens: scores
                        .iter()
                        .map(|it| vocab.text(it.token).to_owned())
                        .collect(),
                    token_ids: scores.iter().map(|score| score.token.0).collect(),
                    token_logprobs: scores.iter().map(|score| finite(score.logprob)).collect(),
                    sum: sum_of as f32,
                    mean: (sum_of / scores.len() as f64) as f32,
                    per_byte: per(choice.bytes),
                    per_character: per(choice.text.chars().count()),
                    unconditional_sum: unconditional.map(|sum| sum as f32),
                    corrected: unconditional.map(|sum| (sum_of - sum) as f32),
                    is_greedy: scores.iter().all(|score| is_likeliest(score)),
                    probability: probabilities[number] as f32,
                    text: choice.text,
                }
            })
            .collect();
        ScoredItem {
            index,
            stem_tokens: self.stem_tokens,
            best: Best::of(&choices),
            choices,
        }
    }
}

/// In nats; what JSON cannot say counts as it is written.
fn sum(scores: &[Arc<TokenLogprob>]) -> f64 {
    let logprobs = scores.iter().map(|score| finite(score.logprob));
    logprobs.map(f64::from).sum()
}

/// Whether the token is the one that temperature 0 takes.
fn is_likeliest(score: &TokenLogprob) -> bool {
    score
        .top
        .first()
        .is_some_and(|(token, _)| *token == score.token)
}

fn softmax(sums: &[f64]) -> Vec<f64> {
    let most = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> = sums.iter().map(|sum| (sum - most).exp()).collect();
    let all: f64 = shares.iter().sum();
    shares.into_iter().map(|share| share / all).collect()
}

/// What the choices scored, item by item.
#[derive(Debug, Serialize, ToSchema)]
struct Scores {
    #[serde(flatten)]
    head: Head,
    data: Vec<ScoredItem>,
    usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
struct ScoredItem {
    /// The item's place in `items`.
    index: usize,
    /// Tokens of the stem by itself.
    stem_tokens: usize,
    choices: Vec<ScoredChoice>,
    best: Best,
}

/// Logprobs are in nats.
#[derive(Debug, Serialize, ToSchema)]
struct ScoredChoice {
    /// Its place in `choices`.
    index: usize,
    /// The choice as it was sent; of ids the text.
    text: String,
    /// The text of each token that is scored, broken bytes left out.
    tokens: Vec<String>,
    token_ids: Vec<i32>,
    /// Log-softmax of the raw logits over the whole vocabulary.
    token_logprobs: Vec<f32>,
    /// Of the tokens' logprobs: the logarithm of the choice's probability behind the stem.
    sum: f32,
    /// The sum divided by the tokens that were scored.
    mean: f32,
    /// The sum divided by the choice's bytes in UTF-8; null if it has no text.
    per_byte: Option<f32>,
    /// The sum divided by the choice's characters (Unicode scalar values); null if it has no text.
    per_character: Option<f32>,
    /// With `neutral`: the sum behind that.
    #[serde(skip_serializing_if = "Option::is_none")]
    unconditional_sum: Option<f32>,
    /// With `neutral`: `sum` less `unconditional_sum`, how much likelier the stem makes the choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    corrected: Option<f32>,
    /// Whether each token is the likeliest at its place.
    is_greedy: bool,
    /// The softmax of the sums over the item's choices.
    probability: f32,
}

/// For each way to compare them, the place of the best choice; of equals the first.
#[derive(Debug, Serialize, ToSchema)]
struct Best {
    /// As lm-evaluation-harness's `acc`.
    sum: usize,
    mean: usize,
    /// As its `acc_bytes`.
    per_byte: usize,
    /// As its `acc_norm`.
    per_character: usize,
    /// With `neutral`, as its `acc_mutual_info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    corrected: Option<usize>,
}

impl Best {
    fn of(choices: &[ScoredChoice]) -> Self {
        let best = |value: fn(&ScoredChoice) -> Option<f32>| {
            let values = choices
                .iter()
                .map(|it| value(it).unwrap_or(f32::NEG_INFINITY));
            let mut best = (0, f32::NEG_INFINITY);
            for (place, value) in values.enumerate() {
                if value > best.1 {
                    best = (place, value);
                }
            }
            best.0
        };
        let corrects = choices.iter().any(|choice| choice.corrected.is_some());
        Self {
            sum: best(|choice| Some(choice.sum)),
            mean: best(|choice| Some(choice.mean)),
            per_byte: best(|choice| choice.per_byte),
            per_character: best(|choice| choice.per_character),
            corrected: corrects.then(|| best(|choice| choice.corrected)),
        }
    }
}
