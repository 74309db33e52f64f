//! An assembler for test programs: GNU syntax, the instructions that the tests use, labels, data.
//!
//! One statement a line: `label: mnemonic operands # comment`. Operands are `%r1`, `%c1`, `%a1`, expressions of
//! numbers, labels and `.` (the statement's address) joined by `+` and `-`, and `D(X,B)`, `D(B)`, `D(L,B)`.
//! Directives: `.balign`, `.skip`, `.byte`, `.short`, `.long`, `.quad`, `.set`.

use std::collections::BTreeMap;

/// How operands go into an instruction, by the manual's format names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    E,
    I,
    Rr,
    /// RR with the mask in the opcode: a branch to a register.
    RrBranch,
    Rre,
    /// RRE with only R1.
    Rre1,
    /// RRF, written R1,R3,R2[,M4].
    RrfB,
    /// RRF, written R1,R2[,M3].
    RrfC,
    Ri,
    RiRelative,
    /// RI with the mask in the opcode: a relative branch.
    Branch,
    Ril,
    RilRelative,
    LongBranch,
    Rx,
    Rxy,
    Rs,
    Rsy,
    Si,
    Sil,
    S,
    Sse,
    Ssf,
    /// SS with one length.
    Ss,
    /// SS with two registers: D1(R1,B1),D2(B2),R3.
    SsKey,
}

use Format::*;

