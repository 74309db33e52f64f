//! One AP host for guests in several processes: `adjunct ap-host serve` as a user runs it, on guests of a few instructions.

mod privileges;
mod program;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ap::host::remote::Client;
use ap::host::{Attribute, Driver, LparChange, MaskAttribute, Number, Operation, QueueStatus, Snapshot};
use crycb::Apqn;
use privileges::{assert_given_up, filters, filters_before, threads};
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use uuid::Uuid;

/// The first two guests of the built-in description, which share adapter 05.
const ONE: Uuid = Uuid::from_u128(0x62177883_f1bb_47f0_914d_32a22e3a8804);
const TWO: Uuid = Uuid::from_u128(0xcef03c3c_903d_4ecc_9a83_40694cb8aee4);
/// A queue of each.
const MINE: Apqn = Apqn(0x0504);
const HIS: Apqn = Apqn(0x0547);
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a guest's code begins, and its end: `LPSWE DONE`.
const CODE: u64 = 0x200;
const DONE: u64 = 0x300;
const LPSWE_DONE: [u8; 4] = [0xb2, 0xb2, (DONE >> 8) as u8, DONE as u8];
/// A branch to itself.
const LOOP: [u8; 4] = [0xa7, 0xf4, 0, 0];
const PQAP: [u8; 4] = [0xb2, 0xaf, 0, 0];
/// NQAP with registers 2 and 4.
const NQAP_2_4: [u8; 4] = [0xb2, 0xad, 0, 0x24];
/// To the instruction before, on condition code 0 and on any other.
const BACK_IF_0: [u8; 4] = [0xa7, 0x84, 0xff, 0xfe];
const BACK_UNLESS_0: [u8; 4] = [0xa7, 0x74, 0xff, 0xfe];

/// LGFI of register `r`.
fn lgfi(r: u8, value: u32) -> [u8; 6] {
    let v = value.to_be_bytes();
    [0xc0, r << 4 | 1, v[0], v[1], v[2], v[3]]
}

/// Powers off as soon as the queue is there, or is not any more.
fn until(there: bool, queue: Apqn) -> Vec<u8> {
    let back = if there { BACK_UNLESS_0 } else { BACK_IF_0 };
    [&lgfi(0, queue.0.into())[..], &PQAP, &back, &LPSWE_DONE].concat()
}

/// Puts a request on the queue and goes on for ever.
fn enqueue(queue: Apqn) -> Vec<u8> {
    let registers = [(0, 0x4000_0000 | u32::from(queue.0)), (2, 0), (3, 7), (4, 0x3000), (5, 8)];
    let mut code: Vec<u8> = registers.iter().flat_map(|(r, value)| lgfi(*r, *value)).collect();
    code.extend([NQAP_2_4, LOOP].concat());
    code
}

fn command() -> Command {
    let mut command = program::command();
    command.stdin(Stdio::null());
    command
}

