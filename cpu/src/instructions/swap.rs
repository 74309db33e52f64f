//! General instructions (chapter 7): compare and swap, and the other interlocked operations on one or
//! more storage operands.

use std::sync::{Mutex, PoisonError};

use machine::Operand;
use zarch::{AddressSpace, Facility::*, ProgramCode};

use crate::access::{Access, Span, Word};
use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xba, "CS", N3, RS::of(cs)),
        row(0xeb14, "CSY", LongDisplacement, RSY::of(cs)),
        row(0xeb30, "CSG", N3, RSY::of(csg)),
        row(0xbb, "CDS", N3, RS::of(cds)).even1().even3(),
        row(0xeb31, "CDSY", LongDisplacement, RSY::of(cds)).even1().even3(),
        row(0xeb3e, "CDSG", N3, RSY::of(cdsg)).even1().even3(),
        row(0xc82, "CSST", CompareAndSwapAndStore, SSF::of(csst)),
        row(0xee, "PLO", N3, SS::of(plo)),
        row(0x93, "TS", N3, SI::of(ts)),
    ]
}

/// Compares and swaps; on inequality `load` gets what is in storage.
#[inline(always)]
fn swap<T: Word>(cpu: &mut Cpu, at: Operand, old: T, new: T, load: impl FnOnce(&mut Cpu, T)) -> Flow {
    match cpu.compare_and_swap(at, old, new)? {
        Ok(_) => cpu.cc = 0,
        Err(current) => {
            load(cpu, current);
            cpu.cc = 1;
        }
    }
    cpu.serialize_code()
}

fn pair32(cpu: &Cpu, r: u8) -> u64 {
    (cpu.gr32(r) as u64) << 32 | cpu.gr32(r | 1) as u64
}

fn set_pair32(cpu: &mut Cpu, r: u8, value: u64) {
    cpu.set_gr32(r, (value >> 32) as u32);
    cpu.set_gr32(r | 1, value as u32);
}

fn pair64(cpu: &Cpu, r: u8) -> u128 {
    (cpu.gr(r) as u128) << 64 | cpu.gr(r | 1) as u128
}

fn set_pair64(cpu: &mut Cpu, r: u8, value: u128) {
    cpu.set_gr(r, (value >> 64) as u64);
    cpu.set_gr(r | 1, value as u64);
}

/// COMPARE AND SWAP.
fn cs(cpu: &mut Cpu, i: Rs) -> Flow {
    let (old, new) = (cpu.gr32(i.r1), cpu.gr32(i.r3));
    swap(cpu, i.operand(cpu), old, new, |cpu, current| cpu.set_gr32(i.r1, current))
}

/// COMPARE AND SWAP (64).
fn csg(cpu: &mut Cpu, i: Rs) -> Flow {
    let (old, new) = (cpu.gr(i.r1), cpu.gr(i.r3));
    swap(cpu, i.operand(cpu), old, new, |cpu, current| cpu.set_gr(i.r1, current))
}

/// COMPARE DOUBLE AND SWAP.
fn cds(cpu: &mut Cpu, i: Rs) -> Flow {
    let (old, new) = (pair32(cpu, i.r1), pair32(cpu, i.r3));
    swap(cpu, i.operand(cpu), old, new, |cpu, current| set_pair32(cpu, i.r1, current))
}

/// COMPARE DOUBLE AND SWAP (64).
fn cdsg(cpu: &mut Cpu, i: Rs) -> Flow {
    let (old, new) = (pair64(cpu, i.r1), pair64(cpu, i.r3));
    swap(cpu, i.operand(cpu), old, new, |cpu, current| set_pair64(cpu, i.r1, current))
}

/// COMPARE AND SWAP AND STORE. General register 0 has the function code in bits 56-63 and the store
/// characteristic in bits 48-55; register 1 designates replacement and store value.
fn csst(cpu: &mut Cpu, i: Ss) -> Flow {
    let (function, characteristic) = (cpu.gr(0) as u8, (cpu.gr(0) >> 8) as u8);
    let r3 = i.l1();
    let more = cpu.facility(CompareAndSwapAndStore2 as u16) as u8;
    if function > 1 + more || characteristic > 3 + more || function == 2 && r3 & 1 != 0 {
        return Err(ProgramCode::Specification.into());
    }
    let (at, store_at) = (i.operand1(cpu), i.operand2(cpu));
    let size = 1 << characteristic;
    if at.address % (4 << function) != 0 || store_at.address % size != 0 {
        return Err(ProgramCode::Specification.into());
    }
    let list = Operand { address: cpu.register_operand(1).address & !15, ar: 1 };
    let list = cpu.span(list, 32, Access::Fetch)?;
    let store = cpu.span(store_at, size as usize, Access::Store)?;
    let mut value = [0; 16];
    (0..size as usize).for_each(|n| value[n] = list.get(16 + n));
    match function {
        0 => {
            let (old, new) = (cpu.gr32(r3), list.load::<u32>(0));
            swap(cpu, at, old, new, |cpu, current| cpu.set_gr32(r3, current))?;
        }
        1 => {
            let (old, new) = (cpu.gr(r3), list.load::<u64>(0));
            swap(cpu, at, old, new, |cpu, current| cpu.set_gr(r3, current))?;
        }
        _ => {
            let (old, new) = (pair64(cpu, r3), list.load::<u128>(0));
            swap(cpu, at, old, new, |cpu, current| set_pair64(cpu, r3, current))?;
        }
    }
    if cpu.cc == 0 {
        match characteristic {
            0 => store.set(0, value[0]),
            1 => store.store(0, u16::from_bytes(&value)),
            2 => store.store(0, u32::from_bytes(&value)),
            3 => store.store(0, u64::from_bytes(&value)),
            _ => store.store(0, u128::from_bytes(&value)),
        }
    }
    Ok(())
}

