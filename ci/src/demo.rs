//! The demo: a Debian guest finds emulated crypto cards and uses them, each step judged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::apt::run;
use crate::description::{Expected, Queue, expected};
use crate::guest::{Guest, MESSAGES};
use crate::machine::{Boot, Emulator, Ended, converse, watch};
use crate::report::{Report, Verdict};
use crate::rsa::{Key, Operation, from_hex};

/// The mediated device with an accelerator and a CCA coprocessor.
pub const MDEV: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
/// The one with an EP11 coprocessor.
const MDEV_EP11: &str = "e30ddaa2-2543-4240-86fe-e71b8ef90447";
/// Exit status of `adjunct` after Ctrl-a x.
const ENDED_BY_KEY: i32 = 4;
/// The CPUs of the demo's guest.
const CPUS: usize = 2;

/// Builds `adjunct` in release mode and returns its path.
pub fn build(workspace: &Path) -> Result<PathBuf> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(workspace).arg("build");
    build_with(command)
}

/// The optimized program that `cargo build`, which `command` begins, makes.
pub fn build_with(mut command: Command) -> Result<PathBuf> {
    command
        .args(["--release", "-p", "vmm", "--bin", "adjunct"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit());
    let text = run(&mut command)?;
    let path = text
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .filter(|m| m["reason"] == "compiler-artifact" && m["target"]["name"] == "adjunct")
        .find_map(|m| Some(PathBuf::from(m["executable"].as_str()?)));
    path.context("cargo built no program named adjunct")
}

/// Runs the demo. Interactively it ends in the guest's shell, which a person leaves.
pub fn demo(
    workspace: &Path,
    adjunct: &Path,
    guest: &Guest,
    batch: bool,
    timeout: Duration,
) -> Result<Report> {
    let mut report = Report::default();
    let plan: &[(&str, bool)] =
        if batch { &[(MDEV, false), (MDEV_EP11, false)] } else { &[(MDEV_EP11, false), (MDEV, true)] };
    for (mdev, shell) in plan {
        boot(workspace, adjunct, guest, mdev, *shell, timeout, &mut report)?;
    }
    Ok(report)
}

fn boot(
    workspace: &Path,
    adjunct: &Path,
    guest: &Guest,
    mdev: &str,
    shell: bool,
    timeout: Duration,
    report: &mut Report,
) -> Result<()> {
    let expected = expected(workspace, mdev)?;
    let mut boot = Boot::debian(guest, if shell { "demo" } else { "batch" });
    boot.cpus = CPUS;
    boot.mdev = Some(mdev.to_owned());
    let mut command = boot.command(&Emulator::Adjunct(adjunct.to_owned()));
    let sockets = tempfile::tempdir().context("make a directory for the management socket")?;
    let socket = sockets.path().join("qmp");
    command.arg("--qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
    println!("\nLinux {} with the cards of {mdev}:", guest.release);
    println!("  $ {}", shown(&command));
    println!("  meanwhile, in another shell: {} ctl {} x-query-ap", adjunct.display(), socket.display());

    let mut judge = Judge::new(expected, report)?;
    judge.report.raw = shell;
    let ended = if shell {
        converse(command, timeout, |l| judge.line(l), |l| l == "ADJUNCT-SHELL")?
    } else {
        watch(command, timeout, |l| judge.line(l))?
    };
    judge.report.raw = false;
    judge.finish(&ended);
    Ok(())
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(|word| {
        let word = word.to_string_lossy();
        if word.contains(' ') { format!("\"{word}\"") } else { word.into_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Reads the guest's console and judges it.
struct Judge<'a> {
    expected: Expected,
    report: &'a mut Report,
    key: Key,
    queues: Vec<Queue>,
    attributes: BTreeMap<(String, String), String>,
    /// Right and wrong results by queue and operation.
    results: BTreeMap<(String, &'static str), (usize, usize)>,
    /// Steps that the guest found good.
    good_steps: Vec<String>,
    /// Names of all its steps.
    steps: Vec<String>,
    showing: bool,
    end: Option<usize>,
}

const OPERATIONS: [(&str, Operation); 2] = [("private", Operation::Private), ("public", Operation::Public)];

impl<'a> Judge<'a> {
    fn new(expected: Expected, report: &'a mut Report) -> Result<Judge<'a>> {
        Ok(Judge {
            expected,
            report,
            key: Key::test_key(2048)?,
            queues: Vec::new(),
            attributes: BTreeMap::new(),
            results: BTreeMap::new(),
            good_steps: Vec::new(),
            steps: Vec::new(),
            showing: false,
            end: None,
        })
    }

    fn line(&mut self, line: &str) {
        let Some((word, rest)) =
            line.strip_prefix("ADJUNCT-").and_then(|l| l.split_once(' ').or(Some((l, ""))))
        else {
            if self.showing {
                self.report.line(&format!("        {line}"));
            }
            return;
        };
        match word {
            "STEP" => self.step(rest),
            "SHOW" => {
                self.report.line(&format!("        # {rest}"));
                self.showing = true;
            }
            "SHOWN" => self.showing = false,
            "QUEUE" => {
                if let [name, kind, "online=1"] = rest.split(' ').collect::<Vec<_>>()[..] {
                    self.queues.push(Queue { name: name.to_owned(), kind: kind.to_owned() });
                }
            }
            "ATTRIBUTE" => {
                if let [object, name, value] = rest.splitn(3, ' ').collect::<Vec<_>>()[..] {
                    self.report
                        .line(&format!("        {object} {name}: {}", value.replace(';', " ").trim_end()));
                    self.attributes.insert((object.to_owned(), name.to_owned()), value.to_owned());
                }
            }
            "RSA" => self.rsa(rest),
            "INIT" => self.report.expect(true, "boot", "the guest's kernel reached its init"),
            "END" => self.end = rest.parse().ok(),
            "SHELL" => {
                self.conclude();
                self.report.line("\nAdjunct's own keys: Ctrl-a h shows them, Ctrl-a x ends the run.");
            }
            _ => {}
        }
    }

    fn step(&mut self, text: &str) {
        let mut words = text.splitn(3, ' ');
        let (name, verdict, details) = (words.next(), words.next(), words.next().unwrap_or_default());
        let (Some(name), Some(verdict)) = (name, verdict) else { return };
        self.steps.push(name.to_owned());
        match verdict {
            "ok" => {
                self.good_steps.push(format!("{name} {details}"));
                self.report.check(Verdict::Passed, name, details);
            }
            // The mediated device has queues, so a guest without any is wrong here.
            _ => self.report.check(Verdict::Failed, name, details),
        }
    }

    fn rsa(&mut self, text: &str) {
        let [queue, operation, "2048", number, result] = text.split(' ').collect::<Vec<_>>()[..] else {
            return;
        };
        let Some((name, operation)) = OPERATIONS.iter().find(|(name, _)| *name == operation) else { return };
        let right = number
            .parse()
            .ok()
            .zip(from_hex(result))
            .is_some_and(|(number, result)| self.key.verify(*operation, number, &result));
        let (good, bad) = self.results.entry((queue.to_owned(), name)).or_default();
        *if right { good } else { bad } += 1;
    }

    /// What the host judges itself, after the guest's last step.
    fn conclude(&mut self) {
        let list = |queues: &[Queue]| {
            queues.iter().map(|q| format!("{} {}", q.name, q.kind)).collect::<Vec<_>>().join(", ")
        };
        let (wanted, found) = (list(&self.expected.queues), list(&self.queues));
        if wanted == found {
            self.report.expect(true, "matrix", &format!("the guest's queues are the mdev's: {found}"));
        } else {
            self.report.expect(
                false,
                "matrix",
                &format!("the mdev has {wanted}; the guest shows online: {found}"),
            );
        }
        for attribute in std::mem::take(&mut self.expected.attributes) {
            let key = (attribute.object.clone(), attribute.name.clone());
            let value = self.attributes.get(&key).map_or("", String::as_str);
            let good = attribute.holds.iter().all(|text| value.contains(text.as_str()));
            let what =
                format!("{} {} holds {}", attribute.object, attribute.name, attribute.holds.join(", "));
            let details = if good { what } else { format!("{what}: no, {value:?}") };
            self.report.expect(good, "description", &details);
        }
        for queue in self.expected.queues.iter().filter(|q| q.computes_rsa()) {
            for (name, _) in OPERATIONS {
                let (good, bad) = self.results.get(&(queue.name.clone(), name)).copied().unwrap_or_default();
                let counted = format!("rsa-{name}-2048 {} {}:", queue.kind, queue.name);
                let counted = self.good_steps.iter().any(|s| s.starts_with(&counted));
                let details = format!(
                    "{} {}: {good} of {MESSAGES} {name} results are right by the host's own arithmetic{}",
                    queue.kind,
                    queue.name,
                    if counted { "" } else { ", but their requests were not counted" }
                );
                self.report.expect(good == MESSAGES && bad == 0 && counted, "verify", &details);
            }
        }
        let random = self.expected.queues.iter().any(|q| q.kind.ends_with('C'));
        if random && !self.steps.iter().any(|s| s == "hwrng") {
            self.report.expect(false, "hwrng", "the guest did not get that far");
        }
    }

    fn finish(&mut self, ended: &Ended) {
        if !ended.lines.iter().any(|l| l == "ADJUNCT-SHELL") {
            self.conclude();
        } else if ended.status.and_then(|s| s.code()) == Some(ENDED_BY_KEY) {
            return self.report.expect(true, "end", "by the person at the terminal");
        }
        let details = match self.end {
            Some(_) => ended.describe(),
            None => format!("{}, before the guest's last step", ended.describe()),
        };
        self.report.expect(ended.well() && self.end.is_some(), "power-off", &details);
        if !ended.well() || self.end.is_none() {
            self.report.line(&ended.tail());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::Attribute;
    use std::os::unix::process::ExitStatusExt;

    fn console(code: i32, edit: impl Fn(&mut Vec<String>)) -> Report {
        let key = Key::test_key(2048).unwrap();
        let mut lines: Vec<String> =
            ["ADJUNCT-INIT reached", "ADJUNCT-QUEUE 05.0004 CEX8C online=1"].map(Into::into).into();
        for (name, operation) in OPERATIONS {
            for i in 1..=MESSAGES {
                let result = crate::apt::hex(&key.apply(operation, i));
                lines.push(format!("ADJUNCT-RSA 05.0004 {name} 2048 {i} {result}"));
            }
            lines.push(format!("ADJUNCT-STEP rsa-{name}-2048 ok CEX8C 05.0004: as expected"));
        }
        lines.push("ADJUNCT-STEP hwrng ok bytes".into());
        lines.push("ADJUNCT-ATTRIBUTE card05 serialnr 93AADFK7;".into());
        lines.push("ADJUNCT-END 0".into());
        edit(&mut lines);
        let queue = Queue { name: "05.0004".into(), kind: "CEX8C".into() };
        let serial =
            Attribute { object: "card05".into(), name: "serialnr".into(), holds: vec!["93AADFK7".into()] };
        let mut report = Report::default();
        let expected = Expected { queues: vec![queue], attributes: vec![serial] };
        let mut judge = Judge::new(expected, &mut report).unwrap();
        for line in &lines {
            judge.line(line);
        }
        let status = Some(std::process::ExitStatus::from_raw(code << 8));
        judge.finish(&Ended { status, lines, elapsed: Duration::ZERO, cpu_time: Duration::ZERO });
        report
    }

    #[test]
    fn a_good_console_passes_and_each_fault_is_found() {
        let check = |failures, edit: &dyn Fn(&mut Vec<String>)| {
            let report = console(0, edit);
            assert_eq!(report.failed, failures, "{report:?}");
        };
        let at = |lines: &[String], text: &str| lines.iter().position(|l| l.contains(text)).unwrap();
        check(0, &|_| {});
        // A result that is not the key's, one that is missing, requests that were not counted.
        check(1, &|lines| {
            let i = at(lines, "private 2048 3 ");
            let last = lines[i].pop().unwrap();
            lines[i].push(if last == '0' { '1' } else { '0' });
        });
        check(1, &|lines| drop(lines.remove(at(lines, "public 2048 8 "))));
        check(1, &|lines| drop(lines.remove(at(lines, "STEP rsa-private"))));
        check(2, &|lines| {
            let i = at(lines, "STEP rsa-private");
            lines[i] = "ADJUNCT-STEP rsa-private-2048 FAIL CEX8C 05.0004: fell back".into();
        });
        // A queue that is offline, an unexpected one, an attribute of another card, no random bytes, no end.
        check(1, &|lines| lines[1] = "ADJUNCT-QUEUE 05.0004 CEX8C online=0".into());
        check(1, &|lines| lines.insert(2, "ADJUNCT-QUEUE 05.0047 CEX8C online=1".into()));
        check(1, &|lines| drop(lines.remove(at(lines, "ATTRIBUTE"))));
        check(1, &|lines| drop(lines.remove(at(lines, "hwrng"))));
        check(1, &|lines| drop(lines.pop()));
        // Ctrl-a x is a person's way out of the shell, and no good end before it.
        assert_eq!(console(ENDED_BY_KEY, |lines| lines.push("ADJUNCT-SHELL".into())).failed, 0);
        assert_eq!(console(ENDED_BY_KEY, |_| {}).failed, 1);
    }

    #[test]
    fn the_guest_sends_as_many_messages_as_the_host_expects() {
        let init = include_str!("../guest/init");
        assert!(init.contains(&format!("ADJUNCT_RSA={MESSAGES}\n")));
    }
}
