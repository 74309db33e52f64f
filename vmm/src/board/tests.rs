use super::*;
use crate::config::Options;
use crate::console::Output;
use crate::devices::{Connections, CryptoSource, VfioAccess};
use crate::scripted::{Call, ScriptedCpu, ScriptedVm};
use ap::host::Attribute;
use ap::passthrough::Places;
use ap::passthrough::kernel::{self, Vfio, VfioFiles};
use crycb::Apqn;
use machine::{HostClock, Operand};
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use uuid::Uuid;
use zarch::{FacilityList, ProgramCode, RealAddress};

const SPECIFICATION: Outcome = Outcome::Program(zarch::ProgramInterruption::new(ProgramCode::Specification));
const ADDRESSING: Outcome = Outcome::Program(zarch::ProgramInterruption::new(ProgramCode::Addressing));
const OPERATION: Outcome = Outcome::Program(zarch::ProgramInterruption::new(ProgramCode::Operation));
const MIB: u64 = 1 << 20;
/// The kernel: a short PSW for address 8, then some bytes.
const KERNEL: [u8; 12] = [0, 8, 0, 0, 0x80, 0, 0, 8, 0xaa, 0xbb, 0xcc, 0xdd];
const KERNEL_PSW: Psw = Psw { mask: 0x8000_0000, address: 8 };

type Action = Box<dyn FnOnce() + Send>;

/// A clock whose actions a test runs.
#[derive(Default)]
struct TestClock {
    actions: Mutex<Vec<(u64, Action)>>,
}

impl Clock for TestClock {
    fn now(&self) -> u64 {
        1000
    }

    fn tod_epoch(&self) -> u64 {
        0
    }

    fn is_virtual(&self) -> bool {
        true
    }

    fn schedule(&self, at: u64, action: Action) {
        self.actions.lock().unwrap().push((at, action));
    }
}

pub(crate) struct Bench {
    pub(crate) board: Board,
    pub(crate) vm: Arc<ScriptedVm>,
    clock: Arc<TestClock>,
    pub(crate) storage: Arc<Storage>,
}

fn bench_with(watchdog_action: WatchdogAction, ap_mdev: Option<&str>) -> Bench {
    build(watchdog_action, ap_mdev, None)
}

/// A guest of the host's own cards, without a device, on a host with these places.
pub(crate) fn bench_with_real_cards(places: Places) -> Bench {
    build(WatchdogAction::Reset, None, Some(places))
}

/// VFIO of a host where nothing can be opened.
struct NoVfio;

impl Vfio for NoVfio {
    fn container(&self) -> io::Result<Box<dyn kernel::Container>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn group(&self, _: u32) -> io::Result<Box<dyn kernel::Group>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn group_of(&self, _: OwnedFd) -> Box<dyn kernel::Group> {
        unreachable!("there is no container for it")
    }

    fn address_space(&self) -> io::Result<Box<dyn kernel::AddressSpace>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn character_device(&self, _: &Path) -> io::Result<Box<dyn kernel::Device>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn character_device_of(&self, _: OwnedFd) -> Box<dyn kernel::Device> {
        unreachable!("there is no address space for it")
    }
}

