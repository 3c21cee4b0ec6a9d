//! Texts that follow a schema, an expression, a grammar or a list: they are valid, their numbers are the raw ones, and what
//! is slow to follow keeps nobody else waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use candor::config::{Config, Mode};
use candor::engine::{
    Delta, Engine, EngineError, FinishReason, Generation, PromptLogprobs, Request, Rows,
};
use candor::logprobs::LogprobSpec;
use candor::model::{Token, contexts};
use candor::params::ParamValues;
use candor::sampling::{Constraint, ConstraintError, Follow, Rules, SamplingParams, Watch};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::faults::books_balance;
use crate::faulty::Gate;
use crate::server::{self, TestServer, defaults, tiny, tiny_model};

/// Allows every token, and does something before it says so, given how often it was asked before.
struct Everything {
    vocabulary: usize,
    before: Arc<dyn Fn(usize) + Send + Sync>,
}

struct Following {
    allowed: Vec<bool>,
    asked: AtomicUsize,
    is_known: bool,
    before: Arc<dyn Fn(usize) + Send + Sync>,
}

impl Rules for Everything {
    fn follow(&self) -> Result<Box<dyn Follow>, ConstraintError> {
        Ok(Box::new(Following {
            allowed: vec![true; self.vocabulary],
            asked: AtomicUsize::new(0),
            is_known: false,
            before: Arc::clone(&self.before),
        }))
    }
}

impl Follow for Following {
    fn allowed(&mut self) -> Result<&[bool], ConstraintError> {
        if !self.is_known {
            (self.before)(self.asked.fetch_add(1, Ordering::SeqCst));
            self.is_known = true;
        }
        Ok(&self.allowed)
    }

    fn accept(&mut self, _: Token) -> Result<(), ConstraintError> {
        self.is_known = false;
        Ok(())
    }
}

/// An engine of one context on the tiny model, and a runtime to ask it from.
struct Bench {
    engine: Engine,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = defaults();
        config.model.source = tiny_model();
        config.engine.contexts = 1;
        change(&mut config);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let (engine, mut started) = Engine::start(&config, contexts());
        let outcome = runtime.block_on(started.wait_for(Option::is_some));
        assert!(matches!(*outcome.expect("told"), Some(Ok(()))));
        Self { engine, runtime }
    }

    fn submit(&self, number: i32, before: Option<Arc<dyn Fn(usize) + Send + Sync>>) -> Generation {
        let vocabulary = self.engine.model().expect("loaded").vocab().len();
        let constraint = before.map(|before| {
            Constraint::new(Arc::new(Everything { vocabulary, before })).named("regex")
        });
        let request = Request {
            adapters: candor::model::Adapters::default(),
            include_stop: false,
            shows_control: false,
            prompt: [1, 300 + number, 400 + number, 500].map(Token).into(),
            forced_prefix: Arc::default(),
            forced_token: None,
            max_tokens: 12,
            logprobs: Some(LogprobSpec::top(0)),
            rows: Rows::None,
            watch: Watch::default(),
            prompt_logprobs: None,
            sampling: SamplingParams {
                values: ParamValues {
                    temperature: 0.0,
                    ..ParamValues::default()
                },
                constraint,
                ..SamplingParams::default()
            },
            stop: Arc::default(),
            cache_prompt: true,
            exact: false,
            streamed: true,
            line_after: None,
            reports: false,
            deliver_end_token: false,
        };
        let submitted = self
            .engine
            .submit("test".into(), Instant::now(), vec![request]);
        let mut generations = self.runtime.block_on(submitted).expect("a place");
        generations.pop().expect("one")
    }

    fn end(&self, mut generation: Generation) -> (Vec<Delta>, Delta) {
        self.runtime.block_on(async {
            let mut deltas = Vec::new();
            loop {
                match generation.next().await.expect("an end") {
                    last @ (Delta::Finished(_) | Delta::Failed(_)) => return (deltas, last),
                    delta => deltas.push(delta),
                }
            }
        })
    }

    fn is_at_rest(&self) {
        let load = || self.engine.load_now().expect("loaded");
        while load().running > 0 {
            std::thread::yield_now();
        }
        assert_eq!((load().waiting, load().workers_alive), (0, 1));
    }
}

