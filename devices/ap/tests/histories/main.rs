//! Random histories of everything that can happen to a host, with guests that come and go. After each operation the host is
//! compared with a second, naive model of the same history, and the promises are checked.
//!
//! What the host did is compared in full: the answer, each matrix and shadow, each queue's driver, override, status and last
//! reset, both masks, which queues were reset, who was told and what stands in each APCB. The promises are checked after every
//! step on what the machine and the guests saw, without the model:
//!
//! 1. *Exactly one fate*: the guests execute NQAP, DQAP, AQIC and resets on the machine's real queues between the host's
//!    operations, and while it waits. Each request that was accepted is pending, answered once in full, or discarded by what
//!    discards; the queues' own figures say the same.
//! 2. *Isolation*: no queue in two guests, nor where it must not be, not even for a moment.
//! 3. *Clean handover*: replies, notification bytes and interruptions are those of whoever asked, in this attachment.
//! 4. *Balanced resources*: pins and subclasses are held for what is enabled, hooks go with guests, what a guest lost was reset
//!    or released, AQIC that is refused at any step leaves nothing; and with the last device all is back at zero.
//! 5. *Progress*: every wait ends, queries go through meanwhile, and guests whose queues are not reset work on.
//! 6. *Events*: numbered, bounded for who does not look, losses announced, and a query shows what the next ones start from.
//!
//! `HISTORIES` sets how many, `SEED` which ones.

mod doubles;
mod follower;
mod naive;
mod ops;
mod traffic;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ap::host::{
    Adapter, ApHost, Attribute, Card, Condition, Description, Driver as HostDriver, Generation, HostError,
    LparChange, MaskAttribute, Number, QueueStatus, Snapshot,
};
use crycb::{Apid, Apqi, Apqn, Mask256, Matrix};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use uuid::Uuid;

use doubles::{Double, World, queue};
use follower::Follower;
use naive::Naive;
use ops::*;

const DESCRIPTION: &str = r#"{
    "adapters": [
        {"adapter": 3, "type": "CEX8A"}, {"adapter": 4, "type": "CEX8A"}, {"adapter": 5, "type": "CEX8A"}
    ],
    "usage_domains": [4, 5, 6],
    "max_adapter": 8,
    "max_domain": 8
}"#;

/// Most looks at anything in one operation: the guest that is asked, and resets that never end, some after another.
const MOST_PAUSES: u32 = 250 + 6 * 100;

/// Devices that come and go in a storm, two events each: more than wait for a watcher.
const STORM: usize = 520;

fn uuid(device: usize) -> Uuid {
    Uuid::from_u128(device as u128 + 1)
}

fn apqn((a, b): Queue) -> Apqn {
    Apqn::new(Apid(a), Apqi(b))
}

fn mask_is(mask: &Mask256, numbers: &Numbers) -> bool {
    mask.iter().eq(numbers.iter().copied())
}

fn matrix_is(matrix: &Matrix, numbers: &[Numbers; 3]) -> bool {
    mask_is(&matrix.apm, &numbers[0])
        && mask_is(&matrix.aqm, &numbers[1])
        && mask_is(&matrix.adm, &numbers[2])
}

fn driver(driver: HostDriver) -> Driver {
    match driver {
        HostDriver::Default => Driver::Default,
        HostDriver::VfioAp => Driver::VfioAp,
    }
}

/// The host with its surroundings and its model.
struct Trial {
    host: Arc<ApHost>,
    world: Arc<World>,
    events: Follower,
    /// One that hardly ever looks.
    lazy: Follower,
    /// How often it had missed something.
    lost: u64,
    naive: Naive,
    before: Snapshot,
    /// Queues whose override was written since they were bound: a bound queue stays where it is then.
    overridden: BTreeSet<Queue>,
}

