//! What past bugs teach about resets: V4 to V7, V17, V18, L2, L3.

use std::sync::{Arc, Mutex};

use ap::host::EventKind;

use crate::machine::Did;
use crate::setup::*;

/// Looks, 20 ms apart, at a reset that does not end: two seconds.
const RESET_LOOKS: u32 = 100;

/// f848cba7: an adapter that is filtered out has its queues reset, after the guest lost it; those it had in the guest's
/// domains and that are bound. They come back in reset state.
#[test]
fn v04_what_is_filtered_out_is_reset() {
    let s = Setup::new("a5 a6 d4 d47 dab");
    s.unbind("05.00ab");
    s.mdev(1, "a5 a6 d4 d47");
    let vm = s.attach(1);
    s.log.take();
    s.assign(1, "dab").unwrap();
    let log = s.log.take();
    assert_eq!(log[0], Did::Masks(1, matrix("a6 d4 d47 dab")));
    assert_eq!(resets(&log), queues("05.0004 05.0047"));
    assert_eq!(released(&log), resets(&log));
    s.bind("05.00ab");
    assert_eq!(vm.matrix(), matrix("a5 a6 d4 d47 dab"));
    assert_eq!(resets(&s.log.take()), [], "nothing more to reset on the way in");
}

/// While such a reset is going on the adapter stays out, and its end plugs it: nobody waits with a lock for that.
#[test]
fn v04_it_comes_back_when_its_reset_has_ended() {
    let s = Setup::new("a5 d4 d47");
    s.unbind("05.0047");
    s.mdev(1, "a5 d4");
    let vm = s.attach(1);
    s.machine.stick(q("05.0004"), true);
    let (host, machine, seen) = (s.host.clone(), s.machine.clone(), Arc::new(Mutex::new(None)));
    let result = seen.clone();
    s.machine.on_pause(move || {
        if result.lock().unwrap().is_none() {
            host.bind(q("05.0047"), ap::host::Driver::VfioAp).unwrap();
            *result.lock().unwrap() = Some(host.mdev(mdev(1)).unwrap().guest_matrix_text());
            machine.stick(q("05.0004"), false);
        }
    });
    s.log.take();
    s.assign(1, "d47").unwrap();
    assert_eq!(seen.lock().unwrap().as_deref(), Some(".0004\n.0047\n"), "all bound, one being reset");
    assert_eq!(vm.matrix(), matrix("a5 d4 d47"));
    let log = s.log.take();
    assert_eq!(masks(&log, 1), [matrix("d4 d47"), matrix("a5 d4 d47")]);
    assert_eq!(log.last(), Some(&Did::Told(1)), "and is told");
}

/// "Reset queues associated with adapter for queue unbound": all of the adapter's in the guest.
#[test]
fn v05_unbinding_one_queue_resets_the_adapter() {
    let s = Setup::new("a5 a6 d4 d47 dab");
    s.mdev(1, "a5 a6 d4 d47");
    s.attach(1);
    s.log.take();
    s.unbind("05.0047");
    let log = s.log.take();
    assert_eq!(resets(&log), queues("05.0004 05.0047"), "05.00ab is not the guest's");
    let first = log.iter().position(|did| matches!(did, Did::Zapq(_)));
    assert!(first > log.iter().position(|did| matches!(did, Did::Masks(..))));
    s.unbind("05.00ab");
    assert_eq!(resets(&s.log.take()), queues("05.00ab"));
}

/// "Do not reset queue removed from host config", but free its interruption.
#[test]
fn v06_what_left_the_configuration_is_freed_without_a_reset() {
    let s = Setup::new("a5 a6 d4 d47");
    s.mdev(1, "a5 a6 d4 d47");
    s.attach(1);
    s.log.take();
    s.configure(&[remove_adapter(5)]);
    let log = s.log.take();
    assert_eq!(log[0], Did::Masks(1, matrix("a6 d4 d47")), "no guest has it when it is freed");
    assert_eq!(resets(&log), []);
    assert_eq!(released(&log), queues("05.0004 05.0047"));
    s.configure(&[remove_domain(0x47)]);
    let log = s.log.take();
    assert_eq!((resets(&log), released(&log)), (vec![], queues("06.0047")));
}

