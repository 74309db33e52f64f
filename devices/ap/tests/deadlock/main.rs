//! The order of the AP host's locks, model-checked: what the threads of an AP host do with locks, in every interleaving.
//!
//! The programs written here are those of Linux's vfio_ap and AP bus, after the message of its commit "s390/vfio-ap:
//! implement in-use callback for vfio_ap driver".

#![forbid(unsafe_code)]

mod fixture;
mod model;
mod recorded;
#[cfg(feature = "shuttle")]
mod schedules;

use ap::lock::{Action, LockEvent, LockId, Rank};
use model::{Program, Threads};

use Rank::{ApAttr, Guests, Mdevs, PqapHook, Vm};

const fn one(rank: Rank) -> LockId {
    LockId { rank, key: 0 }
}

/// A machine's lock.
const fn vm(key: u64) -> LockId {
    LockId { rank: Vm, key }
}

/// A program that takes these locks one inside the other and releases them inside out.
fn nested(name: &'static str, locks: &[LockId]) -> Program {
    let locks: Vec<_> = locks.iter().map(|lock| (Action::Lock, *lock)).collect();
    nested_as(name, &locks)
}

fn nested_as(name: &'static str, locks: &[(Action, LockId)]) -> Program {
    let take = locks.iter().map(|(action, lock)| LockEvent { action: *action, lock: *lock });
    let release = locks.iter().rev().map(|(_, lock)| LockEvent { action: Action::Release, lock: *lock });
    Program { name, steps: take.chain(release).collect() }
}

/// All that goes on beside an assignment: a write to apmask whose in-use check asks vfio_ap, a guest's PQAP(AQIC), a guest
/// that comes or goes, and a queue that is probed.
fn others() -> Vec<Program> {
    vec![
        nested("apmask_store", &[one(ApAttr), one(Guests), one(Mdevs)]),
        nested_as("handle_pqap", &[(Action::Read, one(PqapHook)), (Action::Lock, one(Mdevs))]),
        nested("set_kvm", &[one(Guests), vm(1), one(PqapHook), one(Mdevs)]),
        nested("probe_queue", &[one(Guests), vm(1), one(Mdevs)]),
    ]
}

/// An assignment that takes ap_perms first, for the function of the bus that it calls later.
fn assign_with_the_rule() -> Program {
    nested("assign_adapter", &[one(ApAttr), one(Guests), vm(1), one(Mdevs)])
}

/// An assignment that leaves ap_perms to the function of the bus that it calls.
fn assign_without_the_rule() -> Program {
    nested("assign_adapter", &[one(Guests), vm(1), one(Mdevs), one(ApAttr)])
}

/// Explores `assign` beside the others. Compares the circular wait.
#[track_caller]
fn check(programs: Vec<Program>, circle: &[&str]) {
    let names: Vec<_> = programs.iter().map(|program| program.name).collect();
    let explored = Threads(programs).explore();
    let waits: Vec<_> = explored.deadlock.iter().flatten().map(ToString::to_string).collect();
    println!("{}: {} states, deadlock: {waits:?}", names.join(" | "), explored.states);
    assert_eq!(waits, circle);
    assert_eq!(explored.deadlock.is_some(), !circle.is_empty());
}

fn with_others(assign: Program) -> Vec<Program> {
    [vec![assign], others()].concat()
}

/// The document's steps 1 to 3: the assignment holds guests_lock; the mask write holds ap_perms and waits for guests_lock;
/// the assignment waits for ap_perms.
#[test]
fn doc_in_use_deadlock_without_the_rule() {
    check(
        with_others(assign_without_the_rule()),
        &[
            "assign_adapter waits for ap_attr, held by apmask_store",
            "apmask_store waits for guests, held by assign_adapter",
        ],
    );
}

#[test]
fn doc_in_use_no_deadlock_with_the_rule() {
    check(with_others(assign_with_the_rule()), &[]);
}

/// The ranked locks refuse what the model finds deadlocking, and nothing else here.
#[test]
fn ranks_agree_with_the_model() {
    let in_order = |program: &Program| {
        let mut held: Vec<LockId> = Vec::new();
        program.steps.iter().all(|step| match step.action {
            Action::Release => {
                held.retain(|lock| *lock != step.lock);
                true
            }
            _ => {
                let nests = held.iter().all(|outer| step.lock.nests_in(*outer));
                held.push(step.lock);
                nests
            }
        })
    };
    assert!(with_others(assign_with_the_rule()).iter().all(in_order));
    assert!(!in_order(&assign_without_the_rule()));
}

/// The model itself: it finds the deadlocks it should, and no others.
#[test]
fn small_programs() {
    let guests = [one(Guests), one(Mdevs)];
    let swapped = [one(Mdevs), one(Guests)];
    check(vec![nested("a", &guests), nested("b", &guests)], &[]);
    check(
        vec![nested("a", &guests), nested("b", &swapped)],
        &["a waits for mdevs, held by b", "b waits for guests, held by a"],
    );
    check(vec![nested("a", &[one(Mdevs), one(Mdevs)])], &["a waits for mdevs, held by a"]);
    // Machines in ascending order, and not.
    check(vec![nested("a", &[vm(1), vm(2)]), nested("b", &[vm(1), vm(2)])], &[]);
    check(
        vec![nested("a", &[vm(1), vm(2)]), nested("b", &[vm(2), vm(3)]), nested("c", &[vm(3), vm(1)])],
        &["a waits for vm 0x2, held by b", "b waits for vm 0x3, held by c", "c waits for vm 0x1, held by a"],
    );
    // Readers share, unless a writer stands between two reads of one thread.
    let read = |lock| (Action::Read, lock);
    let twice = nested_as("a", &[read(one(PqapHook)), read(one(PqapHook))]);
    check(vec![twice.clone(), nested_as("b", &[read(one(PqapHook))])], &[]);
    check(
        vec![twice, nested("b", &[one(PqapHook)])],
        &["a waits for pqap_hook, held by b", "b waits for pqap_hook, held by a"],
    );
}
