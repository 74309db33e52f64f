//! A queue against a naive model of it, over random sequences of operations in virtual time.

use crycb::Apid;
use proptest::prelude::*;
use zarch::AbsoluteAddress;
use zeroize::Zeroizing;

use crate::fixture::{Bench, DEPTH, MAX_MESSAGE, apqn, echo};
use crate::queue::{AdapterState, ENABLE_TIME, RESET_TIME, virtual_latency};

const NIB: u64 = 0x3456;

#[derive(Clone, Debug)]
enum Operation {
    Enqueue(usize),
    /// Room, and index of the part when it is not the first.
    Dequeue(u64, Option<u64>),
    /// Dequeues in parts of this size until the reply is complete.
    DequeueAll(u64),
    Reset,
    Zeroize,
    Enable,
    Disable,
    Advance(u64),
    Adapter(AdapterState),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        8 => (0usize..40).prop_map(Enqueue),
        1 => prop_oneof![Just(MAX_MESSAGE), Just(MAX_MESSAGE + 1)].prop_map(Enqueue),
        4 => (0u64..50, proptest::option::of(0u64..50)).prop_map(|(room, part)| Dequeue(room, part)),
        4 => (1u64..50).prop_map(DequeueAll),
        1 => Just(Reset),
        1 => Just(Zeroize),
        3 => Just(Enable),
        1 => Just(Disable),
        10 => (0u64..150_000).prop_map(Advance),
        1 => prop_oneof![
            Just(AdapterState::Deconfigured),
            Just(AdapterState::CheckStopped),
            Just(AdapterState::Busy),
        ].prop_map(Adapter),
        2 => Just(Adapter(AdapterState::Configured)),
    ]
}

/// What the queue must look like, told in the simplest way: times instead of states.
#[derive(Default)]
struct Model {
    now: u64,
    adapter: AdapterState,
    resetting_until: u64,
    /// PSMID, request, time of its reply.
    entries: Vec<(u64, Vec<u8>, u64)>,
    read_to: Option<u64>,
    /// From when interruptions are enabled.
    enabled_from: Option<u64>,
    interruptions: u64,
    requests: u64,
    replies: u64,
    discards: u64,
}

impl Model {
    fn visible(&self, at: u64) -> usize {
        self.entries.iter().filter(|(_, _, due)| *due <= at).count()
    }

    fn code(&self) -> u32 {
        match self.adapter {
            AdapterState::Deconfigured => 3,
            AdapterState::CheckStopped => 4,
            AdapterState::Busy => 5,
            AdapterState::Configured if self.now < self.resetting_until => 2,
            AdapterState::Configured => 0,
        }
    }

    fn word(&self, code: u32) -> u32 {
        let flag = |on: bool, bit: u32| if on { 1 << (31 - bit) } else { 0 };
        flag(self.entries.is_empty(), 0)
            | flag(self.visible(self.now) > 0, 1)
            | flag(self.entries.len() >= DEPTH.into(), 2)
            | flag(self.enabled_from.is_some_and(|from| from <= self.now), 7)
            | code << 16
    }

    fn discard(&mut self) {
        self.discards += self.entries.len() as u64;
        self.entries.clear();
        (self.read_to, self.enabled_from, self.resetting_until) = (None, None, 0);
    }

    fn advance(&mut self, by: u64) {
        let (start, end) = (self.now, self.now + by);
        // Interrupts when the first reply becomes visible while enabled, or the enabling ends while one is.
        let first = self.entries.first().map(|(_, _, due)| *due);
        if let (Some(due), Some(from)) = (first, self.enabled_from) {
            let moment = due.max(from);
            self.interruptions += u64::from(start < moment && moment <= end);
        }
        self.now = end;
    }

    fn enqueue(&mut self, psmid: u64, request: Vec<u8>) -> u32 {
        let code = match self.code() {
            0 if request.len() > MAX_MESSAGE => 0x15,
            0 if self.entries.len() >= DEPTH.into() => 0x10,
            code => code,
        };
        if code == 0 {
            let last = self.entries.last().map_or(0, |(_, _, due)| *due);
            self.entries.push((
                psmid,
                request.clone(),
                (self.now + virtual_latency(request.len())).max(last),
            ));
            self.requests += 1;
        }
        self.word(code)
    }

