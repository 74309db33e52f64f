//! The standard library's locks or shuttle's, as where they are made asks for.

use std::fmt::Debug;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

use shuttle::sync as controlled;

use super::host;

/// The running task of an execution of shuttle.
pub(crate) fn task() -> Option<usize> {
    shuttle::current::try_get_current_task().map(usize::from)
}

/// The host's, or one that shuttle controls.
#[derive(Debug)]
pub enum Either<H, C> {
    /// The standard library's.
    Host(H),
    /// Shuttle's.
    Controlled(C),
}

impl<H, C> Either<H, C> {
    fn new(host: impl FnOnce() -> H, controlled: impl FnOnce() -> C) -> Self {
        if task().is_none() { Self::Host(host()) } else { Self::Controlled(controlled()) }
    }
}

impl<H: Deref, C: Deref<Target = H::Target>> Deref for Either<H, C> {
    type Target = H::Target;
    fn deref(&self) -> &H::Target {
        match self {
            Self::Host(guard) => guard,
            Self::Controlled(guard) => guard,
        }
    }
}

impl<H: DerefMut, C: DerefMut<Target = H::Target>> DerefMut for Either<H, C> {
    fn deref_mut(&mut self) -> &mut H::Target {
        match self {
            Self::Host(guard) => guard,
            Self::Controlled(guard) => guard,
        }
    }
}

/// A held mutex.
pub type MutexGuard<'a, T> = Either<std::sync::MutexGuard<'a, T>, controlled::MutexGuard<'a, T>>;
/// A lock held by readers.
pub type RwLockReadGuard<'a, T> =
    Either<std::sync::RwLockReadGuard<'a, T>, controlled::RwLockReadGuard<'a, T>>;
/// A lock held by a writer.
pub type RwLockWriteGuard<'a, T> =
    Either<std::sync::RwLockWriteGuard<'a, T>, controlled::RwLockWriteGuard<'a, T>>;

/// A mutex.
#[derive(Debug)]
pub struct Mutex<T>(Either<host::Mutex<T>, controlled::Mutex<T>>);

impl<T> Mutex<T> {
    /// A free mutex.
    pub fn new(value: T) -> Self {
        Self(match task() {
            None => Either::Host(host::Mutex::new(value)),
            Some(_) => Either::Controlled(controlled::Mutex::new(value)),
        })
    }

    /// Takes the lock, waiting for it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        match &self.0 {
            Either::Host(lock) => Either::Host(lock.lock()),
            Either::Controlled(lock) => {
                Either::Controlled(lock.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }

    /// The value of a lock that nobody else can reach.
    pub fn get_mut(&mut self) -> &mut T {
        match &mut self.0 {
            Either::Host(lock) => lock.get_mut(),
            Either::Controlled(lock) => lock.get_mut().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Ends the lock.
    pub fn into_inner(self) -> T {
        match self.0 {
            Either::Host(lock) => lock.into_inner(),
            Either::Controlled(lock) => lock.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A read-write lock.
#[derive(Debug)]
pub struct RwLock<T>(Either<host::RwLock<T>, controlled::RwLock<T>>);

impl<T> RwLock<T> {
    /// A free lock.
    pub fn new(value: T) -> Self {
        Self(match task() {
            None => Either::Host(host::RwLock::new(value)),
            Some(_) => Either::Controlled(controlled::RwLock::new(value)),
        })
    }

    /// Takes the lock together with other readers, waiting for it.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        match &self.0 {
            Either::Host(lock) => Either::Host(lock.read()),
            Either::Controlled(lock) => {
                Either::Controlled(lock.read().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }

    /// Takes the lock for the caller alone, waiting for it.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        match &self.0 {
            Either::Host(lock) => Either::Host(lock.write()),
            Either::Controlled(lock) => {
                Either::Controlled(lock.write().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }

    /// The value of a lock that nobody else can reach.
    pub fn get_mut(&mut self) -> &mut T {
        match &mut self.0 {
            Either::Host(lock) => lock.get_mut(),
            Either::Controlled(lock) => lock.get_mut().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Ends the lock.
    pub fn into_inner(self) -> T {
        match self.0 {
            Either::Host(lock) => lock.into_inner(),
            Either::Controlled(lock) => lock.into_inner().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A condition variable.
#[derive(Debug)]
pub struct Condvar(Either<host::Condvar, controlled::Condvar>);

impl Condvar {
    /// A condition variable that nobody waits for.
    pub fn new() -> Self {
        Self(Either::new(host::Condvar::new, controlled::Condvar::new))
    }

    /// Releases the lock, waits for a notification (or for no reason at all), and takes the lock again.
    ///
    /// # Panics
    /// If one of the two was made inside an execution of shuttle and the other outside.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        match (&self.0, guard) {
            (Either::Host(condvar), Either::Host(guard)) => Either::Host(condvar.wait(guard)),
            (Either::Controlled(condvar), Either::Controlled(guard)) => {
                Either::Controlled(condvar.wait(guard).unwrap_or_else(PoisonError::into_inner))
            }
            _ => panic!("a mutex and its condition variable are made together"),
        }
    }

    /// As [`Self::wait`], for no longer than `limit`. Also returns whether the time was up. An execution has no time: there
    /// it waits for the notification.
    ///
    /// # Panics
    /// As [`Self::wait`].
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        match (&self.0, guard) {
            (Either::Host(condvar), Either::Host(guard)) => {
                let (guard, timeout) = condvar.wait_timeout(guard, limit);
                (Either::Host(guard), timeout)
            }
            (_, guard) => (self.wait(guard), false),
        }
    }

    /// Wakes one waiting thread.
    pub fn notify_one(&self) {
        match &self.0 {
            Either::Host(condvar) => condvar.notify_one(),
            Either::Controlled(condvar) => condvar.notify_one(),
        }
    }

    /// Wakes all waiting threads.
    pub fn notify_all(&self) {
        match &self.0 {
            Either::Host(condvar) => condvar.notify_all(),
            Either::Controlled(condvar) => condvar.notify_all(),
        }
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

/// Threads.
pub mod thread {
    use std::io;

    use super::{Either, host, task};

    /// A thread that can be waited for.
    #[derive(Debug)]
    pub struct JoinHandle<T>(Either<std::thread::JoinHandle<T>, shuttle::thread::JoinHandle<T>>);

    impl<T> JoinHandle<T> {
        /// Waits until the thread ends.
        ///
        /// # Errors
        /// What the thread panicked with.
        pub fn join(self) -> std::thread::Result<T> {
            match self.0 {
                Either::Host(handle) => handle.join(),
                Either::Controlled(handle) => handle.join(),
            }
        }
    }

    /// Starts a thread of this name; inside an execution, a task of it.
    ///
    /// # Errors
    /// The host refused a thread.
    pub fn spawn<T, F>(name: &str, code: F) -> io::Result<JoinHandle<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let handle = match task() {
            None => Either::Host(host::thread::spawn(name, code)?),
            Some(_) => Either::Controlled(shuttle::thread::Builder::new().name(name.to_owned()).spawn(code)?),
        };
        Ok(JoinHandle(handle))
    }

    /// Lets others run.
    pub fn yield_now() {
        match task() {
            None => std::thread::yield_now(),
            Some(_) => shuttle::thread::yield_now(),
        }
    }
}
