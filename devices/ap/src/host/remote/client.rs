//! The other end of the daemon's socket: operators and VMs.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use uuid::Uuid;

use super::protocol::{FromDaemon, LineError, LineReader, Order, Refusal, Report, ToDaemon, VERSION, line};
use super::{MAX_ANSWER, WRITE_PATIENCE};
use crate::host::{Event, HostError, Lpar, Operation, Snapshot};
use crate::lock::{Rank, RankedMutex};

/// How long the daemon may take for an answer. An operation waits at most for a guest to give a device back, for each VM to
/// confirm, and for resets.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// Why the daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// There is no daemon at the socket.
    #[error(
        "connect to the AP host at {}; start one with `adjunct ap-host serve --socket {}`",
        path.display(), path.display()
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or the daemon does not answer.
    #[error("talk to the AP host")]
    Broken(#[from] LineError),
    /// The daemon ended the connection.
    #[error("the AP host ended the connection")]
    Closed,
    /// What the daemon said makes no sense: it is another program, or of another version.
    #[error("the AP host said what this program does not understand: {0}")]
    Nonsense(String),
    /// The host's rules, with the error number.
    #[error(transparent)]
    Refused(#[from] HostError),
}

impl From<io::Error> for RemoteError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.into())
    }
}

/// A connection that has said hello.
#[derive(Debug)]
struct Line {
    reader: LineReader<UnixStream>,
}

/// Connects to the socket `path`. A process that takes no connections is not waited for without end, as a plain call would
/// once as many wait as the kernel keeps.
fn connect_within(patience: Duration, path: &Path) -> io::Result<UnixStream> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?).map_err(|e| match e {
        Errno::AGAIN => io::Error::new(io::ErrorKind::TimedOut, "it takes no connections"),
        e => e.into(),
    })?;
    Ok(socket.into())
}

impl Line {
    fn connect(path: &Path) -> Result<Self, RemoteError> {
        let connect = |source| RemoteError::Connect { path: path.into(), source };
        let stream = connect_within(WRITE_PATIENCE, path).map_err(connect)?;
        stream.set_write_timeout(Some(WRITE_PATIENCE))?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        let mut this = Self { reader: LineReader::new(stream, MAX_ANSWER) };
        let said = this.say(&ToDaemon::Hello { version: VERSION });
        match (this.hear(), said) {
            (Ok(FromDaemon::Hello { version: VERSION }), Ok(())) => Ok(this),
            // A daemon that takes no client says so without having heard anything.
            (Ok(FromDaemon::Refused { refusal, .. }), _) => Err(RemoteError::Refused(refusal.into())),
            (Ok(other), _) => Err(unexpected(&other)),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        }
    }

    fn say(&self, message: &ToDaemon) -> Result<(), RemoteError> {
        Ok(self.reader.get_ref().write_all(&line(message))?)
    }

    fn hear(&mut self) -> Result<FromDaemon, RemoteError> {
        let line = self.reader.line()?.ok_or(RemoteError::Closed)?;
        serde_json::from_slice(line).map_err(|error| RemoteError::Nonsense(error.to_string()))
    }
}

fn unexpected(message: &FromDaemon) -> RemoteError {
    let mut text = format!("{message:?}");
    text.truncate(text.floor_char_boundary(200));
    RemoteError::Nonsense(text)
}

/// An operator's connection to the daemon.
#[derive(Debug)]
pub struct Client {
    line: Line,
    /// Of the last request.
    id: u64,
}

