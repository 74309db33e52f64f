//! General instructions (chapter 7): addition, subtraction and sign changes of binary integers.

use zarch::Facility::*;

use super::load::sign;
use crate::access::{Access, Word};
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0x1a, "AR", N3, RR::of(ar)),
        row(0xb918, "AGFR", N3, RRE::of(agfr)),
        row(0xb908, "AGR", N3, RRE::of(agr)),
        row(0xb9f8, "ARK", DistinctOperands, RRF::of(ark)),
        row(0xb9e8, "AGRK", DistinctOperands, RRF::of(agrk)),
        row(0x5a, "A", N3, RX::of(a)),
        row(0xe35a, "AY", LongDisplacement, RXY::of(a)),
        row(0xe308, "AG", N3, RXY::of(ag)),
        row(0xe318, "AGF", N3, RXY::of(agf)),
        row(0x4a, "AH", N3, RX::of(ah)),
        row(0xe37a, "AHY", LongDisplacement, RXY::of(ah)),
        row(0xe338, "AGH", MiscellaneousInstructions2, RXY::of(agh)),
        row(0xa7a, "AHI", N3, RI_a::of(ahi)),
        row(0xc29, "AFI", ExtendedImmediate, RIL_a::of(ahi)),
        row(0xa7b, "AGHI", N3, RI_a::of(aghi)),
        row(0xc28, "AGFI", ExtendedImmediate, RIL_a::of(aghi)),
        row(0xecd8, "AHIK", DistinctOperands, RIE_d::of(ahik)),
        row(0xecd9, "AGHIK", DistinctOperands, RIE_d::of(aghik)),
        row(0xeb6a, "ASI", GeneralInstructionsExtension, SIY::of(asi)),
        row(0xeb7a, "AGSI", GeneralInstructionsExtension, SIY::of(agsi)),
        row(0x1e, "ALR", N3, RR::of(alr)),
        row(0xb91a, "ALGFR", N3, RRE::of(algfr)),
        row(0xb90a, "ALGR", N3, RRE::of(algr)),
        row(0xb9fa, "ALRK", DistinctOperands, RRF::of(alrk)),
        row(0xb9ea, "ALGRK", DistinctOperands, RRF::of(algrk)),
        row(0x5e, "AL", N3, RX::of(al)),
        row(0xe35e, "ALY", LongDisplacement, RXY::of(al)),
        row(0xe30a, "ALG", N3, RXY::of(alg)),
        row(0xe31a, "ALGF", N3, RXY::of(algf)),
        row(0xc2b, "ALFI", ExtendedImmediate, RIL_a::of(alfi)),
        row(0xc2a, "ALGFI", ExtendedImmediate, RIL_a::of(algfi)),
        row(0xecda, "ALHSIK", DistinctOperands, RIE_d::of(alhsik)),
        row(0xecdb, "ALGHSIK", DistinctOperands, RIE_d::of(alghsik)),
        row(0xeb6e, "ALSI", GeneralInstructionsExtension, SIY::of(alsi)),
        row(0xeb7e, "ALGSI", GeneralInstructionsExtension, SIY::of(algsi)),
        row(0xb998, "ALCR", N3, RRE::of(alcr)),
        row(0xb988, "ALCGR", N3, RRE::of(alcgr)),
        row(0xe398, "ALC", N3, RXY::of(alc)),
        row(0xe388, "ALCG", N3, RXY::of(alcg)),
        row(0x1b, "SR", N3, RR::of(sr)),
        row(0xb919, "SGFR", N3, RRE::of(sgfr)),
        row(0xb909, "SGR", N3, RRE::of(sgr)),
        row(0xb9f9, "SRK", DistinctOperands, RRF::of(srk)),
        row(0xb9e9, "SGRK", DistinctOperands, RRF::of(sgrk)),
        row(0x5b, "S", N3, RX::of(s)),
        row(0xe35b, "SY", LongDisplacement, RXY::of(s)),
        row(0xe309, "SG", N3, RXY::of(sg)),
        row(0xe319, "SGF", N3, RXY::of(sgf)),
        row(0x4b, "SH", N3, RX::of(sh)),
        row(0xe37b, "SHY", LongDisplacement, RXY::of(sh)),
        row(0xe339, "SGH", MiscellaneousInstructions2, RXY::of(sgh)),
        row(0x1f, "SLR", N3, RR::of(slr)),
        row(0xb91b, "SLGFR", N3, RRE::of(slgfr)),
        row(0xb90b, "SLGR", N3, RRE::of(slgr)),
        row(0xb9fb, "SLRK", DistinctOperands, RRF::of(slrk)),
        row(0xb9eb, "SLGRK", DistinctOperands, RRF::of(slgrk)),
        row(0x5f, "SL", N3, RX::of(sl)),
        row(0xe35f, "SLY", LongDisplacement, RXY::of(sl)),
        row(0xe30b, "SLG", N3, RXY::of(slg)),
        row(0xe31b, "SLGF", N3, RXY::of(slgf)),
        row(0xc25, "SLFI", ExtendedImmediate, RIL_a::of(slfi)),
        row(0xc24, "SLGFI", ExtendedImmediate, RIL_a::of(slgfi)),
        row(0xb999, "SLBR", N3, RRE::of(slbr)),
        row(0xb989, "SLBGR", N3, RRE::of(slbgr)),
        row(0xe399, "SLB", N3, RXY::of(slb)),
        row(0xe389, "SLBG", N3, RXY::of(slbg)),
        row(0x13, "LCR", N3, RR::of(lcr)),
        row(0xb903, "LCGR", N3, RRE::of(lcgr)),
        row(0xb913, "LCGFR", N3, RRE::of(lcgfr)),
        row(0x11, "LNR", N3, RR::of(lnr)),
        row(0xb901, "LNGR", N3, RRE::of(lngr)),
        row(0xb911, "LNGFR", N3, RRE::of(lngfr)),
        row(0x10, "LPR", N3, RR::of(lpr)),
        row(0xb900, "LPGR", N3, RRE::of(lpgr)),
        row(0xb910, "LPGFR", N3, RRE::of(lpgfr)),
    ]
}

