//! One queue, with a card that the test holds back.

use super::*;
use crate::fixture::{Bench, DEPTH, apqn, echo, eventually};
use crycb::Apid;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use zarch::AbsoluteAddress;

const NIB: u64 = 0x2345;
const ISC: u8 = 6;

fn q() -> Apqn {
    apqn(5, 4)
}

fn enqueue(bench: &Bench, psmid: u64, request: &[u8]) -> u32 {
    bench.machine.enqueue(q(), psmid, Zeroizing::new(request.to_vec())).word()
}

/// Takes the oldest reply off in full.
fn dequeue(bench: &Bench) -> Result<(u64, Vec<u8>), u32> {
    let reply = bench.machine.begin_dequeue(q(), u64::MAX, None).map_err(Status::word)?;
    let taken = (reply.psmid(), reply.bytes().to_vec());
    assert_eq!(reply.commit().response_code, ResponseCode::Normal);
    Ok(taken)
}

fn word(bench: &Bench) -> u32 {
    bench.machine.status(q()).word()
}

fn until_reply(bench: &Bench) {
    bench.until(q(), |status| status.replies_waiting);
}

fn enable(bench: &Bench) {
    let nib = AbsoluteAddress(NIB);
    let status = bench.machine.enable_interruption(q(), nib, ISC, &bench.guest.notifier);
    assert_eq!(status.response_code, ResponseCode::Normal);
    bench.clock.advance(ENABLE_TIME);
    assert!(bench.machine.status(q()).interruptions_enabled);
}

#[track_caller]
fn check_statistics(bench: &Bench, requests: u64, replies: u64, discards: u64, queued: u64) {
    let got = bench.machine.statistics(q()).unwrap();
    assert_eq!((got.requests, got.replies, got.discards, got.queued), (requests, replies, discards, queued));
}

#[test]
fn discarded_requests_stay_discarded() {
    #[track_caller]
    fn check(how: impl Fn(&Bench), word_after: u32, restore: impl Fn(&Bench)) {
        let bench = Bench::new(false);
        enable(&bench);
        enqueue(&bench, 1, b"fast: its reply waits");
        until_reply(&bench);
        bench.storage.write(AbsoluteAddress(NIB), &[0]).unwrap();
        bench.card.close();
        for psmid in 2..=DEPTH.into() {
            enqueue(&bench, psmid, b"in flight or waiting");
        }
        bench.card.wait_for_one();
        how(&bench);
        assert_eq!(word(&bench), word_after);
        check_statistics(&bench, DEPTH.into(), 0, DEPTH.into(), 0);
        restore(&bench);
        assert_eq!(word(&bench), 0x8000_0000, "operational, interruptions disabled");

        assert_eq!(enqueue(&bench, 77, b"new"), 0);
        bench.card.open();
        until_reply(&bench);
        assert_eq!(dequeue(&bench), Ok((77, echo(4, b"new"))));
        assert_eq!(dequeue(&bench), Err(0x8010_0000));
        check_statistics(&bench, u64::from(DEPTH) + 1, 1, DEPTH.into(), 0);
        assert_eq!((bench.byte(NIB), bench.posted.iscs()), (0, vec![ISC]), "nothing after the discard");
    }
    let wait = |bench: &Bench| bench.clock.advance(RESET_TIME);
    let configure = |bench: &Bench| {
        bench.machine.set_adapter_state(Apid(5), AdapterState::Configured);
    };
    check(|bench| assert_eq!(bench.machine.reset(q()).word(), 0x8000_0000), 0x8002_0000, wait);
    check(|bench| assert_eq!(bench.machine.zeroize(q()).word(), 0x8000_0000), 0x8002_0000, wait);
    for (state, word) in
        [(AdapterState::Deconfigured, 0x8003_0000), (AdapterState::CheckStopped, 0x8004_0000)]
    {
        let set = |bench: &Bench| assert!(bench.machine.set_adapter_state(Apid(5), state));
        check(set, word, configure);
        // During a reset: it has ended with the change.
        check(
            |bench| {
                bench.machine.reset(q());
                set(bench);
            },
            word,
            configure,
        );
    }
}

