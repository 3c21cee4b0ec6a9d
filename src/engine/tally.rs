//! What a request comes to in tokens, for whoever logs it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::request::Request;

tokio::task_local! {
    static CURRENT: Arc<Tally>;
}

/// Counts what is submitted to the engine while a future runs, and goes on after it for as long as that takes.
#[derive(Debug, Default)]
pub struct Tally {
    prompt_tokens: AtomicUsize,
    generated_tokens: AtomicUsize,
}

impl Tally {
    /// Runs a future and counts what it submits.
    pub fn of<F: Future>(self: &Arc<Self>, work: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(Arc::clone(self), work)
    }

    /// The one of whoever runs here; one that nobody reads where nobody counts.
    pub(super) fn current() -> Arc<Self> {
        CURRENT.try_with(Arc::clone).unwrap_or_default()
    }

    /// Each prompt counts once, however many choices continue it.
    pub(super) fn submitted(&self, requests: &[Request]) {
        let tokens = requests
            .chunk_by(|one, next| Arc::ptr_eq(&one.prompt, &next.prompt))
            .map(|choices| choices[0].prompt.len() + choices[0].kept.len())
            .sum();
        self.prompt_tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    pub(super) fn drawn(&self) {
        self.generated_tokens.fetch_add(1, Ordering::Relaxed);
    }

    /// Tokens of prompts, and tokens drawn until now; `None` if nothing was submitted.
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
    async fn prompts_are_counted_once_and_tokens_where_they_were_asked_for() {
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
