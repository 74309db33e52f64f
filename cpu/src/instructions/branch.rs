//! General instructions (chapter 7): branches, EXECUTE and SUPERVISOR CALL.

use zarch::Facility::*;

use crate::format::{formats::*, *};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0x07, "BCR", N3, RR::branch(bcr)).ends_if_always(),
        row(0x47, "BC", N3, RX::branch(bc)).ends_if_always(),
        row(0x05, "BALR", N3, RR::branch(balr)),
        row(0x45, "BAL", N3, RX::branch(bal)),
        row(0x0d, "BASR", N3, RR::branch(basr)),
        row(0x4d, "BAS", N3, RX::branch(bas)),
        row(0x0b, "BSM", N3, RR::of(bsm)).ends(),
        row(0x0c, "BASSM", N3, RR::of(bassm)).ends(),
        row(0x06, "BCTR", N3, RR::branch(bctr)),
        row(0x46, "BCT", N3, RX::branch(bct)),
        row(0xb946, "BCTGR", N3, RRE::branch(bctgr)),
        row(0xe346, "BCTG", N3, RXY::branch(bctg)),
        row(0xe347, "BIC", MiscellaneousInstructions2, RXY::branch(bic)),
        row(0x86, "BXH", N3, RS::branch(bxh)),
        row(0x87, "BXLE", N3, RS::branch(bxle)),
        row(0xeb44, "BXHG", N3, RSY::branch(bxhg)),
        row(0xeb45, "BXLEG", N3, RSY::branch(bxleg)),
        row(0xa74, "BRC", N3, RI_c::masked_branch(brc)).ends_if_always(),
        row(0xc04, "BRCL", N3, RIL_c::masked_branch(brc)).ends_if_always(),
        row(0xa75, "BRAS", N3, RI_b::relative_branch(bras)).ends(),
        row(0xc05, "BRASL", N3, RIL_b::relative_branch(bras)).ends(),
        row(0xa76, "BRCT", N3, RI_b::relative_branch(brct)),
        row(0xa77, "BRCTG", N3, RI_b::relative_branch(brctg)),
        row(0xcc6, "BRCTH", DistinctOperands, RIL_b::relative_branch(brcth)),
        row(0x84, "BRXH", N3, RSI::relative_branch(brxh)),
        row(0x85, "BRXLE", N3, RSI::relative_branch(brxle)),
        row(0xec44, "BRXHG", N3, RIE_e::relative_branch(brxhg)),
        row(0xec45, "BRXLG", N3, RIE_e::relative_branch(brxlg)),
        row(0xec76, "CRJ", GeneralInstructionsExtension, RIE_b::masked_branch(crj)),
        row(0xec64, "CGRJ", GeneralInstructionsExtension, RIE_b::masked_branch(cgrj)),
        row(0xec7e, "CIJ", GeneralInstructionsExtension, RIE_c::masked_branch(cij)),
        row(0xec7c, "CGIJ", GeneralInstructionsExtension, RIE_c::masked_branch(cgij)),
        row(0xec77, "CLRJ", GeneralInstructionsExtension, RIE_b::masked_branch(clrj)),
        row(0xec65, "CLGRJ", GeneralInstructionsExtension, RIE_b::masked_branch(clgrj)),
        row(0xec7f, "CLIJ", GeneralInstructionsExtension, RIE_c::masked_branch(clij)),
        row(0xec7d, "CLGIJ", GeneralInstructionsExtension, RIE_c::masked_branch(clgij)),
        row(0xecf6, "CRB", GeneralInstructionsExtension, RRS::branch(crb)),
        row(0xece4, "CGRB", GeneralInstructionsExtension, RRS::branch(cgrb)),
        row(0xecfe, "CIB", GeneralInstructionsExtension, RIS::branch(cib)),
        row(0xecfc, "CGIB", GeneralInstructionsExtension, RIS::branch(cgib)),
        row(0xecf7, "CLRB", GeneralInstructionsExtension, RRS::branch(clrb)),
        row(0xece5, "CLGRB", GeneralInstructionsExtension, RRS::branch(clgrb)),
        row(0xecff, "CLIB", GeneralInstructionsExtension, RIS::branch(clib)),
        row(0xecfd, "CLGIB", GeneralInstructionsExtension, RIS::branch(clgib)),
        row(0x44, "EX", N3, RX::of(ex)),
        row(0xc60, "EXRL", ExecuteExtensions, RIL_b::of(exrl)),
        row(0x0a, "SVC", N3, I::of(svc)).ends(),
        row(0xc7, "BPP", MiscellaneousInstructions1, SMI::of(hint)),
        row(0xc5, "BPRP", MiscellaneousInstructions1, MII::of(hint)),
    ]
}

