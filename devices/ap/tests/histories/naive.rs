//! The second model: what Linux's bus and vfio_ap driver do, said as plainly as possible with sets of numbers. Nothing here
//! is shared with the host. Sources: vfio_ap_ops.c, vfio_ap_drv.c, ap_bus.c and ap_queue.c of Linux 7.2, by function name.

use std::collections::{BTreeMap, BTreeSet};

use crate::ops::*;

type Errno = &'static str;

/// The generation of the oldest adapters that the bus makes devices of.
const OLDEST: u8 = 4;

/// A queue device.
#[derive(Clone, Debug)]
pub struct Device {
    pub driver: Option<Driver>,
    pub over: Option<String>,
    /// Response code with which the last reset stands.
    pub last: u8,
}

/// What happened to a queue, as far as it matters later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    /// A driver got it.
    Bound,
    /// A filter met it with a last reset that had not ended well, or not ended.
    LeftOut,
    /// A reset ended well.
    Ended,
}

#[derive(Clone, Debug, Default)]
pub struct Mdev {
    /// Adapters, domains, control domains assigned.
    pub has: [Numbers; 3],
    /// The shadow APCB.
    pub guest: [Numbers; 3],
    /// Assigned, and added to the host by the scan in progress.
    adding: [Numbers; 3],
    pub vm: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub struct Vm {
    /// What was last written to its APCB.
    pub apcb: [Numbers; 3],
    pub polite: bool,
}

pub struct Naive {
    // The machine.
    /// Type and condition.
    adapters: BTreeMap<u8, (u8, u8)>,
    usage: Numbers,
    control: Numbers,
    modes: BTreeMap<Queue, Mode>,
    // The host.
    pub info: [Numbers; 3],
    /// Type and condition as the bus saw them.
    cards: BTreeMap<u8, (u8, u8)>,
    pub queues: BTreeMap<Queue, Device>,
    /// All that happened, oldest first.
    past: Vec<(Queue, Past)>,
    pub apmask: [bool; 256],
    pub aqmask: [bool; 256],
    pub mdevs: BTreeMap<usize, Mdev>,
    pub vms: Vec<Vm>,
    // The operation.
    /// Queues that got a ZAPQ.
    pub reset: BTreeSet<Queue>,
    /// VMs that are told.
    pub told: BTreeSet<usize>,
    /// Resets that have not ended.
    pending: BTreeSet<Queue>,
}

fn passable(code: u8) -> bool {
    matches!(code, 0x00 | 0x03 | 0x04)
}

fn common(a: &Numbers, b: &Numbers) -> Numbers {
    a.intersection(b).copied().collect()
}

fn without(a: &Numbers, b: &Numbers) -> Numbers {
    a.difference(b).copied().collect()
}

impl Mdev {
    fn assigned(&self, q: Queue) -> bool {
        self.has[0].contains(&q.0) && self.has[1].contains(&q.1)
    }

    fn reachable(&self, q: Queue) -> bool {
        self.guest[0].contains(&q.0) && self.guest[1].contains(&q.1)
    }
}

impl Naive {
    /// The machine as described, after the host's first scan.
    pub fn new(adapters: &[u8], domains: &[u8]) -> Self {
        let domains: Numbers = domains.iter().copied().collect();
        let mut naive = Self {
            adapters: adapters.iter().map(|n| (*n, (8, 0))).collect(),
            usage: domains.clone(),
            control: domains,
            modes: BTreeMap::new(),
            info: Default::default(),
            cards: BTreeMap::new(),
            queues: BTreeMap::new(),
            past: Vec::new(),
            apmask: [true; 256],
            aqmask: [true; 256],
            mdevs: BTreeMap::new(),
            vms: vec![Vm { polite: true, ..Vm::default() }; DEVICES],
            reset: BTreeSet::new(),
            told: BTreeSet::new(),
            pending: BTreeSet::new(),
        };
        naive.scan();
        naive
    }

    /// Does the operation and says what Linux would answer.
    pub fn apply(&mut self, op: &Op) -> Result<(), Errno> {
        self.reset.clear();
        self.told.clear();
        let answer = self.begin(op);
        let outcomes = self.finish();
        match op {
            Op::Reset(_) if answer.is_ok() && outcomes.values().any(|code| *code != 0) => Err("EIO"),
            _ => answer,
        }
    }

