//! Control instructions (chapter 10): PSW, control registers, keys of the PSW, prefix, identification,
//! signalling, and the instructions that leave the CPU for a device.

use machine::{Exit, Operand, SubchannelOperation};
use zarch::{AbsoluteAddress, Facility::*, ProgramCode, Psw, RealAddress, lowcore, psw_bits};

use crate::format::{formats::*, *};
use crate::sigp::Response;
use crate::table::{FormatExt, Row, row};
use crate::{Cpu, Flow, Leave};

#[rustfmt::skip]
pub(crate) fn rows() -> Vec<Row> {
    vec![
        row(0x82, "LPSW", N3, S::of(lpsw)).privileged().ends(),
        row(0xb2b2, "LPSWE", N3, S::of(lpswe)).privileged().ends(),
        row(0x80, "SSM", N3, SI::of(ssm)).privileged(),
        row(0xad, "STOSM", N3, SI::of(stosm)).privileged(),
        row(0xac, "STNSM", N3, SI::of(stnsm)).privileged(),
        row(0xb7, "LCTL", N3, RS::of(lctl)).privileged().ends(),
        row(0xeb2f, "LCTLG", N3, RSY::of(lctlg)).privileged().ends(),
        row(0xb6, "STCTL", N3, RS::of(stctl)).privileged(),
        row(0xeb25, "STCTG", N3, RSY::of(stctg)).privileged(),
        row(0xb20a, "SPKA", N3, S::of(spka)).ends(),
        row(0xb20b, "IPK", N3, S::of(ipk)),
        row(0xb210, "SPX", N3, S::of(spx)).privileged().ends(),
        row(0xb211, "STPX", N3, S::of(stpx)).privileged(),
        row(0xb212, "STAP", N3, S::of(stap)).privileged(),
        row(0xb202, "STIDP", N3, S::of(stidp)).privileged(),
        row(0xb2b1, "STFL", N3, S::of(stfl)).privileged(),
        row(0xb2b0, "STFLE", StoreFacilityListExtended, S::of(stfle)),
        row(0xb27d, "STSI", N3, S::of(stsi)).privileged().ends(),
        row(0xb279, "SACF", N3, S::of(sacf)).privileged().ends(),
        row(0xb219, "SAC", N3, S::of(sac)).ends(),
        row(0xb224, "IAC", N3, RRE::of(iac)),
        row(0xb98d, "EPSW", N3, RRE::of(epsw)),
        row(0xb226, "EPAR", N3, RRE::of(epar)),
        row(0xb227, "ESAR", N3, RRE::of(esar)),
        row(0x10c, "SAM24", N3, E::of(sam24)).ends(),
        row(0x10d, "SAM31", N3, E::of(sam31)).ends(),
        row(0x10e, "SAM64", N3, E::of(sam64)).ends(),
        row(0x10b, "TAM", N3, E::of(tam)),
        row(0xae, "SIGP", N3, RS::of(sigp)).privileged().ends(),
        row(0x83, "DIAG", N3, RS::of(diag)).privileged().ends(),
        row(0xb220, "SERVC", N3, RRE::of(servc)).privileged().ends(),
        row(0xb280, "LPP", LoadProgramParameter, S::of(lpp)).privileged(),
        // AP instructions have no facility of their own: they are installed together with QCI here.
        row(0xb2af, "PQAP", ApQci, RRE::of(pqap)).privileged().ends(),
        row(0xb2ad, "NQAP", ApQci, RRE::of(nqap)).privileged().even1().even2().ends(),
        row(0xb2ae, "DQAP", ApQci, RRE::of(dqap)).privileged().even1().even2().ends(),
        row(0xb233, "SSCH", N3, S::of(ssch)).privileged().ends(),
        row(0xb235, "TSCH", N3, S::of(tsch)).privileged().ends(),
        row(0xb234, "STSCH", N3, S::of(stsch)).privileged().ends(),
        row(0xb232, "MSCH", N3, S::of(msch)).privileged().ends(),
        row(0xb231, "HSCH", N3, S::of(hsch)).privileged().ends(),
        row(0xb230, "CSCH", N3, S::of(csch)).privileged().ends(),
        row(0xb238, "RSCH", N3, S::of(rsch)).privileged().ends(),
        row(0xb276, "XSCH", N3, S::of(xsch)).privileged().ends(),
        row(0xb239, "STCRW", N3, S::of(stcrw)).privileged().ends(),
        row(0xb236, "TPI", N3, S::of(tpi)).privileged().ends(),
        row(0xb25f, "CHSC", N3, RRE::of(chsc)).privileged().ends(),
        row(0xb23b, "RCHP", N3, S::of(other_channel)).privileged().ends(),
        row(0xb23c, "SCHM", N3, S::of(channel_setting)).privileged(),
        row(0xb237, "SAL", N3, S::of(channel_setting)).privileged(),
    ]
}

