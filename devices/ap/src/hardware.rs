//! The machine's AP hardware: adapters by domains, and the queues where they cross.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, OnceLock};

use crycb::{Apid, Apqi, Apqn, Mask256, Qci, QciFlags};
use machine::Clock;
use zarch::AbsoluteAddress;
use zeroize::Zeroizing;

use crate::card::{Card, Random, emulate};
use crate::fault::Fault;
use crate::guest::GuestAp;
use crate::host::{Installed, Lpar};
use crate::lock::{Rank, RankedReadGuard, RankedRwLock, RankedWriteGuard};
use crate::notifier::Notifier;
use crate::pool::Pool;
use crate::queue::{AdapterState, Dequeue, Queue, QueueStatistics};
use crate::status::{QueueInformation, ResponseCode, Status};

/// What the machine is made of.
pub struct Hardware {
    /// What PQAP(QCI) says of the machine. [`QciFlags::APSC`], [`QciFlags::APXA`] and [`QciFlags::QACT`] are done here; binding
    /// ([`QciFlags::APSB`]) is not. Each usage domain is a queue on each adapter.
    pub qci: Qci,
    /// The adapters of the APM with their numbers.
    pub adapters: Vec<(Apid, Arc<dyn Card>)>,
}

impl Hardware {
    /// The cards of an AP configuration.
    pub fn of(lpar: &Lpar) -> Self {
        let card = |installed: &Installed| (installed.adapter.apid, emulate(&installed.adapter));
        Self { qci: lpar.qci(), adapters: lpar.adapters().map(card).collect() }
    }

    fn apm(&self) -> Mask256 {
        self.adapters.iter().map(|(apid, _)| apid.0).collect()
    }

    fn check(&self) {
        let mut seen = Mask256::EMPTY;
        for (apid, card) in &self.adapters {
            assert!(!seen.test(apid.0), "adapter {apid} is there twice");
            seen.set(apid.0);
            let depth = card.facts().queue_depth;
            assert!((1..=16).contains(&depth), "TAPQ can express a depth of 1 to 16, not {depth}");
        }
        assert_eq!(seen, self.qci.matrix.apm, "the APM names the adapters");
    }
}

/// The AP hardware of one machine, shared by its guests. Which of it a guest may reach is not known here: the AP instructions
/// ask the guest's CRYCB each time.
///
/// Adapters and domains come and go while guests run: [`apply`](Self::apply), [`set_adapter`](Self::set_adapter) and
/// [`set_domains`](Self::set_domains). Queues that stay keep what is on them, and their interruption. A queue that goes is
/// emptied, each request and reply on it a discard, its keys are wiped and its interruption ends; from then on instructions
/// answer response code 01. One that comes, or comes back, is empty and counts from zero. An instruction that meets a change
/// finds each queue as it was before or as it is after.
pub struct ApMachine {
    // Fixed at creation.
    pool: Pool,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    // What the machine is now. It is locked before queues are.
    configuration: RankedRwLock<Configuration>,
    // Whatever is or was a queue; only the queue knows which. So instructions find it without a lock.
    places: Box<[OnceLock<Places>]>,
}

/// The queues of one adapter by domain.
type Places = Box<[OnceLock<Arc<Queue>>]>;

/// Invariant: the queue of an adapter and a domain is installed exactly when the adapter is here and the domain in the AQM.
struct Configuration {
    qci: Qci,
    adapters: BTreeMap<u8, Adapter>,
}

struct Adapter {
    card: Arc<dyn Card>,
    state: AdapterState,
}

fn places<T>() -> Box<[OnceLock<T>]> {
    (0..=255).map(|_| OnceLock::new()).collect()
}

