//! The channel subsystem of a machine without subchannels: the subchannel instructions with their
//! checks, channel reports, CHANNEL SUBSYSTEM CALL, TEST PENDING INTERRUPTION.
//!
//! * [`Css`]: answers the I/O instructions and tells the guest that its AP configuration has changed.
//! * [`Config`]: the characteristics offered.
//! * [`spec`]: the layouts that subchannels will need too.
//!
//! Invariants: a report or event leaves the queue only after it has been stored, so that an access
//! exception loses nothing; request blocks are copied once; everything queued is bounded, and what was
//! lost is announced by the overflow bit.
//!
//! Deliberately absent until there are devices: subchannels, channel paths, channel programs, several
//! channel subsystems and subchannel sets.
#![forbid(unsafe_code)]

mod chsc;
mod report;
pub mod spec;

use std::sync::{Mutex, MutexGuard, PoisonError};

use machine::{Exit, Floating, Operand, Outcome, Post, Storage, SubchannelOperation, Vcpu};
use zarch::{PAGE_SIZE, ProgramCode, ProgramInterruption, RealAddress, lowcore};

use report::Reports;
use spec::{ChannelReportWord, IRB_LENGTH, SubsystemId, orb, schib};

/// What the channel subsystem says about itself: bit numbers in the answer of CHSC *store
/// channel-subsystem characteristics*. Offer only what exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// General characteristics, bits 0-16319 (Linux: `css_chars.h`).
    pub general: Vec<u16>,
    /// CHSC characteristics, bits 0-16255.
    pub chsc: Vec<u16>,
}

/// The channel subsystem of one machine.
#[derive(Debug, Default)]
pub struct Css {
    // Configuration.
    config: Config,
    // Guest-visible state.
    reports: Mutex<Reports>,
}

