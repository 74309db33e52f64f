//! An oracle for CPU instructions: QEMU's TCG, asked through shared memory.
//!
//! A test hands over [`Case`]s (one instruction, the state before it) and gets back [`Answer`]s (the state after it,
//! or the program interruption). A small bare s390x program (`driver.S`) loads each state, executes the instruction
//! in a slot surrounded by supervisor calls, and stores what became of it; host and guest share the guest's storage
//! as a file, so a hundred thousand cases take about a second. [`generate`] makes random cases from the layout of an
//! instruction's operands.
//!
//! Neighbours: the `cpu` crate's tests compare the software engine with it. Nothing else depends on it.
//! It needs `qemu-system-s390x` 10 or newer: in `PATH`, or named by the environment variable `ADJUNCT_QEMU`; without
//! it [`Oracle::start`] says why, so that a test can report itself as skipped.
//!
//! # What a case sees
//! One address space, the same through primary, secondary and home designations, logical equal to real: the code
//! page (read-only, [`layout::SLOT`]), two pages around window A and one page that ends with window B, zero outside
//! the windows. Every other logical address is invalid, so that under DAT no instruction can damage the driver.
//! With DAT off nothing protects it; such cases must keep to the windows.

#![forbid(unsafe_code)]

pub mod generate;
pub mod layout;
mod qemu;
pub mod random;

pub use qemu::{Error, Oracle};

/// PSW bits of [`State::psw_mask`], bit 0 leftmost (Principles of Operation, chapter 4).
pub mod psw {
    /// Bit 5: dynamic address translation.
    pub const DAT: u64 = 1 << (63 - 5);
    /// Bit 15: problem state.
    pub const PROBLEM: u64 = 1 << (63 - 15);
    /// Bits 18 and 19: condition code, as a shift.
    pub const CC_SHIFT: u32 = 63 - 19;
    /// Bits 31 and 32: 64-bit addressing.
    pub const EXTENDED: u64 = 0x0000_0001_8000_0000;
    /// Bit 32 alone: 31-bit addressing.
    pub const BASIC: u64 = 0x0000_0000_8000_0000;
}

/// What an instruction can read and change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// General registers.
    pub gr: [u64; 16],
    /// Floating-point registers.
    pub fpr: [u64; 16],
    /// Access registers.
    pub ar: [u32; 16],
    /// Floating-point control register. Before the instruction it must be valid (no unassigned bit, rounding mode
    /// 0 to 3 or 7), because the driver loads it with LFPC.
    pub fpc: u32,
    /// Left half of the PSW, condition code included.
    pub psw_mask: u64,
    /// Windows A and B (see [`layout`]).
    pub windows: [[u8; layout::WINDOW_SIZE]; 2],
    /// Control registers, where the case cares. `None` means [`layout::default_cr`], and is faster.
    pub cr: Option<Box<[u64; 16]>>,
}

impl Default for State {
    /// All zero, in problem state with DAT, 64-bit addressing.
    fn default() -> Self {
        State {
            gr: [0; 16],
            fpr: [0; 16],
            ar: [0; 16],
            fpc: 0,
            psw_mask: psw::DAT | psw::PROBLEM | psw::EXTENDED,
            windows: [[0; layout::WINDOW_SIZE]; 2],
            cr: None,
        }
    }
}

impl State {
    /// The condition code in the PSW, 0 to 3.
    pub fn cc(&self) -> u8 {
        (self.psw_mask >> psw::CC_SHIFT) as u8 & 3
    }

    /// The same state with condition code `cc` (0 to 3).
    pub fn with_cc(mut self, cc: u8) -> State {
        self.psw_mask = self.psw_mask & !(3 << psw::CC_SHIFT) | u64::from(cc & 3) << psw::CC_SHIFT;
        self
    }
}

/// One instruction and the state before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The instruction, left-aligned; bytes beyond its length are ignored. It is placed at [`layout::SLOT`].
    pub instruction: [u8; 6],
    /// An instruction at [`layout::TARGET`], for EXECUTE to find.
    pub target: Option<[u8; 6]>,
    /// Whether to branch back to it on condition code 3: for instructions that stop after an amount of work that
    /// the CPU determines.
    pub again: bool,
    /// Registers and storage before it.
    pub state: State,
}

impl Case {
    /// A case without an execute target, executed once.
    pub fn new(instruction: [u8; 6], state: State) -> Case {
        Case { instruction, target: None, again: false, state }
    }
}

/// The length in bytes of the instruction that begins with this byte (bits 0 and 1 decide).
pub fn instruction_length(first: u8) -> usize {
    match first >> 6 {
        0 => 2,
        3 => 6,
        _ => 4,
    }
}

/// How an instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It completed; execution reached a supervisor call at [`Answer::address`].
    Completed,
    /// A program interruption.
    Program {
        /// Program-interruption code.
        code: u16,
        /// Instruction length in bytes: 0, 2, 4 or 6.
        ilc: u8,
        /// Translation-exception identification (real location 168); 0 when the interruption stores none.
        translation_exception: u64,
        /// Data-exception code (real location 147); 0 when the interruption stores none.
        dxc: u8,
    },
    /// It never ended; the emulator had to be ended.
    Hung,
    /// The emulator died of it.
    Died,
}

/// The state after an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it ended. After `Hung` and `Died` the other fields repeat the case.
    pub outcome: Outcome,
    /// Registers and storage. The PSW is the old PSW of the interruption that ended the case. `cr` is there when
    /// the case had it.
    pub state: State,
    /// Instruction address: after `Completed` where execution continued ([`layout::SLOT`] plus the length when it
    /// did not branch), else the old PSW's address.
    pub address: u64,
    /// Real locations 128 to 191 after a program interruption: monitor code, PER, access identification and so on.
    pub lowcore: [u8; 64],
}
