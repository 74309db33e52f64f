//! General instructions (chapter 7): strings that an ending character delimits, comparison for equal
//! substrings, and CHECKSUM.
//!
//! All end with condition code 3 after a bounded piece. An access exception behind progress ends the
//! piece too, so that the next execution meets it without progress.

use machine::Operand;
use zarch::{Facility::*, PAGE_SIZE, ProgramCode};

use crate::access::Access;
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xb255, "MVST", N3, RRE::of(mvst)),
        row(0xb25d, "CLST", N3, RRE::of(clst)),
        row(0xb25e, "SRST", N3, RRE::of(srst)),
        row(0xb9be, "SRSTU", ExtendedTranslation3, RRE::of(srstu)),
        row(0xb257, "CUSE", N3, RRE::of(cuse)).even1().even2(),
        row(0xb241, "CKSM", N3, RRE::of(cksm)).even2(),
    ]
}

/// Bytes that one execution processes at most (some more when a page ends).
const STEP: u64 = 4 * PAGE_SIZE;

/// Bytes until the page of `at` ends.
fn page(at: Operand) -> u64 {
    PAGE_SIZE - at.address % PAGE_SIZE
}

fn advance(cpu: &Cpu, at: &mut Operand, n: u64) {
    at.address = cpu.trim(at.address.wrapping_add(n));
}

/// The ending character in general register 0; the bits to its left in the right half are zeros.
fn ending_character(cpu: &Cpu, mask: u32) -> Result<u16, Leave> {
    match cpu.gr32(0) {
        character if character & !mask == 0 => Ok(character as u16),
        _ => Err(ProgramCode::Specification.into()),
    }
}

/// MOVE STRING.
fn mvst(cpu: &mut Cpu, i: Rr) -> Flow {
    let ending = ending_character(cpu, 0xff)? as u8;
    let (mut to, mut from) = (cpu.register_operand(i.r1), cpu.register_operand(i.r2));
    let mut done = 0;
    while done < STEP {
        let n = page(to).min(page(from));
        // Bytes behind the ending character are not moved, so that the destination must be no longer.
        let piece = cpu.span(from, n as usize, Access::Fetch).and_then(|source| {
            let end = source.find(ending);
            let length = end.map_or(n as usize, |end| end + 1);
            let source = cpu.span(from, length, Access::Fetch)?;
            cpu.span(to, length, Access::Store)?.move_from(&source);
            Ok(end)
        });
        match piece {
            Err(leave) if done == 0 => return Err(leave),
            Err(_) => break,
            Ok(Some(end)) => {
                cpu.set_gr_address(i.r1, to.address.wrapping_add(end as u64));
                cpu.cc = 1;
                return Ok(());
            }
            Ok(None) => {
                advance(cpu, &mut to, n);
                advance(cpu, &mut from, n);
                cpu.charge(n / 16);
                done += n;
            }
        }
    }
    cpu.set_gr_address(i.r1, to.address);
    cpu.set_gr_address(i.r2, from.address);
    cpu.cc = 3;
    Ok(())
}

/// COMPARE LOGICAL STRING. The operand that ends first is low.
fn clst(cpu: &mut Cpu, i: Rr) -> Flow {
    let ending = ending_character(cpu, 0xff)? as u8;
    let (mut first, mut second) = (cpu.register_operand(i.r1), cpu.register_operand(i.r2));
    let mut done = 0;
    // Most strings are short: look at little first.
    let mut piece = 64;
    while done < STEP {
        let n = page(first).min(page(second)).min(piece);
        let spans = cpu
            .span(first, n as usize, Access::Fetch)
            .and_then(|a| Ok((a, cpu.span(second, n as usize, Access::Fetch)?)));
        let (a, b) = match spans {
            Err(leave) if done == 0 => return Err(leave),
            Err(_) => break,
            Ok(spans) => spans,
        };
        let differs = a.mismatch(&b);
        if a.find(ending).is_some_and(|end| end < differs.unwrap_or(n as usize)) {
            cpu.cc = 0;
            return Ok(());
        }
        if let Some(at) = differs {
            let (x, y) = (a.get(at), b.get(at));
            let low = x == ending || y != ending && x < y;
            cpu.set_gr_address(i.r1, first.address.wrapping_add(at as u64));
            cpu.set_gr_address(i.r2, second.address.wrapping_add(at as u64));
            cpu.cc = if low { 1 } else { 2 };
            return Ok(());
        }
        advance(cpu, &mut first, n);
        advance(cpu, &mut second, n);
        cpu.charge(n / 16);
        done += n;
        piece = (piece * 4).min(PAGE_SIZE);
    }
    cpu.set_gr_address(i.r1, first.address);
    cpu.set_gr_address(i.r2, second.address);
    cpu.cc = 3;
    Ok(())
}

/// SEARCH STRING.
fn srst(cpu: &mut Cpu, i: Rr) -> Flow {
    let wanted = ending_character(cpu, 0xff)? as u8;
    let end = cpu.trim(cpu.gr(i.r1));
    let mut at = cpu.register_operand(i.r2);
    let mut done = 0;
    while done < STEP {
        let left = cpu.trim(end.wrapping_sub(at.address));
        if left == 0 {
            cpu.cc = 2;
            return Ok(());
        }
        let n = page(at).min(left);
        match cpu.span(at, n as usize, Access::Fetch).map(|span| span.find(wanted)) {
            Err(leave) if done == 0 => return Err(leave),
            Err(_) => break,
            Ok(Some(found)) => {
                cpu.set_gr_address(i.r1, at.address.wrapping_add(found as u64));
                cpu.cc = 1;
                return Ok(());
            }
            Ok(None) => {}
        }
        advance(cpu, &mut at, n);
        cpu.charge(n / 16);
        done += n;
    }
    cpu.set_gr_address(i.r2, at.address);
    cpu.cc = 3;
    Ok(())
}

