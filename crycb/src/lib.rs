//! AP configuration data types of z/Architecture: APQN, masks, matrix, QCI block, APCB, CRYCB.
//!
//! What an AP instruction may reach is decided by three 256-bit masks: adapters (APM), usage domains (AQM) and
//! control domains (ADM). This crate holds these masks in every form in which they appear:
//!
//! * [`Mask256`], [`Matrix`]: the plain values, with the kernel's text forms;
//! * [`Qci`]: the block that PQAP(QCI) stores;
//! * [`Apcb0`], [`Apcb1`], [`Crycb`], [`CrycbView`]: the bytes that SIE reads when a guest executes an AP instruction;
//! * [`filter`]: how the matrix of a mediated device becomes the matrix of a guest.
//!
//! Pure data: no allocation, no I/O, no dependency. `devices/ap` decides AP instructions on a [`CrycbView`]; `vmm` builds
//! the [`Crycb`] and hands it to the engine or, through the kernel, to the machine.
//!
//! Bits are numbered as the manual prints them: bit 0 is the leftmost bit of byte 0.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod apqn;
mod control_block;
pub mod filter;
mod mask;
mod matrix;
mod qci;

pub use apqn::{Apid, Apqi, Apqn, ParseError};
pub use control_block::{Apcb0, Apcb1, CRYCB_SIZE, Crycb, CrycbFormat, CrycbView};
pub use mask::{Mask256, MaskError};
pub use matrix::Matrix;
pub use qci::{QCI_SIZE, Qci, QciFlags};
