//! What a request asks for about its tokens, beyond their text: the fields for it that all routes with log-probabilities have,
//! and how large the output can be. `api::completions` reads those that only it has.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::{Fields, strings, wrong};
use super::generate::ids;
use super::prompt_logprobs::shown;
use super::served::Served;
use super::wording::{counted, cut, describe};
use crate::engine::{PromptLogprobs, Rows};
use crate::logprobs::LogprobSpec;
use crate::model::{Added, Token, Vocab};
use crate::sampling::{Mode, Watch};

/// Approximate maximum number of stages that a trace has, to bound its size.
const STAGES: usize = 12;

/// What a request asks for about its tokens.
#[derive(Debug, Clone, Default)]
pub struct OutputOptions {
    /// `logprobs` and its details; `None`: no arrays.
    pub logprobs: Option<LogprobSpec>,
    pub watch: Watch,
    /// Whether there are arrays for each mode; else there is one mode, which the four arrays have.
    pub side_by_side: bool,
    pub rows: Option<WholeRows>,
    /// Whether each choice has the ids of its tokens.
    pub token_ids: bool,
    /// Whether tokens are named by their ids.
    pub ids_for_texts: bool,
    /// Whether control tokens have their names as text.
    pub shows_control: bool,
    /// How many of the most likely tokens the answer has for each token of the prompt, in vLLM's form; `None`: it has none.
    pub prompt_logprobs: Option<usize>,
}

/// Whole rows of logits.
#[derive(Debug, Clone)]
pub struct WholeRows {
    pub number: Number,
    /// `None`: those of all tokens in the answer.
    pub positions: Option<Arc<[usize]>>,
}

/// The number format of a logit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    Float32,
    Float16,
}

impl Number {
    /// numpy's name of it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 => 2,
        }
    }
}

impl OutputOptions {
    /// Reads the fields that chats have, too. `top`: how many of the most likely tokens each position has, if the request
    /// asks for log-probabilities, for which `least` is enough.
    pub fn of_tokens(
        fields: &mut Fields,
        served: &Served,
        top: Option<usize>,
        least: &str,
    ) -> Result<Self, ApiError> {
        let detail = fields
            .field(
                "logprobs_detail",
                "With `logprobs`: ids and bytes of the tokens, the most likely tokens with theirs, and for each token its \
                 rank, the distribution's entropy and the mass outside the most likely tokens.",
            )
            .boolean(false)?;
        let named = named(fields, served)?;
        let (modes, side_by_side) = modes(fields)?;
        for (name, wanted) in [
            ("logprobs_detail", detail),
            ("logprob_token_ids", !named.is_empty()),
            ("logprobs_mode", side_by_side || !modes.is_empty()),
        ] {
            if wanted && top.is_none() {
                return Err(ApiError::field(
                    name,
                    format!(
                        "`{name}` needs `logprobs`, which this request does not have. {least} is enough."
                    ),
                ));
            }
        }
        Ok(Self {
            logprobs: top.map(|top| LogprobSpec {
                top,
                detail,
                named: named.into(),
            }),
            watch: Watch {
                modes: modes.into(),
                trace: None,
            },
            side_by_side,
            token_ids: fields
                .field(
                    "return_token_ids",
                    "Whether the answer has token ids: `token_ids` of each choice, `prompt_token_ids` of the prompt.",
                )
                .boolean(false)?,
            ids_for_texts: fields
                .field(
                    "return_tokens_as_token_ids",
                    "With `logprobs`: whether tokens appear as \"token_id:ID\" instead of their text.",
                )
                .boolean(false)?,
            prompt_logprobs: fields
                .field(
                    "prompt_logprobs",
                    "Returns the log-probabilities of the prompt's tokens as vLLM does, and of this many of the most likely \
                     tokens at each position. 0: of the tokens only. Not with `stream`.",
                )
                .count(0..=served.config.limits.logprobs)?,
            ..Self::default()
        })
    }

