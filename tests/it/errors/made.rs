//! Bad requests that are made: too large to write out, or not text.

use super::{Case, case};
use crate::raw::Request;

/// A case whose name is not what it sends.
fn named(name: &str, request: Request, answer: &str) -> Case {
    Case {
        name: name.to_owned(),
        ..case(request, answer)
    }
}

fn body(name: &str, body: impl Into<Vec<u8>>, answer: &str) -> Case {
    named(name, Request::complete(body), answer)
}

/// `{"FIELD": "aaa…"}`
fn long(field: &str, length: usize) -> String {
    format!("{{\"{field}\": \"{}\"}}", "a".repeat(length))
}

/// `{"FIELD": [ITEM, ITEM, …], "max_tokens": 1}`
fn many(field: &str, item: &str, count: usize) -> String {
    format!(
        "{{\"{field}\": [{}], \"max_tokens\": 1}}",
        vec![item; count].join(",")
    )
}

/// `{"logit_bias": {"0": 1, "1": 1, …}, "max_tokens": 1}`
fn biases(count: usize) -> String {
    let entries: Vec<String> = (0..count).map(|id| format!("\"{id}\": 1")).collect();
    format!(
        "{{\"logit_bias\": {{{}}}, \"max_tokens\": 1}}",
        entries.join(",")
    )
}

fn grammar(gbnf: &str) -> String {
    grammar_for(gbnf, 2)
}

fn grammar_for(gbnf: &str, max_tokens: usize) -> String {
    serde_json::json!({"grammar": gbnf, "max_tokens": max_tokens}).to_string()
}

/// Values within values.
fn nested(open: &str, inner: &str, close: &str, depth: usize) -> String {
    format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
}

pub fn cases() -> Vec<Case> {
    let mut cases = no_text();
    cases.extend(nesting());
    cases.extend(sizes());
    cases.extend(grammars());
    cases.extend(heads());
    cases
}

fn no_text() -> Vec<Case> {
    vec![
        body(
            "no body",
            "",
            r#"400 {"message":"The body is empty; send a JSON object.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "spaces",
            "   \r\n\t ",
            r#"400 {"message":"The body is empty; send a JSON object.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "a byte order mark",
            "\u{feff}{\"prompt\": \"a\"}",
            r#"400 {"message":"The body is not valid JSON: expected value at line 1 column 1, near \"\\u{feff}{\\\"prompt\\\"\".","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "invalid UTF-8",
            b"{\"prompt\": \"\xff\"}",
            r#"400 {"message":"The body is not valid UTF-8 (at byte 12).","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "invalid UTF-8 in a key",
            b"{\"pro\xfempt\": \"a\"}",
            r#"400 {"message":"The body is not valid UTF-8 (at byte 5).","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "UTF-8 that is too long",
            b"{\"prompt\": \"\xc0\x80\"}",
            r#"400 {"message":"The body is not valid UTF-8 (at byte 12).","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "a surrogate in UTF-8",
            b"{\"prompt\": \"\xed\xa0\x80\"}",
            r#"400 {"message":"The body is not valid UTF-8 (at byte 12).","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "beyond Unicode",
            b"{\"prompt\": \"\xf4\x90\x80\x80\"}",
            r#"400 {"message":"The body is not valid UTF-8 (at byte 12).","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "UTF-8 that is cut",
            b"{\"prompt\": \"\xf0\x9f\x98",
            r#"400 {"message":"The body is not valid UTF-8 (at byte 12).","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "Latin-1",
            b"{\"prompt\": \"caf\xe9\"}",
            r#"400 {"message":"The body is not valid UTF-8 (at byte 15).","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "UTF-16",
            b"{\0\"\0n\0\"\0:\x001\0}\0",
            r#"400 {"message":"The body is not valid JSON: key must be a string at line 1 column 2, near \"{\\0\\\"\\0n\\0\\\"\\0:\\01\\0}\".","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "gzip, and no header says so",
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
            r#"400 {"message":"The body is not valid UTF-8 (at byte 1).","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "a NUL",
            b"{\"prompt\": \"a\0b\"}",
            r#"400 {"message":"The body is not valid JSON: control character (\\u0000-\\u001F) found while parsing a string at line 1 column 14, near \"{\\\"prompt\\\": \\\"a\\0b\\\"}\".","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "a NUL after the end",
            b"{\"prompt\": \"a\"}\0",
            r#"400 {"message":"The body is not valid JSON: trailing characters at line 1 column 16, near \"{\\\"prompt\\\": \\\"a\\\"}\\0\".","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "lines",
            "{\n  \"prompt\": \"a\",\n  \"n\": nan\n}",
            r#"400 {"message":"The body is not valid JSON: expected ident at line 3 column 9, near \"  \\\"n\\\": nan\".","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "a line break in a string",
            "{\"prompt\": \"a\nb\"}",
            r#"400 {"message":"The body is not valid JSON: control character (\\u0000-\\u001F) found while parsing a string at line 2 column 0, near \"b\\\"}\".","type":"invalid_request_error","param":null,"code":null}"#,
        ),
    ]
}

