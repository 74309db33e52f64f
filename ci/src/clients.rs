//! Clients that others wrote, each on a booted guest of its own: the Python package `qemu.qmp` as a library and as `qmp-shell`,
//! the Rust crate `qapi` in the order of Kata's runtime, and `socat`. Each negotiates, plugs a mediated device, sees its queues
//! in the guest, unplugs it, holds the guest, lets it go and has it power off. What went over the wire is a snapshot.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use qapi::{Dictionary, Qmp, Stream, qmp};
use serde_json::{Value, json};

use crate::demo::MDEV;
use crate::guest::Guest;
use crate::machine::{self, Boot, Emulator};
use crate::report::{Report, Verdict};
use crate::suite::PATIENCE;
use crate::tools::{self, Tool};

/// The release of the Python package that was tried.
const PACKAGE: &str = "qemu.qmp==0.0.6";
/// How long a client may take for one step.
const STEP: Duration = Duration::from_secs(60);
/// A program for the guest's shell: the AP bus's queues, a line each time they change.
const WATCH: &str = "while :; do now=$(cd /sys/bus/ap/devices && echo [0-9a-f][0-9a-f].*); \
                     [ \"$now\" = \"$was\" ] || echo \"QUEUES\" \"=$now=\"; was=$now; sleep 0.2; done\n";
/// What the guest shows with the mediated device, and without.
const WITH: &str = "QUEUES =05.0004 05.00ab 06.0004 06.00ab=";
const WITHOUT: &str = "QUEUES =[0-9a-f][0-9a-f].*=";

/// Runs every client.
pub fn run(target: &Path, adjunct: &Path, guest: &Guest, report: &mut Report) -> Result<()> {
    let python = python(target);
    let bin = |name: &str| python.as_ref().map(|bin| bin.join(name)).map_err(|e| format!("{e:#}"));
    let socat = tools::provide(target, Tool::Socat).map_err(|e| format!("{e:#}"));
    type Client = fn(&Path, &mut Machine) -> Result<()>;
    let clients: [(&str, Result<PathBuf, String>, Client); 4] = [
        ("qemu.qmp", bin("python"), library),
        ("qmp-shell", bin("qmp-shell"), qmp_shell),
        ("qapi", Ok(PathBuf::new()), kata),
        ("socat", socat, by_socat),
    ];
    for (name, program, client) in clients {
        match program {
            Err(why) => report.check(Verdict::Skipped, name, &why),
            Ok(program) => {
                let result = life(name, adjunct, guest, |machine| client(&program, machine));
                let details = match &result {
                    Ok(messages) => format!(
                        "plugs, the guest sees it, unplugs, holds, lets go, powers off: {messages} messages as ever"
                    ),
                    Err(e) => format!("{e:#}"),
                };
                report.expect(result.is_ok(), name, &details);
            }
        }
    }
    Ok(())
}

/// One guest's life with a client, and what went over the wire: the number of messages.
fn life(
    name: &str,
    adjunct: &Path,
    guest: &Guest,
    client: impl FnOnce(&mut Machine) -> Result<()>,
) -> Result<usize> {
    let mut machine = Machine::start(adjunct, guest)?;
    client(&mut machine)?;
    let status = machine.ended()?;
    ensure!(status == Some(0), "the guest did not power off well: status {status:?}");
    let transcript = machine.wire.transcript()?;
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../clients");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let same = settings.bind(|| catch_unwind(AssertUnwindSafe(|| insta::assert_snapshot!(name, transcript))));
    ensure!(same.is_ok(), "another conversation than ci/clients/{name}.snap: see above");
    Ok(transcript.lines().count())
}

