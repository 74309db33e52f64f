//! General instructions (chapter 7): immediates that load, insert into, combine with or test a part of a
//! general register or a byte of storage.

use zarch::Facility::*;

use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xa50, "IIHH", N3, RI_a::of(iihh)),
        row(0xa51, "IIHL", N3, RI_a::of(iihl)),
        row(0xa52, "IILH", N3, RI_a::of(iilh)),
        row(0xa53, "IILL", N3, RI_a::of(iill)),
        row(0xc08, "IIHF", ExtendedImmediate, RIL_a::of(iihf)),
        row(0xc09, "IILF", ExtendedImmediate, RIL_a::of(iilf)),
        row(0xa5c, "LLIHH", N3, RI_a::of(llihh)),
        row(0xa5d, "LLIHL", N3, RI_a::of(llihl)),
        row(0xa5e, "LLILH", N3, RI_a::of(llilh)),
        row(0xa5f, "LLILL", N3, RI_a::of(llill)),
        row(0xc0e, "LLIHF", ExtendedImmediate, RIL_a::of(llihf)),
        row(0xc0f, "LLILF", ExtendedImmediate, RIL_a::of(llilf)),
        row(0xa54, "NIHH", N3, RI_a::of(nihh)),
        row(0xa55, "NIHL", N3, RI_a::of(nihl)),
        row(0xa56, "NILH", N3, RI_a::of(nilh)),
        row(0xa57, "NILL", N3, RI_a::of(nill)),
        row(0xc0a, "NIHF", ExtendedImmediate, RIL_a::of(nihf)),
        row(0xc0b, "NILF", ExtendedImmediate, RIL_a::of(nilf)),
        row(0xa58, "OIHH", N3, RI_a::of(oihh)),
        row(0xa59, "OIHL", N3, RI_a::of(oihl)),
        row(0xa5a, "OILH", N3, RI_a::of(oilh)),
        row(0xa5b, "OILL", N3, RI_a::of(oill)),
        row(0xc0c, "OIHF", ExtendedImmediate, RIL_a::of(oihf)),
        row(0xc0d, "OILF", ExtendedImmediate, RIL_a::of(oilf)),
        row(0xc06, "XIHF", ExtendedImmediate, RIL_a::of(xihf)),
        row(0xc07, "XILF", ExtendedImmediate, RIL_a::of(xilf)),
        row(0x94, "NI", N3, SI::of(ni)),
        row(0xeb54, "NIY", LongDisplacement, SIY::of(ni)),
        row(0x96, "OI", N3, SI::of(oi)),
        row(0xeb56, "OIY", LongDisplacement, SIY::of(oi)),
        row(0x97, "XI", N3, SI::of(xi)),
        row(0xeb57, "XIY", LongDisplacement, SIY::of(xi)),
        row(0x91, "TM", N3, SI::of(tm)),
        row(0xeb51, "TMY", LongDisplacement, SIY::of(tm)),
        row(0xa72, "TMHH", N3, RI_a::of(tmhh)),
        row(0xa73, "TMHL", N3, RI_a::of(tmhl)),
        row(0xa70, "TMLH", N3, RI_a::of(tmlh)),
        row(0xa71, "TMLL", N3, RI_a::of(tmll)),
    ]
}

/// The immediate as 16 unsigned bits.
#[inline(always)]
fn halfword(i: Ri) -> u64 {
    i.i2 as u16 as u64
}

/// `value` with the 16 bits that have `right` bits to their right replaced by the immediate.
#[inline(always)]
fn insert(value: u64, i: Ri, right: u32) -> u64 {
    value & !(0xffff << right) | halfword(i) << right
}

/// AND with 16 bits of a register; the condition code is that of these bits.
#[inline(always)]
fn and_part(cpu: &mut Cpu, i: Ri, right: u32) -> Flow {
    let part = halfword(i) << right;
    cpu.cc = (cpu.gr(i.r1) & part != 0) as u8;
    cpu.set_gr(i.r1, cpu.gr(i.r1) & (part | !(0xffff << right)));
    Ok(())
}

/// OR with 16 bits of a register; the condition code is that of these bits.
#[inline(always)]
fn or_part(cpu: &mut Cpu, i: Ri, right: u32) -> Flow {
    let result = cpu.gr(i.r1) | halfword(i) << right;
    cpu.set_gr(i.r1, result);
    cpu.cc = ((result >> right) as u16 != 0) as u8;
    Ok(())
}

/// Replaces the left half of a register; the condition code is that of the result.
#[inline(always)]
fn put_high(cpu: &mut Cpu, i: Ri, f: impl Fn(u32) -> u32) -> Flow {
    let result = f(cpu.gr_high(i.r1));
    cpu.set_gr_high(i.r1, result);
    cpu.cc = (result != 0) as u8;
    Ok(())
}

/// Replaces a byte of storage, interlocked.
#[inline(always)]
fn update_byte(cpu: &mut Cpu, i: Si, f: impl Fn(u8) -> u8 + Copy) -> Result<(), Leave> {
    let old = cpu.interlocked_update::<u8>(i.operand(cpu), f)?;
    cpu.cc = (f(old) != 0) as u8;
    Ok(())
}

/// Condition code of TEST UNDER MASK on 16 bits: all zeros, mixed with a leftmost zero or one, all ones.
#[inline(always)]
fn test(value: u64, i: Ri) -> u8 {
    let mask = i.i2 as u16;
    let selected = value as u16 & mask;
    if selected == 0 {
        0
    } else if selected == mask {
        3
    } else {
        1 + (selected.leading_zeros() == mask.leading_zeros()) as u8
    }
}

