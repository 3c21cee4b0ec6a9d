//! The answer of `POST /v1/chat/completions`, complete or streamed.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::calls::{Expects, Part, Reader};
use crate::api::gathered::{Gathered, finite};
use crate::api::ids::new_id;
use crate::api::stream::Show;
use crate::api::token_options::OutputOptions;
use crate::engine::{Delta, FinishReason, ModelInUse, TokenOutput};
use crate::logprobs::TokenLogprob;
use crate::model::Token;
use crate::sampling::Mode;

/// One answer to the conversation.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatChoice)]
pub struct Choice {
    /// The choice's index, from 0.
    pub index: usize,
    pub message: Message,
    pub logprobs: Option<ChatLogprobs>,
    /// "stop", "length" or "tool_calls".
    pub finish_reason: &'static str,
    /// With `return_token_ids`: the tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<i32>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Message {
    /// Always "assistant".
    pub role: &'static str,
    /// Null if the message has only calls.
    pub content: Option<String>,
    /// The model's reasoning before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Always null.
    pub refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A call of a tool; in a stream a piece of one, whose arguments are appended to those before.
#[derive(Debug, Serialize, ToSchema)]
pub struct ToolCall {
    /// In a stream: the index of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The `tool_call_id` for the tool's message; in a stream only in the first piece of a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Always "function"; in a stream only in the first piece of a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<&'static str>,
    pub function: FunctionCall,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FunctionCall {
    /// The function's name; in a stream only in the first piece of a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON, as the model wrote it, or made from the form in which it did.
    pub arguments: String,
}

/// A piece of a choice in a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatPiece {
    /// The choice's index, from 0.
    pub index: usize,
    pub delta: MessageDelta,
    pub logprobs: Option<ChatLogprobs>,
    /// Null until the end.
    pub finish_reason: Option<&'static str>,
    /// With `return_token_ids`: the next tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<i32>>,
}

/// What this piece adds to the message.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct MessageDelta {
    /// "assistant" in the first piece of a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Text to append.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Reasoning to append.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// Log-probabilities in the format of chat completions.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry for each generated token, including those of calls and reasoning.
    pub content: Vec<TokenEntry>,
    /// Always null.
    pub refusal: Option<Vec<TokenEntry>>,
}

/// A token with its most likely alternatives.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TokenEntry {
    #[serde(flatten)]
    pub token: Scored,
    /// The most likely tokens at this position, most likely first.
    pub top_logprobs: Vec<Scored>,
    #[serde(flatten)]
    pub details: Details,
    /// With `logprobs_mode`: the total probability, after bias and penalties, of the tokens that the constraint and
    /// `allowed_token_ids` allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_mass: Option<f32>,
    /// With an array as `logprobs_mode`: `logprob`, `top_logprobs` and details of each mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, ModeEntry>>)]
    pub modes: Option<Modes>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Scored {
    /// Its text, without incomplete UTF-8.
    pub token: String,
    /// Log-softmax of the raw logits, or of those that `logprobs_mode` names, in nats.
    pub logprob: f32,
    /// Its bytes; several tokens may form one character. For a control token, those of its name.
    pub bytes: Vec<u8>,
    /// With `logprobs_detail`: its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i32>,
}

/// More about a position.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[schema(as = EntryDetails)]
pub struct Details {
    /// With `logprobs_detail`: the token's rank by likelihood, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// With `logprobs_detail`: the entropy of the distribution, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f32>,
    /// With `logprobs_detail`: the probability of all tokens outside `top_logprobs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail_mass: Option<f32>,
    /// With `logprob_token_ids` or `logprob_tokens`: the requested tokens, in that order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named: Option<Vec<Scored>>,
}

/// What one distribution says of a token.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModeEntry {
    pub logprob: f32,
    pub top_logprobs: Vec<Scored>,
    #[serde(flatten)]
    pub details: Details,
}

/// The entries of each distribution, in the order of the request.
#[derive(Debug, Clone)]
pub struct Modes(Vec<(&'static str, ModeEntry)>);

impl Serialize for Modes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, entry)| (name, entry)))
    }
}

/// How a choice is shown.
#[derive(Debug, Clone)]
pub struct View {
    pub model: ModelInUse,
    pub options: Arc<OutputOptions>,
    /// What the text may have besides content.
    pub expects: Arc<Expects>,
}

