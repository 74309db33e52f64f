//! Timing instructions: the TOD clock, the clock comparator, the CPU timer (chapters 4, 7 and 10).

use zarch::{Facility::*, ProgramCode};

use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xb204, "SCK", N3, S::of(sck)).privileged().timing().ends(),
        row(0xb205, "STCK", N3, S::of(stck)).timing(),
        row(0xb27c, "STCKF", StoreClockFast, S::of(stckf)).timing(),
        row(0xb278, "STCKE", N3, S::of(stcke)).timing(),
        row(0x107, "SCKPF", N3, E::of(sckpf)).privileged(),
        row(0xb206, "SCKC", N3, S::of(sckc)).privileged().timing().ends(),
        row(0xb207, "STCKC", N3, S::of(stckc)).privileged(),
        row(0xb208, "SPT", N3, S::of(spt)).privileged().timing().ends(),
        row(0xb209, "STPT", N3, S::of(stpt)).privileged().timing(),
        row(0x104, "PTFF", TodClockSteering, E::of(ptff)).timing(),
        row(0xc81, "ECTG", ExtractCpuTime, SSF::of(ectg)).timing(),
    ]
}

/// The doubleword operand, which must be aligned.
fn doubleword(cpu: &Cpu, i: Si) -> Result<machine::Operand, Leave> {
    let at = i.operand(cpu);
    if at.address % 8 == 0 { Ok(at) } else { Err(ProgramCode::Specification.into()) }
}

/// SET CLOCK.
fn sck(cpu: &mut Cpu, i: Si) -> Flow {
    let value = cpu.load::<u64>(doubleword(cpu, i)?)?;
    cpu.set_tod(value);
    cpu.cc = 0;
    Err(Leave::Serialize)
}

/// STORE CLOCK.
fn stck(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.serialize();
    let value = cpu.unique_tod();
    cpu.store(i.operand(cpu), value)?;
    cpu.cc = 0;
    cpu.serialize_code()
}

/// STORE CLOCK FAST.
fn stckf(cpu: &mut Cpu, i: Si) -> Flow {
    let value = cpu.tod();
    cpu.store(i.operand(cpu), value)?;
    cpu.cc = 0;
    Ok(())
}

/// STORE CLOCK EXTENDED: epoch index, the clock in bytes 1-8, a nonzero byte that keeps values unique,
/// the programmable field.
fn stcke(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.serialize();
    let mut bytes = [0; 16];
    bytes[1..9].copy_from_slice(&cpu.unique_tod().to_be_bytes());
    bytes[13] = 1;
    bytes[14..].copy_from_slice(&(cpu.tod_programmable as u16).to_be_bytes());
    cpu.store_bytes(i.operand(cpu), &bytes)?;
    cpu.cc = 0;
    cpu.serialize_code()
}

/// SET CLOCK PROGRAMMABLE FIELD.
fn sckpf(cpu: &mut Cpu, _: None_) -> Flow {
    let value = cpu.gr32(0);
    if value & 0xffff_0000 != 0 {
        return Err(ProgramCode::Specification.into());
    }
    cpu.tod_programmable = value;
    Ok(())
}

/// SET CLOCK COMPARATOR.
fn sckc(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.clock_comparator = cpu.load::<u64>(doubleword(cpu, i)?)?;
    Err(Leave::Serialize)
}

/// STORE CLOCK COMPARATOR.
fn stckc(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.store(doubleword(cpu, i)?, cpu.clock_comparator)
}

/// SET CPU TIMER.
fn spt(cpu: &mut Cpu, i: Si) -> Flow {
    let value = cpu.load::<u64>(doubleword(cpu, i)?)?;
    cpu.set_cpu_timer(value);
    Err(Leave::Serialize)
}

/// STORE CPU TIMER.
fn stpt(cpu: &mut Cpu, i: Si) -> Flow {
    let at = doubleword(cpu, i)?;
    let value = cpu.cpu_timer();
    cpu.store(at, value)
}

/// PERFORM TIMING FACILITY FUNCTION: query available functions and query TOD offset. The clock here is
/// never steered.
fn ptff(cpu: &mut Cpu, _: None_) -> Flow {
    let code = cpu.gr32(0) & 0xff;
    if code & 0x80 != 0 {
        return Err(ProgramCode::Specification.into());
    }
    let at = cpu.register_operand(1);
    match code {
        0 => {
            let mut functions = [0u8; 16];
            functions[0] = 0xc0;
            cpu.store_bytes(at, &functions)?;
        }
        1 => {
            let (tod, offset) = (cpu.tod(), cpu.tod_offset);
            let fields = [tod.wrapping_sub(offset), offset, offset, offset];
            let bytes: Vec<u8> = fields.iter().flat_map(|f| f.to_be_bytes()).collect();
            cpu.store_bytes(at, &bytes)?;
        }
        _ => {
            cpu.cc = 3;
            return Ok(());
        }
    }
    cpu.cc = 0;
    Ok(())
}

/// EXTRACT CPU TIME: register 0 gets the first operand less the CPU timer, register 1 the second
/// operand, R3 the doubleword that R3 designates.
fn ectg(cpu: &mut Cpu, i: Ss) -> Flow {
    let (first, second) = (i.operand1(cpu), i.operand2(cpu));
    let third = cpu.register_operand(i.l1());
    let first = cpu.load::<u64>(first)?;
    let second = cpu.load::<u64>(second)?;
    let third = cpu.load::<u64>(third)?;
    let timer = cpu.cpu_timer();
    cpu.set_gr(0, first.wrapping_sub(timer));
    cpu.set_gr(1, second);
    cpu.set_gr(i.l1(), third);
    Ok(())
}
