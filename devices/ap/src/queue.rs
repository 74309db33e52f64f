//! The queue layer: one AP queue with its requests, replies, session and interruption.
//!
//! The life of a request: [`Queue::enqueue`] puts it on the queue; a worker of the [pool](crate::pool) takes it, lets the
//! card compute and puts the reply in its place; the reply becomes *visible* once every earlier one is, and is dequeued in
//! that order. A reset, zeroize, deconfiguration, check-stop or removal discards every request and reply and starts a new
//! *generation*: what a worker brings for an older one is wiped.
//!
//! A queue that was once installed keeps its place for the life of the machine: [`Queue::remove`] empties it, and from then
//! on it answers response code 01, until [`Queue::install`] puts it on a card again. So an instruction that races with a
//! removal finds the queue before or after it, and looking a queue up needs no lock.
//!
//! With virtual time a reply becomes visible at a time fixed by the request, whether or not the worker was done long before:
//! the CPU's thread waits for a worker that was not.
//!
//! Locks: a queue's state, then the session's keys and (inside [`Target`]) the guest's ledger and whatever storage and the
//! pending interruptions use. The pool's list is never locked under a queue's state ([`Rank::Pool`]). Nobody may hold off CPUs
//! while holding a queue.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crycb::Apqn;
use machine::Clock;
use zeroize::Zeroizing;

use crate::card::{Card, CardFacts, Random, SeededRandom, Session};
use crate::fault::{Fault, Faults};
use crate::lock::{Rank, RankedGuard, RankedMutex};
use crate::notifier::Target;
use crate::pool::Pool;
use crate::status::{ResponseCode, Status};
use crate::sync::Condvar;

/// How long a reset is in progress, in nanoseconds of guest time: long enough to be seen by the next TAPQ, far below the
/// 20 and 40 milliseconds after which Linux looks again.
pub(crate) const RESET_TIME: u64 = 100_000;

/// How long interruptions take to be enabled, in nanoseconds of guest time.
pub(crate) const ENABLE_TIME: u64 = 50_000;

/// With virtual time: nanoseconds from NQAP until the reply is visible. It depends on the request alone; its size stands for
/// the size of the numbers in it.
pub(crate) const fn virtual_latency(request: usize) -> u64 {
    100_000 + 100 * request as u64
}

/// The state of an adapter, as the support element sets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterState {
    /// Operational.
    #[default]
    Configured,
    /// Taken off the configuration: response code 03.
    Deconfigured,
    /// Failed: response code 04.
    CheckStopped,
    /// Operational again soon, with all that is queued: response code 05.
    Busy,
}

/// What happened on a queue since it was installed, or on all that ever were.
///
/// `requests` = `replies` + `discards` + what is on the queue, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStatistics {
    /// Requests that NQAP accepted.
    pub requests: u64,
    /// Replies that DQAP took off in full.
    pub replies: u64,
    /// Requests and replies discarded by a reset, zeroize, deconfiguration, check-stop or removal.
    pub discards: u64,
    /// Requests and replies on the queue now.
    pub queued: u64,
    /// Replies on the queue now that DQAP can take.
    pub waiting: u64,
    /// Adapter interruptions made pending.
    pub interruptions: u64,
    /// Replies that DQAP could take, taken or not.
    pub answered: u64,
    /// Nanoseconds of guest time from NQAP until DQAP could take the reply, summed over `answered`.
    pub answer_time: u64,
}

impl std::ops::AddAssign for QueueStatistics {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.replies += other.replies;
        self.discards += other.discards;
        self.queued += other.queued;
        self.waiting += other.waiting;
        self.interruptions += other.interruptions;
        self.answered += other.answered;
        self.answer_time = self.answer_time.saturating_add(other.answer_time);
    }
}

/// One queue: a domain of an adapter.
pub(crate) struct Queue {
    // Fixed at creation.
    apqn: Apqn,
    workers: usize,
    // Connections to the host.
    clock: Arc<dyn Clock>,
    virtual_time: bool,
    randomness: Randomness,
    /// A reply of the current generation is there, or the generation ended; only for those who wait in virtual time.
    progress: Condvar,
    // What the guest sees.
    state: RankedMutex<State>,
}

