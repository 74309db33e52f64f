//! What the kernel hands to user space, as the seam's exits.
//!
//! SIE leaves the PSW behind an intercepted instruction and gives its bytes as *ipa* (the first two) and *ipb* (the
//! others, left-aligned). The kernel answers most interceptions itself (Linux, `arch/s390/kvm/intercept.c`, `priv.c`,
//! `diag.c`, `sigp.c`); what it does not know of arrives here.

use machine::{Exit, InterruptionLoop, Operand, SubchannelOperation};
use zarch::{ProgramCode, ProgramInterruption, Psw, RealAddress, psw_bits};

use crate::kernel::Stop;

/// Interception codes (the SIE block's `icptcode`).
pub mod interception {
    #![allow(missing_docs)] // The names are the conditions'.
    pub const INSTRUCTION: u8 = 0x04;
    pub const PROGRAM: u8 = 0x08;
    pub const EXTERNAL_INTERRUPTION: u8 = 0x14;
    pub const WAIT: u8 = 0x1c;
    pub const VALIDITY: u8 = 0x20;
    pub const STOP: u8 = 0x28;
    pub const OPERATION: u8 = 0x2c;
    pub const PARTIAL_EXECUTION: u8 = 0x38;
}

/// What a stop of a CPU comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing that concerns the VMM.
    Nothing,
    /// The VMM answers.
    Exit(Exit),
    /// The instruction ends with a program interruption.
    Program(ProgramInterruption),
    /// SIGNAL PROCESSOR with an order that the kernel leaves to user space.
    Signal {
        /// The CPU signaled.
        address: u16,
        /// The order code.
        order: u8,
        /// The parameter.
        parameter: u64,
        /// Register that receives the status.
        r1: u8,
    },
    /// The CPU took a stop.
    Stopped,
    /// Nothing that a guest can bring about; the run ends with a report. The text is the reason.
    Impossible(&'static str),
}

/// The registers that decoding looks at.
pub trait Registers {
    /// The PSW.
    fn psw(&self) -> Psw;

    /// General register `r`.
    fn gr(&self, r: u8) -> u64;
}

/// What `stop` comes to on a CPU with these registers.
pub fn event(stop: &Stop, cpu: &impl Registers) -> Event {
    match *stop {
        Stop::Interrupted => Event::Nothing,
        Stop::Intercept { code, ipa, ipb } => match code {
            interception::INSTRUCTION => Instruction { ipa, ipb }.event(cpu),
            interception::WAIT if cpu.psw().disabled_wait() => Event::Exit(Exit::DisabledWait(cpu.psw())),
            interception::WAIT => Event::Impossible("a wait that is not disabled"),
            interception::STOP => Event::Stopped,
            // What the kernel leaves of these is a loop (`handle_prog`, `handle_external_interrupt`, `handle_operexc`).
            interception::PROGRAM => Event::Exit(Exit::InterruptionLoop(InterruptionLoop::Program)),
            interception::EXTERNAL_INTERRUPTION => {
                Event::Exit(Exit::InterruptionLoop(InterruptionLoop::External))
            }
            interception::OPERATION => Event::Exit(Exit::InterruptionLoop(InterruptionLoop::Operation)),
            interception::VALIDITY => Event::Impossible("a validity interception: the SIE block is wrong"),
            interception::PARTIAL_EXECUTION => Event::Impossible("a partial execution"),
            _ => Event::Impossible("an unknown interception"),
        },
        Stop::TestSubchannel { ipb, .. } => {
            Instruction { ipa: 0xb235, ipb }.subchannel(cpu, SubchannelOperation::Test)
        }
        Stop::StoreSystemInformation { address, ar, function_code, selector1, selector2 } => {
            let operand = Operand { address, ar };
            Event::Exit(Exit::StoreSystemInformation { function_code, selector1, selector2, operand })
        }
        Stop::Reset { clear } => Event::Exit(Exit::Load { clear }),
        Stop::Debug { .. } => Event::Impossible("a debug event that nobody asked for"),
        Stop::Other(_) => Event::Impossible("an exit that is not for s390x"),
    }
}

/// An intercepted instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The first two bytes.
    pub ipa: u16,
    /// The other bytes.
    pub ipb: u32,
}

