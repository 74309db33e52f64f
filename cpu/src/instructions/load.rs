//! General instructions (chapter 7): loads and stores between general registers and storage.

use zarch::Facility::*;

use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0x18, "LR", N3, RR::of(lr)),
        row(0xb904, "LGR", N3, RRE::of(lgr)),
        row(0x58, "L", N3, RX::of(l)),
        row(0xe358, "LY", LongDisplacement, RXY::of(l)),
        row(0xe304, "LG", N3, RXY::of(lg)),
        row(0x50, "ST", N3, RX::of(st)),
        row(0xe350, "STY", LongDisplacement, RXY::of(st)),
        row(0xe324, "STG", N3, RXY::of(stg)),
    ]
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

/// STORE.
fn st(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store(i.operand(cpu), cpu.gr32(i.r1))
}

/// STORE (64).
fn stg(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store(i.operand(cpu), cpu.gr(i.r1))
}
