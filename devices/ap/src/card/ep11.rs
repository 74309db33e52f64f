//! The EP11 coprocessor: messages of type 6 and 86 with an EP11 CPRB, agent `XC`.
//!
//! It tells what it is (function 38, "get XCP info", for the module and for the domain), which is what Linux shows in sysfs.
//! Every other function is refused with the return code of PKCS #11.

use std::any::Any;

use super::description::Ep11Description;
use super::message::{Reader, ReplyCode, Type6, u32_at};
use super::session::Session;
use super::{Card, CardFacts, Mode};

/// Length of the EP11 CPRB.
const CPRB: usize = 0x20;
/// Flag byte: the request administers the domain.
const ADMINISTRATION: u8 = 0x80;
/// Number of the function that queries the module.
const GET_XCP_INFO: u32 = 38;
/// Query types: about the module, about the domain.
const MODULE: u32 = 1;
const DOMAIN: u32 = 3;
/// Flag of the domain information: the domain has left its imprint mode, so its keys count.
const LEFT_IMPRINT: u32 = 0x10;
/// Return codes of PKCS #11.
const CKR_OK: u32 = 0;
const CKR_FUNCTION_NOT_SUPPORTED: u32 = 0x54;

/// A Crypto Express card configured as EP11 coprocessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ep11Coprocessor {
    facts: CardFacts,
    description: Ep11Description,
}

impl Ep11Coprocessor {
    /// A coprocessor of this type (10 for CEX4 to 14 for CEX8).
    pub fn new(hardware_type: u8, description: Ep11Description) -> Self {
        Self { facts: CardFacts::new(Mode::Ep11, hardware_type), description }
    }
}

impl Card for Ep11Coprocessor {
    fn facts(&self) -> &CardFacts {
        &self.facts
    }

    fn is_same(&self, other: &dyn Card) -> bool {
        (other as &dyn Any).downcast_ref() == Some(self)
    }

    fn process(&self, _session: &Session, domain: u8, request: &[u8]) -> Vec<u8> {
        self.answer(domain, request).unwrap_or_else(ReplyCode::type82)
    }
}

impl Ep11Coprocessor {
    fn answer(&self, domain: u8, request: &[u8]) -> Result<Vec<u8>, ReplyCode> {
        let message = Type6::parse(request)?;
        if message.agent != *b"XC" {
            return Err(ReplyCode::Format);
        }
        let malformed = ReplyCode::Malformed;
        let (cprb, payload) = message.control.split_at_checked(CPRB).ok_or(malformed)?;
        if cprb[..2] != (CPRB as u16).to_be_bytes() || cprb[2] != 4 || cprb[6..8] != *b"T4" {
            return Err(malformed);
        }
        let administration = cprb[5] & ADMINISTRATION != 0;
        let len = u32_at(cprb, 0x1c).ok_or(malformed)? as usize;
        let payload = payload.get(..len).ok_or(ReplyCode::Truncated)?;
        let mut fields = Reader(Reader(payload).element(0x30).ok_or(malformed)?);
        let (function, target) = (fields.word().ok_or(malformed)?, fields.word().ok_or(malformed)?);
        let own = |target: Option<u32>| target == Some(domain.into());
        if !(administration || own(u32_at(cprb, 0xc)) && own(Some(target))) {
            return Err(ReplyCode::Domain);
        }

        // The high halfword is the level of the API that the request is written in.
        let information = match function & 0xffff {
            GET_XCP_INFO if !administration => {
                let query = fields.word().ok_or(malformed)?;
                let _subtype = fields.word().ok_or(malformed)?;
                match query {
                    MODULE => Some(self.module_information()),
                    DOMAIN => Some(self.domain_information(domain)),
                    _ => None,
                }
            }
            _ => None,
        };

        let code = if information.is_some() { CKR_OK } else { CKR_FUNCTION_NOT_SUPPORTED };
        let mut sequence = Vec::new();
        for word in [function, target, code] {
            sequence.extend_from_slice(&[4, 4]);
            sequence.extend_from_slice(&word.to_be_bytes());
        }
        if let Some(information) = information {
            append(&mut sequence, 4, &information);
        }
        let mut control = cprb.to_vec();
        append(&mut control, 0x30, &sequence);
        let payload = (control.len() - CPRB) as u32;
        control[0x10..0x14].fill(0);
        control[0x1c..0x20].copy_from_slice(&payload.to_be_bytes());
        Ok(message.reply(&control, &[]))
    }

    /// 196 bytes, laid out as `zcrypt_ep11misc.c` reads them. Hashes of firmware and configuration, the date and the sizes
    /// of objects that the card does not make are zero.
    fn module_information(&self) -> Vec<u8> {
        let module = &self.description.module;
        let mut information = vec![0; 196];
        let mut put = |at: usize, bytes: &[u8]| information[at..][..bytes.len()].copy_from_slice(bytes);
        put(0, &module.api_ordinal.to_be_bytes());
        put(4, &module.firmware_id.to_be_bytes());
        put(8, &[module.firmware_version.major, module.firmware_version.minor]);
        put(108, &self.description.serial.0);
        put(140, &module.op_modes.bits().to_be_bytes());
        put(156, &256_u32.to_be_bytes());
        put(184, &(self.facts.max_message as u32).to_be_bytes());
        information
    }

    /// 80 bytes: domain, pattern of the current and of the new wrapping key, flags, operational modes.
    fn domain_information(&self, domain: u8) -> Vec<u8> {
        let keys = self.description.wrapping_keys(domain);
        let mut information = u32::from(domain).to_be_bytes().to_vec();
        information.extend_from_slice(&keys.current.pattern());
        information.extend_from_slice(&keys.new_pattern());
        information.extend_from_slice(&(keys.flags() | LEFT_IMPRINT).to_be_bytes());
        information.extend_from_slice(&self.description.module.op_modes.bits().to_be_bytes());
        information
    }
}

/// Adds an ASN.1 element, always with a length of two bytes: Linux reads replies at fixed offsets.
fn append(to: &mut Vec<u8>, tag: u8, content: &[u8]) {
    let [high, low] = (content.len() as u16).to_be_bytes();
    to.extend_from_slice(&[tag, 0x82, high, low]);
    to.extend_from_slice(content);
}
