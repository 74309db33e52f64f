//! Host arithmetic, where its result is known to be the architected one.
//!
//! The host rounds to nearest and does not say what it dropped. That is enough in nearly every operation
//! a program executes: the rounding mode is the default, the inexact flag has long been set, and the
//! result is neither tiny nor too large. Where the flag is still off, the error of the result is computed
//! with host arithmetic too.

use super::Rounding;

/// Host arithmetic on one format; numbers right-aligned in 128 bits. All methods return `None` when the
/// general way has to be taken: exceptions other than inexact, tiny results, NaNs, and, without
/// `may_round`, results that are not known to be exact.
pub trait Native {
    /// A sum.
    fn add(a: u128, b: u128, may_round: bool) -> Option<u128>;
    /// A difference.
    fn subtract(a: u128, b: u128, may_round: bool) -> Option<u128>;
    /// A product.
    fn multiply(a: u128, b: u128, may_round: bool) -> Option<u128>;
    /// A quotient.
    fn divide(a: u128, b: u128, may_round: bool) -> Option<u128>;
    /// `a * b + c`, rounded once.
    fn multiply_add(a: u128, b: u128, c: u128, may_round: bool) -> Option<u128>;
    /// A square root.
    fn square_root(a: u128, may_round: bool) -> Option<u128>;
    /// An integer as a number of the format.
    fn of_integer(integer: i64, may_round: bool) -> Option<u128>;
    /// The number rounded to an integral one by any method but that for shorter precision.
    fn integral(a: u128, rounding: Rounding, may_round: bool) -> Option<u128>;
    /// A number whose magnitude is below two to the power of 62, truncated to an integer.
    fn truncated(a: u128, may_round: bool) -> Option<i64>;
    /// The number in the long format.
    fn long(a: u128) -> Option<u128>;
    /// The number in the short format.
    fn short(a: u128, may_round: bool) -> Option<u128>;
}

