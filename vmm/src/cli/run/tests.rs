//! Whole guests of the host's KVM on kernels that record: KVM and VFIO in one order, and the simulated cards below KVM.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use ap::passthrough::kernel::{CONFIGURATION_CHANGED, REQUEST};
use ap::passthrough::record::make_host;
use kvm::kernel::Stop;
use serde_json::{Value, json};
use zarch::{AbsoluteAddress, Facility};

use super::*;

const MDEV: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
const PATIENCE: Duration = Duration::from_secs(60);
/// A short PSW for address 8, and some bytes there.
const KERNEL: [u8; 12] = [0, 8, 0, 0, 0x80, 0, 0, 8, 0, 0, 0, 0];
/// What a guest has that has everything of its device.
const ALL: &str = "05.0004\n05.0047\n06.0004\n06.0047\n";

/// A host with cards, whose kernel records.
struct Bench {
    root: tempfile::TempDir,
    kernel: kvm::record::Recorder,
    vfio: passthrough::record::Recorder,
}

/// A guest, before it runs.
struct Guest {
    board: Arc<Board>,
    cpus: Vec<Box<dyn Vcpu>>,
    control: Arc<Control>,
    output: Arc<Output>,
    qmp: Server,
    storage: Arc<Storage>,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        make_host(root.path());
        std::fs::write(root.path().join("kernel"), KERNEL).unwrap();
        let (kernel, vfio) = (kvm::record::Recorder::new(), passthrough::record::Recorder::new());
        let journal = kernel.clone();
        vfio.state().elsewhere = Some(Arc::new(move |call| {
            if call.starts_with("close ") {
                journal.note(call.into());
                return Ok(());
            }
            journal.call(call.into())
        }));
        Self { root, kernel, vfio }
    }

    fn socket(&self) -> PathBuf {
        self.root.path().join("qmp")
    }

    fn config(&self, ap: bool, mdev: Option<&str>) -> Config {
        let options = Options {
            kernel: Some(self.root.path().join("kernel")),
            ap: Some(ap),
            ap_mdev: mdev.map(Into::into),
            cpus: Some(1),
            qmp: vec![format!("unix:{}", self.socket().display())],
            ..Options::default()
        };
        options.resolve().unwrap()
    }

    /// The CPUs for a guest whose cards are at `places`.
    fn cpus(&self, config: &Config, crypto: &CryptoSource) -> anyhow::Result<(Backend, Arc<Storage>)> {
        let storage = Arc::new(Storage::new(1 << 20)?);
        let vfio = crypto.is_real().then(|| Arc::new(self.vfio.clone()) as Arc<dyn Vfio>);
        Ok((host_cpus(&self.kernel, config, &cpu_model(config)?, storage.clone(), vfio)?, storage))
    }

    /// A guest with the device `mdev`, as `run` puts it together.
    fn guest(&self, places: Places, mdev: &str) -> anyhow::Result<Guest> {
        let config = self.config(true, Some(mdev));
        let crypto = CryptoSource::of(&config, true, places)?;
        let (Backend { vm, cpus, clock, machine_type, facilities, vfio }, storage) =
            self.cpus(&config, &crypto)?;
        let output = Output::new(Box::new(io::sink()))?;
        let (to, control) = (
            Connections {
                storage: storage.clone(),
                vm: vm.clone(),
                clock: clock.clone(),
                facilities,
                output: output.clone(),
                vfio,
            },
            Arc::new(Control::new(vm.clone())?),
        );
        let devices = Devices::new(&config, crypto, to)?;
        let boot = Boot::open(&config.kernel, None, "")?;
        let identity = Identity { name: "n".into(), uuid: config.uuid, machine_type, cpus: 1 };
        let board = Board::new(Parts {
            storage: storage.clone(),
            vm,
            clock,
            devices,
            control: control.clone(),
            boot,
            identity,
            watchdog_action: config.watchdog_action,
            disassemble: cpu::table::disassemble,
        })?;
        let qmp = Server::bind(&config.qmp, About::default())?;
        Ok(Guest { board: Arc::new(board), cpus, control, output, qmp, storage })
    }

    fn guest_matrix(&self, text: &str) {
        let mdev = self.root.path().join("sys/devices/vfio_ap/matrix").join(MDEV);
        // As the kernel does it, no reader sees half of it.
        std::fs::write(mdev.join("new"), text).unwrap();
        std::fs::rename(mdev.join("new"), mdev.join("guest_matrix")).unwrap();
    }

    /// Nothing is open any more. A thread that gave its device back may be the last to have the VM.
    fn assert_closed(&self, what: &str) {
        let end = Instant::now() + PATIENCE;
        while self.kernel.state().open > 0 {
            assert!(Instant::now() < end, "{what}: {:?}", self.kernel.state().calls);
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(self.vfio.state().open, [""; 0], "{what}");
    }

    /// What was asked, but for runs, of which there may be one more or less, and without numbers of descriptors.
    fn steps(&self) -> Vec<String> {
        let calls = self.kernel.take_calls();
        let number = |call: String| match call.split_once(" [") {
            Some((what, _)) if call.starts_with("Vfio ") => what.to_owned(),
            _ => call,
        };
        calls.into_iter().filter(|call| call != "cpu0 run").map(number).collect()
    }
}

