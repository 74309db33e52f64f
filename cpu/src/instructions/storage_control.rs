//! Control instructions (chapter 10): DAT tables, translation, storage keys, moves between address spaces.

use zarch::{AbsoluteAddress, Facility::*, PAGE_SIZE, ProgramCode, StorageKey, psw_bits};

use crate::access::{Access, Word};
use crate::format::{formats::*, *};
use crate::instructions::control::{extraction_allowed, key_permitted};
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave, Space};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0xb20d, "PTLB", N3, S::of(ptlb)).privileged().ends(),
        row(0xb248, "PALB", N3, RRE::of(palb)).privileged(),
        row(0xb221, "IPTE", N3, RRF::of(ipte)).privileged().ends(),
        row(0xb98e, "IDTE", DatEnhancement1, RRF::of(idte)).privileged().ends(),
        row(0xb98f, "CRDTE", EnhancedDat2, RRF::of(crdte)).privileged().even1().even2().ends(),
        row(0xb250, "CSP", N3, RRE::of(csp)).privileged().even1().ends(),
        row(0xb98a, "CSPG", DatEnhancement1, RRE::of(cspg)).privileged().even1().ends(),
        row(0xb229, "ISKE", N3, RRE::of(iske)).privileged(),
        row(0xb223, "IVSK", N3, RRE::of(ivsk)),
        row(0xb22b, "SSKE", N3, RRF::of(sske)).privileged().ends(),
        row(0xb22a, "RRBE", N3, RRE::of(rrbe)).privileged().ends(),
        row(0xb9ae, "RRBM", ResetReferenceBitsMultiple, RRE::of(rrbm)).privileged().ends(),
        row(0xb9af, "PFMF", EnhancedDat1, RRE::of(pfmf)).privileged().ends(),
        row(0xb22c, "TB", N3, RRE::of(tb)).privileged().ends(),
        row(0xe501, "TPROT", N3, SSE::of(tprot)).privileged(),
        row(0xb1, "LRA", N3, RX::of(lra)).privileged(),
        row(0xe313, "LRAY", LongDisplacement, RXY::of(lra)).privileged(),
        row(0xe303, "LRAG", N3, RXY::of(lrag)).privileged(),
        row(0xe502, "STRAG", N3, SSE::of(strag)).privileged(),
        row(0xb24b, "LURA", N3, RRE::of(lura)).privileged(),
        row(0xb905, "LURAG", N3, RRE::of(lurag)).privileged(),
        row(0xb246, "STURA", N3, RRE::of(stura)).privileged(),
        row(0xb925, "STURG", N3, RRE::of(sturg)).privileged(),
        row(0xc80, "MVCOS", MoveWithOptionalSpecifications, SSF::of(mvcos)),
        row(0xda, "MVCP", N3, SS::of(mvcp)),
        row(0xdb, "MVCS", N3, SS::of(mvcs)),
        row(0xd9, "MVCK", N3, SS::of(mvck)),
        row(0xe50e, "MVCSK", N3, SSE::of(mvcsk)),
        row(0xe50f, "MVCDK", N3, SSE::of(mvcdk)),
        row(0xb24c, "TAR", N3, RRE::of(tar)),
    ]
}

const SPECIFICATION: Leave = Leave::Program(ProgramCode::Specification);
const ADDRESSING: Leave = Leave::Program(ProgramCode::Addressing);

/// PURGE TLB.
fn ptlb(cpu: &mut Cpu, _: Si) -> Flow {
    cpu.purge_tlb();
    Err(Leave::Serialize)
}

/// PURGE ALB: access lists are looked at on each use; there is nothing to purge.
fn palb(_: &mut Cpu, _: Rr) -> Flow {
    Ok(())
}

/// Purges after table entries changed: this CPU's TLB only with the local-clearing control, else all.
fn purge(cpu: &mut Cpu, local: bool) -> Flow {
    if local && cpu.facility(51) {
        cpu.purge_tlb()
    } else {
        cpu.purge_all_tlbs()
    }
    Err(Leave::Serialize)
}

