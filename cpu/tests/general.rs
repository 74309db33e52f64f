//! General instructions where the comparison with another emulator says nothing: it does not know the
//! instruction, is wrong about it, or never uses the mode.

use std::sync::Arc;

use cpu::{Cpu, CpuModel, Machine};
use machine::{Exit, HostClock, Storage, Vcpu, VcpuState};
use zarch::{AbsoluteAddress, Psw, lowcore, psw_bits};

const CODE: u64 = 0x2000;
const DATA: u64 = 0x4000;
const TABLE: u64 = 0x8000;
const STORAGE: u64 = 1 << 20;
const MODE_64: u64 = psw_bits::EA | psw_bits::BA;
const SECONDARY: u64 = MODE_64 | psw_bits::DAT | 2 << 46;
const END: Psw = Psw { mask: psw_bits::WAIT | MODE_64, address: 0x555 };
/// SUPERVISOR CALL 0, which ends a test.
const SVC: [u8; 2] = [0x0a, 0];

/// What an instruction left behind.
struct Ended {
    /// Program-interruption code; 0 when it completed.
    program: u16,
    state: VcpuState,
    old: Psw,
    storage: Arc<Storage>,
}

impl Ended {
    fn stored(&self, address: u64) -> u64 {
        doubleword(&self.storage, address)
    }
}

fn doubleword(storage: &Storage, address: u64) -> u64 {
    let mut bytes = [0; 8];
    storage.read(AbsoluteAddress(address), &mut bytes).expect("inside the storage");
    u64::from_be_bytes(bytes)
}

/// Executes one instruction in the PSW mode `mask`. Doublewords 1 to 64 stand at [`DATA`], and `prepare`
/// sets registers.
fn run(mask: u64, code: &[u8], prepare: impl FnOnce(&mut VcpuState)) -> Ended {
    let storage = Arc::new(Storage::new(STORAGE).expect("the host has a mebibyte"));
    let model = CpuModel::named("max").expect("it always exists");
    let machine = Machine::new(storage.clone(), Arc::new(HostClock::new()), model, 1);
    let mut cpu: Box<Cpu> = machine.take_vcpu(0).expect("it has one CPU");
    let put =
        |address, bytes: &[u8]| storage.write(AbsoluteAddress(address), bytes).expect("inside the storage");
    for new_psw in [lowcore::SVC_NEW_PSW, lowcore::PROGRAM_NEW_PSW] {
        put(new_psw, &[END.mask, END.address].map(u64::to_be_bytes).concat());
    }
    put(CODE, &[code, &SVC].concat());
    for n in 0..64 {
        put(DATA + 8 * n, &(0x0101_0101_0101_0101 * (n + 1)).to_be_bytes());
    }
    // A segment table without a valid segment.
    put(TABLE, &0x20u64.to_be_bytes().repeat(512));
    let mut state =
        VcpuState { psw: Psw { mask, address: CODE }, gr: std::array::from_fn(|r| r as u64), ..cpu.state() };
    // Primary addresses are real (bit 58), secondary ones invalid.
    (state.cr[1], state.cr[7]) = (0x20, TABLE);
    prepare(&mut state);
    cpu.set_operating(true);
    cpu.set_state(&state);
    assert_eq!(cpu.run().expect("the engine never fails"), Exit::DisabledWait(END));
    let program = doubleword(&storage, lowcore::PROGRAM_IDENTIFICATION) >> 32;
    let old = if program != 0 { lowcore::PROGRAM_OLD_PSW } else { lowcore::SVC_OLD_PSW };
    let old = Psw { mask: doubleword(&storage, old), address: doubleword(&storage, old + 8) };
    Ended { program: program as u16, state: cpu.state(), old, storage }
}

#[test]
fn cpya_copies_an_access_register() {
    let ended = run(MODE_64, &[0xb2, 0x4d, 0, 0x12], |state| (state.ar[1], state.ar[2]) = (1, 0x8000_0002));
    assert_eq!((ended.program, ended.state.ar[1], ended.state.ar[2]), (0, 0x8000_0002, 0x8000_0002));
}

