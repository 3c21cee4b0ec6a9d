//! Texts as models write them, in pieces of every length.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Expects, Functions, Part, Reader};
use crate::api::chat::forms::{FORMS, Form, HERMES, thinking_of_template};

fn form(name: &str) -> &'static Form {
    let mut forms = FORMS.iter();
    forms
        .find(|form| form.name == name)
        .unwrap_or_else(|| panic!("{name} is no form"))
}

fn tools() -> Vec<Value> {
    let any = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "on": {"type": "boolean"},
        "more": {"type": "object"}, "list": {"type": "array"}, "note": {"type": ["string", "null"]}}});
    ["f", "g", "Calendar.add"]
        .map(|name| json!({"function": {"name": name, "parameters": any}}))
        .to_vec()
}

fn expects(form: &'static Form) -> Expects {
    Expects {
        form: Some(form),
        calls: true,
        functions: Arc::new(Functions::new(&tools())),
        several: true,
        thinking: None,
        splits: true,
        inside: false,
        prompt: "".into(),
    }
}

/// A template that shows this reasoning.
fn thinks(form: &'static Form, template: &str) -> Expects {
    Expects {
        thinking: thinking_of_template(template),
        ..expects(form)
    }
}

/// What a text became.
#[derive(Debug, Default, PartialEq)]
struct Read {
    content: String,
    reasoning: String,
    calls: Vec<(String, String)>,
}

fn add(read: &mut Read, parts: Vec<Part>) {
    for part in parts {
        match part {
            Part::Content(text) => read.content += &text,
            Part::Reasoning(text) => read.reasoning += &text,
            Part::Call { name, .. } => read.calls.push((name, String::new())),
            Part::Arguments(text) => read.calls.last_mut().expect("a call").1 += &text,
        }
    }
}

/// Reads a text in pieces of a length. What is between these brackets is the name of a control token.
fn read_by(expects: &Expects, text: &str, length: usize, ended: bool) -> Read {
    let mut reader = Reader::new(expects);
    let mut read = Read::default();
    for (place, part) in text.split(['⟦', '⟧']).enumerate() {
        if place % 2 == 1 {
            add(&mut read, reader.push("", Some(part)));
            continue;
        }
        let characters: Vec<char> = part.chars().collect();
        for piece in characters.chunks(length) {
            add(
                &mut read,
                reader.push(&piece.iter().collect::<String>(), None),
            );
        }
    }
    add(&mut read, reader.finish(ended));
    read
}

fn check_as(
    expects: &Expects,
    text: &str,
    ended: bool,
    reasoning: &str,
    content: &str,
    calls: &[(&str, &str)],
) {
    let expect = Read {
        content: content.to_owned(),
        reasoning: reasoning.to_owned(),
        calls: calls
            .iter()
            .map(|&(name, arguments)| (name.to_owned(), arguments.to_owned()))
            .collect(),
    };
    for length in 1..=text.chars().count().max(1) {
        let read = read_by(expects, text, length, ended);
        assert_eq!(read, expect, "{text:?} by {length}");
    }
}

fn check(form: &'static Form, text: &str, content: &str, calls: &[(&str, &str)]) {
    check_as(&expects(form), text, false, "", content, calls);
}

