//! AP instructions on a CPU: registers and storage operands around the [instruction layer](crate::instruction).

use machine::{Exit, Operand, Outcome, Vcpu};
use zarch::{AddressingMode, ProgramCode, ProgramInterruption, psw_bits};
use zeroize::Zeroizing;

use crate::guest::GuestAp;
use crate::hardware::ApMachine;
use crate::instruction::{Environment, dqap_continuation, is_aqic};

impl ApMachine {
    /// Executes the AP instruction that `vcpu` exited with for the guest that it belongs to. The CRYCB is read here, once per
    /// instruction. Registers and storage are written; the caller finishes the instruction with the outcome. `None` when
    /// `exit` is none of [`Exit::Pqap`], [`Exit::Nqap`] and [`Exit::Dqap`].
    pub fn execute(&self, vcpu: &mut dyn Vcpu, exit: &Exit, guest: &GuestAp) -> Option<Outcome> {
        if !matches!(exit, Exit::Pqap | Exit::Nqap { .. } | Exit::Dqap { .. }) {
            return None;
        }
        let psw = vcpu.state().psw;
        let hook = (*exit == Exit::Pqap && is_aqic(vcpu.gr(0))).then(|| guest.hook().enter());
        let _executing = guest.begin_instruction();
        let bytes = guest.crycb.load();
        let environment = Environment {
            crycb: crycb::CrycbView::new(guest.crycb.format(), &bytes),
            facilities: &guest.facilities,
            problem_state: psw.mask & psw_bits::PROBLEM != 0,
            notifier: &guest.notifier,
            hook: hook.as_deref() == Some(&true),
        };
        let mode = psw.addressing_mode().unwrap_or(AddressingMode::Bits64);
        let condition_code = match *exit {
            Exit::Nqap { r1, r2 } => self.execute_nqap(vcpu, &environment, mode, r1, r2),
            Exit::Dqap { r1, r2 } => self.execute_dqap(vcpu, &environment, mode, r1, r2),
            _ => self.execute_pqap(vcpu, &environment, mode),
        };
        Some(match condition_code {
            Ok(cc) => Outcome::ConditionCode(cc),
            Err(interruption) => Outcome::Program(interruption),
        })
    }

    fn execute_pqap(
        &self,
        vcpu: &mut dyn Vcpu,
        guest: &Environment<'_>,
        mode: AddressingMode,
    ) -> Result<u8, ProgramInterruption> {
        let answer = self.pqap(guest, vcpu.gr(0), vcpu.gr(1), vcpu.gr(2))?;
        if let Some(block) = &answer.store {
            vcpu.store(Operand { address: vcpu.gr(2) & mode.mask(), ar: 2 }, block)?;
        }
        for (r, value) in [(1, answer.gr1), (2, answer.gr2)] {
            if let Some(value) = value {
                vcpu.set_gr(r, value);
            }
        }
        Ok(answer.condition_code)
    }

    fn execute_nqap(
        &self,
        vcpu: &mut dyn Vcpu,
        guest: &Environment<'_>,
        mode: AddressingMode,
        r1: u8,
        r2: u8,
    ) -> Result<u8, ProgramInterruption> {
        let buffer = Buffer::new(vcpu, guest, mode, r1, r2)?;
        let gr0 = vcpu.gr(0);
        let mut status = self.nqap_check(guest, gr0, buffer.length)?;
        if status.condition_code() == 0 {
            let mut message = Zeroizing::new(vec![0; buffer.length as usize]);
            vcpu.fetch(buffer.operand(), &mut message)?;
            let psmid = vcpu.gr(r1) << 32 | vcpu.gr(r1 + 1) & 0xffff_ffff;
            status = self.nqap_enqueue(gr0, psmid, message);
            if status.condition_code() == 0 {
                buffer.used(vcpu, buffer.length);
            }
        }
        vcpu.set_gr(1, status.word().into());
        Ok(status.condition_code())
    }

