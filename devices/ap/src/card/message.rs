//! Request and reply messages: the parts that card modes share.

/// Length of the CPRBX.
pub(super) const CPRBX: usize = 0xdc;
/// Length of the header of a type 6 request, and offset of its CPRB.
pub(super) const TYPE6: usize = 0x58;
/// Length of the two headers of a type 86 reply, and offset of its CPRB.
pub(super) const TYPE86: usize = 0x30;

/// Why a card refuses a message as a whole: the reply code at byte 4 of a type 82 or 88 reply.
///
/// Linux's `zcrypt_error.h` names the codes. Each but [`MessageType`](Self::MessageType) and
/// [`MachineFailure`](Self::MachineFailure), which make the driver scan the bus and try again, becomes EINVAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum ReplyCode {
    MachineFailure = 0x10,
    MessageType = 0x20,
    MessageLength = 0x23,
    ReservedField = 0x24,
    Format = 0x29,
    KeyType = 0x34,
    Malformed = 0x40,
    BufferLength = 0x80,
    Operand = 0x82,
    OperandSize = 0x84,
    EvenModulus = 0x85,
    Domain = 0x8a,
    Truncated = 0xa0,
}

impl ReplyCode {
    /// A reply about the message. A card may also say this in a type 86 reply of eight bytes, but there Linux looks at the
    /// CPRB's version, which then is what an earlier reply left in its buffer.
    pub(super) fn type82(self) -> Vec<u8> {
        vec![0, 0x82, 0, 0, self as u8, 0, 0, 0]
    }

    /// An accelerator's reply about operands and keys.
    pub(super) fn type88(self) -> Vec<u8> {
        vec![0, 0x88, 0, 0, self as u8, 0, 0, 0]
    }
}

/// Takes fields from the front of a message. `None` is "the message ends before".
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[b]| b)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// A block that starts with its length in two bytes, these included: what follows them.
    pub(super) fn block(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.u16()?);
        self.take(len.checked_sub(2)?)
    }

    /// An ASN.1 element with this tag, of definite length below 64 KiB.
    pub(super) fn element(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.u8()? != tag {
            return None;
        }
        let len = match self.u8()? {
            len @ ..=0x7f => len.into(),
            0x81 => self.u8()?.into(),
            0x82 => self.u16()?.into(),
            _ => return None,
        };
        self.take(len)
    }

    /// An ASN.1 octet string of one word.
    pub(super) fn word(&mut self) -> Option<u32> {
        self.element(4)?.try_into().ok().map(u32::from_be_bytes)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Reader(bytes.get(at..)?).u16()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Reader(bytes.get(at..)?).array().map(u32::from_be_bytes)
}

/// A type 6 request.
pub(super) struct Type6<'a> {
    /// The agent that shall answer: `CA`, `XC`.
    pub(super) agent: [u8; 2],
    /// CPRB and what follows it, as long as the header says.
    pub(super) control: &'a [u8],
    /// Room for the CPRB of the reply and what follows it.
    pub(super) reply_control: u32,
    /// Room for the data of the reply.
    pub(super) reply_data: u32,
}

impl<'a> Type6<'a> {
    /// Cuts a message. A driver rounds the length of the control block up, so the message may be longer than its parts.
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, ReplyCode> {
        let word = |at| u32_at(message, at).ok_or(ReplyCode::MessageLength);
        if message.len() < TYPE6 {
            return Err(ReplyCode::MessageLength);
        }
        if message[1] != 6 {
            return Err(ReplyCode::MessageType);
        }
        if word(0x10)? as usize != TYPE6 {
            return Err(ReplyCode::Format);
        }
        // Third and fourth block: offsets and lengths.
        if [0x18, 0x1c, 0x40, 0x44].into_iter().any(|at| u32_at(message, at) != Some(0)) {
            return Err(ReplyCode::ReservedField);
        }
        let part = |at: u32, len: u32| {
            let (at, len) = (at as usize, len as usize);
            message.get(at..).and_then(|m| m.get(..len)).ok_or(ReplyCode::Truncated)
        };
        let control = part(TYPE6 as u32, word(0x38)?)?;
        let (data_at, data_len) = (word(0x14)?, word(0x3c)?);
        // No function of these cards takes data, but a block that is announced has to be there.
        if data_len != 0 {
            part(data_at, data_len)?;
            if (data_at as usize) < TYPE6 + control.len() {
                return Err(ReplyCode::Malformed);
            }
        }
        let agent = [message[0x20], message[0x21]];
        Ok(Self { agent, control, reply_control: word(0x48)?, reply_data: word(0x4c)? })
    }

