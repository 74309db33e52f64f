//! AP: what is there, and every check of the instructions. The cards are those of `ap-host.json`.
#![no_std]
#![no_main]

use programs::ap::{
    ACCELERATOR, ADAPTERS, CCA, DOMAINS, EP11, FIRST_PART, LAST_PART, PQAP, Status, T_BIT, apqn, dqap,
    function, nqap, pqap, present,
};
use programs::machine::{bytes, facility, store};
use programs::{Checks, Taken, encode, mask, program, step, step_with};

program!("ap", main);

const AREA: u64 = programs::FREE + 0x10000;
const FAR: u64 = 1 << 45;
const SPECIFICATION: Taken = Taken::Program(6, 4);
const PRIVILEGED: Taken = Taken::Program(2, 4);
/// A queue that there is not.
const ABSENT: u64 = apqn(5, 0x48);
/// What TAPQ answers there.
const NOT_AVAILABLE: (u8, Status) = (3, Status(0x0001_0000));

fn main(checks: &mut Checks) {
    if let Err(taken) = present() {
        checks.equal("present.operation-exception", taken, Taken::Program(1, 4));
        return checks.none("ap", "PQAP is not installed");
    }
    checks.equal("facilities", [12, 15, 65].map(facility), [true; 3]);
    configuration(checks);
    queues(checks);
    function_codes(checks);
    registers(checks);
    privilege(checks);
    absent(checks);
}

fn configuration(checks: &mut Checks) {
    let block = bytes(AREA, 136);
    block.fill(0xee);
    let (outcome, ..) = pqap(function::QCI << 24, 0, AREA);
    checks.equal("qci", outcome.executed(), Ok(0));
    checks.equal("qci.flags", block[..4] == [0xc0, 0, 0, 0], true);
    checks.equal("qci.highest", (block[4], block[5]), (255, 255));
    let mask = |at: usize| core::array::from_fn::<u8, 32, _>(|n| block[at + n]);
    let bits = |bits: &[u64]| {
        let mut mask = [0u8; 32];
        bits.iter().for_each(|&bit| mask[bit as usize / 8] |= 0x80 >> (bit % 8));
        mask
    };
    checks.equal("qci.adapters", mask(0x10), bits(&ADAPTERS));
    checks.equal("qci.domains", mask(0x30), bits(&DOMAINS));
    checks.equal("qci.control-domains", mask(0x50), bits(&[0xab]));
    checks.holds("qci.reserved", block[6..16].iter().chain(&block[0x70..0x80]).all(|&byte| byte == 0));
    checks.holds("qci.behind", block[128..] == [0xee; 8]);
    for (name, gr0, at, taken) in [
        ("unaligned", 0, AREA + 4, SPECIFICATION),
        ("outside", 0, FAR, Taken::Program(5, 4)),
        ("t-bit", T_BIT, AREA, Taken::Nothing),
        ("apqn-ignored", 0xffff, AREA, Taken::Nothing),
    ] {
        checks.equal(format_args!("qci.{name}"), pqap(function::QCI << 24 | gr0, 0, at).0.taken, taken);
    }
    let mut gr = [0; 16];
    (gr[0], gr[2]) = (function::QCI << 24, AREA);
    block.fill(0xee);
    let outcome = step_with(PQAP, &mut gr, mask::BITS_64 | mask::key(3));
    checks.equal("qci.protected", (outcome.taken, block[0]), (Taken::Program(4, 4), 0xee));
}

/// Each of the 65,536 queues there may be.
fn queues(checks: &mut Checks) {
    let there = |queue: u64| ADAPTERS.contains(&(queue >> 8)) && DOMAINS.contains(&(queue & 0xff));
    let (mut available, mut wrong) = (0, None);
    for queue in 0..0x1_0000u64 {
        const UNTOUCHED: u64 = 0x1234_5678;
        let (outcome, gr1, gr2) = pqap(T_BIT | queue, u64::MAX, UNTOUCHED);
        let good = if there(queue) {
            available += 1;
            outcome.executed() == Ok(0) && gr1 >> 16 & 0xff == 0 && gr1 >> 32 == 0 && gr2 != UNTOUCHED
        } else {
            outcome.executed() == Ok(3) && gr1 == 0x0001_0000 && gr2 == UNTOUCHED
        };
        if !good {
            wrong = wrong.or(Some((queue, outcome, gr1, gr2)));
        }
    }
    checks.equal("tapq.all", wrong, None);
    checks.equal("tapq.available", available, ADAPTERS.len() * DOMAINS.len());
    // APSC, MEX4k, CRT4k, mode, APXA; type; highest domain; length in 4096; depth less one.
    for (name, queue, mode) in [("cca", CCA, 4), ("accelerator", ACCELERATOR, 2), ("ep11", EP11, 1)] {
        let want = 7 << 61 | mode << 58 | 1 << 57 | 14 << 24 | 255 << 16 | 3 << 8 | 7;
        checks.equal(format_args!("tapq.{name}"), pqap(T_BIT | queue, 0, 0).2, want);
        checks.equal(format_args!("tapq.{name}.without-t"), pqap(queue, 0, 0).2, 7);
    }
}

