//! The Adjunct virtual machine monitor: what stands between the CPUs of a guest and its devices.
//!
//! * [`Options`], [`Config`]: what to run.
//! * [`Boot`]: kernel, RAM disk and command line into storage.
//! * [`Board`]: answers every exit of every CPU: devices, DIAGNOSE, STORE SYSTEM INFORMATION, resets.
//! * [`devices`]: the wiring, one function per device.
//! * [`Control`]: how a run ends or the guest is reset, from any thread.
//! * [`run`](fn@run): one thread per CPU, the event loop in the caller's thread.
//!
//! Written against [`machine::Vm`] and [`machine::Vcpu`]: only the binary names a CPU back end.
#![deny(unsafe_code)]

mod ap_control;
mod board;
mod config;
mod console;
mod control;
mod crash;
pub mod devices;
mod diagnose;
mod event_loop;
mod events;
pub mod host;
mod ipl;
mod listener;
mod loader;
mod log_file;
mod metrics;
mod pause;
pub mod qmp;
mod rate_limit;
mod run;
pub mod sandbox;
#[cfg(test)]
mod scripted;
mod service;
mod system_information;
mod viewers;
mod watchdog;

pub use ap_control::{ApControl, Plugged};
pub use board::{Board, Parts};
pub use config::{
    Accel, BadArgument, Config, ConsoleTarget, ConsoleType, HostSource, LogFormat, MAX_CPUS, MAX_MEMORY,
    MAX_NAME, Options, WatchdogAction,
};
pub use console::{EscapeAction, Escapes, Output};
pub use control::{Control, End, HostFailure};
pub use crash::{Crash, Disassemble, Reason, Report};
pub use events::{Event, Events, ResetCause};
pub use listener::{ListenError, Listener};
pub use loader::{Boot, Error as LoadError};
pub use log_file::{LogFile, LogWriter, start_log};
pub use metrics::{Exporter, MetricsTarget};
pub use rate_limit::RateLimit;
pub use run::{Surroundings, run};
pub use sandbox::Sandbox;
pub use service::PidFile;
pub use system_information::Identity;
pub use viewers::{FeedWriter, Viewers};
