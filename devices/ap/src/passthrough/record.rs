//! VFIO that writes down what is asked of it, answers as a test says, and refuses what a test says.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machine::Storage;
use vmm_sys_util::eventfd::EventFd;

use super::kernel::{self, Information};
use crate::host::tree::{make_sysfs, put};
use crate::host::{ApHost, Description};

/// Another record, in which all calls are written down, too, and which may refuse each that is no closing.
pub type Elsewhere = Arc<dyn Fn(&str) -> io::Result<()> + Send + Sync>;

/// What all values share.
#[derive(Default)]
pub struct State {
    /// Every call that changes something or may fail, in order.
    pub calls: Vec<String>,
    /// Which of them is refused, counted from 0.
    pub refuse: Option<usize>,
    /// What is open.
    pub open: Vec<String>,
    /// What the device is.
    pub flags: u32,
    /// How many interruption indexes it has.
    pub interruptions: u32,
    /// Whether groups are viable.
    pub viable: bool,
    /// The events of the device, by index.
    pub events: [Option<EventFd>; 2],
    /// Who is told of calls as well.
    pub elsewhere: Option<Elsewhere>,
}

/// The kernel.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<State>>);

impl Recorder {
    /// A kernel of Linux 6.15 or later.
    pub fn new() -> Self {
        let recorder = Self::default();
        {
            let mut state = recorder.state();
            state.flags = kernel::flag::AP | kernel::flag::RESET;
            state.interruptions = 2;
            state.viable = true;
        }
        recorder
    }

    /// The state of everything.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calls so far, which are forgotten.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }

    /// Lets the device signal.
    pub fn signal(&self, index: u32) {
        let state = self.state();
        state.events[index as usize].as_ref().expect("somebody listens").write(1).unwrap();
    }

    fn call(&self, call: String) -> io::Result<()> {
        let mut state = self.state();
        state.calls.push(call.clone());
        if state.refuse.is_some_and(|n| n == state.calls.len() - 1) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let elsewhere = state.elsewhere.clone();
        drop(state);
        elsewhere.map_or(Ok(()), |tell| tell(&call))
    }

    fn open(&self, name: &str) -> io::Result<Value> {
        self.call(format!("open {name}"))?;
        Ok(self.value(name, File::open("/dev/null")?))
    }

    /// Something that is open.
    fn value(&self, name: &str, file: File) -> Value {
        self.state().open.push(name.to_owned());
        Value { recorder: self.clone(), name: name.to_owned(), file }
    }
}

/// Something open; closes when dropped.
struct Value {
    recorder: Recorder,
    name: String,
    file: File,
}

impl Value {
    fn call(&self, call: &str) -> io::Result<()> {
        self.recorder.call(format!("{} {call}", self.name))
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        let mut state = self.recorder.state();
        let at = state.open.iter().position(|name| *name == self.name).expect("it is open");
        state.open.remove(at);
        let call = format!("close {}", self.name);
        state.calls.push(call.clone());
        let elsewhere = state.elsewhere.clone();
        drop(state);
        if let Some(tell) = elsewhere {
            // A closing is not refused.
            let _ = tell(&call);
        }
    }
}

impl AsFd for Value {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl kernel::Vfio for Recorder {
    fn container(&self) -> io::Result<Box<dyn kernel::Container>> {
        Ok(Box::new(self.open("container")?))
    }

    fn group(&self, number: u32) -> io::Result<Box<dyn kernel::Group>> {
        Ok(Box::new(self.open(&format!("group{number}"))?))
    }

    fn group_of(&self, file: OwnedFd) -> Box<dyn kernel::Group> {
        Box::new(self.value("group given", file.into()))
    }

    fn address_space(&self) -> io::Result<Box<dyn kernel::AddressSpace>> {
        Ok(Box::new(self.open("iommufd")?))
    }

    fn character_device(&self, mdev: &Path) -> io::Result<Box<dyn kernel::Device>> {
        let name = mdev.join("vfio-dev").read_dir()?.next().expect("it has one")?.file_name();
        Ok(Box::new(self.open(name.to_str().unwrap())?))
    }

    fn character_device_of(&self, file: OwnedFd) -> Box<dyn kernel::Device> {
        Box::new(self.value("vfio given", file.into()))
    }
}

impl kernel::Mapping for Value {
    fn map(&mut self, storage: &Arc<Storage>) -> io::Result<()> {
        self.call(&format!("map {}", storage.size()))
    }

    fn unmap(&mut self) -> io::Result<()> {
        self.call("unmap")
    }
}

impl kernel::Container for Value {
    fn choose_translation(&self) -> io::Result<()> {
        self.call("type1v2")
    }
}

impl kernel::AddressSpace for Value {
    fn id(&self) -> u32 {
        7
    }
}

impl kernel::Group for Value {
    fn viable(&self) -> io::Result<bool> {
        self.call("viable")?;
        Ok(self.recorder.state().viable)
    }

