//! All CPUs of a machine: what they share, and how one makes the others do something.
//!
//! Every CPU has an attention word that its executor looks at between blocks, and a state: *executing*
//! or *outside* (waiting, stopped, or with the VMM). Whoever changes something that executing CPUs may
//! have remembered sets a bit in their attention words and waits until each has served it or is
//! outside; a CPU serves its attention before it executes again. That one rule makes IPTE, key
//! changes, code marks and [`machine::Vm::with_cpus_held`] work.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use machine::{Clock, CodeWatcher, Error, Floating, Post, ResetKind, Storage, Vcpu, Vm};
use zarch::IoInterruption;

use crate::clock::VirtualClock;
use crate::{Cpu, CpuModel};

/// Bits of the attention word.
pub(crate) mod attention {
    /// Something may have become pending.
    pub const INTERRUPTION: u32 = 1;
    /// Purge the TLB.
    pub const PURGE: u32 = 2;
    /// Take the write tags off the TLB: a page now holds decoded code.
    pub const FORBID_STORES: u32 = 4;
    /// Pages with decoded code were stored into; they are in the mailbox.
    pub const CODE: u32 = 8;
    /// The CPUs are held off.
    pub const HOLD: u32 = 16;
    /// Return from `run`.
    pub const KICK: u32 = 32;
    /// Orders are in the mailbox.
    pub const ORDER: u32 = 64;
}

const OUTSIDE: u8 = 0;
const EXECUTING: u8 = 1;

/// How long a reset waits for CPUs that are with the VMM. One of them may be waiting for what the caller
/// holds, or be resetting the machine itself; it obeys before it executes again.
const PATIENCE: Duration = Duration::from_millis(500);
/// STORE CLOCK values are this far (one second) apart at most when they are made unique; beyond it the
/// clock was set.
const TOD_SECOND: u64 = 4096 * 1_000_000;

/// Waits for what another CPU's thread makes true within a block of instructions, if it has a processor.
/// Where threads are more than processors it may have none, so this one sleeps soon: one that only
/// yields stays the scheduler's choice for milliseconds.
pub(crate) fn wait_until(condition: impl Fn() -> bool) {
    const LOOKS: u32 = 200;
    const SLEEP: Duration = Duration::from_micros(20);
    for _ in 0..LOOKS {
        if condition() {
            return;
        }
        std::hint::spin_loop();
    }
    while !condition() {
        std::thread::sleep(SLEEP);
    }
}

/// What one CPU (or the VMM) asks another to do to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Start,
    Stop,
    StopAndStoreStatus,
    Restart,

    /// Reset and leave stopped.
    ResetAndStop(ResetKind),
    SetPrefix(u64),
    StoreStatus(u64),
}

#[derive(Default)]
struct Mailbox {
    orders: VecDeque<Order>,
    /// The order that is being carried out.
    current: Option<Order>,
    code: BTreeSet<u64>,
    emergency: BTreeSet<u16>,
    external_call: Option<u16>,
}

/// What other threads see of a CPU.
pub(crate) struct Shared {
    pub(crate) address: u16,
    pub(crate) attention: AtomicU32,
    state: AtomicU8,
    served: AtomicU64,
    operating: AtomicBool,
    disabled_wait: AtomicBool,
    waiting: AtomicBool,
    /// Its thread is in `run`.
    running: AtomicBool,
    /// The CPU was dropped: it obeys no more.
    gone: AtomicBool,
    mailbox: Mutex<Mailbox>,
    wake: Condvar,
}

impl Shared {
    fn new(address: u16) -> Self {
        Self {
            address,
            attention: AtomicU32::new(0),
            state: AtomicU8::new(OUTSIDE),
            served: AtomicU64::new(0),
            operating: AtomicBool::new(false),
            disabled_wait: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            running: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            mailbox: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().expect("no holder panics")
    }

    /// Sets attention bits and wakes the CPU from a wait.
    pub(crate) fn alert(&self, bits: u32) {
        self.attention.fetch_or(bits, Ordering::SeqCst);
        // Taking the lock orders this with a waiter that has looked and not yet slept.
        drop(self.mailbox());
        self.wake.notify_all();
    }

    pub(crate) fn set_operating(&self, operating: bool) {
        self.operating.store(operating, Ordering::SeqCst);
        self.disabled_wait.store(false, Ordering::SeqCst);
    }

    pub(crate) fn operating(&self) -> bool {
        self.operating.load(Ordering::SeqCst)
    }

    pub(crate) fn set_disabled_wait(&self, yes: bool) {
        self.disabled_wait.store(yes, Ordering::SeqCst);
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) || self.disabled_wait.load(Ordering::SeqCst)
    }

