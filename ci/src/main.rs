//! Developer and CI commands: `cargo xtask demo`, `test`, `bench`, `guest`, `setup`.
//!
//! Everything these need beyond Rust is fetched here: host packages by apt, the guest as Debian packages of
//! another architecture. Nothing in this crate needs a system library, as it is compiled first.
#![forbid(unsafe_code)]

mod apt;
mod deb;
mod guest;
mod initramfs;
mod rsa;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Developer and CI commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch Debian's s390x kernel and programs and assemble the guest below target/guest
    Guest {
        /// Ask the archive for newer packages, even if a guest is there
        #[arg(long)]
        refresh: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Guest { refresh } => {
            let guest = guest::assemble(&target(), refresh)?;
            println!("kernel {}\ninitrd {}", guest.kernel.display(), guest.initrd.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The root of the workspace.
fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("ci/ has a parent").to_owned()
}

/// Where guests and other fetched things are kept, whatever CARGO_TARGET_DIR says.
fn target() -> PathBuf {
    workspace().join("target")
}
