//! How a model writes its answer to a prompt: in which form calls, how reasoning, and what it is forced to.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::calls::{Expects, Functions};
use super::conversation::{Conversation, REASONING};
use super::forms::{self, Body, Forced, Form, HERMES, Thinking};
use super::prompt::Rendered;
use super::tool_choice::ToolChoice;
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
        let reasons = REASONING
            .iter()
            .any(|name| last.is_some_and(|message| message[*name].is_string()));
        Self {
            only_reasons: reasons && content.as_deref().is_none_or(str::is_empty),
            content,
        }
    }

    /// Whether the prompt ends within reasoning.
    fn is_inside(&self, thinking: &Thinking, prompt: &str) -> bool {
        let open = thinking.open.trim_end();
        let is_open = |text: &str| {
            let opened = text.rfind(open);
            opened.is_some() && opened > text.rfind(thinking.close)
        };
        match &self.content {
            // The template may have ended it.
            _ if self.only_reasons => is_open(prompt),
            Some(content) => is_open(content),
            None => prompt.trim_end().ends_with(open),
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
        let inside = thinking.is_some_and(|thinking| continued.is_inside(thinking, text));
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

    /// Whether the prompt is one after which the model reasons: it began that, or leaves it to a model that does so unless it
    /// was told otherwise.
    pub fn expects_reasoning(&self, is_told: bool) -> bool {
        self.inside || (self.thinking.is_some() && !self.thought && !is_told)
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
        let grammar = self.grammar(tools, several, schema.as_deref(), served);
        let Some(grammar) = grammar else {
            let most = served.config.limits.grammar_bytes;
            return Err(ApiError::field(
                "tools",
                format!(
                    "The schemas of `tools` must not be longer than {most} bytes in all, as a grammar, where calls follow \
                     them. Send fewer tools, or send `\"tool_choice\": \"auto\"` without a schema for the answer."
                ),
            ));
        };
        if forced {
            return generate.follow(Structured::lark("tool_choice", grammar), served);
        }
        generate.widen(grammar, "tools");
        Ok(())
    }

    /// A grammar of calls of these tools, and of answers that match a Lark expression. `None`: it would be too long.
    pub fn grammar(
        &self,
        tools: &[Value],
        several: bool,
        or: Option<&str>,
        served: &Served,
    ) -> Option<String> {
        let forced = Forced {
            form: self.form,
            tools,
            several,
            reasons: self.splits && !self.thought,
            thinking: self.thinking,
            inside: self.inside,
            or,
            most: served.config.limits.grammar_bytes,
        };
        forms::constraint(&forced, served.model.vocab())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_may_end_within_reasoning() {
        let thinking = forms::thinking_of_template("<think></think>").expect("it reasons");
        let check = |content: Option<&str>, only_reasons, prompt: &str, expect| {
            let continued = Continued {
                content: content.map(str::to_owned),
                only_reasons,
            };
            assert_eq!(continued.is_inside(thinking, prompt), expect, "{prompt}");
        };
        check(None, false, "Hi\n<think>\n", true);
        check(None, false, "<think>Hm</think>Hi\n", false);
        // A message with nothing but reasoning, which the template leaves open or ends.
        check(
            None,
            true,
            "<think>\na\n</think>b<think>\nI think that",
            true,
        );
        check(None, true, "<think>\nI think that\n</think>\n\n", false);
        check(Some(""), true, "<think>\nI think that\n</think>\n\n", false);
        check(Some(""), true, "I think that", false);
        check(Some("<think>I"), false, "<think>I", true);
        check(Some("I"), false, "<think></think>I", false);
    }
}
