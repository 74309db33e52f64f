//! Floating point: support instructions (chapter 9) and binary floating point (chapter 19). What they
//! compute is in [`crate::bfp`]; here are registers, exceptions and condition codes.

mod arithmetic;
mod convert;
mod load;
mod support;

use machine::Operand;

use crate::bfp::{Absent, Control, Exact, Format, Native, Outcome, Rounding, deliver};
use crate::format::{Rr, Rrf, Rx};
use crate::table::Row;
use crate::{Cpu, Flow, Leave};

/// Every row.
pub(crate) fn rows() -> Vec<Row> {
    [support::rows(), load::rows(), arithmetic::rows(), convert::rows()].concat()
}

/// The bit of the facility list: floating-point extension.
const EXTENSION: u16 = 37;
/// The mask and the flag of IEEE inexact in the floating-point-control register.
const INEXACT: u32 = 0x0808_0000;
const INEXACT_FLAG: u32 = 0x0008_0000;

/// A BFP format and where its numbers are.
trait Precision {
    const FORMAT: Format;
    type Host: Native;
    /// The number in floating-point register `r`.
    fn get(cpu: &Cpu, r: u8) -> u128;
    /// Replaces it.
    fn set(cpu: &mut Cpu, r: u8, bits: u128);
    /// The number in storage.
    fn load(cpu: &mut Cpu, at: Operand) -> Result<u128, Leave>;
}

/// Short: the left half of a register.
enum Short {}
/// Long: a register.
enum Long {}
/// Extended: a register pair, n and n+2.
enum Extended {}

impl Precision for Short {
    const FORMAT: Format = Format::SHORT;
    type Host = f32;
    #[inline(always)]
    fn get(cpu: &Cpu, r: u8) -> u128 {
        (cpu.fpr[(r & 15) as usize] >> 32) as u128
    }
    #[inline(always)]
    fn set(cpu: &mut Cpu, r: u8, bits: u128) {
        let register = &mut cpu.fpr[(r & 15) as usize];
        *register = *register & 0xffff_ffff | (bits as u64) << 32;
    }
    #[inline(always)]
    fn load(cpu: &mut Cpu, at: Operand) -> Result<u128, Leave> {
        cpu.load::<u32>(at).map(u128::from)
    }
}

impl Precision for Long {
    const FORMAT: Format = Format::LONG;
    type Host = f64;
    #[inline(always)]
    fn get(cpu: &Cpu, r: u8) -> u128 {
        cpu.fpr[(r & 15) as usize] as u128
    }
    #[inline(always)]
    fn set(cpu: &mut Cpu, r: u8, bits: u128) {
        cpu.fpr[(r & 15) as usize] = bits as u64;
    }
    #[inline(always)]
    fn load(cpu: &mut Cpu, at: Operand) -> Result<u128, Leave> {
        cpu.load::<u64>(at).map(u128::from)
    }
}

impl Precision for Extended {
    const FORMAT: Format = Format::EXTENDED;
    type Host = Absent;
    #[inline(always)]
    fn get(cpu: &Cpu, r: u8) -> u128 {
        (cpu.fpr[(r & 13) as usize] as u128) << 64 | cpu.fpr[(r & 13 | 2) as usize] as u128
    }
    #[inline(always)]
    fn set(cpu: &mut Cpu, r: u8, bits: u128) {
        cpu.fpr[(r & 13) as usize] = (bits >> 64) as u64;
        cpu.fpr[(r & 13 | 2) as usize] = bits as u64;
    }
    #[inline(always)]
    fn load(cpu: &mut Cpu, at: Operand) -> Result<u128, Leave> {
        cpu.load(at)
    }
}

/// Operands of an instruction whose second operand is in a register or in storage.
trait Source: Copy {
    fn r1(self) -> u8;
    fn second<P: Precision>(self, cpu: &mut Cpu) -> Result<u128, Leave>;
}

