//! The hardware under shuttle: AP instructions of several CPUs, the cards' threads, and a machine that changes, in random
//! schedules that a seed repeats. A deadlock and a lock out of order each end the test with the schedule that leads there.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crycb::Matrix;
use machine::{Exit, Outcome};
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, MaxSteps, Runner};

use super::*;
use crate::card::Mode;
use crate::fixture::{Bench, Echo, apqn, mask};
use crate::queue::RESET_TIME;
use crate::sync::thread;

/// Schedules of each test.
const SCHEDULES: usize = 1000;
const SEED: u64 = 0x5eed;
/// Where requests are taken from.
const REQUEST: u64 = 0x2000;
/// Notification bytes.
const NIB: u64 = 0x4567;

type Thread = fn(&Bench);

/// Runs the threads on a machine of its own in each schedule, and counts replies and discards.
fn check(threads: &'static [Thread]) {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(200_000);
    config.stack_size = 1 << 20;
    let (replies, discards) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let counted = (replies.clone(), discards.clone());
    let ran = Runner::new(RandomScheduler::new_from_seed(SEED, SCHEDULES), config).run(move || {
        let bench = Arc::new(Bench::new(false));
        let start = |code: &Thread| {
            let (bench, code) = (bench.clone(), *code);
            thread::spawn("test", move || code(&bench)).unwrap()
        };
        let handles: Vec<_> = threads.iter().map(start).collect();
        handles.into_iter().for_each(|handle| handle.join().unwrap());
        let total = bench.machine.totals();
        assert_eq!(total.requests, total.replies + total.discards + total.queued, "{total:?}");
        for queue in queues() {
            bench.machine.free_interruption(queue);
        }
        assert_eq!(bench.guest.resources(), Default::default(), "a queue keeps what is the guest's");
        counted.0.fetch_add(total.replies, Relaxed);
        counted.1.fetch_add(total.discards, Relaxed);
    });
    assert_eq!(ran, SCHEDULES);
    let (replies, discards) = (replies.load(Relaxed), discards.load(Relaxed));
    println!("{SCHEDULES} schedules of {} threads: {replies} replies, {discards} discards", threads.len());
    assert!(replies > 0, "requests get through");
}

fn queues() -> impl Iterator<Item = Apqn> {
    [5, 6].into_iter().flat_map(|apid| [4, 0xab].map(|apqi| apqn(apid, apqi)))
}

/// Executes an AP instruction with these registers. The condition code.
fn execute(bench: &Bench, exit: Exit, registers: &[(usize, u64)]) -> u8 {
    let mut cpu = bench.cpu();
    registers.iter().for_each(|(r, value)| cpu.gr[*r] = *value);
    match bench.machine.execute(&mut cpu, &exit, &bench.guest) {
        Some(Outcome::ConditionCode(cc)) => cc,
        other => panic!("{other:?}"),
    }
}

/// What a guest's driver does on a CPU: a few requests, and as many looks for the replies.
fn traffic(bench: &Bench, queue: Apqn) {
    let queue = u64::from(queue.0);
    for psmid in 0..3 {
        execute(
            bench,
            Exit::Nqap { r1: 4, r2: 6 },
            &[(0, 0x4000_0000 | queue), (5, psmid), (6, REQUEST), (7, 8)],
        );
        execute(bench, Exit::Pqap, &[(0, queue)]);
        for _ in 0..3 {
            let reply = [(0, 0x8000_0000 | queue), (10, 2 * REQUEST), (11, 64)];
            if execute(bench, Exit::Dqap { r1: 8, r2: 10 }, &reply) == 0 {
                break;
            }
            thread::yield_now();
        }
    }
}

/// PQAP(AQIC) on, then off.
fn interruptions(bench: &Bench, queue: Apqn) {
    for ir in [1 << 47, 0] {
        execute(bench, Exit::Pqap, &[(0, 3 << 24 | u64::from(queue.0)), (1, ir | 3), (2, NIB)]);
        bench.clock.advance(RESET_TIME);
    }
}

/// The host resets, as it does when a queue changes hands.
fn resets(bench: &Bench) {
    for queue in queues() {
        bench.machine.zeroize(queue);
        bench.clock.advance(RESET_TIME);
    }
}

/// Adapters and domains go and come.
fn changes(bench: &Bench) {
    let machine = &bench.machine;
    machine.set_adapter(Apid(6), None);
    machine.set_domains(mask(&[4]), mask(&[4]));
    machine.set_adapter_state(Apid(5), AdapterState::CheckStopped);
    machine.set_adapter(Apid(6), Some(Echo::new(Mode::Cca)));
    machine.set_adapter_state(Apid(5), AdapterState::Configured);
    machine.set_domains(mask(&[4, 0xab]), mask(&[4, 0xab]));
}

/// The guest's masks change under its instructions.
fn masks(bench: &Bench) {
    let all = bench.guest.crycb.crycb().view().matrix();
    bench.guest.set_masks(&Matrix { apm: mask(&[5]), ..all });
    bench.guest.set_hook(false);
    bench.guest.set_masks(&all);
    bench.guest.set_hook(true);
}

#[test]
fn instructions_of_two_cpus_on_one_queue() {
    check(&[|b| traffic(b, apqn(5, 4)), |b| traffic(b, apqn(5, 4)), |b| interruptions(b, apqn(5, 4))]);
}

#[test]
fn instructions_while_the_machine_changes() {
    check(&[|b| traffic(b, apqn(5, 4)), |b| traffic(b, apqn(6, 0xab)), changes, resets]);
}

#[test]
fn instructions_while_the_guest_changes() {
    check(&[|b| traffic(b, apqn(5, 0xab)), |b| interruptions(b, apqn(6, 4)), masks, resets]);
}
