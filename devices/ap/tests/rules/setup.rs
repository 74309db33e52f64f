//! A host on a [`Scripted`] machine, VMs that write down what is done to them, and short ways to say what to do.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use ap::host::{
    Adapter, ApHost, Attribute, Condition, Description, Driver, Guest, HostError, Lpar, LparChange,
    MaskAttribute, Number, QueueStatus,
};
use crycb::{Apqn, Mask256, Matrix};
use uuid::Uuid;

use crate::machine::{Did, Log, Scripted};

/// `05.0004`.
#[track_caller]
pub fn q(name: &str) -> Apqn {
    name.parse().expect(name)
}

/// Each of the words as a queue.
#[track_caller]
pub fn queues(names: &str) -> Vec<Apqn> {
    names.split_whitespace().map(q).collect()
}

/// A mediated device of a test, by number.
pub fn mdev(n: u8) -> Uuid {
    Uuid::from_u128(u128::from(n))
}

pub fn mask(numbers: &[u8]) -> Mask256 {
    numbers.iter().copied().collect()
}

/// "a5 d4 d47 c1": adapters, domains and control domains, hexadecimal.
#[track_caller]
pub fn matrix(words: &str) -> Matrix {
    let mut matrix = Matrix::EMPTY;
    for word in words.split_whitespace() {
        let n = u8::from_str_radix(&word[1..], 16).expect(word);
        match &word[..1] {
            "a" => matrix.apm.set(n),
            "d" => matrix.aqm.set(n),
            "c" => matrix.adm.set(n),
            _ => panic!("{word}"),
        }
    }
    matrix
}

type Answer = Box<dyn FnOnce() + Send>;

/// A VM.
pub struct Vm {
    id: u64,
    log: Log,
    pub hook: Mutex<bool>,
    pub masks: Mutex<Matrix>,
    /// What it does when asked for its device; nothing, if there is nothing.
    pub on_request: Mutex<Option<Answer>>,
    pub answers: Mutex<bool>,
}

impl Vm {
    pub fn new(id: u64, log: &Log) -> Arc<Self> {
        Arc::new(Self {
            id,
            log: log.clone(),
            hook: Mutex::new(false),
            masks: Mutex::new(Matrix::EMPTY),
            on_request: Mutex::new(None),
            answers: Mutex::new(true),
        })
    }

    /// What it may reach.
    pub fn matrix(&self) -> Matrix {
        *self.masks.lock().unwrap()
    }
}

impl Guest for Vm {
    fn id(&self) -> u64 {
        self.id
    }

    fn set_hook(&self, present: bool) {
        self.log.note(Did::Hook(self.id, present));
        *self.hook.lock().unwrap() = present;
    }

    fn set_masks(&self, matrix: &Matrix) {
        self.log.note(Did::Masks(self.id, *matrix));
        *self.masks.lock().unwrap() = *matrix;
    }

    fn config_changed(&self) {
        self.log.note(Did::Told(self.id));
    }

    fn request(&self) {
        self.log.note(Did::Requested(self.id));
        if let Some(answer) = self.on_request.lock().unwrap().take() {
            answer();
        }
    }

    fn confirm(&self) -> bool {
        *self.answers.lock().unwrap()
    }
}

/// A host under test.
pub struct Setup {
    pub host: Arc<ApHost>,
    pub machine: Arc<Scripted>,
    pub log: Log,
}

impl Setup {
    /// A host with these accelerators (CEX8), domains and control domains (if none, the domains), hexadecimal; all its queues
    /// are bound to vfio_ap.
    #[track_caller]
    pub fn new(words: &str) -> Self {
        Self::with_masks(words, "-0-255", "-0-255")
    }

    /// The same with these writes to `apmask` and `aqmask`; empty for none.
    #[track_caller]
    pub fn with_masks(words: &str, apmask: &str, aqmask: &str) -> Self {
        let Matrix { apm, aqm, adm } = matrix(words);
        let list = |mask: Mask256| mask.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let adapters: Vec<_> =
            apm.iter().map(|n| format!(r#"{{"adapter": {n}, "type": "CEX8A"}}"#)).collect();
        let control = if adm.is_empty() { list(aqm) } else { list(adm) };
        Self::of(&format!(
            r#"{{"adapters": [{}], "usage_domains": [{}], "control_domains": [{control}],
                "apmask": "{apmask}", "aqmask": "{aqmask}"}}"#,
            adapters.join(","),
            list(aqm)
        ))
    }