    fn execute_dqap(
        &self,
        vcpu: &mut dyn Vcpu,
        guest: &Environment<'_>,
        mode: AddressingMode,
        r1: u8,
        r2: u8,
    ) -> Result<u8, ProgramInterruption> {
        let buffer = Buffer::new(vcpu, guest, mode, r1, r2)?;
        let gr0 = vcpu.gr(0);
        let reply = match self.dqap_begin(guest, gr0, buffer.length)? {
            Ok(reply) => reply,
            Err(status) => {
                vcpu.set_gr(1, status.word().into());
                return Ok(status.condition_code());
            }
        };
        vcpu.store(buffer.operand(), reply.bytes())?;
        let (stored, residual, next, psmid) =
            (reply.bytes().len() as u64, reply.residual(), reply.next_index(), reply.psmid());
        let status = reply.commit();
        buffer.used(vcpu, stored);
        if residual != 0 {
            // Linux: with a part, general register 1 is not set, and condition code 1 asks for a repetition.
            vcpu.set_gr(0, dqap_continuation(gr0, next));
            vcpu.set_gr(2, residual);
            return Ok(1);
        }
        for (r, half) in [(r1, psmid >> 32), (r1 + 1, psmid & 0xffff_ffff)] {
            vcpu.set_gr(r, vcpu.gr(r) & !0xffff_ffff | half);
        }
        vcpu.set_gr(2, 0);
        vcpu.set_gr(1, status.word().into());
        Ok(0)
    }
}

/// The second operand of NQAP and DQAP: address and length in an even/odd pair.
struct Buffer {
    r: u8,
    mode: AddressingMode,
    address: u64,
    length: u64,
}

impl Buffer {
    /// Checks the privilege, which ranks first, and the two register numbers, and reads the pair.
    fn new(
        vcpu: &dyn Vcpu,
        guest: &Environment<'_>,
        mode: AddressingMode,
        r1: u8,
        r2: u8,
    ) -> Result<Self, ProgramInterruption> {
        if guest.problem_state {
            return Err(ProgramCode::PrivilegedOperation.into());
        }
        if (r1 | r2) & 1 != 0 {
            return Err(ProgramCode::Specification.into());
        }
        let length = vcpu.gr(r2 + 1) & register_part(mode);
        Ok(Self { r: r2, mode, address: vcpu.gr(r2) & mode.mask(), length })
    }

    fn operand(&self) -> Operand {
        Operand { address: self.address, ar: self.r }
    }

    /// Moves the address forward and counts the length down by `bytes`.
    fn used(&self, vcpu: &mut dyn Vcpu, bytes: u64) {
        let part = register_part(self.mode);
        let address = self.address.wrapping_add(bytes) & self.mode.mask();
        for (r, value) in [(self.r, address), (self.r + 1, self.length - bytes)] {
            vcpu.set_gr(r, vcpu.gr(r) & !part | value);
        }
    }
}

