//! The bare programs of `guest-tests/programs`, and the boot of Debian's kernel, in three places: under Adjunct on this
//! machine, under QEMU, and under Adjunct on a Debian s390x Linux that QEMU runs. The first has to be good, the third equal
//! to it; what QEMU does otherwise stands in a file with QEMU's own answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::apt::run as run_command;
use crate::cross::{Cross, Rust};
use crate::demo::{self, MDEV};
use crate::guest::{self, Guest};
use crate::initramfs::Initramfs;
use crate::machine::{Boot, Emulator, Ended, watch};
use crate::matrix::{Cell, Matrix};
use crate::report::{Report, Verdict, stage};
use crate::tools::{self, Tool};

/// Where the programs are, below the workspace.
pub const PROGRAMS: &str = "guest-tests/programs";
/// What belongs to them, there.
const AP_HOST: &str = "ap-host.json";
const DIFFERENCES: &str = "qemu-differences.txt";
/// The row of the kernel's boot, and what its user space says first.
const BOOT: &str = "Debian's kernel";
const REACHED: &str = "ADJUNCT-INIT reached";
/// How a program begins a line that asks for words to be given to `adjunct ctl`.
const ASK: &str = "ask ";
/// Where programs of the third place have their management socket.
const NESTED_QMP: &str = "/tmp/qmp";
/// How long a program may take, and everything in the third place.
const PATIENCE: Duration = Duration::from_secs(120);
const NESTED_PATIENCE: Duration = Duration::from_secs(600);

/// Columns, in order.
const PLACES: [&str; 3] = ["adjunct", "qemu", "adjunct on s390x in qemu"];

/// What a program, or the boot, did in one place.
struct Outcome {
    /// What it printed, in a form that is the same from run to run.
    lines: Vec<String>,
    /// What is wrong with its end, if anything is.
    end: Option<String>,
    elapsed: Duration,
}

/// A row's outcomes by its name.
type Outcomes = BTreeMap<String, Outcome>;

/// What there is to run with.
pub struct Means<'a> {
    /// Adjunct for this machine.
    pub adjunct: &'a Path,
    /// Debian's kernel and programs, or why there are none.
    pub guest: &'a Result<Guest>,
    /// QEMU, or why there is none.
    pub qemu: &'a Result<PathBuf>,
}

/// Builds what is needed and runs everything, or without the third place.
pub fn run(workspace: &Path, target: &Path, nested: bool) -> Result<Report> {
    stage("packages", tools::build_packages)?;
    let adjunct = stage("adjunct, optimized", || demo::build(workspace))?;
    let guest = stage("guest", || guest::assemble(target, false));
    let qemu = tools::provide(target, Tool::Qemu);
    let mut report = Report::default();
    let means = Means { adjunct: &adjunct, guest: &guest, qemu: &qemu };
    run_with(workspace, target, &means, nested, &mut report)?;
    Ok(report)
}

