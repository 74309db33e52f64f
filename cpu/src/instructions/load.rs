//! General instructions (chapter 7): loads of general registers from registers, storage and the
//! instruction itself.

use zarch::Facility::*;

use crate::access::{Access, Word};
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

use machine::Operand;
use zarch::ProgramCode;

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0x18, "LR", N3, RR::of(lr)),
        row(0xb904, "LGR", N3, RRE::of(lgr)),
        row(0xb914, "LGFR", N3, RRE::of(lgfr)),
        row(0x58, "L", N3, RX::of(l)),
        row(0xe358, "LY", LongDisplacement, RXY::of(l)),
        row(0xe304, "LG", N3, RXY::of(lg)),
        row(0xe314, "LGF", N3, RXY::of(lgf)),
        row(0xa78, "LHI", N3, RI_a::of(lhi)),
        row(0xa79, "LGHI", N3, RI_a::of(lghi)),
        row(0xc01, "LGFI", ExtendedImmediate, RIL_a::of(lghi)),
        row(0xc4d, "LRL", GeneralInstructionsExtension, RIL_b::of(lrl)),
        row(0xc48, "LGRL", GeneralInstructionsExtension, RIL_b::of(lgrl)),
        row(0xc4c, "LGFRL", GeneralInstructionsExtension, RIL_b::of(lgfrl)),
        row(0xb926, "LBR", ExtendedImmediate, RRE::of(lbr)),
        row(0xb906, "LGBR", ExtendedImmediate, RRE::of(lgbr)),
        row(0xe376, "LB", LongDisplacement, RXY::of(lb)),
        row(0xe377, "LGB", LongDisplacement, RXY::of(lgb)),
        row(0xb927, "LHR", ExtendedImmediate, RRE::of(lhr)),
        row(0xb907, "LGHR", ExtendedImmediate, RRE::of(lghr)),
        row(0x48, "LH", N3, RX::of(lh)),
        row(0xe378, "LHY", LongDisplacement, RXY::of(lh)),
        row(0xe315, "LGH", N3, RXY::of(lgh)),
        row(0xc45, "LHRL", GeneralInstructionsExtension, RIL_b::of(lhrl)),
        row(0xc44, "LGHRL", GeneralInstructionsExtension, RIL_b::of(lghrl)),
        row(0xb916, "LLGFR", N3, RRE::of(llgfr)),
        row(0xe316, "LLGF", N3, RXY::of(llgf)),
        row(0xc4e, "LLGFRL", GeneralInstructionsExtension, RIL_b::of(llgfrl)),
        row(0xb994, "LLCR", ExtendedImmediate, RRE::of(llcr)),
        row(0xb984, "LLGCR", ExtendedImmediate, RRE::of(llgcr)),
        row(0xe394, "LLC", ExtendedImmediate, RXY::of(llc)),
        row(0xe390, "LLGC", N3, RXY::of(llgc)),
        row(0xb995, "LLHR", ExtendedImmediate, RRE::of(llhr)),
        row(0xb985, "LLGHR", ExtendedImmediate, RRE::of(llghr)),
        row(0xe395, "LLH", ExtendedImmediate, RXY::of(llh)),
        row(0xe391, "LLGH", N3, RXY::of(llgh)),
        row(0xc42, "LLHRL", GeneralInstructionsExtension, RIL_b::of(llhrl)),
        row(0xc46, "LLGHRL", GeneralInstructionsExtension, RIL_b::of(llghrl)),
        row(0xb917, "LLGTR", N3, RRE::of(llgtr)),
        row(0xe317, "LLGT", N3, RXY::of(llgt)),
        row(0x12, "LTR", N3, RR::of(ltr)),
        row(0xb902, "LTGR", N3, RRE::of(ltgr)),
        row(0xb912, "LTGFR", N3, RRE::of(ltgfr)),
        row(0xe312, "LT", ExtendedImmediate, RXY::of(lt)),
        row(0xe302, "LTG", ExtendedImmediate, RXY::of(ltg)),
        row(0xe332, "LTGF", GeneralInstructionsExtension, RXY::of(ltgf)),
        row(0xb91f, "LRVR", N3, RRE::of(lrvr)),
        row(0xb90f, "LRVGR", N3, RRE::of(lrvgr)),
        row(0xe31f, "LRVH", N3, RXY::of(lrvh)),
        row(0xe31e, "LRV", N3, RXY::of(lrv)),
        row(0xe30f, "LRVG", N3, RXY::of(lrvg)),
        row(0x43, "IC", N3, RX::of(ic)),
        row(0xe373, "ICY", LongDisplacement, RXY::of(ic)),
        row(0xe33b, "LZRF", LoadStoreOnCondition2, RXY::of(lzrf)),
        row(0xe32a, "LZRG", LoadStoreOnCondition2, RXY::of(lzrg)),
        row(0xe33a, "LLZRGF", LoadStoreOnCondition2, RXY::of(llzrgf)),
        row(0x41, "LA", N3, RX::of(la)),
        row(0xe371, "LAY", LongDisplacement, RXY::of(la)),
        row(0xc00, "LARL", N3, RIL_b::of(larl)),
        row(0x51, "LAE", N3, RX::of(lae)),
        row(0xe375, "LAEY", GeneralInstructionsExtension, RXY::of(lae)),
        row(0xb24f, "EAR", N3, RRE::of(ear)),
        row(0xb24e, "SAR", N3, RRE::of(sar)),
        row(0xb24d, "CPYA", N3, RRE::of(cpya)),
        row(0xb222, "IPM", N3, RRE::of(ipm)),
        row(0x04, "SPM", N3, RR::of(spm)),
    ]
}

