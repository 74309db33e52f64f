//! What the host needs of the machine below it: its AP instructions, and a support element to change it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crycb::{Apqi, Apqn, Qci};

use super::{Condition, LossCause, Lpar};
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
    /// Queues that a change of the configuration emptied.
    discards: BTreeMap<Apqn, LossCause>,
}

impl IdealMachine {
    /// A machine with this configuration.
    pub fn new(lpar: Lpar) -> Self {
        let ideal = Ideal { lpar, resets: BTreeSet::new(), discards: BTreeMap::new() };
        Self { state: RankedMutex::new(Rank::Hardware, ideal) }
    }

    /// The queues of the configuration that were reset, ascending.
    pub(super) fn resets(&self) -> Vec<Apqn> {
        self.state().resets.iter().copied().collect()
    }

    /// The queues whose requests and replies changes of the configuration discarded, without a reset.
    pub(super) fn discards(&self) -> BTreeMap<Apqn, LossCause> {
        self.state().discards.clone()
    }

    pub(super) fn forget_resets(&self) {
        let mut state = self.state();
        state.resets.clear();
        state.discards.clear();
    }

    fn state(&self) -> RankedGuard<'_, Ideal> {
        self.state.lock()
    }
}

impl Lpar {
    /// The queues that can have requests on them and lose those when the configuration becomes `after`.
    fn discards(&self, after: &Self) -> impl Iterator<Item = (Apqn, LossCause)> {
        let usage = after.qci().matrix.aqm;
        let cause = move |installed: &super::Installed, apqn: Apqn| {
            let now = after.adapter(apqn.apid()).filter(|_| usage.test(apqn.apqi().0));
            match now {
                None => Some(LossCause::Removed),
                Some(now) if now.adapter != installed.adapter => Some(LossCause::Replaced),
                Some(now) => match now.condition {
                    Condition::Online => None,
                    Condition::Offline => Some(LossCause::Offline),
                    Condition::Checkstop => Some(LossCause::Checkstop),
                },
            }
        };
        // The queues of an adapter that is not online take nothing and were emptied when it became so.
        let online = self.adapters().filter(|installed| installed.condition == Condition::Online);
        let domains = self.qci().matrix.aqm;
        let queues = online.flat_map(move |installed| {
            let apqn = |domain| Apqn::new(installed.adapter.apid, Apqi(domain));
            domains.iter().map(apqn).map(move |apqn| (installed, apqn)).collect::<Vec<_>>()
        });
        queues.filter_map(move |(installed, apqn)| Some((apqn, cause(installed, apqn)?)))
    }

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
        let mut state = self.state();
        let discards: Vec<_> = state.lpar.discards(lpar).collect();
        state.discards.extend(discards);
        state.lpar = lpar.clone();
    }
}
