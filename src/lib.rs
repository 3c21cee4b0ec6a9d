//! Candor: an OpenAI-compatible completion server whose log-probabilities can be trusted.

pub mod api;
pub mod config;
pub mod engine;
pub mod logprobs;
pub mod model;
pub mod sampling;
