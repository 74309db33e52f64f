//! What is installed beside the program, and packages of all of it for Debian and for RPM's distributions.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::apt::{hex, run};
use crate::cross::{self, Cross};
use crate::demo;
use crate::report::{Report, Verdict, stage};

/// A kind of package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Debian's, by cargo-deb.
    Deb,
    /// RPM, by cargo-generate-rpm.
    Rpm,
}

impl Kind {
    /// The cargo command that makes it, its version and what it is called with.
    fn tool(self) -> (&'static str, &'static str, &'static [&'static str]) {
        match self {
            Kind::Deb => {
                ("cargo-deb", "3.8.0", &["deb", "--package", "vmm", "--no-build", "--no-strip", "--output"])
            }
            Kind::Rpm => ("cargo-generate-rpm", "0.21.1", &["generate-rpm", "--package", "vmm", "--output"]),
        }
    }

    fn file(self) -> &'static str {
        match self {
            Kind::Deb => "adjunct.deb",
            Kind::Rpm => "adjunct.rpm",
        }
    }
}

/// Builds the program and all that is made from it, below `target/dist`; that directory.
pub fn dist(workspace: &Path, target: &Path) -> Result<PathBuf> {
    let adjunct = demo::build(workspace)?;
    let directory = target.join("dist");
    fs::create_dir_all(directory.join("bin"))?;
    fs::copy(&adjunct, directory.join("bin/adjunct")).context("copy the program")?;
    run(Command::new(&adjunct).arg("documents").arg(&directory))?;
    Ok(directory)
}

/// Makes a package below `target/dist`; its path.
pub fn package(workspace: &Path, target: &Path, kind: Kind) -> Result<PathBuf> {
    let file = dist(workspace, target)?.join(kind.file());
    pack(workspace, target, kind, &[], &file)?;
    Ok(file)
}

fn pack(workspace: &Path, target: &Path, kind: Kind, more: &[&str], file: &Path) -> Result<()> {
    let (tool, version, arguments) = kind.tool();
    let bin = provide(target, tool, version)?;
    let (command_name, options) = arguments.split_first().expect("a subcommand and its options");
    // cargo finds its subcommands in PATH. Both read what to pack, and where to, in the program's manifest.
    let path = std::env::join_paths(
        [bin].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    )?;
    // The manifest's paths lead to the workspace's own target directory.
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(workspace).env("PATH", path).env_remove("CARGO_TARGET_DIR");
    // One that is there from before would pass for a new one.
    let _ = fs::remove_file(file);
    run(command.arg(command_name).args(more).args(options).arg(file))?;
    ensure!(file.exists(), "{tool} made no {}", file.display());
    Ok(())
}

/// Makes a Debian package for s390x below `target/dist`; its path. The program is linked statically and needs no other
/// package; manual pages and completions are those that this machine's makes.
pub fn package_for_s390x(workspace: &Path, target: &Path, cross: &Cross) -> Result<PathBuf> {
    let directory = dist(workspace, target)?;
    fs::create_dir_all(directory.join("s390x"))?;
    fs::copy(cross.build(workspace)?, directory.join("s390x/adjunct")).context("copy the program")?;
    let file = directory.join("adjunct-s390x.deb");
    pack(workspace, target, Kind::Deb, &["--target", cross::TARGET, "--variant", "s390x"], &file)?;
    Ok(file)
}

/// The directory of a cargo command of that version, built below `target/tools` unless it is there.
fn provide(target: &Path, tool: &str, version: &str) -> Result<PathBuf> {
    let root = target.join("tools");
    let bin = root.join("bin");
    let found = Command::new(bin.join(tool)).arg("--version").stderr(Stdio::null()).output();
    let there =
        found.is_ok_and(|o| o.status.success() && String::from_utf8_lossy(&o.stdout).contains(version));
    if !there {
        let mut install = Command::new(env!("CARGO"));
        install
            .args(["install", "--quiet", "--locked", "--force", "--version", version, "--root"])
            .arg(&root)
            .arg(tool);
        install.env("CARGO_TARGET_DIR", root.join("build"));
        run(&mut install).with_context(|| format!("build {tool} {version}"))?;
    }
    Ok(bin)
}

