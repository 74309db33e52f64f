//! What service managers expect of a process: a file with its number, and word when it is ready, alive and stopping.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use sd_notify::NotifyState;

/// A file with the number of this process, locked as long as it lives and removed with this.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    _lock: File,
}

impl PidFile {
    /// Makes the file. One that a dead process left there is taken over.
    ///
    /// # Errors
    /// Another process that lives has it, or the host refuses.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
            rustix::io::Errno::WOULDBLOCK => {
                let owner = fs::read_to_string(path).unwrap_or_default();
                io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!("process {} lives and has it; give another path", owner.trim()),
                )
            }
            e => e.into(),
        })?;
        file.set_len(0)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
        Ok(Self { path: path.into(), _lock: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.path) {
            log::warn!("remove {}: {e}", self.path.display());
        }
    }
}

/// Tells systemd, if it asks (`$NOTIFY_SOCKET`).
pub(crate) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("the guest runs")]);
}

/// As [`ready`]: this process ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// As [`ready`]: this process lives.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often systemd wants to hear that this process lives, with time to spare.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    // Zero would stop the timer that is set to this.
    sd_notify::watchdog_enabled().map(|limit| (limit / 3).max(Duration::from_millis(1)))
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(what) {
        log::warn!("tell systemd {what:?}: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_number_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        fs::write(&path, "1234567890 and more of a dead process").unwrap();
        let own = format!("{}\n", std::process::id());
        let file = PidFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own);
        let error = PidFile::create(&path).unwrap_err().to_string();
        assert_eq!(error, format!("process {} lives and has it; give another path", own.trim()));
        assert_eq!(fs::read_to_string(&path).unwrap(), own);
        drop(file);
        assert!(!path.exists());
        PidFile::create(&path).unwrap();
    }
}
