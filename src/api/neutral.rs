//! Fields of other servers' APIs, and of OpenAI's, that Candor does not have: the values at which they change nothing, which
//! are taken, and what is said of all others.
//!
//! The fields are those of openai-python 3.57 (`completion_create_params`), vLLM's and SGLang's `protocol.py` of autumn 2026,
//! and llama-server's `tools/server/README.md`. A route that reads a field of this name is not concerned.

use serde_json::Value;

/// A field.
pub struct Neutral {
    pub name: &'static str,
    /// Whose it is.
    pub of: &'static str,
    pub taken: Taken,
    /// Why nothing else is taken, and what to use instead. Routes show only the sentences whose fields they have.
    pub otherwise: &'static str,
    /// The field that this is another name for. If the request has that one, too, they may contradict each other.
    pub alias_of: Option<&'static str>,
}

/// The values at which a field changes nothing.
#[derive(Debug, Clone, Copy)]
pub enum Taken {
    /// All of them.
    Any,
    /// These, as JSON. None: it is known only to say what to use instead.
    Only(&'static [&'static str]),
}

use Taken::{Any, Only};

const OPENAI: &str = "OpenAI";
const VLLM: &str = "vLLM";
const SGLANG: &str = "SGLang";
const BOTH: &str = "vLLM, SGLang";
const LLAMA: &str = "llama-server";
const OTHERS: &str = "other servers";
const ANTHROPIC: &str = "Anthropic";
const LITELLM: &str = "LiteLLM";

const NONE: Taken = Only(&[]);
const FALSE: Taken = Only(&["false"]);
const TRUE: Taken = Only(&["true"]);
const ZERO: Taken = Only(&["0"]);
const ONE: Taken = Only(&["1"]);

const fn row(
    name: &'static str,
    of: &'static str,
    taken: Taken,
    otherwise: &'static str,
) -> Neutral {
    Neutral {
        name,
        of,
        taken,
        otherwise,
        alias_of: None,
    }
}

/// A row of a field that Candor has under another name.
const fn alias(of: &'static str, row: Neutral) -> Neutral {
    Neutral {
        alias_of: Some(of),
        ..row
    }
}

