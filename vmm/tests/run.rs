//! The binary as a user runs it, on guests of a few instructions.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::{NamedTempFile, TempDir};

mod program;

use program::command;

/// Where a guest's code begins, and its end: `LPSWE DONE` or `LPSWE DEAD`.
const CODE: u64 = 0x200;
const DONE: u64 = 0x300;
const DEAD: u64 = 0x310;

/// A raw image that runs `code`, with `data` at the given addresses.
fn guest(code: &[&[u8]], data: &[(u64, &[u8])]) -> NamedTempFile {
    let mut image = vec![0; 0x6000];
    let mut put = |at: u64, bytes: &[u8]| image[at as usize..][..bytes.len()].copy_from_slice(bytes);
    put(0, &(0x0008_0000_8000_0000 | CODE).to_be_bytes());
    put(CODE, &code.concat());
    for (at, address) in [(DONE, 0xfffu64), (DEAD, 0xdead)] {
        put(at, &0x0002_0001_8000_0000u64.to_be_bytes());
        put(at + 8, &address.to_be_bytes());
    }
    for (at, bytes) in data {
        put(*at, bytes);
    }
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&image).unwrap();
    file
}

/// LPSWE from `at`.
fn lpswe(at: u64) -> [u8; 4] {
    [0xb2, 0xb2, (at >> 8) as u8, at as u8]
}

/// LGFI of register `r`.
fn lgfi(r: u8, value: u32) -> [u8; 6] {
    let v = value.to_be_bytes();
    [0xc0, r << 4 | 1, v[0], v[1], v[2], v[3]]
}

/// SERVICE CALL, command in register 2, SCCB in register 3.
const SERVC_2_3: [u8; 4] = [0xb2, 0x20, 0x00, 0x23];
/// DIAGNOSE 308 with registers 4 and 6.
const DIAG_308_4_6: [u8; 4] = [0x83, 0x46, 0x03, 0x08];
/// SIGNAL PROCESSOR, order 5 (stop), to the CPU in register 3, which is this one.
const SIGP_STOP_SELF: [u8; 4] = [0xae, 0x13, 0x00, 0x05];
/// A branch to itself.
const LOOP: [u8; 4] = [0xa7, 0xf4, 0, 0];
/// BCTG of register 7 to itself.
const COUNT_DOWN_7: [u8; 4] = [0xa7, 0x77, 0, 0];

fn adjunct(kernel: &Path, flags: &[&str]) -> Command {
    let mut command = command();
    command.arg("run").arg("--kernel").arg(kernel).args(["--memory", "1M"]).args(flags);
    command.stdin(Stdio::null());
    command
}