/// Holds whoever asks for the `held`-th time.
fn holding(gate: &Arc<Gate>, held: usize) -> Option<Arc<dyn Fn(usize) + Send + Sync>> {
    let gate = Arc::clone(gate);
    Some(Arc::new(move |asked| {
        if asked == held {
            gate.pass();
        }
    }))
}

#[test]
fn a_slow_constraint_keeps_no_neighbour_waiting() {
    for mode in [Mode::Exact, Mode::Throughput] {
        let bench = Bench::start(|config| config.engine.mode = mode);
        let finished = Delta::Finished(FinishReason::Length);
        let free: Vec<_> = (0..6).map(|n| bench.end(bench.submit(n, None))).collect();
        assert!(free.iter().all(|(_, last)| *last == finished));
        // Before the first token, amid the text, and before the last.
        for held in [0, 5, 11] {
            let gate = Arc::new(Gate::default());
            gate.close();
            let _opener = gate.opener();
            let slow = bench.submit(0, holding(&gate, held));
            gate.wait_for(1);
            // They begin and end while nothing is known of what the first may draw.
            for (number, free) in (0..).zip(&free).skip(1) {
                let (deltas, last) = bench.end(bench.submit(number, None));
                assert_eq!(last, finished);
                if mode == Mode::Exact {
                    assert_eq!(deltas[1..], free.0[1..]);
                }
            }
            gate.open();
            let (deltas, last) = bench.end(slow);
            assert_eq!(last, finished);
            // What allows everything changes nothing, not a bit of the numbers either.
            assert_eq!(deltas.len(), 13);
            if mode == Mode::Exact {
                assert_eq!(deltas[1..], free[0].0[1..]);
            }
            bench.is_at_rest();
        }
    }
}

#[test]
fn who_leaves_while_a_constraint_is_slow_leaves_nothing_behind() {
    let bench = Bench::start(|config| config.engine.parallel_sequences = 2);
    for held in [0, 3] {
        let gate = Arc::new(Gate::default());
        gate.close();
        let opener = gate.opener();
        let slow = bench.submit(0, holding(&gate, held));
        gate.wait_for(1);
        drop(slow);
        bench.end(bench.submit(1, None));
        // Its place is free, though what it asked for is still being looked for.
        bench.is_at_rest();
        drop(opener);
        bench.end(bench.submit(2, holding(&gate, 0)));
        bench.is_at_rest();
    }
}

#[test]
fn a_constraint_that_panics_ends_one_sequence() {
    let bench = Bench::start(|_| {});
    let (free, _) = bench.end(bench.submit(1, None));
    for panics in [0, 1, 6] {
        let bad = bench.submit(
            0,
            Some(Arc::new(move |asked| {
                assert!(asked < panics, "on command");
            })),
        );
        let good = bench.submit(1, Some(Arc::new(|_| {})));
        let (deltas, last) = bench.end(bad);
        // The prompt, and what was drawn before.
        assert_eq!(deltas.len(), 1 + panics);
        let Delta::Failed(EngineError::Constraint(stuck)) = last else {
            panic!("{last:?}");
        };
        assert_eq!(stuck.field, "regex");
        assert_eq!(bench.end(good).0[1..], free[1..]);
        bench.is_at_rest();
    }
}

#[test]
fn an_engine_that_closes_waits_for_no_constraint() {
    let bench = Bench::start(|_| {});
    let gate = Arc::new(Gate::default());
    gate.close();
    let _opener = gate.opener();
    let waiting = [
        bench.submit(0, holding(&gate, 0)),
        bench.submit(1, holding(&gate, 4)),
    ];
    gate.wait_for(2);
    bench.engine.close();
    for generation in waiting {
        let (_, last) = bench.end(generation);
        assert!(matches!(last, Delta::Failed(EngineError::Unavailable(_))));
    }
}