/// Every function code that there is not.
fn function_codes(checks: &mut Checks) {
    let mut wrong = None;
    for code in 5..=255u64 {
        let (outcome, gr1, gr2) = pqap(code << 24 | CCA, 77, 88);
        if (outcome.taken, outcome.moved, gr1, gr2) != (SPECIFICATION, 4, 77, 88) {
            wrong = wrong.or(Some((code, outcome.taken)));
        }
    }
    checks.equal("function.undefined", wrong, None);
}

/// Reserved bits of general register 0, and odd registers.
fn registers(checks: &mut Checks) {
    const BIT_41: u64 = 1 << 22;
    for (name, code) in [
        ("tapq", function::TAPQ),
        ("rapq", function::RAPQ),
        ("zapq", function::ZAPQ),
        ("aqic", function::AQIC),
        ("qci", function::QCI),
    ] {
        let mut refused = 0;
        for bit in 16..23 {
            let (outcome, ..) = pqap(code << 24 | 1 << bit | ABSENT, 0, AREA);
            refused |= u64::from(outcome.taken == SPECIFICATION) << bit;
        }
        // Bit 41 is an option of the two resets.
        let option = if matches!(code, function::RAPQ | function::ZAPQ) { BIT_41 } else { 0 };
        checks.equal(format_args!("{name}.reserved"), refused, 0x7f_0000 & !option);
    }
    for (name, opcode, gr0) in [("nqap", 0xb2ad, LAST_PART), ("dqap", 0xb2ae, FIRST_PART)] {
        for (r1, r2) in [(3, 6), (4, 7), (3, 7)] {
            let mut gr = [0; 16];
            gr[0] = gr0 | CCA;
            let taken = step(encode::rre(opcode, r1, r2), &mut gr).taken;
            checks.equal(format_args!("{name}.registers.{r1}.{r2}"), taken, SPECIFICATION);
        }
    }
}

/// The problem state, which ranks before everything else.
fn privilege(checks: &mut Checks) {
    let problem = mask::BITS_64 | mask::PROBLEM;
    for (name, gr0) in [
        ("tapq", CCA),
        ("rapq", function::RAPQ << 24 | CCA),
        ("zapq", function::ZAPQ << 24 | CCA),
        ("aqic", function::AQIC << 24 | CCA),
        ("qci", function::QCI << 24),
        ("undefined", 99 << 24),
        ("reserved", 1 << 16),
    ] {
        let mut gr = [0; 16];
        (gr[0], gr[2]) = (gr0, AREA + 4);
        checks.equal(format_args!("privilege.{name}"), step_with(PQAP, &mut gr, problem).taken, PRIVILEGED);
    }
    for (name, instruction) in [
        ("nqap", encode::rre(0xb2ad, 4, 6)),
        ("dqap", encode::rre(0xb2ae, 4, 6)),
        ("nqap.registers", encode::rre(0xb2ad, 3, 7)),
        ("dqap.registers", encode::rre(0xb2ae, 3, 7)),
    ] {
        let mut gr = [0; 16];
        gr[0] = CCA;
        checks.equal(
            format_args!("privilege.{name}"),
            step_with(instruction, &mut gr, problem).taken,
            PRIVILEGED,
        );
    }
}

/// A queue that is not in the configuration.
fn absent(checks: &mut Checks) {
    for (name, code) in [
        ("tapq", function::TAPQ),
        ("rapq", function::RAPQ),
        ("zapq", function::ZAPQ),
        ("aqic", function::AQIC),
    ] {
        checks.equal(format_args!("absent.{name}"), function(code, ABSENT, 0, 0), Ok(NOT_AVAILABLE));
    }
    store(AREA, 0);
    // Before the message is looked at.
    let got = nqap(LAST_PART | ABSENT, 1, FAR, 64, mask::BITS_64);
    checks.equal("absent.nqap", (got.outcome.executed(), got.status), (Ok(3), NOT_AVAILABLE.1));
    checks.equal("absent.nqap.operand", got.operand, [FAR, 64]);
    let got = dqap(FIRST_PART | ABSENT, FAR, 64, mask::BITS_64);
    checks.equal("absent.dqap", (got.outcome.executed(), got.status), (Ok(3), NOT_AVAILABLE.1));
}