/// Condition code of a logical sum: bit 0 a carry, bit 1 a result that is not zero.
#[inline(always)]
pub(super) fn logical_code(sum: u64, carry: bool) -> u8 {
    (sum != 0) as u8 | (carry as u8) << 1
}

impl Cpu {
    /// Condition code of a signed result; fixed-point overflow when there is one.
    #[inline(always)]
    pub(super) fn signed_code(&mut self, result: i64, overflow: bool) -> Flow {
        self.cc = sign(result);
        if overflow { self.overflow() } else { Ok(()) }
    }

    /// Ends a signed operation with its result and whether it overflowed.
    #[inline(always)]
    pub(super) fn put_signed(&mut self, r1: u8, (result, overflow): (i32, bool)) -> Flow {
        self.set_gr32(r1, result as u32);
        self.signed_code(result as i64, overflow)
    }

    /// Ends a signed operation of 64 bits.
    #[inline(always)]
    pub(super) fn put_signed64(&mut self, r1: u8, (result, overflow): (i64, bool)) -> Flow {
        self.set_gr(r1, result as u64);
        self.signed_code(result, overflow)
    }

    /// Ends an unsigned addition with its sum and carry.
    #[inline(always)]
    fn put_sum(&mut self, r1: u8, (sum, carry): (u32, bool)) -> Flow {
        self.set_gr32(r1, sum);
        self.cc = logical_code(sum as u64, carry);
        Ok(())
    }

    /// Ends an unsigned addition of 64 bits.
    #[inline(always)]
    fn put_sum64(&mut self, r1: u8, (sum, carry): (u64, bool)) -> Flow {
        self.set_gr(r1, sum);
        self.cc = logical_code(sum, carry);
        Ok(())
    }

