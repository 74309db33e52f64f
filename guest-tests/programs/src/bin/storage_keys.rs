//! Storage keys: setting, inspecting, reference and change bits, protection by key and of low addresses.
#![no_std]
#![no_main]

use programs::machine::{control_registers, cr0, load, lowcore, set_cr0, store};
use programs::{Checks, Outcome, Taken, encode, mask, program, step, step_with};

program!("storage_keys", main);

/// A page for keys.
const PAGE: u64 = programs::FREE + 0x20000;
const BLOCK: u64 = programs::FREE + 0x10_0000;
const FAR: u64 = 1 << 45;
const PROTECTION: Taken = Taken::Program(4, 6);

fn main(checks: &mut Checks) {
    keys(checks);
    reference_and_change(checks);
    protection(checks);
    tprot(checks);
    low_addresses(checks);
    bad_operands(checks);
    sske_options(checks);
    set_key(PAGE, 0);
}

fn set_key(page: u64, key: u64) {
    let mut gr = [0; 16];
    (gr[1], gr[2]) = (page, key);
    step(encode::rre(0xb22b, 2, 1), &mut gr);
}

fn key(page: u64) -> u64 {
    let mut gr = [0; 16];
    gr[1] = page;
    step(encode::rre(0xb229, 2, 1), &mut gr);
    gr[2]
}

fn keys(checks: &mut Checks) {
    for key in [0x00, 0x10, 0xf0, 0x38, 0x5e, 0xfe] {
        set_key(PAGE, key);
        checks.equal(format_args!("iske.{key:x}"), self::key(PAGE), key);
    }
    // The last bit of the register does not matter; the rest of it stays.
    set_key(PAGE, 0x31);
    let mut gr = [0; 16];
    (gr[1], gr[2]) = (PAGE + 0xfff, 0x1122_3344_5566_77ff);
    step(encode::rre(0xb229, 2, 1), &mut gr);
    checks.equal("iske.register", gr[2], 0x1122_3344_5566_7730);
    checks.equal("sske.neighbours", [key(PAGE - 4096) >> 4, key(PAGE + 4096) >> 4], [0, 0]);
}

fn reference_and_change(checks: &mut Checks) {
    const BITS: u64 = 6;
    set_key(PAGE, 0x10);
    load(PAGE);
    checks.equal("fetch.references", key(PAGE) & BITS, 4);
    set_key(PAGE, 0x10);
    store(PAGE, 1);
    checks.equal("store.changes", key(PAGE) & BITS, 6);
    for (bits, cc) in [(0, 0), (2, 1), (4, 2), (6, 3)] {
        set_key(PAGE, 0x10 | bits);
        let mut gr = [0; 16];
        gr[1] = PAGE;
        let outcome = step(encode::rre(0xb22a, 2, 1), &mut gr);
        checks.equal(format_args!("rrbe.{bits}"), outcome.executed(), Ok(cc));
        checks.equal(format_args!("rrbe.{bits}.key"), key(PAGE), 0x10 | bits & 2);
    }
}

/// LG and STG at the page with an access key.
fn access(access_key: u64, page: u64) -> [Outcome; 2] {
    let mut gr = [0; 16];
    gr[1] = page;
    [0xe304, 0xe324].map(|opcode| {
        step_with(encode::rxy(opcode, 2, 0, 0, 1), &mut gr, mask::BITS_64 | mask::key(access_key))
    })
}

fn protection(checks: &mut Checks) {
    const NOTHING: Taken = Taken::Nothing;
    // A step's own instruction is in storage with the key 0, which is not protected from fetches.
    for (name, page_key, access_key, fetch, stores) in [
        ("same", 0x30, 3, NOTHING, NOTHING),
        ("other", 0x30, 4, NOTHING, PROTECTION),
        ("fetch-same", 0x38, 3, NOTHING, NOTHING),
        ("fetch-other", 0x38, 4, PROTECTION, PROTECTION),
        ("key-0", 0x38, 0, NOTHING, NOTHING),
    ] {
        set_key(PAGE, page_key);
        let got = access(access_key, PAGE).map(|outcome| outcome.taken);
        checks.equal(format_args!("protection.{name}"), got, [fetch, stores]);
    }
    // A refused store leaves storage and the change bit alone.
    set_key(PAGE, 0);
    store(PAGE, 77);
    set_key(PAGE, 0x30);
    access(4, PAGE);
    checks.equal("protection.left", (load(PAGE), key(PAGE) & 2), (77, 0));
    // SPKA sets the key of the PSW; in the problem state only one that control register 3 allows.
    let mut gr = [0; 16];
    gr[1] = 0x70;
    let outcome = step(encode::s(0xb20a, 0, 1), &mut gr);
    checks.equal("spka", (outcome.taken, load(0x140) >> 52 & 15), (Taken::Nothing, 7));
    let outcome = step_with(encode::s(0xb20a, 0, 1), &mut gr, mask::BITS_64 | mask::PROBLEM);
    checks.equal("spka.problem-state", outcome.taken, Taken::Program(2, 4));
}

