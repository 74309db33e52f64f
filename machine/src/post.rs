//! Making interruptions pending.

use zarch::IoInterruption;

/// An interruption that any CPU that is enabled for it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floating {
    /// Service signal with its parameter (chapter *External Interruption*, code 2401). Parameters of
    /// signals not yet taken are combined by OR, as the event-pending bit of SCLP requires.
    ServiceSignal(u32),
    /// An I/O interruption. Adapter interruptions of one ISC that are still pending are one.
    Io(IoInterruption),
    /// A channel report is pending (machine check, floating).
    ChannelReport,
}

/// How devices make interruptions pending. Never blocks and never fails: pending sets are bounded by
/// what the architecture can distinguish.
pub trait Post: Send + Sync {
    /// Makes `interruption` pending and wakes a CPU that can take it.
    fn post(&self, interruption: Floating);

    /// Takes an I/O interruption of one of the subclasses in `isc_mask` (bit 0 of the byte = ISC 0,
    /// leftmost) off the pending set, as TEST PENDING INTERRUPTION does.
    fn take_io(&self, isc_mask: u8) -> Option<IoInterruption>;

    /// Clears every floating interruption, as subsystem reset does.
    fn clear(&self);
}
