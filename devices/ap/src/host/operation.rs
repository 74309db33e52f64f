//! The operations of an administrator as data: the same from a command line, the daemon's socket and a guest's API.

use crycb::Apqn;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::number::queue_name;
use super::{ApHost, Attribute, Driver, HostError, LparChange, MaskAttribute, MdevDefinition};

/// Something that an administrator does to an AP host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "operation", deny_unknown_fields)]
pub enum Operation {
    /// [`ApHost::create_mdev`].
    CreateMdev {
        /// The device.
        mdev: Uuid,
    },
    /// [`ApHost::remove_mdev`].
    RemoveMdev {
        /// The device.
        mdev: Uuid,
    },
    /// [`ApHost::import`].
    Import {
        /// The device.
        mdev: Uuid,
        /// What mdevctl would be given.
        definition: MdevDefinition,
    },
    /// [`ApHost::write`].
    Write {
        /// The device.
        mdev: Uuid,
        /// The attribute and the text.
        attribute: Attribute,
    },
    /// [`ApHost::reset_device`].
    ResetDevice {
        /// The device.
        mdev: Uuid,
    },
    /// [`ApHost::write_mask`].
    WriteMask {
        /// Which mask.
        mask: MaskAttribute,
        /// The text.
        value: String,
    },
    /// [`ApHost::write_override`].
    DriverOverride {
        /// The queue.
        #[serde(with = "queue_name")]
        queue: Apqn,
        /// The driver's name; empty for none.
        driver: String,
    },
    /// [`ApHost::bind`].
    Bind {
        /// The queue.
        #[serde(with = "queue_name")]
        queue: Apqn,
        /// The driver.
        driver: Driver,
    },
    /// [`ApHost::unbind`].
    Unbind {
        /// The queue.
        #[serde(with = "queue_name")]
        queue: Apqn,
    },
    /// [`ApHost::configure`].
    Configure {
        /// All at once.
        changes: Vec<LparChange>,
    },
    /// [`ApHost::scan`].
    Scan,
}

impl ApHost {
    /// Carries out an operation.
    ///
    /// # Errors
    /// Those of the method that the operation names.
    pub fn execute(&self, operation: &Operation) -> Result<(), HostError> {
        match operation {
            Operation::CreateMdev { mdev } => self.create_mdev(*mdev),
            Operation::RemoveMdev { mdev } => self.remove_mdev(*mdev),
            Operation::Import { mdev, definition } => self.import(*mdev, definition),
            Operation::Write { mdev, attribute } => self.write(*mdev, attribute),
            Operation::ResetDevice { mdev } => self.reset_device(*mdev),
            Operation::WriteMask { mask, value } => self.write_mask(*mask, value),
            Operation::DriverOverride { queue, driver } => self.write_override(*queue, driver),
            Operation::Bind { queue, driver } => self.bind(*queue, *driver),
            Operation::Unbind { queue } => self.unbind(*queue),
            Operation::Configure { changes } => self.configure(changes),
            Operation::Scan => {
                self.scan();
                Ok(())
            }
        }
    }
}
