//! "[PATCH v11 08/14] s390/vfio-ap: hot plug/unplug queues on bind/unbind of queue device", review of 2020-11-04.

use ap::host::{Attribute, VfioAp};

use crate::machine::Did;
use crate::setup::*;

/// "Bound after start with an empty APCB." The document's shadow APCB has no bits; merged, only the adapter waits for its
/// queue, the domain is there.
#[test]
fn doc_v11_08_bind_after_start_with_an_empty_apcb() {
    let s = Setup::new("a4 d4");
    s.unbind("04.0004");
    s.mdev(1, "a4 d4");
    let vm = s.attach(1);
    assert_eq!(vm.matrix(), matrix("d4"));
    assert_eq!(s.guest_matrix(1), ".0004");
    s.log.take();
    s.bind("04.0004");
    assert_eq!(s.log.take(), [Did::Masks(1, matrix("a4 d4")), Did::Told(1)]);
    assert_eq!(s.status("04.0004"), Some("in use"));
}

/// "There is no point in unplugging the whole card, if the queue removed is unplugged in the first place": its adapter is in
/// the guest, its domain is not.
#[test]
fn doc_v11_08_unplug_only_if_the_queue_was_plugged() {
    let s = Setup::new("a4 d4");
    s.mdev(1, "a4 d4 d54");
    let vm = s.attach(1);
    assert_eq!(vm.matrix(), matrix("a4 d4"));

    // A queue of the device with its adapter in the APCB and its domain not: the configuration lost the domain.
    let permissions = s.host.snapshot().permissions();
    let mut driver = VfioAp::new(matrix("a4 d4 d54"), 255, 255);
    driver.create(mdev(1)).unwrap();
    for queue in queues("04.0004 04.0054") {
        let _ = driver.probe(queue, 0);
    }
    for attribute in [("assign_adapter", "4"), ("assign_domain", "4"), ("assign_domain", "0x54")] {
        let write = Attribute::named(attribute.0, attribute.1).unwrap();
        let _ = driver.write(mdev(1), &write, &permissions).unwrap();
    }
    assert_eq!(driver.mdev(mdev(1)).unwrap().shadow, matrix("a4 d4 d54"));
    assert!(driver.configuration_removed(mdev(1), &matrix("d54")).apcb);
    driver.configuration_added(&matrix(""));
    driver.set_configuration(matrix("a4 d4"));
    let effects = driver.remove(q("04.0054"));
    assert!(!effects.apcb);
    assert_eq!((effects.resets, effects.releases), (vec![], queues("04.0054")));
    assert_eq!(driver.mdev(mdev(1)).unwrap().shadow, matrix("a4 d4"), "the card stays");
}

/// The same through the bus, and with a queue whose adapter is out already.
#[test]
fn doc_v11_08_a_queue_of_an_unplugged_adapter_goes() {
    let s = Setup::new("a4 a5 d4 d47");
    s.unbind("04.0047");
    s.mdev(1, "a4 a5 d4 d47");
    let vm = s.attach(1);
    assert_eq!(vm.matrix(), matrix("a5 d4 d47"));
    s.log.take();
    s.unbind("04.0004");
    assert_eq!(s.log.take(), [Did::Zapq(q("04.0004")), Did::Release(q("04.0004"))]);
    assert_eq!(vm.matrix(), matrix("a5 d4 d47"));

    let s = Setup::new("a4 d4 d54");
    s.mdev(1, "a4 d4 d54");
    let vm = s.attach(1);
    s.log.take();
    s.configure(&[remove_domain(0x54)]);
    assert_eq!(vm.matrix(), matrix("a4 d4"), "the domain goes, not the card with it");
    let log = s.log.take();
    assert_eq!(log, [Did::Masks(1, matrix("a4 d4")), Did::Release(q("04.0054")), Did::Told(1)]);
}

/// "It goes broken, and the ap bus decides to deconstruct the queues. Already the first queue removed would unplug the card."
#[test]
fn doc_v11_08_a_card_goes_broken() {
    let s = Setup::new("a4 a5 d4 d47 dab");
    s.mdev(1, "a4 a5 d4 d47 dab");
    let vm = s.attach(1);
    s.log.take();
    for queue in queues("04.0004 04.0047 04.00ab") {
        s.machine.lose(queue);
    }
    s.host.scan();
    let log = s.log.take();
    assert_eq!(masks(&log, 1), [matrix("a5 d4 d47 dab")], "once");
    assert_eq!(told(&log, 1), 1);
    assert_eq!(vm.matrix(), matrix("a5 d4 d47 dab"));
    assert_eq!(s.devices(), "05.0004 05.0047 05.00ab");
}

/// Domain 0054 is assigned while 04.0054 is not bound. The document: APQI 0054 is filtered, the APCB stays. Merged: filtering
/// is by adapter, so 04 leaves the guest and its queues are reset.
#[test]
fn doc_v11_08_domain_0054_not_bound() {
    let s = Setup::new("a4 d4 d47 d54");
    s.unbind("04.0054");
    s.mdev(1, "a4 d4 d47");
    let vm = s.attach(1);
    assert_eq!(vm.matrix(), matrix("a4 d4 d47"));
    s.log.take();
    s.assign(1, "d54").unwrap();
    assert_eq!(vm.matrix(), matrix("d4 d47 d54"));
    let log = s.log.take();
    assert_eq!(log[0], Did::Masks(1, matrix("d4 d47 d54")));
    assert_eq!(resets(&log), queues("04.0004 04.0047"));
    s.bind("04.0054");
    assert_eq!(s.guest_matrix(1), "04.0004 04.0047 04.0054");
}