impl View {
    /// The token with its log-probability, if those are shown.
    pub fn entry(&self, output: &TokenOutput) -> Option<TokenEntry> {
        self.options.logprobs.as_ref()?;
        let own = output.details.logprob.as_deref()?;
        let observed = output.details.observed.as_deref();
        let scored = |place: usize, mode: Mode| match observed {
            Some(observed) if mode != Mode::Raw => observed.modes.get(place).unwrap_or(own),
            _ => own,
        };
        let modes = self.options.watch.modes.iter().enumerate();
        let of_modes = modes.map(|(place, &mode)| (mode.as_str(), scored(place, mode)));
        let of_modes: Vec<(&str, &TokenLogprob)> = of_modes.collect();
        let (_, main) = of_modes.first().copied().unwrap_or(("", own));
        let side_by_side = self.options.side_by_side.then(|| {
            let modes = of_modes.iter().map(|&(name, score)| {
                let entry = ModeEntry {
                    logprob: finite(score.logprob),
                    top_logprobs: self.top(score),
                    details: self.details(score),
                };
                (name, entry)
            });
            Modes(modes.collect())
        });
        Some(TokenEntry {
            token: self.scored(main.token, main.logprob),
            top_logprobs: self.top(main),
            details: self.details(main),
            kept_mass: observed
                .filter(|_| !of_modes.is_empty())
                .map(|observed| observed.kept_mass),
            modes: side_by_side,
        })
    }

    fn top(&self, score: &TokenLogprob) -> Vec<Scored> {
        let top = score.top.iter();
        top.map(|&(token, logprob)| self.scored(token, logprob))
            .collect()
    }

    fn details(&self, score: &TokenLogprob) -> Details {
        let named = self.options.logprobs.iter().flat_map(|spec| &*spec.named);
        let named: Vec<Scored> = named
            .zip(&score.named)
            .map(|(&token, &logprob)| self.scored(token, logprob))
            .collect();
        Details {
            rank: score.detail.map(|detail| detail.rank),
            entropy: score.detail.map(|detail| detail.entropy),
            tail_mass: score.detail.map(|detail| detail.tail_mass),
            named: (!named.is_empty()).then_some(named),
        }
    }

    fn scored(&self, token: Token, logprob: f32) -> Scored {
        let (vocab, options) = (self.model.vocab(), &self.options);
        let has_id = options.logprobs.as_ref().is_some_and(|spec| spec.detail);
        Scored {
            token: options.name(token, vocab).into_owned(),
            logprob: finite(logprob),
            bytes: vocab.literal(token).to_vec(),
            id: has_id.then_some(token.0),
        }
    }

    fn logprobs(&self, entries: Vec<TokenEntry>) -> Option<ChatLogprobs> {
        self.options.logprobs.as_ref()?;
        Some(ChatLogprobs {
            content: entries,
            refusal: None,
        })
    }

    fn token_ids<'a>(
        &self,
        outputs: impl IntoIterator<Item = &'a TokenOutput>,
    ) -> Option<Vec<i32>> {
        let ids = || outputs.into_iter().map(|output| output.token.0).collect();
        self.options.token_ids.then(ids)
    }

    /// The parts of the text that are known with this token.
    pub fn read(&self, reader: &mut Reader, output: &TokenOutput) -> Vec<Part> {
        let vocab = self.model.vocab();
        let token = output.token;
        // A control token is not text, unless the request says so, but what it is called may begin a call.
        let is_hidden = !self.options.shows_control && vocab.bytes(token).is_empty();
        let name = is_hidden.then(|| vocab.literal(token));
        let name = name.and_then(|name| std::str::from_utf8(name).ok());
        reader.push(&output.text, name.filter(|name| !name.is_empty()))
    }

    /// Tokens of reasoning so far, if it is shown apart from content.
    pub fn reasoning_tokens(&self, reader: &Reader) -> Option<usize> {
        self.expects.reasons().then(|| reader.reasoning_tokens())
    }

    /// A complete choice, and its tokens of reasoning.
    pub fn choice(&self, index: usize, gathered: &Gathered) -> (Choice, Option<usize>) {
        let mut content = String::new();
        let mut reasoning = String::new();
        let mut tool_calls = Vec::new();
        let mut reader = Reader::new(&self.expects);
        let mut parts = Vec::new();
        for output in &gathered.tokens {
            parts.extend(self.read(&mut reader, output));
        }
        parts.extend(reader.finish(gathered.reason == FinishReason::Stop));
        for part in parts {
            match part {
                Part::Content(text) => content.push_str(&text),
                Part::Reasoning(text) => reasoning.push_str(&text),
                Part::Call { name, id } => tool_calls.push(new_call(None, name, id)),
                Part::Arguments(text) => {
                    if let Some(ToolCall { function, .. }) = tool_calls.last_mut() {
                        function.arguments.push_str(&text);
                    }
                }
            }
        }
        let entries = gathered.tokens.iter().filter_map(|it| self.entry(it));
        let choice = Choice {
            index,
            logprobs: self.logprobs(entries.collect()),
            finish_reason: finish_reason(gathered.reason, !tool_calls.is_empty()),
            token_ids: self.token_ids(&gathered.tokens),
            message: Message {
                role: "assistant",
                content: (tool_calls.is_empty() || !content.is_empty()).then_some(content),
                reasoning_content: (!reasoning.is_empty()).then_some(reasoning),
                refusal: None,
                tool_calls,
            },
        };
        (choice, self.reasoning_tokens(&reader))
    }
}

