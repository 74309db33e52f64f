//! The whole host at one moment, as data: what `adjunct ap` prints, what a plan starts from, what the daemon sends.

use crycb::{Apid, Apqn, Mask256, Matrix, QciFlags};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::bus::{Bus, QueueDevice};
use super::lpar::{Condition, Installed};
use super::number::{Number, mask, matrix, queue_name};
use super::permissions::{Driver, Permissions};
use super::vfio_ap::{QueueStatus, VfioAp};
use super::{Lpar, Mdev, MdevDefinition};
use crate::queue::QueueStatistics;

/// The state of an AP host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Extended addressing.
    pub apxa: bool,
    /// Highest adapter number that the machine can have.
    pub max_adapter: Number,
    /// Highest domain number that the machine can have.
    pub max_domain: Number,
    /// The adapters of the configuration, ascending.
    pub adapters: Vec<AdapterState>,
    /// The configuration: adapters, usage domains, control domains.
    #[serde(with = "matrix")]
    pub configuration: Matrix,
    /// sysfs `apmask`.
    #[serde(with = "mask")]
    pub apmask: Mask256,
    /// sysfs `aqmask`.
    #[serde(with = "mask")]
    pub aqmask: Mask256,
    /// The queue devices, ascending.
    pub queues: Vec<QueueState>,
    /// The mediated devices in the order of their creation.
    pub mdevs: Vec<MdevState>,
}

/// An adapter of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterState {
    /// What it is, as far as known. On a real host only `type` is.
    #[serde(flatten)]
    pub installed: AdapterIdentity,
    /// How it is.
    pub condition: Condition,
}

/// What is known of an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AdapterIdentity {
    /// A described, emulated card.
    Described(super::Adapter),
    /// A card of which only number and type can be seen.
    Seen {
        /// Its number.
        adapter: Number,
        /// Its type as `lszcrypt` prints it: `CEX8C`.
        #[serde(rename = "type")]
        type_name: String,
    },
}

impl AdapterState {
    /// Its number.
    pub fn apid(&self) -> Apid {
        match &self.installed {
            AdapterIdentity::Described(adapter) => adapter.apid,
            AdapterIdentity::Seen { adapter, .. } => Apid(adapter.0),
        }
    }

    /// Its type as `lszcrypt` prints it: `CEX8C`.
    pub fn type_name(&self) -> String {
        match &self.installed {
            AdapterIdentity::Described(adapter) => adapter.type_name(),
            AdapterIdentity::Seen { type_name, .. } => type_name.clone(),
        }
    }
}

/// A queue device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// Its number.
    #[serde(with = "queue_name")]
    pub queue: Apqn,
    /// The driver it is bound to.
    pub driver: Option<Driver>,
    /// sysfs `driver_override`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_override: Option<String>,
    /// sysfs `config`.
    pub config: bool,
    /// sysfs `chkstop`.
    pub chkstop: bool,
    /// The response code with which its last reset stands; of a queue bound to vfio_ap.
    pub last_reset: u8,
    /// sysfs `status`, of a queue bound to vfio_ap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<QueueStatus>,
    /// Requests accepted so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Requests and replies on the queue now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<u64>,
    /// Requests answered so far, by whoever has the queue now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<u64>,
    /// Nanoseconds from request to reply, summed over `answered`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_time: Option<u64>,
    /// General register 2 of TAPQ: functions, type and depth.
    #[serde(default)]
    pub hardware: u64,
}

/// A mediated device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MdevState {
    /// Its name.
    pub uuid: Uuid,
    /// What is assigned.
    #[serde(with = "matrix")]
    pub matrix: Matrix,
    /// What its guest has, or would have.
    #[serde(with = "matrix")]
    pub guest_matrix: Matrix,
    /// Whether a VM has it open.
    pub attached: bool,
}

impl MdevState {
    /// The definition that makes the device anew, as mdevctl takes it.
    pub fn definition(&self) -> MdevDefinition {
        Mdev { matrix: self.matrix, ..Mdev::new(self.uuid) }.definition()
    }
}

