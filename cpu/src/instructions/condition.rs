//! General instructions (chapter 7): loads, stores and selections on condition, and traps.

use zarch::Facility::*;

use super::branch::{relates, selects};
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xb9f2, "LOCR", DistinctOperands, RRF::of(locr)),
        row(0xb9e2, "LOCGR", DistinctOperands, RRF::of(locgr)),
        row(0xebf2, "LOC", DistinctOperands, RSY::of(loc)),
        row(0xebe2, "LOCG", DistinctOperands, RSY::of(locg)),
        row(0xb9e0, "LOCFHR", LoadStoreOnCondition2, RRF::of(locfhr)),
        row(0xebe0, "LOCFH", LoadStoreOnCondition2, RSY::of(locfh)),
        row(0xec42, "LOCHI", LoadStoreOnCondition2, RIE_g::of(lochi)),
        row(0xec46, "LOCGHI", LoadStoreOnCondition2, RIE_g::of(locghi)),
        row(0xec4e, "LOCHHI", LoadStoreOnCondition2, RIE_g::of(lochhi)),
        row(0xebf3, "STOC", DistinctOperands, RSY::of(stoc)),
        row(0xebe3, "STOCG", DistinctOperands, RSY::of(stocg)),
        row(0xebe1, "STOCFH", LoadStoreOnCondition2, RSY::of(stocfh)),
        row(0xb9f0, "SELR", MiscellaneousInstructions3, RRF::of(selr)),
        row(0xb9e3, "SELGR", MiscellaneousInstructions3, RRF::of(selgr)),
        row(0xb9c0, "SELFHR", MiscellaneousInstructions3, RRF::of(selfhr)),
        row(0xb972, "CRT", GeneralInstructionsExtension, RRF::of(crt)),
        row(0xb960, "CGRT", GeneralInstructionsExtension, RRF::of(cgrt)),
        row(0xec72, "CIT", GeneralInstructionsExtension, RIE_a::of(cit)),
        row(0xec70, "CGIT", GeneralInstructionsExtension, RIE_a::of(cgit)),
        row(0xb973, "CLRT", GeneralInstructionsExtension, RRF::of(clrt)),
        row(0xb961, "CLGRT", GeneralInstructionsExtension, RRF::of(clgrt)),
        row(0xeb23, "CLT", MiscellaneousInstructions1, RSY::of(clt)),
        row(0xeb2b, "CLGT", MiscellaneousInstructions1, RSY::of(clgt)),
        row(0xec73, "CLFIT", GeneralInstructionsExtension, RIE_a::of(clfit)),
        row(0xec71, "CLGIT", GeneralInstructionsExtension, RIE_a::of(clgit)),
        row(0xe39f, "LAT", MiscellaneousInstructions1, RXY::of(lat)),
        row(0xe385, "LGAT", MiscellaneousInstructions1, RXY::of(lgat)),
        row(0xe3c8, "LFHAT", MiscellaneousInstructions1, RXY::of(lfhat)),
        row(0xe39d, "LLGFAT", MiscellaneousInstructions1, RXY::of(llgfat)),
        row(0xe39c, "LLGTAT", MiscellaneousInstructions1, RXY::of(llgtat)),
    ]
}

/// Data-exception code of compare-and-trap and load-and-trap instructions.
const TRAP: u8 = 0xff;

/// Ends an instruction with a data exception when the condition of the trap holds.
#[inline(always)]
fn trap(cpu: &mut Cpu, holds: bool) -> Flow {
    if holds { Err(cpu.data_exception(TRAP)) } else { Ok(()) }
}

/// LOAD ON CONDITION.
fn locr(cpu: &mut Cpu, i: Rrf) -> Flow {
    if selects(i.r3, cpu.cc) {
        cpu.set_gr32(i.r1, cpu.gr32(i.r2));
    }
    Ok(())
}

