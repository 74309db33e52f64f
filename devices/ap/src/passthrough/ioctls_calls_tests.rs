//! What reaches the kernel: requests and the bytes of their arguments, as the interface documents them, by a layer below
//! vfio-ioctls and our own ioctls (Linux, `Documentation/driver-api/vfio.rst` and `include/uapi/linux/vfio.h`).

use std::os::fd::AsFd;
use std::sync::Mutex;

use crycb::Matrix;
use scripted_kernel::{Answer, Answers, Call, Event, Memory, Script, Shape, block, number};
use uuid::Uuid;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::super::kernel::{Vfio as _, VfioFiles};
use super::super::tests::{DEVICE, GROUP, ONE, host, one};
use super::super::{Guest, MdevName, Passthrough, Places, Plugged};
use super::*;
use crate::host::HostError;

const GET_API_VERSION: u32 = 0x3b64;
const CHECK_EXTENSION: u32 = 0x3b65;
const SET_IOMMU: u32 = 0x3b66;
const GROUP_GET_STATUS: u32 = 0x3b67;
const GROUP_SET_CONTAINER: u32 = 0x3b68;
const GROUP_UNSET_CONTAINER: u32 = 0x3b69;
const GROUP_GET_DEVICE_FD: u32 = 0x3b6a;
const DEVICE_GET_INFO: u32 = 0x3b6b;
const DEVICE_GET_IRQ_INFO: u32 = 0x3b6d;
const DEVICE_SET_IRQS: u32 = 0x3b6e;
const DEVICE_RESET: u32 = 0x3b6f;
const MAP_DMA: u32 = 0x3b71;
const UNMAP_DMA: u32 = 0x3b72;
const BIND_IOMMUFD: u32 = 0x3b76;
const ATTACH: u32 = 0x3b77;
const DETACH: u32 = 0x3b78;
const DESTROY: u32 = 0x3b80;
const IOAS_ALLOC: u32 = 0x3b81;
const IOAS_MAP: u32 = 0x3b85;
const IOAS_UNMAP: u32 = 0x3b86;
/// What these tests' list of VFIO files asks; a kernel has a device for that.
const FILES_ADD: u32 = 1;
const FILES_REMOVE: u32 = 2;

const NAMES: [(u32, &str); 22] = [
    (GET_API_VERSION, "version"),
    (CHECK_EXTENSION, "extension"),
    (SET_IOMMU, "set iommu"),
    (GROUP_GET_STATUS, "status"),
    (GROUP_SET_CONTAINER, "join"),
    (GROUP_UNSET_CONTAINER, "leave"),
    (GROUP_GET_DEVICE_FD, "get device"),
    (DEVICE_GET_INFO, "information"),
    (DEVICE_GET_IRQ_INFO, "irq"),
    (DEVICE_SET_IRQS, "set irq"),
    (DEVICE_RESET, "reset"),
    (MAP_DMA, "map"),
    (UNMAP_DMA, "unmap"),
    (BIND_IOMMUFD, "bind"),
    (ATTACH, "attach"),
    (DETACH, "detach"),
    (DESTROY, "destroy"),
    (IOAS_ALLOC, "alloc"),
    (IOAS_MAP, "map"),
    (IOAS_UNMAP, "unmap"),
    (FILES_ADD, "add"),
    (FILES_REMOVE, "remove"),
];

