//! What an operation would do, found by doing it to a copy.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crycb::{Apqn, Mask256};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::number::{mask, queue_name, queue_names};
use super::{ApHost, Attribute, Driver, HostError, MaskAttribute, Operation, Rehearsal, Snapshot};

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
    /// Queues whose requests and replies are lost, by a reset or otherwise, ascending.
    #[serde(default)]
    pub losses: Vec<Loss>,
    /// Mediated devices whose VM is told that its configuration changed, or is asked for the device.
    #[serde(default)]
    pub told: Vec<Uuid>,
}

/// A queue that loses what is on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The queue.
    #[serde(with = "queue_name")]
    pub queue: Apqn,
    /// By what.
    pub cause: LossCause,
    /// Requests and replies on it now, where the host counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<u64>,
}

/// Why a queue loses its requests and replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossCause {
    /// It is reset.
    Reset,
    /// Its adapter is deconfigured.
    Offline,
    /// Its adapter check-stops.
    Checkstop,
    /// Its adapter or its domain leaves the machine.
    Removed,
    /// Another card takes the place of its adapter.
    Replaced,
}

/// Why an operation would be refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The name of the error number.
    pub errno: String,
    /// What is in the way first.
    pub message: String,
    /// Everything that is in the way, that first.
    pub conflicts: Vec<Conflict>,
}

/// Something that is in the way of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// What it is.
    pub message: String,
    /// Operations each list of which removes it.
    pub remedies: Vec<Vec<Operation>>,
}

