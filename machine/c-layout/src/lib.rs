//! Sizes, offsets and numbers against what a C compiler makes of the kernel's headers. For tests.
//!
//! A test lists C expressions with the values that its crate has for them ([`Pair`]) and has them [compared](compare).
//! The cross tests for s390x name a compiler with that machine's headers, and what runs its programs.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fmt::Write;
use std::process::Command;

/// A C expression and the value that it should have.
pub type Pair = (String, u64);

/// What every program begins with.
const PROLOGUE: &str = "#include <stddef.h>
#include <stdio.h>
#include <sys/ioctl.h>
#define offsetofend(type, member) (offsetof(type, member) + sizeof(((type *)0)->member))
";

/// The C compiler for this target: the one that the cross tests name, or this machine's.
fn compiler() -> Command {
    let Some(cross) = std::env::var_os("ADJUNCT_S390X_CC") else { return Command::new("cc") };
    let mut command = Command::new(cross);
    command.arg("-static");
    if let Some(sysroot) = std::env::var_os("ADJUNCT_S390X_SYSROOT") {
        let mut argument = OsString::from("--sysroot=");
        argument.push(sysroot);
        command.arg(argument);
    }
    command
}

/// Compares `pairs` with what C has for them after including `headers`. Without a C compiler it says so and passes.
///
/// # Panics
/// Where an expression has another value, or when the program cannot be compiled or run.
pub fn compare(headers: &[&str], pairs: &[Pair]) {
    let mut source = String::from(PROLOGUE);
    for header in headers {
        writeln!(source, "#include <{header}>").expect("a string grows");
    }
    source += "int main(void) {\n";
    for (expression, _) in pairs {
        writeln!(source, "printf(\"%llu\\n\", (unsigned long long)({expression}));").expect("a string grows");
    }
    source += "return 0;\n}\n";
    let directory = tempfile::tempdir().expect("a directory");
    let (program, text) = (directory.path().join("layout"), directory.path().join("layout.c"));
    std::fs::write(&text, source).expect("a file");
    let compiled = match compiler().arg("-o").arg(&program).arg(&text).output() {
        Ok(output) => output,
        Err(e) => return println!("skipped: no C compiler: {e}"),
    };
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let run = match std::env::var_os("ADJUNCT_RUNNER") {
        Some(runner) => Command::new(runner).arg(&program).output(),
        None => Command::new(&program).output(),
    };
    let output = String::from_utf8(run.expect("the program runs").stdout).expect("numbers");
    let theirs: Vec<u64> = output.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(theirs.len(), pairs.len());
    for ((expression, ours), theirs) in pairs.iter().zip(theirs) {
        assert_eq!(*ours, theirs, "{expression}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found() {
        let pair = |expression: &str, value| (expression.to_owned(), value);
        let right =
            [pair("sizeof(long long)", 8), pair("_IO('a', 2)", 0x6102), pair("offsetofend(div_t, rem)", 8)];
        compare(&["stdlib.h"], &right);
        if compiler().arg("--version").output().is_err() {
            return println!("skipped: no C compiler");
        }
        for wrong in [pair("sizeof(long long)", 7), pair("no_such_name", 0)] {
            assert!(std::panic::catch_unwind(|| compare(&["stdlib.h"], &[wrong])).is_err());
        }
    }
}
