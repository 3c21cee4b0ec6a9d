//! A conversation becomes the text of a prompt.

use serde_json::{Value, json};

use super::request::Conversation;
use super::template::{self, Scope};
use super::tools::{self, Format};
use crate::api::error::ApiError;
use crate::api::models::Served;

/// The text of a prompt, and how calls will stand in what follows it.
pub struct Rendered {
    pub text: String,
    pub calls: Format,
}

/// The template that a model has, by the settings or by its own metadata.
pub fn model_template(served: &Served) -> Option<String> {
    let of_settings = served.config.model.chat_template.clone();
    of_settings.or_else(|| served.model.chat_template())
}

/// Has the template write the conversation.
pub fn render(conversation: Conversation, served: &Served) -> Result<Rendered, ApiError> {
    let Conversation {
        mut messages,
        tools,
        template,
        kwargs,
        add_generation_prompt,
        continue_final_message,
    } = conversation;
    let is_sent = template.is_some();
    let template = template.or_else(|| model_template(served)).ok_or_else(|| {
        ApiError::field(
            "messages",
            "`messages` need a chat template, and this model's file has none. Send one as `chat_template`, set \
             model.chat_template_file, or send a text to POST /v1/completions.",
        )
    })?;
    let format = Format::of_template(&template);
    if !tools.is_empty() && format.is_none() {
        tell_of_tools(&mut messages, &tools);
    }
    if !template.contains("developer") {
        // Its older name, which all templates know.
        for message in &mut messages {
            if message["role"] == "developer" {
                message["role"] = "system".into();
            }
        }
    }
    let last = messages
        .last()
        .and_then(|message| message["content"].as_str());
    let last = last.unwrap_or_default().trim().to_owned();
    if continue_final_message && last.is_empty() {
        return Err(ApiError::field(
            "continue_final_message",
            "`continue_final_message` needs a last message that is not empty.",
        ));
    }
    let vocab = served.model.vocab();
    let literal = |token: Option<_>| {
        token.map_or_else(String::new, |token| {
            String::from_utf8_lossy(vocab.literal(token)).into_owned()
        })
    };
    let (bos, eos) = (literal(vocab.bos()), literal(vocab.eos()));
    let mut scope = Scope::new();
    scope.insert("bos_token".to_owned(), bos.clone().into());
    scope.insert("eos_token".to_owned(), eos.into());
    scope.extend(kwargs);
    scope.insert("messages".to_owned(), messages.into());
    scope.insert(
        "tools".to_owned(),
        if tools.is_empty() {
            Value::Null
        } else {
            tools.into()
        },
    );
    scope.insert(
        "add_generation_prompt".to_owned(),
        add_generation_prompt.into(),
    );
    // A client's may print what would fill all memory: a value that stands in itself many times over costs nothing until
    // it is written out.
    let rendered = if is_sent {
        template::render_apart(&template, scope)
    } else {
        template::render(&template, &scope)
    };
    let mut text = rendered.map_err(|error| {
        if is_sent {
            ApiError::field("chat_template", format!("`chat_template` {error}."))
        } else {
            let who = "The model's chat template, applied to `messages`,";
            ApiError::field("messages", format!("{who} {error}."))
        }
    })?;
    if continue_final_message {
        let end = text.rfind(&last).ok_or_else(|| {
            ApiError::field(
                "continue_final_message",
                "`continue_final_message` is not possible: the chat template does not show the last message as it is.",
            )
        })?;
        text.truncate(end + last.len());
    }
    // The tokenizer puts it there itself.
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

/// Puts the tools into the system message, for a template that does not know any.
fn tell_of_tools(messages: &mut Vec<Value>, tools: &[Value]) {
    let told = tools::instructions(tools);
    match messages.first_mut() {
        Some(first) if first["role"] == "system" || first["role"] == "developer" => {
            let text = first["content"].as_str().unwrap_or_default();
            first["content"] = format!("{text}\n\n{told}").into();
        }
        _ => messages.insert(0, json!({"role": "system", "content": told})),
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
