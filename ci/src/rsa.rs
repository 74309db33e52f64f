//! RSA as school teaches it, to check what a guest computed: textbook operations on whole blocks.

use anyhow::{Context, Result, ensure};
use num_bigint::BigUint;
use sha2::{Digest, Sha256};

/// A test key. These keys are published in this repository and protect nothing.
pub struct Key {
    /// Its size in bits, which also names it.
    pub bits: usize,
    /// The private key as PEM (PKCS #1), for the guest.
    pub pem: &'static str,
    modulus: BigUint,
    exponent: BigUint,
    private: BigUint,
}

/// Which of the two operations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// With the private key, in CRT form on the card.
    Private,
    /// With the public key, as modulus and exponent.
    Public,
}

impl Key {
    /// The test key of that size.
    pub fn test_key(bits: usize) -> Result<Key> {
        let pem = match bits {
            1024 => include_str!("../guest/test-key-1024.pem"),
            2048 => include_str!("../guest/test-key-2048.pem"),
            4096 => include_str!("../guest/test-key-4096.pem"),
            _ => anyhow::bail!("no test key of {bits} bits"),
        };
        let der = from_base64(&pem.lines().filter(|l| !l.starts_with('-')).collect::<String>())?;
        let numbers = der_integers(&der).with_context(|| format!("test key of {bits} bits"))?;
        let [_, modulus, exponent, private, ..] = &numbers[..] else {
            anyhow::bail!("test key of {bits} bits: too few numbers");
        };
        Ok(Key { bits, pem, modulus: modulus.clone(), exponent: exponent.clone(), private: private.clone() })
    }

    /// The public half as PEM (PKCS #1 inside SubjectPublicKeyInfo).
    pub fn public_pem(&self) -> String {
        let integers = [der_integer(&self.modulus), der_integer(&self.exponent)].concat();
        let mut bits = vec![0];
        bits.extend(der(0x30, &integers));
        // AlgorithmIdentifier: rsaEncryption (1.2.840.113549.1.1.1), no parameters.
        let algorithm = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
        let key = der(0x30, &[der(0x30, &algorithm), der(0x03, &bits)].concat());
        let text = to_base64(&key);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|c| str::from_utf8(c).expect("ASCII")).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// The modulus, its left byte first.
    pub fn modulus_bytes(&self) -> Vec<u8> {
        self.modulus.to_bytes_be()
    }

    /// Block number `i`, as long as the modulus and smaller than it.
    pub fn message(&self, i: usize) -> Vec<u8> {
        let stream = (0u32..).flat_map(|n| Sha256::digest(format!("message {i}.{n} of {}", self.bits)));
        let mut block: Vec<u8> = stream.take(self.bits / 8).collect();
        block[0] = 0;
        block
    }

    /// Whether `result` is what `operation` makes of block number `i`.
    pub fn verify(&self, operation: Operation, i: usize, result: &[u8]) -> bool {
        let message = BigUint::from_bytes_be(&self.message(i));
        let value = BigUint::from_bytes_be(result);
        result.len() == self.bits / 8
            && match operation {
                Operation::Private => {
                    value < self.modulus && value.modpow(&self.exponent, &self.modulus) == message
                }
                Operation::Public => message.modpow(&self.exponent, &self.modulus) == value,
            }
    }

    /// What `operation` makes of block number `i`.
    pub fn apply(&self, operation: Operation, i: usize) -> Vec<u8> {
        let exponent = if operation == Operation::Private { &self.private } else { &self.exponent };
        let value = BigUint::from_bytes_be(&self.message(i)).modpow(exponent, &self.modulus).to_bytes_be();
        let mut block = vec![0; self.bits / 8 - value.len()];
        block.extend(value);
        block
    }
}

/// Bytes from lower- or upper-case hexadecimal text.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let digits = digits?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect())
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn from_base64(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let (mut held, mut bits) = (0u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        let digit = BASE64.iter().position(|b| *b == c).context("a character that is not base64")?;
        held = held << 6 | digit as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits) as u8);
        }
    }
    Ok(out)
}

fn to_base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |w, b| w << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            out.push(if i <= group.len() {
                BASE64[(word >> (18 - 6 * i) & 63) as usize] as char
            } else {
                '='
            });
        }
    }
    out
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        n @ 0..0x80 => out.push(n as u8),
        n => {
            let length: Vec<u8> = n.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
            out.push(0x80 | length.len() as u8);
            out.extend(length);
        }
    }
    out.extend(content);
    out
}

fn der_integer(number: &BigUint) -> Vec<u8> {
    let mut bytes = number.to_bytes_be();
    if bytes[0] >= 0x80 {
        bytes.insert(0, 0);
    }
    der(0x02, &bytes)
}

/// The integers of a DER sequence of integers.
fn der_integers(bytes: &[u8]) -> Result<Vec<BigUint>> {
    fn take<'a>(bytes: &mut &'a [u8], tag: u8) -> Result<&'a [u8]> {
        let [found, first, rest @ ..] = *bytes else { anyhow::bail!("cut short") };
        ensure!(*found == tag, "tag {found:#x} where {tag:#x} belongs");
        let (length, rest) = if *first < 0x80 {
            (usize::from(*first), rest)
        } else {
            let digits = usize::from(first & 0x7f);
            ensure!(digits <= 4 && digits <= rest.len(), "bad length");
            let (length, rest) = rest.split_at(digits);
            (length.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
        };
        ensure!(length <= rest.len(), "cut short");
        let (content, rest) = rest.split_at(length);
        *bytes = rest;
        Ok(content)
    }
    let mut bytes = bytes;
    let mut sequence = take(&mut bytes, 0x30)?;
    let mut numbers = Vec::new();
    while !sequence.is_empty() {
        numbers.push(BigUint::from_bytes_be(take(&mut sequence, 0x02)?));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_told_from_wrong_ones() {
        for bits in [1024, 2048] {
            let key = Key::test_key(bits).unwrap();
            for operation in [Operation::Private, Operation::Public] {
                let result = key.apply(operation, 1);
                let check = |i, result: &[u8], expected| {
                    assert_eq!(key.verify(operation, i, result), expected, "{bits} {operation:?} {i}")
                };
                check(1, &result, true);
                check(2, &result, false);
                check(1, &result[1..], false);
                let mut wrong = result.clone();
                wrong[bits / 8 - 1] ^= 1;
                check(1, &wrong, false);
                check(1, &key.message(1), false);
            }
            // s + n also satisfies the congruence, but no card may answer it.
            let unreduced = BigUint::from_bytes_be(&key.apply(Operation::Private, 1)) + &key.modulus;
            assert!(!key.verify(Operation::Private, 1, &unreduced.to_bytes_be()));
        }
    }

    #[test]
    fn base64_and_der_go_both_ways() {
        for length in 0..300 {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
            assert_eq!(from_base64(&to_base64(&bytes)).unwrap(), bytes);
        }
        let number = BigUint::from_bytes_be(&[0x80; 200]);
        assert_eq!(der_integers(&der(0x30, &der_integer(&number))).unwrap(), [number]);
        assert!(der_integers(&[0x30, 5, 2]).is_err());
    }

    #[test]
    fn hexadecimal_text_is_read() {
        assert_eq!(from_hex("00fF"), Some(vec![0, 255]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("zz"), None);
    }
}
