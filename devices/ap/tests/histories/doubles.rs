//! The machine below the host and the VMs beside it, which watch what the host does while it does it. The machine's queues are
//! the emulated ones, of which some misbehave; the VMs' guests [use them](crate::traffic).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use ap::QueueInformation;
use ap::host::{ApHost, Guest, Lpar, Machine, QueueStatus};
use crycb::{Apqn, Matrix, Qci};
use uuid::Uuid;

use crate::ops::{Act, DEVICES, Mode, OLD, Queue};
use crate::traffic::Traffic;

/// How often the host looks into the world while it waits; more would only cost time.
const LOOKS: u32 = 2;

pub fn queue(apqn: Apqn) -> Queue {
    (apqn.apid().0, apqn.apqi().0)
}

/// What the doubles saw.
#[derive(Default)]
pub struct Seen {
    pub vms: [Vm; DEVICES],
    /// Queues that got a ZAPQ in this operation.
    pub reset: BTreeSet<Queue>,
    /// Queues whose interruption resources were freed in this operation.
    pub released: BTreeSet<Queue>,
    /// Queues that an APCB lost in this operation.
    pub lost: BTreeSet<Queue>,
    pub pauses: u32,
    /// What must not be.
    pub wrong: Vec<String>,
    /// `VFIO_DEVICE_RESET` alone may reset queues of a guest that keeps them.
    pub keeps: bool,
    modes: BTreeMap<Queue, Mode>,
    /// Looks of TAPQ that a reset still takes; [`u8::MAX`] for ever.
    slow: BTreeMap<Queue, u8>,
    /// Adapters that are older than any that a description can name.
    old: BTreeSet<u8>,
    /// What the next configuration makes of that.
    coming: Vec<(u8, bool)>,
}

#[derive(Clone)]
pub struct Vm {
    pub hook: bool,
    pub masks: Matrix,
    pub told: u32,
    pub asked: u32,
    pub polite: bool,
    /// Which device it has.
    pub device: Option<Uuid>,
}

impl Default for Vm {
    fn default() -> Self {
        Self { hook: false, masks: Matrix::EMPTY, told: 0, asked: 0, polite: true, device: None }
    }
}

impl Seen {
    /// An operation begins.
    pub fn begin(&mut self, keeps: bool) {
        self.reset.clear();
        self.released.clear();
        self.lost.clear();
        self.wrong.clear();
        self.coming.clear();
        self.pauses = 0;
        self.keeps = keeps;
        for vm in &mut self.vms {
            (vm.told, vm.asked) = (0, 0);
        }
    }

    /// The adapter has a card of this generation when the next configuration comes, if it does in this operation.
    pub fn plug(&mut self, adapter: u8, generation: u8) {
        self.coming.push((adapter, generation == OLD));
    }
}

/// Machine and VMs in one.
pub struct World {
    seen: Mutex<Seen>,
    host: OnceLock<Weak<ApHost>>,
    pub traffic: Traffic,
}

impl World {
    /// A machine with no adapter yet, of which PQAP(QCI) will say this.
    pub fn new(qci: Qci) -> Self {
        Self { seen: Mutex::default(), host: OnceLock::new(), traffic: Traffic::new(qci) }
    }

    /// An operation begins; `keeps` as in [`Seen::keeps`].
    pub fn begin(&self, keeps: bool) {
        self.seen().begin(keeps);
        self.traffic.begin();
    }

    /// The queue takes resets so from now on. One that did not end does.
    pub fn behave(&self, q: Queue, mode: Mode) {
        let mut seen = self.seen();
        seen.slow.remove(&q);
        seen.modes.insert(q, mode);
        self.traffic.unstick(q);
    }

    /// A guest executes an instruction.
    pub fn act(&self, vm: usize, pick: u8, act: Act) {
        self.traffic.act(vm, pick, act);
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn join(&self, host: &Arc<ApHost>) {
        self.host.set(Arc::downgrade(host)).expect("joined once");
    }

    fn host(&self) -> Option<Arc<ApHost>> {
        self.host.get().and_then(Weak::upgrade)
    }

    /// Called where the host may hold no lock that a guest needs: queries go through, and show no unbound queue in a guest.
    fn look(&self) {
        let Some(host) = self.host() else { return };
        let vms = self.seen().vms.clone();
        for apqn in vms.iter().flat_map(|vm| vm.masks.apqns()) {
            if host.status(apqn) != Some(QueueStatus::InUse) {
                self.seen().wrong.push(format!("{apqn} in a guest and not in use, in mid-operation"));
            }
        }
        // Without a guest a query is made all the same.
        let _ = host.mdev(Uuid::nil());
        let reset = self.seen().reset.clone();
        (0..DEVICES).for_each(|vm| self.traffic.work(vm, &reset));
    }
}

impl Machine for World {
    fn qci(&self) -> Qci {
        self.traffic.qci()
    }

