//! What an administrator of real cards may be told stands in docs/ibm-z.md, with what it means and what to do.
//!
//! The messages are taken from the sources: whoever adds one finds it missing here. That what is taken is what is printed, a
//! handful of real errors shows.

use std::fs;
use std::path::{Path, PathBuf};

/// Who is told what: files, or directories of them.
const SOURCES: [&str; 6] = [
    "kvm/src",
    "devices/ap/src/passthrough",
    "devices/ap/src/host/error.rs",
    "devices/ap/src/host/sysfs.rs",
    "devices/ap/src/host/apcb.rs",
    "vmm/src/devices/real_cards.rs",
];
/// What a message is behind, there.
const BEFORE: [&str; 17] = [
    "#[error(",
    ".attempt(",
    "log::warn!(",
    "log::error!(",
    "self.bad(",
    "self.poor(",
    "told(",
    "self.error(",
    "self.crash(",
    ".need(",
    "Impossible(",
    "let attempt = ",
    "let what = ",
    "let mut text = ",
    "-> String {",
    "remote(",
    "not_vfio(",
];
/// Those of simulated hosts, whose descriptions are docs/ap-host.md's.
const SIMULATED: [&str; 2] = ["read the description of the AP host", "the description of the AP host: …"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The sources without their tests, by name.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for place in SOURCES {
        let place = workspace().join(place);
        let files = match fs::read_dir(&place) {
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
            Err(_) => vec![place],
        };
        for file in files {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.ends_with(".rs") || name.contains("tests") || name == "record.rs" {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
            found.push((name, text));
        }
    }
    found
}

/// The string at the beginning of `source`, behind what makes one of it, with `…` for each of its arguments.
fn message(source: &str) -> Option<String> {
    let mut rest = source.trim_start();
    while let Some(inner) = ["|| ", "format!(", "format_args!(", "&", "{", "\"EINVAL\", ", "\"EOPNOTSUPP\", "]
        .iter()
        .find_map(|word| rest.strip_prefix(word))
    {
        rest = inner.trim_start();
    }
    let mut characters = rest.strip_prefix('"')?.chars().peekable();
    let mut text = String::new();
    while let Some(c) = characters.next() {
        match c {
            '"' => break,
            '\\' => match characters.next()? {
                '\n' => while characters.next_if(|c| c.is_whitespace()).is_some() {},
                escaped => text.push(escaped),
            },
            '{' => {
                characters.by_ref().find(|c| *c == '}')?;
                text.push('…');
            }
            c => text.push(c),
        }
    }
    // Not what is made of arguments only.
    (text.chars().filter(|c| c.is_ascii_alphabetic()).count() >= 5).then_some(text)
}

/// Every message of the sources, with its file.
fn messages() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, source) in sources() {
        for before in BEFORE {
            let all = source.match_indices(before);
            let all = all.filter_map(|(at, _)| message(&source[at + before.len()..]));
            // What closing goes on from is told in one frame.
            let framed = all.map(|text| if before == "told(" { format!("mdev …: {text}: …") } else { text });
            found.extend(framed.map(|text| (name.clone(), text)));
        }
    }
    found.retain(|(_, text)| !SIMULATED.contains(&text.as_str()));
    found
}

/// The messages of the document: those in the first cells of its tables whose other cells say something.
fn documented(document: &str) -> Vec<&str> {
    let rows = document.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let [messages, meaning, cure] = cells[..] else { return None };
        (!meaning.trim().is_empty() && !cure.trim().is_empty()).then_some(messages)
    });
    rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// Whether a message is what the document has, where `…` may be anything.
