//! The manual's kinds of addresses as different types (chapter 3, *Address Types*).

use core::fmt;

/// Size in bytes of a page and of the block that one storage key covers.
pub const PAGE_SIZE: u64 = 4096;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The address rounded down to its 4K-byte block.
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// The address `bytes` further on, modulo 2^64.
            pub const fn add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// The address assigned to a storage location; what storage is indexed by.
    AbsoluteAddress
}
address! {
    /// An absolute address before prefixing.
    RealAddress
}
address! {
    /// An address as a program gives it: virtual or real, as the PSW says.
    LogicalAddress
}

impl RealAddress {
    /// Applies prefixing: the 8K-byte block at zero and the one at `prefix` change places
    /// (chapter 3, *Prefixing*).
    pub const fn absolute(self, prefix: u64) -> AbsoluteAddress {
        let block = self.0 & !0x1fff;
        AbsoluteAddress(if block == 0 {
            self.0 | prefix
        } else if block == prefix {
            self.0 & 0x1fff
        } else {
            self.0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixing_swaps_the_two_blocks() {
        for (real, prefix, absolute) in [
            (0x0, 0x0, 0x0),
            (0x11c0, 0x8000, 0x91c0),
            (0x8000, 0x8000, 0x0),
            (0x9fff, 0x8000, 0x1fff),
            (0xa000, 0x8000, 0xa000),
            (0x2000, 0x8000, 0x2000),
        ] {
            assert_eq!(RealAddress(real).absolute(prefix), AbsoluteAddress(absolute), "{real:x} {prefix:x}");
        }
    }
}
