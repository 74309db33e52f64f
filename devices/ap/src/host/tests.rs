//! The host as a whole: the built-in description, ownership, guests.

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
    ApHost::from_json(&format!(
        r#"{{"adapters": [{{"adapter": 5, "type": "CEX8A"}}, {{"adapter": 6, "type": "CEX7A"}}],
            "max_adapter": "0x3f", "max_domain": "0x54", "usage_domains": [4, "0x47"],
            "apmask": "{apmask}", "aqmask": "{aqmask}", "mdevs": {{{}}}}}"#,
        mdevs.join(",")
    ))
    .unwrap()
}

/// Attaching the mdev to this host is refused with this errno and message.
fn refused(host: &mut ApHost, mdev: &str, errno: &str, message: &str) {
    let error = host.attach(uuid(mdev)).expect_err(message);
    assert_eq!((error.errno(), error.to_string().as_str()), (errno, message));
}

#[test]
fn the_built_in_host() {
    let host = ApHost::builtin();
    let names: Vec<_> = host.adapters().iter().map(|a| format!("{} {}", a.apid, a.type_name())).collect();
    assert_eq!(names, ["05 CEX8C", "06 CEX8A", "0a CEX8P"]);
    assert_eq!(host.qci().matrix, matrix(&[5, 6, 0xa], &[4, 0x47, 0xab, 0xff], &[4, 0x47, 0xab, 0xff]));
    assert!(host.queues().all(|q| q.driver == Driver::VfioAp && q.last_reset == 0));
    assert_eq!(host.queues().count(), 12);

    let owners: Vec<_> = host.queues().map(|q| host.owner(q.apqn).unwrap()).collect();
    let [one, two, three, ep11] = [GUEST_1, GUEST_2, GUEST_3, EP11].map(|u| Owner::Mdev(uuid(u)));
    assert_eq!(owners[..4], [one, two, one, two]);
    assert_eq!(owners[4..8], [one, three, one, three]);
    assert_eq!(owners[8..], [Owner::Free, ep11, Owner::Free, ep11]);
    assert_eq!(host.owner(Apqn(0x0704)), None);
}

#[test]
fn the_built_in_guests() {
    let mut host = ApHost::builtin();
    for (name, want) in [
        (GUEST_1, matrix(&[5, 6], &[4, 0xab], &[4, 0xab])),
        (GUEST_2, matrix(&[5], &[0x47, 0xff], &[0x47, 0xff])),
        (GUEST_3, matrix(&[6], &[0x47, 0xff], &[0x47, 0xff])),
        (EP11, matrix(&[0xa], &[0x47, 0xff], &[0x47, 0xff])),
    ] {
        assert_eq!(host.mdev(uuid(name)).unwrap().matrix(), Some(&want));
        assert_eq!(host.mdev(uuid(name)).unwrap().guest(), None);
        assert_eq!(host.attach(uuid(name)).unwrap(), want, "{name}");
        assert_eq!(host.mdev(uuid(name)).unwrap().guest(), Some(&want));
    }
    assert_eq!(host.owner(Apqn(0x06ff)), Some(Owner::Guest(uuid(GUEST_3))));
}

#[test]
fn json_round_trip_and_the_documentation() {
    let host = ApHost::builtin();
    assert_eq!(host.to_json() + "\n", description::BUILTIN);
    let documentation = include_str!("../../../../docs/ap-host.md");
    assert!(
        documentation.contains(description::BUILTIN),
        "docs/ap-host.md shows another built-in description"
    );
}

#[test]
fn default_drivers_own_a_queue_by_both_masks() {
    let host = host("-5", "-0x47", &[]);
    let owners: Vec<_> = host.queues().map(|q| (q.apqn.0, host.owner(q.apqn).unwrap())).collect();
    let free = Owner::Free;
    let want = [(0x0504, free), (0x0547, free), (0x0604, Owner::DefaultDrivers), (0x0647, free)];
    assert_eq!(owners, want);
}

