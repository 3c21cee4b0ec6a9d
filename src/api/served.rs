//! The model that a request is for.

use std::sync::Arc;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use serde::Deserialize;

use super::error::ApiError;
use super::fields::Fields;
use crate::config::Config;
use crate::engine::{Engine, ModelInUse};
use crate::model::{Adapter, Adapters};

/// A name that a request's `model` may have.
#[derive(Debug, Clone, Default)]
pub struct Name {
    pub name: String,
    /// The model's index among all.
    pub model_index: usize,
    /// If it is the name of a LoRA adapter.
    pub adapter: Option<ChosenAdapter>,
}

/// A LoRA adapter that a request chooses by `model`.
#[derive(Debug, Clone)]
pub struct ChosenAdapter {
    /// Its index among those of its model.
    pub id: usize,
    /// The first name of its model.
    pub parent: String,
}

/// A loaded model, kept loaded while this is held.
#[derive(Clone)]
pub struct Served {
    /// The name that the client used; the model's first one if it used none.
    pub name: String,
    /// The model's index among all.
    pub model_index: usize,
    /// If that name is an adapter's.
    pub adapter: Option<ChosenAdapter>,
    pub engine: Engine,
    pub model: ModelInUse,
    /// The settings that apply to this model.
    pub config: Arc<Config>,
}

impl Served {
    /// The adapters of requests without `lora`: the one that `model` names, alone, or else those of the settings. One with a
    /// scale of 0 in the settings is switched on by its name.
    pub fn default_adapters(&self) -> Adapters {
        let Some(ChosenAdapter { id, .. }) = self.adapter else {
            return self.model.default_adapters().clone();
        };
        let scale = self.model.adapters().get(id).map_or(0.0, Adapter::scale);
        Adapters::new([(id, if scale == 0.0 { 1.0 } else { scale })])
    }

    /// 400 if `model` names an adapter, with the reason why it may not.
    pub fn refuse_adapter(&self, param: &str, why: &str) -> Result<(), ApiError> {
        match &self.adapter {
            None => Ok(()),
            Some(ChosenAdapter { parent, .. }) => Err(ApiError::field(
                param,
                format!(
                    "`model` is {:?}, the name of a LoRA adapter of {parent:?}. {why}",
                    self.name
                ),
            )),
        }
    }
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