#[test]
fn keys_go_with_the_queue() {
    let ends: [fn(&Bench); 3] = [
        |bench| bench.machine.set_adapter(Apid(5), None),
        |bench| assert_eq!(bench.machine.reset(q()).response_code, ResponseCode::Normal),
        |bench| assert!(bench.machine.set_adapter_state(Apid(5), AdapterState::Deconfigured)),
    ];
    for end in ends {
        let bench = Bench::new(false);
        let session = || Arc::downgrade(&bench.machine.queue(q()).unwrap().lock().session);
        let before = session();
        assert!(before.upgrade().is_some());
        end(&bench);
        assert!(before.upgrade().is_none(), "what the card remembered was wiped");
        assert!(session().upgrade().is_some(), "a new session");
    }
}

#[test]
fn busy_keeps_what_is_queued() {
    let bench = Bench::new(false);
    enqueue(&bench, 9, b"kept");
    until_reply(&bench);
    bench.machine.set_adapter_state(Apid(5), AdapterState::Busy);
    assert_eq!(bench.machine.adapter_state(Apid(5)), Some(AdapterState::Busy));
    assert_eq!((word(&bench), dequeue(&bench)), (0x4005_0000, Err(0x4005_0000)));
    assert_eq!(bench.machine.reset(q()).word(), 0x4005_0000);
    bench.machine.set_adapter_state(Apid(5), AdapterState::Configured);
    assert_eq!(dequeue(&bench), Ok((9, echo(4, b"kept"))));
    check_statistics(&bench, 1, 1, 0, 0);
}

#[test]
fn replies_come_in_order() {
    let bench = Bench::new(false);
    bench.card.close();
    enqueue(&bench, 1, b"slow");
    enqueue(&bench, 2, b"fast");
    enqueue(&bench, 3, b"slow too");
    bench.card.wait_for_one();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(word(&bench), 0, "the fast one waits for its turn");
    bench.card.open();
    for (psmid, request) in [(1, &b"slow"[..]), (2, b"fast"), (3, b"slow too")] {
        until_reply(&bench);
        assert_eq!(dequeue(&bench), Ok((psmid, echo(4, request))));
    }
    assert_eq!(dequeue(&bench), Err(0x8010_0000));
}

#[test]
fn a_dropped_dequeue_took_nothing() {
    let bench = Bench::new(false);
    enqueue(&bench, 5, b"abc");
    until_reply(&bench);
    drop(bench.machine.begin_dequeue(q(), 2, None));
    assert_eq!(bench.machine.begin_dequeue(q(), 2, Some(2)).err().unwrap().word(), 0x4013_0000);
    check_statistics(&bench, 1, 0, 0, 1);
    assert_eq!(dequeue(&bench), Ok((5, echo(4, b"abc"))));
}

#[test]
fn interruptions() {
    let bench = Bench::new(false);
    let reply = |psmid| {
        enqueue(&bench, psmid, b"x");
        eventually("the reply", || {
            let computed = |entry: &Entry| matches!(entry.body, Body::Reply(_));
            bench.machine.queue(q()).unwrap().lock().entries.iter().all(computed)
        });
    };
    let byte = || {
        let byte = bench.byte(NIB);
        bench.storage.write(AbsoluteAddress(NIB), &[0]).unwrap();
        (byte, bench.posted.iscs().len())
    };
    reply(1);
    assert_eq!(byte(), (0, 0), "disabled");
    dequeue(&bench).unwrap();

    enable(&bench);
    bench.storage.mark_code(NIB >> 12);
    reply(2);
    assert_eq!((byte(), bench.posted.iscs()), ((1, 1), vec![ISC]));
    assert!(!bench.storage.is_code(NIB >> 12), "the store is one that CPUs hear of");
    reply(3);
    assert_eq!(byte(), (0, 1), "replies were waiting");
    dequeue(&bench).unwrap();
    dequeue(&bench).unwrap();
    reply(4);
    assert_eq!(byte(), (1, 2));
    assert_eq!(bench.machine.statistics(q()).unwrap().interruptions, 2);
    dequeue(&bench).unwrap();

    assert_eq!(bench.machine.disable_interruption(q()).word(), 0x8000_0000);
    reply(5);
    assert_eq!(byte(), (0, 2), "disabled again");
    // Enabled while a reply waits: reported when the enabling ends.
    enable(&bench);
    assert_eq!(byte(), (1, 3));
    bench.machine.reset(q());
    bench.clock.advance(RESET_TIME);
    reply(6);
    assert_eq!(byte(), (0, 3), "a reset forgets the notification byte");
}

