//! What an operation would do, found by doing it to a copy.

use crycb::{Apqn, Mask256};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::number::{mask, queue_name, queue_names};
use super::{ApHost, Attribute, Driver, HostError, MaskAttribute, Operation, Snapshot};

/// The effect of an operation on a host as it is now, if every queue works.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Why the operation would be refused; then nothing else is in the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// Mediated devices whose `guest_matrix` changes.
    pub guests: Vec<GuestChange>,
    /// Queues that change their driver.
    pub bindings: Vec<BindingChange>,
    /// Queues that are reset: what is on them is lost.
    #[serde(with = "queue_names")]
    pub resets: Vec<Apqn>,
}

/// Why an operation would be refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The name of the error number.
    pub errno: String,
    /// What is in the way.
    pub message: String,
    /// Operations each list of which removes the obstacle.
    pub remedies: Vec<Vec<Operation>>,
}

/// What changes in the matrix of a mediated device's guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestChange {
    /// The device.
    pub mdev: Uuid,
    /// A VM has it open and sees the change.
    pub attached: bool,
    /// Queues that come.
    #[serde(with = "queue_names")]
    pub plugged: Vec<Apqn>,
    /// Queues that go.
    #[serde(with = "queue_names")]
    pub unplugged: Vec<Apqn>,
    /// Control domains that come.
    #[serde(with = "mask")]
    pub control_domains_plugged: Mask256,
    /// Control domains that go.
    #[serde(with = "mask")]
    pub control_domains_unplugged: Mask256,
}

/// A queue that changes its driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingChange {
    /// The queue.
    #[serde(with = "queue_name")]
    pub queue: Apqn,
    /// Its driver before; none also if there was no such queue.
    pub from: Option<Driver>,
    /// Its driver after; none also if there is no such queue any more.
    pub to: Option<Driver>,
}

impl Snapshot {
    /// What `operation` would do to a host in this state. Nothing is changed.
    pub fn plan(&self, operation: &Operation) -> Plan {
        let host = ApHost::rehearsal(self);
        if let Operation::RemoveMdev { mdev } = operation {
            // Its VM would be asked to give it back, and here it does.
            let _ = host.detach(*mdev);
        }
        if let Err(error) = host.execute(operation) {
            let refusal = Refusal {
                errno: error.errno().to_owned(),
                message: error.to_string(),
                remedies: error.remedies(),
            };
            return Plan { refusal: Some(refusal), ..Plan::default() };
        }
        let after = host.snapshot();
        Plan {
            refusal: None,
            guests: self.guest_changes(&after),
            bindings: self.binding_changes(&after),
            resets: host.rehearsed_resets(),
        }
    }

    /// The state after `operation`; this one where it would be refused.
    #[must_use]
    pub fn after(&self, operation: &Operation) -> Self {
        let host = ApHost::rehearsal(self);
        if let Operation::RemoveMdev { mdev } = operation {
            let _ = host.detach(*mdev);
        }
        match host.execute(operation) {
            Ok(()) => host.snapshot(),
            Err(_) => self.clone(),
        }
    }

    fn guest_changes(&self, after: &Self) -> Vec<GuestChange> {
        let uuids = self.mdevs.iter().chain(after.mdevs.iter().filter(|m| self.mdev(m.uuid).is_none()));
        let change = |uuid: Uuid| {
            let matrix = |of: &Self| of.mdev(uuid).map(|m| m.guest_matrix).unwrap_or_default();
            let (was, is) = (matrix(self), matrix(after));
            (was != is).then(|| GuestChange {
                mdev: uuid,
                attached: self.mdev(uuid).is_some_and(|m| m.attached),
                plugged: is.apqns().filter(|q| !was.test(*q)).collect(),
                unplugged: was.apqns().filter(|q| !is.test(*q)).collect(),
                control_domains_plugged: is.adm.minus(was.adm),
                control_domains_unplugged: was.adm.minus(is.adm),
            })
        };
        uuids.filter_map(|mdev| change(mdev.uuid)).collect()
    }

