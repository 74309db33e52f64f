//! What past bugs teach about interruptions, on the emulated hardware below a host: V16, V21, L1.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ap::card::SeededRandom;
use ap::host::{ApHost, Condition, Description, Guest, Lpar};
use ap::instruction::Environment;
use ap::{ApMachine, GuestAp, GuestCrycb, Hardware, Notifier};
use crycb::{Apqn, Crycb, CrycbFormat, Matrix};
use machine::{Clock, Floating, Post, Storage};
use zarch::{Facility, FacilityList, IoInterruption};

use crate::setup::*;

const STORAGE: u64 = 1 << 20;
const NIB: u64 = 0x8000;

/// Time that passes whenever somebody looks.
#[derive(Default)]
struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now(&self) -> u64 {
        self.0.fetch_add(1_000_000, Ordering::SeqCst)
    }
    fn tod_epoch(&self) -> u64 {
        0
    }
    fn is_virtual(&self) -> bool {
        false
    }
    fn schedule(&self, _: u64, action: Box<dyn FnOnce() + Send>) {
        action();
    }
}

struct NoPost;

impl Post for NoPost {
    fn post(&self, _: Floating) {}
    fn take_io(&self, _: u8) -> Option<IoInterruption> {
        None
    }
    fn clear(&self) {}
}

/// A VM whose AP instructions the emulated hardware executes.
struct Vm {
    id: u64,
    ap: GuestAp,
}

impl Guest for Vm {
    fn id(&self) -> u64 {
        self.id
    }
    fn set_hook(&self, present: bool) {
        self.ap.set_hook(present);
    }
    fn set_masks(&self, matrix: &Matrix) {
        self.ap.set_masks(matrix);
    }
    fn config_changed(&self) {}
    fn request(&self) {}
}

struct Bench {
    host: ApHost,
    machine: Arc<ApMachine>,
}

impl Bench {
    fn new() -> Self {
        let description = Description::from_json(
            r#"{"adapters": [{"adapter": 5, "type": "CEX8A"}, {"adapter": 6, "type": "CEX8A"}],
                "usage_domains": [4, 71], "apmask": "-5,-6"}"#,
        );
        let description = description.unwrap();
        let hardware = Hardware::of(&Lpar::of(&description));
        let random = Arc::new(SeededRandom::new(1));
        let machine = ApMachine::new(hardware, Arc::new(Ticking::default()), random).unwrap();
        let host = ApHost::new(&description, machine.clone());
        Self { host, machine }
    }

    /// Mediated device `n` with this matrix, opened by a VM.
    fn vm(&self, n: u8, words: &str) -> Arc<Vm> {
        self.host.create_mdev(mdev(n)).unwrap();
        let Matrix { apm, aqm, adm } = matrix(words);
        let text = format!("{apm},{aqm},{adm}");
        self.host.write(mdev(n), &ap::host::Attribute::ApConfig(text)).unwrap();
        let mut facilities = FacilityList::default();
        for bit in [Facility::ApQci, Facility::ApFacilitiesTest, Facility::ApInterruptions] {
            facilities.set(bit as u16, true);
        }
        let crycb = Arc::new(GuestCrycb::new(&Crycb::new(CrycbFormat::Format2, &Matrix::EMPTY)));
        let storage = Arc::new(Storage::new(STORAGE).unwrap());
        let ap = GuestAp::new(crycb, facilities, Notifier::new(storage, Arc::new(NoPost)));
        let vm = Arc::new(Vm { id: n.into(), ap });
        self.host.attach(mdev(n), vm.clone()).unwrap();
        vm
    }

    /// The guest's PQAP(AQIC), enabling with notification byte `nib` or disabling. Returns the response code.
    fn aqic(&self, vm: &Vm, queue: Apqn, nib: Option<u64>) -> u8 {
        let crycb = vm.ap.crycb.crycb();
        let environment = Environment {
            crycb: crycb.view(),
            facilities: &vm.ap.facilities,
            problem_state: false,
            notifier: &vm.ap.notifier,
            hook: vm.ap.hook().is_set(),
        };
        let gr0 = 3 << 24 | u64::from(queue.0);
        let gr1 = nib.map_or(0, |_| 1 << 47 | 3);
        let answer = self.machine.pqap(&environment, gr0, gr1, nib.unwrap_or(0)).unwrap();
        (answer.gr1.unwrap() >> 16) as u8
    }

    fn enabled(&self, queue: Apqn) -> bool {
        self.machine.status(queue).interruptions_enabled
    }
}

