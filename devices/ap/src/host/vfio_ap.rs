//! The vfio_ap driver: mediated devices, the queues bound to it, and what each event makes of its guests' APCBs.
//!
//! Pure: every method is one event of Linux's driver (`drivers/s390/crypto/vfio_ap_ops.c`), changes this state at once and
//! returns what has to be done to the outside, [`Effects`]. It knows neither locks nor hardware; [`super::ApHost`] carries the
//! effects out and reports back with [`VfioAp::record_reset`].
//!
//! Two properties of the driver shape all of it. Events that *add* (assignment, binding, the end of a bus scan) filter the
//! whole matrix anew; events that *remove* clear bits and filter nothing, so that what a guest has depends on history. And a
//! single queue cannot be withheld: where one is missing, its adapter goes.

use std::collections::BTreeMap;

use crycb::filter::{self, QueueTable, Queues, passable_after};
use crycb::{Apid, Apqi, Apqn, Mask256, Matrix};
use uuid::Uuid;

use super::mdev::{Attribute, Mdev, Surroundings};
use super::{Driver, HostError, Permissions, Snapshot};

/// How many mediated devices can be created, `available_instances`.
pub const MAX_MDEVS: usize = 65_536;

/// What has to be done after an event, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Effects {
    /// The mediated device's guest, if it has one, gets its APCB rewritten.
    pub apcb: bool,
    /// Queues to zeroize (ZAPQ) before anyone else may use them.
    pub resets: Vec<Apqn>,
    /// Queues whose interruption resources are freed without a reset: they are not in the configuration any more.
    pub releases: Vec<Apqn>,
}

/// A queue bound to vfio_ap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundQueue {
    /// The response code with which the last reset ended, or with which it stands while it is in progress.
    pub last_reset: u8,
    /// A filter would have passed the queue but for the reset in progress: its end filters again.
    pub(super) awaited: bool,
    /// The number of its last reset since it was bound.
    reset: u64,
}

/// The driver's state.
#[derive(Clone, Debug)]
pub struct VfioAp {
    /// The host's configuration as the bus last told it.
    info: Matrix,
    max_apid: u8,
    max_apqi: u8,
    /// In the order of their creation.
    mdevs: Vec<Mdev>,
    queues: BTreeMap<Apqn, BoundQueue>,
    /// What the filter asks about `queues`, in the form in which it is fastest.
    table: Box<QueueTable>,
    /// Counts resets.
    resets: u64,
}

/// The status word of sysfs `status`, of a queue bound to vfio_ap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum QueueStatus {
    /// Assigned to no mediated device.
    #[serde(rename = "unassigned")]
    Unassigned,
    /// Assigned to a mediated device, not in a guest.
    #[serde(rename = "assigned")]
    Assigned,
    /// In the APCB of a guest.
    #[serde(rename = "in use")]
    InUse,
}

impl QueueStatus {
    /// As sysfs prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unassigned => "unassigned",
            Self::Assigned => "assigned",
            Self::InUse => "in use",
        }
    }
}

impl VfioAp {
    /// A driver without devices on a host with this configuration and these highest numbers.
    pub fn new(info: Matrix, max_apid: u8, max_apqi: u8) -> Self {
        Self {
            info,
            max_apid,
            max_apqi,
            mdevs: Vec::new(),
            queues: BTreeMap::new(),
            table: Box::default(),
            resets: 0,
        }
    }

    /// The mediated devices in the order of their creation.
    pub fn mdevs(&self) -> &[Mdev] {
        &self.mdevs
    }

    /// The mediated device of this name.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`], which names those there are.
    pub fn mdev(&self, uuid: Uuid) -> Result<&Mdev, HostError> {
        self.mdevs.iter().find(|m| m.uuid == uuid).ok_or_else(|| self.unknown(uuid))
    }

    /// The mediated device that the queue is assigned to.
    pub fn mdev_of(&self, apqn: Apqn) -> Option<&Mdev> {
        self.mdevs.iter().find(|m| m.matrix.test(apqn))
    }

    /// The queue, if it is bound to vfio_ap.
    pub fn queue(&self, apqn: Apqn) -> Option<&BoundQueue> {
        self.queues.get(&apqn)
    }

    /// The queues bound to vfio_ap, ascending.
    pub fn queues(&self) -> impl Iterator<Item = (Apqn, &BoundQueue)> {
        self.queues.iter().map(|(apqn, queue)| (*apqn, queue))
    }

