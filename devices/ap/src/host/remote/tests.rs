use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crycb::{Apid, Apqn, Mask256, Matrix};
use uuid::Uuid;

use super::protocol::line;
use super::*;
use crate::host::{
    Attribute, Condition, Description, Driver, EventKind, LparChange, Machine, MaskAttribute, MatrixChange,
    Number, Operation, QueueStatus, Snapshot, WAITING, watch,
};

/// The first three guests of the built-in description.
const ONE: Uuid = Uuid::from_u128(0x62177883_f1bb_47f0_914d_32a22e3a8804);
const TWO: Uuid = Uuid::from_u128(0xcef03c3c_903d_4ecc_9a83_40694cb8aee4);
/// Longest that anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn mask(numbers: &[u8]) -> Mask256 {
    numbers.iter().copied().collect()
}

fn matrix(adapters: &[u8], domains: &[u8]) -> Matrix {
    Matrix { apm: mask(adapters), aqm: mask(domains), adm: mask(domains) }
}

struct Daemon {
    server: Arc<Server>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Daemon {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let server = Server::bind(&path, &Description::builtin()).unwrap();
        let thread = std::thread::spawn({
            let server = server.clone();
            move || server.serve()
        });
        Self { server, thread: Some(thread), path, _directory: directory }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    fn execute(&self, operation: Operation) -> Result<(), String> {
        self.client().execute(&operation).map_err(errno)
    }

    fn write(&self, mdev: Uuid, attribute: Attribute) -> Result<(), String> {
        self.execute(Operation::Write { mdev, attribute })
    }

    /// Something that every watcher is told.
    fn happen(&self) {
        self.server.host().write_mask(MaskAttribute::Apmask, "+0").unwrap();
    }

    fn snapshot(&self) -> Snapshot {
        self.client().snapshot().unwrap()
    }

    /// A connection without a protocol.
    fn raw(&self) -> Raw {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Raw(LineReader::new(stream, MAX_ANSWER))
    }

    #[track_caller]
    fn until(&self, what: &str, mut reached: impl FnMut(&Snapshot) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !reached(&self.snapshot()) {
            assert!(Instant::now() < deadline, "waited too long for {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.server.stop();
        let ended = self.thread.take().expect("joined once").join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
            assert!(!self.path.exists());
        }
    }
}

fn errno(error: RemoteError) -> String {
    match error {
        RemoteError::Refused(error) => error.errno().to_owned(),
        other => panic!("{other:?}"),
    }
}

struct Raw(LineReader<UnixStream>);

impl Raw {
    fn send(&self, text: impl AsRef<[u8]>) {
        self.0.get_ref().write_all(text.as_ref()).unwrap();
    }

    fn greet(self) -> Self {
        self.send(line(&ToDaemon::Hello { version: VERSION }));
        let mut this = self;
        assert_eq!(this.hear(), Some(FromDaemon::Hello { version: VERSION }));
        this
    }

    /// `None` when the connection has ended.
    fn hear(&mut self) -> Option<FromDaemon> {
        let line = self.0.line().unwrap()?;
        Some(serde_json::from_slice(line).unwrap())
    }

    /// The errno and request of a refusal.
    #[track_caller]
    fn refused(&mut self) -> (String, Option<u64>) {
        match self.hear() {
            Some(FromDaemon::Refused { id, refusal }) => (refusal.errno, id),
            other => panic!("{other:?}"),
        }
    }
}

/// What a VM does with its orders.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Obedient,
    /// Confirms nothing.
    Silent,
    /// Resets nothing.
    NoResets,
}

/// A VM without a guest.
struct Vm {
    sender: Arc<VmSender>,
    told: Receiver<Incoming>,
}

impl Vm {
    fn attach(daemon: &Daemon, mdev: Uuid, manner: Manner) -> Result<Self, String> {
        let mut client = VmClient::join(&daemon.path, "test").map_err(errno)?;
        client.attach(mdev).map_err(errno)?;
        let (sender, (tell, told)) = (client.sender(), channel());
        let say = sender.clone();
        std::thread::spawn(move || {
            while let Ok(Some(incoming)) = client.next(None) {
                let report = match &incoming {
                    Incoming::Order(Order::SetMasks { serial, .. }) if manner != Manner::Silent => {
                        Some(Report::Confirm { serial: *serial })
                    }
                    Incoming::Order(Order::Zapq { serial, queue }) if manner == Manner::Obedient => {
                        Some(Report::ResetDone { serial: *serial, queue: *queue, response_code: 0 })
                    }
                    Incoming::Order(Order::Statistics { serial }) => {
                        let count = |queue, requests| QueueCount {
                            queue,
                            requests,
                            pending: 2,
                            answered: 1,
                            answer_time: 7,
                        };
                        // The second is not in the configuration.
                        let queues = vec![count(Apqn(0x0504), 5), count(Apqn(0x0104), 6)];
                        Some(Report::Statistics { serial: Some(*serial), queues })
                    }
                    Incoming::Order(Order::Request) => {
                        say.detach().unwrap();
                        None
                    }
                    _ => None,
                };
                if report.is_some_and(|report| say.report(report).is_err()) || tell.send(incoming).is_err() {
                    break;
                }
            }
        });
        Ok(Self { sender, told })
    }

