//! What happened on the host, for those who watch: numbered, bounded for each watcher, with losses announced.

use std::collections::BTreeMap;

use crycb::{Apid, Apqi, Apqn, Mask256, Matrix};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::number::{domain_names, matrix, queue_names};
use super::watch::{Teller, Wake, Watch, watch};
use super::{Condition, Driver};
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
    /// `guest_matrix` of the device changed.
    GuestMatrix {
        mdev: Uuid,
        #[serde(flatten)]
        change: MatrixChange,
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
    /// The host's configuration changed: these adapters, domains and control domains came, these went.
    Configuration {
        #[serde(with = "matrix")]
        added: Matrix,
        #[serde(with = "matrix")]
        removed: Matrix,
    },
    /// An adapter was configured, deconfigured or check-stopped, and is so now.
    Adapter {
        adapter: String,
        condition: Condition,
    },
    /// A reset did not end in time, or not well.
    ResetFailed {
        queue: String,
        response_code: u8,
    },
    /// Events were dropped because the watcher did not take them; a query tells how things are now.
    Lost,
}

/// What a guest may reach since a change, and could not before, and the other way round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MatrixChange {
    /// Queues that came.
    #[serde(with = "queue_names")]
    pub plugged: Vec<Apqn>,
    /// Queues that went.
    #[serde(with = "queue_names")]
    pub unplugged: Vec<Apqn>,
    /// Control domains that came.
    #[serde(default, with = "domain_names", skip_serializing_if = "Mask256::is_empty")]
    pub control_plugged: Mask256,
    /// Control domains that went.
    #[serde(default, with = "domain_names", skip_serializing_if = "Mask256::is_empty")]
    pub control_unplugged: Mask256,
}

impl MatrixChange {
    /// From one matrix to another; `None` when neither a queue nor a control domain came or went.
    pub fn between(before: &Matrix, after: &Matrix) -> Option<Self> {
        let only = |a: &Matrix, b: &Matrix| a.apqns().filter(|q| !b.test(*q)).collect();
        let change = Self {
            plugged: only(after, before),
            unplugged: only(before, after),
            control_plugged: after.adm.minus(before.adm),
            control_unplugged: before.adm.minus(after.adm),
        };
        (change != Self::default()).then_some(change)
    }

    /// `queues` as adapters by domains, of which no two have a queue in common: what a change of a matrix brings or takes is two
    /// of these at most.
    pub fn products(queues: &[Apqn]) -> Vec<(Mask256, Mask256)> {
        let mut domains: BTreeMap<u8, Mask256> = BTreeMap::new();
        for queue in queues {
            domains.entry(queue.apid().0).or_insert(Mask256::EMPTY).set(queue.apqi().0);
        }
        let mut products: Vec<(Mask256, Mask256)> = Vec::new();
        for (adapter, domains) in domains {
            match products.iter_mut().find(|(_, of)| *of == domains) {
                Some((adapters, _)) => adapters.set(adapter),
                None => products.push((Mask256::EMPTY.with(adapter), domains)),
            }
        }
        products
    }

    /// The queues of `products`, in ascending order.
    pub fn queues(products: &[(Mask256, Mask256)]) -> Vec<Apqn> {
        let mut domains: BTreeMap<u8, Mask256> = BTreeMap::new();
        for (adapters, of) in products {
            for adapter in adapters.iter() {
                let all = domains.entry(adapter).or_insert(Mask256::EMPTY);
                of.iter().for_each(|domain| all.set(domain));
            }
        }
        let row = |(adapter, domains): (u8, Mask256)| {
            domains.iter().map(move |domain| Apqn::new(Apid(adapter), Apqi(domain))).collect::<Vec<_>>()
        };
        domains.into_iter().flat_map(row).collect()
    }
}

impl EventKind {
    /// The change of the host's configuration.
    pub(crate) fn configuration(before: &Matrix, after: &Matrix) -> Self {
        Self::Configuration { added: after.minus(before), removed: before.minus(after) }
    }

    /// The mediated device that it happened to.
    pub fn mdev(&self) -> Option<Uuid> {
        match self {
            Self::MdevCreated { mdev }
            | Self::MdevRemoved { mdev }
            | Self::Attached { mdev }
            | Self::Detached { mdev }
            | Self::Released { mdev, .. }
            | Self::GuestMatrix { mdev, .. }
            | Self::Assigned { mdev, .. } => Some(*mdev),
            _ => None,
        }
    }

    /// The change of a guest's matrix; `None` when no queue and no control domain changed.
    pub(crate) fn guest_matrix(mdev: Uuid, before: &Matrix, after: &Matrix) -> Option<Self> {
        MatrixChange::between(before, after).map(|change| Self::GuestMatrix { mdev, change })
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
    fn a_change_is_a_few_products() {
        let matrix = |apm: &[u8], aqm: &[u8], adm: &[u8]| {
            let mask = |bits: &[u8]| bits.iter().copied().collect();
            Matrix { apm: mask(apm), aqm: mask(aqm), adm: mask(adm) }
        };
        let check = |before: Matrix, after: Matrix, came: usize, went: usize| {
            let change = MatrixChange::between(&before, &after).unwrap();
            for (queues, most) in [(&change.plugged, came), (&change.unplugged, went)] {
                let products = MatrixChange::products(queues);
                assert_eq!(products.len(), most, "{products:?}");
                assert_eq!(MatrixChange::queues(&products), *queues);
            }
            let text = serde_json::to_string(&change).unwrap();
            assert_eq!(serde_json::from_str::<MatrixChange>(&text).unwrap(), change, "{text}");
            change
        };
        let one = matrix(&[5, 6], &[4, 0xab], &[4]);
        assert_eq!(MatrixChange::between(&one, &one), None);
        check(Matrix::EMPTY, one, 1, 0);
        check(one, Matrix::EMPTY, 0, 1);
        check(one, matrix(&[5, 7], &[4, 1], &[4]), 2, 2);
        check(one, matrix(&[5, 6, 7], &[4, 0xab, 0xff], &[]), 2, 0);
        let all: Vec<u8> = (0..=255).collect();
        let change = check(one, matrix(&all, &all, &all), 2, 0);
        assert_eq!(change.plugged.len(), 65536 - 4);
        let change = check(matrix(&[], &[], &[4]), matrix(&[], &[], &[5]), 0, 0);
        let want = r#"{"plugged":[],"unplugged":[],"control-plugged":["0005"],"control-unplugged":["0004"]}"#;
        assert_eq!(serde_json::to_string(&change).unwrap(), want);
        // What a host of before tells.
        let old: MatrixChange = serde_json::from_str(r#"{"plugged":["05.0004"],"unplugged":[]}"#).unwrap();
        assert_eq!(old.plugged, [Apqn(0x0504)]);
    }

    #[test]
    fn each_watcher_is_told_everything() {
        let events = Events::default();
        let (one, other) = (events.subscribe(Box::new(|| {})), events.subscribe(Box::new(|| {})));
        let first = EventKind::MdevCreated { mdev: Uuid::nil() };
        events.emit(first.clone());
        drop(other);
        events.emit(EventKind::Lost);
        assert_eq!(events.list().watchers.len(), 1, "the one that has gone is forgotten");
        let numbers = [(1, first), (2, EventKind::Lost)];
        assert!(one.try_iter().eq(numbers.map(|(number, kind)| Event { number, kind })));
    }
}
