//! General instructions (chapter 7): AND, OR, EXCLUSIVE OR and their complements on general registers,
//! and counting bits.

use zarch::Facility::*;

use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0x14, "NR", N3, RR::of(nr)),
        row(0xb980, "NGR", N3, RRE::of(ngr)),
        row(0xb9f4, "NRK", DistinctOperands, RRF::of(nrk)),
        row(0xb9e4, "NGRK", DistinctOperands, RRF::of(ngrk)),
        row(0x54, "N", N3, RX::of(n)),
        row(0xe354, "NY", LongDisplacement, RXY::of(n)),
        row(0xe380, "NG", N3, RXY::of(ng)),
        row(0x16, "OR", N3, RR::of(or_)),
        row(0xb981, "OGR", N3, RRE::of(ogr)),
        row(0xb9f6, "ORK", DistinctOperands, RRF::of(ork)),
        row(0xb9e6, "OGRK", DistinctOperands, RRF::of(ogrk)),
        row(0x56, "O", N3, RX::of(o)),
        row(0xe356, "OY", LongDisplacement, RXY::of(o)),
        row(0xe381, "OG", N3, RXY::of(og)),
        row(0x17, "XR", N3, RR::of(xr)),
        row(0xb982, "XGR", N3, RRE::of(xgr)),
        row(0xb9f7, "XRK", DistinctOperands, RRF::of(xrk)),
        row(0xb9e7, "XGRK", DistinctOperands, RRF::of(xgrk)),
        row(0x57, "X", N3, RX::of(x)),
        row(0xe357, "XY", LongDisplacement, RXY::of(x)),
        row(0xe382, "XG", N3, RXY::of(xg)),
        row(0xb9f5, "NCRK", MiscellaneousInstructions3, RRF::of(ncrk)),
        row(0xb9e5, "NCGRK", MiscellaneousInstructions3, RRF::of(ncgrk)),
        row(0xb974, "NNRK", MiscellaneousInstructions3, RRF::of(nnrk)),
        row(0xb964, "NNGRK", MiscellaneousInstructions3, RRF::of(nngrk)),
        row(0xb976, "NORK", MiscellaneousInstructions3, RRF::of(nork)),
        row(0xb966, "NOGRK", MiscellaneousInstructions3, RRF::of(nogrk)),
        row(0xb977, "NXRK", MiscellaneousInstructions3, RRF::of(nxrk)),
        row(0xb967, "NXGRK", MiscellaneousInstructions3, RRF::of(nxgrk)),
        row(0xb975, "OCRK", MiscellaneousInstructions3, RRF::of(ocrk)),
        row(0xb965, "OCGRK", MiscellaneousInstructions3, RRF::of(ocgrk)),
        row(0xb9e1, "POPCNT", DistinctOperands, RRF::of(popcnt)),
        row(0xb983, "FLOGR", ExtendedImmediate, RRE::of(flogr)).even1(),
    ]
}

impl Cpu {
    /// Ends a bitwise operation: condition code 1 when any bit is one.
    #[inline(always)]
    pub(super) fn put_bits(&mut self, r1: u8, result: u32) -> Flow {
        self.set_gr32(r1, result);
        self.cc = (result != 0) as u8;
        Ok(())
    }

    /// Ends a bitwise operation of 64 bits.
    #[inline(always)]
    pub(super) fn put_bits64(&mut self, r1: u8, result: u64) -> Flow {
        self.set_gr(r1, result);
        self.cc = (result != 0) as u8;
        Ok(())
    }
}

/// In each byte, the number of its ones: sums of neighbours in ever wider fields.
#[inline(always)]
fn ones_in_bytes(value: u64) -> u64 {
    let pairs = value - (value >> 1 & 0x5555_5555_5555_5555);
    let nibbles = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    (nibbles + (nibbles >> 4)) & 0x0f0f_0f0f_0f0f_0f0f
}

/// AND.
fn nr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_bits(i.r1, cpu.gr32(i.r1) & cpu.gr32(i.r2))
}

/// AND (64).
fn ngr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_bits64(i.r1, cpu.gr(i.r1) & cpu.gr(i.r2))
}

/// AND.
fn nrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits(i.r1, cpu.gr32(i.r2) & cpu.gr32(i.r3))
}

/// AND (64).
fn ngrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits64(i.r1, cpu.gr(i.r2) & cpu.gr(i.r3))
}

