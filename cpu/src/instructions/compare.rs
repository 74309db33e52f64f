//! General instructions (chapter 7): comparisons that set the condition code.

use zarch::Facility::*;

use super::load::load_relative;
use super::multiple::masked_bytes;
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0x19, "CR", N3, RR::of(cr)),
        row(0xb930, "CGFR", N3, RRE::of(cgfr)),
        row(0xb920, "CGR", N3, RRE::of(cgr)),
        row(0x59, "C", N3, RX::of(c)),
        row(0xe359, "CY", LongDisplacement, RXY::of(c)),
        row(0xe330, "CGF", N3, RXY::of(cgf)),
        row(0xe320, "CG", N3, RXY::of(cg)),
        row(0x49, "CH", N3, RX::of(ch)),
        row(0xe379, "CHY", LongDisplacement, RXY::of(ch)),
        row(0xe334, "CGH", GeneralInstructionsExtension, RXY::of(cgh)),
        row(0xa7e, "CHI", N3, RI_a::of(chi)),
        row(0xc2d, "CFI", ExtendedImmediate, RIL_a::of(chi)),
        row(0xa7f, "CGHI", N3, RI_a::of(cghi)),
        row(0xc2c, "CGFI", ExtendedImmediate, RIL_a::of(cghi)),
        row(0xe554, "CHHSI", GeneralInstructionsExtension, SIL::of(chhsi)),
        row(0xe55c, "CHSI", GeneralInstructionsExtension, SIL::of(chsi)),
        row(0xe558, "CGHSI", GeneralInstructionsExtension, SIL::of(cghsi)),
        row(0xc65, "CHRL", GeneralInstructionsExtension, RIL_b::of(chrl)),
        row(0xc64, "CGHRL", GeneralInstructionsExtension, RIL_b::of(cghrl)),
        row(0xc6d, "CRL", GeneralInstructionsExtension, RIL_b::of(crl)),
        row(0xc6c, "CGFRL", GeneralInstructionsExtension, RIL_b::of(cgfrl)),
        row(0xc68, "CGRL", GeneralInstructionsExtension, RIL_b::of(cgrl)),
        row(0x15, "CLR", N3, RR::of(clr)),
        row(0xb931, "CLGFR", N3, RRE::of(clgfr)),
        row(0xb921, "CLGR", N3, RRE::of(clgr)),
        row(0x55, "CL", N3, RX::of(cl)),
        row(0xe355, "CLY", LongDisplacement, RXY::of(cl)),
        row(0xe331, "CLGF", N3, RXY::of(clgf)),
        row(0xe321, "CLG", N3, RXY::of(clg)),
        row(0xc2f, "CLFI", ExtendedImmediate, RIL_a::of(clfi)),
        row(0xc2e, "CLGFI", ExtendedImmediate, RIL_a::of(clgfi)),
        row(0x95, "CLI", N3, SI::of(cli)),
        row(0xeb55, "CLIY", LongDisplacement, SIY::of(cli)),
        row(0xe555, "CLHHSI", GeneralInstructionsExtension, SIL::of(clhhsi)),
        row(0xe55d, "CLFHSI", GeneralInstructionsExtension, SIL::of(clfhsi)),
        row(0xe559, "CLGHSI", GeneralInstructionsExtension, SIL::of(clghsi)),
        row(0xbd, "CLM", N3, RS::of(clm)),
        row(0xeb21, "CLMY", LongDisplacement, RSY::of(clm)),
        row(0xeb20, "CLMH", N3, RSY::of(clmh)),
        row(0xc67, "CLHRL", GeneralInstructionsExtension, RIL_b::of(clhrl)),
        row(0xc66, "CLGHRL", GeneralInstructionsExtension, RIL_b::of(clghrl)),
        row(0xc6f, "CLRL", GeneralInstructionsExtension, RIL_b::of(clrl)),
        row(0xc6e, "CLGFRL", GeneralInstructionsExtension, RIL_b::of(clgfrl)),
        row(0xc6a, "CLGRL", GeneralInstructionsExtension, RIL_b::of(clgrl)),
    ]
}

/// Condition code of a comparison: 0 equal, 1 first operand low, 2 first operand high.
#[inline(always)]
pub(super) fn order<T: Ord>(a: T, b: T) -> u8 {
    (a < b) as u8 | ((a > b) as u8) << 1
}

