//! The subcommands, one module each.

pub mod ap;
mod client;
pub mod console;
pub mod ctl;
pub mod run;
