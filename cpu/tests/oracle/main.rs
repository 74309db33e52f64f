//! Every instruction of the table against QEMU's answers, with random operands.
//!
//! Environment: `ADJUNCT_ORACLE_CASES` (about how many cases in total, default 1,000,000), `ADJUNCT_ORACLE_SEED`
//! (default 1), `ADJUNCT_ORACLE_ONLY` (mnemonics separated by commas), `ADJUNCT_QEMU` (the emulator).
//! Accepted differences stand in `tests/oracle-differences.txt`.

mod differences;
mod engine;
mod templates;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cpu::CpuModel;
use cpu::format::{At, Raw};
use cpu::table::{Row, rows};
use oracle::generate::{Generator, Template};
use oracle::layout::SLOT;
use oracle::random::Random;
use oracle::{Case, Oracle, Outcome};

use differences::{Accepting, Difference, compare, show};
use engine::Engine;
use templates::template;

/// States for one instruction with its fields filled in: new code is what costs both sides most.
const STATES_PER_INSTRUCTION: usize = 20;
/// Two emulators keep a small machine busy.
const WORKERS: usize = 2;

/// What came out for one row.
#[derive(Default)]
struct Verdict {
    cases: usize,
    accepted: usize,
    /// Why it was not compared.
    untestable: Option<&'static str>,
    /// By difference: how many, and the first in full.
    mismatches: BTreeMap<Difference, (usize, String)>,
}

struct Settings {
    seed: u64,
    cases_per_row: usize,
    model: CpuModel,
}

#[test]
fn instructions_agree_with_the_emulator() {
    let variable = |name: &str| std::env::var(name).ok();
    let number = |name, default| variable(name).map_or(default, |v| v.parse().expect("a number"));
    let only = variable("ADJUNCT_ORACLE_ONLY");
    let selected: Vec<&Row> = rows()
        .iter()
        .filter(|row| only.as_ref().is_none_or(|list| list.split(',').any(|name| name == row.mnemonic)))
        .collect();
    let version = match Oracle::start() {
        Ok(oracle) => oracle.version().to_owned(),
        Err(reason) => return println!("skipped: {reason}"),
    };
    let settings = Settings {
        seed: number("ADJUNCT_ORACLE_SEED", 1) as u64,
        cases_per_row: (number("ADJUNCT_ORACLE_CASES", 1_000_000) / selected.len().max(1)).max(1),
        model: CpuModel::named("max").expect("it always exists"),
    };
    let accepting = Mutex::new(Accepting::parse(include_str!("../oracle-differences.txt")));
    let verdicts = Mutex::new(BTreeMap::new());
    let start = Instant::now();
    // EXECUTE comes last: its targets are instructions that agree by themselves.
    let (executes, others): (Vec<&Row>, Vec<&Row>) = selected.iter().partition(|row| is_execute(row));
    for phase in [others, executes] {
        let next = AtomicUsize::new(0);
        let targets = agreeing(&verdicts.lock().expect("no holder panics"));
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    let mut oracle = Oracle::start().expect("it started before");
                    let mut engine = Engine::new(settings.model.clone());
                    while let Some(row) = phase.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let verdict = examine(row, &settings, &targets, &mut oracle, &mut engine, &accepting);
                        verdicts.lock().expect("no holder panics").insert(row.mnemonic, verdict);
                    }
                });
            }
        });
    }
    let verdicts = verdicts.into_inner().expect("no holder panics");
    let failed = report(&verdicts);
    // Rare ones need many cases.
    if only.is_none() && settings.cases_per_row >= 10_000 {
        for line in accepting.into_inner().expect("no holder panics").unused() {
            println!("no case needed the accepted difference: {line}");
        }
    }
    let total: usize = verdicts.values().map(|v| v.cases).sum();
    println!("{total} cases in {:.1?} against {version}, seed {}", start.elapsed(), settings.seed);
    assert!(
        failed == 0,
        "{failed} instructions differ in ways that tests/oracle-differences.txt does not accept"
    );
}

fn is_execute(row: &Row) -> bool {
    matches!(row.mnemonic, "EX" | "EXRL")
}

/// The rows, with their templates, that were compared without a difference.
fn agreeing(verdicts: &BTreeMap<&str, Verdict>) -> Vec<Template> {
    let clean = |v: &Verdict| v.untestable.is_none() && v.accepted == 0 && v.mismatches.is_empty();
    // The emulator counts the distance of an executed BRCTH from EXECUTE instead of from BRCTH.
    let usable = |row: &&Row| row.mnemonic != "BRCTH" && verdicts.get(row.mnemonic).is_some_and(clean);
    let rows = rows().iter().filter(usable);
    rows.filter_map(|row| template(row).ok()).filter(|template| !template.privileged).collect()
}

