//! General instructions (chapter 7): conversions between UTF-8, UTF-16 and UTF-32.
//!
//! R1 and R2 designate pairs of address and length: where characters go, where they come from.
//! Condition code 0: the source has ended (or ends within a character); 1: the next character does not
//! fit; 2: the next character is invalid; 3: a bounded number of characters has been converted.

use machine::Operand;
use zarch::Facility::*;

use crate::access::Access;
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xb2a7, "CU12", N3, RRF::of(cu12)).even1().even2(),
        row(0xb9b0, "CU14", ExtendedTranslation3, RRF::of(cu14)).even1().even2(),
        row(0xb2a6, "CU21", N3, RRF::of(cu21)).even1().even2(),
        row(0xb9b1, "CU24", ExtendedTranslation3, RRF::of(cu24)).even1().even2(),
        row(0xb9b2, "CU41", ExtendedTranslation3, RRE::of(cu41)).even1().even2(),
        row(0xb9b3, "CU42", ExtendedTranslation3, RRE::of(cu42)).even1().even2(),
    ]
}

/// Characters that one execution converts at most.
const STEP: usize = 2048;

/// A character's bytes, in one of the three forms.
#[derive(Clone, Copy)]
struct Bytes {
    bytes: [u8; 4],
    length: usize,
}

impl Bytes {
    fn new(bytes: &[u8]) -> Self {
        let mut all = [0; 4];
        all[..bytes.len()].copy_from_slice(bytes);
        Self { bytes: all, length: bytes.len() }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// How a character at the beginning of some bytes decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decoded {
    /// The character and its length in bytes.
    Character(u32, usize),
    /// It takes more bytes, this many.
    Needs(usize),
    /// Condition code 2.
    Invalid,
}

use Decoded::*;

/// Decodes a character of `bytes`; with the flag well-formedness is checked.
type Decode = fn(&[u8], bool) -> Decoded;

/// Encodes a character that took this many bytes in its source form.
type Encode = fn(u32, usize) -> Bytes;

fn utf8(bytes: &[u8], check: bool) -> Decoded {
    let first = bytes[0];
    let length = match first {
        0..=0x7f => return Character(first as u32, 1),
        0xc0 | 0xc1 if check => return Invalid,
        0xf5..=0xf7 if check => return Invalid,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => return Invalid,
    };
    if bytes.len() < length {
        return Needs(length);
    }
    let rest = &bytes[1..length];
    let c = rest.iter().fold(first as u32 & (0x7f >> length), |c, b| c << 6 | *b as u32 & 0x3f);
    if check {
        let range = match length {
            2 => 0x80..0x800,
            3 => 0x800..0x1_0000,
            _ => 0x1_0000..0x11_0000,
        };
        let surrogate = (0xd800..0xe000).contains(&c);
        if rest.iter().any(|b| b & 0xc0 != 0x80) || !range.contains(&c) || surrogate {
            return Invalid;
        }
    }
    Character(c, length)
}

fn utf16(bytes: &[u8], check: bool) -> Decoded {
    if bytes.len() < 2 {
        return Needs(2);
    }
    let first = u16::from_be_bytes([bytes[0], bytes[1]]) as u32;
    if first & 0xfc00 != 0xd800 {
        return Character(first, 2);
    }
    if bytes.len() < 4 {
        return Needs(4);
    }
    let second = u16::from_be_bytes([bytes[2], bytes[3]]) as u32;
    if check && second & 0xfc00 != 0xdc00 {
        return Invalid;
    }
    Character(((first & 0x3ff) << 10 | second & 0x3ff) + 0x1_0000, 4)
}

fn utf32(bytes: &[u8], _: bool) -> Decoded {
    if bytes.len() < 4 {
        return Needs(4);
    }
    match u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) {
        0xd800..=0xdbff | 0x11_0000.. => Invalid,
        c => Character(c, 4),
    }
}

fn to_utf8(c: u32) -> Bytes {
    let tail = |shift: u32| 0x80 | (c >> shift & 0x3f) as u8;
    match c {
        0..=0x7f => Bytes::new(&[c as u8]),
        0x80..=0x7ff => Bytes::new(&[0xc0 | (c >> 6) as u8, tail(0)]),
        0x800..=0xffff => Bytes::new(&[0xe0 | (c >> 12) as u8, tail(6), tail(0)]),
        _ => Bytes::new(&[0xf0 | (c >> 18 & 7) as u8, tail(12), tail(6), tail(0)]),
    }
}

