//! Guest absolute storage: contents on vm-memory, one storage key per 4K-byte block, and marks on
//! blocks that a CPU has decoded instructions from.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, RwLock};

use vm_memory::{Bytes, GuestAddress, GuestRegionMmap, MemoryRegionAddress, MmapRegion};
use zarch::{AbsoluteAddress, PAGE_SIZE, StorageKey};

/// What sizes and the host address of storage are multiples of: SCLP reports storage in increments of it, and KVM on s390x
/// takes no other slots (`kvm_arch_prepare_memory_region`).
const INCREMENT: u64 = 1 << 20;

/// What the host refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host could not map guest storage.
    #[error("map {size} bytes of guest storage")]
    Map {
        /// Requested size in bytes.
        size: u64,
        /// The host's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The size is zero or not a multiple of 1 MiB, the increment that SCLP reports storage in.
    #[error("guest storage of {0} bytes: give a multiple of 1 MiB")]
    Size(u64),
    /// A CPU back end failed in a way the guest cannot have caused.
    #[error("CPU {address}: {reason}")]
    Cpu {
        /// CPU address.
        address: u16,
        /// What failed.
        reason: String,
    },
}

/// An absolute address that names no storage: an addressing exception when an instruction gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addressing;

/// Told when a block that a CPU holds decoded instructions of has been stored into.
pub trait CodeWatcher: Send + Sync {
    /// The 4K-byte block number `page` may have changed.
    fn code_changed(&self, page: u64);
}

/// Guest absolute storage from address 0.
pub struct Storage {
    memory: GuestRegionMmap,
    /// The mapping that `memory` looks at, which has room for its alignment. Unmapped with this value: nothing gives
    /// `memory` away.
    _mapping: MmapRegion,
    host: *mut u8,
    size: u64,
    keys: Box<[AtomicU8]>,
    code: Box<[AtomicU8]>,
    watchers: RwLock<Vec<Arc<dyn CodeWatcher>>>,
}

// SAFETY: `host` points into the mapping that `_mapping` owns for as long as this value lives, and
// every access through it is by volatile or atomic operations of machine words.
unsafe impl Send for Storage {}
// SAFETY: as above; the rest of the fields are Sync by themselves.
unsafe impl Sync for Storage {}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Storage({} bytes)", self.size)
    }
}

