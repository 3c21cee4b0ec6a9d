//! The table of forms. To add one, add an entry.

use super::form::Piece::{Arguments, Matching, Name, Text};
use super::form::{Body, Channels, Form, Ids, Keys, Parameters, Piece};

const NOTHING: &[Piece] = &[];
const LINE: &[Piece] = &[Text("\n")];
const COMMA: &[Piece] = &[Text(", ")];
const ARGUMENTS: Body = Body::Object(Keys::Two("name", "arguments"));

/// What entries change.
const BASE: Form = Form {
    name: "",
    models: "",
    marks: &[],
    open: &[],
    close: &[],
    bare: false,
    body: ARGUMENTS,
    ids: Ids::Any,
    list: (NOTHING, NOTHING),
    written: &[],
    between: Some(NOTHING),
};

/// Parameters as in Qwen3-Coder.
const FUNCTION: Parameters = Parameters {
    name: ("<function=", ">"),
    key: ("<parameter=", ">"),
    value: ("", "</parameter>"),
    end: "</function>",
    line: "\n",
    pad: "\n",
    attributes: ("", ""),
};

/// Parameters as in MiniMax M2.
const INVOKE: Parameters = Parameters {
    name: ("<invoke name=\"", "\">"),
    key: ("<parameter name=\"", "\">"),
    value: ("", "</parameter>"),
    end: "</invoke>",
    line: "\n",
    pad: "",
    attributes: ("", ""),
};

/// Parameters as in DeepSeek V3.2.
const DSML: Parameters = Parameters {
    name: ("<｜DSML｜invoke name=\"", "\">"),
    key: ("<｜DSML｜parameter name=\"", ">"),
    value: ("", "</｜DSML｜parameter>"),
    end: "</｜DSML｜invoke>",
    line: "\n",
    pad: "",
    attributes: ("\" string=\"true\"", "\" string=\"false\""),
};

/// The most common form, which models are asked for whose template does not support tools.
pub const HERMES: &Form = &Form {
    name: "Hermes",
    models: "Hermes 2 and 3, Qwen 2.5 and 3, QwQ, Granite 4, MiMo, Reka Edge, and models whose template does not support tools",
    marks: &[&["<tool_call>"]],
    open: &["<tool_call>"],
    close: &["</tool_call>"],
    bare: true,
    written: &[
        Text("<tool_call>"),
        Text("\n"),
        Arguments,
        Text("\n"),
        Text("</tool_call>"),
    ],
    between: Some(LINE),
    ..BASE
};