fn nesting() -> Vec<Case> {
    vec![
        body(
            "127 arrays",
            nested("[", "", "]", 127),
            r#"400 {"message":"The body must be a JSON object, but it is an array of 1 item.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "128 arrays",
            nested("[", "", "]", 128),
            r#"400 {"message":"The body is nested too deeply: at most 127 levels of arrays and objects are allowed.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "100000 arrays",
            nested("[", "", "]", 100_000),
            r#"400 {"message":"The body is nested too deeply: at most 127 levels of arrays and objects are allowed.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "a million arrays that stay open",
            "[".repeat(1_000_000),
            r#"400 {"message":"The body is nested too deeply: at most 127 levels of arrays and objects are allowed.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "200 objects",
            nested("{\"prompt\":", "1", "}", 200),
            r#"400 {"message":"The body is nested too deeply: at most 127 levels of arrays and objects are allowed.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "126 arrays in a field",
            format!("{{\"prompt\": {}}}", nested("[", "1", "]", 126)),
            r#"400 {"message":"`prompt[0][0]` must be a token id from 0 to 31999, but it is an array of 1 item.","type":"invalid_request_error","param":"prompt","code":null}"#,
        ),
        body(
            "127 arrays in a field",
            format!("{{\"prompt\": {}}}", nested("[", "1", "]", 127)),
            r#"400 {"message":"The body is nested too deeply: at most 127 levels of arrays and objects are allowed.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "a field that is not known, deep",
            format!("{{\"x\": {}}}", nested("{\"a\":[", "1", "]}", 5000)),
            r#"400 {"message":"The body is nested too deeply: at most 127 levels of arrays and objects are allowed.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
    ]
}

fn sizes() -> Vec<Case> {
    vec![
        body(
            "a text that is too long to be truncated",
            long("prompt", (1 << 20) + 1).replace('}', ", \"truncate_prompt_tokens\": 5}"),
            "400 {\"message\":\"`prompt` with `truncate_prompt_tokens` must not have more than 1048576 bytes, but it has \
             1048577.\",\"type\":\"invalid_request_error\",\"param\":\"prompt\",\"code\":null}",
        ),
        body(
            "1025 prompts",
            many("prompt", "\"a\"", 1025),
            r#"400 {"message":"`prompt` must have at most 1024 prompts, but it has 1025.","type":"invalid_request_error","param":"prompt","code":null}"#,
        ),
        body(
            "1025 prompts of ids",
            many("prompt", "[1]", 1025),
            r#"400 {"message":"`prompt` must have at most 1024 prompts, but it has 1025.","type":"invalid_request_error","param":"prompt","code":null}"#,
        ),
        body(
            "a million empty prompts",
            many("prompt", "\"\"", 1_000_000),
            r#"400 {"message":"`prompt` must have at most 1024 prompts, but it has 1000000.","type":"invalid_request_error","param":"prompt","code":null}"#,
        ),
        body("2047 ids", many("prompt", "5", 2047), "200"),
        body(
            "2048 ids",
            many("prompt", "5", 2048),
            r#"400 {"message":"This model's maximum context length is 2048 tokens. However, your prompt is too long: it has 2048 tokens, and generation needs room for at least one more. Please shorten it.","type":"invalid_request_error","param":"prompt","code":"context_length_exceeded"}"#,
        ),
        body(
            "2048 ids that are scored",
            many("prompt", "5", 2048).replace("\"max_tokens\": 1", "\"max_tokens\": 0"),
            "200",
        ),
        body(
            "2049 ids that are scored",
            many("prompt", "5", 2049).replace("\"max_tokens\": 1", "\"max_tokens\": 0"),
            r#"400 {"message":"This model's maximum context length is 2048 tokens. However, your prompt is too long: it has 2049 tokens. Please shorten it.","type":"invalid_request_error","param":"prompt","code":"context_length_exceeded"}"#,
        ),
        body(
            "a million ids",
            many("prompt", "5", 1_000_000),
            r#"400 {"message":"This model's maximum context length is 2048 tokens. However, your prompt is too long: it has 1000000 tokens, and generation needs room for at least one more. Please shorten it.","type":"invalid_request_error","param":"prompt","code":"context_length_exceeded"}"#,
        ),
        body(
            "a wrong id after many",
            many("prompt", "5", 9999).replace("5]", "-5]"),
            r#"400 {"message":"`prompt[9998]` must be a token id from 0 to 31999, but it is the number -5.","type":"invalid_request_error","param":"prompt","code":null}"#,
        ),
        body(
            "a long text",
            long("prompt", 1_000_000),
            r#"400 {"message":"This model's maximum context length is 2048 tokens. However, your prompt is too long: it has at least 37037 tokens, and generation needs room for at least one more. Please shorten it.","type":"invalid_request_error","param":"prompt","code":"context_length_exceeded"}"#,
        ),
        body(
            "101 prompts of which one is long",
            format!(
                "{{\"prompt\": [{}\"{}\"]}}",
                "\"a\",".repeat(100),
                "b ".repeat(2048)
            ),
            r#"400 {"message":"This model's maximum context length is 2048 tokens. However, your prompt is too long: it has 2050 tokens, and generation needs room for at least one more. Please shorten it.","type":"invalid_request_error","param":"prompt","code":"context_length_exceeded"}"#,
        ),
        body(
            "100 prompts, 11 choices each",
            many("prompt", "\"a\"", 100)
                .replace("max_tokens", "n")
                .replace("\"n\": 1", "\"n\": 11"),
            r#"400 {"message":"`n` is 11; for 100 prompts that makes more than the 1024 sequences that one request may have.","type":"invalid_request_error","param":"n","code":null}"#,
        ),
        body(
            "100 prompts, the best of 128 each",
            many("prompt", "\"a\"", 100).replace("\"max_tokens\": 1", "\"best_of\": 128"),
            r#"400 {"message":"`best_of` is 128; for 100 prompts that makes more than the 1024 sequences that one request may have.","type":"invalid_request_error","param":"best_of","code":null}"#,
        ),
        body(
            "1000 stop strings",
            many("stop", "\"a\"", 1000),
            r#"400 {"message":"`stop` must be a string or an array of at most 16 strings, but it is an array of 1000 items.","type":"invalid_request_error","param":"stop","code":null}"#,
        ),
        body("a stop string of 1024 bytes", long("stop", 1024), "200"),
        body(
            "a stop string of 1025 bytes",
            long("stop", 1025),
            r#"400 {"message":"A string of `stop` must not be longer than 1024 bytes, but one has 1025.","type":"invalid_request_error","param":"stop","code":null}"#,
        ),
        body(
            "a long stop string after a short one",
            format!("{{\"stop\": [\"a\", \"{}\"]}}", "é".repeat(600)),
            r#"400 {"message":"A string of `stop` must not be longer than 1024 bytes, but one has 1200.","type":"invalid_request_error","param":"stop","code":null}"#,
        ),
        body("1024 biases", biases(1024), "200"),
        body(
            "1025 biases",
            biases(1025),
            r#"400 {"message":"`logit_bias` must be an object of at most 1024 fields, but it is an object of 1025 fields.","type":"invalid_request_error","param":"logit_bias","code":null}"#,
        ),
        body(
            "a bias for a long name",
            format!("{{\"logit_bias\": {}}}", long("1", 5000)),
            r#"400 {"message":"`logit_bias.1` must be a number from -1000000 to 1000000, but it is the string \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…\".","type":"invalid_request_error","param":"logit_bias","code":null}"#,
        ),
        body(
            "a bias with a long name",
            format!("{{\"logit_bias\": {{\"{}\": 1}}}}", "1".repeat(5000)),
            r#"400 {"message":"The keys of `logit_bias` must be token ids from 0 to 31999, but one is \"111111111111111111111111111111111111111111111111111111111111…\". (With `logit_bias_type: \"tokens\"` they are texts.)","type":"invalid_request_error","param":"logit_bias","code":null}"#,
        ),
        body(
            "a bias that is not a number with a long name",
            format!("{{\"logit_bias\": {{\"{}\": \"1\"}}}}", "1".repeat(5000)),
            r#"400 {"message":"`logit_bias.111111111111111111111111111111111111111111111111111111111111…` must be a number from -1000000 to 1000000, but it is the string \"1\".","type":"invalid_request_error","param":"logit_bias","code":null}"#,
        ),
        body(
            "a long string where a number belongs",
            long("n", 5000),
            r#"400 {"message":"`n` must be a whole number from 1 to 128, but it is the string \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…\".","type":"invalid_request_error","param":"n","code":null}"#,
        ),
        body(
            "a long array where a number belongs",
            many("n", "1", 5000),
            r#"400 {"message":"`n` must be a whole number from 1 to 128, but it is an array of 5000 items.","type":"invalid_request_error","param":"n","code":null}"#,
        ),
        body(
            "a number of 5000 digits",
            format!("{{\"n\": {}}}", "1".repeat(5000)),
            r#"400 {"message":"The body is not valid JSON: number out of range at line 1 column 5006, near \"1111111111111111111111111}\".","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "a number of 300 digits",
            format!("{{\"n\": {}}}", "1".repeat(300)),
            r#"400 {"message":"`n` must be a whole number from 1 to 128, but it is the number 1.1111111111111112e+299.","type":"invalid_request_error","param":"n","code":null}"#,
        ),
        body(
            "a long fraction",
            format!("{{\"n\": 1.{}1}}", "0".repeat(5000)),
            "200",
        ),
        body(
            "a long model",
            long("model", 5000),
            r#"404 {"message":"The model `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…` does not exist. GET /v1/models lists all models.","type":"invalid_request_error","param":"model","code":"model_not_found"}"#,
        ),
        body(
            "a long unknown field",
            format!("{{\"{}\": 1}}", "x".repeat(5000)),
            r#"400 {"message":"Unknown field `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…`. Candor rejects fields it does not know instead of ignoring them (`server.unknown_fields`).","type":"invalid_request_error","param":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…","code":"unknown_field"}"#,
        ),
        body(
            "a long unknown field of two-byte characters",
            format!("{{\"{}\": 1}}", "é".repeat(5000)),
            r#"400 {"message":"Unknown field `éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé…`. Candor rejects fields it does not know instead of ignoring them (`server.unknown_fields`).","type":"invalid_request_error","param":"éééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé…","code":"unknown_field"}"#,
        ),
        body(
            "a long unknown option of streams",
            format!(
                "{{\"stream\": true, \"stream_options\": {{\"{}\": 1}}}}",
                "x".repeat(5000)
            ),
            r#"400 {"message":"`stream_options` accepts only `include_usage` and `continuous_usage_stats`; `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…` is unknown.","type":"invalid_request_error","param":"stream_options.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…","code":"unknown_field"}"#,
        ),
        body(
            "a long key that stands twice",
            format!("{{\"{0}\": 1, \"{0}\": 1}}", "x".repeat(5000)),
            r#"400 {"message":"The body has a field twice: `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…` appears twice at line 1 column 10014.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "100000 unknown fields",
            format!(
                "{{{}}}",
                (0..100_000)
                    .map(|i| format!("\"x{i}\":1"))
                    .collect::<Vec<_>>()
                    .join(",")
            ),
            r#"400 {"message":"Unknown field `x0`. Candor rejects fields it does not know instead of ignoring them (`server.unknown_fields`).","type":"invalid_request_error","param":"x0","code":"unknown_field"}"#,
        ),
        body(
            "no JSON after many spaces",
            format!("{}x", " ".repeat(1_000_000)),
            r#"400 {"message":"The body is not valid JSON: expected value at line 1 column 1000001, near \"                        x\".","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "eight megabytes of text",
            "a".repeat(8_388_608),
            r#"400 {"message":"The body is not valid JSON: expected value at line 1 column 1, near \"aaaaaaaaaaaa\".","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "one byte more",
            "a".repeat(8_388_609),
            r#"413 {"message":"The body has more than 8388608 bytes, the most that this server accepts.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        body(
            "twice as much",
            "a".repeat(16_777_216),
            r#"413 {"message":"The body has more than 8388608 bytes, the most that this server accepts.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
    ]
}

fn grammars() -> Vec<Case> {
    let many: String = (0..4500).map(|i| format!("r{i} ::= \"a\"\n")).collect();
    // Each rule can begin in twice as many ways as the next.
    let wide: String = (0..40)
        .map(|i| format!("r{i} ::= r{next} | r{next}\n", next = i + 1))
        .collect::<String>()
        + "r40 ::= \"a\"\nroot ::= r0\n";
    let chain: String = (0..3000)
        .map(|i| format!("r{i} ::= r{}\n", i + 1))
        .collect::<String>()
        + "r3000 ::= \"a\"\nroot ::= r0\n";
    let groups = |depth| format!("root ::= {}", nested("(", "\"a\"", ")", depth));
    vec![
        body("groups 64 deep", grammar(&groups(64)), "200"),
        body(
            "groups 65 deep",
            grammar(&groups(65)),
            r#"400 {"message":"`grammar` was rejected: its groups are nested more than 64 deep (line 1).","type":"invalid_request_error","param":"grammar","code":null}"#,
        ),
        body(
            "groups 20000 deep",
            grammar(&groups(20_000)),
            r#"400 {"message":"`grammar` was rejected: its groups are nested more than 64 deep (line 1).","type":"invalid_request_error","param":"grammar","code":null}"#,
        ),
        body(
            "groups that stay open",
            grammar(&format!("root ::= {}", "(".repeat(60_000))),
            r#"400 {"message":"`grammar` was rejected: its groups are nested more than 64 deep (line 1).","type":"invalid_request_error","param":"grammar","code":null}"#,
        ),
        body(
            "repeated repetitions",
            grammar(&format!("root ::= {}", nested("(", "\"a\"", "){99}", 20))),
            r#"400 {"message":"`grammar` was rejected: it has more than 250000 parts when its repetitions are written out.","type":"invalid_request_error","param":"grammar","code":null}"#,
        ),
        body(
            "repetitions on repetitions",
            grammar(&format!("root ::= \"a\"{}", "*".repeat(60_000))),
            r#"400 {"message":"`grammar` was rejected: it is not valid GBNF: at most 8 repetitions may follow one another (line 1).","type":"invalid_request_error","param":"grammar","code":null}"#,
        ),
        body(
            "optional repetitions, one after another",
            grammar(&format!("root ::= {}", "\"a\"{0,2000} ".repeat(2000))),
            r#"400 {"message":"`grammar` was rejected: it has more than 250000 parts when its repetitions are written out.","type":"invalid_request_error","param":"grammar","code":null}"#,
        ),
        body(
            "a long string, often",
            grammar(&format!("root ::= \"{}\"{{2000}}", "a".repeat(30_000))),
            r#"400 {"message":"`grammar` was rejected: it has more than 250000 parts when its repetitions are written out.","type":"invalid_request_error","param":"grammar","code":null}"#,
        ),
        body(
            "what may be empty, often, often",
            grammar("s ::= \"a\"?\nr ::= s{200}\nroot ::= r{200}"),
            "200",
        ),
        body(
            "what may be empty, often, often, after a character",
            grammar("s ::= \"a\"?\nr ::= s{0,90}\nroot ::= \"b\" r{100}"),
            "200",
        ),
        body(
            "what may be left out, often",
            grammar(&format!("root ::= {}", "[a-z]?{2000} ".repeat(25))),
            r#"400 {"message":"`grammar` was rejected: it can be read in so many ways that following it takes too long.","type":"invalid_request_error","param":"grammar","code":null}"#,
        ),
        body(
            "twice as many ways with each character",
            grammar_for("root ::= \"a\" root \"b\" | \"a\" root \"c\"", 100),
            "200",
        ),
        body(
            "many rules",
            grammar(&many),
            r#"400 {"message":"`grammar` was rejected: it has more than 4096 rules.","type":"invalid_request_error","param":"grammar","code":null}"#,
        ),
        body("a long chain of rules", grammar(&chain), "200"),
        body("too many ways to begin", grammar(&wide), "200"),
        body(
            "a long rule name",
            grammar(&format!("root ::= {}", "a".repeat(5000))),
            r#"400 {"message":"`grammar` was rejected: its rule \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\" is used but not defined.","type":"invalid_request_error","param":"grammar","code":null}"#,
        ),
        body(
            "a long rule name that recurses",
            grammar(&format!("root ::= {0}\n{0} ::= {0}", "a".repeat(5000))),
            r#"400 {"message":"`grammar` was rejected: its rule \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\" refers to itself before it reads anything (left recursion); write it as a repetition.","type":"invalid_request_error","param":"grammar","code":null}"#,
        ),
        body(
            "a grammar of 65536 bytes",
            grammar(&format!("root ::= \"a\"{}", " ".repeat(65_524))),
            "200",
        ),
        body(
            "a grammar of 65537 bytes",
            grammar(&format!("root ::= \"a\"{}", " ".repeat(65_525))),
            r#"400 {"message":"`grammar` must not be longer than 65536 bytes, but it has 65537.","type":"invalid_request_error","param":"grammar","code":null}"#,
        ),
        body(
            "a long string",
            grammar(&format!("root ::= \"{}\"", "a".repeat(60_000))),
            "200",
        ),
        body(
            "many alternatives",
            grammar(&format!("root ::= \"a\"{}", " | \"a\"".repeat(4_000))),
            "200",
        ),
        body(
            "a class of many ranges",
            grammar(&format!("root ::= [{}]", "a-z".repeat(20_000))),
            "200",
        ),
    ]
}

/// What stands before the body.
fn heads() -> Vec<Case> {
    let named_type = |value: &[u8]| {
        let mut request = Request::complete("{}");
        request
            .headers
            .push([b"content-type: ".as_slice(), value].concat());
        request
    };
    let mut latin = Request::new("GET", "/v1/models", &[], "");
    latin.headers.push(b"x-name: caf\xe9".to_vec());
    vec![
        named(
            "a long path",
            Request::new("GET", &format!("/{}", "a".repeat(10_000)), &[], ""),
            r#"404 {"message":"There is no route `/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…`. GET /openapi.json lists all routes.","type":"invalid_request_error","param":null,"code":"not_found"}"#,
        ),
        named(
            "a long model in the path",
            Request::new("GET", &format!("/v1/models/{}", "a/".repeat(5000)), &[], ""),
            r#"404 {"message":"The model `a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/…` does not exist. GET /v1/models lists all models.","type":"invalid_request_error","param":"model","code":"model_not_found"}"#,
        ),
        named(
            "a long method",
            Request::new(&"A".repeat(1000), "/health", &[], ""),
            r#"405 {"message":"`/health` accepts GET, not AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA….","type":"invalid_request_error","param":null,"code":"method_not_allowed"}"#,
        ),
        named(
            "a long content type",
            named_type(&b"a".repeat(5000)),
            r#"415 {"message":"The content type `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…` is not supported; send `application/json`.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        named(
            "a content type that is not ASCII",
            named_type("text/é".as_bytes()),
            r#"415 {"message":"The content type `text/é` is not supported; send `application/json`.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        named(
            "a content type that is not UTF-8",
            named_type(b"text/\xff"),
            r#"415 {"message":"The content type `text/�` is not supported; send `application/json`.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        named(
            "a long content encoding",
            Request::complete("{}").with_header(&format!("content-encoding: {}", "x".repeat(5000))),
            r#"415 {"message":"The content encoding `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…` is not supported; send the body without one.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
        named("a header that is not UTF-8", latin, "200"),
    ]
}

/// A body of as many bytes as are allowed, and of one more.
pub fn around_the_largest_body(bytes: usize) -> Vec<Case> {
    let padded = |length: usize| format!("{{\"max_tokens\": 1}}{:1$}", "", length - 17);
    vec![
        body("as many bytes as allowed", padded(bytes), "200"),
        body(
            "one byte more",
            padded(bytes + 1),
            r#"413 {"message":"The body has more than 1024 bytes, the most that this server accepts.","type":"invalid_request_error","param":null,"code":null}"#,
        ),
    ]
}