/// Finite and certainly not tiny: the smallest normal number may have been rounded up to.
macro_rules! is_usual {
    ($value:expr, $float:ty) => {
        $value.abs() > <$float>::MIN_POSITIVE && $value.abs() <= <$float>::MAX
    };
}
macro_rules! native {
    ($float:ty, $bits:ty, $safe:expr) => {
        impl Native for $float {
            #[inline(always)]
            fn add(a: u128, b: u128, may_round: bool) -> Option<u128> {
                let (a, b) = (<$float>::from_bits(a as $bits), <$float>::from_bits(b as $bits));
                let sum = a + b;
                // Knuth's error of a sum. Tiny sums are exact.
                let exact = || {
                    let part = sum - a;
                    (a - (sum - part)) + (b - part) == 0.0
                };
                let usual = sum.abs() >= <$float>::MIN_POSITIVE && sum.abs() <= <$float>::MAX || sum == 0.0;
                (usual && (may_round || exact())).then(|| sum.to_bits() as u128)
            }

            #[inline(always)]
            fn subtract(a: u128, b: u128, may_round: bool) -> Option<u128> {
                // A NaN comes back as `None` whatever its sign is.
                Self::add(a, b ^ (1 << (<$bits>::BITS - 1)), may_round)
            }

            #[inline(always)]
            fn multiply(a: u128, b: u128, may_round: bool) -> Option<u128> {
                let (a, b) = (<$float>::from_bits(a as $bits), <$float>::from_bits(b as $bits));
                let product = a * b;
                let exact = || product.abs() > $safe && a.mul_add(b, -product) == 0.0;
                (is_usual!(product, $float) && (may_round || exact())).then(|| product.to_bits() as u128)
            }

            #[inline(always)]
            fn divide(a: u128, b: u128, may_round: bool) -> Option<u128> {
                let (a, b) = (<$float>::from_bits(a as $bits), <$float>::from_bits(b as $bits));
                let quotient = a / b;
                let exact = || a.abs() > $safe && quotient.mul_add(b, -a) == 0.0;
                (is_usual!(quotient, $float) && (may_round || exact())).then(|| quotient.to_bits() as u128)
            }

            #[inline(always)]
            fn multiply_add(a: u128, b: u128, c: u128, may_round: bool) -> Option<u128> {
                let [a, b, c] = [a, b, c].map(|v| <$float>::from_bits(v as $bits));
                if !may_round {
                    return None;
                }
                let result = a.mul_add(b, c);
                is_usual!(result, $float).then(|| result.to_bits() as u128)
            }

            #[inline(always)]
            fn square_root(a: u128, may_round: bool) -> Option<u128> {
                let a = <$float>::from_bits(a as $bits);
                let root = a.sqrt();
                let exact = || a > $safe && root.mul_add(root, -a) == 0.0;
                (is_usual!(root, $float) && (may_round || exact())).then(|| root.to_bits() as u128)
            }

            #[inline(always)]
            fn of_integer(integer: i64, may_round: bool) -> Option<u128> {
                let fits = integer.unsigned_abs() >> <$float>::MANTISSA_DIGITS == 0;
                (fits || may_round).then(|| (integer as $float).to_bits() as u128)
            }

            #[inline(always)]
            fn integral(a: u128, rounding: Rounding, may_round: bool) -> Option<u128> {
                let a = <$float>::from_bits(a as $bits);
                let integral = match rounding {
                    Rounding::NearestEven => a.round_ties_even(),
                    Rounding::NearestAway => a.round(),
                    Rounding::Zero => a.trunc(),
                    Rounding::Up => a.ceil(),
                    Rounding::Down => a.floor(),
                    Rounding::Shorter => return None,
                };
                (a.abs() <= <$float>::MAX && (may_round || integral == a)).then(|| integral.to_bits() as u128)
            }

            #[inline(always)]
            fn truncated(a: u128, may_round: bool) -> Option<i64> {
                let a = <$float>::from_bits(a as $bits);
                let integer = a as i64;
                let below = a.abs() < (1i64 << 62) as $float;
                (below && (may_round || integer as $float == a)).then_some(integer)
            }

            #[inline(always)]
            fn long(a: u128) -> Option<u128> {
                let a = <$float>::from_bits(a as $bits);
                (!a.is_nan()).then(|| (a as f64).to_bits() as u128)
            }

            #[inline(always)]
            #[allow(clippy::unnecessary_cast, reason = "one of the two formats is short already")]
            fn short(a: u128, may_round: bool) -> Option<u128> {
                let a = <$float>::from_bits(a as $bits);
                let short = a as f32;
                let exact = short as $float == a;
                (is_usual!(short, f32) && (may_round || exact) || a == 0.0).then(|| short.to_bits() as u128)
            }
        }
    };
}

// Above the third argument the error of a result is not itself too small for the format.
native!(f32, u32, 1e-25);
native!(f64, u64, 1e-250);

/// No host arithmetic: the extended format.
pub enum Absent {}

impl Native for Absent {
    #[inline(always)]
    fn add(_: u128, _: u128, _: bool) -> Option<u128> {
        None
    }
    #[inline(always)]
    fn subtract(_: u128, _: u128, _: bool) -> Option<u128> {
        None
    }
    #[inline(always)]
    fn multiply(_: u128, _: u128, _: bool) -> Option<u128> {
        None
    }
    #[inline(always)]
    fn divide(_: u128, _: u128, _: bool) -> Option<u128> {
        None
    }
    #[inline(always)]
    fn multiply_add(_: u128, _: u128, _: u128, _: bool) -> Option<u128> {
        None
    }
    #[inline(always)]
    fn square_root(_: u128, _: bool) -> Option<u128> {
        None
    }
    #[inline(always)]
    fn of_integer(_: i64, _: bool) -> Option<u128> {
        None
    }
    #[inline(always)]
    fn integral(_: u128, _: Rounding, _: bool) -> Option<u128> {
        None
    }
    #[inline(always)]
    fn truncated(_: u128, _: bool) -> Option<i64> {
        None
    }
    #[inline(always)]
    fn long(_: u128) -> Option<u128> {
        None
    }
    #[inline(always)]
    fn short(_: u128, _: bool) -> Option<u128> {
        None
    }
}
