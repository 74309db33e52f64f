//! The Rust crate `qapi`, as Kata's runtime uses it, on a running guest.

use std::fs;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use qapi::qmp::{self, CpuInfoFast, Event, RunState};
use qapi::{Dictionary, ExecuteError, Qmp, Stream};
use serde_json::json;
use tempfile::TempDir;

mod program;

type Connection<'a> = Qmp<Stream<BufReader<&'a UnixStream>, &'a UnixStream>>;

/// A guest that ends with the test, however that ends.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A guest of one branch to itself, and its socket.
fn start(directory: &Path) -> Guest {
    let mut image = vec![0; 0x1000];
    image[..8].copy_from_slice(&0x0008_0000_8000_0200u64.to_be_bytes());
    image[0x200..0x204].copy_from_slice(&[0xa7, 0xf4, 0, 0]);
    fs::write(directory.join("kernel"), image).unwrap();
    let mut command = program::command();
    command.current_dir(directory).args(["run", "--kernel", "kernel", "--memory", "1M", "--console", "none"]);
    command.args(["--cpus", "2", "--ap", "--qmp", "unix:qmp,server=on,wait=off"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Guest(command.spawn().unwrap())
}

fn connect(path: &Path) -> UnixStream {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(e) => assert!(Instant::now() < end, "{e}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The names of the events that came, in order.
fn events(qmp: &mut Connection<'_>) -> Vec<&'static str> {
    let name = |event: Event| match event {
        Event::STOP { .. } => "STOP",
        Event::RESUME { .. } => "RESUME",
        Event::RESET { .. } => "RESET",
        Event::POWERDOWN { .. } => "POWERDOWN",
        Event::DEVICE_DELETED { data, .. } => {
            assert_eq!(data.device.as_deref(), Some("ap0"));
            "DEVICE_DELETED"
        }
        other => panic!("{other:?}"),
    };
    qmp.events().map(name).collect()
}

#[test]
fn kata() {
    let directory = TempDir::new().unwrap();
    let mut child = start(directory.path());
    let stream = connect(&directory.path().join("qmp"));
    let mut qmp: Connection<'_> = Qmp::new(Stream::new(BufReader::new(&stream), &stream));
    let greeting = qmp.handshake().unwrap();
    assert!(greeting.version.qemu.major >= 5);
    assert!(qmp.execute(&qmp::query_fdsets {}).unwrap().is_empty());
    assert_eq!(qmp.execute(&qmp::query_version {}).unwrap().qemu.major, greeting.version.qemu.major);
    let cpus = qmp.execute(&qmp::query_cpus_fast {}).unwrap();
    let threads: Vec<_> = cpus
        .iter()
        .map(|cpu| match cpu {
            CpuInfoFast::s390x { base, .. } => base.thread_id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(threads.len() == 2 && threads.iter().all(|thread| *thread > 0));

    let sysfsdev = json!("/sys/devices/vfio_ap/matrix/62177883-f1bb-47f0-914d-32a22e3a8804");
    let arguments: Dictionary = [("sysfsdev".to_owned(), sysfsdev)].into_iter().collect();
    let device = qmp::device_add { bus: None, id: Some("ap0".into()), driver: "vfio-ap".into(), arguments };
    qmp.execute(&device).unwrap();
    match qmp.execute(&device) {
        Err(ExecuteError::Qapi(error)) => assert!(error.desc.contains("one vfio-ap device"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(events(&mut qmp).is_empty(), "no event of ours unless it is asked for");
    qmp.execute(&qmp::device_del { id: "ap0".into() }).unwrap();
    assert_eq!(events(&mut qmp), ["DEVICE_DELETED"], "before the reply");

    qmp.execute(&qmp::stop {}).unwrap();
    let status = qmp.execute(&qmp::query_status {}).unwrap();
    assert!(!status.running && status.status == RunState::paused);
    qmp.execute(&qmp::cont {}).unwrap();
    assert!(qmp.execute(&qmp::query_status {}).unwrap().running);
    assert_eq!(events(&mut qmp), ["STOP", "RESUME"]);
    let line = qmp::human_monitor_command { cpu_index: None, command_line: "info status".into() };
    assert_eq!(qmp.execute(&line).unwrap(), "VM status: running\r\n");
    qmp.execute(&qmp::system_powerdown {}).unwrap();
    qmp.nop().unwrap();
    assert_eq!(events(&mut qmp), ["POWERDOWN"]);
    qmp.execute(&qmp::quit {}).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(4));
}
