//! Whole machines on the recorded kernel.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;

use machine::{
    Exit, Floating, Operand, Outcome, Post, ResetKind, Storage, SubchannelOperation, Vcpu, VcpuState, Vm,
};
use zarch::{AbsoluteAddress, FacilityList, IoInterruption, ProgramCode, ProgramInterruption, Psw, psw_bits};

use crate::interruption::Irq;
use crate::kernel::{Stop, capability};
use crate::record::Recorder;
use crate::{Ap, Cpu, Error, Machine, Options};

const MIB: u64 = 1 << 20;

fn options(cpus: u16, ap: Ap) -> Options {
    let disassemble = |_: &[u8], at| format!("<text at {at:x}>");
    Options { cpus, name: "max".into(), model: None, ap, tod: 0x1234, disassemble }
}

fn make(kernel: &Recorder, options: &Options) -> Result<(Machine, Vec<Cpu>), Error> {
    Machine::new(kernel, options, Arc::new(Storage::new(MIB).unwrap()))
}

/// A machine, whose calls so far are forgotten.
fn machine(cpus: u16) -> (Recorder, Machine, Vec<Cpu>) {
    let kernel = Recorder::new();
    let (machine, cpus) = make(&kernel, &options(cpus, Ap::None)).unwrap();
    kernel.take_calls();
    (kernel, machine, cpus)
}

fn intercept(ipa: u16, ipb: u32) -> Stop {
    Stop::Intercept { code: 4, ipa, ipb }
}

const STOP: Stop = Stop::Intercept { code: 0x28, ipa: 0, ipb: 0 };
/// SIGNAL PROCESSOR of the CPU in register 3; order in the displacement, status to register 4.
const fn sigp(order: u32) -> Stop {
    Stop::Intercept { code: 4, ipa: 0xae43, ipb: order << 16 }
}

#[test]
fn the_order_of_a_start_and_an_end() {
    let kernel = Recorder::new();
    let (machine, cpus) = make(&kernel, &options(2, Ap::Emulated)).unwrap();
    let start = kernel.take_calls();
    let mut want: Vec<String> = [
        "open vm",
        "vm get 0.2",
        "vm set 0.2 (8 bytes)",
        "vm enable 106",
        "vm enable 109",
        "vm enable 107",
        "vm enable 140",
        "vm enable 152",
        "vm get 3.0",
        "vm get 3.1",
        "vm set 3.0 (2064 bytes)",
        "vm set 3.2 (128 bytes)",
        "vm get 3.5",
        "vm set 3.4 (2048 bytes)",
        "vm set 2.5 (0 bytes)",
        "vm set 1.0 (8 bytes)",
        "vm storage 1048576",
        "open Flic",
    ]
    .map(str::to_owned)
    .to_vec();
    want.extend((0..8).map(|isc| format!("Flic set 6.0 [0, 0, 0, {isc}, {isc}, 0, 0, 0]")));
    want.extend(
        ["open cpu0", "cpu0 enable 85", "cpu0 stopped", "open cpu1", "cpu1 stopped"].map(str::to_owned),
    );
    assert_eq!(start, want);
    assert_eq!(machine.processor().machine_type(), 0x3906);

    drop(cpus);
    assert_eq!(kernel.take_calls(), ["close cpu0", "close cpu1"]);
    drop(machine);
    let mut end = kernel.take_calls();
    end.sort();
    assert_eq!(end, ["close Flic", "close vm"]);
    assert_eq!(kernel.state().open, 0);
}

