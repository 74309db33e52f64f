//! General instructions (chapter 7): several registers or several bytes of one: LOAD and STORE MULTIPLE,
//! pairs, characters under mask.

use machine::Operand;
use zarch::Facility::*;
use zarch::ProgramCode;

use super::load::sign;
use crate::access::{Access, Word};
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0x98, "LM", N3, RS::of(lm)),
        row(0xeb98, "LMY", LongDisplacement, RSY::of(lm)),
        row(0xeb04, "LMG", N3, RSY::of(lmg)),
        row(0xeb96, "LMH", N3, RSY::of(lmh)),
        row(0xef, "LMD", N3, SS::of(lmd)),
        row(0x90, "STM", N3, RS::of(stm)),
        row(0xeb90, "STMY", LongDisplacement, RSY::of(stm)),
        row(0xeb24, "STMG", N3, RSY::of(stmg)),
        row(0xeb26, "STMH", N3, RSY::of(stmh)),
        row(0x9a, "LAM", N3, RS::of(lam)),
        row(0xeb9a, "LAMY", LongDisplacement, RSY::of(lam)),
        row(0x9b, "STAM", N3, RS::of(stam)),
        row(0xeb9b, "STAMY", LongDisplacement, RSY::of(stam)),
        row(0xe38f, "LPQ", N3, RXY::of(lpq)).even1(),
        row(0xe38e, "STPQ", N3, RXY::of(stpq)).even1(),
        row(0xc84, "LPD", DistinctOperands, SSF::of(lpd)).even1(),
        row(0xc85, "LPDG", DistinctOperands, SSF::of(lpdg)).even1(),
        row(0xbf, "ICM", N3, RS::of(icm)),
        row(0xeb81, "ICMY", LongDisplacement, RSY::of(icm)),
        row(0xeb80, "ICMH", N3, RSY::of(icmh)),
        row(0xbe, "STCM", N3, RS::of(stcm)),
        row(0xeb2d, "STCMY", LongDisplacement, RSY::of(stcm)),
        row(0xeb2c, "STCMH", N3, RSY::of(stcmh)),
    ]
}

/// How many registers `r1` to `r3` are, with 0 following 15.
#[inline(always)]
fn count(r1: u8, r3: u8) -> u8 {
    (r3.wrapping_sub(r1) & 15) + 1
}

/// Specification exception unless `address` is a multiple of `size`.
#[inline(always)]
fn aligned(address: u64, size: u64) -> Flow {
    if address % size == 0 { Ok(()) } else { Err(ProgramCode::Specification.into()) }
}

/// The word `n` of a list that begins at `at`.
#[inline(always)]
fn element<T: Word>(cpu: &Cpu, at: Operand, n: u8) -> Operand {
    Operand { address: cpu.trim(at.address.wrapping_add(n as u64 * T::SIZE)), ar: at.ar }
}

/// One word for each of the registers `r1` to `r3`, all fetched before any register changes.
#[inline(always)]
fn words<T: Word + Default>(cpu: &mut Cpu, at: Operand, r1: u8, r3: u8) -> Result<[T; 16], Leave> {
    let mut words = [T::default(); 16];
    for n in 0..count(r1, r3) {
        words[n as usize & 15] = cpu.load(element::<T>(cpu, at, n))?;
    }
    Ok(words)
}

#[inline(always)]
fn load_registers<T: Word + Default>(cpu: &mut Cpu, i: Rs, set: impl Fn(&mut Cpu, u8, T)) -> Flow {
    let words = words::<T>(cpu, i.operand(cpu), i.r1, i.r3)?;
    for n in 0..count(i.r1, i.r3) {
        set(cpu, i.r1 + n, words[n as usize & 15]);
    }
    Ok(())
}

#[inline(always)]
fn store_registers<T: Word>(cpu: &mut Cpu, i: Rs, get: impl Fn(&Cpu, u8) -> T) -> Flow {
    let (at, count) = (i.operand(cpu), count(i.r1, i.r3));
    if count > 1 {
        cpu.span(at, count as usize * T::SIZE as usize, Access::Store)?;
    }
    for n in 0..count {
        let value = get(cpu, i.r1 + n);
        cpu.store(element::<T>(cpu, at, n), value)?;
    }
    Ok(())
}

