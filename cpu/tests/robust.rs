//! Hostile guests: random code, registers, tables and PSWs, answered at random. Nothing is expected of what
//! they compute; the engine must not panic, and must come back soon when it is kicked, held or reset.
//!
//! The seeds are fixed, so that a failure can be run again: it prints its seed, and `ROBUST_SEED` runs that
//! one alone. `ROBUST_SECONDS` says how long to go on (10 in all).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cpu::table::{Row, rows};
use cpu::{CpuModel, Machine, VirtualClock};
use machine::{
    Exit, Floating, HostClock, InterruptionLoop, Operand, Outcome, Post, ResetKind, Storage, Vcpu, VcpuState,
    Vm,
};
use zarch::{AbsoluteAddress, IoInterruption, PAGE_SIZE, ProgramCode, Psw, StorageKey, lowcore, psw_bits};

/// How long one machine runs.
const ROUND: Duration = Duration::from_millis(60);
/// A CPU that does not come back within this time hangs.
const SOON: Duration = Duration::from_secs(60);
const MODE_64: u64 = psw_bits::EA | psw_bits::BA;

/// Xorshift: good enough for variety, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    /// True once in `n`.
    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// A number that instructions may find interesting: an address in or at the end of storage, or of an
    /// address space, a length, a small number, anything.
    fn word(&mut self, size: u64) -> u64 {
        match self.below(9) {
            0..=2 => self.below(size),
            3 => self.below(size) & !(PAGE_SIZE - 1),
            4 => self.below(300),
            5 => {
                self.pick(&[size, 1 << 24, 1 << 31, 1 << 63, 0]).wrapping_add(self.below(64)).wrapping_sub(32)
            }
            6 => self.pick(&[size, 1 << 24, 1 << 31, 0]).wrapping_sub(PAGE_SIZE * self.below(3)),
            7 => self.next() & 0xffff_ffff,
            _ => self.next(),
        }
    }

    fn mask(&mut self) -> u64 {
        let mode = self.pick(&[MODE_64, MODE_64, MODE_64, psw_bits::BA, 0]);
        let masks = psw_bits::IO | psw_bits::EXTERNAL | psw_bits::MACHINE_CHECK | psw_bits::PROGRAM_MASK;
        let mut mask = mode | self.next() & (masks | psw_bits::CC);
        if self.once_in(2) {
            mask |= psw_bits::DAT | self.next() & psw_bits::AS;
        }
        if self.once_in(4) {
            mask |= psw_bits::PROBLEM | self.next() & psw_bits::KEY;
        }
        if self.once_in(20) {
            mask |= psw_bits::WAIT;
        }
        if self.once_in(40) { mask ^ 1 << self.below(64) } else { mask }
    }

    fn psw(&mut self, size: u64) -> Psw {
        let address = match self.below(12) {
            0 => self.word(size),
            1 => self.pick(&[0xff_f000, 0x7fff_f000, !0xfff, size - 0x1000]) + 0xff0 + self.below(8) * 2,
            _ => self.below(size) & !1,
        };
        Psw { mask: self.mask(), address }
    }

    /// An instruction of `row`, mostly with operands that lead somewhere.
    fn instruction(&mut self, row: &Row) -> u64 {
        let template = row.template().0;
        let (position, length) = row.extension();
        let mut opcode = 0xff << 56;
        if length > 0 {
            opcode |= ((1 << length) - 1) << (64 - position - length);
        }
        let mut operands = self.next();
        if self.once_in(3) {
            // Relative targets and displacements nearby.
            operands &= !0x0000_ff00_ff00_0000;
        }
        template | operands & !opcode
    }

    /// Code: valid instructions for the most part, one after the other.
    fn code(&mut self, size: u64, favourites: &[Row]) -> Vec<u8> {
        let mut code = Vec::with_capacity(size as usize);
        while code.len() < size as usize {
            let row = if self.once_in(4) { self.pick(favourites) } else { self.pick(rows()) };
            let bytes = self.instruction(&row).to_be_bytes();
            let length = if self.once_in(200) { 2 } else { row.length() as usize };
            code.extend(&bytes[..length.min(size as usize - code.len())]);
        }
        code
    }

    /// A table entry that may well be valid: a block of storage with a few bits of any kind.
    fn entry(&mut self, size: u64) -> u64 {
        let bits =
            if self.once_in(3) { self.next() & 0xfff } else { self.pick(&[0, 0x4, 0x7, 0xb, 0xf, 0x3]) };
        if self.once_in(50) { self.next() } else { self.below(size) & !0xfff | bits }
    }

    fn state(&mut self, size: u64) -> VcpuState {
        let mut state = VcpuState {
            psw: self.psw(size),
            gr: std::array::from_fn(|_| self.word(size)),
            ar: std::array::from_fn(
                |_| if self.once_in(3) { self.next() as u32 } else { self.below(3) as u32 },
            ),
            cr: std::array::from_fn(|_| self.next()),
            fpr: std::array::from_fn(|_| self.next()),
            fpc: self.next() as u32,
            prefix: self.below(size / 0x2000) * 0x2000,
        };
        for cr in [1, 7, 13] {
            state.cr[cr] = if self.once_in(5) { self.below(size) | 0x20 } else { self.entry(size) };
        }
        state
    }
}

