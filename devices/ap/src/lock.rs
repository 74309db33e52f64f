//! Ranked locks: whoever takes them out of order is told at once, by a panic, and not by a rare deadlock.
//!
//! The order is that of Linux's vfio_ap and AP bus (outer to inner: `ap_attr_mutex`, `guests_lock`, `kvm->lock`,
//! `pqap_hook_rwsem`, `mdevs_lock`), with plugging and the bus scan before it, and behind it the locks of the machine below
//! and of whoever is told: [`Rank`]. A thread takes a lock only if it ranks behind all that the thread holds. The order alone
//! decides, so a run on one thread finds what could deadlock several.
//!
//! * [`RankedMutex`] and [`RankedRwLock`] are the locks of [`crate::sync`] with a rank. Guards may be dropped in any order.
//! * [`record`] tells which locks a piece of code took, from which the model in `tests/deadlock.rs` is built.
//!
//! The check needs debug assertions or the feature `lock-order` ([`CHECKED`]). Without them, taking a ranked lock is taking
//! the lock inside.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use crate::sync::{self, Condvar};

/// Whether this build checks the order and can [`record`].
pub const CHECKED: bool = cfg!(any(test, debug_assertions, feature = "lock-order"));

/// Where a lock stands in the order, outer to inner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rank {
    /// One device of a VM comes or goes at a time, with all that its host does for that.
    Plugging,
    /// One scan of the AP bus at a time, from "configuration changed" to "scan complete".
    Bus,
    /// The masks `apmask` and `aqmask` and who may own a queue (`ap_attr_mutex`, in older kernels `ap_perms_mutex`). An
    /// assignment takes it first, because it asks the bus whether a queue is the default drivers', and the bus asks
    /// vfio_ap under it whether a queue is in use.
    ApAttr,
    /// Which guest uses which mediated device (`matrix_dev->guests_lock`); the list of mediated devices stays as it is
    /// while it is held.
    Guests,
    /// One guest's machine (`kvm->lock`), keyed by guest. Several may be held, taken in ascending order of their keys.
    Vm,
    /// What a guest's PQAP(AQIC) is handed to (`pqap_hook_rwsem`).
    PqapHook,
    /// The mediated devices' matrices and queues (`matrix_dev->mdevs_lock`).
    Mdevs,
    /// A guest's AP instructions in flight: read by an instruction while it runs, written by whoever changes the CRYCB.
    Instructions,
    /// Which adapters and domains the machine has; of a machine in several processes, also who has used which queue.
    Hardware,
    /// What the cards' threads have to do. No queue may be held, since a thread that takes its next queue locks both.
    Pool,
    /// One queue of the hardware, keyed by APQN.
    Queue,
    /// The keys that a card remembers for a queue.
    Session,
    /// Where a card draws random bytes from.
    Random,
    /// What a guest's queues hold of the host: pins and interruption subclasses.
    Ledger,
    /// Who is told what happens on the host.
    Events,
    /// What waits for one who is told.
    Watch,
    /// The clients of an AP host in a process of its own.
    Clients,
    /// What is on its way to the other end of a connection, keyed by client.
    Connection,
    /// A VM's own note of the device that it has.
    Device,
}

/// A lock's rank and key. Shown as the lock's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId {
    /// Its rank.
    pub rank: Rank,
    /// Which one of its rank; 0 where there is but one.
    pub key: u64,
}

impl LockId {
    /// Whether this lock may be taken while `held` is held. Of one rank, only machines' locks nest.
    pub fn nests_in(self, held: LockId) -> bool {
        held.rank < self.rank || (self.rank == Rank::Vm && held.rank == Rank::Vm && held.key < self.key)
    }
}

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.rank {
            Rank::Plugging => "plugging",
            Rank::Bus => "bus",
            Rank::ApAttr => "ap_attr",
            Rank::Guests => "guests",
            Rank::Vm => return write!(f, "vm {:#x}", self.key),
            Rank::PqapHook => "pqap_hook",
            Rank::Mdevs => "mdevs",
            Rank::Instructions => "instructions",
            Rank::Hardware => "hardware",
            Rank::Pool => "pool",
            Rank::Queue => return write!(f, "queue {:#x}", self.key),
            Rank::Session => "session",
            Rank::Random => "random",
            Rank::Ledger => "ledger",
            Rank::Events => "events",
            Rank::Watch => "watch",
            Rank::Clients => "clients",
            Rank::Connection => return write!(f, "connection {}", self.key),
            Rank::Device => "device",
        };
        f.write_str(name)
    }
}