impl Storage {
    /// Maps `size` bytes of zeros. `size` is a multiple of 1 MiB.
    pub fn new(size: u64) -> Result<Self, Error> {
        let with_room = size.checked_add(INCREMENT).and_then(|sum| usize::try_from(sum).ok());
        let (Some(with_room), true) = (with_room, size > 0 && size.is_multiple_of(INCREMENT)) else {
            return Err(Error::Size(size));
        };
        let refused = |e| Error::Map { size, source: Box::new(e) };
        // The host aligns mappings to its pages only.
        let mapping = MmapRegion::<()>::new(with_room).map_err(refused)?;
        let host = mapping.as_ptr().wrapping_add(mapping.as_ptr().align_offset(INCREMENT as usize));
        // SAFETY: the `size` bytes at `host` are inside `mapping`, as aligning passes over less than INCREMENT bytes; the
        // view has its protection, and lives with it in this value, which gives out references only.
        let view = unsafe { MmapRegion::build_raw(host, size as usize, mapping.prot(), mapping.flags()) };
        let memory =
            GuestRegionMmap::new(view.map_err(refused)?, GuestAddress(0)).expect("it ends below 2^64");
        let bytes = || (0..size / PAGE_SIZE).map(|_| AtomicU8::new(0)).collect();
        let (keys, code) = (bytes(), bytes());
        Ok(Self { memory, _mapping: mapping, host, size, keys, code, watchers: RwLock::default() })
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the `length` bytes at `at` exist.
    pub fn contains(&self, at: AbsoluteAddress, length: u64) -> bool {
        at.0 <= self.size && length <= self.size - at.0
    }

    /// Host address of absolute address 0, a multiple of 1 MiB. Everything up to [`size`](Self::size) is one mapping.
    pub fn host_base(&self) -> *mut u8 {
        self.host
    }

    /// Copies storage at `at` into `buffer`; nothing is copied when any byte is missing.
    pub fn read(&self, at: AbsoluteAddress, buffer: &mut [u8]) -> Result<(), Addressing> {
        if !self.contains(at, buffer.len() as u64) {
            return Err(Addressing);
        }
        self.memory.read_slice(buffer, MemoryRegionAddress(at.0)).map_err(|_| Addressing)?;
        self.mark(at, buffer.len(), StorageKey::REFERENCE);
        Ok(())
    }

    /// Copies `bytes` to storage at `at`, sets reference and change bits; all or nothing.
    pub fn write(&self, at: AbsoluteAddress, bytes: &[u8]) -> Result<(), Addressing> {
        if !self.contains(at, bytes.len() as u64) {
            return Err(Addressing);
        }
        self.memory.write_slice(bytes, MemoryRegionAddress(at.0)).map_err(|_| Addressing)?;
        self.mark(at, bytes.len(), StorageKey::REFERENCE | StorageKey::CHANGE);
        self.stored(at, bytes.len() as u64);
        Ok(())
    }

    /// An array of `N` bytes at `at`.
    pub fn read_array<const N: usize>(&self, at: AbsoluteAddress) -> Result<[u8; N], Addressing> {
        let mut bytes = [0; N];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Sets every byte to zero and every key to zero, as clear reset does. CPUs must be held off.
    pub fn clear(&self) {
        let zeros = [0u8; PAGE_SIZE as usize];
        for page in 0..self.size / PAGE_SIZE {
            let at = AbsoluteAddress(page * PAGE_SIZE);
            let mut now = [0u8; PAGE_SIZE as usize];
            // Reading first keeps host pages that were never touched unallocated.
            if self.memory.read_slice(&mut now, MemoryRegionAddress(at.0)).is_ok() && now != zeros {
                let _ = self.write(at, &zeros);
            }
            self.keys[page as usize].store(0, Ordering::Relaxed);
        }
    }

    /// The storage key of the block at `at`.
    pub fn key(&self, at: AbsoluteAddress) -> Result<StorageKey, Addressing> {
        let key = self.keys.get((at.0 / PAGE_SIZE) as usize).ok_or(Addressing)?;
        Ok(StorageKey(key.load(Ordering::Relaxed)))
    }

    /// Replaces the storage key of the block at `at`, answering with the old one.
    pub fn set_key(&self, at: AbsoluteAddress, key: StorageKey) -> Result<StorageKey, Addressing> {
        let slot = self.keys.get((at.0 / PAGE_SIZE) as usize).ok_or(Addressing)?;
        Ok(StorageKey(slot.swap(key.0 & 0xfe, Ordering::Relaxed)))
    }

    /// Sets the bits `bits` (reference, change) in the key of block `page`.
    pub fn mark_page(&self, page: u64, bits: u8) {
        if let Some(key) = self.keys.get(page as usize)
            && key.load(Ordering::Relaxed) & bits != bits
        {
            key.fetch_or(bits, Ordering::Relaxed);
        }
    }

    /// Clears the bits `bits` in the key of the block at `at`, answering with the old key.
    pub fn clear_key_bits(&self, at: AbsoluteAddress, bits: u8) -> Result<StorageKey, Addressing> {
        let slot = self.keys.get((at.0 / PAGE_SIZE) as usize).ok_or(Addressing)?;
        Ok(StorageKey(slot.fetch_and(!bits, Ordering::Relaxed)))
    }

    fn mark(&self, at: AbsoluteAddress, length: usize, bits: u8) {
        if length > 0 {
            for page in at.0 / PAGE_SIZE..=(at.0 + length as u64 - 1) / PAGE_SIZE {
                self.mark_page(page, bits);
            }
        }
    }

    /// Registers a CPU that caches decoded instructions.
    pub fn watch_code(&self, watcher: Arc<dyn CodeWatcher>) {
        self.watchers.write().expect("no holder panics").push(watcher);
    }

    /// Marks block `page` as one that decoded instructions come from. True when it was not marked.
    pub fn mark_code(&self, page: u64) -> bool {
        self.code[page as usize].swap(1, Ordering::SeqCst) == 0
    }

    /// Whether block `page` is marked as holding instructions.
    pub fn is_code(&self, page: u64) -> bool {
        self.code[page as usize].load(Ordering::SeqCst) != 0
    }

    /// To be called after a store of `length` bytes at `at` by other means than [`write`](Self::write):
    /// tells the watchers of marked blocks and takes the marks away.
    pub fn stored(&self, at: AbsoluteAddress, length: u64) {
        if length == 0 || !self.contains(at, length) {
            return;
        }
        // What was stored must be visible before the marks are looked at: a CPU that marks a page afterwards
        // then decodes the new contents.
        std::sync::atomic::fence(Ordering::SeqCst);
        for page in at.0 / PAGE_SIZE..=(at.0 + length - 1) / PAGE_SIZE {
            if self.code[page as usize].load(Ordering::SeqCst) != 0 {
                self.code[page as usize].store(0, Ordering::SeqCst);
                for watcher in self.watchers.read().expect("no holder panics").iter() {
                    watcher.code_changed(page);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Log(Mutex<Vec<u64>>);

    impl CodeWatcher for Log {
        fn code_changed(&self, page: u64) {
            self.0.lock().unwrap().push(page);
        }
    }

    #[test]
    fn bounds_keys_and_code_marks() {
        let storage = Storage::new(1 << 20).unwrap();
        let end = AbsoluteAddress((1 << 20) - 2);
        assert_eq!(storage.write(end, &[1, 2, 3]), Err(Addressing));
        assert_eq!(storage.read_array::<2>(end), Ok([0, 0]));
        assert_eq!(storage.read_array::<1>(AbsoluteAddress(u64::MAX)), Err(Addressing));

        let log = Arc::new(Log::default());
        storage.watch_code(log.clone());
        assert!(storage.mark_code(2));
        assert!(!storage.mark_code(2));
        storage.write(AbsoluteAddress(0x1fff), &[7, 8]).unwrap();
        assert_eq!(*log.0.lock().unwrap(), [2]);
        assert!(!storage.is_code(2));
        assert_eq!(
            storage.key(AbsoluteAddress(0x2000)).unwrap().0,
            StorageKey::REFERENCE | StorageKey::CHANGE
        );
        assert_eq!(storage.key(AbsoluteAddress(0x3000)).unwrap().0, 0);
        storage.clear();
        assert_eq!(storage.read_array::<2>(AbsoluteAddress(0x1fff)), Ok([0, 0]));
    }

    /// KVM on s390x refuses other slots.
    #[test]
    fn host_addresses_are_aligned() {
        // The host places mappings below one another: with a page between them, most are odd.
        let mut kept = Vec::new();
        for mib in [1, 3, 2, 7, 1, 64] {
            let storage = Storage::new(mib << 20).unwrap();
            assert_eq!(storage.host_base() as usize % (1 << 20), 0, "{mib} MiB");
            let last = AbsoluteAddress((mib << 20) - 1);
            assert_eq!(storage.read_array::<1>(last), Ok([0]));
            storage.write(last, &[1]).unwrap();
            storage.write(AbsoluteAddress(0), &[2]).unwrap();
            // SAFETY: both bytes are inside the mapping, which `storage` keeps.
            let ends = unsafe { [*storage.host_base(), *storage.host_base().add(last.0 as usize)] };
            assert_eq!(ends, [2, 1]);
            kept.push((storage, MmapRegion::<()>::new(PAGE_SIZE as usize).unwrap()));
        }
    }

    #[test]
    fn odd_sizes_are_refused() {
        for size in [0, 1, (1 << 20) + 4096, u64::MAX << 20] {
            assert!(matches!(Storage::new(size), Err(Error::Size(s)) if s == size));
        }
    }
}
