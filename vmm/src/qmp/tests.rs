//! Conversations with a scripted machine, without sockets.

use std::time::UNIX_EPOCH;

use ap::host::MatrixChange;
use ap::passthrough::Places;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::commands::{Metrics, Shared, Threads};
use super::descriptors::Sets;
use super::schema::Type;
use super::session::{LONGEST_ID, MOST_OUTPUT, Session};
use super::{About, LONGEST_LINE, table};
use crate::board::Board;
use crate::board::tests::{Bench, bench, bench_with_real_cards};
use crate::config::WatchdogAction;
use crate::control::End;
use crate::crash::{Crash, Reason, Recent, Report};
use crate::events::{Event, ResetCause};

/// A client of a scripted machine with the CPUs 0 (operating) and 1.
struct Talk {
    bench: Bench,
    shared: Shared,
    session: Session,
}

impl Talk {
    fn new() -> Self {
        Self::with(bench())
    }

    fn with(bench: Bench) -> Self {
        let shared = Shared {
            about: About::default(),
            sets: Sets::default(),
            metrics: Metrics::default(),
            since: std::time::Instant::now(),
            threads: Threads::default(),
            process: Default::default(),
        };
        bench.vm.operating.store(1, std::sync::atomic::Ordering::SeqCst);
        Self { bench, shared, session: Session::new() }
    }

    fn board(&self) -> &Board {
        &self.bench.board
    }

    fn tell(&mut self) {
        let (events, lost) = self.bench.board.control.events().take();
        for (_, event) in events {
            let (name, data) = event.describe();
            self.session.event(UNIX_EPOCH, name, data.as_ref(), &mut self.shared);
        }
        self.session.lost(lost, &mut self.shared);
    }

    /// What the server does whenever something has happened.
    fn serve(&mut self) {
        self.tell();
        while let Some(reply) = self.session.advance(&self.bench.board, &mut self.shared) {
            self.tell();
            self.session.reply(reply, &self.bench.board, &mut self.shared);
        }
        self.tell();
    }

    /// The client sends `bytes`.
    fn send(&mut self, mut bytes: &[u8]) {
        loop {
            let (now, later) = bytes.split_at(bytes.len().min(self.session.room()));
            self.session.input(now, Vec::new());
            self.serve();
            bytes = later;
            if bytes.is_empty() || now.is_empty() {
                return;
            }
        }
    }

    /// The client reads everything.
    fn read(&mut self) -> String {
        let mut all = Vec::new();
        while !self.session.output().is_empty() {
            let part = self.session.output().to_vec();
            self.session.written(part.len());
            all.extend(part);
            self.serve();
        }
        String::from_utf8(all).unwrap()
    }

