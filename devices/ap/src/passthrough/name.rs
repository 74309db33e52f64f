//! What a mediated device can be called.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Where sysfs has mediated devices.
const PLACES: [&str; 2] = ["/sys/devices/vfio_ap/matrix/", "/sys/bus/mdev/devices/"];

/// A mediated device as an operator names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MdevName {
    /// By UUID, alone or as the last part of its path in sysfs.
    Uuid(Uuid),
    /// By the number of its IOMMU group: `/dev/vfio/5`.
    Group(u32),
    /// By its own character device: `/dev/vfio/devices/vfio5`.
    Device(u32),
}

/// A text that names no mediated device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no mediated device")]
pub struct BadName(pub String);

impl BadName {
    /// What to write instead.
    pub const REMEDY: &str = "give a UUID (62177883-f1bb-47f0-914d-32a22e3a8804), /sys/devices/vfio_ap/matrix/UUID, /dev/vfio/N or \
                              /dev/vfio/devices/vfioN";
}

impl FromStr for MdevName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let bad = || BadName(text.to_owned());
        // "+5" and "05" are numbers to Rust, but no file names.
        let number = |digits: &str| {
            let number: u32 = digits.parse().map_err(|_| bad())?;
            if number.to_string() == digits { Ok(number) } else { Err(bad()) }
        };
        if let Some(digits) = text.strip_prefix("/dev/vfio/devices/vfio") {
            return number(digits).map(Self::Device);
        }
        if let Some(digits) = text.strip_prefix("/dev/vfio/") {
            return number(digits).map(Self::Group);
        }
        let name = PLACES.iter().find_map(|place| text.strip_prefix(place)).unwrap_or(text);
        Uuid::parse_str(name.trim_end_matches('/')).map(Self::Uuid).map_err(|_| bad())
    }
}

impl fmt::Display for MdevName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => write!(f, "{uuid}"),
            Self::Group(n) => write!(f, "/dev/vfio/{n}"),
            Self::Device(n) => write!(f, "/dev/vfio/devices/vfio{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        const ONE: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
        let uuid = MdevName::Uuid(ONE.parse().unwrap());
        for (text, want) in [
            (ONE, uuid),
            ("/sys/devices/vfio_ap/matrix/62177883-f1bb-47f0-914d-32a22e3a8804", uuid),
            ("/sys/bus/mdev/devices/62177883-f1bb-47f0-914d-32a22e3a8804/", uuid),
            ("/dev/vfio/0", MdevName::Group(0)),
            ("/dev/vfio/devices/vfio12", MdevName::Device(12)),
        ] {
            assert_eq!(text.parse(), Ok(want));
            assert_eq!(want.to_string().parse(), Ok(want));
        }
        for bad in [
            "",
            "5",
            "/dev/vfio/vfio",
            "/dev/vfio/",
            "/dev/vfio/+5",
            "/dev/vfio/05",
            "/dev/vfio/devices/5",
            "/etc",
        ] {
            assert_eq!(bad.parse::<MdevName>(), Err(BadName(bad.into())));
        }
    }
}