/// What a queue's sessions draw from.
enum Randomness {
    Host(Arc<dyn Random>),
    /// With virtual time: a seed, from which each generation gets a stream of its own.
    Seed(u64),
}

impl Randomness {
    fn session(&self, generation: u64) -> Arc<Session> {
        Arc::new(Session::new(match self {
            Self::Host(random) => random.clone(),
            Self::Seed(seed) => Arc::new(SeededRandom::new(seed.wrapping_add(generation))),
        }))
    }
}

struct State {
    /// `None` while there is no such queue.
    installed: Option<Installed>,
    adapter: AdapterState,
    faults: Faults,
    /// End of the reset in progress, in nanoseconds of guest time.
    reset_until: Option<u64>,
    /// What was begun before the last reset does not count any more.
    generation: u64,
    session: Arc<Session>,
    /// Oldest first: visible replies, then requests in any state of work, those not yet begun last.
    entries: VecDeque<Entry>,
    /// Serial number of the first entry, counting all requests ever.
    first: u64,
    /// How many entries a worker has begun.
    begun: usize,
    /// How many entries are visible as replies.
    visible: usize,
    /// Entries below this serial number may become visible; with host time all may.
    due: u64,
    /// Virtual time at which the newest request's reply is due.
    last_due_at: u64,
    /// How far the oldest reply was dequeued in parts.
    dequeued_part: Option<usize>,
    /// Workers at this queue, for any generation.
    running: usize,
    /// In the pool's list.
    listed: bool,
    interruption: Interruption,
    statistics: QueueStatistics,
    /// Those of the earlier lives of the queue.
    retired: QueueStatistics,
}

/// What a queue is on.
struct Installed {
    card: Arc<dyn Card>,
    facts: CardFacts,
}

struct Entry {
    psmid: u64,
    /// Guest time of NQAP in nanoseconds.
    since: u64,
    body: Body,
}

enum Body {
    Request(Zeroizing<Vec<u8>>),
    Computing,
    Reply(Zeroizing<Vec<u8>>),
}

#[derive(Default)]
enum Interruption {
    #[default]
    Disabled,
    /// To be enabled at this guest time.
    Enabling(u64, Target),
    Enabled(Target),
}

/// One request on its way through a worker.
pub(crate) struct Job {
    generation: u64,
    serial: u64,
    request: Zeroizing<Vec<u8>>,
    session: Arc<Session>,
    card: Arc<dyn Card>,
}

impl Queue {
    /// The place of a queue, with nothing in it.
    pub(crate) fn new(apqn: Apqn, clock: Arc<dyn Clock>, random: &Arc<dyn Random>, workers: usize) -> Self {
        let virtual_time = clock.is_virtual();
        let randomness = if virtual_time {
            let mut seed = [0; 8];
            random.fill(&mut seed);
            Randomness::Seed(u64::from_be_bytes(seed))
        } else {
            Randomness::Host(random.clone())
        };
        let state = State {
            installed: None,
            adapter: AdapterState::Configured,
            faults: Faults::default(),
            reset_until: None,
            generation: 0,
            session: randomness.session(0),
            entries: VecDeque::new(),
            first: 0,
            begun: 0,
            visible: 0,
            due: if virtual_time { 0 } else { u64::MAX },
            last_due_at: 0,
            dequeued_part: None,
            running: 0,
            listed: false,
            interruption: Interruption::Disabled,
            statistics: QueueStatistics::default(),
            retired: QueueStatistics::default(),
        };
        Self {
            apqn,
            // One after the other, so that they draw random bytes in order.
            workers: if virtual_time { 1 } else { workers },
            clock,
            virtual_time,
            randomness,
            progress: Condvar::new(),
            state: RankedMutex::with_key(Rank::Queue, apqn.0.into(), state),
        }
    }

    /// Puts the queue, which is not there, on a card.
    pub(crate) fn install(&self, card: &Arc<dyn Card>, adapter: AdapterState) {
        let (card, facts) = (card.clone(), *card.facts());
        let mut state = self.lock();
        assert!(state.installed.is_none(), "AP queue {} is there already", self.apqn);
        state.entries.reserve_exact(facts.queue_depth.into());
        state.installed = Some(Installed { card, facts });
        state.adapter = adapter;
    }

