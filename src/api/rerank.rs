//! `POST /v1/rerank`: how relevant documents are to a query, by a model that ranks texts.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::body::JsonObject;
use super::bounds::Entries;
use super::client::Client;
use super::error::ApiError;
use super::fields::{Fields, wrong};
use super::nested::Nested;
use super::served::{Served, model_field};
use super::state::{AppState, Route};
use super::wording::counted;
use crate::model::{Added, MarkedText, Token, UnusedMark, Vocab};

/// llama-server's other names for the path.
const ALIASES: &[&str] = &["/v1/reranking", "/rerank", "/reranking"];
const DOCUMENTS: &str = "documents";

pub fn route() -> Route {
    let about = "Ranks documents by their relevance to a query, with a reranker.";
    Route::post("/v1/rerank", post(create), about, |served| {
        let sample = json!({"query": "a", "documents": ["b"]});
        Fields::describe(sample, |fields| read(fields, served))
    })
    .also_at(ALIASES)
    .answers::<Ranking>()
}

async fn create(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: JsonObject,
) -> Result<Response, ApiError> {
    let (served, Pairs { request, texts }) = state.prepare(body.0, prepare).await?;
    let RerankRequest {
        documents, top_n, ..
    } = request;
    let tokens = texts.iter().map(|text| text.len()).sum();
    let engine = &served.engine;
    let scores = engine.rank(client.name, client.arrived, texts).await?;
    let mut results: Vec<Ranked> = scores
        .into_iter()
        .zip(documents)
        .enumerate()
        .map(|(index, (relevance_score, text))| Ranked {
            index,
            relevance_score,
            document: request.return_documents.then_some(Document { text }),
        })
        .collect();
    // A stable sort: among equals the earlier one stays first.
    results.sort_by(|a, b| b.relevance_score.total_cmp(&a.relevance_score));
    results.truncate(top_n);
    let entries = Entries(results.len());
    let ranking = Ranking {
        object: "list",
        results,
        model: served.name,
        usage: RankingUsage {
            prompt_tokens: tokens,
            total_tokens: tokens,
        },
    };
    state.respond(ranking, &entries).await
}

/// A request as its sender wrote it, checked.
struct RerankRequest {
    query: String,
    documents: Vec<String>,
    top_n: usize,
    return_documents: bool,
}

/// A request, and the query with each of its documents.
struct Pairs {
    request: RerankRequest,
    texts: Vec<Arc<[Token]>>,
}

/// Reads the fields. The documentation of the route is generated from here, too.
fn read(fields: &mut Fields, served: &Served) -> Result<RerankRequest, ApiError> {
    model_field(fields)?;
    served.refuse_adapter(
        "model",
        "Documents are ranked with the adapters that the settings switch on: send the model's own name.",
    )?;
    let query = fields
        .field("query", "What the documents are to be relevant to.")
        .required()
        .string()?
        .ok_or_else(|| ApiError::field("query", "`query` is missing: it must be a string."))?;
    let most = served.config.limits.prompts;
    let documents = documents(fields, most)?;
    let top_n = fields
        .field(
            "top_n",
            "How many results to return, the most relevant first. Absent: all.",
        )
        .count(1..=u32::MAX as usize)?
        .unwrap_or(documents.len());
    let return_documents = fields
        .field(
            "return_documents",
            "Whether each result has its document, too.",
        )
        .boolean(false)?;
    fields.refuse_others(served.config.server.unknown_fields)?;
    Ok(RerankRequest {
        query,
        documents,
        top_n,
        return_documents,
    })
}

