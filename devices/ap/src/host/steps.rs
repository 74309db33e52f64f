//! One operation of the host: events to the driver under their locks, what follows from each, and at the end one word to each
//! guest concerned.

use std::collections::BTreeMap;
use std::sync::Arc;

use crycb::{Apid, Apqn, Mask256, Matrix};
use uuid::Uuid;

use super::bus::{Drivers, OLDEST_TYPE};
use super::vfio_ap::{Effects, VfioAp};
use super::{ApHost, Condition, Driver, EventKind, Guests, HostError, RESET_INTERVAL, RESET_LOOKS, Slot};
use crycb::filter::passable_after;

/// An operation going on.
pub(super) struct Steps<'h> {
    host: &'h ApHost,
    /// Guests to be told at the end.
    told: BTreeMap<Uuid, Arc<Slot>>,
    /// Resets that have not ended.
    resets: Vec<Reset>,
    /// Queues whose reset is over, whatever the outcome, with what follows from it to be done.
    over: Vec<(Apqn, u64)>,
    /// How the resets of this operation ended.
    outcomes: BTreeMap<Apqn, u8>,
}

struct Reset {
    apqn: Apqn,
    /// Among all resets.
    number: u64,
    /// A guest may use the queue meanwhile.
    kept: bool,
    /// What ZAPQ answered: after 02, 05 and 0A it did nothing and is issued again.
    answer: u8,
    /// How often TAPQ was asked.
    looks: u32,
}

impl<'h> Steps<'h> {
    pub(super) fn of(host: &'h ApHost) -> Self {
        Self { host, told: BTreeMap::new(), resets: Vec::new(), over: Vec::new(), outcomes: BTreeMap::new() }
    }

    /// One event, for the mediated device `uuid` if it concerns one: under the guests lock, the VM lock of its guest and the
    /// mdevs lock.
    pub(super) fn step(
        &mut self,
        uuid: Option<Uuid>,
        event: impl FnOnce(&mut VfioAp) -> Result<Effects, HostError>,
    ) -> Result<(), HostError> {
        let guests = self.host.guests.lock();
        self.step_under(&guests, uuid, event)
    }

    fn step_under(
        &mut self,
        guests: &Guests,
        uuid: Option<Uuid>,
        event: impl FnOnce(&mut VfioAp) -> Result<Effects, HostError>,
    ) -> Result<(), HostError> {
        let slot = uuid.and_then(|uuid| guests.get(&uuid)).cloned();
        let _vm = slot.as_ref().map(|slot| slot.vm.lock());
        let mut vfio_ap = self.host.vfio_ap.lock();
        let before = uuid.and_then(|uuid| Some((uuid, vfio_ap.mdev(uuid).ok()?.shadow)));
        let effects = event(&mut vfio_ap)?;
        self.carry_out(&mut vfio_ap, before, slot.as_ref(), effects);
        Ok(())
    }

    /// An event that cannot be refused, of the mediated device that has the queue.
    fn queue_step(&mut self, apqn: Apqn, event: impl FnOnce(&mut VfioAp) -> Effects) {
        let guests = self.host.guests.lock();
        // Assignments change under the guests lock only.
        let uuid = self.host.vfio_ap.lock().mdev_of(apqn).map(|mdev| mdev.uuid);
        self.step_under(&guests, uuid, |vfio_ap| Ok(event(vfio_ap))).expect("it is not refused");
    }

    /// First the APCB, then the resets: no guest may use a queue that is being reset. `before` names the mediated device with
    /// its guest's matrix before the event.
    pub(super) fn carry_out(
        &mut self,
        vfio_ap: &mut VfioAp,
        before: Option<(Uuid, Matrix)>,
        slot: Option<&Arc<Slot>>,
        effects: Effects,
    ) {
        if let (true, Some((uuid, before))) = (effects.apcb, before) {
            let after = vfio_ap.mdev(uuid).map_or(Matrix::EMPTY, |mdev| mdev.shadow);
            if let Some(slot) = slot {
                slot.guest.set_masks(&after);
                self.told.insert(uuid, slot.clone());
            }
            if let Some(kind) = EventKind::guest_matrix(uuid, &before, &after) {
                self.host.events.emit(kind);
            }
        }
        for apqn in effects.resets {
            self.begin_reset(apqn, vfio_ap);
        }
        for apqn in effects.releases {
            self.host.machine.release_interruption(apqn);
            self.outcomes.insert(apqn, 0);
        }
    }

    fn begin_reset(&mut self, apqn: Apqn, vfio_ap: &mut VfioAp) {
        if let Some(reset) = self.resets.iter_mut().find(|reset| reset.apqn == apqn && !reset.kept) {
            // Nobody has used the queue since that one began.
            reset.number = vfio_ap.begin_reset(apqn, 0x02);
            return;
        }
        let answer = self.host.machine.zapq(apqn);
        let in_progress = matches!(answer, 0x00 | 0x02 | 0x05 | 0x0a);
        // Until its end is seen, a reset that was accepted is one in progress.
        let code = if answer == 0x00 { 0x02 } else { answer };
        self.outcomes.insert(apqn, code);
        // What follows from its end, `settle` sees to.
        let number = vfio_ap.begin_reset(apqn, code);
        if in_progress {
            self.resets.retain(|reset| reset.apqn != apqn);
            let kept = vfio_ap.mdev_of(apqn).is_some_and(|mdev| mdev.shadow.test(apqn));
            self.resets.push(Reset { apqn, number, kept, answer, looks: 0 });
        } else {
            self.host.machine.release_interruption(apqn);
            self.over.push((apqn, number));
        }
    }

