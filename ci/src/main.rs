//! Developer and CI commands: `cargo xtask demo`, `build`, `test`, `clients`, `guest-tests`, `bench`, `guest`,
//! `dist`, `package`, `setup`.
//!
//! Everything these need beyond Rust is fetched here: host packages by apt, the guest as Debian packages of
//! another architecture. Nothing in this crate needs a system library, as it is compiled first.
#![forbid(unsafe_code)]

mod apt;
mod bench;
mod clients;
mod cross;
mod deb;
mod demo;
mod description;
mod fuzz;
mod guest;
mod guest_tests;
mod initramfs;
mod machine;
mod matrix;
mod package;
mod plug;
mod report;
mod rsa;
mod suite;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use guest::Guest;
use report::{Report, stage};

/// Developer and CI commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot a Debian s390x guest with emulated crypto cards, show them, use them
    Demo {
        /// No shell at the end; the exit status says whether every step was good
        #[arg(long)]
        batch: bool,
        /// Seconds until a guest counts as hung
        #[arg(long, default_value_t = 600)]
        timeout: u64,
    },
    /// Build `adjunct`, optimized
    Build {
        /// For another machine: s390x, linked statically
        #[arg(long)]
        target: Option<cross::Machine>,
    },
    /// Run every test of the project
    Test,
    /// Plug and unplug under a booted guest's traffic, which `test` does, too
    Plug {
        /// Another `adjunct` than the one of these sources, optimized
        #[arg(long)]
        adjunct: Option<PathBuf>,
    },
    /// Run the bare programs under Adjunct, under QEMU, and under Adjunct on a Linux that QEMU runs
    GuestTests {
        /// Leave out the third place
        #[arg(long)]
        no_nested: bool,
    },
    /// Give hostile inputs to readers and cards, for a time; needs Rust nightly
    Fuzz {
        /// How long, each target
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// One target only
        target: Option<String>,
    },
    /// Measure boot, computation and RSA beside QEMU
    Bench {
        /// One line of JSON per figure: name, ours, theirs, ratio
        #[arg(long)]
        json: bool,
        /// Interleaved rounds
        #[arg(long, default_value_t = 7)]
        rounds: usize,
    },
    /// Fetch Debian's s390x kernel and programs and assemble the guest below target/guest
    Guest {
        /// Ask the archive for newer packages, even if a guest is there
        #[arg(long)]
        refresh: bool,
    },
    /// Build `adjunct`, its manual pages, completions and schema below target/dist
    Dist,
    /// Make packages below target/dist
    Package {
        /// Which; both unless given
        #[arg(long = "kind")]
        kinds: Vec<package::Kind>,
        /// For another machine: s390x, as a Debian package
        #[arg(long)]
        target: Option<cross::Machine>,
        /// Make them all, unpack them, and look whether everything is where it belongs and good
        #[arg(long, conflicts_with_all = ["kinds", "target"])]
        check: bool,
    },
    /// Try management clients that others wrote on a booted guest
    Clients {
        /// Another `adjunct` than the one of these sources, optimized
        #[arg(long)]
        adjunct: Option<PathBuf>,
    },
    /// Install what builds need and fetch what tests and measurements run
    Setup,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the command found everything good.