/// CVE-2026-98473: ZAPQ answers 01, and what the queue held of its guest is freed all the same; also 03 and 04, and when the
/// end of the reset is never seen.
#[test]
fn v07_a_queue_that_is_gone_still_frees() {
    for code in [0x01, 0x03, 0x04, 0x06, 0x31, 0xff] {
        let s = Setup::new("a5 d4");
        s.mdev(1, "a5 d4");
        s.attach(1);
        s.log.take();
        s.machine.zapq_answers(q("05.0004"), &[code]);
        s.host.detach(mdev(1)).unwrap();
        let log = s.log.take();
        assert_eq!(log[2..], [Did::Zapq(q("05.0004")), Did::Release(q("05.0004"))], "{code:02x}");
        assert_eq!(s.machine.pauses(), 0, "{code:02x}: there is nothing to wait for");
    }
    let s = Setup::new("a5 d4");
    s.mdev(1, "a5 d4");
    s.attach(1);
    s.machine.stick(q("05.0004"), true);
    s.host.detach(mdev(1)).unwrap();
    assert_eq!(released(&s.log.take()), queues("05.0004"));
}

/// A queue is passable if its last reset ended with 00, 03 or 04; with anything else its adapter stays out of guests from the
/// next filter on, until a reset ends well.
#[test]
fn v17_a_failed_reset_keeps_the_adapter_out() {
    for (code, passable) in
        [(0x00, true), (0x03, true), (0x04, true), (0x01, false), (0x06, false), (0x07, false), (0xff, false)]
    {
        let s = Setup::new("a5 a6 d4");
        s.machine.tapq_answers(q("05.0004"), &[code]);
        s.mdev(2, "a5 d4");
        s.host.remove_mdev(mdev(2)).unwrap();
        s.mdev(1, "d4 a5 a6");
        let want = if passable { "05.0004 06.0004" } else { "06.0004" };
        assert_eq!(s.guest_matrix(1), want, "{code:02x}");
        assert_eq!(s.host.snapshot().queue(q("05.0004")).unwrap().last_reset, code);
        if !passable {
            assert_eq!(s.host.reset_device(mdev(1)).map_err(|e| e.errno().to_owned()), Ok(()));
            assert_eq!(s.guest_matrix(1), "05.0004 06.0004", "the filter that left it out is made up for");
        }
    }
}

/// A failed reset is not forgotten when another driver has had the queue: being probed, it is reset again.
#[test]
fn v17_survives_other_drivers() {
    let s = Setup::with_masks("a5 d4", "-5", "");
    s.mdev(1, "a5 d4");
    s.attach(1);
    s.machine.zapq_answers(q("05.0004"), &[0x06, 0x06, 0x06]);
    s.host.detach(mdev(1)).unwrap();
    s.unbind("05.0004");
    s.log.take();
    s.bind("05.0004");
    assert_eq!(s.guest_matrix(1), ".0004");
    assert_eq!(resets(&s.log.take()), queues("05.0004"));
    s.unbind("05.0004");
    s.bind("05.0004");
    assert_eq!(s.guest_matrix(1), "05.0004");
}

/// No VM gets what a former one may have left: opening the device after a failed reset filters. (Linux writes its shadow APCB
/// as it is.)
#[test]
fn v17_not_even_by_opening_the_device_again() {
    let s = Setup::new("a5 a6 d4");
    s.mdev(1, "a5 a6 d4");
    s.attach(1);
    s.machine.stick(q("05.0004"), true);
    s.host.detach(mdev(1)).unwrap();
    let vm = s.attach(1);
    assert_eq!(vm.matrix(), matrix("a6 d4"), "05.0004 may hold what the first VM left");
    assert_eq!(s.status("05.0004"), Some("assigned"));
    s.machine.stick(q("05.0004"), false);
    s.host.detach(mdev(1)).unwrap();
    s.log.take();
    let vm = s.attach(1);
    assert_eq!(s.log.take(), [Did::Hook(1, true), Did::Masks(1, matrix("a5 a6 d4"))]);
    assert_eq!(vm.matrix(), matrix("a5 a6 d4"), "the reset at the end of the second VM ended well");
}

/// The same while the reset is still going on: a VM that is fast gets the adapter when it has ended.
#[test]
fn v17_nor_while_the_reset_is_going_on() {
    let s = Setup::new("a5 a6 d4");
    s.mdev(1, "a5 a6 d4");
    s.attach(1);
    s.machine.stick(q("05.0004"), true);
    let (host, log, machine) = (s.host.clone(), s.log.clone(), s.machine.clone());
    let next = Vm::new(2, &s.log);
    let fast = next.clone();
    s.machine.on_pause(move || {
        if host.mdev(mdev(1)).unwrap().guest.is_none() {
            log.take();
            machine.stick(q("05.0004"), true);
            // The nested wait of this operation lets the reset end.
            let ending = machine.clone();
            machine.on_pause(move || ending.stick(q("05.0004"), false));
            host.attach(mdev(1), fast.clone()).unwrap();
        }
    });
    s.host.detach(mdev(1)).unwrap();
    s.machine.without_hooks();
    let log = s.log.take();
    assert_eq!(masks(&log, 2), [matrix("d4"), matrix("a6 d4"), matrix("a5 a6 d4")], "as they end");
    assert!(told(&log, 2) > 0 && log.last() != Some(&Did::Masks(2, next.matrix())), "and is told");
}

