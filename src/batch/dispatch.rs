//! The threads of a batch, and what they share. Each server has one that keeps in touch with it, and workers, which take
//! lines, send them, and append the answers.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::contact::{Contact, Unready, contact};
use super::failure::Failure;
use super::input::Input;
use super::output::Output;
use super::progress::{Tally, Usage};
use super::record;
use super::server::{Broken, Meaning, Reply, Server};
use super::state::State;
use super::work::{Next, Task, Work};
use crate::api::receipt::ReceiptRoute;

const PANICKED: &str = "internal error: a thread panicked";

/// What the threads share.
pub struct Dispatch {
    pub input: Input,
    pub servers: Vec<Server>,
    pub output: Mutex<Output>,
    pub output_path: PathBuf,
    pub concurrency: Option<usize>,
    pub receipts: bool,
    pub shared: Mutex<Shared>,
    /// Notified when there may be something to send, or nothing more will be sent.
    pub changed: Condvar,
}

pub struct Shared {
    pub work: Work,
    /// Of each server.
    pub standing: Vec<Standing>,
    pub state: State,
    /// The state as it is in its file.
    pub written: Option<State>,
    pub tally: Tally,
    /// When a line was answered, or a server became ready. `None`: the engine of this process is loading its model, which may
    /// take long.
    pub last_sign: Option<Instant>,
    /// Nothing more is to be sent.
    pub is_stopping: bool,
    /// Why, if something went wrong.
    pub failure: Option<Failure>,
}

/// Whether a server is used.
pub enum Standing {
    /// It does not answer, for this reason.
    Away(String),
    Ready,
    /// Never again, for this reason.
    Excluded(String),
}

