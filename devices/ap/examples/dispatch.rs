//! Measures what an AP instruction costs on the CPU's thread, apart from the card: `cargo run --release -p ap --example
//! dispatch`. The card copies the request; 8 requests of 1 KiB are enqueued, then 8 replies dequeued, again and again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ap::card::{Card, CardFacts, Mode, OpensslRandom, Session};
use ap::{ApMachine, GuestAp, GuestCrycb, Hardware, Notifier};
use crycb::{Apid, Apqn, Crycb, CrycbFormat, Mask256, Matrix, Qci, QciFlags};
use machine::{
    Addressing, Error, Exit, Floating, HostClock, Operand, Outcome, Post, ResetKind, Storage, Vcpu, VcpuState,
};
use zarch::{
    AbsoluteAddress, FacilityList, IoInterruption, ProgramCode, ProgramInterruption, Psw, RealAddress,
    psw_bits,
};

const MESSAGE: u64 = 1024;
const DEPTH: usize = 8;
const ROUNDS: usize = 20_000;

fn main() {
    let matrix = Matrix { apm: Mask256::EMPTY.with(5), aqm: Mask256::EMPTY.with(4), adm: Mask256::EMPTY };
    let qci = Qci { flags: QciFlags::APXA, na: 255, nd: 255, matrix };
    let facts = CardFacts {
        mode: Mode::Accelerator,
        hardware_type: 14,
        mex4k: true,
        crt4k: true,
        max_message: 12 << 10,
        queue_depth: DEPTH as u8,
    };
    let hardware = Hardware { qci, adapters: vec![(Apid(5), Arc::new(Copying(facts)))] };
    let machine = ApMachine::new(hardware, Arc::new(HostClock::new()), Arc::new(OpensslRandom))
        .expect("the host starts a thread");
    let storage = Arc::new(Storage::new(1 << 20).expect("the host maps a megabyte"));
    let guest = GuestAp::new(
        Arc::new(GuestCrycb::new(&Crycb::new(CrycbFormat::Format2, &matrix))),
        FacilityList::from_bits(&[12, 15, 65]),
        Notifier::new(storage.clone(), Arc::new(Nobody)),
    );
    let mut cpu = Cpu { gr: [0; 16], storage };

    let mut tapq = Vec::new();
    let mut nqap = Vec::new();
    let mut dqap = Vec::new();
    for _ in 0..ROUNDS {
        for _ in 0..DEPTH {
            cpu.gr[0] = 0x4000_0504;
            cpu.gr[4..8].copy_from_slice(&[0, 1, 0x2000, MESSAGE]);
            nqap.push(time(&machine, &mut cpu, Exit::Nqap { r1: 4, r2: 6 }, &guest));
        }
        while !all_there(&machine) {
            std::thread::yield_now();
        }
        for _ in 0..DEPTH {
            cpu.gr[0] = 0x0080_0504;
            tapq.push(time(&machine, &mut cpu, Exit::Pqap, &guest));
            cpu.gr[0] = 0x8000_0504;
            cpu.gr[8..12].copy_from_slice(&[0, 0, 0x4000, 2 * MESSAGE]);
            dqap.push(time(&machine, &mut cpu, Exit::Dqap { r1: 8, r2: 10 }, &guest));
        }
    }
    for (name, times) in [("TAPQ", &mut tapq), ("NQAP", &mut nqap), ("DQAP", &mut dqap)] {
        times.sort_unstable();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_nanos();
        let mean = times.iter().sum::<Duration>().as_nanos() / times.len() as u128;
        println!("{name}: median {} ns, mean {mean} ns, 90 % below {} ns", at(0.5), at(0.9));
    }
}

fn time(machine: &ApMachine, cpu: &mut Cpu, exit: Exit, guest: &GuestAp) -> Duration {
    let start = Instant::now();
    let outcome = machine.execute(cpu, &exit, guest);
    let taken = start.elapsed();
    assert_eq!(outcome, Some(Outcome::ConditionCode(0)), "{exit:?} {:x}", cpu.gr[1]);
    taken
}

/// Whether the workers are done with a round.
fn all_there(machine: &ApMachine) -> bool {
    machine.statistics(Apqn(0x0504)).expect("the queue is there").waiting == DEPTH as u64
}

struct Copying(CardFacts);

impl Card for Copying {
    fn facts(&self) -> &CardFacts {
        &self.0
    }

    fn process(&self, _: &Session, _: u8, request: &[u8]) -> Vec<u8> {
        request.to_vec()
    }
}

struct Nobody;

impl Post for Nobody {
    fn post(&self, _: Floating) {}

    fn take_io(&self, _: u8) -> Option<IoInterruption> {
        None
    }

    fn clear(&self) {}
}

/// A CPU with DAT off that only holds registers.
struct Cpu {
    gr: [u64; 16],
    storage: Arc<Storage>,
}

impl Vcpu for Cpu {
    fn address(&self) -> u16 {
        0
    }

    fn run(&mut self) -> Result<Exit, Error> {
        Ok(Exit::Kicked)
    }

    fn finish(&mut self, _: Outcome) {}

    fn gr(&self, r: u8) -> u64 {
        self.gr[usize::from(r)]
    }

    fn set_gr(&mut self, r: u8, value: u64) {
        self.gr[usize::from(r)] = value;
    }

    fn state(&self) -> VcpuState {
        let psw = Psw { mask: psw_bits::EA | psw_bits::BA, address: 0 };
        VcpuState { psw, gr: self.gr, ar: [0; 16], cr: [0; 16], fpr: [0; 16], fpc: 0, prefix: 0 }
    }

    fn set_state(&mut self, state: &VcpuState) {
        self.gr = state.gr;
    }

    fn set_operating(&mut self, _: bool) {}

    fn reset(&mut self, _: ResetKind) {}

    fn fetch(&mut self, from: Operand, buffer: &mut [u8]) -> Result<(), ProgramInterruption> {
        self.storage.read(AbsoluteAddress(from.address), buffer).map_err(addressing)
    }

    fn store(&mut self, to: Operand, bytes: &[u8]) -> Result<(), ProgramInterruption> {
        self.storage.write(AbsoluteAddress(to.address), bytes).map_err(addressing)
    }

    fn probe_store(&mut self, _: Operand, _: u64) -> Result<(), ProgramInterruption> {
        Ok(())
    }

    fn absolute(&self, real: RealAddress) -> AbsoluteAddress {
        real.absolute(0)
    }
}

fn addressing(_: Addressing) -> ProgramInterruption {
    ProgramCode::Addressing.into()
}
