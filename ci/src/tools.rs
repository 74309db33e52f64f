//! What the commands need on the host: packages to build with, and programs to compare with.
//!
//! Libraries that a build links with are installed on the machine. Programs that only tests and measurements run
//! (QEMU, the cross tools for s390x) are unpacked below `target/tools` instead, where they disturb nothing and
//! need no privilege; programs that the machine already has are used as they are.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::apt::{Apt, run, spinner};
use crate::deb;

/// What building `adjunct` links with: package and a command that succeeds where it is installed.
const BUILD: [(&str, &[&str]); 2] =
    [("pkg-config", &["pkg-config", "--version"]), ("libssl-dev", &["pkg-config", "--exists", "openssl"])];

/// A program that tests or measurements run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tool {
    /// QEMU's machine emulator for s390x, release 10 or newer: older ones have many bugs in their CPU.
    Qemu,
    /// Disassembler and linker for s390x.
    Binutils,
    /// C compiler for s390x.
    Gcc,
    /// QEMU's user emulation of s390x, of the same releases.
    QemuUser,
    /// Terminals for the tests of programs that fill a screen.
    Tmux,
    /// Copies bytes between a terminal and a socket: a management client by hand.
    Socat,
}

impl Tool {
    /// The name one calls it by.
    pub fn program(self) -> &'static str {
        match self {
            Tool::Qemu => "qemu-system-s390x",
            Tool::Binutils => "s390x-linux-gnu-objdump",
            Tool::Gcc => "s390x-linux-gnu-gcc",
            Tool::QemuUser => "qemu-s390x",
            Tool::Tmux => "tmux",
            Tool::Socat => "socat",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Tool::Qemu => "qemu-system-s390x",
            Tool::Binutils => "binutils-s390x-linux-gnu",
            Tool::Gcc => "gcc-s390x-linux-gnu",
            Tool::QemuUser => "qemu-user",
            Tool::Tmux => "tmux",
            Tool::Socat => "socat",
        }
    }
}

/// Installs what a build needs and is missing, as root or through sudo.
pub fn build_packages() -> Result<()> {
    let succeeds = |command: &[&str]| {
        let (program, arguments) = command.split_first().expect("commands are not empty");
        let status =
            Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|s| s.success())
    };
    let missing: Vec<&str> =
        BUILD.iter().filter(|(_, test)| !succeeds(test)).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let root = run(Command::new("id").arg("-u"))?.trim() == "0";
    let mut prefix = Vec::new();
    if !root {
        ensure!(
            succeeds(&["sudo", "-n", "true"]) || std::io::IsTerminal::is_terminal(&std::io::stdin()),
            "the build needs {list}, and this user may not install packages: run `apt-get install {list}` as root"
        );
        prefix.push("sudo");
    }
    eprintln!("installing {list}");
    let apt = |arguments: &[&str]| -> Result<bool> {
        let mut words = prefix.clone();
        words.extend([
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-q",
            "-o",
            "DPkg::Lock::Timeout=300",
        ]);
        words.extend(arguments);
        let output = Command::new(words[0]).args(&words[1..]).output();
        let output = output.with_context(|| format!("install {list}: is this a Debian machine?"))?;
        if !output.status.success() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(output.status.success())
    };
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&missing);
    // Lists that were never fetched, or that name files gone since, are the usual reason for a first failure.
    if apt(&install)? || apt(&["update"])? && apt(&install)? {
        return Ok(());
    }
    bail!("apt-get could not install {list}: see above")
}

/// The path of `tool`: the machine's own if it is good enough, else one unpacked below `target`.
pub fn provide(target: &Path, tool: Tool) -> Result<PathBuf> {
    if let Some(path) = usable(tool.program().as_ref(), tool) {
        return Ok(path);
    }
    let root = target.join("tools");
    let wrapper = root.join("bin").join(tool.program());
    if let Some(path) = usable(&wrapper, tool) {
        return Ok(path);
    }
    unpack(&root, tool).with_context(|| format!("provide {}", tool.program()))?;
    usable(&wrapper, tool).with_context(|| format!("{} does not run", wrapper.display()))
}