    /// Takes the queue away with all that is on it.
    pub(crate) fn remove(&self) {
        let mut state = self.lock();
        self.discard(&mut state);
        state.installed = None;
        state.faults = Faults::default();
        state.reset_until = None;
        let ended = std::mem::take(&mut state.statistics);
        state.retired += ended;
    }

    pub(crate) fn is_installed(&self) -> bool {
        self.lock().installed.is_some()
    }

    /// The status as TAPQ answers it.
    pub(crate) fn status(&self) -> Status {
        self.test().0
    }

    /// What TAPQ answers: the status and, for a queue that is there, the card's facts.
    pub(crate) fn test(&self) -> (Status, Option<CardFacts>) {
        let mut state = self.lock();
        let code = state.availability(&self.clock);
        (state.word(code), state.installed.as_ref().map(|installed| installed.facts))
    }

    /// `None` while there is no such queue.
    pub(crate) fn statistics(&self) -> Option<QueueStatistics> {
        let state = self.lock();
        state.installed.is_some().then(|| state.statistics())
    }

    /// Of all its lives.
    pub(crate) fn total(&self) -> QueueStatistics {
        let state = self.lock();
        let mut total = state.statistics();
        total += state.retired;
        total
    }

    /// RAPQ and ZAPQ: discards all there is, forgets keys and interruption, and is in progress for a while.
    pub(crate) fn reset(&self) -> Status {
        let mut state = self.lock();
        let code = self.begin_reset(&mut state);
        state.word(code)
    }

    /// A reset by the host, which has no further use for the interruption: it ends whatever the answer is.
    pub(crate) fn reset_by_host(&self) -> Status {
        let mut state = self.lock();
        let code = self.begin_reset(&mut state);
        state.disable_interruption();
        state.word(code)
    }

    fn begin_reset(&self, state: &mut State) -> ResponseCode {
        let code = match state.availability(&self.clock) {
            ResponseCode::NotAvailable => ResponseCode::NotAvailable,
            code => state.faults.reset().unwrap_or(code),
        };
        if code == ResponseCode::Normal {
            self.discard(state);
            state.reset_until = Some(self.clock.now() + RESET_TIME);
        }
        code
    }

    /// Adds a fault; false while there is no such queue.
    pub(crate) fn inject(&self, fault: Fault) -> bool {
        let mut state = self.lock();
        let there = state.installed.is_some();
        if there {
            state.faults.add(fault);
        }
        there
    }

    pub(crate) fn clear_faults(&self) {
        self.lock().faults = Faults::default();
    }

    /// A reset by the host that with virtual time ends at once: the host's time is another, and while the host waits no
    /// instruction may be executed that would let the guest's go on.
    pub(crate) fn zeroize_by_host(&self) -> Status {
        let status = self.reset_by_host();
        let mut state = self.lock();
        if self.virtual_time && !state.faults.reset_never_ends {
            state.reset_until = None;
        }
        status
    }

    pub(crate) fn set_adapter_state(&self, adapter: AdapterState) {
        let mut state = self.lock();
        if adapter == state.adapter || state.installed.is_none() {
            return;
        }
        state.adapter = adapter;
        if matches!(adapter, AdapterState::Deconfigured | AdapterState::CheckStopped) {
            self.discard(&mut state);
            state.reset_until = None;
        }
    }

    /// Enables interruptions, which takes a while. With any answer but 00 the target is dropped, and one that the queue has
    /// already stays.
    pub(crate) fn enable_interruption(&self, target: Target) -> Status {
        let mut state = self.lock();
        let mut code = state.aqic_availability(&self.clock);
        if code == ResponseCode::Normal {
            if matches!(state.interruption, Interruption::Disabled) {
                state.interruption = Interruption::Enabling(self.clock.now() + ENABLE_TIME, target);
            } else {
                code = ResponseCode::OtherwiseChanged;
            }
        }
        state.word(code)
    }

    /// Disables interruptions at once and forgets the notification byte.
    pub(crate) fn disable_interruption(&self) -> Status {
        let mut state = self.lock();
        let mut code = state.aqic_availability(&self.clock);
        if code == ResponseCode::Normal && !state.disable_interruption() {
            code = ResponseCode::OtherwiseChanged;
        }
        state.word(code)
    }

