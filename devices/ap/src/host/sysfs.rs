//! This machine's own AP host: Linux's AP bus and vfio_ap in sysfs (`Documentation/arch/s390/vfio-ap.rst`), read into a
//! [`Snapshot`], and operations as the writes that they are.
//!
//! The kernel decides. What it refuses comes as an error number; the words around it come from trying the same on a copy of
//! what was read before.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crycb::{Apqn, Mask256, Matrix};
use uuid::Uuid;

use super::{
    AdapterIdentity, AdapterState, Condition, Driver, Event, HostError, LparChange, MdevState, Number,
    Operation, QueueState, QueueStatus, Snapshot,
};

/// The sysfs of a host.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

impl Sysfs {
    /// The sysfs mounted at `root`: `/sys`, or a test's.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn bus(&self) -> PathBuf {
        self.root.join("bus/ap")
    }

    fn matrix(&self) -> PathBuf {
        self.root.join("devices/vfio_ap/matrix")
    }

    /// The host's state. The attributes are read one after the other, so that what changes meanwhile can be there by half.
    ///
    /// # Errors
    /// [`HostError::Remote`], for what cannot be read and is there in every kernel, or means nothing.
    pub fn snapshot(&self) -> Result<Snapshot, HostError> {
        let bus = self.bus();
        let mask = |name: &str| -> Result<Mask256, HostError> {
            let path = bus.join(name);
            let text = read(&path)?;
            text.parse().map_err(|_| strange(&path, &text))
        };
        let highest = |name: &str| -> Result<Number, HostError> {
            let path = bus.join(name);
            let text = read(&path)?;
            text.parse().map(Number).map_err(|_| strange(&path, &text))
        };
        let configuration = Matrix {
            apm: mask("ap_adapter_mask")?,
            aqm: mask("ap_usage_domain_mask")?,
            adm: mask("ap_control_domain_mask")?,
        };
        let (max_adapter, max_domain) = (highest("ap_max_adapter_id")?, highest("ap_max_domain_id")?);
        let (adapters, queues) = self.devices()?;
        let mut state = Snapshot {
            // Without extended addressing there are 16 domains at most.
            apxa: max_domain.0 > 15 || max_adapter.0 > 63,
            max_adapter,
            max_domain,
            adapters,
            configuration,
            apmask: mask("apmask")?,
            aqmask: mask("aqmask")?,
            queues,
            mdevs: Vec::new(),
        };
        state.mdevs = self.mdevs(&state)?;
        Ok(state)
    }

    /// Looks at the host again and again, with this time between, and calls `each` for what is different, until it answers
    /// false. The events are numbered from 1.
    ///
    /// # Errors
    /// Those of [`snapshot`](Self::snapshot), the first time or twice in a row: once it can be a change that is being made.
    pub fn watch(&self, every: Duration, each: &mut dyn FnMut(&Event) -> bool) -> Result<(), HostError> {
        let (mut before, mut number, mut failed) = (self.snapshot()?, 0, false);
        loop {
            std::thread::sleep(every);
            let after = match self.snapshot() {
                Ok(after) => after,
                Err(error) if failed => return Err(error),
                Err(_) => {
                    failed = true;
                    continue;
                }
            };
            failed = false;
            for kind in before.changes(&after) {
                number += 1;
                if !each(&Event { number, kind }) {
                    return Ok(());
                }
            }
            before = after;
        }
    }

    /// Cards and queues. A device that vanishes while it is read is left out.
    fn devices(&self) -> Result<(Vec<AdapterState>, Vec<QueueState>), HostError> {
        let directory = self.bus().join("devices");
        let mut adapters = Vec::new();
        let mut queues = Vec::new();
        for name in names(&directory)? {
            let path = directory.join(&name);
            if let Some(number) = name.strip_prefix("card") {
                let Ok(number) = u8::from_str_radix(number, 16) else { continue };
                adapters.extend(present(card(&path, number))?);
            } else if let Ok(queue) = name.parse::<Apqn>() {
                queues.extend(present(self.queue(&path, queue))?);
            }
        }
        adapters.sort_by_key(AdapterState::apid);
        queues.sort_by_key(|q| q.queue);
        Ok((adapters, queues))
    }

    fn queue(&self, path: &Path, queue: Apqn) -> Result<QueueState, HostError> {
        let flag =
            |name: &str| Ok::<_, HostError>(optional(&path.join(name))?.is_none_or(|text| text != "0"));
        let driver = match fs::read_link(path.join("driver")) {
            Ok(target) => {
                let name = target.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                // Every default driver for queues has its generation in the name; to the rules they are one.
                Some(if name == Driver::VfioAp.name() { Driver::VfioAp } else { Driver::Default })
            }
            Err(e) if e.kind() == ErrorKind::NotFound && path.exists() => None,
            Err(e) => return Err(failed("read", &path.join("driver"), &e)),
        };
        let status = match optional(&path.join("status"))?.as_deref() {
            Some("in use") => Some(QueueStatus::InUse),
            Some("assigned") => Some(QueueStatus::Assigned),
            Some(_) => Some(QueueStatus::Unassigned),
            None => None,
        };
        let card = self.bus().join(format!("devices/card{}", queue.apid()));
        let driver_override = optional(&path.join("driver_override"))?.filter(|text| !text.is_empty());
        Ok(QueueState {
            queue,
            driver,
            driver_override: driver_override.filter(|text| text != "(null)"),
            config: flag("config")?,
            chkstop: optional(&path.join("chkstop"))?.is_some_and(|text| text == "1"),
            last_reset: 0,
            status,
            requests: count(&path.join("request_count"))?,
            pending: count(&path.join("pendingq_count"))?,
            answered: None,
            answer_time: None,
            hardware: hardware(&card)?,
        })
    }

    fn mdevs(&self, state: &Snapshot) -> Result<Vec<MdevState>, HostError> {
        let directory = self.matrix();
        if !directory.is_dir() {
            return Ok(Vec::new());
        }
        let mut mdevs = Vec::new();
        for uuid in names(&directory)?.iter().filter_map(|name| name.parse::<Uuid>().ok()) {
            mdevs.extend(present(mdev(&directory.join(uuid.to_string()), uuid, state))?);
        }
        mdevs.sort_by_key(|mdev| mdev.uuid);
        Ok(mdevs)
    }

    /// The writes that an operation is.
    fn writes(&self, operation: &Operation) -> Result<Vec<(PathBuf, String)>, HostError> {
        let one = |path: PathBuf, text: String| Ok(vec![(path, text)]);
        match operation {
            Operation::CreateMdev { mdev } => one(self.create(), mdev.to_string()),
            Operation::RemoveMdev { mdev } => one(self.mdev(*mdev).join("remove"), "1".into()),
            Operation::Import { mdev, definition } => {
                let writes = definition.attrs.iter().map(|attribute| {
                    let (name, text) = attribute.parts();
                    (self.mdev(*mdev).join(name), text.to_owned())
                });
                Ok(std::iter::once((self.create(), mdev.to_string())).chain(writes).collect())
            }
            Operation::Write { mdev, attribute } => {
                let (name, text) = attribute.parts();
                one(self.mdev(*mdev).join(name), text.to_owned())
            }
            Operation::WriteMask { mask, value } => one(self.bus().join(mask.name()), value.clone()),
            Operation::DriverOverride { queue, driver } => {
                one(self.bus().join(format!("devices/{queue}/driver_override")), format!("{driver}\n"))
            }
            Operation::Bind { queue, driver } => {
                one(self.bus().join(format!("drivers/{}/bind", driver.name())), queue.to_string())
            }
            Operation::Unbind { queue } => {
                one(self.bus().join(format!("devices/{queue}/driver/unbind")), queue.to_string())
            }
            Operation::Scan => one(self.bus().join("scans"), "1".into()),
            Operation::Configure { changes } => {
                changes.iter().map(|change| self.configuration(change)).collect()
            }
            Operation::ResetDevice { .. } => {
                Err(impossible("reset a mediated device", "end its guest, or reset that"))
            }
        }
    }

    /// What an operating system may ask of the support element: to configure and deconfigure an adapter.
    fn configuration(&self, change: &LparChange) -> Result<(PathBuf, String), HostError> {
        match change {
            LparChange::SetCondition { adapter, condition } if *condition != Condition::Checkstop => {
                let on = if *condition == Condition::Online { "1" } else { "0" };
                Ok((self.bus().join(format!("devices/card{:02x}/config", adapter.0)), on.into()))
            }
            _ => Err(impossible(
                "change the cards and domains of the machine",
                "use the support element, or a simulated host (`adjunct ap-host serve`)",
            )),
        }
    }

    /// Carries an operation out.
    ///
    /// # Errors
    /// The kernel's refusal; where the rules of vfio_ap know it, in their words.
    pub fn execute(&self, operation: &Operation) -> Result<(), HostError> {
        let before = self.snapshot()?;
        let mut created = None;
        for (path, text) in self.writes(operation)? {
            if let Err(error) = fs::write(&path, &text) {
                if let Some(mdev) = created {
                    // A definition is carried out whole or not at all.
                    if let Err(e) = fs::write(self.mdev(mdev).join("remove"), "1") {
                        log::warn!("remove mdev {mdev}, whose definition was refused: {e}");
                    }
                }
                return Err(explained(&before, operation, &path, &error));
            }
            if let Operation::Import { mdev, .. } = operation {
                created = Some(*mdev);
            }
        }
        Ok(())
    }

    /// What the guest of a mediated device has (`guest_matrix`), without control domains, which that does not tell.
    ///
    /// # Errors
    /// [`HostError::Remote`]; with `ENOENT` or `ENODEV` the device has gone, or the kernel is older than 6.0.
    pub fn guest_matrix(&self, mdev: Uuid) -> Result<Matrix, HostError> {
        matrix_of(&self.mdev(mdev).join("guest_matrix"))
    }

    fn create(&self) -> PathBuf {
        self.matrix().join("mdev_supported_types/vfio_ap-passthrough/create")
    }

    /// The directory of a mediated device.
    pub fn mdev(&self, uuid: Uuid) -> PathBuf {
        self.matrix().join(uuid.to_string())
    }
}

