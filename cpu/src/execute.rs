//! Decoding into blocks and executing them.
//!
//! A block is a run of operations inside one 4K-byte page, decoded once and kept by absolute address
//! and mode bits. Each operation holds its handler and its operands; a handler runs its semantic
//! function and then calls the next handler in tail position, so that control returns to the loop only
//! when a block is left. (Where the compiler does not make a jump of that call the depth is bounded by
//! the length of a block.) A branch that stays inside its page is linked to the block it leads to; all
//! others go through a cache by virtual address. Links never leave a page, so dropping the blocks of a
//! page drops every link to them.
//!
//! This is one of the modules that may contain `unsafe`.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::Ordering;

use zarch::{PAGE_SIZE, ProgramCode};

use crate::format::{At, Format, Operands, Raw};
use crate::table::{self, Flags, Row};
use crate::{Cpu, Flow, Leave};

/// A decoded operation's code. It returns when the block is left, with the reason in the CPU's `leave`:
/// with nothing to return, the call of the next handler can be a jump.
pub(crate) type Handler = fn(&mut Cpu, *const Op);
/// Puts an instruction's operands into an operation.
pub(crate) type Extract = fn(Raw, At, &mut [u64; 2]);

/// Longest block, in operations.
const BLOCK: usize = 64;
const JUMP_CACHE: usize = 4096;
/// Operations kept (160 MiB). A guest may enter its code at every halfword, and each entry is a block.
const CODE_LIMIT: usize = 4 << 20;
/// In each half: one for targets of EXECUTE, one for instructions that cross a page, which may be EXECUTE.
const EXECUTE_CACHE: usize = 512;
/// Time is looked at when this many instructions have been executed (a few tens of microseconds).
pub(crate) const TIME_SLICE: i64 = 20_000;
/// With more than one CPU, the others may be waiting for attention to be served.
pub(crate) const TIME_SLICE_OF_MANY: i64 = 4_000;

/// One decoded operation.
#[repr(C)]
pub(crate) struct Op {
    run: Cell<Handler>,
    /// The block that the taken branch (or the end of the block) leads to, when inside the page.
    link: Cell<*const Op>,
    operands: [u64; 2],
    /// Offset in the page.
    offset: u16,
    /// Length in bytes; zero when only execution tells.
    length: u8,
    /// Operations before this one in the block.
    index: u8,
    /// The absolute block number of the page it was decoded from, shifted left by one; the rightmost bit
    /// says whether the branch may be linked. (Storage is far below 2^43 bytes.)
    home: u32,
}

impl Op {
    /// Whether the branch may be linked.
    #[inline(always)]
    fn relative(&self) -> bool {
        self.home & 1 != 0
    }

    /// Remembers that `block` follows, if it is of the same page. Virtual addresses cannot tell: the page
    /// may have been mapped elsewhere since this operation was decoded, or even while its block runs.
    fn set_link(&self, block: *const Op) {
        // SAFETY: a block that was just found lives and has a first operation.
        if unsafe { (*block).home } >> 1 == self.home >> 1 {
            self.link.set(block);
        }
    }
}

/// A block. The rest of the engine knows it by the address of its first operation, which stays.
struct Block {
    ops: Box<[Op]>,
    /// Absolute address and mode bits.
    key: u64,
}

/// Copies the operands of `raw` in format `T` into an operation.
pub(crate) fn extract<T: Format>(raw: Raw, at: At, to: &mut [u64; 2]) {
    const { assert!(size_of::<T::Operands>() <= 16 && align_of::<T::Operands>() <= 8) };
    let operands = T::extract(raw, at);
    // SAFETY: `to` is 16 bytes with alignment 8, and the assertion above says that the operands fit.
    unsafe { std::ptr::from_mut(to).cast::<T::Operands>().write(operands) }
}

/// The handler of semantic function `function`, whose type alone identifies it.
pub(crate) fn handler<O: Operands, F: Fn(&mut Cpu, O) -> Flow + Copy + 'static>(function: F) -> Handler {
    const { assert!(size_of::<F>() == 0, "a plain function, not a closure with captures") };
    let _ = function;
    |cpu, op| threaded::<O, F>(cpu, op)
}

