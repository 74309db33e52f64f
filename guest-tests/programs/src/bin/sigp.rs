//! SIGNAL PROCESSOR between two CPUs.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use programs::cpus::{self, PREFIX_1, order, sigp, sigp_when_ready};
use programs::machine::{bytes, cr0, load, load_word, set_cr0, until, within};
use programs::{Checks, Taken, encode, mask, program, step, step_with, wait};

program!("sigp", main);

/// What CPU 1 found, and how far it is.
static SEEN: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// How often CPU 1 has gone through its last loop.
static ROUNDS: AtomicU64 = AtomicU64::new(0);
static PHASE: AtomicU64 = AtomicU64::new(0);

const STOPPED: (u8, u32) = (1, 0x40);
const INVALID_PARAMETER: (u8, u32) = (1, 0x100);
const INCORRECT_STATE: (u8, u32) = (1, 0x200);
const INVALID_ORDER: (u8, u32) = (1, 2);
const STATUS: u64 = programs::FREE + 0x10000;

fn main(checks: &mut Checks) {
    let sense = || sigp(1, order::SENSE, 0);
    checks.equal("sense.stopped", sense(), Ok(STOPPED));
    checks.equal("sense.self", sigp(0, order::SENSE, 0), Ok((0, 0)));
    checks.equal("not-operational", sigp(2, order::SENSE, 0), Ok((3, 0)));
    checks.equal("not-operational.high", sigp(0xffff, order::SENSE, 0), Ok((3, 0)));
    checks.equal("order.0", sigp(1, 0, 0), Ok(INVALID_ORDER));
    checks.equal("order.ff", sigp(1, 0xff, 0), Ok(INVALID_ORDER));
    checks.equal("set-prefix.outside", sigp(1, order::SET_PREFIX, 0x7ff0_0000), Ok(INVALID_PARAMETER));
    checks.equal("set-prefix.self", sigp(0, order::SET_PREFIX, PREFIX_1), Ok(INCORRECT_STATE));
    let architecture = sigp(1, order::SET_ARCHITECTURE, 1);
    checks.holds("set-architecture.already", matches!(architecture, Ok((1, 0x100 | 0x200))));

    checks.holds("start", cpus::start(second));
    checks.holds("start.runs", until(|| PHASE.load(SeqCst) == 1));
    checks.equal("sense.running", sense(), Ok((0, 0)));
    checks.equal("running.prefix", SEEN[0].load(SeqCst), PREFIX_1);
    checks.equal("running.address", SEEN[1].load(SeqCst), 1);
    checks.equal("set-prefix.running", sigp(1, order::SET_PREFIX, PREFIX_1), Ok(INCORRECT_STATE));
    let stored = sigp(1, order::STORE_STATUS_AT_ADDRESS, STATUS);
    checks.equal("store-status.running", stored, Ok(INCORRECT_STATE));

    // Signals to CPU 1, which is disabled, and to this one.
    checks.equal("external-call", sigp(1, order::EXTERNAL_CALL, 0), Ok((0, 0)));
    checks.equal("external-call.pending", sigp(1, order::EXTERNAL_CALL, 0), Ok((1, 0x80)));
    checks.equal("sense.pending", sense(), Ok((1, 0x80)));
    checks.equal("emergency", sigp(1, order::EMERGENCY_SIGNAL, 0), Ok((0, 0)));
    checks.equal("emergency.pending", sigp(1, order::EMERGENCY_SIGNAL, 0), Ok((0, 0)));
    PHASE.store(2, SeqCst);
    checks.holds("signals", until(|| PHASE.load(SeqCst) == 3));
    checks.equal("signals.first", SEEN[2].load(SeqCst), 0x1201_0000);
    checks.equal("signals.second", SEEN[3].load(SeqCst), 0x1202_0000);
    // CPU 1 signals back.
    PHASE.store(4, SeqCst);
    let taken = wait(0, cr0::EMERGENCY, 0);
    checks.equal("signal-back", taken, Taken::External(0x1201, 1));

    checks.holds("counts", counts());
    checks.equal("stop", sigp_when_ready(1, order::STOP, 0), Ok((0, 0)));
    checks.holds("stop.stopped", cpus::until_stopped());
    checks.equal("start-again", sigp_when_ready(1, order::START, 0), Ok((0, 0)));
    checks.holds("start.goes-on", counts());

    bytes(STATUS, 512).fill(0xee);
    let status = sigp_when_ready(1, order::STOP_AND_STORE_STATUS, 0);
    checks.equal("stop-and-store-status", status, Ok((0, 0)));
    checks.holds("stop-and-store-status.stopped", cpus::until_stopped());
    // At absolute 1200: FPRs, then from 1280 GRs, PSW, prefix, FPC, … ; CPU 1 keeps a mark in register 7.
    checks.equal("status.gr7", load(0x1280 + 7 * 8), MARK);
    checks.equal("status.prefix", load_word(0x1318), PREFIX_1 as u32);
    let stored = sigp_when_ready(1, order::STORE_STATUS_AT_ADDRESS, STATUS);
    checks.equal("store-status", stored, Ok((0, 0)));
    until_stored(PREFIX_1 as u32);
    checks.equal("store-status.gr7", load(STATUS + 0x80 + 7 * 8), MARK);
    checks.equal("store-status.prefix", load_word(STATUS + 0x118), PREFIX_1 as u32);
    let stored = sigp_when_ready(1, order::STORE_STATUS_AT_ADDRESS, 0x7ff0_0000);
    checks.equal("store-status.outside", stored, Ok(INVALID_PARAMETER));

    checks.equal("initial-reset", sigp_when_ready(1, order::INITIAL_CPU_RESET, 0), Ok((0, 0)));
    checks.equal("initial-reset.stopped", sense(), Ok(STOPPED));
    let stored = sigp_when_ready(1, order::STORE_STATUS_AT_ADDRESS, STATUS);
    checks.equal("initial-reset.status", stored, Ok((0, 0)));
    until_stored(0);
    checks.equal("initial-reset.prefix", load_word(STATUS + 0x118), 0);
    checks.equal("initial-reset.cr0", load(STATUS + 0x180), 0xe0);
    checks.equal("initial-reset.cr14", load(STATUS + 0x180 + 14 * 8), 0xc200_0000);
    checks.equal("initial-reset.gr7", load(STATUS + 0x80 + 7 * 8), MARK);
    PHASE.store(0, SeqCst);
    checks.holds("second-life", cpus::start(second));
    checks.holds("second-life.runs", until(|| PHASE.load(SeqCst) == 1));
    let _ = sigp_when_ready(1, order::STOP, 0);
    checks.holds("second-life.stops", cpus::until_stopped());

    let mut gr = [0; 16];
    let outcome = step_with(encode::rs(0xae, 2, 4, 1, 0), &mut gr, mask::BITS_64 | mask::PROBLEM);
    checks.equal("problem-state", outcome.taken, Taken::Program(2, 4));
}

