//! Dynamic address translation: every level and exception, protection, large pages, LRA, IPTE, address spaces.
#![no_std]
#![no_main]

use programs::machine::{self, cr0, load, lowcore, set_cr0, set_cr1, set_cr7, set_cr13, store};
use programs::{Checks, Taken, encode, mask, program, step, step_with};

program!("dat", main);

/// Tables: five of 16 KiB, then a page table.
const TABLES: u64 = programs::FREE + 0x10_0000;
const REGION_1: u64 = TABLES;
const REGION_2: u64 = TABLES + 0x4000;
const REGION_3: u64 = TABLES + 0x8000;
const SEGMENTS: u64 = TABLES + 0xc000;
const PAGES: u64 = TABLES + 0x1_0000;
/// A second space: segment and page table.
const OTHER_SEGMENTS: u64 = TABLES + 0x1_4000;
const OTHER_PAGES: u64 = TABLES + 0x1_8000;
/// Two frames.
const FRAME: u64 = programs::FREE + 0x8000;
const OTHER_FRAME: u64 = programs::FREE + 0x9000;
/// The megabyte whose page table is ours, and the pages in it: one mapped, one invalid, one protected, one with a bad entry.
const MAPPED: u64 = 0x70_0000;
const INVALID: u64 = MAPPED + 0x1000;
const PROTECTED: u64 = MAPPED + 0x2000;
const BAD: u64 = MAPPED + 0x3000;
const OUTSIDE: u64 = MAPPED + 0x4000;
/// Megabytes whose segment-table entries are invalid, and have a wrong type.
const NO_SEGMENT: u64 = 0x80_0000;
const BAD_SEGMENT: u64 = 0x90_0000;
const PROTECTED_SEGMENT: u64 = 0xa0_0000;
const LARGE: u64 = 0xb0_0000;

/// Designation types, as in bits 60-61 of an ASCE and of entries.
const TYPE_3: u64 = 1 << 2;
const TYPE_2: u64 = 2 << 2;
const TYPE_1: u64 = 3 << 2;
/// Full length of a region table.
const FULL: u64 = 3;
const INVALID_BIT: u64 = 0x20;
const NOTHING: Taken = Taken::Nothing;
const DAT: u64 = mask::BITS_64 | mask::DAT;

fn main(checks: &mut Checks) {
    make_tables();
    translation(checks);
    levels(checks);
    protection(checks);
    lra(checks);
    large_pages(checks);
    invalidation(checks);
    spaces(checks);
}

/// Maps the first 2 GiB to themselves but for the megabytes named above.
fn make_tables() {
    for (table, entry) in
        [(REGION_1, REGION_2 | TYPE_1), (REGION_2, REGION_3 | TYPE_2), (REGION_3, SEGMENTS | TYPE_3)]
    {
        (0..2048).for_each(|n| store(table + 8 * n, INVALID_BIT | entry & 0xc));
        store(table, entry | FULL);
    }
    // A page table for each of the first 16 megabytes, behind the named one.
    for segment in 0..2048u64 {
        let pages = PAGES + 0x1_0000 + segment * 0x800;
        let entry = match segment << 20 {
            MAPPED => PAGES,
            BAD_SEGMENT => PAGES | TYPE_3,
            PROTECTED_SEGMENT => pages | 0x200,
            NO_SEGMENT => INVALID_BIT,
            at if at < 64 << 20 => pages,
            _ => INVALID_BIT,
        };
        store(SEGMENTS + 8 * segment, entry);
        store(OTHER_SEGMENTS + 8 * segment, if segment << 20 == MAPPED { OTHER_PAGES } else { entry });
        if segment < 64 {
            (0..256).for_each(|n| store(pages + 8 * n, segment << 20 | n << 12));
        }
    }
    for table in [PAGES, OTHER_PAGES] {
        (0..256).for_each(|n| store(table + 8 * n, 0x400));
        store(table, FRAME);
        store(table + 8 * (PROTECTED >> 12 & 0xff), FRAME | 0x200);
        store(table + 8 * (BAD >> 12 & 0xff), FRAME | 0x800);
        store(table + 8 * (OUTSIDE >> 12 & 0xff), 1 << 45);
    }
    store(OTHER_PAGES, OTHER_FRAME);
    set_cr1(SEGMENTS | FULL);
    set_cr7(OTHER_SEGMENTS | FULL);
    set_cr13(OTHER_SEGMENTS | FULL);
}