/// Rows that change the state of the machine, which programs seldom use and hostile ones often.
fn favourites() -> Vec<Row> {
    let names = [
        "SIGP", "EX", "EXRL", "LPSWE", "LPSW", "SSM", "STOSM", "STNSM", "LCTLG", "SPX", "IPTE", "IDTE",
        "CSP", "SSKE", "PFMF", "SCK", "SCKC", "SPT", "STCK", "MVCL", "MVCLE", "CLCL", "CUSE", "BRC", "BRAS",
        "BCR", "SACF", "SAC", "MVCOS", "MVPG", "MVC", "ST", "STG", "TPROT", "LRA", "DIAG", "STSI", "PLO",
        "STURG", "SVC", "SAM24", "SAM31", "SAM64", "PTLB", "CRDTE", "MVCP", "MVCS", "STCTG", "TB", "RRBM",
    ];
    let found: Vec<Row> = rows().iter().filter(|r| names.contains(&r.mnemonic)).copied().collect();
    assert_eq!(found.len(), names.len(), "every favourite has a row");
    found
}

fn fill(random: &mut Random, storage: &Storage, favourites: &[Row]) {
    let size = storage.size();
    for page in 0..size / PAGE_SIZE {
        let bytes: Vec<u8> = match random.below(8) {
            0 => (0..PAGE_SIZE / 8).flat_map(|_| random.next().to_be_bytes()).collect(),
            1 | 2 => (0..PAGE_SIZE / 8).flat_map(|_| random.entry(size).to_be_bytes()).collect(),
            3 => vec![0; PAGE_SIZE as usize],
            _ => random.code(PAGE_SIZE, favourites),
        };
        let at = AbsoluteAddress(page * PAGE_SIZE);
        storage.write(at, &bytes).expect("inside the storage");
        let key = if random.once_in(4) { random.next() as u8 & 0xfe } else { 0 };
        storage.set_key(at, StorageKey(key)).expect("inside the storage");
    }
}

/// Puts random new PSWs into the 8K-byte block at `prefix`.
fn new_psws(random: &mut Random, storage: &Storage, prefix: u64) {
    for at in (0x1a0..0x200).step_by(16) {
        let psw = random.psw(storage.size());
        let bytes = [psw.mask, psw.address].map(u64::to_be_bytes).concat();
        storage.write(AbsoluteAddress(prefix + at), &bytes).expect("inside the storage");
    }
}