/// INVALIDATE PAGE TABLE ENTRY. R3 gives the number of additional entries (facility 13); bit 3 of M4
/// is the local-clearing control (facility 51).
fn ipte(cpu: &mut Cpu, i: Rrf) -> Flow {
    const INVALID: u64 = 0x400;
    let first = cpu.gr(i.r2) >> 12 & 0xff;
    let additional = if i.r3 != 0 && cpu.facility(13) { cpu.gr(i.r3) & 0xff } else { 0 };
    if first + additional > 0xff {
        return Err(SPECIFICATION);
    }
    let origin = cpu.gr(i.r1) & !0x7ff;
    for n in first..=first + additional {
        cpu.update_real(origin.wrapping_add(8 * n), |entry| entry | INVALID)?;
    }
    purge(cpu, i.m4 & 1 != 0)
}

/// INVALIDATE DAT TABLE ENTRY: invalidation and clearing, or (bit 52 of R2) clearing by ASCE.
fn idte(cpu: &mut Cpu, i: Rrf) -> Flow {
    const INVALID: u64 = 0x20;
    let (designation, index) = (cpu.gr(i.r1), cpu.gr(i.r2));
    if index & 0xf_f000 != 0 {
        return Err(SPECIFICATION);
    }
    if index & 0x800 == 0 {
        let level = designation >> 2 & 3;
        let first = index >> (20 + 11 * level) & 0x7ff;
        let additional = index & 0x7ff;
        if first + additional > 0x7ff {
            return Err(SPECIFICATION);
        }
        let origin = designation & !(PAGE_SIZE - 1);
        for n in first..=first + additional {
            cpu.update_real(origin.wrapping_add(8 * n), |entry| entry | INVALID)?;
        }
    }
    purge(cpu, i.m4 & 1 != 0)
}

/// COMPARE AND REPLACE DAT TABLE ENTRY: R1 and R1+1 are comparand and replacement, R2 the table with its
/// type, R2+1 the virtual address whose entry is meant.
fn crdte(cpu: &mut Cpu, i: Rrf) -> Flow {
    let (old, new) = (cpu.gr(i.r1), cpu.gr(i.r1 + 1));
    let (table, address) = (cpu.gr(i.r2), cpu.gr(i.r2 + 1));
    let kind = table >> 2 & 7;
    let at = match kind {
        0 => (table & !0x7ff).wrapping_add((address >> 12 & 0xff) * 8),
        4..=7 => (table & !0xfff).wrapping_add((address >> (20 + 11 * (kind - 4)) & 0x7ff) * 8),
        _ => return Err(SPECIFICATION),
    };
    let current = cpu.update_real(at, |entry| if entry == old { new } else { entry })?;
    if current == old {
        cpu.cc = 0;
        return purge(cpu, i.m4 & 1 != 0);
    }
    cpu.set_gr(i.r1, current);
    cpu.cc = 1;
    Ok(())
}

/// Compares and swaps a word of table entries; when it was swapped, purges what bits 62 and 63 of R2 name.
fn swap_and_purge<T: Word>(cpu: &mut Cpu, i: Rr, old: T, new: T, load: fn(&mut Cpu, u8, T)) -> Flow {
    let mut at = cpu.register_operand(i.r2);
    at.address &= !(T::SIZE - 1);
    match cpu.compare_and_swap(at, old, new)? {
        Ok(_) => {
            cpu.cc = 0;
            if cpu.gr(i.r2) & 3 != 0 {
                cpu.purge_all_tlbs();
            }
        }
        Err(current) => {
            load(cpu, i.r1, current);
            cpu.cc = 1;
        }
    }
    Err(Leave::Serialize)
}

/// COMPARE AND SWAP AND PURGE.
fn csp(cpu: &mut Cpu, i: Rr) -> Flow {
    swap_and_purge(cpu, i, cpu.gr32(i.r1), cpu.gr32(i.r1 + 1), Cpu::set_gr32)
}