/// COMPARE.
fn cr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.cc = order(cpu.gr32(i.r1) as i32, cpu.gr32(i.r2) as i32);
    Ok(())
}

/// COMPARE (64 from 32).
fn cgfr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.cc = order(cpu.gr(i.r1) as i64, cpu.gr32(i.r2) as i32 as i64);
    Ok(())
}

/// COMPARE (64).
fn cgr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.cc = order(cpu.gr(i.r1) as i64, cpu.gr(i.r2) as i64);
    Ok(())
}

/// COMPARE.
fn c(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.cc = order(cpu.gr32(i.r1) as i32, cpu.load::<u32>(i.operand(cpu))? as i32);
    Ok(())
}

/// COMPARE (64 from 32).
fn cgf(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.cc = order(cpu.gr(i.r1) as i64, cpu.load::<u32>(i.operand(cpu))? as i32 as i64);
    Ok(())
}

/// COMPARE (64).
fn cg(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.cc = order(cpu.gr(i.r1) as i64, cpu.load::<u64>(i.operand(cpu))? as i64);
    Ok(())
}

/// COMPARE HALFWORD.
fn ch(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.cc = order(cpu.gr32(i.r1) as i32, cpu.load::<u16>(i.operand(cpu))? as i16 as i32);
    Ok(())
}

/// COMPARE HALFWORD (64 from 16).
fn cgh(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.cc = order(cpu.gr(i.r1) as i64, cpu.load::<u16>(i.operand(cpu))? as i16 as i64);
    Ok(())
}

/// COMPARE HALFWORD IMMEDIATE, COMPARE IMMEDIATE.
fn chi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.cc = order(cpu.gr32(i.r1) as i32, i.i2);
    Ok(())
}

/// COMPARE HALFWORD IMMEDIATE (64), COMPARE IMMEDIATE (64 from 32).
fn cghi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.cc = order(cpu.gr(i.r1) as i64, i.i2 as i64);
    Ok(())
}

/// COMPARE HALFWORD IMMEDIATE (16).
fn chhsi(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.cc = order(cpu.load::<u16>(i.operand(cpu))? as i16 as i32, i.i2);
    Ok(())
}

/// COMPARE HALFWORD IMMEDIATE (32).
fn chsi(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.cc = order(cpu.load::<u32>(i.operand(cpu))? as i32, i.i2);
    Ok(())
}

/// COMPARE HALFWORD IMMEDIATE (64).
fn cghsi(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.cc = order(cpu.load::<u64>(i.operand(cpu))? as i64, i.i2 as i64);
    Ok(())
}

/// COMPARE HALFWORD RELATIVE LONG.
fn chrl(cpu: &mut Cpu, i: Rel) -> Flow {
    cpu.cc = order(cpu.gr32(i.r1) as i32, load_relative::<u16>(cpu, i)? as i16 as i32);
    Ok(())
}

/// COMPARE HALFWORD RELATIVE LONG (64 from 16).
fn cghrl(cpu: &mut Cpu, i: Rel) -> Flow {
    cpu.cc = order(cpu.gr(i.r1) as i64, load_relative::<u16>(cpu, i)? as i16 as i64);
    Ok(())
}

/// COMPARE RELATIVE LONG.
fn crl(cpu: &mut Cpu, i: Rel) -> Flow {
    cpu.cc = order(cpu.gr32(i.r1) as i32, load_relative::<u32>(cpu, i)? as i32);
    Ok(())
}

/// COMPARE RELATIVE LONG (64 from 32).
fn cgfrl(cpu: &mut Cpu, i: Rel) -> Flow {
    cpu.cc = order(cpu.gr(i.r1) as i64, load_relative::<u32>(cpu, i)? as i32 as i64);
    Ok(())
}

/// COMPARE RELATIVE LONG (64).
fn cgrl(cpu: &mut Cpu, i: Rel) -> Flow {
    cpu.cc = order(cpu.gr(i.r1) as i64, load_relative::<u64>(cpu, i)? as i64);
    Ok(())
}

/// COMPARE LOGICAL.
fn clr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.cc = order(cpu.gr32(i.r1), cpu.gr32(i.r2));
    Ok(())
}