fn to_utf16(c: u32, length: usize) -> Bytes {
    // Without the well-formedness check the source form, not the value, says that it is a pair.
    if c < 0x1_0000 && length < 4 {
        return Bytes::new(&(c as u16).to_be_bytes());
    }
    let high = 0xd800 | (c.wrapping_sub(0x1_0000) >> 10 & 0x3ff) as u16;
    let low = 0xdc00 | (c & 0x3ff) as u16;
    let ([a, b], [d, e]) = (high.to_be_bytes(), low.to_be_bytes());
    Bytes::new(&[a, b, d, e])
}

/// Converts characters of at least `shortest` bytes; `encode` gets the character and the length of its
/// source form.
fn convert(
    cpu: &mut Cpu,
    [r1, r2, m3]: [u8; 3],
    (shortest, decode): (usize, Decode),
    encode: Encode,
) -> Flow {
    let mut to = cpu.register_operand(r1);
    let mut to_length = cpu.gr_length(r1 | 1);
    let mut from = cpu.register_operand(r2);
    let mut from_length = cpu.gr_length(r2 | 1);
    let check = m3 & 1 != 0 && cpu.facility(Etf3Enhancement as u16);
    let mut done = 0;
    let mut one = |cpu: &mut Cpu| -> Result<Option<u8>, Leave> {
        if from_length == 0 {
            return Ok(Some(0));
        }
        // Bytes are fetched as the character turns out to have them, and no others.
        let mut bytes = [0; 4];
        let mut have = shortest;
        let (c, length) = loop {
            if have as u64 > from_length {
                return Ok(Some(0));
            }
            cpu.fetch_bytes(from, &mut bytes[..have])?;
            match decode(&bytes[..have], check) {
                Invalid => return Ok(Some(2)),
                Needs(more) => have = more,
                Character(c, length) => break (c, length),
            }
        };
        let result = encode(c, length);
        if result.length as u64 > to_length {
            return Ok(Some(1));
        }
        cpu.span(to, result.length, Access::Store)?.write(result.as_slice());
        let advance = |at: Operand, n: usize| cpu.trim(at.address.wrapping_add(n as u64));
        to.address = advance(to, result.length);
        to_length -= result.length as u64;
        from.address = advance(from, length);
        from_length -= length as u64;
        Ok(None)
    };
    let cc = loop {
        match one(cpu) {
            Ok(Some(cc)) => break cc,
            Ok(None) => done += 1,
            Err(leave) if done == 0 => return Err(leave),
            // The next execution meets the exception without progress.
            Err(_) => break 3,
        }
        if done >= STEP {
            break 3;
        }
    };
    cpu.charge(16 * done as u64);
    cpu.set_gr_address(r1, to.address);
    cpu.set_gr_length(r1 | 1, to_length);
    cpu.set_gr_address(r2, from.address);
    cpu.set_gr_length(r2 | 1, from_length);
    cpu.cc = cc;
    Ok(())
}

/// CONVERT UTF-8 TO UTF-16.
fn cu12(cpu: &mut Cpu, i: Rrf) -> Flow {
    convert(cpu, [i.r1, i.r2, i.r3], (1, utf8), to_utf16)
}

/// CONVERT UTF-8 TO UTF-32.
fn cu14(cpu: &mut Cpu, i: Rrf) -> Flow {
    convert(cpu, [i.r1, i.r2, i.r3], (1, utf8), |c, _| Bytes::new(&c.to_be_bytes()))
}

/// CONVERT UTF-16 TO UTF-8.
fn cu21(cpu: &mut Cpu, i: Rrf) -> Flow {
    convert(cpu, [i.r1, i.r2, i.r3], (2, utf16), |c, _| to_utf8(c))
}

/// CONVERT UTF-16 TO UTF-32.
fn cu24(cpu: &mut Cpu, i: Rrf) -> Flow {
    convert(cpu, [i.r1, i.r2, i.r3], (2, utf16), |c, _| Bytes::new(&c.to_be_bytes()))
}

/// CONVERT UTF-32 TO UTF-8.
fn cu41(cpu: &mut Cpu, i: Rr) -> Flow {
    convert(cpu, [i.r1, i.r2, 0], (4, utf32), |c, _| to_utf8(c))
}

/// CONVERT UTF-32 TO UTF-16.
fn cu42(cpu: &mut Cpu, i: Rr) -> Flow {
    convert(cpu, [i.r1, i.r2, 0], (4, utf32), |c, _| to_utf16(c, 2))
}
