//! Requests as Linux's driver builds them, written from its layouts and sharing nothing with the cards.

use super::DOMAIN;
use openssl::bn::BigNumRef;
use openssl::pkey::Private;
use openssl::rsa::Rsa;
use std::sync::OnceLock;

/// One key per size for all tests: making them takes seconds.
pub(super) fn key(bits: u32) -> &'static Rsa<Private> {
    static KEYS: [OnceLock<Rsa<Private>>; 4] = [const { OnceLock::new() }; 4];
    let at = [512, 1024, 2048, 4096].iter().position(|&b| b == bits).unwrap();
    KEYS[at].get_or_init(|| Rsa::generate(bits).unwrap())
}

pub(super) fn padded(number: &BigNumRef, len: usize) -> Vec<u8> {
    number.to_vec_padded(len as i32).unwrap()
}

/// A message below the modulus of any key of `len` bytes.
pub(super) fn text(len: usize) -> Vec<u8> {
    (0..len).map(|i| if i == 0 { 0 } else { (i * 7 + 1) as u8 }).collect()
}

/// p, q, dp, dq, u of a key.
pub(super) fn parts(rsa: &Rsa<Private>) -> [&BigNumRef; 5] {
    [rsa.p(), rsa.q(), rsa.dmp1(), rsa.dmq1(), rsa.iqmp()].map(Option::unwrap)
}

/// Type 50: the fields right-aligned in what the format gives them.
pub(super) fn type50(format: u16, fields: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut m = vec![0; 16];
    m[1] = 0x50;
    m[8..10].copy_from_slice(&format.to_be_bytes());
    for (width, value) in fields {
        m.extend(vec![0; width - value.len()]);
        m.extend(value);
    }
    let len = m.len() as u16;
    m[2..4].copy_from_slice(&len.to_be_bytes());
    m
}

pub(super) fn field_size(len: usize) -> (u16, usize) {
    match len {
        0..=128 => (1, 128),
        129..=256 => (2, 256),
        _ => (3, 512),
    }
}

pub(super) fn mex50(modulus: Vec<u8>, exponent: Vec<u8>, message: Vec<u8>) -> Vec<u8> {
    let (format, size) = field_size(modulus.len());
    type50(format, &[(size, exponent), (size, modulus), (size, message)])
}

pub(super) fn crt50(parts: [&BigNumRef; 5], message: Vec<u8>) -> Vec<u8> {
    let (format, size) = field_size(message.len());
    let mut fields: Vec<_> = parts.iter().map(|x| (size / 2, padded(x, message.len().div_ceil(2)))).collect();
    fields.push((size, message));
    type50(0x10 | format, &fields)
}

/// Type 6: header, control block, padding to a word.
pub(super) fn type6(agent: &[u8; 2], function: &[u8], reply: (u32, u32), control: &[u8]) -> Vec<u8> {
    let mut m = vec![0; 0x58];
    m[1] = 6;
    m[0x10..0x14].copy_from_slice(&0x58_u32.to_be_bytes());
    m[0x20..0x22].copy_from_slice(agent);
    m[0x34..0x34 + function.len()].copy_from_slice(function);
    m[0x38..0x3c].copy_from_slice(&(control.len() as u32).to_be_bytes());
    m[0x48..0x4c].copy_from_slice(&reply.0.to_be_bytes());
    m[0x4c..0x50].copy_from_slice(&reply.1.to_be_bytes());
    m.extend(control);
    m.resize(m.len().next_multiple_of(4), 0);
    m
}

/// A CPRBX with function code, one rule, variable-length data and key block.
pub(super) fn cca_request(function: &[u8; 2], rule: &[u8; 8], vud: &[u8], keys: &[u8], data: u32) -> Vec<u8> {
    let mut parameters = function.to_vec();
    parameters.extend(10_u16.to_be_bytes());
    parameters.extend(rule);
    for block in [vud, keys] {
        parameters.extend((block.len() as u16 + 2).to_be_bytes());
        parameters.extend(block);
    }
    let mut control = vec![0; 220];
    control[..3].copy_from_slice(&[0, 0xdc, 2]);
    control[6..8].copy_from_slice(b"T2");
    control[0xc..0x10].copy_from_slice(&(parameters.len() as u32).to_be_bytes());
    control[0x1c..0x20].copy_from_slice(&data.to_be_bytes());
    control[0xaa..0xac].copy_from_slice(&u16::from(DOMAIN).to_be_bytes());
    control.extend(parameters);
    type6(b"CA", function, (0x77c - 0x58, data), &control)
}

