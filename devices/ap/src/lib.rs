//! AP instructions, queues, emulated Crypto Express cards and the simulated AP host.

pub mod host;
