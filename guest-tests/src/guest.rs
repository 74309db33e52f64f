//! A machine as `adjunct run` puts it together, and its run in threads of the test.

use std::io::Write;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::ap::GuestCrycb;
use ::ap::host::ApHost;
use ::ap::passthrough::Places;
use cpu::CpuModel;
use crycb::Matrix;
use machine::{Clock, HostClock, Storage, Vcpu, VcpuState, Vm};
use uuid::Uuid;
use vmm::devices::{Connections, CryptoSource, Devices};
use vmm::{Board, Boot, Control, End, Identity, Options, Output, Parts, WatchdogAction};
use zarch::{AbsoluteAddress, Psw, lowcore, psw_bits};

use crate::Program;

/// PSW mask of 64-bit addressing, everything else off.
pub const MODE_64: u64 = psw_bits::EA | psw_bits::BA;
/// Guest storage in bytes.
const STORAGE: u64 = 8 << 20;
/// Longest time that a program may take. Two CPUs that wait for each other thousands of times may have to wait for a time slice
/// each time.
const PATIENCE: Duration = Duration::from_secs(300);
/// Where the program-interruption new PSW leads unless the program has a label `program`: a crash.
const UNEXPECTED: u64 = 0xbad;

/// The guest's crypto queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ap {
    /// None, and no AP instructions.
    None,
    /// Those of a mediated device of the built-in host.
    Mdev(&'static str),
}

/// A machine with a program in its storage, ready to run.
pub struct Guest {
    storage: Arc<Storage>,
    vm: Arc<dyn Vm>,
    control: Arc<Control>,
    board: Arc<Board>,
    cpus: Vec<Box<dyn Vcpu>>,
}

impl Guest {
    /// A machine with `cpus` CPUs, of which CPU 0 begins at the label `start` of `program` in the 64-bit
    /// mode. New PSWs lead to the labels `restart`, `external`, `svc`, `program` and `io` where the program
    /// has them, else to a disabled wait.
    pub fn new(program: &Program, cpus: u16, ap: Ap) -> Self {
        let mut image = tempfile::NamedTempFile::new().expect("the host has room for a file");
        // A PSW for the address behind it, and an instruction there; the program takes its place.
        image.write_all(&[0, 8, 0, 0, 0x80, 0, 0, 8, 7, 7]).expect("the host has room for 10 bytes");
        let mdev = match ap {
            Ap::None => None,
            Ap::Mdev(uuid) => Some(uuid.into()),
        };
        let options = Options { kernel: Some(image.path().into()), ap_mdev: mdev, ..Options::default() };
        let config = vmm::Config { cpus, ..options.resolve().expect("the configuration is good") };

        let storage = Arc::new(Storage::new(STORAGE).expect("the host has storage"));
        let clock: Arc<dyn Clock> = Arc::new(HostClock::new());
        let model = CpuModel::named("max").expect("it always exists").with_ap(ap != Ap::None);
        let (facilities, machine_type) = (model.facilities, model.machine_type);
        let machine = cpu::Machine::new(storage.clone(), clock.clone(), model, cpus);
        let take = |address| machine.vcpu(address).expect("each CPU is taken once");
        let mut cpus: Vec<_> = (0..cpus).map(take).collect();
        let vm: Arc<dyn Vm> = Arc::new(machine);

        let attachment =
            CryptoSource::of(&config, false, Places::default()).expect("the built-in host has the device");
        let output = Output::new(Box::new(std::io::sink())).expect("the host has a thread");
        let to = Connections {
            storage: storage.clone(),
            vm: vm.clone(),
            clock: clock.clone(),
            facilities,
            output,
            vfio: None,
        };
        let devices = Devices::new(&config, attachment, to).expect("the host has threads");
        let control = Arc::new(Control::new(vm.clone()).expect("the host has a descriptor"));
        let board = Board::new(Parts {
            storage: storage.clone(),
            vm: vm.clone(),
            clock,
            devices,
            control: control.clone(),
            boot: Boot::open(image.path(), None, "").expect("the image is good"),
            identity: Identity {
                name: "test".into(),
                uuid: Uuid::nil(),
                machine_type,
                cpus: cpus.len() as u16,
            },
            disassemble: cpu::table::disassemble,
            watchdog_action: WatchdogAction::None,
        });
        let board = Arc::new(board.expect("the host has a timer"));
        board.start(&mut *cpus[0]).expect("ten bytes fit");

        let mut guest = Self { storage, vm, control, board, cpus };
        guest.write(program.origin, &program.bytes);
        for (label, at) in [
            ("restart", lowcore::RESTART_NEW_PSW),
            ("external", lowcore::EXTERNAL_NEW_PSW),
            ("svc", lowcore::SVC_NEW_PSW),
            ("program", lowcore::PROGRAM_NEW_PSW),
            ("machine_check", lowcore::MACHINE_CHECK_NEW_PSW),
            ("io", lowcore::IO_NEW_PSW),
        ] {
            let psw = match program.has(label) {
                true => Psw { mask: MODE_64, address: program.label(label) },
                false => Psw { mask: MODE_64 | psw_bits::WAIT, address: UNEXPECTED | at << 16 },
            };
            guest.write(at, &[psw.mask, psw.address].map(u64::to_be_bytes).concat());
        }
        let psw = Psw { mask: MODE_64, address: program.label("start") };
        guest.prepare(|state| state.psw = psw);
        guest
    }

