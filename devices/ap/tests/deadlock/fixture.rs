//! The real host, small, with guests whose locks stand where a VM's do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ap::QueueInformation;
use ap::host::{ApHost, Attribute, Description, Driver, Guest, IdealMachine, Lpar, Machine};
use ap::lock::{Rank, RankedRwLock};
use ap::sync;
use crycb::{Apqn, Matrix, Qci};
use uuid::Uuid;

pub const ONE: Uuid = Uuid::from_u128(1);
pub const TWO: Uuid = Uuid::from_u128(2);

/// Adapters 1, 2 and 3 by domains 1 and 2. Mediated device 1 has queue 01.0001, device 2 queue 02.0002; nobody has adapter 3.
const DESCRIPTION: &str = r#"{
    "adapters": [
        {"adapter": 1, "type": "CEX8A"}, {"adapter": 2, "type": "CEX8A"}, {"adapter": 3, "type": "CEX8A"}
    ],
    "usage_domains": [1, 2],
    "max_adapter": 3,
    "max_domain": 2,
    "apmask": "-1-3",
    "mdevs": {
        "00000000-0000-0000-0000-000000000001": {
            "mdev_type": "vfio_ap-passthrough",
            "attrs": [{"assign_adapter": "1"}, {"assign_domain": "1"}]
        },
        "00000000-0000-0000-0000-000000000002": {
            "mdev_type": "vfio_ap-passthrough",
            "attrs": [{"assign_adapter": "2"}, {"assign_domain": "2"}]
        }
    }
}"#;

/// A machine on which waiting lets others run.
struct TestMachine(IdealMachine);

impl Machine for TestMachine {
    fn qci(&self) -> Qci {
        self.0.qci()
    }
    fn tapq(&self, apqn: Apqn) -> (u8, Option<QueueInformation>) {
        self.0.tapq(apqn)
    }
    fn zapq(&self, apqn: Apqn) -> u8 {
        self.0.zapq(apqn)
    }
    fn release_interruption(&self, apqn: Apqn) {
        self.0.release_interruption(apqn);
    }
    fn pause(&self, _: Duration) {
        sync::thread::yield_now();
    }
    fn configure(&self, lpar: &Lpar) {
        self.0.configure(lpar);
    }
}

/// What all guests together may reach.
type Reachable = Arc<Mutex<BTreeMap<u64, Matrix>>>;

/// A VM: PQAP(AQIC) finds its hook and goes by the masks, which change with no instruction in flight.
pub struct TestVm {
    id: u64,
    mdev: Uuid,
    host: Weak<ApHost>,
    hook: RankedRwLock<bool>,
    masks: RankedRwLock<Matrix>,
    all: Reachable,
}

impl TestVm {
    /// PQAP(AQIC): under the hook, vfio_ap's driver looks the queue up; the instruction goes by the masks. Whether there is a
    /// hook and the masks have the queue. On detaching, the hook goes first, so either may be true alone.
    pub fn pqap_aqic(&self, apqn: Apqn) -> bool {
        let hook = self.hook.read();
        if let (true, Some(host)) = (*hook, self.host.upgrade()) {
            let _ = host.status(apqn);
        }
        let masks = self.masks.read();
        *hook && masks.test(apqn)
    }
}

impl Guest for TestVm {
    fn id(&self) -> u64 {
        self.id
    }

    fn set_hook(&self, present: bool) {
        *self.hook.write() = present;
    }

    fn set_masks(&self, matrix: &Matrix) {
        let mut masks = self.masks.write();
        *masks = *matrix;
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(self.id, *matrix);
        for (id, other) in all.iter().filter(|(id, _)| **id != self.id) {
            let shared = matrix.apqns().find(|apqn| other.test(*apqn));
            assert_eq!(shared, None, "in the APCBs of guests {} and {id}", self.id);
        }
    }

    fn config_changed(&self) {}

    /// Gives the device back.
    fn request(&self) {
        if let Some(host) = self.host.upgrade() {
            // It may have been given back at the same moment.
            let _ = host.detach(self.mdev);
        }
    }
}

/// A host with two VMs that are not attached yet.
pub struct Fixture {
    pub host: Arc<ApHost>,
    pub vms: [Arc<TestVm>; 2],
}

impl Fixture {
    pub fn new() -> Self {
        let description = Description::from_json(DESCRIPTION).unwrap();
        let machine = TestMachine(IdealMachine::new(Lpar::of(&description)));
        let host = Arc::new(ApHost::new(&description, Arc::new(machine)));
        let all = Reachable::default();
        let vm = |(id, mdev)| {
            Arc::new(TestVm {
                id,
                mdev,
                host: Arc::downgrade(&host),
                hook: RankedRwLock::with_key(Rank::PqapHook, id, false),
                masks: RankedRwLock::with_key(Rank::Instructions, id, Matrix::EMPTY),
                all: all.clone(),
            })
        };
        let vms = [(1, ONE), (2, TWO)].map(vm);
        Self { host, vms }
    }

    /// The same, with both VMs running.
    pub fn running() -> Self {
        let fixture = Self::new();
        for vm in &fixture.vms {
            let matrix = fixture.host.attach(vm.mdev, vm.clone()).unwrap();
            assert_eq!(matrix.apqns().count(), 1);
        }
        fixture
    }

    /// What is true when nothing is going on: no mediated device has a queue of the default drivers, no APCB one that is not
    /// bound to vfio_ap, and each VM's masks are what vfio_ap shows.
    pub fn check(&self) {
        let state = self.host.snapshot();
        for mdev in &state.mdevs {
            for queue in &state.queues {
                let assigned = mdev.matrix.test(queue.queue);
                assert!(!assigned || queue.driver != Some(Driver::Default), "{} is assigned", queue.queue);
            }
            for apqn in mdev.guest_matrix.apqns() {
                let driver = state.queue(apqn).and_then(|queue| queue.driver);
                assert_eq!(driver, Some(Driver::VfioAp), "{apqn} is in an APCB");
            }
        }
        for vm in &self.vms {
            let mdev = self.host.mdev(vm.mdev);
            let attached = mdev.is_ok_and(|mdev| mdev.guest == Some(vm.id));
            let shadow = self.host.mdev(vm.mdev).ok().filter(|_| attached).map(|mdev| mdev.shadow);
            assert_eq!(*vm.hook.read(), attached, "hook of VM {}", vm.id);
            assert_eq!(*vm.masks.read(), shadow.unwrap_or(Matrix::EMPTY), "APCB of VM {}", vm.id);
        }
    }
}

pub fn assign_adapter(adapter: &str) -> Attribute {
    Attribute::AssignAdapter(adapter.into())
}

pub fn unassign_adapter(adapter: &str) -> Attribute {
    Attribute::UnassignAdapter(adapter.into())
}
