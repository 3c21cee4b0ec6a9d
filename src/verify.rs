//! `candor verify`: repeats the request of a receipt, here or on another server, and compares the results bit by bit.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use ureq::Timeout;

use crate::api::counted;
use crate::api::receipt::{
    self, Receipt, ReceiptChoice, ReceiptEngine, ReceiptPrompt, ReceiptRoute,
};
use crate::config::{Config, LoadAt, Mode};
use crate::engine::Evaluation;
use crate::http_client;
use crate::model::{self, Routines, source};

/// Why nothing could be compared, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unable(String);

/// The outcome of a comparison.
#[derive(Debug)]
pub struct Comparison {
    /// What was compared.
    about: String,
    /// Other differences, which may be the cause.
    notes: Vec<String>,
    difference: Option<String>,
}

impl Comparison {
    pub fn is_equal(&self) -> bool {
        self.difference.is_none()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "compared: {}", self.about)?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        match &self.difference {
            None => writeln!(
                f,
                "equal: every token, and every bit of every log-probability"
            ),
            Some(difference) => writeln!(f, "different: {difference}"),
        }
    }
}

/// Reads a receipt or an answer that contains one.
pub fn read(text: &str) -> Result<Receipt, Unable> {
    let wrong = |why: &dyn fmt::Display| {
        Unable(format!(
            "This is not a valid receipt: {why}. Give the answer to a request with `\"receipt\": true`, or the `receipt` in \
             it, as JSON."
        ))
    };
    let mut value: Value = serde_json::from_str(text).map_err(|error| wrong(&error))?;
    if let Some(part) = value.get_mut("receipt").filter(|part| part.is_object()) {
        value = part.take();
    }
    match value.get("version").and_then(Value::as_u64) {
        Some(version) if version == u64::from(receipt::VERSION) => {}
        Some(version) => {
            return Err(Unable(format!(
                "The receipt has version {version}, but this Candor reads version {}. Verify it with the Candor that made it \
                 ({}).",
                receipt::VERSION,
                value["engine"]["candor"]
            )));
        }
        None => return Err(wrong(&"it has no `version`")),
    }
    // Only these: a key is sent there.
    let routes = ReceiptRoute::ALL.map(ReceiptRoute::path);
    if !routes.iter().any(|route| value["route"] == *route) {
        let routes = routes.join(" or ");
        return Err(wrong(&format!("its `route` must be {routes}")));
    }
    serde_json::from_value(value).map_err(|error| wrong(&error))
}

/// The settings with which an engine evaluates as the receipt says, and their values.
pub fn settings(receipt: &Receipt) -> Vec<(&'static str, String)> {
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
        least_width,
        threads,
        routines,
        bits_class: _,
    } = &receipt.engine.evaluation;
    let name = |kind| serde_json::to_value(kind).ok();
    let name = |kind| name(kind).and_then(|kind| kind.as_str().map(str::to_owned));
    let mut settings = vec![
        ("engine.mode", mode.as_str().to_owned()),
        ("engine.flash_attention", flash_attention.to_string()),
        ("engine.kv_type_k", name(kv_type_k).unwrap_or_default()),
        ("engine.kv_type_v", name(kv_type_v).unwrap_or_default()),
        ("engine.context_length", context_length.to_string()),
        ("engine.batch_tokens", batch_tokens.to_string()),
        (
            "engine.prompt_chunk_tokens",
            prompt_chunk_tokens.to_string(),
        ),
    ];
    if let Some(Routines { amx, repack }) = routines {
        let auto_or_off = |allowed: bool| if allowed { "auto" } else { "off" };
        settings.push(("engine.amx", auto_or_off(*amx).to_owned()));
        settings.push(("engine.repack", auto_or_off(*repack).to_owned()));
    }
    // Measured values are multiples of 8, but the setting takes multiples of 16.
    let rows = logits_rows.next_multiple_of(16);
    settings.push(("engine.logits_rows", rows.to_string()));
    if *mode == Mode::Throughput {
        settings.push(("engine.contexts", contexts.to_string()));
        settings.push(("engine.decode_width", decode_width.to_string()));
    } else {
        // Neither changes a bit, and with one of each nothing has to be measured first.
        settings.push(("engine.contexts", "1".to_owned()));
        settings.push(("engine.parallel_sequences", "1".to_owned()));
        if *mode == Mode::Invariant {
            settings.push(("engine.invariant_width", least_width.to_string()));
        }
        if let Some(threads) = threads {
            settings.push(("engine.threads", threads.to_string()));
        }
    }
    settings
}

