//! The model that a request is for.

use std::sync::Arc;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use serde::Deserialize;

use super::error::ApiError;
use super::fields::Fields;
use crate::config::Config;
use crate::engine::{Engine, ModelInUse};

/// A loaded model, kept loaded while this is held.
#[derive(Clone)]
pub struct Served {
    /// The name that the client used; the model's first one if it used none.
    pub name: String,
    /// The model's index among all.
    pub model_index: usize,
    pub engine: Engine,
    pub model: ModelInUse,
    /// The settings that apply to this model.
    pub config: Arc<Config>,
}

/// Reads the field `model`, by which the model was found before.
pub fn model_field(fields: &mut Fields) -> Result<(), ApiError> {
    let about = "A name from `GET /v1/models`. Absent or empty: the first one.";
    fields.field("model", about).string().map(|_| ())
}

/// `?model=NAME`, of a route without a body.
#[derive(Deserialize)]
pub struct ModelQuery {
    model: Option<String>,
}

impl ModelQuery {
    /// The name, if the query has one.
    pub fn name(query: Result<Query<Self>, QueryRejection>) -> Result<Option<String>, ApiError> {
        let Query(Self { model }) = query.map_err(|_| {
            ApiError::field(
                "model",
                "`model` must be in the query at most once, as percent-encoded UTF-8.",
            )
        })?;
        Ok(model.filter(|name| !name.is_empty()))
    }
}
