//! The program-status word (chapter 4, *Program-Status Word*).

/// Masks of the first doubleword of the PSW, named as in the manual.
pub mod psw_bits {
    /// Bit 1: PER mask (R).
    pub const PER: u64 = 1 << 62;
    /// Bit 5: DAT mode (T).
    pub const DAT: u64 = 1 << 58;
    /// Bit 6: input/output mask (I).
    pub const IO: u64 = 1 << 57;
    /// Bit 7: external mask (E).
    pub const EXTERNAL: u64 = 1 << 56;
    /// Bits 8-11: PSW key.
    pub const KEY: u64 = 0xf << 52;
    /// Bit 13: machine-check mask (M).
    pub const MACHINE_CHECK: u64 = 1 << 50;
    /// Bit 14: wait state (W).
    pub const WAIT: u64 = 1 << 49;
    /// Bit 15: problem state (P).
    pub const PROBLEM: u64 = 1 << 48;
    /// Bits 16-17: address-space control (AS).
    pub const AS: u64 = 3 << 46;
    /// Bits 18-19: condition code.
    pub const CC: u64 = 3 << 44;
    /// Bits 20-23: program mask.
    pub const PROGRAM_MASK: u64 = 0xf << 40;
    /// Bit 20: fixed-point-overflow mask.
    pub const FIXED_POINT_OVERFLOW: u64 = 1 << 43;
    /// Bit 21: decimal-overflow mask.
    pub const DECIMAL_OVERFLOW: u64 = 1 << 42;
    /// Bit 22: hexadecimal-floating-point exponent-underflow mask.
    pub const HFP_UNDERFLOW: u64 = 1 << 41;
    /// Bit 23: hexadecimal-floating-point significance mask.
    pub const HFP_SIGNIFICANCE: u64 = 1 << 40;
    /// Bit 24: reserved for controls (RI): always zero here.
    pub const RI: u64 = 1 << 39;
    /// Bit 31: extended addressing mode (EA).
    pub const EA: u64 = 1 << 32;
    /// Bit 32: basic addressing mode (BA).
    pub const BA: u64 = 1 << 31;
    /// Bit 12 of the eight-byte (short) PSW: always one there, zero in the 16-byte PSW.
    pub const SHORT: u64 = 1 << 51;
    /// Bits of the first doubleword that must be zero: 0, 2-4, 12, 24-30 and 33-63.
    pub const RESERVED: u64 = 0xb808_00fe_7fff_ffff;
}

/// The addressing mode (bits 31 and 32 of the PSW).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressingMode {
    /// 24-bit.
    Bits24,
    /// 31-bit.
    Bits31,
    /// 64-bit.
    Bits64,
}

impl AddressingMode {
    /// The bits of an address that take part.
    pub const fn mask(self) -> u64 {
        match self {
            Self::Bits24 => 0xff_ffff,
            Self::Bits31 => 0x7fff_ffff,
            Self::Bits64 => u64::MAX,
        }
    }
}

/// The translation mode (bits 5, 16 and 17 of the PSW).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressSpace {
    /// DAT off.
    Real,
    /// Primary-space mode.
    Primary,
    /// Access-register mode.
    AccessRegister,
    /// Secondary-space mode.
    Secondary,
    /// Home-space mode.
    Home,
}

/// The 16-byte PSW.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Psw {
    /// Bits 0-63.
    pub mask: u64,
    /// Bits 64-127: the instruction address.
    pub address: u64,
}

impl Psw {
    /// The condition code, 0 to 3.
    pub const fn cc(self) -> u8 {
        (self.mask >> 44 & 3) as u8
    }

    /// The PSW key, 0 to 15.
    pub const fn key(self) -> u8 {
        (self.mask >> 52 & 0xf) as u8
    }

    /// Whether the CPU is in the wait state.
    pub const fn wait(self) -> bool {
        self.mask & psw_bits::WAIT != 0
    }

    /// A wait that no I/O, external or machine-check interruption can end.
    pub const fn disabled_wait(self) -> bool {
        self.wait() && self.mask & (psw_bits::IO | psw_bits::EXTERNAL | psw_bits::MACHINE_CHECK) == 0
    }

    /// The addressing mode; `None` for the invalid combination EA=1, BA=0.
    pub const fn addressing_mode(self) -> Option<AddressingMode> {
        match (self.mask & psw_bits::EA != 0, self.mask & psw_bits::BA != 0) {
            (false, false) => Some(AddressingMode::Bits24),
            (false, true) => Some(AddressingMode::Bits31),
            (true, true) => Some(AddressingMode::Bits64),
            (true, false) => None,
        }
    }

    /// The translation mode.
    pub const fn address_space(self) -> AddressSpace {
        if self.mask & psw_bits::DAT == 0 {
            return AddressSpace::Real;
        }
        match self.mask >> 46 & 3 {
            0 => AddressSpace::Primary,
            1 => AddressSpace::AccessRegister,
            2 => AddressSpace::Secondary,
            _ => AddressSpace::Home,
        }
    }

    /// Whether loading this PSW is an early PSW specification exception: a reserved bit is one, the
    /// addressing mode is invalid, or the address has bits outside the mode (chapter 6, *Early
    /// Exception Recognition*). An odd address is a late one and not reported here.
    pub const fn is_invalid(self) -> bool {
        if self.mask & psw_bits::RESERVED != 0 {
            return true;
        }
        match self.addressing_mode() {
            None => true,
            Some(mode) => self.address & !mode.mask() != 0,
        }
    }

    /// Expands an eight-byte PSW as LPSW and the IPL do: bit 12 is inverted and the 31-bit address
    /// moves to the second doubleword (chapter 10, *LOAD PSW*).
    pub const fn from_short(short: u64) -> Self {
        Self { mask: (short & !0x7fff_ffff) ^ psw_bits::SHORT, address: short & 0x7fff_ffff }
    }
}
