//! Direct boot: puts a kernel, its initial RAM disk and its command line into guest storage and says
//! with which PSW to start.
//!
//! Two kinds of image are known:
//!
//! * The raw Linux image (`vmlinuz`, `Image`): file offset is storage address; `S390EP` at 0x10008
//!   says that it starts at 0x10000. Without that mark an image is started with the short PSW at its
//!   beginning, as an IPL from a device would, where there is a plausible one.
//! * ELF64 executables for s390x: segments go to their physical addresses, execution begins at the
//!   entry address.
//!
//! A Linux image has a parameter area at 0x10400 (Linux, `arch/s390/include/asm/setup.h`), which gets
//! the place of the RAM disk and the command line.

mod elf;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use machine::Storage;
use zarch::{AbsoluteAddress, PAGE_SIZE, Psw, psw_bits};

/// Where a Linux image is entered, and where its mark is.
const LINUX_ENTRY: u64 = 0x10000;
const LINUX_MARK_AT: u64 = 0x10008;
const LINUX_MARK: &[u8; 6] = b"S390EP";
/// Parameter area: start and size of the RAM disk, size of the command-line buffer, and that buffer.
const INITRD_START: u64 = 0x10408;
const INITRD_SIZE: u64 = 0x10410;
const COMMAND_LINE_SIZE: u64 = 0x10430;
const COMMAND_LINE: u64 = 0x10480;
/// Buffer size of kernels that do not say (before 5.15).
const OLD_COMMAND_LINE_SIZE: u64 = 896;
/// 64-bit addressing mode, everything disabled.
const ENTRY_MASK: u64 = psw_bits::EA | psw_bits::BA;
/// Bytes copied at once.
const CHUNK: u64 = 1 << 20;

/// Why an image cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host could not open or read a file.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's reason.
        source: io::Error,
    },
    /// The file is nothing that can be started.
    #[error("{} is no s390x kernel ({reason}); give a Linux image or an s390x ELF executable", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was expected.
        reason: String,
    },
    /// It does not fit into guest storage.
    #[error(
        "{} needs storage up to {needed:#x}, the guest has {available:#x}; give more --memory", path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// First address behind what it needs.
        needed: u64,
        /// Size of guest storage.
        available: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the command line has {length} bytes, this kernel takes {limit}; shorten --append")]
    CommandLine {
        /// Its length.
        length: u64,
        /// Most that the kernel takes.
        limit: u64,
    },
    /// The image has no parameter area.
    #[error("{} has no Linux parameter area, so it takes no {flag}; leave it out", path.display())]
    NoParameters {
        /// The image.
        path: PathBuf,
        /// The flag that needs one.
        flag: &'static str,
    },
}

