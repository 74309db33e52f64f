//! The line-mode console: message buffers out, operator commands in.

use std::collections::VecDeque;

use crate::ebcdic::{self, CodePage};
use crate::spec::{EVENT_HEADER, Response, event};

/// Length of a message data block's header: length, type (2 each), tag, revision (4 each).
const MDB_HEADER: usize = 12;
/// Type of a message-text object in a message data block.
const MESSAGE_TEXT: u16 = 4;
/// Length of a message-text object before its text.
const MESSAGE_TEXT_HEADER: usize = 10;

fn u16_at(bytes: &[u8], offset: usize) -> Option<usize> {
    let field = bytes.get(offset..offset + 2)?;
    Some(usize::from(u16::from_be_bytes([field[0], field[1]])))
}

/// The lines in a MESSAGE or PRIORITY MESSAGE event buffer as UTF-8, each with a newline. The general
/// object (time stamps, alarm) and objects of other types are passed over. All lengths are checked
/// before anything is converted.
pub(crate) fn decode_message(buffer: &[u8], page: CodePage) -> Result<Vec<u8>, Response> {
    let wrong = Response::InconsistentLengths;
    let length = u16_at(buffer, EVENT_HEADER).ok_or(wrong)?;
    let block = buffer.get(EVENT_HEADER..EVENT_HEADER + length).ok_or(wrong)?;
    let mut objects = block.get(MDB_HEADER..).ok_or(wrong)?;
    let mut lines = String::new();
    while !objects.is_empty() {
        let length = u16_at(objects, 0).ok_or(wrong)?;
        let kind = u16_at(objects, 2).ok_or(wrong)?;
        if length < 4 || length > objects.len() {
            return Err(wrong);
        }
        let (object, rest) = objects.split_at(length);
        if kind == usize::from(MESSAGE_TEXT) {
            let text = object.get(MESSAGE_TEXT_HEADER..).ok_or(wrong)?;
            // A control character would break the line or the terminal: this console has only text.
            lines.extend(
                text.iter().map(|&code| page.decode(code)).map(|c| if c.is_control() { ' ' } else { c }),
            );
            lines.push('\n');
        }
        objects = rest;
    }
    Ok(lines.into_bytes())
}

/// Longest text of one operator command: the subvector that holds it counts its length in one byte,
/// with four bytes of headers.
const TEXT_MAX: usize = 251;
/// Length of an operator-command event buffer before its text.
const COMMAND_HEADER: usize = EVENT_HEADER + 3 * 4 + 2 * 2;
/// Longest line that is being typed, in bytes.
const TYPED_MAX: usize = 4096;

/// An operator-command event buffer with `text` (EBCDIC): an MDS message unit holds a CP message
/// unit, which holds a text command, which holds a self-defining text message with the text.
pub(crate) fn operator_command(text: &[u8]) -> Vec<u8> {
    let length = COMMAND_HEADER + text.len();
    let mut buffer = Vec::with_capacity(length);
    buffer.extend((length as u16).to_be_bytes());
    buffer.extend([event::OPERATOR_COMMAND, 0, 0, 0]);
    for (outside, id) in [(6, 0x1310u16), (10, 0x1212), (14, 0x1320)] {
        buffer.extend(((length - outside) as u16).to_be_bytes());
        buffer.extend(id.to_be_bytes());
    }
    buffer.extend([(text.len() + 4) as u8, 0x31, (text.len() + 2) as u8, 0x30]);
    buffer.extend(text);
    buffer
}

/// What a person typed: the line being typed, and finished event buffers that the guest has not read.
#[derive(Default)]
pub(crate) struct LineInput {
    typed: Vec<u8>,
    after_return: bool,
    buffers: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl LineInput {
    /// Takes one byte from the terminal, allowing `limit` bytes of unread event buffers. False when
    /// the byte, or the line that it ends, had to be dropped.
    ///
    /// Return or newline ends a line (the pair counts once), backspace and delete take back a
    /// character, and the terminal's interrupt, end-of-file and suspend keys become the lines `^c`,
    /// `^d` and `^z` at once, which Linux's `ctrlchar.c` turns back.
    pub(crate) fn push(&mut self, byte: u8, limit: usize) -> bool {
        let pair = std::mem::replace(&mut self.after_return, byte == b'\r') && byte == b'\n';
        match byte {
            _ if pair => true,
            b'\r' | b'\n' => {
                let typed = std::mem::take(&mut self.typed);
                self.finish(&String::from_utf8_lossy(&typed), limit)
            }
            0x03 => self.finish("^c", limit),
            0x04 => self.finish("^d", limit),
            0x1a => self.finish("^z", limit),
            0x08 | 0x7f => {
                while self.typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
                true
            }
            _ if self.typed.len() == TYPED_MAX => false,
            _ => {
                self.typed.push(byte);
                true
            }
        }
    }

    /// Makes event buffers of a line. Linux toggles letter case at a single `%`, so that it is
    /// doubled; and it adds a newline to each text that does not end in `^n`, so that the pieces of a
    /// long line do.
    fn finish(&mut self, line: &str, limit: usize) -> bool {
        let mut pieces = vec![Vec::new()];
        for character in line.chars() {
            let codes: &[u8] = if character == '%' { &[0x6c, 0x6c] } else { &[ebcdic::encode(character)] };
            let full = pieces.last().is_some_and(|piece: &Vec<u8>| piece.len() + codes.len() > TEXT_MAX - 2);
            if full {
                pieces.push(Vec::new());
            }
            if let Some(piece) = pieces.last_mut() {
                piece.extend(codes);
            }
        }
        let last = pieces.len() - 1;
        for piece in &mut pieces[..last] {
            piece.extend([ebcdic::encode('^'), ebcdic::encode('n')]);
        }
        let buffers: Vec<_> = pieces.iter().map(|piece| operator_command(piece)).collect();
        let bytes: usize = buffers.iter().map(Vec::len).sum();
        if self.bytes + bytes > limit {
            return false;
        }
        self.bytes += bytes;
        self.buffers.extend(buffers);
        true
    }

    /// Whether a finished line waits for the guest.
    pub(crate) fn is_pending(&self) -> bool {
        !self.buffers.is_empty()
    }

    /// Bytes of unread event buffers.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the next event buffer if it is at most `room` bytes long.
    pub(crate) fn take(&mut self, room: usize) -> Option<Vec<u8>> {
        let buffer = self.buffers.pop_front_if(|buffer| buffer.len() <= room)?;
        self.bytes -= buffer.len();
        Some(buffer)
    }
}
