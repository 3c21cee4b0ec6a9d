//! The answer of `POST /v1/chat/completions`, complete or streamed.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::calls::{Expects, Part, Reader};
use crate::api::gathered::{Gathered, finite};
use crate::api::ids::new_id;
use crate::api::stream::Show;
use crate::engine::{Delta, FinishReason, ModelInUse, TokenOutput};
use crate::model::Token;

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
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenEntry {
    #[serde(flatten)]
    pub token: Scored,
    /// The most likely tokens at this position, most likely first.
    pub top_logprobs: Vec<Scored>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Scored {
    /// Its text, without incomplete UTF-8.
    pub token: String,
    /// Log-softmax of the raw logits, in nats.
    pub logprob: f32,
    /// Its bytes; several tokens may form one character. For a control token, those of its name.
    pub bytes: Vec<u8>,
}

/// How a choice is shown.
#[derive(Debug, Clone)]
pub struct View {
    pub model: ModelInUse,
    pub logprobs: bool,
    /// What the text may have besides content.
    pub expects: Arc<Expects>,
}

impl View {
    fn entry(&self, output: &TokenOutput) -> Option<TokenEntry> {
        let score = output
            .details
            .logprob
            .as_deref()
            .filter(|_| self.logprobs)?;
        Some(TokenEntry {
            token: self.scored(score.token, score.logprob),
            top_logprobs: score
                .top
                .iter()
                .map(|&(token, logprob)| self.scored(token, logprob))
                .collect(),
        })
    }

    fn scored(&self, token: Token, logprob: f32) -> Scored {
        let vocab = self.model.vocab();
        Scored {
            token: vocab.text(token).to_owned(),
            logprob: finite(logprob),
            bytes: vocab.literal(token).to_vec(),
        }
    }

    fn logprobs(&self, entries: Vec<TokenEntry>) -> Option<ChatLogprobs> {
        self.logprobs.then_some(ChatLogprobs {
            content: entries,
            refusal: None,
        })
    }

    /// The parts of the text that are known with this token.
    fn read(&self, reader: &mut Reader, output: &TokenOutput) -> Vec<Part> {
        let vocab = self.model.vocab();
        let token = output.token;
        // A control token is not text, but what it is called may begin a call.
        let name = vocab.bytes(token).is_empty().then(|| vocab.literal(token));
        let name = name.and_then(|name| std::str::from_utf8(name).ok());
        reader.push(&output.text, name.filter(|name| !name.is_empty()))
    }

    fn reasoning_tokens(&self, reader: &Reader) -> Option<usize> {
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

    fn piece(&self, delta: MessageDelta, logprobs: Option<ChatLogprobs>) -> ChatPiece {
        ChatPiece {
            index: self.index,
            delta,
            logprobs,
            finish_reason: None,
        }
    }

    /// A piece for each part of the text; the first has the scores.
    fn pieces(&mut self, parts: Vec<Part>, entries: Vec<TokenEntry>) -> Vec<ChatPiece> {
        let mut logprobs = self
            .view
            .logprobs(entries)
            .filter(|it| !it.content.is_empty());
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
            pieces.push(self.piece(delta, logprobs.take()));
        }
        if logprobs.is_some() {
            // A token whose text is held back, or that has none.
            let delta = MessageDelta {
                content: Some(String::new()),
                ..MessageDelta::default()
            };
            pieces.push(self.piece(delta, logprobs));
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
                vec![self.piece(delta, None)]
            }
            Delta::Token(output) => {
                let entries = self.view.entry(&output).into_iter().collect();
                let parts = self.view.read(&mut self.reader, &output);
                self.pieces(parts, entries)
            }
            Delta::Finished(reason) => {
                let parts = self.reader.finish(reason == FinishReason::Stop);
                let mut pieces = self.pieces(parts, Vec::new());
                pieces.push(ChatPiece {
                    finish_reason: Some(finish_reason(reason, self.calls > 0)),
                    ..self.piece(MessageDelta::default(), None)
                });
                pieces
            }
            Delta::Failed(_) => Vec::new(),
        }
    }

    fn reasoning_tokens(&self) -> Option<usize> {
        self.view.reasoning_tokens(&self.reader)
    }
}