const SPECIFICATION: Leave = Leave::Program(ProgramCode::Specification);

/// The operand of `i` when its address is a multiple of `alignment`.
fn aligned(cpu: &Cpu, i: Si, alignment: u64) -> Result<Operand, Leave> {
    let operand = i.operand(cpu);
    if operand.address % alignment == 0 { Ok(operand) } else { Err(SPECIFICATION) }
}

/// LOAD PSW. Bit 12 of the eight-byte PSW must be one.
fn lpsw(cpu: &mut Cpu, i: Si) -> Flow {
    let short = cpu.load::<u64>(aligned(cpu, i, 8)?)?;
    if short & psw_bits::SHORT == 0 {
        return Err(SPECIFICATION);
    }
    cpu.set_psw(Psw::from_short(short));
    Err(Leave::NewPsw)
}

/// LOAD PSW EXTENDED.
fn lpswe(cpu: &mut Cpu, i: Si) -> Flow {
    let at = aligned(cpu, i, 8)?;
    let mut bytes = [0; 16];
    cpu.fetch_bytes(at, &mut bytes)?;
    let value = u128::from_be_bytes(bytes);
    cpu.set_psw(Psw { mask: (value >> 64) as u64, address: value as u64 });
    Err(Leave::NewPsw)
}

/// Replaces PSW bits 0-7; reserved ones among them are an early specification exception. A change of
/// nothing but the I/O and external masks, which kernels make all the time, does not leave the block
/// unless something is pending.
fn set_system_mask(cpu: &mut Cpu, mask: u8) -> Flow {
    if (mask ^ (cpu.psw_mask() >> 56) as u8) & !3 == 0 {
        return cpu.set_interruption_masks(mask & 3);
    }
    cpu.set_psw_mask(cpu.psw_mask() & !(0xff << 56) | (mask as u64) << 56);
    if mask & 0xb8 != 0 { Err(SPECIFICATION) } else { Err(Leave::Serialize) }
}

/// SET SYSTEM MASK. With the SSM-suppression control (CR0 bit 33) one: special operation.
fn ssm(cpu: &mut Cpu, i: Si) -> Flow {
    if cpu.cr[0] & 1 << (63 - 33) != 0 {
        return Err(ProgramCode::SpecialOperation.into());
    }
    let mask = cpu.load::<u8>(i.operand(cpu))?;
    set_system_mask(cpu, mask)
}

/// STORE THEN OR SYSTEM MASK.
fn stosm(cpu: &mut Cpu, i: Si) -> Flow {
    let mask = (cpu.psw_mask() >> 56) as u8;
    cpu.store(i.operand(cpu), mask)?;
    set_system_mask(cpu, mask | i.i2 as u8)
}

/// STORE THEN AND SYSTEM MASK.
fn stnsm(cpu: &mut Cpu, i: Si) -> Flow {
    let mask = (cpu.psw_mask() >> 56) as u8;
    cpu.store(i.operand(cpu), mask)?;
    set_system_mask(cpu, mask & i.i2 as u8)
}

/// The register numbers from `first` to `last`, wrapping from 15 to 0.
fn range(first: u8, last: u8) -> impl Iterator<Item = u8> {
    (0..=(last.wrapping_sub(first) & 15)).map(move |n| (first + n) & 15)
}

