//! General instructions (chapter 7): the high-word facility, arithmetic in bits 0-31 of general registers.

use zarch::Facility::*;

use super::arithmetic::logical_code;
use super::compare::order;
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xb9c8, "AHHHR", DistinctOperands, RRF::of(ahhhr)),
        row(0xb9d8, "AHHLR", DistinctOperands, RRF::of(ahhlr)),
        row(0xcc8, "AIH", DistinctOperands, RIL_a::of(aih)),
        row(0xb9ca, "ALHHHR", DistinctOperands, RRF::of(alhhhr)),
        row(0xb9da, "ALHHLR", DistinctOperands, RRF::of(alhhlr)),
        row(0xcca, "ALSIH", DistinctOperands, RIL_a::of(alsih)),
        row(0xccb, "ALSIHN", DistinctOperands, RIL_a::of(alsihn)),
        row(0xb9c9, "SHHHR", DistinctOperands, RRF::of(shhhr)),
        row(0xb9d9, "SHHLR", DistinctOperands, RRF::of(shhlr)),
        row(0xb9cb, "SLHHHR", DistinctOperands, RRF::of(slhhhr)),
        row(0xb9db, "SLHHLR", DistinctOperands, RRF::of(slhhlr)),
        row(0xb9cd, "CHHR", DistinctOperands, RRE::of(chhr)),
        row(0xb9dd, "CHLR", DistinctOperands, RRE::of(chlr)),
        row(0xe3cd, "CHF", DistinctOperands, RXY::of(chf)),
        row(0xccd, "CIH", DistinctOperands, RIL_a::of(cih)),
        row(0xb9cf, "CLHHR", DistinctOperands, RRE::of(clhhr)),
        row(0xb9df, "CLHLR", DistinctOperands, RRE::of(clhlr)),
        row(0xe3cf, "CLHF", DistinctOperands, RXY::of(clhf)),
        row(0xccf, "CLIH", DistinctOperands, RIL_a::of(clih)),
        row(0xe3c0, "LBH", DistinctOperands, RXY::of(lbh)),
        row(0xe3c4, "LHH", DistinctOperands, RXY::of(lhh)),
        row(0xe3ca, "LFH", DistinctOperands, RXY::of(lfh)),
        row(0xe3c2, "LLCH", DistinctOperands, RXY::of(llch)),
        row(0xe3c6, "LLHH", DistinctOperands, RXY::of(llhh)),
        row(0xe3c3, "STCH", DistinctOperands, RXY::of(stch)),
        row(0xe3c7, "STHH", DistinctOperands, RXY::of(sthh)),
        row(0xe3cb, "STFH", DistinctOperands, RXY::of(stfh)),
    ]
}

/// Ends a signed operation in bits 0-31.
#[inline(always)]
fn put_signed_high(cpu: &mut Cpu, r1: u8, (result, overflow): (i32, bool)) -> Flow {
    cpu.set_gr_high(r1, result as u32);
    cpu.signed_code(result as i64, overflow)
}

/// Ends an unsigned operation in bits 0-31.
#[inline(always)]
fn put_logical_high(cpu: &mut Cpu, r1: u8, (result, carry): (u32, bool)) {
    cpu.set_gr_high(r1, result);
    cpu.cc = logical_code(result as u64, carry);
}

/// The difference, and the carry of an unsigned subtraction: that there is no borrow.
#[inline(always)]
fn minus(a: u32, b: u32) -> (u32, bool) {
    let (difference, borrow) = a.overflowing_sub(b);
    (difference, !borrow)
}

/// ADD HIGH.
fn ahhhr(cpu: &mut Cpu, i: Rrf) -> Flow {
    let result = (cpu.gr_high(i.r2) as i32).overflowing_add(cpu.gr_high(i.r3) as i32);
    put_signed_high(cpu, i.r1, result)
}

/// ADD HIGH (high and low).
fn ahhlr(cpu: &mut Cpu, i: Rrf) -> Flow {
    let result = (cpu.gr_high(i.r2) as i32).overflowing_add(cpu.gr32(i.r3) as i32);
    put_signed_high(cpu, i.r1, result)
}

/// ADD IMMEDIATE HIGH.
fn aih(cpu: &mut Cpu, i: Ri) -> Flow {
    let result = (cpu.gr_high(i.r1) as i32).overflowing_add(i.i2);
    put_signed_high(cpu, i.r1, result)
}

/// ADD LOGICAL HIGH.
fn alhhhr(cpu: &mut Cpu, i: Rrf) -> Flow {
    let result = cpu.gr_high(i.r2).overflowing_add(cpu.gr_high(i.r3));
    put_logical_high(cpu, i.r1, result);
    Ok(())
}

