//! How a model writes its answer to a prompt: in which form calls, how reasoning, and what it is forced to.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::calls::{Expects, Functions};
use super::conversation::Conversation;
use super::forms::{self, Body, Forced, Form, HERMES, Thinking};
use super::prompt::Rendered;
use super::request::ToolChoice;
use crate::api::error::ApiError;
use crate::api::generate::Generate;
use crate::api::served::Served;
use crate::api::structured::Structured;

/// Bytes of the prompt's end that tell what it began.
const TAIL_BYTES: usize = 4096;

/// The message that a prompt leaves open.
pub struct Continued {
    /// Its content.
    content: Option<String>,
    /// Whether it has only reasoning.
    only_reasons: bool,
}

impl Continued {
    pub fn of(conversation: &Conversation) -> Self {
        let last = conversation.messages.last();
        let last = last.filter(|_| conversation.continue_final_message);
        let content = last.and_then(|message| match &message["content"] {
            Value::String(text) => Some(text.clone()),
            Value::Array(parts) => {
                let texts = parts.iter().filter_map(|part| part["text"].as_str());
                Some(texts.collect())
            }
            _ => None,
        });
        let reasons = ["reasoning_content", "reasoning", "thinking"]
            .iter()
            .any(|name| last.is_some_and(|message| message[*name].is_string()));
        Self {
            only_reasons: reasons && content.as_deref().is_none_or(str::is_empty),
            content,
        }
    }
}

/// How the model writes.
pub struct Writes {
    form: &'static Form,
    thinking: Option<&'static Thinking>,
    /// Whether reasoning is shown apart from content.
    splits: bool,
    /// Whether the prompt began reasoning, or ended it.
    inside: bool,
    thought: bool,
    /// The end of the prompt.
    prompt: Arc<str>,
}

impl Writes {
    pub fn new(
        rendered: &Rendered,
        tools: &[Value],
        continued: Continued,
        served: &Served,
        splits: bool,
    ) -> Self {
        let Rendered { text, template, .. } = rendered;
        let text = text.as_str();
        let known = forms::of_template(template);
        if known.is_none() && template.contains("tools") && !tools.is_empty() && !rendered.is_sent {
            log_unknown(served);
        }
        let thinking = forms::thinking_of_template(template);
        let end = text.trim_end();
        let inside = thinking.is_some_and(|thinking| {
            let open = thinking.open.trim_end();
            match &continued.content {
                _ if continued.only_reasons => true,
                Some(content) => {
                    let opened = content.rfind(open);
                    opened.is_some() && opened > content.rfind(thinking.close)
                }
                None => end.ends_with(open),
            }
        });
        let thought = thinking.is_some_and(|thinking| end.ends_with(thinking.close));
        let mut start = text.len().saturating_sub(TAIL_BYTES);
        while !text.is_char_boundary(start) {
            start += 1;
        }
        Self {
            form: known.unwrap_or(HERMES),
            thinking,
            splits,
            inside,
            // What goes on has been thought about.
            thought: thought || (continued.content.is_some() && !inside),
            prompt: text[start..].into(),
        }
    }

    /// What the text of an answer may have.
    pub fn expects(
        &self,
        tools: &[Value],
        choice: &ToolChoice,
        several: bool,
        generate: &Generate,
    ) -> Expects {
        let forced = matches!(choice, ToolChoice::Required | ToolChoice::Named(_));
        // A constraint of the client begins with the answer, but for a schema, which comes after reasoning as forced calls
        // do.
        let inside = if forced || generate.schema().is_some() {
            self.inside && self.splits
        } else {
            self.inside && !generate.is_constrained()
        };
        Expects {
            form: Some(self.form),
            calls: *choice != ToolChoice::None,
            functions: Arc::new(Functions::new(tools)),
            several,
            thinking: self.thinking,
            splits: self.splits,
            inside,
            prompt: Arc::clone(&self.prompt),
        }
    }

    /// Makes the text follow what `tool_choice` says. A schema of the client is for answers that are no calls, and comes
    /// after reasoning.
    pub fn constrain(
        &self,
        generate: &mut Generate,
        choice: &ToolChoice,
        tools: &[Value],
        several: bool,
        served: &Served,
    ) -> Result<(), ApiError> {
        let named: Vec<Value>;
        let (tools, several, forced) = match choice {
            ToolChoice::None => (&[][..], false, false),
            ToolChoice::Auto => (tools, several, false),
            ToolChoice::Required => (tools, several, true),
            ToolChoice::Named(name) => {
                let it = tools
                    .iter()
                    .find(|tool| tool["function"]["name"] == name.as_str());
                named = it.into_iter().cloned().collect();
                (&named[..], false, true)
            }
        };
        let schema = generate.schema().filter(|_| !forced);
        if !forced && schema.is_none() {
            return Ok(());
        }
        let channels = matches!(self.form.body, Body::Channels(_));
        let reasons = self.splits && !self.thought;
        if tools.is_empty() && !(reasons && (channels || self.thinking.is_some())) {
            return Ok(());
        }
        let grammar = forms::constraint(
            &Forced {
                form: self.form,
                tools,
                several,
                reasons,
                thinking: self.thinking,
                inside: self.inside,
                or: schema.as_deref(),
            },
            served.model.vocab(),
        );
        if forced {
            return generate.follow(Structured::lark("tool_choice", grammar), served);
        }
        generate.widen(grammar);
        Ok(())
    }
}

/// Logs, once for each model, that the form of its calls is not known.
fn log_unknown(served: &Served) {
    static LOGGED: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    if logged.insert(served.model_index) {
        tracing::warn!(
            model = served.name,
            "the form in which this model's chat template writes calls of tools is not known: calls are recognized as \
             {}'s, and others stay text",
            HERMES.name
        );
    }
}
