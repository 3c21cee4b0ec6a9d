//! A queue in which clients take turns. What it gives out is a permit, of which there are so many; waiting for one is bounded
//! in time and in number.
//!
//! A client's requests wait in order of arrival, and each client has one of them in the line for a permit, the rest behind
//! it. So a client with one request waits for no more than one of each other client's, however many those have.

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
    /// The clients that wait for something.
    clients: Mutex<HashMap<Arc<str>, Client>>,
    /// How many requests may wait, and how long.
    length: usize,
    timeout: Duration,
}

/// A client that waits.
#[derive(Debug)]
struct Client {
    /// Whoever holds it is in the line for a permit.
    turn: Arc<Semaphore>,
    /// Requests that wait for their first permit.
    waiting: usize,
    /// All that holds or waits for `turn`.
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

    /// A request's first permit: bounded in time, and refused when too many wait.
    pub async fn enter(&self, client: &Arc<str>) -> Result<OwnedSemaphorePermit, EngineError> {
        // A request behind another of the same client is not in the semaphore's own line.
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

    /// A further permit of a request that is in: it waits among the same client's, as long as it takes.
    pub async fn extend(&self, client: &Arc<str>) -> Result<OwnedSemaphorePermit, EngineError> {
        Waiting::new(self, client, false)?.permit().await
    }

    /// Nobody gets a permit any more.
    pub fn close(&self) {
        self.permits.close();
    }

    /// How many permits there are, how many of them are taken, and how many requests wait for their first one.
    pub fn load(&self) -> (usize, usize, usize) {
        let taken = self.size - self.permits.available_permits();
        (self.size, taken, waiting_in(&self.clients()))
    }

    /// Whether nobody waits, not even for a further permit.
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

/// Counts itself among the waiting, also when the wait is given up.
struct Waiting<'a> {
    queue: &'a FairQueue,
    client: &'a Arc<str>,
    turn: Arc<Semaphore>,
    first: bool,
}

impl<'a> Waiting<'a> {
    /// `first`: it is a request's first permit, for which only so many may wait. A client that has none waiting yet may
    /// wait all the same, so that nobody is kept out by another's queue.
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
