//! Instruction formats: each declared once, by bit positions as the manual prints them (chapter 5,
//! *Instruction Formats*; the instruction is held left-aligned in 64 bits, so bit numbers are usable as
//! printed).
//!
//! A format is a marker type with [`Format::extract`]; its operands are a small struct that the
//! semantic function receives. Formats whose operands mean the same (RX and RXY, RR and RRE, RI and
//! RIL) share the struct, so that `L` and `LY` are one function.
//!
//! Base and index register 0 is held as [`NO_REGISTER`], whose value is always zero. Branch targets and
//! the address of the next instruction are held relative to the start of the page that holds the
//! instruction: decoded code is independent of the virtual address it is executed at.

use crate::cpu::Cpu;
use machine::Operand;
use std::fmt::Write;

/// Register number that stands for "no register": its value is zero.
pub const NO_REGISTER: u8 = 16;

/// An instruction, left-aligned in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw(pub u64);

impl Raw {
    /// Bits `start` to `start + length - 1`.
    pub const fn bits(self, start: u32, length: u32) -> u64 {
        self.0 << start >> (64 - length)
    }

    const fn nibble(self, start: u32) -> u8 {
        self.bits(start, 4) as u8
    }

    const fn base(self, start: u32) -> u8 {
        match self.nibble(start) {
            0 => NO_REGISTER,
            r => r,
        }
    }

    const fn signed16(self, start: u32) -> i32 {
        self.bits(start, 16) as i16 as i32
    }

    const fn signed32(self, start: u32) -> i32 {
        self.bits(start, 32) as i32
    }

    const fn d12(self, start: u32) -> u16 {
        self.bits(start, 12) as u16
    }

    /// A 20-bit signed displacement: DL at `start`, DH in the byte after it.
    const fn d20(self, start: u32) -> i32 {
        (self.bits(start + 12, 8) as i8 as i32) << 12 | self.bits(start, 12) as i32
    }

    /// Length in bytes, from the first two bits.
    pub const fn length(self) -> u8 {
        match self.bits(0, 2) {
            0 => 2,
            3 => 6,
            _ => 4,
        }
    }
}

/// Where an instruction stands: its offset in its page, and its length.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Offset of the instruction from the start of its page.
    pub offset: u16,
    /// Length in bytes.
    pub length: u8,
}

impl At {
    fn next(self) -> u16 {
        self.offset + self.length as u16
    }

    fn target(self, halfwords: i32) -> i64 {
        self.offset as i64 + 2 * halfwords as i64
    }
}

/// A format: how operands are laid out in the instruction.
pub trait Format: 'static {
    /// What the semantic function receives. At most 16 bytes.
    type Operands: Operands;
    /// The manual's name of the format.
    const NAME: &'static str;
    /// Takes the operands from the instruction.
    fn extract(raw: Raw, at: At) -> Self::Operands;
}

/// What every operand struct can say about itself, for checks at decoding and for disassembly.
pub trait Operands: Copy + Send + Sync + 'static {
    /// Whether there is an index register, so that [`variant`](Self::variant) says if it is used.
    const INDEXED: bool = false;

    /// The register fields R1, R2, R3 as far as the format has them.
    fn registers(&self) -> [u8; 3] {
        [0; 3]
    }

    /// Whether every register number is one that its format can hold. Always true for what
    /// [`Format::extract`] made; handlers tell the compiler so, which saves it masking.
    fn is_valid(&self) -> bool;

    /// Which of the handlers made for one semantic function fits these operands, below 16. Each is
    /// compiled knowing that this is its number: the mask of a branch, or whether there is an index.
    #[inline(always)]
    fn variant(&self) -> u8 {
        0
    }

    /// The target of a relative branch, relative to the start of the page; 0 for other formats.
    #[inline(always)]
    fn target(&self) -> i64 {
        0
    }

    /// The operands in assembler notation; branch targets as `*±offset` from the instruction at `at`.
    fn text(&self, at: At) -> String;
}

fn storage(d: i64, x: u8, b: u8) -> String {
    match (x, b) {
        (NO_REGISTER, NO_REGISTER) => format!("{d}"),
        (NO_REGISTER, b) => format!("{d}(%r{b})"),
        (x, NO_REGISTER) => format!("{d}(%r{x},%r0)"),
        (x, b) => format!("{d}(%r{x},%r{b})"),
    }
}

