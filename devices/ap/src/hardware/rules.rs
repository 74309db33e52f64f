//! Adapters that come and go, queues that are stuck, and what interruptions hold: rules that past bugs of `vfio_ap` (V) and of
//! drivers like it (L) teach.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};

use crycb::{CrycbFormat, Matrix};
use machine::Storage;

use super::*;
use crate::card::{Accelerator, CcaCoprocessor, CcaDescription, Mode, Serial};
use crate::fault::Answer;
use crate::fixture::{Bench, DEPTH, Echo, Posted, apqn, echo, eventually, mask};
use crate::guest::GuestCrycb;
use crate::host::{Condition, LparChange, Machine as HostMachine};
use crate::instruction::Environment;
use crate::notifier::Resources;
use crate::queue::{ENABLE_TIME, RESET_TIME};

const NIB: u64 = 0x2345;
const ISC: u8 = 6;
/// What [`busy_bench`] puts on the queue.
const ALL: u64 = DEPTH as u64;
/// General register 1 of AQIC: enable on [`ISC`].
const ON: u64 = 1 << 47 | ISC as u64;

const TAPQ: u64 = 0;
const RAPQ: u64 = 1;
const ZAPQ: u64 = 2;
const AQIC: u64 = 3;

fn q() -> Apqn {
    apqn(5, 4)
}

fn other() -> Apqn {
    apqn(6, 4)
}

/// The status word of a PQAP that the guest issues.
fn pqap(bench: &Bench, function: u64, apqn: Apqn, gr1: u64, gr2: u64) -> u32 {
    let hook = bench.guest.hook().enter();
    let bytes = bench.guest.crycb.load();
    let environment = Environment {
        crycb: crycb::CrycbView::new(bench.guest.crycb.format(), &bytes),
        facilities: &bench.guest.facilities,
        problem_state: false,
        notifier: &bench.guest.notifier,
        hook: *hook,
    };
    let answer = bench.machine.pqap(&environment, function << 24 | u64::from(apqn.0), gr1, gr2).unwrap();
    let word = answer.gr1.unwrap() as u32;
    assert_eq!(answer.condition_code, if word & 0xff_0000 == 0 { 0 } else { 3 });
    word
}

fn response(word: u32) -> u32 {
    word >> 16 & 0xff
}

fn enable(bench: &Bench, apqn: Apqn) {
    assert_eq!(response(pqap(bench, AQIC, apqn, ON, NIB)), 0);
    bench.clock.advance(ENABLE_TIME);
    assert!(bench.machine.status(apqn).interruptions_enabled);
}

/// What one enabled queue holds.
fn one() -> Resources {
    let mut isc = [0; 8];
    isc[usize::from(ISC)] = 1;
    Resources { pins: 1, isc }
}

fn nothing() -> Resources {
    Resources::default()
}

fn enqueue(bench: &Bench, apqn: Apqn, psmid: u64, request: &[u8]) -> u32 {
    response(bench.machine.enqueue(apqn, psmid, Zeroizing::new(request.to_vec())).word())
}

fn dequeue(bench: &Bench, apqn: Apqn) -> Result<(u64, Vec<u8>), u32> {
    let reply =
        bench.machine.begin_dequeue(apqn, u64::MAX, None).map_err(|status| response(status.word()))?;
    let taken = (reply.psmid(), reply.bytes().to_vec());
    reply.commit();
    Ok(taken)
}

/// Requests, replies, discards, queued.
fn figures(statistics: QueueStatistics) -> [u64; 4] {
    assert_eq!(statistics.requests, statistics.replies + statistics.discards + statistics.queued);
    [statistics.requests, statistics.replies, statistics.discards, statistics.queued]
}

/// The queue waits with a reply, requests in work and behind, and an enabled interruption that was not used yet.
fn busy_bench() -> Bench {
    let bench = Bench::new(false);
    enqueue(&bench, q(), 1, b"fast: its reply waits");
    bench.until(q(), |status| status.replies_waiting);
    enable(&bench, q());
    bench.storage.write(AbsoluteAddress(NIB), &[0]).unwrap();
    bench.posted.0.lock().unwrap().clear();
    bench.card.close();
    for psmid in 2..=ALL {
        enqueue(&bench, q(), psmid, b"held back");
    }
    bench.card.wait_for_one();
    assert_eq!(bench.guest.resources(), one());
    bench
}

