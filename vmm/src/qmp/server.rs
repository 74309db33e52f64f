//! The sockets and their clients, on the event loop.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use ap::host::Watch;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::commands::{Metrics, Shared, Threads, post_ap_events, watch_ap};
use super::descriptors::{MOST_ARRIVED, Sets};
use super::error::Error;
use super::session::Session;
use super::{About, SocketAddress};
use crate::board::Board;
use crate::events::Event;
use crate::listener::{ListenError, Listener, Rest};
use crate::metrics::Process;

/// Most clients at once, on all sockets together.
pub const MOST_CLIENTS: usize = 128;
/// Bytes read at once.
const CHUNK: usize = 16 << 10;

/// What a descriptor is registered for: the events of the machine, the end of a rest, a listening socket (from here), a
/// client.
const MACHINE: u32 = 0;
const RESTED: u32 = 1;
const FIRST_LISTENER: u32 = 2;
const FIRST_CLIENT: u32 = 1 << 16;

/// Listening sockets, whose files go away with this.
#[derive(Default)]
pub struct Server {
    listeners: Vec<Listener>,
    about: About,
    process: Process,
}

impl Server {
    /// Listens at `addresses`; clients are served once the guest runs. A file that a dead process left
    /// there is replaced, a socket that somebody listens at is not.
    pub fn bind(addresses: &[SocketAddress], about: About) -> Result<Self, ListenError> {
        let listeners = addresses
            .iter()
            .map(|address| Listener::bind("--qmp", &address.path))
            .collect::<Result<_, _>>()?;
        Ok(Self { listeners, about, process: Process::open() })
    }
}

/// A client of a socket.
struct Client {
    stream: UnixStream,
    session: Session,
    /// What its descriptor is registered for.
    interest: EventSet,
    /// It sends nothing more; what it sent is still answered.
    ended: bool,
    /// It has gone, or did what nobody should.
    gone: bool,
}

impl Client {
    /// Reads what there is and there is room for.
    fn read(&mut self) {
        let mut buffer = [0; CHUNK];
        let room = self.session.room().min(CHUNK);
        if room == 0 || self.ended {
            return;
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_ARRIVED))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut buffer[..room])];
        let received = rustix::net::recvmsg(&self.stream, into, &mut control, RecvFlags::CMSG_CLOEXEC);
        let count = match received {
            Ok(received) => received.bytes,
            Err(e) => {
                let e = io::Error::from(e);
                let again = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&e.kind());
                self.gone |= !again;
                return;
            }
        };
        let rights = |message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        };
        let descriptors: Vec<OwnedFd> = control.drain().filter_map(rights).flatten().collect();
        self.ended = count == 0;
        self.session.input(&buffer[..count], descriptors);
    }

    /// Writes what the client takes now.
    fn write(&mut self) {
        while !self.gone && !self.session.output().is_empty() {
            match (&self.stream).write(self.session.output()) {
                Ok(count) => self.session.written(count),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.gone = true,
            }
        }
    }

    fn wanted(&self) -> EventSet {
        let mut wanted = EventSet::empty();
        if !self.ended && self.session.room() > 0 {
            wanted |= EventSet::IN;
        }
        if !self.session.output().is_empty() {
            wanted |= EventSet::OUT;
        }
        wanted
    }
}

/// The server at work.
pub(crate) struct Service<'a> {
    board: &'a Board,
    listeners: Vec<Listener>,
    clients: BTreeMap<u32, Client>,
    next: u32,
    shared: Shared,
    /// What happens on the guest's AP host.
    ap: Option<Watch>,
    /// Keeps the listeners alone for a while.
    rest: Rest,
}

