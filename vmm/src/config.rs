//! What to run: the flags of `adjunct run`, the configuration file, and the checked result.
//!
//! [`Options`] is both: clap reads it from the command line, serde from `--config FILE`. A flag
//! overrides the field of the same name. [`Options::resolve`] turns it into a [`Config`], whose values
//! have been checked as far as that is possible without opening anything.

mod schema;

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ap::passthrough::{BadName, MdevName};
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::log_file::check_filter;
use crate::metrics::MetricsTarget;
use crate::qmp::SocketAddress;
use crate::sandbox::Sandbox;

/// Most CPUs a guest may have: as many as READ CPU INFO names in one block.
pub const MAX_CPUS: u16 = 240;
/// Most guest storage: what a region-third table of the host maps with room to spare.
pub const MAX_MEMORY: u64 = 1 << 42;
/// Longest VM name in bytes: STSI 3.2.2 holds 256 with the terminating zero.
pub const MAX_NAME: usize = 255;
/// Longest command line kept; the kernel's own limit is checked by the loader.
const MAX_COMMAND_LINE: usize = 1 << 16;
/// The UUID that a run with virtual time has unless one is given: such a run is the same every time.
const FIXED_UUID: Uuid = Uuid::from_u128(0x6164_6a75_6e63_7400_8000_0000_0000_0001);

/// A bad argument: names the flag, what is wrong and what to give instead.
#[derive(Debug, thiserror::Error)]
#[error("{flag}: {problem}; {remedy}")]
pub struct BadArgument {
    /// The flag or configuration field.
    pub flag: &'static str,
    /// What is wrong with the value.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl BadArgument {
    /// `problem` with the value of `flag`, and the `remedy`.
    pub fn new(flag: &'static str, problem: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self { flag, problem: problem.to_string(), remedy: remedy.to_string() }
    }
}

/// The flags of `adjunct run`, which are the fields of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(transform = schema::constrain)]
pub struct Options {
    /// JSON file whose fields are these flags; a flag on the command line overrides its field
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Linux image (vmlinuz) or ELF executable for s390x to start
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// Initial RAM disk for a Linux kernel
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// Kernel command line
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub append: Option<String>,

    /// Guest storage, a multiple of 1M [default: 1G]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,

    /// Number of CPUs [default: 1]
    #[arg(long, value_name = "N")]
    pub cpus: Option<u16>,

    /// Who executes the guest: engine (software), kvm (s390x hosts), or auto: kvm where it can be opened [default: auto]
    #[arg(long, value_name = "WHO")]
    pub accel: Option<Accel>,

    /// CPU model: z10, z196, zec12, z13, z14, max [default: max]
    #[arg(long, value_name = "NAME")]
    pub cpu_model: Option<String>,

    /// Give the guest AP instructions, even if it gets crypto queues only later [default: with --ap-mdev or --ap-host]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub ap: Option<bool>,

    /// Give the guest the crypto queues of this mediated device of the AP host: UUID, its path in sysfs, or /dev/vfio/N
    #[arg(long, value_name = "MDEV")]
    pub ap_mdev: Option<String>,

    /// The simulated AP host: a JSON description, or unix:PATH of `adjunct ap-host serve` [default: a built-in one]
    #[arg(long, value_name = "FILE|unix:PATH")]
    pub ap_host: Option<PathBuf>,

    /// Name that the guest sees (STSI 3.2.2) [default: adjunct]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// UUID that the guest sees (STSI 3.2.2) [default: a random one]
    #[arg(long, value_name = "UUID")]
    pub uuid: Option<String>,

    /// Virtual time: the instruction count. One CPU; two runs of one guest are identical
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub icount: Option<bool>,

    /// What to log to standard error: LEVEL or MODULE=LEVEL, comma-separated [default: warn]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,

    /// How a log line looks: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// Log to the end of this file, which SIGHUP opens anew [default: standard error]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,

    /// Keep this process's number in this file
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,

    /// Seconds that the guest has to power off after SIGTERM [default: 20]
    #[arg(long, value_name = "SECONDS")]
    pub shutdown_timeout: Option<u32>,

    /// What this process gives up before the guest runs: on (all that it does not need), log (as on, but forbidden
    /// system calls are only logged), off [default: on]
    #[arg(long, value_name = "LEVEL")]
    pub sandbox: Option<Sandbox>,