/// The fields, by their API.
pub const NEUTRAL: &[Neutral] = &[
    // Whom and what a request is for, which is not this server's concern.
    row("user", OPENAI, Any, ""),
    row("metadata", OPENAI, Any, ""),
    row("store", OPENAI, Any, ""),
    row("service_tier", OPENAI, Any, ""),
    row("safety_identifier", OPENAI, Any, ""),
    row("prompt_cache_key", OPENAI, Any, ""),
    // How long OpenAI keeps its cache, and how it saves time.
    row("prompt_cache_retention", OPENAI, Any, ""),
    row("prompt_cache_options", OPENAI, Any, ""),
    row("prediction", OPENAI, Any, ""),
    row(
        "modalities",
        OPENAI,
        Only(&["[\"text\"]"]),
        "Only text is generated.",
    ),
    row("audio", OPENAI, NONE, "Only text is generated."),
    row(
        "verbosity",
        OPENAI,
        Only(&["\"medium\""]),
        "Models are not trained for it; ask for it in a message.",
    ),
    row(
        "web_search_options",
        OPENAI,
        NONE,
        "Nothing is searched; `tools` can describe a search of your own.",
    ),
    row("moderation", OPENAI, NONE, "Nothing is moderated."),
    row("functions", OPENAI, Only(&["[]"]), "Use `tools`."),
    row("function_call", OPENAI, NONE, "Use `tool_choice`."),
    // Under the names that other routes have for it.
    row(
        "max_tokens",
        OPENAI,
        NONE,
        "This route calls it `max_output_tokens`.",
    ),
    row(
        "max_completion_tokens",
        OPENAI,
        NONE,
        "Candor calls it `max_tokens`. This route calls it `max_output_tokens`.",
    ),
    row(
        "max_output_tokens",
        OPENAI,
        NONE,
        "Candor calls it `max_tokens`.",
    ),
    row(
        "logprobs",
        OPENAI,
        NONE,
        "Use `include: [\"message.output_text.logprobs\"]`.",
    ),
    row(
        "reasoning_effort",
        OPENAI,
        NONE,
        "Use `reasoning: {\"effort\": …}`.",
    ),
    // vLLM and SGLang.
    row(
        "use_beam_search",
        VLLM,
        FALSE,
        "There is no beam search. `best_of` returns the best of several.",
    ),
    row(
        "length_penalty",
        VLLM,
        ONE,
        "It is a part of beam search, which Candor does not have.",
    ),
    row(
        "early_stopping",
        VLLM,
        FALSE,
        "It is a part of beam search, which Candor does not have.",
    ),
    row(
        "spaces_between_special_tokens",
        VLLM,
        Only(&["true", "false"]),
        "Nothing is put between tokens.",
    ),
    row(
        "detokenize",
        VLLM,
        TRUE,
        "Answers always have their text. `return_token_ids` adds the ids.",
    ),
    row(
        "priority",
        BOTH,
        ZERO,
        "Clients take turns, and their requests run in the order of arrival.",
    ),
    row("request_id", VLLM, Any, ""),
    row("rid", SGLANG, Any, ""),
    row("session_id", BOTH, Any, ""),
    row("custom_labels", SGLANG, Any, ""),
    row("guided_decoding_backend", VLLM, Any, ""),
    row(
        "guided_whitespace_pattern",
        VLLM,
        NONE,
        "The schema or grammar says what white space there is.",
    ),
    row(
        "cache_salt",
        BOTH,
        NONE,
        "Clients share the cache. With `cache_prompt: false` a request reuses nothing of it.",
    ),
    row(
        "truncation_side",
        VLLM,
        Only(&["\"left\""]),
        "`truncate_prompt_tokens` keeps the last tokens.",
    ),
    row("echo", VLLM, FALSE, "POST /v1/completions has it."),
    row(
        "documents",
        VLLM,
        NONE,
        "Use `chat_template_kwargs: {\"documents\": …}`.",
    ),
    row(
        "include_reasoning",
        VLLM,
        TRUE,
        "Reasoning is always in the answer. `reasoning_format` says where.",
    ),
    row(
        "thinking_token_budget",
        VLLM,
        Only(&["-1"]),
        "`max_tokens` limits reasoning and answer together. `max_output_tokens` does on POST /v1/responses.",
    ),
    row(
        "stream_interval",
        VLLM,
        ONE,
        "Each token is sent as it is drawn.",
    ),
    row("watermarking", VLLM, FALSE, "Nothing is watermarked."),
    row(
        "repetition_detection",
        VLLM,
        NONE,
        "`dry_multiplier` and `repetition_penalty` avoid repetitions.",
    ),
    row(
        "return_token_offsets",
        VLLM,
        FALSE,
        "POST /v1/completions has them as `text_offset` of `logprobs`.",
    ),
    row(
        "return_prompt_text",
        VLLM,
        FALSE,
        "POST /apply-template returns it.",
    ),
    row("return_mm_kwargs", VLLM, Only(&["true", "false"]), ""),
    row(
        "routed_experts_prompt_start",
        VLLM,
        ZERO,
        "Experts are not returned.",
    ),
    row(
        "prompt_embeds",
        VLLM,
        NONE,
        "A prompt is a text or token ids.",
    ),
    row(
        "mm_processor_kwargs",
        VLLM,
        Only(&["{}"]),
        "Only text is read.",
    ),
    row("media_io_kwargs", VLLM, Only(&["{}"]), "Only text is read."),
    row(
        "kv_transfer_params",
        VLLM,
        NONE,
        "Servers do not exchange caches.",
    ),
    row(
        "ec_transfer_params",
        VLLM,
        NONE,
        "Servers do not exchange caches.",
    ),
    row(
        "vllm_xargs",
        VLLM,
        Only(&["{}"]),
        "There are no extensions that read them.",
    ),
    row(
        "no_stop_trim",
        SGLANG,
        FALSE,
        "Candor calls it `include_stop_str_in_output`.",
    ),
    row(
        "separate_reasoning",
        SGLANG,
        NONE,
        "POST /v1/chat/completions has it.",
    ),
    row(
        "stream_reasoning",
        SGLANG,
        TRUE,
        "Reasoning is streamed as it is generated.",
    ),
    row(
        "return_hidden_states",
        SGLANG,
        FALSE,
        "POST /v1/embeddings returns vectors of texts.",
    ),
    row(
        "return_routed_experts",
        SGLANG,
        FALSE,
        "Experts are not returned.",
    ),
    row(
        "routed_experts_start_len",
        SGLANG,
        ZERO,
        "Experts are not returned.",
    ),
    row(
        "return_cached_tokens_details",
        SGLANG,
        FALSE,
        "The usage of an answer has the cached tokens.",
    ),
    row(
        "return_prompt_token_ids",
        SGLANG,
        FALSE,
        "Candor calls it `return_token_ids`.",
    ),
    row(
        "return_meta_info",
        SGLANG,
        FALSE,
        "`logprobs_detail` tells more of each token. `trace` tells how it was drawn.",
    ),
    row(
        "ebnf",
        SGLANG,
        NONE,
        "Candor has `grammar` (GBNF) and `lark`.",
    ),
    row(
        "stop_regex",
        SGLANG,
        NONE,
        "Candor has `stop`, and `regex` for the whole text.",
    ),
    row("lora_path", SGLANG, NONE, "Candor has `lora`."),
    row(
        "session_params",
        SGLANG,
        Only(&["{}"]),
        "There are no sessions: the cache finds what requests have in common.",
    ),
    row(
        "custom_params",
        SGLANG,
        Only(&["{}"]),
        "There are no custom processors.",
    ),
    row(
        "custom_logit_processor",
        SGLANG,
        NONE,
        "There are no custom processors. Candor has `logit_bias`.",
    ),
    row("sampling_seed", SGLANG, NONE, "Candor calls it `seed`."),
    row(
        "input_ids",
        SGLANG,
        NONE,
        "Token ids are a `prompt` of POST /v1/completions.",
    ),
    row("use_audio_in_video", SGLANG, FALSE, "Only text is read."),
    row("images_config", SGLANG, Only(&["{}"]), "Only text is read."),
    row(
        "data_parallel_rank",
        SGLANG,
        NONE,
        "This server has one engine for each model.",
    ),
    // llama-server.
    row(
        "n_predict",
        LLAMA,
        NONE,
        "Candor calls it `max_tokens`. This route calls it `max_output_tokens`.",
    ),
    alias(
        "logprobs",
        row(
            "n_probs",
            LLAMA,
            ZERO,
            "Candor calls it `logprobs`. `top_logprobs` says how many tokens each position has.",
        ),
    ),
    alias(
        "logprobs_mode",
        row(
            "post_sampling_probs",
            LLAMA,
            FALSE,
            "Candor has `logprobs_mode: \"sampled\"`.",
        ),
    ),
    row(
        "return_tokens",
        LLAMA,
        FALSE,
        "Candor calls it `return_token_ids`.",
    ),
    alias("n", row("n_cmpl", LLAMA, ONE, "Candor calls it `n`.")),
    // 0 would turn off what the settings may turn on.
    row("mirostat", LLAMA, NONE, "Candor calls it `mirostat_mode`."),
    row(
        "repeat_last_n",
        LLAMA,
        Only(&["64"]),
        "`repeat_penalty` looks back on 64 tokens, `repetition_penalty` on all.",
    ),
    row(
        "min_keep",
        LLAMA,
        Only(&["0", "1"]),
        "Each cut keeps at least one token.",
    ),
    // Nothing of a prompt is dropped while text is generated, and which slot computes an answer does not change it.
    row("n_keep", LLAMA, Any, ""),
    row("n_discard", LLAMA, Any, ""),
    row("id_slot", LLAMA, Any, ""),
    row(
        "slot_id",
        LLAMA,
        Only(&["-1"]),
        "llama-server calls it `id_slot`, which has no effect.",
    ),
    row("image_data", LLAMA, Only(&["[]"]), "Only text is read."),
    row("tfs_z", LLAMA, ONE, "There is no such sampler."),
    row(
        "reasoning_format",
        LLAMA,
        Only(&["\"none\""]),
        "POST /v1/chat/completions has it.",
    ),
    row(
        "n_indent",
        LLAMA,
        ZERO,
        "A `grammar` can say how lines begin.",
    ),
    row(
        "n_cache_reuse",
        LLAMA,
        ZERO,
        "The cache reuses what a prompt begins with.",
    ),
    row(
        "t_max_predict_ms",
        LLAMA,
        ZERO,
        "`max_tokens` limits an answer. `max_output_tokens` does on POST /v1/responses.",
    ),
    row(
        "timings_per_token",
        LLAMA,
        FALSE,
        "GET /metrics has latencies.",
    ),
    row(
        "return_progress",
        LLAMA,
        FALSE,
        "GET /metrics has the tokens evaluated.",
    ),
    row(
        "response_fields",
        LLAMA,
        Only(&["[]"]),
        "Answers have all of their fields.",
    ),
    row(
        "penalize_nl",
        LLAMA,
        TRUE,
        "Penalties apply to line ends, too. `logit_bias` can favour them.",
    ),
    row("sse_ping_interval", LLAMA, Any, ""),
    row(
        "adaptive_target",
        LLAMA,
        Only(&["-1"]),
        "There is no such sampler.",
    ),
    row(
        "parse_tool_calls",
        LLAMA,
        TRUE,
        "With `tool_choice: \"none\"` calls are not looked for.",
    ),
    row(
        "reasoning_budget_tokens",
        LLAMA,
        Only(&["-1"]),
        "`max_tokens` limits reasoning and answer together. `max_output_tokens` does on POST /v1/responses.",
    ),
    // Names of the same that other servers and libraries use.
    alias(
        "n",
        row("best_of", OPENAI, ONE, "POST /v1/completions has it."),
    ),
    row(
        "max_new_tokens",
        OTHERS,
        NONE,
        "Candor calls it `max_tokens`. This route calls it `max_output_tokens`.",
    ),
    row(
        "num_predict",
        OTHERS,
        NONE,
        "Candor calls it `max_tokens`. This route calls it `max_output_tokens`.",
    ),
    row(
        "num_beams",
        OTHERS,
        ONE,
        "There is no beam search. `best_of` returns the best of several.",
    ),
    row(
        "do_sample",
        OTHERS,
        NONE,
        "Candor has `temperature`: 0 is greedy.",
    ),
    row("stop_sequences", OTHERS, NONE, "Candor calls it `stop`."),
    row("stopping_strings", OTHERS, NONE, "Candor calls it `stop`."),
    // 1 would turn off what the settings may turn on.
    row(
        "rep_pen",
        OTHERS,
        NONE,
        "Candor has `repetition_penalty`, and `repeat_penalty` for the last 64 tokens.",
    ),
];

