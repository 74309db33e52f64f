//! A guest's device from preflight to detach, with a recording kernel and a made-up host.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path as FilePath;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crycb::{Apqn, Matrix};
use machine::Storage;
use uuid::Uuid;

use super::record::{Recorder, make_host};
use super::*;
use crate::host::tree::put;
use crate::host::{EventKind, MatrixChange};

pub(super) const ONE: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
const MATRIX: &str = "sys/devices/vfio_ap/matrix/62177883-f1bb-47f0-914d-32a22e3a8804";

pub(super) fn one() -> Uuid {
    ONE.parse().unwrap()
}

pub(super) fn host() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    make_host(root.path());
    root
}

fn remove(root: &FilePath, path: &str) {
    let path = root.join(path);
    if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
        .unwrap();
}

/// A guest that notes what it is told.
struct Told {
    reports: Mutex<Sender<()>>,
    /// How many queues it has by what it was told, and which devices were taken.
    has: Arc<Mutex<(usize, Vec<Plugged>)>>,
}

impl Guest for Told {
    fn configuration_changed(&self) {
        let _ = self.reports.lock().unwrap().send(());
    }

    fn matrix_changed(&self, mdev: Uuid, before: &Matrix, after: &Matrix) {
        assert_eq!(mdev, one());
        let has = &mut self.has.lock().unwrap().0;
        assert_eq!(*has, before.apqns().count());
        *has = after.apqns().count();
    }

    fn released(&self, device: &Plugged) {
        self.has.lock().unwrap().1.push(device.clone());
    }
}

struct Bench {
    root: tempfile::TempDir,
    recorder: Recorder,
    passthrough: Passthrough,
    told: Receiver<()>,
    has: Arc<Mutex<(usize, Vec<Plugged>)>>,
    events: crate::host::Watch,
}

fn bench_with(recorder: Recorder) -> Bench {
    let root = host();
    let (send, told) = channel();
    let storage = Arc::new(Storage::new(1 << 20).unwrap());
    let has: Arc<Mutex<(usize, Vec<Plugged>)>> = Arc::default();
    let passthrough = Passthrough::new(
        Places::below(root.path()),
        Arc::new(recorder.clone()),
        Arc::new(recorder.clone()),
        storage,
        Arc::new(Told { reports: Mutex::new(send), has: has.clone() }),
    );
    let events = passthrough.subscribe(Box::new(|| {}));
    Bench { root, recorder, passthrough, told, has, events }
}

fn bench() -> Bench {
    bench_with(Recorder::new())
}

impl Bench {
    fn plug(&self, name: MdevName) -> Result<(Plugged, crycb::Matrix), Error> {
        self.passthrough.plug(name, Some("ap0".into()), false)
    }

    /// Waits for the next thing that the guest is told.
    fn told(&self) {
        self.told.recv_timeout(Duration::from_secs(60)).expect("the guest is told");
    }

    fn event(&self) -> EventKind {
        self.events.recv_timeout(Duration::from_secs(60)).expect("an event").kind
    }

    fn guest_matrix(&self, text: &str) {
        // As the kernel does it, no reader sees half of it.
        let path = self.root.path().join(MATRIX);
        fs::write(path.join("new"), text).unwrap();
        fs::rename(path.join("new"), path.join("guest_matrix")).unwrap();
    }
}

pub(super) const GROUP: MdevName = MdevName::Group(3);
pub(super) const DEVICE: MdevName = MdevName::Device(0);

