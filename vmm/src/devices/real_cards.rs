//! AP: the host's own cards, handed to the guest by vfio_ap. The hardware executes the guest's AP instructions.

use std::io;
use std::sync::Arc;

use ap::host::{HostError, Operation, Snapshot, Wake, Watch};
use ap::passthrough::kernel::{Vfio, VfioFiles};
use ap::passthrough::{Guest, MdevName, Passthrough, Places, Plugged as Open};
use crycb::Matrix;
use css::Css;
use machine::{Storage, Vm};

use super::crypto::FIRST_ID;
use crate::ap_control::{ApControl, Plugged};
use crate::sandbox::{Kind, enter_thread};

/// The host, and the guest's device on it.
pub struct RealCards {
    passthrough: Passthrough,
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
        let passthrough = Passthrough::new(places, vfio, files, storage, Arc::new(ThisGuest { vm, css }));
        if let Some(name) = name {
            let first = Some(FIRST_ID.to_owned());
            passthrough.plug(name, first, true).map_err(|e| io::Error::other(HostError::from(e)))?;
        }
        Ok(Self { passthrough })
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

    fn plug(&self, device: &Plugged) -> Result<Matrix, HostError> {
        let name = MdevName::Uuid(device.mdev);
        let (_, matrix) = self.passthrough.plug(name, device.id.clone(), false)?;
        Ok(matrix)
    }

    fn unplug(&self, device: &Plugged) -> Result<Matrix, HostError> {
        Ok(self.passthrough.unplug(device.mdev)?)
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
}

impl Guest for ThisGuest {
    fn configuration_changed(&self) {
        self.css.ap_config_changed(&*self.vm);
    }

    fn watcher_started(&self) {
        // It opens sysfs, waits, and closes devices, as commands of management clients do.
        enter_thread(Kind::EventLoop);
    }
}