impl Snapshot {
    pub(super) fn of(
        bus: &Bus,
        permissions: &Permissions,
        vfio_ap: &VfioAp,
        statistics: impl Fn(Apqn) -> Option<QueueStatistics>,
    ) -> Self {
        let qci = bus.lpar.qci();
        let queue = |(&apqn, device): (&Apqn, &QueueDevice)| {
            let count = statistics(apqn);
            QueueState {
                queue: apqn,
                driver: device.driver,
                driver_override: permissions.overrides.get(&apqn).cloned(),
                config: device.config,
                chkstop: device.chkstop,
                last_reset: vfio_ap.queue(apqn).map_or(device.last_reset, |q| q.last_reset),
                status: vfio_ap.status(apqn),
                requests: count.map(|c| c.requests),
                pending: count.map(|c| c.queued),
                answered: count.map(|c| c.answered),
                answer_time: count.map(|c| c.answer_time),
                hardware: bus.cards.get(&apqn.apid()).map_or(0, |card| card.hardware),
            }
        };
        let adapter = |installed: &Installed| AdapterState {
            installed: AdapterIdentity::Described(installed.adapter.clone()),
            condition: installed.condition,
        };
        let mdev = |mdev: &Mdev| MdevState {
            uuid: mdev.uuid,
            matrix: mdev.matrix,
            guest_matrix: mdev.shadow,
            attached: mdev.guest.is_some(),
        };
        Self {
            apxa: qci.flags.has(QciFlags::APXA),
            max_adapter: Number(qci.max_apid()),
            max_domain: Number(qci.max_apqi()),
            adapters: bus.lpar.adapters().map(adapter).collect(),
            configuration: bus.configuration,
            apmask: permissions.apm,
            aqmask: permissions.aqm,
            queues: bus.queues.iter().map(queue).collect(),
            mdevs: vfio_ap.mdevs().iter().map(mdev).collect(),
        }
    }

    /// The queue device of this number.
    pub fn queue(&self, apqn: Apqn) -> Option<&QueueState> {
        self.queues.binary_search_by_key(&apqn, |q| q.queue).ok().map(|at| &self.queues[at])
    }

    /// The mediated device of this name.
    pub fn mdev(&self, uuid: Uuid) -> Option<&MdevState> {
        self.mdevs.iter().find(|m| m.uuid == uuid)
    }

    /// The mediated device that the queue is assigned to.
    pub fn mdev_of(&self, apqn: Apqn) -> Option<&MdevState> {
        self.mdevs.iter().find(|m| m.matrix.test(apqn))
    }

    /// The queues that masks and overrides give the default drivers.
    pub fn permissions(&self) -> Permissions {
        let overrides = self.queues.iter().filter_map(|q| Some((q.queue, q.driver_override.clone()?)));
        Permissions { apm: self.apmask, aqm: self.aqmask, overrides: overrides.collect() }
    }

    /// The machine's part of the state, where every adapter is described; of one that is only seen, an accelerator of its
    /// generation stands in, which to the rules is the same.
    pub(super) fn lpar(&self) -> Lpar {
        let mut flags = QciFlags::APSC;
        if self.apxa {
            flags = flags | QciFlags::APXA;
        }
        let qci = crycb::Qci {
            flags,
            na: if self.apxa { self.max_adapter.0 } else { 0 },
            nd: if self.apxa { self.max_domain.0 } else { 0 },
            matrix: self.configuration,
        };
        let adapters = self.adapters.iter().map(|state| {
            let adapter = match &state.installed {
                AdapterIdentity::Described(adapter) => adapter.clone(),
                AdapterIdentity::Seen { type_name, .. } => super::Adapter {
                    apid: state.apid(),
                    generation: type_name
                        .get(..4)
                        .and_then(|g| g.parse().ok())
                        .unwrap_or(super::Generation::Cex4),
                    card: super::Card::Accelerator,
                },
            };
            Installed { adapter, condition: state.condition }
        });
        Lpar::new(&qci, adapters)
    }
}
