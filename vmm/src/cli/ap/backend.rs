//! The hosts that `adjunct ap` reaches.

use std::path::{Path, PathBuf};

use ap::host::remote::{Client, RemoteError};
use ap::host::{ApHost, Description, Event, HostError, Operation, Snapshot};

use uuid::Uuid;

use super::guest::GuestHost;
use super::sysfs::Sysfs;

/// A host as an operator reaches it.
pub trait Backend {
    /// Its state.
    fn snapshot(&mut self) -> Result<Snapshot, HostError>;

    /// Carries an operation out.
    fn execute(&mut self, operation: &Operation) -> Result<(), HostError>;

    /// The mediated device of the guest that the host was reached through.
    fn own_mdev(&mut self) -> Result<Option<Uuid>, HostError> {
        Ok(None)
    }

    /// Calls `each` for every event until it answers false.
    fn watch(&mut self, each: &mut dyn FnMut(&Event) -> bool) -> Result<(), HostError>;
}

/// Where the host is, as the flags say.
#[derive(Clone, Debug)]
pub struct Place {
    pub host: Option<String>,
    pub guest: Option<String>,
    pub description: Option<PathBuf>,
    pub sysfs: PathBuf,
}

impl Place {
    /// Where sysfs is, if nothing is said.
    pub const SYSFS: &str = "/sys";

    /// The flags that name this place: a command that is to do something here needs them.
    pub fn flags(&self) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let (flag, value) = match self {
            Self { description: Some(file), .. } => ("--description", path(file)),
            Self { guest: Some(address), .. } => ("--guest", address.clone()),
            Self { host: Some(address), .. } => ("--host", address.clone()),
            Self { sysfs, .. } if *sysfs != Path::new(Self::SYSFS) => ("--sysfs", path(sysfs)),
            _ => return Vec::new(),
        };
        vec![flag.to_owned(), value]
    }
}

/// Reaches the host.
pub fn open(place: &Place) -> Result<Box<dyn Backend>, HostError> {
    if let Some(path) = &place.description {
        return Ok(Box::new(Described::read(path)?));
    }
    if let Some(address) = &place.guest {
        return Ok(Box::new(GuestHost::connect(address)?));
    }
    if let Some(address) = &place.host {
        let path = address.strip_prefix("unix:").ok_or_else(|| {
            remote(
                "EINVAL",
                format!("--host {address}: not unix:PATH, the socket of `adjunct ap-host serve`"),
            )
        })?;
        return Ok(Box::new(Daemon {
            path: path.into(),
            client: Client::connect(path.as_ref()).map_err(unreached)?,
        }));
    }
    if place.sysfs.join("bus/ap").is_dir() {
        return Ok(Box::new(Sysfs::new(place.sysfs.clone())));
    }
    Err(remote(
        "ENODEV",
        format!(
            "{}: this machine has no AP bus; name a daemon (--host unix:PATH, `adjunct ap-host serve` starts one), \
             a running guest (--guest unix:PATH, its `--qmp`) or a description (--description FILE)",
            place.sysfs.join("bus/ap").display()
        ),
    ))
}

pub fn remote(errno: &str, message: String) -> HostError {
    HostError::Remote { errno: errno.to_owned(), message }
}

/// A daemon's host.
struct Daemon {
    path: PathBuf,
    client: Client,
}

impl Backend for Daemon {
    fn snapshot(&mut self) -> Result<Snapshot, HostError> {
        self.client.snapshot().map_err(unreached)
    }

    fn execute(&mut self, operation: &Operation) -> Result<(), HostError> {
        self.client.execute(operation).map_err(unreached)
    }

    fn watch(&mut self, each: &mut dyn FnMut(&Event) -> bool) -> Result<(), HostError> {
        for event in Client::connect(&self.path).and_then(Client::subscribe).map_err(unreached)? {
            if !each(&event.map_err(unreached)?) {
                break;
            }
        }
        Ok(())
    }
}

fn unreached(error: RemoteError) -> HostError {
    match error {
        RemoteError::Refused(refusal) => refusal,
        other => {
            let errno = match &other {
                RemoteError::Connect { .. } => "ECONNREFUSED",
                RemoteError::Nonsense(_) => "EPROTO",
                _ => "EPIPE",
            };
            let source = std::error::Error::source(&other).map(|e| format!(": {e}")).unwrap_or_default();
            remote(errno, format!("{other}{source}"))
        }
    }
}

/// A host that does not exist: what its description would make.
struct Described {
    path: PathBuf,
    host: ApHost,
}

impl Described {
    fn read(path: &Path) -> Result<Self, HostError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| HostError::Description(format!("read {}: {e}", path.display())))?;
        let description = Description::from_json(&text)?;
        Ok(Self { path: path.to_owned(), host: ApHost::rehearsal_of(&description) })
    }

    fn only_a_description(&self) -> HostError {
        let message = format!(
            "{}: a description does nothing; `plan` tells what a change would do, and `adjunct ap-host serve --description` \
             makes a host of it",
            self.path.display()
        );
        remote("EROFS", message)
    }
}

impl Backend for Described {
    fn snapshot(&mut self) -> Result<Snapshot, HostError> {
        Ok(self.host.snapshot())
    }

    fn execute(&mut self, _: &Operation) -> Result<(), HostError> {
        Err(self.only_a_description())
    }

    fn watch(&mut self, _: &mut dyn FnMut(&Event) -> bool) -> Result<(), HostError> {
        Err(self.only_a_description())
    }
}
