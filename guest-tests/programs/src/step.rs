//! One instruction, and how it ended.

use crate::machine::{self, cr0, load, load_word, lowcore, set_cr0, set_cr6};

/// PSW masks.
pub mod mask {
    /// The 64-bit mode: EA and BA.
    pub const BITS_64: u64 = 1 << 32 | 1 << 31;
    /// The 31-bit mode.
    pub const BITS_31: u64 = 1 << 31;
    /// DAT.
    pub const DAT: u64 = 1 << 58;
    /// I/O interruptions.
    pub const IO: u64 = 1 << 57;
    /// External interruptions.
    pub const EXTERNAL: u64 = 1 << 56;
    /// Machine checks.
    pub const MACHINE_CHECK: u64 = 1 << 50;
    /// Wait.
    pub const WAIT: u64 = 1 << 49;
    /// Problem state.
    pub const PROBLEM: u64 = 1 << 48;
    /// Access-register mode; with [`SECONDARY`] the home-space mode.
    pub const ACCESS_REGISTER: u64 = 1 << 46;
    /// Secondary-space mode.
    pub const SECONDARY: u64 = 1 << 47;
    /// Fixed-point overflow.
    pub const FIXED_OVERFLOW: u64 = 1 << 43;
    /// The access key.
    pub const fn key(key: u64) -> u64 {
        key << 52
    }
    /// A condition code.
    pub const fn condition_code(cc: u64) -> u64 {
        cc << 44
    }
}

/// Registers and PSW with which a step begins and ends.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Step {
    /// General registers.
    pub gr: [u64; 16],
    /// PSW: mask and address. Afterwards the old PSW of the interruption.
    pub psw: [u64; 2],
    /// Where that old PSW was stored.
    old_psw: u64,
}

/// The first interruption in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// None: the instruction behind the one to try was reached, or it branched to an SVC of its own.
    Nothing,
    /// SVC with this number and length, other than the one that ends a step.
    Svc(u16, u8),
    /// Program interruption: code, and length of the instruction.
    Program(u16, u8),
    /// External interruption: code, CPU address.
    External(u16, u16),
    /// I/O interruption: subsystem identification, parameter, identification word.
    Io(u32, u32, u32),
    /// Machine check.
    MachineCheck(u64),
    /// Restart.
    Restart,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What happened.
    pub taken: Taken,
    /// Condition code.
    pub cc: u8,
    /// Instruction address of the old PSW relative to the instruction.
    pub moved: i64,
}

impl Outcome {
    /// Condition code of an instruction that was executed; what happened otherwise.
    pub fn executed(self) -> Result<u8, Taken> {
        match self.taken {
            Taken::Nothing => Ok(self.cc),
            other => Err(other),
        }
    }
}

/// The number of the SVC behind an instruction that is tried.
const END: u16 = 0xff;

/// Room for the instruction of each CPU, in a page of its own.
#[repr(C, align(4096))]
struct Code([u64; 512]);
static mut CODE: [Code; 2] = [const { Code([0; 512]) }; 2];

unsafe extern "C" {
    fn enter_step(step: *mut Step);
}

/// Executes an instruction, left-aligned in `instruction`, in the 64-bit mode with these registers.
pub fn step(instruction: u64, gr: &mut [u64; 16]) -> Outcome {
    step_with(instruction, gr, mask::BITS_64)
}

/// The same with this PSW mask.
pub fn step_with(instruction: u64, gr: &mut [u64; 16], mask: u64) -> Outcome {
    let length = match instruction >> 62 {
        0 => 2,
        3 => 6,
        _ => 4,
    };
    let bits = 8 * length;
    let code = instruction >> (64 - bits) << (64 - bits) | (0x0a00 | u64::from(END)) << (48 - bits);
    let at = (&raw const CODE) as u64 + 4096 * load(0xea8);
    if load(at) != code {
        machine::store(at, code);
    }
    run(&mut Step { gr: *gr, psw: [mask, at], old_psw: 0 }, gr, at)
}

/// Runs from a PSW until the first interruption.
fn run(step: &mut Step, gr: &mut [u64; 16], at: u64) -> Outcome {
    // SAFETY: the stubs come back here with all registers of the caller's restored; the step itself touches what the
    // instruction that the program chose touches.
    unsafe { enter_step(step) };
    *gr = step.gr;
    let half = |at: u64, low: bool| if low { load_word(at) as u16 } else { (load_word(at) >> 16) as u16 };
    let taken = match step.old_psw {
        0x120 => Taken::Restart,
        0x130 => Taken::External(half(0x84, true), half(0x84, false)),
        0x140 => match (half(lowcore::SVC_ILC, true), half(lowcore::SVC_ILC, false) as u8) {
            (END, _) => Taken::Nothing,
            (code, length) => Taken::Svc(code, length),
        },
        0x150 => Taken::Program(half(lowcore::PROGRAM_ILC, true), half(lowcore::PROGRAM_ILC, false) as u8),
        0x160 => Taken::MachineCheck(load(lowcore::MACHINE_CHECK)),
        _ => Taken::Io(load_word(0xb8), load_word(0xbc), load_word(0xc0)),
    };
    Outcome { taken, cc: (step.psw[0] >> 44 & 3) as u8, moved: step.psw[1].wrapping_sub(at) as i64 }
}

/// Waits, enabled for what `enabled` of the PSW mask says, with the external interruptions of `external` (control register
/// 0) and the I/O-interruption subclasses of `isc` (bit 0 on the left). What does not come within five seconds is reported
/// as the clock comparator's interruption. Afterwards control registers 0 and 6 and the clock
/// comparator are as before.
pub fn wait(enabled: u64, external: u64, isc: u8) -> Taken {
    let before = machine::control_registers();
    let comparator = machine::clock_comparator();
    if external & cr0::CLOCK_COMPARATOR == 0 {
        machine::set_clock_comparator(machine::tod() + 5 * machine::SECOND);
    }
    set_cr0(before[0] & !0xfe00 | external | cr0::CLOCK_COMPARATOR);
    set_cr6(u64::from(isc) << 24);
    let mut gr = [0; 16];
    let mask = mask::BITS_64 | mask::WAIT | mask::EXTERNAL | enabled;
    let outcome = run(&mut Step { gr, psw: [mask, 0], old_psw: 0 }, &mut gr, 0);
    set_cr0(before[0]);
    set_cr6(before[6]);
    machine::set_clock_comparator(comparator);
    outcome.taken
}
