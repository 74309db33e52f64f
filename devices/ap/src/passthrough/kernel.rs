//! The kernel's side of VFIO as traits, in plain types: what the rest of the module is written against, and what its tests
//! record. Whatever a value stands for is closed when the value is dropped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use machine::Storage;
use vmm_sys_util::eventfd::EventFd;

/// Index of the interruption with which the host asks for the device back.
pub const REQUEST: u32 = 0;
/// Index of the interruption that says that the guest's APCB was rewritten; since Linux 6.15.
pub const CONFIGURATION_CHANGED: u32 = 1;

/// Flags of a device.
pub mod flag {
    /// It can be reset.
    pub const RESET: u32 = 1;
    /// It is an AP device.
    pub const AP: u32 = 1 << 5;
}

/// VFIO of a host.
pub trait Vfio: Send + Sync {
    /// An empty container with address translation of type 1, version 2, to be chosen: `/dev/vfio/vfio`.
    fn container(&self) -> io::Result<Box<dyn Container>>;

    /// An IOMMU group: `/dev/vfio/NUMBER`.
    fn group(&self, number: u32) -> io::Result<Box<dyn Group>>;

    /// An IOMMU group whose file is open already.
    fn group_of(&self, file: OwnedFd) -> Box<dyn Group>;

    /// An address space of `/dev/iommu`.
    fn address_space(&self) -> io::Result<Box<dyn AddressSpace>>;

    /// The character device of the mediated device that is at `mdev` in sysfs.
    fn character_device(&self, mdev: &Path) -> io::Result<Box<dyn Device>>;

    /// A character device whose file is open already, and given to no iommufd yet.
    fn character_device_of(&self, file: OwnedFd) -> Box<dyn Device>;
}

/// Guest storage, mapped for the host's pinning.
pub trait Mapping: AsFd + Send {
    /// Maps all of `storage` at its absolute addresses. Nothing is pinned by that. `storage` lives until it is unmapped, or the
    /// value is dropped.
    fn map(&mut self, storage: &Arc<Storage>) -> io::Result<()>;

    /// Takes the mapping back.
    fn unmap(&mut self) -> io::Result<()>;
}

/// A container of groups.
pub trait Container: Mapping {
    /// Chooses the translation, once there is a group.
    fn choose_translation(&self) -> io::Result<()>;
}

/// An IOMMU group.
pub trait Group: AsFd + Send {
    /// Whether every device of the group is in the hands of VFIO.
    fn viable(&self) -> io::Result<bool>;

    /// Puts the group into a container.
    fn join(&self, container: BorrowedFd<'_>) -> io::Result<()>;

    /// Takes it out. No device may be open.
    fn leave(&self) -> io::Result<()>;

    /// Opens the device of this name.
    fn device(&self, name: &str) -> io::Result<Box<dyn Device>>;
}

/// An address space of an iommufd.
pub trait AddressSpace: Mapping {
    /// What the iommufd calls it.
    fn id(&self) -> u32;
}

/// What a device says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Information {
    /// See [`flag`].
    pub flags: u32,
    /// Number of interruption indexes.
    pub interruptions: u32,
}

/// An open device.
pub trait Device: AsFd + Send + Sync {
    /// Gives a character device to an iommufd, which opens it.
    fn bind(&self, iommufd: BorrowedFd<'_>) -> io::Result<()>;

    /// Lets it pin what is mapped in an address space.
    fn attach(&self, address_space: u32) -> io::Result<()>;

    /// Takes the address space from it.
    fn detach(&self) -> io::Result<()>;

    /// What it is.
    fn information(&self) -> io::Result<Information>;

    /// How many events an interruption index can have.
    fn events(&self, index: u32) -> io::Result<u32>;

    /// Signals `event` at each interruption of this index; `None`: no longer.
    fn signal(&self, index: u32, event: Option<&EventFd>) -> io::Result<()>;

    /// Resets and empties its queues.
    fn reset(&self) -> io::Result<()>;
}

/// A VM's list of VFIO files. vfio_ap opens no device of a file that is on none.
pub trait VfioFiles: Send + Sync {
    /// Adds a group or a character device.
    fn add(&self, file: BorrowedFd<'_>) -> io::Result<()>;

    /// Removes it. The kernel keeps it open until then.
    fn remove(&self, file: BorrowedFd<'_>) -> io::Result<()>;
}