/// Runs everything with what there is.
pub fn run_with(
    workspace: &Path,
    target: &Path,
    means: &Means<'_>,
    nested: bool,
    report: &mut Report,
) -> Result<()> {
    let programs = match stage("bare programs", || build(workspace, target)) {
        Ok(programs) => programs,
        // Without a compiler for the target nothing can be said; with one, a program that does not compile is wrong.
        Err(e) => {
            let verdict = if e.is::<NoCompiler>() { Verdict::Skipped } else { Verdict::Failed };
            report.check(verdict, "bare programs", &format!("{e:#}"));
            return Ok(());
        }
    };
    let differences = fs::read_to_string(workspace.join(PROGRAMS).join(DIFFERENCES));
    let differences = Differences::parse(&differences.with_context(|| format!("read {DIFFERENCES}"))?)?;
    for program in differences.programs() {
        ensure!(programs.contains_key(program), "{DIFFERENCES}: there is no program {program}");
    }
    let engine = stage(PLACES[0], || here(workspace, means, &programs))?;
    let theirs = match means.qemu {
        Ok(qemu) => stage(PLACES[1], || under_qemu(qemu, means.guest, &programs)),
        Err(e) => Err(anyhow::anyhow!("{e:#}")),
    };
    let inside = if nested {
        stage(PLACES[2], || inside(workspace, target, means, &programs))
    } else {
        Err(anyhow::anyhow!("not asked for"))
    };

    let mut matrix = Matrix::new(&PLACES);
    for name in programs.keys().map(String::as_str).chain([BOOT]) {
        let ours = engine.get(name);
        let cells = [
            cell(ours, |outcome| judge(name, outcome)),
            beside(&theirs, name, |outcome| differences.judge(name, ours, outcome)),
            beside(&inside, name, |outcome| same(ours, outcome)),
        ];
        matrix.row(name, cells.into());
    }
    let directory = target.join("guest-tests");
    matrix.write(&directory)?;
    print!("{matrix}");
    println!("   {}", directory.display());
    matrix.count(report);
    Ok(())
}

/// A cell of the first place.
fn cell(outcome: Option<&Outcome>, judge: impl FnOnce(&Outcome) -> Result<String>) -> Cell {
    let Some(outcome) = outcome else { return Cell::skipped("there is no guest") };
    let (verdict, details) = match judge(outcome) {
        Ok(details) => (Verdict::Passed, details),
        Err(e) => (Verdict::Failed, format!("{e:#}")),
    };
    Cell { verdict, details, elapsed: outcome.elapsed, output: outcome.lines.join("\n") }
}

/// A cell of another place, if there is that place.
fn beside(place: &Result<Outcomes>, name: &str, judge: impl FnOnce(&Outcome) -> Result<String>) -> Cell {
    match place {
        Ok(outcomes) => cell(outcomes.get(name), judge),
        Err(e) => Cell::skipped(&format!("{e:#}")),
    }
}

/// There is no compiler for the programs.
#[derive(Debug)]
struct NoCompiler;

impl std::fmt::Display for NoCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no compiler for the bare programs")
    }
}

/// Compiles the programs: name to executable.
fn build(workspace: &Path, target: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let rust = Rust::provide(workspace, target).context(NoCompiler)?;
    let mut command = Command::new(env!("CARGO"));
    command
        .current_dir(workspace.join(PROGRAMS))
        .args(["build", "--release", "--message-format", "json-render-diagnostics"])
        .env("CARGO_TARGET_DIR", target.join("guest-programs"))
        // The flags are in the programs' own configuration.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    rust.choose(&mut command);
    if rust.is_other() {
        // Debian's compiler brings no linker; the machine's own does.
        let linker = own_linker(workspace).context(NoCompiler)?;
        command.env("CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_LINKER", linker);
    }
    let text = run_command(&mut command)?;
    let programs: BTreeMap<_, _> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|m| Some((m["target"]["name"].as_str()?.to_owned(), m["executable"].as_str()?.into())))
        .collect();
    ensure!(!programs.is_empty(), "cargo built no bare program");
    Ok(programs)
}

/// rust-lld of the compiler that cargo uses in `workspace`.
fn own_linker(workspace: &Path) -> Result<PathBuf> {
    let libraries =
        run_command(Command::new("rustc").current_dir(workspace).args(["--print", "target-libdir"]))?;
    let linker = Path::new(libraries.trim()).with_file_name("bin").join("rust-lld");
    ensure!(linker.exists(), "{} is not there", linker.display());
    Ok(linker)
}

/// A program's machine. All have two CPUs and 64 MiB; those about AP have cards, and an operator at `qmp`.
fn machine(program: &str, kernel: &Path, ap_host: &Path, qmp: &Path) -> Boot {
    let ap = program.starts_with("ap");
    Boot {
        kernel: kernel.to_owned(),
        initrd: None,
        append: String::new(),
        memory: "64M",
        cpus: 2,
        mdev: ap.then(|| MDEV.to_owned()),
        ap_host: ap.then(|| ap_host.to_owned()),
        qmp: ap.then(|| qmp.to_owned()),
        icount: false,
    }
}

