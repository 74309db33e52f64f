//! The watchdog behind DIAGNOSE 288.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use machine::Clock;
use vmm_sys_util::timerfd::TimerFd;

use crate::config::WatchdogAction;
use crate::control::{Control, End};
use crate::events::{Event, ResetCause};

/// Shortest time in seconds that the guest may ask for.
const SHORTEST: u64 = 15;
/// Longest: what fits any timer.
const LONGEST: u64 = 100 * 365 * 24 * 3600;

/// One watchdog. With a host clock it is a timer of the event loop, with virtual time an action of
/// the clock.
pub struct Watchdog {
    // Configuration.
    action: WatchdogAction,
    // Connections to the host.
    clock: Arc<dyn Clock>,
    control: Arc<Control>,
    timer: Mutex<TimerFd>,
    // Guest-visible state: the end of the current period in guest time, `None` while it is off.
    deadline: Arc<Mutex<Option<u64>>>,
    /// While the guest is held: nanoseconds left of the period.
    left: Mutex<Option<u64>>,
}

/// The guest gave DIAGNOSE 288 something undefined: a specification exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undefined;

impl Watchdog {
    /// A watchdog that is off.
    pub fn new(
        action: WatchdogAction,
        clock: Arc<dyn Clock>,
        control: Arc<Control>,
    ) -> std::io::Result<Self> {
        let timer = Mutex::new(TimerFd::new()?);
        Ok(Self { action, clock, control, timer, deadline: Arc::default(), left: Mutex::default() })
    }

    /// Functions 0 (init), 1 (change) and 2 (cancel) with the timeout in seconds and the action, which
    /// is 0 under KVM.
    pub fn function(&self, function: u64, seconds: u64, action: u64) -> Result<(), Undefined> {
        if action != 0 || function != 2 && !(SHORTEST..=LONGEST).contains(&seconds) {
            return Err(Undefined);
        }
        let running = self.deadline().is_some();
        match function {
            0 => self.arm(nanoseconds(seconds)),
            1 if running => self.arm(nanoseconds(seconds)),
            2 if running => self.reset(),
            _ => return Err(Undefined),
        }
        Ok(())
    }

    /// Turns the watchdog off.
    pub fn reset(&self) {
        *self.left() = None;
        self.disarm();
    }

    /// The guest is held: so is its watchdog. Virtual time stands still by itself.
    pub fn hold(&self) {
        if let Some(deadline) = self.deadline().filter(|_| !self.clock.is_virtual()) {
            *self.left() = Some(deadline.saturating_sub(self.clock.now()));
            self.disarm();
        }
    }

    /// The guest goes on, and has the time that was left.
    pub fn release(&self) {
        if let Some(left) = self.left().take() {
            self.arm(left);
        }
    }

    fn disarm(&self) {
        *self.lock() = None;
        if let Err(e) = self.timer().clear() {
            log::warn!("stop the watchdog's timer: {e}");
        }
    }

    fn arm(&self, nanoseconds: u64) {
        let deadline = self.clock.now().saturating_add(nanoseconds);
        *self.lock() = Some(deadline);
        if self.clock.is_virtual() {
            let (state, control, action) = (self.deadline.clone(), self.control.clone(), self.action);
            self.clock.schedule(deadline, Box::new(move || expire(&state, deadline, &control, action)));
            return;
        }
        // A timer of zero would be off.
        let period = Duration::from_nanos(nanoseconds.max(1));
        if let Err(e) = self.timer().reset(period, None) {
            log::warn!("set the watchdog's timer to {period:?}: {e}");
        }
    }

    /// The host's timer ran out.
    pub fn timer_expired(&self) {
        {
            let mut timer = self.timer();
            if matches!(timer.is_armed(), Ok(true)) {
                return; // Set anew since.
            }
            // Setting a timer makes its descriptor unready; reading could block after a cancellation.
            if let Err(e) = timer.clear() {
                log::warn!("stop the watchdog's timer: {e}");
            }
        }
        if let Some(deadline) = self.deadline().filter(|&deadline| self.clock.now() >= deadline) {
            expire(&self.deadline, deadline, &self.control, self.action);
        }
    }

    /// Descriptor that is readable when the host's timer ran out.
    pub fn descriptor(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsRawFd;
        self.timer().as_raw_fd()
    }

    fn deadline(&self) -> Option<u64> {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<u64>> {
        self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> std::sync::MutexGuard<'_, Option<u64>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn timer(&self) -> std::sync::MutexGuard<'_, TimerFd> {
        self.timer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nanoseconds(seconds: u64) -> u64 {
    seconds.saturating_mul(1_000_000_000)
}

/// Acts unless the watchdog was set anew or off since.
fn expire(state: &Mutex<Option<u64>>, deadline: u64, control: &Control, action: WatchdogAction) {
    {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state != Some(deadline) {
            return;
        }
        *state = None;
    }
    log::warn!("the guest's watchdog ran out: {action:?}");
    control.events().post(Event::Watchdog(action));
    match action {
        WatchdogAction::Reset => control.request_reset(ResetCause::Guest),
        WatchdogAction::Poweroff => control.end(End::Watchdog),
        WatchdogAction::None => {}
    }
}
