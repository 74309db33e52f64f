//! UNIX sockets that this process listens at.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that wait to be taken.
const BACKLOG: i32 = 128;

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