/// Strings, or objects with a `text`.
fn documents(fields: &mut Fields, most: usize) -> Result<Vec<String>, ApiError> {
    let allowed = format!("an array of 1 to {}", counted(most, "string"));
    let value = fields
        .field(DOCUMENTS, "The texts to rank, as strings or as objects with a `text`.")
        .required()
        .value(|| {
            let object = json!({"type": "object", "required": ["text"], "additionalProperties": false,
                "properties": {"text": {"type": "string"}}});
            json!({"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "string"}, object]}})
        })
        .ok_or_else(|| {
            let message = format!("`{DOCUMENTS}` is missing: it must be {allowed}.");
            ApiError::field(DOCUMENTS, message)
        })?;
    let items = match value {
        Value::Array(items) if (1..=most).contains(&items.len()) => items,
        other => return Err(wrong(DOCUMENTS, &allowed, &other)),
    };
    let documents = items.into_iter().enumerate().map(|(place, item)| {
        let place = format!("{DOCUMENTS}[{place}]");
        if let Value::String(text) = item {
            return Ok(text);
        }
        let allowed = "a string, or an object with only a `text`";
        let mut document = Nested::within(DOCUMENTS, place, allowed, item)?;
        let text = document.required("text")?;
        document.end_with("`text`", fields);
        Ok(text)
    });
    documents.collect()
}

/// Maximum number of tokens of a query and a document together.
pub fn most_tokens(served: &Served) -> Result<usize, ApiError> {
    let tokens = served.engine.rank_tokens()?;
    Ok(match served.config.limits.prompt_tokens {
        0 => tokens,
        limit => tokens.min(limit),
    })
}

/// Checks a request and tokenizes each document with the query: CPU work, of milliseconds if a text is long.
fn prepare(body: Map<String, Value>, served: &Served) -> Result<Pairs, ApiError> {
    let most = most_tokens(served)?;
    let request = read(&mut Fields::new(body), served)?;
    let too_long = |least: &str, tokens: usize, place: usize| {
        ApiError::field(
            DOCUMENTS,
            format!(
                "A query and a document together can have at most {most} tokens. However, with the document at index \
                 {place} of `{DOCUMENTS}` they have {least}{tokens} tokens. Please shorten it."
            ),
        )
        .code("context_length_exceeded")
    };
    let (vocab, query) = (served.model.vocab(), &request.query);
    let template = served.model.rank_template();
    let texts = request
        .documents
        .iter()
        .enumerate()
        .map(|(place, document)| {
            let least = vocab.least_tokens(query) + vocab.least_tokens(document);
            if least > most {
                return Err(too_long("at least ", least, place));
            }
            let tokens = match &template {
                Some(template) => by_template(template, query, document, vocab),
                None => vocab.tokenize_pair(query, document),
            };
            match tokens.len() {
                0 => Err(ApiError::field(
                    "query",
                    "`query` and a document are both empty.",
                )),
                length if length > most => Err(too_long("", length, place)),
                _ => Ok(tokens.into()),
            }
        });
    let texts = texts.collect::<Result<_, _>>()?;
    Ok(Pairs { request, texts })
}

/// The tokens of a template that has `{query}` and `{document}`. Names of control tokens in these stay text, as far as there
/// is a character to mark them with.
fn by_template(template: &str, query: &str, document: &str, vocab: &Vocab) -> Vec<Token> {
    let mut unused = UnusedMark::default();
    [template, query, document]
        .iter()
        .for_each(|text| unused.look_at(text));
    let mark = unused.find().unwrap_or('\u{f8ff}');
    let marked = |text: &str| vocab.marked(text, mark).unwrap_or_else(|| text.to_owned());
    // The document last: it may have the other's name.
    let text: String = template
        .split("{document}")
        .map(|part| part.replace("{query}", &marked(query)))
        .collect::<Vec<_>>()
        .join(&marked(document));
    vocab.tokenize_marked(&MarkedText::new(&text, mark), Added::Nothing)
}

/// The documents, the most relevant first.
#[derive(Debug, Serialize, ToSchema)]
struct Ranking {
    /// Always "list".
    object: &'static str,
    results: Vec<Ranked>,
    /// The name that the client used.
    model: String,
    usage: RankingUsage,
}

#[derive(Debug, Serialize, ToSchema)]
struct Ranked {
    /// The document's index in `documents`.
    index: usize,
    /// What the model gives for query and document: the higher, the more relevant. Most models give any number, some a
    /// probability.
    relevance_score: f32,
    /// With `return_documents`.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<Document>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Document {
    text: String,
}

/// Tokens used.
#[derive(Debug, Serialize, ToSchema)]
struct RankingUsage {
    /// Tokens of all documents, each with the query.
    prompt_tokens: usize,
    /// The same number.
    total_tokens: usize,
}