fn is(documented: &str, message: &str) -> bool {
    let pieces: Vec<_> = documented.split('…').collect();
    let (first, last) = (pieces[0], pieces[pieces.len() - 1]);
    let Some(mut rest) = message.strip_prefix(first) else { return false };
    if pieces.len() == 1 {
        return rest.is_empty();
    }
    for piece in &pieces[1..pieces.len() - 1] {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The same, and the document has most of its words.
fn says(documented: &str, message: &str) -> bool {
    let words = |text: &str| text.chars().filter(|c| *c != '…').count();
    is(documented, message) && 2 * words(documented) >= words(message)
}

#[test]
fn each_message_is_documented() {
    let document = fs::read_to_string(workspace().join("docs/ibm-z.md")).unwrap();
    let documented = documented(&document);
    let found = messages();
    assert!(found.len() > 100, "{} messages: have they moved?", found.len());
    for (file, text) in &found {
        assert!(documented.iter().any(|one| says(one, text)), "{file}: docs/ibm-z.md has no `{text}`");
    }
    // Nothing there that is found nowhere: but for the clients' own refusals, and what the kernel's answer is behind.
    let more = ["write to …", "read …", "write … to …", "run: …"];
    for one in documented.iter().filter(|one| !more.contains(one)) {
        assert!(found.iter().any(|(_, text)| is(one, text)), "no source has `{one}` of docs/ibm-z.md");
    }
}

/// What is printed is what was taken from the sources.
#[test]
fn real_errors_are_documented() {
    use std::io::Error as Io;
    let document = fs::read_to_string(workspace().join("docs/ibm-z.md")).unwrap();
    let documented = documented(&document);
    let uuid = uuid::Uuid::nil();
    let unavailable = kvm::model::Unavailable { name: "z16".into(), missing: vec![12, 15, 65] };
    let queues = crycb::Matrix {
        apm: [5].into_iter().collect(),
        aqm: [4].into_iter().collect(),
        ..crycb::Matrix::EMPTY
    };
    let owned = ap::host::HostError::HostOwned { mdev: uuid, queues: Box::new(queues), overridden: None };
    let shared = ap::host::HostError::Shared { mdev: uuid, other: uuid, queues: Box::new(queues) };
    let busy = ap::host::HostError::MaskInUse { attribute: "apmask", mdev: uuid, queues: Box::new(queues) };
    let kernel = ap::passthrough::Error::Kernel {
        attempt: "put group 3 into a container".into(),
        cure: "end it",
        source: Io::from_raw_os_error(16),
    };
    for (text, errno) in [
        (owned.to_string(), owned.errno()),
        (shared.to_string(), shared.errno()),
        (busy.to_string(), busy.errno()),
    ] {
        let mut rows = document.lines().filter(|line| {
            line.starts_with("| `") && line.split('`').nth(1).is_some_and(|one| is(one, &text))
        });
        assert!(rows.any(|row| row.contains(errno)), "docs/ibm-z.md has no {errno} with `{text}`");
    }
    for text in [
        kvm::Error::Open(Io::from_raw_os_error(2)).to_string(),
        kvm::Error::Version(11).to_string(),
        kvm::Error::Capabilities(vec!["KVM_CAP_S390_SKEYS"]).to_string(),
        kvm::Error::Storage { size: 2, most: 1 }.to_string(),
        kvm::Error::Model(unavailable).to_string(),
        kvm::Error::Kernel { attempt: "make CPU 3".into(), source: Io::from_raw_os_error(12) }.to_string(),
        kernel.to_string().split("; ").next().unwrap().to_owned(),
        ap::passthrough::Error::NotViable { group: 3 }.to_string(),
        ap::passthrough::Error::NotAp { mdev: uuid, flags: 1 }.to_string(),
        ap::passthrough::Error::Second { other: uuid }.to_string(),
        ap::passthrough::Error::NotPlugged(uuid).to_string(),
        ap::passthrough::Error::NoVfio.to_string(),
        "5".parse::<ap::passthrough::MdevName>().unwrap_err().to_string(),
    ] {
        assert!(documented.iter().any(|one| is(one, &text)), "docs/ibm-z.md has no `{text}`");
    }
}

/// The unit lets the program open every file of the host that it may need, and the package has the rules for its user.
#[test]
fn the_unit_allows_what_guests_need() {
    let unit = fs::read_to_string(workspace().join("dist/adjunct@.service")).unwrap();
    for allowed in ["/dev/kvm", "/dev/vfio/vfio", "/dev/iommu", "char-vfio", "char-vfio-dev"] {
        assert!(unit.lines().any(|line| line == format!("DeviceAllow={allowed} rw")), "{allowed}");
    }
    assert!(unit.lines().any(|line| line == "SupplementaryGroups=kvm"));
    let rules = fs::read_to_string(workspace().join("dist/60-adjunct.rules")).unwrap();
    let rules: Vec<_> = rules.lines().filter(|line| !line.starts_with('#')).collect();
    for subsystem in ["vfio", "vfio-dev", "misc"] {
        let rule = rules.iter().find(|rule| rule.starts_with(&format!("SUBSYSTEM==\"{subsystem}\", ")));
        assert!(
            rule.is_some_and(|rule| rule.ends_with("GROUP=\"kvm\", MODE=\"0660\"")),
            "{subsystem}: {rule:?}"
        );
        // Only those: of all groups and devices, vfio_ap's.
        assert!(
            rule.is_some_and(|rule| rule.contains("vfio_ap") || rule.contains("KERNEL==\"iommu\"")),
            "{rule:?}"
        );
    }
}
