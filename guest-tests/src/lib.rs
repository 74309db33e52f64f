//! Small bare programs as guests, in the test's own process, on the software engine with the real devices.
//!
//! * [`assemble`]: a program from text in the syntax of the GNU assembler.
//! * [`Guest`]: a machine as `adjunct run` puts it together, with the program in its storage.
//! * [`request`]: what a driver would send to each kind of card.
//!
//! A program ends with every CPU stopped or in a disabled wait; the test reads what it left in storage.
//! Neighbours: `vmm` for the machine, `cpu` for the engine. Nothing depends on this crate.

#![forbid(unsafe_code)]

mod assembler;
mod guest;
pub mod request;

pub use assembler::{Program, assemble};
pub use guest::{Ap, Ended, Guest, MODE_64, Running};
