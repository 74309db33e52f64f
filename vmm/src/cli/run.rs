//! `adjunct run`: a guest from its first instruction to its last.
//!
//! This is the only place that names the CPU back ends.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use ap::passthrough::kernel::{Vfio, VfioFiles};
use ap::passthrough::{self, Places};
use machine::{Clock, HostClock, Storage, Vcpu, Vm};
use vmm::devices::{Connections, CryptoSource, Devices, VfioAccess};
use vmm::host::Signals;
use vmm::qmp::{About, Server};
use vmm::{
    Accel, BadArgument, Board, Boot, Config, ConsoleTarget, Control, End, Exporter, Identity, Listener,
    LoadError, LogFile, LogWriter, Options, Output, Parts, PidFile, Surroundings, Viewers, host, sandbox,
    start_log,
};
use zarch::FacilityList;

use super::terminal::guarded;
use crate::{BAD_ARGUMENTS, HOST_FAILURE};

/// The TOD clock at the beginning of a run with virtual time: 2026-01-01 00:00:00 UTC.
const FIXED_EPOCH: u64 = (1_767_225_600 + 2_208_988_800) * 1_000_000 * 4096;

/// What `adjunct help run` ends with.
pub const AFTER_HELP: &str = "\
At a terminal: Ctrl-a h shows the keys, Ctrl-a x ends the run.

Exit status: 0 the guest powered off; 1 it crashed; 2 bad arguments; 3 the host refused something; 4 ended by a key, a
signal or a management client; 5 ended by the guest's watchdog.";

/// Runs a guest; the exit status.
pub fn main(options: Options) -> u8 {
    restore_terminal_on_panic();
    let mut typed = false;
    let run = |config: Config| {
        typed = config.console == ConsoleTarget::Stdio && host::is_terminal();
        run(&config)
    };
    let end = match options.resolve().map_err(Into::into).and_then(run) {
        Ok(end) => end,
        Err(error) => {
            // One line: what, and why.
            eprintln!("adjunct: {error:#}");
            // Of what is loaded, every bit was an argument.
            let bad = error.is::<BadArgument>() || error.is::<LoadError>();
            return if bad { BAD_ARGUMENTS } else { HOST_FAILURE };
        }
    };
    let status = end.exit_status();
    match end {
        End::PoweredOff => {}
        End::Crashed(crash) => eprintln!("adjunct: the guest crashed: {crash}"),
        End::Watchdog => eprintln!("adjunct: the guest's watchdog ran out"),
        // The guest's prompt is before it.
        End::Stopped(by) if typed => eprintln!("\nadjunct: ended by {by}"),
        End::Stopped(by) => eprintln!("adjunct: ended by {by}"),
        End::Failed(error) => eprintln!("adjunct: {:#}", anyhow::Error::from_boxed(error)),
    }
    status
}

fn restore_terminal_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        host::restore_terminal();
        print(info);
    }));
}

