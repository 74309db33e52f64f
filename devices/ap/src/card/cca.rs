//! The CCA coprocessor: messages of type 6 and 86 with a CPRBX, agent `CA`.
//!
//! It knows four verbs: RL (CSNBRNGL, random bytes), FQ (CSUACFQ, what the card tells about itself), PK (CSNDPKE, RSA with
//! a public key) and PD (CSNDPKD, RSA with a private key), the latter two with keys in the clear and without padding, as
//! Linux uses them. Codes are pairs of return code and reason code, as the CCA manuals list them.

use std::any::Any;

use super::description::CcaDescription;
use super::message::{Cprbx, Reader, ReplyCode, Type6};
use super::rsa::{self, CrtParts, MAX_MODULUS, Refusal};
use super::session::Session;
use super::{Card, CardFacts, Mode};
use crate::host::{HeldKey, MasterKey, MasterKeys, NewKey, Pattern};
use zeroize::Zeroizing;

/// Most random bytes of one request.
const MAX_RANDOM: u32 = 8192;

/// A Crypto Express card configured as CCA coprocessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CcaCoprocessor {
    facts: CardFacts,
    description: CcaDescription,
}

impl CcaCoprocessor {
    /// A coprocessor of this type (10 for CEX4 to 14 for CEX8).
    pub fn new(hardware_type: u8, description: CcaDescription) -> Self {
        Self { facts: CardFacts::new(Mode::Cca, hardware_type), description }
    }
}

impl Card for CcaCoprocessor {
    fn facts(&self) -> &CardFacts {
        &self.facts
    }

    fn is_same(&self, other: &dyn Card) -> bool {
        (other as &dyn Any).downcast_ref() == Some(self)
    }

    fn process(&self, session: &Session, domain: u8, request: &[u8]) -> Vec<u8> {
        self.answer(session, domain, request).unwrap_or_else(ReplyCode::type82)
    }
}

/// What a verb answers.
struct Answer {
    codes: (u16, u16),
    /// Parameter block behind the function code.
    parameters: Zeroizing<Vec<u8>>,
    data: Vec<u8>,
}

/// Why a verb fails: as a message, or with return code and reason code.
enum Failure {
    Message(ReplyCode),
    Codes(u16, u16),
}

/// A rule-array keyword is not valid.
const BAD_KEYWORD: Failure = Failure::Codes(8, 33);
/// The rule-array count is not valid.
const BAD_RULE_COUNT: Failure = Failure::Codes(8, 35);
/// The modulus has a length that the verb does not take.
const BAD_MODULUS_LENGTH: Failure = Failure::Codes(8, 65);
/// The text is not what the padding rule says; here: not below the modulus.
const BAD_TEXT: Failure = Failure::Codes(8, 66);
/// A size is too small, too large or zero.
const BAD_SIZE: Failure = Failure::Codes(8, 72);
/// The PKA key token has an invalid field.
const BAD_TOKEN: Failure = Failure::Codes(8, 770);
/// The requested function is not implemented on the coprocessor.
const NOT_IMPLEMENTED: Failure = Failure::Codes(12, 335);

impl From<ReplyCode> for Failure {
    fn from(code: ReplyCode) -> Self {
        Self::Message(code)
    }
}

impl From<Refusal> for Failure {
    /// Of these, Linux makes EINVAL; any other would have it take the queue offline.
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Size => BAD_MODULUS_LENGTH,
            Refusal::Message => BAD_TEXT,
            Refusal::EvenModulus | Refusal::Key => BAD_TOKEN,
            Refusal::Machine => Self::Message(ReplyCode::MachineFailure),
        }
    }
}

/// A parameter block that ends before its parts do.
fn malformed<T>(part: Option<T>) -> Result<T, Failure> {
    part.ok_or(Failure::Message(ReplyCode::Malformed))
}