/// Mnemonic, opcode with its second part where the format has it, format.
#[rustfmt::skip]
const TABLE: &[(&str, u16, Format)] = &[
    ("pr", 0x0101, E), ("sam24", 0x010c, E), ("sam31", 0x010d, E), ("sam64", 0x010e, E), ("svc", 0x0a, I),
    ("lr", 0x18, Rr), ("ar", 0x1a, Rr), ("xr", 0x17, Rr), ("basr", 0x0d, Rr), ("bcr", 0x07, Rr),
    ("br", 0xf, RrBranch), ("ber", 0x8, RrBranch),
    ("lgr", 0xb904, Rre), ("agr", 0xb908, Rre), ("sgr", 0xb909, Rre), ("ltgr", 0xb902, Rre), ("cgr", 0xb920, Rre),
    ("xgr", 0xb982, Rre), ("ogr", 0xb981, Rre), ("ngr", 0xb980, Rre), ("clgr", 0xb921, Rre), ("ar", 0x1a, Rr),
    ("epsw", 0xb98d, Rre), ("ipm", 0xb222, Rre1), ("iske", 0xb229, Rre), ("rrbe", 0xb22a, Rre),
    ("lurag", 0xb905, Rre), ("sturg", 0xb925, Rre), ("cspg", 0xb98a, Rre), ("cpya", 0xb24d, Rre),
    ("sar", 0xb24e, Rre), ("ear", 0xb24f, Rre), ("iac", 0xb224, Rre1), ("ivsk", 0xb223, Rre), ("ssar", 0xb225, Rre1),
    ("sske", 0xb22b, RrfC), ("ipte", 0xb221, RrfC), ("idte", 0xb98e, RrfB), ("crdte", 0xb98f, RrfB),
    ("lghi", 0xa79, Ri), ("lhi", 0xa78, Ri), ("aghi", 0xa7b, Ri), ("ahi", 0xa7a, Ri), ("cghi", 0xa7f, Ri),
    ("chi", 0xa7e, Ri), ("tmll", 0xa71, Ri), ("tmhh", 0xa72, Ri), ("llill", 0xa5f, Ri), ("llilh", 0xa5e, Ri),
    ("oill", 0xa5b, Ri), ("nill", 0xa57, Ri), ("iilh", 0xa52, Ri), ("iill", 0xa53, Ri),
    ("bras", 0xa75, RiRelative), ("brct", 0xa76, RiRelative), ("brctg", 0xa77, RiRelative),
    ("j", 0xf, Branch), ("je", 0x8, Branch), ("jne", 0x7, Branch), ("jz", 0x8, Branch), ("jnz", 0x7, Branch),
    ("jl", 0x4, Branch), ("jh", 0x2, Branch), ("jnl", 0xb, Branch), ("jnh", 0xd, Branch), ("jo", 0x1, Branch),
    ("jno", 0xe, Branch), ("jg", 0xf, LongBranch), ("jgne", 0x7, LongBranch),
    ("lgfi", 0xc01, Ril), ("llilf", 0xc0f, Ril), ("llihf", 0xc0e, Ril), ("iilf", 0xc09, Ril), ("iihf", 0xc08, Ril),
    ("oilf", 0xc0d, Ril), ("oihf", 0xc0c, Ril), ("nilf", 0xc0b, Ril), ("xilf", 0xc07, Ril), ("agfi", 0xc28, Ril),
    ("cgfi", 0xc2c, Ril), ("clgfi", 0xc2e, Ril),
    ("larl", 0xc00, RilRelative), ("brasl", 0xc05, RilRelative), ("exrl", 0xc60, RilRelative),
    ("lgrl", 0xc48, RilRelative), ("stgrl", 0xc4b, RilRelative), ("lrl", 0xc4d, RilRelative),
    ("strl", 0xc4f, RilRelative), ("llgfrl", 0xc4e, RilRelative), ("cgrl", 0xc68, RilRelative),
    ("la", 0x41, Rx), ("l", 0x58, Rx), ("st", 0x50, Rx), ("ic", 0x43, Rx), ("stc", 0x42, Rx), ("lh", 0x48, Rx),
    ("sth", 0x40, Rx), ("ex", 0x44, Rx), ("lra", 0xb1, Rx), ("bas", 0x4d, Rx), ("c", 0x59, Rx), ("cl", 0x55, Rx),
    ("lg", 0xe304, Rxy), ("stg", 0xe324, Rxy), ("lrag", 0xe303, Rxy), ("ag", 0xe308, Rxy), ("cg", 0xe320, Rxy),
    ("llgc", 0xe390, Rxy), ("llgf", 0xe316, Rxy), ("lgf", 0xe314, Rxy), ("lay", 0xe371, Rxy), ("xg", 0xe382, Rxy),
    ("clg", 0xe321, Rxy), ("ltg", 0xe302, Rxy),
    ("cs", 0xba, Rs), ("sigp", 0xae, Rs), ("diag", 0x83, Rs), ("lctl", 0xb7, Rs), ("lam", 0x9a, Rs),
    ("stam", 0x9b, Rs), ("lm", 0x98, Rs),
    ("csg", 0xeb30, Rsy), ("laa", 0xebf8, Rsy), ("laag", 0xebe8, Rsy), ("lctlg", 0xeb2f, Rsy), ("stctg", 0xeb25, Rsy),
    ("lmg", 0xeb04, Rsy), ("stmg", 0xeb24, Rsy), ("sllg", 0xeb0d, Rsy), ("srlg", 0xeb0c, Rsy),
    ("mvi", 0x92, Si), ("cli", 0x95, Si), ("tm", 0x91, Si), ("oi", 0x96, Si), ("ni", 0x94, Si), ("stosm", 0xad, Si),
    ("stnsm", 0xac, Si), ("mvghi", 0xe548, Sil), ("mvhi", 0xe54c, Sil),
    ("lpswe", 0xb2b2, S), ("lpsw", 0x82, S), ("ssm", 0x80, S), ("spx", 0xb210, S), ("stpx", 0xb211, S),
    ("stap", 0xb212, S), ("stck", 0xb205, S), ("sckc", 0xb206, S), ("stckc", 0xb207, S), ("spt", 0xb208, S),
    ("stpt", 0xb209, S), ("spka", 0xb20a, S), ("sac", 0xb219, S), ("sacf", 0xb279, S), ("lfpc", 0xb29d, S),
    ("strag", 0xe502, Sse), ("tprot", 0xe501, Sse), ("mvcsk", 0xe50e, Sse), ("mvcdk", 0xe50f, Sse),
    ("mvcos", 0xc80, Ssf), ("mvc", 0xd2, Ss), ("clc", 0xd5, Ss), ("xc", 0xd7, Ss), ("oc", 0xd6, Ss),
    ("mvcp", 0xda, SsKey), ("mvcs", 0xdb, SsKey), ("mvck", 0xd9, SsKey),
];

/// An assembled program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Address of the first byte.
    pub origin: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    labels: BTreeMap<String, u64>,
}

impl Program {
    /// Whether it has this label.
    pub fn has(&self, name: &str) -> bool {
        self.labels.contains_key(name)
    }

    /// The address of a label or the value of a symbol; a test that names one that is not there panics.
    #[track_caller]
    pub fn label(&self, name: &str) -> u64 {
        *self.labels.get(name).unwrap_or_else(|| panic!("no label {name}"))
    }
}

