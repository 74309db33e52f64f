//! How the matrix of a mediated device becomes the matrix of its guest.
//!
//! A mediated device may be assigned more than the host can give (over-provisioning). What the guest gets is the part that
//! the host's configuration holds, less every *adapter* of which some queue cannot be passed: the architecture knows no way
//! to withhold a single queue, and Linux chose to withhold the adapter, never the domain.
//!
//! Two filters, as in Linux's `vfio_ap_ops.c`: [`filter_matrix`] for adapters and usage domains
//! (`vfio_ap_mdev_filter_matrix`), [`filter_control_domains`] for control domains (`vfio_ap_mdev_filter_cdoms`), which asks
//! about no queue and resets none. [`filter`] is both. Each filters the whole matrix: Linux once looked only at what had been
//! added (CVE-2024-26620). When something is *taken away*, Linux clears the bits in the guest's matrix and does not filter.
//!
//! Pure: the caller keeps the queues, for instance in a [`QueueTable`], and carries out the resets.

use crate::{Apid, Apqi, Apqn, Mask256, Matrix};

/// What the filter asks about the queues that are *linked* to the mediated device: bound to vfio_ap and assigned. The filter
/// asks about assigned queues only, so whoever answers need not know the assignment.
pub trait Queues {
    /// Which queues of the adapter in the domains `among` are bound to vfio_ap.
    fn bound(&self, apid: Apid, among: &Mask256) -> Mask256;

    /// Whether every queue of the adapter in the domains `among` is bound, with a last reset that [`passable_after`] accepts.
    /// True for no domains.
    fn all_passable(&self, apid: Apid, among: &Mask256) -> bool;
}

/// The response code with which the last reset of a queue ended; `None` unless the queue is bound to vfio_ap.
impl<F: Fn(Apqn) -> Option<u8>> Queues for F {
    fn bound(&self, apid: Apid, among: &Mask256) -> Mask256 {
        among.iter().filter(|&apqi| self(Apqn::new(apid, Apqi(apqi))).is_some()).collect()
    }

    fn all_passable(&self, apid: Apid, among: &Mask256) -> bool {
        among.iter().all(|apqi| self(Apqn::new(apid, Apqi(apqi))).is_some_and(passable_after))
    }
}

/// Whether a queue whose last reset ended with this response code may be passed to a guest: 00 normal, 03 deconfigured,
/// 04 checkstopped. In the latter two states no message of a former user can be read, and the guest sees the state itself.
pub const fn passable_after(response_code: u8) -> bool {
    matches!(response_code, 0x00 | 0x03 | 0x04)
}

/// Every queue that is bound to vfio_ap, as two masks an adapter, so that the filter compares rows instead of queues.
///
/// 16 KiB, whatever is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueTable {
    /// By APID: the domains whose queue is bound.
    bound: [Mask256; 256],
    /// By APID: the domains whose queue is bound and passable.
    passable: [Mask256; 256],
}

impl QueueTable {
    /// No queue is bound.
    pub const fn new() -> Self {
        Self { bound: [Mask256::EMPTY; 256], passable: [Mask256::EMPTY; 256] }
    }

    /// Notes that the queue is bound and that its last reset ended with this response code, or that it is not bound.
    pub const fn set(&mut self, apqn: Apqn, last_reset: Option<u8>) {
        let (row, domain) = (apqn.apid().0 as usize, apqn.apqi().0);
        self.bound[row].clear(domain);
        self.passable[row].clear(domain);
        if let Some(response_code) = last_reset {
            self.bound[row].set(domain);
            if passable_after(response_code) {
                self.passable[row].set(domain);
            }
        }
    }
}

impl QueueTable {
    /// Which queues of the adapter in the domains `among` are bound, with a last reset that keeps them from guests.
    pub fn unpassable(&self, apid: Apid, among: &Mask256) -> Mask256 {
        (self.bound[usize::from(apid.0)] & *among).minus(self.passable[usize::from(apid.0)])
    }
}

impl Default for QueueTable {
    fn default() -> Self {
        Self::new()
    }
}