/// Something done to the machine or by the guest.
type Action = fn(&Bench);

/// All ways to take queue 05.0004 away, with the way back.
fn removals() -> Vec<(&'static str, Action, Action)> {
    fn hardware(bench: &Bench, apm: &[u8], aqm: &[u8]) -> Hardware {
        let mut qci = bench.machine.qci();
        (qci.matrix.apm, qci.matrix.aqm) = (mask(apm), mask(aqm));
        let mut adapters: Vec<_> = bench.machine.configuration().hardware().adapters;
        adapters.retain(|(apid, _)| apm.contains(&apid.0));
        if apm.contains(&5) && !adapters.iter().any(|(apid, _)| apid.0 == 5) {
            adapters.push((Apid(5), bench.card.clone()));
        }
        Hardware { qci, adapters }
    }
    let plug = |bench: &Bench| bench.machine.set_adapter(Apid(5), Some(bench.card.clone()));
    vec![
        ("unplug", |bench| bench.machine.set_adapter(Apid(5), None), plug),
        (
            "domain off",
            |bench| bench.machine.set_domains(mask(&[0xab]), mask(&[4])),
            |bench| bench.machine.set_domains(mask(&[4, 0xab]), mask(&[4])),
        ),
        (
            "new description, adapter",
            |bench| bench.machine.apply(hardware(bench, &[6], &[4, 0xab])),
            |bench| bench.machine.apply(hardware(bench, &[5, 6], &[4, 0xab])),
        ),
        (
            "new description, domain",
            |bench| bench.machine.apply(hardware(bench, &[5, 6], &[0xab])),
            |bench| bench.machine.apply(hardware(bench, &[5, 6], &[4, 0xab])),
        ),
    ]
}

#[test]
fn a_queue_that_goes_discards_and_comes_back_empty() {
    for (name, remove, restore) in removals() {
        let bench = busy_bench();
        remove(&bench);
        assert_eq!(bench.guest.resources(), nothing(), "{name}");
        for (function, gr1, gr2) in [(TAPQ, 0, 0), (RAPQ, 0, 0), (ZAPQ, 0, 0), (AQIC, 0, 0), (AQIC, ON, NIB)]
        {
            assert_eq!(pqap(&bench, function, q(), gr1, gr2), 0x1_0000, "{name} {function}");
        }
        assert_eq!(bench.machine.check_enqueue(q(), 8).word(), 0x1_0000);
        assert_eq!((enqueue(&bench, q(), 9, b"x"), dequeue(&bench, q())), (1, Err(1)), "{name}");
        assert_eq!((bench.machine.statistics(q()), bench.machine.information(q())), (None, None));
        assert_eq!(figures(bench.machine.totals()), [ALL, 0, ALL, 0], "{name}");
        assert_eq!(bench.guest.resources(), nothing(), "{name}: answers 01 hold nothing");

        // The worker comes with a reply that nobody waits for, before or after the queue is back.
        restore(&bench);
        assert_eq!(bench.machine.status(q()).word(), 0x8000_0000, "{name}");
        assert_eq!(bench.machine.statistics(q()), Some(QueueStatistics::default()), "{name}");
        assert_eq!(enqueue(&bench, q(), 77, b"new"), 0);
        bench.card.open();
        bench.until(q(), |status| status.replies_waiting);
        assert_eq!(dequeue(&bench, q()), Ok((77, echo(4, b"new"))), "{name}");
        assert_eq!(dequeue(&bench, q()), Err(0x10), "{name}");
        assert_eq!(figures(bench.machine.statistics(q()).unwrap()), [1, 1, 0, 0], "{name}");
        assert_eq!(figures(bench.machine.totals()), [ALL + 1, 1, ALL, 0], "{name}");
        assert_eq!((bench.byte(NIB), bench.posted.iscs()), (0, vec![]), "{name}: not after the removal");
    }
}

