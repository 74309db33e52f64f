//! Whether a mediated device can be given to a guest, found out before anything is opened. What stands in the way is told
//! with the command that cures it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{self, PathBuf};

use crycb::{Apqn, Matrix};
use rustix::fs::{Access, access};
use uuid::Uuid;

use super::name::MdevName;
use crate::host::{self, Driver, HostError, Rule, Snapshot, Subject, Sysfs};

/// The facilities that a host of vfio_ap needs.
const FACILITIES: [(u16, &str); 3] =
    [(12, "AP query configuration"), (15, "AP facilities test"), (65, "AP queue interruption control")];
/// Bytes that a guest has pinned at most: a page each of the notification bytes of 256 queues.
const MOST_PINNED: u64 = 256 * 4096;
/// The release of Linux whose vfio_ap has the interruption VFIO_AP_CFG_CHG_IRQ_INDEX.
const SIGNALLED_SINCE: (u32, u32) = (6, 15);
/// The capability that locks memory without limit.
const CAP_IPC_LOCK: u32 = 14;
/// Most queues that are told of.
const MOST_TOLD: usize = 16;

/// Where a host's file systems are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    root: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self::below("/")
    }
}

impl Places {
    /// `sys`, `dev` and `proc` below this directory.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The host's sysfs.
    pub fn sysfs(&self) -> Sysfs {
        Sysfs::new(self.root.join("sys"))
    }

    /// Whether the host has an AP bus at all.
    pub fn has_ap(&self) -> bool {
        self.root.join("sys/bus/ap").is_dir()
    }

    /// This path of the host, as an error names it and as it is found.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.at(path)).ok()
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// The command that cures it, or where to look.
    pub cure: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; cure: {}", self.what, self.cure)
    }
}

/// By which file a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// `/dev/vfio/N` and a container.
    Group(u32),
    /// `/dev/vfio/devices/vfioN` and an iommufd.
    Device(u32),
}

/// A device that can be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub mdev: Uuid,
    /// Its directory in sysfs.
    pub sysfs: PathBuf,
    /// How to open it.
    pub path: Path,
    /// What keeps queues from the guest, and other things that do not keep it from starting.
    pub warnings: Vec<Problem>,
}

/// Looks at the host.
///
/// # Errors
/// Everything that would keep the device from being opened.
pub fn preflight(places: &Places, name: MdevName) -> Result<Target, Vec<Problem>> {
    look(places, name, false)
}

/// Looks at the host, where the file of the device's name is open already: then this user need not be able to open it.
///
/// # Errors
/// Everything else that would keep the device from being opened.
pub(super) fn preflight_of_open(places: &Places, name: MdevName) -> Result<Target, Vec<Problem>> {
    look(places, name, true)
}

fn look(places: &Places, name: MdevName, opened: bool) -> Result<Target, Vec<Problem>> {
    let mut look = Look { places, opened, problems: Vec::new(), warnings: Vec::new() };
    let target = look.all(name);
    let Look { problems, warnings, .. } = look;
    match target {
        Some((mdev, sysfs, path)) if problems.is_empty() => Ok(Target { mdev, sysfs, path, warnings }),
        _ => {
            assert!(!problems.is_empty(), "what is not found has its problem");
            Err(problems)
        }
    }
}

