//! The fuzz targets: each function runs the code on arbitrary bytes, and panics if the outcome breaks a guarantee.
//! `fuzz_targets/` has libFuzzer call them with inputs of its own; `tests/it/fuzz.rs` calls them with the saved inputs, so
//! that the tests check everything that fuzzing has found so far.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use arbitrary::{Result, Unstructured};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use candor::api::{AppState, app};
use candor::config::{Config, ConfigError, Problem, Sources};
use candor::engine::{Completion, Ending, Models, TokenDetails, TokenOutput, Utf8Decoder};
use candor::logprobs::Likeliest;
use candor::model::{Model, Token};
use candor::params::{PARAMS, ParamValues, Range};
use candor::sampling::{Constraint, Sampler, SamplingParams};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// The bytes are a body of `POST /v1/completions`. If the first is 0, the others choose fields and values instead: most
/// bodies are not JSON, and most JSON asks for nothing.
pub fn request(data: &[u8]) {
    let body = match data.split_first() {
        Some((0, choices)) => match request_of(&mut Unstructured::new(choices)) {
            Ok(fields) => Value::Object(fields).to_string().into_bytes(),
            Err(_) => return,
        },
        _ => data.to_vec(),
    };
    let answer = post(&body);
    if answer.status != StatusCode::OK {
        check_error(&answer, &body);
        return;
    }
    let asked = Asked::read(&body);
    let choices = if asked.streamed {
        check_stream(&answer, &asked)
    } else {
        check_whole(&answer, &asked)
    };
    for choice in &choices {
        choice.check(&asked);
    }
    // With a seed the answer is determined, and a stream adds up to it.
    if asked.seeded && !asked.streamed && asked.best_of == asked.n {
        let mut fields = asked.fields.clone();
        fields.insert("stream".to_owned(), true.into());
        let body = Value::Object(fields).to_string();
        let answer = post(body.as_bytes());
        assert_eq!(answer.status, StatusCode::OK, "streamed: {body}");
        assert_eq!(check_stream(&answer, &asked), choices, "streamed: {body}");
    }
}

/// The bytes choose stop strings and the bytes of tokens. What [`Completion`] gives out must be what is found by
/// putting all bytes together and searching them.
pub fn stop_search(data: &[u8]) {
    let mut choices = Unstructured::new(data);
    let Ok((stops, tokens)) = stops_and_tokens(&mut choices) else {
        return;
    };
    for ending in [Ending::BeforeStop, Ending::AfterStop] {
        search(&stops, &tokens, ending);
    }
}

fn search(stops: &[String], tokens: &[Vec<u8>], ending: Ending) {
    let mut completion = Completion::new(Arc::new(stops.to_vec().into()), ending);
    let mut all = Vec::new();
    // What the text was before each token.
    let mut texts = vec![String::new()];
    let mut given: Vec<TokenOutput> = Vec::new();
    let mut cut = None;
    for (id, bytes) in (0..).zip(tokens) {
        all.extend_from_slice(bytes);
        let text = decoded(&all);
        cut = stops
            .iter()
            .filter_map(|stop| Some((text.find(stop)?, stop.len())))
            .min()
            .map(|(hit, length)| match ending {
                Ending::BeforeStop => hit,
                Ending::AfterStop => hit + length,
            });
        let stopped = completion.push(Token(id), bytes, TokenDetails::default());
        assert_eq!(stopped, cut.is_some(), "{stops:?} in {text:?}");
        texts.push(text);
        if stopped {
            break;
        }
        given.extend(std::iter::from_fn(|| completion.release()));
        let text = &texts[texts.len() - 1];
        let may_take_back = ending == Ending::BeforeStop;
        let undecided = may_take_back
            && stops.iter().any(|stop| {
                (1..stop.len()).any(|length| text.as_bytes().ends_with(&stop.as_bytes()[..length]))
            });
        assert!(
            undecided || given.len() == texts.len() - 1,
            "held for nothing: {stops:?} in {text:?}"
        );
    }
    let end = completion.end(Token(-1), TokenDetails::default());
    given.extend(std::iter::from_fn(|| completion.flush()));

    let whole = &texts[texts.len() - 1];
    let kept = &whole[..cut.unwrap_or(whole.len())];
    // Released or flushed, a token's text is what it added of what is kept: none was given out that is not there.
    assert_eq!(given.len(), texts.len() - 1);
    for (place, output) in given.iter().enumerate() {
        let (before, after) = (&texts[place], &texts[place + 1]);
        assert_eq!(output.token, Token(place as i32));
        assert_eq!(output.offset, before.chars().count());
        let (from, to) = (before.len().min(kept.len()), after.len().min(kept.len()));
        assert_eq!(output.text, kept[from..to], "{stops:?} in {whole:?}");
    }
    assert_eq!(end.offset, whole.chars().count());
    assert_eq!(end.text, "");
}

