//! SERVICE CALL: the machine's description, events, and every bad SCCB.
#![no_std]
#![no_main]

use programs::machine::{control_registers, cr0, set_cr0};
use programs::sclp::{
    READ_CPU_INFO, READ_EVENT_DATA, READ_SCP_INFO, WRITE_EVENT_DATA, WRITE_EVENT_MASK, perform, response,
    sccb, service_call,
};
use programs::{Checks, Taken, encode, mask, program, step_with};

program!("sclp", main);

const SCCB: u64 = programs::FREE + 0x10000;
const UNKNOWN: u32 = 0x00ff_0001;

fn main(checks: &mut Checks) {
    information(checks);
    events(checks);
    bad_blocks(checks);
    interruption(checks);
}

fn half(block: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([block[at], block[at + 1]])
}

fn information(checks: &mut Checks) {
    let block = sccb(SCCB, 4096);
    checks.equal("scp-info", perform(READ_SCP_INFO, SCCB), Ok(0x10));
    // Increments of storage and their size in MiB; 0 means that the longer fields hold them.
    let number = match half(block, 8) {
        0 => u64::from_be_bytes(block[104..112].try_into().unwrap_or_default()),
        number => number.into(),
    };
    let size = match block[10] {
        0 => u32::from_be_bytes(block[100..104].try_into().unwrap_or_default()).into(),
        size => u64::from(size),
    };
    checks.equal("scp-info.storage", number * size, 64);
    let (count, offset) = (half(block, 16), usize::from(half(block, 18)));
    checks.equal("scp-info.cpus", count, 2);
    checks.equal("scp-info.addresses", [block[offset], block[offset + 16]], [0, 1]);
    let block = sccb(SCCB, 4096);
    checks.equal("cpu-info", perform(READ_CPU_INFO, SCCB), Ok(0x10));
    checks.equal("cpu-info.configured", half(block, 8), 2);
    let offset = usize::from(half(block, 10));
    checks.equal("cpu-info.addresses", [block[offset], block[offset + 16]], [0, 1]);
    sccb(SCCB, 32);
    checks.equal("scp-info.short", perform(READ_SCP_INFO, SCCB), Ok(0x300));
}

fn events(checks: &mut Checks) {
    let block = sccb(SCCB, 28);
    block[10..12].copy_from_slice(&4u16.to_be_bytes());
    block[16..20].copy_from_slice(&(1u32 << (32 - 0x1a)).to_be_bytes());
    checks.equal("event-mask", perform(WRITE_EVENT_MASK, SCCB), Ok(0x20));
    checks.holds(
        "event-mask.console",
        u32::from_be_bytes([block[20], block[21], block[22], block[23]]) >> 6 & 1 != 0,
    );
    sccb(SCCB, 4096);
    checks.equal("read-event.none-wanted", perform(READ_EVENT_DATA, SCCB), Ok(0x60f0));
    let block = sccb(SCCB, 16);
    block[8..10].copy_from_slice(&8u16.to_be_bytes());
    block[10] = 0x55;
    checks.equal("write-event.unknown", perform(WRITE_EVENT_DATA, SCCB), Ok(0x40f0));
    // An event buffer longer than the SCCB.
    let block = sccb(SCCB, 16);
    block[8..10].copy_from_slice(&800u16.to_be_bytes());
    block[10] = 0x1a;
    checks.equal("write-event.inconsistent", perform(WRITE_EVENT_DATA, SCCB), Ok(0x73f0));
}

fn bad_blocks(checks: &mut Checks) {
    const SPECIFICATION: Result<u8, Taken> = Err(Taken::Program(6, 4));
    sccb(SCCB, 8);
    checks.equal("unknown", perform(UNKNOWN, SCCB), Ok(0x1f0));
    let crossing = SCCB + 0xff8;
    sccb(crossing, 64);
    checks.equal("crossing", perform(READ_SCP_INFO, crossing), Ok(0x100));
    sccb(SCCB, 7);
    checks.equal("length-7", service_call(READ_SCP_INFO, SCCB), SPECIFICATION);
    sccb(SCCB, 0);
    checks.equal("length-0", service_call(READ_SCP_INFO, SCCB), SPECIFICATION);
    sccb(SCCB, 4096);
    checks.equal("unaligned", service_call(READ_SCP_INFO, SCCB + 4), SPECIFICATION);
    checks.equal("low", service_call(READ_SCP_INFO, 0x1000), SPECIFICATION);
    checks.equal("zero", service_call(READ_SCP_INFO, 0), SPECIFICATION);
    let above = service_call(READ_SCP_INFO, 1 << 31);
    checks.holds("above-2g", matches!(above, Err(Taken::Program(5 | 6, 4))));
    checks.equal("outside", service_call(READ_SCP_INFO, 0x4000_0000), Err(Taken::Program(5, 4)));
    let mut gr = [0; 16];
    (gr[1], gr[2]) = (READ_SCP_INFO.into(), SCCB);
    let outcome = step_with(encode::rre(0xb220, 1, 2), &mut gr, mask::BITS_64 | mask::PROBLEM);
    checks.equal("problem-state", outcome.taken, Taken::Program(2, 4));
}

/// The completion is an external interruption, with the SCCB's address as its parameter.
fn interruption(checks: &mut Checks) {
    sccb(SCCB, 4096);
    let before = control_registers()[0];
    set_cr0(before | cr0::SERVICE_SIGNAL);
    let accepted = service_call(READ_CPU_INFO, SCCB);
    let nop = 0x4700_0000 << 32;
    let came = programs::machine::until(|| {
        step_with(nop, &mut [0; 16], mask::BITS_64 | mask::EXTERNAL).taken == Taken::External(0x2401, 0)
    });
    let parameter = programs::machine::load_word(0x80);
    checks.equal("signal.accepted", accepted, Ok(0));
    checks.holds("signal", came);
    checks.equal("signal.parameter", parameter & !7, SCCB as u32);
    checks.equal("signal.response", response(SCCB), 0x10);
    let again = step_with(nop, &mut [0; 16], mask::BITS_64 | mask::EXTERNAL).taken;
    checks.equal("signal.once", again, Taken::Nothing);
    set_cr0(before);
}
