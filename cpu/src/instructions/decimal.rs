//! Decimal instructions (chapter 8).

use std::cmp::Ordering;

use machine::Operand;
use zarch::{Facility::*, ProgramCode};

use super::translate_ops::set_found_address;
use crate::access::{Access, Span};
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xfa, "AP", N3, SS::of(ap)),
        row(0xfb, "SP", N3, SS::of(sp)),
        row(0xf8, "ZAP", N3, SS::of(zap)),
        row(0xf9, "CP", N3, SS::of(cp)),
        row(0xfc, "MP", N3, SS::of(mp)),
        row(0xfd, "DP", N3, SS::of(dp)),
        row(0xf0, "SRP", N3, SS::of(srp)),
        row(0xde, "ED", N3, SS::of(ed)),
        row(0xdf, "EDMK", N3, SS::of(edmk)),
        row(0xebc0, "TP", ExtendedTranslation2, RSL::of(tp)),
    ]
}

/// Decimal overflow in the program mask.
const DECIMAL_OVERFLOW: u8 = 4;

/// Whether a valid sign code means minus.
pub(super) fn is_minus(sign: u8) -> bool {
    matches!(sign, 0xb | 0xd)
}

/// A signed decimal number of up to 32 digits. Zero has a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    minus: bool,
    magnitude: u128,
}

impl Packed {
    /// The number in packed format; `None` when a digit or the sign is invalid.
    pub(super) fn read(span: &Span) -> Option<Self> {
        let mut magnitude = 0u128;
        let last = span.len() - 1;
        // Nine bytes at a time fit a 64-bit number.
        let mut part = 0u64;
        let mut scale = 1u64;
        for n in 0..last {
            let byte = span.get(n);
            let (left, right) = (byte >> 4, byte & 15);
            if left > 9 || right > 9 {
                return None;
            }
            part = part * 100 + (left * 10 + right) as u64;
            scale *= 100;
            if n % 9 == 8 {
                magnitude = magnitude * scale as u128 + part as u128;
                (part, scale) = (0, 1);
            }
        }
        magnitude = magnitude * scale as u128 + part as u128;
        let byte = span.get(last);
        let (digit, sign) = (byte >> 4, byte & 15);
        if digit > 9 || sign < 10 {
            return None;
        }
        Some(Self { minus: is_minus(sign), magnitude: magnitude * 10 + digit as u128 })
    }

    /// The number as a binary one.
    pub(super) fn value(self) -> i128 {
        if self.minus { -(self.magnitude as i128) } else { self.magnitude as i128 }
    }

    /// A binary number of at most 31 digits.
    pub(super) fn from_value(value: i128) -> Self {
        Self { minus: value < 0, magnitude: value.unsigned_abs() }
    }

    /// The sixteen bytes in packed format with the preferred sign. Digits that do not fit are lost.
    pub(super) fn to_bytes(self) -> u128 {
        let mut bytes = if self.minus { 0xd } else { 0xc };
        let mut rest = self.magnitude;
        let mut shift = 4;
        while rest != 0 && shift < 128 {
            // Divisions of 64-bit numbers are cheap, so sixteen digits are taken at a time.
            let mut part = (rest % 10_000_000_000_000_000) as u64;
            rest /= 10_000_000_000_000_000;
            let mut digit = shift;
            while part != 0 && digit < 128 {
                bytes |= ((part % 10) as u128) << digit;
                part /= 10;
                digit += 4;
            }
            shift += 64;
        }
        bytes
    }

    /// Stores the rightmost digits in packed format.
    fn write(self, to: &Span) {
        let bytes = self.to_bytes().to_be_bytes();
        to.write(&bytes[16 - to.len()..]);
    }
}

/// The first number that `length` bytes in packed format cannot hold.
fn limit(length: usize) -> u128 {
    10u128.pow(2 * length as u32 - 1)
}

/// Reads a packed decimal operand; data exception when it is invalid.
fn read(cpu: &mut Cpu, span: &Span) -> Result<Packed, Leave> {
    Packed::read(span).ok_or_else(|| cpu.data_exception(0))
}

/// Both operands, the first accessible for `access`.
fn operands(cpu: &mut Cpu, i: Ss, access: Access) -> Result<(Span, Span), Leave> {
    let first = cpu.span(i.operand1(cpu), i.l1() as usize + 1, access)?;
    let second = cpu.span(i.operand2(cpu), i.l2() as usize + 1, Access::Fetch)?;
    Ok((first, second))
}

