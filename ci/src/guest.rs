//! The Debian guest: the stock s390x kernel and an initramfs of stock programs, assembled from packages.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::apt::{Apt, hex};
use crate::deb::{self, Entry};
use crate::initramfs::Initramfs;
use crate::rsa::Key;

/// The suite whose kernel and programs make the guest.
const SUITE: &str = "trixie";
/// The package that depends on the current kernel.
const KERNEL: &str = "linux-image-s390x";
/// What the guest's user space is made of, and nothing that these would pull in.
const PACKAGES: [&str; 9] = [
    "busybox-static",
    "libc6",
    "libica3",
    "libssl3t64",
    "libzstd1",
    "openssl",
    "openssl-ibmca",
    "s390-tools",
    "zlib1g",
];
/// Files of those packages that go into the initramfs. A final `*` stands for any end.
const FILES: [&str; 14] = [
    "usr/bin/busybox",
    "usr/bin/openssl",
    "usr/lib/ld64.so.1",
    "usr/lib/s390x-linux-gnu/ld64.so.1",
    "usr/lib/s390x-linux-gnu/libc.so.6",
    "usr/lib/s390x-linux-gnu/libcrypto.so.3",
    "usr/lib/s390x-linux-gnu/libica*",
    "usr/lib/s390x-linux-gnu/libssl.so.3",
    "usr/lib/s390x-linux-gnu/libz.so.1*",
    "usr/lib/s390x-linux-gnu/libzstd.so.1*",
    "usr/lib/s390x-linux-gnu/openssl-1.0.2/engines/libibmca.so",
    "usr/sbin/chzcrypt",
    "usr/sbin/lszcrypt",
    "usr/sbin/zcryptstats",
];
/// Modules for `modprobe zcrypt_cex4`, each with what it needs.
const MODULES: [(&str, &str); 2] = [("zcrypt", ""), ("zcrypt_cex4", "zcrypt")];
/// Our own files: name in the guest, content, executable.
const OWN: [(&str, &str, bool); 7] = [
    ("init", include_str!("../guest/init"), true),
    ("ap.sh", include_str!("../guest/ap.sh"), false),
    ("bench.sh", include_str!("../guest/bench.sh"), true),
    ("check.sh", include_str!("../guest/check.sh"), true),
    ("demo.sh", include_str!("../guest/demo.sh"), true),
    ("plug.sh", include_str!("../guest/plug.sh"), true),
    ("etc/openssl-ibmca.cnf", include_str!("../guest/openssl-ibmca.cnf"), false),
];
/// RSA keys in the guest, by size in bits.
const KEYS: [usize; 3] = [1024, 2048, 4096];
/// Messages per key.
pub const MESSAGES: usize = 8;

/// An assembled guest.
pub struct Guest {
    /// The kernel, as Debian ships it.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// Release of the kernel.
    pub release: String,
}

/// Assembles the guest below `target`, or finds it there. `refresh` asks the archive again.
pub fn assemble(target: &Path, refresh: bool) -> Result<Guest> {
    let root = target.join("guest");
    let debs = root.join("debs");
    let record = debs.join("record.json");
    let packages = match read_record(&record, &debs) {
        Some(packages) if !refresh => packages,
        _ => {
            let started = Instant::now();
            let packages = fetch(&root.join("apt"), &debs)?;
            write_whole(&record, serde_json::to_string_pretty(&packages)?.as_bytes())?;
            eprintln!("fetched {} packages in {:.1} s", packages.len(), started.elapsed().as_secs_f64());
            packages
        }
    };

    let out = root.join("debian");
    let release = release_of(&packages)?;
    let guest = Guest { kernel: out.join("vmlinuz"), initrd: out.join("initrd.cpio"), release };
    let key = assembly_key(&packages)?;
    let stamp = out.join("assembled");
    if fs::read_to_string(&stamp).is_ok_and(|s| s == key) && guest.kernel.exists() && guest.initrd.exists() {
        return Ok(guest);
    }
    let started = Instant::now();
    fs::create_dir_all(&out)?;
    let _ = fs::remove_file(&stamp);
    let (kernel, initrd) = build(&debs, &packages, &guest.release)?;
    write_whole(&guest.kernel, &kernel)?;
    write_whole(&guest.initrd, &initrd)?;
    write_whole(&stamp, key.as_bytes())?;
    eprintln!(
        "assembled Linux {} and an initramfs of {:.1} MB in {:.1} s: {}",
        guest.release,
        initrd.len() as f64 / 1e6,
        started.elapsed().as_secs_f64(),
        out.display()
    );
    Ok(guest)
}

/// Package name to its file.
type Files = BTreeMap<String, String>;

/// The record of a finished download, if every file it names is still there.
fn read_record(record: &Path, debs: &Path) -> Option<Files> {
    let value: Value = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
    let files: Option<Files> = value
        .as_object()?
        .iter()
        .map(|(name, file)| Some((name.clone(), file.as_str()?.to_owned())))
        .collect();
    let files = files?;
    let complete = PACKAGES.iter().all(|p| files.contains_key(*p)) && release_of(&files).is_ok();
    (complete && files.values().all(|f| debs.join(f).exists())).then_some(files)
}