fn run(config: &Config) -> anyhow::Result<End> {
    let log = config.log_file.as_deref().map(|path| LogFile::open(path, false)).transpose();
    let log = log.context("--log-file")?.map(Arc::new);
    start_log(&config.log, config.log_format, log.clone())?;
    if config.console == ConsoleTarget::Stdio {
        guarded(false);
    }
    let model = cpu_model(config)?;
    let kernel = open_kernel(config)?;
    let crypto = CryptoSource::of(config, kernel.is_some(), Places::default())?;
    let boot = Boot::open(&config.kernel, config.initrd.as_deref(), &config.append)?;
    // Whoever reads the process's number may send it a signal.
    let signals = Signals::catch().context("catch signals")?;
    let _pidfile = config.pidfile.as_deref().map(PidFile::create).transpose().context("--pidfile")?;
    let storage = Arc::new(Storage::new(config.memory)?);
    let (runs_on_kvm, real_cards) = (kernel.is_some(), crypto.is_real());
    let Backend { vm, cpus, clock, machine_type, facilities, vfio } = match kernel {
        Some(kernel) => {
            let vfio = real_cards.then(passthrough::open).transpose()?;
            host_cpus(&*kernel, config, &model, storage.clone(), vfio)?
        }
        None => engine(config, model, storage.clone())?,
    };
    let Console { writer, viewers, file, name } = Console::open(&config.console).context("--console")?;
    let kvm_present = runs_on_kvm || Path::new("/dev/kvm").exists();
    let qmp = Server::bind(&config.qmp, About { kvm: runs_on_kvm, kvm_present, console: name })?;
    let metrics = config.metrics.as_ref().map(Exporter::new).transpose()?;
    // Everything that is named is open. No other thread runs yet.
    let changed = config.written().into_iter().map(|(_, path)| path.to_owned()).collect();
    ap::card::prepare_crypto();
    // KVM's file too is open; other devices of the host are plugged only where cards are real.
    sandbox::enter_process(config.sandbox, &sandbox::Paths { changed, real_cards }).context("--sandbox")?;
    ap::set_worker_entry(|| sandbox::enter_thread(sandbox::Kind::Card));
    let output = Output::new(writer)?;
    let to = Connections {
        storage: storage.clone(),
        vm: vm.clone(),
        clock: clock.clone(),
        facilities,
        output: output.clone(),
        vfio,
    };
    let devices = Devices::new(config, crypto, to).context("start the crypto cards")?;
    let control = Arc::new(Control::new(vm.clone()).context("make an event descriptor")?);
    let board = Board::new(Parts {
        storage,
        vm,
        clock,
        devices,
        control,
        boot,
        identity: Identity { name: config.name.clone(), uuid: config.uuid, machine_type, cpus: config.cpus },
        watchdog_action: config.watchdog_action,
        disassemble: cpu::table::disassemble,
    })
    .context("make the watchdog's timer")?;
    let around = Surroundings {
        signals,
        output,
        stdin: config.console == ConsoleTarget::Stdio,
        qmp,
        viewers,
        metrics,
        // The console's file is moved away only together with a log.
        logs: log.iter().cloned().chain(file.filter(|_| log.is_some())).collect(),
        shutdown_timeout: config.shutdown_timeout,
    };
    Ok(vmm::run(&Arc::new(board), cpus, around)?)
}

/// The CPU model that `config` names.
pub fn cpu_model(config: &Config) -> Result<cpu::CpuModel, BadArgument> {
    let model = cpu::CpuModel::named(&config.cpu_model).ok_or_else(|| {
        BadArgument::new(
            "--cpu-model",
            format_args!("no model '{}'", config.cpu_model),
            format_args!("give one of {}", cpu::CpuModel::names().join(", ")),
        )
    })?;
    Ok(model.with_ap(config.ap))
}

/// What executes the guest.
struct Backend {
    vm: Arc<dyn Vm>,
    cpus: Vec<Box<dyn Vcpu>>,
    /// The time that the CPUs go by.
    clock: Arc<dyn Clock>,
    /// What the guest is told that its CPUs are.
    machine_type: u16,
    facilities: FacilityList,
    /// What hands real cards to the guest, where it gets those.
    vfio: Option<VfioAccess>,
}

/// The host's KVM, if it runs the guest.
pub fn open_kernel(config: &Config) -> Result<Option<Arc<dyn kvm::kernel::Kvm>>, kvm::Error> {
    match config.accel {
        Accel::Engine => Ok(None),
        Accel::Kvm => kvm::open().map(Some),
        Accel::Auto => {
            Ok(kvm::open().inspect_err(|e| log::info!("the software engine runs the guest: {e}")).ok())
        }
    }
}

