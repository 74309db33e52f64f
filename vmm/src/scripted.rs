//! A CPU and a machine that replay what a test wrote down.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use machine::{Error, Exit, Floating, Operand, Outcome, Post, ResetKind, Storage, Vcpu, VcpuState, Vm};
use zarch::{AbsoluteAddress, IoInterruption, ProgramCode, ProgramInterruption, Psw, RealAddress};

/// A CPU whose exits are a list. When it is used up, `run` fails or panics. Addresses are absolute.
pub struct ScriptedCpu {
    pub address: u16,
    pub exits: VecDeque<Exit>,
    pub outcomes: Vec<Outcome>,
    pub resets: Vec<ResetKind>,
    pub operating: bool,
    pub panics: bool,
    pub state: VcpuState,
    pub storage: Arc<Storage>,
}

impl ScriptedCpu {
    pub fn new(storage: &Arc<Storage>, exits: &[Exit]) -> Self {
        Self {
            address: 0,
            exits: exits.iter().copied().collect(),
            outcomes: Vec::new(),
            resets: Vec::new(),
            operating: true,
            panics: false,
            state: VcpuState {
                psw: Psw::default(),
                gr: [0; 16],
                ar: [0; 16],
                cr: [0; 16],
                fpr: [0; 16],
                fpc: 0,
                prefix: 0,
            },
            storage: storage.clone(),
        }
    }
}

impl Vcpu for ScriptedCpu {
    fn address(&self) -> u16 {
        self.address
    }

    fn run(&mut self) -> Result<Exit, Error> {
        assert!(!self.panics || !self.exits.is_empty(), "a bug in a CPU");
        let reason = "the script has ended".to_string();
        let exit = self.exits.pop_front().ok_or(Error::Cpu { address: self.address, reason })?;
        if let Exit::DisabledWait(psw) = exit {
            self.state.psw = psw;
        }
        Ok(exit)
    }

    fn finish(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    fn gr(&self, r: u8) -> u64 {
        self.state.gr[usize::from(r)]
    }

    fn set_gr(&mut self, r: u8, value: u64) {
        self.state.gr[usize::from(r)] = value;
    }

    fn state(&self) -> VcpuState {
        self.state
    }

    fn set_state(&mut self, state: &VcpuState) {
        self.state = *state;
    }

    fn set_operating(&mut self, operating: bool) {
        self.operating = operating;
    }

    fn reset(&mut self, kind: ResetKind) {
        self.resets.push(kind);
    }

    fn fetch(&mut self, from: Operand, buffer: &mut [u8]) -> Result<(), ProgramInterruption> {
        self.storage.read(AbsoluteAddress(from.address), buffer).map_err(|_| ProgramCode::Addressing.into())
    }

    fn store(&mut self, to: Operand, bytes: &[u8]) -> Result<(), ProgramInterruption> {
        self.storage.write(AbsoluteAddress(to.address), bytes).map_err(|_| ProgramCode::Addressing.into())
    }

    fn probe_store(&mut self, to: Operand, length: u64) -> Result<(), ProgramInterruption> {
        let there = self.storage.contains(AbsoluteAddress(to.address), length);
        if there { Ok(()) } else { Err(ProgramCode::Addressing.into()) }
    }

    fn absolute(&self, real: RealAddress) -> AbsoluteAddress {
        real.absolute(self.state.prefix)
    }
}

/// What was asked of a [`ScriptedVm`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Post(Floating),
    Clear,
    Held,
    Kick,
    ResetCpus(ResetKind, Option<u16>),
    Restart(u16),
}

#[derive(Default)]
pub struct ScriptedVm {
    pub calls: Mutex<Vec<Call>>,
    /// What happens elsewhere while interruptions are cleared.
    pub on_clear: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    pub operating: AtomicUsize,
}

impl ScriptedVm {
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn note(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }
}

impl Post for ScriptedVm {
    fn post(&self, interruption: Floating) {
        self.note(Call::Post(interruption));
    }

    fn take_io(&self, _: u8) -> Option<IoInterruption> {
        None
    }

    fn clear(&self) {
        if let Some(action) = self.on_clear.lock().unwrap().take() {
            action();
        }
        self.note(Call::Clear);
    }
}

impl Vm for ScriptedVm {
    fn with_cpus_held(&self, action: &mut dyn FnMut()) {
        self.note(Call::Held);
        action();
    }

    fn kick(&self) {
        self.note(Call::Kick);
    }

    fn reset_cpus(&self, kind: ResetKind, except: Option<u16>) {
        self.note(Call::ResetCpus(kind, except));
    }

    fn operating_cpus(&self) -> usize {
        self.operating.load(Ordering::SeqCst)
    }

    fn is_operating(&self, address: u16) -> bool {
        usize::from(address) < self.operating.load(Ordering::SeqCst)
    }

    fn cpu_addresses(&self) -> Vec<u16> {
        vec![0, 1]
    }

    fn restart(&self, address: u16) -> bool {
        self.note(Call::Restart(address));
        true
    }
}
