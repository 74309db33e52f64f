//! Masks of 256 bits, numbered from the left, and the text forms that Linux gives them.

use core::fmt;
use core::ops::{BitAnd, BitOr};
use core::str::FromStr;

/// A set of the numbers 0 to 255: adapters or domains. Bit 0 is the leftmost bit of byte 0.
///
/// `Display` writes Linux's form, `0x` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mask256([u8; 32]);

impl Mask256 {
    /// No bit set.
    pub const EMPTY: Self = Self([0; 32]);
    /// Every bit set.
    pub const ALL: Self = Self([0xff; 32]);

    /// The mask held in 32 bytes, as storage holds it.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes as storage holds them.
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// Sets bit `n`.
    pub const fn set(&mut self, n: u8) {
        self.0[n as usize / 8] |= 0x80 >> (n % 8);
    }

    /// Clears bit `n`.
    pub const fn clear(&mut self, n: u8) {
        self.0[n as usize / 8] &= !(0x80 >> (n % 8));
    }

    /// Whether bit `n` is set.
    pub const fn test(&self, n: u8) -> bool {
        self.0[n as usize / 8] & (0x80 >> (n % 8)) != 0
    }

    /// This mask with bit `n` set: `Mask256::EMPTY.with(4).with(0xab)`.
    pub const fn with(mut self, n: u8) -> Self {
        self.set(n);
        self
    }

    /// Whether no bit is set.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 32]
    }

    /// How many bits are set, 0 to 256.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|b| b.count_ones()).sum()
    }

    /// The highest number in the set.
    pub fn highest(&self) -> Option<u8> {
        (0..=255).rev().find(|&n| self.test(n))
    }

    /// The bits set here and not in `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i] & !other.0[i]))
    }

    /// Whether every bit set here is set in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.minus(*other).is_empty()
    }

    /// Whether a bit is set in both.
    pub fn intersects(&self, other: &Self) -> bool {
        !(*self & *other).is_empty()
    }

    /// The bits below `limit`, which is how a narrower mask (64 adapters, 16 domains) keeps this one.
    #[must_use]
    pub fn below(self, limit: u16) -> Self {
        self.iter().take_while(|&n| u16::from(n) < limit).collect()
    }

    /// The numbers in the set, ascending.
    pub fn iter(&self) -> Iter {
        Iter { words: self.words(), index: 0 }
    }

    /// The mask as four doublewords, leftmost first.
    fn words(&self) -> [u64; 4] {
        core::array::from_fn(|i| u64::from_be_bytes(self.0[i * 8..i * 8 + 8].try_into().expect("8 bytes")))
    }

    /// The mask that writing `text` to a mask attribute leaves when it held `self` before, as for Linux's
    /// `/sys/bus/ap/apmask` and `aqmask` and the kernel parameters `ap.apmask=` and `ap.aqmask=`.
    ///
    /// Two notations. *Relative*, when the first character is a sign: `+n`, `-n`, `+n-m`, `-n-m`, which switch a bit or an
    /// inclusive range on or off, from left to right, each followed by a comma (Linux lets it be missing). A number is
    /// decimal, hexadecimal after `0x`, octal after `0`. *Absolute*, else: the new mask in hexadecimal, see [`FromStr`].
    /// A newline may end either.
    ///
    /// # Errors
    /// What Linux answers with EINVAL; nothing is changed then. One text is refused that Linux takes: numbers above 64 bits,
    /// which it wraps. Spaces are refused everywhere.
    pub fn write(self, text: &str) -> Result<Self, MaskError> {
        if text.starts_with(['+', '-']) { self.write_relative(text.as_bytes()) } else { text.parse() }
    }

    fn write_relative(mut self, text: &[u8]) -> Result<Self, MaskError> {
        let mut at = 0;
        while let Some(&sign) = text.get(at) {
            let on = match sign {
                b'+' => true,
                b'-' => false,
                _ => return Err(MaskError::NoSign { at }),
            };
            let (first, after) = number(text, at + 1)?;
            let mut last = first;
            at = after;
            if text.get(at) == Some(&b'-') {
                (last, at) = number(text, at + 1)?;
                if last < first {
                    return Err(MaskError::Reversed { first, last });
                }
            }
            for n in first..=last {
                if on { self.set(n) } else { self.clear(n) }
            }
            while matches!(text.get(at), Some(b',' | b'\n')) {
                at += 1;
            }
        }
        Ok(self)
    }
}

