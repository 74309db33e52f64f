//! Mutex, read-write lock, condition variable and threads: those of the standard library, and inside an execution of
//! shuttle (feature `shuttle`) those of shuttle, whose scheduler decides at each of their operations who goes on.
//!
//! What is made inside an execution belongs to it; everything else is the standard library's, also in a build with the
//! feature. So the program and all other tests run with the feature, too. Nothing made outside may be waited for inside:
//! all tasks of an execution share one thread.
//!
//! No lock is poisoned. A panic is our bug and is reported where it happens; what the locks guard is replaced by checked
//! values once a request is known to be good, so the other guests of a host need not go down with the thread that had the
//! bug.

#[cfg(feature = "shuttle")]
mod either;
mod host;

#[cfg(feature = "shuttle")]
pub(crate) use either::task;
#[cfg(feature = "shuttle")]
pub use either::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, thread};
#[cfg(not(feature = "shuttle"))]
pub use host::{Condvar, Mutex, RwLock, thread};
#[cfg(not(feature = "shuttle"))]
pub use std::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

/// The running task of an execution of shuttle.
#[cfg(not(feature = "shuttle"))]
pub(crate) fn task() -> Option<usize> {
    None
}
