//! How a run ends, and how the guest is reset from outside.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use machine::{VcpuState, Vm};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Something that the host or our own code could not do.
pub type HostFailure = Box<dyn std::error::Error + Send + Sync>;

/// A CPU that waits for ever at an address that does not say "done".
#[derive(Clone, Debug)]
pub struct Crash {
    /// CPU address.
    pub cpu: u16,
    /// Its registers.
    pub state: VcpuState,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = &self.state;
        writeln!(
            f,
            "disabled wait on CPU {}: PSW {:016x} {:016x}",
            self.cpu, state.psw.mask, state.psw.address
        )?;
        for (name, registers) in [("GR", &state.gr), ("CR", &state.cr)] {
            for (n, row) in registers.chunks(4).enumerate() {
                write!(f, "{name}{:<2}", n * 4)?;
                row.iter().try_for_each(|value| write!(f, " {value:016x}"))?;
                writeln!(f)?;
            }
        }
        write!(f, "prefix {:08x}", state.prefix)
    }
}

/// Why a run ended.
#[derive(Debug)]
pub enum End {
    /// Every CPU stopped, or waits disabled at an address that ends in fff.
    PoweredOff,
    /// No CPU goes on, and one of them says that it crashed.
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
    reset: AtomicBool,
}

impl Control {
    /// Control over `vm`.
    pub fn new(vm: Arc<dyn Vm>) -> std::io::Result<Self> {
        Ok(Self {
            vm,
            wake: EventFd::new(EFD_NONBLOCK)?,
            ended: AtomicBool::new(false),
            end: Mutex::new(None),
            reset: AtomicBool::new(false),
        })
    }

    /// Ends the run; the first reason given stands.
    pub fn end(&self, reason: End) {
        {
            let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
            if end.is_some() {
                return;
            }
            *end = Some(reason);
            self.ended.store(true, Ordering::SeqCst);
        }
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

    /// Asks CPU 0's thread to reset the machine and load the guest again.
    pub fn request_reset(&self) {
        self.reset.store(true, Ordering::SeqCst);
        self.vm.kick();
    }

    /// Takes a request for a reset.
    pub(crate) fn take_reset(&self) -> bool {
        self.reset.swap(false, Ordering::SeqCst)
    }

    /// Becomes readable when the run has ended.
    pub(crate) fn wake(&self) -> &EventFd {
        &self.wake
    }
}
