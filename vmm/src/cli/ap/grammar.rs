//! The verbs that change a host, as operations, and operations as the commands that mean them.

use std::io::Read;
use std::path::PathBuf;

use ap::host::{
    Adapter, Attribute, Card, Condition, Description, Driver, HostError, LparChange, MaskAttribute,
    MdevDefinition, Number, Operation, Snapshot,
};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use crycb::{Apid, Apqn, Mask256, Matrix};
use uuid::Uuid;

use super::backend::Place;

/// A verb that changes something.
#[derive(Clone, Debug, Subcommand)]
pub enum Change {
    /// Create, remove, show, import and export mediated devices
    #[command(subcommand)]
    Mdev(MdevVerb),
    /// Assign adapters, domains and control domains to a mediated device
    Assign(Assignment),
    /// Take adapters, domains and control domains from a mediated device
    Unassign(Assignment),
    /// Replace all three masks of a mediated device at once
    Config {
        /// The device
        mdev: Uuid,
        /// Adapters, domains, control domains: three hexadecimal masks with commas between
        masks: String,
    },
    /// Reset every queue of a mediated device
    Reset {
        /// The device
        mdev: Uuid,
    },
    /// Bind a queue to a driver
    Bind {
        /// The queue
        queue: Apqn,
        /// vfio_ap or cex4queue
        #[arg(default_value = "vfio_ap", value_parser = driver)]
        driver: Driver,
    },
    /// Take a queue from its driver
    Unbind {
        /// The queue
        queue: Apqn,
    },
    /// Name the driver of a single queue, whatever the masks say
    Override {
        /// The queue
        queue: Apqn,
        /// The driver, or none
        driver: String,
    },
    /// Show the masks of the host's default drivers, or write to one
    Mask {
        /// apmask (adapters) or aqmask (domains)
        which: Option<Which>,
        /// A whole mask (0x...), or changes: +N, -N, +N-M with commas between
        #[arg(allow_hyphen_values = true)]
        text: Option<String>,
    },
    /// Change an adapter of the machine
    #[command(subcommand)]
    Adapter(AdapterVerb),
    /// Change the domains of the machine
    #[command(subcommand)]
    Domain(DomainVerb),
    /// Have the AP bus look for changes
    Scan,
}

#[derive(Clone, Debug, Subcommand)]
pub enum MdevVerb {
    /// Create a mediated device with nothing assigned
    Create {
        /// Its name; a new one without
        mdev: Option<Uuid>,
    },
    /// Remove a mediated device; a guest that uses it is asked to give it back
    Remove {
        /// Which
        mdev: Uuid,
    },
    /// Show a mediated device, or all
    Show {
        /// Which
        mdev: Option<Uuid>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the definition of a mediated device as mdevctl takes it
    Export {
        /// Which
        mdev: Uuid,
    },
    /// Create a mediated device from mdevctl's JSON
    Import {
        /// Its name
        mdev: Uuid,
        /// The file, or - for standard input
        #[arg(required_unless_present = "json")]
        file: Option<PathBuf>,
        /// The JSON itself
        #[arg(long, value_name = "TEXT", conflicts_with = "file")]
        json: Option<String>,
    },
}

#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["adapter", "domain", "control_domain"])))]
pub struct Assignment {
    /// The mediated device
    mdev: Uuid,
    /// Adapters
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = number)]
    adapter: Vec<u8>,
    /// Usage domains
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = number)]
    domain: Vec<u8>,
    /// Control domains
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = number)]
    control_domain: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    Apmask,
    Aqmask,
}

impl Which {
    fn attribute(self) -> MaskAttribute {
        match self {
            Self::Apmask => MaskAttribute::Apmask,
            Self::Aqmask => MaskAttribute::Aqmask,
        }
    }

    /// Its file name in sysfs.
    pub fn name(self) -> &'static str {
        self.attribute().name()
    }
}

#[derive(Clone, Debug, Subcommand)]
pub enum AdapterVerb {
    /// Configure an adapter
    Online {
        /// Which
        #[arg(required = true, value_parser = number)]
        adapter: Vec<u8>,
    },
    /// Deconfigure an adapter: it stays, its queues answer response code 03
    Offline {
        /// Which
        #[arg(required = true, value_parser = number)]
        adapter: Vec<u8>,
    },
    /// Let an adapter fail: its queues answer response code 04
    Checkstop {
        /// Which
        #[arg(required = true, value_parser = number)]
        adapter: Vec<u8>,
    },
    /// Make an adapter another type: its queues are removed and come anew
    Type(Described),
    /// Add an adapter to the machine
    Add(Described),
    /// Remove an adapter from the machine
    Remove {
        /// Which
        #[arg(required = true, value_parser = number)]
        adapter: Vec<u8>,
    },
}

