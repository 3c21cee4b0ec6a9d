//! Runs a batch: finds what is left to do, starts the threads that do it, and watches them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::beginning::beginning;
use super::dispatch::{Dispatch, Shared, Standing};
use super::engine::Engine;
use super::failure::Failure;
use super::input::Input;
use super::order::Order;
use super::output::Output;
use super::patience::Patience;
use super::progress::{Progress, Summary, Tally};
use super::server::Server;
use super::state::State;
use super::work::Work;
use crate::config::{Config, Shard};

/// What to do.
pub struct Job {
    pub input: PathBuf,
    pub output: PathBuf,
    /// The part of the input to send.
    pub shard: Shard,
    pub servers: Servers,
    /// Requests at once to each server. `None`: twice as many as it runs at once, so that it never waits for the next.
    pub concurrency: Option<usize>,
    /// Time limit for an answer.
    pub timeout: Duration,
    /// How long no server may answer, and none be at work.
    pub patience: Duration,
    /// Whether answers get receipts, where there are any.
    pub receipts: bool,
    /// Whether answers of different bits classes may be in one output.
    pub allow_mixed: bool,
}

/// Who answers.
pub enum Servers {
    /// A server of this process, with these settings.
    Own(Box<Config>),
    /// Servers that run already, all with the same key.
    At {
        urls: Vec<String>,
        key: Option<String>,
    },
}

/// Sends what has no answer yet. `interrupted` is set by a signal: running requests may then finish, and nothing is sent any
/// more.
pub fn run(job: Job, interrupted: &AtomicBool) -> Result<Summary, Failure> {
    let begun = Instant::now();
    let mut beginnings = Vec::new();
    let input = Input::read(&job.input, |request| {
        beginnings.push(beginning(request));
        Failure::if_interrupted(interrupted)
    })?;
    let mut order = Order::new(&beginnings);
    drop(beginnings);
    order.keep(order.part(job.shard.index, job.shard.of));
    let mut is_part = vec![false; input.id.lines];
    for place in 0..order.len() {
        is_part[order.at(place).line as usize] = true;
    }
    let mut state = State::new(input.id.clone(), job.shard, job.receipts, job.allow_mixed);
    let mut output = Output::open(&job.output)?;
    let mut written = None;
    if !output.is_empty() {
        let earlier = State::read(&job.output)?;
        written = Some(earlier.clone());
        state.resume(earlier, &job.output, &job.input)?;
    }
    let done = output.read(&input, |line| {
        Failure::if_interrupted(interrupted)?;
        Ok(is_part[line as usize])
    })?;
    let tally = Tally {
        lines: order.len(),
        earlier: done.count,
        errors: done.errors,
        ..Tally::default()
    };
    order.drop_done(|line| done.has(line));
    if order.len() == 0 {
        // A shard may have no lines.
        if written.is_none() {
            state.write(&job.output)?;
        }
        let took = begun.elapsed();
        return Ok(Summary { tally, took });
    }
    let mut engine = None;
    let (urls, key) = match job.servers {
        Servers::At { urls, key } => (urls, key),
        Servers::Own(config) => {
            let engine = engine.insert(Engine::start(*config)?);
            (vec![engine.url.clone()], None)
        }
    };
    let server = |url: &String| Server::new(url, key.clone(), job.timeout);
    let dispatch = Arc::new(Dispatch {
        shared: Mutex::new(Shared {
            work: Work::new(order, &urls),
            standing: urls.iter().map(|_| Standing::Away(String::new())).collect(),
            has_answered: vec![true; urls.len()],
            pauses: urls.iter().map(|_| None).collect(),
            state,
            written,
            tally,
            last_sign: engine.is_none().then_some(begun),
            is_stopping: false,
            failure: None,
        }),
        changed: Condvar::new(),
        servers: urls.iter().map(server).collect(),
        output: Mutex::new(output),
        input,
        output_path: job.output,
        concurrency: job.concurrency,
        receipts: job.receipts,
    });
    dispatch.begin(interrupted)?;
    let watch = Watch {
        dispatch: &dispatch,
        engine: engine.as_ref(),
        patience: job.patience,
        interrupted,
    };
    watch.until_the_end()?;
    let tally = dispatch.lock().tally.clone();
    let took = begun.elapsed();
    Ok(Summary { tally, took })
}