    /// Waits until it is told what `wanted` takes.
    #[track_caller]
    fn told<T>(&self, what: &str, wanted: impl Fn(&Order) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let incoming = self.told.recv_timeout(left).unwrap_or_else(|e| panic!("{what}: {e}"));
            if let Incoming::Order(order) = incoming
                && let Some(found) = wanted(&order)
            {
                return found;
            }
        }
    }

    #[track_caller]
    fn masks(&self, want: Matrix) {
        self.told(&format!("{want:?}"), |order| match order {
            Order::SetMasks { matrix, .. } => (*matrix == want).then_some(()),
            _ => None,
        });
    }
}

impl Drop for Vm {
    /// As when its process is killed.
    fn drop(&mut self) {
        self.sender.close();
    }
}

#[test]
fn two_vms_on_one_host() {
    let daemon = Daemon::new();
    let one = Vm::attach(&daemon, ONE, Manner::Obedient).unwrap();
    let two = Vm::attach(&daemon, TWO, Manner::Obedient).unwrap();
    one.masks(matrix(&[5, 6], &[4, 0xab]));
    two.masks(matrix(&[5], &[0x47, 0xff]));
    let attached = |snapshot: &Snapshot| snapshot.mdevs.iter().map(|mdev| mdev.attached).collect::<Vec<_>>();
    assert_eq!(attached(&daemon.snapshot()), [true, true, false, false]);

    let nobody = Uuid::from_u128(1);
    assert_eq!(Vm::attach(&daemon, ONE, Manner::Obedient).err().unwrap(), "EBUSY");
    assert_eq!(Vm::attach(&daemon, nobody, Manner::Obedient).err().unwrap(), "ENOENT");
    let six = Attribute::AssignAdapter("6".into());
    assert_eq!(daemon.write(TWO, six).unwrap_err(), "EADDRINUSE", "06.0047 is of the third");
}

#[test]
fn conflicts() {
    let daemon = Daemon::new();
    let one = Vm::attach(&daemon, ONE, Manner::Obedient).unwrap();
    let mine = Uuid::from_u128(7);
    let check = |operation, want: &str| assert_eq!(daemon.execute(operation).unwrap_err(), want);
    let write = |mdev, attribute| Operation::Write { mdev, attribute };
    check(write(TWO, Attribute::AssignDomain("4".into())), "EADDRINUSE");
    check(write(TWO, Attribute::AssignDomain("4x".into())), "EINVAL");
    daemon.execute(Operation::WriteMask { mask: MaskAttribute::Apmask, value: "+5".into() }).unwrap();
    check(Operation::WriteMask { mask: MaskAttribute::Aqmask, value: "+4".into() }, "EBUSY");
    check(Operation::CreateMdev { mdev: ONE }, "EEXIST");
    check(Operation::Unbind { queue: Apqn(0x0105) }, "ENODEV");
    assert_eq!(daemon.execute(Operation::CreateMdev { mdev: mine }), Ok(()));
    assert_eq!(daemon.write(mine, Attribute::AssignAdapter("7".into())), Ok(()));
    check(write(mine, Attribute::AssignDomain("5".into())), "EADDRNOTAVAIL");

    // A VM can have one device, and keeps that one.
    one.masks(matrix(&[5, 6], &[4, 0xab]));
    let mut raw = daemon.raw().greet();
    let attach = |id, mdev| line(&ToDaemon::Attach { id, mdev });
    raw.send(attach(1, TWO));
    assert_eq!(raw.refused(), ("EINVAL".into(), Some(1)));
    raw.send(line(&ToDaemon::Join { id: 1, vm: String::new() }));
    while raw.hear() != Some(FromDaemon::Done { id: 1 }) {}
    raw.send(attach(1, TWO));
    while raw.hear() != Some(FromDaemon::Done { id: 1 }) {}
    raw.send(attach(2, mine));
    assert_eq!(raw.refused(), ("EPERM".into(), Some(2)));
    raw.send(attach(3, ONE));
    assert_eq!(raw.refused(), ("EBUSY".into(), Some(3)));
    assert!(daemon.snapshot().mdev(TWO).unwrap().attached);
}

