//! A guest's connection to its host, and the thread that hears what the host signals.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crycb::Matrix;
use machine::Storage;
use uuid::Uuid;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Open, Signals};
use super::given::Given;
use super::kernel::{Vfio, VfioFiles};
use super::preflight::{Places, preflight, preflight_of_open};
use super::{Attempt, Error, OPEN_FILES};
use crate::host::{EventKind, Events, HostError, Operation, Snapshot, Sysfs, Wake, Watch};
use crate::lock::{Rank, RankedMutex};

/// How often `guest_matrix` is looked at where the kernel signals no changes.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The guest, as its host reaches it.
pub trait Guest: Send + Sync {
    /// The AP configuration changed: a channel report.
    fn configuration_changed(&self);

    /// What the guest may reach changed, so far as sysfs shows it: all but control domains.
    fn matrix_changed(&self, mdev: Uuid, before: &Matrix, after: &Matrix);

    /// The host took the device back.
    fn released(&self, device: &Plugged);

    /// Called first by each thread that watches the guest's host.
    fn watcher_started(&self) {}
}

/// The device that a guest has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugged {
    /// What its operator calls it.
    pub id: Option<String>,
    /// The mediated device.
    pub mdev: Uuid,
}

/// A guest's connection to its host. Any thread may call.
pub struct Passthrough {
    shared: Arc<Shared>,
    /// Held by who plugs or unplugs.
    changing: RankedMutex<()>,
}

struct Shared {
    // Connections to the host.
    sysfs: Sysfs,
    places: Places,
    vfio: Arc<dyn Vfio>,
    files: Arc<dyn VfioFiles>,
    storage: Arc<Storage>,
    guest: Arc<dyn Guest>,
    events: Events,
    // What is plugged.
    plugged: RankedMutex<Option<Plugged>>,
    /// Held as long as a reset takes.
    slot: RankedMutex<Option<Slot>>,
}