/// Waits for the status at STATUS, whose last part is this prefix: an emulator's CPU may have to wait for a processor before it
/// gets to an order that was accepted.
fn until_stored(prefix: u32) {
    until(|| load_word(STATUS + 0x118) == prefix);
}

/// Whether CPU 1 goes on with its loop.
fn counts() -> bool {
    let before = ROUNDS.load(SeqCst);
    within(20, || ROUNDS.load(SeqCst) > before)
}

const MARK: u64 = 0x0123_4567_89ab_cdef;

/// CPU 1.
extern "C" fn second() {
    cpus::started();
    let mut gr = [0; 16];
    gr[1] = programs::FREE + 0x11000;
    step(encode::s(0xb211, 0, 1), &mut gr);
    step(encode::s(0xb212, 8, 1), &mut gr);
    SEEN[0].store(load(gr[1]) >> 32, SeqCst);
    SEEN[1].store(load(gr[1] + 8) >> 48, SeqCst);
    PHASE.store(1, SeqCst);
    while PHASE.load(SeqCst) != 2 {
        core::hint::spin_loop();
    }
    set_cr0(cr0::AFP | cr0::EMERGENCY | cr0::EXTERNAL_CALL);
    for seen in &SEEN[2..] {
        if let Taken::External(code, cpu) =
            step_with(0x0700 << 48, &mut [0; 16], mask::BITS_64 | mask::EXTERNAL).taken
        {
            seen.store(u64::from(code) << 16 | u64::from(cpu), SeqCst);
        }
    }
    PHASE.store(3, SeqCst);
    while PHASE.load(SeqCst) != 4 {
        core::hint::spin_loop();
    }
    let _ = sigp(0, order::EMERGENCY_SIGNAL, 0);
    cpus::count(&ROUNDS, MARK)
}
