//! One CPU.

use std::sync::Arc;
use std::thread::ThreadId;

use machine::{Exit, Operand, Outcome, ResetKind, Vcpu, VcpuState};
use zarch::{AbsoluteAddress, ProgramCode, ProgramInterruption, Psw, RealAddress, psw_bits};

use crate::exit::{Event, event};
use crate::interruption::Irq;
use crate::kernel::{self, Access, Registers, Stop, Transfer};
use crate::rendezvous::{Next, Order};
use crate::report::{Recent, report};
use crate::sigp::{Response, signal};
use crate::status;
use crate::vm::Shared;

/// Program-interruption codes of access exceptions.
const ACCESS_EXCEPTIONS: [ProgramCode; 16] = [
    ProgramCode::Protection,
    ProgramCode::Addressing,
    ProgramCode::SegmentTranslation,
    ProgramCode::PageTranslation,
    ProgramCode::TranslationSpecification,
    ProgramCode::SpecialOperation,
    ProgramCode::AletSpecification,
    ProgramCode::AlenTranslation,
    ProgramCode::AleSequence,
    ProgramCode::AsteValidity,
    ProgramCode::AsteSequence,
    ProgramCode::ExtendedAuthority,
    ProgramCode::AsceType,
    ProgramCode::RegionFirstTranslation,
    ProgramCode::RegionSecondTranslation,
    ProgramCode::RegionThirdTranslation,
];

/// One CPU of a [`Machine`](crate::Machine).
pub struct Cpu {
    // Configuration.
    address: u16,
    // Connections to the host.
    fd: Box<dyn kernel::Cpu>,
    shared: Arc<Shared>,
    thread: Option<ThreadId>,
    // Book-keeping about the last exit.
    stop: Stop,
    refused: Option<Refused>,
    /// `stop` is to be answered once more before the CPU goes on.
    again: bool,
    failed: Option<machine::Error>,
    recent: Recent,
}

/// An access of the current instruction that would have been an access exception.
#[derive(Clone, Copy, Debug)]
struct Refused {
    code: ProgramCode,
    operand: Operand,
    length: u32,
    store: bool,
}

impl crate::exit::Registers for Box<dyn kernel::Cpu> {
    fn psw(&self) -> Psw {
        (**self).psw()
    }

    fn gr(&self, r: u8) -> u64 {
        (**self).gr(r)
    }
}

impl Cpu {
    pub(crate) fn new(address: u16, fd: Box<dyn kernel::Cpu>, shared: Arc<Shared>) -> Self {
        Self {
            address,
            fd,
            shared,
            thread: None,
            stop: Stop::Interrupted,
            refused: None,
            again: false,
            failed: None,
            recent: Recent::default(),
        }
    }

    /// The pending interruptions of this CPU, for [`set_pending`](Self::set_pending).
    pub fn pending(&self) -> Result<Vec<u8>, machine::Error> {
        self.fd.pending().map_err(|e| self.error(format!("read the pending interruptions: {e}")))
    }

    /// Makes interruptions pending that [`pending`](Self::pending) gave.
    pub fn set_pending(&mut self, pending: &[u8]) -> Result<(), machine::Error> {
        let set = self.fd.set_pending(pending);
        set.map_err(|e| self.error(format!("make {} bytes of interruptions pending: {e}", pending.len())))
    }

    fn error(&self, reason: String) -> machine::Error {
        machine::Error::Cpu { address: self.address, reason }
    }

