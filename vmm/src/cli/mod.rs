//! The subcommands, one module each.

mod client;
pub mod ctl;
pub mod run;
