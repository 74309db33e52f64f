//! Every test of the project, one verdict line each, and a total.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use crate::apt::hex;
use crate::clients;
use crate::cross::Cross;
use crate::demo::{self, MDEV};
use crate::guest::{self, Guest};
use crate::guest_tests::{self, Means};
use crate::machine::{Boot, Emulator, Ended, watch};
use crate::package;
use crate::plug;
use crate::report::{Report, Verdict, stage};
use crate::rsa::{Key, Operation};
use crate::tools::{self, Tool};

/// How long a guest may take on a slow, busy machine before it counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Runs everything. What cannot run says why and counts as skipped.
pub fn run(workspace: &Path, target: &Path) -> Result<Report> {
    let mut report = Report::default();
    let prepared = stage("packages", tools::build_packages);
    if let Err(e) = &prepared {
        report.expect(false, "packages", &format!("{e:#}"));
    }
    let qemu = stage("tools", || {
        for tool in [Tool::Binutils, Tool::Gcc, Tool::Tmux] {
            if let Err(e) = tools::provide(target, tool) {
                println!("   without {}: {e:#}", tool.program());
            }
        }
        tools::provide(target, Tool::Qemu)
    });
    let guest = stage("guest", || guest::assemble(target, false));
    stage("sources", || sources(workspace, target, &mut report));
    stage("unit and integration tests", || {
        unit_tests(workspace, target, qemu.as_ref().ok(), guest.as_ref().ok(), &mut report)
    })?;

    stage("s390x host", || on_s390x(workspace, target, &mut report))?;

    let adjunct = stage("adjunct, optimized", || demo::build(workspace));
    if let Err(e) = &adjunct {
        report.expect(false, "adjunct", &format!("{e:#}"));
    }
    if let Ok(adjunct) = &adjunct {
        let means = Means { adjunct, guest: &guest, qemu: &qemu };
        stage("guest tests", || guest_tests::run_with(workspace, target, &means, true, &mut report))?;
    }
    if adjunct.is_ok() {
        stage("packages of adjunct", || -> Result<()> {
            package::check(workspace, target, false, &mut report)?;
            package::check_for_s390x(workspace, target, &mut report)
        })?;
    }
    // Without an archive to fetch it from there is no guest, which says nothing about the project.
    if let Err(e) = &guest {
        report.check(Verdict::Skipped, "boots and demo", &format!("{e:#}"));
    }
    let (Ok(adjunct), Ok(guest)) = (adjunct, guest) else { return Ok(report) };
    stage("boots", || boots(&adjunct, &guest, &qemu, &mut report))?;
    stage("reproducible boots", || reproducible(&adjunct, &guest, &mut report))?;
    stage("plug and unplug", || plug::plug(&adjunct, &guest, target, &mut report))?;
    stage("management clients", || {
        if let Err(e) = clients::run(target, &adjunct, &guest, &mut report) {
            report.expect(false, "management clients", &format!("{e:#}"));
        }
    });
    stage("demo", || -> Result<()> {
        let demo = demo::demo(workspace, &adjunct, &guest, true, PATIENCE)?;
        report.add(&demo);
        Ok(())
    })?;
    Ok(report)
}

/// Form and lints.
fn sources(workspace: &Path, target: &Path, report: &mut Report) {
    let programs = &workspace.join(guest_tests::PROGRAMS);
    for (name, directory, arguments) in [
        ("format", workspace, &["fmt", "--all", "--check"] as &[&str]),
        ("format of programs", programs, &["fmt", "--all", "--check"]),
        ("lints", workspace, &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        ("lints of programs", programs, &["clippy", "--quiet", "--release", "--", "-D", "warnings"]),
    ] {
        let mut command = cargo(directory, arguments);
        if directory == programs {
            // Flags that somebody set for the workspace are not for these.
            command.env("CARGO_TARGET_DIR", target.join("guest-programs"));
            command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        }
        let output = command.output();
        match output {
            Ok(output) if output.status.success() => report.expect(true, name, ""),
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                // rustfmt and clippy are components that a minimal toolchain lacks; the programs' target is another one.
                let absent = ["is not installed for the toolchain", "can't find crate for `core`"];
                let absent = absent.iter().any(|words| text.contains(words));
                report.check(if absent { Verdict::Skipped } else { Verdict::Failed }, name, text.trim_end());
            }
            Err(e) => report.check(Verdict::Skipped, name, &e.to_string()),
        }
    }
}

