//! Fits a conversation to what its template handles.
//!
//! Messages are given to the template as transformers gives them, with three exceptions: parts of text that it does not
//! handle are joined, arguments of calls are a string if it needs one, and tools that it does not know are described to the
//! model in words. Whether it handles these is tried with small conversations, since templates do not declare it.

use serde_json::{Value, json};

use super::compiled::{Compiled, Scope};

/// Words that no template contains.
const FIRST: &str = "CandorFirstPart";
const SECOND: &str = "CandorSecondPart";
const SYSTEM: &str = "CandorSystem";
const FUNCTION: &str = "candor_function";
const KEY: &str = "candor_key";
const RESULT: &str = "CandorResult";

/// What is between parts that a template cannot join: what vLLM and llama.cpp put there.
const BETWEEN_PARTS: &str = "\n";

/// Rewrites the messages in a scope. `instructions` describe the tools to a model whose template does not.
pub fn fit(template: &Compiled, scope: &mut Scope, instructions: Option<&str>) {
    let Some(Value::Array(mut messages)) = scope.remove("messages") else {
        return;
    };
    let trial = Trial { template, scope };
    join_parts(&mut messages, &trial);
    let calls = Calls::of(&messages, &trial, instructions.is_some());
    if let Some(instructions) = instructions {
        describe_tools(&mut messages, &trial, &calls, instructions);
    }
    write_arguments(&mut messages, calls.arguments);
    scope.insert("messages".to_owned(), messages.into());
}

/// Renders conversations with the variables of the real one.
struct Trial<'a> {
    template: &'a Compiled<'a>,
    scope: &'a Scope,
}

impl Trial<'_> {
    fn render(&self, messages: Value) -> Option<String> {
        let mut scope = self.scope.clone();
        scope.insert("messages".to_owned(), messages);
        self.template.render(&scope).ok()
    }

    /// Whether a message of this role may have parts: their text is in the prompt, and not their JSON.
    fn takes_parts(&self, role: &Value) -> bool {
        let part = |text| json!({"type": "text", "text": text});
        let message = json!({"role": role, "content": [part(FIRST), part(SECOND)]});
        let user = json!({"role": "user", "content": "a"});
        let messages = match role.as_str() {
            Some("user") => json!([message]),
            Some("system" | "developer") => json!([message, user]),
            Some("tool") => json!([user, call(json!({KEY: 1})), message]),
            _ => json!([user, message, user]),
        };
        self.render(messages).is_some_and(|text| {
            let after = text.split_once(FIRST).map(|(_, after)| after);
            after.is_some_and(|after| !after.starts_with(['\'', '"']))
        })
    }

    fn takes_system(&self) -> bool {
        let text = self.render(json!([
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "a"},
        ]));
        text.is_some_and(|text| text.contains(SYSTEM))
    }
}

/// A message that calls a function.
fn call(arguments: Value) -> Value {
    json!({
        "role": "assistant",
        "content": "",
        "tool_calls": [{
            "id": "call00000",
            "type": "function",
            "function": {"name": FUNCTION, "arguments": arguments},
        }],
    })
}

/// Joins the parts of messages in whose role the template does not handle parts.
fn join_parts(messages: &mut [Value], trial: &Trial) {
    let mut tried: Vec<(Value, bool)> = Vec::new();
    for message in messages {
        let Value::Array(parts) = &message["content"] else {
            continue;
        };
        let role = &message["role"];
        let takes = tried.iter().find(|(one, _)| one == role);
        let takes = match takes {
            Some((_, takes)) => *takes,
            None => {
                let takes = trial.takes_parts(role);
                tried.push((role.clone(), takes));
                takes
            }
        };
        if !takes {
            message["content"] = joined(parts).into();
        }
    }
}

fn joined(parts: &[Value]) -> String {
    let texts = parts.iter().filter_map(|part| part["text"].as_str());
    texts.collect::<Vec<_>>().join(BETWEEN_PARTS)
}

/// How a template wants the arguments of calls.
#[derive(Clone, Copy, PartialEq)]
enum Arguments {
    Object,
    /// As JSON.
    String,
}

/// What a template makes of calls and their results.
struct Calls {
    arguments: Arguments,
    shows_calls: bool,
    shows_results: bool,
}

