//! What CPUs and the VMM ask of one another: kicks, orders, and holding all CPUs off.
//!
//! One lock for the machine. A CPU is *inside* while the kernel may execute it. It goes in through
//! [`Rendezvous::next`], which looks at everything that was asked for under that lock, and whoever asks for something
//! kicks the CPU after having written it down: so nothing is overlooked.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use machine::ResetKind;

use crate::kernel::Kick;

/// How long a reset waits for CPUs that are with the VMM. One of them may be held there for as long as an operator likes,
/// wait for what the caller holds, or reset the machine itself.
const PATIENCE: Duration = Duration::from_millis(500);

/// What another CPU, by SIGNAL PROCESSOR, or the VMM wants a CPU to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Enters the operating state.
    Start,
    /// Enters the stopped state.
    Stop,
    /// Enters the stopped state and stores its status.
    StopAndStoreStatus,
    /// Takes a restart interruption, operating.
    Restart,
    /// Is reset and stopped.
    Reset(ResetKind),
    /// Gets another prefix.
    SetPrefix(u32),
    /// Stores its status at this absolute address.
    StoreStatus(u64),
    /// Stores its vector registers at this absolute address.
    StoreAdditionalStatus {
        /// The address.
        at: u64,
        /// Whether there is room for the guarded-storage registers.
        guarded: bool,
    },
}

/// What a CPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Executes the guest: the CPU counts as inside.
    Enter,
    /// Tells the VMM that it was kicked.
    Kicked,
    /// Carries out an order and then calls [`Rendezvous::done`].
    Order(Order),
}

#[derive(Default)]
struct Cpu {
    inside: bool,
    operating: bool,
    /// The VMM knows of its disabled wait, which only an order ends.
    waits: bool,
    kicked: bool,
    /// Its thread is in the CPU's `run`, and obeys without help.
    runs: bool,
    order: Option<Order>,
    /// The VMM wants it restarted, once it has no order.
    restart: bool,
    kick: Option<Arc<dyn Kick>>,
    /// Its thread has ended.
    gone: bool,
}

#[derive(Default)]
struct State {
    held: usize,
    cpus: Vec<Cpu>,
}

/// See the module.
pub struct Rendezvous {
    state: Mutex<State>,
    changed: Condvar,
    /// Taken by who holds all CPUs off.
    holding: Mutex<()>,
}

impl Rendezvous {
    /// For `cpus` CPUs, stopped.
    pub fn new(cpus: u16) -> Self {
        let cpus = (0..cpus).map(|_| Cpu::default()).collect();
        Self {
            state: Mutex::new(State { held: 0, cpus }),
            changed: Condvar::new(),
            holding: Mutex::default(),
        }
    }

