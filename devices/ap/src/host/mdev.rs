//! Mediated devices: how mdevctl defines them, and what their attributes do.

use super::HostError;
use super::number::{self, NumberError};
use crycb::{Mask256, Matrix};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The definition of a mediated device in mdevctl's JSON, as it stands in `/etc/mdevctl.d` and as `mdevctl define
/// --jsonfile` takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MdevDefinition {
    /// Always `vfio_ap-passthrough`.
    pub mdev_type: MdevType,
    /// When mdevctl starts the device. The simulated host starts every device.
    #[serde(default)]
    pub start: Start,
    /// Writes to the device's attributes, in this order.
    #[serde(default)]
    pub attrs: Vec<Attribute>,
}

/// The type of a mediated device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MdevType {
    /// The only type of the vfio_ap driver.
    #[serde(rename = "vfio_ap-passthrough")]
    VfioApPassthrough,
}

/// When mdevctl starts a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the host.
    Auto,
    /// On request.
    #[default]
    Manual,
}

/// A write to an attribute: in JSON an object with one field, `{"assign_adapter": "5"}`. Numbers are in C notation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the attributes of Linux's documentation")]
pub enum Attribute {
    AssignAdapter(String),
    UnassignAdapter(String),
    AssignDomain(String),
    UnassignDomain(String),
    AssignControlDomain(String),
    UnassignControlDomain(String),
    /// All three masks at once: adapters, domains, control domains, in hexadecimal with commas (or newlines) between. An empty
    /// one is zeros, and what follows the third is not looked at.
    ApConfig(String),
}

/// What the rules of assignment ask about the rest of the host.
pub(super) trait Surroundings {
    /// The highest adapter and domain number that the machine can have.
    fn highest(&self) -> (u8, u8);

    /// Refuses a matrix with a queue that the default drivers own or another mediated device has.
    fn check_owners(&self, mdev: Uuid, matrix: &Matrix) -> Result<(), HostError>;
}

/// A mediated device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mdev {
    /// Its name.
    pub uuid: Uuid,
    /// What is assigned to it, which can be more than the host has; sysfs `matrix` and `control_domains`.
    pub matrix: Matrix,
    /// What its guest may reach, or would if there were one; sysfs `guest_matrix`. The driver's shadow APCB.
    pub shadow: Matrix,
    /// Of `matrix`, what the host's configuration gained in the bus scan that is going on.
    pub(super) adding: Matrix,
    /// The VM that has it open.
    pub guest: Option<u64>,
}

impl Mdev {
    pub(super) fn new(uuid: Uuid) -> Self {
        Self { uuid, matrix: Matrix::EMPTY, shadow: Matrix::EMPTY, adding: Matrix::EMPTY, guest: None }
    }

    /// sysfs `matrix`: the queues, one a line; with adapters or domains alone, those.
    pub fn matrix_text(&self) -> String {
        matrix_text(&self.matrix)
    }

    /// sysfs `guest_matrix`, in the same form.
    pub fn guest_matrix_text(&self) -> String {
        matrix_text(&self.shadow)
    }

    /// sysfs `control_domains`: the numbers, one a line.
    pub fn control_domains_text(&self) -> String {
        self.matrix.adm.iter().map(|n| format!("{n:04x}\n")).collect()
    }

    /// sysfs `ap_config`: the three masks with commas between.
    pub fn ap_config_text(&self) -> String {
        let Matrix { apm, aqm, adm } = self.matrix;
        format!("{apm},{aqm},{adm}\n")
    }

    /// The definition that makes the device anew, as `mdevctl list --dumpjson` prints one.
    pub fn definition(&self) -> MdevDefinition {
        let texts =
            |mask: Mask256| mask.iter().map(|n| if n < 10 { n.to_string() } else { format!("{n:#x}") });
        let attrs = texts(self.matrix.apm)
            .map(Attribute::AssignAdapter)
            .chain(texts(self.matrix.aqm).map(Attribute::AssignDomain))
            .chain(texts(self.matrix.adm).map(Attribute::AssignControlDomain))
            .collect();
        MdevDefinition { mdev_type: MdevType::VfioApPassthrough, start: Start::Manual, attrs }
    }
}