    /// The CPU itself has more to attend to.
    pub(crate) fn attend_again(&self) {
        self.attention.fetch_or(attention::INTERRUPTION, Ordering::SeqCst);
    }

    /// Attention was served.
    pub(crate) fn serve(&self) -> u32 {
        let bits = self.attention.swap(0, Ordering::SeqCst);
        self.served.fetch_add(1, Ordering::SeqCst);
        bits
    }

    pub(crate) fn leave(&self) {
        self.state.store(OUTSIDE, Ordering::SeqCst);
    }

    /// Sleeps until attention is wanted, at most `limit`.
    pub(crate) fn sleep(&self, limit: Option<Duration>) {
        self.leave();
        self.waiting.store(true, Ordering::SeqCst);
        let mut mailbox = self.mailbox();
        if self.attention.load(Ordering::SeqCst) == 0 {
            mailbox = match limit {
                Some(limit) => self.wake.wait_timeout(mailbox, limit).expect("no holder panics").0,
                None => self.wake.wait(mailbox).expect("no holder panics"),
            };
        }
        drop(mailbox);
        self.waiting.store(false, Ordering::SeqCst);
    }

    pub(crate) fn take_code(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.mailbox().code)
    }

    pub(crate) fn take_order(&self) -> Option<Order> {
        let mut mailbox = self.mailbox();
        mailbox.current = mailbox.orders.pop_front();
        mailbox.current
    }

    /// The order taken last is done, and the CPU leaves `run`: what else it was to attend to is kept.
    pub(crate) fn order_done(&self, bits: u32) {
        let mut mailbox = self.mailbox();
        mailbox.current = None;
        let more = if mailbox.orders.is_empty() { 0 } else { attention::ORDER };
        self.attention.fetch_or(bits | more, Ordering::SeqCst);
    }

    /// Queues an order unless one is pending: false means busy.
    pub(crate) fn give_order(&self, order: Order) -> bool {
        {
            let mut mailbox = self.mailbox();
            if mailbox.current.is_some() || !mailbox.orders.is_empty() {
                return false;
            }
            mailbox.orders.push_back(order);
        }
        self.alert(attention::ORDER);
        true
    }

    /// Queues an order of the VMM behind what is pending, unless the same is.
    fn force_order(&self, order: Order) {
        {
            let mut mailbox = self.mailbox();
            if !mailbox.orders.contains(&order) {
                mailbox.orders.push_back(order);
            }
        }
        self.alert(attention::ORDER);
    }

    pub(crate) fn busy(&self) -> bool {
        let mailbox = self.mailbox();
        mailbox.current.is_some() || !mailbox.orders.is_empty()
    }

    /// An order was accepted that makes the CPU operating.
    fn starting(&self) -> bool {
        let mailbox = self.mailbox();
        mailbox.orders.iter().chain(&mailbox.current).any(|o| matches!(o, Order::Start | Order::Restart))
    }

    pub(crate) fn set_running(&self, running: bool) {
        self.running.store(running, Ordering::SeqCst);
    }

    pub(crate) fn set_gone(&self) {
        self.operating.store(false, Ordering::SeqCst);
        self.gone.store(true, Ordering::SeqCst);
    }

    pub(crate) fn add_emergency(&self, from: u16) {
        self.mailbox().emergency.insert(from);
        self.alert(attention::INTERRUPTION);
    }

    /// Makes an external call pending: false when one is.
    pub(crate) fn add_external_call(&self, from: u16) -> bool {
        {
            let mut mailbox = self.mailbox();
            if mailbox.external_call.is_some() {
                return false;
            }
            mailbox.external_call = Some(from);
        }
        self.alert(attention::INTERRUPTION);
        true
    }

    pub(crate) fn external_call_pending(&self) -> bool {
        self.mailbox().external_call.is_some()
    }

    pub(crate) fn take_emergency(&self) -> Option<u16> {
        self.mailbox().emergency.pop_first()
    }

    pub(crate) fn take_external_call(&self) -> Option<u16> {
        self.mailbox().external_call.take()
    }

    pub(crate) fn signal_pending(&self) -> (bool, bool) {
        let mailbox = self.mailbox();
        (!mailbox.emergency.is_empty(), mailbox.external_call.is_some())
    }

    /// Clears the interruptions pending at this CPU, as CPU reset does.
    pub(crate) fn clear_pending(&self) {
        let mut mailbox = self.mailbox();
        mailbox.emergency.clear();
        mailbox.external_call = None;
    }
}