fn here(workspace: &Path, means: &Means<'_>, programs: &BTreeMap<String, PathBuf>) -> Result<Outcomes> {
    let emulator = Emulator::Adjunct(means.adjunct.to_owned());
    let ap_host = workspace.join(PROGRAMS).join(AP_HOST);
    each(&emulator, means.guest, programs, &ap_host)
}

fn under_qemu(qemu: &Path, guest: &Result<Guest>, programs: &BTreeMap<String, PathBuf>) -> Result<Outcomes> {
    each(&Emulator::Qemu(qemu.to_owned()), guest, programs, Path::new(AP_HOST))
}

/// Runs every row, one after the other.
fn each(
    emulator: &Emulator,
    guest: &Result<Guest>,
    programs: &BTreeMap<String, PathBuf>,
    ap_host: &Path,
) -> Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    // Socket names are short.
    let directory = tempfile::tempdir()?;
    let qmp = directory.path().join("qmp");
    for (name, path) in programs {
        let mut refused = Vec::new();
        let ended = watch(machine(name, path, ap_host, &qmp).command(emulator), PATIENCE, |line| {
            if let (Some(words), Emulator::Adjunct(adjunct)) = (line.strip_prefix(ASK), emulator)
                && let Err(e) = operate(adjunct, &qmp, words)
            {
                refused.push(format!("{words}: {e:#}"));
            }
        })?;
        let mut outcome = Outcome::of_program(&ended);
        if !refused.is_empty() {
            outcome.end = Some(refused.join("\n"));
        }
        outcomes.insert(name.clone(), outcome);
    }
    if let Ok(guest) = guest {
        let ended = watch(Boot::debian(guest, "off").command(emulator), NESTED_PATIENCE, |_| {})?;
        outcomes.insert(BOOT.to_owned(), Outcome::of_boot(&ended));
    }
    Ok(outcomes)
}

/// Does what a program asks its operator for.
fn operate(adjunct: &Path, qmp: &Path, words: &str) -> Result<()> {
    run_command(Command::new(adjunct).arg("ctl").arg(qmp).args(words.split_whitespace())).map(drop)
}

impl Outcome {
    fn of_program(ended: &Ended) -> Self {
        let end = (!ended.well()).then(|| format!("{}\n{}", ended.describe(), ended.tail()));
        Self { lines: checks(&ended.lines), end, elapsed: ended.elapsed }
    }

    fn of_boot(ended: &Ended) -> Self {
        let end = (!ended.well()).then(|| format!("{}\n{}", ended.describe(), ended.tail()));
        Self { lines: milestones(&ended.lines), end, elapsed: ended.elapsed }
    }
}

/// The lines of a program's checks.
fn checks(lines: &[String]) -> Vec<String> {
    let known =
        |line: &&String| ["ok ", "FAIL ", "none ", "verdict "].iter().any(|word| line.starts_with(word));
    lines.iter().filter(known).cloned().collect()
}

/// What a boot says that is the same everywhere.
fn milestones(lines: &[String]) -> Vec<String> {
    lines.iter().filter(|line| *line == REACHED).cloned().collect()
}

/// The verdict of the first place.
fn judge(name: &str, outcome: &Outcome) -> Result<String> {
    if let Some(end) = &outcome.end {
        bail!("{end}");
    }
    if name == BOOT {
        ensure!(outcome.lines == [REACHED], "its user space was not reached");
        return Ok("user space reached".to_owned());
    }
    let wrong: Vec<&str> =
        outcome.lines.iter().filter(|l| l.starts_with("FAIL ")).map(String::as_str).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let begin = format!("verdict {name} pass: ");
    let verdict = outcome.lines.last().and_then(|line| line.strip_prefix(&begin));
    Ok(verdict.context("it printed no verdict")?.to_owned())
}

