//! One CPU: its registers and what semantic functions may do with it.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use machine::{Clock, Exit, Operand, Outcome, ResetKind, Storage, Vcpu, VcpuState};
use zarch::{
    AbsoluteAddress, AddressSpace, AddressingMode, FacilityList, ProgramCode, ProgramInterruption, Psw,
    RealAddress, psw_bits,
};

use crate::complex::{Complex, Shared};
use crate::execute::{Code, Op};
use crate::format::NO_REGISTER;
use crate::tlb::{Entry, Tlb};

/// Why an instruction does not simply go on to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// A branch was taken; the CPU's instruction address is the target.
    Branch,
    /// The block ends after this instruction: PSW, control registers or translation changed.
    Serialize,
    /// The block's last operation: go on behind it.
    BlockEnd,
    /// The operation is no longer valid: go on with it, decoded anew.
    Stale,
    /// The instruction is to be executed again after interruptions had a chance (MVCL and its kin, with
    /// registers that show the progress).
    Again,
    /// A program exception. Details beside the code are in the CPU's `exception`.
    Program(ProgramCode),
    /// SUPERVISOR CALL with its number.
    SupervisorCall(u8),
    /// The instruction is the VMM's to finish; the exit is in the CPU.
    Exit,
    /// A new PSW was loaded as a whole.
    NewPsw,
    /// A storage access was not possible the fast way. Seen by handlers only, which run the function again
    /// with the slow way.
    Miss,
    /// A branch to the fixed relative target of the operation was taken. Seen by handlers only.
    Relative,
}

impl From<ProgramCode> for Leave {
    fn from(code: ProgramCode) -> Self {
        Self::Program(code)
    }
}

/// What a semantic function returns.
pub type Flow = Result<(), Leave>;

/// One CPU.
#[repr(C)]
pub struct Cpu {
    // What nearly every operation touches stands first.
    gr: [u64; 32],
    pub(crate) tlb_entries: *mut Entry,
    address_mask: u64,
    /// Virtual address of the page that holds the executing instruction.
    pub(crate) page_base: u64,
    /// The condition code, 0 to 3.
    pub cc: u8,
    /// The operation that left the block.
    pub(crate) current: *const Op,
    /// Instruction address; current between blocks, and the target after [`Leave::Branch`].
    pub(crate) ia: u64,
    /// Instructions (virtual time) or block lengths left until time is looked at.
    pub(crate) budget: i64,
    /// Storage accesses may take the slow way: always on outside handlers.
    pub(crate) careful: bool,
    /// Why the last block was left.
    pub(crate) leave: Leave,
    /// What remembered virtual addresses of blocks depend on, while executing.
    pub(crate) context: u64,
    /// While an EXECUTE runs its target: where the instruction behind the EXECUTE is, and how many halfwords
    /// the EXECUTE has.
    pub(crate) execute_next: Option<(u64, u8)>,
    /// Floating-point registers.
    pub fpr: [u64; 16],
    /// Floating-point-control register.
    pub fpc: u32,
    /// Control registers.
    pub cr: [u64; 16],
    /// Access registers.
    pub ar: [u32; 16],
    /// PSW bits 0-63 without the condition code.
    psw_mask: u64,
    pub(crate) prefix: u64,
    pub(crate) facilities: FacilityList,
    pub(crate) storage: Arc<Storage>,
    pub(crate) tlb: Tlb,
    pub(crate) code: Code,
    pub(crate) complex: Arc<Complex>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Details of the exception that [`Leave::Program`] announces.
    pub(crate) exception: ProgramInterruption,
    /// The address-space identification that access exceptions report, when an instruction accesses a
    /// space other than that of the PSW.
    pub(crate) operand_space_id: Option<u64>,
    /// Absolute address of the table entry that the last table walk ended at.
    pub(crate) walk_entry: u64,
    pub(crate) exit: Option<Exit>,
    /// Length of the instruction that left.
    pub(crate) ilc: u8,
    /// Clock comparator.
    pub clock_comparator: u64,
    /// The TOD-clock value at which the CPU timer becomes negative.
    pub(crate) cpu_timer_end: u64,
    /// TOD programmable register.
    pub tod_programmable: u32,
    /// Difference added to the clock by SET CLOCK.
    pub(crate) tod_offset: u64,
    pub(crate) last_tod: u64,
    pub(crate) breaking_event: u64,
    /// A disabled wait was reported; the next `run` blocks.
    pub(crate) reported_wait: bool,
    /// When attention was last served, something was pending that control registers enable: to be
    /// looked at again when the PSW masks open.
    pub(crate) masked_pending: bool,
    /// What `budget` was set to when time was last looked at.
    pub(crate) slice: i64,
    /// Program interruptions one after another of the instruction that the program new PSW leads to.
    pub(crate) loops: u32,
}