    /// Rejects what does not go together with the other fields.
    pub fn check(&self, stream: bool, echo: bool) -> Result<(), ApiError> {
        const NAME: &str = "prompt_logprobs";
        let Some(top) = self.prompt_logprobs else {
            return Ok(());
        };
        if stream {
            return Err(ApiError::field(
                NAME,
                "`prompt_logprobs` is not allowed with `stream`, as in vLLM.",
            ));
        }
        // The mass outside fewer tokens is another sum.
        let shown = self.logprobs.as_ref().filter(|spec| echo && spec.detail);
        match shown {
            Some(spec) if top > spec.top => Err(ApiError::field(
                NAME,
                format!(
                    "`prompt_logprobs` must not be above `logprobs` with `echo` and `logprobs_detail`, but it is {top} and \
                     `logprobs` is {}.",
                    spec.top
                ),
            )),
            _ => Ok(()),
        }
    }

    /// How a prompt must be scored: from a token on if its log-probabilities are shown, or not at all if only rows of its
    /// tokens are asked for.
    pub fn prompt_logprobs(
        &self,
        echo: bool,
        tokens: usize,
        from: usize,
    ) -> Option<PromptLogprobs> {
        let echoed = self.logprobs.clone().filter(|_| echo);
        if let Some(top) = self.prompt_logprobs {
            let echoed = echoed.unwrap_or_default();
            let spec = LogprobSpec {
                top: top.max(echoed.top),
                // For the rank.
                detail: true,
                ..echoed
            };
            return Some(PromptLogprobs { spec, from });
        }
        if let Some(spec) = echoed {
            return Some(PromptLogprobs { spec, from });
        }
        let positions = self.rows.as_ref()?.positions.as_ref();
        let some = match positions {
            None => echo,
            Some(positions) => positions
                .iter()
                .any(|position| (1..tokens).contains(position)),
        };
        some.then(|| PromptLogprobs {
            spec: LogprobSpec::top(0),
            from: tokens,
        })
    }

    /// The rows of a sequence whose prompt has this many tokens.
    pub fn rows_of(&self, echo: bool, tokens: usize) -> Rows {
        match &self.rows {
            None => Rows::None,
            Some(WholeRows {
                positions: Some(positions),
                ..
            }) => Rows::These(Arc::clone(positions)),
            Some(_) if echo => Rows::From(1),
            Some(_) => Rows::From(tokens),
        }
    }

    /// What a token is called in the answer.
    pub fn name<'a>(&self, token: Token, vocab: &'a Vocab) -> Cow<'a, str> {
        if self.ids_for_texts {
            Cow::Owned(format!("token_id:{}", token.0))
        } else if self.shows_control {
            shown(token, vocab)
        } else {
            Cow::Borrowed(vocab.text(token))
        }
    }

    /// The first position of `logits`, if positions are given.
    pub fn first_row(&self) -> Option<usize> {
        self.rows.as_ref()?.positions.as_ref()?.first().copied()
    }

    /// Whether there is output for each token, even for one without text.
    pub fn of_each_token(&self) -> bool {
        self.logprobs.is_some()
            || self.token_ids
            || self.watch.trace.is_some()
            || self.rows.is_some()
    }

    /// The entries of the answer for each token, in addition to the token itself.
    pub fn alternatives(&self) -> usize {
        let logprobs = self.logprobs.as_ref().map_or(0, |spec| {
            let modes = if self.side_by_side {
                self.watch.modes.len()
            } else {
                0
            };
            (spec.top + spec.named.len()) * (1 + modes) * if spec.detail { 2 } else { 1 }
        });
        logprobs + self.watch.trace.map_or(0, |top| STAGES * (2 * top + 1))
    }

    /// Maximum number of bytes of whole rows of a sequence with this many tokens.
    pub fn row_bytes(&self, echoed: usize, generated: usize, vocab: &Vocab) -> usize {
        let Some(rows) = &self.rows else { return 0 };
        let count = match &rows.positions {
            Some(positions) => positions.len(),
            None => echoed + generated,
        };
        count.saturating_mul(vocab.len() * rows.number.bytes())
    }
}

