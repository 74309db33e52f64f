//! Adapters, domains and the whole device unplugged and plugged again by an operator, as the guest sees it: a machine check, a
//! channel report, event information, and queues that are gone or empty.
//!
//! A line `ask WORDS` has whoever runs the program give `WORDS` to `adjunct ctl`.
#![no_std]
#![no_main]

use programs::ap::{
    ACCELERATOR, CCA, DOMAINS, EP11, FIRST_PART, LAST_PART, Status, apqn, code, dqap, function, nqap, pqap,
    present, receive, send, status,
};
use programs::machine::{bytes, control_registers, load_word, set_cr14, store, until};
use programs::message::{is_answered, request};
use programs::{Checks, Taken, encode, mask, program, sclp, step, wait};

program!("ap_plug", main);

const AREA: u64 = programs::FREE + 0x10000;
const MESSAGE: u64 = programs::FREE + 0x12000;
const REPLY: u64 = programs::FREE + 0x20000;
const NIB: u64 = programs::FREE + 0x30000;
/// The subclass mask of channel reports, bit 35 of control register 14.
const CHANNEL_REPORTS: u64 = 1 << 28;
/// Bit 9 of a machine-check code: a channel report is pending.
const REPORT_PENDING: u64 = 1 << 54;
/// A report of the channel subsystem itself: there is event information.
const EVENT: u32 = 0x0b00_0000;
const ENABLE: u64 = 1 << 47;
const NEIGHBOUR: u64 = apqn(6, 0x47);
const MDEV: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";

fn main(checks: &mut Checks) {
    if let Err(taken) = present() {
        checks.equal("present.operation-exception", taken, Taken::Program(1, 4));
        return checks.none("ap_plug", "PQAP is not installed");
    }
    set_cr14(control_registers()[14] | CHANNEL_REPORTS);
    checks.equal("before.adapters", adapters(), [5, 6, 10]);
    checks.equal("before.event", event(), Err(5));

    adapter(checks);
    domain(checks);
    host(checks);
    device(checks);
}

/// Asks the operator, and checks everything by which the guest hears of what was done.
fn ask(checks: &mut Checks, name: &str, words: core::fmt::Arguments<'_>) {
    sclp::print(format_args!("ask {words}\n"));
    // The operator may take longer than one wait.
    let taken =
        (0..12).map(|_| wait(mask::MACHINE_CHECK, 0, 0)).find(|taken| *taken != Taken::External(0x1004, 0));
    let reported = matches!(taken, Some(Taken::MachineCheck(code)) if code & REPORT_PENDING != 0);
    checks.holds(format_args!("{name}.machine-check"), reported);
    checks.equal(format_args!("{name}.report"), report(), (Ok(0), EVENT));
    checks.equal(format_args!("{name}.report.last"), report(), (Ok(1), 0));
    checks.equal(format_args!("{name}.event"), event(), Ok((5, 3)));
    checks.equal(format_args!("{name}.event.last"), event(), Err(5));
}

/// STORE CHANNEL REPORT WORD.
fn report() -> (Result<u8, Taken>, u32) {
    store(AREA, u64::MAX);
    let mut gr = [0; 16];
    gr[2] = AREA;
    (step(encode::s(0xb239, 0, 2), &mut gr).executed(), load_word(AREA))
}

/// CHSC store event information: reporting source and content code, or the response code.
fn event() -> Result<(u8, u8), u16> {
    let block = bytes(AREA, 4096);
    block.fill(0);
    block[..4].copy_from_slice(&[0, 16, 0, 0x0e]);
    let mut gr = [0; 16];
    gr[2] = AREA;
    if step(encode::rre(0xb25f, 2, 0), &mut gr).executed() != Ok(0) {
        return Err(0);
    }
    match u16::from_be_bytes([block[18], block[19]]) {
        1 => Ok((block[16 + 10], block[16 + 11])),
        code => Err(code),
    }
}

/// The first three adapters of QCI's mask, 256 for none.
fn adapters() -> [u64; 3] {
    first_of_mask(0x10)
}

fn domains() -> [u64; 3] {
    first_of_mask(0x30)
}

fn first_of_mask(at: usize) -> [u64; 3] {
    let block = bytes(AREA, 128);
    block.fill(0);
    let _ = pqap(function::QCI << 24, 0, AREA);
    let mut found = [256; 3];
    let mut bits = (0..256u64).filter(|bit| block[at + *bit as usize / 8] & 0x80 >> (bit % 8) != 0);
    found.iter_mut().for_each(|place| *place = bits.next().unwrap_or(256));
    found
}

/// Whether a queue answers a request.
fn works(queue: u64) -> bool {
    let length = request(queue, MESSAGE);
    send(queue, 77, MESSAGE, length) == 0
        && receive(queue, REPLY)
            .is_some_and(|(psmid, length)| psmid == 77 && is_answered(queue, bytes(REPLY, length)))
}

