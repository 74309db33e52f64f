//! What a description says about an adapter and the card it is.

use super::number::{Number, Pattern};
use crycb::Apid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An adapter of the machine, one queue in each usage domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "Text")]
pub struct Adapter {
    /// Its number.
    pub apid: Apid,
    /// Its generation.
    pub generation: Generation,
    /// How it is configured, with what it tells about itself in that mode.
    pub card: Card,
}

impl Adapter {
    /// The generation with the letter of the mode, as `lszcrypt` prints it: `CEX8C`.
    pub fn type_name(&self) -> String {
        let mode = match self.card {
            Card::Accelerator => 'A',
            Card::Cca(_) => 'C',
            Card::Ep11(_) => 'P',
        };
        format!("{}{mode}", self.generation)
    }
}

/// Generation of a Crypto Express card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Generation {
    Cex4,
    Cex5,
    Cex6,
    Cex7,
    Cex8,
}

impl Generation {
    /// The type that TAPQ returns (AT, GR2 bits 32-39): 10 to 14.
    pub const fn ap_type(self) -> u8 {
        10 + self as u8
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CEX{}", 4 + *self as u8)
    }
}

impl FromStr for Generation {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        use Generation::*;
        [Cex4, Cex5, Cex6, Cex7, Cex8].into_iter().find(|g| g.to_string() == text).ok_or(())
    }
}

/// The mode of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Card {
    /// `A`: RSA with clear keys, nothing stored.
    Accelerator,
    /// `C`: the CCA coprocessor.
    Cca(Cca),
    /// `P`: the EP11 coprocessor.
    Ep11(Ep11),
}

/// What a CCA coprocessor tells about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cca {
    /// Serial number: 8 printable ASCII characters.
    pub serial: [u8; 8],
    /// Its master keys, the same in each domain.
    pub master_keys: MasterKeys,
}

/// The master keys of a CCA coprocessor: never the keys, only their verification patterns and states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MasterKeys {
    /// For AES and HMAC keys.
    pub aes: MasterKey<Pattern<8>>,
    /// For elliptic-curve and other keys of the AES PKA class.
    pub apka: MasterKey<Pattern<8>>,
    /// For RSA keys.
    pub asym: MasterKey<Pattern<16>>,
}

/// The three registers of one master key, with verification patterns of type `P`. Registers that are left out hold nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MasterKey<P> {
    /// The key that is being entered.
    pub new: NewKey<P>,
    /// The key in use.
    pub current: HeldKey<P>,
    /// The key before it.
    pub old: HeldKey<P>,
}

impl<P> Default for MasterKey<P> {
    fn default() -> Self {
        Self { new: NewKey::Empty, current: HeldKey::Invalid, old: HeldKey::Invalid }
    }
}

/// The register of a new master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewKey<P> {
    /// No part entered.
    #[default]
    Empty,
    /// Some parts entered.
    Partial(P),
    /// All parts entered.
    Full(P),
}

impl<const N: usize> NewKey<Pattern<N>> {
    /// The digit by which the card tells the state: '1' empty, '2' partial, '3' full.
    pub const fn state(&self) -> u8 {
        match self {
            Self::Empty => b'1',
            Self::Partial(_) => b'2',
            Self::Full(_) => b'3',
        }
    }

    /// The verification pattern, zeros without a key.
    pub const fn pattern(&self) -> [u8; N] {
        match self {
            Self::Empty => [0; N],
            Self::Partial(p) | Self::Full(p) => p.0,
        }
    }
}

/// The register of a current or old key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeldKey<P> {
    /// No usable key.
    #[default]
    Invalid,
    /// A key with this verification pattern.
    Valid(P),
}

impl<const N: usize> HeldKey<Pattern<N>> {
    /// The digit by which a CCA coprocessor tells the state: '1' invalid, '2' valid.
    pub const fn state(&self) -> u8 {
        match self {
            Self::Invalid => b'1',
            Self::Valid(_) => b'2',
        }
    }

    /// The verification pattern, zeros without a key.
    pub const fn pattern(&self) -> [u8; N] {
        match self {
            Self::Invalid => [0; N],
            Self::Valid(p) => p.0,
        }
    }
}

