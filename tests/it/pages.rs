//! The pages of `docs/`: each example is sent, and the answer must be the one shown; each field, each part of an answer and
//! each error code is listed, and shown by an example. `CANDOR_WRITE_PAGES=1` rewrites the tables, and the answers, except
//! those that this kind of CPU gives with other bits than the page shows.

mod curl;
mod markdown;
mod shown;
mod tables;

use std::collections::BTreeSet;
use std::sync::Arc;

use candor::config::{Config, Sources};
use candor::engine::{Machinery, Outcome};
use candor::model::DecodeError;
use serde_json::{Value, json};

use crate::faulty::{Fault, Gate, Trouble, faulty};
use crate::fim;
use crate::raw::Request;
use crate::server::{TestServer, default_model, files, qwen_model, root};
use curl::{Command, Filter};
use markdown::{Example, Meanwhile, Page};

/// Headers that examples show.
const HEADERS: [&str; 6] = [
    "content-type",
    "retry-after",
    "www-authenticate",
    "allow",
    "x-request-id",
    "access-control-allow-origin",
];

/// The kind of bits (the first part of their class) that a page's answers are of.
fn kind_of(place: &str) -> &'static str {
    let of_avx2 = ["docs/api/logprobs.md:", "docs/api/score.md:"];
    if of_avx2.iter().any(|page| place.starts_with(page)) {
        "avx2"
    } else {
        "avx512"
    }
}

fn writes() -> bool {
    std::env::var_os("CANDOR_WRITE_PAGES").is_some()
}

/// `README.md`, and `docs/` in the order of its names.
fn pages() -> Vec<Page> {
    let mut pages = vec![root().join("README.md")];
    pages.extend(files(&root().join("docs"), "md"));
    let pages = pages.iter().map(|file| {
        let name = file.strip_prefix(root()).expect("within");
        let name = name.to_string_lossy().into_owned();
        Page::read(file, &name, name.starts_with("docs/api/"))
    });
    pages.collect()
}

/// The pages that this test holds to be complete.
fn of_the_api(pages: &[Page]) -> Vec<&Page> {
    let folder = root().join("docs/api");
    let within = pages.iter().filter(|page| page.path.starts_with(&folder));
    within.collect()
}

/// What came back.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

fn ask(server: &TestServer, command: &Command) -> Answer {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let mut request = ureq::http::Request::builder()
        .method(command.method.as_str())
        .uri(format!("http://{}{}", server.address(), command.path));
    for (name, value) in &command.headers {
        request = request.header(name, value);
    }
    let body = command.body.clone().unwrap_or_default();
    let response = agent
        .run(request.body(body).expect("a request"))
        .expect("an answer");
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()));
    Answer {
        status: response.status().as_u16(),
        headers: headers.collect(),
        body: response.into_body().read_to_string().expect("a body"),
    }
}

/// The model of examples that fill in. Where it is not at hand, a tiny one with the same kinds of tokens answers in its place.
const INFILLS: &str = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf";

/// Whether another model answers an example than the one that its settings name.
fn is_stood_in_for(example: &Example) -> bool {
    example.settings.contains(INFILLS) && qwen_model("0.5b").is_none()
}

/// A server with these settings, which does not end before what runs on it has.
fn start(example: &Example, trouble: Option<Trouble>) -> TestServer {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("candor.toml");
    std::fs::write(&file, &example.settings).expect("written");
    let sources = Sources {
        file: Some(file),
        ..Sources::default()
    };
    let loaded =
        Config::load(&sources).unwrap_or_else(|error| panic!("{}: {error}", example.place));
    let runners = trouble.map_or_else(candor::model::contexts, |trouble| faulty(trouble).0);
    let mut machinery = Machinery::from(runners);
    let cache = folder.path().display().to_string();
    let routine_fails = example.meanwhile == Meanwhile::RoutineFails;
    if routine_fails {
        machinery.trials = Arc::new(|order| {
            if order.routines.amx || order.routines.repack {
                Outcome::Bad("ends the process (SIGSEGV)".to_owned())
            } else {
                Outcome::Fine("bits".to_owned())
            }
        });
    }
    let own = |config: &Config| match config.model.source.as_str() {
        INFILLS => qwen_model("0.5b").unwrap_or_else(|| fim::write("pages").display().to_string()),
        source => source.to_owned(),
    };
    let source =
        Some(own(&loaded.config)).filter(|source| *source != own(&crate::server::defaults()));
    let change = |config: &mut Config| {
        *config = Config {
            model: candor::config::Model {
                source: source.unwrap_or_else(default_model),
                // What a trial found that fails on command is not for other servers.
                cache_dir: if routine_fails {
                    cache
                } else {
                    loaded.config.model.cache_dir
                },
                ..loaded.config.model
            },
            ..loaded.config
        }
    };
    TestServer::start_from("unused", change, machinery)
}