/// LOAD ON CONDITION (64).
fn locgr(cpu: &mut Cpu, i: Rrf) -> Flow {
    if selects(i.r3, cpu.cc) {
        cpu.set_gr(i.r1, cpu.gr(i.r2));
    }
    Ok(())
}

/// LOAD ON CONDITION.
fn loc(cpu: &mut Cpu, i: Rs) -> Flow {
    if selects(i.r3, cpu.cc) {
        let value = cpu.load::<u32>(i.operand(cpu))?;
        cpu.set_gr32(i.r1, value);
    }
    Ok(())
}

/// LOAD ON CONDITION (64).
fn locg(cpu: &mut Cpu, i: Rs) -> Flow {
    if selects(i.r3, cpu.cc) {
        let value = cpu.load::<u64>(i.operand(cpu))?;
        cpu.set_gr(i.r1, value);
    }
    Ok(())
}

/// LOAD HIGH ON CONDITION.
fn locfhr(cpu: &mut Cpu, i: Rrf) -> Flow {
    if selects(i.r3, cpu.cc) {
        cpu.set_gr_high(i.r1, cpu.gr_high(i.r2));
    }
    Ok(())
}

/// LOAD HIGH ON CONDITION.
fn locfh(cpu: &mut Cpu, i: Rs) -> Flow {
    if selects(i.r3, cpu.cc) {
        let value = cpu.load::<u32>(i.operand(cpu))?;
        cpu.set_gr_high(i.r1, value);
    }
    Ok(())
}

/// LOAD HALFWORD IMMEDIATE ON CONDITION.
fn lochi(cpu: &mut Cpu, i: Ri) -> Flow {
    if selects(i.r3, cpu.cc) {
        cpu.set_gr32(i.r1, i.i2 as u32);
    }
    Ok(())
}

/// LOAD HALFWORD IMMEDIATE ON CONDITION (64).
fn locghi(cpu: &mut Cpu, i: Ri) -> Flow {
    if selects(i.r3, cpu.cc) {
        cpu.set_gr(i.r1, i.i2 as i64 as u64);
    }
    Ok(())
}

/// LOAD HALFWORD HIGH IMMEDIATE ON CONDITION.
fn lochhi(cpu: &mut Cpu, i: Ri) -> Flow {
    if selects(i.r3, cpu.cc) {
        cpu.set_gr_high(i.r1, i.i2 as u32);
    }
    Ok(())
}

/// STORE ON CONDITION.
fn stoc(cpu: &mut Cpu, i: Rs) -> Flow {
    if selects(i.r3, cpu.cc) {
        cpu.store::<u32>(i.operand(cpu), cpu.gr32(i.r1))?;
    }
    Ok(())
}

/// STORE ON CONDITION (64).
fn stocg(cpu: &mut Cpu, i: Rs) -> Flow {
    if selects(i.r3, cpu.cc) {
        cpu.store::<u64>(i.operand(cpu), cpu.gr(i.r1))?;
    }
    Ok(())
}

/// STORE HIGH ON CONDITION.
fn stocfh(cpu: &mut Cpu, i: Rs) -> Flow {
    if selects(i.r3, cpu.cc) {
        cpu.store::<u32>(i.operand(cpu), cpu.gr_high(i.r1))?;
    }
    Ok(())
}

/// SELECT.
fn selr(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.set_gr32(i.r1, if selects(i.m4, cpu.cc) { cpu.gr32(i.r2) } else { cpu.gr32(i.r3) });
    Ok(())
}

/// SELECT (64).
fn selgr(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.set_gr(i.r1, if selects(i.m4, cpu.cc) { cpu.gr(i.r2) } else { cpu.gr(i.r3) });
    Ok(())
}

/// SELECT HIGH.
fn selfhr(cpu: &mut Cpu, i: Rrf) -> Flow {
    cpu.set_gr_high(i.r1, if selects(i.m4, cpu.cc) { cpu.gr_high(i.r2) } else { cpu.gr_high(i.r3) });
    Ok(())
}

