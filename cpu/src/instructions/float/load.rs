//! Binary floating point (chapter 19): loads that test, change the sign or the format, or round; comparisons and
//! tests.

use std::cmp::Ordering;

use zarch::Facility::*;

use super::{Extended, Long, Precision, Short, Source, complete, control, may_round, modified};
use crate::bfp::{
    Class, Control, Exact, Format, Native, Rounding, Value, compare, deliver, flag, propagate,
    round_to_integer, shorten,
};
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xb302, "LTEBR", N3, RRE::of(load_and_test::<Short>)).bfp(),
        row(0xb312, "LTDBR", N3, RRE::of(load_and_test::<Long>)).bfp(),
        row(0xb342, "LTXBR", N3, RRE::of(load_and_test::<Extended>)).bfp().fpair1().fpair2(),
        row(0xb303, "LCEBR", N3, RRE::of(load_complement::<Short>)).bfp(),
        row(0xb313, "LCDBR", N3, RRE::of(load_complement::<Long>)).bfp(),
        row(0xb343, "LCXBR", N3, RRE::of(load_complement::<Extended>)).bfp().fpair1().fpair2(),
        row(0xb301, "LNEBR", N3, RRE::of(load_negative::<Short>)).bfp(),
        row(0xb311, "LNDBR", N3, RRE::of(load_negative::<Long>)).bfp(),
        row(0xb341, "LNXBR", N3, RRE::of(load_negative::<Extended>)).bfp().fpair1().fpair2(),
        row(0xb300, "LPEBR", N3, RRE::of(load_positive::<Short>)).bfp(),
        row(0xb310, "LPDBR", N3, RRE::of(load_positive::<Long>)).bfp(),
        row(0xb340, "LPXBR", N3, RRE::of(load_positive::<Extended>)).bfp().fpair1().fpair2(),
        row(0xb304, "LDEBR", N3, RRE::of(load_lengthened::<Short, Long>)).bfp(),
        row(0xb305, "LXDBR", N3, RRE::of(load_lengthened::<Long, Extended>)).bfp().fpair1(),
        row(0xb306, "LXEBR", N3, RRE::of(load_lengthened::<Short, Extended>)).bfp().fpair1(),
        row(0xed04, "LDEB", N3, RXE::of(load_lengthened::<Short, Long>)).bfp(),
        row(0xed05, "LXDB", N3, RXE::of(load_lengthened::<Long, Extended>)).bfp().fpair1(),
        row(0xed06, "LXEB", N3, RXE::of(load_lengthened::<Short, Extended>)).bfp().fpair1(),
        row(0xb344, "LEDBR", N3, RRF::of(load_rounded::<Long, Short>)).bfp(),
        row(0xb345, "LDXBR", N3, RRF::of(load_rounded::<Extended, Long>)).bfp().fpair1().fpair2(),
        row(0xb346, "LEXBR", N3, RRF::of(load_rounded::<Extended, Short>)).bfp().fpair1().fpair2(),
        row(0xb357, "FIEBR", N3, RRF::of(load_integer::<Short>)).bfp(),
        row(0xb35f, "FIDBR", N3, RRF::of(load_integer::<Long>)).bfp(),
        row(0xb347, "FIXBR", N3, RRF::of(load_integer::<Extended>)).bfp().fpair1().fpair2(),
        row(0xb309, "CEBR", N3, RRE::of(compare_quiet::<Short>)).bfp(),
        row(0xb319, "CDBR", N3, RRE::of(compare_quiet::<Long>)).bfp(),
        row(0xb349, "CXBR", N3, RRE::of(compare_quiet::<Extended>)).bfp().fpair1().fpair2(),
        row(0xed09, "CEB", N3, RXE::of(compare_quiet::<Short>)).bfp(),
        row(0xed19, "CDB", N3, RXE::of(compare_quiet::<Long>)).bfp(),
        row(0xb308, "KEBR", N3, RRE::of(compare_and_signal::<Short>)).bfp(),
        row(0xb318, "KDBR", N3, RRE::of(compare_and_signal::<Long>)).bfp(),
        row(0xb348, "KXBR", N3, RRE::of(compare_and_signal::<Extended>)).bfp().fpair1().fpair2(),
        row(0xed08, "KEB", N3, RXE::of(compare_and_signal::<Short>)).bfp(),
        row(0xed18, "KDB", N3, RXE::of(compare_and_signal::<Long>)).bfp(),
        row(0xed10, "TCEB", N3, RXE::of(test_data_class::<Short>)).bfp(),
        row(0xed11, "TCDB", N3, RXE::of(test_data_class::<Long>)).bfp(),
        row(0xed12, "TCXB", N3, RXE::of(test_data_class::<Extended>)).bfp().fpair1(),
    ]
}