/// The verdict of the third place: what the first found, without exception.
fn same(ours: Option<&Outcome>, theirs: &Outcome) -> Result<String> {
    let ours = ours.context("there is nothing to compare with")?;
    if let Some(end) = &theirs.end {
        bail!("{end}");
    }
    let mut pairs = ours.lines.iter().zip(&theirs.lines);
    if let Some((here, there)) = pairs.find(|(here, there)| here != there) {
        bail!("here: {here}\nthere: {there}");
    }
    let (here, there) = (ours.lines.len(), theirs.lines.len());
    ensure!(here == there && here > 0, "{here} lines here, {there} there");
    Ok(format!("{here} equal lines"))
}

/// What QEMU answers otherwise: lines `PROGRAM: LINE`, each group of them below a comment that says why.
struct Differences(BTreeSet<(String, String)>);

impl Differences {
    fn parse(text: &str) -> Result<Self> {
        let mut all = BTreeSet::new();
        let mut explained = false;
        for (number, line) in text.lines().enumerate().map(|(n, line)| (n + 1, line.trim_end())) {
            if line.is_empty() {
                explained = false;
            } else if line.starts_with('#') {
                explained = true;
            } else {
                ensure!(explained, "{DIFFERENCES}:{number}: no comment says why");
                let (program, answer) =
                    line.split_once(": ").with_context(|| format!("{DIFFERENCES}:{number}: no program"))?;
                all.insert((program.to_owned(), answer.to_owned()));
            }
        }
        Ok(Self(all))
    }

    fn programs(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(program, _)| program.as_str())
    }

    /// The verdict of the second place. Every check that the first place made is there, as good as there or as the file says.
    fn judge(&self, name: &str, ours: Option<&Outcome>, theirs: &Outcome) -> Result<String> {
        if name == BOOT {
            return judge(name, theirs);
        }
        let ours = ours.context("there is nothing to compare with")?;
        if let Some(end) = &theirs.end {
            bail!("{end}");
        }
        ensure!(
            theirs.lines.last().is_some_and(|line| line.starts_with("verdict ")),
            "it printed no verdict"
        );
        let (mut expected, mut problems, mut absent) = (0, String::new(), Vec::new());
        let mut made = BTreeSet::new();
        for line in &theirs.lines {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let check = rest.split(' ').next().unwrap_or_default();
            match word {
                "verdict" => continue,
                "ok" => {}
                _ if self.0.contains(&(name.to_owned(), line.clone())) => expected += 1,
                _ => writeln!(problems, "{line}")?,
            }
            if word == "none" {
                absent.push(check);
            }
            made.insert(check);
        }
        // What the machine does not have stands for the checks whose names begin with its.
        let accounted =
            |check: &str| made.contains(check) || absent.iter().any(|a| check.starts_with(a) || name == *a);
        let of_ours = ours.lines.iter().filter(|line| !line.starts_with("verdict "));
        for check in of_ours.filter_map(|line| line.split(' ').nth(1)).filter(|check| !accounted(check)) {
            writeln!(problems, "nothing about {check}")?;
        }
        ensure!(problems.is_empty(), "{}", problems.trim_end());
        let good = theirs.lines.iter().filter(|line| line.starts_with("ok ")).count();
        Ok(if expected == 0 { format!("{good} ok") } else { format!("{good} ok, {expected} as expected") })
    }
}

