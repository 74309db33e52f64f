//! "s390/vfio-ap: implement in-use callback for vfio_ap driver" (3f85d1df). The deadlock itself is modelled in
//! `tests/deadlock`.

use ap::host::Driver;
use ap::lock::{Action, Rank, record};

use crate::setup::*;

/// "The driver will indicate a resource is in use if the APQN of any of the queue devices to be removed are assigned to any of
/// the matrix mdevs": the mask stays as it is.
#[test]
fn doc_in_use_a_mask_write_that_hits_an_mdev() {
    let s = Setup::with_masks("a5 a6 d4 d47", "-5,-6", "");
    s.mdev(1, "a5 d4");
    s.mdev(2, "a6 d47");
    let before = s.host.snapshot();
    assert_eq!(s.apmask("+5"), Err("EBUSY"));
    assert_eq!(s.apmask("+6"), Err("EBUSY"), "any of the mdevs");
    assert_eq!(s.apmask("+5,+6,-7"), Err("EBUSY"), "all or nothing");
    assert_eq!(s.apmask(&format!("0x{}", "f".repeat(64))), Err("EBUSY"));
    assert_eq!(s.host.snapshot(), before);
    assert_eq!(s.log.take(), []);
    s.unassign(1, "d4").unwrap();
    s.apmask("+5").unwrap();
    assert_eq!(s.bound_to(Driver::Default), "05.0004 05.0047");
}

/// The message names what is in the way, and what to do.
#[test]
fn doc_in_use_names_the_queues_and_the_mdev() {
    let s = Setup::with_masks("a4 a5 d54", "-4,-5", "");
    s.mdev(1, "a5 d54");
    let error = s.host.write_mask(ap::host::MaskAttribute::Apmask, "+4,+5").unwrap_err();
    assert_eq!(
        error.to_string(),
        "write to apmask: queue 05.0054 is assigned to mdev 00000000-0000-0000-0000-000000000001; unassign the adapters (5) \
         or the domains (0x54) from it first"
    );
}

/// It is the assignment that counts: without a guest, without a binding, and for queues that do not exist.
#[test]
fn doc_in_use_counts_what_is_assigned() {
    let s = Setup::with_masks("a5 d4", "-5,-7", "");
    s.unbind("05.0004");
    s.mdev(1, "a5 a7 d4");
    assert_eq!(s.apmask("+5"), Err("EBUSY"), "not bound");
    assert_eq!(s.apmask("+7"), Err("EBUSY"), "not there");
    s.mdev(2, "d9 c4");
    s.aqmask("-9").unwrap();
    s.aqmask("+9").unwrap();
    assert_eq!(s.guest_matrix(2), "", "no adapter, so no queue to lose");
}

/// Both masks make the reservation, so a bit counts by what the other mask has.
#[test]
fn doc_in_use_looks_at_both_masks() {
    let s = Setup::with_masks("a5 d4 d47", "-5", "-4");
    s.mdev(1, "a5 d4");
    s.aqmask("+4").unwrap();
    assert_eq!(s.apmask("+5"), Err("EBUSY"), "now the domain is reserved");
    s.aqmask("-4").unwrap();
    s.apmask("+5").unwrap();
    assert_eq!(s.aqmask("+4"), Err("EBUSY"), "now the adapter is");
    assert_eq!(s.bound_to(Driver::VfioAp), "05.0004");
}

/// "Before allowing a bit to be removed from either mask" is what the document says; asked is about bits *set*, which take
/// queues from vfio_ap. One that is taken out never is in the way.
#[test]
fn doc_in_use_asks_about_bits_newly_set() {
    let s = Setup::with_masks("a5 a6 d4", "-5", "");
    s.mdev(1, "a5 d4");
    s.apmask("-6").unwrap();
    s.apmask("-5").unwrap();
    s.aqmask("-4").unwrap();
    assert_eq!(s.bound_to(Driver::VfioAp), "05.0004 06.0004");
    assert_eq!(s.guest_matrix(1), "05.0004");
    s.apmask("+6").unwrap();
    s.aqmask("+5").unwrap();
    assert_eq!(s.guest_matrix(1), "05.0004");
}

/// "The lock will be the first taken by the adapter/domain assignment functions": an assignment and a mask write take the
/// permissions' lock before the guests' lock, so neither waits for the other with what the other needs.
#[test]
fn doc_in_use_permissions_are_locked_first() {
    let s = Setup::with_masks("a5 d4", "-5", "");
    s.mdev(1, "d4");
    let _vm = s.attach(1);
    let order = |code: &dyn Fn()| {
        let (_, events) = record(code);
        let taken = events.iter().filter(|event| event.action == Action::Lock);
        taken.map(|event| event.lock.rank).collect::<Vec<_>>()
    };
    let assign = order(&|| s.assign(1, "a5").unwrap());
    assert_eq!(assign[..4], [Rank::ApAttr, Rank::Guests, Rank::Vm, Rank::Mdevs]);
    let write = order(&|| assert_eq!(s.apmask("+5"), Err("EBUSY")));
    assert_eq!(write, [Rank::Bus, Rank::ApAttr, Rank::Guests, Rank::Mdevs]);
}
