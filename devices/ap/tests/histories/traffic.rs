//! The queues of the machine, the guests that use them, and the fate of each request.
//!
//! Guests execute AP instructions on the machine's real queues, as far as their CRYCBs let them. The ledger knows from outside
//! what must come of it: who sent which request, what ended it, whose interruption is enabled.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ap::card::{Card, CardFacts, Mode as CardMode, SeededRandom, Session};
use ap::host::{Condition, Lpar, Machine};
use ap::instruction::Environment;
use ap::{
    Answer, ApMachine, Fault, GuestAp, GuestCrycb, Hardware, Notifier, Resources, ResponseCode, Status,
};
use crycb::{Apqn, Crycb, CrycbFormat, CrycbView, Matrix, Qci};
use machine::{Clock, Floating, Post, Storage};
use zarch::{AbsoluteAddress, Facility, FacilityList, IoInterruption};
use zeroize::Zeroizing;

use crate::doubles::queue;
use crate::ops::{Act, DEVICES, DOMAINS, Nib, Queue};

/// How many messages a queue holds.
const DEPTH: usize = 4;
const STORAGE: u64 = 1 << 20;
/// Notification bytes lie here in each guest's storage, one for each queue.
const NIBS: u64 = 0x2000;
/// Nanoseconds after which a reset that a guest asked for has certainly ended.
const RESET_ENDED: u64 = 1_000_000;

/// A VM and which of its attachments: what one left, the next must not see.
type Owner = (usize, u32);

/// Answers with the request's complement, behind what tells the queue and the length.
struct Echo(CardFacts);

fn echo(domain: u8, request: &[u8]) -> Vec<u8> {
    [domain, request.len() as u8].into_iter().chain(request.iter().map(|byte| !byte)).collect()
}

impl Card for Echo {
    fn facts(&self) -> &CardFacts {
        &self.0
    }

    fn is_same(&self, other: &dyn Card) -> bool {
        self.0 == *other.facts()
    }

    fn process(&self, _: &Session, domain: u8, request: &[u8]) -> Vec<u8> {
        echo(domain, request)
    }
}

type Action = Box<dyn FnOnce() + Send>;

/// Time that the history moves.
#[derive(Default)]
struct Time {
    now: AtomicU64,
    /// By time, then in the order in which they were scheduled.
    actions: Mutex<BTreeMap<(u64, u64), Action>>,
    scheduled: AtomicU64,
}

