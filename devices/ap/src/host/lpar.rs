//! The machine's AP configuration as its support element sets it: adapters in their states, usage and control domains.

use std::collections::BTreeMap;

use crycb::{Apid, Mask256, Matrix, Qci, QciFlags};
use serde::{Deserialize, Serialize};

use super::number::{Number, mask};
use super::{Adapter, Description, HostError};
use crate::queue::AdapterState;

/// Whether an adapter can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Operational.
    #[default]
    Online,
    /// Deconfigured (standby): still in the configuration, its queues answer response code 03.
    Offline,
    /// Check-stopped: its queues answer response code 04.
    Checkstop,
}

impl Condition {
    /// How an adapter with these sysfs attributes is: a deconfigured one is not told to be check-stopped too.
    pub(super) const fn of(config: bool, chkstop: bool) -> Self {
        match (config, chkstop) {
            (false, _) => Self::Offline,
            (true, true) => Self::Checkstop,
            (true, false) => Self::Online,
        }
    }

    /// What the hardware calls it.
    pub const fn state(self) -> AdapterState {
        match self {
            Self::Online => AdapterState::Configured,
            Self::Offline => AdapterState::Deconfigured,
            Self::Checkstop => AdapterState::CheckStopped,
        }
    }

    /// The response code of its queues.
    pub const fn response_code(self) -> u8 {
        match self {
            Self::Online => 0x00,
            Self::Offline => 0x03,
            Self::Checkstop => 0x04,
        }
    }
}

/// An adapter of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// What it is.
    #[serde(flatten)]
    pub adapter: Adapter,
    /// How it is.
    pub condition: Condition,
}

/// The AP configuration of the host's logical partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct Lpar {
    apxa: bool,
    max_adapter: u8,
    max_domain: u8,
    adapters: BTreeMap<Apid, Installed>,
    usage: Mask256,
    control: Mask256,
}

/// A configuration in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    apxa: bool,
    max_adapter: Number,
    max_domain: Number,
    adapters: Vec<Installed>,
    #[serde(with = "mask")]
    usage_domains: Mask256,
    #[serde(with = "mask")]
    control_domains: Mask256,
}

impl From<Lpar> for Text {
    fn from(lpar: Lpar) -> Self {
        Self {
            apxa: lpar.apxa,
            max_adapter: Number(lpar.max_adapter),
            max_domain: Number(lpar.max_domain),
            adapters: lpar.adapters.into_values().collect(),
            usage_domains: lpar.usage,
            control_domains: lpar.control,
        }
    }
}

impl TryFrom<Text> for Lpar {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        let mut lpar = Self {
            apxa: text.apxa,
            max_adapter: text.max_adapter.0,
            max_domain: text.max_domain.0,
            adapters: BTreeMap::new(),
            usage: text.usage_domains,
            control: text.control_domains,
        };
        let qci = lpar.qci();
        let highest = lpar.usage.highest().max(lpar.control.highest());
        if let Some(domain) = highest.filter(|&domain| domain > qci.max_apqi()) {
            return Err(format!("domain {domain:#04x} is above the highest, {:#04x}", qci.max_apqi()));
        }
        for installed in text.adapters {
            let apid = installed.adapter.apid;
            if apid.0 > qci.max_apid() {
                return Err(format!("adapter {apid} is above the highest, {:#04x}", qci.max_apid()));
            }
            if lpar.adapters.insert(apid, installed).is_some() {
                return Err(format!("adapter {apid} comes twice"));
            }
        }
        Ok(lpar)
    }
}

/// A change that the support element makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "change")]
pub enum LparChange {
    /// An adapter joins the configuration.
    AddAdapter {
        /// What it is.
        adapter: Adapter,
    },
    /// An adapter leaves the configuration.
    RemoveAdapter {
        /// Which.
        adapter: Number,
    },
    /// An adapter becomes another: its card was exchanged, or loaded anew for another mode.
    ChangeType {
        /// The number stays.
        adapter: Adapter,
    },
    /// An adapter is configured, deconfigured or check-stops.
    SetCondition {
        /// Which.
        adapter: Number,
        /// How it is from now on.
        condition: Condition,
    },
    /// A usage domain joins.
    AddDomain {
        /// Which.
        domain: Number,
    },
    /// A usage domain leaves.
    RemoveDomain {
        /// Which.
        domain: Number,
    },
    /// A control domain joins.
    AddControlDomain {
        /// Which.
        domain: Number,
    },
    /// A control domain leaves.
    RemoveControlDomain {
        /// Which.
        domain: Number,
    },
}

