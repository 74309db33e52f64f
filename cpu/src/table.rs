//! The instruction table: one row per instruction, joined from the modules of `instructions`, and the
//! decoder built from it.
//!
//! A row names opcode, mnemonic, facility, format and semantic function, and the checks common to many
//! instructions: privilege, register parity, AFP enablement. The checks are made once, when an
//! instruction is decoded, since what they depend on is part of a block's key.

use std::sync::LazyLock;

use crate::execute::{
    Extract, Handler, branch_handler, branch_variants, handler, index_variants, inverted_handler,
    inverted_variants,
};
use crate::format::{At, Format, Operands, Raw};
use crate::{Cpu, Flow};
use zarch::{Facility, PAGE_SIZE};

/// The checks a row asks for, and how the instruction affects block building.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// Privileged operation in the problem state.
    pub const PRIVILEGED: u16 = 1 << 0;
    /// R1 must be even.
    pub const EVEN_R1: u16 = 1 << 1;
    /// R2 must be even.
    pub const EVEN_R2: u16 = 1 << 2;
    /// R3 must be even.
    pub const EVEN_R3: u16 = 1 << 3;
    /// Data exception with DXC 2 unless the AFP-register-control bit is one (BFP instructions).
    pub const BFP: u16 = 1 << 4;
    /// R1 is a floating-point register: DXC 1 unless it is 0, 2, 4, 6 or AFP registers are enabled.
    pub const FPR_R1: u16 = 1 << 5;
    /// R2 is a floating-point register.
    pub const FPR_R2: u16 = 1 << 6;
    /// R3 is a floating-point register.
    pub const FPR_R3: u16 = 1 << 7;
    /// R1 names a floating-point-register pair: specification unless bit 2 of the number is zero.
    pub const FPAIR_R1: u16 = 1 << 8;
    /// R2 names a floating-point-register pair.
    pub const FPAIR_R2: u16 = 1 << 9;
    /// Nothing behind it can be reached from it: the block ends here.
    pub const ENDS_BLOCK: u16 = 1 << 10;
    /// A branch on condition: with a mask of ones (and R2 not zero in format RR) the block ends here.
    pub const ENDS_IF_ALWAYS: u16 = 1 << 12;
    /// Reads time: with virtual time it stands alone in its block, so that the count is exact.
    pub const TIMING: u16 = 1 << 11;

    /// Whether any of `bits` is set.
    pub const fn any(self, bits: u16) -> bool {
        self.0 & bits != 0
    }
}

/// Handlers of one semantic function, of which the operands choose.
#[derive(Clone, Copy)]
enum Variants {
    One(Handler),
    Index([Handler; 2]),
    Mask([Handler; 16]),
}

/// A format joined with a semantic function: what `Marker::of(function)` makes.
#[derive(Clone, Copy)]
pub struct Exec {
    variants: Variants,
    variant: fn(Raw) -> u8,
    /// For relative branches: the handlers between two copies of a loop's body.
    inverted: Option<Variants>,
    target: fn(Raw, At) -> i64,
    pub(crate) extract: Extract,
    /// A branch whose target is fixed relative to the instruction.
    pub(crate) relative: bool,
    /// The manual's name of the format.
    pub format: &'static str,
    registers: fn(Raw) -> [u8; 3],
    text: fn(Raw, At) -> String,
}

impl Exec {
    fn choose(&self, variants: &Variants, raw: Raw) -> Handler {
        match variants {
            Variants::One(handler) => *handler,
            Variants::Index(handlers) => handlers[(self.variant)(raw) as usize & 1],
            Variants::Mask(handlers) => handlers[(self.variant)(raw) as usize & 15],
        }
    }

    /// The handler for the instruction `raw`.
    pub(crate) fn handler(&self, raw: Raw) -> Handler {
        self.choose(&self.variants, raw)
    }

    /// The handler of a relative branch between two copies of a loop's body.
    pub(crate) fn inverted(&self, raw: Raw) -> Option<Handler> {
        self.inverted.as_ref().map(|variants| self.choose(variants, raw))
    }

    /// The target of a relative branch on condition with a mask of ones.
    pub(crate) fn always_to(&self, raw: Raw, at: At) -> Option<i64> {
        let always = self.relative && matches!(self.variants, Variants::Mask(_)) && (self.variant)(raw) == 15;
        always.then(|| self.target(raw, at))
    }

    /// The target of a relative branch, relative to the start of the page.
    pub(crate) fn target(&self, raw: Raw, at: At) -> i64 {
        (self.target)(raw, at)
    }
}

/// Joins a format with a semantic function of its operands; a function of other operands does not
/// compile.
pub trait FormatExt: Format + Sized {
    /// The row's last part: `RX::of(l)`.
    fn of<F: Fn(&mut Cpu, Self::Operands) -> Flow + Copy + 'static>(function: F) -> Exec;

