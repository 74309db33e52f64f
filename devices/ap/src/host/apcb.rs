//! What the kernel gave a guest, held against what the filter of `crycb` makes of the same host.
//!
//! The kernel's `guest_matrix` is compared with [`crycb::filter`] over the matrix, the host's configuration and the drivers of
//! the queues. What sysfs does not tell is the response code of a queue's last reset; a queue whose reset failed is taken for
//! one that passed, so that an adapter that is withheld for that comes out as missing. Control domains are not compared:
//! `guest_matrix` has none.

use std::fmt;

use crycb::filter::filter;
use crycb::{Apqn, Crycb, CrycbFormat, Mask256, Matrix};
use uuid::Uuid;

use super::{Driver, MdevState, Snapshot, Sysfs};
use crate::host::HostError;

/// A difference between a guest's APCB and what it should be. Shown as one line that names the cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApcbDifference {
    /// The mediated device.
    pub mdev: Uuid,
    /// Adapters and usage domains that the guest has and should not have.
    pub excess: Matrix,
    /// Those that it should have and has not.
    pub missing: Matrix,
}

/// The matrix that the guest of a mediated device should have, in the form in which a CRYCB of this host can hold it.
/// Without control domains.
pub fn expected(snapshot: &Snapshot, mdev: &MdevState) -> Matrix {
    let last_reset = |apqn: Apqn| {
        let queue = snapshot.queue(apqn)?;
        (queue.driver == Some(Driver::VfioAp)).then_some(queue.last_reset)
    };
    let guest = filter(&mdev.matrix, &snapshot.configuration, &last_reset, &mdev.guest_matrix).guest;
    // The way into the control block and back drops what a format without extended addressing cannot hold.
    let held = Crycb::new(CrycbFormat::choose(true, snapshot.apxa), &guest).view().matrix();
    Matrix { adm: Mask256::EMPTY, ..held }
}

/// The mediated devices whose guests have something else than they should.
pub fn differences(snapshot: &Snapshot) -> Vec<ApcbDifference> {
    let of = |mdev: &MdevState| {
        let (is, should) = (mdev.guest_matrix, expected(snapshot, mdev));
        let only = |a: &Matrix, b: &Matrix| Matrix {
            apm: a.apm.minus(b.apm),
            aqm: a.aqm.minus(b.aqm),
            adm: Mask256::EMPTY,
        };
        // Without adapters or without domains there are no queues, and the text of guest_matrix is short of the rest.
        let comparable = is.apqns().next().is_some() || should.apqns().next().is_some();
        let found =
            ApcbDifference { mdev: mdev.uuid, excess: only(&is, &should), missing: only(&should, &is) };
        (comparable && (found.excess != Matrix::EMPTY || found.missing != Matrix::EMPTY)).then_some(found)
    };
    snapshot.mdevs.iter().filter_map(of).collect()
}

/// The differences of a real host that two looks, one after the other, both see: a single look can fall into a change.
///
/// # Errors
/// Those of [`Sysfs::snapshot`].
pub fn lasting_differences(sysfs: &Sysfs) -> Result<Vec<ApcbDifference>, HostError> {
    let mut found = differences(&sysfs.snapshot()?);
    if !found.is_empty() {
        let again = differences(&sysfs.snapshot()?);
        found.retain(|difference| again.contains(difference));
    }
    Ok(found)
}

impl ApcbDifference {
    /// What differs.
    pub fn found(&self) -> String {
        let Self { mdev, excess, missing } = self;
        let mut text = format!("mdev {mdev}: the guest's APCB is not what vfio_ap's rules give");
        for (matrix, what) in [(excess, "it has"), (missing, "it lacks")] {
            for (mask, kind) in [(&matrix.apm, "adapters"), (&matrix.aqm, "domains")] {
                if !mask.is_empty() {
                    let numbers: Vec<_> = mask.iter().map(|n| format!("{n:#04x}")).collect();
                    text += &format!("; {what} {kind} {}", numbers.join(", "));
                }
            }
        }
        text
    }

    /// What to do.
    pub fn cure(&self) -> String {
        if self.excess != Matrix::EMPTY {
            return "end the guest, and report this with `adjunct ap list --json` and the kernel's version"
                .to_owned();
        }
        format!(
            "a queue's reset failed, or nothing was filtered since a removal: writing ap_config back filters: \
             f=/sys/devices/vfio_ap/matrix/{}/ap_config; c=$(cat $f); echo $c > $f",
            self.mdev
        )
    }
}

impl fmt::Display for ApcbDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.found(), self.cure())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::{make_sysfs, put};
    use super::super::{ApHost, Description};
    use super::*;

    const ONE: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
    /// Two adapters and two domains for the guest; adapter 8 stays the host's.
    const HOST: &str = r#"{"adapters": [{"adapter": 5, "type": "CEX8A"}, {"adapter": 6, "type": "CEX7A"},
        {"adapter": 8, "type": "CEX4A"}], "usage_domains": [4, "0x47"], "control_domains": [4, "0x47"],
        "apmask": "-5,-6,-7", "mdevs": {"62177883-f1bb-47f0-914d-32a22e3a8804":
        {"mdev_type": "vfio_ap-passthrough", "attrs": [{"assign_adapter": "5"}, {"assign_adapter": "6"},
        {"assign_adapter": "7"}, {"assign_domain": "4"}, {"assign_domain": "0x47"}, {"assign_control_domain": "4"}]}}}"#;

    /// What is found when the host's `guest_matrix` is `text`, with or without the driver of 05.0004.
    fn found(text: Option<&str>, bound: bool) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let state = ApHost::rehearsal_of(&Description::from_json(HOST).unwrap()).snapshot();
        make_sysfs(root.path(), &state);
        if let Some(text) = text {
            put(root.path(), &format!("devices/vfio_ap/matrix/{ONE}/guest_matrix"), text);
        }
        if !bound {
            std::fs::remove_file(root.path().join("bus/ap/devices/05.0004/driver")).unwrap();
        }
        let found = lasting_differences(&Sysfs::new(root.path().into())).unwrap();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_filter_is_compared_with_the_kernel() {
        assert_eq!(found(None, true), [""; 0], "the model and the kernel agree");
        let all = "05.0004\n05.0047\n06.0004\n06.0047\n";
        assert_eq!(found(Some(all), true), [""; 0]);
        // The queue was unbound, and yet the guest has its adapter.
        let [text] = &found(Some(all), false)[..] else { panic!() };
        assert!(text.contains("it has adapters 0x05; end the guest"), "{text}");
        assert_eq!(found(Some("06.0004\n06.0047\n"), false), [""; 0]);
        // One that nothing keeps from it is missing, and a domain.
        let [text] = &found(Some("05.0004\n"), true)[..] else { panic!() };
        assert!(
            text.contains("it lacks adapters 0x06; it lacks domains 0x47; a queue's reset failed"),
            "{text}"
        );
        let [text] = &found(Some("05.0004\n05.0047\n06.0004\n06.0047\n08.0004\n08.0047\n"), true)[..] else {
            panic!()
        };
        assert!(text.contains("it has adapters 0x08"), "{text}");
        let [text] = &found(Some("\n"), true)[..] else { panic!("no queues at all") };
        assert!(text.contains("it lacks adapters 0x05, 0x06; it lacks domains 0x04, 0x47"), "{text}");
    }
}
