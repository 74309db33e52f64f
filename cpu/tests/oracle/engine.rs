//! The software engine behind the same question and answer as the emulator.
//!
//! It is asked through the seam alone: the lowcore's new PSWs lead supervisor calls and program interruptions to a
//! disabled wait, which is an exit; what the interruption stored says how the case ended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, Weak};
use std::time::{Duration, Instant};

use cpu::{Cpu, CpuModel, Machine};
use machine::{Exit, HostClock, Storage, Vcpu, VcpuState, Vm};
use oracle::layout::{self, PAGES, PAGES_SIZE, SLOT, TARGET, WINDOWS};
use oracle::{Answer, Case, Outcome, State};
use zarch::{AbsoluteAddress, Psw, lowcore, psw_bits};

/// Where interruptions lead.
const WAY_OUT: Psw = Psw { mask: psw_bits::WAIT | psw_bits::EA | psw_bits::BA, address: 0x555 };
/// A case takes microseconds; one that takes so long has no end.
const PATIENCE: Duration = Duration::from_secs(5);
/// The part of the lowcore in an answer.
const DETAILS: u64 = 0x80;

/// The engine with the oracle's storage layout.
pub struct Engine {
    model: CpuModel,
    /// Lives as long as the engine: the watchdog kicks it.
    _machine: Arc<Machine>,
    storage: Arc<Storage>,
    cpu: Box<Cpu>,
    code: Option<([u8; 16], [u8; 8])>,
    cases: Arc<AtomicU64>,
}

impl Engine {
    pub fn new(model: CpuModel) -> Engine {
        let storage = Arc::new(Storage::new(layout::STORAGE_SIZE).expect("the host has 64 MiB"));
        let machine = Arc::new(Machine::new(storage.clone(), Arc::new(HostClock::new()), model.clone(), 1));
        let cpu = machine.take_vcpu(0).expect("it has one CPU");
        for (address, bytes) in layout::fixed_storage() {
            put(&storage, address, &bytes);
        }
        let new_psw = [WAY_OUT.mask, WAY_OUT.address].map(u64::to_be_bytes).concat();
        put(&storage, lowcore::SVC_NEW_PSW, &new_psw);
        put(&storage, lowcore::PROGRAM_NEW_PSW, &new_psw);
        let cases = Arc::new(AtomicU64::new(0));
        watch(Arc::downgrade(&machine), cases.clone());
        Engine { model, _machine: machine, storage, cpu, code: None, cases }
    }

    /// Executes the case. A panic of the engine answers as `Died`, five seconds without an end as `Hung`.
    pub fn run(&mut self, case: &Case) -> Answer {
        self.cases.fetch_add(1, Ordering::Relaxed);
        let start = Instant::now();
        loop {
            let outcome = match catch_unwind(AssertUnwindSafe(|| self.run_unguarded(case))) {
                Ok(Some(answer)) => return answer,
                // The kick may be late: meant for the time in which there was no case to run.
                Ok(None) if start.elapsed() < PATIENCE => continue,
                Ok(None) => Outcome::Hung,
                Err(_) => Outcome::Died,
            };
            *self = Engine::new(self.model.clone());
            return Answer { outcome, state: case.state.clone(), address: SLOT, lowcore: [0; 64] };
        }
    }

    fn run_unguarded(&mut self, case: &Case) -> Option<Answer> {
        let storage = &self.storage;
        put(storage, PAGES, &[0; PAGES_SIZE as usize]);
        for (base, window) in WINDOWS.into_iter().zip(&case.state.windows) {
            put(storage, base, window);
        }
        let code = (layout::slot(case), layout::target(case));
        if self.code != Some(code) {
            put(storage, SLOT, &code.0);
            put(storage, TARGET, &code.1);
            self.code = Some(code);
        }
        put(storage, DETAILS, &[0; 64]);
        let state = &case.state;
        self.cpu.set_operating(true);
        self.cpu.set_state(&VcpuState {
            psw: Psw { mask: state.psw_mask, address: SLOT },
            gr: state.gr,
            ar: state.ar,
            cr: state.cr.as_deref().copied().unwrap_or_else(layout::default_cr),
            fpr: state.fpr,
            fpc: state.fpc,
            prefix: 0,
        });
        match self.cpu.run().expect("the engine never fails") {
            Exit::DisabledWait(WAY_OUT) => {}
            Exit::Kicked => return None,
            other => panic!("unexpected exit {other:?}"),
        }

        let details: [u8; 64] = get(storage, DETAILS);
        let after = self.cpu.state();
        let program = details[0x0e..0x10] != [0, 0];
        let old_psw = if program { lowcore::PROGRAM_OLD_PSW } else { lowcore::SVC_OLD_PSW };
        let [mask, address] = [0, 8].map(|at| u64::from_be_bytes(get(storage, old_psw + at)));
        let word =
            |at: usize| u32::from_be_bytes([details[at], details[at + 1], details[at + 2], details[at + 3]]);
        let (outcome, address) = match program {
            false => (Outcome::Completed, address.wrapping_sub(layout::SVC.len() as u64)),
            true => {
                let outcome = Outcome::Program {
                    code: word(0x0c) as u16,
                    ilc: details[0x0d] & 6,
                    translation_exception: u64::from(word(0x28)) << 32 | u64::from(word(0x2c)),
                    dxc: details[0x13],
                };
                (outcome, address)
            }
        };
        let state = State {
            gr: after.gr,
            fpr: after.fpr,
            ar: after.ar,
            fpc: after.fpc,
            psw_mask: mask,
            windows: WINDOWS.map(|base| get(storage, base)),
            cr: state.cr.as_ref().map(|_| Box::new(after.cr)),
        };
        Some(Answer { outcome, state, address, lowcore: details })
    }
}

struct Watched {
    machine: Weak<Machine>,
    cases: Arc<AtomicU64>,
    before: u64,
}

/// Kicks the machine out of a case that does not end, as long as the machine lives.
fn watch(machine: Weak<Machine>, cases: Arc<AtomicU64>) {
    static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());
    static ONCE: Once = Once::new();
    WATCHED.lock().expect("no holder panics").push(Watched { machine, cases, before: u64::MAX });
    ONCE.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(PATIENCE);
                WATCHED.lock().expect("no holder panics").retain_mut(|watched| {
                    let Some(machine) = watched.machine.upgrade() else { return false };
                    let now = watched.cases.load(Ordering::Relaxed);
                    if std::mem::replace(&mut watched.before, now) == now {
                        machine.kick();
                    }
                    true
                });
            }
        });
    });
}

fn put(storage: &Storage, address: u64, bytes: &[u8]) {
    storage.write(AbsoluteAddress(address), bytes).expect("inside the storage");
}

fn get<const N: usize>(storage: &Storage, address: u64) -> [u8; N] {
    storage.read_array(AbsoluteAddress(address)).expect("inside the storage")
}