#[rustfmt::skip]
const OPEN_GROUP: [&str; 14] = [
    "open container", "open group3", "group3 viable", "group3 join", "container type1v2", "kvm add",
    "container map 1048576", "open device 62177883", "device 62177883 information", "device 62177883 events of 0",
    "device 62177883 signal 0 on", "device 62177883 events of 1", "device 62177883 signal 1 on", "",
];
#[rustfmt::skip]
const CLOSE_GROUP: [&str; 8] = [
    "device 62177883 signal 1 off", "device 62177883 signal 0 off", "close device 62177883", "container unmap",
    "kvm remove", "group3 leave", "close container", "close group3",
];
#[rustfmt::skip]
const OPEN_DEVICE: [&str; 12] = [
    "open iommufd", "iommufd map 1048576", "open vfio0", "kvm add", "vfio0 bind", "vfio0 attach 7", "vfio0 information",
    "vfio0 events of 0", "vfio0 signal 0 on", "vfio0 events of 1", "vfio0 signal 1 on", "",
];
#[rustfmt::skip]
const CLOSE_DEVICE: [&str; 7] = [
    "vfio0 signal 1 off", "vfio0 signal 0 off", "vfio0 detach", "kvm remove", "close vfio0", "iommufd unmap",
    "close iommufd",
];

fn calls(list: &[&str]) -> Vec<String> {
    list.iter().filter(|call| !call.is_empty()).map(|call| call.to_string()).collect()
}

/// Start, reset, shutdown.
#[test]
fn order_of_a_life() {
    for (name, open, close) in
        [(GROUP, &OPEN_GROUP[..], &CLOSE_GROUP[..]), (DEVICE, &OPEN_DEVICE, &CLOSE_DEVICE)]
    {
        let bench = bench();
        let (device, matrix) = bench.passthrough.plug(name, Some("ap0".into()), true).unwrap();
        assert_eq!((device.mdev, matrix.apqns().count()), (one(), 4));
        assert_eq!(bench.recorder.take_calls(), calls(open));
        bench.passthrough.reset().unwrap();
        assert_eq!(bench.recorder.take_calls().last().unwrap().split(' ').next_back(), Some("reset"));
        assert!(bench.told.try_recv().is_err(), "a guest that starts is told nothing");
        drop(bench.passthrough);
        assert_eq!(bench.recorder.take_calls(), calls(close));
        assert_eq!(bench.recorder.state().open, [""; 0]);
    }
}

/// Hot-plug and unplug, with the word to the guest that each is.
#[test]
fn order_of_hot_plug_and_unplug() {
    let bench = bench();
    let error = bench.passthrough.unplug(one()).unwrap_err();
    assert!(matches!(error, Error::NotPlugged(_)), "{error}");
    bench.plug(GROUP).unwrap();
    bench.told();
    assert_eq!(bench.event(), EventKind::Attached { mdev: one() });
    assert!(bench.passthrough.snapshot().unwrap().mdev(one()).unwrap().attached);
    assert_eq!(bench.passthrough.plugged().unwrap().id.as_deref(), Some("ap0"));
    let error = bench.plug(DEVICE).unwrap_err();
    assert!(matches!(error, Error::Second { other } if other == one()), "{error}");
    assert_eq!(bench.recorder.take_calls(), calls(&OPEN_GROUP), "the second opened nothing");
    assert_eq!(bench.passthrough.unplug(one()).unwrap().apqns().count(), 4);
    bench.told();
    assert_eq!(bench.event(), EventKind::Detached { mdev: one() });
    assert_eq!(bench.recorder.take_calls(), calls(&CLOSE_GROUP));
    assert_eq!(bench.passthrough.plugged(), None);
    bench.passthrough.reset().unwrap();
    assert_eq!(bench.recorder.take_calls(), [""; 0], "nothing is there to reset");
    // And the other way, as though for the first time.
    bench.plug(DEVICE).unwrap();
    assert_eq!(bench.recorder.take_calls(), calls(&OPEN_DEVICE));
}

