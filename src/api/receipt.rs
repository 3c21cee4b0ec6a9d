//! A receipt: everything needed to repeat a request and compare the results bit by bit, as `candor verify` does.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::error::ApiError;
use super::fields::{json_number, short};
use super::gathered::{Gathered, finite};
use super::generate::Generate;
use super::served::Served;
use crate::engine::Evaluation;
use crate::logprobs::TokenLogprob;
use crate::model::{self, Adapters, FileHash, Token};
use crate::params::{PARAMS, ParamValues};

/// The `version` of receipts of this form.
pub const VERSION: u32 = 1;

const DISTRIBUTION: &str = "log-softmax of the raw logits over the whole vocabulary, in nats";

/// The routes whose answers can have a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReceiptRoute {
    #[serde(rename = "/v1/completions")]
    Completions,
    #[serde(rename = "/v1/chat/completions")]
    Chat,
    #[serde(rename = "/v1/responses")]
    Responses,
}

impl ReceiptRoute {
    pub const ALL: [Self; 3] = [Self::Completions, Self::Chat, Self::Responses];

    pub fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
        }
    }
}

/// A receipt of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// The version of the receipt format: 1.
    pub version: u32,
    /// Where the request was sent: "/v1/completions", "/v1/chat/completions" or "/v1/responses".
    #[schema(value_type = String)]
    pub route: ReceiptRoute,
    /// The request, with the seed that was used and the defaults of the server's settings.
    #[schema(value_type = Object)]
    pub request: Map<String, Value>,
    pub model: ReceiptModel,
    /// The LoRA adapters that applied.
    pub adapters: Vec<ReceiptAdapter>,
    pub engine: ReceiptEngine,
    /// What the logprobs are.
    pub distribution: String,
    pub prompts: Vec<ReceiptPrompt>,
    pub choices: Vec<ReceiptChoice>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptModel {
    /// The name of its file, without the ending.
    pub name: String,
    /// One file, unless the model is split.
    #[schema(value_type = Vec<ReceiptFile>)]
    pub files: Vec<FileHash>,
}