/// LG and STG at a virtual address.
fn access(at: u64) -> [Taken; 2] {
    let mut gr = [0; 16];
    gr[1] = at;
    [0xe304, 0xe324].map(|opcode| step_with(encode::rxy(opcode, 2, 0, 0, 1), &mut gr, DAT).taken)
}

fn translation(checks: &mut Checks) {
    store(FRAME, 0x1234);
    store(FRAME + 8, 0);
    let mut gr = [0; 16];
    (gr[1], gr[3]) = (MAPPED, 0x5678);
    let fetched = step_with(encode::rxy(0xe304, 2, 0, 0, 1), &mut gr, DAT).taken;
    checks.equal("fetch", (fetched, gr[2]), (NOTHING, 0x1234));
    let stored = step_with(encode::rxy(0xe324, 3, 0, 8, 1), &mut gr, DAT).taken;
    checks.equal("store", (stored, load(FRAME + 8)), (NOTHING, 0x5678));
    for (name, at, code) in [
        ("page", INVALID, 0x11),
        ("segment", NO_SEGMENT, 0x10),
        ("page-entry", BAD, 0x12),
        ("segment-entry", BAD_SEGMENT, 0x12),
        ("frame-outside", OUTSIDE, 5),
        ("table-length", 0x8000_0000, 0x3b),
    ] {
        let (wanted, suppressed) = match code {
            0x11 | 0x10 | 0x3b => (true, Taken::Program(code, 6)),
            _ => (false, Taken::Program(code, 6)),
        };
        // ASCE-type exceptions have a code of their own.
        let want = if name == "table-length" { Taken::Program(0x38, 6) } else { suppressed };
        checks.equal(format_args!("exception.{name}"), access(at), [want; 2]);
        if wanted {
            let identification = load(lowcore::TRANSLATION_EXCEPTION);
            checks.equal(format_args!("exception.{name}.address"), identification >> 12, at >> 12);
            checks.equal(format_args!("exception.{name}.space"), identification & 3, 0);
        }
    }
    // Nullified: the address is that of the instruction.
    let outcome = step_with(encode::rxy(0xe304, 2, 0, 0, 1), &mut with(1, INVALID), DAT);
    checks.equal("exception.nullified", outcome.moved, 0);
    let outcome = step_with(encode::rxy(0xe304, 2, 0, 0, 1), &mut with(1, OUTSIDE), DAT);
    checks.equal("exception.suppressed", outcome.moved, 6);
    // A second page that is not there: nothing is stored in the first.
    store(FRAME + 0xff8, 7);
    let taken = step_with(encode::rxy(0xe324, 2, 0, 0xffc, 1), &mut with(1, MAPPED), DAT).taken;
    checks.equal("exception.second-page", (taken, load(FRAME + 0xff8)), (Taken::Program(0x11, 6), 7));
}

fn with(register: usize, value: u64) -> [u64; 16] {
    let mut gr = [0; 16];
    gr[register] = value;
    gr
}