/// ADD LOGICAL HIGH (high and low).
fn alhhlr(cpu: &mut Cpu, i: Rrf) -> Flow {
    let result = cpu.gr_high(i.r2).overflowing_add(cpu.gr32(i.r3));
    put_logical_high(cpu, i.r1, result);
    Ok(())
}

/// ADD LOGICAL WITH SIGNED IMMEDIATE HIGH.
fn alsih(cpu: &mut Cpu, i: Ri) -> Flow {
    let result = cpu.gr_high(i.r1).overflowing_add(i.i2 as u32);
    put_logical_high(cpu, i.r1, result);
    Ok(())
}

/// ADD LOGICAL WITH SIGNED IMMEDIATE HIGH, leaving the condition code.
fn alsihn(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr_high(i.r1, cpu.gr_high(i.r1).wrapping_add(i.i2 as u32));
    Ok(())
}

/// SUBTRACT HIGH.
fn shhhr(cpu: &mut Cpu, i: Rrf) -> Flow {
    let result = (cpu.gr_high(i.r2) as i32).overflowing_sub(cpu.gr_high(i.r3) as i32);
    put_signed_high(cpu, i.r1, result)
}

/// SUBTRACT HIGH (high and low).
fn shhlr(cpu: &mut Cpu, i: Rrf) -> Flow {
    let result = (cpu.gr_high(i.r2) as i32).overflowing_sub(cpu.gr32(i.r3) as i32);
    put_signed_high(cpu, i.r1, result)
}

/// SUBTRACT LOGICAL HIGH.
fn slhhhr(cpu: &mut Cpu, i: Rrf) -> Flow {
    let result = minus(cpu.gr_high(i.r2), cpu.gr_high(i.r3));
    put_logical_high(cpu, i.r1, result);
    Ok(())
}

/// SUBTRACT LOGICAL HIGH (high and low).
fn slhhlr(cpu: &mut Cpu, i: Rrf) -> Flow {
    let result = minus(cpu.gr_high(i.r2), cpu.gr32(i.r3));
    put_logical_high(cpu, i.r1, result);
    Ok(())
}

/// COMPARE HIGH.
fn chhr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.cc = order(cpu.gr_high(i.r1) as i32, cpu.gr_high(i.r2) as i32);
    Ok(())
}

/// COMPARE HIGH (high and low).
fn chlr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.cc = order(cpu.gr_high(i.r1) as i32, cpu.gr32(i.r2) as i32);
    Ok(())
}

/// COMPARE HIGH (storage).
fn chf(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.cc = order(cpu.gr_high(i.r1) as i32, cpu.load::<u32>(i.operand(cpu))? as i32);
    Ok(())
}

/// COMPARE IMMEDIATE HIGH.
fn cih(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.cc = order(cpu.gr_high(i.r1) as i32, i.i2);
    Ok(())
}

/// COMPARE LOGICAL HIGH.
fn clhhr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.cc = order(cpu.gr_high(i.r1), cpu.gr_high(i.r2));
    Ok(())
}

/// COMPARE LOGICAL HIGH (high and low).
fn clhlr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.cc = order(cpu.gr_high(i.r1), cpu.gr32(i.r2));
    Ok(())
}

/// COMPARE LOGICAL HIGH (storage).
fn clhf(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.cc = order(cpu.gr_high(i.r1), cpu.load::<u32>(i.operand(cpu))?);
    Ok(())
}

/// COMPARE LOGICAL IMMEDIATE HIGH.
fn clih(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.cc = order(cpu.gr_high(i.r1), i.i2 as u32);
    Ok(())
}

/// LOAD BYTE HIGH.
fn lbh(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u8>(i.operand(cpu))?;
    cpu.set_gr_high(i.r1, value as i8 as u32);
    Ok(())
}

/// LOAD HALFWORD HIGH.
fn lhh(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u16>(i.operand(cpu))?;
    cpu.set_gr_high(i.r1, value as i16 as u32);
    Ok(())
}

/// LOAD HIGH.
fn lfh(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr_high(i.r1, value);
    Ok(())
}

/// LOAD LOGICAL CHARACTER HIGH.
fn llch(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u8>(i.operand(cpu))?;
    cpu.set_gr_high(i.r1, value as u32);
    Ok(())
}

/// LOAD LOGICAL HALFWORD HIGH.
fn llhh(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u16>(i.operand(cpu))?;
    cpu.set_gr_high(i.r1, value as u32);
    Ok(())
}

/// STORE CHARACTER HIGH.
fn stch(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store::<u8>(i.operand(cpu), cpu.gr_high(i.r1) as u8)
}

/// STORE HALFWORD HIGH.
fn sthh(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store::<u16>(i.operand(cpu), cpu.gr_high(i.r1) as u16)
}

/// STORE HIGH.
fn stfh(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store::<u32>(i.operand(cpu), cpu.gr_high(i.r1))
}
