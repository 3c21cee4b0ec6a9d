//! A line of the input: a request in the format of OpenAI's Batch API.

use serde_json::{Map, Value};

use crate::api::describe;

/// The routes of a batch.
pub const ROUTES: [&str; 5] = [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/score",
    "/v1/perplexity",
    "/v1/embeddings",
];

/// A checked line.
#[derive(Debug, PartialEq)]
pub struct Request {
    pub custom_id: String,
    /// One of [`ROUTES`].
    pub route: &'static str,
    pub body: Map<String, Value>,
}

impl Request {
    /// Checks a line. The error says what is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        let value = serde_json::from_slice(line).map_err(|error| {
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or_default();
            format!("not valid JSON: {what}, at column {}", error.column())
        })?;
        let Value::Object(mut fields) = value else {
            let what = describe(&value);
            return Err(format!("must be a JSON object, not {what}"));
        };
        let custom_id = match fields.shift_remove("custom_id") {
            Some(Value::String(id)) if !id.is_empty() => id,
            other => return Err(wrong("custom_id", "a string that no other line has", other)),
        };
        match fields.shift_remove("method") {
            Some(Value::String(method)) if method == "POST" => {}
            other => return Err(wrong("method", "\"POST\"", other)),
        }
        let url = fields.shift_remove("url");
        let named = |route: &&str| url.as_ref().is_some_and(|url| url == *route);
        let Some(route) = ROUTES.into_iter().find(named) else {
            let routes = ROUTES.join(", ");
            return Err(wrong("url", &format!("one of {routes}"), url));
        };
        let body = match fields.shift_remove("body") {
            Some(Value::Object(body)) => body,
            other => return Err(wrong("body", "an object, the request", other)),
        };
        if let Some(name) = fields.keys().next() {
            return Err(format!(
                "unknown field `{name}`: a line has `custom_id`, `method`, `url` and `body`"
            ));
        }
        match body.get("stream") {
            None | Some(Value::Null | Value::Bool(false)) => {}
            Some(other) => {
                return Err(format!(
                    "`body.stream` must be false or left out, because an answer is one line, but it is {}",
                    describe(other)
                ));
            }
        }
        Ok(Self {
            custom_id,
            route,
            body,
        })
    }

    /// The model that it names; an empty name means the first one, as for servers.
    pub fn model(&self) -> Option<&str> {
        let name = self.body.get("model").and_then(Value::as_str);
        name.filter(|name| !name.is_empty())
    }

    /// Whether it asks for the bits of exact mode.
    pub fn is_exact(&self) -> bool {
        self.body.get("exact") == Some(&Value::Bool(true))
    }
}

fn wrong(field: &str, allowed: &str, got: Option<Value>) -> String {
    match got {
        None => format!("`{field}` is missing: it must be {allowed}"),
        Some(got) => format!("`{field}` must be {allowed}, not {}", describe(&got)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_and_refused_lines() {
        let check = |line: &str, expect: &str| match Request::parse(line.as_bytes()) {
            Ok(request) => assert_eq!(request.custom_id, expect, "{line}"),
            Err(why) => assert!(
                !expect.is_empty() && why.contains(expect),
                "{line}: {why}, not {expect}"
            ),
        };
        let line =
            r#"{"custom_id": "a", "method": "POST", "url": "/v1/score", "body": {"stem": "x"}}"#;
        check(line, "a");
        check(&line.replace("\"stem\": \"x\"", "\"stream\": false"), "a");
        check(&line.replace("\"stem\": \"x\"", "\"stream\": null"), "a");
        check(
            &line.replace("\"stem\": \"x\"", "\"stream\": true"),
            "`body.stream` must be false",
        );
        check(&line.replace("\"a\"", "\"\""), "`custom_id` must be");
        check(&line.replace("\"a\"", "7"), "not the number 7");
        check(&line.replace("POST", "GET"), "`method` must be \"POST\"");
        check(&line.replace("score", "rerank"), "/v1/perplexity");
        check(
            &line.replace("{\"stem\": \"x\"}", "[]"),
            "`body` must be an object",
        );
        check(&line.replace("method", "mathod"), "`method` is missing");
        check(
            &line.replace("\"body\"", "\"x\": 1, \"body\""),
            "unknown field `x`",
        );
        check("[1]", "must be a JSON object, not an array");
        check(
            "{\"custom_id\": \"a\", ",
            "not valid JSON: EOF while parsing",
        );
        check("{]", "at column 2");
    }

    #[test]
    fn what_decides_which_numbers_come_back() {
        let parse = |body: &str| {
            let line = format!(
                r#"{{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {body}}}"#
            );
            Request::parse(line.as_bytes()).unwrap()
        };
        assert_eq!(parse("{}").model(), None);
        assert_eq!(parse(r#"{"model": "m"}"#).model(), Some("m"));
        assert!(parse(r#"{"exact": true}"#).is_exact());
        assert!(!parse(r#"{"exact": false}"#).is_exact());
    }
}