/// Condition code of a signed result: 0 zero, 1 negative, 2 positive.
#[inline(always)]
pub(super) fn sign(value: i64) -> u8 {
    (value < 0) as u8 | ((value > 0) as u8) << 1
}

/// The operand of a relative-long instruction: aligned, and in the address space that instructions come
/// from, which in the secondary-space mode is not that of other operands.
#[inline(always)]
pub(super) fn load_relative<T: Word>(cpu: &mut Cpu, i: Rel) -> Result<T, Leave> {
    let at = cpu.relative(i.target);
    if at.address % T::SIZE != 0 {
        return Err(ProgramCode::Specification.into());
    }
    if outside_instruction_space(cpu) { load_from_instruction_space(cpu, at) } else { cpu.load(at) }
}

/// Whether operands are not in the address space that instructions come from: the secondary-space mode.
/// (In access-register mode access register 0 is the primary space.)
#[inline(always)]
pub(super) fn outside_instruction_space(cpu: &Cpu) -> bool {
    cpu.psw_mask() >> 46 & 3 == 2
}

#[cold]
fn load_from_instruction_space<T: Word>(cpu: &mut Cpu, at: Operand) -> Result<T, Leave> {
    let mut bytes = [0; 16];
    let length = T::SIZE as usize;
    let span = cpu.span_in(cpu.instruction_space(), cpu.psw_key(), at.address, length, Access::Fetch)?;
    span.read(&mut bytes[..length]);
    Ok(T::from_bytes(&bytes))
}

/// LOAD.
fn lr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr32(i.r1, cpu.gr32(i.r2));
    Ok(())
}

/// LOAD (64).
fn lgr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr(i.r1, cpu.gr(i.r2));
    Ok(())
}

/// LOAD (64 from 32).
fn lgfr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr(i.r1, cpu.gr32(i.r2) as i32 as i64 as u64);
    Ok(())
}

/// LOAD.
fn l(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr32(i.r1, value);
    Ok(())
}

/// LOAD (64).
fn lg(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u64>(i.operand(cpu))?;
    cpu.set_gr(i.r1, value);
    Ok(())
}

/// LOAD (64 from 32).
fn lgf(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr(i.r1, value as i32 as i64 as u64);
    Ok(())
}

/// LOAD HALFWORD IMMEDIATE.
fn lhi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr32(i.r1, i.i2 as u32);
    Ok(())
}

/// LOAD HALFWORD IMMEDIATE (64), LOAD IMMEDIATE (64 from 32).
fn lghi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr(i.r1, i.i2 as i64 as u64);
    Ok(())
}

/// LOAD RELATIVE LONG.
fn lrl(cpu: &mut Cpu, i: Rel) -> Flow {
    let value = load_relative::<u32>(cpu, i)?;
    cpu.set_gr32(i.r1, value);
    Ok(())
}

/// LOAD RELATIVE LONG (64).
fn lgrl(cpu: &mut Cpu, i: Rel) -> Flow {
    let value = load_relative::<u64>(cpu, i)?;
    cpu.set_gr(i.r1, value);
    Ok(())
}

/// LOAD RELATIVE LONG (64 from 32).
fn lgfrl(cpu: &mut Cpu, i: Rel) -> Flow {
    let value = load_relative::<u32>(cpu, i)?;
    cpu.set_gr(i.r1, value as i32 as i64 as u64);
    Ok(())
}

/// LOAD BYTE.
fn lbr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr32(i.r1, cpu.gr32(i.r2) as i8 as u32);
    Ok(())
}

/// LOAD BYTE (64).
fn lgbr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr(i.r1, cpu.gr(i.r2) as i8 as u64);
    Ok(())
}