/// The bytes choose pieces of bytes. However they are cut, they decode to the same.
pub fn detokenise(data: &[u8]) {
    let mut choices = Unstructured::new(data);
    let mut pieces: Vec<&[u8]> = Vec::new();
    while let Ok(length) = choices.int_in_range(0..=5) {
        if choices.is_empty() {
            break;
        }
        pieces.push(choices.bytes(length.min(choices.len())).unwrap_or(&[]));
    }
    let mut decoder = Utf8Decoder::new();
    let (mut bytes, mut text) = (Vec::new(), String::new());
    for piece in &pieces {
        bytes.extend_from_slice(piece);
        text.push_str(&decoder.push(piece));
        // Whole characters as soon as they are whole, broken bytes left out, and nothing for the beginning of one.
        assert_eq!(text, decoded(&bytes), "{pieces:x?}");
    }
    assert_eq!(text, Utf8Decoder::new().push(&bytes), "{pieces:x?}");
    // The end of one text is not the beginning of another.
    let mut copy = decoder.clone();
    assert_eq!(decoder.push(b"!"), copy.push(b"!"));
}

/// The bytes are a grammar. Whatever it is, the process lives; if it is taken, tokens can be drawn under it.
pub fn grammar(data: &[u8]) {
    let Ok(gbnf) = std::str::from_utf8(&data[..data.len().min(4096)]) else {
        return;
    };
    let model = tiny_model();
    let start = std::time::Instant::now();
    let grammar = Constraint::gbnf(model, gbnf);
    // In the tests, which run beside each other on any machine, a time would prove nothing.
    if cfg!(fuzzing) {
        let took = start.elapsed();
        assert!(took.as_secs() < 2, "{took:?} for {gbnf:?}");
    }
    match grammar {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(grammar) => draw_under(model, grammar, data),
    }
}

/// The bytes are a settings file. It is refused with the reason, or loaded; the output of `candor config` is then a
/// settings file with the same settings.
pub fn config_file(data: &[u8]) {
    let (loaded, path) = load_settings(data);
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            let message = error.to_string();
            if let ConfigError::Refused(problems) = &error {
                assert!(!problems.is_empty());
                assert_eq!(message.lines().count(), problems.len(), "{message}");
                for problem in problems {
                    let names = match problem {
                        Problem::Conflict(why) => [
                            "engine.kv_type_v",
                            "model.",
                            "models[",
                            "limits.loaded_models",
                        ]
                        .iter()
                        .any(|name| why.starts_with(name)),
                        other => other.to_string().contains(&path),
                    };
                    assert!(names, "{problem}");
                }
            } else {
                assert!(message.contains(&path), "{message}");
            }
            return;
        }
    };
    let config = &loaded.config;
    for param in PARAMS {
        let value = param.get(&config.sampling.values);
        let is_within = match param.range {
            Range::Integer(least, most) => (least..=most).contains(&value.into()),
            // Settings are kept as f32.
            Range::Real(least, most) => (least as f32..=most as f32).contains(&value.into()),
        };
        assert!(is_within, "{} is {value:?}", param.name);
    }
    let shown = loaded.to_toml();
    let again = load_settings(shown.as_bytes()).0;
    if config.server.api_keys.is_empty() {
        let again = again.unwrap_or_else(|error| panic!("{error}: {shown}"));
        assert_eq!(again.config, *config, "{shown}");
    } else {
        for key in &config.server.api_keys {
            // A short one may stand in some other word.
            assert!(
                key.len() < 8 || !shown.contains(&format!("{key:?}")),
                "{shown}"
            );
        }
        let error = again.expect_err("hidden keys are no keys").to_string();
        assert!(error.contains("server.api_keys"), "{error}");
    }
}