/// Assembles `source` to stand at `origin`. Panics with the line when it is wrong: programs are part of tests.
#[track_caller]
pub fn assemble(origin: u64, source: &str) -> Program {
    let statements: Vec<_> = source.lines().flat_map(statement).collect();
    let mut labels = BTreeMap::new();
    let mut at = origin;
    for (label, mnemonic, operands) in &statements {
        if let Some(label) = label {
            assert!(labels.insert(label.to_string(), at).is_none(), "label {label} twice");
        }
        if *mnemonic == ".set" {
            let value = Expression { labels: &labels, at }.value(operands[1]);
            labels.insert(operands[0].to_string(), value as u64);
        } else {
            at += size(mnemonic, operands, at);
        }
    }
    let mut bytes = Vec::new();
    for (_, mnemonic, operands) in &statements {
        let at = origin + bytes.len() as u64;
        let encoded = encode(mnemonic, operands, Expression { labels: &labels, at });
        assert!(encoded.len() as u64 == size(mnemonic, operands, at), "{mnemonic} {operands:?}: size");
        bytes.extend(encoded);
    }
    Program { origin, bytes, labels }
}

type Statement<'a> = (Option<&'a str>, &'a str, Vec<&'a str>);

fn statement(line: &str) -> Option<Statement<'_>> {
    let mut rest = line.split('#').next().unwrap_or_default().trim();
    let mut label = None;
    if let Some((name, after)) = rest.split_once(':') {
        (label, rest) = (Some(name.trim()), after.trim());
    }
    let (mnemonic, operands) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if label.is_none() && mnemonic.is_empty() {
        return None;
    }
    let mnemonic = if mnemonic.is_empty() { ".byte" } else { mnemonic };
    Some((label, mnemonic, split(operands)))
}

/// Splits at commas outside parentheses.
fn split(operands: &str) -> Vec<&str> {
    let mut depth = 0;
    let parts = operands.split(move |c| {
        depth += (c == '(') as i32 - (c == ')') as i32;
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn find(mnemonic: &str) -> (u16, Format) {
    let row = TABLE.iter().find(|row| row.0 == mnemonic);
    row.map(|row| (row.1, row.2)).unwrap_or_else(|| panic!("the assembler knows no {mnemonic}"))
}

fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(|n| n as i64),
        None => text.parse().ok(),
    }
}

fn size(mnemonic: &str, operands: &[&str], at: u64) -> u64 {
    let count = operands.len() as u64;
    let argument = || number(operands[0]).expect("a number") as u64;
    match mnemonic {
        ".byte" => count,
        ".short" => 2 * count,
        ".long" => 4 * count,
        ".quad" => 8 * count,
        ".skip" => argument(),
        ".balign" => at.next_multiple_of(argument()) - at,
        ".set" => 0,
        _ => match find(mnemonic).1 {
            E | I | Rr | RrBranch => 2,
            Rre | Rre1 | RrfB | RrfC | Ri | RiRelative | Branch | Rx | Rs | Si | S => 4,
            Ril | RilRelative | LongBranch | Rxy | Rsy | Sil | Sse | Ssf | Ss | SsKey => 6,
        },
    }
}

/// Evaluates operands of the statement at `at`.
struct Expression<'a> {
    labels: &'a BTreeMap<String, u64>,
    at: u64,
}

impl Expression<'_> {
    fn value(&self, text: &str) -> i64 {
        let mut sum = 0i64;
        let mut rest = text.trim();
        loop {
            let negative = rest.starts_with('-');
            rest = rest.trim_start_matches(['+', '-']).trim();
            let end = rest.find(['+', '-']).unwrap_or(rest.len());
            let term = rest[..end].trim();
            let known = || self.labels.get(term).map(|&address| address as i64);
            let value = if term == "." { Some(self.at as i64) } else { number(term).or_else(known) };
            let value = value.unwrap_or_else(|| panic!("what is {term:?} in {text:?}?"));
            sum = if negative { sum.wrapping_sub(value) } else { sum.wrapping_add(value) };
            rest = &rest[end..];
            if rest.is_empty() {
                return sum;
            }
        }
    }

    /// A register, or a number in its place.
    fn register(&self, text: &str) -> u64 {
        let name = text.strip_prefix('%').map(|name| name.trim_start_matches(['r', 'c', 'a', 'f']));
        let value = match name {
            Some(name) => name.parse().unwrap_or_else(|_| panic!("register {text:?}")),
            None => self.value(text),
        };
        assert!((0..16).contains(&value), "{text:?} goes into four bits");
        value as u64
    }

    /// Displacement, index or length as written, base.
    fn storage<'t>(&self, text: &'t str) -> (i64, Option<&'t str>, u64) {
        let Some((displacement, rest)) = text.split_once('(') else { return (self.value(text), None, 0) };
        let inside = rest.trim_end_matches(')');
        let displacement = self.value(displacement);
        match inside.split_once(',') {
            Some((index, base)) => (displacement, Some(index), self.register(base)),
            None => (displacement, None, self.register(inside)),
        }
    }

    /// Base and unsigned displacement as 16 bits.
    fn base(&self, text: &str) -> u64 {
        let (displacement, index, base) = self.storage(text);
        assert!(index.is_none() && (0..4096).contains(&displacement), "{text:?}");
        base << 12 | displacement as u64
    }

    /// Base and signed displacement as the 24 bits of the long formats.
    fn long_base(&self, text: &str) -> (u64, u64) {
        let (displacement, index, base) = self.storage(text);
        assert!((-0x8_0000..0x8_0000).contains(&displacement), "{text:?}");
        let bits = (base << 20) | (displacement as u64 & 0xfff) << 8 | (displacement >> 12) as u64 & 0xff;
        (bits, index.map_or(0, |index| self.register(index)))
    }

    fn relative(&self, text: &str, bits: u32) -> u64 {
        let distance = self.value(text).wrapping_sub(self.at as i64);
        let (halfwords, limit) = (distance >> 1, 1i64 << (bits - 1));
        assert!(distance & 1 == 0 && (-limit..limit).contains(&halfwords), "{text:?} is out of reach");
        halfwords as u64 & ((1 << bits) - 1)
    }

    fn immediate(&self, text: &str, bits: u32) -> u64 {
        let value = self.value(text);
        assert!((-(1i64 << (bits - 1))..1i64 << bits).contains(&value), "{text:?} has more than {bits} bits");
        value as u64 & ((1 << bits) - 1)
    }
}

