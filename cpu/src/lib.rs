//! Software z/Architecture CPU engine.
//!
//! * [`Machine`]: all CPUs of a guest; implements [`machine::Vm`] and [`machine::Post`].
//! * [`Cpu`]: one CPU; implements [`machine::Vcpu`]. One host thread runs it.
//! * [`table`]: the instruction table. Instructions stand in `instructions`, one module per chapter of
//!   the manual, a row beside each function.
//! * [`model`]: CPU models, which are facility lists and a machine type.
//! * [`VirtualClock`]: time that is the instruction count.
//!
//! An instruction is decoded once into a block of operations (`execute`); storage goes through a
//! software TLB (`access`, filled by `translate`); interruptions are taken between blocks
//! (`interruption`), program interruptions precisely. Deliberately absent: devices, channel I/O, SCLP
//! and AP, which leave the CPU as an [`machine::Exit`]; and any knowledge of what guest runs.

pub mod access;
mod bfp;
mod clock;
mod complex;
mod cpu;
mod execute;
pub mod format;
mod instructions;
mod interruption;
pub mod model;
mod sigp;
mod span;
pub mod table;
mod tlb;
mod translate;

pub use clock::VirtualClock;
pub use complex::Machine;
pub use cpu::{Cpu, Flow, Leave};
pub use model::CpuModel;
pub use translate::Space;
