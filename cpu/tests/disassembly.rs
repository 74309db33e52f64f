//! The table against binutils' disassembler: every row's opcode, length, mnemonic and operands.
//!
//! binutils prints extended mnemonics for branches and conditions (`je`, `locgrne`, `risbgz` …); those are
//! compared by what they begin with. Needs `s390x-linux-gnu-objdump`; without it the test says that it was
//! skipped.

use std::collections::BTreeMap;
use std::process::Command;

use cpu::format::{At, Raw};
use cpu::table::{Row, rows};

const OBJDUMP: &str = "s390x-linux-gnu-objdump";
/// Instructions of each row that are compared.
const SAMPLES: u64 = 30;

/// What binutils says of an instruction: mnemonic and operands.
type Text = (String, String);

/// Disassembles a sequence of instructions.
fn objdump(code: &[u8]) -> Option<BTreeMap<u64, (usize, Text)>> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), code).expect("its contents");
    let output = Command::new(OBJDUMP)
        .args(["-D", "-b", "binary", "-m", "s390:64-bit", "-M", "zarch", "-EB"])
        .arg(file.path())
        .output()
        .ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut columns = line.split('\t');
        let (Some(address), Some(bytes), Some(text)) = (columns.next(), columns.next(), columns.next())
        else {
            continue;
        };
        let Ok(address) = u64::from_str_radix(address.trim().trim_end_matches(':'), 16) else { continue };
        let length = bytes.split_whitespace().count();
        let operands = columns.next().unwrap_or("").to_string();
        let (mnemonic, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let operands = if operands.is_empty() { rest.trim().to_string() } else { operands };
        found.insert(address, (length, (mnemonic.to_string(), operands)));
    }
    Some(found)
}

/// Operand bits for sample `n`: the same in every run, never with a zero register field, which binutils
/// leaves out of its text.
fn operand_bits(n: u64) -> u64 {
    let mut bits = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(n + 1);
    for nibble in 0..16 {
        if bits >> (4 * nibble) & 15 == 0 {
            bits |= (n % 15 + 1) << (4 * nibble);
        }
    }
    bits
}

fn encode(row: &Row, n: u64) -> Raw {
    let (position, length) = row.extension();
    let mut opcode_mask = 0xff << 56;
    if length > 0 {
        opcode_mask |= ((1u64 << length) - 1) << (64 - position - length);
    }
    // Bits that the format leaves unused are zeros, and which fields an instruction of the format uses
    // differs: the samples take turns. binutils does not know an instruction with others set.
    let turns: [u64; 3] = match row.exec.format {
        "E" => [0; 3],
        "S" => [0x0000_ffff_0000_0000, 0, 0],
        "RRE" => [0x0000_00ff_0000_0000, 0x0000_00f0_0000_0000, 0],
        "RR" => [0x00ff_0000_0000_0000, 0x00f0_0000_0000_0000, 0x00ff_0000_0000_0000],
        "RRF" => [0x0000_ffff_0000_0000, 0x0000_f0ff_0000_0000, 0x0000_00ff_0000_0000],
        "RRD" => [0x0000_f0ff_0000_0000; 3],
        "RS" => [0x00ff_ffff_0000_0000, 0x00f0_ffff_0000_0000, 0x00f0_ffff_0000_0000],
        "RSL" => [0x00f0_ffff_0000_0000; 3],
        "RXE" => [0x00ff_ffff_f000_0000, 0x00ff_ffff_0000_0000, 0x00ff_ffff_0000_0000],
        "RIE-a" => [0x00f0_ffff_f000_0000; 3],
        "RIE-d" | "RIE-e" | "RIE-g" => [0x00ff_ffff_0000_0000; 3],
        "RIE-b" | "RRS" | "RXF" => [0x00ff_ffff_f000_0000; 3],
        _ => [u64::MAX << (64 - 8 * row.length() as u32); 3],
    };
    let used = turns[(n % 3) as usize];
    Raw(row.template().0 | operand_bits(n) & !opcode_mask & used)
}

/// Whether binutils' mnemonic is the row's or an extended form of it.
fn same_instruction(row: &str, theirs: &str) -> bool {
    const EXTENDED: &[(&str, &[&str])] = &[
        ("brc", &["j", "nop"]),
        ("brcl", &["jg", "jl"]),
        ("bcr", &["b", "nop"]),
        ("bc", &["b", "nop"]),
        ("bic", &["bi"]),
        // Their names before the others of the family came.
        ("cu12", &["cutfu"]),
        ("cu21", &["cuutf"]),
        ("brcth", &["brcth"]),
        ("bras", &["bras", "jas"]),
        ("brasl", &["brasl", "jasl"]),
        ("bxleg", &["bxleg"]),
    ];
    if theirs == row || theirs.starts_with(row) {
        return true;
    }
    EXTENDED.iter().any(|(name, forms)| *name == row && forms.iter().any(|f| theirs.starts_with(f)))
}

#[test]
fn rows_agree_with_binutils() {
    let samples: Vec<(&Row, Raw)> =
        rows().iter().flat_map(|row| (0..SAMPLES).map(move |n| (row, encode(row, n)))).collect();
    let mut code = Vec::new();
    let mut places = Vec::new();
    for (row, raw) in &samples {
        places.push(code.len() as u64);
        code.extend_from_slice(&raw.0.to_be_bytes()[..row.length() as usize]);
        // Keeps what follows in step when binutils does not know an instruction.
        code.extend_from_slice(&[0x07, 0x07]);
    }
    let Some(theirs) = objdump(&code) else {
        println!("skipped: {OBJDUMP} is not installed (Debian package binutils-s390x-linux-gnu)");
        return;
    };
    let mut unknown: BTreeMap<&str, u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for ((row, raw), place) in samples.iter().zip(places) {
        let ours = row.disassemble(*raw, At { offset: 0, length: row.length() });
        match theirs.get(&place) {
            Some((_, (mnemonic, _))) if mnemonic.starts_with('.') => {
                *unknown.entry(row.mnemonic).or_default() += 1
            }
            Some((length, (mnemonic, operands))) => {
                let same = same_instruction(&row.mnemonic.to_lowercase(), mnemonic);
                if *length != row.length() as usize || !same {
                    wrong.push(format!("{:016x}: {ours} | {mnemonic} {operands}", raw.0));
                }
            }
            None => *unknown.entry(row.mnemonic).or_default() += 1,
        }
    }
    // binutils refuses operands that an instruction does not allow, such as odd registers of pairs: those
    // samples do not count, but nearly every row has one that does.
    let never: Vec<_> = unknown.iter().filter(|(_, n)| **n == SAMPLES).map(|(name, _)| *name).collect();
    println!("binutils knows none of our samples of {} rows: {never:?}", never.len());
    assert!(wrong.is_empty(), "{} samples differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(never.len() * 20 < rows().len(), "too few rows were compared: {never:?}");
}
