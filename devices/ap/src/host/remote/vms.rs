//! The machine below the daemon's host: what the support element set, and the VMs in which the queues are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crycb::{Apqn, Mask256, Matrix, Qci};

use super::outgoing::Outgoing;
use super::protocol::{FromDaemon, Order, QueueCount, Report};
use super::{CONFIRM_PATIENCE, STATISTICS_PATIENCE};
use crate::host::{Guest, Lpar, Machine};
use crate::lock::{Rank, RankedGuard, RankedMutex};
use crate::queue::QueueStatistics;
use crate::status::QueueInformation;
use crate::sync::Condvar;

/// A machine whose queues are emulated by the VMs that have them.
///
/// A reset of a queue that a VM may have used is in progress (TAPQ: 02) until every such VM has done it or is gone; one of a
/// queue that nobody used has ended at once.
pub struct RemoteMachine {
    state: RankedMutex<State>,
    changed: Condvar,
}

struct State {
    lpar: Lpar,
    vms: BTreeMap<u64, Vm>,
    /// Resets in progress.
    resets: BTreeMap<Apqn, Reset>,
    /// Queues whose last reset ended with something else than 00.
    failed: BTreeMap<Apqn, u8>,
    /// Requests that were counted by VMs which are gone.
    past: BTreeMap<Apqn, u64>,
    /// Counts orders.
    serial: u64,
}

struct Reset {
    serial: u64,
    /// The VMs that have not done it.
    waiting: BTreeSet<u64>,
}

struct Vm {
    to: Arc<Outgoing>,
    masks: Matrix,
    /// The queues that it may have used since they were reset.
    used: Queues,
    /// The serial of the last masks.
    ordered: u64,
    confirmed: u64,
    counts: BTreeMap<Apqn, QueueCount>,
    /// The serial of the last figures.
    counted: u64,
}

/// A set of queues: for each adapter its domains.
struct Queues(Box<[Mask256; 256]>);

impl RemoteMachine {
    /// A machine with this configuration, which no VM uses yet.
    pub fn new(lpar: Lpar) -> Arc<Self> {
        let state = State {
            lpar,
            vms: BTreeMap::new(),
            resets: BTreeMap::new(),
            failed: BTreeMap::new(),
            past: BTreeMap::new(),
            serial: 0,
        };
        Arc::new(Self { state: RankedMutex::new(Rank::Hardware, state), changed: Condvar::new() })
    }

    /// A VM that is about to get a mediated device: it is told the hardware, now and after each change.
    pub(super) fn join(&self, vm: u64, to: Arc<Outgoing>) {
        let mut state = self.lock();
        to.push(&FromDaemon::Order(Order::Hardware { lpar: state.lpar.clone() }));
        let joined = Vm {
            to,
            masks: Matrix::EMPTY,
            used: Queues(Box::new([Mask256::EMPTY; 256])),
            ordered: 0,
            confirmed: 0,
            counts: BTreeMap::new(),
            counted: 0,
        };
        state.vms.insert(vm, joined);
    }

    /// A VM is gone, and with it all that it was told to reset.
    pub(super) fn leave(&self, vm: u64) {
        let mut state = self.lock();
        let Some(gone) = state.vms.remove(&vm) else { return };
        for count in gone.counts.into_values() {
            let past = state.past.entry(count.queue).or_default();
            *past = past.saturating_add(count.requests);
        }
        state.resets.retain(|_, reset| {
            reset.waiting.remove(&vm);
            !reset.waiting.is_empty()
        });
        self.changed.notify_all();
    }

    /// What a VM says. What it says of another's doing, or of something that it was not told, has no effect.
    pub(super) fn report(&self, vm: u64, report: Report) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(from) = state.vms.get_mut(&vm) else { return };
        match report {
            Report::Confirm { serial } => from.confirmed = from.confirmed.max(serial),
            Report::ResetDone { serial, queue, response_code } => {
                let Some(reset) = state.resets.get_mut(&queue).filter(|reset| reset.serial == serial) else {
                    return;
                };
                if !reset.waiting.remove(&vm) {
                    return;
                }
                if response_code != 0 {
                    state.failed.insert(queue, response_code);
                } else if !from.masks.test(queue) {
                    from.used.remove(queue);
                }
                if reset.waiting.is_empty() {
                    state.resets.remove(&queue);
                }
            }
            Report::Statistics { serial, queues } => {
                for count in queues {
                    // So that there are not more of them than queues.
                    if state.lpar.qci().matrix.test(count.queue) {
                        from.counts.insert(count.queue, count);
                    }
                }
                from.counted = from.counted.max(serial.unwrap_or_default());
            }
        }
        drop(guard);
        self.changed.notify_all();
    }

    /// Asks all VMs for their figures and waits for them, but not long.
    pub(super) fn refresh(&self) {
        let mut state = self.lock();
        let serial = state.next_serial();
        let asked: Vec<u64> = state.vms.keys().copied().collect();
        for vm in state.vms.values() {
            vm.to.push(&FromDaemon::Order(Order::Statistics { serial }));
        }
        let missing = |state: &mut State| {
            let vms = asked.iter().filter_map(|number| state.vms.get(number));
            vms.into_iter().any(|vm| vm.counted < serial && !vm.to.is_closed())
        };
        drop(state.wait_timeout_while(&self.changed, STATISTICS_PATIENCE, missing));
    }

    fn set_masks(&self, vm: u64, matrix: &Matrix) {
        let mut state = self.lock();
        let serial = state.next_serial();
        let Some(to) = state.vms.get_mut(&vm) else { return };
        (to.masks, to.ordered) = (*matrix, serial);
        to.used.insert(matrix);
        to.to.push(&FromDaemon::Order(Order::SetMasks { serial, matrix: *matrix }));
    }

    /// False when the VM does not answer; true when it has, or is gone anyway.
    fn confirm(&self, vm: u64) -> bool {
        let state = self.lock();
        let Some(ordered) = state.vms.get(&vm).map(|vm| vm.ordered) else { return true };
        let missing = |state: &mut State| {
            state.vms.get(&vm).is_some_and(|vm| vm.confirmed < ordered && !vm.to.is_closed())
        };
        let (state, late) = state.wait_timeout_while(&self.changed, CONFIRM_PATIENCE, missing);
        if let (true, Some(vm)) = (late, state.vms.get(&vm)) {
            vm.to.close();
        }
        !late
    }

    fn order(&self, vm: u64, order: Order) {
        if let Some(vm) = self.lock().vms.get(&vm) {
            vm.to.push(&FromDaemon::Order(order));
        }
    }

    fn lock(&self) -> RankedGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    const fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