/// The semantic function and operands of an operation.
#[inline(always)]
fn parts<O: Operands, F: Copy + 'static>(op: *const Op) -> (F, O) {
    // SAFETY: F has no size (asserted by `handler`) and `handler` was given a value of it, so reading one
    // reads nothing.
    let function: F = unsafe { std::ptr::NonNull::<F>::dangling().read() };
    // SAFETY: `op` is an operation of a block that `Code` keeps until the loop is reached again, and
    // its operands were written by `extract` for this O.
    let operands = unsafe { (*op).operands.as_ptr().cast::<O>().read() };
    // SAFETY: `extract` made the operands, whose register numbers are nibbles of the instruction.
    unsafe { std::hint::assert_unchecked(operands.is_valid()) };
    (function, operands)
}

/// Goes on with the operation behind `op`. By itself the handler of a branch that the block follows.
#[inline(always)]
fn next(cpu: &mut Cpu, op: *const Op) {
    let next = op.wrapping_add(1);
    // SAFETY: every block ends with an operation that leaves, so there is a next one.
    let run = unsafe { (*next).run.get() };
    run(cpu, next)
}

/// Leaves the block at `op`.
#[inline(always)]
fn leave_at(cpu: &mut Cpu, op: *const Op, leave: Leave) {
    cpu.current = op;
    cpu.leave = leave;
}

#[inline(always)]
fn threaded<O: Operands, F: Fn(&mut Cpu, O) -> Flow + Copy + 'static>(cpu: &mut Cpu, op: *const Op) {
    let (function, operands) = parts::<O, F>(op);
    debug_assert!(!cpu.careful);
    // SAFETY: `execute` turns `careful` off, and `carefully` turns it off again before anything else runs.
    unsafe { std::hint::assert_unchecked(!cpu.careful) };
    match function(cpu, operands) {
        Ok(()) => next(cpu, op),
        Err(Leave::Miss) => carefully::<O, F>(cpu, op),
        Err(leave) => leave_at(cpu, op, leave),
    }
}

/// Runs an operation whose fast way ended with a miss.
#[cold]
#[inline(never)]
fn carefully<O: Operands, F: Fn(&mut Cpu, O) -> Flow + Copy + 'static>(cpu: &mut Cpu, op: *const Op) {
    let (function, operands) = parts::<O, F>(op);
    cpu.careful = true;
    let flow = function(cpu, operands);
    cpu.careful = false;
    match flow {
        Ok(()) => next(cpu, op),
        Err(Leave::Relative) => {
            cpu.ia = cpu.trim(cpu.page_base.wrapping_add(operands.target() as u64));
            leave_at(cpu, op, Leave::Branch)
        }
        Err(leave) => leave_at(cpu, op, leave),
    }
}

/// The handler of a branch.
pub(crate) fn branch_handler<O: Operands, F: Fn(&mut Cpu, O) -> Flow + Copy + 'static>(
    function: F,
) -> Handler {
    const { assert!(size_of::<F>() == 0, "a plain function, not a closure with captures") };
    let _ = function;
    |cpu, op| threaded_branch::<O, F>(cpu, op)
}

/// The handlers of a branch with a mask, by [`Operands::variant`].
pub(crate) fn branch_variants<O: Operands, F: Fn(&mut Cpu, O) -> Flow + Copy + 'static>(
    _: F,
) -> [Handler; 16] {
    macro_rules! variants {
        ($($number:literal)*) => { [$(variant::<O, F, $number, true>),*] };
    }
    variants!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
}

/// Like `branch_handler`, for a branch back to the start of its block that stands between two copies of the
/// block's body: taken, it goes on with the operation behind it.
pub(crate) fn inverted_handler<O: Operands, F: Fn(&mut Cpu, O) -> Flow + Copy + 'static>(_: F) -> Handler {
    |cpu, op| threaded_inverted::<O, F>(cpu, op)
}