fn fetch(state: &Path, debs: &Path) -> Result<Files> {
    let apt = Apt::new(state, &[SUITE], "s390x");
    apt.update()?;
    let kernel = apt
        .depends(KERNEL)?
        .into_iter()
        .find(|p| p.starts_with("linux-image-"))
        .with_context(|| format!("{KERNEL} names no kernel"))?;
    let mut names: Vec<String> = PACKAGES.iter().map(|p| (*p).to_owned()).collect();
    names.push(kernel);
    let packages = apt.download(&names, debs)?;
    let kept: Files = packages.into_iter().map(|p| (p.name, p.file)).collect();
    for entry in fs::read_dir(debs)?.flatten() {
        if !kept.values().any(|file| entry.file_name() == file.as_str()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(kept)
}

fn release_of(packages: &Files) -> Result<String> {
    let name = packages.keys().find_map(|n| n.strip_prefix("linux-image-"));
    Ok(name.context("no kernel among the packages")?.to_owned())
}

/// Changes whenever the outcome may: with a package, with one of our files, with the lists above.
fn assembly_key(packages: &Files) -> Result<String> {
    let own: Vec<Value> = OWN.iter().map(|(name, text, x)| json!([name, text, x])).collect();
    let keys = KEYS.iter().map(|bits| Ok(Key::test_key(*bits)?.pem)).collect::<Result<Vec<_>>>()?;
    let input = json!([3, packages, FILES, MODULES, own, keys, MESSAGES]);
    Ok(hex(&Sha256::digest(input.to_string())))
}

fn build(debs: &Path, packages: &Files, release: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut fs = Initramfs::default();
    for path in ["dev", "proc", "root", "run", "sys", "tmp"] {
        fs.directory(path);
    }
    fs.device("dev/console", 5, 1);
    fs.device("dev/null", 1, 3);
    // The merged /usr of Debian, except that /bin is a directory of its own for busybox's links.
    fs.link("lib", "usr/lib");
    fs.link("bin/busybox", "../usr/bin/busybox");
    fs.link("bin/sh", "busybox");

    let mut missing: Vec<&str> = FILES.to_vec();
    for package in PACKAGES {
        let path = debs.join(packages.get(package).with_context(|| format!("{package} was not fetched"))?);
        for (name, entry) in deb::read(&path, |p| FILES.iter().any(|f| matches(f, p)))? {
            missing.retain(|f| !matches(f, &name));
            fs.entry(&name, entry);
        }
    }
    ensure!(missing.is_empty(), "no package holds {}", missing.join(", "));

    let kernel = format!("linux-image-{release}");
    let image = format!("boot/vmlinuz-{release}");
    let modules = format!("lib/modules/{release}/kernel/drivers/s390/crypto");
    let wanted = |p: &str| p == image || p.contains(&modules);
    let mut files = deb::read(&debs.join(&packages[&kernel]), wanted)?;
    let Some(Entry::File { bytes: vmlinuz, .. }) = files.remove(&image) else {
        anyhow::bail!("{kernel} holds no {image}");
    };
    let mut dependencies = String::new();
    for (module, needs) in MODULES {
        let name = format!("usr/{modules}/{module}.ko.xz");
        let found = files.get(&name).or_else(|| files.get(name.trim_start_matches("usr/")));
        let Some(Entry::File { bytes, .. }) = found else { anyhow::bail!("{kernel} holds no {name}") };
        let mut plain = Vec::new();
        liblzma::read::XzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).context(name)?;
        let path = |m: &str| format!("kernel/drivers/s390/crypto/{m}.ko");
        fs.file(&format!("usr/lib/modules/{release}/{}", path(module)), &plain, false);
        let needs = if needs.is_empty() { String::new() } else { format!(" {}", path(needs)) };
        dependencies += &format!("{}:{needs}\n", path(module));
    }
    fs.file(&format!("usr/lib/modules/{release}/modules.dep"), dependencies.as_bytes(), false);

    for (name, text, executable) in OWN {
        fs.file(name, text.as_bytes(), executable);
    }
    for bits in KEYS {
        let key = Key::test_key(bits)?;
        fs.file(&format!("rsa/{bits}.pem"), key.pem.as_bytes(), false);
        fs.file(&format!("rsa/{bits}-public.pem"), key.public_pem().as_bytes(), false);
        for i in 1..=MESSAGES {
            fs.file(&format!("rsa/{bits}.message-{i}"), &key.message(i), false);
        }
    }
    Ok((vmlinuz, fs.to_bytes()?))
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => path == pattern,
    }
}

/// Writes through a temporary name, so that an interruption leaves the old file or the new one.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes).with_context(|| format!("write {}", temporary.display()))?;
    fs::rename(&temporary, path).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_only_while_all_its_files_are_there() {
        let directory = tempfile::tempdir().unwrap();
        let record = directory.path().join("record.json");
        let mut files: Files = PACKAGES.iter().map(|p| ((*p).to_owned(), format!("{p}.deb"))).collect();
        files.insert("linux-image-6.12-s390x".into(), "linux.deb".into());
        for file in files.values() {
            fs::write(directory.path().join(file), "").unwrap();
        }
        assert_eq!(read_record(&record, directory.path()), None);
        write_whole(&record, &serde_json::to_vec(&files).unwrap()).unwrap();
        assert_eq!(read_record(&record, directory.path()), Some(files.clone()));
        fs::remove_file(directory.path().join("linux.deb")).unwrap();
        assert_eq!(read_record(&record, directory.path()), None);
        files.remove("linux-image-6.12-s390x");
        write_whole(&record, &serde_json::to_vec(&files).unwrap()).unwrap();
        assert_eq!(read_record(&record, directory.path()), None);
        fs::write(&record, "{ half").unwrap();
        assert_eq!(read_record(&record, directory.path()), None);
    }
}
