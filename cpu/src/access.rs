//! Storage access: a software TLB whose hit is one compare and a host pointer, and what happens on a
//! miss.
//!
//! A [`Bank`] holds the translations of one address space under one access key. The CPU keeps a few
//! banks, so that loading a recently used address-space-control element is a change of pointer. An
//! entry's tags say what may be done without asking again: the read tag implies that the reference bit
//! is set; the write tag that the page is neither protected nor low-address protected, holds no decoded
//! code, and that the change bit is set.
//!
//! A handler first runs its semantic function with the fast way alone (`careful` is off): a miss ends it
//! with [`Leave::Miss`], and the function runs again from its start with the slow way. Functions can be run
//! again after any failed access, as nullification demands anyway; and the fast way is free of calls.
//!
//! This is one of the modules that may contain `unsafe`: everything outside sees values, [`Span`]s and
//! exceptions only.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use machine::Operand;
use portable_atomic::AtomicU128;
use zarch::{AbsoluteAddress, AddressSpace, PAGE_SIZE, ProgramCode, ProgramInterruption, StorageKey};

use crate::translate::Space;
use crate::{Cpu, Leave};

const ENTRIES: usize = 1024;
const PAGE_MASK: u64 = !(PAGE_SIZE - 1);
/// A tag no address compares equal to, since tags of pages have zeros on the right.
const NO_TAG: u64 = 1;
/// Banks a CPU keeps beside the empty one.
const BANKS: usize = 10;

/// What an access wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Fetch an operand.
    Fetch,
    /// Store an operand.
    Store,
    /// Fetch an instruction.
    Instruction,
}

#[derive(Clone, Copy)]
pub(crate) struct Entry {
    read: u64,
    write: u64,
    fetch: u64,
    /// Host address minus virtual address.
    addend: u64,
}

const EMPTY: Entry = Entry { read: NO_TAG, write: NO_TAG, fetch: NO_TAG, addend: 0 };

/// Translations of one address space under one access key.
pub(crate) struct Bank {
    entries: Box<[Entry; ENTRIES]>,
    space: Space,
    key: u8,
    /// Changes whenever what the bank holds may no longer be used, so that what was remembered with
    /// the old number is not.
    pub(crate) id: u64,
    used: u64,
    /// Whether an entry was filled since the last purge.
    filled: bool,
    /// For the pages that low-address protection covers in part: whether a store past the protected
    /// 512 bytes is known to be allowed.
    low_store: [bool; 2],
}

/// The banks of a CPU.
pub(crate) struct Tlb {
    banks: Vec<Bank>,
    /// Never filled: current in access-register mode, where each operand chooses its own.
    empty: Box<[Entry; ENTRIES]>,
    next_id: u64,
    clock: u64,
    /// Index of the bank instructions are fetched through.
    pub(crate) code: usize,
    /// Index of the bank that fast access goes through. Neither of the two is ever given away.
    data: usize,
}

impl Tlb {
    pub(crate) fn new() -> Self {
        Self { banks: Vec::new(), empty: Box::new([EMPTY; ENTRIES]), next_id: 1, clock: 0, code: 0, data: 0 }
    }

    /// The bank of `space` under `key`: an existing one, or the one used longest ago, emptied.
    fn bank(&mut self, space: Space, key: u8) -> usize {
        self.clock += 1;
        let clock = self.clock;
        if let Some(n) = self.banks.iter().position(|b| b.space == space && b.key == key) {
            self.banks[n].used = clock;
            return n;
        }
        self.next_id += 1;
        let id = self.next_id;
        if self.banks.len() < BANKS {
            self.banks.push(Bank {
                entries: Box::new([EMPTY; ENTRIES]),
                space,
                key,
                id,
                used: clock,
                filled: false,
                low_store: [false; 2],
            });
            return self.banks.len() - 1;
        }
        let free = (0..BANKS).filter(|&n| n != self.code && n != self.data);
        let n = free.min_by_key(|&n| self.banks[n].used).expect("there are more banks than two");
        let bank = &mut self.banks[n];
        bank.entries.fill(EMPTY);
        (bank.space, bank.key, bank.id, bank.used, bank.filled) = (space, key, id, clock, false);
        bank.low_store = [false; 2];
        n
    }

    /// The number that stands for the current contents of the bank instructions come through.
    pub(crate) fn code_id(&self) -> u64 {
        self.banks[self.code].id
    }

    /// Forgets everything.
    pub(crate) fn purge(&mut self) {
        for bank in self.banks.iter_mut().filter(|b| b.filled) {
            self.next_id += 1;
            bank.entries.fill(EMPTY);
            (bank.id, bank.filled, bank.low_store) = (self.next_id, false, [false; 2]);
        }
    }

    /// Takes the write tags off every translation of the host page at `host`.
    pub(crate) fn forbid_stores(&mut self, host: u64) {
        for bank in self.banks.iter_mut().filter(|b| b.filled) {
            for entry in bank.entries.iter_mut() {
                if entry.write != NO_TAG && entry.addend.wrapping_add(entry.write) == host {
                    entry.write = NO_TAG;
                }
            }
            bank.low_store = [false; 2];
        }
    }

    /// Takes all write tags off.
    pub(crate) fn forbid_all_stores(&mut self) {
        for bank in self.banks.iter_mut().filter(|b| b.filled) {
            bank.entries.iter_mut().for_each(|e| e.write = NO_TAG);
            bank.low_store = [false; 2];
        }
    }
}

