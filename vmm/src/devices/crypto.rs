//! AP: the simulated host's cards, and the guest's view of them, which is its CRYCB.

use std::fs;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use ap::card::{OpensslRandom, Random, SeededRandom};
use ap::host::ApHost;
use ap::{ApMachine, GuestAp, GuestCrycb, Hardware, Notifier};
use crycb::{Crycb, CrycbFormat, Matrix, QciFlags};
use machine::{Clock, Exit, Outcome, Storage, Vcpu, Vm};
use zarch::FacilityList;

use crate::config::{BadArgument, Config};

/// Seed of the cards' random bytes in a run with virtual time.
const FIXED_SEED: u64 = 0x6164_6a75_6e63_7421;

/// The AP host with the mediated device that the guest got of it.
#[derive(Debug)]
pub struct Attachment {
    /// The host with its cards.
    pub host: ApHost,
    /// What the guest may reach: the device's matrix through the filter.
    pub matrix: Matrix,
}

impl Attachment {
    /// Attaches the mediated device that `config` names, if it names one.
    pub fn of(config: &Config) -> Result<Option<Self>, BadArgument> {
        let Some(uuid) = config.ap_mdev else { return Ok(None) };
        let mut host = match &config.ap_host {
            None => ApHost::builtin(),
            Some(path) => {
                let bad = |problem: String| {
                    let problem = format!("{}: {problem}", path.display());
                    BadArgument::new("--ap-host", problem, "docs/ap-host.md describes the file")
                };
                let text = fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
                ApHost::from_json(&text).map_err(|e| bad(chain(&e)))?
            }
        };
        let matrix = host.attach(uuid).map_err(|e| {
            let remedy = "`--ap-host FILE` describes another host, see docs/ap-host.md";
            BadArgument::new("--ap-mdev", chain(&e), remedy)
        })?;
        Ok(Some(Self { host, matrix }))
    }
}

/// An error with its sources on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |e| e.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// The AP hardware with the guest's part of it.
pub struct Crypto {
    machine: Arc<ApMachine>,
    guest: GuestAp,
    /// Read by whoever executes an AP instruction, so that the CRYCB does not change under it: a CPU
    /// that has left the back end for an instruction counts as held off.
    executing: RwLock<()>,
}

impl Crypto {
    /// The cards of the attachment's host, and a CRYCB with its matrix.
    pub fn new(
        attachment: &Attachment,
        storage: Arc<Storage>,
        vm: Arc<dyn Vm>,
        clock: Arc<dyn Clock>,
        facilities: FacilityList,
    ) -> io::Result<Self> {
        let random: Arc<dyn Random> = if clock.is_virtual() {
            Arc::new(SeededRandom::new(FIXED_SEED))
        } else {
            Arc::new(OpensslRandom)
        };
        let hardware = Hardware::of(&attachment.host);
        // Wrapping-key masks are the machine's to have; only the width of the masks is a choice.
        let format = CrycbFormat::choose(true, hardware.qci.flags.has(QciFlags::APXA));
        let crycb = Arc::new(GuestCrycb::new(&Crycb::new(format, &attachment.matrix)));
        let notifier = Notifier { storage, post: vm };
        Ok(Self {
            machine: ApMachine::new(hardware, clock, random)?,
            guest: GuestAp { crycb, facilities, notifier },
            executing: RwLock::new(()),
        })
    }

    pub(super) fn execute(&self, cpu: &mut dyn Vcpu, exit: &Exit) -> Option<Outcome> {
        let _reading = self.executing.read().unwrap_or_else(PoisonError::into_inner);
        self.machine.execute(cpu, exit, &self.guest)
    }

    /// Subsystem reset: of every queue that the guest may reach.
    pub(super) fn reset(&self) {
        self.machine.reset_guest(&self.guest);
    }

    /// Rewrites the CRYCB so that the guest may reach `matrix`, while no CPU executes.
    pub(super) fn replace(&self, vm: &dyn Vm, matrix: &Matrix) {
        vm.with_cpus_held(&mut || {
            let _alone = self.executing.write().unwrap_or_else(PoisonError::into_inner);
            let mut crycb = self.guest.crycb.crycb();
            crycb.set_matrix(matrix);
            self.guest.crycb.replace(&crycb);
        });
    }

    /// The bytes that decide what the guest may reach.
    pub fn crycb(&self) -> &GuestCrycb {
        &self.guest.crycb
    }

    /// The hardware, for its statistics and states.
    pub fn machine(&self) -> &ApMachine {
        &self.machine
    }
}
