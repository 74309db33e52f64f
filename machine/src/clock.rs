//! Guest time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seconds between the TOD epoch (1900-01-01) and the Unix epoch.
const TOD_UNIX_OFFSET: u64 = 2_208_988_800;

/// The time a guest sees, in nanoseconds since the machine was made, and the TOD value it began at.
pub trait Clock: Send + Sync {
    /// Nanoseconds of guest time since the start of the machine.
    fn now(&self) -> u64;

    /// The TOD clock (bit 51 = one microsecond) at `now() == 0`.
    fn tod_epoch(&self) -> u64;

    /// Whether time is virtual (an instruction count): then nothing may depend on host time, and what
    /// a device does later is [scheduled](Self::schedule).
    fn is_virtual(&self) -> bool;

    /// Runs `action` when guest time reaches `at` nanoseconds. With virtual time it runs on the CPU's
    /// thread between two instructions; a host clock runs it at once, since the caller's own thread
    /// has already taken the time it takes.
    fn schedule(&self, at: u64, action: Box<dyn FnOnce() + Send>);

    /// The TOD clock now.
    fn tod(&self) -> u64 {
        self.tod_epoch().wrapping_add(nanoseconds_to_tod(self.now()))
    }
}

/// Nanoseconds as TOD units: 4096 units are one microsecond.
pub(crate) fn nanoseconds_to_tod(ns: u64) -> u64 {
    ((ns as u128 * 4096) / 1000) as u64
}

/// The host's monotonic clock, with the TOD epoch taken from the host's time of day at creation.
pub struct HostClock {
    start: Instant,
    tod_epoch: u64,
}

impl HostClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let ns = unix.as_nanos() + TOD_UNIX_OFFSET as u128 * 1_000_000_000;
        Self { start: Instant::now(), tod_epoch: (ns * 4096 / 1000) as u64 }
    }
}

impl Default for HostClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for HostClock {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn tod_epoch(&self) -> u64 {
        self.tod_epoch
    }

    fn is_virtual(&self) -> bool {
        false
    }

    fn schedule(&self, _at: u64, action: Box<dyn FnOnce() + Send>) {
        action();
    }
}
