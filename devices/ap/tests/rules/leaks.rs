//! What past bugs teach about loops: V20.

use std::sync::Arc;

use ap::host::{Condition, Description};

use crate::machine::Did;
use crate::setup::*;

/// CVE-2023-53746: creating, using and removing devices over and over leaves nothing: neither state, nor VMs, nor a queue
/// that was not reset and freed.
#[test]
fn v20_loops_leak_nothing() {
    let s = Setup::with_masks("a5 a6 d4 d47 c4", "-5,-6", "");
    let before = s.host.snapshot();
    let vm = Vm::new(1, &s.log);
    for round in 0..200 {
        s.mdev(1, "a5 a6 d4 c4");
        s.host.attach(mdev(1), vm.clone()).unwrap();
        s.assign(1, "d47").unwrap();
        s.unbind("06.0047");
        s.configure(&[remove_adapter(5)]);
        s.configure(&[add_adapter(5), condition(6, Condition::Offline)]);
        s.bind("06.0047");
        s.unassign(1, "a6").unwrap();
        s.host.detach(mdev(1)).unwrap();
        s.configure(&[condition(6, Condition::Online)]);
        s.host.remove_mdev(mdev(1)).unwrap();
        assert_eq!(Arc::strong_count(&vm), 1, "round {round}: the host keeps the VM");
        let log = s.log.take();
        for queue in resets(&log) {
            let reset = log.iter().rposition(|did| *did == Did::Zapq(queue)).unwrap();
            assert!(log[reset..].contains(&Did::Release(queue)), "round {round}: {queue} is not freed");
        }
    }
    // The queues' last resets in standby ended with 03.
    for state in [&before, &s.host.snapshot()] {
        assert_eq!(state.mdevs, []);
        assert_eq!(state.queues.len(), before.queues.len());
    }
    let mut after = s.host.snapshot();
    after.queues.iter_mut().for_each(|queue| queue.last_reset = 0);
    assert_eq!(after, before);
    assert!(!*vm.hook.lock().unwrap());
    assert_eq!(vm.matrix(), matrix(""));
}

/// A definition that is refused leaves no device, however often it is tried.
#[test]
fn v20_a_refused_definition_leaves_nothing() {
    let s = Setup::with_masks("a5 d4", "-5", "");
    let description = Description::builtin();
    let (_, definition) = &description.mdevs()[0];
    for _ in 0..100 {
        assert_eq!(s.host.import(mdev(1), definition).unwrap_err().errno(), "EADDRNOTAVAIL");
        assert_eq!(s.host.snapshot().mdevs, []);
    }
}

/// A device is removed under a guest that gives it back when it is asked: its APCB is empty before, its queues are reset.
#[test]
fn v20_removal_asks_the_guest() {
    let s = Setup::new("a5 d4");
    s.mdev(1, "a5 d4");
    let vm = s.attach(1);
    let host = s.host.clone();
    *vm.on_request.lock().unwrap() = Some(Box::new(move || host.detach(mdev(1)).unwrap()));
    s.log.take();
    s.host.remove_mdev(mdev(1)).unwrap();
    let log = s.log.take();
    assert_eq!(log[..3], [Did::Masks(1, matrix("")), Did::Told(1), Did::Requested(1)]);
    assert_eq!(log[3..5], [Did::Hook(1, false), Did::Masks(1, matrix(""))]);
    assert_eq!(resets(&log)[0], q("05.0004"));
    assert_eq!(s.status("05.0004"), Some("unassigned"));
    assert_eq!(Arc::strong_count(&vm), 1);
}

/// A VM that does not answer loses its device, as one that was killed does; the next one gets reset queues.
#[test]
fn v20_a_vm_that_is_gone_loses_its_device() {
    let s = Setup::new("a5 a6 d4");
    s.mdev(1, "a5 d4");
    let vm = s.attach(1);
    *vm.answers.lock().unwrap() = false;
    s.log.take();
    s.assign(1, "a6").unwrap();
    assert_eq!(s.host.mdev(mdev(1)).unwrap().guest, None);
    let log = s.log.take();
    assert!(log.contains(&Did::Hook(1, false)));
    assert_eq!(resets(&log), queues("05.0004 06.0004"));
    assert_eq!(vm.matrix(), matrix(""));
    let next = Vm::new(2, &s.log);
    assert_eq!(s.host.attach(mdev(1), next).unwrap(), matrix("a5 a6 d4"));
}

/// No more devices can be created than `available_instances` said at first; one that is removed makes room.
#[test]
fn s2_the_last_device_and_one_more() {
    let mut state = Setup::new("a5 d4").host.snapshot();
    let device = |n| ap::host::MdevState {
        uuid: uuid::Uuid::from_u128(n),
        matrix: matrix(""),
        guest_matrix: matrix(""),
        attached: false,
    };
    state.mdevs = (1..65_536).map(device).collect();
    let host = ap::host::ApHost::rehearsal(&state);
    let create = |n| match host.create_mdev(uuid::Uuid::from_u128(n)) {
        Ok(()) => "done".to_owned(),
        Err(error) => error.errno().to_owned(),
    };
    assert_eq!(create(65_536), "done");
    assert_eq!(create(65_537), "EUSERS");
    assert_eq!(create(7), "EEXIST", "which is looked at first");
    assert_eq!(host.snapshot().mdevs.len(), 65_536);
    host.remove_mdev(uuid::Uuid::from_u128(7)).unwrap();
    assert_eq!([create(65_537), create(7)], ["done", "EUSERS"]);
}
