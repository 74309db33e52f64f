//! An AP host that is another process: its daemon's orders are carried out here, on this process's hardware.
//!
//! One thread follows the daemon: it writes the guest's masks with the CPUs held off, applies what becomes of the machine,
//! resets queues and says so, and posts channel reports. When the daemon goes away, the guest loses its queues and goes on.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use ap::ApMachine;
use ap::host::remote::{
    Client, Incoming, Order, QueueCount, Refusal, RemoteError, Report, VmClient, VmSender, follow,
};
use ap::host::{Guest, HostError, Machine, Operation, Snapshot, Wake, Watch, watch};
use ap::lock::{Rank, RankedGuard, RankedMutex};
use ap::passthrough::Given;
use ap::sync::Condvar;
use crycb::{Apqn, Matrix};

use super::crypto::{ThisGuest, chain};
use crate::ap_control::{ApControl, Plugged, simulated};
use crate::control::Control;
use crate::sandbox::{Kind, enter_thread};

/// How often a reset in progress is looked at.
const RESET_LOOK: Duration = Duration::from_millis(2);
/// How long the daemon may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Queues in one report of figures, to stay below the daemon's longest line.
const QUEUES_A_REPORT: usize = 4096;

/// The daemon, and the guest's device on its host.
pub(super) struct RemoteHost {
    path: PathBuf,
    sender: Arc<VmSender>,
    guest: Arc<ThisGuest>,
    shared: Arc<Shared>,
    /// Held by who plugs or unplugs.
    changing: RankedMutex<()>,
    follower: Option<JoinHandle<()>>,
}

/// What the follower tells the others.
struct Shared {
    state: RankedMutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What the guest may reach.
    masks: Matrix,
    device: Option<Plugged>,
    /// Answers that nobody has taken yet.
    answers: BTreeMap<u64, Option<Refusal>>,
    /// The daemon is.
    gone: bool,
    /// This end does it.
    ending: bool,
}

impl RemoteHost {
    /// Begins to follow the daemon; `device` is what the guest has already, and can reach when this returns.
    pub(super) fn new(
        mut client: VmClient,
        path: PathBuf,
        device: Option<Plugged>,
        guest: Arc<ThisGuest>,
        machine: Arc<ApMachine>,
    ) -> io::Result<Self> {
        let state = RankedMutex::new(Rank::Device, State::default());
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        if let Some(device) = &device {
            guest.expect(device.mdev);
        }
        shared.lock().device = device;
        let sender = client.sender();
        let early = client.early();
        let mut follower = Follower {
            client,
            path: path.clone(),
            sender: sender.clone(),
            guest: guest.clone(),
            machine,
            shared: shared.clone(),
            resets: BTreeMap::new(),
            returning: None,
        };
        for order in early {
            follower.carry_out(Incoming::Order(order))?;
        }
        let follower = Builder::new().name("ap-host".into()).spawn(|| {
            enter_thread(Kind::ApHost);
            follower.run();
        })?;
        let changing = RankedMutex::new(Rank::Plugging, ());
        Ok(Self { path, sender, guest, shared, changing, follower: Some(follower) })
    }

    /// Subsystem reset, of every queue of the device. False when the daemon did not do it.
    pub(super) fn reset_device(&self) -> bool {
        match self.request(VmSender::reset_device) {
            Ok(()) => true,
            Err(error) => {
                log::warn!("subsystem reset: {}", chain(&error));
                false
            }
        }
    }

    /// Asks, and waits for the answer.
    fn request(&self, ask: impl FnOnce(&VmSender) -> io::Result<u64>) -> Result<(), HostError> {
        let id = ask(&self.sender).map_err(|e| unreachable(&self.path, &e))?;
        let missing = |state: &mut State| !state.gone && !state.answers.contains_key(&id);
        let (mut state, _) = self.shared.lock().wait_timeout_while(&self.shared.changed, PATIENCE, missing);
        match state.answers.remove(&id) {
            Some(None) => Ok(()),
            Some(Some(refusal)) => Err(refusal.into()),
            None => Err(unreachable(&self.path, &"no answer")),
        }
    }

    fn operator(&self) -> Result<Client, HostError> {
        Client::connect(&self.path).map_err(|e| refused(&self.path, e))
    }
}

