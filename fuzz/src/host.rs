//! What operators and files say to the simulated AP host: descriptions, definitions of mediated devices, the lines of the
//! daemon's protocol.

use ap::host::remote::{LineReader, ToDaemon};
use ap::host::{ApHost, Description, Driver, Guest, MdevDefinition};
use crycb::{Mask256, Matrix};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// Longer inputs only take longer.
const LIMIT: usize = 8 << 10;

const UUID: Uuid = Uuid::from_u128(0x62177883_f1bb_47f0_914d_32a22e3a8804);

/// A VM that remembers its masks.
struct Vm {
    id: u64,
    masks: Mutex<Matrix>,
    /// The host wanted the device back, and cleared the masks for that.
    requested: AtomicBool,
}

impl Guest for Vm {
    fn id(&self) -> u64 {
        self.id
    }

    fn set_hook(&self, _: bool) {}

    fn set_masks(&self, matrix: &Matrix) {
        *self.masks.lock().expect("no holder panics") = *matrix;
    }

    fn config_changed(&self) {}

    fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }
}

/// Gives every mediated device to a VM, as far as the host lets it. Returns the VMs that got one.
fn attach_all(host: &ApHost, mdevs: impl IntoIterator<Item = Uuid>) -> Vec<(Uuid, Arc<Vm>)> {
    let attach = |(id, uuid)| {
        let vm = Arc::new(Vm { id, masks: Mutex::default(), requested: AtomicBool::new(false) });
        let given = host.attach(uuid, vm.clone()).ok()?;
        assert_eq!(given, *vm.masks.lock().expect("no holder panics"));
        Some((uuid, vm))
    };
    (1..).zip(mdevs).filter_map(attach).collect()
}

/// No queue in two guests, nor in one that may not have it; each guest has what the host says.
fn check(host: &ApHost, vms: &[(Uuid, Arc<Vm>)]) {
    let snapshot = host.snapshot();
    let default = Matrix { apm: snapshot.apmask, aqm: snapshot.aqmask, adm: Mask256::EMPTY };
    let lpar = host.qci().matrix;
    for (at, (uuid, vm)) in vms.iter().enumerate() {
        let masks = *vm.masks.lock().expect("no holder panics");
        let mdev = snapshot.mdev(*uuid).expect("a device in use exists");
        if mdev.attached {
            let given_back = masks == Matrix::EMPTY && vm.requested.load(Ordering::Relaxed);
            assert!(given_back || masks == mdev.guest_matrix, "mdev {uuid}: {masks:?}, {mdev:?}");
        }
        for (other, vm) in &vms[at + 1..] {
            let theirs = *vm.masks.lock().expect("no holder panics");
            assert!(masks.shared_apqns(&theirs).next().is_none(), "mdevs {uuid} and {other} share a queue");
        }
        for apqn in masks.apqns() {
            assert!(mdev.matrix.test(apqn) && lpar.test(apqn), "{apqn} is not assigned or not there");
            let queue = snapshot.queue(apqn).unwrap_or_else(|| panic!("{apqn} is in a guest and no device"));
            assert_eq!(queue.driver, Some(Driver::VfioAp), "{apqn}");
            assert!(queue.driver_override.is_some() || !default.test(apqn), "{apqn} is the host's");
        }
    }
}

/// The file of `--ap-host`.
pub fn description(input: &[u8]) {
    let Some(text) = std::str::from_utf8(input).ok().filter(|text| text.len() <= LIMIT) else { return };
    let description = match Description::from_json(text) {
        Ok(description) => description,
        Err(error) => return assert_eq!(error.errno(), "EINVAL", "{error}"),
    };
    let json = description.to_json();
    let again = Description::from_json(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    assert_eq!(again, description);

    let host = ApHost::rehearsal_of(&description);
    assert_eq!(host.qci(), description.qci());
    let vms = attach_all(&host, description.mdevs().iter().map(|(uuid, _)| *uuid));
    check(&host, &vms);
}

pub fn description_seeds() -> Vec<Vec<u8>> {
    let narrow = r#"{"apxa": false, "adapters": [{"adapter": 5, "type": "CEX8A"}, {"adapter": "0x0a", "type": "CEX7C"}],
        "usage_domains": [4, "0x0b"], "control_domains": [4, 5], "apmask": "-5", "aqmask": "0x0",
        "mdevs": {"62177883-f1bb-47f0-914d-32a22e3a8804": {"mdev_type": "vfio_ap-passthrough", "start": "auto",
            "attrs": [{"assign_adapter": "5"}, {"assign_domain": "0x4"}, {"ap_config": "0x04,0x08,0x0"}]}}}"#;
    vec![Description::builtin().to_json().into_bytes(), narrow.into()]
}