fn load_settings(
    text: &[u8],
) -> (
    std::result::Result<candor::config::Loaded, ConfigError>,
    String,
) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), text).expect("writes");
    let sources = Sources {
        file: Some(file.path().to_owned()),
        ..Sources::default()
    };
    (
        Config::load(&sources),
        file.path().to_string_lossy().into_owned(),
    )
}

/// What UTF-8 there is in the bytes.
fn decoded(bytes: &[u8]) -> String {
    bytes.utf8_chunks().map(|chunk| chunk.valid()).collect()
}

// --- Stop strings -----------------------------------------------------------------------------------------------------

/// Few characters, so that stop strings are met; of each length in bytes, and some that begin alike.
const CHARACTERS: [&str; 8] = ["a", "b", "aa", "é", "è", "€", "🚀", "🚁"];

fn characters(choices: &mut Unstructured, most: usize) -> Result<String> {
    (0..choices.int_in_range(1..=most)?)
        .map(|_| choices.choose(&CHARACTERS).copied())
        .collect()
}

fn stops_and_tokens(choices: &mut Unstructured) -> Result<(Vec<String>, Vec<Vec<u8>>)> {
    let stops = (0..choices.int_in_range(0..=4)?)
        .map(|_| characters(choices, 5))
        .collect::<Result<_>>()?;
    let mut tokens = Vec::new();
    while !choices.is_empty() && tokens.len() < 64 {
        match choices.int_in_range(0..=3)? {
            // Bytes of any kind, none among them.
            0 => {
                let length = choices.int_in_range(0..=4)?.min(choices.len());
                tokens.push(choices.bytes(length)?.to_vec());
            }
            // Characters, cut in two anywhere.
            1 => {
                let text = characters(choices, 3)?.into_bytes();
                let (first, second) = text.split_at(choices.int_in_range(0..=text.len())?);
                tokens.extend([first.to_vec(), second.to_vec()]);
            }
            _ => tokens.push(characters(choices, 3)?.into_bytes()),
        }
    }
    Ok((stops, tokens))
}

// --- Grammars ---------------------------------------------------------------------------------------------------------

/// Draws from random rows, which depend on the grammar's text, so that an input finds the same again.
fn draw_under(model: &Model, constraint: Constraint, data: &[u8]) {
    const MOST: usize = 16;
    let params = SamplingParams {
        values: ParamValues {
            temperature: 0.0,
            ..ParamValues::default()
        },
        constraint: Some(constraint),
        ..SamplingParams::default()
    };
    let mut sampler = Sampler::new(model, &params, &[]);
    let mut state = data.iter().fold(0x9e37_79b9_7f4a_7c15_u64, |state, &byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }) | 1;
    let mut row = vec![0.0_f32; model.vocab().len()];
    for _ in 0..MOST {
        for logit in &mut row {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *logit = (state >> 40) as f32 / 16_777_216.0;
        }
        assert_eq!(sampler.wants(), 0, "a grammar looks at the whole row");
        // Nothing is allowed, or it is given up.
        let Ok(Some(token)) = sampler.sample(&row, &Likeliest::default()) else {
            return;
        };
        assert!(token.index() < row.len());
        if model.vocab().is_end(token) {
            return;
        }
    }
}

