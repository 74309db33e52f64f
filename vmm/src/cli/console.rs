//! `adjunct console`: a terminal at a guest's console.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use vmm::host::{RawTerminal, Signals};

use crate::HOST_FAILURE;

/// What `adjunct help console` ends with.
pub const AFTER_HELP: &str = "\
Ctrl-] ends this; the guest runs on. Several may watch and type at one console. Whoever comes late sees the last 64 KiB
of what was there before.

Exit status: 0 ended by Ctrl-], or the guest has gone; 3 no connection; 4 ended by a signal.";

/// The key that ends it: Ctrl-].
const ESCAPE: u8 = 0x1d;
/// Exit status after a signal.
const SIGNALLED: u8 = 4;

/// Which console.
#[derive(clap::Args)]
pub struct Arguments {
    /// The guest's console socket (`adjunct run --console unix:SOCKET`)
    socket: PathBuf,
}

/// Connects this terminal with the console; the exit status.
pub fn main(arguments: &Arguments) -> u8 {
    match UnixStream::connect(&arguments.socket).and_then(|console| connect(&console)) {
        Ok(status) => status,
        Err(e) => {
            eprintln!("adjunct: {}: {e}", arguments.socket.display());
            HOST_FAILURE
        }
    }
}

fn connect(console: &UnixStream) -> io::Result<u8> {
    let signals = Signals::catch()?;
    let terminal = RawTerminal::enter()?;
    if terminal.is_some() {
        eprint!("[adjunct: connected; Ctrl-] ends]\r\n");
    }
    let status = pass(console, &signals, terminal.is_some());
    drop(terminal);
    if io::stdin().is_terminal() {
        eprintln!();
    }
    status
}

fn pass(mut console: &UnixStream, signals: &Signals, keys: bool) -> io::Result<u8> {
    let (stdin, mut stdout) = (io::stdin(), io::stdout());
    let mut typing = true;
    let mut buffer = [0; 16 << 10];
    loop {
        let mut waiting = vec![
            PollFd::from_borrowed_fd(console.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals.descriptor(), PollFlags::IN),
        ];
        if typing {
            waiting.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        match poll(&mut waiting, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let ready: Vec<bool> = waiting.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[1] && !signals.take().is_empty() {
            return Ok(SIGNALLED);
        }
        if ready[0] {
            match console.read(&mut buffer) {
                Ok(0) => return Ok(0),
                Ok(count) => {
                    stdout.write_all(&buffer[..count])?;
                    stdout.flush()?;
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
                Err(e) => return Err(e),
            }
        }
        if ready.get(2) == Some(&true) {
            // Not through the lock's buffer, which poll does not see into.
            let count = rustix::io::read(&stdin, &mut buffer)?;
            let typed = &buffer[..count];
            let end = typed.iter().position(|&byte| keys && byte == ESCAPE);
            console.write_all(&typed[..end.unwrap_or(count)])?;
            if end.is_some() {
                return Ok(0);
            }
            // The end of a file or pipe ends typing, not watching.
            typing = count > 0;
        }
    }
}