#[test]
fn calls_as_in_hermes() {
    let check =
        |text: &str, content: &str, calls: &[(&str, &str)]| check(HERMES, text, content, calls);
    check("Hello <b>you</b>.", "Hello <b>you</b>.", &[]);
    check(
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"{\", \"b\": [1, {\"c\": 2}]}}\n</tool_call>",
        "",
        &[("f", "{\"a\": \"}\\\"{\", \"b\": [1, {\"c\": 2}]}")],
    );
    check(
        "Let me see.\n<tool_call>{\"arguments\": {\"a\": 1}, \"name\": \"f\"}</tool_call>\n<tool_call>{\"name\": \"g\"}</tool_call> Done.",
        "Let me see. Done.",
        &[("f", "{\"a\": 1}"), ("g", "{}")],
    );
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": \"text\"}</tool_call>",
        "",
        &[("f", "\"text\"")],
    );
    // The text of an object, as in messages of the API.
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": \\\"b\\\"}\"}</tool_call>",
        "",
        &[("f", "{\"a\": \"b\"}")],
    );
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": ",
        "",
        &[("f", "\"{\\\"a\\\": ")],
    );
    // Cut off by max_tokens.
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": ",
        "",
        &[("f", "{\"a\": ")],
    );
    // Without the marker, in a code block, or with the marker's end alone.
    check(
        "\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n{\"name\": \"g\", \"arguments\": {}}",
        "",
        &[("f", "{\"a\": 1}"), ("g", "{}")],
    );
    check(
        "{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
        "",
        &[("f", "{\"a\": 1}")],
    );
    check(
        "[{\"name\": \"f\", \"arguments\": {}}, {\"name\": \"g\", \"arguments\": {}}]",
        "",
        &[("f", "{}"), ("g", "{}")],
    );
    check(
        "```json\n{\n  \"name\": \"f\",\n  \"arguments\": {\"a\": 1}\n}\n```\nDone.",
        "\nDone.",
        &[("f", "{\"a\": 1}")],
    );
    check(
        "```{\"name\": \"f\", \"arguments\": {}}```",
        "",
        &[("f", "{}")],
    );
    // As control tokens, which content does not have.
    check(
        "⟦<tool_call>⟧\n{\"name\": \"f\", \"arguments\": {}}\n⟦</tool_call>⟧",
        "",
        &[("f", "{}")],
    );
    check("a⟦<x>⟧b ⟦<tool_call>⟧ c", "ab  c", &[]);
    check("a <tool_ca", "a <tool_ca", &[]);
    check("<tool_call>{\"na", "<tool_call>{\"na", &[]);
    // What is not a call stays text.
    for text in [
        "the <tool_call> tag",
        "<tool_call>\n<function=f></function>\n</tool_call>",
        "<tool_call>{\"name\": \"h\", \"arguments\": {}}</tool_call>",
        "{\"name\": \"f\", \"age\": 30}",
        "Use {\"name\": \"f\", \"arguments\": {}}",
        "```json\n{\"name\": \"h\", \"arguments\": {}}\n```",
        "```js",
        "```python\n{}\n```",
        " {",
        "[link](url)",
    ] {
        check(text, text, &[]);
    }
    // One call and no more.
    let one = Expects {
        several: false,
        ..expects(HERMES)
    };
    let second = "<tool_call>{\"name\": \"f\"}</tool_call>";
    let two = format!("{second}{second}");
    check_as(&one, &two, true, "", second, &[("f", "{}")]);
}

#[test]
fn a_second_call_that_is_cut_off_is_no_content() {
    let first = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
    let calls = [("f", "{}")];
    let second = "\n<tool_call>\n{\"name\":";
    for length in 0..=second.len() {
        let text = format!("{first}{}", &second[..length]);
        check_as(&expects(HERMES), &text, false, "", "", &calls);
    }
    // A text that the model ended, or that is no call, is content.
    check_as(
        &expects(HERMES),
        &format!("{first}\n<tool"),
        true,
        "",
        "\n<tool",
        &calls,
    );
    check(
        HERMES,
        &format!("{first}\n<tool_call> is a marker."),
        "\n<tool_call> is a marker.",
        &calls,
    );
    check(
        HERMES,
        "<tool_call>\n{\"name\":",
        "<tool_call>\n{\"name\":",
        &[],
    );
}

#[test]
fn the_first_of_two_arguments_counts() {
    let form = form("Qwen3-Coder");
    let text = "<tool_call>\n<function=f>\n<parameter=days>\n5\n</parameter>\n<parameter=city>\na\n</parameter>\n\
                <parameter=days>\n6\n</parameter>\n<parameter=city>\nb";
    let rest = "\n</parameter>\n</function>\n</tool_call>";
    let arguments = [("f", "{\"days\": 5, \"city\": \"a\"}")];
    check(form, &format!("{text}{rest}"), "", &arguments);
    check_as(&expects(form), text, true, "", "", &arguments);
    check(form, text, "", &[("f", "{\"days\": 5, \"city\": \"a\"")]);
    check(
        self::form("LFM2"),
        "<|tool_call_start|>[f(days=5, city=\"a\", days=6)]<|tool_call_end|>",
        "",
        &arguments,
    );
}

#[test]
fn calls_as_in_llama_3() {
    let check = |text: &str, content: &str, calls: &[(&str, &str)]| {
        check(form("Llama 3"), text, content, calls)
    };
    check(
        "{\"name\": \"f\", \"parameters\": {\"é\": \"ü\"}}",
        "",
        &[("f", "{\"é\": \"ü\"}")],
    );
    check(
        "⟦<|python_tag|>⟧{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
        "",
        &[("f", "{}"), ("g", "{}")],
    );
    check(
        "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"a\": \"1\"}}",
        "",
        &[("f", "{\"a\": \"1\"}")],
    );
    for text in [
        "Use {\"name\": \"f\", \"parameters\": {}}",
        "{\"name\": \"f\", \"age\": 30}",
        "{\"name\": \"h\", \"parameters\": {}}",
        "{\"a\": 1}\n\nDone; {\"name\": \"f\", \"parameters\": {}}",
        "No {call}.",
        "{\"answer\": 42}",
    ] {
        check(text, text, &[]);
    }
}

