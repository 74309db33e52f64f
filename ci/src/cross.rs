//! A cross tool chain for s390x on a machine that has Rust only.
//!
//! Four pieces, each the machine's own where it is good enough, else unpacked below `target`: Rust's standard
//! library for s390x, a C compiler that links, Debian's s390x libraries as a sysroot (C library, OpenSSL, kernel
//! headers), and QEMU's user emulation, which runs the tests. Programs are linked statically, so that they run
//! under any s390x Linux and under the emulator without its libraries.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::apt::{Apt, run};
use crate::deb;
use crate::demo;
use crate::tools::{self, Tool};

/// The only target there is a cross tool chain for.
pub const TARGET: &str = "s390x-unknown-linux-gnu";
/// The suite of the sysroot: its kernel headers know all of KVM that `kvm` uses.
const SUITE: &str = "trixie";
/// What is linked with, and nothing that these would pull in. OpenSSL's static library needs the last two.
const LIBRARIES: [&str; 7] =
    ["libc6", "libc6-dev", "linux-libc-dev", "libssl-dev", "libcrypt-dev", "zlib1g-dev", "libzstd-dev"];
/// A second compiler, where rustup is not there or cannot get the standard library: Debian's, of which
/// the security suites carry the same version for every architecture.
const RUSTC: &str = "rustc-web";
const STANDARD_LIBRARY: &str = "libstd-rust-web-dev";

/// The machines that `cargo xtask build --target` builds for.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
pub enum Machine {
    /// IBM Z and LinuxONE.
    S390x,
}

/// A Rust compiler with the libraries for s390x.
#[derive(Debug)]
pub struct Rust {
    /// Another compiler than the machine's, if the machine's has no standard library for s390x.
    rustc: Option<PathBuf>,
}

impl Rust {
    /// Finds one, or fetches it below `target`.
    pub fn provide(workspace: &Path, target: &Path) -> Result<Rust> {
        let Err(refused) = standard_library(workspace) else { return Ok(Rust { rustc: None }) };
        eprintln!("{refused:#}; taking Debian's compiler");
        let rustc = debian_rustc(target);
        let rustc = rustc.with_context(|| format!("provide a Rust compiler for {TARGET} ({refused:#})"))?;
        Ok(Rust { rustc: Some(rustc) })
    }

    /// Whether it is another one than the machine's.
    pub fn is_other(&self) -> bool {
        self.rustc.is_some()
    }

    /// Lets cargo use it.
    pub fn choose(&self, command: &mut Command) {
        if let Some(rustc) = &self.rustc {
            command.env("RUSTC", rustc).env_remove("RUSTUP_TOOLCHAIN");
        }
    }
}

/// A cross tool chain.
#[derive(Debug)]
pub struct Cross {
    rust: Rust,
    gcc: PathBuf,
    sysroot: PathBuf,
    /// QEMU's user emulation, or why there is none.
    runner: Result<PathBuf>,
    build: PathBuf,
}

impl Cross {
    /// Finds or fetches everything below `target`.
    pub fn provide(workspace: &Path, target: &Path) -> Result<Cross> {
        Ok(Cross {
            rust: Rust::provide(workspace, target)?,
            gcc: tools::provide(target, Tool::Gcc)?,
            sysroot: sysroot(target)?,
            runner: tools::provide(target, Tool::QemuUser),
            build: target.join("cross/build"),
        })
    }

    /// `cargo SUBCOMMAND --target s390x…` in `workspace`. Output goes to a directory of its own, since
    /// the other compiler's host programs must not replace those of this one.
    pub fn cargo(&self, workspace: &Path, subcommand: &str) -> Command {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(workspace).args([subcommand, "--target", TARGET]).stdin(Stdio::null());
        command.env("CARGO_TARGET_DIR", &self.build);
        self.environment(&mut command);
        command
    }

    /// This tool chain if it can run what it builds.
    pub fn with_runner(self) -> Result<Cross> {
        match self.runner {
            Ok(_) => Ok(self),
            Err(e) => Err(e),
        }
    }

    /// QEMU's user emulation, or why there is none.
    pub fn runner(&self) -> Result<&Path, String> {
        self.runner.as_deref().map_err(|e| format!("{e:#}"))
    }

    /// The optimized `adjunct`.
    pub fn build(&self, workspace: &Path) -> Result<PathBuf> {
        demo::build_with(self.cargo(workspace, "build"))
    }

    fn environment(&self, command: &mut Command) {
        let library = self.sysroot.join("usr/lib/s390x-linux-gnu");
        let mut sysroot = OsString::from("--sysroot=");
        sysroot.push(&self.sysroot);
        let mut flags = OsString::from("-Ctarget-feature=+crt-static\x1f-Clink-arg=");
        flags.push(&sysroot);
        command
            .env("CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_LINKER", &self.gcc)
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .env("CC_s390x_unknown_linux_gnu", &self.gcc)
            .env("CFLAGS_s390x_unknown_linux_gnu", &sysroot)
            .env("S390X_UNKNOWN_LINUX_GNU_OPENSSL_LIB_DIR", &library)
            .env("S390X_UNKNOWN_LINUX_GNU_OPENSSL_INCLUDE_DIR", self.sysroot.join("usr/include"))
            .env("S390X_UNKNOWN_LINUX_GNU_OPENSSL_STATIC", "1")
            .env("S390X_UNKNOWN_LINUX_GNU_OPENSSL_LIBS", "ssl:crypto:z:zstd")
            // For tests that compare with C: a compiler that finds the target's headers.
            .env("ADJUNCT_S390X_CC", &self.gcc)
            .env("ADJUNCT_S390X_SYSROOT", &self.sysroot);
        if let Ok(runner) = &self.runner {
            command.env("CARGO_TARGET_S390X_UNKNOWN_LINUX_GNU_RUNNER", runner);
            // For tests that start programs of this target themselves.
            command.env("ADJUNCT_RUNNER", runner);
        }
        self.rust.choose(command);
    }
}

