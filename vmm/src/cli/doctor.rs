//! `adjunct doctor`: what this host can do for guests, and what to do about what it cannot.
//!
//! [`host`] looks (below any root, so that tests bring trees of their own), this says.

mod host;

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use serde::Serialize;

use self::host::Host;

/// What `adjunct help doctor` ends with.
pub const AFTER_HELP: &str = "\
Exit status: 0 no line is red; 1 some are.";

/// Exit status when something is red.
const RED: u8 = 1;

/// How to look and how to say it.
#[derive(clap::Args)]
pub struct Arguments {
    /// One JSON object instead of lines for people
    #[arg(long)]
    json: bool,

    /// Look below this directory instead of at the host itself: at its proc, sys and dev
    #[arg(long, value_name = "DIR", default_value = "/", hide_default_value = true)]
    root: PathBuf,
}

/// How good something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, but less well than it could.
    Poor,
    /// It does not work.
    Bad,
    /// Neither good nor bad, or not to be expected here.
    Note,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, one word.
    pub name: &'static str,
    /// How good it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    /// How guests can be run here.
    ways: Vec<Way>,
    checks: Vec<Check>,
}

/// A way of running guests.
#[derive(Debug, Serialize)]
struct Way {
    name: &'static str,
    possible: bool,
    /// The checks that stand in the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lacks: Vec<&'static str>,
}

/// What each way of running a guest needs, by names of checks.
const WAYS: [(&str, &[&str]); 3] = [
    ("software engine, simulated cards", &[]),
    ("KVM, simulated cards", &["machine", "sie", "kvm"]),
    (
        "KVM, real cards",
        &["machine", "sie", "kvm", "ap-bus", "ap-facilities", "vfio_ap", "masks", "mdevs", "vfio", "memlock"],
    ),
];

/// Looks at the host and reports; the exit status.
pub fn main(arguments: &Arguments) -> u8 {
    let checks = Host::new(&arguments.root).checks();
    let ways = ways(&checks);
    let red = checks.iter().any(|check| check.verdict == Verdict::Bad);
    let report = Report { ways, checks };
    let text = if arguments.json {
        serde_json::to_string_pretty(&report).expect("a report is strings and lists") + "\n"
    } else {
        lines(&report, io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    };
    print!("{text}");
    if red { RED } else { 0 }
}

fn ways(checks: &[Check]) -> Vec<Way> {
    let good = |name: &str| {
        checks.iter().any(|c| c.name == name && matches!(c.verdict, Verdict::Good | Verdict::Poor))
    };
    let way = |(name, needs): (&'static str, &'static [&'static str])| {
        let lacks: Vec<_> = needs.iter().copied().filter(|need| !good(need)).collect();
        Way { name, possible: lacks.is_empty(), lacks }
    };
    WAYS.into_iter().map(way).collect()
}

fn lines(report: &Report, colour: bool) -> String {
    let paint = |verdict: Verdict| {
        let (word, code) = match verdict {
            Verdict::Good => ("good", 32),
            Verdict::Poor => ("poor", 33),
            Verdict::Bad => ("BAD", 31),
            Verdict::Note => ("-", 0),
        };
        if colour { format!("\x1b[{code}m{word:<4}\x1b[0m") } else { format!("{word:<4}") }
    };
    let mut text = String::new();
    for check in &report.checks {
        text += &format!("{}  {:<14} {}\n", paint(check.verdict), check.name, check.found);
        for line in check.cure.iter().flat_map(|cure| cure.lines()) {
            text += &format!("{:21} cure: {line}\n", "");
        }
    }
    text += "\n";
    for way in &report.ways {
        let verdict =
            if way.possible { "possible".to_owned() } else { format!("lacks {}", way.lacks.join(", ")) };
        text += &format!("{:<34} {verdict}\n", way.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &'static str, verdict: Verdict) -> Check {
        let cure = (verdict == Verdict::Bad).then(|| "do this\nand that".to_owned());
        Check { name, verdict, found: "this".into(), cure }
    }

    #[test]
    fn ways_need_their_checks() {
        let mut checks: Vec<_> = WAYS[2].1.iter().map(|name| check(name, Verdict::Good)).collect();
        assert!(ways(&checks).iter().all(|way| way.possible));
        checks[2].verdict = Verdict::Bad;
        let found = ways(&checks);
        assert_eq!((found[0].possible, &found[1].lacks, &found[2].lacks), (true, &vec!["kvm"], &vec!["kvm"]));
        checks.remove(0);
        assert_eq!(ways(&checks)[1].lacks, ["machine", "kvm"], "what was not found out is not there");
    }

    #[test]
    fn what_a_person_reads() {
        let checks = vec![check("kvm", Verdict::Bad), check("engine", Verdict::Good)];
        let report = Report { ways: ways(&checks), checks };
        let text = lines(&report, false);
        let want = "BAD   kvm            this\n                      cure: do this\n                      cure: and that\n\
                    good  engine         this\n\n";
        assert!(text.starts_with(want), "{text}");
        assert!(lines(&report, true).contains("\x1b[31mBAD \x1b[0m"));
    }
}
