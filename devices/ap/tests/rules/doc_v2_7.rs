//! "[PATCH v2 7/7] s390: vfio-ap: update documentation", 2019-05-03, and what became of it, the kernel's
//! `Documentation/arch/s390/vfio-ap.rst`.

use ap::host::{ApHost, Condition, Description, Driver};
use crycb::Mask256;

use crate::machine::Did;
use crate::setup::*;

/// Adapters 4 and 10, domains 6 and 71: four queues.
#[test]
fn doc_v2_7_queues_of_the_lpar() {
    let s = Setup::new("a4 aa d6 d47");
    assert_eq!(s.devices(), "04.0006 04.0047 0a.0006 0a.0047");
}

/// Adapters 1 and 2, domains 5 and 6: four queues are valid for the guest, which its APCB says in two masks.
#[test]
fn doc_v2_7_queues_of_a_guest() {
    let s = Setup::new("a1 a2 a3 d5 d6 d7");
    s.mdev(1, "a1 a2 d5 d6");
    assert_eq!(s.guest_matrix(1), "01.0005 01.0006 02.0005 02.0006");
    assert_eq!(s.attach(1).matrix(), matrix("a1 a2 d5 d6"));
}

/// Six queues for zcrypt by both masks. The document says that 0x07... has the bits 1, 2 and 3; it has 5, 6 and 7, from the
/// left. Its mask of domains, 0x0180..., is as it says 7 and 8.
#[test]
fn doc_v2_7_masks_make_a_cartesian_product() {
    let s = Setup::with_masks("a1 a2 a3 a4 a5 a6 a7 d7 d8 d9", "0x70", "0x0180");
    assert_eq!(s.bound_to(Driver::Default), "01.0007 01.0008 02.0007 02.0008 03.0007 03.0008");
    let s = Setup::with_masks("a1 a2 a3 a4 a5 a6 a7 d7 d8 d9", "0x07", "0x0180");
    assert_eq!(s.bound_to(Driver::Default), "05.0007 05.0008 06.0007 06.0008 07.0007 07.0008");
}

/// The example with which the merged documentation replaced it: 0x7d and 0x80.
#[test]
fn doc_v2_7_masks_of_the_merged_documentation() {
    let s = Setup::with_masks("a0 a1 a2 a3 a4 a5 a6 a7 d0 d1", "0x7d", "0x80");
    assert_eq!(s.bound_to(Driver::Default), "01.0000 02.0000 03.0000 04.0000 05.0000 07.0000");
}

/// "By default, the two masks are set to reserve all APQNs for use by the zcrypt AP queue device drivers."
#[test]
fn doc_v2_7_by_default_all_are_reserved() {
    let s = Setup::with_masks("a5 d4", "", "");
    assert_eq!(s.bound_to(Driver::Default), "05.0004");
    let state = s.host.snapshot();
    assert_eq!((state.apmask, state.aqmask), (Mask256::ALL, Mask256::ALL));
}

/// Absolute masks: 0x41 is numbers 1 and 7, padded on the right; longer than the mask is EINVAL and changes nothing.
/// The merged driver takes a text without a digit for the empty mask.
#[test]
fn doc_v2_7_absolute_masks() {
    let s = Setup::with_masks("a1 d1", "", "");
    s.apmask("0x41").unwrap();
    assert_eq!(s.host.snapshot().apmask, mask(&[1, 7]));
    s.apmask(&format!("0x41{}", "0".repeat(62))).unwrap();
    assert_eq!(s.host.snapshot().apmask, mask(&[1, 7]));
    for bad in [&format!("0x{}", "0".repeat(65)), "0xx", "0x4g", " ", "0x41,0x42"] {
        assert_eq!(s.apmask(bad), Err("EINVAL"), "{bad:?}");
        assert_eq!(s.aqmask(bad), Err("EINVAL"), "{bad:?}");
    }
    assert_eq!(s.host.snapshot().apmask, mask(&[1, 7]));
    s.apmask("").unwrap();
    assert_eq!(s.host.snapshot().apmask, mask(&[]));
}