/// A machine word that storage holds big-endian.
pub trait Word: Copy + Eq + 'static {
    /// Size in bytes.
    const SIZE: u64;
    /// Reads the word at `at`, which need not be aligned.
    ///
    /// # Safety
    /// `at` points to `SIZE` readable bytes of guest storage.
    unsafe fn read(at: *const u8) -> Self;
    /// Writes the word at `at`, which need not be aligned.
    ///
    /// # Safety
    /// `at` points to `SIZE` writable bytes of guest storage.
    unsafe fn write(self, at: *mut u8);
    /// From big-endian bytes, the first `SIZE` of `bytes`.
    fn from_bytes(bytes: &[u8; 16]) -> Self;
    /// To big-endian bytes.
    fn to_bytes(self) -> [u8; 16];
    /// Compares and swaps the aligned word at `at`: the old value, and whether `new` was stored.
    ///
    /// # Safety
    /// `at` points to an aligned word of guest storage.
    unsafe fn swap(at: *mut u8, old: Self, new: Self) -> Result<Self, Self>;
}

/// A word without alignment: its volatile access is one machine access where the host allows it.
#[repr(C, packed)]
struct Unaligned<T>(T);

macro_rules! word {
    ($type:ty, $atomic:ty) => {
        impl Word for $type {
            const SIZE: u64 = size_of::<$type>() as u64;

            #[inline(always)]
            unsafe fn read(at: *const u8) -> Self {
                // SAFETY: the caller vouches for the bytes; `Unaligned` has alignment 1.
                <$type>::from_be(unsafe { at.cast::<Unaligned<$type>>().read_volatile() }.0)
            }

            #[inline(always)]
            unsafe fn write(self, at: *mut u8) {
                // A volatile store of a packed struct would go through the stack.
                // SAFETY: the caller vouches for the bytes.
                unsafe { at.cast::<$type>().write_unaligned(self.to_be()) }
            }

            fn from_bytes(bytes: &[u8; 16]) -> Self {
                let mut word = [0; size_of::<$type>()];
                word.copy_from_slice(&bytes[..size_of::<$type>()]);
                Self::from_be_bytes(word)
            }

            fn to_bytes(self) -> [u8; 16] {
                let mut bytes = [0; 16];
                bytes[..size_of::<$type>()].copy_from_slice(&self.to_be_bytes());
                bytes
            }

            unsafe fn swap(at: *mut u8, old: Self, new: Self) -> Result<Self, Self> {
                // SAFETY: the caller vouches for alignment and that the word is guest storage, which
                // is shared between CPUs by atomic and volatile accesses only.
                let word = unsafe { &*at.cast::<$atomic>() };
                word.compare_exchange(old.to_be(), new.to_be(), Ordering::SeqCst, Ordering::SeqCst)
                    .map(<$type>::from_be)
                    .map_err(<$type>::from_be)
            }
        }
    };
}

word!(u8, AtomicU8);
word!(u16, AtomicU16);
word!(u32, AtomicU32);
word!(u64, AtomicU64);
word!(u128, AtomicU128);

/// A storage operand of up to 4096 bytes that is known to be accessible: at most two pieces of host
/// storage. Used at once, by the instruction that made it.
#[derive(Clone, Copy)]
pub struct Span {
    first: *mut u8,
    first_length: usize,
    second: *mut u8,
    length: usize,
}

impl Span {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the span has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    #[inline(always)]
    fn pointer(&self, n: usize) -> *mut u8 {
        assert!(n < self.length, "byte {n} of a span of {}", self.length);
        if n < self.first_length {
            self.first.wrapping_add(n)
        } else {
            self.second.wrapping_add(n - self.first_length)
        }
    }

    /// Byte `n`.
    #[inline(always)]
    pub fn get(&self, n: usize) -> u8 {
        // SAFETY: `pointer` checked the bound; both pieces are guest storage (made by `Cpu::span`).
        unsafe { self.pointer(n).read_volatile() }
    }

    /// Replaces byte `n`. The span was made for stores.
    #[inline(always)]
    pub fn set(&self, n: usize, byte: u8) {
        // SAFETY: as in `get`.
        unsafe { self.pointer(n).write_volatile(byte) }
    }

    /// The host slice when the operand is one piece.
    #[inline(always)]
    fn whole(&self) -> Option<*mut u8> {
        (self.first_length >= self.length).then_some(self.first)
    }

    /// The host address of byte `n` (below the length) and how many bytes follow it in its piece.
    #[inline(always)]
    fn piece(&self, n: usize) -> (*mut u8, usize) {
        if n < self.first_length {
            (self.first.wrapping_add(n), self.first_length.min(self.length) - n)
        } else {
            (self.second.wrapping_add(n - self.first_length), self.length - n)
        }
    }

    /// Calls `f` for each stretch that is one piece of storage in both operands, from the left, with
    /// the host addresses in both, the position and the length, until it answers.
    #[inline(always)]
    fn stretches<T>(
        &self,
        other: &Span,
        mut f: impl FnMut(*mut u8, *mut u8, usize, usize) -> Option<T>,
    ) -> Option<T> {
        let length = self.length.min(other.length);
        let mut n = 0;
        while n < length {
            let ((a, left_a), (b, left_b)) = (self.piece(n), other.piece(n));
            let stretch = left_a.min(left_b).min(length - n);
            if let Some(answer) = f(a, b, n, stretch) {
                return Some(answer);
            }
            n += stretch;
        }
        None
    }

    /// The word at byte `n`, in one access when it lies in one piece.
    #[inline(always)]
    pub fn load<T: Word>(&self, n: usize) -> T {
        assert!(n + T::SIZE as usize <= self.length, "a word at {n} of a span of {}", self.length);
        let (at, left) = self.piece(n);
        if left >= T::SIZE as usize {
            // SAFETY: the piece has the word's bytes, which are guest storage.
            return unsafe { T::read(at) };
        }
        let mut bytes = [0; 16];
        (0..T::SIZE as usize).for_each(|k| bytes[k] = self.get(n + k));
        T::from_bytes(&bytes)
    }

