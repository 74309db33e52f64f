//! Running a guest and watching its console.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use nix::unistd::Pid;

/// Who executes the guest.
#[derive(Clone, Debug)]
pub enum Emulator {
    /// Our own VMM.
    Adjunct(PathBuf),
    /// QEMU, to compare with. Its CPU has no vector facility, as ours.
    Qemu(PathBuf),
}

/// A guest's image and machine.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Kernel image or ELF file.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub append: String,
    /// Guest storage.
    pub memory: &'static str,
    /// Number of CPUs.
    pub cpus: usize,
    /// The mediated device with crypto cards; QEMU has none.
    pub mdev: Option<String>,
    /// Description of the host with that device, if not the built-in one.
    pub ap_host: Option<PathBuf>,
    /// Where Adjunct takes management clients.
    pub qmp: Option<PathBuf>,
    /// Virtual time is the instruction count.
    pub icount: bool,
}

impl Boot {
    /// The Debian guest in one of the modes of its `/init`.
    pub fn debian(guest: &crate::guest::Guest, mode: &str) -> Boot {
        Boot {
            kernel: guest.kernel.clone(),
            initrd: Some(guest.initrd.clone()),
            append: format!("console=ttysclp0 adjunct.mode={mode}"),
            memory: "1G",
            cpus: 1,
            mdev: None,
            ap_host: None,
            qmp: None,
            icount: false,
        }
    }

    /// The command that runs this guest.
    pub fn command(&self, emulator: &Emulator) -> Command {
        let mut command;
        match emulator {
            Emulator::Adjunct(program) => {
                command = Command::new(program);
                command.arg("run").arg("--kernel").arg(&self.kernel);
                if let Some(initrd) = &self.initrd {
                    command.arg("--initrd").arg(initrd);
                }
                command.args(["--memory", self.memory, "--cpus", &self.cpus.to_string()]);
                if let Some(mdev) = &self.mdev {
                    command.args(["--ap-mdev", mdev]);
                }
                if let Some(host) = &self.ap_host {
                    command.arg("--ap-host").arg(host);
                }
                if let Some(qmp) = &self.qmp {
                    command.arg("--qmp").arg(format!("unix:{}", qmp.display()));
                }
                if self.icount {
                    command.arg("--icount");
                }
            }
            Emulator::Qemu(program) => {
                command = Command::new(program);
                command.args(["-M", "s390-ccw-virtio", "-cpu", "max,vx=off", "-m", self.memory]);
                command.args(["-smp", &self.cpus.to_string(), "-nographic", "-nodefaults"]);
                command.args(["-chardev", "stdio,id=console", "-device", "sclpconsole,chardev=console"]);
                command.arg("-kernel").arg(&self.kernel);
                if let Some(initrd) = &self.initrd {
                    command.arg("-initrd").arg(initrd);
                }
            }
        }
        if !self.append.is_empty() {
            command.args([
                if matches!(emulator, Emulator::Qemu(_)) { "-append" } else { "--append" },
                &self.append,
            ]);
        }
        command
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit status; none when it was killed at the timeout.
    pub status: Option<ExitStatus>,
    /// What the console showed.
    pub lines: Vec<String>,
    /// Wall-clock time.
    pub elapsed: Duration,
    /// CPU time of the process, user and system.
    pub cpu_time: Duration,
}

impl Ended {
    /// Whether it ended by itself and well.
    pub fn well(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }

    /// One sentence about the end, for a verdict.
    pub fn describe(&self) -> String {
        match self.status {
            None => format!("hung: killed after {:.0} s", self.elapsed.as_secs_f64()),
            Some(status) => format!("{status} after {:.1} s", self.elapsed.as_secs_f64()),
        }
    }

