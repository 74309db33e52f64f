//! How a run ends, and how the guest is reset, held and let go from outside.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use machine::Vm;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::crash::Crash;
use crate::events::{Event, Events, ResetCause};
use crate::pause::Pause;

/// Something that the host or our own code could not do.
pub type HostFailure = Box<dyn std::error::Error + Send + Sync>;

/// Why a run ended.
#[derive(Debug)]
pub enum End {
    /// Every CPU stopped, or waits disabled at an address that ends in fff.
    PoweredOff,
    /// A CPU takes interruptions for ever; or no CPU goes on, and one of them says that it crashed.
    Crashed(Box<Crash>),
    /// The watchdog ran out and its action is to end the run.
    Watchdog,
    /// A person or a signal ended the run; the reason says how.
    Stopped(&'static str),
    /// The host refused something.
    Failed(HostFailure),
}

impl End {
    /// The exit status of the process; `docs/run.md` lists them. 2 is clap's for bad arguments.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::PoweredOff => 0,
            Self::Crashed(_) => 1,
            Self::Failed(_) => 3,
            Self::Stopped(_) => 4,
            Self::Watchdog => 5,
        }
    }
}

/// How a run is ended, or the guest reset, from any thread.
pub struct Control {
    vm: Arc<dyn Vm>,
    /// Wakes the event loop when the run has ended.
    wake: EventFd,
    ended: AtomicBool,
    end: Mutex<Option<End>>,
    reset: Mutex<Option<ResetCause>>,
    pause: Pause,
    events: Events,
}

impl Control {
    /// Control over `vm`.
    pub fn new(vm: Arc<dyn Vm>) -> std::io::Result<Self> {
        Ok(Self {
            vm,
            wake: EventFd::new(EFD_NONBLOCK)?,
            ended: AtomicBool::new(false),
            end: Mutex::new(None),
            reset: Mutex::new(None),
            pause: Pause::default(),
            events: Events::new()?,
        })
    }

    /// Ends the run; the first reason given stands.
    pub fn end(&self, reason: End) {
        {
            let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
            if end.is_some() {
                return;
            }
            Event::of_end(&reason).into_iter().for_each(|event| self.events.post(event));
            *end = Some(reason);
            self.ended.store(true, Ordering::SeqCst);
        }
        self.pause.wake();
        // An event descriptor refuses a write only when its count is near 2^64; then it is readable.
        let _ = self.wake.write(1);
        self.vm.kick();
    }

    /// Whether the run has ended.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// The reason, once.
    pub fn take_end(&self) -> Option<End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Asks CPU 0's thread to reset the machine and load the guest again. Held CPUs stay held.
    pub fn request_reset(&self, cause: ResetCause) {
        *self.reset.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
        self.pause.wake();
        self.vm.kick();
    }

    /// Takes a request for a reset.
    pub(crate) fn take_reset(&self) -> Option<ResetCause> {
        self.reset.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn reset_wanted(&self) -> bool {
        self.reset.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Asks every CPU to be held between two instructions; [`settle`](Self::settle) says when they are.
    pub(crate) fn pause(&self) {
        self.pause.ask();
        self.vm.kick();
    }

    /// Lets the CPUs go on; whether they had been held.
    pub(crate) fn resume(&self) -> bool {
        let held = self.pause.release();
        if held {
            self.events.post(Event::Resume);
        }
        held
    }

    /// Whether a pause that was asked for has been reached, or called off: then there is nothing to wait
    /// for. `Some(true)` the first time that all CPUs are held.
    pub(crate) fn settle(&self) -> Option<bool> {
        if self.ended() {
            return Some(false);
        }
        let settled = self.pause.settle(self.vm.cpu_addresses().len());
        if settled == Some(true) {
            self.events.post(Event::Stop);
        }
        settled
    }

    /// Whether the CPUs are held.
    pub(crate) fn paused(&self) -> bool {
        self.pause.reached()
    }

    /// Called by the thread of CPU `address` between two instructions: holds it while that is asked for;
    /// whether it did. The thread that carries out resets comes back for one.
    pub(crate) fn park(&self, address: u16, resets: bool) -> bool {
        let stay = || !(self.ended() || resets && self.reset_wanted());
        self.pause.park(address, || self.events.nudge(), stay)
    }

    /// What happened and nobody has been told yet.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Becomes readable when the run has ended.
    pub(crate) fn wake(&self) -> &EventFd {
        &self.wake
    }
}