impl Queues for QueueTable {
    fn bound(&self, apid: Apid, among: &Mask256) -> Mask256 {
        self.bound[usize::from(apid.0)] & *among
    }

    fn all_passable(&self, apid: Apid, among: &Mask256) -> bool {
        among.is_subset(&self.passable[usize::from(apid.0)])
    }
}

/// What a filter decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filtered {
    /// What the guest may reach from now on.
    pub guest: Matrix,
    /// Adapters that the guest had and that have a queue which cannot be passed (`apm_filtered`). Their queues have to be
    /// reset, see [`Filtered::resets`].
    pub removed: Mask256,
    /// Whether the filter changed one of its masks, so that the guest's APCB has to be rewritten.
    pub changed: bool,
}

impl Filtered {
    /// The queues to reset before anyone else may use them: those of the removed adapters, in the guest's usage domains
    /// *after* the filter, that are bound to vfio_ap (`reset_queues_for_apids`). The others are not ours to reset; those of a
    /// domain that leaves the guest were reset when it left.
    pub fn resets<'a, Q: Queues>(&self, queues: &'a Q) -> impl Iterator<Item = Apqn> + use<'a, Q> {
        let aqm = self.guest.aqm;
        self.removed.iter().flat_map(move |apid| {
            let apid = Apid(apid);
            queues.bound(apid, &aqm).iter().map(move |apqi| Apqn::new(apid, Apqi(apqi)))
        })
    }
}

/// Filters `assigned`, the matrix of a mediated device, through `host`, the masks of the host's own configuration (QCI),
/// and the state of its queues. `previous` is the guest's matrix until now.
///
/// [`filter_matrix`], then [`filter_control_domains`], as on each change that adds something.
pub fn filter(assigned: &Matrix, host: &Matrix, queues: &impl Queues, previous: &Matrix) -> Filtered {
    let matrix = filter_matrix(assigned, host, queues, previous);
    let control = filter_control_domains(assigned, host, &matrix.guest);
    Filtered { guest: control.guest, removed: matrix.removed, changed: matrix.changed || control.changed }
}

/// Filters adapters and usage domains, and leaves the guest's control domains as they are: `changed` does not speak of them.
///
/// Without an assigned domain no queue is asked about and the adapters stay.
pub fn filter_matrix(assigned: &Matrix, host: &Matrix, queues: &impl Queues, previous: &Matrix) -> Filtered {
    let mut guest = Matrix { adm: previous.adm, ..assigned.and(host) };
    let mut removed = Mask256::EMPTY;
    for apid in &guest.apm {
        if !queues.all_passable(Apid(apid), &guest.aqm) {
            guest.apm.clear(apid);
            if previous.apm.test(apid) {
                removed.set(apid);
            }
        }
    }
    Filtered { guest, removed, changed: guest != *previous }
}