/// What an EP11 coprocessor tells about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ep11 {
    /// Serial number: 16 printable ASCII characters.
    pub serial: [u8; 16],
    /// The rest.
    pub module: Ep11Module,
}

/// The module information of an EP11 coprocessor, and its wrapping keys, the same in each domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ep11Module {
    /// Ordinal number of the API level, sysfs `API_ordinalnr`.
    pub api_ordinal: u32,
    /// Identification of the firmware.
    pub firmware_id: u32,
    /// Version of the firmware, sysfs `FW_version`.
    pub firmware_version: FirmwareVersion,
    /// Operational modes, sysfs `op_modes`, of the card and of each domain.
    #[serde(default)]
    pub op_modes: OpModes,
    /// Verification patterns of the wrapping keys, sysfs `mkvps`.
    #[serde(default)]
    pub wrapping_keys: WrappingKeys,
}

/// Major and minor number of a firmware, in JSON `"8.4"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FirmwareVersion {
    /// Before the dot.
    pub major: u8,
    /// Behind the dot.
    pub minor: u8,
}

impl TryFrom<String> for FirmwareVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse().ok()).flatten();
        text.split_once('.')
            .and_then(|(major, minor)| Some(Self { major: number(major)?, minor: number(minor)? }))
            .ok_or_else(|| {
                format!("firmware version {text:?} is not two numbers below 256 with a dot between")
            })
    }
}

impl From<FirmwareVersion> for String {
    fn from(version: FirmwareVersion) -> Self {
        format!("{}.{}", version.major, version.minor)
    }
}

/// A set of operational modes of EP11, in JSON a list of the names that Linux prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct OpModes(u64);

/// Names by bit number, counted from the right as EP11 does.
const OP_MODES: [&str; 9] = [
    "FIPS2009",
    "BSI2009",
    "FIPS2011",
    "BSI2011",
    "SIGG-IMPORT",
    "SIGG",
    "BSICC2017",
    "FIPS2021",
    "FIPS2024",
];

impl OpModes {
    /// The doubleword in the module and domain information.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl TryFrom<Vec<String>> for OpModes {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Self, String> {
        names.iter().try_fold(Self(0), |modes, name| match OP_MODES.iter().position(|n| n == name) {
            Some(bit) => Ok(Self(modes.0 | 1 << bit)),
            None => Err(format!("operational mode {name:?} is none of {}", OP_MODES.join(", "))),
        })
    }
}

impl From<OpModes> for Vec<String> {
    fn from(modes: OpModes) -> Self {
        let set = |bit: &usize| modes.0 & 1 << bit != 0;
        (0..OP_MODES.len()).filter(set).map(|bit| OP_MODES[bit].to_owned()).collect()
    }
}

/// The wrapping keys of an EP11 coprocessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WrappingKeys {
    /// The key in use.
    pub current: HeldKey<Pattern<32>>,
    /// The key that is being entered.
    pub new: NewWrappingKey,
}

/// The register of a new wrapping key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewWrappingKey {
    /// No key.
    #[default]
    Empty,
    /// A key that is not yet committed.
    Uncommitted(Pattern<32>),
    /// A committed key.
    Committed(Pattern<32>),
}

impl WrappingKeys {
    /// The flags of the domain information: 2 current key valid, 4 new key present, 8 new key committed.
    pub const fn flags(&self) -> u32 {
        let current = if matches!(self.current, HeldKey::Valid(_)) { 2 } else { 0 };
        current
            | match self.new {
                NewWrappingKey::Empty => 0,
                NewWrappingKey::Uncommitted(_) => 4,
                NewWrappingKey::Committed(_) => 4 | 8,
            }
    }

    /// The verification pattern of the new key, zeros without one.
    pub const fn new_pattern(&self) -> [u8; 32] {
        match self.new {
            NewWrappingKey::Empty => [0; 32],
            NewWrappingKey::Uncommitted(p) | NewWrappingKey::Committed(p) => p.0,
        }
    }
}

/// An adapter as JSON writes it: the type's letter decides which of the other fields belong.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    adapter: Number,
    #[serde(rename = "type")]
    type_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    master_keys: Option<MasterKeys>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ep11: Option<Ep11Module>,
}

