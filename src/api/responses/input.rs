//! The field `input`: a text, or the items of a conversation. They become the messages of a chat.

use serde_json::{Value, json};

use super::encoded;
use super::turns::Turns;
use crate::api::error::ApiError;
use crate::api::fields::{Fields, wrong, wrong_in};
use crate::api::nested::Nested;
use crate::api::wording::cut;

const NAME: &str = "input";

const ROLES: [&str; 4] = ["system", "developer", "user", "assistant"];

/// The types of parts in messages and results, of any author.
const TEXT: [&str; 2] = ["input_text", "output_text"];

/// The messages of the conversation.
pub fn read(fields: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let value = fields
        .field(
            NAME,
            "A text of the user, or the items of a conversation: messages (`role`, and `content`: a string, or parts of type \
             input_text and output_text), and items of the types reasoning, function_call and function_call_output. Items \
             of earlier answers may be sent back as they are.",
        )
        .required()
        .value(|| {
            json!({"anyOf": [
                {"type": "string"},
                {"type": "array", "minItems": 1, "items": {"type": "object", "properties": {
                    "type": {"enum": ["message", "reasoning", "function_call", "function_call_output"]},
                    "role": {"enum": ROLES},
                    "content": {},
                    "call_id": {"type": "string"},
                    "name": {"type": "string"},
                    "arguments": {"type": "string"},
                    "output": {},
                }}},
            ]})
        });
    let items = match value {
        Some(Value::String(text)) => return Ok(vec![json!({"role": "user", "content": text})]),
        Some(Value::Array(items)) if !items.is_empty() => items,
        None => {
            return Err(ApiError::field(
                NAME,
                "`input` is missing: it must be a string or an array of items.",
            ));
        }
        Some(other) => return Err(wrong(NAME, "a string or an array of items", &other)),
    };
    let mut turns = Turns::default();
    for (place, item) in items.into_iter().enumerate() {
        add(
            Nested::within(NAME, format!("{NAME}[{place}]"), "an object", item)?,
            &mut turns,
            fields,
        )?;
    }
    Ok(turns.into_messages())
}

fn add(mut item: Nested, turns: &mut Turns, fields: &mut Fields) -> Result<(), ApiError> {
    // Items of earlier answers have them; they mean nothing to the model.
    for about in ["id", "status", "phase"] {
        item.unused(about, "a string", Value::is_string)?;
    }
    match item.string("type")?.as_deref() {
        None | Some("message") => message(item, turns, fields),
        Some("reasoning") => reasoning(item, turns, fields),
        Some("function_call") => call(item, turns, fields),
        Some("function_call_output") => result(item, turns, fields),
        Some("item_reference") => Err(ApiError::field(
            NAME,
            format!(
                "`{}` refers to an item of an earlier response, but this server stores none. Send the item itself.",
                item.place
            ),
        )),
        Some(kind) => Err(ApiError::field(
            NAME,
            format!(
                "`{}` is an item of type {:?}, which is not supported; items must be of type \"message\", \"reasoning\", \
                 \"function_call\" or \"function_call_output\".",
                item.place,
                cut(kind)
            ),
        )),
    }
}

fn message(mut item: Nested, turns: &mut Turns, fields: &mut Fields) -> Result<(), ApiError> {
    let sent = item.take("role").unwrap_or_default();
    let Some(role) = sent.as_str().filter(|role| ROLES.contains(role)) else {
        let allowed = format!(
            "one of {} (results of calls are items of type function_call_output)",
            ROLES.join(", ")
        );
        return Err(item.wrong("role", &allowed, &sent));
    };
    let content = content(&mut item, "content", fields)?;
    item.end(fields);
    turns.message(role, content);
    Ok(())
}

fn call(mut item: Nested, turns: &mut Turns, fields: &mut Fields) -> Result<(), ApiError> {
    let id = item.required("call_id")?;
    let name = item.required("name")?;
    let arguments = item.required("arguments")?;
    if !arguments.trim().is_empty()
        && let Err(error) = serde_json::from_str::<Value>(&arguments)
    {
        return Err(ApiError::field(
            NAME,
            format!("`{}.arguments` is not JSON: {error}.", item.place),
        ));
    }
    item.end(fields);
    turns.call(&id, &name, &arguments);
    Ok(())
}

