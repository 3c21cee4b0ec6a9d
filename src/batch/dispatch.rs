//! The threads of a batch, and what they share. Each server has one that keeps in touch with it, and workers, which take
//! lines, send them, and append the answers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::contact::{Contact, Unready, contact};
use super::failure::Failure;
use super::input::Input;
use super::origin::Signature;
use super::output::Output;
use super::progress::{Tally, Usage};
use super::record;
use super::server::{Broken, Cause, Meaning, Reply, Server};
use super::state::State;
use super::work::{Barred, Next, Task, Work};
use crate::api::receipt::ReceiptRoute;
use crate::config::cli::MOST_CONCURRENT;

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
    /// Whether each server has answered a line since it was last found to be ready; true before the first time.
    pub has_answered: Vec<bool>,
    /// The pause that each server asked for when it was last sent a line, if it did.
    pub pauses: Vec<Option<Pause>>,
    pub state: State,
    /// The state as it is in its file.
    pub written: Option<State>,
    pub tally: Tally,
    /// When a line was answered, or a server that answers lines became ready, or one asked for a pause. `None`: the engine of
    /// this process is loading its model, which may take long.
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

/// A server has too much to do, and has said for how long.
pub struct Pause {
    pub until: Instant,
    /// Its answer.
    pub why: String,
}

impl Shared {
    /// Whether a server that is ready has asked for a pause that is not over.
    pub fn is_pausing(&self, server: usize, now: Instant) -> bool {
        let is_ready = matches!(self.standing[server], Standing::Ready);
        let pause = self.pauses[server].as_ref();
        is_ready && pause.is_some_and(|pause| now < pause.until)
    }
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
    pub fn begin(self: &Arc<Self>, interrupted: &AtomicBool) -> Result<(), Failure> {
        let contacts = self.first_contacts(interrupted)?;
        for (server, first) in contacts.into_iter().enumerate() {
            let attending = Arc::clone(self);
            spawn(self, move || attending.attend(server, first));
        }
        Ok(())
    }