// SAFETY: the raw pointers point into `tlb` and `code`, which the CPU owns and which move with it only
// as pointers to boxed contents; one thread at a time has the CPU.
unsafe impl Send for Cpu {}

impl Cpu {
    pub(crate) fn new(complex: Arc<Complex>, shared: Arc<Shared>) -> Self {
        let mut cpu = Self {
            gr: [0; 32],
            tlb_entries: std::ptr::null_mut(),
            address_mask: 0,
            page_base: 0,
            cc: 0,
            current: std::ptr::null(),
            ia: 0,
            budget: 0,
            careful: true,
            leave: Leave::BlockEnd,
            context: 0,
            execute_next: None,
            fpr: [0; 16],
            fpc: 0,
            cr: [0; 16],
            ar: [0; 16],
            psw_mask: 0,
            prefix: 0,
            facilities: complex.model.facilities,
            storage: complex.storage.clone(),
            tlb: Tlb::new(),
            code: Code::new(),
            clock: complex.clock.clone(),
            complex,
            shared,
            exception: ProgramInterruption::new(ProgramCode::Operation),
            operand_space_id: None,
            walk_entry: 0,
            exit: None,
            ilc: 0,
            clock_comparator: 0,
            cpu_timer_end: 0,
            tod_programmable: 0,
            tod_offset: 0,
            last_tod: 0,
            breaking_event: 1,
            reported_wait: false,
            masked_pending: false,
            slice: 0,
            loops: 0,
        };
        cpu.reset(ResetKind::Clear);
        cpu
    }

    /// General register `r` (0 to 15), all 64 bits.
    #[inline(always)]
    pub fn gr(&self, r: u8) -> u64 {
        self.gr[(r & 15) as usize]
    }

    /// Sets general register `r`.
    #[inline(always)]
    pub fn set_gr(&mut self, r: u8, value: u64) {
        crate::access::store_whole(&mut self.gr[(r & 15) as usize], value);
    }

    /// Bits 32-63 of general register `r`.
    #[inline(always)]
    pub fn gr32(&self, r: u8) -> u32 {
        self.gr(r) as u32
    }

    /// Sets bits 32-63 of general register `r`, leaving the left half.
    #[inline(always)]
    pub fn set_gr32(&mut self, r: u8, value: u32) {
        let gr = &mut self.gr[(r & 15) as usize];
        let whole = *gr & !0xffff_ffff | value as u64;
        crate::access::store_whole(gr, whole);
    }

    /// Bits 0-31 of general register `r`.
    #[inline(always)]
    pub fn gr_high(&self, r: u8) -> u32 {
        (self.gr(r) >> 32) as u32
    }

    /// Sets bits 0-31 of general register `r`.
    #[inline(always)]
    pub fn set_gr_high(&mut self, r: u8, value: u32) {
        let gr = &mut self.gr[(r & 15) as usize];
        let whole = *gr & 0xffff_ffff | (value as u64) << 32;
        crate::access::store_whole(gr, whole);
    }

    /// The contents of base or index register `r` as the formats hold it ([`NO_REGISTER`] is zero).
    #[inline(always)]
    pub fn base(&self, r: u8) -> u64 {
        debug_assert!(r <= NO_REGISTER);
        // Element 16 is never written; the mask keeps the index inside without a branch.
        self.gr[(r & 31) as usize]
    }

    /// Trims an address to the addressing mode.
    #[inline(always)]
    pub fn trim(&self, address: u64) -> u64 {
        address & self.address_mask
    }

    /// The bits of an address that take part in the current addressing mode.
    pub fn address_mask(&self) -> u64 {
        self.address_mask
    }

    /// The addressing mode.
    pub fn addressing_mode(&self) -> AddressingMode {
        match self.address_mask {
            0xff_ffff => AddressingMode::Bits24,
            0x7fff_ffff => AddressingMode::Bits31,
            _ => AddressingMode::Bits64,
        }
    }

    /// The operand that general register `r` designates (as MVCL, NQAP and the like do).
    pub fn register_operand(&self, r: u8) -> Operand {
        Operand { address: self.trim(self.gr(r)), ar: r }
    }

