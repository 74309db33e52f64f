//! The life of a guest as its host sees it: process number, logs, figures, consoles, service manager, power-down.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

mod privileges;
mod program;

use privileges::{assert_given_up, filters, filters_before, threads};
use program::command;

/// Longest that anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A mediated device of the built-in AP host.
const MDEV: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
/// SERVICE CALL, command in register 2, SCCB in register 3.
const SERVC_2_3: [u8; 4] = [0xb2, 0x20, 0x00, 0x23];
/// A branch to itself.
const LOOP: [u8; 4] = [0xa7, 0xf4, 0, 0];

/// LGFI of register `r`.
fn lgfi(r: u8, value: u32) -> [u8; 6] {
    let v = value.to_be_bytes();
    [0xc0, r << 4 | 1, v[0], v[1], v[2], v[3]]
}

/// A guest that takes console input and power-off requests without ever acting on them, says hello and loops.
fn image() -> Vec<u8> {
    let half = |n: usize| (n as u16).to_be_bytes();
    let header = |length: usize| [&half(length)[..], &[0; 6]].concat();
    // VT220 messages (type 1a) both ways, signal quiesce (1d) in.
    let mask = [0, 0, 0, 4, 0, 0, 0, 0x48, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0];
    let text = b"hello from the guest\r\n";
    let event = [&half(6 + text.len())[..], &[0x1a, 0, 0, 0], text].concat();
    let code = [
        &lgfi(2, 0x0078_0005)[..],
        &lgfi(3, 0x4000),
        &SERVC_2_3,
        &lgfi(2, 0x0076_0005),
        &lgfi(3, 0x5000),
        &SERVC_2_3,
        &LOOP,
    ]
    .concat();
    let mut image = vec![0; 0x6000];
    let mut put = |at: usize, bytes: &[u8]| image[at..][..bytes.len()].copy_from_slice(bytes);
    put(0, &0x0008_0000_8000_0200u64.to_be_bytes());
    put(0x200, &code);
    put(0x4000, &[&header(8 + mask.len())[..], &mask].concat());
    put(0x5000, &[&header(8 + event.len())[..], &event].concat());
    image
}

struct Guest {
    child: Child,
    directory: TempDir,
}

impl Guest {
    /// A guest whose files are named relative to a directory of its own.
    fn start(flags: &[&str], environment: &[(&str, &Path)]) -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("kernel"), image()).unwrap();
        let mut command = command();
        command
            .current_dir(directory.path())
            .args(["run", "--kernel", "kernel", "--memory", "1M"])
            .args(flags);
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        command.envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap(), directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Waits until `condition` holds.
    fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition(self) {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut errors = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
                panic!("waiting until {what}: it ended with {status}: {errors}");
            }
            assert!(Instant::now() < end, "waiting until {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn until_text(&mut self, file: &str, text: &str) {
        self.until(text, |guest| {
            fs::read_to_string(guest.path(file)).is_ok_and(|found| found.contains(text))
        });
    }

    /// A connection to its socket of this name. The file is there a little before anybody listens.
    fn connect(&mut self, name: &str) -> UnixStream {
        let mut connection = None;
        self.until(name, |guest| {
            connection = UnixStream::connect(guest.path(name)).ok();
            connection.is_some()
        });
        connection.expect("waited for")
    }

    fn kill(&self, signal: &str) {
        let number = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &number]).status().unwrap().success());
    }

    /// Exit status and what it wrote to standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap().code(), errors)
    }
}