    fn join(&self, _: BorrowedFd<'_>) -> io::Result<()> {
        self.call("join")
    }

    fn leave(&self) -> io::Result<()> {
        assert!(
            !self.recorder.state().open.iter().any(|name| name.starts_with("device")),
            "no device is open"
        );
        self.call("leave")
    }

    fn device(&self, name: &str) -> io::Result<Box<dyn kernel::Device>> {
        Ok(Box::new(self.recorder.open(&format!("device {}", &name[..8]))?))
    }
}

impl kernel::Device for Value {
    fn bind(&self, _: BorrowedFd<'_>) -> io::Result<()> {
        self.call("bind")
    }

    fn attach(&self, address_space: u32) -> io::Result<()> {
        self.call(&format!("attach {address_space}"))
    }

    fn detach(&self) -> io::Result<()> {
        self.call("detach")
    }

    fn information(&self) -> io::Result<Information> {
        self.call("information")?;
        let state = self.recorder.state();
        Ok(Information { flags: state.flags, interruptions: state.interruptions })
    }

    fn events(&self, index: u32) -> io::Result<u32> {
        self.call(&format!("events of {index}"))?;
        Ok(1)
    }

    fn signal(&self, index: u32, event: Option<&EventFd>) -> io::Result<()> {
        self.call(&format!("signal {index} {}", if event.is_some() { "on" } else { "off" }))?;
        self.recorder.state().events[index as usize] = event.map(|event| event.try_clone().unwrap());
        Ok(())
    }

    fn reset(&self) -> io::Result<()> {
        self.call("reset")
    }
}

impl kernel::VfioFiles for Recorder {
    fn add(&self, _: BorrowedFd<'_>) -> io::Result<()> {
        self.call("kvm add".into())
    }

    fn remove(&self, _: BorrowedFd<'_>) -> io::Result<()> {
        self.call("kvm remove".into())
    }
}

/// Two adapters and two domains for the guest; adapter 8 stays the host's, 7 does not exist.
const HOST: &str = r#"{"adapters": [{"adapter": 5, "type": "CEX8A"}, {"adapter": 6, "type": "CEX7A"},
    {"adapter": 8, "type": "CEX4A"}], "usage_domains": [4, "0x47"], "control_domains": [4, "0x47"],
    "apmask": "-5,-6,-7", "mdevs": {"62177883-f1bb-47f0-914d-32a22e3a8804":
    {"mdev_type": "vfio_ap-passthrough", "attrs": [{"assign_adapter": "5"}, {"assign_adapter": "6"},
    {"assign_domain": "4"}, {"assign_domain": "0x47"}, {"assign_control_domain": "4"}]}}}"#;
const CPUINFO: &str =
    "vendor_id       : IBM/S390\nfeatures\t: esan3 zarch sie \nfacilities      : 0 1 2 12 15 65 76\n";
const MATRIX: &str = "sys/devices/vfio_ap/matrix/62177883-f1bb-47f0-914d-32a22e3a8804";

/// Makes a host below `root` that is ready for a guest, by group 3 and by character device 0: its mediated device
/// 62177883-f1bb-47f0-914d-32a22e3a8804 has the adapters 05 and 06 and the domains 0004 and 0047.
///
/// # Panics
/// When files cannot be written there.
pub fn make_host(root: &Path) {
    let state = ApHost::rehearsal_of(&Description::from_json(HOST).unwrap()).snapshot();
    make_sysfs(&root.join("sys"), &state);
    let link = |target: &str, path: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    };
    link("../../../../bus/mdev/drivers/vfio_ap_mdev", &format!("{MATRIX}/driver"));
    link("../../../../kernel/iommu_groups/3", &format!("{MATRIX}/iommu_group"));
    let (_, mdev) = MATRIX.rsplit_once('/').unwrap();
    link("../../../../devices/vfio_ap/matrix", &format!("sys/kernel/iommu_groups/3/devices/{mdev}"));
    for (path, text) in [
        ("proc/cpuinfo", CPUINFO),
        ("proc/sys/kernel/osrelease", "6.15.0-rc1\n"),
        ("proc/self/status", "Name:\tadjunct\nCapEff:\t0000000000000000\n"),
        (
            "proc/self/limits",
            "Limit     Soft Limit Hard Limit Units\nMax locked memory         8388608    8388608    bytes\n",
        ),
        ("dev/vfio/vfio", ""),
        ("dev/vfio/3", ""),
        ("dev/vfio/devices/vfio0", ""),
        ("dev/iommu", ""),
    ] {
        put(root, path, text);
    }
    put(root, &format!("{MATRIX}/mdev_type/device_api"), "vfio-ap\n");
    put(root, &format!("{MATRIX}/vfio-dev/vfio0/dev"), "511:0\n");
}
