//! A conversation and a template become a prompt.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::compiled::{Compiled, Scope};
use super::error::TemplateError;
use super::fit::fit;
use super::jinja2;

/// Nested values are dropped recursively.
const STACK_BYTES: usize = 128 << 20;

/// What is rendered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    pub template: String,
    /// The variables, among them the messages.
    pub scope: Scope,
    /// A description of the tools, for a template that does not know them.
    pub instructions: Option<String>,
    /// Whether the prompt ends within the last message.
    pub continues: bool,
}

/// Renders a prompt. Each rendering may use this much fuel: a unit is about 64 bytes or one instruction.
pub fn render(order: &Order, fuel: u64) -> Result<String, TemplateError> {
    std::thread::scope(|threads| {
        let thread = std::thread::Builder::new()
            .name("template".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(threads, || render_here(order, fuel));
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(outcome)) => outcome,
            _ => Err(TemplateError::Failed("it could not be run".to_owned())),
        }
    })
}

fn render_here(order: &Order, fuel: u64) -> Result<String, TemplateError> {
    let source = jinja2::source(&order.template).map_err(TemplateError::Syntax)?;
    let template = Compiled::new(&source, fuel)?;
    let mut scope = order.scope.clone();
    fit(&template, &mut scope, order.instructions.as_deref());
    let rendered = prompt(&template, &mut scope, order.continues);
    match &rendered {
        // Assistant messages need no content beside calls, but some templates do.
        Err(TemplateError::Failed(_) | TemplateError::Raised(_)) if add_contents(&mut scope) => {
            prompt(&template, &mut scope, order.continues).or(rendered)
        }
        _ => rendered,
    }
}

/// Adds an empty text to messages without content, and returns whether there were any.
fn add_contents(scope: &mut Scope) -> bool {
    let messages = scope.get_mut("messages").and_then(Value::as_array_mut);
    let mut added = false;
    for message in messages.into_iter().flatten() {
        if message.is_object() && message.get("content").is_none() {
            message["content"] = "".into();
            added = true;
        }
    }
    added
}

fn prompt(
    template: &Compiled,
    scope: &mut Scope,
    continues: bool,
) -> Result<String, TemplateError> {
    if continues {
        continued(template, scope.clone())
    } else {
        template.render(scope)
    }
}

/// Renders a prompt that ends with the last message's text, or with its calls.
///
/// The end of the text is where a word ends up that is added to it. Such a word also keeps a template from removing blanks
/// at the text's end. Calls come after the text; they end where what follows the text without them begins.
fn continued(template: &Compiled, mut scope: Scope) -> Result<String, TemplateError> {
    let not = |reason: &str| TemplateError::NotContinued(reason.to_owned());
    let mark = unused_word(template, &scope);
    let has_calls = last_message(&mut scope)
        .and_then(|message| message.get("tool_calls"))
        .and_then(Value::as_array)
        .is_some_and(|calls| !calls.is_empty());
    let with_calls = if has_calls {
        let rendered = template.render(&scope)?;
        if let Some(Value::Object(message)) = last_message(&mut scope) {
            message.shift_remove("tool_calls");
        }
        Some(rendered)
    } else {
        None
    };
    let last = last_message(&mut scope).ok_or_else(|| not("there is none"))?;
    let text = add_mark(last, &mark);
    let rendered = template.render(&scope)?;
    let (before, after) = rendered
        .rsplit_once(&mark)
        .ok_or_else(|| not("the template leaves its text out or changes it"))?;
    if let Some(with_calls) = with_calls {
        let until_calls = with_calls.strip_suffix(after);
        return until_calls
            .filter(|prompt| prompt.len() > before.len())
            .map(str::to_owned)
            .ok_or_else(|| not("the template ends a message with calls in a way of its own"));
    }
    if !before.ends_with(text.trim_start()) {
        return Err(not("the template changes its text"));
    }
    Ok(before.to_owned())
}

fn last_message(scope: &mut Scope) -> Option<&mut Value> {
    scope.get_mut("messages")?.as_array_mut()?.last_mut()
}

/// Adds the mark to the last text of a message, and returns the text.
fn add_mark(message: &mut Value, mark: &str) -> String {
    let content = &mut message["content"];
    let last_text = match content {
        Value::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        content => Some(content),
    };
    let Some(last_text) = last_text else {
        return String::new();
    };
    let text = last_text.as_str().unwrap_or_default().to_owned();
    *last_text = format!("{text}{mark}").into();
    text
}

/// A word that neither the template nor the conversation contains.
fn unused_word(template: &Compiled, scope: &Scope) -> String {
    const WORD: &str = "CandorContinuesHere";
    let values = serde_json::to_string(scope).unwrap_or_default();
    let longest = [&values, template.source()]
        .into_iter()
        .flat_map(|text| text.split(WORD).skip(1))
        .map(|after| after.bytes().take_while(|&byte| byte == b'X').count() + 1)
        .max();
    [WORD, &"X".repeat(longest.unwrap_or(0))].concat()
}