    /// The host's configuration as the driver knows it.
    pub fn info(&self) -> &Matrix {
        &self.info
    }

    /// sysfs `status` of a queue; `None` unless it is bound to vfio_ap.
    pub fn status(&self, apqn: Apqn) -> Option<QueueStatus> {
        self.queues.get(&apqn)?;
        Some(match self.mdev_of(apqn) {
            None => QueueStatus::Unassigned,
            Some(mdev) if mdev.guest.is_some() && mdev.shadow.test(apqn) => QueueStatus::InUse,
            Some(_) => QueueStatus::Assigned,
        })
    }

    /// Creates a mediated device with nothing assigned.
    ///
    /// # Errors
    /// [`HostError::MdevExists`], [`HostError::TooManyMdevs`].
    pub fn create(&mut self, uuid: Uuid) -> Result<(), HostError> {
        if self.mdev(uuid).is_ok() {
            return Err(HostError::MdevExists(uuid));
        }
        if self.mdevs.len() >= MAX_MDEVS {
            return Err(HostError::TooManyMdevs);
        }
        self.mdevs.push(Mdev::new(uuid));
        Ok(())
    }

    /// Removes a mediated device that has no guest.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`], [`HostError::Attached`].
    pub fn remove_mdev(&mut self, uuid: Uuid) -> Result<Effects, HostError> {
        let mdev = self.mdev(uuid)?;
        if mdev.guest.is_some() {
            return Err(HostError::Attached(uuid));
        }
        let resets = self.linked(&mdev.matrix);
        self.mdevs.retain(|m| m.uuid != uuid);
        Ok(Effects { resets, ..Effects::default() })
    }

    /// A write to an attribute of a mediated device.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`]; [`HostError::Value`] and [`HostError::Mask`]; [`HostError::AboveMaximum`];
    /// [`HostError::HostOwned`], [`HostError::Shared`]. Then nothing has changed.
    pub fn write(
        &mut self,
        uuid: Uuid,
        attribute: &Attribute,
        permissions: &Permissions,
    ) -> Result<Effects, HostError> {
        let at = self.index(uuid)?;
        let old = self.mdevs[at].matrix;
        let new = attribute.write(uuid, old, &View { driver: self, permissions })?;
        if new == old && !matches!(attribute, Attribute::ApConfig(_)) {
            return Ok(Effects::default());
        }
        let mut effects = Effects::default();
        self.unplug(at, &old.minus(&new), &mut effects);
        self.mdevs[at].matrix = new;
        match attribute {
            Attribute::AssignAdapter(_) | Attribute::AssignDomain(_) => self.filter_matrix(at, &mut effects),
            Attribute::AssignControlDomain(_) => self.filter_control_domains(at, &mut effects),
            Attribute::ApConfig(_) => {
                self.filter_matrix(at, &mut effects);
                self.filter_control_domains(at, &mut effects);
            }
            Attribute::UnassignAdapter(_)
            | Attribute::UnassignDomain(_)
            | Attribute::UnassignControlDomain(_) => {}
        }
        Ok(effects)
    }

    /// A queue was bound to the driver. `last_reset` is 00 unless the bus knows that the queue's last reset failed.
    ///
    /// While additions to the host's configuration are pending for the queue's mediated device, nothing is filtered: the end
    /// of the scan does that once.
    /// A queue whose last reset failed is reset again and stays out of guests until that has ended well. Linux forgets how
    /// the former driver's reset ended; here what a guest may have left in the queue keeps the next one out.
    pub fn probe(&mut self, apqn: Apqn, last_reset: u8) -> Effects {
        self.queues.insert(apqn, BoundQueue { last_reset, awaited: false, reset: 0 });
        self.table.set(apqn, Some(last_reset));
        let mut effects = Effects::default();
        if !passable_after(last_reset) {
            effects.resets.push(apqn);
        }
        if let Some(at) = self.index_of(apqn) {
            let adding = &self.mdevs[at].adding;
            if adding.apm.is_empty() && adding.aqm.is_empty() {
                self.filter_matrix(at, &mut effects);
            }
        }
        effects
    }

