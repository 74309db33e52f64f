//! The guest's console for many: whoever connects to a socket, or whoever opens a pseudo-terminal.
//!
//! The console's writer thread hands bytes to a [`Feed`] and never waits. The event loop writes them to each viewer as fast
//! as it takes them. A viewer that does not read loses output, and is told where and how much. Whoever comes later sees
//! the last of what was there before.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::OptionalActions;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use crate::board::Board;
use crate::console::notice;
use crate::listener::{Listener, Rest};

/// Most viewers at once.
const MOST: usize = 32;
/// Bytes of old output that a new viewer sees.
const OLD: usize = 64 << 10;
/// Bytes kept for a viewer that is slower than the guest.
const BACKLOG: usize = 1 << 20;
/// Bytes read from a viewer at once.
const CHUNK: usize = 4096;
/// How often viewers are asked again when the guest had no room for what they typed.
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// What a descriptor is registered for: new output, a connection, a retry, the end of a rest, or (from here) a viewer.
const FED: u32 = 0;
const CONNECTION: u32 = 1;
const RETRY: u32 = 2;
const RESTED: u32 = 3;
const FIRST_VIEWER: u32 = 16;

/// What was written and nobody has taken yet, and what was before.
#[derive(Debug)]
pub struct Feed {
    state: Mutex<Fed>,
    wake: EventFd,
    /// Bytes lost ever: those that no viewer could be shown once, those that one viewer was not shown for each of them.
    lost: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Fed {
    new: VecDeque<u8>,
    dropped: u64,
}

impl Feed {
    fn new() -> io::Result<Arc<Self>> {
        let (state, wake, lost) = (Mutex::default(), EventFd::new(EFD_NONBLOCK)?, Arc::default());
        Ok(Arc::new(Self { state, wake, lost }))
    }

    fn state(&self) -> MutexGuard<'_, Fed> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was written, and how many bytes behind it were dropped.
    fn take(&self) -> (Vec<u8>, u64) {
        let mut state = self.state();
        (state.new.drain(..).collect(), std::mem::take(&mut state.dropped))
    }
}

/// A writer to a [`Feed`]: never waits.
#[derive(Debug)]
pub struct FeedWriter(Arc<Feed>);

impl Write for FeedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        {
            let mut state = self.0.state();
            let fits = bytes.len().min(BACKLOG.saturating_sub(state.new.len()));
            state.new.extend(&bytes[..fits]);
            let dropped = (bytes.len() - fits) as u64;
            state.dropped += dropped;
            self.0.lost.fetch_add(dropped, Ordering::Relaxed);
        }
        // Refused only when the counter is near 2^64; then it is readable.
        let _ = self.0.wake.write(1);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A console for many, before the guest runs.
#[derive(Debug)]
pub struct Viewers {
    feed: Arc<Feed>,
    from: From,
}

#[derive(Debug)]
enum From {
    Socket(Listener),
    /// The master's end, and the slave's, kept open so that the master never hangs up.
    Terminal(File, OwnedFd),
}

impl Viewers {
    /// Viewers that connect to a socket.
    ///
    /// # Errors
    /// The host's.
    pub fn at(listener: Listener) -> io::Result<Self> {
        Ok(Self { feed: Feed::new()?, from: From::Socket(listener) })
    }

    /// A new pseudo-terminal, and its path.
    ///
    /// # Errors
    /// The host's.
    pub fn terminal() -> io::Result<(Self, PathBuf)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::grantpt(&master)?;
        rustix::pty::unlockpt(&master)?;
        let path = PathBuf::from(std::ffi::OsString::from(
            rustix::pty::ptsname(&master, Vec::new())?.into_string().map_err(io::Error::other)?,
        ));
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())?;
        // The guest echoes; the line discipline must not send its output back as input.
        let mut settings = rustix::termios::tcgetattr(&slave)?;
        settings.make_raw();
        rustix::termios::tcsetattr(&slave, OptionalActions::Now, &settings)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok((Self { feed: Feed::new()?, from: From::Terminal(master.into(), slave) }, path))
    }

    /// Counts the bytes that viewers did not take in time.
    pub(crate) fn lost(&self) -> Arc<AtomicU64> {
        self.feed.lost.clone()
    }

    /// Where the console's output goes.
    pub fn writer(&self) -> FeedWriter {
        FeedWriter(self.feed.clone())
    }
}

