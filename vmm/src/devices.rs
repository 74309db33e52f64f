//! The wiring: one function per device, in the order in which a machine is put together.

mod crypto;
mod real_cards;
mod remote_host;

use std::io;
use std::sync::Arc;

use ap::passthrough::kernel::{Vfio, VfioFiles};
use ap::passthrough::{MdevName, Places, preflight};
use css::Css;
use machine::{Clock, Exit, Outcome, Post, Storage, Vcpu, Vm};
use sclp::{Console, ConsoleSink, Consoles, Sclp};
use zarch::{FacilityList, ProgramCode};

use crate::ap_control::ApControl;
use crate::config::{BadArgument, Config, ConsoleType};
use crate::console::{Counts, Output};
pub use crypto::{Attachment, Crypto};
pub use real_cards::RealCards;

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
    pub output: Arc<Output>,
    /// What real cards need.
    pub vfio: Option<VfioAccess>,
}

/// Where the guest's crypto queues come from.
pub enum CryptoSource {
    /// There are none, and no AP instructions.
    None,
    /// Simulated cards.
    Simulated(Attachment),
    /// The host's own cards, with the device that is opened at the start. It has been looked at.
    Real(Places, Option<MdevName>),
}

impl CryptoSource {
    /// What `config` asks for. With KVM (`on_kvm`) these are the host's own cards, where it has an AP bus and no simulated
    /// host is named. What would keep the device from being opened is found here, with the commands that cure it.
    pub fn of(config: &Config, on_kvm: bool, places: Places) -> Result<Self, BadArgument> {
        if !(on_kvm && config.ap && config.ap_host.is_none() && places.has_ap()) {
            return Ok(Attachment::of(config)?.map_or(Self::None, Self::Simulated));
        }
        if let Some(name) = config.ap_mdev {
            preflight(&places, name).map_err(|problems| {
                let error = ap::passthrough::Error::Preflight(problems);
                let remedy = "or have simulated cards with --ap-host FILE, see docs/ibm-z.md";
                BadArgument::new("--ap-mdev", error, remedy)
            })?;
        }
        Ok(Self::Real(places, config.ap_mdev))
    }

    /// Whether the hardware executes the guest's AP instructions.
    pub fn is_real(&self) -> bool {
        matches!(self, Self::Real(..))
    }
}

/// What hands real cards to a guest.
pub struct VfioAccess {
    /// The host's VFIO.
    pub vfio: Arc<dyn Vfio>,
    /// The VM's list of VFIO files.
    pub files: Arc<dyn VfioFiles>,
}

/// Everything that a guest reaches by its instructions.
pub struct Devices {
    sclp: Sclp,
    console: Console,
    output: Arc<Output>,
    css: Arc<Css>,
    crypto: Option<Crypto>,
    /// Instead of `crypto`.
    real_cards: Option<Arc<RealCards>>,
}

