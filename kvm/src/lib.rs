//! CPU back end for s390x hosts: Linux's KVM behind the traits of `machine`.
//!
//! * [`Machine`]: one VM: checks what the host offers, applies the CPU [`model`], maps storage, makes CPUs and the
//!   floating interruption controller, and carries what CPUs ask of one another. Implements `machine::Vm`.
//! * [`Cpu`]: one CPU. Implements `machine::Vcpu`: what the kernel hands to user space becomes an
//!   [`Exit`](machine::Exit) in [`exit`], an answer goes back through the registers shared with the kernel.
//! * [`kernel`]: the kernel as traits, in plain types. Everything above it compiles and is tested on any host, with a
//!   kernel that records each call. The one that calls ioctls exists on s390x ([`open`]); its tests look at the requests
//!   and their arguments from below, with `scripted_kernel`.
//!
//! AP goes one of three ways ([`Ap`]): the hardware interprets AP instructions against the CRYCB that `vfio_ap`
//! fills; or each arrives here and goes on as an exit to `devices/ap`; or there are none.
//!
//! Invariants: an access exception is presented to the guest only when the VMM finishes the instruction with it;
//! nothing of the kernel's structures leaves this crate; whatever was opened is closed when making a machine fails.
//!
//! Deliberately absent: nested SIE (no such CPU feature is offered), collaborative memory management,
//! protected virtualization, PCI.
#![deny(unsafe_code)]

mod cpu;
pub mod exit;
pub mod flic;
pub mod interruption;
#[cfg(target_arch = "s390x")]
mod ioctls;
pub mod kernel;
mod memory;
pub mod model;
#[cfg(any(test, feature = "record"))]
pub mod record;
mod rendezvous;
mod report;
mod sigp;
mod status;
mod vfio;
mod vm;

pub use cpu::Cpu;
#[cfg(target_arch = "s390x")]
pub use ioctls::open;
pub use vfio::VfioFiles;
pub use vm::{Ap, Machine, Options};

/// What the host refused, or lacks.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no KVM to be used.
    #[error(
        "open /dev/kvm; on an s390x host load the module kvm and join the group kvm, elsewhere use the software engine (--accel engine)"
    )]
    Open(#[source] std::io::Error),
    /// The kernel speaks another version of the interface.
    #[error("KVM has interface version {0}, 12 is needed; use another kernel")]
    Version(i32),
    /// Capabilities that every run needs.
    #[error("the host's KVM lacks {}; use Linux 5.10 or newer", .0.join(", "))]
    Capabilities(Vec<&'static str>),
    /// The kernel gave this process page tables without room for a guest's (`s390_enable_sie` before Linux 7.0).
    #[error(
        "make a virtual machine; before Linux 7.0 the kernel does that for a program with the ELF segment S390_PGSTE only: use a build linked with --s390-pgste, or set sysctl vm.allocate_pgste=1 and start again"
    )]
    PageTables(#[source] std::io::Error),
    /// The host's tables cannot map so much storage.
    #[error("the host maps at most {most} bytes of guest storage, not {size}; give a smaller --memory")]
    Storage {
        /// What was asked for, in bytes.
        size: u64,
        /// What is possible.
        most: u64,
    },
    /// Something that was asked of the kernel.
    #[error("{attempt}")]
    Kernel {
        /// What was attempted, with its object.
        attempt: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The host's CPUs cannot be what was asked for.
    #[error(transparent)]
    Model(#[from] model::Unavailable),
}

/// Says what was attempted when the kernel refuses it.
trait Attempt<T> {
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Attempt<T> for std::io::Result<T> {
    fn attempt(self, attempt: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Kernel { attempt: attempt(), source })
    }
}

/// Where KVM does not exist for these guests.
#[cfg(not(target_arch = "s390x"))]
pub fn open() -> Result<std::sync::Arc<dyn kernel::Kvm>, Error> {
    Err(Error::Open(std::io::Error::new(
        std::io::ErrorKind::Unsupported,
        "KVM runs s390x guests on s390x hosts only",
    )))
}

#[cfg(test)]
mod tests;