fn run(arguments: Arguments) -> Result<bool> {
    machine::end_guests_on_signals()?;
    let (workspace, target) = (workspace(), target());
    match arguments.command {
        Command::Demo { batch, timeout } => {
            let batch = batch || !machine::interactive();
            stage("packages", tools::build_packages)?;
            let guest = stage("guest", || guest::assemble(&target, false))?;
            let adjunct = stage("adjunct, optimized", || demo::build(&workspace))?;
            let report = demo::demo(&workspace, &adjunct, &guest, batch, Duration::from_secs(timeout))?;
            println!();
            Ok(verdict(&report))
        }
        Command::Build { target: machine } => {
            let adjunct = match machine {
                None => {
                    stage("packages", tools::build_packages)?;
                    demo::build(&workspace)?
                }
                Some(cross::Machine::S390x) => {
                    let cross = stage("cross tool chain", || cross::Cross::provide(&workspace, &target))?;
                    cross.build(&workspace)?
                }
            };
            println!("{}", adjunct.display());
            Ok(true)
        }
        Command::Test => {
            let report = suite::run(&workspace, &target)?;
            Ok(verdict(&report))
        }
        Command::Plug { adjunct } => on_a_guest(&workspace, &target, adjunct, |adjunct, guest, report| {
            plug::plug(adjunct, guest, &target, report)
        }),
        Command::GuestTests { no_nested } => {
            let report = guest_tests::run(&workspace, &target, !no_nested)?;
            Ok(verdict(&report))
        }
        Command::Fuzz { seconds, target: only } => {
            tools::build_packages()?;
            let report = fuzz::run(&workspace, &target, only.as_deref(), seconds)?;
            Ok(verdict(&report))
        }
        Command::Bench { json, rounds } => {
            tools::build_packages()?;
            let guest = guest::assemble(&target, false)?;
            let adjunct = demo::build(&workspace)?;
            bench::run(&workspace, &target, &adjunct, &guest, rounds, json)?;
            Ok(true)
        }
        Command::Clients { adjunct } => on_a_guest(&workspace, &target, adjunct, |adjunct, guest, report| {
            clients::run(&target, adjunct, guest, report)
        }),
        Command::Guest { refresh } => {
            let guest = guest::assemble(&target, refresh)?;
            println!("kernel {}\ninitrd {}", guest.kernel.display(), guest.initrd.display());
            Ok(true)
        }
        Command::Dist => {
            stage("packages", tools::build_packages)?;
            println!("{}", package::dist(&workspace, &target)?.display());
            Ok(true)
        }
        Command::Package { check: true, .. } => {
            stage("packages", tools::build_packages)?;
            let mut report = Report::default();
            package::check(&workspace, &target, true, &mut report)?;
            package::check_for_s390x(&workspace, &target, &mut report)?;
            Ok(verdict(&report))
        }
        Command::Package { kinds, target: Some(cross::Machine::S390x), .. } => {
            ensure!(
                !kinds.contains(&package::Kind::Rpm),
                "packages for s390x are Debian's: leave out --kind rpm"
            );
            stage("packages", tools::build_packages)?;
            let cross = stage("cross tool chain", || cross::Cross::provide(&workspace, &target))?;
            println!("{}", package::package_for_s390x(&workspace, &target, &cross)?.display());
            Ok(true)
        }
        Command::Package { kinds, target: None, .. } => {
            stage("packages", tools::build_packages)?;
            let kinds = if kinds.is_empty() { vec![package::Kind::Deb, package::Kind::Rpm] } else { kinds };
            for kind in kinds {
                println!("{}", package::package(&workspace, &target, kind)?.display());
            }
            Ok(true)
        }
        Command::Setup => {
            stage("packages", tools::build_packages)?;
            stage("tools", || -> Result<()> {
                for tool in [tools::Tool::Qemu, tools::Tool::Binutils, tools::Tool::Gcc, tools::Tool::Tmux] {
                    println!("   {}", tools::provide(&target, tool)?.display());
                }
                Ok(())
            })?;
            stage("guest", || guest::assemble(&target, false))?;
            Ok(true)
        }
    }
}

/// Prints the total; whether all is good.
fn verdict(report: &Report) -> bool {
    println!("{}", report.total());
    report.good()
}

/// Runs `tests` with a guest and `adjunct`, which is built unless it is given.
fn on_a_guest(
    workspace: &Path,
    target: &Path,
    adjunct: Option<PathBuf>,
    tests: impl FnOnce(&Path, &Guest, &mut Report) -> Result<()>,
) -> Result<bool> {
    tools::build_packages()?;
    let guest = guest::assemble(target, false)?;
    let adjunct = adjunct.map_or_else(|| demo::build(workspace), Ok)?;
    let mut report = Report::default();
    tests(&adjunct, &guest, &mut report)?;
    Ok(verdict(&report))
}

/// The root of the workspace.
fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("ci/ has a parent").to_owned()
}

/// Where guests and other fetched things are kept, whatever CARGO_TARGET_DIR says.
fn target() -> PathBuf {
    workspace().join("target")
}
