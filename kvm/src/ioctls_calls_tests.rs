//! What reaches the kernel: requests and the bytes of their arguments, as the interface documents them, by a layer below
//! kvm-ioctls and our own ioctls (Linux, `Documentation/virt/kvm/api.rst`).

use std::collections::BTreeMap;
use std::thread;

use scripted_kernel::{Answer, Answers, Call, Event, Memory, Script, Shape, block, number};
use vmm_sys_util::eventfd::EFD_NONBLOCK;
use zarch::FacilityList;

use super::*;
use crate::kernel::attribute;
use crate::model::{MACHINE, Processor};
use crate::{Ap, Machine, Options, VfioFiles};
use machine::{Vcpu as _, Vm as _};

const GET_API_VERSION: u32 = 0xae00;
const CREATE_VM: u32 = 0xae01;
const CHECK_EXTENSION: u32 = 0xae03;
const GET_VCPU_MMAP_SIZE: u32 = 0xae04;
const CREATE_VCPU: u32 = 0xae41;
const SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;
const IOEVENTFD: u32 = 0x4040_ae79;
const RUN: u32 = 0xae80;
const INITIAL_RESET: u32 = 0xae97;
const SET_MP_STATE: u32 = 0x4004_ae99;
const ENABLE_CAP: u32 = 0x4068_aea3;
const GET_ONE_REG: u32 = 0x4010_aeab;
const MEM_OP: u32 = 0x4040_aeb1;
const GET_SKEYS: u32 = 0x4040_aeb2;
const SET_SKEYS: u32 = 0x4040_aeb3;
const IRQ: u32 = 0x4048_aeb4;
const SET_IRQ_STATE: u32 = 0x4020_aeb5;
const GET_IRQ_STATE: u32 = 0x4020_aeb6;
const NORMAL_RESET: u32 = 0xaec3;
const CLEAR_RESET: u32 = 0xaec4;
const CREATE_DEVICE: u32 = 0xc00c_aee0;
const SET_DEVICE_ATTR: u32 = 0x4018_aee1;
const GET_DEVICE_ATTR: u32 = 0x4018_aee2;
const HAS_DEVICE_ATTR: u32 = 0x4018_aee3;

/// Requests with their names, without what all begin with.
const NAMES: [(u32, &str); 24] = [
    (GET_API_VERSION, "version"),
    (CREATE_VM, "create vm"),
    (CHECK_EXTENSION, "extension"),
    (GET_VCPU_MMAP_SIZE, "mmap size"),
    (CREATE_VCPU, "create cpu"),
    (SET_USER_MEMORY_REGION, "storage"),
    (IOEVENTFD, "ioeventfd"),
    (RUN, "run"),
    (GET_ONE_REG, "register"),
    (INITIAL_RESET, "initial reset"),
    (SET_MP_STATE, "state"),
    (ENABLE_CAP, "enable"),
    (MEM_OP, "access"),
    (GET_SKEYS, "keys"),
    (SET_SKEYS, "set keys"),
    (IRQ, "irq"),
    (SET_IRQ_STATE, "set pending"),
    (GET_IRQ_STATE, "pending"),
    (NORMAL_RESET, "normal reset"),
    (CLEAR_RESET, "clear reset"),
    (CREATE_DEVICE, "create device"),
    (SET_DEVICE_ATTR, "set"),
    (GET_DEVICE_ATTR, "get"),
    (HAS_DEVICE_ATTR, "has"),
];

/// Where members of `struct kvm_run` are.
mod at {
    pub const IMMEDIATE_EXIT: u64 = 1;
    pub const EXIT_REASON: u64 = 8;
    pub const PSW: u64 = 32;
    pub const PAYLOAD: u64 = 48;
    pub const VALID: u64 = 304;
    pub const DIRTY: u64 = 312;
    pub const PREFIX: u64 = 320;
    pub const GPRS: u64 = 328;
    pub const ACRS: u64 = 456;
    pub const CRS: u64 = 520;
    pub const VRS: u64 = 712;
    pub const FPC: u64 = 1736;
}

/// What the next calls do beside what they always do.
#[derive(Default)]
struct Plan {
    /// What requests return, instead of 0.
    results: BTreeMap<u32, i32>,
    /// What is read through a pointer in an argument.
    gives: Vec<u8>,
    /// What was written through such pointers, of `takes` bytes each.
    taken: Vec<Vec<u8>>,
    takes: usize,
    /// What a run leaves in the shared block, and sees there.
    leaves: Vec<(u64, Vec<u8>)>,
    looks: Vec<(u64, usize)>,
    seen: Vec<Vec<u8>>,
}