/// A management client. Its answers end with the run.
struct Client {
    stream: BufReader<UnixStream>,
    events: Vec<Value>,
    errors: Vec<String>,
}

impl Client {
    fn new(bench: &Bench) -> Self {
        let stream = UnixStream::connect(bench.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream), events: Vec::new(), errors: Vec::new() }
    }

    fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => None,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
            Err(e) => panic!("{e}"),
        }
    }

    /// The answer to a command; null if that is an error.
    fn command(&mut self, command: Value) -> Option<Value> {
        // Who does not listen any more has ended.
        self.stream.get_mut().write_all(command.to_string().as_bytes()).ok()?;
        loop {
            let answer = self.read()?;
            if let Some(answer) = answer.get("return") {
                return Some(answer.clone());
            }
            if let Some(error) = answer.get("error") {
                self.errors.push(error["desc"].as_str().unwrap().to_owned());
                return Some(Value::Null);
            }
            self.events.push(answer);
        }
    }

    /// The data of the next event with this name.
    fn event(&mut self, name: &str) -> Option<Value> {
        loop {
            if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
                return Some(self.events.remove(at)["data"].clone());
            }
            let event = self.read()?;
            self.events.push(event);
        }
    }
}

/// What a client does to a guest that has been started with a device: reset, a change of its queues, unplug, hot-plug; then
/// the host wants the device back.
fn manage(bench: &Bench, client: &mut Client) -> Option<()> {
    client.read()?;
    client.command(json!({"execute": "qmp_capabilities"}))?;
    let subscribe = json!({"events": ["X_AP_CONFIG_CHANGED"]});
    client.command(json!({"execute": "x-subscribe", "arguments": subscribe}))?;
    client.command(json!({"execute": "system_reset"}))?;
    client.event("RESET")?;

    let errors = |client: &mut Client| -> Option<String> {
        Some(client.command(json!({"execute": "x-query-ap"}))?["errors"].to_string())
    };
    assert_eq!(errors(client)?, "null");
    bench.guest_matrix("06.0004\n06.0047\n");
    bench.vfio.signal(CONFIGURATION_CHANGED);
    let changed = client.event("X_AP_CONFIG_CHANGED")?;
    assert_eq!(changed["unplugged"], json!(["05.0004", "05.0047"]));
    // Nothing keeps adapter 05 from the guest: the kernel is wrong.
    let text = errors(client)?;
    assert!(text.contains(MDEV) && text.contains("it lacks adapters 0x05; "), "{text}");
    bench.guest_matrix(&format!("{ALL}08.0004\n08.0047\n"));
    bench.vfio.signal(CONFIGURATION_CHANGED);
    client.event("X_AP_CONFIG_CHANGED")?;
    let text = errors(client)?;
    assert!(text.contains("it has adapters 0x08; end the guest"), "{text}");
    bench.guest_matrix(ALL);

    let deleted = json!({"device": "ap0"});
    client.command(json!({"execute": "device_del", "arguments": {"id": "ap0"}}))?;
    assert_eq!(client.event("DEVICE_DELETED")?["device"], deleted["device"]);
    let device = json!({"driver": "vfio-ap", "id": "ap1", "sysfsdev": MDEV});
    if !client.command(json!({"execute": "device_add", "arguments": device}))?.is_null() {
        bench.vfio.signal(REQUEST);
        assert_eq!(client.event("DEVICE_DELETED")?["device"], "ap1");
    }
    client.command(json!({"execute": "quit"}))?;
    Some(())
}

