//! A kernel that writes down what is asked of it, answers as a test says, and refuses what a test says.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use machine::{ResetKind, Storage};
use vmm_sys_util::eventfd::EventFd;
use zarch::{AbsoluteAddress, FacilityList, Psw};

use crate::interruption::{Irq, LENGTH};
use crate::kernel::{self, Access, DeviceKind, Extended, Kick, Registers, Stop, Transfer, attribute};
use crate::model::{LIST, MACHINE, Processor};

/// What all descriptors share.
#[derive(Default)]
pub struct State {
    /// Every call that changes something or may fail, in order.
    pub calls: Vec<String>,
    /// Which of them is refused, counted from 0.
    pub refuse: Option<usize>,
    /// With which error; with EIO if 0.
    pub errno: i32,
    /// The same by what is called: the one that begins so and comes after so many others that do.
    pub refuse_text: Option<(String, usize)>,
    /// Descriptors that are open.
    pub open: usize,
    /// Capabilities that are missing.
    pub missing: Vec<u32>,
    /// Attributes that do not exist.
    pub absent: Vec<(u32, u64)>,
    /// The interface's version.
    pub version: i32,
    /// Facilities that guests get by default.
    pub default: FacilityList,
    /// Those they may have.
    pub possible: FacilityList,
    /// Whether the guest uses storage keys.
    pub keys: bool,
    /// Most bytes of storage that a guest may have.
    pub limit: u64,
    /// The guest's storage, which it sees at its absolute addresses.
    pub storage: Option<Arc<Storage>>,
    /// Interruptions that the controller has pending.
    pub floating: Vec<Irq>,
    /// The CPUs, by address.
    pub cpus: Vec<CpuState>,
}

/// One CPU.
#[derive(Default)]
pub struct CpuState {
    /// Its registers.
    pub registers: Registers,
    /// What it has beside them.
    pub extended: Extended,
    /// How coming runs end; without any they go on until kicked.
    pub stops: VecDeque<Stop>,
    /// What accesses to storage answer, first to last; then 0.
    pub codes: VecDeque<u16>,
    /// What reads give, if not what is in storage.
    pub storage: Vec<u8>,
    /// Whether the run that goes on, or the next, is to end.
    pub kicked: bool,
    /// Whether it runs.
    pub running: bool,
}

/// The kernel.
#[derive(Clone, Default)]
pub struct Recorder(Arc<(Mutex<State>, Condvar)>);

/// Closes with its last use.
struct Descriptor {
    recorder: Recorder,
    name: String,
}

impl Recorder {
    /// A kernel that has everything and offers the facilities 0, 1, 2, 76 and AP's.
    pub fn new() -> Self {
        let recorder = Self::default();
        {
            let mut state = recorder.state();
            state.version = 12;
            state.limit = u64::MAX;
            state.default = FacilityList::from_bits(&[0, 1, 2, 76]);
            state.possible = FacilityList::from_bits(&[0, 1, 2, 12, 15, 65, 76]);
        }
        recorder
    }

    /// The state of everything.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calls so far, which are forgotten.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }

    /// Waits until `condition` holds.
    pub fn wait(&self, condition: impl Fn(&State) -> bool) {
        let mut state = self.state();
        while !condition(&state) {
            state = self.0.1.wait(state).unwrap();
        }
    }

    /// Lets the next runs of a CPU end so.
    pub fn script(&self, cpu: usize, stops: &[Stop]) {
        self.state().cpus[cpu].stops.extend(stops);
        self.0.1.notify_all();
    }

    /// Writes a call down, which may be one of another kernel's interfaces.
    ///
    /// # Errors
    /// EIO or what a test says, if it says so.
    pub fn call(&self, call: String) -> io::Result<()> {
        let mut state = self.state();
        let by_text = match &mut state.refuse_text {
            Some((text, others)) if call.starts_with(text.as_str()) => {
                *others = others.wrapping_sub(1);
                *others == usize::MAX
            }
            _ => false,
        };
        state.calls.push(call);
        self.0.1.notify_all();
        let by_number = state.refuse.is_some_and(|n| n == state.calls.len() - 1);
        if by_number || by_text {
            let errno = if state.errno == 0 { 5 } else { state.errno };
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok(())
    }

    /// Writes down what cannot be refused.
    pub fn note(&self, call: String) {
        self.state().calls.push(call);
        self.0.1.notify_all();
    }

    fn open(&self, name: String) -> io::Result<Descriptor> {
        self.call(format!("open {name}"))?;
        self.state().open += 1;
        Ok(Descriptor { recorder: self.clone(), name })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.recorder.state().open -= 1;
        self.recorder.note(format!("close {}", self.name));
    }
}

impl kernel::Kvm for Recorder {
    fn version(&self) -> i32 {
        self.state().version
    }

