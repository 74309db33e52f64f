//! `--metrics`: what happens in figures, as Prometheus reads them, at a UNIX socket or in a file.
//!
//! A thread of its own answers one client after the other, so that figures that take time hold up nobody but those who
//! want figures. A client speaks HTTP (a GET of anything), or sends nothing and closes its side.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ap::host::QueueState;

use crate::ap_control::ApControl;
use crate::board::Board;
use crate::devices::Devices;
use crate::listener::{ListenError, Listener};
use crate::qmp::Counters;

/// How often a file is written.
pub const FILE_EVERY: Duration = Duration::from_secs(10);
/// How long one client may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest request taken.
const LONGEST_REQUEST: usize = 8192;

/// Where the figures go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsTarget {
    /// Whoever connects to this socket.
    Socket(PathBuf),
    /// This file, replaced every [`FILE_EVERY`].
    File(PathBuf),
}

/// The exporter, before the guest runs.
#[derive(Debug)]
pub struct Exporter {
    to: To,
    process: Process,
}

#[derive(Debug)]
enum To {
    Socket(Listener),
    File(PathBuf),
}

/// The exporter at work; its socket or file goes away with this.
#[derive(Debug)]
pub(crate) struct Exporting {
    _listener: Option<Listener>,
    file: Option<PathBuf>,
}

impl Drop for Exporting {
    fn drop(&mut self) {
        // Figures of a guest that is gone would be taken for those of one that stands still.
        if let Some(Err(e)) = self.file.as_ref().map(fs::remove_file) {
            log::debug!("remove the metrics: {e}");
        }
    }
}

impl Exporter {
    /// Takes the socket; a file is written once the guest runs.
    ///
    /// # Errors
    /// The socket cannot be had.
    pub fn new(target: &MetricsTarget) -> Result<Self, ListenError> {
        let to = match target {
            MetricsTarget::Socket(path) => To::Socket(Listener::bind("--metrics", path)?),
            MetricsTarget::File(path) => To::File(path.clone()),
        };
        Ok(Self { to, process: Process::open() })
    }

    /// Starts the thread; `enter` is the first thing that it does.
    pub(crate) fn start(
        self,
        board: &Arc<Board>,
        enter: impl FnOnce() + Send + 'static,
    ) -> io::Result<Exporting> {
        let figures = Figures { board: Arc::downgrade(board), process: self.process, since: Instant::now() };
        let thread = std::thread::Builder::new().name("metrics".into());
        Ok(match self.to {
            To::Socket(listener) => {
                let socket = listener.socket.try_clone()?;
                socket.set_nonblocking(false)?;
                thread.spawn(move || {
                    enter();
                    for client in socket.incoming() {
                        let Some(text) = figures.text() else { return };
                        match client {
                            // A client that has gone is not our trouble.
                            Ok(client) => drop(answer(&client, &text)),
                            // Most likely out of descriptors.
                            Err(e) => {
                                log::debug!("take a connection of the metrics' socket: {e}");
                                std::thread::sleep(PATIENCE);
                            }
                        }
                    }
                })?;
                Exporting { _listener: Some(listener), file: None }
            }
            To::File(path) => {
                let file = Some(path.clone());
                thread.spawn(move || {
                    enter();
                    let mut warned = false;
                    while let Some(text) = figures.text() {
                        let written = replace(&path, &text);
                        if let Err(e) = &written
                            && !warned
                        {
                            log::warn!("write {}: {e}", path.display());
                        }
                        warned = written.is_err();
                        std::thread::sleep(FILE_EVERY);
                    }
                })?;
                Exporting { _listener: None, file }
            }
        })
    }
}

/// Readers see the old file or the new one, never half of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    fs::write(&name, text)?;
    fs::rename(&name, path)
}

