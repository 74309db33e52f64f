//! Whole sessions with the daemon of an AP host: an operator, two VMs that carry out their orders as well or badly as the input
//! says, and one client that just says all of the input.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ap::host::Description;
use ap::host::remote::{FromDaemon, LineReader, MAX_ANSWER, Order, Report, Server, ToDaemon, VERSION};
use crycb::Matrix;
use uuid::Uuid;

/// Longer inputs only take longer.
const LIMIT: usize = 8 << 10;
/// Lines that are carried out one after the other.
const LINES: usize = 24;
/// Nothing takes so long: the daemon's own patience ends before.
const PATIENCE: Duration = Duration::from_secs(30);
/// The id of what a VM says by itself.
const OWN: u64 = u64::MAX;

/// How a VM carries out its orders; a line `!1` changes it.
mod manner {
    /// As it should.
    pub const WELL: u8 = 0;
    /// Its queues' resets fail.
    pub const FAILS: u8 = 1;
    /// With its next order it dies.
    pub const DIES: u8 = 2;
    /// It says that it did what it was told twice, and what it was not told.
    pub const LIES: u8 = 3;
}

/// A connection whose orders are carried out as they come.
struct Peer {
    stream: Mutex<UnixStream>,
    manner: AtomicU8,
    masks: Mutex<Matrix>,
}

impl Peer {
    fn connect(path: &Path) -> (Arc<Self>, Receiver<FromDaemon>, thread::JoinHandle<()>) {
        let stream = UnixStream::connect(path).expect("the daemon listens");
        let reading = stream.try_clone().expect("a descriptor");
        let peer = Arc::new(Self {
            stream: Mutex::new(stream),
            manner: AtomicU8::new(manner::WELL),
            masks: Mutex::new(Matrix::EMPTY),
        });
        peer.say(&ToDaemon::Hello { version: VERSION });
        let (answers, taken) = channel();
        let this = peer.clone();
        (peer, taken, thread::spawn(move || this.listen(reading, &answers)))
    }

    /// What is said to one who has hung up is lost.
    fn send(&self, line: &[u8]) {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stream.write_all(line).and_then(|()| stream.write_all(b"\n"));
    }

    fn say(&self, message: &ToDaemon) {
        self.send(&serde_json::to_vec(message).expect("a message"));
    }

    fn close(&self) {
        let _ = self.stream.lock().unwrap_or_else(PoisonError::into_inner).shutdown(Shutdown::Both);
    }

    fn listen(&self, stream: UnixStream, answers: &Sender<FromDaemon>) {
        let mut lines = LineReader::new(stream, MAX_ANSWER);
        while let Ok(Some(line)) = lines.line() {
            match serde_json::from_slice(line).expect("the daemon says what can be read") {
                FromDaemon::Order(order) => self.obey(order),
                // Nobody may be there any more.
                answer => drop(answers.send(answer)),
            }
        }
        *self.masks.lock().unwrap_or_else(PoisonError::into_inner) = Matrix::EMPTY;
    }

    fn obey(&self, order: Order) {
        let manner = self.manner.load(Ordering::Relaxed);
        if manner == manner::DIES {
            *self.masks.lock().unwrap_or_else(PoisonError::into_inner) = Matrix::EMPTY;
            return self.close();
        }
        let code = if manner == manner::FAILS { 0x06 } else { 0 };
        let report = match order {
            Order::SetMasks { serial, matrix } => {
                *self.masks.lock().unwrap_or_else(PoisonError::into_inner) = matrix;
                Report::Confirm { serial }
            }
            Order::Zapq { serial, queue } => Report::ResetDone { serial, queue, response_code: code },
            Order::Statistics { serial } => Report::Statistics { serial: Some(serial), queues: Vec::new() },
            Order::Request => return self.say(&ToDaemon::Detach { id: OWN }),
            Order::Hardware { .. }
            | Order::SetHook { .. }
            | Order::ReleaseInterruption { .. }
            | Order::ConfigChanged => return,
        };
        if manner == manner::LIES {
            self.say(&ToDaemon::Report(report.clone()));
            self.say(&ToDaemon::Report(Report::Confirm { serial: u64::MAX }));
        }
        self.say(&ToDaemon::Report(report));
    }
}

/// Waits until the request of this id is answered, or the connection is over.
fn answered(answers: &Receiver<FromDaemon>, wanted: u64) {
    let end = Instant::now() + PATIENCE;
    loop {
        match answers.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(FromDaemon::Done { id } | FromDaemon::Snapshot { id, .. }) if id == wanted => return,
            Ok(FromDaemon::Refused { id, refusal }) => {
                assert!(!refusal.errno.is_empty() && !refusal.error.is_empty());
                if id == Some(wanted) {
                    return;
                }
            }
            Ok(_) => {}
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => panic!("request {wanted} is not answered"),
        }
    }
}

/// The socket's name, which no other run of this process has.
fn socket() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("ap-fuzz-{}-{number}", std::process::id()))
}

