//! Against a second implementation of IEEE arithmetic, and against what defines an operation.

use oracle::random::{Float as Width, Random};
use rustc_apfloat::ieee::{Double, Quad, Single};
use rustc_apfloat::{Float, Round, Status};

use super::*;

const METHODS: [(Rounding, Round); 5] = [
    (Rounding::NearestEven, Round::NearestTiesToEven),
    (Rounding::NearestAway, Round::NearestTiesToAway),
    (Rounding::Zero, Round::TowardZero),
    (Rounding::Up, Round::TowardPositive),
    (Rounding::Down, Round::TowardNegative),
];
const ALL_MASKS: u8 = 0xf8;
const PAIRS: usize = 20_000;

fn untrapped(rounding: Rounding) -> Control {
    Control { masks: 0, rounding, suppress_inexact: false }
}

fn flags_of(status: Status) -> u8 {
    [
        (Status::INVALID_OP, flag::INVALID),
        (Status::DIV_BY_ZERO, flag::DIVIDE),
        (Status::OVERFLOW, flag::OVERFLOW),
        (Status::UNDERFLOW, flag::UNDERFLOW),
        (Status::INEXACT, flag::INEXACT),
    ]
    .iter()
    .filter(|(bit, _)| status.contains(*bit))
    .fold(0, |flags, (_, bit)| flags | bit)
}

/// Compares a result with the other implementation's.
#[track_caller]
fn check(format: Format, exact: Exact, rounding: Rounding, theirs: u128, status: Status) {
    let ours = deliver(format, exact, untrapped(rounding));
    let nan = |bits| format.condition(bits) == 3;
    if nan(theirs) {
        assert!(nan(ours.bits), "{ours:x?}");
        return;
    }
    let mut flags = flags_of(status);
    let magnitude = theirs & (format.sign() - 1);
    // The other implementation does not call it an overflow when rounding stays below infinity.
    if magnitude == format.largest() && flags & flag::INEXACT != 0 {
        flags |= ours.flags & flag::OVERFLOW;
    }
    // What rounds up to the smallest normal number was tiny before.
    if magnitude == 1 << format.fraction_bits && flags & flag::INEXACT != 0 {
        flags = flags & !flag::UNDERFLOW | ours.flags & flag::UNDERFLOW;
    }
    assert_eq!((ours.bits, ours.flags), (theirs, flags), "{exact:x?} {rounding:?} {theirs:x}");
}

fn compare_with<T: Float>(format: Format, width: Width, seed: u64) {
    let mut random = Random::new(seed);
    for _ in 0..PAIRS {
        let [a, b, c] = [(); 3].map(|()| random.float(width));
        let [x, y, z] = [a, b, c].map(T::from_bits);
        let [a, b, c] = [a, b, c].map(|bits| Value::of(format, bits));
        for (rounding, round) in METHODS {
            let run = |exact, theirs: rustc_apfloat::StatusAnd<T>| {
                check(format, exact, rounding, theirs.value.to_bits(), theirs.status)
            };
            run(add(a, b, rounding), x.add_r(y, round));
            run(add(a, b.negated(), rounding), x.sub_r(y, round));
            run(multiply(a, b), x.mul_r(y, round));
            run(divide(a, b), x.div_r(y, round));
            if width != Width::Extended {
                run(multiply_add(a, b, c, rounding), x.mul_add_r(y, z, round));
            }
        }
    }
}

#[test]
fn arithmetic_agrees_with_another_implementation() {
    compare_with::<Single>(Format::SHORT, Width::Short, 1);
    compare_with::<Double>(Format::LONG, Width::Long, 2);
    compare_with::<Quad>(Format::EXTENDED, Width::Extended, 3);
}

