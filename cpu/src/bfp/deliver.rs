//! Rounding to a target, and what the floating-point-control register makes of it.

use super::arithmetic::{INVALID, product, propagate, quotient, sum};
use super::{Class, Exact, Format, Rounding, Value, flag};

/// What governs an operation.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// The mask byte of the floating-point-control register.
    pub masks: u8,
    /// The rounding method.
    pub rounding: Rounding,
    /// IEEE-inexact-exception control (XxC): inexact alone is not recognized.
    pub suppress_inexact: bool,
}

/// What an operation delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The result.
    pub bits: u128,
    /// Flags to be set in the floating-point-control register.
    pub flags: u8,
    /// The data-exception code of a trap, or zero. Codes 40 and 80 suppress the operation: result and
    /// flags do not count; with the others it is completed.
    pub dxc: u8,
}

impl Outcome {
    /// Whether the trap suppresses the operation.
    #[inline(always)]
    pub fn suppressed(self) -> bool {
        self.dxc & (flag::INVALID | flag::DIVIDE) != 0
    }
}

/// What is left of a significand after rounding.
#[derive(Clone, Copy)]
struct Rounded {
    kept: u128,
    inexact: bool,
    incremented: bool,
}

impl Rounded {
    /// The truncated (08) or incremented (0C) part of a data-exception code; zero when exact.
    #[inline(always)]
    fn code(self) -> u8 {
        if self.inexact { 0x08 | (self.incremented as u8) << 2 } else { 0 }
    }
}

/// Drops the last `drop` bits of a number's significand.
#[inline(always)]
fn round(value: Value, drop: u32, rounding: Rounding) -> Rounded {
    let (kept, rest, half) = match drop {
        0 => (value.significand, 0, 0),
        1..=127 => (value.significand >> drop, value.significand & ((1 << drop) - 1), 1 << (drop - 1)),
        // Less than half of the last bit.
        _ => (0, 1, 2),
    };
    let incremented = rounding.increments(value.negative, kept & 1 != 0, rest, half);
    Rounded { kept: kept + incremented as u128, inexact: rest != 0, incremented }
}

/// A number with its full precision in the format's bits, at an exponent that may be too large or small
/// for it by `scale`, which is added.
#[inline(always)]
fn pack(format: Format, value: Value, kept: u128, scale: i32) -> u128 {
    // An increment that carried out leaves zeros behind: adding the fields is still right.
    let exponent = value.exponent + scale + format.bias() - 1;
    debug_assert!((0..format.ones() as i32 - 1).contains(&exponent));
    sign(format, value) | ((exponent as u128) << format.fraction_bits) + kept
}

#[inline(always)]
fn sign(format: Format, value: Value) -> u128 {
    if value.negative { format.sign() } else { 0 }
}

/// Rounds an exact result to the target and applies masks, flags and traps (chapter 9, *IEEE Exceptions*;
/// chapter 19, figure *Results: Target Precision*).
#[inline(always)]
pub fn deliver(format: Format, exact: Exact, control: Control) -> Outcome {
    deliver_or_trap(format, exact, control, Trapped { format, scale: format.scale() })
}

/// LOAD ROUNDED: as [`deliver`], but a trapped overflow or underflow leaves the number, rounded to the
/// target's precision, in the source's format with the source's smaller scaling. The second result tells
/// that.
pub fn shorten(source: Format, target: Format, exact: Exact, control: Control) -> (Outcome, bool) {
    let trapped = Trapped { format: source, scale: (source.bias() + 1) / 2 };
    let outcome = deliver_or_trap(target, exact, control, trapped);
    (outcome, outcome.dxc & (flag::OVERFLOW | flag::UNDERFLOW) != 0)
}

/// Where the result of a trapped overflow or underflow goes.
#[derive(Clone, Copy)]
struct Trapped {
    format: Format,
    scale: i32,
}