    /// The last part of a branch's row: its handler goes on at a known target without leaving.
    fn branch<F: Fn(&mut Cpu, Self::Operands) -> Flow + Copy + 'static>(function: F) -> Exec {
        Exec { variants: Variants::One(branch_handler::<Self::Operands, F>(function)), ..Self::of(function) }
    }

    /// The last part of a row of a branch to a fixed relative target, which may be linked.
    fn relative_branch<F: Fn(&mut Cpu, Self::Operands) -> Flow + Copy + 'static>(function: F) -> Exec {
        let inverted = Some(Variants::One(inverted_handler::<Self::Operands, F>(function)));
        Exec { relative: true, inverted, ..Self::branch(function) }
    }

    /// The last part of a row of a relative branch with a mask: each mask has its own handler.
    fn masked_branch<F: Fn(&mut Cpu, Self::Operands) -> Flow + Copy + 'static>(function: F) -> Exec {
        Exec {
            variants: Variants::Mask(branch_variants(function)),
            inverted: Some(Variants::Mask(inverted_variants(function))),
            ..Self::relative_branch(function)
        }
    }
}

impl<T: Format> FormatExt for T {
    fn of<F: Fn(&mut Cpu, T::Operands) -> Flow + Copy + 'static>(function: F) -> Exec {
        Exec {
            variants: match T::Operands::INDEXED {
                true => Variants::Index(index_variants(function)),
                false => Variants::One(handler::<T::Operands, F>(function)),
            },
            variant: |raw| T::extract(raw, At { offset: 0, length: 0 }).variant(),
            extract: crate::execute::extract::<T>,
            inverted: None,
            target: |raw, at| T::extract(raw, at).target(),
            relative: false,
            format: T::NAME,
            registers: |raw| T::extract(raw, At { offset: 0, length: 0 }).registers(),
            text: |raw, at| T::extract(raw, at).text(at),
        }
    }
}

/// One instruction.
#[derive(Clone, Copy)]
pub struct Row {
    /// 8, 12 or 16 opcode bits: one byte, a byte and the nibble at bits 12-15, or a byte and the second
    /// opcode byte, wherever the first says it stands.
    pub opcode: u16,
    /// The manual's mnemonic.
    pub mnemonic: &'static str,
    /// The facility the instruction belongs to; operation exception without it.
    pub facility: Facility,
    /// Checks and block properties.
    pub flags: Flags,
    /// Format and function.
    pub exec: Exec,
}