/// apq_reset_check: ZAPQ answering 02, 05 or 0A did nothing; every 20 ms the queue is looked at, then it is issued again.
#[test]
fn v18_a_busy_queue_is_reset_again() {
    for code in [0x02, 0x05, 0x0a] {
        let s = Setup::new("a5 d4");
        s.mdev(1, "a5 d4");
        s.attach(1);
        s.log.take();
        s.machine.zapq_answers(q("05.0004"), &[code]);
        s.machine.tapq_answers(q("05.0004"), &[code, 0x05, 0x02, 0x00]);
        assert_eq!(s.host.reset_device(mdev(1)).map_err(|e| e.errno().to_owned()), Ok(()));
        assert_eq!(s.machine.pauses(), 5, "{code:02x}: three times busy, once ready, once after the second");
        assert_eq!(resets(&s.log.take()), queues("05.0004 05.0004"));
        assert_eq!(s.host.snapshot().queue(q("05.0004")).unwrap().last_reset, 0);
    }
}

/// Accepted at once: the end is awaited, and ZAPQ is not issued again but after 35 and 36.
#[test]
fn v18_an_accepted_reset_is_awaited() {
    let s = Setup::new("a5 d4");
    s.mdev(1, "a5 d4");
    s.machine.tapq_answers(q("05.0004"), &[0x02, 0x02, 0x00]);
    s.host.reset_device(mdev(1)).unwrap();
    assert_eq!((s.machine.pauses(), resets(&s.log.take()).len()), (3, 1));
    for code in [0x35, 0x36] {
        s.machine.tapq_answers(q("05.0004"), &[0x02, code]);
        s.host.reset_device(mdev(1)).unwrap();
        assert_eq!((s.machine.pauses(), resets(&s.log.take()).len()), (3, 2), "{code:02x}");
    }
    s.machine.tapq_answers(q("05.0004"), &[0x03]);
    assert_eq!(s.host.reset_device(mdev(1)).unwrap_err().errno(), "EIO", "03 is no 00");
}

/// The wait for a reset has an end, and one stuck queue stalls no other guest: while it is awaited, another guest's device is
/// opened, changed, reset and closed.
#[test]
fn l2_a_stuck_queue_stalls_nobody_else() {
    let s = Setup::new("a5 a6 d4 d47");
    s.mdev(1, "a5 d4");
    s.mdev(2, "a6 d4");
    s.attach(1);
    s.machine.stick(q("05.0004"), true);
    let (host, log, done) = (s.host.clone(), s.log.clone(), Arc::new(Mutex::new(Vec::new())));
    let result = done.clone();
    s.machine.on_pause(move || {
        if result.lock().unwrap().is_empty() {
            let vm = Vm::new(2, &log);
            host.attach(mdev(2), vm.clone()).unwrap();
            result.lock().unwrap().push(vm.matrix());
            let domain = ap::host::Attribute::AssignDomain("0x47".into());
            host.write(mdev(2), &domain).unwrap();
            result.lock().unwrap().push(vm.matrix());
            host.reset_device(mdev(2)).unwrap();
            host.detach(mdev(2)).unwrap();
            result.lock().unwrap().push(vm.matrix());
        }
    });
    let events = s.host.subscribe();
    s.host.detach(mdev(1)).unwrap();
    s.machine.without_hooks();
    assert_eq!(*done.lock().unwrap(), [matrix("a6 d4"), matrix("a6 d4 d47"), matrix("")]);
    // The other guest's resets waited as well, one look each.
    assert!((RESET_LOOKS..=RESET_LOOKS + 2).contains(&s.machine.pauses()));
    let failed = EventKind::ResetFailed { queue: "05.0004".into(), response_code: 0x02 };
    assert!(events.try_iter().any(|event| event.kind == failed));
    assert_eq!(s.host.snapshot().queue(q("05.0004")).unwrap().last_reset, 0x02);
}

