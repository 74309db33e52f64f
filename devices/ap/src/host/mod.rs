//! The simulated AP host: a machine's cards, and what the Linux on it does with their queues.
//!
//! [`ApHost`] is made from a [`Description`] (JSON, see `docs/ap-host.md`) and the [`Machine`] below it. Its operations are the
//! sysfs writes of the vfio_ap documentation, with their names, texts and error numbers, and what a support element does.
//!
//! * [`Bus`]: cards, queues, and the driver each queue is bound to; the bus scan.
//! * [`Permissions`]: `apmask`, `aqmask`, `driver_override`.
//! * [`VfioAp`]: mediated devices, their matrices, and the rules by which events change their guests' APCBs. Pure.
//! * [`ApHost`]: all of them behind locks, with the guests.
//!
//! Locks, outermost first: bus, ap_attr (permissions), guests, a guest's VM, its PQAP hook, mdevs (vfio_ap). Except for the
//! first, which stands for the bus's scan mutex and device locks, they are the kernel's, in the kernel's order; taking them in
//! another order panics in tests ([`crate::lock`]).
//!
//! *Invariants*, at every moment: no queue is in two guests' APCBs; none is in an APCB that is not bound to vfio_ap, that the
//! host's configuration does not have, or whose last reset has not ended well. Nobody waits for a reset with a lock held
//! that another guest's queues need. A guest is told once about everything that one operation changed.
//!
//! Deliberately absent: queue contents, and a second copy of what a *running* guest may reach. Its CRYCB is the authority
//! there; [`Mdev::shadow`] is what was last ordered, as vfio_ap's shadow APCB is.

#![forbid(unsafe_code)]

mod adapter;
pub mod apcb;
mod bus;
mod changes;
mod description;
mod error;
mod events;
mod explain;
mod lpar;
mod machine;
mod mdev;
mod number;
mod operation;
mod permissions;
mod plan;
pub mod remote;
mod simulated;
mod snapshot;
mod steps;
mod sysfs;
#[cfg(any(test, feature = "record"))]
pub(crate) mod tree;
mod vfio_ap;
mod watch;

pub use adapter::{
    Adapter, Card, Cca, Ep11, Ep11Module, FirmwareVersion, Generation, HeldKey, MasterKey, MasterKeys,
    NewKey, NewWrappingKey, OpModes, WrappingKeys,
};
pub use bus::{Bus, CardDevice, QueueDevice};
pub use description::Description;
pub use error::HostError;
pub use events::{Event, EventKind, MatrixChange};
pub use explain::{Fate, Outcome, Rule, Subject, explain, explain_matrix};
pub use lpar::{Condition, Installed, Lpar, LparChange};
pub use machine::{IdealMachine, Machine};
pub use mdev::{Attribute, Mdev, MdevDefinition, MdevType, Start};
pub use number::{Number, Pattern};
pub use operation::Operation;
pub use permissions::{Driver, MaskAttribute, Permissions};
pub use plan::{BindingChange, Conflict, GuestChange, Loss, LossCause, Plan, Refusal};
pub use snapshot::{AdapterIdentity, AdapterState, MdevState, QueueState, Snapshot};
pub use sysfs::Sysfs;
pub use vfio_ap::{BoundQueue, Effects, MAX_MDEVS, QueueStatus, VfioAp};
pub use watch::{Teller, WAITING, Wake, Watch, watch};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crycb::{Apqn, Matrix, Qci};
use uuid::Uuid;

use crate::lock::{Rank, RankedMutex};
pub(crate) use events::Events;
use steps::Steps;

/// How long vfio_ap lets pass between two looks at a reset in progress.
pub const RESET_INTERVAL: Duration = Duration::from_millis(20);
/// How many looks before an operation stops waiting: two seconds.
pub const RESET_LOOKS: u32 = 100;
/// How many [`RESET_INTERVAL`]s a guest has to give a device back.
const RELEASE_LOOKS: u32 = 250;

