//! A booted guest whose cards come and go: an AP host's daemon, a guest on it, and an operator, each a process of its own, as an
//! administrator has them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::guest::{Guest, MESSAGES};
use crate::initramfs::Initramfs;
use crate::machine;
use crate::report::{Report, Verdict};
use crate::rsa::{Key, Operation};
use crate::tools::{self, Tool};

/// The mediated device of the guest.
const MDEV: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
/// The queue that goes and comes back.
const GOES: &str = "05.0004";
/// Queues that stay while others go, an accelerator's and a CCA coprocessor's.
const STAY: [&str; 2] = ["06.00ab", "07.00ab"];
/// Plugs and unplugs in the storm.
const STORM: usize = 1000;
/// Far less than the 120 seconds after which the guest would look by itself, far more than a busy machine needs.
const AT_ONCE: Duration = Duration::from_secs(10);
/// For requests to go on or to cease, which nothing but the machine's speed decides.
const SOON: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(600);
/// ENODEV: no card can do it.
const NO_DEVICE: &str = "19";

/// Runs it all and counts the checks in `report`.
pub fn plug(adjunct: &Path, guest: &Guest, target: &Path, report: &mut Report) -> Result<()> {
    let gcc = match tools::provide(target, Tool::Gcc) {
        Ok(gcc) => gcc,
        Err(e) => {
            report.check(Verdict::Skipped, "plug", &format!("no compiler for the guest's traffic: {e:#}"));
            return Ok(());
        }
    };
    let directory = target.join("guest/plug");
    fs::create_dir_all(&directory)?;
    let initrd = initrd(&gcc, guest, &directory)?;
    let description = directory.join("host.json");
    fs::write(&description, serde_json::to_vec_pretty(&host()?)?)?;

    let mut session = Session::start(adjunct, guest, &initrd, &description, &directory)?;
    let result = session.steps(report);
    if let Err(e) = &result {
        report.expect(false, "plug", &format!("{e:#}"));
        println!("{}", session.tail());
    }
    Ok(())
}

/// The guest's initramfs, and behind it an archive with the traffic's program and numbers.
fn initrd(gcc: &Path, guest: &Guest, directory: &Path) -> Result<PathBuf> {
    let (source, program) = (directory.join("traffic.c"), directory.join("traffic"));
    fs::write(&source, include_str!("../guest/traffic.c"))?;
    let flags = "-O2 -march=zEC12 -msoft-float -ffreestanding -fno-stack-protector -fno-pie -no-pie -nostdlib -static \
                 -fno-tree-loop-distribute-patterns -Wl,--build-id=none,-z,noexecstack";
    let output =
        Command::new(gcc).args(flags.split_whitespace()).arg("-o").arg(&program).arg(&source).output()?;
    ensure!(output.status.success(), "compile the traffic: {}", String::from_utf8_lossy(&output.stderr));

    let mut archive = Initramfs::default();
    archive.file("traffic", &fs::read(&program)?, true);
    let key = Key::test_key(2048)?;
    archive.file("rsa/traffic/modulus", &key.modulus_bytes(), false);
    for i in 1..=MESSAGES {
        archive.file(&format!("rsa/traffic/message-{i}"), &key.message(i), false);
        archive.file(&format!("rsa/traffic/public-{i}"), &key.apply(Operation::Public, i), false);
    }
    let mut bytes = fs::read(&guest.initrd)?;
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(archive.to_bytes()?);
    let path = directory.join("initrd.cpio");
    fs::write(&path, bytes)?;
    Ok(path)
}

/// The built-in host with a second CCA coprocessor, 07, that stays when 05 goes, and one device with three adapters.
fn host() -> Result<Value> {
    let mut host: Value = serde_json::from_str(include_str!("../../devices/ap/src/host/builtin.json"))?;
    let adapters = host["adapters"].as_array_mut().context("a host without adapters")?;
    let mut second = adapters[0].clone();
    second["adapter"] = json!("0x07");
    second["serial"] = json!("93AADFK8");
    adapters.insert(2, second);
    host["apmask"] = json!("-5,-6,-7,-0xa");
    let attrs = [("adapter", "5"), ("adapter", "6"), ("adapter", "7"), ("domain", "4"), ("domain", "0xab")];
    let attrs: Vec<Value> = attrs.iter().map(|(kind, n)| json!({ format!("assign_{kind}"): n })).collect();
    host["mdevs"] = json!({ MDEV: { "mdev_type": "vfio_ap-passthrough", "attrs": attrs } });
    Ok(host)
}

