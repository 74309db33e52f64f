//! Interruptions: every kind, what it says about itself, what it leaves of the instruction, masks and priorities.
#![no_std]
#![no_main]

use programs::cpus::{order, sigp};
use programs::machine::{self, cr0, load, load_word, lowcore, set_cr0, set_cr8, store};
use programs::{Checks, Taken, encode, mask, program, step, step_with};

program!("interruptions", main);

/// Free storage for operands and targets of EXECUTE.
const AREA: u64 = programs::FREE + 0x10000;
const FAR: u64 = 1 << 45;

fn main(checks: &mut Checks) {
    program_interruptions(checks);
    privileged(checks);
    specification(checks);
    svc(checks);
    monitor(checks);
    external(checks);
    restart(checks);
    condition_codes(checks);
}

fn program_interruptions(checks: &mut Checks) {
    const LONG: u64 = mask::BITS_64;
    store(AREA, 0x1122_3344_5566_7788);
    // EXECUTE of an EXECUTE.
    store(AREA + 0x100, encode::rs(0x44, 0, 0, 0, 1));
    #[rustfmt::skip]
    let rows = [
        ("operation.2", 0, LONG, 1, 2),
        ("operation.4", encode::rre(0xb2ff, 0, 0), LONG, 1, 4),
        ("operation.6", encode::rxy(0xe3ff, 0, 0, 0, 0), LONG, 1, 6),
        ("execute", encode::rs(0x44, 0, 0, 0x100, 1), LONG, 3, 4),
        ("protection", encode::rxy(0xe324, 2, 0, 0, 1), LONG | mask::key(1), 4, 6),
        ("addressing.fetch", encode::rxy(0xe304, 2, 0, 0, 3), LONG, 5, 6),
        ("addressing.store", encode::rs(0x50, 2, 0, 0, 3), LONG, 5, 4),
        ("specification.register", encode::rr(0x1d, 3, 2), LONG, 6, 2),
        ("specification.operand", encode::rs(0xba, 2, 4, 1, 1), LONG, 6, 4),
        ("specification.execute", encode::rs(0x44, 0, 0, 0x101, 1), LONG, 6, 4),
        ("data", encode::rs(0x4f, 2, 0, 0, 1), LONG, 7, 4),
        ("fixed-overflow", encode::rr(0x1a, 5, 6), LONG | mask::FIXED_OVERFLOW, 8, 2),
        ("fixed-divide.zero", encode::rr(0x1d, 2, 4), LONG, 9, 2),
        ("fixed-divide.large", encode::rr(0x1d, 6, 8), LONG, 9, 2),
        ("special-operation.sac", encode::s(0xb219, 0, 0), LONG, 0x13, 4),
        ("special-operation.iac", encode::rre(0xb224, 0, 0), LONG, 0x13, 4),
    ];
    for (name, instruction, mask, code, length) in rows {
        let mut gr = [0; 16];
        (gr[1], gr[3], gr[5], gr[6], gr[8]) = (AREA, FAR, 0x7fff_ffff, 0x7fff_ffff, 1);
        let outcome = step_with(instruction, &mut gr, mask);
        checks.equal(name, outcome.taken, Taken::Program(code, length));
        checks.equal(format_args!("{name}.address"), outcome.moved, length.into());
    }
    checks.equal("suppressed", load(AREA), 0x1122_3344_5566_7788);
    // Completion: the sum is there, with condition code 3.
    let mut gr = [0; 16];
    (gr[5], gr[6]) = (0x7fff_ffff, 1);
    let outcome = step_with(encode::rr(0x1a, 5, 6), &mut gr, mask::BITS_64 | mask::FIXED_OVERFLOW);
    checks.equal("completed", (outcome.cc, gr[5]), (3, 0x8000_0000));
    let outcome = step(encode::rr(0x1a, 5, 6), &mut gr);
    checks.equal("no-overflow", (outcome.executed(), gr[5]), (Ok(1), 0x8000_0001));
    let mut gr = [0x7fff_ffff; 16];
    checks.equal("overflow-masked", step(encode::rr(0x1a, 5, 6), &mut gr).executed(), Ok(3));
}