/// Relative masks, the document's five examples: bits that are not named stay.
#[test]
fn doc_v2_7_relative_masks() {
    let check = |start: &str, text: &str, want: Mask256| {
        let s = Setup::with_masks("a5 d4", start, "");
        s.apmask(text).unwrap();
        assert_eq!(s.host.snapshot().apmask, want, "{text} to {start}");
    };
    let all_but = |n: u8| Mask256::ALL.minus(mask(&[n]));
    check("0x00", "+0", mask(&[0]));
    check("", "-13", all_but(13));
    check("0x00", "+0x41", mask(&[65]));
    check("", "-0xff", all_but(255));
    check("0x02", "+0,-6,+0x47,-0xf0", mask(&[0, 0x47]));
    check("0x42", "+0,-6,+0x47,-0xf0", mask(&[0, 1, 0x47]));
    let s = Setup::with_masks("a5 d4", "0x42", "");
    for bad in ["+256", "+", "+5,6", "-3-2", "+0x"] {
        assert_eq!(s.apmask(bad), Err("EINVAL"), "{bad}");
    }
    assert_eq!(s.host.snapshot().apmask, mask(&[1, 6]));
}

/// `ap.apmask=0xffff ap.aqmask=0x40`: adapters 0 to 15 in domain 1 are the default drivers', all else is not.
#[test]
fn doc_v2_7_masks_of_the_kernel_command_line() {
    let s = Setup::with_masks("a0 af a10 d0 d1 d2", "0xffff", "0x40");
    assert_eq!(s.bound_to(Driver::Default), "00.0001 0f.0001");
    assert_eq!(s.bound_to(Driver::VfioAp), "00.0000 00.0002 0f.0000 0f.0002 10.0000 10.0001 10.0002");
}

const HOST: &str = "a5 a6 d4 d47 dab dff";
const SECURED: &str = "05.0004 05.0047 05.00ab 05.00ff 06.0004 06.0047 06.00ab 06.00ff";

/// "Securing the APQNs for our example": any of the four commands binds the eight queues to vfio_ap.
#[test]
fn doc_v2_7_securing_the_example() {
    let whole = |first: &str| format!("0x{first}{}", "f".repeat(64 - first.len()));
    let domains = format!("0xf7{}fe{}e{}e", "f".repeat(14), "f".repeat(24), "f".repeat(20));
    for (attribute, text) in [
        ("apmask", "-5,-6".to_owned()),
        ("aqmask", "-4,-0x47,-0xab,-0xff".to_owned()),
        ("apmask", whole("f9")),
        ("aqmask", domains),
    ] {
        let s = Setup::with_masks(HOST, "", "");
        assert_eq!(s.bound_to(Driver::VfioAp), "");
        match attribute {
            "apmask" => s.apmask(&text).unwrap(),
            _ => s.aqmask(&text).unwrap(),
        }
        assert_eq!(s.bound_to(Driver::VfioAp), SECURED, "{text}");
    }
}

/// "Only type 10 and newer adapters (CEX4 and later) can be bound to the vfio_ap device driver."
#[test]
fn doc_v2_7_older_adapters_are_not_bound() {
    let s = Setup::new("a5 d4");
    s.machine.set_type(6, 9);
    s.configure(&[add_adapter(6)]);
    assert_eq!(s.devices(), "05.0004");
}

/// The example as a whole: three mediated devices, three guests, whose matrices share no queue.
#[test]
fn doc_v2_7_three_guests() {
    let s = three_guests();
    assert_eq!(s.guest_matrix(1), "05.0004 05.00ab 06.0004 06.00ab");
    assert_eq!(s.guest_matrix(2), "05.0047 05.00ff");
    assert_eq!(s.guest_matrix(3), "06.0047 06.00ff");
    for n in [1, 2, 3] {
        assert_eq!(s.matrix(n), s.guest_matrix(n), "\"is or will be assigned\", before the guest starts");
        let vm = s.attach(n);
        assert_eq!(vm.matrix(), s.host.mdev(mdev(n)).unwrap().matrix);
        assert!(*vm.hook.lock().unwrap());
    }
    assert!(queues(SECURED).iter().all(|queue| s.status(&queue.to_string()) == Some("in use")));
    s.check_promises();
    for n in [1, 2, 3] {
        s.host.detach(mdev(n)).unwrap();
        s.host.remove_mdev(mdev(n)).unwrap();
    }
    assert!(queues(SECURED).iter().all(|queue| s.status(&queue.to_string()) == Some("unassigned")));
    s.apmask("+5,+6").unwrap();
    assert_eq!(s.bound_to(Driver::Default), SECURED, "the pool can be reconfigured then");
}