    /// Tell figures in Prometheus' text format at a UNIX socket or in a file
    #[arg(long, value_name = "unix:PATH|file=PATH")]
    pub metrics: Option<String>,

    /// Where the guest's console is: stdio, none, file=PATH (output only), pty, unix:PATH [default: stdio]
    #[arg(long, value_name = "WHERE")]
    pub console: Option<String>,

    /// Which console the SCLP offers: vt220 (a terminal) or line-mode (operator messages) [default: vt220]
    #[arg(long, value_name = "TYPE")]
    pub console_type: Option<ConsoleType>,

    /// Take management clients (QMP) at this UNIX socket; may be given several times
    #[arg(long, value_name = "unix:PATH[,server=on][,wait=off]")]
    #[serde(default)]
    pub qmp: Vec<String>,

    /// What happens when the guest's watchdog (DIAGNOSE 288) runs out: reset, poweroff, none [default: reset]
    #[arg(long, value_name = "ACTION")]
    pub watchdog_action: Option<WatchdogAction>,
}

/// Who executes the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Accel {
    /// The host's KVM where it can be opened, else the software engine.
    #[default]
    Auto,
    /// The software engine.
    Engine,
    /// The host's KVM.
    Kvm,
}

/// What happens when the guest's watchdog runs out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WatchdogAction {
    /// The guest is loaded again.
    #[default]
    Reset,
    /// The run ends.
    Poweroff,
    /// Nothing but a log message.
    None,
}

/// Which console the SCLP offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ConsoleType {
    /// A terminal: bytes in both directions.
    #[default]
    Vt220,
    /// Operator messages and commands: lines in EBCDIC.
    LineMode,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// An object with time, level, target, thread and message.
    Json,
}

/// Where the guest's console is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleTarget {
    /// Standard input and output.
    Stdio,
    /// Output is discarded, input stays empty.
    None,
    /// Output goes to this file.
    File(PathBuf),
    /// A new pseudo-terminal, whose name is told.
    Pty,
    /// Whoever connects to this socket, several at a time.
    Socket(PathBuf),
}

impl FromStr for ConsoleTarget {
    type Err = BadArgument;

    fn from_str(text: &str) -> Result<Self, BadArgument> {
        match text.split_once('=') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "none" => Ok(Self::None),
            None if text == "pty" => Ok(Self::Pty),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ if text.starts_with("unix:") => socket_path("--console", text).map(Self::Socket),
            _ => Err(BadArgument::new(
                "--console",
                format_args!("'{text}' is no console"),
                "give stdio, none, file=PATH, pty or unix:PATH",
            )),
        }
    }
}

/// Where the AP host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostSource {
    /// In the guest's process, as this file describes it.
    File(PathBuf),
    /// In a daemon that listens at this socket.
    Daemon(PathBuf),
}

impl From<PathBuf> for HostSource {
    fn from(text: PathBuf) -> Self {
        match text.as_os_str().as_bytes().strip_prefix(b"unix:") {
            Some(path) => Self::Daemon(OsStr::from_bytes(path).into()),
            None => Self::File(text),
        }
    }
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The image to start.
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line, empty unless given.
    pub append: String,
    /// Guest storage in bytes, a multiple of 1 MiB.
    pub memory: u64,
    /// Number of CPUs, 1 to [`MAX_CPUS`].
    pub cpus: u16,
    /// Who executes the guest; never [`Accel::Kvm`] with virtual time.
    pub accel: Accel,
    /// Name of the CPU model; the CPU back end knows which exist.
    pub cpu_model: String,
    /// Whether the guest has AP instructions.
    pub ap: bool,
    /// Mediated device whose queues the guest gets.
    pub ap_mdev: Option<MdevName>,
    /// The AP host.
    pub ap_host: Option<HostSource>,
    /// Name that the guest sees.
    pub name: String,
    /// UUID that the guest sees.
    pub uuid: Uuid,
    /// Whether time is virtual.
    pub icount: bool,
    /// Log filter.
    pub log: String,
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Where the log goes, if not to standard error.
    pub log_file: Option<PathBuf>,
    /// Where this process's number is kept.
    pub pidfile: Option<PathBuf>,
    /// How long the guest may take to power off after SIGTERM.
    pub shutdown_timeout: Duration,
    /// What this process gives up.
    pub sandbox: Sandbox,
    /// Where figures are told.
    pub metrics: Option<MetricsTarget>,
    /// Where the console is.
    pub console: ConsoleTarget,
    /// Which console the SCLP offers.
    pub console_type: ConsoleType,
    /// Where management clients connect.
    pub qmp: Vec<SocketAddress>,
    /// What an expired watchdog does.
    pub watchdog_action: WatchdogAction,
}