impl Instruction {
    /// Length in bytes, which the two leftmost bits say.
    pub fn length(self) -> u8 {
        [2, 4, 4, 6][usize::from(self.ipa >> 14)]
    }

    /// All six bytes; those behind the instruction's length are undefined.
    pub fn bytes(self) -> [u8; 6] {
        let ([a, b], [c, d, e, f]) = (self.ipa.to_be_bytes(), self.ipb.to_be_bytes());
        [a, b, c, d, e, f]
    }

    fn event(self, cpu: &impl Registers) -> Event {
        let exit = match self.ipa {
            0x8300..=0x83ff => {
                let code = self.address(cpu).address as u16;
                Exit::Diagnose { code, r1: self.r1(), r3: self.r3() }
            }
            0xae00..=0xaeff => return privileged(cpu, || self.signal(cpu)),
            0xb220 => {
                let (r1, r2) = self.rre();
                let sccb = RealAddress(cpu.gr(r2) & address_mask(cpu));
                Exit::ServiceCall { command: cpu.gr(r1) as u32, sccb }
            }
            0xb230 => return self.subchannel(cpu, SubchannelOperation::Clear),
            0xb231 => return self.subchannel(cpu, SubchannelOperation::Halt),
            0xb232 => return self.subchannel(cpu, SubchannelOperation::Modify),
            0xb233 => return self.subchannel(cpu, SubchannelOperation::Start),
            0xb234 => return self.subchannel(cpu, SubchannelOperation::Store),
            0xb235 => return self.subchannel(cpu, SubchannelOperation::Test),
            0xb236 => Exit::TestPendingInterruption(self.address(cpu)),
            // SET ADDRESS LIMIT, SET CHANNEL MONITOR: nothing is measured or limited.
            0xb237 | 0xb23c => return privileged(cpu, || Event::Nothing),
            0xb238 => return self.subchannel(cpu, SubchannelOperation::Resume),
            0xb239 => Exit::StoreChannelReportWord(self.address(cpu)),
            0xb23b => Exit::OtherChannelInstruction,
            0xb25f => {
                let (r1, _) = self.rre();
                Exit::ChannelSubsystemCall(Operand { address: cpu.gr(r1) & address_mask(cpu), ar: r1 })
            }
            0xb276 => return self.subchannel(cpu, SubchannelOperation::Cancel),
            0xb2ad | 0xb2ae => {
                let (r1, r2) = self.rre();
                return privileged(cpu, || match (r1 | r2) & 1 {
                    0 if self.ipa == 0xb2ad => Event::Exit(Exit::Nqap { r1, r2 }),
                    0 => Event::Exit(Exit::Dqap { r1, r2 }),
                    _ => Event::Program(ProgramCode::Specification.into()),
                });
            }
            0xb2af => Exit::Pqap,
            // Of a facility that the guest does not have: SIE interprets those it has.
            _ => return Event::Program(ProgramCode::Operation.into()),
        };
        privileged(cpu, || Event::Exit(exit))
    }

    fn subchannel(self, cpu: &impl Registers, operation: SubchannelOperation) -> Event {
        privileged(cpu, || {
            let (subsystem_id, operand) = (cpu.gr(1) as u32, self.address(cpu));
            Event::Exit(Exit::Subchannel { operation, subsystem_id, operand })
        })
    }

    fn signal(self, cpu: &impl Registers) -> Event {
        let (r1, r3) = (self.r1(), self.r3());
        Event::Signal {
            address: cpu.gr(r3) as u16,
            order: self.address(cpu).address as u8,
            parameter: cpu.gr(r1 | 1),
            r1,
        }
    }

    fn r1(self) -> u8 {
        (self.ipa >> 4 & 15) as u8
    }

    fn r3(self) -> u8 {
        (self.ipa & 15) as u8
    }

    /// The register fields of format RRE.
    fn rre(self) -> (u8, u8) {
        ((self.ipb >> 20 & 15) as u8, (self.ipb >> 16 & 15) as u8)
    }

