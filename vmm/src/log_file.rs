//! Files that grow and that somebody else may move away: logs, and the console's output in a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::{LevelFilter, Record};
use serde_json::json;

use crate::config::{BadArgument, LogFormat};

/// A file that is written at its end, and that [`reopen`](Self::reopen) makes anew after it was moved away.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl LogFile {
    /// Opens or makes the file; `truncate` drops what it has.
    ///
    /// # Errors
    /// The host's.
    pub fn open(path: &Path, truncate: bool) -> io::Result<Self> {
        let file = open(path)?;
        if truncate && file.metadata()?.is_file() {
            file.set_len(0)?;
        }
        Ok(Self { path: path.into(), file: Mutex::new(file) })
    }

    /// From now on writes to whatever has the name now. If that cannot be opened, all stays as it is.
    pub fn reopen(&self) {
        match open(&self.path) {
            Ok(file) => *self.file() = file,
            Err(e) => log::warn!("reopen {}: {e}; the old file is written on", self.path.display()),
        }
    }

    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// A writer to a [`LogFile`] that others reopen.
#[derive(Debug)]
pub struct LogWriter(pub Arc<LogFile>);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.file().flush()
    }
}

/// Starts the log of this process: `filter` is a level or `MODULE=LEVEL`, comma-separated; without a file it goes to
/// standard error.
///
/// # Errors
/// The filter has a part that is no level.
pub fn start_log(filter: &str, format: LogFormat, file: Option<Arc<LogFile>>) -> Result<(), BadArgument> {
    check_filter(filter)?;
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(filter);
    builder.target(match file {
        Some(file) => env_logger::Target::Pipe(Box::new(LogWriter(file))),
        None => env_logger::Target::Stderr,
    });
    if format == LogFormat::Json {
        builder.format(|out, record| {
            let time = out.timestamp_micros().to_string();
            writeln!(out, "{}", json_line(&time, record))
        });
    }
    builder.init();
    Ok(())
}

/// Whether `filter` is one.
pub(crate) fn check_filter(filter: &str) -> Result<(), BadArgument> {
    for part in filter.split(',') {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        level.parse::<LevelFilter>().map_err(|_| {
            let remedy = "give off, error, warn, info, debug or trace, or MODULE=LEVEL, comma-separated";
            BadArgument::new("--log", format_args!("'{part}' is no level"), remedy)
        })?;
    }
    Ok(())
}

fn json_line(time: &str, record: &Record<'_>) -> serde_json::Value {
    json!({
        "time": time,
        "level": record.level().as_str(),
        "target": record.target(),
        "thread": std::thread::current().name(),
        "message": record.args().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        fs::write(&path, "before ").unwrap();
        let file = Arc::new(LogFile::open(&path, false).unwrap());
        let mut writer = LogWriter(file.clone());
        writer.write_all(b"one ").unwrap();
        fs::rename(&path, &moved).unwrap();
        writer.write_all(b"two").unwrap();
        file.reopen();
        writer.write_all(b"three").unwrap();
        assert_eq!(fs::read_to_string(&moved).unwrap(), "before one two");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");

        fs::remove_dir_all(dir.path()).unwrap();
        file.reopen();
        writer.write_all(b"into the old one").unwrap();
    }

    #[test]
    fn truncated_on_request() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "old").unwrap();
        LogWriter(Arc::new(LogFile::open(file.path(), true).unwrap())).write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "new");
        // Devices have no length.
        LogFile::open(Path::new("/dev/null"), true).unwrap();
    }

    #[test]
    fn a_line_of_json_is_one_line() {
        let record =
            Record::builder().level(log::Level::Warn).target("vmm::x").args(format_args!("a\n\"b\"")).build();
        let text = json_line("2026-01-01T00:00:00Z", &record).to_string();
        assert!(!text.contains('\n'), "{text}");
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&back["level"], &back["message"]), (&json!("WARN"), &json!("a\n\"b\"")));
    }

    #[test]
    fn filters() {
        for (filter, good) in
            [("warn", true), ("ap=trace,vmm::qmp=off,info", true), ("", false), ("x=loud", false)]
        {
            assert_eq!(check_filter(filter).is_ok(), good, "{filter}");
        }
    }
}