    /// Ends the interruption in every state of the queue, without asking it. False when there was none.
    pub(crate) fn free_interruption(&self) -> bool {
        self.lock().disable_interruption()
    }

    /// Whether a request of `length` bytes would be accepted now.
    pub(crate) fn check_enqueue(&self, length: u64) -> Status {
        let mut state = self.lock();
        let code = state.enqueue_code(&self.clock, length);
        state.word(code)
    }

    /// Puts a request on the queue and sees to it that a worker comes.
    pub(crate) fn enqueue(self: &Arc<Self>, psmid: u64, request: Zeroizing<Vec<u8>>, pool: &Pool) -> Status {
        let mut state = self.lock();
        let code = state.enqueue_code(&self.clock, request.len() as u64);
        if code != ResponseCode::Normal {
            return state.word(code);
        }
        let latency = virtual_latency(request.len());
        let serial = state.first + state.entries.len() as u64;
        let since = self.clock.now();
        state.entries.push_back(Entry { psmid, since, body: Body::Request(request) });
        state.statistics.requests += 1;
        let submit = state.list_if_due(self.workers);
        let status = state.word(code);
        let due = self.virtual_time.then(|| {
            state.last_due_at = (since + latency).max(state.last_due_at);
            (state.last_due_at, state.generation)
        });
        drop(state);
        if submit {
            pool.submit(self.clone());
        }
        if let Some((at, generation)) = due {
            // Weak, since the queue has the clock: what is never due must not keep the queue and what it holds.
            let queue = Arc::downgrade(self);
            let deliver = move || queue.upgrade().iter().for_each(|queue| queue.deliver(generation, serial));
            self.clock.schedule(at, Box::new(deliver));
        }
        status
    }