/// Secured and assigned as in the example. Highest adapter 3f, highest domain ff.
fn three_guests() -> Setup {
    let s = Setup::of(
        r#"{"adapters": [{"adapter": 5, "type": "CEX5C", "serial": "93AADFK7"}, {"adapter": 6, "type": "CEX5A"}],
            "max_adapter": 63, "usage_domains": [4, 71, 171, 255]}"#,
    );
    s.apmask("-5,-6").unwrap();
    s.mdev(1, "");
    s.mdev(2, "");
    s.mdev(3, "");
    let commands = [
        (1, "5", "assign_adapter"),
        (1, "6", "assign_adapter"),
        (1, "4", "assign_domain"),
        (1, "0xab", "assign_domain"),
        (2, "5", "assign_adapter"),
        (2, "0x47", "assign_domain"),
        (2, "0xff", "assign_domain"),
        (3, "6", "assign_adapter"),
        (3, "0x47", "assign_domain"),
        (3, "0xff", "assign_domain"),
    ];
    for (n, text, attribute) in commands {
        s.echo(n, text, attribute).unwrap();
    }
    s.log.take();
    s
}

/// Each error of the example's steps, with the guests running; none changes anything. Sharing is EBUSY in the kernel's
/// documentation; its driver answers EADDRINUSE, as the documents of the series say.
#[test]
fn doc_v2_7_three_guests_every_error() {
    let s = three_guests();
    for n in [1, 2, 3] {
        s.attach(n);
    }
    s.log.take();
    let before = s.host.snapshot();
    let rows = [
        // "If an adapter number higher than the maximum is specified": also where it is taken away.
        (1, "64", "assign_adapter", "ENODEV"),
        (1, "0x100", "assign_domain", "ENODEV"),
        (1, "256", "assign_control_domain", "ENODEV"),
        (1, "64", "unassign_adapter", "ENODEV"),
        (1, "256", "unassign_domain", "ENODEV"),
        (1, "256", "unassign_control_domain", "ENODEV"),
        (1, "18446744073709551615", "assign_adapter", "ENODEV"),
        // "If even one APQN is reserved for use by the host device driver."
        (1, "7", "assign_adapter", "EADDRNOTAVAIL"),
        (2, "0x3f", "assign_adapter", "EADDRNOTAVAIL"),
        // "If even one APQN is assigned to another vfio_ap mediated device."
        (1, "0x47", "assign_domain", "EADDRINUSE"),
        (2, "4", "assign_domain", "EADDRINUSE"),
        (2, "6", "assign_adapter", "EADDRINUSE"),
        (3, "05", "assign_adapter", "EADDRINUSE"),
        // What is no number.
        (1, "five", "assign_adapter", "EINVAL"),
        (1, "", "assign_domain", "EINVAL"),
        (1, "-5", "unassign_adapter", "EINVAL"),
        (1, "5 6", "assign_control_domain", "EINVAL"),
        (1, "08", "unassign_domain", "EINVAL"),
        (1, "0x", "unassign_control_domain", "EINVAL"),
        (1, "18446744073709551616", "assign_adapter", "ERANGE"),
        (1, "0x10000000000000000", "unassign_domain", "ERANGE"),
    ];
    for (n, text, attribute, errno) in rows {
        assert_eq!(s.echo(n, text, attribute), Err(errno), "echo {text} > {attribute}");
        assert_eq!(s.host.snapshot(), before, "echo {text} > {attribute}");
    }
    // "Changing a mask such that one or more APQNs will be taken from a vfio_ap mediated device will fail with EBUSY."
    assert_eq!(s.apmask("+5"), Err("EBUSY"));
    // "The remove will fail if a guest using the vfio_ap mdev is still running." Here the guest is asked first.
    assert_eq!(s.host.remove_mdev(mdev(1)).unwrap_err().errno(), "EBUSY");
    assert_eq!(s.host.mdev(mdev(9)).unwrap_err().errno(), "ENOENT");
    assert_eq!(s.host.create_mdev(mdev(1)).unwrap_err().errno(), "EEXIST");
    assert_eq!(s.host.snapshot(), before);
}

