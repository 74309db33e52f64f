//! Requests as a driver builds them for each kind of card, and what the replies must hold (Linux,
//! `drivers/s390/crypto/zcrypt_msgtype50.h`, `zcrypt_msgtype6.h`, `zcrypt_ep11misc.c`).

use crate::ap::{ACCELERATOR, CCA};
use crate::machine::bytes;

/// A request that fits the card of `apqn`, at `at`; its length.
pub fn request(apqn: u64, at: u64) -> usize {
    match apqn >> 8 {
        a if a == ACCELERATOR >> 8 => exponentiation(at),
        a if a == CCA >> 8 => random(apqn as u8, at),
        _ => module_query(apqn as u8, at),
    }
}

/// Whether a reply is a good one to such a request.
pub fn is_answered(apqn: u64, reply: &[u8]) -> bool {
    let half = |at: usize| u16::from_be_bytes([reply[at], reply[at + 1]]);
    match apqn >> 8 {
        a if a == ACCELERATOR >> 8 => {
            // 2^400 cubed is 2^176 times 2^1024, which is 105 modulo the modulus.
            let mut want = [0; SIZE];
            want[SIZE - 1 - 22] = 105;
            reply.len() == 16 + SIZE && reply[1] == 0x80 && reply[16..] == want
        }
        a if a == CCA >> 8 => {
            let data = reply.len() - RANDOM as usize;
            let ones: u32 = reply[data..].iter().map(|byte| byte.count_ones()).sum();
            // Return code 0, and as many ones as random bytes have, within ten standard deviations.
            reply[..5] == [0, 0x86, 2, 0, 0] && half(0x30 + 0x90) == 0 && (864..1184).contains(&ones)
        }
        _ => {
            let serial = *b"93AADHZU93082244";
            reply[..5] == [0, 0x86, 2, 0, 0] && reply.windows(16).any(|part| part == serial)
        }
    }
}

/// Bytes of the numbers of the accelerator's request, and of the random bytes of the CCA coprocessor's.
const SIZE: usize = 128;
const RANDOM: u32 = 256;

/// Type 50: 2^400 to the third power modulo 2^1024 - 105.
fn exponentiation(at: u64) -> usize {
    const LENGTH: usize = 16 + 3 * SIZE;
    let request = bytes(at, LENGTH);
    request.fill(0);
    request[1] = 0x50;
    request[2..4].copy_from_slice(&(LENGTH as u16).to_be_bytes());
    request[9] = 1;
    request[16 + SIZE - 1] = 3;
    request[16 + SIZE..16 + 2 * SIZE].fill(0xff);
    request[16 + 2 * SIZE - 1] = 0xff - 104;
    request[16 + 3 * SIZE - 1 - 50] = 1;
    LENGTH
}

/// RL: random bytes.
fn random(domain: u8, at: u64) -> usize {
    let mut control = [0; 220 + 16];
    control[..3].copy_from_slice(&[0, 220, 2]);
    control[6..8].copy_from_slice(b"T2");
    control[12..16].copy_from_slice(&16u32.to_be_bytes());
    control[28..32].copy_from_slice(&RANDOM.to_be_bytes());
    control[0xab] = domain;
    // Function code, one rule, and two empty blocks, whose lengths count themselves.
    control[220..].copy_from_slice(b"RL\0\x0aRANDOM  \0\x02\0\x02");
    let length = type_6(at, b"CA", [0x77c - 0x58, RANDOM], &control);
    bytes(at, length)[0x34..0x36].copy_from_slice(b"RL");
    length
}

/// The query of an EP11 coprocessor's module information.
fn module_query(domain: u8, at: u64) -> usize {
    let mut control = [0; 32 + 28];
    control[..3].copy_from_slice(&[0, 0x20, 4]);
    control[6..8].copy_from_slice(b"T4");
    control[15] = domain;
    control[16..20].fill(0xff);
    control[31] = 28;
    control[32..36].copy_from_slice(&[0x30, 0x82, 0, 24]);
    for (part, word) in control[36..].chunks_exact_mut(6).zip([0x10026, domain.into(), 1u32, 0]) {
        part[..2].fill(4);
        part[2..].copy_from_slice(&word.to_be_bytes());
    }
    let length = type_6(at, b"XC", [12288 - 48, 0], &control);
    bytes(at, length)[0x31] = 1;
    length
}

/// Type 6: header, control block, padding to a word.
fn type_6(at: u64, agent: &[u8; 2], reply: [u32; 2], control: &[u8]) -> usize {
    const HEADER: usize = 0x58;
    let length = (HEADER + control.len()).next_multiple_of(4);
    let request = bytes(at, length);
    request.fill(0);
    request[1] = 6;
    request[0x20..0x22].copy_from_slice(agent);
    let words = [(0x10, HEADER as u32), (0x38, control.len() as u32), (0x48, reply[0]), (0x4c, reply[1])];
    for (at, word) in words {
        request[at..at + 4].copy_from_slice(&word.to_be_bytes());
    }
    request[HEADER..HEADER + control.len()].copy_from_slice(control);
    length
}