#[derive(Clone, Debug, Args)]
pub struct Described {
    /// Its number
    #[arg(value_parser = number, required_unless_present = "json")]
    adapter: Option<u8>,
    /// CEX4 to CEX8 with A (accelerator), C (CCA coprocessor) or P (EP11 coprocessor) behind
    #[arg(value_name = "TYPE", required_unless_present = "json")]
    type_name: Option<String>,
    /// Everything about it, as docs/ap-host.md describes an adapter
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["adapter", "type_name"])]
    json: Option<String>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum DomainVerb {
    /// Add domains to the machine
    Add(Domains),
    /// Remove domains from the machine
    Remove(Domains),
}

#[derive(Clone, Debug, Args)]
pub struct Domains {
    /// Which
    #[arg(required = true, value_parser = number)]
    domain: Vec<u8>,
    /// Control domains, not usage domains
    #[arg(long)]
    control: bool,
}

/// A number from 0 to 255, decimal or with 0x hexadecimal.
pub fn number(text: &str) -> Result<u8, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "not a number from 0 to 255, decimal or with 0x hexadecimal".to_owned())
}

fn driver(name: &str) -> Result<Driver, String> {
    Driver::named(name).ok_or_else(|| {
        let names: Vec<_> = Driver::ALL.iter().map(|d| d.name()).collect();
        format!("not one of {}", names.join(", "))
    })
}

impl Change {
    /// What the verb means on a host in this state. Several numbers of one mediated device become one write, so that its guest
    /// sees one change.
    pub fn operations(&self, state: &Snapshot) -> Result<Vec<Operation>, HostError> {
        let one = |operation| Ok(vec![operation]);
        match self {
            Self::Mdev(MdevVerb::Create { mdev }) => {
                one(Operation::CreateMdev { mdev: mdev.unwrap_or_else(Uuid::new_v4) })
            }
            Self::Mdev(MdevVerb::Remove { mdev }) => one(Operation::RemoveMdev { mdev: *mdev }),
            Self::Mdev(MdevVerb::Import { mdev, file, json }) => {
                let definition = definition(file.as_ref(), json.as_deref())?;
                one(Operation::Import { mdev: *mdev, definition })
            }
            Self::Assign(assignment) => one(assignment.operation(state, true)?),
            Self::Unassign(assignment) => one(assignment.operation(state, false)?),
            Self::Config { mdev, masks } => {
                one(Operation::Write { mdev: *mdev, attribute: Attribute::ApConfig(masks.clone()) })
            }
            Self::Reset { mdev } => one(Operation::ResetDevice { mdev: *mdev }),
            Self::Bind { queue, driver } => one(Operation::Bind { queue: *queue, driver: *driver }),
            Self::Unbind { queue } => one(Operation::Unbind { queue: *queue }),
            Self::Override { queue, driver } => {
                let driver = if driver == "none" { String::new() } else { driver.clone() };
                one(Operation::DriverOverride { queue: *queue, driver })
            }
            Self::Mask { which: Some(which), text: Some(text) } => {
                one(Operation::WriteMask { mask: which.attribute(), value: text.clone() })
            }
            // Verbs that only show.
            Self::Mask { .. } | Self::Mdev(MdevVerb::Show { .. } | MdevVerb::Export { .. }) => Ok(Vec::new()),
            Self::Adapter(verb) => one(Operation::Configure { changes: verb.changes()? }),
            Self::Domain(verb) => one(Operation::Configure { changes: verb.changes() }),
            Self::Scan => one(Operation::Scan),
        }
    }
}

impl Assignment {
    fn operation(&self, state: &Snapshot, assign: bool) -> Result<Operation, HostError> {
        let mdev = self.mdev;
        let text = |n: u8| format!("{n:#x}");
        let attribute = match (&self.adapter[..], &self.domain[..], &self.control_domain[..], assign) {
            ([n], [], [], true) => Attribute::AssignAdapter(text(*n)),
            ([n], [], [], false) => Attribute::UnassignAdapter(text(*n)),
            ([], [n], [], true) => Attribute::AssignDomain(text(*n)),
            ([], [n], [], false) => Attribute::UnassignDomain(text(*n)),
            ([], [], [n], true) => Attribute::AssignControlDomain(text(*n)),
            ([], [], [n], false) => Attribute::UnassignControlDomain(text(*n)),
            _ => {
                let known = || state.mdevs.iter().map(|m| m.uuid).collect();
                let before =
                    state.mdev(mdev).ok_or_else(|| HostError::UnknownMdev { uuid: mdev, known: known() })?;
                let mask = |numbers: &[u8]| numbers.iter().copied().collect::<Mask256>();
                let change = Matrix {
                    apm: mask(&self.adapter),
                    aqm: mask(&self.domain),
                    adm: mask(&self.control_domain),
                };
                let Matrix { apm, aqm, adm } =
                    if assign { before.matrix.or(&change) } else { before.matrix.minus(&change) };
                Attribute::ApConfig(format!("{apm},{aqm},{adm}"))
            }
        };
        Ok(Operation::Write { mdev, attribute })
    }
}

