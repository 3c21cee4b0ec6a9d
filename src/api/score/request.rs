//! The body of `POST /v1/score`, read and checked.

use serde_json::{Map, Value, json};

use crate::api::adapters;
use crate::api::chat::Conversation;
use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong, wrong_in};
use crate::api::input::{self, Input};
use crate::api::served::{Served, model_field};
use crate::model::Adapters;

/// A request as its sender wrote it, checked.
pub struct ScoreRequest {
    pub items: Vec<Item>,
    /// Whether stems that are texts get the special tokens that the model expects before them.
    pub adds_special: bool,
    pub adapters: Adapters,
    pub cache: bool,
    /// The field with the items: `items`, or none if there is only one.
    pub within: Option<&'static str>,
}

/// A stem and its choices.
pub struct Item {
    pub stem: Stem,
    pub choices: Vec<Input>,
    pub neutral: Option<Input>,
}

pub enum Stem {
    Input(Input),
    Conversation(Box<Conversation>),
}

/// The fields of an item, not checked yet.
struct ItemFields {
    stem: Option<Value>,
    messages: Option<Value>,
    choices: Option<Value>,
    neutral: Option<Value>,
}

/// Options for the conversations of all items.
struct Chat {
    kwargs: Option<Value>,
    parse_special: Option<Value>,
    continues: bool,
}

/// What an item is, for messages.
const ITEM: &str = "with `stem` or `messages`, and with `choices`";

impl ScoreRequest {
    /// Reads the fields. The documentation of the route is generated from here, too.
    pub fn read(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        model_field(fields)?;
        let one = ItemFields::read(fields);
        let items = items(fields);
        let chat = Chat::read(fields)?;
        let adds_special = fields
            .field(
                "add_special_tokens",
                "Whether a stem that is a string gets the special tokens that the model expects before it, such as BOS; and a \
                 conversation, if its template does not write them.",
            )
            .boolean(true)?;
        let cache = fields
            .field(
                "cache_prompt",
                "Whether cached prefixes are used, so that each stem is evaluated once. `false`: every sequence is evaluated \
                 completely.",
            )
            .boolean(true)?;
        let adapters = adapters::read(fields, served)?;
        let within = items.is_some().then_some("items");
        let items = match items {
            None => vec![one.check(None, &chat, fields, served)?],
            Some(items) => check_items(items, &one, &chat, fields, served)?,
        };
        fields.refuse_others(served.config.server.unknown_fields)?;
        Ok(Self {
            items,
            adds_special,
            adapters,
            cache,
            within,
        })
    }
}

fn items(fields: &mut Fields) -> Option<Value> {
    fields
        .field(
            "items",
            "Several items at once, each with its own `stem` or `messages`, `choices`, and optionally `neutral`.",
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
        })
}

/// Checks the value of `items`; `outside` are the same fields outside of it.
fn check_items(
    items: Value,
    outside: &ItemFields,
    chat: &Chat,
    fields: &mut Fields,
    served: &Served,
) -> Result<Vec<Item>, ApiError> {
    let items = match items {
        Value::Array(items) if !items.is_empty() => items,
        other => {
            let allowed = format!("an array of objects {ITEM}, at least one");
            return Err(wrong("items", &allowed, &other));
        }
    };
    if let Some(name) = outside.given() {
        return Err(ApiError::field(
            name,
            format!("`{name}` cannot be combined with `items`: each item has its own."),
        ));
    }
    check_number("items", items.len(), served)?;
    let checked = items.into_iter().enumerate().map(|(place, item)| {
        let Value::Object(item) = item else {
            let allowed = format!("an object {ITEM}");
            return Err(wrong_in(
                "items",
                &format!("items[{place}]"),
                &allowed,
                &item,
            ));
        };
        let mut own = Fields::new(item);
        let item = ItemFields::read(&mut own)
            .check(outside.neutral.as_ref(), chat, &mut own, served)
            .map_err(|error| of_item(place, error))?;
        fields.take_unknown(&format!("items[{place}]"), &own);
        Ok(item)
    });
    checked.collect()
}

/// The same error, about an item.
pub fn of_item(place: usize, error: ApiError) -> ApiError {
    ApiError {
        message: format!("In `items[{place}]`: {}", error.message),
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
        format!("`{name}` must have at most {most} {name}, but it has {number}."),
    ))
}

impl ItemFields {
    fn read(fields: &mut Fields) -> Self {
        Self {
            stem: fields
                .field(
                    "stem",
                    "What the choices follow, as a string or as token ids. A string gets the special tokens that the model \
                     expects before it, and control tokens in it are recognized; ids are used as they are. An empty stem \
                     becomes one token: BOS, or else EOS.",
                )
                .value(input::one_schema),
            messages: fields
                .field(
                    "messages",
                    "A conversation instead of a stem, as for chat completions: the model's template renders it up to the \
                     start of an answer.",
                )
                .value(|| json!({"type": "array", "minItems": 1, "items": {"type": "object"}})),
            choices: fields
                .field(
                    "choices",
                    "The choices: strings, which are tokenized together with the stem, or token ids. Whitespace between \
                     stem and choice belongs to the choice.",
                )
                .value(|| json!({"type": "array", "minItems": 1, "items": input::one_schema()})),
            neutral: fields
                .field(
                    "neutral",
                    "A second, uninformative stem such as `\"Answer:\"`: `corrected` is a choice's score less its score after \
                     this stem. Applies to all items without their own.",
                )
                .value(input::one_schema),
        }
    }

    /// The name of a field that is given and that items have themselves.
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
        fields: &mut Fields,
        served: &Served,
    ) -> Result<Item, ApiError> {
        let vocabulary = served.model.vocab().len();
        let stem = match (self.stem, self.messages) {
            (Some(stem), None) => Stem::Input(input::one(stem, "stem", "stem", vocabulary)?),
            (None, Some(messages)) => {
                Stem::Conversation(Box::new(chat.conversation(messages, fields)?))
            }
            (None, None) => {
                return Err(ApiError::field(
                    "stem",
                    "Send either `stem`, `messages` or `items`.",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(ApiError::field(
                    "messages",
                    "Send either `stem` or `messages`, not both.",
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
    fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(Self {
            kwargs: fields
                .field(
                    "chat_template_kwargs",
                    "Additional variables for the template that renders `messages`, such as `{\"enable_thinking\": false}`.",
                )
                .value(|| json!({"type": "object"})),
            parse_special: fields
                .field(
                    "parse_special",
                    "Whether names of control tokens in `messages` become control tokens; otherwise they are text. Default: \
                     the setting `model.chat_parse_special`.",
                )
                .value(|| json!({"type": "boolean"})),
            continues: fields
                .field(
                    "continue_final_message",
                    "Whether the choices continue the last of `messages`, instead of answering it.",
                )
                .boolean(false)?,
        })
    }

    /// The conversation with these messages, which are a field of `fields`.
    fn conversation(&self, messages: Value, fields: &mut Fields) -> Result<Conversation, ApiError> {
        let mut chat = Map::new();
        chat.insert("messages".to_owned(), messages);
        if let Some(kwargs) = &self.kwargs {
            chat.insert("chat_template_kwargs".to_owned(), kwargs.clone());
        }
        if let Some(parse_special) = &self.parse_special {
            chat.insert("parse_special".to_owned(), parse_special.clone());
        }
        let continues = self.continues.into();
        chat.insert("continue_final_message".to_owned(), continues);
        let mut chat = Fields::new(chat);
        let conversation = Conversation::parse(&mut chat)?;
        fields.take_nested(chat);
        Ok(conversation)
    }
}