/// A VM that has a mediated device open, as the host reaches it.
pub trait Guest: Send + Sync {
    /// Names the VM; a VM can have one mediated device.
    fn id(&self) -> u64;

    /// The VM's PQAP hook is there, or not any more.
    fn set_hook(&self, present: bool);

    /// Writes the APCB, with every CPU held off. Called with the host's locks held.
    fn set_masks(&self, matrix: &Matrix);

    /// The AP configuration changed, or an adapter's state: a channel report to the guest, an event to its operator. Called
    /// once for everything that one operation changed, without locks.
    fn config_changed(&self);

    /// The host wants the device back (VFIO's request interruption): detach, soon. Called without locks.
    fn request(&self);

    /// Waits until what [`set_masks`](Self::set_masks) ordered has happened. False: the VM does not answer, and is taken for
    /// gone. Called without locks.
    fn confirm(&self) -> bool {
        true
    }
}

/// The VM of a rehearsal.
struct Nobody {
    id: u64,
    /// Whether it was told of a change.
    told: AtomicBool,
}

impl Guest for Nobody {
    fn id(&self) -> u64 {
        self.id
    }
    fn set_hook(&self, _: bool) {}
    fn set_masks(&self, _: &Matrix) {}
    fn config_changed(&self) {
        self.told.store(true, Ordering::Relaxed);
    }
    fn request(&self) {}
}

/// What a host has besides that is a rehearsal.
struct Rehearsal {
    machine: Arc<IdealMachine>,
    /// The VMs that have devices open.
    guests: Vec<(Uuid, Arc<Nobody>)>,
}

/// A guest in the host's list, and its VM lock.
struct Slot {
    guest: Arc<dyn Guest>,
    vm: RankedMutex<()>,
}

type Guests = BTreeMap<Uuid, Arc<Slot>>;

/// A simulated host with its cards. All methods may be called from any thread.
pub struct ApHost {
    // Configuration, fixed at creation.
    /// What the description defines; a device that could not be started then is tried again when a guest asks for it.
    definitions: Vec<(Uuid, MdevDefinition)>,

    // Connections.
    machine: Arc<dyn Machine>,
    rehearsal: Option<Rehearsal>,
    events: Events,

    // State, in the order of the locks.
    bus: RankedMutex<Bus>,
    permissions: RankedMutex<Permissions>,
    guests: RankedMutex<Guests>,
    vfio_ap: RankedMutex<VfioAp>,
}

impl ApHost {
    /// The host of this description on `machine`, which is brought to the description's configuration. Its mediated devices
    /// are started in the order of the description; one that breaks a rule stays undone with a warning, and
    /// [`ApHost::attach`] tells which rule.
    pub fn new(description: &Description, machine: Arc<dyn Machine>) -> Self {
        let (apm, aqm) = description.perms().expect("a description is checked when it is read");
        let permissions = Permissions { apm, aqm, overrides: BTreeMap::new() };
        let host = Self::bare(Lpar::of(description), permissions, machine);
        let host = Self { definitions: description.mdevs().to_vec(), ..host };
        host.scan();
        for (uuid, definition) in &host.definitions {
            if let Err(error) = host.import(*uuid, definition) {
                log::warn!("start of an mdev failed ({}): {error}", error.errno());
            }
        }
        host
    }

    /// The host that is simulated if no description is given, on an [`IdealMachine`].
    pub fn builtin() -> Self {
        Self::rehearsal_of(&Description::builtin())
    }

    /// The host of this description on an [`IdealMachine`].
    pub fn rehearsal_of(description: &Description) -> Self {
        let machine = IdealMachine::new(Lpar::of(description));
        Self::new(description, Arc::new(machine))
    }

