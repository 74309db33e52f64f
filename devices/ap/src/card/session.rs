//! What a card remembers for one queue.

use super::random::Random;
use super::rsa::CrtKey;
use crate::lock::{Rank, RankedGuard, RankedMutex};
use std::sync::Arc;
use zeroize::Zeroize;

/// Keys kept. A server uses a few; more only cost the derivation again. A key takes some 8 KiB, so a guest can make the
/// host hold a quarter of a megabyte for a queue.
const KEYS: usize = 32;

/// Everything a card remembers for one queue: its source of random bytes, and the RSA keys that requests brought along, in
/// the form in which OpenSSL computes fastest. Sessions share nothing, so no guest profits from another's keys, nor sees by
/// its timing which they are.
pub struct Session {
    random: Arc<dyn Random>,
    keys: RankedMutex<Keys>,
}

#[derive(Default)]
struct Keys {
    /// Wipes so far. A request that began before a wipe must not bring its key back.
    wipes: u64,
    /// Least recently used first.
    entries: Vec<(Name, Arc<CrtKey>)>,
}

/// SHA-256 of a key's parts.
pub(super) type Name = [u8; 32];

/// Permission to store a key, void after a wipe.
#[derive(Clone, Copy)]
pub(super) struct Ticket(u64);

impl Session {
    /// A session without keys.
    pub fn new(random: Arc<dyn Random>) -> Self {
        Self { random, keys: RankedMutex::new(Rank::Session, Keys::default()) }
    }

    /// Forgets every key, as reset and zeroize require. A request that is being processed ends with the key it has, which
    /// is wiped at its end.
    pub fn wipe(&self) {
        let mut keys = self.lock();
        keys.wipes += 1;
        for (name, _) in &mut keys.entries {
            name.zeroize();
        }
        keys.entries.clear();
    }

    pub(super) fn random(&self) -> &dyn Random {
        &*self.random
    }

    /// The key of this name, or permission to store one.
    pub(super) fn key(&self, name: &Name) -> Result<Arc<CrtKey>, Ticket> {
        let mut keys = self.lock();
        match keys.entries.iter().rposition(|(n, _)| n == name) {
            Some(at) => {
                keys.entries[at..].rotate_left(1);
                Ok(keys.entries[keys.entries.len() - 1].1.clone())
            }
            None => Err(Ticket(keys.wipes)),
        }
    }

    pub(super) fn store(&self, ticket: Ticket, name: Name, key: Arc<CrtKey>) {
        let mut keys = self.lock();
        if ticket.0 != keys.wipes || keys.entries.iter().any(|(n, _)| *n == name) {
            return;
        }
        if keys.entries.len() == KEYS {
            keys.entries.remove(0).0.zeroize();
        }
        keys.entries.push((name, key));
    }

    /// Nothing is half done when a holder of the lock panics.
    fn lock(&self) -> RankedGuard<'_, Keys> {
        self.keys.lock()
    }

    #[cfg(test)]
    pub(super) fn key_count(&self) -> usize {
        self.lock().entries.len()
    }

    #[cfg(test)]
    pub(super) fn any_key(&self) -> Arc<CrtKey> {
        self.lock().entries[0].1.clone()
    }

    #[cfg(test)]
    pub(super) const KEYS: usize = KEYS;
}

impl Drop for Session {
    fn drop(&mut self) {
        self.wipe();
    }
}
