//! What the simulated AP host refuses.

use crycb::{Apqn, Mask256, MaskError, Matrix};
use std::fmt;
use uuid::Uuid;

/// A refusal. [`HostError::errno`] names what Linux answers in the same place.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The description is no JSON, or has a field or value that means nothing.
    #[error("read the description of the AP host")]
    Json(#[source] serde_json::Error),

    /// The description contradicts itself.
    #[error("the description of the AP host: {0}")]
    Description(String),

    /// A mask attribute with a text that is no mask.
    #[error("write {text:?} to {attribute}")]
    Mask {
        /// `apmask`, `aqmask`, or `ap_config` and the name of its mediated device.
        attribute: String,
        /// What was to be written.
        text: String,
        /// What is wrong with it.
        #[source]
        source: MaskError,
    },

    /// An attribute of a mediated device with a value that means nothing.
    #[error("mdev {mdev}: write {value:?} to {attribute}: not {expected}")]
    Value {
        /// The device.
        mdev: Uuid,
        /// Its attribute.
        attribute: &'static str,
        /// What was to be written.
        value: String,
        /// What the attribute takes.
        expected: &'static str,
    },

    /// An attribute of a mediated device with a number of more than 64 bits.
    #[error(
        "mdev {mdev}: write {value:?} to {attribute}: a number of more than 64 bits; the machine's highest is 255 or less"
    )]
    Overflow {
        /// The device.
        mdev: Uuid,
        /// Its attribute.
        attribute: &'static str,
        /// What was to be written.
        value: String,
    },

    /// A number above what the machine can have.
    #[error(
        "mdev {mdev}: {kind} {number:#04x}: the machine's highest is {max:#04x}; choose one up to that, or describe a \
         machine with more (max_adapter, max_domain, apxa)"
    )]
    AboveMaximum {
        /// The device.
        mdev: Uuid,
        /// `adapter`, `domain` or `control domain`.
        kind: &'static str,
        /// The number.
        number: u64,
        /// The maximum.
        max: u8,
    },

    /// Queues that the host's default drivers own.
    #[error(
        "mdev {mdev}: {} owned by the host's default drivers; {}",
        are(queues),
        owner_remedy(queues, overridden)
    )]
    HostOwned {
        /// The device.
        mdev: Uuid,
        /// The queues, adapters x domains.
        queues: Box<Matrix>,
        /// The override, when a queue is theirs by its `driver_override` and not by the masks.
        overridden: Option<String>,
    },

    /// Queues that another mediated device has.
    #[error("mdev {mdev}: {} assigned to mdev {other}; unassign the adapters ({}) or the domains ({}) from one of \
             the two", are(queues), Numbers(&queues.apm), Numbers(&queues.aqm))]
    Shared {
        /// The device.
        mdev: Uuid,
        /// The device that has them.
        other: Uuid,
        /// The queues, adapters x domains.
        queues: Box<Matrix>,
    },

    /// No mediated device of this name.
    #[error("no mdev {uuid}; the AP host has {}", list(known.iter(), "none; create one"))]
    UnknownMdev {
        /// The name.
        uuid: Uuid,
        /// The devices there are.
        known: Vec<Uuid>,
    },

    /// The mediated device has a guest already.
    #[error("mdev {0} is in use by a guest; end that guest or choose another mdev")]
    Attached(Uuid),

    /// The mediated device has no guest.
    #[error("mdev {0} is not in use by a guest")]
    NotAttached(Uuid),

    /// There is a mediated device of this name.
    #[error("mdev {0} exists already; choose another UUID or remove it first")]
    MdevExists(Uuid),

    /// `available_instances` is zero.
    #[error("the host has 65536 mdevs, its most; remove one first")]
    TooManyMdevs,

    /// A VM has one mediated device already.
    #[error("mdev {mdev}: the VM has mdev {other} already, and a VM can have one; detach that one first")]
    SecondMdev {
        /// The device asked for.
        mdev: Uuid,
        /// The one it has.
        other: Uuid,
    },

    /// The guest was asked to give the device back and did not.
    #[error("mdev {0}: its guest did not give it back when asked; end that guest")]
    NotReleased(Uuid),

    /// A reset did not end well.
    #[error("mdev {mdev}: {} not been reset (response code {code:02x}); try again later", have(queues))]
    ResetFailed {
        /// The device.
        mdev: Uuid,
        /// The queues.
        queues: Vec<Apqn>,
        /// The response code of the first of them.
        code: u8,
    },

    /// A mask write would take queues from mediated devices.
    #[error("write to {attribute}: {} assigned to mdev {mdev}; unassign the adapters ({}) or the domains ({}) from it first",
            are(queues), Numbers(&queues.apm), Numbers(&queues.aqm))]
    MaskInUse {
        /// `apmask` or `aqmask`.
        attribute: &'static str,
        /// The device.
        mdev: Uuid,
        /// The queues, adapters x domains.
        queues: Box<Matrix>,
    },

    /// A mask write while a queue has a driver override.
    #[error(
        "write to {attribute}: queue {apqn} has driver_override {driver:?}, which excludes masks; clear it first"
    )]
    OverridesSet {
        /// `apmask` or `aqmask`.
        attribute: &'static str,
        /// A queue with an override.
        apqn: Apqn,
        /// The override.
        driver: String,
    },

    /// A driver override while a mask is not all ones.
    #[error(
        "driver_override of queue {0}: apmask and aqmask are in use, which excludes overrides; write all ones \
             (+0-255) to both first"
    )]
    MasksInUse(Apqn),

    /// There is no such queue device.
    #[error("no queue {0} on the AP bus")]
    NoQueue(Apqn),

    /// The queue is bound to a driver already.
    #[error("queue {apqn} is bound to {driver} already; unbind it first")]
    Bound {
        /// The queue.
        apqn: Apqn,
        /// The driver it is bound to.
        driver: &'static str,
    },

    /// The queue is not bound to any driver.
    #[error("queue {0} is bound to no driver")]
    Unbound(Apqn),

    /// The masks or an override keep the driver from the queue.
    #[error("queue {apqn} is not for driver {driver}: {reason}")]
    WrongDriver {
        /// The queue.
        apqn: Apqn,
        /// The driver asked for.
        driver: &'static str,
        /// What decides, and what changes it.
        reason: String,
    },

    /// The machine has no such adapter or domain, or has it already.
    #[error("{0}")]
    Configuration(String),

    /// What another process refused: the AP host's daemon, or the kernel.
    #[error("{message}")]
    Remote {
        /// The name of the error number.
        errno: String,
        /// What it said.
        message: String,
    },
}