/// [`FileHash`], for the documentation.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it only describes")]
struct ReceiptFile {
    bytes: u64,
    /// Of the whole file, in lower-case hexadecimal.
    sha256: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptAdapter {
    pub name: String,
    /// Twelve hexadecimal digits that identify its file.
    pub fingerprint: String,
    pub scale: f32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptEngine {
    /// Candor's version.
    pub candor: String,
    /// llama.cpp's version.
    pub llama_cpp: String,
    /// llama.cpp's description of the CPU and of its own build.
    pub system: String,
    #[serde(flatten)]
    pub evaluation: Evaluation,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptPrompt {
    pub token_ids: Vec<i32>,
    /// With `echo` and `logprobs`: the log-probabilities of its tokens; null for the first, which nothing predicts. Each is
    /// the shortest decimal that identifies the f32.
    pub token_logprobs: Option<Vec<Option<f32>>>,
    /// With alternatives: SHA-256 of the id (i32) and logprob (f32, both little-endian) of each, most likely first, token
    /// by token.
    pub top_sha256: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptChoice {
    /// The index of the prompt that it continues.
    pub prompt: usize,
    /// How many of the prompt's first tokens came from the cache; the others were evaluated.
    pub cached_tokens: usize,
    pub token_ids: Vec<i32>,
    /// The log-probabilities of these tokens, whether the answer shows them or not. Each is the shortest decimal that
    /// identifies the f32.
    pub token_logprobs: Vec<f32>,
    /// As for the prompt.
    pub top_sha256: Option<String>,
    /// "stop" or "length".
    pub finish_reason: String,
}

/// A request that asks for a receipt.
pub struct PendingReceipt {
    route: ReceiptRoute,
    request: Map<String, Value>,
}

impl PendingReceipt {
    /// `None` if the body does not ask for a receipt.
    pub fn new(route: ReceiptRoute, body: &Map<String, Value>) -> Option<Self> {
        let asks = body.get("receipt") == Some(&Value::Bool(true));
        asks.then(|| Self {
            route,
            request: body.clone(),
        })
    }

    /// The receipt, without the results of the request.
    pub async fn begin(self, generate: &Generate, served: &Served) -> Result<Receipt, ApiError> {
        let files = served.engine.files().await?;
        let evaluation = served.engine.evaluation(generate.exact)?;
        let mut request = self.request;
        let defaults = &served.config.sampling;
        add_defaults(
            &mut request,
            self.route,
            defaults.max_tokens,
            generate.values(),
        );
        request.insert("seed".to_owned(), json!(generate.seed()));
        let loaded = served.model.adapters();
        if !loaded.is_empty() && request.get("lora").is_none_or(Value::is_null) {
            let all = generate.adapters.iter();
            let all = all.map(|(id, scale)| json!({"id": id, "scale": short(scale)}));
            request.insert("lora".to_owned(), all.collect());
        }
        if let Some(adapter) = &served.adapter {
            request.insert("model".to_owned(), adapter.parent.clone().into());
        }
        Ok(Receipt {
            version: VERSION,
            route: self.route,
            request,
            model: ReceiptModel {
                name: served.model.name().to_owned(),
                files: files.to_vec(),
            },
            adapters: adapters(&generate.adapters, served),
            engine: ReceiptEngine {
                candor: env!("CARGO_PKG_VERSION").to_owned(),
                llama_cpp: model::llama_cpp_version(),
                system: served.model.system_info(),
                evaluation,
            },
            distribution: DISTRIBUTION.to_owned(),
            prompts: Vec::new(),
            choices: Vec::new(),
        })
    }
}

/// Adds what a request leaves to the server's settings.
fn add_defaults(
    request: &mut Map<String, Value>,
    route: ReceiptRoute,
    max_tokens: usize,
    values: &ParamValues,
) {
    // There, null fills the context, and chats have no default.
    if route == ReceiptRoute::Completions && !request.contains_key("max_tokens") {
        request.insert("max_tokens".to_owned(), max_tokens.into());
    }
    for param in PARAMS {
        let value = request.entry(param.name).or_insert(Value::Null);
        if value.is_null() {
            *value = json_number(param.get(values));
        }
    }
}

fn adapters(applied: &Adapters, served: &Served) -> Vec<ReceiptAdapter> {
    let applied = applied.iter().filter_map(|(id, scale)| {
        let adapter = served.model.adapters().get(id)?;
        Some(ReceiptAdapter {
            name: adapter.name().to_owned(),
            fingerprint: adapter.fingerprint().to_owned(),
            scale,
        })
    });
    applied.collect()
}

impl Receipt {
    /// The request, to be sent again to any server: it contains every sampling parameter. Older receipts lack those that
    /// were not settings yet; they had the built-in defaults.
    pub fn request(&self) -> Map<String, Value> {
        let mut request = self.request.clone();
        for param in PARAMS {
            let value = || json_number(param.default());
            request.entry(param.name).or_insert_with(value);
        }
        request
    }

    /// Adds a prompt and the choices that continue it, at least one.
    pub fn add<'a>(&mut self, tokens: &[Token], choices: impl IntoIterator<Item = &'a Gathered>) {
        let prompt = self.prompts.len();
        for gathered in choices {
            if self.prompts.len() == prompt {
                self.prompts
                    .push(of_prompt(tokens, &gathered.prompt.logprobs));
            }
            let scores = || {
                let tokens = gathered.tokens.iter();
                tokens.filter_map(|token| token.details.logprob.as_deref())
            };
            self.choices.push(ReceiptChoice {
                prompt,
                cached_tokens: gathered.prompt.cached_tokens,
                token_ids: gathered.tokens.iter().map(|it| it.token.0).collect(),
                token_logprobs: scores().map(|score| finite(score.logprob)).collect(),
                top_sha256: digest(scores()),
                finish_reason: gathered.reason.as_str().to_owned(),
            });
        }
    }
}

fn of_prompt(tokens: &[Token], scores: &[Arc<TokenLogprob>]) -> ReceiptPrompt {
    let logprobs = || {
        let scored = scores.iter().map(|score| Some(finite(score.logprob)));
        let unscored = tokens.len().saturating_sub(scores.len());
        std::iter::repeat_n(None, unscored).chain(scored).collect()
    };
    ReceiptPrompt {
        token_ids: tokens.iter().map(|token| token.0).collect(),
        token_logprobs: (!scores.is_empty()).then(logprobs),
        top_sha256: digest(scores.iter().map(Arc::as_ref)),
    }
}

/// The hash of the alternatives of all tokens; `None` if there are none.
fn digest<'a>(scores: impl Iterator<Item = &'a TokenLogprob>) -> Option<String> {
    let mut hash = Sha256::new();
    let mut any = false;
    for (token, logprob) in scores.flat_map(|score| &score.top) {
        any = true;
        hash.update(token.0.to_le_bytes());
        hash.update(logprob.to_le_bytes());
    }
    any.then(|| model::hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KvType, Mode};
    use crate::engine::{FinishReason, PromptOutput, Report, TokenDetails, TokenOutput};
    use crate::logprobs::tests::scored;
    use crate::model::Routines;

    fn gathered(cached_tokens: usize, tokens: &[TokenLogprob]) -> Gathered {
        Gathered {
            prompt: PromptOutput {
                cached_tokens,
                logprobs: vec![Arc::new(scored(5, -0.25, &[(7, -0.125)]))],
                rows: Vec::new(),
            },
            tokens: tokens
                .iter()
                .map(|score| TokenOutput {
                    token: score.token,
                    text: String::new(),
                    offset: 0,
                    details: TokenDetails {
                        logprob: Some(Arc::new(score.clone())),
                        ..TokenDetails::default()
                    },
                })
                .collect(),
            report: Report::default(),
            reason: FinishReason::Length,
        }
    }

    #[test]
    fn prompts_and_choices_are_written_bit_by_bit() {
        let evaluation = Evaluation {
            mode: Mode::Exact,
            flash_attention: false,
            kv_type_k: KvType::f16,
            kv_type_v: KvType::f16,
            context_length: 2048,
            batch_tokens: 512,
            prompt_chunk_tokens: 128,
            logits_rows: 64,
            contexts: 1,
            decode_width: 4,
            least_width: 1,
            threads: None,
            bits_class: "avx2-00000000".into(),
            routines: Some(Routines::ALL),
        };
        let mut receipt = Receipt {
            version: VERSION,
            route: ReceiptRoute::Completions,
            request: Map::new(),
            model: ReceiptModel {
                name: String::new(),
                files: Vec::new(),
            },
            adapters: Vec::new(),
            engine: ReceiptEngine {
                candor: "0.1.0".to_owned(),
                llama_cpp: "1".to_owned(),
                system: "CPU".to_owned(),
                evaluation,
            },
            distribution: String::new(),
            prompts: Vec::new(),
            choices: Vec::new(),
        };
        // Neither is a short decimal, and one is a zero with a sign.
        let (odd, zero) = (-0.1_f32.sqrt(), -0.0_f32);
        let one = gathered(0, &[scored(1, odd, &[]), scored(2, f32::NEG_INFINITY, &[])]);
        let other = gathered(2, &[scored(3, zero, &[(3, zero), (4, odd)])]);
        receipt.add(&[Token(4), Token(5)], [&one, &other]);
        receipt.add(&[Token(4), Token(5)], [&one]);
        assert_eq!((receipt.prompts.len(), receipt.choices.len()), (2, 3));
        assert_eq!(receipt.prompts[0].token_ids, [4, 5]);
        assert_eq!(
            receipt.prompts[0].token_logprobs,
            Some(vec![None, Some(-0.25)])
        );
        let [first, second, third] = &receipt.choices[..] else {
            panic!("three choices")
        };
        assert_eq!((first.prompt, second.prompt, third.prompt), (0, 0, 1));
        assert_eq!((first.cached_tokens, second.cached_tokens), (0, 2));
        assert_eq!(first.token_logprobs, [odd, -9999.0]);
        assert_eq!(first.top_sha256, None);
        // sha256 of 03000000 00000080 04000000 and the bits of `odd`.
        let mut hash = Sha256::new();
        for part in [3_u32, zero.to_bits(), 4, odd.to_bits()] {
            hash.update(part.to_le_bytes());
        }
        assert_eq!(second.top_sha256, Some(model::hex(&hash.finalize())));
        let text = serde_json::to_string(&receipt).expect("it is written");
        let again: Receipt = serde_json::from_str(&text).expect("it is read");
        assert_eq!(again, receipt);
        let bits = |receipt: &Receipt| receipt.choices[1].token_logprobs[0].to_bits();
        assert_eq!(bits(&again), zero.to_bits());
    }

    #[test]
    fn a_receipt_is_begun_if_the_request_asks_for_one() {
        let check = |body: Value, expect: bool| {
            let body = body.as_object().expect("an object");
            let pending = PendingReceipt::new(ReceiptRoute::Completions, body);
            assert_eq!(pending.is_some(), expect, "{body:?}");
        };
        check(json!({"prompt": "a"}), false);
        check(json!({"prompt": "a", "receipt": false}), false);
        check(json!({"prompt": "a", "receipt": true}), true);
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().expect("an object")
    }

    #[test]
    fn a_receipt_holds_what_the_request_leaves_to_the_settings() {
        let values = ParamValues {
            temperature: 0.7,
            top_k: 7,
            ..ParamValues::default()
        };
        let check = |route, body: Value, max_tokens: Option<Value>| {
            let mut request = object(body.clone());
            add_defaults(&mut request, route, 5, &values);
            for param in PARAMS {
                let asked = body.get(param.name).filter(|it| !it.is_null());
                let expect = asked.cloned().unwrap_or(json_number(param.get(&values)));
                assert_eq!(request[param.name], expect, "{body}");
            }
            assert_eq!(request["temperature"], json!(0.7));
            assert_eq!(request.get("max_tokens").cloned(), max_tokens, "{body}");
        };
        let (completions, chat) = (ReceiptRoute::Completions, ReceiptRoute::Chat);
        check(
            completions,
            json!({"prompt": "a", "top_k": 1}),
            Some(json!(5)),
        );
        check(completions, json!({"top_k": null}), Some(json!(5)));
        check(completions, json!({"max_tokens": null}), Some(Value::Null));
        check(completions, json!({"max_tokens": 2}), Some(json!(2)));
        // By the route, whatever fields the request has.
        check(completions, json!({"messages": []}), Some(json!(5)));
        check(chat, json!({"messages": []}), None);
        check(chat, json!({}), None);
        check(chat, json!({"max_tokens": 2}), Some(json!(2)));
    }

    #[test]
    fn routes_are_written_as_their_paths() {
        for route in ReceiptRoute::ALL {
            assert_eq!(json!(route), json!(route.path()));
        }
    }
}