    fn begin(&mut self, op: &Op) -> Result<(), Errno> {
        match op {
            Op::Create(d) if self.mdevs.contains_key(d) => return Err("EEXIST"),
            Op::Create(d) => drop(self.mdevs.insert(*d, Mdev::default())),
            Op::Remove(d) => return self.remove_mdev(*d),
            Op::Assign(d, which, n) => return self.number(*d, *which, true, u64::from(*n)),
            Op::Unassign(d, which, n) => return self.number(*d, *which, false, u64::from(*n)),
            Op::Odd(d, which, assign, at) => {
                self.known(*d)?;
                return self.number(*d, *which, *assign, ODD_NUMBERS[*at].1?);
            }
            Op::Config(d, masks, _) => return self.config(*d, masks),
            Op::BadConfig(d, _) => {
                self.known(*d)?;
                return Err("EINVAL");
            }
            Op::Mask(adapters, text) => return self.mask(*adapters, text),
            Op::Override(q, at) => {
                let all = self.apmask == [true; 256] && self.aqmask == [true; 256];
                let device = self.queues.get_mut(q).ok_or("ENODEV")?;
                if !all {
                    return Err("EINVAL");
                }
                let name = OVERRIDES[*at].trim_end();
                device.over = if name.is_empty() { None } else { Some(name.to_owned()) };
            }
            Op::Bind(q, driver) => {
                let device = self.queues.get(q).ok_or("ENODEV")?;
                if device.driver.is_some() {
                    return Err("EBUSY");
                }
                if self.meant_for(*q) != Some(*driver) {
                    return Err("ENODEV");
                }
                self.bind(*q, *driver);
            }
            Op::Unbind(q) => {
                self.queues.get(q).ok_or("ENODEV")?.driver.ok_or("ENODEV")?;
                self.unbind(*q);
            }
            Op::Configure(changes) => return self.configure(changes),
            Op::Scan => self.scan(),
            Op::Attach(d, vm) => {
                self.known(*d)?;
                if self.mdevs[d].vm.is_some() {
                    return Err("EBUSY");
                }
                if self.mdevs.values().any(|m| m.vm == Some(*vm)) {
                    return Err("EPERM");
                }
                let mdev = self.mdevs.get_mut(d).expect("known");
                mdev.vm = Some(*vm);
                self.vms[*vm].apcb = mdev.guest.clone();
            }
            Op::Detach(d) => {
                self.known(*d)?;
                self.mdevs[d].vm.ok_or("EINVAL")?;
                self.detach(*d);
            }
            Op::Reset(d) => {
                self.known(*d)?;
                self.reset_all(*d);
            }
            Op::Behave(q, mode) => drop(self.modes.insert(*q, *mode)),
            Op::Polite(vm, polite) => self.vms[*vm].polite = *polite,
            Op::Mend => {
                self.modes.clear();
                self.vms.iter_mut().for_each(|vm| vm.polite = true);
            }
            Op::Guest(..) | Op::Storm | Op::Watch => {}
        }
        Ok(())
    }

    fn known(&self, d: usize) -> Result<(), Errno> {
        if self.mdevs.contains_key(&d) { Ok(()) } else { Err("ENOENT") }
    }

    /// status_show.
    pub fn status(&self, q: Queue) -> &'static str {
        match self.mdevs.values().find(|m| m.assigned(q)) {
            None => "unassigned",
            Some(m) if m.vm.is_some() && m.reachable(q) => "in use",
            Some(_) => "assigned",
        }
    }

    // Mediated devices.

    fn detach(&mut self, d: usize) {
        let vm = self.mdevs.get_mut(&d).expect("known").vm.take().expect("attached");
        self.vms[vm].apcb = Default::default();
        self.reset_all(d);
    }

    /// vfio_ap_mdev_request, then vfio_ap_mdev_remove.
    fn remove_mdev(&mut self, d: usize) -> Result<(), Errno> {
        self.known(d)?;
        if let Some(vm) = self.mdevs[&d].vm {
            self.vms[vm].apcb = Default::default();
            self.told.insert(vm);
            if !self.vms[vm].polite {
                return Err("EBUSY");
            }
            self.detach(d);
            self.finish();
        }
        self.reset_all(d);
        self.mdevs.remove(&d);
        Ok(())
    }

