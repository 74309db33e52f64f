//! Virtual time: the instruction count.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use machine::Clock;

/// How long one instruction takes.
pub(crate) const NANOSECONDS_PER_INSTRUCTION: u64 = 2;

type Action = Box<dyn FnOnce() + Send>;

/// Time that advances by [`NANOSECONDS_PER_INSTRUCTION`] an instruction, and jumps to the next event
/// when the CPU waits. For machines of one CPU.
pub struct VirtualClock {
    now: AtomicU64,
    tod_epoch: u64,
    events: Mutex<Events>,
}

#[derive(Default)]
struct Events {
    scheduled: u64,
    /// By time and order of scheduling.
    due: BTreeMap<(u64, u64), Action>,
}

impl VirtualClock {
    /// A clock at zero. `tod_epoch` is the TOD clock then.
    pub fn new(tod_epoch: u64) -> Self {
        Self { now: AtomicU64::new(0), tod_epoch, events: Mutex::default() }
    }

    /// Moves on by `ns` and runs what is due, in order of time. Time ends with the largest number, some
    /// six hundred years on, which a guest reaches by setting timers and waiting.
    pub(crate) fn advance(&self, ns: u64) {
        let now = self.now().saturating_add(ns);
        self.now.store(now, Ordering::SeqCst);
        loop {
            let due = {
                let mut events = self.events.lock().expect("actions run outside the lock");
                match events.due.first_key_value() {
                    Some((&(at, _), _)) if at <= now => events.due.pop_first().map(|(_, action)| action),
                    _ => None,
                }
            };
            match due {
                Some(action) => action(),
                None => return,
            }
        }
    }

    /// The time of the next event.
    pub(crate) fn next_event(&self) -> Option<u64> {
        let events = self.events.lock().expect("actions run outside the lock");
        events.due.first_key_value().map(|(&(at, _), _)| at)
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    fn tod_epoch(&self) -> u64 {
        self.tod_epoch
    }

    fn is_virtual(&self) -> bool {
        true
    }

    fn schedule(&self, at: u64, action: Action) {
        let mut events = self.events.lock().expect("actions run outside the lock");
        events.scheduled += 1;
        let key = (at, events.scheduled);
        events.due.insert(key, action);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn events_run_in_order_of_time() {
        let clock = VirtualClock::new(0);
        let log = Arc::new(Mutex::new(Vec::new()));
        for (at, name) in [(30, 'c'), (10, 'a'), (20, 'b'), (10, 'A')] {
            let log = log.clone();
            clock.schedule(at, Box::new(move || log.lock().unwrap().push(name)));
        }
        clock.advance(20);
        assert_eq!(*log.lock().unwrap(), ['a', 'A', 'b']);
        assert_eq!(clock.next_event(), Some(30));
        clock.advance(10);
        assert_eq!(clock.next_event(), None);
    }

    #[test]
    fn time_ends() {
        let clock = VirtualClock::new(u64::MAX);
        clock.advance(u64::MAX - 1);
        clock.advance(7);
        assert_eq!(clock.now(), u64::MAX);
        clock.tod();
    }
}