// --- Requests ---------------------------------------------------------------------------------------------------------

/// Fields, most of them with a value that is likely to be taken. Short answers, unless it is chosen otherwise.
fn request_of(choices: &mut Unstructured) -> Result<Map<String, Value>> {
    const FIELDS: [&str; 27] = [
        "prompt",
        "max_tokens",
        "logprobs",
        "echo",
        "n",
        "best_of",
        "stop",
        "stream",
        "stream_options",
        "seed",
        "logit_bias",
        "logit_bias_type",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "repeat_penalty",
        "frequency_penalty",
        "presence_penalty",
        "mirostat_mode",
        "mirostat_tau",
        "mirostat_eta",
        "min_tokens",
        "grammar",
        "cache_prompt",
        "model",
    ];
    let mut fields = Map::new();
    fields.insert("max_tokens".to_owned(), choices.int_in_range(0..=8)?.into());
    while !choices.is_empty() && fields.len() < 20 {
        let name = *choices.choose(&FIELDS)?;
        if name == "stream_options" {
            fields.insert("stream".to_owned(), true.into());
        }
        if choices.ratio(63, 64)? {
            fields.insert(name.to_owned(), likely(name, choices)?);
        } else {
            // The tiny model has no tokens for `suffix`.
            let name = *choices.choose(&[name, "suffix", "surprise"])?;
            fields.insert(name.to_owned(), any(choices, 3)?);
        }
    }
    Ok(fields)
}

/// A value of the type that the field asks for, mostly.
fn likely(name: &str, choices: &mut Unstructured) -> Result<Value> {
    Ok(match name {
        "prompt" => match choices.int_in_range(0..=5)? {
            0 => (0..choices.int_in_range(1..=3)?)
                .map(|_| text(choices, 0))
                .collect::<Result<Value>>()?,
            1 | 2 => ids(choices)?,
            3 => (0..choices.int_in_range(1..=3)?)
                .map(|_| ids(choices))
                .collect::<Result<Value>>()?,
            _ => text(choices, 0)?,
        },
        "max_tokens" | "min_tokens" => match choices.int_in_range(0..=15)? {
            15 => Value::Null,
            _ => choices.int_in_range(0..=24)?.into(),
        },
        "logprobs" => choices.int_in_range(0..=20)?.into(),
        "echo" | "stream" | "cache_prompt" => choices.ratio(1, 2)?.into(),
        "n" => choices.int_in_range(1..=2)?.into(),
        "best_of" => choices.int_in_range(2..=3)?.into(),
        "stop" => match choices.int_in_range(0..=3)? {
            0 => (0..choices.int_in_range(0..=4)?)
                .map(|_| text(choices, 1))
                .collect::<Result<Value>>()?,
            1 => json!(["e", "an", " "]),
            _ => text(choices, 1)?,
        },
        "stream_options" => json!({"include_usage": choices.ratio(1, 2)?}),
        "seed" => choices.int_in_range(-2..=99)?.into(),
        "logit_bias" => (0..choices.int_in_range(0..=6)?)
            .map(|_| {
                let bias = *choices.choose(&[100.0, -100.0, 5.0, -5.0, 1e6, -1e6, 0.0])?;
                Ok((id(choices)?.to_string(), json!(bias)))
            })
            .collect::<Result<Map<_, _>>>()?
            .into(),
        "logit_bias_type" => (*choices.choose(&["input_ids", "tokens"])?).into(),
        "top_k" => choices.int_in_range(-1..=60)?.into(),
        "mirostat_mode" => choices.int_in_range(0..=2)?.into(),
        "temperature" => number(
            choices,
            &[0.0, 1e-45, 1e-7, 1e-6, 1e-5, 0.5, 1.0, 2.0, 100.0],
        )?,
        "top_p" | "min_p" | "typical_p" => number(choices, &[0.0, 1e-45, 0.01, 0.5, 0.9, 1.0])?,
        "repeat_penalty" => number(choices, &[0.01, 0.5, 1.0, 1.1, 2.0, 100.0])?,
        "frequency_penalty" | "presence_penalty" => number(choices, &[-2.0, -0.5, 0.0, 0.5, 2.0])?,
        "mirostat_tau" => number(choices, &[0.0, 1e-7, 0.1, 5.0, 100.0])?,
        "mirostat_eta" => number(choices, &[0.0, 1e-7, 0.1, 1.0])?,
        "grammar" => (*choices.choose(&[
            "root ::= \"yes\" | \"no\"",
            "root ::= [a-z]+",
            "root ::= .*",
            "root ::= \"\"",
            "root ::= \"é\" root | \"🚀\"",
            "root ::= [0-9]{2,4} (\",\" [0-9])*",
            "root ::= <[2]> | !<[5]>",
            "root ::= [^\\x00-\\x7f]*",
        ])?)
        .into(),
        "model" => "llama2-vocab-tiny".into(),
        _ => text(choices, 0)?,
    })
}