    /// What the CPU does next; waits while that is nothing.
    pub fn next(&self, cpu: u16) -> Next {
        let mut state = self.lock();
        loop {
            let held = state.held > 0;
            let own = &mut state.cpus[usize::from(cpu)];
            if std::mem::take(&mut own.kicked) {
                return Next::Kicked;
            }
            if own.order.is_none() && std::mem::take(&mut own.restart) {
                own.order = Some(Order::Restart);
            }
            if let Some(order) = own.order {
                return Next::Order(order);
            }
            if own.operating && !own.waits && !held {
                own.inside = true;
                return Next::Enter;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The CPU's thread is in its `run`, or back with the VMM.
    pub fn set_runs(&self, cpu: u16, runs: bool) {
        self.lock().cpus[usize::from(cpu)].runs = runs;
        self.changed.notify_all();
    }

    /// The kernel no longer executes the CPU.
    pub fn left(&self, cpu: u16) {
        self.lock().cpus[usize::from(cpu)].inside = false;
        self.changed.notify_all();
    }

    /// The CPU has carried out its order and is operating, or not.
    pub fn done(&self, cpu: u16, operating: bool) {
        let mut state = self.lock();
        let own = &mut state.cpus[usize::from(cpu)];
        (own.order, own.operating, own.waits) = (None, operating, false);
        drop(state);
        self.changed.notify_all();
    }

    /// Whether the CPU is operating; `None` when there is no such CPU.
    pub fn is_operating(&self, cpu: u16) -> Option<bool> {
        self.lock().cpus.get(usize::from(cpu)).filter(|cpu| !cpu.gone).map(|cpu| cpu.operating)
    }

    /// Makes the CPU operating or stopped, by its own thread.
    pub fn set_operating(&self, cpu: u16, operating: bool) {
        let mut state = self.lock();
        let own = &mut state.cpus[usize::from(cpu)];
        (own.operating, own.waits) = (operating, false);
        drop(state);
        self.changed.notify_all();
    }

    /// The CPU has told the VMM that it waits for ever.
    pub fn set_waits(&self, cpu: u16) {
        self.lock().cpus[usize::from(cpu)].waits = true;
    }

    /// The CPU's runs in the calling thread are ended by `kick`.
    pub fn arm(&self, cpu: u16, kick: Arc<dyn Kick>) {
        self.lock().cpus[usize::from(cpu)].kick = Some(kick);
    }

    /// The CPU's thread ends: nothing will be done any more.
    pub fn gone(&self, cpu: u16) {
        let mut state = self.lock();
        let own = &mut state.cpus[usize::from(cpu)];
        *own = Cpu { gone: true, ..Cpu::default() };
        drop(state);
        self.changed.notify_all();
    }

    /// Gives an order. False when the CPU has one already; `None` when there is no such CPU.
    pub fn give(&self, cpu: u16, order: Order) -> Option<bool> {
        let mut state = self.lock();
        let target = state.cpus.get_mut(usize::from(cpu)).filter(|cpu| !cpu.gone)?;
        if target.order.is_some() {
            return Some(false);
        }
        target.order = Some(order);
        target.wake();
        drop(state);
        self.changed.notify_all();
        Some(true)
    }

    /// Restarts the CPU as soon as it has done what it was ordered to; false when there is no such CPU.
    pub fn restart(&self, cpu: u16) -> bool {
        let mut state = self.lock();
        let Some(target) = state.cpus.get_mut(usize::from(cpu)).filter(|cpu| !cpu.gone) else { return false };
        target.restart = true;
        target.wake();
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Waits until the CPU has no order any more, but no longer than `patience`.
    pub fn wait_for(&self, cpu: u16, patience: Duration) {
        let end = Instant::now() + patience;
        let mut state = self.lock();
        while state.cpus[usize::from(cpu)].order.is_some() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Resets all CPUs but `except`, whatever order they have. When this returns that is done, but for CPUs that were with
    /// the VMM for long: those are reset before they execute again.
    pub fn reset(&self, kind: ResetKind, except: Option<u16>) {
        let others = |n: usize, cpu: &Cpu| Some(n) != except.map(usize::from) && !cpu.gone;
        let end = Instant::now() + PATIENCE;
        let mut state = self.lock();
        for (n, cpu) in state.cpus.iter_mut().enumerate() {
            if others(n, cpu) {
                (cpu.order, cpu.restart) = (Some(Order::Reset(kind)), false);
                cpu.wake();
            }
        }
        self.changed.notify_all();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let waited_for = |(n, cpu): (usize, &Cpu)| {
                others(n, cpu) && matches!(cpu.order, Some(Order::Reset(_))) && (cpu.runs || !left.is_zero())
            };
            if !state.cpus.iter().enumerate().any(waited_for) {
                return;
            }
            // Who runs tells when it is done.
            let most = if left.is_zero() { PATIENCE } else { left };
            state = self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Makes the run of every CPU end.
    pub fn kick(&self) {
        let mut state = self.lock();
        for cpu in &mut state.cpus {
            cpu.kicked = true;
            cpu.wake();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Runs `action` while no CPU is inside.
    pub fn hold(&self, action: &mut dyn FnMut()) {
        let _alone = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        state.held += 1;
        state.cpus.iter().for_each(Cpu::wake);
        while state.cpus.iter().any(|cpu| cpu.inside) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let _release = Release(self);
        action();
    }

    /// How many CPUs are neither stopped nor in a disabled wait, or are about to start.
    pub fn operating_count(&self) -> usize {
        let counts = |cpu: &&Cpu| match cpu.order {
            Some(Order::Start | Order::Restart) => true,
            Some(Order::Reset(_)) => cpu.restart,
            _ if cpu.restart => true,
            _ => cpu.operating && !cpu.waits,
        };
        self.lock().cpus.iter().filter(counts).count()
    }

    /// The CPU addresses.
    pub fn addresses(&self) -> Vec<u16> {
        (0..self.lock().cpus.len() as u16).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cpu {
    fn wake(&self) {
        if let Some(kick) = self.kick.as_ref().filter(|_| self.inside) {
            kick.kick();
        }
    }
}

struct Release<'a>(&'a Rendezvous);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.lock().held -= 1;
        self.0.changed.notify_all();
    }
}
