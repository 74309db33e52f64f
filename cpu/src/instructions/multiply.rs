//! General instructions (chapter 7): multiplication and division of binary integers.

use zarch::Facility::*;
use zarch::ProgramCode;

use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0x1c, "MR", N3, RR::of(mr)).even1(),
        row(0x5c, "M", N3, RX::of(m)).even1(),
        row(0xe35c, "MFY", GeneralInstructionsExtension, RXY::of(m)).even1(),
        row(0xb9ec, "MGRK", MiscellaneousInstructions2, RRF::of(mgrk)).even1(),
        row(0xe384, "MG", MiscellaneousInstructions2, RXY::of(mg)).even1(),
        row(0x4c, "MH", N3, RX::of(mh)),
        row(0xe37c, "MHY", GeneralInstructionsExtension, RXY::of(mh)),
        row(0xe33c, "MGH", MiscellaneousInstructions2, RXY::of(mgh)),
        row(0xa7c, "MHI", N3, RI_a::of(mhi)),
        row(0xc21, "MSFI", GeneralInstructionsExtension, RIL_a::of(mhi)),
        row(0xa7d, "MGHI", N3, RI_a::of(mghi)),
        row(0xc20, "MSGFI", GeneralInstructionsExtension, RIL_a::of(mghi)),
        row(0xb252, "MSR", N3, RRE::of(msr)),
        row(0xb90c, "MSGR", N3, RRE::of(msgr)),
        row(0xb91c, "MSGFR", N3, RRE::of(msgfr)),
        row(0x71, "MS", N3, RX::of(ms)),
        row(0xe351, "MSY", LongDisplacement, RXY::of(ms)),
        row(0xe30c, "MSG", N3, RXY::of(msg)),
        row(0xe31c, "MSGF", N3, RXY::of(msgf)),
        row(0xb9fd, "MSRKC", MiscellaneousInstructions2, RRF::of(msrkc)),
        row(0xb9ed, "MSGRKC", MiscellaneousInstructions2, RRF::of(msgrkc)),
        row(0xe353, "MSC", MiscellaneousInstructions2, RXY::of(msc)),
        row(0xe383, "MSGC", MiscellaneousInstructions2, RXY::of(msgc)),
        row(0xb996, "MLR", N3, RRE::of(mlr)).even1(),
        row(0xe396, "ML", N3, RXY::of(ml)).even1(),
        row(0xb986, "MLGR", N3, RRE::of(mlgr)).even1(),
        row(0xe386, "MLG", N3, RXY::of(mlg)).even1(),
        row(0x1d, "DR", N3, RR::of(dr)).even1(),
        row(0x5d, "D", N3, RX::of(d)).even1(),
        row(0xb90d, "DSGR", N3, RRE::of(dsgr)).even1(),
        row(0xb91d, "DSGFR", N3, RRE::of(dsgfr)).even1(),
        row(0xe30d, "DSG", N3, RXY::of(dsg)).even1(),
        row(0xe31d, "DSGF", N3, RXY::of(dsgf)).even1(),
        row(0xb997, "DLR", N3, RRE::of(dlr)).even1(),
        row(0xe397, "DL", N3, RXY::of(dl)).even1(),
        row(0xb987, "DLGR", N3, RRE::of(dlgr)).even1(),
        row(0xe387, "DLG", N3, RXY::of(dlg)).even1(),
    ]
}

/// Puts 64 bits into the right halves of a register pair.
#[inline(always)]
fn put_pair(cpu: &mut Cpu, r1: u8, value: u64) {
    cpu.set_gr32(r1, (value >> 32) as u32);
    cpu.set_gr32(r1 + 1, value as u32);
}

/// Puts 128 bits into a register pair.
#[inline(always)]
fn put_wide(cpu: &mut Cpu, r1: u8, value: u128) {
    cpu.set_gr(r1, (value >> 64) as u64);
    cpu.set_gr(r1 + 1, value as u64);
}

#[inline(always)]
fn multiply(cpu: &mut Cpu, r1: u8, b: u32) -> Flow {
    let product = cpu.gr32(r1 + 1) as i32 as i64 * b as i32 as i64;
    put_pair(cpu, r1, product as u64);
    Ok(())
}

#[inline(always)]
fn multiply_logical(cpu: &mut Cpu, r1: u8, b: u32) -> Flow {
    let product = cpu.gr32(r1 + 1) as u64 * b as u64;
    put_pair(cpu, r1, product);
    Ok(())
}

/// The exception of a divisor of zero or a quotient that does not fit.
#[cold]
fn divide_exception() -> Flow {
    Err(ProgramCode::FixedPointDivide.into())
}