fn cargo(workspace: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(workspace).args(arguments).stdin(Stdio::null());
    command
}

/// `cargo test` of the workspace. Tests find the tools in `PATH` and the guest by `ADJUNCT_GUEST`.
fn unit_tests(
    workspace: &Path,
    target: &Path,
    qemu: Option<&PathBuf>,
    guest: Option<&Guest>,
    report: &mut Report,
) -> Result<()> {
    let mut command = cargo(workspace, &["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    command.env("PATH", tools::search_path(target));
    if let Some(qemu) = qemu {
        command.env("ADJUNCT_QEMU", qemu);
    }
    if let Some(directory) = guest.and_then(|g| g.kernel.parent()) {
        command.env("ADJUNCT_GUEST", directory);
    }
    run_tests(command, "cargo test --workspace", "cargo test", report)?;
    // Random schedules of the locks of AP host and hardware. A run of its own, since the feature is not for programs.
    let schedules =
        ["test", "--package", "ap", "--features", "shuttle", "--lib", "--test", "deadlock", "schedules"];
    run_tests(
        cargo(workspace, &schedules),
        "cargo test of schedules",
        "schedules of AP host and hardware",
        report,
    )
}

/// The same tests as a big-endian s390x host runs them, under QEMU's user emulation.
///
/// Left out: this crate, which runs on developers' machines; doc tests; and the comparison of single
/// instructions with QEMU's machine emulator, which says `skipped` without one: it would say the same as on
/// this machine, and takes two minutes.
fn on_s390x(workspace: &Path, target: &Path, report: &mut Report) -> Result<()> {
    let cross = match Cross::provide(workspace, target).and_then(Cross::with_runner) {
        Ok(cross) => cross,
        Err(e) => {
            report.check(Verdict::Skipped, "s390x host", &format!("{e:#}"));
            return Ok(());
        }
    };
    let mut command = cross.cargo(workspace, "test");
    command
        .args(["--workspace", "--exclude", "xtask", "--lib", "--bins", "--tests", "--no-fail-fast"])
        .args(["--", "--show-output"])
        .env("PATH", tools::search_path(target))
        .env("ADJUNCT_QEMU", "none-on-s390x");
    run_tests(command, "cargo test --target s390x", "s390x host", report)
}

/// Runs a `cargo test`, adds up what it printed and gives one verdict on its end.
fn run_tests(command: Command, what: &str, name: &str, report: &mut Report) -> Result<()> {
    let mut output = TestOutput::default();
    let ended = watch(command, Duration::from_secs(3600), |line| {
        if output.interesting(line) {
            println!("   {line}");
        }
    })?;
    let counts = count_tests(&ended.lines);
    report.passed += counts.passed;
    report.failed += counts.failed;
    report.skipped += counts.skipped;
    report.expect(ended.well(), name, &format!("{what}: {}, {}", counts.total(), ended.describe()));
    Ok(())
}

/// Tells what a person wants to see of cargo's output: not compilation, not what passing tests print.
#[derive(Default)]
struct TestOutput {
    successes: bool,
}

impl TestOutput {
    fn interesting(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.successes = true,
            "failures:" => self.successes = false,
            _ if line.starts_with("test result:") => self.successes = false,
            _ => {}
        }
        let dull = line.is_empty()
            || line.trim_start().starts_with("Compiling")
            || line.starts_with("test ") && line.ends_with("... ok")
            || line.starts_with("running 0 tests")
            || line.trim_start().starts_with("Doc-tests")
            || line.starts_with("test result: ok. 0 passed");
        line.starts_with(SKIPPED) || !self.successes && !dull
    }
}

/// How a test says that it could not run, and why.
const SKIPPED: &str = "skipped: ";

/// Adds up lines "test result: ok. 8 passed; 0 failed; 1 ignored; ...". A test that passes
/// and printed "skipped: why" was not tried.
fn count_tests(lines: &[String]) -> Report {
    let mut sum = Report::default();
    for result in lines.iter().filter_map(|l| l.trim().strip_prefix("test result: ")) {
        let mut words = result.split([' ', ';', '.']).filter(|w| !w.is_empty()).peekable();
        while let Some(word) = words.next() {
            let Ok(number) = word.parse::<usize>() else { continue };
            match words.peek() {
                Some(&"passed") => sum.passed += number,
                Some(&"failed") => sum.failed += number,
                Some(&"ignored") => sum.skipped += number,
                _ => {}
            }
        }
    }
    let skipped = lines.iter().filter(|l| l.starts_with(SKIPPED)).count().min(sum.passed);
    sum.passed -= skipped;
    sum.skipped += skipped;
    sum
}

/// Boots with one and two CPUs, and the same computations under QEMU.
fn boots(adjunct: &Path, guest: &Guest, qemu: &Result<PathBuf>, report: &mut Report) -> Result<()> {
    let ours = Emulator::Adjunct(adjunct.to_owned());
    let mut results = Vec::new();
    for cpus in [1, 2] {
        let mut boot = Boot::debian(guest, "check");
        boot.cpus = cpus;
        let ended = watch(boot.command(&ours), PATIENCE, |_| {})?;
        let name = format!("boot {cpus} cpu");
        let online = format!("ADJUNCT-CPUS {cpus} of {cpus}");
        let good = finished(&ended) && ended.lines.contains(&online);
        report.expect(good, &name, &format!("Debian's kernel and user space: {}", ended.describe()));
        if !good {
            println!("{}", ended.tail());
        }
        let wrong = known_results(&ended);
        report.expect(
            wrong.is_empty(),
            &name,
            &format!("known results in the guest {}", verdict_text(&wrong)),
        );
        results.push((format!("{cpus} cpu"), same(&ended)));
    }
    match qemu {
        Err(e) => report.check(Verdict::Skipped, "same as QEMU", &format!("{e:#}")),
        Ok(qemu) => {
            let boot = Boot::debian(guest, "check");
            let ended = watch(boot.command(&Emulator::Qemu(qemu.clone())), PATIENCE, |_| {})?;
            let theirs = same(&ended);
            let version = tools::version(qemu)?;
            if !finished(&ended) || theirs.is_empty() {
                println!("{}", ended.tail());
                let details = format!("{version} did not finish: {}", ended.describe());
                report.check(Verdict::Skipped, "same as QEMU", &details);
                return Ok(());
            }
            for (name, ours) in &results {
                let differing = differences(ours, &theirs);
                let details = format!("{name}: {} results, {version}{differing}", theirs.len());
                report.expect(differing.is_empty(), "same as QEMU", &details);
            }
        }
    }
    Ok(())
}

fn finished(ended: &Ended) -> bool {
    ended.well() && ended.lines.iter().any(|l| l == "ADJUNCT-END 0")
}

fn same(ended: &Ended) -> Vec<String> {
    ended.lines.iter().filter_map(|l| l.strip_prefix("ADJUNCT-SAME ")).map(str::to_owned).collect()
}

fn differences(ours: &[String], theirs: &[String]) -> String {
    let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let mut text = String::new();
    for line in theirs {
        if !ours.contains(line) {
            let other = ours.iter().find(|l| name(l) == name(line)).map_or("nothing", |l| l);
            text += &format!("\n    theirs: {line}\n    ours:   {other}");
        }
    }
    if ours.len() != theirs.len() && text.is_empty() {
        text = format!("\n    {} results of ours", ours.len());
    }
    text
}

/// Results that this program knows without any emulator; returns those that are wrong.
fn known_results(ended: &Ended) -> Vec<String> {
    use sha2::{Digest, Sha256};
    let results = same(ended);
    let mut known: Vec<(String, String)> = Vec::new();
    for bits in [1024, 2048, 4096] {
        if let Ok(key) = Key::test_key(bits) {
            known.push((format!("rsa-{bits}"), hex(&key.apply(Operation::Private, 1))));
            if bits == 2048 {
                known.push(("key".to_owned(), format!("{}  -", hex(&Sha256::digest(key.pem)))));
            }
        }
    }
    let pi = "3.141592653589793238462643383279502884197169399375105820974944592307816406286208998628034825342117067";
    let mut wrong: Vec<String> = known
        .into_iter()
        .filter(|(name, value)| !results.contains(&format!("{name} {value}")))
        .map(|(name, _)| name)
        .collect();
    if !results.iter().any(|r| r.starts_with(&format!("decimal {pi}"))) {
        wrong.push("decimal".to_owned());
    }
    wrong
}

fn verdict_text(wrong: &[String]) -> String {
    if wrong.is_empty() { "are right".to_owned() } else { format!("are wrong: {}", wrong.join(", ")) }
}

/// Two boots with virtual time show the same console, cards included.
fn reproducible(adjunct: &Path, guest: &Guest, report: &mut Report) -> Result<()> {
    let mut boot = Boot::debian(guest, "batch");
    boot.mdev = Some(MDEV.to_owned());
    boot.icount = true;
    let ours = Emulator::Adjunct(adjunct.to_owned());
    let one = watch(boot.command(&ours), PATIENCE, |_| {})?;
    let two = watch(boot.command(&ours), PATIENCE, |_| {})?;
    let ended = [&one, &two].iter().all(|e| e.well() && e.lines.iter().any(|l| l.starts_with("ADJUNCT-END")));
    let first = one.lines.iter().zip(&two.lines).position(|(a, b)| a != b);
    let details = match first {
        _ if !ended => format!("{}; {}", one.describe(), two.describe()),
        None if one.lines.len() == two.lines.len() => format!("--icount: {} equal lines", one.lines.len()),
        None => format!("--icount: {} and {} lines", one.lines.len(), two.lines.len()),
        Some(i) => format!("--icount: line {} differs:\n    {}\n    {}", i + 1, one.lines[i], two.lines[i]),
    };
    report.expect(ended && one.lines == two.lines, "reproducible", &details);
    if !ended {
        println!("{}", one.tail());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn test_results_are_added_up() {
        let text = "running 3 tests\ntest result: ok. 8 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
                    test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; finished in 0.01s";
        assert_eq!(count_tests(&lines(text)).total(), "10 passed, 3 failed, 1 skipped");
        let text = "skipped: no QEMU\ntest result: ok. 8 passed; 0 failed; 0 ignored";
        assert_eq!(count_tests(&lines(text)).total(), "7 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn what_passing_tests_print_is_left_out() {
        let text = "   Compiling x\ntest a ... ok\ntest b ... FAILED\n\nsuccesses:\n\n---- a stdout ----\n\
                    noise\nskipped: no QEMU\n\nfailures:\n\n---- b stdout ----\npanicked\ntest result: FAILED. 1 passed";
        let mut output = TestOutput::default();
        let shown: Vec<_> = text.lines().filter(|l| output.interesting(l)).collect();
        let expected = [
            "test b ... FAILED",
            "skipped: no QEMU",
            "failures:",
            "---- b stdout ----",
            "panicked",
            "test result: FAILED. 1 passed",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn differing_results_are_shown() {
        let check = |ours: &str, theirs: &str, expected: &str| {
            assert_eq!(differences(&lines(ours), &lines(theirs)), expected);
        };
        check("a 1\nb 2", "a 1\nb 2", "");
        check("a 1\nb 3", "a 1\nb 2", "\n    theirs: b 2\n    ours:   b 3");
        check("a 1", "a 1\nb 2", "\n    theirs: b 2\n    ours:   nothing");
        check("a 1\nc 1", "a 1", "\n    2 results of ours");
    }
}