/// EADDRNOTAVAIL goes before EADDRINUSE when both are so.
#[test]
fn doc_v2_7_reserved_goes_before_shared() {
    let s = Setup::with_masks("a5 a6 d4 d47", "-5", "");
    s.mdev(1, "a5 d4");
    s.mdev(2, "d4");
    assert_eq!(s.assign(2, "a5"), Err("EADDRINUSE"));
    assert_eq!(s.assign(2, "a6"), Err("EADDRNOTAVAIL"));
    s.unassign(2, "d4").unwrap();
    s.assign(2, "a5 d47").unwrap();
    assert_eq!(s.echo(2, "0x06,0x08,0x0", "ap_config"), Err("EADDRNOTAVAIL"), "05.0004 and 06.0004");
}

/// "We now allow assignment of APQNs that are not bound to the vfio-ap device driver": before, that was EADDRNOTAVAIL.
#[test]
fn doc_v2_7_unbound_queues_may_be_assigned() {
    let s = Setup::new("a5 d4 d47");
    s.unbind("05.0004 05.0047");
    s.mdev(1, "a5 d4 d47");
    assert_eq!(s.matrix(1), "05.0004 05.0047");
    assert_eq!(s.guest_matrix(1), ".0004 .0047");
    s.mdev(2, "a7 d4");
    assert_eq!(s.matrix(2), "07.0004", "nor need they exist");
}

/// `echo 0xa > assign_adapter` plugs adapter 10 into a running guest.
#[test]
fn doc_v2_7_hot_plug_of_adapter_10() {
    let s = Setup::new("a5 aa d4 d5");
    s.mdev(1, "a5 d4 d5");
    let vm = s.attach(1);
    s.log.take();
    s.echo(1, "0xa", "assign_adapter").unwrap();
    assert_eq!(s.log.take(), [Did::Masks(1, matrix("a5 aa d4 d5")), Did::Told(1)]);
    assert_eq!(vm.matrix(), matrix("a5 aa d4 d5"));
    assert_eq!(s.guest_matrix(1), "05.0004 05.0005 0a.0004 0a.0005");
}

/// `echo 5 > unassign_domain` unplugs domain 5 from a running guest, and its queues are reset.
#[test]
fn doc_v2_7_hot_unplug_of_domain_5() {
    let s = Setup::new("a5 aa d4 d5");
    s.mdev(1, "a5 aa d4 d5");
    let vm = s.attach(1);
    s.log.take();
    s.echo(1, "5", "unassign_domain").unwrap();
    let log = s.log.take();
    assert_eq!(log[0], Did::Masks(1, matrix("a5 aa d4")));
    assert_eq!(resets(&log), queues("05.0005 0a.0005"));
    assert_eq!(released(&log), resets(&log));
    assert_eq!(told(&log, 1), 1);
    assert_eq!(vm.matrix(), matrix("a5 aa d4"));
    s.echo(1, "5", "unassign_domain").unwrap();
    assert_eq!(s.log.take(), [], "not assigned is no error and does nothing");
}

/// `cat guest_matrix` without a guest: ENODEV in the document; merged, it shows what a guest will get.
#[test]
fn doc_v2_7_guest_matrix_without_a_guest() {
    let s = Setup::new("a5 d4");
    s.mdev(1, "a5 a6 d4");
    assert_eq!(s.guest_matrix(1), "05.0004");
    s.attach(1);
    assert_eq!(s.guest_matrix(1), "05.0004");
    s.host.detach(mdev(1)).unwrap();
    assert_eq!(s.guest_matrix(1), "05.0004");
}

/// `matrix` and `guest_matrix` print adapters or domains alone where there are no queues; `control_domains`; `ap_config`.
#[test]
fn doc_v2_7_text_formats() {
    let s = Setup::new("a5 aa d4 dab");
    s.mdev(1, "");
    assert_eq!((s.matrix(1), s.guest_matrix(1)), (String::new(), String::new()));
    s.assign(1, "a5 aa").unwrap();
    assert_eq!(s.matrix(1), "05. 0a.");
    assert_eq!(s.guest_matrix(1), "05. 0a.", "without a domain the adapters stay");
    s.assign(1, "dab").unwrap();
    assert_eq!(s.matrix(1), "05.00ab 0a.00ab");
    s.unassign(1, "a5 aa").unwrap();
    assert_eq!(s.matrix(1), ".00ab");
    s.assign(1, "c4 cab").unwrap();
    let device = s.host.mdev(mdev(1)).unwrap();
    assert_eq!(device.control_domains_text(), "0004\n00ab\n");
    let text = device.ap_config_text();
    let (zeros, aqm) = ("0".repeat(64), format!("{}1{}", "0".repeat(42), "0".repeat(21)));
    assert_eq!(text, format!("0x{zeros},0x{aqm},0x08{}\n", &aqm[2..]));
    s.mdev(2, "");
    assert_eq!(s.echo(2, text.trim_end(), "ap_config"), Ok(()), "what is read can be written");
    assert_eq!(s.host.mdev(mdev(2)).unwrap().matrix, device.matrix, "without adapters nothing is shared");
}