/// LOAD CONTROL.
fn lctl(cpu: &mut Cpu, i: Rs) -> Flow {
    let at = i.operand(cpu);
    if at.address % 4 != 0 {
        return Err(SPECIFICATION);
    }
    let mut bytes = [0; 64];
    let count = range(i.r1, i.r3).count();
    cpu.fetch_bytes(at, &mut bytes[..4 * count])?;
    let mut changed = 0;
    for (r, word) in range(i.r1, i.r3).zip(bytes.chunks_exact(4)) {
        let cr = &mut cpu.cr[r as usize];
        *cr = *cr & !0xffff_ffff | word.iter().fold(0, |v, b| v << 8 | *b as u64);
        changed |= 0x8000 >> r;
    }
    cpu.control_registers_changed(changed);
    Err(Leave::Serialize)
}

/// LOAD CONTROL (64).
fn lctlg(cpu: &mut Cpu, i: Rs) -> Flow {
    let at = i.operand(cpu);
    if at.address % 8 != 0 {
        return Err(SPECIFICATION);
    }
    let mut bytes = [0; 128];
    let count = range(i.r1, i.r3).count();
    cpu.fetch_bytes(at, &mut bytes[..8 * count])?;
    let mut changed = 0;
    for (r, word) in range(i.r1, i.r3).zip(bytes.chunks_exact(8)) {
        let value = word.iter().fold(0, |v, b| v << 8 | *b as u64);
        if cpu.cr[r as usize] != value {
            cpu.cr[r as usize] = value;
            changed |= 0x8000 >> r;
        }
    }
    cpu.control_registers_changed(changed);
    Err(Leave::Serialize)
}

/// STORE CONTROL.
fn stctl(cpu: &mut Cpu, i: Rs) -> Flow {
    let at = i.operand(cpu);
    if at.address % 4 != 0 {
        return Err(SPECIFICATION);
    }
    let bytes: Vec<u8> = range(i.r1, i.r3).flat_map(|r| (cpu.cr[r as usize] as u32).to_be_bytes()).collect();
    cpu.store_bytes(at, &bytes)
}

/// STORE CONTROL (64).
fn stctg(cpu: &mut Cpu, i: Rs) -> Flow {
    let at = i.operand(cpu);
    if at.address % 8 != 0 {
        return Err(SPECIFICATION);
    }
    let bytes: Vec<u8> = range(i.r1, i.r3).flat_map(|r| cpu.cr[r as usize].to_be_bytes()).collect();
    cpu.store_bytes(at, &bytes)
}

/// Whether the PSW-key mask (CR3 bits 32-47) permits `key` to a program in the problem state.
pub(super) fn key_permitted(cpu: &Cpu, key: u8) -> bool {
    !cpu.problem_state() || cpu.cr[3] & 0x8000_0000 >> key != 0
}

/// SET PSW KEY FROM ADDRESS.
fn spka(cpu: &mut Cpu, i: Si) -> Flow {
    let key = (i.address(cpu) >> 4 & 15) as u8;
    if !key_permitted(cpu, key) {
        return Err(ProgramCode::PrivilegedOperation.into());
    }
    cpu.set_psw_mask(cpu.psw_mask() & !psw_bits::KEY | (key as u64) << 52);
    Err(Leave::Serialize)
}

/// Whether instructions that extract control state are allowed: supervisor state, or the
/// extraction-authority control (CR0 bit 36).
pub(super) fn extraction_allowed(cpu: &Cpu) -> Flow {
    if cpu.problem_state() && cpu.cr[0] & 1 << (63 - 36) == 0 {
        return Err(ProgramCode::PrivilegedOperation.into());
    }
    Ok(())
}

/// INSERT PSW KEY.
fn ipk(cpu: &mut Cpu, _: Si) -> Flow {
    extraction_allowed(cpu)?;
    cpu.set_gr(2, cpu.gr(2) & !0xff | (cpu.psw_key() as u64) << 4);
    Ok(())
}

/// SET PREFIX.
fn spx(cpu: &mut Cpu, i: Si) -> Flow {
    let prefix = cpu.load::<u32>(aligned(cpu, i, 4)?)? as u64 & 0x7fff_e000;
    if !cpu.storage().contains(AbsoluteAddress(prefix), 0x2000) {
        return Err(ProgramCode::Addressing.into());
    }
    cpu.set_prefix(prefix);
    Err(Leave::Serialize)
}