impl Config {
    /// The files that a run makes, with the flags that name them.
    pub fn written(&self) -> Vec<(&'static str, &Path)> {
        let mut paths: Vec<(&'static str, &Path)> = Vec::new();
        paths.extend(self.log_file.iter().map(|path| ("--log-file", path.as_path())));
        paths.extend(self.pidfile.iter().map(|path| ("--pidfile", path.as_path())));
        paths.extend(self.qmp.iter().map(|address| ("--qmp", address.path.as_path())));
        paths.extend(self.metrics.iter().map(|target| match target {
            MetricsTarget::Socket(path) | MetricsTarget::File(path) => ("--metrics", path.as_path()),
        }));
        if let ConsoleTarget::File(path) | ConsoleTarget::Socket(path) = &self.console {
            paths.push(("--console", path));
        }
        paths
    }
}

impl Options {
    /// The JSON schema of the configuration file.
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(Self)
    }

    /// Reads a configuration file.
    pub fn from_file(path: &Path) -> Result<Self, BadArgument> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            BadArgument::new("--config", format_args!("read {}: {e}", path.display()), "give a readable file")
        })?;
        Self::from_json(&text)
            .map_err(|e| BadArgument { problem: format!("{}: {}", path.display(), e.problem), ..e })
    }

    fn from_json(text: &str) -> Result<Self, BadArgument> {
        let bad = |e| {
            BadArgument::new("--config", e, "its fields are the flags of `adjunct run` without the dashes")
        };
        let options = serde_json::from_str(text).map_err(bad)?;
        // Once more: a struct whose fields are options takes null for what is left out, and a list for itself.
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(bad)?;
        match fields.iter().find(|(_, value)| value.is_null()) {
            Some((name, _)) => Err(BadArgument::new(
                "--config",
                format_args!("{name}: null is no value"),
                "leave the field out",
            )),
            None => Ok(options),
        }
    }

    /// These options, and for what they leave open those of `file`.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        Self {
            config: self.config,
            kernel: self.kernel.or(file.kernel),
            initrd: self.initrd.or(file.initrd),
            append: self.append.or(file.append),
            memory: self.memory.or(file.memory),
            cpus: self.cpus.or(file.cpus),
            accel: self.accel.or(file.accel),
            cpu_model: self.cpu_model.or(file.cpu_model),
            ap: self.ap.or(file.ap),
            ap_mdev: self.ap_mdev.or(file.ap_mdev),
            ap_host: self.ap_host.or(file.ap_host),
            name: self.name.or(file.name),
            uuid: self.uuid.or(file.uuid),
            icount: self.icount.or(file.icount),
            log: self.log.or(file.log),
            log_format: self.log_format.or(file.log_format),
            log_file: self.log_file.or(file.log_file),
            pidfile: self.pidfile.or(file.pidfile),
            shutdown_timeout: self.shutdown_timeout.or(file.shutdown_timeout),
            sandbox: self.sandbox.or(file.sandbox),
            metrics: self.metrics.or(file.metrics),
            console: self.console.or(file.console),
            console_type: self.console_type.or(file.console_type),
            qmp: if self.qmp.is_empty() { file.qmp } else { self.qmp },
            watchdog_action: self.watchdog_action.or(file.watchdog_action),
        }
    }

    /// Reads the configuration file, if one is named, and checks everything.
    pub fn resolve(self) -> Result<Config, BadArgument> {
        let options = match &self.config {
            Some(path) => {
                let file = Self::from_file(path)?;
                self.or(file)
            }
            None => self,
        };
        options.check()
    }

    fn check(self) -> Result<Config, BadArgument> {
        let kernel = self.kernel.ok_or_else(|| {
            BadArgument::new("--kernel", "missing", "name a Linux image or an s390x ELF executable")
        })?;
        let append = self.append.unwrap_or_default();
        if append.contains('\0') || append.len() > MAX_COMMAND_LINE {
            let problem = "a command line of that length or with a zero byte";
            return Err(BadArgument::new("--append", problem, "shorten it"));
        }
        let cpus = self.cpus.unwrap_or(1);
        if !(1..=MAX_CPUS).contains(&cpus) {
            let remedy = format!("give 1 to {MAX_CPUS}");
            return Err(BadArgument::new("--cpus", format_args!("{cpus} CPUs"), remedy));
        }
        let icount = self.icount.unwrap_or(false);
        if icount && cpus != 1 {
            return Err(BadArgument::new(
                "--icount",
                format_args!("{cpus} CPUs cannot share one instruction count"),
                "give --cpus 1 or leave out --icount",
            ));
        }
        let accel = match self.accel.unwrap_or_default() {
            Accel::Auto if icount => Accel::Engine,
            Accel::Kvm if icount => {
                return Err(BadArgument::new(
                    "--icount",
                    "KVM counts no instructions",
                    "give --accel engine or leave out --icount",
                ));
            }
            accel => accel,
        };
        let name = self.name.unwrap_or_else(|| "adjunct".into());
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            let remedy = format!("give 1 to {MAX_NAME} bytes of printable text");
            return Err(BadArgument::new("--name", format_args!("{name:?}"), remedy));
        }
        let uuid = match &self.uuid {
            Some(text) => parse_uuid("--uuid", text)?,
            None if icount => FIXED_UUID,
            None => Uuid::new_v4(),
        };
        let ap = self.ap.unwrap_or(self.ap_mdev.is_some() || self.ap_host.is_some());
        if !ap && (self.ap_mdev.is_some() || self.ap_host.is_some()) {
            let problem = "a guest without AP has no use for --ap-mdev and --ap-host";
            return Err(BadArgument::new("--ap=false", problem, "leave out one or the other"));
        }
        let ap_host = self.ap_host.map(HostSource::from);
        if let (true, Some(HostSource::Daemon(_))) = (icount, &ap_host) {
            let problem = "a daemon's orders come at no virtual time, so that no two runs would be the same";
            return Err(BadArgument::new("--ap-host", problem, "name a file or leave out --icount"));
        }
        let log = self.log.unwrap_or_else(|| "warn".into());
        check_filter(&log)?;
        let config = Config {
            kernel,
            initrd: self.initrd,
            append,
            memory: parse_memory(self.memory.as_deref().unwrap_or("1G"))?,
            cpus,
            accel,
            cpu_model: self.cpu_model.unwrap_or_else(|| "max".into()),
            ap,
            ap_mdev: self
                .ap_mdev
                .map(|text| text.parse().map_err(|e| BadArgument::new("--ap-mdev", e, BadName::REMEDY)))
                .transpose()?,
            ap_host,
            name,
            uuid,
            icount,
            log,
            log_format: self.log_format.unwrap_or_default(),
            log_file: self.log_file,
            pidfile: self.pidfile,
            shutdown_timeout: Duration::from_secs(self.shutdown_timeout.unwrap_or(20).into()),
            sandbox: self.sandbox.unwrap_or_default(),
            metrics: self.metrics.as_deref().map(metrics_target).transpose()?,
            console: self.console.as_deref().unwrap_or("stdio").parse()?,
            console_type: self.console_type.unwrap_or_default(),
            qmp: self.qmp.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            watchdog_action: self.watchdog_action.unwrap_or_default(),
        };
        each_file_once(&config)?;
        Ok(config)
    }
}