impl Drop for RemoteHost {
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.sender.close();
        if let Some(follower) = self.follower.take()
            && follower.join().is_err()
        {
            log::error!("the thread that follows the AP host panicked");
        }
    }
}

fn unreachable(path: &Path, why: &dyn std::fmt::Display) -> HostError {
    HostError::Remote {
        errno: "ENOLINK".into(),
        message: format!("the AP host at {}: {why}", path.display()),
    }
}

fn refused(path: &Path, error: RemoteError) -> HostError {
    match error {
        RemoteError::Refused(error) => error,
        other => unreachable(path, &chain(&other)),
    }
}

impl ApControl for RemoteHost {
    fn snapshot(&self) -> Result<Snapshot, HostError> {
        self.operator()?.snapshot().map_err(|e| refused(&self.path, e))
    }

    fn execute(&self, operation: &Operation) -> Result<(), HostError> {
        self.operator()?.execute(operation).map_err(|e| refused(&self.path, e))?;
        if let Operation::RemoveMdev { mdev } = operation {
            // The daemon may be done before the follower has heard that it is.
            let there = |state: &mut State| state.device.as_ref().is_some_and(|device| device.mdev == *mdev);
            drop(self.shared.lock().wait_timeout_while(&self.shared.changed, PATIENCE, there));
        }
        Ok(())
    }

    fn plug(&self, device: Given, id: Option<String>) -> Result<(), HostError> {
        let device = Plugged { id, mdev: simulated(&device)? };
        let _changing = self.changing.lock();
        if self.plugged().is_none() {
            self.guest.expect(device.mdev);
        }
        self.request(|sender| sender.attach(device.mdev))?;
        self.shared.lock().device = Some(device.clone());
        self.guest.config_changed();
        Ok(())
    }

    fn unplug(&self, device: &Plugged) -> Result<(), HostError> {
        let _changing = self.changing.lock();
        if self.plugged().as_ref() != Some(device) {
            return Err(HostError::NotAttached(device.mdev));
        }
        self.request(VmSender::detach)?;
        self.shared.lock().device = None;
        self.guest.config_changed();
        Ok(())
    }

    fn report_to(&self, run: Arc<Control>) {
        self.guest.report_to(run);
    }

    fn plugged(&self) -> Option<Plugged> {
        self.shared.lock().device.clone()
    }

    /// Through a connection of its own, which a thread reads as fast as events come, and makes anew if it ends before the
    /// daemon does: a guest that nobody manages, so that nobody takes its events, must not keep the daemon waiting.
    fn subscribe(&self, wake: Wake) -> Watch {
        let (teller, events) = watch(wake);
        let first = self.operator().and_then(|c| c.subscribe().map_err(|e| refused(&self.path, e)));
        let first = first.inspect_err(|error| log::warn!("AP events: {}", chain(error))).ok();
        let (path, shared) = (self.path.clone(), self.shared.clone());
        let over = move || {
            let state = shared.lock();
            state.gone || state.ending
        };
        let spawned =
            Builder::new().name("ap-events".into()).spawn(move || follow(&path, first, &teller, over));
        if let Err(error) = spawned {
            log::warn!("AP events: start a thread: {error}");
        }
        events
    }
}

impl Shared {
    fn lock(&self) -> RankedGuard<'_, State> {
        self.state.lock()
    }
}

/// The thread that does what the daemon says.
struct Follower {
    client: VmClient,
    path: PathBuf,
    sender: Arc<VmSender>,
    guest: Arc<ThisGuest>,
    machine: Arc<ApMachine>,
    shared: Arc<Shared>,
    /// Resets that were ordered and have not ended.
    resets: BTreeMap<Apqn, Reset>,
    /// The request by which the device is given back.
    returning: Option<u64>,
}

struct Reset {
    serial: u64,
    /// What ZAPQ answered: after 02, 05 and 0A it did nothing and is issued again.
    answer: u8,
}

impl Follower {
    fn run(mut self) {
        let why = loop {
            let timeout = (!self.resets.is_empty()).then_some(RESET_LOOK);
            let done = match self.client.next(timeout) {
                Ok(Some(incoming)) => self.carry_out(incoming),
                Ok(None) => Ok(()),
                Err(error) => break error,
            };
            if let Err(error) = done.and_then(|()| self.look_at_resets()) {
                break error.into();
            }
        };
        self.go_on_without(&why);
    }

