//! Host set-up: the terminal in raw mode and out of it again on every way out, signals, and filters of system calls.
//!
//! The only module of this crate with `unsafe` code.
#![allow(unsafe_code)]

mod guard;
pub(crate) mod seccomp;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};

use libc::{c_int, c_void, siginfo_t, termios};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::{block_signal, register_signal_handler};

pub use guard::{GUARD_COMMAND, guard, start_guard};

/// The terminal's settings before raw mode; null when there is nothing to restore. Points to a leaked
/// allocation, because a signal handler may read it at any time.
static SAVED: AtomicPtr<termios> = AtomicPtr::new(std::ptr::null_mut());
/// The terminal shows a screen of ours, [`FAREWELL`] gets it back.
static SCREEN: AtomicBool = AtomicBool::new(false);
/// Leaves attributes behind, shows the cursor, and goes back to what was on the terminal before.
const FAREWELL: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";
/// Descriptor that a signal makes readable, or -1.
static WAKE: AtomicI32 = AtomicI32::new(-1);
/// Bit n: signal n came and has not been taken.
static CAME: AtomicU64 = AtomicU64::new(0);

/// Signals that end a run, in the handling of [`Signals`].
const STOPPING: [c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
/// Signals that kill the process by themselves, before which the terminal must be restored.
const FATAL: [c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];

/// Standard input in raw mode; restores the terminal when dropped.
#[derive(Debug)]
pub struct RawTerminal(KeptTerminal);

impl RawTerminal {
    /// Puts standard input into raw mode; `None` when it is no terminal. Ctrl-c and the like then are
    /// input for the guest.
    pub fn enter() -> io::Result<Option<Self>> {
        let Some((kept, mut settings)) = KeptTerminal::keep()? else { return Ok(None) };
        let raw = Self(kept);
        // Also the guest's: Enter as carriage return, Ctrl-s and Ctrl-q.
        settings.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ISIG | libc::IEXTEN);
        settings.c_iflag &=
            !(libc::ICRNL | libc::INLCR | libc::IGNCR | libc::IXON | libc::ISTRIP | libc::BRKINT);
        // SAFETY: `settings` is a valid termios.
        if unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &settings) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Some(raw))
    }
}

/// Standard input with its settings kept, whoever changes them; gives them back when dropped.
#[derive(Debug)]
pub struct KeptTerminal(());

impl KeptTerminal {
    /// Keeps the settings; `None` when standard input is no terminal.
    pub fn new() -> io::Result<Option<Self>> {
        Ok(Self::keep()?.map(|(kept, _)| kept))
    }

    fn keep() -> io::Result<Option<(Self, termios)>> {
        if !is_terminal() {
            return Ok(None);
        }
        let settings = settings(libc::STDIN_FILENO)?;
        restore_before_fatal_signals()?;
        // Leaked, see `SAVED`; a process does this once.
        SAVED.store(Box::into_raw(Box::new(settings)), Ordering::SeqCst);
        Ok(Some((Self(()), settings)))
    }
}