impl Trapped {
    fn result(self, target: Format, value: Value, rounded: Rounded, kind: u8) -> Outcome {
        let scale = if kind == flag::OVERFLOW { -self.scale } else { self.scale };
        let kept = rounded.kept << (self.format.fraction_bits - target.fraction_bits);
        Outcome { bits: pack(self.format, value, kept, scale), flags: 0, dxc: kind | rounded.code() }
    }
}

#[inline(always)]
fn deliver_or_trap(format: Format, exact: Exact, control: Control, trapped: Trapped) -> Outcome {
    let value = exact.value;
    let trap = exact.flags & control.masks;
    if trap != 0 {
        return Outcome { bits: 0, flags: 0, dxc: trap };
    }
    let special = match value.class {
        Class::Finite => return deliver_number(format, value, control, trapped),
        Class::Zero => 0,
        Class::Infinity => format.infinity(),
        Class::Quiet | Class::Signaling => {
            format.infinity() | value.significand >> (128 - format.fraction_bits)
        }
    };
    Outcome { bits: sign(format, value) | special, flags: exact.flags, dxc: 0 }
}

fn deliver_number(format: Format, value: Value, control: Control, trapped: Trapped) -> Outcome {
    let Control { masks, rounding, .. } = control;
    let drop = 126 - format.fraction_bits;
    let full = round(value, drop, rounding);
    let carried = (full.kept >> (format.fraction_bits + 1)) as i32;
    if value.exponent + carried > format.bias() {
        if masks & flag::OVERFLOW != 0 {
            return trapped.result(format, value, full, flag::OVERFLOW);
        }
        // Infinity or the largest number, whichever the method rounds to from below.
        let up = rounding != Rounding::Shorter && rounding.increments(value.negative, true, 3, 2);
        let bits = sign(format, value) | (format.largest() + up as u128);
        let result = Rounded { kept: 0, inexact: true, incremented: up };
        return inexact(bits, result, flag::OVERFLOW, control);
    }
    // Tininess is looked for before rounding.
    if value.exponent <= -format.bias() {
        if masks & flag::UNDERFLOW != 0 {
            return trapped.result(format, value, full, flag::UNDERFLOW);
        }
        let denormal = round(value, drop + (1 - format.bias() - value.exponent) as u32, rounding);
        let bits = sign(format, value) | denormal.kept;
        let flags = if denormal.inexact { flag::UNDERFLOW } else { 0 };
        return inexact(bits, denormal, flags, control);
    }
    inexact(pack(format, value, full.kept, 0), full, 0, control)
}

/// Ends an operation whose only possible trap is that for an inexact result.
#[inline(always)]
fn inexact(bits: u128, result: Rounded, flags: u8, control: Control) -> Outcome {
    if !result.inexact || control.suppress_inexact {
        Outcome { bits, flags, dxc: 0 }
    } else if control.masks & flag::INEXACT != 0 {
        Outcome { bits, flags, dxc: result.code() }
    } else {
        Outcome { bits, flags: flags | flag::INEXACT, dxc: 0 }
    }
}

/// LOAD FP INTEGER: the nearest integral number of the same format.
#[inline(never)]
pub fn round_to_integer(format: Format, bits: u128, control: Control) -> Outcome {
    let value = Value::of(format, bits);
    if value.class != Class::Finite || value.exponent >= format.fraction_bits as i32 {
        let exact = propagate([value]).unwrap_or(value.into());
        return deliver(format, exact, control);
    }
    let rounded = round(value, (126 - value.exponent) as u32, control.rounding);
    let integer = Value::integer(value.negative, rounded.kept);
    let exact = deliver(format, integer.into(), Control { masks: 0, ..control });
    inexact(exact.bits, rounded, 0, control)
}

/// What a conversion to fixed point delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integer {
    /// The result; negative ones in twos complement.
    pub bits: u64,
    /// Flags to be set.
    pub flags: u8,
    /// The data-exception code of a trap, or zero.
    pub dxc: u8,
    /// The condition code.
    pub cc: u8,
}

