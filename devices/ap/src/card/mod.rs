//! What the emulated Crypto Express cards answer: the [`Accelerator`], the [`CcaCoprocessor`] and the
//! [`Ep11Coprocessor`].
//!
//! A card is a function from a request to a reply. It owns no queue, no thread and no guest: the queue layer hands it the
//! bytes of one NQAP message together with the [`Session`] of that queue, and puts the answer where DQAP finds it. The
//! message layouts are those of Linux's `drivers/s390/crypto/zcrypt_msgtype50.c`, `zcrypt_msgtype6.c`,
//! `zcrypt_ccamisc.c` and `zcrypt_ep11misc.c`.
//!
//! Invariants: no request makes a card panic, run without bound or answer nothing; what a card remembers of a guest's keys
//! is in the session of one queue and nowhere else; a reply never holds bytes of another request.

#![forbid(unsafe_code)]

mod accelerator;
mod cca;
mod description;
mod ep11;
mod message;
mod random;
mod rsa;
mod session;
#[cfg(test)]
mod tests;

pub use accelerator::Accelerator;
pub use cca::CcaCoprocessor;
pub use description::{CcaDescription, Ep11Description, Serial};
pub use ep11::Ep11Coprocessor;
pub use random::{OpensslRandom, Random, SeededRandom};
pub use session::Session;

use crate::host;
use std::any::Any;
use std::sync::Arc;

/// Has the crypto library read its configuration now; later the process may have given up access to files.
pub fn prepare_crypto() {
    openssl::init();
}

/// An emulated card. Host threads may have requests processed at the same time, for one queue or for many.
pub trait Card: Any + Send + Sync {
    /// What TAPQ tells about each queue of the card.
    fn facts(&self) -> &CardFacts;

    /// Whether an adapter with `other` is the adapter that it is with this card, which keeps its queues when the machine is
    /// brought to a new description. Unless a card knows better, only with the very same card.
    fn is_same(&self, other: &dyn Card) -> bool {
        std::ptr::addr_eq(self, other)
    }

    /// Answers one request for usage domain `domain`. Never fails: a malformed request gets the card's own error reply (type
    /// 82 or 88, or a return and reason code in the CPRB of a type 86). The caller wipes `request` and the reply, which may
    /// hold key parts and clear text.
    fn process(&self, session: &Session, domain: u8, request: &[u8]) -> Vec<u8>;
}

/// How a card is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// `A`: RSA with clear keys.
    Accelerator,
    /// `C`: the Common Cryptographic Architecture coprocessor.
    Cca,
    /// `P`: the Enterprise PKCS #11 coprocessor.
    Ep11,
}

/// The kind and limits of a card's queues, as TAPQ returns them in GR2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardFacts {
    /// Mode, GR2 bits 3-5.
    pub mode: Mode,
    /// Type (AT, GR2 bits 32-39): 10 for CEX4 to 14 for CEX8.
    pub hardware_type: u8,
    /// Modulus-exponent operations go to 4096 bits, GR2 bit 1.
    pub mex4k: bool,
    /// CRT operations go to 4096 bits, GR2 bit 2.
    pub crt4k: bool,
    /// Longest message in bytes, request or reply.
    pub max_message: usize,
    /// Messages that a queue holds, 1 to 16.
    pub queue_depth: u8,
}

impl CardFacts {
    /// Facts of a card that takes 4096-bit keys, messages of 12 KiB (what every card since CEX2 takes) and 8 of them.
    const fn new(mode: Mode, hardware_type: u8) -> Self {
        Self { mode, hardware_type, mex4k: true, crt4k: true, max_message: 12 << 10, queue_depth: 8 }
    }
}

/// The card that a description of the AP host's adapter asks for.
pub fn emulate(adapter: &host::Adapter) -> Arc<dyn Card> {
    let hardware_type = adapter.generation.ap_type();
    match &adapter.card {
        host::Card::Accelerator => Arc::new(Accelerator::new(hardware_type)),
        host::Card::Cca(cca) => Arc::new(CcaCoprocessor::new(hardware_type, cca.clone().into())),
        host::Card::Ep11(ep11) => Arc::new(Ep11Coprocessor::new(hardware_type, ep11.clone().into())),
    }
}