#[test]
fn host_arithmetic_is_exact_arithmetic() {
    fn check<H: Native>(format: Format, width: Width) {
        let mut random = Random::new(4);
        let mut taken = [0; 2];
        for n in 0..8 * PAIRS {
            let may_round = n % 2 == 0;
            let [a, b, c] = [(); 3].map(|()| random.float(width));
            let [x, y, z] = [a, b, c].map(|bits| Value::of(format, bits));
            let nearest = Rounding::NearestEven;
            let results = [
                (H::add(a, b, may_round), add(x, y, nearest)),
                (H::subtract(a, b, may_round), add(x, y.negated(), nearest)),
                (H::multiply(a, b, may_round), multiply(x, y)),
                (H::divide(a, b, may_round), divide(x, y)),
                (H::multiply_add(a, b, c, may_round), multiply_add(x, y, z, nearest)),
                (H::square_root(a, may_round), square_root(x)),
            ];
            for (operation, (native, exact)) in results.into_iter().enumerate() {
                let Some(bits) = native else { continue };
                taken[may_round as usize] += 1;
                // No trap can be taken but that of an inexact result, and that only where it may be.
                let masks = if may_round { ALL_MASKS & !flag::INEXACT } else { ALL_MASKS };
                let ours = deliver(format, exact, Control { masks, ..untrapped(nearest) });
                assert_eq!((bits, 0), (ours.bits, ours.dxc), "operation {operation} on {a:x} {b:x} {c:x}");
                assert_eq!(ours.flags & !flag::INEXACT, 0);
            }
        }
        assert!(taken.iter().all(|n| *n > PAIRS), "{taken:?}");
    }
    check::<f32>(Format::SHORT, Width::Short);
    check::<f64>(Format::LONG, Width::Long);
}

#[test]
fn host_conversions_are_exact_conversions() {
    fn check<H: Native>(format: Format, width: Width) {
        let mut random = Random::new(8);
        let mut taken = [0; 5];
        for n in 0..8 * PAIRS {
            let may_round = n % 2 == 0;
            let masks = if may_round { ALL_MASKS & !flag::INEXACT } else { ALL_MASKS };
            let bits = random.float(width);
            let integer = random.integer() as i64;
            let value = Value::of(format, bits);
            for (rounding, _) in METHODS {
                let control = Control { masks, ..untrapped(rounding) };
                if let Some(integral) = H::integral(bits, rounding, may_round) {
                    taken[0] += 1;
                    let exact = round_to_integer(format, bits, control);
                    assert_eq!((integral, 0), (exact.bits, exact.dxc), "{bits:x} {rounding:?}");
                }
            }
            let nearest = Control { masks, ..untrapped(Rounding::NearestEven) };
            let mut same = |n: usize, format, native: Option<u128>, value: Value| {
                let Some(native) = native else { return };
                taken[n] += 1;
                let exact = deliver(format, value.into(), nearest);
                assert_eq!((native, 0), (exact.bits, exact.dxc), "{n} {bits:x} {integer:x}");
                assert_eq!(exact.flags & !flag::INEXACT, 0);
            };
            let number = Value::integer(integer < 0, integer.unsigned_abs() as u128);
            same(1, format, H::of_integer(integer, may_round), number);
            // Not asked of long numbers, which are long already.
            same(2, Format::LONG, if width == Width::Short { H::long(bits) } else { None }, value);
            same(3, Format::SHORT, H::short(bits, may_round), value);
            if let Some(integer) = H::truncated(bits, may_round) {
                taken[4] += 1;
                let control = Control { masks, ..untrapped(Rounding::Zero) };
                let exact = to_integer(format, bits, 64, true, control);
                assert_eq!((integer as u64, 0), (exact.bits, exact.dxc), "{bits:x}");
            }
        }
        assert!(taken.iter().enumerate().all(|(n, count)| *count > PAIRS || n == 2), "{taken:?}");
        assert_eq!(taken[2] > PAIRS, width == Width::Short);
    }
    check::<f32>(Format::SHORT, Width::Short);
    check::<f64>(Format::LONG, Width::Long);
}

