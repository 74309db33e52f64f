//! One client's conversation: bytes in, bytes out, without any socket.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::commands::{After, Answer, Context, Shared, Wait};
use super::descriptors::Descriptors;
use super::error::{Class, Error};
use super::json::Stream;
use super::table::{self, Arguments};
use super::{COMPATIBLE, LONGEST_LINE, PACKAGE};
use crate::board::Board;

/// Most commands that wait behind one that takes time, for a client that enabled out-of-band ones.
pub const QUEUE: usize = 8;
/// Bytes that wait for a client to read, from which on none of its commands is begun.
pub const MOST_REPLIES: usize = LONGEST_LINE;
/// Bytes that wait for a client to read, from which on events for it are dropped.
pub const MOST_OUTPUT: usize = 4 * LONGEST_LINE;
/// Longest identifier of a command, as JSON, in bytes: an error has to fit on a line with it.
pub const LONGEST_ID: usize = LONGEST_LINE - 1024;

/// What commands may change of the client that gave them.
#[derive(Debug, Default)]
pub struct Client {
    /// Its descriptors.
    pub descriptors: Descriptors,
    /// Names of our own events that it asked for.
    pub subscriptions: BTreeSet<&'static str>,
    /// Negotiation is over.
    negotiated: bool,
    /// It enabled out-of-band commands.
    oob: bool,
    /// Events that it lost and was not told about yet.
    dropped: u64,
}

/// A conversation.
#[derive(Default)]
pub struct Session {
    stream: Stream,
    queue: VecDeque<Request>,
    waiting: Option<(Option<Value>, Wait)>,
    client: Client,
    output: VecDeque<u8>,
    /// Nothing more is taken or told.
    closed: bool,
}

/// A reply that is ready to be sent.
pub struct Reply {
    id: Option<Value>,
    result: Result<Value, Error>,
    after: After,
}

/// What a client sent.
struct Request {
    /// Where it ends in the stream.
    end: u64,
    id: Option<Value>,
    command: Result<Command, Error>,
    /// Its reply cannot have its identifier.
    hopeless: bool,
}

struct Command {
    name: String,
    arguments: Map<String, Value>,
    oob: bool,
}

impl Session {
    /// A new client's: the greeting is waiting for it.
    pub fn new() -> Self {
        let mut session = Self::default();
        session.send(&json!({"QMP": {"version": version(), "capabilities": ["oob"]}}));
        session
    }

    /// How many bytes of input there is room for.
    pub fn room(&self) -> usize {
        if self.closed { 0 } else { self.stream.room() }
    }

    /// Whether the connection is to be closed once the output is written.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes input; `descriptors` came with it.
    pub fn input(&mut self, bytes: &[u8], descriptors: Vec<OwnedFd>) {
        for descriptor in descriptors {
            self.client.descriptors.arrive(self.stream.fed(), descriptor);
        }
        self.stream.feed(bytes);
    }

    /// Begins what can be begun and ends what has come to its end: the next reply, which the caller gives to
    /// [`reply`](Self::reply) after the events that came of the command. `None` when there is nothing to do
    /// now.
    pub fn advance(&mut self, board: &Board, shared: &mut Shared) -> Option<Reply> {
        loop {
            if self.closed {
                return None;
            }
            if let Some((id, wait)) = &mut self.waiting
                && let Some(result) = wait(board)
            {
                let id = id.take();
                self.waiting = None;
                return Some(Reply { id, result, after: After::Nothing });
            }
            // Whoever does not read gets no further replies to keep.
            if self.output.len() > MOST_REPLIES {
                return None;
            }
            self.receive();
            let idle = self.waiting.is_none();
            let next = self.queue.iter().position(|request| {
                idle || self.client.oob && matches!(&request.command, Ok(Command { oob: true, .. }))
            });
            let Request { end, id, command, hopeless } = self.queue.remove(next?)?;
            let answer = command.and_then(|command| self.begin(board, shared, &command));
            self.client.descriptors.close_before(end);
            let (result, after) = match answer {
                Ok(Answer::Now(value)) => (Ok(value), After::Nothing),
                Ok(Answer::Then(value, after)) => (Ok(value), after),
                Err(error) if hopeless => (Err(error), After::Close),
                Err(error) => (Err(error), After::Nothing),
                Ok(Answer::Wait(wait)) => {
                    self.waiting = Some((id, wait));
                    continue;
                }
            };
            return Some(Reply { id, result, after });
        }
    }

    /// Sends a reply and does what is to be done after it.
    pub fn reply(&mut self, reply: Reply, board: &Board, shared: &mut Shared) {
        let Reply { id, result, after } = reply;
        shared.metrics.commands += 1;
        shared.metrics.errors += u64::from(result.is_err());
        let message = |result: &Result<Value, Error>| {
            let mut message = match result {
                Ok(value) => json!({"return": value}),
                Err(error) => json!({"error": error.to_value()}),
            };
            if let Some(id) = &id {
                message["id"] = id.clone();
            }
            message
        };
        if !self.send(&message(&result)) {
            let error = Error::generic(format_args!(
                "the answer has more than {LONGEST_LINE} bytes with its id; ask for less, or give a shorter id"
            ));
            let sent = self.send(&message(&Err(error)));
            debug_assert!(sent, "an identifier leaves room for that");
        }
        match after {
            After::Nothing => {}
            After::Negotiated { oob } => (self.client.negotiated, self.client.oob) = (true, oob),
            After::Do(action) => action(board),
            After::Close => {
                self.closed = true;
                self.queue.clear();
                self.waiting = None;
            }
        }
    }

