//! `cargo xtask fuzz`: libFuzzer on each target of `fuzz/targets`, for a time. No part of the tests, which call the same
//! functions a bounded number of times.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::report::Report;

/// The release of cargo-fuzz that is installed when there is none.
const CARGO_FUZZ: &str = "0.13.2";

/// Runs one target or all of them, `seconds` each. What they find is kept below `target/fuzz`.
pub fn run(workspace: &Path, target: &Path, only: Option<&str>, seconds: u64) -> Result<Report> {
    let names = names(workspace)?;
    let chosen: Vec<&String> = names.iter().filter(|name| only.is_none_or(|only| only == *name)).collect();
    if let Some(only) = only
        && chosen.is_empty()
    {
        bail!("no target is called {only}; there are {}", Vec::from_iter(names).join(", "));
    }
    require_nightly()?;
    let cargo_fuzz = provide_cargo_fuzz(target)?;
    let directory = target.join("fuzz");
    let corpus = directory.join("corpus");
    let mut seeds = Command::new(env!("CARGO"));
    seeds.current_dir(workspace).args(["run", "--quiet", "--package", "fuzz", "--example", "seeds", "--"]);
    ensure!(seeds.arg(&corpus).status().context("write the seeds")?.success(), "the seeds were not written");

    let mut report = Report::default();
    for name in chosen {
        fuzz(workspace, &directory, &cargo_fuzz, name, seconds, &mut report)?;
    }
    Ok(report)
}

fn fuzz(
    workspace: &Path,
    directory: &Path,
    cargo_fuzz: &Path,
    name: &str,
    seconds: u64,
    report: &mut Report,
) -> Result<()> {
    let findings = directory.join("findings").join(name);
    std::fs::create_dir_all(&findings).with_context(|| format!("make {}", findings.display()))?;
    let mut command = Command::new(cargo_fuzz);
    command
        .current_dir(workspace)
        // Cargo subcommands are called with their own name.
        .args(["fuzz", "run", "--fuzz-dir", "fuzz/targets"])
        .arg("--target-dir")
        .arg(directory.join("build"))
        .arg(name)
        .arg(directory.join("corpus").join(name))
        .arg("--")
        .args(["-print_final_stats=1", "-timeout=20", "-rss_limit_mb=2048", "-max_len=16384"])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        // The proxy of rustup reads this.
        .env("RUSTUP_TOOLCHAIN", "nightly")
        .env_remove("CARGO_TARGET_DIR")
        // This program runs in a toolchain of its own, whose cargo must not be the one that is used.
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .stdin(Stdio::null());
    let output = command.output().with_context(|| format!("run {}", cargo_fuzz.display()))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let Some(runs) = executions(&text) else {
        bail!("target {name} did not run:\n{}", text.trim_end());
    };
    let good = output.status.success();
    let mut details = format!("{runs} executions in {seconds} s");
    if !good {
        let path = text.lines().find_map(|line| line.split("Test unit written to ").nth(1));
        let message = text.lines().find(|line| line.contains("panicked at") || line.contains("ERROR:"));
        details = format!(
            "{} after {runs} executions; the input is {}",
            message.unwrap_or("it failed").trim(),
            path.unwrap_or("not kept")
        );
    }
    report.expect(good, name, &details);
    Ok(())
}

/// What libFuzzer says last.
fn executions(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok())
}

/// The targets, by their files.
fn names(workspace: &Path) -> Result<BTreeSet<String>> {
    let folder = workspace.join("fuzz/targets/fuzz_targets");
    let files = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    files
        .map(|file| {
            let path = file?.path();
            Ok(path.file_stem().context("a file with a name")?.to_string_lossy().into_owned())
        })
        .collect()
}

fn require_nightly() -> Result<()> {
    let found = Command::new("rustc").arg("--version").env("RUSTUP_TOOLCHAIN", "nightly").output();
    if found.is_ok_and(|o| o.status.success() && String::from_utf8_lossy(&o.stdout).contains("nightly")) {
        return Ok(());
    }
    bail!(
        "libFuzzer needs flags that only a nightly compiler takes, and there is none: run `rustup toolchain install nightly`"
    )
}

/// cargo-fuzz as it is installed, or built from the package registry below `target/tools`.
fn provide_cargo_fuzz(target: &Path) -> Result<PathBuf> {
    let root = target.join("tools/cargo-fuzz");
    let ours = root.join("bin/cargo-fuzz");
    for program in [PathBuf::from("cargo-fuzz"), ours.clone()] {
        let version = Command::new(&program).args(["fuzz", "--version"]).output();
        if version.is_ok_and(|output| output.status.success()) {
            return Ok(program);
        }
    }
    println!("cargo-fuzz {CARGO_FUZZ} is built, which takes a minute");
    let mut install = Command::new(env!("CARGO"));
    install.args(["install", "--quiet", "--locked", "--version", CARGO_FUZZ, "cargo-fuzz", "--root"]);
    install.arg(&root).env_remove("CARGO_TARGET_DIR");
    ensure!(install.status().context("run cargo install")?.success(), "cargo-fuzz could not be installed");
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics() {
        let text =
            "#1024 pulse\nDone\nstat::number_of_executed_units: 4711\nstat::average_exec_per_sec: 12\n";
        assert_eq!(executions(text), Some(4711));
        assert_eq!(executions("error: could not compile"), None);
    }

    #[test]
    fn targets_are_found_by_their_files() {
        let names = names(&crate::workspace()).unwrap();
        assert!(names.contains("mask_strings"), "{names:?}");
    }
}
