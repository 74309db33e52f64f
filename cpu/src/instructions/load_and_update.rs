//! General instructions (chapter 7): LOAD AND ADD and its kin: storage is updated interlocked, the register
//! receives what was there before.

use zarch::Facility::*;

use super::arithmetic::logical_code;
use crate::access::Word;
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xebf8, "LAA", DistinctOperands, RSY::of(laa)),
        row(0xebe8, "LAAG", DistinctOperands, RSY::of(laag)),
        row(0xebfa, "LAAL", DistinctOperands, RSY::of(laal)),
        row(0xebea, "LAALG", DistinctOperands, RSY::of(laalg)),
        row(0xebf4, "LAN", DistinctOperands, RSY::of(lan)),
        row(0xebe4, "LANG", DistinctOperands, RSY::of(lang)),
        row(0xebf7, "LAX", DistinctOperands, RSY::of(lax)),
        row(0xebe7, "LAXG", DistinctOperands, RSY::of(laxg)),
        row(0xebf6, "LAO", DistinctOperands, RSY::of(lao)),
        row(0xebe6, "LAOG", DistinctOperands, RSY::of(laog)),
    ]
}

/// Replaces the aligned second operand by `f` of it, answering with what it was.
#[inline(always)]
fn update<T: Word>(cpu: &mut Cpu, i: Rs, f: impl Fn(T) -> T) -> Result<T, Leave> {
    cpu.interlocked_update(i.operand(cpu), f)
}

/// LOAD AND ADD.
fn laa(cpu: &mut Cpu, i: Rs) -> Flow {
    let b = cpu.gr32(i.r3) as i32;
    let old = update(cpu, i, |a: u32| a.wrapping_add(b as u32))?;
    cpu.set_gr32(i.r1, old);
    let (sum, overflow) = (old as i32).overflowing_add(b);
    cpu.signed_code(sum as i64, overflow)
}

/// LOAD AND ADD (64).
fn laag(cpu: &mut Cpu, i: Rs) -> Flow {
    let b = cpu.gr(i.r3) as i64;
    let old = update(cpu, i, |a: u64| a.wrapping_add(b as u64))?;
    cpu.set_gr(i.r1, old);
    let (sum, overflow) = (old as i64).overflowing_add(b);
    cpu.signed_code(sum, overflow)
}

/// LOAD AND ADD LOGICAL.
fn laal(cpu: &mut Cpu, i: Rs) -> Flow {
    let b = cpu.gr32(i.r3);
    let old = update(cpu, i, |a: u32| a.wrapping_add(b))?;
    cpu.set_gr32(i.r1, old);
    let (sum, carry) = old.overflowing_add(b);
    cpu.cc = logical_code(sum as u64, carry);
    Ok(())
}

/// LOAD AND ADD LOGICAL (64).
fn laalg(cpu: &mut Cpu, i: Rs) -> Flow {
    let b = cpu.gr(i.r3);
    let old = update(cpu, i, |a: u64| a.wrapping_add(b))?;
    cpu.set_gr(i.r1, old);
    let (sum, carry) = old.overflowing_add(b);
    cpu.cc = logical_code(sum, carry);
    Ok(())
}

/// LOAD AND AND.
fn lan(cpu: &mut Cpu, i: Rs) -> Flow {
    let b = cpu.gr32(i.r3);
    let old = update(cpu, i, |a: u32| a & b)?;
    cpu.set_gr32(i.r1, old);
    cpu.cc = (old & b != 0) as u8;
    Ok(())
}

/// LOAD AND AND (64).
fn lang(cpu: &mut Cpu, i: Rs) -> Flow {
    let b = cpu.gr(i.r3);
    let old = update(cpu, i, |a: u64| a & b)?;
    cpu.set_gr(i.r1, old);
    cpu.cc = (old & b != 0) as u8;
    Ok(())
}

/// LOAD AND EXCLUSIVE OR.
fn lax(cpu: &mut Cpu, i: Rs) -> Flow {
    let b = cpu.gr32(i.r3);
    let old = update(cpu, i, |a: u32| a ^ b)?;
    cpu.set_gr32(i.r1, old);
    cpu.cc = (old ^ b != 0) as u8;
    Ok(())
}

/// LOAD AND EXCLUSIVE OR (64).
fn laxg(cpu: &mut Cpu, i: Rs) -> Flow {
    let b = cpu.gr(i.r3);
    let old = update(cpu, i, |a: u64| a ^ b)?;
    cpu.set_gr(i.r1, old);
    cpu.cc = (old ^ b != 0) as u8;
    Ok(())
}

/// LOAD AND OR.
fn lao(cpu: &mut Cpu, i: Rs) -> Flow {
    let b = cpu.gr32(i.r3);
    let old = update(cpu, i, |a: u32| a | b)?;
    cpu.set_gr32(i.r1, old);
    cpu.cc = (old | b != 0) as u8;
    Ok(())
}

/// LOAD AND OR (64).
fn laog(cpu: &mut Cpu, i: Rs) -> Flow {
    let b = cpu.gr(i.r3);
    let old = update(cpu, i, |a: u64| a | b)?;
    cpu.set_gr(i.r1, old);
    cpu.cc = (old | b != 0) as u8;
    Ok(())
}
