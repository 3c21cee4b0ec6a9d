//! A semaphore with a fair queue: clients take turns, and waiting is bounded in time and in number.
//!
//! A client's requests wait in order of arrival, and only the first of them waits for a permit. So a client with one
//! request waits for at most one request of each other client, however many those have.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::EngineError;

#[derive(Debug)]
pub struct FairQueue {
    permits: Arc<Semaphore>,
    /// Permits in all.
    size: usize,
    /// The clients that wait.
    clients: Mutex<HashMap<Arc<str>, Client>>,
    /// How many requests may wait, and how long.
    length: usize,
    timeout: Duration,
}

/// A client that waits.
#[derive(Debug)]
struct Client {
    /// Its holder waits for a permit.
    turn: Arc<Semaphore>,
    /// Requests that wait for their first permit.
    waiting: usize,
    /// Requests that hold or wait for `turn`.
    users: usize,
}

impl FairQueue {
    pub fn new(size: usize, length: usize, timeout: Duration) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(size)),
            size,
            clients: Mutex::default(),
            length,
            timeout,
        }
    }

    /// A request's first permit. The wait is bounded in time, and refused if too many requests wait.
    pub async fn enter(&self, client: &Arc<str>) -> Result<OwnedSemaphorePermit, EngineError> {
        // Only the first request of each client waits at the semaphore itself.
        let nobody_waits = self.clients().is_empty();
        if nobody_waits && let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let waiting = Waiting::new(self, client, true)?;
        tokio::time::timeout(self.timeout, waiting.permit())
            .await
            .unwrap_or(Err(EngineError::QueueTimeout {
                waited_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
            }))
    }

    /// A further permit for a request that already has one. It waits its turn among the same client's requests, without a
    /// time limit.
    pub async fn extend(&self, client: &Arc<str>) -> Result<OwnedSemaphorePermit, EngineError> {
        Waiting::new(self, client, false)?.permit().await
    }

    /// Closes it: nobody gets a permit any more.
    pub fn close(&self) {
        self.permits.close();
    }

    /// Permits in all, permits taken, and requests waiting for their first one.
    pub fn load(&self) -> (usize, usize, usize) {
        let taken = self.size - self.permits.available_permits();
        (self.size, taken, waiting_in(&self.clients()))
    }

    /// Whether no request is waiting, neither for a first permit nor for a further one.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.clients().is_empty()
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<Arc<str>, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn waiting_in(clients: &HashMap<Arc<str>, Client>) -> usize {
    clients.values().map(|client| client.waiting).sum()
}

/// A request that waits. Dropping it, also when the wait is cancelled, removes it from the count.
struct Waiting<'a> {
    queue: &'a FairQueue,
    client: &'a Arc<str>,
    turn: Arc<Semaphore>,
    first: bool,
}

impl<'a> Waiting<'a> {
    /// `first`: for a request's first permit, for which the number of waiting requests is bounded. A client with no waiting
    /// request may exceed the bound, so that no client is kept out by another's queue.
    fn new(queue: &'a FairQueue, client: &'a Arc<str>, first: bool) -> Result<Self, EngineError> {
        let mut clients = queue.clients();
        let waiting = waiting_in(&clients);
        let own = clients.get(client).map_or(0, |client| client.waiting);
        let room = waiting < queue.length || (own == 0 && waiting < 2 * queue.length);
        if first && !room {
            return Err(EngineError::QueueFull { waiting });
        }
        let entry = clients.entry(Arc::clone(client)).or_insert_with(|| Client {
            turn: Arc::new(Semaphore::new(1)),
            waiting: 0,
            users: 0,
        });
        entry.waiting += usize::from(first);
        entry.users += 1;
        Ok(Self {
            queue,
            client,
            turn: Arc::clone(&entry.turn),
            first,
        })
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, EngineError> {
        let _turn = self.turn.acquire().await;
        Arc::clone(&self.queue.permits)
            .acquire_owned()
            .await
            .map_err(|_| EngineError::closing())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut clients = self.queue.clients();
        if let Some(client) = clients.get_mut(self.client) {
            client.waiting -= usize::from(self.first);
            client.users -= 1;
            if client.users == 0 {
                clients.remove(self.client);
            }
        }
    }
}