/// The thread that began the batch, while others do the work.
struct Watch<'a> {
    dispatch: &'a Dispatch,
    /// The server, if it is one of this process.
    engine: Option<&'a Engine>,
    patience: Duration,
    interrupted: &'a AtomicBool,
}

impl Watch<'_> {
    /// Shows progress and syncs the output until all lines are finished, or it cannot go on.
    fn until_the_end(&self) -> Result<(), Failure> {
        const TICK: Duration = Duration::from_millis(100);
        const SYNC: Duration = Duration::from_secs(1);
        /// Less than the 30 seconds that Slurm leaves between its signals.
        const GRACE: Duration = Duration::from_secs(20);
        let dispatch = self.dispatch;
        let output = || {
            dispatch
                .output
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        // Others append while it syncs.
        let handle = output().handle()?;
        let sync = || {
            let synced = handle.sync_data();
            synced.map_err(|error| output().cannot_write(&error))
        };
        let mut progress = Progress::new(Instant::now());
        let mut patience = Patience::new(self.patience, Instant::now());
        let mut synced = Instant::now();
        let mut stopped: Option<Instant> = None;
        let ended = loop {
            let mut shared = dispatch.wait(dispatch.lock(), Some(Instant::now() + TICK));
            let now = Instant::now();
            if let Some(failure) = shared.failure.take() {
                break Err(failure);
            }
            if shared.work.is_done() {
                break Ok(());
            }
            if stopped.is_none() && self.interrupted.load(Ordering::SeqCst) {
                stopped = Some(now);
                shared.is_stopping = true;
                dispatch.changed.notify_all();
                tracing::info!(
                    "stopping: running requests may finish within {} s; a second signal ends it at once",
                    GRACE.as_secs()
                );
            }
            if let Some(stopped) = stopped
                && (shared.work.in_flight() == 0 || now > stopped + GRACE)
            {
                break Err(Failure::Interrupted("interrupted".to_owned()));
            }
            if let Some(last_sign) = shared.last_sign
                && patience.is_lost(last_sign, is_worthwhile(&shared, now), now)
            {
                let patience = self.patience.as_secs();
                let is_ready = |it: &Standing| matches!(it, Standing::Ready);
                let state = match shared.standing.iter().any(is_ready) {
                    true => "there are servers that are ready, but they answer no line".to_owned(),
                    false => self.state_of_servers(&shared),
                };
                break Err(Failure::Stopped(format!(
                    "no line was answered for {patience} s (--patience): {state}"
                )));
            }
            progress.show(now, &shared.tally, &self.state_of_servers(&shared));
            drop(shared);
            if let Some(why) = self.engine.and_then(Engine::ended) {
                let why = format!("The engine could not be started: {why}");
                break Err(Failure::Stopped(why));
            }
            if now > synced + SYNC {
                synced = now;
                if let Err(failure) = sync() {
                    break Err(failure);
                }
            }
        };
        let ended = ended.and(sync());
        progress.clear();
        let tally = dispatch.lock().tally.clone();
        let (done, lines) = (tally.earlier + tally.finished, tally.lines);
        let kept = format!(
            "{} has the answers to {done} of {lines} lines. Run the same command again to go on.",
            dispatch.output_path.display()
        );
        ended.map_err(|failure| match failure {
            Failure::Interrupted(why) => Failure::Interrupted(format!("{why}\n{kept}")),
            Failure::Stopped(why) => Failure::Stopped(format!("{why}\n{kept}")),
            refused => refused,
        })
    }

    /// A server that is ready but has asked for a pause, and what it said.
    fn busy<'a>(&'a self, shared: &'a Shared) -> Option<(&'a str, &'a str)> {
        let now = Instant::now();
        let pausing = (0..shared.pauses.len()).find(|server| shared.is_pausing(*server, now))?;
        let why = &shared.pauses[pausing].as_ref()?.why;
        Some((&self.dispatch.servers[pausing].url, why))
    }

    /// For a line of progress.
    fn state_of_servers(&self, shared: &Shared) -> String {
        let mut away = self
            .dispatch
            .servers
            .iter()
            .zip(&shared.standing)
            .filter_map(|(server, standing)| match standing {
                Standing::Away(why) => Some((&server.url, why)),
                _ => None,
            });
        let is_ready = |standing: &Standing| matches!(standing, Standing::Ready);
        let ready = shared.standing.iter().filter(|it| is_ready(it)).count();
        let running = shared.work.in_flight();
        if running == 0
            && let Some((url, why)) = self.busy(shared)
        {
            return format!("waiting for {url}: {why}");
        }
        if ready > 0 {
            return match shared.standing.len() {
                1 => format!("{running} running"),
                all => format!("{running} running on {ready} of {all} servers"),
            };
        }
        match away.next() {
            Some((_, _)) if shared.last_sign.is_none() => "loading the model".to_owned(),
            Some((url, why)) => format!("waiting for {url}: {why}"),
            None => String::new(),
        }
    }
}

