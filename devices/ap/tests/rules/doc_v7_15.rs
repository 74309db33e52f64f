//! "[PATCH v7 15/15] s390/vfio-ap: handle probe/remove not due to host AP config changes", 2020-04-07.

use ap::host::{Condition, Driver, LparChange};

use crate::machine::Did;
use crate::setup::*;

/// The first requirement: every queue of the probed queue's adapter in the guest's domains is bound.
#[test]
fn doc_v7_15_probe_needs_the_rest_of_its_adapter() {
    let s = Setup::new("a5 a6 d4 d47");
    s.unbind("06.0004 06.0047");
    s.mdev(1, "a5 a6 d4 d47");
    let vm = s.attach(1);
    assert_eq!(vm.matrix(), matrix("a5 d4 d47"));
    s.log.take();
    s.bind("06.0004");
    assert_eq!(s.log.take(), [], "06.0047 is not bound");
    assert_eq!(s.status("06.0004"), Some("assigned"));
    s.bind("06.0047");
    assert_eq!(s.log.take(), [Did::Masks(1, matrix("a5 a6 d4 d47")), Did::Told(1)]);
    assert_eq!(s.status("06.0004"), Some("in use"));
}

/// The second requirement, that every queue of the probed queue's *domain* on the guest's adapters is bound, is none in the
/// merged driver: the adapter that lacks a queue goes, and never keeps another out.
#[test]
fn doc_v7_15_probe_does_not_ask_for_its_domain() {
    let s = Setup::new("a5 a6 d4 d47");
    s.unbind("05.0047 06.0047");
    s.mdev(1, "a5 a6 d4");
    let vm = s.attach(1);
    assert_eq!(vm.matrix(), matrix("a5 a6 d4"));
    s.assign(1, "d47").unwrap();
    assert_eq!(vm.matrix(), matrix("d4 d47"), "both adapters lack a queue");
    s.bind("06.0047");
    assert_eq!(vm.matrix(), matrix("a6 d4 d47"), "05.0047 is still not bound");
    s.bind("05.0047");
    assert_eq!(vm.matrix(), matrix("a5 a6 d4 d47"));
}

/// "Access to the adapter will be taken away", for one queue unbound by hand.
#[test]
fn doc_v7_15_remove_takes_the_adapter() {
    let s = Setup::new("a5 a6 d4 d47");
    s.mdev(1, "a5 a6 d4 d47");
    let vm = s.attach(1);
    s.log.take();
    s.unbind("05.0047");
    assert_eq!(vm.matrix(), matrix("a6 d4 d47"));
    let log = s.log.take();
    assert_eq!(log[0], Did::Masks(1, matrix("a6 d4 d47")), "the guest loses it before it is reset");
    assert_eq!(resets(&log), queues("05.0004 05.0047"), "the whole adapter, and 06 is left alone");
    assert_eq!(told(&log, 1), 1);
    s.bind("05.0047");
    assert_eq!(vm.matrix(), matrix("a5 a6 d4 d47"), "and comes back");
}

/// From online to standby. The document: each queue device is removed. Merged: the queue devices stay, and a queue that
/// answers 03 may be in a guest, which sees the state itself.
#[test]
fn doc_v7_15_standby_keeps_the_adapter() {
    let s = Setup::new("a5 d4 d47");
    s.mdev(1, "a5 d4 d47");
    let vm = s.attach(1);
    s.log.take();
    s.configure(&[condition(5, Condition::Offline)]);
    assert_eq!(s.devices(), "05.0004 05.0047");
    assert_eq!(vm.matrix(), matrix("a5 d4 d47"));
    let state = s.host.snapshot();
    assert!(state.queues.iter().all(|queue| !queue.config && queue.driver == Some(Driver::VfioAp)));
    assert_eq!(s.log.take(), [Did::Told(1)], "nothing is reset, the guest is to look");
    s.configure(&[condition(5, Condition::Online)]);
    assert_eq!(s.log.take(), [Did::Told(1)]);
    assert!(s.host.snapshot().queues.iter().all(|queue| queue.config));
}