    /// Ends an unsigned subtraction with its difference and borrow; no borrow counts as carry.
    #[inline(always)]
    fn put_difference(&mut self, r1: u8, (difference, borrow): (u32, bool)) -> Flow {
        self.put_sum(r1, (difference, !borrow))
    }

    /// Ends an unsigned subtraction of 64 bits.
    #[inline(always)]
    fn put_difference64(&mut self, r1: u8, (difference, borrow): (u64, bool)) -> Flow {
        self.put_sum64(r1, (difference, !borrow))
    }
}

/// Addition with a carry and subtraction with a borrow from the digit before.
trait Chained: Sized {
    fn carrying(self, b: Self, carry: bool) -> (Self, bool);
    fn borrowing(self, b: Self, borrow: bool) -> (Self, bool);
}

macro_rules! chained {
    ($type:ty) => {
        impl Chained for $type {
            #[inline(always)]
            fn carrying(self, b: Self, carry: bool) -> (Self, bool) {
                let (sum, first) = self.overflowing_add(b);
                let (sum, second) = sum.overflowing_add(carry as Self);
                (sum, first | second)
            }

            #[inline(always)]
            fn borrowing(self, b: Self, borrow: bool) -> (Self, bool) {
                let (difference, first) = self.overflowing_sub(b);
                let (difference, second) = difference.overflowing_sub(borrow as Self);
                (difference, first | second)
            }
        }
    };
}

chained!(u32);
chained!(u64);

/// Adds to storage and answers with the old value: interlocked when the operand is aligned.
fn add_to_storage<T: Word>(cpu: &mut Cpu, i: Si, b: T, add: impl Fn(T, T) -> T) -> Result<T, Leave> {
    let at = i.operand(cpu);
    if at.address % T::SIZE == 0 {
        return cpu.interlocked_update(at, |old| add(old, b));
    }
    cpu.span(at, T::SIZE as usize, Access::Store)?;
    let old = cpu.load::<T>(at)?;
    cpu.store(at, add(old, b))?;
    Ok(old)
}

/// ADD.
fn ar(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_signed(i.r1, (cpu.gr32(i.r1) as i32).overflowing_add(cpu.gr32(i.r2) as i32))
}

/// ADD (64 from 32).
fn agfr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_signed64(i.r1, (cpu.gr(i.r1) as i64).overflowing_add(cpu.gr32(i.r2) as i32 as i64))
}

/// ADD (64).
fn agr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_signed64(i.r1, (cpu.gr(i.r1) as i64).overflowing_add(cpu.gr(i.r2) as i64))
}

/// ADD.
fn ark(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_signed(i.r1, (cpu.gr32(i.r2) as i32).overflowing_add(cpu.gr32(i.r3) as i32))
}

/// ADD (64).
fn agrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_signed64(i.r1, (cpu.gr(i.r2) as i64).overflowing_add(cpu.gr(i.r3) as i64))
}

/// ADD.
fn a(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.put_signed(i.r1, (cpu.gr32(i.r1) as i32).overflowing_add(b as i32))
}

/// ADD (64).
fn ag(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    cpu.put_signed64(i.r1, (cpu.gr(i.r1) as i64).overflowing_add(b as i64))
}

/// ADD (64 from 32).
fn agf(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.put_signed64(i.r1, (cpu.gr(i.r1) as i64).overflowing_add(b as i32 as i64))
}

/// ADD HALFWORD.
fn ah(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u16>(i.operand(cpu))?;
    cpu.put_signed(i.r1, (cpu.gr32(i.r1) as i32).overflowing_add(b as i16 as i32))
}

/// ADD HALFWORD (64 from 16).
fn agh(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u16>(i.operand(cpu))?;
    cpu.put_signed64(i.r1, (cpu.gr(i.r1) as i64).overflowing_add(b as i16 as i64))
}

/// ADD HALFWORD IMMEDIATE, ADD IMMEDIATE.
fn ahi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.put_signed(i.r1, (cpu.gr32(i.r1) as i32).overflowing_add(i.i2))
}

