//! The seam between CPU back ends (`cpu`, `kvm`) and everything that answers a guest (`devices/*`,
//! `vmm`).
//!
//! * [`Storage`]: guest absolute storage with its storage keys.
//! * [`Vcpu`]: one CPU. [`Vcpu::run`] returns an [`Exit`] that names what happened; `vmm` answers
//!   with an [`Outcome`].
//! * [`Vm`]: what concerns all CPUs: new CPU, hold off, reset, kick.
//! * [`Post`]: how I/O, service-signal and channel-report interruptions are made pending.
//! * [`Clock`]: guest time, of the host or virtual.
//!
//! Deliberately absent: opcodes, intercept codes, kernel structures. A method joins the traits only
//! when both back ends need it.

mod clock;
mod exit;
mod post;
mod storage;
mod vcpu;

pub use clock::{Clock, HostClock};
pub use exit::{Exit, InterruptionLoop, Operand, Outcome, SubchannelOperation};
pub use post::{Floating, Post};
pub use storage::{Addressing, CodeWatcher, Error, Storage};
pub use vcpu::{HeldCpus, ResetKind, Vcpu, VcpuState, Vm};