    /// Asks every server for the first time, and refuses to begin if they do not fit. Those that are not ready then are asked
    /// again while the others work.
    fn first_contacts(
        self: &Arc<Self>,
        interrupted: &AtomicBool,
    ) -> Result<Vec<Result<Contact, Unready>>, Failure> {
        const TICK: Duration = Duration::from_millis(100);
        let (sender, receiver) = channel();
        for server in 0..self.servers.len() {
            let (asking, sender) = (Arc::clone(self), sender.clone());
            spawn(self, move || {
                let contact = contact(&asking.servers[server], &asking.input.models);
                let _ = sender.send((server, contact));
            });
        }
        drop(sender);
        let mut contacts = BTreeMap::new();
        loop {
            match receiver.recv_timeout(TICK) {
                Ok((server, contact)) => {
                    contacts.insert(server, contact);
                }
                // One may be loading a model, or take its time not to answer.
                Err(RecvTimeoutError::Timeout) => Failure::if_interrupted(interrupted)?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let mut shared = self.lock();
        if let Some(failure) = shared.failure.take() {
            return Err(failure);
        }
        if contacts.len() < self.servers.len() {
            return Err(Failure::Stopped(PANICKED.to_owned()));
        }
        let contacts: Vec<_> = contacts.into_values().collect();
        for (server, contact) in self.servers.iter().zip(&contacts) {
            let unfit = match contact {
                Ok(contact) => shared.state.origins.admit(&contact.models).err(),
                Err(Unready::Unfit(why)) => Some(why.clone()),
                Err(Unready::NotYet(why)) => {
                    if shared.last_sign.is_some() {
                        tracing::info!("{} is not ready yet: {why}", server.url);
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
        // Patience is not for what came before.
        shared.last_sign = shared.last_sign.and(Some(Instant::now()));
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
                    if !self.welcome(server, &contact) {
                        return;
                    }
                    if !std::mem::replace(&mut has_workers, true) {
                        self.start_workers(server, contact.slots);
                    }
                    if !self.wait_until_away(server) {
                        return;
                    }
                    // One that seems to be ready, but answers nothing, is asked less and less often.
                    if self.lock().has_answered[server] {
                        pause = SHORTEST_PAUSE;
                    } else {
                        self.rest(Instant::now() + pause);
                        pause = (2 * pause).min(LONGEST_PAUSE);
                    }
                }
                Err(Unready::Unfit(why)) if !has_workers => return self.exclude(server, why),
                // What was fit may be so again: a proxy may have answered in its place.
                Err(Unready::NotYet(why) | Unready::Unfit(why)) => {
                    if !self.stay_away(server, why) {
                        return;
                    }
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

    /// Notes why a server is not ready. Returns whether it may be later: an answer that it gave before may have excluded it.
    fn stay_away(&self, server: usize, why: String) -> bool {
        let mut shared = self.lock();
        if matches!(shared.standing[server], Standing::Excluded(_)) {
            return false;
        }
        if let Standing::Ready = shared.standing[server] {
            tracing::warn!("{} is not ready any more: {why}", self.servers[server].url);
        }
        shared.standing[server] = Standing::Away(why);
        true
    }

    /// Begins to use a server, unless its answers would not fit the others, or one of them did not.
    fn welcome(&self, server: usize, contact: &Contact) -> bool {
        let mut shared = self.lock();
        if matches!(shared.standing[server], Standing::Excluded(_)) {
            return false;
        }
        if let Err(why) = shared.state.origins.admit(&contact.models) {
            drop(shared);
            self.exclude(server, why);
            return false;
        }
        if let Err(failure) = self.write_state(&mut shared) {
            drop(shared);
            self.fail(failure);
            return false;
        }
        if let Standing::Away(why) = &shared.standing[server]
            && !why.is_empty()
            && shared.last_sign.is_some()
        {
            tracing::info!("{} is ready", self.servers[server].url);
        }
        let has_answered = std::mem::replace(&mut shared.has_answered[server], false);
        if has_answered || shared.last_sign.is_none() {
            shared.last_sign = Some(Instant::now());
        }
        shared.standing[server] = Standing::Ready;
        self.changed.notify_all();
        true
    }

    fn start_workers(self: &Arc<Self>, server: usize, slots: Option<usize>) {
        const DEFAULT: usize = 16;
        let of_slots = |slots: usize| slots.max(1).saturating_mul(2).min(MOST_CONCURRENT);
        let count = self.concurrency.unwrap_or(slots.map_or(DEFAULT, of_slots));
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

    /// Waits until a server should be asked again whether it is ready. Returns whether it is still to be used.
    fn wait_until_away(&self, server: usize) -> bool {
        /// In a pause nothing is sent to it: it may end unnoticed.
        const LOOK_AGAIN: Duration = Duration::from_secs(60);
        let asked = Instant::now();
        let mut shared = self.lock();
        loop {
            let now = Instant::now();
            match shared.standing[server] {
                _ if shared.is_stopping => return false,
                Standing::Excluded(_) => return false,
                Standing::Away(_) => return true,
                Standing::Ready if now > asked + LOOK_AGAIN && shared.is_pausing(server, now) => {
                    return true;
                }
                Standing::Ready => shared = self.wait(shared, Some(now + LOOK_AGAIN)),
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
            Err(Broken {
                why,
                cause: Cause::NoFiles,
            }) => {
                /// For another worker to be done with its connection.
                const PAUSE: Duration = Duration::from_secs(1);
                static SAID: Once = Once::new();
                SAID.call_once(|| {
                    tracing::warn!(
                        "fewer requests are sent at once than --concurrency or the servers allow: {why}. Raise `ulimit -n`."
                    );
                });
                let now = Instant::now();
                self.again(task, Barred::Server(server), now);
                return Some(now + PAUSE);
            }
            Err(broken) => {
                self.broken(server, task, id, &broken);
                return None;
            }
        };
        match reply.meaning() {
            Meaning::Final => {
                if reply.is_ok() && !self.fits(server, &model, is_exact, &Signature::of(&reply)) {
                    self.again(task, Barred::Server(server), Instant::now());
                } else {
                    let line = record::answered(id, &reply);
                    self.finish(Some(server), task, &line, Usage::of(&reply));
                }
                None
            }
            Meaning::Busy => {
                /// Whatever the server says, it is not asked all the time.
                const LEAST: Duration = Duration::from_millis(100);
                let wait = reply.retry_after.unwrap_or_else(|| backoff(task.busy));
                let until = Instant::now() + wait.max(LEAST);
                let busy = task.busy + 1;
                if reply.retry_after.is_some() {
                    let why = reply.message();
                    self.pause(server, Pause { until, why });
                }
                self.again(Task { busy, ..task }, Barred::Server(server), until);
                // The others of this server keep it busy.
                Some(until)
            }
            Meaning::Failed => {
                const MOST_FAILURES: u32 = 3;
                let failed = task.failed + 1;
                if failed >= MOST_FAILURES {
                    self.finish(Some(server), task, &record::answered(id, &reply), None);
                } else {
                    let until = Instant::now() + backoff(task.failed);
                    self.again(Task { failed, ..task }, Barred::Server(server), until);
                }
                None
            }
            Meaning::WorkerDown => {
                let last = |_| record::answered(id, &reply);
                let asked = reply.retry_after.unwrap_or_default();
                self.ended(task, true, asked, last);
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

    /// Whether an answer may stand beside the others. If not, its server is not used any more.
    fn fits(&self, server: usize, model: &str, is_exact: bool, signature: &Signature) -> bool {
        let mut shared = self.lock();
        let checked = shared.state.origins.check(model, is_exact, signature);
        // An answer is not written before what it is compared with.
        let saved = self.write_state(&mut shared);
        drop(shared);
        if let Err(failure) = saved {
            self.fail(failure);
            return false;
        }
        checked.map_err(|why| self.exclude(server, why)).is_ok()
    }

    /// A line got no answer: the server has ended, the network has failed, or the request ends servers.
    fn broken(&self, server: usize, task: Task, id: &str, broken: &Broken) {
        let why = &broken.why;
        let url = &self.servers[server].url;
        let mut shared = self.lock();
        if let Standing::Ready = shared.standing[server] {
            tracing::warn!("{url} does not answer: {why}. What it was sent is sent again.");
            shared.standing[server] = Standing::Away(why.clone());
            // The thread that attends the server waits for this.
            self.changed.notify_all();
        }
        drop(shared);
        if broken.cause == Cause::NotReached {
            return self.again(task, Barred::Server(server), Instant::now());
        }
        let last = |attempts: u32| {
            let message = format!("No answer in {attempts} attempts; the last time, {url}: {why}");
            record::unanswered(id, "no_answer", &message)
        };
        self.ended(task, broken.cause == Cause::Ended, Duration::ZERO, last);
    }

    /// The server, or its part that ran a line, has ended, or did not answer in time. The line is sent again after a pause, at
    /// least the one that was `asked` for, but not for ever: it may be the reason. `last` makes its line in the output after so
    /// many attempts.
    fn ended(&self, task: Task, has_ended: bool, asked: Duration, last: impl Fn(u32) -> Vec<u8>) {
        /// Every time, a server was ready again in between.
        const MOST: u32 = 8;
        /// By then, most lines that were only sent beside one that ends servers have their answers.
        const SUSPECT: u32 = 2;
        let broken = task.broken + 1;
        if broken >= MOST {
            return self.finish(None, task, &last(broken), None);
        }
        let is_suspect = task.is_suspect || (has_ended && broken >= SUSPECT);
        let until = Instant::now() + backoff(task.broken).max(asked);
        let task = Task {
            broken,
            is_suspect,
            ..task
        };
        self.again(task, Barred::Everyone, until);
    }

    fn again(&self, task: Task, barred: Barred, not_before: Instant) {
        let mut shared = self.lock();
        shared.tally.repeated += 1;
        shared.work.put_back(task, barred, not_before);
        self.changed.notify_all();
    }

    /// A server has asked for a pause, in which nobody loses patience.
    fn pause(&self, server: usize, pause: Pause) {
        let mut shared = self.lock();
        shared.last_sign = Some(Instant::now());
        // Lines that were barred for longer still are.
        let known = shared.pauses[server].as_ref();
        if known.is_none_or(|known| known.until < pause.until) {
            shared.pauses[server] = Some(pause);
        }
    }

    /// Appends a line. `server`: the one that answered it, if it was not given up.
    fn finish(&self, server: Option<usize>, task: Task, line: &[u8], usage: Option<Usage>) {
        let output = self.output.lock();
        let appended = output.unwrap_or_else(PoisonError::into_inner).append(line);
        if let Err(failure) = appended {
            return self.fail(failure);
        }
        let mut shared = self.lock();
        shared.tally.finish(usage);
        if let Some(server) = server {
            shared.has_answered[server] = true;
            shared.last_sign = Some(Instant::now());
        }
        if shared.work.finish(task) {
            self.changed.notify_all();
        }
    }
}

/// An answer that a client can use. What a router says in place of a server, and what is cut off, is none.
fn whole(reply: Reply) -> Result<Reply, Broken> {
    let is_of_router = matches!(reply.status, 502 | 504);
    if is_of_router || (reply.is_ok() && !record::is_json(&reply.body)) {
        return Err(Broken {
            why: reply.message(),
            cause: Cause::Ended,
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