/// The tokens asked for by id, then those by text.
fn named(fields: &mut Fields, served: &Served) -> Result<Vec<Token>, ApiError> {
    let (most, vocab) = (served.config.limits.logprobs, served.model.vocab());
    let about = "With `logprobs`: tokens whose log-probabilities are given at every position, whatever their rank.";
    let ids = ids(fields, ("logprob_token_ids", about), most, vocab.len())?;
    let mut named = ids.unwrap_or_default();
    const TEXTS: &str = "logprob_tokens";
    let texts = fields
        .field(
            TEXTS,
            "The same by text. Each text must be exactly one token: \" yes\" and \"yes\" differ.",
        )
        .value(|| json!({"type": "array", "items": {"type": "string", "minLength": 1}}));
    if let Some(texts) = texts {
        for (place, text) in strings(texts, TEXTS, most)?.iter().enumerate() {
            named.push(token_of(text, vocab).map_err(|tokens| {
                let pieces: Vec<&str> = tokens.iter().map(|&token| vocab.text(token)).collect();
                ApiError::field(
                    TEXTS,
                    format!(
                        "`{TEXTS}[{place}]` must be the text of one token, but {} becomes {}: {}.",
                        describe(&Value::from(text.as_str())),
                        counted(tokens.len(), "token"),
                        cut(&format!("{pieces:?}")),
                    ),
                )
            })?);
        }
    }
    Ok(named)
}

/// The token with exactly this text, or else the tokens of the text. If several tokens have it, the one that the tokenizer
/// chooses.
fn token_of(text: &str, vocab: &Vocab) -> Result<Token, Vec<Token>> {
    let is = |token: &Token| vocab.literal(*token) == text.as_bytes();
    let tokens = vocab.tokenize(text, Added::Nothing, true);
    match tokens[..] {
        [token] if is(&token) => Ok(token),
        _ => (0..)
            .map(Token)
            .take(vocab.len())
            .find(is)
            .filter(|_| !text.is_empty())
            .ok_or(tokens),
    }
}

/// The distributions, and whether each has arrays of its own.
fn modes(fields: &mut Fields) -> Result<(Vec<Mode>, bool), ApiError> {
    const NAME: &str = "logprobs_mode";
    let value = fields
        .field(
            NAME,
            "With `logprobs`: the distribution. `raw`: the model's; `biased`: after bias and bans; `penalized`: after the \
             penalties; `masked`: after constraint and allowed tokens; `sampled`: what the draw is made from. An array gives \
             several side by side; the standard arrays have the first.",
        )
        .value(|| {
            let names = Mode::ALL.map(Mode::as_str);
            json!({"default": "raw", "anyOf": [
                {"type": "string", "enum": names},
                {"type": "array", "minItems": 1, "uniqueItems": true, "items": {"type": "string", "enum": names}}]})
        });
    let Some(value) = value else {
        return Ok((Vec::new(), false));
    };
    let read = |value: &Value| value.as_str().and_then(Mode::read);
    let modes = match &value {
        Value::Array(items) if !items.is_empty() => items.iter().map(read).collect(),
        other => read(other).map(|mode| vec![mode]),
    };
    let modes: Option<Vec<Mode>> = modes;
    let distinct = modes.filter(|modes| {
        let mut sorted = modes.clone();
        sorted.sort_unstable();
        sorted.dedup();
        sorted.len() == modes.len()
    });
    let Some(modes) = distinct else {
        let names = Mode::ALL.map(|mode| format!("\"{}\"", mode.as_str()));
        let allowed = format!("one of {}, or an array of distinct ones", names.join(", "));
        return Err(wrong(NAME, &allowed, &value));
    };
    Ok(match modes[..] {
        // The default.
        [Mode::Raw] if value.is_string() => (Vec::new(), false),
        _ => (modes, value.is_array()),
    })
}
