//! The event facility: masks, events that wait for the guest, and what the guest writes.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ebcdic::CodePage;
use crate::line_mode::{self, LineInput};
use crate::spec::{EVENT_ACCEPTED, EVENT_HEADER, HEADER, MASK_LENGTH_MAX, Response, Sccb, event};
use crate::{Console, Consoles};

/// Bytes of input that each console keeps for a guest that does not read.
pub(crate) const INPUT_MAX: usize = 16 * 1024;
/// First byte of VT220 input: session data follows.
const SESSION_DATA: u8 = 0;
/// Length of a quiesce event: header, timeout (2, zero: none) and its unit.
const QUIESCE_LENGTH: usize = EVENT_HEADER + 3;

/// What the guest can see or has set.
#[derive(Default)]
struct State {
    /// Event types that the program takes.
    receive: u64,
    /// Length in bytes of a mask in selective reads: the last one that WRITE EVENT MASK used.
    mask_length: usize,
    quiesce: bool,
    lines: LineInput,
    vt220: VecDeque<u8>,
    /// The guest has been told by a service signal that events are pending.
    told: bool,
    dropped: u64,
}

impl State {
    /// The types of which events are pending, whether the program takes them or not.
    fn pending(&self) -> u64 {
        let has = |pending: bool, kind| if pending { event::mask(kind) } else { 0 };
        has(self.quiesce, event::QUIESCE)
            | has(self.lines.is_pending(), event::OPERATOR_COMMAND)
            | has(!self.vt220.is_empty(), event::VT220)
    }

    fn must_tell(&mut self) -> bool {
        let pending = self.pending() & self.receive != 0;
        pending && !std::mem::replace(&mut self.told, true)
    }
}

/// The event facility with its consoles.
pub(crate) struct Events {
    consoles: Consoles,
    state: Mutex<State>,
}