    /// vfio_ap_mdev_reset_queues.
    fn reset_all(&mut self, d: usize) {
        self.order_resets(self.bound_of(d));
    }

    /// The queues linked to the device: assigned to it, and bound to vfio_ap.
    fn bound_of(&self, d: usize) -> BTreeSet<Queue> {
        let bound = self.queues.iter().filter(|(_, device)| device.driver == Some(Driver::VfioAp));
        bound.map(|(q, _)| *q).filter(|q| self.mdevs[&d].assigned(*q)).collect()
    }

    /// The `*_store` functions for one number.
    fn number(&mut self, d: usize, which: Which, assign: bool, n: u64) -> Result<(), Errno> {
        self.known(d)?;
        if n > u64::from(MAX) {
            return Err("ENODEV");
        }
        let n = n as u8;
        let part = which as usize;
        if self.mdevs[&d].has[part].contains(&n) == assign {
            return Ok(());
        }
        let mut has = self.mdevs[&d].has.clone();
        if !assign {
            has[part].remove(&n);
            self.unplug(d, &has);
            return Ok(());
        }
        has[part].insert(n);
        if which != Which::ControlDomain {
            self.validate(d, &has)?;
        }
        self.mdevs.get_mut(&d).expect("known").has = has;
        match which {
            Which::ControlDomain => self.filter_control(d),
            _ => self.filter(d),
        }
        Ok(())
    }

    /// ap_config_store.
    fn config(&mut self, d: usize, masks: &[Numbers; 3]) -> Result<(), Errno> {
        self.known(d)?;
        self.validate(d, masks)?;
        if masks.iter().flatten().any(|n| *n > MAX) {
            return Err("ENODEV");
        }
        let old = self.mdevs[&d].has.clone();
        let keep = [common(&old[0], &masks[0]), common(&old[1], &masks[1]), old[2].clone()];
        self.unplug(d, &keep);
        self.mdevs.get_mut(&d).expect("known").has = masks.clone();
        self.filter(d);
        self.filter_control(d);
        Ok(())
    }

    /// Takes from the device all but `keep`: vfio_ap_mdev_hot_unplug_adapters, _domains, unassign_control_domain_store.
    fn unplug(&mut self, d: usize, keep: &[Numbers; 3]) {
        let plugged = self.plugged(d);
        let mut guest = self.mdevs[&d].guest.clone();
        for i in 0..3 {
            guest[i] = without(&guest[i], &without(&self.mdevs[&d].has[i], &keep[i]));
        }
        self.write_guest(d, guest);
        let lost = plugged.into_iter().filter(|q| !self.mdevs[&d].reachable(*q)).collect();
        self.mdevs.get_mut(&d).expect("known").has = keep.clone();
        self.order_resets(lost);
    }

    /// Bound queues of the device that are in its shadow APCB.
    fn plugged(&self, d: usize) -> BTreeSet<Queue> {
        self.bound_of(d).into_iter().filter(|q| self.mdevs[&d].reachable(*q)).collect()
    }

    /// vfio_ap_mdev_validate_masks.
    fn validate(&self, d: usize, has: &[Numbers; 3]) -> Result<(), Errno> {
        for &a in &has[0] {
            for &b in &has[1] {
                let over = self.queues.get(&(a, b)).and_then(|device| device.over.as_deref());
                let owned = match over {
                    Some(name) => name == "cex4queue",
                    None => self.apmask[usize::from(a)] && self.aqmask[usize::from(b)],
                };
                if owned {
                    return Err("EADDRNOTAVAIL");
                }
            }
        }
        let others = self.mdevs.iter().filter(|(other, _)| **other != d);
        for (_, other) in others {
            if !common(&other.has[0], &has[0]).is_empty() && !common(&other.has[1], &has[1]).is_empty() {
                return Err("EADDRINUSE");
            }
        }
        Ok(())
    }

    // The filter.