impl Devices {
    /// The devices that `config` asks for, with the crypto queues of `source`.
    pub fn new(config: &Config, source: CryptoSource, to: Connections) -> io::Result<Self> {
        let (sclp, console) = service_processor(config, &to);
        let output = to.output.clone();
        let css = Arc::new(channel_subsystem());
        let (mut crypto, mut real_cards) = (None, None);
        match source {
            CryptoSource::None => {}
            CryptoSource::Simulated(attachment) => {
                crypto = Some(crypto_queues(attachment, to, css.clone())?);
            }
            CryptoSource::Real(places, name) => {
                real_cards = Some(Arc::new(host_queues(places, name, to, css.clone())?));
            }
        }
        Ok(Self { sclp, console, output, css, crypto, real_cards })
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

    /// Subsystem reset, with the interruptions that devices have made pending at `post`.
    pub(crate) fn reset(&self, post: &dyn Post) {
        // A card may raise an interruption until it has been reset. The others raise one for what they have to tell, once:
        // were it cleared after they have been reset, what came in between would never be told.
        if let Some(crypto) = &self.crypto {
            crypto.reset();
        }
        if let Some(cards) = &self.real_cards {
            cards.reset();
        }
        post.clear();
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

    /// What became of console output.
    pub(crate) fn output_counts(&self) -> Counts {
        self.output.counts()
    }

    /// Bytes of console input that the guest had no room for.
    pub(crate) fn dropped_input(&self) -> u64 {
        self.sclp.dropped_input()
    }

    /// Asks the guest to power off; whether it listens.
    pub(crate) fn quiesce(&self, post: &dyn Post) -> bool {
        self.sclp.quiesce(post)
    }

    /// The AP host, and the guest's device on it, if the guest has AP instructions.
    pub fn ap(&self) -> Option<Arc<dyn ApControl>> {
        let real = self.real_cards.clone().map(|cards| cards as Arc<dyn ApControl>);
        real.or_else(|| self.crypto.as_ref().map(Crypto::control))
    }

    /// The guest's simulated crypto queues, if it has any.
    pub fn crypto(&self) -> Option<&Crypto> {
        self.crypto.as_ref()
    }
}

fn service_processor(config: &Config, to: &Connections) -> (Sclp, Console) {
    let cpus = u8::try_from(config.cpus).expect("a configuration has at most 240 CPUs");
    let output: Option<Arc<dyn ConsoleSink>> = Some(to.output.clone());
    let (console, consoles) = match config.console_type {
        ConsoleType::Vt220 => (Console::Vt220, Consoles { vt220: output, line_mode: None }),
        ConsoleType::LineMode => (Console::LineMode, Consoles { line_mode: output, vt220: None }),
    };
    (Sclp::new(sclp::Config::new(cpus), consoles, None), console)
}

fn channel_subsystem() -> Css {
    Css::new(css::Config::default())
}

fn host_queues(
    places: Places,
    name: Option<MdevName>,
    to: Connections,
    css: Arc<Css>,
) -> io::Result<RealCards> {
    let Connections { storage, vm, vfio, .. } = to;
    let VfioAccess { vfio, files } = vfio.expect("whoever chooses real cards brings VFIO");
    RealCards::new(name, real_cards::To { places, vfio, files, storage, vm, css })
}

fn crypto_queues(attachment: Attachment, to: Connections, css: Arc<Css>) -> io::Result<Crypto> {
    let Connections { storage, vm, clock, facilities, .. } = to;
    Crypto::new(attachment, crypto::To { storage, vm, clock, facilities, css })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;
    use std::fs;

    /// Where the queues of a guest with these options come from, on a host with these directories.
    fn source(options: Options, on_kvm: bool, directories: &[&str]) -> Result<&'static str, String> {
        let root = tempfile::tempdir().unwrap();
        for directory in directories {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let config = Options { kernel: Some("k".into()), ..options }.resolve().unwrap();
        match CryptoSource::of(&config, on_kvm, Places::below(root.path())) {
            Ok(CryptoSource::None) => Ok("none"),
            Ok(CryptoSource::Simulated(_)) => Ok("simulated"),
            Ok(CryptoSource::Real(..)) => Ok("real"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn who_has_real_cards() {
        let bus = &["sys/bus/ap"][..];
        let ap = || Options { ap: Some(true), ..Options::default() };
        let named = |name: &str| Options { ap_mdev: Some(name.into()), ..Options::default() };
        assert_eq!(source(Options::default(), true, bus).unwrap(), "none");
        assert_eq!(source(ap(), true, bus).unwrap(), "real");
        assert_eq!(source(ap(), false, bus).unwrap(), "simulated");
        assert_eq!(source(ap(), true, &[]).unwrap(), "simulated", "a host without AP");
        let error = source(named("/dev/vfio/5"), false, bus).unwrap_err();
        assert!(error.contains("/dev/vfio/5: the AP host is simulated") && error.contains("UUID"), "{error}");
        let error = source(named("/dev/vfio/5"), true, bus).unwrap_err();
        assert!(
            error.starts_with("--ap-mdev: vfio_ap is not loaded") && error.contains("modprobe vfio_ap"),
            "{error}"
        );
        let matrix = &["sys/bus/ap", "sys/devices/vfio_ap/matrix"];
        let error = source(named("62177883-f1bb-47f0-914d-32a22e3a8804"), true, matrix).unwrap_err();
        assert!(error.contains("there is no mdev 62177883") && error.contains("mdevctl start"), "{error}");
    }
}
