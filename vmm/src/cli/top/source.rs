//! Where the state comes from: an AP host, or the management socket of a guest.

use std::path::{Path, PathBuf};

use ap::host::{Event, EventKind, HostError, MatrixChange, Operation, Plan, Snapshot};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cli::ap::backend::{self, Backend, Place};
use crate::cli::ap::guest::{GuestHost, PATIENCE, named_in_full};
use crate::cli::ap::one_line;
use crate::cli::client::{Client, Message};

/// What is looked at and operated.
pub trait Source {
    /// The state.
    fn state(&mut self) -> Result<Snapshot, String>;

    /// What an operation would do.
    fn plan(&mut self, operation: &Operation) -> Result<Plan, String>;

    /// Carries an operation out. The inner error is a refusal.
    fn execute(&mut self, operation: &Operation) -> Result<Result<(), String>, String>;
}

/// Where it is: `unix:PATH` of a daemon, or the path of a guest's socket.
#[derive(Clone, Debug)]
pub enum Address {
    Daemon(String),
    Guest(PathBuf),
}

impl Address {
    pub fn of(text: &str) -> Self {
        if text.starts_with("unix:") { Self::Daemon(text.into()) } else { Self::Guest(text.into()) }
    }

    /// The same for `adjunct ap`.
    pub fn place(&self) -> Place {
        let (host, guest) = match self {
            Self::Daemon(address) => (Some(address.clone()), None),
            Self::Guest(path) => (None, Some(format!("unix:{}", path.display()))),
        };
        Place { host, guest, description: None, sysfs: Place::SYSFS.into() }
    }

    pub fn open(&self) -> Result<Box<dyn Source>, String> {
        Ok(match self {
            Self::Daemon(_) => Box::new(Host(self.host()?)),
            Self::Guest(path) => Box::new(Guest(guest(path)?)),
        })
    }

    fn host(&self) -> Result<Box<dyn Backend>, String> {
        backend::open(&self.place()).map_err(|e| one_line(&e))
    }

    /// Calls `each` for every event until it answers false.
    pub fn watch(&self, each: &mut dyn FnMut(EventKind) -> bool) -> Result<(), String> {
        match self {
            Self::Daemon(_) => {
                let mut host = self.host()?;
                host.watch(&mut |event| each(event.kind.clone())).map_err(|e| one_line(&e))
            }
            Self::Guest(path) => watch_guest(path, each),
        }
    }
}

/// A whole AP host.
struct Host(Box<dyn Backend>);

impl Source for Host {
    fn state(&mut self) -> Result<Snapshot, String> {
        self.0.snapshot().map_err(|e| one_line(&e))
    }

    fn plan(&mut self, operation: &Operation) -> Result<Plan, String> {
        Ok(self.0.snapshot().map_err(|e| one_line(&e))?.plan(operation))
    }

    fn execute(&mut self, operation: &Operation) -> Result<Result<(), String>, String> {
        carried_out(self.0.execute(operation))
    }
}

/// The inner error is a refusal by the host's rules, the outer one the way there.
fn carried_out(result: Result<(), HostError>) -> Result<Result<(), String>, String> {
    match result {
        Err(e @ HostError::Remote { .. }) if matches!(e.errno(), "EPIPE" | "EPROTO") => Err(one_line(&e)),
        other => Ok(other.map_err(|e| one_line(&e))),
    }
}

fn guest(path: &Path) -> Result<GuestHost, String> {
    GuestHost::at(path).map_err(|e| {
        let hint =
            if e.kind() == std::io::ErrorKind::TimedOut { "; a daemon is named unix:PATH" } else { "" };
        format!("{}: {e}{hint}", path.display())
    })
}

/// The host of a running guest.
struct Guest(GuestHost);

impl Source for Guest {
    fn state(&mut self) -> Result<Snapshot, String> {
        self.0.snapshot().map_err(|e| one_line(&e))
    }

    fn plan(&mut self, operation: &Operation) -> Result<Plan, String> {
        self.0.plan(operation).map_err(|e| one_line(&e))
    }

    fn execute(&mut self, operation: &Operation) -> Result<Result<(), String>, String> {
        carried_out(self.0.execute(operation))
    }
}

fn watch_guest(path: &Path, each: &mut dyn FnMut(EventKind) -> bool) -> Result<(), String> {
    let mut client = Client::connect(path, PATIENCE).map_err(|e| e.to_string())?;
    let events = Map::from_iter([("events".to_owned(), json!(["X_AP_CONFIG_CHANGED", "X_AP_HOST"]))]);
    client.execute("x-subscribe", &events, drop).map_err(|e| e.to_string())?.0?;
    loop {
        let Message::Event(event) = client.receive(None).map_err(|e| e.to_string())? else { continue };
        if event_kind(&event).is_some_and(|kind| !each(kind)) {
            return Ok(());
        }
    }
}

/// What an event of the management socket tells; `None` when nothing of interest.
pub fn event_kind(event: &Value) -> Option<EventKind> {
    let data = &event["data"];
    match event["event"].as_str()? {
        "X_AP_CONFIG_CHANGED" => {
            let mdev = data["mdev"].as_str()?.parse().ok()?;
            let change = MatrixChange::deserialize(named_in_full(data).ok()?).ok()?;
            Some(EventKind::GuestMatrix { mdev, change })
        }
        "X_AP_HOST" => {
            let kind = Event::deserialize(named_in_full(&data["event"]).ok()?).ok()?.kind;
            // What the guest has since, the other event tells.
            let told = matches!(kind, EventKind::GuestMatrix { .. }) && data["guest"] == true;
            (!told).then_some(kind)
        }
        _ => None,
    }
}