/// Stores a result and sets the condition code. A zero is made positive unless digits were lost.
fn finish(cpu: &mut Cpu, to: &Span, result: Packed, lost: bool) -> Flow {
    let magnitude = result.magnitude % limit(to.len());
    let lost = lost || magnitude != result.magnitude;
    let minus = result.minus && (magnitude != 0 || lost);
    Packed { minus, magnitude }.write(to);
    if lost {
        cpu.cc = 3;
        if cpu.program_mask() & DECIMAL_OVERFLOW != 0 {
            return Err(ProgramCode::DecimalOverflow.into());
        }
        return Ok(());
    }
    cpu.cc = match magnitude {
        0 => 0,
        _ if minus => 1,
        _ => 2,
    };
    Ok(())
}

fn add(cpu: &mut Cpu, i: Ss, subtract: bool) -> Flow {
    let (to, second) = operands(cpu, i, Access::Store)?;
    let (a, b) = (read(cpu, &to)?, read(cpu, &second)?);
    let b = if subtract { -b.value() } else { b.value() };
    finish(cpu, &to, Packed::from_value(a.value() + b), false)
}

/// ADD DECIMAL.
fn ap(cpu: &mut Cpu, i: Ss) -> Flow {
    add(cpu, i, false)
}

/// SUBTRACT DECIMAL.
fn sp(cpu: &mut Cpu, i: Ss) -> Flow {
    add(cpu, i, true)
}

/// ZERO AND ADD.
fn zap(cpu: &mut Cpu, i: Ss) -> Flow {
    let (to, second) = operands(cpu, i, Access::Store)?;
    let number = read(cpu, &second)?;
    finish(cpu, &to, number, false)
}

/// COMPARE DECIMAL.
fn cp(cpu: &mut Cpu, i: Ss) -> Flow {
    let (first, second) = operands(cpu, i, Access::Fetch)?;
    let (a, b) = (read(cpu, &first)?, read(cpu, &second)?);
    cpu.cc = match a.value().cmp(&b.value()) {
        Ordering::Equal => 0,
        Ordering::Less => 1,
        Ordering::Greater => 2,
    };
    Ok(())
}

/// Specification exception of MP and DP: the second operand has at most 8 bytes and is shorter.
fn check_lengths(i: Ss) -> Flow {
    if i.l2() > 7 || i.l2() >= i.l1() { Err(ProgramCode::Specification.into()) } else { Ok(()) }
}

/// MULTIPLY DECIMAL. The first operand has as many bytes of zeros on the left as the second has bytes.
fn mp(cpu: &mut Cpu, i: Ss) -> Flow {
    check_lengths(i)?;
    let (to, second) = operands(cpu, i, Access::Store)?;
    let (a, b) = (read(cpu, &to)?, read(cpu, &second)?);
    if (0..second.len()).any(|n| to.get(n) != 0) {
        return Err(cpu.data_exception(0));
    }
    // A zero has the sign of the rules of algebra too.
    Packed { minus: a.minus != b.minus, magnitude: a.magnitude * b.magnitude }.write(&to);
    Ok(())
}

/// DIVIDE DECIMAL: the quotient on the left of the first operand, the remainder on its right.
fn dp(cpu: &mut Cpu, i: Ss) -> Flow {
    check_lengths(i)?;
    let (to, second) = operands(cpu, i, Access::Store)?;
    let (a, b) = (read(cpu, &to)?, read(cpu, &second)?);
    let length = to.len() - second.len();
    if b.magnitude == 0 || a.magnitude / b.magnitude >= limit(length) {
        return Err(ProgramCode::DecimalDivide.into());
    }
    let quotient = Packed { minus: a.minus != b.minus, magnitude: a.magnitude / b.magnitude };
    let remainder = Packed { minus: a.minus, magnitude: a.magnitude % b.magnitude };
    let (left, right) = (quotient.to_bytes().to_be_bytes(), remainder.to_bytes().to_be_bytes());
    let mut bytes = [0; 16];
    bytes[..length].copy_from_slice(&left[16 - length..]);
    bytes[length..to.len()].copy_from_slice(&right[16 - second.len()..]);
    to.write(&bytes[..to.len()]);
    Ok(())
}

