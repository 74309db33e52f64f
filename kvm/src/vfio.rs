//! The VFIO files that a VM knows. vfio_ap opens a device only for a VM that knows the device's file.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use crate::kernel::Device;
use crate::vm::Machine;
use crate::{Attempt, Error};

/// Group of the attributes, and its attributes.
pub(crate) const FILE: u32 = 1;
pub(crate) const ADD: u64 = 1;
pub(crate) const REMOVE: u64 = 2;

/// A VM's list of VFIO files: groups and character devices.
pub struct VfioFiles(Arc<dyn Device>);

impl Machine {
    /// The VFIO files of this VM; none yet. The list goes with the VM.
    pub fn vfio_files(&self) -> Result<VfioFiles, Error> {
        let device = self.vfio().attempt(|| "make the registry of VFIO files".into())?;
        Ok(VfioFiles(device))
    }
}

impl VfioFiles {
    /// Adds a file.
    pub fn add(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.set(ADD, file)
    }

    /// Removes a file, which the kernel keeps open until then.
    pub fn remove(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.set(REMOVE, file)
    }

    fn set(&self, attribute: u64, file: BorrowedFd<'_>) -> io::Result<()> {
        self.0.set(FILE, attribute, &file.as_raw_fd().to_ne_bytes())
    }
}
