//! The run loop of a CPU and how it takes interruptions (chapter 6).

use std::time::Duration;

use machine::{Exit, InterruptionLoop, ResetKind};
use zarch::{ExternalCode, ProgramCode, ProgramInterruption, Psw, lowcore, mcic, psw_bits};

use crate::clock::{NANOSECONDS_PER_INSTRUCTION, VirtualClock};
use crate::complex::{self, Order, attention};
use crate::execute::{TIME_SLICE, TIME_SLICE_OF_MANY};
use crate::{Cpu, Leave};

/// Subclass masks in control register 0.
mod cr0 {
    pub const MALFUNCTION_ALERT: u64 = 0x8000;
    pub const EMERGENCY_SIGNAL: u64 = 0x4000;
    pub const EXTERNAL_CALL: u64 = 0x2000;
    pub const CLOCK_COMPARATOR: u64 = 0x0800;
    pub const CPU_TIMER: u64 = 0x0400;
    pub const SERVICE_SIGNAL: u64 = 0x0200;
    pub const ANY: u64 =
        MALFUNCTION_ALERT | EMERGENCY_SIGNAL | EXTERNAL_CALL | CLOCK_COMPARATOR | CPU_TIMER | SERVICE_SIGNAL;
}

/// Interruptions taken one after another before attention is looked at again.
const INTERRUPTIONS: u32 = 32;

/// Program interruptions that lead to themselves until they count as endless.
const LOOPS: u32 = 1000;

/// Channel-report-pending subclass mask, control register 14 bit 35.
const CR14_CHANNEL_REPORT: u64 = 0x1000_0000;

impl Cpu {
    /// Executes, takes interruptions, waits; returns when the VMM has something to do.
    pub(crate) fn run_until_exit(&mut self) -> Exit {
        self.shared.set_running(true);
        let exit = self.run_loop();
        self.shared.set_running(false);
        exit
    }

    fn run_loop(&mut self) -> Exit {
        let complex = self.complex.clone();
        loop {
            complex.enter(&self.shared);
            if let Some(exit) = self.attend() {
                self.shared.leave();
                return exit;
            }
            if !self.shared.operating() {
                self.shared.sleep(None);
                continue;
            }
            if self.psw().wait() {
                if self.psw().disabled_wait() && !self.reported_wait {
                    self.reported_wait = true;
                    self.shared.set_disabled_wait(true);
                    self.shared.leave();
                    return Exit::DisabledWait(self.psw());
                }
                self.wait();
                continue;
            }
            match self.execute() {
                Leave::Program(code) => {
                    let before = self.psw();
                    self.program_interruption(code);
                    if self.loops_at(before) {
                        self.shared.leave();
                        return Exit::InterruptionLoop(InterruptionLoop::Program);
                    }
                }
                Leave::SupervisorCall(number) => self.supervisor_call(number),
                Leave::NewPsw => self.check_new_psw(),
                Leave::Exit => {
                    self.shared.leave();
                    return self.exit.take().expect("whoever leaves with Exit says which");
                }
                Leave::Serialize | Leave::Again => {}
                other => unreachable!("the executor handles {other:?}"),
            }
        }
    }

    /// Whether program interruptions of the instruction at `before` have led back to it so often that nothing but
    /// somebody else can end that: no interruption that is enabled can.
    fn loops_at(&mut self, before: Psw) -> bool {
        let masks = psw_bits::IO | psw_bits::EXTERNAL | psw_bits::MACHINE_CHECK;
        self.loops = if self.psw() == before && before.mask & masks == 0 { self.loops + 1 } else { 0 };
        let endless = self.loops == LOOPS;
        if endless {
            self.loops = 0;
        }
        endless
    }

    /// The TOD clock as this CPU sees it.
    pub fn tod(&self) -> u64 {
        let mut tod = self.clock.tod();
        if self.complex.virtual_clock.is_some() {
            let since = (self.slice - self.budget).max(0) as u64 * NANOSECONDS_PER_INSTRUCTION;
            tod = tod.wrapping_add(since * 4096 / 1000);
        }
        tod.wrapping_add(self.tod_offset)
    }

    /// The TOD clock, different from and above every value stored before (STORE CLOCK).
    pub fn unique_tod(&mut self) -> u64 {
        self.complex.unique_tod(self.tod())
    }

