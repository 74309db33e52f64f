//! What a Linux host tells about itself in proc, sys and dev.

use std::fs;
use std::path::{Path, PathBuf};

use ap::host::{Sysfs, apcb};
use crycb::Mask256;
use rustix::fs::{Access, access};

use super::{Check, Verdict};

/// Bytes that a guest of vfio_ap pins at most: one page each of the notification bytes of 256 queues.
const MOST_PINNED: u64 = 256 * 4096;
/// The facilities that AP for guests needs, with what they are.
const AP_FACILITIES: [(u16, &str); 3] =
    [(12, "query configuration"), (15, "facilities test"), (65, "queue interruption control")];

/// A host, seen below a root directory.
pub struct Host {
    root: PathBuf,
    /// Whether this user may read a file, and write it.
    may: fn(&Path) -> bool,
}

fn good(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Good, found: found.into(), cure: None }
}

fn note(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Note, found: found.into(), cure: None }
}

fn bad(name: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Check {
    Check { name, verdict: Verdict::Bad, found: found.into(), cure: Some(cure.into()) }
}

fn poor(name: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Check {
    Check { verdict: Verdict::Poor, ..bad(name, found, cure) }
}

impl Host {
    /// The host below `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.into(), may: |path| access(path, Access::READ_OK | Access::WRITE_OK).is_ok() }
    }

    /// Everything that is looked at, in the order of the way from the machine to the guest.
    pub fn checks(&self) -> Vec<Check> {
        let mut checks = vec![self.machine()];
        if checks[0].verdict == Verdict::Good {
            checks.push(self.sie());
            checks.push(self.kvm());
            checks.push(self.ap_bus());
            if self.is("sys/bus/ap") {
                checks.extend([
                    self.ap_facilities(),
                    self.queues(),
                    self.vfio_ap(),
                    self.masks(),
                    self.mdevs(),
                    self.ap_sysfs(),
                ]);
                checks.extend(self.apcbs());
                checks.push(self.vfio());
                checks.push(self.memlock());
            }
        }
        checks.extend([self.seccomp(), self.landlock()]);
        checks
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    fn is(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// The names in a directory, sorted; none if it is not there.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The words after `key :` of /proc/cpuinfo.
    fn cpuinfo(&self, key: &str) -> Vec<String> {
        let text = self.read("proc/cpuinfo").unwrap_or_default();
        let line = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.to_owned())
        });
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }

    fn machine(&self) -> Check {
        if self.cpuinfo("vendor_id") != ["IBM/S390"] {
            return note("machine", "no IBM Z: guests run on the software engine, with simulated cards");
        }
        let text = self.read("proc/sysinfo").unwrap_or_default();
        let value = |key: &str| {
            text.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned())
        };
        let kind = value("Type:").unwrap_or_else(|| "of an unknown type".into());
        let above = value("VM00 Control Program:").map_or("in an LPAR".into(), |by| format!("below {by}"));
        good("machine", format!("IBM Z {kind}, {above}"))
    }

    fn sie(&self) -> Check {
        if self.cpuinfo("features").iter().any(|feature| feature == "sie") {
            return good("sie", "the CPUs can run guests");
        }
        let cure = "have the hypervisor offer SIE to this guest: `nested=1` for its module kvm, on z/VM nothing to set";
        bad("sie", "the CPUs do not offer SIE here", cure)
    }

    fn kvm(&self) -> Check {
        let path = self.root.join("dev/kvm");
        if !path.exists() {
            return bad("kvm", "there is no /dev/kvm", "modprobe kvm");
        }
        if (self.may)(&path) {
            return good("kvm", "/dev/kvm can be opened");
        }
        bad("kvm", "this user may not open /dev/kvm", "usermod -a -G kvm $USER, and log in again")
    }

    fn ap_bus(&self) -> Check {
        if !self.is("sys/bus/ap") {
            let cure = "give this LPAR or guest adapters and domains (its activation profile; z/VM: CRYPTO in its \
                        directory entry), then: modprobe ap";
            return bad("ap-bus", "there is no /sys/bus/ap: no AP instructions", cure);
        }
        let cards =
            self.names("sys/bus/ap/devices").into_iter().filter(|name| name.starts_with("card")).count();
        match cards {
            0 => {
                let cure = "configure an adapter: chzcrypt --config-on N, or at the support element";
                bad("ap-bus", "no cards", cure)
            }
            cards => good("ap-bus", format!("{cards} cards")),
        }
    }

    fn ap_facilities(&self) -> Check {
        let present = self.cpuinfo("facilities");
        let lacking: Vec<String> = AP_FACILITIES
            .iter()
            .filter(|(number, _)| !present.contains(&number.to_string()))
            .map(|(number, name)| format!("{number} ({name})"))
            .collect();
        if lacking.is_empty() {
            return good("ap-facilities", "12, 15 and 65 are there");
        }
        let cure = "run on z13 or later, and have a hypervisor in between pass AP through";
        bad("ap-facilities", format!("without facility {}", lacking.join(", ")), cure)
    }

    fn queues(&self) -> Check {
        let bound = |driver: &str| {
            let names = self.names(&format!("sys/bus/ap/drivers/{driver}"));
            names.into_iter().filter(|name| is_queue(name)).collect::<Vec<_>>()
        };
        let guests = bound("vfio_ap");
        let hosts: usize =
            ["cex4queue", "cex2aqueue", "cex2cqueue"].iter().map(|driver| bound(driver).len()).sum();
        let some = match guests.len() {
            0 => String::new(),
            1..=8 => format!(" ({})", guests.join(", ")),
            _ => format!(" ({}, …)", guests[..8].join(", ")),
        };
        note("queues", format!("{} bound to vfio_ap{some}, {hosts} to the host's drivers", guests.len()))
    }

    fn vfio_ap(&self) -> Check {
        if self.is("sys/devices/vfio_ap/matrix") {
            return good("vfio_ap", "loaded");
        }
        if self.is("sys/module/vfio_ap") {
            let cure = "look for its reason: dmesg | grep vfio_ap";
            return bad("vfio_ap", "the module is there but has no matrix device", cure);
        }
        bad("vfio_ap", "not loaded", "modprobe vfio_ap")
    }

    fn masks(&self) -> Check {
        let mask =
            |name: &str| -> Option<Mask256> { self.read(&format!("sys/bus/ap/{name}"))?.trim().parse().ok() };
        let (Some(adapters), Some(domains)) = (mask("apmask"), mask("aqmask")) else {
            return bad("masks", "/sys/bus/ap/apmask or aqmask cannot be read", "use Linux 4.20 or later");
        };
        let free = |mask: &Mask256| 256 - mask.count();
        if free(&adapters) == 0 && free(&domains) == 0 && self.no_overrides() {
            let cure = "free queues for guests, as in: chzdev -t ap apmask=-5 aqmask=-0xab";
            return bad("masks", "every queue is the host's own", cure);
        }
        let count = |n: u32, what: &str| format!("{n} {what}");
        good(
            "masks",
            format!(
                "for guests: {} and {} taken from the host's drivers",
                count(free(&adapters), "adapters"),
                count(free(&domains), "domains")
            ),
        )
    }

    /// Whether no queue has been given to vfio_ap by itself.
    fn no_overrides(&self) -> bool {
        let queues = self.names("sys/bus/ap/devices").into_iter().filter(|name| is_queue(name));
        let given = |queue: String| {
            let path = format!("sys/bus/ap/devices/{queue}/driver_override");
            self.read(&path).is_some_and(|text| text.trim() == "vfio_ap")
        };
        !queues.into_iter().any(given)
    }

    fn mdevs(&self) -> Check {
        let directory = "sys/devices/vfio_ap/matrix";
        let names: Vec<_> =
            self.names(directory).into_iter().filter(|name| uuid::Uuid::parse_str(name).is_ok()).collect();
        if names.is_empty() {
            let cure = "make one: adjunct ap mdev create UUID; or one that comes back after a boot: mdevctl define --auto --uuid \
                        UUID --parent matrix --type vfio_ap-passthrough, and mdevctl start --uuid UUID";
            return bad("mdevs", "no mediated device", cure);
        }
        let lines = |name: &str, file: &str| -> usize {
            let text = self.read(&format!("{directory}/{name}/{file}")).unwrap_or_default();
            text.lines().filter(|line| is_queue(line.trim())).count()
        };
        let told: Vec<_> = names
            .iter()
            .map(|name| {
                format!(
                    "{name} ({} queues, {} for its guest)",
                    lines(name, "matrix"),
                    lines(name, "guest_matrix")
                )
            })
            .collect();
        let empty = names.iter().all(|name| lines(name, "matrix") == 0);
        if empty {
            let cure = "assign adapters and domains: adjunct ap, or mdevctl modify --addattr=assign_adapter --value=5";
            return poor("mdevs", told.join(", "), cure);
        }
        good("mdevs", told.join(", "))
    }

    /// Whether an operator can plug and unplug, which needs what guests and `adjunct run` do not.
    fn ap_sysfs(&self) -> Check {
        let matrix = "sys/devices/vfio_ap/matrix";
        let mut written = vec!["sys/bus/ap/apmask".to_owned(), "sys/bus/ap/aqmask".to_owned()];
        written.push(format!("{matrix}/mdev_supported_types/vfio_ap-passthrough/create"));
        let mdevs = self.names(matrix).into_iter().filter(|name| uuid::Uuid::parse_str(name).is_ok());
        written.extend(mdevs.flat_map(|mdev| {
            ["assign_adapter", "assign_domain"].map(|attribute| format!("{matrix}/{mdev}/{attribute}"))
        }));
        let refused = written.iter().filter(|path| self.is(path) && !(self.may)(&self.root.join(path)));
        let refused: Vec<_> = refused.map(|path| format!("/{path}")).collect();
        match &refused[..] {
            [] => good("ap-sysfs", "this user may change masks and mediated devices"),
            [first, rest @ ..] => {
                let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
                let cure = "guests run all the same; plug as root: sudo adjunct ap assign …, not the guest's own x-ap-…";
                poor("ap-sysfs", format!("this user may not write {first}{more}"), cure)
            }
        }
    }

    /// What guests have against what vfio_ap's rules give them.
    fn apcbs(&self) -> Vec<Check> {
        if !self.is("sys/devices/vfio_ap/matrix") {
            return Vec::new();
        }
        match apcb::lasting_differences(&Sysfs::new(self.root.join("sys"))) {
            Ok(found) if found.is_empty() => {
                vec![good("apcb", "every guest has what vfio_ap's rules give it")]
            }
            Ok(found) => found.iter().map(|one| bad("apcb", one.found().to_string(), one.cure())).collect(),
            Err(error) => vec![note("apcb", format!("what guests have cannot be compared: {error}"))],
        }
    }

    /// By groups and `/dev/vfio/vfio`, or by the devices' own files and `/dev/iommu`: whichever there is, groups first, as they
    /// are opened.
    fn vfio(&self) -> Check {
        let numbered = |directory: &str, prefix: &str| -> Vec<String> {
            let number = |name: &String| name.strip_prefix(prefix).is_some_and(|n| n.parse::<u32>().is_ok());
            let names = self.names(directory).into_iter().filter(number);
            names.map(|name| format!("{directory}/{name}")).collect()
        };
        let groups = (self.is("dev/vfio/vfio"), "dev/vfio/vfio", numbered("dev/vfio", ""), "groups");
        let devices = (self.is("dev/iommu"), "dev/iommu", numbered("dev/vfio/devices", "vfio"), "devices");
        let (_, first, files, kind) = match (groups.0, devices.0) {
            (false, false) => {
                let cure = "modprobe vfio_iommu_type1; on a kernel without VFIO groups: modprobe iommufd";
                return bad("vfio", "there is neither /dev/vfio/vfio nor /dev/iommu", cure);
            }
            (true, true) if groups.2.is_empty() && !devices.2.is_empty() => devices,
            (true, _) => groups,
            (false, true) => devices,
        };
        let all = std::iter::once(first.to_owned()).chain(files.iter().cloned());
        let refused: Vec<_> =
            all.filter(|path| !(self.may)(&self.root.join(path))).map(|path| format!("/{path}")).collect();
        if refused.is_empty() {
            return good("vfio", format!("{} {kind} can be opened, and /{first}", files.len()));
        }
        let refused = refused.join(" ");
        let cure = format!(
            "setfacl -m u:$USER:rw {refused}; or the package's udev rules, which have them for the group kvm"
        );
        bad("vfio", format!("this user may not open {refused}"), cure)
    }

    fn memlock(&self) -> Check {
        let text = self.read("proc/self/limits").unwrap_or_default();
        let limit = text.lines().find_map(|line| line.strip_prefix("Max locked memory"));
        let soft = limit.and_then(|limit| limit.split_whitespace().next()).unwrap_or_default();
        match soft.parse::<u64>() {
            _ if soft == "unlimited" => good("memlock", "memory may be locked without limit"),
            Ok(bytes) if bytes >= MOST_PINNED => good("memlock", format!("{bytes} bytes may be locked")),
            Ok(bytes) => {
                let cure = format!("ulimit -l {}, or LimitMEMLOCK= in the unit", MOST_PINNED >> 10);
                bad("memlock", format!("only {bytes} bytes may be locked"), cure)
            }
            Err(_) => note("memlock", "the limit is not told"),
        }
    }

    fn seccomp(&self) -> Check {
        let actions = self.read("proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
        if actions.split_whitespace().any(|action| action == "kill_process") {
            return good("seccomp", "system calls can be filtered");
        }
        poor("seccomp", "the kernel filters no system calls", "use a kernel with CONFIG_SECCOMP_FILTER")
    }

    fn landlock(&self) -> Check {
        let modules = self.read("sys/kernel/security/lsm");
        let named =
            modules.as_ref().is_some_and(|list| list.trim().split(',').any(|module| module == "landlock"));
        // Where the list cannot be read the kernel itself can be asked, but only about this host.
        let asked =
            modules.is_none() && self.root == Path::new("/") && vmm::sandbox::landlock_version().is_some();
        if named || asked {
            return good("landlock", "access to files can be given up");
        }
        let cure = "use Linux 5.13 or later with `landlock` in its parameter lsm=";
        poor("landlock", "access to files cannot be given up", cure)
    }
}

