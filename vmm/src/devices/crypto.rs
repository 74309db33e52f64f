//! AP: the simulated host's cards, and the guest's view of them, which is its CRYCB.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use ap::card::{OpensslRandom, Random, SeededRandom};
use ap::host::remote::VmClient;
use ap::host::{ApHost, Description, Guest, HostError, Lpar, MatrixChange, Operation, Snapshot, Wake, Watch};
use ap::lock::{Rank, RankedGuard, RankedMutex};
use ap::passthrough::{Given, MdevName};
use ap::{ApMachine, GuestAp, GuestCrycb, Hardware, Notifier};
use crycb::{Crycb, CrycbFormat, Matrix, QciFlags};
use css::Css;
use machine::{Clock, Exit, Outcome, Storage, Vcpu, Vm};
use uuid::Uuid;
use zarch::FacilityList;

use super::remote_host::RemoteHost;
use crate::ap_control::{ApControl, Plugged, simulated};
use crate::config::{BadArgument, Config, HostSource};
use crate::control::Control;
use crate::events::Event;

/// Seed of the cards' random bytes in a run with virtual time.
const FIXED_SEED: u64 = 0x6164_6a75_6e63_7421;
/// How the guest is known to its host; in one process there is one.
const GUEST: u64 = 1;

/// The AP host with the mediated device that the guest is to get of it.
#[derive(Debug)]
pub struct Attachment {
    host: Source,
    /// The device; none until an operator plugs one.
    mdev: Option<Uuid>,
}

/// Where the AP host is.
#[derive(Debug)]
enum Source {
    /// In this process.
    Here(Box<Description>),
    /// In a daemon, to which this is the connection, and the guest's device is taken.
    Elsewhere(Box<VmClient>, PathBuf),
}

/// The device that `config` names on a simulated host.
fn simulated_mdev(config: &Config) -> Result<Option<Uuid>, BadArgument> {
    match config.ap_mdev {
        None => Ok(None),
        Some(MdevName::Uuid(mdev)) => Ok(Some(mdev)),
        Some(name) => {
            let problem = format_args!("{name}: the AP host is simulated, and has no files in /dev");
            let remedy = "give the UUID of one of its mdevs, or run on an s390x host with --accel kvm";
            Err(BadArgument::new("--ap-mdev", problem, remedy))
        }
    }
}

impl Attachment {
    /// The AP host of `config` and the mediated device that it names; `None` if the guest has no AP. That the host will
    /// give the device is tried out here, so that a bad argument is found before anything starts.
    pub fn of(config: &Config) -> Result<Option<Self>, BadArgument> {
        if !config.ap {
            return Ok(None);
        }
        let description = match &config.ap_host {
            None => Description::builtin(),
            Some(HostSource::Daemon(path)) => return Self::of_daemon(config, path).map(Some),
            Some(HostSource::File(path)) => {
                let bad = |problem: String| {
                    let problem = format!("{}: {problem}", path.display());
                    BadArgument::new("--ap-host", problem, "docs/ap-host.md describes the file")
                };
                let text = fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
                Description::from_json(&text).map_err(|e| bad(chain(&e)))?
            }
        };
        let mdev = simulated_mdev(config)?;
        let attachment = |description| Self { host: Source::Here(Box::new(description)), mdev };
        let Some(uuid) = mdev else { return Ok(Some(attachment(description))) };
        let trial = ApHost::rehearsal_of(&description);
        trial.attach(uuid, Arc::new(Nobody)).map_err(|e| {
            let remedy = "`--ap-host FILE` describes another host, see docs/ap-host.md";
            BadArgument::new("--ap-mdev", chain(&e), remedy)
        })?;
        Ok(Some(attachment(description)))
    }