    /// Puts an address or length into general register `r` as instructions that update them do: in the
    /// 64-bit mode all bits, otherwise bits 32-63 (bits 0-31 unchanged).
    pub fn set_gr_address(&mut self, r: u8, value: u64) {
        if self.addressing_mode() == AddressingMode::Bits64 {
            self.set_gr(r, value);
        } else {
            self.set_gr32(r, self.trim(value) as u32);
        }
    }

    /// A length in general register `r`: 64 bits in the 64-bit mode, else bits 32-63.
    pub fn gr_length(&self, r: u8) -> u64 {
        if self.addressing_mode() == AddressingMode::Bits64 { self.gr(r) } else { self.gr32(r) as u64 }
    }

    /// Sets a length in general register `r`.
    pub fn set_gr_length(&mut self, r: u8, value: u64) {
        if self.addressing_mode() == AddressingMode::Bits64 {
            self.set_gr(r, value);
        } else {
            self.set_gr32(r, value as u32);
        }
    }

    /// Branches to an address, trimmed to the addressing mode.
    #[inline(always)]
    pub fn branch_to(&mut self, address: u64) -> Flow {
        self.ia = self.trim(address);
        Err(Leave::Branch)
    }

    /// The address of a relative operand (LARL, LGRL …).
    #[inline(always)]
    pub fn relative(&self, target: i64) -> Operand {
        Operand { address: self.trim(self.page_base.wrapping_add(target as u64)), ar: 0 }
    }

    /// The address of the instruction behind this one; behind the EXECUTE when it is executed by one.
    #[inline(always)]
    pub fn next_address(&self, next: u16) -> u64 {
        match self.execute_next {
            None => self.trim(self.page_base.wrapping_add(next as u64)),
            Some((address, _)) => address,
        }
    }

    /// What BRANCH AND LINK and its kin put into R1 as the link information: the whole register in the
    /// 64-bit mode, else bits 32-63 with the mode in bit 32.
    #[inline(always)]
    pub fn set_link(&mut self, r1: u8, next: u16) {
        let address = self.next_address(next);
        match self.addressing_mode() {
            AddressingMode::Bits64 => self.set_gr(r1, address),
            AddressingMode::Bits31 => self.set_gr32(r1, address as u32 | 0x8000_0000),
            AddressingMode::Bits24 => self.set_gr32(r1, address as u32),
        }
    }

    /// Whether the CPU is in the problem state.
    #[inline(always)]
    pub fn problem_state(&self) -> bool {
        self.psw_mask & psw_bits::PROBLEM != 0
    }

    /// The PSW key, 0 to 15.
    #[inline(always)]
    pub fn psw_key(&self) -> u8 {
        (self.psw_mask >> 52 & 15) as u8
    }

    /// The translation mode.
    pub fn psw_address_space(&self) -> AddressSpace {
        Psw { mask: self.psw_mask, address: 0 }.address_space()
    }

    /// PSW bits 0-63 with the condition code.
    pub fn psw_mask(&self) -> u64 {
        self.psw_mask | (self.cc as u64) << 44
    }

    /// Replaces PSW bits 0-63 (including the condition code). The caller returns
    /// [`Leave::Serialize`] or [`Leave::NewPsw`].
    pub fn set_psw_mask(&mut self, mask: u64) {
        self.cc = (mask >> 44 & 3) as u8;
        self.psw_mask = mask & !psw_bits::CC;
        self.address_mask =
            Psw { mask, address: 0 }.addressing_mode().unwrap_or(AddressingMode::Bits64).mask();
        self.select_banks();
    }

    /// Sets the I/O and external masks (PSW bits 6 and 7, here bits 1 and 0 of `masks`), on which nothing
    /// decoded or cached depends. Leaves the block when an interruption may have to be taken.
    #[inline(always)]
    pub fn set_interruption_masks(&mut self, masks: u8) -> Flow {
        self.psw_mask = self.psw_mask & !(psw_bits::IO | psw_bits::EXTERNAL) | (masks as u64) << 56;
        if masks != 0 && (self.masked_pending || self.shared.attention.load(Ordering::Relaxed) != 0) {
            return Err(Leave::Serialize);
        }
        Ok(())
    }

    /// Sets the program mask (PSW bits 20-23), which nothing that is decoded or cached depends on.
    pub fn set_program_mask(&mut self, mask: u8) {
        self.psw_mask = self.psw_mask & !psw_bits::PROGRAM_MASK | (mask as u64 & 15) << 40;
    }

    /// The program mask: fixed-point overflow, decimal overflow, HFP underflow, HFP significance.
    pub fn program_mask(&self) -> u8 {
        (self.psw_mask >> 40 & 15) as u8
    }