    /// Keeps what the kernel refused where no error can be returned; the next run returns it.
    fn need<T>(&mut self, attempt: &str, result: std::io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(e) => {
                let error = self.error(format!("{attempt}: {e}"));
                self.failed.get_or_insert(error);
                None
            }
        }
    }

    /// Other threads end the runs in this one from now on.
    fn arm(&mut self) {
        let thread = std::thread::current().id();
        if self.thread != Some(thread) {
            let kick = self.fd.arm();
            self.shared.cpus.arm(self.address, kick);
            self.thread = Some(thread);
        }
    }

    /// Carries out an order; whether the CPU has stopped by it.
    fn carry_out(&mut self, order: Order) -> bool {
        let was = self.shared.cpus.is_operating(self.address) == Some(true);
        let operating = match order {
            Order::Start | Order::Restart => true,
            Order::Stop | Order::StopAndStoreStatus | Order::Reset(_) => false,
            Order::SetPrefix(_) | Order::StoreStatus(_) | Order::StoreAdditionalStatus { .. } => was,
        };
        if operating != was {
            let set = self.fd.set_operating(operating);
            self.need("change the operating state", set);
        }
        match order {
            Order::Start | Order::Stop => {}
            Order::Restart => {
                let posted = self.fd.post(&Irq::restart());
                self.need("restart", posted);
            }
            Order::StopAndStoreStatus => self.store_status(None),
            Order::StoreStatus(at) => self.store_status(Some(at)),
            Order::StoreAdditionalStatus { at, guarded } => {
                let extended = self.fd.extended();
                if let Some(extended) = self.need("store the status", extended) {
                    status::store_additional(&self.shared.storage, at, guarded, &extended);
                }
            }
            Order::SetPrefix(prefix) => {
                let registers = Registers { prefix, ..self.fd.registers() };
                self.fd.set_registers(&registers);
            }
            Order::Reset(kind) => self.reset_registers(kind),
        }
        self.shared.cpus.done(self.address, operating);
        was && !operating && !matches!(order, Order::Reset(_))
    }

    fn store_status(&mut self, at: Option<u64>) {
        let extended = self.fd.extended();
        if let Some(extended) = self.need("store the status", extended) {
            status::store(&self.shared.storage, at, &self.fd.registers(), &extended);
        }
    }

    fn reset_registers(&mut self, kind: ResetKind) {
        let reset = self.fd.reset(kind);
        self.need("reset", reset);
        (self.stop, self.refused, self.again) = (Stop::Interrupted, None, false);
    }

    /// Answers SIGNAL PROCESSOR.
    fn signal(&mut self, address: u16, order: u8, parameter: u64, r1: u8) {
        let shared = self.shared.clone();
        let response = signal(&shared, self.address, address, order, parameter);
        let cc = match response {
            Response::Accepted => 0,
            Response::Status(status) => {
                let upper = self.fd.gr(r1) & !0xffff_ffff;
                self.fd.set_gr(r1, upper | u64::from(status));
                1
            }
            Response::Busy => 2,
            Response::NotOperational => 3,
        };
        self.set_cc(cc);
    }

    fn set_cc(&mut self, cc: u8) {
        let psw = self.fd.psw();
        let mask = psw.mask & !psw_bits::CC | u64::from(cc & 3) << 44;
        self.fd.set_psw(Psw { mask, ..psw });
    }

    fn program(&mut self, interruption: &ProgramInterruption) {
        let posted = self.fd.post(&Irq::program(interruption));
        self.need("present a program interruption", posted);
    }

    /// Has the kernel make `refused` again, and with it the exception pending, with all that is stored
    /// beside its code. Should it succeed now, because another CPU has changed a table since, the instruction is
    /// answered again: the PSW is behind it, by a length that may be that of an EXECUTE.
    fn present(&mut self, refused: Refused) {
        let length = refused.length;
        let transfer = if refused.store { Transfer::TestWrite(length) } else { Transfer::TestRead(length) };
        let result = self.access(refused.operand, true, transfer);
        self.again = self.need("present an access exception", result) == Some(0);
    }

    fn access(&self, operand: Operand, inject: bool, transfer: Transfer<'_>) -> std::io::Result<u16> {
        let Operand { address, ar } = operand;
        let key = self.fd.psw().key();
        self.fd.access(Access { address, ar, key, inject, transfer })
    }

    /// Makes the accesses of `pieces`, which follow one another from `operand` on.
    fn accesses<'a>(
        &mut self,
        operand: Operand,
        store: bool,
        pieces: impl Iterator<Item = Transfer<'a>>,
    ) -> Result<(), ProgramInterruption> {
        let mask = self.fd.psw().addressing_mode().map_or(u64::MAX, |mode| mode.mask());
        let mut operand = operand;
        for piece in pieces {
            let length = piece.len() as u32;
            let result = self.access(operand, false, piece);
            // Without an answer there is no good one; the run ends before the guest sees this.
            let code = self.need("access storage", result).unwrap_or(ProgramCode::Addressing as u16);
            if code != 0 {
                let known = ACCESS_EXCEPTIONS.into_iter().find(|c| *c as u16 == code);
                if known.is_none() {
                    let error =
                        self.error(format!("storage access ended with program interruption {code:x}"));
                    self.failed.get_or_insert(error);
                }
                let code = known.unwrap_or(ProgramCode::Addressing);
                self.refused = Some(Refused { code, operand, length, store });
                return Err(code.into());
            }
            operand = Operand { address: operand.add(u64::from(length)).address & mask, ..operand };
        }
        Ok(())
    }

    fn probe(&mut self, operand: Operand, store: bool, length: u64) -> Result<(), ProgramInterruption> {
        let most = self.shared.most_at_once as u64;
        let pieces = (0..length.div_ceil(most)).map(|n| {
            let piece = (length - n * most).min(most) as u32;
            if store { Transfer::TestWrite(piece) } else { Transfer::TestRead(piece) }
        });
        self.accesses(operand, store, pieces)
    }

    fn crash(&mut self, why: &str) -> machine::Error {
        let mut code = [0; 6];
        let operand = Operand { address: self.fd.psw().address, ar: 0 };
        let fetched = self.access(operand, false, Transfer::Read(&mut code));
        let code = matches!(fetched, Ok(0)).then_some(code);
        let text = report(why, &self.fd.registers(), &self.recent, code, self.shared.disassemble);
        self.error(text)
    }

    fn run_until_exit(&mut self) -> Result<Exit, machine::Error> {
        loop {
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            let next = self.shared.cpus.next(self.address);
            // What the CPU is ordered to comes after its instruction, if it survives.
            if self.again && !matches!(next, Next::Kicked | Next::Order(Order::Reset(_))) {
                self.again = false;
                if next == Next::Enter {
                    self.shared.cpus.left(self.address);
                }
                if let Some(exit) = self.answer(self.stop)? {
                    return Ok(exit);
                }
                continue;
            }
            match next {
                Next::Kicked => return Ok(Exit::Kicked),
                Next::Order(order) => {
                    if self.carry_out(order) {
                        return Ok(Exit::Stopped);
                    }
                }
                Next::Enter => {
                    let stop = self.fd.run();
                    self.shared.cpus.left(self.address);
                    let stop = match stop {
                        Ok(stop) => stop,
                        Err(e) => return Err(self.crash(&format!("run: {e}"))),
                    };
                    if let Some(exit) = self.answer(stop)? {
                        return Ok(exit);
                    }
                }
            }
        }
    }

    /// What a stop of the run means to the VMM, if anything.
    fn answer(&mut self, stop: Stop) -> Result<Option<Exit>, machine::Error> {
        (self.stop, self.refused) = (stop, None);
        if stop != Stop::Interrupted {
            self.recent.add(stop, self.fd.psw().address);
        }
        match event(&stop, &self.fd) {
            Event::Nothing => {}
            Event::Exit(exit) => {
                if let Exit::DisabledWait(_) = exit {
                    self.shared.cpus.set_waits(self.address);
                }
                return Ok(Some(exit));
            }
            Event::Program(interruption) => self.program(&interruption),
            Event::Signal { address, order, parameter, r1 } => self.signal(address, order, parameter, r1),
            Event::Stopped => {
                self.set_operating(false);
                return Ok(Some(Exit::Stopped));
            }
            Event::Impossible(why) => return Err(self.crash(&format!("{why} ({stop:x?})"))),
        }
        Ok(None)
    }
}

