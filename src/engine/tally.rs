//! Counts a request's tokens, for the log.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::request::Request;

tokio::task_local! {
    static CURRENT: Arc<Tally>;
}

/// Counts the tokens of what a future submits to the engine, also after the future has completed.
#[derive(Debug, Default)]
pub struct Tally {
    prompt_tokens: AtomicUsize,
    generated_tokens: AtomicUsize,
}

impl Tally {
    /// Runs `work` and counts what it submits.
    pub fn of<F: Future>(self: &Arc<Self>, work: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(Arc::clone(self), work)
    }

    /// The tally of the current task; if there is none, a dummy.
    pub(super) fn current() -> Arc<Self> {
        CURRENT.try_with(Arc::clone).unwrap_or_default()
    }

    /// A prompt counts once, however many choices continue it.
    pub(super) fn submitted(&self, requests: &[Request]) {
        let tokens = requests
            .chunk_by(|one, next| Arc::ptr_eq(&one.prompt, &next.prompt))
            .map(|choices| choices[0].prompt.len() + choices[0].forced_prefix.len())
            .sum();
        self.prompt_tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    pub(super) fn drawn(&self) {
        self.generated_tokens.fetch_add(1, Ordering::Relaxed);
    }

    /// Prompt tokens, and tokens generated so far; `None` if nothing was submitted.
    pub fn read(&self) -> Option<(usize, usize)> {
        let prompt = self.prompt_tokens.load(Ordering::Relaxed);
        (prompt > 0).then(|| (prompt, self.generated_tokens.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::cache::tests::request;
    use super::*;

    #[tokio::test]
    async fn prompts_count_once_and_tokens_count_for_the_task_that_submitted_them() {
        let tally = Arc::new(Tally::default());
        assert_eq!(tally.read(), None);
        let counting = tally.of(async { Tally::current() }).await;
        let (one, other) = (request(0..5, None), request(0..7, None));
        counting.submitted(&[one.clone(), one, other]);
        counting.drawn();
        assert_eq!(tally.read(), Some((12, 1)));
        Tally::current().drawn();
        assert_eq!(tally.read(), Some((12, 1)));
    }
}