/// The lock of PERFORM LOCKED OPERATION: one for all program lock tokens, which the manual leaves to the
/// model. Nobody waits for anything while holding it: operands are made accessible before.
static LOCK: Mutex<()> = Mutex::new(());

/// How wide the operands of PERFORM LOCKED OPERATION are, and where they stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    /// 32 bits, in registers.
    Word,
    /// 64 bits, in the parameter list.
    ListDouble,
    /// 64 bits, in registers.
    Double,
    /// 128 bits, in the parameter list.
    ListQuad,
}

/// What PERFORM LOCKED OPERATION does: function code bits beside the width.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Locked {
    CompareAndLoad,
    CompareAndSwap,
    DoubleCompareAndSwap,
    /// COMPARE AND SWAP AND STORE, DOUBLE STORE, TRIPLE STORE.
    CompareSwapAndStore(usize),
}

/// A value of up to 128 bits, right-aligned in a quadword of the parameter list.
fn list_value(list: &Span, quadword: usize, size: u64) -> u128 {
    match size {
        4 => list.load::<u32>(quadword + 12) as u128,
        8 => list.load::<u64>(quadword + 8) as u128,
        _ => list.load::<u128>(quadword),
    }
}

fn operand_value(span: &Span) -> u128 {
    match span.len() {
        4 => span.load::<u32>(0) as u128,
        8 => span.load::<u64>(0) as u128,
        _ => span.load::<u128>(0),
    }
}

fn set_operand(span: &Span, value: u128) {
    match span.len() {
        4 => span.store(0, value as u32),
        8 => span.store(0, value as u64),
        _ => span.store(0, value),
    }
}

/// Positions of quadwords in the parameter list: first-operand comparison and replacement, third.
const FIRST_COMPARE: usize = 0;
const FIRST_REPLACE: usize = 16;
const THIRD_COMPARE: usize = 32;
const THIRD_REPLACE: usize = 48;
const LIST: usize = 144;

