//! What differs between two answers, and the list of differences that are accepted.

use std::collections::BTreeSet;
use std::fmt;

use oracle::layout::{PAGES, PAGES_SIZE, SLOT, WINDOWS};
use oracle::{Answer, Case, Outcome, instruction_length};

/// A difference between two answers to one case: the names of the fields that differ, and both outcomes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    fields: BTreeSet<&'static str>,
    ours: String,
    theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<_> = self.fields.iter().copied().collect();
        write!(f, "fields={} ours={} qemu={}", fields.join(","), self.ours, self.theirs)
    }
}

/// "completed", "program-0006", "hung" or "died".
fn name(outcome: Outcome) -> String {
    match outcome {
        Outcome::Program { code, .. } => format!("program-{code:04x}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Protection, addressing and translation exceptions: which of two operands is looked at first is the CPU's choice.
fn access_exception(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Program { code: 4 | 5 | 0x10 | 0x11 | 0x38..=0x3b, .. })
}

/// What could not be accessed: code and page. The other bits of the identification are those that say whether a
/// fetch or a store failed, and how.
fn page(outcome: Outcome) -> Option<(u16, u64)> {
    match outcome {
        Outcome::Program { code, translation_exception, .. } => Some((code, translation_exception & !0xfff)),
        _ => None,
    }
}

/// Compares two answers; `None` when they are the same.
pub fn compare(case: &Case, ours: &Answer, theirs: &Answer) -> Option<Difference> {
    let mut fields = BTreeSet::new();
    let mut check = |field, same: bool| {
        if !same {
            fields.insert(field);
        }
    };
    let (a, b) = (&ours.state, &theirs.state);
    let kind = |answer: &Answer| name(answer.outcome);
    let both_inaccessible = access_exception(ours.outcome) && access_exception(theirs.outcome);
    check("operand", !both_inaccessible || page(ours.outcome) == page(theirs.outcome));
    check("outcome", kind(ours) == kind(theirs) || both_inaccessible);
    check("gr", a.gr == b.gr);
    check("fpr", a.fpr == b.fpr);
    check("ar", a.ar == b.ar);
    check("fpc", a.fpc == b.fpc);
    check("cc", a.cc() == b.cc());
    check("psw", a.clone().with_cc(0).psw_mask == b.clone().with_cc(0).psw_mask);
    check("storage", a.windows == b.windows);
    check("cr", a.cr == b.cr);
    if kind(ours) == kind(theirs) {
        check("address", ours.address == theirs.address);
    }
    if let (
        Outcome::Program { code, ilc, translation_exception, dxc },
        Outcome::Program {
            code: their_code,
            ilc: their_ilc,
            translation_exception: their_id,
            dxc: their_dxc,
        },
    ) = (ours.outcome, theirs.outcome)
        && code == their_code
    {
        // At a branch target that cannot be fetched the length says nothing (chapter 6, instruction-length code).
        let own = [SLOT, SLOT + instruction_length(case.instruction[0]) as u64].contains(&ours.address);
        check("ilc", !own || ilc == their_ilc);
        check("dxc", dxc == their_dxc);
        check("teid", both_inaccessible || translation_exception == their_id);
        let same_page = page(ours.outcome) == page(theirs.outcome);
        check("fetch-store", !both_inaccessible || !same_page || translation_exception == their_id);
        // Monitor class and code.
        let monitor = |answer: &Answer| [&answer.lowcore[0x14..0x16], &answer.lowcore[0x30..0x38]].concat();
        check("monitor", code != 0x40 || monitor(ours) == monitor(theirs));
    }
    (!fields.is_empty()).then(|| Difference { fields, ours: kind(ours), theirs: kind(theirs) })
}

/// One line of the list: `MNEMONICS | condition | reason`.
///
/// Mnemonics are separated by commas; `*` stands for any beginning of one. The condition is a difference as it is printed, where `fields` are
/// those that may differ and `ours` and `qemu` may be missing (any outcome).
struct Accepted {
    text: String,
    mnemonics: Vec<String>,
    fields: Vec<String>,
    ours: Option<String>,
    theirs: Option<String>,
    used: u64,
}

/// The accepted differences.
pub struct Accepting {
    lines: Vec<Accepted>,
}

impl Accepting {
    /// Reads the list; lines that begin with `#` and empty ones say nothing.
    pub fn parse(text: &str) -> Accepting {
        let lines =
            text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).map(|line| {
                let parts: Vec<&str> = line.split('|').map(str::trim).collect();
                let [mnemonics, condition, reason] = parts[..] else {
                    panic!("three parts are needed: {line}")
                };
                assert!(!reason.is_empty(), "a reason is needed: {line}");
                let list = |text: &str| text.split(',').map(|part| part.trim().to_owned()).collect();
                let value = |key| {
                    condition.split_whitespace().find_map(|word| word.strip_prefix(key)).map(str::to_owned)
                };
                Accepted {
                    text: format!("{mnemonics} | {condition}"),
                    mnemonics: list(mnemonics),
                    fields: list(&value("fields=").unwrap_or_else(|| panic!("fields are needed: {line}"))),
                    ours: value("ours="),
                    theirs: value("qemu="),
                    used: 0,
                }
            });
        Accepting { lines: lines.collect() }
    }

    /// Whether a line covers this difference.
    pub fn accepts(&mut self, mnemonic: &str, difference: &Difference) -> bool {
        let found = self.lines.iter_mut().find(|line| {
            let names = |pattern: &str| match pattern.strip_prefix('*') {
                Some(end) => mnemonic.ends_with(end),
                None => mnemonic == pattern,
            };
            line.mnemonics.iter().any(|pattern| names(pattern))
                && difference.fields.iter().all(|field| line.fields.iter().any(|name| name == field))
                && line.ours.as_ref().is_none_or(|ours| *ours == difference.ours)
                && line.theirs.as_ref().is_none_or(|theirs| *theirs == difference.theirs)
        });
        if let Some(line) = found {
            line.used += 1;
            return true;
        }
        false
    }
}

impl Accepting {
    /// The lines that covered nothing.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter(|line| line.used == 0).map(|line| line.text.as_str())
    }
}