#[test]
fn what_stays_keeps_everything() {
    for (name, remove, restore) in removals() {
        let bench = Bench::new(false);
        enable(&bench, other());
        assert_eq!(enqueue(&bench, other(), 1, b"first"), 0);
        bench.until(other(), |status| status.replies_waiting);
        bench.machine.set_adapter_state(Apid(6), AdapterState::Busy);
        // Domain 04 is on both adapters: take only the adapter away.
        if name.ends_with("adapter") || name == "unplug" {
            remove(&bench);
            restore(&bench);
            assert_eq!(bench.machine.adapter_state(Apid(6)), Some(AdapterState::Busy), "{name}");
            bench.machine.set_adapter_state(Apid(6), AdapterState::Configured);
            assert_eq!(bench.machine.status(other()).word(), 0x4100_0000, "{name}");
            assert_eq!(dequeue(&bench, other()), Ok((1, echo(4, b"first"))), "{name}");
            assert_eq!(bench.guest.resources(), one(), "{name}");
        } else {
            let stays = apqn(6, 0xab);
            bench.machine.set_adapter_state(Apid(6), AdapterState::Configured);
            assert_eq!(enqueue(&bench, stays, 2, b"stays"), 0);
            bench.until(stays, |status| status.replies_waiting);
            remove(&bench);
            assert_eq!((dequeue(&bench, other()), bench.guest.resources()), (Err(1), nothing()), "{name}");
            restore(&bench);
            assert_eq!(dequeue(&bench, stays), Ok((2, echo(0xab, b"stays"))), "{name}");
        }
    }
}

/// The description decides, not the object that was made of it.
#[test]
fn another_card_is_another_adapter() {
    let serial = |serial: &[u8; 8]| CcaDescription { serial: Serial(*serial), ..Default::default() };
    let cca = |name: &[u8; 8]| -> Arc<dyn Card> { Arc::new(CcaCoprocessor::new(14, serial(name))) };
    let bench = Bench::new(false);
    let check = |card: Arc<dyn Card>, stays: bool| {
        let before = bench.machine.totals().discards;
        assert_eq!(enqueue(&bench, q(), 1, &[0; 8]), 0);
        bench.until(q(), |status| status.replies_waiting);
        let (mode, at) = (card.facts().mode, card.facts().hardware_type);
        bench.machine.set_adapter(Apid(5), Some(card));
        let information = bench.machine.information(q()).unwrap();
        assert_eq!((information.mode, information.hardware_type), (mode, at));
        assert_eq!(bench.machine.totals().discards - before, u64::from(!stays));
        assert_eq!(dequeue(&bench, q()).is_ok(), stays);
    };
    check(bench.card.clone(), true);
    check(Echo::new(Mode::Accelerator), false);
    check(cca(b"93AADFK7"), false);
    check(cca(b"93AADFK7"), true);
    check(cca(b"93AADFK8"), false);
    check(Arc::new(Accelerator::new(14)), false);
    check(Arc::new(Accelerator::new(14)), true);
    check(Arc::new(Accelerator::new(13)), false);
}

#[test]
fn descriptions_of_a_host() {
    let bench = Bench::new(false);
    let host = Lpar::of(&crate::host::Description::builtin());
    let apqns: Vec<Apqn> = host.qci().matrix.apqns().collect();
    bench.machine.apply(Hardware::of(&host));
    assert_eq!(bench.machine.qci(), host.qci());
    for &apqn in &apqns {
        assert_eq!(enqueue(&bench, apqn, 1, &[0xff; 64]), 0, "{apqn}");
    }
    bench.machine.apply(Hardware::of(&host));
    for &apqn in &apqns {
        bench.until(apqn, |status| status.replies_waiting);
        assert_eq!(dequeue(&bench, apqn).unwrap().0, 1, "{apqn}");
    }
    let (all, figures) = (apqns.len() as u64, figures(bench.machine.totals()));
    assert_eq!(figures, [all, all, 0, 0]);

    // As the host's own changes bring it there.
    let mut next = host.clone();
    let number = crate::host::Number;
    let adapter = |apid: u8| host.adapter(Apid(apid)).unwrap().adapter.clone();
    let retyped = crate::host::Adapter { generation: crate::host::Generation::Cex6, ..adapter(5) };
    for (change, queue, word) in [
        (LparChange::RemoveAdapter { adapter: number(6) }, apqn(6, 4), 0x1_0000),
        (LparChange::AddAdapter { adapter: adapter(6) }, apqn(6, 4), 0x8000_0000),
        (LparChange::RemoveDomain { domain: number(0x47) }, apqn(5, 0x47), 0x1_0000),
        (LparChange::AddDomain { domain: number(0x48) }, apqn(5, 0x48), 0x8000_0000),
        (
            LparChange::SetCondition { adapter: number(10), condition: Condition::Offline },
            apqn(10, 4),
            0x8003_0000,
        ),
        (LparChange::ChangeType { adapter: retyped }, apqn(5, 4), 0x8000_0000),
    ] {
        next.change(&change).unwrap();
        HostMachine::configure(&*bench.machine, &next);
        assert_eq!(
            (bench.machine.qci(), bench.machine.status(queue).word()),
            (next.qci(), word),
            "{change:?}"
        );
    }
    assert_eq!(bench.machine.information(apqn(5, 4)).unwrap().hardware_type, 12);
}