fn number(choices: &mut Unstructured, numbers: &[f64]) -> Result<Value> {
    choices.choose(numbers).map(|&number| number.into())
}

fn text(choices: &mut Unstructured, least: usize) -> Result<Value> {
    const PARTS: [&str; 16] = [
        "a",
        "e",
        " ",
        "the",
        "Once upon a time",
        "é",
        "€",
        "🚀",
        "\n",
        "<s>",
        "</s>",
        "<0x0A>",
        "\u{0}",
        "日本",
        "  ",
        "\u{301}",
    ];
    let parts: Vec<&str> = (0..choices.int_in_range(least..=6)?)
        .map(|_| choices.choose(&PARTS).copied())
        .collect::<Result<_>>()?;
    let text = parts.concat();
    // Now and then more than the context holds.
    Ok(if choices.ratio(1, 64)? {
        text.repeat(100).into()
    } else {
        text.into()
    })
}

fn ids(choices: &mut Unstructured) -> Result<Value> {
    (0..choices.int_in_range(1..=12)?)
        .map(|_| id(choices).map(Value::from))
        .collect()
}

/// Control tokens and single bytes are more likely than they are in the vocabulary.
fn id(choices: &mut Unstructured) -> Result<u32> {
    if choices.ratio(1, 2)? {
        choices.int_in_range(0..=300)
    } else {
        choices.int_in_range(0..=31_999)
    }
}

/// Any JSON, rather at the bounds of what there is.
fn any(choices: &mut Unstructured, depth: usize) -> Result<Value> {
    Ok(
        match choices.int_in_range(0..=if depth > 0 { 7 } else { 5 })? {
            0 => Value::Null,
            1 => choices.ratio(1, 2)?.into(),
            2 => (*choices.choose(&[
                0,
                1,
                -1,
                2,
                100,
                32_000,
                i64::from(i32::MAX),
                i64::from(i32::MIN),
                i64::from(u32::MAX),
                1 << 32,
                i64::MAX,
                i64::MIN,
            ])?)
            .into(),
            3 => json!(choices.choose(&[
                0.5, -0.0, 1e-320, 1.0, 2.0, 1e38, 3.5e38, 1e308, -1e308, 9e15
            ])?),
            4 => u64::MAX.into(),
            5 => text(choices, 0)?,
            6 => (0..choices.int_in_range(0..=5)?)
                .map(|_| any(choices, depth - 1))
                .collect::<Result<Value>>()?,
            _ => (0..choices.int_in_range(0..=3)?)
                .map(|_| {
                    let name = text(choices, 0)?.as_str().unwrap_or_default().to_owned();
                    Ok((name, any(choices, depth - 1)?))
                })
                .collect::<Result<Map<_, _>>>()?
                .into(),
        },
    )
}