/// What lies between a client and the guest's socket, and writes down what passes.
struct Wire {
    socket: PathBuf,
    messages: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Wire {
    /// One client may connect to `socket`; it reaches `guest`.
    fn lay(socket: PathBuf, guest: PathBuf) -> Result<Self> {
        let listener = UnixListener::bind(&socket).context("listen for the client")?;
        let messages = Arc::new(Mutex::new(Vec::new()));
        let shared = messages.clone();
        let thread = thread::spawn(move || {
            let (client, _) = listener.accept()?;
            let guest = UnixStream::connect(guest)?;
            let (from, to, record) = (client.try_clone()?, guest.try_clone()?, shared.clone());
            // A client that has said all leaves the guest's end open: what the guest says at its own end belongs to it.
            thread::spawn(move || pass(from, to, "->", &record));
            pass(guest, client.try_clone()?, "<-", &shared);
            // Either side may be gone already.
            let _ = client.shutdown(Shutdown::Both);
            Ok(())
        });
        Ok(Self { socket, messages, thread: Some(thread) })
    }

    /// All that passed, a message a line; waits until the guest has closed its end.
    fn transcript(&mut self) -> Result<String> {
        let thread = self.thread.take().context("it was asked for before")?;
        thread.join().map_err(|_| anyhow::anyhow!("the recorder failed"))??;
        Ok(self.messages.lock().unwrap_or_else(PoisonError::into_inner).join("\n"))
    }
}

/// Passes bytes on until there are no more, each message written down before it is passed on.
fn pass(mut from: UnixStream, mut to: UnixStream, arrow: &str, record: &Mutex<Vec<String>>) {
    let (mut chunk, mut rest) = ([0; 4096], Vec::new());
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        rest.extend_from_slice(&chunk[..count]);
        let mut values = serde_json::Deserializer::from_slice(&rest).into_iter();
        let mut done = 0;
        while let Some(Ok(value)) = values.next() {
            done = values.byte_offset();
            let line = format!("{arrow} {}", redacted(value));
            record.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
        rest.drain(..done);
        // The other side may have gone; what comes from this one is written down all the same.
        let _ = to.write_all(&chunk[..count]);
    }
}

/// A message without what differs from run to run or from release to release.
fn redacted(mut message: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(walk),
            Value::Object(members) => {
                for (name, value) in members {
                    match name.as_str() {
                        "timestamp" if value["seconds"].is_u64() => *value = json!("[time]"),
                        "package" if value.is_string() => *value = json!("[package]"),
                        "thread-id" if value.is_u64() => *value = json!("[thread]"),
                        _ => walk(value),
                    }
                }
            }
            _ => {}
        }
    }
    walk(&mut message);
    // What query-commands answers grows with each release.
    let list = message["return"].as_array();
    if list.is_some_and(|list| list.len() > 20 && list.iter().all(|row| row["name"].is_string())) {
        message["return"] = json!("[commands]");
    }
    message
}

/// A Debian guest with AP and nothing plugged, whose shell tells the queues.
struct Machine {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    wire: Wire,
    _directory: tempfile::TempDir,
}