    /// A queue goes away from the driver. If a mediated device's APCB has it, the whole adapter leaves that APCB and all the
    /// adapter's queues in it are reset. Otherwise the queue is reset, or only relieved of its interruption when the host's
    /// configuration does not have it any more.
    pub fn remove(&mut self, apqn: Apqn) -> Effects {
        let mut effects = Effects::default();
        let plugged = self.index_of(apqn).filter(|&at| self.mdevs[at].shadow.test(apqn));
        if let Some(at) = plugged {
            let apid = apqn.apid();
            self.mdevs[at].shadow.apm.clear(apid.0);
            effects.apcb = true;
            let aqm = self.mdevs[at].shadow.aqm;
            effects.resets.extend(self.bound(apid, &aqm));
        } else if self.info.test(apqn) {
            effects.resets.push(apqn);
        } else {
            effects.releases.push(apqn);
        }
        self.queues.remove(&apqn);
        self.table.set(apqn, None);
        effects
    }

    /// The host's configuration loses these adapters, domains and control domains: they leave the device's APCB. The first of
    /// three steps of `on_config_changed`, for one mediated device.
    pub fn configuration_removed(&mut self, uuid: Uuid, removed: &Matrix) -> Effects {
        let mut effects = Effects::default();
        if let Ok(at) = self.index(uuid) {
            let mdev = &mut self.mdevs[at];
            let before = mdev.shadow;
            mdev.shadow = before.minus(removed);
            effects.apcb = mdev.shadow != before;
        }
        effects
    }

    /// The host's configuration gains these; those assigned to mediated devices are noted until the scan ends. The second
    /// step of `on_config_changed`.
    pub fn configuration_added(&mut self, added: &Matrix) {
        for mdev in &mut self.mdevs {
            mdev.adding = mdev.matrix.and(added);
        }
    }

    /// The last step of `on_config_changed`: the host's configuration is this.
    pub fn set_configuration(&mut self, info: Matrix) {
        self.info = info;
    }

    /// The bus scan after a change of the configuration ended; for one mediated device.
    pub fn scan_complete(&mut self, uuid: Uuid) -> Effects {
        let mut effects = Effects::default();
        if let Ok(at) = self.index(uuid) {
            // What was unassigned during the scan does not count (`vfio_ap_mdev_hot_plug_cfg`).
            let adding = std::mem::take(&mut self.mdevs[at].adding).and(&self.mdevs[at].matrix);
            if !adding.apm.is_empty() || !adding.aqm.is_empty() {
                self.filter_matrix(at, &mut effects);
            }
            if !adding.adm.is_empty() {
                self.filter_control_domains(at, &mut effects);
            }
        }
        effects
    }

    /// The in-use callback: refuses when a mediated device has a queue of `reserved`, whether it is bound or not.
    ///
    /// # Errors
    /// [`HostError::MaskInUse`].
    pub fn in_use(&self, attribute: &'static str, reserved: &Matrix) -> Result<(), HostError> {
        self.users(attribute, reserved).next().map_or(Ok(()), Err)
    }

    /// A refusal for each mediated device that has a queue of `reserved`, in the order in which Linux looks.
    pub(super) fn users(
        &self,
        attribute: &'static str,
        reserved: &Matrix,
    ) -> impl Iterator<Item = HostError> {
        let users = self.mdevs.iter().filter(|m| m.matrix.shared_apqns(reserved).next().is_some());
        users.map(move |mdev| {
            let queues = Box::new(Matrix { adm: Mask256::EMPTY, ..mdev.matrix.and(reserved) });
            HostError::MaskInUse { attribute, mdev: mdev.uuid, queues }
        })
    }

    /// Everything that refuses these writes, one after the other, to the mediated device, as if nothing did. A device that
    /// does not exist is taken for one with nothing assigned.
    pub(super) fn obstacles(
        &self,
        uuid: Uuid,
        attributes: &[Attribute],
        permissions: &Permissions,
    ) -> Vec<HostError> {
        let view = View { driver: self, permissions };
        let mut matrix = self.mdev(uuid).map(|mdev| mdev.matrix).unwrap_or_default();
        let (before, mut obstacles) = (matrix, Vec::new());
        for attribute in attributes {
            match attribute.write(uuid, matrix, &Unowned(&view)) {
                Ok(after) => matrix = after,
                Err(error) => obstacles.push(error),
            }
        }
        if matrix != before {
            obstacles.splice(0..0, view.owners(uuid, &matrix));
        }
        obstacles
    }

