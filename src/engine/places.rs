//! Places: how many sequences run at once, and where. Waiting for one happens here and nowhere else, in a [`FairQueue`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::alive::Alive;
use super::error::EngineError;
use super::queue::FairQueue;

/// All places of a model, over all its workers.
#[derive(Debug)]
pub struct Places {
    queue: FairQueue,
    /// Sequences that each worker runs.
    loads: Mutex<Vec<usize>>,
    alive: Alive,
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
        alive: Alive,
        queue_length: usize,
        queue_timeout: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            queue: FairQueue::new(sequences, queue_length, queue_timeout),
            loads: Mutex::new(vec![0; alive.workers()]),
            alive,
        })
    }

    /// A request's first place, at the preferred worker if that has no more to do than others: bounded in time, and
    /// refused when too many wait.
    pub async fn enter(
        self: &Arc<Self>,
        client: &Arc<str>,
        prefer: Option<usize>,
    ) -> Result<Lease, EngineError> {
        let permit = self.queue.enter(client).await?;
        Ok(self.lease(permit, prefer))
    }

    /// A further place of a request that is in: it waits among the same client's, as long as it takes.
    pub async fn extend(
        self: &Arc<Self>,
        client: &Arc<str>,
        prefer: Option<usize>,
    ) -> Result<Lease, EngineError> {
        let permit = self.queue.extend(client).await?;
        Ok(self.lease(permit, prefer))
    }

    /// Nobody gets a place any more.
    pub fn close(&self) {
        self.queue.close();
    }

    /// How many there are, how many of them are taken, and how many requests wait for their first one.
    pub fn load(&self) -> (usize, usize, usize) {
        self.queue.load()
    }

    /// Of the workers that run, the one with the fewest sequences, of equals the preferred one. While all run
    /// there are as many permits as places, so it has room; else the sequence waits for a lane.
    fn lease(self: &Arc<Self>, permit: OwnedSemaphorePermit, prefer: Option<usize>) -> Lease {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = (0..loads.len())
            .min_by_key(|&worker| {
                (
                    !self.alive.is(worker),
                    loads[worker],
                    Some(worker) != prefer,
                )
            })
            .unwrap_or(0);
        loads[worker] += 1;
        Lease {
            worker,
            places: Arc::clone(self),
            _permit: permit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn places_are_spread_and_given_back() {
        let places = Places::new(3, Alive::new(2), 0, Duration::ZERO);
        let a = places.enter(&"a".into(), None).await.expect("free");
        let b = places.enter(&"a".into(), None).await.expect("free");
        assert_ne!(a.worker, b.worker);
        let c = places.enter(&"a".into(), None).await.expect("free");
        assert_eq!(
            places.enter(&"a".into(), None).await.err(),
            Some(EngineError::QueueFull { waiting: 0 })
        );
        let freed = b.worker;
        drop((b, a));
        drop(c);
        assert_eq!(*places.loads.lock().expect("not poisoned"), [0, 0]);
        assert!(freed < 2);
        assert_eq!(places.load(), (3, 0, 0));
    }

    #[tokio::test]
    async fn waiting_is_bounded_in_time_and_number() {
        let places = Places::new(1, Alive::new(1), 1, Duration::from_millis(20));
        let client: Arc<str> = "a".into();
        let held = places.enter(&client, None).await.expect("free");
        let (first, second) =
            tokio::join!(places.enter(&client, None), places.enter(&client, None));
        assert_eq!(
            first.err(),
            Some(EngineError::QueueTimeout { waited_ms: 20 })
        );
        assert_eq!(second.err(), Some(EngineError::QueueFull { waiting: 1 }));
        assert_eq!(places.load(), (1, 1, 0));
        drop(held);
        assert!(places.enter(&client, None).await.is_ok());
    }

    #[tokio::test]
    async fn who_came_first_is_served_first() {
        let places = Places::new(1, Alive::new(1), 10, Duration::from_secs(60));
        let held = places.enter(&"a".into(), None).await.expect("free");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..5 {
            let (places, order) = (Arc::clone(&places), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _lease = places.enter(&"a".into(), None).await.expect("in time");
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

    #[tokio::test]
    async fn clients_take_turns() {
        let places = Places::new(1, Alive::new(1), 4, Duration::from_secs(60));
        let held = places.enter(&"many".into(), None).await.expect("free");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for client in ["many", "many", "many", "many", "one", "two", "one"] {
            let (places, order) = (Arc::clone(&places), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let lease = places.enter(&client.into(), None).await;
                order
                    .lock()
                    .expect("not poisoned")
                    .push((client, lease.is_ok()));
            }));
            tokio::task::yield_now().await;
        }
        // The queue is full when the others come: each may have one waiting all the same.
        assert_eq!(places.load(), (1, 1, 6));
        drop(held);
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(
            *order.lock().expect("not poisoned"),
            [
                ("one", false),
                ("many", true),
                ("one", true),
                ("two", true),
                ("many", true),
                ("many", true),
                ("many", true)
            ]
        );
        assert_eq!(places.load(), (1, 0, 0));
        assert!(places.queue.is_empty());
    }

    #[tokio::test]
    async fn a_worker_that_is_down_gets_nothing_while_another_runs() {
        let alive = Alive::new(2);
        let places = Places::new(4, alive.clone(), 0, Duration::ZERO);
        alive.set(0, false);
        let a = places.enter(&"a".into(), Some(0)).await.expect("free");
        let b = places.enter(&"a".into(), Some(0)).await.expect("free");
        assert_eq!((a.worker, b.worker), (1, 1));
        alive.set(0, true);
        assert_eq!(
            places.enter(&"a".into(), None).await.expect("free").worker,
            0
        );
    }
}