/// ADD HALFWORD IMMEDIATE (64), ADD IMMEDIATE (64 from 32).
fn aghi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.put_signed64(i.r1, (cpu.gr(i.r1) as i64).overflowing_add(i.i2 as i64))
}

/// ADD IMMEDIATE (32 from 16).
fn ahik(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.put_signed(i.r1, (cpu.gr32(i.r3) as i32).overflowing_add(i.i2))
}

/// ADD IMMEDIATE (64 from 16).
fn aghik(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.put_signed64(i.r1, (cpu.gr(i.r3) as i64).overflowing_add(i.i2 as i64))
}

/// ADD IMMEDIATE (storage).
fn asi(cpu: &mut Cpu, i: Si) -> Flow {
    let old = add_to_storage(cpu, i, i.i2 as i8 as u32, u32::wrapping_add)?;
    let (sum, overflow) = (old as i32).overflowing_add(i.i2 as i8 as i32);
    cpu.signed_code(sum as i64, overflow)
}

/// ADD IMMEDIATE (storage, 64).
fn agsi(cpu: &mut Cpu, i: Si) -> Flow {
    let old = add_to_storage(cpu, i, i.i2 as i8 as u64, u64::wrapping_add)?;
    let (sum, overflow) = (old as i64).overflowing_add(i.i2 as i8 as i64);
    cpu.signed_code(sum, overflow)
}

/// ADD LOGICAL.
fn alr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_sum(i.r1, cpu.gr32(i.r1).overflowing_add(cpu.gr32(i.r2)))
}

/// ADD LOGICAL (64 from 32).
fn algfr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_sum64(i.r1, cpu.gr(i.r1).overflowing_add(cpu.gr32(i.r2) as u64))
}

/// ADD LOGICAL (64).
fn algr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_sum64(i.r1, cpu.gr(i.r1).overflowing_add(cpu.gr(i.r2)))
}

/// ADD LOGICAL.
fn alrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_sum(i.r1, cpu.gr32(i.r2).overflowing_add(cpu.gr32(i.r3)))
}

/// ADD LOGICAL (64).
fn algrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_sum64(i.r1, cpu.gr(i.r2).overflowing_add(cpu.gr(i.r3)))
}

/// ADD LOGICAL.
fn al(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.put_sum(i.r1, cpu.gr32(i.r1).overflowing_add(b))
}

/// ADD LOGICAL (64).
fn alg(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    cpu.put_sum64(i.r1, cpu.gr(i.r1).overflowing_add(b))
}

/// ADD LOGICAL (64 from 32).
fn algf(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.put_sum64(i.r1, cpu.gr(i.r1).overflowing_add(b as u64))
}

/// ADD LOGICAL IMMEDIATE.
fn alfi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.put_sum(i.r1, cpu.gr32(i.r1).overflowing_add(i.i2 as u32))
}

/// ADD LOGICAL IMMEDIATE (64 from 32).
fn algfi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.put_sum64(i.r1, cpu.gr(i.r1).overflowing_add(i.i2 as u32 as u64))
}

/// ADD LOGICAL WITH SIGNED IMMEDIATE (32 from 16).
fn alhsik(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.put_sum(i.r1, cpu.gr32(i.r3).overflowing_add(i.i2 as u32))
}

/// ADD LOGICAL WITH SIGNED IMMEDIATE (64 from 16).
fn alghsik(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.put_sum64(i.r1, cpu.gr(i.r3).overflowing_add(i.i2 as i64 as u64))
}

/// ADD LOGICAL WITH SIGNED IMMEDIATE (storage).
fn alsi(cpu: &mut Cpu, i: Si) -> Flow {
    let b = i.i2 as i8 as u32;
    let old = add_to_storage(cpu, i, b, u32::wrapping_add)?;
    let (sum, carry) = old.overflowing_add(b);
    cpu.cc = logical_code(sum as u64, carry);
    Ok(())
}

