//! The host threads on which cards compute.

use std::collections::VecDeque;
use std::io;
use std::num::NonZero;
use std::sync::{Arc, OnceLock};

use crate::lock::{Rank, RankedGuard, RankedMutex};
use crate::queue::Queue;
use crate::sync::Condvar;
use crate::sync::thread::{self, JoinHandle};

/// What each worker thread does first.
static ENTRY: OnceLock<fn()> = OnceLock::new();

/// Has each thread that cards compute on from now on call `entry` first: to give up privileges, say. Only the first call
/// has an effect.
pub fn set_worker_entry(entry: fn()) {
    // A second entry is what the documentation says it is.
    let _ = ENTRY.set(entry);
}

/// A bounded set of worker threads that serve queues in turn. The first thread starts at once, so that a host that refuses
/// threads is found out then; the others when there is work for them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    limit: usize,
    list: RankedMutex<List>,
    work: Condvar,
}

/// What there is to do. A queue stands in the list at most once, so its length is bounded by the number of queues.
#[derive(Default)]
struct List {
    queues: VecDeque<Arc<Queue>>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    stop: bool,
}

impl Pool {
    /// A pool of one thread more than the host has CPUs.
    pub(crate) fn new() -> io::Result<Self> {
        let limit = std::thread::available_parallelism().map_or(1, NonZero::get) + 1;
        let shared = Arc::new(Shared {
            limit,
            list: RankedMutex::new(Rank::Pool, List::default()),
            work: Condvar::new(),
        });
        shared.spawn(&mut shared.lock())?;
        Ok(Self { shared })
    }

    /// How many threads one queue may occupy: all but one, so that a slow queue does not stop the others.
    pub(crate) fn per_queue(&self) -> usize {
        (self.shared.limit - 1).max(1)
    }

    /// Tells whether threads of this pool live: each holds what this points to.
    #[cfg(test)]
    pub(crate) fn watch(&self) -> std::sync::Weak<dyn Send + Sync> {
        let shared: Arc<dyn Send + Sync> = self.shared.clone();
        Arc::downgrade(&shared)
    }

    /// Has a thread serve `queue`.
    pub(crate) fn submit(&self, queue: Arc<Queue>) {
        self.shared.submit(queue);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut list = self.shared.lock();
        list.stop = true;
        list.queues.clear();
        let threads = std::mem::take(&mut list.threads);
        drop(list);
        self.shared.work.notify_all();
        for thread in threads {
            // A worker catches what a card panics with; nothing is left to report here.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> RankedGuard<'_, List> {
        self.list.lock()
    }

    fn submit(self: &Arc<Self>, queue: Arc<Queue>) {
        let mut list = self.lock();
        list.queues.push_back(queue);
        if list.queues.len() > list.idle
            && list.threads.len() < self.limit
            && !list.stop
            && let Err(e) = self.spawn(&mut list)
        {
            log::warn!("start a worker for AP cards, {} run: {e}", list.threads.len());
        }
        let wake = list.idle > 0;
        drop(list);
        if wake {
            self.work.notify_one();
        }
    }

    fn spawn(self: &Arc<Self>, list: &mut List) -> io::Result<()> {
        let shared = self.clone();
        let name = format!("ap-card-{}", list.threads.len());
        list.threads.push(thread::spawn(&name, move || shared.run())?);
        Ok(())
    }

    fn run(self: Arc<Self>) {
        if let Some(entry) = ENTRY.get() {
            entry();
        }
        while let Some(queue) = self.next() {
            let (job, more) = queue.take_job();
            if more {
                self.submit(queue.clone());
            }
            if let Some(job) = job
                && queue.process(job)
            {
                self.submit(queue);
            }
        }
    }

    fn next(&self) -> Option<Arc<Queue>> {
        let mut list = self.lock();
        loop {
            if list.stop {
                return None;
            }
            if let Some(queue) = list.queues.pop_front() {
                return Some(queue);
            }
            list.idle += 1;
            list = list.wait(&self.work);
            list.idle -= 1;
        }
    }
}