/// A description that contradicts itself is refused as a whole.
#[test]
fn a_bad_description_changes_nothing() {
    let bench = Bench::new(false);
    enqueue(&bench, q(), 1, b"stays");
    let adapter = || (Apid(5), bench.card.clone() as Arc<dyn Card>);
    for adapters in [vec![], vec![adapter(), adapter()]] {
        let mut qci = bench.machine.qci();
        qci.matrix.apm = mask(&[5]);
        let apply = || bench.machine.apply(Hardware { qci, adapters });
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(apply)).is_err());
    }
    assert_eq!(bench.machine.qci().matrix.apm, mask(&[5, 6]));
    bench.until(q(), |status| status.replies_waiting);
    assert_eq!(dequeue(&bench, q()).unwrap().0, 1);
    bench.machine.set_adapter(Apid(6), None);
    assert_eq!(bench.machine.qci().matrix.apm, mask(&[5]));
}

/// V6: a queue that went out of the host's configuration gets no ZAPQ, but what its interruption holds is given back.
#[test]
fn v06_interruptions_are_freed_without_a_reset() {
    let bench = busy_bench();
    assert!(bench.machine.free_interruption(q()));
    assert_eq!(bench.guest.resources(), nothing());
    assert!(!bench.machine.free_interruption(q()), "there is none");
    assert!(!bench.machine.free_interruption(apqn(9, 9)), "there is no such queue");
    assert_eq!(figures(bench.machine.statistics(q()).unwrap())[2..], [0, ALL], "nothing was reset");
    bench.card.open();
    bench.until(q(), |_| bench.machine.statistics(q()).unwrap().waiting == ALL);
    assert_eq!((bench.byte(NIB), bench.posted.iscs()), (0, vec![]));
    // In a state in which the queue would refuse AQIC.
    bench.machine.reset(q());
    bench.clock.advance(RESET_TIME);
    enable(&bench, q());
    bench.machine.set_adapter_state(Apid(5), AdapterState::Busy);
    assert!(bench.machine.free_interruption(q()));
    assert_eq!(bench.guest.resources(), nothing());
}