/// Whether mask `m` (leftmost of four bits for condition code 0) selects condition code `cc`.
#[inline(always)]
pub(super) fn selects(m: u8, cc: u8) -> bool {
    m << cc & 8 != 0
}

/// The same for handlers that know their mask: one arm of this is left of it.
#[inline(always)]
fn selects_by_known(m: u8, cc: u8) -> bool {
    match m {
        15 => true,
        8 => cc == 0,
        7 => cc != 0,
        4 => cc == 1,
        11 => cc != 1,
        2 => cc == 2,
        13 => cc != 2,
        1 => cc == 3,
        14 => cc != 3,
        12 => cc < 2,
        3 => cc >= 2,
        _ => selects(m, cc),
    }
}

/// Whether mask `m` selects the relation of `a` and `b`: 8 equal, 4 low, 2 high.
#[inline(always)]
pub(super) fn relates<T: Ord>(m: u8, a: T, b: T) -> bool {
    m & (if a == b {
        8
    } else if a < b {
        4
    } else {
        2
    }) != 0
}

/// BRANCH ON CONDITION. With R2 zero nothing is branched to; masks 14 and 15 then serialize.
fn bcr(cpu: &mut Cpu, i: Rr) -> Flow {
    if i.r2 == 0 {
        return if i.r1 >= 14 { cpu.serialize_code() } else { Ok(()) };
    }
    if selects(i.r1, cpu.cc) { cpu.branch_to(cpu.gr(i.r2)) } else { Ok(()) }
}

/// BRANCH ON CONDITION.
fn bc(cpu: &mut Cpu, i: Rx) -> Flow {
    if selects(i.r1, cpu.cc) { cpu.branch_to(i.address(cpu)) } else { Ok(()) }
}

/// BRANCH RELATIVE ON CONDITION (LONG).
fn brc(cpu: &mut Cpu, i: Rel) -> Flow {
    if selects_by_known(i.r1, cpu.cc) { Err(Leave::Relative) } else { Ok(()) }
}

/// The link information of BRANCH AND LINK: in the 24-bit mode with ILC, condition code and program mask.
fn link(cpu: &mut Cpu, r1: u8, next: u16, ilc: u32) {
    if cpu.address_mask() == 0xff_ffff {
        let address = cpu.next_address(next) as u32;
        let ilc = cpu.execute_next.map_or(ilc, |(_, halfwords)| halfwords as u32);
        let word = ilc << 30 | (cpu.cc as u32) << 28 | (cpu.program_mask() as u32) << 24 | address;
        cpu.set_gr32(r1, word);
    } else {
        cpu.set_link(r1, next);
    }
}

/// BRANCH AND LINK.
fn balr(cpu: &mut Cpu, i: Rr) -> Flow {
    let target = cpu.gr(i.r2);
    link(cpu, i.r1, i.next, 1);
    if i.r2 != 0 { cpu.branch_to(target) } else { Ok(()) }
}

/// BRANCH AND LINK.
fn bal(cpu: &mut Cpu, i: Rx) -> Flow {
    let target = i.address(cpu);
    link(cpu, i.r1, i.next, 2);
    cpu.branch_to(target)
}

/// BRANCH AND SAVE.
fn basr(cpu: &mut Cpu, i: Rr) -> Flow {
    let target = cpu.gr(i.r2);
    cpu.set_link(i.r1, i.next);
    if i.r2 != 0 { cpu.branch_to(target) } else { Ok(()) }
}

/// BRANCH AND SAVE.
fn bas(cpu: &mut Cpu, i: Rx) -> Flow {
    let target = i.address(cpu);
    cpu.set_link(i.r1, i.next);
    cpu.branch_to(target)
}

/// BRANCH RELATIVE AND SAVE (LONG).
fn bras(cpu: &mut Cpu, i: Rel) -> Flow {
    cpu.set_link(i.r1, i.next);
    Err(Leave::Relative)
}

/// Sets the addressing mode from a branch address (bit 63: 64-bit; else bit 32: 31-bit) and goes there.
fn branch_and_set_mode(cpu: &mut Cpu, target: u64) -> Flow {
    use zarch::psw_bits::{BA, EA};
    let (mode, address) = match target {
        t if t & 1 != 0 => (EA | BA, t & !1),
        t if t & 0x8000_0000 != 0 => (BA, t & 0x7fff_ffff),
        t => (0, t & 0xff_ffff),
    };
    cpu.set_psw_mask(cpu.psw_mask() & !(EA | BA) | mode);
    cpu.ia = address;
    Err(Leave::NewPsw)
}

