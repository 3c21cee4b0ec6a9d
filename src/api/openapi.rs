//! `GET /openapi.json`: the routes, their fields and answers, made from the routes, from the fields as they are read, and
//! from the types that are written. Bounds are those of this server's settings.

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use serde_json::{Map, Value, json};

use super::error::{ApiError, ErrorBody};
use super::fields::Described;
use super::neutral::NEUTRAL;
use super::route::{Answers, schema_of};
use super::served::Served;
use super::state::{AppState, Route};
use crate::config::UnknownFields;
use crate::params::Slider;

pub fn route() -> Route {
    let about = "This API as an OpenAPI 3.1 document.";
    Route::get("/openapi.json", get(openapi), about).answers_with(Answers::Json(json_object))
}

async fn openapi(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let served = state.serves_documents().await?;
    Ok(Json(document(&state.routes, &served)))
}

fn json_object(_: &mut Map<String, Value>) -> Value {
    json!({"type": "object"})
}

/// The document in the form of OpenAPI 3.1.
fn document(routes: &[Route], served: &Served) -> Value {
    let mut schemas = Map::new();
    let error = schema_of::<ErrorBody>(&mut schemas);
    let mut paths = Map::new();
    for route in routes {
        let operation = operation(route, served, &error, &mut schemas);
        let entry = paths.entry(route.path()).or_insert_with(|| json!({}));
        entry[route.method.as_str().to_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Candor",
            "version": env!("CARGO_PKG_VERSION"),
            "description": env!("CARGO_PKG_DESCRIPTION"),
            "license": {"name": env!("CARGO_PKG_LICENSE")},
        },
        "paths": paths,
        "x-candor-neutral": neutral_fields(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": if served.config.server.asks_for_keys() { json!([{"key": []}]) } else { json!([]) },
    })
}

/// The fields of other APIs that all routes with a body take at some values, which change nothing.
fn neutral_fields() -> Value {
    let some = NEUTRAL
        .iter()
        .filter(|neutral| neutral.takes_any() || neutral.allowed().is_some());
    let rows = some.map(|neutral| {
        json!({
            "name": neutral.name,
            "of": neutral.of,
            "values": (!neutral.takes_any()).then(|| neutral.values()),
            "otherwise": neutral.otherwise,
        })
    });
    rows.collect()
}

fn operation(
    route: &Route,
    served: &Served,
    error: &Value,
    schemas: &mut Map<String, Value>,
) -> Value {
    let failure = |what: &str| json!({"description": what, "content": {"application/json": {"schema": error}}});
    let mut responses = json!({
        "200": {"description": "The answer.", "content": route.answers.content(schemas)},
        "503": failure("The server is full, the model is not loaded, or the server is shutting down."),
    });
    let mut operation = json!({"summary": route.about, "operationId": operation_id(route)});
    let mut parameters: Vec<Value> = route
        .parameters()
        .map(|name| {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
        })
        .collect();
    if route.is_of_a_model {
        let about = "A name from `GET /v1/models`. Absent: the first.";
        let schema = json!({"type": "string"});
        parameters
            .push(json!({"name": "model", "in": "query", "description": about, "schema": schema}));
        responses["400"] = failure("The query is invalid.");
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
        responses["404"] = failure("Nothing has that name.");
    }
    if let Some(fields) = route.fields {
        operation["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": body(&fields(served), served.config.server.unknown_fields)}},
        });
        for (status, what) in [
            ("400", "A field is invalid; `param` names it."),
            ("404", "The model does not exist."),
            ("413", "The body is too large."),
            ("415", "The body is not JSON in UTF-8."),
        ] {
            responses[status] = failure(what);
        }
    }
    if route.is_open {
        operation["security"] = json!([]);
    } else if served.config.server.asks_for_keys() {
        responses["401"] = failure("The key is missing or wrong.");
    }
    operation["responses"] = responses;
    operation
}

fn operation_id(route: &Route) -> String {
    let words = route.path();
    let words = words.split(|c: char| !c.is_ascii_alphanumeric());
    std::iter::once(route.method.as_str().to_lowercase())
        .chain(words.filter(|word| !word.is_empty()).map(str::to_owned))
        .collect::<Vec<_>>()
        .join("_")
}

/// The schema of a body with these fields and those without effect. Each may be null, which means absent.
fn body(fields: &[Described], unknown: UnknownFields) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in fields {
        let mut schema = field.shape.schema();
        if field.required {
            required.push(field.name);
        } else {
            schema = match schema.get("type") {
                Some(Value::String(kind)) if schema.get("enum").is_none() => {
                    let kind = json!([kind, "null"]);
                    schema["type"] = kind;
                    schema
                }
                _ => {
                    let default = schema.as_object_mut().and_then(|it| it.remove("default"));
                    let mut schema = json!({"anyOf": [schema, {"type": "null"}]});
                    if let Some(default) = default {
                        schema["default"] = default;
                    }
                    schema
                }
            };
        }
        schema["description"] = field.about.into();
        if let Some(Slider { from, to, step }) = field.slider {
            schema["x-candor-slider"] = json!({"minimum": from, "maximum": to, "step": step});
        }
        properties.insert(field.name.to_owned(), schema);
    }
    for neutral in NEUTRAL {
        let mut schema = json!({"description": "No effect."});
        if !neutral.takes_any() {
            let mut values = neutral.values();
            if values.is_empty() {
                continue;
            }
            values.push(Value::Null);
            schema["enum"] = values.into();
        }
        properties.entry(neutral.name).or_insert(schema);
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if unknown == UnknownFields::Reject {
        // Null is as good as absent.
        schema["additionalProperties"] = json!({"type": "null"});
    }
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}