/// Runs a CPU until it is told to end, answering whatever comes.
fn run(cpu: &mut dyn Vcpu, machine: &Machine, storage: &Storage, random: &mut Random, end: &AtomicBool) {
    let size = storage.size();
    let begin = |cpu: &mut dyn Vcpu, random: &mut Random| {
        let state = random.state(size);
        new_psws(random, storage, state.prefix);
        cpu.set_state(&state);
        cpu.set_operating(true);
    };
    begin(cpu, random);
    while !end.load(Ordering::SeqCst) {
        match cpu.run().expect("the engine does not fail") {
            Exit::Kicked | Exit::Stopped | Exit::DisabledWait(_) => {
                if random.once_in(8) {
                    cpu.reset(random.pick(&[ResetKind::Normal, ResetKind::Initial, ResetKind::Clear]));
                }
                begin(cpu, random);
            }
            _ => {
                let operand = Operand { address: random.word(size), ar: random.below(16) as u8 };
                let mut bytes = vec![0; random.below(9000) as usize];
                let _ = cpu.fetch(operand, &mut bytes);
                let _ = cpu.probe_store(operand, bytes.len() as u64);
                let _ = cpu.store(operand, &bytes[..random.below(bytes.len() as u64 + 1) as usize]);
                if random.once_in(16) {
                    machine.with_cpus_held(&mut || {
                        storage.write(AbsoluteAddress(size / 2), &[0; 64]).expect("inside")
                    });
                }
                if random.once_in(500) {
                    machine.reset_cpus(ResetKind::Initial, Some(cpu.address()));
                }
                cpu.finish(match random.below(4) {
                    0 => Outcome::Resume,
                    1 | 2 => Outcome::ConditionCode(random.below(4) as u8),
                    _ => Outcome::Program(
                        random
                            .pick(&[ProgramCode::Operand, ProgramCode::Specification, ProgramCode::Data])
                            .into(),
                    ),
                });
            }
        }
    }
}

/// What other threads of the host do meanwhile.
fn disturb(machine: &Machine, storage: &Storage, random: &mut Random) {
    match random.below(8) {
        0 => machine.post(Floating::ServiceSignal(random.next() as u32)),
        1 => machine.post(Floating::Io(IoInterruption::adapter(random.below(8) as u8))),
        2 => machine.post(Floating::ChannelReport),
        3 => {
            let _ = machine.take_io(random.next() as u8);
        }
        4 => machine.with_cpus_held(&mut || thread::yield_now()),
        5 => {
            machine.restart(random.below(3) as u16);
        }
        6 => {
            let at = AbsoluteAddress(random.below(storage.size() - 8));
            storage.write(at, &random.next().to_be_bytes()).expect("inside the storage");
        }
        _ => machine.kick(),
    }
}

fn round(seed: u64, favourites: &[Row]) {
    let mut random = Random::new(seed);
    let storage = Arc::new(Storage::new(random.pick(&[1 << 20, 2 << 20])).expect("the host has that much"));
    fill(&mut random, &storage, favourites);
    let model = CpuModel::named(random.pick(&["max", "max", "z10", "zec12"])).expect("a known model");
    let model = model.with_ap(random.once_in(2));
    let (machine, cpus) = match random.below(3) {
        0 => {
            let clock = Arc::new(VirtualClock::new(random.pick(&[0, u64::MAX - 5_000_000, random.0])));
            (Machine::with_virtual_time(storage.clone(), clock, model), 1)
        }
        n => (Machine::new(storage.clone(), Arc::new(HostClock::new()), model, n as u16), n as u16),
    };
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cpus)
            .map(|address| {
                let mut cpu = machine.vcpu(address).expect("taken once");
                let mut random = Random::new(random.next());
                let (machine, storage, end) = (&machine, &storage, &end);
                scope.spawn(move || {
                    let run = || run(&mut *cpu, machine, storage, &mut random, end);
                    if catch_unwind(AssertUnwindSafe(run)).is_err() {
                        eprintln!("a CPU of the machine with ROBUST_SEED={seed} panicked");
                        // The other CPUs may be waiting for this one for ever.
                        std::process::exit(101);
                    }
                })
            })
            .collect();
        let start = Instant::now();
        while start.elapsed() < ROUND {
            disturb(&machine, &storage, &mut random);
            thread::sleep(Duration::from_micros(random.below(2000)));
        }
        end.store(true, Ordering::SeqCst);
        machine.kick();
        let asked = Instant::now();
        while !threads.iter().all(|t| t.is_finished()) {
            if asked.elapsed() > SOON {
                eprintln!("a CPU of the machine with ROBUST_SEED={seed} hangs");
                std::process::exit(102);
            }
            machine.kick();
            thread::sleep(Duration::from_millis(1));
        }
    });
}

