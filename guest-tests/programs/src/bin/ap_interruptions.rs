//! AP interruptions: enabling, disabling, bad addresses, delivery on each interruption subclass.
#![no_std]
#![no_main]

use programs::ap::{ACCELERATOR, CCA, EP11, Status, apqn, function, present, receive, reset, send, status};
use programs::machine::{bytes, control_registers, set_cr6, until};
use programs::message::request;
use programs::{Checks, Taken, mask, program, step_with, wait};

program!("ap_interruptions", main);

const MESSAGE: u64 = programs::FREE + 0x10000;
const REPLY: u64 = programs::FREE + 0x20000;
const NIB: u64 = programs::FREE + 0x30000;
/// General register 1 of AQIC: enable.
const ENABLE: u64 = 1 << 47;
const NOP: u64 = 0x4700_0000 << 32;

fn main(checks: &mut Checks) {
    if let Err(taken) = present() {
        checks.equal("present.operation-exception", taken, Taken::Program(1, 4));
        return checks.none("ap_interruptions", "PQAP is not installed");
    }
    addresses(checks);
    for (name, queue) in [("cca", CCA), ("accelerator", ACCELERATOR), ("ep11", EP11)] {
        for isc in 0..8 {
            delivery(checks, name, queue, isc);
        }
    }
    states(checks);
    masks(checks);
    late(checks);
}

/// AQIC: condition code and response code.
fn aqic(queue: u64, gr1: u64, nib: u64) -> Result<(u8, u8), Taken> {
    function(function::AQIC, queue, gr1, nib).map(|(cc, status)| (cc, status.code()))
}

/// Enables interruptions and waits until they are.
fn enable(queue: u64, isc: u64, nib: u64) -> bool {
    aqic(queue, ENABLE | isc, nib) == Ok((0, 0)) && until(|| status(queue).is(Status::INTERRUPTIONS))
}

fn adapter(isc: u64) -> Taken {
    Taken::Io(0, 0, 0x8000_0000 | (isc as u32) << 27)
}

fn addresses(checks: &mut Checks) {
    checks.holds("reset", reset(function::RAPQ, CCA));
    for (name, nib) in [("zero", 0), ("end", 64 << 20), ("far", 1 << 45), ("last", u64::MAX)] {
        checks.equal(format_args!("address.{name}"), aqic(CCA, ENABLE, nib), Ok((3, 6)));
    }
    checks.equal("address.not-enabled", status(CCA), Status(Status::EMPTY));
    checks.equal("address.absent-queue", aqic(apqn(5, 5), ENABLE, NIB), Ok((3, 1)));
    // The last byte of storage is one.
    checks.equal("address.last-byte", aqic(CCA, ENABLE, (64 << 20) - 1), Ok((0, 0)));
    checks.holds("address.reset", reset(function::RAPQ, CCA));
}

/// From request to interruption on one subclass: the notification byte, the interruption, once.
fn delivery(checks: &mut Checks, name: &str, queue: u64, isc: u64) {
    checks.holds(format_args!("{name}.isc{isc}.enable"), enable(queue, isc, NIB + isc));
    bytes(NIB, 16).fill(0);
    let length = request(queue, MESSAGE);
    checks.equal(format_args!("{name}.isc{isc}.sent"), send(queue, isc, MESSAGE, length), 0);
    let taken = wait(mask::IO, 0, 0x80 >> isc);
    checks.equal(format_args!("{name}.isc{isc}"), taken, adapter(isc));
    let mut want = [0; 16];
    want[isc as usize] = 1;
    let got: [u8; 16] = core::array::from_fn(|n| u8::from(bytes(NIB, 16)[n] != 0));
    checks.equal(format_args!("{name}.isc{isc}.notification"), got, want);
    checks.equal(
        format_args!("{name}.isc{isc}.reply"),
        receive(queue, REPLY).map(|(psmid, _)| psmid),
        Some(isc),
    );
    checks.equal(format_args!("{name}.isc{isc}.once"), take(0xff), Taken::Nothing);
    checks.equal(format_args!("{name}.isc{isc}.disable"), aqic(queue, 0, 0), Ok((0, 0)));
}