/// Limits so small that no request takes long, and so that all of them are met.
const CONTEXT: usize = 256;

fn server() -> &'static (Runtime, Router) {
    static SERVER: OnceLock<(Runtime, Router)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let mut config = Config::default();
        config.model.source = model_path().to_string_lossy().into_owned();
        config.model.mmap = true;
        // One context and single rows: nothing is measured at the start.
        config.engine.contexts = 1;
        config.engine.decode_width = 1;
        config.engine.threads = 1;
        config.engine.parallel_sequences = 4;
        config.engine.cache_lanes = 2;
        config.engine.context_length = CONTEXT;
        config.limits.body_bytes = 16_384;
        config.limits.prompts = 8;
        config.limits.n = 4;
        config.limits.logprobs = 20;
        config.limits.stop_strings = 4;
        config.limits.stop_bytes = 64;
        config.limits.logit_bias = 8;
        config.limits.grammar_bytes = 128;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let app = runtime.block_on(async {
            let (models, started) = Models::start(&config, candor::model::contexts().into());
            started.await.expect("the model can be loaded");
            app(AppState::new(models, Arc::new(config), true, Vec::new()))
        });
        (runtime, app)
    })
}

struct Answer {
    status: StatusCode,
    content_type: String,
    body: String,
}

fn post(body: &[u8]) -> Answer {
    let (runtime, app) = server();
    runtime.block_on(async {
        let request = Request::post("/v1/completions")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_vec()))
            .expect("a request");
        let response = app.clone().oneshot(request).await.expect("infallible");
        let content_type = response.headers()[header::CONTENT_TYPE]
            .to_str()
            .expect("text")
            .to_owned();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX)
            .await
            .expect("a whole body");
        Answer {
            status,
            content_type,
            body: String::from_utf8(bytes.to_vec()).expect("UTF-8"),
        }
    })
}

fn check_error(answer: &Answer, body: &[u8]) {
    // Nobody else asks here, so a place is always free: a 503 is a worker that is down.
    assert!(
        answer.status.is_client_error(),
        "{} for {:?}: {}",
        answer.status,
        String::from_utf8_lossy(body),
        answer.body
    );
    assert_eq!(answer.content_type, "application/json");
    let json: Value = serde_json::from_str(&answer.body).expect("JSON");
    let keys = |value: &Value| -> Vec<String> {
        value
            .as_object()
            .map(|fields| fields.keys().cloned().collect())
            .unwrap_or_default()
    };
    assert_eq!(keys(&json), ["error"], "{}", answer.body);
    let error = &json["error"];
    assert_eq!(
        keys(error),
        ["message", "type", "param", "code"],
        "{}",
        answer.body
    );
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    assert!(error["type"] == "invalid_request_error", "{}", answer.body);
    assert!(error["param"].is_null() || error["param"].is_string());
    assert!(error["code"].is_null() || error["code"].is_string());
}

/// What a request that was answered had asked for.
struct Asked {
    fields: Map<String, Value>,
    prompts: usize,
    n: usize,
    best_of: usize,
    max_tokens: usize,
    logprobs: Option<usize>,
    echo: bool,
    streamed: bool,
    include_usage: bool,
    seeded: bool,
    stops: Vec<String>,
}

