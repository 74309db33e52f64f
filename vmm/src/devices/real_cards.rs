//! AP: the host's own cards, handed to the guest by vfio_ap. The hardware executes the guest's AP instructions.

use std::io;
use std::sync::{Arc, OnceLock};

use ap::host::{HostError, MatrixChange, Operation, Snapshot, Wake, Watch};
use ap::passthrough::kernel::{Vfio, VfioFiles};
use ap::passthrough::{Given, Guest, MdevName, Passthrough, Places, Plugged as Open};
use crycb::Matrix;
use css::Css;
use machine::{Storage, Vm};
use uuid::Uuid;

use super::crypto::FIRST_ID;
use crate::ap_control::{ApControl, Plugged};
use crate::control::Control;
use crate::events::Event;
use crate::sandbox::{Kind, enter_thread};

/// The host, and the guest's device on it.
pub struct RealCards {
    passthrough: Passthrough,
    guest: Arc<ThisGuest>,
}

/// What [`RealCards`] are connected to.
pub(super) struct To {
    pub(super) places: Places,
    pub(super) vfio: Arc<dyn Vfio>,
    pub(super) files: Arc<dyn VfioFiles>,
    pub(super) storage: Arc<Storage>,
    pub(super) vm: Arc<dyn Vm>,
    pub(super) css: Arc<Css>,
}

impl RealCards {
    /// A guest's connection to its host; the device of this name is opened.
    pub(super) fn new(name: Option<MdevName>, to: To) -> io::Result<Self> {
        let To { places, vfio, files, storage, vm, css } = to;
        let guest = Arc::new(ThisGuest { vm, css, run: OnceLock::new() });
        let passthrough = Passthrough::new(places, vfio, files, storage, guest.clone());
        if let Some(name) = name {
            let first = Some(FIRST_ID.to_owned());
            passthrough.plug(name, first, true).map_err(|e| io::Error::other(HostError::from(e)))?;
        }
        Ok(Self { passthrough, guest })
    }

    /// Subsystem reset: of every queue of the mediated device.
    pub(super) fn reset(&self) {
        if let Err(error) = self.passthrough.reset() {
            // The guest goes on: its own driver sees the state of the queue.
            log::error!("subsystem reset: {}", HostError::from(error));
        }
    }
}

impl ApControl for RealCards {
    fn snapshot(&self) -> Result<Snapshot, HostError> {
        self.passthrough.snapshot()
    }

    fn execute(&self, operation: &Operation) -> Result<(), HostError> {
        self.passthrough.execute(operation)
    }

    fn plug(&self, device: Given, id: Option<String>) -> Result<(), HostError> {
        self.passthrough.plug(device, id, false)?;
        Ok(())
    }

    fn takes_files(&self) -> bool {
        true
    }

    fn unplug(&self, device: &Plugged) -> Result<(), HostError> {
        self.passthrough.unplug(device.mdev)?;
        Ok(())
    }

    fn report_to(&self, run: Arc<Control>) {
        // Who comes later is told nothing.
        let _ = self.guest.run.set(run);
    }

    fn plugged(&self) -> Option<Plugged> {
        self.passthrough.plugged().map(|Open { id, mdev }| Plugged { id, mdev })
    }

    fn subscribe(&self, wake: Wake) -> Watch {
        self.passthrough.subscribe(wake)
    }

    fn problems(&self) -> Result<Vec<String>, HostError> {
        self.passthrough.differences()
    }
}

/// The guest as its host reaches it.
struct ThisGuest {
    vm: Arc<dyn Vm>,
    css: Arc<Css>,
    /// Who is told.
    run: OnceLock<Arc<Control>>,
}

impl ThisGuest {
    fn tell(&self, event: Event) {
        if let Some(run) = self.run.get() {
            run.events().post(event);
        }
    }
}

impl Guest for ThisGuest {
    fn configuration_changed(&self) {
        self.css.ap_config_changed(&*self.vm);
    }

    fn matrix_changed(&self, mdev: Uuid, before: &Matrix, after: &Matrix) {
        if let Some(change) = MatrixChange::between(before, after) {
            self.tell(Event::ApConfigChanged { mdev, change });
        }
    }

    fn released(&self, device: &Open) {
        self.tell(Event::DeviceDeleted(device.id.clone()));
    }

    fn watcher_started(&self) {
        // It opens sysfs, waits, and closes devices, as commands of management clients do.
        enter_thread(Kind::EventLoop);
    }
}