/// Answers one client: HTTP if it asks so, else only the text.
fn answer(client: &UnixStream, text: &str) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    let http = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || request.len() > LONGEST_REQUEST {
            return Ok(());
        }
        client.set_read_timeout(Some(left))?;
        match (&*client).read(&mut buffer)? {
            0 => break false,
            count => request.extend(&buffer[..count]),
        }
        if request.windows(4).any(|end| end == b"\r\n\r\n") {
            break true;
        }
    };
    let mut client = client;
    if http {
        let (status, body) =
            if request.starts_with(b"GET ") { ("200 OK", text) } else { ("405 Method Not Allowed", "") };
        let length = body.len();
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        write!(
            client,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        )?;
        client.write_all(body.as_bytes())
    } else {
        client.write_all(text.as_bytes())
    }
}

/// What the host tells about this process, from files opened while that was allowed.
#[derive(Debug, Default)]
pub(crate) struct Process {
    stat: Option<File>,
    memory: Option<File>,
}

impl Process {
    /// To be called before the process gives up what it does not need.
    pub(crate) fn open() -> Self {
        Self { stat: File::open("/proc/self/stat").ok(), memory: File::open("/proc/self/statm").ok() }
    }

    /// CPU time in seconds.
    fn cpu(&self) -> Option<f64> {
        let text = read(self.stat.as_ref()?)?;
        // The name, in parentheses, may hold anything.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        let user: f64 = fields.nth(11)?.parse().ok()?;
        let system: f64 = fields.next()?.parse().ok()?;
        Some((user + system) / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Resident bytes.
    fn resident(&self) -> Option<u64> {
        let pages: u64 = read(self.memory.as_ref()?)?.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }
}

fn read(file: &File) -> Option<String> {
    let mut buffer = [0; 1024];
    let count = file.read_at(&mut buffer, 0).ok()?;
    String::from_utf8(buffer[..count].to_vec()).ok()
}

/// Where the figures come from.
struct Figures {
    board: Weak<Board>,
    process: Process,
    since: Instant,
}

impl Figures {
    /// All figures; nothing once the machine is gone.
    fn text(&self) -> Option<String> {
        let board = self.board.upgrade()?;
        let mut all = of_machine(&board, &board.management(), &self.process, self.since);
        if let Some(control) = board.devices.ap() {
            all.extend(of_ap(&*control));
        }
        Some(prometheus(&all))
    }
}

/// What a figure is to Prometheus.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Gauge,
    Counter,
}

/// The value of a figure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    Count(u64),
    /// To the millisecond.
    Seconds(f64),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Seconds(seconds) => write!(f, "{seconds:.3}"),
        }
    }
}

