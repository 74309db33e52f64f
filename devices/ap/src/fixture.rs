//! What the tests of this crate plug together: cards, a clock, a guest and a CPU without an engine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crycb::{Apid, Apqi, Apqn, Crycb, CrycbFormat, Mask256, Matrix, Qci, QciFlags};
use machine::{
    Addressing, Clock, Error, Exit, Floating, Operand, Outcome, Post, ResetKind, Storage, Vcpu, VcpuState,
};
use zarch::{
    AbsoluteAddress, Facility, FacilityList, IoInterruption, ProgramCode, ProgramInterruption, Psw,
    RealAddress, psw_bits,
};

use crate::card::{Card, CardFacts, Mode, SeededRandom, Session};
use crate::guest::{GuestAp, GuestCrycb};
use crate::hardware::{ApMachine, Hardware};
use crate::notifier::Notifier;

pub const MAX_MESSAGE: usize = 12 * 1024;
pub const DEPTH: u8 = 4;

pub fn apqn(apid: u8, apqi: u8) -> Apqn {
    Apqn::new(Apid(apid), Apqi(apqi))
}

/// What [`Echo`] replies: the domain, then the request's complement.
pub fn echo(domain: u8, request: &[u8]) -> Vec<u8> {
    std::iter::once(domain).chain(request.iter().map(|b| !b)).collect()
}

/// A card that answers with [`echo`], when its gate lets it; requests that begin with `b"fast"` go round the gate. A request of
/// just `b"panic"` makes it panic.
pub struct Echo {
    facts: CardFacts,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Default)]
struct Gate {
    /// How many requests may pass; `None` for all.
    permits: Option<usize>,
    /// How many wait at the gate.
    waiting: usize,
}

impl Echo {
    pub fn new(mode: Mode) -> Arc<Self> {
        Self::of_type(mode, 14)
    }

    pub fn of_type(mode: Mode, hardware_type: u8) -> Arc<Self> {
        let facts = CardFacts {
            mode,
            hardware_type,
            mex4k: true,
            crt4k: true,
            max_message: MAX_MESSAGE,
            queue_depth: DEPTH,
        };
        Arc::new(Self { facts, gate: Mutex::default(), changed: Condvar::new() })
    }

    /// Lets nothing pass until [`let_pass`](Self::let_pass).
    pub fn close(&self) {
        self.gate.lock().unwrap().permits = Some(0);
    }

    pub fn let_pass(&self, count: usize) {
        *self.gate.lock().unwrap().permits.get_or_insert(0) += count;
        self.changed.notify_all();
    }

    pub fn open(&self) {
        self.gate.lock().unwrap().permits = None;
        self.changed.notify_all();
    }

    /// Blocks until a request waits at the gate.
    pub fn wait_for_one(&self) {
        eventually("a request at the gate", || self.gate.lock().unwrap().waiting > 0);
    }

    fn pass(&self) {
        let mut gate = self.gate.lock().unwrap();
        gate.waiting += 1;
        while gate.permits == Some(0) {
            gate = self.changed.wait(gate).unwrap();
        }
        gate.waiting -= 1;
        if let Some(permits) = &mut gate.permits {
            *permits -= 1;
        }
    }
}

impl Card for Echo {
    fn facts(&self) -> &CardFacts {
        &self.facts
    }

    fn process(&self, _: &Session, domain: u8, request: &[u8]) -> Vec<u8> {
        if !request.starts_with(b"fast") {
            self.pass();
        }
        assert!(request != b"panic", "as the test asked for");
        echo(domain, request)
    }
}

/// Polls until `condition` holds; a test that waits two minutes has failed.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::yield_now();
    }
}

/// Time that a test moves. With `is_virtual` false it is a host clock that stands still between two moves.
pub struct TestClock {
    is_virtual: bool,
    now: AtomicU64,
    actions: Mutex<BTreeMap<(u64, u64), Action>>,
    serial: AtomicU64,
}

type Action = Box<dyn FnOnce() + Send>;

impl TestClock {
    pub fn new(is_virtual: bool) -> Arc<Self> {
        let (now, actions, serial) = (AtomicU64::new(0), Mutex::default(), AtomicU64::new(0));
        Arc::new(Self { is_virtual, now, actions, serial })
    }