impl Vcpu for Cpu {
    fn address(&self) -> u16 {
        self.address
    }

    fn run(&mut self) -> Result<Exit, machine::Error> {
        self.arm();
        self.shared.cpus.set_runs(self.address, true);
        let exit = self.run_until_exit();
        self.shared.cpus.set_runs(self.address, false);
        exit
    }

    fn finish(&mut self, outcome: Outcome) {
        let refused = self.refused.take();
        match outcome {
            Outcome::Resume => {}
            Outcome::ConditionCode(cc) => self.set_cc(cc),
            Outcome::Program(interruption) => {
                match refused.filter(|refused| refused.code == interruption.code) {
                    Some(refused) => self.present(refused),
                    None => self.program(&interruption),
                }
                // The kernel has taken the subchannel's interruption off for an instruction that fails.
                if let (Stop::TestSubchannel { dequeued: Some(io), .. }, false) = (self.stop, self.again) {
                    let put_back = self.shared.flic.enqueue(&Irq::io(io));
                    self.need("put an interruption back", put_back);
                }
            }
        }
    }

    fn gr(&self, r: u8) -> u64 {
        self.fd.gr(r)
    }

    fn set_gr(&mut self, r: u8, value: u64) {
        self.fd.set_gr(r, value);
    }

    fn psw(&self) -> Psw {
        self.fd.psw()
    }

    fn state(&self) -> VcpuState {
        let Registers { psw, gr, ar, cr, fpr, fpc, prefix } = self.fd.registers();
        VcpuState { psw, gr, ar, cr, fpr, fpc, prefix: prefix.into() }
    }

    fn set_state(&mut self, state: &VcpuState) {
        let VcpuState { psw, gr, ar, cr, fpr, fpc, prefix } = *state;
        self.fd.set_registers(&Registers { psw, gr, ar, cr, fpr, fpc, prefix: prefix as u32 & 0x7fff_e000 });
    }

    fn set_operating(&mut self, operating: bool) {
        let set = self.fd.set_operating(operating);
        self.need("change the operating state", set);
        self.shared.cpus.set_operating(self.address, operating);
    }

    fn reset(&mut self, kind: ResetKind) {
        self.reset_registers(kind);
    }

    fn fetch(&mut self, from: Operand, buffer: &mut [u8]) -> Result<(), ProgramInterruption> {
        let most = self.shared.most_at_once;
        // A buffer that a later exception leaves half filled is as good as untouched: nobody reads it.
        self.accesses(from, false, buffer.chunks_mut(most).map(Transfer::Read))
    }

    fn store(&mut self, to: Operand, bytes: &[u8]) -> Result<(), ProgramInterruption> {
        let most = self.shared.most_at_once;
        self.probe(to, true, bytes.len() as u64)?;
        self.accesses(to, true, bytes.chunks(most).map(Transfer::Write))
    }

    fn probe_store(&mut self, to: Operand, length: u64) -> Result<(), ProgramInterruption> {
        self.probe(to, true, length)
    }

    fn absolute(&self, real: RealAddress) -> AbsoluteAddress {
        real.absolute(self.fd.registers().prefix.into())
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        self.shared.cpus.gone(self.address);
    }
}
