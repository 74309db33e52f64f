//! The host as a whole: the built-in description, ownership, guests.

use std::sync::Arc;

use super::*;

const GUEST_1: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
const GUEST_2: &str = "cef03c3c-903d-4ecc-9a83-40694cb8aee4";
const GUEST_3: &str = "e4a64c22-1b73-4b78-b28a-437fa1b1c834";
const EP11: &str = "e30ddaa2-2543-4240-86fe-e71b8ef90447";

fn uuid(text: &str) -> Uuid {
    text.parse().unwrap()
}

fn matrix(apids: &[u8], apqis: &[u8], control: &[u8]) -> Matrix {
    let mask = |numbers: &[u8]| numbers.iter().copied().collect();
    Matrix { apm: mask(apids), aqm: mask(apqis), adm: mask(control) }
}

/// A host with accelerators 5 and 6, domains 4 and 47, these masks, and mdevs in this order, each a list of "a5", "d4", "c4".
fn host(apmask: &str, aqmask: &str, mdevs: &[(&str, &str)]) -> ApHost {
    let mdevs: Vec<String> = mdevs
        .iter()
        .map(|(uuid, assignments)| {
            let attrs: Vec<String> = assignments
                .split_whitespace()
                .map(|a| {
                    let attribute = match &a[..1] {
                        "a" => "assign_adapter",
                        "d" => "assign_domain",
                        _ => "assign_control_domain",
                    };
                    format!(r#"{{"{attribute}": "0x{}"}}"#, &a[1..])
                })
                .collect();
            format!(r#""{uuid}": {{"mdev_type": "vfio_ap-passthrough", "attrs": [{}]}}"#, attrs.join(","))
        })
        .collect();
    let description = Description::from_json(&format!(
        r#"{{"adapters": [{{"adapter": 5, "type": "CEX8A"}}, {{"adapter": 6, "type": "CEX7A"}}],
            "max_adapter": "0x3f", "max_domain": "0x54", "usage_domains": [4, "0x47"],
            "apmask": "{apmask}", "aqmask": "{aqmask}", "mdevs": {{{}}}}}"#,
        mdevs.join(",")
    ));
    ApHost::rehearsal_of(&description.unwrap())
}

/// A VM that takes what it is given.
struct Vm(u64);

impl Guest for Vm {
    fn id(&self) -> u64 {
        self.0
    }
    fn set_hook(&self, _: bool) {}
    fn set_masks(&self, _: &Matrix) {}
    fn config_changed(&self) {}
    fn request(&self) {}
}

/// Opens the device in a VM of its own.
fn attach(host: &ApHost, mdev: &str) -> Result<Matrix, HostError> {
    let uuid = uuid(mdev);
    host.attach(uuid, Arc::new(Vm(uuid.as_u64_pair().0)))
}

fn owner(host: &ApHost, apqn: u16) -> Option<Uuid> {
    host.snapshot().mdev_of(Apqn(apqn)).map(|mdev| mdev.uuid)
}

/// Attaching the mdev to this host is refused with this errno and message.
fn refused(host: &ApHost, mdev: &str, errno: &str, message: &str) {
    let error = attach(host, mdev).expect_err(message);
    assert_eq!((error.errno(), error.to_string().as_str()), (errno, message));
}

#[test]
fn the_built_in_host() {
    let host = ApHost::builtin();
    let state = host.snapshot();
    let names: Vec<_> = state.adapters.iter().map(|a| format!("{} {}", a.apid(), a.type_name())).collect();
    assert_eq!(names, ["05 CEX8C", "06 CEX8A", "0a CEX8P"]);
    assert_eq!(host.qci().matrix, matrix(&[5, 6, 0xa], &[4, 0x47, 0xab, 0xff], &[4, 0x47, 0xab, 0xff]));
    assert!(state.queues.iter().all(|q| q.driver == Some(Driver::VfioAp) && q.last_reset == 0));
    assert_eq!(state.queues.len(), 12);

    let owners: Vec<_> = state.queues.iter().map(|q| owner(&host, q.queue.0)).collect();
    let [one, two, three, ep11] = [GUEST_1, GUEST_2, GUEST_3, EP11].map(|u| Some(uuid(u)));
    assert_eq!(owners[..4], [one, two, one, two]);
    assert_eq!(owners[4..8], [one, three, one, three]);
    assert_eq!(owners[8..], [None, ep11, None, ep11]);
}