/// Runs the request on an engine with these settings and compares. Loads the model for that.
pub fn here(config: Config, receipt: &Receipt) -> Result<Comparison, Unable> {
    let config = of_its_model(config, receipt)?;
    let mut body = receipt.request();
    // The model may have another name here.
    body.shift_remove("model");
    let route = receipt.route.path();
    let failed =
        |error: &dyn fmt::Display| Unable(format!("The engine could not be started: {error}"));
    let runtime = tokio::runtime::Runtime::new().map_err(|error| failed(&error))?;
    let answer = runtime.block_on(async {
        let listener = crate::listen("127.0.0.1", 0).await;
        let listener = listener.map_err(|error| failed(&error))?;
        let address = listener.local_addr().map_err(|error| failed(&error))?;
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            let _ = stopped.await;
        };
        let server = tokio::spawn(crate::run(config, listener, stopped));
        let asked = tokio::task::spawn_blocking(move || {
            // No time limit: loading and generating may take long.
            let asked = Asked::new(format!("http://{address}"), None, None);
            asked.wait_until_ready();
            asked.ask(route, &Value::Object(body))
        });
        let answer = tokio::select! {
            ended = server => match ended {
                Ok(Err(error)) => Err(failed(&error)),
                _ => Err(failed(&"it ended")),
            },
            answer = asked => answer.unwrap_or_else(|error| Err(failed(&error))),
        };
        drop(stop);
        answer
    });
    // The server does not have to finish.
    runtime.shutdown_background();
    compare(receipt, &answer?)
}

/// Sends the request to a running server and compares. The whole answer must arrive within `timeout`.
pub fn on_server(
    url: &str,
    key: Option<String>,
    timeout: Duration,
    receipt: &Receipt,
) -> Result<Comparison, Unable> {
    let asked = Asked::new(url.trim_end_matches('/').to_owned(), key, Some(timeout));
    let mut body = receipt.request();
    if receipt.engine.evaluation.mode == Mode::Exact {
        // The server may be in throughput mode.
        body.insert("exact".to_owned(), true.into());
    }
    let again = asked.ask(receipt.route.path(), &Value::Object(body))?;
    compare(receipt, &again)
}

/// The settings for the model of the receipt, among the models of these settings.
fn of_its_model(config: Config, receipt: &Receipt) -> Result<Config, Unable> {
    let hashes = |files: &[model::FileHash]| {
        let hashes = files.iter().map(|file| file.sha256.as_str());
        hashes.collect::<Vec<_>>().join(" ")
    };
    let mut others = Vec::new();
    for one in config.of_each_model() {
        let path = source::resolve(&one.model).map_err(|error| Unable(error.to_string()))?;
        let unread = |error| Unable(format!("{} cannot be read: {error}", path.display()));
        let files = model::hash_files(&path).map_err(unread)?;
        if files[..] == receipt.model.files[..] {
            let mut found = one.clone();
            found.models = Vec::new();
            found.engine = config.engine.clone();
            found.model.source = path.display().to_string();
            found.model.load = LoadAt::Start;
            found.model.unload_after_ms = 0;
            found.server.api_keys = Vec::new();
            found.server.api_keys_file = String::new();
            found.server.tls_certificate = String::new();
            found.server.tls_key = String::new();
            return Ok(found);
        }
        others.push(format!("{} has {}", path.display(), hashes(&files)));
    }
    Err(Unable(format!(
        "The receipt is for {}, with SHA-256 {}, but {}. Pass the receipt's model with --model.",
        receipt.model.name,
        hashes(&receipt.model.files),
        others.join(", and ")
    )))
}