/// Everything in the third place, in one run of QEMU.
fn inside(
    workspace: &Path,
    target: &Path,
    means: &Means<'_>,
    programs: &BTreeMap<String, PathBuf>,
) -> Result<Outcomes> {
    let guest = means.guest.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
    let qemu = means.qemu.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
    let adjunct = Cross::provide(workspace, target)?.build(workspace)?;

    // An archive behind the guest's own: the kernel unpacks both, and the second one's files win.
    let mut fs = Initramfs::default();
    let mut script = INIT.to_owned();
    fs.file("adjunct", &fs::read(&adjunct)?, true);
    fs.file(AP_HOST, &fs::read(workspace.join(PROGRAMS).join(AP_HOST))?, false);
    fs.file("vmlinuz", &fs::read(&guest.kernel)?, false);
    let small = fs::read(&guest.initrd)?;
    fs.file("initrd.cpio", &small, false);
    let emulator = Emulator::Adjunct("/adjunct".into());
    let mut row = |name: &str, command: &Command| -> Result<()> {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let words: Option<Vec<&str>> = words.map(|word| word.to_str()).collect();
        let words = words.context("a word of a command is not UTF-8")?;
        writeln!(script, "try '{}' '{}'", name.replace('\'', ""), words.join("' '"))?;
        Ok(())
    };
    for (name, path) in programs {
        fs.file(&format!("programs/{name}"), &fs::read(path)?, false);
        let boot = machine(
            name,
            &Path::new("/programs").join(name),
            &Path::new("/").join(AP_HOST),
            Path::new(NESTED_QMP),
        );
        row(name, &boot.command(&emulator))?;
    }
    let inner = Guest { kernel: "/vmlinuz".into(), initrd: "/initrd.cpio".into(), release: String::new() };
    let boot = Boot { memory: "256M", ..Boot::debian(&inner, "off") };
    row(BOOT, &boot.command(&emulator))?;
    script += "busybox poweroff -f\n";
    fs.file("init", script.as_bytes(), true);
    let mut archive = small;
    archive.resize(archive.len().next_multiple_of(512), 0);
    archive.extend(fs.to_bytes()?);
    let directory = target.join("guest-tests");
    fs::create_dir_all(&directory)?;
    let initrd = directory.join("initrd.cpio");
    fs::write(&initrd, archive)?;

    let boot = Boot { initrd: Some(initrd), memory: "2G", cpus: 2, ..Boot::debian(guest, "guest-tests") };
    let mut transcript = Transcript::new();
    let ended = watch(boot.command(&Emulator::Qemu(qemu.clone())), NESTED_PATIENCE, |line| {
        if let Some(row) = transcript.line(line) {
            println!("   {row}");
        }
    })?;
    if transcript.outcomes.is_empty() {
        bail!("nothing ran: {}\n{}", ended.describe(), ended.tail());
    }
    // A row that was not reached fails, it is not left out.
    for name in programs.keys().map(String::as_str).chain([BOOT]) {
        transcript.outcomes.entry(name.to_owned()).or_insert_with(|| Outcome {
            lines: Vec::new(),
            end: Some(format!("not ended: {}\n{}", ended.describe(), ended.tail())),
            elapsed: Duration::ZERO,
        });
    }
    Ok(transcript.outcomes)
}