    /// Begins to dequeue the oldest reply into a buffer of `room` bytes. `part` is `None` to begin with the reply's first
    /// byte, else the index of the byte to go on with. Nothing changes before [`Dequeue::commit`].
    pub(crate) fn begin_dequeue(&self, room: u64, part: Option<u64>) -> Result<Dequeue<'_>, Status> {
        let mut state = self.lock();
        let code = match (state.availability(&self.clock), part, state.dequeued_part) {
            (ResponseCode::Normal, _, _) if state.visible == 0 => ResponseCode::FullOrNoReply,
            (ResponseCode::Normal, Some(_), None) => ResponseCode::NoFirstPart,
            (ResponseCode::Normal, Some(index), Some(done)) if index > done as u64 => {
                ResponseCode::IndexTooBig
            }
            (code, _, _) => code,
        };
        if code != ResponseCode::Normal {
            return Err(state.word(code));
        }
        let start = part.unwrap_or(0) as usize;
        let length = state.oldest_reply().1.len();
        let end = length.min(start.saturating_add(usize::try_from(room).unwrap_or(usize::MAX)));
        Ok(Dequeue { state, start, end, length })
    }

    /// A worker asks for a request; also whether another worker should come.
    pub(crate) fn take_job(&self) -> (Option<Job>, bool) {
        let mut state = self.lock();
        state.listed = false;
        let at = state.begun;
        if state.running >= self.workers || at >= state.entries.len() {
            return (None, false);
        }
        let card = state.installed.as_ref().expect("requests are on installed queues only").card.clone();
        let body = std::mem::replace(&mut state.entries[at].body, Body::Computing);
        let Body::Request(request) = body else { unreachable!("requests are begun in order") };
        state.begun += 1;
        state.running += 1;
        let job = Job {
            generation: state.generation,
            serial: state.first + at as u64,
            request,
            session: state.session.clone(),
            card,
        };
        let more = state.list_if_due(self.workers);
        (Some(job), more)
    }

    /// Lets the card compute on the calling worker. True when a worker should come again.
    pub(crate) fn process(&self, job: Job) -> bool {
        let compute = || job.card.process(&job.session, self.apqn.apqi().0, &job.request);
        let reply = catch_unwind(AssertUnwindSafe(compute)).map(Zeroizing::new);
        let mut state = self.lock();
        state.running -= 1;
        if state.generation != job.generation {
            // Discarded: dropping the reply wipes it, and the session, which was wiped, takes no key any more.
            drop(reply);
        } else if let Ok(reply) = reply {
            let at = (job.serial - state.first) as usize;
            state.entries[at].body = Body::Reply(reply);
            if self.virtual_time {
                self.progress.notify_all();
            } else {
                self.reveal(&mut state);
            }
        } else {
            // Our bug, but not the other guests': the queue fails as a queue fails.
            log::error!("AP queue {} is check-stopped: its card panicked", self.apqn);
            state.adapter = AdapterState::CheckStopped;
            self.discard(&mut state);
        }
        state.list_if_due(self.workers)
    }

    /// Virtual time has come for the reply to request `serial`.
    fn deliver(&self, generation: u64, serial: u64) {
        let mut state = self.lock();
        while state.generation == generation && !state.is_computed(serial) {
            state = state.wait(&self.progress);
        }
        if state.generation == generation {
            state.due = state.due.max(serial + 1);
            self.reveal(&mut state);
        }
    }

    /// Makes replies visible as far as they are there in order, and interrupts when these are the first.
    fn reveal(&self, state: &mut State) {
        let before = state.visible;
        while state.first + (state.visible as u64) < state.due
            && matches!(state.entries.get(state.visible), Some(Entry { body: Body::Reply(_), .. }))
        {
            state.visible += 1;
        }
        let new = state.visible - before;
        if new > 0 {
            let now = self.clock.now();
            let waited = |entry: &Entry| now.saturating_sub(entry.since);
            let time: u64 = state.entries.iter().skip(before).take(new).map(waited).sum();
            state.statistics.answered += new as u64;
            state.statistics.answer_time = state.statistics.answer_time.saturating_add(time);
        }
        if before == 0 && state.visible > 0 {
            let now_enabled = state.settle_interruption(&self.clock);
            if !now_enabled {
                state.interrupt();
            }
        }
    }

    /// Empties the queue: requests, replies, keys and the notification byte are forgotten, buffers wiped.
    fn discard(&self, state: &mut State) {
        let count = state.entries.len() as u64;
        state.statistics.discards += count;
        state.first += count;
        state.entries.clear();
        state.begun = 0;
        state.visible = 0;
        state.dequeued_part = None;
        state.last_due_at = 0;
        state.generation += 1;
        state.disable_interruption();
        let session = self.randomness.session(state.generation);
        std::mem::replace(&mut state.session, session).wipe();
        self.progress.notify_all();
    }

    fn lock(&self) -> RankedGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Brings reset and interruption up to the present and answers 00, 01, 02, 03, 04 or 05.
    fn availability(&mut self, clock: &Arc<dyn Clock>) -> ResponseCode {
        if let Some(until) = self.reset_until
            && !self.faults.reset_never_ends
            && clock.now() >= until
        {
            self.reset_until = None;
        }
        self.settle_interruption(clock);
        match self.adapter {
            _ if self.installed.is_none() => ResponseCode::NotAvailable,
            AdapterState::Deconfigured => ResponseCode::Deconfigured,
            AdapterState::CheckStopped => ResponseCode::CheckStopped,
            AdapterState::Busy => ResponseCode::Busy,
            AdapterState::Configured if self.reset_until.is_some() => ResponseCode::ResetInProgress,
            AdapterState::Configured => ResponseCode::Normal,
        }
    }

    /// The same for AQIC, with its faults.
    fn aqic_availability(&mut self, clock: &Arc<dyn Clock>) -> ResponseCode {
        match self.availability(clock) {
            ResponseCode::NotAvailable => ResponseCode::NotAvailable,
            code => self.faults.aqic().unwrap_or(code),
        }
    }

    fn enqueue_code(&mut self, clock: &Arc<dyn Clock>, length: u64) -> ResponseCode {
        match (self.availability(clock), &self.installed) {
            (ResponseCode::Normal, Some(Installed { facts, .. })) => {
                if length > facts.max_message as u64 {
                    ResponseCode::MessageTooBig
                } else if self.is_full() {
                    ResponseCode::FullOrNoReply
                } else {
                    ResponseCode::Normal
                }
            }
            (code, _) => code,
        }
    }

    fn is_full(&self) -> bool {
        self.installed.as_ref().is_some_and(|on| self.entries.len() >= usize::from(on.facts.queue_depth))
    }

    /// The status word; of a queue that is not there it says nothing else.
    fn word(&self, response_code: ResponseCode) -> Status {
        if self.installed.is_none() || response_code == ResponseCode::NotAvailable {
            return Status::code(ResponseCode::NotAvailable);
        }
        Status {
            queue_empty: self.entries.is_empty(),
            replies_waiting: self.visible > 0,
            queue_full: self.is_full(),
            interruptions_enabled: matches!(self.interruption, Interruption::Enabled(_)),
            response_code,
        }
    }

    fn statistics(&self) -> QueueStatistics {
        let (queued, waiting) = (self.entries.len() as u64, self.visible as u64);
        QueueStatistics { queued, waiting, ..self.statistics }
    }

    /// Ends the enabling of interruptions when its time has come. Replies that wait already are reported then: their
    /// arrival was not. True when that happened just now.
    fn settle_interruption(&mut self, clock: &Arc<dyn Clock>) -> bool {
        if !matches!(self.interruption, Interruption::Enabling(at, _) if clock.now() >= at) {
            return false;
        }
        let Interruption::Enabling(_, target) = std::mem::take(&mut self.interruption) else { return false };
        self.interruption = Interruption::Enabled(target);
        if self.visible > 0 {
            self.interrupt();
        }
        true
    }

    fn interrupt(&mut self) {
        if let Interruption::Enabled(target) = &self.interruption {
            if target.notify() {
                self.statistics.interruptions += 1;
            } else {
                self.interruption = Interruption::Disabled;
            }
        }
    }

    /// False when it was disabled before.
    fn disable_interruption(&mut self) -> bool {
        !matches!(std::mem::take(&mut self.interruption), Interruption::Disabled)
    }

    /// Whether the queue must go to the pool's list; notes that it does.
    fn list_if_due(&mut self, workers: usize) -> bool {
        let due = !self.listed && self.begun < self.entries.len() && self.running < workers;
        self.listed |= due;
        due
    }

    /// Whether every reply up to that of request `serial` is computed.
    fn is_computed(&self, serial: u64) -> bool {
        let count = (serial + 1).saturating_sub(self.first) as usize;
        self.entries.iter().take(count).all(|entry| matches!(entry.body, Body::Reply(_)))
    }

    fn oldest_reply(&self) -> (u64, &[u8]) {
        match self.entries.front() {
            Some(Entry { psmid, body: Body::Reply(reply), .. }) => (*psmid, reply),
            _ => unreachable!("a visible entry is a reply"),
        }
    }
}