impl Events {
    pub(crate) fn new(consoles: Consoles) -> Self {
        Self { consoles, state: Mutex::new(State { mask_length: 4, ..State::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Event types that the SCLP receives from the program.
    fn receives(&self) -> u64 {
        let line_mode = event::mask(event::MESSAGE) | event::mask(event::PRIORITY_MESSAGE);
        self.consoles.line_mode.as_ref().map_or(0, |_| line_mode)
            | self.consoles.vt220.as_ref().map_or(0, |_| event::mask(event::VT220))
    }

    /// Event types that the SCLP sends to the program.
    fn sends(&self) -> u64 {
        self.consoles.line_mode.as_ref().map_or(0, |_| event::mask(event::OPERATOR_COMMAND))
            | self.consoles.vt220.as_ref().map_or(0, |_| event::mask(event::VT220))
            | event::mask(event::QUIESCE)
    }

    /// Takes input; true when the guest has to be told.
    pub(crate) fn input(&self, console: Console, bytes: &[u8]) -> bool {
        let mut state = self.state();
        let state = &mut *state;
        let offered = match console {
            Console::LineMode => self.consoles.line_mode.is_some(),
            Console::Vt220 => self.consoles.vt220.is_some(),
        };
        if !offered {
            state.dropped += bytes.len() as u64;
            return false;
        }
        match console {
            Console::LineMode => {
                for &byte in bytes {
                    state.dropped += u64::from(!state.lines.push(byte, INPUT_MAX));
                }
            }
            Console::Vt220 => {
                let (taken, dropped) = bytes.split_at(bytes.len().min(INPUT_MAX - state.vt220.len()));
                state.vt220.extend(taken);
                state.dropped += dropped.len() as u64;
            }
        }
        state.must_tell()
    }

    pub(crate) fn input_room(&self, console: Console) -> usize {
        let state = self.state();
        INPUT_MAX
            - match console {
                Console::LineMode => state.lines.bytes(),
                Console::Vt220 => state.vt220.len(),
            }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Makes the quiesce event pending: whether the program takes it, and whether it has to be told.
    pub(crate) fn quiesce(&self) -> (bool, bool) {
        let mut state = self.state();
        state.quiesce = true;
        (state.receive & event::mask(event::QUIESCE) != 0, state.must_tell())
    }

    /// Whether a service signal now says that events are pending; the guest counts as told then.
    pub(crate) fn tell(&self) -> bool {
        let mut state = self.state();
        state.told = state.pending() & state.receive != 0;
        state.told
    }

    pub(crate) fn reset(&self) {
        let mut state = self.state();
        *state = State { mask_length: 4, dropped: state.dropped, ..State::default() };
    }

    /// WRITE EVENT MASK: the program's receive and send masks in, the SCLP's out. What the program says
    /// that it sends is not kept: an event buffer says its type itself.
    pub(crate) fn write_event_mask(&self, sccb: &mut Sccb) -> Response {
        const MASKS: usize = HEADER + 4;
        if sccb.length() < MASKS {
            return Response::TooShort;
        }
        let length = usize::from(sccb.u16(HEADER + 2));
        if length == 0 || length > MASK_LENGTH_MAX {
            return Response::InvalidMaskLength;
        }
        if sccb.length() < MASKS + 4 * length {
            return Response::TooShort;
        }
        let masks = &mut sccb.whole_mut()[MASKS..MASKS + 4 * length];
        {
            let mut state = self.state();
            state.receive = mask_from(&masks[..length]);
            state.mask_length = length;
        }
        for (mask, value) in masks[2 * length..].chunks_mut(length).zip([self.receives(), self.sends()]) {
            let used = length.min(8);
            mask.fill(0);
            mask[..used].copy_from_slice(&value.to_be_bytes()[..used]);
        }
        Response::Done
    }

    /// READ EVENT DATA: as many pending events as the SCCB has room for.
    pub(crate) fn read_event_data(&self, sccb: &mut Sccb) -> Response {
        let mut state = self.state();
        let selected = match sccb.function() {
            0 => state.receive,
            1 => {
                let Some(mask) = sccb.whole().get(HEADER..HEADER + state.mask_length.min(8)) else {
                    return Response::TooShort;
                };
                let mask = mask_from(mask);
                if state.receive == 0 || mask & !state.receive != 0 {
                    return Response::InvalidSelection;
                }
                mask
            }
            _ => return Response::InvalidFunction,
        };
        let selected = selected & state.pending();
        if selected == 0 {
            return Response::NoEvents;
        }
        let end = sccb.length();
        let mut buffers = Vec::new();
        let left = |buffers: &Vec<u8>| end - HEADER - buffers.len();
        if selected & event::mask(event::QUIESCE) != 0 && left(&buffers) >= QUIESCE_LENGTH {
            state.quiesce = false;
            buffers.extend([0, QUIESCE_LENGTH as u8, event::QUIESCE, 0, 0, 0, 0, 0, 0]);
        }
        if selected & event::mask(event::OPERATOR_COMMAND) != 0 {
            while let Some(buffer) = state.lines.take(left(&buffers)) {
                buffers.extend(buffer);
            }
        }
        if selected & event::mask(event::VT220) != 0 && left(&buffers) > EVENT_HEADER + 1 {
            let count = state.vt220.len().min(left(&buffers) - EVENT_HEADER - 1);
            buffers.extend(((EVENT_HEADER + 1 + count) as u16).to_be_bytes());
            buffers.extend([event::VT220, 0, 0, 0, SESSION_DATA]);
            buffers.extend(state.vt220.drain(..count));
        }
        if buffers.is_empty() {
            return Response::TooShort;
        }
        // A header of zeros ends the events when the length has to stay.
        sccb.clear_data();
        sccb.set(HEADER, &buffers);
        if sccb.take_variable_length() {
            sccb.set_length(HEADER + buffers.len());
        }
        Response::Done
    }

    /// WRITE EVENT DATA: prints each event buffer and marks it accepted, up to the first that is wrong.
    pub(crate) fn write_event_data(&self, sccb: &mut Sccb) -> Response {
        if sccb.function() != 0 {
            return Response::InvalidFunction;
        }
        let mut rest = &sccb.whole()[HEADER..];
        while !rest.is_empty() {
            match event_length(rest) {
                Some(length) => rest = &rest[length..],
                None => return Response::Syntax,
            }
        }
        let page = self.code_page();
        let mut rest = &mut sccb.whole_mut()[HEADER..];
        let mut response = Response::Done;
        while let Some(length) = event_length(rest) {
            let (buffer, behind) = rest.split_at_mut(length);
            if response == Response::Done {
                response = self.write_event(buffer, page);
            }
            buffer[3] = if response == Response::Done {
                buffer[3] | EVENT_ACCEPTED
            } else {
                buffer[3] & !EVENT_ACCEPTED
            };
            rest = behind;
        }
        response
    }

    fn write_event(&self, buffer: &[u8], page: CodePage) -> Response {
        let (sink, bytes) = match (buffer[2], &self.consoles) {
            (event::MESSAGE | event::PRIORITY_MESSAGE, Consoles { line_mode: Some(sink), .. }) => {
                match line_mode::decode_message(buffer, page) {
                    Ok(lines) => (sink, lines),
                    Err(response) => return response,
                }
            }
            (event::VT220, Consoles { vt220: Some(sink), .. }) => (sink, buffer[EVENT_HEADER..].to_vec()),
            _ => return Response::InvalidFunction,
        };
        if !bytes.is_empty() {
            sink.write(&bytes);
        }
        Response::Done
    }

    /// Linux's early console writes code page 037, its terminal driver 500. The driver's masks always
    /// have state changes in them, those of the early console never.
    fn code_page(&self) -> CodePage {
        if self.state().receive & event::mask(event::STATE_CHANGE) != 0 {
            CodePage::Cp500
        } else {
            CodePage::Cp037
        }
    }
}

/// The length of the event buffer that begins `buffers`, if it is complete.
fn event_length(buffers: &[u8]) -> Option<usize> {
    let length = usize::from(u16::from_be_bytes([*buffers.first()?, *buffers.get(1)?]));
    (EVENT_HEADER..=buffers.len()).contains(&length).then_some(length)
}

/// The leftmost eight bytes of a mask of any length.
fn mask_from(bytes: &[u8]) -> u64 {
    let mut mask = [0; 8];
    let used = bytes.len().min(8);
    mask[..used].copy_from_slice(&bytes[..used]);
    u64::from_be_bytes(mask)
}
