//! One CPU, and what concerns all of them.

use crate::{Error, Exit, Operand, Outcome, Post};
use zarch::{ProgramInterruption, Psw, RealAddress};

/// The CPU resets of chapter 4, *Resets*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// CPU reset: interruptions cleared, registers kept.
    Normal,
    /// Initial CPU reset: also PSW, prefix, control registers, timers, FPC.
    Initial,
    /// Clear reset: also general, access and floating-point registers.
    Clear,
}

/// The program-visible registers of a stopped or exited CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuState {
    /// The PSW.
    pub psw: Psw,
    /// General registers.
    pub gr: [u64; 16],
    /// Access registers.
    pub ar: [u32; 16],
    /// Control registers.
    pub cr: [u64; 16],
    /// Floating-point registers.
    pub fpr: [u64; 16],
    /// Floating-point-control register.
    pub fpc: u32,
    /// Prefix register.
    pub prefix: u64,
}

/// One CPU, owned by the thread that runs it.
pub trait Vcpu: Send {
    /// The CPU address.
    fn address(&self) -> u16;

    /// Executes until something happens that the VMM has to answer. Enabled waits and the stopped state
    /// are waited out inside. After an exit that names an instruction, [`finish`](Self::finish) must be
    /// called before the next `run`.
    fn run(&mut self) -> Result<Exit, Error>;

    /// Completes the instruction of the last exit.
    fn finish(&mut self, outcome: Outcome);

    /// General register `r` (0 to 15).
    fn gr(&self, r: u8) -> u64;

    /// Sets general register `r`.
    fn set_gr(&mut self, r: u8, value: u64);

    /// The PSW.
    fn psw(&self) -> Psw {
        self.state().psw
    }

    /// All registers.
    fn state(&self) -> VcpuState;

    /// Replaces all registers.
    fn set_state(&mut self, state: &VcpuState);

    /// Makes the CPU operating (true) or stopped (false).
    fn set_operating(&mut self, operating: bool);

    /// Puts this CPU itself through a reset.
    fn reset(&mut self, kind: ResetKind);

    /// Fetches `buffer.len()` bytes as an operand of the current instruction: DAT, prefixing, keys and
    /// wrap-around of the addressing mode apply. Nothing is fetched on an access exception.
    fn fetch(&mut self, from: Operand, buffer: &mut [u8]) -> Result<(), ProgramInterruption>;

    /// Stores `bytes` as an operand of the current instruction; all or nothing.
    fn store(&mut self, to: Operand, bytes: &[u8]) -> Result<(), ProgramInterruption>;

    /// Tests that [`store`](Self::store) of `length` bytes would succeed, changing nothing.
    fn probe_store(&mut self, to: Operand, length: u64) -> Result<(), ProgramInterruption>;

    /// The absolute address of a real one (prefixing).
    fn absolute(&self, real: RealAddress) -> zarch::AbsoluteAddress;
}

/// While this lives, no CPU of the machine executes an instruction.
pub trait HeldCpus {}

/// All CPUs of one machine.
pub trait Vm: Post {
    /// Runs `action` while every CPU but the calling one is held off between two instructions: whoever
    /// observes what `action` changes sees all of it or nothing. Must not be called from inside itself.
    fn with_cpus_held(&self, action: &mut dyn FnMut());

    /// Makes every CPU's `run` return [`Exit::Kicked`] soon, also from a wait.
    fn kick(&self);

    /// Resets every CPU except `except` and leaves them stopped; returns when done. A CPU that its thread does not run
    /// is not waited for long: it is reset before it executes again.
    fn reset_cpus(&self, kind: ResetKind, except: Option<u16>);

    /// How many CPUs are neither stopped nor in a disabled wait.
    fn operating_cpus(&self) -> usize;

    /// Whether the CPU at `address` is in the operating state, waiting or not; false when there is none.
    fn is_operating(&self, address: u16) -> bool;

    /// The CPU addresses.
    fn cpu_addresses(&self) -> Vec<u16>;

    /// Makes a restart interruption pending at a CPU, as `inject-nmi` does; false when there is none.
    fn restart(&self, address: u16) -> bool;
}