    /// The last lines of the console, to show when something went wrong.
    pub fn tail(&self) -> String {
        let from = self.lines.len().saturating_sub(25);
        self.lines[from..].iter().map(|l| format!("  | {l}\n")).collect()
    }
}

/// Processes to end when we are ended.
static RUNNING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Ctrl-C, SIGTERM and SIGHUP end the guests too.
pub fn end_guests_on_signals() -> Result<()> {
    ctrlc::set_handler(|| {
        kill_running();
        std::process::exit(130);
    })
    .context("install the signal handler")
}

/// Ends `child` with us, until it is forgotten.
pub fn remember(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        RUNNING.lock().unwrap_or_else(|e| e.into_inner()).push(pid);
    }
}

/// `child` is not ours to end any more.
pub fn forget(child: &Child) {
    RUNNING.lock().unwrap_or_else(|e| e.into_inner()).retain(|pid| u32::try_from(*pid) != Ok(child.id()));
}

fn kill_running() {
    for pid in RUNNING.lock().unwrap_or_else(|e| e.into_inner()).drain(..) {
        // One that has ended meanwhile is no error.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Runs `command` without input until it ends or `timeout` passes; `line` sees each line of its console at once.
pub fn watch(command: Command, timeout: Duration, line: impl FnMut(&str)) -> Result<Ended> {
    run(command, Stdio::null(), timeout, line, |_| false)
}

/// As [`watch`], with our terminal as its input. When `hand_over` says so of a line, the rest of the console goes
/// straight to the terminal, and time is no longer limited.
pub fn converse(
    command: Command,
    timeout: Duration,
    line: impl FnMut(&str),
    hand_over: impl FnMut(&str) -> bool,
) -> Result<Ended> {
    // Whatever happens to the guest's process, the terminal gets back what it had.
    let terminal = tcgetattr(std::io::stdin()).ok();
    let ended = run(command, Stdio::inherit(), timeout, line, hand_over);
    if let Some(settings) = terminal {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &settings);
    }
    ended
}

fn run(
    mut command: Command,
    input: Stdio,
    timeout: Duration,
    mut line: impl FnMut(&str),
    mut hand_over: impl FnMut(&str) -> bool,
) -> Result<Ended> {
    let program = Path::new(command.get_program()).display().to_string();
    let before = children_cpu_time()?;
    let started = Instant::now();
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {program}"))?;
    let pid = i32::try_from(child.id())?;
    RUNNING.lock().unwrap_or_else(|e| e.into_inner()).push(pid);

    let (sender, receiver) = channel::<(usize, Vec<u8>)>();
    let readers = [
        forward(0, child.stdout.take().context("a child without standard output")?, sender.clone()),
        forward(1, child.stderr.take().context("a child without standard error")?, sender),
    ];
    let mut lines = Vec::new();
    // The unfinished line of each of the two.
    let mut partial = [Vec::new(), Vec::new()];
    let mut direct = false;
    let mut timed_out = false;
    loop {
        let patience = if direct { Duration::MAX } else { timeout.saturating_sub(started.elapsed()) };
        let (stream, chunk) = match receiver.recv_timeout(patience.min(Duration::from_secs(3600))) {
            Ok(arrived) => arrived,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if direct => continue,
            Err(RecvTimeoutError::Timeout) => {
                timed_out = true;
                end(&mut child, pid)?;
                break;
            }
        };
        let mut rest = chunk.as_slice();
        while !direct && !rest.is_empty() {
            let end = rest.iter().position(|b| *b == b'\n');
            partial[stream].extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
            rest = end.map_or(&[], |e| &rest[e + 1..]);
            if end.is_some() {
                let text = String::from_utf8_lossy(&partial[stream]).trim_end_matches('\r').to_owned();
                partial[stream].clear();
                line(&text);
                direct = hand_over(&text);
                lines.push(text);
            }
        }
        if direct {
            let mut out = std::io::stdout().lock();
            out.write_all(rest).and_then(|()| out.flush()).context("write to the terminal")?;
        }
    }
    let status = wait(&mut child, pid)?;
    if !timed_out {
        for reader in readers {
            let _ = reader.join();
        }
    }
    for partial in partial.iter().filter(|p| !p.is_empty()) {
        let text = String::from_utf8_lossy(partial).trim_end_matches('\r').to_owned();
        line(&text);
        lines.push(text);
    }
    let cpu_time = children_cpu_time()?.saturating_sub(before);
    Ok(Ended { status: (!timed_out).then_some(status), lines, elapsed: started.elapsed(), cpu_time })
}

/// Ends a process: first so that it can restore the terminal, then surely.
fn end(child: &mut Child, pid: i32) -> Result<()> {
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    for _ in 0..20 {
        if child.try_wait().context("wait for a hung guest")?.is_some() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    child.kill().context("end a hung guest")
}

fn wait(child: &mut Child, pid: i32) -> Result<ExitStatus> {
    let status = child.wait().context("wait for a guest")?;
    RUNNING.lock().unwrap_or_else(|e| e.into_inner()).retain(|p| *p != pid);
    Ok(status)
}

fn forward(
    stream: usize,
    mut from: impl Read + Send + 'static,
    to: Sender<(usize, Vec<u8>)>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if to.send((stream, buffer[..n].to_vec())).is_err() {
                return;
            }
        }
    })
}