/// INSERT IMMEDIATE (high high).
fn iihh(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr(i.r1, insert(cpu.gr(i.r1), i, 48));
    Ok(())
}

/// INSERT IMMEDIATE (high low).
fn iihl(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr(i.r1, insert(cpu.gr(i.r1), i, 32));
    Ok(())
}

/// INSERT IMMEDIATE (low high).
fn iilh(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr(i.r1, insert(cpu.gr(i.r1), i, 16));
    Ok(())
}

/// INSERT IMMEDIATE (low low).
fn iill(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr(i.r1, insert(cpu.gr(i.r1), i, 0));
    Ok(())
}

/// INSERT IMMEDIATE (high).
fn iihf(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr_high(i.r1, i.i2 as u32);
    Ok(())
}

/// INSERT IMMEDIATE (low).
fn iilf(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr32(i.r1, i.i2 as u32);
    Ok(())
}

/// LOAD LOGICAL IMMEDIATE (high high).
fn llihh(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr(i.r1, halfword(i) << 48);
    Ok(())
}

/// LOAD LOGICAL IMMEDIATE (high low).
fn llihl(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr(i.r1, halfword(i) << 32);
    Ok(())
}

/// LOAD LOGICAL IMMEDIATE (low high).
fn llilh(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr(i.r1, halfword(i) << 16);
    Ok(())
}

/// LOAD LOGICAL IMMEDIATE (low low).
fn llill(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr(i.r1, halfword(i));
    Ok(())
}

/// LOAD LOGICAL IMMEDIATE (high).
fn llihf(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr(i.r1, (i.i2 as u32 as u64) << 32);
    Ok(())
}

/// LOAD LOGICAL IMMEDIATE (low).
fn llilf(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr(i.r1, i.i2 as u32 as u64);
    Ok(())
}

/// AND IMMEDIATE (high high).
fn nihh(cpu: &mut Cpu, i: Ri) -> Flow {
    and_part(cpu, i, 48)
}

/// AND IMMEDIATE (high low).
fn nihl(cpu: &mut Cpu, i: Ri) -> Flow {
    and_part(cpu, i, 32)
}

/// AND IMMEDIATE (low high).
fn nilh(cpu: &mut Cpu, i: Ri) -> Flow {
    and_part(cpu, i, 16)
}

/// AND IMMEDIATE (low low).
fn nill(cpu: &mut Cpu, i: Ri) -> Flow {
    and_part(cpu, i, 0)
}

/// AND IMMEDIATE (high).
fn nihf(cpu: &mut Cpu, i: Ri) -> Flow {
    put_high(cpu, i, |high| high & i.i2 as u32)
}

/// AND IMMEDIATE (low).
fn nilf(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.put_bits(i.r1, cpu.gr32(i.r1) & i.i2 as u32)
}

/// OR IMMEDIATE (high high).
fn oihh(cpu: &mut Cpu, i: Ri) -> Flow {
    or_part(cpu, i, 48)
}

/// OR IMMEDIATE (high low).
fn oihl(cpu: &mut Cpu, i: Ri) -> Flow {
    or_part(cpu, i, 32)
}

/// OR IMMEDIATE (low high).
fn oilh(cpu: &mut Cpu, i: Ri) -> Flow {
    or_part(cpu, i, 16)
}

/// OR IMMEDIATE (low low).
fn oill(cpu: &mut Cpu, i: Ri) -> Flow {
    or_part(cpu, i, 0)
}

/// OR IMMEDIATE (high).
fn oihf(cpu: &mut Cpu, i: Ri) -> Flow {
    put_high(cpu, i, |high| high | i.i2 as u32)
}

/// OR IMMEDIATE (low).
fn oilf(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.put_bits(i.r1, cpu.gr32(i.r1) | i.i2 as u32)
}

/// EXCLUSIVE OR IMMEDIATE (high).
fn xihf(cpu: &mut Cpu, i: Ri) -> Flow {
    put_high(cpu, i, |high| high ^ i.i2 as u32)
}

/// EXCLUSIVE OR IMMEDIATE (low).
fn xilf(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.put_bits(i.r1, cpu.gr32(i.r1) ^ i.i2 as u32)
}

/// AND (immediate).
fn ni(cpu: &mut Cpu, i: Si) -> Flow {
    update_byte(cpu, i, |byte| byte & i.i2 as u8)
}

/// OR (immediate).
fn oi(cpu: &mut Cpu, i: Si) -> Flow {
    update_byte(cpu, i, |byte| byte | i.i2 as u8)
}

/// EXCLUSIVE OR (immediate).
fn xi(cpu: &mut Cpu, i: Si) -> Flow {
    update_byte(cpu, i, |byte| byte ^ i.i2 as u8)
}

/// TEST UNDER MASK.
fn tm(cpu: &mut Cpu, i: Si) -> Flow {
    let selected = cpu.load::<u8>(i.operand(cpu))? & i.i2 as u8;
    cpu.cc = if selected == 0 {
        0
    } else if selected == i.i2 as u8 {
        3
    } else {
        1
    };
    Ok(())
}

/// TEST UNDER MASK (high high).
fn tmhh(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.cc = test(cpu.gr(i.r1) >> 48, i);
    Ok(())
}

/// TEST UNDER MASK (high low).
fn tmhl(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.cc = test(cpu.gr(i.r1) >> 32, i);
    Ok(())
}

/// TEST UNDER MASK (low high).
fn tmlh(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.cc = test(cpu.gr(i.r1) >> 16, i);
    Ok(())
}

/// TEST UNDER MASK (low low).
fn tmll(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.cc = test(cpu.gr(i.r1), i);
    Ok(())
}
