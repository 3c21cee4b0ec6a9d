//! Measures how fast shapes are.

use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use super::shapes::{Figure, Shape};
use crate::config;
use crate::engine::shape::context_shape;
use crate::model::{Context, ContextError, Model, Row, Runner, Token};

/// After this time, everything has been measured long enough.
const ENOUGH: Duration = Duration::from_secs(4);

/// Measures each shape twice, in turn, so that a busy moment does not affect only one of them; the better figure counts.
/// With a large model once is enough. Stops early, with wrong figures, once `continues` says no.
pub fn measure_all(
    model: &Arc<Model>,
    settings: &config::Engine,
    shapes: &[Shape],
    threads: usize,
    continues: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Figure>, ContextError> {
    let mut figures: Vec<Figure> = shapes
        .iter()
        .map(|&shape| Figure {
            shape,
            tokens_per_second: 0.0,
        })
        .collect();
    let begun = Instant::now();
    for round in 0..2 {
        // Long decodes are hardly disturbed.
        if round > 0 && (begun.elapsed() > ENOUGH || !continues()) {
            break;
        }
        for figure in &mut figures {
            let speed = measure(model, settings, figure.shape, threads, continues)?;
            figure.tokens_per_second = figure.tokens_per_second.max(speed);
        }
    }
    for figure in &figures {
        tracing::debug!(?figure, "measured");
    }
    Ok(figures)
}

/// Tokens per second of all contexts together.
fn measure(
    model: &Arc<Model>,
    settings: &config::Engine,
    shape: Shape,
    threads: usize,
    continues: &(dyn Fn() -> bool + Sync),
) -> Result<f64, ContextError> {
    /// Long enough for dozens of tokens of a small model; a large one gets one decode, after one that does not count.
    const TRIAL: Duration = Duration::from_millis(200);
    const DECODES: usize = 1;
    const LANE_TOKENS: usize = 256;
    let Shape { contexts, width } = shape;
    let shape = context_shape(settings, width, LANE_TOKENS, width, width);
    let vocabulary = model.vocab().len();
    let decode = |context: &mut Context, rows: &mut [Row], position: usize| {
        for row in &mut *rows {
            row.position = position;
            // Any tokens will do, as long as they differ.
            row.token = Token(((position * 31 + row.lane * 17) % vocabulary) as i32);
        }
        context
            .decode(rows, (threads / contexts).max(1))
            .is_ok_and(|()| context.logits(0).is_some())
    };
    let prepare = || {
        let mut context = Context::new(model, shape.clone())?;
        let mut rows: Vec<Row> = (0..width)
            .map(|lane| Row {
                token: Token(0),
                position: 0,
                lane,
                logits: true,
            })
            .collect();
        decode(&mut context, &mut rows, 0);
        Ok((context, rows))
    };
    let run = |(mut context, mut rows): (Context, Vec<Row>)| {
        let (begun, mut done) = (Instant::now(), 0);
        while (begun.elapsed() < TRIAL || done < DECODES)
            && done + 1 < LANE_TOKENS
            && continues()
            && decode(&mut context, &mut rows, done + 1)
        {
            done += 1;
        }
        (done * width) as f64 / begun.elapsed().as_secs_f64()
    };
    let speeds = side_by_side(contexts, prepare, run)?;
    Ok(speeds.into_iter().sum())
}

/// Has `count` threads prepare, and then work at the same time: none begins before all have prepared. If one of them
/// fails to, by an error or a panic, none works, and none waits for it.
fn side_by_side<P, T: Send, E: Send>(
    count: usize,
    prepare: impl Fn() -> Result<P, E> + Sync,
    work: impl Fn(P) -> T + Sync,
) -> Result<Vec<T>, E> {
    let (sender, prepared) = mpsc::channel();
    let start: OnceLock<bool> = OnceLock::new();
    let run = |prepared: mpsc::Sender<bool>| {
        // If this panics, the sender is dropped.
        let ready = prepare();
        let _ = prepared.send(ready.is_ok());
        drop(prepared);
        let ready = ready?;
        Ok(start.wait().then(|| work(ready)))
    };
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..count)
            .map(|_| {
                let sender = sender.clone();
                std::thread::Builder::new().spawn_scoped(scope, move || run(sender))
            })
            .collect();
        drop(sender);
        // Ends when each thread has prepared or ended.
        let ready = prepared.iter().filter(|&fine| fine).count();
        let _ = start.set(ready == count);
        let mut outcomes = Vec::new();
        for thread in threads {
            match thread.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(outcome)) => outcomes.push(outcome),
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(error) => panic!("cannot start a thread: {error}"),
            }
        }
        let outcomes: Result<Vec<Option<T>>, E> = outcomes.into_iter().collect();
        Ok(outcomes?.into_iter().flatten().collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How `side_by_side` ends if the second of three threads prepares like this, and how many threads worked.
    fn ends(second: fn() -> Result<(), u8>) -> (std::thread::Result<Result<usize, u8>>, usize) {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let (sender, outcome) = mpsc::channel();
        std::thread::spawn(move || {
            let (prepared, worked) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let prepare = || match prepared.fetch_add(1, Ordering::SeqCst) {
                1 => second(),
                _ => Ok(()),
            };
            let work = |()| {
                assert_eq!(prepared.load(Ordering::SeqCst), 3, "it began too early");
                worked.fetch_add(1, Ordering::SeqCst);
            };
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                side_by_side(3, prepare, work).map(|done| done.len())
            }));
            let _ = sender.send((ended, worked.into_inner()));
        });
        outcome
            .recv_timeout(Duration::from_secs(60))
            .expect("it ends, whatever its threads do")
    }

    #[test]
    fn contexts_are_measured_together_or_not_at_all() {
        let (ended, worked) = ends(|| Ok(()));
        assert_eq!((ended.expect("no panic"), worked), (Ok(3), 3));
        let (ended, worked) = ends(|| Err(7));
        assert_eq!((ended.expect("no panic"), worked), (Err(7), 0));
        let (ended, worked) = ends(|| panic!("on command"));
        assert!(ended.is_err());
        assert_eq!(worked, 0);
    }
}