/// ADD LOGICAL WITH SIGNED IMMEDIATE (storage, 64).
fn algsi(cpu: &mut Cpu, i: Si) -> Flow {
    let b = i.i2 as i8 as u64;
    let old = add_to_storage(cpu, i, b, u64::wrapping_add)?;
    let (sum, carry) = old.overflowing_add(b);
    cpu.cc = logical_code(sum, carry);
    Ok(())
}

/// ADD LOGICAL WITH CARRY.
fn alcr(cpu: &mut Cpu, i: Rr) -> Flow {
    let sum = cpu.gr32(i.r1).carrying(cpu.gr32(i.r2), cpu.cc >= 2);
    cpu.put_sum(i.r1, sum)
}

/// ADD LOGICAL WITH CARRY (64).
fn alcgr(cpu: &mut Cpu, i: Rr) -> Flow {
    let sum = cpu.gr(i.r1).carrying(cpu.gr(i.r2), cpu.cc >= 2);
    cpu.put_sum64(i.r1, sum)
}

/// ADD LOGICAL WITH CARRY.
fn alc(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    let sum = cpu.gr32(i.r1).carrying(b, cpu.cc >= 2);
    cpu.put_sum(i.r1, sum)
}

/// ADD LOGICAL WITH CARRY (64).
fn alcg(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    let sum = cpu.gr(i.r1).carrying(b, cpu.cc >= 2);
    cpu.put_sum64(i.r1, sum)
}

/// SUBTRACT.
fn sr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_signed(i.r1, (cpu.gr32(i.r1) as i32).overflowing_sub(cpu.gr32(i.r2) as i32))
}

/// SUBTRACT (64 from 32).
fn sgfr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_signed64(i.r1, (cpu.gr(i.r1) as i64).overflowing_sub(cpu.gr32(i.r2) as i32 as i64))
}

/// SUBTRACT (64).
fn sgr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_signed64(i.r1, (cpu.gr(i.r1) as i64).overflowing_sub(cpu.gr(i.r2) as i64))
}

/// SUBTRACT.
fn srk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_signed(i.r1, (cpu.gr32(i.r2) as i32).overflowing_sub(cpu.gr32(i.r3) as i32))
}

/// SUBTRACT (64).
fn sgrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_signed64(i.r1, (cpu.gr(i.r2) as i64).overflowing_sub(cpu.gr(i.r3) as i64))
}

/// SUBTRACT.
fn s(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.put_signed(i.r1, (cpu.gr32(i.r1) as i32).overflowing_sub(b as i32))
}

/// SUBTRACT (64).
fn sg(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    cpu.put_signed64(i.r1, (cpu.gr(i.r1) as i64).overflowing_sub(b as i64))
}

/// SUBTRACT (64 from 32).
fn sgf(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.put_signed64(i.r1, (cpu.gr(i.r1) as i64).overflowing_sub(b as i32 as i64))
}

/// SUBTRACT HALFWORD.
fn sh(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u16>(i.operand(cpu))?;
    cpu.put_signed(i.r1, (cpu.gr32(i.r1) as i32).overflowing_sub(b as i16 as i32))
}

/// SUBTRACT HALFWORD (64 from 16).
fn sgh(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u16>(i.operand(cpu))?;
    cpu.put_signed64(i.r1, (cpu.gr(i.r1) as i64).overflowing_sub(b as i16 as i64))
}

/// SUBTRACT LOGICAL.
fn slr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_difference(i.r1, cpu.gr32(i.r1).overflowing_sub(cpu.gr32(i.r2)))
}

/// SUBTRACT LOGICAL (64 from 32).
fn slgfr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_difference64(i.r1, cpu.gr(i.r1).overflowing_sub(cpu.gr32(i.r2) as u64))
}

/// SUBTRACT LOGICAL (64).
fn slgr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_difference64(i.r1, cpu.gr(i.r1).overflowing_sub(cpu.gr(i.r2)))
}

