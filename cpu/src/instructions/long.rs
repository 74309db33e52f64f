//! General instructions (chapter 7): moves and comparisons whose addresses and lengths are in pairs of
//! general registers.
//!
//! Those that are interruptible (MVCL, CLCL) do a bounded piece and are executed again with registers
//! that show the progress; the others end with condition code 3 after such a piece. An access
//! exception behind progress ends the piece, so that the exception is met again, without progress.

use std::cmp::Ordering;

use machine::Operand;
use zarch::{AddressSpace, Facility::*, PAGE_SIZE, ProgramCode};

use crate::access::Access;
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0x0e, "MVCL", N3, RR::of(mvcl)).even1().even2(),
        row(0xa8, "MVCLE", N3, RS::of(mvcle)).even1().even3(),
        row(0xeb8e, "MVCLU", ExtendedTranslation2, RSY::of(mvclu)).even1().even3(),
        row(0x0f, "CLCL", N3, RR::of(clcl)).even1().even2(),
        row(0xa9, "CLCLE", N3, RS::of(clcle)).even1().even3(),
        row(0xeb8f, "CLCLU", ExtendedTranslation2, RSY::of(clclu)).even1().even3(),
    ]
}

/// Bytes that one execution moves or compares at most (some more when a page ends).
const STEP: u64 = 16 * PAGE_SIZE;

/// The part of two operands that is still to be done, and what extends the shorter one.
struct Pair {
    first: Operand,
    first_length: u64,
    second: Operand,
    second_length: u64,
    pad: [u8; 2],
    /// Bytes of a character: 1 or 2.
    unit: u64,
    /// Bytes done in this execution.
    done: u64,
}

impl Pair {
    /// Bytes until the page of `at` ends, in whole characters; one character when that reaches over.
    fn page(&self, at: Operand) -> u64 {
        let left = PAGE_SIZE - at.address % PAGE_SIZE;
        (left & !(self.unit - 1)).max(self.unit)
    }

    /// Goes `n` bytes on in whichever operands have not ended.
    fn advance(&mut self, cpu: &Cpu, n: u64) {
        let step = |at: &mut Operand, length: &mut u64| {
            if *length > 0 {
                at.address = cpu.trim(at.address.wrapping_add(n));
                *length -= n;
            }
        };
        step(&mut self.first, &mut self.first_length);
        step(&mut self.second, &mut self.second_length);
        self.done += n;
    }

    /// How the lengths relate: the condition code of a move.
    fn relation(&self) -> u8 {
        match self.first_length.cmp(&self.second_length) {
            Ordering::Equal => 0,
            Ordering::Less => 1,
            Ordering::Greater => 2,
        }
    }

    /// Moves bytes, or padding behind the end of the second operand.
    fn move_step(&mut self, cpu: &mut Cpu) -> Flow {
        while self.first_length > 0 && self.done < STEP {
            let n = self.page(self.first).min(self.first_length);
            if self.second_length > 0 {
                let n = n.min(self.page(self.second)).min(self.second_length);
                let from = cpu.span(self.second, n as usize, Access::Fetch)?;
                let to = cpu.span(self.first, n as usize, Access::Store)?;
                to.move_from(&from);
                self.advance(cpu, n);
            } else {
                let to = cpu.span(self.first, n as usize, Access::Store)?;
                if self.pad[0] == self.pad[1] {
                    to.fill(self.pad[0]);
                } else {
                    (0..n as usize).for_each(|k| to.set(k, self.pad[k & 1]));
                }
                self.advance(cpu, n);
            }
        }
        Ok(())
    }

    /// Compares; `None` when the piece is done and neither inequality nor the end was found.
    fn compare_step(&mut self, cpu: &mut Cpu) -> Result<Option<Ordering>, Leave> {
        while self.done < STEP {
            let (n, difference) = match (self.first_length, self.second_length) {
                (0, 0) => return Ok(Some(Ordering::Equal)),
                (0, length) => {
                    let (n, difference) = self.compare_with_pad(cpu, self.second, length)?;
                    (n, difference.map(|(at, order)| (at, order.reverse())))
                }
                (length, 0) => self.compare_with_pad(cpu, self.first, length)?,
                (first, second) => {
                    let n = self.page(self.first).min(self.page(self.second)).min(first).min(second);
                    let a = cpu.span(self.first, n as usize, Access::Fetch)?;
                    let b = cpu.span(self.second, n as usize, Access::Fetch)?;
                    (n, a.mismatch(&b).map(|at| (at as u64, a.get(at).cmp(&b.get(at)))))
                }
            };
            if let Some((at, order)) = difference {
                self.advance(cpu, at & !(self.unit - 1));
                return Ok(Some(order));
            }
            self.advance(cpu, n);
        }
        let ended = self.first_length == 0 && self.second_length == 0;
        Ok(ended.then_some(Ordering::Equal))
    }

    /// Compares a stretch of `at` with padding: its length, and where and how it differs.
    fn compare_with_pad(
        &self,
        cpu: &mut Cpu,
        at: Operand,
        length: u64,
    ) -> Result<(u64, Option<(u64, Ordering)>), Leave> {
        let n = self.page(at).min(length);
        let span = cpu.span(at, n as usize, Access::Fetch)?;
        let differs = (0..n as usize).find(|&k| span.get(k) != self.pad[k & 1]);
        Ok((n, differs.map(|k| (k as u64, span.get(k).cmp(&self.pad[k & 1])))))
    }
}