#[test]
fn no_guest_brings_the_engine_down() {
    let favourites = favourites();
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("ROBUST_SEED") {
        return round(seed, &favourites);
    }
    let start = Instant::now();
    let seconds = Duration::from_secs(number("ROBUST_SECONDS").unwrap_or(10));
    let mut rounds = 0;
    while start.elapsed() < seconds || rounds < 8 {
        rounds += 1;
        round(rounds, &favourites);
    }
    println!("{rounds} machines");
}

/// A machine of `cpus` CPUs with `code` at 0x2000, and CPU 0 that begins there with `mask`.
fn machine_with(code: &[u8], mask: u64, cpus: u16) -> (Arc<Machine>, Box<dyn Vcpu>, Arc<Storage>) {
    let storage = Arc::new(Storage::new(1 << 20).expect("the host has a mebibyte"));
    storage.write(AbsoluteAddress(0x2000), code).expect("inside the storage");
    let model = CpuModel::named("max").expect("a known model");
    let machine = Arc::new(Machine::new(storage.clone(), Arc::new(HostClock::new()), model, cpus));
    let mut cpu = machine.vcpu(0).expect("taken once");
    let state = VcpuState { psw: Psw { mask, address: 0x2000 }, ..cpu.state() };
    cpu.set_state(&state);
    cpu.set_operating(true);
    (machine, cpu, storage)
}

fn put_psw(storage: &Storage, at: u64, psw: Psw) {
    let bytes = [psw.mask, psw.address].map(u64::to_be_bytes).concat();
    storage.write(AbsoluteAddress(at), &bytes).expect("inside the storage");
}

/// An external new PSW that is enabled for the clock comparator which loads it: no instruction is ever executed again.
#[test]
fn a_string_of_external_interruptions_is_told() {
    let enabled = MODE_64 | psw_bits::EXTERNAL;
    let again = Psw { mask: enabled, address: 0x2000 };
    let (_machine, mut cpu, storage) = machine_with(&[0x07, 0x07], enabled, 1);
    put_psw(&storage, lowcore::EXTERNAL_NEW_PSW, again);
    let mut state = cpu.state();
    state.cr[0] |= 0x800;
    cpu.set_state(&state);
    assert_eq!(
        cpu.run().expect("the engine does not fail"),
        Exit::InterruptionLoop(InterruptionLoop::External)
    );
    assert_eq!(cpu.state().psw, again);
}

/// A program new PSW that leads to an instruction which is none. Any interruption that is enabled could end it.
#[test]
fn a_string_of_program_interruptions_is_told() {
    let again = Psw { mask: MODE_64, address: 0x2000 };
    let (_machine, mut cpu, storage) = machine_with(&[0x00, 0x00], MODE_64, 1);
    put_psw(&storage, lowcore::PROGRAM_NEW_PSW, again);
    for _ in 0..2 {
        let exit = cpu.run().expect("the engine does not fail");
        assert_eq!(exit, Exit::InterruptionLoop(InterruptionLoop::Program));
    }
    assert_eq!(cpu.state().psw, again);
    let old = storage.read_array::<16>(AbsoluteAddress(lowcore::PROGRAM_OLD_PSW)).expect("inside");
    assert_eq!(u64::from_be_bytes(old[8..].try_into().expect("8 bytes")), 0x2002);
}

#[test]
fn a_string_of_interruptions_can_be_kicked() {
    let enabled = MODE_64 | psw_bits::IO;
    let (machine, mut cpu, storage) = machine_with(&[0x00, 0x00], enabled, 1);
    put_psw(&storage, lowcore::PROGRAM_NEW_PSW, Psw { mask: enabled, address: 0x2000 });
    let kicker = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        machine.with_cpus_held(&mut || ());
        machine.kick();
    });
    assert_eq!(cpu.run().expect("the engine does not fail"), Exit::Kicked);
    kicker.join().expect("it does not panic");
}