/// The VFIO of a host with Linux 6.15.
#[derive(Clone, Default)]
struct Linux(Arc<Mutex<Vec<(u32, &'static str)>>>);

impl Linux {
    /// What comes back in the argument of a request, instead of what always does.
    fn gives(&self, request: u32, argument: &'static str) {
        self.0.lock().unwrap().push((request, argument));
    }
}

impl Answers for Linux {
    fn path(&mut self, path: &str) -> Option<String> {
        let name = match path {
            "/dev/vfio/vfio" => "container",
            "/dev/iommu" => "iommufd",
            "/dev/test/files" => "files",
            _ => return Some(path.strip_prefix("/dev/vfio/")?.replace("devices/", "")),
        };
        Some(name.into())
    }

    fn shape(&self, request: u32) -> Shape {
        match request {
            GROUP_GET_DEVICE_FD => Shape::Text,
            GROUP_SET_CONTAINER => Shape::Bytes(4),
            GET_API_VERSION | CHECK_EXTENSION | SET_IOMMU | GROUP_UNSET_CONTAINER | DEVICE_RESET => {
                Shape::Value
            }
            FILES_ADD | FILES_REMOVE => Shape::Value,
            _ => Shape::Argsz,
        }
    }

    fn answer(&mut self, call: &Call, _: &Memory<'_>) -> Answer {
        let mut given = self.0.lock().unwrap();
        let given = given.iter().position(|(request, _)| *request == call.request).map(|n| given.remove(n).1);
        let argument = given.unwrap_or(match call.request {
            // Viable, and in a container.
            GROUP_GET_STATUS => "00000008 00000003",
            // AP and RESET; no regions, two interruptions.
            DEVICE_GET_INFO => "00000018 00000021 00000000 00000002",
            // By event; one of them.
            DEVICE_GET_IRQ_INFO if call.argument[8..12] == [0; 4] => "00000010 00000001 00000000 00000001",
            DEVICE_GET_IRQ_INFO => "00000010 00000001 00000001 00000001",
            IOAS_ALLOC => "0000000c 00000000 00000009",
            BIND_IOMMUFD => "00000010 00000000 00000000 00000001",
            _ => "",
        });
        let argument = block(argument);
        match call.request {
            GROUP_GET_DEVICE_FD => Answer::opens("device"),
            CHECK_EXTENSION => Answer::result(1),
            _ => Answer { argument, ..Answer::default() },
        }
    }
}

/// What happened, in words: file, request, and which interruption.
fn told(event: &Event) -> String {
    let call = match event {
        Event::Open(name) => return format!("open {name}"),
        Event::Close(name) => return format!("close {name}"),
        Event::Ioctl(call) => call,
    };
    let name = NAMES.iter().find(|(request, _)| *request == call.request).expect("a request that is known").1;
    let which = match call.request {
        DEVICE_GET_IRQ_INFO | DEVICE_SET_IRQS => {
            let word = |at: usize| i32::from_ne_bytes(call.argument[at..at + 4].try_into().unwrap());
            let off = call.request == DEVICE_SET_IRQS && word(20) == -1;
            format!(" {}{}", word(8), if off { " off" } else { "" })
        }
        _ => String::new(),
    };
    format!("{} {name}{which}", call.file)
}

/// One ioctl: of `file`, with this request and argument.
#[track_caller]
fn check(script: &Script, file: &str, request: u32, argument: &str) {
    let events = script.take();
    let [Event::Ioctl(call)] = &events[..] else { panic!("one ioctl, not {events:x?}") };
    assert_eq!((&call.file[..], call.request), (file, request), "{:x}", call.request);
    assert_eq!(call.argument, block(argument), "{argument}");
}

/// An ioctl is refused with each of these numbers, and says so.
#[track_caller]
fn refusals<T>(script: &Script, action: &mut dyn FnMut() -> io::Result<T>) {
    refused(script, &[libc::EINTR, libc::EAGAIN, libc::EBUSY, libc::ENOMEM], action);
}

/// As [`refusals`], of opening, which the standard library begins again after a signal.
#[track_caller]
fn open_refusals<T>(script: &Script, action: &mut dyn FnMut() -> io::Result<T>) {
    refused(script, &[libc::ENOENT, libc::EACCES, libc::EBUSY], action);
}

#[track_caller]
fn refused<T>(script: &Script, numbers: &[i32], action: &mut dyn FnMut() -> io::Result<T>) {
    for &errno in numbers {
        script.refuse(0, errno);
        let Err(error) = action() else { panic!("{errno} is no success") };
        assert_eq!(error.raw_os_error(), Some(errno), "{error}");
        script.take();
    }
    script.refuse(usize::MAX, 0);
}

fn script() -> (Script, Linux) {
    let linux = Linux::default();
    (Script::new(linux.clone()), linux)
}

#[test]
fn a_group_by_ioctls() {
    let (script, linux) = script();
    let mut container = Host.container().unwrap();
    assert_eq!(
        script.take().iter().map(told).collect::<Vec<_>>(),
        ["open container", "container version", "container extension"]
    );
    open_refusals(&script, &mut || Host.container());
    let group = Host.group(3).unwrap();
    assert_eq!(script.take(), [Event::Open("3".into())]);
    open_refusals(&script, &mut || Host.group(3));

    assert!(group.viable().unwrap());
    check(&script, "3", GROUP_GET_STATUS, "00000008 00000000");
    linux.gives(GROUP_GET_STATUS, "00000008 00000002");
    assert!(!group.viable().unwrap());
    script.take();
    refusals(&script, &mut || group.viable());
    group.join(container.as_fd()).unwrap();
    check(&script, "3", GROUP_SET_CONTAINER, &number(&container.as_fd()));
    refusals(&script, &mut || group.join(container.as_fd()));
    // VFIO_TYPE1v2_IOMMU.
    container.choose_translation().unwrap();
    check(&script, "container", SET_IOMMU, "0000000000000003");
    refusals(&script, &mut || container.choose_translation());

    let storage = Arc::new(Storage::new(1 << 20).unwrap());
    let base = storage.host_base() as u64;
    refusals(&script, &mut || container.map(&storage));
    container.unmap().unwrap();
    assert_eq!(script.take(), [], "nothing is mapped");
    container.map(&storage).unwrap();
    // Readable and writable, at address 0.
    let want = format!("00000020 00000003 {base:016x} 0000000000000000 0000000000100000");
    check(&script, "container", MAP_DMA, &want);
    refusals(&script, &mut || container.unmap());
    container.unmap().unwrap();
    check(&script, "container", UNMAP_DMA, "00000018 00000000 0000000000000000 0000000000100000");

    let device = group.device(ONE).unwrap();
    let events = script.take();
    let [Event::Ioctl(call)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((call.request, &call.argument[..]), (GROUP_GET_DEVICE_FD, ONE.as_bytes()));
    refusals(&script, &mut || group.device(ONE));
    drop(device);
    assert_eq!(script.take(), [Event::Close("device".into())]);
    group.leave().unwrap();
    let events = script.take();
    assert_eq!(events.iter().map(told).collect::<Vec<_>>(), ["3 leave"]);
    refusals(&script, &mut || group.leave());
    drop((group, container));
    assert_eq!(script.open(), [""; 0]);
}

#[test]
fn a_device_by_ioctls() {
    let (script, linux) = script();
    let root = host();
    let mdev = root.path().join("sys/devices/vfio_ap/matrix").join(ONE);
    let mut space = Host.address_space().unwrap();
    let events = script.take();
    let [Event::Open(_), Event::Ioctl(call)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((call.request, &call.argument), (IOAS_ALLOC, &block("0000000c 00000000 00000000")));
    assert_eq!(space.id(), 9);
    open_refusals(&script, &mut || Host.address_space());
    let device = Host.character_device(&mdev).unwrap();
    assert_eq!(script.take(), [Event::Open("vfio0".into())]);
    open_refusals(&script, &mut || Host.character_device(&mdev));

    // The lengths are those that kernels without tokens and PASIDs know.
    device.bind(space.as_fd()).unwrap();
    let want = format!("00000010 00000000 {} 00000000", number(&space.as_fd()));
    check(&script, "vfio0", BIND_IOMMUFD, &want);
    device.attach(space.id()).unwrap();
    check(&script, "vfio0", ATTACH, "0000000c 00000000 00000009");
    device.detach().unwrap();
    check(&script, "vfio0", DETACH, "00000008 00000000");
    refusals(&script, &mut || device.bind(space.as_fd()));
    refusals(&script, &mut || device.attach(9));
    refusals(&script, &mut || device.detach());

    assert_eq!(device.information().unwrap(), Information { flags: 0x21, interruptions: 2 });
    check(&script, "vfio0", DEVICE_GET_INFO, "00000018 00000000 00000000 00000000 00000000 00000000");
    refusals(&script, &mut || device.information());
    assert_eq!(device.events(1).unwrap(), 1);
    check(&script, "vfio0", DEVICE_GET_IRQ_INFO, "00000010 00000000 00000001 00000000");
    linux.gives(DEVICE_GET_IRQ_INFO, "00000010 00000002 00000001 00000001");
    assert_eq!(device.events(1).unwrap(), 0, "not by event");
    script.take();
    refusals(&script, &mut || device.events(0));
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    for index in [0, 1] {
        // DATA_EVENTFD and ACTION_TRIGGER; from 0, one.
        device.signal(index, Some(&event)).unwrap();
        let on = format!("00000018 00000024 {index:08x} 00000000 00000001 {}", number(&event));
        check(&script, "vfio0", DEVICE_SET_IRQS, &on);
        device.signal(index, None).unwrap();
        let off = format!("00000018 00000024 {index:08x} 00000000 00000001 ffffffff");
        check(&script, "vfio0", DEVICE_SET_IRQS, &off);
    }
    refusals(&script, &mut || device.signal(0, Some(&event)));
    device.reset().unwrap();
    assert_eq!(script.take().iter().map(told).collect::<Vec<_>>(), ["vfio0 reset"]);
    refusals(&script, &mut || device.reset());

    let storage = Arc::new(Storage::new(1 << 20).unwrap());
    let base = storage.host_base() as u64;
    refusals(&script, &mut || space.map(&storage));
    space.map(&storage).unwrap();
    // At a fixed address, writable, readable.
    let want = format!("00000028 00000007 00000009 00000000 {base:016x} 0000000000100000 0000000000000000");
    check(&script, "iommufd", IOAS_MAP, &want);
    refusals(&script, &mut || space.unmap());
    space.unmap().unwrap();
    check(&script, "iommufd", IOAS_UNMAP, "00000018 00000009 0000000000000000 0000000000100000");
    drop((device, space));
    let rest: Vec<_> = script.take().iter().map(told).collect();
    assert_eq!(rest, ["close vfio0", "iommufd destroy", "close iommufd"]);
}

/// A VM's list of VFIO files, behind a file of the script.
struct Files(File);

impl Files {
    fn ask(&self, request: u32, file: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the request takes a number.
        answer(unsafe { ioctl_with_val(&self.0, request.into(), file.as_raw_fd() as u64) }).map(drop)
    }
}

impl VfioFiles for Files {
    fn add(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.ask(FILES_ADD, file)
    }

    fn remove(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.ask(FILES_REMOVE, file)
    }
}

struct Deaf;

impl Guest for Deaf {
    fn configuration_changed(&self) {}
    fn matrix_changed(&self, _: Uuid, _: &Matrix, _: &Matrix) {}
    fn released(&self, _: &Plugged) {}
}

const GROUP_LIFE: [&str; 26] = [
    "open files",
    "open container",
    "container version",
    "container extension",
    "open 3",
    "3 status",
    "3 join",
    "container set iommu",
    "files add",
    "container map",
    "3 get device",
    "device information",
    "device irq 0",
    "device set irq 0",
    "device irq 1",
    "device set irq 1",
    "device reset",
    "device set irq 1 off",
    "device set irq 0 off",
    "close device",
    "container unmap",
    "files remove",
    "3 leave",
    "close container",
    "close 3",
    "close files",
];
const DEVICE_LIFE: [&str; 23] = [
    "open files",
    "open iommufd",
    "iommufd alloc",
    "iommufd map",
    "open vfio0",
    "files add",
    "vfio0 bind",
    "vfio0 attach",
    "vfio0 information",
    "vfio0 irq 0",
    "vfio0 set irq 0",
    "vfio0 irq 1",
    "vfio0 set irq 1",
    "vfio0 reset",
    "vfio0 set irq 1 off",
    "vfio0 set irq 0 off",
    "vfio0 detach",
    "files remove",
    "close vfio0",
    "iommufd unmap",
    "iommufd destroy",
    "close iommufd",
    "close files",
];

/// A device from hot-plug over a reset to the unplug.
fn life(name: MdevName) -> Result<(), HostError> {
    let root = host();
    let files = OpenOptions::new().read(true).write(true).open("/dev/test/files").unwrap();
    let storage = Arc::new(Storage::new(1 << 20).unwrap());
    let places = Places::below(root.path());
    let passthrough =
        Passthrough::new(places, Arc::new(Host), Arc::new(Files(files)), storage, Arc::new(Deaf));
    passthrough.plug(name, None, false)?;
    let reset = passthrough.reset();
    passthrough.unplug(one())?;
    Ok(reset?)
}

/// Whatever is refused: its number is told, and nothing stays open or known to the VM.
#[test]
fn a_whole_life_by_ioctls() {
    for (name, want) in [(GROUP, &GROUP_LIFE[..]), (DEVICE, &DEVICE_LIFE)] {
        let refused_at = |n, errno| {
            let (script, _linux) = script();
            script.refuse(n, errno);
            let result = life(name);
            let steps: Vec<_> = script.take().iter().map(told).collect();
            assert_eq!(script.open(), [""; 0], "{steps:?}");
            (result, steps)
        };
        let (result, steps) = refused_at(usize::MAX, 0);
        result.unwrap();
        assert_eq!(steps, want);
        let reset = steps.iter().position(|step| step.ends_with(" reset")).unwrap();
        for n in (1..steps.len()).filter(|n| !steps[*n].starts_with("close ")) {
            let (result, calls) = refused_at(n, libc::ENOMEM);
            assert_eq!(calls[..=n], steps[..=n], "nothing else is done before");
            let step = &steps[n];
            let count = |what: &str| calls.iter().filter(|call| call.ends_with(what)).count();
            match result {
                // What is refused on the way back is told to the log, and the rest is done.
                Ok(()) => assert!(n > reset && calls == steps, "{step}: {calls:?}"),
                // vfio-ioctls does not say why a container's version or extension is refused.
                Err(e) if step.ends_with("version") || step.ends_with("extension") => {
                    assert_eq!(e.errno(), "EIO", "{step}: {e}");
                }
                Err(e) => assert_eq!(e.errno(), "ENOMEM", "{step}: {e}"),
            }
            if n == reset {
                assert_eq!(calls, steps, "the unplug comes all the same");
            } else if n < reset {
                for (on, off) in [("files add", "files remove"), (" join", " leave"), (" attach", " detach")]
                {
                    assert_eq!(count(on) - usize::from(step.ends_with(on)), count(off), "{step}: {calls:?}");
                }
            }
        }
    }
}
