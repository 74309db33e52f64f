//! UNIX sockets that this process listens at.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use vmm_sys_util::timerfd::TimerFd;

use crate::rate_limit::RateLimit;

/// Connections that wait to be taken.
const BACKLOG: i32 = 128;
/// How long listening sockets are left alone after the host refused a connection.
const REST: Duration = Duration::from_millis(100);

/// A socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{flag}: {path}: {problem}")]
pub struct ListenError {
    flag: &'static str,
    path: String,
    problem: &'static str,
    #[source]
    source: Option<io::Error>,
}

/// A listening socket, whose file goes away with it. Only the user who made it may connect.
#[derive(Debug)]
pub struct Listener {
    /// The socket; it does not block.
    pub socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that this made.
    file: (u64, u64),
}

impl Listener {
    /// Listens at `path`, which `flag` named. A file that a dead process left there is replaced, a socket that somebody
    /// listens at is not.
    ///
    /// # Errors
    /// The name is taken by somebody alive or by something else than a socket, or the host refuses.
    pub fn bind(flag: &'static str, path: &Path) -> Result<Self, ListenError> {
        let error = |problem, source| ListenError { flag, path: path.display().to_string(), problem, source };
        let refused = |source: io::Error| error("make the socket", Some(source));
        if let Ok(found) = fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(error("something else than a socket has this name; give another one", None));
            }
            match UnixStream::connect(path) {
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    log::debug!("{}: nobody listens any more, replacing it", path.display());
                    fs::remove_file(path).map_err(refused)?;
                }
                Err(e) => return Err(refused(e)),
                Ok(_) => return Err(error("another process listens there; give another path", None)),
            }
        }
        let listen = || -> io::Result<Self> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
            // Whoever may connect rules the guest. Nobody can before it listens.
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            rustix::net::listen(&socket, BACKLOG)?;
            let made = fs::symlink_metadata(path)?;
            Ok(Self { socket: socket.into(), path: path.into(), file: (made.dev(), made.ino()) })
        };
        listen().map_err(refused)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What keeps listening sockets from being asked again at once when a connection cannot be taken, most likely since the
/// process is out of descriptors: whoever waits stays waiting, and is served when the timer finds that there is room.
pub struct Rest {
    timer: TimerFd,
    resting: bool,
    noise: RateLimit,
}

impl Rest {
    /// Connections are taken.
    ///
    /// # Errors
    /// The host's.
    pub fn new() -> io::Result<Self> {
        Ok(Self { timer: TimerFd::new()?, resting: false, noise: RateLimit::new(5, Duration::from_secs(60)) })
    }

    /// The timer, to be waited for from the beginning: there may be no descriptor for it later.
    pub fn descriptor(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// Whether connections are left alone now.
    pub fn is_on(&self) -> bool {
        self.resting
    }

    /// A connection of `what` could not be taken. True when the sockets are to be left alone: without a timer they are not.
    pub fn begin(&mut self, what: &str, why: &io::Error) -> bool {
        if self.noise.pass().is_some() {
            log::warn!("take a connection of {what}: {why}; trying again in {} ms", REST.as_millis());
        }
        self.resting = self.timer.reset(REST, None).is_ok();
        self.resting
    }

    /// Connections are taken again: the timer has expired, or there is room since somebody left.
    pub fn end(&mut self) {
        self.resting = false;
        // This makes the timer unready too. Reading it could block, when somebody left at the same time.
        let _ = self.timer.clear();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Only our own file.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file)
            && let Err(e) = fs::remove_file(&self.path)
        {
            log::warn!("remove {}: {e}", self.path.display());
        }
    }
}