impl Dispatch {
    pub fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, at most until a moment.
    pub fn wait<'a>(
        &self,
        shared: MutexGuard<'a, Shared>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, Shared> {
        let Some(until) = until else {
            let waited = self.changed.wait(shared);
            return waited.unwrap_or_else(PoisonError::into_inner);
        };
        let time = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout(shared, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits until a moment, or until nothing more is to be sent.
    fn rest(&self, until: Instant) {
        let mut shared = self.lock();
        while !shared.is_stopping && Instant::now() < until {
            shared = self.wait(shared, Some(until));
        }
    }

    fn fail(&self, failure: Failure) {
        let mut shared = self.lock();
        shared.failure.get_or_insert(failure);
        shared.is_stopping = true;
        self.changed.notify_all();
    }

    /// Writes the state to its file if it has changed.
    fn write_state(&self, shared: &mut Shared) -> Result<(), Failure> {
        if shared.written.as_ref() == Some(&shared.state) {
            return Ok(());
        }
        shared.state.write(&self.output_path)?;
        shared.written = Some(shared.state.clone());
        Ok(())
    }

    /// Starts all threads, if the servers fit.
    pub fn begin(self: &Arc<Self>) -> Result<(), Failure> {
        for (server, first) in self.first_contacts()?.into_iter().enumerate() {
            let attending = Arc::clone(self);
            spawn(self, move || attending.attend(server, first));
        }
        Ok(())
    }

    /// Asks every server for the first time, and refuses to begin if they do not fit. Those that do not answer yet are
    /// waited for while others work.
    fn first_contacts(&self) -> Result<Vec<Result<Contact, Unready>>, Failure> {
        let models = &self.input.models;
        let contacts = std::thread::scope(|scope| {
            let ask = |server| scope.spawn(move || contact(server, models));
            let asked: Vec<_> = self.servers.iter().map(ask).collect();
            let joined = asked.into_iter().map(|thread| thread.join());
            joined.collect::<Result<Vec<_>, _>>()
        });
        let contacts = contacts.map_err(|_| Failure::Stopped(PANICKED.to_owned()))?;
        let mut shared = self.lock();
        for (server, contact) in self.servers.iter().zip(&contacts) {
            let unfit = match contact {
                Ok(contact) => shared.state.origins.admit(&contact.models).err(),
                Err(Unready::Unfit(why)) => Some(why.clone()),
                Err(Unready::NotYet(why)) => {
                    if shared.last_sign.is_some() {
                        tracing::info!("{} does not answer yet: {why}", server.url);
                    }
                    None
                }
            };
            if let Some(why) = unfit {
                let (url, why) = (&server.url, why.trim_end_matches('.'));
                return Err(Failure::Refused(format!("{url}: {why}. Nothing was sent.")));
            }
        }
        self.write_state(&mut shared)?;
        Ok(contacts)
    }

    /// Keeps in touch with a server: begins to use it when it is ready, and asks again when it does not answer any more.
    fn attend(self: &Arc<Self>, server: usize, first: Result<Contact, Unready>) {
        const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
        const LONGEST_PAUSE: Duration = Duration::from_secs(5);
        let mut pause = SHORTEST_PAUSE;
        let mut next = first;
        let mut has_workers = false;
        loop {
            match next {
                Ok(contact) => {
                    pause = SHORTEST_PAUSE;
                    if !self.welcome(server, &contact) {
                        return;
                    }
                    if !std::mem::replace(&mut has_workers, true) {
                        self.start_workers(server, contact.slots);
                    }
                    if !self.wait_until_away(server) {
                        return;
                    }
                }
                Err(Unready::Unfit(why)) => return self.exclude(server, why),
                Err(Unready::NotYet(why)) => {
                    self.lock().standing[server] = Standing::Away(why);
                    self.rest(Instant::now() + pause);
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
            }
            if self.lock().is_stopping {
                return;
            }
            next = contact(&self.servers[server], &self.input.models);
        }
    }

    /// Begins to use a server, unless its answers would not fit the others.
    fn welcome(&self, server: usize, contact: &Contact) -> bool {
        let mut shared = self.lock();
        if let Err(why) = shared.state.origins.admit(&contact.models) {
            drop(shared);
            self.exclude(server, why);
            return false;
        }
        let saved = self.write_state(&mut shared);
        if let Standing::Away(why) = &shared.standing[server]
            && !why.is_empty()
            && shared.last_sign.is_some()
        {
            tracing::info!("{} is ready", self.servers[server].url);
        }
        shared.standing[server] = Standing::Ready;
        shared.last_sign = Some(Instant::now());
        self.changed.notify_all();
        drop(shared);
        saved.map_err(|failure| self.fail(failure)).is_ok()
    }

    fn start_workers(self: &Arc<Self>, server: usize, slots: Option<usize>) {
        const DEFAULT: usize = 16;
        let count = self
            .concurrency
            .unwrap_or(slots.map_or(DEFAULT, |slots| 2 * slots.max(1)));
        for _ in 0..count {
            let worker = Arc::clone(self);
            spawn(self, move || {
                while let Some(task) = worker.next(server) {
                    if let Some(until) = worker.send(server, task) {
                        worker.rest(until);
                    }
                }
            });
        }
    }

    /// Returns whether the server is still to be used.
    fn wait_until_away(&self, server: usize) -> bool {
        let mut shared = self.lock();
        loop {
            match shared.standing[server] {
                _ if shared.is_stopping => return false,
                Standing::Excluded(_) => return false,
                Standing::Away(_) => return true,
                Standing::Ready => shared = self.wait(shared, None),
            }
        }
    }

    /// Never uses a server again.
    fn exclude(&self, server: usize, why: String) {
        let mut shared = self.lock();
        if matches!(shared.standing[server], Standing::Excluded(_)) {
            return;
        }
        tracing::warn!("{} is not used any more: {why}", self.servers[server].url);
        shared.standing[server] = Standing::Excluded(why);
        let mut excluded = Vec::new();
        for (server, standing) in self.servers.iter().zip(&shared.standing) {
            match standing {
                Standing::Excluded(why) => excluded.push(format!("{}: {why}", server.url)),
                _ => break,
            }
        }
        self.changed.notify_all();
        drop(shared);
        if excluded.len() == self.servers.len() {
            let why = excluded.join("\n");
            self.fail(Failure::Stopped(format!(
                "no server is left that can be used\n{why}"
            )));
        }
    }

    /// The next line for a worker of a server. `None`: it has nothing more to do.
    fn next(&self, server: usize) -> Option<Task> {
        let mut shared = self.lock();
        loop {
            if shared.is_stopping {
                return None;
            }
            let until = match shared.standing[server] {
                Standing::Excluded(_) => return None,
                Standing::Away(_) => None,
                Standing::Ready => match shared.work.next(server, Instant::now()) {
                    Next::Send(task) => return Some(task),
                    Next::Done => return None,
                    Next::Wait(until) => until,
                },
            };
            shared = self.wait(shared, until);
        }
    }

    /// Sends a line, and does what its answer means. Returns until when the worker should send nothing.
    fn send(&self, server: usize, task: Task) -> Option<Instant> {
        let mut request = match self.input.request(task.line) {
            Ok(request) => request,
            Err(failure) => {
                self.fail(failure);
                return None;
            }
        };
        let model = request.model().unwrap_or_default().to_owned();
        let is_exact = request.is_exact();
        if self.receipts
            && ReceiptRoute::ALL
                .iter()
                .any(|it| it.path() == request.route)
        {
            request.body.insert("receipt".to_owned(), true.into());
        }
        let body = Value::Object(request.body);
        let answer = self.servers[server].post(request.route, &body, Some(task.group));
        let id = &request.custom_id;
        let reply = match answer.and_then(whole) {
            Ok(reply) => reply,
            Err(broken) => {
                self.broken(server, task, id, broken);
                return None;
            }
        };
        match reply.meaning() {
            Meaning::Final => {
                if reply.is_ok()
                    && let Err(why) = self.check(&model, is_exact, &reply)
                {
                    self.exclude(server, why);
                    self.again(server, task, Instant::now());
                } else {
                    self.finish(task, &record::answered(id, &reply), Usage::of(&reply));
                }
                None
            }
            Meaning::Busy => {
                let wait = reply.retry_after.unwrap_or_else(|| backoff(task.busy));
                let until = Instant::now() + wait;
                let busy = task.busy + 1;
                self.again(server, Task { busy, ..task }, until);
                // The others of this server keep it busy.
                Some(until)
            }
            Meaning::Failed => {
                const MOST_FAILURES: u32 = 3;
                let failed = task.failed + 1;
                if failed >= MOST_FAILURES {
                    self.finish(task, &record::answered(id, &reply), None);
                } else {
                    let until = Instant::now() + backoff(task.failed);
                    self.again(server, Task { failed, ..task }, until);
                }
                None
            }
            Meaning::Denied => {
                let url = &self.servers[server].url;
                self.fail(Failure::Stopped(format!(
                    "{url} answers {} Its key is the first of CANDOR_SERVER__API_KEYS.",
                    reply.message()
                )));
                None
            }
        }
    }

    /// Checks that an answer may stand beside the others.
    fn check(&self, model: &str, is_exact: bool, reply: &Reply) -> Result<(), String> {
        let mut shared = self.lock();
        shared.state.origins.check(model, is_exact, reply)?;
        let saved = self.write_state(&mut shared);
        drop(shared);
        saved.unwrap_or_else(|failure| self.fail(failure));
        Ok(())
    }

    /// A line got no answer: the server has ended, the network has failed, or the request ends servers.
    fn broken(&self, server: usize, task: Task, id: &str, broken: Broken) {
        /// Every time, a server was ready again in between.
        const MOST_FAILURES: u32 = 8;
        let Broken { why, was_sent } = broken;
        let url = &self.servers[server].url;
        let mut shared = self.lock();
        if let Standing::Ready = shared.standing[server] {
            tracing::warn!("{url} does not answer: {why}. What it was sent is sent again.");
            shared.standing[server] = Standing::Away(why.clone());
        }
        drop(shared);
        let failed = task.failed + u32::from(was_sent);
        if failed >= MOST_FAILURES {
            let message = format!("No answer in {failed} attempts; the last time, {url}: {why}");
            let line = record::unanswered(id, "no_answer", &message);
            self.finish(task, &line, None);
            // The thread that attends the server waits for this.
            self.changed.notify_all();
        } else {
            self.again(server, Task { failed, ..task }, Instant::now());
        }
    }

    fn again(&self, server: usize, task: Task, not_before: Instant) {
        let mut shared = self.lock();
        shared.tally.repeated += 1;
        shared.work.put_back(task, server, not_before);
        self.changed.notify_all();
    }

    fn finish(&self, task: Task, line: &[u8], usage: Option<Usage>) {
        let output = self.output.lock();
        let appended = output.unwrap_or_else(PoisonError::into_inner).append(line);
        if let Err(failure) = appended {
            return self.fail(failure);
        }
        let mut shared = self.lock();
        shared.work.finish(task);
        shared.tally.finish(usage);
        shared.last_sign = Some(Instant::now());
        if shared.work.is_done() {
            self.changed.notify_all();
        }
    }
}

/// An answer that a client can use. What a router says in place of a server, and what is cut off, is none.
fn whole(reply: Reply) -> Result<Reply, Broken> {
    let is_of_router = matches!(reply.status, 502 | 504);
    if is_of_router || (reply.is_ok() && reply.json().is_none()) {
        return Err(Broken {
            why: reply.message(),
            was_sent: true,
        });
    }
    Ok(reply)
}

/// How long to wait after so many failures, if the server does not say it.
fn backoff(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(500);
    const MOST_DOUBLINGS: u32 = 6;
    FIRST * 2_u32.pow(failures.min(MOST_DOUBLINGS))
}

/// Starts a thread that is not waited for. The batch does not outlive a bug in it.
fn spawn(dispatch: &Arc<Dispatch>, work: impl FnOnce() + Send + 'static) {
    let of_thread = Arc::clone(dispatch);
    let guarded = move || {
        let work = std::panic::AssertUnwindSafe(work);
        if std::panic::catch_unwind(work).is_err() {
            of_thread.fail(Failure::Stopped(PANICKED.to_owned()));
        }
    };
    let spawned = std::thread::Builder::new()
        .name("batch".to_owned())
        .spawn(guarded);
    if let Err(error) = spawned {
        let why = format!("cannot start a thread: {error}. Lower --concurrency.");
        dispatch.fail(Failure::Stopped(why));
    }
}