/// SUBTRACT LOGICAL.
fn slrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_difference(i.r1, cpu.gr32(i.r2).overflowing_sub(cpu.gr32(i.r3)))
}

/// SUBTRACT LOGICAL (64).
fn slgrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_difference64(i.r1, cpu.gr(i.r2).overflowing_sub(cpu.gr(i.r3)))
}

/// SUBTRACT LOGICAL.
fn sl(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.put_difference(i.r1, cpu.gr32(i.r1).overflowing_sub(b))
}

/// SUBTRACT LOGICAL (64).
fn slg(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    cpu.put_difference64(i.r1, cpu.gr(i.r1).overflowing_sub(b))
}

/// SUBTRACT LOGICAL (64 from 32).
fn slgf(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.put_difference64(i.r1, cpu.gr(i.r1).overflowing_sub(b as u64))
}

/// SUBTRACT LOGICAL IMMEDIATE.
fn slfi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.put_difference(i.r1, cpu.gr32(i.r1).overflowing_sub(i.i2 as u32))
}

/// SUBTRACT LOGICAL IMMEDIATE (64 from 32).
fn slgfi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.put_difference64(i.r1, cpu.gr(i.r1).overflowing_sub(i.i2 as u32 as u64))
}

/// SUBTRACT LOGICAL WITH BORROW.
fn slbr(cpu: &mut Cpu, i: Rr) -> Flow {
    let difference = cpu.gr32(i.r1).borrowing(cpu.gr32(i.r2), cpu.cc < 2);
    cpu.put_difference(i.r1, difference)
}

/// SUBTRACT LOGICAL WITH BORROW (64).
fn slbgr(cpu: &mut Cpu, i: Rr) -> Flow {
    let difference = cpu.gr(i.r1).borrowing(cpu.gr(i.r2), cpu.cc < 2);
    cpu.put_difference64(i.r1, difference)
}

/// SUBTRACT LOGICAL WITH BORROW.
fn slb(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    let difference = cpu.gr32(i.r1).borrowing(b, cpu.cc < 2);
    cpu.put_difference(i.r1, difference)
}

/// SUBTRACT LOGICAL WITH BORROW (64).
fn slbg(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    let difference = cpu.gr(i.r1).borrowing(b, cpu.cc < 2);
    cpu.put_difference64(i.r1, difference)
}

/// LOAD COMPLEMENT.
fn lcr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_signed(i.r1, (cpu.gr32(i.r2) as i32).overflowing_neg())
}

/// LOAD COMPLEMENT (64).
fn lcgr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_signed64(i.r1, (cpu.gr(i.r2) as i64).overflowing_neg())
}

/// LOAD COMPLEMENT (64 from 32).
fn lcgfr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_signed64(i.r1, (-(cpu.gr32(i.r2) as i32 as i64), false))
}

/// LOAD NEGATIVE.
fn lnr(cpu: &mut Cpu, i: Rr) -> Flow {
    let value = cpu.gr32(i.r2) as i32;
    cpu.put_signed(i.r1, (if value > 0 { -value } else { value }, false))
}

/// LOAD NEGATIVE (64).
fn lngr(cpu: &mut Cpu, i: Rr) -> Flow {
    let value = cpu.gr(i.r2) as i64;
    cpu.put_signed64(i.r1, (if value > 0 { -value } else { value }, false))
}

/// LOAD NEGATIVE (64 from 32).
fn lngfr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_signed64(i.r1, (-(cpu.gr32(i.r2) as i32 as i64).abs(), false))
}

/// LOAD POSITIVE.
fn lpr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_signed(i.r1, (cpu.gr32(i.r2) as i32).overflowing_abs())
}

/// LOAD POSITIVE (64).
fn lpgr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_signed64(i.r1, (cpu.gr(i.r2) as i64).overflowing_abs())
}

/// LOAD POSITIVE (64 from 32).
fn lpgfr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_signed64(i.r1, ((cpu.gr32(i.r2) as i32 as i64).abs(), false))
}