/// Designations of each type, and the exception of each table.
fn levels(checks: &mut Checks) {
    let rows = [
        ("segment", SEGMENTS, 0, 1u64 << 31, 0x38),
        ("region-third", REGION_3 | TYPE_3, 1 << 31, 1 << 42, 0x3b),
        ("region-second", REGION_2 | TYPE_2, 1 << 42, 1 << 53, 0x3a),
        ("region-first", REGION_1 | TYPE_1, 1 << 53, 0, 0x39),
    ];
    for (name, asce, missing, beyond, code) in rows {
        set_cr1(asce | FULL);
        checks.equal(format_args!("level.{name}"), access(MAPPED), [NOTHING; 2]);
        if missing != 0 {
            checks.equal(format_args!("level.{name}.missing"), access(missing), [Taken::Program(code, 6); 2]);
        }
        if beyond != 0 {
            checks.equal(format_args!("level.{name}.beyond"), access(beyond), [Taken::Program(0x38, 6); 2]);
        }
    }
    // A region table that is a quarter long has no entry for the second quarter.
    set_cr1(REGION_3 | TYPE_3);
    checks.equal("level.length", access(1 << 40), [Taken::Program(0x3b, 6); 2]);
    // Entries of a wrong type.
    store(REGION_3, SEGMENTS | TYPE_2 | FULL);
    purge();
    // Found when the instruction is fetched, which leaves its length open.
    let found = access(MAPPED).map(|taken| matches!(taken, Taken::Program(0x12, _)));
    checks.equal("level.type", found, [true; 2]);
    store(REGION_3, SEGMENTS | TYPE_3 | FULL);
    purge();
    // Real space: every address is a real one.
    set_cr1(0x20);
    store(FRAME, 0x4321);
    let mut gr = with(1, FRAME);
    let taken = step_with(encode::rxy(0xe304, 2, 0, 0, 1), &mut gr, DAT).taken;
    checks.equal("level.real-space", (taken, gr[2]), (NOTHING, 0x4321));
    set_cr1(SEGMENTS | FULL);
}

fn purge() {
    step(encode::s(0xb20d, 0, 0), &mut [0; 16]);
}

fn protection(checks: &mut Checks) {
    const PROTECTION: Taken = Taken::Program(4, 6);
    checks.equal("protection.page", access(PROTECTED), [NOTHING, PROTECTION]);
    checks.equal("protection.page.address", load(lowcore::TRANSLATION_EXCEPTION) >> 12, PROTECTED >> 12);
    checks.equal("protection.page.dat", load(lowcore::TRANSLATION_EXCEPTION) & 4, 4);
    checks.equal("protection.segment", access(PROTECTED_SEGMENT), [NOTHING, PROTECTION]);
}

/// LOAD REAL ADDRESS: condition codes and what the register gets.
fn lra(checks: &mut Checks) {
    for (name, at, cc, value) in [
        ("mapped", MAPPED + 0x123, 0, FRAME + 0x123),
        ("no-segment", NO_SEGMENT, 1, SEGMENTS + (NO_SEGMENT >> 20) * 8),
        ("no-page", INVALID, 2, PAGES + 8),
    ] {
        let mut gr = with(1, at);
        let outcome = step_with(encode::rxy(0xe303, 2, 0, 0, 1), &mut gr, DAT);
        checks.equal(format_args!("lrag.{name}"), (outcome.executed(), gr[2]), (Ok(cc), value));
    }
    let mut gr = with(1, 1 << 31);
    let outcome = step_with(encode::rxy(0xe303, 2, 0, 0, 1), &mut gr, DAT);
    checks.equal("lrag.beyond", (outcome.executed(), gr[2]), (Ok(3), 0x8000_0038));
    let outcome = step_with(encode::rxy(0xe303, 2, 0, 0, 1), &mut with(1, BAD), DAT);
    checks.equal("lrag.bad-entry", outcome.taken, Taken::Program(0x12, 6));
}

