//! The output of a generation, collected.

use futures::StreamExt;

use super::error::ApiError;
use crate::engine::{
    Delta, EngineError, FinishReason, Generation, PromptOutput, Report, TokenOutput,
};

/// All output of a generation.
#[derive(Debug)]
pub struct Gathered {
    pub prompt: PromptOutput,
    pub tokens: Vec<TokenOutput>,
    /// If the request asks for it.
    pub report: Report,
    pub reason: FinishReason,
}

impl Gathered {
    /// What `best_of` ranks by, in nats; without tokens the highest possible, 0.
    pub fn mean_logprob(&self) -> f64 {
        let logprobs = self
            .tokens
            .iter()
            .filter_map(|token| token.details.logprob.as_ref());
        let sum: f64 = logprobs.map(|score| f64::from(score.logprob)).sum();
        if self.tokens.is_empty() {
            0.0
        } else {
            sum / self.tokens.len() as f64
        }
    }

    /// The text of its tokens.
    pub fn text(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().map(|token| token.text.as_str())
    }
}

/// Waits for a generation to end.
pub async fn gather(mut generation: Generation) -> Result<Gathered, ApiError> {
    let mut gathered = Gathered {
        prompt: PromptOutput {
            cached_tokens: 0,
            logprobs: Vec::new(),
            rows: Vec::new(),
        },
        tokens: Vec::new(),
        report: Report::default(),
        reason: FinishReason::Stop,
    };
    while let Some(delta) = generation.next().await {
        match delta {
            Delta::Prompt(output) => gathered.prompt = output,
            Delta::Token(output) => gathered.tokens.push(output),
            Delta::Report(report) => gathered.report = report,
            Delta::Finished(reason) => {
                gathered.reason = reason;
                return Ok(gathered);
            }
            Delta::Failed(error) => return Err(error.into()),
        }
    }
    Err(EngineError::Decode.into())
}

/// A logprob as JSON can hold it: minus infinity becomes -9999, which no finite logit of a model comes near.
pub fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() {
        logprob
    } else {
        -9999.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn infinities_are_written_as_numbers() {
        assert_eq!(finite(f32::NEG_INFINITY), -9999.0);
        assert_eq!(finite(-3.5), -3.5);
    }
}
