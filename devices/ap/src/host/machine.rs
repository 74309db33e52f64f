//! What the host needs of the machine below it: its AP instructions, and a support element to change it.

use std::collections::BTreeSet;
use std::time::Duration;

use crycb::{Apqn, Qci};

use super::Lpar;
use crate::lock::{Rank, RankedGuard, RankedMutex};
use crate::queue::QueueStatistics;
use crate::status::QueueInformation;

/// The machine as the host's Linux sees it. Called with locks of the host held, so nothing here may call the host back.
pub trait Machine: Send + Sync {
    /// PQAP(QCI).
    fn qci(&self) -> Qci;

    /// PQAP(TAPQ): response code, and what the queue is where the code says that it exists.
    fn tapq(&self, apqn: Apqn) -> (u8, Option<QueueInformation>);

    /// PQAP(ZAPQ): the response code at once; whether it has ended, TAPQ tells.
    fn zapq(&self, apqn: Apqn) -> u8;

    /// Frees the interruption resources of a queue: notification byte and interruption subclass.
    fn release_interruption(&self, apqn: Apqn);

    /// Lets time pass between two looks at a reset that is in progress.
    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// The support element changed the configuration; from now on the instructions go by this one.
    fn configure(&self, lpar: &Lpar);

    /// What happened on the queue, if the machine counts it.
    fn statistics(&self, apqn: Apqn) -> Option<QueueStatistics> {
        let _ = apqn;
        None
    }
}

/// A machine that does what it is told at once: every queue of the configuration answers by the state of its adapter, and
/// every reset succeeds. [`super::plan`] asks what a change would do on it.
#[derive(Debug)]
pub struct IdealMachine {
    state: RankedMutex<Ideal>,
}

#[derive(Debug)]
struct Ideal {
    lpar: Lpar,
    resets: BTreeSet<Apqn>,
}

impl IdealMachine {
    /// A machine with this configuration.
    pub fn new(lpar: Lpar) -> Self {
        Self { state: RankedMutex::new(Rank::Hardware, Ideal { lpar, resets: BTreeSet::new() }) }
    }

    /// The queues of the configuration that were reset, ascending.
    pub(super) fn resets(&self) -> Vec<Apqn> {
        self.state().resets.iter().copied().collect()
    }

    pub(super) fn forget_resets(&self) {
        self.state().resets.clear();
    }

    fn state(&self) -> RankedGuard<'_, Ideal> {
        self.state.lock()
    }
}

impl Lpar {
    /// What PQAP(TAPQ) answers where only the state of the adapter counts.
    pub(super) fn tapq(&self, apqn: Apqn) -> (u8, Option<QueueInformation>) {
        let qci = self.qci();
        match self.adapter(apqn.apid()) {
            Some(installed) if qci.matrix.test(apqn) => {
                let card = crate::card::emulate(&installed.adapter);
                let has = |flag| qci.flags.has(flag);
                let information = QueueInformation::new(
                    card.facts(),
                    has(crycb::QciFlags::APSC),
                    has(crycb::QciFlags::APXA),
                    qci.max_apqi(),
                );
                (installed.condition.response_code(), Some(information))
            }
            _ => (0x01, None),
        }
    }
}

impl Machine for IdealMachine {
    fn qci(&self) -> Qci {
        self.state().lpar.qci()
    }

    fn tapq(&self, apqn: Apqn) -> (u8, Option<QueueInformation>) {
        self.state().lpar.tapq(apqn)
    }

    fn zapq(&self, apqn: Apqn) -> u8 {
        let mut state = self.state();
        state.resets.insert(apqn);
        state.lpar.tapq(apqn).0
    }

    fn release_interruption(&self, _: Apqn) {}

    fn pause(&self, _: Duration) {}

    fn configure(&self, lpar: &Lpar) {
        self.state().lpar = lpar.clone();
    }
}
