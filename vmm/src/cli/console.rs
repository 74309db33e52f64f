//! `adjunct console`: a terminal at a guest's console.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use vmm::host::{RawTerminal, Signals};

use super::terminal::{guarded, on_signal};
use crate::HOST_FAILURE;

/// What `adjunct help console` ends with.
pub const AFTER_HELP: &str = "\
Ctrl-] ends this; the guest runs on. Several may watch and type at one console. Whoever comes late sees the last 64 KiB
of what was there before.

Exit status: 0 ended by Ctrl-], or the guest has gone; 3 no connection; 4 ended by a signal.";

/// The key that ends it: Ctrl-].
const ESCAPE: u8 = 0x1d;
/// Most bytes that are kept while the guest takes no input. What is typed beyond is lost.
const MOST_TYPED: usize = 64 << 10;

/// Which console.
#[derive(clap::Args)]
pub struct Arguments {
    /// The guest's console socket (`adjunct run --console unix:SOCKET`)
    socket: PathBuf,
}

/// Connects this terminal with the console; the exit status.
pub fn main(arguments: &Arguments) -> u8 {
    attach(&Place::Socket(arguments.socket.clone())).unwrap_or_else(|e| {
        eprintln!("adjunct: {}: {e}", arguments.socket.display());
        HOST_FAILURE
    })
}

/// Where a console is.
#[derive(Debug, PartialEq)]
pub enum Place {
    Socket(PathBuf),
    Pty(PathBuf),
}

impl Place {
    /// What QMP calls the file name of a character device; `None` when nobody can attach to it.
    pub fn of(filename: &str) -> Option<Self> {
        let filename = filename.strip_prefix("disconnected:").unwrap_or(filename);
        if let Some(path) = filename.strip_prefix("pty:") {
            return Some(Self::Pty(path.into()));
        }
        let path = filename.strip_prefix("unix:")?;
        Some(Self::Socket(path.strip_suffix(",server=on").unwrap_or(path).into()))
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Socket(path) | Self::Pty(path) => path,
        }
    }

    fn open(&self) -> io::Result<OwnedFd> {
        Ok(match self {
            Self::Socket(path) => UnixStream::connect(path)?.into(),
            Self::Pty(path) => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).custom_flags(OFlags::NOCTTY.bits() as i32);
                options.open(path)?.into()
            }
        })
    }
}

/// Connects this terminal with the console there until Ctrl-] or the guest's end; the exit status.
pub fn attach(place: &Place) -> io::Result<u8> {
    let console = place.open()?;
    rustix::io::ioctl_fionbio(&console, true)?;
    guarded(false);
    // Before raw mode: nothing then ends this but with the terminal given back.
    on_signal(Signals::catch()?, || false)?;
    let terminal = RawTerminal::enter()?;
    if terminal.is_some() {
        eprint!("[adjunct: connected; Ctrl-] ends]\r\n");
    }
    let end = pass(console.as_fd(), terminal.is_some());
    drop(terminal);
    if io::stdin().is_terminal() {
        eprintln!();
    }
    end.map(|()| 0)
}

fn pass(console: BorrowedFd<'_>, keys: bool) -> io::Result<()> {
    let (stdin, mut stdout) = (io::stdin(), io::stdout());
    let mut typing = true;
    let mut typed = VecDeque::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let wanted = if typed.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let mut waiting = vec![PollFd::from_borrowed_fd(console, wanted)];
        // A person's Ctrl-] is seen even when the guest takes no input; a program waits.
        if typing && (keys || typed.len() < MOST_TYPED) {
            waiting.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        match poll(&mut waiting, None) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let ready: Vec<PollFlags> = waiting.iter().map(|fd| fd.revents()).collect();
        if ready[0].intersects(PollFlags::OUT) {
            match rustix::io::write(console, typed.as_slices().0) {
                Ok(count) => drop(typed.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // What it has said before it went is still to be read.
                Err(Errno::PIPE | Errno::CONNRESET | Errno::IO) => typed.clear(),
                Err(e) => return Err(e.into()),
            }
        }
        if !(ready[0] - PollFlags::OUT).is_empty() {
            match rustix::io::read(console, &mut buffer) {
                // The other end of a pseudo-terminal goes with an error.
                Ok(0) | Err(Errno::CONNRESET | Errno::IO) => return Ok(()),
                Ok(count) => {
                    stdout.write_all(&buffer[..count])?;
                    stdout.flush()?;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if ready.get(1).is_some_and(|flags| !flags.is_empty()) {
            // Not through the lock's buffer, which poll does not see into.
            let count = match rustix::io::read(&stdin, &mut buffer) {
                Err(Errno::INTR | Errno::AGAIN) => continue,
                count => count?,
            };
            let end = buffer[..count].iter().position(|&byte| keys && byte == ESCAPE);
            let room = if keys { MOST_TYPED - typed.len() } else { count };
            typed.extend(&buffer[..end.unwrap_or(count).min(room)]);
            if end.is_some() {
                // What came before the key, if the guest takes it at once.
                let _ = rustix::io::write(console, typed.as_slices().0);
                return Ok(());
            }
            // The end of a file or pipe ends typing, not watching.
            typing = count > 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (filename, want) in [
            ("unix:/run/c,server=on", Some(Place::Socket("/run/c".into()))),
            ("disconnected:unix:/run/a,b,server=on", Some(Place::Socket("/run/a,b".into()))),
            ("unix:/run/c", Some(Place::Socket("/run/c".into()))),
            ("pty:/dev/pts/7", Some(Place::Pty("/dev/pts/7".into()))),
            ("stdio", None),
            ("null", None),
            ("", None),
        ] {
            assert_eq!(Place::of(filename), want, "{filename}");
        }
    }
}
