//! Floating-point support instructions (chapter 9).

use zarch::Facility::*;
use zarch::ProgramCode;

use super::{EXTENSION, Extended, Long, Precision, Short, Source};
use crate::bfp::flag;
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xb372, "CPSDR", FloatingPointSupportEnhancement, RRF::of(cpsdr)).fpr1().fpr2().fpr3(),
        row(0xb38c, "EFPC", N3, RRE::of(efpc)).bfp(),
        row(0x38, "LER", N3, RR::of(load::<Short>)).fpr1().fpr2(),
        row(0x28, "LDR", N3, RR::of(load::<Long>)).fpr1().fpr2(),
        row(0xb365, "LXR", N3, RRE::of(load::<Extended>)).fpr1().fpr2().fpair1().fpair2(),
        row(0x78, "LE", N3, RX::of(load::<Short>)).fpr1(),
        row(0x68, "LD", N3, RX::of(load::<Long>)).fpr1(),
        row(0xed64, "LEY", LongDisplacement, RXY::of(load::<Short>)).fpr1(),
        row(0xed65, "LDY", LongDisplacement, RXY::of(load::<Long>)).fpr1(),
        row(0xb373, "LCDFR", FloatingPointSupportEnhancement, RRE::of(lcdfr)).fpr1().fpr2(),
        row(0xb29d, "LFPC", N3, S::of(lfpc)).bfp(),
        row(0xb2bd, "LFAS", FloatingPointSupportEnhancement, S::of(lfas)),
        row(0xb3c1, "LDGR", FloatingPointSupportEnhancement, RRE::of(ldgr)).fpr1(),
        row(0xb3cd, "LGDR", FloatingPointSupportEnhancement, RRE::of(lgdr)).fpr2(),
        row(0xb371, "LNDFR", FloatingPointSupportEnhancement, RRE::of(lndfr)).fpr1().fpr2(),
        row(0xb370, "LPDFR", FloatingPointSupportEnhancement, RRE::of(lpdfr)).fpr1().fpr2(),
        row(0xb374, "LZER", N3, RRE::of(load_zero::<Short>)).fpr1(),
        row(0xb375, "LZDR", N3, RRE::of(load_zero::<Long>)).fpr1(),
        row(0xb376, "LZXR", N3, RRE::of(load_zero::<Extended>)).fpr1().fpair1(),
        row(0xb299, "SRNM", N3, S::of(srnm)).bfp(),
        row(0xb2b8, "SRNMB", FloatingPointExtension, S::of(srnmb)).bfp(),
        row(0xb384, "SFPC", N3, RRE::of(sfpc)).bfp(),
        row(0xb385, "SFASR", FloatingPointSupportEnhancement, RRE::of(sfasr)),
        row(0x70, "STE", N3, RX::of(ste)).fpr1(),
        row(0x60, "STD", N3, RX::of(std)).fpr1(),
        row(0xed66, "STEY", LongDisplacement, RXY::of(ste)).fpr1(),
        row(0xed67, "STDY", LongDisplacement, RXY::of(std)).fpr1(),
        row(0xb29c, "STFPC", N3, S::of(stfpc)).bfp(),
    ]
}

const SIGN: u64 = 1 << 63;

/// COPY SIGN.
fn cpsdr(cpu: &mut Cpu, i: Rrf) -> Flow {
    let [second, third] = [i.r2, i.r3].map(|r| Long::get(cpu, r) as u64);
    Long::set(cpu, i.r1, (second & !SIGN | third & SIGN) as u128);
    Ok(())
}

/// EXTRACT FPC.
fn efpc(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr32(i.r1, cpu.fpc);
    Ok(())
}

/// LOAD (short, long, extended).
fn load<P: Precision>(cpu: &mut Cpu, i: impl Source) -> Flow {
    let bits = i.second::<P>(cpu)?;
    P::set(cpu, i.r1(), bits);
    Ok(())
}

/// LOAD COMPLEMENT (without condition code).
fn lcdfr(cpu: &mut Cpu, i: Rr) -> Flow {
    let bits = Long::get(cpu, i.r2) ^ SIGN as u128;
    Long::set(cpu, i.r1, bits);
    Ok(())
}

/// The bits of the floating-point-control register that are assigned.
fn assigned(cpu: &Cpu) -> u32 {
    let mut bits = 0xf8f8_ff03;
    if cpu.facility(EXTENSION) {
        // The third bit of the BFP rounding mode; mask and flag of IEEE quantum.
        bits |= 0x0404_0004;
    }
    if cpu.facility(42) {
        // The DFP rounding mode.
        bits |= 0x70;
    }
    bits
}

