//! Crypto queues of a real host, handed to a guest by vfio_ap.
//!
//! * [`preflight()`]: whether a mediated device can be given, and what to do if not, before anything is opened.
//! * [`Passthrough`]: a guest's connection to its host: plug, unplug, reset; and a thread that hears what the host signals.
//! * [`Given`]: by name or by descriptor.
//! * [`kernel`]: VFIO as traits; [`open`] gives the real one, on s390x. Only that calls ioctls.
//!
//! The queues themselves are the hardware's: no AP instruction comes here. What the guest has is in the CRYCB that the kernel
//! fills, and what that should be is [`apcb`](crate::host::apcb)'s to say.
//!
//! *Invariants*: KVM knows a file before its device is opened; nothing stays open when opening fails at any step, and closing
//! takes the steps back in the reverse order; the guest is told of every change that the host tells of.

mod device;
mod given;
#[cfg(target_arch = "s390x")]
mod ioctls;
pub mod kernel;
mod name;
mod preflight;
#[cfg(any(test, feature = "record"))]
pub mod record;
#[cfg(test)]
mod tests;
mod watch;

pub use given::Given;
pub use name::{BadName, MdevName};
pub use preflight::{Path, Places, Problem, Target, preflight};
pub use watch::{Guest, LOOK_EVERY, Passthrough, Plugged};

use std::fmt;
use std::io;

use uuid::Uuid;

use crate::host::HostError;

/// Why a device cannot be given to a guest, or was not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was found before anything was opened.
    #[error("{}", lines(.0))]
    Preflight(Vec<Problem>),
    /// What the kernel refused.
    #[error("{attempt}; {cure}")]
    Kernel {
        /// What was attempted, with its object.
        attempt: String,
        /// What can be done about it, or where to look.
        cure: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Some device of the group is in other hands.
    #[error(
        "group {group} is not viable: a device of it is not bound to VFIO; `ls -l /sys/kernel/iommu_groups/{group}/devices/*/driver`"
    )]
    NotViable {
        /// The group.
        group: u32,
    },
    /// The device is of another kind.
    #[error(
        "mdev {mdev} is no AP device (its flags are {flags:#x}); `adjunct ap list` shows those of vfio_ap"
    )]
    NotAp {
        /// Its name.
        mdev: Uuid,
        /// What it says of itself.
        flags: u32,
    },
    /// The guest has a device, and can have one.
    #[error("the VM has mdev {other} already, and a VM can have one; unplug that first")]
    Second {
        /// The device it has.
        other: Uuid,
    },
    /// The guest has not got that device.
    #[error("the VM has not got mdev {0}")]
    NotPlugged(Uuid),
    /// There is no VFIO here.
    #[error("vfio_ap exists on s390x hosts; elsewhere cards are simulated (--accel engine)")]
    NoVfio,
}

fn lines(problems: &[Problem]) -> String {
    let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
    all.join("\n  ")
}

/// The cure where there is no descriptor left.
const OPEN_FILES: &str = "raise the limit of open files: ulimit -n 16384, or LimitNOFILE= in the unit";

impl From<Error> for HostError {
    fn from(error: Error) -> Self {
        let errno = match &error {
            Error::Kernel { source, .. } => match source.raw_os_error() {
                Some(libc::EBUSY) => "EBUSY",
                Some(libc::EPERM) => "EPERM",
                Some(libc::EACCES) => "EACCES",
                Some(libc::ENOENT) => "ENOENT",
                Some(libc::ENODEV) => "ENODEV",
                Some(libc::EINVAL) => "EINVAL",
                Some(libc::ENOMEM) => "ENOMEM",
                _ => "EIO",
            },
            Error::Preflight(_) | Error::NoVfio => "ENODEV",
            Error::NotViable { .. } => "EPERM",
            Error::NotAp { .. } | Error::NotPlugged(_) => "EINVAL",
            Error::Second { .. } => "EPERM",
        };
        let source = std::error::Error::source(&error).map(|e| format!(": {e}")).unwrap_or_default();
        Self::Remote { errno: errno.into(), message: format!("{error}{source}") }
    }
}

/// Says what was attempted when the kernel refuses it.
trait Attempt<T> {
    fn attempt(self, attempt: impl fmt::Display, cure: &'static str) -> Result<T, Error>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, attempt: impl fmt::Display, cure: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Kernel { attempt: attempt.to_string(), cure, source })
    }
}

/// VFIO of this host.
///
/// # Errors
/// [`Error::NoVfio`] on hosts of another kind.
#[cfg(target_arch = "s390x")]
pub fn open() -> Result<std::sync::Arc<dyn kernel::Vfio>, Error> {
    Ok(std::sync::Arc::new(ioctls::Host))
}

/// VFIO of this host.
///
/// # Errors
/// [`Error::NoVfio`] on hosts of another kind.
#[cfg(not(target_arch = "s390x"))]
pub fn open() -> Result<std::sync::Arc<dyn kernel::Vfio>, Error> {
    Err(Error::NoVfio)
}
