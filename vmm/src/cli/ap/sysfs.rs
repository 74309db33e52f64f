//! This machine's own AP host.

use ap::host::{Event, HostError, Operation, Snapshot};

use super::backend::{Backend, remote};

pub use ap::host::Sysfs;

impl Backend for Sysfs {
    fn snapshot(&mut self) -> Result<Snapshot, HostError> {
        Sysfs::snapshot(self)
    }

    fn execute(&mut self, operation: &Operation) -> Result<(), HostError> {
        Sysfs::execute(self, operation)
    }

    fn watch(&mut self, _: &mut dyn FnMut(&Event) -> bool) -> Result<(), HostError> {
        Err(remote(
            "EOPNOTSUPP",
            "a real host does not let an operator watch the host; `udevadm monitor --subsystem-match=ap --property` shows \
             what it announces"
                .to_owned(),
        ))
    }
}
