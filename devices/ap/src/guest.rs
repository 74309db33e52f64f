//! What a guest is to the AP instructions: its CRYCB, its facilities, its storage and its interruptions.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crycb::{CRYCB_SIZE, Crycb, CrycbFormat, Matrix};
use zarch::FacilityList;

use crate::lock::{Rank, RankedReadGuard, RankedRwLock};
use crate::notifier::{Notifier, Resources};

const WORDS: usize = CRYCB_SIZE / 8;

/// The 256 bytes of a guest's CRYCB, shared between whoever rewrites them and the CPUs that read them at each AP
/// instruction. There is no other copy of the masks.
///
/// A load is not atomic as a whole: [`replace`](Self::replace) is called with every CPU of the guest held off
/// (`Vm::with_cpus_held`), by [`GuestAp::set_masks`], so that no instruction sees half of a change.
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

/// A guest as its AP instructions see the machine. Clones are the same guest.
#[derive(Clone)]
pub struct GuestAp {
    /// The masks that decide what the guest may reach.
    pub crycb: Arc<GuestCrycb>,
    /// The guest's facilities; 12, 15 and 65 concern AP.
    pub facilities: FacilityList,
    /// Storage and interruptions.
    pub notifier: Notifier,
    hook: PqapHook,
    /// Read by whoever executes an AP instruction, so that the CRYCB does not change under it: a CPU that has left the back
    /// end for an instruction counts as held off.
    executing: Arc<RankedRwLock<()>>,
}

impl GuestAp {
    /// A guest with its hook set, as one is to whom a mediated device is attached.
    pub fn new(crycb: Arc<GuestCrycb>, facilities: FacilityList, notifier: Notifier) -> Self {
        let executing = Arc::new(RankedRwLock::new(Rank::Instructions, ()));
        Self { crycb, facilities, notifier, hook: PqapHook::default(), executing }
    }

    /// Lets the guest reach `matrix` from now on. The caller holds off the guest's CPUs; instructions that they have begun
    /// are waited for.
    pub fn set_masks(&self, matrix: &Matrix) {
        let _alone = self.executing.write();
        let mut crycb = self.crycb.crycb();
        crycb.set_matrix(matrix);
        self.crycb.replace(&crycb);
    }

    /// Keeps the CRYCB as it is while the guard lives.
    pub(crate) fn begin_instruction(&self) -> RankedReadGuard<'_, ()> {
        self.executing.read()
    }

    /// Where PQAP(AQIC) of this guest is handled.
    pub fn hook(&self) -> &PqapHook {
        &self.hook
    }

    /// Sets the hook, when a mediated device is attached, or clears it, when that is detached. Returns what it was: an attach
    /// that finds it set must be refused, since a guest has one device. Once this returns, no AQIC that began with the hook
    /// as it was is still at work.
    ///
    /// Linux: `kvm->arch.crypto.pqap_hook` under `pqap_hook_rwsem`. TAPQ, RAPQ, ZAPQ, NQAP and DQAP go by the CRYCB alone.
    pub fn set_hook(&self, set: bool) -> bool {
        std::mem::replace(&mut *self.hook.0.write(), set)
    }

    /// What the host holds for the guest's interruptions.
    pub fn resources(&self) -> Resources {
        self.notifier.resources()
    }
}

/// Whether somebody handles a guest's PQAP(AQIC); without, it answers response code 01.
#[derive(Clone)]
pub struct PqapHook(Arc<RankedRwLock<bool>>);

impl Default for PqapHook {
    /// Set.
    fn default() -> Self {
        Self(Arc::new(RankedRwLock::new(Rank::PqapHook, true)))
    }
}

impl PqapHook {
    /// Keeps the hook as it is while the guard lives: what a PQAP(AQIC) does before anything else.
    pub fn enter(&self) -> RankedReadGuard<'_, bool> {
        self.0.read()
    }

    /// Whether the hook is set now.
    pub fn is_set(&self) -> bool {
        *self.enter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crycb::{Apqn, CrycbView, Mask256};

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
