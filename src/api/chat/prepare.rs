//! A checked conversation becomes sequences.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::answer::View;
use super::at_fault::at_fault;
use super::effort;
use super::prompt::render;
use super::request::ChatRequest;
use super::writes::{Continued, Writes};
use crate::api::bounds::{Entries, Room};
use crate::api::completions::Prompt;
use crate::api::error::ApiError;
use crate::api::fields::Fields;
use crate::api::generate::{Generate, Wanted};
use crate::api::input::Tokenising;
use crate::api::receipt::{PendingReceipt, ReceiptRoute};
use crate::api::run::Prepared;
use crate::api::served::Served;
use crate::engine::Rows;
use crate::logprobs::LogprobSpec;
use crate::model::Token;

/// What an answer needs to know about its request.
pub struct Asked {
    pub generate: Arc<Generate>,
    pub view: View,
    pub prompt: Arc<[Token]>,
}

/// Checks a request and renders its conversation: CPU work, of milliseconds if that is long.
pub fn prepare(body: Map<String, Value>, served: &Served) -> Result<Prepared<Asked>, ApiError> {
    let receipt = PendingReceipt::new(ReceiptRoute::Chat, &body);
    let request = ChatRequest::read(&mut Fields::new(body), served)?;
    prepare_request(request, receipt, 1, served)
}

/// Renders the conversation of a checked request, whose answer is to have each token so many `times`.
pub fn prepare_request(
    request: ChatRequest,
    receipt: Option<PendingReceipt>,
    times: usize,
    served: &Served,
) -> Result<Prepared<Asked>, ApiError> {
    let ChatRequest {
        conversation,
        max_tokens,
        keeps,
        options,
        tool_choice,
        parallel_tool_calls: several,
        splits_reasoning,
        mut generate,
    } = request;
    let (names, effort) = (conversation.names, conversation.effort);
    let room = Room {
        param: names.messages,
        max_tokens,
    };
    let tools = conversation.tools.clone();
    let continued = Continued::of(&conversation);
    let rendered = render(conversation, served)?;
    let writes = Writes::new(&rendered, &tools, continued, served, splits_reasoning);
    let is_told = effort::is_known(&rendered.template);
    if effort == Some("none") && writes.expects_reasoning(is_told) {
        effort::check_none(names.effort, served.config.server.unknown_fields)?;
    }
    let text = rendered.text;
    let tokenising = Tokenising {
        added: rendered.added,
        keeps,
    };
    tokenising.check_text(text.as_str(), room, served)?;
    let prompt = Prompt::of_text(&text, tokenising, served.model.vocab());
    let max_tokens = room.after(prompt.tokens.len(), served)?;
    // A receipt has them, whether the answer shows them or not.
    let scored = options.logprobs.clone();
    let scored = scored.or(generate.receipt.then(LogprobSpec::default));
    let length = prompt.tokens.len();
    let mut entries = Entries::default();
    let tokens = max_tokens * generate.n * times;
    entries.add(tokens, options.alternatives(), served)?;
    if let Some(top) = options.prompt_logprobs {
        entries.add(length, top, served)?;
    }
    let options = Arc::new(options);
    let view = View {
        model: served.model.clone(),
        options: Arc::clone(&options),
        expects: Arc::new(writes.expects(&tools, &tool_choice, several, &generate)),
    };
    writes.constrain(&mut generate, &tool_choice, &tools, several, served)?;
    let wanted = Wanted {
        prompt: Arc::clone(&prompt.tokens),
        forced_prefix: Arc::default(),
        forced_token: None,
        max_tokens,
        logprobs: scored,
        prompt_logprobs: options.prompt_logprobs(false, length, 1),
        rows: Rows::None,
        watch: options.watch.clone(),
        sequences: generate.n,
        deliver_end_token: false,
    };
    let sequences = generate.sequences(vec![wanted], served);
    let sequences = sequences.map_err(|error| match error.param.as_deref() {
        Some("tool_choice" | "tools") => {
            at_fault(&tools, &tool_choice, &writes, names, served).unwrap_or(error)
        }
        _ => error,
    })?;
    let generate = Arc::new(generate);
    Ok(Prepared {
        sequences,
        entries,
        adapters: generate.adapters.clone(),
        exact: generate.exact,
        receipt: receipt.map(|pending| (pending, Arc::clone(&generate))),
        asked: Asked {
            generate,
            view,
            prompt: prompt.tokens,
        },
    })
}