/// Instructions of the supervisor state, executed in the problem state.
fn privileged(checks: &mut Checks) {
    let rows = [
        ("LPSWE", encode::s(0xb2b2, 0, 1)),
        ("SSM", encode::si(0x80, 0, 1, 0)),
        ("STOSM", encode::si(0xad, 0, 1, 1)),
        ("STNSM", encode::si(0xac, 0, 1, 0xff)),
        ("SPX", encode::s(0xb210, 0, 1)),
        ("STPX", encode::s(0xb211, 0, 1)),
        ("STAP", encode::s(0xb212, 0, 1)),
        ("STIDP", encode::s(0xb202, 0, 1)),
        ("SCKC", encode::s(0xb206, 0, 1)),
        ("STCKC", encode::s(0xb207, 0, 1)),
        ("SPT", encode::s(0xb208, 0, 1)),
        ("STPT", encode::s(0xb209, 0, 1)),
        ("PTLB", encode::s(0xb20d, 0, 0)),
        ("SSKE", encode::rre(0xb22b, 2, 1)),
        ("ISKE", encode::rre(0xb229, 2, 1)),
        ("RRBE", encode::rre(0xb22a, 2, 1)),
        ("IPTE", encode::rre(0xb221, 2, 1)),
        ("LRA", encode::rs(0xb1, 2, 0, 0, 1)),
        ("LCTLG", encode::rxy(0xeb2f, 6, 6, 0, 1)),
        ("STCTG", encode::rxy(0xeb25, 6, 6, 0, 1)),
        ("SIGP", encode::rs(0xae, 2, 4, 1, 0)),
        ("DIAG", encode::rs(0x83, 2, 4, 0x44, 0)),
        ("SERVC", encode::rre(0xb220, 2, 1)),
        ("STSCH", encode::s(0xb234, 0, 1)),
        ("TPI", encode::s(0xb236, 0, 1)),
        ("STCRW", encode::s(0xb239, 0, 1)),
        ("CHSC", encode::rre(0xb25f, 1, 0)),
        ("STSI", encode::s(0xb27d, 0, 1)),
        ("STFL", encode::s(0xb2b1, 0, 0)),
        ("LURAG", encode::rre(0xb905, 2, 1)),
        ("STURG", encode::rre(0xb925, 2, 1)),
    ];
    for (name, instruction) in rows {
        let mut gr = [0; 16];
        gr[1] = AREA;
        let outcome = step_with(instruction, &mut gr, mask::BITS_64 | mask::PROBLEM);
        checks.equal(
            format_args!("privileged.{name}"),
            outcome.taken,
            Taken::Program(2, (instruction_length(instruction)) as u8),
        );
    }
}

fn instruction_length(instruction: u64) -> u64 {
    if instruction >> 62 == 3 { 6 } else { 4 }
}

/// PSWs that are invalid when they have been loaded.
fn specification(checks: &mut Checks) {
    for (name, mask, address) in [
        ("bit-0", 1 << 63 | mask::BITS_64, AREA),
        ("bit-12", 1 << 51 | mask::BITS_64, AREA),
        ("mode", 1 << 32, AREA),
        ("address-31", mask::BITS_31, 1 << 32),
        ("odd", mask::BITS_64, AREA + 1),
    ] {
        programs::machine::store_all(AREA, &[mask, address]);
        let mut gr = [0; 16];
        gr[1] = AREA;
        let code = match step(encode::s(0xb2b2, 0, 1), &mut gr).taken {
            Taken::Program(code, _) => code,
            _ => 0,
        };
        checks.equal(format_args!("psw.{name}"), code, 6);
        // An odd address is found when an instruction is fetched from it, the others before.
        if name != "odd" {
            checks.equal(format_args!("psw.{name}.old"), (load(0x150), load(0x158)), (mask, address));
        }
    }
}