/// A process that is ended with us.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        machine::forget(&self.0);
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a stream of requests has come to.
#[derive(Clone, Debug, Default, PartialEq)]
struct Traffic {
    good: u64,
    wrong: u64,
    failed: u64,
    errno: String,
}

/// Daemon, guest and operator.
struct Session {
    adjunct: PathBuf,
    socket: PathBuf,
    _daemon: Process,
    guest: Process,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
    /// The AP bus as the guest sees it: queue to `TYPE/ONLINE/CONFIG/CHKSTOP`.
    bus: BTreeMap<String, String>,
    traffic: BTreeMap<String, Traffic>,
    random: Traffic,
    /// Queue and card to `TYPE STATUS`, as lszcrypt shows them; what came since the last look is gathered apart.
    lszcrypt: BTreeMap<String, String>,
    looking: BTreeMap<String, String>,
    looks: u64,
    /// Replies for which the guest's kernel had no request, when it looked last.
    strays: u64,
    /// How long the guest took to see a change.
    delays: Vec<Duration>,
    /// How often the adapter of [`GOES`] went.
    gone: u64,
}

impl Session {
    fn start(
        adjunct: &Path,
        guest: &Guest,
        initrd: &Path,
        description: &Path,
        directory: &Path,
    ) -> Result<Self> {
        let socket = directory.join("host.sock");
        let mut daemon = Command::new(adjunct);
        daemon.args(["ap-host", "serve", "--socket"]).arg(&socket).arg("--description").arg(description);
        let daemon = spawn(daemon.stdin(Stdio::null()))?;
        wait_for(&socket)?;
        let mut run = Command::new(adjunct);
        let queues = [STAY[0], STAY[1], GOES].join(",");
        run.arg("run").arg("--kernel").arg(&guest.kernel).arg("--initrd").arg(initrd);
        run.args(["--memory", "1G", "--cpus", "2", "--ap-mdev", MDEV, "--ap-host"]);
        run.arg(format!("unix:{}", socket.display()));
        run.args(["--append", &format!("console=ttysclp0 quiet adjunct.mode=plug adjunct.queues={queues}")]);
        let mut guest = spawn(run.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let input = guest.0.stdin.take();
        let output = guest.0.stdout.take().context("a child without standard output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                if sender.send(line.trim_end_matches('\r').to_owned()).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            adjunct: adjunct.to_owned(),
            socket,
            _daemon: daemon,
            guest,
            input,
            lines,
            seen: Vec::new(),
            bus: BTreeMap::new(),
            traffic: BTreeMap::new(),
            random: Traffic::default(),
            lszcrypt: BTreeMap::new(),
            looking: BTreeMap::new(),
            looks: 0,
            strays: 0,
            delays: Vec::new(),
            gone: 0,
        })
    }