impl Machine {
    fn start(adjunct: &Path, guest: &Guest) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let boot = Boot::debian(guest, "shell");
        let mut command = boot.command(&Emulator::Adjunct(adjunct.to_owned()));
        let socket = directory.path().join("qmp");
        command.arg("--ap").arg("--qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("start adjunct")?;
        machine::remember(&child);
        let output = child.stdout.take().context("a child without standard output")?;
        let (tell, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take().context("a child without standard input")?;
        let wire = Wire::lay(directory.path().join("client"), socket)?;
        let mut machine = Self { child, input, lines, wire, _directory: directory };
        machine.until("ADJUNCT-SHELL")?;
        machine.input.write_all(WATCH.as_bytes())?;
        machine.until(WITHOUT)?;
        Ok(machine)
    }

    /// Where the client connects.
    fn socket(&self) -> &Path {
        &self.wire.socket
    }

    /// Waits for a line of the guest's console with this text.
    fn until(&mut self, text: &str) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let mut last = String::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return Ok(()),
                Ok(line) => last = line,
                Err(_) => bail!("the guest does not show {text}; its last line is {last:?}"),
            }
        }
    }

    /// Waits for the guest's own end; its exit status.
    fn ended(&mut self) -> Result<Option<i32>> {
        let end = Instant::now() + PATIENCE;
        loop {
            // Its console is taken off, or it would wait for us.
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(self.child.wait()?.code()),
                Err(RecvTimeoutError::Timeout) => bail!("the guest does not power off"),
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        machine::forget(&self.child);
        // One that has ended meanwhile is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A virtual environment with the package; its directory of programs.
fn python(target: &Path) -> Result<PathBuf> {
    let directory = target.join("tools/qemu.qmp");
    let bin = directory.join("bin");
    if !bin.join("qmp-shell").exists() {
        let run = |command: &mut Command| -> Result<()> {
            let output = command.stdin(Stdio::null()).output().context("run Python")?;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "{}", text.lines().last().unwrap_or("it failed"));
            Ok(())
        };
        run(Command::new("python3").args(["-m", "venv"]).arg(&directory))
            .context("make a Python environment")?;
        run(Command::new(bin.join("python")).args(["-m", "pip", "install", "-q", PACKAGE]))
            .context("install qemu.qmp")?;
    }
    Ok(bin)
}

/// A client that is talked to: lines in, lines out.
struct Talk {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Talk {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start the client")?;
        let (tell, lines) = channel();
        let outputs: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().context("a child without standard output")?),
            Box::new(child.stderr.take().context("a child without standard error")?),
        ];
        for output in outputs {
            let tell = tell.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if tell.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        let input = child.stdin.take();
        Ok(Self { child, input, lines })
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("the client's input is closed")?;
        writeln!(input, "{line}").context("write to the client")
    }

    /// Waits for a line with this text.
    fn until(&mut self, text: &str) -> Result<()> {
        let end = Instant::now() + STEP;
        let mut seen = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return Ok(()),
                Ok(line) => seen.push(line),
                Err(_) => bail!("the client does not show {text:?}, but: {}", seen.join(" | ")),
            }
        }
    }

    /// Its input ends, and it.
    fn end(mut self) -> Result<()> {
        self.input = None;
        let end = Instant::now() + STEP;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "the client does not end");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn library(python: &Path, machine: &mut Machine) -> Result<()> {
    let script = include_str!("../clients/library.py");
    let mut talk = Talk::start(Command::new(python).args(["-c", script]).arg(machine.socket()).arg(MDEV))?;
    talk.until("PLUGGED")?;
    machine.until(WITH)?;
    talk.say("")?;
    talk.until("UNPLUGGED")?;
    machine.until(WITHOUT)?;
    talk.say("")?;
    talk.until("DONE")?;
    talk.end()
}

fn qmp_shell(program: &Path, machine: &mut Machine) -> Result<()> {
    let mut talk = Talk::start(Command::new(program).arg(machine.socket()))?;
    talk.until("Connected to QEMU")?;
    talk.say(&format!("device_add driver=vfio-ap id=ap0 sysfsdev={MDEV}"))?;
    talk.until("\"return\": {}")?;
    machine.until(WITH)?;
    talk.say("device_del id=ap0")?;
    talk.until("\"return\": {}")?;
    // An empty line shows what happened since.
    talk.say("")?;
    talk.until("DEVICE_DELETED")?;
    machine.until(WITHOUT)?;
    for (command, want) in [
        ("stop", "\"return\": {}"),
        ("query-status", "\"paused\""),
        ("cont", "\"return\": {}"),
        ("query-version", "adjunct"),
        ("system_powerdown", "\"return\": {}"),
    ] {
        talk.say(command)?;
        talk.until(want)?;
    }
    talk.end()
}