/// [`inverted_handler`] by [`Operands::variant`].
pub(crate) fn inverted_variants<O: Operands, F: Fn(&mut Cpu, O) -> Flow + Copy + 'static>(
    _: F,
) -> [Handler; 16] {
    macro_rules! variants {
        ($($number:literal)*) => { [$(inverted_variant::<O, F, $number>),*] };
    }
    variants!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
}

/// `threaded_inverted` of operations whose variant is `NUMBER`.
fn inverted_variant<O, F, const NUMBER: u8>(cpu: &mut Cpu, op: *const Op)
where
    O: Operands,
    F: Fn(&mut Cpu, O) -> Flow + Copy + 'static,
{
    let (_, operands) = parts::<O, F>(op);
    debug_assert!(operands.variant() == NUMBER);
    // SAFETY: `decode` chose this handler by the variant.
    unsafe { std::hint::assert_unchecked(operands.variant() == NUMBER) };
    threaded_inverted::<O, F>(cpu, op)
}

#[inline(always)]
fn threaded_inverted<O: Operands, F: Fn(&mut Cpu, O) -> Flow + Copy + 'static>(cpu: &mut Cpu, op: *const Op) {
    let (function, operands) = parts::<O, F>(op);
    debug_assert!(!cpu.careful);
    // SAFETY: as in `threaded`.
    unsafe { std::hint::assert_unchecked(!cpu.careful) };
    match function(cpu, operands) {
        Err(Leave::Relative) => next(cpu, op),
        Ok(()) => {
            // SAFETY: as in `parts`.
            let (link, offset, length) = unsafe { ((*op).link.get(), (*op).offset, (*op).length) };
            if !link.is_null() && chain(cpu, op) {
                // SAFETY: a link leads to the first operation of a block of the same page.
                let run = unsafe { (*link).run.get() };
                return run(cpu, link);
            }
            cpu.ia = cpu.trim(cpu.page_base.wrapping_add(offset as u64 + length as u64));
            jump(cpu, op)
        }
        Err(leave) => leave_at(cpu, op, leave),
    }
}

/// The handlers of an instruction with an indexed operand: without and with index.
pub(crate) fn index_variants<O: Operands, F: Fn(&mut Cpu, O) -> Flow + Copy + 'static>(_: F) -> [Handler; 2] {
    [variant::<O, F, 0, false>, variant::<O, F, 1, false>]
}

/// The handler of operations whose variant is `NUMBER`.
fn variant<O, F, const NUMBER: u8, const BRANCH: bool>(cpu: &mut Cpu, op: *const Op)
where
    O: Operands,
    F: Fn(&mut Cpu, O) -> Flow + Copy + 'static,
{
    let (_, operands) = parts::<O, F>(op);
    debug_assert!(operands.variant() == NUMBER);
    // SAFETY: `decode` chose this handler by the variant.
    unsafe { std::hint::assert_unchecked(operands.variant() == NUMBER) };
    if BRANCH { threaded_branch::<O, F>(cpu, op) } else { threaded::<O, F>(cpu, op) }
}

/// Like `threaded`; a taken branch whose target is known goes on there at once. How deep that nests where
/// the compiler makes no jump of it is bounded by `budget`; with debug assertions it does not nest.
#[inline(always)]
fn threaded_branch<O: Operands, F: Fn(&mut Cpu, O) -> Flow + Copy + 'static>(cpu: &mut Cpu, op: *const Op) {
    let (function, operands) = parts::<O, F>(op);
    debug_assert!(!cpu.careful);
    // SAFETY: as in `threaded`.
    unsafe { std::hint::assert_unchecked(!cpu.careful) };
    match function(cpu, operands) {
        Ok(()) => next(cpu, op),
        Err(Leave::Relative) => {
            // SAFETY: as in `parts`.
            let link = unsafe { (*op).link.get() };
            if !link.is_null() && chain(cpu, op) {
                // SAFETY: a link leads to the first operation of a block of the same page.
                let run = unsafe { (*link).run.get() };
                return run(cpu, link);
            }
            cpu.ia = cpu.trim(cpu.page_base.wrapping_add(operands.target() as u64));
            jump(cpu, op)
        }
        Err(Leave::Branch) => jump(cpu, op),
        Err(Leave::Miss) => carefully::<O, F>(cpu, op),
        Err(leave) => leave_at(cpu, op, leave),
    }
}