impl AdapterVerb {
    fn changes(&self) -> Result<Vec<LparChange>, HostError> {
        let set = |adapters: &[u8], condition| {
            let change = |n: &u8| LparChange::SetCondition { adapter: Number(*n), condition };
            adapters.iter().map(change).collect()
        };
        Ok(match self {
            Self::Online { adapter } => set(adapter, Condition::Online),
            Self::Offline { adapter } => set(adapter, Condition::Offline),
            Self::Checkstop { adapter } => set(adapter, Condition::Checkstop),
            Self::Type(described) => vec![LparChange::ChangeType { adapter: described.adapter()? }],
            Self::Add(described) => vec![LparChange::AddAdapter { adapter: described.adapter()? }],
            Self::Remove { adapter } => {
                adapter.iter().map(|n| LparChange::RemoveAdapter { adapter: Number(*n) }).collect()
            }
        })
    }
}

impl Described {
    /// The adapter: as the JSON says, or one of the built-in host's with number and type changed.
    fn adapter(&self) -> Result<Adapter, HostError> {
        if let Some(json) = &self.json {
            return serde_json::from_str(json).map_err(HostError::Json);
        }
        let (Some(n), Some(type_name)) = (self.adapter, &self.type_name) else {
            unreachable!("the parser wants both or the JSON")
        };
        let bad = || {
            let range = "CEX4 to CEX8 with A, C or P behind";
            HostError::Description(format!("adapter {n:#04x}: type {type_name:?} is not {range}"))
        };
        let (generation, mode) = type_name.split_at_checked(4).ok_or_else(bad)?;
        let generation = generation.parse().map_err(|()| bad())?;
        let description = Description::builtin();
        let like = description.adapters().iter().find(|a| a.type_name().ends_with(mode) && !mode.is_empty());
        let mut adapter = Adapter { apid: Apid(n), generation, ..like.ok_or_else(bad)?.clone() };
        let digits = format!("{n:03}");
        match &mut adapter.card {
            Card::Accelerator => {}
            Card::Cca(cca) => cca.serial[5..].copy_from_slice(digits.as_bytes()),
            Card::Ep11(ep11) => ep11.serial[13..].copy_from_slice(digits.as_bytes()),
        }
        Ok(adapter)
    }
}

impl DomainVerb {
    fn changes(&self) -> Vec<LparChange> {
        let (domains, add) = match self {
            Self::Add(domains) => (domains, true),
            Self::Remove(domains) => (domains, false),
        };
        let change = |n: &u8| {
            let domain = Number(*n);
            match (add, domains.control) {
                (true, false) => LparChange::AddDomain { domain },
                (true, true) => LparChange::AddControlDomain { domain },
                (false, false) => LparChange::RemoveDomain { domain },
                (false, true) => LparChange::RemoveControlDomain { domain },
            }
        };
        domains.domain.iter().map(change).collect()
    }
}

fn definition(file: Option<&PathBuf>, json: Option<&str>) -> Result<MdevDefinition, HostError> {
    /// Far above what a definition with everything assigned needs.
    const LIMIT: u64 = 1 << 20;
    let mut text = String::new();
    if let Some(json) = json {
        json.clone_into(&mut text);
    } else if let Some(path) = file {
        let read = if path.as_os_str() == "-" {
            std::io::stdin().lock().take(LIMIT).read_to_string(&mut text)
        } else {
            std::fs::File::open(path).and_then(|file| file.take(LIMIT).read_to_string(&mut text))
        };
        read.map_err(|e| HostError::Description(format!("read {}: {e}", path.display())))?;
    }
    serde_json::from_str(&text).map_err(HostError::Json)
}

/// The command that carries the operation out at this place, or several with `&&` between.
pub fn command_line(place: &Place, operation: &Operation) -> String {
    let command = |words: Vec<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        command_at(place, &words)
    };
    commands(operation).into_iter().map(command).collect::<Vec<_>>().join(" && ")
}

