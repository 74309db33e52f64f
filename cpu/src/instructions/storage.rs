//! General instructions (chapter 7): operations on two storage operands of up to 256 bytes, and MOVE
//! PAGE.

use std::cmp::Ordering;

use machine::Operand;
use zarch::{Facility::*, PAGE_SIZE, ProgramCode};

use crate::access::{Access, Span};
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xd2, "MVC", N3, SS::of(mvc)),
        row(0xe8, "MVCIN", N3, SS::of(mvcin)),
        row(0xe50a, "MVCRL", MiscellaneousInstructions3, SSE::of(mvcrl)),
        row(0xd1, "MVN", N3, SS::of(mvn)),
        row(0xd3, "MVZ", N3, SS::of(mvz)),
        row(0xf1, "MVO", N3, SS::of(mvo)),
        row(0xd4, "NC", N3, SS::of(nc)),
        row(0xd6, "OC", N3, SS::of(oc)),
        row(0xd7, "XC", N3, SS::of(xc)),
        row(0xd5, "CLC", N3, SS::of(clc)),
        row(0xb254, "MVPG", N3, RRE::of(mvpg)),
    ]
}

/// The operands of an instruction that stores into the first: `length` bytes each.
#[inline(always)]
fn operands(cpu: &mut Cpu, i: Ss, length: usize) -> Result<(Span, Span), Leave> {
    let from = cpu.span(i.operand2(cpu), length, Access::Fetch)?;
    let to = cpu.span(i.operand1(cpu), length, Access::Store)?;
    Ok((to, from))
}

/// MOVE (character).
fn mvc(cpu: &mut Cpu, i: Ss) -> Flow {
    let (to, from) = (i.operand1(cpu), i.operand2(cpu));
    cpu.move_storage(to, from, i.l as usize + 1)
}

/// MOVE INVERSE: the second operand is designated by its rightmost byte.
fn mvcin(cpu: &mut Cpu, i: Ss) -> Flow {
    let last = i.operand2(cpu);
    let first = Operand { address: cpu.trim(last.address.wrapping_sub(i.l as u64)), ar: last.ar };
    let from = cpu.span(first, i.l as usize + 1, Access::Fetch)?;
    let to = cpu.span(i.operand1(cpu), i.l as usize + 1, Access::Store)?;
    for n in 0..to.len() {
        to.set(n, from.get(from.len() - 1 - n));
    }
    Ok(())
}

/// MOVE RIGHT TO LEFT: the length code is in bits 56-63 of general register 0.
fn mvcrl(cpu: &mut Cpu, i: Ss) -> Flow {
    let (to, from) = operands(cpu, i, cpu.gr(0) as u8 as usize + 1)?;
    to.move_from_right(&from);
    Ok(())
}

/// MOVE NUMERICS.
fn mvn(cpu: &mut Cpu, i: Ss) -> Flow {
    const NUMERICS: u64 = 0x0f0f_0f0f_0f0f_0f0f;
    let (to, from) = operands(cpu, i, i.l as usize + 1)?;
    to.combine(&from, |a, b| a & !NUMERICS | b & NUMERICS);
    Ok(())
}

/// MOVE ZONES.
fn mvz(cpu: &mut Cpu, i: Ss) -> Flow {
    const ZONES: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    let (to, from) = operands(cpu, i, i.l as usize + 1)?;
    to.combine(&from, |a, b| a & !ZONES | b & ZONES);
    Ok(())
}

/// MOVE WITH OFFSET: from the right, each result byte stored before the next byte is fetched.
fn mvo(cpu: &mut Cpu, i: Ss) -> Flow {
    let from = cpu.span(i.operand2(cpu), i.l2() as usize + 1, Access::Fetch)?;
    let to = cpu.span(i.operand1(cpu), i.l1() as usize + 1, Access::Store)?;
    let source = |n: usize| if n < from.len() { from.get(from.len() - 1 - n) } else { 0 };
    let last = to.len() - 1;
    let mut byte = source(0);
    to.set(last, byte << 4 | to.get(last) & 15);
    for n in 1..to.len() {
        let next = source(n);
        to.set(last - n, next << 4 | byte >> 4);
        byte = next;
    }
    Ok(())
}

#[inline(always)]
fn logical(cpu: &mut Cpu, i: Ss, f: impl Fn(u64, u64) -> u64) -> Flow {
    let (to, from) = operands(cpu, i, i.l as usize + 1)?;
    cpu.cc = to.combine(&from, f) as u8;
    Ok(())
}

/// AND (character).
fn nc(cpu: &mut Cpu, i: Ss) -> Flow {
    logical(cpu, i, |a, b| a & b)
}

/// OR (character).
fn oc(cpu: &mut Cpu, i: Ss) -> Flow {
    logical(cpu, i, |a, b| a | b)
}

/// EXCLUSIVE OR (character). An operand with itself is the way to clear storage.
fn xc(cpu: &mut Cpu, i: Ss) -> Flow {
    if i.b1 == i.b2 && i.d1 == i.d2 {
        let to = cpu.span(i.operand1(cpu), i.l as usize + 1, Access::Store)?;
        to.fill(0);
        cpu.cc = 0;
        return Ok(());
    }
    logical(cpu, i, |a, b| a ^ b)
}

/// COMPARE LOGICAL (character).
fn clc(cpu: &mut Cpu, i: Ss) -> Flow {
    let (first, second) = (i.operand1(cpu), i.operand2(cpu));
    cpu.cc = match cpu.compare_storage(first, second, i.l as usize + 1)? {
        Ordering::Equal => 0,
        Ordering::Less => 1,
        Ordering::Greater => 2,
    };
    Ok(())
}

/// MOVE PAGE. General register 0 has the key controls in bits 52 (first operand) and 53 (second), the
/// condition-code option in bit 55 and the access key in bits 56-59; bits 48-51 are zeros.
fn mvpg(cpu: &mut Cpu, i: Rr) -> Flow {
    let control = cpu.gr(0);
    let (key1, key2, option) = (control & 0x800 != 0, control & 0x400 != 0, control & 0x100 != 0);
    let key = (control >> 4 & 15) as u8;
    if control & 0xf000 != 0 || key1 && key2 {
        return Err(ProgramCode::Specification.into());
    }
    if (key1 || key2) && cpu.problem_state() && cpu.cr[3] << (32 + key) & 1 << 63 == 0 {
        return Err(ProgramCode::PrivilegedOperation.into());
    }
    let mut page = |r: u8, specified: bool, access: Access| -> Result<Span, Leave> {
        let at = cpu.register_operand(r);
        let space = cpu.operand_space(at.ar, access)?;
        let key = if specified { key } else { cpu.psw_key() };
        cpu.span_in(space, key, at.address & !(PAGE_SIZE - 1), PAGE_SIZE as usize, access)
    };
    let from = page(i.r2, key2, Access::Fetch);
    let invalid = |page: &Result<Span, Leave>| {
        option && matches!(page, Err(Leave::Program(ProgramCode::PageTranslation)))
    };
    if invalid(&from) {
        cpu.cc = 2;
        return Ok(());
    }
    let from = from?;
    let to = page(i.r1, key1, Access::Store);
    if invalid(&to) {
        cpu.cc = 1;
        return Ok(());
    }
    to?.move_from(&from);
    cpu.cc = 0;
    Ok(())
}