/// A guest from its start to its end. What was refused, if anything was that anybody is told of.
fn life(bench: &Bench) -> Option<String> {
    let Guest { board, cpus, control, output, qmp, .. } =
        match bench.guest(Places::below(bench.root.path()), "/dev/vfio/3") {
            Ok(guest) => guest,
            Err(error) => return Some(format!("{error:#}")),
        };
    drop(control);
    let around = Surroundings {
        signals: Signals::catch().unwrap(),
        output,
        stdin: false,
        qmp,
        viewers: None,
        metrics: None,
        logs: Vec::new(),
        shutdown_timeout: Duration::ZERO,
    };
    let mut client = Client::new(bench);
    let running = thread::spawn(move || vmm::run(&board, cpus, around).unwrap());
    let whole = manage(bench, &mut client).is_some();
    match running.join().unwrap() {
        End::Failed(error) => Some(error.to_string()),
        end => {
            assert!(whole && matches!(end, End::Stopped(_)), "{end:?}");
            client.errors.pop()
        }
    }
}

/// Whether a call is told to the log at most: the way back has no way back, and a reset cannot be refused.
fn only_logged(call: &str) -> bool {
    let way_back =
        ["device 62177883 signal 1 off", "device 62177883 signal 0 off", "container unmap", "group3 leave"];
    let reset = ["device 62177883 reset", "vm keys 0", "vm set 2.0 (0 bytes)", "vm set 2.1 (0 bytes)"];
    let report = call.starts_with("Flic set 2.") || call == "Flic set 3.0 []";
    way_back.contains(&call) || reset.contains(&call) || call.starts_with("Vfio set 1.2") || report
}