    /// Changes the TOD clock of this CPU to `value`.
    pub fn set_tod(&mut self, value: u64) {
        let timer = self.cpu_timer();
        self.tod_offset = self.tod_offset.wrapping_add(value.wrapping_sub(self.tod()));
        self.set_cpu_timer(timer);
    }

    /// The CPU timer.
    pub fn cpu_timer(&self) -> u64 {
        self.cpu_timer_end.wrapping_sub(self.tod())
    }

    /// Sets the CPU timer. The caller returns [`Leave::Serialize`], as after setting the clock
    /// comparator.
    pub fn set_cpu_timer(&mut self, value: u64) {
        self.cpu_timer_end = self.tod().wrapping_add(value);
    }

    /// Serves the attention word, looks at time, takes interruptions.
    fn attend(&mut self) -> Option<Exit> {
        self.pass_time();
        let bits = self.shared.serve();
        if bits & attention::PURGE != 0 {
            self.purge_tlb();
        }
        if bits & attention::FORBID_STORES != 0 {
            self.tlb.forbid_all_stores();
        }
        if bits & attention::CODE != 0 {
            for page in self.shared.take_code() {
                self.drop_code(page);
            }
        }
        if bits & attention::ORDER != 0 {
            while let Some(order) = self.shared.take_order() {
                // Taking the next one, or none, ends this one's being busy.
                if self.obey(order) {
                    self.shared.order_done(bits & attention::KICK);
                    return Some(Exit::Stopped);
                }
            }
        }
        if bits & attention::KICK != 0 {
            return Some(Exit::Kicked);
        }
        if self.shared.operating() && self.take_interruptions() {
            return Some(Exit::InterruptionLoop(InterruptionLoop::External));
        }
        None
    }

    /// Carries out an order; true when it stopped a CPU that was operating.
    fn obey(&mut self, order: Order) -> bool {
        let was = self.shared.operating();
        match order {
            Order::Start => self.start(),
            Order::Stop => self.shared.set_operating(false),
            Order::StopAndStoreStatus => {
                // Who finds it stopped finds its status stored.
                self.store_status(None);
                self.shared.set_operating(false);
            }
            Order::Restart => {
                self.start();
                self.interrupt(lowcore::RESTART_OLD_PSW, lowcore::RESTART_NEW_PSW);
            }
            Order::ResetAndStop(kind) => {
                self.shared.set_operating(false);
                self.reset_all(kind);
                return false;
            }
            Order::SetPrefix(prefix) => self.set_prefix(prefix),
            Order::StoreStatus(at) => self.store_status(Some(at)),
        }
        was && !self.shared.operating()
    }

    fn start(&mut self) {
        self.shared.set_operating(true);
        self.reported_wait = false;
    }

    fn reset_all(&mut self, kind: ResetKind) {
        self.shared.clear_pending();
        self.reset_registers(kind);
    }

    /// Takes one pending interruption after another that the CPU is enabled for. A new PSW may be enabled
    /// for what it was loaded by (a timer stays pending), and then there is no end: after some, the CPU
    /// looks at its attention again. True if all of these were the same external interruption, which has no end.
    fn take_interruptions(&mut self) -> bool {
        let mut repeated = 0;
        for n in 0.. {
            if n == INTERRUPTIONS {
                self.shared.attend_again();
                break;
            }
            let psw = self.psw();
            let before = psw;
            if psw.mask & psw_bits::MACHINE_CHECK != 0
                && self.cr[14] & CR14_CHANNEL_REPORT != 0
                && self.complex.pending_summary() & complex::CHANNEL_REPORT != 0
                && self.complex.take_channel_report()
            {
                self.machine_check(mcic::CHANNEL_REPORT_PENDING);
                continue;
            }
            if psw.mask & psw_bits::EXTERNAL != 0
                && self.cr[0] & cr0::ANY != 0
                && self.external_interruption()
            {
                repeated += u32::from(before == self.psw());
                continue;
            }
            let isc_mask = (self.cr[6] >> 24) as u8;
            if psw.mask & psw_bits::IO != 0
                && self.complex.io_pending(isc_mask)
                && let Some(io) = self.complex.take_io(isc_mask)
            {
                self.lowcore(lowcore::SUBSYSTEM_ID, io.subsystem_id);
                self.lowcore(lowcore::IO_PARAMETER, io.parameter);
                self.lowcore(lowcore::IO_IDENTIFICATION, io.identification);
                self.interrupt(lowcore::IO_OLD_PSW, lowcore::IO_NEW_PSW);
                continue;
            }
            if before == self.psw() {
                break;
            }
        }
        self.masked_pending = self.something_pending();
        // The first one came from elsewhere. Others than timers are taken once each.
        repeated >= INTERRUPTIONS - 1 && self.timer_due()
    }