impl CodeWatcher for Shared {
    fn code_changed(&self, page: u64) {
        self.mailbox().code.insert(page);
        self.alert(attention::CODE);
    }
}

/// Interruptions that any CPU may take.
#[derive(Default)]
struct Pending {
    service_signal: Option<u32>,
    /// At most one adapter interruption an ISC.
    adapter: u8,
    /// Of subchannels; bounded by the number of subchannels, each of which has one at most.
    io: VecDeque<IoInterruption>,
    channel_report: bool,
}

/// What all CPUs share.
pub(crate) struct Complex {
    pub(crate) storage: Arc<Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) virtual_clock: Option<Arc<VirtualClock>>,
    pub(crate) model: CpuModel,
    pub(crate) cpus: Vec<Arc<Shared>>,
    pending: Mutex<Pending>,
    /// Bits of what is pending, for a look without the lock: 1 service signal, 2 I/O, 4 report.
    pending_summary: AtomicU8,
    /// How many holders keep the CPUs off.
    held: Mutex<u32>,
    held_now: AtomicU32,
    released: Condvar,
    last_tod: AtomicU64,
    /// CPUs that mark pages as holding code.
    marking: AtomicU32,
}

pub(crate) const SERVICE_SIGNAL: u8 = 1;
pub(crate) const IO: u8 = 2;
pub(crate) const CHANNEL_REPORT: u8 = 4;

