//! The settings that an answer was generated with, under llama-server's names.

use serde_json::{Map, Value, json};

use super::request::Form;
use crate::api::fields::json_number;
use crate::engine::Request;
use crate::params::{PARAMS, ParamValues};
use crate::sampling::SamplerName;

/// Of a request, and of the form of its answer.
pub fn of_request(request: &Request, form: &Form) -> Map<String, Value> {
    let sampling = &request.sampling;
    let mut settings = of_values(&sampling.values, sampling.samplers.iter().copied());
    settings.extend([
        ("seed".to_owned(), sampling.seed.into()),
        ("n_predict".to_owned(), request.max_tokens.into()),
        ("stop".to_owned(), request.stop.strings().into()),
        ("stream".to_owned(), request.streamed.into()),
        ("ignore_eos".to_owned(), sampling.ignore_eos.into()),
        ("n_probs".to_owned(), form.n_probs.into()),
        ("post_sampling_probs".to_owned(), form.post_sampling.into()),
    ]);
    settings
}

/// Of sampling parameters.
pub fn of_values(
    values: &ParamValues,
    samplers: impl Iterator<Item = SamplerName>,
) -> Map<String, Value> {
    let name = |name: &str| match name {
        "mirostat_mode" => "mirostat".to_owned(),
        name => name.to_owned(),
    };
    let params = PARAMS.iter();
    let mut settings: Map<String, Value> = params
        .map(|param| (name(param.name), json_number(param.get(values))))
        .collect();
    let samplers: Vec<&str> = samplers.map(SamplerName::as_str).collect();
    settings.insert("samplers".to_owned(), json!(samplers));
    settings
}
