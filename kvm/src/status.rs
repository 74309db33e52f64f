//! What a stopped CPU stores of itself for others (chapter 4, *Store Status*; SIGNAL PROCESSOR's orders *store status at
//! address* and *store additional status at address*).
//!
//! The kernel could store the status (KVM_S390_STORE_STATUS), but knows what was changed since the last run, such as the
//! prefix, only from the next run on, which a stopped CPU does not have.

use machine::Storage;
use zarch::{AbsoluteAddress, lowcore};

use crate::kernel::Registers;

/// Where the guarded-storage registers stand in the additional status, and their length.
const GUARDED: u64 = 1024;

/// What a CPU has beside its [`Registers`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extended {
    /// CPU timer.
    pub timer: u64,
    /// Clock comparator.
    pub comparator: u64,
    /// TOD programmable register.
    pub tod_programmable: u32,
    /// Vector registers, the left half first.
    pub vectors: [[u64; 2]; 32],
    /// Guarded-storage registers, with a reserved doubleword before them.
    pub guarded: [u64; 4],
}

/// Stores the status in the 512 bytes at `at`, or at the assigned locations of absolute storage with the architectural
/// mode. What lies between the fields stays. Storage has these bytes.
pub fn store(storage: &Storage, at: Option<u64>, registers: &Registers, extended: &Extended) {
    let put = |assigned: u64, bytes: &[u8]| {
        let at = at.map_or(assigned, |at| at + (assigned - lowcore::FPR_SAVE_AREA));
        storage.write(AbsoluteAddress(at), bytes).expect("the status was found to be in storage");
    };
    let doublewords = |words: &[u64]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    if at.is_none() {
        put(lowcore::ARCHITECTURAL_MODE, &[1]);
    }
    put(lowcore::FPR_SAVE_AREA, &doublewords(&registers.fpr));
    put(lowcore::GR_SAVE_AREA, &doublewords(&registers.gr));
    put(lowcore::PSW_SAVE_AREA, &doublewords(&[registers.psw.mask, registers.psw.address]));
    put(lowcore::PREFIX_SAVE_AREA, &registers.prefix.to_be_bytes());
    put(lowcore::FPC_SAVE_AREA, &registers.fpc.to_be_bytes());
    put(lowcore::TODPR_SAVE_AREA, &extended.tod_programmable.to_be_bytes());
    put(lowcore::CPU_TIMER_SAVE_AREA, &extended.timer.to_be_bytes());
    // Bits 0-55 of the comparator stand behind a byte of zeros.
    put(lowcore::CLOCK_COMPARATOR_SAVE_AREA - 1, &(extended.comparator >> 8).to_be_bytes());
    let access: Vec<_> = registers.ar.iter().flat_map(|register| register.to_be_bytes()).collect();
    put(lowcore::AR_SAVE_AREA, &access);
    put(lowcore::CR_SAVE_AREA, &doublewords(&registers.cr));
}