    fn timer_due(&self) -> bool {
        self.cr[0] & cr0::CLOCK_COMPARATOR != 0 && self.clock_comparator < self.tod()
            || self.cr[0] & cr0::CPU_TIMER != 0 && (self.cpu_timer() as i64) < 0
    }

    /// Whether an external or I/O interruption is pending that the control registers enable, whatever
    /// the PSW says.
    fn something_pending(&self) -> bool {
        let (emergency, call) = self.shared.signal_pending();
        let summary = self.complex.pending_summary();
        let enabled = |bit: u64| self.cr[0] & bit != 0;
        emergency && enabled(cr0::EMERGENCY_SIGNAL)
            || call && enabled(cr0::EXTERNAL_CALL)
            || summary & complex::SERVICE_SIGNAL != 0 && enabled(cr0::SERVICE_SIGNAL)
            || summary & complex::IO != 0 && self.complex.io_pending((self.cr[6] >> 24) as u8)
            || self.timer_due()
    }

    /// Takes the external interruption of highest priority that is pending and enabled.
    fn external_interruption(&mut self) -> bool {
        let enabled = |bit: u64| self.cr[0] & bit != 0;
        let (emergency, call) = self.shared.signal_pending();
        if emergency
            && enabled(cr0::EMERGENCY_SIGNAL)
            && let Some(from) = self.shared.take_emergency()
        {
            self.external(ExternalCode::EmergencySignal, from, 0);
        } else if call
            && enabled(cr0::EXTERNAL_CALL)
            && let Some(from) = self.shared.take_external_call()
        {
            self.external(ExternalCode::ExternalCall, from, 0);
        } else if enabled(cr0::CLOCK_COMPARATOR) && self.clock_comparator < self.tod() {
            self.external(ExternalCode::ClockComparator, 0, 0);
        } else if enabled(cr0::CPU_TIMER) && (self.cpu_timer() as i64) < 0 {
            self.external(ExternalCode::CpuTimer, 0, 0);
        } else if enabled(cr0::SERVICE_SIGNAL)
            && self.complex.pending_summary() & complex::SERVICE_SIGNAL != 0
            && let Some(parameter) = self.complex.take_service_signal()
        {
            self.external(ExternalCode::ServiceSignal, 0, parameter);
        } else {
            return false;
        }
        true
    }

    fn external(&mut self, code: ExternalCode, from: u16, parameter: u32) {
        if code == ExternalCode::ServiceSignal {
            self.lowcore(lowcore::EXTERNAL_PARAMETER, parameter);
        }
        self.lowcore(lowcore::EXTERNAL_CPU_ADDRESS, from);
        self.lowcore(lowcore::EXTERNAL_CODE, code as u16);
        self.interrupt(lowcore::EXTERNAL_OLD_PSW, lowcore::EXTERNAL_NEW_PSW);
    }

    fn machine_check(&mut self, code: u64) {
        self.store_registers(Some);
        self.lowcore(lowcore::MACHINE_CHECK_CODE, code | mcic::VALIDITY);
        self.lowcore(lowcore::EXTERNAL_DAMAGE_CODE, 0u32);
        self.lowcore(lowcore::FAILING_STORAGE_ADDRESS, 0u64);
        self.interrupt(lowcore::MACHINE_CHECK_OLD_PSW, lowcore::MACHINE_CHECK_NEW_PSW);
    }

    fn supervisor_call(&mut self, number: u8) {
        self.lowcore(lowcore::SVC_IDENTIFICATION, (self.ilc as u32) << 16 | number as u32);
        self.interrupt(lowcore::SVC_OLD_PSW, lowcore::SVC_NEW_PSW);
    }