/// What is plugged, and who watches it.
struct Slot {
    device: Plugged,
    open: Open,
    /// What the guest had when it was last looked at.
    matrix: Matrix,
    /// Whether it could not be looked at the last time, which is told once.
    blind: bool,
    /// Ends the thread.
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Passthrough {
    /// A guest without a device.
    pub fn new(
        places: Places,
        vfio: Arc<dyn Vfio>,
        files: Arc<dyn VfioFiles>,
        storage: Arc<Storage>,
        guest: Arc<dyn Guest>,
    ) -> Self {
        let sysfs = places.sysfs();
        let (events, plugged) = (Events::default(), RankedMutex::new(Rank::Device, None));
        let slot = RankedMutex::new(Rank::Ledger, None);
        let shared = Shared { sysfs, places, vfio, files, storage, guest, events, plugged, slot };
        Self { shared: Arc::new(shared), changing: RankedMutex::new(Rank::Plugging, ()) }
    }

    /// Opens the device, or takes its open file, for the guest, which is told unless nothing runs yet (`quiet`). What the guest has now.
    ///
    /// # Errors
    /// What stands in the way, or what the kernel refused; then nothing is open.
    pub fn plug(
        &self,
        device: impl Into<Given>,
        id: Option<String>,
        quiet: bool,
    ) -> Result<(Plugged, Matrix), Error> {
        let _changing = self.changing.lock();
        if let Some(Plugged { mdev: other, .. }) = self.plugged() {
            return Err(Error::Second { other });
        }
        let shared = &self.shared;
        let (target, file) = match device.into() {
            Given::Name(name) => (preflight(&shared.places, name), None),
            Given::File(file) => {
                let name =
                    shared.places.name_of(file.as_fd()).map_err(|problem| Error::Preflight(vec![problem]))?;
                (preflight_of_open(&shared.places, name), Some(file))
            }
        };
        let target = target.map_err(Error::Preflight)?;
        for warning in &target.warnings {
            log::warn!("{warning}");
        }
        let (open, signals) = Open::new(&*shared.vfio, &shared.files, &target, file, &shared.storage)?;
        let device = Plugged { id, mdev: target.mdev };
        let matrix = shared.guest_matrix(target.mdev).unwrap_or_else(|error| {
            log::warn!("mdev {}: what its guest has cannot be seen: {error}", target.mdev);
            Matrix::EMPTY
        });
        let watcher = Watcher::new(shared.clone(), target.mdev, signals)?;
        let stop = watcher.stop.try_clone().attempt("copy an event descriptor", OPEN_FILES)?;
        *shared.slot.lock() =
            Some(Slot { device: device.clone(), open, matrix, blind: false, stop, thread: None });
        *shared.plugged.lock() = Some(device.clone());
        shared.guest.matrix_changed(target.mdev, &Matrix::EMPTY, &matrix);
        // Only now, since the thread takes the slot when the host wants the device back.
        match watcher.start() {
            Ok(thread) => {
                if let Some(slot) = &mut *shared.slot.lock() {
                    slot.thread = Some(thread);
                }
            }
            Err(error) => {
                drop(shared.take(target.mdev));
                shared.guest.matrix_changed(target.mdev, &matrix, &Matrix::EMPTY);
                return Err(error);
            }
        }
        shared.events.emit(EventKind::Attached { mdev: target.mdev });
        if !quiet {
            shared.guest.configuration_changed();
        }
        Ok((device, matrix))
    }

    /// Closes the device, by which its queues are reset, and tells the guest. What it had until now.
    ///
    /// # Errors
    /// [`Error::NotPlugged`].
    pub fn unplug(&self, mdev: Uuid) -> Result<Matrix, Error> {
        let _changing = self.changing.lock();
        let slot = self.shared.take(mdev).ok_or(Error::NotPlugged(mdev))?;
        let had = slot.matrix;
        slot.finish();
        self.shared.events.emit(EventKind::Detached { mdev });
        self.shared.guest.matrix_changed(mdev, &had, &Matrix::EMPTY);
        self.shared.guest.configuration_changed();
        Ok(had)
    }

    /// The device that the guest has. Never waits for long.
    pub fn plugged(&self) -> Option<Plugged> {
        self.shared.plugged.lock().clone()
    }

    /// What the guest had when it was last looked at.
    pub fn matrix(&self) -> Matrix {
        self.shared.slot.lock().as_ref().map_or(Matrix::EMPTY, |slot| slot.matrix)
    }

    /// Resets the queues, as a reset of the VM does.
    ///
    /// # Errors
    /// EIO from the kernel, when a queue's reset did not end well.
    pub fn reset(&self) -> Result<(), Error> {
        match &*self.shared.slot.lock() {
            Some(slot) => {
                let what = format!("reset the queues of mdev {}", slot.device.mdev);
                slot.open.reset().attempt(what, "`lszcrypt -V` shows the state of the cards")
            }
            None => Ok(()),
        }
    }

    /// The host as it is.
    ///
    /// # Errors
    /// Those of [`Sysfs::snapshot`].
    pub fn snapshot(&self) -> Result<Snapshot, HostError> {
        let mut state = self.shared.sysfs.snapshot()?;
        // sysfs shows that a device is open only where it has queues.
        if let Some(plugged) = self.plugged()
            && let Some(mdev) = state.mdevs.iter_mut().find(|mdev| mdev.uuid == plugged.mdev)
        {
            mdev.attached = true;
        }
        Ok(state)
    }

    /// Carries out an operation on the host.
    ///
    /// # Errors
    /// Those of [`Sysfs::execute`].
    pub fn execute(&self, operation: &Operation) -> Result<(), HostError> {
        match operation {
            Operation::ResetDevice { mdev } if self.plugged().is_some_and(|p| p.mdev == *mdev) => {
                Ok(self.reset()?)
            }
            _ => self.shared.sysfs.execute(operation),
        }
    }

    /// What happens to the guest's device from now on; `wake` is called after each event.
    pub fn subscribe(&self, wake: Wake) -> Watch {
        self.shared.events.subscribe(wake)
    }

    /// Where the guest's APCB is not what the rules give, one line each.
    ///
    /// # Errors
    /// Those of [`Sysfs::snapshot`].
    pub fn differences(&self) -> Result<Vec<String>, HostError> {
        let all = crate::host::apcb::lasting_differences(&self.shared.sysfs)?;
        let mine = self.plugged().map(|plugged| plugged.mdev);
        Ok(all.iter().filter(|found| Some(found.mdev) == mine).map(ToString::to_string).collect())
    }
}

impl Drop for Passthrough {
    fn drop(&mut self) {
        let slot = self.shared.slot.lock().take();
        if let Some(slot) = slot {
            slot.finish();
        }
    }
}

impl Slot {
    /// Ends the thread, then closes.
    fn finish(mut self) {
        // A counter that nobody else writes takes this.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // Its panic has been reported by its hook.
            let _ = thread.join();
        }
        drop(self.open);
    }
}

impl Shared {
    fn guest_matrix(&self, mdev: Uuid) -> Result<Matrix, HostError> {
        self.sysfs.guest_matrix(mdev)
    }

    /// Takes the device out, so that nobody else closes it.
    fn take(&self, mdev: Uuid) -> Option<Slot> {
        let taken = self.slot.lock().take_if(|slot| slot.device.mdev == mdev);
        if taken.is_some() {
            *self.plugged.lock() = None;
        }
        taken
    }