    fn binding_changes(&self, after: &Self) -> Vec<BindingChange> {
        let mut queues: Vec<Apqn> = self.queues.iter().chain(&after.queues).map(|q| q.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        let driver = |of: &Self, queue| of.queue(queue).and_then(|q| q.driver);
        queues
            .into_iter()
            .map(|queue| BindingChange { queue, from: driver(self, queue), to: driver(after, queue) })
            .filter(|change| change.from != change.to)
            .collect()
    }
}

impl HostError {
    /// Operations that remove what the operation was refused for: each list is one way, to be carried out in order. Empty where
    /// only the one who asked can know.
    pub fn remedies(&self) -> Vec<Vec<Operation>> {
        let minus = |mask: &Mask256| mask.iter().map(|n| format!("-{n:#x}")).collect::<Vec<_>>().join(",");
        let unassign = |mdev: Uuid, mask: &Mask256, attribute: fn(String) -> Attribute| {
            let write = |n| Operation::Write { mdev, attribute: attribute(format!("{n:#x}")) };
            mask.iter().map(write).collect::<Vec<_>>()
        };
        match self {
            Self::HostOwned { queues, overridden: None, .. } => vec![
                vec![Operation::WriteMask { mask: MaskAttribute::Apmask, value: minus(&queues.apm) }],
                vec![Operation::WriteMask { mask: MaskAttribute::Aqmask, value: minus(&queues.aqm) }],
            ],
            Self::HostOwned { queues, overridden: Some(_), .. } => {
                let queue = queues.apqns().next();
                let write = |queue| Operation::DriverOverride { queue, driver: "vfio_ap".into() };
                queue.map(|queue| vec![write(queue)]).into_iter().collect()
            }
            Self::Shared { other: mdev, queues, .. } | Self::MaskInUse { mdev, queues, .. } => vec![
                unassign(*mdev, &queues.apm, Attribute::UnassignAdapter),
                unassign(*mdev, &queues.aqm, Attribute::UnassignDomain),
            ],
            Self::OverridesSet { apqn, .. } => {
                vec![vec![Operation::DriverOverride { queue: *apqn, driver: String::new() }]]
            }
            Self::MasksInUse(_) => vec![
                [MaskAttribute::Apmask, MaskAttribute::Aqmask]
                    .map(|mask| Operation::WriteMask { mask, value: "+0-255".into() })
                    .to_vec(),
            ],
            Self::Bound { apqn, .. } => vec![vec![Operation::Unbind { queue: *apqn }]],
            Self::WrongDriver { apqn, driver, .. } if *driver == Driver::VfioAp.name() => {
                let write = |mask, n: u8| vec![Operation::WriteMask { mask, value: format!("-{n:#x}") }];
                vec![write(MaskAttribute::Apmask, apqn.apid().0), write(MaskAttribute::Aqmask, apqn.apqi().0)]
            }
            Self::MdevExists(mdev) => vec![vec![Operation::RemoveMdev { mdev: *mdev }]],
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Condition, LparChange, Number};

    const ONE: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
    const TWO: &str = "cef03c3c-903d-4ecc-9a83-40694cb8aee4";

    fn write(mdev: &str, attribute: Attribute) -> Operation {
        Operation::Write { mdev: mdev.parse().unwrap(), attribute }
    }

    /// On the built-in host: what the operation changes in the guests' matrices, what it resets, or its errno.
    fn check(operation: &Operation, want: Result<(&[&str], &[u16]), &str>) {
        let host = ApHost::builtin();
        let before = host.snapshot();
        let plan = before.plan(operation);
        assert_eq!(host.snapshot(), before, "a plan changes nothing");
        let got = match &plan.refusal {
            Some(refusal) => Err(refusal.errno.as_str()),
            None => {
                let queues =
                    |sign, list: &[Apqn]| list.iter().map(|q| format!("{sign}{q}")).collect::<Vec<_>>();
                let changes = plan
                    .guests
                    .iter()
                    .flat_map(|g| [queues('+', &g.plugged), queues('-', &g.unplugged)].concat());
                Ok((changes.collect::<Vec<_>>(), plan.resets.iter().map(|q| q.0).collect::<Vec<_>>()))
            }
        };
        let want = want.map(|(guests, resets)| {
            (guests.iter().map(|g| g.to_string()).collect::<Vec<_>>(), resets.to_vec())
        });
        assert_eq!(got, want, "{operation:?}");
        // What was planned is what happens.
        let done = host.execute(operation);
        assert_eq!(done.is_err(), plan.refusal.is_some());
        let after = host.snapshot();
        assert_eq!(before.guest_changes(&after), plan.guests);
        assert_eq!(before.binding_changes(&after), plan.bindings);
    }

    #[test]
    fn plans() {
        check(
            &write(ONE, Attribute::UnassignAdapter("6".into())),
            Ok((&["-06.0004", "-06.00ab"], &[0x0604, 0x06ab])),
        );
        check(&write(ONE, Attribute::AssignAdapter("0xa".into())), Ok((&["+0a.0004", "+0a.00ab"], &[])));
        check(&write(ONE, Attribute::AssignDomain("0x47".into())), Err("EADDRINUSE"));
        check(&write(ONE, Attribute::AssignDomain("4".into())), Ok((&[], &[])));
        check(&Operation::Unbind { queue: Apqn(0x0547) }, Ok((&["-05.0047", "-05.00ff"], &[0x0547, 0x05ff])));
        check(&Operation::WriteMask { mask: MaskAttribute::Aqmask, value: "+4".into() }, Ok((&[], &[])));
        check(
            &Operation::Configure {
                changes: vec![LparChange::SetCondition { adapter: Number(5), condition: Condition::Offline }],
            },
            Ok((&[], &[])),
        );
        check(
            &Operation::Configure { changes: vec![LparChange::RemoveAdapter { adapter: Number(5) }] },
            Ok((&["-05.0004", "-05.00ab", "-05.0047", "-05.00ff"], &[])),
        );
        check(
            &Operation::RemoveMdev { mdev: TWO.parse().unwrap() },
            Ok((&["-05.0047", "-05.00ff"], &[0x0547, 0x05ff])),
        );
    }

    /// Each remedy of a refusal, carried out, makes the operation go through.
    #[test]
    fn remedies_help() {
        let all = Operation::WriteMask { mask: MaskAttribute::Aqmask, value: "+0-255".into() };
        let refused = [
            write(ONE, Attribute::AssignDomain("0x47".into())),
            Operation::WriteMask { mask: MaskAttribute::Apmask, value: "+5-6".into() },
            Operation::Bind { queue: Apqn(0x0504), driver: Driver::VfioAp },
            Operation::DriverOverride { queue: Apqn(0x0a04), driver: "vfio_ap".into() },
        ];
        for operation in refused {
            let host = || {
                let host = ApHost::builtin();
                host.execute(&all).unwrap();
                host
            };
            let state = host().snapshot();
            let refusal =
                state.plan(&operation).refusal.unwrap_or_else(|| panic!("{operation:?} is not refused"));
            assert!(!refusal.remedies.is_empty(), "{operation:?}");
            for remedy in refusal.remedies {
                let host = host();
                for step in &remedy {
                    overcome(&host, step, 8);
                }
                overcome(&host, &operation, 8);
            }
        }
    }

    /// Carries out an operation, and before it whatever removes what is in its way: a mask may take from two devices, and a
    /// remedy may need one itself.
    fn overcome(host: &ApHost, operation: &Operation, depth: u32) {
        assert!(depth > 0, "{operation:?} is still refused");
        if let Err(error) = host.execute(operation) {
            let remedies = error.remedies();
            assert!(!remedies.is_empty(), "{operation:?}: {error}");
            for step in &remedies[0] {
                overcome(host, step, depth - 1);
            }
            overcome(host, operation, depth - 1);
        }
    }
}