/// Everything about one differing case that a reader needs.
pub fn show(case: &Case, ours: &Answer, theirs: &Answer) -> String {
    use fmt::Write;
    let mut text = String::new();
    let length = instruction_length(case.instruction[0]);
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let _ = write!(text, "    instruction {}", hex(&case.instruction[..length]));
    if let Some(target) = case.target {
        let _ = write!(text, " executes {}", hex(&target[..instruction_length(target[0])]));
    }
    let _ = writeln!(text, "  psw {:016x}  fpc {:08x}", case.state.psw_mask, case.state.fpc);
    for (name, answer) in [("ours", ours), ("qemu", theirs)] {
        let _ = writeln!(
            text,
            "    {name}: {:x?} psw {:016x} {:016x} fpc {:08x}",
            answer.outcome, answer.state.psw_mask, answer.address, answer.state.fpc
        );
    }
    let (before, a, b) = (&case.state, &ours.state, &theirs.state);
    for i in 0..16 {
        let mark = if a.gr[i] != b.gr[i] { "  <--" } else { "" };
        let _ = write!(text, "    r{i:<2} {:016x}", before.gr[i]);
        if a.gr[i] != before.gr[i] || !mark.is_empty() {
            let _ = write!(text, " ours {:016x} qemu {:016x}{mark}", a.gr[i], b.gr[i]);
        }
        if (0xb3..=0xb3).contains(&case.instruction[0])
            || case.instruction[0] == 0xed
            || a.fpr[i] != before.fpr[i]
            || a.fpr[i] != b.fpr[i]
        {
            let mark = if a.fpr[i] != b.fpr[i] { "  <--" } else { "" };
            let _ = write!(text, "   f{i:<2} {:016x}", before.fpr[i]);
            if a.fpr[i] != before.fpr[i] || !mark.is_empty() {
                let _ = write!(text, " ours {:016x} qemu {:016x}{mark}", a.fpr[i], b.fpr[i]);
            }
        }
        if a.ar[i] != b.ar[i] {
            let _ = write!(
                text,
                "   a{i:<2} {:08x} ours {:08x} qemu {:08x}  <--",
                before.ar[i], a.ar[i], b.ar[i]
            );
        }
        text.push('\n');
    }
    if let (Some(a), Some(b)) = (&a.cr, &b.cr)
        && a != b
    {
        let _ = writeln!(text, "    cr ours {a:x?}\n       qemu {b:x?}");
    }
    for (w, base) in WINDOWS.into_iter().enumerate() {
        for at in (0..before.windows[w].len()).step_by(16) {
            let (i, o, q) =
                (&before.windows[w][at..at + 16], &a.windows[w][at..at + 16], &b.windows[w][at..at + 16]);
            let pointed = case.state.gr.iter().any(|gr| (gr & 0xff_ffff).wrapping_sub(base + at as u64) < 16);
            if o != q {
                let _ = writeln!(
                    text,
                    "    {:05x} {} ours {} qemu {}  <--",
                    base + at as u64,
                    hex(i),
                    hex(o),
                    hex(q)
                );
            } else if pointed || i != o {
                let _ = writeln!(text, "    {:05x} {}", base + at as u64, hex(i));
            }
        }
    }
    debug_assert!(WINDOWS.iter().all(|w| (PAGES..PAGES + PAGES_SIZE).contains(w)));
    text
}

#[test]
fn lines_accept_what_they_say_and_no_more() {
    let mut accepting = Accepting::parse(
        "# a comment\n\n\
         CS,CSG | fields=cc,gr ours=completed | a reason\n\
         *BR | fields=fpc ours=program-0007 qemu=completed | another\n",
    );
    let mut check = |mnemonic, fields: &[&'static str], ours: &str, theirs: &str, expected| {
        let fields = fields.iter().copied().collect();
        let difference = Difference { fields, ours: ours.to_owned(), theirs: theirs.to_owned() };
        assert_eq!(accepting.accepts(mnemonic, &difference), expected, "{mnemonic} {difference}");
    };
    check("CS", &["gr"], "completed", "died", true);
    check("CSG", &["cc", "gr"], "completed", "completed", true);
    check("CSY", &["gr"], "completed", "died", false);
    check("CS", &["gr", "storage"], "completed", "completed", false);
    check("CS", &["gr"], "program-0006", "completed", false);
    check("ADBR", &["fpc"], "program-0007", "program-0007", false);
    assert_eq!(accepting.unused().collect::<Vec<_>>(), ["*BR | fields=fpc ours=program-0007 qemu=completed"]);
}
