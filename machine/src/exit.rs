//! What a CPU hands to the VMM, and the answers.

use zarch::{ProgramInterruption, Psw, RealAddress};

/// A storage operand: a logical address and the access register that qualifies it in
/// access-register mode (the number of the base register; 0 elsewhere).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The logical address, already trimmed to the addressing mode.
    pub address: u64,
    /// Access-register number.
    pub ar: u8,
}

impl Operand {
    /// The operand `bytes` further on; the caller keeps within the addressing mode.
    pub const fn add(self, bytes: u64) -> Self {
        Self { address: self.address.wrapping_add(bytes), ar: self.ar }
    }
}

/// The instructions that name a subchannel in general register 1 (chapter 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the manual's mnemonics spelt out.
pub enum SubchannelOperation {
    Start,
    Test,
    Store,
    Modify,
    Halt,
    Clear,
    Resume,
    Cancel,
}

/// A string of interruptions without end (chapter 4, *Check-Stop State* and chapter 6, *Priority of Interruptions*): each
/// new PSW leads to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptionLoop {
    /// The instruction at the program new PSW ends with a program interruption.
    Program,
    /// The same with operation exceptions, where the back end tells these from the others.
    Operation,
    /// The external new PSW is enabled for what loads it.
    External,
}

/// Why [`Vcpu::run`](crate::Vcpu::run) returned. Privilege and operand-alignment checks that both back
/// ends make have been made; the instruction address is past the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// SERVICE CALL: command word and SCCB real address.
    ServiceCall {
        /// The command word.
        command: u32,
        /// Real address of the SCCB.
        sccb: RealAddress,
    },
    /// PROCESS ADJUNCT-PROCESSOR QUEUE; operands are in general registers 0, 1 and 2.
    Pqap,
    /// ENQUEUE ADJUNCT-PROCESSOR QUEUE with its register numbers.
    Nqap {
        /// First register of the even/odd pair with the PSMID.
        r1: u8,
        /// First register of the even/odd pair with the message's address and length.
        r2: u8,
    },
    /// DEQUEUE ADJUNCT-PROCESSOR QUEUE with its register numbers.
    Dqap {
        /// First register of the even/odd pair that receives the PSMID.
        r1: u8,
        /// First register of the even/odd pair with the buffer's address and length.
        r2: u8,
    },
    /// An instruction that names a subchannel.
    Subchannel {
        /// Which one.
        operation: SubchannelOperation,
        /// General register 1, right half: the subsystem-identification word.
        subsystem_id: u32,
        /// The storage operand (ORB, IRB, SCHIB), where the instruction has one.
        operand: Operand,
    },
    /// STORE CHANNEL REPORT WORD.
    StoreChannelReportWord(Operand),
    /// TEST PENDING INTERRUPTION; an operand address of zero means the lowcore.
    TestPendingInterruption(Operand),
    /// CHANNEL SUBSYSTEM CALL: logical address of the request block.
    ChannelSubsystemCall(Operand),
    /// RESET CHANNEL PATH, SET CHANNEL MONITOR, SET ADDRESS LIMIT and the like: no such channel path.
    OtherChannelInstruction,
    /// DIAGNOSE: the code (second-operand address, bits 48-63) and register numbers.
    Diagnose {
        /// Function code.
        code: u16,
        /// R1 field.
        r1: u8,
        /// R3 field.
        r3: u8,
    },
    /// STORE SYSTEM INFORMATION with a defined function code 1 to 15, checks made.
    StoreSystemInformation {
        /// Function code, from general register 0.
        function_code: u8,
        /// Selector 1.
        selector1: u8,
        /// Selector 2.
        selector2: u16,
        /// The 4K-byte aligned operand.
        operand: Operand,
    },
    /// DIAGNOSE 308 with subcode 3 (`clear`) or 4, from a back end that decodes it: the guest is loaded anew.
    Load {
        /// Whether storage is cleared before.
        clear: bool,
    },
    /// The CPU loaded a wait PSW that no interruption can end.
    DisabledWait(Psw),
    /// The CPU takes interruptions for ever and executes nothing; only a reset helps.
    InterruptionLoop(InterruptionLoop),
    /// The CPU entered the stopped state.
    Stopped,
    /// [`Vm::kick`](crate::Vm::kick) was called; nothing happened in the guest.
    Kicked,
}

/// The VMM's answer to an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Go on with the next instruction.
    Resume,
    /// Set the condition code (0 to 3) and go on.
    ConditionCode(u8),
    /// The instruction ends with a program interruption.
    Program(ProgramInterruption),
}