/// COMPARE AND SWAP AND PURGE (64).
fn cspg(cpu: &mut Cpu, i: Rr) -> Flow {
    swap_and_purge(cpu, i, cpu.gr(i.r1), cpu.gr(i.r1 + 1), Cpu::set_gr)
}

/// The absolute address of the 4K-byte block that general register `r` designates by real address.
fn block(cpu: &Cpu, r: u8) -> Result<AbsoluteAddress, Leave> {
    let at = cpu.real_to_absolute(cpu.trim(cpu.gr(r)) & !(PAGE_SIZE - 1));
    if cpu.storage().contains(at, PAGE_SIZE) { Ok(at) } else { Err(ADDRESSING) }
}

/// INSERT STORAGE KEY EXTENDED.
fn iske(cpu: &mut Cpu, i: Rr) -> Flow {
    let at = block(cpu, i.r2)?;
    let key = cpu.storage().key(at).map_err(|_| ADDRESSING)?;
    cpu.set_gr(i.r1, cpu.gr(i.r1) & !0xff | key.0 as u64);
    Ok(())
}

/// INSERT VIRTUAL STORAGE KEY: the access-control and fetch-protection bits of a virtual page's block.
fn ivsk(cpu: &mut Cpu, i: Rr) -> Flow {
    if cpu.psw_mask() & psw_bits::DAT == 0 {
        return Err(ProgramCode::SpecialOperation.into());
    }
    extraction_allowed(cpu)?;
    let address = cpu.trim(cpu.gr(i.r2));
    let space = cpu.operand_space(i.r2, Access::Fetch)?;
    let found = cpu.translate(space, address, Access::Fetch)?;
    let key = cpu.storage().key(AbsoluteAddress(found.page)).map_err(|_| ADDRESSING)?;
    cpu.set_gr(i.r1, cpu.gr(i.r1) & !0xff | (key.0 & 0xf8) as u64);
    Ok(())
}

/// Sets one key as SSKE and PFMF do; with MR or MC conditionally: true when the key had to be set.
fn set_key(cpu: &mut Cpu, at: AbsoluteAddress, key: u8, mr: bool, mc: bool) -> Result<(u8, bool), Leave> {
    let old = cpu.storage().key(at).map_err(|_| ADDRESSING)?.0;
    if mr || mc {
        let ignored = if mr { StorageKey::REFERENCE } else { 0 } | if mc { StorageKey::CHANGE } else { 0 };
        if (old ^ key) & 0xfe & !ignored == 0 {
            return Ok((old, false));
        }
    }
    cpu.storage().set_key(at, StorageKey(key)).map_err(|_| ADDRESSING)?;
    Ok((old, true))
}

/// SET STORAGE KEY EXTENDED. M3: nonquiescing, MR, MC (facility 10), multiple block (facility 8).
fn sske(cpu: &mut Cpu, i: Rrf) -> Flow {
    let conditional = cpu.facility(10);
    let (mr, mc) = (conditional && i.r3 & 4 != 0, conditional && i.r3 & 2 != 0);
    let multiple = cpu.facility(8) && i.r3 & 1 != 0;
    let key = cpu.gr(i.r1) as u8;
    if !multiple {
        let at = block(cpu, i.r2)?;
        let (old, set) = set_key(cpu, at, key, mr, mc)?;
        if mr || mc {
            cpu.set_gr(i.r1, cpu.gr(i.r1) & !0xff00 | (old as u64) << 8);
            cpu.cc = set as u8;
        }
        cpu.purge_all_tlbs();
        return Err(Leave::Serialize);
    }
    // Multiple blocks are absolute ones, up to the next 1M-byte boundary.
    let mut address = cpu.trim(cpu.gr(i.r2)) & !(PAGE_SIZE - 1);
    loop {
        let at = AbsoluteAddress(address);
        if !cpu.storage().contains(at, PAGE_SIZE) {
            return Err(ADDRESSING);
        }
        set_key(cpu, at, key, mr, mc)?;
        address = cpu.trim(address.wrapping_add(PAGE_SIZE));
        if address & 0xf_ffff == 0 {
            break;
        }
    }
    cpu.set_gr_address(i.r2, address);
    if mr || mc {
        cpu.cc = 3;
    }
    cpu.purge_all_tlbs();
    Err(Leave::Serialize)
}