/// The key block with a token of one section.
pub(super) fn token(section: &[u8]) -> Vec<u8> {
    let len = section.len() as u16 + 8;
    let mut block = (len + 4).to_be_bytes().to_vec();
    block.extend([0, 0, 0x1e, 0]);
    block.extend(len.to_be_bytes());
    block.extend([0; 4]);
    block.extend(section);
    block
}

pub(super) fn pk(modulus: &[u8], exponent: &[u8], message: &[u8]) -> Vec<u8> {
    let mut section = vec![4, 0];
    section.extend((12 + exponent.len() as u16 + modulus.len() as u16).to_be_bytes());
    section.extend([0; 2]);
    section.extend((exponent.len() as u16).to_be_bytes());
    section.extend((8 * modulus.len() as u16).to_be_bytes());
    section.extend((modulus.len() as u16).to_be_bytes());
    section.extend(exponent);
    section.extend(modulus);
    cca_request(b"PK", b"MRP     ", message, &token(&section), 0)
}

pub(super) fn pd(parts: [&BigNumRef; 5], message: &[u8]) -> Vec<u8> {
    let short = message.len() / 2;
    let lens = [short + 8, short, short + 8, short, short + 8];
    let pad = (8 - lens.iter().sum::<usize>() % 8) % 8;
    let mut section = vec![8, 0];
    section
        .extend((132 + lens.iter().sum::<usize>() as u16 + pad as u16 + message.len() as u16).to_be_bytes());
    section.extend([0; 24]);
    section.extend([0x40, 0]);
    section.extend([0; 20]);
    section.extend([0x80, 0, 0, 0]);
    for len in lens {
        section.extend((len as u16).to_be_bytes());
    }
    section.extend((message.len() as u16).to_be_bytes());
    section.extend([0; 4]);
    section.extend((pad as u16).to_be_bytes());
    section.extend([0; 60]);
    for (part, len) in parts.iter().zip(lens) {
        section.extend(padded(part, len));
    }
    section.extend(vec![0; pad]);
    section.extend(vec![0xff; message.len()]);
    section.extend([4, 0, 0, 15, 0, 0, 0, 3]);
    section.extend((8 * message.len() as u16).to_be_bytes());
    section.extend([0, 0, 1, 0, 1]);
    cca_request(b"PD", b"ZERO-PAD", message, &token(&section), 0)
}

pub(super) fn rl(len: u32) -> Vec<u8> {
    cca_request(b"RL", b"RANDOM  ", &[], &[], len)
}

pub(super) fn fq(rule: &[u8; 8]) -> Vec<u8> {
    let mut m = cca_request(b"FQ", rule, &[0; 4096], &[], 0);
    m[0x48..0x4c].copy_from_slice(&4332_u32.to_be_bytes());
    m
}

pub(super) fn xcp(function: u32, query: u32) -> Vec<u8> {
    let mut payload = vec![0x30, 0x82, 0, 24];
    for word in [function, DOMAIN.into(), query, 0] {
        payload.extend([4, 4]);
        payload.extend(word.to_be_bytes());
    }
    let mut control = vec![0; 32];
    control[..3].copy_from_slice(&[0, 0x20, 4]);
    control[6..8].copy_from_slice(b"T4");
    control[0xf] = DOMAIN;
    control[0x10..0x14].fill(0xff);
    control[0x1f] = payload.len() as u8;
    control.extend(payload);
    let mut m = type6(b"XC", &[], (12288 - 48, 0), &control);
    m[0x31] = 1;
    m
}
