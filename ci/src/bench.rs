//! Measurements beside QEMU: the same guests, taken in turns, medians of the pairs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::apt::run as output_of;
use crate::demo::MDEV;
use crate::guest::Guest;
use crate::machine::{Boot, Emulator, watch};
use crate::suite::PATIENCE;
use crate::tools::{self, Tool};

const COMPUTE: &str = include_str!("../guest/compute.c");

/// One measured figure.
struct Figure {
    name: String,
    unit: &'static str,
    ours: f64,
    theirs: f64,
    ratio: f64,
    /// What the ratio means and should be.
    meaning: &'static str,
}

/// Measures everything and prints a table, or with `json` a line per figure.
pub fn run(
    workspace: &Path,
    target: &Path,
    adjunct: &Path,
    guest: &Guest,
    rounds: usize,
    json: bool,
) -> Result<()> {
    ensure!(rounds > 0, "at least one round");
    let qemu = tools::provide(target, Tool::Qemu)?;
    let version = tools::version(&qemu)?;
    if json {
        eprintln!("{version}");
    } else {
        println!("{version}, -cpu max,vx=off; {rounds} interleaved rounds, medians\n");
        println!(
            "{:<28} {:>11} {:>11} {:>7}  {:6} meaning of the ratio",
            "", "ours", "theirs", "ratio", "unit"
        );
    }
    let emulators = [Emulator::Adjunct(adjunct.to_owned()), Emulator::Qemu(qemu)];
    let show = |figures: Vec<Figure>| {
        for f in figures {
            if json {
                let ratio = json!({ "name": f.name, "ours": f.ours, "theirs": f.theirs, "ratio": f.ratio, "unit": f.unit });
                println!("{ratio}");
            } else {
                println!(
                    "{:<28} {:>11.3} {:>11.3} {:>7.3}  {:6} {}",
                    f.name, f.ours, f.theirs, f.ratio, f.unit, f.meaning
                );
            }
        }
    };
    show(vec![boot(&emulators, guest, rounds)?]);
    let program = compile(target)?;
    show(compute(&emulators, &program, rounds)?);
    show(rsa(workspace, &emulators[0], guest)?);
    Ok(())
}

/// CPU time from start to the guest's init, which powers off.
fn boot(emulators: &[Emulator; 2], guest: &Guest, rounds: usize) -> Result<Figure> {
    let boot = Boot::debian(guest, "off");
    let pairs = interleave(emulators, rounds, |emulator| {
        let ended = watch(boot.command(emulator), PATIENCE, |_| {})?;
        let reached = ended.lines.iter().any(|l| l == "ADJUNCT-INIT reached");
        ensure!(ended.well() && reached, "a boot failed: {}\n{}", ended.describe(), ended.tail());
        Ok(vec![ended.cpu_time.as_secs_f64()])
    })?;
    Ok(figure("boot of Debian, CPU time", "s", &pairs, 0, |ours, theirs| ours / theirs, "time: at most 2"))
}

/// The compute set: for each workload the time in the guest.
fn compute(emulators: &[Emulator; 2], program: &Path, rounds: usize) -> Result<Vec<Figure>> {
    let boot = Boot {
        kernel: program.to_owned(),
        initrd: None,
        append: String::new(),
        memory: "1G",
        cpus: 1,
        mdev: None,
        ap_host: None,
        qmp: None,
        icount: false,
    };
    let mut names = Vec::new();
    let mut pairs = interleave(emulators, rounds, |emulator| {
        let ended = watch(boot.command(emulator), PATIENCE, |_| {})?;
        let rows: Vec<Vec<&str>> = ended
            .lines
            .iter()
            .filter_map(|l| l.strip_prefix("ADJUNCT-COMPUTE "))
            .map(|l| l.split(' ').collect())
            .collect();
        let good = ended.well() && !rows.is_empty() && rows.iter().all(|r| r.len() == 3 && r[2] == "ok");
        ensure!(good, "the compute set failed: {}\n{}", ended.describe(), ended.tail());
        names = rows.iter().map(|r| r[0].to_owned()).collect();
        rows.iter().map(|r| Ok(r[1].parse::<f64>()? / 1e6)).collect()
    })?;
    let meaning = "speed";
    let mut figures: Vec<Figure> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            figure(&format!("compute: {name}"), "s", &pairs, i, |ours, theirs| theirs / ours, meaning)
        })
        .collect();
    // The set as a whole: the geometric mean, so that no workload counts more for taking longer.
    for pair in &mut pairs {
        for side in [&mut pair.0, &mut pair.1] {
            let mean = (side.iter().map(|t| t.ln()).sum::<f64>() / side.len() as f64).exp();
            *side = vec![mean];
        }
    }
    let name = "compute set, geometric mean";
    figures.push(figure(name, "s", &pairs, 0, |ours, theirs| theirs / ours, "speed: at least 0.75"));
    Ok(figures)
}

