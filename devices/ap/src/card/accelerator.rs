//! The accelerator: RSA, messages of type 50 and 80.

use std::any::Any;

use super::message::{Reader, ReplyCode};
use super::rsa::{self, CrtParts};
use super::session::Session;
use super::{Card, CardFacts, Mode};

/// Bytes before the operands of a request, and before the result of a reply.
const HEADER: usize = 16;

/// A Crypto Express card configured as accelerator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accelerator {
    facts: CardFacts,
}

impl Accelerator {
    /// An accelerator of this type (10 for CEX4 to 14 for CEX8).
    pub fn new(hardware_type: u8) -> Self {
        Self { facts: CardFacts::new(Mode::Accelerator, hardware_type) }
    }
}

impl Card for Accelerator {
    fn facts(&self) -> &CardFacts {
        &self.facts
    }

    fn is_same(&self, other: &dyn Card) -> bool {
        (other as &dyn Any).downcast_ref() == Some(self)
    }

    fn process(&self, session: &Session, _domain: u8, request: &[u8]) -> Vec<u8> {
        match Operation::parse(request) {
            Ok(operation) => operation.compute(session).unwrap_or_else(ReplyCode::type88),
            Err(code) => code.type82(),
        }
    }
}

/// What a request asks for. Operands are right-aligned in fields as long as the largest modulus of the format, or half of
/// it for the parts of a CRT key.
enum Operation<'a> {
    ModExp { exponent: &'a [u8], modulus: &'a [u8], message: &'a [u8] },
    Crt { key: CrtParts<'a>, message: &'a [u8] },
}

impl<'a> Operation<'a> {
    fn parse(request: &'a [u8]) -> Result<Self, ReplyCode> {
        let mut fields = Reader(request);
        let header: [u8; HEADER] = fields.array().ok_or(ReplyCode::MessageLength)?;
        let [_, kind, high, low, ..] = header;
        if kind != 0x50 {
            return Err(ReplyCode::MessageType);
        }
        if usize::from(u16::from_be_bytes([high, low])) != request.len() {
            return Err(ReplyCode::MessageLength);
        }
        // Byte 5 is ignored, bytes 8 and 9 are the format.
        if [0, 4, 6, 7, 10, 11, 12, 13, 14, 15].into_iter().any(|at| header[at] != 0) {
            return Err(ReplyCode::ReservedField);
        }
        let format = u16::from_be_bytes([header[8], header[9]]);
        let size = match format & 0xf {
            1 => 128,
            2 => 256,
            3 => 512,
            _ => return Err(ReplyCode::KeyType),
        };
        let mut field = |len| fields.take(len).ok_or(ReplyCode::MessageLength);
        let operation = match format >> 4 {
            0 => {
                let (exponent, modulus) = (field(size)?, field(size)?);
                Self::ModExp { exponent, modulus, message: field(size)? }
            }
            1 => {
                let half = size / 2;
                let (p, q) = (field(half)?, field(half)?);
                let (dp, dq, u) = (field(half)?, field(half)?, field(half)?);
                Self::Crt { key: CrtParts { p, q, dp, dq, u }, message: field(size)? }
            }
            _ => return Err(ReplyCode::KeyType),
        };
        if fields.0.is_empty() { Ok(operation) } else { Err(ReplyCode::MessageLength) }
    }

    fn compute(&self, session: &Session) -> Result<Vec<u8>, ReplyCode> {
        // The result stands at the end of the reply, whose header is cut to the right length in one allocation.
        let result = match *self {
            Self::ModExp { exponent, modulus, message } => {
                rsa::mod_exp(modulus, exponent, message, HEADER + message.len())
            }
            Self::Crt { key, message } => rsa::crt(session, key, message, HEADER + message.len()),
        };
        let mut reply = result?;
        reply[1] = 0x80;
        let len = reply.len() as u16;
        reply[2..4].copy_from_slice(&len.to_be_bytes());
        Ok(reply)
    }
}