#[test]
fn a_refusal_at_any_step_closes_everything() {
    let whole = Recorder::new();
    let kept = make(&whole, &options(2, Ap::Interpreted)).unwrap();
    let steps = whole.take_calls();
    drop(kept);
    for (n, step) in steps.iter().enumerate() {
        let kernel = Recorder::new();
        kernel.state().refuse = Some(n);
        let Err(error) = make(&kernel, &options(2, Ap::Interpreted)) else { panic!("{step} was refused") };
        assert!(matches!(&error, Error::Kernel { attempt, .. } if !attempt.is_empty()), "{step}: {error:?}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("os error 5"), "{step}: {source}");
        let calls = kernel.take_calls();
        assert_eq!(calls[..=n], steps[..=n], "nothing else is done before");
        assert!(calls[n + 1..].iter().all(|call| call.starts_with("close ")), "{step}: {calls:?}");
        assert_eq!(kernel.state().open, 0, "{step}");
    }
    assert!(steps.len() > 30);
}

#[test]
fn what_the_host_lacks_is_named() {
    let refused = |change: &dyn Fn(&Recorder), ap| {
        let kernel = Recorder::new();
        change(&kernel);
        let error = make(&kernel, &options(1, ap)).err().expect("refused").to_string();
        assert_eq!(kernel.state().open, 0);
        error
    };
    let text =
        refused(&|k| k.state().missing = vec![capability::S390_USER_SIGP, capability::SYNC_REGS], Ap::None);
    assert_eq!(
        text,
        "the host's KVM lacks KVM_CAP_SYNC_REGS, KVM_CAP_S390_USER_SIGP; use Linux 5.10 or newer"
    );
    assert!(refused(&|k| k.state().version = 11, Ap::None).contains("version 11, 12 is needed"));
    let text = refused(&|k| k.state().possible = FacilityList::from_bits(&[0, 1, 2, 76]), Ap::Emulated);
    assert!(text.contains("12, 15, 65") && text.contains("lszcrypt"), "{text}");
    let text = refused(&|k| k.state().limit = MIB - 1, Ap::None);
    assert!(text.contains("at most 1048575 bytes"), "{text}");
    // What every kernel before 7.0 answers a program that is not marked.
    let text = refused(&|k| (k.state().refuse, k.state().errno) = (Some(0), 22), Ap::None);
    assert!(text.contains("--s390-pgste") && text.contains("vm.allocate_pgste=1"), "{text}");
}

#[test]
fn ap_goes_three_ways() {
    for (ap, attribute, facilities) in [
        (Ap::None, "vm set 2.5 (0 bytes)", false),
        (Ap::Emulated, "vm set 2.5 (0 bytes)", true),
        (Ap::Interpreted, "vm set 2.4 (0 bytes)", true),
    ] {
        let kernel = Recorder::new();
        let (machine, _cpus) = make(&kernel, &options(1, ap)).unwrap();
        let crypto: Vec<_> = kernel.take_calls().into_iter().filter(|c| c.starts_with("vm set 2.")).collect();
        assert_eq!(crypto, [attribute], "{ap:?}");
        for bit in [12, 15, 65] {
            assert_eq!(machine.processor().facilities.bit(bit), facilities, "{ap:?} {bit}");
        }
    }
    // A host without AP has nothing to turn off, and cannot turn anything on.
    let kernel = Recorder::new();
    kernel.state().absent = vec![(2, 4), (2, 5)];
    make(&kernel, &options(1, Ap::None)).unwrap();
    assert!(!kernel.take_calls().iter().any(|c| c.starts_with("vm set 2.")));
}

#[test]
fn exits_and_answers() {
    let (kernel, _machine, mut cpus) = machine(1);
    let cpu = &mut cpus[0];
    cpu.set_operating(true);
    cpu.set_state(&VcpuState {
        psw: Psw { mask: 0x8000_0000 | psw_bits::EA, address: 0x1004 },
        ..cpu.state()
    });
    // An instruction of no facility, then SERVC in the problem state, are answered without the VMM.
    kernel.script(0, &[Stop::Interrupted, intercept(0xb2a0, 0), intercept(0xb220, 0x0012_0000)]);
    assert_eq!(cpu.run().unwrap(), Exit::ServiceCall { command: 0, sccb: zarch::RealAddress(0) });
    assert_eq!(
        kernel.take_calls(),
        ["cpu0 operating", "cpu0 run", "cpu0 run", "cpu0 post Irq(fffe0001 +28:00010000)", "cpu0 run",]
    );
    cpu.finish(Outcome::ConditionCode(2));
    assert_eq!(cpu.state().psw.cc(), 2);
    cpu.finish(Outcome::ConditionCode(1));
    assert_eq!(cpu.state().psw.cc(), 1);
    cpu.finish(Outcome::Resume);
    assert_eq!(kernel.take_calls(), [""; 0]);
    cpu.finish(Outcome::Program(ProgramInterruption::data(0xfe)));
    assert_eq!(kernel.take_calls(), ["cpu0 post Irq(fffe0001 +24:000000fe +28:00070000)"]);

    let pending = cpu.pending().unwrap();
    cpu.set_pending(&pending).unwrap();
    assert_eq!(kernel.take_calls(), ["cpu0 pending", "cpu0 set pending (72 bytes)"]);
}

#[test]
fn an_interruption_that_test_subchannel_took_is_put_back() {
    let io = IoInterruption { subsystem_id: 0x0001_0003, parameter: 5, identification: 0x1800_0000 };
    for (dequeued, outcome, put_back) in [
        (Some(io), Outcome::ConditionCode(0), false),
        (None, Outcome::Program(ProgramCode::Operand.into()), false),
        (Some(io), Outcome::Program(ProgramCode::Operand.into()), true),
    ] {
        let (kernel, _machine, mut cpus) = machine(1);
        cpus[0].set_operating(true);
        kernel.script(0, &[Stop::TestSubchannel { dequeued, ipb: 0x0100_0000 }]);
        let exit = cpus[0].run().unwrap();
        assert!(matches!(exit, Exit::Subchannel { operation: SubchannelOperation::Test, .. }), "{exit:?}");
        cpus[0].finish(outcome);
        let back = format!("Flic set 2.72 {:?}", Irq::io(io));
        assert_eq!(kernel.take_calls().contains(&back), put_back, "{dequeued:?} {outcome:?}");
    }
}

/// TEST SUBCHANNEL that could not store, but can by now, is answered once more with the interruption that it took; unless
/// the CPU is reset first.
#[test]
fn an_instruction_that_is_answered_again() {
    let io = IoInterruption { subsystem_id: 0x0001_0003, parameter: 5, identification: 0x1800_0000 };
    for reset in [false, true] {
        let (kernel, _machine, mut cpus) = machine(1);
        let cpu = &mut cpus[0];
        cpu.set_operating(true);
        kernel.script(0, &[Stop::TestSubchannel { dequeued: Some(io), ipb: 0x0100_0000 }]);
        let exit = cpu.run().unwrap();
        kernel.state().cpus[0].codes = [0x10, 0].into();
        let refused = cpu.store(Operand { address: 0x100, ar: 0 }, &[0; 64]).unwrap_err();
        cpu.finish(Outcome::Program(refused));
        assert!(!kernel.take_calls().iter().any(|call| call.starts_with("Flic")));
        if reset {
            cpu.reset(ResetKind::Clear);
            kernel.script(0, &[STOP]);
            assert_eq!(cpu.run().unwrap(), Exit::Stopped);
            continue;
        }
        assert_eq!(cpu.run().unwrap(), exit);
        cpu.finish(Outcome::Program(ProgramCode::Operand.into()));
        let last = kernel.take_calls().pop();
        assert_eq!(last, Some(format!("Flic set 2.72 {:?}", Irq::io(io))), "it fails for another reason");
    }
}

/// An access exception is told to the VMM first; only when the instruction ends with it does the kernel
/// present it, by making the same access again.
#[test]
fn access_exceptions() {
    let (kernel, _machine, mut cpus) = machine(1);
    let cpu = &mut cpus[0];
    cpu.set_operating(true);
    let psw = Psw { mask: psw_bits::EA | psw_bits::BA | 9 << 52, address: 0x1004 };
    cpu.set_state(&VcpuState { psw, ..cpu.state() });
    let to = Operand { address: u64::MAX - 4095, ar: 5 };
    let stsch = intercept(0xb234, 0x5000_0000);
    kernel.script(0, &[stsch, stsch, stsch, stsch]);

    // Good: tested as a whole before the first byte is stored; addresses wrap around.
    cpu.run().unwrap();
    kernel.take_calls();
    kernel.state().cpus[0].storage = vec![1, 2, 3];
    assert_eq!(cpu.store(to, &[7; 5000]), Ok(()));
    let mut buffer = [0; 3];
    assert_eq!(cpu.fetch(to, &mut buffer), Ok(()));
    assert_eq!(buffer, [1, 2, 3]);
    assert_eq!(cpu.probe_store(to, 1), Ok(()));
    assert_eq!(
        kernel.take_calls(),
        [
            "cpu0 test-write 4096 at fffffffffffff000 ar 5 key 9",
            "cpu0 test-write 904 at 0 ar 5 key 9",
            "cpu0 write 4096 at fffffffffffff000 ar 5 key 9",
            "cpu0 write 904 at 0 ar 5 key 9",
            "cpu0 read 3 at fffffffffffff000 ar 5 key 9",
            "cpu0 test-write 1 at fffffffffffff000 ar 5 key 9",
        ]
    );

    // Refused at the second piece: nothing is stored, and the piece is what is tried again.
    kernel.state().cpus[0].codes = [0, 0x11, 0x11].into();
    let refused = cpu.store(to, &[7; 5000]).unwrap_err();
    assert_eq!(refused, ProgramCode::PageTranslation.into());
    assert!(!kernel.take_calls().iter().any(|call| call.contains("cpu0 write")));
    cpu.finish(Outcome::Program(refused));
    assert_eq!(kernel.take_calls(), ["cpu0 test-write 904 at 0 ar 5 key 9 inject"]);
    assert_eq!(cpu.state().psw, psw);

    // The device came to another end than the exception.
    cpu.run().unwrap();
    kernel.state().cpus[0].codes = [4].into();
    let refused = cpu.fetch(to, &mut buffer).unwrap_err();
    kernel.take_calls();
    cpu.finish(Outcome::ConditionCode(3));
    assert_eq!((refused.code, kernel.take_calls().len()), (ProgramCode::Protection, 0));

    // By the time of the second try it is no exception any more: the instruction is answered again, without the kernel and
    // with the PSW as it is, since nobody knows how far the instruction is behind it.
    let exit = cpu.run().unwrap();
    kernel.state().cpus[0].codes = [0x10, 0].into();
    let refused = cpu.fetch(to, &mut buffer).unwrap_err();
    cpu.finish(Outcome::Program(refused));
    kernel.take_calls();
    assert_eq!(cpu.run().unwrap(), exit);
    cpu.finish(Outcome::ConditionCode(0));
    assert_eq!((cpu.state().psw.address, kernel.take_calls().len()), (psw.address, 0));

    // A code that no access exception has means that the kernel or this crate is wrong: the run ends.
    cpu.run().unwrap();
    kernel.state().cpus[0].codes = [0x80].into();
    cpu.fetch(to, &mut buffer).unwrap_err();
    cpu.finish(Outcome::Resume);
    assert!(cpu.run().unwrap_err().to_string().contains("program interruption 80"));
}

#[test]
fn what_cannot_be_handled_ends_in_a_report() {
    for (stop, why) in [
        (Stop::Intercept { code: 0x20, ipa: 0, ipb: 0 }, "a validity interception"),
        (Stop::Debug { address: 0x77, kind: 1 }, "a debug event"),
        (Stop::Other(17), "an exit that is not for s390x (Other(11))"),
    ] {
        let (kernel, _machine, mut cpus) = machine(1);
        cpus[0].set_operating(true);
        kernel.state().cpus[0].storage = vec![0x07, 0xfe];
        kernel.script(0, &[intercept(0x8324, 0x0288_0000), stop]);
        assert_eq!(cpus[0].run().unwrap(), Exit::Diagnose { code: 0x288, r1: 2, r3: 4 });
        let text = cpus[0].run().unwrap_err().to_string();
        for part in
            ["CPU 0: ", why, "PSW 0000", "GR0  0000", "CR12 0000", "at 0: 07fe <text at 0>", "ipa: 8324"]
        {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
    let (kernel, _machine, mut cpus) = machine(1);
    cpus[0].set_operating(true);
    kernel.state().refuse = Some(1);
    assert!(cpus[0].run().unwrap_err().to_string().contains("run: Input/output error"));
}

/// CPU 0 after it has run with some stops while CPU 1 was run by another thread.
struct Two {
    /// What CPU 1 asked of the kernel.
    calls: Vec<String>,
    first: Cpu,
    /// Exits of CPU 1.
    seen: Vec<Exit>,
    storage: Arc<Storage>,
}

/// Runs CPU 0 with these stops; register 3 has CPU 1's address, register 5 `parameter`.
fn with_two_cpus(operating: bool, stops: &[Stop], parameter: u64, exits: usize) -> Two {
    let kernel = Recorder::new();
    let vectors = FacilityList::from_bits(&[0, 1, 2, 76, 129, 133]);
    kernel.state().default = vectors;
    kernel.state().possible = vectors;
    let storage = Arc::new(Storage::new(MIB).unwrap());
    let (machine, mut cpus) = Machine::new(&kernel, &options(2, Ap::None), storage.clone()).unwrap();
    for cpu in &mut kernel.state().cpus {
        cpu.extended.vectors[31][1] = 0x1f;
        cpu.extended.guarded[3] = 0x33;
    }
    let (mut second, mut first) = (cpus.pop().unwrap(), cpus.pop().unwrap());
    first.set_operating(true);
    first.set_gr(3, 1);
    first.set_gr(5, parameter);
    if operating {
        second.set_operating(true);
    }
    kernel.take_calls();
    kernel.script(0, stops);
    kernel.script(0, &[STOP]);
    let other = thread::spawn(move || {
        let mut seen = Vec::new();
        loop {
            match second.run().unwrap() {
                Exit::Kicked => return seen,
                exit => seen.push(exit),
            }
        }
    });
    if operating {
        kernel.wait(|state| state.cpus[1].running);
    }
    assert_eq!(first.run().unwrap(), Exit::Stopped);
    // The other CPU may still be at what it was told.
    let told = |state: &crate::record::State| {
        state
            .calls
            .iter()
            .filter(|call| {
                ["cpu1 s", "cpu1 o", "cpu1 p", "cpu1 e"].iter().any(|start| call.starts_with(start))
            })
            .count()
            >= exits
    };
    kernel.wait(told);
    machine.kick();
    let seen = other.join().unwrap();
    let calls = kernel.take_calls().into_iter().filter(|c| c.starts_with("cpu1") && !c.ends_with("run"));
    Two { calls: calls.collect(), first, seen, storage }
}

#[test]
fn signal_processor() {
    let check = |operating, order, parameter, effects: &[&str], cc: u8, status: u64| {
        let two = with_two_cpus(operating, &[sigp(order)], parameter, effects.len());
        assert_eq!(two.calls[..effects.len()], *effects, "order {order:x}");
        let answer = (two.first.state().psw.cc(), two.first.gr(4));
        assert_eq!(answer, (cc, status), "order {order:x} {parameter:x}");
        two
    };
    const AT: u64 = 0x8000;
    check(false, 0x04, 0, &["cpu1 operating"], 0, 0);
    check(false, 0x06, 0, &["cpu1 operating", "cpu1 post Irq(fffe0003)"], 0, 0);
    check(true, 0x05, 0, &["cpu1 stopped"], 0, 0);
    check(true, 0x06, 0, &["cpu1 post Irq(fffe0003)"], 0, 0);
    check(true, 0x0b, 0, &["cpu1 stopped"], 0, 0);
    check(true, 0x0e, AT, &[], 1, 0x200);
    check(true, 0x0d, AT, &[], 1, 0x200);
    check(false, 0x12, 0, &[], 1, 0x100);
    check(false, 0x77, 0, &[], 1, 0x02);
    let byte = |two: &Two, at| two.storage.read_array::<1>(AbsoluteAddress(at)).unwrap()[0];
    let two = check(true, 0x09, 0, &["cpu1 stopped", "cpu1 extended"], 0, 0);
    assert_eq!(byte(&two, 163), 1);

    // Additional status: 1, 2 or 4 KiB at a multiple of it, by the last bits, the longer two with guarded storage.
    for (operating, parameter, cc, status, guarded) in [
        (false, AT, 0, 0, 0),
        (false, AT + 10, 0, 0, 0),
        (false, AT + 11, 0, 0, 0x33),
        (false, AT + 12, 0, 0, 0x33),
        (false, AT + 0x400, 0, 0, 0),
        (false, AT + 0x400 + 11, 1, 0x100, 0),
        (false, AT + 0x800 + 12, 1, 0x100, 0),
        (false, AT + 0x10, 1, 0x100, 0),
        (false, AT + 9, 1, 0x100, 0),
        (false, AT + 13, 1, 0x100, 0),
        (false, MIB, 1, 0x100, 0),
        (false, 0u64.wrapping_sub(0x1000) + 12, 1, 0x100, 0),
        (true, AT, 1, 0x200, 0),
    ] {
        let effects: &[&str] = if cc == 0 { &["cpu1 extended"] } else { &[] };
        let two = check(operating, 0x17, parameter, effects, cc, status);
        let at = parameter & !15;
        let vector = if cc == 0 { 0x1f } else { 0 };
        if at < MIB {
            assert_eq!(
                (byte(&two, at + 511), byte(&two, at + 1024 + 31)),
                (vector, guarded),
                "{parameter:x}"
            );
        }
    }

    let two = with_two_cpus(true, &[sigp(5)], 0, 1);
    assert_eq!(two.seen, [Exit::Stopped]);
}

/// What was set since the last run is in the status, above all the prefix.
#[test]
fn the_status_has_the_prefix_that_was_set() {
    // The stopped CPU has no run in between.
    let orders = [sigp(0x0d), sigp(0x0e), sigp(0x09)];
    let two = with_two_cpus(false, &orders, 0x8000, 2);
    assert_eq!(two.first.state().psw.cc(), 0);
    for at in [0x8000 + 280, 0x1318] {
        assert_eq!(two.storage.read_array(AbsoluteAddress(at)), Ok(0x8000u32.to_be_bytes()), "{at:x}");
    }
}

#[test]
fn no_additional_status_without_vectors() {
    let (kernel, _machine, mut cpus) = machine(1);
    cpus[0].set_operating(true);
    cpus[0].set_gr(5, 0x8000);
    kernel.script(0, &[sigp(0x17), STOP]);
    assert_eq!(cpus[0].run().unwrap(), Exit::Stopped);
    assert_eq!((cpus[0].state().psw.cc(), cpus[0].gr(4)), (1, 0x02));
}

#[test]
fn signal_processor_to_nobody_and_to_itself() {
    let (kernel, _machine, mut cpus) = machine(1);
    cpus[0].set_operating(true);
    cpus[0].set_gr(3, 7);
    cpus[0].set_gr(5, MIB);
    kernel.script(0, &[sigp(5), STOP]);
    assert_eq!(cpus[0].run().unwrap(), Exit::Stopped);
    assert_eq!(cpus[0].state().psw.cc(), 3);
    cpus[0].set_operating(true);
    cpus[0].set_gr(3, 0);
    kernel.take_calls();
    // A prefix outside storage; then the CPU stops itself.
    kernel.script(0, &[sigp(0x0d), sigp(5)]);
    assert_eq!(cpus[0].run().unwrap(), Exit::Stopped);
    assert_eq!((cpus[0].state().psw.cc(), cpus[0].gr(4)), (0, 0x100));
    assert_eq!(kernel.take_calls(), ["cpu0 run", "cpu0 run", "cpu0 stopped"]);
}

#[test]
fn reset_hold_kick_and_restart() {
    let (kernel, machine, mut cpus) = machine(2);
    kernel.state().keys = true;
    let machine = Arc::new(machine);
    for cpu in &mut cpus {
        cpu.set_operating(true);
    }
    let threads: Vec<_> = cpus
        .into_iter()
        .map(|mut cpu| {
            thread::spawn(move || {
                let mut exits = Vec::new();
                while exits.len() < 2 {
                    exits.push(cpu.run().unwrap());
                }
                exits
            })
        })
        .collect();
    let running =
        |n: usize| kernel.wait(move |state| state.cpus.iter().filter(|cpu| cpu.running).count() == n);
    running(2);
    assert_eq!(machine.operating_cpus(), 2);

    let mut inside = None;
    machine.with_cpus_held(&mut || inside = Some(kernel.state().cpus.iter().any(|cpu| cpu.running)));
    assert_eq!(inside, Some(false));
    running(2);

    machine.reset_cpus(ResetKind::Clear, Some(0));
    assert_eq!(machine.operating_cpus(), 1);
    running(1);
    let calls = kernel.take_calls();
    let at = |call: &str| calls.iter().position(|c| c == call).unwrap_or_else(|| panic!("{call}: {calls:?}"));
    assert!(at("cpu1 stopped") < at("cpu1 reset Clear") && at("cpu1 reset Clear") < at("vm keys 0"));
    assert!(at("vm keys 0") < at("vm clear keys 0+256"));
    assert!(at("vm set 2.0 (0 bytes)") < at("vm set 2.1 (0 bytes)"), "new wrapping keys");
    assert!(!calls.contains(&"cpu0 reset Clear".to_owned()));

    assert!(machine.restart(1) && !machine.restart(2));
    running(2);
    assert!(kernel.take_calls().contains(&"cpu1 post Irq(fffe0003)".to_owned()));

    // A disabled wait is told once; then the CPU waits without the kernel until something is asked of it.
    let waiting = Psw { mask: psw_bits::WAIT, address: 0xfff };
    kernel.state().cpus[0].registers.psw = waiting;
    kernel.script(0, &[Stop::Intercept { code: 0x1c, ipa: 0, ipb: 0 }]);
    while machine.operating_cpus() != 1 {
        thread::yield_now();
    }
    running(1);
    // Kicks that come before a CPU has told of the last one are one.
    while !threads.iter().all(|thread| thread.is_finished()) {
        machine.kick();
        thread::yield_now();
    }
    let exits: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(exits[0], [Exit::DisabledWait(waiting), Exit::Kicked]);
    assert_eq!(exits[1], [Exit::Kicked, Exit::Kicked]);
    assert_eq!(machine.operating_cpus(), 0);
    // Nobody is left to be waited for.
    machine.reset_cpus(ResetKind::Normal, None);
    machine.with_cpus_held(&mut || {});
}

/// A CPU that an operator holds is with the VMM for as long as that takes; a reset does not wait for its end.
#[test]
fn a_reset_does_not_wait_for_held_cpus() {
    let (kernel, machine, mut cpus) = machine(3);
    for cpu in &mut cpus {
        cpu.set_operating(true);
    }
    let (mut third, mut second) = (cpus.pop().unwrap(), cpus.pop().unwrap());
    let runs = thread::spawn(move || {
        let exit = third.run().unwrap();
        (third, exit)
    });
    kernel.wait(|state| state.cpus[2].running);
    kernel.take_calls();
    machine.reset_cpus(ResetKind::Clear, Some(0));
    let calls = kernel.take_calls();
    assert!(calls.contains(&"cpu2 reset Clear".to_owned()), "who runs is waited for: {calls:?}");
    assert!(!calls.contains(&"cpu1 reset Clear".to_owned()));
    // It does not count: it will be stopped before it executes anything.
    assert_eq!(machine.operating_cpus(), 1);
    // Nor is what the operator wants next lost behind the reset.
    assert!(machine.restart(1));
    assert_eq!(machine.operating_cpus(), 2);
    kernel.script(1, &[STOP]);
    assert_eq!(second.run().unwrap(), Exit::Stopped);
    let calls: Vec<_> = kernel.take_calls().into_iter().filter(|call| call.starts_with("cpu1")).collect();
    let want = ["stopped", "reset Clear", "operating", "post Irq(fffe0003)", "run", "stopped"];
    assert_eq!(calls, want.map(|call| format!("cpu1 {call}")));
    machine.kick();
    assert_eq!(runs.join().unwrap().1, Exit::Kicked);
}

#[test]
fn floating_interruptions() {
    let (kernel, machine, _cpus) = machine(1);
    let io = IoInterruption { subsystem_id: 0x0001_0002, parameter: 3, identification: 0x2800_0000 };
    machine.post(Floating::Io(io));
    machine.post(Floating::Io(IoInterruption::adapter(6)));
    machine.post(Floating::ServiceSignal(0x11));
    machine.post(Floating::ChannelReport);
    assert_eq!(
        kernel.take_calls(),
        [
            format!("Flic set 2.72 {:?}", Irq::io(io)),
            "Flic set 10.6 []".into(),
            format!("Flic set 2.72 {:?}", Irq::service_signal(0x11)),
            format!("Flic set 2.72 {:?}", Irq::channel_report()),
        ]
    );
    // ISC 5: found among others; adapter interruptions and other subclasses are left.
    let other = IoInterruption { identification: 0x0800_0000, ..io };
    kernel.state().floating =
        vec![Irq::restart(), Irq::io(IoInterruption::adapter(5)), Irq::io(other), Irq::io(io)];
    assert_eq!(machine.take_io(0x80 >> 3), None);
    kernel.take_calls();
    assert_eq!(machine.take_io(0x80 >> 5), Some(io));
    assert_eq!(kernel.take_calls(), ["Flic get 1", "Flic set 8.4 [0, 1, 0, 2]"]);
    machine.clear();
    assert_eq!(kernel.take_calls(), ["Flic set 3.0 []"]);
    // What the kernel refuses does not stop the machine.
    kernel.state().refuse = Some(0);
    machine.post(Floating::ChannelReport);
    kernel.take_calls();
    kernel.state().refuse = Some(0);
    assert_eq!(machine.take_io(0xff), None);
}

#[test]
fn notifications_and_vfio() {
    let (kernel, machine, _cpus) = machine(1);
    let event = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
    machine.notification(&event, 0x0001_0002, 1, true).unwrap();
    machine.notification(&event, 0x0001_0002, 1, false).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let number = file.as_raw_fd().to_ne_bytes();
    let files = machine.vfio_files().unwrap();
    files.add(file.as_fd()).unwrap();
    files.remove(file.as_fd()).unwrap();
    drop(files);
    assert_eq!(
        kernel.take_calls(),
        [
            "vm notification 10002.1 true",
            "vm notification 10002.1 false",
            "open Vfio",
            &format!("Vfio set 1.1 {number:x?}"),
            &format!("Vfio set 1.2 {number:x?}"),
            "close Vfio",
        ]
    );
    kernel.state().refuse = Some(0);
    let error = machine.notification(&event, 0x0001_0002, 1, true).unwrap_err().to_string();
    assert_eq!(error, "notifications of queue 1 of subchannel 10002");
}
