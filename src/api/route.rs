//! Routes. Each endpoint's file declares its own, and `api::routes` lists them; the router, the check for keys, the
//! message of 405 and the documentation all use that list.

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::routing::MethodRouter;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::answer::Answer;
use super::fields::Described;
use super::served::Served;
use super::stream::Chunk;

/// An endpoint: how it is requested, its handler with state `S`, and its documentation.
pub struct Route<S> {
    pub(super) method: Method,
    /// In axum's syntax: `{*id}` may hold slashes.
    pub(super) pattern: &'static str,
    /// Other paths of the same route, which the documentation names beside the first.
    pub(super) aliases: &'static [&'static str],
    pub(super) handler: MethodRouter<S>,
    /// In one line.
    pub(super) about: &'static str,
    /// The fields of the body, if it has one.
    pub(super) fields: Option<fn(&Served) -> Vec<Described>>,
    pub(super) answers: Answers,
    /// Whether `?model=NAME` chooses the model.
    pub(super) is_of_a_model: bool,
    /// Whether it needs no API key.
    pub(super) is_open: bool,
}

/// What comes back, as JSON Schemas. Each function adds the schemas that it refers to.
#[derive(Clone, Copy)]
pub enum Answers {
    Text,
    Page,
    /// Of the file's own type.
    File,
    Json(SchemaOf),
    /// JSON, or with `stream: true` events of another shape; the documents call them by this name.
    JsonOrStream(&'static str, SchemaAs, SchemaAs),
}

/// See [`schema_of`].
pub type SchemaOf = fn(&mut Map<String, Value>) -> Value;
/// See [`schema_as`].
pub type SchemaAs = fn(String, &mut Map<String, Value>) -> Value;

impl<S> Route<S> {
    pub fn get(pattern: &'static str, handler: MethodRouter<S>, about: &'static str) -> Self {
        Self {
            method: Method::GET,
            pattern,
            aliases: &[],
            handler,
            about,
            fields: None,
            answers: Answers::Text,
            is_of_a_model: false,
            is_open: false,
        }
    }

    pub fn post(
        pattern: &'static str,
        handler: MethodRouter<S>,
        about: &'static str,
        fields: fn(&Served) -> Vec<Described>,
    ) -> Self {
        Self {
            method: Method::POST,
            fields: Some(fields),
            ..Self::get(pattern, handler, about)
        }
    }

    /// It answers with a `T` in JSON.
    pub fn answers<T: ToSchema>(self) -> Self {
        self.answers_with(Answers::Json(schema_of::<T>))
    }

    /// It answers with choices `C`, or streams their pieces `P`.
    pub fn answers_or_streams<C: ToSchema, P: ToSchema>(self, name: &'static str) -> Self {
        let whole = schema_as::<Answer<C>, C>;
        let event = schema_as::<Chunk<'static, P>, P>;
        self.answers_with(Answers::JsonOrStream(name, whole, event))
    }

    /// It answers with a `T`, or streams events `E`.
    pub fn answers_or_sends<T: ToSchema, E: ToSchema>(self, name: &'static str) -> Self {
        self.answers_with(Answers::JsonOrStream(
            name,
            schema_as::<T, T>,
            schema_as::<E, E>,
        ))
    }

    /// It has these paths, too.
    pub fn also_at(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    /// Its query may name a model.
    pub fn of_a_model(self) -> Self {
        Self {
            is_of_a_model: true,
            ..self
        }
    }

    /// It needs no API key.
    pub fn open(self) -> Self {
        Self {
            is_open: true,
            ..self
        }
    }

    pub fn answers_with(self, answers: Answers) -> Self {
        Self { answers, ..self }
    }

    /// All its paths.
    pub fn patterns(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.pattern).chain(self.aliases.iter().copied())
    }

    /// The path as documents show it.
    pub fn path(&self) -> String {
        self.pattern.replace("{*", "{")
    }

    /// The names in its path.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.pattern
            .split('{')
            .skip(1)
            .filter_map(|part| part.split('}').next())
            .map(|name| name.trim_start_matches('*'))
    }
}

impl Answers {
    /// By content type, in OpenAPI's form.
    pub fn content(self, schemas: &mut Map<String, Value>) -> Value {
        match self {
            Self::Text => json!({"text/plain": {"schema": {"type": "string"}}}),
            Self::Page => json!({"text/html": {"schema": {"type": "string"}}}),
            Self::File => json!({"*/*": {"schema": {"type": "string"}}}),
            Self::Json(schema) => json!({"application/json": {"schema": schema(schemas)}}),
            Self::JsonOrStream(name, schema, event) => json!({
                "application/json": {"schema": schema(name.to_owned(), schemas)},
                "text/event-stream": {"schema": event(format!("{name}Event"), schemas)},
            }),
        }
    }
}

/// The pattern of a request's route, for logs and metrics: they never show paths that clients make up.
pub fn pattern(request: &Request) -> &str {
    request
        .extensions()
        .get::<MatchedPath>()
        .map_or("other", MatchedPath::as_str)
}

/// A reference to a type's JSON Schema, which is put among `schemas` with all that it refers to.
pub fn schema_of<T: ToSchema>(schemas: &mut Map<String, Value>) -> Value {
    schema_as::<T, T>(T::name().into_owned(), schemas)
}

/// Like [`schema_of`], by a name of its own: types with a parameter, here `C`, have one name whatever that is.
pub fn schema_as<T: ToSchema, C: ToSchema>(
    name: String,
    schemas: &mut Map<String, Value>,
) -> Value {
    let reference = json!({"$ref": format!("#/components/schemas/{name}")});
    let mut all = Vec::new();
    T::schemas(&mut all);
    C::schemas(&mut all);
    all.push((C::name().into_owned(), C::schema()));
    all.push((name, T::schema()));
    for (name, schema) in all {
        let schema = serde_json::to_value(schema).unwrap_or_default();
        schemas.entry(name).or_insert(schema);
    }
    reference
}
