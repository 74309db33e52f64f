//! DIAGNOSE 308: parameter blocks, and resets that the program lives through.
#![no_std]
#![no_main]

use programs::machine::{bytes, control_registers, load, set_cr6, store};
use programs::{Checks, Taken, encode, mask, program, step, step_with};

program!("diag308", main);

const BLOCK: u64 = programs::FREE + 0x10000;
const SPECIFICATION: Taken = Taken::Program(6, 4);

fn main(checks: &mut Checks) {
    operands(checks);
    blocks(checks);
    resets(checks);
}

/// DIAGNOSE 308 with the pair at register 2 and the subcode in register 4.
fn diag(address: u64, subcode: u64) -> (Taken, u64) {
    let mut gr = [0; 16];
    (gr[2], gr[4]) = (address, subcode);
    (step(encode::rs(0x83, 2, 4, 0x308, 0), &mut gr).taken, gr[3])
}

fn operands(checks: &mut Checks) {
    let mut gr = [0; 16];
    gr[4] = 6;
    for (name, r1, mask, taken) in [
        ("odd-register", 3, mask::BITS_64, SPECIFICATION),
        ("problem-state", 2, mask::BITS_64 | mask::PROBLEM, Taken::Program(2, 4)),
    ] {
        checks.equal(name, step_with(encode::rs(0x83, r1, 4, 0x308, 0), &mut gr, mask).taken, taken);
    }
    checks.equal("unaligned", diag(BLOCK + 8, 6).0, SPECIFICATION);
    checks.equal("outside", diag(1 << 45, 6).0, Taken::Program(5, 4));
    checks.equal("subcode-2", diag(BLOCK, 2).0, SPECIFICATION);
    checks.equal("subcode-99", diag(BLOCK, 99).0, SPECIFICATION);
    checks.equal("code-unknown", step(encode::rs(0x83, 2, 4, 0x7f0, 0), &mut gr).taken, SPECIFICATION);
    checks.equal("code-44", step(encode::rs(0x83, 2, 4, 0x44, 0), &mut gr).taken, Taken::Nothing);
}

fn blocks(checks: &mut Checks) {
    bytes(BLOCK, 4096).fill(0);
    checks.equal("set.invalid", diag(BLOCK, 5), (Taken::Nothing, 0x402));
    checks.equal("store.none", diag(BLOCK, 6), (Taken::Nothing, 0x102));
    // A block of type CCW: 200 bytes, version 1.
    let block = bytes(BLOCK, 4096);
    block.fill(0);
    block[..4].copy_from_slice(&200u32.to_be_bytes());
    block[7] = 1;
    block[8..12].copy_from_slice(&192u32.to_be_bytes());
    block[12] = 2;
    checks.equal("set", diag(BLOCK, 5), (Taken::Nothing, 1));
    bytes(BLOCK, 4096).fill(0);
    checks.equal("store", diag(BLOCK, 6), (Taken::Nothing, 1));
    checks.equal("store.block", (load(BLOCK), load(BLOCK + 8)), (200 << 32 | 1, 192 << 32 | 2 << 24));
}

/// The PSW of these resets is the short one at location 0; storage stays, so that the program goes on there.
fn resets(checks: &mut Checks) {
    for (name, subcode, gr7) in [("load-normal", 1, None), ("modified-clear", 0, Some(0))] {
        set_cr6(0x1234_0000);
        store(BLOCK, 0x1234);
        let after = programs::reset(subcode, 0x7777);
        let cr = control_registers();
        checks.holds(format_args!("{name}.goes-on"), after.is_some());
        checks.equal(format_args!("{name}.cr0"), cr[0], 0xe0);
        checks.equal(format_args!("{name}.cr6"), cr[6], 0);
        checks.equal(format_args!("{name}.cr14"), cr[14], 0xc200_0000);
        // A clear reset clears general registers, an initial one leaves them.
        checks.equal(format_args!("{name}.gr7"), after, gr7.or(Some(0x7777)));
        checks.equal(format_args!("{name}.storage"), load(BLOCK), 0x1234);
    }
}