#[test]
fn calls_as_in_qwen3_coder() {
    let check = |text: &str, content: &str, calls: &[(&str, &str)]| {
        check(form("Qwen3-Coder"), text, content, calls);
    };
    let call = "<tool_call>\n<function=f>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n\
                </function>\n</tool_call>";
    let arguments = "{\"city\": \"Paris\", \"days\": 3}";
    check(call, "", &[("f", arguments)]);
    check(
        &format!("Let me see.\n{call}\n{call}"),
        "Let me see.",
        &[("f", arguments), ("f", arguments)],
    );
    // Some models leave the first marker out.
    let without = call.trim_start_matches("<tool_call>\n");
    check(
        &format!("I call.\n{without}"),
        "I call.",
        &[("f", arguments)],
    );
    check(
        "<tool_call>\n<function=f>\n</function>\n</tool_call>",
        "",
        &[("f", "{}")],
    );
    check(
        "<tool_call>\n<function=f>\n<parameter=city>\n    print(\"é\\n\")\n\n</parameter>\n</function>\n</tool_call>",
        "",
        &[("f", "{\"city\": \"    print(\\\"é\\\\n\\\")\\n\"}")],
    );
    check(
        "<tool_call><function=f><parameter=list>\n[{\"a\": 1}]\n</parameter><parameter=note>null</parameter>\
         <parameter=on>True</parameter></function></tool_call>",
        "",
        &[(
            "f",
            "{\"list\": [{\"a\": 1}], \"note\": null, \"on\": true}",
        )],
    );
    check(
        "<tool_call><function=f><parameter=city><html>\n</html></parameter></function></tool_call>.",
        ".",
        &[("f", "{\"city\": \"<html>\\n</html>\"}")],
    );
    check(
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
        "",
        &[("f", "{}")],
    );
    // Cut off.
    check(
        "<tool_call>\n<function=f>\n<parameter=city>\nPar",
        "",
        &[("f", "{\"city\": \"Par")],
    );
    check("<tool_call>\n<func", "<tool_call>\n<func", &[]);
    for text in [
        "<tool_call>\n<function=h>\n</function>\n</tool_call>",
        "a <function=h> b",
        "the <tool_call> marker",
    ] {
        check(text, text, &[]);
    }
    // Ended by the model itself.
    check_as(
        &expects(form("Qwen3-Coder")),
        "<tool_call>\n<function=f>\n<parameter=days>\n3",
        true,
        "",
        "",
        &[("f", "{\"days\": 3}")],
    );
}

#[test]
fn calls_with_parameters_of_other_models() {
    check(
        form("Seed-OSS"),
        "<seed:tool_call>\n<function=f>\n<parameter=city>a\n</parameter>\n</function>\n</seed:tool_call>",
        "",
        &[("f", "{\"city\": \"a\\n\"}")],
    );
    for text in [
        "<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
        "<tool_call>f<arg_key>city</arg_key><arg_value>Rome</arg_value><arg_key>days</arg_key><arg_value>3</arg_value></tool_call>",
        "⟦<tool_call>⟧f\n⟦<arg_key>⟧city⟦</arg_key>⟧\n⟦<arg_value>⟧Rome⟦</arg_value>⟧\n⟦<arg_key>⟧days⟦</arg_key>⟧⟦<arg_value>⟧3⟦</arg_value>⟧⟦</tool_call>⟧",
    ] {
        check(
            form("GLM"),
            text,
            "",
            &[("f", "{\"city\": \"Rome\", \"days\": 3}")],
        );
    }
    check(
        form("GLM"),
        "Both.<tool_call>f</tool_call><tool_call>g\n</tool_call>",
        "Both.",
        &[("f", "{}"), ("g", "{}")],
    );
    check(
        form("GLM"),
        "<tool_call>h</tool_call>",
        "<tool_call>h</tool_call>",
        &[],
    );
    check(
        form("MiniMax M2"),
        "<minimax:tool_call>\n<invoke name=\"f\">\n<parameter name=\"days\">1</parameter>\n</invoke>\n<invoke name=\"g\">\n</invoke>\n</minimax:tool_call>",
        "",
        &[("f", "{\"days\": 1}"), ("g", "{}")],
    );
    for (name, list) in [
        ("DeepSeek V3.2", "function_calls"),
        ("DeepSeek V4", "tool_calls"),
    ] {
        check(
            form(name),
            &format!(
                "Wait.\n\n<｜DSML｜{list}>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"city\" string=\"true\">12\
                 </｜DSML｜parameter>\n<｜DSML｜parameter name=\"x\" string=\"false\">12</｜DSML｜parameter>\n\
                 </｜DSML｜invoke>\n</｜DSML｜{list}>"
            ),
            "Wait.",
            &[("f", "{\"city\": \"12\", \"x\": 12}")],
        );
    }
    check(
        form("MiniCPM 5"),
        "<function name=\"f\"><param name=\"city\">x</param></function>\n<function name=\"g\"></function>",
        "",
        &[("f", "{\"city\": \"x\"}"), ("g", "{}")],
    );
}