/// The value, with a signaling NaN made quiet as an invalid operation.
#[inline(always)]
fn loaded<P: Precision>(bits: u128) -> Exact {
    let value = Value::of(P::FORMAT, bits);
    propagate([value]).unwrap_or(value.into())
}

/// LOAD AND TEST.
#[inline(always)]
fn load_and_test<P: Precision>(cpu: &mut Cpu, i: Rr) -> Flow {
    let bits = P::get(cpu, i.r2);
    if P::FORMAT.condition(bits) == 3 {
        return load_and_test_nan::<P>(cpu, i.r1, bits);
    }
    set_and_test::<P>(cpu, i.r1, bits)
}

#[inline(never)]
fn load_and_test_nan<P: Precision>(cpu: &mut Cpu, r1: u8, bits: u128) -> Flow {
    let outcome = deliver(P::FORMAT, loaded::<P>(bits), control(cpu));
    complete::<P, true>(cpu, r1, outcome)
}

#[inline(always)]
fn set_and_test<P: Precision>(cpu: &mut Cpu, r1: u8, bits: u128) -> Flow {
    P::set(cpu, r1, bits);
    cpu.cc = P::FORMAT.condition(bits);
    Ok(())
}

/// LOAD COMPLEMENT.
#[inline(always)]
fn load_complement<P: Precision>(cpu: &mut Cpu, i: Rr) -> Flow {
    let bits = P::get(cpu, i.r2) ^ P::FORMAT.sign();
    set_and_test::<P>(cpu, i.r1, bits)
}

/// LOAD NEGATIVE.
#[inline(always)]
fn load_negative<P: Precision>(cpu: &mut Cpu, i: Rr) -> Flow {
    let bits = P::get(cpu, i.r2) | P::FORMAT.sign();
    set_and_test::<P>(cpu, i.r1, bits)
}

/// LOAD POSITIVE.
#[inline(always)]
fn load_positive<P: Precision>(cpu: &mut Cpu, i: Rr) -> Flow {
    let bits = P::get(cpu, i.r2) & !P::FORMAT.sign();
    set_and_test::<P>(cpu, i.r1, bits)
}

/// LOAD LENGTHENED.
#[inline(always)]
fn load_lengthened<S: Precision, T: Precision>(cpu: &mut Cpu, i: impl Source) -> Flow {
    let bits = i.second::<S>(cpu)?;
    if T::FORMAT == Format::LONG
        && let Some(long) = S::Host::long(bits)
    {
        T::set(cpu, i.r1(), long);
        return Ok(());
    }
    lengthen::<S, T>(cpu, i.r1(), bits)
}

#[inline(never)]
fn lengthen<S: Precision, T: Precision>(cpu: &mut Cpu, r1: u8, bits: u128) -> Flow {
    let outcome = deliver(T::FORMAT, loaded::<S>(bits), control(cpu));
    // A tiny short number is an ordinary long one: nothing but an invalid operation is possible.
    complete::<T, false>(cpu, r1, outcome)
}