/// Whether another block may follow without going through the loop; then accounts for the one that `op`
/// ends. Attention is not looked at: the slice that `budget` is a part of is short.
#[inline(always)]
fn chain(cpu: &mut Cpu, op: *const Op) -> bool {
    // SAFETY: as in `parts`.
    let index = unsafe { (*op).index };
    let left = cpu.budget - (index as i64 + 1);
    if cfg!(debug_assertions) || left <= 0 {
        return false;
    }
    cpu.budget = left;
    true
}

/// Goes on at `ia` when the block there is remembered, else leaves with [`Leave::Branch`].
fn jump(cpu: &mut Cpu, op: *const Op) {
    let jump = cpu.code.jumps[jump_slot(cpu.ia)];
    if jump.address == cpu.ia && jump.context == cpu.context && chain(cpu, op) {
        let base = cpu.ia & !(PAGE_SIZE - 1);
        // SAFETY: as in `parts`.
        let op = unsafe { &*op };
        if op.relative() && base == cpu.page_base && cpu.code.dropped.is_empty() {
            op.set_link(jump.block);
        }
        cpu.page_base = base;
        // SAFETY: a remembered jump leads to the first operation of a block that `Code` keeps.
        let run = unsafe { (*jump.block).run.get() };
        return run(cpu, jump.block);
    }
    leave_at(cpu, op, Leave::Branch)
}