/// What is pending now on these subclasses.
fn take(isc: u8) -> Taken {
    let before = control_registers()[6];
    set_cr6(u64::from(isc) << 24);
    let taken = step_with(NOP, &mut [0; 16], mask::BITS_64 | mask::IO).taken;
    set_cr6(before);
    taken
}

fn states(checks: &mut Checks) {
    checks.holds("state.reset", reset(function::ZAPQ, ACCELERATOR));
    checks.equal("state.disable.before", aqic(ACCELERATOR, 0, 0), Ok((3, 7)));
    checks.holds("state.enable", enable(ACCELERATOR, 3, NIB));
    checks.equal("state.enable.again", aqic(ACCELERATOR, ENABLE | 4, NIB), Ok((3, 7)));
    checks.equal("state.disable", aqic(ACCELERATOR, 0, 0), Ok((0, 0)));
    checks.equal("state.disable.status", status(ACCELERATOR), Status(Status::EMPTY));
    checks.equal("state.disable.again", aqic(ACCELERATOR, 0, 0), Ok((3, 7)));
    // Without interruptions a reply comes silently.
    bytes(NIB, 16).fill(0);
    let length = request(ACCELERATOR, MESSAGE);
    let sent = send(ACCELERATOR, 1, MESSAGE, length);
    let reply = receive(ACCELERATOR, REPLY).map(|(psmid, _)| psmid);
    checks.equal(
        "state.silent",
        (sent, reply, take(0xff), bytes(NIB, 1)[0]),
        (0, Some(1), Taken::Nothing, 0),
    );
    // Resets disable.
    for (name, code) in [("rapq", function::RAPQ), ("zapq", function::ZAPQ)] {
        checks.holds(format_args!("state.{name}.enable"), enable(ACCELERATOR, 3, NIB));
        checks.holds(format_args!("state.{name}"), reset(code, ACCELERATOR));
        checks.equal(format_args!("state.{name}.disabled"), aqic(ACCELERATOR, 0, 0), Ok((3, 7)));
    }
}

/// An interruption of a subclass that is off stays pending; it is one for replies that came together.
fn masks(checks: &mut Checks) {
    checks.holds("mask.enable", enable(ACCELERATOR, 5, NIB));
    let length = request(ACCELERATOR, MESSAGE);
    let sent = [1, 2, 3].map(|psmid| send(ACCELERATOR, psmid, MESSAGE, length));
    checks.equal("mask.sent", sent, [0; 3]);
    checks.holds("mask.notified", until(|| bytes(NIB, 1)[0] != 0));
    checks.equal("mask.other-subclass", take(!(0x80 >> 5)), Taken::Nothing);
    let got = [1, 2, 3].map(|_| receive(ACCELERATOR, REPLY).map(|(psmid, _)| psmid));
    checks.equal("mask.replies", got, [Some(1), Some(2), Some(3)]);
    // Pending although the replies are gone.
    checks.equal("mask.pending", take(0x80 >> 5), adapter(5));
    checks.equal("mask.taken", take(0xff), Taken::Nothing);
    checks.equal("mask.disable", aqic(ACCELERATOR, 0, 0), Ok((0, 0)));
}

/// Enabling with a reply on the queue: its arrival was not reported, so it is now.
fn late(checks: &mut Checks) {
    let length = request(ACCELERATOR, MESSAGE);
    checks.equal("late.sent", send(ACCELERATOR, 9, MESSAGE, length), 0);
    checks.holds("late.arrives", until(|| status(ACCELERATOR).is(Status::REPLIES)));
    checks.holds("late.enable", enable(ACCELERATOR, 2, NIB));
    checks.equal("late.interruption", wait(mask::IO, 0, 0x80 >> 2), adapter(2));
    checks.equal("late.reply", receive(ACCELERATOR, REPLY).map(|(psmid, _)| psmid), Some(9));
    checks.holds("late.reset", reset(function::RAPQ, ACCELERATOR));
}
