//! Binary floating point (chapter 19): arithmetic.

use zarch::Facility::*;
use zarch::ProgramCode;

use super::{Extended, Long, Precision, Short, Source, Third, complete, compute, control, modified};
use crate::bfp::{self, Native, Value};
use crate::format::Rrf;
use crate::format::formats::*;
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xb30a, "AEBR", N3, RRE::of(add::<Short>)).bfp(),
        row(0xb31a, "ADBR", N3, RRE::of(add::<Long>)).bfp(),
        row(0xb34a, "AXBR", N3, RRE::of(add::<Extended>)).bfp().fpair1().fpair2(),
        row(0xed0a, "AEB", N3, RXE::of(add::<Short>)).bfp(),
        row(0xed1a, "ADB", N3, RXE::of(add::<Long>)).bfp(),
        row(0xb30b, "SEBR", N3, RRE::of(subtract::<Short>)).bfp(),
        row(0xb31b, "SDBR", N3, RRE::of(subtract::<Long>)).bfp(),
        row(0xb34b, "SXBR", N3, RRE::of(subtract::<Extended>)).bfp().fpair1().fpair2(),
        row(0xed0b, "SEB", N3, RXE::of(subtract::<Short>)).bfp(),
        row(0xed1b, "SDB", N3, RXE::of(subtract::<Long>)).bfp(),
        row(0xb317, "MEEBR", N3, RRE::of(multiply::<Short>)).bfp(),
        row(0xb31c, "MDBR", N3, RRE::of(multiply::<Long>)).bfp(),
        row(0xb34c, "MXBR", N3, RRE::of(multiply::<Extended>)).bfp().fpair1().fpair2(),
        row(0xed17, "MEEB", N3, RXE::of(multiply::<Short>)).bfp(),
        row(0xed1c, "MDB", N3, RXE::of(multiply::<Long>)).bfp(),
        row(0xb30c, "MDEBR", N3, RRE::of(multiply_longer::<Short, Long>)).bfp(),
        row(0xb307, "MXDBR", N3, RRE::of(multiply_longer::<Long, Extended>)).bfp().fpair1(),
        row(0xed0c, "MDEB", N3, RXE::of(multiply_longer::<Short, Long>)).bfp(),
        row(0xed07, "MXDB", N3, RXE::of(multiply_longer::<Long, Extended>)).bfp().fpair1(),
        row(0xb30d, "DEBR", N3, RRE::of(divide::<Short>)).bfp(),
        row(0xb31d, "DDBR", N3, RRE::of(divide::<Long>)).bfp(),
        row(0xb34d, "DXBR", N3, RRE::of(divide::<Extended>)).bfp().fpair1().fpair2(),
        row(0xed0d, "DEB", N3, RXE::of(divide::<Short>)).bfp(),
        row(0xed1d, "DDB", N3, RXE::of(divide::<Long>)).bfp(),
        row(0xb353, "DIEBR", N3, RRF::of(divide_to_integer::<Short>)).bfp(),
        row(0xb35b, "DIDBR", N3, RRF::of(divide_to_integer::<Long>)).bfp(),
        row(0xb30e, "MAEBR", N3, RRD::of(multiply_and_add::<Short>)).bfp(),
        row(0xb31e, "MADBR", N3, RRD::of(multiply_and_add::<Long>)).bfp(),
        row(0xed0e, "MAEB", N3, RXF::of(multiply_and_add::<Short>)).bfp(),
        row(0xed1e, "MADB", N3, RXF::of(multiply_and_add::<Long>)).bfp(),
        row(0xb30f, "MSEBR", N3, RRD::of(multiply_and_subtract::<Short>)).bfp(),
        row(0xb31f, "MSDBR", N3, RRD::of(multiply_and_subtract::<Long>)).bfp(),
        row(0xed0f, "MSEB", N3, RXF::of(multiply_and_subtract::<Short>)).bfp(),
        row(0xed1f, "MSDB", N3, RXF::of(multiply_and_subtract::<Long>)).bfp(),
        row(0xb314, "SQEBR", N3, RRE::of(square_root::<Short>)).bfp(),
        row(0xb315, "SQDBR", N3, RRE::of(square_root::<Long>)).bfp(),
        row(0xb316, "SQXBR", N3, RRE::of(square_root::<Extended>)).bfp().fpair1().fpair2(),
        row(0xed14, "SQEB", N3, RXE::of(square_root::<Short>)).bfp(),
        row(0xed15, "SQDB", N3, RXE::of(square_root::<Long>)).bfp(),
    ]
}

// Each has an inner function that takes operand values: small enough outside to become part of the
// operation's handler, and one body for the register and the storage form.

/// ADD.
#[inline(always)]
fn add<P: Precision>(cpu: &mut Cpu, i: impl Source) -> Flow {
    let b = i.second::<P>(cpu)?;
    add_value::<P>(cpu, i.r1(), b)
}

#[inline(never)]
fn add_value<P: Precision>(cpu: &mut Cpu, r1: u8, b: u128) -> Flow {
    let a = P::get(cpu, r1);
    compute::<P, true>(
        cpu,
        r1,
        |may_round| P::Host::add(a, b, may_round),
        |rounding| bfp::add(Value::of(P::FORMAT, a), Value::of(P::FORMAT, b), rounding),
    )
}

/// SUBTRACT.
#[inline(always)]
fn subtract<P: Precision>(cpu: &mut Cpu, i: impl Source) -> Flow {
    let b = i.second::<P>(cpu)?;
    subtract_value::<P>(cpu, i.r1(), b)
}

