//! The promise of the queue layer over random histories of a whole machine: every accepted request ends in exactly one full
//! reply or one visible discard, and what interruptions hold is what is enabled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;

use crycb::Matrix;
use proptest::prelude::*;

use super::*;
use crate::card::Mode;
use crate::fault::Answer;
use crate::fixture::{Bench, DEPTH, Echo, apqn, echo, mask};
use crate::queue::RESET_TIME;

const APIDS: [u8; 2] = [5, 6];
const DOMAINS: [u8; 2] = [4, 0xab];
const NIB: u64 = 0x4567;

#[derive(Clone, Debug)]
enum Step {
    Enqueue(Apqn, usize),
    /// With room for so many bytes at a time; the last part may never be asked for.
    Dequeue(Apqn, u64, usize),
    Advance(u64),
    ResetByHost(Apqn),
    ResetByGuest(Apqn),
    ResetGuest,
    Enable(Apqn, u8),
    Disable(Apqn),
    Free(Apqn),
    Adapter(u8, AdapterState),
    Unplug(u8),
    /// Another card of this type, or the same if there is one of it.
    Plug(u8, u8),
    Domains(Vec<u8>),
    /// A new description: adapters with the types of their cards, domains.
    Apply(BTreeMap<u8, u8>, Vec<u8>),
    Inject(Apqn, Fault),
    ClearFaults(Apqn),
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    let queue =
        || (prop::sample::select(&APIDS), prop::sample::select(&DOMAINS)).prop_map(|(a, d)| apqn(a, d));
    let apid = || prop::sample::select(&APIDS);
    let kind = || 13u8..=14;
    let domains = || prop::sample::subsequence(&DOMAINS, 0..=2);
    let state = prop_oneof![
        3 => Just(AdapterState::Configured),
        1 => Just(AdapterState::Deconfigured),
        1 => Just(AdapterState::CheckStopped),
        1 => Just(AdapterState::Busy),
    ];
    let code = prop::sample::select(&[
        ResponseCode::NotAvailable,
        ResponseCode::ResetInProgress,
        ResponseCode::Busy,
        ResponseCode::StateChangeInProgress,
    ]);
    let answer = (code, proptest::option::of(1u32..4)).prop_map(|(code, times)| {
        times.and_then(NonZeroU32::new).map_or(Answer::always(code), |times| Answer::times(times, code))
    });
    let fault = prop_oneof![
        answer.clone().prop_map(Fault::ResetAnswers),
        answer.prop_map(Fault::AqicAnswers),
        Just(Fault::ResetNeverEnds),
    ];
    prop_oneof![
        20 => (queue(), 0usize..60).prop_map(|(q, n)| Enqueue(q, n)),
        12 => (queue(), 1u64..70, 1usize..5).prop_map(|(q, room, parts)| Dequeue(q, room, parts)),
        12 => (0u64..200_000).prop_map(Advance),
        1 => queue().prop_map(ResetByHost),
        2 => queue().prop_map(ResetByGuest),
        1 => Just(ResetGuest),
        5 => (queue(), 0u8..8).prop_map(|(q, isc)| Enable(q, isc)),
        1 => queue().prop_map(Disable),
        1 => queue().prop_map(Free),
        2 => (apid(), state).prop_map(|(apid, state)| Adapter(apid, state)),
        1 => apid().prop_map(Unplug),
        3 => (apid(), kind()).prop_map(|(apid, kind)| Plug(apid, kind)),
        2 => domains().prop_map(Domains),
        2 => (prop::collection::btree_map(apid(), kind(), 0..=2), domains()).prop_map(|(a, d)| Apply(a, d)),
        1 => (queue(), fault).prop_map(|(q, fault)| Inject(q, fault)),
        2 => queue().prop_map(ClearFaults),
    ]
}

/// What the host and the guest have seen.
struct Witness {
    bench: Bench,
    cards: BTreeMap<u8, Arc<dyn Card>>,
    /// Adapters with the types of their cards.
    adapters: BTreeMap<u8, u8>,
    states: BTreeMap<u8, AdapterState>,
    domains: BTreeSet<u8>,
    /// Accepted and not ended, by queue.
    open: BTreeMap<Apqn, VecDeque<(u64, Vec<u8>)>>,
    enabled: BTreeMap<Apqn, u8>,
    accepted: u64,
    replies: u64,
    discards: u64,
}

impl Witness {
    fn new() -> Self {
        let bench = Bench::new(true);
        let cards = [13, 14].map(|kind| (kind, Echo::of_type(Mode::Accelerator, kind) as Arc<dyn Card>));
        let mut witness = Self {
            bench,
            cards: cards.into(),
            adapters: BTreeMap::new(),
            states: BTreeMap::new(),
            domains: DOMAINS.into(),
            open: BTreeMap::new(),
            enabled: BTreeMap::new(),
            accepted: 0,
            replies: 0,
            discards: 0,
        };
        for apid in APIDS {
            witness.step(&Step::Plug(apid, 14));
        }
        witness
    }