/// Version line of a QEMU.
pub fn version(qemu: &Path) -> Result<String> {
    let text = run(Command::new(qemu).arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn usable(program: &Path, tool: Tool) -> Option<PathBuf> {
    let flag = if matches!(tool, Tool::Tmux | Tool::Socat) { "-V" } else { "--version" };
    let output = Command::new(program).arg(flag).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let recent = match tool {
        Tool::Qemu | Tool::QemuUser => qemu_release(&text)? >= 10,
        Tool::Binutils | Tool::Gcc | Tool::Tmux | Tool::Socat => true,
    };
    (output.status.success() && recent).then(|| program.to_owned())
}

/// The major release from QEMU's version text.
fn qemu_release(text: &str) -> Option<u32> {
    let version =
        text.strip_prefix("QEMU emulator version ").or_else(|| text.strip_prefix("qemu-s390x version "))?;
    version.split('.').next()?.parse().ok()
}

fn unpack(root: &Path, tool: Tool) -> Result<()> {
    let codename = codename_here()?;
    let backports = format!("{codename}-backports");
    let suites: &[&str] = if codename == "bookworm" { &["bookworm", &backports] } else { &[&codename] };
    let architecture = architecture()?;
    let apt =
        Apt::new(&root.join("apt"), suites, &architecture).with_installed(Path::new("/var/lib/dpkg/status"));
    apt.update()?;
    let names = apt.closure(&[tool.package()])?;
    let names = if names.is_empty() { vec![tool.package().to_owned()] } else { names };
    let debs = root.join("debs");
    let packages = apt.download(&names, &debs)?;
    let bar = spinner(&format!("unpacking {} packages", packages.len()));
    for package in &packages {
        deb::unpack(&debs.join(&package.file), root)?;
        fs::remove_file(debs.join(&package.file))?;
    }
    bar.finish_and_clear();
    write_wrappers(root, &triplet(&architecture))
}

/// The code name of the Debian release this machine runs.
pub fn codename_here() -> Result<String> {
    codename(&fs::read_to_string("/etc/os-release").unwrap_or_default())
        .context("this is not a Debian release whose archive is known")
}

/// Debian's name of this machine's architecture.
pub fn architecture() -> Result<String> {
    Ok(run(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned())
}

/// A script in `bin/` for each program in `usr/bin/`, which finds the libraries unpacked beside it.
pub fn write_wrappers(root: &Path, triplet: &str) -> Result<()> {
    fs::create_dir_all(root.join("bin"))?;
    for entry in fs::read_dir(root.join("usr/bin"))? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let more = if name.starts_with("qemu-system") { " -L \"$root/usr/share/qemu\"" } else { "" };
        let text = format!(
            "#!/bin/sh\nroot=$(dirname \"$(dirname \"$(readlink -f \"$0\")\")\")\n\
             libraries=$root/usr/lib/{triplet}\n\
             export LD_LIBRARY_PATH=\"$libraries:$root/lib/{triplet}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\"\n\
             export QEMU_MODULE_DIR=\"$libraries/qemu\"\n\
             export PATH=\"$root/bin:$PATH\"\n\
             exec \"$root/usr/bin/{name}\"{more} \"$@\"\n"
        );
        let path = root.join("bin").join(&*name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The directory name of an architecture's libraries.
pub fn triplet(architecture: &str) -> String {
    let machine = match architecture {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "ppc64el" => "powerpc64le",
        same => same,
    };
    format!("{machine}-linux-gnu")
}

fn codename(os_release: &str) -> Option<String> {
    let fields: BTreeMap<&str, &str> = os_release.lines().filter_map(|l| l.split_once('=')).collect();
    (fields.get("ID").map(|id| id.trim_matches('"')) == Some("debian"))
        .then(|| fields.get("VERSION_CODENAME").map(|name| name.trim_matches('"').to_owned()))?
}

/// `PATH` with the unpacked tools behind the machine's own programs.
pub fn search_path(target: &Path) -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":");
    path.push(target.join("tools/bin"));
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_releases_are_told_apart() {
        let check = |text, expected| assert_eq!(qemu_release(text), expected, "{text}");
        check("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright", Some(10));
        check("QEMU emulator version 7.2.9", Some(7));
        check("qemu-s390x version 10.0.2 (Debian 1:10.0.2+ds-2)", Some(10));
        check("something else", None);
    }

    #[test]
    fn only_debian_has_a_codename_here() {
        let check = |text, expected: Option<&str>| assert_eq!(codename(text).as_deref(), expected, "{text}");
        check("ID=debian\nVERSION_CODENAME=bookworm\n", Some("bookworm"));
        check("ID=ubuntu\nVERSION_CODENAME=noble\n", None);
        check("ID=debian\n", None);
        check("", None);
    }
}
