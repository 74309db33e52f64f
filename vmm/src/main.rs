//! `adjunct`: runs s390x guests with crypto cards on any machine, and manages those that run.
#![deny(unsafe_code)]

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vmm::Options;

/// Exit status for bad arguments, which clap has too.
const BAD_ARGUMENTS: u8 = 2;
/// Exit status for what the host refused.
const HOST_FAILURE: u8 = 3;

#[derive(Parser)]
#[command(name = "adjunct", version, about = "Runs s390x guests with crypto cards on any machine")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a guest; this terminal is its console
    #[command(after_help = cli::run::AFTER_HELP)]
    Run(Box<Options>),
    /// Simulate an AP host that guests in several processes share
    #[command(subcommand)]
    ApHost(cli::ap_host::Command),
    /// Manage a running guest through its --qmp socket
    #[command(after_help = cli::ctl::AFTER_HELP)]
    Ctl(cli::ctl::Arguments),
    /// Look at an AP host and change it
    Ap(Box<cli::ap::Ap>),
    /// Watch an AP host or a guest's AP devices, and plug and unplug
    #[command(after_help = cli::top::AFTER_HELP)]
    Top(cli::top::Arguments),
    /// Watch a running guest's console and type there (run it with --console unix:SOCKET)
    #[command(after_help = cli::console::AFTER_HELP)]
    Console(cli::console::Arguments),
    /// What this host can do for guests, and what to do about what it cannot
    #[command(after_help = cli::doctor::AFTER_HELP)]
    Doctor(cli::doctor::Arguments),
    /// Tell whether a guest could be started from a configuration file
    CheckConfig(cli::check_config::Arguments),
    /// Print the JSON schema of the configuration file
    ConfigSchema,
    /// Print a completion script for a shell
    Completions(cli::documents::CompletionArguments),
    /// Write manual pages, completions and the schema, for packages
    #[command(hide = true)]
    Documents(cli::documents::Arguments),
    /// Give a terminal back when the process that has it is killed
    #[command(hide = true, name = vmm::host::GUARD_COMMAND)]
    Guard,
}

fn main() -> ExitCode {
    ExitCode::from(match Cli::parse().command {
        Command::Run(options) => cli::run::main(*options),
        Command::ApHost(command) => cli::ap_host::main(&command),
        Command::Ctl(arguments) => cli::ctl::main(&arguments),
        Command::Ap(ap) => ap.run(),
        Command::Top(arguments) => cli::top::main(&arguments),
        Command::Console(arguments) => cli::console::main(&arguments),
        Command::Doctor(arguments) => cli::doctor::main(&arguments),
        Command::CheckConfig(arguments) => cli::check_config::main(&arguments),
        Command::ConfigSchema => cli::documents::config_schema(),
        Command::Completions(arguments) => cli::documents::completions(&arguments),
        Command::Documents(arguments) => cli::documents::main(&arguments),
        Command::Guard => {
            vmm::host::guard();
            0
        }
    })
}