impl Css {
    /// A channel subsystem without subchannels.
    pub fn new(config: Config) -> Self {
        Self { config, reports: Mutex::default() }
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the guest that its AP configuration has changed: a channel report leads it to the event,
    /// upon which Linux scans its AP bus at once. Changes that the guest has not read yet are one.
    pub fn ap_config_changed(&self, post: &dyn Post) {
        let announce = self.reports().ap_changed();
        if announce {
            post.post(Floating::ChannelReport);
        }
    }

    /// Makes a channel report pending.
    pub fn report(&self, word: ChannelReportWord, post: &dyn Post) {
        let announce = self.reports().push(word);
        if announce {
            post.post(Floating::ChannelReport);
        }
    }

    /// Subsystem reset: reports and events are gone.
    pub fn reset(&self) {
        *self.reports() = Reports::default();
    }

    /// Answers `exit` if it is an I/O instruction; `None` for every other exit.
    pub fn execute(
        &self,
        vcpu: &mut dyn Vcpu,
        exit: &Exit,
        post: &dyn Post,
        storage: &Storage,
    ) -> Option<Outcome> {
        let result = match *exit {
            Exit::Subchannel { operation, subsystem_id, operand } => {
                subchannel(vcpu, operation, SubsystemId(subsystem_id), operand)
            }
            Exit::StoreChannelReportWord(operand) => self.stcrw(vcpu, operand),
            Exit::TestPendingInterruption(operand) => tpi(vcpu, operand, post, storage),
            Exit::ChannelSubsystemCall(operand) => self.chsc(vcpu, operand),
            Exit::OtherChannelInstruction => Ok(3),
            _ => return None,
        };
        Some(match result {
            Ok(cc) => Outcome::ConditionCode(cc),
            Err(interruption) => Outcome::Program(interruption),
        })
    }

    /// STORE CHANNEL REPORT WORD. Condition code 0: stored; 1: none was pending, zeros stored.
    fn stcrw(&self, vcpu: &mut dyn Vcpu, operand: Operand) -> Result<u8, ProgramInterruption> {
        word_aligned(operand)?;
        // Held across the store, so that two CPUs take two reports.
        let mut reports = self.reports();
        let word = reports.peek();
        vcpu.store(operand, &word.map_or(0, |word| word.0).to_be_bytes())?;
        if word.is_some() {
            reports.commit();
        }
        Ok(if word.is_some() { 0 } else { 1 })
    }

    /// CHANNEL SUBSYSTEM CALL. Condition code 0: the response block tells how it went.
    fn chsc(&self, vcpu: &mut dyn Vcpu, operand: Operand) -> Result<u8, ProgramInterruption> {
        if !operand.address.is_multiple_of(PAGE_SIZE) {
            return Err(ProgramCode::Specification.into());
        }
        let mut request = chsc::Request([0; spec::chsc::REQUEST_MIN]);
        vcpu.fetch(operand, &mut request.0)?;
        let length = request.length().ok_or(ProgramCode::Operand)?;
        let mut reports = self.reports();
        let (response, takes_event) = chsc::perform(&self.config, reports.event_pending(), &request);
        vcpu.store(operand.add(length as u64), &response)?;
        if takes_event {
            reports.commit_event();
        }
        Ok(0)
    }
}

fn word_aligned(operand: Operand) -> Result<(), ProgramInterruption> {
    if operand.address.is_multiple_of(4) { Ok(()) } else { Err(ProgramCode::Specification.into()) }
}

/// The instructions that name a subchannel. Alignment comes first, then access to the operand, then
/// what the operand and the subsystem-identification word say, then that there is no such subchannel
/// (condition code 3: not operational).
fn subchannel(
    vcpu: &mut dyn Vcpu,
    operation: SubchannelOperation,
    id: SubsystemId,
    operand: Operand,
) -> Result<u8, ProgramInterruption> {
    use SubchannelOperation::*;
    let operand_is_valid = match operation {
        Start => {
            word_aligned(operand)?;
            let mut block = [0; orb::LENGTH];
            vcpu.fetch(operand, &mut block)?;
            let words = [0, 4, 8]
                .map(|at| u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]));
            if words[1] & orb::EXTENDED != 0 {
                let mut extension = [0; orb::LENGTH_EXTENDED - orb::LENGTH];
                vcpu.fetch(operand.add(orb::LENGTH as u64), &mut extension)?;
            }
            orb::is_valid(words)
        }
        Modify => {
            word_aligned(operand)?;
            let mut block = [0; schib::LENGTH];
            vcpu.fetch(operand, &mut block)?;
            schib::is_valid(&block)
        }
        Store | Test => {
            word_aligned(operand)?;
            let length = if operation == Store { schib::LENGTH as u64 } else { IRB_LENGTH };
            vcpu.probe_store(operand, length)?;
            true
        }
        Halt | Clear | Resume | Cancel => true,
    };
    if operand_is_valid && id.is_valid() { Ok(3) } else { Err(ProgramCode::Operand.into()) }
}

/// TEST PENDING INTERRUPTION. Condition code 1: an interruption of a subclass that control register 6
/// enables was pending, and its code has been stored: two words at the operand, or three in the
/// lowcore (by real address, without protection) when the operand's address is zero. 0: none was.
fn tpi(
    vcpu: &mut dyn Vcpu,
    operand: Operand,
    post: &dyn Post,
    storage: &Storage,
) -> Result<u8, ProgramInterruption> {
    word_aligned(operand)?;
    let isc_mask = (vcpu.state().cr[6] >> 24) as u8;
    let Some(interruption) = post.take_io(isc_mask) else { return Ok(0) };
    let mut code = [0; 12];
    for (bytes, word) in code.chunks_mut(4).zip([
        interruption.subsystem_id,
        interruption.parameter,
        interruption.identification,
    ]) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    let stored = if operand.address == 0 {
        let at = vcpu.absolute(RealAddress(lowcore::SUBSYSTEM_ID));
        storage.write(at, &code).map_err(|_| ProgramCode::Addressing.into())
    } else {
        vcpu.store(operand, &code[..8])
    };
    // An instruction that does not complete takes nothing.
    stored.inspect_err(|_| post.post(Floating::Io(interruption)))?;
    Ok(1)
}

#[cfg(test)]
mod tests;
