//! Where things lie in the guest, and the format of a record. `driver.S` knows the same numbers.

use crate::{Answer, Case, Outcome, State, instruction_length};

/// Address of the instruction under test. The page around it is filled with `SVC 0`, so that a branch to an even
/// address in it is caught. Under DAT the page is protected.
pub const SLOT: u64 = 0x2_0800;
/// Address of [`Case::target`], in the same page.
pub const TARGET: u64 = 0x2_0900;
/// First byte of the code page.
pub const CODE_PAGE: u64 = 0x2_0000;
/// First of the three pages with the windows; the page after them is invalid.
pub const PAGES: u64 = 0x3_0000;
/// Bytes in those three pages.
pub const PAGES_SIZE: u64 = 0x3000;
/// Bytes in a window.
pub const WINDOW_SIZE: usize = 512;
/// Addresses of windows A (a page boundary in its middle) and B (ends where an invalid page begins).
pub const WINDOWS: [u64; 2] = [0x3_0f00, 0x3_2e00];
/// Segment table, one entry for each of the lower 512 MiB.
pub const SEGMENT_TABLE: u64 = 0x1_0000;
/// Page table of the first segment.
pub const PAGE_TABLE: u64 = 0x1_1000;

/// The supervisor call that fills the code page.
pub const SVC: [u8; 2] = [0x0a, 0x00];

pub(crate) const DOORBELL: u64 = 0x4000;
pub(crate) const COUNT: u64 = 0x4008;
pub(crate) const REMAINING: u64 = 0x4010;
pub(crate) const READY: u64 = 0x4018;
const DEFAULT_CR: u64 = 0x4080;
pub(crate) const RECORDS: u64 = 0x100_0000;
pub(crate) const RECORD_SIZE: usize = 0x640;
/// Records in one ring of the doorbell.
pub(crate) const CAPACITY: usize = 16384;
/// Bytes of storage.
pub const STORAGE_SIZE: u64 = 64 << 20;

/// The driver, assembled from `driver.S`.
pub(crate) const DRIVER: &[u8] = include_bytes!("driver.bin");

/// Control registers of a case that names none: AFP registers usable, secondary space and its control instructions
/// allowed, every PSW key allowed in the problem state, one address space behind every designation, machine-check
/// masks as after reset.
pub fn default_cr() -> [u64; 16] {
    let mut cr = [0; 16];
    cr[0] = 1 << (63 - 36) | 1 << (63 - 37) | 1 << (63 - 45) | 1 << (63 - 52);
    cr[3] = 0xffff_0000;
    cr[1] = SEGMENT_TABLE;
    cr[7] = SEGMENT_TABLE;
    cr[13] = SEGMENT_TABLE;
    cr[14] = 0xc200_0000;
    cr
}

/// The storage a case finds apart from its windows and code, as (absolute address, contents): translation tables
/// and the code page's filling. An engine under comparison needs the same.
pub fn fixed_storage() -> Vec<(u64, Vec<u8>)> {
    const INVALID_SEGMENT: u64 = 0x20;
    const INVALID_PAGE: u64 = 0x400;
    const PROTECTED_PAGE: u64 = 0x200;
    let mut segments = vec![INVALID_SEGMENT; 512];
    segments[0] = PAGE_TABLE;
    let mut pages = vec![INVALID_PAGE; 256];
    pages[(CODE_PAGE >> 12) as usize] = CODE_PAGE | PROTECTED_PAGE;
    for page in (PAGES..PAGES + PAGES_SIZE).step_by(4096) {
        pages[(page >> 12) as usize] = page;
    }
    let bytes = |words: Vec<u64>| words.into_iter().flat_map(u64::to_be_bytes).collect();
    vec![(SEGMENT_TABLE, bytes(segments)), (PAGE_TABLE, bytes(pages)), (CODE_PAGE, SVC.repeat(2048))]
}

/// The fixed storage and what only the driver reads.
pub(crate) fn driver_storage() -> Vec<(u64, Vec<u8>)> {
    let mut all = fixed_storage();
    all.push((DEFAULT_CR, default_cr().into_iter().flat_map(u64::to_be_bytes).collect()));
    all
}

/// The bytes at [`SLOT`]: the instruction, the branch back when the case wants it, then supervisor calls.
pub fn slot(case: &Case) -> [u8; 16] {
    let length = instruction_length(case.instruction[0]);
    let mut slot = filled(Some(&case.instruction));
    if case.again {
        // BRC 1: back to the instruction on condition code 3.
        let [high, low] = (-(length as i16) / 2).to_be_bytes();
        slot[length..length + 4].copy_from_slice(&[0xa7, 0x14, high, low]);
    }
    slot
}

/// The bytes at [`TARGET`].
pub fn target(case: &Case) -> [u8; 8] {
    filled(case.target.as_ref())
}

/// An instruction followed by supervisor calls.
fn filled<const N: usize>(instruction: Option<&[u8; 6]>) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&SVC.repeat(N / 2));
    if let Some(instruction) = instruction {
        let length = instruction_length(instruction[0]);
        bytes[..length].copy_from_slice(&instruction[..length]);
    }
    bytes
}

