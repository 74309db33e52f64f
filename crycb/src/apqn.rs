//! The numbers that name an adapter, a domain and a queue.

use core::fmt;
use core::str::FromStr;

/// AP adapter number (APID), 0 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Apid(pub u8);

/// AP queue index (APQI), which is the number of the usage domain, 0 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Apqi(pub u8);

/// AP queue number: the APID in the left byte, the APQI in the right byte of a halfword.
///
/// AP instructions take it from bits 48-63 of general register 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Apqn(pub u16);

impl Apqn {
    /// The queue of domain `apqi` on adapter `apid`.
    pub const fn new(apid: Apid, apqi: Apqi) -> Self {
        Self((apid.0 as u16) << 8 | apqi.0 as u16)
    }

    /// The adapter.
    pub const fn apid(self) -> Apid {
        Apid((self.0 >> 8) as u8)
    }

    /// The usage domain.
    pub const fn apqi(self) -> Apqi {
        Apqi(self.0 as u8)
    }
}

impl fmt::Display for Apid {
    /// Two hexadecimal digits, as in the kernel's `card05`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

impl fmt::Display for Apqi {
    /// Four hexadecimal digits, as in the kernel's `05.0004`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

impl fmt::Display for Apqn {
    /// As the kernel names queue devices: `05.0004`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.apid(), self.apqi())
    }
}

/// A text that names no adapter, domain or queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// No hexadecimal number where one was expected.
    NotHex,
    /// The number is above 255.
    TooBig,
    /// An APQN without the dot between adapter and domain.
    NoDot,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotHex => "not a hexadecimal number",
            Self::TooBig => "above ff, the highest adapter and domain number",
            Self::NoDot => "not of the form aa.dddd (adapter, domain)",
        })
    }
}

impl core::error::Error for ParseError {}

/// Hexadecimal digits with or without `0x`, at most ff.
fn hex_byte(text: &str) -> Result<u8, ParseError> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ParseError::NotHex);
    }
    let significant = digits.trim_start_matches('0');
    if significant.len() > 2 {
        return Err(ParseError::TooBig);
    }
    Ok(if significant.is_empty() { 0 } else { u8::from_str_radix(significant, 16).expect("two hex digits") })
}

impl FromStr for Apid {
    type Err = ParseError;

    /// Hexadecimal, with or without `0x`: `5`, `05`, `0x0a`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        hex_byte(text).map(Self)
    }
}

impl FromStr for Apqi {
    type Err = ParseError;

    /// Hexadecimal, with or without `0x`: `4`, `00ab`, `0xab`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        hex_byte(text).map(Self)
    }
}

impl FromStr for Apqn {
    type Err = ParseError;

    /// Adapter and domain in hexadecimal with a dot between: `05.0004`, `5.4`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (apid, apqi) = text.split_once('.').ok_or(ParseError::NoDot)?;
        Ok(Self::new(apid.parse()?, apqi.parse()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, want: Result<u16, ParseError>) {
        assert_eq!(text.parse::<Apqn>(), want.map(Apqn), "{text:?}");
    }

    #[test]
    fn text() {
        check("05.0004", Ok(0x0504));
        check("5.4", Ok(0x0504));
        check("0x5.0xab", Ok(0x05ab));
        check("0A.00FF", Ok(0x0aff));
        check("ff.00ff", Ok(0xffff));
        check("0.0", Ok(0));
        check("000.000000000000000000004", Ok(4));
        check("0504", Err(ParseError::NoDot));
        check("", Err(ParseError::NoDot));
        check(".4", Err(ParseError::NotHex));
        check("5.", Err(ParseError::NotHex));
        check("5.4.3", Err(ParseError::NotHex));
        check("+5.4", Err(ParseError::NotHex));
        check("5. 4", Err(ParseError::NotHex));
        check("0x.4", Err(ParseError::NotHex));
        check("100.4", Err(ParseError::TooBig));
        check("5.0100", Err(ParseError::TooBig));
        assert_eq!(Apqn(0x0aab).to_string(), "0a.00ab");
    }

    proptest! {
        #[test]
        fn parts_and_text_round_trip(raw: u16) {
            let apqn = Apqn(raw);
            prop_assert_eq!(Apqn::new(apqn.apid(), apqn.apqi()), apqn);
            prop_assert_eq!(apqn.to_string().parse(), Ok(apqn));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,24}") {
            let _ = text.parse::<Apqn>();
        }
    }
}
