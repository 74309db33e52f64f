//! What past bugs teach about who looks when: V14, V15.

use std::sync::{Arc, Mutex};

use ap::host::{Driver, QueueStatus, VfioAp};
use ap::lock::{Action, LockEvent, Rank, record};

use crate::setup::*;

/// CVE-2026-89956: every operation that walks or changes the list of mediated devices, or what is in it, does so under the
/// guests lock.
#[test]
fn v14_the_list_is_walked_under_the_guests_lock() {
    let s = Setup::with_masks("a5 a6 d4 d47", "-5,-6,-7", "");
    s.mdev(1, "a5 d4");
    s.mdev(2, "a6 d4");
    let vm = Vm::new(9, &s.log);
    let check = |name: &str, operation: &mut dyn FnMut()| {
        let ((), events) = record(operation);
        let mut guests = false;
        let mut walks = 0;
        for LockEvent { action, lock } in events {
            match (lock.rank, action) {
                (Rank::Guests, Action::Release) => guests = false,
                (Rank::Guests, _) => guests = true,
                (Rank::Mdevs, Action::Lock) => {
                    assert!(guests, "{name} takes mdevs without guests");
                    walks += 1;
                }
                _ => {}
            }
        }
        assert!(walks > 0, "{name} does nothing");
    };
    check("create", &mut || s.host.create_mdev(mdev(3)).unwrap());
    check("remove", &mut || s.host.remove_mdev(mdev(3)).unwrap());
    check("attach", &mut || assert_eq!(s.host.attach(mdev(1), vm.clone()).unwrap(), matrix("a5 d4")));
    check("assign", &mut || s.assign(1, "d47").unwrap());
    check("unassign", &mut || s.unassign(1, "d47").unwrap());
    check("reset", &mut || s.host.reset_device(mdev(1)).unwrap());
    check("mask", &mut || s.apmask("+7").unwrap());
    check("unbind", &mut || s.unbind("05.0004"));
    check("bind", &mut || s.bind("05.0004"));
    check("configure", &mut || s.configure(&[add_adapter(7), remove_domain(0x47)]));
    check("standby", &mut || s.configure(&[condition(5, ap::host::Condition::Offline)]));
    check("refused attach", &mut || drop(s.host.attach(mdev(1), vm.clone()).unwrap_err()));
    check("detach", &mut || s.host.detach(mdev(1)).unwrap());
}

/// CVE-2026-89955: `status` of a queue that is being probed. Whenever it is read while a scan makes devices, it says that the
/// queue is not vfio_ap's yet, or what is true of it then; never that a guest uses it.
#[test]
fn v15_status_while_a_queue_is_probed() {
    let s = Setup::new("a5 d4");
    s.mdev(1, "a5 a6 d4");
    s.attach(1);
    let (host, seen) = (s.host.clone(), Arc::new(Mutex::new(Vec::new())));
    let result = seen.clone();
    s.machine.on_tapq(move || {
        let status = |name| host.status(q(name));
        result.lock().unwrap().push((status("06.0004"), status("06.0047"), status("07.0004")));
    });
    s.configure(&[add_adapter(6), add_adapter(7), add_domain(0x47)]);
    s.machine.without_hooks();
    let seen = seen.lock().unwrap();
    assert!(seen.len() > 6, "it was read between any two steps");
    for (assigned, other_domain, other_adapter) in seen.iter() {
        assert!(matches!(assigned, None | Some(QueueStatus::Assigned)), "{assigned:?}");
        assert!(matches!(other_domain, None | Some(QueueStatus::Unassigned)), "{other_domain:?}");
        assert!(matches!(other_adapter, None | Some(QueueStatus::Unassigned)), "{other_adapter:?}");
    }
    assert!(seen.iter().any(|read| read.0.is_some()), "between its probe and the end of the scan");
    assert_eq!(s.status("06.0004"), Some("in use"));
    assert_eq!(s.status("06.0047"), Some("unassigned"));

    // What the driver has but no mediated device yet.
    let mut driver = VfioAp::new(matrix("a5 d4"), 255, 255);
    assert_eq!(driver.status(q("05.0004")), None);
    let _ = driver.probe(q("05.0004"), 0);
    assert_eq!(driver.status(q("05.0004")).map(QueueStatus::name), Some("unassigned"));
    assert_eq!(s.bound_to(Driver::Default), "");
}