/// By the open file of its group or its own: that is what is used, whoever may open it by name.
#[test]
fn a_device_by_descriptor() {
    let links = [
        (
            "../../devices/virtual/vfio/3",
            &OPEN_GROUP[..],
            &CLOSE_GROUP[..],
            "group3",
            "group given",
            "dev/vfio/3",
        ),
        (
            "../../devices/vfio_ap/matrix/62177883-f1bb-47f0-914d-32a22e3a8804/vfio-dev/vfio0",
            &OPEN_DEVICE,
            &CLOSE_DEVICE,
            "vfio0",
            "vfio given",
            "dev/vfio/devices/vfio0",
        ),
    ];
    let null = || OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let plug = |bench: &Bench, file| bench.passthrough.plug(Given::File(file), Some("ap0".into()), false);
    for (link, open, close, by_name, given, path) in links {
        let bench = bench();
        remove(bench.root.path(), path);
        // The number of /dev/null, which is a device's on this host.
        fs::create_dir_all(bench.root.path().join("sys/dev/char")).unwrap();
        symlink(link, bench.root.path().join("sys/dev/char/1:3")).unwrap();
        let (device, matrix) = plug(&bench, null()).unwrap();
        assert_eq!((device.mdev, matrix.apqns().count()), (one(), 4));
        let mut opened = calls(open);
        opened.retain(|call| *call != format!("open {by_name}"));
        let as_given =
            |calls: Vec<String>| calls.iter().map(|call| call.replace(by_name, given)).collect::<Vec<_>>();
        assert_eq!(bench.recorder.take_calls(), as_given(opened));
        bench.passthrough.unplug(one()).unwrap();
        assert_eq!(bench.recorder.take_calls(), as_given(calls(close)));
        // By name it cannot be opened.
        assert!(bench.passthrough.plug(one_by_name(path), None, false).is_err());
    }
    let bench = bench();
    let refused = |file| plug(&bench, file).unwrap_err().to_string();
    let regular = tempfile::tempfile().unwrap();
    for (file, part) in [
        (regular.into(), "the descriptor is of no character device; cure: open /dev/vfio/N"),
        (null(), "the descriptor is of character device 1:3, and /sys/dev/char/1:3: No such file"),
    ] {
        let text = refused(file);
        assert!(text.contains(part), "{text}");
    }
    fs::create_dir_all(bench.root.path().join("sys/dev/char")).unwrap();
    symlink("../../devices/virtual/mem/null", bench.root.path().join("sys/dev/char/1:3")).unwrap();
    let text = refused(null());
    assert!(text.contains("is of ../../devices/virtual/mem/null, not of a VFIO device; cure"), "{text}");
    assert_eq!(bench.recorder.take_calls(), [""; 0]);
}

fn one_by_name(path: &str) -> MdevName {
    format!("/{path}").parse().unwrap()
}

/// Whatever is refused: an error that says what, and nothing stays open or known to KVM.
#[test]
fn errors_at_every_step() {
    for (name, open) in [(GROUP, &OPEN_GROUP[..]), (DEVICE, &OPEN_DEVICE)] {
        for (step, refused) in calls(open).into_iter().enumerate() {
            let bench = bench();
            bench.recorder.state().refuse = Some(step);
            let error = bench.plug(name).expect_err(&refused);
            let Error::Kernel { source, cure, .. } = &error else { panic!("{refused}: {error:?}") };
            assert_eq!(source.raw_os_error(), Some(libc::EIO), "{refused}");
            assert!(!cure.is_empty(), "{refused}: {error}");
            let calls = bench.recorder.take_calls();
            assert_eq!(bench.recorder.state().open, [""; 0], "{refused}: {calls:?}");
            let count = |call: &str| calls.iter().filter(|c| c.ends_with(call)).count();
            let done = |call: &str| count(call) - usize::from(refused.ends_with(call));
            // What was done is undone, what was not is not.
            for (on, off) in [
                ("kvm add", "kvm remove"),
                ("join", "leave"),
                (" 1048576", "unmap"),
                ("attach 7", "detach"),
                ("on", "off"),
            ] {
                // "information" ends so, too.
                let done = done(on)
                    - if on == "on" {
                        count("information") - usize::from(refused.ends_with("information"))
                    } else {
                        0
                    };
                assert_eq!(done, count(off), "{on} and {off} when '{refused}' was refused: {calls:?}");
            }
            assert_eq!(bench.passthrough.plugged(), None);
            assert!(bench.told.try_recv().is_err() && bench.events.try_iter().next().is_none(), "{refused}");
            // What was wrong has gone: now it works.
            bench.recorder.state().refuse = None;
            bench.plug(name).expect(&refused);
        }
    }
}