macro_rules! leaving {
    ($($(#[$doc:meta])* $name:ident($cpu:ident) $leave:expr;)*) => {
        $($(#[$doc])* fn $name($cpu: &mut Cpu, op: *const Op) {
            $cpu.current = op;
            $cpu.leave = $leave;
        })*
    };
}

leaving! {
    /// Behind the last instruction of a block.
    block_end(_cpu) Leave::BlockEnd;
    /// Put in place of every operation of a dropped block.
    stale(_cpu) Leave::Stale;
    operation_exception(_cpu) ProgramCode::Operation.into();
    privileged_operation(_cpu) ProgramCode::PrivilegedOperation.into();
    specification(_cpu) ProgramCode::Specification.into();
    afp_register(cpu) cpu.data_exception(1);
    bfp_instruction(cpu) cpu.data_exception(2);
}

/// An instruction that reaches into the next page: fetched and decoded at each execution, since either
/// page may have changed or be mapped elsewhere.
fn crossing(cpu: &mut Cpu, op: *const Op) {
    // SAFETY: as in `threaded`.
    let offset = unsafe { (*op).offset };
    let address = cpu.page_base.wrapping_add(offset as u64);
    cpu.ilc = UNKNOWN_LENGTH;
    let leave = match cpu.fetch_instruction(address) {
        Ok(raw) => {
            let raw = Raw(raw);
            cpu.ilc = raw.length();
            match cpu.run_single(raw, offset, EXECUTE_CACHE) {
                Ok(()) => {
                    cpu.ia = cpu.trim(address.wrapping_add(raw.length() as u64));
                    Leave::Branch
                }
                Err(leave) => leave,
            }
        }
        Err(leave) => leave,
    };
    cpu.current = op;
    cpu.leave = leave;
}

/// Repeats a loop's body, which `ops` is and whose last operation branches back to the first, as often as
/// half a block takes: the branches between the copies then cost no more than any operation.
fn unroll(ops: &mut Vec<Op>, inverted: Handler) {
    let body = ops.len();
    let branch = ops[body - 1].run.get();
    while ops.len() + body <= BLOCK / 2 {
        ops[ops.len() - 1].run.set(inverted);
        for n in ops.len() - body..ops.len() {
            let copy = Op { run: ops[n].run.clone(), link: Cell::new(std::ptr::null()), ..ops[n] };
            ops.push(copy);
        }
        ops[ops.len() - 1].run.set(branch);
    }
}

/// Decodes `raw` in the mode `mode`: checks that fail become operations that raise their exception.
fn decode(raw: Raw, at: At, mode: Mode, facilities: &zarch::FacilityList) -> (Op, Option<&'static Row>) {
    let mut op = Op {
        run: Cell::new(operation_exception),
        link: Cell::new(std::ptr::null()),
        operands: [0; 2],
        offset: at.offset,
        length: at.length,
        index: 0,
        home: 0,
    };
    let Some(row) = table::find(raw).filter(|row| facilities.has(row.facility)) else {
        return (op, None);
    };
    op.run.set(failing_check(row, raw, mode).unwrap_or_else(|| row.exec.handler(raw)));
    (row.exec.extract)(raw, at, &mut op.operands);
    op.home = row.exec.relative as u32;
    (op, Some(row))
}

/// The checks that a row asks for, in the order of chapter 6, *Priority of Program-Interruption
/// Conditions*.
fn failing_check(row: &Row, raw: Raw, mode: Mode) -> Option<Handler> {
    let flags = row.flags;
    if flags.any(Flags::PRIVILEGED) && mode.problem {
        return Some(privileged_operation);
    }
    let registers = row.registers(raw);
    let odd = |flag, n: usize| flags.any(flag) && registers[n] & 1 != 0;
    if odd(Flags::EVEN_R1, 0) || odd(Flags::EVEN_R2, 1) || odd(Flags::EVEN_R3, 2) {
        return Some(specification);
    }
    if !mode.afp {
        if flags.any(Flags::BFP) {
            return Some(bfp_instruction);
        }
        let additional = |flag, n: usize| flags.any(flag) && registers[n] & 9 != 0;
        if additional(Flags::FPR_R1, 0) || additional(Flags::FPR_R2, 1) || additional(Flags::FPR_R3, 2) {
            return Some(afp_register);
        }
    }
    let pair = |flag, n: usize| flags.any(flag) && registers[n] & 2 != 0;
    if pair(Flags::FPAIR_R1, 0) || pair(Flags::FPAIR_R2, 1) {
        return Some(specification);
    }
    None
}

/// The mode bits that decoded operations depend on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    problem: bool,
    afp: bool,
}

impl Mode {
    fn bits(self) -> u64 {
        self.problem as u64 | (self.afp as u64) << 1
    }
}

/// Multiplies and folds: keys are page addresses with mode bits.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(*byte as u64);
        }
    }
    fn write_u64(&mut self, value: u64) {
        let product = (self.0 ^ value) as u128 * 0x9e37_79b9_7f4a_7c15;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}

type AddressMap<T> = HashMap<u64, T, BuildHasherDefault<AddressHasher>>;

#[derive(Clone, Copy)]
struct Jump {
    address: u64,
    context: u64,
    block: *const Op,
}

/// The length stored with an exception that kept the instruction from being fetched: the manual asks for
/// 1, 2 or 3 halfwords (chapter 6, *Instruction-Length Code*); QEMU also says one.
const UNKNOWN_LENGTH: u8 = 2;
/// Equal to no context of a remembered jump.
const NO_CONTEXT: u64 = u64::MAX;
/// Its context is not even `NO_CONTEXT`: an executed branch may have any target, also an odd one.
const NO_JUMP: Jump = Jump { address: 1, context: NO_CONTEXT - 1, block: std::ptr::null() };

struct Executed {
    raw: Raw,
    offset: u16,
    mode: u64,
    ops: Box<[Op; 2]>,
}

/// Decoded code of one CPU.
pub(crate) struct Code {
    /// By absolute address and mode bits (in bits 62 and 63; instructions are at even addresses below
    /// 2^62).
    blocks: AddressMap<*const Op>,
    pages: AddressMap<Vec<Block>>,
    /// In all blocks.
    operations: usize,
    jumps: Box<[Jump; JUMP_CACHE]>,
    executed: Vec<Option<Executed>>,
    /// Dropped blocks that may still be executing.
    dropped: Vec<Block>,
}