impl Trial {
    fn new(description: &Description) -> Self {
        let world = Arc::new(World::new(description.qci()));
        let host = Arc::new(ApHost::new(description, world.clone()));
        world.join(&host);
        let (events, lazy) = (host.subscribe(), host.subscribe());
        // The first scan had no watcher; a write that changes nothing tells the number it came to.
        host.write_mask(MaskAttribute::Apmask, "+0-255").expect("all ones already");
        let last = events.try_iter().last().expect("an event of the write").number;
        let _ = lazy.try_iter().last();
        let before = host.snapshot();
        let follower = |watch| Follower::new(watch, last, &before);
        let (events, lazy) = (follower(events), follower(lazy));
        let naive = Naive::new(&[3, 4, 5], &[4, 5, 6]);
        Self { host, world, events, lazy, lost: 0, naive, before, overridden: BTreeSet::new() }
    }

    /// One operation on both, and every comparison. The error says what is wrong.
    fn step(&mut self, op: &Op) -> Result<(), String> {
        let attached: Vec<bool> = self.world.seen().vms.iter().map(|vm| vm.hook).collect();
        self.world.begin(matches!(op, Op::Reset(_)));
        let got = self.perform(op);
        let want = self.naive.apply(op);
        match (&got, &want) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(errno)) if error.errno() == *errno => {}
            (got, want) => return Err(format!("answered {got:?}, not {want:?}")),
        }
        let snapshot = self.host.snapshot();
        self.compare(&snapshot)?;
        self.promises(op, got.is_ok(), &attached, &snapshot)?;
        self.world.traffic.check()?;
        self.events.take(None, &snapshot)?;
        if matches!(op, Op::Watch) {
            self.lost += u64::from(self.lazy.take(Some(self.events.last), &snapshot)?);
        }
        self.before = snapshot;
        Ok(())
    }

    /// The end: who waits for a reply gets it, and with the last device everything is given back.
    fn finish(&mut self) -> Result<(), String> {
        self.step(&Op::Mend)?;
        self.world.begin(false);
        self.world.traffic.drain()?;
        self.step(&Op::Watch)?;
        let devices: Vec<usize> = self.naive.mdevs.keys().copied().collect();
        devices.into_iter().try_for_each(|d| self.step(&Op::Remove(d)))?;
        self.world.traffic.check_empty()
    }

    fn perform(&mut self, op: &Op) -> Result<(), HostError> {
        let host = &self.host;
        let number = |d: usize, which, assign, text: String| {
            let attribute = match (which, assign) {
                (Which::Adapter, true) => Attribute::AssignAdapter(text),
                (Which::Adapter, false) => Attribute::UnassignAdapter(text),
                (Which::Domain, true) => Attribute::AssignDomain(text),
                (Which::Domain, false) => Attribute::UnassignDomain(text),
                (Which::ControlDomain, true) => Attribute::AssignControlDomain(text),
                (Which::ControlDomain, false) => Attribute::UnassignControlDomain(text),
            };
            host.write(uuid(d), &attribute)
        };
        match op {
            Op::Create(d) => host.create_mdev(uuid(*d)),
            Op::Remove(d) => host.remove_mdev(uuid(*d)),
            Op::Assign(d, which, n) => number(*d, *which, true, n.to_string()),
            Op::Unassign(d, which, n) => number(*d, *which, false, n.to_string()),
            Op::Odd(d, which, assign, at) => number(*d, *which, *assign, ODD_NUMBERS[*at].0.to_owned()),
            Op::Config(d, masks, form) => {
                host.write(uuid(*d), &Attribute::ApConfig(config_text(masks, *form)))
            }
            Op::BadConfig(d, at) => host.write(uuid(*d), &Attribute::ApConfig(BAD_CONFIGS[*at].to_owned())),
            Op::Mask(adapters, text) => {
                let attribute = if *adapters { MaskAttribute::Apmask } else { MaskAttribute::Aqmask };
                host.write_mask(attribute, &text.text())
            }
            Op::Override(q, at) => {
                self.overridden.insert(*q);
                host.write_override(apqn(*q), OVERRIDES[*at])
            }
            Op::Bind(q, Driver::Default) => host.bind(apqn(*q), HostDriver::Default),
            Op::Bind(q, Driver::VfioAp) => host.bind(apqn(*q), HostDriver::VfioAp),
            Op::Unbind(q) => host.unbind(apqn(*q)),
            Op::Configure(changes) => {
                for change in changes {
                    if let Change::Add(n, generation) | Change::Type(n, generation) = change {
                        self.world.seen().plug(*n, *generation);
                    }
                }
                host.configure(&changes.iter().map(lpar_change).collect::<Vec<_>>())
            }
            Op::Scan => {
                host.scan();
                Ok(())
            }
            Op::Attach(d, vm) => {
                let guest = Arc::new(Double(self.world.clone(), *vm));
                let matrix = host.attach(uuid(*d), guest)?;
                let mut seen = self.world.seen();
                seen.vms[*vm].device = Some(uuid(*d));
                if seen.vms[*vm].masks != matrix {
                    seen.wrong.push(format!("attach returned {matrix:?}"));
                }
                Ok(())
            }
            Op::Detach(d) => {
                host.detach(uuid(*d))?;
                for vm in self.world.seen().vms.iter_mut().filter(|vm| vm.device == Some(uuid(*d))) {
                    vm.device = None;
                }
                Ok(())
            }
            Op::Reset(d) => host.reset_device(uuid(*d)),
            Op::Behave(q, mode) => {
                self.world.behave(*q, *mode);
                Ok(())
            }
            Op::Mend => {
                for q in ADAPTERS.flat_map(|a| DOMAINS.map(move |b| (a, b))) {
                    self.world.behave(q, Mode::Good);
                }
                self.world.seen().vms.iter_mut().for_each(|vm| vm.polite = true);
                Ok(())
            }
            Op::Guest(vm, pick, act) => {
                self.world.act(*vm, *pick, *act);
                Ok(())
            }
            Op::Storm => {
                let (host, passing) = (host.clone(), uuid(DEVICES));
                for _ in 0..STORM {
                    host.create_mdev(passing)?;
                    host.remove_mdev(passing)?;
                    self.events.take(None, &self.before).expect("they are taken as they come");
                }
                Ok(())
            }
            Op::Watch => Ok(()),
            Op::Polite(vm, polite) => {
                self.world.seen().vms[*vm].polite = *polite;
                Ok(())
            }
        }
    }

    /// The host against the model.
    fn compare(&self, snapshot: &Snapshot) -> Result<(), String> {
        let naive = &self.naive;
        let differ = |what: &str, got: &dyn std::fmt::Debug, want: &dyn std::fmt::Debug| {
            Err(format!("{what} is {got:?}, not {want:?}"))
        };
        if !matrix_is(&snapshot.configuration, &naive.info) {
            return differ("the configuration", &snapshot.configuration, &naive.info);
        }
        for (name, mask, want) in
            [("apmask", &snapshot.apmask, &naive.apmask), ("aqmask", &snapshot.aqmask, &naive.aqmask)]
        {
            if (0..=255).any(|n| mask.test(n) != want[usize::from(n)]) {
                return differ(name, mask, want);
            }
        }
        let (got, want): (Vec<Queue>, Vec<Queue>) = (
            snapshot.queues.iter().map(|q| queue(q.queue)).collect(),
            naive.queues.keys().copied().collect(),
        );
        if got != want {
            return differ("the list of queues", &got, &want);
        }
        for (got, (q, want)) in snapshot.queues.iter().zip(&naive.queues) {
            if got.driver.map(driver) != want.driver {
                return differ(&format!("driver of {q:?}"), &got.driver, &want.driver);
            }
            if got.driver_override != want.over {
                return differ(&format!("override of {q:?}"), &got.driver_override, &want.over);
            }
            let status = (want.driver == Some(Driver::VfioAp)).then(|| naive.status(*q));
            if got.status.map(QueueStatus::name) != status {
                return differ(&format!("status of {q:?}"), &got.status, &status);
            }
            if want.driver == Some(Driver::VfioAp) && got.last_reset != want.last {
                return differ(&format!("last reset of {q:?}"), &got.last_reset, &want.last);
            }
        }
        let listed: BTreeSet<Uuid> = snapshot.mdevs.iter().map(|m| m.uuid).collect();
        if !listed.iter().copied().eq(naive.mdevs.keys().map(|d| uuid(*d))) {
            return differ("the list of mdevs", &listed, &naive.mdevs.keys());
        }
        for (d, want) in &naive.mdevs {
            let got = snapshot.mdev(uuid(*d)).expect("listed");
            if !matrix_is(&got.matrix, &want.has) {
                return differ(&format!("matrix of {d}"), &got.matrix, &want.has);
            }
            if !matrix_is(&got.guest_matrix, &want.guest) {
                return differ(&format!("guest_matrix of {d}"), &got.guest_matrix, &want.guest);
            }
            if got.attached != want.vm.is_some() {
                return differ(&format!("use of {d}"), &got.attached, &want.vm);
            }
        }
        let seen = self.world.seen();
        if seen.reset != naive.reset {
            return differ("the set of resets", &seen.reset, &naive.reset);
        }
        for (n, (got, want)) in seen.vms.iter().zip(&naive.vms).enumerate() {
            if !matrix_is(&got.masks, &want.apcb) {
                return differ(&format!("APCB of VM {n}"), &got.masks, &want.apcb);
            }
            if got.told != u32::from(naive.told.contains(&n)) {
                return differ(&format!("reports to VM {n}"), &got.told, &naive.told.contains(&n));
            }
        }
        Ok(())
    }

    /// The promises, on what machine and guests saw.
    fn promises(
        &mut self,
        op: &Op,
        done: bool,
        attached: &[bool],
        snapshot: &Snapshot,
    ) -> Result<(), String> {
        let bound = |q: Queue, of: &Snapshot| of.queue(apqn(q)).and_then(|state| state.driver);
        self.overridden
            .retain(|q| bound(*q, snapshot).is_some() && bound(*q, snapshot) == bound(*q, &self.before));
        if let Op::Unbind(q) | Op::Bind(q, _) = op
            && done
        {
            self.overridden.remove(q);
        }
        let seen = self.world.seen();
        if let Some(wrong) = seen.wrong.first() {
            return Err(wrong.clone());
        }

        // Isolation.
        let mut reached = BTreeSet::new();
        for vm in &seen.vms {
            for apqn in vm.masks.apqns() {
                let q = queue(apqn);
                let Some(state) = snapshot.queue(apqn) else {
                    return Err(format!("isolation: {apqn} in a guest, not on the bus"));
                };
                let default = match state.driver_override.as_deref() {
                    Some(name) => name == "cex4queue",
                    None => snapshot.apmask.test(q.0) && snapshot.aqmask.test(q.1),
                };
                let wrong = [
                    (!reached.insert(q), "in two guests"),
                    (state.driver != Some(HostDriver::VfioAp), "in a guest, not bound"),
                    (default && !self.overridden.contains(&q), "in a guest, owned by the host"),
                    (!snapshot.configuration.test(apqn), "in a guest, not in the configuration"),
                    (!matches!(state.last_reset, 0 | 3 | 4), "in a guest after a failed reset"),
                ];
                if let Some((_, what)) = wrong.iter().find(|(wrong, _)| *wrong) {
                    return Err(format!("isolation: {apqn} {what}"));
                }
            }
        }

        // Balanced resources. A guest that was asked and gives nothing back still has its device.
        let refused = matches!(op, Op::Remove(_)) && !done;
        for q in &seen.lost {
            let handled = seen.reset.contains(q) || seen.released.contains(q);
            if !handled && !refused {
                return Err(format!("balance: {q:?} lost by a guest, neither reset nor released"));
            }
        }
        let open = snapshot.mdevs.iter().filter(|m| m.attached).count();
        if seen.vms.iter().filter(|vm| vm.hook).count() != open {
            return Err(format!("balance: {open} devices in use, hooks differ"));
        }
        for (n, vm) in seen.vms.iter().enumerate() {
            if vm.hook != vm.device.is_some() || (!vm.hook && vm.masks != Matrix::EMPTY) {
                return Err(format!("balance: VM {n} has hook {} and masks {:?}", vm.hook, vm.masks));
            }
            if vm.asked > u32::from(attached[n] && matches!(op, Op::Remove(_))) {
                return Err(format!("VM {n} was asked {} times to give its device back", vm.asked));
            }
        }

        // Progress.
        if seen.pauses > MOST_PAUSES {
            return Err(format!("progress: {} pauses", seen.pauses));
        }
        Ok(())
    }
}