/// SHIFT AND ROUND DECIMAL: bits 58-63 of the second-operand address are the signed amount.
fn srp(cpu: &mut Cpu, i: Ss) -> Flow {
    let amount = ((i.operand2(cpu).address as i8) << 2) >> 2;
    let to = cpu.span(i.operand1(cpu), i.l1() as usize + 1, Access::Store)?;
    let number = read(cpu, &to)?;
    let rounding = i.l2();
    if rounding > 9 {
        return Err(cpu.data_exception(0));
    }
    if amount < 0 {
        // Adding the rounding digit to the leftmost digit shifted out carries into the result.
        let shifted = number.magnitude / 10u128.pow(-(amount as i32) as u32 - 1) + rounding as u128;
        return finish(cpu, &to, Packed { magnitude: shifted / 10, ..number }, false);
    }
    let digits = 2 * to.len() as u32 - 1;
    let kept = 10u128.pow(digits.saturating_sub(amount as u32));
    let magnitude = match number.magnitude % kept {
        0 => 0,
        rest => rest * 10u128.pow(amount as u32),
    };
    finish(cpu, &to, Packed { magnitude, ..number }, number.magnitude >= kept)
}

/// Edits: the pattern is the first operand, its length code `i.l`. Answers with the address where the
/// first significant digit stands.
fn edit(cpu: &mut Cpu, i: Ss) -> Result<Option<u64>, Leave> {
    const DIGIT_SELECTOR: u8 = 0x20;
    const SIGNIFICANCE_STARTER: u8 = 0x21;
    const FIELD_SEPARATOR: u8 = 0x22;
    let at = i.operand1(cpu);
    let pattern = cpu.span(at, i.l as usize + 1, Access::Store)?;
    let mut source = i.operand2(cpu);
    let mut result = [0; 256];
    let fill = pattern.get(0);
    let (mut significant, mut nonzero, mut mark) = (false, false, None);
    // The right half of the source byte fetched last, when it is still to be used.
    let mut right = None;
    for (n, edited) in result[..pattern.len()].iter_mut().enumerate() {
        let character = pattern.get(n);
        *edited = match character {
            DIGIT_SELECTOR | SIGNIFICANCE_STARTER => {
                let mut plus = false;
                let digit = match right.take() {
                    Some(digit) => digit,
                    None => {
                        let byte = cpu.load::<u8>(source)?;
                        source = Operand { address: cpu.trim(source.address.wrapping_add(1)), ..source };
                        match byte & 15 {
                            digit @ 0..=9 => right = Some(digit),
                            sign => plus = !is_minus(sign),
                        }
                        byte >> 4
                    }
                };
                if digit > 9 {
                    return Err(cpu.data_exception(0));
                }
                let shown = significant || digit != 0;
                if digit != 0 {
                    nonzero = true;
                    if !significant {
                        mark = Some(cpu.trim(at.address.wrapping_add(n as u64)));
                    }
                }
                significant = (shown || character == SIGNIFICANCE_STARTER) && !plus;
                if shown { 0xf0 | digit } else { fill }
            }
            FIELD_SEPARATOR => {
                (significant, nonzero) = (false, false);
                fill
            }
            message if significant => message,
            _ => fill,
        };
    }
    pattern.write(&result[..pattern.len()]);
    cpu.cc = match (nonzero, significant) {
        (false, _) => 0,
        (true, true) => 1,
        (true, false) => 2,
    };
    Ok(mark)
}

/// EDIT.
fn ed(cpu: &mut Cpu, i: Ss) -> Flow {
    edit(cpu, i).map(|_| ())
}

/// EDIT AND MARK.
fn edmk(cpu: &mut Cpu, i: Ss) -> Flow {
    if let Some(address) = edit(cpu, i)? {
        set_found_address(cpu, address);
    }
    Ok(())
}

/// TEST DECIMAL. Condition code bit 2: an invalid digit; bit 1 of weight: an invalid sign.
fn tp(cpu: &mut Cpu, i: Rs) -> Flow {
    let span = cpu.span(i.operand(cpu), i.r1 as usize + 1, Access::Fetch)?;
    let last = span.len() - 1;
    let digits =
        (0..last).all(|n| span.get(n) >> 4 <= 9 && span.get(n) & 15 <= 9) && span.get(last) >> 4 <= 9;
    let sign = span.get(last) & 15 > 9;
    cpu.cc = (!digits as u8) << 1 | !sign as u8;
    Ok(())
}