/// What is true of every value that is valid by a schema.
type Valid = fn(&Value) -> bool;

fn schemas() -> Vec<(Value, Valid)> {
    vec![
        (
            json!({"type": "object", "additionalProperties": false, "required": ["name", "age", "tags"], "properties": {
                "name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
                "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3}}}),
            |value| {
                let keys: Vec<_> = value.as_object().expect("an object").keys().collect();
                let tags = value["tags"].as_array().expect("an array");
                keys == ["name", "age", "tags"]
                    && value["name"]
                        .as_str()
                        .is_some_and(|name| name.chars().count() <= 8)
                    && value["age"].as_u64().is_some_and(|age| age <= 150)
                    && (1..=3).contains(&tags.len())
                    && tags
                        .iter()
                        .all(|tag| [json!("red"), json!("green"), json!("blue")].contains(tag))
            },
        ),
        (
            json!({"anyOf": [{"type": "boolean"}, {"type": "null"}, {"type": "array", "maxItems": 2,
                "items": {"$ref": "#/$defs/pair"}}], "$defs": {"pair": {"type": "array", "minItems": 2, "maxItems": 2,
                "items": {"type": "string", "pattern": "^[a-c]{1,3}$"}}}}),
            |value| {
                let is_pair = |pair: &Value| {
                    pair.as_array().is_some_and(|pair| {
                        pair.len() == 2
                            && pair.iter().all(|text| {
                                text.as_str().is_some_and(|text| {
                                    (1..=3).contains(&text.len())
                                        && text.bytes().all(|b| b"abc".contains(&b))
                                })
                            })
                    })
                };
                let is_list = |list: &Vec<Value>| list.len() <= 2 && list.iter().all(is_pair);
                value.is_boolean() || value.is_null() || value.as_array().is_some_and(is_list)
            },
        ),
    ]
}

/// So many answers, each of a seed of its own, are valid by the schemas.
fn answers_are_valid(server: &TestServer, requests: usize) {
    let (mut whole, mut cut) = (0, 0);
    for (schema, is_valid) in schemas() {
        for seed in 0..requests {
            let answer = server.complete(json!({
                "prompt": "A person as JSON: ", "max_tokens": 120, "n": 8, "seed": seed * 100, "temperature": 1.3,
                "top_k": 0, "top_p": 1, "min_p": 0, "json_schema": schema}));
            for choice in answer["choices"].as_array().expect("choices") {
                let text = choice["text"].as_str().expect("text");
                if choice["finish_reason"] == "length" {
                    cut += 1;
                    continue;
                }
                let value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
                assert!(is_valid(&value), "{text}");
                whole += 1;
            }
        }
    }
    println!("{whole} valid answers, {cut} cut by max_tokens");
    assert!(whole > cut * 4);
}

#[test]
fn answers_are_valid_by_their_schema_tiny() {
    answers_are_valid(tiny(), 25);
}

#[test]
fn answers_are_valid_by_their_schema_smollm2() {
    answers_are_valid(server::default(), 4);
}

/// Each field, and what its answer must be.
#[test]
fn every_field_holds() {
    let digits = |text: &str| text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_object = |text: &str| serde_json::from_str::<Value>(text).is_ok_and(|v| v.is_object());
    let is_word = |text: &str| ["red", "deep blue"].contains(&text);
    let is_sum = |text: &str| {
        let parts: Vec<_> = text.split('+').collect();
        parts.len() == 3 && parts.iter().all(|part| part.len() == 1)
    };
    type Holds<'a> = &'a dyn Fn(&str) -> bool;
    let schema = json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
        "additionalProperties": false});
    let lark = "start: D \"+\" D \"+\" D\nD: /[0-9]/";
    let gbnf = "root ::= d \"+\" d \"+\" d\nd ::= [0-9]";
    let rows: Vec<(Value, Holds)> = vec![
        (json!({"regex": "[0-9]{4}"}), &digits),
        (json!({"guided_regex": "[0-9]{4}"}), &digits),
        (
            json!({"structured_outputs": {"regex": "[0-9]{4}", "json": null}}),
            &digits,
        ),
        (json!({"choice": ["red", "deep blue"]}), &is_word),
        (json!({"guided_choice": ["red", "deep blue"]}), &is_word),
        (
            json!({"structured_outputs": {"choice": ["red", "deep blue"]}}),
            &is_word,
        ),
        (json!({"lark": lark}), &is_sum),
        (json!({"grammar": gbnf}), &is_sum),
        (json!({"guided_grammar": lark}), &is_sum),
        (json!({"guided_grammar": gbnf}), &is_sum),
        (json!({"structured_outputs": {"grammar": lark}}), &is_sum),
        (json!({"structured_outputs": {"grammar": gbnf}}), &is_sum),
        (json!({"json_schema": schema}), &is_object),
        (json!({"json_schema": schema.to_string()}), &is_object),
        (json!({"guided_json": schema}), &is_object),
        (json!({"structured_outputs": {"json": schema}}), &is_object),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": true,
            "schema": schema}}}),
            &is_object,
        ),
        (
            json!({"response_format": {"type": "json_object", "schema": schema}}),
            &is_object,
        ),
        (
            json!({"response_format": {"type": "text"}, "regex": "[0-9]{4}"}),
            &digits,
        ),
    ];
    for (fields, holds) in rows {
        let mut body = json!({"prompt": "Say: ", "max_tokens": 40, "temperature": 1, "seed": 3, "logprobs": 1});
        let object = body.as_object_mut().expect("an object");
        object.extend(fields.as_object().expect("an object").clone());
        let answer = tiny().complete(body.clone());
        let choice = &answer["choices"][0];
        let text = choice["text"].as_str().expect("text");
        assert!(holds(text), "{fields}: {choice}");
        assert_eq!(choice["finish_reason"], "stop", "{fields}");
        let chunks = tiny().stream(body);
        let streamed: String = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["text"].as_str())
            .collect();
        assert_eq!(streamed, text, "{fields}");
    }
    // An object that need not end.
    for fields in [
        json!({"response_format": {"type": "json_object"}}),
        json!({"structured_outputs": {"json_object": true}}),
    ] {
        let mut body = json!({"prompt": "Say: ", "max_tokens": 30, "seed": 4});
        let object = body.as_object_mut().expect("an object");
        object.extend(fields.as_object().expect("an object").clone());
        let answer = tiny().complete(body);
        let text = answer["choices"][0]["text"].as_str().expect("text");
        assert!(text.starts_with('{'), "{text}");
    }
}

