//! Asks a server whether it is ready, and what it has: its models, and what computes their answers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::origin::Origin;
use super::server::{Broken, Reply, Server};

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
    // Other servers may have no such route.
    if !health.is_ok() && health.status != 404 {
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
            load(server, name)?;
            list = self::list(server)?;
            object = find(&list, name, *line)?;
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

/// Has the model loaded. Other servers load theirs by themselves.
fn load(server: &Server, name: Option<&str>) -> Result<(), Unready> {
    let mut body = json!({"prompt": ""});
    if let Some(name) = name {
        body["model"] = name.into();
    }
    let answer = server.post("/tokenize", &body, None).map_err(not_yet)?;
    match answer.status {
        429 | 503 => Err(Unready::NotYet(answer.message())),
        _ => Ok(()),
    }
}

/// The adapters as the server lists them; null if it has no such route.
fn adapters(server: &Server, name: Option<&str>) -> Result<Value, Unready> {
    let query = name.map(|name| ("model", name));
    let answer = server.get("/lora-adapters", query.as_slice());
    let answer = answer.map_err(not_yet)?;
    match answer.is_ok() {
        true => Ok(answer.json().unwrap_or_default()),
        false => Ok(Value::Null),
    }
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
            "{said} Pass the address without a path, as in http://127.0.0.1:8000."
        ))),
        _ => Err(Unready::NotYet(said)),
    }
}

fn not_yet(broken: Broken) -> Unready {
    Unready::NotYet(broken.why)
}
