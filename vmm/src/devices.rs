//! The wiring: one function per device, in the order in which a machine is put together.

mod crypto;
mod remote_host;

use std::io;
use std::sync::Arc;

use css::Css;
use machine::{Clock, Exit, Outcome, Post, Storage, Vcpu, Vm};
use sclp::{Console, ConsoleSink, Consoles, Sclp};
use zarch::{FacilityList, ProgramCode};

use crate::config::{Config, ConsoleType};
pub use crypto::{Attachment, Crypto};

/// What devices are connected to.
pub struct Connections {
    /// Guest storage.
    pub storage: Arc<Storage>,
    /// The CPUs, for interruptions.
    pub vm: Arc<dyn Vm>,
    /// Guest time.
    pub clock: Arc<dyn Clock>,
    /// The guest's facilities.
    pub facilities: FacilityList,
    /// Where the guest's console writes to.
    pub output: Arc<dyn ConsoleSink>,
}

/// Everything that a guest reaches by its instructions.
pub struct Devices {
    sclp: Sclp,
    console: Console,
    css: Arc<Css>,
    crypto: Option<Crypto>,
}

impl Devices {
    /// The devices that `config` asks for, with the crypto queues of `attachment`.
    pub fn new(config: &Config, attachment: Option<Attachment>, to: Connections) -> io::Result<Self> {
        let (sclp, console) = service_processor(config, &to);
        let css = Arc::new(channel_subsystem());
        let crypto = attachment.map(|attachment| crypto_queues(attachment, to, css.clone())).transpose()?;
        Ok(Self { sclp, console, css, crypto })
    }

    /// Answers an exit that names an instruction.
    pub(crate) fn execute(
        &self,
        cpu: &mut dyn Vcpu,
        exit: &Exit,
        post: &dyn Post,
        storage: &Storage,
    ) -> Outcome {
        let crypto = self.crypto.as_ref();
        crypto
            .and_then(|crypto| crypto.execute(cpu, exit))
            .or_else(|| self.sclp.execute(cpu, exit, post, storage))
            .or_else(|| self.css.execute(cpu, exit, post, storage))
            // The instructions of a device that is not there.
            .unwrap_or(Outcome::Program(ProgramCode::Operation.into()))
    }

    /// Subsystem reset.
    pub(crate) fn reset(&self) {
        self.sclp.reset();
        self.css.reset();
        if let Some(crypto) = &self.crypto {
            crypto.reset();
        }
    }

    /// How many bytes of console input the guest has room for.
    pub(crate) fn input_room(&self) -> usize {
        self.sclp.input_room(self.console)
    }

    /// Console input.
    pub(crate) fn input(&self, bytes: &[u8], post: &dyn Post) {
        self.sclp.input(self.console, bytes, post);
    }

    /// Bytes of console input that the guest had no room for.
    pub(crate) fn dropped_input(&self) -> u64 {
        self.sclp.dropped_input()
    }

    /// Asks the guest to power off; whether it listens.
    pub(crate) fn quiesce(&self, post: &dyn Post) -> bool {
        self.sclp.quiesce(post)
    }

    /// The guest's crypto queues, if it has any.
    pub fn crypto(&self) -> Option<&Crypto> {
        self.crypto.as_ref()
    }
}

fn service_processor(config: &Config, to: &Connections) -> (Sclp, Console) {
    let cpus = u8::try_from(config.cpus).expect("a configuration has at most 240 CPUs");
    let output = Some(to.output.clone());
    let (console, consoles) = match config.console_type {
        ConsoleType::Vt220 => (Console::Vt220, Consoles { vt220: output, line_mode: None }),
        ConsoleType::LineMode => (Console::LineMode, Consoles { line_mode: output, vt220: None }),
    };
    (Sclp::new(sclp::Config::new(cpus), consoles, None), console)
}

fn channel_subsystem() -> Css {
    Css::new(css::Config::default())
}

fn crypto_queues(attachment: Attachment, to: Connections, css: Arc<Css>) -> io::Result<Crypto> {
    let Connections { storage, vm, clock, facilities, .. } = to;
    Crypto::new(attachment, crypto::To { storage, vm, clock, facilities, css })
}
