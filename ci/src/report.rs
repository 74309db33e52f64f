//! Verdicts, counted and printed.

use std::time::Instant;

/// Outcome of one check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It held.
    Passed,
    /// It did not.
    Failed,
    /// It could not be tried; the details say why.
    Skipped,
}

/// How many checks ended how.
#[derive(Debug, Default)]
pub struct Report {
    /// Checks that held.
    pub passed: usize,
    /// Checks that did not.
    pub failed: usize,
    /// Checks that could not be tried.
    pub skipped: usize,
    /// A guest has our terminal in raw mode: lines need their own carriage return.
    pub raw: bool,
}

impl Report {
    /// Counts and prints one check.
    pub fn check(&mut self, verdict: Verdict, name: &str, details: &str) {
        let (word, colour, count) = match verdict {
            Verdict::Passed => ("ok", "32", &mut self.passed),
            Verdict::Failed => ("FAIL", "31", &mut self.failed),
            Verdict::Skipped => ("skip", "33", &mut self.skipped),
        };
        *count += 1;
        if std::io::IsTerminal::is_terminal(&std::io::stdout()) {
            self.line(&format!("  \x1b[{colour}m{word:4}\x1b[0m  {name:18}  {details}"));
        } else {
            self.line(&format!("  {word:4}  {name:18}  {details}"));
        }
    }

    /// Counts and prints a check that holds or not.
    pub fn expect(&mut self, holds: bool, name: &str, details: &str) {
        self.check(if holds { Verdict::Passed } else { Verdict::Failed }, name, details);
    }

    /// Prints a line that is no check.
    pub fn line(&self, text: &str) {
        if self.raw {
            print!("{}\r\n", text.replace('\n', "\r\n"));
        } else {
            println!("{text}");
        }
    }

    /// Adds what another report counted.
    pub fn add(&mut self, other: &Report) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// The total as one plain line.
    pub fn total(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }

    /// Whether nothing failed and something passed.
    pub fn good(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

/// Runs a stage and prints how long it took.
pub fn stage<T>(name: &str, work: impl FnOnce() -> T) -> T {
    println!("== {name}");
    let started = Instant::now();
    let result = work();
    println!("   {name}: {:.1} s", started.elapsed().as_secs_f64());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_counted() {
        let mut report = Report::default();
        assert!(!report.good(), "nothing tried is no success");
        report.expect(true, "a", "");
        report.check(Verdict::Skipped, "b", "");
        assert!(report.good());
        let mut all = Report::default();
        all.expect(false, "c", "");
        all.add(&report);
        assert_eq!(all.total(), "1 passed, 1 failed, 1 skipped");
        assert!(!all.good());
    }
}
