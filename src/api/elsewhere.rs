//! What a 404 says of paths that other servers have: where this one has the same.

/// Routes of other servers, each with whose it is and what to use here.
const ROUTES: &[(&str, &str, &str)] = &[
    ("/api/generate", "Ollama", "Use POST /v1/completions."),
    ("/api/chat", "Ollama", "Use POST /v1/chat/completions."),
    ("/api/embed", "Ollama", "Use POST /v1/embeddings."),
    ("/api/embeddings", "Ollama", "Use POST /v1/embeddings."),
    ("/api/tags", "Ollama", "Use GET /v1/models."),
    ("/api/show", "Ollama", "Use GET /v1/models."),
    ("/api/ps", "Ollama", "Use GET /v1/models."),
    (
        "/api/version",
        "Ollama",
        "GET /openapi.json has the version.",
    ),
    ("/api/v1/generate", "KoboldCpp", "Use POST /v1/completions."),
    ("/api/v1/model", "KoboldCpp", "Use GET /v1/models."),
    (
        "/api/extra/generate/stream",
        "KoboldCpp",
        "Use POST /v1/completions with `stream`.",
    ),
    ("/api/extra/tokencount", "KoboldCpp", "Use POST /tokenize."),
    (
        "/v1/internal/model/info",
        "text-generation-webui",
        "Use GET /v1/models.",
    ),
    (
        "/v1/internal/encode",
        "text-generation-webui",
        "Use POST /tokenize.",
    ),
    (
        "/v1/internal/decode",
        "text-generation-webui",
        "Use POST /detokenize.",
    ),
    (
        "/v1/internal/token-count",
        "text-generation-webui",
        "Use POST /tokenize.",
    ),
    (
        "/v1/internal/logits",
        "text-generation-webui",
        "Use POST /v1/completions with `logprobs` or `logits`.",
    ),
    ("/v1/token/encode", "TabbyAPI", "Use POST /tokenize."),
    ("/v1/token/decode", "TabbyAPI", "Use POST /detokenize."),
    ("/v1/model/list", "TabbyAPI", "Use GET /v1/models."),
    (
        "/generate",
        "vLLM, SGLang and TGI",
        "Use POST /v1/completions.",
    ),
    (
        "/generate_stream",
        "TGI",
        "Use POST /v1/completions with `stream`.",
    ),
    ("/info", "TGI", "Use GET /v1/models."),
    (
        "/inference/v1/generate",
        "vLLM",
        "Use POST /v1/completions: `prompt` may be token ids, and `return_token_ids` returns some.",
    ),
    ("/v1/completions/render", "vLLM", "Use POST /tokenize."),
    (
        "/v1/chat/completions/render",
        "vLLM",
        "Use POST /apply-template or POST /tokenize.",
    ),
    ("/pooling", "vLLM", "Use POST /v1/embeddings."),
    (
        "/classify",
        "vLLM",
        "Use POST /v1/score, which scores given answers.",
    ),
    ("/version", "vLLM", "GET /openapi.json has the version."),
    ("/load", "vLLM", "GET /metrics has the load."),
    ("/ping", "vLLM", "Use GET /health."),
    ("/health_generate", "SGLang", "Use GET /health."),
    ("/server_info", "SGLang", "Use GET /v1/models."),
    ("/get_server_info", "SGLang", "Use GET /v1/models."),
    ("/model_info", "SGLang", "Use GET /v1/models."),
    ("/get_model_info", "SGLang", "Use GET /v1/models."),
    (
        "/v1/load_lora_adapter",
        "vLLM",
        "The setting `model.lora` loads adapters, and `lora` in a request applies them.",
    ),
    (
        "/load_lora_adapter",
        "SGLang",
        "The setting `model.lora` loads adapters, and `lora` in a request applies them.",
    ),
    ("/embedding", "llama-server", "Use POST /v1/embeddings."),
    (
        "/slots",
        "llama-server",
        "GET /metrics counts running and waiting requests.",
    ),
    (
        "/v1/fim/completions",
        "Mistral",
        "Use POST /v1/completions with `prompt` and `suffix`.",
    ),
    (
        "/v1/messages",
        "Anthropic",
        "Use POST /v1/chat/completions.",
    ),
    ("/v1/complete", "Anthropic", "Use POST /v1/completions."),
    ("/v1/edits", "OpenAI", "Use POST /v1/chat/completions."),
    ("/healthz", "Kubernetes", "Use GET /health."),
    ("/livez", "Kubernetes", "Use GET /health."),
    ("/readyz", "Kubernetes", "Use GET /health."),
];