/// The first whose marks are in a template is its form.
pub const FORMS: &[&Form] = &[
    &Form {
        name: "gpt-oss",
        models: "gpt-oss (harmony)",
        marks: &[&["<|channel|>", "<|message|>"]],
        body: Body::Channels(Channels {
            header: &["<|start|>", "<|channel|>"],
            message: "<|message|>",
            end: &["<|end|>", "<|call|>", "<|return|>"],
            recipient: "to=",
            reasoning: Some("analysis"),
            prompt: "<|start|>",
            thought: Some([
                "<|channel|>analysis<|message|>",
                "<|end|>",
                "<|start|>assistant",
            ]),
            answer: "<|channel|>final<|message|>",
        }),
        written: &[
            Text("<|channel|>"),
            Text("commentary to=functions."),
            Name,
            Text(" "),
            Text("<|constrain|>"),
            Text("json"),
            Text("<|message|>"),
            Arguments,
        ],
        between: None,
        ..BASE
    },
    &Form {
        name: "Functionary 3.2",
        models: "Functionary 3.2",
        marks: &[&[">>>all"]],
        body: Body::Channels(Channels {
            header: &[">>>"],
            message: "\n",
            end: &[],
            recipient: "",
            reasoning: None,
            prompt: ">>>",
            thought: None,
            answer: "all\n",
        }),
        written: &[Name, Text("\n"), Arguments],
        between: Some(&[Text(">>>")]),
        ..BASE
    },
    &Form {
        name: "Seed-OSS",
        models: "Seed-OSS",
        marks: &[&["<seed:tool_call>"]],
        open: &["<seed:tool_call>"],
        close: &["</seed:tool_call>"],
        body: Body::Parameters(Parameters {
            pad: "",
            ..FUNCTION
        }),
        written: &[
            Text("<seed:tool_call>"),
            Text("\n"),
            Arguments,
            Text("\n"),
            Text("</seed:tool_call>"),
        ],
        between: Some(LINE),
        ..BASE
    },
    &Form {
        name: "Qwen3-Coder",
        models: "Qwen3-Coder, Qwen 3.5, Nemotron 3 Nano, Step 3.5",
        marks: &[&["<tool_call>", "<function=", "<parameter="]],
        open: &["<tool_call>"],
        close: &["</tool_call>"],
        body: Body::Parameters(FUNCTION),
        written: &[
            Text("<tool_call>"),
            Text("\n"),
            Arguments,
            Text("\n"),
            Text("</tool_call>"),
        ],
        between: Some(LINE),
        ..BASE
    },
    &Form {
        name: "GLM",
        models: "GLM 4.5 and later, Ling 3, Laguna",
        marks: &[&["<arg_key>", "<tool_call>"]],
        open: &["<tool_call>"],
        close: &["</tool_call>"],
        body: Body::Parameters(Parameters {
            name: ("", "\n"),
            key: ("<arg_key>", "</arg_key>"),
            value: ("<arg_value>", "</arg_value>"),
            end: "",
            line: "\n",
            pad: "",
            attributes: ("", ""),
        }),
        written: &[Text("<tool_call>"), Arguments, Text("</tool_call>")],
        between: Some(LINE),
        ..BASE
    },
    &Form {
        name: "MiniMax M2",
        models: "MiniMax M2",
        marks: &[&["<minimax:tool_call>"]],
        open: &["<minimax:tool_call>"],
        close: &["</minimax:tool_call>"],
        body: Body::Parameters(INVOKE),
        list: (
            &[Text("<minimax:tool_call>"), Text("\n")],
            &[Text("\n"), Text("</minimax:tool_call>")],
        ),
        written: &[Arguments],
        between: Some(LINE),
        ..BASE
    },
    &Form {
        name: "DeepSeek V3.2",
        models: "DeepSeek V3.2",
        marks: &[&["DSML", "function_calls"]],
        open: &["<｜DSML｜function_calls>"],
        close: &["</｜DSML｜function_calls>"],
        body: Body::Parameters(DSML),
        list: (
            &[Text("<｜DSML｜function_calls>"), Text("\n")],
            &[Text("\n"), Text("</｜DSML｜function_calls>")],
        ),
        written: &[Arguments],
        between: Some(LINE),
        ..BASE
    },
    &Form {
        name: "DeepSeek V4",
        models: "DeepSeek V4",
        marks: &[&["DSML"]],
        open: &["<｜DSML｜tool_calls>"],
        close: &["</｜DSML｜tool_calls>"],
        body: Body::Parameters(DSML),
        list: (
            &[Text("<｜DSML｜tool_calls>"), Text("\n")],
            &[Text("\n"), Text("</｜DSML｜tool_calls>")],
        ),
        written: &[Arguments],
        between: Some(LINE),
        ..BASE
    },
    &Form {
        name: "MiniCPM 5",
        models: "MiniCPM 5",
        marks: &[&["<function name=\"", "<param name=\""]],
        body: Body::Parameters(Parameters {
            name: ("<function name=\"", "\">"),
            key: ("<param name=\"", "\">"),
            value: ("", "</param>"),
            end: "</function>",
            line: "",
            pad: "",
            attributes: ("", ""),
        }),
        written: &[Arguments],
        between: Some(LINE),
        ..BASE
    },
    &Form {
        name: "DeepSeek V3, R1",
        models: "DeepSeek V3, R1 and its distillations",
        marks: &[&["<｜tool▁sep｜>", "```json"]],
        open: &["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"],
        close: &["<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
        body: Body::Named(&["<｜tool▁sep｜>"]),
        list: (
            &[Text("<｜tool▁calls▁begin｜>")],
            &[Text("<｜tool▁calls▁end｜>")],
        ),
        written: &[
            Text("<｜tool▁call▁begin｜>"),
            Text("function"),
            Text("<｜tool▁sep｜>"),
            Name,
            Text("\n```json\n"),
            Arguments,
            Text("\n```"),
            Text("<｜tool▁call▁end｜>"),
        ],
        between: Some(LINE),
        ..BASE
    },
    &Form {
        name: "DeepSeek V3.1",
        models: "DeepSeek V3.1",
        marks: &[&["<｜tool▁sep｜>"]],
        open: &["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"],
        close: &["<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
        body: Body::Named(&["<｜tool▁sep｜>"]),
        list: (
            &[Text("<｜tool▁calls▁begin｜>")],
            &[Text("<｜tool▁calls▁end｜>")],
        ),
        written: &[
            Text("<｜tool▁call▁begin｜>"),
            Name,
            Text("<｜tool▁sep｜>"),
            Arguments,
            Text("<｜tool▁call▁end｜>"),
        ],
        ..BASE
    },
    &Form {
        name: "Kimi K2",
        models: "Kimi K2",
        marks: &[&["<|tool_call_argument_begin|>"]],
        open: &["<|tool_calls_section_begin|>", "<|tool_call_begin|>"],
        close: &["<|tool_call_end|>", "<|tool_calls_section_end|>"],
        body: Body::Named(&["<|tool_call_argument_begin|>"]),
        list: (
            &[Text("<|tool_calls_section_begin|>")],
            &[Text("<|tool_calls_section_end|>")],
        ),
        written: &[
            Text("<|tool_call_begin|>"),
            Text("functions."),
            Name,
            Matching(":[0-9]{1,3}"),
            Text("<|tool_call_argument_begin|>"),
            Arguments,
            Text("<|tool_call_end|>"),
        ],
        ..BASE
    },
    &Form {
        name: "Mistral, with ids",
        models: "Mistral Small 3.2",
        marks: &[&["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"]],
        open: &["[TOOL_CALLS]"],
        bare: true,
        body: Body::Named(&["[CALL_ID]", "[ARGS]"]),
        ids: Ids::Nine,
        written: &[
            Text("[TOOL_CALLS]"),
            Name,
            Text("[CALL_ID]"),
            Matching("[a-zA-Z0-9]{9}"),
            Text("[ARGS]"),
            Arguments,
        ],
        ..BASE
    },
    &Form {
        name: "Mistral",
        models: "Ministral 3, Magistral, Devstral",
        marks: &[&["[TOOL_CALLS]", "[ARGS]"]],
        open: &["[TOOL_CALLS]"],
        bare: true,
        body: Body::Named(&["[CALL_ID]", "[ARGS]"]),
        ids: Ids::Nine,
        written: &[Text("[TOOL_CALLS]"), Name, Text("[ARGS]"), Arguments],
        ..BASE
    },
    &Form {
        name: "Mistral, lists",
        models: "Mistral 7B 0.3, Nemo, Small 2409 to 3.1",
        marks: &[&["[TOOL_CALLS]"]],
        open: &["[TOOL_CALLS]"],
        bare: true,
        ids: Ids::Nine,
        list: (&[Text("[TOOL_CALLS]"), Text("[")], &[Text("]")]),
        written: &[Arguments],
        between: Some(COMMA),
        ..BASE
    },
    &Form {
        name: "Command R7B, A",
        models: "Command R7B, Command A",
        marks: &[&["<|START_ACTION|>"]],
        open: &["<|START_ACTION|>"],
        close: &["<|END_ACTION|>"],
        body: Body::Object(Keys::Two("tool_name", "parameters")),
        list: (
            &[Text("<|START_ACTION|>"), Text("[\n    ")],
            &[Text("\n]"), Text("<|END_ACTION|>")],
        ),
        written: &[Arguments],
        between: Some(&[Text(",\n    ")]),
        ..BASE
    },
    &Form {
        name: "Command R, R+",
        models: "Command R, R+",
        marks: &[&["Action:", "```json", "tool_name"]],
        open: &["Action:"],
        body: Body::Object(Keys::Two("tool_name", "parameters")),
        list: (&[Text("Action:\n```json\n[\n    ")], &[Text("\n]\n```")]),
        written: &[Arguments],
        between: Some(&[Text(",\n    ")]),
        ..BASE
    },
    &Form {
        name: "Gemma 4",
        models: "Gemma 4",
        marks: &[&["<|tool_call>"]],
        open: &["<|tool_call>"],
        close: &["<tool_call|>"],
        body: Body::Gemma,
        written: &[Text("<|tool_call>"), Arguments, Text("<tool_call|>")],
        ..BASE
    },
    &Form {
        name: "LFM2",
        models: "LFM2, LFM2.5",
        marks: &[
            &["<|tool_call_start|>"],
            &["<|tool_list_start|>"],
            &["List of tools: ", "keep_past_thinking"],
        ],
        open: &["<|tool_call_start|>"],
        close: &["<|tool_call_end|>"],
        body: Body::Python,
        list: (
            &[Text("<|tool_call_start|>"), Text("[")],
            &[Text("]"), Text("<|tool_call_end|>")],
        ),
        written: &[Arguments],
        between: Some(COMMA),
        ..BASE
    },
    &Form {
        name: "Granite",
        models: "Granite 3, Phi 4 mini",
        marks: &[&["<|tool_call|>"]],
        open: &["<|tool_call|>"],
        close: &["<|/tool_call|>"],
        list: (&[Text("<|tool_call|>"), Text("[")], &[Text("]")]),
        written: &[Arguments],
        between: Some(COMMA),
        ..BASE
    },
    &Form {
        name: "Apertus",
        models: "Apertus",
        marks: &[&["<|tools_prefix|>"]],
        open: &["<|tools_prefix|>"],
        close: &["<|tools_suffix|>"],
        body: Body::Object(Keys::Name),
        list: (
            &[Text("<|tools_prefix|>"), Text("[")],
            &[Text("]"), Text("<|tools_suffix|>")],
        ),
        written: &[Arguments],
        between: Some(COMMA),
        ..BASE
    },
    &Form {
        name: "Nemotron Nano 2",
        models: "Nemotron Nano 2",
        marks: &[&["<TOOLCALL>"]],
        open: &["<TOOLCALL>"],
        close: &["</TOOLCALL>"],
        list: (
            &[Text("<TOOLCALL>"), Text("[")],
            &[Text("]"), Text("</TOOLCALL>")],
        ),
        written: &[Arguments],
        between: Some(COMMA),
        ..BASE
    },
    &Form {
        name: "MiniMax M1",
        models: "MiniMax M1",
        marks: &[&["<tool_calls>", "<beginning_of_sentence>"]],
        open: &["<tool_calls>"],
        close: &["</tool_calls>"],
        list: (
            &[Text("<tool_calls>"), Text("\n")],
            &[Text("\n"), Text("</tool_calls>")],
        ),
        written: &[Arguments],
        between: Some(LINE),
        ..BASE
    },
    &Form {
        name: "Apriel",
        models: "Apriel 1.5 and 1.6",
        marks: &[&["<tool_calls>"]],
        open: &["<tool_calls>"],
        close: &["</tool_calls>"],
        list: (
            &[Text("<tool_calls>"), Text("[")],
            &[Text("]"), Text("</tool_calls>")],
        ),
        written: &[Arguments],
        between: Some(COMMA),
        ..BASE
    },
    &Form {
        name: "Firefunction 2",
        models: "Firefunction 2",
        marks: &[&["functools["]],
        open: &["functools"],
        list: (&[Text(" functools[")], &[Text("]")]),
        written: &[Arguments],
        between: Some(COMMA),
        ..BASE
    },
    &Form {
        name: "GigaChat 3.1",
        models: "GigaChat 3.1",
        marks: &[&["<|function_call|>"]],
        open: &["<|function_call|>"],
        written: &[Text("<|function_call|>"), Arguments],
        between: None,
        ..BASE
    },
    &Form {
        name: "GigaChat 3",
        models: "GigaChat 3",
        marks: &[&["`function call` role", "<|role_sep|>"]],
        open: &["<|message_sep|>\n\nfunction call<|role_sep|>"],
        written: &[
            Text("<|message_sep|>"),
            Text("\n\nfunction call"),
            Text("<|role_sep|>"),
            Text("\n"),
            Arguments,
        ],
        between: None,
        ..BASE
    },
    &Form {
        name: "Functionary 3.1",
        models: "Functionary 3.1",
        marks: &[&["<function="]],
        open: &["<function="],
        close: &["</function>"],
        body: Body::Named(&[">"]),
        written: &[
            Text("<function="),
            Name,
            Text(">"),
            Arguments,
            Text("</function>"),
        ],
        ..BASE
    },
    HERMES,
    &Form {
        name: "Llama 3",
        models: "Llama 3.1, 3.2 and 3.3",
        marks: &[
            &["\"parameters\": dictionary"],
            &["'\"parameters\": '"],
            &["<|python_tag|>"],
        ],
        open: &["<|python_tag|>"],
        close: &[";"],
        bare: true,
        body: Body::Object(Keys::Two("name", "parameters")),
        written: &[Arguments],
        between: None,
        ..BASE
    },
];

/// The form of a template's calls, if it is known.
pub fn of_template(template: &str) -> Option<&'static Form> {
    if !template.contains("tools") {
        return None;
    }
    let has = |marks: &&[&str]| marks.iter().all(|mark| template.contains(mark));
    FORMS
        .iter()
        .find(|form| form.marks.iter().any(has))
        .copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// A call of `weather` as the form writes it.
    fn example(form: &Form) -> String {
        let written = |pieces: &[Piece]| -> String {
            let texts = pieces.iter().map(|piece| match piece {
                Text(text) => (*text).to_owned(),
                Name => "weather".to_owned(),
                Matching(expression) if expression.starts_with(':') => ":0".to_owned(),
                Matching(_) => "4Fq8JmZ2x".to_owned(),
                Arguments => arguments(&form.body),
            });
            texts.collect()
        };
        written(form.list.0) + &written(form.written) + &written(form.list.1)
    }

    fn arguments(body: &Body) -> String {
        let json = "{\"city\": \"Paris\"}";
        match body {
            Body::Object(Keys::Two(name, arguments)) => {
                format!("{{\"{name}\": \"weather\", \"{arguments}\": {json}}}")
            }
            Body::Object(Keys::Name) => format!("{{\"weather\": {json}}}"),
            Body::Named(_) | Body::Channels(_) => json.to_owned(),
            Body::Parameters(form) => {
                let after = if form.name.0.is_empty() {
                    ""
                } else {
                    form.name.1
                };
                let gap = if form.value.0.is_empty() {
                    ""
                } else {
                    form.line
                };
                format!(
                    "{}weather{after}{}{}city{}{}{gap}{}{}Paris{}{}{}{}",
                    form.name.0,
                    form.line,
                    form.key.0,
                    form.attributes.0,
                    form.key.1,
                    form.value.0,
                    form.pad,
                    form.pad,
                    form.value.1,
                    form.line,
                    form.end
                )
            }
            Body::Python => "weather(city=\"Paris\")".to_owned(),
            Body::Gemma => "call:weather{city:<|\"|>Paris<|\"|>}".to_owned(),
        }
    }

    #[test]
    fn a_template_has_the_first_form_whose_marks_it_has() {
        let mut names = BTreeSet::new();
        for form in FORMS {
            assert!(names.insert(form.name), "{} is there twice", form.name);
            assert!(!form.written.is_empty(), "{}", form.name);
            for marks in form.marks {
                let template = format!("{{{{ tools }}}} {}", marks.join(" "));
                let found = of_template(&template).map(|form| form.name);
                assert_eq!(found, Some(form.name), "{template}");
            }
        }
        assert!(of_template("{{ tools }}").is_none());
        // The markers of a template without tools mean nothing.
        assert!(of_template("<tool_call>").is_none());
    }

    /// The table in docs/api/chat.md. `CANDOR_WRITE_PAGES=1` rewrites it.
    #[test]
    fn forms_are_documented() {
        const BEGIN: &str = "<!-- forms of calls -->\n";
        const END: &str = "<!-- end of forms -->\n";
        let mut table = "\n| form | models | a call |\n|---|---|---|\n".to_owned();
        for form in FORMS {
            let example = example(form).replace('\n', "⏎").replace('|', "\\|");
            let models = form.models;
            table.push_str(&format!("| {} | {models} | `{example}` |\n", form.name));
        }
        table.push_str("\n`⏎` is a line end.\n\n");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api/chat.md");
        let page = std::fs::read_to_string(&path).expect("the page");
        let (before, rest) = page.split_once(BEGIN).expect("a table");
        let (is, after) = rest.split_once(END).expect("its end");
        if std::env::var_os("CANDOR_WRITE_PAGES").is_some() {
            let written = format!("{before}{BEGIN}{table}{END}{after}");
            std::fs::write(&path, written).expect("written");
        } else {
            assert_eq!(is, table, "CANDOR_WRITE_PAGES=1 rewrites it");
        }
    }
}