/// What a thread did with a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Took it for itself alone.
    Lock,
    /// Took it together with other readers.
    Read,
    /// Gave it back.
    Release,
}

/// One step of a recorded sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LockEvent {
    /// What was done.
    pub action: Action,
    /// To which lock.
    pub lock: LockId,
}

/// Runs `code` and returns, with its result, what it did with ranked locks on the calling thread, in order. Threads that it
/// starts record for themselves.
///
/// # Panics
/// Inside another recording, and in a build that does not keep the order ([`CHECKED`]).
pub fn record<R>(code: impl FnOnce() -> R) -> (R, Vec<LockEvent>) {
    if !CHECKED {
        panic!("recording locks needs debug assertions or the feature lock-order");
    }
    /// Ends the recording on every way out.
    struct Recording;
    impl Drop for Recording {
        fn drop(&mut self) {
            order::stop_recording();
        }
    }
    order::start_recording();
    let recording = Recording;
    let result = code();
    let events = order::stop_recording();
    drop(recording);
    (result, events)
}

/// A mutex with a rank.
///
/// Like every lock of [`crate::sync`] it is not poisoned by a panic.
#[derive(Debug)]
pub struct RankedMutex<T> {
    id: LockId,
    inner: sync::Mutex<T>,
}

impl<T> RankedMutex<T> {
    /// The only lock of its rank.
    pub fn new(rank: Rank, value: T) -> Self {
        Self::with_key(rank, 0, value)
    }

    /// One of several locks of a rank.
    pub fn with_key(rank: Rank, key: u64, value: T) -> Self {
        Self { id: LockId { rank, key }, inner: sync::Mutex::new(value) }
    }

    /// Its rank and key.
    pub fn id(&self) -> LockId {
        self.id
    }

    /// Takes the lock, waiting for it.
    ///
    /// # Panics
    /// In a build that checks, if the thread holds a lock that this one may not be taken behind.
    pub fn lock(&self) -> RankedGuard<'_, T> {
        let (inner, held) = Held::take(self.id, Action::Lock, || self.inner.lock());
        RankedGuard { inner, held }
    }

    /// The value of a lock that nobody else can reach.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    /// Ends the lock.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

/// A read-write lock with a rank. Also readers take it once only: a second reader behind a waiting writer would wait
/// for the writer, and the writer for the first.
///
/// Like every lock of [`crate::sync`] it is not poisoned by a panic.
#[derive(Debug)]
pub struct RankedRwLock<T> {
    id: LockId,
    inner: sync::RwLock<T>,
}

impl<T> RankedRwLock<T> {
    /// The only lock of its rank.
    pub fn new(rank: Rank, value: T) -> Self {
        Self::with_key(rank, 0, value)
    }

    /// One of several locks of a rank.
    pub fn with_key(rank: Rank, key: u64, value: T) -> Self {
        Self { id: LockId { rank, key }, inner: sync::RwLock::new(value) }
    }

    /// Its rank and key.
    pub fn id(&self) -> LockId {
        self.id
    }

    /// Takes the lock together with other readers, waiting for it.
    ///
    /// # Panics
    /// As [`RankedMutex::lock`].
    pub fn read(&self) -> RankedReadGuard<'_, T> {
        let (inner, held) = Held::take(self.id, Action::Read, || self.inner.read());
        RankedReadGuard { inner, _held: held }
    }

    /// Takes the lock for the caller alone, waiting for it.
    ///
    /// # Panics
    /// As [`RankedMutex::lock`].
    pub fn write(&self) -> RankedWriteGuard<'_, T> {
        let (inner, held) = Held::take(self.id, Action::Lock, || self.inner.write());
        RankedWriteGuard { inner, _held: held }
    }

    /// The value of a lock that nobody else can reach.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    /// Ends the lock.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