impl Queues {
    fn insert(&mut self, matrix: &Matrix) {
        for apid in matrix.apm.iter() {
            let domains = &mut self.0[usize::from(apid)];
            *domains = *domains | matrix.aqm;
        }
    }

    const fn remove(&mut self, queue: Apqn) {
        self.0[queue.apid().0 as usize].clear(queue.apqi().0);
    }

    const fn contains(&self, queue: Apqn) -> bool {
        self.0[queue.apid().0 as usize].test(queue.apqi().0)
    }
}

impl Machine for RemoteMachine {
    fn qci(&self) -> Qci {
        self.lock().lpar.qci()
    }

    fn tapq(&self, apqn: Apqn) -> (u8, Option<QueueInformation>) {
        let state = self.lock();
        let (code, information) = state.lpar.tapq(apqn);
        let code = match code {
            0 if state.resets.contains_key(&apqn) => 0x02,
            0 => state.failed.get(&apqn).copied().unwrap_or(0),
            code => code,
        };
        (code, information)
    }

    fn zapq(&self, apqn: Apqn) -> u8 {
        let mut state = self.lock();
        let (code, _) = state.lpar.tapq(apqn);
        if code != 0 {
            return code;
        }
        let serial = state.next_serial();
        let mut waiting = BTreeSet::new();
        for (number, vm) in state.vms.iter().filter(|(_, vm)| vm.used.contains(apqn)) {
            vm.to.push(&FromDaemon::Order(Order::Zapq { serial, queue: apqn }));
            waiting.insert(*number);
        }
        state.failed.remove(&apqn);
        state.resets.remove(&apqn);
        if !waiting.is_empty() {
            state.resets.insert(apqn, Reset { serial, waiting });
        }
        0
    }

    /// In tests time stands nearly still until the end of a reset that a VM is at: whether it comes too late with that is not
    /// to depend on the machine that they run on.
    #[cfg(test)]
    fn pause(&self, time: std::time::Duration) {
        let state = self.lock();
        let before = state.resets.len();
        let limit = if before > 0 { 60 * time } else { time };
        drop(state.wait_timeout_while(&self.changed, limit, |state| state.resets.len() == before));
    }

    fn release_interruption(&self, apqn: Apqn) {
        for vm in self.lock().vms.values().filter(|vm| vm.used.contains(apqn)) {
            vm.to.push(&FromDaemon::Order(Order::ReleaseInterruption { queue: apqn }));
        }
    }

    /// Tells every VM. What was on a queue that goes, or whose adapter does not work, the VMs discard.
    fn configure(&self, lpar: &Lpar) {
        let mut state = self.lock();
        state.lpar = lpar.clone();
        let has = lpar.qci().matrix;
        state.resets.retain(|queue, _| has.test(*queue));
        state.failed.retain(|queue, _| has.test(*queue));
        for vm in state.vms.values() {
            vm.to.push(&FromDaemon::Order(Order::Hardware { lpar: lpar.clone() }));
        }
    }

    fn statistics(&self, apqn: Apqn) -> Option<QueueStatistics> {
        let state = self.lock();
        let past = state.past.get(&apqn).copied().unwrap_or(0);
        let mut sum = QueueStatistics { requests: past, ..QueueStatistics::default() };
        for count in state.vms.values().filter_map(|vm| vm.counts.get(&apqn)) {
            sum.requests = sum.requests.saturating_add(count.requests);
            sum.queued = sum.queued.saturating_add(count.pending);
            sum.answered = sum.answered.saturating_add(count.answered);
            sum.answer_time = sum.answer_time.saturating_add(count.answer_time);
        }
        Some(sum)
    }
}

/// A VM in another process, as the host reaches it.
pub(super) struct RemoteGuest {
    pub(super) vm: u64,
    pub(super) machine: Arc<RemoteMachine>,
}

impl Guest for RemoteGuest {
    fn id(&self) -> u64 {
        self.vm
    }

    fn set_hook(&self, present: bool) {
        self.machine.order(self.vm, Order::SetHook { present });
    }

    fn set_masks(&self, matrix: &Matrix) {
        self.machine.set_masks(self.vm, matrix);
    }

    fn config_changed(&self) {
        self.machine.order(self.vm, Order::ConfigChanged);
    }

    fn request(&self) {
        self.machine.order(self.vm, Order::Request);
    }

    fn confirm(&self) -> bool {
        self.machine.confirm(self.vm)
    }
}
