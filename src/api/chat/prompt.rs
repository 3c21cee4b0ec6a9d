//! A conversation becomes the text of a prompt.

use serde_json::{Value, json};

use super::conversation::Conversation;
use super::template::{self, Scope};
use super::tools::{self, Format};
use crate::api::error::ApiError;
use crate::api::served::Served;
use crate::model::Vocab;

/// The text of a prompt, and the format of calls in its completion.
pub struct Rendered {
    pub text: String,
    pub calls: Format,
}

/// The model's template, from the settings or from its metadata.
pub fn model_template(served: &Served) -> Option<String> {
    let of_settings = served.config.model.chat_template.clone();
    of_settings.or_else(|| served.model.chat_template())
}

/// Renders a conversation with its own template or the model's.
pub fn render(mut conversation: Conversation, served: &Served) -> Result<Rendered, ApiError> {
    let sent = conversation.template.take();
    let is_sent = sent.is_some();
    let template = sent.or_else(|| model_template(served)).ok_or_else(|| {
        ApiError::field(
            "messages",
            "`messages` needs a chat template, and this model's file has none. Send one as `chat_template`, set \
             model.chat_template_file, or send a text to POST /v1/completions.",
        )
    })?;
    let format = Format::of_template(&template);
    adapt_messages(&mut conversation, &template, format);
    let last = last_text(&conversation)?;
    let vocab = served.model.vocab();
    let bos = literal(vocab.bos(), vocab);
    let scope = scope(conversation, &bos, vocab);
    // A client's template may print more than memory holds: a value that contains itself many times over costs nothing
    // until it is printed.
    let rendered = if is_sent {
        template::render_apart(&template, scope)
    } else {
        template::render(&template, &scope)
    };
    let mut text = rendered.map_err(|error| {
        if is_sent {
            ApiError::field("chat_template", format!("`chat_template` {error}."))
        } else {
            let what = "The model's chat template, applied to `messages`,";
            ApiError::field("messages", format!("{what} {error}."))
        }
    })?;
    if let Some(last) = last {
        let end = text.rfind(&last).ok_or_else(|| {
            ApiError::field(
                "continue_final_message",
                "`continue_final_message` is not possible: the chat template changes the text of the last message.",
            )
        })?;
        text.truncate(end + last.len());
    }
    // The tokenizer adds it again.
    if vocab.adds_bos()
        && !bos.is_empty()
        && let Some(rest) = text.strip_prefix(&bos)
    {
        text = rest.to_owned();
    }
    Ok(Rendered {
        text,
        calls: format.unwrap_or(Format::Tagged),
    })
}

/// Rewrites what the template does not support: tools, and the role `developer`.
fn adapt_messages(conversation: &mut Conversation, template: &str, format: Option<Format>) {
    let Conversation {
        messages, tools, ..
    } = conversation;
    if !tools.is_empty() && format.is_none() {
        describe_tools(messages, tools);
    }
    if !template.contains("developer") {
        // All templates know the older name of this role.
        for message in messages {
            if message["role"] == "developer" {
                message["role"] = "system".into();
            }
        }
    }
}

/// With `continue_final_message` the text at whose end the prompt is to end.
fn last_text(conversation: &Conversation) -> Result<Option<String>, ApiError> {
    if !conversation.continue_final_message {
        return Ok(None);
    }
    let last = conversation.messages.last();
    let last = last.and_then(|message| message["content"].as_str());
    let last = last.unwrap_or_default().trim();
    if last.is_empty() {
        return Err(ApiError::field(
            "continue_final_message",
            "`continue_final_message` needs a last message that is not empty.",
        ));
    }
    Ok(Some(last.to_owned()))
}

fn literal(token: Option<crate::model::Token>, vocab: &Vocab) -> String {
    token.map_or_else(String::new, |token| {
        String::from_utf8_lossy(vocab.literal(token)).into_owned()
    })
}

/// The variables of the template.
fn scope(conversation: Conversation, bos: &str, vocab: &Vocab) -> Scope {
    let tools = match conversation.tools {
        tools if tools.is_empty() => Value::Null,
        tools => tools.into(),
    };
    let mut scope = Scope::new();
    scope.insert("bos_token".to_owned(), bos.into());
    scope.insert("eos_token".to_owned(), literal(vocab.eos(), vocab).into());
    scope.extend(conversation.kwargs);
    scope.insert("messages".to_owned(), conversation.messages.into());
    scope.insert("tools".to_owned(), tools);
    scope.insert(
        "add_generation_prompt".to_owned(),
        conversation.add_generation_prompt.into(),
    );
    scope
}

/// Describes the tools in the system message, for a template that does not support them.
fn describe_tools(messages: &mut Vec<Value>, tools: &[Value]) {
    let instructions = tools::instructions(tools);
    match messages.first_mut() {
        Some(first) if first["role"] == "system" || first["role"] == "developer" => {
            let text = first["content"].as_str().unwrap_or_default();
            first["content"] = format!("{text}\n\n{instructions}").into();
        }
        _ => messages.insert(0, json!({"role": "system", "content": instructions})),
    }
    // Calls and their results as text, since the template would leave them out.
    for message in messages {
        if let Some(calls) = message["tool_calls"].as_array() {
            let text = message["content"].as_str().unwrap_or_default();
            let calls: Vec<String> = calls
                .iter()
                .map(|call| format!("<tool_call>\n{}\n</tool_call>", call["function"]))
                .collect();
            message["content"] = format!("{text}{}", calls.join("\n")).into();
        }
        if message["role"] == "tool" {
            let text = message["content"].as_str().unwrap_or_default();
            message["content"] = format!("<tool_response>\n{text}\n</tool_response>").into();
            message["role"] = "user".into();
        }
    }
}