/// STORE PREFIX.
fn stpx(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.store(aligned(cpu, i, 4)?, cpu.prefix() as u32)
}

/// STORE CPU ADDRESS.
fn stap(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.store(aligned(cpu, i, 2)?, cpu.cpu_address())
}

/// STORE CPU ID: version FF as under a hypervisor, the CPU address in the identification, machine type.
fn stidp(cpu: &mut Cpu, i: Si) -> Flow {
    let id = 0xff << 56
        | (cpu.cpu_address() as u64 & 0xff) << 48
        | (cpu.model().machine_type as u64) << 16
        | 0x8000;
    cpu.store(aligned(cpu, i, 8)?, id)
}

/// STORE FACILITY LIST.
fn stfl(cpu: &mut Cpu, _: Si) -> Flow {
    let word = (cpu.facility_list().0[0] >> 32) as u32;
    cpu.store_real(lowcore::STFL_LIST, word)?;
    Ok(())
}

/// STORE FACILITY LIST EXTENDED.
fn stfle(cpu: &mut Cpu, i: Si) -> Flow {
    let at = aligned(cpu, i, 8)?;
    let list = cpu.facility_list().0;
    let needed = list.iter().rposition(|w| *w != 0).map_or(1, |n| n + 1);
    let room = (cpu.gr(0) & 0xff) as usize + 1;
    let bytes: Vec<u8> = list[..needed.min(room)].iter().flat_map(|w| w.to_be_bytes()).collect();
    cpu.store_bytes(at, &bytes)?;
    cpu.set_gr(0, cpu.gr(0) & !0xff | (needed - 1) as u64);
    cpu.cc = if room >= needed { 0 } else { 3 };
    Ok(())
}

/// STORE SYSTEM INFORMATION. Function code 0 answers with the level, which is 3: a virtual machine.
fn stsi(cpu: &mut Cpu, i: Si) -> Flow {
    let (gr0, gr1) = (cpu.gr32(0), cpu.gr32(1));
    let function_code = (gr0 >> 28) as u8;
    if function_code == 0 {
        cpu.set_gr32(0, gr0 & 0x0fff_ffff | 3 << 28);
        cpu.cc = 0;
        return Ok(());
    }
    if gr0 & 0x0fff_ff00 != 0 || gr1 & 0xffff_0000 != 0 {
        return Err(SPECIFICATION);
    }
    if function_code > 3 && (function_code != 15 || !cpu.facility(11)) {
        cpu.cc = 3;
        return Ok(());
    }
    let operand = aligned(cpu, i, 4096)?;
    cpu.exit(Exit::StoreSystemInformation {
        function_code,
        selector1: gr0 as u8,
        selector2: gr1 as u16,
        operand,
    })
}

/// Sets the address-space control from bits 52-55 of an address: primary, secondary, access register,
/// home.
fn set_address_space(cpu: &mut Cpu, i: Si) -> Flow {
    let code = i.address(cpu) >> 8 & 15;
    let dat = cpu.psw_mask() & psw_bits::DAT != 0;
    let secondary = cpu.cr[0] & 1 << (63 - 37) != 0;
    if code > 3 {
        return Err(SPECIFICATION);
    }
    if !dat || code == 1 && !secondary {
        return Err(ProgramCode::SpecialOperation.into());
    }
    if code == 3 && cpu.problem_state() {
        return Err(ProgramCode::PrivilegedOperation.into());
    }
    let control = [0, 2, 1, 3][code as usize];
    cpu.set_psw_mask(cpu.psw_mask() & !psw_bits::AS | control << 46);
    Err(Leave::Serialize)
}

/// SET ADDRESS SPACE CONTROL FAST.
fn sacf(cpu: &mut Cpu, i: Si) -> Flow {
    set_address_space(cpu, i)
}

/// SET ADDRESS SPACE CONTROL.
fn sac(cpu: &mut Cpu, i: Si) -> Flow {
    cpu.serialize();
    set_address_space(cpu, i)
}