/// What is refused on the way back does not keep the rest from being closed.
#[test]
fn errors_while_closing() {
    for (name, close) in [(GROUP, &CLOSE_GROUP[..]), (DEVICE, &CLOSE_DEVICE)] {
        for step in 0..close.len() {
            let bench = bench();
            bench.plug(name).unwrap();
            bench.recorder.take_calls();
            bench.recorder.state().refuse = Some(step);
            bench.passthrough.unplug(one()).unwrap();
            assert_eq!(bench.recorder.take_calls(), calls(close));
            assert_eq!(bench.recorder.state().open, [""; 0]);
        }
    }
}

#[test]
fn a_refused_reset_is_told() {
    let bench = bench();
    bench.plug(GROUP).unwrap();
    bench.recorder.take_calls();
    bench.recorder.state().refuse = Some(0);
    let error = HostError::from(bench.passthrough.reset().unwrap_err());
    assert_eq!(error.errno(), "EIO");
    assert!(error.to_string().starts_with(&format!("reset the queues of mdev {ONE}; `lszcrypt")), "{error}");
    bench.passthrough.execute(&crate::host::Operation::ResetDevice { mdev: one() }).unwrap();
}

#[test]
fn other_devices_are_refused() {
    for (change, part) in [
        ((|r| r.state().flags = 2) as fn(&Recorder), "is no AP device (its flags are 0x2)"),
        (|r| r.state().viable = false, "group 3 is not viable"),
    ] {
        let bench = bench();
        change(&bench.recorder);
        let error = bench.plug(GROUP).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(bench.recorder.state().open, [""; 0]);
    }
}

fn queues(list: &[u16]) -> Vec<Apqn> {
    list.iter().map(|n| Apqn(*n)).collect()
}

/// CFG_CHG: the guest is told, and operators what came and what went.
#[test]
fn a_signalled_change_reaches_the_guest() {
    let bench = bench();
    bench.plug(GROUP).unwrap();
    bench.told();
    assert_eq!(bench.event(), EventKind::Attached { mdev: one() });
    bench.guest_matrix("06.0004\n06.0047\n");
    bench.recorder.signal(kernel::CONFIGURATION_CHANGED);
    bench.told();
    let (plugged, unplugged) = (vec![], queues(&[0x0504, 0x0547]));
    let change = MatrixChange { plugged, unplugged, ..MatrixChange::default() };
    assert_eq!(bench.event(), EventKind::GuestMatrix { mdev: one(), change });
    // A control domain cannot be seen, but the guest is told.
    bench.recorder.signal(kernel::CONFIGURATION_CHANGED);
    bench.told();
    bench.guest_matrix("05.0004\n06.0004\n");
    bench.recorder.signal(kernel::CONFIGURATION_CHANGED);
    bench.told();
    let (plugged, unplugged) = (queues(&[0x0504]), queues(&[0x0647]));
    let change = MatrixChange { plugged, unplugged, ..MatrixChange::default() };
    assert_eq!(bench.event(), EventKind::GuestMatrix { mdev: one(), change });
    assert_eq!(bench.has.lock().unwrap().0, 2);
    assert_eq!(bench.passthrough.unplug(one()).unwrap().apqns().count(), 2);
    assert_eq!(*bench.has.lock().unwrap(), (0, vec![]));
}

