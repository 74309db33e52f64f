//! Where a card's random bytes come from.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::lock::{Rank, RankedMutex};

/// A source of random bytes for the guest.
pub trait Random: Send + Sync {
    /// Fills `buf`.
    fn fill(&self, buf: &mut [u8]);
}

/// OpenSSL's random generator, seeded by the host's kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpensslRandom;

impl Random for OpensslRandom {
    /// # Panics
    /// OpenSSL has no entropy: the host is broken, and to go on would give the guest bytes that are not random.
    fn fill(&self, buf: &mut [u8]) {
        openssl::rand::rand_bytes(buf).expect("the host has entropy");
    }
}

/// The same bytes in each run with the same seed, for a machine whose runs are reproducible. Not for keys that matter.
#[derive(Debug)]
pub struct SeededRandom(RankedMutex<ChaCha20Rng>);

impl SeededRandom {
    /// A stream that `seed` alone decides.
    pub fn new(seed: u64) -> Self {
        Self(RankedMutex::new(Rank::Random, ChaCha20Rng::seed_from_u64(seed)))
    }
}

impl Random for SeededRandom {
    fn fill(&self, buf: &mut [u8]) {
        self.0.lock().fill_bytes(buf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(random: &dyn Random) -> [u8; 32] {
        let mut bytes = [0; 32];
        random.fill(&mut bytes);
        bytes
    }

    #[test]
    fn streams() {
        let (one, same, other) = (SeededRandom::new(1), SeededRandom::new(1), SeededRandom::new(2));
        let first = take(&one);
        assert_eq!(first, take(&same));
        assert_ne!(first, take(&other));
        assert_ne!(first, take(&one));
        assert_ne!(take(&OpensslRandom), take(&OpensslRandom));
    }
}