/// The operands of MVCL and CLCL: 24-bit lengths, the padding byte beside the second.
fn long_pair(cpu: &Cpu, i: Rr) -> Pair {
    let control = cpu.gr32(i.r2 | 1);
    Pair {
        first: cpu.register_operand(i.r1),
        first_length: cpu.gr32(i.r1 | 1) as u64 & 0xff_ffff,
        second: cpu.register_operand(i.r2),
        second_length: control as u64 & 0xff_ffff,
        pad: [(control >> 24) as u8; 2],
        unit: 1,
        done: 0,
    }
}

fn commit_long_pair(cpu: &mut Cpu, i: Rr, pair: &Pair) {
    cpu.charge(pair.done / 16);
    cpu.set_gr_address(i.r1, pair.first.address);
    cpu.set_gr_address(i.r2, pair.second.address);
    for (r, length) in [(i.r1 | 1, pair.first_length), (i.r2 | 1, pair.second_length)] {
        cpu.set_gr32(r, cpu.gr32(r) & 0xff00_0000 | length as u32);
    }
}

/// The operands of the extended forms: padding in the rightmost bits of the second-operand address.
fn extended_pair(cpu: &Cpu, i: Rs, unit: u64) -> Result<Pair, Leave> {
    let pad = i.amount(cpu) as u16;
    let pair = Pair {
        first: cpu.register_operand(i.r1),
        first_length: cpu.gr_length(i.r1 | 1),
        second: cpu.register_operand(i.r3),
        second_length: cpu.gr_length(i.r3 | 1),
        pad: if unit == 2 { pad.to_be_bytes() } else { [pad as u8; 2] },
        unit,
        done: 0,
    };
    if (pair.first_length | pair.second_length) & (unit - 1) != 0 {
        return Err(ProgramCode::Specification.into());
    }
    Ok(pair)
}

fn commit_extended_pair(cpu: &mut Cpu, i: Rs, pair: &Pair) {
    cpu.charge(pair.done / 16);
    cpu.set_gr_address(i.r1, pair.first.address);
    cpu.set_gr_length(i.r1 | 1, pair.first_length);
    cpu.set_gr_address(i.r3, pair.second.address);
    cpu.set_gr_length(i.r3 | 1, pair.second_length);
}

/// Whether two operands may be in one address space: in the access-register mode, when their ALETs
/// are equal.
fn same_space(cpu: &Cpu, a: Operand, b: Operand) -> bool {
    let alet = |ar: u8| if ar == 0 { 0 } else { cpu.ar[ar as usize & 15] };
    cpu.psw_address_space() != AddressSpace::AccessRegister || alet(a.ar) == alet(b.ar)
}

/// MOVE LONG. Condition code 3: the first operand's leftmost byte is a byte of the second that is still
/// to be moved.
fn mvcl(cpu: &mut Cpu, i: Rr) -> Flow {
    let mut pair = long_pair(cpu, i);
    let cc = pair.relation();
    let distance = cpu.trim(pair.first.address.wrapping_sub(pair.second.address));
    let moved = pair.first_length.min(pair.second_length);
    if distance > 0 && distance < moved && same_space(cpu, pair.first, pair.second) {
        commit_long_pair(cpu, i, &pair);
        cpu.cc = 3;
        return Ok(());
    }
    let flow = pair.move_step(cpu);
    if flow.is_ok() || pair.done > 0 {
        commit_long_pair(cpu, i, &pair);
    }
    flow?;
    if pair.first_length > 0 {
        return Err(Leave::Again);
    }
    cpu.cc = cc;
    Ok(())
}

fn move_extended(cpu: &mut Cpu, i: Rs, unit: u64) -> Flow {
    let mut pair = extended_pair(cpu, i, unit)?;
    let cc = pair.relation();
    let flow = pair.move_step(cpu);
    if flow.is_err() && pair.done == 0 {
        return flow;
    }
    commit_extended_pair(cpu, i, &pair);
    cpu.cc = if pair.first_length > 0 { 3 } else { cc };
    Ok(())
}

/// MOVE LONG EXTENDED.
fn mvcle(cpu: &mut Cpu, i: Rs) -> Flow {
    move_extended(cpu, i, 1)
}

/// MOVE LONG UNICODE.
fn mvclu(cpu: &mut Cpu, i: Rs) -> Flow {
    move_extended(cpu, i, 2)
}

fn comparison_cc(order: Ordering) -> u8 {
    match order {
        Ordering::Equal => 0,
        Ordering::Less => 1,
        Ordering::Greater => 2,
    }
}

/// COMPARE LOGICAL LONG.
fn clcl(cpu: &mut Cpu, i: Rr) -> Flow {
    let mut pair = long_pair(cpu, i);
    let result = pair.compare_step(cpu);
    if result.is_ok() || pair.done > 0 {
        commit_long_pair(cpu, i, &pair);
    }
    match result? {
        Some(order) => {
            cpu.cc = comparison_cc(order);
            Ok(())
        }
        None => Err(Leave::Again),
    }
}

fn compare_extended(cpu: &mut Cpu, i: Rs, unit: u64) -> Flow {
    let mut pair = extended_pair(cpu, i, unit)?;
    let order = match pair.compare_step(cpu) {
        Err(leave) if pair.done == 0 => return Err(leave),
        Err(_) => None,
        Ok(order) => order,
    };
    commit_extended_pair(cpu, i, &pair);
    cpu.cc = order.map_or(3, comparison_cc);
    Ok(())
}

/// COMPARE LOGICAL LONG EXTENDED.
fn clcle(cpu: &mut Cpu, i: Rs) -> Flow {
    compare_extended(cpu, i, 1)
}

/// COMPARE LOGICAL LONG UNICODE.
fn clclu(cpu: &mut Cpu, i: Rs) -> Flow {
    compare_extended(cpu, i, 2)
}