fn encode(mnemonic: &str, operands: &[&str], e: Expression<'_>) -> Vec<u8> {
    let width = match mnemonic {
        ".byte" => 1,
        ".short" => 2,
        ".long" => 4,
        ".quad" => 8,
        ".skip" | ".balign" => return vec![0; size(mnemonic, operands, e.at) as usize],
        ".set" => return Vec::new(),
        _ => {
            let (bits, length) = instruction(mnemonic, operands, &e);
            return bits.to_be_bytes()[8 - length..].to_vec();
        }
    };
    operands.iter().flat_map(|text| e.value(text).to_be_bytes()[8 - width..].to_vec()).collect()
}

/// The instruction, right-aligned, and its length in bytes.
fn instruction(mnemonic: &str, o: &[&str], e: &Expression<'_>) -> (u64, usize) {
    let (opcode, format) = find(mnemonic);
    let opcode = opcode as u64;
    let r = |n: usize| e.register(o[n]);
    // Opcodes of 12 bits have their last four after R1, those of the long formats their last eight at the end.
    let split12 = |r1: u64| (opcode >> 4) << 8 | r1 << 4 | opcode & 15;
    let split16 = |high: u64, low: u64| (opcode >> 8) << 40 | high | low << 8 | opcode & 0xff;
    let optional = |n: usize| o.get(n).map_or(0, |_| r(n));
    match format {
        E => (opcode, 2),
        I => (opcode << 8 | e.immediate(o[0], 8), 2),
        Rr => (opcode << 8 | r(0) << 4 | r(1), 2),
        RrBranch => (0x0700 | opcode << 4 | r(0), 2),
        Rre => (opcode << 16 | r(0) << 4 | r(1), 4),
        Rre1 => (opcode << 16 | r(0) << 4, 4),
        RrfB => (opcode << 16 | r(1) << 12 | optional(3) << 8 | r(0) << 4 | r(2), 4),
        RrfC => (opcode << 16 | optional(2) << 12 | r(0) << 4 | r(1), 4),
        Ri => (split12(r(0)) << 16 | e.immediate(o[1], 16), 4),
        RiRelative => (split12(r(0)) << 16 | e.relative(o[1], 16), 4),
        Branch => (0xa704_0000 | opcode << 20 | e.relative(o[0], 16), 4),
        Ril => (split12(r(0)) << 32 | e.immediate(o[1], 32), 6),
        RilRelative => (split12(r(0)) << 32 | e.relative(o[1], 32), 6),
        LongBranch => (0xc004 << 32 | opcode << 36 | e.relative(o[0], 32), 6),
        Rx => {
            let (displacement, index, base) = e.storage(o[1]);
            assert!((0..4096).contains(&displacement), "{mnemonic} {o:?}");
            let index = index.map_or(0, |index| e.register(index));
            (opcode << 24 | r(0) << 20 | index << 16 | base << 12 | displacement as u64, 4)
        }
        Rxy => {
            let (base, index) = e.long_base(o[1]);
            (split16(r(0) << 36 | index << 32, base), 6)
        }
        Rs if o.len() == 3 => (opcode << 24 | r(0) << 20 | r(1) << 16 | e.base(o[2]), 4),
        Rs => panic!("{mnemonic} {o:?}"),
        Rsy => (split16(r(0) << 36 | r(1) << 32, e.long_base(o[2]).0), 6),
        Si => (opcode << 24 | e.immediate(o[1], 8) << 16 | e.base(o[0]), 4),
        Sil => (opcode << 32 | e.base(o[0]) << 16 | e.immediate(o[1], 16), 6),
        S if opcode > 0xff => (opcode << 16 | e.base(o[0]), 4),
        S => (opcode << 24 | e.base(o[0]), 4),
        Sse => (opcode << 32 | e.base(o[0]) << 16 | e.base(o[1]), 6),
        Ssf => {
            ((opcode >> 4) << 40 | r(2) << 36 | (opcode & 15) << 32 | e.base(o[0]) << 16 | e.base(o[1]), 6)
        }
        Ss => {
            let (displacement, length, base) = e.storage(o[0]);
            let length = e.value(length.expect("a length")) - 1;
            assert!((0..256).contains(&length) && (0..4096).contains(&displacement), "{mnemonic} {o:?}");
            let first = base << 12 | displacement as u64;
            (opcode << 40 | (length as u64) << 32 | first << 16 | e.base(o[1]), 6)
        }
        SsKey => {
            let (displacement, length, base) = e.storage(o[0]);
            let first = base << 12 | displacement as u64;
            let length = e.register(length.expect("a register"));
            (opcode << 40 | length << 36 | r(2) << 32 | first << 16 | e.base(o[1]), 6)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::process::Command;

    /// Operands of every kind for a format.
    fn sample(format: Format) -> &'static str {
        match format {
            E => "",
            I => "0x7b",
            Rr | Rre => "%r3,%r14",
            RrBranch | Rre1 => "%r9",
            RrfB => "%r2,%r5,%r4",
            RrfC => "%r3,%r14",
            Ri => "%r7,0x1234",
            RiRelative | RilRelative => "%r7,start",
            Branch | LongBranch => "behind",
            Ril => "%r7,0x12345678",
            Rx => "%r2,0xabc(%r3,%r4)",
            Rxy => "%r2,-0x12345(%r3,%r4)",
            Rs => "%r2,%r4,0xabc(%r5)",
            Rsy => "%r2,%r4,0x7ffff(%r5)",
            Si => "0xabc(%r5),0xfe",
            Sil => "0xabc(%r5),0x1234",
            S => "0xabc(%r5)",
            Sse => "0xabc(%r5),0x123(%r6)",
            Ssf => "0xabc(%r5),0x123(%r6),%r4",
            Ss => "0xabc(200,%r5),0x123(%r6)",
            SsKey => "0xabc(%r3,%r5),0x123(%r6),%r4",
        }
    }

    #[test]
    fn agrees_with_binutils() {
        let mut source =
            String::from("start: .byte 1\n .balign 8\n .quad behind-start, 0x123456789abcdef0\n");
        for (mnemonic, _, format) in TABLE {
            writeln!(source, " {mnemonic} {}", sample(*format)).unwrap();
        }
        source += " sske %r1,%r2,5\n idte %r2,%r5,%r4,1\n lg %r1,8(%r2)\n l %r1,8\n j .+8\n .skip 6\nbehind: .short 1, 2\n";
        let ours = assemble(0x2000, &source).bytes;
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        std::fs::write(file("a.s"), format!(".machine zEC12\n{source}")).unwrap();
        let run = |tool: &str, arguments: &[&str]| {
            Command::new(format!("s390x-linux-gnu-{tool}"))
                .args(arguments)
                .current_dir(directory.path())
                .output()
        };
        let Ok(assembled) = run("as", &["-o", "a.o", "a.s"]) else {
            return eprintln!("skipped: no s390x binutils here");
        };
        assert!(assembled.status.success(), "{}", String::from_utf8_lossy(&assembled.stderr));
        let copied = run("objcopy", &["-O", "binary", "-j", ".text", "a.o", "a.bin"]).unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let theirs = std::fs::read(file("a.bin")).unwrap();
        // Behind the one byte at the beginning, and at the end, the GNU assembler has its own padding.
        assert!((ours.len()..ours.len() + 8).contains(&theirs.len()), "{} and {}", ours.len(), theirs.len());
        let differs = (8..ours.len()).find(|&n| ours[n] != theirs[n]);
        let near = |bytes: &[u8]| {
            differs.map(|n| format!("{:02x?}", &bytes[n.saturating_sub(6)..bytes.len().min(n + 6)]))
        };
        assert_eq!(near(&ours), near(&theirs), "at {differs:x?}");
    }
}
