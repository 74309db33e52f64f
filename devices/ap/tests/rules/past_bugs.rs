//! What past bugs teach about the matrix of a guest: V1 to V3, V8 to V13, V19.

use std::sync::Arc;

use crate::machine::Did;
use crate::setup::*;

/// CVE-2024-26620: what is added makes the whole matrix filtered, also the part that was filtered out before; what is removed
/// makes nothing filtered.
#[test]
fn v01_additions_filter_the_whole_matrix_and_removals_nothing() {
    let s = Setup::new("a5 a6 a7 d4 d47 dab");
    s.unbind("06.0004");
    s.mdev(1, "a5 a6 d4");
    let vm = s.attach(1);
    assert_eq!(vm.matrix(), matrix("a5 d4"));
    s.assign(1, "d47").unwrap();
    assert_eq!(vm.matrix(), matrix("a5 d4 d47"), "06.0047 is bound, 06.0004 is still not");
    s.assign(1, "a7").unwrap();
    assert_eq!(vm.matrix(), matrix("a5 a7 d4 d47"));

    s.log.take();
    s.unassign(1, "d4").unwrap();
    assert_eq!(vm.matrix(), matrix("a5 a7 d47"), "06.0047 would pass now, but nothing is filtered");
    s.assign(1, "a5 d47 c3").unwrap();
    assert_eq!(vm.matrix(), matrix("a5 a7 d47"), "nor by what is assigned already, or a control domain");
    s.assign(1, "dab").unwrap();
    assert_eq!(vm.matrix(), matrix("a5 a6 a7 d47 dab"));
}

/// The end of a scan filters whole as well, and `ap_config` even where nothing changes.
#[test]
fn v01_scan_ends_and_ap_config_filter_the_whole_matrix() {
    let history = || {
        let s = Setup::new("a5 a6 d4 d47");
        s.unbind("06.0004");
        s.mdev(1, "a5 a6 d4 d47 dab");
        s.unassign(1, "d4").unwrap();
        assert_eq!(s.guest_matrix(1), "05.0047", "06 would pass now");
        s
    };
    let s = history();
    s.configure(&[add_control_domain(9)]);
    assert_eq!(s.guest_matrix(1), "05.0047", "nothing of the device's is new");
    s.configure(&[remove_adapter(6)]);
    assert_eq!(s.guest_matrix(1), "05.0047");
    s.configure(&[add_adapter(6)]);
    assert_eq!(s.guest_matrix(1), "05.0047 06.0047");

    let s = history();
    s.configure(&[add_domain(0xab)]);
    assert_eq!(s.guest_matrix(1), "05.0047 05.00ab 06.0047 06.00ab");

    let s = history();
    let text = s.host.mdev(mdev(1)).unwrap().ap_config_text();
    s.echo(1, text.trim_end(), "ap_config").unwrap();
    assert_eq!(s.guest_matrix(1), "05.0047 06.0047");
}

/// "Loop over the shadow APCB when filtering": queues that the host's configuration has not got keep no adapter out.
#[test]
fn v02_what_the_host_has_not_got_is_not_asked_about() {
    let s = Setup::new("a5 a6 d4 d47");
    s.mdev(1, "a5 a6 a9 d4 d47 dee c4 cee");
    assert_eq!(s.shadow(1), matrix("a5 a6 d4 d47 c4"));
    s.assign(1, "a8 ded").unwrap();
    assert_eq!(s.shadow(1), matrix("a5 a6 d4 d47 c4"));
    s.unbind("05.0004");
    s.bind("05.0004");
    assert_eq!(s.shadow(1), matrix("a5 a6 d4 d47 c4"));
}

/// 774d1019: queues that come with a change of the configuration are probed without a filter, and the end of the scan filters
/// once.
#[test]
fn v03_the_end_of_the_scan_filters_once() {
    let s = Setup::new("a5 d4");
    s.mdev(1, "a5 a6 a7 d4 d47");
    let vm = s.attach(1);
    s.log.take();
    s.configure(&[add_adapter(6), add_adapter(7), add_domain(0x47)]);
    assert_eq!(s.log.take(), [Did::Masks(1, matrix("a5 a6 a7 d4 d47")), Did::Told(1)]);
    assert_eq!(vm.matrix(), matrix("a5 a6 a7 d4 d47"));
}