/// SEARCH STRING UNICODE. When only one of the addresses is odd, the end is one byte later.
fn srstu(cpu: &mut Cpu, i: Rr) -> Flow {
    let wanted = ending_character(cpu, 0xffff)?;
    let mut at = cpu.register_operand(i.r2);
    let end = cpu.gr(i.r1);
    let end = cpu.trim(end.wrapping_add((end ^ at.address) & 1));
    let mut done = 0;
    while done < STEP {
        if at.address == end {
            cpu.cc = 2;
            return Ok(());
        }
        match cpu.load::<u16>(at) {
            Err(leave) if done == 0 => return Err(leave),
            Err(_) => break,
            Ok(character) if character == wanted => {
                cpu.set_gr_address(i.r1, at.address);
                cpu.cc = 1;
                return Ok(());
            }
            Ok(_) => {}
        }
        advance(cpu, &mut at, 2);
        cpu.charge(8);
        done += 2;
    }
    cpu.set_gr_address(i.r2, at.address);
    cpu.cc = 3;
    Ok(())
}

/// COMPARE UNTIL SUBSTRING EQUAL. General register 0 has the substring length, 1 the padding byte.
/// The registers are left at the equal substring, or behind what was compared.
fn cuse(cpu: &mut Cpu, i: Rr) -> Flow {
    #[derive(Clone, Copy)]
    struct Place {
        at: [Operand; 2],
        length: [u64; 2],
    }
    let wanted = cpu.gr(0) as u8 as u64;
    let pad = cpu.gr(1) as u8;
    let mut place = Place {
        at: [cpu.register_operand(i.r1), cpu.register_operand(i.r2)],
        length: [cpu.gr_length(i.r1 | 1), cpu.gr_length(i.r2 | 1)],
    };
    let mut equal = 0;
    let mut start = place;
    let mut done = 0;
    let cc = loop {
        if equal == wanted {
            break 0;
        }
        if place.length == [0, 0] {
            break if equal > 0 { 1 } else { 2 };
        }
        if equal == 0 && done >= STEP {
            break 3;
        }
        let mut bytes = [pad; 2];
        let mut exception = None;
        for (n, byte) in bytes.iter_mut().enumerate() {
            if place.length[n] > 0 {
                match cpu.load::<u8>(place.at[n]) {
                    Ok(fetched) => *byte = fetched,
                    Err(leave) => exception = Some(leave),
                }
            }
        }
        if let Some(leave) = exception {
            if done == equal {
                return Err(leave);
            }
            // Resume at the beginning of the equal bytes, since nothing else remembers them.
            break 3;
        }
        if bytes[0] == bytes[1] {
            if equal == 0 {
                start = place;
            }
            equal += 1;
        } else {
            equal = 0;
        }
        for n in 0..2 {
            if place.length[n] > 0 {
                advance(cpu, &mut place.at[n], 1);
                place.length[n] -= 1;
            }
        }
        done += 1;
    };
    cpu.charge(8 * done);
    let last = if equal > 0 { start } else { place };
    for (n, r) in [i.r1, i.r2].into_iter().enumerate() {
        cpu.set_gr_address(r, last.at[n].address);
        cpu.set_gr_length(r | 1, last.length[n]);
    }
    cpu.cc = cc;
    Ok(())
}

/// CHECKSUM: words are added with end-around carry; the last is extended on the right with zeros.
fn cksm(cpu: &mut Cpu, i: Rr) -> Flow {
    let mut at = cpu.register_operand(i.r2);
    let mut length = cpu.gr_length(i.r2 | 1);
    let mut sum = cpu.gr32(i.r1) as u64;
    let mut done = 0;
    while length > 0 && done < STEP {
        // Whole words, except at the end; one word when it reaches over the end of the page.
        let n = (page(at) & !3).max(4).min(length);
        let span = match cpu.span(at, n as usize, Access::Fetch) {
            Err(leave) if done == 0 => return Err(leave),
            Err(_) => break,
            Ok(span) => span,
        };
        let words = n as usize / 4;
        for k in 0..words {
            sum += span.load::<u32>(4 * k) as u64;
        }
        if n % 4 != 0 {
            let mut bytes = [0; 4];
            (4 * words..n as usize).for_each(|k| bytes[k & 3] = span.get(k));
            sum += u32::from_be_bytes(bytes) as u64;
        }
        advance(cpu, &mut at, n);
        length -= n;
        done += n;
    }
    cpu.charge(done);
    while sum >> 32 != 0 {
        sum = (sum & 0xffff_ffff) + (sum >> 32);
    }
    cpu.set_gr_address(i.r2, at.address);
    cpu.set_gr_length(i.r2 | 1, length);
    cpu.set_gr32(i.r1, sum as u32);
    cpu.cc = if length > 0 { 3 } else { 0 };
    Ok(())
}
