//! A conversation becomes the text of a prompt.

use serde_json::Value;

use super::conversation::Conversation;
use super::effort;
use super::marks::Marks;
use super::template::{self, Order, Scope, TemplateError};
use super::tools;
use crate::api::error::ApiError;
use crate::api::served::Served;
use crate::model::{Added, MarkedText, Vocab};

/// The fuel of the model's own template, whose author is trusted: it limits the time that a client's conversation takes.
pub const FUEL: u64 = 200_000_000;

/// The text of a prompt.
pub struct Rendered {
    /// Where names of control tokens in the conversation are marked.
    pub text: MarkedText,
    /// Which special tokens it gets when it is tokenized. The answer continues it.
    pub added: Added,
    /// The template that rendered it, and whether it came with the request.
    pub template: String,
    pub is_sent: bool,
}

/// The model's template, from the settings or from its metadata.
pub fn model_template(served: &Served) -> Option<String> {
    let of_settings = served.config.model.chat_template.clone();
    of_settings.or_else(|| served.model.chat_template())
}

/// Renders a conversation with its own template or the model's.
pub fn render(mut conversation: Conversation, served: &Served) -> Result<Rendered, ApiError> {
    let messages = conversation.names.messages;
    let adds_special = conversation.adds_special;
    let parses = conversation.parse_special;
    let parses = parses.unwrap_or(served.config.model.chat_parse_special);
    let sent = conversation.template.take();
    let is_sent = sent.is_some();
    let template = sent.or_else(|| model_template(served)).ok_or_else(|| {
        ApiError::field(
            messages,
            format!(
                "`{messages}` needs a chat template, and this model's file has none. Send one as `chat_template`, set \
                 model.chat_template_file, or send a text to POST /v1/completions."
            ),
        )
    })?;
    if let Some(effort) = conversation.effort {
        let how = served.config.server.unknown_fields;
        effort::set(
            effort,
            conversation.names.effort,
            &template,
            &mut conversation.kwargs,
            how,
        )?;
    }
    if !template.contains("developer") {
        name_system(&mut conversation.messages);
    }
    let vocab = served.model.vocab();
    let marks = Marks::set(&mut conversation, &template, parses, vocab)?;
    let bos = literal(vocab.bos(), vocab);
    let describes = !conversation.tools.is_empty() && !template.contains("tools");
    let order = Order {
        template,
        instructions: describes.then(|| tools::instructions(&conversation.tools)),
        continues: conversation.continue_final_message,
        scope: scope(conversation, &bos, vocab),
    };
    // A client's template may print more than memory holds: a value that contains itself many times over costs nothing
    // until it is printed.
    let rendered = if is_sent {
        template::render_apart(&order)
    } else {
        template::render(&order, FUEL)
    };
    let mut text = rendered.map_err(|error| match error {
        TemplateError::NotContinued(reason) => ApiError::field(
            "continue_final_message",
            format!("`continue_final_message` is not possible: {reason}."),
        ),
        error if is_sent => ApiError::field("chat_template", format!("`chat_template` {error}.")),
        error => {
            let what = format!("The model's chat template, applied to `{messages}`,");
            ApiError::field(messages, format!("{what} {error}."))
        }
    })?;
    let mut added = if adds_special {
        Added::Before
    } else {
        Added::Nothing
    };
    if vocab.adds_bos()
        && !bos.is_empty()
        && let Some(rest) = text.strip_prefix(&bos)
    {
        text = rest.to_owned();
        // The tokenizer adds it again.
        added = Added::Before;
    }
    Ok(Rendered {
        added,
        text: marks.take(text, vocab),
        template: order.template,
        is_sent,
    })
}

/// Gives messages of the role `developer` its older name, which all templates know.
fn name_system(messages: &mut [Value]) {
    for message in messages {
        if message["role"] == "developer" {
            message["role"] = "system".into();
        }
    }
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
    // transformers defines it, so templates test whether it is none.
    scope.insert("documents".to_owned(), Value::Null);
    scope.extend(conversation.kwargs);
    scope.insert("messages".to_owned(), conversation.messages.into());
    scope.insert("tools".to_owned(), tools);
    scope.insert(
        "add_generation_prompt".to_owned(),
        conversation.add_generation_prompt.into(),
    );
    scope
}