type Pairs = Vec<(Vec<f64>, Vec<f64>)>;

/// Measures both sides `rounds` times, in turns, each round beginning with the other one.
fn interleave(
    [ours, theirs]: &[Emulator; 2],
    rounds: usize,
    mut measure: impl FnMut(&Emulator) -> Result<Vec<f64>>,
) -> Result<Pairs> {
    (0..rounds)
        .map(|round| {
            if round % 2 == 0 {
                let ours = measure(ours)?;
                Ok((ours, measure(theirs)?))
            } else {
                let theirs = measure(theirs)?;
                Ok((measure(ours)?, theirs))
            }
        })
        .collect()
}

fn figure(
    name: &str,
    unit: &'static str,
    pairs: &Pairs,
    column: usize,
    ratio: impl Fn(f64, f64) -> f64,
    meaning: &'static str,
) -> Figure {
    let of = |pick: &dyn Fn(f64, f64) -> f64| {
        median(pairs.iter().map(|p| pick(p.0[column], p.1[column])).collect())
    };
    Figure {
        name: name.to_owned(),
        unit,
        ours: of(&|ours, _| ours),
        theirs: of(&|_, theirs| theirs),
        ratio: of(&ratio),
        meaning,
    }
}

/// The middle value; of an even number, the mean of the two middle ones.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// Compiles the compute set for a bare machine.
fn compile(target: &Path) -> Result<PathBuf> {
    let gcc = tools::provide(target, Tool::Gcc)?;
    let directory = target.join("guest/compute");
    fs::create_dir_all(&directory)?;
    let (source, program) = (directory.join("compute.c"), directory.join("compute.elf"));
    fs::write(&source, COMPUTE)?;
    let flags = "-O2 -march=zEC12 -msoft-float -ffreestanding -fno-stack-protector -fno-pie -no-pie \
                 -fno-tree-loop-distribute-patterns -nostdlib -static \
                 -Wl,-Ttext=0x11000,-e,_start,--build-id=none,-z,noexecstack";
    output_of(Command::new(gcc).args(flags.split_whitespace()).arg("-o").arg(&program).arg(&source))?;
    Ok(program)
}

/// RSA-2048 with CRT: what a card answers, and what the guest's OpenSSL gets, beside the host's OpenSSL.
fn rsa(workspace: &Path, adjunct: &Emulator, guest: &Guest) -> Result<Vec<Figure>> {
    let mut figures = card_rates(workspace)?;
    let host = median((0..3).map(|_| host_rate()).collect::<Result<_>>()?);

    let mut boot = Boot::debian(guest, "bench");
    boot.mdev = Some(MDEV.to_owned());
    boot.cpus = 2;
    let ended = watch(boot.command(adjunct), PATIENCE, |_| {})?;
    for processes in ["1", "8"] {
        let prefix = format!("ADJUNCT-RATE {processes} ");
        let row = ended.lines.iter().find_map(|l| l.strip_prefix(&prefix));
        let row =
            row.with_context(|| format!("no rate from the guest: {}\n{}", ended.describe(), ended.tail()))?;
        let (requests, row) = row.split_once(' ').context("a rate without its requests")?;
        let rate = signs_per_second(row).with_context(|| format!("a rate in {row:?}"))?;
        // Signing for three seconds sends at least this many; otherwise the engine fell back to software.
        let through_cards = requests.parse::<f64>()? >= 3.0 * rate;
        ensure!(through_cards, "{requests} requests reached the cards in three seconds at {rate} per second");
        figures.push(Figure {
            name: format!("rsa2048 in the guest, {processes} proc."),
            unit: "1/s",
            ours: rate,
            theirs: host,
            ratio: rate / host,
            meaning: "rate, to openssl speed on one host core",
        });
    }
    Ok(figures)
}