/// COMPARE AND TRAP.
fn crt(cpu: &mut Cpu, i: Rrf) -> Flow {
    let holds = relates(i.r3, cpu.gr32(i.r1) as i32, cpu.gr32(i.r2) as i32);
    trap(cpu, holds)
}

/// COMPARE AND TRAP (64).
fn cgrt(cpu: &mut Cpu, i: Rrf) -> Flow {
    let holds = relates(i.r3, cpu.gr(i.r1) as i64, cpu.gr(i.r2) as i64);
    trap(cpu, holds)
}

/// COMPARE IMMEDIATE AND TRAP.
fn cit(cpu: &mut Cpu, i: Ri) -> Flow {
    let holds = relates(i.r3, cpu.gr32(i.r1) as i32, i.i2);
    trap(cpu, holds)
}

/// COMPARE IMMEDIATE AND TRAP (64).
fn cgit(cpu: &mut Cpu, i: Ri) -> Flow {
    let holds = relates(i.r3, cpu.gr(i.r1) as i64, i.i2 as i64);
    trap(cpu, holds)
}

/// COMPARE LOGICAL AND TRAP.
fn clrt(cpu: &mut Cpu, i: Rrf) -> Flow {
    let holds = relates(i.r3, cpu.gr32(i.r1), cpu.gr32(i.r2));
    trap(cpu, holds)
}

/// COMPARE LOGICAL AND TRAP (64).
fn clgrt(cpu: &mut Cpu, i: Rrf) -> Flow {
    let holds = relates(i.r3, cpu.gr(i.r1), cpu.gr(i.r2));
    trap(cpu, holds)
}

/// COMPARE LOGICAL AND TRAP (storage).
fn clt(cpu: &mut Cpu, i: Rs) -> Flow {
    let b = cpu.load::<u32>(i.operand(cpu))?;
    let holds = relates(i.r3, cpu.gr32(i.r1), b);
    trap(cpu, holds)
}

/// COMPARE LOGICAL AND TRAP (storage, 64).
fn clgt(cpu: &mut Cpu, i: Rs) -> Flow {
    let b = cpu.load::<u64>(i.operand(cpu))?;
    let holds = relates(i.r3, cpu.gr(i.r1), b);
    trap(cpu, holds)
}

/// COMPARE LOGICAL IMMEDIATE AND TRAP.
fn clfit(cpu: &mut Cpu, i: Ri) -> Flow {
    let holds = relates(i.r3, cpu.gr32(i.r1), i.i2 as u16 as u32);
    trap(cpu, holds)
}

/// COMPARE LOGICAL IMMEDIATE AND TRAP (64).
fn clgit(cpu: &mut Cpu, i: Ri) -> Flow {
    let holds = relates(i.r3, cpu.gr(i.r1), i.i2 as u16 as u64);
    trap(cpu, holds)
}

/// LOAD AND TRAP.
fn lat(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr32(i.r1, value);
    trap(cpu, value == 0)
}

/// LOAD AND TRAP (64).
fn lgat(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u64>(i.operand(cpu))?;
    cpu.set_gr(i.r1, value);
    trap(cpu, value == 0)
}

/// LOAD HIGH AND TRAP.
fn lfhat(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr_high(i.r1, value);
    trap(cpu, value == 0)
}

/// LOAD LOGICAL AND TRAP (64 from 32).
fn llgfat(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))?;
    cpu.set_gr(i.r1, value as u64);
    trap(cpu, value == 0)
}

/// LOAD LOGICAL THIRTY ONE BITS AND TRAP.
fn llgtat(cpu: &mut Cpu, i: Rx) -> Flow {
    let value = cpu.load::<u32>(i.operand(cpu))? & 0x7fff_ffff;
    cpu.set_gr(i.r1, value as u64);
    trap(cpu, value == 0)
}