/// PERFORM LOCKED OPERATION. General register 0 has the function code in bits 56-63 and the test bit
/// in bit 55.
fn plo(cpu: &mut Cpu, i: Ss) -> Flow {
    use Locked::*;
    let control = cpu.gr32(0);
    let function = control as u8;
    if control & 0xffff_fe00 != 0 {
        return Err(ProgramCode::Specification.into());
    }
    if control & 0x100 != 0 {
        cpu.cc = if function < 24 { 0 } else { 3 };
        return Ok(());
    }
    let operation = match function >> 2 {
        0 => CompareAndLoad,
        1 => CompareAndSwap,
        2 => DoubleCompareAndSwap,
        n @ 3..=5 => CompareSwapAndStore(n as usize - 2),
        _ => return Err(ProgramCode::Specification.into()),
    };
    let (width, size) = match function & 3 {
        0 => (Width::Word, 4),
        1 => (Width::ListDouble, 8),
        2 => (Width::Double, 8),
        _ => (Width::ListQuad, 16),
    };
    let in_list = matches!(width, Width::ListDouble | Width::ListQuad);
    let (r1, r3) = (i.l1(), i.l2());
    let odd1 = !in_list && operation != CompareAndLoad && r1 & 1 != 0;
    let odd3 = !in_list && operation == DoubleCompareAndSwap && r3 & 1 != 0;
    // Addresses of operands 4, 6 and 8 come from the list when values do, and for more than one store.
    let addresses = match operation {
        CompareAndSwap => 0,
        CompareSwapAndStore(n) if in_list || n > 1 => n,
        CompareSwapAndStore(_) => 0,
        _ => in_list as usize,
    };
    let (second_at, fourth_at) = (i.operand1(cpu), i.operand2(cpu));
    let has_list = in_list || addresses > 0;
    let ar_mode = cpu.psw_address_space() == AddressSpace::AccessRegister;
    let misaligned = |at: Operand, size: u64| at.address % size != 0;
    if odd1
        || odd3
        || misaligned(second_at, size)
        || has_list && misaligned(fourth_at, 8)
        || addresses > 0 && ar_mode && r3 == 0
    {
        return Err(ProgramCode::Specification.into());
    }

    let second_access = if operation == CompareAndLoad { Access::Fetch } else { Access::Store };
    let second = cpu.span(second_at, size as usize, second_access)?;
    // The length that the function uses: up to the last value or address.
    let list_length = match operation {
        CompareAndSwap => 32,
        CompareSwapAndStore(n) => LIST - 32 * (3 - n),
        _ => 80,
    };
    let list = match has_list {
        false => None,
        true if in_list => Some(cpu.span(fourth_at, list_length, Access::Store)?),
        true => Some(cpu.span(fourth_at, list_length, Access::Fetch)?),
    };
    let stores = match operation {
        CompareAndLoad | DoubleCompareAndSwap => 1,
        CompareAndSwap => 0,
        CompareSwapAndStore(n) => n,
    };
    let target_access = if operation == CompareAndLoad { Access::Fetch } else { Access::Store };
    let mut targets = [second; 3];
    let saved_ar = cpu.ar[r3 as usize];
    for (n, target) in targets.iter_mut().enumerate().take(stores) {
        let at = match &list {
            Some(list) if addresses > 0 => {
                if ar_mode {
                    cpu.ar[r3 as usize] = list.load::<u32>(68 + 32 * n);
                }
                Operand { address: cpu.trim(list.load::<u64>(72 + 32 * n)), ar: r3 }
            }
            _ => fourth_at,
        };
        let span = match misaligned(at, size) {
            true => Err(ProgramCode::Specification.into()),
            false => cpu.span(at, size as usize, target_access),
        };
        *target = span.inspect_err(|_| cpu.ar[r3 as usize] = saved_ar)?;
    }

    let register = |cpu: &Cpu, r: u8| match width {
        Width::Word => cpu.gr32(r) as u128,
        _ => cpu.gr(r) as u128,
    };
    let value = |cpu: &Cpu, r: u8, quadword: usize| match &list {
        Some(list) if in_list => list_value(list, quadword, size),
        _ => register(cpu, r),
    };
    let first = value(cpu, r1, FIRST_COMPARE);
    let replacement = match operation {
        CompareAndLoad => 0,
        _ => value(cpu, r1 | 1, FIRST_REPLACE),
    };
    // The third operand of a comparison, and what the targets get.
    let (third, third_replacement) = match operation {
        DoubleCompareAndSwap => (value(cpu, r3, THIRD_COMPARE), value(cpu, r3 | 1, THIRD_REPLACE)),
        _ => (0, 0),
    };
    let mut stored = [0; 3];
    if let CompareSwapAndStore(n) = operation {
        for (k, stored) in stored.iter_mut().enumerate().take(n) {
            *stored = match &list {
                Some(list) => list_value(list, THIRD_REPLACE + 32 * k, size),
                None => register(cpu, r3),
            };
        }
    }

    let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    cpu.serialize();
    let current = operand_value(&second);
    let mut loaded = None;
    cpu.cc = if current != first {
        loaded = Some((r1, FIRST_COMPARE, current));
        1
    } else {
        match operation {
            CompareAndLoad => {
                loaded = Some((r3, THIRD_COMPARE, operand_value(&targets[0])));
                0
            }
            DoubleCompareAndSwap => {
                let fourth = operand_value(&targets[0]);
                if fourth == third {
                    set_operand(&second, replacement);
                    set_operand(&targets[0], third_replacement);
                    0
                } else {
                    loaded = Some((r3, THIRD_COMPARE, fourth));
                    2
                }
            }
            CompareAndSwap | CompareSwapAndStore(_) => {
                set_operand(&second, replacement);
                (0..stores).for_each(|n| set_operand(&targets[n], stored[n]));
                0
            }
        }
    };
    cpu.serialize();
    drop(guard);
    match (loaded, &list) {
        (None, _) => {}
        (Some((_, quadword, value)), Some(list)) if width == Width::ListQuad => list.store(quadword, value),
        (Some((_, quadword, value)), Some(list)) if in_list => list.store(quadword + 8, value as u64),
        (Some((r, _, value)), _) if width == Width::Word => cpu.set_gr32(r, value as u32),
        (Some((r, _, value)), _) => cpu.set_gr(r, value as u64),
    }
    cpu.serialize_code()
}

/// TEST AND SET.
fn ts(cpu: &mut Cpu, i: Si) -> Flow {
    let old = cpu.interlocked_update::<u8>(i.operand(cpu), |_| 0xff)?;
    cpu.cc = old >> 7;
    Ok(())
}
