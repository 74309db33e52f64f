//! The operations, exact up to a last bit that stands for all that was dropped.

use std::cmp::Ordering;

use super::{Class, Exact, Format, Rounding, UNIT, Value, flag};

pub(super) const INVALID: Exact = Exact { value: Value::default_nan(), flags: flag::INVALID };

/// The NaN that an operation on `operands` delivers: the first signaling one made quiet, else the first
/// quiet one; `None` without a NaN.
#[inline(always)]
pub fn propagate<const N: usize>(operands: [Value; N]) -> Option<Exact> {
    if operands.iter().all(|v| !v.is_nan()) {
        return None;
    }
    if let Some(signaling) = operands.iter().find(|v| v.class == Class::Signaling) {
        return Some(Exact { value: signaling.quieted(), flags: flag::INVALID });
    }
    operands.into_iter().find(|v| v.is_nan()).map(Exact::from)
}

/// Shifts right; the last bit becomes one when a one is lost.
#[inline(always)]
fn shift_right(bits: u128, by: u32) -> u128 {
    if by >= 128 {
        return (bits != 0) as u128;
    }
    bits >> by | (bits << 1 << (127 - by) != 0) as u128
}

/// A sum. The rounding method gives the sign of a zero that comes from unequal operands.
#[inline(always)]
pub fn add(a: Value, b: Value, rounding: Rounding) -> Exact {
    if let Some(nan) = propagate([a, b]) {
        return nan;
    }
    match (a.class, b.class) {
        (Class::Infinity, Class::Infinity) if a.negative != b.negative => INVALID,
        (Class::Infinity, _) => a.into(),
        (_, Class::Infinity) => b.into(),
        _ => sum(a, b, rounding).into(),
    }
}

pub(super) fn sum(a: Value, b: Value, rounding: Rounding) -> Value {
    match (a.class, b.class) {
        (Class::Zero, Class::Zero) if a.negative == b.negative => return a,
        (Class::Zero, Class::Zero) => return Value::zero(rounding == Rounding::Down),
        (Class::Zero, _) => return b,
        (_, Class::Zero) => return a,
        _ => {}
    }
    let (large, small) =
        if (a.exponent, a.significand) >= (b.exponent, b.significand) { (a, b) } else { (b, a) };
    let addend = shift_right(small.significand, (large.exponent - small.exponent) as u32);
    if large.negative == small.negative {
        let total = large.significand + addend;
        let carry = (total >> 127) as u32;
        return Value {
            exponent: large.exponent + carry as i32,
            significand: shift_right(total, carry),
            ..large
        };
    }
    // A dropped bit means exponents so far apart that at most one leading bit cancels, which leaves the last bit to
    // the right of everything that rounding keeps.
    match large.significand - addend {
        0 => Value::zero(rounding == Rounding::Down),
        difference => Value::normalized(large.negative, large.exponent, difference),
    }
}

/// A product.
#[inline(always)]
pub fn multiply(a: Value, b: Value) -> Exact {
    if let Some(nan) = propagate([a, b]) {
        return nan;
    }
    let negative = a.negative != b.negative;
    match (a.class, b.class) {
        (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity) => INVALID,
        (Class::Infinity, _) | (_, Class::Infinity) => Value::infinity(negative).into(),
        (Class::Zero, _) | (_, Class::Zero) => Value::zero(negative).into(),
        _ => product(a, b).into(),
    }
}

pub(super) fn product(a: Value, b: Value) -> Value {
    let (high, low) = wide_product(a.significand, b.significand);
    // The product of two significands has its leftmost one in bit 2 or 3 of 256.
    let significand = high << 2 | low >> 126 | (low << 2 != 0) as u128;
    let carry = (significand >> 127) as u32;
    Value {
        class: Class::Finite,
        negative: a.negative != b.negative,
        exponent: a.exponent + b.exponent + carry as i32,
        significand: shift_right(significand, carry),
    }
}