/// V7: whatever a reset by the host answers, the interruption's resources are given back; so they are by any other way to an
/// end. A guest's reset that the queue refused leaves the interruption.
#[test]
fn v07_every_answer_to_a_reset_frees() {
    let codes = {
        use ResponseCode::*;
        [NotAvailable, ResetInProgress, Deconfigured, CheckStopped, Busy, StateChangeInProgress]
    };
    for code in codes {
        for reset in [ApMachine::reset, ApMachine::zeroize] {
            let bench = busy_bench();
            assert!(bench.machine.inject(q(), Fault::ResetAnswers(Answer::always(code))));
            for function in [RAPQ, ZAPQ] {
                assert_eq!(response(pqap(&bench, function, q(), 0, 0)), code as u32);
            }
            assert_eq!(bench.guest.resources(), one(), "{code:?}");
            assert_eq!(reset(&bench.machine, q()).response_code, code);
            assert_eq!(bench.guest.resources(), nothing(), "{code:?}");
            assert_eq!(figures(bench.machine.totals())[2..], [0, ALL], "nothing was discarded");
        }
    }
    let ends: [(&str, Action); 7] = [
        ("AQIC", |bench| assert_eq!(response(pqap(bench, AQIC, q(), 0, 0)), 0)),
        ("RAPQ", |bench| assert_eq!(response(pqap(bench, RAPQ, q(), 0, 0)), 0)),
        ("ZAPQ", |bench| assert_eq!(response(pqap(bench, ZAPQ, q(), 0, 0)), 0)),
        ("host", |bench| assert_eq!(bench.machine.zeroize(q()).response_code, ResponseCode::Normal)),
        ("deconfigured", |bench| {
            bench.machine.set_adapter_state(Apid(5), AdapterState::Deconfigured);
        }),
        ("check-stop", |bench| {
            bench.machine.set_adapter_state(Apid(5), AdapterState::CheckStopped);
        }),
        ("gone", |bench| {
            bench.machine.set_adapter(Apid(5), None);
            assert_eq!(bench.machine.zeroize(q()).response_code, ResponseCode::NotAvailable);
        }),
    ];
    for (name, end) in ends {
        let bench = busy_bench();
        end(&bench);
        assert_eq!(bench.guest.resources(), nothing(), "{name}");
    }
    // Enabling that has not ended holds them too.
    let bench = Bench::new(false);
    pqap(&bench, AQIC, q(), ON, NIB);
    assert_eq!(bench.guest.resources(), one());
    bench.machine.reset(q());
    assert_eq!(bench.guest.resources(), nothing());
}

/// V16: response code 06, and each failing step undoes those before.
#[test]
fn v16_each_failing_step_is_undone() {
    let unlimited = Resources::UNLIMITED;
    let mut no_isc = unlimited;
    no_isc.isc[usize::from(ISC)] = 0;
    for (nib, limits) in [
        (0, unlimited),
        (crate::fixture::STORAGE, unlimited),
        (u64::MAX, unlimited),
        (NIB, Resources { pins: 0, ..unlimited }),
        (NIB, no_isc),
    ] {
        let bench = Bench::new(false);
        bench.guest.notifier.set_limits(limits);
        for _ in 0..3 {
            assert_eq!(pqap(&bench, AQIC, q(), ON, nib), 0x6_0000, "{nib:x} {limits:?}");
            assert_eq!(bench.guest.resources(), nothing(), "{nib:x} {limits:?}");
        }
        bench.clock.advance(ENABLE_TIME);
        assert!(!bench.machine.status(q()).interruptions_enabled);
        bench.guest.notifier.set_limits(unlimited);
        enable(&bench, q());
        assert_eq!(bench.guest.resources(), one());
    }
    // The second queue fails and the first keeps what it has; another ISC is not concerned.
    let bench = Bench::new(false);
    bench.guest.notifier.set_limits(Resources { pins: 2, ..one() });
    enable(&bench, q());
    assert_eq!(response(pqap(&bench, AQIC, other(), ON, NIB)), 6);
    assert_eq!(bench.guest.resources(), one());
    assert_eq!(response(pqap(&bench, AQIC, other(), ON & !7 | 3, NIB)), 6, "no reference to ISC 3 either");
    pqap(&bench, AQIC, q(), 0, 0);
    enable(&bench, other());
    assert_eq!(bench.guest.resources(), one());
}