/// Filters control domains, and leaves the guest's adapters and usage domains as they are. Control domains have no queues:
/// nothing is removed and nothing reset.
pub fn filter_control_domains(assigned: &Matrix, host: &Matrix, previous: &Matrix) -> Filtered {
    let guest = Matrix { adm: assigned.adm & host.adm, ..*previous };
    Filtered { guest, removed: Mask256::EMPTY, changed: guest != *previous }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mask(numbers: &[u8]) -> Mask256 {
        numbers.iter().copied().collect()
    }

    /// Adapters and domains; control domains only where a test says so.
    type Pair<'a> = (&'a [u8], &'a [u8]);

    fn matrix((apids, apqis): Pair) -> Matrix {
        Matrix { apm: mask(apids), aqm: mask(apqis), adm: Mask256::EMPTY }
    }

    const ALL: Matrix = Matrix { apm: Mask256::ALL, aqm: Mask256::ALL, adm: Mask256::ALL };
    const NONE: Pair = (&[], &[]);

    struct Case<'a> {
        assigned: Pair<'a>,
        host: Matrix,
        /// Bound queues and the response code of their last reset.
        bound: &'a [(u16, u8)],
        previous: Pair<'a>,
        guest: Pair<'a>,
        removed: &'a [u8],
        resets: &'a [u16],
    }

    fn table(bound: &[(u16, u8)]) -> QueueTable {
        let mut table = QueueTable::new();
        bound.iter().for_each(|&(q, rc)| table.set(Apqn(q), Some(rc)));
        table
    }

    #[track_caller]
    fn check(name: &str, case: Case) {
        let queues = |q: Apqn| case.bound.iter().find(|(n, _)| *n == q.0).map(|(_, rc)| *rc);
        let table = table(case.bound);
        let (assigned, previous) = (matrix(case.assigned), matrix(case.previous));
        let got = filter(&assigned, &case.host, &table, &previous);
        let guest = matrix(case.guest);
        let want = Filtered { guest, removed: mask(case.removed), changed: guest != previous };
        assert_eq!(got, want, "{name}");
        assert_eq!(filter(&assigned, &case.host, &queues, &previous), want, "{name}: queue by queue");
        assert!(got.resets(&table).map(|q| q.0).eq(case.resets.iter().copied()), "{name}: resets");
    }

    const BOUND_04_05: [(u16, u8); 6] =
        [(0x0404, 0), (0x0422, 0), (0x0435, 0), (0x0504, 0), (0x0522, 0), (0x0535, 0)];
    const DOMAINS: &[u8] = &[0x04, 0x22, 0x35];

    const ASSIGNED_04_05: Pair = (&[4, 5], DOMAINS);

    /// A guest with [`ASSIGNED_04_05`] on a host that has all of it.
    fn case<'a>(
        bound: &'a [(u16, u8)],
        previous: Pair<'a>,
        guest: Pair<'a>,
        removed: &'a [u8],
        resets: &'a [u16],
    ) -> Case<'a> {
        Case { assigned: ASSIGNED_04_05, host: ALL, bound, previous, guest, removed, resets }
    }

    #[test]
    fn doc_v12_10_adapter_05_is_filtered_because_05_0035_is_not_bound() {
        let five = &BOUND_04_05[..5];
        check("the table", case(five, NONE, (&[4], DOMAINS), &[], &[]));
        check(
            "the table, guest had 05",
            case(five, ASSIGNED_04_05, (&[4], DOMAINS), &[5], &[0x0504, 0x0522]),
        );
        check("all bound", case(&BOUND_04_05, NONE, ASSIGNED_04_05, &[], &[]));
        check("nothing changes", case(&BOUND_04_05, ASSIGNED_04_05, ASSIGNED_04_05, &[], &[]));
        check("nothing bound", case(&[], ASSIGNED_04_05, (&[], DOMAINS), &[4, 5], &[]));
        check("05.0035 is bound again", case(&BOUND_04_05, (&[4], DOMAINS), ASSIGNED_04_05, &[], &[]));
    }

    /// The document asks of a queue to be plugged that the domain's queue on *every* adapter of the guest be bound, too.
    /// The merged driver takes the other adapter out instead.
    #[test]
    fn doc_v7_15_probed_queue_is_plugged_when_its_adapter_is_complete() {
        check("first queues of 04", case(&BOUND_04_05[..2], NONE, (&[], DOMAINS), &[], &[]));
        check("last queue of 04", case(&BOUND_04_05[..3], (&[], DOMAINS), (&[4], DOMAINS), &[], &[]));
        check("05 is not complete", case(&BOUND_04_05[..5], (&[4], DOMAINS), (&[4], DOMAINS), &[], &[]));
    }

    /// A queue that goes takes its adapter, never its domain.
    #[test]
    fn doc_v7_15_removed_queue_takes_its_adapter_not_its_domain() {
        check(
            "04.0022 goes",
            Case {
                assigned: (&[4, 5], DOMAINS),
                host: ALL,
                bound: &[(0x0404, 0), (0x0435, 0), (0x0504, 0), (0x0522, 0), (0x0535, 0)],
                previous: (&[4, 5], DOMAINS),
                guest: (&[5], DOMAINS),
                removed: &[4],
                resets: &[0x0404, 0x0435],
            },
        );
    }

    /// The document filters domain 0054 and keeps the guest as it was; the merged driver takes the adapter out.
    #[test]
    fn doc_v11_08_assigning_domain_0054() {
        let bound = [(0x0404, 0), (0x0447, 0), (0x0454, 0)];
        let case = |bound, guest, removed, resets| Case {
            assigned: (&[4], &[0x04, 0x47, 0x54]),
            host: ALL,
            bound,
            previous: (&[4], &[0x04, 0x47]),
            guest,
            removed,
            resets,
        };
        let domains: &[u8] = &[0x04, 0x47, 0x54];
        check("04.0054 is bound", case(&bound, (&[4], domains), &[], &[]));
        check("04.0054 is not", case(&bound[..2], (&[], domains), &[4], &[0x0404, 0x0447]));
    }

    #[test]
    fn doc_v11_08_bound_after_start_with_an_empty_apcb() {
        let case = |bound, previous, guest| Case {
            assigned: (&[4], &[4]),
            host: ALL,
            bound,
            previous,
            guest,
            removed: &[],
            resets: &[],
        };
        check("start, nothing bound", case(&[], NONE, (&[], &[4])));
        check("04.0004 is bound", case(&[(0x0404, 0)], (&[], &[4]), (&[4], &[4])));
    }

    /// CVE-2024-26620: looking only at the added domain would let 06 back in.
    #[test]
    fn v01_adding_filters_the_whole_matrix() {
        let bound = [(0x0504, 0), (0x0547, 0), (0x0647, 0)];
        let case = |assigned, previous, guest| Case {
            assigned,
            host: ALL,
            bound: &bound,
            previous,
            guest,
            removed: &[],
            resets: &[],
        };
        check("06.0004 is not bound", case((&[5, 6], &[4]), NONE, (&[5], &[4])));
        check("domain 47 is added", case((&[5, 6], &[4, 0x47]), (&[5], &[4]), (&[5], &[4, 0x47])));
        check("adapter 06 is added", case((&[5, 6], &[4, 0x47]), (&[5], &[4, 0x47]), (&[5], &[4, 0x47])));
    }

    #[test]
    fn v02_filter_matrix_and_host_configuration() {
        let host = matrix((&[5, 7], &[4, 0x47]));
        check(
            "06 and domain ab are assigned, not in the host, and take nothing away",
            Case {
                assigned: (&[5, 6], &[4, 0xab]),
                host,
                bound: &[(0x0504, 0)],
                previous: NONE,
                guest: (&[5], &[4]),
                removed: &[],
                resets: &[],
            },
        );
        check(
            "an adapter gone from the host is not one that the filter removes",
            Case {
                assigned: (&[5, 6], &[4]),
                host,
                bound: &[(0x0504, 0), (0x0604, 0)],
                previous: (&[5, 6], &[4]),
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
                previous: NONE,
                guest: (&[5, 7], &[]),
                removed: &[],
                resets: &[],
            },
        );
    }

    /// Linked queues of the adapter in the domains that the guest has after the filter, whether or not they are passable.
    #[test]
    fn v04_queues_of_a_filtered_adapter_are_reset() {
        check(
            "04.0035 is not bound, 04.0047 not assigned, domain ab not in the host",
            Case {
                assigned: (&[4], &[0x04, 0x22, 0x35, 0xab]),
                host: matrix((&[4], &[0x04, 0x22, 0x35, 0x47])),
                bound: &[(0x0404, 0), (0x0422, 5), (0x0447, 0), (0x04ab, 0)],
                previous: (&[4], &[0x04]),
                guest: (&[], DOMAINS),
                removed: &[4],
                resets: &[0x0404, 0x0422],
            },
        );
    }

    #[test]
    fn v08_an_empty_result_is_a_change() {
        let case = |assigned, guest| Case {
            assigned,
            host: ALL,
            bound: &[(0x0504, 0)],
            previous: (&[5], &[4]),
            guest,
            removed: &[],
            resets: &[],
        };
        check("the last adapter goes", case((&[], &[4]), (&[], &[4])));
        check("the last domain goes", case((&[5], &[]), (&[5], &[])));
        check("everything goes", case(NONE, NONE));
    }

    /// Filters control domains `from` to `to`, on a guest with 05.0004 whose queue has been unbound meanwhile.
    #[track_caller]
    fn check_control_domains(from: &[u8], assigned: &[u8], host: &[u8], to: &[u8]) {
        let pair = matrix((&[5], &[4]));
        let previous = Matrix { adm: mask(from), ..pair };
        let assigned = Matrix { adm: mask(assigned), ..pair };
        let host = Matrix { adm: mask(host), ..ALL };
        let got = filter_control_domains(&assigned, &host, &previous);
        let guest = Matrix { adm: mask(to), ..pair };
        assert_eq!(got, Filtered { guest, removed: Mask256::EMPTY, changed: guest != previous });
        assert_eq!(got.resets(&table(&[(0x0504, 0)])).count(), 0);

        let bound = table(&[(0x0504, 0)]);
        assert_eq!(filter(&assigned, &host, &bound, &previous), got, "the two filters together");
        let alone = filter_matrix(&assigned, &host, &bound, &previous);
        assert_eq!((alone.guest, alone.changed), (previous, false), "the matrix alone");
    }

    #[test]
    fn v10_removing_control_domains_only() {
        check_control_domains(&[4, 5, 6], &[4, 6], &[4, 5, 6], &[4, 6]);
        check_control_domains(&[4], &[], &[4], &[]);
    }

    #[test]
    fn v11_adding_control_domains_only_resets_nothing() {
        check_control_domains(&[], &[4], &[4], &[4]);
        check_control_domains(&[4], &[4, 5], &[4, 6], &[4]);
        check_control_domains(&[4], &[4, 0xff], &[4, 0xff], &[4, 0xff]);
    }

    #[test]
    fn v17_queue_passable() {
        for rc in 0..=0xff {
            let passable = [0x00, 0x03, 0x04].contains(&rc);
            check(
                &format!("response code {rc:02x}"),
                Case {
                    assigned: (&[5], &[4]),
                    host: ALL,
                    bound: &[(0x0504, rc)],
                    previous: (&[5], &[4]),
                    guest: (if passable { &[5] } else { &[] }, &[4]),
                    removed: if passable { &[] } else { &[5] },
                    resets: if passable { &[] } else { &[0x0504] },
                },
            );
        }
    }

    #[test]
    fn a_table_forgets() {
        let mut queues = table(&[(0x0504, 0)]);
        queues.set(Apqn(0x0504), Some(5));
        assert_eq!(queues, table(&[(0x0504, 2)]), "only passable or not is kept");
        queues.set(Apqn(0x0504), None);
        assert_eq!(queues, QueueTable::new());
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
            let passable = |q| queues(q).is_some_and(passable_after);
            let got = filter(&assigned, &host, &queues, &previous);
            for q in got.guest.apqns() {
                prop_assert!(assigned.test(q) && host.test(q) && passable(q));
            }
            let in_both = assigned.and(&host);
            prop_assert_eq!((got.guest.aqm, got.guest.adm), (in_both.aqm, in_both.adm));
            for apid in &in_both.apm.minus(got.guest.apm) {
                let reason = |n| !passable(Apqn::new(Apid(apid), Apqi(n)));
                prop_assert!(got.guest.aqm.iter().any(reason), "adapter {apid:02x} went for no reason");
            }
            prop_assert_eq!(got.removed, (in_both.apm & previous.apm).minus(got.guest.apm));
            prop_assert_eq!(got.changed, got.guest != previous);
            let again = filter(&assigned, &host, &queues, &got.guest);
            prop_assert!(!again.changed && again.removed.is_empty());

            let mut table = QueueTable::new();
            (0..=0xffff).map(Apqn).for_each(|q| table.set(q, queues(q)));
            prop_assert_eq!(filter(&assigned, &host, &table, &previous), got);
            prop_assert!(got.resets(&table).eq(got.resets(&queues)));
            let naive = Matrix { apm: got.removed, ..got.guest }.apqns().filter(|&q| queues(q).is_some());
            prop_assert!(got.resets(&table).eq(naive));
        }
    }
}
