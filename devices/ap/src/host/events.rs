//! What happened on the host, for those who watch: numbered, bounded for each watcher, with losses announced.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use crycb::{Apqn, Matrix};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Driver;
use super::number::queue_names;
use crate::lock::{Rank, RankedGuard, RankedMutex};

/// How many events wait for a watcher before some are dropped.
pub const WAITING: usize = 1024;

/// An event with its number. Numbers are those of one host, ascending by one; a gap was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts the host's events from 1.
    pub number: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "event")]
#[expect(missing_docs, reason = "the names say it")]
pub enum EventKind {
    MdevCreated {
        mdev: Uuid,
    },
    MdevRemoved {
        mdev: Uuid,
    },
    /// A VM opened the mediated device.
    Attached {
        mdev: Uuid,
    },
    /// The VM closed it, or is gone.
    Detached {
        mdev: Uuid,
    },
    /// `guest_matrix` of the device changed: these queues came, these went.
    GuestMatrix {
        mdev: Uuid,
        #[serde(with = "queue_names")]
        plugged: Vec<Apqn>,
        #[serde(with = "queue_names")]
        unplugged: Vec<Apqn>,
    },
    /// A write changed `matrix` or `control_domains`.
    Assigned {
        mdev: Uuid,
        attribute: String,
        value: String,
    },
    Bound {
        queue: String,
        driver: Driver,
    },
    Unbound {
        queue: String,
        driver: Driver,
    },
    /// `apmask` or `aqmask` was written.
    Masks {
        apmask: String,
        aqmask: String,
    },
    /// The host's configuration changed: adapters, domains or control domains came or went.
    Configuration,
    /// An adapter was configured, deconfigured or check-stopped.
    Adapter {
        adapter: String,
    },
    /// A reset did not end in time, or not well.
    ResetFailed {
        queue: String,
        response_code: u8,
    },
    /// Events were dropped because the watcher did not take them; a query tells how things are now.
    Lost,
}

impl EventKind {
    /// The change of a guest's matrix; `None` when no queue and no control domain changed.
    pub(super) fn guest_matrix(mdev: Uuid, before: &Matrix, after: &Matrix) -> Option<Self> {
        let only = |a: &Matrix, b: &Matrix| a.apqns().filter(|q| !b.test(*q)).collect();
        (before != after).then(|| Self::GuestMatrix {
            mdev,
            plugged: only(after, before),
            unplugged: only(before, after),
        })
    }
}

pub(super) struct Events(RankedMutex<List>);

#[derive(Default)]
struct List {
    number: u64,
    watchers: Vec<Watcher>,
}

struct Watcher {
    to: SyncSender<Event>,
    lost: bool,
}

impl Events {
    /// A new watcher; it is dropped from the list when its receiver is.
    pub(super) fn subscribe(&self) -> Receiver<Event> {
        // One more, for the word that some were lost.
        let (to, events) = sync_channel(WAITING);
        self.list().watchers.push(Watcher { to, lost: false });
        events
    }

    pub(super) fn emit(&self, kind: EventKind) {
        let mut list = self.list();
        list.number += 1;
        let event = Event { number: list.number, kind };
        list.watchers.retain_mut(|watcher| watcher.send(&event));
    }

    fn list(&self) -> RankedGuard<'_, List> {
        self.0.lock()
    }
}

impl Default for Events {
    fn default() -> Self {
        Self(RankedMutex::new(Rank::Events, List::default()))
    }
}

impl Watcher {
    /// False when nobody listens any more.
    fn send(&mut self, event: &Event) -> bool {
        if self.lost {
            let word = Event { number: event.number, kind: EventKind::Lost };
            match self.to.try_send(word) {
                Ok(()) => self.lost = false,
                Err(TrySendError::Full(_)) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        match self.to.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lost = true;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_watcher_is_told_what_it_missed() {
        let events = Events::default();
        let slow = events.subscribe();
        drop(events.subscribe());
        for _ in 0..WAITING + 5 {
            events.emit(EventKind::Configuration);
        }
        assert_eq!(events.list().watchers.len(), 1, "the one that has gone is forgotten");
        let got: Vec<u64> = slow.try_iter().map(|e| e.number).collect();
        assert!(got.iter().copied().eq(1..=WAITING as u64));
        events.emit(EventKind::Configuration);
        let got: Vec<Event> = slow.try_iter().collect();
        let number = WAITING as u64 + 6;
        assert_eq!(got[0], Event { number, kind: EventKind::Lost });
        assert_eq!(got[1], Event { number, kind: EventKind::Configuration });
    }
}
