//! The messages, and the lines they travel in.

use std::io::{self, Read};

use crycb::{Apqn, Matrix};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::host::number::{matrix, queue_name};
use crate::host::{Event, HostError, Lpar, Operation, Snapshot};

/// The version of these messages. Daemon and client say theirs first and must agree.
pub const VERSION: u32 = 1;

/// What a client says. Whatever has an `id` is answered by one message with the same `id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ToDaemon {
    /// First of all.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// Carry out an operation: answered by [`FromDaemon::Done`].
    Execute {
        /// Returned with the answer.
        id: u64,
        /// The operation.
        operation: Operation,
    },
    /// Tell the whole state: answered by [`FromDaemon::Snapshot`].
    Snapshot {
        /// Returned with the answer.
        id: u64,
    },
    /// Tell every event from now on: answered by [`FromDaemon::Done`], then [`FromDaemon::Event`] again and again.
    Subscribe {
        /// Returned with the answer.
        id: u64,
    },
    /// The client is a VM: [`Order::Hardware`], then [`FromDaemon::Done`], then more orders.
    Join {
        /// Returned with the answer.
        id: u64,
        /// The name of the VM, for the log.
        vm: String,
    },
    /// The VM wants the mediated device: [`Order`]s that put it in place, then [`FromDaemon::Done`].
    Attach {
        /// Returned with the answer.
        id: u64,
        /// The device.
        mdev: Uuid,
    },
    /// The VM gives its mediated device back.
    Detach {
        /// Returned with the answer.
        id: u64,
    },
    /// The VM's subsystem reset: every queue of its mediated device.
    ResetDevice {
        /// Returned with the answer.
        id: u64,
    },
    /// What became of an order.
    Report(Report),
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum FromDaemon {
    /// The answer to a hello.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// What was asked has happened.
    Done {
        /// Of the request.
        id: u64,
    },
    /// What was asked did not happen, or could not be understood.
    Refused {
        /// Of the request; `None` when that could not be told.
        id: Option<u64>,
        /// Why.
        #[serde(flatten)]
        refusal: Refusal,
    },
    /// The state.
    Snapshot {
        /// Of the request.
        id: u64,
        /// The state.
        snapshot: Box<Snapshot>,
    },
    /// Something happened.
    Event(Event),
    /// To a VM.
    Order(Order),
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The name of the error number that Linux would answer.
    pub errno: String,
    /// One line with object and remedy.
    pub error: String,
}

impl Refusal {
    pub(super) fn new(errno: &str, error: impl Into<String>) -> Self {
        Self { errno: errno.into(), error: error.into() }
    }
}

impl From<&HostError> for Refusal {
    fn from(error: &HostError) -> Self {
        let sources = std::iter::successors(std::error::Error::source(error), |e| e.source());
        Self::new(error.errno(), sources.fold(error.to_string(), |text, source| format!("{text}: {source}")))
    }
}

impl From<Refusal> for HostError {
    fn from(refusal: Refusal) -> Self {
        Self::Remote { errno: refusal.errno, message: refusal.error }
    }
}

/// What a VM is told to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// The machine's AP configuration, now and after each change.
    Hardware {
        /// All of it.
        lpar: Lpar,
    },
    /// The PQAP hook is there, or not any more.
    SetHook {
        /// Whether it is.
        present: bool,
    },
    /// Write the APCB with every CPU held off, then [`Report::Confirm`].
    SetMasks {
        /// Ascending.
        serial: u64,
        /// What the guest may reach.
        #[serde(with = "matrix")]
        matrix: Matrix,
    },
    /// Reset the queue, then [`Report::ResetDone`].
    Zapq {
        /// Ascending.
        serial: u64,
        /// The queue.
        #[serde(with = "queue_name")]
        queue: Apqn,
    },
    /// Free the interruption resources of the queue.
    ReleaseInterruption {
        /// The queue.
        #[serde(with = "queue_name")]
        queue: Apqn,
    },
    /// Tell the guest that its AP configuration changed.
    ConfigChanged,
    /// The host wants the mediated device back: [`ToDaemon::Detach`], soon.
    Request,
    /// [`Report::Statistics`] is wanted.
    Statistics {
        /// Ascending.
        serial: u64,
    },
}

/// What a VM says about an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Report {
    /// The APCB has been written, and everything that was ordered before has happened.
    Confirm {
        /// Of the order.
        serial: u64,
    },
    /// A reset has ended.
    ResetDone {
        /// Of the order.
        serial: u64,
        /// The queue.
        #[serde(with = "queue_name")]
        queue: Apqn,
        /// How TAPQ answers from now on.
        response_code: u8,
    },
    /// What happened on the queues so far.
    Statistics {
        /// Of the order, in the last of several messages.
        serial: Option<u64>,
        /// The queues on which something happened.
        queues: Vec<QueueCount>,
    },
}

