//! The answer of `POST /v1/completions`, and how deltas add up to it.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::arrays::{CompletionLogprobs, Entry, LogprobsSchema};
use super::prompt::Prompt;
use super::rows::Logits;
use super::trace::TokenTrace;
use crate::api::fork_cache::ForkCache;
use crate::api::gathered::Gathered;
use crate::api::prompt_logprobs::{PromptLogprob, PromptLogprobs};
use crate::api::stream::Show;
use crate::api::token_options::OutputOptions;
use crate::engine::{Delta, ModelInUse, PromptOutput, TokenOutput};

/// One completion, or a piece of one in a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct Choice {
    /// The completion, with `echo` after the prompt; in a stream the next piece of it.
    pub text: String,
    /// The choice's index, from 0; choices of the first prompt come first.
    pub index: usize,
    #[schema(value_type = Option<LogprobsSchema>)]
    pub logprobs: Option<CompletionLogprobs>,
    /// "stop" or "length"; in a stream null until the end.
    pub finish_reason: Option<&'static str>,
    /// With `return_token_ids`: the tokens of the completion; in a stream the next ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<i32>>,
    /// With `return_token_ids`: the prompt's tokens; in a stream only in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<i32>>,
    /// With `prompt_logprobs`: for each of the prompt's tokens an object, id → its log-probability, rank and text; first the
    /// token's own, then those of the most likely tokens. Null for the first token, which nothing predicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<std::collections::BTreeMap<String, PromptLogprob>>>>)]
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// With `trace`: how each token was sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<Vec<TokenTrace>>,
    /// With `logits`: whole rows of logits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<Logits>,
}

/// How the choices of a prompt are shown.
#[derive(Clone)]
pub struct View {
    pub model: ModelInUse,
    pub prompt: Arc<Prompt>,
    pub echo: bool,
    pub options: Arc<OutputOptions>,
    /// Characters before the completion.
    pub base: usize,
}

impl View {
    pub fn new(
        model: ModelInUse,
        prompt: Arc<Prompt>,
        echo: bool,
        options: Arc<OutputOptions>,
    ) -> Self {
        let base = if echo && options.logprobs.is_some() {
            prompt.offsets(model.vocab()).last().copied().unwrap_or(0)
        } else {
            prompt.text.chars().count()
        };
        Self {
            model,
            prompt,
            echo,
            options,
            base,
        }
    }

    /// The echoed prompt's entries.
    fn prompt_entries(&self, output: &PromptOutput) -> Vec<Entry> {
        let spec = self.options.logprobs.as_ref().filter(|_| self.echo);
        if spec.is_none() {
            return Vec::new();
        }
        let offsets = self.prompt.offsets(self.model.vocab());
        let first = self.prompt.first_entry;
        let unscored = self.prompt.tokens.len() - output.logprobs.len();
        (first..self.prompt.tokens.len())
            .map(|place| Entry {
                token: self.prompt.tokens[place],
                offset: offsets[place],
                // The arrays begin with null, as in OpenAI's API.
                score: if place == first {
                    None
                } else {
                    let scored = place.checked_sub(unscored);
                    let score = scored.and_then(|scored| output.logprobs.get(scored));
                    // `prompt_logprobs` may have asked for more.
                    score.zip(spec).map(|(score, spec)| score.narrowed(spec))
                },
                observed: None,
            })
            .collect()
    }

    fn entry(&self, output: &TokenOutput) -> Entry {
        Entry {
            token: output.token,
            offset: self.base + output.offset,
            score: output.details.logprob.clone(),
            observed: output.details.observed.clone(),
        }
    }

    /// A complete choice.
    pub fn choice(&self, index: usize, gathered: &Gathered) -> Choice {
        let echoed = Some(self.prompt.text.as_str()).filter(|_| self.echo);
        let text = echoed.into_iter().chain(gathered.text()).collect();
        let mut entries = self.prompt_entries(&gathered.prompt);
        entries.extend(gathered.tokens.iter().map(|output| self.entry(output)));
        let mut choice = self.piece(index, text, entries);
        choice.finish_reason = Some(gathered.reason.as_str());
        self.add_details(&mut choice, Some(&gathered.prompt), 0, &gathered.tokens);
        choice
    }

