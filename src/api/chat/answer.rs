//! The answer of `POST /v1/chat/completions`, complete or streamed.

use serde::Serialize;
use utoipa::ToSchema;

use super::calls::{Calls, Part, Reader};
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
    /// JSON, as the model wrote it.
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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// Log-probabilities in the format of chat completions.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry for each generated token, including those of calls.
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
    /// The calls that the text may have.
    pub calls: Option<Calls>,
    /// The function whose arguments the text is.
    pub named: Option<String>,
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

    /// A complete choice.
    pub fn choice(&self, index: usize, gathered: &Gathered) -> Choice {
        let text: String = gathered.text().collect();
        let mut content = String::new();
        let mut tool_calls = Vec::new();
        let mut reading = Reading::new(self);
        let mut parts = reading.push(&text);
        parts.extend(reading.finish());
        for part in parts {
            match part {
                Part::Content(text) => content.push_str(&text),
                Part::Call { name } => tool_calls.push(new_call(None, name)),
                Part::Arguments(text) => {
                    if let Some(ToolCall { function, .. }) = tool_calls.last_mut() {
                        function.arguments.push_str(&text);
                    }
                }
            }
        }
        let entries = gathered.tokens.iter().filter_map(|it| self.entry(it));
        Choice {
            index,
            logprobs: self.logprobs(entries.collect()),
            finish_reason: finish_reason(gathered.reason, !tool_calls.is_empty()),
            message: Message {
                role: "assistant",
                content: (tool_calls.is_empty() || !content.is_empty()).then_some(content),
                refusal: None,
                tool_calls,
            },
        }
    }
}

fn new_call(index: Option<usize>, name: String) -> ToolCall {
    ToolCall {
        index,
        id: Some(new_id("call")),
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

/// Finds calls in the text of a choice.
struct Reading {
    reader: Option<Reader>,
    /// Until the first text.
    named: Option<String>,
}

impl Reading {
    fn new(view: &View) -> Self {
        Self {
            reader: view.calls.clone().map(Reader::new),
            named: view.named.clone(),
        }
    }

    fn push(&mut self, text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        if !text.is_empty() {
            parts.extend(self.named.take().map(|name| Part::Call { name }));
        }
        match &mut self.reader {
            Some(reader) => parts.extend(reader.push(text)),
            None if text.is_empty() => {}
            None => parts.push(Part::Content(text.to_owned())),
        }
        parts
    }

    fn finish(&mut self) -> Vec<Part> {
        let reader = self.reader.as_mut();
        reader.map(Reader::finish).unwrap_or_default()
    }
}

/// A choice in a stream.
pub struct Streamed {
    index: usize,
    view: View,
    reading: Reading,
    /// Calls shown so far.
    calls: usize,
}

impl Streamed {
    pub fn new(index: usize, view: View) -> Self {
        Self {
            index,
            reading: Reading::new(&view),
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
                Part::Call { name } => {
                    self.calls += 1;
                    MessageDelta {
                        tool_calls: vec![new_call(Some(self.calls - 1), name)],
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
                let parts = self.reading.push(&output.text);
                self.pieces(parts, entries)
            }
            Delta::Finished(reason) => {
                let parts = self.reading.finish();
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
}