struct Look<'a> {
    places: &'a Places,
    /// The file of the device's name is open.
    opened: bool,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Look<'_> {
    fn bad(&mut self, what: impl Into<String>, cure: impl Into<String>) {
        self.problems.push(Problem { what: what.into(), cure: cure.into() });
    }

    fn poor(&mut self, what: impl Into<String>, cure: impl Into<String>) {
        self.warnings.push(Problem { what: what.into(), cure: cure.into() });
    }

    fn all(&mut self, name: MdevName) -> Option<(Uuid, PathBuf, Path)> {
        self.facilities();
        if !self.places.has_ap() {
            self.bad(
                "there is no /sys/bus/ap: this host has no AP instructions",
                "give it adapters and domains (LPAR: activation profile; z/VM: CRYPTO in its directory entry), then: modprobe ap",
            );
            return None;
        }
        if !self.places.at("/sys/devices/vfio_ap/matrix").is_dir() {
            self.bad("vfio_ap is not loaded: there is no /sys/devices/vfio_ap/matrix", "modprobe vfio_ap");
            return None;
        }
        let mdev = self.find(name)?;
        let sysfs = self.places.sysfs().mdev(mdev);
        if !sysfs.is_dir() {
            self.bad(
                format!("there is no mdev {mdev}"),
                format!(
                    "mdevctl start -u {mdev} (a defined one), or echo {mdev} > \
                     /sys/devices/vfio_ap/matrix/mdev_supported_types/vfio_ap-passthrough/create"
                ),
            );
            return None;
        }
        self.driver(mdev, &sysfs);
        match self.places.sysfs().snapshot() {
            Ok(host) => self.queues(&host, mdev),
            Err(error) => self.unreadable(&error),
        }
        self.locked_memory();
        self.interruptions();
        let path = self.path(name, mdev, &sysfs)?;
        Some((mdev, sysfs, path))
    }

    fn unreadable(&mut self, error: &HostError) {
        let cure = match error.errno() {
            "EACCES" | "EPERM" => "run it as root, or let this user read /sys/bus/ap",
            _ => "use Linux 4.20 or later; `dmesg | grep -e ap: -e vfio_ap` can say more",
        };
        self.bad(error.to_string(), cure);
    }

    fn facilities(&mut self) {
        let cpuinfo = self.places.read("/proc/cpuinfo").unwrap_or_default();
        let line = cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == "facilities").then_some(value)
        });
        let Some(line) = line else { return };
        let present: BTreeSet<u16> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let lacking: Vec<_> = FACILITIES.iter().filter(|(n, _)| !present.contains(n)).collect();
        if !lacking.is_empty() {
            let names: Vec<_> = lacking.iter().map(|(n, name)| format!("{n} ({name})")).collect();
            self.bad(
                format!("the host's CPUs are without facility {}", names.join(", ")),
                "run on z13 or later, and have a hypervisor in between pass AP through",
            );
        }
    }

    /// The mediated device that is called so.
    fn find(&mut self, name: MdevName) -> Option<Uuid> {
        let cure = "`adjunct ap list` shows the mediated devices, `ls -l /sys/bus/mdev/devices/*/iommu_group` their groups";
        match name {
            MdevName::Uuid(uuid) => Some(uuid),
            MdevName::Group(number) => {
                let path = format!("/sys/kernel/iommu_groups/{number}/devices");
                let found = names(&self.places.at(&path)).into_iter().find_map(|name| name.parse().ok());
                if found.is_none() {
                    self.bad(format!("group {number} ({name}) has no mediated device"), cure);
                }
                found
            }
            MdevName::Device(number) => {
                let matrix = self.places.at("/sys/devices/vfio_ap/matrix");
                let of = |name: &String| matrix.join(name).join(format!("vfio-dev/vfio{number}")).is_dir();
                let found = names(&matrix).into_iter().find(of).and_then(|name| name.parse().ok());
                if found.is_none() {
                    self.bad(format!("{name} is no mediated device of vfio_ap"), cure);
                }
                found
            }
        }
    }

    fn driver(&mut self, mdev: Uuid, sysfs: &path::Path) {
        if let Ok(api) = fs::read_to_string(sysfs.join("mdev_type/device_api"))
            && api.trim() != "vfio-ap"
        {
            self.bad(
                format!("mdev {mdev} is a {} device, not vfio-ap", api.trim()),
                "`adjunct ap list` shows those of vfio_ap",
            );
        }
        match fs::read_link(sysfs.join("driver")).ok().as_deref().and_then(path::Path::file_name) {
            Some(driver) if driver == "vfio_ap_mdev" => {}
            Some(driver) => self.bad(
                format!("mdev {mdev} is bound to {}, not vfio_ap_mdev", driver.display()),
                format!(
                    "echo {mdev} > /sys/bus/mdev/devices/{mdev}/driver/unbind; echo {mdev} > \
                     /sys/bus/mdev/drivers/vfio_ap_mdev/bind"
                ),
            ),
            None => self.bad(
                format!("mdev {mdev} is bound to no driver"),
                format!("echo {mdev} > /sys/bus/mdev/drivers/vfio_ap_mdev/bind"),
            ),
        }
    }

    /// The matrix, and who owns each of its queues.
    fn queues(&mut self, host: &Snapshot, mdev: Uuid) {
        let directory = format!("/sys/devices/vfio_ap/matrix/{mdev}");
        let Some(device) = host.mdev(mdev) else {
            if self.places.at(&directory).join("matrix").exists() {
                self.poor(
                    format!("mdev {mdev} has no guest_matrix: what its guest gets cannot be seen"),
                    "use Linux 6.0 or later",
                );
            } else {
                self.bad(
                    format!("mdev {mdev} vanished while it was looked at"),
                    "`adjunct ap list`, and try again",
                );
            }
            return;
        };
        if device.attached {
            self.bad(
                format!("mdev {mdev} is in use by another guest"),
                "end that guest (fuser -v /dev/vfio/* shows it), or name another mdev",
            );
        }
        if device.matrix.apqns().next().is_none() {
            self.poor(
                format!("mdev {mdev} has no queues: it needs an adapter and a domain"),
                format!("echo 5 > {directory}/assign_adapter; echo 4 > {directory}/assign_domain"),
            );
        }
        let fates = host::explain(host, mdev).unwrap_or_default();
        let mut told = BTreeSet::new();
        let mut left_out = 0;
        for fate in fates.iter().filter(|fate| !fate.outcome.plugged()) {
            let Subject::Queue(apqn) = fate.subject else { continue };
            let culprit = fate.because.unwrap_or(apqn);
            // One adapter or queue withholds many.
            if !told.insert((fate.rule, fate.reason.clone())) {
                continue;
            }
            if told.len() > MOST_TOLD {
                left_out += 1;
                continue;
            }
            self.poor(
                format!("{apqn} is not for the guest: {}", fate.reason),
                cure(host, fate.rule, culprit, mdev),
            );
        }
        if left_out > 0 {
            self.poor(
                format!("{left_out} more reasons keep queues from the guest"),
                "`adjunct ap explain` has all",
            );
        }
    }

    fn locked_memory(&mut self) {
        let status = self.places.read("/proc/self/status").unwrap_or_default();
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let capabilities = capabilities.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
        if capabilities.is_some_and(|set| set >> CAP_IPC_LOCK & 1 == 1) {
            return;
        }
        let limits = self.places.read("/proc/self/limits").unwrap_or_default();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
        let limit =
            line.and_then(|line| line.split_whitespace().next()).and_then(|text| text.parse::<u64>().ok());
        if let Some(limit) = limit.filter(|limit| *limit < MOST_PINNED) {
            self.poor(
                format!("this process may lock {limit} bytes: a guest with many queues gets no interruptions for some"),
                format!("ulimit -l {}, or LimitMEMLOCK= in the unit", MOST_PINNED >> 10),
            );
        }
    }

    /// Which of its interruptions the device has is known only once it is open. Before that the kernel's release says what
    /// to expect.
    fn interruptions(&mut self) {
        let release = self.places.read("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return };
        if (major, minor) < SIGNALLED_SINCE {
            let (since, later) = SIGNALLED_SINCE;
            self.poor(
                format!(
                    "Linux {major}.{minor} does not signal changes of a guest's queues, unless its distributor has added \
                     that: guest_matrix is looked at instead"
                ),
                format!("use Linux {since}.{later} or later to have the guest told at once"),
            );
        }
    }

    /// The file to open, which this user may open.
    fn path(&mut self, name: MdevName, mdev: Uuid, sysfs: &path::Path) -> Option<Path> {
        let group = fs::read_link(sysfs.join("iommu_group")).ok();
        let group = group.and_then(|link| link.file_name()?.to_str()?.parse().ok());
        let device =
            names(&sysfs.join("vfio-dev")).iter().find_map(|name| name.strip_prefix("vfio")?.parse().ok());
        let there = |path: String| self.places.at(&path).exists();
        let by_group = group.filter(|n| there(format!("/dev/vfio/{n}")));
        let by_device = device.filter(|n| there(format!("/dev/vfio/devices/vfio{n}")));
        let path = match name {
            MdevName::Group(number) => Path::Group(number),
            MdevName::Device(number) => Path::Device(number),
            MdevName::Uuid(_) => match (by_group, by_device) {
                (Some(number), None) => Path::Group(number),
                (Some(number), Some(_)) if there("/dev/vfio/vfio".into()) => Path::Group(number),
                (_, Some(number)) => Path::Device(number),
                (None, None) => {
                    let cure = "modprobe vfio_iommu_type1 (or, without groups in the kernel, modprobe iommufd), and look at udev";
                    match (group, device) {
                        (Some(n), _) => {
                            self.bad(format!("there is no /dev/vfio/{n}, the group of mdev {mdev}"), cure);
                        }
                        (None, Some(n)) => {
                            self.bad(format!("there is no /dev/vfio/devices/vfio{n} of mdev {mdev}"), cure);
                        }
                        (None, None) => self.bad(
                            format!("mdev {mdev} has no iommu_group and no vfio-dev: VFIO does not know it"),
                            cure,
                        ),
                    }
                    return None;
                }
            },
        };
        match path {
            Path::Group(number) => {
                self.may_open("/dev/vfio/vfio", "modprobe vfio_iommu_type1");
                if !self.opened {
                    self.may_open(&format!("/dev/vfio/{number}"), "modprobe vfio_iommu_type1");
                }
            }
            Path::Device(number) => {
                self.may_open("/dev/iommu", "modprobe iommufd");
                if !self.opened {
                    self.may_open(
                        &format!("/dev/vfio/devices/vfio{number}"),
                        "use Linux 6.6 or later with CONFIG_VFIO_DEVICE_CDEV",
                    );
                }
            }
        }
        Some(path)
    }

    fn may_open(&mut self, path: &str, provide: &str) {
        match access(self.places.at(path), Access::READ_OK | Access::WRITE_OK) {
            Ok(()) => {}
            Err(error) if std::io::Error::from(error).kind() == ErrorKind::NotFound => {
                self.bad(format!("there is no {path}"), provide);
            }
            Err(_) => self.bad(
                format!("this user may not open {path}"),
                format!("setfacl -m u:$USER:rw {path}, or a udev rule that does"),
            ),
        }
    }
}