    /// Replaces the word at byte `n`, in one access when it lies in one piece.
    #[inline(always)]
    pub fn store<T: Word>(&self, n: usize, value: T) {
        assert!(n + T::SIZE as usize <= self.length, "a word at {n} of a span of {}", self.length);
        let (at, left) = self.piece(n);
        if left >= T::SIZE as usize {
            // SAFETY: the piece has the word's bytes, which are guest storage; the span is for stores.
            return unsafe { value.write(at) };
        }
        let bytes = value.to_bytes();
        (0..T::SIZE as usize).for_each(|k| self.set(n + k, bytes[k]));
    }

    /// Copies `from` (as long as this span) byte by byte from the left, as MVC is defined: a destination
    /// one byte to the right of the source propagates.
    #[inline(always)]
    pub fn move_from(&self, from: &Span) {
        self.stretches(from, |to, source, _, length| {
            let distance = (to as usize).wrapping_sub(source as usize);
            if length == 8 && distance >= 8 {
                // SAFETY: eight bytes of guest storage each; fetching them whole before storing equals
                // moving byte by byte at such a distance.
                unsafe { u64::read(source).write(to) };
                return None::<()>;
            }
            if distance >= length {
                // SAFETY: both are `length` bytes of guest storage; `copy` allows any overlap, and the
                // distance shows that moving all at once equals moving byte by byte.
                unsafe { std::ptr::copy(source, to, length) }
            } else if distance == 1 {
                // SAFETY: as above; propagating one byte is filling with it.
                unsafe { std::ptr::write_bytes(to, source.read_volatile(), length) }
            } else if distance != 0 {
                for n in 0..length {
                    // SAFETY: byte n is inside both stretches.
                    unsafe { to.wrapping_add(n).write_volatile(source.wrapping_add(n).read_volatile()) }
                }
            }
            None
        });
    }

    /// Copies `from` (as long as this span) byte by byte from the right, as MVCRL is defined.
    pub fn move_from_right(&self, from: &Span) {
        for n in (0..self.length.min(from.length)).rev() {
            self.set(n, from.get(n));
        }
    }

    /// Sets every byte to `byte`.
    #[inline(always)]
    pub fn fill(&self, byte: u8) {
        let first = self.first_length.min(self.length);
        // SAFETY: the pieces are guest storage of these lengths.
        unsafe {
            std::ptr::write_bytes(self.first, byte, first);
            if self.length > first {
                std::ptr::write_bytes(self.second, byte, self.length - first);
            }
        }
    }

    /// Whether both spans begin at the same byte of storage.
    #[inline(always)]
    pub fn same_start(&self, other: &Span) -> bool {
        self.first == other.first
    }

    /// The position of the first byte that differs, within the shorter of both.
    #[inline(always)]
    pub fn mismatch(&self, other: &Span) -> Option<usize> {
        self.stretches(other, |a, b, start, length| {
            let mut n = 0;
            while n + 8 <= length {
                // SAFETY: eight bytes at n are inside both stretches.
                let (x, y) = unsafe { (u64::read(a.wrapping_add(n)), u64::read(b.wrapping_add(n))) };
                if x != y {
                    return Some(start + n + (x ^ y).leading_zeros() as usize / 8);
                }
                n += 8;
            }
            while n < length {
                // SAFETY: byte n is inside both stretches.
                if unsafe { a.wrapping_add(n).read_volatile() != b.wrapping_add(n).read_volatile() } {
                    return Some(start + n);
                }
                n += 1;
            }
            None
        })
    }

    /// The position of the first byte that is `byte`.
    #[inline(always)]
    pub fn find(&self, byte: u8) -> Option<usize> {
        const ONES: u64 = 0x0101_0101_0101_0101;
        self.stretches(self, |at, _, start, length| {
            let mut n = 0;
            while n + 8 <= length {
                // SAFETY: eight bytes at n are inside the stretch.
                let x = unsafe { u64::read(at.wrapping_add(n)) } ^ ONES * byte as u64;
                if x.wrapping_sub(ONES) & !x & ONES << 7 != 0 {
                    break;
                }
                n += 8;
            }
            while n < length {
                // SAFETY: byte n is inside the stretch.
                if unsafe { at.wrapping_add(n).read_volatile() } == byte {
                    return Some(start + n);
                }
                n += 1;
            }
            None
        })
    }

    /// Replaces each byte by `f(own, other)`, as if from the left byte by byte; true when any result is
    /// not zero. `f` gets eight bytes at a time (or one, on the right), and treats each bit alike
    /// wherever it stands in its byte.
    #[inline(always)]
    pub fn combine(&self, other: &Span, f: impl Fn(u64, u64) -> u64) -> bool {
        let mut any = 0;
        self.stretches(other, |to, source, _, length| {
            // A destination less than eight bytes to the right of the source feeds its results back.
            let words = !(1..8).contains(&(to as usize).wrapping_sub(source as usize));
            let mut n = 0;
            while words && n + 8 <= length {
                let (to, source) = (to.wrapping_add(n), source.wrapping_add(n));
                // SAFETY: eight bytes at n are inside both stretches.
                unsafe {
                    let word = f(u64::read(to), u64::read(source));
                    word.write(to);
                    any |= word;
                }
                n += 8;
            }
            while n < length {
                let (to, source) = (to.wrapping_add(n), source.wrapping_add(n));
                // SAFETY: byte n is inside both stretches.
                unsafe {
                    let byte = f(to.read_volatile() as u64, source.read_volatile() as u64) as u8;
                    to.write_volatile(byte);
                    any |= byte as u64;
                }
                n += 1;
            }
            None::<()>
        });
        any != 0
    }

