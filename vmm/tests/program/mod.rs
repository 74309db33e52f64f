//! How tests start `adjunct`.

use std::process::Command;

/// The words of the program, behind what runs programs of another architecture than the kernel's:
/// `ADJUNCT_RUNNER`.
pub fn words() -> Vec<String> {
    let runner = std::env::var("ADJUNCT_RUNNER").ok().into_iter();
    runner.chain([env!("CARGO_BIN_EXE_adjunct").to_owned()]).collect()
}

/// The program, without arguments.
pub fn command() -> Command {
    let words = words();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}
