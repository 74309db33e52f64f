//! Register and block layouts of the SCLP: command words, response codes, the SCCB, event buffers.
//!
//! There is no public manual; the facts are those that Linux (`drivers/s390/char/sclp*.[ch]`,
//! `arch/s390/include/asm/sclp.h`) relies on. Offsets are in bytes.

use machine::Storage;
use zarch::{AbsoluteAddress, PAGE_SIZE, ProgramCode, ProgramInterruption};

/// The part of a command word that names the command; the rest (bits 16-23) names a resource.
pub const COMMAND: u32 = 0xffff_00ff;
/// READ SCP INFO.
pub const READ_SCP_INFO: u32 = 0x0002_0001;
/// READ SCP INFO, forced: the same answer.
pub const READ_SCP_INFO_FORCED: u32 = 0x0012_0001;
/// READ CPU INFO.
pub const READ_CPU_INFO: u32 = 0x0001_0001;
/// DECONFIGURE AP; the resource is the APID.
pub const DECONFIGURE_AP: u32 = 0x001e_0001;
/// CONFIGURE AP; the resource is the APID.
pub const CONFIGURE_AP: u32 = 0x001f_0001;
/// WRITE EVENT DATA.
pub const WRITE_EVENT_DATA: u32 = 0x0076_0005;
/// READ EVENT DATA.
pub const READ_EVENT_DATA: u32 = 0x0077_0005;
/// WRITE EVENT MASK.
pub const WRITE_EVENT_MASK: u32 = 0x0078_0005;

/// What the SCLP answers in bytes 6-7 of the SCCB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Response {
    /// Information read.
    Read = 0x0010,
    /// Done.
    Done = 0x0020,
    /// The SCCB crosses a page boundary.
    Boundary = 0x0100,
    /// Nothing had to be done.
    NoAction = 0x0120,
    /// Unknown command.
    InvalidCommand = 0x01f0,
    /// The SCCB is too short for the command or its answer.
    TooShort = 0x0300,
    /// The resource is in a state that does not allow it.
    ImproperState = 0x05f0,
    /// No such resource.
    UnknownResource = 0x09f0,
    /// Unknown function code, or an event type that the SCLP does not receive.
    InvalidFunction = 0x40f0,
    /// No event buffers are pending.
    NoEvents = 0x60f0,
    /// The selection mask has a bit that the program's receive mask has not.
    InvalidSelection = 0x70f0,
    /// Lengths inside an event buffer contradict each other.
    InconsistentLengths = 0x72f0,
    /// An event buffer is shorter than its header or longer than the SCCB.
    Syntax = 0x73f0,
    /// Event-mask length 0 or above 1021.
    InvalidMaskLength = 0x74f0,
}

/// Facilities word of READ SCP INFO, bit 4: READ CPU INFO.
pub const FACILITY_CPU_INFO: u64 = 1 << 59;
/// Facilities word of READ SCP INFO, bit 31: CONFIGURE AP and DECONFIGURE AP.
pub const FACILITY_AP_CONFIGURE: u64 = 1 << 32;

/// Offset of the first CPU entry in the answer to READ SCP INFO.
pub const SCP_INFO_CPUS: usize = 128;
/// Offset of the first CPU entry in the answer to READ CPU INFO.
pub const CPU_INFO_CPUS: usize = 16;
/// Length of a CPU entry.
pub const CPU_ENTRY: usize = 16;

/// Event types.
pub mod event {
    /// Operator command: line-mode input.
    pub const OPERATOR_COMMAND: u8 = 0x01;
    /// Message: line-mode output.
    pub const MESSAGE: u8 = 0x02;
    /// State change of the event facility itself.
    pub const STATE_CHANGE: u8 = 0x08;
    /// Priority message: line-mode output.
    pub const PRIORITY_MESSAGE: u8 = 0x09;
    /// VT220 data in both directions.
    pub const VT220: u8 = 0x1a;
    /// Signal quiesce: the program is asked to shut down.
    pub const QUIESCE: u8 = 0x1d;

    /// The bit of a type in a 64-bit event mask: type 1 is bit 0, the leftmost.
    pub const fn mask(event: u8) -> u64 {
        1 << (64 - event as u32)
    }
}

/// Length of an event buffer's header: length (2), type, flags, reserved (2).
pub const EVENT_HEADER: usize = 6;
/// Flag of an event buffer (byte 3): accepted.
pub const EVENT_ACCEPTED: u8 = 0x80;
/// Largest length of an event mask in bytes.
pub const MASK_LENGTH_MAX: usize = 1021;

/// Length of the SCCB header: length (2), function code, control mask (3), response code (2).
pub const HEADER: usize = 8;

/// A private copy of a guest's SCCB, as far as its page reaches.
pub struct Sccb {
    bytes: [u8; PAGE_SIZE as usize],
    room: usize,
}

impl Sccb {
    /// Copies the SCCB at `at`, once. Everything is checked and answered in the copy.
    pub fn fetch(storage: &Storage, at: AbsoluteAddress) -> Result<Self, ProgramInterruption> {
        let mut bytes = [0; PAGE_SIZE as usize];
        let room = (PAGE_SIZE - at.0 % PAGE_SIZE) as usize;
        storage.read(at, &mut bytes[..room]).map_err(|_| ProgramCode::Addressing)?;
        Ok(Self { bytes, room })
    }

    /// The length that the program gave, 0 to 65535.
    pub fn length(&self) -> usize {
        self.u16(0) as usize
    }

    /// Replaces the length, as a variable-length response does.
    pub fn set_length(&mut self, length: usize) {
        self.set_u16(0, length as u16);
    }

    /// Whether the SCCB ends within the page that it begins in.
    pub fn fits_page(&self) -> bool {
        self.length() <= self.room
    }

    /// The function code.
    pub fn function(&self) -> u8 {
        self.bytes[2]
    }

    /// Takes the bit of the control mask away that allows a response of another length; true if it was one.
    pub fn take_variable_length(&mut self) -> bool {
        let set = self.bytes[5] & 0x80 != 0;
        self.bytes[5] &= 0x7f;
        set
    }

    /// Stores the response code.
    pub fn set_response(&mut self, response: Response) {
        self.set_u16(6, response as u16);
    }

    /// What goes back to storage: the SCCB, or its header alone when its length was not acceptable.
    pub fn stored(&self) -> &[u8] {
        &self.bytes[..if self.fits_page() { self.length() } else { HEADER }]
    }

    /// The SCCB with its header; the length must have been checked.
    pub fn whole(&self) -> &[u8] {
        &self.bytes[..self.length()]
    }

    /// The SCCB with its header; the length must have been checked.
    pub fn whole_mut(&mut self) -> &mut [u8] {
        let length = self.length();
        &mut self.bytes[..length]
    }

    /// Sets everything behind the header to zero.
    pub fn clear_data(&mut self) {
        self.whole_mut()[HEADER..].fill(0);
    }

    /// The halfword at `offset`.
    pub fn u16(&self, offset: usize) -> u16 {
        u16::from_be_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    /// Stores a halfword.
    pub fn set_u16(&mut self, offset: usize, value: u16) {
        self.set(offset, &value.to_be_bytes());
    }

    /// Stores `bytes` at `offset`.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}