impl Asked {
    fn read(body: &[u8]) -> Self {
        let fields: Map<String, Value> =
            serde_json::from_slice(body).expect("what is answered is an object");
        let given = |name: &str| fields.get(name).filter(|value| !value.is_null());
        let whole = |value: &Value| {
            value
                .as_i64()
                .or(value.as_f64().map(|number| number as i64))
        };
        let count = |name: &str| {
            given(name).map(|value| {
                let number = whole(value).expect("a whole number");
                usize::try_from(number).expect("not negative")
            })
        };
        let flag = |name: &str| given(name).is_some_and(|value| *value == true);
        let n = count("n").unwrap_or(1);
        Self {
            prompts: match given("prompt") {
                Some(Value::Array(items)) if !items[0].is_number() => items.len(),
                _ => 1,
            },
            n,
            best_of: count("best_of").unwrap_or(n),
            max_tokens: if fields.get("max_tokens") == Some(&Value::Null) {
                CONTEXT
            } else {
                count("max_tokens").unwrap_or(16)
            },
            logprobs: count("logprobs"),
            echo: flag("echo"),
            streamed: flag("stream"),
            include_usage: fields
                .get("stream_options")
                .is_some_and(|options| options["include_usage"] == true),
            // Unless it asks for a random one.
            seeded: given("seed")
                .and_then(whole)
                .is_some_and(|seed| (0..i64::from(u32::MAX)).contains(&seed)),
            stops: match given("stop") {
                Some(Value::String(stop)) => vec![stop.clone()],
                Some(Value::Array(stops)) => stops
                    .iter()
                    .map(|stop| stop.as_str().expect("a string").to_owned())
                    .collect(),
                _ => Vec::new(),
            },
            fields,
        }
    }

    fn choices(&self) -> usize {
        self.prompts * self.n
    }

    fn check_usage(&self, usage: &Value) {
        let count = |name: &str| usage[name].as_u64().expect("a count") as usize;
        let (prompt, completion) = (count("prompt_tokens"), count("completion_tokens"));
        assert_eq!(count("total_tokens"), prompt + completion);
        assert!(prompt >= self.prompts && prompt <= self.prompts * CONTEXT);
        assert!(completion <= self.max_tokens.min(CONTEXT) * self.best_of * self.prompts);
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
        assert!(cached.expect("a count") as usize <= prompt);
    }
}

/// A choice, read from a whole answer or added up from a stream.
#[derive(Debug, Default, PartialEq)]
struct Choice {
    text: String,
    finish_reason: String,
    /// Whether the arrays were there at all.
    scored: bool,
    offsets: Vec<u64>,
    logprobs: Vec<Option<f64>>,
    tokens: Vec<String>,
    top: Vec<Option<BTreeMap<String, f64>>>,
}

impl Choice {
    /// Takes a choice, or a chunk of one.
    fn add(&mut self, choice: &Value, last: bool) {
        self.text.push_str(choice["text"].as_str().expect("text"));
        if last {
            assert_eq!(self.finish_reason, "", "ended twice");
            self.finish_reason = choice["finish_reason"].as_str().expect("a word").to_owned();
            assert!(["stop", "length"].contains(&&*self.finish_reason));
        } else {
            assert!(choice["finish_reason"].is_null());
            assert_eq!(self.finish_reason, "", "more after the end");
        }
        let arrays = &choice["logprobs"];
        if arrays.is_null() {
            return;
        }
        self.scored = true;
        let array = |name: &str| arrays[name].as_array().expect("an array");
        let length = array("tokens").len();
        for name in ["text_offset", "token_logprobs", "top_logprobs"] {
            assert_eq!(array(name).len(), length, "{name}");
        }
        for place in 0..length {
            let offset = array("text_offset")[place].as_u64().expect("a count");
            assert!(self.offsets.last().is_none_or(|&before| before <= offset));
            self.offsets.push(offset);
            self.tokens
                .push(array("tokens")[place].as_str().expect("text").to_owned());
            let logprob = &array("token_logprobs")[place];
            assert!(logprob.is_null() || logprob.is_number());
            self.logprobs.push(logprob.as_f64());
            let top = &array("top_logprobs")[place];
            assert_eq!(top.is_null(), logprob.is_null());
            self.top.push(top.as_object().map(|top| {
                top.iter()
                    .map(|(text, value)| (text.clone(), value.as_f64().expect("a number")))
                    .collect()
            }));
        }
    }