/// A process that does not outlive the test.
struct Process(Option<Child>);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    /// SIGKILL, or another signal by its name.
    fn signal(&mut self, name: &str) {
        let pid = self.0.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Exit status and standard error at the end.
    #[track_caller]
    fn end(mut self) -> (Option<i32>, String) {
        let mut child = self.0.take().expect("it runs");
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("it does not end: {:?}", child.wait_with_output());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        verdict(&child.wait_with_output().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn verdict(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

struct Daemon {
    process: Process,
    socket: PathBuf,
    directory: TempDir,
}

impl Daemon {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(directory: TempDir) -> Self {
        let socket = directory.path().join("ap");
        let process = Process::start(command().args(["ap-host", "serve", "--socket"]).arg(&socket));
        let deadline = Instant::now() + PATIENCE;
        while Client::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "the daemon starts");
            std::thread::sleep(Duration::from_millis(2));
        }
        Self { process, socket, directory }
    }

    fn guest(&self, mdev: Uuid, code: &[u8]) -> Process {
        self.guest_with(mdev, code, &[])
    }

    fn guest_with(&self, mdev: Uuid, code: &[u8], arguments: &[&str]) -> Process {
        let mut image = vec![0; 0x6000];
        let mut put = |at: u64, bytes: &[u8]| image[at as usize..][..bytes.len()].copy_from_slice(bytes);
        put(0, &(0x0008_0000_8000_0000 | CODE).to_be_bytes());
        put(CODE, code);
        put(DONE, &0x0002_0001_8000_0000u64.to_be_bytes());
        put(DONE + 8, &0xfffu64.to_be_bytes());
        let mut kernel = NamedTempFile::new_in(&self.directory).unwrap();
        kernel.write_all(&image).unwrap();
        let (_, kernel) = kernel.keep().unwrap();
        let mut command = command();
        command.arg("run").arg("--kernel").arg(kernel).args(["--memory", "1M", "--console", "none"]);
        command.arg("--ap-mdev").arg(mdev.to_string()).args(arguments);
        Process::start(command.arg("--ap-host").arg(format!("unix:{}", self.socket.display())))
    }

    fn execute(&self, operation: Operation) {
        Client::connect(&self.socket).unwrap().execute(&operation).unwrap();
    }

    fn snapshot(&self) -> Snapshot {
        Client::connect(&self.socket).unwrap().snapshot().unwrap()
    }

    #[track_caller]
    fn until(&self, what: &str, reached: impl Fn(&Snapshot) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let snapshot = self.snapshot();
            if reached(&snapshot) {
                return;
            }
            assert!(Instant::now() < deadline, "waited too long for {what}: {snapshot:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn until_attached(&self, mdev: Uuid, attached: bool) {
        let reached = |snapshot: &Snapshot| snapshot.mdev(mdev).unwrap().attached == attached;
        self.until(&format!("attached: {attached}"), reached);
    }
}

#[test]
fn guests_share_a_host_and_one_is_killed() {
    let daemon = Daemon::start();
    let mut one = daemon.guest(ONE, &enqueue(MINE));
    let two = daemon.guest(TWO, &enqueue(HIS));
    let state = |snapshot: &Snapshot, queue| {
        let queue = snapshot.queue(queue).unwrap();
        (queue.status.unwrap(), queue.requests.unwrap(), queue.pending.unwrap())
    };
    let busy = (QueueStatus::InUse, 1, 1);
    daemon.until("a request of each", |s| state(s, MINE) == busy && state(s, HIS) == busy);
    // Its device is taken, and so are its queues.
    let (status, error) = daemon.guest(ONE, &LOOP).end();
    assert_eq!(status, Some(2), "{error}");
    assert!(error.contains("--ap-mdev: mdev 62177883") && error.contains("in use by a guest"), "{error}");

    one.signal("KILL");
    assert_eq!(one.end().0, None, "by a signal");
    daemon.until_attached(ONE, false);
    daemon.until("the resets", |snapshot| snapshot.queues.iter().all(|queue| queue.last_reset == 0));
    let snapshot = daemon.snapshot();
    assert_eq!(state(&snapshot, MINE), (QueueStatus::Assigned, 1, 0), "its messages died with it");
    assert_eq!(state(&snapshot, HIS), busy, "the other goes on");
    // Another takes the device, and the queue is empty: a request is accepted, of which there is one.
    let _next = daemon.guest(ONE, &enqueue(MINE));
    daemon.until("the next guest", |s| state(s, MINE) == (QueueStatus::InUse, 2, 1));
    drop(two);
    daemon.until_attached(TWO, false);
}

/// What a plan says is lost, is: the request of a guest whose adapter is deconfigured, or whose domain goes.
#[test]
fn plans_name_the_requests_that_are_lost() {
    let ap = |daemon: &Daemon, words: &[&str]| {
        let address = format!("unix:{}", daemon.socket.display());
        let output = command().args(["ap", "--host", &address]).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for (words, lost) in [
        (
            &["adapter", "offline", "5"][..],
            "deconfigured, with loss of what is on them: 05.0004 (1 pending) 05.0047",
        ),
        (&["adapter", "checkstop", "5"], "check-stopped, with loss of what is on them: 05.0004 (1 pending)"),
        (
            &["adapter", "remove", "5"],
            "removed from the machine, with loss of what is on them: 05.0004 (1 pending)",
        ),
        (
            &["domain", "remove", "4"],
            "removed from the machine, with loss of what is on them: 05.0004 (1 pending)",
        ),
        (&["unbind", "05.0004"], "reset, with loss of what is on them: 05.0004 (1 pending)"),
    ] {
        let daemon = Daemon::start();
        let _guest = daemon.guest(ONE, &enqueue(MINE));
        let pending = |snapshot: &Snapshot| snapshot.queue(MINE).and_then(|queue| queue.pending);
        daemon.until("a request", |snapshot| pending(snapshot) == Some(1));
        let plan = ap(&daemon, &[&["plan"], words].concat());
        assert!(plan.contains(lost) && plan.contains(&format!("the guest of mdev {ONE}")), "{plan}");
        assert_eq!(pending(&daemon.snapshot()), Some(1), "a plan does nothing");
        ap(&daemon, words);
        assert_eq!(pending(&daemon.snapshot()).unwrap_or(0), 0, "{words:?}");
    }
}

#[test]
fn a_running_guest_sees_what_comes_and_goes() {
    #[track_caller]
    fn check(before: Option<Operation>, there: bool, change: Operation) {
        let daemon = Daemon::start();
        before.into_iter().for_each(|operation| daemon.execute(operation));
        let guest = daemon.guest(ONE, &until(there, MINE));
        daemon.until_attached(ONE, true);
        std::thread::sleep(Duration::from_millis(50));
        daemon.execute(change);
        let (status, error) = guest.end();
        assert_eq!((status, error.as_str()), (Some(0), ""));
    }
    let write = |attribute| Operation::Write { mdev: ONE, attribute };
    let change = |change| Operation::Configure { changes: vec![change] };
    let unbind = Operation::Unbind { queue: MINE };
    check(None, false, unbind.clone());
    check(Some(unbind), true, Operation::Bind { queue: MINE, driver: Driver::VfioAp });
    check(None, false, write(Attribute::UnassignDomain("4".into())));
    let unassign = write(Attribute::UnassignAdapter("5".into()));
    check(Some(unassign), true, write(Attribute::AssignAdapter("5".into())));
    let remove = change(LparChange::RemoveAdapter { adapter: Number(5) });
    check(None, false, remove.clone());
    let adapter = ap::host::Description::builtin().adapters()[0].clone();
    check(Some(remove), true, change(LparChange::AddAdapter { adapter }));
    let condition = ap::host::Condition::Offline;
    check(None, false, change(LparChange::SetCondition { adapter: Number(5), condition }));
    check(None, false, Operation::RemoveMdev { mdev: ONE });
}

/// An AP host that does not answer keeps a bounded number of commands waiting, whatever clients come and go meanwhile.
#[test]
fn a_daemon_that_does_not_answer() {
    let mut daemon = Daemon::start();
    let qmp = daemon.directory.path().join("qmp");
    let guest = daemon.guest_with(ONE, &LOOP, &["--qmp", &format!("unix:{}", qmp.display())]);
    daemon.until_attached(ONE, true);
    let number = guest.0.as_ref().unwrap().id();
    let client = || {
        let mut client = BufReader::new(connect(&qmp));
        client.get_mut().write_all(b"{'execute':'qmp_capabilities'}").unwrap();
        for _ in 0..2 {
            client.read_line(&mut String::new()).unwrap();
        }
        client
    };
    let ask = |client: &mut BufReader<UnixStream>, command: &str| {
        client.get_mut().write_all(format!("{{'execute':'{command}'}}").as_bytes()).unwrap();
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        line
    };
    // Only then does it serve its clients.
    drop(client());
    daemon.process.signal("STOP");
    for _ in 0..60 {
        client().get_mut().write_all(b"{'execute':'x-query-ap'}").unwrap();
    }
    let mut last = client();
    let refused = ask(&mut last, "x-query-ap");
    assert!(refused.contains("16 commands that wait for the AP host are at work"), "{refused}");
    assert!(ask(&mut last, "query-status").contains("running"));
    if std::env::var_os("ADJUNCT_RUNNER").is_none() {
        // A thread has its name once it runs.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let names: Vec<_> = threads(number).into_iter().map(|(name, _)| name).collect();
            match names.iter().filter(|name| *name == "command").count() {
                16 => break,
                count => assert!(count < 16 && Instant::now() < deadline, "{names:?}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    daemon.process.signal("CONT");
    let deadline = Instant::now() + PATIENCE;
    while !ask(&mut last, "x-query-ap").contains("\"present\":true") {
        assert!(Instant::now() < deadline, "the AP host answers again");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Who manages a guest is told at once what others change on its host, though nothing else happens in the guest; and a guest that
/// nobody manages is told more than waits anywhere without losing its connection.
#[test]
fn managers_are_told_what_happens_on_the_host() {
    let daemon = Daemon::start();
    let _alone = daemon.guest(TWO, &LOOP);
    let qmp = daemon.directory.path().join("qmp");
    let at = format!("unix:{},server=on,wait=off", qmp.display());
    let _managed = daemon.guest_with(ONE, &LOOP, &["--qmp", &at]);
    daemon.until_attached(ONE, true);
    daemon.until_attached(TWO, true);
    let stream = connect(&qmp);
    let mut lines = BufReader::new(&stream).lines();
    let mut until = |part: &str| while !lines.next().expect(part).expect(part).contains(part) {};
    let ask = r#"{"execute":"qmp_capabilities"}{"execute":"x-subscribe","arguments":{"events":["*"]},"id":"asked"}"#;
    (&stream).write_all(ask.as_bytes()).unwrap();
    until("asked");
    daemon.execute(Operation::Unbind { queue: MINE });
    until("05.0004");
    let mut operator = Client::connect(&daemon.socket).unwrap();
    for _ in 0..3 * ap::host::WAITING {
        operator.execute(&Operation::WriteMask { mask: MaskAttribute::Apmask, value: "+0".into() }).unwrap();
    }
    // What comes on top of too much may be missing, so it comes more than once.
    std::thread::scope(|scope| {
        let told = scope.spawn(|| until("05.0004"));
        while !told.is_finished() {
            daemon.execute(Operation::Bind { queue: MINE, driver: Driver::VfioAp });
            daemon.execute(Operation::Unbind { queue: MINE });
            std::thread::sleep(Duration::from_millis(20));
        }
        told.join().unwrap();
    });
    assert!(daemon.snapshot().mdev(TWO).unwrap().attached);
}

/// A client of a management socket that may not be there yet. A line that does not come fails the test.
fn connect(socket: &Path) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    let stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A manager of the guest of `ONE`, told of everything.
struct Manager(BufReader<UnixStream>);

impl Manager {
    /// Starts the guest.
    fn of(daemon: &Daemon) -> (Process, Self) {
        let qmp = daemon.directory.path().join("qmp");
        let at = format!("unix:{},server=on,wait=off", qmp.display());
        let guest = daemon.guest_with(ONE, &LOOP, &["--qmp", &at]);
        daemon.until_attached(ONE, true);
        let stream = connect(&qmp);
        let mut manager = Self(BufReader::new(stream));
        manager.send("qmp_capabilities", json!({}));
        manager.send("x-subscribe", json!({"events": ["X_AP_CONFIG_CHANGED"]}));
        (0..3).for_each(|_| drop(manager.line()));
        (guest, manager)
    }

    fn send(&mut self, command: &str, arguments: Value) {
        let command = json!({"execute": command, "arguments": arguments}).to_string();
        self.0.get_mut().write_all(command.as_bytes()).unwrap();
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// The next two events say that the device and its queues went.
    fn sees_it_go(&mut self) {
        let (change, gone) = (self.line(), self.line());
        assert_eq!(change["event"], "X_AP_CONFIG_CHANGED", "{change}");
        let unplugged = json!(["05.0004", "05.00ab", "06.0004", "06.00ab"]);
        let (mdev, data) = (ONE.to_string(), &change["data"]);
        assert_eq!(
            (&data["mdev"], &data["plugged"], &data["unplugged"]),
            (&json!(mdev), &json!([]), &unplugged)
        );
        assert_eq!(
            (&gone["event"], &gone["data"]["device"]),
            (&json!("DEVICE_DELETED"), &json!("ap0")),
            "{gone}"
        );
    }
}

/// However the host takes the device back, the guest's manager is told what went, and that the device did; and nothing of what
/// happens to other devices.
#[test]
fn managers_are_told_that_the_device_went() {
    let daemon = Daemon::start();
    let (guest, mut manager) = Manager::of(&daemon);
    let write = |attribute| Operation::Write { mdev: TWO, attribute };
    daemon.execute(write(Attribute::UnassignDomain("0x47".into())));
    daemon.execute(Operation::RemoveMdev { mdev: ONE });
    manager.sees_it_go();
    drop(guest);

    let daemon = Daemon::start();
    let (guest, mut manager) = Manager::of(&daemon);
    manager.send("x-ap-remove-mdev", json!({"mdev": ONE.to_string()}));
    manager.sees_it_go();
    assert_eq!(manager.line(), json!({"return": {}}));
    drop(guest);

    let mut daemon = Daemon::start();
    let (guest, mut manager) = Manager::of(&daemon);
    daemon.process.signal("KILL");
    manager.sees_it_go();
    manager.send("x-query-ap", json!({}));
    let error = manager.line();
    assert!(error["error"]["desc"].as_str().is_some_and(|text| text.contains("the AP host at")), "{error}");
    drop(guest);
}

/// The guest goes on without its cards; it powers off when it notices.
#[test]
fn a_daemon_ends_before_its_guests() {
    for signal in ["TERM", "INT", "KILL"] {
        let mut daemon = Daemon::start();
        let guest = daemon.guest(ONE, &until(false, MINE));
        daemon.until_attached(ONE, true);
        daemon.process.signal(signal);
        let (status, error) = guest.end();
        assert_eq!(status, Some(0), "{error}");
        assert!(error.contains("the guest goes on without crypto cards"), "{error}");

        let Daemon { process, socket, directory } = daemon;
        let (status, error) = process.end();
        assert_eq!(status, (signal != "KILL").then_some(0), "{error}");
        assert_eq!(socket.exists(), signal == "KILL");
        // What a killed one left does not stop the next.
        assert_eq!(Daemon::start_in(directory).snapshot().mdevs.len(), 4);
    }
}

/// Every thread of the daemon has the process's filter and that of its kind, and no capability; with `off` none of that.
#[test]
fn the_daemon_gives_up_privileges() {
    let Some(before) = filters_before() else { return };
    let threads = |process: &Process| threads(process.0.as_ref().expect("it runs").id());
    let mut daemon = Daemon::start();
    let _guest = daemon.guest(ONE, &LOOP);
    daemon.until_attached(ONE, true);
    let all = threads(&daemon.process);
    assert!(all.len() > 4, "main, accept and those of a client: {}", all.len());
    for (name, status) in &all {
        assert_eq!(filters(status), before + 2, "{name}");
        assert_given_up(name, status);
    }
    daemon.process.signal("TERM");
    let socket = daemon.socket.clone();
    assert_eq!(daemon.process.end().0, Some(0));
    assert!(!socket.exists(), "it is removed with the sandbox on, too");

    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("ap");
    let mut off = command();
    off.args(["ap-host", "serve", "--sandbox", "off", "--socket"]).arg(&socket);
    let mut off = Process::start(&mut off);
    let deadline = Instant::now() + PATIENCE;
    while Client::connect(&socket).is_err() {
        assert!(Instant::now() < deadline, "the daemon starts");
    }
    assert!(threads(&off).iter().all(|(_, status)| filters(status) == before));
    off.signal("TERM");
    assert_eq!(off.end().0, Some(0));
}

#[test]
fn bad_arguments() {
    #[track_caller]
    fn check(arguments: &[&str], status: i32, parts: &[&str]) {
        let (got, error) = verdict(&command().args(arguments).output().unwrap());
        assert_eq!(got, Some(status), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let daemon = Daemon::start();
    let socket = daemon.socket.to_str().unwrap();
    let serve = |socket| ["ap-host", "serve", "--socket", socket];
    check(&serve(socket), 3, &["--socket", "another daemon listens there"]);
    check(&serve("/nonexistent/x"), 3, &["--socket /nonexistent/x", "No such file"]);
    check(&["ap-host", "serve"], 2, &["--socket <PATH>"]);
    let file = daemon.directory.path().join("x");
    fs::write(&file, "{}").unwrap();
    let file = file.to_str().unwrap();
    check(&[&serve("y")[..], &["--description", file]].concat(), 2, &["--description", "adapters"]);
    check(&serve(file), 3, &["something else than a socket"]);

    let daemon_at = format!("unix:{socket}");
    let run = |mdev, host| ["run", "--kernel", file, "--ap-mdev", mdev, "--ap-host", host];
    let (one, nobody) = (ONE.to_string(), Uuid::nil().to_string());
    check(&run(&one, "unix:/nonexistent/x"), 2, &["--ap-host", "/nonexistent/x", "adjunct ap-host serve"]);
    check(&run(&nobody, &daemon_at), 2, &["--ap-mdev: no mdev", &one, socket]);
    check(&[&run(&one, &daemon_at)[..], &["--icount"]].concat(), 2, &["--ap-host", "leave out --icount"]);
}