/// The same where the configuration loses and gains at once: what goes, goes at once; what comes, comes together.
#[test]
fn v03_losses_come_first() {
    let s = Setup::new("a5 a6 d4 d47");
    s.mdev(1, "a5 a6 a7 d4 d47 dab");
    s.attach(1);
    s.log.take();
    s.configure(&[remove_adapter(5), remove_domain(4), add_adapter(7), add_domain(0xab)]);
    let log = s.log.take();
    assert_eq!(masks(&log, 1), [matrix("a6 d47"), matrix("a6 a7 d47 dab")]);
    assert_eq!(told(&log, 1), 1);
    assert_eq!(resets(&log), []);
}

/// Of the adapters that the configuration gains, vfio_ap notes those of which TAPQ tells, on each domain gained with them, a
/// type that it can take; `vfio_ap_filter_apid_by_qtype`. An older one, or one that is not there, brings no filter.
#[test]
fn linux_7_2_adapters_of_old_type_bring_no_filter() {
    let check = |machine: &dyn Fn(&Setup), changes: &[ap::host::LparChange], want: &str| {
        let s = Setup::new("a5 a6 d4 d47");
        s.unbind("06.0047");
        s.mdev(1, "a5 a6 a9 d4 d47");
        s.unassign(1, "d47").unwrap();
        assert_eq!(s.guest_matrix(1), "05.0004", "06 awaits a filter");
        machine(&s);
        s.configure(changes);
        assert_eq!(s.guest_matrix(1), want, "{changes:?}");
    };
    let with_a_domain = [add_adapter(9), add_domain(0xab)];
    check(&|s| s.machine.set_type(9, 9), &with_a_domain, "05.0004");
    check(&|s| s.machine.set_type(9, 10), &with_a_domain, "05.0004 06.0004 09.0004");
    let lost = |s: &Setup| queues("09.0004 09.0047 09.00ab").into_iter().for_each(|q| s.machine.lose(q));
    check(&lost, &with_a_domain, "05.0004");
    // Not noted either, but a queue that it has is probed, which filters.
    check(&|s| s.machine.lose(q("09.00ab")), &with_a_domain, "05.0004 06.0004 09.0004");
    check(&|_| {}, &with_a_domain, "05.0004 06.0004 09.0004");
    // No domain is gained, so nothing is asked.
    check(&|s| s.machine.set_type(9, 9), &[add_adapter(9)], "05.0004 06.0004");
}

/// CVE-2026-89957: the last adapter or domain goes from the APCB too: an empty result is a change.
#[test]
fn v08_the_last_one_goes_too() {
    let check = |change: &dyn Fn(&Setup), want: &str| {
        let s = Setup::new("a5 d4 c4");
        s.mdev(1, "a5 d4 c4");
        let vm = s.attach(1);
        s.log.take();
        change(&s);
        assert_eq!(vm.matrix(), matrix(want));
        assert_eq!(told(&s.log.take(), 1), 1);
    };
    check(&|s| s.unassign(1, "a5").unwrap(), "d4 c4");
    check(&|s| s.unassign(1, "d4").unwrap(), "a5 c4");
    check(&|s| s.unassign(1, "c4").unwrap(), "a5 d4");
    check(&|s| s.echo(1, "0x0,0x0,0x0", "ap_config").unwrap(), "");
    check(&|s| s.configure(&[remove_adapter(5)]), "d4 c4");
    check(&|s| s.configure(&[remove_domain(4)]), "a5 c4");
    check(&|s| s.configure(&[remove_control_domain(4)]), "a5 d4");
    check(&|s| s.configure(&[remove_adapter(5), remove_domain(4), remove_control_domain(4)]), "");
    check(&|s| s.unbind("05.0004"), "d4 c4");
}

/// A flag left over from one device in the loop over all: a change to the matrix of one never touches another.
#[test]
fn v09_a_change_to_one_device_leaves_the_others() {
    let s = Setup::new("a5 a6 a7 d4 d47 c1 c2");
    for (n, words) in [(1, "a5 d4 c1"), (2, "a6 d47 c1"), (3, "a7 dee c2")] {
        s.mdev(n, words);
        s.attach(n);
    }
    let check = |change: &dyn Fn(), concerned: &[u64]| {
        s.log.take();
        change();
        let log = s.log.take();
        for vm in 1..=3 {
            let expected = usize::from(concerned.contains(&vm));
            assert_eq!((masks(&log, vm).len(), told(&log, vm)), (expected, expected), "vm {vm}: {log:?}");
        }
    };
    check(&|| s.configure(&[remove_adapter(5)]), &[1]);
    check(&|| s.configure(&[remove_domain(0x47)]), &[2]);
    check(&|| s.configure(&[remove_control_domain(1)]), &[1, 2]);
    check(&|| s.configure(&[add_control_domain(1)]), &[1, 2]);
    check(&|| s.configure(&[add_adapter(5), add_domain(0x47)]), &[1, 2]);
    check(&|| s.configure(&[add_domain(0xee)]), &[3]);
    check(&|| s.configure(&[add_adapter(8)]), &[]);
    check(&|| s.unbind("06.0047"), &[2]);
    check(&|| s.bind("06.0047"), &[2]);
    check(&|| s.unbind("05.0047"), &[]);
    check(&|| s.unassign(3, "c2").unwrap(), &[3]);
    check(&|| s.echo(1, "0x04,0x08,0x0", "ap_config").unwrap(), &[1]);
}