fn result(mut item: Nested, turns: &mut Turns, fields: &mut Fields) -> Result<(), ApiError> {
    let id = item.required("call_id")?;
    let output = content(&mut item, "output", fields)?;
    let name = item.string("name")?;
    item.end(fields);
    turns.result(&id, name, output);
    Ok(())
}

/// Its text is in `content`, in `encrypted_content`, or at least a summary of it in `summary`.
fn reasoning(mut item: Nested, turns: &mut Turns, fields: &mut Fields) -> Result<(), ApiError> {
    let mut joined = |name: &str, kind: &str, fields: &mut Fields| -> Result<String, ApiError> {
        let value = item.take(name).unwrap_or_default();
        let place = format!("{}.{name}", item.place);
        let texts = match value {
            Value::Null => Vec::new(),
            Value::Array(parts) => texts(parts, &place, &[kind], fields)?,
            other => return Err(wrong_in(NAME, &place, "an array of parts", &other)),
        };
        Ok(texts.join("\n"))
    };
    let content = joined("content", "reasoning_text", fields)?;
    let summary = joined("summary", "summary_text", fields)?;
    let encoded = item.string("encrypted_content")?;
    let text = match encoded.filter(|encoded| !encoded.is_empty()) {
        _ if !content.is_empty() => content,
        None => summary,
        Some(encoded) => encoded::decode(&encoded).ok_or_else(|| {
            ApiError::field(
                NAME,
                format!(
                    "`{}.encrypted_content` must be that of an answer of this server, which it is not. Leave it out.",
                    item.place
                ),
            )
        })?,
    };
    item.end(fields);
    turns.reasoning(&text);
    Ok(())
}

/// A text: a string, or parts in the form of chat completions.
fn content(item: &mut Nested, name: &str, fields: &mut Fields) -> Result<Value, ApiError> {
    let parts = match item.take(name) {
        Some(Value::String(text)) => return Ok(text.into()),
        Some(Value::Array(parts)) => parts,
        other => {
            let other = other.unwrap_or_default();
            return Err(item.wrong(name, "a string or an array of parts", &other));
        }
    };
    let place = format!("{}.{name}", item.place);
    let mut texts = texts(parts, &place, &TEXT, fields)?;
    if texts.len() < 2 {
        return Ok(texts.pop().unwrap_or_default().into());
    }
    let parts = texts.into_iter();
    Ok(parts
        .map(|text| json!({"type": "text", "text": text}))
        .collect())
}

/// The texts of parts, which must be of one of these kinds.
fn texts(
    parts: Vec<Value>,
    place: &str,
    kinds: &[&str],
    fields: &mut Fields,
) -> Result<Vec<String>, ApiError> {
    let parts = parts.into_iter().enumerate();
    let texts = parts.map(|(number, part)| {
        let mut part = Nested::within(NAME, format!("{place}[{number}]"), "an object", part)?;
        let text = match part.string("type")?.as_deref() {
            Some(kind) if kind == "text" || kinds.contains(&kind) => part.required("text"),
            // Of an earlier answer, which another server gave.
            Some("refusal") if kinds == TEXT => part.required("refusal"),
            Some(kind) => Err(ApiError::field(
                NAME,
                format!(
                    "`{}` is a part of type {:?}, which is not supported; parts must be of type {}.",
                    part.place,
                    cut(kind),
                    kinds.join(" or ")
                ),
            )),
            None => Err(part.wrong("type", "a string", &Value::Null)),
        }?;
        if kinds == TEXT {
            // Texts of earlier answers have the first two; the third is about a cache that is chosen by hand.
            part.unused("annotations", "an array", Value::is_array)?;
            part.unused("logprobs", "an array", Value::is_array)?;
            part.unused("prompt_cache_breakpoint", "an object", Value::is_object)?;
        }
        part.end(fields);
        Ok(text)
    });
    texts.collect()
}
