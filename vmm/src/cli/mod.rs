//! The subcommands, one module each.

pub mod ap;
pub mod ap_host;
mod client;
pub mod console;
pub mod ctl;
pub mod run;