    fn tapq(&self, apqn: Apqn) -> (u8, Option<QueueInformation>) {
        let (code, information) = self.traffic.tapq(apqn);
        let mut seen = self.seen();
        let Some(looks) = seen.slow.get_mut(&queue(apqn)).filter(|looks| (1..=u8::MAX - 1).contains(*looks))
        else {
            return (code, information);
        };
        *looks -= 1;
        if *looks == 0 {
            // It is the last look that finds the reset in progress.
            self.traffic.unstick(queue(apqn));
        }
        (if code == 0 { 0x02 } else { code }, information)
    }

    fn zapq(&self, apqn: Apqn) -> u8 {
        let q = queue(apqn);
        let mut seen = self.seen();
        seen.reset.insert(q);
        if !seen.keeps && seen.vms.iter().any(|vm| vm.masks.test(apqn)) {
            seen.wrong.push(format!("ZAPQ of {apqn}, which is in an APCB"));
        }
        let mode = seen.modes.get(&q).copied().unwrap_or(Mode::Good);
        if let Mode::Busy(busy, left) = mode
            && let (0, _) = self.traffic.tapq(apqn)
        {
            seen.modes.insert(q, if left > 1 { Mode::Busy(busy, left - 1) } else { Mode::Good });
            seen.slow.insert(q, 1);
            return busy;
        }
        let code = self.traffic.zapq(apqn, matches!(mode, Mode::Slow(_) | Mode::Stuck));
        match mode {
            Mode::Slow(looks) if code == 0 => drop(seen.slow.insert(q, looks)),
            Mode::Stuck if code == 0 => drop(seen.slow.insert(q, u8::MAX)),
            // What is not there for a moment has nothing on it when it is back.
            Mode::Gone if code == 0 => return 0x01,
            _ => {}
        }
        code
    }

    fn release_interruption(&self, apqn: Apqn) {
        self.traffic.release_interruption(apqn);
        self.seen().released.insert(queue(apqn));
    }

    fn pause(&self, time: Duration) {
        self.traffic.pause(time.as_nanos() as u64);
        if time != Duration::from_millis(20) {
            self.seen().wrong.push(format!("{time:?} between two looks"));
        }
        self.seen().pauses += 1;
        if self.seen().pauses <= LOOKS {
            self.look();
        }
    }

    fn configure(&self, lpar: &Lpar) {
        let mut seen = self.seen();
        for (adapter, old) in std::mem::take(&mut seen.coming) {
            if old {
                seen.old.insert(adapter)
            } else {
                seen.old.remove(&adapter)
            };
        }
        let hardware_type = |adapter| match lpar.adapter(crycb::Apid(adapter)) {
            // CEX3
            _ if seen.old.contains(&adapter) => 9,
            installed => installed.map_or(0, |installed| installed.adapter.generation.ap_type()),
        };
        for emptied in self.traffic.configure(lpar, hardware_type) {
            seen.slow.remove(&emptied);
        }
    }
}

/// A VM by its number in [`Seen::vms`].
pub struct Double(pub Arc<World>, pub usize);

impl Double {
    fn vm<R>(&self, with: impl FnOnce(&mut Vm) -> R) -> R {
        with(&mut self.0.seen().vms[self.1])
    }
}

impl Guest for Double {
    fn id(&self) -> u64 {
        self.1 as u64
    }

    fn set_hook(&self, present: bool) {
        self.0.traffic.set_hook(self.1, present);
        self.vm(|vm| vm.hook = present);
    }

    fn set_masks(&self, matrix: &Matrix) {
        self.0.traffic.set_masks(self.1, matrix);
        let mut seen = self.0.seen();
        let before = std::mem::replace(&mut seen.vms[self.1].masks, *matrix);
        let gone: Vec<Queue> = before.apqns().filter(|apqn| !matrix.test(*apqn)).map(queue).collect();
        seen.lost.extend(gone);
        let vms = seen.vms.clone();
        if *matrix != Matrix::EMPTY && !vms[self.1].hook {
            seen.wrong.push(format!("masks for VM {} without a hook", self.1));
        }
        for apqn in matrix.apqns() {
            if vms.iter().filter(|vm| vm.masks.test(apqn)).count() > 1 {
                seen.wrong.push(format!("{apqn} in two guests"));
            }
        }
    }

    fn config_changed(&self) {
        self.vm(|vm| vm.told += 1);
        self.0.look();
    }

    fn request(&self) {
        let device = self.vm(|vm| {
            vm.asked += 1;
            vm.device.filter(|_| vm.polite)
        });
        if let (Some(device), Some(host)) = (device, self.0.host()) {
            if let Err(error) = host.detach(device) {
                self.0.seen().wrong.push(format!("detach when asked: {error}"));
            }
            self.vm(|vm| vm.device = None);
        }
    }
}