#[test]
fn calls_with_names_before_json() {
    check(
        form("Mistral"),
        "Sure.[TOOL_CALLS]f[ARGS]{\"a\": \"}\"}[TOOL_CALLS]g[ARGS]{}",
        "Sure.",
        &[("f", "{\"a\": \"}\"}"), ("g", "{}")],
    );
    check(
        form("Mistral"),
        "⟦[TOOL_CALLS]⟧f⟦[ARGS]⟧{\"a\": 1}",
        "",
        &[("f", "{\"a\": 1}")],
    );
    check(
        form("Mistral"),
        "[TOOL_CALLS]f{\"a\": 1}",
        "",
        &[("f", "{\"a\": 1}")],
    );
    check(
        form("Mistral, with ids"),
        "[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{\"a\": 1}",
        "",
        &[("f", "{\"a\": 1}")],
    );
    for name in ["Mistral, lists", "Mistral"] {
        check(
            form(name),
            "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"123456789\"}, {\"name\": \"g\", \"arguments\": {}}]",
            "",
            &[("f", "{\"a\": 1}"), ("g", "{}")],
        );
    }
    check(
        form("Mistral"),
        "[TOOL_CALLS]h[ARGS]{}",
        "[TOOL_CALLS]h[ARGS]{}",
        &[],
    );
    check(
        form("DeepSeek V3.1"),
        "Wait.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "Wait.",
        &[("f", "{\"a\": 1}"), ("g", "{}")],
    );
    check(
        form("DeepSeek V3, R1"),
        "⟦<｜tool▁calls▁begin｜>⟧⟦<｜tool▁call▁begin｜>⟧function⟦<｜tool▁sep｜>⟧f\n```json\n{\"a\": 1}\n```⟦<｜tool▁call▁end｜>⟧⟦<｜tool▁calls▁end｜>⟧",
        "",
        &[("f", "{\"a\": 1}")],
    );
    check(
        form("Kimi K2"),
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|><|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        "",
        &[("f", "{\"a\": 1}"), ("g", "{}")],
    );
    // Without the ends.
    check(
        form("Kimi K2"),
        "<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{",
        "",
        &[("f", "{\"a\": 1}"), ("g", "{")],
    );
    check(
        form("Functionary 3.1"),
        "<function=f>{\"a\": 1}</function><function=g>{}</function>",
        "",
        &[("f", "{\"a\": 1}"), ("g", "{}")],
    );
    check(
        form("Functionary 3.1"),
        "<function=h>{}</function>",
        "<function=h>{}</function>",
        &[],
    );
}

#[test]
fn ids_that_templates_want_come_back() {
    let ids = |form, text: &str| -> Vec<Option<String>> {
        let mut reader = Reader::new(&expects(form));
        let mut parts = reader.push(text, None);
        parts.extend(reader.finish(true));
        let ids = parts.into_iter().filter_map(|part| match part {
            Part::Call { id, .. } => Some(id),
            _ => None,
        });
        ids.collect()
    };
    let kimi = "<|tool_call_begin|>functions.f:7<|tool_call_argument_begin|>{}";
    assert_eq!(
        ids(form("Kimi K2"), kimi),
        [Some("functions.f:7".to_owned())]
    );
    let mistral = "[TOOL_CALLS]f[CALL_ID]12345678Z[ARGS]{}";
    assert_eq!(
        ids(form("Mistral, with ids"), mistral),
        [Some("12345678Z".to_owned())]
    );
    let made = ids(form("Mistral"), "[TOOL_CALLS]f[ARGS]{}");
    assert_eq!(made[0].as_deref().map(str::len), Some(9));
    assert_eq!(ids(HERMES, "<tool_call>{\"name\": \"f\"}"), [None]);
}