/// A row without checks. The methods of [`Row`] add them.
pub fn row(opcode: u16, mnemonic: &'static str, facility: Facility, exec: Exec) -> Row {
    Row { opcode, mnemonic, facility, flags: Flags::default(), exec }
}

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bits:expr;)*) => {
        $($(#[$doc])* pub fn $name(mut self) -> Row { self.flags.0 |= $bits; self })*
    };
}

impl Row {
    flags! {
        /// Privileged.
        privileged = Flags::PRIVILEGED;
        /// R1 must be even.
        even1 = Flags::EVEN_R1;
        /// R2 must be even.
        even2 = Flags::EVEN_R2;
        /// R3 must be even.
        even3 = Flags::EVEN_R3;
        /// A binary-floating-point instruction (including FPC access).
        bfp = Flags::BFP;
        /// R1 is a floating-point register.
        fpr1 = Flags::FPR_R1;
        /// R2 is a floating-point register.
        fpr2 = Flags::FPR_R2;
        /// R3 is a floating-point register.
        fpr3 = Flags::FPR_R3;
        /// R1 is a floating-point-register pair.
        fpair1 = Flags::FPAIR_R1;
        /// R2 is a floating-point-register pair.
        fpair2 = Flags::FPAIR_R2;
        /// Ends the block: an unconditional branch, or a change of PSW or control registers.
        ends = Flags::ENDS_BLOCK;
        /// A branch on condition, which ends the block when its mask is all ones.
        ends_if_always = Flags::ENDS_IF_ALWAYS;
        /// Reads or sets time.
        timing = Flags::TIMING;
    }

    /// Whether nothing behind the instruction `raw` is reached from it.
    pub(crate) fn ends_block(&self, raw: Raw) -> bool {
        let [r1, r2, _] = self.registers(raw);
        let always = self.flags.any(Flags::ENDS_IF_ALWAYS) && r1 == 15 && (self.length() != 2 || r2 != 0);
        always || self.flags.any(Flags::ENDS_BLOCK)
    }

    /// Length in bytes, from the opcode.
    pub fn length(&self) -> u8 {
        Raw((self.first_byte() as u64) << 56).length()
    }

    /// The first opcode byte.
    pub fn first_byte(&self) -> u8 {
        match self.opcode {
            o @ 0..=0xff => o as u8,
            0x100..=0x1ff => 0x01,
            o @ 0x200..=0xfff => (o >> 4) as u8,
            o => (o >> 8) as u8,
        }
    }

    /// The bit position and length of the rest of the opcode; length 0 when the first byte is all.
    pub fn extension(&self) -> (u32, u32) {
        extension(self.first_byte())
    }

    /// The instruction with the opcode in place and zeros elsewhere.
    pub fn template(&self) -> Raw {
        let (position, length) = self.extension();
        let mut raw = (self.first_byte() as u64) << 56;
        if length > 0 {
            let rest = self.opcode as u64 & ((1 << length) - 1);
            raw |= rest << (64 - position - length);
        }
        Raw(raw)
    }

    /// The register fields R1, R2, R3 of an instruction.
    pub fn registers(&self, raw: Raw) -> [u8; 3] {
        (self.exec.registers)(raw)
    }

    /// The instruction in assembler notation.
    pub fn disassemble(&self, raw: Raw, at: At) -> String {
        let operands = (self.exec.text)(raw, at);
        format!("{:<8}{operands}", self.mnemonic.to_lowercase()).trim_end().to_string()
    }
}

/// Where the rest of the opcode stands, by first byte (chapter 5, *Instruction Formats*).
fn extension(first: u8) -> (u32, u32) {
    match first {
        0xa5 | 0xa7 | 0xc0 | 0xc2 | 0xc4 | 0xc6 | 0xc8 | 0xcc => (12, 4),
        0x01 | 0xb2 | 0xb3 | 0xb9 | 0xe5 => (8, 8),
        0xe3 | 0xe6 | 0xe7 | 0xeb | 0xec | 0xed => (40, 8),
        _ => (0, 0),
    }
}

/// Finds rows by instruction.
struct Decoder {
    rows: Vec<Row>,
    /// Row number plus one by first byte and rest of the opcode.
    slots: Vec<u16>,
}

impl Decoder {
    fn new(rows: Vec<Row>) -> Self {
        let mut slots = vec![0u16; 1 << 16];
        for (n, row) in rows.iter().enumerate() {
            let slot = &mut slots[Self::slot(row.template())];
            assert!(*slot == 0, "{} and {} have one opcode", row.mnemonic, rows[*slot as usize - 1].mnemonic);
            *slot = n as u16 + 1;
        }
        Self { rows, slots }
    }

    fn slot(raw: Raw) -> usize {
        let first = raw.bits(0, 8);
        let rest = match extension(first as u8) {
            (_, 0) => 0,
            (position, length) => raw.bits(position, length),
        };
        (first << 8 | rest) as usize
    }
}

static DECODER: LazyLock<Decoder> = LazyLock::new(|| Decoder::new(crate::instructions::rows()));

/// Every row.
pub fn rows() -> &'static [Row] {
    &DECODER.rows
}

/// The row of an instruction; `None` for an opcode that is in no row.
pub fn find(raw: Raw) -> Option<&'static Row> {
    match DECODER.slots[Decoder::slot(raw)] {
        0 => None,
        n => Some(&DECODER.rows[n as usize - 1]),
    }
}

/// The instruction at the beginning of `bytes` in assembler notation, for reports; branch targets are relative to
/// the page of `address`.
pub fn disassemble(bytes: &[u8], address: u64) -> String {
    let mut eight = [0; 8];
    let length = bytes.len().min(6);
    eight[..length].copy_from_slice(&bytes[..length]);
    let raw = Raw(u64::from_be_bytes(eight));
    match find(raw) {
        Some(row) if usize::from(row.length()) <= length => {
            row.disassemble(raw, At { offset: (address % PAGE_SIZE) as u16, length: row.length() })
        }
        _ => "(no instruction that is known here)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_disassembled() {
        for (bytes, text) in [
            (&[0xb2, 0x20, 0x00, 0x23, 9, 9][..], "servc   %r2,%r3"),
            (&[0x83, 0x24, 0x03, 0x08], "diag    %r2,%r4,776"),
            (&[0xb2, 0x20, 0x00], "(no instruction that is known here)"),
            (&[], "(no instruction that is known here)"),
            (&[0xff; 6], "(no instruction that is known here)"),
        ] {
            assert_eq!(disassemble(bytes, 0x1ffe), text, "{bytes:x?}");
        }
    }

    #[test]
    fn every_row_decodes_to_itself() {
        for row in rows() {
            let found = find(row.template()).expect(row.mnemonic);
            assert_eq!((found.mnemonic, found.opcode), (row.mnemonic, row.opcode));
        }
    }

    #[test]
    fn mnemonics_are_unique() {
        let mut names: Vec<_> = rows().iter().map(|r| r.mnemonic).collect();
        names.sort_unstable();
        for pair in names.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
    }
}