fn lpar_change(change: &Change) -> LparChange {
    let adapter = |n, generation| Adapter {
        apid: Apid(n),
        generation: match generation {
            7 => Generation::Cex7,
            8 => Generation::Cex8,
            // What no description can name: the world says that it is older.
            _ => Generation::Cex4,
        },
        card: Card::Accelerator,
    };
    match *change {
        Change::Add(n, t) => LparChange::AddAdapter { adapter: adapter(n, t) },
        Change::Remove(n) => LparChange::RemoveAdapter { adapter: Number(n) },
        Change::Type(n, t) => LparChange::ChangeType { adapter: adapter(n, t) },
        Change::Condition(n, code) => {
            let condition = match code {
                0 => Condition::Online,
                3 => Condition::Offline,
                _ => Condition::Checkstop,
            };
            LparChange::SetCondition { adapter: Number(n), condition }
        }
        Change::AddDomain(n) => LparChange::AddDomain { domain: Number(n) },
        Change::RemoveDomain(n) => LparChange::RemoveDomain { domain: Number(n) },
        Change::AddControl(n) => LparChange::AddControlDomain { domain: Number(n) },
        Change::RemoveControl(n) => LparChange::RemoveControlDomain { domain: Number(n) },
    }
}

fn setting(name: &str, otherwise: u32) -> u32 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")),
        Err(_) => otherwise,
    }
}