/// The numbers of a constrained answer are those of the same tokens, scored as a prompt. (Rows of a prompt are evaluated
/// together, which moves low bits; renormalised over what is allowed, the numbers would be whole nats off.)
fn numbers_are_raw(model: &str, tolerance: f32) {
    let bench = Bench::start(|config| config.model.source = model.to_owned());
    let model = bench.engine.model().expect("loaded");
    let prompt = model
        .vocab()
        .tokenize("A person as JSON: ", candor::model::Added::Both, false);
    let (schema, _) = schemas().remove(0);
    let constraint = Constraint::json_schema(&model, &schema).expect("a schema");
    let ask = |prompt: &[Token], max_tokens, logprobs: Option<usize>, constraint| {
        let request = Request {
            adapters: candor::model::Adapters::default(),
            include_stop: false,
            shows_control: false,
            prompt: prompt.into(),
            forced_prefix: Arc::default(),
            forced_token: None,
            max_tokens,
            logprobs: logprobs.map(LogprobSpec::top),
            prompt_logprobs: (max_tokens == 0).then(|| PromptLogprobs::all(LogprobSpec::top(3))),
            rows: Rows::None,
            watch: Watch::default(),
            sampling: SamplingParams {
                constraint,
                seed: 5,
                ..SamplingParams::default()
            },
            stop: Arc::default(),
            cache_prompt: false,
            exact: false,
            streamed: true,
            line_after: None,
            reports: false,
            deliver_end_token: false,
        };
        let submitted = bench
            .engine
            .submit("test".into(), Instant::now(), vec![request]);
        let mut generations = bench.runtime.block_on(submitted).expect("a place");
        bench.end(generations.pop().expect("one")).0
    };
    let drawn = ask(&prompt, 60, Some(3), Some(constraint));
    let drawn: Vec<_> = drawn
        .into_iter()
        .filter_map(|delta| match delta {
            Delta::Token(output) => output.details.logprob,
            _ => None,
        })
        .collect();
    assert!(drawn.len() > 8, "{}", drawn.len());
    let tokens: Vec<Token> = prompt
        .iter()
        .copied()
        .chain(drawn.iter().map(|score| score.token))
        .collect();
    let scored = ask(&tokens, 0, None, None);
    let Delta::Prompt(scored) = &scored[0] else {
        panic!("no prompt");
    };
    let scored = &scored.logprobs[prompt.len() - 1..];
    assert_eq!(scored.len(), drawn.len());
    let mut largest = 0.0_f32;
    let mut unlikely = 0;
    for (drawn, scored) in drawn.iter().zip(scored) {
        assert_eq!(drawn.token, scored.token);
        largest = largest.max((drawn.logprob - scored.logprob).abs());
        unlikely += usize::from(drawn.token != drawn.top[0].0);
    }
    println!("{} tokens, largest difference {largest}", drawn.len());
    assert!(largest < tolerance, "{largest}");
    // The schema forbade some of the likeliest, which are told all the same.
    assert!(unlikely > 0);
    assert!(drawn.iter().any(|score| score.logprob < -3.0));
}