fn matrix_text(matrix: &Matrix) -> String {
    let Matrix { apm, aqm, .. } = matrix;
    if aqm.is_empty() {
        apm.iter().map(|n| format!("{n:02x}.\n")).collect()
    } else if apm.is_empty() {
        aqm.iter().map(|n| format!(".{n:04x}\n")).collect()
    } else {
        matrix.apqns().map(|apqn| format!("{apqn}\n")).collect()
    }
}

impl Attribute {
    /// The attribute of this sysfs name with a text to write; `None` when no attribute that can be written has it.
    pub fn named(name: &str, text: &str) -> Option<Self> {
        let make = match name {
            "assign_adapter" => Self::AssignAdapter,
            "unassign_adapter" => Self::UnassignAdapter,
            "assign_domain" => Self::AssignDomain,
            "unassign_domain" => Self::UnassignDomain,
            "assign_control_domain" => Self::AssignControlDomain,
            "unassign_control_domain" => Self::UnassignControlDomain,
            "ap_config" => Self::ApConfig,
            _ => return None,
        };
        Some(make(text.to_owned()))
    }

    /// The attribute's name, with the text written to it.
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::AssignAdapter(text) => ("assign_adapter", text),
            Self::UnassignAdapter(text) => ("unassign_adapter", text),
            Self::AssignDomain(text) => ("assign_domain", text),
            Self::UnassignDomain(text) => ("unassign_domain", text),
            Self::AssignControlDomain(text) => ("assign_control_domain", text),
            Self::UnassignControlDomain(text) => ("unassign_control_domain", text),
            Self::ApConfig(text) => ("ap_config", text),
        }
    }

    /// Whether the text means anything to this attribute, whatever the host has.
    pub(super) fn check_syntax(&self, mdev: Uuid) -> Result<(), HostError> {
        match self {
            Self::ApConfig(_) => self.masks(mdev).map(|_| ()),
            _ => self.number(mdev).map(|_| ()),
        }
    }

    /// What the write makes of `matrix`.
    pub(super) fn write(
        &self,
        mdev: Uuid,
        mut matrix: Matrix,
        host: &impl Surroundings,
    ) -> Result<Matrix, HostError> {
        let before = matrix;
        let (max_apid, max_apqi) = host.highest();
        let limited = |kind, number, max| match u8::try_from(number) {
            Ok(n) if n <= max => Ok(n),
            _ => Err(HostError::AboveMaximum { mdev, kind, number, max }),
        };
        let adapter = |number| limited("adapter", number, max_apid);
        let domain = |number| limited("domain", number, max_apqi);
        let control_domain = |number| limited("control domain", number, max_apqi);

        match self {
            Self::AssignAdapter(_) => matrix.apm.set(adapter(self.number(mdev)?)?),
            Self::AssignDomain(_) => matrix.aqm.set(domain(self.number(mdev)?)?),
            Self::AssignControlDomain(_) => matrix.adm.set(control_domain(self.number(mdev)?)?),
            Self::UnassignAdapter(_) => matrix.apm.clear(adapter(self.number(mdev)?)?),
            Self::UnassignDomain(_) => matrix.aqm.clear(domain(self.number(mdev)?)?),
            Self::UnassignControlDomain(_) => matrix.adm.clear(control_domain(self.number(mdev)?)?),
            Self::ApConfig(_) => matrix = self.masks(mdev)?,
        }
        match self {
            Self::AssignAdapter(_) | Self::AssignDomain(_) if matrix == before => {}
            Self::AssignAdapter(_) | Self::AssignDomain(_) => host.check_owners(mdev, &matrix)?,
            Self::ApConfig(_) => {
                host.check_owners(mdev, &matrix)?;
                matrix.apm.highest().map(|n| adapter(n.into())).transpose()?;
                matrix.aqm.highest().map(|n| domain(n.into())).transpose()?;
                matrix.adm.highest().map(|n| control_domain(n.into())).transpose()?;
            }
            _ => {}
        }
        Ok(matrix)
    }

    fn number(&self, mdev: Uuid) -> Result<u64, HostError> {
        let (attribute, text) = self.parts();
        let value = || text.to_owned();
        number::parse(text).map_err(|error| match error {
            NumberError::Syntax => HostError::Value {
                mdev,
                attribute,
                value: value(),
                expected: "a decimal, hexadecimal (0x) or octal (0) number",
            },
            NumberError::Overflow => HostError::Overflow { mdev, attribute, value: value() },
        })
    }

    fn masks(&self, mdev: Uuid) -> Result<Matrix, HostError> {
        let (attribute, text) = self.parts();
        // As the driver reads it: an empty mask is zeros, and so is the one behind a newline that ends the second; what
        // follows the third is not looked at.
        let mut parts = text.split([',', '\n']);
        let mut mask = || {
            let text = parts.next().ok_or_else(|| HostError::Value {
                mdev,
                attribute,
                value: text.to_owned(),
                expected: "three masks in hexadecimal with commas or newlines between",
            })?;
            text.parse::<Mask256>().map_err(|source| HostError::Mask {
                attribute: format!("{attribute} of mdev {mdev}"),
                text: text.to_owned(),
                source,
            })
        };
        Ok(Matrix { apm: mask()?, aqm: mask()?, adm: mask()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with adapters up to 0x3f and domains up to 0x54 whose default drivers own 07.0001.
    struct Host;

    impl Surroundings for Host {
        fn highest(&self) -> (u8, u8) {
            (0x3f, 0x54)
        }

        fn check_owners(&self, mdev: Uuid, matrix: &Matrix) -> Result<(), HostError> {
            let own = Mask256::EMPTY;
            let queues = matrix.and(&Matrix { apm: own.with(7), aqm: own.with(1), adm: own });
            if queues.apqns().count() > 0 {
                Err(HostError::HostOwned { mdev, queues: queues.into(), overridden: None })
            } else {
                Ok(())
            }
        }
    }

    /// Starts a device with these attributes: adapters, domains and control domains then, or the errno.
    fn check(attrs: &str, want: Result<[&[u8]; 3], &str>) {
        let json = format!(r#"{{"mdev_type": "vfio_ap-passthrough", "attrs": [{attrs}]}}"#);
        let definition: MdevDefinition = serde_json::from_str(&json).expect(attrs);
        let assembled =
            definition.attrs.iter().try_fold(Matrix::EMPTY, |matrix, a| a.write(Uuid::nil(), matrix, &Host));
        match (assembled, want) {
            (Ok(got), Ok(want)) => {
                let mask = |numbers: &[u8]| numbers.iter().copied().collect();
                let [apm, aqm, adm] = want.map(mask);
                assert_eq!(got, Matrix { apm, aqm, adm }, "{attrs}");
            }
            (Err(e), Err(errno)) => assert_eq!(e.errno(), errno, "{attrs}: {e}"),
            (got, want) => panic!("{attrs}: {got:?}, not {want:?}"),
        }
    }

    #[test]
    fn attributes() {
        check("", Ok([&[], &[], &[]]));
        check(
            r#"{"assign_adapter": "5"}, {"assign_domain": "0x4"}, {"assign_control_domain": "010"}"#,
            Ok([&[5], &[4], &[8]]),
        );
        check(r#"{"assign_adapter": "5"}, {"assign_adapter": "0x05"}"#, Ok([&[5], &[], &[]]));
        check(r#"{"assign_adapter": "5"}, {"unassign_adapter": "5"}"#, Ok([&[], &[], &[]]));
        check(r#"{"unassign_domain": "5"}, {"unassign_control_domain": "6"}"#, Ok([&[], &[], &[]]));
        check(
            r#"{"assign_adapter": "0x3f"}, {"assign_domain": "0x54"}, {"assign_control_domain": "0x54"}"#,
            Ok([&[0x3f], &[0x54], &[0x54]]),
        );
        for beyond in [
            r#"{"assign_adapter": "0x40"}"#,
            r#"{"assign_domain": "0x55"}"#,
            r#"{"assign_control_domain": "0x55"}"#,
            r#"{"unassign_adapter": "64"}"#,
            r#"{"assign_adapter": "261"}"#,
        ] {
            check(beyond, Err("ENODEV"));
        }
        check(r#"{"assign_adapter": "five"}"#, Err("EINVAL"));
        check(r#"{"assign_adapter": "7"}, {"assign_domain": "2"}"#, Ok([&[7], &[2], &[]]));
        check(r#"{"assign_adapter": "7"}, {"assign_domain": "1"}"#, Err("EADDRNOTAVAIL"));
        check(r#"{"assign_domain": "1"}, {"assign_adapter": "7"}"#, Err("EADDRNOTAVAIL"));
        check(r#"{"assign_control_domain": "1"}, {"assign_adapter": "7"}"#, Ok([&[7], &[], &[1]]));
    }

    #[test]
    fn ap_config() {
        check(r#"{"assign_adapter": "5"}, {"ap_config": "0x41,0x08,80\n"}"#, Ok([&[1, 7], &[4], &[0]]));
        check(r#"{"ap_config": "0x41\n0x08\n80"}"#, Ok([&[1, 7], &[4], &[0]]));
        for two in ["", ",", "\\n", "0x0,0x0", "5", "5\\n"] {
            check(&format!(r#"{{"ap_config": "{two}"}}"#), Err("EINVAL"));
        }
        check(r#"{"assign_adapter": "5"}, {"ap_config": "0x02,,0x0"}"#, Ok([&[6], &[], &[]]));
        check(r#"{"assign_adapter": "5"}, {"ap_config": ",,"}"#, Ok([&[], &[], &[]]));
        check(r#"{"assign_control_domain": "5"}, {"ap_config": "x04,0x,\n"}"#, Ok([&[5], &[], &[]]));
        check(r#"{"assign_control_domain": "5"}, {"ap_config": "0x04,0x08\n"}"#, Ok([&[5], &[4], &[]]));
        check(r#"{"ap_config": "0x04,0x08,0x08,and the rest"}"#, Ok([&[5], &[4], &[4]]));
        check(r#"{"ap_config": "0x04,0x08,0x08\n0xg\n"}"#, Ok([&[5], &[4], &[4]]));
        check(r#"{"ap_config": "0x0,+1,0x0"}"#, Err("EINVAL"));
        check(r#"{"ap_config": "0x0,0x0,0x0 "}"#, Err("EINVAL"));
        check(
            &format!(r#"{{"ap_config": "{:0<64},{:0<64},0x{:0<64}\n"}}"#, "04", "08", "08"),
            Ok([&[5], &[4], &[4]]),
        );
        check(&format!(r#"{{"ap_config": "{:0<65},0,0"}}"#, "04"), Err("EINVAL"));
        check(r#"{"ap_config": "0x01,0x40,0x0"}"#, Err("EADDRNOTAVAIL"));
        check(r#"{"ap_config": "0x00000000000000008,0x0,0x0"}"#, Err("ENODEV"));
        check(r#"{"ap_config": "0x0,0x0000000000000000000001,0x0"}"#, Err("ENODEV"));
        check(r#"{"ap_config": "0x0,0x0,0x0000000000000000000001"}"#, Err("ENODEV"));
    }

    #[test]
    fn definitions() {
        let json = r#"{"mdev_type":"vfio_ap-passthrough","start":"auto","attrs":[{"assign_adapter":"5"}]}"#;
        let definition: MdevDefinition = serde_json::from_str(json).unwrap();
        assert_eq!(definition.start, Start::Auto);
        assert_eq!(serde_json::to_string(&definition).unwrap(), json);
        for (from, to) in [
            ("vfio_ap-passthrough", "vfio_ccw-io"),
            ("\"auto\"", "\"never\""),
            ("assign_adapter", "assign_card"),
            ("\"5\"", "5"),
            ("\"start\"", "\"begin\""),
            ("{\"assign_adapter\":\"5\"}", "{\"assign_adapter\":\"5\",\"assign_domain\":\"4\"}"),
        ] {
            assert!(serde_json::from_str::<MdevDefinition>(&json.replace(from, to)).is_err(), "{to}");
        }
    }
}