/// A machine with one CPU, whose AP instructions are interpreted.
#[rustfmt::skip]
const START: [&str; 30] = [
    "open vm", "vm get 0.2", "vm set 0.2 (8 bytes)", "vm enable 106", "vm enable 109", "vm enable 107", "vm enable 140",
    "vm enable 152", "vm get 3.0", "vm get 3.1", "vm set 3.0 (2064 bytes)", "vm set 3.2 (128 bytes)", "vm get 3.5",
    "vm set 3.4 (2048 bytes)", "vm set 2.4 (0 bytes)", "vm set 1.0 (8 bytes)", "vm storage 1048576", "open Flic",
    "Flic set 6.0 [0, 0, 0, 0, 0, 0, 0, 0]", "Flic set 6.0 [0, 0, 0, 1, 1, 0, 0, 0]",
    "Flic set 6.0 [0, 0, 0, 2, 2, 0, 0, 0]", "Flic set 6.0 [0, 0, 0, 3, 3, 0, 0, 0]",
    "Flic set 6.0 [0, 0, 0, 4, 4, 0, 0, 0]", "Flic set 6.0 [0, 0, 0, 5, 5, 0, 0, 0]",
    "Flic set 6.0 [0, 0, 0, 6, 6, 0, 0, 0]", "Flic set 6.0 [0, 0, 0, 7, 7, 0, 0, 0]",
    "open cpu0", "cpu0 enable 85", "cpu0 stopped", "open Vfio",
];
/// KVM knows the group before the device is opened.
#[rustfmt::skip]
const OPEN_DEVICE: [&str; 13] = [
    "open container", "open group3", "group3 viable", "group3 join", "container type1v2", "Vfio set 1.1",
    "container map 1048576", "open device 62177883", "device 62177883 information", "device 62177883 events of 0",
    "device 62177883 signal 0 on", "device 62177883 events of 1", "device 62177883 signal 1 on",
];
/// The beginning, the reset by a client, with the device's, and the report that the guest's queues have changed.
#[rustfmt::skip]
const RESET: [&str; 10] = [
    "cpu0 reset Clear", "cpu0 operating",
    "vm keys 0", "vm set 2.0 (0 bytes)", "vm set 2.1 (0 bytes)", "device 62177883 reset", "Flic set 3.0 []",
    "cpu0 reset Clear", "cpu0 operating",
    "Flic set 2.72 Irq(fffe1000 +4:10000000 +8:00400f5d +12:40330000)",
];
#[rustfmt::skip]
const CLOSE_DEVICE: [&str; 8] = [
    "device 62177883 signal 1 off", "device 62177883 signal 0 off", "close device 62177883", "container unmap",
    "Vfio set 1.2", "group3 leave", "close container", "close group3",
];
const CLOSE_MACHINE: [&str; 4] = ["close Flic", "close Vfio", "close cpu0", "close vm"];

/// KVM and VFIO in one order; and whatever is refused, somebody is told, and everything is closed.
#[test]
fn a_guest_with_real_cards_from_start_to_end() {
    let bench = Bench::new();
    assert_eq!(life(&bench), None);
    bench.assert_closed("nothing is refused");
    let steps = bench.steps();
    let closed = steps.len() - CLOSE_MACHINE.len();
    let parts = [&START[..], &OPEN_DEVICE, &RESET, &CLOSE_DEVICE, &OPEN_DEVICE, &CLOSE_DEVICE];
    assert_eq!(steps[..closed], parts.concat());
    // Who has the machine last is one thread or another.
    let mut last = steps[closed..].to_vec();
    last.sort();
    assert_eq!(last, CLOSE_MACHINE);

    let mut seen = std::collections::BTreeMap::new();
    for step in steps.iter().filter(|step| !step.starts_with("close ")) {
        let others: &mut usize = seen.entry(step.clone()).or_default();
        let what = format!("{step} ({others})");
        let bench = Bench::new();
        bench.kernel.state().refuse_text = Some((step.clone(), *others));
        *others += 1;
        let told = life(&bench);
        bench.assert_closed(&what);
        match told {
            Some(text) => assert!(text.contains("(os error 5)"), "{what}: {text}"),
            None => assert!(only_logged(step), "{what}"),
        }
    }
}

/// Who executes AP instructions is decided by where the cards are.
#[test]
fn interpretation_goes_by_the_cards() {
    let nowhere = tempfile::tempdir().unwrap();
    for (ap, real, interpreted) in [(false, true, false), (true, false, false), (true, true, true)] {
        let bench = Bench::new();
        let config = bench.config(ap, None);
        let places = Places::below(if real { bench.root.path() } else { nowhere.path() });
        let crypto = CryptoSource::of(&config, true, places).unwrap();
        assert_eq!(crypto.is_real(), ap && real);
        let (backend, _) = bench.cpus(&config, &crypto).unwrap();
        for facility in [Facility::ApQci, Facility::ApFacilitiesTest, Facility::ApInterruptions] {
            assert_eq!(backend.facilities.has(facility), ap, "{facility:?}");
        }
        assert_eq!(backend.vfio.is_some(), interpreted);
        let calls = bench.kernel.take_calls();
        let (on, off) = ("vm set 2.4 (0 bytes)".to_owned(), "vm set 2.5 (0 bytes)".to_owned());
        assert_eq!((calls.contains(&on), calls.contains(&off)), (interpreted, !interpreted), "{calls:?}");
        drop(backend);
        bench.assert_closed("no guest");
    }
}

