//! The kernel itself: [`kernel`](super::kernel)'s traits by ioctls.
//!
//! It stands on vfio-ioctls for containers, address spaces, mappings and opening character devices. That crate opens a device
//! of a group, and asks what a device is, for PCI and platform devices only; all of it can go when it accepts AP. Each ioctl of
//! our own says what keeps it here. The only module of this crate with `unsafe` code.
#![allow(unsafe_code)]

use std::error::Error;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use iommufd_ioctls::IommuFd;
use machine::Storage;
use vfio_bindings::bindings::vfio::*;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioIommufd};
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_io_nr;

use super::kernel::{self, Information};

// vfio-ioctls keeps groups to itself: it joins them while it opens a device, and refuses AP devices after that.
ioctl_io_nr!(VFIO_SET_IOMMU, VFIO_TYPE.into(), VFIO_BASE + 2);
ioctl_io_nr!(VFIO_GROUP_GET_STATUS, VFIO_TYPE.into(), VFIO_BASE + 3);
ioctl_io_nr!(VFIO_GROUP_SET_CONTAINER, VFIO_TYPE.into(), VFIO_BASE + 4);
ioctl_io_nr!(VFIO_GROUP_UNSET_CONTAINER, VFIO_TYPE.into(), VFIO_BASE + 5);
ioctl_io_nr!(VFIO_GROUP_GET_DEVICE_FD, VFIO_TYPE.into(), VFIO_BASE + 6);
// It takes a device without the flag of PCI or platform for an error.
ioctl_io_nr!(VFIO_DEVICE_GET_INFO, VFIO_TYPE.into(), VFIO_BASE + 7);
// These it has for its own kind of device only, which an AP device never becomes. Moreover its way of switching an
// interruption off is not the one that vfio_ap knows, a descriptor of -1, and it does not tell whether a reset failed.
ioctl_io_nr!(VFIO_DEVICE_GET_IRQ_INFO, VFIO_TYPE.into(), VFIO_BASE + 9);
ioctl_io_nr!(VFIO_DEVICE_SET_IRQS, VFIO_TYPE.into(), VFIO_BASE + 10);
ioctl_io_nr!(VFIO_DEVICE_RESET, VFIO_TYPE.into(), VFIO_BASE + 11);
ioctl_io_nr!(VFIO_DEVICE_BIND_IOMMUFD, VFIO_TYPE.into(), VFIO_BASE + 18);
ioctl_io_nr!(VFIO_DEVICE_ATTACH_IOMMUFD_PT, VFIO_TYPE.into(), VFIO_BASE + 19);
ioctl_io_nr!(VFIO_DEVICE_DETACH_IOMMUFD_PT, VFIO_TYPE.into(), VFIO_BASE + 20);

/// Bytes of `struct vfio_device_bind_iommufd` that every kernel knows: without the token.
const BIND_SIZE: u32 = 16;

/// `struct vfio_irq_set` with one descriptor as its data.
#[repr(C)]
struct IrqSet {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    descriptor: RawFd,
}

/// VFIO of this host.
pub struct Host;

/// What the kernel answered, which those crates have somewhere in their errors.
fn refused(error: impl Error + Send + Sync + 'static) -> io::Error {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        let ours = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if let Some(number) = ours.or_else(|| Some(error.downcast_ref::<errno::Error>()?.errno())) {
            return io::Error::from_raw_os_error(number);
        }
        cause = error.source();
    }
    io::Error::other(error)
}