fn relative(target: i64, at: At) -> String {
    format!("*{:+}", target - at.offset as i64)
}

macro_rules! operands {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type),* }
    };
}

operands! {
    /// No operands (format E), or only the implied registers.
    None_ {}
}
operands! {
    /// An eight-bit immediate (format I).
    Imm8 {
        /// The immediate.
        i: u8
    }
}
operands! {
    /// Two registers: RR, RRE.
    Rr {
        /// First register, or mask.
        r1: u8,
        /// Second register.
        r2: u8,
        /// Offset in the page of the next instruction.
        next: u16
    }
}
operands! {
    /// RRF-a to -e and RRD. `r3` is also M3, `m4` the field in bits 20-23.
    Rrf {
        /// First register.
        r1: u8,
        /// Second register.
        r2: u8,
        /// Bits 16-19: R3 or M3.
        r3: u8,
        /// Bits 20-23: M4.
        m4: u8
    }
}
operands! {
    /// A register and an immediate: RI-a, RIL-a (and RIE-a, -d, -g with a third field).
    Ri {
        /// First register.
        r1: u8,
        /// R3 or M3, where the format has it.
        r3: u8,
        /// The immediate, sign-extended; cast where it is unsigned.
        i2: i32
    }
}
operands! {
    /// A register or mask and a relative address: RI-b, RI-c, RIL-b, RIL-c, RSI, RIE-e.
    Rel {
        /// First register, or M1.
        r1: u8,
        /// R3, where the format has it.
        r3: u8,
        /// Offset in the page of the next instruction.
        next: u16,
        /// Target relative to the start of the page.
        target: i64
    }
}
operands! {
    /// COMPARE AND BRANCH RELATIVE: RIE-b and RIE-c.
    CompareBranch {
        /// First register.
        r1: u8,
        /// Second register (RIE-b).
        r2: u8,
        /// M3.
        m3: u8,
        /// Immediate (RIE-c), as it stands; cast to i8 for signed comparison.
        i2: u8,
        /// Target relative to the start of the page.
        target: i32
    }
}
operands! {
    /// ROTATE THEN ... SELECTED BITS: RIE-f.
    Rief {
        /// Ones from the bit in I3 to the bit in I4 (of 64), around the end when I4 is less.
        selected: u64,
        /// First register.
        r1: u8,
        /// Second register.
        r2: u8,
        /// I3: start bit and flags.
        i3: u8,
        /// I4: end bit and flags.
        i4: u8,
        /// I5: rotate amount.
        i5: u8
    }
}
operands! {
    /// COMPARE AND BRANCH with a storage-style target: RIS and RRS.
    Ris {
        /// First register.
        r1: u8,
        /// Second register (RRS).
        r2: u8,
        /// M3.
        m3: u8,
        /// Base register of the fourth operand.
        b4: u8,
        /// Displacement of the fourth operand.
        d4: u16,
        /// Immediate (RIS), as it stands.
        i2: u8
    }
}
operands! {
    /// A register (or mask) and an indexed storage operand: RX, RXY, RXE, RXF.
    Rx {
        /// First register, or M1.
        r1: u8,
        /// Index register.
        x2: u8,
        /// Base register.
        b2: u8,
        /// R3 (RXF) or M3 (RXE).
        r3: u8,
        /// Displacement.
        d2: i32,
        /// Offset in the page of the next instruction.
        next: u16
    }
}
operands! {
    /// Two registers (or register and mask) and a storage operand: RS, RSY, RSL.
    Rs {
        /// First register.
        r1: u8,
        /// R3 or M3.
        r3: u8,
        /// Base register.
        b2: u8,
        /// Displacement.
        d2: i32
    }
}
operands! {
    /// A storage operand and an immediate: S (without immediate), SI, SIY, SIL.
    Si {
        /// Base register.
        b1: u8,
        /// Displacement.
        d1: i32,
        /// Immediate: I2, zero-extended for SI and SIY, sign-extended for SIL.
        i2: i32
    }
}
operands! {
    /// Two storage operands: SS-a to -f, SSE, SSF.
    Ss {
        /// Bits 8-15: L, or L1 and L2, or R1 and R3, or L1 and I3.
        l: u8,
        /// Base register of the first operand.
        b1: u8,
        /// Base register of the second operand.
        b2: u8,
        /// Displacement of the first operand.
        d1: u16,
        /// Displacement of the second operand.
        d2: u16
    }
}