#[test]
fn process_number() {
    let mut guest = Guest::start(&["--console", "none", "--pidfile", "pid"], &[]);
    let want = format!("{}\n", guest.child.id());
    guest.until("the number stands", |g| fs::read_to_string(g.path("pid")).is_ok_and(|text| text == want));
    let second = command()
        .current_dir(guest.directory.path())
        .args(["run", "--kernel", "kernel", "--memory", "1M", "--pidfile", "pid"])
        .output()
        .unwrap();
    let errors = String::from_utf8(second.stderr).unwrap();
    let want =
        format!("adjunct: --pidfile: process {} lives and has it; give another path\n", guest.child.id());
    assert_eq!((second.status.code(), errors), (Some(3), want));

    // kill -9 leaves the file, and the next guest takes it over.
    guest.kill("-KILL");
    guest.child.wait().unwrap();
    assert!(guest.path("pid").exists());
    let next = command()
        .current_dir(guest.directory.path())
        .args(["run", "--kernel", "kernel", "--memory", "1M", "--pidfile", "pid", "--console", "none"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut guest = Guest { child: next, directory: guest.directory };
    let want = format!("{}\n", guest.child.id());
    guest.until("the number changes", |g| fs::read_to_string(g.path("pid")).is_ok_and(|text| text == want));
    guest.kill("-INT");
    assert_eq!(guest.child.wait().unwrap().code(), Some(4));
    assert!(!guest.path("pid").exists());
}

#[test]
fn logs_are_opened_anew() {
    let flags =
        ["--console", "file=console", "--log-file", "log", "--log-format", "json", "--log", "vmm=debug"];
    let mut guest = Guest::start(&flags, &[]);
    guest.until_text("log", "running on 1 CPUs");
    guest.until_text("console", "hello");
    fs::rename(guest.path("log"), guest.path("log.1")).unwrap();
    fs::rename(guest.path("console"), guest.path("console.1")).unwrap();
    guest.kill("-HUP");
    guest.until("files are back", |g| g.path("log").exists() && g.path("console").exists());
    guest.kill("-INT");
    let old = fs::read_to_string(guest.path("log.1")).unwrap();
    for line in old.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(line["message"].is_string() && line["target"].as_str().unwrap().starts_with("vmm"), "{line}");
    }
    assert_eq!(guest.end(), (Some(4), "adjunct: ended by SIGINT\n".into()));
}

#[test]
fn figures() {
    let mut guest = Guest::start(&["--console", "none", "--metrics", "unix:m", "--name", "g\"1"], &[]);
    drop(guest.connect("m"));
    // Nothing when the question came too late: nobody waits for it long.
    let ask = |guest: &Guest| {
        let mut client = UnixStream::connect(guest.path("m")).unwrap();
        let mut reply = String::new();
        let asked = client.write_all(b"GET /metrics HTTP/1.0\r\n\r\n");
        asked.and_then(|()| client.read_to_string(&mut reply)).map_or(String::new(), |_| reply)
    };
    let mut reply = String::new();
    guest.until("the guest has written", |guest| {
        reply = ask(guest);
        reply.contains("\nadjunct_console_written_bytes_total 22\n")
    });
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    for line in [
        "adjunct_info{name=\"g\\\"1\",",
        "adjunct_storage_bytes 1048576",
        "adjunct_cpu_operating{cpu=\"0\"} 1",
    ] {
        assert!(reply.lines().any(|l| l.starts_with(line)), "{line} in {reply}");
    }
    // One that says nothing keeps the others waiting, but not for ever.
    let silent = UnixStream::connect(guest.path("m")).unwrap();
    guest.until("it is another's turn", |guest| !ask(guest).is_empty());
    drop(silent);
    guest.kill("-INT");
    guest.child.wait().unwrap();
    assert!(!guest.path("m").exists());

    let mut guest = Guest::start(&["--console", "none", "--metrics", "file=m"], &[]);
    guest.until_text("m", "process_resident_memory_bytes");
    guest.kill("-INT");
    guest.child.wait().unwrap();
    assert!(!guest.path("m").exists());
}

#[test]
fn a_console_for_several() {
    let mut guest = Guest::start(&["--console", "unix:c"], &[]);
    let read = |guest: &mut Guest| {
        let mut viewer = guest.connect("c");
        viewer.write_all(b"typed").unwrap();
        let mut text = [0; 22];
        viewer.read_exact(&mut text).unwrap();
        (viewer, text)
    };
    let (one, text) = read(&mut guest);
    let (two, again) = read(&mut guest);
    assert_eq!((text, again), (*b"hello from the guest\r\n", *b"hello from the guest\r\n"));
    one.shutdown(Shutdown::Both).unwrap();

    let client =
        command().arg("console").arg(guest.path("c")).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut client = client.unwrap();
    let mut text = [0; 22];
    client.stdout.as_mut().unwrap().read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello from the guest\r\n");
    guest.kill("-INT");
    guest.child.wait().unwrap();
    assert_eq!(client.wait().unwrap().code(), Some(0), "the guest has gone");
    drop(two);
    let nobody = command().arg("console").arg(guest.path("c")).output().unwrap();
    assert_eq!(nobody.status.code(), Some(3));
}

#[test]
fn a_console_at_a_pseudo_terminal() {
    let mut guest = Guest::start(&["--console", "pty"], &[]);
    let mut errors = std::io::BufReader::new(guest.child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut errors, &mut line).unwrap();
    let path = line.trim().strip_prefix("adjunct: the console is at ").expect(&line);
    let mut terminal = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut text = [0; 22];
    terminal.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello from the guest\r\n");
    terminal.write_all(b"typed").unwrap();
    guest.kill("-INT");
    assert_eq!(guest.child.wait().unwrap().code(), Some(4));
}

#[test]
fn word_for_systemd() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    // As systemd does it: everything is read as it comes. Whoever tells more than the few that fit would wait.
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(count) = socket.recv(&mut buffer) {
            if tell.send(String::from_utf8(buffer[..count].to_vec()).unwrap()).is_err() {
                return;
            }
        }
    });
    let next = || told.recv_timeout(PATIENCE).unwrap();
    let environment = [("NOTIFY_SOCKET", path.as_path()), ("WATCHDOG_USEC", Path::new("30000"))];
    let guest = Guest::start(&["--console", "none"], &environment);
    let first = next();
    assert!(first.starts_with("READY=1"), "{first}");
    let alive: Vec<_> = (0..3).map(|_| next()).collect();
    assert!(alive.iter().all(|text| text.trim() == "WATCHDOG=1"), "{alive:?}");
    guest.kill("-TERM");
    while next().trim() != "STOPPING=1" {}
    // It gets the time that it never makes use of.
    guest.kill("-TERM");
    assert_eq!(guest.end().0, Some(4));
}

