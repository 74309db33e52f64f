//! What waits to be taken by a client: bounded, written by a thread of its own, so that nobody who has something to say to a
//! client waits for it.

use std::collections::VecDeque;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::protocol::{FromDaemon, line};
use super::{MAX_WAITING, WRITE_PATIENCE};
use crate::lock::{Rank, RankedGuard, RankedMutex};
use crate::sync::Condvar;

/// What may wait before an event does; the events themselves then wait where their loss is announced.
const EVENT_ROOM: usize = 64 << 10;

/// The way to one client.
pub(super) struct Outgoing {
    stream: UnixStream,
    /// The client's number, for the log.
    number: u64,
    queue: RankedMutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// Of all lines, the one being written included.
    bytes: usize,
    /// Nothing more is taken; what waits is still written.
    ending: bool,
    /// Nothing more is written.
    closed: bool,
}

impl Outgoing {
    pub(super) fn new(stream: UnixStream, number: u64) -> std::io::Result<Self> {
        stream.set_write_timeout(Some(WRITE_PATIENCE))?;
        let queue = RankedMutex::with_key(Rank::Connection, number, Queue::default());
        Ok(Self { stream, number, queue, changed: Condvar::new() })
    }

    /// Never waits. A client that has taken nothing for so long that there is no room is dropped.
    pub(super) fn push(&self, message: &FromDaemon) {
        let line = line(message);
        let mut queue = self.lock();
        if queue.ending || queue.closed {
            return;
        }
        if queue.bytes + line.len() > MAX_WAITING {
            log::warn!("client {}: dropped, since it does not take what it is told", self.number);
            return self.close_locked(queue);
        }
        queue.bytes += line.len();
        queue.lines.push_back(line);
        self.changed.notify_all();
    }

    /// Waits until little waits, then pushes; false when the client is gone.
    pub(super) fn push_when_idle(&self, message: &FromDaemon) -> bool {
        let busy = |queue: &mut Queue| queue.bytes > EVENT_ROOM && !queue.closed && !queue.ending;
        let queue = self.lock().wait_while(&self.changed, busy);
        let gone = queue.closed || queue.ending;
        drop(queue);
        if !gone {
            self.push(message);
        }
        !gone
    }

    /// Ends the connection when everything has been written.
    pub(super) fn end(&self) {
        self.lock().ending = true;
        self.changed.notify_all();
    }

    /// Ends the connection at once.
    pub(super) fn close(&self) {
        self.close_locked(self.lock());
    }

    pub(super) fn is_closed(&self) -> bool {
        let queue = self.lock();
        queue.closed || queue.ending
    }

    /// Writes until the connection ends: the writer's thread.
    pub(super) fn write(&self) {
        loop {
            let idle = |queue: &mut Queue| queue.lines.is_empty() && !queue.ending && !queue.closed;
            let mut queue = self.lock().wait_while(&self.changed, idle);
            if queue.closed {
                return;
            }
            let Some(line) = queue.lines.pop_front() else { return self.close_locked(queue) };
            drop(queue);
            if let Err(error) = (&self.stream).write_all(&line) {
                if self.is_closed() {
                    log::debug!("client {}: {error}", self.number);
                } else {
                    log::warn!("client {}: dropped: {error}", self.number);
                }
                return self.close();
            }
            self.lock().bytes -= line.len();
            self.changed.notify_all();
        }
    }

    fn close_locked(&self, mut queue: RankedGuard<'_, Queue>) {
        queue.closed = true;
        queue.lines.clear();
        // The peer may have ended it already.
        let _ = self.stream.shutdown(Shutdown::Both);
        drop(queue);
        self.changed.notify_all();
    }

    fn lock(&self) -> RankedGuard<'_, Queue> {
        self.queue.lock()
    }
}
