//! General instructions (chapter 7): MONITOR CALL, EXTRACT CPU ATTRIBUTE, and hints that need nothing
//! done.

use zarch::{Facility::*, ProgramCode};

use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xaf, "MC", N3, SI::of(mc)),
        row(0xeb4c, "ECAG", GeneralInstructionsExtension, RSY::of(ecag)),
        row(0xe336, "PFD", GeneralInstructionsExtension, RXY::of(pfd)),
        row(0xc62, "PFDRL", GeneralInstructionsExtension, RIL_c::of(pfdrl)),
        row(0xb2e8, "PPA", MiscellaneousInstructions1, RRF::of(ppa)),
        // Format IE: I1 and I2 stand where R1 and R2 of RRE do.
        row(0xb2fa, "NIAI", MiscellaneousInstructions1, RRE::of(niai)),
    ]
}

/// MONITOR CALL: the monitor class is in I2, the monitor code is the first-operand address.
fn mc(cpu: &mut Cpu, i: Si) -> Flow {
    if i.i2 > 15 {
        return Err(ProgramCode::Specification.into());
    }
    if cpu.cr[8] & 0x8000 >> i.i2 != 0 {
        let code = i.address(cpu);
        return Err(cpu.monitor_event(i.i2 as u16, code));
    }
    Ok(())
}

/// A cache of EXTRACT CPU ATTRIBUTE.
struct Cache {
    /// Summary: bits 4-5 scope (1 private, 2 shared), bits 6-7 type (0 separate, 3 unified).
    summary: u8,
    size: u64,
    ways: u64,
}

const LINE: u64 = 256;
const CACHES: [Cache; 3] = [
    Cache { summary: 0x04, size: 128 << 10, ways: 8 },
    Cache { summary: 0x04, size: 2 << 20, ways: 8 },
    Cache { summary: 0x0b, size: 64 << 20, ways: 16 },
];

/// What EXTRACT CPU ATTRIBUTE answers for bits 56-63 of the second-operand address: attribute in bits
/// 56-59, level in 60-62, type in 63. All ones where there is no such cache or attribute.
fn attribute(code: u8) -> u64 {
    if code >> 4 == 0 {
        return CACHES
            .iter()
            .enumerate()
            .fold(0, |all, (n, cache)| all | (cache.summary as u64) << (56 - 8 * n));
    }
    let Some(cache) = CACHES.get((code >> 1 & 7) as usize) else { return u64::MAX };
    match code >> 4 {
        1 => LINE,
        2 => cache.size,
        3 => cache.ways,
        _ => u64::MAX,
    }
}

/// EXTRACT CPU ATTRIBUTE.
fn ecag(cpu: &mut Cpu, i: Rs) -> Flow {
    cpu.set_gr(i.r1, attribute(i.amount(cpu) as u8));
    Ok(())
}

/// PREFETCH DATA: a hint; no access exceptions.
fn pfd(_: &mut Cpu, _: Rx) -> Flow {
    Ok(())
}

/// PREFETCH DATA RELATIVE LONG: a hint; no access exceptions.
fn pfdrl(_: &mut Cpu, _: Rel) -> Flow {
    Ok(())
}

/// PERFORM PROCESSOR ASSIST: no function changes anything that can be seen, and unassigned ones are
/// ignored.
fn ppa(_: &mut Cpu, _: Rrf) -> Flow {
    Ok(())
}

/// NEXT INSTRUCTION ACCESS INTENT: a hint.
fn niai(_: &mut Cpu, _: Rr) -> Flow {
    Ok(())
}
