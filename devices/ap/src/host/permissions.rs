//! Which driver a queue is for: the AP bus's `apmask` and `aqmask`, and the queues' `driver_override`.
//!
//! Linux `drivers/s390/crypto/ap_bus.c`: a queue belongs to the default drivers if its adapter is in the one mask *and* its
//! domain in the other; an override on a single queue decides before the masks. The two ways exclude each other.

use std::collections::BTreeMap;

use crycb::{Apqn, Mask256, Matrix};

use super::HostError;

/// A driver for queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Driver {
    /// The host's own: the host's programs use the queue.
    #[serde(rename = "cex4queue")]
    Default,
    /// Guests use the queue.
    #[serde(rename = "vfio_ap")]
    VfioAp,
}

impl Driver {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Default, Self::VfioAp];

    /// Its name below `/sys/bus/ap/drivers`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "cex4queue",
            Self::VfioAp => "vfio_ap",
        }
    }

    /// The driver of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|driver| driver.name() == name)
    }
}

/// One of the two masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskAttribute {
    /// `/sys/bus/ap/apmask`: adapters.
    Apmask,
    /// `/sys/bus/ap/aqmask`: domains.
    Aqmask,
}

impl MaskAttribute {
    /// Its file name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Apmask => "apmask",
            Self::Aqmask => "aqmask",
        }
    }
}

/// What `ap_attr_mutex` guards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    pub(super) apm: Mask256,
    pub(super) aqm: Mask256,
    /// `driver_override` of the queues that have one.
    pub(super) overrides: BTreeMap<Apqn, String>,
}

impl Default for Permissions {
    /// Every queue is the default drivers'.
    fn default() -> Self {
        Self { apm: Mask256::ALL, aqm: Mask256::ALL, overrides: BTreeMap::new() }
    }
}

/// A write to a mask that means something, not carried out yet.
pub(super) struct MaskWrite {
    attribute: MaskAttribute,
    mask: Mask256,
    /// What the default drivers would get that they do not have: of these the drivers in use are asked. Only numbers newly
    /// set count, so a write that takes numbers out is never refused.
    pub(super) reserved: Matrix,
}

impl Permissions {
    /// Both masks empty: every queue is for guests.
    pub const fn for_guests() -> Self {
        Self { apm: Mask256::EMPTY, aqm: Mask256::EMPTY, overrides: BTreeMap::new() }
    }

    /// Both masks as one matrix: the queues of the default drivers, overrides apart.
    pub fn masks(&self) -> Matrix {
        Matrix { apm: self.apm, aqm: self.aqm, adm: Mask256::EMPTY }
    }

    /// The driver that may bind the queue; `None` when an override names a driver that does not exist.
    pub fn driver(&self, apqn: Apqn) -> Option<Driver> {
        match self.overrides.get(&apqn) {
            Some(name) => Driver::named(name),
            None if self.masks().test(apqn) => Some(Driver::Default),
            None => Some(Driver::VfioAp),
        }
    }

    /// The queues of `matrix` that the default drivers own, whether they exist or not: as a mediated device may be assigned
    /// what comes into being later (`ap_apqn_in_matrix_owned_by_def_drv`).
    pub fn owned_by_default(&self, matrix: &Matrix) -> Option<Matrix> {
        self.all_owned_by_default(matrix).into_iter().next().map(|(owned, _)| owned)
    }

    /// The same, once for each override by which they own a queue, with that, and then what they own by the masks.
    pub(super) fn all_owned_by_default(&self, matrix: &Matrix) -> Vec<(Matrix, Option<&str>)> {
        let overridden = self.overrides.iter().filter(|(apqn, _)| matrix.test(**apqn));
        let (theirs, others): (Vec<_>, Vec<_>) =
            overridden.partition(|(_, name)| Driver::named(name) == Some(Driver::Default));
        let one = |apqn: Apqn| {
            let apm = Mask256::EMPTY.with(apqn.apid().0);
            Matrix { apm, aqm: Mask256::EMPTY.with(apqn.apqi().0), adm: Mask256::EMPTY }
        };
        let mut all: Vec<_> = theirs.iter().map(|(apqn, name)| (one(**apqn), Some(name.as_str()))).collect();
        let mut owned = matrix.and(&self.masks());
        owned.adm = Mask256::EMPTY;
        let decided = theirs.iter().chain(&others).filter(|(apqn, _)| owned.test(**apqn)).count();
        if owned.apm.count() as usize * owned.aqm.count() as usize > decided {
            all.push((owned, None));
        }
        all
    }

    /// A refusal for each override, all of which exclude the writes to the mask.
    pub(super) fn excluding(&self, attribute: MaskAttribute) -> impl Iterator<Item = HostError> {
        self.overrides.iter().map(move |(apqn, driver)| HostError::OverridesSet {
            attribute: attribute.name(),
            apqn: *apqn,
            driver: driver.clone(),
        })
    }

    /// Reads a text written to a mask: absolute, or relative to the mask as it is.
    ///
    /// # Errors
    /// [`HostError::Mask`]; [`HostError::OverridesSet`].
    pub(super) fn read_mask(&self, attribute: MaskAttribute, text: &str) -> Result<MaskWrite, HostError> {
        if let Some(excluded) = self.excluding(attribute).next() {
            return Err(excluded);
        }
        let before = match attribute {
            MaskAttribute::Apmask => self.apm,
            MaskAttribute::Aqmask => self.aqm,
        };
        let mask = before.write(text).map_err(|source| HostError::Mask {
            attribute: attribute.name().to_owned(),
            text: text.to_owned(),
            source,
        })?;
        let new = mask.minus(before);
        let reserved = match attribute {
            MaskAttribute::Apmask => Matrix { apm: new, aqm: self.aqm, adm: Mask256::EMPTY },
            MaskAttribute::Aqmask => Matrix { apm: self.apm, aqm: new, adm: Mask256::EMPTY },
        };
        Ok(MaskWrite { attribute, mask, reserved })
    }

    pub(super) fn commit_mask(&mut self, write: &MaskWrite) {
        match write.attribute {
            MaskAttribute::Apmask => self.apm = write.mask,
            MaskAttribute::Aqmask => self.aqm = write.mask,
        }
    }

    /// A write to a queue's `driver_override`; an empty text takes it away. Nothing is bound anew by it.
    ///
    /// # Errors
    /// [`HostError::MasksInUse`].
    pub(super) fn write_override(&mut self, apqn: Apqn, text: &str) -> Result<(), HostError> {
        if (self.apm, self.aqm) != (Mask256::ALL, Mask256::ALL) {
            return Err(HostError::MasksInUse(apqn));
        }
        match text.strip_suffix('\n').unwrap_or(text) {
            "" => self.overrides.remove(&apqn),
            name => self.overrides.insert(apqn, name.to_owned()),
        };
        Ok(())
    }
}