#[test]
fn queues_of_the_host() {
    let mut host = host("-6", "", &[(GUEST_1, "a5 a6 d4 d47")]);
    assert_eq!(host.mdev(uuid(GUEST_1)).unwrap().matrix(), None);
    refused(
        &mut host,
        GUEST_1,
        "EADDRNOTAVAIL",
        "mdev 62177883-f1bb-47f0-914d-32a22e3a8804: queue 05.0004 is owned by the host's default drivers; \
         free the adapters by writing \"-5\" to apmask, or the domains by writing \"-4\" to aqmask",
    );
    assert_eq!(host.owner(Apqn(0x0504)), Some(Owner::DefaultDrivers));
}

/// Following the message's advice, either half of it, makes the attach succeed.
#[test]
fn the_remedy_for_host_owned_queues_works() {
    let all = "a5 a6 d4 d47";
    for (apmask, aqmask, queues) in [("-5,-6", "", 4), ("", "-4,-0x47", 4), ("-5-6", "+4", 4)] {
        let mut host = host(apmask, aqmask, &[(GUEST_1, all)]);
        assert_eq!(host.attach(uuid(GUEST_1)).unwrap().apqns().count(), queues, "{apmask} {aqmask}");
    }
}

#[test]
fn queues_of_another_mdev() {
    let mut host =
        host("-5,-6", "", &[(GUEST_1, "a5 d4 d47"), (GUEST_2, "a6 d47 a5"), (GUEST_3, "a6 d4 c47")]);
    refused(
        &mut host,
        GUEST_2,
        "EADDRINUSE",
        "mdev cef03c3c-903d-4ecc-9a83-40694cb8aee4: queue 05.0047 is assigned to mdev \
         62177883-f1bb-47f0-914d-32a22e3a8804; unassign the adapters (5) or the domains (0x47) from one of the two",
    );
    assert_eq!(host.attach(uuid(GUEST_1)).unwrap(), matrix(&[5], &[4, 0x47], &[]));
    assert_eq!(
        host.attach(uuid(GUEST_3)).unwrap(),
        matrix(&[6], &[4], &[0x47]),
        "control domains are shared"
    );
    assert_eq!(host.owner(Apqn(0x0647)), Some(Owner::Free), "the refused mdev holds nothing");
}

/// An APQN that does not exist is refused too, since it may come into being.
#[test]
fn overlap_beyond_what_the_host_has() {
    let mut host = host("-5,-6,-7", "", &[(GUEST_1, "a7 d9"), (GUEST_2, "a7 d9")]);
    assert_eq!(host.attach(uuid(GUEST_1)).unwrap(), Matrix::EMPTY);
    assert_eq!(host.attach(uuid(GUEST_2)).unwrap_err().errno(), "EADDRINUSE");
}

#[test]
fn more_than_the_machine_has() {
    let mut host =
        host("-5,-6,-8", "", &[(GUEST_1, "a40"), (GUEST_2, "d55"), (GUEST_3, "a5 a8 d4 d5 c6 c4")]);
    refused(
        &mut host,
        GUEST_1,
        "ENODEV",
        "mdev 62177883-f1bb-47f0-914d-32a22e3a8804: adapter 0x40: the machine's highest is 0x3f; \
         choose one up to that, or describe a machine with more (max_adapter, max_domain, apxa)",
    );
    refused(
        &mut host,
        GUEST_2,
        "ENODEV",
        "mdev cef03c3c-903d-4ecc-9a83-40694cb8aee4: domain 0x55: the machine's highest is 0x54; \
         choose one up to that, or describe a machine with more (max_adapter, max_domain, apxa)",
    );
    assert_eq!(
        host.attach(uuid(GUEST_3)).unwrap(),
        matrix(&[5], &[4], &[4]),
        "adapter 8, domain 5 and control domain 6 are over-provisioned"
    );
}