/// CVE-2026-89959: the configuration loses control domains only.
#[test]
fn v10_control_domains_alone_are_removed() {
    let s = Setup::new("a5 d4 c4 c5");
    s.mdev(1, "a5 d4 c4 c5 c6");
    s.attach(1);
    s.log.take();
    s.configure(&[remove_control_domain(5)]);
    assert_eq!(s.log.take(), [Did::Masks(1, matrix("a5 d4 c4")), Did::Told(1)]);
    s.configure(&[remove_control_domain(4)]);
    assert_eq!(s.log.take(), [Did::Masks(1, matrix("a5 d4")), Did::Told(1)]);
}

/// CVE-2026-93238: an addition of control domains alone resets nothing, not even what is filtered out, and filters no queue.
#[test]
fn v11_control_domains_alone_are_added() {
    let s = Setup::new("a5 a6 d4 c4");
    s.unbind("06.0004");
    s.mdev(1, "a5 a6 d4 c4 c5");
    s.attach(1);
    s.log.take();
    s.configure(&[add_control_domain(5)]);
    assert_eq!(s.log.take(), [Did::Masks(1, matrix("a5 d4 c4 c5")), Did::Told(1)]);
    s.assign(1, "c6").unwrap();
    assert_eq!(s.log.take(), [], "the host has not got it");
    s.configure(&[add_control_domain(6)]);
    assert_eq!(s.log.take(), [Did::Masks(1, matrix("a5 d4 c4 c5 c6")), Did::Told(1)]);
}

/// Control domains are shared by mediated devices and assigned without a look at who owns their queues.
#[test]
fn v11_control_domains_are_shared() {
    let s = Setup::with_masks("a5 d4 c4", "", "");
    s.mdev(1, "c4");
    s.mdev(2, "c4");
    assert_eq!((s.shadow(1), s.shadow(2)), (matrix("c4"), matrix("c4")));
}

/// CVE-2026-89960: an attach that is refused leaves no hook, nor takes one that another device set. A second mediated device
/// on one VM is EPERM, a second VM on one device EBUSY.
#[test]
fn v12_a_refused_attach_leaves_the_vm_as_it_was() {
    let s = Setup::new("a5 a6 d4");
    s.mdev(1, "a5 d4");
    s.mdev(2, "a6 d4");
    let vm = s.attach(1);
    s.log.take();
    let second = s.host.attach(mdev(2), vm.clone()).unwrap_err();
    assert_eq!(second.errno(), "EPERM");
    let other = Vm::new(7, &s.log);
    assert_eq!(s.host.attach(mdev(1), other.clone()).unwrap_err().errno(), "EBUSY");
    assert_eq!(s.host.attach(mdev(3), other.clone()).unwrap_err().errno(), "ENOENT");
    assert_eq!(s.log.take(), [], "nothing of either VM was touched");
    assert!(*vm.hook.lock().unwrap() && !*other.hook.lock().unwrap());
    assert_eq!(vm.matrix(), matrix("a5 d4"));
    s.host.attach(mdev(2), other.clone()).unwrap();
    assert_eq!(s.log.take(), [Did::Hook(7, true), Did::Masks(7, matrix("a6 d4"))]);
    assert_eq!(Arc::strong_count(&other), 2, "the host holds it once");
}

/// CVE-2026-89958: the configuration changes, no device has a guest.
#[test]
fn v13_no_guest_is_no_harm() {
    let s = Setup::new("a5 a6 d4 c4");
    s.mdev(1, "a5 d4 d47 c4 c5");
    s.configure(&[remove_adapter(5), remove_control_domain(4), add_domain(0x47)]);
    assert_eq!(s.shadow(1), matrix("d4 d47"));
    s.configure(&[add_adapter(5), add_control_domain(5)]);
    assert_eq!(s.shadow(1), matrix("a5 d4 d47 c5"));
    let log = s.log.take();
    assert!(log.iter().all(|did| matches!(did, Did::Release(_) | Did::Zapq(_))), "{log:?}");
    assert_eq!(s.attach(1).matrix(), matrix("a5 d4 d47 c5"));
    s.host.detach(mdev(1)).unwrap();
    s.configure(&[remove_domain(4)]);
    assert_eq!(s.guest_matrix(1), "05.0047");
}