#[test]
fn a_killed_vm_releases_its_queues() {
    let daemon = Daemon::new();
    let one = Vm::attach(&daemon, ONE, Manner::NoResets).unwrap();
    one.masks(matrix(&[5, 6], &[4, 0xab]));
    let queue = Apqn(0x0504);
    let status = |snapshot: &Snapshot| snapshot.queue(queue).unwrap().status;
    assert_eq!(status(&daemon.snapshot()), Some(QueueStatus::InUse));
    std::thread::scope(|scope| {
        // It is told to reset 05.00ab, does not, and dies: that is a reset.
        let operation = scope.spawn(|| daemon.write(ONE, Attribute::UnassignDomain("0xab".into())));
        one.told("the reset", |order| matches!(order, Order::Zapq { queue: Apqn(0x05ab), .. }).then_some(()));
        assert_eq!(daemon.snapshot().queue(Apqn(0x05ab)).unwrap().last_reset, 0x02);
        drop(one);
        assert_eq!(operation.join().unwrap(), Ok(()));
    });
    daemon.until("the end of the VM", |snapshot| !snapshot.mdev(ONE).unwrap().attached);
    daemon.until("the resets", |snapshot| {
        [queue, Apqn(0x05ab)].iter().all(|queue| snapshot.queue(*queue).unwrap().last_reset == 0)
    });
    assert_eq!(status(&daemon.snapshot()), Some(QueueStatus::Assigned));
    let next = Vm::attach(&daemon, ONE, Manner::Obedient).unwrap();
    next.masks(matrix(&[5, 6], &[4]).with_adm(&[4, 0xab]));
}

/// A queue goes from one running VM to another only after the first has reset it.
#[test]
fn a_queue_changes_hands() {
    let daemon = Daemon::new();
    let one = Vm::attach(&daemon, ONE, Manner::NoResets).unwrap();
    let two = Vm::attach(&daemon, TWO, Manner::Obedient).unwrap();
    one.masks(matrix(&[5, 6], &[4, 0xab]));
    two.masks(matrix(&[5], &[0x47, 0xff]));
    std::thread::scope(|scope| {
        let give = scope.spawn(|| daemon.write(ONE, Attribute::UnassignAdapter("5".into())));
        let zapq = |domain: u8| {
            move |order: &Order| match order {
                Order::Zapq { serial, queue } if *queue == Apqn(0x0500 | u16::from(domain)) => Some(*serial),
                _ => None,
            }
        };
        let first = one.told("a reset", zapq(4));
        let other = one.told("another reset", zapq(0xab));
        let take = scope.spawn(|| daemon.write(TWO, Attribute::AssignDomain("4".into())));
        two.masks(matrix(&[], &[0x47, 0xff, 4]).with_adm(&[0x47, 0xff]));
        // Lies have no effect: another's queue, a serial of long ago.
        let done = |serial, queue| Report::ResetDone { serial, queue, response_code: 0 };
        two.sender.report(done(first, Apqn(0x0504))).unwrap();
        one.sender.report(done(first - 1, Apqn(0x0504))).unwrap();
        one.sender.report(done(first, Apqn(0x0506))).unwrap();
        one.sender.report(done(other, Apqn(0x05ab))).unwrap();
        daemon.until("the end of the other reset", |snapshot| {
            snapshot.queue(Apqn(0x05ab)).unwrap().last_reset == 0
        });
        assert_eq!(daemon.snapshot().queue(Apqn(0x0504)).unwrap().last_reset, 0x02);
        // As the filter took the whole adapter out, it was ordered again, and only the last order counts.
        let last = one.told("the reset once more", zapq(4));
        assert!(last > first);
        one.sender.report(done(first, Apqn(0x0504))).unwrap();
        one.sender.report(done(last, Apqn(0x0504))).unwrap();
        two.masks(matrix(&[5], &[4, 0x47, 0xff]).with_adm(&[0x47, 0xff]));
        assert_eq!((give.join().unwrap(), take.join().unwrap()), (Ok(()), Ok(())));
    });
}

