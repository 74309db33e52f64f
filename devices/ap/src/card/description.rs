//! What a coprocessor tells about itself when a guest asks.
//!
//! The AP host's description knows one set of master or wrapping keys per adapter; these structs can also tell domains
//! apart. They hold verification patterns, never keys.

use crate::host::{self, Ep11Module, FirmwareVersion, HeldKey, MasterKey, MasterKeys, Pattern, WrappingKeys};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a CCA coprocessor answers to FQ (CSUACFQ), sysfs `serialnr` and `mkvps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CcaDescription {
    /// Serial number of the card.
    pub serial: Serial<8>,
    /// Master keys of every domain that `domains` does not name.
    pub master_keys: MasterKeys,
    /// Master keys of single domains.
    pub domains: BTreeMap<u8, MasterKeys>,
}

impl CcaDescription {
    /// The master keys of a domain.
    pub fn master_keys(&self, domain: u8) -> &MasterKeys {
        self.domains.get(&domain).unwrap_or(&self.master_keys)
    }
}

impl Default for CcaDescription {
    /// A card whose three current master keys are set.
    fn default() -> Self {
        let aes = Pattern(0x6db1_f2c3_a49e_0857_u64.to_be_bytes());
        let apka = Pattern(0xe83a_5d0c_719b_42f6_u64.to_be_bytes());
        let asym = Pattern(0x4f1d_8b26_c05e_a973_7e92_d631_0b8c_5fa4_u128.to_be_bytes());
        Self {
            serial: Serial(*b"93AADFK7"),
            master_keys: MasterKeys {
                aes: MasterKey { current: HeldKey::Valid(aes), ..Default::default() },
                apka: MasterKey { current: HeldKey::Valid(apka), ..Default::default() },
                asym: MasterKey { current: HeldKey::Valid(asym), ..Default::default() },
            },
            domains: BTreeMap::new(),
        }
    }
}

impl From<host::Cca> for CcaDescription {
    fn from(cca: host::Cca) -> Self {
        Self { serial: Serial(cca.serial), master_keys: cca.master_keys, domains: BTreeMap::new() }
    }
}

/// What an EP11 coprocessor answers to its module and domain information queries, sysfs `serialnr`, `API_ordinalnr`,
/// `FW_version`, `op_modes` and `mkvps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ep11Description {
    /// Serial number of the module.
    pub serial: Serial<16>,
    /// Versions and modes, and the wrapping keys of every domain that `domains` does not name.
    pub module: Ep11Module,
    /// Wrapping keys of single domains.
    pub domains: BTreeMap<u8, WrappingKeys>,
}

impl Ep11Description {
    /// The wrapping keys of a domain.
    pub fn wrapping_keys(&self, domain: u8) -> &WrappingKeys {
        self.domains.get(&domain).unwrap_or(&self.module.wrapping_keys)
    }
}

impl Default for Ep11Description {
    /// A module whose current wrapping key is set.
    fn default() -> Self {
        let pattern = Pattern(std::array::from_fn(|i| (0x3a + 0x35 * i) as u8));
        Self {
            serial: Serial(*b"93AADHZU93082244"),
            module: Ep11Module {
                api_ordinal: 6,
                firmware_id: 1,
                firmware_version: FirmwareVersion { major: 8, minor: 4 },
                op_modes: Default::default(),
                wrapping_keys: WrappingKeys { current: HeldKey::Valid(pattern), ..Default::default() },
            },
            domains: BTreeMap::new(),
        }
    }
}

impl From<host::Ep11> for Ep11Description {
    fn from(ep11: host::Ep11) -> Self {
        Self { serial: Serial(ep11.serial), module: ep11.module, domains: BTreeMap::new() }
    }
}

/// A serial number: exactly `N` letters and digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial<const N: usize>(pub [u8; N]);

impl<const N: usize> TryFrom<String> for Serial<N> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_bytes().try_into() {
            Ok(bytes) if text.bytes().all(|b| b.is_ascii_alphanumeric()) => Ok(Self(bytes)),
            _ => Err(format!("serial {text:?} is not {N} letters or digits")),
        }
    }
}

impl<const N: usize> From<Serial<N>> for String {
    fn from(serial: Serial<N>) -> Self {
        String::from_utf8_lossy(&serial.0).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json() {
        let mut cca = CcaDescription::default();
        cca.domains.insert(0x47, MasterKeys::default());
        let text = serde_json::to_string(&cca).unwrap();
        assert_eq!(serde_json::from_str::<CcaDescription>(&text).unwrap(), cca, "{text}");
        assert_eq!(cca.master_keys(0x47), &MasterKeys::default());
        assert_eq!(cca.master_keys(0x48), &cca.master_keys);

        let mut ep11 = Ep11Description::default();
        ep11.domains.insert(0xff, WrappingKeys::default());
        let text = serde_json::to_string(&ep11).unwrap();
        assert_eq!(serde_json::from_str::<Ep11Description>(&text).unwrap(), ep11, "{text}");
        assert_eq!(ep11.wrapping_keys(0xff), &WrappingKeys::default());

        for bad in [r#"{"serial":"short"}"#, r#"{"serial":"93AADFK\u0000"}"#, r#"{"seriel":"93AADFK7"}"#] {
            assert!(serde_json::from_str::<CcaDescription>(bad).is_err(), "{bad}");
        }
    }
}