/// "The driver will hot plug the queue into the guest as long as each APQN that can be derived from the APID of the queue
/// device and the APQIs of the queues already in use by the guest are bound."
#[test]
fn doc_v2_7_binding_considerations() {
    let s = Setup::with_masks("a5 a6 d4 d47", "-5,-6", "");
    s.mdev(1, "a5 d4 d47");
    let vm = s.attach(1);
    s.assign(1, "a6").unwrap();
    s.unbind("06.0004 06.0047");
    assert_eq!(vm.matrix(), matrix("a5 d4 d47"));
    s.bind("06.0047");
    assert_eq!(vm.matrix(), matrix("a5 d4 d47"), "06.0004 is not bound");
    s.bind("06.0004");
    assert_eq!(vm.matrix(), matrix("a5 a6 d4 d47"));
}

/// "Binding/unbinding is controlled by apmask and aqmask": a queue taken by a mask write is plugged if it is assigned, which it
/// can only be after the write; one that a mask write would take back is in use.
#[test]
fn doc_v2_7_binding_by_masks() {
    let s = Setup::with_masks("a5 d4", "", "");
    s.mdev(1, "d4");
    assert_eq!(s.assign(1, "a5"), Err("EADDRNOTAVAIL"));
    s.apmask("-5").unwrap();
    s.assign(1, "a5").unwrap();
    let vm = s.attach(1);
    assert_eq!(vm.matrix(), matrix("a5 d4"));
    assert_eq!(s.apmask("+5"), Err("EBUSY"));
    s.unassign(1, "a5").unwrap();
    s.apmask("+5").unwrap();
    assert_eq!(s.bound_to(Driver::Default), "05.0004");
    assert_eq!(vm.matrix(), matrix("d4"));
}

/// "When an AP queue device being used by a running guest is unbound from the vfio_ap device driver, the adapter card to which
/// the queue is connected will be unplugged from the guest."
#[test]
fn doc_v2_7_unbinding_considerations() {
    let s = Setup::new("a5 a6 d4 d47");
    s.mdev(1, "a5 a6 d4 d47");
    let vm = s.attach(1);
    s.unbind("06.0004");
    assert_eq!(vm.matrix(), matrix("a5 d4 d47"));
    assert_eq!(s.status("06.0047"), Some("assigned"));
    assert_eq!(s.status("06.0004"), None);
}

/// Over-provisioning: what is assigned before it exists is plugged when it comes, and unplugged when it goes, while `matrix`
/// stays.
#[test]
fn doc_v2_7_assigned_before_it_exists() {
    let s = Setup::new("a5 d4");
    s.mdev(1, "a5 a6 d4 d47 c9");
    let vm = s.attach(1);
    assert_eq!(vm.matrix(), matrix("a5 d4"));
    s.configure(&[add_adapter(6), add_domain(0x47), add_control_domain(9)]);
    assert_eq!(vm.matrix(), matrix("a5 a6 d4 d47 c9"));
    s.configure(&[remove_adapter(5), remove_domain(4), remove_control_domain(9)]);
    assert_eq!(vm.matrix(), matrix("a6 d47"));
    assert_eq!(s.matrix(1), "05.0004 05.0047 06.0004 06.0047");
    s.configure(&[add_adapter(5), condition(5, Condition::Checkstop)]);
    assert_eq!(vm.matrix(), matrix("a5 a6 d47"));
}

/// The example of `docs/ap-host.md` and of the kernel's documentation are one: the built-in host's three guests.
#[test]
fn doc_v2_7_the_built_in_host_has_the_example() {
    let host = ApHost::rehearsal_of(&Description::builtin());
    let example = three_guests();
    let state = host.snapshot();
    for (device, n) in state.mdevs.iter().zip([1, 2, 3]) {
        let want = example.shadow(n);
        assert_eq!((device.guest_matrix.apm, device.guest_matrix.aqm), (want.apm, want.aqm));
    }
    assert!(state.mdevs.len() >= 3);
}
