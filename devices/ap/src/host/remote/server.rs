//! The daemon: one host, its socket, and a few threads for each client.
//!
//! A client has a thread that reads, one that writes, and one that carries out its requests one after the other. What a VM says
//! about its orders is taken by the reading thread, since a request may wait for just that.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, Builder, Scope};
use std::time::Duration;

use uuid::Uuid;

use super::outgoing::Outgoing;
use super::protocol::{FromDaemon, LineError, LineReader, Refusal, ToDaemon, VERSION};
use super::vms::{RemoteGuest, RemoteMachine};
use super::{HELLO_PATIENCE, MAX_CLIENTS, MAX_LINE, MAX_NONSENSE, MAX_REQUESTS};
use crate::host::{ApHost, Description, Lpar, Watch};
use crate::lock::{Rank, RankedGuard, RankedMutex};

/// Longest name of a VM in bytes.
const MAX_NAME: usize = 255;
/// How often a thread that waits for events looks whether its client is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// An AP host that clients reach over a socket.
pub struct Server {
    // Configuration, fixed at creation.
    path: PathBuf,

    // Connections.
    listener: UnixListener,
    host: ApHost,
    machine: Arc<RemoteMachine>,

    // State.
    clients: RankedMutex<BTreeMap<u64, Arc<Outgoing>>>,
    /// Counts the clients that there were.
    count: AtomicU64,
    stopping: AtomicBool,
}

impl Server {
    /// A host of this description that listens at the socket `path`, which only its owner may use. A socket there that nobody
    /// listens at any more is replaced.
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or the host's file system refuses.
    pub fn bind(path: &Path, description: &Description) -> io::Result<Arc<Self>> {
        let listener = listen(path)?;
        let machine = RemoteMachine::new(Lpar::of(description));
        let host = ApHost::new(description, machine.clone());
        let clients = RankedMutex::new(Rank::Clients, BTreeMap::new());
        let (count, stopping) = Default::default();
        Ok(Arc::new(Self { path: path.into(), listener, host, machine, clients, count, stopping }))
    }

    /// The host.
    pub const fn host(&self) -> &ApHost {
        &self.host
    }

    /// Takes clients until [`stop`](Self::stop).
    ///
    /// # Errors
    /// The host takes no more connections.
    pub fn serve(self: &Arc<Self>) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Of descriptors there may be enough later.
                Err(error) if matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ECONNABORTED)) => {
                    log::warn!("take a client: {error}");
                    thread::sleep(Duration::from_millis(100));
                    continue;
                }
                Err(error) => return Err(error),
            };
            if self.stopping.load(Ordering::SeqCst) {
                return Ok(());
            }
            self.admit(stream);
        }
    }

    /// Ends every connection and [`serve`](Self::serve), and removes the socket.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the listener; if somebody took the socket's name, it sleeps on, and does no harm.
        let _ = UnixStream::connect(&self.path);
        for client in self.clients().values() {
            client.close();
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::warn!("remove {}: {error}", self.path.display());
        }
    }

    fn admit(self: &Arc<Self>, stream: UnixStream) {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let refused = |error: io::Error| log::warn!("client {number}: dropped: {error}");
        let to = match stream.try_clone().and_then(|stream| Outgoing::new(stream, number)) {
            Ok(to) => Arc::new(to),
            Err(error) => return refused(error),
        };
        {
            let mut clients = self.clients();
            if clients.len() >= MAX_CLIENTS {
                log::warn!("client {number}: refused, since there are {MAX_CLIENTS}");
                let error = format!("the AP host has {MAX_CLIENTS} clients, its most; end one first");
                to.push(&FromDaemon::Refused { id: None, refusal: Refusal::new("EUSERS", error) });
                // One short line, which has room in the socket.
                to.end();
                return to.write();
            }
            clients.insert(number, to.clone());
        }
        let this = self.clone();
        let spawned = Builder::new().name(format!("client {number}")).spawn(move || {
            Client { server: &this, number, to: &to }.serve(stream);
            this.clients().remove(&number);
        });
        if let Err(error) = spawned {
            self.clients().remove(&number);
            refused(error);
        }
    }

    pub(super) fn clients(&self) -> RankedGuard<'_, BTreeMap<u64, Arc<Outgoing>>> {
        self.clients.lock()
    }
}

const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
const ECONNABORTED: i32 = 103;