    /// Moves on, running what falls due at its time.
    pub fn advance(&self, ns: u64) {
        let end = self.now() + ns;
        loop {
            let next = {
                let mut actions = self.actions.lock().unwrap();
                let due = actions.first_key_value().is_some_and(|((at, _), _)| *at <= end);
                if due { actions.pop_first() } else { None }
            };
            let Some(((at, _), action)) = next else { break };
            self.now.fetch_max(at, Ordering::SeqCst);
            action();
        }
        self.now.store(end, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    fn tod_epoch(&self) -> u64 {
        0
    }

    fn is_virtual(&self) -> bool {
        self.is_virtual
    }

    fn schedule(&self, at: u64, action: Action) {
        if self.is_virtual {
            let serial = self.serial.fetch_add(1, Ordering::SeqCst);
            self.actions.lock().unwrap().insert((at, serial), action);
        } else {
            action();
        }
    }
}

/// Interruptions that were made pending, in order.
#[derive(Default)]
pub struct Posted(pub Mutex<Vec<Floating>>);

impl Posted {
    pub fn iscs(&self) -> Vec<u8> {
        let isc = |floating: &Floating| match floating {
            Floating::Io(io) if io.is_adapter() => io.isc(),
            other => panic!("{other:?} from an AP queue"),
        };
        self.0.lock().unwrap().iter().map(isc).collect()
    }
}

impl Post for Posted {
    fn post(&self, interruption: Floating) {
        self.0.lock().unwrap().push(interruption);
    }

    fn take_io(&self, _: u8) -> Option<IoInterruption> {
        None
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

pub const STORAGE: u64 = 1 << 20;

/// A machine with adapters 05 (accelerator, `card`) and 06 (CCA) and usage domains 04 and AB, and a guest that may reach all
/// of it and an adapter 07 that is not there.
pub struct Bench {
    pub card: Arc<Echo>,
    pub clock: Arc<TestClock>,
    pub machine: Arc<ApMachine>,
    pub storage: Arc<Storage>,
    pub posted: Arc<Posted>,
    pub guest: GuestAp,
}

impl Bench {
    pub fn new(is_virtual: bool) -> Self {
        let card = Echo::new(Mode::Accelerator);
        let clock = TestClock::new(is_virtual);
        let hardware = Hardware {
            qci: Qci {
                flags: QciFlags::APSC | QciFlags::APXA | QciFlags::QACT,
                na: 255,
                nd: 0xab,
                matrix: Matrix { apm: mask(&[5, 6]), aqm: mask(&[4, 0xab]), adm: mask(&[4, 0xab]) },
            },
            adapters: vec![(Apid(5), card.clone()), (Apid(6), Echo::new(Mode::Cca))],
        };
        let machine = ApMachine::new(hardware, clock.clone(), Arc::new(SeededRandom::new(1))).unwrap();
        let storage = Arc::new(Storage::new(STORAGE).unwrap());
        let posted = Arc::new(Posted::default());
        let matrix = Matrix { apm: mask(&[5, 6, 7]), aqm: mask(&[4, 0xab]), adm: mask(&[4]) };
        let guest = GuestAp::new(
            Arc::new(GuestCrycb::new(&Crycb::new(CrycbFormat::Format2, &matrix))),
            facilities(&[Facility::ApQci, Facility::ApFacilitiesTest, Facility::ApInterruptions]),
            Notifier::new(storage.clone(), posted.clone()),
        );
        Self { card, clock, machine, storage, posted, guest }
    }

    pub fn cpu(&self) -> Cpu {
        Cpu {
            gr: [0; 16],
            psw: Psw { mask: psw_bits::EA | psw_bits::BA, address: 0 },
            storage: self.storage.clone(),
        }
    }

    pub fn byte(&self, at: u64) -> u8 {
        self.storage.read_array::<1>(AbsoluteAddress(at)).unwrap()[0]
    }

    /// Waits for the host's threads until the status of `queue` is as `condition` says.
    pub fn until(&self, queue: Apqn, condition: impl Fn(crate::status::Status) -> bool) {
        eventually("the status", || condition(self.machine.status(queue)));
    }
}

impl Drop for Bench {
    /// A test that failed must not leave workers at the gate: the machine joins them.
    fn drop(&mut self) {
        self.card.open();
    }
}

pub fn mask(bits: &[u8]) -> Mask256 {
    bits.iter().copied().collect()
}

pub fn facilities(bits: &[Facility]) -> FacilityList {
    let mut list = FacilityList::default();
    bits.iter().for_each(|&bit| list.set(bit as u16, true));
    list
}

/// A CPU with DAT off and prefix 0. Storage operands outside storage are addressing exceptions.
#[derive(Clone)]
pub struct Cpu {
    pub gr: [u64; 16],
    pub psw: Psw,
    pub storage: Arc<Storage>,
}

impl Vcpu for Cpu {
    fn address(&self) -> u16 {
        0
    }

    fn run(&mut self) -> Result<Exit, Error> {
        Ok(Exit::Kicked)
    }

    fn finish(&mut self, _: Outcome) {}

    fn gr(&self, r: u8) -> u64 {
        self.gr[usize::from(r)]
    }

    fn set_gr(&mut self, r: u8, value: u64) {
        self.gr[usize::from(r)] = value;
    }

    fn state(&self) -> VcpuState {
        VcpuState { psw: self.psw, gr: self.gr, ar: [0; 16], cr: [0; 16], fpr: [0; 16], fpc: 0, prefix: 0 }
    }

    fn set_state(&mut self, state: &VcpuState) {
        (self.psw, self.gr) = (state.psw, state.gr);
    }

    fn set_operating(&mut self, _: bool) {}

    fn reset(&mut self, _: ResetKind) {}

    fn fetch(&mut self, from: Operand, buffer: &mut [u8]) -> Result<(), ProgramInterruption> {
        self.storage.read(AbsoluteAddress(from.address), buffer).map_err(addressing)
    }

    fn store(&mut self, to: Operand, bytes: &[u8]) -> Result<(), ProgramInterruption> {
        self.storage.write(AbsoluteAddress(to.address), bytes).map_err(addressing)
    }

    fn probe_store(&mut self, to: Operand, length: u64) -> Result<(), ProgramInterruption> {
        let there = self.storage.contains(AbsoluteAddress(to.address), length);
        if there { Ok(()) } else { Err(addressing(Addressing)) }
    }

    fn absolute(&self, real: RealAddress) -> AbsoluteAddress {
        real.absolute(0)
    }
}

fn addressing(_: Addressing) -> ProgramInterruption {
    ProgramCode::Addressing.into()
}