/// One who watches, and types.
struct Viewer {
    file: File,
    /// What it has not been shown yet.
    backlog: VecDeque<u8>,
    /// What it has missed since the last notice.
    dropped: u64,
    interest: EventSet,
    gone: bool,
}

impl Viewer {
    /// Takes output, behind which `missing` bytes are lost already; how much of it is lost here.
    fn show(&mut self, bytes: &[u8], missing: u64) -> u64 {
        self.announce();
        let room = if self.dropped > 0 { 0 } else { BACKLOG.saturating_sub(self.backlog.len()) };
        let fits = bytes.len().min(room);
        self.backlog.extend(&bytes[..fits]);
        let lost = (bytes.len() - fits) as u64;
        self.dropped += lost + missing;
        lost
    }

    /// Says what is missing, where it is. Half of the room must be free before it goes on, lest every other byte be a notice.
    fn announce(&mut self) {
        if self.dropped > 0 && self.backlog.len() <= BACKLOG / 2 {
            self.backlog.extend(notice(std::mem::take(&mut self.dropped)));
        }
    }

    /// Writes what it takes now.
    fn write(&mut self) {
        loop {
            // The guest may be silent from here on.
            self.announce();
            if self.gone || self.backlog.is_empty() {
                return;
            }
            match self.file.write(self.backlog.as_slices().0) {
                Ok(0) => self.gone = true,
                Ok(count) => drop(self.backlog.drain(..count)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.gone = true,
            }
        }
    }
}

/// The viewers at work.
pub(crate) struct Service<'a> {
    board: &'a Board,
    feed: Arc<Feed>,
    listener: Option<Listener>,
    _slave: Option<OwnedFd>,
    viewers: BTreeMap<u32, Viewer>,
    next: u32,
    /// The last of what was written.
    old: VecDeque<u8>,
    /// Runs while the guest has no room for input.
    retry: TimerFd,
    full: bool,
    /// Keeps the listener alone for a while.
    rest: Rest,
}

impl<'a> Service<'a> {
    pub(crate) fn new(viewers: Viewers, board: &'a Board) -> io::Result<Self> {
        let Viewers { feed, from } = viewers;
        let mut service = Self {
            board,
            feed,
            listener: None,
            _slave: None,
            viewers: BTreeMap::new(),
            next: FIRST_VIEWER,
            old: VecDeque::with_capacity(OLD),
            retry: TimerFd::new()?,
            full: false,
            rest: Rest::new()?,
        };
        match from {
            From::Socket(listener) => service.listener = Some(listener),
            From::Terminal(master, slave) => {
                service._slave = Some(slave);
                service.add(master);
            }
        }
        Ok(service)
    }

    fn add(&mut self, file: File) -> u32 {
        let id = self.next;
        self.next = self.next.checked_add(1).unwrap_or(FIRST_VIEWER);
        let backlog = self.old.clone();
        let interest = EventSet::IN;
        self.viewers.insert(id, Viewer { file, backlog, dropped: 0, interest, gone: false });
        id
    }

    /// Shows the last output, as far as it is taken now. For the end.
    pub(crate) fn finish(&mut self) {
        self.feed();
    }

    fn feed(&mut self) {
        let _ = self.feed.wake.read();
        let (bytes, dropped) = self.feed.take();
        let first = (self.old.len() + bytes.len()).saturating_sub(OLD);
        self.old.drain(..first.min(self.old.len()));
        self.old.extend(&bytes[bytes.len().saturating_sub(OLD)..]);
        for viewer in self.viewers.values_mut() {
            let lost = viewer.show(&bytes, dropped);
            self.feed.lost.fetch_add(lost, Ordering::Relaxed);
            viewer.write();
        }
    }