/// The software engine.
fn engine(config: &Config, model: cpu::CpuModel, storage: Arc<Storage>) -> Result<Backend, machine::Error> {
    let (machine_type, facilities) = (model.machine_type, model.facilities);
    let (machine, clock): (_, Arc<dyn Clock>) = if config.icount {
        let clock = Arc::new(cpu::VirtualClock::new(FIXED_EPOCH));
        (cpu::Machine::with_virtual_time(storage, clock.clone(), model), clock)
    } else {
        let clock = Arc::new(HostClock::new());
        (cpu::Machine::new(storage, clock.clone(), model, config.cpus), clock)
    };
    let cpus = (0..config.cpus).map(|address| machine.vcpu(address)).collect::<Result<_, _>>()?;
    Ok(Backend { vm: Arc::new(machine), cpus, clock, machine_type, facilities, vfio: None })
}

/// The host's own CPUs. `max` is all that the host offers. AP instructions go to the hardware, if its cards come by `vfio`, or
/// to the simulated cards.
fn host_cpus(
    kernel: &dyn kvm::kernel::Kvm,
    config: &Config,
    model: &cpu::CpuModel,
    storage: Arc<Storage>,
    vfio: Option<Arc<dyn Vfio>>,
) -> anyhow::Result<Backend> {
    let clock = Arc::new(HostClock::new());
    let options = kvm::Options {
        cpus: config.cpus,
        name: config.cpu_model.clone(),
        model: (config.cpu_model != "max").then_some((model.machine_type, model.facilities)),
        ap: match (config.ap, &vfio) {
            (false, _) => kvm::Ap::None,
            (true, None) => kvm::Ap::Emulated,
            (true, Some(_)) => kvm::Ap::Interpreted,
        },
        tod: clock.tod(),
        disassemble: cpu::table::disassemble,
    };
    let (machine, cpus) = kvm::Machine::new(kernel, &options, storage)?;
    let processor = *machine.processor();
    let vfio = match vfio {
        Some(vfio) => Some(VfioAccess { vfio, files: Arc::new(Files(machine.vfio_files()?)) }),
        None => None,
    };
    Ok(Backend {
        vm: Arc::new(machine),
        cpus: cpus.into_iter().map(|cpu| Box::new(cpu) as Box<dyn Vcpu>).collect(),
        clock,
        machine_type: processor.machine_type(),
        facilities: processor.facilities,
        vfio,
    })
}

/// A KVM's list of VFIO files, as the crypto devices know it.
struct Files(kvm::VfioFiles);

impl VfioFiles for Files {
    fn add(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.0.add(file)
    }

    fn remove(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.0.remove(file)
    }
}

/// Where the guest's console writes to, and who may watch and type there.
struct Console {
    writer: Box<dyn Write + Send>,
    viewers: Option<Viewers>,
    file: Option<Arc<LogFile>>,
    /// As management clients are told.
    name: String,
}

impl Console {
    fn open(target: &ConsoleTarget) -> anyhow::Result<Self> {
        let (mut viewers, mut file) = (None, None);
        let mut name = match target {
            ConsoleTarget::Stdio => "stdio".to_owned(),
            ConsoleTarget::None => "null".to_owned(),
            ConsoleTarget::File(_) => "file".to_owned(),
            ConsoleTarget::Pty => String::new(),
            // Whoever is told may be in another directory.
            ConsoleTarget::Socket(path) => format!("unix:{},server=on", std::path::absolute(path)?.display()),
        };
        let writer: Box<dyn Write + Send> = match target {
            ConsoleTarget::Stdio => Box::new(io::stdout()),
            ConsoleTarget::None => Box::new(io::sink()),
            ConsoleTarget::File(path) => {
                Box::new(LogWriter(file.insert(Arc::new(LogFile::open(path, true)?)).clone()))
            }
            ConsoleTarget::Pty => {
                let (terminal, path) = Viewers::terminal()?;
                eprintln!("adjunct: the console is at {}", path.display());
                name = format!("pty:{}", path.display());
                Box::new(viewers.insert(terminal).writer())
            }
            ConsoleTarget::Socket(path) => {
                let listener = Listener::bind("--console", path)?;
                Box::new(viewers.insert(Viewers::at(listener)?).writer())
            }
        };
        Ok(Self { writer, viewers, file, name })
    }
}

#[cfg(test)]
mod tests;
