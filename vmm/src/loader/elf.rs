//! ELF64 big-endian executables for s390x (*ELF-64 Object File Format*; s390x ABI supplement).

use machine::Storage;
use zarch::Psw;

use super::{CHUNK, ENTRY_MASK, Error, Placed, Source, put};

pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
const CLASS_64: u8 = 2;
const DATA_BIG_ENDIAN: u8 = 2;
const TYPE_EXECUTABLE: u16 = 2;
const MACHINE_S390: u16 = 22;
const SEGMENT_LOAD: u32 = 1;
/// More than any linker makes; bounds the work that a file can cause.
const MAX_PROGRAM_HEADERS: u16 = 128;

/// Puts the segments of `file` at their physical addresses.
pub(super) fn load(file: &Source, storage: &Storage) -> Result<Placed, Error> {
    let header: [u8; HEADER_SIZE] = file.array(0)?.ok_or_else(|| file.format("an ELF header cut off"))?;
    if header[4] != CLASS_64 || header[5] != DATA_BIG_ENDIAN || half(&header, 18) != MACHINE_S390 {
        return Err(file.format("an ELF file, but not 64-bit, big-endian, for s390x"));
    }
    if half(&header, 16) != TYPE_EXECUTABLE {
        return Err(
            file.format("an ELF file, but no executable at fixed addresses; link with -static -no-pie")
        );
    }
    let entry = double(&header, 24);
    let (table, entry_size, count) = (double(&header, 32), half(&header, 54), half(&header, 56));
    if usize::from(entry_size) != PROGRAM_HEADER_SIZE || count == 0 || count > MAX_PROGRAM_HEADERS {
        return Err(file.format("an ELF file with an odd program-header table"));
    }

    let mut end = 0;
    for n in 0..u64::from(count) {
        let at = table.checked_add(n * PROGRAM_HEADER_SIZE as u64);
        let segment: Option<[u8; PROGRAM_HEADER_SIZE]> = at.map_or(Ok(None), |at| file.array(at))?;
        let segment =
            segment.ok_or_else(|| file.format("an ELF program header behind the end of the file"))?;
        if word(&segment, 0) == SEGMENT_LOAD {
            end = end.max(load_segment(file, storage, &segment)?);
        }
    }
    if !entry.is_multiple_of(2) || entry >= end {
        return Err(file.format(format!("an ELF file whose entry {entry:#x} is in no segment")));
    }
    Ok(Placed { entry: Psw { mask: ENTRY_MASK, address: entry }, end })
}

/// Answers with the first address behind the segment.
fn load_segment(file: &Source, storage: &Storage, segment: &[u8]) -> Result<u64, Error> {
    let [offset, address, in_file, in_storage] = [8, 24, 32, 40].map(|at| double(segment, at));
    if offset.checked_add(in_file).is_none_or(|end| end > file.size) || in_storage < in_file {
        return Err(file.format("an ELF segment behind the end of the file"));
    }
    file.fits(storage, address, in_storage)?;
    file.copy(offset, in_file, storage, address)?;
    let zeros = vec![0; (in_storage - in_file).min(CHUNK) as usize];
    let (mut at, end) = (address + in_file, address + in_storage);
    while at < end {
        let part = &zeros[..(end - at).min(CHUNK) as usize];
        put(storage, at, part);
        at += part.len() as u64;
    }
    Ok(end)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn double(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::super::Boot;
    use super::*;
    use std::io::Write;
    use zarch::AbsoluteAddress;

    /// An executable of one segment: 16 bytes from the file and 16 more of zeros at 0x11000.
    fn executable() -> Vec<u8> {
        let mut elf = vec![0; 0x100];
        elf[..4].copy_from_slice(&MAGIC);
        (elf[4], elf[5], elf[6]) = (2, 2, 1);
        elf[16..20].copy_from_slice(&[0, 2, 0, 22]);
        elf[24..32].copy_from_slice(&0x11000u64.to_be_bytes());
        elf[32..40].copy_from_slice(&0x40u64.to_be_bytes());
        elf[54..58].copy_from_slice(&[0, 56, 0, 1]);
        elf[0x43] = 1;
        for (at, value) in [(0x48, 0x80u64), (0x50, 0x7777), (0x58, 0x11000), (0x60, 16), (0x68, 32)] {
            elf[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        elf[0x80..0x90].fill(0xab);
        elf
    }

    fn load(elf: &[u8], storage: &Storage) -> Result<Psw, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(elf).unwrap();
        Boot::open(file.path(), None, "").and_then(|boot| boot.load(storage)).map_err(|e| e.to_string())
    }

    #[test]
    fn segments_go_to_physical_addresses() {
        let storage = Storage::new(1 << 20).unwrap();
        storage.write(AbsoluteAddress(0x11000), &[0xff; 64]).unwrap();
        let psw = load(&executable(), &storage).unwrap();
        assert_eq!(psw, Psw { mask: 0x1_8000_0000, address: 0x11000 });
        let mut want = [0xff; 64];
        want[..16].fill(0xab);
        want[16..32].fill(0);
        assert_eq!(storage.read_array::<64>(AbsoluteAddress(0x11000)).unwrap(), want);
    }

    #[test]
    fn damaged_files_are_refused() {
        let storage = Storage::new(1 << 20).unwrap();
        let bytes = |n: u64| n.to_be_bytes();
        let cases: &[(usize, &[u8], &str)] = &[
            (4, &[1], "not 64-bit"),
            (5, &[1], "not 64-bit"),
            (18, &[0, 62], "not 64-bit"),
            (16, &[0, 3], "-no-pie"),
            (24, &bytes(0x11001), "in no segment"),
            (24, &bytes(0x11020), "in no segment"),
            (32, &bytes(u64::MAX), "behind the end"),
            (32, &bytes(0xf0), "behind the end"),
            (54, &[0, 55], "odd program-header table"),
            (56, &[0, 0], "odd program-header table"),
            (56, &[0xff, 0xff], "odd program-header table"),
            (56, &[0, 100], "behind the end"),
            (0x48, &bytes(u64::MAX), "behind the end"),
            (0x60, &bytes(u64::MAX), "behind the end"),
            (0x60, &bytes(0x81), "behind the end"),
            (0x68, &bytes(15), "behind the end"),
            (0x58, &bytes(u64::MAX), "give more --memory"),
            (0x58, &bytes((1 << 20) - 31), "give more --memory"),
            (0x68, &bytes(u64::MAX), "give more --memory"),
        ];
        for (at, change, want) in cases {
            let mut elf = executable();
            elf[*at..*at + change.len()].copy_from_slice(change);
            let error = load(&elf, &storage).expect_err(want);
            assert!(error.contains(want), "{at:x}: {error}");
        }
        assert!(load(&executable()[..50], &storage).unwrap_err().contains("cut off"));
    }
}