#[test]
fn calls_in_lists_of_objects() {
    check(
        form("Command R7B, A"),
        "⟦<|START_ACTION|>⟧[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"f\", \"parameters\": {\"a\": 1}},\n    {\"tool_call_id\": \"1\", \"tool_name\": \"g\", \"parameters\": {}}\n]⟦<|END_ACTION|>⟧",
        "",
        &[("f", "{\"a\": 1}"), ("g", "{}")],
    );
    check(
        form("Command R, R+"),
        "Action:\n```json\n[{\"tool_name\": \"f\", \"parameters\": {\"a\": 1}}]\n```",
        "",
        &[("f", "{\"a\": 1}")],
    );
    check(
        form("Granite"),
        "⟦<|tool_call|>⟧[{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
        "",
        &[("f", "{\"a\": 1}"), ("g", "{}")],
    );
    check(
        form("Apertus"),
        "<|tools_prefix|>[{\"f\": {\"a\": 1}}, {\"g\": {}}]<|tools_suffix|>",
        "",
        &[("f", "{\"a\": 1}"), ("g", "{}")],
    );
    for (name, open, close) in [
        ("Nemotron Nano 2", "<TOOLCALL>", "</TOOLCALL>"),
        ("Apriel", "<tool_calls>", "</tool_calls>"),
        ("Firefunction 2", " functools", ""),
    ] {
        check(
            form(name),
            &format!("{open}[{{\"name\": \"f\", \"arguments\": {{\"a\": 1}}}}]{close}"),
            "",
            &[("f", "{\"a\": 1}")],
        );
    }
    check(
        form("MiniMax M1"),
        "<tool_calls>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n{\"name\": \"g\", \"arguments\": {}}\n</tool_calls>",
        "",
        &[("f", "{\"a\": 1}"), ("g", "{}")],
    );
    for (name, open) in [
        ("GigaChat 3.1", "<|function_call|>"),
        (
            "GigaChat 3",
            "⟦<|message_sep|>⟧\n\nfunction call⟦<|role_sep|>⟧\n",
        ),
    ] {
        check(
            form(name),
            &format!("Hi.{open}{{\"name\": \"f\", \"arguments\": {{\"a\": 1}}}}"),
            "Hi.",
            &[("f", "{\"a\": 1}")],
        );
    }
}

#[test]
fn calls_as_in_python() {
    let check = |text: &str, content: &str, calls: &[(&str, &str)]| {
        check(form("LFM2"), text, content, calls)
    };
    check(
        "Wait.⟦<|tool_call_start|>⟧[f(city=\"a, (b)\", days=1), Calendar.add(more={'a': True, \"b\": null}, list=[1, 'x'])]⟦<|tool_call_end|>⟧",
        "Wait.",
        &[
            ("f", "{\"city\": \"a, (b)\", \"days\": 1}"),
            (
                "Calendar.add",
                "{\"more\": {\"a\": true, \"b\": null}, \"list\": [1, \"x\"]}",
            ),
        ],
    );
    check(
        "<|tool_call_start|>[f()]<|tool_call_end|>",
        "",
        &[("f", "{}")],
    );
    check(
        "<|tool_call_start|>[f(city=\"a\\n\\\"b\\\"\", note=None, on=x)]<|tool_call_end|>",
        "",
        &[(
            "f",
            "{\"city\": \"a\\n\\\"b\\\"\", \"note\": null, \"on\": \"x\"}",
        )],
    );
    check(
        "<|tool_call_start|>[f(days=1, city=",
        "",
        &[("f", "{\"days\": 1, \"city\": ")],
    );
    for text in [
        "[link](url)",
        "[f(days=1)]",
        "<|tool_call_start|>[h(a=1)]<|tool_call_end|>",
        "<|tool_call_start|> f(a=1)",
    ] {
        check(text, text, &[]);
    }
}

#[test]
fn calls_as_in_gemma() {
    let check = |text: &str, content: &str, calls: &[(&str, &str)]| {
        check(form("Gemma 4"), text, content, calls)
    };
    check(
        "Hi.⟦<|tool_call>⟧call:f{city:⟦<|\"|>⟧San \"F\" {⟦<|\"|>⟧,days:-7,on:true}⟦<tool_call|>⟧⟦<|tool_call>⟧call:g{}⟦<tool_call|>⟧",
        "Hi.",
        &[
            (
                "f",
                "{\"city\": \"San \\\"F\\\" {\", \"days\": -7, \"on\": true}",
            ),
            ("g", "{}"),
        ],
    );
    check(
        "<|tool_call>call:f{more:{a:<|\"|>x<|\"|>,b:{}},list:[<|\"|>p<|\"|>,1.5e10,[]]}<tool_call|>",
        "",
        &[(
            "f",
            "{\"more\": {\"a\": \"x\", \"b\": {}}, \"list\": [\"p\", 1.5e10, []]}",
        )],
    );
    // As a grammar writes it.
    check(
        "<|tool_call>call:f{more:{\"a\": \"x, }\"}}<tool_call|>",
        "",
        &[("f", "{\"more\": {\"a\": \"x, }\"}}")],
    );
    for text in ["<|tool_call>call:h{}<tool_call|>", "<|tool_call> x"] {
        check(text, text, &[]);
    }
}

