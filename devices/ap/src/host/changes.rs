//! What happened between two looks at a host.

use super::EventKind;
use super::snapshot::{MdevState, Snapshot};
use crycb::{Apqn, Matrix};

impl Snapshot {
    /// What happened from this state to `after`, as far as the two tell: what was done and undone between them does not show,
    /// and neither does a reset.
    pub fn changes(&self, after: &Self) -> Vec<EventKind> {
        let mut all = Vec::new();
        if self.configuration != after.configuration {
            all.push(EventKind::configuration(&self.configuration, &after.configuration));
        }
        for adapter in &after.adapters {
            let before = self.adapters.iter().find(|before| before.apid() == adapter.apid());
            if before.is_some_and(|before| before.condition != adapter.condition) {
                let (adapter, condition) = (adapter.apid().to_string(), adapter.condition);
                all.push(EventKind::Adapter { adapter, condition });
            }
        }
        if (self.apmask, self.aqmask) != (after.apmask, after.aqmask) {
            let (apmask, aqmask) = (after.apmask.to_string(), after.aqmask.to_string());
            all.push(EventKind::Masks { apmask, aqmask });
        }
        let driver = |of: &Self, queue: Apqn| of.queue(queue).and_then(|q| q.driver);
        for state in &self.queues {
            if let Some(driver) = state.driver.filter(|was| driver(after, state.queue) != Some(*was)) {
                all.push(EventKind::Unbound { queue: state.queue.to_string(), driver });
            }
        }
        for mdev in self.mdevs.iter().filter(|mdev| after.mdev(mdev.uuid).is_none()) {
            if mdev.attached {
                all.push(EventKind::Detached { mdev: mdev.uuid });
            }
            all.push(EventKind::MdevRemoved { mdev: mdev.uuid });
        }
        let mut changed = Vec::new();
        for mdev in &after.mdevs {
            let new = || MdevState {
                uuid: mdev.uuid,
                matrix: Matrix::EMPTY,
                guest_matrix: Matrix::EMPTY,
                attached: false,
            };
            let before = self.mdev(mdev.uuid).cloned().unwrap_or_else(|| {
                all.push(EventKind::MdevCreated { mdev: mdev.uuid });
                new()
            });
            if before.attached && !mdev.attached {
                all.push(EventKind::Detached { mdev: mdev.uuid });
            }
            all.extend(assignments(&before, mdev));
            changed.push((before, mdev));
        }
        for state in &after.queues {
            if let Some(driver) = state.driver.filter(|is| driver(self, state.queue) != Some(*is)) {
                all.push(EventKind::Bound { queue: state.queue.to_string(), driver });
            }
        }
        for (before, mdev) in changed {
            all.extend(EventKind::guest_matrix(mdev.uuid, &before.guest_matrix, &mdev.guest_matrix));
            if mdev.attached && !before.attached {
                all.push(EventKind::Attached { mdev: mdev.uuid });
            }
        }
        all
    }
}

/// The writes that make the one matrix the other.
fn assignments(before: &MdevState, after: &MdevState) -> Vec<EventKind> {
    let mut all = Vec::new();
    for (verb, gone, come) in
        [("unassign", &after.matrix, &before.matrix), ("assign", &before.matrix, &after.matrix)]
    {
        let come = come.minus(gone);
        for (kind, mask) in [("adapter", come.apm), ("domain", come.aqm), ("control_domain", come.adm)] {
            for n in mask.iter() {
                let (attribute, value) = (format!("{verb}_{kind}"), format!("{n:#x}"));
                all.push(EventKind::Assigned { mdev: after.uuid, attribute, value });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{ApHost, Attribute, Condition, Driver, LparChange, MaskAttribute, Number, Operation};
    use uuid::Uuid;

    const ONE: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";

    /// What the host tells while it carries something out is what two looks tell, but for the order.
    #[test]
    fn two_looks_tell_what_the_host_tells() {
        let host = ApHost::builtin();
        let events = host.subscribe();
        let mdev: Uuid = ONE.parse().unwrap();
        let write = |name, text| Operation::Write { mdev, attribute: Attribute::named(name, text).unwrap() };
        let change = |change| Operation::Configure { changes: vec![change] };
        let queue = Apqn(0x0504);
        for operation in [
            write("unassign_adapter", "0x6"),
            write("assign_adapter", "0x6"),
            write("unassign_control_domain", "0x4"),
            write("assign_domain", "0x5"),
            Operation::Unbind { queue },
            Operation::Bind { queue, driver: Driver::VfioAp },
            change(LparChange::SetCondition { adapter: Number(5), condition: Condition::Checkstop }),
            change(LparChange::RemoveDomain { domain: Number(4) }),
            change(LparChange::AddDomain { domain: Number(4) }),
            change(LparChange::AddControlDomain { domain: Number(9) }),
            Operation::CreateMdev { mdev: Uuid::nil() },
            Operation::RemoveMdev { mdev: Uuid::nil() },
            Operation::WriteMask { mask: MaskAttribute::Apmask, value: "-1".into() },
        ] {
            let before = host.snapshot();
            host.execute(&operation).unwrap();
            let names = |kinds: Vec<EventKind>| {
                let mut names: Vec<String> = kinds.iter().map(|kind| format!("{kind:?}")).collect();
                names.sort();
                names
            };
            let told = names(events.try_iter().map(|event| event.kind).collect());
            assert!(!told.is_empty(), "{operation:?}");
            assert_eq!(names(before.changes(&host.snapshot())), told, "{operation:?}");
        }
        let state = host.snapshot();
        assert_eq!(state.changes(&state), []);
    }
}
