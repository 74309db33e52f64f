//! What is made from the command line's own description: manual pages, completions, the configuration's schema.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::{Shell, generate};
use vmm::Options;

use crate::{BAD_ARGUMENTS, Cli, HOST_FAILURE};

/// Where to.
#[derive(clap::Args)]
pub struct Arguments {
    /// Directory that gets `man1/`, `completions/` and `config.schema.json`
    directory: PathBuf,
}

/// For which shell.
#[derive(clap::Args)]
pub struct CompletionArguments {
    /// bash, zsh or fish
    shell: Shell,
}

/// Writes everything into a directory; the exit status.
pub fn main(arguments: &Arguments) -> u8 {
    match write(&arguments.directory) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("adjunct: write below {}: {e}", arguments.directory.display());
            HOST_FAILURE
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    let (manual, completions) = (directory.join("man1"), directory.join("completions"));
    fs::create_dir_all(&manual)?;
    fs::create_dir_all(&completions)?;
    // One page for each subcommand, of any depth, that is not hidden.
    clap_mangen::generate_to(Cli::command(), &manual)?;
    for (shell, name) in [(Shell::Bash, "adjunct"), (Shell::Zsh, "_adjunct"), (Shell::Fish, "adjunct.fish")] {
        fs::write(completions.join(name), completion(shell))?;
    }
    fs::write(directory.join("config.schema.json"), schema())
}

/// Prints a completion script; the exit status.
pub fn completions(arguments: &CompletionArguments) -> u8 {
    if ![Shell::Bash, Shell::Zsh, Shell::Fish].contains(&arguments.shell) {
        eprintln!("adjunct: no completions for {}; give bash, zsh or fish", arguments.shell);
        return BAD_ARGUMENTS;
    }
    print(&completion(arguments.shell))
}

fn completion(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "adjunct", &mut script);
    script
}

/// Prints the schema of the configuration file; the exit status.
pub fn config_schema() -> u8 {
    print(schema().as_bytes())
}

fn schema() -> String {
    let mut schema = Options::schema().to_value();
    // Which there are, only the CPU back end knows.
    schema["properties"]["cpu-model"]["enum"] = cpu::CpuModel::names().into_iter().collect();
    serde_json::to_string_pretty(&schema).expect("a schema is a JSON value") + "\n"
}

/// A reader that has seen enough is no failure.
fn print(text: &[u8]) -> u8 {
    match io::stdout().write_all(text) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("adjunct: write to standard output: {e}");
            HOST_FAILURE
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_subcommand_has_a_page_and_is_completed() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        let read = |path: String| fs::read_to_string(directory.path().join(&path)).expect(&path);
        let command = Cli::command();
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let page = read(format!("man1/adjunct-{name}.1"));
            assert!(page.contains(".SH SYNOPSIS"), "{name}");
            for script in ["adjunct", "_adjunct", "adjunct.fish"] {
                assert!(read(format!("completions/{script}")).contains(name), "{name} in {script}");
            }
        }
        assert!(read("man1/adjunct.1".into()).contains("adjunct\\-run(1)"));
        assert!(read("completions/adjunct".into()).contains("--shutdown-timeout"));
    }

    #[test]
    fn the_schema_has_the_flags() {
        let schema = serde_json::to_value(Options::schema()).unwrap();
        let fields: BTreeSet<&str> =
            schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let command = Cli::command();
        let run = command.get_subcommands().find(|command| command.get_name() == "run").unwrap();
        let flags: BTreeSet<&str> = run
            .get_arguments()
            .filter_map(|argument| argument.get_long())
            .filter(|flag| *flag != "config")
            .collect();
        assert_eq!(fields, flags);
        assert_eq!(schema["additionalProperties"], false);
        for field in fields {
            assert!(schema["properties"][field]["description"].is_string(), "{field}");
        }
    }
}
