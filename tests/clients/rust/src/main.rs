//! async-openai, a client in Rust whose types are strict: what it cannot parse is an error.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;

use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::{
    ChatCompletionMessageToolCalls, CreateChatCompletionRequest, CreateChatCompletionResponse,
    FinishReason,
};
use async_openai::types::completions::{CreateCompletionRequest, CreateCompletionResponse};
use async_openai::types::embeddings::CreateEmbeddingRequest;
use futures::StreamExt;
use serde_json::{Value, json};

type Outcome = Result<(), Box<dyn Error>>;

const PROMPT: &str = "The capital of Michigan is ";

struct Candor {
    client: Client<OpenAIConfig>,
    model: String,
}

/// Fails the check unless this holds.
fn ensure(holds: bool, otherwise: impl Into<String>) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(otherwise.into().into())
    }
}

fn client(url: &str, key: &str) -> Client<OpenAIConfig> {
    let config = OpenAIConfig::new()
        .with_api_base(format!("{url}/v1"))
        .with_api_key(key);
    Client::with_config(config)
}

/// The version that Cargo.lock gives.
fn version() -> &'static str {
    include_str!("../Cargo.lock")
        .split_once("name = \"async-openai\"\nversion = \"")
        .and_then(|(_, rest)| rest.split('"').next())
        .unwrap_or_default()
}

async fn check(what: &str, run: impl Future<Output = Outcome>) {
    let why = run.await.err().map(|error| error.to_string());
    let line = json!({
        "client": "async-openai", "version": format!("async-openai {}", version()), "check": what,
        "passed": why.is_none(), "why": why.unwrap_or_default(),
    });
    println!("{line}");
}

/// A request of the client's type, with these fields over those that all have.
fn with<T: serde::de::DeserializeOwned>(
    common: Value,
    fields: Value,
) -> Result<T, serde_json::Error> {
    let mut all = common;
    if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields) {
        all.extend(fields);
    }
    serde_json::from_value(all)
}

impl Candor {
    fn completion(&self, fields: Value) -> Result<CreateCompletionRequest, serde_json::Error> {
        with(
            json!({"model": self.model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0.0}),
            fields,
        )
    }

    fn chat(&self, fields: Value) -> Result<CreateChatCompletionRequest, serde_json::Error> {
        let messages = json!([{"role": "user", "content": "Name a city."}]);
        with(
            json!({"model": self.model, "messages": messages, "max_completion_tokens": 64, "temperature": 0.0}),
            fields,
        )
    }

    async fn complete(&self, fields: Value) -> Result<CreateCompletionResponse, Box<dyn Error>> {
        Ok(self
            .client
            .completions()
            .create(self.completion(fields)?)
            .await?)
    }

    async fn converse(
        &self,
        fields: Value,
    ) -> Result<CreateChatCompletionResponse, Box<dyn Error>> {
        Ok(self.client.chat().create(self.chat(fields)?).await?)
    }

    async fn models(&self) -> Outcome {
        let found = self.client.models().retrieve(&self.model).await?;
        ensure(found.id == self.model, found.id)
    }

    async fn completions(&self) -> Outcome {
        let answer = self.complete(json!({"logprobs": 3})).await?;
        let choice = &answer.choices[0];
        let logprobs = choice.logprobs.as_ref().ok_or("no logprobs")?;
        let lengths = [
            logprobs.tokens.len(),
            logprobs.token_logprobs.len(),
            logprobs.top_logprobs.len(),
            logprobs.text_offset.len(),
        ];
        ensure(lengths == [12; 4], format!("{lengths:?}"))?;
        ensure(
            logprobs.tokens.concat() == choice.text,
            "the tokens are not the text",
        )?;
        let usage = answer.usage.ok_or("no usage")?;
        ensure(usage.completion_tokens == 12, "usage")
    }

    async fn echo(&self) -> Outcome {
        let answer = self
            .complete(json!({"echo": true, "max_tokens": 0, "logprobs": 1}))
            .await?;
        let choice = &answer.choices[0];
        let logprobs = choice.logprobs.as_ref().ok_or("no logprobs")?;
        ensure(choice.text == PROMPT, choice.text.clone())?;
        ensure(
            logprobs.token_logprobs[0].is_none(),
            "the first token has a logprob",
        )?;
        ensure(
            logprobs.token_logprobs[1..].iter().all(Option::is_some),
            "a logprob is missing",
        )
    }

