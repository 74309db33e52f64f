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

use crate::board::Board;
use crate::console::Output;
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
        output: Arc<Output>,
        enter: impl FnOnce() + Send + 'static,
    ) -> io::Result<Exporting> {
        let figures =
            Figures { board: Arc::downgrade(board), output, process: self.process, since: Instant::now() };
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
#[derive(Debug)]
struct Process {
    stat: Option<File>,
    memory: Option<File>,
}

impl Process {
    fn open() -> Self {
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
    output: Arc<Output>,
    process: Process,
    since: Instant,
}

impl Figures {
    /// All figures; nothing once the machine is gone.
    fn text(&self) -> Option<String> {
        let board = self.board.upgrade()?;
        let mut page = Page::default();
        page.machine(&board, self.since);
        page.console(&self.output.counts(), board.devices.dropped_input());
        page.management(&board.management());
        if let Some(control) = board.devices.ap()
            // A host that is another process may be gone, which is logged where that is noticed.
            && let Ok(host) = control.snapshot()
        {
            page.ap(&host, control.plugged().map(|device| device.mdev));
        }
        page.process(&self.process);
        Some(page.0)
    }
}

/// What a metric is to Prometheus.
#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

/// Prometheus' text format.
#[derive(Default)]
struct Page(String);

impl Page {
    fn metric(&mut self, name: &str, kind: Kind, help: &str) -> Metric<'_> {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Metric { page: self, name: name.into() }
    }

    fn machine(&mut self, board: &Board, since: Instant) {
        let identity = board.identity();
        let (uuid, version) = (identity.uuid.to_string(), env!("CARGO_PKG_VERSION"));
        let labels = [("name", identity.name.as_str()), ("uuid", &uuid), ("version", version)];
        self.metric("adjunct_info", Kind::Gauge, "Who this is.").value(&labels, 1);
        let status = board.status();
        let mut metric = self.metric("adjunct_status", Kind::Gauge, "1 for what the guest is.");
        for state in ["running", "paused", "shutdown"] {
            metric = metric.value(&[("status", state)], u8::from(state == status));
        }
        let start = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()).as_secs_f64()
            - since.elapsed().as_secs_f64();
        self.metric("adjunct_start_time_seconds", Kind::Gauge, "When the guest was started, in UNIX time.")
            .value(&[], format_args!("{start:.3}"));
        self.metric("adjunct_resets_total", Kind::Counter, "How often the machine was reset.")
            .value(&[], board.resets());
        self.metric("adjunct_storage_bytes", Kind::Gauge, "Guest storage.").value(&[], board.storage.size());
        let mut metric = self.metric(
            "adjunct_cpu_operating",
            Kind::Gauge,
            "1 for a CPU that is neither stopped nor checked.",
        );
        for cpu in board.vm.cpu_addresses() {
            let operating = u8::from(board.vm.is_operating(cpu));
            metric = metric.value(&[("cpu", &cpu.to_string())], operating);
        }
    }

    fn console(&mut self, counts: &crate::console::Counts, dropped_input: u64) {
        self.metric("adjunct_console_written_bytes_total", Kind::Counter, "Console output of the guest.")
            .value(&[], counts.written);
        self.metric(
            "adjunct_console_dropped_bytes_total",
            Kind::Counter,
            "Console output that nobody took in time.",
        )
        .value(&[], counts.dropped);
        self.metric(
            "adjunct_console_dropped_input_bytes_total",
            Kind::Counter,
            "Console input that the guest had no room for.",
        )
        .value(&[], dropped_input);
    }

    fn management(&mut self, counters: &Counters) {
        self.metric("adjunct_qmp_clients", Kind::Gauge, "Clients of the management sockets now.")
            .value(&[], counters.clients);
        for (name, help, value) in [
            ("connections", "Connections of management clients.", counters.connections),
            ("refused_connections", "Connections refused, as there were too many.", counters.refused),
            ("commands", "Commands of management clients that were answered.", counters.commands),
            ("errors", "Those of them that failed.", counters.errors),
            ("events", "Events written for management clients.", counters.events),
            ("dropped_events", "Events that a client did not take in time.", counters.events_dropped),
        ] {
            let name = format!("adjunct_qmp_{name}_total");
            self.metric(&name, Kind::Counter, help).value(&[], value);
        }
    }

    fn ap(&mut self, host: &ap::host::Snapshot, mdev: Option<uuid::Uuid>) {
        let guest = mdev.and_then(|mdev| host.mdev(mdev)).map(|mdev| mdev.guest_matrix);
        let guest: Vec<_> = guest.iter().flat_map(|matrix| matrix.apqns()).collect();
        self.metric("adjunct_ap_queues", Kind::Gauge, "Crypto queues that the guest has.")
            .value(&[], guest.len());
        let states: Vec<_> = guest.iter().filter_map(|&apqn| host.queue(apqn)).collect();
        let mut metric =
            self.metric("adjunct_ap_queue_requests_total", Kind::Counter, "Requests that a queue accepted.");
        for state in &states {
            if let Some(requests) = state.requests {
                metric = metric.value(&[("queue", &state.queue.to_string())], requests);
            }
        }
        let mut metric =
            self.metric("adjunct_ap_queue_pending", Kind::Gauge, "Requests and replies on a queue now.");
        for state in &states {
            if let Some(pending) = state.pending {
                metric = metric.value(&[("queue", &state.queue.to_string())], pending);
            }
        }
    }

    fn process(&mut self, process: &Process) {
        if let Some(seconds) = process.cpu() {
            self.metric("process_cpu_seconds_total", Kind::Counter, "CPU time of adjunct and the guest.")
                .value(&[], seconds);
        }
        if let Some(bytes) = process.resident() {
            self.metric(
                "process_resident_memory_bytes",
                Kind::Gauge,
                "Resident memory of adjunct and the guest.",
            )
            .value(&[], bytes);
        }
    }
}

/// A metric that gets its values.
struct Metric<'a> {
    page: &'a mut Page,
    name: String,
}

impl Metric<'_> {
    fn value(self, labels: &[(&str, &str)], value: impl fmt::Display) -> Self {
        let text = &mut self.page.0;
        let _ = write!(text, "{}", self.name);
        for (n, (key, label)) in labels.iter().enumerate() {
            let label = label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(text, "{}{key}=\"{label}\"", if n == 0 { '{' } else { ',' });
        }
        let _ = writeln!(text, "{} {value}", if labels.is_empty() { "" } else { "}" });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::bench;
    use std::net::Shutdown;

    fn figures(board: &Arc<Board>) -> Figures {
        let output = Output::new(Box::new(io::sink())).unwrap();
        Figures { board: Arc::downgrade(board), output, process: Process::open(), since: Instant::now() }
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
        let mut page = Page::default();
        page.metric("adjunct_x", Kind::Gauge, "X.").value(&[("a", "q\"b\\s\nn")], 5);
        assert!(page.0.ends_with("adjunct_x{a=\"q\\\"b\\\\s\\nn\"} 5\n"), "{}", page.0);
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
        let output = || Output::new(Box::new(io::sink())).unwrap();
        let (socket, file) = (dir.path().join("s"), dir.path().join("f"));
        let exporter = Exporter::new(&MetricsTarget::Socket(socket.clone())).unwrap();
        let exporting = exporter.start(&board, output(), || {}).unwrap();
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
        let exporting = exporter.start(&board, output(), || {}).unwrap();
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