/// INSERT ADDRESS SPACE CONTROL.
fn iac(cpu: &mut Cpu, i: Rr) -> Flow {
    if cpu.psw_mask() & psw_bits::DAT == 0 {
        return Err(ProgramCode::SpecialOperation.into());
    }
    extraction_allowed(cpu)?;
    let code = [0, 2, 1, 3][(cpu.psw_mask() >> 46 & 3) as usize];
    cpu.set_gr(i.r1, cpu.gr(i.r1) & !0xff00 | (code as u64) << 8);
    cpu.cc = code;
    Ok(())
}

/// EXTRACT PSW.
fn epsw(cpu: &mut Cpu, i: Rr) -> Flow {
    let mask = cpu.psw_mask();
    cpu.set_gr32(i.r1, (mask >> 32) as u32);
    if i.r2 != 0 {
        cpu.set_gr32(i.r2, mask as u32);
    }
    Ok(())
}

/// EXTRACT PRIMARY ASN.
fn epar(cpu: &mut Cpu, i: Rr) -> Flow {
    if cpu.psw_mask() & psw_bits::DAT == 0 {
        return Err(ProgramCode::SpecialOperation.into());
    }
    extraction_allowed(cpu)?;
    cpu.set_gr32(i.r1, cpu.cr[4] as u32 & 0xffff);
    Ok(())
}

/// EXTRACT SECONDARY ASN.
fn esar(cpu: &mut Cpu, i: Rr) -> Flow {
    if cpu.psw_mask() & psw_bits::DAT == 0 {
        return Err(ProgramCode::SpecialOperation.into());
    }
    extraction_allowed(cpu)?;
    cpu.set_gr32(i.r1, cpu.cr[3] as u32 & 0xffff);
    Ok(())
}

/// SET ADDRESSING MODE: the instruction itself must lie within the new mode.
fn set_addressing_mode(cpu: &mut Cpu, bits: u64, mask: u64) -> Flow {
    if cpu.next_address(0) & !0xfff & !mask != 0 {
        return Err(SPECIFICATION);
    }
    cpu.set_psw_mask(cpu.psw_mask() & !(psw_bits::EA | psw_bits::BA) | bits);
    Err(Leave::Serialize)
}

/// SET ADDRESSING MODE (24).
fn sam24(cpu: &mut Cpu, _: None_) -> Flow {
    set_addressing_mode(cpu, 0, 0xff_ffff)
}

/// SET ADDRESSING MODE (31).
fn sam31(cpu: &mut Cpu, _: None_) -> Flow {
    set_addressing_mode(cpu, psw_bits::BA, 0x7fff_ffff)
}

/// SET ADDRESSING MODE (64).
fn sam64(cpu: &mut Cpu, _: None_) -> Flow {
    set_addressing_mode(cpu, psw_bits::EA | psw_bits::BA, u64::MAX)
}

/// TEST ADDRESSING MODE.
fn tam(cpu: &mut Cpu, _: None_) -> Flow {
    cpu.cc = match cpu.address_mask() {
        0xff_ffff => 0,
        0x7fff_ffff => 1,
        _ => 3,
    };
    Ok(())
}

/// SIGNAL PROCESSOR. The parameter is in R1 or R1+1, whichever is odd.
fn sigp(cpu: &mut Cpu, i: Rs) -> Flow {
    let order = i.amount(cpu) as u8;
    let target = cpu.gr(i.r3) as u16;
    let parameter = cpu.gr(i.r1 | 1);
    cpu.cc = match cpu.signal(target, order, parameter) {
        Response::Accepted => 0,
        Response::Status(status) => {
            cpu.set_gr32(i.r1, status);
            1
        }
        Response::Busy => 2,
        Response::NotOperational => 3,
    };
    Err(Leave::Serialize)
}

/// DIAGNOSE.
fn diag(cpu: &mut Cpu, i: Rs) -> Flow {
    let code = i.amount(cpu) as u16;
    cpu.exit(Exit::Diagnose { code, r1: i.r1, r3: i.r3 })
}

