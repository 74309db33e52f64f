//! The block that PQAP(QCI), QUERY AP CONFIGURATION INFORMATION, stores.

use crate::{Mask256, Matrix};
use core::ops::{BitAnd, BitOr};

/// Length of the block in bytes. It is stored on a doubleword boundary.
pub const QCI_SIZE: usize = 128;

/// The block's flags: bit 0 of the block is the leftmost bit of this word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct QciFlags(pub u32);

impl QciFlags {
    /// Bit 0 (S): the special-command mode is available.
    pub const APSC: Self = Self(1 << 31);
    /// Bit 1 (N): extended addressing; up to 256 adapters and domains, and `na` and `nd` are valid.
    pub const APXA: Self = Self(1 << 30);
    /// Bit 2 (C): PQAP(QACT) is available.
    pub const QACT: Self = Self(1 << 29);
    /// Bit 3 (R): response code 8A may be answered.
    pub const RC8A: Self = Self(1 << 28);
    /// Bit 8 (B): queues can be bound to a secure guest (PQAP BAPQ and AAPQ).
    pub const APSB: Self = Self(1 << 23);

    /// Whether all of `flags` are on.
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl BitOr for QciFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for QciFlags {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The configuration information of a machine or, through the CRYCB, of a guest.
///
/// Linux takes a block whose flags are all zero for "QCI not supported" and then tries every adapter up to 63 and domain
/// up to 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Qci {
    /// Word 0.
    pub flags: QciFlags,
    /// Byte 4: highest adapter number that the machine can have (NA); valid with [`QciFlags::APXA`].
    pub na: u8,
    /// Byte 5: highest domain number that the machine can have (ND); valid with [`QciFlags::APXA`].
    pub nd: u8,
    /// The masks: APM at byte 16, AQM at 48, ADM at 80. Bytes 6-15 and 112-127 are reserved.
    pub matrix: Matrix,
}

impl Qci {
    /// The block as it is stored; reserved bytes are zeros.
    pub fn to_bytes(&self) -> [u8; QCI_SIZE] {
        let mut block = [0; QCI_SIZE];
        block[..4].copy_from_slice(&self.flags.0.to_be_bytes());
        block[4] = self.na;
        block[5] = self.nd;
        block[0x10..0x30].copy_from_slice(&self.matrix.apm.to_bytes());
        block[0x30..0x50].copy_from_slice(&self.matrix.aqm.to_bytes());
        block[0x50..0x70].copy_from_slice(&self.matrix.adm.to_bytes());
        block
    }

    /// The block read from storage; reserved bytes are ignored.
    pub fn from_bytes(block: &[u8; QCI_SIZE]) -> Self {
        let mask = |at: usize| Mask256::from_bytes(block[at..at + 32].try_into().expect("32 bytes"));
        Self {
            flags: QciFlags(u32::from_be_bytes([block[0], block[1], block[2], block[3]])),
            na: block[4],
            nd: block[5],
            matrix: Matrix { apm: mask(0x10), aqm: mask(0x30), adm: mask(0x50) },
        }
    }

    /// The highest adapter number that can be assigned: NA with APXA, else 63 (Linux `vfio_ap_matrix_init`).
    pub const fn max_apid(&self) -> u8 {
        if self.flags.has(QciFlags::APXA) { self.na } else { 63 }
    }

    /// The highest domain number that can be assigned: ND with APXA, else 15.
    pub const fn max_apqi(&self) -> u8 {
        if self.flags.has(QciFlags::APXA) { self.nd } else { 15 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes() {
        let qci = Qci {
            flags: QciFlags::APSC | QciFlags::APXA | QciFlags::QACT | QciFlags::RC8A | QciFlags::APSB,
            na: 0x0f,
            nd: 0x54,
            matrix: Matrix {
                apm: Mask256::EMPTY.with(1).with(7),
                aqm: Mask256::EMPTY.with(4).with(255),
                adm: Mask256::EMPTY.with(0xab),
            },
        };
        let mut want = [0; QCI_SIZE];
        want[..6].copy_from_slice(&[0xf0, 0x80, 0, 0, 0x0f, 0x54]);
        want[0x10] = 0x41;
        want[0x30] = 0x08;
        want[0x4f] = 0x01;
        want[0x65] = 0x10;
        assert_eq!(qci.to_bytes(), want);
        assert_eq!(Qci::from_bytes(&want), qci);
        assert_eq!((qci.max_apid(), qci.max_apqi()), (0x0f, 0x54));
        assert_eq!((Qci::default().max_apid(), Qci::default().max_apqi()), (63, 15));
    }

    proptest! {
        #[test]
        fn round_trip(mut block in proptest::collection::vec(any::<u8>(), QCI_SIZE)) {
            let qci = Qci::from_bytes(&block[..].try_into().unwrap());
            block[6..0x10].fill(0);
            block[0x70..].fill(0);
            prop_assert_eq!(&qci.to_bytes()[..], &block[..]);
        }
    }
}