/// A server and how to reach it.
struct Asked {
    url: String,
    key: Option<String>,
    /// Time for a whole answer.
    timeout: Option<Duration>,
    agent: ureq::Agent,
}

impl Asked {
    fn new(url: String, key: Option<String>, timeout: Option<Duration>) -> Self {
        /// Time to resolve the name and to connect.
        const CONNECT: Duration = Duration::from_secs(10);
        let agent = http_client::for_candor(true)
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_global(timeout)
            .build()
            .new_agent();
        Self {
            url,
            key,
            timeout,
            agent,
        }
    }

    /// Waits without a limit: the caller notices if the server ends.
    fn wait_until_ready(&self) {
        const PAUSE: Duration = Duration::from_millis(20);
        let url = format!("{}/health", self.url);
        while !self
            .agent
            .get(&url)
            .call()
            .is_ok_and(|it| it.status().is_success())
        {
            std::thread::sleep(PAUSE);
        }
    }

    fn ask(&self, route: &str, body: &Value) -> Result<Receipt, Unable> {
        let url = format!("{}{route}", self.url);
        let mut request = self
            .agent
            .post(&url)
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let silent = |error: ureq::Error| match (&error, self.timeout) {
            (ureq::Error::Timeout(Timeout::Global), Some(timeout)) => Unable(format!(
                "{url} did not answer within {} s. Allow more time with --timeout SECONDS, or see the server's log.",
                timeout.as_secs()
            )),
            _ => Unable(format!(
                "{url} does not answer: {error}. Is a server running there?"
            )),
        };
        let mut answer = request.send(body.to_string().as_bytes()).map_err(silent)?;
        let status = answer.status();
        let text = answer
            .body_mut()
            .with_config()
            .limit(u64::MAX)
            .read_to_string();
        let text = text.map_err(silent)?;
        if status.is_success() {
            return read(&text);
        }
        let error: Value = serde_json::from_str(&text).unwrap_or_default();
        let message = error["error"]["message"].as_str().unwrap_or(&text);
        let advice = match status.as_u16() {
            401 => "Set the key as CANDOR_SERVER__API_KEYS.",
            404 => "Use another --url, or set --model to a name of the server's model.",
            400 | 413 => {
                "If it is a limit, raise it (--set limits.…=…); if an adapter is missing, load it (--set model.lora=…)."
            }
            _ => "Try again, or see the server's log.",
        };
        Err(Unable(format!(
            "The request was answered with {status}: {message} {advice}"
        )))
    }
}

/// Compares two receipts of the same request.
fn compare(receipt: &Receipt, again: &Receipt) -> Result<Comparison, Unable> {
    if receipt.model.files != again.model.files {
        return Err(Unable(format!(
            "The receipt is for {}, but the server has another model, {} (their SHA-256 differ). Use a server with that model.",
            receipt.model.name, again.model.name
        )));
    }
    if receipt.adapters != again.adapters {
        return Err(Unable(format!(
            "The receipt is for the adapters {:?}, but here {:?} apply. Load the same files (--set model.lora=…).",
            receipt.adapters, again.adapters
        )));
    }
    let tokens = |ids: &[i32]| counted(ids.len(), "token");
    let (mut about, mut logprobs, mut alternatives) = (Vec::new(), 0, false);
    for prompt in &receipt.prompts {
        about.push(format!("a prompt of {}", tokens(&prompt.token_ids)));
        logprobs += prompt.token_logprobs.iter().flatten().flatten().count();
        alternatives |= prompt.top_sha256.is_some();
    }
    for choice in &receipt.choices {
        about.push(format!("a choice of {}", tokens(&choice.token_ids)));
        logprobs += choice.token_logprobs.len();
        alternatives |= choice.top_sha256.is_some();
    }
    about.push(counted(logprobs, "log-probability").replace("ys", "ies"));
    if alternatives {
        about.push("their alternatives, by SHA-256".to_owned());
    }
    Ok(Comparison {
        about: about.join(", "),
        notes: notes(&receipt.engine, &again.engine),
        difference: difference(receipt, again),
    })
}