impl ApMachine {
    /// Puts the machine together; all adapters are configured, all queues empty.
    ///
    /// `clock` decides whether replies come as fast as the host computes them or at virtual times; `random` is what the cards
    /// draw from. With virtual time each queue gets a seed from it, in order, and a stream of its own, so that what a card
    /// draws does not depend on which worker is first.
    ///
    /// # Errors
    /// The host starts no thread for the cards.
    ///
    /// # Panics
    /// As [`apply`](Self::apply).
    pub fn new(hardware: Hardware, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> io::Result<Arc<Self>> {
        let configuration = Configuration { qci: hardware.qci, adapters: BTreeMap::new() };
        let configuration = RankedRwLock::new(Rank::Hardware, configuration);
        let machine = Self { pool: Pool::new()?, clock, random, configuration, places: places() };
        machine.apply(hardware);
        Ok(Arc::new(machine))
    }

    /// What PQAP(QCI) answers now where nothing is filtered.
    pub fn qci(&self) -> Qci {
        self.configuration().qci
    }

    /// Brings the machine to this description. An adapter stays if its card [is the same](Card::is_same) as before, with its
    /// [state](Self::adapter_state); with another card it goes, and one comes in its place.
    ///
    /// # Panics
    /// Two adapters have one number, the APM names others than there are, or a card's queue depth is not 1 to 16; then nothing
    /// has changed.
    pub fn apply(&self, hardware: Hardware) {
        hardware.check();
        self.bring(&mut self.change(), hardware);
    }

    /// Plugs a card in, replacing what was there unless it [is the same](Card::is_same), or takes the adapter away. The APM
    /// follows.
    ///
    /// # Panics
    /// The card's queue depth is not 1 to 16; then nothing has changed.
    pub fn set_adapter(&self, apid: Apid, card: Option<Arc<dyn Card>>) {
        let mut configuration = self.change();
        let mut hardware = configuration.hardware();
        hardware.adapters.retain(|(other, _)| *other != apid);
        hardware.adapters.extend(card.map(|card| (apid, card)));
        hardware.qci.matrix.apm = hardware.apm();
        hardware.check();
        self.bring(&mut configuration, hardware);
    }

    /// Replaces the usage domains, which are queues on every adapter, and the control domains, which are none.
    pub fn set_domains(&self, aqm: Mask256, adm: Mask256) {
        let mut configuration = self.change();
        let mut hardware = configuration.hardware();
        (hardware.qci.matrix.aqm, hardware.qci.matrix.adm) = (aqm, adm);
        self.bring(&mut configuration, hardware);
    }

    /// Takes away what goes, then installs what comes.
    fn bring(&self, configuration: &mut Configuration, new: Hardware) {
        let (old_aqm, new_aqm) = (configuration.qci.matrix.aqm, new.qci.matrix.aqm);
        let stays = |apid: &u8, adapter: &Adapter| {
            new.adapters.iter().any(|(other, card)| other.0 == *apid && adapter.card.is_same(&**card))
        };
        let mut staying = BTreeSet::new();
        for (&apid, adapter) in &configuration.adapters {
            let stays = stays(&apid, adapter);
            staying.extend(stays.then_some(apid));
            for domain in if stays { old_aqm.minus(new_aqm) } else { old_aqm }.iter() {
                self.place(apid, domain).remove();
            }
        }
        configuration.adapters.retain(|apid, _| staying.contains(apid));
        configuration.qci = new.qci;
        for (apid, card) in new.adapters {
            let coming = if staying.contains(&apid.0) { new_aqm.minus(old_aqm) } else { new_aqm };
            let adapter = || Adapter { card, state: AdapterState::Configured };
            let adapter = configuration.adapters.entry(apid.0).or_insert_with(adapter);
            for domain in coming.iter() {
                self.place(apid.0, domain).install(&adapter.card, adapter.state);
            }
        }
    }

    /// Where a queue is to be or was.
    fn place(&self, apid: u8, apqi: u8) -> &Queue {
        let queue = || {
            let apqn = Apqn::new(Apid(apid), Apqi(apqi));
            Arc::new(Queue::new(apqn, self.clock.clone(), &self.random, self.pool.per_queue()))
        };
        self.places[usize::from(apid)].get_or_init(places)[usize::from(apqi)].get_or_init(queue)
    }

    /// The queue's status as TAPQ answers it; response code 01 when there is no such queue.
    pub fn status(&self, apqn: Apqn) -> Status {
        self.with_queue(apqn, Queue::status)
    }

    /// What TAPQ says about the queue's kind, in every state of the adapter; `None` when there is no such queue.
    pub fn information(&self, apqn: Apqn) -> Option<QueueInformation> {
        self.test(apqn).1
    }

    /// Status and information of one moment.
    pub(crate) fn test(&self, apqn: Apqn) -> (Status, Option<QueueInformation>) {
        let Some(queue) = self.queue(apqn) else { return (NOT_AVAILABLE, None) };
        let (status, facts) = queue.test();
        let information = facts.map(|facts| {
            let configuration = self.configuration();
            let has = |flag| configuration.qci.flags.has(flag);
            let highest = configuration.qci.max_apqi();
            QueueInformation::new(&facts, has(QciFlags::APSC), has(QciFlags::APXA), highest)
        });
        (status, information)
    }

    /// PQAP(RAPQ) as the host issues it: discards requests, replies, keys and the interruption. While the reset is in
    /// progress the [status](Self::status) is 02. The interruption ends whatever the answer is, since the host has no further
    /// use for it.
    pub fn reset(&self, apqn: Apqn) -> Status {
        self.with_queue(apqn, Queue::reset_by_host)
    }

    /// PQAP(ZAPQ) as the host issues it. An emulated card holds nothing for a queue that a reset would leave, so it does what
    /// [`reset`](Self::reset) does.
    pub fn zeroize(&self, apqn: Apqn) -> Status {
        self.reset(apqn)
    }

    /// As [`zeroize`](Self::zeroize), but with virtual time at once.
    pub(crate) fn zeroize_by_host(&self, apqn: Apqn) -> Status {
        self.with_queue(apqn, Queue::zeroize_by_host)
    }

    /// RAPQ and ZAPQ of a guest, which has its interruption as long as there was no reset.
    pub(crate) fn reset_by_guest(&self, apqn: Apqn) -> Status {
        self.with_queue(apqn, Queue::reset)
    }

    /// Ends the queue's interruption and gives back what it holds, without a reset and in every state: for a queue that went
    /// out of the host's configuration or whose reset never ends. False when there was none.
    pub fn free_interruption(&self, apqn: Apqn) -> bool {
        self.queue(apqn).is_some_and(|queue| queue.free_interruption())
    }

    /// The guest's subsystem reset: [resets](Self::reset) every queue that its CRYCB names.
    pub fn reset_guest(&self, guest: &GuestAp) {
        let matrix = guest.crycb.crycb().view().matrix();
        for apid in matrix.apm.iter() {
            for apqi in matrix.aqm.iter() {
                self.reset(Apqn::new(Apid(apid), Apqi(apqi)));
            }
        }
    }

    /// The adapter's state; `None` when there is no such adapter.
    pub fn adapter_state(&self, apid: Apid) -> Option<AdapterState> {
        Some(self.configuration().adapters.get(&apid.0)?.state)
    }

    /// Sets the adapter's state, as the support element or SCLP does; false when there is no such adapter. Deconfiguring and
    /// check-stopping discard what is on its queues and disable their interruptions.
    pub fn set_adapter_state(&self, apid: Apid, state: AdapterState) -> bool {
        let mut configuration = self.change();
        let Some(adapter) = configuration.adapters.get_mut(&apid.0) else { return false };
        adapter.state = state;
        for domain in configuration.qci.matrix.aqm.iter() {
            self.place(apid.0, domain).set_adapter_state(state);
        }
        true
    }

    /// Makes the queue misbehave until [`clear_faults`](Self::clear_faults) or its removal; false when there is no such queue.
    pub fn inject(&self, apqn: Apqn, fault: Fault) -> bool {
        self.queue(apqn).is_some_and(|queue| queue.inject(fault))
    }

    /// Ends what [`inject`](Self::inject) began; a reset that did not end does now.
    pub fn clear_faults(&self, apqn: Apqn) {
        if let Some(queue) = self.queue(apqn) {
            queue.clear_faults();
        }
    }

    /// What happened on the queue since it was installed; `None` when there is no such queue.
    pub fn statistics(&self, apqn: Apqn) -> Option<QueueStatistics> {
        self.queue(apqn)?.statistics()
    }

    /// What happened on all queues, those that went away included. Each queue is asked in turn, in a moment in which its
    /// figures agree, so `requests` = `replies` + `discards` + `queued` here too.
    pub fn totals(&self) -> QueueStatistics {
        let mut totals = QueueStatistics::default();
        let adapters = self.places.iter().filter_map(OnceLock::get);
        for queue in adapters.flat_map(|queues| queues.iter().filter_map(OnceLock::get)) {
            totals += queue.total();
        }
        totals
    }

    /// PQAP(AQIC) with IR one: takes what the interruption needs of the host, then enables it. What was taken is given back
    /// unless the queue keeps it.
    pub(crate) fn enable_interruption(
        &self,
        apqn: Apqn,
        nib: AbsoluteAddress,
        isc: u8,
        notifier: &Notifier,
    ) -> Status {
        self.with_queue(apqn, |queue| {
            if !queue.is_installed() {
                return NOT_AVAILABLE;
            }
            match notifier.target(nib, isc) {
                Some(target) => queue.enable_interruption(target),
                None => Status::code(ResponseCode::InvalidAddress),
            }
        })
    }

    /// PQAP(AQIC) with IR zero.
    pub(crate) fn disable_interruption(&self, apqn: Apqn) -> Status {
        self.with_queue(apqn, Queue::disable_interruption)
    }

    /// Whether a request of `length` bytes would be accepted now.
    pub(crate) fn check_enqueue(&self, apqn: Apqn, length: u64) -> Status {
        self.with_queue(apqn, |queue| queue.check_enqueue(length))
    }

    pub(crate) fn enqueue(&self, apqn: Apqn, psmid: u64, request: Zeroizing<Vec<u8>>) -> Status {
        let Some(queue) = self.queue(apqn) else { return NOT_AVAILABLE };
        queue.enqueue(psmid, request, &self.pool)
    }

    pub(crate) fn begin_dequeue(
        &self,
        apqn: Apqn,
        room: u64,
        part: Option<u64>,
    ) -> Result<Dequeue<'_>, Status> {
        self.queue(apqn).ok_or(NOT_AVAILABLE)?.begin_dequeue(room, part)
    }