/// Fields within others, by their paths without indices.
pub const NESTED: &[Neutral] = &[
    // What OpenAI's answers have, and clients send back.
    row("messages.annotations", OPENAI, Any, ""),
    row("messages.content.annotations", OPENAI, Any, ""),
    row("messages.tool_calls.index", OPENAI, Any, ""),
    // Where a cache may end: this server finds what requests have in common by itself.
    row("messages.content.prompt_cache_breakpoint", OPENAI, Any, ""),
    row("messages.cache_control", ANTHROPIC, Any, ""),
    row("messages.content.cache_control", ANTHROPIC, Any, ""),
    row("tools.cache_control", ANTHROPIC, Any, ""),
    row("tools.function.cache_control", ANTHROPIC, Any, ""),
    // What LiteLLM keeps of other providers' answers.
    row("messages.provider_specific_fields", LITELLM, Any, ""),
    row(
        "messages.tool_calls.provider_specific_fields",
        LITELLM,
        Any,
        "",
    ),
    row(
        "messages.tool_calls.function.provider_specific_fields",
        LITELLM,
        Any,
        "",
    ),
    // OpenAI pads events against traffic analysis.
    row("stream_options.include_obfuscation", OPENAI, Any, ""),
    row(
        "structured_outputs.disable_any_whitespace",
        VLLM,
        FALSE,
        "The schema says what white space there is.",
    ),
    row(
        "structured_outputs.disable_additional_properties",
        VLLM,
        FALSE,
        "The schema says it: `\"additionalProperties\": false`.",
    ),
    row(
        "structured_outputs.disable_fallback",
        VLLM,
        Only(&["true", "false"]),
        "",
    ),
];

