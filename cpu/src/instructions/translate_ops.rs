//! General instructions (chapter 7): TRANSLATE and its kin, which look bytes or two-byte characters up
//! in a table.
//!
//! Of a table only those entries need be accessible that are selected. Nearly always all of it is, so
//! that is tried first; otherwise entries are fetched one by one.

use machine::Operand;
use zarch::{Facility::*, PAGE_SIZE, ProgramCode};

use crate::access::{Access, Span};
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xdc, "TR", N3, SS::of(tr)),
        row(0xdd, "TRT", N3, SS::of(trt)),
        row(0xd0, "TRTR", ExtendedTranslation3, SS::of(trtr)),
        row(0xb2a5, "TRE", N3, RRE::of(tre)).even1(),
        row(0xb9bf, "TRTE", ParsingEnhancement, RRF::of(trte)).even1(),
        row(0xb9bd, "TRTRE", ParsingEnhancement, RRF::of(trtre)).even1(),
        row(0xb993, "TROO", ExtendedTranslation2, RRF::of(troo)).even1(),
        row(0xb992, "TROT", ExtendedTranslation2, RRF::of(trot)).even1(),
        row(0xb991, "TRTO", ExtendedTranslation2, RRF::of(trto)).even1(),
        row(0xb990, "TRTT", ExtendedTranslation2, RRF::of(trtt)).even1(),
    ]
}

/// Characters that one execution of the longer forms processes at most.
const STEP: u64 = 4096;

/// A table of 256 bytes: whole, or by entry.
#[derive(Clone, Copy)]
enum Table {
    Whole(Span),
    Entries(Operand),
}

impl Table {
    fn new(cpu: &mut Cpu, at: Operand) -> Self {
        match cpu.span(at, 256, Access::Fetch) {
            Ok(span) => Self::Whole(span),
            Err(_) => Self::Entries(at),
        }
    }

    #[inline(always)]
    fn entry(&self, cpu: &mut Cpu, byte: u8) -> Result<u8, Leave> {
        match self {
            Self::Whole(span) => Ok(span.get(byte as usize)),
            Self::Entries(at) => cpu.load(offset(cpu, *at, byte as u64)),
        }
    }
}

/// The operand `n` bytes to the right.
#[inline(always)]
fn offset(cpu: &Cpu, at: Operand, n: u64) -> Operand {
    Operand { address: cpu.trim(at.address.wrapping_add(n)), ar: at.ar }
}

/// TRANSLATE.
fn tr(cpu: &mut Cpu, i: Ss) -> Flow {
    let to = cpu.span(i.operand1(cpu), i.l as usize + 1, Access::Store)?;
    let table = Table::new(cpu, i.operand2(cpu));
    if let Table::Whole(table) = table {
        to.translate(&table);
        return Ok(());
    }
    for n in 0..to.len() {
        table.entry(cpu, to.get(n))?;
    }
    for n in 0..to.len() {
        let byte = table.entry(cpu, to.get(n))?;
        to.set(n, byte);
    }
    Ok(())
}

/// Sets the address in general register 1 as TRT and EDMK do: bits 0-31 stay, and bits 32-39 in the
/// 24-bit mode.
pub(super) fn set_found_address(cpu: &mut Cpu, address: u64) {
    match cpu.address_mask() {
        0xff_ffff => cpu.set_gr32(1, cpu.gr32(1) & 0xff00_0000 | address as u32),
        _ => cpu.set_gr_address(1, address),
    }
}