    fn connection(&mut self, ops: &mut EventOps<'_>) {
        loop {
            let Some(listener) = self.listener.as_ref().filter(|_| !self.rest.is_on()) else { return };
            match listener.socket.accept() {
                Ok((mut stream, _)) => {
                    if stream.set_nonblocking(true).is_err() {
                        continue;
                    }
                    if self.viewers.len() >= MOST {
                        // A new connection has room for a line; if not, it is closed all the same.
                        let _ = stream.write(b"adjunct: too many watch this console already\r\n");
                        continue;
                    }
                    let id = self.add(File::from(OwnedFd::from(stream)));
                    let viewer = self.viewers.get_mut(&id).expect("it was just added");
                    viewer.gone = ops.add(Events::with_data(&viewer.file, id, EventSet::IN)).is_err();
                    viewer.write();
                }
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        if self.rest.begin("the console's socket", &e)
                            && let Err(e) =
                                ops.modify(Events::with_data(&listener.socket, CONNECTION, EventSet::empty()))
                        {
                            log::warn!("leave the console's socket alone: {e:?}");
                        }
                        return;
                    }
                },
            }
        }
    }

    fn read(&mut self, id: u32, hung_up: bool) {
        let mut buffer = [0; CHUNK];
        let room = self.board.devices.input_room().min(CHUNK);
        let Some(viewer) = self.viewers.get_mut(&id) else { return };
        if room == 0 {
            self.full = true;
            viewer.gone |= hung_up;
            return;
        }
        match viewer.file.read(&mut buffer[..room]) {
            Ok(0) => viewer.gone = true,
            Ok(count) => self.board.devices.input(&buffer[..count], &*self.board.vm),
            Err(e) if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&e.kind()) => {}
            Err(_) => viewer.gone = true,
        }
    }

    /// Waits for what each viewer can do next; forgets those that have gone.
    fn settle(&mut self, ops: &mut EventOps<'_>) {
        let before = self.viewers.len();
        let full = self.full;
        self.viewers.retain(|&id, viewer| {
            if viewer.gone {
                let _ = ops.remove(Events::empty(&viewer.file));
                return false;
            }
            let mut wanted = if full { EventSet::empty() } else { EventSet::IN };
            if !viewer.backlog.is_empty() {
                wanted |= EventSet::OUT;
            }
            if wanted == viewer.interest {
                return true;
            }
            viewer.interest = wanted;
            ops.modify(Events::with_data(&viewer.file, id, wanted)).is_ok()
        });
        // One has gone, and its descriptor with it.
        if self.viewers.len() < before {
            self.rested(ops);
        }
    }

    /// Takes connections again.
    fn rested(&mut self, ops: &EventOps<'_>) {
        if !self.rest.is_on() {
            return;
        }
        self.rest.end();
        if let Some(listener) = &self.listener
            && let Err(e) = ops.modify(Events::with_data(&listener.socket, CONNECTION, EventSet::IN))
        {
            log::warn!("wait for connections to the console: {e:?}");
        }
    }
}