impl Code {
    pub(crate) fn new() -> Self {
        Self {
            blocks: AddressMap::default(),
            pages: AddressMap::default(),
            operations: 0,
            jumps: Box::new([NO_JUMP; JUMP_CACHE]),
            executed: (0..2 * EXECUTE_CACHE).map(|_| None).collect(),
            dropped: Vec::new(),
        }
    }

    /// Forgets blocks that no page holds any more; they live on until nothing can be executing them.
    fn discard(&mut self, blocks: Vec<Block>) {
        self.jumps.fill(NO_JUMP);
        for block in &blocks {
            self.blocks.remove(&block.key);
            self.operations -= block.ops.len();
            for op in block.ops.iter() {
                op.run.set(stale);
            }
        }
        self.dropped.extend(blocks);
    }
}

#[inline(always)]
fn jump_slot(address: u64) -> usize {
    (address >> 1 ^ address >> 13) as usize & (JUMP_CACHE - 1)
}

impl Cpu {
    fn mode(&self) -> Mode {
        Mode { problem: self.problem_state(), afp: self.cr[0] & 1 << (63 - 45) != 0 }
    }

    /// What a remembered virtual address of a block depends on: the translations and the mode.
    fn code_context(&self) -> u64 {
        self.tlb.code_id() << 2 | self.mode().bits()
    }

    /// The decoded code of page `page` (a block number) is no longer good.
    pub(crate) fn drop_code(&mut self, page: u64) {
        if let Some(blocks) = self.code.pages.remove(&page) {
            self.code.discard(blocks);
        }
    }

    /// Executes until something has to be done outside: an exception, an exit, attention, time.
    /// On return `ia` is where to go on, and for exceptions the address of the instruction, with its
    /// length in `ilc`.
    pub(crate) fn execute(&mut self) -> Leave {
        self.careful = false;
        let leave = self.execute_blocks();
        self.careful = true;
        leave
    }

    fn execute_blocks(&mut self) -> Leave {
        self.code.dropped.clear();
        self.context = self.code_context();
        let mut block = match self.find_block() {
            Ok(block) => block,
            Err(leave) => return leave,
        };
        loop {
            if self.shared.attention.load(Ordering::Relaxed) != 0 || self.budget <= 0 {
                // SAFETY: blocks live until they are dropped and `dropped` is cleared, above.
                let offset = unsafe { (*block).offset };
                self.ia = self.page_base.wrapping_add(offset as u64);
                return Leave::Serialize;
            }
            // SAFETY: as above; a block has at least one operation.
            let run = unsafe { (*block).run.get() };
            run(self, block);
            let leave = self.leave;
            // SAFETY: `current` is the operation that left, of a block that still lives.
            let op = unsafe { &*self.current };
            match leave {
                Leave::Branch => {
                    self.budget -= op.index as i64 + 1;
                    let link = op.link.get();
                    if !link.is_null() {
                        block = link;
                        continue;
                    }
                    let here = self.page_base;
                    block = match self.find_block() {
                        Ok(block) => block,
                        Err(leave) => return leave,
                    };
                    if op.relative() && here == self.page_base && self.code.dropped.is_empty() {
                        op.set_link(block);
                    }
                }
                Leave::BlockEnd => {
                    self.budget -= op.index as i64;
                    let link = op.link.get();
                    if !link.is_null() {
                        block = link;
                        continue;
                    }
                    let here = self.page_base;
                    self.ia = self.trim(here.wrapping_add(op.offset as u64));
                    block = match self.find_block() {
                        Ok(block) => block,
                        Err(leave) => return leave,
                    };
                    if here == self.page_base && self.code.dropped.is_empty() {
                        op.set_link(block);
                    }
                }
                Leave::Stale => {
                    self.budget -= op.index as i64;
                    self.ia = self.trim(self.page_base.wrapping_add(op.offset as u64));
                    self.code.dropped.clear();
                    self.context = self.code_context();
                    block = match self.find_block() {
                        Ok(block) => block,
                        Err(leave) => return leave,
                    };
                }
                Leave::NewPsw => {
                    self.budget -= op.index as i64 + 1;
                    return leave;
                }
                _ => {
                    let address = self.page_base.wrapping_add(op.offset as u64);
                    if op.length != 0 {
                        self.ilc = op.length;
                    }
                    self.budget -= op.index as i64 + 1;
                    self.ia = match leave {
                        Leave::Serialize | Leave::Exit | Leave::SupervisorCall(_) => {
                            self.trim(address.wrapping_add(self.ilc as u64))
                        }
                        _ => address,
                    };
                    return leave;
                }
            }
        }
    }

