//! One simulated host for many VMs in other processes, and for their operators, over a UNIX stream socket.
//!
//! *The configuration lives in the daemon, the data path in each VM's process.* [`Server`] has the one [`ApHost`](super::ApHost):
//! rules, masks, bindings, mediated devices, who has what. Each VM's process emulates the hardware of its own queues; a guest's
//! requests never leave it, and what was on its queues dies with it. A queue belongs to one guest at a time, so that nothing
//! but the rules is shared. `docs/decisions/0003-ap-host-daemon.md` has the rejected alternative.
//!
//! * [`Server`]: the daemon. [`RemoteMachine`] is the machine below its host: what the support element set, and queues that are
//!   reset by the VM that used them.
//! * [`Client`]: an operator: operations, snapshots, events. [`follow`] is for events that must go on.
//! * [`VmClient`]: a VM: [`Order`]s in, [`Report`]s out.
//! * [`ToDaemon`], [`FromDaemon`]: the messages, one JSON object a line.
//!
//! Invariants: whatever a client sends, the daemon answers with an error or drops that client; memory for each client is
//! bounded; no lock of the host is held while a client is waited for. An end of a VM's connection confirms everything that was
//! asked of it, since the data died with the process.
//!
//! Deliberately absent: requests and replies of guests, and any trust in what a client says about another's queues.

mod client;
mod follow;
mod outgoing;
mod protocol;
mod server;
mod vms;

pub use client::{Client, Events, Incoming, RemoteError, VmClient, VmSender};
pub use follow::follow;
pub use protocol::{
    FromDaemon, LineError, LineReader, Order, QueueCount, Refusal, Report, ToDaemon, VERSION,
};
pub use server::Server;
pub use vms::RemoteMachine;

use std::time::Duration;

/// Longest line in bytes that the daemon takes. The definition of a mediated device with everything assigned has 40 KiB.
pub const MAX_LINE: usize = 1 << 20;
/// Longest line in bytes that a client takes: a snapshot of a host with 65536 queues has 12 MiB.
pub const MAX_ANSWER: usize = 64 << 20;
/// Most bytes that wait to be taken by a client before it is dropped.
pub const MAX_WAITING: usize = 64 << 20;
/// Most clients at a time.
pub const MAX_CLIENTS: usize = 128;
/// Most requests of one client that wait for their turn.
pub const MAX_REQUESTS: usize = 16;
/// Lines without meaning after which a client is dropped.
pub const MAX_NONSENSE: u32 = 16;
/// How long a client may take none of what the other side writes.
pub const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client has to say hello.
pub const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// How long a VM has to carry out what it is told.
pub const CONFIRM_PATIENCE: Duration = Duration::from_secs(5);
/// How long a snapshot waits for the VMs' figures.
pub const STATISTICS_PATIENCE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
