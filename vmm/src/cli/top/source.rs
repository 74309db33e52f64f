//! Where the state comes from: an AP host, or the management socket of a guest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ap::host::{
    AdapterIdentity, AdapterState, Condition, Driver, Event, EventKind, HostError, MdevState, Number,
    Operation, Plan, QueueState, QueueStatus, Snapshot,
};
use crycb::{Apqn, Mask256, Matrix};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::cli::ap::backend::{self, Backend, Place};
use crate::cli::ap::one_line;
use crate::cli::client::{Client, Message};

/// How long a guest may take for its greeting.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is looked at and operated.
pub trait Source {
    /// The state, and how many queues were left out of it.
    fn state(&mut self) -> Result<(Snapshot, u64), String>;

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

    pub fn open(&self) -> Result<Box<dyn Source>, String> {
        Ok(match self {
            Self::Daemon(address) => Box::new(Host(host(address)?)),
            Self::Guest(path) => Box::new(Guest(guest(path)?)),
        })
    }

    /// Calls `each` for every event until it answers false.
    pub fn watch(&self, each: &mut dyn FnMut(EventKind) -> bool) -> Result<(), String> {
        match self {
            Self::Daemon(address) => {
                let mut host = host(address)?;
                host.watch(&mut |event| each(event.kind.clone())).map_err(|e| one_line(&e))
            }
            Self::Guest(path) => watch_guest(path, each),
        }
    }
}

fn host(address: &str) -> Result<Box<dyn Backend>, String> {
    let place = Place { host: Some(address.into()), guest: None, description: None, sysfs: PathBuf::new() };
    backend::open(place).map_err(|e| one_line(&e))
}

/// A whole AP host.
struct Host(Box<dyn Backend>);

impl Source for Host {
    fn state(&mut self) -> Result<(Snapshot, u64), String> {
        self.0.snapshot().map(|snapshot| (snapshot, 0)).map_err(|e| one_line(&e))
    }

    fn plan(&mut self, operation: &Operation) -> Result<Plan, String> {
        Ok(self.0.snapshot().map_err(|e| one_line(&e))?.plan(operation))
    }

    fn execute(&mut self, operation: &Operation) -> Result<Result<(), String>, String> {
        match self.0.execute(operation) {
            // Not the host's rules, but the way there.
            Err(e @ HostError::Remote { .. }) if matches!(e.errno(), "EPIPE" | "EPROTO") => Err(one_line(&e)),
            other => Ok(other.map_err(|e| one_line(&e))),
        }
    }
}

fn guest(path: &Path) -> Result<Client, String> {
    Client::connect(path, PATIENCE).map_err(|e| {
        let hint =
            if e.kind() == std::io::ErrorKind::TimedOut { "; a daemon is named unix:PATH" } else { "" };
        format!("{}: {e}{hint}", path.display())
    })
}

/// A running guest.
struct Guest(Client);

impl Guest {
    /// The inner error is the guest's refusal.
    fn ask(&mut self, name: &str, arguments: &Map<String, Value>) -> Result<Result<Value, String>, String> {
        self.0.execute(name, arguments, drop).map(|(result, _)| result).map_err(|e| e.to_string())
    }
}

impl Source for Guest {
    fn state(&mut self) -> Result<(Snapshot, u64), String> {
        let all = Map::from_iter([("all".to_owned(), true.into())]);
        let answer = self.ask("x-query-ap", &all)??;
        snapshot(&answer)
    }

    fn plan(&mut self, operation: &Operation) -> Result<Plan, String> {
        let answer =
            self.ask("x-ap-plan", &Map::from_iter([("operation".to_owned(), json!(operation))]))??;
        serde_json::from_value(answer).map_err(|e| format!("x-ap-plan: {e}"))
    }

    fn execute(&mut self, operation: &Operation) -> Result<Result<(), String>, String> {
        let (name, arguments) = command(operation)?;
        Ok(self.ask(&name, &arguments)?.map(drop))
    }
}

/// The state that an answer to `x-query-ap` tells, and how many queues it leaves out.
pub fn snapshot(answer: &Value) -> Result<(Snapshot, u64), String> {
    Told::deserialize(answer).map_err(|e| format!("x-query-ap: {e}")).and_then(Told::snapshot)
}

/// The command of the management socket that carries an operation out.
pub fn command(operation: &Operation) -> Result<(String, Map<String, Value>), String> {
    if let Operation::Write { mdev, attribute } = operation {
        let (name, text) = attribute.parts();
        let number = if name.ends_with("adapter") { "adapter" } else { "domain" };
        let arguments = [("mdev".to_owned(), json!(mdev)), (number.to_owned(), text.into())];
        return Ok((format!("x-ap-{}", name.replace('_', "-")), Map::from_iter(arguments)));
    }
    let Ok(Value::Object(mut arguments)) = serde_json::to_value(operation) else {
        return Err(format!("{operation:?} is no command"));
    };
    let name = match arguments.remove("operation").as_ref().and_then(Value::as_str) {
        Some("reset-device") => "reset-mdev".to_owned(),
        Some("import") => "import-mdev".to_owned(),
        Some(name) => name.to_owned(),
        None => return Err(format!("{operation:?} is no command")),
    };
    Ok((format!("x-ap-{name}"), arguments))
}

