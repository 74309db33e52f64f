//! The same exploration with what the real host was seen doing.

use std::collections::BTreeSet;

use ap::host::{Condition, Driver, LparChange, MaskAttribute, Number};
use ap::lock::{Action, CHECKED, LockEvent, Rank, record};
use crycb::Apqn;

use crate::fixture::{Fixture, ONE, TWO, assign_adapter, unassign_adapter};
use crate::model::{Program, Threads};

type Operation = fn(&Fixture);

/// Operations on a host with two running guests, each with an effect on one of them where there is one.
const OPERATIONS: &[(&str, Operation)] = &[
    ("assign_adapter", |f| f.host.write(ONE, &assign_adapter("3")).unwrap()),
    ("unassign_adapter", |f| f.host.write(ONE, &unassign_adapter("1")).unwrap()),
    ("apmask_store", |f| f.host.write_mask(MaskAttribute::Apmask, "+3").unwrap()),
    ("apmask_store in use", |f| drop(f.host.write_mask(MaskAttribute::Apmask, "+1").unwrap_err())),
    ("handle_pqap", |f| assert!(f.vms[0].pqap_aqic(Apqn(0x0101)))),
    ("unset_kvm", |f| f.host.detach(ONE).unwrap()),
    ("set_kvm", |f| {
        drop(f.host.attach(ONE, f.vms[1].clone()).unwrap_err());
        f.host.detach(TWO).unwrap();
        f.host.attach(TWO, f.vms[1].clone()).unwrap();
    }),
    ("remove_queue, probe_queue", |f| {
        f.host.unbind(Apqn(0x0101)).unwrap();
        f.host.bind(Apqn(0x0101), Driver::VfioAp).unwrap();
    }),
    ("driver_override_store", |f| drop(f.host.write_override(Apqn(0x0301), "vfio_ap"))),
    ("adapter removed and scan", |f| {
        f.host.configure(&[LparChange::RemoveAdapter { adapter: Number(1) }]).unwrap();
        f.host.scan();
    }),
    ("adapter offline", |f| {
        let condition = Condition::Offline;
        f.host.configure(&[LparChange::SetCondition { adapter: Number(1), condition }]).unwrap();
    }),
    ("device reset", |f| f.host.reset_device(ONE).unwrap()),
    ("mdev created and removed", |f| {
        let new = uuid::Uuid::from_u128(3);
        f.host.create_mdev(new).unwrap();
        f.host.remove_mdev(new).unwrap();
    }),
    ("mdev removed from a guest", |f| f.host.remove_mdev(ONE).unwrap()),
    ("snapshot", |f| drop(f.host.snapshot())),
];

/// What the operation did with locks.
fn recorded(name: &'static str) -> Program {
    let (_, operation) = OPERATIONS.iter().find(|(n, _)| *n == name).expect(name);
    let fixture = Fixture::running();
    let ((), steps) = record(|| operation(&fixture));
    fixture.check();
    assert!(steps.iter().any(|step| step.action != Action::Release), "{name} took no ranked lock");
    Program { name, steps }
}

/// The parts of a program between which it holds nothing: what each thread of a deadlock is in.
fn sections(program: &Program) -> BTreeSet<Vec<(u8, Rank, u64)>> {
    let mut sections = BTreeSet::new();
    let (mut section, mut held) = (Vec::new(), 0);
    for step in &program.steps {
        let action = match step.action {
            Action::Lock => 0,
            Action::Read => 1,
            Action::Release => 2,
        };
        held = if step.action == Action::Release { held - 1 } else { held + 1 };
        section.push((action, step.lock.rank, step.lock.key));
        if held == 0 {
            sections.insert(std::mem::take(&mut section));
        }
    }
    assert_eq!(held, 0, "{} ended with locks held", program.name);
    sections
}

fn skip() -> bool {
    if !CHECKED {
        println!("skipped: recording locks needs debug assertions or the feature lock-order");
    }
    !CHECKED
}

/// The document's four actors as the real code runs them, each with its whole operation.
#[test]
fn doc_in_use_recorded_actors_do_not_deadlock() {
    if skip() {
        return;
    }
    let actors = ["assign_adapter", "apmask_store in use", "handle_pqap", "unset_kvm"].map(recorded);
    crate::check(actors.into(), &[]);
}

/// The real assignment with one change, ap_attr taken where the function of the bus needs it, deadlocks as the document says.
#[test]
fn doc_in_use_recorded_assignment_without_the_rule_deadlocks() {
    if skip() {
        return;
    }
    let mut assign = recorded("assign_adapter");
    let first = assign.steps.remove(0);
    assert_eq!((first.action, first.lock.rank), (Action::Lock, Rank::ApAttr), "the rule");
    let mdevs = assign.steps.iter().position(|step| step.lock.rank == Rank::Mdevs).unwrap();
    assign.steps.insert(mdevs + 1, first);
    let others = ["apmask_store in use", "handle_pqap", "unset_kvm"].map(recorded);
    crate::check(
        [vec![assign], others.into()].concat(),
        &[
            "assign_adapter waits for ap_attr, held by apmask_store in use",
            "apmask_store in use waits for guests, held by assign_adapter",
        ],
    );
}

/// Any three threads in any recorded sections of any operations.
#[test]
fn recorded_sections_do_not_deadlock_three_by_three() {
    if skip() {
        return;
    }
    let all: BTreeSet<_> = OPERATIONS.iter().flat_map(|(name, _)| sections(&recorded(name))).collect();
    let event = |(action, rank, key): &(u8, Rank, u64)| LockEvent {
        action: [Action::Lock, Action::Read, Action::Release][usize::from(*action)],
        lock: ap::lock::LockId { rank: *rank, key: *key },
    };
    let all: Vec<Program> = all
        .iter()
        .map(|section| Program { name: "section", steps: section.iter().map(event).collect() })
        .collect();
    let (mut states, mut meetings) = (0, 0);
    for a in 0..all.len() {
        for b in a..all.len() {
            for c in b..all.len() {
                let threads = [a, b, c].map(|i| all[i].clone());
                let explored = Threads(threads.to_vec()).explore();
                assert_eq!(explored.deadlock, None, "{threads:?}");
                states += explored.states;
                meetings += 1;
            }
        }
    }
    println!("{} sections, {meetings} meetings of three, {states} states, no deadlock", all.len());
    assert!(all.len() > 5, "the operations differ");
}