    /// Takes a program interruption for the instruction at `ia` of length `ilc`; details are in
    /// `exception` when it is for this code.
    pub(crate) fn program_interruption(&mut self, code: ProgramCode) {
        let details = if self.exception.code == code { self.exception } else { code.into() };
        self.exception = ProgramInterruption::new(ProgramCode::Operation);
        self.execute_next = None;
        log::trace!("program interruption {code:?} at {:x}, {details:x?}", self.ia);
        self.lowcore(lowcore::PROGRAM_IDENTIFICATION, (self.ilc as u32) << 16 | code as u32);
        if let Some(teid) = details.translation_exception_id {
            self.lowcore(lowcore::TRANSLATION_EXCEPTION_ID, teid);
            self.lowcore(lowcore::EXCEPTION_ACCESS_ID, details.access_id);
        } else if details.access_id != 0 {
            self.lowcore(lowcore::EXCEPTION_ACCESS_ID, details.access_id);
        }
        if matches!(code, ProgramCode::Data | ProgramCode::VectorProcessing) {
            self.lowcore(lowcore::DATA_EXCEPTION_CODE, details.data_exception_code as u32);
            if self.cr[0] & 1 << (63 - 45) != 0 {
                self.fpc = self.fpc & !0xff00 | (details.data_exception_code as u32) << 8;
            }
        }
        if let Some((class, monitor)) = details.monitor {
            self.lowcore(lowcore::MONITOR_CLASS, class);
            self.lowcore(lowcore::MONITOR_CODE, monitor);
        }
        self.lowcore(lowcore::BREAKING_EVENT_ADDRESS, self.breaking_event);
        // Without a length nothing was executed: the address of an invalid PSW is stored as it was loaded.
        if !code.nullifies() && self.ilc != 0 {
            self.ia = self.trim(self.ia.wrapping_add(self.ilc as u64));
        }
        self.interrupt(lowcore::PROGRAM_OLD_PSW, lowcore::PROGRAM_NEW_PSW);
    }

    /// Early exceptions of a PSW that an instruction loaded.
    fn check_new_psw(&mut self) {
        if self.psw().is_invalid() {
            self.ilc = 0;
            self.program_interruption(ProgramCode::Specification);
        }
    }

    /// Stores the PSW at `old` and loads the one at `new`. When that one is invalid a program
    /// interruption follows; when the program new PSW itself is, the CPU would take interruptions for
    /// ever, and it is put into a disabled wait with that PSW instead.
    fn interrupt(&mut self, old: u64, new: u64) {
        let psw = self.psw();
        self.lowcore(old, psw.mask);
        self.lowcore(old + 8, psw.address);
        let word = |cpu: &mut Self, at| cpu.load_real::<u64>(at).unwrap_or(0);
        let next = Psw { mask: word(self, new), address: word(self, new + 8) };
        self.set_psw(next);
        self.reported_wait = false;
        if next.is_invalid() {
            if new == lowcore::PROGRAM_NEW_PSW {
                let keep = psw_bits::IO | psw_bits::EXTERNAL | psw_bits::MACHINE_CHECK;
                self.set_psw(Psw { mask: next.mask & !keep | psw_bits::WAIT, ..next });
            } else {
                self.ilc = 0;
                self.program_interruption(ProgramCode::Specification);
            }
        }
    }

    /// Stores into the prefix area, which SET PREFIX checked to exist.
    fn lowcore<T: crate::access::Word>(&mut self, real: u64, value: T) {
        let stored = self.store_real(real, value);
        debug_assert!(stored.is_ok(), "the prefix area is in storage");
    }

    /// Stores the architected registers where `place` puts the assigned locations.
    fn store_registers(&mut self, place: impl Fn(u64) -> Option<u64>) {
        let state = self.registers();
        let timer = self.cpu_timer();
        let mut words: Vec<(u64, u64)> = Vec::with_capacity(64);
        words.extend(state.fpr.iter().enumerate().map(|(n, v)| (lowcore::FPR_SAVE_AREA + 8 * n as u64, *v)));
        words.extend(state.gr.iter().enumerate().map(|(n, v)| (lowcore::GR_SAVE_AREA + 8 * n as u64, *v)));
        words.extend(state.cr.iter().enumerate().map(|(n, v)| (lowcore::CR_SAVE_AREA + 8 * n as u64, *v)));
        words.push((lowcore::CPU_TIMER_SAVE_AREA, timer));
        // Bits 0-55 of the comparator stand in bytes 1-7 of the doubleword.
        words.push((lowcore::CLOCK_COMPARATOR_SAVE_AREA - 1, self.clock_comparator >> 8));
        for (at, value) in words {
            if let Some(at) = place(at) {
                self.lowcore(at, value);
            }
        }
        let mut halves: Vec<(u64, u32)> =
            vec![(lowcore::FPC_SAVE_AREA, state.fpc), (lowcore::TODPR_SAVE_AREA, self.tod_programmable)];
        halves.extend(state.ar.iter().enumerate().map(|(n, v)| (lowcore::AR_SAVE_AREA + 4 * n as u64, *v)));
        for (at, value) in halves {
            if let Some(at) = place(at) {
                self.lowcore(at, value);
            }
        }
    }