/// That a queue is not there for any instruction.
fn is_gone(checks: &mut Checks, name: &str, queue: u64) {
    let codes = [function::TAPQ, function::RAPQ, function::ZAPQ, function::AQIC]
        .map(|code| function(code, queue, 0, 0).map(|(cc, status)| (cc, status.code())));
    checks.equal(format_args!("{name}.gone"), codes, [Ok((3, 1)); 4]);
    let sent = nqap(LAST_PART | queue, 1, MESSAGE, 64, mask::BITS_64);
    let got = dqap(FIRST_PART | queue, REPLY, 0x3000, mask::BITS_64);
    checks.equal(format_args!("{name}.gone.transfers"), (sent.status.code(), got.status.code()), (1, 1));
}

/// An adapter goes with requests on their way, a reply waiting and interruptions enabled, and comes back without any of it.
fn adapter(checks: &mut Checks) {
    let length = request(ACCELERATOR, MESSAGE);
    let enabled = function(function::AQIC, ACCELERATOR, ENABLE | 3, NIB).map(|(cc, _)| cc);
    checks.equal("adapter.enabled", enabled, Ok(0));
    let sent = [1, 2, 3].map(|psmid| send(ACCELERATOR, psmid, MESSAGE, length));
    checks.equal("adapter.sent", sent, [0; 3]);
    ask(checks, "adapter.unplug", format_args!("x-ap-unassign-adapter adapter=6"));
    checks.equal("adapter.unplug.adapters", adapters(), [5, 10, 256]);
    is_gone(checks, "adapter.unplug", ACCELERATOR);
    is_gone(checks, "adapter.unplug.neighbour", NEIGHBOUR);
    checks.holds("adapter.unplug.others", works(CCA) && works(EP11));

    ask(checks, "adapter.plug", format_args!("x-ap-assign-adapter adapter=6"));
    checks.equal("adapter.plug.adapters", adapters(), [5, 6, 10]);
    // Empty, and interruptions are off.
    checks.holds("adapter.plug.ready", until(|| code(ACCELERATOR) == 0));
    checks.equal("adapter.plug.status", status(ACCELERATOR), Status(Status::EMPTY));
    checks.holds("adapter.plug.works", works(ACCELERATOR) && works(NEIGHBOUR));
    checks.equal("adapter.plug.alone", status(ACCELERATOR), Status(Status::EMPTY));
}

/// A domain goes from all adapters at once.
fn domain(checks: &mut Checks) {
    ask(checks, "domain.unplug", format_args!("x-ap-unassign-domain domain=4"));
    checks.equal("domain.unplug.domains", domains(), [0x47, 256, 256]);
    is_gone(checks, "domain.unplug", CCA);
    is_gone(checks, "domain.unplug.ep11", EP11);
    checks.holds("domain.unplug.others", works(NEIGHBOUR));
    ask(checks, "domain.plug", format_args!("x-ap-assign-domain domain=4"));
    checks.equal("domain.plug.domains", domains(), [DOMAINS[0], DOMAINS[1], 256]);
    checks.holds("domain.plug.ready", until(|| code(CCA) == 0 && code(EP11) == 0));
    checks.holds("domain.plug.works", works(CCA) && works(EP11));
}

/// One queue is unbound from vfio_ap on the host: its whole adapter leaves the guest.
fn host(checks: &mut Checks) {
    ask(checks, "unbind", format_args!("x-ap-unbind queue=06.0047"));
    checks.equal("unbind.adapters", adapters(), [5, 10, 256]);
    is_gone(checks, "unbind", ACCELERATOR);
    ask(checks, "bind", format_args!("x-ap-bind queue=06.0047 driver=vfio_ap"));
    checks.equal("bind.adapters", adapters(), [5, 6, 10]);
    checks.holds("bind.ready", until(|| code(ACCELERATOR) == 0 && code(NEIGHBOUR) == 0));
    checks.holds("bind.works", works(ACCELERATOR) && works(NEIGHBOUR));
}

/// The device itself.
fn device(checks: &mut Checks) {
    ask(checks, "device.unplug", format_args!("device_del id=ap0"));
    checks.equal("device.unplug.adapters", adapters(), [256; 3]);
    for (name, queue) in [("cca", CCA), ("accelerator", ACCELERATOR), ("ep11", EP11)] {
        is_gone(checks, name, queue);
    }
    ask(checks, "device.plug", format_args!("device_add driver=vfio-ap id=ap0 sysfsdev={MDEV}"));
    checks.equal("device.plug.adapters", adapters(), [5, 6, 10]);
    checks
        .holds("device.plug.ready", until(|| [CCA, ACCELERATOR, EP11].iter().all(|queue| code(*queue) == 0)));
    checks.holds("device.plug.works", works(CCA) && works(ACCELERATOR) && works(EP11));
}