/// L1: when the queue refuses, the new pin and ISC are given back, and an interruption that was there keeps the old.
#[test]
fn l1_a_refused_enabling_gives_back_the_new() {
    let again = ON & !7 | 3;
    for code in [
        ResponseCode::NotAvailable,
        ResponseCode::ResetInProgress,
        ResponseCode::Deconfigured,
        ResponseCode::CheckStopped,
        ResponseCode::Busy,
        ResponseCode::InvalidAddress,
        ResponseCode::OtherwiseChanged,
        ResponseCode::StateChangeInProgress,
    ] {
        let bench = Bench::new(false);
        let twice = Answer::times(NonZeroU32::new(2).unwrap(), code);
        assert!(bench.machine.inject(q(), Fault::AqicAnswers(twice)));
        for _ in 0..2 {
            assert_eq!(response(pqap(&bench, AQIC, q(), ON, NIB)), code as u32);
            assert_eq!(bench.guest.resources(), nothing(), "{code:?}");
        }
        enable(&bench, q());
        assert!(bench.machine.inject(q(), Fault::AqicAnswers(Answer::always(code))));
        for gr1 in [again, 0] {
            assert_eq!(response(pqap(&bench, AQIC, q(), gr1, NIB + 4096)), code as u32);
            assert_eq!(bench.guest.resources(), one(), "{code:?}");
        }
        enqueue(&bench, q(), 1, b"reported as before");
        eventually("the interruption", || bench.posted.iscs() == [ISC]);
        assert_eq!((bench.byte(NIB), bench.byte(NIB + 4096)), (1, 0));
    }
    // Enabling again is 07 without any fault.
    let bench = Bench::new(false);
    enable(&bench, q());
    assert_eq!(response(pqap(&bench, AQIC, q(), again, NIB)), 7);
    assert_eq!(bench.guest.resources(), one());
}

/// L3: a reset that never ends is given up, and still nothing is held; the queue answers 02 until it is well again.
#[test]
fn l3_a_reset_without_end_still_frees() {
    let bench = busy_bench();
    assert!(bench.machine.inject(q(), Fault::ResetNeverEnds));
    assert_eq!(bench.machine.zeroize(q()).word(), 0x8000_0000);
    assert_eq!((bench.guest.resources(), figures(bench.machine.totals())[2]), (nothing(), ALL));
    for _ in 0..3 {
        bench.clock.advance(1 << 40);
        assert_eq!(bench.machine.status(q()).word(), 0x8002_0000);
        assert_eq!(bench.machine.zeroize(q()).word(), 0x8002_0000);
        assert_eq!((enqueue(&bench, q(), 1, b"x"), dequeue(&bench, q())), (2, Err(2)));
    }
    // Another queue of the same card goes on (L2).
    bench.card.open();
    let neighbour = apqn(5, 0xab);
    assert_eq!(enqueue(&bench, neighbour, 5, b"fast"), 0);
    bench.until(neighbour, |status| status.replies_waiting);
    bench.machine.clear_faults(q());
    assert_eq!(bench.machine.status(q()).word(), 0x8000_0000);
    // Removal ends faults and the reset.
    bench.machine.inject(q(), Fault::ResetNeverEnds);
    bench.machine.reset(q());
    bench.machine.set_adapter(Apid(5), None);
    assert!(!bench.machine.inject(q(), Fault::ResetNeverEnds), "there is no such queue");
    bench.machine.set_adapter(Apid(5), Some(bench.card.clone()));
    assert_eq!(bench.machine.status(q()).word(), 0x8000_0000);
    bench.machine.reset(q());
    bench.clock.advance(RESET_TIME);
    assert_eq!(bench.machine.status(q()).word(), 0x8000_0000);
}

/// V18's answers, so many times: then the reset takes place.
#[test]
fn v18_a_reset_that_is_asked_for_again() {
    for code in [ResponseCode::ResetInProgress, ResponseCode::Busy, ResponseCode::StateChangeInProgress] {
        let bench = busy_bench();
        let fault = Fault::ResetAnswers(Answer::times(NonZeroU32::new(3).unwrap(), code));
        bench.machine.inject(q(), fault);
        for _ in 0..3 {
            assert_eq!(bench.machine.zeroize(q()).response_code, code);
            assert_eq!(figures(bench.machine.totals())[2], 0);
        }
        assert_eq!(bench.machine.zeroize(q()).response_code, ResponseCode::Normal);
        assert_eq!(figures(bench.machine.totals())[2], ALL);
    }
}