/// RESET REFERENCE BIT EXTENDED.
fn rrbe(cpu: &mut Cpu, i: Rr) -> Flow {
    let at = block(cpu, i.r2)?;
    let old = cpu.storage().clear_key_bits(at, StorageKey::REFERENCE).map_err(|_| ADDRESSING)?;
    cpu.cc = (old.0 & (StorageKey::REFERENCE | StorageKey::CHANGE)) >> 1;
    cpu.purge_all_tlbs();
    Err(Leave::Serialize)
}

/// RESET REFERENCE BITS MULTIPLE: of the 64 blocks at a 256K-byte boundary.
fn rrbm(cpu: &mut Cpu, i: Rr) -> Flow {
    let first = AbsoluteAddress(cpu.trim(cpu.gr(i.r2)) & !0x3_ffff);
    let mut bits = 0;
    for n in 0..64 {
        let at = first.add(n * PAGE_SIZE);
        let old = cpu.storage().clear_key_bits(at, StorageKey::REFERENCE).map_err(|_| ADDRESSING)?;
        bits = bits << 1 | (old.0 & StorageKey::REFERENCE != 0) as u64;
    }
    cpu.set_gr(i.r1, bits);
    cpu.purge_all_tlbs();
    Err(Leave::Serialize)
}

/// PERFORM FRAME MANAGEMENT FUNCTION: sets the keys of a frame, clears it, or both.
fn pfmf(cpu: &mut Cpu, i: Rr) -> Flow {
    const RESERVED: u32 = 0xfffc_0101;
    const SET_KEY: u32 = 0x2_0000;
    const CLEAR: u32 = 0x1_0000;
    const MR: u32 = 0x400;
    const MC: u32 = 0x200;
    let control = cpu.gr32(i.r1);
    if control & RESERVED != 0 {
        return Err(SPECIFICATION);
    }
    let address = cpu.trim(cpu.gr(i.r2)) & !(PAGE_SIZE - 1);
    let end = match control >> 12 & 7 {
        // One 4K-byte frame is designated by a real address.
        0 => None,
        1 => Some((address | 0xf_ffff).wrapping_add(1)),
        2 if cpu.facility(78) => Some((address | 0x7fff_ffff).wrapping_add(1)),
        _ => return Err(SPECIFICATION),
    };
    // A large frame is done a megabyte at a time, so that interruptions are not kept waiting.
    let stop = match end {
        None => address.wrapping_add(PAGE_SIZE),
        Some(end) => end.min((address | 0xf_ffff).wrapping_add(1)),
    };
    let mut at = address;
    while at != stop {
        let absolute = if end.is_none() { cpu.real_to_absolute(at) } else { AbsoluteAddress(at) };
        if !cpu.storage().contains(absolute, PAGE_SIZE) {
            return Err(ADDRESSING);
        }
        if control & CLEAR != 0 {
            if end.is_none() && at < 2 * PAGE_SIZE && cpu.low_address_protection() {
                return Err(cpu.access_exception(ProgramCode::Protection, at, Access::Store, 0x80));
            }
            cpu.clear_block(absolute)?;
        }
        if control & SET_KEY != 0 {
            set_key(cpu, absolute, control as u8, control & MR != 0, control & MC != 0)?;
        }
        at = at.wrapping_add(PAGE_SIZE);
    }
    if control & SET_KEY != 0 {
        cpu.purge_all_tlbs();
    }
    if let Some(end) = end {
        cpu.set_gr_address(i.r2, at);
        if at != end {
            return Err(Leave::Again);
        }
    }
    Err(Leave::Serialize)
}

