//! Admission: how many sequences run at once, and on which worker. A request waits for a slot here and nowhere else, in
//! a [`FairQueue`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::alive::Alive;
use super::error::EngineError;
use super::queue::FairQueue;

/// The slots of a model, over all its workers.
#[derive(Debug)]
pub struct Admission {
    queue: FairQueue,
    /// Sequences that each worker runs.
    loads: Mutex<Vec<usize>>,
    alive: Alive,
}

/// A slot on a worker. Dropping it frees the slot.
#[derive(Debug)]
pub struct Permit {
    pub worker: usize,
    admission: Arc<Admission>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Permit {
    /// The worker's load is reduced first, so that the next request to get the semaphore's permit finds room.
    fn drop(&mut self) {
        let mut loads = self
            .admission
            .loads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loads[self.worker] -= 1;
    }
}

impl Admission {
    pub fn new(
        slots: usize,
        alive: Alive,
        queue_length: usize,
        queue_timeout: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            queue: FairQueue::new(slots, queue_length, queue_timeout),
            loads: Mutex::new(vec![0; alive.workers()]),
            alive,
        })
    }

    /// A request's first slot. The wait is bounded in time, and refused if too many requests wait. `prefer` decides between
    /// equally loaded workers.
    pub async fn enter(
        self: &Arc<Self>,
        client: &Arc<str>,
        prefer: Option<usize>,
    ) -> Result<Permit, EngineError> {
        let permit = self.queue.enter(client).await?;
        Ok(self.assign(permit, prefer))
    }

    /// A further slot for a request that already has one. It waits its turn among the same client's requests, without a
    /// time limit.
    pub async fn extend(
        self: &Arc<Self>,
        client: &Arc<str>,
        prefer: Option<usize>,
    ) -> Result<Permit, EngineError> {
        let permit = self.queue.extend(client).await?;
        Ok(self.assign(permit, prefer))
    }

    /// Closes it: nobody gets a slot any more.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Slots in all, slots taken, and requests waiting for their first one.
    pub fn load(&self) -> (usize, usize, usize) {
        self.queue.load()
    }

    /// The live worker that runs the fewest sequences; between equals, the preferred one. While all workers are up there are
    /// as many permits as slots, so it has room; otherwise the sequence waits for a lane.
    fn assign(self: &Arc<Self>, permit: OwnedSemaphorePermit, prefer: Option<usize>) -> Permit {
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
        Permit {
            worker,
            admission: Arc::clone(self),
            _permit: permit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slots_are_spread_over_workers_and_freed() {
        let admission = Admission::new(3, Alive::new(2), 0, Duration::ZERO);
        let a = admission.enter(&"a".into(), None).await.expect("free");
        let b = admission.enter(&"a".into(), None).await.expect("free");
        assert_ne!(a.worker, b.worker);
        let c = admission.enter(&"a".into(), None).await.expect("free");
        assert_eq!(
            admission.enter(&"a".into(), None).await.err(),
            Some(EngineError::QueueFull { waiting: 0 })
        );
        let freed = b.worker;
        drop((b, a));
        drop(c);
        assert_eq!(*admission.loads.lock().expect("not poisoned"), [0, 0]);
        assert!(freed < 2);
        assert_eq!(admission.load(), (3, 0, 0));
    }

    #[tokio::test]
    async fn waiting_is_bounded_in_time_and_number() {
        let admission = Admission::new(1, Alive::new(1), 1, Duration::from_millis(20));
        let client: Arc<str> = "a".into();
        let held = admission.enter(&client, None).await.expect("free");
        let (first, second) = tokio::join!(
            admission.enter(&client, None),
            admission.enter(&client, None)
        );
        assert_eq!(
            first.err(),
            Some(EngineError::QueueTimeout { waited_ms: 20 })
        );
        assert_eq!(second.err(), Some(EngineError::QueueFull { waiting: 1 }));
        assert_eq!(admission.load(), (1, 1, 0));
        drop(held);
        assert!(admission.enter(&client, None).await.is_ok());
    }

    #[tokio::test]
    async fn requests_of_one_client_run_in_order() {
        let admission = Admission::new(1, Alive::new(1), 10, Duration::from_secs(60));
        let held = admission.enter(&"a".into(), None).await.expect("free");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..5 {
            let (admission, order) = (Arc::clone(&admission), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _permit = admission.enter(&"a".into(), None).await.expect("in time");
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
        let admission = Admission::new(1, Alive::new(1), 4, Duration::from_secs(60));
        let held = admission.enter(&"many".into(), None).await.expect("free");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for client in ["many", "many", "many", "many", "one", "two", "one"] {
            let (admission, order) = (Arc::clone(&admission), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let permit = admission.enter(&client.into(), None).await;
                order
                    .lock()
                    .expect("not poisoned")
                    .push((client, permit.is_ok()));
            }));
            tokio::task::yield_now().await;
        }
        // The queue is full when the other clients arrive: each may still have one request waiting.
        assert_eq!(admission.load(), (1, 1, 6));
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
        assert_eq!(admission.load(), (1, 0, 0));
        assert!(admission.queue.is_empty());
    }

    #[tokio::test]
    async fn a_worker_that_is_down_gets_no_sequence_while_another_is_up() {
        let alive = Alive::new(2);
        let admission = Admission::new(4, alive.clone(), 0, Duration::ZERO);
        alive.set(0, false);
        let a = admission.enter(&"a".into(), Some(0)).await.expect("free");
        let b = admission.enter(&"a".into(), Some(0)).await.expect("free");
        assert_eq!((a.worker, b.worker), (1, 1));
        alive.set(0, true);
        assert_eq!(
            admission
                .enter(&"a".into(), None)
                .await
                .expect("free")
                .worker,
            0
        );
    }
}
