//! `POST /infill`: what stands between a prefix and a suffix, for editors.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde_json::{Map, Value, json};

use super::completion::ANSWERS;
use super::request::{Form, LlamaRequest};
use super::run::respond;
use crate::api::body::JsonObject;
use crate::api::client::Client;
use crate::api::completions::CompletionRequest;
use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong};
use crate::api::input::Input;
use crate::api::nested::Nested;
use crate::api::run::Kind;
use crate::api::served::Served;
use crate::api::state::{AppState, Route};
use crate::model::{Added, Fim, Token, Vocab};

const KIND: Kind = Kind {
    path: "/infill",
    id: "infill",
    object: "infill",
};

/// Maximum number of bytes of a text of which only a part is used, because all of it is tokenized.
const TEXT_BYTES: usize = 1 << 20;
/// Maximum number of tokens around the cursor: llama-server's default batch.
const AROUND: usize = 2048;
/// The names that llama-server gives to the repository, and to the file that is edited.
const REPOSITORY: &str = "myproject\n";
const FILE: &str = "filename\n";
/// Before a text of `input_extra`, for models that have no token for files.
const SNIPPET: &str = "\n\n--- snippet ---\n\n";

pub fn route() -> Route {
    let about =
        "Fills in the text between a prefix and a suffix, as llama-server does for editors.";
    Route::post(KIND.path, post(create), about, |served| {
        let sample = json!({"input_prefix": "", "input_suffix": ""});
        Fields::describe(sample, |fields| Infill::read(fields, served))
    })
    .answers_with(ANSWERS)
}

async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: JsonObject,
) -> Result<Response, ApiError> {
    let read =
        |body: Map<String, Value>, served: &Served| -> Result<(CompletionRequest, Form), _> {
            let infill = Infill::read(&mut Fields::new(body), served)?;
            let tokens = infill.context.tokens(served)?;
            infill.request.with(vec![Input::Tokens(tokens)], served)
        };
    respond(state, client, body, &KIND, read).await
}

/// A body, checked.
struct Infill {
    context: Context,
    request: LlamaRequest,
}

/// The texts around the gap.
struct Context {
    prefix: String,
    /// Follows the prefix, and is tokenized by itself: what stands before the cursor on its line.
    line: String,
    suffix: String,
    extra: Vec<Chunk>,
}

/// A text of another file, or of another part of this one.
struct Chunk {
    text: String,
    filename: String,
}

impl Infill {
    fn read(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        let required = |name: &'static str, text: Option<String>| {
            let missing =
                || ApiError::field(name, format!("`{name}` is missing: it must be a string."));
            let text = text.ok_or_else(missing)?;
            within(&text, name).map(|()| text)
        };
        let prefix = fields
            .field(
                "input_prefix",
                "The text before the gap. Of a long one its last part is used.",
            )
            .required()
            .string()?;
        let suffix = fields
            .field(
                "input_suffix",
                "The text after the gap. Of a long one its first part is used.",
            )
            .required()
            .string()?;
        let line = fields
            .field(
                "prompt",
                "More text before the gap, after `input_prefix`: what stands on the cursor's line.",
            )
            .string()?
            .unwrap_or_default();
        within(&line, "prompt")?;
        Ok(Self {
            context: Context {
                prefix: required("input_prefix", prefix)?,
                suffix: required("input_suffix", suffix)?,
                line,
                extra: extra(fields)?,
            },
            request: {
                let request = LlamaRequest::read(fields, served)?;
                fields.refuse_others(served.config.server.unknown_fields)?;
                request
            },
        })
    }
}

fn within(text: &str, name: &str) -> Result<(), ApiError> {
    if text.len() <= TEXT_BYTES {
        return Ok(());
    }
    Err(ApiError::field(
        name,
        format!(
            "`{name}` must not have more than {TEXT_BYTES} bytes, but it has {}.",
            text.len()
        ),
    ))
}

fn extra(fields: &mut Fields) -> Result<Vec<Chunk>, ApiError> {
    const NAME: &str = "input_extra";
    let value = fields
        .field(
            NAME,
            "Texts from elsewhere, each with the name of its file; the last ones that have room are used.",
        )
        .value(|| {
            json!({"type": "array", "items": {"type": "object", "required": ["text"], "additionalProperties": false,
                "properties": {"text": {"type": "string"}, "filename": {"type": ["string", "null"]},
                    "time": {"description": "No effect."}}}})
        });
    let items = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong(NAME, "an array of objects with `text`", &other)),
    };
    let chunks = items.into_iter().enumerate().map(|(number, item)| {
        let place = format!("{NAME}[{number}]");
        let allowed = "an object with `text` and perhaps `filename`";
        let mut chunk = Nested::within(NAME, place, allowed, item)?;
        let (text, filename) = (chunk.string("text")?, chunk.string("filename")?);
        let text = text.ok_or_else(|| {
            let message = format!("`{}.text` is missing: it must be a string.", chunk.place);
            ApiError::field(NAME, message)
        })?;
        within(&text, NAME)?;
        let filename = filename.unwrap_or_else(|| "tmp".to_owned());
        within(&filename, NAME)?;
        // When an editor took it.
        chunk.take("time");
        chunk.end_with("`text` and `filename`", fields);
        Ok(Chunk { text, filename })
    });
    chunks.collect()
}

