//! Words and operands in host storage: what a translation leads to.
//!
//! This is one of the modules that may contain `unsafe`: a [`Span`] is made by `access` for storage that the
//! CPU holds, and used at once.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use portable_atomic::AtomicU128;

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
    pub(crate) first: *mut u8,
    pub(crate) first_length: usize,
    pub(crate) second: *mut u8,
    pub(crate) length: usize,
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
    pub(crate) fn whole(&self) -> Option<*mut u8> {
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

/// Moves `length` bytes of host storage as `memmove` does: short ones with everything read before anything
/// is written, in pieces that overlap in the middle.
///
/// # Safety
/// Both point to `length` bytes of guest storage.
#[inline(always)]
pub(crate) unsafe fn move_host(to: *mut u8, from: *mut u8, length: usize) {
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
pub(crate) unsafe fn compare_host(a: *const u8, b: *const u8, length: usize) -> std::cmp::Ordering {
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