/// SERVICE CALL.
fn servc(cpu: &mut Cpu, i: Rr) -> Flow {
    let (command, sccb) = (cpu.gr32(i.r1), RealAddress(cpu.trim(cpu.gr(i.r2))));
    cpu.exit(Exit::ServiceCall { command, sccb })
}

/// LOAD PROGRAM PARAMETER: the parameter goes to measurement data, of which there are none.
fn lpp(cpu: &mut Cpu, i: Si) -> Flow {
    let at = aligned(cpu, i, 8)?;
    cpu.load::<u64>(at).map(|_| ())
}

/// PROCESS ADJUNCT-PROCESSOR QUEUE.
fn pqap(cpu: &mut Cpu, _: Rr) -> Flow {
    cpu.exit(Exit::Pqap)
}

/// ENQUEUE ADJUNCT-PROCESSOR QUEUE.
fn nqap(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.exit(Exit::Nqap { r1: i.r1, r2: i.r2 })
}

/// DEQUEUE ADJUNCT-PROCESSOR QUEUE.
fn dqap(cpu: &mut Cpu, i: Rr) -> Flow {
    cpu.exit(Exit::Dqap { r1: i.r1, r2: i.r2 })
}

/// The exit of an instruction that names a subchannel in general register 1.
fn subchannel(cpu: &mut Cpu, i: Si, operation: SubchannelOperation) -> Flow {
    let subsystem_id = cpu.gr32(1);
    let operand = i.operand(cpu);
    cpu.exit(Exit::Subchannel { operation, subsystem_id, operand })
}

/// START SUBCHANNEL.
fn ssch(cpu: &mut Cpu, i: Si) -> Flow {
    subchannel(cpu, i, SubchannelOperation::Start)
}

/// TEST SUBCHANNEL.
fn tsch(cpu: &mut Cpu, i: Si) -> Flow {
    subchannel(cpu, i, SubchannelOperation::Test)
}

/// STORE SUBCHANNEL.
fn stsch(cpu: &mut Cpu, i: Si) -> Flow {
    subchannel(cpu, i, SubchannelOperation::Store)
}

/// MODIFY SUBCHANNEL.
fn msch(cpu: &mut Cpu, i: Si) -> Flow {
    subchannel(cpu, i, SubchannelOperation::Modify)
}

/// HALT SUBCHANNEL.
fn hsch(cpu: &mut Cpu, i: Si) -> Flow {
    subchannel(cpu, i, SubchannelOperation::Halt)
}

/// CLEAR SUBCHANNEL.
fn csch(cpu: &mut Cpu, i: Si) -> Flow {
    subchannel(cpu, i, SubchannelOperation::Clear)
}

/// RESUME SUBCHANNEL.
fn rsch(cpu: &mut Cpu, i: Si) -> Flow {
    subchannel(cpu, i, SubchannelOperation::Resume)
}

/// CANCEL SUBCHANNEL.
fn xsch(cpu: &mut Cpu, i: Si) -> Flow {
    subchannel(cpu, i, SubchannelOperation::Cancel)
}

/// STORE CHANNEL REPORT WORD.
fn stcrw(cpu: &mut Cpu, i: Si) -> Flow {
    let operand = i.operand(cpu);
    cpu.exit(Exit::StoreChannelReportWord(operand))
}

/// TEST PENDING INTERRUPTION.
fn tpi(cpu: &mut Cpu, i: Si) -> Flow {
    let operand = i.operand(cpu);
    cpu.exit(Exit::TestPendingInterruption(operand))
}

/// CHANNEL SUBSYSTEM CALL.
fn chsc(cpu: &mut Cpu, i: Rr) -> Flow {
    let operand = cpu.register_operand(i.r1);
    cpu.exit(Exit::ChannelSubsystemCall(operand))
}

/// SET CHANNEL MONITOR, SET ADDRESS LIMIT: settings of a channel subsystem that measures nothing and has
/// no subchannel to limit. The condition code stays.
fn channel_setting(_: &mut Cpu, _: Si) -> Flow {
    Ok(())
}

/// RESET CHANNEL PATH.
fn other_channel(cpu: &mut Cpu, _: Si) -> Flow {
    cpu.exit(Exit::OtherChannelInstruction)
}