trait WithAdm {
    fn with_adm(self, domains: &[u8]) -> Self;
}

impl WithAdm for Matrix {
    fn with_adm(self, domains: &[u8]) -> Self {
        Self { adm: mask(domains), ..self }
    }
}

#[test]
fn a_running_vm_is_told_what_changes() {
    let daemon = Daemon::new();
    let one = Vm::attach(&daemon, ONE, Manner::Obedient).unwrap();
    let (all, adm) = (matrix(&[5, 6], &[4, 0xab]), [4, 0xab]);
    one.told("the hook", |order| (*order == Order::SetHook { present: true }).then_some(()));
    one.masks(all);
    let report = |what: &str| one.told(what, |order| (*order == Order::ConfigChanged).then_some(()));

    daemon.execute(Operation::Unbind { queue: Apqn(0x06ab) }).unwrap();
    one.masks(matrix(&[5], &adm));
    report("unplug by unbind");
    daemon.execute(Operation::Bind { queue: Apqn(0x06ab), driver: Driver::VfioAp }).unwrap();
    one.masks(all);
    report("plug by bind");

    let change = |change| daemon.execute(Operation::Configure { changes: vec![change] }).unwrap();
    let condition = Condition::Offline;
    change(LparChange::SetCondition { adapter: Number(5), condition });
    let online = |order: &Order| match order {
        Order::Hardware { lpar } => Some(lpar.adapter(Apid(5)).map(|adapter| adapter.condition)),
        _ => None,
    };
    assert_eq!(one.told("the hardware", online), Some(condition));
    report("an adapter offline");

    change(LparChange::RemoveAdapter { adapter: Number(5) });
    assert_eq!(one.told("the hardware", online), None);
    one.masks(matrix(&[6], &adm));
    report("unplug by the support element");
    let adapter = Description::builtin().adapters()[0].clone();
    change(LparChange::AddAdapter { adapter });
    assert_eq!(one.told("the hardware", online), Some(Condition::Online));
    one.masks(all);
    report("plug by the support element");

    one.sender.reset_device().unwrap();
    one.told("a reset", |order| matches!(order, Order::Zapq { .. }).then_some(()));
}

#[test]
fn a_device_is_asked_back() {
    let daemon = Daemon::new();
    let one = Vm::attach(&daemon, ONE, Manner::Obedient).unwrap();
    assert_eq!(daemon.execute(Operation::RemoveMdev { mdev: ONE }), Ok(()));
    one.told("the request", |order| (*order == Order::Request).then_some(()));
    assert!(daemon.snapshot().mdev(ONE).is_none());
    // The connection is there for another device.
    assert!(one.sender.reset_device().is_ok());
}

#[test]
fn a_vm_that_does_not_answer_loses_the_device() {
    let daemon = Daemon::new();
    let _silent = Vm::attach(&daemon, ONE, Manner::Silent).unwrap();
    assert_eq!(daemon.write(ONE, Attribute::UnassignAdapter("6".into())), Ok(()));
    daemon.until("the loss", |snapshot| !snapshot.mdev(ONE).unwrap().attached);
    assert!(Vm::attach(&daemon, ONE, Manner::Obedient).is_ok());
}

#[test]
fn figures_of_the_vms() {
    let daemon = Daemon::new();
    let count = |queue: u16| {
        let snapshot = daemon.snapshot();
        let queue = snapshot.queue(Apqn(queue)).unwrap();
        (queue.requests, queue.pending)
    };
    assert_eq!(count(0x0504), (Some(0), Some(0)));
    let one = Vm::attach(&daemon, ONE, Manner::Obedient).unwrap();
    // A snapshot does not wait long for a VM.
    daemon.until("the VM's figures", |snapshot| snapshot.queue(Apqn(0x0504)).unwrap().requests == Some(5));
    assert_eq!((count(0x0504), count(0x0604)), ((Some(5), Some(2)), (Some(0), Some(0))));
    drop(one);
    daemon.until("the end of the VM", |snapshot| !snapshot.mdev(ONE).unwrap().attached);
    assert_eq!(count(0x0504), (Some(5), Some(0)));
}