impl Client {
    /// Connects to the daemon at the socket `path`.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn connect(path: &Path) -> Result<Self, RemoteError> {
        Ok(Self { line: Line::connect(path)?, id: 0 })
    }

    /// Carries out an operation.
    ///
    /// # Errors
    /// [`RemoteError::Refused`] with what [`ApHost::execute`](crate::host::ApHost::execute) says.
    pub fn execute(&mut self, operation: &Operation) -> Result<(), RemoteError> {
        let operation = operation.clone();
        match self.ask(|id| ToDaemon::Execute { id, operation })? {
            FromDaemon::Done { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The whole state.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn snapshot(&mut self) -> Result<Snapshot, RemoteError> {
        match self.ask(|id| ToDaemon::Snapshot { id })? {
            FromDaemon::Snapshot { snapshot, .. } => Ok(*snapshot),
            other => Err(unexpected(&other)),
        }
    }

    /// Every event from now on.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn subscribe(mut self) -> Result<Events, RemoteError> {
        match self.ask(|id| ToDaemon::Subscribe { id })? {
            FromDaemon::Done { .. } => {
                // Nothing may happen for long.
                self.line.reader.get_ref().set_read_timeout(None)?;
                Ok(Events(self.line))
            }
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, request: impl FnOnce(u64) -> ToDaemon) -> Result<FromDaemon, RemoteError> {
        self.id += 1;
        self.line.say(&request(self.id))?;
        answer(&mut self.line, self.id, |_| {})
    }
}

/// The answer to request `id`; orders that come before it are handed over.
fn answer(line: &mut Line, id: u64, mut order: impl FnMut(Order)) -> Result<FromDaemon, RemoteError> {
    loop {
        match line.hear()? {
            FromDaemon::Order(told) => order(told),
            FromDaemon::Refused { id: Some(other), refusal } if other == id => {
                return Err(RemoteError::Refused(refusal.into()));
            }
            // About the connection as a whole.
            FromDaemon::Refused { id: None, refusal } => return Err(RemoteError::Refused(refusal.into())),
            FromDaemon::Done { id: other } | FromDaemon::Snapshot { id: other, .. } if other != id => {
                return Err(RemoteError::Nonsense(format!("an answer to request {other} instead of {id}")));
            }
            done @ (FromDaemon::Done { .. } | FromDaemon::Snapshot { .. }) => return Ok(done),
            other => return Err(unexpected(&other)),
        }
    }
}

/// The host's events; ends with an error.
#[derive(Debug)]
pub struct Events(Line);

impl Events {
    /// [`next`](Iterator::next) answers with an error of [`io::ErrorKind::WouldBlock`] when nothing came in `time`, and may be
    /// called again.
    pub(super) fn look_up_every(&self, time: Duration) -> io::Result<()> {
        self.0.reader.get_ref().set_read_timeout(Some(time))
    }
}

impl Iterator for Events {
    type Item = Result<Event, RemoteError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.hear().and_then(|message| match message {
            FromDaemon::Event(event) => Ok(event),
            other => Err(unexpected(&other)),
        }))
    }
}

/// A VM's connection to the daemon, with a mediated device.
#[derive(Debug)]
pub struct VmClient {
    line: Line,
    sender: Arc<VmSender>,
    lpar: Lpar,
    /// Orders that came with a device.
    early: VecDeque<Order>,
    timeout: Option<Duration>,
}

/// What a VM says, from any thread.
#[derive(Debug)]
pub struct VmSender {
    stream: RankedMutex<UnixStream>,
    /// Of the last request.
    id: AtomicU64,
}

/// What comes to a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// To be carried out in this order.
    Order(Order),
    /// The answer to a request of [`VmSender`].
    Answer {
        /// What that returned.
        id: u64,
        /// Why it was refused, if it was.
        refusal: Option<Refusal>,
    },
}