/// AND.
fn n(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.put_bits(i.r1, cpu.gr32(i.r1) & b)
}

/// AND (64).
fn ng(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    cpu.put_bits64(i.r1, cpu.gr(i.r1) & b)
}

/// OR.
fn or_(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_bits(i.r1, cpu.gr32(i.r1) | cpu.gr32(i.r2))
}

/// OR (64).
fn ogr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_bits64(i.r1, cpu.gr(i.r1) | cpu.gr(i.r2))
}

/// OR.
fn ork(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits(i.r1, cpu.gr32(i.r2) | cpu.gr32(i.r3))
}

/// OR (64).
fn ogrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits64(i.r1, cpu.gr(i.r2) | cpu.gr(i.r3))
}

/// OR.
fn o(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.put_bits(i.r1, cpu.gr32(i.r1) | b)
}

/// OR (64).
fn og(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    cpu.put_bits64(i.r1, cpu.gr(i.r1) | b)
}

/// EXCLUSIVE OR.
fn xr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_bits(i.r1, cpu.gr32(i.r1) ^ cpu.gr32(i.r2))
}

/// EXCLUSIVE OR (64).
fn xgr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.put_bits64(i.r1, cpu.gr(i.r1) ^ cpu.gr(i.r2))
}

/// EXCLUSIVE OR.
fn xrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits(i.r1, cpu.gr32(i.r2) ^ cpu.gr32(i.r3))
}

/// EXCLUSIVE OR (64).
fn xgrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits64(i.r1, cpu.gr(i.r2) ^ cpu.gr(i.r3))
}

/// EXCLUSIVE OR.
fn x(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.put_bits(i.r1, cpu.gr32(i.r1) ^ b)
}

/// EXCLUSIVE OR (64).
fn xg(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    cpu.put_bits64(i.r1, cpu.gr(i.r1) ^ b)
}

/// AND WITH COMPLEMENT.
fn ncrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits(i.r1, cpu.gr32(i.r2) & !cpu.gr32(i.r3))
}

/// AND WITH COMPLEMENT (64).
fn ncgrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits64(i.r1, cpu.gr(i.r2) & !cpu.gr(i.r3))
}

/// NAND.
fn nnrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits(i.r1, !(cpu.gr32(i.r2) & cpu.gr32(i.r3)))
}

/// NAND (64).
fn nngrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits64(i.r1, !(cpu.gr(i.r2) & cpu.gr(i.r3)))
}

/// NOR.
fn nork(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits(i.r1, !(cpu.gr32(i.r2) | cpu.gr32(i.r3)))
}

/// NOR (64).
fn nogrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits64(i.r1, !(cpu.gr(i.r2) | cpu.gr(i.r3)))
}

/// NOT EXCLUSIVE OR.
fn nxrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits(i.r1, !(cpu.gr32(i.r2) ^ cpu.gr32(i.r3)))
}

/// NOT EXCLUSIVE OR (64).
fn nxgrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits64(i.r1, !(cpu.gr(i.r2) ^ cpu.gr(i.r3)))
}

/// OR WITH COMPLEMENT.
fn ocrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits(i.r1, cpu.gr32(i.r2) | !cpu.gr32(i.r3))
}

/// OR WITH COMPLEMENT (64).
fn ocgrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_bits64(i.r1, cpu.gr(i.r2) | !cpu.gr(i.r3))
}

/// POPULATION COUNT, of each byte or (M3 bit 0, miscellaneous-instruction-extensions 3) of all bits.
fn popcnt(cpu: &mut Cpu, i: Rrf) -> Flow {
    let value = cpu.gr(i.r2);
    let all = i.r3 & 8 != 0 && cpu.facility(MiscellaneousInstructions3 as u16);
    let count = if all { value.count_ones() as u64 } else { ones_in_bytes(value) };
    cpu.put_bits64(i.r1, count)
}

/// FIND LEFTMOST ONE.
fn flogr(cpu: &mut Cpu, i: Rr) -> Flow {
    let value = cpu.gr(i.r2);
    let zeros = value.leading_zeros();
    cpu.set_gr(i.r1, zeros as u64);
    cpu.set_gr(i.r1 + 1, value & !(1u64 << 63).unbounded_shr(zeros));
    cpu.cc = ((value != 0) as u8) << 1;
    Ok(())
}