impl Complex {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no holder panics")
    }

    fn summarize(&self, pending: &Pending) {
        let mut summary = 0;
        if pending.service_signal.is_some() {
            summary |= SERVICE_SIGNAL;
        }
        if pending.adapter != 0 || !pending.io.is_empty() {
            summary |= IO;
        }
        if pending.channel_report {
            summary |= CHANNEL_REPORT;
        }
        self.pending_summary.store(summary, Ordering::SeqCst);
    }

    pub(crate) fn pending_summary(&self) -> u8 {
        self.pending_summary.load(Ordering::SeqCst)
    }

    /// Whether an I/O interruption of one of the subclasses in `isc_mask` (ISC 0 leftmost) is pending.
    pub(crate) fn io_pending(&self, isc_mask: u8) -> bool {
        if self.pending_summary() & IO == 0 {
            return false;
        }
        let pending = self.pending();
        pending.adapter & isc_mask != 0 || pending.io.iter().any(|i| isc_mask & 0x80 >> i.isc() != 0)
    }

    pub(crate) fn take_service_signal(&self) -> Option<u32> {
        let mut pending = self.pending();
        let parameter = pending.service_signal.take();
        self.summarize(&pending);
        parameter
    }

    pub(crate) fn take_channel_report(&self) -> bool {
        let mut pending = self.pending();
        let was = std::mem::take(&mut pending.channel_report);
        self.summarize(&pending);
        was
    }

    /// The pending I/O interruption of the lowest-numbered (highest-priority) enabled subclass.
    pub(crate) fn take_io(&self, isc_mask: u8) -> Option<IoInterruption> {
        let mut pending = self.pending();
        let found = (0..8u8).filter(|isc| isc_mask & 0x80 >> isc != 0).find_map(|isc| {
            if let Some(n) = pending.io.iter().position(|i| i.isc() == isc) {
                return pending.io.remove(n);
            }
            let bit = 0x80 >> isc;
            (pending.adapter & bit != 0).then(|| {
                pending.adapter &= !bit;
                IoInterruption::adapter(isc)
            })
        });
        self.summarize(&pending);
        found
    }

    /// Begins to execute: waits while the CPUs are held off.
    pub(crate) fn enter(&self, shared: &Shared) {
        loop {
            shared.state.store(EXECUTING, Ordering::SeqCst);
            if self.held_now.load(Ordering::SeqCst) == 0 {
                return;
            }
            shared.leave();
            let held = self.held.lock().expect("no holder panics");
            drop(self.released.wait_while(held, |held| *held > 0).expect("no holder panics"));
        }
    }

    /// Sets `bits` at every CPU but `own` and waits until none executes with what it had before.
    fn shoot(&self, own: &Shared, bits: u32) {
        if self.cpus.len() < 2 {
            return;
        }
        own.leave();
        for cpu in self.cpus.iter().filter(|c| c.address != own.address) {
            let served = cpu.served.load(Ordering::SeqCst);
            cpu.attention.fetch_or(bits, Ordering::SeqCst);
            wait_until(|| {
                cpu.state.load(Ordering::SeqCst) != EXECUTING || cpu.served.load(Ordering::SeqCst) != served
            });
        }
        self.enter(own);
    }

    pub(crate) fn purge_others(&self, cpu: &Cpu) {
        self.shoot(&cpu.shared, attention::PURGE);
    }

    /// A CPU marks a page as holding code, until [`end_marking`](Self::end_marking).
    pub(crate) fn begin_marking(&self) {
        self.marking.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether another CPU than the one that asks, which does, marks a page now.
    pub(crate) fn others_mark(&self) -> bool {
        self.marking.load(Ordering::SeqCst) > 1
    }

    pub(crate) fn end_marking(&self) {
        self.marking.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn forbid_stores_of_others(&self, cpu: &Cpu) {
        self.shoot(&cpu.shared, attention::FORBID_STORES);
    }

    /// Makes TOD values unique and increasing over all CPUs.
    pub(crate) fn unique_tod(&self, tod: u64) -> u64 {
        let next = |before: u64| match before.wrapping_sub(tod) {
            0..TOD_SECOND => before.wrapping_add(1),
            _ => tod,
        };
        let before = self.last_tod.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |t| Some(next(t)));
        next(before.expect("every value has a successor"))
    }

    fn alert_all(&self, bits: u32) {
        self.cpus.iter().for_each(|cpu| cpu.alert(bits));
    }
}

/// All CPUs of a guest.
pub struct Machine {
    pub(crate) complex: Arc<Complex>,
    vcpus: Mutex<Vec<Option<Box<Cpu>>>>,
}

impl Machine {
    /// A machine of `cpus` stopped CPUs with addresses from 0, on host time.
    pub fn new(storage: Arc<Storage>, clock: Arc<dyn Clock>, model: CpuModel, cpus: u16) -> Self {
        Self::with_clocks(storage, clock, None, model, cpus)
    }

    /// A machine of one stopped CPU whose time is the instruction count.
    pub fn with_virtual_time(storage: Arc<Storage>, clock: Arc<VirtualClock>, model: CpuModel) -> Self {
        Self::with_clocks(storage, clock.clone(), Some(clock), model, 1)
    }

    fn with_clocks(
        storage: Arc<Storage>,
        clock: Arc<dyn Clock>,
        virtual_clock: Option<Arc<VirtualClock>>,
        model: CpuModel,
        cpus: u16,
    ) -> Self {
        let shared: Vec<_> = (0..cpus).map(|address| Arc::new(Shared::new(address))).collect();
        for cpu in &shared {
            storage.watch_code(cpu.clone());
        }
        let complex = Arc::new(Complex {
            storage,
            clock,
            virtual_clock,
            model,
            cpus: shared.clone(),
            pending: Mutex::default(),
            pending_summary: AtomicU8::new(0),
            held: Mutex::new(0),
            held_now: AtomicU32::new(0),
            released: Condvar::new(),
            last_tod: AtomicU64::new(0),
            marking: AtomicU32::new(0),
        });
        let vcpus = shared.into_iter().map(|s| Some(Box::new(Cpu::new(complex.clone(), s)))).collect();
        Self { complex, vcpus: Mutex::new(vcpus) }
    }