impl TryFrom<Text> for Adapter {
    type Error = String;

    fn try_from(text: Text) -> Result<Self, String> {
        let Text { adapter: Number(apid), type_name, serial, master_keys, ep11 } = text;
        let fail = |reason: &str| Err(format!("adapter {apid:02x}: {reason}"));
        let Some((generation, mode)) = type_name
            .split_at_checked(4)
            .and_then(|(generation, mode)| Some((generation.parse().ok()?, mode)))
        else {
            return fail(&format!("type {type_name:?} is not CEX4 to CEX8 with A, C or P behind"));
        };
        if master_keys.is_some() && mode != "C" {
            return fail("master_keys belongs to a CCA coprocessor (C)");
        }
        if ep11.is_some() && mode != "P" {
            return fail("ep11 belongs to an EP11 coprocessor (P)");
        }
        let card = match (mode, serial) {
            ("A", None) => Card::Accelerator,
            ("A", Some(_)) => return fail("an accelerator (A) tells no serial"),
            ("C", Some(serial)) => {
                let Some(serial) = ascii(&serial) else {
                    return fail(&format!(
                        "serial {serial:?} of a CCA coprocessor is not 8 letters or digits"
                    ));
                };
                Card::Cca(Cca { serial, master_keys: master_keys.unwrap_or_default() })
            }
            ("P", Some(serial)) => {
                let Some(serial) = ascii(&serial) else {
                    return fail(&format!(
                        "serial {serial:?} of an EP11 coprocessor is not 16 letters or digits"
                    ));
                };
                match ep11 {
                    Some(module) => Card::Ep11(Ep11 { serial, module }),
                    None => return fail("an EP11 coprocessor (P) needs the field ep11"),
                }
            }
            ("C" | "P", None) => return fail("a coprocessor (C, P) needs a serial"),
            _ => return fail(&format!("type {type_name:?} ends in none of A, C, P")),
        };
        Ok(Self { apid: Apid(apid), generation, card })
    }
}

fn ascii<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes: [u8; N] = text.as_bytes().try_into().ok()?;
    bytes.iter().all(u8::is_ascii_alphanumeric).then_some(bytes)
}

