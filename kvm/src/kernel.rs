//! The kernel's side of KVM as traits, in plain types: what the rest of the crate is written against, and what its
//! tests record. Numbers are those of the s390x interface (Linux, `include/uapi/linux/kvm.h` and
//! `arch/s390/include/uapi/asm/kvm.h`); `ioctls_tests.rs` compares them with the headers.

use std::io;
use std::sync::Arc;

use machine::{ResetKind, Storage};
use vmm_sys_util::eventfd::EventFd;
use zarch::Psw;

pub use crate::status::Extended;

/// Capabilities, by number.
pub mod capability {
    #![allow(missing_docs)] // The names are the header's without KVM_CAP.
    pub const MP_STATE: u32 = 14;
    pub const IOEVENTFD: u32 = 36;
    pub const SYNC_REGS: u32 = 74;
    pub const S390_CSS_SUPPORT: u32 = 85;
    pub const DEVICE_CTRL: u32 = 89;
    pub const VM_ATTRIBUTES: u32 = 101;
    pub const S390_USER_SIGP: u32 = 106;
    pub const S390_VECTOR_REGISTERS: u32 = 107;
    pub const S390_MEM_OP: u32 = 108;
    pub const S390_USER_STSI: u32 = 109;
    pub const S390_SKEYS: u32 = 110;
    pub const S390_INJECT_IRQ: u32 = 113;
    pub const S390_IRQ_STATE: u32 = 114;
    pub const IMMEDIATE_EXIT: u32 = 136;
    pub const S390_GS: u32 = 140;
    pub const S390_BPB: u32 = 152;
    pub const S390_VCPU_RESETS: u32 = 179;
}

/// Attributes of a VM: groups, and attributes within.
pub mod attribute {
    #![allow(missing_docs)] // The names are the header's without KVM_S390_VM.
    pub const MEM_CTRL: u32 = 0;
    pub const MEM_LIMIT_SIZE: u64 = 2;
    pub const TOD: u32 = 1;
    pub const TOD_LOW: u64 = 0;
    pub const CRYPTO: u32 = 2;
    pub const CRYPTO_ENABLE_AES_KW: u64 = 0;
    pub const CRYPTO_ENABLE_DEA_KW: u64 = 1;
    pub const CRYPTO_ENABLE_APIE: u64 = 4;
    pub const CRYPTO_DISABLE_APIE: u64 = 5;
    pub const CPU_MODEL: u32 = 3;
    pub const CPU_PROCESSOR: u64 = 0;
    pub const CPU_MACHINE: u64 = 1;
    pub const CPU_PROCESSOR_FEAT: u64 = 2;
    pub const CPU_PROCESSOR_SUBFUNC: u64 = 4;
    pub const CPU_MACHINE_SUBFUNC: u64 = 5;
}

/// Reasons why the kernel ends a run without a payload that is used.
pub mod reason {
    #![allow(missing_docs)] // The names are the header's without KVM_EXIT.
    pub const DEBUG: u32 = 4;
    pub const INTR: u32 = 10;
    pub const S390_SIEIC: u32 = 13;
    pub const S390_RESET: u32 = 14;
    pub const S390_TSCH: u32 = 22;
    pub const S390_STSI: u32 = 25;
}

/// `/dev/kvm`.
pub trait Kvm: Send + Sync {
    /// The version of the interface.
    fn version(&self) -> i32;

    /// What the kernel answers about a capability; 0 means absent.
    fn extension(&self, capability: u32) -> i32;

    /// A VM without storage and CPUs.
    fn create_vm(&self) -> io::Result<Arc<dyn Vm>>;
}

/// The kinds of devices that a VM has beside CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The floating interruption controller.
    Flic,
    /// The registry of VFIO files, which an AP device wants to see its VM in before it is opened.
    Vfio,
}

/// A VM's descriptor. What it maps and makes goes with the last reference.
pub trait Vm: Send + Sync {
    /// What the kernel answers about a capability of this VM.
    fn extension(&self, capability: u32) -> i32;

    /// Turns a capability on.
    fn enable(&self, capability: u32) -> io::Result<()>;

    /// Whether the attribute exists.
    fn has_attribute(&self, group: u32, attribute: u64) -> bool;

    /// Sets an attribute to `data`.
    fn set_attribute(&self, group: u32, attribute: u64, data: &[u8]) -> io::Result<()>;

    /// Reads an attribute into `data`.
    fn get_attribute(&self, group: u32, attribute: u64, data: &mut [u8]) -> io::Result<()>;

    /// Makes all of `storage` the guest's, from absolute address 0.
    fn set_storage(&self, storage: Arc<Storage>) -> io::Result<()>;

    /// The CPU with this address.
    fn create_cpu(&self, address: u16) -> io::Result<Box<dyn Cpu>>;

    /// A device.
    fn create_device(&self, kind: DeviceKind) -> io::Result<Arc<dyn Device>>;

    /// Reads the storage keys of 4K-byte blocks from number `first` on; false when the guest uses no keys.
    fn keys(&self, first: u64, keys: &mut [u8]) -> io::Result<bool>;

    /// Sets the storage keys of blocks from number `first` on.
    fn set_keys(&self, first: u64, keys: &[u8]) -> io::Result<()>;