/// Stores the vector registers at `at` and, if `guarded`, the guarded-storage registers behind. Storage has these bytes.
pub fn store_additional(storage: &Storage, at: u64, guarded: bool, extended: &Extended) {
    let put = |at: u64, words: &mut dyn Iterator<Item = u64>| {
        let bytes: Vec<_> = words.flat_map(u64::to_be_bytes).collect();
        storage.write(AbsoluteAddress(at), &bytes).expect("the status was found to be in storage");
    };
    put(at, &mut extended.vectors.into_iter().flatten());
    if guarded {
        put(at + GUARDED, &mut extended.guarded.into_iter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zarch::Psw;

    /// Every byte of each register tells which it is.
    fn cpu() -> (Registers, Extended) {
        let wide = |kind: u64, n: usize| (kind << 8 | n as u64) * 0x0001_0001_0001_0001;
        let registers = Registers {
            psw: Psw { mask: 0x0102_0304_0506_0708, address: 0x1112_1314_1516_1718 },
            gr: std::array::from_fn(|n| wide(0xa1, n)),
            ar: std::array::from_fn(|n| 0xa2a2_0000 | n as u32),
            cr: std::array::from_fn(|n| wide(0xa3, n)),
            fpr: std::array::from_fn(|n| wide(0xa4, n)),
            fpc: 0xa5a5_a5a5,
            prefix: 0x0001_2000,
        };
        let extended = Extended {
            timer: 0x2122_2324_2526_2728,
            comparator: 0x3132_3334_3536_3738,
            tod_programmable: 0x4142_4344,
            vectors: std::array::from_fn(|n| [wide(0xb1, n), wide(0xb2, n)]),
            guarded: [0, 0xc1, 0xc2, 0xc3],
        };
        (registers, extended)
    }

    fn storage() -> Storage {
        let storage = Storage::new(1 << 20).unwrap();
        storage.write(AbsoluteAddress(0), &[0xee; 0x8000]).unwrap();
        storage
    }

    /// Bytes of storage that are not filled any more, from `at` on, as runs of offset and bytes.
    fn stored(storage: &Storage, at: u64, length: usize) -> Vec<(usize, Vec<u8>)> {
        let mut bytes = vec![0; length];
        storage.read(AbsoluteAddress(at), &mut bytes).unwrap();
        let mut runs: Vec<(usize, Vec<u8>)> = Vec::new();
        for (n, byte) in bytes.into_iter().enumerate().filter(|(_, byte)| *byte != 0xee) {
            match runs.last_mut().filter(|(at, run)| at + run.len() == n) {
                Some((_, run)) => run.push(byte),
                None => runs.push((n, vec![byte])),
            }
        }
        runs
    }

    #[test]
    fn the_status() {
        let (registers, extended) = cpu();
        let storage = storage();
        store(&storage, Some(0x4200), &registers, &extended);
        let runs = stored(&storage, 0x4200, 512);
        // Offsets and lengths of the save area in chapter 4's figure.
        let places: Vec<_> = runs.iter().map(|(at, bytes)| (*at, bytes.len())).collect();
        assert_eq!(places, [(0, 272), (280, 8), (292, 20), (320, 192)]);
        let at = |offset: usize, length: usize| {
            let (start, bytes) = runs.iter().rfind(|(start, _)| *start <= offset).unwrap();
            bytes[offset - start..][..length].to_vec()
        };
        assert_eq!(at(8, 8), [0xa4, 1].repeat(4));
        assert_eq!(at(128 + 15 * 8, 8), [0xa1, 15].repeat(4));
        assert_eq!(at(256, 16), [1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
        assert_eq!(at(280, 8), [0, 1, 0x20, 0, 0xa5, 0xa5, 0xa5, 0xa5]);
        assert_eq!(at(292, 12), [0x41, 0x42, 0x43, 0x44, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28]);
        assert_eq!(at(304, 8), [0, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37], "bits 0-55");
        assert_eq!(at(320 + 4, 4), [0xa2, 0xa2, 0, 1]);
        assert_eq!(at(384 + 8, 8), [0xa3, 1].repeat(4));
        let elsewhere = stored(&storage, 0, 0x4200).len() + stored(&storage, 0x4400, 0x3c00).len();
        assert_eq!(elsewhere, 0);

        // At the assigned locations the same, and the mode.
        store(&storage, None, &registers, &extended);
        assert_eq!(stored(&storage, 0x1200, 512), runs);
        assert_eq!(stored(&storage, 0, 0x1200), [(163, vec![1])]);
    }

    #[test]
    fn the_additional_status() {
        let (_, extended) = cpu();
        for guarded in [false, true] {
            let storage = storage();
            store_additional(&storage, 0x4000, guarded, &extended);
            let runs = stored(&storage, 0, 0x8000);
            assert_eq!(runs.len(), 1 + usize::from(guarded));
            let (at, vectors) = &runs[0];
            assert_eq!((*at, vectors.len()), (0x4000, 512));
            assert_eq!(vectors[31 * 16..], [[0xb1, 31].repeat(4), [0xb2, 31].repeat(4)].concat());
            if guarded {
                let mut registers = [0; 32];
                (registers[15], registers[23], registers[31]) = (0xc1, 0xc2, 0xc3);
                assert_eq!(runs[1], (0x4400, registers.to_vec()));
            }
        }
    }
}