/// The number at `start` in C notation, and the position behind it.
fn number(text: &[u8], start: usize) -> Result<(u8, usize), MaskError> {
    let rest = &text[start..];
    let (skip, base) = match rest {
        [b'0', b'x' | b'X', d, ..] if d.is_ascii_hexdigit() => (2, 16),
        [b'0', ..] => (0, 8),
        _ => (0, 10),
    };
    let digits = rest[skip..].iter().map_while(|&b| char::from(b).to_digit(base));
    let (value, length) =
        digits.fold((0u32, 0), |(value, n), d| (value.saturating_mul(base).saturating_add(d), n + 1));
    if length == 0 {
        return Err(MaskError::NoNumber { at: start });
    }
    let value = u8::try_from(value).map_err(|_| MaskError::NumberTooBig { at: start })?;
    Ok((value, start + skip + length))
}

/// A text that is no mask. All of these are EINVAL in Linux. Positions count bytes from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskError {
    /// An absolute mask with something that is no hexadecimal digit.
    NotHex {
        /// Where.
        at: usize,
    },
    /// An absolute mask of more than 64 digits.
    TooLong,
    /// A relative mask whose next item does not begin with + or -.
    NoSign {
        /// Where.
        at: usize,
    },
    /// A relative mask without a number behind the sign or the range's dash.
    NoNumber {
        /// Where.
        at: usize,
    },
    /// A relative mask with a number above 255.
    NumberTooBig {
        /// Where the number begins.
        at: usize,
    },
    /// A range that ends before it begins.
    Reversed {
        /// First number of the range.
        first: u8,
        /// Last number of the range.
        last: u8,
    },
}

impl fmt::Display for MaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHex { at } => {
                write!(f, "mask with something other than a hexadecimal digit at position {at}")
            }
            Self::TooLong => f.write_str("mask of more than 64 hexadecimal digits (256 bits)"),
            Self::NoSign { at } => write!(f, "mask item without + or - at position {at}"),
            Self::NoNumber { at } => write!(f, "mask item without a number at position {at}"),
            Self::NumberTooBig { at } => write!(f, "mask with a number above 255 at position {at}"),
            Self::Reversed { first, last } => write!(f, "mask with the reversed range {first}-{last}"),
        }
    }
}

impl core::error::Error for MaskError {}

impl FromStr for Mask256 {
    type Err = MaskError;

    /// An absolute mask: `0x`, `x` or nothing, then up to 64 hexadecimal digits, left aligned, padded with zeros on the
    /// right, so that `0x41` is bits 1 and 7. A newline may follow.
    ///
    /// No digit at all is the empty mask: Linux's comment on `ap_hex2bitmap` asks for one, its code does not.
    fn from_str(text: &str) -> Result<Self, MaskError> {
        let prefix = if text.starts_with("0x") { 2 } else { text.starts_with('x').into() };
        let digits = text[prefix..].strip_suffix('\n').unwrap_or(&text[prefix..]);
        let mut mask = Self::EMPTY;
        for (i, c) in digits.chars().enumerate() {
            // Every character before this one was a digit, so counting characters counts bytes.
            let digit = c.to_digit(16).ok_or(MaskError::NotHex { at: prefix + i })? as u8;
            let byte = mask.0.get_mut(i / 2).ok_or(MaskError::TooLong)?;
            *byte |= if i % 2 == 0 { digit << 4 } else { digit };
        }
        Ok(mask)
    }
}

impl fmt::Display for Mask256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Mask256 {
    /// The numbers in the set, which a failing test wants to see.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Hex(u8);
        impl fmt::Debug for Hex {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:02x}", self.0)
            }
        }
        f.debug_set().entries(self.iter().map(Hex)).finish()
    }
}

impl BitAnd for Mask256 {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i] & other.0[i]))
    }
}

impl BitOr for Mask256 {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(core::array::from_fn(|i| self.0[i] | other.0[i]))
    }
}

impl FromIterator<u8> for Mask256 {
    fn from_iter<T: IntoIterator<Item = u8>>(numbers: T) -> Self {
        numbers.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// The numbers of a [`Mask256`], ascending.
#[derive(Clone, Debug)]
pub struct Iter {
    words: [u64; 4],
    index: usize,
}

impl Iterator for Iter {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        loop {
            let word = self.words.get_mut(self.index)?;
            if *word == 0 {
                self.index += 1;
                continue;
            }
            let bit = word.leading_zeros();
            *word &= !(1 << 63 >> bit);
            return Some((self.index * 64) as u8 + bit as u8);
        }
    }
}

impl IntoIterator for &Mask256 {
    type Item = u8;
    type IntoIter = Iter;
    fn into_iter(self) -> Iter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Writes `text` over a mask holding `before`; `want` is the numbers then set.
    fn check(before: &[u8], text: &str, want: Result<&[u8], MaskError>) {
        let got = before.iter().copied().collect::<Mask256>().write(text);
        assert_eq!(got, want.map(|numbers| numbers.iter().copied().collect()), "{text:?}");
    }