fn settings(terminal: RawFd) -> io::Result<termios> {
    let mut settings = std::mem::MaybeUninit::<termios>::uninit();
    // SAFETY: `settings` is a valid place for a termios, and the result is checked before it is read.
    if unsafe { libc::tcgetattr(terminal, settings.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: tcgetattr succeeded and has filled it.
    Ok(unsafe { settings.assume_init() })
}

impl Drop for KeptTerminal {
    fn drop(&mut self) {
        restore_terminal();
    }
}

/// Whether standard input is a terminal.
pub fn is_terminal() -> bool {
    use std::io::IsTerminal;
    io::stdin().is_terminal()
}

/// Shows an empty screen without cursor on standard output, until [`restore_terminal`].
pub fn show_screen(RawTerminal(_): &RawTerminal) -> io::Result<()> {
    use std::io::Write;
    SCREEN.store(true, Ordering::SeqCst);
    let mut out = io::stdout().lock();
    out.write_all(b"\x1b[?1049h\x1b[?25l\x1b[2J")?;
    out.flush()
}

/// Gives the terminal its settings back, if it is in raw mode, and what it showed. For panic hooks too; may be
/// called more than once.
pub fn restore_terminal() {
    let saved = SAVED.swap(std::ptr::null_mut(), Ordering::SeqCst);
    if !saved.is_null() {
        // SAFETY: `saved` came from Box::into_raw and is never freed; tcsetattr is async-signal-safe.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, saved) };
    }
    if SCREEN.swap(false, Ordering::SeqCst) {
        // SAFETY: write is async-signal-safe and `FAREWELL` is readable. Nothing can be done when it fails.
        unsafe { libc::write(libc::STDOUT_FILENO, FAREWELL.as_ptr().cast(), FAREWELL.len()) };
    }
    guard::dismiss();
}

/// What was installed for each signal of [`FATAL`] before, leaked as `SAVED` is.
static BEFORE: [AtomicPtr<libc::sigaction>; FATAL.len()] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; FATAL.len()];

fn restore_before_fatal_signals() -> io::Result<()> {
    for (signal, before) in FATAL.into_iter().zip(&BEFORE) {
        // SAFETY: a sigaction is plain data for which zeros are valid.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = on_fatal;
        action.sa_sigaction = handler as usize;
        // On the alternate stack, where Rust runs its own handler for stack overflow.
        action.sa_flags = libc::SA_ONSTACK | libc::SA_SIGINFO;
        // SAFETY: as above.
        let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: both point to valid sigactions, and the handler does only what a handler may.
        if unsafe { libc::sigaction(signal, &action, &mut old) } != 0 {
            return Err(io::Error::last_os_error());
        }
        before.store(Box::into_raw(Box::new(old)), Ordering::SeqCst);
    }
    Ok(())
}

/// Restores the terminal and lets the signal do what it would have done.
extern "C" fn on_fatal(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    restore_terminal();
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo_t.
    let faulted = unsafe { (*info).si_code } > 0;
    let before = FATAL.iter().position(|&s| s == signal).map(|n| BEFORE[n].load(Ordering::SeqCst));
    // SAFETY: `before` was stored before raw mode began and is never freed, and null is allowed. All
    // three functions are async-signal-safe.
    unsafe {
        if faulted {
            // The instruction is executed again and faults into the handler of before.
            libc::sigaction(signal, before.unwrap_or(std::ptr::null_mut()), std::ptr::null_mut());
        } else {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
}

/// Signals that end a run or have logs opened anew, as events.
#[derive(Debug)]
pub struct Signals {
    event: EventFd,
}

impl Signals {
    /// Catches SIGTERM, SIGINT, SIGHUP and SIGQUIT.
    pub fn catch() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK)?;
        WAKE.store(event.as_raw_fd(), Ordering::SeqCst);
        for signal in STOPPING {
            register_signal_handler(signal, on_stopping).map_err(io::Error::from)?;
        }
        Ok(Self { event })
    }

    /// Leaves these signals to other threads: calls that wait are not interrupted in this one, nor in those it starts.
    pub fn elsewhere() -> io::Result<()> {
        STOPPING.into_iter().try_for_each(|signal| {
            block_signal(signal)
                .map_err(|e| io::Error::other(format!("leave signal {signal} to others: {e:?}")))
        })
    }

    /// Readable when a signal came.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// As [`event`](Self::event), for poll.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the event descriptor is open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }

    /// Waits until signals come, and takes them.
    ///
    /// # Errors
    /// The host has no memory for it.
    pub fn wait(&self) -> io::Result<Vec<Stopping>> {
        loop {
            let came = self.take();
            if !came.is_empty() {
                return Ok(came);
            }
            let mut event = libc::pollfd { fd: self.event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: `event` is one valid pollfd.
            if unsafe { libc::poll(&mut event, 1, -1) } < 0 {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }

    /// Takes the signals that came, the most urgent first.
    pub fn take(&self) -> Vec<Stopping> {
        let _ = self.event.read();
        let came = CAME.swap(0, Ordering::SeqCst);
        let known = [
            (libc::SIGINT, Stopping::Now("SIGINT")),
            (libc::SIGQUIT, Stopping::Now("SIGQUIT")),
            (libc::SIGTERM, Stopping::Gently("SIGTERM")),
            (libc::SIGHUP, Stopping::HangUp),
        ];
        known
            .into_iter()
            .filter(|(signal, _)| came >> signal & 1 != 0)
            .map(|(_, stopping)| stopping)
            .collect()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        WAKE.store(-1, Ordering::SeqCst);
    }
}

/// What a signal wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopping {
    /// The terminal has gone, or the logs have been moved away.
    HangUp,
    /// The end, after the guest had a chance to power off.
    Gently(&'static str),
    /// The end, at once.
    Now(&'static str),
}

extern "C" fn on_stopping(signal: c_int, _: *mut siginfo_t, _: *mut c_void) {
    CAME.fetch_or(1 << signal, Ordering::SeqCst);
    let wake = WAKE.load(Ordering::SeqCst);
    if wake >= 0 {
        let one = 1u64.to_ne_bytes();
        // SAFETY: write is async-signal-safe; `one` is 8 readable bytes. The result does not matter:
        // a full counter is readable, and the handler keeps errno's user from nothing.
        unsafe {
            let errno = libc::__errno_location();
            let saved = *errno;
            libc::write(wake, one.as_ptr().cast(), one.len());
            *errno = saved;
        }
    }
}