/// The differences that may change bits.
fn notes(was: &ReceiptEngine, is: &ReceiptEngine) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |what: &str, was: &dyn fmt::Display, is: &dyn fmt::Display| {
        let (was, is) = (was.to_string(), is.to_string());
        if was != is {
            notes.push(format!("{what}: {was} in the receipt, {is} here"));
        }
    };
    note("Candor", &was.candor, &is.candor);
    note("llama.cpp", &was.llama_cpp, &is.llama_cpp);
    note("the CPU and the build", &was.system, &is.system);
    let (was, is) = (&was.evaluation, &is.evaluation);
    note("the bits class", &was.bits_class, &is.bits_class);
    note("mode", &was.mode.as_str(), &is.mode.as_str());
    note("flash attention", &was.flash_attention, &is.flash_attention);
    let kv = |it: &Evaluation| format!("{:?} and {:?}", it.kv_type_k, it.kv_type_v);
    note("keys and values", &kv(was), &kv(is));
    note("engine.batch_tokens", &was.batch_tokens, &is.batch_tokens);
    let threads = |it: &Evaluation| it.threads.map_or("any".to_owned(), |it| it.to_string());
    note("threads", &threads(was), &threads(is));
    if was.mode == Mode::Throughput {
        notes.push(
            "the receipt is from throughput mode, in which bits depend on other requests; `\"exact\": true` in a request \
             avoids that"
                .to_owned(),
        );
    }
    notes
}

/// The first difference, if there is one.
fn difference(was: &Receipt, is: &Receipt) -> Option<String> {
    if was.prompts.len() != is.prompts.len() || was.choices.len() != is.choices.len() {
        return Some(format!(
            "{} and {} in the receipt, {} and {} here",
            counted(was.prompts.len(), "prompt"),
            counted(was.choices.len(), "choice"),
            is.prompts.len(),
            is.choices.len()
        ));
    }
    for (number, (was, is)) in was.prompts.iter().zip(&is.prompts).enumerate() {
        if let Some(what) = Scored::of_prompt(was).difference(&Scored::of_prompt(is)) {
            return Some(format!("prompt {number}, {what}"));
        }
    }
    for (number, (was, is)) in was.choices.iter().zip(&is.choices).enumerate() {
        let what = Scored::of_choice(was).difference(&Scored::of_choice(is));
        let what = what.or_else(|| {
            let (was, is) = (&was.finish_reason, &is.finish_reason);
            (was != is).then(|| format!("finish_reason: {was} in the receipt, {is} here"))
        });
        if let Some(what) = what {
            return Some(format!("choice {number}, {what}"));
        }
    }
    None
}

/// Tokens with their log-probabilities.
struct Scored<'a> {
    ids: &'a [i32],
    logprobs: Vec<Option<f32>>,
    top: Option<&'a str>,
}

impl<'a> Scored<'a> {
    fn of_prompt(prompt: &'a ReceiptPrompt) -> Self {
        Self {
            ids: &prompt.token_ids,
            logprobs: prompt.token_logprobs.clone().unwrap_or_default(),
            top: prompt.top_sha256.as_deref(),
        }
    }

    fn of_choice(choice: &'a ReceiptChoice) -> Self {
        Self {
            ids: &choice.token_ids,
            logprobs: choice.token_logprobs.iter().copied().map(Some).collect(),
            top: choice.top_sha256.as_deref(),
        }
    }

