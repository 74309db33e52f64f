//! The machine's AP hardware: adapters by domains, and the queues where they cross.

use std::io;
use std::sync::{Arc, Mutex};

use crycb::{Apid, Apqi, Apqn, Mask256, Qci, QciFlags};
use machine::Clock;
use zarch::AbsoluteAddress;
use zeroize::Zeroizing;

use crate::card::{Card, Random, emulate};
use crate::guest::{GuestAp, Notifier};
use crate::host::{Installed, Lpar};
use crate::pool::Pool;
use crate::queue::{AdapterState, Dequeue, Queue, QueueStatistics, Target};
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
}

/// The AP hardware of one machine, shared by its guests. Which of it a guest may reach is not known here: the AP instructions
/// ask the guest's CRYCB each time.
pub struct ApMachine {
    qci: Qci,
    adapters: Vec<Option<Adapter>>,
    pool: Pool,
}

struct Adapter {
    state: Mutex<AdapterState>,
    queues: Vec<Option<Arc<Queue>>>,
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
    /// Two adapters have one number, the APM names others than there are, or a card's queue depth is not 1 to 16.
    pub fn new(hardware: Hardware, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> io::Result<Arc<Self>> {
        let pool = Pool::new()?;
        let mut adapters: Vec<Option<Adapter>> = (0..=255).map(|_| None).collect();
        for (apid, card) in hardware.adapters {
            let queue = |domain: u8| {
                let apqn = Apqn::new(apid, Apqi(domain));
                let queue = || Queue::new(apqn, card.clone(), clock.clone(), &random, pool.per_queue());
                hardware.qci.matrix.aqm.test(domain).then(|| Arc::new(queue()))
            };
            let adapter = Adapter { state: Mutex::default(), queues: (0..=255).map(queue).collect() };
            let earlier = adapters[usize::from(apid.0)].replace(adapter);
            assert!(earlier.is_none(), "adapter {apid} is there twice");
        }
        let installed: Mask256 = (0..=255).filter(|&n| adapters[usize::from(n)].is_some()).collect();
        assert_eq!(installed, hardware.qci.matrix.apm, "the APM names the adapters");
        Ok(Arc::new(Self { qci: hardware.qci, adapters, pool }))
    }

    /// What PQAP(QCI) answers where nothing is filtered.
    pub fn qci(&self) -> &Qci {
        &self.qci
    }

    /// The queue's status as TAPQ answers it; response code 01 when there is no such queue.
    pub fn status(&self, apqn: Apqn) -> Status {
        self.with_queue(apqn, Queue::status)
    }

    /// What TAPQ says about the queue's kind, in every state of the adapter; `None` when there is no such queue.
    pub fn information(&self, apqn: Apqn) -> Option<QueueInformation> {
        let facts = self.queue(apqn)?.card().facts();
        let has = |flag| self.qci.flags.has(flag);
        Some(QueueInformation::new(facts, has(QciFlags::APSC), has(QciFlags::APXA), self.qci.max_apqi()))
    }

    /// PQAP(RAPQ) as the host issues it: discards requests, replies, keys and the interruption. While the reset is in
    /// progress the [status](Self::status) is 02.
    pub fn reset(&self, apqn: Apqn) -> Status {
        self.with_queue(apqn, Queue::reset)
    }

    /// PQAP(ZAPQ) as the host issues it. An emulated card holds nothing for a queue that a reset would leave, so it does what
    /// [`reset`](Self::reset) does.
    pub fn zeroize(&self, apqn: Apqn) -> Status {
        self.reset(apqn)
    }

    /// As [`zeroize`](Self::zeroize), but with virtual time at once.
    pub(crate) fn zeroize_by_host(&self, apqn: Apqn) -> Status {
        self.with_queue(apqn, Queue::reset_by_host)
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
        Some(*self.adapter(apid)?.state.lock().expect("no holder panics"))
    }

    /// Sets the adapter's state, as the support element or SCLP does; false when there is no such adapter. Deconfiguring and
    /// check-stopping discard what is on its queues and disable their interruptions.
    pub fn set_adapter_state(&self, apid: Apid, state: AdapterState) -> bool {
        let Some(adapter) = self.adapter(apid) else { return false };
        let mut current = adapter.state.lock().expect("no holder panics");
        *current = state;
        for queue in adapter.queues.iter().flatten() {
            queue.set_adapter_state(state);
        }
        true
    }

    /// What happened on the queue; `None` when there is no such queue.
    pub fn statistics(&self, apqn: Apqn) -> Option<QueueStatistics> {
        Some(self.queue(apqn)?.statistics())
    }

    /// PQAP(AQIC) with IR one.
    pub(crate) fn enable_interruption(
        &self,
        apqn: Apqn,
        nib: AbsoluteAddress,
        isc: u8,
        notifier: &Notifier,
    ) -> Status {
        let target = || Target { nib, isc, notifier: notifier.clone() };
        self.with_queue(apqn, |queue| queue.enable_interruption(target()))
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
        let Some(queue) = self.queue(apqn) else { return Status::code(ResponseCode::NotAvailable) };
        queue.enqueue(psmid, request, &self.pool)
    }

    pub(crate) fn begin_dequeue(
        &self,
        apqn: Apqn,
        room: u64,
        part: Option<u64>,
    ) -> Result<Dequeue<'_>, Status> {
        self.queue(apqn).ok_or(Status::code(ResponseCode::NotAvailable))?.begin_dequeue(room, part)
    }

    fn with_queue(&self, apqn: Apqn, action: impl FnOnce(&Queue) -> Status) -> Status {
        self.queue(apqn).map_or(Status::code(ResponseCode::NotAvailable), |queue| action(queue))
    }

    fn adapter(&self, apid: Apid) -> Option<&Adapter> {
        self.adapters[usize::from(apid.0)].as_ref()
    }

    pub(crate) fn queue(&self, apqn: Apqn) -> Option<&Arc<Queue>> {
        self.adapter(apqn.apid())?.queues[usize::from(apqn.apqi().0)].as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::{Mode, SeededRandom};
    use crate::fixture::{Bench, apqn, mask};
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