    /// A host in the state of `snapshot`, on an [`IdealMachine`]; where a VM had a device open, one that does nothing has.
    pub fn rehearsal(snapshot: &Snapshot) -> Self {
        let lpar = snapshot.lpar();
        let machine = Arc::new(IdealMachine::new(lpar.clone()));
        let mut host = Self::bare(lpar, snapshot.permissions(), machine.clone());
        host.scan();
        let mut nobodies = Vec::new();
        {
            let mut bus = host.bus.lock();
            for state in &snapshot.queues {
                if let Some(device) = bus.queues.get_mut(&state.queue) {
                    device.driver = state.driver;
                }
            }
            let mut guests = host.guests.lock();
            let mut vfio_ap = host.vfio_ap.lock();
            vfio_ap.restore(snapshot);
            for mdev in vfio_ap.mdevs() {
                if let Some(id) = mdev.guest {
                    let vm = RankedMutex::with_key(Rank::Vm, id, ());
                    let nobody = Arc::new(Nobody { id, told: AtomicBool::new(false) });
                    guests.insert(mdev.uuid, Arc::new(Slot { guest: nobody.clone(), vm }));
                    nobodies.push((mdev.uuid, nobody));
                }
            }
        }
        machine.forget_resets();
        host.rehearsal = Some(Rehearsal { machine, guests: nobodies });
        host
    }

    fn bare(lpar: Lpar, permissions: Permissions, machine: Arc<dyn Machine>) -> Self {
        machine.configure(&lpar);
        let qci = lpar.qci();
        let vfio_ap = VfioAp::new(Matrix::EMPTY, qci.max_apid(), qci.max_apqi());
        Self {
            definitions: Vec::new(),
            machine,
            rehearsal: None,
            events: Events::default(),
            bus: RankedMutex::new(Rank::Bus, Bus::new(lpar)),
            permissions: RankedMutex::new(Rank::ApAttr, permissions),
            guests: RankedMutex::new(Rank::Guests, Guests::new()),
            vfio_ap: RankedMutex::new(Rank::Mdevs, vfio_ap),
        }
    }

    // What can be seen.

    /// The whole state.
    pub fn snapshot(&self) -> Snapshot {
        let bus = self.bus.lock();
        let permissions = self.permissions.lock();
        let _guests = self.guests.lock();
        let vfio_ap = self.vfio_ap.lock();
        Snapshot::of(&bus, &permissions, &vfio_ap, |apqn| self.machine.statistics(apqn))
    }

    /// What PQAP(QCI) stores for the host itself.
    pub fn qci(&self) -> Qci {
        self.machine.qci()
    }

    /// The machine's configuration as the support element has it.
    pub fn lpar(&self) -> Lpar {
        self.bus.lock().lpar.clone()
    }

    /// A mediated device as it is now.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`].
    pub fn mdev(&self, uuid: Uuid) -> Result<Mdev, HostError> {
        let _guests = self.guests.lock();
        self.vfio_ap.lock().mdev(uuid).cloned()
    }

    /// sysfs `status` of a queue; `None` unless it is bound to vfio_ap. It is looked up under the mdevs lock alone, which every
    /// change holds too, so that it can be asked with a guest's PQAP hook held.
    pub fn status(&self, apqn: Apqn) -> Option<QueueStatus> {
        self.vfio_ap.lock().status(apqn)
    }

    /// What happens from now on. A watcher that does not take its events misses some and is told so.
    pub fn subscribe(&self) -> Watch {
        self.subscribe_and_wake(Box::new(|| {}))
    }

    /// As [`subscribe`](Self::subscribe), for a watcher who waits for other things too: `wake` is called after each event.
    pub fn subscribe_and_wake(&self, wake: Wake) -> Watch {
        self.events.subscribe(wake)
    }

    // Mediated devices.

    /// `create`: a mediated device with nothing assigned.
    ///
    /// # Errors
    /// [`HostError::MdevExists`], [`HostError::TooManyMdevs`].
    pub fn create_mdev(&self, uuid: Uuid) -> Result<(), HostError> {
        let _guests = self.guests.lock();
        self.vfio_ap.lock().create(uuid)?;
        self.events.emit(EventKind::MdevCreated { mdev: uuid });
        Ok(())
    }