    #[test]
    fn absolute() {
        check(&[9], "0x4100000000000000000000000000000000000000000000000000000000000000", Ok(&[1, 7]));
        check(&[9], "0x41", Ok(&[1, 7]));
        check(&[9], "41\n", Ok(&[1, 7]));
        check(&[], "0x4", Ok(&[1]));
        check(&[], "0x0180", Ok(&[7, 8]));
        check(&[], "0xaF", Ok(&[0, 2, 4, 5, 6, 7]));
        check(&[7], "0x0", Ok(&[]));
        check(&[], "0x0000000000000000000000000000000000000000000000000000000000000001", Ok(&[255]));
        check(&[9], "", Ok(&[]));
        check(&[9], "0x", Ok(&[]));
        check(&[9], "\n", Ok(&[]));
        check(&[9], "x41", Ok(&[1, 7]));
        check(&[], "0xx41", Err(MaskError::NotHex { at: 2 }));
        check(&[], " 0x41", Err(MaskError::NotHex { at: 0 }));
        check(&[], "0X41", Err(MaskError::NotHex { at: 1 }));
        check(&[], "0x4g", Err(MaskError::NotHex { at: 3 }));
        check(&[], "0x41 ", Err(MaskError::NotHex { at: 4 }));
        check(&[], "0x41\n\n", Err(MaskError::NotHex { at: 4 }));
        check(&[], "0xé", Err(MaskError::NotHex { at: 2 }));
        check(
            &[],
            "0x41000000000000000000000000000000000000000000000000000000000000000",
            Err(MaskError::TooLong),
        );
    }

    #[test]
    fn relative() {
        check(&[1], "+0-5,-4", Ok(&[0, 1, 2, 3, 5]));
        check(&[1, 7], "-1,+0x10,+020", Ok(&[7, 16]));
        check(&[], "+255", Ok(&[255]));
        check(&[], "+0xff\n", Ok(&[255]));
        check(&[], "+0x0X1", Err(MaskError::NoSign { at: 4 }));
        check(&[], "+0X1f", Ok(&[31]));
        check(&[5, 6, 10, 11], "-5,-6,-0xa", Ok(&[11]));
        check(&[0, 1, 2, 3], "-0-2", Ok(&[3]));
        check(&[], "+4+6", Ok(&[4, 6]));
        check(&[], "+4,,\n,+6,", Ok(&[4, 6]));
        check(&[], "+8-8", Ok(&[8]));
        check(&[], "+09", Err(MaskError::NoSign { at: 2 }));
        check(&[], "+", Err(MaskError::NoNumber { at: 1 }));
        check(&[], "+,", Err(MaskError::NoNumber { at: 1 }));
        check(&[], "+ 1", Err(MaskError::NoNumber { at: 1 }));
        check(&[], "+1-", Err(MaskError::NoNumber { at: 3 }));
        check(&[], "+1,2", Err(MaskError::NoSign { at: 3 }));
        check(&[], "+256", Err(MaskError::NumberTooBig { at: 1 }));
        check(&[], "+1-256", Err(MaskError::NumberTooBig { at: 3 }));
        check(&[], "+0x10-0xffffffffffffffffffffff", Err(MaskError::NumberTooBig { at: 6 }));
        check(&[], "+6-4", Err(MaskError::Reversed { first: 6, last: 4 }));
        check(&[], "+0xg", Err(MaskError::NoSign { at: 2 }));
    }

    /// CVE-2024-38661: a number whose lower half is in range must not pass, nor be used as an index.
    #[test]
    fn numbers_are_compared_before_they_are_cut() {
        check(&[], "+0x100000000", Err(MaskError::NumberTooBig { at: 1 }));
        check(&[], "+4294967296-4294967300", Err(MaskError::NumberTooBig { at: 1 }));
        check(&[], "+1-0x100000002", Err(MaskError::NumberTooBig { at: 3 }));
        check(&[], "-0xffffffff80000000", Err(MaskError::NumberTooBig { at: 1 }));
    }

    /// A mask in hexadecimal, filled with zeros on the right.
    fn filled(digits: &str) -> String {
        format!("0x{digits:0<64}")
    }

    /// The document means adapters 1, 2 and 3 by its apmask 0x07, but says itself that masks read from left to right: 0x07
    /// is 5, 6 and 7, and 0x70 what it means. Its aqmask is right.
    #[test]
    fn doc_v2_7_mask_product_of_1_2_3_and_7_8() {
        check(&[], &filled("07"), Ok(&[5, 6, 7]));
        check(&[], &filled("70"), Ok(&[1, 2, 3]));
        check(&[], &filled("0180"), Ok(&[7, 8]));
        let mask = |text: &str| filled(text).parse::<Mask256>().unwrap();
        let default = crate::Matrix { apm: mask("70"), aqm: mask("0180"), adm: Mask256::EMPTY };
        let queues = [0x0107, 0x0108, 0x0207, 0x0208, 0x0307, 0x0308];
        assert!(default.apqns().map(|q| q.0).eq(queues));
    }