/// mdevctl's JSON, imported into the built-in host.
pub fn definition(input: &[u8]) {
    if input.len() > LIMIT {
        return;
    }
    let Ok(definition) = serde_json::from_slice::<MdevDefinition>(input) else { return };
    let json = serde_json::to_string(&definition).expect("definitions have only strings for keys");
    assert_eq!(serde_json::from_str::<MdevDefinition>(&json).expect(&json), definition);

    let host = ApHost::builtin();
    host.write_mask(ap::host::MaskAttribute::Apmask, "0x0").expect("nothing is in the way");
    let before = host.snapshot();
    match host.import(UUID, &definition) {
        Ok(()) => {
            let vms = attach_all(&host, host.snapshot().mdevs.iter().map(|mdev| mdev.uuid));
            check(&host, &vms);
            // What the device has become makes the same device elsewhere.
            let state = host.snapshot().mdev(UUID).expect("just imported").clone();
            host.detach(UUID).or_else(|_| host.remove_mdev(UUID)).expect("detach what was attached");
            let _ = host.remove_mdev(UUID);
            host.import(UUID, &state.definition()).expect("the exported definition");
            assert_eq!(host.snapshot().mdev(UUID).expect("imported").matrix, state.matrix);
        }
        Err(error) => {
            assert!(!error.errno().is_empty() && !error.to_string().is_empty());
            assert_eq!(host.snapshot().mdevs, before.mdevs, "a refused definition leaves nothing");
        }
    }
}

pub fn definition_seeds() -> Vec<Vec<u8>> {
    let attributes = [
        r#"{"assign_adapter": "5"}, {"assign_domain": "0x4"}, {"assign_control_domain": "010"}"#,
        r#"{"assign_adapter": "0x0a"}, {"unassign_adapter": "10"}, {"assign_domain": "171"}, {"unassign_domain": "0xab"}"#,
        r#"{"ap_config": "0x04,0x08,0x0\n"}, {"unassign_control_domain": "255"}, {"assign_adapter": "+6\n"}"#,
        "",
    ];
    let definition = |attrs: &&str| {
        format!(r#"{{"mdev_type": "vfio_ap-passthrough", "start": "manual", "attrs": [{attrs}]}}"#)
    };
    attributes.iter().map(|attrs| definition(attrs).into_bytes()).collect()
}

/// Lines to the daemon. Operations are carried out on the built-in host, whose mediated devices are in use.
pub fn daemon_protocol(input: &[u8]) {
    const OPERATIONS: usize = 16;
    if input.len() > LIMIT {
        return;
    }
    let mut host = None;
    let mut lines = LineReader::new(input, 2 << 10);
    let mut executed = 0;
    while let Ok(Some(line)) = lines.line() {
        assert!(!line.contains(&b'\n'));
        let Ok(message) = ToDaemon::parse(line) else { continue };
        let json = serde_json::to_vec(&message).expect("messages have only strings for keys");
        assert_eq!(ToDaemon::parse(&json).expect("our own message"), message);
        let ToDaemon::Execute { operation, .. } = message else { continue };
        let (host, vms) = host.get_or_insert_with(|| {
            let host = ApHost::builtin();
            let vms = attach_all(&host, host.snapshot().mdevs.iter().map(|mdev| mdev.uuid));
            (host, vms)
        });
        if let Err(error) = host.execute(&operation) {
            assert!(!error.errno().is_empty() && !error.to_string().is_empty());
        }
        vms.retain(|(uuid, _)| host.snapshot().mdev(*uuid).is_some_and(|mdev| mdev.attached));
        check(host, vms);
        executed += 1;
        if executed == OPERATIONS {
            break;
        }
    }
}

pub fn daemon_seeds() -> Vec<Vec<u8>> {
    use ap::host::{Attribute, MaskAttribute, Operation};
    use crycb::Apqn;
    let mdev = Description::builtin().mdevs().first().map_or(UUID, |(uuid, _)| *uuid);
    let text = |text: &str| text.to_owned();
    let operations = vec![
        // One queue stays unbound when the other's return makes the driver filter.
        Operation::Unbind { queue: Apqn(0x0504) },
        Operation::Unbind { queue: Apqn(0x05ab) },
        Operation::Bind { queue: Apqn(0x0504), driver: Driver::VfioAp },
        Operation::CreateMdev { mdev: UUID },
        Operation::Write { mdev, attribute: Attribute::AssignAdapter(text("6")) },
        Operation::Write { mdev, attribute: Attribute::UnassignDomain(text("0x4")) },
        Operation::WriteMask { mask: MaskAttribute::Apmask, value: text("-5,-6,-0xa") },
        Operation::Bind { queue: Apqn(0x0504), driver: Driver::VfioAp },
        Operation::Configure { changes: Vec::new() },
        Operation::Scan,
        Operation::ResetDevice { mdev },
        Operation::RemoveMdev { mdev: UUID },
    ];
    let line = |message: &ToDaemon| serde_json::to_string(message).expect("a message") + "\n";
    let execute = |(id, operation)| line(&ToDaemon::Execute { id, operation });
    let all: String = (1..).zip(operations).map(execute).collect();
    vec![(line(&ToDaemon::Hello { version: 1 }) + &all).into_bytes(), all.into_bytes()]
}