/// Looks for a byte that selects a function byte other than zero, beginning at the operand's address
/// and going right or, when `backward`, left.
fn translate_and_test(cpu: &mut Cpu, i: Ss, backward: bool) -> Flow {
    let at = i.operand1(cpu);
    let table = Table::new(cpu, i.operand2(cpu));
    let length = i.l as usize + 1;
    let leftmost = match backward {
        true => Operand { address: cpu.trim(at.address.wrapping_sub(i.l as u64)), ar: at.ar },
        false => at,
    };
    let whole = cpu.span(leftmost, length, Access::Fetch).ok();
    for n in 0..length {
        let position = if backward { length - 1 - n } else { n };
        let argument = match whole {
            Some(span) => span.get(position),
            None => cpu.load(offset(cpu, leftmost, position as u64))?,
        };
        let function = table.entry(cpu, argument)?;
        if function != 0 {
            let address = offset(cpu, leftmost, position as u64).address;
            set_found_address(cpu, address);
            cpu.set_gr(2, cpu.gr(2) & !0xff | function as u64);
            cpu.cc = if n + 1 < length { 1 } else { 2 };
            return Ok(());
        }
    }
    cpu.cc = 0;
    Ok(())
}

/// TRANSLATE AND TEST.
fn trt(cpu: &mut Cpu, i: Ss) -> Flow {
    translate_and_test(cpu, i, false)
}

/// TRANSLATE AND TEST REVERSE.
fn trtr(cpu: &mut Cpu, i: Ss) -> Flow {
    translate_and_test(cpu, i, true)
}

/// TRANSLATE EXTENDED. General register 0 has the test byte, which ends the operation untranslated.
fn tre(cpu: &mut Cpu, i: Rr) -> Flow {
    let test = cpu.gr(0) as u8;
    let mut at = cpu.register_operand(i.r1);
    let mut length = cpu.gr_length(i.r1 | 1);
    let table_at = cpu.register_operand(i.r2);
    let mut done = 0;
    let mut step = |cpu: &mut Cpu| -> Result<u8, Leave> {
        let table = Table::new(cpu, table_at);
        loop {
            if length == 0 {
                return Ok(0);
            }
            if done >= STEP {
                return Ok(3);
            }
            let n = length.min(PAGE_SIZE - at.address % PAGE_SIZE);
            let span = cpu.span(at, n as usize, Access::Store)?;
            for k in 0..n as usize {
                let byte = span.get(k);
                if byte == test {
                    return Ok(1);
                }
                let translated = table.entry(cpu, byte)?;
                span.set(k, translated);
                at = offset(cpu, at, 1);
                length -= 1;
                done += 1;
            }
        }
    };
    let cc = match step(cpu) {
        Err(leave) if done == 0 => return Err(leave),
        Err(_) => 3,
        Ok(cc) => cc,
    };
    cpu.charge(8 * done);
    cpu.set_gr_address(i.r1, at.address);
    cpu.set_gr_length(i.r1 | 1, length);
    cpu.cc = cc;
    Ok(())
}

/// A character of one or two bytes.
fn character(cpu: &mut Cpu, at: Operand, size: u64) -> Result<u16, Leave> {
    match size {
        1 => Ok(cpu.load::<u8>(at)? as u16),
        _ => cpu.load::<u16>(at),
    }
}

/// The extended forms of TRT. General register 1 designates the function-code table. M3 has, from the
/// left, the argument-character, function-code and argument-limit controls.
fn translate_and_test_extended(cpu: &mut Cpu, i: Rrf, backward: bool) -> Flow {
    let size = if i.r3 & 8 != 0 { 2 } else { 1 };
    let function_size = if i.r3 & 4 != 0 { 2 } else { 1 };
    let limited = i.r3 & 2 != 0;
    let mut at = cpu.register_operand(i.r1);
    let mut length = cpu.gr_length(i.r1 | 1);
    if length % size != 0 {
        return Err(ProgramCode::Specification.into());
    }
    let table = cpu.register_operand(1);
    let mut done = 0;
    let mut step = |cpu: &mut Cpu| -> Result<(u8, u16), Leave> {
        while length > 0 {
            if done >= STEP {
                return Ok((3, 0));
            }
            let argument = character(cpu, at, size)?;
            if !(limited && argument > 255) {
                let entry = offset(cpu, table, argument as u64 * function_size);
                let function = character(cpu, entry, function_size)?;
                if function != 0 {
                    return Ok((1, function));
                }
            }
            at = offset(cpu, at, if backward { size.wrapping_neg() } else { size });
            length -= size;
            done += 1;
        }
        Ok((0, 0))
    };
    let (cc, function) = match step(cpu) {
        Err(leave) if done == 0 => return Err(leave),
        Err(_) => (3, 0),
        Ok(result) => result,
    };
    cpu.charge(8 * done);
    cpu.set_gr_address(i.r1, at.address);
    cpu.set_gr_length(i.r1 | 1, length);
    if cc != 3 {
        cpu.set_gr_length(i.r2, function as u64);
    }
    cpu.cc = cc;
    Ok(())
}