/// Lines to the daemon. Those that begin with `>` are the second VM's; `!` and a digit is how a VM behaves from now on.
pub fn sessions(input: &[u8]) {
    if input.len() > LIMIT {
        return;
    }
    let path = socket();
    let server = Server::bind(&path, &Description::builtin()).expect("a socket in the folder for such files");
    let serving = {
        let server = server.clone();
        thread::spawn(move || server.serve().expect("connections are taken"))
    };
    let (operator, told, operator_ended) = Peer::connect(&path);
    let vms = [Peer::connect(&path), Peer::connect(&path)];

    for line in input.split(|byte| *byte == b'\n').take(LINES) {
        let second = line.first() == Some(&b'>');
        let (vm, answers, _) = &vms[usize::from(second)];
        let line = &line[usize::from(second)..];
        if let [b'!', digit] = line {
            vm.manner.store(digit & 3, Ordering::Relaxed);
            continue;
        }
        let Ok(message) = ToDaemon::parse(line) else {
            vm.send(line);
            continue;
        };
        let is_operators = matches!(
            message,
            ToDaemon::Execute { .. } | ToDaemon::Snapshot { .. } | ToDaemon::Subscribe { .. }
        );
        let (peer, answers) = if is_operators { (&operator, &told) } else { (vm, answers) };
        peer.send(line);
        if let Some(id) = message.id() {
            answered(answers, id);
        }
        check(&server, [&vms[0].0, &vms[1].0]);
    }

    // Somebody says all of it, orders or no orders, and hangs up.
    let mut raw = UnixStream::connect(&path).expect("the daemon listens");
    let hello = serde_json::to_vec(&ToDaemon::Hello { version: VERSION }).expect("a message");
    let said = [&hello, &b"\n"[..], input].concat();
    let _ = raw.write_all(&said).and_then(|()| raw.shutdown(Shutdown::Write));
    raw.set_read_timeout(Some(PATIENCE)).expect("a limit");
    if let Err(error) = raw.read_to_end(&mut Vec::new()) {
        // It may have had enough before it had read everything.
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "the daemon hangs up: {error}");
    }

    operator.close();
    operator_ended.join().expect("the operator's answers can be read");
    for (vm, _, ended) in vms {
        vm.close();
        ended.join().expect("the VM's orders can be read");
    }
    let end = Instant::now() + PATIENCE;
    while server.host().snapshot().mdevs.iter().any(|mdev| mdev.attached) {
        assert!(Instant::now() < end, "a VM that is gone keeps its device");
        thread::sleep(Duration::from_millis(1));
    }
    server.stop();
    serving.join().expect("the daemon ends as it should");
}

/// No queue in two VMs; each that one has been given is assigned and bound.
fn check(server: &Server, vms: [&Peer; 2]) {
    // One that lies or has been dropped learns later than the host that it has lost something.
    let end = Instant::now() + PATIENCE;
    loop {
        let [one, other] = vms.map(|vm| *vm.masks.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(shared) = one.shared_apqns(&other).next() else { break };
        assert!(Instant::now() < end, "{shared} is in both VMs");
        thread::sleep(Duration::from_millis(1));
    }
    let snapshot = server.host().snapshot();
    for (at, mdev) in snapshot.mdevs.iter().enumerate() {
        for apqn in mdev.guest_matrix.apqns() {
            assert!(
                mdev.matrix.test(apqn) && snapshot.configuration.test(apqn),
                "{apqn} is not assigned or there"
            );
            let driver = snapshot.queue(apqn).and_then(|queue| queue.driver);
            assert_eq!(driver, Some(ap::host::Driver::VfioAp), "{apqn}");
        }
        for other in &snapshot.mdevs[at + 1..] {
            let shared = mdev.matrix.shared_apqns(&other.matrix).next();
            assert_eq!(shared, None, "in mdevs {} and {}", mdev.uuid, other.uuid);
        }
    }
}

pub fn session_seeds() -> Vec<Vec<u8>> {
    use ap::host::{Attribute, Operation};
    use crycb::Apqn;
    let mdevs: Vec<Uuid> = Description::builtin().mdevs().iter().map(|(uuid, _)| *uuid).collect();
    let (one, two) = (mdevs[0], mdevs[mdevs.len() - 1]);
    let line = |message: &ToDaemon| serde_json::to_string(message).expect("a message") + "\n";
    let join = |id| line(&ToDaemon::Join { id, vm: "guest".into() });
    let execute = |id, operation| line(&ToDaemon::Execute { id, operation });
    let queue = Apqn(0x0504);
    let given = [
        join(1),
        line(&ToDaemon::Attach { id: 2, mdev: one }),
        ">".to_owned() + &join(3),
        ">".to_owned() + &line(&ToDaemon::Attach { id: 4, mdev: two }),
    ]
    .concat();
    let used = [
        line(&ToDaemon::ResetDevice { id: 5 }),
        execute(6, Operation::Unbind { queue }),
        execute(7, Operation::Bind { queue, driver: ap::host::Driver::VfioAp }),
        execute(8, Operation::Write { mdev: one, attribute: Attribute::UnassignDomain("0x4".into()) }),
        line(&ToDaemon::Snapshot { id: 9 }),
        line(&ToDaemon::Report(Report::ResetDone { serial: 3, queue, response_code: 0 })),
        line(&ToDaemon::Report(Report::Confirm { serial: 4 })),
        line(&ToDaemon::Detach { id: 10 }),
        line(&ToDaemon::Subscribe { id: 11 }),
        execute(12, Operation::RemoveMdev { mdev: one }),
    ]
    .concat();
    ["", "!1\n", "!2\n", "!3\n"]
        .into_iter()
        .map(|manner| [given.as_str(), manner, used.as_str()].concat().into_bytes())
        .collect()
}
