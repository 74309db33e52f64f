//! CHANNEL SUBSYSTEM CALL: from a request block to a response block, in private copies.

use crate::Config;
use crate::spec::chsc::{self, Response};

/// The first 16 bytes of a request block, copied once.
pub(crate) struct Request(pub(crate) [u8; chsc::REQUEST_MIN]);

impl Request {
    fn u16(&self, offset: usize) -> u16 {
        u16::from_be_bytes([self.0[offset], self.0[offset + 1]])
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from(self.u16(offset)) << 16 | u32::from(self.u16(offset + 2))
    }

    /// The length of the block if it is one of 16 to 4088 and a multiple of 8.
    pub(crate) fn length(&self) -> Option<usize> {
        let length = usize::from(self.u16(0));
        (chsc::REQUEST_MIN..=chsc::REQUEST_MAX)
            .contains(&length)
            .then_some(length)
            .filter(|length| length % 8 == 0)
    }

    pub(crate) fn command(&self) -> u16 {
        self.u16(2)
    }

    fn is_short(&self) -> bool {
        usize::from(self.u16(0)) == chsc::REQUEST_MIN
    }
}

/// A response block: its length and code, a word of zeros, then `data`.
fn response(code: Response, data: &[u8]) -> Vec<u8> {
    let length = (chsc::RESPONSE_MIN + data.len()) as u16;
    [&length.to_be_bytes()[..], &(code as u16).to_be_bytes(), &[0; 4], data].concat()
}

/// The response block to `request`, of which the length is valid, and whether it holds the pending
/// event, which the caller takes once the block has been stored. The block fits in the page behind the
/// request.
pub(crate) fn perform(config: &Config, event_pending: bool, request: &Request) -> (Vec<u8>, bool) {
    let result = match request.command() {
        chsc::STORE_CHARACTERISTICS => store_characteristics(config, request),
        chsc::SET_DOMAIN_ATTRIBUTES => Err(set_domain_attributes(request)),
        chsc::STORE_SUBCHANNEL_DESCRIPTION => store_subchannel_description(request),
        chsc::STORE_EVENT_INFORMATION => store_event_information(event_pending, request),
        _ => Err(Response::Unknown),
    };
    let takes_event = request.command() == chsc::STORE_EVENT_INFORMATION && result.is_ok();
    (result.map_or_else(|code| response(code, &[]), |data| response(Response::Done, &data)), takes_event)
}

/// Store channel-subsystem characteristics: exactly the bits that the configuration offers.
fn store_characteristics(config: &Config, request: &Request) -> Result<Vec<u8>, Response> {
    let word = request.u32(4);
    if !request.is_short() {
        return Err(Response::InvalidField);
    }
    if word & 0x000f_0000 != 0 {
        return Err(Response::InvalidFormat);
    }
    if word & 0xff00 != 0 {
        return Err(Response::InvalidSubsystem);
    }
    // Bit 2 (M) says how the zero is to be read, and it is this channel subsystem either way.
    if word & !0x2000_0000 != 0 || request.u32(8) != 0 || request.u32(12) != 0 {
        return Err(Response::InvalidField);
    }
    let mut data = Vec::with_capacity(chsc::CHARACTERISTICS.iter().sum());
    for (bits, length) in [&config.general, &config.chsc].into_iter().zip(chsc::CHARACTERISTICS) {
        let mut bytes = vec![0u8; length];
        for &bit in bits {
            if let Some(byte) = bytes.get_mut(usize::from(bit / 8)) {
                *byte |= 0x80 >> (bit % 8);
            }
        }
        data.extend(bytes);
    }
    Ok(data)
}

/// Set domain attributes: multiple channel subsystems (0) and subchannel sets (2) are not provided.
fn set_domain_attributes(request: &Request) -> Response {
    let word = request.u32(4);
    if request.length() != Some(chsc::SET_DOMAIN_ATTRIBUTES_LENGTH) || word & 0xf0ff_0000 != 0 {
        Response::InvalidField
    } else if word & 0x0f00_0000 != 0 {
        Response::InvalidFormat
    } else if matches!(word & 0xffff, 0 | 2) {
        Response::NotProvided
    } else {
        Response::InvalidField
    }
}

/// Store subchannel description: one description per subchannel from the first to the last number, as
/// many as fit, each saying by its first bit (zero) that the subchannel is not valid.
fn store_subchannel_description(request: &Request) -> Result<Vec<u8>, Response> {
    let (first, last) = (request.u16(6), request.u16(10));
    if !request.is_short()
        || request.u16(4) != 0
        || request.u16(8) != 0
        || request.u32(12) != 0
        || first > last
    {
        return Err(Response::InvalidField);
    }
    let room = (4096 - chsc::REQUEST_MIN - chsc::RESPONSE_MIN) / chsc::DESCRIPTION;
    let count = (usize::from(last - first) + 1).min(room);
    Ok(vec![0; count * chsc::DESCRIPTION])
}

/// Store event information. Notification type 0 cannot be masked, so that the request's mask of
/// types does not matter.
fn store_event_information(event_pending: bool, request: &Request) -> Result<Vec<u8>, Response> {
    if !request.is_short() || request.u32(4) != 0 {
        return Err(Response::InvalidField);
    }
    if !event_pending {
        return Err(Response::NoEvent);
    }
    // Flags (no more events, none lost), validity, reporting source, content code.
    let mut data = vec![0; chsc::EVENT_LENGTH - chsc::RESPONSE_MIN];
    data[2] = chsc::SOURCE_AP;
    data[3] = chsc::CONTENT_AP_CHANGED;
    Ok(data)
}