impl From<Adapter> for Text {
    fn from(adapter: Adapter) -> Self {
        let type_name = adapter.type_name();
        let text = |serial: &[u8]| Some(String::from_utf8_lossy(serial).into_owned());
        let (serial, master_keys, ep11) = match adapter.card {
            Card::Accelerator => (None, None, None),
            Card::Cca(cca) => (text(&cca.serial), Some(cca.master_keys), None),
            Card::Ep11(ep11) => (text(&ep11.serial), None, Some(ep11.module)),
        };
        Self { adapter: Number(adapter.apid.0), type_name, serial, master_keys, ep11 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an adapter: its type's name, or a part of the error.
    fn check(json: &str, want: Result<&str, &str>) {
        match (serde_json::from_str::<Adapter>(json), want) {
            (Ok(adapter), Ok(name)) => {
                assert_eq!(adapter.type_name(), name, "{json}");
                let text = serde_json::to_string(&adapter).unwrap();
                assert_eq!(serde_json::from_str::<Adapter>(&text).unwrap(), adapter, "{text}");
            }
            (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{json}: {e}"),
            (got, want) => panic!("{json}: {got:?}, not {want:?}"),
        }
    }

    #[test]
    fn json() {
        check(r#"{"adapter": 6, "type": "CEX8A"}"#, Ok("CEX8A"));
        check(r#"{"adapter": "0x06", "type": "CEX4A"}"#, Ok("CEX4A"));
        check(r#"{"adapter": 5, "type": "CEX7C", "serial": "93AADFK7"}"#, Ok("CEX7C"));
        check(
            r#"{"adapter": 5, "type": "CEX8C", "serial": "93AADFK7", "master_keys": {"aes":
               {"new": "empty", "current": {"valid": "0x0123456789abcdef"}},
               "asym": {"new": {"partial": "0x0123456789abcdef0123456789abcdef"}}}}"#,
            Ok("CEX8C"),
        );
        let ep11 = r#"{"adapter": 10, "type": "CEX8P", "serial": "93AADHZU93082244", "ep11": {"api_ordinal": 6,
            "firmware_id": 1, "firmware_version": "8.4", "op_modes": ["FIPS2011", "BSICC2017"]}}"#;
        check(ep11, Ok("CEX8P"));
        check(&ep11.replace("8.4", "8"), Err("two numbers"));
        check(&ep11.replace("8.4", "8.256"), Err("two numbers"));
        check(&ep11.replace("8.4", "+8.4"), Err("two numbers"));
        check(&ep11.replace("BSICC2017", "BSI2017"), Err("none of FIPS2009"));
        check(&ep11.replace("82244", "8224"), Err("16 letters"));
        check(
            r#"{"adapter": 5, "type": "CEX8P", "serial": "93AADHZU93082244"}"#,
            Err("needs the field ep11"),
        );
        check(r#"{"adapter": 5, "type": "CEX8C"}"#, Err("adapter 05: a coprocessor (C, P) needs a serial"));
        check(r#"{"adapter": 5, "type": "CEX8C", "serial": "93AADF\u00e9"}"#, Err("8 letters"));
        check(r#"{"adapter": 5, "type": "CEX3C", "serial": "93AADFK7"}"#, Err("CEX4 to CEX8"));
        check(r#"{"adapter": 5, "type": "CEX"}"#, Err("CEX4 to CEX8"));
        check(r#"{"adapter": 5, "type": "CEX\u00e9"}"#, Err("CEX4 to CEX8"));
        check(r#"{"adapter": 5, "type": "CEX8X", "serial": "x"}"#, Err("none of A, C, P"));
        check(r#"{"adapter": 5, "type": "CEX8"}"#, Err("none of A, C, P"));
        check(r#"{"adapter": 5, "type": "CEX8A", "serial": "93AADFK7"}"#, Err("tells no serial"));
        check(r#"{"adapter": 5, "type": "CEX8A", "master_keys": {}}"#, Err("belongs to a CCA"));
        check(r#"{"adapter": 5, "type": "CEX8A", "mode": "A"}"#, Err("unknown field `mode`"));
        check(r#"{"adapter": 5, "adapter": 6, "type": "CEX8A"}"#, Err("duplicate field `adapter`"));
        check(r#"{"type": "CEX8A"}"#, Err("missing field `adapter`"));
        check(
            r#"{"adapter": 5, "type": "CEX8C", "serial": "93AADFK7", "master_keys": {"aes": {"current": "valid"}}}"#,
            Err("valid"),
        );
    }

    #[test]
    fn states_as_the_cards_tell_them() {
        let pattern = Pattern([7; 8]);
        for (key, state, want) in [
            (NewKey::Empty, b'1', [0; 8]),
            (NewKey::Partial(pattern), b'2', [7; 8]),
            (NewKey::Full(pattern), b'3', [7; 8]),
        ] {
            assert_eq!((key.state(), key.pattern()), (state, want));
        }
        assert_eq!(
            (HeldKey::<Pattern<8>>::Invalid.state(), HeldKey::<Pattern<8>>::Invalid.pattern()),
            (b'1', [0; 8])
        );
        assert_eq!((HeldKey::Valid(pattern).state(), HeldKey::Valid(pattern).pattern()), (b'2', [7; 8]));
        let (none, some) = (HeldKey::Invalid, HeldKey::Valid(Pattern([1; 32])));
        for (current, new, flags) in [
            (none, NewWrappingKey::Empty, 0),
            (some, NewWrappingKey::Empty, 2),
            (some, NewWrappingKey::Uncommitted(Pattern([2; 32])), 6),
            (none, NewWrappingKey::Committed(Pattern([2; 32])), 12),
        ] {
            assert_eq!(WrappingKeys { current, new }.flags(), flags);
        }
        assert_eq!(
            OpModes::try_from(vec!["FIPS2009".to_owned(), "FIPS2024".to_owned()]).unwrap().bits(),
            0x101
        );
        assert_eq!((Generation::Cex4.ap_type(), Generation::Cex8.ap_type()), (10, 14));
    }
}
