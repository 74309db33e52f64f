//! General instructions (chapter 7): shifts, and rotations with selected bits.

use zarch::Facility::*;

use super::load::sign;
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0x89, "SLL", N3, RS::of(sll)),
        row(0xebdf, "SLLK", DistinctOperands, RSY::of(sllk)),
        row(0xeb0d, "SLLG", N3, RSY::of(sllg)),
        row(0x88, "SRL", N3, RS::of(srl)),
        row(0xebde, "SRLK", DistinctOperands, RSY::of(srlk)),
        row(0xeb0c, "SRLG", N3, RSY::of(srlg)),
        row(0x8b, "SLA", N3, RS::of(sla)),
        row(0xebdd, "SLAK", DistinctOperands, RSY::of(slak)),
        row(0xeb0b, "SLAG", N3, RSY::of(slag)),
        row(0x8a, "SRA", N3, RS::of(sra)),
        row(0xebdc, "SRAK", DistinctOperands, RSY::of(srak)),
        row(0xeb0a, "SRAG", N3, RSY::of(srag)),
        row(0x8d, "SLDL", N3, RS::of(sldl)).even1(),
        row(0x8c, "SRDL", N3, RS::of(srdl)).even1(),
        row(0x8f, "SLDA", N3, RS::of(slda)).even1(),
        row(0x8e, "SRDA", N3, RS::of(srda)).even1(),
        row(0xeb1d, "RLL", N3, RSY::of(rll)),
        row(0xeb1c, "RLLG", N3, RSY::of(rllg)),
        row(0xec55, "RISBG", GeneralInstructionsExtension, RIE_f::of(risbg)),
        row(0xec59, "RISBGN", MiscellaneousInstructions1, RIE_f::of(risbgn)),
        row(0xec5d, "RISBHG", DistinctOperands, RIE_f::of(risbhg)),
        row(0xec51, "RISBLG", DistinctOperands, RIE_f::of(risblg)),
        row(0xec54, "RNSBG", GeneralInstructionsExtension, RIE_f::of(rnsbg)),
        row(0xec56, "ROSBG", GeneralInstructionsExtension, RIE_f::of(rosbg)),
        row(0xec57, "RXSBG", GeneralInstructionsExtension, RIE_f::of(rxsbg)),
    ]
}

/// The amount of a shift: the rightmost six bits of the second-operand address.
#[inline(always)]
fn amount(cpu: &Cpu, i: Rs) -> u32 {
    i.amount(cpu) as u32 & 63
}

/// Shifts the numeric part left, keeping the sign; overflow when a bit unlike the sign is shifted out.
#[inline(always)]
fn shift_left(value: i32, amount: u32) -> (i32, bool) {
    // Beyond 32 nothing new is shifted out.
    let wide = (value as i64) << amount.min(32);
    (wide as i32 & i32::MAX | value & i32::MIN, wide != wide as i32 as i64)
}

/// [`shift_left`] of 64 bits.
#[inline(always)]
fn shift_left64(value: i64, amount: u32) -> (i64, bool) {
    let shifted = value << amount;
    (shifted & i64::MAX | value & i64::MIN, shifted >> amount != value)
}

/// The right halves of a register pair.
#[inline(always)]
fn pair(cpu: &Cpu, r1: u8) -> u64 {
    (cpu.gr32(r1) as u64) << 32 | cpu.gr32(r1 + 1) as u64
}

#[inline(always)]
fn put_pair(cpu: &mut Cpu, r1: u8, value: u64) {
    cpu.set_gr32(r1, (value >> 32) as u32);
    cpu.set_gr32(r1 + 1, value as u32);
}

/// The second operand rotated left by I5.
#[inline(always)]
fn rotated(cpu: &Cpu, i: Rief) -> u64 {
    cpu.gr(i.r2).rotate_left(i.i5 as u32 & 63)
}

/// Replaces the selected bits; the others become zero when bit 0 of I4 is one.
#[inline(always)]
fn insert_selected(cpu: &mut Cpu, i: Rief) {
    // All ones when bit 0 of I4 is one; without a branch, since one handler serves both kinds.
    let zero = (i.i4 as i8 >> 7) as i64 as u64;
    let rest = cpu.gr(i.r1) & !(i.selected | zero);
    cpu.set_gr(i.r1, rotated(cpu, i) & i.selected | rest);
}

/// `old` with the bits that I3 and I4 select within 32 replaced by those of `source`; the others become
/// zero when bit 0 of I4 is one.
#[inline(always)]
fn insert_half(old: u32, source: u32, i: Rief) -> u32 {
    let (from, to) = (i.i3 as u32 & 31, i.i4 as u32 & 31);
    let ones = u32::MAX << (31 - (to.wrapping_sub(from) & 31));
    let mask = ones.rotate_right(from);
    let rest = if i.i4 & 0x80 != 0 { 0 } else { old & !mask };
    source & mask | rest
}

/// Replaces the first operand by `f` of it, the rotated second operand and the selection, which leaves the
/// other bits; with bit 0 of I3 one only the condition code tells.
#[inline(always)]
fn combine_selected(cpu: &mut Cpu, i: Rief, f: impl Fn(u64, u64, u64) -> u64) -> Flow {
    let value = f(cpu.gr(i.r1), rotated(cpu, i), i.selected);
    if i.i3 & 0x80 == 0 {
        cpu.set_gr(i.r1, value);
    }
    cpu.cc = (value & i.selected != 0) as u8;
    Ok(())
}

/// SHIFT LEFT SINGLE LOGICAL.
fn sll(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.set_gr32(i.r1, cpu.gr32(i.r1).unbounded_shl(amount(cpu, i)));
    Ok(())
}