#[test]
fn a_card_that_panics_stops_its_queue_only() {
    let bench = Bench::new(false);
    enable(&bench);
    enqueue(&bench, 1, b"panic");
    bench.until(q(), |status| status.response_code == ResponseCode::CheckStopped);
    check_statistics(&bench, 1, 0, 1, 0);
    assert_eq!(bench.machine.status(apqn(5, 0xab)).word(), 0x8000_0000);
    bench.machine.set_adapter_state(Apid(5), AdapterState::Configured);
    enqueue(&bench, 2, b"x");
    until_reply(&bench);
    assert_eq!(dequeue(&bench).unwrap().0, 2);
}

#[test]
fn a_stuck_queue_delays_only_itself() {
    let bench = Bench::new(false);
    bench.card.close();
    for psmid in 0..DEPTH.into() {
        enqueue(&bench, psmid, b"stuck");
    }
    bench.card.wait_for_one();
    let other = apqn(6, 4);
    bench.machine.enqueue(other, 1, Zeroizing::new(b"x".to_vec()));
    bench.until(other, |status| status.replies_waiting);
    bench.card.open();
}

#[test]
fn workers_compute_side_by_side() {
    let bench = Bench::new(false);
    bench.card.close();
    let queue = bench.machine.queue(q()).unwrap().clone();
    for psmid in 0..DEPTH.into() {
        enqueue(&bench, psmid, b"x");
    }
    let most = queue.workers.min(usize::from(DEPTH));
    eventually("every worker that the queue may have", || queue.lock().running == most);
    bench.card.open();
    eventually("the replies", || bench.machine.statistics(q()).unwrap().waiting == u64::from(DEPTH));
}

#[test]
fn a_queue_is_listed_once() {
    let bench = Bench::new(false);
    let mut state = bench.machine.queue(q()).unwrap().lock();
    assert!(!state.list_if_due(2), "nothing to do");
    for due in [true, false, false] {
        state.entries.push_back(Entry { psmid: 0, since: 0, body: Body::Request(Zeroizing::default()) });
        assert_eq!(state.list_if_due(2), due);
    }
}

/// Two guests' CPUs enqueue and two dequeue while a fifth thread resets now and then: each accepted request has one fate.
#[test]
fn one_fate_each() {
    const EACH: u64 = 3000;
    let bench = Bench::new(false);
    let resets = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let message = |psmid: u64| psmid.to_be_bytes().repeat(1 + psmid as usize % 7);
    let mut replies = Vec::new();
    std::thread::scope(|scope| {
        let (bench, done, resets, message) = (&bench, &done, &resets, &message);
        let producers: Vec<_> = (1..=2u64)
            .map(|cpu| {
                scope.spawn(move || {
                    let accepted = |&n: &u64| {
                        let psmid = cpu << 32 | n;
                        loop {
                            match enqueue(bench, psmid, &message(psmid)) >> 16 & 0xff {
                                0 => break true,
                                0x10 | 0x02 => std::thread::yield_now(),
                                other => panic!("{other:x}"),
                            }
                        }
                    };
                    (0..EACH).filter(accepted).count() as u64
                })
            })
            .collect();
        let consumers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut got = Vec::new();
                    let mut last = HashMap::new();
                    loop {
                        match dequeue(bench) {
                            Ok((psmid, reply)) => {
                                assert_eq!(reply, echo(4, &message(psmid)));
                                let before = last.insert(psmid >> 32, psmid);
                                assert!(before < Some(psmid), "in order");
                                got.push(psmid);
                            }
                            Err(word) if word >> 31 == 1 && done.load(Ordering::SeqCst) => break got,
                            Err(_) => std::thread::yield_now(),
                        }
                    }
                })
            })
            .collect();
        let resetter = scope.spawn(|| {
            // Once at least, however late this thread begins.
            loop {
                std::thread::sleep(Duration::from_millis(3));
                bench.machine.reset(q());
                bench.clock.advance(RESET_TIME);
                resets.fetch_add(1, Ordering::SeqCst);
                if done.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        let accepted: u64 = producers.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(accepted, 2 * EACH);
        done.store(true, Ordering::SeqCst);
        resetter.join().unwrap();
        for thread in consumers {
            replies.extend(thread.join().unwrap());
        }
    });
    let distinct: HashSet<_> = replies.iter().collect();
    assert_eq!(distinct.len(), replies.len(), "never twice");
    assert!(resets.load(Ordering::SeqCst) > 0);
    let discards = 2 * EACH - replies.len() as u64;
    check_statistics(&bench, 2 * EACH, replies.len() as u64, discards, 0);
}

