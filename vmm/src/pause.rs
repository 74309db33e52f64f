//! Holding the CPUs' threads between two instructions, for as long as an operator likes.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Whether the CPUs are to be held, and which are.
#[derive(Debug, Default)]
pub struct Pause {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    asked: bool,
    /// All CPUs were held since; false again when they go on.
    reached: bool,
    parked: BTreeSet<u16>,
}

impl Pause {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the CPUs to come.
    pub fn ask(&self) {
        self.state().asked = true;
    }

    /// Lets the CPUs go on; whether they had been held.
    pub fn release(&self) -> bool {
        let mut state = self.state();
        state.asked = false;
        self.changed.notify_all();
        std::mem::take(&mut state.reached)
    }

    /// Whether all of `cpus` were held and have not been released.
    pub fn reached(&self) -> bool {
        self.state().reached
    }

    /// Looks whether all `cpus` have come: `Some(true)` once then, `Some(false)` when there is nothing to
    /// wait for any more, `None` while some are still to come.
    pub fn settle(&self, cpus: usize) -> Option<bool> {
        let mut state = self.state();
        if !state.asked || state.reached {
            return Some(false);
        }
        if state.parked.len() < cpus {
            return None;
        }
        state.reached = true;
        Some(true)
    }

    /// Holds CPU `address` while that is asked for and `stay` says so, which is asked again after
    /// [`wake`](Self::wake). `parked` is called once it is held. Whether it was.
    pub fn park(&self, address: u16, parked: impl FnOnce(), stay: impl Fn() -> bool) -> bool {
        let mut state = self.state();
        if !state.asked || !stay() {
            return false;
        }
        state.parked.insert(address);
        parked();
        while state.asked && stay() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.parked.remove(&address);
        true
    }

    /// Makes each held CPU ask whether it is to stay.
    pub fn wake(&self) {
        // With the lock, none is between asking and waiting.
        let _state = self.state();
        self.changed.notify_all();
    }
}