    /// Replaces each byte by the byte of `table` (256 bytes) that it selects.
    #[inline(always)]
    pub fn translate(&self, table: &Span) {
        assert!(table.length >= 256, "a translation table of {} bytes", table.length);
        if let (Some(at), Some(table)) = (self.whole(), table.whole()) {
            for n in 0..self.length {
                let byte = at.wrapping_add(n);
                // SAFETY: byte n is inside this span; a byte selects one of the table's 256.
                unsafe {
                    byte.write_volatile(table.wrapping_add(byte.read_volatile() as usize).read_volatile())
                }
            }
            return;
        }
        (0..self.length).for_each(|n| self.set(n, table.get(self.get(n) as usize)));
    }

    /// Copies the first bytes out, as many as `buffer` holds.
    pub fn read(&self, buffer: &mut [u8]) {
        assert!(buffer.len() <= self.length, "{} bytes of a span of {}", buffer.len(), self.length);
        let (left, right) = buffer.split_at_mut(self.first_length.min(buffer.len()));
        // SAFETY: the pieces are guest storage of at least these lengths, which no buffer is part of.
        unsafe {
            std::ptr::copy_nonoverlapping(self.first, left.as_mut_ptr(), left.len());
            std::ptr::copy_nonoverlapping(self.second, right.as_mut_ptr(), right.len());
        }
    }

    /// Replaces the first bytes by `bytes`.
    pub fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.length, "{} bytes into a span of {}", bytes.len(), self.length);
        let (left, right) = bytes.split_at(self.first_length.min(bytes.len()));
        // SAFETY: as in `read`; the span was made for stores.
        unsafe {
            std::ptr::copy_nonoverlapping(left.as_ptr(), self.first, left.len());
            std::ptr::copy_nonoverlapping(right.as_ptr(), self.second, right.len());
        }
    }
}

/// Stores all 64 bits of a register at once. A store narrowed to the half that changed would make the
/// host wait for it when the whole register is read soon after, since it cannot forward part of a word.
#[inline(always)]
pub(crate) fn store_whole(register: &mut u64, value: u64) {
    // SAFETY: a reference is valid and aligned; volatile only keeps the compiler from narrowing.
    unsafe { std::ptr::from_mut(register).write_volatile(value) }
}

/// Moves `length` bytes of host storage as `memmove` does: short ones with everything read before anything
/// is written, in pieces that overlap in the middle.
///
/// # Safety
/// Both point to `length` bytes of guest storage.
#[inline(always)]
unsafe fn move_host(to: *mut u8, from: *mut u8, length: usize) {
    let end = |p: *mut u8, size: usize| p.wrapping_add(length - size);
    // SAFETY: every piece lies within the `length` bytes.
    unsafe {
        match length {
            1 => u8::read(from).write(to),
            2 => u16::read(from).write(to),
            4..=8 => {
                let (a, b) = (u32::read(from), u32::read(end(from, 4)));
                a.write(to);
                b.write(end(to, 4));
            }
            9..=16 => {
                let (a, b) = (u64::read(from), u64::read(end(from, 8)));
                a.write(to);
                b.write(end(to, 8));
            }
            17..=32 => {
                let (a, b) = (u128::read(from), u128::read(end(from, 16)));
                a.write(to);
                b.write(end(to, 16));
            }
            33..=64 => {
                let (a, b) = (u128::read(from), u128::read(from.wrapping_add(16)));
                let (c, d) = (u128::read(end(from, 32)), u128::read(end(from, 16)));
                a.write(to);
                b.write(to.wrapping_add(16));
                c.write(end(to, 32));
                d.write(end(to, 16));
            }
            _ => std::ptr::copy(from, to, length),
        }
    }
}

/// Compares `length` bytes of host storage.
///
/// # Safety
/// Both point to `length` bytes of guest storage.
unsafe fn compare_host(a: *const u8, b: *const u8, length: usize) -> std::cmp::Ordering {
    let mut n = 0;
    while n + 8 <= length {
        // SAFETY: eight bytes at n are inside both.
        let (x, y) = unsafe { (u64::read(a.wrapping_add(n)), u64::read(b.wrapping_add(n))) };
        if x != y {
            return x.cmp(&y);
        }
        n += 8;
    }
    while n < length {
        // SAFETY: byte n is inside both.
        let (x, y) = unsafe { (u8::read(a.wrapping_add(n)), u8::read(b.wrapping_add(n))) };
        if x != y {
            return x.cmp(&y);
        }
        n += 1;
    }
    std::cmp::Ordering::Equal
}

#[inline(always)]
fn index(address: u64) -> usize {
    (address / PAGE_SIZE) as usize & (ENTRIES - 1)
}

impl Cpu {
    /// Fetches a word. Access exceptions come back as [`Leave`].
    #[inline(always)]
    pub fn load<T: Word>(&mut self, at: Operand) -> Result<T, Leave> {
        let address = at.address;
        // SAFETY: `tlb_entries` points to the ENTRIES entries of a bank that lives as long as this
        // CPU's Tlb; `index` is below ENTRIES.
        let entry = unsafe { &*self.tlb_entries.add(index(address)) };
        if entry.read == address.wrapping_add(T::SIZE - 1) & PAGE_MASK {
            // SAFETY: the tag says that the whole word lies in a page of guest storage mapped there.
            Ok(unsafe { T::read(entry.addend.wrapping_add(address) as *const u8) })
        } else if self.careful {
            self.load_slow(at)
        } else {
            Err(Leave::Miss)
        }
    }