/// The document's second list: 04.0054 is bound, so 0054 is not filtered.
#[test]
fn doc_v11_08_domain_0054_bound() {
    let s = Setup::new("a4 d4 d47 d54");
    s.mdev(1, "a4 d4 d47");
    let vm = s.attach(1);
    s.log.take();
    s.assign(1, "d54").unwrap();
    assert_eq!(s.guest_matrix(1), "04.0004 04.0047 04.0054");
    assert_eq!(s.log.take(), [Did::Masks(1, matrix("a4 d4 d47 d54")), Did::Told(1)]);
    assert_eq!(vm.matrix(), matrix("a4 d4 d47 d54"));
}

/// A domain that the *host* has not got is filtered alone: nothing is known of its queues.
#[test]
fn doc_v11_08_domain_0054_not_in_the_host() {
    let s = Setup::new("a4 d4 d47");
    s.mdev(1, "a4 d4 d47");
    let vm = s.attach(1);
    s.log.take();
    s.assign(1, "d54").unwrap();
    assert_eq!(s.log.take(), []);
    assert_eq!(vm.matrix(), matrix("a4 d4 d47"));
}

/// The race in six steps: APQI 0004 leaves the configuration (1-3), 04.0004 is bound by hand before the scan ends (4), the
/// filter drops 0004 because the configuration has not got it (5), the scan ends (6).
#[test]
fn doc_v11_08_configuration_change_races_a_manual_bind() {
    let permissions = Setup::new("a4 d4").host.snapshot().permissions();
    let mut driver = VfioAp::new(matrix("a4 d4 d47"), 255, 255);
    driver.create(mdev(1)).unwrap();
    for (name, text) in [("assign_adapter", "4"), ("assign_domain", "4"), ("assign_domain", "0x47")] {
        let _ = driver.write(mdev(1), &Attribute::named(name, text).unwrap(), &permissions).unwrap();
    }
    let _ = driver.probe(q("04.0047"), 0);
    let shadow = |driver: &VfioAp| driver.mdev(mdev(1)).unwrap().shadow;
    assert_eq!(shadow(&driver), matrix("d4 d47"), "04.0004 is not bound yet");

    let effects = driver.configuration_removed(mdev(1), &matrix("d4"));
    assert!(effects.apcb && effects.resets.is_empty());
    driver.configuration_added(&matrix(""));
    driver.set_configuration(matrix("a4 d47"));
    assert_eq!(shadow(&driver), matrix("d47"));

    let effects = driver.probe(q("04.0004"), 0);
    assert_eq!(shadow(&driver), matrix("a4 d47"), "0004 is dropped, and does not keep 04 out");
    assert!(effects.apcb);

    let effects = driver.scan_complete(mdev(1));
    assert_eq!(effects, Default::default());
    assert_eq!(shadow(&driver), matrix("a4 d47"));
}

/// The race the other way: what the configuration gains is not plugged by the bind, but by the end of the scan.
#[test]
fn doc_v11_08_configuration_gain_races_a_manual_bind() {
    let permissions = Setup::new("a4 d4").host.snapshot().permissions();
    let mut driver = VfioAp::new(matrix("a4 d47"), 255, 255);
    driver.create(mdev(1)).unwrap();
    let write = |driver: &mut VfioAp, name, text| {
        let _ = driver.write(mdev(1), &Attribute::named(name, text).unwrap(), &permissions).unwrap();
    };
    for (name, text) in [("assign_adapter", "4"), ("assign_domain", "4"), ("assign_domain", "0x47")] {
        write(&mut driver, name, text);
    }
    let _ = driver.probe(q("04.0047"), 0);
    let shadow = |driver: &VfioAp| driver.mdev(mdev(1)).unwrap().shadow;
    assert_eq!(shadow(&driver), matrix("a4 d47"));

    driver.configuration_added(&matrix("d4"));
    driver.set_configuration(matrix("a4 d4 d47"));
    assert_eq!(driver.probe(q("04.0004"), 0), Default::default());
    assert_eq!(shadow(&driver), matrix("a4 d47"), "not yet");

    let mut unassigned_meanwhile = driver.clone();
    assert!(driver.scan_complete(mdev(1)).apcb);
    assert_eq!(shadow(&driver), matrix("a4 d4 d47"));

    write(&mut unassigned_meanwhile, "unassign_domain", "4");
    let _ = unassigned_meanwhile.remove(q("04.0047"));
    let _ = unassigned_meanwhile.probe(q("04.0047"), 0);
    assert_eq!(shadow(&unassigned_meanwhile), matrix("d47"), "no probe filters while the gain is pending");
    assert!(!unassigned_meanwhile.scan_complete(mdev(1)).apcb, "what was gained is not assigned any more");
    assert_eq!(shadow(&unassigned_meanwhile), matrix("d47"));
}