    fn carry_out(&mut self, incoming: Incoming) -> io::Result<()> {
        let order = match incoming {
            Incoming::Order(order) => order,
            Incoming::Answer { id, refusal } if self.returning == Some(id) => {
                self.returning = None;
                match refusal {
                    None => {
                        log::info!("the device was given back to the AP host, which asked for it");
                        self.released();
                    }
                    Some(refusal) => log::warn!("give the device back: {}", refusal.error),
                }
                return Ok(());
            }
            Incoming::Answer { id, refusal } => {
                self.shared.lock().answers.insert(id, refusal);
                self.shared.changed.notify_all();
                return Ok(());
            }
        };
        match order {
            Order::Hardware { lpar } => self.machine.configure(&lpar),
            Order::SetHook { present } => self.guest.set_hook(present),
            Order::SetMasks { serial, matrix } => {
                self.guest.set_masks(&matrix);
                self.shared.lock().masks = matrix;
                self.sender.report(Report::Confirm { serial })?;
            }
            Order::Zapq { serial, queue } => {
                let answer = self.machine.zapq(queue);
                self.resets.insert(queue, Reset { serial, answer });
            }
            Order::ReleaseInterruption { queue } => self.machine.release_interruption(queue),
            Order::ConfigChanged => self.guest.config_changed(),
            Order::Request => self.returning = Some(self.sender.detach()?),
            Order::Statistics { serial } => self.report_figures(serial)?,
        }
        Ok(())
    }

    /// Says which resets have ended, and issues those again that met another one.
    fn look_at_resets(&mut self) -> io::Result<()> {
        for (queue, mut reset) in std::mem::take(&mut self.resets) {
            let (code, _) = self.machine.tapq(queue);
            let ended = match (reset.answer, code) {
                (_, 0x02 | 0x05 | 0x0a) => false,
                (0x02 | 0x05 | 0x0a, 0x00) => {
                    reset.answer = self.machine.zapq(queue);
                    false
                }
                _ => true,
            };
            if ended {
                let serial = reset.serial;
                self.sender.report(Report::ResetDone { serial, queue, response_code: code })?;
            } else {
                self.resets.insert(queue, reset);
            }
        }
        Ok(())
    }

    /// The guest's device is the host's again.
    fn released(&self) {
        let device = self.shared.lock().device.clone();
        if let Some(device) = device {
            self.guest.released(device);
            self.shared.lock().device = None;
            self.shared.changed.notify_all();
        }
    }

    fn report_figures(&self, serial: u64) -> io::Result<()> {
        let count = |queue| {
            let figures = Machine::statistics(&*self.machine, queue)?;
            let count = QueueCount {
                queue,
                requests: figures.requests,
                pending: figures.queued,
                answered: figures.answered,
                answer_time: figures.answer_time,
            };
            (count.requests != 0 || count.pending != 0).then_some(count)
        };
        let mut queues: Vec<_> = self.machine.qci().matrix.apqns().filter_map(count).collect();
        while queues.len() > QUEUES_A_REPORT {
            let rest = queues.split_off(QUEUES_A_REPORT);
            self.sender.report(Report::Statistics { serial: None, queues })?;
            queues = rest;
        }
        self.sender.report(Report::Statistics { serial: Some(serial), queues })
    }

    /// The daemon is gone, and nobody knows any more whose the queues are.
    fn go_on_without(self, why: &RemoteError) {
        let (had, ending) = {
            let mut state = self.shared.lock();
            state.gone = true;
            (std::mem::take(&mut state.masks), state.ending)
        };
        if !ending {
            // Before the guest notices: it may power off, and this process end.
            log::error!("{}: {}; the guest goes on without crypto cards", self.path.display(), chain(why));
        }
        self.guest.set_hook(false);
        self.guest.set_masks(&Matrix::EMPTY);
        self.released();
        for queue in had.apqns() {
            self.machine.zapq(queue);
            self.machine.release_interruption(queue);
        }
        self.shared.changed.notify_all();
        if !ending {
            self.guest.config_changed();
        }
    }
}