    /// Stores a word.
    #[inline(always)]
    pub fn store<T: Word>(&mut self, at: Operand, value: T) -> Result<(), Leave> {
        let address = at.address;
        // SAFETY: as in `load`.
        let entry = unsafe { &*self.tlb_entries.add(index(address)) };
        if entry.write == address.wrapping_add(T::SIZE - 1) & PAGE_MASK {
            // SAFETY: as in `load`; the write tag says that storing needs no further check.
            unsafe { value.write(entry.addend.wrapping_add(address) as *mut u8) };
            Ok(())
        } else if self.careful {
            self.store_slow(at, value)
        } else {
            Err(Leave::Miss)
        }
    }

    /// The host address of an operand that the fast way reaches in one piece.
    #[inline(always)]
    fn fast_host(&self, at: Operand, length: usize, access: Access) -> Option<*mut u8> {
        // SAFETY: as in `load`.
        let entry = unsafe { &*self.tlb_entries.add(index(at.address)) };
        let tag = if access == Access::Store { entry.write } else { entry.read };
        let end = at.address.wrapping_add(length as u64).wrapping_sub(1);
        (tag == end & PAGE_MASK).then(|| entry.addend.wrapping_add(at.address) as *mut u8)
    }

    /// Compares two operands of `length` (1 to 256) bytes as unsigned binary numbers: CLC.
    #[inline(always)]
    pub fn compare_storage(
        &mut self,
        first: Operand,
        second: Operand,
        length: usize,
    ) -> Result<std::cmp::Ordering, Leave> {
        let a = self.fast_host(first, length, Access::Fetch);
        let b = self.fast_host(second, length, Access::Fetch);
        if let (Some(a), Some(b)) = (a, b) {
            // SAFETY: both are `length` bytes of guest storage in one piece.
            return Ok(unsafe {
                match length {
                    1 => u8::read(a).cmp(&u8::read(b)),
                    2 => u16::read(a).cmp(&u16::read(b)),
                    4 => u32::read(a).cmp(&u32::read(b)),
                    8 => u64::read(a).cmp(&u64::read(b)),
                    _ => compare_host(a, b, length),
                }
            });
        }
        if !self.careful {
            return Err(Leave::Miss);
        }
        let (first, second) =
            (self.span(first, length, Access::Fetch)?, self.span(second, length, Access::Fetch)?);
        Ok(match first.mismatch(&second) {
            None => std::cmp::Ordering::Equal,
            Some(n) => first.get(n).cmp(&second.get(n)),
        })
    }

    /// Moves `length` (1 to 256) bytes from the left, byte by byte as far as can be seen: MVC.
    #[inline(always)]
    pub fn move_storage(&mut self, to: Operand, from: Operand, length: usize) -> Result<(), Leave> {
        let source = self.fast_host(from, length, Access::Fetch);
        let destination = self.fast_host(to, length, Access::Store);
        if let (Some(to), Some(from)) = (destination, source)
            && (to as usize).wrapping_sub(from as usize) >= length
        {
            // SAFETY: both are `length` bytes of guest storage in one piece, and the distance shows that
            // moving all at once equals moving byte by byte.
            unsafe { move_host(to, from, length) };
            return Ok(());
        }
        if !self.careful && (destination.is_none() || source.is_none()) {
            return Err(Leave::Miss);
        }
        self.move_carefully(to, from, length)
    }

    /// Loads general registers `r1` to `r3` (around from 15 to 0) from doublewords, when the fast way
    /// reaches them all; `false` when it does not.
    #[inline(always)]
    pub fn load_registers_fast(&mut self, at: Operand, r1: u8, r3: u8) -> bool {
        let count = (r3.wrapping_sub(r1) & 15) as usize + 1;
        let Some(host) = self.fast_host(at, 8 * count, Access::Fetch) else { return false };
        for n in 0..count {
            // SAFETY: `count` doublewords at `host` are guest storage in one piece.
            let value = unsafe { u64::read(host.wrapping_add(8 * n)) };
            self.set_gr(r1 + n as u8, value);
        }
        true
    }

    /// Stores general registers `r1` to `r3` (around from 15 to 0) as doublewords, when the fast way
    /// reaches them all; `false` when it does not.
    #[inline(always)]
    pub fn store_registers_fast(&mut self, at: Operand, r1: u8, r3: u8) -> bool {
        let count = (r3.wrapping_sub(r1) & 15) as usize + 1;
        let Some(host) = self.fast_host(at, 8 * count, Access::Store) else { return false };
        for n in 0..count {
            // SAFETY: as in `load_registers_fast`; the write tag allows the store.
            unsafe { self.gr(r1 + n as u8).write(host.wrapping_add(8 * n)) };
        }
        true
    }