    /// vfio_ap_mdev_update_guest_apcb, when something changed.
    fn write_guest(&mut self, d: usize, guest: [Numbers; 3]) {
        let mdev = self.mdevs.get_mut(&d).expect("known");
        if mdev.guest == guest {
            return;
        }
        mdev.guest = guest;
        if let Some(vm) = mdev.vm {
            self.vms[vm].apcb = mdev.guest.clone();
            self.told.insert(vm);
        }
    }

    /// vfio_ap_mdev_filter_matrix, then reset_queues_for_apids.
    fn filter(&mut self, d: usize) {
        let mdev = &self.mdevs[&d];
        let before = mdev.guest.clone();
        let has = mdev.has.clone();
        let domains = common(&has[1], &self.info[1]);
        let mut adapters = common(&has[0], &self.info[0]);
        let mut filtered = Numbers::new();
        for a in adapters.clone() {
            for &b in &domains {
                let device = self.queues.get(&(a, b)).filter(|q| q.driver == Some(Driver::VfioAp));
                if !device.is_some_and(|q| passable(q.last)) {
                    adapters.remove(&a);
                    if before[0].contains(&a) {
                        filtered.insert(a);
                    }
                    break;
                }
            }
        }
        for q in self.bound_of(d) {
            if self.info[0].contains(&q.0) && domains.contains(&q.1) && !passable(self.queues[&q].last) {
                self.past.push((q, Past::LeftOut));
            }
        }
        self.write_guest(d, [adapters, domains.clone(), before[2].clone()]);
        let lost = self.bound_of(d).into_iter().filter(|q| filtered.contains(&q.0) && domains.contains(&q.1));
        self.order_resets(lost.collect());
    }

    /// vfio_ap_mdev_filter_cdoms.
    fn filter_control(&mut self, d: usize) {
        let mdev = &self.mdevs[&d];
        let mut guest = mdev.guest.clone();
        guest[2] = common(&mdev.has[2], &self.info[2]);
        self.write_guest(d, guest);
    }

    // Resets.

    /// vfio_ap_mdev_reset_queue; what it comes to, `finish` sees.
    fn order_resets(&mut self, queues: BTreeSet<Queue>) {
        for q in queues {
            self.reset.insert(q);
            self.pending.insert(q);
            if let Some(device) = self.queues.get_mut(&q) {
                device.last = 2;
            }
        }
    }

    /// All resets come to their end (apq_reset_check). The end of a reset is an occasion to filter: for what was left out because
    /// of it, and for what must go because of it. A queue that failed is not tried again at once.
    fn finish(&mut self) -> BTreeMap<Queue, u8> {
        let mut outcomes = BTreeMap::new();
        while !self.pending.is_empty() {
            let over = std::mem::take(&mut self.pending);
            for q in &over {
                let code = match (self.adapters.get(&q.0), self.modes.get(q)) {
                    (None, _) => 1,
                    (Some((_, condition)), _) if *condition != 0 => *condition,
                    (_, Some(Mode::Stuck)) => 2,
                    (_, Some(Mode::Gone)) => 1,
                    _ => 0,
                };
                outcomes.insert(*q, code);
                if let Some(device) = self.queues.get_mut(q) {
                    device.last = code;
                }
            }
            for q in &over {
                let good = passable(outcomes[q]);
                let Some(device) = self.queues.get(q) else { continue };
                let bound = device.driver == Some(Driver::VfioAp);
                let owner =
                    self.mdevs.iter().find(|(_, m)| m.assigned(*q)).map(|(d, m)| (*d, m.reachable(*q)));
                let waited = good && self.was_left_out(*q);
                if good {
                    self.past.push((*q, Past::Ended));
                }
                let Some((d, reachable)) = owner.filter(|_| bound) else { continue };
                if waited || (!good && reachable) {
                    self.filter(d);
                }
                for failed in over.iter().filter(|q| !passable(outcomes[q])) {
                    if self.pending.remove(failed) {
                        self.queues.get_mut(failed).expect("bound").last = outcomes[failed];
                    }
                }
            }
        }
        outcomes
    }

    /// Whether a filter left the queue out for its reset, since it was bound and since a reset ended well.
    fn was_left_out(&self, q: Queue) -> bool {
        self.past.iter().rev().find(|(other, _)| *other == q).is_some_and(|(_, past)| *past == Past::LeftOut)
    }

    // The bus.