#[inline(always)]
fn divide(cpu: &mut Cpu, r1: u8, divisor: i32) -> Flow {
    let dividend = ((cpu.gr32(r1) as u64) << 32 | cpu.gr32(r1 + 1) as u64) as i64;
    let Some(quotient) = dividend.checked_div(divisor as i64).and_then(|q| i32::try_from(q).ok()) else {
        return divide_exception();
    };
    cpu.set_gr32(r1, (dividend % divisor as i64) as u32);
    cpu.set_gr32(r1 + 1, quotient as u32);
    Ok(())
}

#[inline(always)]
fn divide_single(cpu: &mut Cpu, r1: u8, divisor: i64) -> Flow {
    let dividend = cpu.gr(r1 + 1) as i64;
    let Some(quotient) = dividend.checked_div(divisor) else {
        return divide_exception();
    };
    cpu.set_gr(r1, (dividend % divisor) as u64);
    cpu.set_gr(r1 + 1, quotient as u64);
    Ok(())
}

#[inline(always)]
fn divide_logical(cpu: &mut Cpu, r1: u8, divisor: u32) -> Flow {
    // The quotient fits when the left half of the dividend is less than the divisor.
    if cpu.gr32(r1) >= divisor {
        return divide_exception();
    }
    let dividend = (cpu.gr32(r1) as u64) << 32 | cpu.gr32(r1 + 1) as u64;
    cpu.set_gr32(r1, (dividend % divisor as u64) as u32);
    cpu.set_gr32(r1 + 1, (dividend / divisor as u64) as u32);
    Ok(())
}

#[inline(always)]
fn divide_logical64(cpu: &mut Cpu, r1: u8, divisor: u64) -> Flow {
    let (high, low) = (cpu.gr(r1), cpu.gr(r1 + 1));
    if high >= divisor {
        return divide_exception();
    }
    let (quotient, remainder) = if high == 0 {
        (low / divisor, low % divisor)
    } else {
        let dividend = (high as u128) << 64 | low as u128;
        ((dividend / divisor as u128) as u64, (dividend % divisor as u128) as u64)
    };
    cpu.set_gr(r1, remainder);
    cpu.set_gr(r1 + 1, quotient);
    Ok(())
}

/// MULTIPLY.
fn mr(cpu: &mut Cpu, i: Rr) -> Flow {
    let b = cpu.gr32(i.r2);
    multiply(cpu, i.r1, b)
}

/// MULTIPLY.
fn m(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    multiply(cpu, i.r1, b)
}

/// MULTIPLY (128 from 64).
fn mgrk(cpu: &mut Cpu, i: Rrf) -> Flow {
    let product = (cpu.gr(i.r2) as i64 as i128 * cpu.gr(i.r3) as i64 as i128) as u128;
    put_wide(cpu, i.r1, product);
    Ok(())
}

/// MULTIPLY (128 from 64).
fn mg(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    let product = (cpu.gr(i.r1 + 1) as i64 as i128 * b as i64 as i128) as u128;
    put_wide(cpu, i.r1, product);
    Ok(())
}

/// MULTIPLY HALFWORD.
fn mh(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u16>(i.operand(cpu))?;
    cpu.set_gr32(i.r1, cpu.gr32(i.r1).wrapping_mul(b as i16 as u32));
    Ok(())
}

/// MULTIPLY HALFWORD (64 from 16).
fn mgh(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u16>(i.operand(cpu))?;
    cpu.set_gr(i.r1, cpu.gr(i.r1).wrapping_mul(b as i16 as u64));
    Ok(())
}

/// MULTIPLY HALFWORD IMMEDIATE, MULTIPLY SINGLE IMMEDIATE.
fn mhi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr32(i.r1, cpu.gr32(i.r1).wrapping_mul(i.i2 as u32));
    Ok(())
}

/// MULTIPLY HALFWORD IMMEDIATE (64), MULTIPLY SINGLE IMMEDIATE (64 from 32).
fn mghi(cpu: &mut Cpu, i: Ri) -> Flow {
    cpu.set_gr(i.r1, cpu.gr(i.r1).wrapping_mul(i.i2 as i64 as u64));
    Ok(())
}

/// MULTIPLY SINGLE.
fn msr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr32(i.r1, cpu.gr32(i.r1).wrapping_mul(cpu.gr32(i.r2)));
    Ok(())
}

/// MULTIPLY SINGLE (64).
fn msgr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr(i.r1, cpu.gr(i.r1).wrapping_mul(cpu.gr(i.r2)));
    Ok(())
}

/// MULTIPLY SINGLE (64 from 32).
fn msgfr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr(i.r1, cpu.gr(i.r1).wrapping_mul(cpu.gr32(i.r2) as i32 as i64 as u64));
    Ok(())
}