/// Listens at `path` with mode 0600 from the first moment on: the socket is made in a directory that nobody else can enter, and
/// moved from there.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            let kind = io::ErrorKind::AlreadyExists;
            return Err(io::Error::new(kind, "there is something else than a socket; remove it"));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            let kind = io::ErrorKind::AddrInUse;
            return Err(io::Error::new(kind, "another daemon listens there; end it or choose another path"));
        }
        Ok(_) => log::info!("{}: a daemon has left its socket; it is replaced", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let private = parent.join(format!(".ap-{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&private)?;
    let listener = (|| {
        let inside = private.join("s");
        let listener = UnixListener::bind(&inside)?;
        fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
        fs::rename(&inside, path).inspect_err(|_| drop(fs::remove_file(&inside)))?;
        Ok(listener)
    })();
    fs::remove_dir(&private).inspect_err(|error| log::warn!("remove {}: {error}", private.display())).ok();
    listener
}

/// One client.
#[derive(Clone, Copy)]
struct Client<'s> {
    server: &'s Server,
    number: u64,
    to: &'s Arc<Outgoing>,
}

impl<'s> Client<'s> {
    /// The reading thread.
    fn serve(self, stream: UnixStream) {
        log::debug!("client {}: connected", self.number);
        thread::scope(|scope| {
            let writer = Builder::new().spawn_scoped(scope, || self.to.write());
            let (requests, queue) = sync_channel(MAX_REQUESTS);
            let worker = Builder::new().spawn_scoped(scope, move || self.carry_out(queue, scope));
            match (writer, worker) {
                (Ok(_), Ok(worker)) => {
                    self.read(stream, &requests);
                    // A request that waits for this client waits no longer.
                    self.server.machine.leave(self.number);
                    drop(requests);
                    let mdev = worker.join().expect("no request is beyond the host");
                    self.detach(mdev);
                }
                (Err(error), _) | (_, Err(error)) => {
                    log::warn!("client {}: dropped: {error}", self.number);
                    self.to.close();
                }
            }
        });
        log::debug!("client {}: gone", self.number);
    }

    /// Until the client is gone or dropped.
    fn read(self, stream: UnixStream, requests: &SyncSender<ToDaemon>) {
        let mut lines = LineReader::new(stream, MAX_LINE);
        let mut nonsense = 0;
        let mut greeted = false;
        if lines.get_ref().set_read_timeout(Some(HELLO_PATIENCE)).is_err() {
            return self.to.close();
        }
        loop {
            let line = match lines.line() {
                Ok(Some(line)) => line,
                Ok(None) => return self.to.close(),
                Err(LineError::TooLong(most)) => {
                    let error = format!("a line has more than {most} bytes; send less at a time");
                    return self.last_word(None, "EMSGSIZE", error);
                }
                Err(LineError::Io(_)) if !greeted && !self.to.is_closed() => {
                    return self.last_word(None, "ETIMEDOUT", "no hello came");
                }
                Err(LineError::Io(error)) => {
                    log::debug!("client {}: {error}", self.number);
                    return self.to.close();
                }
            };
            match ToDaemon::parse(line) {
                Ok(ToDaemon::Hello { version: VERSION }) if !greeted => {
                    greeted = true;
                    self.to.push(&FromDaemon::Hello { version: VERSION });
                    if lines.get_ref().set_read_timeout(None).is_err() {
                        return self.to.close();
                    }
                }
                Ok(ToDaemon::Hello { version }) if !greeted => {
                    let error = format!("version {version}; this AP host speaks version {VERSION}");
                    return self.last_word(None, "EPROTO", error);
                }
                Ok(_) if !greeted => return self.last_word(None, "EPROTO", "the first line is no hello"),
                Ok(ToDaemon::Hello { .. }) => self.refuse(None, "EPROTO", "a second hello"),
                Ok(ToDaemon::Report(report)) => self.server.machine.report(self.number, report),
                Ok(request) => match requests.try_send(request) {
                    Ok(()) => {}
                    Err(TrySendError::Full(request) | TrySendError::Disconnected(request)) => {
                        let error = format!("{MAX_REQUESTS} requests are waiting; wait for their answers");
                        self.refuse(request.id(), "EAGAIN", error);
                    }
                },
                Err(error) => {
                    nonsense += 1;
                    if !greeted || nonsense == MAX_NONSENSE {
                        return self.last_word(None, "EINVAL", format!("this is no message: {error}"));
                    }
                    self.refuse(ToDaemon::id_of(line), "EINVAL", format!("this is no message: {error}"));
                }
            }
        }
    }

    fn refuse(self, id: Option<u64>, errno: &str, error: impl Into<String>) {
        self.to.push(&FromDaemon::Refused { id, refusal: Refusal::new(errno, error) });
    }

    /// An error after which the connection ends.
    fn last_word(self, id: Option<u64>, errno: &str, error: impl Into<String>) {
        let error = error.into();
        log::info!("client {}: dropped: {error}", self.number);
        self.refuse(id, errno, error);
        self.to.end();
    }

    /// The thread that carries out requests. Returns the mediated device that the client has at the end.
    fn carry_out<'a>(self, requests: Receiver<ToDaemon>, scope: &'a Scope<'a, '_>) -> Option<Uuid>
    where
        's: 'a,
    {
        let host = &self.server.host;
        let (mut vm, mut attached, mut subscribed) = (None, None, false);
        for request in requests {
            let id = request.id();
            let outcome = match request {
                ToDaemon::Execute { operation, .. } => {
                    host.execute(&operation).map_err(|e| Refusal::from(&e))
                }
                ToDaemon::Snapshot { id } => {
                    self.server.machine.refresh();
                    let snapshot = Box::new(host.snapshot());
                    self.to.push(&FromDaemon::Snapshot { id, snapshot });
                    continue;
                }
                ToDaemon::Subscribe { .. } if subscribed => {
                    Err(Refusal::new("EBUSY", "this client is told every event already"))
                }
                ToDaemon::Subscribe { .. } => {
                    let events = host.subscribe();
                    let spawned = Builder::new().spawn_scoped(scope, move || self.forward(events));
                    subscribed = spawned.is_ok();
                    spawned.map(drop).map_err(|e| Refusal::new("EAGAIN", format!("start a thread: {e}")))
                }
                ToDaemon::Join { vm: name, .. } if vm.is_some() || name.len() > MAX_NAME => {
                    let error = format!("a VM joins once, with a name of at most {MAX_NAME} bytes");
                    Err(Refusal::new("EINVAL", error))
                }
                ToDaemon::Join { vm: name, .. } => {
                    self.server.machine.join(self.number, self.to.clone());
                    vm = Some(name);
                    Ok(())
                }
                ToDaemon::Attach { mdev, .. } => self.attach(mdev, vm.as_deref(), &mut attached),
                ToDaemon::Detach { .. } => match attached.take() {
                    Some(mdev) => {
                        self.detach(Some(mdev));
                        Ok(())
                    }
                    None => Err(no_device()),
                },
                ToDaemon::ResetDevice { .. } => match attached {
                    Some(mdev) => host.reset_device(mdev).map_err(|e| Refusal::from(&e)),
                    None => Err(no_device()),
                },
                ToDaemon::Hello { .. } | ToDaemon::Report(_) => unreachable!("the reading thread keeps them"),
            };
            self.to.push(&match (outcome, id) {
                (Ok(()), Some(id)) => FromDaemon::Done { id },
                (Ok(()), None) => unreachable!("every request has an id"),
                (Err(refusal), id) => FromDaemon::Refused { id, refusal },
            });
        }
        attached
    }

    fn attach(self, mdev: Uuid, vm: Option<&str>, attached: &mut Option<Uuid>) -> Result<(), Refusal> {
        let Some(vm) = vm else {
            return Err(Refusal::new("EINVAL", "this client is no VM; join first"));
        };
        let guest = Arc::new(RemoteGuest { vm: self.number, machine: self.server.machine.clone() });
        self.server.host.attach(mdev, guest).map_err(|error| Refusal::from(&error))?;
        log::info!("client {}: VM {vm:?} has mdev {mdev}", self.number);
        *attached = Some(mdev);
        Ok(())
    }

    fn detach(self, mdev: Option<Uuid>) {
        let Some(mdev) = mdev else { return };
        match self.server.host.detach_vm(mdev, self.number) {
            Ok(()) => log::info!("client {}: gave mdev {mdev} back", self.number),
            // It did not answer, and lost the device.
            Err(error) => log::debug!("client {}: {error}", self.number),
        }
    }

    /// A thread that passes on events. Where the client takes them slowly, some are lost, and the host says so.
    fn forward(self, events: Watch) {
        loop {
            let there = match events.recv_timeout(LOOK_EVERY) {
                Ok(event) => self.to.push_when_idle(&FromDaemon::Event(event)),
                Err(RecvTimeoutError::Timeout) => !self.to.is_closed(),
                Err(RecvTimeoutError::Disconnected) => false,
            };
            if !there {
                return;
            }
        }
    }
}

fn no_device() -> Refusal {
    Refusal::new("EINVAL", "this client has no mdev; attach one first")
}