impl Neutral {
    /// Whether this value changes nothing.
    pub fn takes(&self, value: &Value) -> bool {
        match self.taken {
            Any => true,
            Only(_) => self.values().iter().any(|taken| equal(taken, value)),
        }
    }

    /// The values that change nothing, if not all do.
    pub fn values(&self) -> Vec<Value> {
        let texts = match self.taken {
            Any => &[],
            Only(texts) => texts,
        };
        let values = texts.iter().map(|text| serde_json::from_str(text));
        values.filter_map(Result::ok).collect()
    }

    /// Whether all values are taken.
    pub fn takes_any(&self) -> bool {
        matches!(self.taken, Any)
    }

    /// What to say of it on a route that has these fields, after a space: sentences in which another field is named are left
    /// out, unless they say which route has it.
    pub fn hint(&self, knows: impl Fn(&str) -> bool) -> String {
        let sentences = self.otherwise.split_inclusive(". ").map(str::trim_end);
        let fitting = sentences.filter(|sentence| {
            let mut names = sentence.split('`').skip(1).step_by(2).map(|code| {
                let end = code.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                &code[..end.unwrap_or(code.len())]
            });
            sentence.contains(" /v1/") || names.all(&knows)
        });
        let spaced = fitting.filter(|sentence| !sentence.is_empty());
        spaced.map(|sentence| format!(" {sentence}")).collect()
    }