/// Kernels without CFG_CHG, and without any interruption: sysfs is watched.
#[test]
fn an_unsignalled_change_is_seen() {
    for interruptions in [0, 1] {
        let recorder = Recorder::new();
        recorder.state().interruptions = interruptions;
        let bench = bench_with(recorder);
        bench.plug(GROUP).unwrap();
        bench.told();
        assert_eq!(bench.event(), EventKind::Attached { mdev: one() });
        bench.guest_matrix("06.0004\n06.0047\n");
        bench.told();
        assert!(
            matches!(bench.event(), EventKind::GuestMatrix { change, .. } if change.unplugged.len() == 2)
        );
        // The mediated device vanishes: it is closed, so that it can go.
        remove(bench.root.path(), MATRIX);
        bench.told();
        assert!(
            matches!(bench.event(), EventKind::GuestMatrix { change, .. } if change.unplugged.len() == 2)
        );
        assert_eq!(bench.event(), EventKind::Released { mdev: one(), id: Some("ap0".into()) });
        assert_eq!(bench.recorder.state().open, [""; 0]);
        assert_eq!(bench.passthrough.plugged(), None);
    }
}

/// REQ: unplug, close, event; and the device can be plugged anew.
#[test]
fn the_host_gets_its_device_back() {
    for name in [GROUP, DEVICE] {
        let bench = bench();
        bench.plug(name).unwrap();
        bench.told();
        assert_eq!(bench.event(), EventKind::Attached { mdev: one() });
        bench.recorder.take_calls();
        // As the driver does it: no queues, the change, the request.
        bench.guest_matrix("\n");
        bench.recorder.signal(kernel::REQUEST);
        bench.told();
        assert!(
            matches!(bench.event(), EventKind::GuestMatrix { change, .. } if change.unplugged.len() == 4)
        );
        assert_eq!(bench.event(), EventKind::Released { mdev: one(), id: Some("ap0".into()) });
        let close = if name == GROUP { &CLOSE_GROUP[..] } else { &CLOSE_DEVICE };
        assert_eq!(bench.recorder.take_calls(), calls(close));
        assert!(bench.passthrough.unplug(one()).is_err(), "it has gone");
        let device = Plugged { id: Some("ap0".into()), mdev: one() };
        assert_eq!(*bench.has.lock().unwrap(), (0, vec![device]));
        bench.plug(name).unwrap();
    }
}

/// What preflight says of a host that was changed.
fn look(name: MdevName, change: impl FnOnce(&FilePath)) -> Result<Target, Vec<Problem>> {
    let root = host();
    change(root.path());
    preflight(&Places::below(root.path()), name)
}

#[test]
fn a_host_that_is_ready() {
    let uuid = MdevName::Uuid(one());
    for (name, path) in [(uuid, Path::Group(3)), (GROUP, Path::Group(3)), (DEVICE, Path::Device(0))] {
        let target = look(name, |_| {}).unwrap();
        assert_eq!((target.mdev, target.path, &target.warnings[..]), (one(), path, &[][..]));
    }
    // A kernel without groups.
    let target = look(uuid, |root| {
        ["dev/vfio/3", "dev/vfio/vfio"].map(|path| remove(root, path)).into_iter().collect()
    });
    assert_eq!(target.unwrap().path, Path::Device(0));
    let target = look(uuid, |root| remove(root, "dev/vfio/devices"));
    assert_eq!(target.unwrap().path, Path::Group(3));
}