#[test]
fn square_roots_are_the_largest_not_too_large() {
    let mut random = Random::new(5);
    for (format, width) in
        [(Format::SHORT, Width::Short), (Format::LONG, Width::Long), (Format::EXTENDED, Width::Extended)]
    {
        for _ in 0..PAIRS {
            let bits = random.float(width) & (format.sign() - 1);
            let value = Value::of(format, bits);
            if value.class != Class::Finite {
                continue;
            }
            let root = deliver(format, square_root(value), untrapped(Rounding::Zero));
            // Squares of extended numbers have more bits than a value: the sign of the difference is still right.
            let difference = |root| {
                let root = Value::of(format, root);
                multiply_add(root, root, value.negated(), Rounding::Zero).value
            };
            let (below, above) = (difference(root.bits), difference(root.bits + 1));
            assert!(below.negative || below.class == Class::Zero, "{bits:x}");
            assert!(!above.negative && above.class == Class::Finite, "{bits:x}");
            assert_eq!(root.flags != 0, below.class != Class::Zero, "{bits:x}");
        }
    }
}

/// What a trapped overflow or underflow delivers is what the operation on scaled operands would.
#[test]
fn trapped_results_are_scaled_results() {
    let mut random = Random::new(6);
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..8 * PAIRS {
        let (format, width) = [(Format::SHORT, Width::Short), (Format::LONG, Width::Long)][n % 2];
        let [a, b] = [(); 2].map(|()| Value::of(format, random.float(width)));
        let (rounding, _) = METHODS[n % 5];
        let exact = if n % 3 == 0 { divide(a, b) } else { multiply(a, b) };
        let ours = deliver(format, exact, Control { masks: ALL_MASKS, ..untrapped(rounding) });
        let scale = match ours.dxc & 0xf0 {
            0x20 => -format.scale(),
            0x10 => format.scale(),
            _ => continue,
        };
        let exponent = exact.value.exponent + scale;
        let scaled = Exact { value: Value { exponent, ..exact.value }, ..exact };
        let expected = deliver(format, scaled, untrapped(rounding));
        let truncated = deliver(format, scaled, untrapped(Rounding::Zero)).bits;
        let code = match expected.flags {
            0 => 0,
            _ => 0x08 | ((expected.bits != truncated) as u8) << 2,
        };
        assert_eq!((ours.bits, ours.dxc & 0x0f), (expected.bits, code), "{exact:x?} {rounding:?}");
        seen.insert(ours.dxc);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0x10, 0x18, 0x1c, 0x20, 0x28, 0x2c]);
}

#[test]
fn load_rounded_keeps_the_source_format_when_trapped() {
    let rows: [(u64, u8, u64, u8); 6] = [
        // Too large for short by far: scaled by 2 to the power of 512, with 24 bits.
        (0x6bc7_7ebc_0000_0000, flag::OVERFLOW, 0x4bc7_7ebc_0000_0000, 0x20),
        (0x6bc7_7ebc_1000_0000, flag::OVERFLOW, 0x4bc7_7ebc_0000_0000, 0x28),
        (0x6bc7_7ebc_1000_0001, flag::OVERFLOW, 0x4bc7_7ebc_2000_0000, 0x2c),
        // Too small.
        (0x0010_0000_0000_0000, flag::UNDERFLOW, 0x2010_0000_0000_0000, 0x10),
        (0x8000_0000_0000_0001, flag::UNDERFLOW, 0x9cd0_0000_0000_0000, 0x10),
        // Neither.
        (0x3ff0_0000_0000_0000, flag::OVERFLOW | flag::UNDERFLOW, 0x3f80_0000, 0),
    ];
    for (bits, masks, expected, dxc) in rows {
        let exact = Value::of(Format::LONG, bits as u128).into();
        let control = Control { masks, ..untrapped(Rounding::NearestEven) };
        let (outcome, in_source) = shorten(Format::LONG, Format::SHORT, exact, control);
        assert_eq!((outcome.bits, outcome.dxc, in_source), (expected as u128, dxc, dxc != 0), "{bits:x}");
    }
}