    /// The values at which it is taken, in words; `None` if there are none.
    pub fn allowed(&self) -> Option<String> {
        match self.taken {
            Any | Only([]) => None,
            Only(texts) => Some(format!("{}, which has no effect", texts.join(" or "))),
        }
    }
}

/// Whether JSON means the same: 1 and 1.0 are equal.
pub fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        _ => one == other,
    }
}

/// What is known of a field that a route does not read.
pub fn find(name: &str) -> Option<&'static Neutral> {
    NEUTRAL.iter().find(|neutral| neutral.name == name)
}

/// Whether a field within another, which is at this place, changes nothing: it is null, or has a value at which it never
/// does.
pub fn is_neutral_within(place: &str, name: &str, value: &Value) -> bool {
    value.is_null() || {
        let pieces = place.split(['[', ']']).step_by(2);
        let path = pieces.chain([".", name]).collect::<String>();
        let known = NESTED.iter().find(|neutral| neutral.name == path);
        known.is_some_and(|neutral| neutral.takes(value))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_that_change_nothing() {
        let check = |name: &str, value: Value, expect: bool| {
            let takes = find(name).is_some_and(|neutral| neutral.takes(&value));
            assert_eq!(takes, expect, "{name}: {value}");
        };
        check("user", json!({"any": "thing"}), true);
        check("length_penalty", json!(1), true);
        check("length_penalty", json!(1.0), true);
        check("length_penalty", json!(1.2), false);
        check("use_beam_search", json!(false), true);
        check("use_beam_search", json!(0), false);
        check("modalities", json!(["text"]), true);
        check("modalities", json!(["text", "audio"]), false);
        check("verbosity", json!("medium"), true);
        check("n_predict", json!(-1), false);
        check("nobody_has_it", json!(0), false);
        let nested = |place: &str, name: &str, value| is_neutral_within(place, name, &value);
        assert!(nested("stream_options", "include_obfuscation", json!(true)));
        assert!(!nested("stream_options", "other", json!(true)));
        assert!(nested("stream_options", "other", json!(null)));
        assert!(nested(
            "messages[12].content[3]",
            "cache_control",
            json!({})
        ));
        assert!(nested("tools[0]", "cache_control", json!({})));
        assert!(!nested("messages[12].content", "colour", json!({})));
    }

    #[test]
    fn hints_name_only_fields_that_a_route_has() {
        let check = |name: &str, has: &[&str], expect: &str| {
            let hint = find(name).expect(name).hint(|name| has.contains(&name));
            assert_eq!(hint, expect, "{name}");
        };
        check("n_predict", &[], "");
        let own = " Candor calls it `max_tokens`.";
        check("n_predict", &["max_tokens"], own);
        let of_responses = " This route calls it `max_output_tokens`.";
        check("n_predict", &["max_output_tokens"], of_responses);
        check("max_tokens", &["max_output_tokens"], of_responses);
        check("use_beam_search", &[], " There is no beam search.");
        check("echo", &[], " POST /v1/completions has it.");
        let sampled = " Candor has `logprobs_mode: \"sampled\"`.";
        check("post_sampling_probs", &["logprobs_mode"], sampled);
    }

    #[test]
    fn each_row_is_of_its_own_and_whole() {
        let mut names: Vec<&str> = Vec::new();
        for neutral in NEUTRAL.iter().chain(NESTED) {
            assert!(
                !names.contains(&neutral.name),
                "{} is there twice",
                neutral.name
            );
            names.push(neutral.name);
            if let Only(texts) = neutral.taken {
                assert_eq!(neutral.values().len(), texts.len(), "{}", neutral.name);
                // Of a boolean both may be taken.
                let all = texts == ["true", "false"];
                let sentence = neutral.otherwise.ends_with('.');
                assert!(sentence || all, "{} says nothing", neutral.name);
            }
        }
    }
}