impl Time {
    fn advance(&self, by: u64) {
        let end = self.now() + by;
        loop {
            let next = {
                let mut actions = self.actions.lock().unwrap_or_else(PoisonError::into_inner);
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

impl Clock for Time {
    fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    fn tod_epoch(&self) -> u64 {
        0
    }

    fn is_virtual(&self) -> bool {
        true
    }

    fn schedule(&self, at: u64, action: Action) {
        let serial = self.scheduled.fetch_add(1, Ordering::SeqCst);
        self.actions.lock().unwrap_or_else(PoisonError::into_inner).insert((at, serial), action);
    }
}

/// Subclasses on which a guest was interrupted.
#[derive(Default)]
struct Posted(Mutex<BTreeSet<u8>>);

impl Post for Posted {
    fn post(&self, interruption: Floating) {
        if let Floating::Io(io) = interruption {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(io.isc());
        }
    }

    fn take_io(&self, _: u8) -> Option<IoInterruption> {
        None
    }

    fn clear(&self) {}
}

/// A VM's side.
struct User {
    ap: GuestAp,
    storage: Arc<Storage>,
    posted: Arc<Posted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    Answered,
    Discarded,
}

struct Request {
    /// Also its place in [`Ledger::fates`].
    psmid: u64,
    owner: Owner,
    message: Vec<u8>,
}

#[derive(Default)]
struct Ledger {
    /// Of each request that was accepted.
    fates: Vec<Fate>,
    /// Pending, oldest first.
    queued: BTreeMap<Queue, VecDeque<Request>>,
    /// Interruptions that are enabled or being enabled, with their subclass.
    enabled: BTreeMap<Queue, (Owner, u8)>,
    /// What was enabled at any time of this step.
    armed: BTreeSet<(usize, Queue, u8)>,
    /// When a guest last reset the queue.
    reset_by_guest: BTreeMap<Queue, u64>,
    /// The host's reset of these does not end.
    stuck: BTreeSet<Queue>,
    /// Attachments so far; the current one while the VM has its hook.
    attachments: [u32; DEVICES],
    hooks: [bool; DEVICES],
    /// Types and conditions of the adapters, and the domains.
    adapters: BTreeMap<u8, (u8, Condition)>,
    domains: BTreeSet<u8>,
    wrong: Vec<String>,
}

impl Ledger {
    fn end(&mut self, request: &Request, fate: Fate) {
        let place = &mut self.fates[request.psmid as usize];
        if std::mem::replace(place, fate) != Fate::Pending {
            self.wrong.push(format!("fate: request {:x} has two, the second {fate:?}", request.psmid));
        }
    }

    /// The queue was reset, or its adapter failed or went.
    fn discard(&mut self, q: Queue) {
        for request in self.queued.remove(&q).unwrap_or_default() {
            self.end(&request, Fate::Discarded);
        }
        self.enabled.remove(&q);
    }

    fn owner(&self, vm: usize) -> Owner {
        (vm, self.attachments[vm])
    }

    fn count(&self, fate: Fate) -> u64 {
        self.fates.iter().filter(|other| **other == fate).count() as u64
    }
}

/// See the module's documentation.
pub struct Traffic {
    machine: Arc<ApMachine>,
    time: Arc<Time>,
    users: [User; DEVICES],
    ledger: Mutex<Ledger>,
}

impl Traffic {
    /// A machine without adapters.
    pub fn new(qci: Qci) -> Self {
        let qci = Qci { matrix: Matrix::EMPTY, ..qci };
        let time = Arc::new(Time::default());
        let hardware = Hardware { qci, adapters: Vec::new() };
        let machine = ApMachine::new(hardware, time.clone(), Arc::new(SeededRandom::new(1)));
        let mut facilities = FacilityList::default();
        for facility in [Facility::ApQci, Facility::ApFacilitiesTest, Facility::ApInterruptions] {
            facilities.set(facility as u16, true);
        }
        let user = |_| {
            let storage = Arc::new(Storage::new(STORAGE).expect("a megabyte"));
            let posted = Arc::new(Posted::default());
            let crycb = GuestCrycb::new(&Crycb::new(CrycbFormat::Format2, &Matrix::EMPTY));
            let notifier = Notifier::new(storage.clone(), posted.clone());
            let ap = GuestAp::new(Arc::new(crycb), facilities, notifier);
            ap.set_hook(false);
            User { ap, storage, posted }
        };
        Self {
            machine: machine.expect("a thread for the cards"),
            time,
            users: std::array::from_fn(user),
            ledger: Mutex::default(),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, q: Queue) -> Status {
        self.machine.status(apqn(q))
    }

    // What the host does.

    pub fn qci(&self) -> Qci {
        self.machine.qci()
    }

    pub fn tapq(&self, apqn: Apqn) -> (u8, Option<ap::QueueInformation>) {
        Machine::tapq(&*self.machine, apqn)
    }

    /// ZAPQ. With `stuck` it does not end until [`unstick`](Self::unstick).
    pub fn zapq(&self, apqn: Apqn, stuck: bool) -> u8 {
        if stuck {
            self.machine.inject(apqn, Fault::ResetNeverEnds);
        }
        let code = Machine::zapq(&*self.machine, apqn);
        let (q, mut ledger) = (queue(apqn), self.ledger());
        if code == 0 {
            ledger.discard(q);
        }
        // It has no further use for the interruption, whatever the answer is.
        ledger.enabled.remove(&q);
        if stuck && code == 0 {
            ledger.stuck.insert(q);
        } else if stuck && !ledger.stuck.contains(&q) {
            self.machine.clear_faults(apqn);
        }
        code
    }

    /// A reset that did not end does.
    pub fn unstick(&self, q: Queue) {
        self.machine.clear_faults(apqn(q));
        self.ledger().stuck.remove(&q);
    }

    pub fn release_interruption(&self, apqn: Apqn) {
        self.machine.release_interruption(apqn);
        self.ledger().enabled.remove(&queue(apqn));
    }

    pub fn pause(&self, nanoseconds: u64) {
        self.time.advance(nanoseconds);
    }

    /// The machine is as described, with adapters of these types. What was on a queue stays there only if its adapter and
    /// domain stay, and its adapter neither fails nor goes to standby. Returns the queues that were emptied.
    pub fn configure(&self, lpar: &Lpar, types: impl Fn(u8) -> u8) -> Vec<Queue> {
        let qci = lpar.qci();
        let installed = lpar.adapters().map(|i| (i.adapter.apid.0, (types(i.adapter.apid.0), i.condition)));
        let adapters: BTreeMap<u8, (u8, Condition)> = installed.collect();
        let domains: BTreeSet<u8> = qci.matrix.aqm.iter().collect();
        let card = |(apid, (hardware_type, _)): (&u8, &(u8, Condition))| {
            let facts = CardFacts {
                mode: CardMode::Accelerator,
                hardware_type: *hardware_type,
                mex4k: true,
                crt4k: true,
                max_message: 12 << 10,
                queue_depth: DEPTH as u8,
            };
            (crycb::Apid(*apid), Arc::new(Echo(facts)) as Arc<dyn Card>)
        };
        let cards = adapters.iter().map(card).collect();
        let mut ledger = self.ledger();
        let mut emptied = Vec::new();
        for (a, (old_type, old_condition)) in std::mem::take(&mut ledger.adapters) {
            for b in ledger.domains.clone() {
                let stays = domains.contains(&b)
                    && adapters.get(&a).is_some_and(|(new_type, condition)| {
                        *new_type == old_type
                            && (*condition == old_condition || *condition == Condition::Online)
                    });
                if !stays {
                    ledger.discard((a, b));
                    ledger.stuck.remove(&(a, b));
                    emptied.push((a, b));
                }
            }
        }
        (ledger.adapters, ledger.domains) = (adapters, domains);
        self.machine.apply(Hardware { qci, adapters: cards });
        for installed in lpar.adapters() {
            self.machine.set_adapter_state(installed.adapter.apid, installed.condition.state());
        }
        emptied.iter().for_each(|q| self.machine.clear_faults(apqn(*q)));
        emptied
    }

    pub fn set_hook(&self, vm: usize, present: bool) {
        let mut ledger = self.ledger();
        if self.users[vm].ap.set_hook(present) == present {
            ledger.wrong.push(format!("the hook of VM {vm} was {present} before"));
        }
        ledger.hooks[vm] = present;
        ledger.attachments[vm] += u32::from(present);
    }

    /// The VM may reach these queues; on none of them may it find anything of another, or of its own former attachment.
    pub fn set_masks(&self, vm: usize, matrix: &Matrix) {
        self.users[vm].ap.set_masks(matrix);
        let found = self.check_handover(&self.ledger(), vm);
        self.ledger().wrong.extend(found.err());
    }

    // What guests do.

    fn masks(&self, vm: usize) -> Matrix {
        self.users[vm].ap.crycb.crycb().view().matrix()
    }

    /// One of the queues that the VM may reach, for DQAP rather one with something on it; a few times one that it may not.
    fn pick(&self, vm: usize, pick: u8, act: Act) -> Queue {
        let mut reached: Vec<Queue> = self.masks(vm).apqns().map(queue).collect();
        let ledger = self.ledger();
        if matches!(act, Act::Dequeue(..)) && reached.iter().any(|q| ledger.queued.contains_key(q)) {
            reached.retain(|q| ledger.queued.contains_key(q));
        }
        if pick < 240 && !reached.is_empty() {
            reached[usize::from(pick) % reached.len()]
        } else {
            (3 + pick % 4, 4 + pick / 4 % 4)
        }
    }

    fn environment<R>(&self, vm: usize, execute: impl FnOnce(&Environment<'_>) -> R) -> R {
        let guest = &self.users[vm].ap;
        let hook = guest.hook().enter();
        let bytes = guest.crycb.load();
        execute(&Environment {
            crycb: CrycbView::new(guest.crycb.format(), &bytes),
            facilities: &guest.facilities,
            problem_state: false,
            notifier: &guest.notifier,
            hook: *hook,
        })
    }

    /// PQAP with this function code; the response code.
    fn pqap(&self, vm: usize, q: Queue, code: u64, gr1: u64, gr2: u64) -> u8 {
        let gr0 = code << 24 | u64::from(apqn(q).0);
        let answer = self.environment(vm, |guest| self.machine.pqap(guest, gr0, gr1, gr2));
        (answer.expect("nothing is wrong with the operands").gr1.expect("a status") >> 16) as u8
    }

    /// What an instruction must answer that finds nothing wrong but the queue's condition; `None`: a guest's reset of it may
    /// or may not have ended.
    fn availability(&self, ledger: &Ledger, vm: usize, q: Queue) -> Option<u8> {
        if !self.masks(vm).test(apqn(q)) || !ledger.domains.contains(&q.1) {
            return Some(1);
        }
        let Some((_, condition)) = ledger.adapters.get(&q.0) else { return Some(1) };
        match condition.response_code() {
            0 if ledger.stuck.contains(&q) => Some(2),
            0 if ledger.reset_by_guest.get(&q).is_some_and(|at| self.time.now() < at + RESET_ENDED) => None,
            code => Some(code),
        }
    }

    /// What was answered, against what had to be.
    fn expect(&self, ledger: &mut Ledger, what: &str, vm: usize, q: Queue, got: u8, want: u8) {
        let available = self.availability(ledger, vm, q);
        let right = match available {
            Some(0) => got == want,
            Some(code) => got == code,
            None => got == want || got == 2,
        };
        if !right {
            ledger.wrong.push(format!(
                "{what} of VM {vm} to {q:x?} answers {got:02x}, not {available:x?}, {want:02x}"
            ));
        }
    }

    pub fn act(&self, vm: usize, pick: u8, act: Act) {
        let q = self.pick(vm, pick, act);
        match act {
            Act::Enqueue(length) => self.enqueue(vm, q, length),
            Act::Dequeue(room, parts) => self.dequeue(vm, q, room, parts),
            Act::Enable(isc, nib) => self.enable(vm, q, isc, nib),
            Act::Disable => {
                let code = self.pqap(vm, q, 3, 0, 0);
                let mut ledger = self.ledger();
                let want = if ledger.enabled.contains_key(&q) { 0 } else { 7 };
                self.expect(&mut ledger, "AQIC", vm, q, code, want);
                if code == 0 {
                    ledger.enabled.remove(&q);
                }
            }
            Act::Reset(zeroize) => {
                let code = self.pqap(vm, q, 1 + u64::from(zeroize), 0, 0);
                let mut ledger = self.ledger();
                self.expect(&mut ledger, "a reset", vm, q, code, 0);
                if code == 0 {
                    ledger.discard(q);
                    ledger.reset_by_guest.insert(q, self.time.now());
                }
            }
            Act::Wait(microseconds) => self.wait(u64::from(microseconds) * 1000),
        }
    }

    /// While the host waits for somebody's reset the VM works on, on a queue that nobody resets.
    pub fn work(&self, vm: usize, reset: &BTreeSet<Queue>) {
        let free = self.masks(vm).apqns().map(queue).find(|q| !reset.contains(q));
        if let Some(q) = free {
            let code = self.pqap(vm, q, 0, 0, 0);
            self.expect(&mut self.ledger(), "TAPQ", vm, q, code, 0);
            self.enqueue(vm, q, 3);
        }
    }

    fn enqueue(&self, vm: usize, q: Queue, length: u8) {
        let mut ledger = self.ledger();
        let psmid = ledger.fates.len() as u64;
        let message: Vec<u8> = (0..length).map(|at| (psmid as u8).wrapping_mul(31) ^ at ^ vm as u8).collect();
        let gr0 = 1 << 30 | u64::from(apqn(q).0);
        let status = self.environment(vm, |guest| {
            let checked =
                self.machine.nqap_check(guest, gr0, length.into()).expect("in the supervisor state");
            match checked.response_code {
                ResponseCode::Normal => {
                    self.machine.nqap_enqueue(gr0, psmid, Zeroizing::new(message.clone()))
                }
                _ => checked,
            }
        });
        let full = ledger.queued.get(&q).map_or(0, VecDeque::len) >= DEPTH;
        let code = status.response_code as u8;
        self.expect(&mut ledger, "NQAP", vm, q, code, if full { 0x10 } else { 0 });
        if code == 0 {
            ledger.fates.push(Fate::Pending);
            let owner = ledger.owner(vm);
            ledger.queued.entry(q).or_default().push_back(Request { psmid, owner, message });
        }
    }

    /// DQAP in so many parts at most; the last may never be asked for, which consumes nothing.
    fn dequeue(&self, vm: usize, q: Queue, room: u8, parts: u8) {
        let mut ledger = self.ledger();
        let mut got = Vec::new();
        let first = 1 << 31 | u64::from(apqn(q).0);
        let mut gr0 = first;
        for _ in 0..parts {
            let begun = self.environment(vm, |guest| self.machine.dqap_begin(guest, gr0, room.into()));
            let reply = match begun.expect("in the supervisor state") {
                Ok(reply) => reply,
                Err(status) => {
                    if gr0 == first {
                        self.expect(&mut ledger, "DQAP", vm, q, status.response_code as u8, 0x10);
                    } else {
                        ledger.wrong.push(format!("fate: DQAP of VM {vm} to {q:x?} loses what it has begun"));
                    }
                    return;
                }
            };
            let (psmid, residual) = (reply.psmid(), reply.residual());
            got.extend_from_slice(reply.bytes());
            gr0 = ap::instruction::dqap_continuation(gr0, reply.next_index());
            reply.commit();
            if residual == 0 {
                let owner = ledger.owner(vm);
                let Some(request) = ledger.queued.get_mut(&q).and_then(VecDeque::pop_front) else {
                    ledger.wrong.push(format!("fate: VM {vm} gets reply {psmid:x} of {q:x?} to no request"));
                    return;
                };
                if (request.psmid, request.owner) != (psmid, owner) || got != echo(q.1, &request.message) {
                    ledger.wrong.push(format!(
                        "handover: VM {vm} gets reply {psmid:x} of {q:x?}, {got:x?}, and not that to request {:x} of {:?}",
                        request.psmid, request.owner
                    ));
                }
                ledger.end(&request, Fate::Answered);
                return;
            }
        }
    }

    fn enable(&self, vm: usize, q: Queue, isc: u8, nib: Nib) {
        let limit = |pins, isc| self.users[vm].ap.notifier.set_limits(Resources { pins, isc: [isc; 8] });
        let address = match nib {
            Nib::Zero => 0,
            Nib::Outside => STORAGE,
            _ => nib_of(q),
        };
        match nib {
            Nib::NoPin => limit(0, u32::MAX),
            Nib::NoIsc => limit(u32::MAX, 0),
            Nib::Busy => {
                let once = Answer::times(std::num::NonZeroU32::MIN, ResponseCode::Busy);
                // Whatever else was injected stays, and so does this until somebody asks.
                if self.masks(vm).test(apqn(q)) {
                    self.machine.inject(apqn(q), Fault::AqicAnswers(once));
                }
            }
            Nib::Zero | Nib::Outside | Nib::Good => {}
        }
        let code = self.pqap(vm, q, 3, 1 << 47 | u64::from(isc), address);
        limit(u32::MAX, u32::MAX);
        let mut ledger = self.ledger();
        let there = !matches!(self.availability(&ledger, vm, q), Some(1));
        match nib {
            Nib::Busy if there && code == 5 => {}
            Nib::Busy if there => {
                ledger.wrong.push(format!("AQIC of VM {vm} to {q:x?} answers {code:02x}, not 05"));
            }
            Nib::Good | Nib::Busy => {
                let want = if ledger.enabled.contains_key(&q) { 7 } else { 0 };
                self.expect(&mut ledger, "AQIC", vm, q, code, want);
            }
            // Found before the queue is asked.
            _ if code != if there { 6 } else { 1 } => {
                ledger.wrong.push(format!("AQIC of VM {vm} to {q:x?}, {nib:?}, answers {code:02x}"));
            }
            _ => {}
        }
        if code == 0 {
            let owner = ledger.owner(vm);
            ledger.enabled.insert(q, (owner, isc));
            ledger.armed.insert((vm, q, isc));
        }
    }

    /// Time passes. The first reply that comes on a queue whose interruption is enabled is notified.
    fn wait(&self, nanoseconds: u64) {
        let enabled: Vec<(Queue, usize)> =
            self.ledger().enabled.iter().map(|(q, ((vm, _), _))| (*q, *vm)).collect();
        let quiet = |(q, _): &(Queue, usize)| {
            let status = self.status(*q);
            status.interruptions_enabled && !status.replies_waiting
        };
        let quiet: Vec<(Queue, usize)> = enabled.into_iter().filter(quiet).collect();
        self.time.advance(nanoseconds);
        for (q, vm) in quiet {
            let byte = self.users[vm].storage.read_array::<1>(AbsoluteAddress(nib_of(q)));
            if self.status(q).replies_waiting && byte != Ok([1]) {
                self.ledger().wrong.push(format!("the first reply on {q:x?} is not notified to VM {vm}"));
            }
        }
    }

    // The promises.

    /// A step begins.
    pub fn begin(&self) {
        let mut ledger = self.ledger();
        ledger.wrong.clear();
        ledger.armed = ledger.enabled.iter().map(|(q, ((vm, _), isc))| (*vm, *q, *isc)).collect();
    }

    /// Nothing of another, nor of a former attachment, is on the queues that the VM may reach.
    fn check_handover(&self, ledger: &Ledger, vm: usize) -> Result<(), String> {
        let owner = ledger.owner(vm);
        for apqn in self.masks(vm).apqns() {
            let q = queue(apqn);
            let foreign = ledger.queued.get(&q).into_iter().flatten().find(|request| request.owner != owner);
            if let Some(request) = foreign {
                return Err(format!(
                    "handover: VM {vm} may reach {q:x?} with request {:x} of {:?} on it",
                    request.psmid, request.owner
                ));
            }
            let enabled = ledger.enabled.get(&q);
            if enabled.is_some_and(|(other, _)| *other != owner) {
                return Err(format!("handover: VM {vm} may reach {q:x?}, which notifies {enabled:?}"));
            }
            let (status, empty) = (self.machine.status(apqn), !ledger.queued.contains_key(&q));
            let clean = status.queue_empty && !status.replies_waiting;
            if status.response_code != ResponseCode::NotAvailable && empty && !clean
                || status.interruptions_enabled && enabled.is_none()
            {
                return Err(format!("handover: VM {vm} may reach {q:x?}, whose status is {status:?}"));
            }
        }
        Ok(())
    }

    /// After a step: *exactly one fate*, *clean handover* and *balanced resources*.
    pub fn check(&self) -> Result<(), String> {
        let mut ledger = self.ledger();
        ledger.queued.retain(|_, requests| !requests.is_empty());
        if let Some(wrong) = ledger.wrong.first() {
            return Err(wrong.clone());
        }
        for &a in ledger.adapters.keys() {
            for &b in &ledger.domains {
                let queued = ledger.queued.get(&(a, b)).map_or(0, VecDeque::len);
                let (status, statistics) = (self.status((a, b)), self.machine.statistics(apqn((a, b))));
                let told = (status.queue_empty, status.queue_full);
                if statistics.map(|s| s.queued) != Some(queued as u64)
                    || told != (queued == 0, queued == DEPTH)
                {
                    return Err(format!(
                        "fate: {queued} requests are pending on {:x?}, which has {statistics:?}, {status:?}",
                        (a, b)
                    ));
                }
            }
        }
        let totals = self.machine.totals();
        let fates = [Fate::Answered, Fate::Discarded, Fate::Pending].map(|fate| ledger.count(fate));
        if [totals.replies, totals.discards, totals.queued] != fates
            || totals.requests != ledger.fates.len() as u64
        {
            return Err(format!("fate: {totals:?}, and not answered, discarded, pending: {fates:?}"));
        }
        for (q, requests) in &ledger.queued {
            let gone = |request: &&Request| {
                !ledger.hooks[request.owner.0] || ledger.owner(request.owner.0) != request.owner
            };
            if let Some(request) = requests.iter().find(gone) {
                return Err(format!(
                    "fate: request {:x} on {q:x?} has none, {:?} has left",
                    request.psmid, request.owner
                ));
            }
        }
        for (vm, user) in self.users.iter().enumerate() {
            self.check_handover(&ledger, vm)?;
            let mut held = Resources::default();
            for (owner, isc) in ledger.enabled.values().filter(|((other, _), _)| *other == vm) {
                if !ledger.hooks[vm] || *owner != ledger.owner(vm) {
                    return Err(format!("balance: {owner:?} has left, with an interruption enabled"));
                }
                held.pins += 1;
                held.isc[usize::from(*isc)] += 1;
            }
            if user.ap.resources() != held {
                return Err(format!("balance: VM {vm} holds {:?}, not {held:?}", user.ap.resources()));
            }
            Self::check_notified(&ledger, vm, user)?;
        }
        Ok(())
    }

    /// Whoever was notified had asked for that.
    fn check_notified(ledger: &Ledger, vm: usize, user: &User) -> Result<(), String> {
        let mut bytes = [0; 0x100];
        user.storage.read(AbsoluteAddress(NIBS), &mut bytes).expect("in storage");
        for at in (0..bytes.len()).filter(|at| bytes[*at] != 0) {
            let q = ((at >> 4) as u8, at as u8 & 0xf);
            if !ledger.armed.iter().any(|(other, armed, _)| (*other, *armed) == (vm, q)) {
                return Err(format!("handover: VM {vm} is notified of {q:x?}, without its doing"));
            }
        }
        if bytes != [0; 0x100] {
            user.storage.write(AbsoluteAddress(NIBS), &[0; 0x100]).expect("in storage");
        }
        let posted = std::mem::take(&mut *user.posted.0.lock().unwrap_or_else(PoisonError::into_inner));
        let armed = |isc: &u8| ledger.armed.iter().any(|(other, _, armed)| (*other, armed) == (vm, isc));
        match posted.iter().find(|isc| !armed(isc)) {
            Some(isc) => {
                Err(format!("handover: VM {vm} is interrupted on subclass {isc}, without its doing"))
            }
            None => Ok(()),
        }
    }

    /// Every reply that a VM can get, it gets: nothing was lost on the way.
    pub fn drain(&self) -> Result<(), String> {
        self.time.advance(1 << 30);
        for vm in 0..DEVICES {
            for apqn in self.masks(vm).apqns() {
                let q = queue(apqn);
                if self.availability(&self.ledger(), vm, q) != Some(0) {
                    continue;
                }
                for _ in 0..DEPTH {
                    self.dequeue(vm, q, u8::MAX, 1);
                }
                if self.ledger().queued.get(&q).is_some_and(|requests| !requests.is_empty()) {
                    return Err(format!("fate: VM {vm} waits for replies of {q:x?} in vain"));
                }
            }
        }
        self.check()
    }

    /// With no device left, no request is pending, and nothing is held.
    pub fn check_empty(&self) -> Result<(), String> {
        let ledger = self.ledger();
        let pending = ledger.count(Fate::Pending);
        if pending != 0 || !ledger.enabled.is_empty() || ledger.hooks != [false; DEVICES] {
            return Err(format!(
                "balance: at the end {pending} requests are pending, {:?} enabled, hooks {:?}",
                ledger.enabled, ledger.hooks
            ));
        }
        Ok(())
    }

    /// What the histories reached.
    pub fn reached(&self) -> [u64; 2] {
        let ledger = self.ledger();
        [ledger.count(Fate::Answered), ledger.count(Fate::Discarded)]
    }
}

fn apqn((a, b): Queue) -> Apqn {
    Apqn::new(crycb::Apid(a), crycb::Apqi(b))
}

fn nib_of((a, b): Queue) -> u64 {
    assert!(a < 16 && b < 16 && *DOMAINS.end() < 16, "{a}, {b}");
    NIBS + u64::from(a) * 16 + u64::from(b)
}
