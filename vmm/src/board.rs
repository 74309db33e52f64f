//! What the CPUs exit to.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crycb::Apqn;
use machine::{Clock, Exit, Outcome, ResetKind, Storage, Vcpu, VcpuState, Vm};
use zarch::{AbsoluteAddress, Psw};

use crate::config::WatchdogAction;
use crate::control::{Control, End};
use crate::crash::{Crash, Disassemble, Reason, Recent, Report, panicked};
use crate::devices::Devices;
use crate::diagnose::{Answer, Context, Reset, diagnose};
use crate::events::{Event, ResetCause};
use crate::ipl::ParameterBlock;
use crate::loader::Boot;
use crate::qmp::Counters;
use crate::rate_limit::RateLimit;
use crate::system_information::Identity;
use crate::watchdog::Watchdog;

/// The CPU that the guest is started on.
pub const BOOT_CPU: u16 = 0;
/// A disabled wait at an address that ends so means that the guest is done.
const DONE: u64 = 0xfff;

/// What a [`Board`] is made of.
pub struct Parts {
    /// Guest storage.
    pub storage: Arc<Storage>,
    /// All CPUs.
    pub vm: Arc<dyn Vm>,
    /// Guest time.
    pub clock: Arc<dyn Clock>,
    /// Everything that the guest reaches through its own instructions.
    pub devices: Devices,
    /// How the run ends.
    pub control: Arc<Control>,
    /// What the guest is started from.
    pub boot: Boot,
    /// What the guest is told about itself.
    pub identity: Identity,
    /// What an expired watchdog does.
    pub watchdog_action: WatchdogAction,
    /// For what is told of a crash.
    pub disassemble: Disassemble,
}

/// Answers every exit of every CPU of one machine.
pub struct Board {
    // Configuration.
    identity: Identity,
    boot: Boot,
    disassemble: Disassemble,
    // Connections.
    pub(crate) storage: Arc<Storage>,
    pub(crate) vm: Arc<dyn Vm>,
    pub(crate) control: Arc<Control>,
    pub(crate) devices: Devices,
    // Guest-visible state.
    pub(crate) watchdog: Watchdog,
    parameter_block: Mutex<Option<ParameterBlock>>,
    // Book-keeping.
    resetting: AtomicBool,
    waits: Mutex<BTreeMap<u16, Report>>,
    /// The host's number of each CPU's thread.
    threads: Mutex<BTreeMap<u16, i32>>,
    resets: AtomicU64,
    noise: RateLimit,
    /// Bounds what clients are told of the guest's requests.
    requests: RateLimit,
    /// The management sockets' counters as last told.
    management: Mutex<Counters>,
}

impl Board {
    /// A board with nothing loaded.
    pub fn new(parts: Parts) -> std::io::Result<Self> {
        let Parts { storage, vm, clock, devices, control, boot, identity, watchdog_action, disassemble } =
            parts;
        let watchdog = Watchdog::new(watchdog_action, clock, control.clone())?;
        Ok(Self {
            identity,
            boot,
            disassemble,
            storage,
            vm,
            control,
            devices,
            watchdog,
            parameter_block: Mutex::default(),
            resetting: AtomicBool::new(false),
            waits: Mutex::default(),
            threads: Mutex::default(),
            resets: AtomicU64::new(0),
            noise: RateLimit::new(10, Duration::from_secs(10)),
            requests: RateLimit::new(20, Duration::from_millis(50)),
            management: Mutex::default(),
        })
    }

    /// Puts the guest into storage and `cpu`, the boot CPU, at its beginning. Nothing may run yet.
    pub fn start(&self, cpu: &mut dyn Vcpu) -> Result<(), crate::LoadError> {
        let psw = self.boot.load(&self.storage)?;
        cpu.reset(ResetKind::Clear);
        begin(cpu, psw);
        Ok(())
    }

    /// The devices, for what changes them from outside while the guest runs.
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Runs `cpu` until the run ends. A panic ends it, with a report.
    pub fn run(&self, cpu: &mut dyn Vcpu) {
        self.note_thread(cpu.address());
        let mut recent = Recent::default();
        // The CPU is looked at afterwards, and not run any more.
        let ran = catch_unwind(AssertUnwindSafe(|| self.run_until_end(cpu, &mut recent)));
        if let Err(payload) = ran {
            let text = panicked(cpu, &*payload, &self.storage, &recent, self.disassemble);
            self.control.end(End::Failed(text.into()));
        }
    }