    /// The device is opened by the VM `guest`, which gets the APCB as it is (`vfio_ap_mdev_set_kvm`). Only if a queue's last
    /// reset has not ended well since the last filter is it filtered now: what a former guest may have left keeps the adapter
    /// from this one. Linux, which waits for resets when a device is closed, but not for good ones, does not do that.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`], [`HostError::Attached`], [`HostError::SecondMdev`].
    pub fn attach(&mut self, uuid: Uuid, guest: u64) -> Result<Effects, HostError> {
        let at = self.index(uuid)?;
        if self.mdevs[at].guest.is_some() {
            return Err(HostError::Attached(uuid));
        }
        if let Some(other) = self.mdevs.iter().find(|m| m.guest == Some(guest)) {
            return Err(HostError::SecondMdev { mdev: uuid, other: other.uuid });
        }
        self.mdevs[at].guest = Some(guest);
        let mut effects = Effects::default();
        if self
            .queues
            .iter()
            .any(|(q, queue)| self.mdevs[at].shadow.test(*q) && !passable_after(queue.last_reset))
        {
            self.filter_matrix(at, &mut effects);
        }
        Ok(Effects { apcb: true, ..effects })
    }

    /// The device is closed. The guest's APCB is cleared before the queues are reset, which is the caller's to do.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`], [`HostError::NotAttached`].
    pub fn detach(&mut self, uuid: Uuid) -> Result<Effects, HostError> {
        let at = self.index(uuid)?;
        self.mdevs[at].guest.take().ok_or(HostError::NotAttached(uuid))?;
        let resets = self.linked(&self.mdevs[at].matrix);
        Ok(Effects { resets, ..Effects::default() })
    }

    /// `VFIO_DEVICE_RESET`: every queue of the device is reset, the APCB stays.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`].
    pub fn reset_device(&self, uuid: Uuid) -> Result<Effects, HostError> {
        let resets = self.linked(&self.mdev(uuid)?.matrix);
        Ok(Effects { resets, ..Effects::default() })
    }

    /// Notes that a reset of the queue begins, which stands as `response_code` says. Its number, which no other has.
    pub(super) fn begin_reset(&mut self, apqn: Apqn, response_code: u8) -> u64 {
        self.resets += 1;
        if let Some(queue) = self.queues.get_mut(&apqn) {
            queue.reset = self.resets;
        }
        let _ = self.record_reset(apqn, response_code, false);
        self.resets
    }

    /// Whether the queue is bound as it was when the reset of this number began, and that was its last. Otherwise another
    /// operation waits for a later reset, whose end counts.
    pub(super) fn is_last_reset(&self, apqn: Apqn, number: u64) -> bool {
        self.queues.get(&apqn).is_some_and(|queue| queue.reset == number)
    }

    /// Notes how a reset of the queue stands. Anything but 00, 03 and 04 keeps its adapter from guests, and takes it from the
    /// one that has it when `ended`; Linux leaves it there until the next filter. A filter that had to leave the queue out
    /// because of a reset in progress is made up for when `ended`.
    pub fn record_reset(&mut self, apqn: Apqn, response_code: u8, ended: bool) -> Effects {
        let mut effects = Effects::default();
        let Some(queue) = self.queues.get_mut(&apqn) else { return effects };
        queue.last_reset = response_code;
        self.table.set(apqn, Some(response_code));
        let passable = passable_after(response_code);
        let awaited = ended && passable && std::mem::take(&mut queue.awaited);
        if let Some(at) = self.index_of(apqn)
            && (awaited || (ended && !passable && self.mdevs[at].shadow.test(apqn)))
        {
            self.filter_matrix(at, &mut effects);
        }
        effects
    }

    /// Makes this the state of a snapshot, without VMs but with those devices marked that had one.
    pub(super) fn restore(&mut self, snapshot: &Snapshot) {
        self.queues = snapshot
            .queues
            .iter()
            .filter(|queue| queue.driver == Some(Driver::VfioAp))
            .map(|queue| (queue.queue, BoundQueue { last_reset: queue.last_reset, awaited: false, reset: 0 }))
            .collect();
        *self.table = QueueTable::new();
        self.queues.iter().for_each(|(&apqn, queue)| self.table.set(apqn, Some(queue.last_reset)));
        self.mdevs = (1..)
            .zip(&snapshot.mdevs)
            .map(|(vm, state)| Mdev {
                matrix: state.matrix,
                shadow: state.guest_matrix,
                guest: state.attached.then_some(vm),
                ..Mdev::new(state.uuid)
            })
            .collect();
    }