    fn exists(&self, apqn: Apqn) -> bool {
        self.adapters.contains_key(&apqn.apid().0) && self.domains.contains(&apqn.apqi().0)
    }

    fn discard(&mut self, apqn: Apqn) {
        self.discards += self.open.remove(&apqn).map_or(0, |open| open.len() as u64);
        self.enabled.remove(&apqn);
    }

    /// Those of the queues that satisfy `which` are discarded.
    fn discard_where(&mut self, which: impl Fn(&Self, Apqn) -> bool) {
        for apqn in queues() {
            if which(self, apqn) {
                self.discard(apqn);
            }
        }
    }

    fn plugged(&mut self, adapters: BTreeMap<u8, u8>) {
        let changed = |apid: u8, old: &Self| old.adapters.get(&apid) != adapters.get(&apid);
        self.discard_where(|old, apqn| changed(apqn.apid().0, old));
        self.states.retain(|apid, _| self.adapters.get(apid) == adapters.get(apid));
        self.adapters = adapters;
    }

    fn set_domains(&mut self, domains: &[u8]) {
        self.domains = domains.iter().copied().collect();
        self.discard_where(|new, apqn| !new.domains.contains(&apqn.apqi().0));
    }

    fn after_reset(&mut self, apqn: Apqn, status: Status) {
        if status.response_code == ResponseCode::Normal {
            self.discard(apqn);
        }
    }

    fn step(&mut self, step: &Step) {
        let machine = self.bench.machine.clone();
        match step {
            &Step::Enqueue(apqn, length) => {
                let psmid = self.accepted;
                let request = vec![psmid as u8; length];
                let status = machine.enqueue(apqn, psmid, Zeroizing::new(request.clone()));
                self.check_presence(apqn, status);
                if status.response_code == ResponseCode::Normal {
                    self.accepted += 1;
                    self.open.entry(apqn).or_default().push_back((psmid, request));
                }
            }
            &Step::Dequeue(apqn, room, parts) => self.dequeue(apqn, room, parts),
            &Step::Advance(by) => self.bench.clock.advance(by),
            &Step::ResetByHost(apqn) => {
                let status = machine.zeroize(apqn);
                self.enabled.remove(&apqn);
                self.after_reset(apqn, status);
            }
            &Step::ResetByGuest(apqn) => {
                let status = machine.reset_by_guest(apqn);
                self.after_reset(apqn, status);
            }
            Step::ResetGuest => {
                let before: Vec<_> =
                    queues().map(|apqn| machine.statistics(apqn).map(|s| s.discards)).collect();
                machine.reset_guest(&self.bench.guest);
                self.enabled.clear();
                for (apqn, before) in queues().zip(before) {
                    let after = machine.statistics(apqn).map(|s| s.discards);
                    if before != after {
                        self.discard(apqn);
                    }
                }
            }
            &Step::Enable(apqn, isc) => {
                let notifier = &self.bench.guest.notifier;
                let status = machine.enable_interruption(apqn, AbsoluteAddress(NIB), isc, notifier);
                self.check_presence(apqn, status);
                if status.response_code == ResponseCode::Normal {
                    assert_eq!(self.enabled.insert(apqn, isc), None, "{apqn} was enabled");
                }
            }
            &Step::Disable(apqn) => {
                if machine.disable_interruption(apqn).response_code == ResponseCode::Normal {
                    assert!(self.enabled.remove(&apqn).is_some(), "{apqn} was not enabled");
                }
            }
            &Step::Free(apqn) => {
                assert_eq!(machine.free_interruption(apqn), self.enabled.remove(&apqn).is_some());
            }
            &Step::Adapter(apid, state) => {
                let there = machine.set_adapter_state(Apid(apid), state);
                assert_eq!(there, self.adapters.contains_key(&apid));
                let before = self.states.insert(apid, state).unwrap_or_default();
                let ends = matches!(state, AdapterState::Deconfigured | AdapterState::CheckStopped);
                if there && ends && before != state {
                    self.discard_where(|_, apqn| apqn.apid().0 == apid);
                } else if !there {
                    self.states.remove(&apid);
                }
            }
            &Step::Unplug(apid) => {
                let mut adapters = self.adapters.clone();
                adapters.remove(&apid);
                machine.set_adapter(Apid(apid), None);
                self.plugged(adapters);
            }
            &Step::Plug(apid, kind) => {
                let mut adapters = self.adapters.clone();
                adapters.insert(apid, kind);
                machine.set_adapter(Apid(apid), Some(self.cards[&kind].clone()));
                self.plugged(adapters);
            }
            Step::Domains(domains) => {
                machine.set_domains(mask(domains), mask(&DOMAINS));
                self.set_domains(domains);
            }
            Step::Apply(adapters, domains) => {
                let apm = adapters.keys().copied().collect();
                let matrix = Matrix { apm, aqm: mask(domains), adm: mask(&DOMAINS) };
                let card = |(&apid, kind): (&u8, &u8)| (Apid(apid), self.cards[kind].clone());
                let adapters_with_cards = adapters.iter().map(card).collect();
                let qci = Qci { matrix, ..machine.qci() };
                machine.apply(Hardware { qci, adapters: adapters_with_cards });
                self.plugged(adapters.clone());
                self.set_domains(domains);
            }
            &Step::Inject(apqn, fault) => assert_eq!(machine.inject(apqn, fault), self.exists(apqn)),
            &Step::ClearFaults(apqn) => machine.clear_faults(apqn),
        }
    }