/// Whether an answer may well come, although none has for a while.
fn is_worthwhile(shared: &Shared, now: Instant) -> bool {
    /// A request that has been running for longer is being worked on.
    const RUNNING: Duration = Duration::from_secs(10);
    let is_running = |since: Instant| now > since + RUNNING;
    shared.work.oldest_in_flight().is_some_and(is_running)
        || (0..shared.standing.len()).any(|server| shared.is_pausing(server, now))
}

#[cfg(test)]
mod tests {
    use super::super::dispatch::Pause;
    use super::super::work::{Barred, Next};
    use super::*;

    /// With two servers, both ready, and two lines.
    fn dispatch(folder: &tempfile::TempDir) -> Dispatch {
        let path = folder.path().join("in.jsonl");
        let line = |id: &str| {
            format!(
                r#"{{"custom_id": "{id}", "method": "POST", "url": "/v1/completions", "body": {{"prompt": "{id}"}}}}"#
            )
        };
        std::fs::write(&path, [line("a"), line("b")].join("\n")).unwrap();
        let mut beginnings = Vec::new();
        let input = Input::read(&path, |request| {
            beginnings.push(beginning(request));
            Ok(())
        });
        let input = input.unwrap();
        let urls = ["http://one", "http://two"];
        let server = |url: &&str| Server::new(url, None, Duration::from_secs(1));
        let output_path = folder.path().join("out.jsonl");
        Dispatch {
            shared: Mutex::new(Shared {
                work: Work::new(Order::new(&beginnings), &urls),
                standing: urls.iter().map(|_| Standing::Ready).collect(),
                has_answered: vec![true; 2],
                pauses: vec![None, None],
                state: State::new(input.id.clone(), Shard { index: 0, of: 1 }, false, false),
                written: None,
                tally: Tally::default(),
                last_sign: Some(Instant::now()),
                is_stopping: false,
                failure: None,
            }),
            changed: Condvar::new(),
            servers: urls.iter().map(server).collect(),
            output: Mutex::new(Output::open(&output_path).unwrap()),
            input,
            output_path,
            concurrency: None,
            receipts: false,
        }
    }

    #[test]
    fn what_is_worth_waiting_for_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let dispatch = dispatch(&folder);
        let watch = Watch {
            dispatch: &dispatch,
            engine: None,
            patience: Duration::from_secs(600),
            interrupted: &AtomicBool::new(false),
        };
        let now = Instant::now();
        let later = |seconds: u64| now + Duration::from_secs(seconds);
        let mut shared = dispatch.lock();
        assert_eq!(
            watch.state_of_servers(&shared),
            "0 running on 2 of 2 servers"
        );
        assert!(!is_worthwhile(&shared, now));
        let task = match shared.work.next(0, now) {
            Next::Send(task) => task,
            other => panic!("{other:?}"),
        };
        // It may be about to break.
        assert!(!is_worthwhile(&shared, later(5)));
        assert!(is_worthwhile(&shared, later(11)));
        shared.work.put_back(task, Barred::Server(1), later(60));
        assert!(!is_worthwhile(&shared, later(11)));
        // A day, but only as long as the server is there.
        shared.pauses[1] = Some(Pause {
            until: later(86_400),
            why: "503 full".to_owned(),
        });
        assert_eq!(
            watch.state_of_servers(&shared),
            "waiting for http://two: 503 full"
        );
        assert!(is_worthwhile(&shared, later(86_000)));
        assert!(!is_worthwhile(&shared, later(86_401)));
        shared.standing[1] = Standing::Away("refused".to_owned());
        assert!(!is_worthwhile(&shared, later(1)));
        assert_eq!(
            watch.state_of_servers(&shared),
            "0 running on 1 of 2 servers"
        );
    }
}