/// BRANCH AND SET MODE.
fn bsm(cpu: &mut Cpu, i: Rr) -> Flow {
    let target = cpu.gr(i.r2);
    if i.r1 != 0 {
        match cpu.address_mask() {
            0xff_ffff => cpu.set_gr32(i.r1, cpu.gr32(i.r1) & 0x7fff_ffff),
            0x7fff_ffff => cpu.set_gr32(i.r1, cpu.gr32(i.r1) | 0x8000_0000),
            _ => cpu.set_gr(i.r1, cpu.gr(i.r1) | 1),
        }
    }
    if i.r2 != 0 { branch_and_set_mode(cpu, target) } else { Ok(()) }
}

/// BRANCH AND SAVE AND SET MODE.
fn bassm(cpu: &mut Cpu, i: Rr) -> Flow {
    let target = cpu.gr(i.r2);
    cpu.set_link(i.r1, i.next);
    if cpu.address_mask() == u64::MAX {
        cpu.set_gr(i.r1, cpu.gr(i.r1) | 1);
    }
    if i.r2 != 0 { branch_and_set_mode(cpu, target) } else { Ok(()) }
}

/// BRANCH ON COUNT.
fn bctr(cpu: &mut Cpu, i: Rr) -> Flow {
    let target = cpu.gr(i.r2);
    let count = cpu.gr32(i.r1).wrapping_sub(1);
    cpu.set_gr32(i.r1, count);
    if count != 0 && i.r2 != 0 { cpu.branch_to(target) } else { Ok(()) }
}

/// BRANCH ON COUNT.
fn bct(cpu: &mut Cpu, i: Rx) -> Flow {
    let target = i.address(cpu);
    let count = cpu.gr32(i.r1).wrapping_sub(1);
    cpu.set_gr32(i.r1, count);
    if count != 0 { cpu.branch_to(target) } else { Ok(()) }
}

/// BRANCH ON COUNT (64).
fn bctgr(cpu: &mut Cpu, i: Rr) -> Flow {
    let target = cpu.gr(i.r2);
    let count = cpu.gr(i.r1).wrapping_sub(1);
    cpu.set_gr(i.r1, count);
    if count != 0 && i.r2 != 0 { cpu.branch_to(target) } else { Ok(()) }
}

/// BRANCH ON COUNT (64).
fn bctg(cpu: &mut Cpu, i: Rx) -> Flow {
    let target = i.address(cpu);
    let count = cpu.gr(i.r1).wrapping_sub(1);
    cpu.set_gr(i.r1, count);
    if count != 0 { cpu.branch_to(target) } else { Ok(()) }
}

/// BRANCH INDIRECT ON CONDITION: the target is the doubleword in storage.
fn bic(cpu: &mut Cpu, i: Rx) -> Flow {
    let at = i.operand(cpu);
    let target = cpu.load::<u64>(at)?;
    if selects(i.r1, cpu.cc) { cpu.branch_to(target) } else { Ok(()) }
}

/// BRANCH RELATIVE ON COUNT.
fn brct(cpu: &mut Cpu, i: Rel) -> Flow {
    let count = cpu.gr32(i.r1).wrapping_sub(1);
    cpu.set_gr32(i.r1, count);
    if count != 0 { Err(Leave::Relative) } else { Ok(()) }
}

/// BRANCH RELATIVE ON COUNT (64).
fn brctg(cpu: &mut Cpu, i: Rel) -> Flow {
    let count = cpu.gr(i.r1).wrapping_sub(1);
    cpu.set_gr(i.r1, count);
    if count != 0 { Err(Leave::Relative) } else { Ok(()) }
}

/// BRANCH RELATIVE ON COUNT HIGH.
fn brcth(cpu: &mut Cpu, i: Rel) -> Flow {
    let count = cpu.gr_high(i.r1).wrapping_sub(1);
    cpu.set_gr_high(i.r1, count);
    if count != 0 { Err(Leave::Relative) } else { Ok(()) }
}

/// The index step of BRANCH ON INDEX (32): R3 (and R3+1 unless odd) give increment and comparand.
fn index32(cpu: &mut Cpu, r1: u8, r3: u8) -> (i32, i32) {
    let comparand = cpu.gr32(r3 | 1) as i32;
    let sum = cpu.gr32(r1).wrapping_add(cpu.gr32(r3));
    cpu.set_gr32(r1, sum);
    (sum as i32, comparand)
}