    #[test]
    fn doc_v2_7_mask_of_all_but_0_and_6() {
        let text = format!("0x7d{}", "f".repeat(62));
        assert_eq!(text.parse(), Mask256::ALL.write("-0,-6"));
    }

    #[test]
    fn doc_v2_7_mask_absolute() {
        check(&[2, 9], &filled("41"), Ok(&[1, 7]));
        check(&[2, 9], "0x41", Ok(&[1, 7]));
        check(&[], &(filled("41") + "0"), Err(MaskError::TooLong));
    }

    #[test]
    fn doc_v2_7_mask_relative() {
        check(&[], "+0", Ok(&[0]));
        check(&[13], "-13", Ok(&[]));
        check(&[], "+0x41", Ok(&[65]));
        check(&[255], "-0xff", Ok(&[]));
        check(&[1, 6, 240], "+0,-6,+0x47,-0xf0", Ok(&[0, 1, 71]));
    }

    /// The kernel parameters: `ap.apmask=0xffff ap.aqmask=0x40`.
    #[test]
    fn doc_v2_7_mask_parameters() {
        assert_eq!(Mask256::ALL.write("0xffff").unwrap().to_string(), filled("ffff"));
        assert_eq!(Mask256::ALL.write("0x40").unwrap().to_string(), filled("4"));
    }

    #[test]
    fn doc_v2_7_mask_that_secures_the_three_guests() {
        let without = |text| Mask256::ALL.minus(Mask256::ALL.write(text).unwrap());
        assert!(without("-5,-6").iter().eq([5, 6]));
        assert!(without("-4,-0x47,-0xab,-0xff").iter().eq([4, 0x47, 0xab, 0xff]));
        let mask = Mask256::ALL.write("-5,-6,-0xa").unwrap();
        assert_eq!(mask.to_string(), "0xf9df".to_owned() + &"f".repeat(60));
    }

    #[test]
    fn forms() {
        let mask = Mask256::EMPTY.with(1).with(7);
        assert_eq!(mask.to_string(), "0x41".to_owned() + &"0".repeat(62));
        assert_eq!(mask.to_bytes()[0], 0x41);
        assert_eq!(format!("{mask:?}"), "{01, 07}");
        assert_eq!(mask.highest(), Some(7));
        assert_eq!(Mask256::EMPTY.highest(), None);
        assert_eq!(Mask256::ALL.below(64).highest(), Some(63));
        assert_eq!(Mask256::ALL.below(256), Mask256::ALL);
        assert_eq!(Mask256::ALL.below(0), Mask256::EMPTY);
    }

    fn set() -> impl Strategy<Value = BTreeSet<u8>> {
        proptest::collection::btree_set(any::<u8>(), 0..256)
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(a in set(), b in set(), n: u8) {
            let mask = |s: &BTreeSet<u8>| s.iter().copied().collect::<Mask256>();
            let (x, y) = (mask(&a), mask(&b));
            prop_assert!(x.iter().eq(a.iter().copied()));
            prop_assert_eq!(x & y, mask(&(&a & &b)));
            prop_assert_eq!(x | y, mask(&(&a | &b)));
            prop_assert_eq!(x.minus(y), mask(&(&a - &b)));
            prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
            prop_assert_eq!(x.intersects(&y), !a.is_disjoint(&b));
            prop_assert_eq!(x.count() as usize, a.len());
            prop_assert_eq!(x.is_empty(), a.is_empty());
            prop_assert_eq!(x.test(n), a.contains(&n));
            let mut z = x;
            z.clear(n);
            prop_assert!(!z.test(n));
            z.set(n);
            prop_assert_eq!(z, x.with(n));
        }

        #[test]
        fn text_and_bytes_round_trip(bytes: [u8; 32]) {
            let mask = Mask256::from_bytes(bytes);
            prop_assert_eq!(mask.to_bytes(), bytes);
            prop_assert_eq!(mask.to_string().parse(), Ok(mask));
            prop_assert_eq!(Mask256::ALL.write(&mask.to_string()), Ok(mask));
        }

        #[test]
        fn any_text_is_answered(text in "(.{0,80}|[-+0-9a-fxX,\n]{0,80})") {
            let _ = Mask256::ALL.write(&text);
        }
    }
}