/// SHIFT LEFT SINGLE LOGICAL.
fn sllk(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.set_gr32(i.r1, cpu.gr32(i.r3).unbounded_shl(amount(cpu, i)));
    Ok(())
}

/// SHIFT LEFT SINGLE LOGICAL (64).
fn sllg(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.set_gr(i.r1, cpu.gr(i.r3) << amount(cpu, i));
    Ok(())
}

/// SHIFT RIGHT SINGLE LOGICAL.
fn srl(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.set_gr32(i.r1, cpu.gr32(i.r1).unbounded_shr(amount(cpu, i)));
    Ok(())
}

/// SHIFT RIGHT SINGLE LOGICAL.
fn srlk(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.set_gr32(i.r1, cpu.gr32(i.r3).unbounded_shr(amount(cpu, i)));
    Ok(())
}

/// SHIFT RIGHT SINGLE LOGICAL (64).
fn srlg(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.set_gr(i.r1, cpu.gr(i.r3) >> amount(cpu, i));
    Ok(())
}

/// SHIFT LEFT SINGLE.
fn sla(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.put_signed(i.r1, shift_left(cpu.gr32(i.r1) as i32, amount(cpu, i)))
}

/// SHIFT LEFT SINGLE.
fn slak(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.put_signed(i.r1, shift_left(cpu.gr32(i.r3) as i32, amount(cpu, i)))
}

/// SHIFT LEFT SINGLE (64).
fn slag(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.put_signed64(i.r1, shift_left64(cpu.gr(i.r3) as i64, amount(cpu, i)))
}

/// SHIFT RIGHT SINGLE.
fn sra(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.put_signed(i.r1, (cpu.gr32(i.r1) as i32 >> amount(cpu, i).min(31), false))
}

/// SHIFT RIGHT SINGLE.
fn srak(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.put_signed(i.r1, (cpu.gr32(i.r3) as i32 >> amount(cpu, i).min(31), false))
}

/// SHIFT RIGHT SINGLE (64).
fn srag(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.put_signed64(i.r1, (cpu.gr(i.r3) as i64 >> amount(cpu, i), false))
}

/// SHIFT LEFT DOUBLE LOGICAL.
fn sldl(cpu: &mut Cpu, i: Rs) -> Flow {
    let value = pair(cpu, i.r1) << amount(cpu, i);
    put_pair(cpu, i.r1, value);
    Ok(())
}

/// SHIFT RIGHT DOUBLE LOGICAL.
fn srdl(cpu: &mut Cpu, i: Rs) -> Flow {
    let value = pair(cpu, i.r1) >> amount(cpu, i);
    put_pair(cpu, i.r1, value);
    Ok(())
}

/// SHIFT LEFT DOUBLE.
fn slda(cpu: &mut Cpu, i: Rs) -> Flow {
    let (value, overflow) = shift_left64(pair(cpu, i.r1) as i64, amount(cpu, i));
    put_pair(cpu, i.r1, value as u64);
    cpu.signed_code(value, overflow)
}

/// SHIFT RIGHT DOUBLE.
fn srda(cpu: &mut Cpu, i: Rs) -> Flow {
    let value = pair(cpu, i.r1) as i64 >> amount(cpu, i);
    put_pair(cpu, i.r1, value as u64);
    cpu.cc = sign(value);
    Ok(())
}

/// ROTATE LEFT SINGLE LOGICAL.
fn rll(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.set_gr32(i.r1, cpu.gr32(i.r3).rotate_left(amount(cpu, i)));
    Ok(())
}

/// ROTATE LEFT SINGLE LOGICAL (64).
fn rllg(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.set_gr(i.r1, cpu.gr(i.r3).rotate_left(amount(cpu, i)));
    Ok(())
}

/// ROTATE THEN INSERT SELECTED BITS.
fn risbg(cpu: &mut Cpu, i: Rief) -> Flow {
    insert_selected(cpu, i);
    cpu.cc = sign(cpu.gr(i.r1) as i64);
    Ok(())
}

/// ROTATE THEN INSERT SELECTED BITS, leaving the condition code.
fn risbgn(cpu: &mut Cpu, i: Rief) -> Flow {
    insert_selected(cpu, i);
    Ok(())
}

/// ROTATE THEN INSERT SELECTED BITS HIGH.
fn risbhg(cpu: &mut Cpu, i: Rief) -> Flow {
    let source = (rotated(cpu, i) >> 32) as u32;
    cpu.set_gr_high(i.r1, insert_half(cpu.gr_high(i.r1), source, i));
    Ok(())
}

/// ROTATE THEN INSERT SELECTED BITS LOW.
fn risblg(cpu: &mut Cpu, i: Rief) -> Flow {
    let source = rotated(cpu, i) as u32;
    cpu.set_gr32(i.r1, insert_half(cpu.gr32(i.r1), source, i));
    Ok(())
}

/// ROTATE THEN AND SELECTED BITS.
fn rnsbg(cpu: &mut Cpu, i: Rief) -> Flow {
    combine_selected(cpu, i, |old, bits, mask| old & (bits | !mask))
}

/// ROTATE THEN OR SELECTED BITS.
fn rosbg(cpu: &mut Cpu, i: Rief) -> Flow {
    combine_selected(cpu, i, |old, bits, mask| old | bits & mask)
}

/// ROTATE THEN EXCLUSIVE OR SELECTED BITS.
fn rxsbg(cpu: &mut Cpu, i: Rief) -> Flow {
    combine_selected(cpu, i, |old, bits, mask| old ^ bits & mask)
}
