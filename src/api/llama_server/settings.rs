//! The settings that an answer was generated with, under llama-server's names.

use serde_json::{Map, Value, json};

use super::request::Form;
use crate::api::fields::{json_number, short};
use crate::api::served::Served;
use crate::engine::Request;
use crate::model::Adapters;
use crate::params::PARAMS;
use crate::sampling::{SamplerName, SamplingParams};

/// What is set besides sampling and the form of the answer.
struct Rest<'a> {
    /// -1: until the context is full.
    n_predict: Value,
    stop: &'a [String],
    stream: bool,
    adapters: &'a Adapters,
}

/// Of a request, and of the form of its answer.
pub fn of_request(request: &Request, form: &Form) -> Map<String, Value> {
    let rest = Rest {
        n_predict: request.max_tokens.into(),
        stop: request.stop.strings(),
        stream: request.streamed,
        adapters: &request.adapters,
    };
    settings(&request.sampling, form, &rest)
}

/// Of a request that sets none of them.
pub fn defaults(served: &Served) -> Map<String, Value> {
    let sampling = SamplingParams {
        // llama.cpp's number for a random one.
        seed: u32::MAX,
        ..SamplingParams::from(served.config.sampling.values)
    };
    let rest = Rest {
        n_predict: (-1).into(),
        stop: &[],
        stream: false,
        adapters: &served.default_adapters(),
    };
    settings(&sampling, &Form::default(), &rest)
}

fn settings(sampling: &SamplingParams, form: &Form, rest: &Rest) -> Map<String, Value> {
    let name = |name: &str| match name {
        "mirostat_mode" => "mirostat".to_owned(),
        name => name.to_owned(),
    };
    let params = PARAMS.iter();
    let mut settings: Map<String, Value> = params
        .map(|param| {
            let value = json_number(param.get(&sampling.values));
            (name(param.name), value)
        })
        .collect();
    let samplers = sampling.samplers.iter().copied().map(SamplerName::as_str);
    let biases = sampling.logit_bias.iter();
    let biases = biases.map(|&(token, bias)| json!({"token": token.0, "bias": short(bias)}));
    let adapters = rest.adapters.iter();
    let adapters = adapters.map(|(id, scale)| json!({"id": id, "scale": short(scale)}));
    let more = [
        ("samplers", samplers.collect()),
        ("repeat_last_n", form.sent.repeat_last_n.into()),
        (
            "dry_sequence_breakers",
            form.sent.dry_sequence_breakers.clone().into(),
        ),
        ("seed", sampling.seed.into()),
        ("n_predict", rest.n_predict.clone()),
        ("max_tokens", rest.n_predict.clone()),
        ("stop", rest.stop.into()),
        ("stream", rest.stream.into()),
        ("ignore_eos", sampling.ignore_eos.into()),
        ("logit_bias", biases.collect()),
        ("grammar", form.sent.grammar.clone().into()),
        ("lora", adapters.collect()),
        ("n_probs", form.n_probs.into()),
        ("post_sampling_probs", form.post_sampling.into()),
    ];
    settings.extend(more.map(|(name, value): (&str, Value)| (name.to_owned(), value)));
    settings
}