/// LOAD BYTE.
fn lb(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u8>(i.operand(cpu))?;
    cpu.set_gr32(i.r1, value as i8 as u32);
    Ok(())
}

/// LOAD BYTE (64).
fn lgb(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u8>(i.operand(cpu))?;
    cpu.set_gr(i.r1, value as i8 as u64);
    Ok(())
}

/// LOAD HALFWORD.
fn lhr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr32(i.r1, cpu.gr32(i.r2) as i16 as u32);
    Ok(())
}

/// LOAD HALFWORD (64).
fn lghr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr(i.r1, cpu.gr(i.r2) as i16 as u64);
    Ok(())
}

/// LOAD HALFWORD.
fn lh(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u16>(i.operand(cpu))?;
    cpu.set_gr32(i.r1, value as i16 as u32);
    Ok(())
}

/// LOAD HALFWORD (64).
fn lgh(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u16>(i.operand(cpu))?;
    cpu.set_gr(i.r1, value as i16 as u64);
    Ok(())
}

/// LOAD HALFWORD RELATIVE LONG.
fn lhrl(cpu: &mut Cpu, i: Rel) -> Flow {
    let value = load_relative::<u16>(cpu, i)?;
    cpu.set_gr32(i.r1, value as i16 as u32);
    Ok(())
}

/// LOAD HALFWORD RELATIVE LONG (64).
fn lghrl(cpu: &mut Cpu, i: Rel) -> Flow {
    let value = load_relative::<u16>(cpu, i)?;
    cpu.set_gr(i.r1, value as i16 as u64);
    Ok(())
}

/// LOAD LOGICAL (64 from 32).
fn llgfr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr(i.r1, cpu.gr32(i.r2) as u64);
    Ok(())
}

/// LOAD LOGICAL (64 from 32).
fn llgf(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr(i.r1, value as u64);
    Ok(())
}

/// LOAD LOGICAL RELATIVE LONG (64 from 32).
fn llgfrl(cpu: &mut Cpu, i: Rel) -> Flow {
    let value = load_relative::<u32>(cpu, i)?;
    cpu.set_gr(i.r1, value as u64);
    Ok(())
}

/// LOAD LOGICAL CHARACTER.
fn llcr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr32(i.r1, cpu.gr32(i.r2) as u8 as u32);
    Ok(())
}

/// LOAD LOGICAL CHARACTER (64).
fn llgcr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr(i.r1, cpu.gr32(i.r2) as u8 as u64);
    Ok(())
}

/// LOAD LOGICAL CHARACTER.
fn llc(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u8>(i.operand(cpu))?;
    cpu.set_gr32(i.r1, value as u32);
    Ok(())
}

/// LOAD LOGICAL CHARACTER (64).
fn llgc(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u8>(i.operand(cpu))?;
    cpu.set_gr(i.r1, value as u64);
    Ok(())
}

/// LOAD LOGICAL HALFWORD.
fn llhr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr32(i.r1, cpu.gr32(i.r2) as u16 as u32);
    Ok(())
}

/// LOAD LOGICAL HALFWORD (64).
fn llghr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr(i.r1, cpu.gr32(i.r2) as u16 as u64);
    Ok(())
}

/// LOAD LOGICAL HALFWORD.
fn llh(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u16>(i.operand(cpu))?;
    cpu.set_gr32(i.r1, value as u32);
    Ok(())
}

/// LOAD LOGICAL HALFWORD (64).
fn llgh(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u16>(i.operand(cpu))?;
    cpu.set_gr(i.r1, value as u64);
    Ok(())
}

/// LOAD LOGICAL HALFWORD RELATIVE LONG.
fn llhrl(cpu: &mut Cpu, i: Rel) -> Flow {
    let value = load_relative::<u16>(cpu, i)?;
    cpu.set_gr32(i.r1, value as u32);
    Ok(())
}

/// LOAD LOGICAL HALFWORD RELATIVE LONG (64).
fn llghrl(cpu: &mut Cpu, i: Rel) -> Flow {
    let value = load_relative::<u16>(cpu, i)?;
    cpu.set_gr(i.r1, value as u64);
    Ok(())
}

/// LOAD LOGICAL THIRTY ONE BITS.
fn llgtr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr(i.r1, cpu.gr(i.r2) & 0x7fff_ffff);
    Ok(())
}

/// LOAD LOGICAL THIRTY ONE BITS.
fn llgt(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr(i.r1, (value & 0x7fff_ffff) as u64);
    Ok(())
}

/// LOAD AND TEST.
fn ltr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.cc = sign(cpu.gr32(i.r2) as i32 as i64);
    cpu.set_gr32(i.r1, cpu.gr32(i.r2));
    Ok(())
}