/// Asks while that happens which the example speaks of.
fn ask_meanwhile(example: &Example) -> Answer {
    if example.meanwhile == Meanwhile::RoutineFails {
        return ask(&start(example, None), &example.command);
    }
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let meanwhile = example.meanwhile;
    let trouble: Trouble = Arc::new(move |_, _| {
        held.pass();
        match meanwhile {
            Meanwhile::EvaluationFails => Some(Fault::Error(DecodeError::Failed(-3))),
            Meanwhile::WorkerEnds => Some(Fault::Panic),
            _ => None,
        }
    });
    let server = start(example, Some(trouble));
    if meanwhile != Meanwhile::AnotherRuns {
        return ask(&server, &example.command);
    }
    gate.close();
    let opener = gate.opener();
    let body = json!({"prompt": [1, 2, 3], "max_tokens": 1});
    let _running = Request::complete(body.to_string()).start(server.address());
    gate.wait_for(1);
    let answer = ask(&server, &example.command);
    drop(opener);
    answer
}

/// The answers of the pages' examples, in their order. Servers with settings of their own are there for as long as an
/// example with these follows.
fn ask_all(pages: &[Page]) -> Vec<(usize, &Example, Answer)> {
    let mut own: Option<(String, TestServer)> = None;
    let mut answers = Vec::new();
    let mut latest = String::new();
    for (number, page) in pages.iter().enumerate() {
        for example in &page.examples {
            let answer = if example.meanwhile != Meanwhile::Nothing {
                ask_meanwhile(example)
            } else if example.settings.is_empty() {
                ask(crate::server::default(), &example.command.with_id(&latest))
            } else {
                if own
                    .as_ref()
                    .is_none_or(|(settings, _)| *settings != example.settings)
                {
                    drop(own.take());
                    own = Some((example.settings.clone(), start(example, None)));
                }
                let (_, server) = own.as_ref().expect("just started");
                ask(server, &example.command)
            };
            let body = serde_json::from_str::<Value>(&answer.body).unwrap_or_default();
            if let Some(id) = body["id"].as_str().filter(|id| id.starts_with("cmpl-")) {
                latest = id.to_owned();
            }
            answers.push((number, example, answer));
        }
    }
    answers
}

/// The answer as a page shows it.
fn written(example: &Example, answer: &Answer) -> String {
    let body = serde_json::from_str::<Value>(&answer.body);
    let mut text = match &body {
        Ok(value) => {
            let mut values = vec![value.clone()];
            for filter in &example.command.pipe {
                let Filter::Jq(steps) = filter else {
                    panic!("{}: grep is for text", example.place);
                };
                values = values
                    .iter()
                    .flat_map(|value| curl::jq(steps, value))
                    .collect();
            }
            let [value] = &values[..] else {
                return values
                    .iter()
                    .map(|value| shown::line(&shown::shown(value)) + "\n")
                    .collect();
            };
            shown::lines(&shown::shown(value))
        }
        Err(_) => {
            let mut lines: Vec<&str> = answer.body.lines().collect();
            for filter in &example.command.pipe {
                let Filter::Grep(word) = filter else {
                    panic!(
                        "{}: jq is for JSON, but this came: {}",
                        example.place, answer.body
                    );
                };
                lines.retain(|line| line.contains(word.as_str()));
            }
            // An empty line ends each event, and the last one would end the block.
            while lines.last() == Some(&"") {
                lines.pop();
            }
            lines
                .into_iter()
                .map(|line| {
                    event(line).map_or_else(
                        || line.to_owned(),
                        |event| format!("data: {}", shown::shown(&event)),
                    ) + "\n"
                })
                .collect()
        }
    };
    if example.command.with_head {
        let status = ureq::http::StatusCode::from_u16(answer.status).expect("a status");
        let mut head = format!("HTTP/1.1 {status}\n");
        for (name, value) in &answer.headers {
            if HEADERS.contains(&name.as_str()) {
                head.push_str(&format!(
                    "{name}: {}\n",
                    shown::shown(&json!({"id": value}))["id"]
                        .as_str()
                        .expect("text")
                ));
            }
        }
        text = format!("{head}\n{text}");
    }
    text
}

fn event(line: &str) -> Option<Value> {
    serde_json::from_str(line.strip_prefix("data: ")?).ok()
}

/// Whether the answer must have the bits that the page shows: another kind of CPU may give other numbers and texts.
fn has_the_bits_shown(example: &Example, answer: &Answer) -> bool {
    let class = answer
        .headers
        .iter()
        .find(|(name, _)| name == "x-candor-bits-class");
    let kind = class.and_then(|(_, class)| class.split('-').next());
    !is_stood_in_for(example)
        && (kind == Some(kind_of(&example.place))
            || answer.status != 200
            || !is_of_the_model(example))
}

