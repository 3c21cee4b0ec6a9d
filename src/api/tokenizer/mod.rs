//! Text ⇄ tokens without evaluation, under the names that clients know: `/tokenize`, `/detokenize`, `/tokenizer_info` and
//! `/apply-template` of vLLM and llama-server, and `/extras/…` of llama-cpp-python.

mod detokenize;
mod info;
mod limits;
mod template;
mod tokenize;

use super::state::Route;

pub fn routes() -> Vec<Route> {
    vec![
        tokenize::route(),
        detokenize::route(),
        info::route(),
        template::route(),
        tokenize::extras_route(),
        tokenize::extras_count_route(),
        detokenize::extras_route(),
    ]
}