/// The index step of BRANCH ON INDEX (64).
fn index64(cpu: &mut Cpu, r1: u8, r3: u8) -> (i64, i64) {
    let comparand = cpu.gr(r3 | 1) as i64;
    let sum = cpu.gr(r1).wrapping_add(cpu.gr(r3));
    cpu.set_gr(r1, sum);
    (sum as i64, comparand)
}

/// BRANCH ON INDEX HIGH.
fn bxh(cpu: &mut Cpu, i: Rs) -> Flow {
    let target = i.address(cpu);
    let (sum, comparand) = index32(cpu, i.r1, i.r3);
    if sum > comparand { cpu.branch_to(target) } else { Ok(()) }
}

/// BRANCH ON INDEX LOW OR EQUAL.
fn bxle(cpu: &mut Cpu, i: Rs) -> Flow {
    let target = i.address(cpu);
    let (sum, comparand) = index32(cpu, i.r1, i.r3);
    if sum <= comparand { cpu.branch_to(target) } else { Ok(()) }
}

/// BRANCH ON INDEX HIGH (64).
fn bxhg(cpu: &mut Cpu, i: Rs) -> Flow {
    let target = i.address(cpu);
    let (sum, comparand) = index64(cpu, i.r1, i.r3);
    if sum > comparand { cpu.branch_to(target) } else { Ok(()) }
}

/// BRANCH ON INDEX LOW OR EQUAL (64).
fn bxleg(cpu: &mut Cpu, i: Rs) -> Flow {
    let target = i.address(cpu);
    let (sum, comparand) = index64(cpu, i.r1, i.r3);
    if sum <= comparand { cpu.branch_to(target) } else { Ok(()) }
}

/// BRANCH RELATIVE ON INDEX HIGH.
fn brxh(cpu: &mut Cpu, i: Rel) -> Flow {
    let (sum, comparand) = index32(cpu, i.r1, i.r3);
    if sum > comparand { Err(Leave::Relative) } else { Ok(()) }
}

/// BRANCH RELATIVE ON INDEX LOW OR EQUAL.
fn brxle(cpu: &mut Cpu, i: Rel) -> Flow {
    let (sum, comparand) = index32(cpu, i.r1, i.r3);
    if sum <= comparand { Err(Leave::Relative) } else { Ok(()) }
}

/// BRANCH RELATIVE ON INDEX HIGH (64).
fn brxhg(cpu: &mut Cpu, i: Rel) -> Flow {
    let (sum, comparand) = index64(cpu, i.r1, i.r3);
    if sum > comparand { Err(Leave::Relative) } else { Ok(()) }
}

/// BRANCH RELATIVE ON INDEX LOW OR EQUAL (64).
fn brxlg(cpu: &mut Cpu, i: Rel) -> Flow {
    let (sum, comparand) = index64(cpu, i.r1, i.r3);
    if sum <= comparand { Err(Leave::Relative) } else { Ok(()) }
}

/// COMPARE AND BRANCH RELATIVE.
fn crj(cpu: &mut Cpu, i: CompareBranch) -> Flow {
    let taken = relates(i.m3, cpu.gr32(i.r1) as i32, cpu.gr32(i.r2) as i32);
    if taken { Err(Leave::Relative) } else { Ok(()) }
}

/// COMPARE AND BRANCH RELATIVE (64).
fn cgrj(cpu: &mut Cpu, i: CompareBranch) -> Flow {
    let taken = relates(i.m3, cpu.gr(i.r1) as i64, cpu.gr(i.r2) as i64);
    if taken { Err(Leave::Relative) } else { Ok(()) }
}

/// COMPARE IMMEDIATE AND BRANCH RELATIVE.
fn cij(cpu: &mut Cpu, i: CompareBranch) -> Flow {
    let taken = relates(i.m3, cpu.gr32(i.r1) as i32, i.i2 as i8 as i32);
    if taken { Err(Leave::Relative) } else { Ok(()) }
}

/// COMPARE IMMEDIATE AND BRANCH RELATIVE (64).
fn cgij(cpu: &mut Cpu, i: CompareBranch) -> Flow {
    let taken = relates(i.m3, cpu.gr(i.r1) as i64, i.i2 as i8 as i64);
    if taken { Err(Leave::Relative) } else { Ok(()) }
}

/// COMPARE LOGICAL AND BRANCH RELATIVE.
fn clrj(cpu: &mut Cpu, i: CompareBranch) -> Flow {
    let taken = relates(i.m3, cpu.gr32(i.r1), cpu.gr32(i.r2));
    if taken { Err(Leave::Relative) } else { Ok(()) }
}