/// A figure, or several of one name that labels tell apart. Prometheus' text and `x-query-metrics` are made of these.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    kind: Kind,
    help: &'static str,
    pub(crate) samples: Vec<(Vec<(&'static str, String)>, Value)>,
}

impl Figure {
    fn one(name: &'static str, kind: Kind, help: &'static str, value: Value) -> Self {
        Self { name, kind, help, samples: vec![(Vec::new(), value)] }
    }
}

/// The figures that are told at once: machine, console, management sockets and process.
pub(crate) fn of_machine(
    board: &Board,
    management: &Counters,
    process: &Process,
    since: Instant,
) -> Vec<Figure> {
    let gauge = |name, help, count| Figure::one(name, Kind::Gauge, help, Value::Count(count));
    let counter = |name, help, count| Figure::one(name, Kind::Counter, help, Value::Count(count));
    let several = |name, help, samples| Figure { name, kind: Kind::Gauge, help, samples };
    let identity = board.identity();
    let labels = [("name", identity.name.clone()), ("uuid", identity.uuid.to_string())];
    let version = ("version", env!("CARGO_PKG_VERSION").to_owned());
    let info = (labels.into_iter().chain([version]).collect(), Value::Count(1));
    let status = board.status();
    let is = |state: &str| (vec![("status", state.to_owned())], Value::Count(u64::from(state == status)));
    let cpu = |address: u16| {
        (vec![("cpu", address.to_string())], Value::Count(u64::from(board.vm.is_operating(address))))
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let start = Value::Seconds(now - since.elapsed().as_secs_f64());
    let (devices, console): (&Devices, _) = (&board.devices, board.devices.output_counts());
    let mut all = vec![
        several("adjunct_info", "Who this is.", vec![info]),
        several(
            "adjunct_status",
            "1 for what the guest is.",
            ["running", "paused", "shutdown"].map(is).into(),
        ),
        Figure::one(
            "adjunct_start_time_seconds",
            Kind::Gauge,
            "When the guest was started, in UNIX time.",
            start,
        ),
        counter("adjunct_resets_total", "How often the machine was reset.", board.resets()),
        gauge("adjunct_storage_bytes", "Guest storage.", board.storage.size()),
        several(
            "adjunct_cpu_operating",
            "1 for a CPU that is neither stopped nor checked.",
            board.vm.cpu_addresses().into_iter().map(cpu).collect(),
        ),
        counter("adjunct_console_written_bytes_total", "Console output of the guest.", console.written),
        counter(
            "adjunct_console_dropped_bytes_total",
            "Console output that was not taken in time, for each viewer that missed it.",
            console.dropped,
        ),
        counter(
            "adjunct_console_dropped_input_bytes_total",
            "Console input that the guest had no room for.",
            devices.dropped_input(),
        ),
        gauge("adjunct_qmp_clients", "Clients of the management sockets now.", management.clients),
        counter(
            "adjunct_qmp_connections_total",
            "Connections of management clients.",
            management.connections,
        ),
        counter(
            "adjunct_qmp_refused_connections_total",
            "Connections refused, as there were too many.",
            management.refused,
        ),
        counter(
            "adjunct_qmp_commands_total",
            "Commands of management clients that were answered.",
            management.commands,
        ),
        counter("adjunct_qmp_errors_total", "Those of them that failed.", management.errors),
        counter("adjunct_qmp_events_total", "Events written for management clients.", management.events),
        counter(
            "adjunct_qmp_dropped_events_total",
            "Events that a client did not take in time.",
            management.events_dropped,
        ),
    ];
    if let Some(seconds) = process.cpu() {
        let (name, help) = ("process_cpu_seconds_total", "CPU time of adjunct and the guest.");
        all.push(Figure::one(name, Kind::Counter, help, Value::Seconds(seconds)));
    }
    if let Some(bytes) = process.resident() {
        all.push(gauge("process_resident_memory_bytes", "Resident memory of adjunct and the guest.", bytes));
    }
    all
}

/// The figures of the guest's crypto queues, which the host is asked for. None from a host that is another process and does not
/// answer, which is logged where that is noticed.
pub(crate) fn of_ap(control: &dyn ApControl) -> Vec<Figure> {
    let Ok(host) = control.snapshot() else { return Vec::new() };
    let mdev = control.plugged().and_then(|device| host.mdev(device.mdev));
    let guest: Vec<_> = mdev.iter().flat_map(|mdev| mdev.guest_matrix.apqns()).collect();
    let states: Vec<_> = guest.iter().filter_map(|&apqn| host.queue(apqn)).collect();
    let of_each = |count: fn(&QueueState) -> Option<u64>| {
        let sample = |state: &&QueueState| {
            Some((vec![("queue", state.queue.to_string())], Value::Count(count(state)?)))
        };
        states.iter().filter_map(sample).collect()
    };
    let count = Value::Count(guest.len() as u64);
    vec![
        Figure::one("adjunct_ap_queues", Kind::Gauge, "Crypto queues that the guest has.", count),
        Figure {
            name: "adjunct_ap_queue_requests_total",
            kind: Kind::Counter,
            help: "Requests that a queue accepted.",
            samples: of_each(|state| state.requests),
        },
        Figure {
            name: "adjunct_ap_queue_pending",
            kind: Kind::Gauge,
            help: "Requests and replies on a queue now.",
            samples: of_each(|state| state.pending),
        },
    ]
}

/// Prometheus' text format.
fn prometheus(figures: &[Figure]) -> String {
    let mut text = String::new();
    for Figure { name, kind, help, samples } in figures {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            text += name;
            for (n, (key, label)) in labels.iter().enumerate() {
                let label = label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _ = write!(text, "{}{key}=\"{label}\"", if n == 0 { '{' } else { ',' });
            }
            let _ = writeln!(text, "{} {value}", if labels.is_empty() { "" } else { "}" });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::bench;
    use std::net::Shutdown;

    fn figures(board: &Arc<Board>) -> Figures {
        Figures { board: Arc::downgrade(board), process: Process::open(), since: Instant::now() }
    }

    /// Each line is a comment of a known kind, or a name, labels and a number.
    fn check_form(text: &str) {
        for line in text.lines() {
            let Some(comment) = line.strip_prefix("# ") else {
                let (name, value) = line.rsplit_once(' ').expect(line);
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(name.starts_with("adjunct_") || name.starts_with("process_"), "{line}");
                continue;
            };
            assert!(comment.starts_with("HELP ") || comment.starts_with("TYPE "), "{line}");
        }
    }

    #[test]
    fn what_is_told() {
        let board = Arc::new(bench().board);
        let figures = figures(&board);
        let text = figures.text().unwrap();
        check_form(&text);
        for line in [
            "adjunct_status{status=\"running\"} 1",
            "adjunct_status{status=\"paused\"} 0",
            "adjunct_resets_total 0",
            "adjunct_storage_bytes 1048576",
            "adjunct_console_dropped_bytes_total 0",
            "adjunct_qmp_clients 0",
            "adjunct_qmp_connections_total 0",
            "adjunct_qmp_dropped_events_total 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        let resident = text.lines().find_map(|l| l.strip_prefix("process_resident_memory_bytes "));
        assert!(resident.unwrap().parse::<u64>().unwrap() > 1 << 20);
        drop(board);
        assert!(figures.text().is_none(), "a machine that is gone has no figures");
    }

    #[test]
    fn labels_are_escaped() {
        let samples = vec![(vec![("a", "q\"b\\s\nn".to_owned()), ("b", "c".to_owned())], Value::Count(5))];
        let figure = Figure { name: "adjunct_x", kind: Kind::Gauge, help: "X.", samples };
        let text = prometheus(&[figure]);
        assert!(text.ends_with("\nadjunct_x{a=\"q\\\"b\\\\s\\nn\",b=\"c\"} 5\n"), "{text}");
    }

    #[test]
    fn clients() {
        let check = |request: &[u8], want: &str| {
            let (mut client, server) = UnixStream::pair().unwrap();
            client.write_all(request).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let _ = answer(&server, "figures");
            drop(server);
            let mut reply = Vec::new();
            // One that sent too much is cut off.
            let _ = client.read_to_end(&mut reply);
            let reply = String::from_utf8(reply).unwrap();
            assert!(if want.is_empty() { reply.is_empty() } else { reply.contains(want) }, "{reply:?}");
        };
        check(b"", "figures");
        check(
            b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            "Content-Length: 7\r\nConnection: close\r\n\r\nfigures",
        );
        check(b"POST / HTTP/1.1\r\n\r\n", "HTTP/1.1 405 ");
        check(&[b'x'; 3 * LONGEST_REQUEST], "");
    }

    #[test]
    fn at_a_socket_and_in_a_file() {
        let board = Arc::new(bench().board);
        let dir = tempfile::tempdir().unwrap();
        let (socket, file) = (dir.path().join("s"), dir.path().join("f"));
        let exporter = Exporter::new(&MetricsTarget::Socket(socket.clone())).unwrap();
        let exporting = exporter.start(&board, || {}).unwrap();
        for _ in 0..3 {
            let mut client = UnixStream::connect(&socket).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            check_form(&text);
            assert!(text.contains("adjunct_info{name=\"n\""), "{text}");
        }
        drop(exporting);
        assert!(!socket.exists());

        let exporter = Exporter::new(&MetricsTarget::File(file.clone())).unwrap();
        let exporting = exporter.start(&board, || {}).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !file.exists() {
            assert!(Instant::now() < deadline, "no file");
            std::thread::sleep(Duration::from_millis(5));
        }
        check_form(&fs::read_to_string(&file).unwrap());
        drop(exporting);
        assert!(!file.exists());
    }
}