fn watch_guest(path: &Path, each: &mut dyn FnMut(EventKind) -> bool) -> Result<(), String> {
    let mut client = guest(path)?;
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
            let queues = |name: &str| {
                let list = data[name].as_array()?;
                Some(list.iter().filter_map(|queue| queue.as_str()?.parse().ok()).collect())
            };
            Some(EventKind::GuestMatrix {
                mdev: data["mdev"].as_str()?.parse().ok()?,
                plugged: queues("plugged")?,
                unplugged: queues("unplugged")?,
            })
        }
        "X_AP_HOST" => Some(Event::deserialize(&data["event"]).ok()?.kind),
        _ => None,
    }
}

/// The answer to `x-query-ap`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Told {
    present: bool,
    apmask: Option<String>,
    aqmask: Option<String>,
    configuration: Option<Masks>,
    #[serde(default)]
    mdevs: Vec<ToldMdev>,
    #[serde(default)]
    queues: Vec<ToldQueue>,
    #[serde(default)]
    queues_left_out: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ToldMdev {
    mdev: Uuid,
    attached: bool,
    matrix: Masks,
    guest_matrix: Masks,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Masks {
    adapters: Vec<String>,
    domains: Vec<String>,
    control_domains: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ToldQueue {
    queue: String,
    #[serde(rename = "type")]
    type_name: Option<String>,
    driver: Option<Driver>,
    config: Option<bool>,
    chkstop: Option<bool>,
    depth: Option<u64>,
    #[serde(default)]
    last_reset: u8,
    requests: Option<u64>,
    pending: Option<u64>,
    answered: Option<u64>,
    answer_time: Option<u64>,
}

impl Masks {
    fn matrix(&self) -> Result<Matrix, String> {
        let mask = |numbers: &[String]| -> Result<Mask256, String> {
            let number = |text: &String| {
                let number = u16::from_str_radix(text, 16).ok().and_then(|n| u8::try_from(n).ok());
                number.ok_or_else(|| format!("x-query-ap: {text:?} is no number"))
            };
            numbers.iter().map(number).collect()
        };
        Ok(Matrix {
            apm: mask(&self.adapters)?,
            aqm: mask(&self.domains)?,
            adm: mask(&self.control_domains)?,
        })
    }
}

impl Told {
    /// The state of the host, as far as the guest tells.
    fn snapshot(self) -> Result<(Snapshot, u64), String> {
        if !self.present {
            return Err("this guest has no AP instructions; start it with --ap or --ap-mdev".into());
        }
        let mask = |text: Option<String>| {
            text.unwrap_or_default().parse::<Mask256>().map_err(|e| format!("x-query-ap: mask: {e}"))
        };
        let mdev = |told: &ToldMdev| {
            Ok(MdevState {
                uuid: told.mdev,
                matrix: told.matrix.matrix()?,
                guest_matrix: told.guest_matrix.matrix()?,
                attached: told.attached,
            })
        };
        let mdevs = self.mdevs.iter().map(mdev).collect::<Result<Vec<_>, String>>()?;
        let (mut adapters, mut queues) = (BTreeMap::new(), BTreeMap::new());
        for told in &self.queues {
            let apqn: Apqn = told.queue.parse().map_err(|_| format!("x-query-ap: queue {:?}", told.queue))?;
            // What is only assigned, and is no queue, has no such state.
            let Some(config) = told.config else { continue };
            let chkstop = told.chkstop.unwrap_or(false);
            let holder = mdevs.iter().find(|mdev| mdev.matrix.test(apqn));
            let in_use = holder.is_some_and(|mdev| mdev.attached && mdev.guest_matrix.test(apqn));
            let status = match told.driver {
                Some(Driver::VfioAp) if in_use => Some(QueueStatus::InUse),
                Some(Driver::VfioAp) if holder.is_some() => Some(QueueStatus::Assigned),
                Some(Driver::VfioAp) => Some(QueueStatus::Unassigned),
                _ => None,
            };
            let queue = QueueState {
                queue: apqn,
                driver: told.driver,
                driver_override: None,
                config,
                chkstop,
                last_reset: told.last_reset,
                status,
                requests: told.requests,
                pending: told.pending,
                answered: told.answered,
                answer_time: told.answer_time,
                // Of TAPQ's facts only the depth is told; the type has its own member. Bit 0 keeps it from being nothing.
                hardware: told.depth.map_or(0, |depth| 1 << 63 | depth.saturating_sub(1) & 0xf),
            };
            queues.insert(apqn, queue);
            let condition = match (chkstop, config) {
                (true, _) => Condition::Checkstop,
                (false, true) => Condition::Online,
                (false, false) => Condition::Offline,
            };
            let type_name = told.type_name.clone().unwrap_or_default();
            let seen = AdapterIdentity::Seen { adapter: Number(apqn.apid().0), type_name };
            adapters.insert(apqn.apid(), AdapterState { installed: seen, condition });
        }
        let configuration = self.configuration.unwrap_or_default().matrix()?;
        let snapshot = Snapshot {
            apxa: true,
            max_adapter: Number(255),
            max_domain: Number(255),
            adapters: adapters.into_values().collect(),
            configuration,
            apmask: mask(self.apmask)?,
            aqmask: mask(self.aqmask)?,
            queues: queues.into_values().collect(),
            mdevs,
        };
        Ok((snapshot, self.queues_left_out))
    }
}