    fn meant_for(&self, q: Queue) -> Option<Driver> {
        match self.queues[&q].over.as_deref() {
            Some("vfio_ap") => Some(Driver::VfioAp),
            Some("cex4queue") => Some(Driver::Default),
            Some(_) => None,
            None if self.apmask[usize::from(q.0)] && self.aqmask[usize::from(q.1)] => Some(Driver::Default),
            None => Some(Driver::VfioAp),
        }
    }

    /// vfio_ap_mdev_probe_queue.
    fn bind(&mut self, q: Queue, driver: Driver) {
        let device = self.queues.get_mut(&q).expect("there");
        device.driver = Some(driver);
        self.past.push((q, Past::Bound));
        if driver == Driver::Default {
            return;
        }
        // Beyond Linux: what a failed reset left is not passed on.
        if !passable(self.queues[&q].last) {
            self.order_resets([q].into());
        }
        let owner = self.mdevs.iter().find(|(_, m)| m.assigned(q)).map(|(d, _)| *d);
        if let Some(d) = owner {
            let adding = &self.mdevs[&d].adding;
            if adding[0].is_empty() && adding[1].is_empty() {
                self.filter(d);
            }
        }
    }

    /// vfio_ap_mdev_remove_queue.
    fn unbind(&mut self, q: Queue) {
        if self.queues[&q].driver == Some(Driver::Default) {
            // ap_queue_remove.
            self.order_resets([q].into());
        } else {
            let owner = self.mdevs.iter().find(|(_, m)| m.reachable(q)).map(|(d, _)| *d);
            if let Some(d) = owner {
                let mut guest = self.mdevs[&d].guest.clone();
                guest[0].remove(&q.0);
                let domains = guest[1].clone();
                self.write_guest(d, guest);
                let lost = self.bound_of(d).into_iter().filter(|p| p.0 == q.0 && domains.contains(&p.1));
                self.order_resets(lost.collect());
            } else if self.info[0].contains(&q.0) && self.info[1].contains(&q.1) {
                self.order_resets([q].into());
            }
        }
        self.queues.get_mut(&q).expect("there").driver = None;
        self.finish();
        let device = self.queues.get_mut(&q).expect("there");
        // A queue that is gone holds nothing.
        device.last = if device.last == 1 { 0 } else { device.last };
    }

    /// apmask_store, aqmask_store, ap_bus_revise_bindings.
    fn mask(&mut self, adapters: bool, text: &MaskText) -> Result<(), Errno> {
        if self.queues.values().any(|device| device.over.is_some()) {
            return Err("EINVAL");
        }
        let before = if adapters { self.apmask } else { self.aqmask };
        let mut mask = before;
        match text {
            MaskText::Bad(_) => return Err("EINVAL"),
            MaskText::AllBut(out) => (0..=255).for_each(|n| mask[usize::from(n)] = !out.contains(&n)),
            MaskText::Only(only) => (0..=255).for_each(|n| mask[usize::from(n)] = only.contains(&n)),
            MaskText::Relative(items) => {
                items.iter().for_each(|(on, a, b)| (*a..=*b).for_each(|n| mask[usize::from(n)] = *on));
            }
        }
        let newly = |n: u8| mask[usize::from(n)] && !before[usize::from(n)];
        for mdev in self.mdevs.values() {
            for &a in &mdev.has[0] {
                for &b in &mdev.has[1] {
                    let asked = if adapters {
                        newly(a) && self.aqmask[usize::from(b)]
                    } else {
                        newly(b) && self.apmask[usize::from(a)]
                    };
                    if asked {
                        return Err("EBUSY");
                    }
                }
            }
        }
        *(if adapters { &mut self.apmask } else { &mut self.aqmask }) = mask;
        for q in self.queues.keys().copied().collect::<Vec<_>>() {
            let meant = self.meant_for(q);
            if self.queues[&q].driver.is_some() && self.queues[&q].driver != meant {
                self.unbind(q);
                self.bind(q, meant.expect("no override is set"));
            }
        }
        Ok(())
    }