#[test]
fn division_to_integer_leaves_the_remainder() {
    let mut random = Random::new(7);
    let (mut complete, mut partial) = (0, 0);
    for _ in 0..8 * PAIRS {
        let [a, b] = [(); 2].map(|()| random.float(Width::Long));
        let [x, y] = [a, b].map(|bits| f64::from_bits(bits as u64));
        if !x.is_finite() || !y.is_finite() || y == 0.0 {
            continue;
        }
        let control = untrapped(Rounding::NearestEven);
        let truncated = divide_to_integer(Format::LONG, a, b, Rounding::Zero, control);
        let nearest = divide_to_integer(Format::LONG, a, b, Rounding::NearestEven, control);
        assert_eq!(truncated.remainder.flags, 0, "{x:e} {y:e}");
        if truncated.cc & 2 == 0 {
            complete += 1;
            assert_eq!(truncated.remainder.bits, (x % y).to_bits() as u128, "{x:e} {y:e}");
            let theirs = Double::from_bits(a).ieee_rem(Double::from_bits(b)).value.to_bits();
            let magnitude = Format::LONG.sign() - 1;
            assert_eq!(nearest.remainder.bits & magnitude, theirs & magnitude, "{x:e} {y:e}");
        } else {
            // Going on with what is left ends at the same remainder.
            partial += 1;
            let mut rest = truncated.remainder.bits;
            let mut last = truncated;
            while last.cc & 2 != 0 {
                last = divide_to_integer(Format::LONG, rest, b, Rounding::Zero, control);
                rest = last.remainder.bits;
            }
            assert_eq!(rest, (x % y).to_bits() as u128, "{x:e} {y:e}");
        }
    }
    assert!(complete > PAIRS && partial > PAIRS, "{complete} {partial}");
}

#[test]
fn division_to_integer_of_special_operands() {
    const INFINITY: u128 = 0x7f80_0000;
    const NAN: u128 = 0x7fc0_0000;
    const ONE: u128 = 0x3f80_0000;
    const MINUS: u128 = 0x8000_0000;
    const LARGEST: u128 = 0x7f7f_ffff;
    // Dividend, divisor: quotient, remainder, flags, condition code.
    let rows = [
        (INFINITY, ONE, NAN, NAN, flag::INVALID, 1),
        (ONE, 0, NAN, NAN, flag::INVALID, 1),
        (0, 0, NAN, NAN, flag::INVALID, 1),
        (ONE, 0x7fc0_1234, 0x7fc0_1234, 0x7fc0_1234, 0, 1),
        (0x7fc0_0001, 0x7f80_1234, 0x7fc0_1234, 0x7fc0_1234, flag::INVALID, 1),
        (ONE, INFINITY | MINUS, MINUS, ONE, 0, 0),
        (MINUS, ONE, MINUS, MINUS, 0, 0),
        // 7 / 2 to nearest: 4, remainder -1; -6 / 2: -3, remainder -0.
        (0x40e0_0000, 0x4000_0000, 0x4080_0000, ONE | MINUS, 0, 0),
        (0xc0c0_0000, 0x4000_0000, 0xc040_0000, MINUS, 0, 0),
        // A quotient beyond the largest number, scaled by 2 to the power of -192; exact, and not.
        (LARGEST, 1, (LARGEST & 0x7f_ffff) | (127 + 127 + 149 - 192) << 23, 0, 0, 1),
        (LARGEST, 3, 210 << 23 | 0x2a_aaaa, 0, 0, 1),
        (LARGEST, 11, 208 << 23 | 0x3a_2e8a, 231 << 23 | 0x20_0000, 0, 3),
    ];
    for (a, b, quotient, remainder, flags, cc) in rows {
        let control = untrapped(Rounding::NearestEven);
        let got = divide_to_integer(Format::SHORT, a, b, Rounding::NearestEven, control);
        assert_eq!(
            (got.quotient, got.remainder.bits, got.remainder.flags, got.cc),
            (quotient, remainder, flags, cc),
            "{a:x} / {b:x}"
        );
    }
}

