//! What keeps a model loaded while it is in use.

use std::ops::Deref;
use std::sync::Arc;

use crate::model::Model;

/// Keeps a model loaded as long as it exists.
pub struct ModelGuard(Box<dyn Fn() + Send + Sync>);

impl ModelGuard {
    /// `on_release` is called when this is dropped.
    pub fn new(on_release: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Box::new(on_release))
    }
}

impl std::fmt::Debug for ModelGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ModelGuard")
    }
}

impl Drop for ModelGuard {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A loaded model in use. It stays loaded, and counts as loaded, as long as this exists, so its weights are freed before
/// another model is loaded in its place.
#[derive(Debug, Clone)]
pub struct ModelInUse {
    // Dropped first.
    model: Arc<Model>,
    _guard: Option<Arc<ModelGuard>>,
}

impl ModelInUse {
    pub fn new(model: Arc<Model>, guard: Option<Arc<ModelGuard>>) -> Self {
        Self {
            model,
            _guard: guard,
        }
    }
}

impl Deref for ModelInUse {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.model
    }
}