    /// The block at the instruction address.
    #[inline(always)]
    fn find_block(&mut self) -> Result<*const Op, Leave> {
        let address = self.ia;
        let jump = &self.code.jumps[jump_slot(address)];
        if jump.address == address && jump.context == self.context {
            self.page_base = address & !(PAGE_SIZE - 1);
            return Ok(jump.block);
        }
        self.find_block_slow()
    }

    #[inline(never)]
    fn find_block_slow(&mut self) -> Result<*const Op, Leave> {
        let address = self.ia;
        self.page_base = address & !(PAGE_SIZE - 1);
        if address & 1 != 0 {
            self.ilc = UNKNOWN_LENGTH;
            return Err(ProgramCode::Specification.into());
        }
        let absolute = self.instruction_absolute(address).inspect_err(|_| self.ilc = UNKNOWN_LENGTH)?;
        let mode = self.mode();
        let key = absolute | mode.bits() << 62;
        let block = match self.code.blocks.get(&key) {
            Some(block) => *block,
            None => self.build(address, absolute, mode),
        };
        self.code.jumps[jump_slot(address)] = Jump { address, context: self.context, block };
        Ok(block)
    }

    /// Decodes the block at `absolute`.
    fn build(&mut self, address: u64, absolute: u64, mode: Mode) -> *const Op {
        let page = absolute / PAGE_SIZE;
        if self.code.operations > CODE_LIMIT {
            let pages = std::mem::take(&mut self.code.pages);
            self.code.discard(pages.into_values().flatten().collect());
        }
        let complex = self.complex.clone();
        complex.begin_marking();
        if self.storage.mark_code(page) || complex.others_mark() {
            // From now on a store into the page must be noticed, by every CPU. Another CPU that marks it
            // at this moment may not have come that far.
            let host = self.storage.host_base() as u64 + page * PAGE_SIZE;
            self.tlb.forbid_stores(host);
            complex.forbid_stores_of_others(self);
        }
        complex.end_marking();
        let virtual_time = self.clock.is_virtual();
        let mut offset = (address % PAGE_SIZE) as usize;
        let start = offset as i64;
        let mut ops: Vec<Op> = Vec::with_capacity(16);
        let mut bytes = [0u8; PAGE_SIZE as usize];
        let read = self.storage.read(zarch::AbsoluteAddress(page * PAGE_SIZE), &mut bytes);
        assert!(read.is_ok(), "the page was just translated to");
        let special = |offset: usize, run: Handler| Op {
            run: Cell::new(run),
            link: Cell::new(std::ptr::null()),
            operands: [0; 2],
            offset: offset as u16,
            length: 0,
            index: 0,
            home: 0,
        };
        loop {
            if offset >= PAGE_SIZE as usize || ops.len() == BLOCK {
                ops.push(special(offset, block_end));
                break;
            }
            let mut raw = [0u8; 8];
            let left = (PAGE_SIZE as usize - offset).min(6);
            raw[..left].copy_from_slice(&bytes[offset..offset + left]);
            let raw = Raw(u64::from_be_bytes(raw));
            let length = raw.length();
            if length as usize > left {
                ops.push(special(offset, crossing));
                break;
            }
            let (op, row) = decode(raw, At { offset: offset as u16, length }, mode, &self.facilities);
            let timing = virtual_time && row.is_some_and(|r| r.flags.any(Flags::TIMING));
            if timing && !ops.is_empty() {
                ops.push(special(offset, block_end));
                break;
            }
            let at = At { offset: offset as u16, length };
            let ends = timing || row.is_none_or(|r| r.ends_block(raw));
            ops.push(op);
            // An unconditional branch inside the page: the block goes on at its target.
            if let Some(target) = row.filter(|_| ends && !timing).and_then(|r| r.exec.always_to(raw, at))
                && (0..PAGE_SIZE as i64).contains(&target)
            {
                ops[ops.len() - 1].run.set(next);
                offset = target as usize;
                continue;
            }
            if let Some(inverted) = row.and_then(|r| r.exec.inverted(raw))
                && row.is_some_and(|r| r.exec.target(raw, at) == start)
            {
                unroll(&mut ops, inverted);
            }
            offset += length as usize;
            if ends {
                ops.push(special(offset, block_end));
                break;
            }
        }
        for (n, op) in ops.iter_mut().enumerate() {
            op.index = n as u8;
            op.home |= (page as u32) << 1;
        }
        let key = absolute | mode.bits() << 62;
        let block = Block { ops: ops.into_boxed_slice(), key };
        let pointer = block.ops.as_ptr();
        self.code.operations += block.ops.len();
        self.code.blocks.insert(key, pointer);
        self.code.pages.entry(page).or_default().push(block);
        pointer
    }