#[test]
fn events() {
    let daemon = Daemon::new();
    let mut events = daemon.client().subscribe().unwrap();
    let one = Vm::attach(&daemon, ONE, Manner::Obedient).unwrap();
    daemon.execute(Operation::Unbind { queue: Apqn(0x0604) }).unwrap();
    drop(one);
    let mut next = || events.next().unwrap().unwrap();
    let first = next();
    assert_eq!(first.kind, EventKind::Attached { mdev: ONE });
    let unplugged = vec![Apqn(0x0604), Apqn(0x06ab)];
    let second = next();
    let change = MatrixChange { unplugged, ..MatrixChange::default() };
    assert_eq!(second.kind, EventKind::GuestMatrix { mdev: ONE, change });
    assert_eq!(second.number, first.number + 1);
    while next().kind != (EventKind::Detached { mdev: ONE }) {}
}

/// A VM whose events nobody takes: it reads them all the same, and keeps its connection. When that ends, there is another.
#[test]
fn a_vm_that_is_not_managed() {
    let daemon = Daemon::new();
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    let (teller, events) = watch(Box::new(move || _ = count.fetch_add(1, Ordering::SeqCst)));
    let (path, first) = (daemon.path.clone(), daemon.client().subscribe().unwrap());
    let over = Arc::new(AtomicBool::new(false));
    let is_over = over.clone();
    let follower =
        std::thread::spawn(move || follow(&path, Some(first), &teller, || is_over.load(Ordering::SeqCst)));
    let deadline = Instant::now() + PATIENCE;
    while told.load(Ordering::SeqCst) < 3 * WAITING {
        daemon.happen();
        assert!(Instant::now() < deadline, "it takes {told:?} events");
    }
    let taken: Vec<_> = events.try_iter().take(WAITING + 1).collect();
    assert_eq!(taken[WAITING].kind, EventKind::Lost);
    assert!(taken[WAITING].number > taken[WAITING - 1].number);

    for client in daemon.server.clients().values() {
        client.close();
    }
    let next = || events.recv_timeout(PATIENCE).unwrap();
    while next().kind != EventKind::Lost {}
    let after = loop {
        daemon.happen();
        match events.recv_timeout(Duration::from_millis(10)) {
            Ok(event) if event.kind != EventKind::Lost => break event,
            Ok(_) | Err(RecvTimeoutError::Timeout) => assert!(Instant::now() < deadline, "events again"),
            Err(error) => panic!("{error}"),
        }
    };
    assert!(after.number > taken[WAITING].number);
    over.store(true, Ordering::SeqCst);
    follower.join().unwrap();
}

#[test]
fn a_client_that_never_reads() {
    let daemon = Daemon::new();
    let slow = daemon.raw().greet();
    slow.send(line(&ToDaemon::Subscribe { id: 1 }));
    let mut patient = daemon.client().subscribe().unwrap();
    // More than the sockets and the queues take. One that takes nothing at all for seconds is dropped.
    for n in 0..6 * WAITING {
        daemon.happen();
        if n % 4 == 0 {
            assert!(patient.next().unwrap().is_ok());
        }
    }
    // Who comes back in time is told that it missed some, though nothing else happens.
    let lost = patient.find(|event| event.as_ref().map_or(true, |event| event.kind == EventKind::Lost));
    assert!(matches!(lost, Some(Ok(_))), "{lost:?}");
    // Requests, and nobody takes the answers.
    let stream = slow.0.get_ref();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let request = line(&ToDaemon::Snapshot { id: 2 });
    let deadline = Instant::now() + PATIENCE;
    while (&mut &*stream).write_all(&request).is_ok() || daemon.server.clients().len() > 1 {
        assert!(Instant::now() < deadline, "it is dropped");
    }
    // The others did not notice.
    assert_eq!(daemon.snapshot().mdevs.len(), 4);
}

