//! How the matrix of a mediated device becomes the matrix of its guest.
//!
//! A mediated device may be assigned more than the host can give (over-provisioning). What the guest gets is the part that
//! the host's configuration holds, less every *adapter* of which some queue cannot be passed: the architecture knows no way
//! to withhold a single queue, and Linux chose to withhold the adapter, never the domain (`vfio_ap_mdev_filter_matrix`).
//!
//! Pure: the caller keeps the queues and carries out the resets.

use crate::{Apid, Apqi, Apqn, Mask256, Matrix};

/// What the filter asks about the queues that the mediated device can pass.
pub trait Queues {
    /// The response code with which the last reset of the queue ended; `None` unless the queue is bound to vfio_ap.
    fn last_reset(&self, apqn: Apqn) -> Option<u8>;

    /// Whether every queue of the adapter in the domains `aqm` is bound and passable. Override it where whole rows can be
    /// answered at once.
    fn all_passable(&self, apid: Apid, aqm: &Mask256) -> bool {
        aqm.iter().all(|apqi| self.last_reset(Apqn::new(apid, Apqi(apqi))).is_some_and(passable_after))
    }
}

impl<F: Fn(Apqn) -> Option<u8>> Queues for F {
    fn last_reset(&self, apqn: Apqn) -> Option<u8> {
        self(apqn)
    }
}

/// Whether a queue whose last reset ended with this response code may be passed to a guest: 00 normal, 03 deconfigured,
/// 04 checkstopped. In the latter two states no message of a former user can be read, and the guest sees the state itself.
pub const fn passable_after(response_code: u8) -> bool {
    matches!(response_code, 0x00 | 0x03 | 0x04)
}

/// What [`filter`] decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filtered {
    /// What the guest may reach from now on.
    pub guest: Matrix,
    /// Adapters that the guest had and that lost a passable queue. Their queues have to be reset, see [`Filtered::resets`].
    pub removed: Mask256,
    /// Whether `guest` differs from the matrix before, so that the guest's APCB has to be rewritten.
    pub changed: bool,
}

impl Filtered {
    /// The queues to reset before anyone else may use them: those of the removed adapters, in the guest's domains, that are
    /// bound to vfio_ap. The others are not ours to reset.
    pub fn resets<'a, Q: Queues>(&self, queues: &'a Q) -> impl Iterator<Item = Apqn> + use<'a, Q> {
        Matrix { apm: self.removed, ..self.guest }.apqns().filter(|&q| queues.last_reset(q).is_some())
    }
}

