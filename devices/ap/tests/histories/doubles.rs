//! The machine below the host and the VMs beside it, which watch what the host does while it does it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use ap::QueueInformation;
use ap::card::Mode as CardMode;
use ap::host::{ApHost, Guest, Lpar, Machine, QueueStatus};
use crycb::{Apqn, Matrix, Qci};
use uuid::Uuid;

use crate::ops::{DEVICES, Mode, Queue};

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
    /// Looks of TAPQ that a reset still takes.
    slow: BTreeMap<Queue, u8>,
    lpar: Option<Lpar>,
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
        self.pauses = 0;
        self.keeps = keeps;
        for vm in &mut self.vms {
            (vm.told, vm.asked) = (0, 0);
        }
    }

    pub fn behave(&mut self, q: Queue, mode: Mode) {
        self.slow.remove(&q);
        self.modes.insert(q, mode);
    }
}

/// Machine and VMs in one.
#[derive(Default)]
pub struct World {
    seen: Mutex<Seen>,
    host: OnceLock<Weak<ApHost>>,
}

impl World {
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
    }
}

impl Machine for World {
    fn qci(&self) -> Qci {
        self.seen().lpar.as_ref().expect("configured first").qci()
    }

    fn tapq(&self, apqn: Apqn) -> (u8, Option<QueueInformation>) {
        let mut seen = self.seen();
        let lpar = seen.lpar.as_ref().expect("configured first");
        let Some(installed) = lpar.adapter(apqn.apid()).filter(|_| lpar.qci().matrix.test(apqn)) else {
            return (0x01, None);
        };
        let information = QueueInformation {
            apsc: true,
            mex4k: true,
            crt4k: true,
            mode: CardMode::Accelerator,
            apxa: true,
            hardware_type: installed.adapter.generation.ap_type(),
            highest_domain: crate::ops::MAX,
            max_message: 12 * 1024,
            depth: 8,
        };
        let mut code = installed.condition.response_code();
        if code == 0
            && let Some(looks) = seen.slow.get_mut(&queue(apqn)).filter(|looks| **looks > 0)
        {
            *looks = if *looks == u8::MAX { u8::MAX } else { *looks - 1 };
            code = 0x02;
        }
        (code, Some(information))
    }

    fn zapq(&self, apqn: Apqn) -> u8 {
        let q = queue(apqn);
        let mut seen = self.seen();
        seen.reset.insert(q);
        if !seen.keeps && seen.vms.iter().any(|vm| vm.masks.test(apqn)) {
            seen.wrong.push(format!("ZAPQ of {apqn}, which is in an APCB"));
        }
        let lpar = seen.lpar.as_ref().expect("configured first");
        let condition = match lpar.adapter(apqn.apid()) {
            Some(installed) if lpar.qci().matrix.test(apqn) => installed.condition.response_code(),
            _ => 0x01,
        };
        if condition != 0 {
            return condition;
        }
        match seen.modes.get(&q).copied().unwrap_or(Mode::Good) {
            Mode::Good => 0x00,
            Mode::Slow(looks) => {
                seen.slow.insert(q, looks);
                0x00
            }
            Mode::Busy(code, left) => {
                seen.modes.insert(q, if left > 1 { Mode::Busy(code, left - 1) } else { Mode::Good });
                seen.slow.insert(q, 1);
                code
            }
            Mode::Stuck => {
                seen.slow.insert(q, u8::MAX);
                0x00
            }
            Mode::Gone => 0x01,
        }
    }

    fn release_interruption(&self, apqn: Apqn) {
        self.seen().released.insert(queue(apqn));
    }

    fn pause(&self, _: Duration) {
        self.seen().pauses += 1;
        if self.seen().pauses <= LOOKS {
            self.look();
        }
    }

    fn configure(&self, lpar: &Lpar) {
        self.seen().lpar = Some(lpar.clone());
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
        self.vm(|vm| vm.hook = present);
    }

    fn set_masks(&self, matrix: &Matrix) {
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