    /// The second operand of formats S and RS: base and displacement.
    fn address(self, cpu: &impl Registers) -> Operand {
        let (base, displacement) = ((self.ipb >> 28) as u8, u64::from(self.ipb >> 16 & 0xfff));
        let start = if base == 0 { 0 } else { cpu.gr(base) };
        Operand { address: start.wrapping_add(displacement) & address_mask(cpu), ar: base }
    }
}

fn address_mask(cpu: &impl Registers) -> u64 {
    cpu.psw().addressing_mode().map_or(u64::MAX, |mode| mode.mask())
}

/// `event`, unless the CPU is in the problem state.
fn privileged(cpu: &impl Registers, event: impl FnOnce() -> Event) -> Event {
    if cpu.psw().mask & psw_bits::PROBLEM != 0 {
        return Event::Program(ProgramCode::PrivilegedOperation.into());
    }
    event()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITS64: u64 = psw_bits::EA | psw_bits::BA;

    struct Bench(Psw);

    impl Registers for Bench {
        fn psw(&self) -> Psw {
            self.0
        }

        /// Register r holds r at every fourth bit: easily told apart, and wider than 31 bits.
        fn gr(&self, r: u8) -> u64 {
            u64::from(r) * 0x0101_0101_0101_0101
        }
    }

    fn cpu(mask: u64) -> Bench {
        Bench(Psw { mask, address: 0x1004 })
    }

    #[track_caller]
    fn check(ipa: u16, ipb: u32, want: Event) {
        let stop = Stop::Intercept { code: interception::INSTRUCTION, ipa, ipb };
        assert_eq!(event(&stop, &cpu(BITS64)), want, "{ipa:x} {ipb:x}");
        let problem = event(&stop, &cpu(BITS64 | psw_bits::PROBLEM));
        let known = want != program(ProgramCode::Operation);
        let code = if known { ProgramCode::PrivilegedOperation } else { ProgramCode::Operation };
        assert_eq!(problem, program(code), "{ipa:x} {ipb:x} in the problem state");
    }

    fn program(code: ProgramCode) -> Event {
        Event::Program(code.into())
    }

    #[test]
    fn instructions() {
        use SubchannelOperation::*;
        let at5 = Operand { address: 0x0505_0505_0505_0505 + 0x123, ar: 5 };
        let exit = Event::Exit;
        for (ipa, operation) in [
            (0xb230, Clear),
            (0xb231, Halt),
            (0xb232, Modify),
            (0xb233, Start),
            (0xb234, Store),
            (0xb235, Test),
            (0xb238, Resume),
            (0xb276, Cancel),
        ] {
            let subsystem_id = 0x0101_0101;
            check(ipa, 0x5123_0000, exit(Exit::Subchannel { operation, subsystem_id, operand: at5 }));
        }
        check(0xb236, 0x5123_0000, exit(Exit::TestPendingInterruption(at5)));
        check(0xb236, 0x0000_0000, exit(Exit::TestPendingInterruption(Operand { address: 0, ar: 0 })));
        check(0xb239, 0x5123_0000, exit(Exit::StoreChannelReportWord(at5)));
        check(0xb23b, 0, exit(Exit::OtherChannelInstruction));
        check(0xb237, 0, Event::Nothing);
        check(0xb23c, 0, Event::Nothing);
        let block = Operand { address: 0x0303_0303_0303_0303, ar: 3 };
        check(0xb25f, 0x0030_0000, exit(Exit::ChannelSubsystemCall(block)));
        let sccb = RealAddress(0x0909_0909_0909_0909);
        check(0xb220, 0x0029_0000, exit(Exit::ServiceCall { command: 0x0202_0202, sccb }));
        check(0x8324, 0x0308_0000, exit(Exit::Diagnose { code: 0x308, r1: 2, r3: 4 }));
        check(0x8324, 0x5123_0000, exit(Exit::Diagnose { code: 0x0628, r1: 2, r3: 4 }));
        check(0xb2af, 0, exit(Exit::Pqap));
        check(0xb2ad, 0x0046_0000, exit(Exit::Nqap { r1: 4, r2: 6 }));
        check(0xb2ae, 0x0082_0000, exit(Exit::Dqap { r1: 8, r2: 2 }));
        for ipa in [0xb2ad, 0xb2ae] {
            for registers in [0x0056_0000, 0x0045_0000, 0x0055_0000] {
                check(ipa, registers, program(ProgramCode::Specification));
            }
        }
        let parameter = 0x0303_0303_0303_0303;
        check(0xae27, 0x0005_0000, Event::Signal { address: 0x0707, order: 5, parameter, r1: 2 });
        check(0xae37, 0x0105_0000, Event::Signal { address: 0x0707, order: 5, parameter, r1: 3 });
        for ipa in [0xb2a0, 0xb23a, 0xb274, 0xb9a0, 0xb9d0, 0xebd1, 0x0000] {
            check(ipa, 0, program(ProgramCode::Operation));
        }
    }

    #[test]
    fn addressing_modes() {
        let stop = Stop::Intercept { code: interception::INSTRUCTION, ipa: 0xb239, ipb: 0xffff_0000 };
        let full = 0x0f0f_0f0f_0f0f_0f0f + 0xfff;
        for (mode, mask) in [(BITS64, u64::MAX), (psw_bits::BA, 0x7fff_ffff), (0, 0xff_ffff)] {
            let operand = Operand { address: full & mask, ar: 15 };
            assert_eq!(event(&stop, &cpu(mode)), Event::Exit(Exit::StoreChannelReportWord(operand)));
        }
    }

    #[test]
    fn other_stops() {
        let check =
            |stop: Stop, mask: u64, want: Event| assert_eq!(event(&stop, &cpu(mask)), want, "{stop:?}");
        check(Stop::Interrupted, 0, Event::Nothing);
        check(Stop::Reset { clear: true }, 0, Event::Exit(Exit::Load { clear: true }));
        let operand = Operand { address: 0x7000, ar: 3 };
        let (function_code, selector1, selector2) = (3, 2, 2);
        check(
            Stop::StoreSystemInformation { address: 0x7000, ar: 3, function_code, selector1, selector2 },
            0,
            Event::Exit(Exit::StoreSystemInformation { function_code, selector1, selector2, operand }),
        );
        let (operation, operand) = (SubchannelOperation::Test, Operand { address: 0x123, ar: 0 });
        check(
            Stop::TestSubchannel { dequeued: None, ipb: 0x0123_0000 },
            BITS64,
            Event::Exit(Exit::Subchannel { operation, subsystem_id: 0x0101_0101, operand }),
        );
        let intercept = |code| Stop::Intercept { code, ipa: 0, ipb: 0 };
        let waiting = Psw { mask: psw_bits::WAIT, address: 0x1004 };
        check(intercept(interception::WAIT), psw_bits::WAIT, Event::Exit(Exit::DisabledWait(waiting)));
        check(intercept(interception::STOP), 0, Event::Stopped);
        // What no guest can bring about, and a wait that is none.
        let impossible = |stop: Stop, mask: u64| {
            assert!(matches!(event(&stop, &cpu(mask)), Event::Impossible(_)), "{stop:?}");
        };
        impossible(intercept(interception::WAIT), psw_bits::WAIT | psw_bits::IO);
        for (code, which) in [
            (interception::PROGRAM, InterruptionLoop::Program),
            (interception::EXTERNAL_INTERRUPTION, InterruptionLoop::External),
            (interception::OPERATION, InterruptionLoop::Operation),
        ] {
            check(intercept(code), 0, Event::Exit(Exit::InterruptionLoop(which)));
        }
        let known = [interception::INSTRUCTION, 0x1c, 0x28, 0x08, 0x14, 0x2c];
        for code in (0..=255).filter(|code| !known.contains(code)) {
            impossible(intercept(code), 0);
        }
        impossible(Stop::Debug { address: 0, kind: 1 }, 0);
        for reason in [0, 2, 6, 17, 38] {
            impossible(Stop::Other(reason), 0);
        }
    }

    #[test]
    fn lengths() {
        for (ipa, length) in [(0x0a00, 2), (0x8300, 4), (0xb220, 4), (0xeb25, 6)] {
            let instruction = Instruction { ipa, ipb: 0x0102_0304 };
            assert_eq!(instruction.length(), length);
            assert_eq!(instruction.bytes()[2..], [1, 2, 3, 4]);
        }
    }
}
