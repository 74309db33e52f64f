//! The AP bus: card and queue devices, the driver each queue is bound to, and the scan that keeps them true.
//!
//! Linux `drivers/s390/crypto/ap_bus.c`, `ap_scan_bus` and what it calls. The bus does not know what drivers do; it tells
//! them, through [`Drivers`].

use std::collections::BTreeMap;

use crycb::{Apid, Apqi, Apqn, Matrix};

use super::permissions::Driver;
use super::{Condition, HostError, Lpar, Machine};

/// The bits of TAPQ's general register 2 that make a card what it is; when one of them changes, the card is another.
const CARD_BITS: u64 = 0xffff_0000_ffff_0f0f;

/// The oldest type of adapter that the bus makes a card device of, and vfio_ap takes: CEX4.
pub(super) const OLDEST_TYPE: u8 = 10;

/// A card device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardDevice {
    /// Type and functions, general register 2 of TAPQ less the bits that a queue has of its own.
    pub hardware: u64,
    /// sysfs `config`: not deconfigured.
    pub config: bool,
    /// sysfs `chkstop`.
    pub chkstop: bool,
}

/// A queue device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueDevice {
    /// The driver it is bound to.
    pub driver: Option<Driver>,
    /// sysfs `config`: not deconfigured.
    pub config: bool,
    /// sysfs `chkstop`.
    pub chkstop: bool,
    /// How the reset ended with which the last driver gave the queue up. The next one starts with it.
    pub last_reset: u8,
}

/// The bus's state, and the machine below it.
#[derive(Clone, Debug)]
pub struct Bus {
    /// What the support element has set.
    pub(super) lpar: Lpar,
    /// What PQAP(QCI) answered in the last scan.
    pub(super) configuration: Matrix,
    pub(super) cards: BTreeMap<Apid, CardDevice>,
    pub(super) queues: BTreeMap<Apqn, QueueDevice>,
}

/// The drivers as the bus calls them, each call a step of its own.
pub(super) trait Drivers {
    /// The driver that may have the queue.
    fn driver_for(&self, apqn: Apqn) -> Option<Driver>;

    /// `on_config_changed`.
    fn config_changed(&mut self, now: &Matrix, before: &Matrix);

    /// `probe`.
    fn probe(&mut self, apqn: Apqn, driver: Driver, last_reset: u8);

    /// `remove`, and the bus's own reset behind it. What is reset is not waited for.
    fn remove(&mut self, apqn: Apqn, driver: Driver);

    /// How the last reset of the queue ended or stands.
    fn last_reset(&self, apqn: Apqn) -> u8;

    /// Waits for all resets begun so far.
    fn settle(&mut self);

    /// The queue device is gone, with its override.
    fn unregistered(&mut self, apqn: Apqn);

    /// `on_scan_complete`.
    fn scan_complete(&mut self);

    /// A card device's `config` or `chkstop` changed, and the adapter is like this now.
    fn state_changed(&mut self, apid: Apid, condition: Condition);
}

/// What TAPQ says about a queue that exists.
struct Answer {
    hardware: u64,
    /// Whether the bus knows adapters of this type.
    supported: bool,
    deconfigured: bool,
    checkstopped: bool,
}

impl Bus {
    /// A bus that has not been scanned yet.
    pub(super) fn new(lpar: Lpar) -> Self {
        Self { lpar, configuration: Matrix::EMPTY, cards: BTreeMap::new(), queues: BTreeMap::new() }
    }

    /// A bus scan.
    pub(super) fn scan(&mut self, machine: &dyn Machine, drivers: &mut dyn Drivers) {
        let qci = machine.qci();
        let before = std::mem::replace(&mut self.configuration, qci.matrix);
        let changed = before != qci.matrix;
        if changed {
            drivers.config_changed(&qci.matrix, &before);
        }
        for apid in 0..=qci.max_apid() {
            self.scan_adapter(Apid(apid), qci.max_apqi(), machine, drivers);
        }
        if changed {
            drivers.scan_complete();
        }
    }

    fn scan_adapter(&mut self, apid: Apid, max: u8, machine: &dyn Machine, drivers: &mut dyn Drivers) {
        let aqm = self.configuration.aqm;
        let mut valid = aqm.iter().filter_map(|apqi| ask(machine, Apqn::new(apid, Apqi(apqi))));
        let answer = if self.configuration.apm.test(apid.0) { valid.next() } else { None };
        let answer = answer.filter(|answer| answer.supported);
        let known = self.cards.get(&apid).copied();
        let Some(answer) = answer else {
            if known.is_some() {
                self.remove_card(apid, drivers);
            }
            return;
        };
        let (config, chkstop) = (!answer.deconfigured, answer.checkstopped);
        let card = CardDevice { hardware: answer.hardware & CARD_BITS, config, chkstop };
        if known.is_some_and(|known| known.hardware != card.hardware) {
            self.remove_card(apid, drivers);
        }
        if self.cards.insert(apid, card).is_some_and(|before| before != card) {
            drivers.state_changed(apid, Condition::of(config, chkstop));
        }
        for apqi in 0..=max {
            self.scan_queue(Apqn::new(apid, Apqi(apqi)), machine, drivers);
        }
    }