    /// `remove`. A VM that has the device open is asked to give it back first.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`], [`HostError::NotReleased`].
    pub fn remove_mdev(&self, uuid: Uuid) -> Result<(), HostError> {
        self.reclaim(uuid)?;
        let mut steps = Steps::of(self);
        steps.step(Some(uuid), |vfio_ap| vfio_ap.remove_mdev(uuid))?;
        self.events.emit(EventKind::MdevRemoved { mdev: uuid });
        steps.finish();
        Ok(())
    }

    /// Creates a mediated device and carries out the writes of its definition, as mdevctl does. When one is refused, the
    /// device is removed again.
    ///
    /// # Errors
    /// Those of [`create_mdev`](Self::create_mdev) and [`write`](Self::write).
    pub fn import(&self, uuid: Uuid, definition: &MdevDefinition) -> Result<(), HostError> {
        self.create_mdev(uuid)?;
        let written = definition.attrs.iter().try_for_each(|attribute| self.write(uuid, attribute));
        written.inspect_err(|_| {
            if let Err(error) = self.remove_mdev(uuid) {
                log::warn!("remove an mdev whose definition was refused: {error}");
            }
        })
    }

    /// A write to an attribute of a mediated device. It may be in use by a guest, which then sees the change at once.
    ///
    /// # Errors
    /// Those of [`VfioAp::write`].
    pub fn write(&self, uuid: Uuid, attribute: &Attribute) -> Result<(), HostError> {
        let mut steps = Steps::of(self);
        {
            let permissions = self.permissions.lock();
            steps.step(Some(uuid), |vfio_ap| vfio_ap.write(uuid, attribute, &permissions))?;
        }
        let (name, value) = attribute.parts();
        let (attribute, value) = (name.to_owned(), value.trim_end().to_owned());
        self.events.emit(EventKind::Assigned { mdev: uuid, attribute, value });
        steps.finish();
        Ok(())
    }

    // Guests.

    /// Gives the mediated device to a VM and returns what the guest may reach, which has been written to its APCB. Its hook is
    /// set. A device that the description defines and that could not be started is tried again.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`]; [`HostError::Attached`]; [`HostError::SecondMdev`]; and what broke the device's start.
    /// Then the VM is as before.
    pub fn attach(&self, uuid: Uuid, guest: Arc<dyn Guest>) -> Result<Matrix, HostError> {
        let started = {
            let _guests = self.guests.lock();
            self.vfio_ap.lock().mdev(uuid).is_ok()
        };
        if let (false, Some((_, definition))) =
            (started, self.definitions.iter().find(|(defined, _)| *defined == uuid))
        {
            self.import(uuid, definition)?;
        }
        let mut steps = Steps::of(self);
        let mut guests = self.guests.lock();
        let vm = RankedMutex::with_key(Rank::Vm, guest.id(), ());
        let slot = Arc::new(Slot { guest, vm });
        let held = slot.vm.lock();
        // Before anything of the VM is touched: a refusal must not leave a hook, nor take one that another device set.
        let (before, effects) = {
            let mut vfio_ap = self.vfio_ap.lock();
            (vfio_ap.mdev(uuid)?.shadow, vfio_ap.attach(uuid, slot.guest.id())?)
        };
        slot.guest.set_hook(true);
        let mut vfio_ap = self.vfio_ap.lock();
        let matrix = vfio_ap.mdev(uuid).expect("attached just now").shadow;
        slot.guest.set_masks(&matrix);
        steps.carry_out(&mut vfio_ap, Some((uuid, before)), None, effects);
        drop((vfio_ap, held));
        guests.insert(uuid, slot);
        drop(guests);
        self.events.emit(EventKind::Attached { mdev: uuid });
        steps.finish();
        Ok(matrix)
    }