/// LMD %r15,%r1,0(%r2),0(%r3): registers 15, 0 and 1.
const LMD: [u8; 6] = [0xef, 0xf1, 0x20, 0, 0x30, 0];

#[test]
fn lmd_joins_halves_from_two_places() {
    let ended = run(MODE_64, &LMD, |state| (state.gr[2], state.gr[3]) = (DATA + 4, DATA + 32));
    let expected = [0x0101_0101_0505_0505, 0x0202_0202_0505_0505, 0x0202_0202_0606_0606];
    assert_eq!((ended.program, [ended.state.gr[15], ended.state.gr[0], ended.state.gr[1]]), (0, expected));
}

#[test]
fn lmd_loads_nothing_when_one_place_is_not_accessible() {
    let ended = run(MODE_64, &LMD, |state| (state.gr[2], state.gr[3]) = (DATA, STORAGE - 8));
    assert_eq!((ended.program, [ended.state.gr[15], ended.state.gr[0], ended.state.gr[1]]), (5, [15, 0, 1]));
}

#[test]
fn stmh_stores_left_halves() {
    // STMH %r5,%r6,0(%r2)
    let ended = run(MODE_64, &[0xeb, 0x56, 0x20, 0, 0, 0x26], |state| {
        state.gr[2] = DATA;
        (state.gr[5], state.gr[6]) = (0x1234_5678_9abc_def0, 0xfedc_ba98_7654_3210);
    });
    assert_eq!((ended.program, ended.stored(DATA)), (0, 0x1234_5678_fedc_ba98));
}

#[test]
fn overflow_interrupts_after_the_result_when_the_program_mask_says_so() {
    for (mask, program, address) in
        [(MODE_64, 0, CODE + 4), (MODE_64 | psw_bits::FIXED_POINT_OVERFLOW, 8, CODE + 2)]
    {
        // AR %r5,%r6
        let ended = run(mask, &[0x1a, 0x56], |state| (state.gr[5], state.gr[6]) = (0x7fff_ffff, 1));
        assert_eq!((ended.program, ended.state.gr[5]), (program, 0x8000_0000));
        assert_eq!((ended.old.cc(), ended.old.address), (3, address));
    }
}

#[test]
fn a_quotient_that_does_not_fit_leaves_the_registers() {
    // DSGR %r4,%r6 and DR %r4,%r6: the least dividend by -1.
    let dsgr = run(MODE_64, &[0xb9, 0x0d, 0, 0x46], |state| (state.gr[5], state.gr[6]) = (1 << 63, u64::MAX));
    assert_eq!((dsgr.program, dsgr.state.gr[4], dsgr.state.gr[5]), (9, 4, 1 << 63));
    let dr = run(MODE_64, &[0x1d, 0x46], |state| {
        (state.gr[4], state.gr[5], state.gr[6]) = (0x8000_0000, 0, u64::MAX);
    });
    assert_eq!((dr.program, dr.state.gr[4], dr.state.gr[5]), (9, 0x8000_0000, 0));
}

#[test]
fn relative_operands_are_where_instructions_are() {
    // LG %r1,0(%r2): secondary space, without a valid segment.
    let lg = run(SECONDARY, &[0xe3, 0x10, 0x20, 0, 0, 0x04], |state| state.gr[2] = DATA);
    assert_eq!((lg.program, lg.state.gr[1]), (0x10, 1));
    // LGRL and STGRL of the doubleword at DATA, 0x1000 halfwords away.
    let lgrl = run(SECONDARY, &[0xc4, 0x18, 0, 0, 0x10, 0], |_| ());
    assert_eq!((lgrl.program, lgrl.state.gr[1]), (0, 0x0101_0101_0101_0101));
    let stgrl = run(SECONDARY, &[0xc4, 0x1b, 0, 0, 0x10, 0], |_| ());
    assert_eq!((stgrl.program, stgrl.stored(DATA)), (0, 1));
    // Not on an integral boundary.
    let odd = run(SECONDARY, &[0xc4, 0x18, 0, 0, 0x10, 1], |_| ());
    assert_eq!((odd.program, odd.state.gr[1]), (6, 1));
}
