//! Mask strings: `apmask`, `aqmask`, and the parts of `ap_config`.

use crycb::Mask256;
use std::collections::BTreeSet;

/// 32 bytes of mask before, then the text.
pub fn strings(input: &[u8]) {
    let Some((before, text)) = input.split_first_chunk::<32>() else { return };
    let before = Mask256::from_bytes(*before);
    let text = String::from_utf8_lossy(text);
    let got = before.write(&text);
    assert_eq!(got.ok().map(|mask| mask.iter().collect()), expected(&before, &text), "{before:?} {text:?}");

    if let Ok(mask) = got {
        assert_eq!(mask.to_string().parse(), Ok(mask));
        assert_eq!(before.write(&mask.to_string()), Ok(mask));
        let steps: String =
            (0..=255).map(|n| format!("{}{n},", if mask.test(n) { '+' } else { '-' })).collect();
        assert_eq!(before.write(&steps), Ok(mask), "bit by bit");
    }
}

/// The numbers in the mask that Linux would have; numbers beyond 64 bits, which it wraps, are refused. Written for its
/// plainness, to be compared with.
fn expected(before: &Mask256, text: &str) -> Option<BTreeSet<u8>> {
    if !text.starts_with(['+', '-']) {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let digits = ["0x", "x", ""].into_iter().find_map(|prefix| text.strip_prefix(prefix))?;
        if digits.len() > 64 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        let bits: String =
            digits.chars().map(|c| format!("{:04b}", c.to_digit(16).expect("a hexadecimal digit"))).collect();
        return Some((0..=255).zip(bits.chars()).filter(|(_, bit)| *bit == '1').map(|(n, _)| n).collect());
    }
    let mut set: BTreeSet<u8> = before.iter().collect();
    let mut rest = text;
    while let Some(sign) = rest.chars().next() {
        rest = rest.strip_prefix(['+', '-'])?;
        let (first, after) = number(rest)?;
        let (last, after) = match after.strip_prefix('-') {
            Some(after) => number(after)?,
            None => (first, after),
        };
        if first > last || last > 255 {
            return None;
        }
        for n in first..=last {
            if sign == '+' {
                set.insert(n as u8)
            } else {
                set.remove(&(n as u8))
            };
        }
        rest = after.trim_start_matches([',', '\n']);
    }
    Some(set)
}

/// A number in C notation, and what follows.
fn number(text: &str) -> Option<(u64, &str)> {
    let hexadecimal = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal.filter(|rest| rest.starts_with(|c: char| c.is_ascii_hexdigit())) {
        Some(digits) => (digits, 16),
        None => (text, if text.starts_with('0') { 8 } else { 10 }),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    Some((u64::from_str_radix(&digits[..end], radix).ok()?, &digits[end..]))
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "0x41\n",
        "0xffff",
        "x4",
        "-5,-6,-0xa",
        "+0,-6,+0x47,-0xf0",
        "+0-5,-4\n",
        "+020",
        "+255,-254-255",
        "+256",
        "",
    ];
    texts.iter().map(|text| [&[0xa5; 32], text.as_bytes()].concat()).collect()
}