/// CPU time of all children that have ended, user and system.
fn children_cpu_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("read the CPU time of children")?;
    let microseconds = |t: nix::sys::time::TimeVal| t.tv_sec() as u64 * 1_000_000 + t.tv_usec() as u64;
    Ok(Duration::from_micros(microseconds(usage.user_time()) + microseconds(usage.system_time())))
}

/// Whether a person sits at a terminal.
pub fn interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const PATIENCE: Duration = Duration::from_secs(120);

    #[test]
    fn lines_arrive_and_the_status_is_known() {
        let mut seen = Vec::new();
        let ended =
            watch(shell("echo one; printf 'two\\r\\nthree'; exit 3"), PATIENCE, |l| seen.push(l.to_owned()))
                .unwrap();
        assert_eq!(seen, ["one", "two", "three"]);
        assert_eq!(ended.lines, seen);
        assert_eq!(ended.status.unwrap().code(), Some(3));
        assert!(!ended.well());
    }

    #[test]
    fn the_two_outputs_do_not_tear_each_others_lines() {
        let script = "printf on; sleep 0.2; printf 'er' >&2; sleep 0.2; echo e; sleep 0.2; echo ror >&2";
        let ended = watch(shell(script), PATIENCE, |_| {}).unwrap();
        // Which comes first, the two threads that read decide.
        let mut lines = ended.lines;
        lines.sort();
        assert_eq!(lines, ["error", "one"]);
    }

    #[test]
    fn a_hung_guest_is_ended() {
        // Time enough for the line on any machine.
        let ended = watch(shell("echo up; exec sleep 600"), Duration::from_secs(10), |_| {}).unwrap();
        assert_eq!(ended.status, None);
        assert_eq!(ended.lines, ["up"]);
        assert!(ended.elapsed < Duration::from_secs(300));
        assert!(ended.tail().contains("up"));
    }

    #[test]
    fn the_console_is_handed_over_after_the_chosen_line() {
        let mut seen = Vec::new();
        // The lines come in time on any machine, and the end does not.
        let script = "echo a; echo go; sleep 11; echo >&2";
        let ended = run(
            shell(script),
            Stdio::null(),
            Duration::from_secs(10),
            |l| seen.push(l.to_owned()),
            |l| l == "go",
        )
        .unwrap();
        assert!(ended.well());
        assert_eq!(seen, ["a", "go"]);
    }

    #[test]
    fn cpu_time_is_the_childs() {
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done";
        let ended = watch(shell(busy), PATIENCE, |_| {}).unwrap();
        assert!(ended.cpu_time > Duration::from_millis(20), "{:?}", ended.cpu_time);
    }
}