#[test]
fn messages_with_headers() {
    let expects = expects(form("gpt-oss"));
    let check = |text: &str, reasoning: &str, content: &str, calls: &[(&str, &str)]| {
        check_as(&expects, text, true, reasoning, content, calls);
    };
    check(
        "<|channel|>final<|message|>Hello.\nYou",
        "",
        "Hello.\nYou",
        &[],
    );
    check(
        "⟦<|channel|>⟧analysis⟦<|message|>⟧I'm\nthinking⟦<|end|>⟧⟦<|start|>⟧assistant⟦<|channel|>⟧final⟦<|message|>⟧Hello.",
        "I'm\nthinking",
        "Hello.",
        &[],
    );
    for text in [
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>",
        "<|channel|>analysis to=functions.f<|message|>{\"a\": 1}",
        " to=functions.f<|channel|>analysis<|message|>{\"a\": 1}",
        " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{\"a\": 1}",
        "<|channel|>commentary to=f<|message|>{\"a\": 1}",
    ] {
        check(text, "", "", &[("f", "{\"a\": 1}")]);
    }
    check(
        "⟦<|channel|>⟧analysis⟦<|message|>⟧Hm⟦<|end|>⟧⟦<|start|>⟧assistant to=functions.f⟦<|channel|>⟧commentary json⟦<|message|>⟧{\"a\": 1}",
        "Hm",
        "",
        &[("f", "{\"a\": 1}")],
    );
    check(
        "<|channel|>commentary to=assistant<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Hi",
        "Hm",
        "Hi",
        &[],
    );
    check("<|channel|>analysis<|message|>Hm", "Hm", "", &[]);
    check("Without a header.", "", "Without a header.", &[]);
    // Where the prompt has begun a message.
    let within = |prompt: &str| Expects {
        prompt: prompt.into(),
        ..expects.clone()
    };
    check_as(
        &within("<|end|><|start|>assistant"),
        "<|channel|>final<|message|>Hi",
        true,
        "",
        "Hi",
        &[],
    );
    check_as(
        &within("<|start|>assistant<|channel|>final<|message|>Hello, "),
        "you",
        true,
        "",
        "you",
        &[],
    );
    check_as(
        &within("<|start|>assistant<|channel|>analysis<|message|>I"),
        "'m<|end|><|start|>assistant<|channel|>final<|message|>Hi",
        true,
        "'m",
        "Hi",
        &[],
    );
    // Reasoning that stays in the content has its markers.
    let stays = Expects {
        splits: false,
        ..expects.clone()
    };
    check_as(
        &stays,
        "⟦<|channel|>⟧analysis⟦<|message|>⟧Hm⟦<|end|>⟧⟦<|start|>⟧assistant⟦<|channel|>⟧final⟦<|message|>⟧Hi",
        true,
        "",
        "<|channel|>analysis<|message|>Hm<|end|>Hi",
        &[],
    );
    // Without tools.
    let none = Expects {
        calls: false,
        ..expects.clone()
    };
    let text = "<|channel|>commentary to=functions.f<|message|>{}";
    check_as(&none, text, true, "", "{}", &[]);

    let functionary = form("Functionary 3.2");
    let check = |text: &str, content: &str, calls: &[(&str, &str)]| {
        check_as(&self::expects(functionary), text, true, "", content, calls);
    };
    check("all\nHello,\nyou", "Hello,\nyou", &[]);
    check("f\n{\"a\": 1}", "", &[("f", "{\"a\": 1}")]);
    check(
        "all\nWait.\n>>>f\n{\"a\": 1}>>>g\n{}",
        "Wait.",
        &[("f", "{\"a\": 1}"), ("g", "{}")],
    );
    check("h\n{}", "h\n{}", &[]);
}