/// d33d729a: assigned to oneself already: success, and nothing happens. Each conflict has its error.
#[test]
fn v19_assignment_errors() {
    let s = Setup::with_masks("a5 a6 d4 d47", "-5,-6", "");
    s.mdev(1, "a5 a6 d4");
    s.attach(1);
    s.unbind("06.0004");
    s.bind("06.0004");
    s.log.take();
    s.assign(1, "a5 a6 d4").unwrap();
    assert_eq!(s.log.take(), []);
    s.mdev(2, "a5");
    assert_eq!(s.assign(2, "d4"), Err("EADDRINUSE"));
    assert_eq!(s.assign(1, "a7"), Err("EADDRNOTAVAIL"));
    assert_eq!(s.apmask("+5"), Err("EBUSY"));
    let s = Setup::of(
        r#"{"adapters": [], "usage_domains": [4], "max_adapter": 9, "max_domain": 8, "apmask": "-0-255"}"#,
    );
    s.mdev(1, "a9 d8 c8");
    assert_eq!(s.assign(1, "aa"), Err("ENODEV"));
    assert_eq!(s.assign(1, "d9"), Err("ENODEV"));
    assert_eq!(s.assign(1, "c9"), Err("ENODEV"));
    assert_eq!(s.echo(1, "0x0020,0x0,0x0", "ap_config"), Err("ENODEV"), "bit 10");
    let s = Setup::of(r#"{"adapters": [], "usage_domains": [4], "apxa": false, "apmask": "-0-255"}"#);
    s.mdev(1, "a3f df");
    assert_eq!((s.assign(1, "a40"), s.assign(1, "d10")), (Err("ENODEV"), Err("ENODEV")), "63 and 15");
}

/// `ap_config` is all or nothing, and one report to the guest. Masks may be parted by newlines too; an empty one is zeros, but
/// there must be three.
#[test]
fn v19_ap_config_is_all_or_nothing() {
    let s = Setup::with_masks("a4 a5 a6 d4 d5 c4 c5", "-4,-5,-6", "");
    s.mdev(1, "a4 d4 c4");
    s.mdev(2, "a6 d4");
    let vm = s.attach(1);
    s.log.take();
    let before = s.host.snapshot();
    for (text, errno) in [
        ("0x0c,0x0c", "EINVAL"),
        ("0x0c,0x0c,0x0g", "EINVAL"),
        ("0x0c,0x0c,+5", "EINVAL"),
        ("0x0f,0x0c,0x0c", "EADDRNOTAVAIL"),
        ("0x0e,0x0c,0x0c", "EADDRINUSE"),
        ("", "EINVAL"),
        ("0x0c", "EINVAL"),
        (",0x0g,", "EINVAL"),
    ] {
        // Without the newline of an echo, which would end the second mask of two and begin the third.
        let attribute = ap::host::Attribute::ApConfig(text.to_owned());
        let refused = s.host.write(mdev(1), &attribute).expect_err(text);
        assert_eq!(refused.errno(), errno, "{text}");
        assert_eq!(s.host.snapshot(), before, "{text}");
    }
    assert_eq!(s.log.take(), []);
    // Adapter 4 goes, 5 comes; domain 4 goes, 5 comes; control domain 5 comes.
    s.echo(1, "0x04,0x04,0x0c", "ap_config").unwrap();
    let log = s.log.take();
    assert_eq!(vm.matrix(), matrix("a5 d5 c4 c5"));
    assert_eq!(masks(&log, 1), [matrix("a5 d5 c4 c5")], "no state between");
    assert_eq!(resets(&log), queues("04.0004"));
    assert_eq!(told(&log, 1), 1);
    s.echo(1, "04\n04\n08", "ap_config").unwrap();
    assert_eq!(vm.matrix(), matrix("a5 d5 c4"));
    s.echo(1, "0x04,,0x08,0xff", "ap_config").unwrap();
    assert_eq!((vm.matrix(), s.matrix(1)), (matrix("a5 c4"), "05.".to_owned()));
    s.echo(1, "0x04,0x04", "ap_config").unwrap();
    assert_eq!(vm.matrix(), matrix("a5 d5"), "the echo's newline ends the second mask, the third is empty");
    s.echo(1, ",,", "ap_config").unwrap();
    assert_eq!((vm.matrix(), s.matrix(1)), (matrix(""), String::new()));
}