    /// Waits for the resets begun so far, without any lock that another guest needs, but not for ever: a queue that does not
    /// come back stays unpassable and does not stop the operation.
    pub(super) fn settle(&mut self) {
        while !self.resets.is_empty() || !self.over.is_empty() {
            if !self.resets.is_empty() {
                self.host.machine.pause(RESET_INTERVAL);
            }
            for mut reset in std::mem::take(&mut self.resets) {
                reset.looks += 1;
                self.look(reset);
            }
            let late = |reset: &mut Reset| reset.looks >= RESET_LOOKS;
            for Reset { apqn, number, .. } in self.resets.extract_if(.., late).collect::<Vec<_>>() {
                log::warn!("reset of queue {apqn}: not ended after {:?}", RESET_INTERVAL * RESET_LOOKS);
                self.failed(apqn);
                self.over.push((apqn, number));
            }
            self.filter_again();
        }
    }

    /// What follows from the ends of resets: an adapter that waited for one may come, one with a failed one must go, for which
    /// its other queues are reset. A queue that failed is not tried again, so there is an end to it.
    ///
    /// Not while queues that a guest keeps are being reset: their adapters would leave its device and come back.
    fn filter_again(&mut self) {
        let over: Vec<(Apqn, u64)> = {
            let _guests = self.host.guests.lock();
            let vfio_ap = self.host.vfio_ap.lock();
            let device = |apqn: Apqn| vfio_ap.mdev_of(apqn);
            let kept = self.resets.iter().filter_map(|r| device(r.apqn).filter(|m| m.shadow.test(r.apqn)));
            let busy: Vec<Uuid> = kept.map(|mdev| mdev.uuid).collect();
            let ready = |over: &mut (Apqn, u64)| device(over.0).is_none_or(|mdev| !busy.contains(&mdev.uuid));
            self.over.extract_if(.., ready).collect()
        };
        let failed = over.iter().map(|(apqn, _)| *apqn).filter(|q| !passable_after(self.outcomes[q]));
        let failed: Vec<Apqn> = failed.collect();
        for (apqn, number) in over {
            let code = self.outcomes[&apqn];
            self.queue_step(apqn, |vfio_ap| {
                if !vfio_ap.is_last_reset(apqn, number) {
                    return Effects::default();
                }
                let mut effects = vfio_ap.record_reset(apqn, code, true);
                effects.resets.retain(|queue| !failed.contains(queue));
                effects
            });
        }
    }

    fn look(&mut self, mut reset: Reset) {
        let apqn = reset.apqn;
        let (code, _) = self.host.machine.tapq(apqn);
        let again = match code {
            0x02 | 0x05 | 0x0a => {
                self.resets.push(reset);
                return;
            }
            0x35 | 0x36 => true,
            _ => code != 0x01 && matches!(reset.answer, 0x02 | 0x05 | 0x0a),
        };
        let mut code = code;
        if again {
            reset.answer = self.host.machine.zapq(apqn);
            code = reset.answer;
            if matches!(code, 0x00 | 0x02 | 0x05 | 0x0a) {
                self.resets.push(reset);
                return;
            }
        }
        self.outcomes.insert(apqn, code);
        let number = reset.number;
        self.queue_step(apqn, |vfio_ap| match vfio_ap.is_last_reset(apqn, number) {
            true => vfio_ap.record_reset(apqn, code, false),
            false => Effects::default(),
        });
        self.over.push((apqn, number));
        if passable_after(code) {
            self.host.machine.release_interruption(apqn);
        } else {
            log::warn!("reset of queue {apqn} ended with response code {code:02x}");
            self.failed(apqn);
        }
    }

    /// A failed reset frees what the queue held of its guest all the same.
    fn failed(&mut self, apqn: Apqn) {
        self.host.machine.release_interruption(apqn);
        let response_code = self.outcomes.get(&apqn).copied().unwrap_or_default();
        self.host.events.emit(EventKind::ResetFailed { queue: apqn.to_string(), response_code });
    }

    /// Tells the guests, then waits for the resets. Returns how those ended. A guest that may get something by the end of one of
    /// these resets is told then, once.
    pub(super) fn finish(mut self) -> BTreeMap<Apqn, u8> {
        self.tell_early();
        self.settle();
        self.tell();
        self.outcomes
    }

