//! The management socket of a running guest: what clients see, what hostile ones can do, and `adjunct ctl`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use tempfile::TempDir;

mod program;

/// A mediated device of the built-in AP host: 05 and 06 by 04 and ab.
const MDEV: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
/// Longest that anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A branch to itself.
const LOOP: &[u8] = &[0xa7, 0xf4, 0, 0];
/// A wait that nothing ends, at an address that says "crashed".
const CRASHED: [u64; 2] = [0x0002_0001_8000_0000, 0xdead];
/// Where the PSW for restart interruptions is.
const RESTART_NEW_PSW: usize = 0x1a0;

/// A guest that loops, with a management socket.
struct Guest {
    child: Child,
    directory: TempDir,
}

impl Guest {
    fn start(flags: &[&str]) -> Self {
        Self::start_with(LOOP, flags)
    }

    /// A guest of this code.
    fn start_with(code: &[u8], flags: &[&str]) -> Self {
        Self::start_command(program::command(), Self::directory(code), flags)
    }

    /// A guest that may have so many descriptors.
    fn start_with_descriptors(most: usize, flags: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {most}; exec \"$@\""), "sh"]).args(program::words());
        Self::start_command(command, Self::directory(LOOP), flags)
    }

    fn directory(code: &[u8]) -> TempDir {
        let directory = TempDir::new().unwrap();
        let mut image = vec![0; 0x6000];
        image[..8].copy_from_slice(&(0x0008_0000_8000_0200u64).to_be_bytes());
        image[0x200..][..code.len()].copy_from_slice(code);
        image[RESTART_NEW_PSW..][..16].copy_from_slice(&CRASHED.map(u64::to_be_bytes).concat());
        fs::write(directory.path().join("kernel"), image).unwrap();
        directory
    }

    /// A guest whose kernel is in the directory, by this command.
    fn start_command(mut command: Command, directory: TempDir, flags: &[&str]) -> Self {
        command
            .current_dir(directory.path())
            .args(["run", "--kernel", "kernel", "--memory", "1M", "--name", "g"]);
        if !flags.contains(&"--console") {
            command.args(["--console", "none"]);
        }
        command.args(["--qmp", "unix:qmp,server=on,wait=off"]).args(flags);
        command.args(["--uuid", "00000000-0000-0000-0000-000000000007"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut guest = Self { child: command.spawn().unwrap(), directory };
        let end = Instant::now() + PATIENCE;
        let mut probe = loop {
            match UnixStream::connect(guest.socket()) {
                Ok(probe) => break probe,
                Err(e) => assert!(guest.child.try_wait().unwrap().is_none() && Instant::now() < end, "{e}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        // Until the server has closed its side, so that tests can count its descriptors.
        probe.shutdown(std::net::Shutdown::Write).unwrap();
        probe.read_to_end(&mut Vec::new()).unwrap();
        guest
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("qmp")
    }

    /// A client before negotiation.
    fn stranger(&self) -> Client {
        Client::connect(&self.socket())
    }

    /// A client after it.
    fn client(&self) -> Client {
        let mut client = self.stranger();
        assert!(client.line().get("QMP").is_some());
        client.send("{\"execute\":\"qmp_capabilities\"}");
        assert_eq!(client.line(), json!({"return": {}}));
        client
    }

    /// How many descriptors the process has open.
    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    fn ctl(&self, words: &[&str]) -> Output {
        program::command().arg("ctl").arg(self.socket()).args(words).stdin(Stdio::null()).output().unwrap()
    }

    /// Ends by itself; exit status and standard error.
    fn ended(mut self) -> (Option<i32>, String) {
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code(), text)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// The next line; null at the end.
    fn line(&mut self) -> Value {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => Value::Null,
            Ok(_) => {
                assert!(line.ends_with("\r\n") && line.len() < 1 << 16, "{line:?}");
                serde_json::from_str(&line).unwrap()
            }
            Err(e) => panic!("nothing came: {e}"),
        }
    }

    /// The reply to a command, and the names of the events before it.
    fn execute(&mut self, command: &str) -> (Value, Vec<String>) {
        self.send(command);
        let mut events = Vec::new();
        loop {
            let line = self.line();
            match line["event"].as_str() {
                Some(event) => events.push(event.to_owned()),
                None => return (line, events),
            }
        }
    }

    /// What `command` returns.
    #[track_caller]
    fn returns(&mut self, command: &str) -> Value {
        let (reply, _) = self.execute(command);
        reply.get("return").unwrap_or_else(|| panic!("{reply}")).clone()
    }

    /// The figures, by the names that Prometheus has for them.
    #[track_caller]
    fn figures(&mut self) -> BTreeMap<String, Value> {
        let (mut all, mut from) = (BTreeMap::new(), json!(0));
        while !from.is_null() {
            let query = json!({"execute": "x-query-metrics", "arguments": {"from": from}});
            let answer = self.returns(&query.to_string());
            for figure in answer["figures"].as_array().unwrap() {
                let labels = figure.get("labels").map_or(String::new(), |labels| {
                    let label = |(key, label): (&String, &Value)| format!("{key}={label}");
                    let labels: Vec<String> = labels.as_object().unwrap().iter().map(label).collect();
                    format!("{{{}}}", labels.join(","))
                });
                let name = figure["name"].as_str().unwrap().to_owned() + &labels;
                assert_eq!(all.insert(name, figure["value"].clone()), None, "{figure}");
            }
            from = answer["next"].clone();
        }
        all
    }

    /// The events until one of this name.
    fn until(&mut self, event: &str) -> Value {
        loop {
            let line = self.line();
            assert!(!line.is_null(), "it ended before {event}");
            if line["event"] == event {
                return line;
            }
        }
    }

    fn send_with(&mut self, text: &str, descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        let parts = [IoSlice::new(text.as_bytes())];
        let sent = rustix::net::sendmsg(self.0.get_ref(), &parts, &mut control, SendFlags::empty());
        assert_eq!(sent.unwrap(), text.len());
    }

    /// A transcript with what differs from run to run replaced.
    fn transcript(&mut self, commands: &[&str]) -> String {
        let mut text = String::new();
        for command in commands {
            self.send(command);
            text += &format!("-> {command}\n");
            loop {
                let mut line = self.line();
                line.as_object_mut().unwrap().remove("timestamp");
                for cpu in line.get_mut("return").and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(thread) = cpu.get_mut("thread-id") {
                        assert!(thread.as_u64().is_some_and(|id| id > 0));
                        *thread = json!("THREAD");
                    }
                }
                text += &format!("<- {line}\n");
                if line.get("event").is_none() {
                    break;
                }
            }
        }
        text
    }
}

fn status(client: &mut Client) -> String {
    client.returns("{\"execute\":\"query-status\"}")["status"].as_str().unwrap().to_owned()
}

/// A guest's life as one client drives it, and another one watches it.
#[test]
fn life() {
    let guest = Guest::start(&["--cpus", "2"]);
    assert_eq!(fs::metadata(guest.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    let (mut client, mut watcher) = (guest.client(), guest.client());
    let text = client.transcript(&[
        r#"{"execute":"query-name","id":1}"#,
        r#"{"execute":"query-uuid","id":"two"}"#,
        r#"{"execute":"query-cpus-fast"}"#,
        r#"{"execute":"stop"}"#,
        r#"{"execute":"stop"}"#,
        r#"{"execute":"query-status"}"#,
        r#"{"execute":"cont"}"#,
        r#"{"execute":"cont"}"#,
        r#"{"execute":"query-status"}"#,
        r#"{"execute":"migrate","arguments":{"uri":"tcp:h:1"}}"#,
        r#"{"execute":"device_add","arguments":{"driver":"vfio-ap","sysfsdev":"x"}}"#,
    ]);
    insta::assert_snapshot!(text);
    watcher.until("STOP");
    watcher.until("RESUME");
    client.returns("{\"execute\":\"system_reset\"}");
    let reset = watcher.until("RESET");
    assert_eq!(reset["data"], json!({"guest": false, "reason": "host-qmp-system-reset"}));
    // A held guest is reset and stays held.
    client.returns("{\"execute\":\"stop\"}");
    client.returns("{\"execute\":\"system_reset\"}");
    watcher.until("STOP");
    watcher.until("RESET");
    assert_eq!(status(&mut client), "paused");
    client.returns("{\"execute\":\"cont\"}");
    client.returns("{\"execute\":\"quit\"}");
    let end = watcher.until("SHUTDOWN");
    assert_eq!(end["data"], json!({"guest": false, "reason": "host-qmp-quit"}));
    assert!(watcher.line().is_null());
    let socket = guest.socket();
    let (status, stderr) = guest.ended();
    assert_eq!((status, stderr.as_str()), (Some(4), "adjunct: ended by quit\n"));
    assert!(!socket.exists(), "the socket's file is gone");
}

/// A stopped guest executes nothing: its thread's CPU time stands still.
#[test]
fn a_held_guest_executes_nothing() {
    let guest = Guest::start(&[]);
    let mut client = guest.client();
    client.returns("{\"execute\":\"stop\"}");
    let cpus = client.returns("{\"execute\":\"query-cpus-fast\"}");
    let stat = format!("/proc/{}/task/{}/stat", guest.child.id(), cpus[0]["thread-id"]);
    // Whether it sleeps; user and system time, in ticks of the kernel.
    let look = || {
        let text = fs::read_to_string(&stat).unwrap();
        let fields: Vec<_> = text.rsplit(')').next().unwrap().split_whitespace().map(str::to_owned).collect();
        (fields[0] == "S", fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap())
    };
    // It says that it is held before it sleeps, and a guest that goes on never does.
    until(|| look().0);
    let (_, before) = look();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(look(), (true, before), "it went on");
    client.returns("{\"execute\":\"cont\"}");
    until(|| look().1 > before + 1);
}

#[test]
fn a_crash_is_told() {
    let guest = Guest::start(&[]);
    let mut client = guest.client();
    // A restart interruption leads to a wait whose address says "crashed".
    // The guest may crash before this is answered.
    client.send("{\"execute\":\"inject-nmi\"}");
    let panicked = client.until("GUEST_PANICKED");
    assert_eq!(panicked["data"]["info"]["psw-addr"], 0xdead);
    assert_eq!(client.until("SHUTDOWN")["data"], json!({"guest": true, "reason": "guest-panic"}));
    assert_eq!(guest.ended().0, Some(1));
}

/// Plugging and unplugging a mediated device, its queues, and what is refused.
#[test]
fn hot_plug() {
    let guest = Guest::start(&["--ap"]);
    let mut client = guest.client();
    let add = |id: &str, mdev: &str| {
        let arguments = json!({"driver": "vfio-ap", "id": id, "sysfsdev": mdev});
        json!({"execute": "device_add", "arguments": arguments}).to_string()
    };
    let path = format!("/sys/devices/vfio_ap/matrix/{MDEV}");
    let text = client.transcript(&[
        r#"{"execute":"x-subscribe","arguments":{"events":["X_AP_CONFIG_CHANGED"]}}"#,
        r#"{"execute":"x-query-ap"}"#,
        r#"{"execute":"device_del","arguments":{"id":"ap0"}}"#,
        &add("ap0", &path),
        r#"{"execute":"qom-list","arguments":{"path":"/machine/peripheral"}}"#,
        r#"{"execute":"qom-list","arguments":{"path":"/machine/peripheral/ap0"}}"#,
        r#"{"execute":"device-list-properties","arguments":{"typename":"vfio-ap"}}"#,
        &add("ap1", "e30ddaa2-2543-4240-86fe-e71b8ef90447"),
        r#"{"execute":"migrate"}"#,
        r#"{"execute":"x-query-ap"}"#,
        r#"{"execute":"x-ap-plan","arguments":{"operation":{"operation":"scan"}}}"#,
        r#"{"execute":"x-ap-assign-adapter","arguments":{"adapter":10}}"#,
        r#"{"execute":"x-ap-assign-adapter","arguments":{"adapter":"0x0a"}}"#,
        r#"{"execute":"x-ap-unassign-adapter","arguments":{"adapter":"0x0a"}}"#,
        r#"{"execute":"x-ap-unassign-domain","arguments":{"domain":[]}}"#,
        r#"{"execute":"x-ap-assign-adapter","arguments":{"adapter":300}}"#,
        r#"{"execute":"x-ap-unbind","arguments":{"queue":"05.0004"}}"#,
        r#"{"execute":"x-ap-unbind","arguments":{"queue":"99"}}"#,
        r#"{"execute":"x-ap-bind","arguments":{"queue":"05.0004","driver":"vfio_ap"}}"#,
        r#"{"execute":"x-ap-write-mask","arguments":{"mask":"apmask","value":"+5"}}"#,
        r#"{"execute":"device_del","arguments":{"id":"ap0"}}"#,
        r#"{"execute":"x-query-ap"}"#,
        &add("0", &path),
        &add("ap0", "/etc/passwd"),
        &add("ap0", "00000000-0000-0000-0000-000000000001"),
        r#"{"execute":"device_add","arguments":{"driver":"e1000"}}"#,
        r#"{"execute":"device_add","arguments":{"driver":"vfio-ap"}}"#,
        r#"{"execute":"device_add","arguments":{"driver":"vfio-ap","fd":"x"}}"#,
        r#"{"execute":"device_add","arguments":{"driver":"vfio-ap","sysfsdev":"/dev/vfio/5"}}"#,
        r#"{"execute":"x-ap-create-mdev","arguments":{"mdev":"zz"}}"#,
        r#"{"execute":"x-ap-configure","arguments":{"changes":5}}"#,
        r#"{"execute":"x-ap-configure","arguments":{"changes":[{"change":"remove-domain"}]}}"#,
        r#"{"execute":"x-ap-import-mdev","arguments":{"mdev":"00000000-0000-0000-0000-000000000001","definition":5}}"#,
        r#"{"execute":"x-ap-plan","arguments":{"operation":{"operation":"unbind","queue":5}}}"#,
        r#"{"execute":"x-ap-driver-override","arguments":{"queue":"5","driver":""}}"#,
    ]);
    insta::assert_snapshot!(text);
    // The device of the start has a name too.
    let guest = Guest::start(&["--ap-mdev", MDEV]);
    let (reply, events) =
        guest.client().execute("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"ap0\"}}");
    assert_eq!((reply, events.as_slice()), (json!({"return": {}}), &["DEVICE_DELETED".to_owned()][..]));
}

/// The guest is told what it gets and loses, control domains too, and nothing of what others do.
#[test]
fn changes_are_the_guests_own() {
    let guest = Guest::start(&["--ap"]);
    let mut client = guest.client();
    client.returns(r#"{"execute":"x-subscribe","arguments":{"events":["X_AP_CONFIG_CHANGED"]}}"#);
    /// What a command tells before its reply.
    fn told(client: &mut Client, name: &str, arguments: Value) -> Vec<Value> {
        client.send(&json!({"execute": name, "arguments": arguments}).to_string());
        let mut events = Vec::new();
        loop {
            let line = client.line();
            match line.get("event") {
                Some(_) => events.push(line),
                None => {
                    assert_eq!(line, json!({"return": {}}), "{name}");
                    return events;
                }
            }
        }
    }
    let change = |lists: [&[&str]; 4]| {
        json!({"mdev": MDEV, "plugged": lists[0], "plugged-count": lists[0].len(),
            "unplugged": lists[1], "unplugged-count": lists[1].len(),
            "control-plugged": lists[2], "control-unplugged": lists[3]})
    };
    let data = |events: Vec<Value>| events.into_iter().map(|event| event["data"].clone()).collect::<Vec<_>>();
    let nothing: [Value; 0] = [];
    let other = "cef03c3c-903d-4ecc-9a83-40694cb8aee4";
    // Nobody has it.
    assert_eq!(told(&mut client, "x-ap-unassign-domain", json!({"domain": 4, "mdev": MDEV})), nothing);
    assert_eq!(told(&mut client, "x-ap-assign-domain", json!({"domain": 4, "mdev": MDEV})), nothing);
    let add = json!({"driver": "vfio-ap", "id": "x", "sysfsdev": MDEV});
    let queues = ["05.0004", "05.00ab", "06.0004", "06.00ab"];
    let came = data(told(&mut client, "device_add", add.clone()));
    let control: Vec<&str> =
        came[0]["control-plugged"].as_array().unwrap().iter().map(|d| d.as_str().unwrap()).collect();
    assert_eq!(came, [change([&queues, &[], &control, &[]])]);
    assert_eq!(told(&mut client, "x-ap-unassign-domain", json!({"domain": "0x47", "mdev": other})), nothing);
    let domain = json!({"domain": "0x47"});
    let events = data(told(&mut client, "x-ap-assign-control-domain", domain.clone()));
    assert_eq!(events, [change([&[], &[], &["0047"], &[]])]);
    let events = data(told(&mut client, "x-ap-unassign-control-domain", domain));
    assert_eq!(events, [change([&[], &[], &[], &["0047"]])]);
    let events = data(told(&mut client, "x-ap-unassign-adapter", json!({"adapter": 6})));
    assert_eq!(events, [change([&[], &queues[2..], &[], &[]])]);
    let events = data(told(&mut client, "x-ap-assign-adapter", json!({"adapter": 6})));
    assert_eq!(events, [change([&queues[2..], &[], &[], &[]])]);

    let gone =
        [change([&[], &queues, &[], &control]), json!({"device": "x", "path": "/machine/peripheral/x"})];
    assert_eq!(data(told(&mut client, "device_del", json!({"id": "x"}))), gone);
    // The host takes it: the same.
    told(&mut client, "device_add", add);
    assert_eq!(data(told(&mut client, "x-ap-remove-mdev", json!({"mdev": MDEV}))), gone);
    assert_eq!(client.returns(r#"{"execute":"x-query-ap"}"#).get("device"), None);
}

/// The management socket has the figures that Prometheus gets, and no others.
#[test]
fn one_set_of_figures() {
    let guest = Guest::start(&["--metrics", "unix:m", "--ap-mdev", MDEV]);
    let mut figures = UnixStream::connect(guest.directory.path().join("m")).unwrap();
    figures.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    figures.read_to_string(&mut text).unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let theirs: BTreeMap<&str, &str> = samples.map(|line| line.rsplit_once(' ').unwrap()).collect();
    let ours = guest.client().figures();
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for name in ["adjunct_storage_bytes", "adjunct_console_dropped_bytes_total", "adjunct_ap_queues"] {
        assert_eq!(ours[name].to_string(), theirs[name], "{name}");
    }
    assert_eq!(ours["adjunct_ap_queue_requests_total{queue=\"06.00ab\"}"], 0);
}

/// A host as large as a mainframe's: a guest that has 16 adapters by 85 domains, and 69 devices beside its own with every control
/// domain.
#[test]
fn a_large_host() {
    let uuid = |n: u32| format!("{n:08x}-0000-0000-0000-000000000001");
    let adapters: Vec<_> = (0..16).map(|n| json!({"adapter": n, "type": "CEX8A"})).collect();
    let domains: Vec<_> = (0..85).collect();
    let writes =
        |name: &str, count: u32| (0..count).map(|n| json!({name: n.to_string()})).collect::<Vec<_>>();
    let control = writes("assign_control_domain", 256);
    let all = [writes("assign_adapter", 16), writes("assign_domain", 85), control.clone()].concat();
    let mdevs: serde_json::Map<String, Value> = (0..70)
        .map(|n| {
            let attrs = if n == 69 { &all } else { &control };
            (uuid(n), json!({"mdev_type": "vfio_ap-passthrough", "start": "auto", "attrs": attrs}))
        })
        .collect();
    let description = json!({"adapters": adapters, "usage_domains": domains,
        "control_domains": (0..256).collect::<Vec<_>>(), "apmask": "0x0", "aqmask": "0x0", "mdevs": mdevs});
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(description.to_string().as_bytes()).unwrap();
    let mine = uuid(69);
    let guest = Guest::start(&["--ap-host", file.path().to_str().unwrap(), "--ap-mdev", &mine]);

    let mut client = guest.client();
    let (mut queues, mut mdevs, mut from) = (Vec::new(), Vec::new(), json!(0));
    while !from.is_null() {
        let query = json!({"execute": "x-query-ap", "arguments": {"all": true, "from": from}});
        let answer = client.returns(&query.to_string());
        assert_eq!(answer["device"]["mdev"], mine.as_str());
        queues.extend(answer["queues"].as_array().unwrap().clone());
        mdevs.extend(answer["mdevs"].as_array().unwrap().clone());
        from = answer["next"].clone();
    }
    let in_guest = |queue: &&Value| queue["in-guest"] == true && queue["why"].as_str().is_some();
    assert_eq!((queues.len(), queues.iter().filter(in_guest).count(), mdevs.len()), (16 * 85, 16 * 85, 70));
    assert!(mdevs.iter().all(|mdev| mdev["matrix"]["control-domains"].as_array().unwrap().len() == 256));

    let figures = client.figures();
    assert_eq!(figures["adjunct_ap_queues"], 16 * 85);
    assert_eq!(figures.keys().filter(|name| name.starts_with("adjunct_ap_queue_pending{")).count(), 16 * 85);

    let socket = guest.socket();
    let run = |words: &[&str]| {
        let output = program::command().args(words).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let frame = run(&["top", socket.to_str().unwrap(), "--once"]);
    assert!(frame.lines().next().unwrap().ends_with("1360 queues  70 devices  1 in use"), "{frame}");
    let list: Value = serde_json::from_str(&run(&[
        "ap",
        "--guest",
        &format!("unix:{}", socket.display()),
        "list",
        "--json",
    ]))
    .unwrap();
    assert_eq!(list["queues"].as_array().unwrap().len(), 16 * 85);
    assert_eq!(list["mdevs"].as_array().unwrap().len(), 70);
}

/// Of several who plug at once one is first, and the others are told what to give.
#[test]
fn who_plugs_second() {
    let guest = Guest::start(&["--ap"]);
    let mut clients: Vec<_> = (0..4).map(|_| guest.client()).collect();
    for round in 0..5 {
        for (n, client) in clients.iter_mut().enumerate() {
            let arguments = json!({"driver": "vfio-ap", "id": format!("c{n}"), "sysfsdev": MDEV});
            client.send(&json!({"execute": "device_add", "arguments": arguments, "id": round}).to_string());
        }
        let answers: Vec<_> = clients.iter_mut().map(Client::line).collect();
        let first = answers.iter().position(|answer| answer.get("return").is_some()).unwrap();
        let said = format!("this one has 'c{first}'; give device_del of 'c{first}' first");
        for (n, answer) in answers.iter().enumerate().filter(|(n, _)| *n != first) {
            assert!(answer["error"]["desc"].as_str().unwrap().ends_with(&said), "{n}: {answer}");
        }
        let delete = json!({"execute": "device_del", "arguments": {"id": format!("c{first}")}});
        clients[first].execute(&delete.to_string());
        clients
            .iter_mut()
            .enumerate()
            .filter(|(n, _)| *n != first)
            .for_each(|(_, client)| drop(client.until("DEVICE_DELETED")));
    }
}

/// Sends requests of 8 bytes to 05.0004 and takes the replies, for ever.
fn requests() -> Vec<u8> {
    // LLILF.
    let load = |r: u8, value: u32| [&[0xc0, r << 4 | 15][..], &value.to_be_bytes()].concat();
    let all = |registers: &[(u8, u32)]| registers.iter().flat_map(|(r, v)| load(*r, *v)).collect::<Vec<_>>();
    let mut code = all(&[(0, 0x4000_0504), (2, 0), (3, 7), (4, 0x3000), (5, 8)]);
    code.extend([0xb2, 0xad, 0, 0x24]);
    code.extend(all(&[(0, 0x8000_0504), (6, 0), (7, 0), (8, 0x4000), (9, 0x1000)]));
    code.extend([0xb2, 0xae, 0, 0x68]);
    // In halfwords.
    let back = -i16::try_from(code.len() / 2).unwrap();
    code.extend([0xa7, 0xf4]);
    code.extend(back.to_be_bytes());
    code
}

/// Requests are told to who asked for that, and not of each one; what was left out is counted.
#[test]
fn requests_are_told() {
    let guest = Guest::start_with(&requests(), &["--ap-mdev", MDEV]);
    let (mut client, mut other) = (guest.client(), guest.client());
    client.returns(r#"{"execute":"x-subscribe","arguments":{"events":["X_AP_REQUEST"]}}"#);
    let told: Vec<Value> = (0..30).map(|_| client.until("X_AP_REQUEST")["data"].clone()).collect();
    for data in &told {
        assert!(data["queue"] == "05.0004" && data["length"] == 8 && data["left-out"].is_u64(), "{data}");
    }
    client.returns(r#"{"execute":"x-unsubscribe","arguments":{"events":["*"]}}"#);
    let mut queues = || {
        let state = other.returns(r#"{"execute":"x-query-ap"}"#);
        state["queues"][0]["requests"].as_u64().unwrap()
    };
    let before = queues();
    until(|| queues() > before + 10);
    let (_, events) = client.execute(r#"{"execute":"query-name"}"#);
    assert_eq!(events, [""; 0], "nothing more after unsubscribing");
    let (_, events) = other.execute(r#"{"execute":"query-name"}"#);
    assert_eq!(events, [""; 0], "nothing for who did not ask");
}

/// The counters are among the figures.
#[test]
fn figures() {
    let guest = Guest::start(&["--metrics", "unix:m"]);
    let mut client = guest.client();
    client.execute("{\"execute\":\"nonsense\"}");
    let read = || {
        let figures = UnixStream::connect(guest.directory.path().join("m")).unwrap();
        figures.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        BufReader::new(figures).read_to_string(&mut text).unwrap();
        text
    };
    // Published when the reply has been written. Who is slow to ask is told nothing.
    let mut text = String::new();
    until(|| {
        text = read();
        text.contains("\nadjunct_qmp_errors_total 1\n")
    });
    // The probe of the start was a client, too.
    for line in ["adjunct_qmp_clients 1", "adjunct_qmp_connections_total 2", "adjunct_qmp_commands_total 2"] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
}

#[test]
fn no_kvm() {
    let answer = Guest::start(&["--accel", "engine"]).client().returns("{\"execute\":\"query-kvm\"}");
    assert_eq!(answer, json!({"enabled": false, "present": Path::new("/dev/kvm").exists()}));
}

/// `adjunct ap` says and does the same to a guest's host as to a daemon's.
#[test]
fn ap_of_a_guest() {
    let guest = Guest::start(&["--ap"]);
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("ap");
    let mut daemon = program::command();
    daemon.args(["ap-host", "serve", "--log", "error", "--socket"]).arg(&socket).stdin(Stdio::null());
    let _daemon = Guest { child: daemon.spawn().unwrap(), directory };
    until(|| UnixStream::connect(&socket).is_ok());
    let ap = |words: &[&str]| {
        let run = |flag: &str, socket: &Path| {
            let address = format!("unix:{}", socket.display());
            let mut command = program::command();
            command.args(["ap", flag, &address]).args(words);
            let output = command.stdin(Stdio::null()).output().unwrap();
            // The commands that they print are for where each is.
            let place = format!("adjunct ap {flag} {address} ");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&place, "adjunct ap HERE ");
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        let (ours, theirs) = (run("--guest", &guest.socket()), run("--host", &socket));
        assert_eq!(ours, theirs, "{words:?}");
        ours
    };
    let new = "11111111-2222-3333-4444-555555555555";
    let definition =
        r#"{"mdev_type":"vfio_ap-passthrough","start":"manual","attrs":[{"assign_domain":"4"}]}"#;
    let words: &[&[&str]] = &[
        &["mdev", "create", new],
        &["mdev", "create", new],
        &["assign", new, "--control-domain", "0x47"],
        &["unassign", new, "--control-domain", "0x47"],
        &["assign", MDEV, "--adapter", "10"],
        &["unassign", MDEV, "--adapter", "10"],
        &["unassign", MDEV, "--domain", "4,0xab"],
        &["assign", MDEV, "--domain", "4"],
        &["assign", new, "--adapter", "0x63"],
        &["config", new, "0x0,0x0,0x0"],
        &["reset", MDEV],
        &["unbind", "05.0004"],
        &["bind", "05.0004"],
        &["override", "05.0004", "vfio_ap"],
        &["mask", "apmask", "-7"],
        &["mask", "apmask"],
        &["mask", "aqmask", "+4"],
        &["adapter", "offline", "5"],
        &["adapter", "online", "5"],
        &["adapter", "type", "5", "CEX7A"],
        &["adapter", "add", "9", "CEX8C"],
        &["adapter", "remove", "9"],
        &["domain", "add", "9"],
        &["domain", "remove", "9"],
        &["scan"],
        &["mdev", "remove", new],
        &["mdev", "import", new, "--json", definition],
        &["mdev", "export", new],
        &["explain", MDEV],
        &["plan", "assign", MDEV, "--adapter", "10"],
        &["matrix"],
        &["list"],
    ];
    let mut good = 0;
    for words in words {
        good += usize::from(ap(words).0 == Some(0));
        ap(&["list", "--json"]);
    }
    assert!(good > words.len() * 2 / 3, "{good} of {} were carried out", words.len());

    let address = format!("unix:{}", guest.socket().display());
    let mut watch = program::command();
    watch.args(["ap", "--guest", &address, "watch", "--json"]).stdout(Stdio::piped()).stdin(Stdio::null());
    let mut watch = watch.spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let (tell, seen) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            if tell.send(serde_json::from_str::<Value>(&line).unwrap()).is_err() {
                return;
            }
        }
    });
    // Until it watches.
    let mut client = guest.client();
    until(|| client.figures()["adjunct_qmp_clients"] == 2);
    let first = loop {
        ap(&["assign", MDEV, "--control-domain", "5"]);
        ap(&["unassign", MDEV, "--control-domain", "5"]);
        if let Ok(event) = seen.recv_timeout(Duration::from_millis(500)) {
            break event;
        }
    };
    assert!(first["number"].is_u64() && first["event"].is_string(), "{first}");
    ap(&["unassign", MDEV, "--adapter", "6"]);
    let change = seen.iter().find(|event| event["unplugged"].as_array().is_some_and(|q| !q.is_empty()));
    let change = change.unwrap();
    assert!(change["event"] == "guest-matrix" && change["mdev"] == MDEV, "{change}");
    watch.kill().unwrap();
    watch.wait().unwrap();
    reader.join().unwrap();

    let refused = |flag: &str, address: &str| {
        let output = program::command().args(["ap", flag, address, "list"]).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, text) = refused("--guest", "tcp:1");
    assert!(status == Some(3) && text.contains("not unix:PATH, the socket of a guest's --qmp"), "{text}");
    let plain = Guest::start(&[]);
    let (status, text) = refused("--guest", &format!("unix:{}", plain.socket().display()));
    assert!(status == Some(3) && text.contains("no AP instructions; start it with --ap"), "{text}");
}

/// Descriptors are taken by the command that they come with, else closed.
#[test]
fn descriptors_are_taken_or_closed() {
    if program::words().len() > 1 {
        return println!("skipped: the emulator that runs the program has descriptors of its own");
    }
    let guest = Guest::start(&[]);
    let mut client = guest.client();
    let file = fs::File::open("/dev/null").unwrap();
    let one = [file.as_fd()];
    let before = guest.descriptors();
    let check = |client: &mut Client, more: usize| {
        // The server is through with what came before.
        status(client);
        assert_eq!(guest.descriptors(), before + more);
    };
    client.send_with("{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"a\"}}", &one);
    assert_eq!(client.line(), json!({"return": {}}));
    check(&mut client, 1);
    // By a byte before the command, as some clients do; it replaces the other.
    client.send_with(" ", &one);
    client.returns("{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"a\"}}");
    check(&mut client, 1);
    client.returns("{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"a\"}}");
    check(&mut client, 0);

    client.send_with("{\"execute\":\"add-fd\",\"arguments\":{\"fdset-id\":3,\"opaque\":\"x\"}}", &one);
    let added = client.line()["return"].clone();
    assert_eq!(added["fdset-id"], 3);
    let sets = client.returns("{\"execute\":\"query-fdsets\"}");
    assert_eq!(sets, json!([{"fdset-id": 3, "fds": [{"fd": added["fd"], "opaque": "x"}]}]));
    check(&mut client, 1);
    client.returns("{\"execute\":\"remove-fd\",\"arguments\":{\"fdset-id\":3}}");
    check(&mut client, 0);

    // With a command that takes none; too many; with junk; with half a command that never ends.
    client.send_with("{\"execute\":\"query-name\"}", &one);
    client.line();
    check(&mut client, 0);
    client.send_with("{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"b\"}}", &[file.as_fd(); 60]);
    assert_eq!(client.line(), json!({"return": {}}));
    check(&mut client, 1);
    client.send_with("junk\n", &one);
    client.line();
    check(&mut client, 1);
    let mut other = guest.client();
    other.send_with("{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"c\"}}", &one);
    other.line();
    other.send_with("{\"execute\":", &one);
    drop(other);
    until(|| guest.descriptors() == before + 1);
    drop(client);
    until(|| guest.descriptors() == before - 1);
}

/// Who connects while there is no descriptor waits, and is served when there is one, though nobody leaves; so it is at a
/// console.
#[test]
fn out_of_descriptors() {
    if program::words().len() > 1 {
        return println!("skipped: the emulator that runs the program has descriptors of its own");
    }
    const MOST: usize = 56;
    let guest = Guest::start_with_descriptors(MOST, &["--console", "unix:console"]);
    let mut client = guest.client();
    let file = fs::File::open("/dev/null").unwrap();
    let mut kept = 0;
    loop {
        client.send_with("{\"execute\":\"add-fd\"}", &[file.as_fd()]);
        if client.line().get("return").is_none() {
            break;
        }
        kept += 1;
    }
    assert!(kept > 2, "{kept}");
    let all = guest.descriptors();
    let mut late = guest.stranger();
    let _viewer = UnixStream::connect(guest.directory.path().join("console")).unwrap();
    late.0.get_ref().set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(late.0.fill_buf().is_err(), "it is served without a descriptor");
    late.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(status(&mut client), "running");
    for set in 0..2 {
        client.returns(&format!("{{\"execute\":\"remove-fd\",\"arguments\":{{\"fdset-id\":{set}}}}}"));
    }
    assert!(late.line().get("QMP").is_some());
    // The viewer, who has nothing to read.
    until(|| guest.descriptors() == all);
}

fn until(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_thousand_connections() {
    let guest = Guest::start(&[]);
    let before = guest.descriptors();
    for n in 0..1000 {
        match n % 4 {
            0 => drop(guest.client()),
            1 => drop(UnixStream::connect(guest.socket()).unwrap()),
            2 => guest.stranger().send("{\"execute\":\"qmp_capa"),
            // Nobody is there for the answer.
            _ => {
                guest.stranger().send("{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-qmp-schema\"}")
            }
        }
    }
    assert!(guest.client().figures()["adjunct_qmp_connections_total"].as_u64().unwrap() >= 1001);
    until(|| guest.descriptors() == before);
}

#[test]
fn many_clients_at_once() {
    let guest = Guest::start(&[]);
    let mut clients: Vec<_> = (0..64).map(|_| guest.client()).collect();
    for client in &mut clients {
        client.send("{\"execute\":\"query-name\",\"id\":7}{\"execute\":\"query-status\",\"id\":8}");
    }
    for client in &mut clients {
        assert_eq!((&client.line()["id"], &client.line()["id"]), (&json!(7), &json!(8)));
    }
    clients[5].returns("{\"execute\":\"stop\"}");
    for client in clients.iter_mut().enumerate().filter(|(n, _)| *n != 5).map(|(_, client)| client) {
        client.until("STOP");
    }
    // Up to the most; then one is told why, and there is room again when one has gone.
    clients.extend((64..128).map(|_| guest.client()));
    let refused = guest.stranger().line();
    assert!(refused["error"]["desc"].as_str().unwrap().contains("128 clients"), "{refused}");
    drop(clients.split_off(100));
    until(|| guest.stranger().line().get("QMP").is_some());
}

/// A client that never reads, and one that sends without end, cost nobody else anything.
#[test]
fn a_client_that_does_not_read() {
    let guest = Guest::start(&[]);
    let mut deaf = guest.client();
    deaf.0.get_ref().set_nonblocking(true).unwrap();
    let mut sent = 0;
    let end = Instant::now() + PATIENCE;
    // Until the server takes no more of it.
    loop {
        match deaf.0.get_mut().write(&b"{\"execute\":\"query-qmp-schema\"}\n".repeat(100)) {
            Ok(count) => sent += count,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(50));
                if deaf.0.get_mut().write(b" ").is_err() {
                    break;
                }
            }
            Err(e) => panic!("{e}"),
        }
        assert!(Instant::now() < end && sent < 8 << 20, "it takes {sent} bytes and more");
    }
    let mut client = guest.client();
    for _ in 0..2000 {
        client.returns("{\"execute\":\"stop\"}");
        client.returns("{\"execute\":\"cont\"}");
    }
    assert!(client.figures()["adjunct_qmp_dropped_events_total"].as_u64().unwrap() > 0);
    client.returns("{\"execute\":\"quit\"}");
    assert_eq!(guest.ended().0, Some(4), "it does not keep the run from ending");
}

/// The API's row of the table of bad inputs: one error each, and the connection goes on.
#[test]
fn bad_input() {
    let guest = Guest::start(&[]);
    let mut client = guest.client();
    let deep = format!("{{\"execute\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    let huge = format!("{{\"execute\":\"query-name\",\"id\":\"{}\"}}", "x".repeat(1 << 20));
    for (bad, want) in [
        (deep.as_bytes(), "levels"),
        (huge.as_bytes(), "bytes"),
        (b"{\"execute\":\"qu\xc3\x28\"}", "unicode"),
        (b"{\"execute\":\"quit\",\"execute\":\"quit\"}", "twice"),
        (b"{\"execute\":\"quit\"\xff", "cuts off"),
        (b"quit\n", "begin no JSON"),
        (b"{\"execute\":\"qom-list\",\"arguments\":{\"path\":\"/../../etc\"}}", "nothing is at"),
    ] {
        client.0.get_mut().write_all(bad).unwrap();
        let line = client.line();
        assert!(line["error"]["desc"].as_str().is_some_and(|text| text.contains(want)), "{want}: {line}");
        assert_eq!(status(&mut client), "running");
    }
    // Byte by byte, and many at once.
    for byte in "{ \"execute\" : \"query-name\" }".chars() {
        client.send(&byte.to_string());
    }
    assert_eq!(client.line()["return"]["name"], "g");
    client.send(&"{\"execute\":\"query-name\"}".repeat(500));
    for _ in 0..500 {
        assert_eq!(client.line()["return"]["name"], "g");
    }
    // An identifier that fits on no line, after which nobody could tell replies apart.
    let mut other = guest.client();
    other.send(&format!("{{'execute':'query-name','id':'{}'}}", "x".repeat(65_000)));
    let said = other.line();
    assert!(said["error"]["desc"].as_str().unwrap().contains("connection ends"), "{said}");
    let mut end = String::new();
    assert_eq!(other.0.read_line(&mut end).unwrap_or(0), 0, "{end}");
    // Who says that nothing more comes is still answered.
    client.send("{\"execute\":\"query-name\"}");
    client.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.line()["return"]["name"], "g");
    assert!(client.line().is_null());
}

#[test]
fn sockets() {
    // A second one, and one whose file a dead process left.
    let directory = TempDir::new().unwrap();
    let other = directory.path().join("other");
    drop(std::os::unix::net::UnixListener::bind(&other).unwrap());
    let flag = format!("unix:{}", other.display());
    let guest = Guest::start(&["--qmp", &flag]);
    assert!(Client::connect(&other).line().get("QMP").is_some());
    let try_at = |path: &Path| {
        let kernel = guest.directory.path().join("kernel");
        let mut command = program::command();
        command.arg("run").arg("--kernel").arg(kernel).args(["--memory", "1M", "--console", "none", "--qmp"]);
        let output = command.arg(format!("unix:{}", path.display())).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, text) = try_at(&other);
    assert!(status == Some(3) && text.contains("another process listens there"), "{text}");
    let (status, text) = try_at(&guest.directory.path().join("kernel"));
    assert!(status == Some(3) && text.contains("something else than a socket"), "{text}");
    let (status, text) = try_at(Path::new("/nonexistent/x"));
    assert!(status == Some(3) && text.contains("/nonexistent/x: make the socket"), "{text}");
    guest.client().returns("{\"execute\":\"quit\"}");
    guest.ended();
    assert!(!other.exists());
}

#[test]
fn ctl() {
    let guest = Guest::start(&["--ap", "--cpus", "2"]);
    let check = |words: &[&str], status: i32, out: &str, err: &str| {
        let output = guest.ctl(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let got = (output.status.code(), text(&output.stdout), text(&output.stderr));
        assert_eq!(got, (Some(status), out.to_owned(), err.to_owned()), "{words:?}");
    };
    check(&["query-status"], 0, "running: true\nstatus: running\n", "");
    check(&["query-status", "--json"], 0, "{\"running\":true,\"status\":\"running\"}\n", "");
    check(
        &["query-chardev", "--json"],
        0,
        "[{\"filename\":\"null\",\"frontend-open\":true,\"label\":\"console\"}]\n",
        "",
    );
    check(&["stop", "--wait", "STOP"], 0, "STOP\n", "");
    check(&["human-monitor-command", "command-line=info status"], 0, "VM status: paused\n", "");
    check(&["cont"], 0, "", "");
    let device = format!("sysfsdev={MDEV}");
    check(&["device_add", "driver=vfio-ap", "id=x", &device], 0, "", "");
    let deleted = "DEVICE_DELETED\n  device: x\n  path: /machine/peripheral/x\n";
    check(&["device_del", "{\"id\": \"x\"}", "--wait", "DEVICE_DELETED"], 0, deleted, "");
    check(&["device_del", "id=x"], 1, "", "adjunct: device_del: id: no device 'x'; the guest has none\n");
    check(&["query-name", "name"], 2, "", "adjunct: 'name' is not key=value, nor is it JSON\n");
    check(&[], 2, "", "adjunct: give a command, or --wait EVENT\n");
    check(&["--wait", "RESET", "--timeout", "0.1"], 4, "", "adjunct: RESET did not come in time\n");
    check(
        &["--wait", "X_NOTHING"],
        1,
        "",
        "adjunct: events: 'X_NOTHING' is none that is subscribed to; those are \
           X_AP_CONFIG_CHANGED, X_AP_HOST, X_AP_REQUEST, X_CLIENTS_CHANGED, and * for all\n",
    );

    let mut child = program::command()
        .args(["ctl", guest.socket().to_str().unwrap(), "monitor"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = "info status\nstop\nx-subscribe events=*\nquery-status\ncont\nfly\nclosefd\nquery-name 5\n";
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        text,
        "VM status: running\nSTOP\nrunning: false\nstatus: paused\nRESUME\nno command 'fly'; 'help' lists them\n\
         error: fdname: missing; give a string\nerror: '5' is not key=value, nor is it JSON\n"
    );
    check(&["quit"], 0, "", "");
    let socket = guest.socket();
    guest.ended();
    let output = program::command().arg("ctl").arg(socket).arg("query-status").output().unwrap();
    assert_eq!(output.status.code(), Some(3));
}