/// The 256-bit product, high and low half.
#[inline(always)]
fn wide_product(a: u128, b: u128) -> (u128, u128) {
    const HALF: u128 = u64::MAX as u128;
    let (ah, al, bh, bl) = (a >> 64, a & HALF, b >> 64, b & HALF);
    let (low, middle1, middle2, high) = (al * bl, ah * bl, al * bh, ah * bh);
    let middle = (low >> 64) + (middle1 & HALF) + (middle2 & HALF);
    (high + (middle1 >> 64) + (middle2 >> 64) + (middle >> 64), middle << 64 | low & HALF)
}

/// `a` times `b` plus `c`, with the one rounding still to come. NaNs are looked for in this order.
#[inline(always)]
pub fn multiply_add(a: Value, b: Value, c: Value, rounding: Rounding) -> Exact {
    if matches!((a.class, b.class), (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity)) {
        // Whatever the addend is, even a NaN.
        return INVALID;
    }
    if let Some(nan) = propagate([a, b, c]) {
        return nan;
    }
    add(multiply(a, b).value, c, rounding)
}

/// A quotient.
#[inline(always)]
pub fn divide(a: Value, b: Value) -> Exact {
    if let Some(nan) = propagate([a, b]) {
        return nan;
    }
    let negative = a.negative != b.negative;
    match (a.class, b.class) {
        (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => INVALID,
        (Class::Infinity, _) => Value::infinity(negative).into(),
        (_, Class::Zero) => Exact { value: Value::infinity(negative), flags: flag::DIVIDE },
        (Class::Zero, _) | (_, Class::Infinity) => Value::zero(negative).into(),
        _ => quotient(a, b).into(),
    }
}

pub(super) fn quotient(a: Value, b: Value) -> Value {
    let below = (a.significand < b.significand) as i32;
    let exponent = a.exponent - b.exponent - below;
    let negative = a.negative != b.negative;
    // Now between 1 and 2 times the divisor.
    let mut rest = a.significand << below;
    let divisor = b.significand;
    let mut quotient = 0;
    if divisor as u64 == 0 {
        // A divisor of up to 63 bits, as all short and long ones: two digits by host division.
        let divisor = divisor >> 64;
        quotient = (rest / divisor) << 62;
        rest = rest % divisor << 62;
        quotient |= rest / divisor;
        rest %= divisor;
    } else {
        // Bit by bit: 113 are kept, more decide the rounding.
        const BITS: u32 = 116;
        for _ in 0..BITS {
            let fits = rest >= divisor;
            quotient = quotient << 1 | fits as u128;
            rest = (rest - if fits { divisor } else { 0 }) << 1;
        }
        quotient <<= 127 - BITS;
    }
    Value { class: Class::Finite, negative, exponent, significand: quotient | (rest != 0) as u128 }
}

/// A square root.
pub fn square_root(a: Value) -> Exact {
    if let Some(nan) = propagate([a]) {
        return nan;
    }
    match a.class {
        Class::Zero => a.into(),
        _ if a.negative => INVALID,
        Class::Infinity => a.into(),
        _ => root(a).into(),
    }
}

/// Digit by digit, two bits of the radicand for each bit of the root.
fn root(a: Value) -> Value {
    const BITS: u32 = 116;
    // With an even exponent the radicand's first two bits are 01, with an odd one 10 or 11.
    let mut radicand = a.significand << (a.exponent & 1);
    let (mut root, mut rest) = (0u128, 0u128);
    for _ in 0..BITS {
        rest = rest << 2 | radicand >> 126;
        radicand <<= 2;
        let trial = root << 2 | 1;
        let fits = rest >= trial;
        root = root << 1 | fits as u128;
        rest -= if fits { trial } else { 0 };
    }
    let significand = root << (127 - BITS) | (rest != 0) as u128;
    debug_assert!(significand & UNIT != 0);
    Value { exponent: a.exponent >> 1, significand, ..a }
}

/// Compares numbers of one format: `None` when they are unordered.
#[inline(always)]
pub fn compare(format: Format, a: u128, b: u128) -> Option<Ordering> {
    let key = |bits: u128| {
        let magnitude = (bits & (format.sign() - 1)) as i128;
        if bits & format.sign() != 0 { -magnitude } else { magnitude }
    };
    let ordered = |bits: u128| bits & (format.sign() - 1) <= format.infinity();
    (ordered(a) && ordered(b)).then(|| key(a).cmp(&key(b)))
}