/// How many pages the host holds for the guest's notification bytes.
fn pins(vm: &Vm) -> u32 {
    vm.ap.resources().pins
}

/// "Tighten the NIB validity check": notification byte 0 or outside the guest's storage is response code 06, pins nothing and
/// changes nothing; the queue can be taken away as if nothing had been.
#[test]
fn v16_a_bad_notification_byte_leaves_nothing() {
    let b = Bench::new();
    let vm = b.vm(1, "a5 d4 d47");
    let queue = q("05.0004");
    for nib in [0, STORAGE, STORAGE + 1, u64::MAX, 1 << 63] {
        assert_eq!(b.aqic(&vm, queue, Some(nib)), 0x06, "{nib:#x}");
        assert_eq!((b.enabled(queue), pins(&vm)), (false, 0), "{nib:#x}");
    }
    assert_eq!(b.aqic(&vm, queue, Some(STORAGE - 1)), 0x00);
    assert_eq!(b.aqic(&vm, queue, Some(0)), 0x06, "the registration that there is stays");
    assert_eq!(pins(&vm), 1);
    b.host.unbind(queue).unwrap();
    assert_eq!((b.enabled(queue), pins(&vm)), (false, 0));
    assert_eq!(b.aqic(&vm, queue, Some(NIB)), 0x01, "unplugged");
    assert_eq!(pins(&vm), 0);
}

/// AQIC that ends in anything but 00 frees what it would have used, and leaves what another had set.
#[test]
fn l1_a_failed_aqic_frees_the_new_and_not_the_old() {
    let b = Bench::new();
    let vm = b.vm(1, "a5 a6 d4");
    let queue = q("05.0004");
    assert_eq!(b.aqic(&vm, queue, Some(NIB)), 0x00);
    assert_eq!(b.aqic(&vm, queue, Some(NIB + 1)), 0x07, "enabled already");
    assert_eq!((b.enabled(queue), pins(&vm)), (true, 1), "once, and still enabled");
    for (condition, code) in [(Condition::Offline, 0x03), (Condition::Checkstop, 0x04)] {
        b.host.configure(&[crate::setup::condition(6, condition)]).unwrap();
        assert_eq!(b.aqic(&vm, q("06.0004"), Some(NIB)), code);
        assert_eq!(pins(&vm), 1);
    }
    assert_eq!(b.aqic(&vm, queue, None), 0x00);
    assert_eq!(pins(&vm), 0);
    assert_eq!(b.aqic(&vm, queue, None), 0x07);
    assert_eq!(b.aqic(&vm, queue, Some(NIB)), 0x00, "it can be enabled again");
    b.host.detach(mdev(1)).unwrap();
    assert_eq!((b.enabled(queue), pins(&vm)), (false, 0));
}

/// QEMU 297ec01f: a subsystem reset of the guest resets its queues, with their interruptions, and no other guest's; what it
/// may reach stays.
#[test]
fn v21_a_subsystem_reset_resets_the_queues() {
    let b = Bench::new();
    let (vm, other) = (b.vm(1, "a5 a6 d4"), b.vm(2, "a5 d47"));
    let [first, second, others] = ["05.0004", "06.0004", "05.0047"].map(q);
    for (vm, queue) in [(&vm, first), (&vm, second), (&other, others)] {
        assert_eq!(b.aqic(vm, queue, Some(NIB)), 0x00);
    }
    let before = vm.ap.crycb.load();
    b.host.reset_device(mdev(1)).unwrap();
    assert_eq!((b.enabled(first), b.enabled(second), b.enabled(others)), (false, false, true));
    assert_eq!((pins(&vm), pins(&other)), (0, 1));
    assert_eq!(vm.ap.crycb.load(), before);
    assert_eq!(b.aqic(&vm, first, Some(NIB)), 0x00, "the reset has ended");
    // The same as the machine itself does it.
    b.machine.reset_guest(&vm.ap);
    assert_eq!(pins(&vm), 0);
}

/// The same on a scripted machine: each queue of the device that is bound is zeroized once, the APCB is not written.
#[test]
fn v21_reset_of_the_device_on_any_machine() {
    let s = Setup::new("a5 a6 d4 d47");
    s.mdev(1, "a5 a6 a7 d4");
    s.mdev(2, "a5 d47");
    s.attach(1);
    s.unbind("06.0004");
    s.log.take();
    s.host.reset_device(mdev(1)).unwrap();
    let log = s.log.take();
    assert_eq!(resets(&log), queues("05.0004"), "06 is not bound, 07 is not there");
    assert_eq!((masks(&log, 1), told(&log, 1)), (vec![], 0));
}