/// Whether the compiler that cargo uses in `workspace` has the standard library, after rustup was asked for it.
fn standard_library(workspace: &Path) -> Result<()> {
    let there = || -> Result<bool> {
        let mut command = Command::new("rustc");
        command.current_dir(workspace).args(["--print", "target-libdir", "--target", TARGET]);
        Ok(has_library(Path::new(run(&mut command)?.trim()), "libstd-"))
    };
    if there()? {
        return Ok(());
    }
    run(Command::new("rustup").current_dir(workspace).args(["target", "add", TARGET]))?;
    ensure!(there()?, "rustup installed no standard library for {TARGET}");
    Ok(())
}

fn has_library(directory: &Path, prefix: &str) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return false };
    entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with(prefix))
}

/// Debian's compiler with the standard libraries of this machine and of s390x, below `target/cross/rust`.
fn debian_rustc(target: &Path) -> Result<PathBuf> {
    let root = target.join("cross/rust");
    let rustc = root.join("bin/rustc");
    let works = |rustc: &Path| {
        Command::new(rustc).arg("-vV").stdout(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    if works(&rustc) && has_library(&root.join(format!("usr/lib/rustlib/{TARGET}/lib")), "libstd-") {
        return Ok(rustc);
    }
    let codename = tools::codename_here()?;
    let own = [codename.clone(), format!("{codename}-security")];
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let native = Apt::new(&root.join("apt"), &own, &tools::architecture()?);
    let native = native.with_installed(Path::new("/var/lib/dpkg/status"));
    native.update()?;
    let version = native.candidate(RUSTC)?;
    let names = native.closure(&[RUSTC])?;
    for package in native.download(&names, &root.join("debs"))? {
        deb::unpack(&root.join("debs").join(&package.file), &root)?;
    }
    // Not every suite has every architecture: the first that has this upstream version for s390x.
    let mut refused = Vec::new();
    for suite in [codename.as_str(), SUITE] {
        let security = format!("{suite}-security");
        let foreign = Apt::new(&root.join(format!("apt-{suite}")), &[suite, &security], "s390x");
        let found = foreign.update().and_then(|()| {
            let theirs = foreign.candidate(STANDARD_LIBRARY)?;
            ensure!(upstream(&theirs) == upstream(&version), "{theirs} is there, {version} is wanted");
            foreign.download(&[STANDARD_LIBRARY.to_owned()], &root.join("debs"))
        });
        match found {
            Ok(packages) => {
                for package in packages {
                    deb::unpack(&root.join("debs").join(&package.file), &root)?;
                }
                tools::write_wrappers(&root, &tools::triplet(&tools::architecture()?))?;
                fs::remove_dir_all(root.join("debs"))?;
                ensure!(works(&rustc), "{} does not run", rustc.display());
                return Ok(rustc);
            }
            Err(e) => refused.push(format!("{suite}: {e:#}")),
        }
    }
    anyhow::bail!("no suite has {STANDARD_LIBRARY} {} for s390x: {}", upstream(&version), refused.join("; "))
}

/// The part of a Debian version that the upstream project gave: `1.96.0` of `1.96.0+dfsg1-1~deb12u2`.
fn upstream(version: &str) -> &str {
    version.split(['+', '-', '~']).next().unwrap_or_default()
}

/// Debian's s390x libraries and headers, below `target/cross/sysroot`.
fn sysroot(target: &Path) -> Result<PathBuf> {
    let root = target.join("cross");
    let sysroot = root.join("sysroot");
    let stamp = root.join("sysroot.packages");
    let wanted = LIBRARIES.join(" ");
    if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
        return Ok(sysroot);
    }
    let apt = Apt::new(&root.join("apt"), &[SUITE], "s390x");
    let packages = apt
        .update()
        .and_then(|()| apt.download(&LIBRARIES.map(str::to_owned), &root.join("debs")))
        .context("fetch Debian's s390x libraries")?;
    for package in &packages {
        deb::unpack(&root.join("debs").join(&package.file), &sysroot)?;
    }
    // What links in the file system's root say is under this root.
    if !sysroot.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", sysroot.join("lib"))?;
    }
    fs::remove_dir_all(root.join("debs"))?;
    fs::write(&stamp, wanted)?;
    Ok(sysroot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_versions() {
        for (version, want) in [
            ("1.96.0+dfsg1-1~deb12u2", "1.96.0"),
            ("1.96.0~dfsg-1", "1.96.0"),
            ("1.96.0-1", "1.96.0"),
            ("1.96.0", "1.96.0"),
        ] {
            assert_eq!(upstream(version), want, "{version}");
        }
    }
}