fn large_pages(checks: &mut Checks) {
    if !machine::facility(8) {
        return checks.none("large-page", "facility 8 is not installed");
    }
    let before = machine::control_registers()[0];
    // The megabyte at LARGE shows the one of FRAME.
    let frame = FRAME >> 20 << 20;
    store(SEGMENTS + (LARGE >> 20) * 8, frame | 0x400);
    set_cr0(before | cr0::ENHANCED_DAT);
    purge();
    store(FRAME, 0x9876);
    let mut gr = with(1, LARGE + FRAME - frame);
    let taken = step_with(encode::rxy(0xe304, 2, 0, 0, 1), &mut gr, DAT).taken;
    checks.equal("large-page", (taken, gr[2]), (NOTHING, 0x9876));
    store(SEGMENTS + (LARGE >> 20) * 8, frame | 0x600);
    purge();
    checks.equal("large-page.protected", access(LARGE), [NOTHING, Taken::Program(4, 6)]);
    set_cr0(before);
    store(SEGMENTS + (LARGE >> 20) * 8, INVALID_BIT);
    purge();
}

fn invalidation(checks: &mut Checks) {
    let entry = |n: u64| PAGES + 8 * n;
    // IPTE sets the invalid bit, and the translation is gone.
    checks.equal("ipte.before", access(MAPPED), [NOTHING; 2]);
    let mut gr = [0; 16];
    (gr[1], gr[2]) = (PAGES, MAPPED);
    checks.equal("ipte", step(encode::rre(0xb221, 1, 2), &mut gr).taken, NOTHING);
    checks.equal("ipte.entry", load(entry(0)), FRAME | 0x400);
    checks.equal("ipte.after", access(MAPPED), [Taken::Program(0x11, 6); 2]);
    store(entry(0), FRAME);
    checks.equal("ipte.again", access(MAPPED), [NOTHING; 2]);
    // IDTE of a segment-table entry.
    (gr[1], gr[2]) = (SEGMENTS, MAPPED);
    if machine::facility(3) {
        gr[3] = SEGMENTS | FULL;
        checks.equal("idte", step(encode::rrf(0xb98e, 1, 2, 3, 0), &mut gr).taken, NOTHING);
        checks.equal("idte.entry", load(SEGMENTS + (MAPPED >> 20) * 8) & INVALID_BIT, INVALID_BIT);
        checks.equal("idte.after", access(MAPPED), [Taken::Program(0x10, 6); 2]);
        store(SEGMENTS + (MAPPED >> 20) * 8, PAGES);
        checks.equal("idte.again", access(MAPPED), [NOTHING; 2]);
    } else {
        checks.none("idte", "facility 3 is not installed");
    }
    // Another frame, after PTLB.
    access(MAPPED);
    store(OTHER_FRAME, 0x77);
    store(entry(0), OTHER_FRAME);
    purge();
    let mut gr = with(1, MAPPED);
    step_with(encode::rxy(0xe304, 2, 0, 0, 1), &mut gr, DAT);
    checks.equal("ptlb", gr[2], 0x77);
    store(entry(0), FRAME);
    purge();
}

fn spaces(checks: &mut Checks) {
    store(FRAME, 1);
    store(OTHER_FRAME, 2);
    let read = |mask: u64| {
        let mut gr = with(1, MAPPED);
        let taken = step_with(encode::rxy(0xe304, 2, 0, 0, 1), &mut gr, DAT | mask).taken;
        (taken, gr[2])
    };
    checks.equal("space.primary", read(0), (NOTHING, 1));
    checks.equal("space.secondary", read(mask::SECONDARY), (NOTHING, 2));
    checks.equal("space.home", read(mask::SECONDARY | mask::ACCESS_REGISTER), (NOTHING, 2));
    let outcome = step_with(encode::rxy(0xe304, 2, 0, 0, 1), &mut with(1, INVALID), DAT | mask::SECONDARY);
    let space = load(lowcore::TRANSLATION_EXCEPTION) & 3;
    checks.equal("space.secondary.exception", (outcome.taken, space), (Taken::Program(0x11, 6), 2));
    let home = mask::SECONDARY | mask::ACCESS_REGISTER;
    let outcome = step_with(encode::rxy(0xe304, 2, 0, 0, 1), &mut with(1, INVALID), DAT | home);
    let space = load(lowcore::TRANSLATION_EXCEPTION) & 3;
    checks.equal("space.home.exception", (outcome.taken, space), (Taken::Program(0x11, 6), 3));
}