/// Runs one row's cases on both sides.
fn examine(
    row: &'static Row,
    settings: &Settings,
    targets: &[Template],
    oracle: &mut Oracle,
    engine: &mut Engine,
    accepting: &Mutex<Accepting>,
) -> Verdict {
    if !settings.model.facilities.has(row.facility) {
        return Verdict { untestable: Some("its facility is not in the model"), ..Verdict::default() };
    }
    let template = match template(row) {
        Ok(template) => template,
        Err(reason) => return Verdict { untestable: Some(reason), ..Verdict::default() },
    };
    if is_execute(row) && targets.is_empty() {
        return Verdict { untestable: Some("no instruction to execute was compared"), ..Verdict::default() };
    }
    let mut random = Random::named(settings.seed, row.mnemonic);
    let mut generator = Generator::new(random.clone());
    let mut cases = Vec::new();
    for _ in 0..settings.cases_per_row.div_ceil(STATES_PER_INSTRUCTION) {
        let plan = match row.mnemonic {
            _ if is_execute(row) => {
                let target = generator.plan(&targets[random.below(targets.len() as u64) as usize]);
                generator.execute(&template, &target)
            }
            _ => generator.plan(&template),
        };
        cases.extend((0..STATES_PER_INSTRUCTION).map(|_| generator.case(&plan)));
    }
    let theirs = oracle.run(&cases).expect("the emulator can be started again");
    let unknown = |outcome| matches!(outcome, Outcome::Program { code: 1, .. });
    if theirs.iter().all(|answer| unknown(answer.outcome)) {
        return Verdict { untestable: Some("the emulator does not know it"), ..Verdict::default() };
    }
    let mut verdict = Verdict { cases: cases.len(), ..Verdict::default() };
    for (case, theirs) in cases.iter().zip(&theirs) {
        let ours = engine.run(case);
        let Some(difference) = compare(case, &ours, theirs) else { continue };
        if accepting.lock().expect("no holder panics").accepts(row.mnemonic, &difference) {
            verdict.accepted += 1;
            continue;
        }
        let entry = verdict.mismatches.entry(difference);
        let (count, _) =
            entry.or_insert_with(|| (0, format!("    {}\n{}", disassemble(case), show(case, &ours, theirs))));
        *count += 1;
    }
    verdict
}

fn disassemble(case: &Case) -> String {
    let text = |bytes: [u8; 6], at: u64| {
        let raw = Raw(bytes.iter().fold(0, |raw, byte| raw << 8 | u64::from(*byte)) << 16);
        match cpu::table::find(raw) {
            Some(row) => row.disassemble(raw, At { offset: (at % 4096) as u16, length: raw.length() }),
            None => "?".to_owned(),
        }
    };
    let executed = case.target.map(|target| format!(" -> {}", text(target, oracle::layout::TARGET)));
    text(case.instruction, SLOT) + &executed.unwrap_or_default()
}

/// Prints mismatches by instruction and the coverage; the number of instructions that differ.
fn report(verdicts: &BTreeMap<&str, Verdict>) -> usize {
    let mut failed = 0;
    for (mnemonic, verdict) in verdicts.iter().filter(|(_, verdict)| !verdict.mismatches.is_empty()) {
        failed += 1;
        let wrong: usize = verdict.mismatches.values().map(|(count, _)| count).sum();
        println!("\n{mnemonic}: {wrong} of {} cases differ", verdict.cases);
        for (difference, (count, shown)) in &verdict.mismatches {
            println!("  {count} x {difference}\n{shown}");
        }
    }
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (mnemonic, verdict) in verdicts {
        if let Some(reason) = verdict.untestable {
            reasons.entry(reason).or_default().push(mnemonic);
        }
    }
    let untestable: usize = reasons.values().map(Vec::len).sum();
    let accepted: usize = verdicts.values().map(|v| v.accepted).sum();
    println!(
        "\ncoverage: {} of {} rows compared, {failed} with mismatches, {accepted} cases with accepted differences",
        verdicts.len() - untestable,
        verdicts.len()
    );
    for (reason, mnemonics) in reasons {
        println!("not compared, {reason}: {}", mnemonics.join(" "));
    }
    failed
}