/// Whether what is written came; if not, where they part.
fn check(example: &Example, answer: &Answer) -> Result<(), String> {
    if !example.command.with_head && answer.status != 200 {
        return Err(format!(
            "without -i, but {}: {}",
            answer.status, answer.body
        ));
    }
    let came = written(example, answer);
    let exact = has_the_bits_shown(example, answer);
    let (came, is) = if example.command.with_head {
        let split = |text: &str| {
            let (head, body) = text
                .split_once("\n\n")
                .ok_or("a head and a body are shown")?;
            Ok::<_, String>((head.to_owned(), body.to_owned()))
        };
        let (head, body) = split(&came)?;
        let (written_head, written_body) = split(&example.answer)?;
        if !head.lines().eq(written_head.lines()) {
            return Err(format!("the head is {head:?}, written is {written_head:?}"));
        }
        (body, written_body)
    } else {
        (came, example.answer.clone())
    };
    let values = |text: &str| {
        let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        values.collect::<Result<Vec<_>, _>>()
    };
    if let Ok(values_came) = values(&came) {
        let written =
            values(&is).map_err(|error| format!("what is written is no JSON: {error}"))?;
        let (written, came) = (written.into(), values_came.into());
        return match exact {
            true => shown::agree(&written, &came, ""),
            false if shown::alike(&written, &came) => Ok(()),
            false => Err(format!("{came} has another form than {written}")),
        };
    }
    if !exact {
        return Ok(());
    }
    let lines = (is.lines().count(), came.lines().count());
    if lines.0 != lines.1 {
        return Err(format!(
            "{} lines, written are {}: {came}",
            lines.1, lines.0
        ));
    }
    is.lines()
        .zip(came.lines())
        .try_for_each(|(is, came)| match (event(is), event(came)) {
            (Some(is), Some(came)) => shown::agree(&is, &came, ""),
            _ if same_line(is, came, example.command.path == "/metrics") => Ok(()),
            _ => Err(format!("{came:?}, written is {is:?}")),
        })
}

/// Whether the model is evaluated for it.
fn is_of_the_model(example: &Example) -> bool {
    [
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/score",
        "/v1/perplexity",
        "/v1/rerank",
        "/completion",
        "/infill",
    ]
    .contains(&example.command.route())
}

/// What a metric counts is another day another number.
fn same_line(is: &str, came: &str, counts: bool) -> bool {
    let name = |line: &str| {
        line.rsplit_once(' ')
            .map_or(String::new(), |(name, _)| name.to_owned())
    };
    shown::fits(is, came) || (counts && !is.starts_with('#') && name(is) == name(came))
}

#[test]
fn what_the_pages_show_is_what_comes() {
    let all = pages();
    let api = of_the_api(&all);
    let document = crate::server::default().get("/openapi.json").json();
    let answers = ask_all(&all);
    assert!(answers.len() > 40, "{} examples", answers.len());
    assert!(!all[0].examples.is_empty(), "README.md has no example");
    let mut problems = Vec::new();
    for (number, page) in all.iter().enumerate() {
        let mut changes = Vec::new();
        for (_, example, answer) in answers.iter().filter(|(of, ..)| *of == number) {
            if writes() {
                if has_the_bits_shown(example, answer) {
                    changes.push((example.lines.clone(), written(example, answer)));
                }
            } else if let Err(problem) = check(example, answer) {
                problems.push(format!("{}: {problem}", example.place));
            }
        }
        for table in &page.tables {
            let Some(text) = tables::table(&table.title, &document, &api) else {
                continue;
            };
            if writes() {
                changes.push((table.lines.clone(), text));
            } else if text != table.written {
                problems.push(format!(
                    "{}: the table is another now:\n{text}",
                    table.place
                ));
            }
        }
        if writes() {
            std::fs::write(&page.path, page.with(changes)).expect("written");
        }
    }
    assert!(
        problems.is_empty(),
        "(CANDOR_WRITE_PAGES=1 writes these anew)\n{}",
        problems.join("\n")
    );
    every_field_is_shown(&api, &document);
    every_part_of_an_answer_is_shown(&answers, &document);
    every_code_is_shown(&api, &answers);
}