/// How often the histories came to what they are to check.
#[derive(Debug, Default)]
struct Reached {
    answered: AtomicU64,
    discarded: AtomicU64,
    lost: AtomicU64,
}

/// What is wrong with a history, if anything: the step and why.
fn judge(description: &Description, ops: &[Op], reached: &Reached) -> Option<String> {
    let mut trial = Trial::new(description);
    let wrong = ops
        .iter()
        .enumerate()
        .find_map(|(n, op)| trial.step(op).err().map(|wrong| format!("step {n}, {op:?}: {wrong}")))
        .or_else(|| trial.finish().err().map(|wrong| format!("at the end: {wrong}")));
    let [answered, discarded] = trial.world.traffic.reached();
    reached.answered.fetch_add(answered, Relaxed);
    reached.discarded.fetch_add(discarded, Relaxed);
    reached.lost.fetch_add(trial.lost, Relaxed);
    wrong
}

/// `cases` histories of this seed. The error is the first that fails, less every operation that it fails without.
fn run(description: &Description, cases: u32, seed: u64, reached: &Reached) -> Result<(), String> {
    // Taking operations out, below, shrinks a history better than making each of them smaller.
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let outcome = runner.run(&history(), |ops| match judge(description, &ops, reached) {
        None => Ok(()),
        Some(wrong) => Err(TestCaseError::fail(wrong)),
    });
    let (reason, mut ops) = match outcome {
        Ok(()) => return Ok(()),
        Err(TestError::Fail(reason, ops)) => (reason.to_string(), ops),
        Err(error) => return Err(error.to_string()),
    };
    let fails = |ops: &[Op]| {
        let verdict = catch_unwind(AssertUnwindSafe(|| judge(description, ops, &Reached::default())));
        verdict.unwrap_or_else(|_| Some("panicked".to_owned()))
    };
    let mut last = reason;
    let mut length = usize::MAX;
    while ops.len() < length {
        length = ops.len();
        for at in (0..length).rev() {
            let mut fewer = ops.clone();
            fewer.remove(at);
            if let Some(wrong) = fails(&fewer) {
                (ops, last) = (fewer, wrong);
            }
        }
    }
    let listed: String = ops.iter().enumerate().map(|(n, op)| format!("  {n}: {op:?}\n")).collect();
    Err(format!("{last}\n{listed}  (generator {seed:#x})"))
}

