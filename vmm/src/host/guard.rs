//! A second process that gives the terminal back when the first was killed outright, by SIGKILL or for want of memory.
//!
//! It sees the terminal's settings before anybody changes them, and then waits for one of two things: a byte, which says that
//! all is as before, or the end of the connection without one. It never acts on a terminal that somebody else has set
//! meanwhile.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use vmm_sys_util::signal::block_signal;

use super::{FAREWELL, is_terminal, settings};

/// The word that makes the program a guard: it is to call [`guard`].
pub const GUARD_COMMAND: &str = "guard-terminal";

/// How long a new guard may take to see the settings.
const PATIENCE: Duration = Duration::from_secs(2);

/// The way to the guard, or -1.
static GUARD: AtomicI32 = AtomicI32::new(-1);

/// Starts a guard for standard input, if that is a terminal; to be called before its settings are changed, and before the
/// process gives up starting others. `screen`: standard output will show a screen of ours.
///
/// # Errors
/// The host's. Without a guard everything works, but for the terminal after SIGKILL.
pub fn start_guard(screen: bool) -> io::Result<()> {
    if !is_terminal() {
        return Ok(());
    }
    let (mut ours, theirs) = UnixStream::pair()?;
    let terminal = io::stdin().as_fd().try_clone_to_owned()?;
    let output = if screen { io::stdout().as_fd().try_clone_to_owned()?.into() } else { Stdio::null() };
    // The link is there even when the file has been replaced. A process group of its own is not killed with ours.
    let mut command = Command::new("/proc/self/exe");
    command.arg(GUARD_COMMAND).env_clear().process_group(0);
    command.stdin(OwnedFd::from(theirs)).stdout(terminal).stderr(output).spawn()?;
    drop(command);
    ours.set_read_timeout(Some(PATIENCE))?;
    ours.read_exact(&mut [0])?;
    // Open until the process ends, however it does.
    GUARD.store(ours.into_raw_fd(), Ordering::SeqCst);
    Ok(())
}

/// Tells the guard that the terminal is as before. For signal handlers, too.
pub(super) fn dismiss() {
    let guard = GUARD.swap(-1, Ordering::SeqCst);
    if guard >= 0 {
        // SAFETY: write is async-signal-safe, the byte is readable, and `guard` is a descriptor that nobody closes.
        unsafe { libc::write(guard, [0u8].as_ptr().cast(), 1) };
    }
}

/// What the guard does: standard input is the way to who started it, standard output the terminal, standard error what shows
/// the screen.
pub fn guard() {
    // A terminal stops processes in the background that change it, unless they block this. The others are not for the guard.
    for signal in [
        libc::SIGTTOU,
        libc::SIGTTIN,
        libc::SIGTSTP,
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
    ] {
        if block_signal(signal).is_err() {
            return;
        }
    }
    let terminal = io::stdout();
    let Ok(before) = settings(terminal.as_raw_fd()) else { return };
    let Ok(link) = io::stdin().as_fd().try_clone_to_owned() else { return };
    let mut link = UnixStream::from(link);
    if link.write_all(&[0]).is_err() || matches!(link.read(&mut [0]), Ok(1)) {
        return;
    }
    // It was killed.
    let _ = io::stderr().write_all(FAREWELL);
    // Only programs that take every key have both off; a shell that has the terminal back already does not.
    let taken = |settings: &libc::termios| settings.c_lflag & (libc::ICANON | libc::ISIG) == 0;
    if !taken(&before) && settings(terminal.as_raw_fd()).is_ok_and(|now| taken(&now)) {
        // SAFETY: `before` is a valid termios.
        unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &before) };
    }
}
