//! The three masks that make an AP configuration.

use crate::{Apid, Apqi, Apqn, Mask256};

/// An AP configuration: what a machine, a mediated device or a guest may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Matrix {
    /// Adapters (APM).
    pub apm: Mask256,
    /// Usage domains (AQM).
    pub aqm: Mask256,
    /// Control domains (ADM).
    pub adm: Mask256,
}

impl Matrix {
    /// Nothing: no adapter, no domain.
    pub const EMPTY: Self = Self { apm: Mask256::EMPTY, aqm: Mask256::EMPTY, adm: Mask256::EMPTY };

    /// Whether the queue is in the configuration: its adapter and its domain both are.
    pub const fn test(&self, apqn: Apqn) -> bool {
        self.apm.test(apqn.apid().0) && self.aqm.test(apqn.apqi().0)
    }

    /// Every queue of the configuration, ascending: adapters x usage domains.
    pub fn apqns(&self) -> impl Iterator<Item = Apqn> + use<> {
        let aqm = self.aqm;
        self.apm.iter().flat_map(move |apid| aqm.iter().map(move |apqi| Apqn::new(Apid(apid), Apqi(apqi))))
    }

    /// What this configuration and `other` both hold, mask by mask.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self { apm: self.apm & other.apm, aqm: self.aqm & other.aqm, adm: self.adm & other.adm }
    }

    /// What this configuration or `other` holds, mask by mask.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self { apm: self.apm | other.apm, aqm: self.aqm | other.aqm, adm: self.adm | other.adm }
    }

    /// What this configuration holds and `other` does not, mask by mask.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self {
            apm: self.apm.minus(other.apm),
            aqm: self.aqm.minus(other.aqm),
            adm: self.adm.minus(other.adm),
        }
    }

    /// The queues that both configurations hold. Control domains may be shared and do not count.
    pub fn shared_apqns(&self, other: &Self) -> impl Iterator<Item = Apqn> + use<> {
        self.and(other).apqns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(apids: &[u8], apqis: &[u8], want: &[u16]) {
        let matrix = Matrix {
            apm: apids.iter().copied().collect(),
            aqm: apqis.iter().copied().collect(),
            adm: Mask256::EMPTY,
        };
        assert!(matrix.apqns().map(|q| q.0).eq(want.iter().copied()), "{matrix:?}");
    }

    #[test]
    fn cartesian_product() {
        check(&[5, 6], &[4, 0xab], &[0x0504, 0x05ab, 0x0604, 0x06ab]);
        check(&[0, 255], &[0, 255], &[0x0000, 0x00ff, 0xff00, 0xffff]);
        check(&[5], &[], &[]);
        check(&[], &[4], &[]);
    }

    #[test]
    fn three_guests_of_the_documentation_share_nothing() {
        let matrix = |apids: [u8; 2], apqis: [u8; 2]| Matrix {
            apm: apids.into_iter().collect(),
            aqm: apqis.into_iter().collect(),
            adm: Mask256::ALL,
        };
        let guests = [matrix([5, 6], [4, 0xab]), matrix([5, 5], [0x47, 0xff]), matrix([6, 6], [0x47, 0xff])];
        assert_eq!(guests[0].shared_apqns(&guests[1]).count(), 0);
        assert_eq!(guests[0].shared_apqns(&guests[2]).count(), 0);
        assert_eq!(guests[1].shared_apqns(&guests[2]).count(), 0);
        assert_eq!(guests[1].shared_apqns(&matrix([5, 6], [0xff, 4])).collect::<Vec<_>>(), [Apqn(0x05ff)]);
    }

    proptest! {
        #[test]
        fn apqns_are_what_test_says(apm: [u8; 32], aqm: [u8; 32]) {
            let matrix =
                Matrix { apm: Mask256::from_bytes(apm), aqm: Mask256::from_bytes(aqm), adm: Mask256::EMPTY };
            prop_assert!(matrix.apqns().eq((0..=0xffff).map(Apqn).filter(|&q| matrix.test(q))));
        }
    }
}