/// V20: machines, guests and adapters come and go, and nothing is left of them: no thread, queue, card, pin, ISC or storage.
#[test]
fn v20_create_and_destroy_leak_nothing() {
    let storage = Arc::new(Storage::new(1 << 20).unwrap());
    let posted = Arc::new(Posted::default());
    let notifier = Notifier::new(storage.clone(), posted.clone());
    for round in 0..40u64 {
        let bench = Bench::new(round % 2 == 0);
        let card = Echo::new(Mode::Accelerator);
        let threads = bench.machine.pool.watch();
        let queue = Arc::downgrade(bench.machine.queue(q()).unwrap());
        for _ in 0..5 {
            bench.machine.set_adapter(Apid(5), Some(card.clone()));
            for apqn in [q(), apqn(5, 0xab), other()] {
                let nib = AbsoluteAddress(0x1000 + round);
                bench.machine.enable_interruption(apqn, nib, round as u8 & 7, &notifier);
                enqueue(&bench, apqn, round, b"on its way");
            }
            assert_eq!(notifier.resources().pins, 3);
            bench.machine.set_adapter(Apid(5), None);
            assert_eq!(notifier.resources().pins, 1);
            bench.machine.reset(other());
            bench.clock.advance(RESET_TIME);
            assert_eq!(notifier.resources(), nothing());
            let totals = bench.machine.totals();
            assert_eq!(totals.requests, totals.discards);
        }
        assert_eq!(bench.machine.totals().requests, 15);
        bench.machine.enable_interruption(other(), AbsoluteAddress(0x1000), 1, &notifier);
        assert_eq!(notifier.resources().pins, 1);
        drop(bench);
        assert!(threads.upgrade().is_none(), "every worker ended");
        assert!(queue.upgrade().is_none(), "the queue is gone");
        assert_eq!(Arc::strong_count(&card), 1, "the card is out");
        assert_eq!(notifier.resources(), nothing(), "the machine's end is the interruption's");
    }
    drop(notifier);
    assert_eq!((Arc::strong_count(&storage), Arc::strong_count(&posted)), (1, 1));
}

/// V21: a guest's subsystem reset resets all its queues, whatever is on them, and nobody else's.
#[test]
fn v21_a_guest_reset_resets_ap() {
    let bench = busy_bench();
    bench.guest.crycb.replace(&crycb::Crycb::new(
        CrycbFormat::Format2,
        &Matrix { apm: mask(&[5, 6, 7]), aqm: mask(&[4]), adm: mask(&[4]) },
    ));
    let neighbours = apqn(6, 0xab);
    enqueue(&bench, other(), 9, b"x");
    enqueue(&bench, neighbours, 10, b"somebody else's");
    let matrix = Matrix { apm: mask(&[6]), aqm: mask(&[0xab]), adm: mask(&[]) };
    let crycb = crycb::Crycb::new(CrycbFormat::Format2, &matrix);
    let neighbour = GuestAp::new(
        Arc::new(GuestCrycb::new(&crycb)),
        bench.guest.facilities,
        Notifier::new(bench.storage.clone(), bench.posted.clone()),
    );
    bench.machine.enable_interruption(neighbours, AbsoluteAddress(NIB + 1), ISC, &neighbour.notifier);
    bench.machine.reset_guest(&bench.guest);
    assert_eq!((bench.guest.resources(), neighbour.resources()), (nothing(), one()));
    for apqn in [q(), other()] {
        assert_eq!(bench.machine.status(apqn).word(), 0x8002_0000, "{apqn}");
        let [requests, replies, discards, queued] = figures(bench.machine.statistics(apqn).unwrap());
        assert_eq!((requests, replies, queued), (discards, 0, 0), "{apqn}");
    }
    bench.card.open();
    bench.clock.advance(RESET_TIME);
    for apqn in [q(), other()] {
        assert_eq!(bench.machine.status(apqn).word(), 0x8000_0000, "{apqn}");
    }
    bench.until(neighbours, |status| status.replies_waiting);
    assert_eq!(dequeue(&bench, neighbours), Ok((10, echo(0xab, b"somebody else's"))));
    assert_eq!(bench.byte(NIB), 0);
}

/// Without a hook AQIC answers 01 and every other instruction goes by the CRYCB.
#[test]
fn the_hook_concerns_aqic_only() {
    let bench = Bench::new(false);
    assert!(bench.guest.hook().is_set());
    assert!(bench.guest.clone().set_hook(false), "a clone is the same guest");
    for (gr1, gr2) in [(ON, NIB), (ON, 0), (0, 0)] {
        assert_eq!(pqap(&bench, AQIC, q(), gr1, gr2), 0x1_0000);
    }
    assert_eq!(bench.guest.resources(), nothing());
    assert_eq!(pqap(&bench, TAPQ, q(), 0, 0), 0x8000_0000);
    assert_eq!((enqueue(&bench, q(), 1, b"x"), bench.guest.set_hook(true)), (0, false));
    assert!(bench.guest.set_hook(true), "an attach finds that it is set");
    enable(&bench, q());
}