    /// Tells the guests that get nothing by the end of a reset.
    pub(super) fn tell_early(&mut self) {
        let awaiting: Vec<Uuid> = {
            let _guests = self.host.guests.lock();
            let vfio_ap = self.host.vfio_ap.lock();
            let queues =
                self.resets.iter().map(|reset| reset.apqn).chain(self.over.iter().map(|over| over.0));
            let awaited = queues.filter(|apqn| vfio_ap.queue(*apqn).is_some_and(|queue| queue.awaited));
            let devices = awaited.filter_map(|apqn| vfio_ap.mdev_of(apqn));
            devices.map(|mdev| mdev.uuid).collect()
        };
        let mut later = std::mem::take(&mut self.told);
        self.told = later.extract_if(.., |uuid, _| !awaiting.contains(uuid)).collect();
        self.tell();
        self.told = later;
    }

    fn tell(&mut self) {
        for (uuid, slot) in std::mem::take(&mut self.told) {
            slot.guest.config_changed();
            if !slot.guest.confirm() {
                log::warn!("the VM of mdev {uuid} does not answer: it loses the device");
                if let Err(error) = self.host.detach_vm(uuid, slot.guest.id()) {
                    log::info!("take mdev {uuid} from a VM that does not answer: {error}");
                }
            }
        }
    }
}

impl Drivers for Steps<'_> {
    fn driver_for(&self, apqn: Apqn) -> Option<Driver> {
        self.host.permissions.lock().driver(apqn)
    }

    fn config_changed(&mut self, now: &Matrix, before: &Matrix) {
        let (removed, mut added) = (before.minus(now), now.minus(before));
        // The machine is asked without a lock that a query needs.
        added.apm = self.of_known_type(&added);
        let guests = self.host.guests.lock();
        let uuids: Vec<Uuid> = self.host.vfio_ap.lock().mdevs().iter().map(|mdev| mdev.uuid).collect();
        for uuid in uuids {
            let event = |vfio_ap: &mut VfioAp| Ok(vfio_ap.configuration_removed(uuid, &removed));
            self.step_under(&guests, Some(uuid), event).expect("it is not refused");
        }
        let mut vfio_ap = self.host.vfio_ap.lock();
        vfio_ap.configuration_added(&added);
        vfio_ap.set_configuration(*now);
        self.host.events.emit(EventKind::configuration(before, now));
    }

    fn probe(&mut self, apqn: Apqn, driver: Driver, last_reset: u8) {
        if driver == Driver::VfioAp {
            self.queue_step(apqn, |vfio_ap| vfio_ap.probe(apqn, last_reset));
        }
        self.host.events.emit(EventKind::Bound { queue: apqn.to_string(), driver });
    }

    fn remove(&mut self, apqn: Apqn, driver: Driver) {
        match driver {
            Driver::VfioAp => self.queue_step(apqn, |vfio_ap| vfio_ap.remove(apqn)),
            // The bus itself resets the queue of a driver that knows no resets.
            Driver::Default => {
                let _guests = self.host.guests.lock();
                self.begin_reset(apqn, &mut self.host.vfio_ap.lock());
            }
        }
        self.host.events.emit(EventKind::Unbound { queue: apqn.to_string(), driver });
    }

    fn last_reset(&self, apqn: Apqn) -> u8 {
        let code = self.outcomes.get(&apqn).copied().unwrap_or_default();
        // A queue that is gone holds nothing.
        if code == 0x01 { 0 } else { code }
    }

    fn settle(&mut self) {
        Steps::settle(self);
    }

    fn unregistered(&mut self, apqn: Apqn) {
        self.host.permissions.lock().overrides.remove(&apqn);
    }

    fn scan_complete(&mut self) {
        let guests = self.host.guests.lock();
        let uuids: Vec<Uuid> = self.host.vfio_ap.lock().mdevs().iter().map(|mdev| mdev.uuid).collect();
        for uuid in uuids {
            let event = |vfio_ap: &mut VfioAp| Ok(vfio_ap.scan_complete(uuid));
            self.step_under(&guests, Some(uuid), event).expect("it is not refused");
        }
    }

    fn state_changed(&mut self, apid: Apid, condition: Condition) {
        self.host.events.emit(EventKind::Adapter { adapter: apid.to_string(), condition });
        let guests = self.host.guests.lock();
        let vfio_ap = self.host.vfio_ap.lock();
        for (uuid, slot) in guests.iter() {
            if vfio_ap.mdev(*uuid).is_ok_and(|mdev| mdev.shadow.apm.test(apid.0)) {
                self.told.insert(*uuid, slot.clone());
            }
        }
    }
}

impl Steps<'_> {
    /// Of the adapters that the configuration gains, those that vfio_ap can take: on each domain gained with them, TAPQ tells
    /// a type, and it is CEX4 or newer (`vfio_ap_filter_apid_by_qtype`).
    fn of_known_type(&self, added: &Matrix) -> Mask256 {
        let taken = |apid: &u8| {
            added.aqm.iter().all(|apqi| {
                let (code, information) = self.host.machine.tapq(Apqn::new(Apid(*apid), crycb::Apqi(apqi)));
                let known = matches!(code, 0x00 | 0x02..=0x05);
                known && information.is_some_and(|i| i.hardware_type >= OLDEST_TYPE)
            })
        };
        added.apm.iter().filter(taken).collect()
    }
}