/// Converts to an integer of `width` bits.
#[inline(never)]
pub fn to_integer(format: Format, bits: u128, width: u32, signed: bool, control: Control) -> Integer {
    let value = Value::of(format, bits);
    let (smallest, largest) = match signed {
        true => (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1),
        false => (0, (1i128 << width) - 1),
    };
    let rounded = match value.class {
        Class::Zero => return Integer { bits: 0, flags: 0, dxc: 0, cc: 0 },
        Class::Finite if value.exponent <= width as i32 => {
            Some(round(value, (126 - value.exponent) as u32, control.rounding))
        }
        _ => None,
    };
    let number = rounded.map(|r| if value.negative { -(r.kept as i128) } else { r.kept as i128 });
    match (number, rounded) {
        (Some(number), Some(rounded)) if (smallest..=largest).contains(&number) => {
            let outcome = inexact(number as u128, rounded, 0, control);
            Integer {
                bits: outcome.bits as u64,
                flags: outcome.flags,
                dxc: outcome.dxc,
                cc: 2 - value.negative as u8,
            }
        }
        _ if control.masks & flag::INVALID != 0 => Integer { bits: 0, flags: 0, dxc: flag::INVALID, cc: 3 },
        _ => {
            let low = value.negative || matches!(value.class, Class::Quiet | Class::Signaling);
            let result = Rounded { kept: 0, inexact: true, incremented: false };
            let outcome =
                inexact(if low { smallest } else { largest } as u128, result, flag::INVALID, control);
            Integer { bits: outcome.bits as u64, flags: outcome.flags, dxc: outcome.dxc, cc: 3 }
        }
    }
}

/// What DIVIDE TO INTEGER delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// The integer quotient.
    pub quotient: u128,
    /// The remainder, with the flags and the trap of the operation.
    pub remainder: Outcome,
    /// The condition code.
    pub cc: u8,
}

/// DIVIDE TO INTEGER: `method` rounds the quotient, `control` the remainder (chapter 19, figures of the
/// instruction).
pub fn divide_to_integer(format: Format, a: u128, b: u128, method: Rounding, control: Control) -> Division {
    let [dividend, divisor] = [a, b].map(|bits| Value::of(format, bits));
    let negative = dividend.negative != divisor.negative;
    let invalid = dividend.class == Class::Infinity || divisor.class == Class::Zero;
    if let Some(nan) = propagate([dividend, divisor]).or(invalid.then_some(INVALID)) {
        let remainder = deliver(format, nan, control);
        return Division { quotient: remainder.bits, remainder, cc: 1 };
    }
    if dividend.class == Class::Zero || divisor.class == Class::Infinity {
        let quotient = if negative { format.sign() } else { 0 };
        return Division { quotient, remainder: Outcome { bits: a, flags: 0, dxc: 0 }, cc: 0 };
    }
    let precise = quotient(dividend, divisor);
    // An integer that the precision cannot hold is truncated to it; what is left is a partial remainder.
    let fits = precise.exponent <= format.fraction_bits as i32;
    let integer = if fits {
        Value::integer(negative, round(precise, (126 - precise.exponent) as u32, method).kept)
    } else {
        let drop = 126 - format.fraction_bits;
        Value { significand: precise.significand >> drop << drop, ..precise }
    };
    let rest = match integer.class {
        Class::Zero => dividend,
        _ => sum(dividend, product(integer, divisor).negated(), control.rounding),
    };
    let exact = rest.class == Class::Zero;
    // A zero remainder has the sign of the dividend.
    let rest = Value { negative: if exact { dividend.negative } else { rest.negative }, ..rest };
    let too_large = integer.class == Class::Finite && integer.exponent > format.bias();
    let quotient = match integer.class {
        Class::Finite => {
            let scale = if too_large { -format.scale() } else { 0 };
            pack(format, integer, integer.significand >> (126 - format.fraction_bits), scale)
        }
        _ => sign(format, integer),
    };
    let remainder = deliver(format, rest.into(), control);
    Division { quotient, remainder, cc: too_large as u8 | ((!fits && !exact) as u8) << 1 }
}