#[test]
fn unknown_mdevs() {
    let unknown = "00000000-0000-4000-8000-000000000000";
    refused(
        &mut host("-5", "", &[(GUEST_2, ""), (GUEST_1, "")]),
        unknown,
        "ENOENT",
        "no mdev 00000000-0000-4000-8000-000000000000; the AP host has cef03c3c-903d-4ecc-9a83-40694cb8aee4, \
         62177883-f1bb-47f0-914d-32a22e3a8804",
    );
    refused(
        &mut host("", "", &[]),
        unknown,
        "ENOENT",
        "no mdev 00000000-0000-4000-8000-000000000000; the AP host has none; describe one under mdevs",
    );
}

#[test]
fn attach_and_detach() {
    let mut host = host("-5-7", "", &[(GUEST_1, "a5 a6 a7 d4"), (GUEST_2, "a5 d47")]);
    let all = matrix(&[5, 6], &[4], &[]);
    let mdev = uuid(GUEST_1);
    assert_eq!(host.detach(mdev).unwrap_err().errno(), "EINVAL");
    assert_eq!(host.attach(mdev).unwrap(), all);
    refused(
        &mut host,
        GUEST_1,
        "EBUSY",
        "mdev 62177883-f1bb-47f0-914d-32a22e3a8804 is in use by a guest; end that guest or choose another mdev",
    );
    assert_eq!(host.owner(Apqn(0x0504)), Some(Owner::Guest(mdev)));
    assert_eq!(host.detach(mdev).unwrap(), [Apqn(0x0504), Apqn(0x0604)], "07.0004 does not exist");
    assert_eq!(host.owner(Apqn(0x0504)), Some(Owner::Mdev(mdev)));
    assert_eq!(host.mdev(mdev).unwrap().guest(), None);
    assert_eq!(host.attach(mdev).unwrap(), all);
}

#[test]
fn a_failed_reset_withholds_the_adapter() {
    let mut host = host("-5,-6", "+4,-0x47", &[(GUEST_1, "a5 a6 d4 d47")]);
    let mdev = uuid(GUEST_1);
    for (rc, apids) in
        [(0x00, &[5, 6][..]), (0x03, &[5, 6]), (0x04, &[5, 6]), (0x02, &[5]), (0x05, &[5]), (0x0a, &[5])]
    {
        host.record_reset(Apqn(0x0647), rc).unwrap();
        assert_eq!(host.attach(mdev).unwrap(), matrix(apids, &[4, 0x47], &[]), "{rc:02x}");
        let used = if apids.contains(&6) { Owner::Guest(mdev) } else { Owner::Mdev(mdev) };
        assert_eq!(host.owner(Apqn(0x0604)), Some(used), "{rc:02x}");
        assert_eq!(host.detach(mdev).unwrap().len(), 4, "the withheld queues are reset again");
    }
    assert_eq!(host.record_reset(Apqn(0x0704), 0).unwrap_err().errno(), "ENODEV");
}

#[test]
fn a_host_queue_is_not_ours_to_reset() {
    let mut host = host("", "", &[]);
    assert_eq!(
        host.record_reset(Apqn(0x0504), 0).unwrap_err().to_string(),
        "queue 05.0004 is not bound to vfio_ap"
    );
}

/// The messages stay short when many queues are wrong.
#[test]
fn many_queues() {
    let adapters: Vec<String> = (0..12).map(|n| format!("a{n:x}")).collect();
    let mut host = host("", "", &[(GUEST_1, &format!("{} d4", adapters.join(" ")))]);
    let error = host.attach(uuid(GUEST_1)).unwrap_err().to_string();
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
            let Ok(mut host) = ApHost::from_json(&text) else { continue };
            loaded += 1;
            let mut guests = Vec::new();
            for mdev in host.mdevs().iter().map(Mdev::uuid).collect::<Vec<_>>() {
                if let Ok(guest) = host.attach(mdev) {
                    guests.extend(guest.apqns().map(|q| (q, mdev)));
                }
            }
            for (q, mdev) in &guests {
                assert_eq!(host.owner(*q), Some(Owner::Guest(*mdev)), "{q} in\n{text}");
                assert_eq!(guests.iter().filter(|(other, _)| other == q).count(), 1, "{q} in\n{text}");
            }
        }
    }
    assert!(loaded > 1000, "only {loaded} descriptions were good enough to be looked at");
}