/// Filters `assigned`, the matrix of a mediated device, through `host`, the masks of the host's own configuration (QCI),
/// and the state of its queues. `previous` is the guest's matrix until now.
///
/// Without an assigned domain no queue is asked about and the adapters stay.
pub fn filter(assigned: &Matrix, host: &Matrix, queues: &impl Queues, previous: &Matrix) -> Filtered {
    let mut guest = assigned.and(host);
    let mut removed = Mask256::EMPTY;
    for apid in guest.apm.iter() {
        if !queues.all_passable(Apid(apid), &guest.aqm) {
            guest.apm.clear(apid);
            if previous.apm.test(apid) {
                removed.set(apid);
            }
        }
    }
    Filtered { guest, removed, changed: guest != *previous }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn mask(numbers: &[u8]) -> Mask256 {
        numbers.iter().copied().collect()
    }

    fn matrix(apids: &[u8], apqis: &[u8]) -> Matrix {
        Matrix { apm: mask(apids), aqm: mask(apqis), adm: Mask256::EMPTY }
    }

    const HOST: Matrix = Matrix { apm: Mask256::ALL, aqm: Mask256::ALL, adm: Mask256::ALL };

    struct Case<'a> {
        assigned: (&'a [u8], &'a [u8]),
        host: Matrix,
        /// Bound queues and the response code of their last reset.
        bound: &'a [(u16, u8)],
        previous: (&'a [u8], &'a [u8]),
        guest: (&'a [u8], &'a [u8]),
        removed: &'a [u8],
        resets: &'a [u16],
    }

    fn check(name: &str, case: Case) {
        let bound: HashMap<u16, u8> = case.bound.iter().copied().collect();
        let queues = |q: Apqn| bound.get(&q.0).copied();
        let previous = matrix(case.previous.0, case.previous.1);
        let got = filter(&matrix(case.assigned.0, case.assigned.1), &case.host, &queues, &previous);
        let guest = matrix(case.guest.0, case.guest.1);
        assert_eq!(
            got,
            Filtered { guest, removed: mask(case.removed), changed: guest != previous },
            "{name}"
        );
        assert!(got.resets(&queues).map(|q| q.0).eq(case.resets.iter().copied()), "{name}: resets");
    }

    #[test]
    fn by_adapter() {
        let none = (&[][..], &[][..]);
        let all = [(0x0404, 0), (0x0422, 0), (0x0435, 0), (0x0504, 0), (0x0522, 0), (0x0535, 0)];
        let assigned = (&[4, 5][..], &[0x04, 0x22, 0x35][..]);
        let case = |bound, previous, guest, removed, resets| Case {
            assigned,
            host: HOST,
            bound,
            previous,
            guest,
            removed,
            resets,
        };
        let domains = assigned.1;
        check("all bound", case(&all, none, assigned, &[], &[]));
        check("nothing changes", case(&all, assigned, assigned, &[], &[]));
        check("the series' example: 05.0035 unbound", case(&all[..5], none, (&[4], domains), &[], &[]));
        check(
            "the same while the guest had it",
            case(&all[..5], assigned, (&[4], domains), &[5], &[0x0504, 0x0522]),
        );
        check("nothing bound", case(&[], assigned, (&[], domains), &[4, 5], &[]));
        check("an adapter comes back", case(&all, (&[4], domains), assigned, &[], &[]));
    }

    #[test]
    fn by_last_reset() {
        for (rc, passable) in [
            (0x00, true),
            (0x01, false),
            (0x02, false),
            (0x03, true),
            (0x04, true),
            (0x05, false),
            (0x0a, false),
            (0xff, false),
        ] {
            let kept = [5];
            check(
                &format!("response code {rc:02x}"),
                Case {
                    assigned: (&[5], &[4]),
                    host: HOST,
                    bound: &[(0x0504, rc)],
                    previous: (&[5], &[4]),
                    guest: (if passable { &kept } else { &[] }, &[4]),
                    removed: if passable { &[] } else { &kept },
                    resets: if passable { &[] } else { &[0x0504] },
                },
            );
        }
    }

    #[test]
    fn by_host_configuration() {
        let host = matrix(&[5, 7], &[4, 0x47]);
        check(
            "over-provisioned: 06 and domain ab are not in the host and do no harm",
            Case {
                assigned: (&[5, 6], &[4, 0xab]),
                host,
                bound: &[(0x0504, 0)],
                previous: (&[5, 6], &[4, 0xab]),
                guest: (&[5], &[4]),
                removed: &[],
                resets: &[],
            },
        );
        check(
            "no domain: adapters stay",
            Case {
                assigned: (&[5, 6, 7], &[]),
                host,
                bound: &[],
                previous: (&[], &[]),
                guest: (&[5, 7], &[]),
                removed: &[],
                resets: &[],
            },
        );
        check(
            "the last adapter goes: an empty result is a change",
            Case {
                assigned: (&[], &[4]),
                host,
                bound: &[],
                previous: (&[5], &[4]),
                guest: (&[], &[4]),
                removed: &[],
                resets: &[],
            },
        );
    }

    #[test]
    fn control_domains() {
        let assigned = Matrix { adm: mask(&[4, 5]), ..matrix(&[5], &[4]) };
        let host = Matrix { adm: mask(&[5, 6]), ..HOST };
        let bound = |_: Apqn| Some(0);
        let got = filter(&assigned, &host, &bound, &matrix(&[5], &[4]));
        assert_eq!(got.guest.adm, mask(&[5]));
        assert!(got.changed, "a control domain alone is a change");
        assert_eq!(got.resets(&bound).count(), 0, "and resets nothing");
    }

    prop_compose! {
        fn matrices()(apm: [u8; 32], aqm: [u8; 32], adm: [u8; 32]) -> Matrix {
            let mask = Mask256::from_bytes;
            Matrix { apm: mask(apm), aqm: mask(aqm), adm: mask(adm) }
        }
    }

    proptest! {
        /// The invariants, with queues that fail here and there as the seed says.
        #[test]
        fn invariants(assigned in matrices(), host in matrices(), previous in matrices(), rare in 1u16..2000, seed: u16) {
            let queues = |q: Apqn| match q.0.wrapping_mul(40503).wrapping_add(seed) % rare {
                1 => None,
                2 => Some(0x05),
                3 => Some(0x03),
                _ => Some(0),
            };
            let got = filter(&assigned, &host, &queues, &previous);
            for q in got.guest.apqns() {
                prop_assert!(assigned.test(q) && host.test(q));
                prop_assert!(queues.last_reset(q).is_some_and(passable_after));
            }
            let in_both = assigned.and(&host);
            prop_assert_eq!((got.guest.aqm, got.guest.adm), (in_both.aqm, in_both.adm));
            for apid in &in_both.apm.minus(got.guest.apm) {
                let reason = |n| !queues.last_reset(Apqn::new(Apid(apid), Apqi(n))).is_some_and(passable_after);
                prop_assert!(got.guest.aqm.iter().any(reason), "adapter {apid:02x} went for no reason");
            }
            prop_assert_eq!(got.removed, (in_both.apm & previous.apm).minus(got.guest.apm));
            prop_assert_eq!(got.changed, got.guest != previous);
            let again = filter(&assigned, &host, &queues, &got.guest);
            prop_assert!(!again.changed && again.removed.is_empty());
        }
    }
}
