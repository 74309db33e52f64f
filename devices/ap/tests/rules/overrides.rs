//! What came with Linux 7.2: `driver_override` of a queue, which excludes masks.

use ap::host::Driver;

use crate::setup::*;

const ALL: &str = "05.0004 05.0047 06.0004 06.0047";

fn host() -> Setup {
    let s = Setup::with_masks("a5 a6 d4 d47", "", "");
    assert_eq!(s.bound_to(Driver::Default), ALL);
    s
}

fn set(s: &Setup, queue: &str, driver: &str) -> Result<(), String> {
    s.host.write_override(q(queue), driver).map_err(|error| error.errno().to_owned())
}

/// A mask write while any override is set, and an override while either mask is not all ones, are EINVAL and change nothing.
#[test]
fn linux_7_2_overrides_and_masks_exclude_each_other() {
    let s = host();
    set(&s, "05.0004", "vfio_ap\n").unwrap();
    let before = s.host.snapshot();
    for text in ["-6", "+5", "0x00", &format!("0x{}", "f".repeat(64)), "no mask"] {
        assert_eq!(s.apmask(text), Err("EINVAL"), "{text}");
        assert_eq!(s.aqmask(text), Err("EINVAL"), "{text}");
    }
    assert_eq!(s.host.snapshot(), before);
    set(&s, "05.0004", "\n").unwrap();
    s.apmask("-6").unwrap();
    assert_eq!(set(&s, "05.0004", "vfio_ap"), Err("EINVAL".into()));
    assert_eq!(set(&s, "05.0004", ""), Err("EINVAL".into()), "not even to take one away");
    s.apmask("+6").unwrap();
    s.aqmask("-0xff").unwrap();
    assert_eq!(set(&s, "05.0004", "vfio_ap"), Err("EINVAL".into()), "the other mask counts as well");
    s.aqmask("+0xff").unwrap();
    set(&s, "05.0004", "vfio_ap").unwrap();
    assert_eq!(set(&s, "09.0004", "vfio_ap"), Err("ENODEV".into()), "no such queue");
}

/// "Setting it does not rebind by itself"; unbind and bind do, to the driver it names and to no other.
#[test]
fn linux_7_2_an_override_decides_the_next_binding() {
    let s = host();
    set(&s, "05.0004", "vfio_ap").unwrap();
    assert_eq!(s.bound_to(Driver::Default), ALL);
    assert_eq!(s.host.bind(q("05.0004"), Driver::VfioAp).unwrap_err().errno(), "EBUSY");
    s.unbind("05.0004");
    assert_eq!(s.host.bind(q("05.0004"), Driver::Default).unwrap_err().errno(), "ENODEV");
    s.bind("05.0004");
    assert_eq!(s.bound_to(Driver::VfioAp), "05.0004");
    assert_eq!(s.host.bind(q("05.0047"), Driver::VfioAp).unwrap_err().errno(), "EBUSY");
    s.unbind("05.0047");
    assert_eq!(s.host.bind(q("05.0047"), Driver::VfioAp).unwrap_err().errno(), "ENODEV");
    assert_eq!(s.host.unbind(q("05.0047")).unwrap_err().errno(), "ENODEV");
    s.host.scan();
    assert_eq!(s.bound_to(Driver::Default), "06.0004 06.0047", "no scan binds it");
}

/// Whether a queue can be assigned goes by its override before it goes by the masks.
#[test]
fn linux_7_2_assignment_goes_by_the_override() {
    let s = host();
    s.mdev(1, "d4");
    assert_eq!(s.assign(1, "a5"), Err("EADDRNOTAVAIL"));
    set(&s, "05.0004", "vfio_ap").unwrap();
    s.assign(1, "a5").unwrap();
    assert_eq!(s.guest_matrix(1), ".0004", "assigned, and still the default driver's");
    assert_eq!(s.assign(1, "d47"), Err("EADDRNOTAVAIL"), "05.0047 has no override");
    s.unbind("05.0004");
    s.bind("05.0004");
    assert_eq!(s.guest_matrix(1), "05.0004");
    set(&s, "05.0047", "cex4queue").unwrap();
    assert_eq!(s.assign(1, "d47"), Err("EADDRNOTAVAIL"));
    set(&s, "05.0047", "vfio_ap").unwrap();
    s.assign(1, "d47").unwrap();
    assert_eq!(s.guest_matrix(1), ".0004 .0047", "05.0047 is not bound to vfio_ap: 05 goes");
}

/// An override to a default driver reserves the queue, whatever else is so; one to a driver that does not exist leaves the
/// queue to nobody.
#[test]
fn linux_7_2_overrides_to_other_drivers() {
    let s = host();
    set(&s, "05.0004", "none_such").unwrap();
    s.unbind("05.0004");
    for driver in Driver::ALL {
        assert_eq!(s.host.bind(q("05.0004"), driver).unwrap_err().errno(), "ENODEV");
    }
    s.mdev(1, "a5");
    s.assign(1, "d4").unwrap();
    assert_eq!(s.guest_matrix(1), ".0004", "not the default driver's, so it can be assigned, to no avail");
    set(&s, "05.0004", "cex4queue").unwrap();
    assert_eq!(s.assign(1, "d4"), Ok(()), "it is assigned already");
    s.unassign(1, "d4").unwrap();
    assert_eq!(s.assign(1, "d4"), Err("EADDRNOTAVAIL"));
}

/// An override goes with its queue device, and then masks can be written again.
#[test]
fn linux_7_2_an_override_goes_with_its_queue() {
    let s = host();
    set(&s, "05.0004", "vfio_ap").unwrap();
    s.configure(&[remove_adapter(5)]);
    s.apmask("-6").unwrap();
    s.apmask("+6").unwrap();
    s.configure(&[add_adapter(5)]);
    assert_eq!(s.host.snapshot().queue(q("05.0004")).unwrap().driver_override, None);
    assert_eq!(s.bound_to(Driver::Default), ALL);
}

/// With a guest: the queue is taken back from it by unbind, whatever its override says.
#[test]
fn linux_7_2_overrides_with_a_guest() {
    let s = host();
    for queue in ["05.0004", "06.0004"] {
        set(&s, queue, "vfio_ap").unwrap();
        s.unbind(queue);
        s.bind(queue);
    }
    s.mdev(1, "a5 a6 d4");
    let vm = s.attach(1);
    assert_eq!(vm.matrix(), matrix("a5 a6 d4"));
    set(&s, "05.0004", "cex4queue").unwrap();
    assert_eq!(vm.matrix(), matrix("a5 a6 d4"), "nothing is bound anew");
    s.unbind("05.0004");
    assert_eq!(vm.matrix(), matrix("a6 d4"));
    s.host.bind(q("05.0004"), Driver::Default).unwrap();
    assert_eq!(s.status("05.0004"), None);
    s.check_promises();
}