    fn configure(&mut self, changes: &[Change]) -> Result<(), Errno> {
        let before = (self.adapters.clone(), self.usage.clone(), self.control.clone());
        for change in changes {
            let there = |n: &u8| self.adapters.contains_key(n);
            let refused = match change {
                Change::Add(n, _) => there(n),
                Change::Remove(n) | Change::Type(n, _) | Change::Condition(n, _) => !there(n),
                Change::AddDomain(n) | Change::AddControl(n) => *n > MAX,
                Change::RemoveDomain(_) | Change::RemoveControl(_) => false,
            };
            if refused {
                (self.adapters, self.usage, self.control) = before;
                return Err("ENODEV");
            }
            match *change {
                Change::Add(n, t) | Change::Type(n, t) => drop(self.adapters.insert(n, (t, 0))),
                Change::Remove(n) => drop(self.adapters.remove(&n)),
                Change::Condition(n, code) => self.adapters.get_mut(&n).expect("there").1 = code,
                Change::AddDomain(n) => drop(self.usage.insert(n)),
                Change::RemoveDomain(n) => drop(self.usage.remove(&n)),
                Change::AddControl(n) => drop(self.control.insert(n)),
                Change::RemoveControl(n) => drop(self.control.remove(&n)),
            }
        }
        self.scan();
        Ok(())
    }

    /// ap_scan_bus, with vfio_ap_on_cfg_changed before and vfio_ap_on_scan_complete after.
    fn scan(&mut self) {
        let new = [self.adapters.keys().copied().collect(), self.usage.clone(), self.control.clone()];
        let changed = new != self.info;
        let all: Vec<usize> = self.mdevs.keys().copied().collect();
        if changed {
            for &d in &all {
                let mut guest = self.mdevs[&d].guest.clone();
                (0..3).for_each(|i| guest[i] = without(&guest[i], &without(&self.info[i], &new[i])));
                self.write_guest(d, guest);
            }
            let mut added: [Numbers; 3] = std::array::from_fn(|i| without(&new[i], &self.info[i]));
            // vfio_ap_filter_apid_by_qtype: it asks the added domains alone, so without one every adapter stays.
            if !added[1].is_empty() {
                added[0].retain(|a| self.adapters[a].0 >= OLDEST);
            }
            for mdev in self.mdevs.values_mut() {
                (0..3).for_each(|i| mdev.adding[i] = common(&mdev.has[i], &added[i]));
            }
            self.info = new;
        }
        for a in 0..=MAX {
            let installed = self.adapters.get(&a).copied();
            let installed = installed.filter(|(t, _)| !self.usage.is_empty() && *t >= OLDEST);
            let card = self.cards.get(&a).copied();
            let stays = installed.is_some() && card.map(|(t, _)| t) == installed.map(|(t, _)| t);
            if !stays {
                (0..=MAX).for_each(|b| self.remove_device((a, b)));
                self.cards.remove(&a);
            }
            let Some((generation, condition)) = installed else { continue };
            self.cards.insert(a, (generation, condition));
            if stays && card != Some((generation, condition)) {
                self.tell_of_adapter(a);
            }
            for b in 0..=MAX {
                if !self.usage.contains(&b) {
                    self.remove_device((a, b));
                } else if !self.queues.contains_key(&(a, b)) {
                    self.add_device((a, b));
                }
            }
        }
        for d in if changed { all } else { Vec::new() } {
            let adding = std::mem::take(&mut self.mdevs.get_mut(&d).expect("there").adding);
            if !adding[0].is_empty() || !adding[1].is_empty() {
                self.filter(d);
            }
            if !adding[2].is_empty() {
                self.filter_control(d);
            }
        }
        self.finish();
    }

    fn add_device(&mut self, q: Queue) {
        self.queues.insert(q, Device { driver: None, over: None, last: 0 });
        let driver = self.meant_for(q).expect("there is no override yet");
        self.bind(q, driver);
    }

    fn remove_device(&mut self, q: Queue) {
        if let Some(device) = self.queues.get(&q) {
            if device.driver.is_some() {
                self.unbind(q);
            }
            self.queues.remove(&q);
        }
    }

    /// Beyond Linux: guests that have an adapter are told when it is configured, deconfigured or check-stops.
    fn tell_of_adapter(&mut self, a: u8) {
        for mdev in self.mdevs.values() {
            if let (Some(vm), true) = (mdev.vm, mdev.guest[0].contains(&a)) {
                self.told.insert(vm);
            }
        }
    }
}