    fn filter_matrix(&mut self, at: usize, effects: &mut Effects) {
        let mdev = &self.mdevs[at];
        let (before, assigned) = (mdev.shadow, mdev.matrix);
        let filtered = filter::filter_matrix(&assigned, &self.info, &*self.table, &before);
        let after = filtered.guest;
        self.mdevs[at].shadow = after;
        effects.apcb |= filtered.changed;
        effects.resets.extend(filtered.resets(&*self.table));
        for apid in assigned.and(&self.info).apm.minus(after.apm).iter() {
            for apqi in self.table.unpassable(Apid(apid), &after.aqm).iter() {
                if let Some(queue) = self.queues.get_mut(&Apqn::new(Apid(apid), Apqi(apqi))) {
                    queue.awaited = true;
                }
            }
        }
    }

    fn filter_control_domains(&mut self, at: usize, effects: &mut Effects) {
        let mdev = &mut self.mdevs[at];
        let filtered = filter::filter_control_domains(&mdev.matrix, &self.info, &mdev.shadow);
        mdev.shadow = filtered.guest;
        effects.apcb |= filtered.changed;
    }

    /// Takes what is unassigned out of the APCB; adapters first, then domains. No filter.
    fn unplug(&mut self, at: usize, removed: &Matrix, effects: &mut Effects) {
        let mdev = &self.mdevs[at];
        let (shadow, matrix) = (mdev.shadow, mdev.matrix);
        let plugged = matrix.and(&shadow);
        for apid in plugged.apm.iter() {
            let gone = if removed.apm.test(apid) { plugged.aqm } else { plugged.aqm & removed.aqm };
            effects.resets.extend(self.bound(Apid(apid), &gone));
        }
        let after = shadow.minus(removed);
        self.mdevs[at].shadow = after;
        effects.apcb |= after != shadow;
    }

    /// The bound queues of a device with this matrix.
    fn linked(&self, matrix: &Matrix) -> Vec<Apqn> {
        self.queues.keys().copied().filter(|q| matrix.test(*q)).collect()
    }

    fn bound(&self, apid: Apid, aqm: &Mask256) -> Vec<Apqn> {
        self.table.bound(apid, aqm).iter().map(|apqi| Apqn::new(apid, Apqi(apqi))).collect()
    }

    fn index(&self, uuid: Uuid) -> Result<usize, HostError> {
        self.mdevs.iter().position(|m| m.uuid == uuid).ok_or_else(|| self.unknown(uuid))
    }

    fn index_of(&self, apqn: Apqn) -> Option<usize> {
        self.mdevs.iter().position(|m| m.matrix.test(apqn))
    }

    fn unknown(&self, uuid: Uuid) -> HostError {
        HostError::UnknownMdev { uuid, known: self.mdevs.iter().map(|m| m.uuid).collect() }
    }
}

/// What a write to an attribute asks about: the driver and the bus's permissions.
struct View<'a> {
    driver: &'a VfioAp,
    permissions: &'a Permissions,
}

impl Surroundings for View<'_> {
    fn highest(&self) -> (u8, u8) {
        (self.driver.max_apid, self.driver.max_apqi)
    }

    /// Both checks look at every APQN of the matrix, whether such a queue exists or not, as `vfio_ap_mdev_validate_masks`
    /// does: what comes into being later must not belong to two.
    fn check_owners(&self, mdev: Uuid, matrix: &Matrix) -> Result<(), HostError> {
        self.owners(mdev, matrix).next().map_or(Ok(()), Err)
    }
}

impl View<'_> {
    /// A refusal for each owner of queues in the matrix, in the order in which Linux looks: the default drivers, then the other
    /// mediated devices.
    fn owners(&self, mdev: Uuid, matrix: &Matrix) -> impl Iterator<Item = HostError> {
        let reserved = self.permissions.all_owned_by_default(matrix).into_iter().map(move |(queues, by)| {
            HostError::HostOwned { mdev, queues: queues.into(), overridden: by.map(str::to_owned) }
        });
        let matrix = *matrix;
        let others = self
            .driver
            .mdevs
            .iter()
            .filter(move |m| m.uuid != mdev && matrix.shared_apqns(&m.matrix).next().is_some());
        let shared = others.map(move |other| {
            let queues = Box::new(Matrix { adm: Mask256::EMPTY, ..matrix.and(&other.matrix) });
            HostError::Shared { mdev, other: other.uuid, queues }
        });
        reserved.chain(shared)
    }
}

/// The same surroundings, where no queue has an owner.
struct Unowned<'a>(&'a View<'a>);

impl Surroundings for Unowned<'_> {
    fn highest(&self) -> (u8, u8) {
        self.0.highest()
    }

    fn check_owners(&self, _: Uuid, _: &Matrix) -> Result<(), HostError> {
        Ok(())
    }
}