/// TEST BLOCK: clears the block; storage here has no unusable ones.
fn tb(cpu: &mut Cpu, i: Rr) -> Flow {
    let real = cpu.trim(cpu.gr(i.r2)) & !(PAGE_SIZE - 1);
    let at = block(cpu, i.r2)?;
    if real < 2 * PAGE_SIZE && cpu.low_address_protection() {
        return Err(cpu.access_exception(ProgramCode::Protection, real, Access::Store, 0x80));
    }
    cpu.clear_block(at)?;
    cpu.set_gr_address(0, 0);
    cpu.cc = 0;
    Err(Leave::Serialize)
}

/// Whether an exception means that there is no translation, rather than that the tables are wrong.
fn untranslatable(code: ProgramCode) -> bool {
    use ProgramCode::*;
    matches!(
        code,
        SegmentTranslation
            | PageTranslation
            | AsceType
            | RegionFirstTranslation
            | RegionSecondTranslation
            | RegionThirdTranslation
    )
}

/// TEST PROTECTION: the second operand's address gives the access key.
fn tprot(cpu: &mut Cpu, i: Ss) -> Flow {
    let operand = i.operand1(cpu);
    let key = (i.operand2(cpu).address >> 4 & 15) as u8;
    let space = cpu.operand_space(operand.ar, Access::Fetch)?;
    let found = match cpu.translate(space, operand.address, Access::Fetch) {
        Ok(found) => found,
        Err(Leave::Program(code)) if untranslatable(code) => {
            cpu.cc = 3;
            return Ok(());
        }
        Err(leave) => return Err(leave),
    };
    let at = AbsoluteAddress(found.page);
    let block_key = cpu.storage().key(at).map_err(|_| ADDRESSING)?;
    let low =
        operand.address % PAGE_SIZE < 512 && operand.address < 2 * PAGE_SIZE && cpu.low_address_protection();
    let fetch = block_key.allows_fetch(key) || cpu.fetch_protection_override(operand.address);
    let store = block_key.allows_store(key) && !found.protected && !low;
    cpu.cc = match (fetch, store) {
        (_, true) => 0,
        (true, false) => 1,
        (false, false) => 2,
    };
    Ok(())
}

/// What LOAD REAL ADDRESS finds: the real address, or the condition code with the entry's address or
/// the interruption code.
enum Real {
    Address(u64),
    Entry(u8, u64),
    Code(u16),
}

/// Translates as LOAD REAL ADDRESS does: by the address-space control even when DAT is off.
fn real_address(cpu: &mut Cpu, address: u64, b: u8) -> Result<Real, Leave> {
    let asce = match cpu.psw_mask() >> 46 & 3 {
        0 => cpu.cr[1],
        1 => match b {
            1..=15 => match cpu.translate_alet(cpu.ar[b as usize], Some((cpu.cr[8] >> 16) as u32 & 0xffff)) {
                Ok(asce) => asce,
                Err(code) => return Ok(Real::Code(code as u16)),
            },
            _ => cpu.cr[1],
        },
        2 => cpu.cr[7],
        _ => cpu.cr[13],
    };
    match cpu.walk(asce, address) {
        Ok(found) => Ok(Real::Address(found.page | address % PAGE_SIZE)),
        Err(ProgramCode::SegmentTranslation) => Ok(Real::Entry(1, cpu.walk_entry)),
        Err(ProgramCode::PageTranslation) => Ok(Real::Entry(2, cpu.walk_entry)),
        Err(code) if untranslatable(code) => Ok(Real::Code(code as u16)),
        Err(code) => Err(code.into()),
    }
}

/// LOAD REAL ADDRESS.
fn lra(cpu: &mut Cpu, i: Rx) -> Flow {
    if cpu.address_mask() == u64::MAX {
        return lrag(cpu, i);
    }
    let address = i.address(cpu);
    let (value, cc) = match real_address(cpu, address, i.b2)? {
        Real::Address(real) if real < 1 << 31 => (real as u32, 0),
        Real::Entry(cc, at) if at < 1 << 31 => (at as u32, cc),
        Real::Address(_) | Real::Entry(..) => return Err(ProgramCode::SpecialOperation.into()),
        Real::Code(code) => (code as u32 | 0x8000_0000, 3),
    };
    cpu.set_gr32(i.r1, value);
    cpu.cc = cc;
    Ok(())
}

