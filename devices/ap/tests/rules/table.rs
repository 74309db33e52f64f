//! `docs/vfio-ap-rules.md` and the tests are about each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ap::host::Rule;

const RULES: &str = include_str!("../../../../docs/vfio-ap-rules.md");

/// Whether the name is that of a test that belongs into the document.
fn belongs(name: &str) -> bool {
    let numbered = |letter: char, digits: usize| {
        let rest = name.strip_prefix(letter)?;
        let (number, rest) = rest.split_at_checked(digits)?;
        (number.chars().all(|c| c.is_ascii_digit()) && rest.starts_with('_')).then_some(())
    };
    name.starts_with("doc_")
        || name.starts_with("linux_7_2_")
        || numbered('v', 2).is_some()
        || numbered('l', 1).is_some()
}

/// The names of the tests in the sources below `folder`.
fn tests(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut attributed = false;
            for line in text.lines().map(str::trim) {
                if let (true, Some(rest)) = (attributed, line.strip_prefix("fn ")) {
                    names.extend(rest.split('(').next().map(str::to_owned));
                }
                attributed = line == "#[test]" || attributed && line.starts_with("#[");
            }
        }
    }
}

/// What stands between backquotes and can be the name of a function, in the cells of a row.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let name = |word: &&str| word.len() > 8 && word.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    text.split('`').skip(1).step_by(2).filter(name)
}

/// The cells of the rows of tables, without headings.
fn rows() -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(inner.split('|').map(str::trim).collect::<Vec<_>>())
    };
    RULES.lines().filter_map(cells).collect()
}

#[test]
fn each_test_named_in_the_document_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut existing = BTreeSet::new();
    tests(&root.join("src"), &mut existing);
    tests(&root.join("tests"), &mut existing);
    tests(&root.join("../../crycb"), &mut existing);
    assert!(existing.len() > 100, "the sources were found");
    let mut named = BTreeSet::new();
    for row in rows().iter().filter(|row| row.len() == 4) {
        // In the first table tests are in the third column, in the others in the last.
        let first_table = row[0].len() <= 3;
        named.extend(quoted(row[if first_table { 2 } else { 3 }]));
    }
    for name in &named {
        assert!(existing.contains(*name), "docs/vfio-ap-rules.md names {name}, and no test is called so");
    }
    for name in existing.iter().filter(|name| belongs(name)) {
        assert!(named.contains(name.as_str()), "docs/vfio-ap-rules.md does not name {name}");
    }
}

/// Each rule has one number, a sentence, a test and a source; and all numbers of past bugs have a test.
#[test]
fn each_rule_has_a_test_and_a_source() {
    let rows = rows();
    let mut numbers = BTreeSet::new();
    let is_rule = |cell: &str| {
        let (letter, number) = cell.split_at_checked(1).unwrap_or_default();
        letter.chars().all(|c| c.is_ascii_uppercase()) && number.parse::<u8>().is_ok()
    };
    for row in rows.iter().filter(|row| is_rule(row[0])) {
        assert!(numbers.insert(row[0]), "{} is there twice", row[0]);
        assert_eq!(row.len(), 4, "{}", row[0]);
        assert!(row[1].ends_with('.') && !row[3].is_empty(), "{}", row[0]);
        assert!(quoted(row[2]).next().is_some(), "no test holds {}", row[0]);
    }
    assert!(numbers.len() > 40);
    let lessons = (1..=21).map(|n| format!("`v{n:02}_")).chain((1..=3).map(|n| format!("`l{n}_")));
    for lesson in lessons {
        assert!(RULES.contains(&lesson), "no test for {lesson}");
    }
}

#[test]
fn each_rule_of_an_explanation_is_in_the_document() {
    let numbers: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.number()).collect();
    assert_eq!(numbers.len(), Rule::ALL.len());
    for rule in Rule::ALL {
        let row = format!("| {} | *{}*: ", rule.number(), rule.name());
        assert!(RULES.contains(&row), "{rule}");
    }
}

#[test]
fn names_that_belong() {
    for (name, want) in [
        ("v01_x", true),
        ("l3_x", true),
        ("doc_x", true),
        ("linux_7_2_x", true),
        ("v1_x", false),
        ("vm_01", false),
        ("l10_x", false),
        ("look_at", false),
    ] {
        assert_eq!(belongs(name), want, "{name}");
    }
}
