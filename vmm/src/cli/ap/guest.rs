//! The AP host of a running guest, through the management socket that the guest has anyway.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ap::host::{AdapterState, Event, EventKind, HostError, MatrixChange, Operation, Plan, Snapshot};
use crycb::{Apqn, Mask256};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::backend::{Backend, remote};
use crate::cli::client::{Client, Message};

/// How long a guest's socket may take to answer the first words.
pub const PATIENCE: Duration = Duration::from_secs(10);

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
        Self::at(Path::new(path))
            .map_err(|e| remote("ECONNREFUSED", format!("--guest {path}: {e}; a guest's --qmp is wanted")))
    }

    /// Connects to the socket at `path`.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { client: Client::connect(path, PATIENCE)?, path: path.to_owned() })
    }

    /// What an operation would do.
    pub fn plan(&mut self, operation: &Operation) -> Result<Plan, HostError> {
        let arguments = Map::from_iter([("operation".to_owned(), json!(operation))]);
        let answer = self.command("x-ap-plan", &arguments)?;
        serde_json::from_value(answer).map_err(|e| self.nonsense(e))
    }

    fn command(&mut self, name: &str, arguments: &Map<String, Value>) -> Result<Value, HostError> {
        let (result, _) = self.client.execute(name, arguments, |_| {}).map_err(|e| self.lost(&e))?;
        result.map_err(refusal)
    }

    fn lost(&self, error: &io::Error) -> HostError {
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

/// What a guest's event tells, with the name of each queue that came or went: a guest tells so many that they would be too long
/// for a line as adapters by domains.
pub fn named_in_full(told: &Value) -> Result<Value, String> {
    let mut told = told.clone();
    for name in ["plugged", "unplugged"] {
        let Some(products) = told.get(format!("{name}-products")) else { continue };
        let products: Vec<Product> =
            serde_json::from_value(products.clone()).map_err(|e| format!("{name}-products: {e}"))?;
        let products: Result<Vec<_>, String> =
            products.iter().map(|product| Ok((mask(&product.adapters)?, mask(&product.domains)?))).collect();
        let queues = MatrixChange::queues(&products?);
        if Some(queues.len() as u64) != told[format!("{name}-count")].as_u64() {
            return Err(format!("{name}: the count is not that of the queues"));
        }
        told[name] = queues.iter().map(Apqn::to_string).collect();
    }
    Ok(told)
}

/// Every adapter by every domain.
#[derive(Deserialize)]
struct Product {
    adapters: Vec<String>,
    domains: Vec<String>,
}

fn mask(numbers: &[String]) -> Result<Mask256, String> {
    let number = |text: &String| {
        let number = u16::from_str_radix(text, 16).ok().and_then(|n| u8::try_from(n).ok());
        number.ok_or_else(|| format!("{text:?} is no number"))
    };
    numbers.iter().map(number).collect()
}

impl Backend for GuestHost {
    fn snapshot(&mut self) -> Result<Snapshot, HostError> {
        let mut whole: Option<Snapshot> = None;
        let (mut arguments, mut from) = (Map::new(), 0);
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
            let Some(next) = page.get("next") else {
                // What changed from page to page may have moved something from one to another.
                whole.adapters.sort_by_key(AdapterState::apid);
                whole.adapters.dedup_by_key(|adapter| adapter.apid());
                let mut seen = BTreeSet::new();
                whole.mdevs.retain(|mdev| seen.insert(mdev.uuid));
                whole.queues.sort_by_key(|state| state.queue);
                whole.queues.dedup_by_key(|state| state.queue);
                return Ok(whole.clone());
            };
            from = next
                .as_u64()
                .filter(|next| *next > from)
                .ok_or_else(|| self.nonsense("'next' is no more"))?;
            arguments.insert("from".into(), from.into());
        }
    }

    fn execute(&mut self, operation: &Operation) -> Result<(), HostError> {
        let (name, arguments) = command(operation)?;
        self.command(&name, &arguments).map(drop)
    }

    fn own_mdev(&mut self) -> Result<Option<Uuid>, HostError> {
        let told = self.command("x-query-ap", &Map::new())?;
        let Some(mdev) = told["device"].get("mdev") else { return Ok(None) };
        serde_json::from_value(mdev.clone()).map(Some).map_err(|e| self.nonsense(e))
    }

    fn watch(&mut self, each: &mut dyn FnMut(&Event) -> bool) -> Result<(), HostError> {
        let events = json!(["X_AP_HOST"]);
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
            if event["event"] != "X_AP_HOST" {
                continue;
            }
            let told = named_in_full(&event["data"]["event"]).map_err(|e| self.nonsense(e))?;
            let event = serde_json::from_value::<Event>(told).map_err(|e| self.nonsense(e))?;
            if !each(&event) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ap::host::Event as HostEvent;
    use ap::host::{Attribute, Driver};
    use crycb::Matrix;
    use uuid::Uuid;

    const ONE: Uuid = Uuid::from_u128(0x62177883_f1bb_47f0_914d_32a22e3a8804);

    /// A change of any size arrives whole, in a line of QMP.
    #[test]
    fn changes_of_any_size() {
        let check = |before: Matrix, after: Matrix| {
            let change = MatrixChange::between(&before, &after).unwrap();
            let kind = EventKind::GuestMatrix { mdev: ONE, change: change.clone() };
            let event = HostEvent { number: 7, kind };
            let (_, data) = vmm::Event::ApHost { event: Box::new(event.clone()), guest: true }.describe();
            let data = data.unwrap();
            assert!(data.to_string().len() < 60_000, "{}", data.to_string().len());
            let told = named_in_full(&data["event"]).unwrap();
            assert_eq!(serde_json::from_value::<HostEvent>(told).unwrap(), event);
            let (_, data) = vmm::Event::ApConfigChanged { mdev: ONE, change: change.clone() }.describe();
            let told = named_in_full(&data.unwrap()).unwrap();
            assert_eq!(serde_json::from_value::<MatrixChange>(told).unwrap(), change);
        };
        let all: Mask256 = (0..=255).collect();
        let odd: Mask256 = (0..=255).filter(|n| n % 2 == 1).collect();
        let one = Mask256::EMPTY.with(5);
        for mask in [one, odd, all] {
            let matrix = Matrix { apm: mask, aqm: mask, adm: mask };
            check(Matrix::EMPTY, matrix);
            check(matrix, Matrix::EMPTY);
        }
        let matrix = |apm, aqm| Matrix { apm, aqm, adm: odd };
        check(matrix(all, odd), matrix(odd, all));
        let bad = json!({"plugged": [], "plugged-count": 2, "plugged-products": [{"adapters": ["05"], "domains": ["0004"]}]});
        assert!(named_in_full(&bad).unwrap_err().contains("count"));
        let bad = json!({"plugged": [], "plugged-count": 1, "plugged-products": [{"adapters": ["105"], "domains": ["0004"]}]});
        assert!(named_in_full(&bad).unwrap_err().contains("105"));
    }

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

    /// Each operation is the command of the socket that does it.
    #[test]
    fn commands_to_a_guest() {
        let write = |attribute| Operation::Write { mdev: ONE, attribute };
        for (operation, want) in [
            (write(Attribute::AssignAdapter("0xa".into())), json!({"mdev": ONE, "adapter": "0xa"})),
            (write(Attribute::UnassignControlDomain("4".into())), json!({"mdev": ONE, "domain": "4"})),
            (
                Operation::Bind { queue: Apqn(0x0504), driver: Driver::VfioAp },
                json!({"queue": "05.0004", "driver": "vfio_ap"}),
            ),
            (Operation::Unbind { queue: Apqn(0x0504) }, json!({"queue": "05.0004"})),
            (Operation::ResetDevice { mdev: ONE }, json!({"mdev": ONE})),
        ] {
            let (name, arguments) = command(&operation).unwrap();
            assert_eq!(json!(arguments), want, "{name}");
            assert!(name.starts_with("x-ap-") && !name.contains('_'), "{name}");
        }
    }
}