/// The answer of an ioctl.
fn answer(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn argsz<T>() -> u32 {
    size_of::<T>() as u32
}

impl kernel::Vfio for Host {
    fn container(&self) -> io::Result<Box<dyn kernel::Container>> {
        let container = VfioContainer::new(None).map_err(refused)?;
        Ok(Box::new(Container { container, storage: None }))
    }

    fn group(&self, number: u32) -> io::Result<Box<dyn kernel::Group>> {
        let path = format!("/dev/vfio/{number}");
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(Group(file)))
    }

    fn group_of(&self, file: OwnedFd) -> Box<dyn kernel::Group> {
        Box::new(Group(file.into()))
    }

    fn address_space(&self) -> io::Result<Box<dyn kernel::AddressSpace>> {
        let iommufd = Arc::new(IommuFd::new().map_err(refused)?);
        let space = VfioIommufd::new(iommufd, None, None).map_err(refused)?;
        Ok(Box::new(AddressSpace { space, storage: None }))
    }

    fn character_device(&self, mdev: &Path) -> io::Result<Box<dyn kernel::Device>> {
        Ok(Box::new(Device(VfioDevice::open_cdev(mdev).map_err(refused)?)))
    }

    fn character_device_of(&self, file: OwnedFd) -> Box<dyn kernel::Device> {
        Box::new(Device(file.into()))
    }
}

struct Container {
    container: VfioContainer,
    /// What is mapped.
    storage: Option<Arc<Storage>>,
}

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.container.as_raw_fd()) }
    }
}

impl kernel::Mapping for Container {
    fn map(&mut self, storage: &Arc<Storage>) -> io::Result<()> {
        let size = storage.size() as usize;
        // SAFETY: `host_base` is the start of one mapping of that size, which lives as long as `self.storage`. Guest storage is
        // accessed through vm-memory's volatile copies and raw pointers only, since guests change it at any time.
        unsafe { self.container.vfio_dma_map(0, size, storage.host_base()) }.map_err(refused)?;
        self.storage = Some(storage.clone());
        Ok(())
    }

    fn unmap(&mut self) -> io::Result<()> {
        let Some(storage) = &self.storage else { return Ok(()) };
        self.container.vfio_dma_unmap(0, storage.size() as usize).map_err(refused)?;
        self.storage = None;
        Ok(())
    }
}

impl kernel::Container for Container {
    fn choose_translation(&self) -> io::Result<()> {
        // SAFETY: the request takes a number.
        answer(unsafe { ioctl_with_val(&self.container, VFIO_SET_IOMMU(), VFIO_TYPE1v2_IOMMU.into()) })
            .map(drop)
    }
}

struct AddressSpace {
    space: VfioIommufd,
    /// What is mapped.
    storage: Option<Arc<Storage>>,
}

impl AsFd for AddressSpace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.space.iommufd().as_raw_fd()) }
    }
}

impl kernel::Mapping for AddressSpace {
    fn map(&mut self, storage: &Arc<Storage>) -> io::Result<()> {
        let size = storage.size() as usize;
        // SAFETY: as for a container.
        unsafe { self.space.vfio_dma_map(0, size, storage.host_base()) }.map_err(refused)?;
        self.storage = Some(storage.clone());
        Ok(())
    }

    fn unmap(&mut self) -> io::Result<()> {
        let Some(storage) = &self.storage else { return Ok(()) };
        self.space.vfio_dma_unmap(0, storage.size() as usize).map_err(refused)?;
        self.storage = None;
        Ok(())
    }
}

impl kernel::AddressSpace for AddressSpace {
    fn id(&self) -> u32 {
        self.space.ioas().id()
    }
}

struct Group(File);

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl kernel::Group for Group {
    fn viable(&self) -> io::Result<bool> {
        let mut status = vfio_group_status { argsz: argsz::<vfio_group_status>(), flags: 0 };
        // SAFETY: `status` is a structure of the request's type.
        answer(unsafe { ioctl_with_mut_ref(&self.0, VFIO_GROUP_GET_STATUS(), &mut status) })?;
        Ok(status.flags & VFIO_GROUP_FLAGS_VIABLE != 0)
    }

    fn join(&self, container: BorrowedFd<'_>) -> io::Result<()> {
        let descriptor = container.as_raw_fd();
        // SAFETY: the request reads a descriptor.
        answer(unsafe { ioctl_with_ref(&self.0, VFIO_GROUP_SET_CONTAINER(), &descriptor) }).map(drop)
    }

    fn leave(&self) -> io::Result<()> {
        // SAFETY: the request takes nothing.
        answer(unsafe { ioctl(&self.0, VFIO_GROUP_UNSET_CONTAINER()) }).map(drop)
    }

    fn device(&self, name: &str) -> io::Result<Box<dyn kernel::Device>> {
        let name = CString::new(name)?;
        // SAFETY: the request reads a string that ends with zero.
        let descriptor =
            answer(unsafe { ioctl_with_ptr(&self.0, VFIO_GROUP_GET_DEVICE_FD(), name.as_ptr()) })?;
        // SAFETY: the answer is a new descriptor, which nobody else has.
        Ok(Box::new(Device(unsafe { File::from_raw_fd(descriptor) })))
    }
}

