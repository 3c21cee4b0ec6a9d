//! Places: how many sequences run at once, and where. Waiting for one happens here and nowhere else, in order of
//! arrival, bounded in time and in number.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::EngineError;

/// All places of a model, over all its workers.
#[derive(Debug)]
pub struct Places {
    permits: Arc<Semaphore>,
    /// Sequences that each worker runs.
    loads: Mutex<Vec<usize>>,
    /// Requests that wait for their first place.
    waiting: AtomicUsize,
    queue_length: usize,
    queue_timeout: Duration,
}

/// A permit and a lane's worth of a worker. Dropping it gives both back.
#[derive(Debug)]
pub struct Lease {
    /// The worker whose place it is.
    pub worker: usize,
    places: Arc<Places>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Lease {
    /// The worker's load goes first: who gets the permit next finds room.
    fn drop(&mut self) {
        let mut loads = self
            .places
            .loads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loads[self.worker] -= 1;
    }
}

impl Places {
    pub fn new(
        sequences: usize,
        workers: usize,
        queue_length: usize,
        queue_timeout: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(sequences)),
            loads: Mutex::new(vec![0; workers]),
            waiting: AtomicUsize::new(0),
            queue_length,
            queue_timeout,
        })
    }

    /// A request's first place, at the preferred worker if that has no more to do than others: bounded in time, and refused when too many wait.
    pub async fn enter(self: &Arc<Self>, prefer: Option<usize>) -> Result<Lease, EngineError> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(self.lease(permit, prefer));
        }
        let _waiting = Waiting::new(self)?;
        match tokio::time::timeout(
            self.queue_timeout,
            Arc::clone(&self.permits).acquire_owned(),
        )
        .await
        {
            Ok(Ok(permit)) => Ok(self.lease(permit, prefer)),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(EngineError::QueueTimeout {
                waited_ms: u64::try_from(self.queue_timeout.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }

    /// A further place of a request that is in: it waits in the same line, as long as it takes.
    pub async fn extend(self: &Arc<Self>, prefer: Option<usize>) -> Result<Lease, EngineError> {
        match Arc::clone(&self.permits).acquire_owned().await {
            Ok(permit) => Ok(self.lease(permit, prefer)),
            Err(_) => Err(closed()),
        }
    }

    /// Nobody gets a place any more.
    pub fn close(&self) {
        self.permits.close();
    }

    /// The worker with the fewest sequences, of equals the preferred one. There are as many permits as places, so it has room.
    fn lease(self: &Arc<Self>, permit: OwnedSemaphorePermit, prefer: Option<usize>) -> Lease {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = (0..loads.len())
            .min_by_key(|&worker| (loads[worker], Some(worker) != prefer))
            .unwrap_or(0);
        loads[worker] += 1;
        Lease {
            worker,
            places: Arc::clone(self),
            _permit: permit,
        }
    }
}

fn closed() -> EngineError {
    EngineError::Unavailable("The server is shutting down.".to_owned())
}

/// Counts itself among the waiting, also when the wait is given up.
struct Waiting<'a>(&'a Places);

impl<'a> Waiting<'a> {
    fn new(places: &'a Places) -> Result<Self, EngineError> {
        let before = places.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(places);
        if before >= places.queue_length {
            return Err(EngineError::QueueFull { waiting: before });
        }
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_spread_and_given_back() {
        let places = Places::new(3, 2, 0, Duration::ZERO);
        let a = places.enter(None).await.expect("free");
        let b = places.enter(None).await.expect("free");
        assert_ne!(a.worker, b.worker);
        let c = places.enter(None).await.expect("free");
        assert_eq!(
            places.enter(None).await.err(),
            Some(EngineError::QueueFull { waiting: 0 })
        );
        let freed = b.worker;
        drop((b, a));
        drop(c);
        assert_eq!(*places.loads.lock().expect("not poisoned"), [0, 0]);
        assert!(freed < 2);
        assert_eq!(places.permits.available_permits(), 3);
    }

    #[tokio::test]
    async fn waiting_is_bounded_in_time_and_number() {
        let places = Places::new(1, 1, 1, Duration::from_millis(20));
        let held = places.enter(None).await.expect("free");
        let (first, second) = tokio::join!(places.enter(None), places.enter(None));
        assert_eq!(
            first.err(),
            Some(EngineError::QueueTimeout { waited_ms: 20 })
        );
        assert_eq!(second.err(), Some(EngineError::QueueFull { waiting: 1 }));
        assert_eq!(places.waiting.load(Ordering::Relaxed), 0);
        drop(held);
        assert!(places.enter(None).await.is_ok());
    }

    #[tokio::test]
    async fn who_came_first_is_served_first() {
        let places = Places::new(1, 1, 10, Duration::from_secs(60));
        let held = places.enter(None).await.expect("free");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..5 {
            let (places, order) = (Arc::clone(&places), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _lease = places.enter(None).await.expect("in time");
                order.lock().expect("not poisoned").push(number);
            }));
            tokio::task::yield_now().await;
        }
        drop(held);
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(*order.lock().expect("not poisoned"), [0, 1, 2, 3, 4]);
    }
}