/// `adjunct ap` at this place, with these words behind.
pub fn command_at(place: &Place, words: &[&str]) -> String {
    let flags = place.flags();
    let words = flags.iter().map(String::as_str).chain(words.iter().copied());
    words.fold("adjunct ap".to_owned(), |line, word| format!("{line} {}", quote(word)))
}

/// A word as a shell takes it.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-+_.,:/=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// For each command the words behind `adjunct ap`. Only changes of the machine of several kinds need more than one.
pub fn commands(operation: &Operation) -> Vec<Vec<String>> {
    let Operation::Configure { changes } = operation else { return vec![words(operation)] };
    let mut commands: Vec<Vec<String>> = Vec::new();
    for change in changes {
        let words = change_words(change);
        match commands.last_mut() {
            // Verbs that take numbers take several: `adapter online 5 6`.
            Some(last) if joins(last, &words) => {
                let at = last.iter().rposition(|word| word.starts_with("0x")).expect("it has a number") + 1;
                last.insert(at, words[2].clone());
            }
            _ => commands.push(words),
        }
    }
    if commands.is_empty() {
        commands.push(vec!["scan".into()]);
    }
    commands
}

/// Whether both are the same verb with numbers, on the same kind of domains.
fn joins(one: &[String], other: &[String]) -> bool {
    let control = |words: &[String]| words.iter().any(|word| word == "--control");
    one[..2] == other[..2] && other[2] != "--json" && one[2] != "--json" && control(one) == control(other)
}

fn words(operation: &Operation) -> Vec<String> {
    let json = |value: &dyn Fn() -> serde_json::Result<String>| value().expect("only strings for keys");
    let list = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    match operation {
        Operation::CreateMdev { mdev } => list(&["mdev", "create", &mdev.to_string()]),
        Operation::RemoveMdev { mdev } => list(&["mdev", "remove", &mdev.to_string()]),
        Operation::Import { mdev, definition } => {
            let text = json(&|| serde_json::to_string(definition));
            list(&["mdev", "import", &mdev.to_string(), "--json", &text])
        }
        Operation::Write { mdev, attribute } => {
            let mdev = mdev.to_string();
            let (name, text) = attribute.parts();
            match name.split_once('_') {
                Some((verb @ ("assign" | "unassign"), kind)) => {
                    list(&[verb, &mdev, &format!("--{}", kind.replace('_', "-")), text])
                }
                _ => list(&["config", &mdev, text]),
            }
        }
        Operation::ResetDevice { mdev } => list(&["reset", &mdev.to_string()]),
        Operation::WriteMask { mask, value } => list(&["mask", mask.name(), value]),
        Operation::DriverOverride { queue, driver } => {
            let driver = if driver.is_empty() { "none" } else { driver };
            list(&["override", &queue.to_string(), driver])
        }
        Operation::Bind { queue, driver } => list(&["bind", &queue.to_string(), driver.name()]),
        Operation::Unbind { queue } => list(&["unbind", &queue.to_string()]),
        Operation::Configure { .. } | Operation::Scan => list(&["scan"]),
    }
}

fn change_words(change: &LparChange) -> Vec<String> {
    let hex = |n: &Number| format!("{:#x}", n.0);
    let adapter = |verb: &str, adapter: &Adapter| {
        let text = serde_json::to_string(adapter).expect("only strings for keys");
        vec!["adapter".into(), verb.into(), "--json".into(), text]
    };
    let domain = |verb: &str, n: &Number, control: bool| {
        let mut words = vec!["domain".into(), verb.into(), hex(n)];
        if control {
            words.push("--control".into());
        }
        words
    };
    match change {
        LparChange::AddAdapter { adapter: described } => adapter("add", described),
        LparChange::ChangeType { adapter: described } => adapter("type", described),
        LparChange::RemoveAdapter { adapter } => vec!["adapter".into(), "remove".into(), hex(adapter)],
        LparChange::SetCondition { adapter, condition } => {
            let verb = match condition {
                Condition::Online => "online",
                Condition::Offline => "offline",
                Condition::Checkstop => "checkstop",
            };
            vec!["adapter".into(), verb.into(), hex(adapter)]
        }
        LparChange::AddDomain { domain: n } => domain("add", n, false),
        LparChange::RemoveDomain { domain: n } => domain("remove", n, false),
        LparChange::AddControlDomain { domain: n } => domain("add", n, true),
        LparChange::RemoveControlDomain { domain: n } => domain("remove", n, true),
    }
}