/// The kernel's refusal in the words of the rule that it applied, where one answers the same number.
fn explained(before: &Snapshot, operation: &Operation, path: &Path, error: &io::Error) -> HostError {
    let errno = errno_name(error);
    match before.plan(operation).refusal {
        Some(refusal) if refusal.errno == errno => remote(&errno, refusal.message),
        _ => failed("write to", path, error),
    }
}

fn card(path: &Path, number: u8) -> Result<AdapterState, HostError> {
    let type_name = read(&path.join("type"))?;
    let off = optional(&path.join("config"))?.is_some_and(|text| text == "0");
    let stopped = optional(&path.join("chkstop"))?.is_some_and(|text| text == "1");
    let condition = Condition::of(!off, stopped);
    Ok(AdapterState { installed: AdapterIdentity::Seen { adapter: Number(number), type_name }, condition })
}

/// Functions, type and depth of a card, in the places in which TAPQ's general register 2 has them.
fn hardware(card: &Path) -> Result<u64, HostError> {
    let functions = optional(&card.join("ap_functions"))?.unwrap_or_default();
    let functions = u64::from_str_radix(functions.trim_start_matches("0x"), 16).unwrap_or(0);
    let type_number = count(&card.join("hwtype"))?.unwrap_or(0);
    let depth = count(&card.join("depth"))?.unwrap_or(1);
    Ok(functions << 32 & 0xffff_0000_0000_0000 | (type_number & 0xff) << 24 | depth.saturating_sub(1) & 0xf)
}