/// LOAD ROUNDED.
#[inline(always)]
fn load_rounded<S: Precision, T: Precision>(cpu: &mut Cpu, i: Rrf) -> Flow {
    // Without the floating-point extension facility the fields that are M3 and M4 with it are ignored.
    let control = match cpu.facility(super::EXTENSION) {
        true => modified(cpu, i.r3, i.m4)?,
        false => control(cpu),
    };
    let bits = S::get(cpu, i.r2);
    let nearest = control.rounding == Rounding::NearestEven;
    if T::FORMAT == Format::SHORT
        && let Some(short) = S::Host::short(bits, nearest && may_round(cpu, control))
    {
        T::set(cpu, i.r1, short);
        return Ok(());
    }
    round::<S, T>(cpu, i.r1, bits, control)
}

#[inline(never)]
fn round<S: Precision, T: Precision>(cpu: &mut Cpu, r1: u8, bits: u128, control: Control) -> Flow {
    match shorten(S::FORMAT, T::FORMAT, loaded::<S>(bits), control) {
        (outcome, false) => complete::<T, false>(cpu, r1, outcome),
        (outcome, true) => complete::<S, false>(cpu, r1, outcome),
    }
}

/// LOAD FP INTEGER.
#[inline(always)]
fn load_integer<P: Precision>(cpu: &mut Cpu, i: Rrf) -> Flow {
    let control = modified(cpu, i.r3, i.m4)?;
    let bits = P::get(cpu, i.r2);
    if let Some(integral) = P::Host::integral(bits, control.rounding, may_round(cpu, control)) {
        P::set(cpu, i.r1, integral);
        return Ok(());
    }
    let outcome = round_to_integer(P::FORMAT, bits, control);
    complete::<P, false>(cpu, i.r1, outcome)
}

/// COMPARE.
#[inline(always)]
fn compare_quiet<P: Precision>(cpu: &mut Cpu, i: impl Source) -> Flow {
    compare_with::<P>(cpu, i, |class| class == Class::Signaling)
}

/// COMPARE AND SIGNAL.
#[inline(always)]
fn compare_and_signal<P: Precision>(cpu: &mut Cpu, i: impl Source) -> Flow {
    compare_with::<P>(cpu, i, |class| matches!(class, Class::Signaling | Class::Quiet))
}

#[inline(always)]
fn compare_with<P: Precision>(cpu: &mut Cpu, i: impl Source, invalid: fn(Class) -> bool) -> Flow {
    let second = i.second::<P>(cpu)?;
    compare_values::<P>(cpu, i.r1(), second, invalid)
}

#[inline(never)]
fn compare_values<P: Precision>(cpu: &mut Cpu, r1: u8, second: u128, invalid: fn(Class) -> bool) -> Flow {
    let first = P::get(cpu, r1);
    cpu.cc = match compare(P::FORMAT, first, second) {
        Some(Ordering::Equal) => 0,
        Some(Ordering::Less) => 1,
        Some(Ordering::Greater) => 2,
        None => return unordered::<P>(cpu, [first, second], invalid),
    };
    Ok(())
}

#[inline(never)]
fn unordered<P: Precision>(cpu: &mut Cpu, operands: [u128; 2], invalid: fn(Class) -> bool) -> Flow {
    if operands.iter().any(|bits| invalid(Value::of(P::FORMAT, *bits).class)) {
        if cpu.fpc >> 24 & flag::INVALID as u32 != 0 {
            return Err(cpu.data_exception(flag::INVALID));
        }
        cpu.fpc |= (flag::INVALID as u32) << 16;
    }
    cpu.cc = 3;
    Ok(())
}

/// TEST DATA CLASS.
#[inline(always)]
fn test_data_class<P: Precision>(cpu: &mut Cpu, i: Rx) -> Flow {
    let classes = i.address(cpu) as u32;
    cpu.cc = (P::FORMAT.class(P::get(cpu, i.r1)) & classes != 0) as u8;
    Ok(())
}