    /// The bytes, how many are left, the PSMID; or the status.
    fn dequeue(&mut self, room: u64, part: Option<u64>) -> Result<(Vec<u8>, u64, u64), u32> {
        let code = match (self.code(), part, self.read_to) {
            (0, _, _) if self.visible(self.now) == 0 => 0x10,
            (0, Some(_), None) => 0x13,
            (0, Some(part), Some(to)) if part > to => 0x11,
            (code, _, _) => code,
        };
        if code != 0 {
            return Err(self.word(code));
        }
        let (psmid, request, _) = &self.entries[0];
        let (psmid, reply, start) = (*psmid, echo(4, request), part.unwrap_or(0));
        let end = (start + room).min(reply.len() as u64);
        let left = reply.len() as u64 - end;
        if left == 0 {
            self.entries.remove(0);
            self.read_to = None;
            self.replies += 1;
        } else {
            self.read_to = Some(end);
        }
        Ok((reply[start as usize..end as usize].to_vec(), left, psmid))
    }
}

struct Pair {
    model: Model,
    bench: Bench,
    psmid: u64,
}

impl Pair {
    fn dequeue(&mut self, room: u64, part: Option<u64>) -> Option<u64> {
        let want = self.model.dequeue(room, part);
        let got = self.bench.machine.begin_dequeue(apqn(5, 4), room, part).map(|reply| {
            let got = (reply.bytes().to_vec(), reply.residual(), reply.psmid());
            assert_eq!(reply.next_index(), part.unwrap_or(0) + got.0.len() as u64);
            assert_eq!(reply.commit().word(), self.model.word(0));
            got
        });
        assert_eq!(got.map_err(|status| status.word()), want);
        want.ok().map(|(_, left, _)| left)
    }

    fn apply(&mut self, operation: &Operation) {
        let queue = apqn(5, 4);
        let machine = self.bench.machine.clone();
        let model = &mut self.model;
        match *operation {
            Operation::Enqueue(length) => {
                self.psmid += 1;
                let request = vec![self.psmid as u8; length];
                let status = machine.enqueue(queue, self.psmid, Zeroizing::new(request.clone()));
                assert_eq!(status.word(), model.enqueue(self.psmid, request));
            }
            Operation::Dequeue(room, part) => {
                self.dequeue(room, part);
            }
            Operation::DequeueAll(size) => {
                let mut part = None;
                while let Some(1..) = self.dequeue(size, part) {
                    part = Some(part.unwrap_or(0) + size);
                }
            }
            Operation::Reset | Operation::Zeroize => {
                let status = match operation {
                    Operation::Reset => machine.reset(queue),
                    _ => machine.zeroize(queue),
                };
                let code = model.code();
                if code == 0 {
                    model.discard();
                    model.resetting_until = model.now + RESET_TIME;
                }
                model.enabled_from = None;
                assert_eq!(status.word(), model.word(code));
            }
            Operation::Enable => {
                let notifier = &self.bench.guest.notifier;
                let status = machine.enable_interruption(queue, AbsoluteAddress(NIB), 3, notifier);
                let code = match (model.code(), model.enabled_from) {
                    (0, Some(_)) => 7,
                    (code, _) => code,
                };
                if code == 0 {
                    model.enabled_from = Some(model.now + ENABLE_TIME);
                }
                assert_eq!(status.word(), model.word(code));
            }
            Operation::Disable => {
                let status = machine.disable_interruption(queue);
                let code = match (model.code(), model.enabled_from) {
                    (0, None) => 7,
                    (code, _) => code,
                };
                if code == 0 {
                    model.enabled_from = None;
                }
                assert_eq!(status.word(), model.word(code));
            }
            Operation::Advance(by) => {
                self.bench.clock.advance(by);
                model.advance(by);
            }
            Operation::Adapter(state) => {
                machine.set_adapter_state(Apid(5), state);
                if state != model.adapter
                    && matches!(state, AdapterState::Deconfigured | AdapterState::CheckStopped)
                {
                    model.discard();
                }
                model.adapter = state;
            }
        }
    }

    fn compare(&self) {
        let (model, bench) = (&self.model, &self.bench);
        assert_eq!(bench.machine.status(apqn(5, 4)).word(), model.word(model.code()));
        let got = bench.machine.statistics(apqn(5, 4)).unwrap();
        assert_eq!(
            (got.requests, got.replies, got.discards, got.queued, got.interruptions),
            (model.requests, model.replies, model.discards, model.entries.len() as u64, model.interruptions)
        );
        assert_eq!(got.requests, got.replies + got.discards + got.queued);
        assert_eq!(bench.posted.iscs(), vec![3; model.interruptions as usize]);
        assert_eq!(bench.byte(NIB), u8::from(model.interruptions > 0));
        assert_eq!(bench.machine.status(apqn(5, 0xab)).word() & 0xff00_ffff, 0x8000_0000, "the other queue");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn the_queue_is_as_the_model(operations in proptest::collection::vec(operation(), 1..120)) {
        let mut pair = Pair { model: Model::default(), bench: Bench::new(true), psmid: 0 };
        for operation in &operations {
            pair.apply(operation);
            pair.compare();
        }
    }
}