/// LOAD REAL ADDRESS (64).
fn lrag(cpu: &mut Cpu, i: Rx) -> Flow {
    let address = i.address(cpu);
    match real_address(cpu, address, i.b2)? {
        Real::Address(real) => {
            cpu.set_gr(i.r1, real);
            cpu.cc = 0;
        }
        Real::Entry(cc, at) => {
            cpu.set_gr(i.r1, at);
            cpu.cc = cc;
        }
        Real::Code(code) => {
            cpu.set_gr32(i.r1, code as u32 | 0x8000_0000);
            cpu.cc = 3;
        }
    }
    Ok(())
}

/// STORE REAL ADDRESS: an address that has no translation is an exception here.
fn strag(cpu: &mut Cpu, i: Ss) -> Flow {
    let (to, from) = (i.operand1(cpu), i.operand2(cpu));
    if to.address % 8 != 0 {
        return Err(SPECIFICATION);
    }
    let space = match cpu.operand_space(from.ar, Access::Fetch)? {
        Space::Real => Space::Virtual(cpu.cr[1]),
        space => space,
    };
    let found = cpu.translate(space, from.address, Access::Fetch)?;
    // Prefixing is its own inverse.
    let real = cpu.real_to_absolute(found.page).0 | from.address % PAGE_SIZE;
    cpu.store(to, real)
}

/// The real address in general register `r`, a multiple of `alignment`.
fn real_operand(cpu: &Cpu, r: u8, alignment: u64) -> Result<u64, Leave> {
    let real = cpu.trim(cpu.gr(r));
    if real % alignment == 0 { Ok(real) } else { Err(SPECIFICATION) }
}

/// LOAD USING REAL ADDRESS.
fn lura(cpu: &mut Cpu, i: Rr) -> Flow {
    let at = real_operand(cpu, i.r2, 4)?;
    let value = cpu.load_real::<u32>(at)?;
    cpu.set_gr32(i.r1, value);
    Ok(())
}

/// LOAD USING REAL ADDRESS (64).
fn lurag(cpu: &mut Cpu, i: Rr) -> Flow {
    let at = real_operand(cpu, i.r2, 8)?;
    let value = cpu.load_real::<u64>(at)?;
    cpu.set_gr(i.r1, value);
    Ok(())
}

/// Stores at a real address; low-address protection applies.
fn store_using_real<T: Word>(cpu: &mut Cpu, r2: u8, value: T) -> Flow {
    let at = real_operand(cpu, r2, T::SIZE)?;
    if at % PAGE_SIZE < 512 && at < 2 * PAGE_SIZE && cpu.low_address_protection() {
        return Err(cpu.access_exception(ProgramCode::Protection, at, Access::Store, 0x80));
    }
    cpu.store_real(at, value)?;
    Ok(())
}

/// STORE USING REAL ADDRESS.
fn stura(cpu: &mut Cpu, i: Rr) -> Flow {
    store_using_real(cpu, i.r2, cpu.gr32(i.r1))
}

/// STORE USING REAL ADDRESS (64).
fn sturg(cpu: &mut Cpu, i: Rr) -> Flow {
    store_using_real(cpu, i.r2, cpu.gr(i.r1))
}

/// One operand of a move between spaces: where it is, under which key, and how its exceptions name the
/// space.
#[derive(Clone, Copy)]
struct Place {
    space: Space,
    id: u64,
    key: u8,
    address: u64,
}

