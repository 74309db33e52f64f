//! The simulated AP host: a machine's cards, and what the Linux on it does with their queues.
//!
//! [`ApHost`] is made from a [`Description`] (JSON, see `docs/ap-host.md`). It knows which queues exist (adapters x usage
//! domains), which driver each is bound to, and the mediated devices with their matrices, and it applies the rules of
//! Linux's AP bus and vfio_ap driver: nobody is given a queue that the host's default drivers own or that another mediated
//! device has, and a guest gets of its mediated device's matrix what the filter leaves ([`crycb::filter`]).
//!
//! It decides and remembers; it has no queue contents and executes nothing. The caller writes the guest's CRYCB, carries out
//! the resets that [`ApHost::detach`] lists, and reports them with [`ApHost::record_reset`].
//!
//! Deliberately absent: a second copy of what a *running* guest may reach. The CRYCB is the authority there;
//! [`Mdev::guest`] is what was last ordered, as vfio_ap's shadow APCB is.

#![forbid(unsafe_code)]

mod adapter;
mod description;
mod error;
mod mdev;
mod number;

pub use adapter::{
    Adapter, Card, Cca, Ep11, Ep11Module, FirmwareVersion, Generation, HeldKey, MasterKey, MasterKeys,
    NewKey, NewWrappingKey, OpModes, WrappingKeys,
};
pub use description::Description;
pub use error::HostError;
pub use mdev::{Attribute, Mdev, MdevDefinition, MdevType, Start};
pub use number::Pattern;

use crycb::filter::filter;
use crycb::{Apid, Apqn, Mask256, Matrix, Qci};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A simulated host with its cards.
#[derive(Clone, Debug)]
pub struct ApHost {
    // Configuration, fixed at creation.
    description: Description,

    // State.
    /// The masks of the default drivers: a queue is theirs if both its bits are on.
    apmask: Mask256,
    aqmask: Mask256,
    queues: BTreeMap<Apqn, Queue>,
    /// In the order in which they are started.
    mdevs: Vec<Mdev>,
}

/// A queue device on the host's AP bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Its number.
    pub apqn: Apqn,
    /// The driver it is bound to.
    pub driver: Driver,
    /// The response code with which its last reset ended.
    pub last_reset: u8,
}

/// A driver for queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// The host's own (`cex4queue`): the host's programs use the queue.
    Default,
    /// vfio_ap: guests use the queue.
    VfioAp,
}

/// Whom a queue serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The host's own programs.
    DefaultDrivers,
    /// Nobody: bound to vfio_ap and free to be assigned. vfio_ap shows `unassigned`.
    Free,
    /// A mediated device without a guest, or whose guest does not get it. vfio_ap shows `assigned`.
    Mdev(Uuid),
    /// The guest of a mediated device. vfio_ap shows `in use`.
    Guest(Uuid),
}

impl ApHost {
    /// The host that is simulated if no description is given.
    pub fn builtin() -> Self {
        Self::from_json(description::BUILTIN).expect("the built-in description is tested")
    }

    /// The host of this description. Its mediated devices are started in the order of the description; one that breaks a
    /// rule stays stopped, and [`ApHost::attach`] tells which rule.
    ///
    /// # Errors
    /// Those of [`Description::from_json`].
    pub fn from_json(text: &str) -> Result<Self, HostError> {
        Self::new(Description::from_json(text)?)
    }

    fn new(description: Description) -> Result<Self, HostError> {
        let (apmask, aqmask) = description.perms()?;
        let bound = |apqn: Apqn| {
            let default = apmask.test(apqn.apid().0) && aqmask.test(apqn.apqi().0);
            let driver = if default { Driver::Default } else { Driver::VfioAp };
            (apqn, Queue { apqn, driver, last_reset: 0 })
        };
        let queues = description.qci().matrix.apqns().map(bound).collect();
        let mdevs = description
            .mdevs()
            .iter()
            .map(|(uuid, definition)| Mdev::new(*uuid, definition.clone()))
            .collect();
        let mut host = Self { description, apmask, aqmask, queues, mdevs };
        for i in 0..host.mdevs.len() {
            match host.mdevs[i].assemble(&host) {
                Ok(matrix) => host.mdevs[i].matrix = Some(matrix),
                Err(error) => log::warn!("start of an mdev failed ({}): {error}", error.errno()),
            }
        }
        Ok(host)
    }

    /// The description as JSON, from which [`ApHost::from_json`] makes this host anew, without guests.
    pub fn to_json(&self) -> String {
        self.description.to_json()
    }

    /// What PQAP(QCI) stores for the host itself.
    pub fn qci(&self) -> Qci {
        self.description.qci()
    }

    /// The adapters, in the order of the description.
    pub fn adapters(&self) -> &[Adapter] {
        self.description.adapters()
    }

    /// The adapter of this number.
    pub fn adapter(&self, apid: Apid) -> Option<&Adapter> {
        self.adapters().iter().find(|a| a.apid == apid)
    }

    /// The masks of the default drivers, sysfs `apmask` and `aqmask`.
    pub fn masks(&self) -> (Mask256, Mask256) {
        (self.apmask, self.aqmask)
    }

