//! The words of the *z/Architecture Principles of Operation* (SA22-7832) as Rust types.
//!
//! Pure data: addresses, PSW, interruption codes, assigned storage locations, storage keys, the
//! facility list. Everything above this crate (`machine`, `cpu`, the devices, `vmm`) speaks these
//! words; nothing here executes anything.
//!
//! Bits are numbered as the manual prints them: bit 0 is the leftmost.
#![no_std]
#![forbid(unsafe_code)]

mod address;
pub mod facility;
mod interruption;
pub mod lowcore;
mod psw;

pub use address::{AbsoluteAddress, LogicalAddress, PAGE_SIZE, RealAddress};
pub use facility::{Facility, FacilityList};
pub use interruption::{ExternalCode, IoInterruption, ProgramCode, ProgramInterruption, mcic};
pub use psw::{AddressSpace, AddressingMode, Psw, psw_bits};

/// Storage key of a 4K-byte block: access-control bits 0-3, fetch protection (4), reference (5), change (6).
/// Bits are numbered in the seven-bit key; the byte holds them left-aligned as SSKE and ISKE do.
/// (Principles of Operation, chapter 3, *Storage Key*.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageKey(pub u8);

impl StorageKey {
    /// Fetch-protection bit.
    pub const FETCH: u8 = 0x08;
    /// Reference bit.
    pub const REFERENCE: u8 = 0x04;
    /// Change bit.
    pub const CHANGE: u8 = 0x02;

    /// The access-control bits as a number 0 to 15.
    pub const fn access_control(self) -> u8 {
        self.0 >> 4
    }

    /// Whether a store with `access_key` is allowed: the keys match or the access key is zero.
    pub const fn allows_store(self, access_key: u8) -> bool {
        access_key == 0 || access_key == self.access_control()
    }

    /// Whether a fetch with `access_key` is allowed.
    pub const fn allows_fetch(self, access_key: u8) -> bool {
        self.0 & Self::FETCH == 0 || self.allows_store(access_key)
    }
}