/// A held [`RankedMutex`].
#[derive(Debug)]
#[must_use = "dropping the guard releases the lock"]
pub struct RankedGuard<'a, T> {
    // The lock goes before the note that it is held, here and below.
    inner: sync::MutexGuard<'a, T>,
    held: Held,
}

impl<'a, T> RankedGuard<'a, T> {
    /// Releases the lock, waits until `condvar` is notified (or for no reason at all), and takes the lock again.
    ///
    /// # Panics
    /// In a build that checks, if the thread holds a lock behind this one.
    pub fn wait(self, condvar: &Condvar) -> Self {
        let Self { inner, held } = self;
        let (inner, held) = held.retake(|| condvar.wait(inner));
        Self { inner, held }
    }

    /// As [`Self::wait`], for no longer than `limit`. Also returns whether the time was up.
    ///
    /// # Panics
    /// As [`Self::wait`].
    pub fn wait_timeout(self, condvar: &Condvar, limit: Duration) -> (Self, bool) {
        let Self { inner, held } = self;
        let ((inner, timeout), held) = held.retake(|| condvar.wait_timeout(inner, limit));
        (Self { inner, held }, timeout)
    }

    /// [Waits](Self::wait) as long as `condition` holds.
    ///
    /// # Panics
    /// As [`Self::wait`].
    pub fn wait_while(mut self, condvar: &Condvar, mut condition: impl FnMut(&mut T) -> bool) -> Self {
        while condition(&mut self) {
            self = self.wait(condvar);
        }
        self
    }

    /// As [`Self::wait_while`], for no longer than `limit` in all. Also returns whether the condition held to the end.
    ///
    /// # Panics
    /// As [`Self::wait`].
    pub fn wait_timeout_while(
        mut self,
        condvar: &Condvar,
        limit: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> (Self, bool) {
        let began = Instant::now();
        while condition(&mut self) {
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                return (self, true);
            }
            (self, _) = self.wait_timeout(condvar, left);
        }
        (self, false)
    }
}

impl<T> Deref for RankedGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for RankedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A [`RankedRwLock`] held by readers.
#[derive(Debug)]
#[must_use = "dropping the guard releases the lock"]
pub struct RankedReadGuard<'a, T> {
    inner: sync::RwLockReadGuard<'a, T>,
    _held: Held,
}

impl<T> Deref for RankedReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

/// A [`RankedRwLock`] held by a writer.
#[derive(Debug)]
#[must_use = "dropping the guard releases the lock"]
pub struct RankedWriteGuard<'a, T> {
    inner: sync::RwLockWriteGuard<'a, T>,
    _held: Held,
}

impl<T> Deref for RankedWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for RankedWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// The note that the calling thread holds a lock. It stays on that thread.
#[derive(Debug)]
struct Held {
    id: LockId,
    thread: PhantomData<std::sync::MutexGuard<'static, ()>>,
}

impl Held {
    /// Takes a lock by `take`, if the order allows.
    fn take<G>(id: LockId, action: Action, take: impl FnOnce() -> G) -> (G, Self) {
        if CHECKED {
            order::check(id);
        }
        let guard = take();
        if CHECKED {
            order::taken(LockEvent { action, lock: id });
        }
        (guard, Self { id, thread: PhantomData })
    }

    /// Gives the lock up and takes it again, both by `wait`.
    fn retake<G>(self, wait: impl FnOnce() -> G) -> (G, Self) {
        let id = self.id;
        drop(self);
        Self::take(id, Action::Lock, wait)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if CHECKED {
            order::released(self.id);
        }
    }
}

/// What each thread holds and records.
mod order {
    use super::*;

    #[derive(Default)]
    struct Thread {
        held: Vec<LockId>,
        recording: Option<Vec<LockEvent>>,
    }