    fn run_until_end(&self, cpu: &mut dyn Vcpu, recent: &mut Recent) {
        while !self.control.ended() {
            self.reset_if_asked(cpu);
            if self.control.park(cpu.address(), cpu.address() == BOOT_CPU) {
                continue;
            }
            match cpu.run() {
                Ok(exit) => {
                    recent.add(exit, cpu.psw().address);
                    self.answer(cpu, exit, recent);
                }
                Err(error) => self.control.end(End::Failed(error.into())),
            }
        }
    }

    /// The calling thread is that of CPU `address`.
    pub(crate) fn note_thread(&self, address: u16) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        lock(&self.threads).insert(address, thread);
    }

    /// Carries out a reset that another thread asked for. Looked at before each run, not only after a
    /// kick, which another exit may have overtaken.
    pub(crate) fn reset_if_asked(&self, cpu: &mut dyn Vcpu) {
        if cpu.address() != BOOT_CPU {
            return;
        }
        if let Some(cause) = self.control.take_reset() {
            self.reset(cpu, Reset::LoadClear, cause);
        }
    }

    /// Asks every CPU to be held between two instructions.
    pub(crate) fn hold(&self) {
        self.control.pause();
    }

    /// Whether all CPUs have come, or nobody asks for that any more.
    pub(crate) fn held(&self) -> bool {
        match self.control.settle() {
            None => false,
            Some(first) => {
                if first {
                    self.watchdog.hold();
                }
                true
            }
        }
    }

    /// Lets the CPUs go on.
    pub(crate) fn release(&self) {
        if self.control.resume() {
            self.watchdog.release();
        }
    }

    /// Asks the guest to power off; whether it listens now. If not, it will be told when it does.
    pub(crate) fn power_down(&self) -> bool {
        self.control.events().post(Event::PowerDown);
        self.devices.quiesce(&*self.vm)
    }

    /// `running`, `paused` or `shutdown`.
    pub fn status(&self) -> &'static str {
        match (self.control.ended(), self.control.paused()) {
            (true, _) => "shutdown",
            (_, true) => "paused",
            _ => "running",
        }
    }

    /// What the guest is told about itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The host's number of the thread of CPU `address`, once it runs.
    pub fn thread(&self, address: u16) -> Option<i32> {
        lock(&self.threads).get(&address).copied()
    }

    /// How often the machine was reset.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }

    /// The management sockets' counters.
    pub(crate) fn management(&self) -> Counters {
        *lock(&self.management)
    }

    /// Tells others of the management sockets' counters.
    pub(crate) fn set_management(&self, counters: Counters) {
        *lock(&self.management) = counters;
    }

    /// Answers one exit.
    pub(crate) fn answer(&self, cpu: &mut dyn Vcpu, exit: Exit, recent: &Recent) {
        let outcome = match exit {
            Exit::Kicked => return,
            Exit::DisabledWait(_) => {
                let report = Report::of(cpu, &self.storage, recent, self.disassemble);
                return self.halted(cpu, Some(report));
            }
            Exit::Stopped => return self.halted(cpu, None),
            Exit::InterruptionLoop(which) => {
                let report = Report::of(cpu, &self.storage, recent, self.disassemble);
                let crash = Crash { cpu: cpu.address(), reason: Reason::Loop(which), report };
                return self.control.end(End::Crashed(Box::new(crash)));
            }
            Exit::Diagnose { code, r1, r3 } => match self.diagnose(cpu, code, r1, r3) {
                Answer::Outcome(outcome) => outcome,
                Answer::Reset(reset) => {
                    cpu.finish(Outcome::Resume);
                    return self.reset(cpu, reset, ResetCause::Guest);
                }
            },
            Exit::Load { clear } => {
                cpu.finish(Outcome::Resume);
                let reset = if clear { Reset::LoadClear } else { Reset::LoadKeep };
                return self.reset(cpu, reset, ResetCause::Guest);
            }
            Exit::StoreSystemInformation { function_code, selector1, selector2, operand } => {
                match self.identity.block(function_code, selector1, selector2, cpu.address()) {
                    Some(block) => match cpu.store(operand, &block) {
                        Ok(()) => Outcome::ConditionCode(0),
                        Err(interruption) => Outcome::Program(interruption),
                    },
                    None => Outcome::ConditionCode(3),
                }
            }
            Exit::Nqap { r2, .. } if self.control.events().requests_wanted() => {
                // Afterwards the registers say what is left of the message.
                let (queue, length) = (cpu.gr(0), cpu.gr(r2 | 1) & 0xffff_ffff);
                let outcome = self.devices.execute(cpu, &exit, &*self.vm, &self.storage);
                if outcome == Outcome::ConditionCode(0) {
                    self.tell_request(queue, length);
                }
                outcome
            }
            _ => self.devices.execute(cpu, &exit, &*self.vm, &self.storage),
        };
        cpu.finish(outcome);
    }

    /// A request was accepted: GR 0 with the queue, and the message's length.
    fn tell_request(&self, gr0: u64, length: u64) {
        if let Some(left_out) = self.requests.pass() {
            let queue = Apqn(gr0 as u16);
            self.control.events().post(Event::ApRequest { queue, length, left_out });
        }
    }

    fn diagnose(&self, cpu: &mut dyn Vcpu, code: u16, r1: u8, r3: u8) -> Answer {
        let block = &mut *lock(&self.parameter_block);
        let context = Context { storage: &self.storage, block, watchdog: &self.watchdog };
        let answer = diagnose(cpu, code, r1, r3, context);
        if let Answer::Outcome(Outcome::Program(interruption)) = answer {
            self.note(format_args!("DIAGNOSE {code:x} by CPU {}: {:?}", cpu.address(), interruption.code));
        }
        answer
    }

    /// A CPU went into a disabled wait or stopped: ends the run when it was the last one.
    fn halted(&self, cpu: &dyn Vcpu, waits: Option<Report>) {
        let mut all = lock(&self.waits);
        match waits {
            Some(report) => all.insert(cpu.address(), report),
            None => all.remove(&cpu.address()),
        };
        if self.vm.operating_cpus() > 0 {
            return;
        }
        let crashed = all.iter().find(|(_, report)| report.state.psw.address & DONE != DONE);
        let end = match crashed {
            Some((&cpu, report)) => {
                End::Crashed(Box::new(Crash { cpu, reason: Reason::DisabledWait, report: report.clone() }))
            }
            None => End::PoweredOff,
        };
        self.control.end(end);
    }

    /// Resets CPUs and devices, loads the guest again if `reset` says so, and goes on with `cpu`.
    fn reset(&self, cpu: &mut dyn Vcpu, reset: Reset, cause: ResetCause) {
        if self.resetting.swap(true, Ordering::SeqCst) {
            return; // Another CPU resets the machine already, and this one with it.
        }
        self.note(format_args!("reset by CPU {}: {reset:?}", cpu.address()));
        let (others, own) = match reset {
            Reset::LoadNormal => (ResetKind::Normal, ResetKind::Initial),
            _ => (ResetKind::Clear, ResetKind::Clear),
        };
        self.vm.reset_cpus(others, Some(cpu.address()));
        self.devices.reset(&*self.vm);
        self.watchdog.reset();
        lock(&self.waits).clear();
        cpu.reset(own);
        match self.psw_after(reset) {
            Ok(psw) => begin(cpu, psw),
            Err(error) => self.control.end(End::Failed(error.into())),
        }
        self.resets.fetch_add(1, Ordering::Relaxed);
        self.control.events().post(Event::Reset(cause));
        self.resetting.store(false, Ordering::SeqCst);
    }

    /// Logs what the guest did, which it may do as often as it likes.
    fn note(&self, what: std::fmt::Arguments<'_>) {
        if let Some(suppressed) = self.noise.pass() {
            log::info!("{what} ({suppressed} messages left out)");
        }
    }

    fn psw_after(&self, reset: Reset) -> Result<Psw, crate::LoadError> {
        match reset {
            Reset::ModifiedClear | Reset::LoadNormal => {
                let short = self.storage.read_array(AbsoluteAddress(0)).expect("storage has a first byte");
                Ok(Psw::from_short(u64::from_be_bytes(short)))
            }
            Reset::LoadClear => {
                self.storage.clear();
                self.boot.load(&self.storage)
            }
            Reset::LoadKeep => self.boot.load(&self.storage),
        }
    }
}

fn begin(cpu: &mut dyn Vcpu, psw: Psw) {
    let state = VcpuState { psw, ..cpu.state() };
    cpu.set_state(&state);
    cpu.set_operating(true);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests;
