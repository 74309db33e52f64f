//! "[PATCH v12 10/17] s390/vfio-ap: initialize the guest apcb", review of 2020-12-16: the table of adapters 04 and 05.

use crate::setup::*;

const ASSIGNED: &str = "a4 a5 d4 d22 d35";
const ALL: &str = "04.0004 04.0022 04.0035 05.0004 05.0022 05.0035";
const ONLY_04: &str = "04.0004 04.0022 04.0035";

/// Bound are all but 05.0035; all six are assigned; the APCB gets adapter 04.
#[test]
fn doc_v12_10_the_04_05_table() {
    let s = Setup::new("a4 a5 d4 d22 d35");
    s.unbind("05.0035");
    s.mdev(1, ASSIGNED);
    assert_eq!(s.matrix(1), ALL);
    assert_eq!(s.guest_matrix(1), ONLY_04);
    let vm = s.attach(1);
    assert_eq!(vm.matrix(), matrix("a4 d4 d22 d35"));
    for (queue, status) in [("04.0035", "in use"), ("05.0004", "assigned"), ("05.0022", "assigned")] {
        assert_eq!(s.status(queue), Some(status), "{queue}");
    }
    assert_eq!(s.status("05.0035"), None, "it is not vfio_ap's");
    s.check_promises();
}

/// Whether the missing queue is unbound, the host's own, lost, or its last reset failed: 05 is filtered out, and it is the
/// adapter, never the domain.
#[test]
fn doc_v12_10_whatever_keeps_05_0035_away() {
    let unbound = Setup::new("a4 a5 d4 d22 d35");
    unbound.unbind("05.0035");

    let overridden = Setup::with_masks("a4 a5 d4 d22 d35", "", "");
    for queue in queues(ALL) {
        overridden.host.write_override(queue, "vfio_ap").unwrap();
        if queue != q("05.0035") {
            overridden.host.unbind(queue).unwrap();
            overridden.host.bind(queue, ap::host::Driver::VfioAp).unwrap();
        }
    }

    let lost = Setup::new("a4 a5 d4 d22 d35");
    lost.machine.lose(q("05.0035"));
    lost.host.scan();

    let failed = Setup::new("a4 a5 d4 d22 d35");
    failed.machine.stick(q("05.0035"), true);
    failed.unbind("05.0035");
    failed.bind("05.0035");

    for (name, s) in [("unbound", unbound), ("overridden", overridden), ("lost", lost), ("failed", failed)] {
        s.mdev(1, ASSIGNED);
        assert_eq!(s.matrix(1), ALL, "{name}");
        assert_eq!(s.guest_matrix(1), ONLY_04, "{name}");
        assert_eq!(s.shadow(1), matrix("a4 d4 d22 d35"), "{name}");
    }
}

/// "Keeps the expected behavior across the various means of changing the guest's AP configuration": assignment, ap_config,
/// binding, and a change of the host's configuration end in the same APCB.
#[test]
fn doc_v12_10_the_same_by_every_means() {
    let in_order = Setup::new("a4 a5 d4 d22 d35");
    in_order.unbind("05.0035");
    in_order.mdev(1, "d35 a5 d4 a4 d22");

    let at_once = Setup::new("a4 a5 d4 d22 d35");
    at_once.unbind("05.0035");
    at_once.mdev(1, "");
    let masks = matrix(ASSIGNED);
    at_once.echo(1, &format!("{},{},{}", masks.apm, masks.aqm, masks.adm), "ap_config").unwrap();

    let bound_later = Setup::new("a4 a5 d4 d22 d35");
    bound_later.unbind(ALL);
    bound_later.mdev(1, ASSIGNED);
    bound_later.bind("05.0022 04.0035 04.0004 05.0004 04.0022");

    let configured_later = Setup::new("a4 d4 d22");
    configured_later.machine.lose(q("05.0035"));
    configured_later.mdev(1, ASSIGNED);
    configured_later.configure(&[add_adapter(5), add_domain(0x35)]);

    let each = [in_order, at_once, bound_later, configured_later];
    for (n, s) in each.iter().enumerate() {
        assert_eq!(s.guest_matrix(1), ONLY_04, "{n}");
        s.check_promises();
    }
}

/// "guest_matrix may be different than matrix also for an mdev that is associated with a guest", in all three masks.
#[test]
fn doc_v12_10_guest_matrix_may_differ_from_matrix() {
    let s = Setup::new("a4 a5 d4 d22 c4");
    s.mdev(1, "a4 a5 a6 d4 d22 d35 c4 c5");
    let vm = s.attach(1);
    assert_eq!(vm.matrix(), matrix("a4 a5 d4 d22 c4"));
    assert_eq!(s.host.mdev(mdev(1)).unwrap().matrix, matrix("a4 a5 a6 d4 d22 d35 c4 c5"));
    assert_eq!(lines(&s.host.mdev(mdev(1)).unwrap().control_domains_text()), "0004 0005");
}