fn tprot(checks: &mut Checks) {
    for (name, page_key, access_key, cc) in
        [("store", 0x30, 0x30, 0), ("fetch", 0x30, 0x40, 1), ("none", 0x38, 0x40, 2), ("key-0", 0x38, 0, 0)]
    {
        set_key(PAGE, page_key);
        let mut gr = [0; 16];
        (gr[1], gr[2]) = (PAGE, access_key);
        checks.equal(
            format_args!("tprot.{name}"),
            step(encode::sse(0xe501, 0, 1, 0, 2), &mut gr).executed(),
            Ok(cc),
        );
    }
}

fn low_addresses(checks: &mut Checks) {
    let before = control_registers()[0];
    let store_at = |at: u64| {
        let mut gr = [0; 16];
        gr[1] = at;
        gr[2] = load(at);
        set_cr0(before | cr0::LOW_ADDRESS_PROTECTION);
        let outcome = step(encode::rxy(0xe324, 2, 0, 0, 1), &mut gr);
        set_cr0(before);
        outcome.taken
    };
    for (at, taken) in [
        (0x100, PROTECTION),
        (0x1f8, PROTECTION),
        (0x200, Taken::Nothing),
        (0xff8, Taken::Nothing),
        (0x1000, PROTECTION),
        (0x11f8, PROTECTION),
        (0x1200, Taken::Nothing),
    ] {
        let got = store_at(at);
        checks.equal(format_args!("low-address.{at:x}"), got, taken);
    }
    store_at(0x100);
    checks.equal("low-address.exception", load(lowcore::TRANSLATION_EXCEPTION) & 0x4, 0);
}

fn bad_operands(checks: &mut Checks) {
    let mut gr = [0; 16];
    gr[1] = FAR;
    for (name, opcode) in [("sske", 0xb22b), ("iske", 0xb229), ("rrbe", 0xb22a)] {
        let outcome = step(encode::rre(opcode, 2, 1), &mut gr);
        checks.equal(format_args!("{name}.outside"), outcome.taken, Taken::Program(5, 4));
    }
}

/// Conditional and multiple-block SSKE, where facilities 10 and 8 have them.
fn sske_options(checks: &mut Checks) {
    if !programs::machine::facility(10) || !programs::machine::facility(8) {
        return checks.none("sske-options", "facilities 8 and 10 are not installed");
    }
    const MULTIPLE: u64 = 1;
    const CHANGE: u64 = 2;
    const REFERENCE: u64 = 4;
    let sske = |options: u64, r2: u64, key: u64| {
        let mut gr = [0; 16];
        (gr[1], gr[2]) = (r2, key);
        (step(encode::rrf(0xb22b, 2, 1, options, 0), &mut gr), gr)
    };
    // With MR and MC only access-control and fetch-protection bits count: the key stays, condition code 0.
    set_key(PAGE, 0x36);
    let (outcome, gr) = sske(REFERENCE | CHANGE, PAGE, 0x30);
    checks.equal(
        "sske-options.conditional.same",
        (outcome.executed(), gr[2] & 0xff00, key(PAGE)),
        (Ok(0), 0x3600, 0x36),
    );
    let (outcome, _) = sske(REFERENCE | CHANGE, PAGE, 0x50);
    checks.equal("sske-options.conditional.other", (outcome.executed(), key(PAGE)), (Ok(1), 0x50));
    // Every page up to the end of the megabyte.
    let from = BLOCK + 0xf_c000;
    (0..5).for_each(|n| set_key(from + 4096 * n, 0));
    let (_, gr) = sske(MULTIPLE, from, 0x70);
    let got: [u64; 5] = core::array::from_fn(|n| key(from + 4096 * n as u64));
    checks.equal("sske-options.multiple", (gr[1], got), (BLOCK + 0x10_0000, [0x70, 0x70, 0x70, 0x70, 0]));
    (0..4).for_each(|n| set_key(from + 4096 * n, 0));
}