/// The aligned quadword at `at`. Fetching must not need store access, so this reads until two looks agree
/// instead of swapping: each half then held its value at the moment between the looks.
fn load_quadword(cpu: &mut Cpu, at: Operand) -> Result<u128, Leave> {
    aligned(at.address, 16)?;
    let mut value = cpu.load::<u128>(at)?;
    loop {
        let again = cpu.load::<u128>(at)?;
        if value == again {
            return Ok(value);
        }
        value = again;
    }
}

/// Both words of LOAD PAIR DISJOINT, and whether no other CPU stored between the two fetches as far as
/// fetching the first again can tell.
fn load_pair<T: Word>(cpu: &mut Cpu, i: Ss) -> Result<(T, T, bool), Leave> {
    let (at1, at2) = (i.operand1(cpu), i.operand2(cpu));
    aligned(at1.address, T::SIZE)?;
    aligned(at2.address, T::SIZE)?;
    let first = cpu.load::<T>(at1)?;
    let second = cpu.load::<T>(at2)?;
    let alike = cpu.load::<T>(at1)? == first;
    Ok((first, second, alike))
}

/// A byte of ones for each one in the four-bit mask.
#[inline(always)]
pub(super) fn byte_mask(m3: u8) -> u32 {
    // Spreads the bits to 24, 16, 8 and 0, then fills the bytes.
    (m3 as u32 * 0x20_4081 & 0x0101_0101) * 0xff
}

/// The contiguous bytes at the second operand, spread to where the mask M3 has ones, and that mask as
/// bytes. A zero mask still accesses one byte.
#[inline(always)]
pub(super) fn masked_bytes(cpu: &mut Cpu, i: Rs) -> Result<(u32, u32), Leave> {
    let at = i.operand(cpu);
    let value = match i.r3 {
        15 => cpu.load::<u32>(at)?,
        0 => {
            cpu.load::<u8>(at)?;
            0
        }
        m3 => {
            let span = cpu.span(at, m3.count_ones() as usize, Access::Fetch)?;
            let mut n = 0;
            let mut value = 0;
            for byte in 0..4 {
                value <<= 8;
                if m3 << byte & 8 != 0 {
                    value |= span.get(n) as u32;
                    n += 1;
                }
            }
            value
        }
    };
    Ok((byte_mask(i.r3), value))
}

/// Condition code of INSERT CHARACTERS UNDER MASK: the inserted bits as a signed number.
#[inline(always)]
fn insert_code(mask: u32, value: u32) -> u8 {
    sign((value << mask.leading_zeros().min(31)) as i32 as i64)
}

/// Stores the bytes of `value` that M3 selects side by side. A zero mask still accesses one byte.
#[inline(always)]
fn store_masked_bytes(cpu: &mut Cpu, i: Rs, value: u32) -> Flow {
    let at = i.operand(cpu);
    if i.r3 == 15 {
        return cpu.store(at, value);
    }
    let span = cpu.span(at, i.r3.count_ones().max(1) as usize, Access::Store)?;
    let mut n = 0;
    for byte in 0..4 {
        if i.r3 << byte & 8 != 0 {
            span.set(n, (value >> (24 - 8 * byte)) as u8);
            n += 1;
        }
    }
    Ok(())
}

/// LOAD MULTIPLE.
fn lm(cpu: &mut Cpu, i: Rs) -> Flow {
    load_registers(cpu, i, Cpu::set_gr32)
}

/// LOAD MULTIPLE (64).
fn lmg(cpu: &mut Cpu, i: Rs) -> Flow {
    if cpu.load_registers_fast(i.operand(cpu), i.r1, i.r3) {
        return Ok(());
    }
    load_registers(cpu, i, Cpu::set_gr)
}

/// LOAD MULTIPLE HIGH.
fn lmh(cpu: &mut Cpu, i: Rs) -> Flow {
    load_registers(cpu, i, Cpu::set_gr_high)
}