    /// Every queue there is, ascending.
    pub fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.queues.values()
    }

    /// Whom the queue serves; `None` if there is no such queue.
    pub fn owner(&self, apqn: Apqn) -> Option<Owner> {
        if self.queues.get(&apqn)?.driver == Driver::Default {
            return Some(Owner::DefaultDrivers);
        }
        let Some(mdev) = self.mdevs.iter().find(|m| m.matrix.is_some_and(|matrix| matrix.test(apqn))) else {
            return Some(Owner::Free);
        };
        let in_use = mdev.guest.is_some_and(|guest| guest.test(apqn));
        Some(if in_use { Owner::Guest(mdev.uuid()) } else { Owner::Mdev(mdev.uuid()) })
    }

    /// The mediated devices, in the order of the description.
    pub fn mdevs(&self) -> &[Mdev] {
        &self.mdevs
    }

    /// The mediated device of this name.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`], which names those there are.
    pub fn mdev(&self, uuid: Uuid) -> Result<&Mdev, HostError> {
        self.index(uuid).map(|i| &self.mdevs[i])
    }

    /// Gives the mediated device to a guest: starts it if that has not succeeded yet, filters its matrix, and returns what
    /// the guest may reach, which is what belongs in its CRYCB.
    ///
    /// The result can hold less than the device's matrix, even nothing: an adapter that the host does not have, or that has
    /// a queue which cannot be passed, is left out and a warning logged.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`]; [`HostError::Attached`]; and what broke the device's start: [`HostError::HostOwned`],
    /// [`HostError::Shared`], [`HostError::AboveMaximum`].
    pub fn attach(&mut self, uuid: Uuid) -> Result<Matrix, HostError> {
        let i = self.index(uuid)?;
        if self.mdevs[i].guest.is_some() {
            return Err(HostError::Attached(uuid));
        }
        let assigned = match self.mdevs[i].matrix {
            Some(matrix) => matrix,
            None => self.mdevs[i].assemble(self)?,
        };
        let filtered = filter(&assigned, &self.qci().matrix, &|q| self.last_reset(q), &Matrix::EMPTY);
        let without = assigned.apm.minus(filtered.guest.apm);
        if !without.is_empty() {
            log::warn!("mdev {uuid}: the guest does not get the adapters {without:?}");
        }
        let mdev = &mut self.mdevs[i];
        mdev.matrix = Some(assigned);
        mdev.guest = Some(filtered.guest);
        Ok(filtered.guest)
    }

    /// Takes the mediated device from its guest, and returns the queues that have to be reset (ZAPQ) before anyone else may
    /// use them: every queue of the device that is bound to vfio_ap. The guest's CRYCB is cleared before they are.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`], [`HostError::NotAttached`].
    pub fn detach(&mut self, uuid: Uuid) -> Result<Vec<Apqn>, HostError> {
        let i = self.index(uuid)?;
        self.mdevs[i].guest.take().ok_or(HostError::NotAttached(uuid))?;
        let matrix = self.mdevs[i].matrix.unwrap_or_default();
        Ok(matrix.apqns().filter(|&q| self.last_reset(q).is_some()).collect())
    }

    /// Notes how a reset of the queue ended. After anything but 00, 03 and 04 no guest gets the queue's adapter until a later
    /// reset succeeds.
    ///
    /// # Errors
    /// [`HostError::NotBound`].
    pub fn record_reset(&mut self, apqn: Apqn, response_code: u8) -> Result<(), HostError> {
        match self.queues.get_mut(&apqn) {
            Some(queue) if queue.driver == Driver::VfioAp => {
                queue.last_reset = response_code;
                Ok(())
            }
            _ => Err(HostError::NotBound(apqn)),
        }
    }

    fn index(&self, uuid: Uuid) -> Result<usize, HostError> {
        self.mdevs.iter().position(|m| m.uuid() == uuid).ok_or_else(|| HostError::UnknownMdev {
            uuid,
            known: self.mdevs.iter().map(Mdev::uuid).collect(),
        })
    }

    /// How the last reset of the queue ended, if it is bound to vfio_ap.
    fn last_reset(&self, apqn: Apqn) -> Option<u8> {
        self.queues.get(&apqn).filter(|q| q.driver == Driver::VfioAp).map(|q| q.last_reset)
    }
}

impl mdev::Surroundings for ApHost {
    fn qci(&self) -> Qci {
        self.description.qci()
    }

    /// Both checks look at every APQN of the matrix, whether such a queue exists or not, as `vfio_ap_mdev_validate_masks`
    /// does: what comes into being later must not belong to two.
    fn check_owners(&self, mdev: Uuid, matrix: &Matrix) -> Result<(), HostError> {
        let default = Matrix { apm: self.apmask, aqm: self.aqmask, adm: Mask256::EMPTY };
        let queues = matrix.and(&default);
        if queues.apqns().next().is_some() {
            return Err(HostError::HostOwned { mdev, queues: queues.into() });
        }
        for other in self.mdevs.iter().filter(|m| m.uuid() != mdev) {
            let queues = matrix.and(&other.matrix.unwrap_or_default());
            if queues.apqns().next().is_some() {
                return Err(HostError::Shared { mdev, other: other.uuid(), queues: queues.into() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