/// Makes a Debian package, installs it elsewhere and looks whether everything is where it belongs and good; an RPM package
/// too if `rpm`, whose tool takes minutes to build.
pub fn check(workspace: &Path, target: &Path, rpm: bool, report: &mut Report) -> Result<()> {
    unit(workspace, target, report);
    udev_rules(workspace, report);
    let deb = match stage("a Debian package", || package(workspace, target, Kind::Deb)) {
        Ok(deb) => deb,
        Err(e) => {
            report.check(Verdict::Skipped, "package", &format!("{e:#}"));
            return Ok(());
        }
    };
    let root = tempfile::tempdir()?;
    match install(&deb, root.path()) {
        Ok(()) => report.expect(true, "package", "dpkg installs it below another root"),
        Err(e) => {
            report.check(
                Verdict::Skipped,
                "package",
                &format!("unpacked only, as dpkg does not install it: {e:#}"),
            );
            run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(root.path()))?;
        }
    }
    let version = run(Command::new(root.path().join("usr/bin/adjunct")).arg("--version"))?;
    let wanted = format!("adjunct {}", env!("CARGO_PKG_VERSION"));
    report.expect(version.trim() == wanted, "package", &format!("the program in it says {}", version.trim()));

    let missing: Vec<_> = INSTALLED.iter().filter(|file| !root.path().join(file).is_file()).collect();
    let text = if missing.is_empty() { String::new() } else { format!(", without {missing:?}") };
    report.expect(missing.is_empty(), "package", &format!("{} files in it{text}", INSTALLED.len()));

    let completion = root.path().join(INSTALLED[1]);
    let script = format!(
        "source {}; COMP_WORDS=(adjunct ru); COMP_CWORD=1; COMPREPLY=(); _adjunct adjunct ru adjunct; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        completion.display()
    );
    match Command::new("bash").args(["--norc", "-c", &script]).output() {
        Err(e) => report.check(Verdict::Skipped, "package", &format!("completion: bash: {e}")),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            report.expect(
                text.lines().any(|l| l == "run"),
                "package",
                &format!("bash completes 'ru' to {:?}", text.trim()),
            );
        }
    }
    let page = root.path().join(INSTALLED[0]);
    match Command::new("man").args(["--warnings", "-l"]).arg(&page).output() {
        Err(e) => report.check(Verdict::Skipped, "package", &format!("manual page: man: {e}")),
        Ok(output) => {
            let good =
                output.status.success() && String::from_utf8_lossy(&output.stdout).contains("--memory");
            report.expect(good, "package", "man shows the page of adjunct run");
        }
    }
    if !rpm {
        return Ok(());
    }
    match stage("an RPM package", || package(workspace, target, Kind::Rpm)) {
        Err(e) => report.check(Verdict::Skipped, "rpm", &format!("{e:#}")),
        Ok(rpm) => compare(&rpm, root.path(), report)?,
    }
    Ok(())
}

/// Has dpkg install a package below `root`, where nothing else is: what it depends on is this machine's.
fn install(deb: &Path, root: &Path) -> Result<()> {
    let database = root.join("var/lib/dpkg");
    for directory in ["info", "updates", "triggers"] {
        fs::create_dir_all(database.join(directory))?;
    }
    fs::write(database.join("status"), "")?;
    let mut dpkg = Command::new("dpkg");
    dpkg.arg("--root").arg(root).args([
        "--force-depends",
        "--force-script-chrootless",
        "--log=/dev/null",
        "--install",
    ]);
    run(dpkg.arg(deb))?;
    let listed =
        run(Command::new("dpkg-query").arg("--admindir").arg(&database).args(["--listfiles", "adjunct"]))?;
    ensure!(listed.lines().any(|line| line == "/usr/bin/adjunct"), "it is not among what is installed");
    Ok(())
}

/// Whether the RPM package has the same files as the Debian package, which is unpacked at `root`, and the same program.
fn compare(rpm: &Path, root: &Path, report: &mut Report) -> Result<()> {
    let metadata = rpm::PackageMetadata::open(rpm).context("read the RPM package")?;
    let entries = metadata.get_file_entries().context("list the RPM package")?;
    let theirs: BTreeSet<_> =
        entries.iter().filter_map(|file| same_name(&file.path().to_string_lossy())).collect();
    let mut ours = BTreeSet::new();
    files(&root.join("usr"), "usr", &mut ours)?;
    let ours: BTreeSet<_> = ours.iter().filter_map(|name| same_name(name)).collect();
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
    let (missing, more) = (only(&ours, &theirs), only(&theirs, &ours));
    let details = match missing.is_empty() && more.is_empty() {
        true => format!("{} files, as in the Debian package", theirs.len()),
        false => format!("without {missing:?}, and {more:?} only there"),
    };
    report.expect(missing.is_empty() && more.is_empty() && theirs.len() > INSTALLED.len(), "rpm", &details);
    let program = entries.iter().find(|file| file.path() == Path::new("/usr/bin/adjunct"));
    let digest = program.and_then(|file| file.digest()).map(|digest| digest.to_string());
    let wanted = hex(&Sha256::digest(fs::read(root.join("usr/bin/adjunct"))?));
    let same = digest.as_ref().is_some_and(|digest| digest.contains(&wanted));
    report.expect(same, "rpm", &format!("the program in it is the same: {digest:?}"));
    Ok(())
}

