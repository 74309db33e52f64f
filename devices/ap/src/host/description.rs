//! The description of an AP host: the JSON that `docs/ap-host.md` explains.

use super::number::Number;
use super::{Adapter, HostError, MdevDefinition};
use crycb::{Mask256, Matrix, Qci, QciFlags};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use uuid::Uuid;

/// The description that is used without `--ap-host`.
pub(super) const BUILTIN: &str = include_str!("builtin.json");

/// A description of a machine's cards and of what its Linux host does with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Extended addressing (APXA): up to 256 adapters and domains. Without it 64 adapters and 16 domains.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub apxa: bool,
    #[serde(default = "highest", skip_serializing_if = "is_highest")]
    max_adapter: Number,
    #[serde(default = "highest", skip_serializing_if = "is_highest")]
    max_domain: Number,
    adapters: Vec<Adapter>,
    usage_domains: Vec<Number>,
    /// The usage domains, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    control_domains: Option<Vec<Number>>,
    /// What is written to `/sys/bus/ap/apmask` when it is all ones. A queue belongs to the default drivers if its adapter
    /// is in this mask and its domain in the other.
    #[serde(default)]
    apmask: String,
    /// What is written to `/sys/bus/ap/aqmask` when it is all ones.
    #[serde(default)]
    aqmask: String,
    /// Mediated devices in the order in which they are started.
    #[serde(default)]
    mdevs: Mdevs,
}

impl Description {
    /// The description that is used if no other is given.
    pub fn builtin() -> Self {
        Self::from_json(BUILTIN).expect("the built-in description is tested")
    }

    /// Reads and checks a description.
    ///
    /// # Errors
    /// [`HostError::Json`] for what is no description, [`HostError::Description`], [`HostError::Mask`] and
    /// [`HostError::Value`] for one that contradicts itself.
    pub fn from_json(text: &str) -> Result<Self, HostError> {
        let description: Self = serde_json::from_str(text).map_err(HostError::Json)?;
        description.check()?;
        Ok(description)
    }

    /// The description as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a description has only strings for keys")
    }

    /// The adapters.
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// The mediated devices.
    pub fn mdevs(&self) -> &[(Uuid, MdevDefinition)] {
        &self.mdevs.0
    }

    /// What PQAP(QCI) stores on this machine.
    pub fn qci(&self) -> Qci {
        let mask = |domains: &[Number]| domains.iter().map(|n| n.0).collect();
        let matrix = Matrix {
            apm: self.adapters.iter().map(|a| a.apid.0).collect(),
            aqm: mask(&self.usage_domains),
            adm: mask(self.control_domains.as_deref().unwrap_or(&self.usage_domains)),
        };
        if self.apxa {
            let flags = QciFlags::APSC | QciFlags::APXA;
            Qci { flags, na: self.max_adapter.0, nd: self.max_domain.0, matrix }
        } else {
            Qci { flags: QciFlags::APSC, na: 0, nd: 0, matrix }
        }
    }

    /// The adapter and domain masks of the default drivers.
    ///
    /// # Errors
    /// [`HostError::Mask`]; never after [`Description::from_json`].
    pub(super) fn perms(&self) -> Result<(Mask256, Mask256), HostError> {
        let read = |attribute: &str, text: &str| {
            if text.is_empty() {
                return Ok(Mask256::ALL);
            }
            Mask256::ALL.write(text).map_err(|source| HostError::Mask {
                attribute: attribute.to_owned(),
                text: text.to_owned(),
                source,
            })
        };
        Ok((read("apmask", &self.apmask)?, read("aqmask", &self.aqmask)?))
    }

    fn check(&self) -> Result<(), HostError> {
        let qci = self.qci();
        let fail = |reason: String| Err(HostError::Description(reason));
        if !self.apxa && (self.max_adapter, self.max_domain) != (highest(), highest()) {
            return fail("max_adapter and max_domain need apxa; without it they are 63 and 15".into());
        }
        unique("adapters", "adapter", qci.max_apid(), self.adapters.iter().map(|a| a.apid.0))?;
        let domains =
            |field, domains: &[Number]| unique(field, "domain", qci.max_apqi(), domains.iter().map(|n| n.0));
        domains("usage_domains", &self.usage_domains)?;
        domains("control_domains", self.control_domains.as_deref().unwrap_or_default())?;
        if self.usage_domains.is_empty() {
            return fail("usage_domains is empty; without a domain an adapter has no queue".into());
        }
        self.perms()?;
        let mut attributes = self.mdevs().iter().flat_map(|(uuid, d)| d.attrs.iter().map(move |a| (uuid, a)));
        attributes.try_for_each(|(uuid, attribute)| attribute.check_syntax(*uuid))
    }
}

/// Refuses a number that comes twice or is above `max`.
fn unique(field: &str, kind: &str, max: u8, numbers: impl Iterator<Item = u8>) -> Result<(), HostError> {
    let mut seen = Mask256::EMPTY;
    for n in numbers {
        if seen.test(n) {
            return Err(HostError::Description(format!("{kind} {n:#04x} comes twice in {field}")));
        }
        if n > max {
            return Err(HostError::Description(format!(
                "{kind} {n:#04x} in {field} is above the machine's highest, {max:#04x}"
            )));
        }
        seen.set(n);
    }
    Ok(())
}

const fn yes() -> bool {
    true
}

const fn is_yes(value: &bool) -> bool {
    *value
}

const fn highest() -> Number {
    Number(255)
}

fn is_highest(number: &Number) -> bool {
    *number == highest()
}