    /// The PSW between instructions.
    pub fn psw(&self) -> Psw {
        Psw { mask: self.psw_mask(), address: self.ia }
    }

    /// Loads a whole PSW without checking it. The caller returns [`Leave::NewPsw`].
    pub fn set_psw(&mut self, psw: Psw) {
        self.ia = psw.address;
        self.set_psw_mask(psw.mask);
    }

    /// Ends an add or subtract: condition code 3 and, when the mask is one, a fixed-point-overflow
    /// exception (the operation is completed).
    #[inline(always)]
    pub fn overflow(&mut self) -> Flow {
        self.cc = 3;
        if self.psw_mask & psw_bits::FIXED_POINT_OVERFLOW != 0 {
            return Err(ProgramCode::FixedPointOverflow.into());
        }
        Ok(())
    }

    /// Accounts for an instruction that processed `bytes`, as if instructions had done it with eight each:
    /// a slice of the longest ones would keep attention and time waiting for seconds.
    pub(crate) fn charge(&mut self, bytes: u64) {
        self.budget -= (bytes / 8) as i64;
    }

    /// A data exception with its DXC.
    pub fn data_exception(&mut self, dxc: u8) -> Leave {
        self.exception = ProgramInterruption::data(dxc);
        Leave::Program(ProgramCode::Data)
    }

    /// A monitor event with class and code.
    pub fn monitor_event(&mut self, class: u16, code: u64) -> Leave {
        self.exception = ProgramInterruption {
            monitor: Some((class, code)),
            ..ProgramInterruption::new(ProgramCode::MonitorEvent)
        };
        Leave::Program(ProgramCode::MonitorEvent)
    }

    /// Hands the instruction to the VMM.
    pub fn exit(&mut self, exit: Exit) -> Flow {
        self.exit = Some(exit);
        Err(Leave::Exit)
    }

    /// Whether facility `bit` is installed.
    pub fn facility(&self, bit: u16) -> bool {
        self.facilities.bit(bit)
    }

    /// The facility list.
    pub fn facility_list(&self) -> &FacilityList {
        &self.facilities
    }

    /// Guest storage, for control instructions that name absolute blocks.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Prefixing.
    pub fn real_to_absolute(&self, real: u64) -> AbsoluteAddress {
        RealAddress(real).absolute(self.prefix)
    }

    /// The prefix register.
    pub fn prefix(&self) -> u64 {
        self.prefix
    }

    /// Sets the prefix register (an 8K-byte multiple). The caller returns [`Leave::Serialize`].
    pub fn set_prefix(&mut self, prefix: u64) {
        self.prefix = prefix & 0x7fff_e000;
        self.purge_tlb();
    }

    /// The CPU address.
    pub fn cpu_address(&self) -> u16 {
        self.shared.address
    }

    /// The CPU model's data.
    pub fn model(&self) -> &crate::CpuModel {
        &self.complex.model
    }

    /// Purges this CPU's translations. The caller returns [`Leave::Serialize`].
    pub fn purge_tlb(&mut self) {
        self.tlb.purge();
        self.select_banks();
    }

    /// Purges the translations of every CPU and returns when none uses an old one any more (IPTE, IDTE,
    /// CSP, key changes). The caller returns [`Leave::Serialize`].
    pub fn purge_all_tlbs(&mut self) {
        self.purge_tlb();
        let complex = self.complex.clone();
        complex.purge_others(self);
    }

    /// Control register `r` changed: what depends on it follows. The caller returns
    /// [`Leave::Serialize`].
    pub fn control_registers_changed(&mut self, changed: u16) {
        if changed & 1 << 15 != 0 {
            // Low-address protection, EDAT, key-protection overrides and so on are in CR0.
            self.tlb.purge();
        }
        self.select_banks();
    }

    /// Serialization: what this CPU stored is visible before anything it fetches afterwards.
    pub fn serialize(&self) {
        fence(Ordering::SeqCst);
    }

    /// Serialization of instruction fetching too: what another CPU stored into code before this point is
    /// executed as changed, although this block was decoded from what was there before.
    pub(crate) fn serialize_code(&self) -> Flow {
        self.serialize();
        match self.shared.attention.load(Ordering::Relaxed) & crate::complex::attention::CODE {
            0 => Ok(()),
            _ => Err(Leave::Serialize),
        }
    }