    thread_local! {
        /// By task of an execution of shuttle, whose tasks share one thread of the host; otherwise one.
        static THREADS: RefCell<BTreeMap<Option<usize>, Thread>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Calls `f` with the calling thread's notes. They are gone while a thread's storage is being destroyed: a lock taken
    /// there goes unchecked.
    fn with<R: Default>(f: impl FnOnce(&mut Thread) -> R) -> R {
        let visit = |threads: &RefCell<BTreeMap<Option<usize>, Thread>>| {
            let mut threads = threads.borrow_mut();
            let task = sync::task();
            let thread = threads.entry(task).or_default();
            let result = f(thread);
            if thread.held.is_empty() && thread.recording.is_none() {
                threads.remove(&task);
            }
            result
        };
        THREADS.try_with(visit).unwrap_or_default()
    }

    pub(super) fn check(id: LockId) {
        let wrong = with(|thread| {
            let held = thread.held.iter().find(|held| !id.nests_in(**held))?;
            let list: Vec<_> = thread.held.iter().map(LockId::to_string).collect();
            Some(format!("lock order: {id} taken while {held} is held; all held: {}", list.join(", ")))
        });
        if let Some(wrong) = wrong {
            panic!("{wrong}");
        }
    }

    pub(super) fn taken(event: LockEvent) {
        with(|thread| {
            thread.held.push(event.lock);
            thread.recording.iter_mut().for_each(|events| events.push(event));
        });
    }

    pub(super) fn released(lock: LockId) {
        with(|thread| {
            // The order admits a lock's identity only once on a thread.
            thread.held.retain(|held| *held != lock);
            let event = LockEvent { action: Action::Release, lock };
            thread.recording.iter_mut().for_each(|events| events.push(event));
        });
    }

    pub(super) fn start_recording() {
        let nested = with(|thread| thread.recording.replace(Vec::new()).is_some());
        assert!(!nested, "locks are recorded already on this thread");
    }

    pub(super) fn stop_recording() -> Vec<LockEvent> {
        with(|thread| thread.recording.take()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use Rank::*;

    const ALL: [Rank; 8] = [Bus, ApAttr, Guests, Vm, PqapHook, Mdevs, Instructions, Queue];

    /// Takes the locks in turn, every second time as readers' locks, and returns what the check says to the last.
    fn check(locks: &[(Rank, u64)]) -> Option<String> {
        for shared in [false, true] {
            let mutexes: Vec<_> = locks.iter().map(|(r, k)| RankedMutex::with_key(*r, *k, ())).collect();
            let rwlocks: Vec<_> = locks.iter().map(|(r, k)| RankedRwLock::with_key(*r, *k, ())).collect();
            let mut guards: (Vec<_>, Vec<_>) = Default::default();
            for i in 0..locks.len() {
                let take = AssertUnwindSafe(|| {
                    if shared { guards.1.push(rwlocks[i].read()) } else { guards.0.push(mutexes[i].lock()) }
                });
                if let Err(panic) = catch_unwind(take) {
                    assert_eq!(i + 1, locks.len(), "an earlier one was refused");
                    if shared {
                        return panic.downcast_ref::<String>().cloned();
                    }
                }
            }
        }
        None
    }

    #[test]
    fn every_pair_is_allowed_inwards_only() {
        for outer in ALL {
            for inner in ALL {
                assert_eq!(check(&[(outer, 0), (inner, 0)]).is_none(), outer < inner, "{outer:?} {inner:?}");
            }
        }
        assert!(check(&ALL.map(|rank| (rank, 0))).is_none());
    }

    #[test]
    fn only_machines_nest_and_by_ascending_key() {
        type Row<'a> = (&'a [(Rank, u64)], Option<&'a str>);
        let rows: &[Row<'_>] = &[
            (&[(Guests, 0), (Vm, 1), (Vm, 2), (Vm, 9), (Mdevs, 0)], None),
            (&[(Vm, 2), (Vm, 1)], Some("lock order: vm 0x1 taken while vm 0x2 is held; all held: vm 0x2")),
            (&[(Vm, 1), (Vm, 1)], Some("lock order: vm 0x1 taken while vm 0x1 is held; all held: vm 0x1")),
            (
                &[(Queue, 1), (Queue, 2)],
                Some("lock order: queue 0x2 taken while queue 0x1 is held; all held: queue 0x1"),
            ),
            (
                &[(Guests, 0), (Mdevs, 0), (ApAttr, 0)],
                Some("lock order: ap_attr taken while guests is held; all held: guests, mdevs"),
            ),
            (
                &[(ApAttr, 0), (Vm, 7), (Guests, 0)],
                Some("lock order: guests taken while vm 0x7 is held; all held: ap_attr, vm 0x7"),
            ),
        ];
        for (locks, says) in rows {
            assert_eq!(check(locks).as_deref(), *says, "{locks:?}");
        }
    }

    #[test]
    fn guards_go_in_any_order_and_threads_are_apart() {
        let (attr, guests, mdevs) =
            (RankedMutex::new(ApAttr, 1), RankedMutex::new(Guests, 2), RankedRwLock::new(Mdevs, 3));
        let (a, g) = (attr.lock(), guests.lock());
        let m = mdevs.read();
        drop(a);
        drop(g);
        std::thread::scope(|s| s.spawn(|| assert_eq!(*attr.lock(), 1)).join().unwrap());
        assert!(catch_unwind(AssertUnwindSafe(|| attr.lock())).is_err());
        drop(m);
        let mut all = attr.lock();
        *all += *guests.lock() + *mdevs.read();
        assert_eq!(*all, 6);
    }

    #[test]
    fn a_panic_leaves_the_lock_and_the_notes_in_order() {
        let guests = RankedMutex::new(Guests, 0);
        let broken = catch_unwind(AssertUnwindSafe(|| {
            *guests.lock() = 1;
            let _guard = guests.lock();
            panic!("our bug");
        }));
        assert!(broken.is_err());
        assert_eq!(*guests.lock(), 1);
        assert_eq!(*guests.lock(), 1, "nothing counts as held");
    }

    #[test]
    fn recordings_tell_each_step() {
        let (guests, vm, hook) =
            (RankedMutex::new(Guests, ()), RankedMutex::with_key(Vm, 5, ()), RankedRwLock::new(PqapHook, ()));
        let (value, events) = record(|| {
            let g = guests.lock();
            let v = vm.lock();
            drop(g);
            drop(hook.read());
            drop(v);
            drop(hook.write());
            7
        });
        let (g, v, h) = (guests.id(), vm.id(), hook.id());
        let expected = [
            (Action::Lock, g),
            (Action::Lock, v),
            (Action::Release, g),
            (Action::Read, h),
            (Action::Release, h),
            (Action::Release, v),
            (Action::Lock, h),
            (Action::Release, h),
        ];
        assert_eq!(value, 7);
        assert_eq!(events, expected.map(|(action, lock)| LockEvent { action, lock }));
        let failed = catch_unwind(AssertUnwindSafe(|| record(|| panic!("inside"))));
        assert!(failed.is_err());
        assert_eq!(record(|| drop(guests.lock())).1.len(), 2, "the failed recording ended");
    }

    #[test]
    fn waiting_releases_and_takes_again() {
        let shared = Arc::new((RankedMutex::new(Mdevs, 0), Condvar::new()));
        let other = shared.clone();
        let thread = sync::thread::spawn("notifier", move || {
            *other.0.lock() = 1;
            other.1.notify_all();
        });
        let ((), events) = record(|| {
            let mut guard = shared.0.lock();
            while *guard == 0 {
                guard = guard.wait(&shared.1);
            }
        });
        thread.unwrap().join().unwrap();
        let (mut guard, mut timeout) = (shared.0.lock(), false);
        while !timeout {
            (guard, timeout) = guard.wait_timeout(&shared.1, Duration::from_millis(1));
        }
        drop(guard);
        let actions: Vec<_> = events.iter().map(|event| event.action).collect();
        assert!(!actions.is_empty());
        for pair in actions.chunks(2) {
            assert_eq!(pair, [Action::Lock, Action::Release], "{events:?}");
        }

        let queue = RankedMutex::new(Queue, ());
        let (guard, _queue) = (shared.0.lock(), queue.lock());
        let wait = catch_unwind(AssertUnwindSafe(|| guard.wait_timeout(&shared.1, Duration::ZERO)));
        assert!(wait.is_err(), "waiting would take mdevs behind a queue");
    }
}