/// TRANSLATE AND TEST EXTENDED.
fn trte(cpu: &mut Cpu, i: Rrf) -> Flow {
    translate_and_test_extended(cpu, i, false)
}

/// TRANSLATE AND TEST REVERSE EXTENDED.
fn trtre(cpu: &mut Cpu, i: Rrf) -> Flow {
    translate_and_test_extended(cpu, i, true)
}

/// The translation between characters of `from` and `to` bytes. General register 0 has the test
/// character, 1 the address of the table; M3 bit 3 turns the test off (ETF2 enhancement).
fn translate_characters(cpu: &mut Cpu, i: Rrf, from: u64, to: u64) -> Flow {
    let enhanced = cpu.facility(Etf2Enhancement as u16);
    let test = match to {
        _ if enhanced && i.r3 & 1 != 0 => None,
        1 => Some(cpu.gr(0) as u8 as u16),
        _ => Some(cpu.gr(0) as u16),
    };
    let mut target = cpu.register_operand(i.r1);
    let mut length = cpu.gr_length(i.r1 | 1);
    let mut source = cpu.register_operand(i.r2);
    if length % from != 0 {
        return Err(ProgramCode::Specification.into());
    }
    // Before the enhancement the tables for two-byte characters begin at a 4K-byte boundary.
    let boundary = if from == 2 && !enhanced { PAGE_SIZE } else { 8 };
    let table = cpu.register_operand(1);
    let table = Operand { address: table.address & !(boundary - 1), ar: 1 };
    let mut done = 0;
    let mut step = |cpu: &mut Cpu| -> Result<u8, Leave> {
        while length > 0 {
            if done >= STEP {
                return Ok(3);
            }
            let argument = character(cpu, source, from)?;
            let entry = offset(cpu, table, argument as u64 * to);
            let function = character(cpu, entry, to)?;
            if test == Some(function) {
                return Ok(1);
            }
            match to {
                1 => cpu.store(target, function as u8)?,
                _ => cpu.store(target, function)?,
            }
            source = offset(cpu, source, from);
            target = offset(cpu, target, to);
            length -= from;
            done += 1;
        }
        Ok(0)
    };
    let cc = match step(cpu) {
        Err(leave) if done == 0 => return Err(leave),
        Err(_) => 3,
        Ok(cc) => cc,
    };
    cpu.charge(8 * done);
    cpu.set_gr_address(i.r1, target.address);
    cpu.set_gr_length(i.r1 | 1, length);
    cpu.set_gr_address(i.r2, source.address);
    cpu.cc = cc;
    Ok(())
}

/// TRANSLATE ONE TO ONE.
fn troo(cpu: &mut Cpu, i: Rrf) -> Flow {
    translate_characters(cpu, i, 1, 1)
}

/// TRANSLATE ONE TO TWO.
fn trot(cpu: &mut Cpu, i: Rrf) -> Flow {
    translate_characters(cpu, i, 1, 2)
}

/// TRANSLATE TWO TO ONE.
fn trto(cpu: &mut Cpu, i: Rrf) -> Flow {
    translate_characters(cpu, i, 2, 1)
}

/// TRANSLATE TWO TO TWO.
fn trtt(cpu: &mut Cpu, i: Rrf) -> Flow {
    translate_characters(cpu, i, 2, 2)
}