/// Definitions by UUID. A JSON object, whose order counts and in which no UUID comes twice.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Mdevs(Vec<(Uuid, MdevDefinition)>);

impl Serialize for Mdevs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(uuid, definition)| (uuid, definition)))
    }
}

impl<'de> Deserialize<'de> for Mdevs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MdevsVisitor)
    }
}

struct MdevsVisitor;

impl<'de> Visitor<'de> for MdevsVisitor {
    type Value = Mdevs;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of mdev definitions by UUID")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Mdevs, A::Error> {
        let mut mdevs: Vec<(Uuid, MdevDefinition)> = Vec::new();
        while let Some((uuid, definition)) = map.next_entry::<Uuid, MdevDefinition>()? {
            if mdevs.iter().any(|(other, _)| *other == uuid) {
                return Err(A::Error::custom(format!("mdev {uuid} comes twice")));
            }
            mdevs.push((uuid, definition));
        }
        Ok(Mdevs(mdevs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;

    const PLAIN: &str = r#"{"adapters": [{"adapter": 5, "type": "CEX8A"}], "usage_domains": [4]}"#;

    /// Reads PLAIN with one replacement; the error's message with its sources contains `part`.
    fn refused(from: &str, to: &str, part: &str) {
        assert!(PLAIN.contains(from), "{from}");
        let error = Description::from_json(&PLAIN.replace(from, to)).expect_err(to);
        let text = error.source().map_or(error.to_string(), |source| format!("{error}: {source}"));
        assert!(text.contains(part), "{to}: {text}");
        assert_eq!(error.errno(), "EINVAL");
    }

    #[test]
    fn what_is_left_out() {
        let plain = Description::from_json(PLAIN).unwrap();
        let mask = Mask256::EMPTY;
        let matrix = Matrix { apm: mask.with(5), aqm: mask.with(4), adm: mask.with(4) };
        assert_eq!(plain.qci(), Qci { flags: QciFlags(0xc000_0000), na: 255, nd: 255, matrix });
        assert_eq!(plain.perms().unwrap(), (Mask256::ALL, Mask256::ALL));
        assert!(plain.mdevs().is_empty());
    }

    #[test]
    fn limits() {
        let narrow = PLAIN.replace('{', r#"{"apxa": false, "#).replacen(
            r#"{"apxa": false, "adapter""#,
            r#"{"adapter""#,
            1,
        );
        let description = Description::from_json(&narrow).unwrap();
        assert_eq!(description.qci().flags, QciFlags(0x8000_0000));
        assert_eq!((description.qci().na, description.qci().nd), (0, 0));
        assert!(Description::from_json(&narrow.replace(": 5", ": 63").replace("[4]", "[15]")).is_ok());
        assert!(Description::from_json(&narrow.replace(": 5", ": 64")).is_err());
        assert!(Description::from_json(&narrow.replace("[4]", "[16]")).is_err());

        let limited = r#"[4], "max_adapter": 5, "max_domain": "0x04""#;
        let description = Description::from_json(&PLAIN.replace("[4]", limited)).unwrap();
        assert_eq!((description.qci().na, description.qci().nd), (5, 4));
        refused(
            "[4]",
            r#"[4], "max_adapter": 4"#,
            "adapter 0x05 in adapters is above the machine's highest, 0x04",
        );
        refused("[4]", r#"[4, 5], "max_domain": 4"#, "domain 0x05 in usage_domains is above");
        refused(
            "[4]",
            r#"[4], "control_domains": [5], "max_domain": 4"#,
            "domain 0x05 in control_domains is above",
        );
        refused("[4]", r#"[4], "apxa": false, "max_domain": 4"#, "need apxa");
    }

    #[test]
    fn refusals() {
        refused("[4]", "[]", "usage_domains is empty");
        refused("[4]", "[4, 5, \"0x04\"]", "domain 0x04 comes twice in usage_domains");
        refused("[4]", "[256]", "above 255");
        refused("[4]", r#"[4], "control_domains": [4, 4]"#, "comes twice in control_domains");
        refused(
            r#"{"adapter""#,
            r#"{"adapter": 5, "type": "CEX7A"}, {"adapter""#,
            "adapter 0x05 comes twice",
        );
        refused("[4]", r#"[4], "cards": []"#, "unknown field `cards`");
        refused("[4]", r#"[4], "usage_domains": [5]"#, "duplicate field `usage_domains`");
        refused("CEX8A", "CEX9A", "adapter 05: type \"CEX9A\"");
        refused(
            "[4]",
            r#"[4], "apmask": "-5,6""#,
            "write \"-5,6\" to apmask: mask item without + or - at position 3",
        );
        refused("[4]", r#"[4], "aqmask": "0x0g""#, "to aqmask: mask with something other than");
        refused("[4]", r#"[4], "mdevs": {"x": {}}"#, "UUID");
        let uuid = "62177883-f1bb-47f0-914d-32a22e3a8804";
        let mdev = r#"{"mdev_type": "vfio_ap-passthrough"}"#;
        refused("[4]", &format!(r#"[4], "mdevs": {{"{uuid}": {mdev}, "{uuid}": {mdev}}}"#), "comes twice");
        let mdev = r#"{"mdev_type": "vfio_ap-passthrough", "attrs": [{"assign_domain": "4x"}]}"#;
        refused(
            "[4]",
            &format!(r#"[4], "mdevs": {{"{uuid}": {mdev}}}"#),
            "write \"4x\" to assign_domain: not a decimal",
        );
        refused("[4]", "[4]]", "line 1");
    }
}
