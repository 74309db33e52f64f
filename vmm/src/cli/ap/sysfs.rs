//! This machine's own AP host.

use std::time::Duration;

use ap::host::{Event, HostError, Operation, Snapshot};

use super::backend::Backend;

pub use ap::host::Sysfs;

/// How often the host is looked at by who watches it: the kernel announces its changes piece by piece, and not all.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Backend for Sysfs {
    fn snapshot(&mut self) -> Result<Snapshot, HostError> {
        Sysfs::snapshot(self)
    }

    fn execute(&mut self, operation: &Operation) -> Result<(), HostError> {
        Sysfs::execute(self, operation)
    }

    fn watch(&mut self, each: &mut dyn FnMut(&Event) -> bool) -> Result<(), HostError> {
        Sysfs::watch(self, LOOK_EVERY, each)
    }
}