    /// Changes the registers with which CPU 0 begins.
    pub fn prepare(&mut self, change: impl FnOnce(&mut VcpuState)) {
        let mut state = self.cpus[0].state();
        change(&mut state);
        self.cpus[0].set_state(&state);
    }

    /// Writes into absolute storage.
    #[track_caller]
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.storage.write(AbsoluteAddress(at), bytes).expect("inside the storage");
    }

    /// Writes doublewords into absolute storage.
    #[track_caller]
    pub fn write_doublewords(&self, at: u64, values: &[u64]) {
        self.write(at, &values.iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<_>>());
    }

    /// Starts a thread for each CPU.
    pub fn start(self) -> Running {
        let Self { storage, vm, control, board, cpus } = self;
        let spawn = |mut cpu: Box<dyn Vcpu>| {
            let board = board.clone();
            std::thread::spawn(move || {
                board.run(&mut *cpu);
                cpu.state()
            })
        };
        let cpus = cpus.into_iter().map(spawn).collect();
        Running { storage, vm, control, board, cpus }
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run(self) -> Ended {
        self.start().end()
    }
}

/// A guest whose CPUs run.
pub struct Running {
    storage: Arc<Storage>,
    vm: Arc<dyn Vm>,
    control: Arc<Control>,
    board: Arc<Board>,
    cpus: Vec<JoinHandle<VcpuState>>,
}

impl Running {
    /// The doubleword at an absolute address.
    #[track_caller]
    pub fn doubleword(&self, at: u64) -> u64 {
        doubleword(&self.storage, at)
    }

    /// Writes into absolute storage while the CPUs run.
    #[track_caller]
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.storage.write(AbsoluteAddress(at), bytes).expect("inside the storage");
    }

    /// The guest's CRYCB.
    ///
    /// # Panics
    /// The guest has no AP.
    pub fn crycb(&self) -> &Arc<GuestCrycb> {
        self.board.devices().crypto().expect("a guest with AP").crycb()
    }

    /// The guest's AP host.
    ///
    /// # Panics
    /// The guest has no AP.
    pub fn ap_host(&self) -> &Arc<ApHost> {
        self.board.devices().crypto().expect("a guest with AP").host().expect("it is here")
    }

    /// Replaces one byte of the CRYCB, with the CPUs held off, and nothing else.
    pub fn set_crycb_byte(&self, at: u8, change: impl Fn(u8) -> u8) {
        let crycb = self.crycb();
        self.vm.with_cpus_held(&mut || crycb.set_byte(at, change(crycb.byte(at))));
    }

    /// Lets the guest reach `matrix` from now on, as plug and unplug do.
    pub fn replace_crycb(&self, matrix: &Matrix) {
        self.board.devices().crypto().expect("a guest with AP").guest().set_masks(matrix);
    }

    /// Waits until `reached` says so of this guest. Panics when the guest ends or takes too long.
    #[track_caller]
    pub fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !reached(self) {
            let end = if self.control.ended() { self.control.take_end() } else { None };
            assert!(end.is_none(), "while waiting for {what}: {end:?}");
            assert!(Instant::now() < deadline, "waited too long for {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Waits for the end of the program.
    #[track_caller]
    pub fn end(self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        while !self.control.ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        self.control.end(End::Stopped("the program takes too long"));
        let join = |thread: JoinHandle<VcpuState>| thread.join().expect("a CPU's thread does not panic");
        let cpus = self.cpus.into_iter().map(join).collect();
        Ended { storage: self.storage, end: self.control.take_end().expect("it has ended"), cpus }
    }
}

/// What a program left behind.
pub struct Ended {
    storage: Arc<Storage>,
    /// Why the run ended.
    pub end: End,
    /// The registers of each CPU at the end.
    pub cpus: Vec<VcpuState>,
}

impl Ended {
    /// Fails unless every CPU stopped or waits at an address that says "done".
    #[track_caller]
    pub fn done(self) -> Self {
        let program = self.doubleword(lowcore::PROGRAM_IDENTIFICATION & !7);
        let old = [0, 8].map(|n| self.doubleword(lowcore::PROGRAM_OLD_PSW + n));
        let end = match &self.end {
            End::PoweredOff => return self,
            End::Crashed(crash) => crash.to_string(),
            other => format!("{other:?}: {:x?}", self.cpus.iter().map(|cpu| cpu.psw).collect::<Vec<_>>()),
        };
        panic!("{end}\nprogram interruption {program:x}, old PSW {old:x?}");
    }

    /// The doubleword at an absolute address.
    #[track_caller]
    pub fn doubleword(&self, at: u64) -> u64 {
        doubleword(&self.storage, at)
    }

    /// `count` doublewords from an absolute address.
    #[track_caller]
    pub fn doublewords(&self, at: u64, count: u64) -> Vec<u64> {
        (0..count).map(|n| self.doubleword(at + 8 * n)).collect()
    }

    /// Bytes from an absolute address.
    #[track_caller]
    pub fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.storage.read(AbsoluteAddress(at), &mut bytes).expect("inside the storage");
        bytes
    }
}

#[track_caller]
fn doubleword(storage: &Storage, at: u64) -> u64 {
    u64::from_be_bytes(storage.read_array(AbsoluteAddress(at)).expect("inside the storage"))
}
