//! What a guest is to the AP instructions: its CRYCB, its facilities, its storage and its interruptions.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crycb::{CRYCB_SIZE, Crycb, CrycbFormat};
use machine::{Post, Storage};
use zarch::{AbsoluteAddress, FacilityList, IoInterruption};

const WORDS: usize = CRYCB_SIZE / 8;

/// The 256 bytes of a guest's CRYCB, shared between whoever rewrites them and the CPUs that read them at each AP
/// instruction. There is no other copy of the masks.
///
/// A load is not atomic as a whole: [`replace`](Self::replace) is called with every CPU of the guest held off
/// (`Vm::with_cpus_held`), so that no instruction sees half of a change.
pub struct GuestCrycb {
    format: CrycbFormat,
    words: [AtomicU64; WORDS],
}

impl GuestCrycb {
    /// The block in shared form.
    pub fn new(crycb: &Crycb) -> Self {
        let shared = Self { format: crycb.format(), words: [const { AtomicU64::new(0) }; WORDS] };
        shared.write(crycb.bytes());
        shared
    }

    /// The format in which the block is designated; it stays for the life of the guest.
    pub const fn format(&self) -> CrycbFormat {
        self.format
    }

    /// A copy of the bytes as they are now.
    pub fn load(&self) -> [u8; CRYCB_SIZE] {
        let mut bytes = [0; CRYCB_SIZE];
        for (word, bytes) in self.words.iter().zip(bytes.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.load(Ordering::Acquire).to_be_bytes());
        }
        bytes
    }

    /// The block as it is now, for whoever wants to compute the next one.
    pub fn crycb(&self) -> Crycb {
        Crycb::from_bytes(self.format, self.load())
    }

    /// Replaces all bytes. The caller holds off the guest's CPUs.
    pub fn replace(&self, crycb: &Crycb) {
        assert_eq!(crycb.format(), self.format, "a guest's CRYCB keeps its format");
        self.write(crycb.bytes());
    }

    /// Byte `at`, 0 to 255.
    pub fn byte(&self, at: u8) -> u8 {
        self.load()[usize::from(at)]
    }

    /// Replaces byte `at`, 0 to 255, and nothing else.
    pub fn set_byte(&self, at: u8, value: u8) {
        let shift = 56 - 8 * u32::from(at % 8);
        let word = &self.words[usize::from(at / 8)];
        let merged = |old| Some(old & !(0xff << shift) | u64::from(value) << shift);
        word.fetch_update(Ordering::AcqRel, Ordering::Acquire, merged).expect("the closure always answers");
    }

    fn write(&self, bytes: &[u8; CRYCB_SIZE]) {
        for (word, bytes) in self.words.iter().zip(bytes.chunks_exact(8)) {
            word.store(u64::from_be_bytes(bytes.try_into().expect("chunks of 8")), Ordering::Release);
        }
    }
}

impl fmt::Debug for GuestCrycb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestCrycb({:?})", self.crycb().view().matrix())
    }
}

/// How a queue tells a guest that a reply is there: the storage with the notification byte, and the interruptions.
#[derive(Clone)]
pub struct Notifier {
    /// The guest's absolute storage.
    pub storage: Arc<Storage>,
    /// Where the guest's adapter interruptions are made pending.
    pub post: Arc<dyn Post>,
}

impl Notifier {
    /// Whether the notification byte may lie at `nib`: absolute address 0 is never one.
    pub fn is_valid(&self, nib: AbsoluteAddress) -> bool {
        nib.0 != 0 && self.storage.contains(nib, 1)
    }

    /// Sets the notification byte and makes the adapter interruption pending on `isc`. False when the byte lies outside
    /// storage; then nothing happened.
    pub(crate) fn notify(&self, nib: AbsoluteAddress, isc: u8) -> bool {
        if !self.is_valid(nib) || self.storage.write(nib, &[1]).is_err() {
            return false;
        }
        self.post.post(machine::Floating::Io(IoInterruption::adapter(isc)));
        true
    }
}

/// A guest as its AP instructions see the machine.
#[derive(Clone)]
pub struct GuestAp {
    /// The masks that decide what the guest may reach.
    pub crycb: Arc<GuestCrycb>,
    /// The guest's facilities; 12, 15 and 65 concern AP.
    pub facilities: FacilityList,
    /// Storage and interruptions.
    pub notifier: Notifier,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crycb::{Apqn, CrycbView, Mask256, Matrix};

    #[test]
    fn bytes_go_in_and_out() {
        let matrix = Matrix { apm: Mask256::EMPTY.with(5), aqm: Mask256::EMPTY.with(4), adm: Mask256::ALL };
        let crycb = Crycb::new(CrycbFormat::Format2, &matrix);
        let shared = GuestCrycb::new(&crycb);
        assert_eq!((&shared.load(), shared.byte(0x80)), (crycb.bytes(), 0x04));
        assert!(CrycbView::new(shared.format(), &shared.load()).test(Apqn(0x0504)));

        let mut want = *crycb.bytes();
        for (at, value) in [(0x80, 0), (0xff, 0xa5), (0, 0x5a), (0x87, 0x11), (0x88, 0x22)] {
            shared.set_byte(at, value);
            want[usize::from(at)] = value;
            assert_eq!((shared.load(), shared.byte(at)), (want, value), "{at:x}");
        }
        shared.replace(&crycb);
        assert_eq!(shared.crycb(), crycb);
    }
}
