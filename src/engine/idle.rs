//! Measures in idle moments what a start had no time for: wider decodes, and the bits of more rows. The results are used
//! at once, and saved for the next start.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cores;
use super::shared::Shared;
use super::tune::{Moment, Step, Tuning};

/// A moment is idle when nothing has been evaluated for this long; twice as long after each disturbed attempt, up to a
/// bound.
const QUIET: Duration = Duration::from_millis(500);
const LONGEST_QUIET: Duration = Duration::from_secs(60);

/// Stops the thread when dropped, within a decode.
pub struct Stop(#[expect(dead_code, reason = "only its drop matters")] Sender<()>);

/// Continues `tuning` until nothing is left to measure. `shared` belongs to the workers of the same model.
pub fn start(mut tuning: Tuning, shared: Arc<Shared>) -> std::io::Result<(Stop, JoinHandle<()>)> {
    let (stop, stopped) = channel();
    let handle = std::thread::Builder::new()
        .name("idle".to_owned())
        .spawn(move || {
            let (mut search, mut pause) = (None, QUIET);
            while let Some(turns) = quiet(&stopped, pause) {
                let moment = Moment {
                    cores: &shared.cores,
                    sharing: &shared.sharing,
                    undisturbed: &|| {
                        cores::turns() == Some(turns) && !cores::is_loading() && !is_over(&stopped)
                    },
                };
                match tuning.step(&mut search, &moment) {
                    Ok(Step::Wait) => pause = LONGEST_QUIET.min(2 * pause),
                    Ok(Step::Found(split)) => {
                        pause = QUIET;
                        if shared.sharing.change(split) {
                            tracing::info!(
                                decode_width = shared.sharing.now().width(),
                                "a measurement in an idle moment changed how many sequences share a decode"
                            );
                        }
                    }
                    Ok(Step::Done) => return,
                    Err(error) => {
                        tracing::warn!(%error, "measuring in idle moments failed and will not be retried");
                        return;
                    }
                }
            }
        })?;
    Ok((Stop(stop), handle))
}

/// Waits until nothing has been evaluated for `pause`. Returns [`cores::turns`] at that time; `None`: the engine closes.
fn quiet(stopped: &Receiver<()>, pause: Duration) -> Option<usize> {
    loop {
        let before = cores::turns();
        match stopped.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return None,
        }
        if let Some(turns) = before
            && cores::turns() == before
            && !cores::is_loading()
        {
            return Some(turns);
        }
    }
}

fn is_over(stopped: &Receiver<()>) -> bool {
    !matches!(
        stopped.try_recv(),
        Err(std::sync::mpsc::TryRecvError::Empty)
    )
}
