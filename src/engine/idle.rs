//! What a start had no time to measure is measured while nobody wants the cores: wider decodes, and the bits of more rows.
//! What is found is used at once, and kept for the next start.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cores;
use super::shared::Shared;
use super::tune::{Moment, Step, Tuning};

/// How long nothing must have been evaluated; twice as long after each try that something disturbed, up to a bound.
const QUIET: Duration = Duration::from_millis(500);
const LONGEST_QUIET: Duration = Duration::from_secs(60);

/// Ends the thread when it is dropped, within a decode.
pub struct Stop(#[expect(dead_code, reason = "its drop is what it is for")] Sender<()>);

/// Goes on with `tuning`, of a model whose workers have `shared`, until nothing is left to measure.
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
                match tuning.go_on(&mut search, &moment) {
                    Ok(Step::Wait) => pause = LONGEST_QUIET.min(2 * pause),
                    Ok(Step::Found(groups)) => {
                        pause = QUIET;
                        if shared.sharing.change(groups) {
                            tracing::info!(
                                decode_width = shared.sharing.width(),
                                "idle moments changed how many sequences share a decode"
                            );
                        }
                    }
                    Ok(Step::Done) => return,
                    Err(error) => {
                        tracing::warn!(%error, "measuring in idle moments ended");
                        return;
                    }
                }
            }
        })?;
    Ok((Stop(stop), handle))
}

/// Waits until nothing was evaluated for a while, and says how often something was before; `None`: it is over.
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
