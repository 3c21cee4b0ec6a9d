//! `GET /docs`: the routes and their fields as a page, without scripts and without anything from other servers.

use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::ApiError;
use super::fields::{Described, Shape};
use super::route::Answers;
use super::served::Served;
use super::state::{AppState, Route};

const PAGE: &str = include_str!("docs/page.html");
const STYLE: &str = include_str!("docs/style.css");

pub fn route() -> Route {
    let about = "The routes and their fields as a web page.";
    Route::get("/docs", get(docs), about).answers_with(Answers::Page)
}

async fn docs(State(state): State<AppState>) -> Result<Response, ApiError> {
    let served = state.serves_documents().await?;
    let page = page(&state.routes, &served).map_err(|error| {
        tracing::error!(%error, "cannot render /docs");
        ApiError::internal()
    })?;
    Ok((policy(), Html(page)).into_response())
}

/// Only the page's own style is allowed.
fn policy() -> [(HeaderName, String); 1] {
    let style = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    [(
        header::CONTENT_SECURITY_POLICY,
        format!(
            "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    )]
}

fn page(routes: &[Route], served: &Served) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.add_template("page.html", PAGE)?;
    let routes: Vec<Value> = routes
        .iter()
        .map(|route| {
            let fields = route
                .fields
                .map(|fields| fields(served))
                .unwrap_or_default();
            json!({
                "method": route.method.as_str(),
                "path": route.path(),
                "about": parts(route.about),
                "fields": fields.iter().map(row).collect::<Vec<_>>(),
                "streams": matches!(route.answers, Answers::JsonOrStream(..)),
            })
        })
        .collect();
    environment.get_template("page.html")?.render(context! {
        routes => minijinja::Value::from(Serde(&routes)),
        style => minijinja::Value::from_safe_string(STYLE.to_owned()),
        model => served.name.as_str(),
        version => env!("CARGO_PKG_VERSION"),
        context_length => served.engine.context_length(),
    })
}

/// Splits a text at backticks: every second part is code.
fn parts(text: &str) -> Vec<&str> {
    text.split('`').collect()
}

fn row(field: &Described) -> Value {
    let schema = field.shape.schema();
    let default = schema.get("default").map(Value::to_string);
    let allowed = match field.shape {
        Shape::String => "text".to_owned(),
        Shape::Boolean { .. } => "true or false".to_owned(),
        Shape::Integer { least, most, .. } => format!("a whole number, {least} to {most}"),
        Shape::Number { least, most, .. } => format!("a number, {least} to {most}"),
        Shape::Other(_) => words(&schema),
    };
    json!({
        "name": field.name,
        "about": parts(field.about),
        "allowed": allowed,
        "default": if field.required { Some("required".to_owned()) } else { default },
    })
}

/// A JSON Schema in words, briefly.
fn words(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(Value::to_string).collect();
        return values.join(" or ");
    }
    if let Some(kinds) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        let kinds: Vec<String> = kinds.iter().map(words).collect();
        return kinds.join(" or ");
    }
    match schema["type"].as_str() {
        Some("array") => format!("an array of {}", words(&schema["items"])),
        Some("object") => match schema["properties"].as_object() {
            Some(fields) => {
                let names: Vec<&str> = fields.keys().map(String::as_str).collect();
                format!("an object: {}", names.join(", "))
            }
            None => "an object".to_owned(),
        },
        Some("string") => "text".to_owned(),
        Some("integer") => "a whole number".to_owned(),
        Some("number") => "a number".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        _ => "any JSON".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_in_words() {
        let check = |schema: Value, expect: &str| assert_eq!(words(&schema), expect);
        check(json!({"enum": ["a", 1]}), "\"a\" or 1");
        check(
            json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}),
            "text or an array of a whole number",
        );
        check(
            json!({"type": "object", "properties": {"a": {}, "b": {}}}),
            "an object: a, b",
        );
        check(json!({}), "any JSON");
    }
}
