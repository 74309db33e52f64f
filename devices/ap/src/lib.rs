//! AP instructions, queues, emulated Crypto Express cards and the simulated AP host.
//!
//! Three layers answer PQAP, NQAP and DQAP, whoever hands them over: the software engine, or KVM where cards are simulated.
//!
//! * *Instruction*: [`ApMachine::execute`] takes a CPU's exit; below it, [`instruction`] holds the rules as functions of
//!   register images, with every check, condition code and response code.
//! * *Queue*: [`ApMachine`] is the machine's hardware, adapters by domains. Each queue takes requests and gives replies in
//!   order, is reset, and reports replies by adapter interruptions to the [`Notifier`] of the guest that asked for it.
//! * *Card*: [`card`] computes the replies, on host threads that the machine owns, never on a CPU's thread.
//!
//! Beside them, [`host`] knows which mediated device may have which queue, as the Linux of the simulated machine would.
//! On a real host the queues are the hardware's, and [`passthrough`] hands them over.
//! [`lock`] keeps the order in which its locks are taken; [`sync`] has the locks.
//!
//! Invariants:
//!
//! * What a guest may reach is decided at each instruction from the 256 bytes of its [`GuestCrycb`]. Deliberately absent is any
//!   other copy of the masks.
//! * A request that NQAP accepted ends in one full DQAP reply or one discard by a reset, zeroize, deconfiguration, check-stop
//!   or removal that TAPQ shows; [`QueueStatistics`] counts both, and [`ApMachine::totals`] beyond the life of a queue.
//! * After a reset or removal nothing of before is left: no request, reply, key, notification byte or interruption.
//! * What the host holds for an interruption (a pinned page, a guest's ISC) lives exactly as long as the interruption.
//!
//! Neighbours: `crycb` for masks and the bytes of the CRYCB; `machine` for CPU, storage, interruptions and time; `vmm`, which
//! wires all of it and knows the guests. Neither the engine nor KVM is known here.

// Forbidden but for `passthrough`'s one module of ioctls.
#![deny(unsafe_code)]

pub mod card;
mod execute;
mod fault;
#[cfg(test)]
mod fixture;
mod guest;
mod hardware;
pub mod host;
pub mod instruction;
pub mod lock;
mod notifier;
pub mod passthrough;
mod pool;
mod queue;
mod status;
pub mod sync;

pub use fault::{Answer, Fault};
pub use guest::{GuestAp, GuestCrycb, PqapHook};
pub use hardware::{ApMachine, Hardware};
pub use notifier::{Notifier, Resources};
pub use pool::set_worker_entry;
pub use queue::{AdapterState, Dequeue, QueueStatistics};
pub use status::{QueueInformation, ResponseCode, Status};