impl<'a> Service<'a> {
    /// Serves the clients of `server` for `board`.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn new(server: Server, board: &'a Board) -> io::Result<Self> {
        Ok(Self {
            board,
            listeners: server.listeners,
            clients: BTreeMap::new(),
            next: FIRST_CLIENT,
            shared: Shared {
                about: server.about,
                sets: Sets::default(),
                metrics: Metrics::default(),
                since: Instant::now(),
                threads: Threads::default(),
                process: server.process,
            },
            ap: {
                let machine = board.control.clone();
                watch_ap(board, Box::new(move || machine.events().nudge()))
            },
            rest: Rest::new()?,
        })
    }

    /// Tells the clients what they have not been told yet, as far as they take it now. For the end.
    pub(crate) fn finish(&mut self) {
        self.serve();
    }

    fn accept(&mut self, listener: usize, ops: &mut EventOps<'_>) {
        let Some(listener) = self.listeners.get(listener).filter(|_| !self.rest.is_on()) else { return };
        loop {
            match listener.socket.accept() {
                Ok((stream, _)) => {
                    if self.clients.len() >= MOST_CLIENTS {
                        self.shared.metrics.refused += 1;
                        refuse(&stream);
                        continue;
                    }
                    let id = self.next;
                    self.next = self.next.checked_add(1).unwrap_or(FIRST_CLIENT);
                    let client = Client {
                        stream,
                        session: Session::new(),
                        interest: EventSet::IN,
                        ended: false,
                        gone: false,
                    };
                    let added = client.stream.set_nonblocking(true).is_ok()
                        && ops.add(Events::with_data(&client.stream, id, EventSet::IN)).is_ok();
                    if added {
                        self.clients.insert(id, client);
                        self.shared.metrics.connections += 1;
                        self.board.control.events().post(Event::Clients(self.clients.len()));
                    }
                }
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        if self.rest.begin("the management socket", &e) {
                            self.listen(EventSet::empty(), |events| ops.modify(events));
                        }
                        return;
                    }
                },
            }
        }
    }

    fn listen<E: std::fmt::Debug>(&self, interest: EventSet, mut how: impl FnMut(Events) -> Result<(), E>) {
        for (n, listener) in self.listeners.iter().enumerate() {
            let events = Events::with_data(&listener.socket, FIRST_LISTENER + n as u32, interest);
            if let Err(e) = how(events) {
                log::warn!("wait for connections at {}: {e:?}", listener.path().display());
            }
        }
    }

    /// Takes connections again.
    fn rested(&mut self, ops: &EventOps<'_>) {
        if self.rest.is_on() {
            self.rest.end();
            self.listen(EventSet::IN, |events| ops.modify(events));
        }
    }

    /// Carries out what clients have asked for, and tells them what happened.
    fn serve(&mut self) {
        let Self { board, clients, shared, ap, .. } = self;
        let tell = |clients: &mut BTreeMap<u32, Client>, shared: &mut Shared| {
            post_ap_events(board, ap.as_ref());
            tell(clients, shared, board);
        };
        loop {
            shared.metrics.clients = clients.len() as u64;
            tell(clients, shared);
            let ids: Vec<u32> = clients.keys().copied().collect();
            let mut idle = true;
            for id in ids {
                let reply = clients.get_mut(&id).and_then(|client| client.session.advance(board, shared));
                if let Some(reply) = reply {
                    idle = false;
                    tell(clients, shared);
                    if let Some(client) = clients.get_mut(&id) {
                        client.session.reply(reply, board, shared);
                        client.write();
                    }
                }
            }
            if idle {
                break;
            }
        }
        let requests = |client: &Client| client.session.subscribed("X_AP_REQUEST");
        board.control.events().want_requests(clients.values().any(requests));
        for client in clients.values_mut() {
            client.write();
            let answered = client.session.is_idle() && client.session.output().is_empty();
            client.gone |= (client.ended || client.session.is_closed()) && answered;
        }
    }

    /// Waits for what each client can do next; forgets those that have gone.
    fn settle(&mut self, ops: &mut EventOps<'_>) {
        let before = self.clients.len();
        self.clients.retain(|&id, client| {
            if client.gone {
                let _ = ops.remove(Events::empty(&client.stream));
                return false;
            }
            let wanted = client.wanted();
            if wanted == client.interest {
                return true;
            }
            client.interest = wanted;
            ops.modify(Events::with_data(&client.stream, id, wanted)).is_ok()
        });
        if self.clients.len() < before {
            self.board.control.events().post(Event::Clients(self.clients.len()));
            if self.clients.is_empty() {
                self.shared.sets.clear();
            }
        }
        self.shared.metrics.clients = self.clients.len() as u64;
        self.board.set_management(self.shared.metrics);
        // One has gone, and its descriptor with it.
        if self.clients.len() < before {
            self.rested(ops);
        }
    }
}

/// Tells every client the machine's events.
fn tell(clients: &mut BTreeMap<u32, Client>, shared: &mut Shared, board: &Board) {
    let (events, lost) = board.control.events().take();
    for (at, event) in events {
        let (name, data) = event.describe();
        for client in clients.values_mut() {
            client.session.event(at, name, data.as_ref(), shared);
        }
    }
    if lost > 0 {
        clients.values_mut().for_each(|client| client.session.lost(lost, shared));
    }
}

/// Says why a connection is closed at once.
fn refuse(stream: &UnixStream) {
    let error = Error::generic(format_args!("{MOST_CLIENTS} clients are connected already; close one first"));
    let line = format!("{}\r\n", serde_json::json!({"error": error.to_value()}));
    // A new connection has room for a line; if not, it is closed all the same.
    let _ = stream.set_nonblocking(true);
    let mut stream = stream;
    let _ = stream.write(line.as_bytes());
}

impl MutEventSubscriber for Service<'_> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let machine = self.board.control.events().descriptor();
        if let Err(e) = ops.add(Events::with_data_raw(machine, MACHINE, EventSet::IN)) {
            log::warn!("wait for the machine's events: {e:?}");
        }
        if let Err(e) = ops.add(Events::with_data_raw(self.rest.descriptor(), RESTED, EventSet::IN)) {
            log::warn!("wait for a timer: {e:?}");
        }
        self.listen(EventSet::IN, |events| ops.add(events));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let data = events.data();
        if data == MACHINE {
            self.board.control.events().clear();
        } else if data == RESTED {
            self.rested(ops);
        } else if data < FIRST_CLIENT {
            self.accept((data - FIRST_LISTENER) as usize, ops);
        } else if let Some(client) =
            self.clients.get_mut(&data).filter(|c| c.stream.as_raw_fd() == events.fd())
        {
            if events.event_set().contains(EventSet::IN) {
                client.read();
            }
            // Both directions are closed: nobody is there to be answered.
            let hung_up = events.event_set().intersects(EventSet::HANG_UP | EventSet::ERROR);
            client.gone |= hung_up && !events.event_set().contains(EventSet::IN);
            client.ended |= hung_up;
        }
        self.serve();
        self.settle(ops);
    }
}