/// LOAD AND TEST (64).
fn ltgr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.cc = sign(cpu.gr(i.r2) as i64);
    cpu.set_gr(i.r1, cpu.gr(i.r2));
    Ok(())
}

/// LOAD AND TEST (64 from 32).
fn ltgfr(cpu: &mut Cpu, i: Rr) -> Flow {
    let value = cpu.gr32(i.r2) as i32 as i64;
    cpu.cc = sign(value);
    cpu.set_gr(i.r1, value as u64);
    Ok(())
}

/// LOAD AND TEST.
fn lt(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr32(i.r1, value);
    cpu.cc = sign(value as i32 as i64);
    Ok(())
}

/// LOAD AND TEST (64).
fn ltg(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u64>(i.operand(cpu))?;
    cpu.set_gr(i.r1, value);
    cpu.cc = sign(value as i64);
    Ok(())
}

/// LOAD AND TEST (64 from 32).
fn ltgf(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))? as i32 as i64;
    cpu.set_gr(i.r1, value as u64);
    cpu.cc = sign(value);
    Ok(())
}

/// LOAD REVERSED.
fn lrvr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr32(i.r1, cpu.gr32(i.r2).swap_bytes());
    Ok(())
}

/// LOAD REVERSED (64).
fn lrvgr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr(i.r1, cpu.gr(i.r2).swap_bytes());
    Ok(())
}

/// LOAD REVERSED (16).
fn lrvh(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u16>(i.operand(cpu))?;
    cpu.set_gr32(i.r1, cpu.gr32(i.r1) & !0xffff | value.swap_bytes() as u32);
    Ok(())
}

/// LOAD REVERSED.
fn lrv(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr32(i.r1, value.swap_bytes());
    Ok(())
}

/// LOAD REVERSED (64).
fn lrvg(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u64>(i.operand(cpu))?;
    cpu.set_gr(i.r1, value.swap_bytes());
    Ok(())
}

/// INSERT CHARACTER.
fn ic(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u8>(i.operand(cpu))?;
    cpu.set_gr32(i.r1, cpu.gr32(i.r1) & !0xff | value as u32);
    Ok(())
}

/// LOAD AND ZERO RIGHTMOST BYTE.
fn lzrf(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr32(i.r1, value & !0xff);
    Ok(())
}

/// LOAD AND ZERO RIGHTMOST BYTE (64).
fn lzrg(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u64>(i.operand(cpu))?;
    cpu.set_gr(i.r1, value & !0xff);
    Ok(())
}

/// LOAD LOGICAL AND ZERO RIGHTMOST BYTE (64 from 32).
fn llzrgf(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr(i.r1, (value & !0xff) as u64);
    Ok(())
}

/// LOAD ADDRESS.
fn la(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.set_gr_address(i.r1, i.address(cpu));
    Ok(())
}

/// LOAD ADDRESS RELATIVE LONG.
fn larl(cpu: &mut Cpu, i: Rel) -> Flow {
    cpu.set_gr_address(i.r1, cpu.relative(i.target).address);
    Ok(())
}

/// LOAD ADDRESS EXTENDED: the access register tells which address space the PSW selects.
fn lae(cpu: &mut Cpu, i: Rx) -> Flow {
    let ar = match cpu.psw_mask() >> 46 & 3 {
        0 => 0,
        1 if i.b2 == 0 || i.b2 == NO_REGISTER => 0,
        1 => cpu.ar[i.b2 as usize],
        2 => 1,
        _ => 2,
    };
    cpu.set_gr_address(i.r1, i.address(cpu));
    cpu.ar[i.r1 as usize] = ar;
    Ok(())
}

/// EXTRACT ACCESS.
fn ear(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr32(i.r1, cpu.ar[i.r2 as usize]);
    Ok(())
}

/// SET ACCESS.
fn sar(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.ar[i.r1 as usize] = cpu.gr32(i.r2);
    Ok(())
}

/// COPY ACCESS.
fn cpya(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.ar[i.r1 as usize] = cpu.ar[i.r2 as usize];
    Ok(())
}

/// INSERT PROGRAM MASK.
fn ipm(cpu: &mut Cpu, i: Rr) -> Flow {
    let byte = cpu.cc << 4 | cpu.program_mask();
    cpu.set_gr32(i.r1, cpu.gr32(i.r1) & 0x00ff_ffff | (byte as u32) << 24);
    Ok(())
}

/// SET PROGRAM MASK.
fn spm(cpu: &mut Cpu, i: Rr) -> Flow {
    let byte = (cpu.gr32(i.r1) >> 24) as u8;
    cpu.cc = byte >> 4 & 3;
    cpu.set_program_mask(byte & 15);
    Ok(())
}