    fn with_queue(&self, apqn: Apqn, action: impl FnOnce(&Queue) -> Status) -> Status {
        self.queue(apqn).map_or(NOT_AVAILABLE, |queue| action(queue))
    }

    /// The queue if it is or ever was there.
    pub(crate) fn queue(&self, apqn: Apqn) -> Option<&Arc<Queue>> {
        self.places[usize::from(apqn.apid().0)].get()?[usize::from(apqn.apqi().0)].get()
    }

    fn configuration(&self) -> RankedReadGuard<'_, Configuration> {
        self.configuration.read()
    }

    fn change(&self) -> RankedWriteGuard<'_, Configuration> {
        self.configuration.write()
    }
}

const NOT_AVAILABLE: Status = Status::code(ResponseCode::NotAvailable);

impl Configuration {
    /// The description of what is there.
    fn hardware(&self) -> Hardware {
        let adapter = |(&apid, adapter): (&u8, &Adapter)| (Apid(apid), adapter.card.clone());
        Hardware { qci: self.qci, adapters: self.adapters.iter().map(adapter).collect() }
    }
}

#[cfg(test)]
mod histories;
#[cfg(test)]
mod rules;
#[cfg(all(test, feature = "shuttle"))]
mod schedules;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::{Mode, SeededRandom};
    use crate::fixture::{Bench, apqn, mask};
    use crate::lock::{Action, LockEvent, record};
    use machine::HostClock;

    /// The cards of the built-in description, from the description to a reply.
    #[test]
    fn a_simulated_host() {
        let random = Arc::new(SeededRandom::new(1));
        let machine = ApMachine::new(
            Hardware::of(&Lpar::of(&crate::host::Description::builtin())),
            Arc::new(HostClock::new()),
            random,
        )
        .unwrap();
        let matrix = machine.qci().matrix;
        assert_eq!((matrix.apm, matrix.aqm), (mask(&[5, 6, 0x0a]), mask(&[4, 0x47, 0xab, 0xff])));
        for (apid, mode) in [(5, Mode::Cca), (6, Mode::Accelerator), (0x0a, Mode::Ep11)] {
            for domain in [4, 0x47, 0xab, 0xff] {
                let queue = apqn(apid, domain);
                let information = machine.information(queue).unwrap();
                assert_eq!((information.mode, information.hardware_type), (mode, 14), "{queue}");
                // No card understands this; each says so in a reply of its own.
                assert_eq!(machine.enqueue(queue, 7, Zeroizing::new(vec![0xff; 64])).word(), 0);
                crate::fixture::eventually("the reply", || machine.status(queue).replies_waiting);
                let reply = machine.begin_dequeue(queue, 4096, None).unwrap_or_else(|_| panic!("{queue}"));
                assert!(matches!(reply.bytes()[1], 0x82 | 0x86 | 0x88), "{:x?}", reply.bytes());
                assert_eq!((reply.psmid(), reply.commit().word()), (7, 0x8000_0000));
            }
        }
        assert_eq!((machine.information(apqn(7, 4)), machine.statistics(apqn(5, 5))), (None, None));
    }

    /// What instructions, the cards' answers and changes of the machine do with locks: one inside the other as ranked, and no
    /// more than one queue at a time, so that CPUs on different queues do not wait for one another.
    #[test]
    fn locks_of_the_hardware() {
        let bench = Bench::new(false);
        let queue = apqn(5, 4);
        let check = |name: &str, code: &dyn Fn(), want: &[&str]| {
            let ((), events) = record(code);
            let (mut held, mut nests) = (Vec::new(), BTreeSet::new());
            for LockEvent { action, lock } in events {
                if action == Action::Release {
                    held.retain(|other| *other != lock.rank);
                } else {
                    held.push(lock.rank);
                    nests.insert(format!("{held:?}"));
                }
            }
            assert!(held.is_empty(), "{name}");
            assert!(nests.iter().map(String::as_str).eq(want.iter().copied()), "{name}: {nests:?}");
        };
        let nqap = || assert_eq!(bench.machine.enqueue(queue, 7, Zeroizing::new(vec![1; 8])).word(), 0);
        check("NQAP", &nqap, &["[Pool]", "[Queue]"]);
        bench.until(queue, |status| status.replies_waiting);
        let tapq = || assert!(bench.machine.test(queue).1.is_some());
        check("TAPQ", &tapq, &["[Hardware]", "[Queue]"]);
        let begin = || bench.machine.begin_dequeue(queue, 64, None);
        check(
            "DQAP",
            &|| assert!(begin().is_ok_and(|reply| reply.commit().word() == 0x8000_0000)),
            &["[Queue]"],
        );
        let (nib, notifier) = (AbsoluteAddress(1), &bench.guest.notifier);
        let aqic =
            || assert_eq!(bench.machine.enable_interruption(queue, nib, 3, notifier).word(), 0x8000_0000);
        check("AQIC", &aqic, &["[Ledger]", "[Queue]"]);
        let reset = || assert_eq!(bench.machine.reset(queue).word(), 0x8000_0000);
        check("reset", &reset, &["[Queue, Ledger]", "[Queue, Session]", "[Queue]"]);
        let removal = ["[Hardware, Queue, Session]", "[Hardware, Queue]", "[Hardware]"];
        check("removal", &|| bench.machine.set_adapter(Apid(5), None), &removal);
    }

    #[test]
    fn a_guest_reset_concerns_its_queues_only() {
        let bench = Bench::new(false);
        // Adapter 05, bit 5 of byte 80, is taken away.
        bench.guest.crycb.set_byte(0x80, 0x03);
        bench.machine.reset_guest(&bench.guest);
        for (queue, word) in
            [(apqn(5, 4), 0x8000_0000), (apqn(6, 4), 0x8002_0000), (apqn(6, 0xab), 0x8002_0000)]
        {
            assert_eq!(bench.machine.status(queue).word(), word, "{queue}");
        }
    }
}
