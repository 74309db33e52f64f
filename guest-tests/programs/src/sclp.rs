//! SERVICE CALL, and the console of the SCLP's event facility (Linux, `drivers/s390/char/sclp.h`).

use core::fmt::{Arguments, Write};

use crate::machine::{bytes, cr0};
use crate::{Taken, encode, step, wait};

/// READ SCP INFO.
pub const READ_SCP_INFO: u32 = 0x0002_0001;
/// READ CPU INFO.
pub const READ_CPU_INFO: u32 = 0x0001_0001;
/// READ EVENT DATA.
pub const READ_EVENT_DATA: u32 = 0x0077_0005;
/// WRITE EVENT DATA.
pub const WRITE_EVENT_DATA: u32 = 0x0076_0005;
/// WRITE EVENT MASK.
pub const WRITE_EVENT_MASK: u32 = 0x0078_0005;

/// SCCB of the console.
const CONSOLE: u64 = crate::FREE;
/// Bytes that an event buffer takes at most here.
const MOST: usize = 1024;
/// Type of the event that is text for the VT220 console, and its bit in masks.
const ASCII_CONSOLE: u8 = 0x1a;

/// SERVICE CALL: condition code, or what happened otherwise.
pub fn service_call(command: u32, sccb: u64) -> Result<u8, Taken> {
    let mut gr = [0; 16];
    (gr[1], gr[2]) = (command.into(), sccb);
    step(encode::rre(0xb220, 1, 2), &mut gr).executed()
}

/// A command from an SCCB that has its header, to its end: the response code, or the condition code, or what happened
/// instead.
pub fn perform(command: u32, sccb: u64) -> Result<u16, Result<u8, Taken>> {
    match service_call(command, sccb) {
        Ok(0) => {}
        other => return Err(other),
    }
    match wait(0, cr0::SERVICE_SIGNAL, 0) {
        Taken::External(0x2401, _) => {}
        other => return Err(Err(other)),
    }
    Ok(response(sccb))
}

/// The response code of an SCCB.
pub fn response(sccb: u64) -> u16 {
    let header = bytes(sccb, 8);
    u16::from_be_bytes([header[6], header[7]])
}

/// An SCCB of this length, zero but for that.
pub fn sccb(at: u64, length: u16) -> &'static mut [u8] {
    let block = bytes(at, usize::from(length.max(8)).next_multiple_of(8));
    block.fill(0);
    block[..2].copy_from_slice(&length.to_be_bytes());
    block
}

/// Allows output on the console.
pub(crate) fn open_console() {
    // Drop what an earlier life left pending.
    let block = sccb(CONSOLE, 28);
    block[10..12].copy_from_slice(&4u16.to_be_bytes());
    // Mask of what is received (none), then of what is sent.
    block[16..20].copy_from_slice(&(1u32 << (32 - ASCII_CONSOLE)).to_be_bytes());
    let _ = perform(WRITE_EVENT_MASK, CONSOLE);
}

/// Prints on the console.
pub fn print(text: Arguments<'_>) {
    let mut buffer = Buffer { text: [0; MOST], length: 0 };
    // Longer lines are cut off.
    let _ = buffer.write_fmt(text);
    let text = &buffer.text[..buffer.length];
    let length = 8 + 6 + text.len() as u16;
    let block = sccb(CONSOLE, length);
    block[8..10].copy_from_slice(&(length - 8).to_be_bytes());
    block[10] = ASCII_CONSOLE;
    block[14..][..text.len()].copy_from_slice(text);
    let _ = perform(WRITE_EVENT_DATA, CONSOLE);
}

struct Buffer {
    text: [u8; MOST],
    length: usize,
}

impl Write for Buffer {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = &mut self.text[self.length..];
        let count = room.len().min(text.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.length += count;
        if count == text.len() { Ok(()) } else { Err(core::fmt::Error) }
    }
}