/// What gives a guest a queue that this rule keeps from it. `culprit` is the queue that decided.
fn cure(host: &Snapshot, rule: Rule, culprit: Apqn, mdev: Uuid) -> String {
    let (apid, apqi) = (culprit.apid(), culprit.apqi());
    let bind = format!("echo {culprit} > /sys/bus/ap/drivers/vfio_ap/bind");
    match rule {
        Rule::NotBound => match host.queue(culprit).and_then(|queue| queue.driver) {
            Some(Driver::Default) if reserved(host, culprit) => {
                format!(
                    "chzdev -t ap apmask=-{0}, or echo -{0} > /sys/bus/ap/apmask (for the domain: aqmask, -{1})",
                    apid.0, apqi.0
                )
            }
            Some(_) => format!("echo {culprit} > /sys/bus/ap/devices/{culprit}/driver/unbind; {bind}"),
            None => bind,
        },
        Rule::NotInConfiguration => format!(
            "chzcrypt --config-on {0}, or at the support element give the partition adapter {0:#04x} and domain {1:#04x}",
            apid.0, apqi.0
        ),
        Rule::NoQueue => {
            "echo 1 > /sys/bus/ap/scans; if it stays away, `lszcrypt -V` shows the state of the card"
                .to_owned()
        }
        Rule::AwaitsFilter | Rule::KeptUntilFilter => {
            format!("f=/sys/devices/vfio_ap/matrix/{mdev}/ap_config; c=$(cat $f); echo $c > $f")
        }
        _ => format!("echo {culprit} > /sys/bus/ap/devices/{culprit}/driver/unbind; {bind}"),
    }
}

/// Whether masks or an override give the queue to the host's own drivers.
fn reserved(host: &Snapshot, apqn: Apqn) -> bool {
    let apm = [apqn.apid().0].into_iter().collect();
    let one = Matrix { apm, aqm: [apqn.apqi().0].into_iter().collect(), ..Matrix::EMPTY };
    host.permissions().owned_by_default(&one).is_some()
}

/// The names in a directory, sorted; none if it is not there.
fn names(directory: &path::Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