/// What happened on a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueCount {
    /// The queue.
    #[serde(with = "queue_name")]
    pub queue: Apqn,
    /// Requests accepted so far.
    pub requests: u64,
    /// Requests and replies on the queue now.
    pub pending: u64,
    /// Requests answered so far.
    pub answered: u64,
    /// Nanoseconds from request to reply, summed over `answered`.
    pub answer_time: u64,
}

impl ToDaemon {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }

    /// The number of the request that it is; none: it is not one, and gets no answer.
    pub const fn id(&self) -> Option<u64> {
        match self {
            Self::Execute { id, .. }
            | Self::Snapshot { id }
            | Self::Subscribe { id }
            | Self::Join { id, .. }
            | Self::Attach { id, .. }
            | Self::Detach { id }
            | Self::ResetDevice { id } => Some(*id),
            Self::Hello { .. } | Self::Report(_) => None,
        }
    }

    /// The `id` of a line that [`parse`](Self::parse) refuses, if it has one.
    pub(super) fn id_of(line: &[u8]) -> Option<u64> {
        serde_json::from_slice::<serde_json::Map<_, _>>(line).ok()?.get("id")?.as_u64()
    }
}

/// The message as a line.
pub(super) fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("messages have only strings for keys");
    line.push(b'\n');
    line
}

/// Lines from a stream, of bounded length.
#[derive(Debug)]
pub struct LineReader<R> {
    from: R,
    limit: usize,
    buffer: Vec<u8>,
    /// What of the buffer has been given out.
    taken: usize,
    /// What of the buffer has no line end.
    searched: usize,
}

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The stream does not go on, or not in the time it was given; then the next call goes on.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The line is longer than the limit.
    #[error("a line has more than {0} bytes")]
    TooLong(usize),
}

impl<R: Read> LineReader<R> {
    /// Lines of at most `limit` bytes without their end.
    pub const fn new(from: R, limit: usize) -> Self {
        Self { from, limit, buffer: Vec::new(), taken: 0, searched: 0 }
    }

    /// The stream.
    pub const fn get_ref(&self) -> &R {
        &self.from
    }

    /// The next line without its end; `None` when the stream has ended. What stands behind the last line end is no line.
    ///
    /// # Errors
    /// [`LineError`]. After [`LineError::TooLong`] the stream is of no further use.
    pub fn line(&mut self) -> Result<Option<&[u8]>, LineError> {
        const CHUNK: usize = 16 << 10;
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') {
                let (start, end) = (self.taken, self.searched + at);
                (self.taken, self.searched) = (end + 1, end + 1);
                if end - start > self.limit {
                    return Err(LineError::TooLong(self.limit));
                }
                return Ok(Some(&self.buffer[start..end]));
            }
            self.buffer.drain(..self.taken);
            (self.taken, self.searched) = (0, self.buffer.len());
            if self.searched > self.limit {
                return Err(LineError::TooLong(self.limit));
            }
            self.buffer.resize(self.searched + CHUNK, 0);
            let read = self.from.read(&mut self.buffer[self.searched..]);
            self.buffer.truncate(self.searched + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Description, LparChange, MaskAttribute};
    use proptest::prelude::*;

    const UUID: Uuid = Uuid::from_u128(0x62177883_f1bb_47f0_914d_32a22e3a8804);

    fn messages() -> Vec<ToDaemon> {
        let queue = Apqn(0x0504);
        let definition = Description::builtin().mdevs()[0].1.clone();
        let adapter = Description::builtin().adapters()[2].clone();
        let count = QueueCount { queue, requests: u64::MAX, pending: 1, answered: 2, answer_time: 3 };
        let value = "-5,+0xa".to_owned();
        vec![
            ToDaemon::Hello { version: VERSION },
            ToDaemon::Execute { id: 1, operation: Operation::Import { mdev: UUID, definition } },
            ToDaemon::Execute {
                id: 2,
                operation: Operation::WriteMask { mask: MaskAttribute::Apmask, value },
            },
            ToDaemon::Execute {
                id: 3,
                operation: Operation::Configure { changes: vec![LparChange::AddAdapter { adapter }] },
            },
            ToDaemon::Execute { id: 4, operation: Operation::Scan },
            ToDaemon::Snapshot { id: 5 },
            ToDaemon::Subscribe { id: 6 },
            ToDaemon::Join { id: 7, vm: "one\n\"two\"".into() },
            ToDaemon::Attach { id: u64::MAX, mdev: UUID },
            ToDaemon::Detach { id: 8 },
            ToDaemon::ResetDevice { id: 9 },
            ToDaemon::Report(Report::Confirm { serial: 10 }),
            ToDaemon::Report(Report::ResetDone { serial: 11, queue, response_code: 0x05 }),
            ToDaemon::Report(Report::Statistics { serial: None, queues: vec![count] }),
        ]
    }