    fn of_daemon(config: &Config, path: &Path) -> Result<Self, BadArgument> {
        let mut client = VmClient::join(path, &config.name).map_err(|e| {
            let remedy = "the socket of `adjunct ap-host serve` is wanted";
            BadArgument::new("--ap-host", chain(&e), remedy)
        })?;
        let mdev = simulated_mdev(config)?;
        if let Some(mdev) = mdev {
            client.attach(mdev).map_err(|e| {
                let remedy = format!("the AP host is that of unix:{}", path.display());
                BadArgument::new("--ap-mdev", chain(&e), remedy)
            })?;
        }
        Ok(Self { host: Source::Elsewhere(Box::new(client), path.into()), mdev })
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
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |e| e.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// The AP host, its hardware, and the guest's part of it.
pub struct Crypto {
    machine: Arc<ApMachine>,
    guest: Arc<ThisGuest>,
    host: Host,
}

/// The host of the guest's device.
enum Host {
    Here(Arc<Plug>),
    Elsewhere(Arc<RemoteHost>),
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
    pub(super) fn new(attachment: Attachment, to: To) -> io::Result<Self> {
        let To { storage, vm, clock, facilities, css } = to;
        let random: Arc<dyn Random> = if clock.is_virtual() {
            Arc::new(SeededRandom::new(FIXED_SEED))
        } else {
            Arc::new(OpensslRandom)
        };
        let hardware = Hardware::of(&match &attachment.host {
            Source::Here(description) => Lpar::of(description),
            Source::Elsewhere(client, _) => client.lpar().clone(),
        });
        // Wrapping-key masks are the machine's to have; only the width of the masks is a choice.
        let format = CrycbFormat::choose(true, hardware.qci.flags.has(QciFlags::APXA));
        let machine = ApMachine::new(hardware, clock, random)?;
        let crycb = Arc::new(GuestCrycb::new(&Crycb::new(format, &Matrix::EMPTY)));
        let notifier = Notifier::new(storage, vm.clone());
        let ap = GuestAp::new(crycb, facilities, notifier);
        let guest = Arc::new(ThisGuest::new(ap, vm, css));
        let device = attachment.mdev.map(|mdev| Plugged { id: Some(FIRST_ID.into()), mdev });
        let host = match attachment.host {
            Source::Here(description) => {
                let host = Arc::new(ApHost::new(&description, machine.clone()));
                let guest = guest.clone();
                let plug = Arc::new_cyclic(|plug| Plug {
                    host,
                    guest: Arc::new(Asked { guest, plug: plug.clone() }),
                    device: RankedMutex::new(Rank::Device, None),
                    changing: RankedMutex::new(Rank::Plugging, ()),
                });
                if let Some(device) = device {
                    plug.attach(&device).map_err(io::Error::other)?;
                }
                Host::Here(plug)
            }
            Source::Elsewhere(client, path) => {
                let host = RemoteHost::new(*client, path, device, guest.clone(), machine.clone())?;
                Host::Elsewhere(Arc::new(host))
            }
        };
        Ok(Self { machine, guest, host })
    }

    pub(super) fn execute(&self, cpu: &mut dyn Vcpu, exit: &Exit) -> Option<Outcome> {
        self.machine.execute(cpu, exit, &self.guest.ap)
    }

    /// Subsystem reset: of every queue of the mediated device.
    pub(super) fn reset(&self) {
        let Some(Plugged { mdev, .. }) = self.control().plugged() else { return };
        let plug = match &self.host {
            Host::Here(plug) => plug,
            Host::Elsewhere(host) => {
                if !host.reset_device() {
                    self.machine.reset_guest(&self.guest.ap);
                }
                return;
            }
        };
        match plug.host.reset_device(mdev) {
            Ok(()) | Err(HostError::UnknownMdev { .. }) => {}
            Err(error) => log::warn!("subsystem reset: {error}"),
        }
    }

    /// For operators: the host, and the guest's device on it.
    pub fn control(&self) -> Arc<dyn ApControl> {
        match &self.host {
            Host::Here(plug) => plug.clone(),
            Host::Elsewhere(host) => host.clone(),
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

    /// The host, whose operations change what the guest may reach; `None` when it is another process.
    pub fn host(&self) -> Option<&Arc<ApHost>> {
        match &self.host {
            Host::Here(plug) => Some(&plug.host),
            Host::Elsewhere(_) => None,
        }
    }
}

/// What `device_del` calls the device that the guest was started with.
pub(super) const FIRST_ID: &str = "ap0";

/// The guest's device, and the host that it is of.
struct Plug {
    host: Arc<ApHost>,
    guest: Arc<Asked>,
    device: RankedMutex<Option<Plugged>>,
    /// Held by who plugs or unplugs, so that `device` says what the host says.
    changing: RankedMutex<()>,
}

impl Plug {
    fn device(&self) -> RankedGuard<'_, Option<Plugged>> {
        self.device.lock()
    }

    fn attach(&self, device: &Plugged) -> Result<(), HostError> {
        if self.device().is_none() {
            self.guest.guest.expect(device.mdev);
        }
        self.host.attach(device.mdev, self.guest.clone())?;
        *self.device() = Some(device.clone());
        Ok(())
    }
}

impl ApControl for Plug {
    fn snapshot(&self) -> Result<Snapshot, HostError> {
        Ok(self.host.snapshot())
    }

    fn execute(&self, operation: &Operation) -> Result<(), HostError> {
        self.host.execute(operation)
    }

    fn plug(&self, device: Given, id: Option<String>) -> Result<(), HostError> {
        let device = Plugged { id, mdev: simulated(&device)? };
        let _changing = self.changing.lock();
        self.attach(&device)?;
        self.guest.config_changed();
        Ok(())
    }

    fn unplug(&self, device: &Plugged) -> Result<(), HostError> {
        let _changing = self.changing.lock();
        if self.plugged().as_ref() != Some(device) {
            return Err(HostError::NotAttached(device.mdev));
        }
        self.host.detach(device.mdev)?;
        *self.device() = None;
        self.guest.config_changed();
        Ok(())
    }

    fn report_to(&self, run: Arc<Control>) {
        self.guest.guest.report_to(run);
    }

    fn plugged(&self) -> Option<Plugged> {
        self.device().clone()
    }

    fn subscribe(&self, wake: Wake) -> Watch {
        self.host.subscribe_and_wake(wake)
    }
}

/// The guest as its host reaches it.
pub(super) struct ThisGuest {
    ap: GuestAp,
    vm: Arc<dyn Vm>,
    css: Arc<Css>,
    has: RankedMutex<Has>,
    /// Who is told what the guest gets and loses.
    run: OnceLock<Arc<Control>>,
}

/// What a guest may reach.
struct Has {
    /// Through this device.
    mdev: Uuid,
    matrix: Matrix,
}

impl ThisGuest {
    fn new(ap: GuestAp, vm: Arc<dyn Vm>, css: Arc<Css>) -> Self {
        let nothing = Has { mdev: Uuid::nil(), matrix: Matrix::EMPTY };
        Self { ap, vm, css, has: RankedMutex::new(Rank::Device, nothing), run: OnceLock::new() }
    }

    /// What the guest, which has nothing now, gets from now on is of this device.
    pub(super) fn expect(&self, mdev: Uuid) {
        self.has.lock().mdev = mdev;
    }

    /// Tells `run` from now on.
    pub(super) fn report_to(&self, run: Arc<Control>) {
        // Who comes later is told nothing.
        let _ = self.run.set(run);
    }

    /// The host has its device back.
    pub(super) fn released(&self, device: Plugged) {
        if let Some(run) = self.run.get() {
            run.events().post(Event::DeviceDeleted(device.id));
        }
    }
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
        let (mdev, before) = {
            let mut has = self.has.lock();
            (has.mdev, std::mem::replace(&mut has.matrix, *matrix))
        };
        if let Some(run) = self.run.get()
            && let Some(change) = MatrixChange::between(&before, matrix)
        {
            run.events().post(Event::ApConfigChanged { mdev, change });
        }
    }

    fn config_changed(&self) {
        self.css.ap_config_changed(&*self.vm);
    }

    /// Who has the device carries it out: [`Asked`], or the connection to another process.
    fn request(&self) {}
}

/// The guest, and what gives its device back when the host asks for it.
struct Asked {
    guest: Arc<ThisGuest>,
    plug: Weak<Plug>,
}

impl Guest for Asked {
    fn id(&self) -> u64 {
        self.guest.id()
    }

    fn set_hook(&self, present: bool) {
        self.guest.set_hook(present);
    }

    fn set_masks(&self, matrix: &Matrix) {
        self.guest.set_masks(matrix);
    }

    fn config_changed(&self) {
        self.guest.config_changed();
    }

    /// Unplugs at once: the host asks without a lock, and nobody asks who is plugging.
    fn request(&self) {
        let Some(plug) = self.plug.upgrade() else { return };
        let Some(device) = plug.plugged() else { return };
        match plug.unplug(&device) {
            Ok(()) => {
                log::info!("mdev {} given back, as its host asked", device.mdev);
                self.guest.released(device);
            }
            Err(error) => log::warn!("give mdev {} back: {error}", device.mdev),
        }
    }
}