#[test]
fn numbers_under_a_schema_are_raw_tiny() {
    numbers_are_raw(&tiny_model(), 0.01);
}

#[test]
fn numbers_under_a_schema_are_raw_smollm2() {
    numbers_are_raw(&server::default_model(), 0.4);
}

/// What is made to be expensive, or to break what reads it.
fn hostile() -> Vec<(String, Value)> {
    let each = |count: usize, separator: &str, write: &dyn Fn(usize) -> String| {
        let all: Vec<String> = (0..count).map(write).collect();
        all.join(separator)
    };
    let nested = |open: &str, inner: &str, close: &str, depth: usize| {
        format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
    };
    let mut all: Vec<(String, Value)> = Vec::new();
    let mut schema = |name: &str, schema: String| {
        // As text: what is too deep for JSON is told by the field.
        all.push((name.to_owned(), json!({"json_schema": schema})));
    };
    schema(
        "20,000 values",
        format!(
            "{{\"enum\": [{}]}}",
            each(20_000, ",", &|i| format!("\"value {i}\""))
        ),
    );
    schema(
        "4,000 values",
        format!(
            "{{\"enum\": [{}]}}",
            each(4_000, ",", &|i| format!("\"value {i}\""))
        ),
    );
    schema(
        "5,000 objects",
        format!(
            "{{\"enum\": [{}]}}",
            each(5_000, ",", &|i| format!("{{\"a\":{i}}}"))
        ),
    );
    schema("deep", nested("{\"items\":", "{}", "}", 20_000 / 9));
    schema(
        "as deep as JSON may be",
        nested("{\"type\":\"array\",\"items\":", "{}", "}", 120),
    );
    schema(
        "maxItems",
        r#"{"type": "array", "items": {"type": "object"}, "maxItems": 1000000000}"#.to_owned(),
    );
    schema(
        "minItems",
        r#"{"type": "array", "items": {"type": "object"}, "minItems": 1000000000}"#.to_owned(),
    );
    schema(
        "maxLength",
        r#"{"type": "string", "minLength": 100000, "maxLength": 1000000000}"#.to_owned(),
    );
    schema("itself", r##"{"$ref": "#"}"##.to_owned());
    schema("each other", r##"{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}"##.to_owned());
    schema(
        "growing",
        r##"{"$defs": {"a": {"allOf": [{"properties": {"x": {"$ref": "#/$defs/a"}}}, {"properties": {"x": {"$ref": "#/$defs/b"}}}]}, "b": {"allOf": [{"properties": {"x": {"$ref": "#/$defs/b"}}}, {"properties": {"x": {"$ref": "#/$defs/a"}}}]}}, "$ref": "#/$defs/a"}"##.to_owned(),
    );
    schema(
        "a chain of references",
        format!(
            r##"{{"$defs": {{{}, "d900": {{}}}}, "$ref": "#/$defs/d0"}}"##,
            each(900, ",", &|i| format!(
                r##""d{i}": {{"type": "object", "allOf": [{{"$ref": "#/$defs/d{}"}}]}}"##,
                i + 1
            ))
        ),
    );
    schema(
        "1,000 properties",
        format!(
            "{{\"properties\": {{{}}}}}",
            each(1000, ",", &|i| format!(
                "\"p{i}\": {{\"type\": \"integer\"}}"
            ))
        ),
    );
    schema(
        "2,000 properties",
        format!(
            "{{\"properties\": {{{}}}}}",
            each(2000, ",", &|i| format!("\"p{i}\": {{}}"))
        ),
    );
    schema(
        "32 patterns",
        format!(
            "{{\"patternProperties\": {{{}}}}}",
            each(32, ",", &|i| format!("\"^{i}(a|b)*a(a|b){{12}}$\": {{}}"))
        ),
    );
    schema(
        "500 patterns",
        format!(
            "{{\"patternProperties\": {{{}}}}}",
            each(500, ",", &|i| format!("\"^{i}(a|b)*$\": {{}}"))
        ),
    );
    schema(
        "patterns many times",
        format!(
            r##"{{"$defs": {{"p": {{"patternProperties": {{{}}}}}}}, "properties": {{{}}}}}"##,
            each(32, ",", &|i| format!("\"^{i}(a|b)*a(a|b){{12}}$\": {{}}")),
            each(700, ",", &|i| format!(
                r##""p{i}": {{"allOf": [{{"$ref": "#/$defs/p"}}, {{"type": "object"}}]}}"##
            ))
        ),
    );
    let any = |name: &str, count: usize| {
        let one = |i| format!(r#"{{"properties": {{"{name}{i}": {{"type": "integer"}}}}}}"#);
        format!(r#"{{"anyOf": [{}]}}"#, each(count, ",", &one))
    };
    schema(
        "a product",
        format!(
            r#"{{"allOf": [{}, {}, {}]}}"#,
            any("a", 200),
            any("b", 200),
            any("c", 200)
        ),
    );
    schema(
        "a number",
        r#"{"type": "integer", "multipleOf": 982451653}"#.to_owned(),
    );
    schema(
        "what is not ASCII",
        format!("{{\"type\": \"{}\"}}", "é".repeat(99)),
    );
    for (name, regex) in [
        ("repeated", "((a{1000}){1000}){1000}".to_owned()),
        ("repeated classes", "([a-z]{0,1000}x){0,1000}".to_owned()),
        ("many states", "(a|b)*a(a|b){30}c".to_owned()),
        ("stars of stars", "(a*b*)*".repeat(500)),
        ("optional", "a?b?c?d?".repeat(2000)),
        ("optional, 64 KiB", "a?b?c?d?".repeat(8000)),
        ("words", r"\w{0,60000}".to_owned()),
        ("nested", nested("(", "a", ")", 30_000)),
        ("nested stars", nested("(", "a", ")*", 200)),
        ("alternatives", each(8_000, "|", &|i| format!("c{i}"))),
    ] {
        all.push((format!("regex, {name}"), json!({"regex": regex})));
    }
    for (name, lark) in [
        (
            "nested",
            format!("start: {}", nested("(", "\"a\"", ")", 30_000)),
        ),
        ("nots", format!("start: A\nA: {}/a/", "~".repeat(60_000))),
        (
            "a chain of rules",
            each(4_000, "\n", &|i| format!("r{i}: r{}", i + 1)) + "\nr4000: \"a\"\nstart: r0\n",
        ),
        (
            "a chain of terminals",
            each(2_500, "\n", &|i| format!("R{i}: R{} \"b\"", i + 1))
                + "\nR2500: \"a\"\nstart: R0\n",
        ),
        (
            "repeated",
            "start: (\"a\"{0,1000000}){0,1000000}".to_owned(),
        ),
        (
            "repeated rules",
            "start: x{0,2000}\nx: y{0,2000}\ny: \"a\" | \"b\" x \"c\"".to_owned(),
        ),
        ("right recursion", "start: /[ab]/ start | \"c\"".to_owned()),
        (
            "ambiguous",
            "start: start start start | \"a\" | \"\"".to_owned(),
        ),
        (
            "many terminals",
            each(1_500, "\n", &|i| format!("T{i}: /[a-z]*{i}[a-z]*/"))
                + "\nstart: ("
                + &each(1_500, "|", &|i| format!("T{i}"))
                + ")*\n",
        ),
        ("a circle", "start: a\na: b\nb: a".to_owned()),
        (
            "grammars in grammars",
            format!("start: {}", nested("%lark { start: ", "\"a\" ", "}", 2_000)),
        ),
        (
            "a schema elsewhere",
            r#"start: %json {"$ref": "https://example.com/x"}"#.to_owned(),
        ),
        (
            "any bytes",
            "%llguidance {\"allow_invalid_utf8\": true}\nstart: /(?s:.)*/".to_owned(),
        ),
    ] {
        all.push((format!("lark, {name}"), json!({"lark": lark})));
    }
    let many: Vec<String> = (0..8_000).map(|i| format!("c{i}")).collect();
    all.push(("8,000 choices".to_owned(), json!({"choice": many})));
    let odd: Vec<String> = (1..128_u8)
        .map(|byte| char::from(byte).to_string())
        .collect();
    all.push(("odd choices".to_owned(), json!({"choice": odd})));
    all
}

#[test]
fn what_is_made_to_hurt_is_answered_and_hurts_nobody() {
    let server = TestServer::start(&tiny_model());
    let usual = json!({"prompt": "Once", "max_tokens": 8, "temperature": 0, "logprobs": 2});
    let expected = server.complete(usual.clone())["choices"].clone();
    for (name, fields) in hostile() {
        let mut body = json!({"prompt": "Say: ", "max_tokens": 40, "temperature": 1, "seed": 3});
        let object = body.as_object_mut().expect("an object");
        object.extend(fields.as_object().expect("an object").clone());
        let started = Instant::now();
        let answer = server.try_complete(&body);
        let took = started.elapsed();
        let said = answer.json();
        let said = if answer.status == 200 {
            said["choices"][0]["text"].to_string()
        } else {
            assert_eq!(answer.status, 400, "{name}: {}", answer.body);
            let (message, param) = (&said["error"]["message"], &said["error"]["param"]);
            let (message, param) = (
                message.as_str().expect("text"),
                param.as_str().expect("a field"),
            );
            assert!(
                message.contains(param) && message.len() < 600,
                "{name}: {message}"
            );
            message.to_owned()
        };
        println!(
            "{name}: {took:?}, {} {}",
            answer.status,
            said.chars().take(160).collect::<String>()
        );
        assert_eq!(
            server.complete(usual.clone())["choices"],
            expected,
            "after {name}"
        );
    }
    books_balance(&server);
}