impl Calls {
    fn of(messages: &[Value], trial: &Trial, describes: bool) -> Self {
        let mut calls = Self {
            arguments: Arguments::Object,
            shows_calls: false,
            shows_results: false,
        };
        let is_call = |message: &Value| message["tool_calls"].is_array();
        let is_result = |message: &Value| message["role"] == "tool";
        let has_some = messages
            .iter()
            .any(|it| is_call(it) || describes && is_result(it));
        if !has_some {
            return calls;
        }
        let user = json!({"role": "user", "content": "a"});
        let object = json!({KEY: "value"});
        for (kind, arguments) in [
            (Arguments::Object, object.clone()),
            (Arguments::String, object.to_string().into()),
        ] {
            let result = json!({"role": "tool", "content": RESULT, "name": FUNCTION, "tool_call_id": "call00000"});
            let with_result = trial.render(json!([user, call(arguments.clone()), result]));
            let text = with_result.or_else(|| trial.render(json!([user, call(arguments)])));
            let Some(text) = text else {
                continue;
            };
            // Python's spelling of an object is not JSON: no model was trained with it.
            let is_written = text.contains(KEY) && !text.contains(&format!("'{KEY}'"));
            if is_written {
                calls.arguments = kind;
            }
            if is_written || !calls.shows_calls {
                calls.shows_calls = text.contains(FUNCTION);
                calls.shows_results = text.contains(RESULT);
            }
            if is_written {
                break;
            }
        }
        calls
    }
}

fn write_arguments(messages: &mut [Value], kind: Arguments) {
    for message in messages {
        let Some(calls) = message.get_mut("tool_calls").and_then(Value::as_array_mut) else {
            continue;
        };
        for call in calls {
            let arguments = &mut call["function"]["arguments"];
            match (kind, &*arguments) {
                (Arguments::Object, Value::String(text)) => *arguments = parsed(text),
                (Arguments::String, Value::Object(_)) => *arguments = arguments.to_string().into(),
                _ => {}
            }
        }
    }
}

/// Arguments as an object; the conversation was checked.
fn parsed(text: &str) -> Value {
    match text.trim() {
        "" => json!({}),
        text => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    }
}

/// Describes the tools in the system message, or in the first message if the template knows no system message. Earlier
/// calls and results become text if the template would leave them out.
fn describe_tools(messages: &mut Vec<Value>, trial: &Trial, calls: &Calls, instructions: &str) {
    if !calls.shows_calls {
        for message in messages.iter_mut() {
            write_calls(message);
        }
    }
    if !(calls.shows_calls && calls.shows_results) {
        write_results(messages);
    }
    let is_system = |message: &Value| message["role"] == "system" || message["role"] == "developer";
    match messages.first_mut() {
        Some(first) if is_system(first) => add_text(first, "", &format!("\n\n{instructions}")),
        Some(first) if !trial.takes_system() => add_text(first, &format!("{instructions}\n\n"), ""),
        _ => messages.insert(0, json!({"role": "system", "content": instructions})),
    }
}

/// Adds text to a message's content.
fn add_text(message: &mut Value, before: &str, after: &str) {
    match &mut message["content"] {
        Value::Array(parts) => {
            let part = |text: &str| json!({"type": "text", "text": text});
            if !before.is_empty() {
                parts.insert(0, part(before));
            }
            if !after.is_empty() {
                parts.push(part(after));
            }
        }
        content => {
            let text = content.as_str().unwrap_or_default();
            *content = format!("{before}{text}{after}").into();
        }
    }
}

/// Puts a message's calls into its content.
fn write_calls(message: &mut Value) {
    let Some(Value::Array(calls)) = message
        .as_object_mut()
        .and_then(|it| it.shift_remove("tool_calls"))
    else {
        return;
    };
    let calls = calls.into_iter().map(|call| {
        let mut function = call["function"].clone();
        if let Value::String(text) = &function["arguments"] {
            function["arguments"] = parsed(text);
        }
        format!("<tool_call>\n{function}\n</tool_call>")
    });
    let calls: Vec<String> = calls.collect();
    add_text(message, "", &calls.join("\n"));
}

/// Makes messages of the user from results. Those of one turn become one message, since many templates want the roles to
/// alternate.
fn write_results(messages: &mut Vec<Value>) {
    let mut written: Vec<Value> = Vec::with_capacity(messages.len());
    let mut last_was_result = false;
    for mut message in messages.drain(..) {
        let is_result = message["role"] == "tool";
        if is_result {
            if let Value::Array(parts) = &message["content"] {
                message["content"] = joined(parts).into();
            }
            add_text(&mut message, "<tool_response>\n", "\n</tool_response>");
            match written.last_mut() {
                Some(last) if last_was_result => {
                    let text = message["content"].as_str().unwrap_or_default();
                    add_text(last, "", &format!("\n{text}"));
                }
                _ => {
                    message["role"] = "user".into();
                    written.push(message);
                }
            }
        } else {
            written.push(message);
        }
        last_was_result = is_result;
    }
    *messages = written;
}