impl CcaCoprocessor {
    fn answer(&self, session: &Session, domain: u8, request: &[u8]) -> Result<Vec<u8>, ReplyCode> {
        let message = Type6::parse(request)?;
        if message.agent != *b"CA" {
            return Err(ReplyCode::Format);
        }
        let cprbx = Cprbx::parse(message.control)?;
        if cprbx.domain != u16::from(domain) {
            return Err(ReplyCode::Domain);
        }
        let mut rest = Reader(cprbx.parameters);
        let function: [u8; 2] = rest.array().ok_or(ReplyCode::Malformed)?;
        let answer = match self.call(session, domain, &message, &cprbx, function, rest) {
            Ok(answer) => answer,
            Err(Failure::Codes(rc, rs)) => Answer::new((rc, rs), &[], &[]),
            Err(Failure::Message(code)) => return Err(code),
        };
        let mut parameters = Zeroizing::new(Vec::with_capacity(2 + answer.parameters.len()));
        parameters.extend_from_slice(&function);
        parameters.extend_from_slice(&answer.parameters);
        let data = Zeroizing::new(answer.data);
        let control = Zeroizing::new(cprbx.reply(answer.codes, &parameters, data.len()));
        Ok(message.reply(&control, &data))
    }

    fn call(
        &self,
        session: &Session,
        domain: u8,
        message: &Type6<'_>,
        cprbx: &Cprbx<'_>,
        function: [u8; 2],
        mut rest: Reader<'_>,
    ) -> Result<Answer, Failure> {
        // Administration needs signed requests of a trusted key entry workstation.
        if cprbx.function_id != *b"T2" {
            return Err(NOT_IMPLEMENTED);
        }
        if !matches!(&function, b"RL" | b"FQ" | b"PK" | b"PD") {
            return Err(NOT_IMPLEMENTED);
        }
        let rules = malformed(rest.block())?;
        let text = malformed(rest.block())?;
        let keys = malformed(rest.block())?;
        let rule: &[u8; 8] = rules.try_into().map_err(|_| BAD_RULE_COUNT)?;
        match (&function, rule) {
            (b"RL", b"RANDOM  ") => random(session, message, cprbx),
            (b"FQ", b"STATICSA") => Ok(self.facility(domain, false)),
            (b"FQ", b"STATICSB") => Ok(self.facility(domain, true)),
            (b"PK", b"MRP     ") => encrypt(text, keys),
            (b"PD", b"ZERO-PAD") => decrypt(session, text, keys),
            _ => Err(BAD_KEYWORD),
        }
    }

    /// The rule array (serial number, then states) and the verification patterns at the offsets where `zcrypt_ccamisc.c`
    /// takes them from. The card has no symmetric (DES) master keys; `apka` adds the registers for AES PKA keys.
    fn facility(&self, domain: u8, apka: bool) -> Answer {
        let MasterKeys { aes, apka: pka, asym } = self.description.master_keys(domain);
        let mut rules = self.description.serial.0.to_vec();
        let mut patterns = vec![0; if apka { 240 } else { 204 }];
        states(&mut rules, &MasterKey::<Pattern<16>>::default());
        states(&mut rules, asym);
        place(&mut patterns, 64, 20, asym);
        states(&mut rules, aes);
        place(&mut patterns, 172, 12, aes);
        if apka {
            states(&mut rules, pka);
            place(&mut patterns, 208, 12, pka);
        }
        Answer::new((0, 0), &rules, &patterns)
    }
}

impl Answer {
    /// Codes with a rule array, variable-length data and an empty key block, each behind its length.
    fn new(codes: (u16, u16), rules: &[u8], data: &[u8]) -> Self {
        let mut parameters = Zeroizing::new(Vec::with_capacity(rules.len() + data.len() + 6));
        for block in [rules, data, &[]] {
            parameters.extend_from_slice(&(block.len() as u16 + 2).to_be_bytes());
            parameters.extend_from_slice(block);
        }
        Self { codes, parameters, data: Vec::new() }
    }
}

/// Adds the states of the new, current and old register, a digit and seven blanks each.
fn states<const N: usize>(rules: &mut Vec<u8>, key: &MasterKey<Pattern<N>>) {
    for state in [NewKey::state(&key.new), HeldKey::state(&key.current), HeldKey::state(&key.old)] {
        rules.push(state);
        rules.extend_from_slice(b"       ");
    }
}

/// Writes the patterns of the old, current and new register, `step` bytes apart.
fn place<const N: usize>(patterns: &mut [u8], at: usize, step: usize, key: &MasterKey<Pattern<N>>) {
    for (i, pattern) in [key.old.pattern(), key.current.pattern(), key.new.pattern()].iter().enumerate() {
        patterns[at + i * step..][..N].copy_from_slice(pattern);
    }
}