#[inline(never)]
fn subtract_value<P: Precision>(cpu: &mut Cpu, r1: u8, b: u128) -> Flow {
    let a = P::get(cpu, r1);
    compute::<P, true>(
        cpu,
        r1,
        |may_round| P::Host::subtract(a, b, may_round),
        |rounding| bfp::add(Value::of(P::FORMAT, a), Value::of(P::FORMAT, b).negated(), rounding),
    )
}

/// MULTIPLY.
#[inline(always)]
fn multiply<P: Precision>(cpu: &mut Cpu, i: impl Source) -> Flow {
    let b = i.second::<P>(cpu)?;
    multiply_value::<P>(cpu, i.r1(), b)
}

#[inline(never)]
fn multiply_value<P: Precision>(cpu: &mut Cpu, r1: u8, b: u128) -> Flow {
    let a = P::get(cpu, r1);
    compute::<P, false>(
        cpu,
        r1,
        |may_round| P::Host::multiply(a, b, may_round),
        |_| bfp::multiply(Value::of(P::FORMAT, a), Value::of(P::FORMAT, b)),
    )
}

/// MULTIPLY (short to long, long to extended).
#[inline(always)]
fn multiply_longer<S: Precision, T: Precision>(cpu: &mut Cpu, i: impl Source) -> Flow {
    let b = i.second::<S>(cpu)?;
    multiply_value_longer::<S, T>(cpu, i.r1(), b)
}

#[inline(never)]
fn multiply_value_longer<S: Precision, T: Precision>(cpu: &mut Cpu, r1: u8, b: u128) -> Flow {
    let a = S::get(cpu, r1);
    compute::<T, false>(
        cpu,
        r1,
        |_| None,
        |_| bfp::multiply(Value::of(S::FORMAT, a), Value::of(S::FORMAT, b)),
    )
}

/// DIVIDE.
#[inline(always)]
fn divide<P: Precision>(cpu: &mut Cpu, i: impl Source) -> Flow {
    let b = i.second::<P>(cpu)?;
    divide_value::<P>(cpu, i.r1(), b)
}

#[inline(never)]
fn divide_value<P: Precision>(cpu: &mut Cpu, r1: u8, b: u128) -> Flow {
    let a = P::get(cpu, r1);
    compute::<P, false>(
        cpu,
        r1,
        |may_round| P::Host::divide(a, b, may_round),
        |_| bfp::divide(Value::of(P::FORMAT, a), Value::of(P::FORMAT, b)),
    )
}

/// DIVIDE TO INTEGER: the remainder replaces the first operand, the quotient the third.
fn divide_to_integer<P: Precision>(cpu: &mut Cpu, i: Rrf) -> Flow {
    if i.r1 == i.r2 || i.r2 == i.r3 || i.r1 == i.r3 {
        return Err(ProgramCode::Specification.into());
    }
    let method = modified(cpu, i.m4, 0)?.rounding;
    let [a, b] = [i.r1, i.r2].map(|r| P::get(cpu, r));
    let result = bfp::divide_to_integer(P::FORMAT, a, b, method, control(cpu));
    if !result.remainder.suppressed() {
        P::set(cpu, i.r3, result.quotient);
        cpu.cc = result.cc;
    }
    complete::<P, false>(cpu, i.r1, result.remainder)
}

/// MULTIPLY AND ADD.
#[inline(always)]
fn multiply_and_add<P: Precision>(cpu: &mut Cpu, i: impl Third) -> Flow {
    let b = i.second::<P>(cpu)?;
    multiply_value_and_add::<P>(cpu, i.r1(), i.r3(), b)
}

#[inline(never)]
fn multiply_value_and_add<P: Precision>(cpu: &mut Cpu, r1: u8, r3: u8, b: u128) -> Flow {
    let [a, c] = [r3, r1].map(|r| P::get(cpu, r));
    compute::<P, false>(
        cpu,
        r1,
        |may_round| P::Host::multiply_add(a, b, c, may_round),
        |rounding| {
            let [a, b, c] = [a, b, c].map(|bits| Value::of(P::FORMAT, bits));
            bfp::multiply_add(a, b, c, rounding)
        },
    )
}

/// MULTIPLY AND SUBTRACT.
#[inline(always)]
fn multiply_and_subtract<P: Precision>(cpu: &mut Cpu, i: impl Third) -> Flow {
    let b = i.second::<P>(cpu)?;
    multiply_value_and_subtract::<P>(cpu, i.r1(), i.r3(), b)
}

#[inline(never)]
fn multiply_value_and_subtract<P: Precision>(cpu: &mut Cpu, r1: u8, r3: u8, b: u128) -> Flow {
    let [a, c] = [r3, r1].map(|r| P::get(cpu, r));
    compute::<P, false>(
        cpu,
        r1,
        |may_round| P::Host::multiply_add(a, b, c ^ P::FORMAT.sign(), may_round),
        |rounding| {
            let [a, b, c] = [a, b, c].map(|bits| Value::of(P::FORMAT, bits));
            bfp::multiply_add(a, b, c.negated(), rounding)
        },
    )
}

/// SQUARE ROOT.
#[inline(always)]
fn square_root<P: Precision>(cpu: &mut Cpu, i: impl Source) -> Flow {
    let a = i.second::<P>(cpu)?;
    square_root_of::<P>(cpu, i.r1(), a)
}

#[inline(never)]
fn square_root_of<P: Precision>(cpu: &mut Cpu, r1: u8, a: u128) -> Flow {
    compute::<P, false>(
        cpu,
        r1,
        |may_round| P::Host::square_root(a, may_round),
        |_| bfp::square_root(Value::of(P::FORMAT, a)),
    )
}