struct Device(File);

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl kernel::Device for Device {
    fn bind(&self, iommufd: BorrowedFd<'_>) -> io::Result<()> {
        let mut bind =
            vfio_device_bind_iommufd { argsz: BIND_SIZE, iommufd: iommufd.as_raw_fd(), ..Default::default() };
        // SAFETY: `bind` is a structure of the request's type.
        answer(unsafe { ioctl_with_mut_ref(&self.0, VFIO_DEVICE_BIND_IOMMUFD(), &mut bind) }).map(drop)
    }

    fn attach(&self, address_space: u32) -> io::Result<()> {
        // The last member is a newer kernel's, and of no use without its flag.
        let mut attach =
            vfio_device_attach_iommufd_pt { argsz: 12, pt_id: address_space, ..Default::default() };
        // SAFETY: `attach` is a structure of the request's type.
        answer(unsafe { ioctl_with_mut_ref(&self.0, VFIO_DEVICE_ATTACH_IOMMUFD_PT(), &mut attach) }).map(drop)
    }

    fn detach(&self) -> io::Result<()> {
        let detach = vfio_device_detach_iommufd_pt { argsz: 8, ..Default::default() };
        // SAFETY: `detach` is a structure of the request's type.
        answer(unsafe { ioctl_with_ref(&self.0, VFIO_DEVICE_DETACH_IOMMUFD_PT(), &detach) }).map(drop)
    }

    fn information(&self) -> io::Result<Information> {
        let mut info = vfio_device_info { argsz: argsz::<vfio_device_info>(), ..Default::default() };
        // SAFETY: `info` is a structure of the request's type.
        answer(unsafe { ioctl_with_mut_ref(&self.0, VFIO_DEVICE_GET_INFO(), &mut info) })?;
        Ok(Information { flags: info.flags, interruptions: info.num_irqs })
    }

    fn events(&self, index: u32) -> io::Result<u32> {
        let mut info = vfio_irq_info { argsz: argsz::<vfio_irq_info>(), index, ..Default::default() };
        // SAFETY: `info` is a structure of the request's type.
        answer(unsafe { ioctl_with_mut_ref(&self.0, VFIO_DEVICE_GET_IRQ_INFO(), &mut info) })?;
        let by_event = info.flags & VFIO_IRQ_INFO_EVENTFD != 0;
        Ok(if by_event { info.count } else { 0 })
    }

    fn signal(&self, index: u32, event: Option<&EventFd>) -> io::Result<()> {
        let set = IrqSet {
            argsz: argsz::<IrqSet>(),
            flags: VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
            index,
            start: 0,
            count: 1,
            descriptor: event.map_or(-1, AsRawFd::as_raw_fd),
        };
        // SAFETY: `set` is a structure of the request's type, as long as it says; the kernel takes its own reference to the
        // event.
        answer(unsafe { ioctl_with_ref(&self.0, VFIO_DEVICE_SET_IRQS(), &set) }).map(drop)
    }

    fn reset(&self) -> io::Result<()> {
        // SAFETY: the request takes nothing.
        answer(unsafe { ioctl(&self.0, VFIO_DEVICE_RESET()) }).map(drop)
    }
}

#[cfg(test)]
#[path = "ioctls_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "ioctls_calls_tests.rs"]
mod calls;
