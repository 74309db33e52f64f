//! `adjunct check-config`: whether a guest could be started from a configuration file.

use std::path::PathBuf;

use ap::passthrough::Places;
use vmm::devices::CryptoSource;
use vmm::{BadArgument, Boot, Options};

use crate::BAD_ARGUMENTS;

/// Which file.
#[derive(clap::Args)]
pub struct Arguments {
    /// A configuration file of `adjunct run --config`
    file: PathBuf,
}

/// Checks the file and everything it names; the exit status.
pub fn main(arguments: &Arguments) -> u8 {
    match check(arguments.file.clone()) {
        Ok(()) => {
            println!("{}: good", arguments.file.display());
            0
        }
        Err(error) => {
            eprintln!("adjunct: {error:#}");
            BAD_ARGUMENTS
        }
    }
}

fn check(file: PathBuf) -> anyhow::Result<()> {
    let config = Options { config: Some(file), ..Options::default() }.resolve()?;
    super::run::cpu_model(&config)?;
    let on_kvm = super::run::open_kernel(&config)?.is_some();
    CryptoSource::of(&config, on_kvm, Places::default())?;
    Boot::open(&config.kernel, config.initrd.as_deref(), &config.append)?;
    for (flag, path) in config.written() {
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => continue,
        };
        if !directory.is_dir() {
            let problem = format!("{} is no directory", directory.display());
            return Err(BadArgument::new(flag, problem, "make it, or name another").into());
        }
    }
    Ok(())
}