    /// The host of a description.
    #[track_caller]
    pub fn of(json: &str) -> Self {
        let description = Description::from_json(json).expect(json);
        let machine = Arc::new(Scripted::new(Lpar::of(&description)));
        let host = Arc::new(ApHost::new(&description, machine.clone()));
        let log = machine.log.clone();
        log.take();
        Self { host, machine, log }
    }

    /// Creates mediated device `n` with a matrix like "a5 a6 d4 d47 c4", assigned in the order of the words.
    #[track_caller]
    pub fn mdev(&self, n: u8, words: &str) -> Uuid {
        self.host.create_mdev(mdev(n)).unwrap();
        self.assign(n, words).unwrap();
        mdev(n)
    }

    /// Assigns, word by word.
    pub fn assign(&self, n: u8, words: &str) -> Result<(), &'static str> {
        self.each(n, words, "assign")
    }

    /// Unassigns, word by word.
    pub fn unassign(&self, n: u8, words: &str) -> Result<(), &'static str> {
        self.each(n, words, "unassign")
    }

    fn each(&self, n: u8, words: &str, verb: &str) -> Result<(), &'static str> {
        words.split_whitespace().try_for_each(|word| {
            let kind = match &word[..1] {
                "a" => "adapter",
                "d" => "domain",
                "c" => "control_domain",
                _ => panic!("{word}"),
            };
            self.echo(n, &format!("0x{}", &word[1..]), &format!("{verb}_{kind}"))
        })
    }

    /// `echo TEXT > ATTRIBUTE` in the directory of mediated device `n`.
    pub fn echo(&self, n: u8, text: &str, attribute: &str) -> Result<(), &'static str> {
        let attribute = Attribute::named(attribute, &format!("{text}\n")).expect(attribute);
        errno(self.host.write(mdev(n), &attribute))
    }

    /// `echo TEXT > /sys/bus/ap/apmask`.
    pub fn apmask(&self, text: &str) -> Result<(), &'static str> {
        errno(self.host.write_mask(MaskAttribute::Apmask, &format!("{text}\n")))
    }

    /// `echo TEXT > /sys/bus/ap/aqmask`.
    pub fn aqmask(&self, text: &str) -> Result<(), &'static str> {
        errno(self.host.write_mask(MaskAttribute::Aqmask, &format!("{text}\n")))
    }

    #[track_caller]
    pub fn bind(&self, names: &str) {
        queues(names).into_iter().for_each(|queue| self.host.bind(queue, Driver::VfioAp).unwrap());
    }

    #[track_caller]
    pub fn unbind(&self, names: &str) {
        queues(names).into_iter().for_each(|queue| self.host.unbind(queue).unwrap());
    }

    /// A VM of its own opens mediated device `n`; its number is `n`.
    #[track_caller]
    pub fn attach(&self, n: u8) -> Arc<Vm> {
        let vm = Vm::new(n.into(), &self.log);
        self.host.attach(mdev(n), vm.clone()).unwrap();
        vm
    }

    #[track_caller]
    pub fn configure(&self, changes: &[LparChange]) {
        self.host.configure(changes).unwrap();
    }

    /// sysfs `matrix`, on one line.
    #[track_caller]
    pub fn matrix(&self, n: u8) -> String {
        lines(&self.host.mdev(mdev(n)).unwrap().matrix_text())
    }

    /// sysfs `guest_matrix`, on one line.
    #[track_caller]
    pub fn guest_matrix(&self, n: u8) -> String {
        lines(&self.host.mdev(mdev(n)).unwrap().guest_matrix_text())
    }

    /// The guest's matrix as masks.
    #[track_caller]
    pub fn shadow(&self, n: u8) -> Matrix {
        self.host.mdev(mdev(n)).unwrap().shadow
    }

    /// sysfs `status`.
    pub fn status(&self, name: &str) -> Option<&'static str> {
        self.host.status(q(name)).map(QueueStatus::name)
    }

    /// The queues bound to a driver, on one line.
    pub fn bound_to(&self, driver: Driver) -> String {
        let state = self.host.snapshot();
        let bound = state.queues.iter().filter(|queue| queue.driver == Some(driver));
        bound.map(|queue| queue.queue.to_string()).collect::<Vec<_>>().join(" ")
    }

    /// The queue devices of the bus, on one line.
    pub fn devices(&self) -> String {
        let state = self.host.snapshot();
        state.queues.iter().map(|queue| queue.queue.to_string()).collect::<Vec<_>>().join(" ")
    }

    /// Whatever the history, the promises hold: no queue in two guests; none in a guest that is not bound to vfio_ap, not in
    /// the host's configuration, or not assigned.
    #[track_caller]
    pub fn check_promises(&self) {
        let state = self.host.snapshot();
        let mut seen = BTreeSet::new();
        for device in &state.mdevs {
            for queue in device.guest_matrix.apqns() {
                assert!(seen.insert(queue), "{queue} is in two guests");
                assert!(device.matrix.test(queue), "{queue} is not assigned");
                assert!(state.configuration.test(queue), "{queue} is not in the configuration");
                let driver = state.queue(queue).and_then(|queue| queue.driver);
                assert_eq!(driver, Some(Driver::VfioAp), "{queue}");
            }
        }
    }
}

