//! A machine that answers as a test scripts it, and writes down what it is asked to do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ap::QueueInformation;
use ap::host::{IdealMachine, Lpar, Machine};
use crycb::{Apid, Apqn, Matrix, Qci};

/// What the host did to the world outside, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    /// ZAPQ.
    Zapq(Apqn),
    /// Interruption resources of a queue were freed.
    Release(Apqn),
    /// A VM's APCB was written.
    Masks(u64, Matrix),
    /// A VM's PQAP hook was set (true) or taken.
    Hook(u64, bool),
    /// A VM was told that its configuration changed.
    Told(u64),
    /// A VM was asked for its device.
    Requested(u64),
}

/// What happened, shared by the machine and the guests of one test.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<Did>>>);

impl Log {
    pub fn note(&self, did: Did) {
        self.0.lock().unwrap().push(did);
    }

    /// All since the last call.
    pub fn take(&self) -> Vec<Did> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

type Hook = Box<dyn FnMut() + Send>;

#[derive(Default)]
struct Script {
    /// Answers of ZAPQ, per queue, before it answers by the adapter's state.
    zapq: BTreeMap<Apqn, VecDeque<u8>>,
    /// Response codes of TAPQ, per queue, before it answers by the adapter's state.
    tapq: BTreeMap<Apqn, VecDeque<u8>>,
    /// Queues whose reset, once begun, does not end.
    stuck: BTreeSet<Apqn>,
    /// Of these, those where one has begun.
    resetting: BTreeSet<Apqn>,
    /// Types other than the description's.
    types: BTreeMap<Apid, u8>,
    /// Queues that do not exist, whatever QCI says.
    absent: BTreeSet<Apqn>,
    pauses: u32,
}

/// The machine. Without a script it does what [`IdealMachine`] does.
pub struct Scripted {
    ideal: IdealMachine,
    pub log: Log,
    script: Mutex<Script>,
    /// Runs at each pause between two looks at a reset.
    on_pause: Mutex<Option<Hook>>,
    /// Runs at each TAPQ.
    on_tapq: Mutex<Option<Hook>>,
}

impl Scripted {
    pub fn new(lpar: Lpar) -> Self {
        Self {
            ideal: IdealMachine::new(lpar),
            log: Log::default(),
            script: Mutex::default(),
            on_pause: Mutex::default(),
            on_tapq: Mutex::default(),
        }
    }

    /// The next ZAPQs to the queue answer this.
    pub fn zapq_answers(&self, apqn: Apqn, codes: &[u8]) {
        self.script.lock().unwrap().zapq.insert(apqn, codes.iter().copied().collect());
    }

    /// The next TAPQs to the queue answer this.
    pub fn tapq_answers(&self, apqn: Apqn, codes: &[u8]) {
        self.script.lock().unwrap().tapq.insert(apqn, codes.iter().copied().collect());
    }

    /// Whether resets of the queue never end. Those that have not, do when it is set to false.
    pub fn stick(&self, apqn: Apqn, stuck: bool) {
        let mut script = self.script.lock().unwrap();
        if stuck {
            script.stuck.insert(apqn);
        } else {
            script.stuck.remove(&apqn);
            script.resetting.remove(&apqn);
        }
    }

    /// The adapter is of this type from now on, 10 for a CEX4.
    pub fn set_type(&self, apid: u8, hardware_type: u8) {
        self.script.lock().unwrap().types.insert(Apid(apid), hardware_type);
    }

    /// The queue does not exist.
    pub fn lose(&self, apqn: Apqn) {
        self.script.lock().unwrap().absent.insert(apqn);
    }

    /// How often the host waited since the last call.
    pub fn pauses(&self) -> u32 {
        std::mem::take(&mut self.script.lock().unwrap().pauses)
    }

    /// `hook` runs whenever the host waits for a reset, with the locks that it holds then.
    pub fn on_pause(&self, hook: impl FnMut() + Send + 'static) {
        *self.on_pause.lock().unwrap() = Some(Box::new(hook));
    }

    /// `hook` runs at each TAPQ, with the locks that the host holds then.
    pub fn on_tapq(&self, hook: impl FnMut() + Send + 'static) {
        *self.on_tapq.lock().unwrap() = Some(Box::new(hook));
    }

    pub fn without_hooks(&self) {
        *self.on_pause.lock().unwrap() = None;
        *self.on_tapq.lock().unwrap() = None;
    }
}

/// Runs the hook, but not inside itself.
fn run(slot: &Mutex<Option<Hook>>) {
    let hook = slot.lock().unwrap().take();
    if let Some(mut hook) = hook {
        hook();
        slot.lock().unwrap().get_or_insert(hook);
    }
}

impl Machine for Scripted {
    fn qci(&self) -> Qci {
        self.ideal.qci()
    }

    fn tapq(&self, apqn: Apqn) -> (u8, Option<QueueInformation>) {
        run(&self.on_tapq);
        let (code, information) = self.ideal.tapq(apqn);
        let mut script = self.script.lock().unwrap();
        if script.absent.contains(&apqn) {
            return (0x01, None);
        }
        let scripted = script.tapq.get_mut(&apqn).and_then(VecDeque::pop_front);
        let resetting = script.resetting.contains(&apqn).then_some(0x02);
        let information = information.map(|i| match script.types.get(&apqn.apid()) {
            Some(hardware_type) => QueueInformation { hardware_type: *hardware_type, ..i },
            None => i,
        });
        (scripted.or(resetting).unwrap_or(code), information)
    }

    fn zapq(&self, apqn: Apqn) -> u8 {
        self.log.note(Did::Zapq(apqn));
        let code = self.ideal.zapq(apqn);
        let mut script = self.script.lock().unwrap();
        if let Some(code) = script.zapq.get_mut(&apqn).and_then(VecDeque::pop_front) {
            return code;
        }
        if script.stuck.contains(&apqn) && !script.resetting.insert(apqn) {
            return 0x02;
        }
        code
    }

    fn release_interruption(&self, apqn: Apqn) {
        self.log.note(Did::Release(apqn));
    }

    fn pause(&self, time: Duration) {
        assert_eq!(time, Duration::from_millis(20), "between two looks at a reset");
        self.script.lock().unwrap().pauses += 1;
        run(&self.on_pause);
    }

    fn configure(&self, lpar: &Lpar) {
        self.ideal.configure(lpar);
    }
}