/// A file with the name that errors give it. It stays open, so that a guest which loads itself again
/// gets what it was started with even when the file has been replaced.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Source {
    fn open(path: &Path) -> Result<Self, Error> {
        let open = || {
            let file = File::open(path)?;
            let data = file.metadata()?;
            if !data.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
            }
            Ok((file, data.len()))
        };
        let (file, size) = open().map_err(|source| Error::Read { path: path.into(), source })?;
        Ok(Self { path: path.into(), file, size })
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.file.read_exact_at(buffer, at).map_err(|source| Error::Read { path: self.path.clone(), source })
    }

    /// The `N` bytes at `at`, `None` when the file ends before.
    fn array<const N: usize>(&self, at: u64) -> Result<Option<[u8; N]>, Error> {
        if self.size.checked_sub(at).is_none_or(|rest| rest < N as u64) {
            return Ok(None);
        }
        let mut bytes = [0; N];
        self.read(at, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn format(&self, reason: impl Into<String>) -> Error {
        Error::Format { path: self.path.clone(), reason: reason.into() }
    }

    /// Copies `length` bytes from offset `from` to storage at `to`.
    fn copy(&self, from: u64, length: u64, storage: &Storage, to: u64) -> Result<(), Error> {
        self.fits(storage, to, length)?;
        let mut buffer = vec![0; length.min(CHUNK) as usize];
        let mut done = 0;
        while done < length {
            let part = &mut buffer[..(length - done).min(CHUNK) as usize];
            self.read(from + done, part)?;
            put(storage, to + done, part);
            done += part.len() as u64;
        }
        Ok(())
    }

    fn fits(&self, storage: &Storage, at: u64, length: u64) -> Result<(), Error> {
        if storage.contains(AbsoluteAddress(at), length) {
            return Ok(());
        }
        let needed = at.saturating_add(length);
        Err(Error::Size { path: self.path.clone(), needed, available: storage.size() })
    }
}

/// Stores where the caller has checked that storage is.
fn put(storage: &Storage, at: u64, bytes: &[u8]) {
    storage.write(AbsoluteAddress(at), bytes).expect("the place has been checked against the storage size");
}

/// What the guest is started from.
#[derive(Debug)]
pub struct Boot {
    kernel: Source,
    initrd: Option<Source>,
    command_line: String,
}

/// Where an image ended up.
struct Placed {
    entry: Psw,
    /// First address behind it.
    end: u64,
}

impl Boot {
    /// Opens the files.
    pub fn open(kernel: &Path, initrd: Option<&Path>, command_line: &str) -> Result<Self, Error> {
        Ok(Self {
            kernel: Source::open(kernel)?,
            initrd: initrd.map(Source::open).transpose()?,
            command_line: command_line.into(),
        })
    }

    /// Puts everything into `storage`, answering with the PSW to start with. Nothing may run meanwhile.
    pub fn load(&self, storage: &Storage) -> Result<Psw, Error> {
        let placed = match self.kernel.array::<4>(0)? {
            Some(magic) if magic == elf::MAGIC => elf::load(&self.kernel, storage)?,
            _ => self.load_raw(storage)?,
        };
        let mut mark = [0; LINUX_MARK.len()];
        let has_parameters = placed.entry.address == LINUX_ENTRY
            && placed.end >= COMMAND_LINE + OLD_COMMAND_LINE_SIZE
            && storage.read(AbsoluteAddress(LINUX_MARK_AT), &mut mark).is_ok()
            && mark == *LINUX_MARK;
        if has_parameters {
            self.write_command_line(storage)?;
            self.load_initrd(storage, placed.end)?;
        } else {
            let refuse = |flag| Error::NoParameters { path: self.kernel.path.clone(), flag };
            if self.initrd.is_some() {
                return Err(refuse("--initrd"));
            }
            if !self.command_line.is_empty() {
                return Err(refuse("--append"));
            }
        }
        Ok(placed.entry)
    }

    fn load_raw(&self, storage: &Storage) -> Result<Placed, Error> {
        let kernel = &self.kernel;
        let entry = if kernel.array::<6>(LINUX_MARK_AT)?.as_ref() == Some(LINUX_MARK) {
            Psw { mask: ENTRY_MASK, address: LINUX_ENTRY }
        } else {
            let Some(short) = kernel.array::<8>(0)? else {
                return Err(kernel.format("shorter than a PSW"));
            };
            plausible_psw(u64::from_be_bytes(short), kernel.size).ok_or_else(|| {
                kernel.format("neither ELF, nor S390EP at 0x10008, nor a PSW at its beginning")
            })?
        };
        kernel.copy(0, kernel.size, storage, 0)?;
        Ok(Placed { entry, end: kernel.size })
    }

    fn write_command_line(&self, storage: &Storage) -> Result<(), Error> {
        let mut size = [0; 8];
        self.kernel.fits(storage, COMMAND_LINE_SIZE, 8)?;
        storage.read(AbsoluteAddress(COMMAND_LINE_SIZE), &mut size).expect("checked");
        let size = match u64::from_be_bytes(size) {
            0 => OLD_COMMAND_LINE_SIZE,
            size => size,
        };
        let length = self.command_line.len() as u64;
        if length >= size {
            return Err(Error::CommandLine { length, limit: size - 1 });
        }
        self.kernel.fits(storage, COMMAND_LINE, length + 1)?;
        put(storage, COMMAND_LINE, self.command_line.as_bytes());
        put(storage, COMMAND_LINE + length, &[0]);
        Ok(())
    }

    /// As high as possible, where neither the kernel unpacks itself nor the guest's first tables lie.
    fn load_initrd(&self, storage: &Storage, kernel_end: u64) -> Result<(), Error> {
        let (start, size) = match &self.initrd {
            None => (0, 0),
            Some(initrd) => {
                let start = storage.size().saturating_sub(initrd.size) & !(PAGE_SIZE - 1);
                let lowest = kernel_end.next_multiple_of(PAGE_SIZE);
                if start < lowest || initrd.size > storage.size() {
                    return Err(Error::Size {
                        path: initrd.path.clone(),
                        needed: lowest.saturating_add(initrd.size),
                        available: storage.size(),
                    });
                }
                initrd.copy(0, initrd.size, storage, start)?;
                (start, initrd.size)
            }
        };
        put(storage, INITRD_START, &start.to_be_bytes());
        put(storage, INITRD_SIZE, &size.to_be_bytes());
        Ok(())
    }
}

/// The PSW that `short` is when an image of `size` bytes could well begin with it.
fn plausible_psw(short: u64, size: u64) -> Option<Psw> {
    let psw = Psw::from_short(short);
    let sound = short & psw_bits::SHORT != 0 && !psw.is_invalid() && !psw.wait();
    (sound && psw.address != 0 && psw.address.is_multiple_of(2) && psw.address < size).then_some(psw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tempfile::NamedTempFile;

    const MIB: u64 = 1 << 20;

    fn file(bytes: &[u8]) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// A Linux image of 0x20000 bytes whose command-line buffer has `size` bytes.
    fn linux(size: u64) -> Vec<u8> {
        let mut image = vec![0x5a; 0x20000];
        image[0x10008..0x1000e].copy_from_slice(LINUX_MARK);
        image[0x10430..0x10438].copy_from_slice(&size.to_be_bytes());
        image
    }

    fn load(kernel: &[u8], initrd: Option<&[u8]>, line: &str, storage: &Storage) -> Result<Psw, String> {
        let (kernel, initrd) = (file(kernel), initrd.map(file));
        Boot::open(kernel.path(), initrd.as_ref().map(|f| f.path()), line)
            .and_then(|boot| boot.load(storage))
            .map_err(|e| e.to_string())
    }

    fn word(storage: &Storage, at: u64) -> u64 {
        u64::from_be_bytes(storage.read_array(AbsoluteAddress(at)).unwrap())
    }

    #[test]
    fn linux_with_everything() {
        let storage = Storage::new(MIB).unwrap();
        let initrd: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        let psw = load(&linux(4096), Some(&initrd), "root=/dev/ram0 quiet", &storage).unwrap();
        assert_eq!(psw, Psw { mask: 0x1_8000_0000, address: 0x10000 });
        let (start, size) = (word(&storage, 0x10408), word(&storage, 0x10410));
        assert_eq!((start, size), (MIB - 0x2000, 5000));
        let mut back = vec![0; 5000];
        storage.read(AbsoluteAddress(start), &mut back).unwrap();
        assert_eq!(back, initrd);
        assert_eq!(&storage.read_array::<21>(AbsoluteAddress(0x10480)).unwrap(), b"root=/dev/ram0 quiet\0");
        assert_eq!(storage.read_array::<2>(AbsoluteAddress(0x1fffe)).unwrap(), [0x5a; 2]);
    }

    #[test]
    fn an_absent_initrd_is_said_to_be_absent() {
        let storage = Storage::new(MIB).unwrap();
        load(&linux(0), None, "", &storage).unwrap();
        assert_eq!((word(&storage, 0x10408), word(&storage, 0x10410)), (0, 0));
        assert_eq!(storage.read_array::<1>(AbsoluteAddress(0x10480)).unwrap(), [0]);
    }

    #[test]
    fn command_line_limits() {
        let storage = Storage::new(MIB).unwrap();
        for (size, fits, limit) in [(0, 895, 895), (4096, 4095, 4095), (10, 9, 9)] {
            load(&linux(size), None, &"x".repeat(fits), &storage).unwrap();
            let error = load(&linux(size), None, &"x".repeat(fits + 1), &storage).unwrap_err();
            assert!(error.contains(&format!("{} bytes, this kernel takes {limit}", fits + 1)), "{error}");
        }
        // A kernel that claims a buffer larger than storage.
        let error = load(&linux(u64::MAX), None, &"x".repeat(MIB as usize), &storage).unwrap_err();
        assert!(error.contains("needs storage up to"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let storage = Storage::new(MIB).unwrap();
        let big = vec![0; MIB as usize];
        for (kernel, initrd) in [
            (linux(0), Some(&big[..])),
            (linux(0), Some(&big[..MIB as usize - 0x20000 + 1])),
            ([linux(0), big.clone()].concat(), None),
        ] {
            let error = load(&kernel, initrd, "", &storage).unwrap_err();
            assert!(error.contains("give more --memory"), "{error}");
        }
        load(&linux(0), Some(&big[..MIB as usize - 0x20000]), "", &storage).unwrap();
    }

    #[test]
    fn raw_images_with_a_psw() {
        let storage = Storage::new(MIB).unwrap();
        let image = |psw: u64, size| [&psw.to_be_bytes()[..], &vec![7; size]].concat();
        let psw = load(&image(0x0008_0000_8000_0008, 100), None, "", &storage).unwrap();
        assert_eq!(psw, Psw { mask: 0x8000_0000, address: 8 });
        for (short, size) in [
            (0x0000_0000_8000_0008, 100), // bit 12 is zero
            (0x0008_0000_8000_0009, 100), // odd
            (0x0008_0000_8000_0000, 100), // nothing at zero but this PSW
            (0x0008_0000_8000_1000, 100), // behind the image
            (0x000a_0000_8000_0008, 100), // a wait
            (0x8008_0000_8000_0008, 100), // a reserved bit
        ] {
            let error = load(&image(short, size), None, "", &storage).unwrap_err();
            assert!(error.contains("is no s390x kernel"), "{short:x}: {error}");
        }
        assert!(load(b"abc", None, "", &storage).unwrap_err().contains("shorter than a PSW"));
        assert!(load(b"", None, "", &storage).unwrap_err().contains("shorter than a PSW"));

        let bare = image(0x0008_0000_8000_0008, 100);
        assert!(load(&bare, None, "x", &storage).unwrap_err().contains("takes no --append"));
        assert!(load(&bare, Some(b"x"), "", &storage).unwrap_err().contains("takes no --initrd"));
    }

    #[test]
    fn missing_files_are_named() {
        let error = Boot::open(Path::new("/nonexistent/vmlinuz"), None, "").unwrap_err();
        assert_eq!(error.to_string(), "read /nonexistent/vmlinuz");
        assert!(matches!(Boot::open(Path::new("/"), None, ""), Err(Error::Read { .. })));
    }
}
