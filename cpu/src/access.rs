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

use machine::Operand;
use zarch::{AbsoluteAddress, AddressSpace, PAGE_SIZE, ProgramCode, ProgramInterruption, StorageKey};

pub use crate::span::{Span, Word};
use crate::span::{compare_host, move_host};
use crate::tlb::{EMPTY, Entry, index};
use crate::translate::Space;
use crate::{Cpu, Leave};

const PAGE_MASK: u64 = !(PAGE_SIZE - 1);

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

/// Stores all 64 bits of a register at once. A store narrowed to the half that changed would make the
/// host wait for it when the whole register is read soon after, since it cannot forward part of a word.
#[inline(always)]
pub(crate) fn store_whole(register: &mut u64, value: u64) {
    // SAFETY: a reference is valid and aligned; volatile only keeps the compiler from narrowing.
    unsafe { std::ptr::from_mut(register).write_volatile(value) }
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