    /// Takes the mediated device from its VM: hook and APCB are cleared, then every queue of the device is reset.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`], [`HostError::NotAttached`].
    pub fn detach(&self, uuid: Uuid) -> Result<(), HostError> {
        self.detach_if(uuid, |_| true)
    }

    /// [`detach`](Self::detach), unless another VM than `vm` has the device by now.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`], [`HostError::NotAttached`].
    pub fn detach_vm(&self, uuid: Uuid, vm: u64) -> Result<(), HostError> {
        self.detach_if(uuid, |guest| guest.id() == vm)
    }

    fn detach_if(&self, uuid: Uuid, wanted: impl FnOnce(&dyn Guest) -> bool) -> Result<(), HostError> {
        let mut steps = Steps::of(self);
        {
            let mut guests = self.guests.lock();
            self.vfio_ap.lock().mdev(uuid)?;
            if !guests.get(&uuid).is_some_and(|slot| wanted(&*slot.guest)) {
                return Err(HostError::NotAttached(uuid));
            }
            let slot = guests.remove(&uuid).expect("looked at above");
            let _vm = slot.vm.lock();
            slot.guest.set_hook(false);
            let mut vfio_ap = self.vfio_ap.lock();
            let effects = vfio_ap.detach(uuid).expect("it is in the list of guests");
            slot.guest.set_masks(&Matrix::EMPTY);
            steps.carry_out(&mut vfio_ap, None, None, effects);
        }
        self.events.emit(EventKind::Detached { mdev: uuid });
        steps.finish();
        Ok(())
    }

    /// `VFIO_DEVICE_RESET`: resets every queue of the device and waits for the end.
    ///
    /// # Errors
    /// [`HostError::UnknownMdev`]; [`HostError::ResetFailed`] when a queue's reset ended with anything but 00 or has not
    /// ended.
    pub fn reset_device(&self, uuid: Uuid) -> Result<(), HostError> {
        let mut steps = Steps::of(self);
        steps.step(Some(uuid), |vfio_ap| vfio_ap.reset_device(uuid))?;
        let outcomes = steps.finish();
        let failed: Vec<Apqn> = outcomes.iter().filter(|(_, code)| **code != 0).map(|(q, _)| *q).collect();
        match failed.first() {
            None => Ok(()),
            Some(first) => {
                let code = outcomes[first];
                Err(HostError::ResetFailed { mdev: uuid, queues: failed, code })
            }
        }
    }

    /// Asks the VM that has the device open, if one has, to give it back, and waits for that. Its APCB is cleared first.
    fn reclaim(&self, uuid: Uuid) -> Result<(), HostError> {
        let slot = {
            let guests = self.guests.lock();
            let Some(slot) = guests.get(&uuid).cloned() else { return Ok(()) };
            let _vm = slot.vm.lock();
            let _vfio_ap = self.vfio_ap.lock();
            slot.guest.set_masks(&Matrix::EMPTY);
            slot.clone()
        };
        slot.guest.config_changed();
        slot.guest.request();
        for _ in 0..RELEASE_LOOKS {
            if !self.guests.lock().contains_key(&uuid) {
                return Ok(());
            }
            self.machine.pause(RESET_INTERVAL);
        }
        Err(HostError::NotReleased(uuid))
    }

    // The AP bus.

    /// A write to `apmask` or `aqmask`: queues are bound anew as the masks say.
    ///
    /// # Errors
    /// [`HostError::Mask`], [`HostError::OverridesSet`], [`HostError::MaskInUse`]. Then nothing has changed.
    pub fn write_mask(&self, attribute: MaskAttribute, text: &str) -> Result<(), HostError> {
        let mut steps = Steps::of(self);
        let mut bus = self.bus.lock();
        {
            let mut permissions = self.permissions.lock();
            let write = permissions.read_mask(attribute, text)?;
            {
                let _guests = self.guests.lock();
                self.vfio_ap.lock().in_use(attribute.name(), &write.reserved)?;
            }
            permissions.commit_mask(&write);
            let (apmask, aqmask) = (permissions.apm.to_string(), permissions.aqm.to_string());
            self.events.emit(EventKind::Masks { apmask, aqmask });
        }
        let misplaced = bus.release_misplaced(&mut steps);
        drop(bus);
        steps.settle();
        self.bus.lock().bind_anew(&misplaced, &mut steps);
        steps.finish();
        Ok(())
    }