/// Of several queues that are reset, the stuck one does not keep the others from their end.
#[test]
fn l2_the_other_queues_of_the_adapter_end() {
    let s = Setup::new("a5 d4 d47");
    s.mdev(1, "a5 d4 d47");
    s.machine.stick(q("05.0004"), true);
    let error = s.host.reset_device(mdev(1)).unwrap_err();
    assert_eq!(error.errno(), "EIO");
    assert!(error.to_string().contains("queue 05.0004 has not been reset (response code 02)"), "{error}");
    // The adapter leaves the matrix then, for which its other queue is reset once more.
    assert_eq!(s.machine.pauses(), RESET_LOOKS + 1);
    let state = s.host.snapshot();
    let last = |name: &str| state.queue(q(name)).unwrap().last_reset;
    assert_eq!((last("05.0004"), last("05.0047")), (0x02, 0x00));
    assert_eq!(released(&s.log.take()), queues("05.0047 05.0004 05.0047"));
}

/// Queues that one operation takes from their drivers are reset together: the stuck ones cost the wait once.
#[test]
fn l2_resets_of_one_operation_are_waited_for_together() {
    let stuck = "05.0004 05.0047";
    let check = |name: &str, s: &Setup, operation: &dyn Fn()| {
        queues(stuck).into_iter().for_each(|queue| s.machine.stick(queue, true));
        s.machine.pauses();
        s.log.take();
        operation();
        assert_eq!(s.machine.pauses(), RESET_LOOKS, "{name}");
        let (log, looked) = (s.log.take(), queues(stuck));
        let first = log.iter().position(|did| matches!(did, Did::Release(_))).unwrap();
        assert_eq!(resets(&log[..first]), looked, "{name}: all have begun before one has ended");
        assert_eq!(resets(&log), looked, "{name}: and once each");
    };
    let s = Setup::with_masks("a5 a6 d4 d47", "-5", "");
    check("mask", &s, &|| s.apmask("+5").unwrap());
    let s = Setup::new("a5 a6 d4 d47");
    s.mdev(1, "a5 a6 d4 d47");
    s.attach(1);
    check("unbinding one of a guest's adapter", &s, &|| s.unbind("05.0004"));
    let s = Setup::new("a5 a6 d4 d47");
    s.mdev(1, "a5 a6 d4 d47");
    s.attach(1);
    let adapter = accelerator(5, 7);
    check("another card", &s, &|| {
        s.configure(&[ap::host::LparChange::ChangeType { adapter: adapter.clone() }])
    });
}

/// While a driver's queue is being reset, others bind and unbind, write masks and scan. What they begin is not overtaken by the
/// end of what was begun before.
#[test]
fn l2_unbinding_holds_no_lock_while_it_waits() {
    use ap::host::{Driver, MaskAttribute};
    let s = Setup::with_masks("a5 a6 a7 d4", "-5,-6", "");
    s.mdev(1, "a5 a6 d4");
    let vm = s.attach(1);
    s.machine.stick(q("05.0004"), true);
    let (host, machine, done) = (s.host.clone(), s.machine.clone(), Arc::new(Mutex::new(false)));
    let result = done.clone();
    s.machine.on_pause(move || {
        if !std::mem::replace(&mut *result.lock().unwrap(), true) {
            host.unbind(q("06.0004")).unwrap();
            host.bind(q("06.0004"), Driver::VfioAp).unwrap();
            host.write_mask(MaskAttribute::Apmask, "-7").unwrap();
            host.scan();
            // Whoever binds the queue has it reset once more, in vain.
            host.bind(q("05.0004"), Driver::VfioAp).unwrap();
            machine.stick(q("05.0004"), false);
        }
    });
    s.unbind("05.0004");
    s.machine.without_hooks();
    assert!(*done.lock().unwrap());
    assert_eq!(s.bound_to(Driver::VfioAp), "05.0004 06.0004 07.0004");
    assert_eq!(
        s.host.snapshot().queue(q("05.0004")).unwrap().last_reset,
        0x02,
        "the later reset did not end"
    );
    assert_eq!(vm.matrix(), matrix("a6 d4"));
}

/// Looking for the end of a reset meets an error: what the queue held is freed nevertheless, and the adapter stays out.
#[test]
fn l3_a_poll_that_fails_still_frees() {
    for code in [0x01, 0x06, 0x31, 0x7f] {
        let s = Setup::new("a5 d4");
        s.mdev(1, "a5 d4");
        s.attach(1);
        s.log.take();
        s.machine.tapq_answers(q("05.0004"), &[0x02, code]);
        assert_eq!(s.host.reset_device(mdev(1)).unwrap_err().errno(), "EIO", "{code:02x}");
        let (zapq, release) = (Did::Zapq(q("05.0004")), Did::Release(q("05.0004")));
        assert_eq!(s.log.take(), [zapq, release, Did::Masks(1, matrix("d4")), Did::Told(1)], "{code:02x}");
        assert_eq!(s.host.snapshot().queue(q("05.0004")).unwrap().last_reset, code);
    }
}
