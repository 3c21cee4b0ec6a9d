//! The table of sampling parameters: settings and requests accept the same values, and the documents are made from it.
//! `CANDOR_WRITE_PAGES=1` writes them.

use std::fmt::Write;

use candor::config::{Config, Flag, FlagValue, Sources};
use candor::params::{Number, PARAMS, Param, Range};
use serde_json::{Value, json};

use crate::server::{TestServer, root, tiny, tiny_model};

/// The bounds of a parameter, the nearest values outside, and what is not a number of its kind.
fn values(param: &Param) -> Vec<Value> {
    let mut values = match param.range {
        Range::Integer(least, most) => {
            let near = [least - 1, least, most, most + 1];
            [&near.map(Value::from)[..], &[json!(least as f64 + 0.5)]].concat()
        }
        Range::Real(least, most) => {
            let near = [least - 1e-9, least, most, most + 1e-9];
            near.map(Value::from).to_vec()
        }
    };
    values.extend([json!(-1e30), json!(1e30), json!("much")]);
    values
}

fn settings(param: &Param, value: &Value) -> bool {
    let text = value.as_str().map_or(value.to_string(), str::to_owned);
    let flag = Flag {
        name: "--set".to_owned(),
        key: param.setting.to_owned(),
        value: FlagValue::One(text),
    };
    let loaded = Config::load(&Sources {
        flags: vec![flag],
        ..Sources::default()
    });
    loaded.is_ok()
}

#[test]
fn settings_and_requests_accept_the_same_values() {
    let mut accepted = 0;
    for param in PARAMS {
        for value in values(param) {
            let mut body = json!({"prompt": "a", "max_tokens": 1});
            body[param.name] = value.clone();
            let answer = tiny().post("/v1/completions", &body);
            let takes = settings(param, &value);
            assert_eq!(answer.status == 200, takes, "{body}: {}", answer.body);
            if answer.status != 200 {
                assert_eq!(answer.json()["error"]["param"], param.name, "{body}");
            }
            accepted += usize::from(takes);
        }
    }
    assert_eq!(accepted, 2 * PARAMS.len());
}

#[test]
fn every_setting_is_the_default_of_its_field() {
    // Any value other than the built-in default.
    let other = |param: &Param| match (param.range, param.default()) {
        (Range::Integer(..), default) => Number::Integer(i64::from(default) + 1),
        (Range::Real(least, most), default) if f64::from(f32::from(default)) < most => {
            Number::Real((least + most) as f32 / 2.0 + 0.125)
        }
        (Range::Real(least, _), _) => Number::Real(least as f32 + 0.25),
    };
    let server = TestServer::start_with(&tiny_model(), |config| {
        for param in PARAMS {
            param.set(&mut config.sampling.values, other(param));
        }
    });
    let document = server.get("/openapi.json").json();
    for path in ["/v1/completions", "/v1/chat/completions", "/v1/responses"] {
        let body = &document["paths"][path]["post"]["requestBody"];
        let fields = &body["content"]["application/json"]["schema"]["properties"];
        for param in PARAMS {
            let default = fields[param.name]["default"].as_f64();
            let default = default.map(|it| it as f32);
            assert_eq!(default, Some(other(param).into()), "{path} {}", param.name);
            assert_eq!(fields[param.name]["description"], param.about);
        }
    }
}

/// A parameter's default as TOML has it.
fn default(param: &Param) -> String {
    match param.default() {
        Number::Integer(value) => value.to_string(),
        Number::Real(value) => format!("{value:?}"),
    }
}

fn allowed(param: &Param) -> String {
    match param.range {
        Range::Integer(least, most) => format!("a whole number from {least} to {most}"),
        Range::Real(least, most) => format!("a number from {least} to {most}"),
    }
}

/// A comment of TOML, in lines of at most 118 characters.
fn comment(text: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= 118 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n")
}

/// Holds the part of a file between two texts against what it should be.
fn hold(path: &str, from: &str, to: &str, expect: &str) {
    let file = root().join(path);
    let text = std::fs::read_to_string(&file).expect("text");
    let start = text.find(from).expect("the beginning") + from.len();
    let end = start + text[start..].find(to).expect("the end");
    if text[start..end] == *expect {
        return;
    }
    if std::env::var_os("CANDOR_WRITE_PAGES").is_some() {
        let text = [&text[..start], expect, &text[end..]].concat();
        std::fs::write(&file, text).expect("written");
    } else {
        panic!(
            "{path} differs from the table of parameters: CANDOR_WRITE_PAGES=1 writes it.\n{expect}\ninstead of\n{}",
            &text[start..end]
        );
    }
}

#[test]
fn the_settings_are_documented_from_the_table() {
    let (mut toml, mut rows) = (String::new(), String::new());
    for param in PARAMS {
        let variable = format!("CANDOR_{}", param.setting.to_uppercase().replace('.', "__"));
        let (about, name) = (param.about, param.name);
        let (allowed, default) = (allowed(param), default(param));
        write!(
            toml,
            "\n{}\n# Allowed: {allowed}. {variable}\n{name} = {default}\n",
            comment(about)
        )
        .expect("written");
        writeln!(
            rows,
            "| `{name}` | `{default}` | {allowed} | {} |",
            about.trim_end_matches('.')
        )
        .expect("written");
    }
    let from = "CANDOR_SAMPLING__MAX_TOKENS\nmax_tokens = 16\n";
    hold("config/default.toml", from, "\n# Several models.", &toml);
    let page = std::fs::read_to_string(root().join("docs/settings.md")).expect("the page");
    let last = page
        .lines()
        .find(|line| line.starts_with("| `max_tokens` |"));
    let last = format!("{}\n", last.expect("a row"));
    hold("docs/settings.md", &last, "\n## ", &rows);
}