#[test]
fn conversions_to_integers() {
    use Rounding::*;
    const ONE_HALF: u128 = 0x3fe0_0000_0000_0000;
    const MINUS: u128 = 1 << 63;
    // Number, width, signed, method: result, flags, condition code.
    let both = flag::INVALID | flag::INEXACT;
    let rows = [
        (ONE_HALF, 32, true, NearestEven, 0, flag::INEXACT, 2),
        (ONE_HALF, 32, true, NearestAway, 1, flag::INEXACT, 2),
        (ONE_HALF | MINUS, 32, true, NearestAway, u64::MAX, flag::INEXACT, 1),
        (ONE_HALF | MINUS, 32, true, Zero, 0, flag::INEXACT, 1),
        (ONE_HALF | MINUS, 32, false, Zero, 0, flag::INEXACT, 1),
        (ONE_HALF | MINUS, 32, false, Shorter, 0, both, 3),
        (MINUS, 64, true, Down, 0, 0, 0),
        (1, 64, true, Up, 1, flag::INEXACT, 2),
        // 2^31 - 0.5
        (0x41df_ffff_ffe0_0000, 32, true, Zero, 0x7fff_ffff, flag::INEXACT, 2),
        (0x41df_ffff_ffe0_0000, 32, true, Up, 0x7fff_ffff, both, 3),
        (0x41df_ffff_ffe0_0000, 32, false, Up, 0x8000_0000, flag::INEXACT, 2),
        // -2^63 and the number below it
        (0xc3e0_0000_0000_0000, 64, true, Up, 1 << 63, 0, 1),
        (0xc3e0_0000_0000_0001, 64, true, Up, 1 << 63, both, 3),
        (0x43f0_0000_0000_0000, 64, false, Zero, u64::MAX, both, 3),
        (0x7ff8_0000_0000_0000, 64, true, Zero, 1 << 63, both, 3),
        (0x7ff8_0000_0000_0000, 64, false, Zero, 0, both, 3),
        (0x7ff0_0000_0000_0000, 32, true, Zero, 0x7fff_ffff, both, 3),
        (0xfff0_0000_0000_0000, 32, false, Zero, 0, both, 3),
    ];
    for (bits, width, signed, rounding, expected, flags, cc) in rows {
        let mask = u64::MAX >> (64 - width);
        let got = to_integer(Format::LONG, bits, width, signed, untrapped(rounding));
        assert_eq!(
            (got.bits & mask, got.flags, got.cc, got.dxc),
            (expected & mask, flags, cc, 0),
            "{bits:x}"
        );
        let trapped = Control { masks: ALL_MASKS, ..untrapped(rounding) };
        let dxc = match flags {
            0 => 0,
            flag::INEXACT => {
                0x08 | ((expected as i32).unsigned_abs() as f64 > f64::from_bits(bits as u64).abs()) as u8 * 4
            }
            _ => flag::INVALID,
        };
        assert_eq!(to_integer(Format::LONG, bits, width, signed, trapped).dxc, dxc, "{bits:x}");
        let suppressed = Control { suppress_inexact: true, ..untrapped(rounding) };
        let got = to_integer(Format::LONG, bits, width, signed, suppressed);
        assert_eq!((got.bits & mask, got.flags), (expected & mask, flags & !flag::INEXACT), "{bits:x}");
    }
}

#[test]
fn rounding_to_prepare_for_shorter_precision() {
    // 1 + 2^-24 and 1 + 2^-23 + 2^-24 as long numbers, to short; a first rounding loses no information
    // for the second.
    let control = untrapped(Rounding::Shorter);
    for (bits, expected) in [
        (0x3ff0_0000_1000_0000u128, 0x3f80_0001),
        (0x3ff0_0000_3000_0000, 0x3f80_0001),
        (0x3ff0_0000_4000_0000, 0x3f80_0002),
        (0x3ff0_0000_4000_0001, 0x3f80_0003),
        // Beyond the largest number stays there.
        (0x7fe0_0000_0000_0000, 0x7f7f_ffff),
        (1, 1),
    ] {
        let got = deliver(Format::SHORT, Value::of(Format::LONG, bits).into(), control);
        assert_eq!(got.bits, expected, "{bits:x}");
    }
}
