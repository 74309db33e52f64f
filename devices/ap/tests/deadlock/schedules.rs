//! The real host under shuttle: operations on several threads, in random schedules that a seed repeats. A deadlock, a lock
//! out of order and an APQN in two guests each end the test with the schedule that leads there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ap::host::{Condition, Driver, LparChange, MaskAttribute, Number};
use crycb::Apqn;
use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, MaxSteps, Runner, thread};

use crate::fixture::{Fixture, ONE, TWO, assign_adapter, unassign_adapter};

/// Schedules of each test.
const SCHEDULES: usize = 500;
const SEED: u64 = 0x5eed;

type Thread = fn(&Fixture);

/// Runs the threads on a host with two running guests.
fn check(threads: &'static [Thread]) {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(200_000);
    config.stack_size = 1 << 20;
    let switches = Arc::new(AtomicUsize::new(0));
    let counted = switches.clone();
    let schedules = Runner::new(RandomScheduler::new_from_seed(SEED, SCHEDULES), config).run(move || {
        let fixture = Arc::new(Fixture::running());
        let start = |operation: &Thread| {
            let (fixture, operation) = (fixture.clone(), *operation);
            thread::spawn(move || operation(&fixture))
        };
        let handles: Vec<_> = threads.iter().map(start).collect();
        for handle in handles {
            handle.join().unwrap();
        }
        fixture.check();
        counted.fetch_add(shuttle::current::context_switches(), Relaxed);
    });
    assert_eq!(schedules, SCHEDULES);
    let switches = switches.load(Relaxed) / SCHEDULES;
    println!(
        "{SCHEDULES} random schedules of {} threads, {switches} choices in each, no deadlock",
        threads.len()
    );
    assert!(switches > 10, "shuttle decides at each lock");
}

/// What another thread may refuse at this moment is refused; the state is what counts.
fn either<T, E>(_: Result<T, E>) {}

/// Ends with what the last write to apmask excludes.
fn assign(f: &Fixture) {
    either(f.host.write(ONE, &assign_adapter("3")));
    either(f.host.write(ONE, &unassign_adapter("3")));
    either(f.host.write(ONE, &assign_adapter("2")));
    either(f.host.write(ONE, &assign_adapter("3")));
}

fn masks(f: &Fixture) {
    either(f.host.write_mask(MaskAttribute::Apmask, "+1"));
    either(f.host.write_mask(MaskAttribute::Apmask, "+3"));
    f.host.write_mask(MaskAttribute::Apmask, "-3").unwrap();
    either(f.host.write_mask(MaskAttribute::Apmask, "+3"));
}

fn come_and_go(f: &Fixture) {
    either(f.host.detach(TWO));
    either(f.host.attach(TWO, f.vms[1].clone()));
    either(f.host.detach(TWO));
}

fn configuration(f: &Fixture) {
    either(f.host.configure(&[LparChange::RemoveAdapter { adapter: Number(1) }]));
    either(
        f.host.configure(&[LparChange::SetCondition { adapter: Number(2), condition: Condition::Offline }]),
    );
    f.host.scan();
}

fn aqic(f: &Fixture) {
    for vm in &f.vms {
        let _ = vm.pqap_aqic(Apqn(0x0101));
        let _ = vm.pqap_aqic(Apqn(0x0202));
    }
}

fn bindings(f: &Fixture) {
    either(f.host.unbind(Apqn(0x0101)));
    either(f.host.bind(Apqn(0x0101), Driver::VfioAp));
    either(f.host.reset_device(ONE));
}

fn removal(f: &Fixture) {
    either(f.host.remove_mdev(TWO));
}

/// Either the assignment or the mask write comes first and the other is refused.
#[test]
fn assignment_against_a_mask_write() {
    check(&[
        |f| either(f.host.write(ONE, &assign_adapter("3"))),
        |f| either(f.host.write_mask(MaskAttribute::Apmask, "+3")),
    ]);
}

#[test]
fn assignment_masks_guests_and_configuration() {
    check(&[assign, masks, come_and_go, configuration]);
}

#[test]
fn assignment_masks_instructions_and_bindings() {
    check(&[assign, masks, aqic, bindings]);
}

#[test]
fn removal_while_guests_come_and_go() {
    check(&[removal, come_and_go, aqic, masks]);
}

/// Shuttle does see through the locks: two of one rank taken crosswise are found deadlocking.
#[test]
fn a_deadlock_is_found() {
    let crosswise = || {
        let locks = Arc::new((ap::sync::Mutex::new(()), ap::sync::Mutex::new(())));
        let other = locks.clone();
        let thread = ap::sync::thread::spawn("crosswise", move || {
            let _second = other.1.lock();
            let _first = other.0.lock();
        });
        {
            let _first = locks.0.lock();
            let _second = locks.1.lock();
        }
        thread.unwrap().join().unwrap();
    };
    let found = std::panic::catch_unwind(|| shuttle::check_random(crosswise, SCHEDULES));
    let panic = found.expect_err("a schedule deadlocks");
    let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(text.contains("deadlock"), "{text}");
}
