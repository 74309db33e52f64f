//! What an operator can do to the AP of a guest and of its host, whoever that host is.

use std::sync::Arc;

use ap::host::{HostError, Operation, Snapshot, Wake, Watch};
use ap::passthrough::{Given, MdevName};
use uuid::Uuid;

use crate::control::Control;

/// The vfio-ap device of a guest; a guest has one at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugged {
    /// What `device_del` calls it.
    pub id: Option<String>,
    /// The mediated device.
    pub mdev: Uuid,
}

/// The AP host of a guest, and the guest's device on it. Any thread may call; what changes something may take as long as
/// cards take to reset, so the event loop's may not.
pub trait ApControl: Send + Sync {
    /// The host as it is.
    ///
    /// # Errors
    /// [`HostError::Remote`], when the host is another process and does not answer.
    fn snapshot(&self) -> Result<Snapshot, HostError>;

    /// Carries out an operation on the host.
    ///
    /// # Errors
    /// Those of the operation.
    fn execute(&self, operation: &Operation) -> Result<(), HostError>;

    /// Gives the guest a mediated device, which `device_del` is to call `id`, and tells it.
    ///
    /// # Errors
    /// [`HostError::SecondMdev`], and what keeps the host from giving it.
    fn plug(&self, device: Given, id: Option<String>) -> Result<(), HostError>;

    /// Whether the open file of a device can stand for it: simulated ones have none.
    fn takes_files(&self) -> bool {
        false
    }

    /// Takes the guest's mediated device, tells the guest, and resets the queues.
    ///
    /// # Errors
    /// [`HostError::NotAttached`], when it is not that device that the guest has.
    fn unplug(&self, device: &Plugged) -> Result<(), HostError>;

    /// The guest's device.
    fn plugged(&self) -> Option<Plugged>;

    /// Where the guest's AP configuration is not what the rules of vfio_ap give: errors, one line each. A simulated host
    /// cannot have any, since it is those rules.
    ///
    /// # Errors
    /// What keeps the host from being looked at.
    fn problems(&self) -> Result<Vec<String>, HostError> {
        Ok(Vec::new())
    }

    /// Tells `run` from now on what the guest may reach and could not before, and the other way round, whatever that comes of
    /// ([`Event::ApConfigChanged`](crate::events::Event)); and when the host takes the device back
    /// ([`Event::DeviceDeleted`](crate::events::Event)). The first call counts.
    fn report_to(&self, run: Arc<Control>);

    /// What happens on the host from now on; `wake` is called when there is something.
    fn subscribe(&self, wake: Wake) -> Watch;
}

/// The device of a simulated host that an operator gives.
///
/// # Errors
/// It is given by a file, which simulated devices do not have.
pub fn simulated(device: &Given) -> Result<Uuid, HostError> {
    let what = match device {
        Given::Name(MdevName::Uuid(mdev)) => return Ok(*mdev),
        Given::Name(name) => format!("sysfsdev: {name}"),
        Given::File(_) => "fd".to_owned(),
    };
    let message = format!(
        "{what}: the AP host is simulated, and its mdevs have no files that could be open or named; give sysfsdev with the UUID \
         of one of them (x-query-ap lists them)"
    );
    Err(HostError::Remote { errno: "ENODEV".into(), message })
}