    /// Adds output beyond text and arrays: for the prompt, if it is given, and for generated tokens, which `before` others
    /// precede.
    fn add_details(
        &self,
        choice: &mut Choice,
        prompt: Option<&PromptOutput>,
        before: usize,
        tokens: &[TokenOutput],
    ) {
        let OutputOptions {
            token_ids,
            watch,
            rows,
            prompt_logprobs,
            ..
        } = &*self.options;
        if *token_ids {
            choice.token_ids = Some(tokens.iter().map(|output| output.token.0).collect());
            let ids = prompt.map(|_| self.prompt.tokens.iter().map(|token| token.0).collect());
            choice.prompt_token_ids = ids;
        }
        if let (Some(top), Some(output)) = (prompt_logprobs, prompt) {
            let (model, length) = (&self.model, self.prompt.tokens.len());
            choice.prompt_logprobs = Some(PromptLogprobs::new(model, *top, length, output));
        }
        if watch.trace.is_some() {
            let traces = tokens.iter();
            let traces = traces.filter_map(|output| TokenTrace::of(output, self.model.vocab()));
            choice.trace = Some(traces.collect());
        }
        if let Some(rows) = rows {
            let of_prompt = prompt.into_iter().flat_map(|output| &output.rows);
            let of_prompt = of_prompt.map(|(position, row)| (*position, row));
            let first = self.prompt.tokens.len() + before;
            let generated = (first..).zip(tokens);
            let generated = generated
                .filter_map(|(position, output)| Some((position, output.details.row.as_ref()?)));
            let all = of_prompt.chain(generated);
            let vocabulary = self.model.vocab().len();
            choice.logits = Some(Logits::new(rows.number, vocabulary, all));
        }
    }

    /// A choice with text and arrays alone.
    fn piece(&self, index: usize, text: String, entries: Vec<Entry>) -> Choice {
        let logprobs = self.options.logprobs.as_ref();
        Choice {
            text,
            index,
            logprobs: logprobs.map(|_| CompletionLogprobs {
                model: self.model.clone(),
                options: Arc::clone(&self.options),
                entries,
            }),
            finish_reason: None,
            token_ids: None,
            prompt_token_ids: None,
            prompt_logprobs: None,
            trace: None,
            logits: None,
        }
    }
}

/// A choice that is streamed.
pub struct Streamed {
    /// The answer's id, by which it can be forked.
    pub id: Arc<str>,
    pub fork_cache: ForkCache,
    pub index: usize,
    pub view: View,
    /// Tokens shown so far.
    pub generated: usize,
}

impl Show for Streamed {
    type Piece = Choice;

    fn show(&mut self, delta: Delta) -> Vec<Choice> {
        let (index, view) = (self.index, &self.view);
        let options = &view.options;
        if let Delta::Token(output) = &delta
            && !view.model.vocab().is_end(output.token)
        {
            self.fork_cache.extend(&self.id, index, output.token);
        }
        let piece = match delta {
            Delta::Prompt(output) if view.echo || options.token_ids || !output.rows.is_empty() => {
                let text = if view.echo {
                    view.prompt.text.clone()
                } else {
                    String::new()
                };
                let mut piece = view.piece(index, text, view.prompt_entries(&output));
                view.add_details(&mut piece, Some(&output), 0, &[]);
                piece
            }
            Delta::Token(mut output) if options.of_each_token() || !output.text.is_empty() => {
                let text = std::mem::take(&mut output.text);
                let mut piece = view.piece(index, text, vec![view.entry(&output)]);
                view.add_details(&mut piece, None, self.generated, &[output]);
                self.generated += 1;
                piece
            }
            Delta::Finished(reason) => Choice {
                finish_reason: Some(reason.as_str()),
                logprobs: None,
                ..view.piece(index, String::new(), Vec::new())
            },
            _ => return Vec::new(),
        };
        vec![piece]
    }
}