#[test]
fn reasoning_comes_apart() {
    let qwen = thinks(HERMES, "<think></think>");
    let inside = Expects {
        inside: true,
        ..qwen.clone()
    };
    let check =
        |expects: &Expects, text: &str, reasoning: &str, content: &str, calls: &[(&str, &str)]| {
            check_as(expects, text, true, reasoning, content, calls);
        };
    check(
        &qwen,
        "<think>\nI'm\nthinking\n</think>\n\nHello, <b>you</b>\n",
        "I'm\nthinking",
        "Hello, <b>you</b>\n",
        &[],
    );
    check(&qwen, "⟦<think>⟧\n\n⟦</think>⟧\n\nHi", "", "Hi", &[]);
    check(&qwen, "Use <think> for it.", "", "Use <think> for it.", &[]);
    check(&qwen, "</think>Hi", "", "Hi", &[]);
    check(&qwen, "<think>I was still", "I was still", "", &[]);
    check(&qwen, "<th", "", "<th", &[]);
    check(
        &inside,
        "I'm thinking\n</think>\nHi",
        "I'm thinking",
        "Hi",
        &[],
    );
    check(&inside, "</think>Hi", "", "Hi", &[]);
    check(&inside, "still ", "still ", "", &[]);
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>";
    let calls = [("f", "{\"a\": 1}")];
    check(
        &qwen,
        &format!("<think>Hm</think>\n\n{call}"),
        "Hm",
        "",
        &calls,
    );
    check(
        &inside,
        &format!("Hm\n</think>\n\nLet me see.\n{call}"),
        "Hm",
        "Let me see.",
        &calls,
    );
    // A call that it thinks about, and one in place of the end.
    check(
        &inside,
        &format!("Maybe {call} then\n</think>\n{call}"),
        &format!("Maybe {call} then"),
        "",
        &calls,
    );
    check(&inside, &format!("Hm.\n{call}"), "Hm.", "", &calls);
    check(&inside, "Use <tool_call> or", "Use <tool_call> or", "", &[]);
    // Without tools, and where it stays in the content.
    let none = Expects {
        calls: false,
        ..qwen.clone()
    };
    check(&none, "<think>a</think>b", "a", "b", &[]);
    let stays = Expects {
        splits: false,
        ..qwen.clone()
    };
    check(
        &stays,
        &format!("⟦<think>⟧\na\n⟦</think>⟧\n{call}"),
        "",
        "<think>\na\n</think>",
        &calls,
    );
    for (template, text, reasoning, content) in [
        ("[THINK]", "⟦[THINK]⟧a⟦[/THINK]⟧b", "a", "b"),
        (
            "<|START_THINKING|>",
            "⟦<|START_THINKING|>⟧a⟦<|END_THINKING|>⟧⟦<|START_RESPONSE|>⟧b⟦<|END_RESPONSE|>⟧",
            "a",
            "b",
        ),
        (
            "<|START_THINKING|>",
            "<|START_RESPONSE|>b<|END_RESPONSE|>",
            "",
            "b",
        ),
        (
            "<seed:think>",
            "<seed:think>a b</seed:think>\nb",
            "a b",
            "b",
        ),
        (
            "<think></think><response></response>",
            "<think>a</think><response>b</response>",
            "a",
            "b",
        ),
        (
            "<think></think><answer></answer>",
            "<think>a</think>\n<answer>\nb</answer>\n",
            "a",
            "b",
        ),
        (
            "<think></think><answer></answer>",
            "Write <answer>42</answer> in the file.",
            "",
            "Write <answer>42</answer> in the file.",
        ),
        (
            "<think></think><answer></answer>",
            "Write <answer>42</answer>",
            "",
            "Write <answer>42</answer>",
        ),
        (
            "<think></think><answer></answer>",
            "<answer>End it with </answer> always.</answer>",
            "",
            "End it with </answer> always.",
        ),
        (
            "<|channel>thought\n<channel|>",
            "<|channel>thought\na<channel|>b",
            "a",
            "b",
        ),
        (
            "<|channel>thought\n<channel|>",
            "<|channel>thought\n<channel|>b<|channel>thought\n<channel|><channel|>",
            "",
            "b",
        ),
        (
            "[BEGIN FINAL RESPONSE]",
            "Here are my reasoning steps:\na\n[BEGIN FINAL RESPONSE]\nb",
            "a",
            "b",
        ),
    ] {
        check(&thinks(HERMES, template), text, reasoning, content, &[]);
    }
}

#[test]
fn tokens_of_reasoning_are_counted() {
    let count = |expects: &Expects, tokens: &[(&str, Option<&str>)]| {
        let mut reader = Reader::new(expects);
        for (text, name) in tokens {
            reader.push(text, *name);
        }
        reader.finish(true);
        reader.reasoning_tokens()
    };
    let qwen = thinks(HERMES, "<think>");
    let tokens = [
        ("", Some("<think>")),
        ("\n", None),
        ("a", None),
        ("", Some("</think>")),
        ("\n\n", None),
        ("b", None),
    ];
    assert_eq!(count(&qwen, &tokens), 4);
    let inside = Expects {
        inside: true,
        ..qwen.clone()
    };
    assert_eq!(count(&inside, &tokens[1..]), 3);
    assert_eq!(count(&expects(HERMES), &tokens), 0);
    assert!(qwen.reasons() && !expects(HERMES).reasons());
    let oss = expects(form("gpt-oss"));
    assert!(oss.reasons());
    let header = ("", Some("<|message|>"));
    let tokens = [
        ("<|channel|>analysis", None),
        header,
        ("a", None),
        ("", Some("<|end|>")),
    ];
    assert_eq!(count(&oss, &tokens), 4);
    // A marker of several tokens.
    let tokens = ["<", "think", ">", "a", "</", "think", ">", "b"].map(|text| (text, None));
    assert_eq!(count(&qwen, &tokens), 7);
    assert_eq!(count(&qwen, &tokens[3..]), 0);
}