/// Whether a name is a queue's: `05.00ab`.
fn is_queue(name: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    name.split_once('.')
        .is_some_and(|(card, domain)| card.len() == 2 && domain.len() == 4 && hex(card) && hex(domain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const MDEV: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";

    /// A tree with these files; an empty path component makes a directory.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const ONES: &str = "0xffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\n";
    const NOT_5: &str = "0xfbffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\n";

    /// A host with everything.
    fn mainframe() -> BTreeMap<&'static str, &'static str> {
        BTreeMap::from([
            (
                "proc/cpuinfo",
                "vendor_id       : IBM/S390\nfeatures\t: esan3 zarch sie \nfacilities      : 0 1 2 12 15 65 76\n",
            ),
            ("proc/sysinfo", "Manufacturer:         IBM\nType:                 3931\n"),
            (
                "proc/self/limits",
                "Limit  Soft Limit  Hard Limit  Units\nMax locked memory         8388608   8388608   bytes\n",
            ),
            ("proc/sys/kernel/seccomp/actions_avail", "kill_process kill_thread log allow\n"),
            ("sys/kernel/security/lsm", "capability,landlock,selinux\n"),
            ("dev/kvm", ""),
            ("dev/vfio/vfio", ""),
            ("dev/vfio/0", ""),
            ("sys/bus/ap/apmask", NOT_5),
            ("sys/bus/ap/aqmask", ONES),
            ("sys/bus/ap/devices/card05/type", "CEX8C"),
            ("sys/bus/ap/devices/05.00ab/x", ""),
            ("sys/bus/ap/drivers/vfio_ap/05.00ab", ""),
            ("sys/bus/ap/drivers/cex4queue/06.00ab", ""),
            ("sys/module/vfio_ap/x", ""),
            ("sys/devices/vfio_ap/matrix/62177883-f1bb-47f0-914d-32a22e3a8804/matrix", "05.00ab\n05.00ac\n"),
            ("sys/devices/vfio_ap/matrix/62177883-f1bb-47f0-914d-32a22e3a8804/guest_matrix", "05.00ab\n"),
            ("sys/devices/vfio_ap/matrix/mdev_supported_types/x", ""),
        ])
    }

    /// The report of a mainframe with these files changed, or removed where there is no text, for a user who may open what
    /// `may` says: root, who runs tests too, may open everything.
    fn report(changes: &[(&'static str, Option<&'static str>)], may: fn(&Path) -> bool) -> Vec<Check> {
        let mut files = mainframe();
        for (path, text) in changes {
            match text {
                Some(text) => drop(files.insert(path, text)),
                None => files.retain(|file, _| !file.starts_with(path)),
            }
        }
        let files: Vec<_> = files.into_iter().collect();
        Host { may, ..Host::new(tree(&files).path()) }.checks()
    }

    #[track_caller]
    fn check(changes: &[(&'static str, Option<&'static str>)], name: &str, verdict: Verdict, words: &[&str]) {
        check_as(|_| true, changes, name, verdict, words);
    }

    #[track_caller]
    fn check_as(
        may: fn(&Path) -> bool,
        changes: &[(&'static str, Option<&'static str>)],
        name: &str,
        verdict: Verdict,
        words: &[&str],
    ) {
        let checks = report(changes, may);
        let found =
            checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("{name} in {checks:?}"));
        let text = format!("{} {}", found.found, found.cure.as_deref().unwrap_or_default());
        assert!(found.verdict == verdict && words.iter().all(|word| text.contains(word)), "{found:?}");
        assert_eq!(found.cure.is_some(), matches!(verdict, Verdict::Bad | Verdict::Poor), "{found:?}");
        let others = checks.iter().filter(|check| check.name != name && check.verdict == Verdict::Bad);
        assert_eq!(others.count(), 0, "{checks:?}");
    }

    #[test]
    fn a_mainframe_with_everything() {
        check(&[], "machine", Verdict::Good, &["IBM Z 3931, in an LPAR"]);
        check(&[], "queues", Verdict::Note, &["1 bound to vfio_ap (05.00ab), 1 to the host's"]);
        check(&[], "masks", Verdict::Good, &["1 adapters and 0 domains"]);
        check(&[], "mdevs", Verdict::Good, &[MDEV, "2 queues, 1 for its guest"]);
        check(&[], "ap-bus", Verdict::Good, &["1 cards"]);
        check(&[], "vfio", Verdict::Good, &["1 groups"]);
        check(
            &[("proc/sysinfo", Some("VM00 Control Program: z/VM 7.3\n"))],
            "machine",
            Verdict::Good,
            &["below z/VM 7.3"],
        );
    }

    #[test]
    fn each_red_line_has_its_cure() {
        use Verdict::{Bad, Poor};
        let bare = "vendor_id : IBM/S390\nfeatures : zarch\nfacilities : 12 15 65\n";
        let old = "vendor_id : IBM/S390\nfeatures : sie\nfacilities : 12 15\n";
        let mdev = "sys/devices/vfio_ap/matrix/62177883-f1bb-47f0-914d-32a22e3a8804";
        let limits = "Max locked memory         65536   65536   bytes\n";
        for (path, text, name, verdict, words) in [
            ("proc/cpuinfo", Some(bare), "sie", Bad, ["offer SIE", "nested=1"]),
            ("proc/cpuinfo", Some(old), "ap-facilities", Bad, ["65 (queue", "z13"]),
            ("dev/kvm", None, "kvm", Bad, ["no /dev/kvm", "modprobe kvm"]),
            ("sys/bus/ap", None, "ap-bus", Bad, ["no AP instructions", "modprobe ap"]),
            ("sys/bus/ap/devices/card05", None, "ap-bus", Bad, ["no cards", "chzcrypt --config-on"]),
            ("sys/bus/ap/apmask", Some(ONES), "masks", Bad, ["host's own", "chzdev -t ap apmask=-5"]),
            ("sys/bus/ap/apmask", Some("zz"), "masks", Bad, ["cannot be read", "4.20"]),
            (mdev, None, "mdevs", Bad, ["no mediated device", "adjunct ap mdev create UUID"]),
            (mdev, None, "mdevs", Bad, ["no mediated device", "mdevctl start --uuid UUID"]),
            ("dev/vfio", None, "vfio", Bad, ["neither /dev/vfio/vfio nor /dev/iommu", "modprobe iommufd"]),
            ("proc/self/limits", Some(limits), "memlock", Bad, ["only 65536", "LimitMEMLOCK"]),
            ("proc/sys", None, "seccomp", Poor, ["no system calls", "CONFIG_SECCOMP_FILTER"]),
            ("sys/kernel/security/lsm", Some("yama\n"), "landlock", Poor, ["cannot be given up", "lsm="]),
        ] {
            check(&[(path, text)], name, verdict, &words);
        }
        check(
            &[("sys/devices/vfio_ap/matrix/62177883-f1bb-47f0-914d-32a22e3a8804/matrix", Some("\n"))],
            "mdevs",
            Poor,
            &["0 queues", "assign_adapter"],
        );
        let override_ = [
            ("sys/bus/ap/apmask", Some(ONES)),
            ("sys/bus/ap/devices/05.00ab/driver_override", Some("vfio_ap\n")),
        ];
        check(&override_, "masks", Verdict::Good, &[]);
        let gone = report(&[("sys/devices/vfio_ap", None), ("sys/module/vfio_ap", None)], |_| true);
        let found = gone.iter().find(|check| check.name == "vfio_ap").unwrap();
        assert_eq!((found.verdict, found.cure.as_deref()), (Bad, Some("modprobe vfio_ap")));
    }

    /// Devices by groups, by files of their own, and by both.
    #[test]
    fn either_way_of_vfio_will_do() {
        use Verdict::{Bad, Good};
        let by_devices = [
            ("dev/vfio", None),
            ("dev/iommu", Some("")),
            ("dev/vfio/devices/vfio0", Some("")),
            ("dev/vfio/devices/vfio1", Some("")),
        ];
        check(&by_devices, "vfio", Good, &["2 devices can be opened, and /dev/iommu"]);
        check(&[("dev/iommu", Some(""))], "vfio", Good, &["1 groups can be opened, and /dev/vfio/vfio"]);
        let without_groups =
            [("dev/vfio/0", None), ("dev/iommu", Some("")), ("dev/vfio/devices/vfio0", Some(""))];
        check(&without_groups, "vfio", Good, &["1 devices", "/dev/iommu"]);
        check_as(
            |path| !path.ends_with("vfio/0"),
            &[],
            "vfio",
            Bad,
            &["not open /dev/vfio/0", "setfacl", "udev"],
        );
        check_as(
            |path| !path.ends_with("iommu"),
            &by_devices,
            "vfio",
            Bad,
            &["may not open /dev/iommu", "kvm"],
        );
        check_as(|path| !path.ends_with("kvm"), &[], "kvm", Bad, &["may not open /dev/kvm", "usermod"]);
    }

    #[test]
    fn who_may_not_plug_is_told() {
        use Verdict::{Good, Poor};
        let attribute = "sys/devices/vfio_ap/matrix/62177883-f1bb-47f0-914d-32a22e3a8804/assign_adapter";
        check(&[(attribute, Some(""))], "ap-sysfs", Good, &["may change"]);
        let plain = |path: &Path| !path.to_string_lossy().contains("/sys/");
        check_as(
            plain,
            &[],
            "ap-sysfs",
            Poor,
            &["not write /sys/bus/ap/apmask and 1 more", "sudo adjunct ap"],
        );
        let but_mdevs = |path: &Path| !path.ends_with("assign_adapter");
        check_as(but_mdevs, &[(attribute, Some(""))], "ap-sysfs", Poor, &[attribute]);
    }

    /// What vfio_ap gave a guest against what its rules give.
    #[test]
    fn a_wrong_apcb_is_red() {
        let root = tempfile::tempdir().unwrap();
        ap::passthrough::record::make_host(root.path());
        let apcb = |guest_matrix: &str| {
            let path = format!("sys/devices/vfio_ap/matrix/{MDEV}/guest_matrix");
            fs::write(root.path().join(path), guest_matrix).unwrap();
            let checks = Host::new(root.path()).checks();
            let rows: Vec<_> = checks.into_iter().filter(|check| check.name == "apcb").collect();
            let [Check { verdict, found, cure, .. }] = &rows[..] else { panic!("one row: {rows:?}") };
            (*verdict, format!("{found}; {}", cure.as_deref().unwrap_or("nothing to do")))
        };
        let (verdict, text) = apcb("05.0004\n05.0047\n06.0004\n06.0047\n");
        assert_eq!(verdict, Verdict::Good, "{text}");
        let (verdict, text) = apcb("05.0004\n05.0047\n06.0004\n06.0047\n08.0004\n08.0047\n");
        assert_eq!(verdict, Verdict::Bad);
        for part in [MDEV, "the guest's APCB is not what", "it has adapters 0x08; end the guest, and report"]
        {
            assert!(text.contains(part), "{text}");
        }
        let (verdict, text) = apcb("06.0004\n06.0047\n");
        assert_eq!(verdict, Verdict::Bad);
        assert!(
            text.contains("it lacks adapters 0x05; a queue's reset failed") && text.contains("ap_config"),
            "{text}"
        );
        fs::write(root.path().join("sys/bus/ap/ap_adapter_mask"), "zz").unwrap();
        let (verdict, text) = apcb("");
        assert!(verdict == Verdict::Note && text.contains("cannot be compared"), "{text}");
    }

    #[test]
    fn a_laptop_is_no_failure() {
        let root = tree(&[("proc/cpuinfo", "vendor_id\t: GenuineIntel\n")]);
        let checks = Host::new(root.path()).checks();
        assert_eq!(checks[0].verdict, Verdict::Note);
        assert!(checks.iter().all(|check| check.verdict != Verdict::Bad), "{checks:?}");
        // Any machine will do.
        assert!(!Host::new(Path::new("/")).checks().is_empty());
    }
}