    fn extension(&self, capability: u32) -> i32 {
        if self.state().missing.contains(&capability) { 0 } else { 4096 }
    }

    fn create_vm(&self) -> io::Result<Arc<dyn kernel::Vm>> {
        Ok(Arc::new(Vm(self.open("vm".into())?)))
    }
}

struct Vm(Descriptor);

impl kernel::Vm for Vm {
    fn extension(&self, capability: u32) -> i32 {
        kernel::Kvm::extension(&self.0.recorder, capability)
    }

    fn enable(&self, capability: u32) -> io::Result<()> {
        self.0.recorder.call(format!("vm enable {capability}"))
    }

    fn has_attribute(&self, group: u32, attribute: u64) -> bool {
        !self.0.recorder.state().absent.contains(&(group, attribute))
    }

    fn set_attribute(&self, group: u32, number: u64, data: &[u8]) -> io::Result<()> {
        self.0.recorder.call(format!("vm set {group}.{number} ({} bytes)", data.len()))
    }

    fn get_attribute(&self, group: u32, number: u64, data: &mut [u8]) -> io::Result<()> {
        self.0.recorder.call(format!("vm get {group}.{number}"))?;
        let state = self.0.recorder.state();
        match (group, number) {
            (attribute::MEM_CTRL, _) => data.copy_from_slice(&state.limit.to_be_bytes()),
            (attribute::CPU_MODEL, attribute::CPU_PROCESSOR) => {
                let processor = Processor { id: 0x3906_8000, ibc: 0, facilities: state.default };
                data.copy_from_slice(&processor.bytes());
            }
            (attribute::CPU_MODEL, attribute::CPU_MACHINE) => {
                assert_eq!(data.len(), MACHINE);
                let possible = Processor { id: 0, ibc: 0, facilities: state.possible }.bytes();
                data[16..16 + LIST].copy_from_slice(&possible[16..]);
            }
            _ => data.fill(0xff),
        }
        Ok(())
    }

    fn set_storage(&self, storage: Arc<Storage>) -> io::Result<()> {
        self.0.recorder.call(format!("vm storage {}", storage.size()))?;
        self.0.recorder.state().storage = Some(storage);
        Ok(())
    }

    fn create_cpu(&self, address: u16) -> io::Result<Box<dyn kernel::Cpu>> {
        let descriptor = self.0.recorder.open(format!("cpu{address}"))?;
        self.0.recorder.state().cpus.push(CpuState::default());
        Ok(Box::new(Cpu { descriptor, address: address.into() }))
    }

    fn create_device(&self, kind: DeviceKind) -> io::Result<Arc<dyn kernel::Device>> {
        Ok(Arc::new(Device(self.0.recorder.open(format!("{kind:?}"))?)))
    }

    fn keys(&self, first: u64, _: &mut [u8]) -> io::Result<bool> {
        self.0.recorder.call(format!("vm keys {first}"))?;
        Ok(self.0.recorder.state().keys)
    }

    fn set_keys(&self, first: u64, keys: &[u8]) -> io::Result<()> {
        assert!(keys.iter().all(|key| *key == 0));
        self.0.recorder.call(format!("vm clear keys {first}+{}", keys.len()))
    }

    fn notification(&self, _: &EventFd, subchannel: u32, queue: u64, on: bool) -> io::Result<()> {
        self.0.recorder.call(format!("vm notification {subchannel:x}.{queue} {on}"))
    }
}

struct Device(Descriptor);

impl kernel::Device for Device {
    fn set(&self, group: u32, number: u64, data: &[u8]) -> io::Result<()> {
        let Descriptor { recorder, name } = &self.0;
        let shown = match data.len() {
            LENGTH => format!("{:?}", Irq(data.try_into().unwrap())),
            _ => format!("{data:x?}"),
        };
        recorder.call(format!("{name} set {group}.{number} {shown}"))
    }

    fn get(&self, group: u32, number: u64, data: &mut [u8]) -> io::Result<u32> {
        let Descriptor { recorder, name } = &self.0;
        recorder.call(format!("{name} get {group}"))?;
        assert_eq!(number, data.len() as u64);
        let state = recorder.state();
        for (to, irq) in data.chunks_exact_mut(LENGTH).zip(&state.floating) {
            to.copy_from_slice(&irq.0);
        }
        Ok(state.floating.len() as u32)
    }
}

struct Cpu {
    descriptor: Descriptor,
    address: usize,
}

impl Cpu {
    fn call(&self, call: &str) -> io::Result<()> {
        self.descriptor.recorder.call(format!("cpu{} {call}", self.address))
    }