pub fn add_adapter(n: u8) -> LparChange {
    LparChange::AddAdapter { adapter: accelerator(n, 8) }
}

pub fn remove_adapter(n: u8) -> LparChange {
    LparChange::RemoveAdapter { adapter: Number(n) }
}

pub fn condition(n: u8, condition: Condition) -> LparChange {
    LparChange::SetCondition { adapter: Number(n), condition }
}

pub fn add_domain(n: u8) -> LparChange {
    LparChange::AddDomain { domain: Number(n) }
}

pub fn remove_domain(n: u8) -> LparChange {
    LparChange::RemoveDomain { domain: Number(n) }
}

pub fn add_control_domain(n: u8) -> LparChange {
    LparChange::AddControlDomain { domain: Number(n) }
}

pub fn remove_control_domain(n: u8) -> LparChange {
    LparChange::RemoveControlDomain { domain: Number(n) }
}

/// An accelerator of this generation.
pub fn accelerator(n: u8, generation: u8) -> Adapter {
    serde_json::from_str(&format!(r#"{{"adapter": {n}, "type": "CEX{generation}A"}}"#)).unwrap()
}

fn errno(result: Result<(), HostError>) -> Result<(), &'static str> {
    result.map_err(|error| {
        let names = ["EINVAL", "ERANGE", "ENODEV", "EADDRNOTAVAIL", "EADDRINUSE", "EBUSY", "ENOENT", "EPERM"];
        let known = names.into_iter().find(|name| *name == error.errno());
        known.unwrap_or_else(|| panic!("{error} ({})", error.errno()))
    })
}

/// sysfs text on one line.
pub fn lines(text: &str) -> String {
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    text.lines().collect::<Vec<_>>().join(" ")
}

/// The queues that were reset, in order.
pub fn resets(log: &[Did]) -> Vec<Apqn> {
    log.iter().filter_map(|did| if let Did::Zapq(queue) = did { Some(*queue) } else { None }).collect()
}

/// The queues whose interruption resources were freed, in order.
pub fn released(log: &[Did]) -> Vec<Apqn> {
    log.iter().filter_map(|did| if let Did::Release(queue) = did { Some(*queue) } else { None }).collect()
}

/// What was written to the VM's APCB, in order.
pub fn masks(log: &[Did], vm: u64) -> Vec<Matrix> {
    let of = |did: &Did| if let Did::Masks(id, matrix) = did { (*id == vm).then_some(*matrix) } else { None };
    log.iter().filter_map(of).collect()
}

/// How often the VM was told.
pub fn told(log: &[Did], vm: u64) -> usize {
    log.iter().filter(|did| **did == Did::Told(vm)).count()
}
