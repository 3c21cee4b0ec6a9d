//! Small models, for tests.

use std::sync::Arc;

use crate::config::Config;
use crate::model::{Model, write_specimen};

/// ggml's numbers of kinds of weights.
pub const F16: u32 = 1;
pub const Q4_1: u32 = 3;

/// A small model with weights of this kind.
pub fn specimen(kind: u32) -> Arc<Model> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("specimen.gguf");
    let mut file = std::fs::File::create(&path).expect("a file");
    write_specimen(&[kind], &mut file).expect("written");
    drop(file);
    Arc::new(Model::load(&path, &Config::default().model).expect("the model loads"))
}