/// RANDOM NUMBER GENERATE LONG: as many bytes as the CPRB asks for, as data.
fn random(session: &Session, message: &Type6<'_>, cprbx: &Cprbx<'_>) -> Result<Answer, Failure> {
    let len = cprbx.reply_data;
    if len == 0 || len > MAX_RANDOM || len > message.reply_data {
        return Err(BAD_SIZE);
    }
    let mut answer = Answer::new((0, 0), &[], &[]);
    answer.data = vec![0; len as usize];
    session.random().fill(&mut answer.data);
    Ok(answer)
}

/// PKA ENCRYPT with rule MRP: the text to the power of the public exponent, no padding.
fn encrypt(text: &[u8], keys: &[u8]) -> Result<Answer, Failure> {
    let mut sections = token(keys)?;
    let (id, mut section) = malformed(next_section(&mut sections))?;
    if id != 4 {
        return Err(BAD_TOKEN);
    }
    let fields = (|| {
        section.take(2)?;
        let (exponent, bits, modulus) = (section.u16()?, section.u16()?, section.u16()?);
        Some((bits, section.take(exponent.into())?, section.take(modulus.into())?))
    })();
    let (bits, exponent, modulus) = fields.ok_or(BAD_TOKEN)?;
    if usize::from(bits) > 8 * modulus.len() {
        return Err(BAD_TOKEN);
    }
    check_lengths(text, modulus.len())?;
    let result = Zeroizing::new(rsa::mod_exp(modulus, exponent, text, modulus.len())?);
    Ok(Answer::new((0, 0), &[], &result))
}

/// PKA DECRYPT with rule ZERO-PAD: the text to the power of the private exponent, no padding removed.
fn decrypt(session: &Session, text: &[u8], keys: &[u8]) -> Result<Answer, Failure> {
    let mut sections = token(keys)?;
    let (id, mut section) = malformed(next_section(&mut sections))?;
    if id != 8 {
        return Err(BAD_TOKEN);
    }
    let fields = (|| {
        section.take(24)?;
        let format = section.u8()?;
        section.take(25)?;
        let lens: [u8; 12] = section.array()?;
        let [p, q, dp, dq, u, modulus] =
            [0, 2, 4, 6, 8, 10].map(|at| usize::from(u16::from_be_bytes([lens[at], lens[at + 1]])));
        section.take(4)?;
        let pad = section.u16()?;
        section.take(60)?;
        let key = CrtParts {
            p: section.take(p)?,
            q: section.take(q)?,
            dp: section.take(dp)?,
            dq: section.take(dq)?,
            u: section.take(u)?,
        };
        section.take(pad.into())?;
        // The driver writes ones for the modulus: it has only the primes.
        section.take(modulus)?;
        Some((format, key, modulus))
    })();
    let (format, key, modulus) = fields.ok_or(BAD_TOKEN)?;
    // Any other form of the key is enciphered.
    if format != 0x40 {
        return Err(BAD_TOKEN);
    }
    check_lengths(text, modulus)?;
    let result = Zeroizing::new(rsa::crt(session, key, text, modulus)?);
    Ok(Answer::new((0, 0), &[], &result))
}

fn check_lengths(text: &[u8], modulus: usize) -> Result<(), Failure> {
    match (text.len(), modulus) {
        (_, 0) => Err(BAD_TOKEN),
        (_, modulus) if modulus > MAX_MODULUS => Err(BAD_MODULUS_LENGTH),
        (text, modulus) if text == 0 || text > modulus => Err(BAD_SIZE),
        _ => Ok(()),
    }
}

/// The sections of the external PKA key token (1E) in a key block.
fn token(keys: &[u8]) -> Result<Reader<'_>, Failure> {
    let mut block = Reader(keys);
    let mut key = Reader(malformed(block.block())?);
    malformed(key.u16())?;
    let header: [u8; 8] = malformed(key.array())?;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let sections = len.checked_sub(header.len()).and_then(|len| key.take(len));
    match (header[0], sections) {
        (0x1e, Some(sections)) => Ok(Reader(sections)),
        _ => Err(BAD_TOKEN),
    }
}

/// The identifier of the next section of a token, and what follows its four-byte header.
fn next_section<'a>(sections: &mut Reader<'a>) -> Option<(u8, Reader<'a>)> {
    let [id, _version, high, low] = sections.array()?;
    let len = usize::from(u16::from_be_bytes([high, low]));
    sections.take(len.checked_sub(4)?).map(|section| (id, Reader(section)))
}