/// Exit status and what was written to standard error.
fn verdict(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn exit_statuses() {
    #[track_caller]
    fn check(code: &[&[u8]], flags: &[&str], status: i32, message: &str) {
        let kernel = guest(code, &[]);
        let (got, stderr) = verdict(&adjunct(kernel.path(), flags).output().unwrap());
        assert_eq!(got, Some(status), "{stderr}");
        assert!(stderr.contains(message) && (status != 0 || stderr.is_empty()), "{stderr:?}");
    }
    check(&[&lpswe(DONE)], &[], 0, "");
    check(&[&lpswe(DONE)], &["--cpus", "3"], 0, "");
    check(&[&lpswe(DONE)], &["--icount"], 0, "");
    check(&[&SIGP_STOP_SELF, &LOOP], &[], 0, "");
    check(
        &[&lpswe(DEAD)],
        &["--cpus", "2"],
        1,
        "the guest crashed: disabled wait on CPU 0: PSW 0002000180000000 000000000000dead\nat dead: 0000 ",
    );
    // No instruction, and a program new PSW that leads to what is none either.
    check(
        &[&[0, 0]],
        &[],
        1,
        "the program new PSW leads to program interruptions for ever on CPU 0: PSW 0000000000000000 0000000000000000\nat 0: ",
    );
    check(
        &[&lgfi(6, 6), &DIAG_308_4_6, &lpswe(DEAD)],
        &[],
        1,
        "\nlast exits, oldest first, with the instruction address after each:\n",
    );
    check(&[], &["--memory", "1"], 2, "cannot be used multiple times");
    check(&[], &["--cpus", "0"], 2, "adjunct: --cpus: 0 CPUs; give 1 to 240\n");
    check(&[], &["--append", "x"], 2, "takes no --append");
    check(&[], &["--cpu-model", "z1"], 2, "give one of z10, ");
    check(&[&lpswe(DONE)], &["--accel", "engine"], 0, "");
    check(&[], &["--accel", "kvm", "--icount"], 2, "KVM counts no instructions");
    if !Path::new("/dev/kvm").exists() || !cfg!(target_arch = "s390x") {
        check(&[], &["--accel", "kvm"], 3, "adjunct: open /dev/kvm; on an s390x host load the module kvm");
        check(&[&lpswe(DONE)], &["--accel", "auto"], 0, "");
    }
    check(&[], &["--console", "file=/nonexistent/x"], 3, "--console: No such file");
    check(
        &[],
        &["--ap-mdev", "00000000-0000-0000-0000-000000000001"],
        2,
        "62177883-f1bb-47f0-914d-32a22e3a8804",
    );
}

#[test]
fn configuration_file() {
    let kernel = guest(&[&lpswe(DONE)], &[]);
    let mut config = NamedTempFile::new().unwrap();
    let path = kernel.path().display();
    write!(config, r#"{{"kernel": "{path}", "memory": "1M", "cpus": 0, "icount": true}}"#).unwrap();
    let run = |flags: &[&str]| {
        verdict(&command().arg("run").arg("--config").arg(config.path()).args(flags).output().unwrap())
    };
    assert_eq!(run(&["--cpus", "1"]), (Some(0), String::new()));
    assert_eq!(run(&[]).0, Some(2));
    assert_eq!(run(&["--cpus", "2", "--icount=false"]), (Some(0), String::new()));
}

/// The SCCB of an event buffer with a VT220 message, and the one that enables such events.
fn vt220(text: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let half = |n: usize| (n as u16).to_be_bytes();
    let header = |length: usize| [&half(length)[..], &[0; 6]].concat();
    let event = [&half(6 + text.len())[..], &[0x1a, 0, 0, 0], text].concat();
    let mask = [0, 0, 0, 4, 0, 0, 0, 0x40, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0];
    ([&header(8 + mask.len())[..], &mask].concat(), [&header(8 + event.len())[..], &event].concat())
}

#[test]
fn console_output() {
    let (mask, message) = vt220(b"hello from the guest\r\n");
    let kernel = guest(
        &[
            &lgfi(2, 0x0078_0005),
            &lgfi(3, 0x4000),
            &SERVC_2_3,
            &lgfi(2, 0x0076_0005),
            &lgfi(3, 0x5000),
            &SERVC_2_3,
            &lpswe(DONE),
        ],
        &[(0x4000, &mask), (0x5000, &message)],
    );
    let output = adjunct(kernel.path(), &[]).output().unwrap();
    assert_eq!(verdict(&output), (Some(0), String::new()));
    assert_eq!(output.stdout, b"hello from the guest\r\n");

    let dir = TempDir::new().unwrap();
    let file = dir.path().join("console");
    let output =
        adjunct(kernel.path(), &["--console", &format!("file={}", file.display())]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    assert_eq!(fs::read(file).unwrap(), b"hello from the guest\r\n");
}

/// Subcode 1 starts anew at the PSW in location 0, which the guest has replaced.
#[test]
fn load_normal() {
    let other = (0x0008_0000_8000_0000u64 | 0x280).to_be_bytes();
    // MVC of 8 bytes from 0x340 to 0.
    let mvc = [0xd2, 7, 0, 0, 0x03, 0x40];
    let kernel =
        guest(&[&mvc, &lgfi(6, 1), &DIAG_308_4_6, &lpswe(DEAD)], &[(0x340, &other), (0x280, &lpswe(DONE))]);
    assert_eq!(verdict(&adjunct(kernel.path(), &[]).output().unwrap()), (Some(0), String::new()));
}

/// Subcode 3 loads the file as it was opened, though another has its name by now. The guest writes to
/// the console once a load, so that the test can see it.
#[test]
fn load_clear_repeats() {
    let (mask, message) = vt220(b"again\n");
    let kernel = guest(
        &[
            &lgfi(2, 0x0078_0005),
            &lgfi(3, 0x4000),
            &SERVC_2_3,
            &lgfi(2, 0x0076_0005),
            &lgfi(3, 0x5000),
            &SERVC_2_3,
            &lgfi(7, 1_000_000),
            &COUNT_DOWN_7,
            &lgfi(6, 3),
            &DIAG_308_4_6,
            &lpswe(DEAD),
        ],
        &[(0x4000, &mask), (0x5000, &message)],
    );
    let mut child =
        adjunct(kernel.path(), &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut text = [0; 24];
    std::io::Read::read_exact(&mut out, &mut text).unwrap();
    assert_eq!(&text, b"again\nagain\nagain\nagain\n");
    drop(out);
    kill("-TERM", &child);
    assert_eq!(verdict(&child.wait_with_output().unwrap()).0, Some(4));
}

fn kill(signal: &str, child: &Child) {
    assert!(Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap().success());
}

#[test]
fn signals_end_a_run() {
    let kernel = guest(&[&LOOP], &[]);
    for (signal, name) in [("-TERM", "SIGTERM"), ("-INT", "SIGINT"), ("-HUP", "SIGHUP")] {
        // What it logs once the handlers stand.
        let mut child = adjunct(kernel.path(), &["--cpus", "2", "--log", "vmm=debug"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("running") {
            line.clear();
            assert_ne!(std::io::BufRead::read_line(&mut stderr, &mut line).unwrap(), 0, "it ended");
        }
        kill(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(4), "{signal}");
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut stderr, &mut rest).unwrap();
        assert!(rest.contains(&format!("ended by {name}")), "{rest}");
    }
}

/// Runs `during` beside a guest that loops on a terminal, once the terminal is in raw mode; `$pid` is
/// the run's. Answers with its exit status and whether the terminal was given back as it was.
fn at_a_terminal(typed: &[u8], during: &str) -> (String, bool) {
    let dir = TempDir::new().unwrap();
    let kernel = guest(&[&LOOP], &[]);
    let script = format!(
        "stty -g >before; exec 3<&0
        (until [ -f pid ] && [ \"$(stty -g <&3)\" != \"$(cat before)\" ]; do sleep 0.02; done
         pid=$(cat pid); touch raw; {during}) &
        sh -c 'echo $$ >p; mv p pid; exec {} run --kernel {} --memory 1M'
        echo $? >status; stty -g >after",
        program::words().join(" "),
        kernel.path().display()
    );
    let mut child = Command::new("script")
        .args(["-qec", &script, "/dev/null"])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("script(1), of bsdutils");
    while !dir.path().join("raw").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before the terminal was raw");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(typed).unwrap();
    child.wait().unwrap();
    let read = |name| fs::read_to_string(dir.path().join(name)).unwrap();
    (read("status").trim().into(), read("before") == read("after"))
}

#[test]
fn the_terminal_is_given_back() {
    assert_eq!(at_a_terminal(b"\x03hello\x01h\x01x", ":"), ("4".into(), true));
    assert_eq!(at_a_terminal(b"", "kill -TERM $pid"), ("4".into(), true));
    for (signal, status) in [("SEGV", 139), ("ABRT", 134), ("HUP", 4)] {
        if signal == "ABRT" && program::words().len() > 1 {
            continue; // QEMU's user emulation keeps this signal to itself.
        }
        assert_eq!(
            at_a_terminal(b"", &format!("kill -{signal} $pid")),
            (status.to_string(), true),
            "{signal}"
        );
    }
}
