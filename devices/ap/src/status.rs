//! The words in which AP instructions answer: the status word and TAPQ's description of a queue.

use crate::card::{CardFacts, Mode};

/// Response codes, bits 8-15 of the status word (Linux `drivers/s390/crypto/ap_bus.h`). Those that this machine answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ResponseCode {
    /// 00: done, or the queue is operational.
    #[default]
    Normal = 0x00,
    /// 01: the APQN is not in the configuration.
    NotAvailable = 0x01,
    /// 02: a reset or zeroize has not ended yet.
    ResetInProgress = 0x02,
    /// 03: the adapter is deconfigured.
    Deconfigured = 0x03,
    /// 04: the adapter is check-stopped.
    CheckStopped = 0x04,
    /// 05: try again later.
    Busy = 0x05,
    /// 06: the notification byte lies nowhere in storage.
    InvalidAddress = 0x06,
    /// 07: interruptions are already in the state asked for.
    OtherwiseChanged = 0x07,
    /// 0A: the queue's state is being changed; only as an injected [`Fault`](crate::Fault).
    StateChangeInProgress = 0x0a,
    /// 10: for NQAP the queue is full, for DQAP no reply is waiting.
    FullOrNoReply = 0x10,
    /// 11: the index of a part lies behind what was transferred so far.
    IndexTooBig = 0x11,
    /// 13: a part that continues a message of which there was no first part.
    NoFirstPart = 0x13,
    /// 15: the message is longer than the adapter takes.
    MessageTooBig = 0x15,
    /// 16: a special command on a machine without the facility.
    FacilityNotInstalled = 0x16,
    /// 35: an association's secret is not unique; only as an injected [`Fault`](crate::Fault).
    SecretNotUnique = 0x35,
    /// 36: an association failed; only as an injected [`Fault`](crate::Fault).
    AssociationFailed = 0x36,
}

/// The AP queue status word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Bit 0: neither a request nor a reply is on the queue.
    pub queue_empty: bool,
    /// Bit 1: a reply can be dequeued.
    pub replies_waiting: bool,
    /// Bit 2: no further request fits.
    pub queue_full: bool,
    /// Bit 7: interruptions are enabled.
    pub interruptions_enabled: bool,
    /// Bits 8-15.
    pub response_code: ResponseCode,
}

impl Status {
    /// A status with nothing but a response code.
    pub const fn code(response_code: ResponseCode) -> Self {
        Self {
            queue_empty: false,
            replies_waiting: false,
            queue_full: false,
            interruptions_enabled: false,
            response_code,
        }
    }

    /// This status with another response code.
    #[must_use]
    pub const fn with(self, response_code: ResponseCode) -> Self {
        Self { response_code, ..self }
    }

    /// The word that the instructions put into bits 32-63 of general register 1.
    pub const fn word(self) -> u32 {
        (self.queue_empty as u32) << 31
            | (self.replies_waiting as u32) << 30
            | (self.queue_full as u32) << 29
            | (self.interruptions_enabled as u32) << 24
            | (self.response_code as u32) << 16
    }

    /// The condition code that goes with it: 0 with response code 00, else 3.
    pub const fn condition_code(self) -> u8 {
        if matches!(self.response_code, ResponseCode::Normal) { 0 } else { 3 }
    }
}

/// What TAPQ answers in general register 2 about a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueInformation {
    /// Bit 0: special commands are possible.
    pub apsc: bool,
    /// Bit 1: modular exponentiation with 4096 bits.
    pub mex4k: bool,
    /// Bit 2: Chinese-remainder form with 4096 bits.
    pub crt4k: bool,
    /// Bits 3-5: CCA coprocessor, accelerator, EP11 coprocessor.
    pub mode: Mode,
    /// Bit 6: extended addressing.
    pub apxa: bool,
    /// Bits 32-39: adapter type, 10 (CEX4) to 14 (CEX8).
    pub hardware_type: u8,
    /// Bits 40-47: highest domain number of the machine.
    pub highest_domain: u8,
    /// Longest message in bytes; bits 52-55 hold it in units of 4096.
    pub max_message: usize,
    /// Queue depth in messages, 1 to 16; bits 60-63 hold it less one.
    pub depth: u8,
}