#[test]
fn the_built_in_guests() {
    let host = ApHost::builtin();
    for (name, want) in [
        (GUEST_1, matrix(&[5, 6], &[4, 0xab], &[4, 0xab])),
        (GUEST_2, matrix(&[5], &[0x47, 0xff], &[0x47, 0xff])),
        (GUEST_3, matrix(&[6], &[0x47, 0xff], &[0x47, 0xff])),
        (EP11, matrix(&[0xa], &[0x47, 0xff], &[0x47, 0xff])),
    ] {
        let mdev = host.mdev(uuid(name)).unwrap();
        assert_eq!((mdev.matrix, mdev.shadow, mdev.guest), (want, want, None));
        assert_eq!(attach(&host, name).unwrap(), want, "{name}");
        assert!(host.mdev(uuid(name)).unwrap().guest.is_some());
    }
    assert_eq!(host.status(Apqn(0x06ff)), Some(QueueStatus::InUse));
    assert_eq!(host.status(Apqn(0x0a04)), Some(QueueStatus::Unassigned));
}

#[test]
fn json_round_trip_and_the_documentation() {
    assert_eq!(Description::builtin().to_json() + "\n", description::BUILTIN);
    let documentation = include_str!("../../../../docs/ap-host.md");
    assert!(
        documentation.contains(description::BUILTIN),
        "docs/ap-host.md shows another built-in description"
    );
}

/// A snapshot survives JSON, and a host made from it is in the same state.
#[test]
fn snapshots_come_back() {
    let host = host("-5", "", &[(GUEST_1, "a5 d4 d47 c9")]);
    attach(&host, GUEST_1).unwrap();
    host.unbind(Apqn(0x0547)).unwrap();
    host.configure(&[LparChange::SetCondition { adapter: Number(6), condition: Condition::Offline }])
        .unwrap();
    let state = host.snapshot();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), state, "{text}");
    assert_eq!(ApHost::rehearsal(&state).snapshot(), state);
    assert_eq!(state.mdevs[0].guest_matrix, matrix(&[], &[4, 0x47], &[]));
}

#[test]
fn default_drivers_own_a_queue_by_both_masks() {
    let host = host("-5", "-0x47", &[]);
    let drivers: Vec<_> = host.snapshot().queues.iter().map(|q| (q.queue.0, q.driver.unwrap())).collect();
    let guests = Driver::VfioAp;
    let want = [(0x0504, guests), (0x0547, guests), (0x0604, Driver::Default), (0x0647, guests)];
    assert_eq!(drivers, want);
}

#[test]
fn queues_of_the_host() {
    let host = host("-6", "", &[(GUEST_1, "a5 a6 d4 d47")]);
    refused(
        &host,
        GUEST_1,
        "EADDRNOTAVAIL",
        "mdev 62177883-f1bb-47f0-914d-32a22e3a8804: queue 05.0004 is owned by the host's default drivers; \
         free the adapters by writing \"-5\" to apmask, or the domains by writing \"-4\" to aqmask",
    );
    assert_eq!(host.snapshot().mdevs, [], "a device whose definition is refused is not there");
}

/// Following the message's advice, either half of it, makes the attach succeed: without a new host.
#[test]
fn the_remedy_for_host_owned_queues_works() {
    use MaskAttribute::{Apmask, Aqmask};
    for (attribute, text) in [(Apmask, "-5,-6"), (Aqmask, "-4,-0x47"), (Apmask, "-5-6")] {
        let host = host("", "", &[(GUEST_1, "a5 a6 d4 d47")]);
        assert_eq!(attach(&host, GUEST_1).unwrap_err().errno(), "EADDRNOTAVAIL");
        host.write_mask(attribute, text).unwrap();
        assert_eq!(attach(&host, GUEST_1).unwrap().apqns().count(), 4, "{text}");
    }
}

#[test]
fn queues_of_another_mdev() {
    let host = host("-5,-6", "", &[(GUEST_1, "a5 d4 d47"), (GUEST_2, "a6 d47 a5"), (GUEST_3, "a6 d4 c47")]);
    refused(
        &host,
        GUEST_2,
        "EADDRINUSE",
        "mdev cef03c3c-903d-4ecc-9a83-40694cb8aee4: queue 05.0047 is assigned to mdev \
         62177883-f1bb-47f0-914d-32a22e3a8804; unassign the adapters (5) or the domains (0x47) from one of the two",
    );
    assert_eq!(attach(&host, GUEST_1).unwrap(), matrix(&[5], &[4, 0x47], &[]));
    assert_eq!(attach(&host, GUEST_3).unwrap(), matrix(&[6], &[4], &[0x47]), "control domains are shared");
    assert_eq!(owner(&host, 0x0647), None, "the refused mdev holds nothing");
}

/// An APQN that does not exist is refused too, since it may come into being.
#[test]
fn overlap_beyond_what_the_host_has() {
    let host = host("-5,-6,-7", "", &[(GUEST_1, "a7 d9"), (GUEST_2, "a7 d9")]);
    assert_eq!(attach(&host, GUEST_1).unwrap(), Matrix::EMPTY);
    assert_eq!(attach(&host, GUEST_2).unwrap_err().errno(), "EADDRINUSE");
}