#[test]
fn histories() {
    let count = setting("HISTORIES", 10_000);
    let seed = u64::from(setting("SEED", 1)) << 32;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u32).min(count.max(1));
    let description = Description::from_json(DESCRIPTION).expect("a description");
    let reached = Reached::default();
    let outcomes: Vec<Result<(), String>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|n| {
                let cases = count / threads + u32::from(n < count % threads);
                let (description, reached) = (&description, &reached);
                scope.spawn(move || run(description, cases, seed + u64::from(n), reached))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("the runner catches panics")).collect()
    });
    for outcome in outcomes {
        if let Err(wrong) = outcome {
            panic!("{wrong}");
        }
    }
    println!("{count} histories, {reached:?}");
    if count >= 1000 {
        let Reached { answered, discarded, lost } = reached;
        for (what, reached) in [("answered", answered), ("discarded", discarded), ("lost", lost)] {
            assert!(reached.into_inner() > 10, "hardly anything was {what}");
        }
    }
}

/// Histories that were found, each shortened to what it needs.
#[test]
fn found() {
    let set = |numbers: &[u8]| numbers.iter().copied().collect::<Numbers>();
    let config = |d, apm: &[u8], aqm: &[u8]| Op::Config(d, [set(apm), set(aqm), set(&[])], 0);
    let working = |apm: &[u8], aqm: &[u8]| {
        let freed = MaskText::Relative(vec![(false, 3, 6)]);
        vec![Op::Mask(true, freed), Op::Create(0), config(0, apm, aqm), Op::Attach(0, 0)]
    };
    let check = |mut ops: Vec<Op>, more: &[Op]| {
        ops.extend_from_slice(more);
        let description = Description::from_json(DESCRIPTION).expect("a description");
        assert_eq!(judge(&description, &ops, &Reached::default()), None, "{ops:?}");
    };
    // A guest kept a queue whose reset it had asked for and which had failed.
    check(working(&[3, 4], &[5, 6]), &[Op::Behave((3, 5), Mode::Stuck), Op::Reset(0)]);
    check(
        working(&[3, 4], &[5, 6]),
        &[Op::Behave((3, 5), Mode::Gone), Op::Reset(0), Op::Detach(0), Op::Attach(0, 1)],
    );
    // A filter waited for a reset that ended by being answered at once; and the guest was told twice.
    let standby = Op::Configure(vec![Change::Condition(4, 3), Change::Add(6, 7)]);
    check(
        working(&[3, 4], &[4, 5]),
        &[
            Op::Behave((4, 5), Mode::Stuck),
            config(0, &[3, 4, 6], &[7]),
            standby,
            Op::Assign(0, Which::Domain, 5),
        ],
    );
    // A reset of the device, whose end brings one adapter back while others are still being reset, must not unplug those.
    let back = [
        Op::Behave((4, 5), Mode::Gone),
        Op::Reset(0),
        Op::Behave((4, 5), Mode::Good),
        Op::Behave((3, 5), Mode::Slow(2)),
    ];
    check(working(&[3, 4], &[4, 5]), &[&back[..], &[Op::Reset(0)]].concat());
    let standby = Op::Configure(vec![Change::Condition(3, 3)]);
    check(
        working(&[3, 4], &[4, 5]),
        &[Op::Behave((3, 5), Mode::Stuck), config(0, &[], &[4]), standby, config(0, &[3, 5], &[3, 5])],
    );
}
