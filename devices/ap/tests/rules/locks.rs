//! What past bugs teach about who looks when: V14, V15.

use std::sync::{Arc, Mutex};

use ap::host::QueueStatus;
use ap::lock::{Action, LockEvent, Rank, record};

use crate::setup::*;

/// CVE-2026-89956: every operation, and every query but `status`, that walks or changes the list of mediated devices, or what is
/// in it, does so under the guests lock. `status` may be asked with a PQAP hook held, which comes after that lock; the mdevs
/// lock, which every change holds as well, is enough for it.
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
    check("snapshot", &mut || assert_eq!(s.host.snapshot().mdevs.len(), 2));
    check("mdev", &mut || assert_eq!(s.host.mdev(mdev(2)).unwrap().matrix, matrix("a6 d4")));
    check("scan", &mut || s.configure(&[remove_adapter(7)]));
    check("detach", &mut || s.host.detach(mdev(1)).unwrap());
    let (status, events) = record(|| s.status("06.0004"));
    let taken: Vec<Rank> = events.iter().filter(|e| e.action == Action::Lock).map(|e| e.lock.rank).collect();
    assert_eq!((status, taken), (Some("assigned"), vec![Rank::Mdevs]));
}

/// CVE-2026-89955: `status` of a queue that is being probed. Here a probe is one step under the locks, so a reader finds the
/// queue before it, when vfio_ap has no `status` for it, or after it, with what is true then; nobody finds it half way.
#[test]
fn v15_status_while_a_queue_is_probed() {
    let s = Setup::new("a5 d4");
    s.mdev(1, "a5 a6 d4");
    s.attach(1);
    let (host, seen) = (s.host.clone(), Arc::new(Mutex::new(Vec::new())));
    let result = seen.clone();
    s.machine.on_tapq(move || {
        let status = |name| host.status(q(name)).map(QueueStatus::name);
        let of_the_device = host.mdev(mdev(1)).unwrap().shadow;
        result.lock().unwrap().push((
            [status("06.0004"), status("06.0047"), status("07.0004")],
            of_the_device.test(q("06.0004")),
        ));
    });
    s.configure(&[add_adapter(6), add_adapter(7), add_domain(0x47)]);
    s.machine.without_hooks();
    let seen = seen.lock().unwrap();
    // Each queue in turn: none, then what it is; the scan's end, when no queue is asked any more, plugs.
    for (at, name, want) in
        [(0, "06.0004", "assigned"), (1, "06.0047", "unassigned"), (2, "07.0004", "unassigned")]
    {
        let mut read: Vec<_> = seen.iter().map(|(status, _)| status[at]).collect();
        read.dedup();
        assert_eq!(read, [None, Some(want)], "{name}");
    }
    assert!(seen.iter().all(|(_, plugged)| !plugged), "until then it is in no guest");
    assert_eq!(s.status("06.0004"), Some("in use"));
    assert_eq!(s.status("06.0047"), Some("unassigned"));
}
