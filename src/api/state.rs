//! What handlers share.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::unix_seconds;
use super::bits_class;
use super::bounds::Entries;
use super::client;
use super::counts::Counts;
use super::error::ApiError;
use super::fork_cache::ForkCache;
use super::route;
use super::served::{ChosenAdapter, ModelQuery, Name, Served};
use super::stopping::Stopping;
use crate::config::Config;
use crate::engine::{FairQueue, Models};
use crate::metrics::Load;

/// A route of this server.
pub type Route = route::Route<AppState>;

/// What handlers share.
#[derive(Clone)]
pub struct AppState {
    pub models: Models,
    pub config: Arc<Config>,
    /// All routes, including those outside the API.
    pub(super) routes: Arc<[Route]>,
    /// Whether only this machine can reach the server.
    pub(super) is_loopback: bool,
    pub(super) counts: Counts,
    pub(super) fork_cache: ForkCache,
    /// One permit for each core: see [`AppState::work`].
    cpu_permits: Arc<FairQueue>,
    /// When the server started, in seconds since 1970.
    pub(super) started: u64,
    pub stopping: Stopping,
}

impl AppState {
    pub(super) fn with_routes(
        models: Models,
        config: Arc<Config>,
        is_loopback: bool,
        routes: Vec<Route>,
    ) -> Self {
        Self {
            models,
            routes: routes.into(),
            is_loopback,
            counts: Counts::default(),
            fork_cache: ForkCache::new(&config.limits),
            cpu_permits: Arc::new(FairQueue::new(
                std::thread::available_parallelism().map_or(1, usize::from),
                // As many as may wait for or hold a slot afterwards, so that no request is rejected here that would be
                // accepted there.
                config.limits.queue_length + config.engine.parallel_sequences,
                Duration::from_millis(config.limits.queue_timeout_ms),
            )),
            started: unix_seconds(),
            stopping: Stopping::default(),
            config,
        }
    }

    /// Runs CPU work of more than a moment on the blocking pool, at most one piece per core, and to its end even if its
    /// client disconnects. Clients take turns; the wait is bounded in time and number.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = self.cpu_permits.enter(&client::current()).await?;
        with_permit(permit, work).await
    }

    /// Like [`AppState::work`], for a request whose answer has been generated: it waits as long as it takes.
    pub async fn finish<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let permit = self.cpu_permits.extend(&client::current()).await?;
        with_permit(permit, work).await
    }

    /// Answers with JSON; a large answer is serialized as [`AppState::finish`] runs work.
    pub async fn respond<T: Serialize + Send + 'static>(
        &self,
        answer: T,
        entries: &Entries,
    ) -> Result<Response, ApiError> {
        if entries.are_few() {
            return Ok(Json(answer).into_response());
        }
        self.finish(move || json(&answer)).await?
    }

    /// The model that a body is for, and what `prepare` makes of the body for it, as [`AppState::work`].
    pub async fn prepare<T: Send + 'static>(
        &self,
        body: Map<String, Value>,
        prepare: impl FnOnce(Map<String, Value>, &Served) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<(Served, T), ApiError> {
        let served = self.serves(&body).await?;
        let for_it = served.clone();
        let prepared = self.work(move || prepare(body, &for_it)).await??;
        Ok((served, prepared))
    }

    /// Answers a body with JSON that needs no generation. The JSON is serialized there too: it may have megabytes.
    pub async fn compute<T: Serialize>(
        &self,
        body: Map<String, Value>,
        answer: impl FnOnce(Map<String, Value>, &Served) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let answer = move |body, served: &Served| json(&answer(body, served)?);
        let (_, response) = self.prepare(body, answer).await?;
        Ok(response)
    }

    /// The model that a body is for, loaded if needed. 404 if no model has this name; 503 while models load at startup,
    /// or if this one cannot be loaded, or not in time.
    pub async fn serves(&self, body: &Map<String, Value>) -> Result<Served, ApiError> {
        match body.get("model") {
            // Clients that know one model only send an empty name.
            Some(Value::String(name)) if !name.is_empty() => self.serves_name(Some(name)).await,
            // A value that is no string is rejected where the field is read.
            _ => self.serves_name(None).await,
        }
    }

    /// Like [`AppState::serves`], for a route without a body.
    pub async fn serves_query(
        &self,
        query: Result<Query<ModelQuery>, QueryRejection>,
    ) -> Result<Served, ApiError> {
        let name = ModelQuery::name(query)?;
        self.serves_name(name.as_deref()).await
    }

    /// The model whose bounds the documents show: the first that is loaded, so that none is loaded just for them.
    pub async fn serves_documents(&self) -> Result<Served, ApiError> {
        let loaded = self.models.at_hand();
        let mut names = self.names()?.into_iter();
        let found = names.find(|name| name.model_index == loaded);
        self.served(found.unwrap_or_default()).await
    }

    /// Every name that `model` may have: those of the models, and then those of their LoRA adapters. A name means the first
    /// that has it.
    pub(super) fn names(&self) -> Result<Vec<Name>, ApiError> {
        let of_model = |(name, model_index)| Name {
            name,
            model_index,
            adapter: None,
        };
        let mut names: Vec<Name> = self.models.names()?.into_iter().map(of_model).collect();
        for (name, model_index, id) in self.models.adapters() {
            let parent = names.iter().find(|other| other.model_index == model_index);
            let parent = parent.map(|it| it.name.clone()).unwrap_or_default();
            if names.iter().all(|other| other.name != name) {
                names.push(Name {
                    name: name.to_owned(),
                    model_index,
                    adapter: Some(ChosenAdapter { id, parent }),
                });
            }
        }
        Ok(names)
    }

    async fn serves_name(&self, name: Option<&str>) -> Result<Served, ApiError> {
        let mut names = self.names()?.into_iter();
        let found = match name {
            Some(name) => names
                .find(|other| other.name == name)
                .ok_or_else(|| ApiError::model_not_found(name))?,
            None => names.next().unwrap_or_default(),
        };
        self.served(found).await
    }

    async fn served(&self, name: Name) -> Result<Served, ApiError> {
        let Name {
            name,
            model_index,
            adapter,
        } = name;
        let engine = self.models.engine(model_index).await?;
        if let Ok(class) = engine.bits_class(false) {
            bits_class::set(class);
        }
        Ok(Served {
            name,
            model_index,
            adapter,
            model: engine.model()?,
            engine,
            config: self.models.config(model_index),
        })
    }

    /// The current load, for the metrics.
    pub fn load_now(&self) -> Load {
        let (_, cpu_tasks_running, cpu_tasks_waiting) = self.cpu_permits.load();
        Load {
            cpu_tasks_running,
            cpu_tasks_waiting,
            ..self.models.load_now()
        }
    }
}

fn json(answer: &impl Serialize) -> Result<Response, ApiError> {
    let json = serde_json::to_vec(answer).map_err(|_| ApiError::internal())?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

async fn with_permit<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        span.in_scope(work)
    });
    done.await.map_err(|_| ApiError::internal())
}