/// Moves `length` (at most 4096) bytes; both operands are checked before anything is stored.
fn move_between(cpu: &mut Cpu, to: Place, from: Place, length: u64) -> Flow {
    if length == 0 {
        return Ok(());
    }
    let mut span = |place: Place, access| {
        cpu.operand_space_id = Some(place.id);
        let span = cpu.span_in(place.space, place.key, place.address, length as usize, access);
        cpu.operand_space_id = None;
        span
    };
    let source = span(from, Access::Fetch)?;
    let destination = span(to, Access::Store)?;
    // Making the second span may have evicted nothing of the first: both are host addresses.
    destination.move_from(&source);
    Ok(())
}

/// The space that an address-space control selects for base register `b`, and its identification.
fn space_of(cpu: &mut Cpu, control: u64, b: u8) -> Result<(Space, u64), Leave> {
    Ok(match control {
        0 => (Space::Virtual(cpu.cr[1]), 0),
        1 => match b {
            1..=15 => (cpu.access_register_space(b)?, 1),
            _ => (Space::Virtual(cpu.cr[1]), 1),
        },
        2 => (Space::Virtual(cpu.cr[7]), 2),
        _ => (Space::Virtual(cpu.cr[13]), 3),
    })
}

/// MOVE WITH OPTIONAL SPECIFICATIONS: general register 0 holds an operand-access control for each
/// operand; at most 4096 bytes are moved.
fn mvcos(cpu: &mut Cpu, i: Ss) -> Flow {
    if cpu.psw_mask() & psw_bits::DAT == 0 {
        return Err(ProgramCode::SpecialOperation.into());
    }
    let controls = cpu.gr32(0);
    let psw_space = cpu.psw_mask() >> 46 & 3;
    let place = |cpu: &mut Cpu, oac: u32, operand: machine::Operand| -> Result<Place, Leave> {
        let key = if oac & 2 != 0 { (oac >> 12 & 15) as u8 } else { cpu.psw_key() };
        let control = if oac & 1 != 0 { (oac >> 6 & 3) as u64 } else { psw_space };
        if control == 2 && cpu.cr[0] & 1 << (63 - 37) == 0
            || control == 3 && oac & 1 != 0 && cpu.problem_state()
        {
            return Err(ProgramCode::SpecialOperation.into());
        }
        if oac & 2 != 0 && !key_permitted(cpu, key) {
            return Err(ProgramCode::PrivilegedOperation.into());
        }
        let (space, id) = space_of(cpu, control, operand.ar)?;
        Ok(Place { space, id, key, address: operand.address })
    };
    let (first, second) = (i.operand1(cpu), i.operand2(cpu));
    let to = place(cpu, controls >> 16, first)?;
    let from = place(cpu, controls & 0xffff, second)?;
    let length = cpu.gr_length(i.l1());
    move_between(cpu, to, from, length.min(PAGE_SIZE))?;
    cpu.cc = if length > PAGE_SIZE { 3 } else { 0 };
    Ok(())
}

/// The common part of MOVE TO PRIMARY, MOVE TO SECONDARY and MOVE WITH KEY: true length in R1 (at most
/// 256 are moved), key in R3 for the operand that `with_key` names.
fn move_keyed(cpu: &mut Cpu, length: u64, to: Place, from: Place) -> Flow {
    move_between(cpu, to, from, length.min(256))?;
    cpu.cc = if length > 256 { 3 } else { 0 };
    Ok(())
}

/// The access key in bits 56-59 of general register `r`, if the program may use it.
fn register_key(cpu: &Cpu, r: u8) -> Result<u8, Leave> {
    let key = (cpu.gr(r) >> 4 & 15) as u8;
    if key_permitted(cpu, key) { Ok(key) } else { Err(ProgramCode::PrivilegedOperation.into()) }
}

/// Checks that both spaces of MVCP and MVCS can be used.
fn secondary_usable(cpu: &Cpu) -> Flow {
    let home_or_ar = matches!(cpu.psw_mask() >> 46 & 3, 1 | 3);
    if cpu.psw_mask() & psw_bits::DAT == 0 || home_or_ar || cpu.cr[0] & 1 << (63 - 37) == 0 {
        return Err(ProgramCode::SpecialOperation.into());
    }
    Ok(())
}