    /// Signals `event` when the guest notifies queue `queue` of the virtio device at `subchannel` by DIAGNOSE 500,
    /// or no longer.
    fn notification(&self, event: &EventFd, subchannel: u32, queue: u64, on: bool) -> io::Result<()>;
}

/// A device's descriptor.
pub trait Device: Send + Sync {
    /// Sets an attribute. `attribute` can be a parameter of its own, such as a length.
    fn set(&self, group: u32, attribute: u64, data: &[u8]) -> io::Result<()>;

    /// Reads an attribute into `data`, answering with what the kernel returns.
    fn get(&self, group: u32, attribute: u64, data: &mut [u8]) -> io::Result<u32>;
}

/// Why the kernel ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A signal, or the end was asked for before the run began.
    Interrupted,
    /// SIE intercepted something that the kernel leaves to user space.
    Intercept {
        /// Interception code.
        code: u8,
        /// The first two bytes of an intercepted instruction.
        ipa: u16,
        /// Its other bytes.
        ipb: u32,
    },
    /// TEST SUBCHANNEL, after the kernel has looked for an interruption of the subchannel.
    TestSubchannel {
        /// The interruption that was taken off the pending ones, if there was one.
        dequeued: Option<zarch::IoInterruption>,
        /// The instruction's last four bytes.
        ipb: u32,
    },
    /// STORE SYSTEM INFORMATION, after the kernel has stored its own block.
    StoreSystemInformation {
        /// Logical address of the block.
        address: u64,
        /// Access register of the address.
        ar: u8,
        /// Function code.
        function_code: u8,
        /// Selector 1.
        selector1: u8,
        /// Selector 2.
        selector2: u16,
    },
    /// DIAGNOSE 308 with subcode 3 (`clear`) or 4.
    Reset {
        /// Whether storage is to be cleared.
        clear: bool,
    },
    /// A debug event, which nobody asked for.
    Debug {
        /// Its address.
        address: u64,
        /// Its type.
        kind: u8,
    },
    /// Any other reason, by its number.
    Other(u32),
}

/// What the kernel and user space share of a CPU's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
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
    /// Prefix.
    pub prefix: u32,
}

/// What an access to storage does.
#[derive(Debug)]
pub enum Transfer<'a> {
    /// Fetches.
    Read(&'a mut [u8]),
    /// Stores.
    Write(&'a [u8]),
    /// Tests that so many bytes could be fetched.
    TestRead(u32),
    /// Tests that so many bytes could be stored.
    TestWrite(u32),
}

impl Transfer<'_> {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Read(buffer) => buffer.len(),
            Self::Write(bytes) => bytes.len(),
            Self::TestRead(length) | Self::TestWrite(length) => *length as usize,
        }
    }

    /// Whether nothing is accessed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An access by logical address, as the CPU itself would make it.
#[derive(Debug)]
pub struct Access<'a> {
    /// Logical address.
    pub address: u64,
    /// Access register, which counts in access-register mode.
    pub ar: u8,
    /// The access key.
    pub key: u8,
    /// Whether an exception is made pending at the CPU as well.
    pub inject: bool,
    /// What to do.
    pub transfer: Transfer<'a>,
}

/// Ends a run of one CPU from another thread.
pub trait Kick: Send + Sync {
    /// Makes the run that goes on, or the next one, end soon.
    fn kick(&self);
}

/// A CPU's descriptor, used by one thread at a time.
pub trait Cpu: Send {
    /// Turns a capability on.
    fn enable(&self, capability: u32) -> io::Result<()>;

    /// What ends runs in this thread from others, from now on.
    fn arm(&mut self) -> Arc<dyn Kick>;

    /// Runs the guest until the kernel has something for user space.
    fn run(&mut self) -> io::Result<Stop>;

    /// The registers as the last run or reset left them, or as they were set since.
    fn registers(&self) -> Registers;

    /// Replaces them.
    fn set_registers(&mut self, registers: &Registers);

    /// General register `r`, 0 to 15.
    fn gr(&self, r: u8) -> u64;

    /// Sets general register `r`.
    fn set_gr(&mut self, r: u8, value: u64);

    /// The PSW.
    fn psw(&self) -> Psw;

    /// Sets the PSW.
    fn set_psw(&mut self, psw: Psw);

    /// Makes the CPU operating or stopped, which is what SIGP sense of other CPUs sees.
    fn set_operating(&self, operating: bool) -> io::Result<()>;

    /// A CPU reset.
    fn reset(&mut self, kind: ResetKind) -> io::Result<()>;

    /// The registers that [`registers`](Self::registers) leaves out.
    fn extended(&self) -> io::Result<Extended>;

    /// Makes an interruption pending at this CPU.
    fn post(&self, irq: &crate::interruption::Irq) -> io::Result<()>;

    /// The pending interruptions of this CPU, each of [`interruption::LENGTH`](crate::interruption::LENGTH) bytes.
    fn pending(&self) -> io::Result<Vec<u8>>;

    /// Makes the interruptions that [`pending`](Self::pending) gave pending again.
    fn set_pending(&self, pending: &[u8]) -> io::Result<()>;

    /// Accesses storage. A positive answer is the code of the program interruption that prevented it.
    fn access(&self, access: Access<'_>) -> io::Result<u16>;
}
