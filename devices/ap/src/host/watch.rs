//! The way of events to one who watches: bounded, never waited for by who tells, with losses announced.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use super::{Event, EventKind};
use crate::lock::{Rank, RankedGuard, RankedMutex};
use crate::sync::Condvar;

/// How many events wait for a watcher before some are dropped.
pub const WAITING: usize = 1024;

/// Called after each event, so that a watcher who waits for other things too looks. It may be called with locks held and must
/// not wait.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// Who watches events. What does not fit is dropped: [`EventKind::Lost`] stands in its place, with the number of the last event
/// that is missing, and comes at once when all before it have been taken. What comes before that is taken is dropped as well,
/// so that there is one gap.
pub struct Watch(Arc<Shared>);

/// Who tells a [`Watch`].
pub struct Teller(Arc<Shared>);

struct Shared {
    waiting: RankedMutex<Waiting>,
    changed: Condvar,
    wake: Wake,
}

struct Waiting {
    events: VecDeque<Event>,
    /// Events were dropped behind these; the number of the last one.
    lost: Option<u64>,
    /// The highest number told.
    number: u64,
    /// The watcher is there.
    watched: bool,
    /// The teller is.
    told: bool,
}

/// A watcher and its teller.
pub fn watch(wake: Wake) -> (Teller, Watch) {
    let waiting = Waiting { events: VecDeque::new(), lost: None, number: 0, watched: true, told: true };
    let waiting = RankedMutex::new(Rank::Watch, waiting);
    let shared = Arc::new(Shared { waiting, changed: Condvar::new(), wake });
    (Teller(shared.clone()), Watch(shared))
}

impl Teller {
    /// Tells an event and never waits. False when nobody watches any more.
    pub fn tell(&self, event: Event) -> bool {
        self.change(|waiting| {
            waiting.number = event.number;
            if waiting.lost.is_some() || waiting.events.len() == WAITING {
                waiting.lost = Some(event.number);
            } else {
                waiting.events.push_back(event);
            }
        })
    }

    /// Says that some events behind those told so far are missing. False when nobody watches any more.
    pub fn lost(&self) -> bool {
        self.change(|waiting| waiting.lost = Some(waiting.number))
    }

    /// Whether somebody watches.
    pub fn is_watched(&self) -> bool {
        self.0.waiting().watched
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) -> bool {
        let mut waiting = self.0.waiting();
        if !waiting.watched {
            return false;
        }
        change(&mut waiting);
        drop(waiting);
        self.0.changed.notify_all();
        (self.0.wake)();
        true
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.waiting().told = false;
        self.0.changed.notify_all();
    }
}

impl Watch {
    /// What waits now, oldest first.
    pub fn try_iter(&self) -> impl Iterator<Item = Event> {
        std::iter::from_fn(|| self.0.waiting().take())
    }

    /// The oldest event, waiting for it.
    ///
    /// # Errors
    /// None came in `limit`; or all have been taken and no more will come.
    pub fn recv_timeout(&self, limit: Duration) -> Result<Event, RecvTimeoutError> {
        let none =
            |waiting: &mut Waiting| waiting.events.is_empty() && waiting.lost.is_none() && waiting.told;
        let (mut waiting, late) = self.0.waiting().wait_timeout_while(&self.0.changed, limit, none);
        let why = if late { RecvTimeoutError::Timeout } else { RecvTimeoutError::Disconnected };
        waiting.take().ok_or(why)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.watched = false;
        waiting.events = VecDeque::new();
    }
}

impl Shared {
    fn waiting(&self) -> RankedGuard<'_, Waiting> {
        self.waiting.lock()
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Event> {
        let lost = |number| Event { number, kind: EventKind::Lost };
        self.events.pop_front().or_else(|| self.lost.take().map(lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn event(number: u64) -> Event {
        Event { number, kind: EventKind::MdevCreated { mdev: uuid::Uuid::nil() } }
    }

    fn lost(number: u64) -> Event {
        Event { number, kind: EventKind::Lost }
    }

    /// The word about what was lost does not wait for another event.
    #[test]
    fn a_slow_watcher_is_told_what_it_missed() {
        let woken = Arc::new(AtomicU64::new(0));
        let count = woken.clone();
        let (teller, slow) = watch(Box::new(move || _ = count.fetch_add(1, Ordering::Relaxed)));
        let room = WAITING as u64;
        assert!((1..=room + 5).all(|number| teller.tell(event(number))));
        assert_eq!(woken.load(Ordering::Relaxed), room + 5);
        assert!((1..=room).all(|number| slow.recv_timeout(Duration::ZERO) == Ok(event(number))));
        // There is room, but the gap has not been seen.
        assert!(teller.tell(event(room + 6)));
        assert_eq!(slow.recv_timeout(Duration::MAX), Ok(lost(room + 6)));
        assert!(teller.tell(event(room + 7)));
        assert!(teller.lost());
        assert!(slow.try_iter().eq([event(room + 7), lost(room + 7)]));
        assert_eq!(slow.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
    }

    #[test]
    fn either_end_may_go() {
        let (teller, slow) = watch(Box::new(|| {}));
        assert!(teller.tell(event(1)) && teller.is_watched());
        drop(teller);
        assert_eq!(slow.recv_timeout(Duration::MAX), Ok(event(1)));
        assert_eq!(slow.recv_timeout(Duration::MAX), Err(RecvTimeoutError::Disconnected));

        let (teller, slow) = watch(Box::new(|| {}));
        drop(slow);
        assert!(!teller.tell(event(1)) && !teller.lost() && !teller.is_watched());
        let waiting = std::thread::scope(|scope| {
            let (teller, slow) = watch(Box::new(|| {}));
            let waiting = scope.spawn(move || slow.recv_timeout(Duration::MAX));
            assert!(teller.tell(event(2)));
            waiting.join().unwrap()
        });
        assert_eq!(waiting, Ok(event(2)));
    }
}