fn mdev(path: &Path, uuid: Uuid, state: &Snapshot) -> Result<MdevState, HostError> {
    let mut matrix = matrix_of(&path.join("matrix"))?;
    let control = path.join("control_domains");
    for line in read(&control)?.lines() {
        matrix.adm.set(u8::from_str_radix(line, 16).map_err(|_| strange(&control, line))?);
    }
    let mut guest_matrix = matrix_of(&path.join("guest_matrix"))?;
    guest_matrix.adm = matrix.adm & state.configuration.adm;
    let in_use = |queue: &QueueState| queue.status == Some(QueueStatus::InUse) && matrix.test(queue.queue);
    Ok(MdevState { uuid, matrix, guest_matrix, attached: state.queues.iter().any(in_use) })
}

/// Reads `matrix` or `guest_matrix`: `05.0004`, or `05.` and `.0004` where there is only one of the two.
fn matrix_of(path: &Path) -> Result<Matrix, HostError> {
    let text = read(path)?;
    let mut matrix = Matrix::EMPTY;
    for line in text.lines() {
        let (apid, apqi) = line.split_once('.').ok_or_else(|| strange(path, line))?;
        for (mask, digits) in [(&mut matrix.apm, apid), (&mut matrix.aqm, apqi)] {
            if !digits.is_empty() {
                mask.set(u8::from_str_radix(digits, 16).map_err(|_| strange(path, line))?);
            }
        }
    }
    Ok(matrix)
}

