//! The subcommands, one module each.

pub mod ap;
pub mod ap_host;
pub mod check_config;
mod client;
pub mod console;
pub mod ctl;
pub mod doctor;
pub mod documents;
mod monitor;
pub mod run;
mod terminal;
pub mod top;