/// Whether `value` may be put into the floating-point-control register: no unassigned bit, and a BFP
/// rounding mode that exists.
fn check(cpu: &Cpu, value: u32) -> Flow {
    if value & !assigned(cpu) != 0 || matches!(value & 7, 4..=6) {
        return Err(ProgramCode::Specification.into());
    }
    Ok(())
}

/// LOAD FPC.
fn lfpc(cpu: &mut Cpu, i: Si) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))?;
    check(cpu, value)?;
    cpu.fpc = value;
    Ok(())
}

/// LOAD FPC AND SIGNAL.
fn lfas(cpu: &mut Cpu, i: Si) -> Flow {
    dfp_instruction(cpu)?;
    let value = cpu.load::<u32>(i.operand(cpu))?;
    signal(cpu, value)
}

/// These two count as decimal instructions: without AFP-register control (control register 0, bit 45) the
/// data-exception code is 3.
fn dfp_instruction(cpu: &mut Cpu) -> Flow {
    match cpu.cr[0] & 1 << (63 - 45) {
        0 => Err(cpu.data_exception(3)),
        _ => Ok(()),
    }
}

/// The flags that were set before and that the new masks enable are signaled as simulated exceptions; the
/// new register has the flags of both.
fn signal(cpu: &mut Cpu, value: u32) -> Flow {
    check(cpu, value)?;
    let flags = (cpu.fpc >> 16) as u8;
    let enabled = flags & (value >> 24) as u8;
    cpu.fpc = value | cpu.fpc & 0x00ff_0000;
    let inexact = flags & flag::INEXACT;
    let simulated = match enabled {
        0 => return Ok(()),
        e if e & flag::INVALID != 0 => flag::INVALID,
        e if e & flag::DIVIDE != 0 => flag::DIVIDE,
        e if e & flag::OVERFLOW != 0 => flag::OVERFLOW | inexact,
        e if e & flag::UNDERFLOW != 0 => flag::UNDERFLOW | inexact,
        e if e & flag::INEXACT != 0 => flag::INEXACT,
        quantum => quantum,
    };
    Err(cpu.data_exception(simulated | 3))
}

/// LOAD FPR FROM GR.
fn ldgr(cpu: &mut Cpu, i: Rr) -> Flow {
    Long::set(cpu, i.r1, cpu.gr(i.r2) as u128);
    Ok(())
}

/// LOAD GR FROM FPR.
fn lgdr(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.set_gr(i.r1, Long::get(cpu, i.r2) as u64);
    Ok(())
}

/// LOAD NEGATIVE (without condition code).
fn lndfr(cpu: &mut Cpu, i: Rr) -> Flow {
    let bits = Long::get(cpu, i.r2) | SIGN as u128;
    Long::set(cpu, i.r1, bits);
    Ok(())
}

/// LOAD POSITIVE (without condition code).
fn lpdfr(cpu: &mut Cpu, i: Rr) -> Flow {
    let bits = Long::get(cpu, i.r2) & !SIGN as u128;
    Long::set(cpu, i.r1, bits);
    Ok(())
}

/// LOAD ZERO.
fn load_zero<P: Precision>(cpu: &mut Cpu, i: Rr) -> Flow {
    P::set(cpu, i.r1, 0);
    Ok(())
}

/// SET BFP ROUNDING MODE (2 bit).
fn srnm(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.fpc = cpu.fpc & !7 | i.operand(cpu).address as u32 & 3;
    Ok(())
}

/// SET BFP ROUNDING MODE (3 bit).
fn srnmb(cpu: &mut Cpu, i: Si) -> Flow {
    let mode = i.operand(cpu).address as u32 & 0xff;
    if mode > 7 || matches!(mode, 4..=6) {
        return Err(ProgramCode::Specification.into());
    }
    cpu.fpc = cpu.fpc & !7 | mode;
    Ok(())
}

/// SET FPC.
fn sfpc(cpu: &mut Cpu, i: Rr) -> Flow {
    let value = cpu.gr32(i.r1);
    check(cpu, value)?;
    cpu.fpc = value;
    Ok(())
}

/// SET FPC AND SIGNAL.
fn sfasr(cpu: &mut Cpu, i: Rr) -> Flow {
    dfp_instruction(cpu)?;
    signal(cpu, cpu.gr32(i.r1))
}

/// STORE (short).
fn ste(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store(i.operand(cpu), Short::get(cpu, i.r1) as u32)
}

/// STORE (long).
fn std(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store(i.operand(cpu), Long::get(cpu, i.r1) as u64)
}

/// STORE FPC.
fn stfpc(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.store(i.operand(cpu), cpu.fpc)
}