fn svc(checks: &mut Checks) {
    let mut gr = [0; 16];
    let outcome = step(0x0a05 << 48, &mut gr);
    checks.equal("svc", (outcome.taken, outcome.moved), (Taken::Svc(5, 2), 2));
    store(AREA, 0x0a06 << 48);
    gr[1] = AREA;
    let outcome = step(encode::rs(0x44, 0, 0, 0, 1), &mut gr);
    checks.equal("svc.execute", (outcome.taken, outcome.moved), (Taken::Svc(6, 4), 4));
    gr[2] = 0x30;
    let outcome = step(encode::rs(0x44, 2, 0, 0, 1), &mut gr);
    checks.equal("svc.execute.modified", outcome.taken, Taken::Svc(0x36, 4));
}

fn monitor(checks: &mut Checks) {
    // MONITOR CALL of class 3.
    let instruction = encode::si(0xaf, 0x123, 1, 3);
    let mut gr = [0; 16];
    gr[1] = AREA;
    set_cr8(0);
    checks.equal("monitor.masked", step(instruction, &mut gr).taken, Taken::Nothing);
    set_cr8(1 << (15 - 3));
    let outcome = step(instruction, &mut gr);
    checks.equal("monitor", (outcome.taken, outcome.moved), (Taken::Program(0x40, 4), 4));
    checks.equal("monitor.class", load_word(lowcore::MONITOR_CLASS) >> 16, 3);
    checks.equal("monitor.code", load(lowcore::MONITOR_CODE), AREA + 0x123);
    let instruction = encode::si(0xaf, 0x123, 1, 0x13);
    checks.equal("monitor.invalid", step(instruction, &mut gr).taken, Taken::Program(6, 4));
    set_cr8(0);
}

fn external(checks: &mut Checks) {
    const NOP: u64 = 0x4700_0000 << 32;
    const ENABLED: u64 = mask::BITS_64 | mask::EXTERNAL;
    let both = cr0::EMERGENCY | cr0::EXTERNAL_CALL;
    let before = machine::control_registers()[0];
    let mut gr = [0; 16];
    let sent = [order::EXTERNAL_CALL, order::EMERGENCY_SIGNAL].map(|order| sigp(0, order, 0));
    checks.equal("external.sent", sent, [Ok((0, 0)); 2]);
    checks.equal("external.pending-already", sigp(0, order::EXTERNAL_CALL, 0), Ok((1, 0x80)));
    set_cr0(before & !both);
    checks.equal("external.subclass-off", step_with(NOP, &mut gr, ENABLED).taken, Taken::Nothing);
    set_cr0(before | both);
    checks.equal("external.disabled", step(NOP, &mut gr).taken, Taken::Nothing);
    // Emergency signal comes first; no instruction was executed.
    let outcome = step_with(NOP, &mut gr, ENABLED);
    checks.equal("external.emergency", (outcome.taken, outcome.moved), (Taken::External(0x1201, 0), 0));
    // STOSM enables; the interruption comes after it.
    gr[1] = AREA;
    let outcome = step(encode::si(0xad, 0, 1, 1), &mut gr);
    checks.equal("external.call", (outcome.taken, outcome.moved), (Taken::External(0x1202, 0), 4));
    checks.equal("external.once", step_with(NOP, &mut gr, ENABLED).taken, Taken::Nothing);
    set_cr0(before);
}

fn restart(checks: &mut Checks) {
    let mut gr = [0; 16];
    let outcome = step(encode::rs(0xae, 2, 4, order::RESTART, 0), &mut gr);
    checks.equal("restart", (outcome.taken, outcome.moved), (Taken::Restart, 4));
}

fn condition_codes(checks: &mut Checks) {
    for cc in 0..4 {
        let outcome = step_with(0x0700 << 48, &mut [0; 16], mask::BITS_64 | mask::condition_code(cc));
        checks.equal(format_args!("old-psw.cc{cc}"), outcome.executed(), Ok(cc as u8));
    }
}
