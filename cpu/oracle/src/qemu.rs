//! The emulator's process and the dialogue with the driver inside it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::layout::{self, CAPACITY, COUNT, DOORBELL, READY, RECORD_SIZE, RECORDS, REMAINING, STORAGE_SIZE};
use crate::{Answer, Case, Outcome};

/// The oldest version whose answers are worth having; 7.2 has many CPU errors.
const OLDEST: u32 = 10;
/// A case without progress for so long has hung.
const CASE_TIMEOUT: Duration = Duration::from_secs(5);
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no oracle. A test prints it as the reason why it was skipped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program named by `ADJUNCT_QEMU`, or `qemu-system-s390x`, does not run.
    #[error("cannot run {program:?}: {source}")]
    NotFound {
        /// What was tried.
        program: OsString,
        /// The host's reason.
        source: io::Error,
    },
    /// The program is no QEMU, or older than version 10.
    #[error("{program:?} is {found:?}, but version {OLDEST} or newer is needed")]
    Unsuitable {
        /// What was tried.
        program: OsString,
        /// The first line it prints about itself.
        found: String,
    },
    /// The emulator ended, or stayed silent, before the driver was ready.
    #[error("the emulator did not start: {0}")]
    NotStarted(String),
    /// The shared memory or the driver's image could not be made, or is not accessible.
    #[error("shared memory: {0}")]
    Memory(#[from] io::Error),
}

/// A running emulator that answers cases. Dropping it ends the emulator.
pub struct Oracle {
    program: OsString,
    version: String,
    emulator: Emulator,
}

impl Oracle {
    /// Finds the emulator and starts it with the driver.
    ///
    /// # Errors
    /// Every reason why there can be no oracle on this host.
    pub fn start() -> Result<Oracle, Error> {
        let program = std::env::var_os("ADJUNCT_QEMU").unwrap_or_else(|| "qemu-system-s390x".into());
        let output = match Command::new(&program).arg("--version").stdin(Stdio::null()).output() {
            Ok(output) => {
                String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
            }
            Err(source) => return Err(Error::NotFound { program, source }),
        };
        if major_version(&output).is_none_or(|version| version < OLDEST) {
            return Err(Error::Unsuitable { program, found: output });
        }
        let emulator = Emulator::start(&program)?;
        Ok(Oracle { program, version: output, emulator })
    }

    /// What the emulator prints about itself.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Executes each case; the answers are in the same order. A case that hangs or kills the emulator is answered
    /// as such, and the next one finds a new emulator.
    ///
    /// # Errors
    /// `Memory` and `NotStarted`, when the host fails us.
    pub fn run(&mut self, cases: &[Case]) -> Result<Vec<Answer>, Error> {
        let mut answers = Vec::with_capacity(cases.len());
        while answers.len() < cases.len() {
            let rest = &cases[answers.len()..];
            let batch = &rest[..rest.len().min(CAPACITY)];
            if !self.emulator.alive() {
                self.emulator = Emulator::start(&self.program)?;
            }
            let failure = self.emulator.run(batch, &mut answers)?;
            if let Some(outcome) = failure {
                let case = &cases[answers.len()];
                answers.push(Answer {
                    outcome,
                    state: case.state.clone(),
                    address: layout::SLOT,
                    lowcore: [0; 64],
                });
                self.emulator = Emulator::start(&self.program)?;
            }
        }
        Ok(answers)
    }
}

/// "QEMU emulator version 10.0.2 (...)": 10.
fn major_version(line: &str) -> Option<u32> {
    line.split_once("version ")?.1.split('.').next()?.parse().ok()
}

/// One process and the file that is its storage.
struct Emulator {
    process: Child,
    storage: File,
    buffer: Vec<u8>,
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Emulator {
    fn start(program: &OsString) -> Result<Emulator, Error> {
        let shared = Path::new("/dev/shm");
        let directory = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let storage = tempfile::Builder::new().prefix("oracle-").tempfile_in(directory)?;
        storage.as_file().set_len(STORAGE_SIZE)?;
        let image = tempfile::Builder::new().prefix("oracle-").suffix(".img").tempfile()?;
        image.as_file().write_all_at(layout::DRIVER, 0)?;
        let errors = tempfile::tempfile()?;

        let backend = format!(
            "memory-backend-file,id=mem,share=on,size={STORAGE_SIZE},mem-path={}",
            storage.path().display()
        );
        let process = Command::new(program)
            .args(["-M", "s390-ccw-virtio,memory-backend=mem", "-accel", "tcg", "-cpu", "max", "-smp", "1"])
            .args(["-m", &format!("{}M", STORAGE_SIZE >> 20), "-object", &backend])
            .args(["-nodefaults", "-display", "none", "-monitor", "none", "-serial", "none", "-kernel"])
            .arg(image.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors.try_clone()?)
            .spawn()
            .map_err(|source| Error::NotFound { program: program.clone(), source })?;
        // Both names can go once the driver runs: the emulator has the storage open and the image loaded.
        let mut emulator = Emulator { process, storage: storage.reopen()?, buffer: Vec::new() };
        let deadline = Instant::now() + START_TIMEOUT;
        while emulator.word(READY)? != 1 {
            if !emulator.alive() {
                let mut text = vec![0; 1000];
                let length = errors.read_at(&mut text, 0)?;
                return Err(Error::NotStarted(String::from_utf8_lossy(&text[..length]).trim().to_owned()));
            }
            if Instant::now() > deadline {
                return Err(Error::NotStarted("the driver does not report".into()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        for (address, bytes) in layout::driver_storage() {
            emulator.storage.write_all_at(&bytes, address)?;
        }
        Ok(emulator)
    }

    fn alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Runs a batch and appends its answers, up to a case that fails to end; says how that one failed.
    fn run(&mut self, batch: &[Case], answers: &mut Vec<Answer>) -> Result<Option<Outcome>, Error> {
        self.buffer.resize(batch.len() * RECORD_SIZE, 0);
        for (case, record) in batch.iter().zip(self.buffer.chunks_exact_mut(RECORD_SIZE)) {
            layout::encode(case, record);
        }
        self.storage.write_all_at(&self.buffer, RECORDS)?;
        let total = batch.len() as u64;
        self.set_word(REMAINING, total)?;
        self.set_word(COUNT, total)?;
        self.set_word(DOORBELL, 1)?;

        let mut progress = (total, Instant::now());
        let mut failure = None;
        while self.word(DOORBELL)? != 0 {
            std::thread::sleep(Duration::from_micros(200));
            let remaining = self.word(REMAINING)?;
            if remaining != progress.0 {
                progress = (remaining, Instant::now());
            } else if !self.alive() {
                failure = Some(Outcome::Died);
                break;
            } else if progress.1.elapsed() > CASE_TIMEOUT {
                failure = Some(Outcome::Hung);
                break;
            }
        }
        let done =
            if failure.is_some() { total - self.word(REMAINING)?.clamp(1, total) } else { total } as usize;
        self.buffer.truncate(done * RECORD_SIZE);
        self.storage.read_exact_at(&mut self.buffer, RECORDS)?;
        let records = self.buffer.chunks_exact(RECORD_SIZE);
        answers.extend(batch.iter().zip(records).map(|(case, record)| layout::decode(case, record)));
        Ok(failure)
    }

    fn word(&self, address: u64) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.storage.read_exact_at(&mut bytes, address)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn set_word(&self, address: u64, value: u64) -> Result<(), Error> {
        Ok(self.storage.write_all_at(&value.to_be_bytes(), address)?)
    }
}
