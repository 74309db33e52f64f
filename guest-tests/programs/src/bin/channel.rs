//! The channel subsystem: subchannel instructions, CHSC, channel reports.
#![no_std]
#![no_main]

use programs::machine::{bytes, load, load_word, store};
use programs::{Checks, Taken, encode, mask, program, step, step_with};

program!("channel", main);

const AREA: u64 = programs::FREE + 0x10000;
const FAR: u64 = 1 << 45;
/// A subsystem-identification word of a subchannel that no machine here has.
const NONE: u64 = 0x0001_fffe;
const SPECIFICATION: Taken = Taken::Program(6, 4);
const OPERAND: Taken = Taken::Program(0x15, 4);

const STSCH: u64 = 0xb234;
const MSCH: u64 = 0xb232;
const SSCH: u64 = 0xb233;
const TSCH: u64 = 0xb235;

fn main(checks: &mut Checks) {
    subchannels(checks);
    pending(checks);
    chsc(checks);
}

/// An instruction with its operand at `at` and general register 1.
fn s(opcode: u64, at: u64, gr1: u64) -> Result<u8, Taken> {
    let mut gr = [0; 16];
    (gr[1], gr[2]) = (gr1, at);
    step(encode::s(opcode, 0, 2), &mut gr).executed()
}

fn subchannels(checks: &mut Checks) {
    bytes(AREA, 4096).fill(0);
    for (name, opcode) in [("stsch", STSCH), ("msch", MSCH), ("ssch", SSCH), ("tsch", TSCH)] {
        checks.equal(format_args!("{name}.none"), s(opcode, AREA, NONE), Ok(3));
        checks.equal(format_args!("{name}.unaligned"), s(opcode, AREA + 2, NONE), Err(SPECIFICATION));
        checks.equal(format_args!("{name}.identification"), s(opcode, AREA, 0), Err(OPERAND));
        checks.equal(format_args!("{name}.outside"), s(opcode, FAR, NONE), Err(Taken::Program(5, 4)));
    }
    for (name, opcode) in [("hsch", 0xb231), ("csch", 0xb230), ("rsch", 0xb238), ("xsch", 0xb276)] {
        checks.equal(format_args!("{name}.none"), s(opcode, 0, NONE), Ok(3));
        checks.equal(format_args!("{name}.identification"), s(opcode, 0, 0), Err(OPERAND));
    }
    // An ORB with reserved bits.
    store(AREA, 0x20);
    checks.equal("ssch.orb", s(SSCH, AREA, NONE), Err(OPERAND));
    store(AREA, 0);
}

fn pending(checks: &mut Checks) {
    store(AREA, u64::MAX);
    checks.equal("stcrw.none", s(0xb239, AREA, 0), Ok(1));
    checks.equal("stcrw.zeros", load_word(AREA), 0);
    checks.equal("stcrw.beside", load_word(AREA + 4), u32::MAX);
    checks.equal("stcrw.unaligned", s(0xb239, AREA + 2, 0), Err(SPECIFICATION));
    checks.equal("stcrw.outside", s(0xb239, FAR, 0), Err(Taken::Program(5, 4)));
    checks.equal("tpi.none", s(0xb236, AREA, 0), Ok(0));
    checks.equal("tpi.unaligned", s(0xb236, AREA + 2, 0), Err(SPECIFICATION));
    checks.equal("tpi.left", load(AREA), u64::from(u32::MAX));
}

/// CHSC with a block of `length` bytes: the outcome, and length and code of the response.
fn call(length: u16, command: u16, words: [u32; 3]) -> (Result<u8, Taken>, u32) {
    let block = bytes(AREA, 4096);
    block.fill(0);
    block[..2].copy_from_slice(&length.to_be_bytes());
    block[2..4].copy_from_slice(&command.to_be_bytes());
    for (bytes, word) in block[4..16].chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    let mut gr = [0; 16];
    gr[2] = AREA;
    let outcome = step(encode::rre(0xb25f, 2, 0), &mut gr).executed();
    let response = load_word(AREA + u64::from(length & 0xff8));
    (outcome, response)
}

fn chsc(checks: &mut Checks) {
    const CHARACTERISTICS: u16 = 0x10;
    const EVENT: u16 = 0xe;
    let (outcome, response) = call(16, CHARACTERISTICS, [0; 3]);
    checks.equal("chsc.characteristics", (outcome, response & 0xffff), (Ok(0), 1));
    checks.equal("chsc.characteristics.length", response >> 16, 0xff0);
    checks.equal("chsc.characteristics.format", call(16, CHARACTERISTICS, [1 << 16, 0, 0]).1 & 0xffff, 7);
    checks.equal("chsc.characteristics.cssid", call(16, CHARACTERISTICS, [0x0300, 0, 0]).1 & 0xffff, 8);
    checks.equal("chsc.characteristics.field", call(16, CHARACTERISTICS, [0, 1, 0]).1 & 0xffff, 3);
    checks.equal("chsc.unknown", call(16, 0x1234, [0; 3]), (Ok(0), 0x0008_0004));
    checks.equal("chsc.event.none", call(16, EVENT, [0; 3]).1 & 0xffff, 5);
    checks.equal("chsc.event.field", call(16, EVENT, [1, 0, 0]).1 & 0xffff, 3);
    for length in [0, 8, 15, 17, 20, 4089, 4096] {
        checks.equal(
            format_args!("chsc.length.{length}"),
            call(length, CHARACTERISTICS, [0; 3]).0,
            Err(OPERAND),
        );
    }
    let mut gr = [0; 16];
    gr[2] = AREA + 8;
    checks.equal("chsc.unaligned", step(encode::rre(0xb25f, 2, 0), &mut gr).executed(), Err(SPECIFICATION));
    gr[2] = FAR;
    checks.equal(
        "chsc.outside",
        step(encode::rre(0xb25f, 2, 0), &mut gr).executed(),
        Err(Taken::Program(5, 4)),
    );
    let outcome = step_with(encode::rre(0xb25f, 2, 0), &mut gr, mask::BITS_64 | mask::PROBLEM);
    checks.equal("chsc.problem-state", outcome.taken, Taken::Program(2, 4));
}
