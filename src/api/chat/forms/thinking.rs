//! How models mark their reasoning.

/// The markers of a model's reasoning.
#[derive(Debug)]
pub struct Thinking {
    pub open: &'static str,
    pub close: &'static str,
    /// Markers around the answer itself, which are not shown. `""`: it only ends with one.
    pub answer: &'static [(&'static str, &'static str)],
    /// Whether it may begin within the answer. Otherwise `open` begins it only where nothing but calls came before, since an
    /// answer may be about the marker.
    pub anywhere: bool,
}

const fn thinking(
    open: &'static str,
    close: &'static str,
    answer: &'static [(&'static str, &'static str)],
) -> Thinking {
    Thinking {
        open,
        close,
        answer,
        anywhere: false,
    }
}

/// The most common one is the last: some templates mention it beside their own.
const THINKING: &[Thinking] = &[
    // Mistral.
    thinking("[THINK]", "[/THINK]", &[]),
    // Cohere.
    thinking(
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        &[
            ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
            ("<|START_TEXT|>", "<|END_TEXT|>"),
        ],
    ),
    // Seed-OSS.
    thinking("<seed:think>", "</seed:think>", &[]),
    // MiniMax M3.
    thinking("<mm:think>", "</mm:think>", &[]),
    // Gemma 4.
    Thinking {
        open: "<|channel>thought",
        close: "<channel|>",
        answer: &[("", "<channel|>")],
        anywhere: true,
    },
    // EXAONE Deep.
    thinking("<thought>", "</thought>", &[]),
    // Kimi VL.
    thinking("◁think▷", "◁/think▷", &[]),
    // Apriel 1.6.
    thinking(
        "Here are my reasoning steps:\n",
        "[BEGIN FINAL RESPONSE]",
        &[("", "[END FINAL RESPONSE]")],
    ),
    // Granite 3.2.
    thinking("Here is my thought process:", "Here is my response:", &[]),
    // DeepSeek, Qwen, GLM, Nemotron, Granite, Hunyuan and many others.
    thinking("<think>", "</think>", &[]),
];

/// The same within which the answer, too, has markers.
const MARKED_ANSWERS: &[(&str, Thinking)] = &[
    (
        "<response>",
        thinking("<think>", "</think>", &[("<response>", "</response>")]),
    ),
    (
        "<answer>",
        thinking("<think>", "</think>", &[("<answer>", "</answer>")]),
    ),
];

/// How a model with this template marks its reasoning, if it does.
pub fn thinking_of_template(template: &str) -> Option<&'static Thinking> {
    let marks = |thinking: &&Thinking| {
        template.contains(thinking.open) || template.contains(thinking.close)
    };
    let found = THINKING.iter().find(marks)?;
    let mut answers = MARKED_ANSWERS.iter();
    let marked = answers.find(|(mark, with)| with.open == found.open && template.contains(mark));
    Some(marked.map_or(found, |(_, with)| with))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_tells_how_reasoning_is_marked() {
        let open = |template: &str| thinking_of_template(template).map(|it| it.open);
        assert_eq!(open("{{ content.split('</think>')[-1] }}"), Some("<think>"));
        assert_eq!(open("[THINK]{{ x }}[/THINK]"), Some("[THINK]"));
        assert_eq!(open("{{ messages }}"), None);
        let granite = thinking_of_template("between <think></think> and <response></response>");
        assert_eq!(
            granite.map(|it| it.answer),
            Some(&[("<response>", "</response>")][..])
        );
    }
}
