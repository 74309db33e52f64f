//! What an operator gives for a mediated device: its name, or an open file of it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::FileType;

use super::name::MdevName;
use super::preflight::{Places, Problem};

/// Where the kernel has character devices by number, as links to their directories.
const BY_NUMBER: &str = "/sys/dev/char";

/// What an operator gives for a mediated device.
#[derive(Debug)]
pub enum Given {
    /// Its name: the files are opened here.
    Name(MdevName),
    /// An open `/dev/vfio/N` or `/dev/vfio/devices/vfioN`, which this process need not be able to open.
    File(OwnedFd),
}

impl From<MdevName> for Given {
    fn from(name: MdevName) -> Self {
        Self::Name(name)
    }
}

impl Places {
    /// The device whose file this is, by the number that the kernel gave to that.
    ///
    /// # Errors
    /// It is a file of something else.
    pub fn name_of(&self, file: BorrowedFd<'_>) -> Result<MdevName, Problem> {
        let not_vfio = |what: String| {
            Problem {
            what,
            cure: "open /dev/vfio/N of the mdev's group, or /dev/vfio/devices/vfioN, for reading and writing, and give that"
                .to_owned(),
        }
        };
        let status = rustix::fs::fstat(file).map_err(|e| {
            not_vfio(format!("the descriptor cannot be looked at: {}", std::io::Error::from(e)))
        })?;
        if FileType::from_raw_mode(status.st_mode) != FileType::CharacterDevice {
            return Err(not_vfio("the descriptor is of no character device".to_owned()));
        }
        let (major, minor) = (rustix::fs::major(status.st_rdev), rustix::fs::minor(status.st_rdev));
        let link = format!("{BY_NUMBER}/{major}:{minor}");
        let directory = std::fs::read_link(self.at(&link)).map_err(|e| {
            not_vfio(format!("the descriptor is of character device {major}:{minor}, and {link}: {e}"))
        })?;
        name_in(&directory).ok_or_else(|| {
            not_vfio(format!("the descriptor is of {}, not of a VFIO device", directory.display()))
        })
    }
}

/// The device whose file has this directory: a group has `…/virtual/vfio/N`, a mediated device's own file `…/vfio-dev/vfioN`.
fn name_in(directory: &Path) -> Option<MdevName> {
    let name = directory.file_name()?.to_str()?;
    match directory.parent()?.file_name()?.to_str()? {
        "vfio" => format!("/dev/vfio/{name}").parse().ok(),
        "vfio-dev" => format!("/dev/vfio/devices/{name}").parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories() {
        for (directory, want) in [
            ("../../devices/virtual/vfio/3", Some(MdevName::Group(3))),
            (
                "../../devices/vfio_ap/matrix/62177883-f1bb-47f0-914d-32a22e3a8804/vfio-dev/vfio12",
                Some(MdevName::Device(12)),
            ),
            // The container, a group without IOMMU, and others.
            ("../../devices/virtual/misc/vfio", None),
            ("../../devices/virtual/vfio/noiommu-0", None),
            ("../../devices/virtual/mem/null", None),
            ("../../devices/x/vfio-dev/3", None),
            ("vfio", None),
            ("", None),
        ] {
            assert_eq!(name_in(Path::new(directory)), want, "{directory}");
        }
    }
}
