//! AP instructions, queues, emulated Crypto Express cards and the simulated AP host.

pub mod card;
pub mod host;