impl MutEventSubscriber for Service<'_> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let mut fixed: Vec<(RawFd, u32)> = vec![
            (self.feed.wake.as_raw_fd(), FED),
            (self.retry.as_raw_fd(), RETRY),
            (self.rest.descriptor(), RESTED),
        ];
        fixed.extend(self.listener.iter().map(|l| (l.socket.as_raw_fd(), CONNECTION)));
        fixed.extend(self.viewers.iter().map(|(id, viewer)| (viewer.file.as_raw_fd(), *id)));
        for (descriptor, purpose) in fixed {
            if let Err(e) = ops.add(Events::with_data_raw(descriptor, purpose, EventSet::IN)) {
                log::warn!("wait for the console: {e:?}");
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            FED => self.feed(),
            CONNECTION => self.connection(ops),
            RETRY => {
                // It was ready, so this does not block.
                let _ = self.retry.wait();
                self.full = self.board.devices.input_room() == 0;
                if !self.full {
                    let _ = self.retry.clear();
                }
            }
            RESTED => self.rested(ops),
            id if self.viewers.get(&id).is_some_and(|v| v.file.as_raw_fd() == events.fd()) => {
                let set = events.event_set();
                let hung_up = set.intersects(EventSet::HANG_UP | EventSet::ERROR);
                let was_full = self.full;
                if set.contains(EventSet::IN) || hung_up {
                    self.read(id, hung_up);
                }
                if self.full
                    && !was_full
                    && let Err(e) = self.retry.reset(RETRY_EVERY, Some(RETRY_EVERY))
                {
                    log::warn!("start a timer for the console: {e}");
                    self.full = false;
                }
                if let Some(viewer) = self.viewers.get_mut(&id) {
                    viewer.write();
                }
            }
            _ => {}
        }
        self.settle(ops);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::bench;
    use event_manager::{EventManager, SubscriberOps};
    use std::cell::RefCell;
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    /// Runs the loop until nothing happens for a while.
    fn settle(manager: &mut EventManager<Box<dyn MutEventSubscriber + '_>>) {
        while manager.run_with_timeout(50).unwrap() > 0 {}
    }

    fn read_some(stream: &mut UnixStream) -> Vec<u8> {
        let mut bytes = vec![0; 4 << 20];
        let mut length = 0;
        stream.set_nonblocking(true).unwrap();
        while let Ok(count @ 1..) = stream.read(&mut bytes[length..]) {
            length += count;
        }
        bytes.truncate(length);
        bytes
    }

    /// What a viewer has seen ends with the one notice of what it has not, which is what was counted; though the guest is silent.
    #[track_caller]
    fn check_announced(seen: &[u8], lost: &AtomicU64) -> u64 {
        let lost = lost.load(Ordering::Relaxed);
        let text = String::from_utf8_lossy(seen);
        assert!(lost > 1 << 20, "{lost} bytes were dropped");
        assert!(seen.ends_with(&notice(lost)), "{lost} bytes: {:?}", &text[text.len().saturating_sub(80)..]);
        assert_eq!(text.matches("adjunct").count(), 1);
        lost
    }

    #[test]
    fn several_watch_and_a_latecomer_sees_what_was() {
        let bench = bench();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let viewers = Viewers::at(Listener::bind("--console", &path).unwrap()).unwrap();
        let (mut guest, lost) = (viewers.writer(), viewers.lost());
        let service = Rc::new(RefCell::new(Service::new(viewers, &bench.board).unwrap()));
        let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
        manager.add_subscriber(Box::new(service.clone()));

        let mut early = UnixStream::connect(&path).unwrap();
        let lazy = UnixStream::connect(&path).unwrap();
        settle(&mut manager);
        guest.write_all(b"hello").unwrap();
        settle(&mut manager);
        let mut late = UnixStream::connect(&path).unwrap();
        settle(&mut manager);
        assert_eq!((read_some(&mut early), read_some(&mut late)), (b"hello".to_vec(), b"hello".to_vec()));

        // One does not read; the others get everything, and it is told what it missed.
        let line = [b'x'; 8000];
        for _ in 0..400 {
            guest.write_all(&line).unwrap();
            settle(&mut manager);
            assert_eq!(read_some(&mut early).len(), line.len());
            assert_eq!(read_some(&mut late).len(), line.len());
        }
        let mut lazy = lazy;
        let mut seen = Vec::new();
        loop {
            let more = read_some(&mut lazy);
            if more.is_empty() {
                break;
            }
            seen.extend(more);
            settle(&mut manager);
        }
        let lost = check_announced(&seen, &lost);
        assert_eq!(seen.len() as u64 - notice(lost).len() as u64 + lost, 5 + 400 * line.len() as u64);
        guest.write_all(b"end").unwrap();
        settle(&mut manager);
        assert_eq!(read_some(&mut lazy), b"end");

        // Nobody is too many.
        let others: Vec<_> = (0..MOST + 5).map(|_| UnixStream::connect(&path).unwrap()).collect();
        settle(&mut manager);
        assert_eq!(service.borrow().viewers.len(), MOST);
        drop((others, early, late, lazy));
        settle(&mut manager);
        assert_eq!(service.borrow().viewers.len(), 0);
    }

    #[test]
    fn a_terminal_stays_when_its_reader_goes() {
        let bench = bench();
        let (viewers, path) = Viewers::terminal().unwrap();
        let (mut guest, lost) = (viewers.writer(), viewers.lost());
        let service = Rc::new(RefCell::new(Service::new(viewers, &bench.board).unwrap()));
        let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
        manager.add_subscriber(Box::new(service.clone()));
        for text in ["one\n", "two\n"] {
            let mut reader = File::options().read(true).write(true).open(&path).unwrap();
            guest.write_all(text.as_bytes()).unwrap();
            settle(&mut manager);
            let mut bytes = [0; 16];
            let count = reader.read(&mut bytes).unwrap();
            assert_eq!(std::str::from_utf8(&bytes[..count]).unwrap(), text);
        }
        assert_eq!(service.borrow().viewers.len(), 1);
        // Nobody reads for a while.
        for _ in 0..300 {
            guest.write_all(&[b'x'; 8000]).unwrap();
            settle(&mut manager);
        }
        let reader = File::options().read(true).write(true).open(&path).unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let (mut seen, mut bytes) = (Vec::new(), [0; 1 << 16]);
        while let Ok(count @ 1..) = (&reader).read(&mut bytes) {
            seen.extend(&bytes[..count]);
            settle(&mut manager);
        }
        check_announced(&seen, &lost);
    }
}