/// The first process in the third place.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
export PATH=/bin:/usr/bin
/bin/busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /tmp
mount -t tmpfs tmpfs /tmp
dmesg -n 1
# Does what the program of process $pid asks its operator for.
operate() {
    count=0
    while kill -0 $pid 2> /dev/null; do
        words=$(grep '^ask ' /tmp/output | tail -n +$((count + 1)) | head -n 1 | tr -d '\\r')
        if [ -n \"$words\" ]; then
            /adjunct ctl /tmp/qmp ${words#ask } > /tmp/ctl 2>&1 || cat /tmp/ctl >> /tmp/output
            count=$((count + 1))
        else
            usleep 100000
        fi
    done
}
try() {
    name=$1
    shift
    echo \"GUEST-TEST-BEGIN $name\"
    rm -f /tmp/qmp
    timeout 500 \"$@\" < /dev/null > /tmp/output 2>&1 &
    pid=$!
    operate &
    wait $pid
    status=$?
    cat /tmp/output
    echo \"GUEST-TEST-END $status $name\"
}
";

/// The console of the third place, row by row.
struct Transcript {
    outcomes: Outcomes,
    begun: Instant,
    lines: Vec<String>,
}

impl Transcript {
    fn new() -> Self {
        Self { outcomes: Outcomes::new(), begun: Instant::now(), lines: Vec::new() }
    }

    /// Takes a line; the row that it ends.
    fn line(&mut self, line: &str) -> Option<String> {
        if line.starts_with("GUEST-TEST-BEGIN ") {
            self.lines.clear();
            self.begun = Instant::now();
        }
        let Some((status, name)) = line.strip_prefix("GUEST-TEST-END ").and_then(|rest| rest.split_once(' '))
        else {
            self.lines.push(line.to_owned());
            return None;
        };
        let elapsed = self.begun.elapsed();
        let lines =
            if name == BOOT.replace('\'', "") { milestones(&self.lines) } else { checks(&self.lines) };
        let from = self.lines.len().saturating_sub(10);
        let end = (status != "0").then(|| format!("exit status {status}\n{}", self.lines[from..].join("\n")));
        let name = if name == BOOT.replace('\'', "") { BOOT } else { name };
        self.outcomes.insert(name.to_owned(), Outcome { lines, end, elapsed });
        Some(format!("{name}: {:.1} s", elapsed.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(text: &str) -> Outcome {
        Outcome { lines: text.lines().map(str::to_owned).collect(), end: None, elapsed: Duration::ZERO }
    }

    #[test]
    fn first_place() {
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(judge("p", &outcome(text)).ok().as_deref(), want, "{text}");
        };
        check("ok a\nverdict p pass: 1 ok", Some("1 ok"));
        check("ok a\nverdict q pass: 1 ok", None);
        check("ok a", None);
        check("ok a\nFAIL b got 1 want 2\nverdict p fail: 1 ok", None);
        let crashed = Outcome { end: Some("signal".into()), ..outcome("verdict p pass: 1 ok") };
        assert!(judge("p", &crashed).is_err());
    }

    #[test]
    fn second_place() {
        let differences = Differences::parse("# Why.\np: FAIL b got 1 want 2\np: none c no\n").unwrap();
        let ours = outcome("ok a\nok b\nok c\nok c.d\nverdict p pass: 4 ok");
        let check = |text: &str, want: Result<&str, &str>| {
            let got = differences.judge("p", Some(&ours), &outcome(text)).map_err(|e| e.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{text}");
        };
        check("ok a\nok b\nok c\nok c.d\nverdict p pass", Ok("4 ok"));
        check("ok a\nFAIL b got 1 want 2\nnone c no\nverdict p fail", Ok("1 ok, 2 as expected"));
        check("ok a\nFAIL b got 3 want 2\nnone c no\nverdict p fail", Err("FAIL b got 3 want 2"));
        check("ok a\nok c\nok c.d\nverdict p pass", Err("nothing about b"));
        check("ok a\nok b\nok c\nok c.d", Err("it printed no verdict"));
        assert!(Differences::parse("p: FAIL a").is_err(), "no reason");
        assert!(Differences::parse("# Why.\n\np: FAIL a").is_err(), "no reason");
    }

    #[test]
    fn third_place() {
        let check = |ours: &str, theirs: &str, good: bool| {
            assert_eq!(same(Some(&outcome(ours)), &outcome(theirs)).is_ok(), good, "{ours} {theirs}");
        };
        check("ok a", "ok a", true);
        check("ok a", "ok b", false);
        check("ok a", "ok a\nok b", false);
        check("", "", false);
        let mut transcript = Transcript::new();
        for line in ["GUEST-TEST-BEGIN p", "noise", "ok a", "GUEST-TEST-END 0 p", "GUEST-TEST-END 1 q"] {
            transcript.line(line);
        }
        assert_eq!(transcript.outcomes["p"].lines, ["ok a"]);
        assert!(transcript.outcomes["p"].end.is_none() && transcript.outcomes["q"].end.is_some());
    }
}
