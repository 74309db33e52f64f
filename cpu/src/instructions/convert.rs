//! General instructions (chapter 7): conversions between binary, packed decimal, zoned decimal, ASCII
//! and Unicode digits.

use machine::Operand;
use zarch::{Facility::*, ProgramCode};

use super::decimal::{Packed, is_minus};
use crate::access::{Access, Span};
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0x4f, "CVB", N3, RX::of(cvb)),
        row(0xe306, "CVBY", LongDisplacement, RXY::of(cvb)),
        row(0xe30e, "CVBG", N3, RXY::of(cvbg)),
        row(0x4e, "CVD", N3, RX::of(cvd)),
        row(0xe326, "CVDY", LongDisplacement, RXY::of(cvd)),
        row(0xe32e, "CVDG", N3, RXY::of(cvdg)),
        row(0xf2, "PACK", N3, SS::of(pack)),
        row(0xe9, "PKA", ExtendedTranslation2, SS::of(pka)),
        row(0xe1, "PKU", ExtendedTranslation2, SS::of(pku)),
        row(0xf3, "UNPK", N3, SS::of(unpk)),
        row(0xea, "UNPKA", ExtendedTranslation2, SS::of(unpka)),
        row(0xe2, "UNPKU", ExtendedTranslation2, SS::of(unpku)),
    ]
}

/// The packed decimal operand of `length` bytes at `at`.
fn packed(cpu: &mut Cpu, at: Operand, length: usize) -> Result<Packed, crate::Leave> {
    let span = cpu.span(at, length, Access::Fetch)?;
    Packed::read(&span).ok_or_else(|| cpu.data_exception(0))
}

/// CONVERT TO BINARY. When the number does not fit, its rightmost bits are in R1 and the exception is
/// recognized.
fn cvb(cpu: &mut Cpu, i: Rx) -> Flow {
    let number = packed(cpu, i.operand(cpu), 8)?.value();
    cpu.set_gr32(i.r1, number as u32);
    match i32::try_from(number) {
        Ok(_) => Ok(()),
        Err(_) => Err(ProgramCode::FixedPointDivide.into()),
    }
}

/// CONVERT TO BINARY (64). When the number does not fit, the operation is suppressed.
fn cvbg(cpu: &mut Cpu, i: Rx) -> Flow {
    let number = packed(cpu, i.operand(cpu), 16)?.value();
    match i64::try_from(number) {
        Ok(number) => {
            cpu.set_gr(i.r1, number as u64);
            Ok(())
        }
        Err(_) => Err(ProgramCode::FixedPointDivide.into()),
    }
}

/// CONVERT TO DECIMAL.
fn cvd(cpu: &mut Cpu, i: Rx) -> Flow {
    let bytes = Packed::from_value(cpu.gr32(i.r1) as i32 as i128).to_bytes();
    cpu.store(i.operand(cpu), bytes as u64)
}

/// CONVERT TO DECIMAL (64).
fn cvdg(cpu: &mut Cpu, i: Rx) -> Flow {
    let bytes = Packed::from_value(cpu.gr(i.r1) as i64 as i128).to_bytes();
    cpu.store(i.operand(cpu), bytes)
}

/// Byte `n` from the right; zero to the left of the operand.
fn from_right(span: &Span, n: usize) -> u8 {
    if n < span.len() { span.get(span.len() - 1 - n) } else { 0 }
}

/// PACK: from the right, each result byte stored before the next bytes are fetched.
fn pack(cpu: &mut Cpu, i: Ss) -> Flow {
    let from = cpu.span(i.operand2(cpu), i.l2() as usize + 1, Access::Fetch)?;
    let to = cpu.span(i.operand1(cpu), i.l1() as usize + 1, Access::Store)?;
    let last = to.len() - 1;
    to.set(last, from_right(&from, 0).rotate_left(4));
    for n in 1..to.len() {
        let digit = from_right(&from, 2 * n - 1) & 15;
        to.set(last - n, from_right(&from, 2 * n) << 4 | digit);
    }
    Ok(())
}

/// PACK ASCII and PACK UNICODE: the rightmost four bits of each character, with a plus sign.
fn pack_characters(cpu: &mut Cpu, i: Ss, size: usize) -> Flow {
    let length = i.l as usize + 1;
    if length % size != 0 || length > 32 * size {
        return Err(ProgramCode::Specification.into());
    }
    let from = cpu.span(i.operand2(cpu), length, Access::Fetch)?;
    let to = cpu.span(i.operand1(cpu), 16, Access::Store)?;
    let mut number = 0xc;
    for n in 0..(length / size).min(31) {
        let digit = from.get(length - 1 - n * size) & 15;
        number |= (digit as u128) << (4 * n + 4);
    }
    to.store(0, number);
    Ok(())
}

/// PACK ASCII.
fn pka(cpu: &mut Cpu, i: Ss) -> Flow {
    pack_characters(cpu, i, 1)
}

/// PACK UNICODE.
fn pku(cpu: &mut Cpu, i: Ss) -> Flow {
    pack_characters(cpu, i, 2)
}

/// UNPACK: from the right, two result bytes from each byte fetched.
fn unpk(cpu: &mut Cpu, i: Ss) -> Flow {
    let from = cpu.span(i.operand2(cpu), i.l2() as usize + 1, Access::Fetch)?;
    let to = cpu.span(i.operand1(cpu), i.l1() as usize + 1, Access::Store)?;
    let last = to.len() - 1;
    to.set(last, from_right(&from, 0).rotate_left(4));
    let mut byte = 0;
    for n in 1..to.len() {
        byte = if n % 2 == 1 { from_right(&from, n / 2 + 1) } else { byte >> 4 };
        to.set(last - n, 0xf0 | byte & 15);
    }
    Ok(())
}

/// UNPACK ASCII and UNPACK UNICODE. The condition code shows the sign: 0 plus, 1 minus, 3 invalid.
fn unpack_characters(cpu: &mut Cpu, i: Ss, size: usize) -> Flow {
    let length = i.l as usize + 1;
    if length % size != 0 || length > 32 * size {
        return Err(ProgramCode::Specification.into());
    }
    let number = cpu.load::<u128>(i.operand2(cpu))?;
    let to = cpu.span(i.operand1(cpu), length, Access::Store)?;
    for n in 0..length / size {
        let digit = if n < 31 { (number >> (4 * n + 4)) as u8 & 15 } else { 0 };
        let at = length - (n + 1) * size;
        if size == 2 {
            to.set(at, 0);
        }
        to.set(at + size - 1, 0x30 | digit);
    }
    cpu.cc = match number as u8 & 15 {
        0..=9 => 3,
        sign => is_minus(sign) as u8,
    };
    Ok(())
}

/// UNPACK ASCII.
fn unpka(cpu: &mut Cpu, i: Ss) -> Flow {
    unpack_characters(cpu, i, 1)
}

/// UNPACK UNICODE.
fn unpku(cpu: &mut Cpu, i: Ss) -> Flow {
    unpack_characters(cpu, i, 2)
}