    fn scan_queue(&mut self, apqn: Apqn, machine: &dyn Machine, drivers: &mut dyn Drivers) {
        let in_configuration = self.configuration.test(apqn);
        let answer = in_configuration.then(|| ask(machine, apqn)).flatten();
        let Some(answer) = answer else {
            if self.queues.contains_key(&apqn) {
                self.remove_queues(&[apqn], drivers);
            }
            return;
        };
        let (config, chkstop) = (!answer.deconfigured, answer.checkstopped);
        if let Some(queue) = self.queues.get_mut(&apqn) {
            (queue.config, queue.chkstop) = (config, chkstop);
        } else {
            let queue = QueueDevice { driver: None, config, chkstop, last_reset: 0 };
            self.queues.insert(apqn, queue);
            self.attach(apqn, drivers);
        }
    }

    /// Takes every queue from its driver that is not the one which masks and overrides name, and returns them. When their
    /// resets have ended, they are to be [bound anew](Self::bind_anew). A queue without a driver stays so.
    pub(super) fn release_misplaced(&mut self, drivers: &mut dyn Drivers) -> Vec<Apqn> {
        let bound = self.queues.iter().filter_map(|(apqn, queue)| Some((*apqn, queue.driver?)));
        let misplaced = bound.filter(|(apqn, driver)| drivers.driver_for(*apqn) != Some(*driver));
        let misplaced: Vec<Apqn> = misplaced.map(|(apqn, _)| apqn).collect();
        misplaced.iter().for_each(|apqn| self.release(*apqn, drivers));
        misplaced
    }

    /// Gives each of these queues the driver that it is for, unless it is gone or somebody else has bound it by now.
    pub(super) fn bind_anew(&mut self, queues: &[Apqn], drivers: &mut dyn Drivers) {
        for &apqn in queues {
            self.note_reset(apqn, drivers);
            if self.queues.get(&apqn).is_some_and(|queue| queue.driver.is_none()) {
                self.attach(apqn, drivers);
            }
        }
    }

    /// Takes note of how the last reset of a queue without a driver ended, for the next one.
    pub(super) fn note_reset(&mut self, apqn: Apqn, drivers: &dyn Drivers) {
        if let Some(queue) = self.queues.get_mut(&apqn).filter(|queue| queue.driver.is_none()) {
            queue.last_reset = drivers.last_reset(apqn);
        }
    }

    /// `bind` of a driver.
    pub(super) fn bind(
        &mut self,
        apqn: Apqn,
        driver: Driver,
        drivers: &mut dyn Drivers,
    ) -> Result<(), HostError> {
        let queue = self.queues.get(&apqn).ok_or(HostError::NoQueue(apqn))?;
        if let Some(bound) = queue.driver {
            return Err(HostError::Bound { apqn, driver: bound.name() });
        }
        let may = drivers.driver_for(apqn);
        if may != Some(driver) {
            let reason = match (may, driver) {
                (None, _) => "its driver_override names a driver that does not exist".into(),
                (Some(Driver::Default), _) => format!(
                    "apmask and aqmask reserve it for the default drivers; write -{:#x} to apmask or -{:#x} to aqmask, or, \
                     with both masks all ones, vfio_ap to its driver_override",
                    apqn.apid().0,
                    apqn.apqi().0
                ),
                (Some(Driver::VfioAp), _) => "apmask and aqmask leave it to vfio_ap".into(),
            };
            return Err(HostError::WrongDriver { apqn, driver: driver.name(), reason });
        }
        self.attach(apqn, drivers);
        Ok(())
    }

    /// `unbind` of whatever driver has the queue. When its reset has ended, [`Self::note_reset`] is due.
    pub(super) fn unbind(&mut self, apqn: Apqn, drivers: &mut dyn Drivers) -> Result<(), HostError> {
        let queue = self.queues.get(&apqn).ok_or(HostError::NoQueue(apqn))?;
        if queue.driver.is_none() {
            return Err(HostError::Unbound(apqn));
        }
        self.release(apqn, drivers);
        Ok(())
    }

    fn attach(&mut self, apqn: Apqn, drivers: &mut dyn Drivers) {
        let queue = self.queues.get_mut(&apqn).expect("the caller found it");
        queue.driver = drivers.driver_for(apqn);
        if let Some(driver) = queue.driver {
            drivers.probe(apqn, driver, queue.last_reset);
        }
    }

    fn release(&mut self, apqn: Apqn, drivers: &mut dyn Drivers) {
        let queue = self.queues.get_mut(&apqn).expect("the caller found it");
        if let Some(driver) = queue.driver.take() {
            drivers.remove(apqn, driver);
            queue.last_reset = drivers.last_reset(apqn);
        }
    }

    /// Takes the queues from their drivers, waits for the resets of all together, and removes them.
    fn remove_queues(&mut self, queues: &[Apqn], drivers: &mut dyn Drivers) {
        queues.iter().for_each(|apqn| self.release(*apqn, drivers));
        drivers.settle();
        for apqn in queues {
            self.queues.remove(apqn);
            drivers.unregistered(*apqn);
        }
    }

    fn remove_card(&mut self, apid: Apid, drivers: &mut dyn Drivers) {
        let queues = self.queues.keys().copied().filter(|apqn| apqn.apid() == apid);
        self.remove_queues(&queues.collect::<Vec<_>>(), drivers);
        self.cards.remove(&apid);
    }
}

/// What TAPQ says, when its response code says that the queue exists and it tells a type.
fn ask(machine: &dyn Machine, apqn: Apqn) -> Option<Answer> {
    let (code, information) = machine.tapq(apqn);
    let information = information.filter(|i| i.hardware_type != 0)?;
    matches!(code, 0x00 | 0x02..=0x05).then(|| Answer {
        hardware: information.register(),
        supported: information.hardware_type >= OLDEST_TYPE,
        deconfigured: code == 0x03,
        checkstopped: code == 0x04,
    })
}