impl Lpar {
    /// The configuration with which a described host starts: every adapter online.
    pub fn of(description: &Description) -> Self {
        let Qci { matrix, na, nd, .. } = description.qci();
        let online = |adapter: &Adapter| Installed { adapter: adapter.clone(), condition: Condition::Online };
        Self {
            apxa: description.apxa,
            max_adapter: na,
            max_domain: nd,
            adapters: description.adapters().iter().map(|a| (a.apid, online(a))).collect(),
            usage: matrix.aqm,
            control: matrix.adm,
        }
    }

    /// What PQAP(QCI) stores.
    pub fn qci(&self) -> Qci {
        let apm = self.adapters.keys().map(|apid| apid.0).collect();
        let matrix = Matrix { apm, aqm: self.usage, adm: self.control };
        let flags = if self.apxa { QciFlags::APSC | QciFlags::APXA } else { QciFlags::APSC };
        Qci { flags, na: self.max_adapter, nd: self.max_domain, matrix }
    }

    /// The adapters, ascending.
    pub fn adapters(&self) -> impl Iterator<Item = &Installed> {
        self.adapters.values()
    }

    /// The adapter of this number.
    pub fn adapter(&self, apid: Apid) -> Option<&Installed> {
        self.adapters.get(&apid)
    }

    /// Makes a change.
    ///
    /// # Errors
    /// [`HostError::Configuration`]; then nothing has changed.
    pub fn change(&mut self, change: &LparChange) -> Result<(), HostError> {
        let refuse = |why: String| Err(HostError::Configuration(why));
        let (max_apid, max_apqi) = (self.qci().max_apid(), self.qci().max_apqi());
        let present = |this: &Self, n: u8| this.adapters.contains_key(&Apid(n));
        match change {
            LparChange::AddAdapter { adapter } if adapter.apid.0 > max_apid => {
                refuse(format!("adapter {:#04x}: the machine's highest is {max_apid:#04x}", adapter.apid.0))
            }
            LparChange::AddAdapter { adapter } if present(self, adapter.apid.0) => {
                refuse(format!("adapter {:#04x} is in the configuration already", adapter.apid.0))
            }
            LparChange::ChangeType { adapter } if !present(self, adapter.apid.0) => {
                refuse(format!("adapter {:#04x} is not in the configuration; add it first", adapter.apid.0))
            }
            LparChange::RemoveAdapter { adapter } | LparChange::SetCondition { adapter, .. }
                if !present(self, adapter.0) =>
            {
                refuse(format!("adapter {:#04x} is not in the configuration", adapter.0))
            }
            LparChange::AddDomain { domain } | LparChange::AddControlDomain { domain }
                if domain.0 > max_apqi =>
            {
                refuse(format!("domain {:#04x}: the machine's highest is {max_apqi:#04x}", domain.0))
            }
            LparChange::AddAdapter { adapter } | LparChange::ChangeType { adapter } => {
                let installed = Installed { adapter: adapter.clone(), condition: Condition::Online };
                self.adapters.insert(adapter.apid, installed);
                Ok(())
            }
            LparChange::RemoveAdapter { adapter } => {
                self.adapters.remove(&Apid(adapter.0));
                Ok(())
            }
            LparChange::SetCondition { adapter, condition } => {
                let installed = self.adapters.get_mut(&Apid(adapter.0)).expect("looked at above");
                installed.condition = *condition;
                Ok(())
            }
            LparChange::AddDomain { domain } => {
                self.usage.set(domain.0);
                Ok(())
            }
            LparChange::RemoveDomain { domain } => {
                self.usage.clear(domain.0);
                Ok(())
            }
            LparChange::AddControlDomain { domain } => {
                self.control.set(domain.0);
                Ok(())
            }
            LparChange::RemoveControlDomain { domain } => {
                self.control.clear(domain.0);
                Ok(())
            }
        }
    }

    pub(super) fn new(qci: &Qci, adapters: impl Iterator<Item = Installed>) -> Self {
        Self {
            apxa: qci.flags.has(QciFlags::APXA),
            max_adapter: qci.na,
            max_domain: qci.nd,
            adapters: adapters.map(|a| (a.adapter.apid, a)).collect(),
            usage: qci.matrix.aqm,
            control: qci.matrix.adm,
        }
    }
}
