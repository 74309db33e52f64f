//! DIAGNOSE as hypervisors define it (Linux, `Documentation/virt/kvm/s390/s390-diag.rst` and
//! `arch/s390/include/asm/diag.h`). Undefined codes and subcodes are specification exceptions.

use machine::{Outcome, Storage, Vcpu};
use zarch::{AbsoluteAddress, PAGE_SIZE, ProgramCode, ProgramInterruption};

use crate::ipl::{AREA, ParameterBlock};
use crate::watchdog::Watchdog;

/// DIAGNOSE 308 response codes, in the odd register.
const OK: u64 = 0x0001;
const NO_BLOCK: u64 = 0x0102;
const INVALID_BLOCK: u64 = 0x0402;

/// Answer of DIAGNOSE 500 to a notification for a subchannel without a virtio device.
const NO_DEVICE: u64 = -22i64 as u64;

/// A reset that DIAGNOSE 308, or the watchdog, asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Subcode 0: clear reset of every CPU, storage stays, PSW from location 0.
    ModifiedClear,
    /// Subcode 1: CPU resets, storage stays, PSW from location 0.
    LoadNormal,
    /// Subcode 3: storage is cleared and the guest loaded anew.
    LoadClear,
    /// Subcode 4: the guest is loaded anew over what is in storage.
    LoadKeep,
}

/// What DIAGNOSE comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The instruction ends so.
    Outcome(Outcome),
    /// The machine is reset.
    Reset(Reset),
}

/// What DIAGNOSE may reach.
pub struct Context<'a> {
    /// Guest storage.
    pub storage: &'a Storage,
    /// The block of DIAGNOSE 308.
    pub block: &'a mut Option<ParameterBlock>,
    /// The watchdog of DIAGNOSE 288.
    pub watchdog: &'a Watchdog,
}

const SPECIFICATION: ProgramInterruption = ProgramInterruption::new(ProgramCode::Specification);
const ADDRESSING: ProgramInterruption = ProgramInterruption::new(ProgramCode::Addressing);

/// Executes DIAGNOSE `code` with the register fields `r1` and `r3`.
pub fn diagnose(cpu: &mut dyn Vcpu, code: u16, r1: u8, r3: u8, context: Context<'_>) -> Answer {
    let resumes = |result: Result<(), ProgramInterruption>| {
        Answer::Outcome(result.map_or_else(Outcome::Program, |()| Outcome::Resume))
    };
    match code {
        // Time slice end; and time slice end directed to the CPU in R1.
        0x44 | 0x9c => {
            std::thread::yield_now();
            resumes(Ok(()))
        }
        0x288 => resumes(watchdog(cpu, r1, r3, context.watchdog)),
        0x308 => match ipl(cpu, r1, r3, context) {
            Ok(Some(reset)) => Answer::Reset(reset),
            other => resumes(other.map(|_| ())),
        },
        0x500 => resumes(hypercall(cpu, context.storage)),
        _ => resumes(Err(SPECIFICATION)),
    }
}

/// DIAGNOSE 288: function, seconds in the pair at R1, action in R3.
fn watchdog(cpu: &dyn Vcpu, r1: u8, r3: u8, watchdog: &Watchdog) -> Result<(), ProgramInterruption> {
    if !r1.is_multiple_of(2) {
        return Err(SPECIFICATION);
    }
    watchdog.function(cpu.gr(r1), cpu.gr(r1 + 1), cpu.gr(r3)).map_err(|_| SPECIFICATION)
}

/// DIAGNOSE 308: the area's absolute address and the response code in the pair at R1, subcode in R3.
fn ipl(
    cpu: &mut dyn Vcpu,
    r1: u8,
    r3: u8,
    context: Context<'_>,
) -> Result<Option<Reset>, ProgramInterruption> {
    let area = |cpu: &dyn Vcpu| {
        let at = AbsoluteAddress(cpu.gr(r1));
        if !r1.is_multiple_of(2) || !at.0.is_multiple_of(PAGE_SIZE) {
            return Err(SPECIFICATION);
        }
        if context.storage.contains(at, AREA as u64) { Ok(at) } else { Err(ADDRESSING) }
    };
    match cpu.gr(r3) {
        0 => Ok(Some(Reset::ModifiedClear)),
        1 => Ok(Some(Reset::LoadNormal)),
        3 => Ok(Some(Reset::LoadClear)),
        4 => Ok(Some(Reset::LoadKeep)),
        5 => {
            let copy = context.storage.read_array::<AREA>(area(cpu)?).map_err(|_| ADDRESSING)?;
            let block = ParameterBlock::parse(&copy);
            cpu.set_gr(r1 + 1, if block.is_some() { OK } else { INVALID_BLOCK });
            if block.is_some() {
                *context.block = block;
            }
            Ok(None)
        }
        6 => {
            let at = area(cpu)?;
            let code = match context.block {
                Some(block) => {
                    context.storage.write(at, block.bytes()).map_err(|_| ADDRESSING)?;
                    OK
                }
                None => NO_BLOCK,
            };
            cpu.set_gr(r1 + 1, code);
            Ok(None)
        }
        _ => Err(SPECIFICATION),
    }
}

/// DIAGNOSE 500: subcode in GR 1, result in GR 2.
fn hypercall(cpu: &mut dyn Vcpu, storage: &Storage) -> Result<(), ProgramInterruption> {
    let result = match cpu.gr(1) {
        // Notifications, of the older transport and of virtio-ccw.
        0 | 3 => NO_DEVICE,
        // Storage limit: the highest address.
        4 => storage.size() - 1,
        _ => return Err(SPECIFICATION),
    };
    cpu.set_gr(2, result);
    Ok(())
}