/// MULTIPLY SINGLE.
fn ms(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr32(i.r1, cpu.gr32(i.r1).wrapping_mul(b));
    Ok(())
}

/// MULTIPLY SINGLE (64).
fn msg(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    cpu.set_gr(i.r1, cpu.gr(i.r1).wrapping_mul(b));
    Ok(())
}

/// MULTIPLY SINGLE (64 from 32).
fn msgf(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr(i.r1, cpu.gr(i.r1).wrapping_mul(b as i32 as i64 as u64));
    Ok(())
}

/// MULTIPLY SINGLE, setting the condition code.
fn msrkc(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_signed(i.r1, (cpu.gr32(i.r2) as i32).overflowing_mul(cpu.gr32(i.r3) as i32))
}

/// MULTIPLY SINGLE (64), setting the condition code.
fn msgrkc(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.put_signed64(i.r1, (cpu.gr(i.r2) as i64).overflowing_mul(cpu.gr(i.r3) as i64))
}

/// MULTIPLY SINGLE, setting the condition code.
fn msc(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    cpu.put_signed(i.r1, (cpu.gr32(i.r1) as i32).overflowing_mul(b as i32))
}

/// MULTIPLY SINGLE (64), setting the condition code.
fn msgc(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    cpu.put_signed64(i.r1, (cpu.gr(i.r1) as i64).overflowing_mul(b as i64))
}

/// MULTIPLY LOGICAL.
fn mlr(cpu: &mut Cpu, i: Rr) -> Flow {
    let b = cpu.gr32(i.r2);
    multiply_logical(cpu, i.r1, b)
}

/// MULTIPLY LOGICAL.
fn ml(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    multiply_logical(cpu, i.r1, b)
}

/// MULTIPLY LOGICAL (128 from 64).
fn mlgr(cpu: &mut Cpu, i: Rr) -> Flow {
    let product = cpu.gr(i.r1 + 1) as u128 * cpu.gr(i.r2) as u128;
    put_wide(cpu, i.r1, product);
    Ok(())
}

/// MULTIPLY LOGICAL (128 from 64).
fn mlg(cpu: &mut Cpu, i: Rx) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    let product = cpu.gr(i.r1 + 1) as u128 * b as u128;
    put_wide(cpu, i.r1, product);
    Ok(())
}

/// DIVIDE.
fn dr(cpu: &mut Cpu, i: Rr) -> Flow {
    let divisor = cpu.gr32(i.r2) as i32;
    divide(cpu, i.r1, divisor)
}

/// DIVIDE.
fn d(cpu: &mut Cpu, i: Rx) -> Flow {
    let divisor = cpu.load::<u32>(i.operand(cpu))?;
    divide(cpu, i.r1, divisor as i32)
}

/// DIVIDE SINGLE (64).
fn dsgr(cpu: &mut Cpu, i: Rr) -> Flow {
    let divisor = cpu.gr(i.r2) as i64;
    divide_single(cpu, i.r1, divisor)
}

/// DIVIDE SINGLE (64 from 32).
fn dsgfr(cpu: &mut Cpu, i: Rr) -> Flow {
    let divisor = cpu.gr32(i.r2) as i32;
    divide_single(cpu, i.r1, divisor as i64)
}

/// DIVIDE SINGLE (64).
fn dsg(cpu: &mut Cpu, i: Rx) -> Flow {
    let divisor = cpu.load::<u64>(i.operand(cpu))?;
    divide_single(cpu, i.r1, divisor as i64)
}

/// DIVIDE SINGLE (64 from 32).
fn dsgf(cpu: &mut Cpu, i: Rx) -> Flow {
    let divisor = cpu.load::<u32>(i.operand(cpu))?;
    divide_single(cpu, i.r1, divisor as i32 as i64)
}

/// DIVIDE LOGICAL.
fn dlr(cpu: &mut Cpu, i: Rr) -> Flow {
    let divisor = cpu.gr32(i.r2);
    divide_logical(cpu, i.r1, divisor)
}

/// DIVIDE LOGICAL.
fn dl(cpu: &mut Cpu, i: Rx) -> Flow {
    let divisor = cpu.load::<u32>(i.operand(cpu))?;
    divide_logical(cpu, i.r1, divisor)
}

/// DIVIDE LOGICAL (64 from 128).
fn dlgr(cpu: &mut Cpu, i: Rr) -> Flow {
    let divisor = cpu.gr(i.r2);
    divide_logical64(cpu, i.r1, divisor)
}

/// DIVIDE LOGICAL (64 from 128).
fn dlg(cpu: &mut Cpu, i: Rx) -> Flow {
    let divisor = cpu.load::<u64>(i.operand(cpu))?;
    divide_logical64(cpu, i.r1, divisor)
}
