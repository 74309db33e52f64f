//! Binary floating point (chapter 19): conversions from and to fixed point.

use zarch::Facility::*;

use super::{Extended, Long, Precision, Short, complete, may_round, modified};
use crate::bfp::{Control, Native, Rounding, Value, deliver, flag, to_integer};
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xb394, "CEFBR", N3, RRF::of(from_fixed::<Short, i32>)).bfp(),
        row(0xb395, "CDFBR", N3, RRF::of(from_fixed::<Long, i32>)).bfp(),
        row(0xb396, "CXFBR", N3, RRF::of(from_fixed::<Extended, i32>)).bfp().fpair1(),
        row(0xb3a4, "CEGBR", N3, RRF::of(from_fixed::<Short, i64>)).bfp(),
        row(0xb3a5, "CDGBR", N3, RRF::of(from_fixed::<Long, i64>)).bfp(),
        row(0xb3a6, "CXGBR", N3, RRF::of(from_fixed::<Extended, i64>)).bfp().fpair1(),
        row(0xb390, "CELFBR", FloatingPointExtension, RRF::of(from_fixed::<Short, u32>)).bfp(),
        row(0xb391, "CDLFBR", FloatingPointExtension, RRF::of(from_fixed::<Long, u32>)).bfp(),
        row(0xb392, "CXLFBR", FloatingPointExtension, RRF::of(from_fixed::<Extended, u32>)).bfp().fpair1(),
        row(0xb3a0, "CELGBR", FloatingPointExtension, RRF::of(from_fixed::<Short, u64>)).bfp(),
        row(0xb3a1, "CDLGBR", FloatingPointExtension, RRF::of(from_fixed::<Long, u64>)).bfp(),
        row(0xb3a2, "CXLGBR", FloatingPointExtension, RRF::of(from_fixed::<Extended, u64>)).bfp().fpair1(),
        row(0xb398, "CFEBR", N3, RRF::of(to_fixed::<Short, i32>)).bfp(),
        row(0xb399, "CFDBR", N3, RRF::of(to_fixed::<Long, i32>)).bfp(),
        row(0xb39a, "CFXBR", N3, RRF::of(to_fixed::<Extended, i32>)).bfp().fpair2(),
        row(0xb3a8, "CGEBR", N3, RRF::of(to_fixed::<Short, i64>)).bfp(),
        row(0xb3a9, "CGDBR", N3, RRF::of(to_fixed::<Long, i64>)).bfp(),
        row(0xb3aa, "CGXBR", N3, RRF::of(to_fixed::<Extended, i64>)).bfp().fpair2(),
        row(0xb39c, "CLFEBR", FloatingPointExtension, RRF::of(to_fixed::<Short, u32>)).bfp(),
        row(0xb39d, "CLFDBR", FloatingPointExtension, RRF::of(to_fixed::<Long, u32>)).bfp(),
        row(0xb39e, "CLFXBR", FloatingPointExtension, RRF::of(to_fixed::<Extended, u32>)).bfp().fpair2(),
        row(0xb3ac, "CLGEBR", FloatingPointExtension, RRF::of(to_fixed::<Short, u64>)).bfp(),
        row(0xb3ad, "CLGDBR", FloatingPointExtension, RRF::of(to_fixed::<Long, u64>)).bfp(),
        row(0xb3ae, "CLGXBR", FloatingPointExtension, RRF::of(to_fixed::<Extended, u64>)).bfp().fpair2(),
    ]
}

/// A fixed-point type in a general register.
trait Fixed {
    const WIDTH: u32;
    const SIGNED: bool;
    const MIN: i128;
    const MAX: i128;
    /// The number in the register.
    fn get(register: u64) -> i128;
}

macro_rules! fixed {
    ($($type:ty)*) => {
        $(impl Fixed for $type {
            const WIDTH: u32 = <$type>::BITS;
            const SIGNED: bool = <$type>::MIN != 0;
            const MIN: i128 = <$type>::MIN as i128;
            const MAX: i128 = <$type>::MAX as i128;
            #[inline(always)]
            fn get(register: u64) -> i128 {
                register as $type as i128
            }
        })*
    };
}

fixed!(i32 i64 u32 u64);

/// CONVERT FROM FIXED, CONVERT FROM LOGICAL.
#[inline(always)]
fn from_fixed<P: Precision, T: Fixed>(cpu: &mut Cpu, i: Rrf) -> Flow {
    // Without the floating-point extension facility the fields that are M3 and M4 with it are ignored.
    let control = match cpu.facility(super::EXTENSION) {
        true => modified(cpu, i.r3, i.m4)?,
        false => super::control(cpu),
    };
    let number = T::get(cpu.gr(i.r2));
    let nearest = control.rounding == Rounding::NearestEven;
    if let Ok(number) = i64::try_from(number)
        && let Some(bits) = P::Host::of_integer(number, nearest && may_round(cpu, control))
    {
        P::set(cpu, i.r1, bits);
        return Ok(());
    }
    from_integer::<P>(cpu, i.r1, number, control)
}

#[inline(never)]
fn from_integer<P: Precision>(cpu: &mut Cpu, r1: u8, number: i128, control: Control) -> Flow {
    let value = Value::integer(number < 0, number.unsigned_abs());
    let outcome = deliver(P::FORMAT, value.into(), control);
    complete::<P, false>(cpu, r1, outcome)
}

/// CONVERT TO FIXED, CONVERT TO LOGICAL.
#[inline(always)]
fn to_fixed<P: Precision, T: Fixed>(cpu: &mut Cpu, i: Rrf) -> Flow {
    let control = modified(cpu, i.r3, i.m4)?;
    let bits = P::get(cpu, i.r2);
    let truncates = control.rounding == Rounding::Zero;
    if let Some(number) = P::Host::truncated(bits, truncates && may_round(cpu, control))
        && (T::MIN..=T::MAX).contains(&(number as i128))
    {
        set_fixed::<T>(cpu, i.r1, number as u64);
        cpu.cc = P::FORMAT.condition(bits);
        return Ok(());
    }
    let result = to_integer(P::FORMAT, bits, T::WIDTH, T::SIGNED, control);
    if result.dxc != flag::INVALID {
        set_fixed::<T>(cpu, i.r1, result.bits);
        cpu.fpc |= (result.flags as u32) << 16;
        cpu.cc = result.cc;
    }
    match result.dxc {
        0 => Ok(()),
        dxc => Err(cpu.data_exception(dxc)),
    }
}

#[inline(always)]
fn set_fixed<T: Fixed>(cpu: &mut Cpu, r1: u8, number: u64) {
    match T::WIDTH {
        32 => cpu.set_gr32(r1, number as u32),
        _ => cpu.set_gr(r1, number),
    }
}
