//! The wiring: one function per device, in the order in which a machine is put together.

use std::fs;
use std::sync::Arc;

use ap::host::ApHost;
use crycb::Matrix;
use css::Css;
use machine::{Exit, Outcome, Post, Storage, Vcpu};
use sclp::{Console, ConsoleSink, Consoles, Sclp};
use zarch::ProgramCode;

use crate::config::{BadArgument, Config, ConsoleType};

/// The AP host with the mediated device that the guest got of it.
#[derive(Debug)]
pub struct Attachment {
    /// The host with its cards.
    pub host: ApHost,
    /// What the guest may reach: the device's matrix through the filter.
    pub matrix: Matrix,
}

/// Attaches the mediated device that `config` names, if it names one.
pub fn attach_ap(config: &Config) -> Result<Option<Attachment>, BadArgument> {
    let Some(uuid) = config.ap_mdev else { return Ok(None) };
    let mut host = match &config.ap_host {
        None => ApHost::builtin(),
        Some(path) => {
            let bad = |problem: String| {
                BadArgument::new(
                    "--ap-host",
                    format_args!("{}: {problem}", path.display()),
                    "see docs/ap-host.md",
                )
            };
            let text = fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
            ApHost::from_json(&text).map_err(|e| bad(chain(&e)))?
        }
    };
    let matrix = host.attach(uuid).map_err(|e| {
        let remedy = "name an mdev whose queues are free, or describe another host with --ap-host";
        BadArgument::new("--ap-mdev", chain(&e), remedy)
    })?;
    Ok(Some(Attachment { host, matrix }))
}

/// An error with its sources on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |e| e.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// Everything that a guest reaches by its instructions.
pub struct Devices {
    sclp: Sclp,
    console: Console,
    css: Css,
}

impl Devices {
    /// The devices that `config` asks for. The console writes to `output`.
    pub fn new(config: &Config, output: Arc<dyn ConsoleSink>) -> Self {
        let (sclp, console) = service_processor(config, output);
        Self { sclp, console, css: channel_subsystem() }
    }

    /// Answers an exit that names an instruction.
    pub(crate) fn execute(
        &self,
        cpu: &mut dyn Vcpu,
        exit: &Exit,
        post: &dyn Post,
        storage: &Storage,
    ) -> Outcome {
        if let Some(outcome) = self.sclp.execute(cpu, exit, post, storage) {
            return outcome;
        }
        if let Some(outcome) = self.css.execute(cpu, exit, post, storage) {
            return outcome;
        }
        // Without AP its instructions do not exist.
        Outcome::Program(ProgramCode::Operation.into())
    }

    /// Subsystem reset.
    pub(crate) fn reset(&self) {
        self.sclp.reset();
        self.css.reset();
    }

    /// How many bytes of console input the guest has room for.
    pub(crate) fn input_room(&self) -> usize {
        self.sclp.input_room(self.console)
    }

    /// Console input.
    pub(crate) fn input(&self, bytes: &[u8], post: &dyn Post) {
        self.sclp.input(self.console, bytes, post);
    }

    /// Asks the guest to power off; whether it listens.
    pub(crate) fn quiesce(&self, post: &dyn Post) -> bool {
        self.sclp.quiesce(post)
    }
}

fn service_processor(config: &Config, output: Arc<dyn ConsoleSink>) -> (Sclp, Console) {
    let cpus = u8::try_from(config.cpus).expect("a configuration has at most 240 CPUs");
    let (console, consoles) = match config.console_type {
        ConsoleType::Vt220 => (Console::Vt220, Consoles { vt220: Some(output), line_mode: None }),
        ConsoleType::LineMode => (Console::LineMode, Consoles { line_mode: Some(output), vt220: None }),
    };
    (Sclp::new(sclp::Config::new(cpus), consoles, None), console)
}

fn channel_subsystem() -> Css {
    Css::new(css::Config::default())
}
