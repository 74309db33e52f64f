//! What happened on the host, for those who watch: numbered, bounded for each watcher, with losses announced.

use crycb::{Apqn, Matrix};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Driver;
use super::number::queue_names;
use super::watch::{Teller, Wake, Watch, watch};
use crate::lock::{Rank, RankedGuard, RankedMutex};

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
    /// The host asked a VM for the mediated device back, and has it now; what the VM's operator called it.
    Released {
        mdev: Uuid,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
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
    pub(crate) fn guest_matrix(mdev: Uuid, before: &Matrix, after: &Matrix) -> Option<Self> {
        let only = |a: &Matrix, b: &Matrix| a.apqns().filter(|q| !b.test(*q)).collect();
        (before != after).then(|| Self::GuestMatrix {
            mdev,
            plugged: only(after, before),
            unplugged: only(before, after),
        })
    }
}

pub(crate) struct Events(RankedMutex<List>);

#[derive(Default)]
struct List {
    number: u64,
    watchers: Vec<Teller>,
}

impl Events {
    /// A new watcher; it is dropped from the list when it is dropped.
    pub(crate) fn subscribe(&self, wake: Wake) -> Watch {
        let (teller, watch) = watch(wake);
        self.list().watchers.push(teller);
        watch
    }

    pub(crate) fn emit(&self, kind: EventKind) {
        let mut list = self.list();
        list.number += 1;
        let event = Event { number: list.number, kind };
        list.watchers.retain(|watcher| watcher.tell(event.clone()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_watcher_is_told_everything() {
        let events = Events::default();
        let (one, other) = (events.subscribe(Box::new(|| {})), events.subscribe(Box::new(|| {})));
        events.emit(EventKind::Configuration);
        drop(other);
        events.emit(EventKind::Lost);
        assert_eq!(events.list().watchers.len(), 1, "the one that has gone is forgotten");
        let numbers = [(1, EventKind::Configuration), (2, EventKind::Lost)];
        assert!(one.try_iter().eq(numbers.map(|(number, kind)| Event { number, kind })));
    }
}
