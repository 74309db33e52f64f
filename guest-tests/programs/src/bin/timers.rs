//! Clocks and timers: STCK and its kin, clock comparator, CPU timer.
#![no_std]
#![no_main]

use programs::machine::{
    self, SECOND, control_registers, cr0, load, set_clock_comparator, set_cpu_timer, set_cr0, store, tod,
};
use programs::{Checks, Taken, encode, mask, program, step, step_with, wait};

program!("timers", main);

const AREA: u64 = programs::FREE + 0x10000;
/// Some microseconds.
const MOMENT: u64 = SECOND / 50_000;
const NOP: u64 = 0x4700_0000 << 32;
const ENABLED: u64 = mask::BITS_64 | mask::EXTERNAL;
const COMPARATOR: Taken = Taken::External(0x1004, 0);
const TIMER: Taken = Taken::External(0x1005, 0);

fn main(checks: &mut Checks) {
    clock(checks);
    comparator(checks);
    timer(checks);
    bad_operands(checks);
}

/// Executes an S instruction with its operand at AREA + `offset`.
fn s(opcode: u64, offset: u64) -> Result<u8, Taken> {
    let mut gr = [0; 16];
    gr[1] = AREA;
    step(encode::s(opcode, offset, 1), &mut gr).executed()
}

fn clock(checks: &mut Checks) {
    let mut rising = true;
    let mut last = 0;
    for _ in 0..1000 {
        rising &= s(0xb205, 0) == Ok(0) && load(AREA) > last;
        last = load(AREA);
    }
    checks.holds("stck.unique", rising);
    let before = tod();
    checks.equal("stckf", s(0xb27c, 0), Ok(0));
    let between = load(AREA);
    checks.holds("stckf.between", (before..=tod()).contains(&between));
    // Bytes 1 to 8 are the clock's, the last two the programmable field.
    let mut gr = [0; 16];
    gr[0] = 0xabcd;
    checks.equal("sckpf", step(0x0107 << 48, &mut gr).taken, Taken::Nothing);
    let before = tod();
    checks.equal("stcke", s(0xb278, 0x10), Ok(0));
    let (high, low) = (load(AREA + 0x10), load(AREA + 0x18));
    checks.holds("stcke.between", (before..=tod()).contains(&(high << 8 | low >> 56)));
    checks.equal("stcke.epoch", high >> 56, 0);
    checks.equal("stcke.programmable", low & 0xffff, 0xabcd);
    // PTFF of function 0: which functions there are, itself among them.
    gr[0] = 0;
    gr[1] = AREA + 0x40;
    if machine::facility(28) {
        checks.equal("ptff", step(0x0104 << 48, &mut gr).executed(), Ok(0));
        checks.equal("ptff.query", load(AREA + 0x40) >> 63, 1);
    } else {
        checks.none("ptff", "facility 28 is not installed");
    }
}

fn comparator(checks: &mut Checks) {
    store(AREA, 0x1234_5678_9abc_0000);
    checks.equal("sckc", s(0xb206, 0), Ok(0));
    let stored = s(0xb207, 8);
    checks.equal("stckc", (stored, load(AREA + 8)), (Ok(0), 0x1234_5678_9abc_0000));
    let before = control_registers()[0];
    let mut gr = [0; 16];
    // Past: pending for as long as that is so, whether or not it was taken.
    set_clock_comparator(tod() - MOMENT);
    set_cr0(before & !cr0::CLOCK_COMPARATOR);
    checks.equal("comparator.subclass-off", step_with(NOP, &mut gr, ENABLED).taken, Taken::Nothing);
    set_cr0(before | cr0::CLOCK_COMPARATOR);
    checks.equal("comparator.disabled", step(NOP, &mut gr).taken, Taken::Nothing);
    checks.holds("comparator", comes(COMPARATOR));
    checks.holds("comparator.again", comes(COMPARATOR));
    set_clock_comparator(u64::MAX);
    checks.equal("comparator.gone", step_with(NOP, &mut gr, ENABLED).taken, Taken::Nothing);
    // Not pending before its time, in a wait when it comes.
    let at = tod() + SECOND / 50;
    set_clock_comparator(at);
    checks.equal("comparator.wait", wait(0, cr0::CLOCK_COMPARATOR, 0), COMPARATOR);
    checks.holds("comparator.wait.time", tod() >= at);
    // In a loop: BRCT to itself, which is interrupted.
    set_clock_comparator(tod() + SECOND / 50);
    gr[2] = u64::MAX;
    let outcome = step_with(encode::ri(0xa77, 2, 0), &mut gr, ENABLED);
    checks.equal("comparator.loop", (outcome.taken, outcome.moved), (COMPARATOR, 0));
    set_clock_comparator(u64::MAX);
    set_cr0(before);
}

fn timer(checks: &mut Checks) {
    store(AREA, 1 << 60);
    checks.equal("spt", s(0xb208, 0), Ok(0));
    checks.equal("stpt", s(0xb209, 8), Ok(0));
    let first = load(AREA + 8);
    checks.holds("stpt.counts", first < 1 << 60 && first > (1 << 60) - 60 * SECOND);
    let _ = s(0xb209, 8);
    checks.holds("stpt.down", load(AREA + 8) < first);
    let before = control_registers()[0];
    let mut gr = [0; 16];
    set_cpu_timer(MOMENT);
    set_cr0(before | cr0::CPU_TIMER);
    let deadline = tod() + 2 * MOMENT;
    machine::until(|| tod() > deadline);
    checks.equal("timer.disabled", step(NOP, &mut gr).taken, Taken::Nothing);
    checks.holds("timer", comes(TIMER));
    checks.holds("timer.again", comes(TIMER));
    // The clock comparator has priority.
    set_cpu_timer(MOMENT);
    set_clock_comparator(tod() + MOMENT);
    set_cr0(before | cr0::CPU_TIMER | cr0::CLOCK_COMPARATOR);
    // An emulator makes them pending in a thread of its own, which may have to wait for a processor.
    let deadline = tod() + SECOND;
    machine::until(|| tod() > deadline);
    let first = step_with(NOP, &mut gr, ENABLED).taken;
    checks.equal("timer.priority", first, COMPARATOR);
    set_clock_comparator(u64::MAX);
    set_cpu_timer(1 << 60);
    checks.equal("timer.gone", step_with(NOP, &mut gr, ENABLED).taken, Taken::Nothing);
    set_cpu_timer(SECOND / 50);
    checks.equal("timer.wait", wait(0, cr0::CPU_TIMER, 0), TIMER);
    let _ = s(0xb209, 8);
    checks.holds("timer.negative", load(AREA + 8) as i64 <= 0);
    set_cpu_timer(1 << 60);
    set_cr0(before);
}

/// Whether this is the next interruption. An emulator may need a moment to make it pending.
fn comes(what: Taken) -> bool {
    let mut taken = Taken::Nothing;
    machine::within(10, || {
        taken = step_with(NOP, &mut [0; 16], ENABLED).taken;
        taken != Taken::Nothing
    });
    taken == what
}

fn bad_operands(checks: &mut Checks) {
    for (name, opcode) in [("sckc", 0xb206), ("stckc", 0xb207), ("spt", 0xb208), ("stpt", 0xb209)] {
        checks.equal(format_args!("{name}.unaligned"), s(opcode, 4), Err(Taken::Program(6, 4)));
    }
    let mut gr = [0; 16];
    gr[0] = 0x1_0000;
    checks.equal("sckpf.reserved", step(0x0107 << 48, &mut gr).taken, Taken::Program(6, 2));
}
