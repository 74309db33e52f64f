//! Random numbers from a seed, and the values worth trying.

/// SplitMix64: small, seedable, the same on every host.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence that depends on nothing but the seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A sequence for the thing of this name.
    pub fn named(seed: u64, name: &str) -> Random {
        // FNV-1a keeps a row's cases the same when other rows come and go.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Random(seed ^ hash)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the values.
    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    /// A fixed-point number: small, extreme, near a power of two, or any; as 32 or 64 bits.
    pub fn integer(&mut self) -> u64 {
        let near = |r: &mut Self| (1u64 << r.below(64)).wrapping_add(r.below(5)).wrapping_sub(2);
        match self.below(12) {
            0 => 0,
            1 => u64::MAX,
            2 => self.below(16),
            3 => near(self),
            4 => near(self).wrapping_neg(),
            5 => {
                self.pick(&[0x7fff_ffff, 0x8000_0000, 0x7fff, 0x8000, 0xffff_ffff, 0xffff, 0x80, 0x7f, 0xff])
            }
            6 => self.pick(&[i64::MAX as u64, i64::MIN as u64, 0x8000_0000_0000_0001, 0x7fff_ffff_ffff_fffe]),
            // Halves that matter on their own.
            7 => self.integer32() << 32 | self.bits() >> 32,
            8 => self.bits() << 32 | self.integer32(),
            9 => i64::from(self.integer32() as i32) as u64,
            _ => self.bits(),
        }
    }

    fn integer32(&mut self) -> u64 {
        match self.below(4) {
            0 => self.pick(&[0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x8000_0001]),
            1 => (1u64 << self.below(32)).wrapping_sub(self.below(3)) & 0xffff_ffff,
            _ => self.bits() >> 32,
        }
    }

    /// An IEEE number of this width, right-aligned.
    pub fn float(&mut self, width: Float) -> u128 {
        let (exponent_bits, fraction_bits) = match width {
            Float::Short => (8, 23),
            Float::Long => (11, 52),
            Float::Extended => (15, 112),
        };
        let ones = (1u128 << exponent_bits) - 1;
        let bias = ones >> 1;
        let mask = (1u128 << fraction_bits) - 1;
        let quiet = 1u128 << (fraction_bits - 1);
        let any = (u128::from(self.bits()) << 64 | u128::from(self.bits())) & mask;
        // Few significant bits: exact results, ties in rounding.
        let short = any & !(mask >> self.below(12));
        let (exponent, fraction) = match self.below(24) {
            0 => (0, 0),
            1 => (ones, 0),
            2 => (ones, quiet | any),
            3 => (ones, (any & !quiet).max(1)),
            4 => (0, any),
            5 => (0, self.pick(&[1, 2, 3, mask, mask - 1, quiet])),
            6 => (1, self.pick(&[0, 1, mask])),
            7 => (ones - 1, self.pick(&[0, mask, mask - 1, any])),
            8 => (bias, self.pick(&[0, 1, quiet, mask, any])),
            // Around the limits of the integers.
            9 | 10 => {
                let power = u128::from(self.pick(&[30u8, 31, 32, 62, 63, 64, 23, 24, 52, 53, 112, 113]));
                (bias + power, self.pick(&[0, 0, mask, mask - 1, 1, short]))
            }
            11..=14 => (bias + u128::from(self.below(70)) - 6, short),
            15..=18 => (bias + u128::from(self.below(8)) - 4, self.pick(&[any, any, short])),
            // Products and quotients that underflow or overflow.
            19 => (bias / 2 + u128::from(self.below(40)) - 20, any),
            20 => (bias + bias / 2 + u128::from(self.below(40)) - 20, any),
            _ => (any >> 3 & ones, any),
        };
        let sign = u128::from(self.bits() & 1) << (exponent_bits + fraction_bits);
        sign | exponent << fraction_bits | fraction & mask
    }

    /// Fills `bytes` with a signed packed decimal number, sometimes an invalid one.
    pub fn packed(&mut self, bytes: &mut [u8]) {
        let few = self.chance(30);
        let zeros = if few { bytes.len() as u64 / 2 + self.below(bytes.len() as u64 / 2 + 1) } else { 0 };
        let nines = self.chance(8);
        for (i, byte) in (0..).zip(bytes.iter_mut()) {
            let digits = self.below(10) << 4 | self.below(10);
            *byte = if i < zeros {
                0
            } else if nines {
                0x99
            } else {
                digits as u8
            };
        }
        if self.chance(6) {
            bytes.fill(0);
        }
        let sign = self.pick(&[0xc, 0xd, 0xc, 0xd, 0xa, 0xb, 0xe, 0xf]);
        if let Some(last) = bytes.last_mut() {
            *last = *last & 0xf0 | sign;
        }
        if self.chance(6) {
            let at = self.below(bytes.len() as u64) as usize;
            bytes[at] = self.bits() as u8;
        }
    }
}

/// The widths of binary floating-point numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// 32 bits, in the left half of a register.
    Short,
    /// 64 bits.
    Long,
    /// 128 bits, in registers n and n+2.
    Extended,
}