#[test]
fn virtual_time_decides_when_a_reply_is_seen() {
    let bench = Bench::new(true);
    enable(&bench);
    enqueue(&bench, 1, &[7; 50]);
    eventually("the reply on the host", || bench.machine.queue(q()).unwrap().lock().is_computed(0));
    let latency = virtual_latency(50);
    bench.clock.advance(latency - 1);
    assert_eq!((word(&bench), dequeue(&bench)), (0x0100_0000, Err(0x0110_0000)));
    assert!(bench.posted.iscs().is_empty());
    bench.clock.advance(1);
    assert_eq!((word(&bench), bench.byte(NIB), bench.posted.iscs()), (0x4100_0000, 1, vec![ISC]));
    assert_eq!(dequeue(&bench), Ok((1, echo(4, &[7; 50]))));

    // A worker that is late is waited for.
    bench.card.close();
    enqueue(&bench, 2, b"late");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            bench.card.wait_for_one();
            std::thread::sleep(Duration::from_millis(10));
            bench.card.let_pass(1);
        });
        bench.clock.advance(virtual_latency(4));
        assert_eq!(word(&bench), 0x4100_0000);
    });
    assert_eq!(dequeue(&bench), Ok((2, echo(4, b"late"))));

    // A request that was reset is not waited for, nor does it delay those after it.
    enqueue(&bench, 3, b"never");
    bench.machine.reset(q());
    bench.clock.advance(RESET_TIME);
    enqueue(&bench, 4, b"fast");
    bench.clock.advance(virtual_latency(5) - RESET_TIME);
    assert_eq!(word(&bench), 0);
    bench.card.open();
    bench.clock.advance(RESET_TIME);
    assert_eq!(dequeue(&bench), Ok((4, echo(4, b"fast"))));
}

/// The same guest on a fast and on a slow host sees the same.
#[test]
fn virtual_time_is_reproducible() {
    let transcript = |delay: Duration| {
        let bench = Bench::new(true);
        enable(&bench);
        let mut seen = Vec::new();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            bench.card.close();
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    std::thread::sleep(delay);
                    bench.card.let_pass(1);
                }
            });
            for step in 0..60u64 {
                let size = (step * 37 % 400) as usize;
                seen.push(enqueue(&bench, step, &vec![step as u8; size]).into());
                bench.clock.advance(step * 5003 % 40_000);
                seen.push(word(&bench).into());
                if step % 3 == 0 {
                    seen.push(dequeue(&bench).map_or_else(u64::from, |(psmid, _)| psmid));
                }
                seen.push(bench.posted.iscs().len() as u64);
                if step == 40 {
                    bench.machine.reset(q());
                    bench.clock.advance(RESET_TIME);
                }
            }
            stop.store(true, Ordering::SeqCst);
            bench.card.open();
        });
        seen
    };
    let fast = transcript(Duration::ZERO);
    assert_eq!(fast, transcript(Duration::from_millis(2)));
    assert!(fast.contains(&0x6100_0000), "full with replies waiting: the script goes through the states");
}