impl QueueInformation {
    /// The description of a queue on a card.
    pub fn new(facts: &CardFacts, apsc: bool, apxa: bool, highest_domain: u8) -> Self {
        Self {
            apsc,
            mex4k: facts.mex4k,
            crt4k: facts.crt4k,
            mode: facts.mode,
            apxa,
            hardware_type: facts.hardware_type,
            highest_domain,
            max_message: facts.max_message,
            depth: facts.queue_depth,
        }
    }

    /// The register as TAPQ with the T bit fills it.
    pub fn register(&self) -> u64 {
        let bit = |on: bool, n: u32| u64::from(on) << (63 - n);
        bit(self.apsc, 0)
            | bit(self.mex4k, 1)
            | bit(self.crt4k, 2)
            | u64::from(mode_bits(self.mode)) << 58
            | bit(self.apxa, 6)
            | u64::from(self.hardware_type) << 24
            | u64::from(self.highest_domain) << 16
            | (self.max_message as u64 / 4096).min(15) << 8
            | self.depth_bits()
    }

    /// The register as TAPQ without the T bit fills it: the depth only. A program that knows no facility 15 learns no type
    /// and makes no device of the queue.
    pub fn register_without_facilities(&self) -> u64 {
        self.depth_bits()
    }

    fn depth_bits(&self) -> u64 {
        u64::from(self.depth.saturating_sub(1)) & 0xf
    }
}

/// The three mode bits D, A, X that TAPQ (bits 3-5 of general register 2) and QACT use.
pub(crate) fn mode_bits(mode: Mode) -> u8 {
    match mode {
        Mode::Cca => 0b100,
        Mode::Accelerator => 0b010,
        Mode::Ep11 => 0b001,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_word() {
        let all = Status {
            queue_empty: true,
            replies_waiting: true,
            queue_full: true,
            interruptions_enabled: true,
            response_code: ResponseCode::FullOrNoReply,
        };
        assert_eq!(all.word(), 0xe110_0000);
        assert_eq!(Status::code(ResponseCode::NotAvailable).word(), 0x0001_0000);
        assert_eq!(Status { queue_empty: true, ..Status::default() }.word(), 0x8000_0000);
        assert_eq!(Status { replies_waiting: true, ..Status::default() }.word(), 0x4000_0000);
        assert_eq!(Status { queue_full: true, ..Status::default() }.word(), 0x2000_0000);
        assert_eq!((all.condition_code(), all.with(ResponseCode::Normal).condition_code()), (3, 0));
    }

    #[test]
    fn queue_information() {
        let base = QueueInformation {
            apsc: true,
            mex4k: true,
            crt4k: true,
            mode: Mode::Cca,
            apxa: true,
            hardware_type: 14,
            highest_domain: 0x54,
            max_message: 12 * 1024,
            depth: 8,
        };
        for (information, register) in [
            (base, 0xf200_0000_0e54_0307),
            (QueueInformation { mode: Mode::Accelerator, ..base }, 0xea00_0000_0e54_0307),
            (QueueInformation { mode: Mode::Ep11, apxa: false, ..base }, 0xe400_0000_0e54_0307),
            (QueueInformation { apsc: false, mex4k: false, crt4k: false, ..base }, 0x1200_0000_0e54_0307),
            (QueueInformation { max_message: 1 << 20, depth: 16, ..base }, 0xf200_0000_0e54_0f0f),
        ] {
            assert_eq!(information.register(), register, "{information:?}");
        }
        assert_eq!(base.register_without_facilities(), 7);
    }
}