/// AP instructions that the kernel leaves to user space, by registers and storage as the kernel has them.
#[test]
fn simulated_cards_below_kvm() {
    let nowhere = tempfile::tempdir().unwrap();
    let bench = Bench::new();
    let Guest { board, mut cpus, control, storage, .. } =
        bench.guest(Places::below(nowhere.path()), MDEV).unwrap();
    let kernel = &bench.kernel;
    board.start(&mut *cpus[0]).unwrap();
    let running = thread::spawn(move || board.run(&mut *cpus[0]));
    // The condition code and the registers after an instruction.
    let execute = |ipa: u16, ipb: u32, gr: &[(usize, u64)]| {
        kernel.wait(|state| state.cpus[0].running);
        for (r, value) in gr {
            kernel.state().cpus[0].registers.gr[*r] = *value;
        }
        kernel.script(0, &[Stop::Intercept { code: 4, ipa, ipb }]);
        kernel.wait(|state| state.cpus[0].running && state.cpus[0].stops.is_empty());
        let registers = kernel.state().cpus[0].registers;
        (registers.psw.mask >> 44 & 3, registers.gr)
    };
    let response = |gr1: u64| gr1 >> 16 & 0xff;
    const PQAP: u16 = 0xb2af;
    // TAPQ of the guest's queue, and of one that it has not got.
    let (cc, gr) = execute(PQAP, 0, &[(0, 0x0504)]);
    assert_eq!((cc, response(gr[1])), (0, 0));
    let (cc, gr) = execute(PQAP, 0, &[(0, 0x0a04)]);
    assert_eq!((cc, response(gr[1])), (3, 1));
    // QCI: the adapters are at offset 16 of the block.
    let (cc, _) = execute(PQAP, 0, &[(0, 0x0400_0000), (2, 0x5000)]);
    let adapters: [u8; 32] = storage.read_array(AbsoluteAddress(0x5000 + 16)).unwrap();
    assert_eq!((cc, adapters[0], adapters[1..].iter().all(|byte| *byte == 0)), (0, 0x06, true));

    let dequeue = || execute(0xb2ae, 0x0064_0000, &[(0, 0x8000_0504), (4, 0x6000), (5, 0x1000)]);
    let (cc, gr) = dequeue();
    assert_eq!((cc, response(gr[1])), (3, 0x10), "nothing is there yet");
    let request = [(0, 0x4000_0504), (2, 0x1122_3344), (3, 0x5566_7788), (4, 0x3000), (5, 8)];
    let (cc, _) = execute(0xb2ad, 0x0024_0000, &request);
    assert_eq!(cc, 0);
    let end = Instant::now() + PATIENCE;
    let gr = loop {
        assert!(Instant::now() < end, "a card answers");
        match dequeue() {
            (0, gr) => break gr,
            (cc, gr) => assert_eq!((cc, response(gr[1])), (3, 0x10)),
        }
    };
    assert_eq!((gr[6] & 0xffff_ffff, gr[7] & 0xffff_ffff), (0x1122_3344, 0x5566_7788), "the request's name");
    let reply: [u8; 16] = storage.read_array(AbsoluteAddress(0x6000)).unwrap();
    assert!(gr[5] < 0x1000 && reply != [0; 16]);
    // What the guest may not do comes back as its own interruption.
    kernel.take_calls();
    kernel.state().cpus[0].registers.psw.mask |= 1 << 48;
    execute(PQAP, 0, &[(0, 0x0504)]);
    let calls = kernel.take_calls();
    assert!(calls.iter().any(|call| call.starts_with("cpu0 post Irq(fffe0001")), "{calls:?}");
    control.end(End::PoweredOff);
    running.join().unwrap();
    drop(control);
    bench.assert_closed("the run has ended");
}