/// MOVE TO PRIMARY: from the secondary space with the key in R3.
fn mvcp(cpu: &mut Cpu, i: Ss) -> Flow {
    secondary_usable(cpu)?;
    let key = register_key(cpu, i.l2())?;
    let to = Place {
        space: Space::Virtual(cpu.cr[1]),
        id: 0,
        key: cpu.psw_key(),
        address: i.operand1(cpu).address,
    };
    let from = Place { space: Space::Virtual(cpu.cr[7]), id: 2, key, address: i.operand2(cpu).address };
    move_keyed(cpu, cpu.gr_length(i.l1()), to, from)
}

/// MOVE TO SECONDARY: to the secondary space with the key in R3.
fn mvcs(cpu: &mut Cpu, i: Ss) -> Flow {
    secondary_usable(cpu)?;
    let key = register_key(cpu, i.l2())?;
    let to = Place { space: Space::Virtual(cpu.cr[7]), id: 2, key, address: i.operand1(cpu).address };
    let from = Place {
        space: Space::Virtual(cpu.cr[1]),
        id: 0,
        key: cpu.psw_key(),
        address: i.operand2(cpu).address,
    };
    move_keyed(cpu, cpu.gr_length(i.l1()), to, from)
}

/// Both operands of a move in the current space, with their keys.
fn places(cpu: &mut Cpu, i: Ss, to_key: u8, from_key: u8) -> Result<(Place, Place), Leave> {
    let (first, second) = (i.operand1(cpu), i.operand2(cpu));
    let id = if cpu.psw_mask() & psw_bits::DAT == 0 { 0 } else { cpu.psw_mask() >> 46 & 3 };
    let to_space = cpu.operand_space(first.ar, Access::Store)?;
    let from_space = cpu.operand_space(second.ar, Access::Fetch)?;
    Ok((
        Place { space: to_space, id, key: to_key, address: first.address },
        Place { space: from_space, id, key: from_key, address: second.address },
    ))
}

/// MOVE WITH KEY: the source is fetched with the key in R3.
fn mvck(cpu: &mut Cpu, i: Ss) -> Flow {
    let key = register_key(cpu, i.l2())?;
    let (to, from) = places(cpu, i, cpu.psw_key(), key)?;
    move_keyed(cpu, cpu.gr_length(i.l1()), to, from)
}

/// MOVE WITH SOURCE KEY: length less one in general register 0, key in register 1.
fn mvcsk(cpu: &mut Cpu, i: Ss) -> Flow {
    let key = register_key(cpu, 1)?;
    let (to, from) = places(cpu, i, cpu.psw_key(), key)?;
    move_between(cpu, to, from, (cpu.gr(0) & 0xff) + 1)
}

/// MOVE WITH DESTINATION KEY: length less one in general register 0, key in register 1.
fn mvcdk(cpu: &mut Cpu, i: Ss) -> Flow {
    let key = register_key(cpu, 1)?;
    let (to, from) = places(cpu, i, key, cpu.psw_key())?;
    move_between(cpu, to, from, (cpu.gr(0) & 0xff) + 1)
}

/// TEST ACCESS: condition code 0 for ALET 0, 1 for the dispatchable-unit list, 2 for ALET 1 or the
/// primary list, 3 when access-register translation fails. The EAX is in bits 32-47 of R2.
fn tar(cpu: &mut Cpu, i: Rr) -> Flow {
    let alet = if i.r1 == 0 { 0 } else { cpu.ar[(i.r1 & 15) as usize] };
    let eax = cpu.gr32(i.r2) >> 16;
    cpu.cc = match alet {
        0 => 0,
        1 => 2,
        _ => match cpu.translate_alet(alet, Some(eax)) {
            Ok(_) if alet & 0x0100_0000 == 0 => 1,
            Ok(_) => 2,
            Err(ProgramCode::Addressing) => return Err(ADDRESSING),
            Err(_) => 3,
        },
    };
    Ok(())
}