    #[inline(never)]
    fn move_carefully(&mut self, to: Operand, from: Operand, length: usize) -> Result<(), Leave> {
        let from = self.span(from, length, Access::Fetch)?;
        let to = self.span(to, length, Access::Store)?;
        to.move_from(&from);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn load_slow<T: Word>(&mut self, at: Operand) -> Result<T, Leave> {
        let span = self.span_slow(at, T::SIZE as usize, Access::Fetch)?;
        if let Some(whole) = span.whole() {
            // SAFETY: the span is T::SIZE bytes of guest storage in one piece.
            return Ok(unsafe { T::read(whole) });
        }
        let mut bytes = [0; 16];
        span.read(&mut bytes[..T::SIZE as usize]);
        Ok(T::from_bytes(&bytes))
    }

    #[cold]
    #[inline(never)]
    fn store_slow<T: Word>(&mut self, at: Operand, value: T) -> Result<(), Leave> {
        let span = self.span_slow(at, T::SIZE as usize, Access::Store)?;
        match span.whole() {
            // SAFETY: the span is T::SIZE bytes of guest storage in one piece, made for stores.
            Some(whole) => unsafe { value.write(whole) },
            None => span.write(&value.to_bytes()[..T::SIZE as usize]),
        }
        Ok(())
    }

    /// The operand of `length` (1 to 4096) bytes at `at` after all checks of `access`, both ends probed
    /// before anything is changed. Wraps around at the end of the addressing mode.
    #[inline(always)]
    pub fn span(&mut self, at: Operand, length: usize, access: Access) -> Result<Span, Leave> {
        let address = at.address;
        // SAFETY: as in `load`.
        let entry = unsafe { &*self.tlb_entries.add(index(address)) };
        let tag = if access == Access::Store { entry.write } else { entry.read };
        if tag == address.wrapping_add(length as u64).wrapping_sub(1) & PAGE_MASK {
            let first = entry.addend.wrapping_add(address) as *mut u8;
            Ok(Span { first, first_length: length, second: first, length })
        } else if self.careful {
            self.span_slow(at, length, access)
        } else {
            Err(Leave::Miss)
        }
    }

    #[inline(never)]
    fn span_slow(&mut self, at: Operand, length: usize, access: Access) -> Result<Span, Leave> {
        assert!(length as u64 <= PAGE_SIZE, "a span crosses one page boundary at most");
        let first = self.host(at, access)?;
        let left = (PAGE_SIZE - at.address % PAGE_SIZE) as usize;
        if length <= left {
            self.check_low_store(None, at.address, length as u64, access)?;
            return Ok(Span { first, first_length: length, second: first, length });
        }
        self.check_low_store(None, at.address, left as u64, access)?;
        let next = Operand { address: self.trim(at.address.wrapping_add(left as u64)), ar: at.ar };
        let second = self.host(next, access)?;
        self.check_low_store(None, next.address, (length - left) as u64, access)?;
        // The second page may have been the one whose decoding state changed; the first pointer stays
        // good, since both are host addresses of storage.
        Ok(Span { first, first_length: left, second, length })
    }

    /// Low-address protection of a store that begins outside the protected bytes but runs into them, or
    /// begins inside (chapter 3, *Low-Address Protection*: addresses 0-511 and 4096-4607).
    fn check_low_store(
        &mut self,
        space: Option<Space>,
        address: u64,
        length: u64,
        access: Access,
    ) -> Result<(), Leave> {
        if access == Access::Store
            && address < 2 * PAGE_SIZE
            && self.low_address_protection_of(space.unwrap_or_else(|| self.data_space()))
        {
            let offset = address % PAGE_SIZE;
            if offset < 512 && length > 0 {
                return Err(self.access_exception(ProgramCode::Protection, address, access, 0x80));
            }
        }
        Ok(())
    }

    /// The host address of the byte at `at` after all checks but low-address protection, which
    /// depends on the offset. Fills the TLB.
    fn host(&mut self, at: Operand, access: Access) -> Result<*mut u8, Leave> {
        let space = self.operand_space(at.ar, access)?;
        self.host_in(space, self.psw_key(), at.address, access)
    }

    /// The host address of the byte at `address` of `space` with access key `key`. Whoever stores
    /// through it has checked low-address protection.
    fn host_in(&mut self, space: Space, key: u8, address: u64, access: Access) -> Result<*mut u8, Leave> {
        let number = self.tlb.bank(space, key);
        let page = address & PAGE_MASK;
        let entry = self.tlb.banks[number].entries[index(address)];
        // Whatever the space: what is remembered may be used when the PSW designates this one.
        let low = page < 2 * PAGE_SIZE && self.low_address_protection_control();
        let known = match access {
            Access::Fetch => entry.read == page,
            Access::Instruction => entry.fetch == page,
            Access::Store => {
                entry.write == page
                    || low && entry.read == page && self.tlb.banks[number].low_store[index(address) & 1]
            }
        };
        if known {
            return Ok(entry.addend.wrapping_add(address) as *mut u8);
        }
        let found = self.translate(space, address, access)?;
        let absolute = AbsoluteAddress(found.page);
        let key_of_block = match self.storage.key(absolute) {
            Ok(key) => key,
            Err(_) => return Err(self.access_exception(ProgramCode::Addressing, address, access, 0)),
        };
        if access == Access::Store && found.protected {
            return Err(self.access_exception(ProgramCode::Protection, address, access, 0x04));
        }
        if access == Access::Instruction && found.execution_protected {
            return Err(self.access_exception(ProgramCode::Protection, address, access, 0x84));
        }
        if key != 0 {
            let allowed = match access {
                Access::Store => {
                    key_of_block.allows_store(key) || self.storage_protection_override(key_of_block)
                }
                _ => {
                    key_of_block.allows_fetch(key)
                        || self.fetch_protection_override(address)
                        || self.storage_protection_override(key_of_block)
                }
            };
            if !allowed {
                return Err(self.access_exception(ProgramCode::Protection, address, access, 0));
            }
        }
        let block = found.page / PAGE_SIZE;
        let mut bits = StorageKey::REFERENCE;
        if access == Access::Store {
            bits |= StorageKey::CHANGE;
            if self.storage.is_code(block) {
                self.storage.stored(absolute, PAGE_SIZE);
            }
            // Also when another's store took the mark away and this CPU has not attended to it yet.
            self.drop_code(block);
        }
        self.storage.mark_page(block, bits);
        let addend = (self.storage.host_base() as u64).wrapping_add(found.page).wrapping_sub(page);
        // Tags of an entry of another page do not survive; those of this page do.
        let bank = &mut self.tlb.banks[number];
        let slot = &mut bank.entries[index(address)];
        if slot.addend != addend || (slot.read != page && slot.fetch != page) {
            *slot = Entry { addend, ..EMPTY };
        }
        bank.filled = true;
        // With fetch-protection override a page is readable in part; then nothing is remembered.
        let readable = key == 0 || key_of_block.allows_fetch(key);
        if readable {
            slot.read = page;
            if !found.execution_protected {
                slot.fetch = page;
            }
        }
        if access == Access::Store && readable {
            if low {
                bank.low_store[index(address) & 1] = true;
            } else {
                slot.write = page;
            }
        }
        Ok(addend.wrapping_add(address) as *mut u8)
    }

    /// The absolute address of the instruction byte at `address`.
    pub(crate) fn instruction_absolute(&mut self, address: u64) -> Result<u64, Leave> {
        let space = self.instruction_space();
        let host = self.host_in(space, self.psw_key(), address, Access::Instruction)?;
        Ok(host as u64 - self.storage.host_base() as u64)
    }

    /// The instruction at `address`, left-aligned; bytes of a following page are fetched only when the
    /// instruction reaches into it.
    pub(crate) fn fetch_instruction(&mut self, address: u64) -> Result<u64, Leave> {
        let space = self.instruction_space();
        let mut raw = 0u64;
        let mut length = 2;
        let mut n = 0;
        while n < length {
            let at = self.trim(address.wrapping_add(n));
            let host = self.host_in(space, self.psw_key(), at, Access::Instruction)?;
            // SAFETY: instructions are halfword aligned, so that two bytes never cross a page; the
            // pointer is into guest storage.
            let halfword = unsafe { u16::read(host) };
            raw |= (halfword as u64) << (48 - 8 * n);
            if n == 0 {
                length = crate::format::Raw(raw).length() as u64;
            }
            n += 2;
        }
        Ok(raw)
    }

    /// Like [`span`](Self::span) in a given address space with a given access key (MVCOS and its kin).
    pub fn span_in(
        &mut self,
        space: Space,
        key: u8,
        address: u64,
        length: usize,
        access: Access,
    ) -> Result<Span, Leave> {
        assert!(length as u64 <= PAGE_SIZE, "a span crosses one page boundary at most");
        let first = self.host_in(space, key, address, access)?;
        let left = (PAGE_SIZE - address % PAGE_SIZE) as usize;
        self.check_low_store(Some(space), address, length.min(left) as u64, access)?;
        if length <= left {
            return Ok(Span { first, first_length: length, second: first, length });
        }
        let next = self.trim(address.wrapping_add(left as u64));
        let second = self.host_in(space, key, next, access)?;
        self.check_low_store(Some(space), next, (length - left) as u64, access)?;
        Ok(Span { first, first_length: left, second, length })
    }

    /// Compares and swaps an aligned word, serializing: `Ok(old)` when `new` was stored, else
    /// `Err(current)`. The store access is checked either way, as the manual allows.
    pub fn compare_and_swap<T: Word>(&mut self, at: Operand, old: T, new: T) -> Result<Result<T, T>, Leave> {
        if at.address % T::SIZE != 0 {
            return Err(ProgramCode::Specification.into());
        }
        let span = self.span(at, T::SIZE as usize, Access::Store)?;
        // SAFETY: the span is T::SIZE bytes of guest storage; pages are aligned alike in guest and
        // host, so the word is aligned.
        Ok(unsafe { T::swap(span.first, old, new) })
    }

    /// Replaces an aligned word by `f` of it as one interlocked update, answering with the old value.
    pub fn interlocked_update<T: Word>(&mut self, at: Operand, f: impl Fn(T) -> T) -> Result<T, Leave> {
        if at.address % T::SIZE != 0 {
            return Err(ProgramCode::Specification.into());
        }
        let span = self.span(at, T::SIZE as usize, Access::Store)?;
        // SAFETY: as in `compare_and_swap`.
        let mut old = unsafe { T::read(span.first) };
        loop {
            // SAFETY: as in `compare_and_swap`.
            match unsafe { T::swap(span.first, old, f(old)) } {
                Ok(old) => return Ok(old),
                Err(current) => old = current,
            }
        }
    }

    /// Fetches an operand of any length; nothing is changed when part of it is not accessible.
    pub fn fetch_bytes(&mut self, at: Operand, buffer: &mut [u8]) -> Result<(), Leave> {
        let mut done = 0;
        while done < buffer.len() {
            let from = Operand { address: self.trim(at.address.wrapping_add(done as u64)), ar: at.ar };
            let length = (buffer.len() - done).min((PAGE_SIZE - from.address % PAGE_SIZE) as usize);
            self.span(from, length, Access::Fetch)?.read(&mut buffer[done..done + length]);
            done += length;
        }
        Ok(())
    }

    /// Tests that [`store_bytes`](Self::store_bytes) of `length` bytes would succeed.
    pub fn probe_bytes(&mut self, at: Operand, length: u64, access: Access) -> Result<(), Leave> {
        let mut done = 0;
        while done < length {
            let to = Operand { address: self.trim(at.address.wrapping_add(done)), ar: at.ar };
            let piece = (length - done).min(PAGE_SIZE - to.address % PAGE_SIZE);
            self.span(to, piece as usize, access)?;
            done += piece;
        }
        Ok(())
    }

    /// Stores an operand of any length, all or nothing.
    pub fn store_bytes(&mut self, at: Operand, bytes: &[u8]) -> Result<(), Leave> {
        self.probe_bytes(at, bytes.len() as u64, Access::Store)?;
        let mut done = 0;
        while done < bytes.len() {
            let to = Operand { address: self.trim(at.address.wrapping_add(done as u64)), ar: at.ar };
            let length = (bytes.len() - done).min((PAGE_SIZE - to.address % PAGE_SIZE) as usize);
            self.span(to, length, Access::Store)?.write(&bytes[done..done + length]);
            done += length;
        }
        Ok(())
    }

    /// Fetches a word at a real address (no DAT, no protection): interruption handling, LURA.
    pub fn load_real<T: Word>(&mut self, real: u64) -> Result<T, ProgramCode> {
        let at = self.real_to_absolute(real);
        if real % T::SIZE != 0 || !self.storage.contains(at, T::SIZE) {
            return Err(ProgramCode::Addressing);
        }
        self.storage.mark_page(at.0 / PAGE_SIZE, StorageKey::REFERENCE);
        // SAFETY: the aligned word lies in storage, which `host_base` maps as one piece.
        Ok(unsafe { T::read(self.storage.host_base().wrapping_add(at.0 as usize)) })
    }

    /// Stores a word at a real address (no DAT, no protection): interruption handling, STURA.
    pub fn store_real<T: Word>(&mut self, real: u64, value: T) -> Result<(), ProgramCode> {
        let at = self.real_to_absolute(real);
        if real % T::SIZE != 0 || !self.storage.contains(at, T::SIZE) {
            return Err(ProgramCode::Addressing);
        }
        let block = at.0 / PAGE_SIZE;
        self.storage.mark_page(block, StorageKey::REFERENCE | StorageKey::CHANGE);
        // SAFETY: as in `load_real`.
        unsafe { value.write(self.storage.host_base().wrapping_add(at.0 as usize)) };
        if self.storage.is_code(block) {
            self.storage.stored(at, T::SIZE);
            self.drop_code(block);
        }
        Ok(())
    }

    /// Replaces the doubleword at a real address by `f` of it, interlocked, answering with the old value:
    /// DAT-table entries.
    pub fn update_real(&mut self, real: u64, f: impl Fn(u64) -> u64) -> Result<u64, ProgramCode> {
        let at = self.real_to_absolute(real);
        if real % 8 != 0 || !self.storage.contains(at, 8) {
            return Err(ProgramCode::Addressing);
        }
        let block = at.0 / PAGE_SIZE;
        self.storage.mark_page(block, StorageKey::REFERENCE | StorageKey::CHANGE);
        let word = self.storage.host_base().wrapping_add(at.0 as usize);
        // SAFETY: the aligned doubleword lies in storage, which CPUs share by atomic access.
        let mut old = unsafe { u64::read(word) };
        loop {
            // SAFETY: as above.
            match unsafe { u64::swap(word, old, f(old)) } {
                Ok(_) => break,
                Err(current) => old = current,
            }
        }
        if self.storage.is_code(block) {
            self.storage.stored(at, 8);
            self.drop_code(block);
        }
        Ok(old)
    }

    /// Sets the 4K-byte block at an absolute address to zeros.
    pub fn clear_block(&mut self, at: AbsoluteAddress) -> Result<(), ProgramCode> {
        if !self.storage.contains(at, PAGE_SIZE) {
            return Err(ProgramCode::Addressing);
        }
        if self.storage.is_code(at.0 / PAGE_SIZE) {
            self.drop_code(at.0 / PAGE_SIZE);
        }
        self.storage.write(at, &[0; PAGE_SIZE as usize]).map_err(|_| ProgramCode::Addressing)
    }

    /// Fetches a doubleword of a DAT table at an absolute address.
    pub(crate) fn table_entry(&mut self, absolute: u64) -> Option<u64> {
        let at = AbsoluteAddress(absolute);
        if absolute % 8 != 0 || !self.storage.contains(at, 8) {
            return None;
        }
        self.storage.mark_page(absolute / PAGE_SIZE, StorageKey::REFERENCE);
        // SAFETY: the aligned doubleword lies in storage.
        Some(unsafe { u64::read(self.storage.host_base().wrapping_add(absolute as usize)) })
    }

    /// Records an access exception with its translation-exception identification: the page, the fetch
    /// or store indication (facility 75), `bits`, and the address space.
    pub(crate) fn access_exception(
        &mut self,
        code: ProgramCode,
        address: u64,
        access: Access,
        bits: u64,
    ) -> Leave {
        let indication = match access {
            Access::Store => 0x400,
            _ => 0x800,
        };
        let space = self.operand_space_id.unwrap_or(match self.psw_address_space() {
            AddressSpace::Real | AddressSpace::Primary => 0,
            AddressSpace::AccessRegister => 1,
            AddressSpace::Secondary => 2,
            AddressSpace::Home => 3,
        });
        let indication = if self.facilities.bit(75) { indication } else { 0 };
        let teid = address & PAGE_MASK | indication | bits | space;
        self.exception = ProgramInterruption::access(code, teid);
        if code == ProgramCode::Addressing {
            self.exception.translation_exception_id = None;
        }
        Leave::Program(code)
    }

    /// Makes the bank of the current address space the one that fast access goes through. To be
    /// called whenever PSW key, address space or control registers 0, 1, 7, 13 may have changed.
    pub(crate) fn select_banks(&mut self) {
        let key = self.psw_key();
        let instruction = self.instruction_space();
        self.tlb.code = self.tlb.bank(instruction, key);
        self.tlb_entries = match self.psw_address_space() {
            AddressSpace::AccessRegister => self.tlb.empty.as_mut_ptr(),
            _ => {
                let space = self.data_space();
                let data = self.tlb.bank(space, key);
                self.tlb.data = data;
                self.tlb.banks[data].entries.as_mut_ptr()
            }
        };
    }
}
