//! Routes of llama-server that editors and tools use, in its own shapes: `/completion`, `/infill` and `/props`.
//!
//! A body becomes the request of `/v1/completions` (`request`, and `prompt` or `infill` for its prompts), which is prepared
//! and run as there (`run`); `answer` and `stream` write what comes back as llama-server does.

mod answer;
mod completion;
mod infill;
mod prompt;
mod props;
mod request;
mod run;
mod settings;
mod stream;

use super::state::Route;

pub fn routes() -> Vec<Route> {
    vec![completion::route(), infill::route(), props::route()]
}