/// NQAP, DQAP, AQIC and resets race with removals and returns of their queue: architected answers only, each accepted request
/// one fate, nothing held in the end.
#[test]
fn races_with_removal() {
    const ROUNDS: usize = 400;
    let bench = Bench::new(false);
    let done = AtomicBool::new(false);
    let (accepted, taken) = std::thread::scope(|scope| {
        let (bench, done) = (&bench, &done);
        let producers: Vec<_> = (1..=2u64)
            .map(|cpu| {
                scope.spawn(move || {
                    let mut accepted = 0;
                    while !done.load(Ordering::SeqCst) {
                        match enqueue(bench, q(), cpu << 32 | accepted, &accepted.to_be_bytes()) {
                            0 => accepted += 1,
                            0x01 | 0x02 | 0x10 => std::thread::yield_now(),
                            other => panic!("NQAP: {other:x}"),
                        }
                    }
                    accepted
                })
            })
            .collect();
        let consumer = scope.spawn(move || {
            let mut taken = 0;
            while !done.load(Ordering::SeqCst) {
                match dequeue(bench, q()) {
                    Ok((psmid, reply)) => {
                        assert_eq!(reply, echo(4, &(psmid & 0xffff_ffff).to_be_bytes()));
                        taken += 1;
                    }
                    Err(0x01 | 0x02 | 0x10) => std::thread::yield_now(),
                    Err(other) => panic!("DQAP: {other:x}"),
                }
            }
            taken
        });
        scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                for (gr1, codes) in [(ON, [0, 1, 2, 7]), (0, [0, 1, 2, 7])] {
                    let code = response(pqap(bench, AQIC, q(), gr1, NIB));
                    assert!(codes.contains(&code), "AQIC: {code:x}");
                }
                bench.clock.advance(ENABLE_TIME);
                let totals = bench.machine.totals();
                assert_eq!(totals.requests, totals.replies + totals.discards + totals.queued);
            }
        });
        let ways = removals();
        for round in 0..ROUNDS {
            let (_, remove, restore) = ways[round % ways.len()];
            remove(bench);
            restore(bench);
            if round % 16 == 0 {
                bench.machine.reset(q());
            }
            std::thread::yield_now();
        }
        // The producers may not have begun yet.
        eventually("a request", || bench.machine.totals().requests > 0);
        done.store(true, Ordering::SeqCst);
        let accepted: u64 = producers.into_iter().map(|thread| thread.join().unwrap()).sum();
        (accepted, consumer.join().unwrap())
    });
    bench.machine.set_adapter(Apid(5), None);
    assert!(accepted > 0);
    assert_eq!(bench.guest.resources(), nothing());
    assert_eq!(figures(bench.machine.totals()), [accepted, taken, accepted - taken, 0]);
}

/// With virtual time too a queue comes back, and what is seen depends on nothing else.
#[test]
fn virtual_time_goes_on_after_a_return() {
    let transcript = || {
        let bench = Bench::new(true);
        let mut seen = Vec::new();
        for life in 0..4u64 {
            for psmid in 0..3 {
                assert_eq!(enqueue(&bench, q(), life << 8 | psmid, b"a request"), 0);
                bench.clock.advance(50_000);
            }
            seen.push(dequeue(&bench, q()).map_err(u64::from).map(|(psmid, _)| psmid));
            bench.machine.set_adapter(Apid(5), None);
            bench.clock.advance(20_000);
            bench.machine.set_adapter(Apid(5), Some(bench.card.clone()));
            seen.push(Ok(u64::from(bench.machine.status(q()).word())));
        }
        seen
    };
    let seen = transcript();
    assert_eq!(seen, transcript());
    assert!(seen.contains(&Ok(3 << 8)), "replies came in the last life: {seen:x?}");
}
