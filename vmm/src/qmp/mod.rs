//! The management socket: QMP, the protocol by which QEMU is managed, so that its clients work unchanged.
//!
//! * [`json`]: commands out of a stream of bytes.
//! * [`schema`], [`table`]: what commands and events there are, and their types; one row each.
//! * [`session`]: one client's conversation, without any socket.
//! * [`commands`]: what the commands do.
//! * [`conversation`]: the same with a board, for who fuzzes it.
//! * [`server`]: sockets and clients on the event loop.
//!
//! *Invariants:* everything runs in the event loop's thread and nothing there waits; a command that takes
//! time leaves a question that is asked again when something has changed. A client's memory is bounded by
//! [`json::LONGEST`], [`session::QUEUE`] and [`session::MOST_OUTPUT`], and what it does not read is never
//! waited for. Names that QEMU has mean what they mean there; ours begin with `x-` or `X_`, and events of
//! ours go only to who asked for them.

mod address;
mod commands;
mod conversation;
mod descriptors;
mod error;
pub mod json;
mod monitor;
pub mod schema;
mod server;
pub mod session;
mod table;

pub use address::SocketAddress;
pub use commands::Metrics as Counters;
pub use conversation::Conversation;
pub use error::{Class, Error};
pub use server::Server;
pub(crate) use server::Service;

#[cfg(test)]
mod tests;

/// What QEMU's clients are told the version is: the release whose schema our commands and events follow.
pub const COMPATIBLE: (u32, u32, u32) = (9, 0, 0);
/// What is told beside it.
pub const PACKAGE: &str = concat!("adjunct ", env!("CARGO_PKG_VERSION"));
/// Longest reply or event in bytes with its line end; clients read lines of 64 KiB.
pub const LONGEST_LINE: usize = (64 << 10) - 1;

/// What the management commands say about the machine that only the binary knows.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// KVM executes the guest.
    pub kvm: bool,
    /// The host has KVM that could.
    pub kvm_present: bool,
    /// Where the guest's console is, as QEMU writes it: `stdio`, `null`, `file`, `pty:PATH` or `unix:PATH,server=on`.
    pub console: String,
}