/// Each problem that keeps a device from being opened, with its cure.
#[test]
fn each_problem_has_its_cure() {
    let uuid = MdevName::Uuid(one());
    type Change = fn(&FilePath);
    let cases: [(MdevName, Change, &str, &str); 16] = [
        (
            uuid,
            |r| put(r, "proc/cpuinfo", "facilities : 12 65\n"),
            "without facility 15 (AP facilities",
            "z13",
        ),
        (uuid, |r| remove(r, "sys/bus/ap"), "no /sys/bus/ap", "modprobe ap"),
        (uuid, |r| remove(r, "sys/devices/vfio_ap"), "vfio_ap is not loaded", "modprobe vfio_ap"),
        (MdevName::Uuid(Uuid::nil()), |_| {}, "there is no mdev 00000000", "mdevctl start -u 00000000"),
        (MdevName::Group(9), |_| {}, "group 9 (/dev/vfio/9) has no mediated", "adjunct ap list"),
        (MdevName::Device(9), |_| {}, "/dev/vfio/devices/vfio9 is no mediated", "adjunct ap list"),
        (
            uuid,
            |r| put(r, &format!("{MATRIX}/mdev_type/device_api"), "vfio-ccw"),
            "is a vfio-ccw device",
            "adjunct ap list",
        ),
        (uuid, |r| remove(r, &format!("{MATRIX}/driver")), "bound to no driver", "drivers/vfio_ap_mdev/bind"),
        (
            uuid,
            |r| {
                remove(r, &format!("{MATRIX}/driver"));
                symlink("x/other", r.join(MATRIX).join("driver")).unwrap();
            },
            "is bound to other",
            "driver/unbind; echo",
        ),
        (
            uuid,
            |r| put(r, "sys/bus/ap/devices/05.0004/status", "in use\n"),
            "is in use by another guest",
            "end that guest",
        ),
        (uuid, |r| put(r, "sys/bus/ap/apmask", "nonsense"), "is not what", "Linux 4.20"),
        (uuid, |r| remove(r, &format!("{MATRIX}/matrix")), "vanished while", "try again"),
        (
            uuid,
            |r| {
                ["iommu_group", "vfio-dev"]
                    .map(|name| remove(r, &format!("{MATRIX}/{name}")))
                    .into_iter()
                    .collect()
            },
            "no iommu_group and no vfio-dev",
            "modprobe vfio_iommu_type1",
        ),
        (uuid, |r| remove(r, "dev/vfio"), "no /dev/vfio/3", "modprobe"),
        (GROUP, |r| remove(r, "dev/vfio/vfio"), "there is no /dev/vfio/vfio", "modprobe vfio_iommu_type1"),
        (DEVICE, |r| remove(r, "dev/iommu"), "there is no /dev/iommu", "modprobe iommufd"),
    ];
    for (name, change, what, cure) in cases {
        let problems = look(name, change).expect_err(what);
        let [problem] = &problems[..] else { panic!("{what}: {problems:?}") };
        assert!(problem.what.contains(what), "{problem}");
        assert!(problem.cure.contains(cure), "{problem}");
    }
    // All at once, and the error has them all.
    let all = look(uuid, |root| {
        put(root, "proc/cpuinfo", "facilities : 1\n");
        remove(root, &format!("{MATRIX}/driver"));
        remove(root, "dev/vfio");
    });
    let text = Error::Preflight(all.unwrap_err()).to_string();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        text.contains("12 (AP query configuration), 15") && text.contains("; cure: modprobe vfio"),
        "{text}"
    );
}

