//! VFIO that writes down what is asked of it, answers as a test says, and refuses what a test says.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machine::Storage;
use vmm_sys_util::eventfd::EventFd;

use super::kernel::{self, Information};

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

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
        state.calls.push(call);
        match state.refuse {
            Some(n) if n == state.calls.len() - 1 => Err(io::Error::from_raw_os_error(libc::EIO)),
            _ => Ok(()),
        }
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
        state.calls.push(call);
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