impl VfioFiles for NoVfio {
    fn add(&self, _: BorrowedFd<'_>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove(&self, _: BorrowedFd<'_>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn build(watchdog_action: WatchdogAction, ap_mdev: Option<&str>, real: Option<Places>) -> Bench {
    let mut kernel = tempfile::NamedTempFile::new().unwrap();
    kernel.write_all(&KERNEL).unwrap();
    let (path, ap_mdev) = (kernel.path().into(), ap_mdev.map(Into::into));
    let config = Options { kernel: Some(path), ap_mdev, ..Options::default() }.resolve().unwrap();
    let storage = Arc::new(Storage::new(MIB).unwrap());
    let vm = Arc::new(ScriptedVm::default());
    let clock = Arc::new(TestClock::default());
    let to = Connections {
        storage: storage.clone(),
        vm: vm.clone(),
        clock: clock.clone(),
        facilities: FacilityList::from_bits(&[12, 15, 65]),
        output: Output::new(Box::new(std::io::sink())).unwrap(),
        vfio: real.is_some().then(|| VfioAccess { vfio: Arc::new(NoVfio), files: Arc::new(NoVfio) }),
    };
    let source = match real {
        Some(places) => CryptoSource::Real(places, None),
        None => CryptoSource::of(&config, false, Places::default()).unwrap(),
    };
    let devices = Devices::new(&config, source, to).unwrap();
    let board = Board::new(Parts {
        storage: storage.clone(),
        vm: vm.clone(),
        clock: clock.clone(),
        devices,
        control: Arc::new(Control::new(vm.clone()).unwrap()),
        boot: Boot::open(kernel.path(), None, "").unwrap(),
        identity: Identity { name: "n".into(), uuid: Uuid::nil(), machine_type: 0x3906, cpus: 2 },
        watchdog_action,
        disassemble: |_, _| String::new(),
    })
    .unwrap();
    Bench { board, vm, clock, storage }
}

pub(crate) fn bench() -> Bench {
    bench_with(WatchdogAction::Reset, None)
}

impl Bench {
    /// The outcomes of `exits` on a CPU with these general registers, and the CPU.
    fn answer(&self, gr: &[(usize, u64)], exits: &[Exit]) -> ScriptedCpu {
        let mut cpu = ScriptedCpu::new(&self.storage, exits);
        for (r, value) in gr {
            cpu.state.gr[*r] = *value;
        }
        let mut recent = Recent::default();
        while let Ok(exit) = cpu.run() {
            self.board.reset_if_asked(&mut cpu);
            recent.add(exit, 0);
            self.board.answer(&mut cpu, exit, &recent);
        }
        cpu
    }

    fn diagnose(&self, code: u16, r1: u8, r3: u8, gr: &[(usize, u64)]) -> ScriptedCpu {
        self.answer(gr, &[Exit::Diagnose { code, r1, r3 }])
    }

    #[track_caller]
    fn check(&self, code: u16, r1: u8, r3: u8, gr: &[(usize, u64)], want: Outcome, result: &[(usize, u64)]) {
        let cpu = self.diagnose(code, r1, r3, gr);
        assert_eq!(cpu.outcomes, [want], "{code:x} {gr:x?}");
        for (r, value) in result {
            assert_eq!(cpu.state.gr[*r], *value, "{code:x} {gr:x?}: GR {r}");
        }
    }
}

#[test]
fn diagnose_codes() {
    let bench = bench();
    bench.check(0x44, 0, 0, &[], Outcome::Resume, &[]);
    bench.check(0x9c, 1, 0, &[(1, 1)], Outcome::Resume, &[]);
    for code in [0x000, 0x008, 0x258, 0x260, 0x318, 0x501, 0xffff] {
        bench.check(code, 2, 4, &[], SPECIFICATION, &[]);
    }
    bench.check(0x500, 2, 4, &[(1, 4)], Outcome::Resume, &[(2, MIB - 1)]);
    bench.check(0x500, 2, 4, &[(1, 3), (2, 0x10001)], Outcome::Resume, &[(2, -22i64 as u64)]);
    for subcode in [1, 2, 5, u64::MAX] {
        bench.check(0x500, 2, 4, &[(1, subcode), (2, 7)], SPECIFICATION, &[(2, 7)]);
    }
}

#[test]
fn ipl_parameters() {
    let bench = bench();
    let area = |kind: u8| {
        let mut area = vec![0; 4096];
        (area[3], area[7], area[11], area[12]) = (200, 1, 192, kind);
        (area[0x30], area[199], area[200]) = (0x5a, 0xa5, 0xff);
        area
    };
    // Nothing set yet; then a block that is no block; then a good one, which a bad one does not replace.
    let store = |want: u64| bench.check(0x308, 2, 4, &[(2, 0x3000), (4, 6)], Outcome::Resume, &[(3, want)]);
    let set = |kind: u8, want: u64| {
        bench.storage.write(AbsoluteAddress(0x2000), &area(kind)).unwrap();
        bench.check(0x308, 2, 4, &[(2, 0x2000), (4, 5)], Outcome::Resume, &[(3, want)]);
    };
    store(0x102);
    set(0x77, 0x402);
    store(0x102);
    set(2, 1);
    set(0x77, 0x402);
    store(1);
    let stored = bench.storage.read_array::<201>(AbsoluteAddress(0x3000)).unwrap();
    assert_eq!((&stored[..200], stored[200]), (&area(2)[..200], 0), "the block and nothing else");

    for subcode in [5, 6] {
        for (r1, address, want) in [
            (3, 0x2000, SPECIFICATION),
            (2, 0x2008, SPECIFICATION),
            (2, MIB, ADDRESSING),
            (2, u64::MAX << 12, ADDRESSING),
        ] {
            bench.check(0x308, r1, 5, &[(r1.into(), address), (5, subcode)], want, &[]);
        }
    }
    for subcode in [2, 7, 8, 10, 0x10000, u64::MAX] {
        bench.check(0x308, 2, 4, &[(2, 0x2000), (4, subcode)], SPECIFICATION, &[]);
    }
}

#[test]
fn resets() {
    use ResetKind::{Clear, Initial, Normal};
    let loaded = Psw { mask: 0x8000_0000, address: 0x4000 };
    // Register 4 + n holds subcode n.
    let subcode = |n: u8| Exit::Diagnose { code: 0x308, r1: 2, r3: 4 + n };
    for (exit, others, own, psw, rest) in [
        (subcode(0), Clear, Clear, loaded, Some(0x77)),
        (subcode(1), Normal, Initial, loaded, Some(0x77)),
        (subcode(3), Clear, Clear, KERNEL_PSW, Some(0)),
        (subcode(4), Clear, Clear, KERNEL_PSW, Some(0x77)),
        (Exit::Load { clear: true }, Clear, Clear, KERNEL_PSW, Some(0)),
        (Exit::Load { clear: false }, Clear, Clear, KERNEL_PSW, Some(0x77)),
    ] {
        let bench = bench();
        bench.storage.write(AbsoluteAddress(0), &[0, 8, 0, 0, 0x80, 0, 0x40, 0]).unwrap();
        bench.storage.write(AbsoluteAddress(0x8000), &[0x77]).unwrap();
        // The watchdog is off afterwards.
        bench.check(0x288, 2, 4, &[(2, 0), (3, 15)], Outcome::Resume, &[]);
        let cpu = bench.answer(&[(4, 0), (5, 1), (7, 3), (8, 4)], &[exit]);
        assert_eq!(cpu.outcomes, [Outcome::Resume]);
        assert_eq!(
            (cpu.resets.as_slice(), cpu.state.psw, cpu.operating),
            (&[own][..], psw, true),
            "{exit:?}"
        );
        assert_eq!(bench.vm.take_calls(), [Call::ResetCpus(others, Some(0)), Call::Clear], "{exit:?}");
        let byte = bench.storage.read_array::<1>(AbsoluteAddress(0x8000)).unwrap()[0];
        assert_eq!(Some(byte), rest, "{exit:?}");
        bench.check(0x288, 2, 4, &[(2, 2)], SPECIFICATION, &[]);
        assert!(!bench.board.control.ended());
    }
}

#[test]
fn a_reset_during_a_reset_is_none() {
    let bench = bench();
    bench.board.resetting.store(true, Ordering::SeqCst);
    let cpu = bench.diagnose(0x308, 2, 4, &[(4, 3)]);
    assert!(cpu.resets.is_empty() && bench.vm.take_calls().is_empty());
}

#[test]
fn watchdog() {
    let second = 1_000_000_000;
    let run_out = |bench: &Bench| {
        let actions = std::mem::take(&mut *bench.clock.actions.lock().unwrap());
        actions.into_iter().map(|(at, action)| (action(), at).1).collect::<Vec<_>>()
    };
    let kicked = |bench: &Bench| bench.vm.take_calls().contains(&Call::Kick);
    let bench = bench();
    for (r1, function, timeout, action) in [
        (3, 0, 15, 0),
        (2, 0, 14, 0),
        (2, 0, u64::MAX, 0),
        (2, 0, 15, 1),
        (2, 1, 15, 0),
        (2, 2, 0, 0),
        (2, 3, 15, 0),
    ] {
        let gr = &[(r1, function), (r1 + 1, timeout), (6, action)];
        bench.check(0x288, r1 as u8, 6, gr, SPECIFICATION, &[]);
    }
    assert!(run_out(&bench).is_empty());

    let function = |n, timeout| bench.check(0x288, 2, 6, &[(2, n), (3, timeout)], Outcome::Resume, &[]);
    function(0, 15);
    function(1, 20);
    function(2, 0);
    assert_eq!(run_out(&bench), [15 * second + 1000, 20 * second + 1000]);
    assert!(!kicked(&bench), "changed, then cancelled");

    function(0, 30);
    run_out(&bench);
    assert!(kicked(&bench));
    let cpu = bench.answer(&[], &[Exit::Kicked, Exit::Kicked]);
    assert_eq!((cpu.resets.as_slice(), cpu.state.psw), (&[ResetKind::Clear][..], KERNEL_PSW), "once");

    let bench = bench_with(WatchdogAction::Poweroff, None);
    bench.check(0x288, 2, 6, &[(2, 0), (3, 15)], Outcome::Resume, &[]);
    run_out(&bench);
    assert!(matches!(bench.board.control.take_end(), Some(End::Watchdog)));
    let bench = bench_with(WatchdogAction::None, None);
    bench.check(0x288, 2, 6, &[(2, 0), (3, 15)], Outcome::Resume, &[]);
    run_out(&bench);
    assert!(!bench.board.control.ended() && !kicked(&bench));
}

#[test]
fn host_time_watchdog_ignores_timers_of_before() {
    let vm = Arc::new(ScriptedVm::default());
    let control = Arc::new(Control::new(vm).unwrap());
    let watchdog =
        Watchdog::new(WatchdogAction::Poweroff, Arc::new(HostClock::new()), control.clone()).unwrap();
    watchdog.function(0, 15, 0).unwrap();
    watchdog.timer_expired();
    watchdog.function(2, 0, 0).unwrap();
    watchdog.timer_expired();
    assert!(!control.ended());
}

#[test]
fn system_information() {
    let bench = bench();
    let stsi = |function_code, selector2, address| Exit::StoreSystemInformation {
        function_code,
        selector1: 2,
        selector2,
        operand: Operand { address, ar: 0 },
    };
    let cpu = bench.answer(&[], &[stsi(3, 2, 0x1000), stsi(3, 1, 0x2000), stsi(15, 2, 0), stsi(3, 2, MIB)]);
    let (stored, none) = (Outcome::ConditionCode(0), Outcome::ConditionCode(3));
    assert_eq!(cpu.outcomes, [stored, none, none, ADDRESSING]);
    assert_eq!(bench.storage.read_array(AbsoluteAddress(0x1000 + 56)), Ok([0xd2, 0xe5, 0xd4]));
    assert_eq!(bench.storage.read_array(AbsoluteAddress(0x2000)), Ok([0; 64]));
}

#[test]
fn devices_answer_their_instructions() {
    let bench = bench();
    bench.storage.write(AbsoluteAddress(0x2000), &[0, 8, 0, 0, 0, 0, 0, 0]).unwrap();
    let operand = Operand { address: 0x3000, ar: 0 };
    let cpu = bench.answer(
        &[],
        &[
            Exit::ServiceCall { command: 0x0fff_0001, sccb: RealAddress(0x2000) },
            Exit::StoreChannelReportWord(operand),
            Exit::OtherChannelInstruction,
            Exit::Pqap,
            Exit::Nqap { r1: 2, r2: 4 },
            Exit::Dqap { r1: 2, r2: 4 },
        ],
    );
    let cc = Outcome::ConditionCode;
    assert_eq!(cpu.outcomes, [cc(0), cc(1), cc(3), OPERATION, OPERATION, OPERATION]);
    assert_eq!(bench.storage.read_array(AbsoluteAddress(0x2006)), Ok([0x01, 0xf0]));
}

/// The queues of the first built-in mediated device: 05 and 06 by 04 and ab.
#[test]
fn crypto_queues() {
    let bench = bench_with(WatchdogAction::Reset, Some("62177883-f1bb-47f0-914d-32a22e3a8804"));
    let crypto = bench.board.devices.crypto().expect("it has AP");
    let tapq = |apqn: u64| {
        let cpu = bench.answer(&[(0, apqn)], &[Exit::Pqap]);
        (cpu.outcomes[0], cpu.state.gr[1] >> 16 & 0xff)
    };
    let cc = Outcome::ConditionCode;
    assert_eq!([0x0504, 0x06ab, 0x0547, 0x0a04].map(tapq), [(cc(0), 0), (cc(0), 0), (cc(3), 1), (cc(3), 1)]);

    bench.vm.take_calls();
    let mdev = "62177883-f1bb-47f0-914d-32a22e3a8804".parse().unwrap();
    crypto.host().expect("it is here").write(mdev, &Attribute::UnassignAdapter("6".into())).unwrap();
    assert_eq!(bench.vm.take_calls(), [Call::Held, Call::Post(machine::Floating::ChannelReport)]);
    assert_eq!([0x0504, 0x06ab].map(tapq), [(cc(0), 0), (cc(3), 1)]);

    // A reset of the machine resets its queues, and waits until they have come back.
    bench.answer(&[(0, 0x4000_0504), (2, 0), (4, 0x3000), (5, 8)], &[Exit::Nqap { r1: 2, r2: 4 }]);
    assert_eq!(crypto.machine().statistics(Apqn(0x0504)).unwrap().discards, 0);
    // Interruptions are cleared when the queues can raise no more. A report that comes meanwhile is gone with its
    // interruption, so that the next one has one again.
    let (at_clear, seen) = std::sync::mpsc::channel();
    let (machine, host) = (crypto.machine().clone(), crypto.host().unwrap().clone());
    *bench.vm.on_clear.lock().unwrap() = Some(Box::new(move || {
        at_clear.send(machine.statistics(Apqn(0x0504)).unwrap().discards).unwrap();
        host.write(mdev, &Attribute::AssignAdapter("6".into())).unwrap();
    }));
    bench.diagnose(0x308, 2, 4, &[(4, 3)]);
    assert_eq!(seen.try_recv(), Ok(1), "reset before");
    assert_eq!(
        bench.answer(&[], &[Exit::StoreChannelReportWord(Operand { address: 0x3000, ar: 0 })]).outcomes,
        [cc(1)]
    );
    bench.vm.take_calls();
    crypto.host().unwrap().write(mdev, &Attribute::UnassignAdapter("6".into())).unwrap();
    assert!(bench.vm.take_calls().contains(&Call::Post(machine::Floating::ChannelReport)));
    assert_eq!(tapq(0x0504), (cc(0), 0));
    assert_eq!(crypto.machine().statistics(Apqn(0x0504)).unwrap().discards, 1);
    assert!(self::bench().board.devices.crypto().is_none(), "no AP");

    // Asked to give the device back, the guest does.
    crypto.host().unwrap().remove_mdev(mdev).unwrap();
    assert_eq!(tapq(0x0504), (cc(3), 1));
    assert!(crypto.control().plugged().is_none());
}

#[test]
fn refused_attachments_name_the_remedy() {
    let attach = |uuid: &str, host: Option<&str>| {
        let host = host.map(|text| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        });
        let options = Options {
            kernel: Some("k".into()),
            ap_mdev: Some(uuid.into()),
            ap_host: host.as_ref().map(|f| f.path().into()),
            ..Options::default()
        };
        CryptoSource::of(&options.resolve().unwrap(), false, Places::default()).err().unwrap().to_string()
    };
    let unknown = attach("00000000-0000-0000-0000-000000000001", None);
    assert!(unknown.starts_with("--ap-mdev: ") && unknown.contains("62177883-f1bb"), "{unknown}");
    let json = attach("62177883-f1bb-47f0-914d-32a22e3a8804", Some("{"));
    assert!(json.starts_with("--ap-host: ") && json.contains("EOF") && json.contains("ap-host.md"), "{json}");
}

#[test]
fn how_a_run_ends() {
    let wait = |address| Exit::DisabledWait(Psw { mask: 0x0002_0001_8000_0000, address });
    let end_of = |first: &[Exit], second: &[Exit]| {
        let bench = bench();
        bench.vm.operating.store(1, Ordering::SeqCst);
        bench.answer(&[], first);
        assert!(!bench.board.control.ended(), "one CPU still runs");
        bench.vm.operating.store(0, Ordering::SeqCst);
        let mut cpu = ScriptedCpu::new(&bench.storage, second);
        cpu.address = 1;
        bench.board.run(&mut cpu);
        let calls = bench.vm.take_calls();
        (bench.board.control.take_end().expect("it has ended"), calls)
    };
    for (first, second) in [
        (&[Exit::Stopped][..], &[Exit::Stopped][..]),
        (&[wait(0xfff)], &[Exit::Stopped]),
        (&[wait(0x1000)], &[wait(0x7_0fff)]),
        // A CPU that left its wait and stopped.
        (&[wait(0x1234), Exit::Stopped], &[Exit::Stopped]),
    ] {
        let (end, calls) = end_of(first, second);
        let crashed = first == [wait(0x1000)];
        assert_eq!(matches!(end, End::PoweredOff), !crashed, "{first:?} {second:?}: {end:?}");
        assert_eq!(calls.last(), Some(&Call::Kick));
    }
    let (end, _) = end_of(&[Exit::Stopped], &[wait(0x1234_5678)]);
    let End::Crashed(crash) = &end else { panic!("{end:?}") };
    assert_eq!((crash.cpu, end.exit_status()), (1, 1));
    let text = crash.to_string();
    assert!(
        text.starts_with("disabled wait on CPU 1: PSW 0002000180000000 0000000012345678\nGR0 "),
        "{text}"
    );

    let bench = bench();
    bench.board.run(&mut ScriptedCpu::new(&bench.storage, &[Exit::Kicked]));
    let end = bench.board.control.take_end().unwrap();
    assert!(matches!(&end, End::Failed(e) if e.to_string() == "CPU 0: the script has ended"), "{end:?}");
    assert_eq!(end.exit_status(), 3);
}

#[test]
fn the_first_reason_stands() {
    let bench = bench();
    bench.board.control.end(End::Stopped("a"));
    bench.board.control.end(End::PoweredOff);
    assert!(matches!(bench.board.control.take_end(), Some(End::Stopped("a"))));
}

#[test]
fn starting() {
    let bench = bench();
    let mut cpu = ScriptedCpu::new(&bench.storage, &[]);
    cpu.operating = false;
    bench.board.start(&mut cpu).unwrap();
    assert_eq!((cpu.state.psw, cpu.operating), (KERNEL_PSW, true));
    assert_eq!(bench.storage.read_array(AbsoluteAddress(0)), Ok(KERNEL));
}
