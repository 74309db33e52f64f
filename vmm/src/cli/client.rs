//! A client of a management socket, ours or QEMU's.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

/// What came from the server.
#[derive(Debug)]
pub enum Message {
    /// The reply to a command: the value or the error's description, and the whole of it.
    Reply(Result<Value, String>, Value),
    /// An event.
    Event(Value),
}

/// A connection on which negotiation is over.
pub struct Client {
    lines: BufReader<UnixStream>,
    /// The beginning of a line that the time was over for.
    partial: Vec<u8>,
    sent: u64,
}

impl Client {
    /// Connects and negotiates.
    pub fn connect(path: &Path, patience: Duration) -> io::Result<Self> {
        let mut client =
            Self { lines: BufReader::new(UnixStream::connect(path)?), partial: Vec::new(), sent: 0 };
        let deadline = Instant::now() + patience;
        let greeting = client.line(Some(deadline))?;
        if greeting.get("QMP").is_none() {
            let text = greeting["error"]["desc"].as_str().unwrap_or("no QMP server").to_owned();
            return Err(io::Error::other(text));
        }
        client.send("qmp_capabilities", &Map::new())?;
        loop {
            match client.receive(Some(deadline))? {
                Message::Reply(Ok(_), _) => return Ok(client),
                Message::Reply(Err(text), _) => return Err(io::Error::other(text)),
                Message::Event(_) => {}
            }
        }
    }

    /// Another handle to send by.
    pub fn sender(&self) -> io::Result<UnixStream> {
        self.lines.get_ref().try_clone()
    }

    /// Sends a command.
    pub fn send(&mut self, name: &str, arguments: &Map<String, Value>) -> io::Result<()> {
        self.sent += 1;
        let line = command(name, arguments, self.sent);
        self.lines.get_ref().write_all(line.as_bytes())
    }

    /// Executes a command; `event` gets the events that come before its reply.
    pub fn execute(
        &mut self,
        name: &str,
        arguments: &Map<String, Value>,
        mut event: impl FnMut(Value),
    ) -> io::Result<(Result<Value, String>, Value)> {
        self.send(name, arguments)?;
        loop {
            match self.receive(None)? {
                Message::Reply(result, whole) => return Ok((result, whole)),
                Message::Event(value) => event(value),
            }
        }
    }

    /// The next message; the kind `TimedOut` when `deadline` has passed.
    pub fn receive(&mut self, deadline: Option<Instant>) -> io::Result<Message> {
        let value = self.line(deadline)?;
        if value.get("event").is_some() {
            return Ok(Message::Event(value));
        }
        let result = match (value.get("return"), value["error"]["desc"].as_str()) {
            (Some(result), _) => Ok(result.clone()),
            (None, Some(description)) => Err(description.to_owned()),
            (None, None) => return Err(io::Error::other(format!("neither reply nor event: {value}"))),
        };
        Ok(Message::Reply(result, value))
    }

    fn line(&mut self, deadline: Option<Instant>) -> io::Result<Value> {
        loop {
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                self.lines.get_ref().set_read_timeout(Some(left))?;
            } else {
                self.lines.get_ref().set_read_timeout(None)?;
            }
            match self.lines.read_until(b'\n', &mut self.partial) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the guest has ended")),
                Ok(_) if self.partial.ends_with(b"\n") => {
                    let line = std::mem::take(&mut self.partial);
                    return serde_json::from_slice(&line).map_err(io::Error::other);
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// A command as it is sent.
pub fn command(name: &str, arguments: &Map<String, Value>, id: u64) -> String {
    format!("{}\n", json!({"execute": name, "arguments": arguments, "id": id}))
}