type Plans = Arc<Mutex<Plan>>;

/// An s390x host's KVM.
struct Host(Plans);

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn double(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The attribute of the VM as a host of the machine type 3906 has it.
fn vm_attribute(group: u32, number: u64) -> Vec<u8> {
    let facilities = |bits| FacilityList::from_bits(bits);
    match (group, number) {
        (attribute::MEM_CTRL, _) => vec![0xff; 8],
        (attribute::CPU_MODEL, attribute::CPU_PROCESSOR) => {
            Processor { id: 0x3906_8000, ibc: 0, facilities: facilities(&[0, 1, 2, 76]) }.bytes().to_vec()
        }
        (attribute::CPU_MODEL, attribute::CPU_MACHINE) => {
            let all = Processor { id: 0, ibc: 0, facilities: facilities(&[0, 1, 2, 12, 15, 65, 76]) }.bytes();
            let mut machine = vec![0; MACHINE];
            machine[16..all.len()].copy_from_slice(&all[16..]);
            machine
        }
        _ => Vec::new(),
    }
}

impl Answers for Host {
    fn path(&mut self, path: &str) -> Option<String> {
        (path == "/dev/kvm").then(|| "kvm".into())
    }

    fn shape(&self, request: u32) -> Shape {
        match (request, request >> 16 & 0x3fff) {
            (_, 0) => Shape::Value,
            (_, size) => Shape::Bytes(size as usize),
        }
    }

    fn answer(&mut self, call: &Call, memory: &Memory<'_>) -> Answer {
        let mut plan = self.0.lock().unwrap();
        let argument = &call.argument[..];
        let result = plan.results.get(&call.request).copied();
        let pointer = match call.request {
            SET_DEVICE_ATTR | GET_DEVICE_ATTR | GET_SKEYS | SET_SKEYS => 16,
            SET_IRQ_STATE | GET_IRQ_STATE => 0,
            MEM_OP => 24,
            GET_ONE_REG => 8,
            _ => usize::MAX,
        };
        if pointer != usize::MAX {
            let mut gives = plan.gives.clone();
            if call.file == "vm" && call.request == GET_DEVICE_ATTR {
                gives = vm_attribute(word(argument, 4), double(argument, 8));
            }
            let (there, takes) = (double(argument, pointer) as *mut u8, plan.takes);
            if !there.is_null() {
                // SAFETY: whoever calls says that so much is there; tests give no more and take no more.
                unsafe { ptr::copy_nonoverlapping(gives.as_ptr(), there, gives.len()) };
                // SAFETY: as above.
                let bytes = unsafe { std::slice::from_raw_parts(there, takes) };
                plan.taken.push(bytes.to_vec());
            }
        }
        match call.request {
            GET_API_VERSION => Answer::result(result.unwrap_or(12)),
            CHECK_EXTENSION => Answer::result(result.unwrap_or(4096)),
            GET_VCPU_MMAP_SIZE => Answer::result(0x4000),
            CREATE_VM => Answer::opens("vm"),
            CREATE_DEVICE => {
                let name = match word(argument, 0) {
                    4 => "vfio",
                    6 => "flic",
                    other => panic!("devices of type {other} are not made"),
                };
                Answer { opens: Some(name.into()), opens_into: Some(4), ..Answer::default() }
            }
            CREATE_VCPU => Answer::opens(format!("cpu{}", double(argument, 0))),
            RUN => {
                for (at, length) in std::mem::take(&mut plan.looks) {
                    plan.seen.push(memory.read(at, length));
                }
                for (at, bytes) in &plan.leaves {
                    memory.write(*at, bytes);
                }
                Answer::result(result.unwrap_or(0))
            }
            _ => Answer::result(result.unwrap_or(0)),
        }
    }
}

/// What happened, in words: file, request, and the part of the argument that tells calls of one kind apart.
fn told(event: &Event) -> String {
    let call = match event {
        Event::Open(name) => return format!("open {name}"),
        Event::Close(name) => return format!("close {name}"),
        Event::Ioctl(call) => call,
    };
    let argument = &call.argument[..];
    let what = match call.request {
        SET_DEVICE_ATTR | GET_DEVICE_ATTR | HAS_DEVICE_ATTR => {
            format!(" {}.{}", word(argument, 4), double(argument, 8))
        }
        CHECK_EXTENSION | CREATE_VCPU => format!(" {}", double(argument, 0)),
        ENABLE_CAP | SET_MP_STATE | CREATE_DEVICE => format!(" {}", word(argument, 0)),
        _ => String::new(),
    };
    let name = NAMES.iter().find(|(request, _)| *request == call.request).expect("a request that is known").1;
    format!("{} {name}{what}", call.file)
}

fn script() -> (Script, Plans) {
    let plans = Plans::default();
    (Script::new(Host(plans.clone())), plans)
}

/// A VM that has storage, and nothing that was asked so far.
fn vm(script: &Script) -> Arc<dyn kernel::Vm> {
    let vm = open().unwrap().create_vm().unwrap();
    script.take();
    vm
}

/// One ioctl: of `file`, with this request and argument.
#[track_caller]
fn check(script: &Script, file: &str, request: u32, argument: &str) {
    let events = script.take();
    let [Event::Ioctl(call)] = &events[..] else { panic!("one ioctl, not {events:x?}") };
    assert_eq!((&call.file[..], call.request), (file, request), "{:x}", call.request);
    assert_eq!(call.argument, block(argument), "{argument}");
}

/// An action is refused with each of these numbers, and says so.
#[track_caller]
fn refusals<T>(script: &Script, action: &mut dyn FnMut() -> io::Result<T>) {
    for errno in [libc::EINTR, libc::EAGAIN, libc::EINVAL, libc::EFAULT] {
        script.refuse(0, errno);
        let Err(error) = action() else { panic!("{errno} is no success") };
        assert_eq!(error.raw_os_error(), Some(errno));
        script.take();
    }
    script.refuse(usize::MAX, 0);
}

#[test]
fn a_vm_by_ioctls() {
    let (script, plans) = script();
    let vm = vm(&script);
    assert_eq!(vm.extension(85), 4096);
    check(&script, "vm", CHECK_EXTENSION, "0000000000000055");
    vm.enable(106).unwrap();
    check(&script, "vm", ENABLE_CAP, &format!("0000006a 00000000 {}", "00".repeat(96)));
    refusals(&script, &mut || vm.enable(106));

    assert!(vm.has_attribute(2, 4));
    check(&script, "vm", HAS_DEVICE_ATTR, "00000000 00000002 0000000000000004 0000000000000000");
    plans.lock().unwrap().results.insert(HAS_DEVICE_ATTR, -libc::ENXIO);
    assert!(!vm.has_attribute(2, 4));
    script.take();
    vm.set_attribute(2, 4, &[]).unwrap();
    check(&script, "vm", SET_DEVICE_ATTR, "00000000 00000002 0000000000000004 0000000000000000");
    let data = [1, 2, 3, 4, 5, 6, 7, 8];
    plans.lock().unwrap().takes = 8;
    vm.set_attribute(1, 0, &data).unwrap();
    let want = format!("00000000 00000001 0000000000000000 {:016x}", data.as_ptr() as u64);
    check(&script, "vm", SET_DEVICE_ATTR, &want);
    assert_eq!(plans.lock().unwrap().taken, [data.to_vec()]);
    let mut limit = [0; 8];
    vm.get_attribute(0, 2, &mut limit).unwrap();
    let want = format!("00000000 00000000 0000000000000002 {:016x}", limit.as_ptr() as u64);
    check(&script, "vm", GET_DEVICE_ATTR, &want);
    assert_eq!(limit, [0xff; 8]);
    refusals(&script, &mut || vm.set_attribute(1, 0, &data));
    refusals(&script, &mut || vm.get_attribute(0, 2, &mut limit));

    let storage = Arc::new(Storage::new(1 << 20).unwrap());
    let base = storage.host_base() as u64;
    vm.set_storage(storage.clone()).unwrap();
    let want = format!("00000000 00000000 0000000000000000 0000000000100000 {base:016x}");
    check(&script, "vm", SET_USER_MEMORY_REGION, &want);
    refusals(&script, &mut || vm.set_storage(storage.clone()));
}

#[test]
fn storage_keys_by_ioctls() {
    let (script, plans) = script();
    let vm = vm(&script);
    plans.lock().unwrap().gives = vec![0x10, 0x20, 0x36];
    let mut keys = [0xee; 3];
    assert!(vm.keys(0x12345, &mut keys).unwrap());
    let rest = format!("00000000 {}", "00000000 ".repeat(9));
    let want = format!("0000000000012345 0000000000000003 {:016x} {rest}", keys.as_ptr() as u64);
    check(&script, "vm", GET_SKEYS, &want);
    assert_eq!(keys, [0x10, 0x20, 0x36]);
    refusals(&script, &mut || vm.keys(0, &mut keys));
    // No guest without keys has any: KVM_S390_GET_SKEYS_NONE.
    plans.lock().unwrap().results.insert(GET_SKEYS, 1);
    assert!(!vm.keys(0, &mut keys).unwrap());
    script.take();

    *plans.lock().unwrap() = Plan { takes: 4, ..Plan::default() };
    let keys = [0x00, 0xf8, 0x06, 0xfe];
    vm.set_keys(7, &keys).unwrap();
    let want = format!("0000000000000007 0000000000000004 {:016x} {rest}", keys.as_ptr() as u64);
    check(&script, "vm", SET_SKEYS, &want);
    assert_eq!(plans.lock().unwrap().taken, [keys.to_vec()]);
    refusals(&script, &mut || vm.set_keys(7, &keys));
}

#[test]
fn notifications_by_ioctls() {
    let (script, _plans) = script();
    let vm = vm(&script);
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    // Flags: compare the queue, a virtio-ccw notification; the other way also: take it back.
    for (on, flags) in [(true, "00000009"), (false, "0000000d")] {
        vm.notification(&event, 0x0001_0042, 5, on).unwrap();
        let want = format!(
            "0000000000000005 0000000000010042 00000008 {} {flags} {}",
            number(&event),
            "00".repeat(36)
        );
        check(&script, "vm", IOEVENTFD, &want);
        refusals(&script, &mut || vm.notification(&event, 0x0001_0042, 5, on));
    }
}

#[test]
fn devices_by_ioctls() {
    let (script, plans) = script();
    let vm = vm(&script);
    for (kind, name, number) in
        [(DeviceKind::Vfio, "vfio", "00000004"), (DeviceKind::Flic, "flic", "00000006")]
    {
        let device = vm.create_device(kind).unwrap();
        check(&script, "vm", CREATE_DEVICE, &format!("{number} 00000000 00000000"));
        assert_eq!(script.open(), ["vm", name]);
        plans.lock().unwrap().takes = 3;
        let data = [9, 8, 7];
        device.set(6, 0x1_0000_0002, &data).unwrap();
        let want = format!("00000000 00000006 0000000100000002 {:016x}", data.as_ptr() as u64);
        check(&script, name, SET_DEVICE_ATTR, &want);
        assert_eq!(plans.lock().unwrap().taken.pop(), Some(data.to_vec()));
        refusals(&script, &mut || device.set(6, 2, &data));
        // GET_ALL_IRQS answers with a number.
        *plans.lock().unwrap() =
            Plan { results: BTreeMap::from([(GET_DEVICE_ATTR, 2)]), gives: vec![0xab; 4], ..Plan::default() };
        let mut buffer = [0; 4];
        assert_eq!(device.get(1, 4, &mut buffer).unwrap(), 2);
        let want = format!("00000000 00000001 0000000000000004 {:016x}", buffer.as_ptr() as u64);
        check(&script, name, GET_DEVICE_ATTR, &want);
        assert_eq!(buffer, [0xab; 4]);
        refusals(&script, &mut || device.get(1, 4, &mut buffer));
        *plans.lock().unwrap() = Plan::default();
        drop(device);
        assert_eq!(script.take(), [Event::Close(name.into())]);
    }
    refusals(&script, &mut || vm.create_device(DeviceKind::Flic));
}

/// A CPU with or without vector registers, and the script behind it.
fn cpu(script: &Script, plans: &Plans, vectors: bool) -> Box<dyn kernel::Cpu> {
    let mut cpu = vm(script).create_cpu(7).unwrap();
    // The first run lets the kernel say which registers are shared.
    let valid: u64 = if vectors { 0x1cf } else { 0x18f };
    plans.lock().unwrap().leaves = vec![(at::VALID, valid.to_ne_bytes().to_vec())];
    cpu.run().unwrap();
    plans.lock().unwrap().leaves.clear();
    script.take();
    cpu
}

#[test]
fn a_cpu_by_ioctls() {
    let (script, plans) = script();
    let mut cpu = cpu(&script, &plans, true);
    cpu.enable(85).unwrap();
    check(&script, "cpu7", ENABLE_CAP, &format!("00000055 00000000 {}", "00".repeat(96)));
    for (operating, state) in [(false, "00000005"), (true, "00000007")] {
        cpu.set_operating(operating).unwrap();
        check(&script, "cpu7", SET_MP_STATE, state);
    }
    for (kind, request) in [
        (ResetKind::Normal, NORMAL_RESET),
        (ResetKind::Initial, INITIAL_RESET),
        (ResetKind::Clear, CLEAR_RESET),
    ] {
        cpu.reset(kind).unwrap();
        let events = script.take();
        let [Event::Ioctl(Call { file, request: asked, .. })] = &events[..] else { panic!("{events:?}") };
        assert_eq!((&file[..], *asked), ("cpu7", request));
        refusals(&script, &mut || cpu.reset(kind));
    }
    // KVM_REG_S390, the size as a power of two, and the number.
    plans.lock().unwrap().gives = vec![1, 2, 3, 4];
    let extended = cpu.extended().unwrap();
    let four = u32::from_ne_bytes([1, 2, 3, 4]);
    let eight = u64::from_ne_bytes([1, 2, 3, 4, 0, 0, 0, 0]);
    assert_eq!((extended.tod_programmable, extended.timer, extended.comparator), (four, eight, eight));
    let asked: Vec<_> = script
        .take()
        .iter()
        .map(|event| match event {
            Event::Ioctl(Call { request: GET_ONE_REG, argument, .. }) => double(argument, 0),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(asked, [0x5020_0000_0000_0001, 0x5030_0000_0000_0003, 0x5030_0000_0000_0004]);
    refusals(&script, &mut || cpu.enable(85));
    refusals(&script, &mut || cpu.set_operating(true));
    refusals(&script, &mut || cpu.extended());
}

#[test]
fn interruptions_by_ioctls() {
    let (script, plans) = script();
    let cpu = cpu(&script, &plans, true);
    let padding = |n| "00".repeat(n);
    // The type, then the union: KVM_S390_RESTART; a channel report: CR14 and the machine check's code.
    cpu.post(&Irq::restart()).unwrap();
    check(&script, "cpu7", IRQ, &format!("00000000fffe0003 {}", padding(64)));
    cpu.post(&Irq::stop()).unwrap();
    check(&script, "cpu7", IRQ, &format!("00000000fffe0000 {}", padding(64)));
    let pgm = Irq::program(&zarch::ProgramCode::Operation.into());
    cpu.post(&pgm).unwrap();
    // The code is after three doublewords and a word; no flags, so that the kernel adds the length of the instruction.
    let events = script.take();
    let [Event::Ioctl(call)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((call.request, &call.argument), (IRQ, &pgm.0.to_vec()));
    assert_eq!(call.argument[..8], block("00000000fffe0001"));
    assert_eq!((&call.argument[8 + 28..8 + 30], call.argument[8 + 37]), (&[0, 1][..], 0));
    refusals(&script, &mut || cpu.post(&Irq::restart()));

    let one = Irq::restart().0.to_vec();
    *plans.lock().unwrap() = Plan {
        results: BTreeMap::from([(GET_IRQ_STATE, LENGTH as i32)]),
        gives: one.clone(),
        ..Plan::default()
    };
    assert_eq!(cpu.pending().unwrap(), one);
    let events = script.take();
    let [Event::Ioctl(call)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(call.request, GET_IRQ_STATE);
    assert_eq!(call.argument[8..], block(&format!("00000000 {:08x} {}", 544 * 72, padding(16))));
    refusals(&script, &mut || cpu.pending());
    *plans.lock().unwrap() = Plan { takes: LENGTH, ..Plan::default() };
    cpu.set_pending(&one).unwrap();
    let want = format!("{:016x} 00000000 00000048 {}", one.as_ptr() as u64, padding(16));
    check(&script, "cpu7", SET_IRQ_STATE, &want);
    assert_eq!(plans.lock().unwrap().taken, std::slice::from_ref(&one));
    refusals(&script, &mut || cpu.set_pending(&one));
    cpu.set_pending(&[]).unwrap();
    assert_eq!(script.take(), []);
}

#[test]
fn accesses_by_ioctls() {
    let (script, plans) = script();
    let mut read = [0; 4];
    let write = [5, 6, 7];
    for keys in [true, false] {
        plans.lock().unwrap().results.insert(CHECK_EXTENSION, i32::from(keys));
        let cpu = cpu(&script, &plans, true);
        plans.lock().unwrap().results.clear();
        let key = if keys { 4 } else { 0 };
        let go = |transfer: Transfer<'_>, inject, flags: u64, size: u32, op: u32, buffer: u64| {
            let access = Access { address: 0x7fff_f000, ar: 3, key: 9, inject, transfer };
            assert_eq!(cpu.access(access).unwrap(), 0);
            let want = format!(
                "000000007ffff000 {:016x} {size:08x} {op:08x} {buffer:016x} 03 09 {}",
                flags | key,
                "00".repeat(30)
            );
            check(&script, "cpu7", MEM_OP, &want);
        };
        *plans.lock().unwrap() = Plan { gives: vec![1, 2, 3, 4], ..Plan::default() };
        let buffer = read.as_ptr() as u64;
        go(Transfer::Read(&mut read), false, 0, 4, 0, buffer);
        assert_eq!(std::mem::take(&mut read), [1, 2, 3, 4]);
        *plans.lock().unwrap() = Plan { takes: 3, ..Plan::default() };
        go(Transfer::Write(&write), false, 0, 3, 1, write.as_ptr() as u64);
        assert_eq!(plans.lock().unwrap().taken, [write.to_vec()]);
        // Mere checks, with and without making the exception pending.
        go(Transfer::TestRead(0x1000), false, 1, 0x1000, 0, 0);
        go(Transfer::TestWrite(0x2000), true, 3, 0x2000, 1, 0);
    }
    let cpu = cpu(&script, &plans, true);
    let access = |transfer| Access { address: 0, ar: 0, key: 0, inject: false, transfer };
    // Above 0: the guest's exception.
    plans.lock().unwrap().results.insert(MEM_OP, 0x3b);
    assert_eq!(cpu.access(access(Transfer::TestRead(1))).unwrap(), 0x3b);
    script.take();
    assert_eq!(cpu.access(access(Transfer::Write(&[]))).unwrap(), 0);
    assert_eq!(script.take(), [], "nothing to access");
    refusals(&script, &mut || cpu.access(access(Transfer::TestRead(1))));
}

/// Each reason for which a run ends, as the kernel writes it down.
#[test]
fn runs_by_ioctls() {
    let (script, plans) = script();
    let mut cpu = cpu(&script, &plans, true);
    let io =
        IoInterruption { subsystem_id: 0x0001_0042, parameter: 0x1122_3344, identification: 0x5566_7788 };
    let sieic = "04 00 b2ad 00240000";
    let tsch = |dequeued| format!("0001 0042 11223344 55667788 b1230000 {dequeued}");
    for (reason, payload, want) in [
        (10, "", Stop::Interrupted),
        (13, sieic, Stop::Intercept { code: 4, ipa: 0xb2ad, ipb: 0x0024_0000 }),
        (22, &tsch("01"), Stop::TestSubchannel { dequeued: Some(io), ipb: 0xb123_0000 }),
        (22, &tsch("00"), Stop::TestSubchannel { dequeued: None, ipb: 0xb123_0000 }),
        (
            25,
            "0000000000003000 05 00 03 02 0007",
            Stop::StoreSystemInformation {
                address: 0x3000,
                ar: 5,
                function_code: 3,
                selector1: 2,
                selector2: 7,
            },
        ),
        (14, "000000000000001e", Stop::Reset { clear: true }),
        (14, "000000000000001c", Stop::Reset { clear: false }),
        (4, "0000000000004000 02", Stop::Debug { address: 0x4000, kind: 2 }),
        (17, "", Stop::Other(17)),
    ] {
        plans.lock().unwrap().leaves =
            vec![(at::PAYLOAD, block(payload)), (at::EXIT_REASON, block(&format!("{reason:08x}")))];
        assert_eq!(cpu.run().unwrap(), want);
        let events = script.take();
        assert_eq!(events.iter().map(told).collect::<Vec<_>>(), ["cpu7 run"]);
    }
    // A signal: what the block says is old.
    for errno in [libc::EINTR, libc::EAGAIN] {
        script.refuse(0, errno);
        assert_eq!(cpu.run().unwrap(), Stop::Interrupted);
        script.take();
    }
    for errno in [libc::EFAULT, libc::EINVAL, libc::ENOEXEC] {
        script.refuse(0, errno);
        assert_eq!(cpu.run().unwrap_err().raw_os_error(), Some(errno));
        script.take();
    }
    // A kick before the run: it ends at once, and the next does not.
    script.refuse(usize::MAX, 0);
    let kick = cpu.arm();
    kick.kick();
    plans.lock().unwrap().looks = vec![(at::IMMEDIATE_EXIT, 1)];
    // The signal comes to this thread before `pthread_kill` returns.
    cpu.run().unwrap();
    plans.lock().unwrap().looks = vec![(at::IMMEDIATE_EXIT, 1)];
    cpu.run().unwrap();
    assert_eq!(plans.lock().unwrap().seen, [[1], [0]]);
    // Another thread may drop it.
    thread::scope(|scope| scope.spawn(move || drop(cpu)).join().unwrap());
    let events: Vec<_> = script.take().iter().map(told).collect();
    assert_eq!(events, ["cpu7 run", "cpu7 run", "close cpu7", "close vm"]);
}

/// The registers in the shared block, and which of them the kernel is told to take over.
#[test]
fn shared_registers() {
    let (script, plans) = script();
    for vectors in [true, false] {
        let mut cpu = cpu(&script, &plans, vectors);
        let registers = Registers {
            psw: Psw { mask: 0x0001_0001_8000_0000, address: 0x1234_5678_9abc_def0 },
            gr: std::array::from_fn(|n| 0x1000 + n as u64),
            ar: std::array::from_fn(|n| 0x2000 + n as u32),
            cr: std::array::from_fn(|n| 0x3000 + n as u64),
            fpr: std::array::from_fn(|n| 0x4000 + n as u64),
            fpc: 0x0080_0000,
            prefix: 0x0001_2000,
        };
        cpu.set_registers(&registers);
        assert_eq!(cpu.registers(), registers);
        let step = if vectors { 16 } else { 8 };
        plans.lock().unwrap().looks = vec![
            (at::PSW, 16),
            (at::PREFIX, 8),
            (at::GPRS + 15 * 8, 8),
            (at::ACRS + 15 * 4, 4),
            (at::CRS + 15 * 8, 8),
            (at::VRS + 15 * step, 8),
            (at::FPC, 4),
            (at::DIRTY, 8),
        ];
        cpu.run().unwrap();
        // PREFIX 1, GPRS 2, ACRS 4, CRS 8; VRS 40, FPRS 100.
        let dirty = if vectors { "000000000000004f" } else { "000000000000010f" };
        let want = [
            "0001000180000000 123456789abcdef0",
            "0000000000012000",
            "000000000000100f",
            "0000200f",
            "000000000000300f",
            "000000000000400f",
            "00800000",
            dirty,
        ];
        let seen = std::mem::take(&mut plans.lock().unwrap().seen);
        assert_eq!(seen, want.map(block));
        // What the guest did meanwhile.
        plans.lock().unwrap().leaves = vec![
            (at::PSW, block("0002000180000000 0000000000000fff")),
            (at::GPRS + 8, block("00000000deadbeef")),
            (at::DIRTY, vec![0; 8]),
        ];
        cpu.run().unwrap();
        plans.lock().unwrap().leaves.clear();
        assert_eq!((cpu.gr(1), cpu.psw().address), (0xdead_beef, 0xfff));
        cpu.set_gr(2, 5);
        cpu.set_psw(Psw { mask: 0, address: 0x800 });
        plans.lock().unwrap().looks = vec![(at::GPRS + 16, 8), (at::PSW + 8, 8), (at::DIRTY, 8)];
        cpu.run().unwrap();
        let seen = std::mem::take(&mut plans.lock().unwrap().seen);
        assert_eq!(seen, ["0000000000000005", "0000000000000800", "0000000000000002"].map(block));
        // A reset wins over what was set before it.
        cpu.set_gr(2, 6);
        cpu.reset(ResetKind::Initial).unwrap();
        plans.lock().unwrap().looks = vec![(at::DIRTY, 8), (at::PREFIX, 8)];
        cpu.run().unwrap();
        assert_eq!(std::mem::take(&mut plans.lock().unwrap().seen), [[0; 8], [0; 8]]);
        script.take();
    }
}

fn options() -> Options {
    let disassemble = |_: &[u8], _| String::new();
    Options { cpus: 1, name: "max".into(), model: None, ap: Ap::Interpreted, tod: 0x1234, disassemble }
}

/// A machine from its start over a device's hot-plug, a reset and the unplug to the end. The error where one comes.
fn whole() -> Result<(), String> {
    let text = |e: &dyn std::error::Error| {
        std::iter::successors(Some(e), |e| e.source()).map(|e| format!("{e}; ")).collect::<String>()
    };
    let kvm = open().map_err(|e| text(&e))?;
    let storage = Arc::new(Storage::new(1 << 20).unwrap());
    let (machine, mut cpus) = Machine::new(&*kvm, &options(), storage).map_err(|e| text(&e))?;
    let files: VfioFiles = machine.vfio_files().map_err(|e| text(&e))?;
    let group = std::fs::File::open("/dev/null").unwrap();
    files.add(std::os::fd::AsFd::as_fd(&group)).map_err(|e| text(&e))?;
    // The CPU that resets the machine resets itself.
    machine.reset_cpus(ResetKind::Clear, Some(0));
    cpus[0].reset(ResetKind::Clear);
    files.remove(std::os::fd::AsFd::as_fd(&group)).map_err(|e| text(&e))?;
    drop(cpus);
    Ok(())
}

/// Everything that is asked without a refusal, but for questions about capabilities and attributes.
const WHOLE: [&str; 46] = [
    "open kvm",
    "kvm version",
    "kvm version",
    "kvm create vm",
    "kvm mmap size",
    "vm get 0.2",
    "vm set 0.2",
    "vm enable 106",
    "vm enable 109",
    "vm enable 107",
    "vm enable 140",
    "vm enable 152",
    "vm get 3.0",
    "vm get 3.1",
    "vm set 3.0",
    "vm set 3.2",
    "vm get 3.5",
    "vm set 3.4",
    "vm set 2.4",
    "vm set 1.0",
    "vm storage",
    "vm create device 6",
    "flic set 6.0",
    "flic set 6.0",
    "flic set 6.0",
    "flic set 6.0",
    "flic set 6.0",
    "flic set 6.0",
    "flic set 6.0",
    "flic set 6.0",
    "vm create cpu 0",
    "cpu0 enable 85",
    "cpu0 state 5",
    "vm create device 4",
    "vfio set 1.1",
    "vm keys",
    "vm set keys",
    "vm set 2.0",
    "vm set 2.1",
    "cpu0 clear reset",
    "vfio set 1.2",
    "close cpu0",
    "close vfio",
    "close flic",
    "close vm",
    "close kvm",
];

/// Whether a step is a question, whose refusal means no.
fn asks(step: &str) -> bool {
    step.contains(" extension ") || step.contains(" has ")
}

/// Whatever is refused: what was to be done is said, and nothing stays open.
#[test]
fn the_whole_way_by_ioctls() {
    let refused_at = |n, errno| {
        let (script, _plans) = script();
        script.refuse(n, errno);
        let result = whole();
        let steps: Vec<_> = script.take().iter().map(told).collect();
        assert_eq!(script.open(), [""; 0], "{steps:?}");
        (result, steps)
    };
    let (result, steps) = refused_at(usize::MAX, 0);
    result.unwrap();
    let answers: Vec<_> = steps.iter().filter(|step| !asks(step)).collect();
    assert_eq!(answers, WHOLE);

    // A reset cannot be refused: these are told to the log, or by the CPU's next run.
    let goes_on = ["vm keys", "vm set keys", "vm set 2.0", "vm set 2.1", "cpu0 clear reset"];
    for (n, step) in steps.iter().enumerate().filter(|(_, step)| !step.starts_with("close ")) {
        let (result, calls) = refused_at(n, libc::EIO);
        assert_eq!(calls[..=n], steps[..=n], "nothing else is done before");
        match result {
            Ok(()) => assert!(asks(step) || goes_on.contains(&&step[..]), "{step}"),
            Err(_) if asks(step) => {}
            Err(text) if step.ends_with(" version") => assert!(text.contains("version -1"), "{step}: {text}"),
            Err(text) => {
                assert!(text.contains("(os error 5)"), "{step}: {text}");
                let rest = &calls[n + 1..];
                assert!(rest.iter().all(|call| call.starts_with("close ")), "{step}: {rest:?}");
            }
        }
    }
    // A signal that comes while the VM is made.
    let made = steps.iter().position(|step| step == "kvm create vm").unwrap();
    let (result, mut calls) = refused_at(made, libc::EINTR);
    result.unwrap();
    assert_eq!(calls.remove(made + 1), "kvm create vm");
    assert_eq!(calls, steps);
}