/// What paths begin with, likewise; the rest may be anything.
const FAMILIES: &[(&str, &str, &str)] = &[
    (
        "/v1/engines/",
        "OpenAI",
        "Use POST /v1/completions; `model` names the model.",
    ),
    (
        "/v1/audio/",
        "OpenAI",
        "Candor reads and generates text only.",
    ),
    (
        "/v1/images/",
        "OpenAI",
        "Candor reads and generates text only.",
    ),
    (
        "/v1/realtime",
        "OpenAI",
        "Candor reads and generates text only; `stream` sends it as it is generated.",
    ),
    ("/v1/moderations", "OpenAI", "Nothing is moderated."),
    (
        "/v1/files",
        "OpenAI",
        "Nothing is stored: send each request with all that it needs.",
    ),
    (
        "/v1/batches",
        "OpenAI",
        "Send the requests themselves: they are computed together.",
    ),
    (
        "/v1/assistants",
        "OpenAI",
        "Nothing is stored: send each conversation to POST /v1/chat/completions.",
    ),
    (
        "/v1/threads",
        "OpenAI",
        "Nothing is stored: send each conversation to POST /v1/chat/completions.",
    ),
    (
        "/v1/conversations",
        "OpenAI",
        "Nothing is stored: send each conversation to POST /v1/chat/completions.",
    ),
    ("/v1/fine_tuning", "OpenAI", "Models are not trained here."),
];

/// What to use instead of this path, which is no route; `routes` are those that there are.
pub fn instead<'a>(path: &str, routes: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let path = path.trim_end_matches('/').to_lowercase();
    let whole = ROUTES.iter().find(|(route, ..)| *route == path);
    let family = || FAMILIES.iter().find(|(start, ..)| path.starts_with(start));
    if let Some((_, of, what)) = whole.or_else(family) {
        return Some(format!("It is a route of {of}. {what}"));
    }
    // A base URL that ends too early, or too late: `/chat/completions`, `/v1/v1/models`, `/openai/v1/completions`.
    let ends = path.match_indices('/').map(|(place, _)| &path[place..]);
    let ends = ends.flat_map(|end| [end.to_owned(), format!("/v1{end}")]);
    let mut ends = ends.filter(|end| end.len() > 1);
    let found = ends.find_map(|end| routes.clone().find(|route| *route == end))?;
    let base = if found.starts_with("/v1/") {
        " A client's base URL ends in `/v1`."
    } else {
        ""
    };
    Some(format!("Did you mean `{found}`?{base}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: [&str; 4] = [
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/models",
        "/health",
    ];

    #[test]
    fn what_there_is_instead() {
        let check = |path: &str, expect: Option<&str>| {
            let found = instead(path, HERE.into_iter());
            assert_eq!(found.is_some(), expect.is_some(), "{path} {found:?}");
            let found = found.unwrap_or_default();
            assert!(found.contains(expect.unwrap_or_default()), "{path} {found}");
        };
        check(
            "/api/generate",
            Some("a route of Ollama. Use POST /v1/completions."),
        );
        check("/API/Chat/", Some("/v1/chat/completions"));
        check(
            "/v1/engines/davinci/completions",
            Some("`model` names the model"),
        );
        check("/v1/audio/speech", Some("text only"));
        check("/completions", Some("Did you mean `/v1/completions`?"));
        check(
            "/chat/completions",
            Some("Did you mean `/v1/chat/completions`?"),
        );
        check("/v1/completions/", Some("Did you mean `/v1/completions`?"));
        check("//v1/completions", Some("Did you mean `/v1/completions`?"));
        check("/v1/v1/models", Some("Did you mean `/v1/models`?"));
        check("/v1/health", Some("Did you mean `/health`?"));
        check(
            "/openai/v1/chat/completions",
            Some("Did you mean `/v1/chat/completions`?"),
        );
        check(
            "/openai/deployments/a/chat/completions",
            Some("Did you mean `/v1/chat/completions`?"),
        );
        for nothing in [
            "",
            "/",
            "/v1",
            "/v1/",
            "/nothing",
            "/v1/completions%00",
            "/v1/completions/x",
        ] {
            check(nothing, None);
        }
    }

    #[test]
    fn what_is_named_is_there() {
        let routes = crate::api::routes(&crate::config::Config::default().server);
        for (path, _, what) in ROUTES.iter().chain(FAMILIES) {
            assert!(what.ends_with('.'), "{path} {what}");
            let words = what.split([' ', ':', ';', '`']);
            for named in words.filter(|word| word.starts_with('/')) {
                let named = named.trim_end_matches(['.', ',']);
                assert!(
                    routes.iter().any(|route| route.pattern == named),
                    "{path} names {named}"
                );
            }
            // What became a route is no longer another server's.
            assert!(
                !routes.iter().any(|route| route.pattern == *path),
                "{path} is a route"
            );
        }
    }
}
