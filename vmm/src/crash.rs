//! What is told about a CPU that cannot go on: why, where, at which instruction, with which registers, after which exits.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use machine::{Exit, InterruptionLoop, Operand, Storage, Vcpu, VcpuState};
use zarch::{AbsoluteAddress, Psw, RealAddress, lowcore};

/// How many exits before the end are told.
const RECENT: usize = 12;

/// Turns an instruction and its address into assembler text.
pub type Disassemble = fn(&[u8], u64) -> String;

/// The last exits of a CPU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent(VecDeque<(u64, Exit)>);

impl Recent {
    /// Adds an exit with the instruction address after it, and forgets the oldest.
    pub fn add(&mut self, exit: Exit, address: u64) {
        // Somebody outside the guest made it leave.
        if exit == Exit::Kicked {
            return;
        }
        if self.0.len() == RECENT {
            self.0.pop_front();
        }
        self.0.push_back((address, exit));
    }
}

/// Why a guest does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It loaded a PSW that waits for ever.
    DisabledWait,
    /// It takes interruptions for ever.
    Loop(InterruptionLoop),
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 4] = [
        Self::DisabledWait,
        Self::Loop(InterruptionLoop::Program),
        Self::Loop(InterruptionLoop::External),
        Self::Loop(InterruptionLoop::Operation),
    ];

    /// The name in QEMU's schema (`S390CrashReason`).
    pub const fn name(self) -> &'static str {
        match self {
            Self::DisabledWait => "disabled-wait",
            Self::Loop(InterruptionLoop::Program) => "pgmint-loop",
            Self::Loop(InterruptionLoop::External) => "extint-loop",
            Self::Loop(InterruptionLoop::Operation) => "opint-loop",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DisabledWait => "disabled wait",
            Self::Loop(InterruptionLoop::Program) => {
                "the program new PSW leads to program interruptions for ever"
            }
            Self::Loop(InterruptionLoop::External) => {
                "the external new PSW leads to external interruptions for ever"
            }
            Self::Loop(InterruptionLoop::Operation) => {
                "the program new PSW leads to operation exceptions for ever"
            }
        })
    }
}

/// A CPU at the end of its guest.
#[derive(Clone, Debug)]
pub struct Crash {
    /// CPU address.
    pub cpu: u16,
    /// Why it does not go on.
    pub reason: Reason,
    /// Its state.
    pub report: Report,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on CPU {}: {}", self.reason, self.cpu, self.report)
    }
}

/// The state of a CPU, for people.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its registers.
    pub state: VcpuState,
    /// The instruction at the PSW's address, in hexadecimal and as text, where it can be fetched.
    instruction: Option<String>,
    /// What the assigned storage locations say of the last interruptions.
    interruptions: Option<String>,
    recent: Recent,
}