    /// Store status (chapter 4): at the assigned locations of absolute storage from 4608, or for the
    /// SIGP order in 512 bytes at the absolute address `at`.
    fn store_status(&mut self, at: Option<u64>) {
        let base = lowcore::FPR_SAVE_AREA;
        let prefix = std::mem::replace(&mut self.prefix, 0);
        let psw = self.psw();
        let to = |offset: u64| match at {
            Some(at) => Some(at + offset - base),
            None => Some(offset),
        };
        self.store_registers(to);
        for (offset, value) in [(lowcore::PSW_SAVE_AREA, psw.mask), (lowcore::PSW_SAVE_AREA + 8, psw.address)]
        {
            if let Some(at) = to(offset) {
                self.lowcore(at, value);
            }
        }
        if let Some(at) = to(lowcore::PREFIX_SAVE_AREA) {
            self.lowcore(at, prefix as u32);
        }
        self.prefix = prefix;
    }

    /// Accounts for the instructions executed and sets how many may pass until time is looked at again.
    fn pass_time(&mut self) {
        let Some(clock) = self.complex.virtual_clock.clone() else {
            let slice = if self.complex.cpus.len() > 1 { TIME_SLICE_OF_MANY } else { TIME_SLICE };
            (self.slice, self.budget) = (slice, slice);
            return;
        };
        let used = (self.slice - self.budget).max(0) as u64;
        self.slice = 0;
        self.budget = 0;
        if used > 0 {
            self.advance(&clock, used * NANOSECONDS_PER_INSTRUCTION);
        }
        let until = self.until_timer().unwrap_or(u64::MAX);
        let event = clock.next_event().map_or(u64::MAX, |at| at.saturating_sub(machine::Clock::now(&*clock)));
        let instructions = (until.min(event) / NANOSECONDS_PER_INSTRUCTION + 1).min(TIME_SLICE as u64);
        self.slice = instructions as i64;
        self.budget = instructions as i64;
    }

    /// Virtual time passes. Actions that are due run outside, since they may hold the CPUs.
    fn advance(&self, clock: &VirtualClock, ns: u64) {
        self.shared.leave();
        clock.advance(ns);
        self.complex.enter(&self.shared);
    }

    /// Nanoseconds until a timer interruption that the CPU is enabled for becomes pending; `None` when
    /// none will.
    fn until_timer(&self) -> Option<u64> {
        if self.psw().mask & psw_bits::EXTERNAL == 0 {
            return None;
        }
        let tod = self.tod();
        let mut units: Option<u64> = None;
        if self.cr[0] & cr0::CLOCK_COMPARATOR != 0 {
            units = Some(self.clock_comparator.saturating_sub(tod).saturating_add(1));
        }
        if self.cr[0] & cr0::CPU_TIMER != 0 {
            let left = (self.cpu_timer() as i64).max(0) as u64 + 1;
            units = Some(units.map_or(left, |u| u.min(left)));
        }
        units.map(|u| ((u as u128 * 1000).div_ceil(4096)) as u64)
    }

    /// The wait state: sleeps until attention or a timer; virtual time jumps.
    fn wait(&mut self) {
        let Some(clock) = self.complex.virtual_clock.clone() else {
            let limit = self.until_timer().map(Duration::from_nanos);
            self.shared.sleep(limit);
            return;
        };
        let event = clock.next_event().map(|at| at.saturating_sub(machine::Clock::now(&*clock)));
        let next = match (self.until_timer(), event) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        // Beyond this (about three years) nothing is coming: only the outside can wake the CPU.
        match next.filter(|ns| *ns < 100_000_000_000_000_000) {
            Some(ns) => self.advance(&clock, ns.max(1)),
            None => self.shared.sleep(None),
        }
    }
}