impl VmClient {
    /// Connects to the daemon at the socket `path`. `vm` names the VM in the daemon's log.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn join(path: &Path, vm: &str) -> Result<Self, RemoteError> {
        let mut line = Line::connect(path)?;
        let id = 1;
        line.say(&ToDaemon::Join { id, vm: vm.to_owned() })?;
        let (mut hardware, mut early) = (None, VecDeque::new());
        let done = answer(&mut line, id, |order| match order {
            Order::Hardware { lpar } if hardware.is_none() => hardware = Some(lpar),
            order => early.push_back(order),
        })?;
        let (FromDaemon::Done { .. }, Some(lpar)) = (&done, hardware) else { return Err(unexpected(&done)) };
        let stream = RankedMutex::new(Rank::Connection, line.reader.get_ref().try_clone()?);
        let sender = Arc::new(VmSender { stream, id: AtomicU64::new(id) });
        Ok(Self { line, sender, lpar, early, timeout: Some(ANSWER_PATIENCE) })
    }

    /// Takes the mediated device, before anything that [`next`](Self::next) returns is carried out; after that,
    /// [`VmSender::attach`] does it.
    ///
    /// # Errors
    /// [`RemoteError::Refused`] with what [`ApHost::attach`](crate::host::ApHost::attach) says.
    pub fn attach(&mut self, mdev: Uuid) -> Result<(), RemoteError> {
        let id = self.sender.attach(mdev)?;
        match answer(&mut self.line, id, |order| self.early.push_back(order))? {
            FromDaemon::Done { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The machine's configuration with which the VM starts, before the first order.
    pub const fn lpar(&self) -> &Lpar {
        &self.lpar
    }

    /// The orders that came with [`attach`](Self::attach), which [`next`](Self::next) then does not return.
    pub fn early(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.early).into()
    }

    /// For answers to orders, and for requests.
    pub fn sender(&self) -> Arc<VmSender> {
        self.sender.clone()
    }

    /// What comes next; `None` when nothing came in `timeout`. Without a timeout this waits.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Option<Incoming>, RemoteError> {
        if let Some(order) = self.early.pop_front() {
            return Ok(Some(Incoming::Order(order)));
        }
        if self.timeout != timeout {
            self.line.reader.get_ref().set_read_timeout(timeout)?;
            self.timeout = timeout;
        }
        match self.line.hear() {
            Ok(FromDaemon::Order(order)) => Ok(Some(Incoming::Order(order))),
            Ok(FromDaemon::Done { id }) => Ok(Some(Incoming::Answer { id, refusal: None })),
            Ok(FromDaemon::Refused { id: Some(id), refusal }) => {
                Ok(Some(Incoming::Answer { id, refusal: Some(refusal) }))
            }
            Ok(FromDaemon::Refused { id: None, refusal }) => Err(RemoteError::Refused(refusal.into())),
            Ok(other) => Err(unexpected(&other)),
            Err(RemoteError::Broken(LineError::Io(error)))
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl VmSender {
    /// Says what became of an order.
    ///
    /// # Errors
    /// The daemon is gone, which [`VmClient::next`] says, too.
    pub fn report(&self, report: Report) -> io::Result<()> {
        self.say(&ToDaemon::Report(report))
    }

    /// Asks for a mediated device. Returns the number that the answer will have.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn attach(&self, mdev: Uuid) -> io::Result<u64> {
        self.ask(|id| ToDaemon::Attach { id, mdev })
    }

    /// Gives the mediated device back. Returns the number that the answer will have.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn detach(&self) -> io::Result<u64> {
        self.ask(|id| ToDaemon::Detach { id })
    }

    /// Has every queue of the mediated device reset. Returns the number that the answer will have.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn reset_device(&self) -> io::Result<u64> {
        self.ask(|id| ToDaemon::ResetDevice { id })
    }

    /// Ends the connection.
    pub fn close(&self) {
        // The daemon may have ended it already.
        let _ = self.stream.lock().shutdown(Shutdown::Both);
    }

    fn ask(&self, request: impl FnOnce(u64) -> ToDaemon) -> io::Result<u64> {
        let id = self.id.fetch_add(1, Ordering::Relaxed) + 1;
        self.say(&request(id)).map(|()| id)
    }

    fn say(&self, message: &ToDaemon) -> io::Result<()> {
        self.stream.lock().write_all(&line(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{bind, listen, socket};

    #[test]
    fn a_socket_that_takes_no_connections() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ap");
        let patience = Duration::from_millis(50);
        let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&listener, 0).unwrap();
        let _waits = connect_within(patience, &path).unwrap();
        let error = connect_within(patience, &path).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::TimedOut, "it takes no connections")
        );
        assert_eq!(
            connect_within(patience, &directory.path().join("x")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
