//! General instructions (chapter 7): stores of general registers and immediates.

use zarch::Facility::*;
use zarch::ProgramCode;

use super::load::outside_instruction_space;
use crate::access::{Access, Word};
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0x50, "ST", N3, RX::of(st)),
        row(0xe350, "STY", LongDisplacement, RXY::of(st)),
        row(0xe324, "STG", N3, RXY::of(stg)),
        row(0xc4f, "STRL", GeneralInstructionsExtension, RIL_b::of(strl)),
        row(0xc4b, "STGRL", GeneralInstructionsExtension, RIL_b::of(stgrl)),
        row(0x42, "STC", N3, RX::of(stc)),
        row(0xe372, "STCY", LongDisplacement, RXY::of(stc)),
        row(0x40, "STH", N3, RX::of(sth)),
        row(0xe370, "STHY", LongDisplacement, RXY::of(sth)),
        row(0xc47, "STHRL", GeneralInstructionsExtension, RIL_b::of(sthrl)),
        row(0xe33f, "STRVH", N3, RXY::of(strvh)),
        row(0xe33e, "STRV", N3, RXY::of(strv)),
        row(0xe32f, "STRVG", N3, RXY::of(strvg)),
        row(0x92, "MVI", N3, SI::of(mvi)),
        row(0xeb52, "MVIY", LongDisplacement, SIY::of(mvi)),
        row(0xe544, "MVHHI", GeneralInstructionsExtension, SIL::of(mvhhi)),
        row(0xe54c, "MVHI", GeneralInstructionsExtension, SIL::of(mvhi)),
        row(0xe548, "MVGHI", GeneralInstructionsExtension, SIL::of(mvghi)),
    ]
}

/// Stores a register at the operand of a relative-long instruction, in the space instructions come from.
#[inline(always)]
fn store_relative<T: Word>(cpu: &mut Cpu, i: Rel, value: impl Fn(&Cpu) -> T) -> Flow {
    let at = cpu.relative(i.target);
    if at.address % T::SIZE != 0 {
        return Err(ProgramCode::Specification.into());
    }
    let value = value(cpu);
    if !outside_instruction_space(cpu) {
        return cpu.store(at, value);
    }
    let length = T::SIZE as usize;
    let span = cpu.span_in(cpu.instruction_space(), cpu.psw_key(), at.address, length, Access::Store)?;
    span.write(&value.to_bytes()[..length]);
    Ok(())
}

/// STORE.
fn st(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store::<u32>(i.operand(cpu), cpu.gr32(i.r1))
}

/// STORE (64).
fn stg(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store::<u64>(i.operand(cpu), cpu.gr(i.r1))
}

/// STORE RELATIVE LONG.
fn strl(cpu: &mut Cpu, i: Rel) -> Flow {
    store_relative(cpu, i, |cpu| cpu.gr32(i.r1))
}

/// STORE RELATIVE LONG (64).
fn stgrl(cpu: &mut Cpu, i: Rel) -> Flow {
    store_relative(cpu, i, |cpu| cpu.gr(i.r1))
}

/// STORE CHARACTER.
fn stc(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store::<u8>(i.operand(cpu), cpu.gr32(i.r1) as u8)
}

/// STORE HALFWORD.
fn sth(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store::<u16>(i.operand(cpu), cpu.gr32(i.r1) as u16)
}

/// STORE HALFWORD RELATIVE LONG.
fn sthrl(cpu: &mut Cpu, i: Rel) -> Flow {
    store_relative(cpu, i, |cpu| cpu.gr32(i.r1) as u16)
}

/// STORE REVERSED (16).
fn strvh(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store::<u16>(i.operand(cpu), (cpu.gr32(i.r1) as u16).swap_bytes())
}

/// STORE REVERSED.
fn strv(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store::<u32>(i.operand(cpu), cpu.gr32(i.r1).swap_bytes())
}

/// STORE REVERSED (64).
fn strvg(cpu: &mut Cpu, i: Rx) -> Flow {
    cpu.store::<u64>(i.operand(cpu), cpu.gr(i.r1).swap_bytes())
}

/// MOVE (immediate).
fn mvi(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.store::<u8>(i.operand(cpu), i.i2 as u8)
}

/// MOVE (16 from 16).
fn mvhhi(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.store::<u16>(i.operand(cpu), i.i2 as u16)
}

/// MOVE (32 from 16).
fn mvhi(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.store::<u32>(i.operand(cpu), i.i2 as u32)
}

/// MOVE (64 from 16).
fn mvghi(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.store::<u64>(i.operand(cpu), i.i2 as i64 as u64)
}
