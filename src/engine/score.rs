//! Scores the rows of a prompt, on several threads.

use std::sync::Arc;

use crate::logprobs::{self, Likeliest, Tell, TokenLogprob};
use crate::model::Token;

/// About as many logits as one thread reads in the time it takes to start another.
const WORTH_A_THREAD: usize = 1 << 20;

/// The score of each row's token; on up to `threads` threads if there is enough work.
pub fn score_rows(rows: &[(&[f32], Token)], tell: &Tell, threads: usize) -> Vec<Arc<TokenLogprob>> {
    let numbers: usize = rows.iter().map(|(logits, _)| logits.len()).sum();
    let threads = threads.min(numbers / WORTH_A_THREAD).max(1);
    let mut parts = rows.chunks(rows.len().div_ceil(threads).max(1));
    let first = parts.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let others: Vec<_> = parts
            .map(|part| {
                let work = move || score_part(part, tell);
                (part, std::thread::Builder::new().spawn_scoped(scope, work))
            })
            .collect();
        let mut scores = score_part(first, tell);
        for (part, other) in others {
            match other.map(|other| other.join()) {
                Ok(Ok(part)) => scores.extend(part),
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                // No thread could be started.
                Err(_) => scores.extend(score_part(part, tell)),
            }
        }
        scores
    })
}

fn score_part(rows: &[(&[f32], Token)], tell: &Tell) -> Vec<Arc<TokenLogprob>> {
    let mut likeliest = Likeliest::default();
    rows.iter()
        .map(|&(logits, token)| {
            likeliest.find(logits, tell.top);
            Arc::new(logprobs::score(logits, &likeliest, token, tell))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_change_nothing() {
        let rows: Vec<Vec<f32>> = (0..37)
            .map(|row| {
                (0..200_000)
                    .map(|id| ((id * 7919 + row * 104_729) % 65_537) as f32 / 4096.0)
                    .collect()
            })
            .collect();
        let rows: Vec<(&[f32], Token)> = (0..)
            .zip(&rows)
            .map(|(id, row)| (&row[..], Token(id * 5000)))
            .collect();
        let alone = score_rows(&rows, &Tell::top(5), 1);
        assert_eq!(alone.len(), rows.len());
        for threads in [2, 3, 64] {
            assert_eq!(score_rows(&rows, &Tell::top(5), threads), alone);
        }
        assert!(score_rows(&[], &Tell::top(5), 2).is_empty());
    }
}