impl HostError {
    /// The name of the error number with which Linux refuses the same.
    pub fn errno(&self) -> &str {
        match self {
            Self::Json(_) | Self::Description(_) | Self::Mask { .. } | Self::Value { .. } => "EINVAL",
            Self::OverridesSet { .. } | Self::MasksInUse(_) => "EINVAL",
            Self::Overflow { .. } => "ERANGE",
            Self::AboveMaximum { .. } | Self::NoQueue(_) | Self::Configuration(_) => "ENODEV",
            Self::WrongDriver { .. } | Self::Unbound(_) => "ENODEV",
            Self::MdevExists(_) => "EEXIST",
            Self::TooManyMdevs => "EUSERS",
            Self::SecondMdev { .. } => "EPERM",
            Self::NotReleased(_) | Self::MaskInUse { .. } | Self::Bound { .. } => "EBUSY",
            Self::ResetFailed { .. } => "EIO",
            Self::Remote { errno, .. } => errno,
            Self::HostOwned { .. } => "EADDRNOTAVAIL",
            Self::Shared { .. } => "EADDRINUSE",
            Self::UnknownMdev { .. } => "ENOENT",
            Self::Attached(_) => "EBUSY",
            Self::NotAttached(_) => "EINVAL",
        }
    }
}

/// "queue 05.0004 is" or "queues 05.0004, 05.00ab are", at most eight of them named.
fn are(queues: &Matrix) -> String {
    const NAMED: usize = 8;
    let count = queues.apqns().count();
    let names = list(queues.apqns().take(NAMED), "");
    match count {
        1 => format!("queue {names} is"),
        2..=NAMED => format!("queues {names} are"),
        _ => format!("queues {names} and {} more are", count - NAMED),
    }
}

/// "queue 05.0004 has" or "queues 05.0004, 05.00ab have".
fn have(queues: &[Apqn]) -> String {
    let verb = if queues.len() == 1 { "queue" } else { "queues" };
    format!("{verb} {} {}", list(queues.iter(), ""), if queues.len() == 1 { "has" } else { "have" })
}

fn owner_remedy(queues: &Matrix, overridden: &Option<String>) -> String {
    match overridden {
        Some(driver) => format!("its driver_override is {driver:?}; clear it or write vfio_ap to it"),
        None => format!(
            "free the adapters by writing {:?} to apmask, or the domains by writing {:?} to aqmask",
            Removal(&queues.apm).to_string(),
            Removal(&queues.aqm).to_string()
        ),
    }
}

fn list<T: fmt::Display>(items: impl Iterator<Item = T>, none: &str) -> String {
    let names: Vec<String> = items.map(|i| i.to_string()).collect();
    if names.is_empty() { none.to_owned() } else { names.join(", ") }
}

/// The numbers in a mask: `5, 0xa`.
struct Numbers<'a>(&'a Mask256);

impl fmt::Display for Numbers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&list(self.0.iter().map(number), "none"))
    }
}

/// A relative mask that takes the numbers out: `-5,-0xa`.
struct Removal<'a>(&'a Mask256);

impl fmt::Display for Removal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<String> = self.0.iter().map(|n| format!("-{}", number(n))).collect();
        f.write_str(&items.join(","))
    }
}

fn number(n: u8) -> String {
    if n < 10 { n.to_string() } else { format!("{n:#x}") }
}
