//! The software TLB: banks of translations by address space and access key. `access` fills and uses it.
#![forbid(unsafe_code)]

use zarch::PAGE_SIZE;

use crate::translate::Space;

const ENTRIES: usize = 1024;
/// A tag no address compares equal to, since tags of pages have zeros on the right.
const NO_TAG: u64 = 1;
/// Banks a CPU keeps beside the empty one.
const BANKS: usize = 10;

#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) read: u64,
    pub(crate) write: u64,
    pub(crate) fetch: u64,
    /// Host address minus virtual address.
    pub(crate) addend: u64,
}

pub(crate) const EMPTY: Entry = Entry { read: NO_TAG, write: NO_TAG, fetch: NO_TAG, addend: 0 };

/// Translations of one address space under one access key.
pub(crate) struct Bank {
    pub(crate) entries: Box<[Entry; ENTRIES]>,
    space: Space,
    key: u8,
    /// Changes whenever what the bank holds may no longer be used, so that what was remembered with
    /// the old number is not.
    pub(crate) id: u64,
    used: u64,
    /// Whether an entry was filled since the last purge.
    pub(crate) filled: bool,
    /// For the pages that low-address protection covers in part: whether a store past the protected
    /// 512 bytes is known to be allowed.
    pub(crate) low_store: [bool; 2],
}

/// The banks of a CPU.
pub(crate) struct Tlb {
    pub(crate) banks: Vec<Bank>,
    /// Never filled: current in access-register mode, where each operand chooses its own.
    pub(crate) empty: Box<[Entry; ENTRIES]>,
    next_id: u64,
    clock: u64,
    /// Index of the bank instructions are fetched through.
    pub(crate) code: usize,
    /// Index of the bank that fast access goes through. Neither of the two is ever given away.
    pub(crate) data: usize,
}

impl Tlb {
    pub(crate) fn new() -> Self {
        Self { banks: Vec::new(), empty: Box::new([EMPTY; ENTRIES]), next_id: 1, clock: 0, code: 0, data: 0 }
    }

    /// The bank of `space` under `key`: an existing one, or the one used longest ago, emptied.
    pub(crate) fn bank(&mut self, space: Space, key: u8) -> usize {
        self.clock += 1;
        let clock = self.clock;
        if let Some(n) = self.banks.iter().position(|b| b.space == space && b.key == key) {
            self.banks[n].used = clock;
            return n;
        }
        self.next_id += 1;
        let id = self.next_id;
        if self.banks.len() < BANKS {
            self.banks.push(Bank {
                entries: Box::new([EMPTY; ENTRIES]),
                space,
                key,
                id,
                used: clock,
                filled: false,
                low_store: [false; 2],
            });
            return self.banks.len() - 1;
        }
        let free = (0..BANKS).filter(|&n| n != self.code && n != self.data);
        let n = free.min_by_key(|&n| self.banks[n].used).expect("there are more banks than two");
        let bank = &mut self.banks[n];
        bank.entries.fill(EMPTY);
        (bank.space, bank.key, bank.id, bank.used, bank.filled) = (space, key, id, clock, false);
        bank.low_store = [false; 2];
        n
    }

    /// The number that stands for the current contents of the bank instructions come through.
    pub(crate) fn code_id(&self) -> u64 {
        self.banks[self.code].id
    }

    /// Forgets everything.
    pub(crate) fn purge(&mut self) {
        for bank in self.banks.iter_mut().filter(|b| b.filled) {
            self.next_id += 1;
            bank.entries.fill(EMPTY);
            (bank.id, bank.filled, bank.low_store) = (self.next_id, false, [false; 2]);
        }
    }

    /// Takes the write tags off every translation of the host page at `host`.
    pub(crate) fn forbid_stores(&mut self, host: u64) {
        for bank in self.banks.iter_mut().filter(|b| b.filled) {
            for entry in bank.entries.iter_mut() {
                if entry.write != NO_TAG && entry.addend.wrapping_add(entry.write) == host {
                    entry.write = NO_TAG;
                }
            }
            bank.low_store = [false; 2];
        }
    }

    /// Takes all write tags off.
    pub(crate) fn forbid_all_stores(&mut self) {
        for bank in self.banks.iter_mut().filter(|b| b.filled) {
            bank.entries.iter_mut().for_each(|e| e.write = NO_TAG);
            bank.low_store = [false; 2];
        }
    }
}

/// The slot of the page of `address` in a bank.
#[inline(always)]
pub(crate) fn index(address: u64) -> usize {
    (address / PAGE_SIZE) as usize & (ENTRIES - 1)
}