    async fn completion_stream(&self) -> Outcome {
        let whole = self.complete(json!({"logprobs": 2})).await?;
        let request = self.completion(json!({"logprobs": 2}))?;
        let mut stream = self.client.completions().create_stream(request).await?;
        let (mut text, mut logprobs) = (String::new(), Vec::new());
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            text += &chunk.choices[0].text;
            logprobs.extend(
                chunk.choices[0]
                    .logprobs
                    .iter()
                    .flat_map(|part| part.token_logprobs.clone()),
            );
        }
        let choice = &whole.choices[0];
        ensure(text == choice.text, text)?;
        let wanted = choice
            .logprobs
            .as_ref()
            .map(|logprobs| logprobs.token_logprobs.clone());
        ensure(Some(logprobs) == wanted, "the logprobs differ")
    }

    async fn prompts(&self) -> Outcome {
        let alone = self.complete(json!({})).await?;
        let both = self
            .complete(json!({"prompt": [PROMPT, "Once"], "n": 1}))
            .await?;
        ensure(
            both.choices.len() == 2 && both.choices[1].index == 1,
            "two choices",
        )?;
        ensure(
            both.choices[0].text == alone.choices[0].text,
            "the first is not as alone",
        )?;
        let ids = self
            .complete(json!({"prompt": [[1, 2, 3], [4, 5]], "seed": 1}))
            .await?;
        ensure(ids.choices.len() == 2, "two choices of ids")
    }

    async fn chats(&self) -> Outcome {
        let answer = self
            .converse(json!({"logprobs": true, "top_logprobs": 2}))
            .await?;
        let choice = &answer.choices[0];
        let entries = choice
            .logprobs
            .as_ref()
            .and_then(|logprobs| logprobs.content.clone());
        let said: String = entries
            .iter()
            .flatten()
            .map(|entry| entry.token.as_str())
            .collect();
        ensure(choice.message.content.as_ref() == Some(&said), said)
    }

    async fn chat_stream(&self) -> Outcome {
        let whole = self.converse(json!({})).await?;
        let request = self.chat(json!({"stream_options": {"include_usage": true}}))?;
        let mut stream = self.client.chat().create_stream(request).await?;
        let (mut text, mut usage) = (String::new(), None);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            usage = chunk.usage.or(usage);
            text.extend(
                chunk
                    .choices
                    .first()
                    .and_then(|choice| choice.delta.content.clone()),
            );
        }
        ensure(
            whole.choices[0].message.content.as_ref() == Some(&text),
            text,
        )?;
        let tokens = usage.map(|usage| usage.completion_tokens);
        ensure(
            tokens == whole.usage.map(|usage| usage.completion_tokens),
            "usage",
        )
    }

    async fn tools(&self) -> Outcome {
        let schema = json!({
            "type": "object", "properties": {"city": {"enum": ["Lansing", "Detroit"]}},
            "required": ["city"], "additionalProperties": false,
        });
        let forced = json!({
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": schema}}],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        });
        let answer = self.converse(forced.clone()).await?;
        let calls = answer.choices[0]
            .message
            .tool_calls
            .as_deref()
            .unwrap_or_default();
        let [ChatCompletionMessageToolCalls::Function(call)] = calls else {
            return Err(format!("{calls:?}").into());
        };
        let arguments: HashMap<String, String> = serde_json::from_str(&call.function.arguments)?;
        ensure(
            ["Lansing", "Detroit"].contains(&arguments["city"].as_str()),
            "arguments",
        )?;
        let mut stream = self.client.chat().create_stream(self.chat(forced)?).await?;
        let (mut streamed, mut reason) = (String::new(), None);
        while let Some(chunk) = stream.next().await {
            let choice = chunk?.choices.remove(0);
            reason = choice.finish_reason.or(reason);
            let pieces = choice.delta.tool_calls.into_iter().flatten();
            streamed.extend(pieces.filter_map(|piece| piece.function?.arguments));
        }
        ensure(streamed == call.function.arguments, streamed)?;
        ensure(
            reason == answer.choices[0].finish_reason,
            format!("{reason:?}"),
        )?;
        ensure(
            matches!(reason, Some(FinishReason::Stop | FinishReason::ToolCalls)),
            format!("{reason:?}"),
        )
    }

    async fn schema(&self) -> Outcome {
        let schema = json!({
            "type": "object", "properties": {"size": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["size"], "additionalProperties": false,
        });
        let form = json!({"type": "json_schema", "json_schema": {"name": "size", "schema": schema, "strict": true}});
        let answer = self.converse(json!({"response_format": form})).await?;
        let text = answer.choices[0]
            .message
            .content
            .as_deref()
            .unwrap_or_default();
        let object: HashMap<String, u8> = serde_json::from_str(text)?;
        ensure(object["size"] <= 9, text)
    }

    async fn embeddings(&self) -> Outcome {
        let input = json!(["a cat", "a dog"]);
        let plain: CreateEmbeddingRequest =
            with(json!({"model": self.model}), json!({"input": input}))?;
        let floats = self.client.embeddings().create(plain.clone()).await?;
        ensure(
            floats.data.len() == 2 && floats.data[1].index == 1,
            "two vectors",
        )?;
        let length: f32 = floats.data[0]
            .embedding
            .iter()
            .map(|number| number * number)
            .sum();
        ensure((length - 1.0).abs() < 1e-4, format!("length {length}"))?;
        let packed = with(
            serde_json::to_value(&plain)?,
            json!({"encoding_format": "base64"}),
        )?;
        let packed = self.client.embeddings().create_base64(packed).await?;
        let unpacked: Vec<f32> = packed.data[0].embedding.clone().into();
        ensure(unpacked == floats.data[0].embedding, "base64 differs")?;
        let ids: CreateEmbeddingRequest = with(
            json!({"model": self.model}),
            json!({"input": [[1, 2], [3]], "dimensions": 16}),
        )?;
        let short = self.client.embeddings().create(ids).await?;
        ensure(short.data[0].embedding.len() == 16, "dimensions")
    }

    /// Its type of an error has `code` and `param` as text or nothing; a number would not parse.
    async fn errors(&self) -> Outcome {
        let cases = [
            (json!({"temperature": -1.0}), 400, Some("temperature"), None),
            (
                json!({"prompt": "word ".repeat(5000)}),
                400,
                Some("prompt"),
                Some("context_length_exceeded"),
            ),
            (
                json!({"model": "no-such-model"}),
                404,
                Some("model"),
                Some("model_not_found"),
            ),
        ];
        for (fields, status, param, code) in cases {
            let completions = self.client.completions();
            let whole = completions.create(self.completion(fields.clone())?).await;
            let stream = completions.create_stream(self.completion(fields)?).await;
            for refused in [whole.err(), stream.err()] {
                let Some(OpenAIError::ApiError(error)) = refused else {
                    return Err(format!("{refused:?}, and no ApiError of {status}").into());
                };
                let told = &error.api_error;
                let parts = (told.param.as_deref(), told.code.as_deref());
                ensure(error.status_code.as_u16() == status, format!("{error}"))?;
                ensure(parts == (param, code), format!("{error}"))?;
            }
        }
        Ok(())
    }

    async fn at_once(&self) -> Outcome {
        let alone = self.complete(json!({"logprobs": 2})).await?;
        let all =
            futures::future::join_all((0..16).map(|_| self.complete(json!({"logprobs": 2})))).await;
        for answer in all {
            ensure(answer?.choices == alone.choices, "an answer differs")?;
        }
        Ok(())
    }
}

async fn key(url: &str, right: &str) -> Outcome {
    let Err(OpenAIError::ApiError(error)) = client(url, "wrong").models().list().await else {
        return Err("no ApiError".into());
    };
    ensure(error.status_code.as_u16() == 401, format!("{error}"))?;
    let models = client(url, right).models().list().await?;
    ensure(models.data.len() == 1, "one model")
}

#[tokio::main]
async fn main() -> Outcome {
    let client = client(&std::env::var("CANDOR_URL")?, "none");
    let model = client.models().list().await?.data.remove(0).id;
    let candor = Candor { client, model };
    check("models: list and retrieve", candor.models()).await;
    check(
        "completions: logprobs are four arrays of one length",
        candor.completions(),
    )
    .await;
    check(
        "completions: echo with max_tokens 0 scores the prompt",
        candor.echo(),
    )
    .await;
    check(
        "completions: a stream adds up to the unstreamed answer",
        candor.completion_stream(),
    )
    .await;
    check(
        "completions: several prompts, and token ids",
        candor.prompts(),
    )
    .await;
    check("chat: an answer with logprobs", candor.chats()).await;
    check(
        "chat: a stream with include_usage equals the unstreamed answer",
        candor.chat_stream(),
    )
    .await;
    check("chat: a forced tool call, in a stream too", candor.tools()).await;
    check("chat: response_format with a schema", candor.schema()).await;
    check(
        "embeddings: floats, base64, token ids, dimensions",
        candor.embeddings(),
    )
    .await;
    check(
        "errors: parsed with status, param and code, in streams too",
        candor.errors(),
    )
    .await;
    check(
        "16 requests at once get the bits of one alone",
        candor.at_once(),
    )
    .await;
    if let (Ok(url), Ok(right)) = (
        std::env::var("CANDOR_KEYED_URL"),
        std::env::var("CANDOR_KEY"),
    ) {
        check(
            "errors: 401 without the key, an answer with it",
            key(&url, &right),
        )
        .await;
    }
    Ok(())
}