#[test]
fn more_than_the_machine_has() {
    let host = host("-5,-6,-8", "", &[(GUEST_1, "a40"), (GUEST_2, "d55"), (GUEST_3, "a5 a8 d4 d5 c6 c4")]);
    refused(
        &host,
        GUEST_1,
        "ENODEV",
        "mdev 62177883-f1bb-47f0-914d-32a22e3a8804: adapter 0x40: the machine's highest is 0x3f; \
         choose one up to that, or describe a machine with more (max_adapter, max_domain, apxa)",
    );
    refused(
        &host,
        GUEST_2,
        "ENODEV",
        "mdev cef03c3c-903d-4ecc-9a83-40694cb8aee4: domain 0x55: the machine's highest is 0x54; \
         choose one up to that, or describe a machine with more (max_adapter, max_domain, apxa)",
    );
    assert_eq!(
        attach(&host, GUEST_3).unwrap(),
        matrix(&[5], &[4], &[4]),
        "adapter 8, domain 5 and control domain 6 are over-provisioned"
    );
}

#[test]
fn unknown_mdevs() {
    let unknown = "00000000-0000-4000-8000-000000000000";
    refused(
        &host("-5", "", &[(GUEST_2, ""), (GUEST_1, "")]),
        unknown,
        "ENOENT",
        "no mdev 00000000-0000-4000-8000-000000000000; the AP host has cef03c3c-903d-4ecc-9a83-40694cb8aee4, \
         62177883-f1bb-47f0-914d-32a22e3a8804",
    );
    refused(
        &host("", "", &[]),
        unknown,
        "ENOENT",
        "no mdev 00000000-0000-4000-8000-000000000000; the AP host has none; create one",
    );
}

#[test]
fn attach_and_detach() {
    let host = host("-5-7", "", &[(GUEST_1, "a5 a6 a7 d4"), (GUEST_2, "a5 d47")]);
    let all = matrix(&[5, 6], &[4], &[]);
    let mdev = uuid(GUEST_1);
    assert_eq!(host.detach(mdev).unwrap_err().errno(), "EINVAL");
    assert_eq!(attach(&host, GUEST_1).unwrap(), all);
    refused(
        &host,
        GUEST_1,
        "EBUSY",
        "mdev 62177883-f1bb-47f0-914d-32a22e3a8804 is in use by a guest; end that guest or choose another mdev",
    );
    assert_eq!(host.status(Apqn(0x0504)), Some(QueueStatus::InUse));
    host.detach(mdev).unwrap();
    assert_eq!(host.status(Apqn(0x0504)), Some(QueueStatus::Assigned));
    assert_eq!(host.mdev(mdev).unwrap().guest, None);
    assert_eq!(attach(&host, GUEST_1).unwrap(), all);
}

/// The messages stay short when many queues are wrong.
#[test]
fn many_queues() {
    let adapters: Vec<String> = (0..12).map(|n| format!("a{n:x}")).collect();
    let host = host("", "", &[(GUEST_1, &format!("{} d4", adapters.join(" ")))]);
    let error = attach(&host, GUEST_1).unwrap_err().to_string();
    assert!(error.contains("queues 00.0004, 01.0004, "), "{error}");
    assert!(error.contains("07.0004 and 4 more are owned"), "{error}");
    assert!(error.contains("\"-0,-1,-2,-3,-4,-5,-6,-7,-8,-9,-0xa,-0xb\" to apmask"), "{error}");
}

/// Whatever a description says, it is refused or its guests keep to the rules: no queue has two guests, none is the host's.
#[test]
fn damaged_descriptions() {
    let mut loaded = 0;
    for at in 0..description::BUILTIN.len() {
        for damage in ["", "0", "7", "a", "-", "\"", "[", "\u{e9}"] {
            let mut text = description::BUILTIN.to_owned();
            text.replace_range(at..=at, damage);
            let Ok(description) = Description::from_json(&text) else { continue };
            loaded += 1;
            let host = ApHost::rehearsal_of(&description);
            let mut guests = Vec::new();
            for mdev in host.snapshot().mdevs.iter().map(|m| m.uuid) {
                let vm = Arc::new(Vm(mdev.as_u64_pair().0));
                guests.extend(host.attach(mdev, vm).unwrap().apqns().map(|q| (q, mdev)));
            }
            let state = host.snapshot();
            for (q, mdev) in &guests {
                let queue = state.queue(*q).unwrap();
                assert_eq!(queue.driver, Some(Driver::VfioAp), "{q} in\n{text}");
                assert_eq!(queue.status, Some(QueueStatus::InUse), "{q} in\n{text}");
                assert_eq!(state.mdev_of(*q).unwrap().uuid, *mdev, "{q} in\n{text}");
                assert_eq!(guests.iter().filter(|(other, _)| other == q).count(), 1, "{q} in\n{text}");
            }
        }
    }
    assert!(loaded > 1000, "only {loaded} descriptions were good enough to be looked at");
}