impl Report {
    /// Looks at `cpu`, which keeps its state.
    pub(crate) fn of(
        cpu: &mut dyn Vcpu,
        storage: &Storage,
        recent: &Recent,
        disassemble: Disassemble,
    ) -> Self {
        let state = cpu.state();
        Self {
            state,
            instruction: instruction(cpu, state.psw, disassemble),
            interruptions: interruptions(cpu, storage),
            recent: recent.clone(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = &self.state;
        let psw = state.psw;
        write!(f, "PSW {:016x} {:016x}", psw.mask, psw.address)?;
        if psw.is_invalid() {
            f.write_str(", which is invalid")?;
        }
        if let Some(text) = &self.instruction {
            write!(f, "\nat {:x}: {text}", psw.address)?;
        }
        for (name, registers) in [("GR", &state.gr), ("CR", &state.cr)] {
            for (n, row) in registers.chunks(4).enumerate() {
                write!(f, "\n{name}{:<2}", n * 4)?;
                row.iter().try_for_each(|value| write!(f, " {value:016x}"))?;
            }
        }
        write!(f, "\nprefix {:08x}", state.prefix)?;
        if let Some(text) = &self.interruptions {
            write!(f, "\n{text}")?;
        }
        if !self.recent.0.is_empty() {
            f.write_str("\nlast exits, oldest first, with the instruction address after each:")?;
        }
        self.recent.0.iter().try_for_each(|(address, exit)| write!(f, "\n  {address:16x} {exit:x?}"))
    }
}

fn instruction(cpu: &mut dyn Vcpu, psw: Psw, disassemble: Disassemble) -> Option<String> {
    if psw.is_invalid() {
        return None;
    }
    let mut bytes = [0; 6];
    // Its length is in its first two bytes, and behind it may be nothing.
    cpu.fetch(Operand { address: psw.address, ar: 0 }, &mut bytes[..2]).ok()?;
    let length = [2, 4, 4, 6][usize::from(bytes[0] >> 6)];
    cpu.fetch(Operand { address: psw.address, ar: 0 }, &mut bytes[..length]).ok()?;
    let hex: String = bytes[..length].iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("{hex} {}", disassemble(&bytes[..length], psw.address)))
}

fn interruptions(cpu: &dyn Vcpu, storage: &Storage) -> Option<String> {
    let at = |real: u64| AbsoluteAddress(cpu.absolute(RealAddress(real)).0);
    let psw = |real: u64| -> Option<String> {
        let mask = u64::from_be_bytes(storage.read_array(at(real)).ok()?);
        let address = u64::from_be_bytes(storage.read_array(at(real + 8)).ok()?);
        Some(format!("{mask:016x} {address:016x}"))
    };
    let program: [u8; 4] = storage.read_array(at(lowcore::PROGRAM_IDENTIFICATION)).ok()?;
    let external: [u8; 2] = storage.read_array(at(lowcore::EXTERNAL_CODE)).ok()?;
    Some(format!(
        "old PSWs: program {} with code {:02x}{:02x} and length {}, external {} with code {:04x}",
        psw(lowcore::PROGRAM_OLD_PSW)?,
        program[2],
        program[3],
        program[1],
        psw(lowcore::EXTERNAL_OLD_PSW)?,
        u16::from_be_bytes(external),
    ))
}

/// What is told of a panic in the thread of `cpu`.
pub(crate) fn panicked(
    cpu: &mut dyn Vcpu,
    payload: &(dyn Any + Send),
    storage: &Storage,
    recent: &Recent,
    disassemble: Disassemble,
) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
    let number = cpu.address();
    // The CPU was left in the middle of something.
    let report = catch_unwind(AssertUnwindSafe(|| Report::of(cpu, storage, recent, disassemble)));
    let report = report.map_or_else(|_| "its state cannot be read".to_owned(), |report| report.to_string());
    format!("the thread of CPU {number} panicked: {text}; this is a bug in adjunct\n{report}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::ScriptedCpu;
    use std::sync::Arc;
    use zarch::psw_bits;

    const MODE_64: u64 = psw_bits::EA | psw_bits::BA;

    fn text(bytes: &[u8], at: u64) -> String {
        format!("text of {} bytes at {at:x}", bytes.len())
    }

    fn report(state: impl FnOnce(&mut VcpuState), put: &[(u64, &[u8])], exits: &[Exit]) -> String {
        let storage = Arc::new(Storage::new(1 << 20).unwrap());
        put.iter().for_each(|(at, bytes)| storage.write(AbsoluteAddress(*at), bytes).unwrap());
        let mut cpu = ScriptedCpu::new(&storage, &[]);
        cpu.state.psw = Psw { mask: MODE_64, address: 0x2000 };
        state(&mut cpu.state);
        let mut recent = Recent::default();
        exits.iter().zip(0x100..).for_each(|(exit, at)| recent.add(*exit, at));
        Report::of(&mut cpu, &storage, &recent, text).to_string()
    }

    #[test]
    fn everything_is_told() {
        let exits: Vec<_> = (0..20).map(|n| Exit::Diagnose { code: n, r1: 1, r3: 2 }).collect();
        let report = report(
            |state| {
                state.prefix = 0x8000;
                state.gr = std::array::from_fn(|n| n as u64);
                state.cr = std::array::from_fn(|n| 0x100 + n as u64);
            },
            &[
                (0x2000, &[0xb2, 0x20, 0, 0x23]),
                (0x808c, &[0, 4, 0, 5]),
                (0x8150, &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4]),
                (0x8086, &[0x10, 4]),
            ],
            &exits,
        );
        for part in [
            "PSW 0000000180000000 0000000000002000\nat 2000: b2200023 text of 4 bytes at 2000\nGR0  0000000000000000 ",
            "\nGR12 000000000000000c 000000000000000d 000000000000000e 000000000000000f\nCR0  0000000000000100",
            "\nprefix 00008000\nold PSWs: program 0000000100000002 0000000300000004 with code 0005 and length 4, external ",
            " with code 1004\nlast exits",
            "\n               113 Diagnose { code: 13, r1: 1, r3: 2 }",
        ] {
            assert!(report.contains(part), "{part:?} is not in\n{report}");
        }
        assert_eq!(report.matches("Diagnose").count(), RECENT);
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let has = |report: String, part: &str, whether: bool| {
            assert_eq!(report.contains(part), whether, "{part:?}\n{report}");
        };
        // The first halfword is the last one of storage, or there is none.
        let last = (1 << 20) - 2;
        has(
            report(|s| s.psw.address = last, &[(last, &[0x07, 0xfe])], &[]),
            "at ffffe: 07fe text of 2",
            true,
        );
        has(report(|s| s.psw.address = last, &[(last, &[0xb2, 0x20])], &[]), "text of", false);
        has(report(|s| s.psw.address = 1 << 20, &[], &[]), "text of", false);
        has(report(|s| s.psw.mask = 1, &[], &[]), ", which is invalid\nGR0 ", true);
        has(report(|s| s.prefix = 1 << 30, &[], &[]), "old PSWs", false);
        has(report(|_| (), &[], &[Exit::Kicked]), "last exits", false);
    }

    #[test]
    fn names_are_qemus() {
        let names = Reason::ALL.map(Reason::name);
        assert_eq!(names, ["disabled-wait", "pgmint-loop", "extint-loop", "opint-loop"]);
    }
}