    /// Executes one instruction that is not part of a block: the target of an EXECUTE, or one that
    /// crosses a page. `offset` is relative to `page_base`.
    pub(crate) fn run_single(&mut self, raw: Raw, offset: u16, half: usize) -> Flow {
        let mode = self.mode();
        let slot = half + (raw.0 >> 16 ^ raw.0 >> 37 ^ offset as u64) as usize % EXECUTE_CACHE;
        let hit = self.code.executed[slot]
            .as_ref()
            .is_some_and(|e| e.raw == raw && e.offset == offset && e.mode == mode.bits());
        if !hit {
            let (op, _) = decode(raw, At { offset, length: raw.length() }, mode, &self.facilities);
            let end = Op {
                run: Cell::new(block_end),
                link: Cell::new(std::ptr::null()),
                operands: [0; 2],
                offset,
                length: 0,
                index: 0,
                home: 0,
            };
            let ops = Box::new([op, end]);
            self.code.executed[slot] = Some(Executed { raw, offset, mode: mode.bits(), ops });
        }
        let executed = self.code.executed[slot].as_ref().expect("filled above");
        let first: *const Op = &executed.ops[0];
        // SAFETY: the two operations stay until this slot is replaced, which only a nested run could do: an
        // EXECUTE that crosses a page has one, in the other half.
        let run = unsafe { (*first).run.get() };
        // A branch comes back here instead of going on at its target.
        let context = std::mem::replace(&mut self.context, NO_CONTEXT);
        run(self, first);
        self.context = context;
        match self.leave {
            Leave::BlockEnd => Ok(()),
            leave => Err(leave),
        }
    }

    /// EXECUTE: runs the instruction at `target` with bits 8-15 ORed with bits 56-63 of R1, unless
    /// R1 is zero (chapter 7, *EXECUTE*). `halfwords` is the length of the EXECUTE itself.
    pub fn execute_target(&mut self, r1: u8, target: u64, next: u16, halfwords: u8) -> Flow {
        if target & 1 != 0 {
            return Err(ProgramCode::Specification.into());
        }
        let mut raw = self.fetch_instruction(target)?;
        if r1 != 0 {
            raw |= (self.gr(r1) & 0xff) << 48;
        }
        if matches!(raw >> 56, 0x44) || raw >> 48 & 0xff0f == 0xc600 {
            return Err(ProgramCode::Execute.into());
        }
        let base = self.page_base;
        self.execute_next = Some((self.next_address(next), halfwords));
        self.page_base = target & !(PAGE_SIZE - 1);
        let flow = self.run_single(Raw(raw), (target % PAGE_SIZE) as u16, 0);
        self.page_base = base;
        self.execute_next = None;
        flow
    }
}