/// COMPARE LOGICAL AND BRANCH RELATIVE (64).
fn clgrj(cpu: &mut Cpu, i: CompareBranch) -> Flow {
    let taken = relates(i.m3, cpu.gr(i.r1), cpu.gr(i.r2));
    if taken { Err(Leave::Relative) } else { Ok(()) }
}

/// COMPARE LOGICAL IMMEDIATE AND BRANCH RELATIVE.
fn clij(cpu: &mut Cpu, i: CompareBranch) -> Flow {
    let taken = relates(i.m3, cpu.gr32(i.r1), i.i2 as u32);
    if taken { Err(Leave::Relative) } else { Ok(()) }
}

/// COMPARE LOGICAL IMMEDIATE AND BRANCH RELATIVE (64).
fn clgij(cpu: &mut Cpu, i: CompareBranch) -> Flow {
    let taken = relates(i.m3, cpu.gr(i.r1), i.i2 as u64);
    if taken { Err(Leave::Relative) } else { Ok(()) }
}

/// Branches to the fourth operand when `taken`.
fn compare_and_branch(cpu: &mut Cpu, i: Ris, taken: bool) -> Flow {
    if taken { cpu.branch_to(i.address(cpu)) } else { Ok(()) }
}

/// COMPARE AND BRANCH.
fn crb(cpu: &mut Cpu, i: Ris) -> Flow {
    let taken = relates(i.m3, cpu.gr32(i.r1) as i32, cpu.gr32(i.r2) as i32);
    compare_and_branch(cpu, i, taken)
}

/// COMPARE AND BRANCH (64).
fn cgrb(cpu: &mut Cpu, i: Ris) -> Flow {
    let taken = relates(i.m3, cpu.gr(i.r1) as i64, cpu.gr(i.r2) as i64);
    compare_and_branch(cpu, i, taken)
}

/// COMPARE IMMEDIATE AND BRANCH.
fn cib(cpu: &mut Cpu, i: Ris) -> Flow {
    let taken = relates(i.m3, cpu.gr32(i.r1) as i32, i.i2 as i8 as i32);
    compare_and_branch(cpu, i, taken)
}

/// COMPARE IMMEDIATE AND BRANCH (64).
fn cgib(cpu: &mut Cpu, i: Ris) -> Flow {
    let taken = relates(i.m3, cpu.gr(i.r1) as i64, i.i2 as i8 as i64);
    compare_and_branch(cpu, i, taken)
}

/// COMPARE LOGICAL AND BRANCH.
fn clrb(cpu: &mut Cpu, i: Ris) -> Flow {
    let taken = relates(i.m3, cpu.gr32(i.r1), cpu.gr32(i.r2));
    compare_and_branch(cpu, i, taken)
}

/// COMPARE LOGICAL AND BRANCH (64).
fn clgrb(cpu: &mut Cpu, i: Ris) -> Flow {
    let taken = relates(i.m3, cpu.gr(i.r1), cpu.gr(i.r2));
    compare_and_branch(cpu, i, taken)
}

/// COMPARE LOGICAL IMMEDIATE AND BRANCH.
fn clib(cpu: &mut Cpu, i: Ris) -> Flow {
    let taken = relates(i.m3, cpu.gr32(i.r1), i.i2 as u32);
    compare_and_branch(cpu, i, taken)
}

/// COMPARE LOGICAL IMMEDIATE AND BRANCH (64).
fn clgib(cpu: &mut Cpu, i: Ris) -> Flow {
    let taken = relates(i.m3, cpu.gr(i.r1), i.i2 as u64);
    compare_and_branch(cpu, i, taken)
}

/// EXECUTE.
fn ex(cpu: &mut Cpu, i: Rx) -> Flow {
    let target = i.address(cpu);
    cpu.execute_target(i.r1, target, i.next, 2)
}

/// EXECUTE RELATIVE LONG.
fn exrl(cpu: &mut Cpu, i: Rel) -> Flow {
    let target = cpu.relative(i.target).address;
    cpu.execute_target(i.r1, target, i.next, 3)
}

/// SUPERVISOR CALL.
fn svc(_: &mut Cpu, i: Imm8) -> Flow {
    Err(Leave::SupervisorCall(i.i))
}

/// BRANCH PREDICTION (RELATIVE) PRELOAD: a hint, ignored.
fn hint(_: &mut Cpu, _: None_) -> Flow {
    Ok(())
}