/// The name of a call is known before its arguments have come, and arguments come by pieces.
#[test]
fn calls_stream() {
    for (form, text, least) in [
        (
            HERMES,
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"city\": \"abcdefghijkl\"}}\n</tool_call>",
            10,
        ),
        (
            form("Qwen3-Coder"),
            "<tool_call>\n<function=f>\n<parameter=city>\nabcdefghijkl\n</parameter>\n</function>\n</tool_call>",
            10,
        ),
        (
            form("Mistral"),
            "[TOOL_CALLS]f[ARGS]{\"city\": \"abcdefghijkl\"}",
            10,
        ),
        (
            form("gpt-oss"),
            "<|channel|>commentary to=functions.f<|message|>{\"city\": \"abcdefghijkl\"}",
            10,
        ),
        (
            form("Gemma 4"),
            "<|tool_call>call:f{city:<|\"|>abcdefghijkl<|\"|>}<tool_call|>",
            10,
        ),
        (
            form("LFM2"),
            "<|tool_call_start|>[f(city=\"abcdefghijkl\", days=2)]<|tool_call_end|>",
            3,
        ),
    ] {
        let mut reader = Reader::new(&expects(form));
        let mut named_at = None;
        let mut pieces = 0;
        for (place, character) in text.chars().enumerate() {
            for part in reader.push(character.encode_utf8(&mut [0; 4]), None) {
                match part {
                    Part::Call { .. } => named_at = Some(place),
                    Part::Arguments(_) => pieces += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        let named_at = named_at.expect("a call");
        assert!(text[named_at..].contains("abcdefg"), "{text}");
        assert!(pieces >= least, "{text}: {pieces}");
    }
}

/// Wherever a call is cut off, nothing of it becomes content; and where the model itself ended it, its arguments are JSON if
/// they are made from another form.
#[test]
fn a_call_may_end_anywhere() {
    let made = [
        (
            "Qwen3-Coder",
            "<tool_call>\n<function=f>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        ),
        (
            "GLM",
            "<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>a \"b\"</arg_value>\n<arg_key>on</arg_key>\n<arg_value>true</arg_value>\n</tool_call>",
        ),
        (
            "MiniMax M2",
            "<minimax:tool_call>\n<invoke name=\"f\">\n<parameter name=\"city\">x</parameter>\n</invoke>\n</minimax:tool_call>",
        ),
        (
            "LFM2",
            "<|tool_call_start|>[f(city=\"a, b\", list=[1, 2])]<|tool_call_end|>",
        ),
        (
            "Gemma 4",
            "<|tool_call>call:f{city:<|\"|>x<|\"|>,more:{a:1,b:[true]}}<tool_call|>",
        ),
    ];
    let written = [
        ("Mistral", "[TOOL_CALLS]f[ARGS]{\"a\": [1, \"}\"]}"),
        (
            "DeepSeek V3, R1",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
        (
            "Hermes",
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>",
        ),
    ];
    for (name, text) in made.into_iter().chain(written) {
        for (end, _) in text.char_indices().chain([(text.len(), ' ')]) {
            for ended in [false, true] {
                let read = read_by(&expects(form(name)), &text[..end], 1, ended);
                let whole = read_by(&expects(form(name)), &text[..end], usize::MAX, ended);
                assert_eq!(read, whole, "{}", &text[..end]);
                let Some((_, arguments)) = read.calls.first() else {
                    assert_eq!(read.content, text[..end]);
                    continue;
                };
                assert_eq!(read.content, "", "{}", &text[..end]);
                if ended && made.iter().any(|(other, _)| *other == name) {
                    let json = serde_json::from_str::<Value>(arguments);
                    assert!(json.is_ok(), "{}: {arguments}", &text[..end]);
                }
            }
        }
    }
}

#[test]
fn long_texts_are_searched_once() {
    // Token by token; searched from the beginning each time, they would take minutes.
    let count = 200_000;
    let gemma = expects(form("Gemma 4"));
    for value in [
        format!("\"{}\"", "a,\\\"".repeat(count / 4)),
        "1".repeat(count),
    ] {
        let text = format!("<|tool_call>call:f{{days:{value}}}<tool_call|>");
        let read = read_by(&gemma, &text, 1, true);
        let arguments = &read.calls[0].1;
        let inner = arguments.strip_prefix("{\"days\": ").expect("an argument");
        assert!(inner.trim_matches(['"', '}']).len() >= count - 2);
        assert!(inner.ends_with('}'));
    }
    let channels = expects(form("gpt-oss"));
    let (before, blank) = ("<|channel|>final<|message|>Hi", "\n ".repeat(count / 2));
    let read = read_by(&channels, &format!("{before}{blank}you"), 1, true);
    assert_eq!(read.content, format!("Hi{blank}you"));
    let read = read_by(
        &channels,
        &format!("{before}{blank}<|end|>{blank}you"),
        1,
        true,
    );
    assert_eq!(read.content, "Hiyou");
}