/// A file's name where both kinds of package have it under the same; none for what only one kind has.
fn same_name(path: &str) -> Option<String> {
    let name = path.trim_start_matches('/');
    let name =
        name.strip_suffix(".gz").unwrap_or(name).replace("zsh/vendor-completions", "zsh/site-functions");
    // Debian's policy wants it; RPM has the licence in its header.
    (name != "usr/share/doc/adjunct/copyright").then_some(name)
}

fn files(directory: &Path, name: &str, found: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let entry = entry?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            files(&entry.path(), &name, found)?;
        } else {
            found.insert(name);
        }
    }
    Ok(())
}

/// Makes the Debian package for s390x and looks at what `dpkg` says of it, its files, and its program under QEMU's user
/// emulation.
pub fn check_for_s390x(workspace: &Path, target: &Path, report: &mut Report) -> Result<()> {
    const NAME: &str = "package for s390x";
    let made = stage("a Debian package for s390x", || -> Result<_> {
        let cross = Cross::provide(workspace, target)?;
        Ok((package_for_s390x(workspace, target, &cross)?, cross))
    });
    let (deb, cross) = match made {
        Ok(made) => made,
        Err(e) => {
            report.check(Verdict::Skipped, NAME, &format!("{e:#}"));
            return Ok(());
        }
    };
    let fields = run(Command::new("dpkg-deb").arg("-f").arg(&deb))?;
    for wanted in ["Package: adjunct", "Architecture: s390x"] {
        report.expect(fields.lines().any(|line| line == wanted), NAME, wanted);
    }
    let depends = fields.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default().trim();
    report.expect(depends.is_empty(), NAME, &format!("it depends on {depends:?}"));
    let root = tempfile::tempdir()?;
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(root.path()))?;
    let program = root.path().join("usr/bin/adjunct");
    let missing: Vec<_> = INSTALLED.iter().filter(|file| !root.path().join(file).is_file()).collect();
    report.expect(missing.is_empty(), NAME, &format!("{} files in it, without {missing:?}", INSTALLED.len()));
    let (machine, segments) = elf(&fs::read(&program)?).unwrap_or_default();
    report.expect(machine == EM_S390, NAME, &format!("the program's ELF machine is {machine}"));
    let marked = segments.contains(&PT_S390_PGSTE);
    report.expect(marked, NAME, &format!("it is marked for KVM in its segments {segments:x?}"));
    match cross.runner() {
        Err(e) => report.check(Verdict::Skipped, NAME, &e),
        Ok(runner) => {
            let version = run(Command::new(runner).arg(&program).arg("--version"))?;
            let wanted = format!("adjunct {}", env!("CARGO_PKG_VERSION"));
            let details = format!("the program in it says {} under QEMU", version.trim());
            report.expect(version.trim() == wanted, NAME, &details);
        }
    }
    Ok(())
}

/// The number of s390 in the ELF header's `e_machine`.
const EM_S390: u16 = 22;
/// The program header that has Linux before 7.0 give the program page tables for KVM guests.
const PT_S390_PGSTE: u32 = 0x7000_0000;

/// `e_machine` and each program header's `p_type` of a big-endian 64-bit ELF file.
fn elf(file: &[u8]) -> Option<(u16, Vec<u32>)> {
    fn at<const N: usize>(file: &[u8], offset: usize) -> Option<[u8; N]> {
        file.get(offset..)?.first_chunk().copied()
    }
    // ELFCLASS64, ELFDATA2MSB
    if at(file, 0)? != *b"\x7fELF\x02\x02" {
        return None;
    }
    let half = |offset| Some(u16::from_be_bytes(at(file, offset)?));
    let table = usize::try_from(u64::from_be_bytes(at(file, 32)?)).ok()?;
    let (size, count) = (usize::from(half(54)?), usize::from(half(56)?));
    let types = (0..count).map(|n| Some(u32::from_be_bytes(at(file, table.checked_add(n * size)?)?)));
    Some((half(18)?, types.collect::<Option<_>>()?))
}