/// The oldest reply being dequeued. It holds the queue: others wait until it is [committed](Self::commit) or dropped, and
/// dropping it leaves the queue as it was.
pub struct Dequeue<'q> {
    state: RankedGuard<'q, State>,
    start: usize,
    end: usize,
    length: usize,
}

impl Dequeue<'_> {
    /// The program-supplied message identifier of the request.
    pub fn psmid(&self) -> u64 {
        self.state.oldest_reply().0
    }

    /// What goes into the buffer.
    pub fn bytes(&self) -> &[u8] {
        &self.state.oldest_reply().1[self.start..self.end]
    }

    /// Index of the byte behind [`bytes`](Self::bytes) in the reply.
    pub fn next_index(&self) -> u64 {
        self.end as u64
    }

    /// Bytes of the reply that come after [`bytes`](Self::bytes); zero when this is the last part.
    pub fn residual(&self) -> u64 {
        (self.length - self.end) as u64
    }

    /// The bytes are in the guest's buffer: the last part takes the reply off the queue, an earlier one is noted.
    pub fn commit(mut self) -> Status {
        let state = &mut *self.state;
        if self.end == self.length {
            state.entries.pop_front();
            state.first += 1;
            state.begun -= 1;
            state.visible -= 1;
            state.dequeued_part = None;
            state.statistics.replies += 1;
        } else {
            state.dequeued_part = Some(self.end);
        }
        state.word(ResponseCode::Normal)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