    /// Hands out CPU `address`, once.
    pub fn take_vcpu(&self, address: u16) -> Result<Box<Cpu>, Error> {
        let mut vcpus = self.vcpus.lock().expect("no holder panics");
        vcpus.get_mut(address as usize).and_then(Option::take).ok_or_else(|| Error::Cpu {
            address,
            reason: "there is no such CPU, or it was taken before".into(),
        })
    }

    /// Hands out CPU `address` as the seam's trait, once.
    pub fn vcpu(&self, address: u16) -> Result<Box<dyn Vcpu>, Error> {
        Ok(self.take_vcpu(address)?)
    }
}

impl Post for Machine {
    fn post(&self, interruption: Floating) {
        {
            let mut pending = self.complex.pending();
            match interruption {
                Floating::ServiceSignal(parameter) => {
                    pending.service_signal = Some(pending.service_signal.unwrap_or(0) | parameter);
                }
                Floating::Io(io) if io.is_adapter() => pending.adapter |= 0x80 >> io.isc(),
                Floating::Io(io) => {
                    pending.io.retain(|other| other.subsystem_id != io.subsystem_id);
                    pending.io.push_back(io);
                }
                Floating::ChannelReport => pending.channel_report = true,
            }
            self.complex.summarize(&pending);
        }
        self.complex.alert_all(attention::INTERRUPTION);
    }

    fn take_io(&self, isc_mask: u8) -> Option<IoInterruption> {
        self.complex.take_io(isc_mask)
    }

    fn clear(&self) {
        let mut pending = self.complex.pending();
        *pending = Pending::default();
        self.complex.summarize(&pending);
    }
}

impl Vm for Machine {
    fn with_cpus_held(&self, action: &mut dyn FnMut()) {
        let complex = &self.complex;
        {
            let mut held = complex.held.lock().expect("no holder panics");
            *held += 1;
            complex.held_now.store(*held, Ordering::SeqCst);
        }
        for cpu in &complex.cpus {
            cpu.attention.fetch_or(attention::HOLD, Ordering::SeqCst);
        }
        for cpu in &complex.cpus {
            wait_until(|| cpu.state.load(Ordering::SeqCst) != EXECUTING);
        }
        action();
        let mut held = complex.held.lock().expect("no holder panics");
        *held -= 1;
        complex.held_now.store(*held, Ordering::SeqCst);
        complex.released.notify_all();
    }

    fn kick(&self) {
        self.complex.alert_all(attention::KICK);
    }

    fn reset_cpus(&self, kind: ResetKind, except: Option<u16>) {
        let others = || self.complex.cpus.iter().filter(|c| Some(c.address) != except);
        others().for_each(|cpu| cpu.force_order(Order::ResetAndStop(kind)));
        let end = Instant::now() + PATIENCE;
        for cpu in others() {
            let comes = || cpu.running.load(Ordering::SeqCst) || Instant::now() < end;
            wait_until(|| !cpu.busy() || cpu.gone.load(Ordering::SeqCst) || !comes());
        }
    }

    fn operating_cpus(&self) -> usize {
        // A CPU that is about to start is looked for first: it is operating before that order is done.
        let running = |c: &&Arc<Shared>| {
            !c.gone.load(Ordering::SeqCst)
                && (c.starting() || c.operating() && !c.disabled_wait.load(Ordering::SeqCst))
        };
        self.complex.cpus.iter().filter(running).count()
    }

    fn is_operating(&self, address: u16) -> bool {
        self.complex.cpus.get(usize::from(address)).is_some_and(|c| c.operating())
    }

    fn cpu_addresses(&self) -> Vec<u16> {
        self.complex.cpus.iter().map(|c| c.address).collect()
    }

    fn restart(&self, address: u16) -> bool {
        match self.complex.cpus.get(address as usize) {
            Some(cpu) => {
                cpu.force_order(Order::Restart);
                true
            }
            None => false,
        }
    }
}