/// Ones from bit `from` to bit `to`, around the end when `to` is less.
fn selected(from: u32, to: u32) -> u64 {
    let ones = u64::MAX << (63 - (to.wrapping_sub(from) & 63));
    ones.rotate_right(from)
}

impl Rx {
    /// The second operand's address, trimmed to the addressing mode.
    #[inline(always)]
    pub fn address(self, cpu: &Cpu) -> u64 {
        let base = cpu.base(self.b2).wrapping_add(self.d2 as i64 as u64);
        // Decided when the instruction is decoded: each variant has its handler.
        let index = if self.x2 == NO_REGISTER { 0 } else { cpu.base(self.x2) };
        cpu.trim(base.wrapping_add(index))
    }

    /// The second operand in storage.
    #[inline(always)]
    pub fn operand(self, cpu: &Cpu) -> Operand {
        Operand { address: self.address(cpu), ar: self.b2 }
    }
}

impl Rs {
    /// The second operand's address, trimmed to the addressing mode.
    #[inline(always)]
    pub fn address(self, cpu: &Cpu) -> u64 {
        cpu.trim(self.amount(cpu))
    }

    /// The second operand's address as a number (shift amounts).
    #[inline(always)]
    pub fn amount(self, cpu: &Cpu) -> u64 {
        cpu.base(self.b2).wrapping_add(self.d2 as i64 as u64)
    }

    /// The second operand in storage.
    #[inline(always)]
    pub fn operand(self, cpu: &Cpu) -> Operand {
        Operand { address: self.address(cpu), ar: self.b2 }
    }
}

impl Si {
    /// The operand's address, trimmed to the addressing mode.
    #[inline(always)]
    pub fn address(self, cpu: &Cpu) -> u64 {
        cpu.trim(cpu.base(self.b1).wrapping_add(self.d1 as i64 as u64))
    }

    /// The operand in storage.
    #[inline(always)]
    pub fn operand(self, cpu: &Cpu) -> Operand {
        Operand { address: self.address(cpu), ar: self.b1 }
    }
}

impl Ris {
    /// The fourth operand's address (the branch target), trimmed to the addressing mode.
    #[inline(always)]
    pub fn address(self, cpu: &Cpu) -> u64 {
        cpu.trim(cpu.base(self.b4).wrapping_add(self.d4 as u64))
    }
}

impl Ss {
    /// The first operand in storage.
    #[inline(always)]
    pub fn operand1(self, cpu: &Cpu) -> Operand {
        Operand { address: cpu.trim(cpu.base(self.b1).wrapping_add(self.d1 as u64)), ar: self.b1 }
    }

    /// The second (or fourth) operand in storage.
    #[inline(always)]
    pub fn operand2(self, cpu: &Cpu) -> Operand {
        Operand { address: cpu.trim(cpu.base(self.b2).wrapping_add(self.d2 as u64)), ar: self.b2 }
    }

    /// L1 or R1: bits 8-11.
    pub fn l1(self) -> u8 {
        self.l >> 4
    }

    /// L2, R3 or I3: bits 12-15.
    pub fn l2(self) -> u8 {
        self.l & 15
    }
}