/// Who has each queue that the guest does not get, and the command that changes it.
#[test]
fn each_withheld_queue_has_its_cure() {
    type Change = fn(&FilePath);
    let unbind = |r: &FilePath| remove(r, "sys/bus/ap/devices/05.0004/driver");
    let _: Change = unbind;
    let cases: [(Change, &str, &str); 10] = [
        (unbind, "05.0004 is not bound to vfio_ap, nor", "echo 05.0004 > /sys/bus/ap/drivers/vfio_ap/bind"),
        (
            |r| {
                remove(r, "sys/bus/ap/devices/05.0004/driver");
                symlink("../../drivers/cex4queue", r.join("sys/bus/ap/devices/05.0004/driver")).unwrap();
                put(r, "sys/bus/ap/apmask", &format!("0x{}\n", "f".repeat(64)));
            },
            "not bound to vfio_ap but to cex4queue",
            "chzdev -t ap apmask=-5",
        ),
        (
            |r| {
                remove(r, "sys/bus/ap/devices/05.0004/driver");
                symlink("../../drivers/cex4queue", r.join("sys/bus/ap/devices/05.0004/driver")).unwrap();
            },
            "not bound to vfio_ap but to cex4queue",
            "05.0004/driver/unbind; echo 05.0004 >",
        ),
        (
            |r| remove(r, "sys/bus/ap/devices/05.0004"),
            "05.0004 is not on the bus",
            "echo 1 > /sys/bus/ap/scans",
        ),
        (
            |r| put(r, "sys/bus/ap/ap_usage_domain_mask", &format!("0x08{}\n", "0".repeat(62))),
            "domain 0047 is not in the host's configuration",
            "support element",
        ),
        (|_| {}, "the next filter", "ap_config"),
        (
            |r| {
                put(r, &format!("{MATRIX}/matrix"), "05.\n");
                put(r, &format!("{MATRIX}/guest_matrix"), "05.\n");
            },
            "has no queues",
            "assign_domain",
        ),
        (
            |r| put(r, "proc/self/limits", "Max locked memory         65536    65536    bytes\n"),
            "may lock 65536 bytes",
            "ulimit -l 1024",
        ),
        (
            |r| put(r, "proc/sys/kernel/osrelease", "6.14.11-generic\n"),
            "Linux 6.14 does not signal changes",
            "Linux 6.15 or later",
        ),
        (
            |r| put(r, "proc/sys/kernel/osrelease", "5.99\n"),
            "Linux 5.99 does not signal changes",
            "Linux 6.15",
        ),
    ];
    for (change, what, cure) in cases {
        let target = look(MdevName::Uuid(one()), |root| {
            // What the filter has made of the change.
            put(root, &format!("{MATRIX}/guest_matrix"), "06.0004\n");
            change(root);
        });
        let warnings = target.unwrap().warnings;
        let found =
            warnings.iter().find(|w| w.what.contains(what)).unwrap_or_else(|| panic!("{what}: {warnings:?}"));
        assert!(found.cure.contains(cure), "{found}");
    }
    // A release that is none, or new enough, says nothing.
    for release in ["", "unknown", "7", "7.0.0", "6.15"] {
        let target = look(MdevName::Uuid(one()), |root| put(root, "proc/sys/kernel/osrelease", release));
        let warnings = target.unwrap().warnings;
        assert!(!warnings.iter().any(|w| w.what.contains("does not signal")), "{release}: {warnings:?}");
    }
    // Who may lock without limit is told nothing, and who has no guest_matrix that.
    let target = look(MdevName::Uuid(one()), |root| {
        put(root, "proc/self/limits", "Max locked memory         65536    65536    bytes\n");
        put(root, "proc/self/status", "CapEff:\t000001ffffffffff\n");
        remove(root, &format!("{MATRIX}/guest_matrix"));
    });
    let [warning] = &target.unwrap().warnings[..] else { panic!() };
    assert!(warning.what.contains("no guest_matrix") && warning.cure.contains("Linux 6.0"), "{warning}");
}

/// A device of an old kernel can be plugged all the same.
#[test]
fn without_guest_matrix_it_works() {
    let bench = bench();
    remove(bench.root.path(), &format!("{MATRIX}/guest_matrix"));
    let (_, matrix) = bench.plug(GROUP).unwrap();
    assert_eq!(matrix, crycb::Matrix::EMPTY);
    bench.recorder.signal(kernel::CONFIGURATION_CHANGED);
    bench.told();
    assert!(bench.passthrough.plugged().is_some(), "it has not gone");
}

/// The kernel's masks against the rules: only of the guest's own device.
#[test]
fn a_wrong_apcb_is_reported() {
    let bench = bench();
    bench.guest_matrix("05.0004\n05.0047\n06.0004\n06.0047\n08.0004\n08.0047\n");
    assert_eq!(bench.passthrough.differences().unwrap(), [""; 0], "no device, no guest");
    bench.plug(GROUP).unwrap();
    let found = bench.passthrough.differences().unwrap();
    assert!(found.len() == 1 && found[0].contains("it has adapters 0x08; end the guest"), "{found:?}");
}
