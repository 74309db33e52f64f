//! Requests as a driver builds them for each kind of card (Linux, `drivers/s390/crypto/zcrypt_msgtype50.h`,
//! `zcrypt_msgtype6.h`, `zcrypt_cca_key.h`, `zcrypt_ep11misc.c`), from numbers as big-endian bytes.

/// The parts of a private RSA key: p, q, dp, dq and the inverse of q modulo p.
pub type CrtKey<'a> = [&'a [u8]; 5];

/// Type 50 for an accelerator: CRT with 2048 bits. The primes' halves of the key have 128 bytes each.
pub fn accelerator_crt_2048(key: CrtKey<'_>, message: &[u8; 256]) -> Vec<u8> {
    let mut request = vec![0; 16];
    request[1] = 0x50;
    request[9] = 0x12; // CRT, 2048 bits.
    key.iter().for_each(|part| request.extend(padded(part, 128)));
    request.extend(message);
    let length = (request.len() as u16).to_be_bytes();
    request[2..4].copy_from_slice(&length);
    request
}

/// RL for a CCA coprocessor: `length` random bytes.
pub fn cca_random(domain: u8, length: u32) -> Vec<u8> {
    cca(domain, b"RL", b"RANDOM  ", &[], &[], length)
}

/// PD for a CCA coprocessor: a private RSA operation with 2048 bits, the key in a token of its own.
pub fn cca_private_2048(domain: u8, key: CrtKey<'_>, message: &[u8; 256]) -> Vec<u8> {
    const LONG: usize = 136;
    const SHORT: usize = 128;
    const LENGTHS: [usize; 5] = [LONG, SHORT, LONG, SHORT, LONG];
    let parts: usize = LENGTHS.iter().sum();
    let pad = parts.next_multiple_of(8) - parts;
    let mut section = vec![0; 132];
    section[0] = 8;
    section[2..4].copy_from_slice(&((132 + parts + pad + 256) as u16).to_be_bytes());
    section[28] = 0x40; // Key format.
    section[50] = 0x80; // Key usage: signatures and key management alike.
    for (at, length) in [LENGTHS.as_slice(), &[256]].concat().into_iter().enumerate() {
        section[54 + 2 * at..][..2].copy_from_slice(&(length as u16).to_be_bytes());
    }
    section[70..72].copy_from_slice(&(pad as u16).to_be_bytes());
    for (part, length) in key.iter().zip(LENGTHS) {
        section.extend(padded(part, length));
    }
    section.resize(section.len() + pad, 0);
    section.extend([0xff; 256]);
    // The public section: exponent 65537.
    section.extend([4, 0, 0, 15, 0, 0, 0, 3, 0x08, 0, 0, 0, 1, 0, 1]);
    let length = section.len() as u16 + 8;
    let mut block = (length + 4).to_be_bytes().to_vec();
    block.extend([0, 0, 0x1e, 0]);
    block.extend(length.to_be_bytes());
    block.extend([0; 4]);
    block.extend(section);
    cca(domain, b"PD", b"ZERO-PAD", message, &block, 0)
}

/// The query of an EP11 coprocessor's module information.
pub fn ep11_module_query(domain: u8) -> Vec<u8> {
    const GET_XCP_INFO: u32 = 0x10026;
    const MODULE: u32 = 1;
    let mut payload = vec![0x30, 0x82, 0, 24];
    for word in [GET_XCP_INFO, domain.into(), MODULE, 0] {
        payload.extend([4, 4]);
        payload.extend(word.to_be_bytes());
    }
    let mut control = vec![0; 32];
    control[..3].copy_from_slice(&[0, 0x20, 4]);
    control[6..8].copy_from_slice(b"T4");
    control[15] = domain;
    control[16..20].fill(0xff);
    control[31] = payload.len() as u8;
    control.extend(payload);
    let mut request = type6(b"XC", &[], [12288 - 48, 0], &control);
    request[0x31] = 1;
    request
}

fn padded(number: &[u8], length: usize) -> Vec<u8> {
    [&vec![0; length - number.len()], number].concat()
}

/// A CPRBX with function code, one rule, data of variable length and a key block.
fn cca(domain: u8, function: &[u8; 2], rule: &[u8; 8], data: &[u8], keys: &[u8], reply_data: u32) -> Vec<u8> {
    let mut parameters = [function.as_slice(), &[0, 10], rule].concat();
    for block in [data, keys] {
        parameters.extend((block.len() as u16 + 2).to_be_bytes());
        parameters.extend(block);
    }
    let mut control = vec![0; 220];
    control[..3].copy_from_slice(&[0, 220, 2]);
    control[6..8].copy_from_slice(b"T2");
    control[12..16].copy_from_slice(&(parameters.len() as u32).to_be_bytes());
    control[28..32].copy_from_slice(&reply_data.to_be_bytes());
    control[0xab] = domain;
    control.extend(parameters);
    type6(b"CA", function, [0x77c - 0x58, reply_data], &control)
}

/// Type 6: header, control block, padding to a word.
fn type6(agent: &[u8; 2], function: &[u8], reply: [u32; 2], control: &[u8]) -> Vec<u8> {
    const HEADER: u32 = 0x58;
    let mut request = vec![0; HEADER as usize];
    request[1] = 6;
    request[0x20..0x22].copy_from_slice(agent);
    request[0x34..0x34 + function.len()].copy_from_slice(function);
    for (at, word) in [(0x10, HEADER), (0x38, control.len() as u32), (0x48, reply[0]), (0x4c, reply[1])] {
        request[at..at + 4].copy_from_slice(&word.to_be_bytes());
    }
    request.extend(control);
    request.resize(request.len().next_multiple_of(4), 0);
    request
}