impl Operands for None_ {
    #[inline(always)]
    fn is_valid(&self) -> bool {
        true
    }
    fn text(&self, _: At) -> String {
        String::new()
    }
}
impl Operands for Imm8 {
    #[inline(always)]
    fn is_valid(&self) -> bool {
        true
    }
    fn text(&self, _: At) -> String {
        format!("{}", self.i)
    }
}
impl Operands for Rr {
    #[inline(always)]
    fn is_valid(&self) -> bool {
        self.r1 < 16 && self.r2 < 16
    }
    fn registers(&self) -> [u8; 3] {
        [self.r1, self.r2, 0]
    }
    fn text(&self, _: At) -> String {
        format!("%r{},%r{}", self.r1, self.r2)
    }
}
impl Operands for Rrf {
    #[inline(always)]
    fn is_valid(&self) -> bool {
        self.r1 < 16 && self.r2 < 16 && self.r3 < 16 && self.m4 < 16
    }
    fn registers(&self) -> [u8; 3] {
        [self.r1, self.r2, self.r3]
    }
    fn text(&self, _: At) -> String {
        format!("%r{},%r{},{},{}", self.r1, self.r2, self.r3, self.m4)
    }
}
impl Operands for Ri {
    #[inline(always)]
    fn is_valid(&self) -> bool {
        self.r1 < 16 && self.r3 < 16
    }
    fn registers(&self) -> [u8; 3] {
        [self.r1, 0, self.r3]
    }
    fn text(&self, _: At) -> String {
        format!("%r{},{}", self.r1, self.i2)
    }
}
impl Operands for Rel {
    #[inline(always)]
    fn is_valid(&self) -> bool {
        self.r1 < 16 && self.r3 < 16
    }
    #[inline(always)]
    fn variant(&self) -> u8 {
        self.r1
    }
    #[inline(always)]
    fn target(&self) -> i64 {
        self.target
    }
    fn registers(&self) -> [u8; 3] {
        [self.r1, 0, self.r3]
    }
    fn text(&self, at: At) -> String {
        let mut text = format!("%r{},", self.r1);
        if self.r3 != 0 {
            let _ = write!(text, "%r{},", self.r3);
        }
        text + &relative(self.target, at)
    }
}
impl Operands for CompareBranch {
    #[inline(always)]
    fn is_valid(&self) -> bool {
        self.r1 < 16 && self.r2 < 16 && self.m3 < 16
    }
    #[inline(always)]
    fn variant(&self) -> u8 {
        self.m3
    }
    #[inline(always)]
    fn target(&self) -> i64 {
        self.target as i64
    }
    fn registers(&self) -> [u8; 3] {
        [self.r1, self.r2, 0]
    }
    fn text(&self, at: At) -> String {
        format!("%r{},{},{},{}", self.r1, self.r2 | self.i2, self.m3, relative(self.target as i64, at))
    }
}
impl Operands for Rief {
    #[inline(always)]
    fn is_valid(&self) -> bool {
        self.r1 < 16 && self.r2 < 16
    }
    fn registers(&self) -> [u8; 3] {
        [self.r1, self.r2, 0]
    }
    fn text(&self, _: At) -> String {
        format!("%r{},%r{},{},{},{}", self.r1, self.r2, self.i3, self.i4, self.i5)
    }
}
impl Operands for Ris {
    #[inline(always)]
    fn is_valid(&self) -> bool {
        self.r1 < 16 && self.r2 < 16 && self.m3 < 16 && self.b4 <= NO_REGISTER
    }
    fn registers(&self) -> [u8; 3] {
        [self.r1, self.r2, 0]
    }
    fn text(&self, _: At) -> String {
        format!(
            "%r{},{},{},{}",
            self.r1,
            self.r2 | self.i2,
            self.m3,
            storage(self.d4 as i64, NO_REGISTER, self.b4)
        )
    }
}
impl Operands for Rx {
    const INDEXED: bool = true;

    #[inline(always)]
    fn is_valid(&self) -> bool {
        self.r1 < 16 && self.r3 < 16 && self.x2 <= NO_REGISTER && self.b2 <= NO_REGISTER
    }
    #[inline(always)]
    fn variant(&self) -> u8 {
        (self.x2 != NO_REGISTER) as u8
    }
    fn registers(&self) -> [u8; 3] {
        [self.r1, 0, self.r3]
    }
    fn text(&self, _: At) -> String {
        format!("%r{},{}", self.r1, storage(self.d2 as i64, self.x2, self.b2))
    }
}
impl Operands for Rs {
    #[inline(always)]
    fn is_valid(&self) -> bool {
        self.r1 < 16 && self.r3 < 16 && self.b2 <= NO_REGISTER
    }
    fn registers(&self) -> [u8; 3] {
        [self.r1, 0, self.r3]
    }
    fn text(&self, _: At) -> String {
        format!("%r{},%r{},{}", self.r1, self.r3, storage(self.d2 as i64, NO_REGISTER, self.b2))
    }
}
impl Operands for Si {
    #[inline(always)]
    fn is_valid(&self) -> bool {
        self.b1 <= NO_REGISTER
    }
    fn text(&self, _: At) -> String {
        format!("{},{}", storage(self.d1 as i64, NO_REGISTER, self.b1), self.i2)
    }
}
impl Operands for Ss {
    #[inline(always)]
    fn is_valid(&self) -> bool {
        self.b1 <= NO_REGISTER && self.b2 <= NO_REGISTER
    }
    fn registers(&self) -> [u8; 3] {
        [self.l >> 4, 0, self.l & 15]
    }
    fn text(&self, _: At) -> String {
        let second = storage(self.d2 as i64, NO_REGISTER, self.b2);
        format!("{}[{}],{second}", storage(self.d1 as i64, NO_REGISTER, self.b1), self.l)
    }
}