fn new_call(index: Option<usize>, name: String, id: Option<String>) -> ToolCall {
    ToolCall {
        index,
        id: Some(id.unwrap_or_else(|| new_id("call"))),
        r#type: Some("function"),
        function: FunctionCall {
            name: Some(name),
            arguments: String::new(),
        },
    }
}

fn finish_reason(reason: FinishReason, calls: bool) -> &'static str {
    match reason {
        FinishReason::Stop if calls => "tool_calls",
        reason => reason.as_str(),
    }
}

/// A choice in a stream.
pub struct Streamed {
    index: usize,
    view: View,
    reader: Reader,
    /// Calls shown so far.
    calls: usize,
}

impl Streamed {
    pub fn new(index: usize, view: View) -> Self {
        Self {
            index,
            reader: Reader::new(&view.expects),
            view,
            calls: 0,
        }
    }

    fn piece(&self, delta: MessageDelta) -> ChatPiece {
        ChatPiece {
            index: self.index,
            delta,
            logprobs: None,
            finish_reason: None,
            token_ids: None,
        }
    }

    /// A piece for each part of the text; the first has what is shown of the token besides.
    fn pieces(&mut self, parts: Vec<Part>, output: Option<&TokenOutput>) -> Vec<ChatPiece> {
        let entries = output.into_iter().filter_map(|it| self.view.entry(it));
        let logprobs = self.view.logprobs(entries.collect());
        let logprobs = logprobs.filter(|it| !it.content.is_empty());
        let token_ids = output.and_then(|output| self.view.token_ids([output]));
        let mut pieces = Vec::new();
        for part in parts {
            let delta = match part {
                Part::Content(text) => MessageDelta {
                    content: Some(text),
                    ..MessageDelta::default()
                },
                Part::Reasoning(text) => MessageDelta {
                    reasoning_content: Some(text),
                    ..MessageDelta::default()
                },
                Part::Call { name, id } => {
                    self.calls += 1;
                    MessageDelta {
                        tool_calls: vec![new_call(Some(self.calls - 1), name, id)],
                        ..MessageDelta::default()
                    }
                }
                Part::Arguments(arguments) => MessageDelta {
                    tool_calls: vec![ToolCall {
                        index: Some(self.calls.saturating_sub(1)),
                        id: None,
                        r#type: None,
                        function: FunctionCall {
                            name: None,
                            arguments,
                        },
                    }],
                    ..MessageDelta::default()
                },
            };
            pieces.push(self.piece(delta));
        }
        if pieces.is_empty() && (logprobs.is_some() || token_ids.is_some()) {
            // A token whose text is held back, or that has none.
            pieces.push(self.piece(MessageDelta {
                content: Some(String::new()),
                ..MessageDelta::default()
            }));
        }
        if let Some(first) = pieces.first_mut() {
            (first.logprobs, first.token_ids) = (logprobs, token_ids);
        }
        pieces
    }
}

impl Show for Streamed {
    type Piece = ChatPiece;

    fn show(&mut self, delta: Delta) -> Vec<ChatPiece> {
        match delta {
            Delta::Prompt(_) => {
                let delta = MessageDelta {
                    role: Some("assistant"),
                    content: Some(String::new()),
                    ..MessageDelta::default()
                };
                vec![self.piece(delta)]
            }
            Delta::Token(output) => {
                let parts = self.view.read(&mut self.reader, &output);
                self.pieces(parts, Some(&output))
            }
            Delta::Finished(reason) => {
                let parts = self.reader.finish(reason == FinishReason::Stop);
                let mut pieces = self.pieces(parts, None);
                pieces.push(ChatPiece {
                    finish_reason: Some(finish_reason(reason, self.calls > 0)),
                    ..self.piece(MessageDelta::default())
                });
                pieces
            }
            Delta::Report(_) | Delta::Failed(_) => Vec::new(),
        }
    }

    fn reasoning_tokens(&self) -> Option<usize> {
        self.view.reasoning_tokens(&self.reader)
    }
}