/// From standby to online. The document: each queue device is created and probed then. Merged: it was all the time, also of
/// an adapter that joins the configuration in standby, whose queues a reset answers with 03.
#[test]
fn doc_v7_15_probed_in_standby() {
    let s = Setup::new("a5 d4");
    s.mdev(1, "a5 a6 d4");
    let vm = s.attach(1);
    s.configure(&[add_adapter(6), condition(6, Condition::Offline)]);
    assert_eq!(s.devices(), "05.0004 06.0004");
    assert_eq!(vm.matrix(), matrix("a5 a6 d4"));
    s.unassign(1, "a6").unwrap();
    assert_eq!(s.host.snapshot().queue(q("06.0004")).unwrap().last_reset, 0x03);
    s.assign(1, "a6").unwrap();
    assert_eq!(vm.matrix(), matrix("a5 a6 d4"), "a reset that ended with 03 is passable");
}

/// "Removed when the type of the AP adapter dynamically changes": the guest loses the adapter, its queues are reset, and the
/// queue devices that are made anew bring it back.
#[test]
fn doc_v7_15_type_change() {
    let s = Setup::new("a5 a6 d4 d47");
    s.mdev(1, "a5 a6 d4 d47");
    let vm = s.attach(1);
    s.log.take();
    s.configure(&[LparChange::ChangeType { adapter: accelerator(5, 7) }]);
    let log = s.log.take();
    assert_eq!(masks(&log, 1), [matrix("a6 d4 d47"), matrix("a5 a6 d4 d47")]);
    assert_eq!(resets(&log)[..2], queues("05.0004 05.0047")[..]);
    assert!(resets(&log).iter().all(|queue| queue.apid().0 == 5));
    let out = log.iter().position(|did| matches!(did, Did::Masks(..))).unwrap();
    let reset = log.iter().position(|did| matches!(did, Did::Zapq(_))).unwrap();
    let back = log.iter().rposition(|did| matches!(did, Did::Masks(..))).unwrap();
    let last_reset = log.iter().rposition(|did| matches!(did, Did::Zapq(_))).unwrap();
    assert!(out < reset && last_reset < back, "out, reset, in: {log:?}");
    assert_eq!(told(&log, 1), 1, "once for all of it");
    assert_eq!(vm.matrix(), matrix("a5 a6 d4 d47"));
}

/// The same to a type that the bus does not take any more: nothing comes back.
#[test]
fn doc_v7_15_type_change_below_cex4() {
    let s = Setup::new("a5 a6 d4");
    s.mdev(1, "a5 a6 d4");
    let vm = s.attach(1);
    s.machine.set_type(5, 9);
    s.host.scan();
    assert_eq!(s.devices(), "06.0004");
    assert_eq!(vm.matrix(), matrix("a6 d4"));
    s.machine.set_type(5, 10);
    s.host.scan();
    assert_eq!(s.devices(), "05.0004 06.0004");
    assert_eq!(vm.matrix(), matrix("a5 a6 d4"));
}

/// From operating to check stop. The document: the queue devices are removed. Merged: they stay as in standby; response code
/// 04 is passable.
#[test]
fn doc_v7_15_check_stop_keeps_the_adapter() {
    let s = Setup::new("a5 d4 d47");
    s.mdev(1, "a5 d4 d47");
    let vm = s.attach(1);
    s.log.take();
    s.configure(&[condition(5, Condition::Checkstop)]);
    assert_eq!(vm.matrix(), matrix("a5 d4 d47"));
    assert!(s.host.snapshot().queues.iter().all(|queue| queue.chkstop && queue.config));
    assert_eq!(s.log.take(), [Did::Told(1)]);
    s.host.detach(mdev(1)).unwrap();
    assert_eq!(s.host.snapshot().queue(q("05.0004")).unwrap().last_reset, 0x04);
    assert_eq!(s.attach(1).matrix(), matrix("a5 d4 d47"), "and can be given to the next guest");
}

/// A probe or remove for a mediated device without a guest, or of a queue assigned to none, changes no guest.
#[test]
fn doc_v7_15_without_a_guest() {
    let s = Setup::new("a5 a6 d4");
    s.mdev(1, "a5 d4");
    s.unbind("05.0004 06.0004");
    assert_eq!(s.guest_matrix(1), ".0004");
    assert_eq!(resets(&s.log.take()), queues("05.0004 06.0004"));
    s.bind("05.0004 06.0004");
    assert_eq!(s.guest_matrix(1), "05.0004");
    assert_eq!(s.status("06.0004"), Some("unassigned"));
    assert_eq!(s.log.take(), []);
}
