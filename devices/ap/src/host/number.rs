//! Numbers and byte patterns as they stand in a description.

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// The value of a number in C notation: decimal, `0x` hexadecimal or `0` octal, as the kernel's sysfs attributes read it
/// (`kstrtoul` with base 0): one leading plus and one trailing newline are allowed, nothing else.
pub(super) fn parse(text: &str) -> Result<u64, NumberError> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    // The standard library would take a sign here.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return Err(NumberError::Syntax);
    }
    u64::from_str_radix(digits, radix).map_err(|error| match error.kind() {
        std::num::IntErrorKind::PosOverflow => NumberError::Overflow,
        _ => NumberError::Syntax,
    })
}

/// Why a text is not taken for a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberError {
    /// It is none: EINVAL.
    Syntax,
    /// It has more than 64 bits: ERANGE.
    Overflow,
}

/// An adapter or domain number, 0 to 255: in JSON a number, or a string in C notation; written as `"0x0a"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub u8);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = deserializer.deserialize_any(Value)?;
        u8::try_from(value).map(Self).map_err(|_| D::Error::custom(format!("number {value} is above 255")))
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:#04x}", self.0))
    }
}

struct Value;

impl Visitor<'_> for Value {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a number, or a string with a decimal or hexadecimal (0x) number")
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<u64, E> {
        parse(text).map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}

/// Queue numbers, in JSON a list of strings like `"05.0004"`.
pub(super) mod queue_names {
    use crycb::Apqn;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(queues: &[Apqn], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(queues.iter().map(ToString::to_string))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Apqn>, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        names.iter().map(|name| name.parse().map_err(D::Error::custom)).collect()
    }
}

/// A queue number or none, in JSON a string like `"05.0004"` or null.
pub(super) mod optional_queue_name {
    use crycb::Apqn;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(queue: &Option<Apqn>, serializer: S) -> Result<S::Ok, S::Error> {
        match queue {
            Some(queue) => serializer.collect_str(queue),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Apqn>, D::Error> {
        let name = Option::<String>::deserialize(deserializer)?;
        name.map(|name| name.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A queue number, in JSON a string like `"05.0004"`.
pub(super) mod queue_name {
    use crycb::Apqn;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(queue: &Apqn, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(queue)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Apqn, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Domains, in JSON a list of strings like `"0004"`.
pub(super) mod domain_names {
    use crycb::Mask256;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(domains: &Mask256, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(domains.iter().map(|domain| format!("{domain:04x}")))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mask256, D::Error> {
        let domain = |text: String| {
            let number = u16::from_str_radix(&text, 16).ok().and_then(|n| u8::try_from(n).ok());
            number.ok_or_else(|| D::Error::custom(format_args!("{text:?} is no domain like 0004")))
        };
        Vec::<String>::deserialize(deserializer)?.into_iter().map(domain).collect()
    }
}

/// A mask, in JSON a string of `0x` and 64 hexadecimal digits, as sysfs prints it.
pub(super) mod mask {
    use crycb::Mask256;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(mask: &Mask256, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(mask)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mask256, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A matrix, in JSON its three masks.
pub(super) mod matrix {
    use crycb::{Mask256, Matrix};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Masks {
        #[serde(with = "super::mask")]
        apm: Mask256,
        #[serde(with = "super::mask")]
        aqm: Mask256,
        #[serde(with = "super::mask")]
        adm: Mask256,
    }

    pub fn serialize<S: Serializer>(matrix: &Matrix, serializer: S) -> Result<S::Ok, S::Error> {
        let Matrix { apm, aqm, adm } = *matrix;
        Masks { apm, aqm, adm }.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Matrix, D::Error> {
        let Masks { apm, aqm, adm } = Masks::deserialize(deserializer)?;
        Ok(Matrix { apm, aqm, adm })
    }
}

/// `N` bytes, in JSON a string of `0x` and exactly 2 N hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pattern<const N: usize>(pub [u8; N]);

impl<const N: usize> Default for Pattern<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> fmt::Display for Pattern<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Pattern<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> Serialize for Pattern<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Pattern<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").unwrap_or_default().as_bytes();
        let nibbles: Option<Vec<u32>> = digits.iter().map(|&b| char::from(b).to_digit(16)).collect();
        match nibbles {
            Some(n) if n.len() == 2 * N => {
                Ok(Self(std::array::from_fn(|i| (n[2 * i] << 4 | n[2 * i + 1]) as u8)))
            }
            _ => {
                Err(D::Error::custom(format!("pattern {text:?} is not 0x and {} hexadecimal digits", 2 * N)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_notation() {
        use NumberError::{Overflow, Syntax};
        for (text, want) in [
            ("5", Ok(5)),
            ("0", Ok(0)),
            ("0xab", Ok(0xab)),
            ("0XAB\n", Ok(0xab)),
            ("010", Ok(8)),
            ("+7", Ok(7)),
            ("256", Ok(256)),
            ("", Err(Syntax)),
            ("0x", Err(Syntax)),
            ("0x+1", Err(Syntax)),
            ("++1", Err(Syntax)),
            ("-1", Err(Syntax)),
            ("08", Err(Syntax)),
            (" 5", Err(Syntax)),
            ("5 ", Err(Syntax)),
            ("5\n\n", Err(Syntax)),
            ("ab", Err(Syntax)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(Overflow)),
            ("0x10000000000000000", Err(Overflow)),
        ] {
            assert_eq!(parse(text), want, "{text:?}");
        }
    }

    #[test]
    fn json() {
        assert_eq!(serde_json::from_str::<Number>("10").unwrap(), Number(10));
        assert_eq!(serde_json::from_str::<Number>("\"0x0a\"").unwrap(), Number(10));
        assert_eq!(serde_json::to_string(&Number(10)).unwrap(), "\"0x0a\"");
        for bad in ["256", "-1", "1.5", "\"x\"", "null", "\"0x100\""] {
            assert!(serde_json::from_str::<Number>(bad).is_err(), "{bad}");
        }
        let pattern: Pattern<2> = serde_json::from_str("\"0x0aFF\"").unwrap();
        assert_eq!(
            (pattern.0, serde_json::to_string(&pattern).unwrap()),
            ([0x0a, 0xff], "\"0x0aff\"".into())
        );
        for bad in ["\"0x0a\"", "\"0aff\"", "\"0x0afff\"", "\"0x0agg\"", "\"0x0a\u{e9}\"", "\"\"", "5"] {
            assert!(serde_json::from_str::<Pattern<2>>(bad).is_err(), "{bad}");
        }
    }
}