    /// A copy of every register.
    pub(crate) fn registers(&self) -> VcpuState {
        let mut gr = [0; 16];
        gr.copy_from_slice(&self.gr[..16]);
        VcpuState {
            psw: self.psw(),
            gr,
            ar: self.ar,
            cr: self.cr,
            fpr: self.fpr,
            fpc: self.fpc,
            prefix: self.prefix,
        }
    }

    pub(crate) fn set_registers(&mut self, state: &VcpuState) {
        self.gr[..16].copy_from_slice(&state.gr);
        self.ar = state.ar;
        self.cr = state.cr;
        self.fpr = state.fpr;
        self.fpc = state.fpc;
        self.prefix = state.prefix & 0x7fff_e000;
        self.tlb.purge();
        self.set_psw(state.psw);
    }

    /// CPU reset and initial CPU reset (chapter 4, *Resets*).
    pub(crate) fn reset_registers(&mut self, kind: ResetKind) {
        self.exit = None;
        self.execute_next = None;
        self.reported_wait = false;
        if kind != ResetKind::Normal {
            self.cr = [0; 16];
            self.cr[0] = 0xe0;
            self.cr[14] = 0xc200_0000;
            self.prefix = 0;
            self.fpc = 0;
            self.clock_comparator = 0;
            self.cpu_timer_end = self.tod();
            self.tod_programmable = 0;
            self.breaking_event = 1;
            self.ia = 0;
        }
        if kind == ResetKind::Clear {
            self.gr = [0; 32];
            self.ar = [0; 16];
            self.fpr = [0; 16];
        }
        self.tlb.purge();
        let mask = if kind == ResetKind::Normal { self.psw_mask() } else { 0 };
        self.set_psw_mask(mask);
    }
}

impl Vcpu for Cpu {
    fn address(&self) -> u16 {
        self.shared.address
    }

    fn run(&mut self) -> Result<Exit, machine::Error> {
        Ok(self.run_until_exit())
    }

    fn finish(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Resume => {}
            Outcome::ConditionCode(cc) => self.cc = cc & 3,
            Outcome::Program(interruption) => {
                self.exception = interruption;
                self.ia = self.trim(self.ia.wrapping_sub(self.ilc as u64));
                self.program_interruption(interruption.code);
            }
        }
    }

    fn gr(&self, r: u8) -> u64 {
        Cpu::gr(self, r)
    }

    fn set_gr(&mut self, r: u8, value: u64) {
        Cpu::set_gr(self, r, value);
    }

    fn psw(&self) -> Psw {
        Cpu::psw(self)
    }

    fn state(&self) -> VcpuState {
        self.registers()
    }

    fn set_state(&mut self, state: &VcpuState) {
        self.set_registers(state);
    }

    fn set_operating(&mut self, operating: bool) {
        self.shared.set_operating(operating);
        self.reported_wait = false;
    }

    fn reset(&mut self, kind: ResetKind) {
        self.shared.clear_pending();
        self.reset_registers(kind);
    }

    fn fetch(&mut self, from: Operand, buffer: &mut [u8]) -> Result<(), ProgramInterruption> {
        self.catch_up();
        self.fetch_bytes(from, buffer).map_err(|leave| self.interruption_of(leave))
    }

    fn store(&mut self, to: Operand, bytes: &[u8]) -> Result<(), ProgramInterruption> {
        self.catch_up();
        self.store_bytes(to, bytes).map_err(|leave| self.interruption_of(leave))
    }

    fn probe_store(&mut self, to: Operand, length: u64) -> Result<(), ProgramInterruption> {
        self.catch_up();
        self.probe_bytes(to, length, crate::access::Access::Store)
            .map_err(|leave| self.interruption_of(leave))
    }

    fn absolute(&self, real: RealAddress) -> AbsoluteAddress {
        real.absolute(self.prefix)
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        self.shared.set_gone();
    }
}

impl Cpu {
    /// Translations that other CPUs wanted purged while this one was with the VMM are not used for its
    /// operands any more.
    fn catch_up(&mut self) {
        use crate::complex::attention::{FORBID_STORES, PURGE};
        if self.shared.attention.load(Ordering::SeqCst) & (PURGE | FORBID_STORES) != 0 {
            self.tlb.purge();
        }
    }

    /// The interruption behind a [`Leave`] of a storage access.
    pub(crate) fn interruption_of(&self, leave: Leave) -> ProgramInterruption {
        match leave {
            Leave::Program(code) if self.exception.code == code => self.exception,
            Leave::Program(code) => code.into(),
            other => unreachable!("a storage access ends with an exception or not at all: {other:?}"),
        }
    }
}