    /// Takes requests out of the stream while there is room for them.
    fn receive(&mut self) {
        let most = if self.client.oob { QUEUE } else { 1 };
        while self.queue.len() < most {
            let Some(next) = self.stream.take() else { return };
            let (id, command, hopeless) = match next {
                Ok(Value::Object(request)) => parse(request),
                Ok(_) => (None, Err(Error::generic("a command is a JSON object, not an array")), false),
                Err(fault) => (None, Err(Error::generic(fault)), false),
            };
            self.queue.push_back(Request { end: self.stream.position(), id, command, hopeless });
        }
    }

    fn begin(&mut self, board: &Board, shared: &mut Shared, command: &Command) -> Result<Answer, Error> {
        let name = command.name.as_str();
        let negotiating = name == "qmp_capabilities";
        if !self.client.negotiated && !negotiating {
            return Err(Error::new(
                Class::CommandNotFound,
                format_args!("'{name}' before 'qmp_capabilities'; give that first"),
            ));
        }
        if self.client.negotiated && negotiating {
            return Err(Error::new(Class::CommandNotFound, "the capabilities are settled already"));
        }
        let row = table::row(name).ok_or_else(|| {
            Error::new(
                Class::CommandNotFound,
                format_args!("no command '{name}'; 'query-commands' lists them"),
            )
        })?;
        if command.oob && !(self.client.oob && row.oob) {
            let why = if self.client.oob {
                "this command takes its turn; give it by 'execute'"
            } else {
                "enable 'oob' by 'qmp_capabilities' first"
            };
            return Err(Error::generic(format_args!("'{name}' out of band: {why}")));
        }
        let arguments = Arguments::checked(row, &command.arguments)?;
        (row.run)(&mut Context { board, shared, client: &mut self.client }, &arguments)
    }

    /// Tells an event, unless the client is not to know or does not read. `lost` events came before it
    /// that nobody was told.
    pub fn event(&mut self, at: SystemTime, name: &str, data: Option<&Value>, shared: &mut Shared) {
        let asked_for = table::event(name).is_some_and(|row| row.asked_for);
        if self.closed || !self.client.negotiated || asked_for && !self.client.subscriptions.contains(name) {
            return;
        }
        if self.output.len() > MOST_OUTPUT {
            self.lost(1, shared);
            return;
        }
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = json!({"seconds": since.as_secs(), "microseconds": since.subsec_micros()});
        let mut event = json!({"event": name, "timestamp": timestamp});
        if let Some(data) = data {
            event["data"] = data.clone();
        }
        // A member that a client does not know is one that it has to ignore; an event need not be.
        if self.client.dropped > 0 {
            event["x-dropped"] = self.client.dropped.into();
        }
        if self.send(&event) {
            self.client.dropped = 0;
            shared.metrics.events += 1;
        } else {
            // Clients could not read so long a line.
            self.lost(1, shared);
        }
    }

    /// Events were lost.
    pub fn lost(&mut self, count: u64, shared: &mut Shared) {
        if self.client.negotiated {
            self.client.dropped += count;
            shared.metrics.events_dropped += count;
        }
    }

    /// Puts `value` on a line; false when it is too long.
    fn send(&mut self, value: &Value) -> bool {
        let line = format!("{value}\r\n");
        if line.len() > LONGEST_LINE {
            return false;
        }
        self.output.extend(line.as_bytes());
        true
    }

    /// Whether it asked for the events of this name.
    pub fn subscribed(&self, event: &str) -> bool {
        self.client.subscriptions.contains(event)
    }

    /// Whether nothing that it sent is left to be answered now.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_none() && self.queue.is_empty()
    }

    /// What waits to be written, or its beginning.
    pub fn output(&self) -> &[u8] {
        self.output.as_slices().0
    }

    /// So many bytes were written.
    pub fn written(&mut self, count: usize) {
        self.output.drain(..count);
        if self.output.is_empty() {
            self.output = VecDeque::new();
        }
    }
}

/// The version as the greeting and `query-version` tell it.
pub fn version() -> Value {
    let (major, minor, micro) = COMPATIBLE;
    json!({"qemu": {"major": major, "minor": minor, "micro": micro}, "package": PACKAGE})
}

/// The identifier and the command of a request, and whether its reply cannot have the identifier: whoever waits for that would
/// wait for ever, so that the connection ends.
fn parse(mut request: Map<String, Value>) -> (Option<Value>, Result<Command, Error>, bool) {
    let id = request.remove("id");
    if id.as_ref().is_some_and(|id| id.to_string().len() > LONGEST_ID) {
        let error = Error::generic(format_args!(
            "id: more than {LONGEST_ID} bytes, which no reply has room for; the connection ends here, connect again and give a \
             shorter one"
        ));
        return (None, Err(error), true);
    }
    (id, command(request), false)
}

fn command(mut request: Map<String, Value>) -> Result<Command, Error> {
    let (execute, oob) = match (request.remove("execute"), request.remove("exec-oob")) {
        (Some(name), None) => (name, false),
        (None, Some(name)) => (name, true),
        (None, None) => return Err(Error::generic("a command needs the member 'execute' with its name")),
        (Some(_), Some(_)) => return Err(Error::generic("give 'execute' or 'exec-oob', not both")),
    };
    let Value::String(name) = execute else {
        return Err(Error::generic("execute: the command's name as a string is needed here"));
    };
    let arguments = match request.remove("arguments") {
        None => Map::new(),
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return Err(Error::generic("arguments: an object is needed here")),
    };
    match request.keys().next() {
        Some(unknown) => Err(Error::generic(format_args!(
            "{unknown}: unknown beside a command; known are execute, exec-oob, arguments and id"
        ))),
        None => Ok(Command { name, arguments, oob }),
    }
}