/// Requests per second of the cards' own code on one host core, beside OpenSSL's in the same process. The program
/// takes turns itself.
fn card_rates(workspace: &Path) -> Result<Vec<Figure>> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(workspace).args(["run", "--quiet", "--release", "-p", "ap", "--example", "rsa_rate"]);
    let text = output_of(command.args(["--", "--json"]).stdin(Stdio::null()))?;
    let figures: Option<Vec<Figure>> = text.lines().map(card_rate).collect();
    figures.filter(|f| !f.is_empty()).with_context(|| format!("rates in {text:?}"))
}

fn card_rate(line: &str) -> Option<Figure> {
    let value: Value = serde_json::from_str(line).ok()?;
    Some(Figure {
        name: value["name"].as_str()?.to_owned(),
        unit: "1/s",
        ours: value["ours"].as_f64()?,
        theirs: value["theirs"].as_f64()?,
        ratio: value["ratio"].as_f64()?,
        meaning: "rate, to OpenSSL: at least 0.95",
    })
}

/// `openssl speed` on the host, one process.
fn host_rate() -> Result<f64> {
    let arguments = ["speed", "-seconds", "3", "rsa2048"];
    let ended = watch(
        {
            let mut command = Command::new("openssl");
            command.args(arguments);
            command
        },
        Duration::from_secs(120),
        |_| {},
    )?;
    let row =
        ended.lines.iter().rev().find(|l| l.starts_with("rsa 2048 bits") || l.starts_with("rsa  2048 bits"));
    match row.and_then(|r| signs_per_second(r)) {
        Some(rate) => Ok(rate),
        None => bail!("openssl {}: {}\n{}", arguments.join(" "), ended.describe(), ended.tail()),
    }
}

/// The first rate of a row of `openssl speed`: times end in "s", the rates follow them.
fn signs_per_second(row: &str) -> Option<f64> {
    let mut words =
        row.split_whitespace().skip_while(|w| *w != "bits").skip(1).skip_while(|w| w.ends_with('s'));
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_per_pair() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        let pairs = vec![(vec![1.0], vec![2.0]), (vec![10.0], vec![10.0]), (vec![4.0], vec![2.0])];
        let f = figure("x", "s", &pairs, 0, |ours, theirs| ours / theirs, "");
        assert_eq!((f.ours, f.theirs, f.ratio), (4.0, 2.0, 1.0));
    }

    #[test]
    fn rates_are_read() {
        let check = |row, expected| assert_eq!(signs_per_second(row), expected, "{row}");
        check(
            "rsa  2048 bits 0.006601s 0.000127s 0.000145s 0.006757s    151.5   7895.0   6900.0    148.0",
            Some(151.5),
        );
        check("rsa 2048 bits 0.000418s 0.000012s   2390.7  83113.6", Some(2390.7));
        check("Doing rsa2048", None);
        let f = card_rate(r#"{"name":"a","ours":2401.5,"theirs":2400,"ratio":1.0006}"#).unwrap();
        assert_eq!((f.name.as_str(), f.ours, f.theirs, f.ratio), ("a", 2401.5, 2400.0, 1.0006));
        assert!(card_rate("2401 per second").is_none());
    }
}
