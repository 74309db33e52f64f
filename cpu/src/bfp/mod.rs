//! Binary floating point (chapter 9, *Floating-Point Overview*, and chapter 19): numbers apart from any
//! register.
//!
//! Arithmetic is exact first: [`Value`] holds any operand, and the result of any operation, with an
//! exponent of any size and a last bit that is one when digits were dropped behind it. [`deliver`] then
//! rounds once to the target and decides, as the manual's tables do, which flags are set, which trap is
//! taken and what the register receives. Keeping both apart gives what host arithmetic cannot: results
//! with a scaled exponent, truncated told from incremented, tininess seen before rounding, and rounding
//! to prepare for shorter precision.

mod arithmetic;
mod deliver;
mod native;

pub use arithmetic::{add, compare, divide, multiply, multiply_add, propagate, square_root};
pub use deliver::{Control, Outcome, deliver, divide_to_integer, round_to_integer, shorten, to_integer};
pub use native::{Absent, Native};

/// Flag and mask bits as they stand in a byte of the floating-point-control register.
pub mod flag {
    /// IEEE invalid operation.
    pub const INVALID: u8 = 0x80;
    /// IEEE division by zero.
    pub const DIVIDE: u8 = 0x40;
    /// IEEE overflow.
    pub const OVERFLOW: u8 = 0x20;
    /// IEEE underflow.
    pub const UNDERFLOW: u8 = 0x10;
    /// IEEE inexact.
    pub const INEXACT: u8 = 0x08;
}

/// A rounding method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, ties to even.
    NearestEven,
    /// To the nearest, ties away from zero.
    NearestAway,
    /// To prepare for shorter precision: what is inexact gets a last bit of one.
    Shorter,
    /// Toward zero.
    Zero,
    /// Toward plus infinity.
    Up,
    /// Toward minus infinity.
    Down,
}

impl Rounding {
    /// The method of the BFP rounding mode in the floating-point-control register.
    #[inline(always)]
    pub fn of_fpc(fpc: u32) -> Self {
        match fpc & 7 {
            1 => Self::Zero,
            2 => Self::Up,
            3 => Self::Down,
            7 => Self::Shorter,
            // 4 to 6 never get into the register.
            _ => Self::NearestEven,
        }
    }

    /// The method that a modifier field (M3 or M4) names; `None` when it names none. Method 3 belongs to
    /// the floating-point extension facility.
    #[inline(always)]
    pub fn of_modifier(m: u8, fpc: u32, extension: bool) -> Option<Self> {
        Some(match m {
            0 => Self::of_fpc(fpc),
            1 => Self::NearestAway,
            3 if extension => Self::Shorter,
            4 => Self::NearestEven,
            5 => Self::Zero,
            6 => Self::Up,
            7 => Self::Down,
            _ => return None,
        })
    }

    /// Whether a magnitude is incremented: `rest` was dropped behind it, `half` is half of its last bit.
    #[inline(always)]
    fn increments(self, negative: bool, odd: bool, rest: u128, half: u128) -> bool {
        rest != 0
            && match self {
                Self::NearestEven => rest > half || rest == half && odd,
                Self::NearestAway => rest >= half,
                Self::Shorter => !odd,
                Self::Zero => false,
                Self::Up => !negative,
                Self::Down => negative,
            }
    }
}

/// A format: sign, biased exponent, fraction. Numbers in it are right-aligned in 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    exponent_bits: u32,
    fraction_bits: u32,
}

impl Format {
    /// 32 bits.
    pub const SHORT: Self = Self { exponent_bits: 8, fraction_bits: 23 };
    /// 64 bits.
    pub const LONG: Self = Self { exponent_bits: 11, fraction_bits: 52 };
    /// 128 bits.
    pub const EXTENDED: Self = Self { exponent_bits: 15, fraction_bits: 112 };

    #[inline(always)]
    const fn width(self) -> u32 {
        1 + self.exponent_bits + self.fraction_bits
    }

    #[inline(always)]
    const fn ones(self) -> u32 {
        (1 << self.exponent_bits) - 1
    }

    #[inline(always)]
    const fn bias(self) -> i32 {
        (self.ones() >> 1) as i32
    }

    /// The sign bit.
    #[inline(always)]
    pub const fn sign(self) -> u128 {
        1 << (self.width() - 1)
    }

    /// The largest finite number; its successor is infinity.
    #[inline(always)]
    const fn largest(self) -> u128 {
        self.infinity() - 1
    }

    #[inline(always)]
    const fn infinity(self) -> u128 {
        (self.ones() as u128) << self.fraction_bits
    }

    /// The exponent that a trapped overflow or underflow is scaled by.
    #[inline(always)]
    const fn scale(self) -> i32 {
        3 << (self.exponent_bits - 2)
    }