impl Context {
    /// The prompt, in the form that the model was trained with: repository, files, prefix, suffix, middle. How much of each
    /// text is used depends on the server's limits alone, and the prefix is shortened in steps: so the prompt begins with the
    /// same tokens, which are cached, while somebody types.
    fn tokens(&self, served: &Served) -> Result<Vec<Token>, ApiError> {
        let vocab = served.model.vocab();
        let fim = vocab.fim().ok_or_else(|| {
            ApiError::field(
                "model",
                "Filling in needs a model with fill-in-the-middle tokens, and this one has none.",
            )
        })?;
        let room = match served.config.limits.prompt_tokens {
            0 => served.engine.context_length(),
            limit => limit.min(served.engine.context_length()),
        };
        let around = AROUND.min(room / 2);
        // An eighth is left for what is generated.
        let elsewhere = room - around - room / 8;
        let mut tokens: Vec<Token> = Vec::new();
        tokens.extend(vocab.bos().filter(|_| vocab.adds_bos()));
        if let Some(repository) = fim.repository {
            tokens.push(repository);
            tokens.extend(plain(REPOSITORY, vocab));
        }
        tokens.extend(self.elsewhere(elsewhere, fim, vocab));
        if let Some(file) = fim.file {
            tokens.push(file);
            tokens.extend(plain(FILE, vocab));
        }
        let line = if self.prefix.is_empty() {
            plain(&self.line, vocab)
        } else {
            vocab.tokenize_without_space(&self.line, false)
        };
        tokens.push(fim.prefix);
        tokens.extend(last(plain(&self.prefix, vocab), around / 4 * 3));
        let suffix = (around / 4).saturating_sub(2 + line.len());
        tokens.extend(line);
        tokens.push(fim.suffix);
        // It follows what is to be filled in, so it does not begin a text.
        let following = vocab.tokenize_without_space(&self.suffix, false);
        tokens.extend(following.into_iter().take(suffix));
        tokens.push(fim.middle);
        Ok(tokens)
    }

    /// The last of the other texts that together have at most so many tokens.
    fn elsewhere(&self, most: usize, fim: Fim, vocab: &Vocab) -> Vec<Token> {
        let mut chunks = Vec::new();
        let mut left = most;
        for chunk in self.extra.iter().rev() {
            if chunk.least_tokens(fim, vocab) > left {
                break;
            }
            let tokens = chunk.tokens(fim, vocab);
            if tokens.len() > left {
                break;
            }
            left -= tokens.len();
            chunks.push(tokens);
        }
        chunks.into_iter().rev().flatten().collect()
    }
}

impl Chunk {
    /// So many tokens it has at least, which is quick to tell.
    fn least_tokens(&self, fim: Fim, vocab: &Vocab) -> usize {
        let filename = fim.file.map_or(0, |_| vocab.least_tokens(&self.filename));
        filename + vocab.least_tokens(&self.text)
    }

    fn tokens(&self, fim: Fim, vocab: &Vocab) -> Vec<Token> {
        let mut tokens = Vec::new();
        match fim.file {
            Some(file) => {
                tokens.push(file);
                tokens.extend(plain(&format!("{}\n", self.filename), vocab));
            }
            None => tokens.extend(plain(SNIPPET, vocab)),
        }
        tokens.extend(plain(&self.text, vocab));
        tokens
    }
}

/// Texts are only texts: the names of control tokens in them are not recognized.
fn plain(text: &str, vocab: &Vocab) -> Vec<Token> {
    vocab.tokenize(text, Added::Nothing, false)
}

/// The last tokens, at most this many. What is dropped of a longer text is a whole number of steps.
fn last(mut tokens: Vec<Token>, most: usize) -> Vec<Token> {
    let excess = tokens.len().saturating_sub(most);
    let dropped = excess.next_multiple_of((most / 6).max(1));
    tokens.drain(..dropped.min(tokens.len()));
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_prefix_begins_at_the_same_token_while_it_grows() {
        let check = |length: i32, first: i32| {
            let tokens: Vec<Token> = (0..length).map(Token).collect();
            let left = last(tokens, 60);
            assert_eq!(left.first(), Some(&Token(first)), "{length}");
            assert_eq!(left.last(), Some(&Token(length - 1)));
        };
        check(60, 0);
        for length in 61..=70 {
            check(length, 10);
        }
        check(71, 20);
        assert_eq!(last(vec![Token(1), Token(2)], 1), [Token(2)]);
    }
}
