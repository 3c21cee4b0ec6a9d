//! Asks a server whether it is ready, and what it has: its models, and what computes their answers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::origin::{Origin, shown};
use super::server::{Broken, Reply, Server};
use crate::engine::UNLOADABLE;

/// What a server has.
#[derive(Debug)]
pub struct Contact {
    /// The models that the requests name, by these names; the default model's is empty.
    pub models: BTreeMap<String, Origin>,
    /// How many sequences run at once; `None` if it does not say it.
    pub slots: Option<usize>,
}

/// Why a server is not used.
#[derive(Debug)]
pub enum Unready {
    /// It may be ready later.
    NotYet(String),
    /// It has not what the requests need.
    Unfit(String),
}

/// Asks for the models with these names (`None`: the default model), each with the number of the first line that names it.
/// Models that are not loaded are loaded.
pub fn contact(
    server: &Server,
    models: &BTreeMap<Option<String>, u32>,
) -> Result<Contact, Unready> {
    let health = server.get("/health", &[]).map_err(not_yet)?;
    // Other servers may have no such route; what else is wrong with them the list of their models tells.
    if may_pass(health.status) {
        return Err(Unready::NotYet(format!(
            "/health answers {}",
            health.message()
        )));
    }
    let mut list = list(server)?;
    let mut contact = Contact {
        models: BTreeMap::new(),
        slots: None,
    };
    for (name, line) in models {
        let name = name.as_deref();
        let mut object = find(&list, name, *line)?;
        if object["status"]["value"] == "unloaded" || object["bits_class"].is_null() {
            load(server, name, &object)?;
            list = self::list(server)?;
            object = find(&list, name, *line)?;
            if is_of_candor(&object) && object["bits_class"].is_null() {
                return Err(Unready::NotYet(format!(
                    "has unloaded {} again",
                    shown(name.unwrap_or_default())
                )));
            }
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let origin = Origin {
            fingerprint: text(&object["meta"]["fingerprint"]),
            adapters: adapters(server, name)?,
            bits_class: text(&object["bits_class"]),
            exact_bits_class: None,
        };
        let slots = object["parallel_sequences"].as_u64();
        contact.slots = contact
            .slots
            .max(slots.and_then(|slots| usize::try_from(slots).ok()));
        let name = name.unwrap_or_default().to_owned();
        contact.models.insert(name, origin);
    }
    Ok(contact)
}

/// The models that a server lists.
fn list(server: &Server) -> Result<Vec<Value>, Unready> {
    let answer = fine(server.get("/v1/models", &[]), "/v1/models")?;
    let list = answer
        .json()
        .and_then(|mut list| match list["data"].take() {
            Value::Array(models) => Some(models),
            _ => None,
        });
    list.ok_or_else(|| Unready::Unfit("/v1/models answers something else than models".to_owned()))
}

fn find(list: &[Value], name: Option<&str>, line: u32) -> Result<Value, Unready> {
    let found = match name {
        None => list.first(),
        Some(name) => list.iter().find(|model| model["id"] == name),
    };
    found.cloned().ok_or_else(|| {
        let names: Vec<&str> = list.iter().filter_map(|model| model["id"].as_str()).collect();
        Unready::Unfit(format!(
            "has no model `{}`, which line {line} names; it has {}. Give its model that name (--alias, model.aliases), or \
             change `model` in the input.",
            name.unwrap_or_default(),
            names.join(", ")
        ))
    })
}

/// Has a model loaded, given its object in the list. Other servers load theirs by themselves.
fn load(server: &Server, name: Option<&str>, object: &Value) -> Result<(), Unready> {
    let mut body = json!({"prompt": ""});
    if let Some(name) = name {
        body["model"] = name.into();
    }
    let answer = server.post("/tokenize", &body, None).map_err(not_yet)?;
    let model = shown(name.unwrap_or_default());
    let why = format!("cannot load {model}: {}", answer.message());
    match answer.status {
        200 => Ok(()),
        503 if why.contains(UNLOADABLE) => Err(Unready::Unfit(why)),
        429 | 503 => Err(Unready::NotYet(why)),
        // Another server may have no such route, or one with other fields.
        _ if !is_of_candor(object) => Ok(()),
        status if may_pass(status) => Err(Unready::NotYet(why)),
        _ => Err(Unready::Unfit(why)),
    }
}

/// Whether a model's object in the list has what only a Candor says of it.
fn is_of_candor(object: &Value) -> bool {
    object.get("bits_class").is_some()
}

/// The adapters of a model; null if the server has no such route.
fn adapters(server: &Server, name: Option<&str>) -> Result<Value, Unready> {
    let query = name.map(|name| ("model", name));
    let answer = server.get("/lora-adapters", query.as_slice());
    let answer = answer.map_err(not_yet)?;
    match answer.status {
        200 => Ok(comparable(answer.json().unwrap_or_default())),
        status if may_pass(status) => Err(Unready::NotYet(format!(
            "/lora-adapters answers {}",
            answer.message()
        ))),
        _ => Ok(Value::Null),
    }
}

/// A list of adapters with what decides which numbers a request gets: how it may name them, their weights, their scales. Other
/// programs list paths, too, which differ from machine to machine.
fn comparable(mut adapters: Value) -> Value {
    const COMPARED: [&str; 4] = ["id", "name", "scale", "fingerprint"];
    for adapter in adapters.as_array_mut().into_iter().flatten() {
        if let Some(fields) = adapter.as_object_mut() {
            fields.retain(|name, _| COMPARED.contains(&name.as_str()));
        }
    }
    adapters
}

/// An answer with status 200.
fn fine(answer: Result<Reply, Broken>, path: &str) -> Result<Reply, Unready> {
    let answer = answer.map_err(not_yet)?;
    let said = format!("{path} answers {}", answer.message());
    match answer.status {
        200 => Ok(answer),
        401 | 403 => Err(Unready::Unfit(format!(
            "{said} Set its key as CANDOR_SERVER__API_KEYS."
        ))),
        404 => Err(Unready::Unfit(format!(
            "{said} Pass the address of a server of the OpenAI API, without a path, as in http://127.0.0.1:8000."
        ))),
        300..=399 => Err(Unready::Unfit(format!(
            "{said} Pass the address that it redirects to."
        ))),
        status if may_pass(status) => Err(Unready::NotYet(said)),
        _ => Err(Unready::Unfit(said)),
    }
}

/// Whether this status is one of a server that may be ready later.
fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502..=599)
}

fn not_yet(broken: Broken) -> Unready {
    Unready::NotYet(broken.why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_adapters_only_what_changes_numbers_is_compared() {
        let listed = json!([
            {"id": 0, "name": "a", "scale": 1.0, "fingerprint": "0123456789ab", "path": "/here/a.gguf"},
            {"id": 1, "path": "/there/b.gguf", "scale": 0.5}
        ]);
        let expect = json!([
            {"id": 0, "name": "a", "scale": 1.0, "fingerprint": "0123456789ab"},
            {"id": 1, "scale": 0.5}
        ]);
        assert_eq!(comparable(listed), expect);
        assert_eq!(comparable(json!([])), json!([]));
        assert_eq!(comparable(Value::Null), Value::Null);
    }
}
