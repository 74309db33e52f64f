//! Layouts of the channel subsystem: subsystem-identification word, ORB, SCHIB, channel-report word,
//! CHSC blocks. Offsets are in bytes, bits are numbered from the left.
//!
//! Source: *Principles of Operation*, chapters 14 to 17; for CHSC, which is not in it, what Linux
//! (`drivers/s390/cio/chsc.[ch]`) relies on.

/// The subsystem-identification word in general register 1 (chapter 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubsystemId(pub u32);

impl SubsystemId {
    /// Whether the word is valid: bit 15 is one; the channel-subsystem identification (bits 0-7 with M,
    /// bit 12) and the subchannel set (bits 13-14) are zero, because neither facility can be enabled
    /// here; bits 8-11 are zero.
    pub const fn is_valid(self) -> bool {
        self.0 >> 16 == 1
    }

    /// Bits 16-31: the subchannel number.
    pub const fn number(self) -> u16 {
        self.0 as u16
    }
}

/// Operation-request block (chapter 15).
pub mod orb {
    /// Length without the extension.
    pub const LENGTH: usize = 12;
    /// Length with the extension (bit 31 of word 1).
    pub const LENGTH_EXTENDED: usize = 32;

    /// Bit 31 of word 1: the extension is there.
    pub const EXTENDED: u32 = 1;
    /// Bits of word 1 that must be zero: 26-30 are reserved; transport mode (13) and
    /// modified indirect data addresses (25) are not offered.
    pub const INVALID: u32 = 1 << 18 | 1 << 6 | 0x3e;

    /// Whether the three basic words are acceptable to START SUBCHANNEL: also, bit 0 of the
    /// channel-program address is zero.
    pub fn is_valid(words: [u32; 3]) -> bool {
        words[1] & INVALID == 0 && words[2] >> 31 == 0
    }
}

/// Subchannel-information block (chapter 15): path-management control word, SCSW, model-dependent area.
pub mod schib {
    /// Length of the block.
    pub const LENGTH: usize = 52;
    /// Reserved bits 5-7 of word 1.
    pub const WORD1_RESERVED: u32 = 0x0700_0000;
    /// Word 6: reserved bits, and the extended measurement word (30), which is not offered.
    pub const WORD6_INVALID: u32 = 0xff1f_fffa;
    /// Word 6, bit 29: measurement-block format 1; the address in words 10 and 11 is then on 64 bytes.
    pub const WORD6_FORMAT1: u32 = 4;

    /// Whether the block is acceptable to MODIFY SUBCHANNEL.
    pub fn is_valid(block: &[u8; LENGTH]) -> bool {
        let word = |n: usize| {
            u32::from_be_bytes([block[4 * n], block[4 * n + 1], block[4 * n + 2], block[4 * n + 3]])
        };
        word(1) & WORD1_RESERVED == 0
            && word(6) & WORD6_INVALID == 0
            && (word(6) & WORD6_FORMAT1 == 0 || word(11) & 0x3f == 0)
    }
}

/// Length of the interruption-response block without the extended-measurement word.
pub const IRB_LENGTH: u64 = 64;

/// Channel-report word (chapter 17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelReportWord(pub u32);

impl ChannelReportWord {
    /// Bit 2 (R): reports before this one, or after it, were lost.
    pub const OVERFLOW: u32 = 1 << 29;
    /// Reporting-source code: the channel subsystem itself; CHSC(SEI) tells more.
    pub const CHANNEL_SUBSYSTEM: u8 = 0xb;

    /// An unsolicited, unchained report: source code (bits 4-7), error-recovery code (10-15) and the
    /// identification of the source (16-31).
    pub const fn new(source: u8, recovery: u8, id: u16) -> Self {
        Self((source as u32 & 0xf) << 24 | (recovery as u32 & 0x3f) << 16 | id as u32)
    }

    /// The report that event information is pending (recovery code 0).
    pub const EVENT: Self = Self::new(Self::CHANNEL_SUBSYSTEM, 0, 0);

    /// Whether reports were lost.
    pub const fn overflow(self) -> bool {
        self.0 & Self::OVERFLOW != 0
    }
}

/// CHANNEL SUBSYSTEM CALL: a request block at the start of a page (length and command, 2 bytes each,
/// then the command's fields), the response block behind it (length and code).
pub mod chsc {
    /// Shortest request block; every command here has its fields in that much.
    pub const REQUEST_MIN: usize = 16;
    /// Longest request block: the shortest response has room behind it.
    pub const REQUEST_MAX: usize = 4088;
    /// Length of a response block without data: length, code, a reserved word.
    pub const RESPONSE_MIN: usize = 8;

    /// Store subchannel description.
    pub const STORE_SUBCHANNEL_DESCRIPTION: u16 = 0x0004;
    /// Store event information.
    pub const STORE_EVENT_INFORMATION: u16 = 0x000e;
    /// Store channel-subsystem characteristics.
    pub const STORE_CHARACTERISTICS: u16 = 0x0010;
    /// Set domain attributes: enable facilities.
    pub const SET_DOMAIN_ATTRIBUTES: u16 = 0x0031;

    /// Length of a request to set domain attributes.
    pub const SET_DOMAIN_ATTRIBUTES_LENGTH: usize = 0x400;
    /// Bytes of general and of CHSC characteristics in the answer to *store characteristics*.
    pub const CHARACTERISTICS: [usize; 2] = [2040, 2032];
    /// Length of one subchannel description.
    pub const DESCRIPTION: usize = 32;

    /// Response codes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u16)]
    pub enum Response {
        /// Done.
        Done = 0x0001,
        /// A field of the request block is wrong.
        InvalidField = 0x0003,
        /// Unknown command.
        Unknown = 0x0004,
        /// No event information is pending.
        NoEvent = 0x0005,
        /// Unknown format.
        InvalidFormat = 0x0007,
        /// No such channel subsystem.
        InvalidSubsystem = 0x0008,
        /// The facility to be enabled is not there.
        NotProvided = 0x0101,
    }

    /// Reporting source of an event: the AP configuration.
    pub const SOURCE_AP: u8 = 5;
    /// Content code of an event: the AP configuration has changed.
    pub const CONTENT_AP_CHANGED: u8 = 3;
    /// Length of an event's response block: header and fixed part of notification type 0.
    pub const EVENT_LENGTH: usize = 24;
}