    /// The first difference, token by token, ids before logprobs.
    fn difference(&self, other: &Self) -> Option<String> {
        let length = |one: &Self| one.ids.len().max(one.logprobs.len());
        for place in 0..length(self).max(length(other)) {
            let id = |one: &Self| one.ids.get(place).map_or("none".to_owned(), i32::to_string);
            let (was, is) = (id(self), id(other));
            if was != is {
                return Some(format!("token {place}: id {was} in the receipt, {is} here"));
            }
            let logprob = |one: &Self| one.logprobs.get(place).copied().flatten();
            let bits = |one: &Self| logprob(one).map(f32::to_bits);
            if bits(self) != bits(other) {
                let shown = |one: &Self| match logprob(one) {
                    None => "none".to_owned(),
                    Some(logprob) => format!("{logprob} (bits {:08x})", logprob.to_bits()),
                };
                return Some(format!(
                    "token {place} (id {was}): logprob {} in the receipt, {} here",
                    shown(self),
                    shown(other)
                ));
            }
        }
        let alternatives = "the alternatives of some token: their SHA-256 differs";
        (self.top != other.top).then(|| alternatives.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn receipt() -> Value {
        json!({
            "version": 1, "route": "/v1/completions", "request": {"prompt": "a", "seed": 1, "receipt": true},
            "model": {"name": "m", "files": [{"bytes": 3, "sha256": "ab"}]},
            "adapters": [],
            "engine": {
                "candor": "0.1.0", "llama_cpp": "1", "system": "CPU", "mode": "exact", "flash_attention": false,
                "kv_type_k": "f16", "kv_type_v": "q8_0", "context_length": 64, "batch_tokens": 512,
                "prompt_chunk_tokens": 128, "logits_rows": 24, "contexts": 2, "decode_width": 8, "threads": null
            },
            "distribution": "",
            "prompts": [{"token_ids": [4, 5], "token_logprobs": [null, -0.1], "top_sha256": "aa"}],
            "choices": [{
                "prompt": 0, "cached_tokens": 0, "token_ids": [6, 7], "token_logprobs": [-1.2626845, -0.0],
                "top_sha256": null, "finish_reason": "length"
            }]
        })
    }

    fn parse(value: &Value) -> Result<Receipt, Unable> {
        read(&value.to_string())
    }

    #[test]
    fn a_receipt_is_read_by_itself_or_within_its_answer() {
        let alone = parse(&receipt()).unwrap();
        assert_eq!(
            parse(&json!({"id": "cmpl-1", "receipt": receipt()})).unwrap(),
            alone
        );
        let refused = |text: &str, part: &str| {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused("{", "not a valid receipt");
        refused("[]", "no `version`");
        refused(r#"{"id": "cmpl-1", "choices": []}"#, "\"receipt\": true");
        refused(r#"{"version": 2, "engine": {"candor": "9.0.0"}}"#, "9.0.0");
        refused(
            r#"{"version": 1}"#,
            "its `route` must be /v1/completions or",
        );
        let no_engine = r#"{"version": 1, "route": "/v1/completions"}"#;
        refused(no_engine, "missing field");
    }

    #[test]
    fn a_receipt_of_an_older_form_has_the_built_in_defaults() {
        // Without the bits class, and without parameters that were not settings then.
        let old = parse(&receipt()).unwrap();
        assert_eq!(old.engine.evaluation.bits_class, "");
        assert_eq!(old.engine.evaluation.routines, None);
        let request = old.request();
        assert_eq!(request["prompt"], "a");
        assert_eq!(request["xtc_probability"], 0.0);
        assert_eq!(request["top_n_sigma"], -1.0);
        assert_eq!(request.get("max_tokens"), None);
        let mut said = receipt();
        said["request"]["top_k"] = json!(3);
        assert_eq!(parse(&said).unwrap().request()["top_k"], 3);
    }

    #[test]
    fn settings_are_those_of_the_receipt() {
        let check = |change: Value, expect: &[(&str, &str)]| {
            let mut value = receipt();
            for (name, change) in change.as_object().unwrap() {
                value["engine"][name] = change.clone();
            }
            let settings = settings(&parse(&value).unwrap());
            for (key, value) in expect {
                let found = settings.iter().find(|(name, _)| name == key);
                assert_eq!(
                    found.map(|(_, value)| value.as_str()),
                    Some(*value),
                    "{key}"
                );
            }
        };
        check(
            json!({}),
            &[
                ("engine.mode", "exact"),
                ("engine.kv_type_v", "q8_0"),
                ("engine.logits_rows", "32"),
                ("engine.parallel_sequences", "1"),
            ],
        );
        check(
            json!({"threads": 3}),
            &[("engine.threads", "3"), ("engine.contexts", "1")],
        );
        check(
            json!({"mode": "throughput"}),
            &[("engine.contexts", "2"), ("engine.decode_width", "8")],
        );
    }

    #[test]
    fn the_first_difference_is_reported() {
        let check = |path: &str, value: Value, part: &str| {
            let mut again = receipt();
            *again.pointer_mut(path).unwrap() = value;
            let compared = compare(&parse(&receipt()).unwrap(), &parse(&again).unwrap()).unwrap();
            assert_eq!(compared.is_equal(), part.is_empty(), "{path}: {compared}");
            assert!(compared.to_string().contains(part), "{path}: {compared}");
        };
        check("/version", json!(1), "");
        check("/choices/0/cached_tokens", json!(1), "");
        check(
            "/prompts/0/token_ids/1",
            json!(9),
            "prompt 0, token 1: id 5 in the receipt, 9 here",
        );
        check(
            "/prompts/0/token_logprobs/1",
            json!(-0.10000001),
            "prompt 0, token 1 (id 5): logprob -0.1 ",
        );
        check("/prompts/0/token_logprobs", json!(null), "none here");
        check(
            "/prompts/0/top_sha256",
            json!("ab"),
            "prompt 0, the alternatives",
        );
        check(
            "/choices/0/token_ids",
            json!([6]),
            "choice 0, token 1: id 7 in the receipt, none here",
        );
        check(
            "/choices/0/token_logprobs/0",
            json!(-1.2626846),
            "(bits bfa19fa",
        );
        check(
            "/choices/0/token_logprobs/1",
            json!(0.0),
            "choice 0, token 1",
        );
        check("/choices/0/finish_reason", json!("stop"), "finish_reason");
        check(
            "/choices",
            json!([]),
            "1 prompt and 1 choice in the receipt",
        );
    }

    #[test]
    fn other_differences_are_notes() {
        let mut again = receipt();
        again["engine"]["system"] = json!("another CPU");
        again["engine"]["threads"] = json!(2);
        // Never changes a bit.
        again["engine"]["contexts"] = json!(7);
        let compared = compare(&parse(&receipt()).unwrap(), &parse(&again).unwrap()).unwrap();
        assert_eq!(
            compared.notes,
            [
                "the CPU and the build: CPU in the receipt, another CPU here",
                "threads: any in the receipt, 2 here"
            ]
        );
        assert!(
            compared
                .about
                .contains("a choice of 2 tokens, 3 log-probabilities"),
            "{compared}"
        );
    }

    #[test]
    fn another_model_or_adapter_is_not_compared() {
        let check = |path: &str, value: Value, part: &str| {
            let mut again = receipt();
            *again.pointer_mut(path).unwrap() = value;
            let unable = compare(&parse(&receipt()).unwrap(), &parse(&again).unwrap()).unwrap_err();
            assert!(unable.to_string().contains(part), "{unable}");
        };
        check("/model/files/0/sha256", json!("cd"), "another model");
        let pirate = json!([{"name": "pirate", "fingerprint": "ab", "scale": 1.0}]);
        check("/adapters", pirate, "pirate");
    }
}