/// An executed branch to address 1, which is odd: a specification exception.
#[test]
fn an_executed_branch_to_an_odd_address() {
    // EXRL 0,*+6; BCR 15,1 (also the target)
    let (_machine, mut cpu, storage) = machine_with(&[0xc6, 0, 0, 0, 0, 3, 0x07, 0xf1], MODE_64, 1);
    let end = Psw { mask: MODE_64 | psw_bits::WAIT, address: 0x555 };
    put_psw(&storage, lowcore::PROGRAM_NEW_PSW, end);
    cpu.set_gr(1, 1);
    assert_eq!(cpu.run().expect("the engine does not fail"), Exit::DisabledWait(end));
    let code = storage.read_array::<4>(AbsoluteAddress(lowcore::PROGRAM_IDENTIFICATION)).expect("inside");
    assert_eq!(code[3], ProgramCode::Specification as u8);
}

/// A page that is mapped elsewhere while its code runs, without a purge: what was linked meanwhile stays
/// right when the page is executed at another address and the one linked to was stored into.
#[test]
fn links_stay_inside_their_page() {
    let (machine, mut cpu, storage) = machine_with(&[], MODE_64 | psw_bits::DAT, 1);
    let put = |at: u64, bytes: &[u8]| storage.write(AbsoluteAddress(at), bytes).expect("inside the storage");
    let entry = |at: u64, value: u64| put(at, &value.to_be_bytes());
    // One segment of 1M bytes, mapped one to one; the next ones likewise, so that 0x405000 aliases in a TLB.
    for segment in 0..8 {
        entry(0x10000 + 8 * segment, 0x11000);
    }
    for page in 0..256 {
        entry(0x11000 + 8 * page, page << 12);
    }
    // 0x5000: LG 2,0(,3); STG 4,0(,5); LG 2,0(,3); J 0x5020, and there DIAG 0,1,1 or, at 0x6020, DIAG 0,0,2.
    let code = [
        [0xe3, 0x20, 0x30, 0, 0, 0x04],
        [0xe3, 0x40, 0x50, 0, 0, 0x24],
        [0xe3, 0x20, 0x30, 0, 0, 0x04],
        [0xa7, 0x74, 0, 7, 0x07, 0x07],
    ];
    put(0x5000, &code.concat());
    put(0x5020, &[0x83, 0, 0, 1]);
    put(0x6020, &[0x83, 0, 0, 2]);
    let mut state = cpu.state();
    state.cr[1] = 0x10000;
    state.psw = Psw { mask: MODE_64 | psw_bits::DAT | 1 << 44, address: 0x5000 };
    // The store maps 0x5000 to 0x6000; the fetch takes its translation out of the TLB.
    (state.gr[3], state.gr[4], state.gr[5]) = (0x40_5000, 0x6000, 0x11028);
    cpu.set_state(&state);
    let diagnose = |address: u64, cpu: &mut Box<dyn Vcpu>| {
        let state =
            VcpuState { psw: Psw { mask: MODE_64 | psw_bits::DAT | 1 << 44, address }, ..cpu.state() };
        cpu.set_state(&state);
        match cpu.run().expect("the engine does not fail") {
            Exit::Diagnose { code, .. } => code,
            other => panic!("{other:?}"),
        }
    };
    diagnose(0x5000, &mut cpu);
    // Now the code of 0x5000 at address 0x7000: its branch leads to its own page.
    entry(0x11000 + 8 * 5, 0x5000);
    entry(0x11000 + 8 * 7, 0x5000);
    put(0x6020, &[0x83, 0, 0, 3]);
    assert_eq!(diagnose(0x7000, &mut cpu), 1);
    drop(machine);
}

#[test]
fn an_accepted_restart_counts_and_a_lost_cpu_does_not_hold_up_a_reset() {
    let (machine, cpu, _storage) = machine_with(&[], MODE_64, 2);
    assert_eq!(machine.operating_cpus(), 1);
    assert!(machine.restart(1));
    assert_eq!(machine.operating_cpus(), 2);
    assert!(!machine.restart(2));
    drop(cpu);
    assert_eq!(machine.operating_cpus(), 1);
    machine.reset_cpus(ResetKind::Clear, None);
}