    /// Compares what the guest has with what it had. False: the device has no attributes any more.
    fn look(&self, mdev: Uuid, signalled: bool) -> bool {
        let after = match self.guest_matrix(mdev) {
            Ok(matrix) => matrix,
            Err(error) if matches!(error.errno(), "ENOENT" | "ENODEV") => {
                return self.sysfs.mdev(mdev).join("matrix").exists();
            }
            Err(error) => {
                if let Some(slot) = &mut *self.slot.lock()
                    && !std::mem::replace(&mut slot.blind, true)
                {
                    log::warn!("mdev {mdev}: what its guest has cannot be seen: {error}");
                }
                return true;
            }
        };
        let before = match &mut *self.slot.lock() {
            Some(slot) if slot.device.mdev == mdev => {
                slot.blind = false;
                std::mem::replace(&mut slot.matrix, after)
            }
            _ => return true,
        };
        if let Some(kind) = EventKind::guest_matrix(mdev, &before, &after) {
            if let EventKind::GuestMatrix { change, .. } = &kind {
                let (came, went) = (change.plugged.len(), change.unplugged.len());
                log::info!("mdev {mdev}: the guest got {came} queues and lost {went}");
            }
            self.events.emit(kind);
            self.guest.matrix_changed(mdev, &before, &after);
        }
        // A signal can be for control domains, which cannot be seen here.
        if signalled || before != after {
            self.guest.configuration_changed();
        }
        true
    }

    /// Gives the device back to the host, which asks for it, or has taken its attributes away already.
    fn release(&self, mdev: Uuid) {
        let Some(slot) = self.take(mdev) else { return };
        log::warn!("mdev {mdev}: the host wants it back, and gets it; the guest has lost its crypto queues");
        let (device, had) = (slot.device.clone(), slot.matrix);
        slot.finish();
        if let Some(kind) = EventKind::guest_matrix(mdev, &had, &Matrix { adm: had.adm, ..Matrix::EMPTY }) {
            self.events.emit(kind);
        }
        self.events.emit(EventKind::Released { mdev, id: device.id.clone() });
        self.guest.matrix_changed(mdev, &had, &Matrix::EMPTY);
        self.guest.released(&device);
        self.guest.configuration_changed();
    }
}

/// What the kernel signals of a device.
const STOP: u64 = 0;
const REQUESTED: u64 = 1;
const CHANGED: u64 = 2;

/// The thread that hears what the host signals, before it is started.
struct Watcher {
    shared: Arc<Shared>,
    mdev: Uuid,
    signals: Signals,
    stop: EventFd,
    epoll: Epoll,
}

impl Watcher {
    fn new(shared: Arc<Shared>, mdev: Uuid, signals: Signals) -> Result<Self, Error> {
        let stop = EventFd::new(EFD_NONBLOCK).attempt("make an event descriptor", OPEN_FILES)?;
        let epoll = Epoll::new().attempt("make an epoll descriptor", OPEN_FILES)?;
        let watched =
            [(Some(&stop), STOP), (signals.request.as_ref(), REQUESTED), (signals.changed.as_ref(), CHANGED)];
        for (event, meaning) in watched {
            if let Some(event) = event {
                let interest = EpollEvent::new(EventSet::IN, meaning);
                let added = epoll.ctl(ControlOperation::Add, event.as_raw_fd(), interest);
                added.attempt("watch an event descriptor", "raise the sysctl fs.epoll.max_user_watches")?;
            }
        }
        Ok(Self { shared, mdev, signals, stop, epoll })
    }

    fn start(self) -> Result<JoinHandle<()>, Error> {
        let mdev = self.mdev;
        if self.signals.changed.is_none() {
            log::warn!(
                "mdev {mdev}: this kernel does not signal changes of a guest's queues (Linux 6.15 does); guest_matrix is \
                 looked at every {} s instead",
                LOOK_EVERY.as_secs()
            );
        }
        if self.signals.request.is_none() {
            log::warn!(
                "mdev {mdev}: this kernel does not ask for a device back; it is given back when its attributes vanish"
            );
        }
        let thread = std::thread::Builder::new().name("vfio-ap".into());
        thread.spawn(move || self.run()).attempt(
            "start the thread that watches the host",
            "raise the limit of tasks: ulimit -u, or TasksMax= in the unit",
        )
    }

    fn run(self) {
        let Self { shared, mdev, signals, .. } = &self;
        shared.guest.watcher_started();
        // Where the kernel lacks one of the signals, sysfs is the only one to say it.
        let complete = signals.changed.is_some() && signals.request.is_some();
        let timeout = if complete { -1 } else { LOOK_EVERY.as_millis() as i32 };
        // Whatever changed before there was anybody to hear it.
        let mut there = shared.look(*mdev, false);
        while there {
            let ready = match self.wait(timeout) {
                Ok(ready) => ready,
                Err(error) => {
                    log::error!("mdev {mdev}: changes of the host are not heard any more: {error}");
                    return;
                }
            };
            if ready.contains(&STOP) {
                return;
            }
            if ready.contains(&REQUESTED) {
                break;
            }
            let changed = ready.contains(&CHANGED);
            if changed && let Some(event) = &signals.changed {
                // Several signals are one look. It is readable, and nobody else reads.
                let _ = event.read();
            }
            there = shared.look(*mdev, changed);
        }
        shared.release(*mdev);
    }

    /// What is signalled, within `timeout` milliseconds.
    fn wait(&self, timeout: i32) -> io::Result<Vec<u64>> {
        let mut events = [EpollEvent::default(); 3];
        loop {
            match self.epoll.wait(timeout, &mut events) {
                Ok(count) => return Ok(events[..count].iter().map(EpollEvent::data).collect()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}