    /// The condition code of a result: zero, less than zero, greater than zero, NaN.
    #[inline(always)]
    pub fn condition(self, bits: u128) -> u8 {
        let magnitude = bits & (self.sign() - 1);
        if magnitude > self.infinity() {
            3
        } else if magnitude == 0 {
            0
        } else {
            2 - (bits & self.sign() != 0) as u8
        }
    }

    /// The bit that TEST DATA CLASS has for this number, right-aligned: bit 0 is signaling NaN with a
    /// minus sign, bit 11 is plus zero.
    pub fn class(self, bits: u128) -> u32 {
        let value = Value::of(self, bits);
        let pair = match value.class {
            Class::Zero => 10,
            Class::Finite if bits & self.infinity() != 0 => 8,
            Class::Finite => 6,
            Class::Infinity => 4,
            Class::Quiet => 2,
            Class::Signaling => 0,
        };
        (2 - value.negative as u32) << pair
    }
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Zero.
    Zero,
    /// A number that is not zero.
    Finite,
    /// Infinity.
    Infinity,
    /// A quiet NaN.
    Quiet,
    /// A signaling NaN.
    Signaling,
}

/// The leftmost bit of a significand.
const UNIT: u128 = 1 << 126;

/// A number, infinity or NaN of any format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// What it is.
    pub class: Class,
    /// The sign.
    pub negative: bool,
    /// The power of two that the significand's leftmost bit stands for.
    exponent: i32,
    /// For numbers: the leftmost one is bit 1, and bit 127 stands also for all that was dropped behind it. For
    /// NaNs: the fraction, left-aligned.
    significand: u128,
}

impl Value {
    /// The value of `bits`.
    #[inline(always)]
    pub fn of(format: Format, bits: u128) -> Self {
        let negative = bits & format.sign() != 0;
        let fraction = bits & ((1 << format.fraction_bits) - 1);
        let exponent = (bits >> format.fraction_bits) as u32 & format.ones();
        if exponent == format.ones() {
            let significand = fraction << (128 - format.fraction_bits);
            let class = match significand {
                0 => Class::Infinity,
                _ if significand >> 127 == 1 => Class::Quiet,
                _ => Class::Signaling,
            };
            return Self { class, negative, exponent: 0, significand };
        }
        let (fraction, exponent) = match exponent {
            0 => (fraction, 1),
            _ => (fraction | 1 << format.fraction_bits, exponent),
        };
        Self::normalized(
            negative,
            exponent as i32 - format.bias() + 126 - format.fraction_bits as i32,
            fraction,
        )
    }

    /// `magnitude` times two to the power of `exponent - 126`. Nothing may have been dropped behind it.
    #[inline(always)]
    fn normalized(negative: bool, exponent: i32, magnitude: u128) -> Self {
        if magnitude == 0 {
            return Self::zero(negative);
        }
        let shift = magnitude.leading_zeros() as i32 - 1;
        debug_assert!(shift >= 0);
        Self { class: Class::Finite, negative, exponent: exponent - shift, significand: magnitude << shift }
    }

    /// An integer below two to the power of 127.
    #[inline(always)]
    pub fn integer(negative: bool, magnitude: u128) -> Self {
        Self::normalized(negative, 126, magnitude)
    }

    #[inline(always)]
    fn zero(negative: bool) -> Self {
        Self { class: Class::Zero, negative, exponent: 0, significand: 0 }
    }

    #[inline(always)]
    fn infinity(negative: bool) -> Self {
        Self { class: Class::Infinity, negative, exponent: 0, significand: 0 }
    }

    /// The default quiet NaN.
    const fn default_nan() -> Self {
        Self { class: Class::Quiet, negative: false, exponent: 0, significand: 1 << 127 }
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        matches!(self.class, Class::Quiet | Class::Signaling)
    }

    /// A NaN made quiet.
    #[inline(always)]
    fn quieted(self) -> Self {
        Self { class: Class::Quiet, significand: self.significand | 1 << 127, ..self }
    }

    /// The value with its sign inverted, unless it is a NaN.
    #[inline(always)]
    pub fn negated(self) -> Self {
        Self { negative: self.negative ^ !self.is_nan(), ..self }
    }
}

/// The exact result of an operation, and [`flag::INVALID`] or [`flag::DIVIDE`] when the operation itself
/// raises an exception (the value is what a masked exception delivers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exact {
    /// The value.
    pub value: Value,
    /// The exceptions recognized so far.
    pub flags: u8,
}

impl From<Value> for Exact {
    #[inline(always)]
    fn from(value: Value) -> Self {
        Self { value, flags: 0 }
    }
}

#[cfg(test)]
mod tests;