    /// The reply with this CPRB and this data, or an error reply where they do not fit the room that the request leaves.
    ///
    /// Its length is exactly that of its parts: Linux refuses a reply that is longer or shorter.
    pub(super) fn reply(&self, control: &[u8], data: &[u8]) -> Vec<u8> {
        if control.len() > self.reply_control as usize || data.len() > self.reply_data as usize {
            return ReplyCode::BufferLength.type82();
        }
        // Without data too, older drivers take offset 2 as the end of the reply.
        let data_at =
            if data.is_empty() { TYPE86 + control.len() } else { TYPE86 + control.len().next_multiple_of(4) };
        let mut reply = vec![0; TYPE86];
        reply[1] = 0x86;
        reply[2] = 2;
        for (at, value) in [(0x10, control.len()), (0x14, TYPE86), (0x18, data.len()), (0x1c, data_at)] {
            reply[at..at + 4].copy_from_slice(&(value as u32).to_be_bytes());
        }
        reply.extend_from_slice(control);
        reply.resize(data_at, 0);
        reply.extend_from_slice(data);
        reply
    }
}

/// The fields of a CPRBX request that the card looks at.
pub(super) struct Cprbx<'a> {
    header: &'a [u8],
    /// Function identifier: `T2` for a use of the domain, `T3` and `T5` to `T7` for its administration.
    pub(super) function_id: [u8; 2],
    /// Domain.
    pub(super) domain: u16,
    /// Length of the data that shall be returned.
    pub(super) reply_data: u32,
    /// Request parameter block.
    pub(super) parameters: &'a [u8],
}

impl<'a> Cprbx<'a> {
    /// Cuts a control block.
    pub(super) fn parse(control: &'a [u8]) -> Result<Self, ReplyCode> {
        let (header, rest) = control.split_at_checked(CPRBX).ok_or(ReplyCode::Malformed)?;
        if u16_at(header, 0) != Some(CPRBX as u16) || header[2] != 2 {
            return Err(ReplyCode::Malformed);
        }
        let word = |at| u32_at(header, at).ok_or(ReplyCode::Malformed);
        let parameters = rest.get(..word(0xc)? as usize).ok_or(ReplyCode::Truncated)?;
        Ok(Self {
            header,
            function_id: [header[6], header[7]],
            domain: u16_at(header, 0xaa).ok_or(ReplyCode::Malformed)?,
            reply_data: word(0x1c)?,
            parameters,
        })
    }

    /// The CPRBX of the reply, with its parameter block.
    pub(super) fn reply(&self, codes: (u16, u16), parameters: &[u8], data: usize) -> Vec<u8> {
        let mut cprbx = self.header.to_vec();
        cprbx[0x18..0x1c].copy_from_slice(&(parameters.len() as u32).to_be_bytes());
        cprbx[0x20..0x24].copy_from_slice(&(data as u32).to_be_bytes());
        cprbx[0x90..0x92].copy_from_slice(&codes.0.to_be_bytes());
        cprbx[0x92..0x94].copy_from_slice(&codes.1.to_be_bytes());
        cprbx.extend_from_slice(parameters);
        cprbx
    }
}