impl Source for Rr {
    #[inline(always)]
    fn r1(self) -> u8 {
        self.r1
    }
    #[inline(always)]
    fn second<P: Precision>(self, cpu: &mut Cpu) -> Result<u128, Leave> {
        Ok(P::get(cpu, self.r2))
    }
}

impl Source for Rrf {
    #[inline(always)]
    fn r1(self) -> u8 {
        self.r1
    }
    #[inline(always)]
    fn second<P: Precision>(self, cpu: &mut Cpu) -> Result<u128, Leave> {
        Ok(P::get(cpu, self.r2))
    }
}

impl Source for Rx {
    #[inline(always)]
    fn r1(self) -> u8 {
        self.r1
    }
    #[inline(always)]
    fn second<P: Precision>(self, cpu: &mut Cpu) -> Result<u128, Leave> {
        let at = self.operand(cpu);
        P::load(cpu, at)
    }
}

/// Operands with a third register.
trait Third: Source {
    fn r3(self) -> u8;
}

impl Third for Rrf {
    #[inline(always)]
    fn r3(self) -> u8 {
        self.r3
    }
}

impl Third for Rx {
    #[inline(always)]
    fn r3(self) -> u8 {
        self.r3
    }
}

/// What the floating-point-control register says.
#[inline(always)]
fn control(cpu: &Cpu) -> Control {
    Control { masks: (cpu.fpc >> 24) as u8, rounding: Rounding::of_fpc(cpu.fpc), suppress_inexact: false }
}

/// The same, with the modifiers M3 (rounding method) and M4 (inexact suppression, which belongs to the
/// floating-point extension facility). A method that is not assigned is a specification exception.
#[inline(always)]
fn modified(cpu: &Cpu, m3: u8, m4: u8) -> Result<Control, Leave> {
    let extension = cpu.facility(EXTENSION);
    let rounding = Rounding::of_modifier(m3, cpu.fpc, extension);
    let rounding = rounding.ok_or(zarch::ProgramCode::Specification)?;
    Ok(Control { rounding, suppress_inexact: extension && m4 & 4 != 0, ..control(cpu) })
}

/// Whether a result may be inexact without anything to be done about it.
#[inline(always)]
fn may_round(cpu: &Cpu, control: Control) -> bool {
    control.suppress_inexact || cpu.fpc & INEXACT == INEXACT_FLAG
}

/// Computes: on the host when that is certain to give the architected result, else exactly.
#[inline(always)]
fn compute<P: Precision, const CC: bool>(
    cpu: &mut Cpu,
    r1: u8,
    native: impl FnOnce(bool) -> Option<u128>,
    exact: impl FnOnce(Rounding) -> Exact,
) -> Flow {
    if cpu.fpc & 7 == 0
        && let Some(bits) = native(cpu.fpc & INEXACT == INEXACT_FLAG)
    {
        P::set(cpu, r1, bits);
        if CC {
            cpu.cc = P::FORMAT.condition(bits);
        }
        return Ok(());
    }
    compute_exactly::<P, CC>(cpu, r1, exact)
}

#[inline(never)]
fn compute_exactly<P: Precision, const CC: bool>(
    cpu: &mut Cpu,
    r1: u8,
    exact: impl FnOnce(Rounding) -> Exact,
) -> Flow {
    let control = control(cpu);
    let outcome = deliver(P::FORMAT, exact(control.rounding), control);
    complete::<P, CC>(cpu, r1, outcome)
}

/// Ends an operation: result, flags, condition code, and the trap if there is one.
#[inline(always)]
fn complete<P: Precision, const CC: bool>(cpu: &mut Cpu, r1: u8, outcome: Outcome) -> Flow {
    if !outcome.suppressed() {
        P::set(cpu, r1, outcome.bits);
        cpu.fpc |= (outcome.flags as u32) << 16;
        if CC {
            cpu.cc = P::FORMAT.condition(outcome.bits);
        }
    }
    match outcome.dxc {
        0 => Ok(()),
        dxc => Err(cpu.data_exception(dxc)),
    }
}