    /// A write to a queue's `driver_override`. Nothing is bound anew.
    ///
    /// # Errors
    /// [`HostError::NoQueue`], [`HostError::MasksInUse`].
    pub fn write_override(&self, apqn: Apqn, driver: &str) -> Result<(), HostError> {
        let bus = self.bus.lock();
        if !bus.queues.contains_key(&apqn) {
            return Err(HostError::NoQueue(apqn));
        }
        self.permissions.lock().write_override(apqn, driver)
    }

    /// `bind`: a driver gets the queue, if masks and override leave it to that driver.
    ///
    /// # Errors
    /// [`HostError::NoQueue`], [`HostError::Bound`], [`HostError::WrongDriver`].
    pub fn bind(&self, apqn: Apqn, driver: Driver) -> Result<(), HostError> {
        let mut steps = Steps::of(self);
        self.bus.lock().bind(apqn, driver, &mut steps)?;
        steps.finish();
        Ok(())
    }

    /// `unbind`: the queue's driver gives it up.
    ///
    /// # Errors
    /// [`HostError::NoQueue`], [`HostError::Unbound`].
    pub fn unbind(&self, apqn: Apqn) -> Result<(), HostError> {
        let mut steps = Steps::of(self);
        self.bus.lock().unbind(apqn, &mut steps)?;
        steps.tell_early();
        steps.settle();
        self.bus.lock().note_reset(apqn, &steps);
        steps.finish();
        Ok(())
    }

    /// Everything that stands in the way of an operation as things are, not only what it is refused for first.
    fn obstacles(&self, operation: &Operation) -> Vec<HostError> {
        let permissions = self.permissions.lock();
        let _guests = self.guests.lock();
        let vfio_ap = self.vfio_ap.lock();
        match operation {
            Operation::Write { mdev, attribute } => {
                vfio_ap.obstacles(*mdev, std::slice::from_ref(attribute), &permissions)
            }
            Operation::Import { mdev, definition } => {
                vfio_ap.obstacles(*mdev, &definition.attrs, &permissions)
            }
            Operation::WriteMask { mask, value } if permissions.overrides.is_empty() => {
                let write = permissions.read_mask(*mask, value);
                write.map_or_else(|e| vec![e], |w| vfio_ap.users(mask.name(), &w.reserved).collect())
            }
            Operation::WriteMask { mask, .. } => permissions.excluding(*mask).collect(),
            _ => Vec::new(),
        }
    }

    /// A scan of the AP bus, sysfs `scans`.
    pub fn scan(&self) {
        let mut steps = Steps::of(self);
        self.bus.lock().scan(&*self.machine, &mut steps);
        steps.finish();
    }

    /// The support element makes changes, all at once, and the bus is told to scan.
    ///
    /// # Errors
    /// [`HostError::Configuration`]; then nothing has changed.
    pub fn configure(&self, changes: &[LparChange]) -> Result<(), HostError> {
        let mut steps = Steps::of(self);
        let mut bus = self.bus.lock();
        let mut lpar = bus.lpar.clone();
        changes.iter().try_for_each(|change| lpar.change(change))?;
        self.machine.configure(&lpar);
        bus.lpar = lpar;
        bus.scan(&*self.machine, &mut steps);
        drop(bus);
        steps.finish();
        Ok(())
    }
}

impl std::fmt::Debug for ApHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApHost").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
