//! The AP host of a running guest, through the management socket that the guest has anyway.

use std::path::PathBuf;
use std::time::Duration;

use ap::host::{Event, EventKind, HostError, Operation, Snapshot};
use serde_json::{Map, Value, json};

use super::backend::{Backend, remote};
use crate::cli::client::{Client, Message};

/// How long a guest's socket may take to answer the first words.
const PATIENCE: Duration = Duration::from_secs(10);

/// A guest's management socket.
pub struct GuestHost {
    path: PathBuf,
    client: Client,
}

impl GuestHost {
    /// Connects to `address`, `unix:PATH`.
    pub fn connect(address: &str) -> Result<Self, HostError> {
        let path = address.strip_prefix("unix:").ok_or_else(|| {
            let wanted = "not unix:PATH, the socket of a guest's --qmp";
            remote("EINVAL", format!("--guest {address}: {wanted}"))
        })?;
        let path = PathBuf::from(path);
        let client = Client::connect(&path, PATIENCE).map_err(|e| {
            remote("ECONNREFUSED", format!("--guest {}: {e}; a guest's --qmp is wanted", path.display()))
        })?;
        Ok(Self { path, client })
    }

    fn command(&mut self, name: &str, arguments: &Map<String, Value>) -> Result<Value, HostError> {
        let (result, _) = self.client.execute(name, arguments, |_| {}).map_err(|e| self.lost(&e))?;
        result.map_err(refusal)
    }

    fn lost(&self, error: &std::io::Error) -> HostError {
        remote("EPIPE", format!("{}: {error}", self.path.display()))
    }

    fn nonsense(&self, what: impl std::fmt::Display) -> HostError {
        remote("EPROTO", format!("{}: an answer that is none of ours: {what}", self.path.display()))
    }
}

/// What the guest's host refused; the error's number is at the end of the text.
fn refusal(description: String) -> HostError {
    let number = description.rsplit_once(" (").and_then(|(text, rest)| {
        let number =
            rest.strip_suffix(')').filter(|n| n.starts_with('E') && n.chars().all(char::is_alphanumeric))?;
        Some((text, number))
    });
    match number {
        Some((text, number)) => remote(number, text.to_owned()),
        None => remote("EINVAL", description),
    }
}

/// The command that means an operation, and its arguments.
fn command(operation: &Operation) -> Result<(String, Map<String, Value>), HostError> {
    let mut arguments = match serde_json::to_value(operation).map_err(HostError::Json)? {
        Value::Object(arguments) => arguments,
        other => unreachable!("operations are objects, not {other}"),
    };
    arguments.remove("operation");
    let name = match operation {
        Operation::Write { attribute, .. } => {
            let (name, text) = attribute.parts();
            arguments.remove("attribute");
            let (name, argument) = match name.split_once('_') {
                Some((verb @ ("assign" | "unassign"), kind)) => (
                    format!("x-ap-{verb}-{}", kind.replace('_', "-")),
                    kind.rsplit('_').next().unwrap_or(kind),
                ),
                _ => ("x-ap-config".to_owned(), "masks"),
            };
            arguments.insert(argument.into(), text.into());
            return Ok((name, arguments));
        }
        Operation::CreateMdev { .. } => "create-mdev",
        Operation::RemoveMdev { .. } => "remove-mdev",
        Operation::Import { .. } => "import-mdev",
        Operation::ResetDevice { .. } => "reset-mdev",
        Operation::WriteMask { .. } => "write-mask",
        Operation::DriverOverride { .. } => "driver-override",
        Operation::Bind { .. } => "bind",
        Operation::Unbind { .. } => "unbind",
        Operation::Configure { .. } => "configure",
        Operation::Scan => "scan",
    };
    Ok((format!("x-ap-{name}"), arguments))
}

impl Backend for GuestHost {
    fn snapshot(&mut self) -> Result<Snapshot, HostError> {
        let mut whole: Option<Snapshot> = None;
        let mut arguments = Map::new();
        loop {
            let mut page = self.command("x-query-ap-host", &arguments)?;
            let part =
                serde_json::from_value::<Snapshot>(page["host"].take()).map_err(|e| self.nonsense(e))?;
            let whole = match &mut whole {
                None => whole.insert(part),
                Some(whole) => {
                    whole.adapters.extend(part.adapters);
                    whole.mdevs.extend(part.mdevs);
                    whole.queues.extend(part.queues);
                    whole
                }
            };
            match page.get("next") {
                Some(next) => arguments.insert("from".into(), next.clone()),
                None => return Ok(whole.clone()),
            };
        }
    }

    fn execute(&mut self, operation: &Operation) -> Result<(), HostError> {
        let (name, arguments) = command(operation)?;
        self.command(&name, &arguments).map(drop)
    }

    fn watch(&mut self, each: &mut dyn FnMut(&Event) -> bool) -> Result<(), HostError> {
        let events = json!(["X_AP_HOST", "X_AP_CONFIG_CHANGED"]);
        self.command("x-subscribe", &Map::from_iter([("events".to_owned(), events)]))?;
        loop {
            let event = match self.client.receive(None) {
                Ok(Message::Event(event)) => event,
                Ok(Message::Reply(..)) => continue,
                Err(e) => return Err(self.lost(&e)),
            };
            if event.get("x-dropped").is_some() && !each(&Event { number: 0, kind: EventKind::Lost }) {
                return Ok(());
            }
            let data = &event["data"];
            let event = match event["event"].as_str() {
                Some("X_AP_HOST") => data["event"].clone(),
                // Without a number it is what plugging did, which the host tells by itself.
                Some("X_AP_CONFIG_CHANGED") if data["number"].is_u64() => json!({
                    "number": data["number"], "event": "guest-matrix", "mdev": data["mdev"],
                    "plugged": data["plugged"], "unplugged": data["unplugged"],
                }),
                _ => continue,
            };
            let event = serde_json::from_value::<Event>(event).map_err(|e| self.nonsense(e))?;
            let number = event.number;
            if !each(&event) {
                return Ok(());
            }
            // So many queues that the guest's event names only some of them.
            let short = |list: &str, count: &str| {
                data[list].as_array().is_some_and(|list| Some(list.len() as u64) < data[count].as_u64())
            };
            if (short("plugged", "plugged-count") || short("unplugged", "unplugged-count"))
                && !each(&Event { number, kind: EventKind::Lost })
            {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_their_numbers() {
        let check = |text: &str, number: &str, rest: &str| {
            let error = refusal(text.into());
            assert_eq!((error.errno(), error.to_string().as_str()), (number, rest));
        };
        check("assigned to mdev 1 (EADDRINUSE)", "EADDRINUSE", "assigned to mdev 1");
        check("a queue (or two) is gone (ENODEV)", "ENODEV", "a queue (or two) is gone");
        check("adapter: missing", "EINVAL", "adapter: missing");
        check("odd (Eh?)", "EINVAL", "odd (Eh?)");
    }
}