/// Each field of each route has a row in a table, and an example of that route, or of one that has the very same field.
fn every_field_is_shown(pages: &[&Page], document: &Value) {
    let paths: Vec<&str> = document["paths"]
        .as_object()
        .expect("paths")
        .keys()
        .map(String::as_str)
        .collect();
    let paths: Vec<&str> = paths
        .into_iter()
        .filter(|path| document["paths"][path].get("post").is_some())
        .collect();
    let mut used: Vec<(&str, &Value)> = Vec::new();
    for example in pages.iter().flat_map(|page| &page.examples) {
        let body = example
            .command
            .body
            .as_deref()
            .map(serde_json::from_str::<Value>);
        let path = paths.iter().find(|path| **path == example.command.route());
        if let (Some(Ok(body)), Some(path)) = (body, path) {
            let known = tables::fields(document, "POST", path);
            used.extend(
                known
                    .into_iter()
                    .filter(|(name, _)| body.get(name).is_some()),
            );
        }
    }
    let tables = || pages.iter().flat_map(|page| &page.tables);
    let everywhere: Vec<&str> = tables()
        .filter(|table| table.title.starts_with("fields of "))
        .flat_map(|table| table.written.lines())
        .filter_map(|row| row.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let mut missing = Vec::new();
    for path in paths {
        let route = format!("POST {path}");
        let index = format!("index of {route}: ");
        let index: Vec<&str> = tables()
            .filter(|table| table.title.starts_with(&index))
            .map(|table| table.written.as_str())
            .collect();
        let rows: BTreeSet<String> = tables()
            .flat_map(|table| tables::shown_fields(&table.title, document, &route))
            .collect();
        for field in tables::fields(document, "POST", path) {
            // The same on every route, and one table tells of it.
            let without_effect = field.1["description"] == "No effect.";
            let is_shown = without_effect && everywhere.contains(&field.0);
            if !is_shown && !rows.contains(field.0) {
                missing.push(format!("{route}: no table shows `{}`", field.0));
            }
            let row = format!("\n| [`{}`](", field.0);
            if !index.is_empty() && !index.iter().any(|table| table.contains(&row)) {
                missing.push(format!("{route}: no index has `{}`", field.0));
            }
            if !used.contains(&field) {
                missing.push(format!("{route}: no example uses `{}`", field.0));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// Each part that an answer may have comes in the answer of an example.
fn every_part_of_an_answer_is_shown(answers: &[(usize, &Example, Answer)], document: &Value) {
    fn names(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    found.insert(name.clone());
                    names(value, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| names(item, found)),
            _ => {}
        }
    }
    let mut missing = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for method in operations.as_object().expect("operations").keys() {
            let mut came = BTreeSet::new();
            let mut asked = 0;
            let stem = path.split('{').next().unwrap_or(path);
            for (_, example, answer) in answers {
                let route = example.command.route();
                let same = route == path || (stem != path && route.starts_with(stem));
                if !same
                    || !example.command.method.eq_ignore_ascii_case(method)
                    || answer.status != 200
                {
                    continue;
                }
                asked += 1;
                let whole = serde_json::from_str(&answer.body).ok();
                for value in whole
                    .into_iter()
                    .chain(answer.body.lines().filter_map(event))
                {
                    names(&value, &mut came);
                }
            }
            if asked == 0 {
                missing.push(format!("{method} {path} has no example"));
                continue;
            }
            for name in tables::answers(document, method, path) {
                let parts = tables::parts(name, document);
                let parts = parts.iter().filter(|part| !came.contains(*part));
                missing.extend(
                    parts.map(|part| format!("{method} {path}: no example's answer has `{part}`")),
                );
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// The codes of errors, as they stand in the code.
fn codes() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in files(&root().join("src/api"), "rs") {
        let text = std::fs::read_to_string(&file).expect("text");
        // `.code("one")`, and `(StatusCode::ONE, "one")`.
        let calls = text.split(".code(\"").skip(1);
        let pairs = text
            .split("(StatusCode::")
            .skip(1)
            .filter_map(|rest| rest.split_once(", \""));
        let pairs = pairs.filter(|(status, _)| {
            status
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        });
        for rest in calls.chain(pairs.map(|(_, rest)| rest)) {
            let code = rest.split('"').next().unwrap_or_default();
            if code
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            {
                found.insert(code.to_owned());
            }
        }
    }
    found
}

/// Each code of an error is told of, and is in an answer that an example shows.
fn every_code_is_shown(pages: &[&Page], answers: &[(usize, &Example, Answer)]) {
    let known = codes();
    assert!(known.len() > 10, "{known:?}");
    for code in known {
        let told = format!("| `{code}` |");
        assert!(
            pages.iter().any(|page| page.text.contains(&told)),
            "no table of errors has `{code}`"
        );
        let came = |body: &str| {
            serde_json::from_str::<Value>(body).is_ok_and(|body| body["error"]["code"] == *code)
        };
        assert!(
            answers.iter().any(|(_, _, answer)| came(&answer.body)),
            "no example's answer has `{code}`"
        );
    }
}
