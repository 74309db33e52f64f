//! What the programs share: the first instructions, interruptions, the console, checks.
//!
//! * [`program!`]: the function that a program consists of.
//! * [`Checks`]: one line per check on the console, and the verdict.
//! * [`step`]: executes one instruction with registers of the caller's, and tells how it ended: by itself or by the
//!   first interruption. There are no handlers: a program is always told by the call that it makes.
//! * [`wait`]: an enabled wait, which ends with the first interruption.
//! * [`sclp`], [`ap`], [`cpus`]: these facilities as a program uses them.
//!
//! The programs run in the supervisor state with DAT and all interruptions off; storage beyond the program's end and
//! below [`FREE_END`] is theirs.
#![no_std]

pub mod ap;
mod check;
pub mod cpus;
pub mod encode;
mod entry;
pub mod machine;
pub mod message;
pub mod sclp;
mod step;

pub use check::Checks;
pub use entry::reset;
pub use step::{Outcome, Step, Taken, mask, step, step_with, wait};

/// First address of storage that no program is linked at.
pub const FREE: u64 = 0x20_0000;
/// First address behind the storage that every place gives a program.
pub const FREE_END: u64 = 0x400_0000;

/// Makes `$main`, a function of [`Checks`], the program `$name`.
#[macro_export]
macro_rules! program {
    ($name:literal, $main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn program() -> ! {
            $crate::Checks::run($name, $main)
        }
    };
}