const FPR: usize = 0x080;
const CR: usize = 0x100;
const AR: usize = 0x180;
const PSW: usize = 0x1c0;
const SLOT_BYTES: usize = 0x1d0;
const TARGET_BYTES: usize = 0x1d8;
const SLOT_END: usize = 0x1f0;
const FPC: usize = 0x1e0;
const FLAGS: usize = 0x1e4;
const KIND: usize = 0x1e8;
const WINDOW: [usize; 2] = [0x200, 0x400];
const LOWCORE: usize = 0x600;

/// Writes `case` into a record.
pub(crate) fn encode(case: &Case, record: &mut [u8]) {
    let state = &case.state;
    put64(record, 0, &state.gr);
    put64(record, FPR, &state.fpr);
    if let Some(cr) = &state.cr {
        put64(record, CR, &cr[..]);
    }
    for (i, ar) in state.ar.iter().enumerate() {
        record[AR + 4 * i..][..4].copy_from_slice(&ar.to_be_bytes());
    }
    put64(record, PSW, &[state.psw_mask, SLOT]);
    let slot = slot(case);
    record[SLOT_BYTES..][..8].copy_from_slice(&slot[..8]);
    record[SLOT_END..][..8].copy_from_slice(&slot[8..]);
    record[TARGET_BYTES..][..8].copy_from_slice(&target(case));
    record[FPC..][..4].copy_from_slice(&state.fpc.to_be_bytes());
    record[FLAGS..][..4].copy_from_slice(&u32::from(state.cr.is_some()).to_be_bytes());
    put64(record, KIND, &[0]);
    for (window, at) in state.windows.iter().zip(WINDOW) {
        record[at..][..WINDOW_SIZE].copy_from_slice(window);
    }
}

/// Reads what the driver left in `case`'s record.
pub(crate) fn decode(case: &Case, record: &[u8]) -> Answer {
    let mut state = State {
        gr: get64(record, 0),
        fpr: get64(record, FPR),
        ar: std::array::from_fn(|i| get32(record, AR + 4 * i)),
        fpc: get32(record, FPC),
        cr: case.state.cr.as_ref().map(|_| Box::new(get64(record, CR))),
        ..State::default()
    };
    let [mask, address, ..] = get64(record, PSW);
    state.psw_mask = mask;
    for (window, at) in state.windows.iter_mut().zip(WINDOW) {
        window.copy_from_slice(&record[at..][..WINDOW_SIZE]);
    }
    let mut lowcore = [0; 64];
    lowcore.copy_from_slice(&record[LOWCORE..][..64]);
    let [kind, ..] = get64(record, KIND);
    let (outcome, address) = match kind {
        1 => (Outcome::Completed, address.wrapping_sub(SVC.len() as u64)),
        2 => {
            let outcome = Outcome::Program {
                code: get32(&lowcore, 0x0c) as u16,
                ilc: lowcore[0x0d] & 6,
                translation_exception: u64::from(get32(&lowcore, 0x28)) << 32
                    | u64::from(get32(&lowcore, 0x2c)),
                dxc: lowcore[0x13],
            };
            (outcome, address)
        }
        kind => panic!("the driver finished a record with kind {kind}"),
    };
    Answer { outcome, state, address, lowcore }
}

fn put64(record: &mut [u8], at: usize, words: &[u64]) {
    for (bytes, word) in record[at..].chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
}

/// Sixteen doublewords from `at`.
fn get64(record: &[u8], at: usize) -> [u64; 16] {
    std::array::from_fn(|i| {
        let at = at + 8 * i;
        u64::from(get32(record, at)) << 32 | u64::from(get32(record, at + 4))
    })
}

fn get32(record: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&record[at..][..4]);
    u32::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, ExitStatus};

    /// The checked-in bytes are what the source says, wherever an assembler is installed to ask.
    #[test]
    fn driver_is_assembled_from_its_source() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (object, image) = (directory.path().join("driver.o"), directory.path().join("driver.bin"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/driver.S");
        let run =
            |command: &mut Command| command.status().map(|s: ExitStatus| assert!(s.success(), "{command:?}"));
        if run(Command::new("s390x-linux-gnu-as").args(["-march=z13", source, "-o"]).arg(&object)).is_err() {
            println!("skipped: no s390x-linux-gnu-as");
            return;
        }
        run(Command::new("s390x-linux-gnu-objcopy").args(["-O", "binary"]).arg(&object).arg(&image)).unwrap();
        assert!(std::fs::read(&image).unwrap() == DRIVER, "driver.bin is stale; assemble driver.S again");
    }

    #[test]
    fn a_record_holds_the_whole_state() {
        let mut state = State { fpc: 0x0080_0001, cr: Some(Box::new(default_cr())), ..State::default() };
        for i in 0..16 {
            state.gr[i] = i as u64 * 0x0101_0101_0101_0101;
            state.fpr[i] = !state.gr[i];
            state.ar[i] = i as u32 + 1;
        }
        state.windows[0][0] = 1;
        state.windows[1][WINDOW_SIZE - 1] = 2;
        let case = Case::new([0x1a, 0x12, 0, 0, 0, 0], state.clone());
        let mut record = vec![0; RECORD_SIZE];
        encode(&case, &mut record);
        assert_eq!(record[SLOT_BYTES..][..16], [0x1a, 0x12, 10, 0, 10, 0, 10, 0, 10, 0, 10, 0, 10, 0, 10, 0]);
        record[KIND + 7] = 1;
        let answer = decode(&case, &record);
        assert_eq!((answer.state, answer.address), (state, SLOT - 2));
    }
}
