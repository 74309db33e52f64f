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
    #[error("mdev {mdev}: {} owned by the host's default drivers; free the adapters by writing {:?} to apmask, \
             or the domains by writing {:?} to aqmask", are(queues), Removal(&queues.apm).to_string(),
            Removal(&queues.aqm).to_string())]
    HostOwned {
        /// The device.
        mdev: Uuid,
        /// The queues, adapters x domains.
        queues: Box<Matrix>,
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
    #[error("no mdev {uuid}; the AP host has {}", list(known.iter(), "none; describe one under mdevs"))]
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

    /// No such queue is bound to vfio_ap.
    #[error("queue {0} is not bound to vfio_ap")]
    NotBound(Apqn),
}

impl HostError {
    /// The name of the error number with which Linux refuses the same.
    pub const fn errno(&self) -> &'static str {
        match self {
            Self::Json(_) | Self::Description(_) | Self::Mask { .. } | Self::Value { .. } => "EINVAL",
            Self::AboveMaximum { .. } => "ENODEV",
            Self::HostOwned { .. } => "EADDRNOTAVAIL",
            Self::Shared { .. } => "EADDRINUSE",
            Self::UnknownMdev { .. } => "ENOENT",
            Self::Attached(_) => "EBUSY",
            Self::NotAttached(_) => "EINVAL",
            Self::NotBound(_) => "ENODEV",
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