    /// What is answered to `bytes`, as values.
    fn values(&mut self, bytes: &[u8]) -> Vec<Value> {
        self.send(bytes);
        let text = self.read();
        assert!(text.is_empty() || text.ends_with("\r\n"));
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The CPUs of the scripted machine have no threads: two that park, until the guest goes on.
    fn hold(&mut self) {
        std::thread::scope(|scope| {
            for cpu in [0, 1] {
                let board = self.board();
                scope.spawn(move || {
                    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
                    while !board.control.park(cpu, false) {
                        assert!(std::time::Instant::now() < end, "nobody asks for it");
                        std::thread::yield_now();
                    }
                });
            }
            self.bench.board.hold();
            while !self.bench.board.held() {
                std::thread::yield_now();
            }
            self.bench.board.release();
        });
    }
}

fn negotiated() -> Talk {
    let mut talk = Talk::new();
    let greeting = talk.values(b"{'execute':'qmp_capabilities'}");
    assert_eq!(greeting[1..], [json!({"return": {}})]);
    talk
}

/// A transcript: what is sent, and what comes back.
fn transcript(talk: &mut Talk, sent: &[&str]) -> String {
    let mut text = talk.read().lines().map(|line| format!("<- {line}\n")).collect::<String>();
    for command in sent {
        text += &format!("-> {command}\n");
        talk.send(command.as_bytes());
        text.extend(talk.read().lines().map(|line| format!("<- {line}\n")));
    }
    text
}

#[test]
fn negotiation() {
    let text = transcript(
        &mut Talk::new(),
        &[
            r#"{"execute":"query-status","id":1}"#,
            r#"{"execute":"qmp_capabilities","arguments":{"enable":["telepathy"]},"id":"x"}"#,
            r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":{"a":[null]}}"#,
            r#"{"execute":"qmp_capabilities"}"#,
            r#"{"exec-oob":"query-status","id":2}"#,
            r#"{"exec-oob":"query-name","id":3}"#,
            r#"{"execute":"nonsense","id":4}"#,
        ],
    );
    insta::assert_snapshot!(text);
}

#[test]
fn queries() {
    let text = transcript(
        &mut negotiated(),
        &[
            r#"{"execute":"query-version"}"#,
            r#"{"execute":"query-commands"}"#,
            r#"{"execute":"query-status"}"#,
            r#"{"execute":"query-name"}"#,
            r#"{"execute":"query-uuid"}"#,
            r#"{"execute":"query-kvm"}"#,
            r#"{"execute":"query-cpus-fast"}"#,
            r#"{"execute":"query-fdsets"}"#,
            r#"{"execute":"qom-list","arguments":{"path":"/"}}"#,
            r#"{"execute":"qom-list","arguments":{"path":"/machine"}}"#,
            r#"{"execute":"qom-list","arguments":{"path":"/machine/unattached"}}"#,
            r#"{"execute":"qom-list","arguments":{"path":"/machine/unattached/device[1]"}}"#,
            r#"{"execute":"qom-list","arguments":{"path":"/machine/unattached/device[2]"}}"#,
            r#"{"execute":"qom-list","arguments":{"path":"/../etc"}}"#,
            r#"{"execute":"device-list-properties","arguments":{"typename":"e1000"}}"#,
        ],
    );
    insta::assert_snapshot!(text);
}

#[test]
fn life() {
    let text = transcript(
        &mut negotiated(),
        &[
            r#"{"execute":"cont"}"#,
            r#"{"execute":"system_reset"}"#,
            r#"{"execute":"inject-nmi"}"#,
            r#"{"execute":"system_powerdown"}"#,
            r#"{"execute":"migrate","arguments":{"uri":"tcp:host:1"}}"#,
            r#"{"execute":"quit","id":9}"#,
            r#"{"execute":"cont"}"#,
            r#"{"execute":"query-status"}"#,
        ],
    );
    insta::assert_snapshot!(text);
}

#[test]
fn monitor_words() {
    let line = |line: &str| {
        json!({"execute": "human-monitor-command", "arguments": {"command-line": line}}).to_string()
    };
    let lines = ["", "help", "info", "info cpus", "info kvm", "info name", "info status", "info uuid"];
    let more = ["info version", "info nothing", "cont", "nmi", "system_reset", "fly", "stop now", "q"];
    let lines: Vec<_> = lines.iter().chain(&more).map(|l| line(l)).collect();
    let text = transcript(&mut negotiated(), &lines.iter().map(String::as_str).collect::<Vec<_>>());
    insta::assert_snapshot!(text);
}

#[test]
fn bad_commands() {
    let text = transcript(
        &mut negotiated(),
        &[
            "hello\n",
            "[]",
            "{}",
            r#"{"execute":5}"#,
            r#"{"execute":"stop","exec-oob":"stop"}"#,
            r#"{"exec-oob":"query-status"}"#,
            r#"{"execute":"stop","control":{}}"#,
            r#"{"execute":"stop","arguments":[]}"#,
            r#"{"execute":"stop","arguments":{"now":true}}"#,
            r#"{"execute":"stop","execute":"cont"}"#,
            r#"{"execute":"getfd"}"#,
            r#"{"execute":"getfd","arguments":{"fdname":7}}"#,
            r#"{"execute":"getfd","arguments":{"fdname":"a","b":1}}"#,
            r#"{"execute":"getfd","arguments":{"fdname":"a"}}"#,
            r#"{"execute":"closefd","arguments":{"fdname":"a"}}"#,
            r#"{"execute":"remove-fd","arguments":{"fdset-id":-1}}"#,
            r#"{"execute":"x-subscribe","arguments":{"events":["RESET"]}}"#,
            r#"{"execute":"human-monitor-command","arguments":{"command-line":"","cpu-index":9}}"#,
        ],
    );
    insta::assert_snapshot!(text);
}

/// Every identifier comes back as long as a line has room for it; then one is told why, and that is the end.
#[test]
fn identifiers() {
    let numbers = json!(vec![1e15; 40]);
    for id in [json!("x".repeat(2000)), json!({"a": [null, 1]}), numbers, json!("x".repeat(LONGEST_ID - 2))] {
        let mut talk = negotiated();
        let answer = talk.values(json!({"execute": "query-name", "id": id}).to_string().as_bytes());
        assert_eq!((answer.len(), &answer[0]["id"]), (1, &id));
        assert!(answer[0].get("return").is_some() && !talk.session.is_closed(), "{}", answer[0]);
    }
    // The identifier has room, the answer has not.
    let mut talk = negotiated();
    let id = json!("x".repeat(LONGEST_ID - 2));
    let answer = talk.values(json!({"execute": "query-qmp-schema", "id": id}).to_string().as_bytes());
    let said = answer[0]["error"]["desc"].as_str().unwrap();
    assert!(said.contains("shorter id") && answer[0]["id"] == id, "{said}");
    // Numbers may come back longer than they were sent.
    for id in [format!("\"{}\"", "x".repeat(LONGEST_ID)), format!("[{}1]", "1e15,".repeat(10_000))] {
        let mut talk = negotiated();
        let commands = format!("{{'execute':'query-name','id':{id}}}{{'execute':'query-name'}}");
        let answer = talk.values(commands.as_bytes());
        assert_eq!(answer.len(), 1, "nothing is answered after that");
        let said = answer[0]["error"]["desc"].as_str().unwrap();
        assert!(said.starts_with("id: more than") && said.contains("connection ends"), "{said}");
        assert!(talk.session.is_closed() && talk.session.is_idle() && talk.session.room() == 0);
        talk.board().control.events().post(Event::Resume);
        talk.serve();
        assert_eq!(talk.read(), "");
    }
}

/// An event that no line has room for is counted, and the next one says so.
#[test]
fn an_event_of_any_size() {
    let mut talk = negotiated();
    talk.send(br#"{"execute":"x-subscribe","arguments":{"events":["*"]}}"#);
    talk.read();
    let kind = ap::host::EventKind::Adapter {
        adapter: "x".repeat(2 * LONGEST_LINE),
        condition: ap::host::Condition::Offline,
    };
    let event = Box::new(ap::host::Event { number: 1, kind });
    talk.board().control.events().post(Event::ApHost { event, guest: false });
    talk.board().control.events().post(Event::Resume);
    talk.serve();
    let text = talk.read();
    assert!(
        text.lines().count() == 1 && text.contains("\"RESUME\"") && text.contains("\"x-dropped\":1"),
        "{text}"
    );
    assert_eq!((talk.shared.metrics.events, talk.shared.metrics.events_dropped), (1, 1));
}

#[test]
fn events() {
    let mut talk = Talk::new();
    talk.board().control.events().post(Event::Resume);
    talk.serve();
    assert_eq!(talk.read().lines().count(), 1, "the greeting, and no event before negotiation");
    let mut talk = negotiated();
    let storage = talk.bench.storage.clone();
    let mut cpu = crate::scripted::ScriptedCpu::new(&storage, &[]);
    let report = Report::of(&mut cpu, &storage, &Recent::default(), |_, _| String::new());
    let crash = Crash { cpu: 1, reason: Reason::DisabledWait, report };
    let post = |talk: &mut Talk| {
        let events = talk.bench.board.control.events();
        for event in [
            Event::Stop,
            Event::Resume,
            Event::Reset(ResetCause::Guest),
            Event::PowerDown,
            Event::Watchdog(WatchdogAction::None),
            Event::Clients(3),
        ] {
            events.post(event);
        }
        for end in [End::PoweredOff, End::Crashed(Box::new(crash.clone())), End::Stopped("SIGINT")] {
            Event::of_end(&end).into_iter().for_each(|event| events.post(event));
        }
        talk.serve();
    };
    post(&mut talk);
    let text = transcript(&mut talk, &[r#"{"execute":"x-subscribe","arguments":{"events":["*"]}}"#]);
    insta::assert_snapshot!(text);
    post(&mut talk);
    assert_eq!(talk.read().matches("X_CLIENTS_CHANGED").count(), 1);
    talk.send(br#"{"execute":"x-unsubscribe","arguments":{"events":["X_CLIENTS_CHANGED"]}}"#);
    post(&mut talk);
    assert_eq!(talk.read().matches("X_CLIENTS_CHANGED").count(), 0);
}

/// Every event there is has a row and data of the row's type, and no row is left over.
#[test]
fn events_are_of_their_types() {
    let storage = bench().storage;
    let mut cpu = crate::scripted::ScriptedCpu::new(&storage, &[]);
    let report = Report::of(&mut cpu, &storage, &Recent::default(), |_, _| String::new());
    let crashed = |reason| End::Crashed(Box::new(Crash { cpu: 1, reason, report: report.clone() }));
    let mut all: Vec<Event> = Reason::ALL.map(crashed).iter().flat_map(Event::of_end).collect();
    let ends = [
        End::PoweredOff,
        End::Watchdog,
        End::Stopped("quit"),
        End::Stopped("SIGTERM"),
        End::Stopped("Ctrl-a x"),
        End::Failed("x".into()),
    ];
    all.extend(ends.iter().flat_map(Event::of_end));
    let queues = vec![crycb::Apqn(0x0504)];
    let mdev = uuid::Uuid::nil();
    for plugged in [queues.clone(), (0..5000).map(crycb::Apqn).collect()] {
        let change = MatrixChange { plugged, ..MatrixChange::default() };
        all.push(Event::ApConfigChanged { mdev, change });
    }
    for action in [WatchdogAction::Reset, WatchdogAction::Poweroff, WatchdogAction::None] {
        all.push(Event::Watchdog(action));
    }
    all.extend([ResetCause::Guest, ResetCause::Management].map(Event::Reset));
    all.extend([None, Some("ap0".to_owned())].map(Event::DeviceDeleted));
    all.extend([Event::Stop, Event::Resume, Event::PowerDown, Event::Clients(1)]);
    let event = ap::host::Event {
        number: 1,
        kind: ap::host::EventKind::Configuration {
            added: crycb::Matrix::EMPTY,
            removed: crycb::Matrix::EMPTY,
        },
    };
    all.push(Event::ApHost { event: Box::new(event), guest: false });
    all.push(Event::ApRequest { queue: queues[0], length: 8, left_out: 0 });
    let mut rows: Vec<_> = super::commands::EVENTS.iter().map(|row| row.name).collect();
    for event in &all {
        let (name, data) = event.describe();
        let data = data.map_or_else(Map::new, |data| data.as_object().unwrap().clone());
        table::event(name).expect(name).data.check(&data, name).unwrap();
        rows.retain(|row| *row != name);
    }
    assert_eq!(rows, [""; 0], "rows of events that nothing tells");
}

/// STOP and RESUME come once, in this order, and once more the next time.
#[test]
fn held_and_let_go() {
    let mut talk = negotiated();
    for _ in 0..2 {
        talk.hold();
        talk.serve();
        let text = talk.read();
        let (stop, resume) = (text.find("\"STOP\"").unwrap(), text.find("\"RESUME\"").unwrap());
        assert!(stop < resume && text.lines().count() == 2, "{text}");
    }
}

/// On a host with cards a descriptor stands for the device whose file it is, whichever way it came.
#[test]
fn devices_by_descriptor() {
    let root = tempfile::tempdir().unwrap();
    let mut talk = Talk::with(bench_with_real_cards(Places::below(root.path())));
    talk.values(b"{'execute':'qmp_capabilities'}");
    let names = talk.values(b"{'execute':'device-list-properties','arguments':{'typename':'vfio-ap'}}");
    let names: Vec<_> = names[0]["return"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
    assert_eq!(names, ["sysfsdev", "fd"]);
    let null = || std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let execute = |talk: &mut Talk, command: &str| {
        talk.session.input(command.as_bytes(), vec![null()]);
        loop {
            talk.serve();
            match talk.read() {
                answer if answer.is_empty() => std::thread::yield_now(),
                answer => return serde_json::from_str::<Value>(&answer).unwrap(),
            }
        }
    };
    let add = |talk: &mut Talk, fd: &str| {
        let command = json!({"execute": "device_add", "arguments": {"driver": "vfio-ap", "fd": fd}});
        execute(talk, &command.to_string())["error"]["desc"].as_str().unwrap().to_owned()
    };
    let directory = root.path().join("sys/dev/char");
    std::fs::create_dir_all(&directory).unwrap();
    // The number of /dev/null is another device's there; for that the rest of the host is looked at.
    std::os::unix::fs::symlink("../../devices/virtual/vfio/3", directory.join("1:3")).unwrap();
    let found = "there is no /sys/bus/ap";
    execute(&mut talk, "{'execute':'getfd','arguments':{'fdname':'a'}}");
    let set = execute(&mut talk, "{'execute':'add-fd','arguments':{'fdset-id':7}}");
    let number = set["return"]["fd"].to_string();
    for (fd, part) in [
        ("a", found),
        ("a", "fd: no descriptor 'a'; this connection has [], and getfd takes more"),
        ("/dev/fdset/7", found),
        (&number, found),
        ("/dev/fdset/8", "fd: no set of descriptors has the number '8'; query-fdsets lists them"),
        ("99999999999999999999", "fd: no descriptor in a set has the number"),
        ("", "fd: no descriptor ''"),
    ] {
        let text = add(&mut talk, fd);
        assert!(text.contains(part), "{fd}: {text}");
    }
    std::fs::remove_file(directory.join("1:3")).unwrap();
    std::os::unix::fs::symlink("../../devices/virtual/mem/null", directory.join("1:3")).unwrap();
    let text = add(&mut talk, &number);
    assert!(text.contains("not of a VFIO device; cure: open /dev/vfio/N"), "{text}");
    for (name, part) in
        [("/dev/vfio/3", found), ("/dev/vfio/devices/vfio0", found), ("/dev/vfio/", "sysfsdev: ")]
    {
        let command = json!({"execute": "device_add", "arguments": {"driver": "vfio-ap", "sysfsdev": name}});
        let answer = execute(&mut talk, &command.to_string());
        let text = answer["error"]["desc"].as_str().unwrap();
        assert!(text.contains(part), "{name}: {text}");
    }
}

/// `stop` waits for the CPUs; what is behind it waits too, but for what is out of band.
#[test]
fn a_command_that_takes_time() {
    let mut talk = Talk::new();
    talk.send(b"{'execute':'qmp_capabilities','arguments':{'enable':['oob']}}");
    talk.read();
    let pipelined =
        b"{'execute':'stop','id':1}{'execute':'query-name','id':2}{'exec-oob':'query-status','id':3}";
    let first = talk.values(pipelined);
    assert_eq!(first.iter().map(|v| &v["id"]).collect::<Vec<_>>(), [&json!(3)]);
    assert!(!talk.session.is_idle());
    // Called off: there is nothing to wait for any more.
    talk.board().release();
    talk.serve();
    let rest: Vec<_> = talk.values(b"");
    assert_eq!(rest.iter().map(|v| &v["id"]).collect::<Vec<_>>(), [&json!(1), &json!(2)]);
}

/// A client that never reads: its commands wait, its events are dropped and counted, and the memory for it
/// does not grow.
#[test]
fn a_client_that_does_not_read() {
    let mut talk = negotiated();
    let most = MOST_OUTPUT + 2 * LONGEST_LINE;
    for _ in 0..4000 {
        talk.send(b"{\"execute\":\"query-qmp-schema\"}\n");
        talk.board().control.events().post(Event::Resume);
        talk.serve();
        assert!(talk.session.output().len() <= most);
    }
    let before = talk.shared.metrics.events_dropped;
    for _ in 0..4000 {
        for _ in 0..100 {
            talk.board().control.events().post(Event::Resume);
        }
        talk.serve();
    }
    let dropped = talk.shared.metrics.events_dropped;
    assert!(dropped > before, "nothing was dropped");
    assert!(talk.session.room() == 0 && talk.session.output().len() <= most);
    // When it reads again, the next event says how many it lost.
    talk.read();
    talk.board().control.events().post(Event::Stop);
    talk.serve();
    let text = talk.read();
    let event = text.lines().rev().find(|line| line.contains("\"STOP\"")).unwrap();
    let event: Value = serde_json::from_str(event).unwrap();
    assert_eq!(event["x-dropped"], talk.shared.metrics.events_dropped);
}

/// Every answer and event is of the type that the schema says, and the schema fits in a reply.
#[test]
fn answers_are_of_their_types() {
    for row in table::rows() {
        let mut talk = negotiated();
        let arguments: Map<String, Value> =
            row.arguments.members.iter().filter(|m| !m.optional).map(sample).collect();
        let command = json!({"execute": row.name, "arguments": arguments, "id": 0});
        let answers = talk.values(command.to_string().as_bytes());
        for answer in &answers {
            if let Some(value) = answer.get("return") {
                row.returns.check(value, row.name).unwrap();
            }
            if let Some(name) = answer.get("event") {
                let event = table::event(name.as_str().unwrap()).expect("a row for each event");
                let empty = Map::new();
                let data = answer.get("data").map_or(&empty, |data| data.as_object().unwrap());
                event.data.check(data, event.name).unwrap();
            }
        }
        assert!(answers.iter().any(|a| a.get("id").is_some()) || row.name == "stop", "{}", row.name);
    }
    let mut talk = Talk::new();
    talk.read();
    let id = "x".repeat(1000);
    talk.send(b"{'execute':'qmp_capabilities'}");
    let schema = talk.values(json!({"execute": "query-qmp-schema", "id": id}).to_string().as_bytes());
    let schema = schema.last().unwrap()["return"].as_array().expect("it fits").clone();
    // Every type that is referred to is there.
    let names: Vec<_> = schema.iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    let refers = |value: &Value| names.contains(&value.as_str().unwrap());
    for entry in &schema {
        for key in ["arg-type", "ret-type", "element-type"] {
            assert!(entry.get(key).is_none_or(refers), "{entry}");
        }
        for key in ["members", "variants"] {
            for member in entry.get(key).and_then(Value::as_array).unwrap_or(&Vec::new()) {
                assert!(member.get("type").is_none_or(refers), "{entry}");
            }
        }
    }
}

fn sample(member: &super::schema::Member) -> (String, Value) {
    let value = match member.of {
        Type::Str => "/".into(),
        Type::Int | Type::Number => 1.into(),
        Type::Array(_) => json!([]),
        Type::Any => json!(0),
        Type::Enum(_, values) => values[0].into(),
        Type::Object(object) => object.members.iter().filter(|m| !m.optional).map(sample).collect(),
        other => panic!("{other:?}: no sample"),
    };
    (member.name.to_owned(), value)
}

/// Any value where a command may have one.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["", "/", "oob", "*", "stop", "info cpus", "q", "../.."])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z-]{0,4}", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A command that is mostly well-formed, with names that exist.
fn command() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(table::rows().map(|row| row.name).collect::<Vec<_>>());
    let member =
        prop::sample::select(vec!["fdname", "path", "command-line", "fdset-id", "fd", "events", "enable"]);
    let arguments = prop::collection::btree_map(member.prop_map(str::to_owned), anything(), 0..3);
    let verb = prop::sample::select(vec!["execute", "execute", "execute", "exec-oob"]);
    (verb, name, arguments, anything()).prop_map(|(verb, name, arguments, id)| {
        let arguments: Map<_, _> = arguments.into_iter().collect();
        json!({verb: name, "arguments": arguments, "id": id})
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is sent, each command has one reply with its identifier, of one line, in order.
    #[test]
    fn every_command_is_answered(commands in prop::collection::vec(command(), 0..12)) {
        let mut talk = negotiated();
        // `stop` waits for CPUs, which this machine does not have.
        let waits = |c: &Value| c["execute"] == "stop" || c["arguments"]["command-line"] == "stop";
        let commands: Vec<_> = commands.into_iter().filter(|c| !waits(c)).collect();
        let bytes: String = commands.iter().map(Value::to_string).collect();
        let answers = talk.values(bytes.as_bytes());
        let replies: Vec<_> = answers.iter().filter(|a| a.get("event").is_none()).collect();
        let ids: Vec<_> = replies.iter().map(|reply| reply["id"].clone()).collect();
        let wanted: Vec<_> = commands.iter().map(|c| c["id"].clone()).collect();
        prop_assert_eq!(ids, wanted);
        for reply in replies {
            prop_assert!(reply.get("return").is_some() != reply.get("error").is_some());
        }
    }

    #[test]
    fn any_bytes_are_answered_in_lines(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut talk = Talk::new();
        for answer in talk.values(&bytes) {
            prop_assert!(answer.get("error").is_some() || answer.get("QMP").is_some());
        }
    }
}