macro_rules! formats {
    ($($(#[$doc:meta])* $marker:ident = $name:literal -> $operands:ident |$raw:ident, $at:ident| $extract:expr;)*) => {
        $(
            $(#[$doc])*
            #[doc = concat!("Format ", $name, ".")]
            pub enum $marker {}

            impl Format for $marker {
                type Operands = $operands;
                const NAME: &'static str = $name;
                #[inline]
                fn extract($raw: Raw, $at: At) -> $operands {
                    let _ = $at;
                    $extract
                }
            }
        )*
    };
}

/// The format markers, under the manual's names.
#[allow(non_camel_case_types)]
pub mod formats {
    use super::*;

    formats! {
        E = "E" -> None_ |_raw, at| None_ {};
        I = "I" -> Imm8 |raw, at| Imm8 { i: raw.bits(8, 8) as u8 };
        RR = "RR" -> Rr |raw, at| Rr { r1: raw.nibble(8), r2: raw.nibble(12), next: at.next() };
        RRE = "RRE" -> Rr |raw, at| Rr { r1: raw.nibble(24), r2: raw.nibble(28), next: at.next() };
        /// RRF-a to RRF-e.
        RRF = "RRF" -> Rrf |raw, at| Rrf { r1: raw.nibble(24), r2: raw.nibble(28), r3: raw.nibble(16), m4: raw.nibble(20) };
        /// R1 stands in bits 16-19, R3 in 24-27.
        RRD = "RRD" -> Rrf |raw, at| Rrf { r1: raw.nibble(16), r2: raw.nibble(28), r3: raw.nibble(24), m4: 0 };
        RI_a = "RI-a" -> Ri |raw, at| Ri { r1: raw.nibble(8), r3: 0, i2: raw.signed16(16) };
        RI_b = "RI-b" -> Rel |raw, at| Rel { r1: raw.nibble(8), r3: 0, next: at.next(), target: at.target(raw.signed16(16)) };
        RI_c = "RI-c" -> Rel |raw, at| Rel { r1: raw.nibble(8), r3: 0, next: at.next(), target: at.target(raw.signed16(16)) };
        RIL_a = "RIL-a" -> Ri |raw, at| Ri { r1: raw.nibble(8), r3: 0, i2: raw.signed32(16) };
        RIL_b = "RIL-b" -> Rel |raw, at| Rel { r1: raw.nibble(8), r3: 0, next: at.next(), target: at.target(raw.signed32(16)) };
        RIL_c = "RIL-c" -> Rel |raw, at| Rel { r1: raw.nibble(8), r3: 0, next: at.next(), target: at.target(raw.signed32(16)) };
        /// COMPARE IMMEDIATE AND TRAP: M3 in bits 32-35.
        RIE_a = "RIE-a" -> Ri |raw, at| Ri { r1: raw.nibble(8), r3: raw.nibble(32), i2: raw.signed16(16) };
        RIE_b = "RIE-b" -> CompareBranch |raw, at| CompareBranch {
            r1: raw.nibble(8), r2: raw.nibble(12), m3: raw.nibble(32), i2: 0, target: at.target(raw.signed16(16)) as i32 };
        RIE_c = "RIE-c" -> CompareBranch |raw, at| CompareBranch {
            r1: raw.nibble(8), r2: 0, m3: raw.nibble(12), i2: raw.bits(32, 8) as u8, target: at.target(raw.signed16(16)) as i32 };
        /// R3 in bits 12-15.
        RIE_d = "RIE-d" -> Ri |raw, at| Ri { r1: raw.nibble(8), r3: raw.nibble(12), i2: raw.signed16(16) };
        RIE_e = "RIE-e" -> Rel |raw, at| Rel { r1: raw.nibble(8), r3: raw.nibble(12), next: at.next(), target: at.target(raw.signed16(16)) };
        RIE_f = "RIE-f" -> Rief |raw, at| Rief {
            selected: selected(raw.bits(16, 8) as u32 & 63, raw.bits(24, 8) as u32 & 63),
            r1: raw.nibble(8), r2: raw.nibble(12), i3: raw.bits(16, 8) as u8, i4: raw.bits(24, 8) as u8, i5: raw.bits(32, 8) as u8 };
        /// M3 in bits 12-15.
        RIE_g = "RIE-g" -> Ri |raw, at| Ri { r1: raw.nibble(8), r3: raw.nibble(12), i2: raw.signed16(16) };
        RIS = "RIS" -> Ris |raw, at| Ris {
            r1: raw.nibble(8), r2: 0, m3: raw.nibble(12), b4: raw.base(16), d4: raw.d12(20), i2: raw.bits(32, 8) as u8 };
        RRS = "RRS" -> Ris |raw, at| Ris {
            r1: raw.nibble(8), r2: raw.nibble(12), m3: raw.nibble(32), b4: raw.base(16), d4: raw.d12(20), i2: 0 };
        /// RX-a and RX-b.
        RX = "RX" -> Rx |raw, at| Rx {
            r1: raw.nibble(8), x2: raw.base(12), b2: raw.base(16), r3: 0, d2: raw.d12(20) as i32, next: at.next() };
        /// RXY-a and RXY-b.
        RXY = "RXY" -> Rx |raw, at| Rx {
            r1: raw.nibble(8), x2: raw.base(12), b2: raw.base(16), r3: 0, d2: raw.d20(20), next: at.next() };
        /// M3 in bits 32-35.
        RXE = "RXE" -> Rx |raw, at| Rx {
            r1: raw.nibble(8), x2: raw.base(12), b2: raw.base(16), r3: raw.nibble(32), d2: raw.d12(20) as i32, next: at.next() };
        /// R3 in bits 8-11, R1 in bits 32-35.
        RXF = "RXF" -> Rx |raw, at| Rx {
            r1: raw.nibble(32), x2: raw.base(12), b2: raw.base(16), r3: raw.nibble(8), d2: raw.d12(20) as i32, next: at.next() };
        /// RS-a and RS-b.
        RS = "RS" -> Rs |raw, at| Rs { r1: raw.nibble(8), r3: raw.nibble(12), b2: raw.base(16), d2: raw.d12(20) as i32 };
        /// RSY-a and RSY-b.
        RSY = "RSY" -> Rs |raw, at| Rs { r1: raw.nibble(8), r3: raw.nibble(12), b2: raw.base(16), d2: raw.d20(20) };
        /// L1 in bits 8-11 as `r1`.
        RSL = "RSL" -> Rs |raw, at| Rs { r1: raw.nibble(8), r3: 0, b2: raw.base(16), d2: raw.d12(20) as i32 };
        RSI = "RSI" -> Rel |raw, at| Rel { r1: raw.nibble(8), r3: raw.nibble(12), next: at.next(), target: at.target(raw.signed16(16)) };
        S = "S" -> Si |raw, at| Si { b1: raw.base(16), d1: raw.d12(20) as i32, i2: 0 };
        SI = "SI" -> Si |raw, at| Si { b1: raw.base(16), d1: raw.d12(20) as i32, i2: raw.bits(8, 8) as i32 };
        SIY = "SIY" -> Si |raw, at| Si { b1: raw.base(16), d1: raw.d20(20), i2: raw.bits(8, 8) as i32 };
        SIL = "SIL" -> Si |raw, at| Si { b1: raw.base(16), d1: raw.d12(20) as i32, i2: raw.signed16(32) };
        /// SS-a to SS-f: the byte at bits 8-15 is L, L1/L2, L1/I3 or R1/R3.
        SS = "SS" -> Ss |raw, at| Ss {
            l: raw.bits(8, 8) as u8, b1: raw.base(16), d1: raw.d12(20), b2: raw.base(32), d2: raw.d12(36) };
        SSE = "SSE" -> Ss |raw, at| Ss { l: 0, b1: raw.base(16), d1: raw.d12(20), b2: raw.base(32), d2: raw.d12(36) };
        /// R3 in bits 8-11 as `l1`.
        SSF = "SSF" -> Ss |raw, at| Ss {
            l: raw.bits(8, 8) as u8 & 0xf0, b1: raw.base(16), d1: raw.d12(20), b2: raw.base(32), d2: raw.d12(36) };
        /// Branch prediction preload: nothing of it is used.
        MII = "MII" -> None_ |_raw, at| None_ {};
        /// Branch prediction preload: nothing of it is used.
        SMI = "SMI" -> None_ |_raw, at| None_ {};
    }
}
