//! A receipt: all that is needed to run a request again, and to compare what comes with what came, bit by bit.
//! `candor verify` does both.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::error::ApiError;
use super::fields::short;
use super::gathered::{Gathered, finite};
use super::generate::Generate;
use super::served::Served;
use crate::config::{KvType, Mode};
use crate::engine::Evaluation;
use crate::logprobs::TokenLogprob;
use crate::model::{self, Adapters, FileHash, Routines, Token};

/// What stands in `version`; another number is another form.
pub const VERSION: u32 = 1;

const DISTRIBUTION: &str = "log-softmax of the raw logits over the whole vocabulary, in nats";

/// A receipt of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// Of this form: 1.
    pub version: u32,
    /// Where the request was sent.
    pub route: String,
    /// The request, with the seed that was used, and with the defaults that the server's settings gave it.
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
    /// The file's, without its ending.
    pub name: String,
    /// One, unless the model is split.
    #[schema(value_type = Vec<ReceiptFile>)]
    pub files: Vec<FileHash>,
}

/// [`FileHash`], for the documents.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it only describes")]
struct ReceiptFile {
    bytes: u64,
    /// Of the whole file, in lower-case hex.
    sha256: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptAdapter {
    pub name: String,
    /// Twelve hexadecimal digits that tell its file from others.
    pub fingerprint: String,
    pub scale: f32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptEngine {
    /// Candor's version.
    pub candor: String,
    /// llama.cpp's.
    pub llama_cpp: String,
    /// What llama.cpp says of the CPU and of how it was built.
    pub system: String,
    /// The name of all that decides how numbers are rounded; none in receipts of older versions.
    #[serde(default)]
    pub bits_class: String,
    /// Layouts that weights could be put into; none in receipts of older versions.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub routines: Option<Routines>,
    /// "exact" or "throughput"; the former, too, where the request asked for it.
    #[schema(value_type = String)]
    pub mode: Mode,
    pub flash_attention: bool,
    /// Number format of the cached keys.
    #[schema(value_type = String)]
    pub kv_type_k: KvType,
    /// Number format of the cached values.
    #[schema(value_type = String)]
    pub kv_type_v: KvType,
    /// Tokens that a sequence could hold.
    pub context_length: usize,
    /// Where prompts were cut in any case.
    pub batch_tokens: usize,
    /// Prompt tokens of one decode, at most.
    pub prompt_chunk_tokens: usize,
    /// Rows of logits of one decode, at most, where a prompt was scored.
    pub logits_rows: usize,
    /// llama.cpp contexts.
    pub contexts: usize,
    /// Sequences whose tokens shared a decode, at most.
    pub decode_width: usize,
    /// Threads of a decode, where their number moves bits (with flash attention); else null.
    pub threads: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptPrompt {
    pub token_ids: Vec<i32>,
    /// With `echo` and `logprobs`: those of its tokens; null for the first, which nothing predicts. Each is the shortest
    /// decimal that is this f32 and no other.
    pub token_logprobs: Option<Vec<Option<f32>>>,
    /// With alternatives: SHA-256 over the id (i32) and logprob (f32, both little-endian) of each, likeliest first, token
    /// by token.
    pub top_sha256: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptChoice {
    /// Which of the prompts it continues.
    pub prompt: usize,
    /// So many of the prompt's first tokens came from the cache; the others were evaluated.
    pub cached_tokens: usize,
    pub token_ids: Vec<i32>,
    /// Of these tokens, whether the answer shows them or not. Each is the shortest decimal that is this f32 and no other.
    pub token_logprobs: Vec<f32>,
    /// As of the prompt.
    pub top_sha256: Option<String>,
    /// "stop" or "length".
    pub finish_reason: String,
}

/// The receipt of a request that has not run yet: its body.
pub struct PendingReceipt(Map<String, Value>);

impl PendingReceipt {
    /// Of a body that asks for a receipt, before its fields are read.
    pub fn of(body: &Map<String, Value>) -> Option<Self> {
        let asks = body.get("receipt") == Some(&Value::Bool(true));
        asks.then(|| Self(body.clone()))
    }

    /// The receipt, without the output of the request.
    pub async fn begin(
        self,
        route: &'static str,
        generate: &Generate,
        served: &Served,
    ) -> Result<Receipt, ApiError> {
        let files = served.engine.files().await?;
        let evaluation = served.engine.evaluation(generate.exact)?;
        Ok(Receipt {
            version: VERSION,
            route: route.to_owned(),
            request: filled(self.0, generate, served),
            model: ReceiptModel {
                name: served.model.name().to_owned(),
                files: files.to_vec(),
            },
            adapters: adapters(&generate.adapters, served),
            engine: engine(evaluation, served.model.system_info()),
            distribution: DISTRIBUTION.to_owned(),
            prompts: Vec::new(),
            choices: Vec::new(),
        })
    }
}

/// The request with what the server chose for it: the seed, and what its settings say where the request says nothing.
fn filled(
    mut request: Map<String, Value>,
    generate: &Generate,
    served: &Served,
) -> Map<String, Value> {
    let defaults = serde_json::to_value(&served.config.sampling);
    let defaults = defaults.unwrap_or_default();
    for (name, default) in defaults.as_object().into_iter().flatten() {
        // Conversations have no default of `max_tokens`, and elsewhere null is a wish of its own.
        if name == "max_tokens" && (request.contains_key("messages") || request.contains_key(name))
        {
            continue;
        }
        let value = request.entry(name.clone()).or_insert(Value::Null);
        if value.is_null() {
            *value = match default.as_f64() {
                Some(number) if default.is_f64() => short(number as f32),
                _ => default.clone(),
            };
        }
    }
    request.insert("seed".to_owned(), json!(generate.seed()));
    let loaded = served.model.adapters();
    if !loaded.is_empty() && request.get("lora").is_none_or(Value::is_null) {
        let all = generate.adapters.iter();
        let all = all.map(|(id, scale)| json!({"id": id, "scale": short(scale)}));
        request.insert("lora".to_owned(), all.collect());
    }
    request
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

fn engine(evaluation: Evaluation, system: String) -> ReceiptEngine {
    let Evaluation {
        mode,
        flash_attention,
        kv_type_k,
        kv_type_v,
        context_length,
        batch_tokens,
        prompt_chunk_tokens,
        logits_rows,
        contexts,
        decode_width,
        threads,
        bits_class,
        routines,
    } = evaluation;
    ReceiptEngine {
        candor: env!("CARGO_PKG_VERSION").to_owned(),
        llama_cpp: model::llama_cpp_version(),
        system,
        bits_class: bits_class.to_string(),
        routines: Some(routines),
        mode,
        flash_attention,
        kv_type_k,
        kv_type_v,
        context_length,
        batch_tokens,
        prompt_chunk_tokens,
        logits_rows,
        contexts,
        decode_width,
        threads,
    }
}

impl Receipt {
    /// Adds a prompt and the choices that continue it, of which there is one at least.
    pub fn add<'a>(&mut self, tokens: &[Token], choices: impl IntoIterator<Item = &'a Gathered>) {
        let prompt = self.prompts.len();
        for gathered in choices {
            if self.prompts.len() == prompt {
                self.prompts
                    .push(of_prompt(tokens, &gathered.prompt.logprobs));
            }
            let scores = || {
                let tokens = gathered.tokens.iter();
                tokens.filter_map(|token| token.told.logprob.as_deref())
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
        std::iter::once(None).chain(scored).collect()
    };
    ReceiptPrompt {
        token_ids: tokens.iter().map(|token| token.0).collect(),
        token_logprobs: (!scores.is_empty()).then(logprobs),
        top_sha256: digest(scores.iter().map(Arc::as_ref)),
    }
}

/// Of the alternatives of all tokens; `None` if there are none.
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
    use crate::engine::{FinishReason, PromptOutput, TokenOutput, Told};

    fn score(token: i32, logprob: f32, top: &[(i32, f32)]) -> Arc<TokenLogprob> {
        Arc::new(TokenLogprob {
            token: Token(token),
            logprob,
            top: top
                .iter()
                .map(|&(id, logprob)| (Token(id), logprob))
                .collect(),
            named: Vec::new(),
            detail: None,
        })
    }

    fn gathered(cached_tokens: usize, tokens: &[Arc<TokenLogprob>]) -> Gathered {
        Gathered {
            prompt: PromptOutput {
                cached_tokens,
                logprobs: vec![score(5, -0.25, &[(7, -0.125)])],
                rows: Vec::new(),
            },
            tokens: tokens
                .iter()
                .map(|score| TokenOutput {
                    token: score.token,
                    text: String::new(),
                    offset: 0,
                    told: Told {
                        logprob: Some(Arc::clone(score)),
                        ..Told::default()
                    },
                })
                .collect(),
            reason: FinishReason::Length,
        }
    }

    #[test]
    fn prompts_and_choices_are_told_bit_by_bit() {
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
            threads: None,
            bits_class: "avx2-00000000".into(),
            routines: Routines::ALL,
        };
        let mut receipt = Receipt {
            version: VERSION,
            route: String::new(),
            request: Map::new(),
            model: ReceiptModel {
                name: String::new(),
                files: Vec::new(),
            },
            adapters: Vec::new(),
            engine: engine(evaluation, "CPU".to_owned()),
            distribution: String::new(),
            prompts: Vec::new(),
            choices: Vec::new(),
        };
        // Neither is a short decimal, and one is a zero with a sign.
        let (odd, zero) = (-0.1_f32.sqrt(), -0.0_f32);
        let one = gathered(0, &[score(1, odd, &[]), score(2, f32::NEG_INFINITY, &[])]);
        let other = gathered(2, &[score(3, zero, &[(3, zero), (4, odd)])]);
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
    fn a_receipt_is_pending_where_one_is_asked_for() {
        let check = |body: Value, expect: bool| {
            let body = body.as_object().expect("an object");
            assert_eq!(PendingReceipt::of(body).is_some(), expect, "{body:?}");
        };
        check(json!({"prompt": "a"}), false);
        check(json!({"prompt": "a", "receipt": false}), false);
        check(json!({"prompt": "a", "receipt": true}), true);
    }
}
