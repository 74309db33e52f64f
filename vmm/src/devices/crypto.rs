//! AP: the simulated host's cards, and the guest's view of them, which is its CRYCB.

use std::fs;
use std::io;
use std::sync::Arc;

use ap::card::{OpensslRandom, Random, SeededRandom};
use ap::host::{ApHost, Description, Guest, HostError, Lpar};
use ap::{ApMachine, GuestAp, GuestCrycb, Hardware, Notifier};
use crycb::{Crycb, CrycbFormat, Matrix, QciFlags};
use css::Css;
use machine::{Clock, Exit, Outcome, Storage, Vcpu, Vm};
use uuid::Uuid;
use zarch::FacilityList;

use crate::config::{BadArgument, Config};

/// Seed of the cards' random bytes in a run with virtual time.
const FIXED_SEED: u64 = 0x6164_6a75_6e63_7421;
/// How the guest is known to its host; in one process there is one.
const GUEST: u64 = 1;

/// The AP host with the mediated device that the guest is to get of it.
#[derive(Debug)]
pub struct Attachment {
    /// The host and its cards.
    pub description: Description,
    /// The device.
    pub mdev: Uuid,
}

impl Attachment {
    /// The mediated device that `config` names, if it names one, on its host. That the host will give it is tried out here,
    /// so that a bad argument is found before anything starts.
    pub fn of(config: &Config) -> Result<Option<Self>, BadArgument> {
        let Some(mdev) = config.ap_mdev else { return Ok(None) };
        let description = match &config.ap_host {
            None => Description::builtin(),
            Some(path) => {
                let bad = |problem: String| {
                    let problem = format!("{}: {problem}", path.display());
                    BadArgument::new("--ap-host", problem, "docs/ap-host.md describes the file")
                };
                let text = fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
                Description::from_json(&text).map_err(|e| bad(chain(&e)))?
            }
        };
        let trial = ApHost::rehearsal_of(&description);
        trial.attach(mdev, Arc::new(Nobody)).map_err(|e| {
            let remedy = "`--ap-host FILE` describes another host, see docs/ap-host.md";
            BadArgument::new("--ap-mdev", chain(&e), remedy)
        })?;
        Ok(Some(Self { description, mdev }))
    }
}

/// A guest for trying out.
struct Nobody;

impl Guest for Nobody {
    fn id(&self) -> u64 {
        GUEST
    }
    fn set_hook(&self, _: bool) {}
    fn set_masks(&self, _: &Matrix) {}
    fn config_changed(&self) {}
    fn request(&self) {}
}

/// An error with its sources on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |e| e.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// The AP host, its hardware, and the guest's part of it.
pub struct Crypto {
    host: Arc<ApHost>,
    machine: Arc<ApMachine>,
    guest: Arc<ThisGuest>,
    mdev: Uuid,
}

/// What a [`Crypto`] is connected to.
pub(super) struct To {
    pub(super) storage: Arc<Storage>,
    pub(super) vm: Arc<dyn Vm>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) facilities: FacilityList,
    pub(super) css: Arc<Css>,
}

impl Crypto {
    /// The cards of the attachment's host, and a CRYCB that the host fills from the mediated device's matrix.
    pub(super) fn new(attachment: &Attachment, to: To) -> io::Result<Self> {
        let To { storage, vm, clock, facilities, css } = to;
        let random: Arc<dyn Random> = if clock.is_virtual() {
            Arc::new(SeededRandom::new(FIXED_SEED))
        } else {
            Arc::new(OpensslRandom)
        };
        let hardware = Hardware::of(&Lpar::of(&attachment.description));
        // Wrapping-key masks are the machine's to have; only the width of the masks is a choice.
        let format = CrycbFormat::choose(true, hardware.qci.flags.has(QciFlags::APXA));
        let machine = ApMachine::new(hardware, clock, random)?;
        let host = Arc::new(ApHost::new(&attachment.description, machine.clone()));
        let crycb = Arc::new(GuestCrycb::new(&Crycb::new(format, &Matrix::EMPTY)));
        let notifier = Notifier::new(storage, vm.clone());
        let ap = GuestAp::new(crycb, facilities, notifier);
        let guest = Arc::new(ThisGuest { ap, vm, css });
        host.attach(attachment.mdev, guest.clone()).map_err(refused)?;
        Ok(Self { host, machine, guest, mdev: attachment.mdev })
    }

    pub(super) fn execute(&self, cpu: &mut dyn Vcpu, exit: &Exit) -> Option<Outcome> {
        self.machine.execute(cpu, exit, &self.guest.ap)
    }

    /// Subsystem reset: of every queue of the mediated device.
    pub(super) fn reset(&self) {
        match self.host.reset_device(self.mdev) {
            Ok(()) | Err(HostError::UnknownMdev { .. }) => {}
            Err(error) => log::warn!("subsystem reset: {error}"),
        }
    }

    /// The bytes that decide what the guest may reach.
    pub fn crycb(&self) -> &Arc<GuestCrycb> {
        &self.guest.ap.crycb
    }

    /// The guest as its host reaches it.
    pub fn guest(&self) -> &dyn Guest {
        &*self.guest
    }

    /// The hardware, for its statistics and states.
    pub fn machine(&self) -> &Arc<ApMachine> {
        &self.machine
    }

    /// The host, whose operations change what the guest may reach.
    pub fn host(&self) -> &Arc<ApHost> {
        &self.host
    }
}

fn refused(error: HostError) -> io::Error {
    io::Error::other(error)
}

/// The guest as its host reaches it.
struct ThisGuest {
    ap: GuestAp,
    vm: Arc<dyn Vm>,
    css: Arc<Css>,
}

impl Guest for ThisGuest {
    fn id(&self) -> u64 {
        GUEST
    }

    fn set_hook(&self, present: bool) {
        self.ap.set_hook(present);
    }

    fn set_masks(&self, matrix: &Matrix) {
        self.vm.with_cpus_held(&mut || self.ap.set_masks(matrix));
    }

    fn config_changed(&self) {
        self.css.ap_config_changed(&*self.vm);
    }

    fn request(&self) {}
}