/// The bits of a register that take part in an address or a length: all in the 64-bit mode, else bits 32-63.
fn register_part(mode: AddressingMode) -> u64 {
    match mode {
        AddressingMode::Bits64 => u64::MAX,
        AddressingMode::Bits24 | AddressingMode::Bits31 => 0xffff_ffff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Bench, Cpu, STORAGE, apqn, echo};
    use crate::status::Status;

    const NQAP: u64 = 0x4000_0504;
    const DQAP: u64 = 0x8000_0504;
    const PSMID: u64 = 0x0123_4567_89ab_cdef;
    const NQAP_EXIT: Exit = Exit::Nqap { r1: 4, r2: 6 };
    const DQAP_EXIT: Exit = Exit::Dqap { r1: 8, r2: 10 };
    const MESSAGE: &[u8] = b"a request of 24 bytes...";

    /// A CPU about to execute NQAP with `length` bytes at `address`.
    fn nqap(bench: &Bench, address: u64, length: u64) -> Cpu {
        let mut cpu = bench.cpu();
        cpu.gr[0] = NQAP;
        cpu.gr[4..8].copy_from_slice(&[0xffff_ffff << 32 | PSMID >> 32, PSMID, address, length]);
        cpu
    }

    /// A CPU about to execute DQAP into `length` bytes at `address`.
    fn dqap(bench: &Bench, address: u64, length: u64) -> Cpu {
        let mut cpu = bench.cpu();
        (cpu.gr[0], cpu.gr[2]) = (DQAP, 0);
        cpu.gr[8..12].copy_from_slice(&[7 << 32, 8 << 32, address, length]);
        cpu
    }

    fn execute(bench: &Bench, cpu: &mut Cpu, exit: Exit) -> Outcome {
        bench.machine.execute(cpu, &exit, &bench.guest).expect("an AP instruction")
    }

    fn read(bench: &Bench, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        bench.storage.read(zarch::AbsoluteAddress(at), &mut bytes).unwrap();
        bytes
    }

    /// A bench on whose queue 05.0004 the reply to [`MESSAGE`] waits.
    fn replied() -> Bench {
        let bench = Bench::new(false);
        bench.storage.write(zarch::AbsoluteAddress(0x2000), MESSAGE).unwrap();
        let mut cpu = nqap(&bench, 0x2000, MESSAGE.len() as u64);
        assert_eq!(execute(&bench, &mut cpu, NQAP_EXIT), Outcome::ConditionCode(0));
        bench.until(apqn(5, 4), |status| status.replies_waiting);
        bench
    }

    #[test]
    fn there_and_back() {
        let bench = Bench::new(false);
        bench.card.close();
        bench.storage.write(zarch::AbsoluteAddress(0x2000), MESSAGE).unwrap();
        let mut cpu = nqap(&bench, 0x2000, MESSAGE.len() as u64);
        let before = cpu.gr;
        assert_eq!(execute(&bench, &mut cpu, NQAP_EXIT), Outcome::ConditionCode(0));
        let mut want = before;
        (want[1], want[6], want[7]) = (0, 0x2000 + MESSAGE.len() as u64, 0);
        assert_eq!(cpu.gr, want);
        bench.card.open();
        bench.until(apqn(5, 4), |status| status.replies_waiting);

        let reply = echo(4, MESSAGE);
        let mut cpu = dqap(&bench, 0x3000, 100);
        let before = cpu.gr;
        assert_eq!(execute(&bench, &mut cpu, DQAP_EXIT), Outcome::ConditionCode(0));
        let mut want = before;
        (want[1], want[2]) = (0x8000_0000, 0);
        (want[8], want[9]) = (7 << 32 | PSMID >> 32, 8 << 32 | PSMID & 0xffff_ffff);
        (want[10], want[11]) = (0x3000 + reply.len() as u64, 100 - reply.len() as u64);
        assert_eq!(cpu.gr, want);
        assert_eq!(read(&bench, 0x3000, reply.len() + 1), [&reply[..], &[0]].concat());

        let mut cpu = dqap(&bench, 0x3000, 100);
        let before = cpu.gr;
        assert_eq!(execute(&bench, &mut cpu, DQAP_EXIT), Outcome::ConditionCode(3));
        assert_eq!((cpu.gr[1], &cpu.gr[2..]), (0x8010_0000, &before[2..]));
    }

    #[test]
    fn exceptions_change_nothing() {
        #[track_caller]
        fn check(exit: Exit, tweak: impl Fn(&mut Cpu), code: ProgramCode) {
            let bench = replied();
            let before = (bench.machine.status(apqn(5, 4)), bench.machine.statistics(apqn(5, 4)));
            let mut cpu = match exit {
                Exit::Nqap { .. } => nqap(&bench, 0x2000, 24),
                _ => dqap(&bench, 0x3000, 100),
            };
            tweak(&mut cpu);
            let registers = cpu.gr;
            assert_eq!(execute(&bench, &mut cpu, exit), Outcome::Program(code.into()), "{exit:?}");
            assert_eq!(cpu.gr, registers);
            assert_eq!((bench.machine.status(apqn(5, 4)), bench.machine.statistics(apqn(5, 4))), before);
            assert_eq!(read(&bench, 0x3000, 100), [0; 100]);
        }
        let problem = |cpu: &mut Cpu| cpu.psw.mask |= psw_bits::PROBLEM;
        let nowhere = |cpu: &mut Cpu| (cpu.gr[6], cpu.gr[10]) = (STORAGE - 8, STORAGE - 8);
        for exit in [NQAP_EXIT, DQAP_EXIT, Exit::Pqap] {
            check(exit, problem, ProgramCode::PrivilegedOperation);
        }
        for (r1, r2) in [(5, 6), (4, 7), (15, 15)] {
            for exit in [Exit::Nqap { r1, r2 }, Exit::Dqap { r1, r2 }] {
                check(exit, |_| (), ProgramCode::Specification);
                check(exit, problem, ProgramCode::PrivilegedOperation);
            }
        }
        check(NQAP_EXIT, nowhere, ProgramCode::Addressing);
        check(DQAP_EXIT, nowhere, ProgramCode::Addressing);
        check(Exit::Pqap, |cpu| cpu.gr[0] = 0x0900_0000, ProgramCode::Specification);
        check(Exit::Pqap, |cpu| (cpu.gr[0], cpu.gr[2]) = (0x0400_0000, STORAGE), ProgramCode::Addressing);
    }

    #[test]
    fn errors_of_the_queue_touch_no_buffer() {
        // The buffers lie nowhere: a fetch or store would be an addressing exception.
        let bench = Bench::new(false);
        for (gr0, length, word) in
            [(0x4000_0804, 8, 0x1_0000), (NQAP, 1 << 20, 0x8015_0000), (0x0504, 8, 0x8013_0000)]
        {
            let mut cpu = nqap(&bench, STORAGE, length);
            cpu.gr[0] = gr0;
            assert_eq!(execute(&bench, &mut cpu, NQAP_EXIT), Outcome::ConditionCode(3));
            assert_eq!((cpu.gr[1], cpu.gr[6], cpu.gr[7]), (word, STORAGE, length));
        }
        for (gr0, word) in [(DQAP, 0x8010_0000), (0x8000_0804, 0x1_0000)] {
            let mut cpu = dqap(&bench, STORAGE, 8);
            cpu.gr[0] = gr0;
            assert_eq!(execute(&bench, &mut cpu, DQAP_EXIT), Outcome::ConditionCode(3));
            assert_eq!((cpu.gr[1], cpu.gr[10], cpu.gr[11]), (word, STORAGE, 8));
        }
    }

    #[test]
    fn a_reply_longer_than_the_buffer() {
        let bench = replied();
        let reply = echo(4, MESSAGE);
        // As Linux does: general register 0 as it was left, the same buffer again.
        let mut gr0 = DQAP;
        let mut got = Vec::new();
        loop {
            let mut cpu = dqap(&bench, 0x3000, 10);
            (cpu.gr[0], cpu.gr[1]) = (gr0, 0x5555);
            let outcome = execute(&bench, &mut cpu, DQAP_EXIT);
            let stored = (cpu.gr[10] - 0x3000) as usize;
            assert_eq!(cpu.gr[11], 10 - stored as u64);
            got.extend(read(&bench, 0x3000, stored));
            let residual = (reply.len() - got.len()) as u64;
            assert_eq!(cpu.gr[2], residual);
            if residual == 0 {
                assert_eq!((outcome, cpu.gr[1]), (Outcome::ConditionCode(0), 0x8000_0000));
                assert_eq!(cpu.gr[8] << 32 | cpu.gr[9] & 0xffff_ffff, PSMID);
                break;
            }
            assert_eq!((outcome, cpu.gr[1], cpu.gr[8]), (Outcome::ConditionCode(1), 0x5555, 7 << 32));
            assert_eq!(bench.machine.status(apqn(5, 4)).word(), 0x4000_0000, "it is still there");
            assert_eq!(cpu.gr[0], 0x0504 | (got.len() as u64) << 32);
            gr0 = cpu.gr[0];
        }
        assert_eq!(got, reply);
        let statistics = bench.machine.statistics(apqn(5, 4)).unwrap();
        assert_eq!((statistics.requests, statistics.replies, statistics.queued), (1, 1, 0));
    }

    #[test]
    fn parts_out_of_order() {
        #[track_caller]
        fn check(bench: &Bench, gr0: u64, length: u64, outcome: u8, gr1: u64, gr2: u64) {
            let mut cpu = dqap(bench, 0x3000, length);
            cpu.gr[0] = gr0;
            assert_eq!(execute(bench, &mut cpu, DQAP_EXIT), Outcome::ConditionCode(outcome));
            assert_eq!((cpu.gr[1], cpu.gr[2]), (gr1, gr2));
        }
        let bench = replied();
        check(&bench, 0x0504, 10, 3, 0x4013_0000, 0);
        check(&bench, DQAP, 10, 1, 0, 15);
        check(&bench, 0x0504 | 11 << 32, 10, 3, 0x4011_0000, 0);
        check(&bench, 0x0504 | 10 << 32, 0, 1, 0, 15);
        check(&bench, 0x0504 | 10 << 32, 10, 1, 0, 5);
        check(&bench, 0x0504 | 10 << 32, 10, 1, 0, 5);
        check(&bench, 0x0504 | 0xffff_ffff << 32, 10, 3, 0x4011_0000, 0);
        check(&bench, DQAP, 4, 1, 0, 21);
        check(&bench, 0x0504 | 10 << 32, 10, 3, 0x4011_0000, 0);
        check(&bench, DQAP, u64::MAX, 0, 0x8000_0000, 0);
        check(&bench, 0x0504 | 10 << 32, 10, 3, 0x8010_0000, 0);
        // A reset ends a reply begun.
        let bench = replied();
        check(&bench, DQAP, 10, 1, 0, 15);
        bench.machine.reset(apqn(5, 4));
        bench.clock.advance(1 << 30);
        check(&bench, 0x0504 | 10 << 32, 10, 3, 0x8010_0000, 0);
        let mut cpu = nqap(&bench, 0x2000, 4);
        execute(&bench, &mut cpu, NQAP_EXIT);
        bench.until(apqn(5, 4), |status| status.replies_waiting);
        check(&bench, 0x0504 | 2 << 32, 10, 3, 0x4013_0000, 0);
    }

    #[test]
    fn addressing_modes() {
        for (mode, bits) in [(AddressingMode::Bits24, 0), (AddressingMode::Bits31, psw_bits::BA)] {
            let bench = replied();
            let high = 0xffff_ffff << 32;
            let ignored = high | (0xffff_ffff & !mode.mask());
            let mut cpu = dqap(&bench, 0x3000 | ignored, 100 | high);
            cpu.psw.mask = bits;
            assert_eq!(execute(&bench, &mut cpu, DQAP_EXIT), Outcome::ConditionCode(0));
            assert_eq!((cpu.gr[10], cpu.gr[11]), (high | 0x3019, high | 75), "{mode:?}");
            let mut cpu = nqap(&bench, 0x3000 | ignored, 25 | high);
            cpu.psw.mask = bits;
            assert_eq!(execute(&bench, &mut cpu, NQAP_EXIT), Outcome::ConditionCode(0));
            assert_eq!((cpu.gr[6], cpu.gr[7]), (high | 0x3019, high), "{mode:?}");
            let mut cpu = bench.cpu();
            (cpu.psw.mask, cpu.gr[0], cpu.gr[2]) = (bits, 0x0400_0000, 0x5000 | ignored);
            assert_eq!(execute(&bench, &mut cpu, Exit::Pqap), Outcome::ConditionCode(0));
            assert_eq!(read(&bench, 0x5010, 1), [0x07]);
        }
    }

    #[test]
    fn aqic_needs_the_hook_and_nothing_else_does() {
        let bench = Bench::new(false);
        for (hook, gr1) in [(false, 0x1_0000), (true, 0x8000_0000)] {
            bench.guest.set_hook(hook);
            let mut cpu = bench.cpu();
            (cpu.gr[0], cpu.gr[1], cpu.gr[2]) = (0x0300_0504, 1 << 47 | 6, 0x1000);
            let outcome = execute(&bench, &mut cpu, Exit::Pqap);
            let cc = u8::from(!hook) * 3;
            assert_eq!((outcome, cpu.gr[1]), (Outcome::ConditionCode(cc), gr1), "{hook}");
            assert_eq!(bench.guest.resources().pins, u32::from(hook));
            let mut cpu = bench.cpu();
            cpu.gr[0] = 0x0504;
            assert_eq!(execute(&bench, &mut cpu, Exit::Pqap), Outcome::ConditionCode(0));
        }
        // What the guest may reach changes as a whole.
        bench.guest.set_masks(&crycb::Matrix::EMPTY);
        let mut cpu = bench.cpu();
        cpu.gr[0] = 0x0504;
        assert_eq!((execute(&bench, &mut cpu, Exit::Pqap), cpu.gr[1]), (Outcome::ConditionCode(3), 0x1_0000));
    }

    /// Clears one bit in the bytes of the running guest's CRYCB and nothing else.
    #[test]
    fn the_crycb_is_the_authority() {
        let pqap = |bench: &Bench, gr0, gr2| {
            let mut cpu = bench.cpu();
            (cpu.gr[0], cpu.gr[2]) = (gr0, gr2);
            (execute(bench, &mut cpu, Exit::Pqap), cpu.gr[1])
        };
        let gone = (Outcome::ConditionCode(3), 0x1_0000);
        // The masks of format 2: adapter 05 is bit 5 of byte 80, domain 04 bit 4 of byte A0.
        for (at, bit, qci_at) in [(0x80, 0x04, 0x10), (0xa0, 0x08, 0x30)] {
            let bench = replied();
            bench.storage.write(zarch::AbsoluteAddress(0x3000), &[0; 100]).unwrap();
            assert_eq!(pqap(&bench, 0x0504, 0), (Outcome::ConditionCode(0), 0x4000_0000));
            pqap(&bench, 0x0400_0000, 0x4000);
            let before = read(&bench, 0x4000, 128);
            assert_ne!(before[qci_at] & bit, 0);

            let byte = bench.guest.crycb.byte(at);
            bench.guest.crycb.set_byte(at, byte & !bit);
            for gr0 in [0x0080_0504, 0x0100_0504, 0x0200_0504, 0x0300_0504] {
                assert_eq!(pqap(&bench, gr0, 0), gone, "{gr0:x}");
            }
            let mut cpu = nqap(&bench, 0x2000, 24);
            assert_eq!((execute(&bench, &mut cpu, NQAP_EXIT), cpu.gr[1]), gone);
            let mut cpu = dqap(&bench, 0x3000, 100);
            assert_eq!((execute(&bench, &mut cpu, DQAP_EXIT), cpu.gr[1]), gone);
            assert_eq!(read(&bench, 0x3000, 100), [0; 100]);
            pqap(&bench, 0x0400_0000, 0x4000);
            let mut want = before;
            want[qci_at] &= !bit;
            assert_eq!(read(&bench, 0x4000, 128), want);
            assert_eq!(pqap(&bench, 0x06ab, 0), (Outcome::ConditionCode(0), 0x8000_0000), "another queue");

            bench.guest.crycb.set_byte(at, byte);
            let mut cpu = dqap(&bench, 0x3000, 100);
            assert_eq!(execute(&bench, &mut cpu, DQAP_EXIT), Outcome::ConditionCode(0));
            assert_eq!(bench.machine.status(apqn(5, 4)), Status { queue_empty: true, ..Status::default() });
        }
    }
}