impl Refusal {
    /// The remedies of all conflicts, in their order. The operation needs one of each conflict.
    pub fn remedies(&self) -> impl Iterator<Item = &Vec<Operation>> {
        self.conflicts.iter().flat_map(|conflict| &conflict.remedies)
    }
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
        let mut told = Vec::new();
        if let Operation::RemoveMdev { mdev } = operation
            && host.detach(*mdev).is_ok()
        {
            // Its VM would be asked to give it back, and here it does.
            told.push(*mdev);
        }
        if let Err(error) = host.execute(operation) {
            let refusal = Refusal {
                errno: error.errno().to_owned(),
                message: error.to_string(),
                conflicts: conflicts(error, self, operation),
            };
            return Plan { refusal: Some(refusal), ..Plan::default() };
        }
        let after = host.snapshot();
        let Some(Rehearsal { machine, guests }) = &host.rehearsal else { unreachable!("it is a rehearsal") };
        let resets = machine.resets();
        let mut causes: BTreeMap<Apqn, LossCause> =
            resets.iter().map(|apqn| (*apqn, LossCause::Reset)).collect();
        // What is gone before it is reset is lost by that.
        causes.extend(machine.discards());
        let loss = |(queue, cause)| {
            let state = self.queue(queue)?;
            Some(Loss { queue, cause, pending: state.pending })
        };
        told.extend(guests.iter().filter(|(_, vm)| vm.told.load(Ordering::Relaxed)).map(|(mdev, _)| *mdev));
        Plan {
            refusal: None,
            guests: self.guest_changes(&after),
            bindings: self.binding_changes(&after),
            losses: causes.into_iter().filter_map(loss).collect(),
            resets,
            told,
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

/// What stands in the way of an operation that was refused with `first`; that first.
fn conflicts(first: HostError, state: &Snapshot, operation: &Operation) -> Vec<Conflict> {
    let mut all = ApHost::rehearsal(state).obstacles(operation);
    // A definition that is refused at one of its writes can want more of the same owner with those behind it.
    match all.iter().position(|other| first.is_in_the_way_like(other)) {
        Some(at) => all[..=at].rotate_right(1),
        None => all.insert(0, first),
    }
    let conflict = |error: HostError| Conflict { message: error.to_string(), remedies: error.remedies() };
    all.into_iter().map(conflict).collect()
}

impl HostError {
    /// Whether the same owner is in the way, or the same thing.
    fn is_in_the_way_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Shared { other: one, .. }, Self::Shared { other, .. }) => one == other,
            (Self::HostOwned { overridden: None, .. }, Self::HostOwned { overridden: None, .. }) => true,
            _ => self.to_string() == other.to_string(),
        }
    }

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
            assert!(refusal.remedies().next().is_some(), "{operation:?}");
            for remedy in refusal.remedies() {
                let host = host();
                for step in remedy {
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

    /// One remedy of each conflict, and the operation goes through: each is named, not only the first.
    #[test]
    fn every_conflict_is_named() {
        #[track_caller]
        fn check(state: &Snapshot, operation: &Operation, errno: &str, parts: &[&str]) {
            let refusal = state.plan(operation).refusal.expect("a refusal");
            let host = ApHost::rehearsal(state);
            let error = host.execute(operation).unwrap_err();
            assert_eq!((refusal.errno.as_str(), &refusal.message), (errno, &error.to_string()));
            let messages: Vec<&str> = refusal.conflicts.iter().map(|c| c.message.as_str()).collect();
            assert_eq!(messages.len(), parts.len(), "{messages:#?}");
            for (message, part) in messages.iter().zip(parts) {
                assert!(message.contains(part), "{message}: {part}");
            }
            for which in [0, 1] {
                let host = ApHost::rehearsal(state);
                for conflict in &refusal.conflicts {
                    for step in &conflict.remedies[which % conflict.remedies.len()] {
                        host.execute(step).unwrap();
                    }
                }
                host.execute(operation).unwrap();
            }
        }
        let three = "e4a64c22-1b73-4b78-b28a-437fa1b1c834";
        let shared = |queue: &str, mdev: &str| format!("queue {queue} is assigned to mdev {mdev}");
        let builtin = ApHost::builtin().snapshot();
        let both = [shared("05.0047", TWO), shared("06.0047", three)];
        let both = [both[0].as_str(), both[1].as_str()];
        check(&builtin, &write(ONE, Attribute::AssignDomain("0x47".into())), "EADDRINUSE", &both);
        // The host's own come first, as the kernel looks at them first.
        let mask = |bits: &[u8]| bits.iter().copied().collect::<Mask256>();
        let all = format!("{},{},{}", mask(&[5, 6, 7]), mask(&[5, 0x47]), Mask256::EMPTY);
        let wanted = write(ONE, Attribute::ApConfig(all));
        check(&builtin, &wanted, "EADDRNOTAVAIL", &["queue 07.0005 is owned", both[0], both[1]]);
        // What a definition wants with all of its writes, of whom.
        let definition = serde_json::from_str(
            r#"{"mdev_type": "vfio_ap-passthrough", "attrs": [{"assign_adapter": "5"}, {"assign_domain": "0x47"},
               {"assign_domain": "0xff"}, {"assign_adapter": "6"}, {"assign_domain": "0x154"}]}"#,
        );
        let definition = Operation::Import { mdev: Uuid::nil(), definition: definition.unwrap() };
        let refusal = builtin.plan(&definition).refusal.unwrap();
        assert_eq!(refusal.errno, "EADDRINUSE");
        let messages: Vec<_> = refusal.conflicts.iter().map(|c| c.message.as_str()).collect();
        assert!(messages[0].contains("05.0047, 05.00ff") && messages[1].contains("06.0047"), "{messages:?}");
        assert!(messages[2].contains("0x154") && messages.len() == 3, "{messages:?}");
        // Masks: each device that has what they would take, each override that excludes them.
        let free =
            builtin.after(&Operation::WriteMask { mask: MaskAttribute::Aqmask, value: "+0-255".into() });
        let mask = Operation::WriteMask { mask: MaskAttribute::Apmask, value: "+5-6".into() };
        check(&free, &mask, "EBUSY", &[ONE, TWO, three]);
        let mut overridden = ApHost::rehearsal_of(
            &super::super::Description::from_json(
                r#"{"adapters": [{"adapter": 5, "type": "CEX8A"}], "usage_domains": [4, 5]}"#,
            )
            .unwrap(),
        )
        .snapshot();
        for queue in &mut overridden.queues {
            queue.driver_override = Some("vfio_ap".into());
        }
        check(&overridden, &mask, "EINVAL", &["queue 05.0004", "queue 05.0005"]);
    }

    /// What a change discards is in its plan, with how much it is where that is known, and who is told.
    #[test]
    fn losses_are_planned() {
        let mut state = ApHost::builtin().snapshot();
        state.mdevs[0].attached = true;
        for queue in &mut state.queues {
            queue.pending = (queue.queue.apid().0 != 6).then_some(u64::from(queue.queue == Apqn(0x0504)));
        }
        let state = &state;
        #[track_caller]
        fn check(
            state: &Snapshot,
            operation: &Operation,
            cause: LossCause,
            losses: &[(u16, u64)],
            told: bool,
        ) {
            let plan = state.plan(operation);
            let want = losses.iter().map(|&(queue, pending)| Loss {
                queue: Apqn(queue),
                cause,
                pending: Some(pending),
            });
            assert_eq!(plan.losses, want.collect::<Vec<_>>(), "{operation:?}");
            let one: Uuid = ONE.parse().unwrap();
            assert_eq!(plan.told, if told { vec![one] } else { vec![] }, "{operation:?}");
        }
        let change = |change| Operation::Configure { changes: vec![change] };
        let set =
            |adapter, condition| change(LparChange::SetCondition { adapter: Number(adapter), condition });
        let five = [(0x0504, 1), (0x0547, 0), (0x05ab, 0), (0x05ff, 0)];
        check(state, &set(5, Condition::Offline), LossCause::Offline, &five, true);
        check(state, &set(5, Condition::Checkstop), LossCause::Checkstop, &five, true);
        let remove = change(LparChange::RemoveAdapter { adapter: Number(5) });
        check(state, &remove, LossCause::Removed, &five, true);
        let mut adapter = super::super::Description::builtin().adapters()[0].clone();
        adapter.generation = super::super::Generation::Cex6;
        check(state, &change(LparChange::ChangeType { adapter }), LossCause::Replaced, &five, true);
        check(state, &set(5, Condition::Online), LossCause::Offline, &[], false);
        let ten = [(0x0a04, 0), (0x0a47, 0), (0x0aab, 0), (0x0aff, 0)];
        check(state, &set(0xa, Condition::Offline), LossCause::Offline, &ten, false);
        // Where it is not known how much, that is not said.
        let plan = state.plan(&change(LparChange::RemoveDomain { domain: Number(4) }));
        let loss = |queue, pending| Loss { queue: Apqn(queue), cause: LossCause::Removed, pending };
        assert_eq!(plan.losses, [loss(0x0504, Some(1)), loss(0x0604, None), loss(0x0a04, Some(0))]);
        assert_eq!(plan.resets, []);
        // A queue that was emptied has nothing to lose.
        let offline = state.after(&set(5, Condition::Offline));
        assert_eq!(offline.plan(&remove).losses, []);
        let unbind = state.plan(&Operation::Unbind { queue: Apqn(0x0504) });
        assert_eq!(unbind.losses[0], Loss { queue: Apqn(0x0504), cause: LossCause::Reset, pending: Some(1) });
        assert_eq!(state.plan(&Operation::RemoveMdev { mdev: ONE.parse().unwrap() }).told.len(), 1);
        let json = serde_json::to_string(&unbind).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), unbind);
    }
}