/// Files of the package that somebody looks for by name.
const INSTALLED: [&str; 9] = [
    "usr/share/man/man1/adjunct-run.1.gz",
    "usr/share/bash-completion/completions/adjunct",
    "usr/share/man/man1/adjunct.1.gz",
    "usr/share/zsh/vendor-completions/_adjunct",
    "usr/share/fish/vendor_completions.d/adjunct.fish",
    "usr/lib/systemd/system/adjunct@.service",
    "usr/lib/udev/rules.d/60-adjunct.rules",
    "usr/share/adjunct/config.schema.json",
    "usr/share/doc/adjunct/run.md",
];

/// What `systemd-analyze security` may give the unit at most, of 100: its scale says that up to 20 is OK.
const EXPOSURE: &str = "20";

/// Has systemd check the unit, with a program and a configuration in the places that it names.
fn unit(workspace: &Path, target: &Path, report: &mut Report) {
    let source = workspace.join("dist/adjunct@.service");
    let run =
        |arguments: &[&str], unit: &Path| Command::new("systemd-analyze").args(arguments).arg(unit).output();
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        report.check(Verdict::Skipped, "unit", "this machine has no systemd-analyze");
        return;
    }
    let prepare = || -> Result<PathBuf> {
        // systemd looks for the program that the unit names; here it is `true`.
        let directory = target.join("unit");
        fs::create_dir_all(&directory)?;
        let unit = directory.join("adjunct@check.service");
        fs::write(&unit, fs::read_to_string(&source)?.replace("/usr/bin/adjunct", "/bin/true"))?;
        Ok(unit)
    };
    let unit = match prepare() {
        Ok(unit) => unit,
        Err(e) => return report.expect(false, "unit", &format!("{e:#}")),
    };
    match run(&["verify", "--man=no"], &unit) {
        Err(e) => report.check(Verdict::Skipped, "unit", &e.to_string()),
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            // What systemd says of the machine's other units is not ours.
            let ours: Vec<_> = errors.lines().filter(|line| line.contains("adjunct@")).collect();
            report.expect(ours.is_empty(), "unit", &format!("systemd-analyze verify {}", ours.join("; ")));
        }
    }
    match run(&["security", "--offline=true", "--no-pager", &format!("--threshold={EXPOSURE}")], &unit) {
        Err(e) => report.check(Verdict::Skipped, "unit", &e.to_string()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let overall = text.lines().last().unwrap_or_default().trim().to_owned();
            report.expect(output.status.success(), "unit", &format!("systemd-analyze security: {overall}"));
        }
    }
}

/// Has udev check the rules; `udevadm verify` came with systemd 254.
fn udev_rules(workspace: &Path, report: &mut Report) {
    let rules = workspace.join("dist/60-adjunct.rules");
    let told = Command::new("udevadm").args(["verify", "--help"]).output();
    if !told.is_ok_and(|output| output.status.success()) {
        return report.check(Verdict::Skipped, "udev rules", "this machine has no udevadm verify");
    }
    match run(Command::new("udevadm").args(["verify"]).arg(&rules)) {
        Ok(_) => report.expect(true, "udev rules", "udevadm verify finds nothing wrong"),
        Err(e) => report.expect(false, "udev rules", &format!("{e:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elf_headers() {
        let mut file = vec![0; 64 + 2 * 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x02");
        file[19] = 22;
        file[39] = 64;
        (file[55], file[57]) = (56, 2);
        file[64..68].copy_from_slice(&[0x70, 0, 0, 0]);
        file[64 + 56 + 3] = 1;
        assert_eq!(elf(&file), Some((EM_S390, vec![PT_S390_PGSTE, 1])));
        // Cut short anywhere, little-endian, or with a table far outside: none.
        for length in 0..64 + 56 + 4 {
            assert_eq!(elf(&file[..length]), None, "{length}");
        }
        let changed = |at: usize, value| {
            let mut file = file.clone();
            file[at] = value;
            elf(&file)
        };
        assert_eq!((changed(5, 1), changed(4, 1), changed(32, 0xff)), (None, None, None));
    }
}