/// COMPARE LOGICAL (64 from 32).
fn clgfr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.cc = order(cpu.gr(i.r1), cpu.gr32(i.r2) as u64);
    Ok(())
}

/// COMPARE LOGICAL (64).
fn clgr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.cc = order(cpu.gr(i.r1), cpu.gr(i.r2));
    Ok(())
}

/// COMPARE LOGICAL.
fn cl(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.cc = order(cpu.gr32(i.r1), cpu.load::<u32>(i.operand(cpu))?);
    Ok(())
}

/// COMPARE LOGICAL (64 from 32).
fn clgf(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.cc = order(cpu.gr(i.r1), cpu.load::<u32>(i.operand(cpu))? as u64);
    Ok(())
}

/// COMPARE LOGICAL (64).
fn clg(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.cc = order(cpu.gr(i.r1), cpu.load::<u64>(i.operand(cpu))?);
    Ok(())
}

/// COMPARE LOGICAL IMMEDIATE.
fn clfi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.cc = order(cpu.gr32(i.r1), i.i2 as u32);
    Ok(())
}

/// COMPARE LOGICAL IMMEDIATE (64 from 32).
fn clgfi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.cc = order(cpu.gr(i.r1), i.i2 as u32 as u64);
    Ok(())
}

/// COMPARE LOGICAL (immediate).
fn cli(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.cc = order(cpu.load::<u8>(i.operand(cpu))?, i.i2 as u8);
    Ok(())
}

/// COMPARE LOGICAL IMMEDIATE (16 from 16).
fn clhhsi(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.cc = order(cpu.load::<u16>(i.operand(cpu))?, i.i2 as u16);
    Ok(())
}

/// COMPARE LOGICAL IMMEDIATE (32 from 16).
fn clfhsi(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.cc = order(cpu.load::<u32>(i.operand(cpu))?, i.i2 as u16 as u32);
    Ok(())
}

/// COMPARE LOGICAL IMMEDIATE (64 from 16).
fn clghsi(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.cc = order(cpu.load::<u64>(i.operand(cpu))?, i.i2 as u16 as u64);
    Ok(())
}

/// COMPARE LOGICAL CHARACTERS UNDER MASK.
fn clm(cpu: &mut Cpu, i: Rs) -> Flow {
    let (mask, value) = masked_bytes(cpu, i)?;
    cpu.cc = order(cpu.gr32(i.r1) & mask, value);
    Ok(())
}

/// COMPARE LOGICAL CHARACTERS UNDER MASK (high).
fn clmh(cpu: &mut Cpu, i: Rs) -> Flow {
    let (mask, value) = masked_bytes(cpu, i)?;
    cpu.cc = order(cpu.gr_high(i.r1) & mask, value);
    Ok(())
}

/// COMPARE LOGICAL RELATIVE LONG (32 from 16).
fn clhrl(cpu: &mut Cpu, i: Rel) -> Flow {
    cpu.cc = order(cpu.gr32(i.r1), load_relative::<u16>(cpu, i)? as u32);
    Ok(())
}

/// COMPARE LOGICAL RELATIVE LONG (64 from 16).
fn clghrl(cpu: &mut Cpu, i: Rel) -> Flow {
    cpu.cc = order(cpu.gr(i.r1), load_relative::<u16>(cpu, i)? as u64);
    Ok(())
}

/// COMPARE LOGICAL RELATIVE LONG.
fn clrl(cpu: &mut Cpu, i: Rel) -> Flow {
    cpu.cc = order(cpu.gr32(i.r1), load_relative::<u32>(cpu, i)?);
    Ok(())
}

/// COMPARE LOGICAL RELATIVE LONG (64 from 32).
fn clgfrl(cpu: &mut Cpu, i: Rel) -> Flow {
    cpu.cc = order(cpu.gr(i.r1), load_relative::<u32>(cpu, i)? as u64);
    Ok(())
}

/// COMPARE LOGICAL RELATIVE LONG (64).
fn clgrl(cpu: &mut Cpu, i: Rel) -> Flow {
    cpu.cc = order(cpu.gr(i.r1), load_relative::<u64>(cpu, i)?);
    Ok(())
}