    fn steps(&mut self, report: &mut Report) -> Result<()> {
        self.until(PATIENCE, "traffic to begin", |s| {
            s.seen.iter().any(|l| l == "ADJUNCT-STEP traffic ok started")
        })?;
        let first = self.expected()?;
        self.until(PATIENCE, "the guest to see its queues", |s| s.bus == first)?;
        for label in STAY.iter().chain(&[GOES, "any"]) {
            self.flows(label)?;
        }
        report.expect(
            true,
            "plug",
            &format!("{} queues with traffic on four streams and random numbers", first.len()),
        );

        let assign = |number: &'static [&'static str]| [&["assign", MDEV], number].concat();
        let unassign = |number: &'static [&'static str]| [&["unassign", MDEV], number].concat();
        let five = &["--adapter", "5"];
        self.change(report, "unassign adapter", &unassign(five), Some(false))?;
        self.change(report, "assign adapter", &assign(five), Some(true))?;
        self.change(report, "new adapter", &assign(&["--adapter", "0xa"]), None)?;
        self.change(report, "unbind", &["unbind", GOES], Some(false))?;
        self.change(report, "bind", &["bind", GOES], Some(true))?;
        self.change(report, "unassign domain", &unassign(&["--domain", "4"]), Some(false))?;
        self.change(report, "assign domain", &assign(&["--domain", "4"]), Some(true))?;
        self.change(report, "control domain", &assign(&["--control-domain", "4,0x47"]), None)?;
        self.change(report, "no control domain", &unassign(&["--control-domain", "0x47"]), None)?;
        self.change(report, "adapter offline", &["adapter", "offline", "5"], Some(false))?;
        self.change(report, "adapter online", &["adapter", "online", "5"], Some(true))?;
        self.change(report, "check-stop", &["adapter", "checkstop", "5"], Some(false))?;
        self.change(report, "recovered", &["adapter", "online", "5"], Some(true))?;
        self.change(report, "type change", &["adapter", "type", "5", "CEX7A"], Some(true))?;
        self.change(report, "host domain goes", &["domain", "remove", "4"], Some(false))?;
        self.change(report, "host domain comes", &["domain", "add", "4"], Some(true))?;
        self.change(report, "host adapter goes", &["adapter", "remove", "5"], Some(false))?;
        self.change(report, "host adapter comes", &["adapter", "add", "5", "CEX8C"], Some(true))?;
        self.storm(report)?;
        self.end(report)
    }

    /// Lets the operator change something and the guest see it. `goes_on` says whether requests to the queue that comes and goes
    /// are answered afterwards; none: they always were.
    fn change(
        &mut self,
        report: &mut Report,
        name: &str,
        words: &[&str],
        goes_on: Option<bool>,
    ) -> Result<()> {
        let began = Instant::now();
        self.operator(words)?;
        // A type change is a departure and an arrival.
        self.gone += u64::from(goes_on == Some(false) || words.contains(&"type"));
        let expected = self.expected()?;
        let same = self.until(AT_ONCE, "the guest to see the change", |s| s.bus == expected);
        let delay = began.elapsed();
        let mut details =
            format!("the guest saw it {:.0} ms after the command began", delay.as_secs_f64() * 1e3);
        if let Err(e) = &same {
            details = format!("{e:#}: it sees {:?}, not {expected:?}", self.bus);
        }
        self.delays.push(delay);
        let wrong = match self.control_domains(words)? {
            None => self.lszcrypt(&expected)?,
            wrong => wrong,
        };
        report.expect(same.is_ok() && wrong.is_none(), name, &wrong.unwrap_or(details));
        match goes_on {
            Some(true) | None => self.flows(GOES)?,
            Some(false) => self.ceases(GOES)?,
        }
        for label in STAY {
            self.flows(label)?;
        }
        Ok(())
    }

    /// What is wrong with the guest's control domains, when the operator changed those.
    fn control_domains(&mut self, words: &[&str]) -> Result<Option<String>> {
        if !words.contains(&"--control-domain") {
            return Ok(None);
        }
        let want = self.state()?["mdevs"][0]["guest_matrix"]["adm"].as_str().unwrap_or_default().to_owned();
        let line = format!("ADJUNCT-CONTROL {want}");
        let seen = self.until(AT_ONCE, "the guest's control domains", |s| {
            s.seen.iter().rev().find(|l| l.starts_with("ADJUNCT-CONTROL ")) == Some(&line)
        });
        Ok(seen.err().map(|e| format!("{e:#}, not {want}")))
    }

    /// Lets the guest look at its queues with lszcrypt, and says what is wrong with what that shows.
    fn lszcrypt(&mut self, expected: &BTreeMap<String, String>) -> Result<Option<String>> {
        self.tell("look")?;
        let looks = self.looks;
        self.until(SOON, "lszcrypt in the guest", |s| s.looks > looks)?;
        let mut rows = BTreeMap::new();
        for (queue, state) in expected {
            let (type_name, flags) = state.split_once('/').context("a state without flags")?;
            let status = match flags {
                "1/1/0" => "online",
                "0/0/0" => "deconfig",
                _ => "chkstop",
            };
            let (card, _) = queue.split_once('.').context("a queue without a domain")?;
            rows.insert(queue.clone(), format!("{type_name} {status}"));
            rows.insert(card.to_owned(), format!("{type_name} {status}"));
        }
        Ok((self.lszcrypt != rows).then(|| format!("lszcrypt shows {:?}, not {rows:?}", self.lszcrypt)))
    }

    /// A line on the guest's console.
    fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.input.as_mut().context("no console")?, "{line}").context("write to the guest's console")
    }

    fn storm(&mut self, report: &mut Report) -> Result<()> {
        let began = Instant::now();
        for round in 0..STORM {
            let verb = if round % 2 == 0 { "unassign" } else { "assign" };
            self.operator(&[verb, MDEV, "--adapter", if round % 4 < 2 { "5" } else { "0xa" }])?;
            self.gone += u64::from(round % 4 == 0);
            // The guest's lines are taken off, or its console would wait for us.
            while let Ok(line) = self.lines.try_recv() {
                self.take(line);
            }
        }
        let took = began.elapsed().as_secs_f64();
        let expected = self.expected()?;
        let same = self.until(AT_ONCE, "the guest to see the end of the storm", |s| s.bus == expected);
        let details = match &same {
            Ok(()) => format!("{STORM} plugs and unplugs in {took:.1} s, and the guest sees what is there"),
            Err(e) => format!("{e:#}: it sees {:?}, not {expected:?}", self.bus),
        };
        let wrong = self.lszcrypt(&expected)?;
        report.expect(same.is_ok() && wrong.is_none(), "storm", &wrong.unwrap_or(details));
        for label in STAY.iter().chain(&[GOES, "any"]) {
            self.flows(label)?;
        }
        Ok(())
    }

    /// Stops the guest, and looks at what its streams of requests came to.
    fn end(&mut self, report: &mut Report) -> Result<()> {
        self.tell("look")?;
        self.tell("stop")?;
        self.until(PATIENCE, "the guest's end", |s| s.seen.iter().any(|l| l.starts_with("ADJUNCT-END ")))?;
        for label in STAY.iter().chain(&[GOES, "any"]) {
            let traffic = self.traffic.get(*label).cloned().unwrap_or_default();
            let Traffic { good, wrong, failed, errno } = &traffic;
            // Where another queue can do it, nothing fails; where none can, the error says so.
            let fine = if *label == GOES { *failed > 0 && errno == NO_DEVICE } else { *failed == 0 };
            let details =
                format!("{label}: {good} right, {wrong} wrong, {failed} failed (last error number {errno})");
            report.expect(fine && *wrong == 0 && *good > 0, "requests", &details);
        }
        let details = format!(
            "{} replies without a request that waits for one, after {} looks",
            self.strays, self.looks
        );
        report.expect(self.strays == 0, "answered once", &details);
        // Linux sends a request for random numbers once: one that is on the queue that goes fails, and the reader is told.
        let Traffic { good, failed, .. } = self.random;
        let fine = good > failed && failed <= self.gone;
        let details = format!(
            "{good} reads, {failed} failed while an adapter that they may use went {} times",
            self.gone
        );
        report.expect(fine, "random numbers", &details);
        drop(self.input.take());
        let status = self.guest.0.wait()?;
        report.expect(status.success(), "guest", &status.to_string());
        let state = self.state()?;
        let queues = state["queues"].as_array().context("a host without queues")?;
        let left = |key: &str| queues.iter().filter(|q| q[key] != json!(0) && !q[key].is_null()).count();
        let clean = left("pending") == 0 && state["mdevs"][0]["attached"] == json!(false);
        report.expect(clean, "given back", "the device is free and nothing is left on its queues");
        let mut delays = std::mem::take(&mut self.delays);
        delays.sort_unstable();
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let (middle, longest) = (delays[delays.len() / 2], delays[delays.len() - 1]);
        println!(
            "   command to sight in the guest: median {:.0} ms, longest {:.0} ms",
            ms(middle),
            ms(longest)
        );
        Ok(())
    }

    /// Requests with this label are answered from now on.
    fn flows(&mut self, label: &str) -> Result<()> {
        let count = |s: &Self| s.traffic.get(label).map_or(0, |t| t.good);
        let before = count(self);
        // Two lines later: the first may have been on its way.
        self.until(SOON, &format!("requests to {label} to be answered"), |s| count(s) > before + 1)
    }

    /// Requests with this label fail from now on, since the queue is not there.
    fn ceases(&mut self, label: &str) -> Result<()> {
        let failed = |s: &Self| s.traffic.get(label).map_or(0, |t| t.failed);
        let before = failed(self);
        self.until(SOON, &format!("requests to {label} to fail"), |s| failed(s) > before)
    }

    /// What the guest should see: its matrix, with type and condition of each adapter.
    fn expected(&self) -> Result<BTreeMap<String, String>> {
        let state = self.state()?;
        let mdev = &state["mdevs"][0];
        let numbers = |name: &str| bits(mdev["guest_matrix"][name].as_str().unwrap_or_default());
        let mut expected = BTreeMap::new();
        for apid in numbers("apm") {
            let adapters = state["adapters"].as_array().context("no adapters")?;
            let name = format!("{apid:#04x}");
            let adapter = adapters.iter().find(|a| a["adapter"] == json!(name)).context("no such adapter")?;
            let flags = match adapter["condition"].as_str() {
                Some("online") => "1/1/0",
                Some("offline") => "0/0/0",
                _ => "0/1/1",
            };
            for apqi in numbers("aqm") {
                let type_name = adapter["type"].as_str().unwrap_or_default();
                expected.insert(format!("{apid:02x}.{apqi:04x}"), format!("{type_name}/{flags}"));
            }
        }
        Ok(expected)
    }

    fn state(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.operator(&["list", "--json"])?)?)
    }

    /// `adjunct ap` on the daemon.
    fn operator(&self, words: &[&str]) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.adjunct);
        command.arg("ap").arg("--host").arg(format!("unix:{}", self.socket.display())).args(words);
        let output = command.stdin(Stdio::null()).output().context("start the operator's command")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "adjunct ap {}: {}", words.join(" "), said.trim_end());
        Ok(output.stdout)
    }

    /// Takes the guest's lines until `holds`.
    fn until(&mut self, patience: Duration, what: &str, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !holds(self) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.take(line),
                Err(RecvTimeoutError::Timeout) => bail!("waited {} s in vain for {what}", patience.as_secs()),
                Err(RecvTimeoutError::Disconnected) => bail!("the guest ended before {what}"),
            }
        }
        Ok(())
    }

    fn take(&mut self, line: String) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["ADJUNCT-AP", ..] => {
                let queues = words[1..].iter().filter_map(|word| word.split_once('='));
                self.bus = queues.map(|(queue, state)| (queue.to_owned(), state.to_owned())).collect();
            }
            ["ADJUNCT-TRAFFIC", label, "ok", good, "wrong", wrong, "failed", failed, "errno", errno] => {
                let number = |text: &str| text.parse().unwrap_or_default();
                let (good, wrong, failed) = (number(good), number(wrong), number(failed));
                self.traffic.insert(label.to_owned(), Traffic { good, wrong, failed, errno: errno.into() });
            }
            ["ADJUNCT-RANDOM", "ok", good, "failed", failed] => {
                self.random.good = good.parse().unwrap_or_default();
                self.random.failed = failed.parse().unwrap_or_default();
            }
            ["ADJUNCT-LSZCRYPT", ..] => {
                let row: Vec<&str> = words[1..].iter().copied().filter(|word| !word.is_empty()).collect();
                if let [name, type_name, .., status, _] = row[..]
                    && name.starts_with(|c: char| c.is_ascii_hexdigit() && !c.is_ascii_uppercase())
                {
                    self.looking.insert(name.into(), format!("{type_name} {status}"));
                }
            }
            ["ADJUNCT-LOOKED", "strays", strays] => {
                self.lszcrypt = std::mem::take(&mut self.looking);
                self.strays = strays.parse().unwrap_or(u64::MAX);
                self.looks += 1;
            }
            _ => {}
        }
        self.seen.push(line);
    }

    fn tail(&self) -> String {
        let from = self.seen.len().saturating_sub(25);
        self.seen[from..].iter().map(|l| format!("  | {l}\n")).collect()
    }
}

fn spawn(command: &mut Command) -> Result<Process> {
    let program = Path::new(command.get_program()).display().to_string();
    let child = command.spawn().with_context(|| format!("start {program}"))?;
    machine::remember(&child);
    Ok(Process(child))
}

fn wait_for(socket: &Path) -> Result<()> {
    for _ in 0..600 {
        if std::os::unix::net::UnixStream::connect(socket).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    bail!("the AP host's daemon did not open {} in 60 s", socket.display())
}

/// The numbers set in a mask as sysfs prints it.
fn bits(mask: &str) -> Vec<u8> {
    let digits = mask.trim_start_matches("0x").chars().filter_map(|c| c.to_digit(16));
    let bits = digits.flat_map(|digit| (0..4).map(move |bit| digit & 8 >> bit != 0));
    (0..=255).zip(bits).filter_map(|(n, set)| set.then_some(n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(bits("0x41"), [1, 7]);
        assert_eq!(bits(&format!("0x{}1", "0".repeat(63))), [255]);
        assert_eq!(bits(""), [0; 0]);
    }
}
