//! Bounds on what the guest can make us log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets `burst` events through at once and one more each `interval`; counts the rest.
///
/// What the guest does may be logged only behind one of these, or once.
pub struct RateLimit {
    burst: u32,
    interval: Duration,
    state: Mutex<State>,
}

struct State {
    left: u32,
    since: Instant,
    suppressed: u64,
}

impl RateLimit {
    /// A limit of `burst` (at least 1) events and one more each `interval`.
    pub fn new(burst: u32, interval: Duration) -> Self {
        let state = State { left: burst, since: Instant::now(), suppressed: 0 };
        Self { burst, interval: interval.max(Duration::from_nanos(1)), state: Mutex::new(state) }
    }

    /// Whether an event may pass now: then how many were held back since the last that passed.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = now.saturating_duration_since(state.since).as_nanos() / self.interval.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            state.left = state.left.saturating_add(earned).min(self.burst);
            state.since = now;
        }
        if state.left == 0 {
            state.suppressed += 1;
            return None;
        }
        state.left -= 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_each_interval() {
        let limit = RateLimit::new(2, Duration::from_secs(1));
        let start = Instant::now();
        let passed = |ms| limit.pass_at(start + Duration::from_millis(ms));
        assert_eq!([passed(0), passed(0), passed(0), passed(500)], [Some(0), Some(0), None, None]);
        assert_eq!([passed(1100), passed(1200)], [Some(2), None]);
        assert_eq!([passed(9000), passed(9000), passed(9000)], [Some(1), Some(0), None]);
    }
}