    #[test]
    fn messages_are_lines_and_come_back() {
        let sent: Vec<u8> = messages().iter().flat_map(line).collect();
        let mut lines = LineReader::new(&sent[..], 1 << 12);
        for message in messages() {
            let line = lines.line().unwrap().expect("one each");
            assert_eq!(ToDaemon::parse(line).unwrap(), message);
        }
        assert!(lines.line().unwrap().is_none());

        let lpar = Lpar::of(&Description::builtin());
        let event = Event { number: 7, kind: crate::host::EventKind::Attached { mdev: UUID } };
        let host = crate::host::ApHost::builtin();
        let refusal = Refusal::new("EBUSY", "no");
        for message in [
            FromDaemon::Hello { version: VERSION },
            FromDaemon::Order(Order::Hardware { lpar }),
            FromDaemon::Order(Order::SetMasks { serial: 1, matrix: host.qci().matrix }),
            FromDaemon::Order(Order::ConfigChanged),
            FromDaemon::Refused { id: None, refusal },
            FromDaemon::Event(event),
            FromDaemon::Snapshot { id: 1, snapshot: Box::new(host.snapshot()) },
        ] {
            let line = line(&message);
            assert_eq!(serde_json::from_slice::<FromDaemon>(&line).unwrap(), message);
        }
    }

    #[test]
    fn what_stands_on_the_line() {
        let detach = r#"{"message":"detach","id":8}"#;
        assert_eq!(line(&ToDaemon::Detach { id: 8 }), format!("{detach}\n").into_bytes());
        let report =
            r#"{"message":"report","report":"reset-done","serial":11,"queue":"05.0004","response_code":5}"#;
        let message = Report::ResetDone { serial: 11, queue: Apqn(0x0504), response_code: 5 };
        assert_eq!(line(&ToDaemon::Report(message)), format!("{report}\n").into_bytes());
        for (bad, id) in [
            ("", None),
            ("{}", None),
            ("[1]", None),
            (r#"{"message":"snapshot"}"#, None),
            (r#"{"message":"snapshot","id":-1}"#, None),
            (r#"{"message":"snapshots","id":1}"#, Some(1)),
            (r#"{"message":"snapshot","id":1,"more":2}"#, Some(1)),
            (r#"{"message":"execute","id":3,"operation":{"operation":"scans"}}"#, Some(3)),
            (r#"{"message":"report","report":"confirm","serial":1,"queue":"05.0004"}"#, None),
        ] {
            assert!(ToDaemon::parse(bad.as_bytes()).is_err(), "{bad}");
            assert_eq!(ToDaemon::id_of(bad.as_bytes()), id, "{bad}");
        }
    }

    #[test]
    fn lines_have_a_limit() {
        #[track_caller]
        fn check(text: &str, limit: usize, want: &[&str], too_long: bool) {
            let mut lines = LineReader::new(text.as_bytes(), limit);
            for want in want {
                assert_eq!(lines.line().unwrap(), Some(want.as_bytes()));
            }
            match lines.line() {
                Ok(None) => assert!(!too_long, "{text:?}"),
                Err(LineError::TooLong(_)) => assert!(too_long, "{text:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
        check("a\n\nbc\n", 2, &["a", "", "bc"], false);
        check("a\nbcd\n", 2, &["a"], true);
        check("bcd", 2, &[], true);
        check("bcd", 3, &[], false);
        let long = "x".repeat(100_000);
        check(&long, 99_999, &[], true);
        check(&format!("{long}\ny\n"), 100_000, &[&long, "y"], false);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (ToDaemon::parse(&bytes), ToDaemon::id_of(&bytes));
            let mut lines = LineReader::new(&bytes[..], 50);
            while let Ok(Some(line)) = lines.line() {
                prop_assert!(line.len() <= 50 && !line.contains(&b'\n'));
            }
        }

        /// Messages with one piece replaced by another message's: whatever is read says the same again.
        #[test]
        fn mixed_messages_are_read_or_refused(
            (one, other) in (0..14usize, 0..14usize),
            (from, to, at) in (0..2000usize, 0..2000usize, 0..2000usize),
        ) {
            let (mut bytes, donor) = (line(&messages()[one]), line(&messages()[other]));
            let (from, to) = (from % donor.len(), to % donor.len());
            let piece = &donor[from.min(to)..from.max(to)];
            let at = at % bytes.len();
            let end = (at + piece.len()).min(bytes.len());
            bytes.splice(at..end, piece.iter().copied());
            if let Ok(message) = ToDaemon::parse(&bytes) {
                prop_assert_eq!(ToDaemon::parse(&line(&message)).unwrap(), message);
            }
        }
    }
}