fn names(directory: &Path) -> Result<Vec<String>, HostError> {
    let entries = fs::read_dir(directory).map_err(|e| failed("list", directory, &e))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// What could be read of a device; none when the device has gone meanwhile.
fn present<T>(read: Result<T, HostError>) -> Result<Option<T>, HostError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.errno(), "ENOENT" | "ENODEV") => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> Result<String, HostError> {
    let text = fs::read_to_string(path).map_err(|e| failed("read", path, &e))?;
    Ok(text.trim_end().to_owned())
}

/// An attribute that older kernels do not have, or that this driver does not show.
fn optional(path: &Path) -> Result<Option<String>, HostError> {
    present(read(path))
}

fn count(path: &Path) -> Result<Option<u64>, HostError> {
    Ok(optional(path)?.and_then(|text| text.parse().ok()))
}

fn strange(path: &Path, text: &str) -> HostError {
    remote("EINVAL", format!("{}: {text:?} is not what this attribute holds", path.display()))
}

fn remote(errno: &str, message: String) -> HostError {
    HostError::Remote { errno: errno.to_owned(), message }
}

fn impossible(what: &str, instead: &str) -> HostError {
    remote("EOPNOTSUPP", format!("a real host does not let an operator {what}; {instead}"))
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> HostError {
    let remedy = match error.kind() {
        ErrorKind::PermissionDenied => "; run it as root",
        ErrorKind::NotFound if path.to_string_lossy().contains("vfio_ap") => {
            "; is the module vfio_ap loaded?"
        }
        _ => "",
    };
    remote(&errno_name(error), format!("{verb} {}: {error}{remedy}", path.display()))
}

/// The name of the error number.
fn errno_name(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else { return "EIO".into() };
    let names = [
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::EIO, "EIO"),
        (libc::EACCES, "EACCES"),
        (libc::EBUSY, "EBUSY"),
        (libc::EEXIST, "EEXIST"),
        (libc::ENODEV, "ENODEV"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EROFS, "EROFS"),
        (libc::EUSERS, "EUSERS"),
        (libc::EADDRINUSE, "EADDRINUSE"),
        (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
    ];
    names
        .iter()
        .find(|(n, _)| *n == number)
        .map_or_else(|| format!("errno {number}"), |(_, name)| (*name).into())
}

#[cfg(test)]
mod tests {
    use super::super::tree::{make_sysfs, put};
    use super::super::{ApHost, Attribute, Description, EventKind, MaskAttribute};
    use super::*;

    const ONE: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
    const TWO: &str = "cef03c3c-903d-4ecc-9a83-40694cb8aee4";
    const MIXED: &str = r#"{"adapters": [{"adapter": 5, "type": "CEX8A"}, {"adapter": 6, "type": "CEX7A"},
        {"adapter": 8, "type": "CEX4A"}], "usage_domains": [4, "0x47"], "control_domains": [4, "0x47", 9],
        "apmask": "-5,-6,-7", "mdevs": {"62177883-f1bb-47f0-914d-32a22e3a8804":
        {"mdev_type": "vfio_ap-passthrough", "attrs": [{"assign_adapter": "5"}, {"assign_adapter": "7"},
        {"assign_domain": "4"}, {"assign_control_domain": "9"}]}}}"#;

    fn mixed() -> Snapshot {
        ApHost::rehearsal_of(&Description::from_json(MIXED).unwrap()).snapshot()
    }

    #[test]
    fn a_real_hosts_sysfs_is_read() {
        let root = tempfile::tempdir().unwrap();
        let state = mixed().after(&Operation::Configure {
            changes: vec![LparChange::SetCondition { adapter: Number(6), condition: Condition::Offline }],
        });
        make_sysfs(root.path(), &state);
        let host = Sysfs::new(root.path().to_owned());
        let mut got = host.snapshot().unwrap();
        assert_eq!(
            got.adapters.iter().map(|a| a.type_name()).collect::<Vec<_>>(),
            ["CEX8A", "CEX7A", "CEX4A"]
        );
        // A real host tells numbers and types of its cards only.
        got.adapters.clone_from(&state.adapters);
        for queue in &mut got.queues {
            queue.hardware = state.queue(queue.queue).unwrap().hardware;
        }
        assert_eq!(got, state);

        // A queue and a mediated device that vanish while they are read are left out; half a device is no error.
        fs::remove_dir_all(root.path().join("bus/ap/devices/05.0004")).unwrap();
        fs::remove_file(root.path().join(format!("devices/vfio_ap/matrix/{ONE}/guest_matrix"))).unwrap();
        let got = host.snapshot().unwrap();
        assert!(got.queue(Apqn(0x0504)).is_none() && got.queue(Apqn(0x0547)).is_some());
        assert_eq!(got.mdevs, []);
        put(root.path(), "bus/ap/apmask", "0xnonsense");
        assert_eq!(host.snapshot().unwrap_err().errno(), "EINVAL");
    }

    #[test]
    fn a_real_hosts_sysfs_is_written() {
        let root = tempfile::tempdir().unwrap();
        make_sysfs(root.path(), &mixed());
        let host = Sysfs::new(root.path().to_owned());
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        let mdev = ONE.parse().unwrap();
        host.execute(&Operation::Write { mdev, attribute: Attribute::AssignDomain("0x47".into()) }).unwrap();
        assert_eq!(read(&format!("devices/vfio_ap/matrix/{ONE}/assign_domain")), "0x47");
        host.execute(&Operation::WriteMask { mask: MaskAttribute::Apmask, value: "-8".into() }).unwrap();
        assert_eq!(read("bus/ap/apmask"), "-8");
        put(root.path(), "bus/ap/apmask", &mixed().apmask.to_string());
        host.execute(&Operation::CreateMdev { mdev: TWO.parse().unwrap() }).unwrap();
        assert_eq!(read("devices/vfio_ap/matrix/mdev_supported_types/vfio_ap-passthrough/create"), TWO);
        host.execute(&Operation::Bind { queue: Apqn(0x0504), driver: Driver::VfioAp }).unwrap();
        assert_eq!(read("bus/ap/drivers/vfio_ap/bind"), "05.0004");
        let offline = LparChange::SetCondition { adapter: Number(5), condition: Condition::Offline };
        host.execute(&Operation::Configure { changes: vec![offline] }).unwrap();
        assert_eq!(read("bus/ap/devices/card05/config"), "0");

        let add = Operation::Configure { changes: vec![LparChange::AddDomain { domain: Number(5) }] };
        let error = host.execute(&add).unwrap_err();
        assert!(error.errno() == "EOPNOTSUPP" && error.to_string().contains("support element"), "{error}");
        // A node that vanished between look and write.
        fs::remove_dir_all(root.path().join(format!("devices/vfio_ap/matrix/{ONE}"))).unwrap();
        let error = host.execute(&Operation::RemoveMdev { mdev }).unwrap_err();
        assert_eq!(error.errno(), "ENOENT");
        assert!(error.to_string().contains(ONE), "{error}");
    }

    /// What another changes is told, whichever attribute shows it.
    #[test]
    fn a_real_host_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let state = mixed();
        make_sysfs(root, &state);
        // As the kernel does it, nobody sees half of an attribute.
        let write = |path: &str, text: &str| {
            put(root, "new", text);
            fs::rename(root.join("new"), root.join(path)).unwrap();
        };
        let device = |name: &str| format!("devices/vfio_ap/matrix/{ONE}/{name}");
        let mask = |numbers: &[u8]| numbers.iter().copied().collect::<Mask256>();
        let host = Sysfs::new(root.to_owned());
        let (told, events) = std::sync::mpsc::channel();
        let watcher = std::thread::spawn(move || {
            host.watch(Duration::from_millis(1), &mut |event| told.send(event.clone()).is_ok())
        });
        // It begins with a look of which nobody is told; whoever is told of a change has begun.
        for config in ["1", "0"].iter().cycle() {
            write("bus/ap/devices/card08/config", config);
            if let Ok(first) = events.recv_timeout(Duration::from_millis(20)) {
                assert_eq!(first.number, 1);
                break;
            }
        }
        let mut number = 1;
        let mut next = |want: EventKind| {
            loop {
                let event = events.recv_timeout(Duration::from_secs(60)).expect("an event");
                number += 1;
                assert_eq!(event.number, number);
                if !matches!(&event.kind, EventKind::Adapter { adapter, .. } if adapter == "08") {
                    break assert_eq!(event.kind, want);
                }
            }
        };
        let mdev: Uuid = ONE.parse().unwrap();
        let assigned = |attribute: &str, value: &str| EventKind::Assigned {
            mdev,
            attribute: attribute.into(),
            value: value.into(),
        };
        let guest = |before: Matrix, after: Matrix| EventKind::guest_matrix(mdev, &before, &after).unwrap();
        write("bus/ap/devices/card06/config", "0");
        next(EventKind::Adapter { adapter: "06".into(), condition: Condition::Offline });
        write("bus/ap/apmask", &format!("{}\n", mask(&[])));
        next(EventKind::Masks { apmask: mask(&[]).to_string(), aqmask: state.aqmask.to_string() });
        fs::remove_file(root.join("bus/ap/devices/05.0047/driver")).unwrap();
        next(EventKind::Unbound { queue: "05.0047".into(), driver: Driver::VfioAp });
        write(&device("control_domains"), "0004\n0009\n");
        next(assigned("assign_control_domain", "0x4"));
        let had = state.mdevs[0].guest_matrix;
        next(guest(had, Matrix { adm: mask(&[4, 9]), ..had }));
        write(&device("guest_matrix"), "");
        next(guest(Matrix { adm: mask(&[4, 9]), ..had }, Matrix { adm: mask(&[4, 9]), ..Matrix::EMPTY }));
        write("bus/ap/ap_usage_domain_mask", &format!("{}\n", mask(&[4, 5])));
        let domains = |numbers: &[u8]| Matrix { aqm: mask(numbers), ..Matrix::EMPTY };
        next(EventKind::Configuration { added: domains(&[5]), removed: domains(&[0x47]) });
        fs::rename(root.join(format!("devices/vfio_ap/matrix/{ONE}")), root.join("gone")).unwrap();
        next(EventKind::MdevRemoved { mdev });
        drop(events);
        fs::rename(root.join("gone"), root.join(format!("devices/vfio_ap/matrix/{ONE}"))).unwrap();
        watcher.join().unwrap().unwrap();
    }
}
