//! The sequences of a request, and where in them each choice is.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::answer::{Place, Planned, PlannedChoice};
use super::request::{Item, ScoreRequest, Stem, of_item};
use crate::api::bounds::{Entries, Room};
use crate::api::chat;
use crate::api::error::ApiError;
use crate::api::fields::Fields;
use crate::api::input::Input;
use crate::api::run::Prepared;
use crate::api::scoring;
use crate::api::served::Served;
use crate::engine::{PromptLogprobs, Utf8Decoder};
use crate::logprobs::LogprobSpec;
use crate::model::{Added, MarkedText, Token, Vocab};

/// Maximum number of bytes of all stems, each joined with each of its choices, that are tokenized.
const JOINED_BYTES: usize = 32 << 20;

/// What an answer needs to know about its request.
#[derive(Default)]
pub struct Asked {
    pub items: Vec<Planned>,
    /// Tokens of each sequence.
    pub lengths: Vec<usize>,
}

/// Checks a request and tokenizes it: CPU work, of milliseconds if it is large.
pub fn prepare(body: Map<String, Value>, served: &Served) -> Result<Prepared<Asked>, ApiError> {
    let ScoreRequest {
        items,
        adds_special,
        adapters,
        cache,
        within,
    } = ScoreRequest::read(&mut Fields::new(body), served)?;
    let number: usize = items.iter().map(|item| item.choices.len()).sum();
    let most = served.config.limits.prompts;
    if number > most {
        return Err(ApiError::field(
            within.unwrap_or("choices"),
            format!(
                "The `items` have {number} choices together, but one request may have at most {most}."
            ),
        ));
    }
    let mut plan = Plan {
        served,
        // The end of a text does not belong to a choice's score.
        added: if adds_special {
            Added::Before
        } else {
            Added::Nothing
        },
        sequences: Vec::new(),
        known: HashMap::new(),
        entries: Entries::default(),
        joined_bytes: 0,
    };
    let planned = items.into_iter().enumerate().map(|(place, item)| {
        let planned = plan.item(item);
        planned.map_err(|error| match within {
            // A request that is too large is not the fault of one item.
            Some(_) if error.param.is_some() => of_item(place, error),
            _ => error,
        })
    });
    let items = planned.collect::<Result<_, _>>()?;
    let lengths = plan.sequences.iter().map(|(tokens, _)| tokens.len());
    let lengths = lengths.collect();
    let sequences = plan.sequences.into_iter().map(|(prompt, from)| {
        // With the most likely token at each position, to tell whether it is the same one.
        let spec = LogprobSpec::top(1);
        scoring::sequence(prompt, PromptLogprobs { spec, from }, &adapters, cache)
    });
    Ok(Prepared {
        sequences: sequences.collect(),
        entries: plan.entries,
        adapters,
        exact: false,
        receipt: None,
        asked: Asked { items, lengths },
    })
}

/// The sequences of a request, collected item by item. Equal sequences are scored once, such as choices after a neutral stem
/// that all items have.
struct Plan<'a> {
    served: &'a Served,
    added: Added,
    /// Each with the first token that belongs to a choice.
    sequences: Vec<(Arc<[Token]>, usize)>,
    /// The index of each sequence.
    known: HashMap<Arc<[Token]>, usize>,
    entries: Entries,
    joined_bytes: usize,
}

/// A stem as tokens.
struct Tokens {
    tokens: Vec<Token>,
    /// The text that was tokenized.
    text: Option<MarkedText>,
    /// For a text: the tokens that choices are scored after, without those of whitespace at its end.
    kept: Vec<Token>,
    /// The token that makes an empty stem evaluable.
    prefix: Option<Token>,
    /// The special tokens that the text gets.
    added: Added,
}

impl Plan<'_> {
    fn item(&mut self, item: Item) -> Result<Planned, ApiError> {
        let (param, stem) = match item.stem {
            Stem::Input(input) => ("stem", self.stem(input, "stem")),
            Stem::Conversation(mut conversation) => {
                conversation.adds_special = self.added != Added::Nothing;
                let rendered = chat::render(*conversation, self.served)?;
                let stem = self.stem_text(rendered.text, rendered.added, "messages");
                ("messages", stem)
            }
        };
        let stem = stem?;
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

    /// Tokenizes a stem; one that cannot fit is rejected first.
    fn stem(&self, stem: Input, param: &'static str) -> Result<Tokens, ApiError> {
        match stem {
            Input::Tokens(tokens) => {
                self.room(param)
                    .check_length(tokens.len(), true, self.served)?;
                Ok(Tokens {
                    tokens,
                    text: None,
                    kept: Vec::new(),
                    prefix: None,
                    added: Added::Nothing,
                })
            }
            Input::Text(text) => self.stem_text(text.into(), self.added, param),
        }
    }

    fn stem_text(
        &self,
        text: MarkedText,
        added: Added,
        param: &'static str,
    ) -> Result<Tokens, ApiError> {
        let (vocab, room) = (self.vocab(), self.room(param));
        room.check_length(vocab.least_tokens(text.as_str()), false, self.served)?;
        let mut tokens = vocab.tokenize_marked(&text, added);
        room.check_length(tokens.len(), true, self.served)?;
        // Some choices merge with whitespace at the stem's end, so it belongs to all of them, as in lm-evaluation-harness.
        // The end of a template is part of the stem.
        let trimmed = text.as_str().trim_end();
        let mut kept = if param == "messages" || trimmed.len() == text.as_str().len() {
            tokens.clone()
        } else {
            vocab.tokenize(trimmed, added, true)
        };
        // Something must predict the first token; the harness uses the same.
        let begin = vocab.bos().or(vocab.eos()).unwrap_or(Token(0));
        let prefix = kept.is_empty().then_some(begin);
        kept.extend(prefix);
        tokens.splice(..0, prefix);
        Ok(Tokens {
            tokens,
            text: Some(text),
            kept,
            prefix,
            added,
        })
    }

    /// Adds a choice after a stem, which is from the field `param`.
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
                let mut joined = before.clone();
                joined.push_str(text);
                self.joined_bytes += joined.as_str().len();
                if self.joined_bytes > JOINED_BYTES {
                    return Err(ApiError::body(format!(
                        "The stems, each joined with each of its choices, have more than {JOINED_BYTES} bytes. Send fewer \
                         items or choices at once.",
                    )));
                }
                let least = vocab.least_tokens(joined.as_str());
                room.check_length(least, false, self.served)?;
                let mut tokens: Vec<Token> = stem.prefix.into_iter().collect();
                tokens.extend(vocab.tokenize_marked(&joined, stem.added));
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
                        tokens.extend(vocab.tokenize(text, Added::Nothing, true));
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
        let scored = tokens.len() - from;
        Ok(Place {
            sequence: self.add(tokens, from)?,
            tokens: scored,
        })
    }

    fn add(&mut self, tokens: Vec<Token>, from: usize) -> Result<usize, ApiError> {
        if let Some(&known) = self.known.get(&tokens[..]) {
            let first = &mut self.sequences[known].1;
            *first = from.min(*first);
            return Ok(known);
        }
        self.entries.add(tokens.len(), 0, self.served)?;
        let tokens: Arc<[Token]> = tokens.into();
        let number = self.sequences.len();
        self.sequences.push((Arc::clone(&tokens), from));
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