fn by_socat(program: &Path, machine: &mut Machine) -> Result<()> {
    let socket = format!("UNIX-CONNECT:{}", machine.socket().display());
    let mut talk = Talk::start(Command::new(program).args(["-t", "5", "-"]).arg(socket))?;
    talk.until("\"QMP\"")?;
    let plug = json!({"driver": "vfio-ap", "id": "ap0", "sysfsdev": MDEV});
    talk.say(&json!({"execute": "qmp_capabilities"}).to_string())?;
    talk.until("return")?;
    talk.say(&json!({"execute": "device_add", "arguments": plug}).to_string())?;
    talk.until("return")?;
    machine.until(WITH)?;
    talk.say(&json!({"execute": "device_del", "arguments": {"id": "ap0"}}).to_string())?;
    talk.until("DEVICE_DELETED")?;
    talk.until("return")?;
    machine.until(WITHOUT)?;
    for (command, event) in [("stop", "STOP"), ("cont", "RESUME")] {
        talk.say(&json!({"execute": command}).to_string())?;
        talk.until(event)?;
        talk.until("return")?;
    }
    talk.say(&json!({"execute": "system_powerdown"}).to_string())?;
    talk.until("SHUTDOWN")?;
    talk.end()
}

/// What Kata's runtime does with a guest of QEMU, by the crate that it does it with.
fn kata(_: &Path, machine: &mut Machine) -> Result<()> {
    let stream = UnixStream::connect(machine.socket())?;
    stream.set_read_timeout(Some(STEP))?;
    let mut client = Qmp::new(Stream::new(BufReader::new(&stream), &stream));
    client.handshake().context("negotiate")?;
    client.execute(&qmp::query_fdsets {})?;
    client.execute(&qmp::query_version {})?;
    client.execute(&qmp::query_cpus_fast {})?;
    let sysfsdev = json!(format!("/sys/devices/vfio_ap/matrix/{MDEV}"));
    let arguments: Dictionary = [("sysfsdev".to_owned(), sysfsdev)].into_iter().collect();
    client.execute(&qmp::device_add {
        bus: None,
        id: Some("ap0".into()),
        driver: "vfio-ap".into(),
        arguments,
    })?;
    machine.until(WITH)?;
    client.execute(&qmp::device_del { id: "ap0".into() })?;
    let deleted = |event| matches!(event, qmp::Event::DEVICE_DELETED { .. });
    ensure!(client.events().any(deleted), "no DEVICE_DELETED before the reply");
    machine.until(WITHOUT)?;
    client.execute(&qmp::stop {})?;
    ensure!(!client.execute(&qmp::query_status {})?.running, "it runs though it was stopped");
    client.execute(&qmp::cont {})?;
    ensure!(client.execute(&qmp::query_status {})?.running, "it does not go on");
    client.execute(&qmp::system_powerdown {})?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_written_down_without_what_changes() {
        let directory = tempfile::tempdir().unwrap();
        let (guest, socket) = (directory.path().join("guest"), directory.path().join("client"));
        let server = UnixListener::bind(&guest).unwrap();
        let mut wire = Wire::lay(socket.clone(), guest).unwrap();
        let mut client = UnixStream::connect(socket).unwrap();
        let (mut server, _) = server.accept().unwrap();
        client.write_all(b"{\"execute\": \"a\"}{\"execu").unwrap();
        server.read_exact(&mut [0; 23]).unwrap();
        client.write_all(b"te\": \"b\"}").unwrap();
        server.read_exact(&mut [0; 9]).unwrap();
        server
            .write_all(b"{\"return\": {\"thread-id\": 7, \"package\": \"x\"}}\n{\"event\": \"E\", \"timestamp\": {\"seconds\": 1}}")
            .unwrap();
        drop(server);
        let want = r#"-> {"execute":"a"}
-> {"execute":"b"}
<- {"return":{"package":"[package]","thread-id":"[thread]"}}
<- {"event":"E","timestamp":"[time]"}"#;
        assert_eq!(wire.transcript().unwrap(), want);
        let rows: Vec<_> = (0..30).map(|n| json!({"name": n.to_string()})).collect();
        assert_eq!(redacted(json!({"return": rows, "id": 1})), json!({"return": "[commands]", "id": 1}));
    }
}