    fn with<T>(&self, action: impl FnOnce(&mut CpuState) -> T) -> T {
        action(&mut self.descriptor.recorder.state().cpus[self.address])
    }
}

struct Kicker(Recorder, usize);

impl Kick for Kicker {
    fn kick(&self) {
        self.0.state().cpus[self.1].kicked = true;
        self.0.0.1.notify_all();
    }
}

impl kernel::Cpu for Cpu {
    fn enable(&self, capability: u32) -> io::Result<()> {
        self.call(&format!("enable {capability}"))
    }

    fn arm(&mut self) -> Arc<dyn Kick> {
        Arc::new(Kicker(self.descriptor.recorder.clone(), self.address))
    }

    fn run(&mut self) -> io::Result<Stop> {
        self.call("run")?;
        let recorder = &self.descriptor.recorder;
        let mut state = recorder.state();
        state.cpus[self.address].running = true;
        recorder.0.1.notify_all();
        let stop = loop {
            let cpu = &mut state.cpus[self.address];
            if let Some(stop) = cpu.stops.pop_front() {
                break stop;
            }
            if cpu.kicked {
                break Stop::Interrupted;
            }
            state = recorder.0.1.wait(state).unwrap();
        };
        let cpu = &mut state.cpus[self.address];
        (cpu.kicked, cpu.running) = (false, false);
        Ok(stop)
    }

    fn registers(&self) -> Registers {
        self.with(|cpu| cpu.registers)
    }

    fn set_registers(&mut self, registers: &Registers) {
        self.with(|cpu| cpu.registers = *registers);
    }

    fn gr(&self, r: u8) -> u64 {
        self.with(|cpu| cpu.registers.gr[usize::from(r)])
    }

    fn set_gr(&mut self, r: u8, value: u64) {
        self.with(|cpu| cpu.registers.gr[usize::from(r)] = value);
    }

    fn psw(&self) -> Psw {
        self.with(|cpu| cpu.registers.psw)
    }

    fn set_psw(&mut self, psw: Psw) {
        self.with(|cpu| cpu.registers.psw = psw);
    }

    fn set_operating(&self, operating: bool) -> io::Result<()> {
        self.call(if operating { "operating" } else { "stopped" })
    }

    fn reset(&mut self, kind: ResetKind) -> io::Result<()> {
        self.call(&format!("reset {kind:?}"))?;
        if kind != ResetKind::Normal {
            self.with(|cpu| cpu.registers = Registers { gr: cpu.registers.gr, ..Registers::default() });
        }
        Ok(())
    }

    fn extended(&self) -> io::Result<Extended> {
        self.call("extended")?;
        Ok(self.with(|cpu| cpu.extended))
    }

    fn post(&self, irq: &Irq) -> io::Result<()> {
        self.call(&format!("post {irq:?}"))
    }

    fn pending(&self) -> io::Result<Vec<u8>> {
        self.call("pending")?;
        Ok(Irq::restart().0.to_vec())
    }

    fn set_pending(&self, pending: &[u8]) -> io::Result<()> {
        self.call(&format!("set pending ({} bytes)", pending.len()))
    }

    fn access(&self, access: Access<'_>) -> io::Result<u16> {
        let Access { address, ar, key, inject, transfer } = access;
        let what = match &transfer {
            Transfer::Read(buffer) => format!("read {}", buffer.len()),
            Transfer::Write(bytes) => format!("write {}", bytes.len()),
            Transfer::TestRead(length) => format!("test-read {length}"),
            Transfer::TestWrite(length) => format!("test-write {length}"),
        };
        let inject = if inject { " inject" } else { "" };
        self.call(&format!("{what} at {address:x} ar {ar} key {key}{inject}"))?;
        let mut state = self.descriptor.recorder.state();
        let State { cpus, storage, .. } = &mut *state;
        let cpu = &mut cpus[self.address];
        let code = cpu.codes.pop_front().unwrap_or(0);
        let storage = storage.as_ref().filter(|_| code == 0);
        match (transfer, storage) {
            (Transfer::Read(buffer), Some(_)) if !cpu.storage.is_empty() => {
                buffer.iter_mut().zip(&cpu.storage).for_each(|(to, from)| *to = *from);
            }
            (Transfer::Read(buffer), Some(storage)) => {
                let _ = storage.read(AbsoluteAddress(address), buffer);
            }
            (Transfer::Write(bytes), Some(storage)) => {
                let _ = storage.write(AbsoluteAddress(address), bytes);
            }
            _ => {}
        }
        Ok(code)
    }
}