/// LOAD MULTIPLE DISJOINT: left halves from the second operand, right halves from the fourth.
fn lmd(cpu: &mut Cpu, i: Ss) -> Flow {
    let high = words::<u32>(cpu, i.operand1(cpu), i.l1(), i.l2())?;
    let low = words::<u32>(cpu, i.operand2(cpu), i.l1(), i.l2())?;
    for n in 0..count(i.l1(), i.l2()) {
        cpu.set_gr(i.l1() + n, (high[n as usize] as u64) << 32 | low[n as usize] as u64);
    }
    Ok(())
}

/// STORE MULTIPLE.
fn stm(cpu: &mut Cpu, i: Rs) -> Flow {
    store_registers(cpu, i, Cpu::gr32)
}

/// STORE MULTIPLE (64).
fn stmg(cpu: &mut Cpu, i: Rs) -> Flow {
    if cpu.store_registers_fast(i.operand(cpu), i.r1, i.r3) {
        return Ok(());
    }
    store_registers(cpu, i, Cpu::gr)
}

/// STORE MULTIPLE HIGH.
fn stmh(cpu: &mut Cpu, i: Rs) -> Flow {
    store_registers(cpu, i, Cpu::gr_high)
}

/// LOAD ACCESS MULTIPLE.
fn lam(cpu: &mut Cpu, i: Rs) -> Flow {
    aligned(i.address(cpu), 4)?;
    load_registers(cpu, i, |cpu, r, value: u32| cpu.ar[(r & 15) as usize] = value)
}

/// STORE ACCESS MULTIPLE.
fn stam(cpu: &mut Cpu, i: Rs) -> Flow {
    aligned(i.address(cpu), 4)?;
    store_registers(cpu, i, |cpu, r| cpu.ar[(r & 15) as usize])
}

/// LOAD PAIR FROM QUADWORD.
fn lpq(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = load_quadword(cpu, i.operand(cpu))?;
    cpu.set_gr(i.r1, (value >> 64) as u64);
    cpu.set_gr(i.r1 + 1, value as u64);
    Ok(())
}

/// STORE PAIR TO QUADWORD.
fn stpq(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = (cpu.gr(i.r1) as u128) << 64 | cpu.gr(i.r1 + 1) as u128;
    cpu.interlocked_update::<u128>(i.operand(cpu), |_| value)?;
    Ok(())
}

/// LOAD PAIR DISJOINT.
fn lpd(cpu: &mut Cpu, i: Ss) -> Flow {
    let (first, second, alike) = load_pair::<u32>(cpu, i)?;
    cpu.set_gr32(i.l1(), first);
    cpu.set_gr32(i.l1() + 1, second);
    cpu.cc = if alike { 0 } else { 3 };
    Ok(())
}

/// LOAD PAIR DISJOINT (64).
fn lpdg(cpu: &mut Cpu, i: Ss) -> Flow {
    let (first, second, alike) = load_pair::<u64>(cpu, i)?;
    cpu.set_gr(i.l1(), first);
    cpu.set_gr(i.l1() + 1, second);
    cpu.cc = if alike { 0 } else { 3 };
    Ok(())
}

/// INSERT CHARACTERS UNDER MASK.
fn icm(cpu: &mut Cpu, i: Rs) -> Flow {
    let (mask, value) = masked_bytes(cpu, i)?;
    cpu.set_gr32(i.r1, cpu.gr32(i.r1) & !mask | value);
    cpu.cc = insert_code(mask, value);
    Ok(())
}

/// INSERT CHARACTERS UNDER MASK (high).
fn icmh(cpu: &mut Cpu, i: Rs) -> Flow {
    let (mask, value) = masked_bytes(cpu, i)?;
    cpu.set_gr_high(i.r1, cpu.gr_high(i.r1) & !mask | value);
    cpu.cc = insert_code(mask, value);
    Ok(())
}

/// STORE CHARACTERS UNDER MASK.
fn stcm(cpu: &mut Cpu, i: Rs) -> Flow {
    let value = cpu.gr32(i.r1);
    store_masked_bytes(cpu, i, value)
}

/// STORE CHARACTERS UNDER MASK (high).
fn stcmh(cpu: &mut Cpu, i: Rs) -> Flow {
    let value = cpu.gr_high(i.r1);
    store_masked_bytes(cpu, i, value)
}