/// Whether no two flags make the same file. Devices, as /dev/null, may take what several write.
fn each_file_once(config: &Config) -> Result<(), BadArgument> {
    let mut seen: Vec<(&'static str, PathBuf)> = Vec::new();
    for (flag, path) in config.written() {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if path.starts_with("/dev") {
            continue;
        }
        if let Some((other, _)) = seen.iter().find(|(_, other)| *other == path) {
            let problem = format!("{} is that of another {other} already", path.display());
            return Err(BadArgument::new(flag, problem, "name another path"));
        }
        seen.push((flag, path));
    }
    Ok(())
}

/// Longest path of a socket in bytes: what a `sockaddr_un` holds with its zero.
pub(crate) const LONGEST_SOCKET_PATH: usize = 107;

/// The path of `unix:PATH`.
fn socket_path(flag: &'static str, text: &str) -> Result<PathBuf, BadArgument> {
    let path = text.strip_prefix("unix:").unwrap_or_default();
    if path.is_empty() || path.len() > LONGEST_SOCKET_PATH {
        let problem =
            format_args!("the path in '{text}' does not have 1 to {LONGEST_SOCKET_PATH} bytes").to_string();
        return Err(BadArgument::new(flag, problem, "give unix:PATH"));
    }
    Ok(path.into())
}

fn metrics_target(text: &str) -> Result<MetricsTarget, BadArgument> {
    match text.split_once('=') {
        Some(("file", path)) if !path.is_empty() => Ok(MetricsTarget::File(path.into())),
        _ if text.starts_with("unix:") => socket_path("--metrics", text).map(MetricsTarget::Socket),
        _ => {
            let problem = format_args!("'{text}' is no place for figures").to_string();
            Err(BadArgument::new("--metrics", problem, "give unix:PATH or file=PATH"))
        }
    }
}

fn parse_uuid(flag: &'static str, text: &str) -> Result<Uuid, BadArgument> {
    Uuid::parse_str(text).map_err(|e| {
        BadArgument::new(
            flag,
            format_args!("'{text}' is no UUID ({e})"),
            "write it like 62177883-f1bb-47f0-914d-32a22e3a8804",
        )
    })
}

/// A size with the unit K, M, G or T (also KiB and so on), a multiple of 1 MiB.
fn parse_memory(text: &str) -> Result<u64, BadArgument> {
    let bad =
        |problem: String| BadArgument::new("--memory", problem, "give a multiple of 1M, as in 512M or 1G");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_suffix("iB").unwrap_or(unit);
    let shift = match unit {
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        "" => return Err(bad(format!("'{text}' has no unit"))),
        _ => return Err(bad(format!("'{text}' is no size"))),
    };
    let size = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| bad(format!("'{text}' is no size")))?;
    if size == 0 || size % (1 << 20) != 0 {
        return Err(bad(format!("'{text}' is not a multiple of 1M above zero")));
    }
    if size > MAX_MEMORY {
        let remedy = format!("give at most {}T", MAX_MEMORY >> 40);
        return Err(BadArgument::new("--memory", format_args!("'{text}' is too much"), remedy));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(json: &str) -> Result<Config, String> {
        Options::from_json(json).and_then(Options::check).map_err(|e| e.to_string())
    }

    fn check_error(json: &str, want: &[&str]) {
        let error = options(json).expect_err(json);
        for part in want {
            assert!(error.contains(part), "{json}: {error:?} lacks {part:?}");
        }
    }

    #[test]
    fn defaults() {
        let config = options(r#"{"kernel": "k"}"#).unwrap();
        assert_eq!((config.memory, config.cpus, config.cpu_model.as_str()), (1 << 30, 1, "max"));
        assert_eq!((config.name.as_str(), config.append.as_str()), ("adjunct", ""));
        assert_eq!((config.console, config.accel), (ConsoleTarget::Stdio, Accel::Auto));
        assert_eq!(options(r#"{"kernel": "k", "icount": true}"#).unwrap().accel, Accel::Engine);
        assert_ne!(config.uuid, options(r#"{"kernel": "k"}"#).unwrap().uuid, "random");
        let host = |json: &str| options(json).unwrap().ap_host;
        assert_eq!(host(r#"{"kernel": "k", "ap-host": "unix"}"#), Some(HostSource::File("unix".into())));
        let daemon = host(r#"{"kernel": "k", "ap-host": "unix:a:b"}"#);
        assert_eq!(daemon, Some(HostSource::Daemon("a:b".into())));
        let fixed = |_| options(r#"{"kernel": "k", "icount": true}"#).unwrap().uuid;
        assert_eq!(fixed(0), fixed(1), "a reproducible run has no random identity");
    }

    #[test]
    fn flags_override_the_file() {
        let file =
            Options::from_json(r#"{"kernel": "a", "cpus": 3, "ap-mdev": "x", "console": "none"}"#).unwrap();
        let flags = Options { kernel: Some("b".into()), icount: Some(false), ..Options::default() };
        let both = flags.or(file);
        assert_eq!(both.kernel.as_deref(), Some(Path::new("b")));
        assert_eq!((both.cpus, both.icount, both.console.as_deref()), (Some(3), Some(false), Some("none")));
    }

    #[test]
    fn a_file_names_itself_in_its_errors() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, r#"{"kernal": "k"}"#).unwrap();
        let error = Options { config: Some(file.path().into()), ..Options::default() }.resolve().unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&file.path().display().to_string()), "{text}");
        assert!(text.contains("unknown field `kernal`"), "{text}");

        let gone = Options { config: Some("/nonexistent/x".into()), ..Options::default() }.resolve();
        assert!(gone.unwrap_err().to_string().starts_with("--config: read /nonexistent/x: "));
    }

    #[test]
    fn each_bad_argument_is_named_with_its_remedy() {
        for (json, want) in [
            (r#"{}"#, ["--kernel: missing", "name a Linux image"]),
            (r#"{"kernel": "k", "memory": "512"}"#, ["--memory: '512' has no unit", "512M"]),
            (r#"{"kernel": "k", "memory": "1X"}"#, ["--memory: '1X' is no size", "1G"]),
            (r#"{"kernel": "k", "memory": "0M"}"#, ["not a multiple", "--memory"]),
            (r#"{"kernel": "k", "memory": "1025K"}"#, ["not a multiple", "--memory"]),
            (r#"{"kernel": "k", "memory": "99999999999999999999G"}"#, ["no size", "--memory"]),
            (r#"{"kernel": "k", "memory": "9T"}"#, ["too much", "at most 4T"]),
            (r#"{"kernel": "k", "cpus": 0}"#, ["--cpus: 0 CPUs", "1 to 240"]),
            (r#"{"kernel": "k", "cpus": 241}"#, ["--cpus: 241 CPUs", "1 to 240"]),
            (r#"{"kernel": "k", "cpus": 2, "icount": true}"#, ["--icount: 2 CPUs", "--cpus 1"]),
            (r#"{"kernel": "k", "accel": "kvm", "icount": true}"#, ["--icount: KVM", "--accel engine"]),
            (r#"{"kernel": "k", "accel": "tcg"}"#, ["--config: unknown variant `tcg`", "`kvm`"]),
            (r#"{"kernel": "k", "ap-mdev": "5"}"#, ["--ap-mdev: \"5\" names no mediated device", "62177883"]),
            (r#"{"kernel": "k", "uuid": "z"}"#, ["--uuid: 'z' is no UUID", "write it like"]),
            (r#"{"kernel": "k", "ap-host": "f", "ap": false}"#, ["--ap=false", "--ap-host"]),
            (
                r#"{"kernel": "k", "ap-host": "unix:s", "icount": true}"#,
                ["--ap-host: ", "leave out --icount"],
            ),
            (r#"{"kernel": "k", "name": ""}"#, ["--name", "printable"]),
            (r#"{"kernel": "k", "console": "tty"}"#, ["--console: 'tty'", "file=PATH"]),
            (r#"{"kernel": "k", "console": "unix:"}"#, ["--console: the path in 'unix:'", "give unix:PATH"]),
            (r#"{"kernel": "k", "metrics": "tcp:1"}"#, ["--metrics: 'tcp:1'", "unix:PATH or file=PATH"]),
            (r#"{"kernel": "k", "log": "loud"}"#, ["--log: 'loud' is no level", "MODULE=LEVEL"]),
            (r#"{"kernel": "k", "log-format": "xml"}"#, ["--config: unknown variant `xml`", "`json`"]),
            (r#"{"kernel": "k", "qmp": ["tcp:h"]}"#, ["--qmp: 'tcp:h'", "give unix:PATH"]),
            (r#"{"kernel": 5}"#, ["--config", "flags of `adjunct run`"]),
            (r#"{"kernel": "k", "cpus": null}"#, ["--config: cpus: null is no value", "leave the field out"]),
            (r#"[]"#, ["--config", "flags of `adjunct run`"]),
            (
                r#"{"kernel": "k", "qmp": ["unix:a", "unix:b", "unix:./a,server=on"]}"#,
                ["--qmp: ", "is that of another --qmp already; name another path"],
            ),
            (
                r#"{"kernel": "k", "metrics": "unix:a", "console": "unix:a"}"#,
                ["--console: ", "that of another --metrics"],
            ),
        ] {
            check_error(json, &want);
        }
    }

    #[test]
    fn sizes() {
        for (text, size) in
            [("1M", 1 << 20), ("1G", 1 << 30), ("2048K", 1 << 21), ("4T", 1 << 42), ("3GiB", 3 << 30)]
        {
            assert_eq!(parse_memory(text).unwrap(), size, "{text}");
        }
    }
}
