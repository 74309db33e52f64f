//! How a queue tells a guest that a reply is there, and what that takes of the host: a pinned page and an ISC of the guest.
//!
//! Each enabled queue holds one pin of the page of its notification byte and one reference to the guest's interruption
//! subclass, as `vfio_ap` takes them from VFIO and from the GISA. Both are guards: whatever ends the interruption, or makes a
//! step of enabling it fail, drops them, and [`Notifier::resources`] tells what is held now.

use std::sync::Arc;

use machine::{Floating, Post, Storage};
use zarch::{AbsoluteAddress, IoInterruption};

use crate::lock::{Rank, RankedGuard, RankedMutex};

/// Storage with notification bytes, and the interruptions, of one guest. Clones are the same guest's.
#[derive(Clone)]
pub struct Notifier {
    guest: Arc<Guest>,
}

struct Guest {
    storage: Arc<Storage>,
    post: Arc<dyn Post>,
    ledger: RankedMutex<Ledger>,
}

/// Pins and ISC references of one guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Pins of pages that hold a notification byte, one for each queue that is enabled or being enabled.
    pub pins: u32,
    /// The same queues by the guest's interruption subclass that they report on.
    pub isc: [u32; 8],
}

impl Resources {
    /// No limit at all.
    pub const UNLIMITED: Self = Self { pins: u32::MAX, isc: [u32::MAX; 8] };
}

struct Ledger {
    held: Resources,
    limits: Resources,
}

impl Notifier {
    /// A guest with this absolute storage, whose adapter interruptions are made pending at `post`.
    pub fn new(storage: Arc<Storage>, post: Arc<dyn Post>) -> Self {
        let ledger = Ledger { held: Resources::default(), limits: Resources::UNLIMITED };
        let ledger = RankedMutex::new(Rank::Ledger, ledger);
        Self { guest: Arc::new(Guest { storage, post, ledger }) }
    }

    /// Whether the notification byte may lie at `nib`: absolute address 0 is never one.
    pub fn is_valid(&self, nib: AbsoluteAddress) -> bool {
        nib.0 != 0 && self.guest.storage.contains(nib, 1)
    }

    /// What the guest's queues hold now.
    pub fn resources(&self) -> Resources {
        self.guest.ledger().held
    }

    /// The most that the guest's queues may hold: a step of enabling an interruption beyond it fails, and PQAP(AQIC) answers
    /// response code 06. What is held already stays. Stands for what a host may refuse: locked memory, and the registration
    /// of an ISC.
    pub fn set_limits(&self, limits: Resources) {
        self.guest.ledger().limits = limits;
    }

    /// Takes the pin and the ISC for a notification byte, the pin first. `None` when the byte lies nowhere or either is
    /// refused; then nothing is held.
    pub(crate) fn target(&self, nib: AbsoluteAddress, isc: u8) -> Option<Target> {
        let pin = self.is_valid(nib).then(|| Pin::new(&self.guest, nib)).flatten()?;
        let isc = IscReference::new(&self.guest, isc)?;
        Some(Target { pin, isc })
    }
}

impl Guest {
    fn ledger(&self) -> RankedGuard<'_, Ledger> {
        self.ledger.lock()
    }
}

/// Where an enabled queue reports a reply. Dropping it gives back what it holds.
pub(crate) struct Target {
    pin: Pin,
    isc: IscReference,
}

impl Target {
    /// Sets the notification byte and makes the adapter interruption pending. False when the byte lies outside storage; then
    /// nothing happened.
    pub(crate) fn notify(&self) -> bool {
        let guest = &self.pin.guest;
        if guest.storage.write(self.pin.nib, &[1]).is_err() {
            return false;
        }
        guest.post.post(Floating::Io(IoInterruption::adapter(self.isc.isc)));
        true
    }
}

/// The page of a notification byte stays where it is.
struct Pin {
    guest: Arc<Guest>,
    nib: AbsoluteAddress,
}

impl Pin {
    fn new(guest: &Arc<Guest>, nib: AbsoluteAddress) -> Option<Self> {
        let mut ledger = guest.ledger();
        let limit = ledger.limits.pins;
        take(&mut ledger.held.pins, limit).then(|| Self { guest: guest.clone(), nib })
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.guest.ledger().held.pins -= 1;
    }
}

/// A subclass that the guest's interruptions use.
struct IscReference {
    guest: Arc<Guest>,
    isc: u8,
}

impl IscReference {
    fn new(guest: &Arc<Guest>, isc: u8) -> Option<Self> {
        let (mut ledger, at) = (guest.ledger(), usize::from(isc));
        let limit = ledger.limits.isc[at];
        take(&mut ledger.held.isc[at], limit).then(|| Self { guest: guest.clone(), isc })
    }
}

impl Drop for IscReference {
    fn drop(&mut self) {
        self.guest.ledger().held.isc[usize::from(self.isc)] -= 1;
    }
}

fn take(held: &mut u32, limit: u32) -> bool {
    let free = *held < limit;
    *held += u32::from(free);
    free
}
