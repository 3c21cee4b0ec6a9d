//! What a start had no time to measure is measured while nobody wants the cores: wider decodes, and the bits of more rows.
//! What is found is used at once, and kept for the next start.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cores;
use super::tune::{Step, Tuning};
use super::worker::Shared;

/// How long nothing must have been evaluated.
const QUIET: Duration = Duration::from_millis(500);

/// Ends the thread when it is dropped, within a decode.
pub struct Stop(#[expect(dead_code, reason = "its drop is what it is for")] Sender<()>);

/// Goes on with `tuning`, of a model whose workers have `shared`, until nothing is left to measure.
pub fn start(mut tuning: Tuning, shared: Arc<Shared>) -> std::io::Result<(Stop, JoinHandle<()>)> {
    let (stop, stopped) = channel();
    let handle = std::thread::Builder::new()
        .name("idle".to_owned())
        .spawn(move || {
            let mut search = None;
            while let Some(turns) = quiet(&stopped) {
                let undisturbed = || cores::turns() == Some(turns) && !is_over(&stopped);
                match tuning.go_on(&mut search, &shared.cores, &undisturbed) {
                    Ok(Step::Wait) => {}
                    Ok(Step::Found(groups)) => {
                        if shared.sharing.change(groups) {
                            tracing::info!(
                                decode_width = shared.sharing.width(),
                                "measured in idle moments: so many sequences share a decode from now on, at most"
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
fn quiet(stopped: &Receiver<()>) -> Option<usize> {
    loop {
        let before = cores::turns();
        match stopped.recv_timeout(QUIET) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return None,
        }
        if let Some(turns) = before
            && cores::turns() == before
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