    /// Only faults say 01 of a queue that is there.
    fn check_presence(&self, apqn: Apqn, status: Status) {
        if !self.exists(apqn) {
            assert_eq!(status.word(), 0x1_0000, "{apqn}");
        }
    }

    fn dequeue(&mut self, apqn: Apqn, room: u64, parts: usize) {
        let mut got = Vec::new();
        for part in 0..parts {
            let index = (part > 0).then_some(got.len() as u64);
            let reply = match self.bench.machine.begin_dequeue(apqn, room, index) {
                Ok(reply) => reply,
                Err(status) => {
                    assert_eq!(part, 0, "what was begun goes on");
                    self.check_presence(apqn, status);
                    return;
                }
            };
            let (psmid, residual) = (reply.psmid(), reply.residual());
            got.extend_from_slice(reply.bytes());
            reply.commit();
            if residual == 0 {
                let open = self.open.get_mut(&apqn).and_then(VecDeque::pop_front);
                let (want, request) = open.expect("a reply answers an accepted request");
                assert_eq!((psmid, got), (want, echo(apqn.apqi().0, &request)), "{apqn}, in order");
                self.replies += 1;
                return;
            }
        }
    }

    fn check(&self) {
        let machine = &self.bench.machine;
        for apqn in queues() {
            let open = self.open.get(&apqn).map_or(0, |open| open.len() as u64);
            let statistics = machine.statistics(apqn);
            assert_eq!(statistics.is_some(), self.exists(apqn), "{apqn}");
            assert_eq!(machine.information(apqn).is_some(), self.exists(apqn), "{apqn}");
            let statistics = statistics.unwrap_or_default();
            assert_eq!(statistics.requests, statistics.replies + statistics.discards + statistics.queued);
            assert_eq!(statistics.queued, open, "{apqn}");
            let status = machine.status(apqn);
            assert_eq!(status.response_code == ResponseCode::NotAvailable, !self.exists(apqn), "{apqn}");
            assert_eq!(status.queue_empty, self.exists(apqn) && open == 0, "{apqn}");
            assert_eq!(status.queue_full, open == u64::from(DEPTH), "{apqn}");
        }
        let totals = machine.totals();
        let open: usize = self.open.values().map(VecDeque::len).sum();
        assert_eq!(
            (totals.requests, totals.replies, totals.discards, totals.queued),
            (self.accepted, self.replies, self.discards, open as u64)
        );
        let mut held = crate::notifier::Resources { pins: self.enabled.len() as u32, isc: [0; 8] };
        self.enabled.values().for_each(|&isc| held.isc[usize::from(isc)] += 1);
        assert_eq!(self.bench.guest.resources(), held);
        let matrix = machine.qci().matrix;
        assert_eq!(matrix.apm, self.adapters.keys().copied().collect());
        assert_eq!(matrix.aqm, self.domains.iter().copied().collect());
    }

    /// All that is still open gets its reply once the hardware is well.
    fn finish(&mut self) {
        for apqn in queues() {
            self.bench.machine.clear_faults(apqn);
        }
        let states: Vec<u8> = self.adapters.keys().copied().collect();
        for apid in states {
            self.step(&Step::Adapter(apid, AdapterState::Configured));
        }
        self.bench.clock.advance(RESET_TIME + (1 << 30));
        for apqn in queues() {
            for _ in 0..DEPTH {
                self.dequeue(apqn, u64::MAX, 1);
            }
        }
        self.check();
        assert_eq!(self.accepted, self.replies + self.discards);
    }
}

fn queues() -> impl Iterator<Item = Apqn> {
    APIDS.into_iter().flat_map(|apid| DOMAINS.map(|domain| apqn(apid, domain)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn each_request_has_one_fate(steps in prop::collection::vec(step(), 1..150)) {
        let mut witness = Witness::new();
        for step in &steps {
            witness.step(step);
            witness.check();
        }
        witness.finish();
    }
}