#[test]
fn nonsense() {
    let daemon = Daemon::new();
    // What cannot be a hello ends the connection.
    for (text, errno) in [
        ("\n", "EINVAL"),
        ("GET / HTTP/1.1\r\n", "EINVAL"),
        ("\0\u{1}\u{2}\n", "EINVAL"),
        ("{\"message\":\"snapshot\",\"id\":1}\n", "EPROTO"),
        ("{\"message\":\"hello\",\"version\":2}\n", "EPROTO"),
        ("{\"message\":\"hello\",\"version\":-1}\n", "EINVAL"),
    ] {
        let mut raw = daemon.raw();
        raw.send(text);
        assert_eq!(raw.refused().0, errno, "{text:?}");
        assert_eq!(raw.hear(), None, "{text:?}");
    }
    // What comes later does not, for a while.
    let mut raw = daemon.raw().greet();
    let deep = "[".repeat(100_000);
    let long_name = format!(r#"{{"message":"join","id":6,"vm":"{deep}"}}"#);
    for (text, errno, id) in [
        ("{}", "EINVAL", None),
        (&deep, "EINVAL", None),
        (r#"{"message":"hello","version":1}"#, "EPROTO", None),
        (r#"{"message":"detach","id":3}"#, "EINVAL", Some(3)),
        (r#"{"message":"reset-device","id":4}"#, "EINVAL", Some(4)),
        (r#"{"message":"detach","id":5,"x":0}"#, "EINVAL", Some(5)),
        (&long_name, "EINVAL", Some(6)),
    ] {
        raw.send(format!("{text}\n"));
        assert_eq!(raw.refused(), (errno.into(), id), "{text:.60}");
    }
    raw.send(line(&ToDaemon::Report(Report::Confirm { serial: u64::MAX })));
    raw.send(line(&ToDaemon::Report(Report::Statistics { serial: None, queues: vec![] })));
    raw.send(line(&ToDaemon::Snapshot { id: 9 }));
    assert!(matches!(raw.hear(), Some(FromDaemon::Snapshot { id: 9, .. })));
    for _ in 0..MAX_NONSENSE - 4 {
        raw.send("x\n");
        assert_eq!(raw.refused().0, "EINVAL");
    }
    raw.send("x\n");
    assert_eq!((raw.refused().0.as_str(), raw.hear()), ("EINVAL", None));

    let mut raw = daemon.raw().greet();
    // It stops reading somewhere in the middle.
    let _ = raw.0.get_ref().write_all(&vec![b' '; MAX_LINE + (64 << 10)]);
    assert_eq!(raw.refused().0, "EMSGSIZE");
    assert_eq!(daemon.snapshot().mdevs.len(), 4);
}

#[test]
fn too_many_clients() {
    let daemon = Daemon::new();
    let clients: Vec<Client> = (0..MAX_CLIENTS).map(|_| daemon.client()).collect();
    let refused = Client::connect(&daemon.path).map_err(errno).unwrap_err();
    assert_eq!(refused, "EUSERS");
    drop(clients);
    let deadline = Instant::now() + PATIENCE;
    while Client::connect(&daemon.path).is_err() {
        assert!(Instant::now() < deadline, "room again");
    }
}

#[test]
fn the_socket() {
    let description = Description::builtin();
    let daemon = Daemon::new();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&daemon.path) & 0o7777, 0o600);
    let refused = |path| Server::bind(path, &description).err().unwrap().kind();
    assert_eq!(refused(&daemon.path), std::io::ErrorKind::AddrInUse);
    assert_eq!(daemon.snapshot().mdevs.len(), 4, "it is still served");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x");
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(refused(&path), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(Client::connect(&path), Err(RemoteError::Connect { .. })));
    let server = Server::bind(&path, &description).unwrap();
    assert_eq!((mode(&path) & 0o7777, std::fs::read_dir(&directory).unwrap().count()), (0o600, 1));
    server.stop();
    assert!(!path.exists());
}

#[test]
fn clients_notice_the_end_of_the_daemon() {
    let daemon = Daemon::new();
    let one = Vm::attach(&daemon, ONE, Manner::Obedient).unwrap();
    let raw = daemon.raw().greet();
    drop(daemon);
    assert!(matches!(raw.0.get_ref().read(&mut [0]), Ok(0)));
    let deadline = Instant::now() + PATIENCE;
    while one.sender.report(Report::Confirm { serial: 1 }).is_ok() {
        assert!(Instant::now() < deadline, "the connection ends");
    }
}

/// Without a VM, the machine is the ideal one.
#[test]
fn a_machine_without_vms() {
    let lpar = crate::host::Lpar::of(&Description::builtin());
    let (machine, ideal) = (RemoteMachine::new(lpar.clone()), crate::host::IdealMachine::new(lpar));
    for queue in [Apqn(0x0504), Apqn(0x0505), Apqn(0x0704), Apqn(0x0aff)] {
        assert_eq!(machine.zapq(queue), ideal.zapq(queue));
        assert_eq!(machine.tapq(queue), ideal.tapq(queue));
    }
    assert_eq!(machine.qci(), ideal.qci());
}