#[test]
fn a_guest_that_does_not_power_off() {
    let flags = ["--console", "file=console", "--shutdown-timeout", "1", "--log", "vmm=info"];
    let mut guest = Guest::start(&flags, &[]);
    guest.until_text("console", "hello");
    guest.kill("-TERM");
    let (status, errors) = guest.end();
    assert!(status == Some(4) && errors.contains("asked the guest to power off within 1s"), "{errors}");
    assert!(errors.ends_with("adjunct: ended by SIGTERM\n"), "{errors}");

    // No time at all: at once.
    let mut guest = Guest::start(&["--console", "file=console", "--shutdown-timeout", "0"], &[]);
    guest.until_text("console", "hello");
    guest.kill("-TERM");
    assert_eq!(guest.end().0, Some(4));
}

#[test]
fn privileges_are_given_up() {
    let Some(before) = filters_before() else { return };
    let flags = ["--console", "file=console", "--metrics", "file=m", "--ap-mdev", MDEV, "--cpus", "2"];
    let mut guest = Guest::start(&flags, &[]);
    guest.until_text("console", "hello");
    guest.until_text("m", "adjunct_ap_queues");
    // All threads: the process's filter and that of their kind.
    guest.until("every thread has its filter", |g| {
        threads(g.child.id()).iter().all(|(_, status)| filters(status) == before + 2)
    });
    let found = threads(guest.child.id());
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["adjunct", "cpu0", "cpu1", "console", "metrics", "ap-card-0"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    for (name, status) in &found {
        assert_given_up(name, status);
    }
    guest.kill("-INT");
    assert_eq!(guest.end(), (Some(4), "adjunct: ended by SIGINT\n".into()));

    let mut guest = Guest::start(&["--console", "file=console", "--sandbox", "off"], &[]);
    guest.until_text("console", "hello");
    assert!(threads(guest.child.id()).iter().all(|(_, status)| filters(status) == before));
    guest.kill("-INT");
    assert_eq!(guest.end().0, Some(4));
}