    fn check(&self, asked: &Asked) {
        assert!(!self.finish_reason.is_empty(), "a choice without an end");
        if !asked.echo {
            for stop in &asked.stops {
                assert!(!self.text.contains(stop), "{stop:?} in {:?}", self.text);
            }
        }
        let Some(most) = asked.logprobs else {
            assert!(!self.scored);
            return;
        };
        // A stream of no tokens has no chunk to hold arrays.
        assert!(self.scored || asked.streamed);
        if !asked.echo {
            assert!(self.tokens.len() <= asked.max_tokens);
        }
        for (place, logprob) in self.logprobs.iter().enumerate() {
            let Some(logprob) = logprob else {
                assert!(
                    asked.echo && place == 0,
                    "nothing but a prompt's beginning has no score"
                );
                continue;
            };
            let top = self.top[place].as_ref().expect("scored");
            assert!(top.len() <= most + 1);
            assert_eq!(top.get(&self.tokens[place]), Some(logprob));
            for value in top.values().chain([logprob]) {
                assert!(*value <= 1e-5, "{value}");
            }
        }
    }
}

fn check_whole(answer: &Answer, asked: &Asked) -> Vec<Choice> {
    assert_eq!(answer.content_type, "application/json");
    let json: Value = serde_json::from_str(&answer.body).expect("JSON");
    check_head(&json);
    asked.check_usage(&json["usage"]);
    let choices = json["choices"].as_array().expect("an array");
    assert_eq!(choices.len(), asked.choices());
    choices
        .iter()
        .enumerate()
        .map(|(index, choice)| {
            assert_eq!(choice["index"], json!(index));
            let mut read = Choice::default();
            read.add(choice, true);
            read
        })
        .collect()
}

fn check_stream(answer: &Answer, asked: &Asked) -> Vec<Choice> {
    assert_eq!(answer.content_type, "text/event-stream");
    let mut events: Vec<&str> = answer
        .body
        .split("\n\n")
        // A comment keeps a slow connection open.
        .filter(|event| !event.is_empty() && !event.starts_with(':'))
        .map(|event| {
            event
                .strip_prefix("data: ")
                .expect("an event is a data line")
        })
        .collect();
    assert_eq!(events.pop(), Some("[DONE]"), "{}", answer.body);
    let mut choices: Vec<Choice> = (0..asked.choices())
        .map(|_| Choice {
            // So that what is added up can be compared with a whole answer.
            scored: asked.logprobs.is_some(),
            ..Choice::default()
        })
        .collect();
    let last = events.len().saturating_sub(1);
    for (number, event) in events.iter().enumerate() {
        let json: Value = serde_json::from_str(event).expect("JSON");
        check_head(&json);
        let parts = json["choices"].as_array().expect("an array");
        if asked.include_usage && number == last {
            assert!(parts.is_empty());
            asked.check_usage(&json["usage"]);
            continue;
        }
        assert!(json["usage"].is_null());
        assert_eq!(parts.len(), 1, "{event}");
        let index = parts[0]["index"].as_u64().expect("a number") as usize;
        choices[index].add(&parts[0], !parts[0]["finish_reason"].is_null());
    }
    choices
}

fn check_head(json: &Value) {
    assert_eq!(json["object"], "text_completion", "{json}");
    assert_eq!(json["model"], "llama2-vocab-tiny");
    assert!(
        json["id"].is_string()
            && json["created"].is_u64()
            && json["system_fingerprint"].is_string()
    );
}

// --- The model --------------------------------------------------------------------------------------------------------

/// In the repository, which is where the package that runs this lies, or a folder above it.
fn model_path() -> PathBuf {
    const PATH: &str = "tests/models/llama2-vocab-tiny.gguf";
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .or_else(|| std::env::current_dir().ok())
        .unwrap_or_default();
    here.ancestors()
        .map(|folder| folder.join(PATH))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no {PATH} at or above {}", here.display()))
}

fn tiny_model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let mut config = Config::default();
        config.model.mmap = true;
        Model::load(&model_path(), &config.model).expect("the tiny model loads")
    })
}
