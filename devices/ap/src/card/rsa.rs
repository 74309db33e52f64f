//! RSA with keys in the clear.
//!
//! A CRT request carries p, q, dp, dq and u, but neither n, e nor d, and OpenSSL computes twice as fast with a complete key
//! object that lives longer than one request. So the missing numbers are derived once per key and session: e is the
//! inverse of dp modulo p-1, n is pq, d is the inverse of e modulo (p-1)(q-1). Where no e belongs to both dp and dq (e
//! greater than both primes), or OpenSSL's result for the first message differs from the Chinese remainder theorem worked
//! out here, the key is computed by the latter for good.

use super::message::ReplyCode;
use super::session::{Name, Session};
use openssl::bn::{BigNum, BigNumContext, BigNumContextRef};
use openssl::error::ErrorStack;
use openssl::pkey::Private;
use openssl::rsa::{Padding, Rsa, RsaPrivateKeyBuilder};
use openssl::sha::Sha256;
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// Longest modulus in bytes: 4096 bits.
pub(super) const MAX_MODULUS: usize = 512;
/// The same in bits.
const MAX_BITS: i32 = 8 * MAX_MODULUS as i32;
/// OpenSSL's key objects are for keys, not for toys.
const MIN_OPENSSL_BITS: i32 = 512;
/// Longest exponent that certainly is no secret.
const PUBLIC_EXPONENT_BITS: i32 = 64;

/// Why a computation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The modulus or a prime is even.
    EvenModulus,
    /// A number is too long.
    Size,
    /// The message is not below the modulus.
    Message,
    /// The parts of the key do not belong together, or one of them can be in no key.
    Key,
    /// OpenSSL failed: the host lacks memory.
    Machine,
}

impl From<ErrorStack> for Refusal {
    fn from(e: ErrorStack) -> Self {
        log::warn!("compute with RSA: {e}");
        Self::Machine
    }
}

impl From<Refusal> for ReplyCode {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::EvenModulus => Self::EvenModulus,
            Refusal::Size => Self::OperandSize,
            Refusal::Message | Refusal::Key => Self::Operand,
            Refusal::Machine => Self::MachineFailure,
        }
    }
}

/// `message` to the power of `exponent` modulo `modulus`, as `len` bytes. All numbers may have leading zeros.
pub(super) fn mod_exp(
    modulus: &[u8],
    exponent: &[u8],
    message: &[u8],
    len: usize,
) -> Result<Vec<u8>, Refusal> {
    let (n, mut e, m) = (Secret::new(modulus)?, Secret::new(exponent)?, Secret::new(message)?);
    // The exponent is bounded too: the time of a computation is the product of both lengths.
    if n.bits() > MAX_BITS || e.bits() > MAX_BITS {
        return Err(Refusal::Size);
    }
    if n.bits() < 2 || e.bits() == 0 {
        return Err(Refusal::Key);
    }
    if !n.0.is_odd() {
        return Err(Refusal::EvenModulus);
    }
    if m.0 >= n.0 {
        return Err(Refusal::Message);
    }
    if e.bits() > PUBLIC_EXPONENT_BITS {
        e.0.set_const_time();
    }
    let mut r = Secret::zero()?;
    r.0.mod_exp(&m.0, &e.0, &n.0, &mut *BigNumContext::new()?)?;
    r.bytes(len)
}

/// The parts of a CRT key as a request carries them: big-endian, with any number of leading zeros, p above q or below.
#[derive(Clone, Copy)]
pub(super) struct CrtParts<'a> {
    pub(super) p: &'a [u8],
    pub(super) q: &'a [u8],
    /// d modulo p-1.
    pub(super) dp: &'a [u8],
    /// d modulo q-1.
    pub(super) dq: &'a [u8],
    /// The inverse of q modulo p.
    pub(super) u: &'a [u8],
}

impl CrtParts<'_> {
    fn name(&self) -> Name {
        let mut hash = Sha256::new();
        for part in [self.p, self.q, self.dp, self.dq, self.u] {
            let zeros = part.iter().take_while(|&&b| b == 0).count();
            let part = &part[zeros..];
            hash.update(&(part.len() as u32).to_be_bytes());
            hash.update(part);
        }
        hash.finish()
    }
}

/// The private operation on `message`, as `len` bytes.
pub(super) fn crt(
    session: &Session,
    parts: CrtParts<'_>,
    message: &[u8],
    len: usize,
) -> Result<Vec<u8>, Refusal> {
    let mut name = parts.name();
    match session.key(&name) {
        Ok(key) => {
            name.zeroize();
            key.compute(message, len)
        }
        Err(ticket) => {
            let mut key = CrtKey::new(parts)?;
            let result = key.compute_first(message, len)?;
            session.store(ticket, name, Arc::new(key));
            Ok(result)
        }
    }
}

/// A CRT key, ready for use.
pub(super) struct CrtKey {
    n: BigNum,
    p: Secret,
    q: Secret,
    dp: Secret,
    dq: Secret,
    u: Secret,
    /// OpenSSL's key object, where one gives the right results.
    openssl: Option<Rsa<Private>>,
}

impl CrtKey {
    /// Checks the parts as far as a key must fulfil them for its results to make sense: p and q odd, u the inverse of q,
    /// dp and dq invertible as each private exponent is.
    fn new(parts: CrtParts<'_>) -> Result<Self, Refusal> {
        let ctx = &mut *BigNumContext::new()?;
        let (p, q) = (Secret::constant_time(parts.p)?, Secret::constant_time(parts.q)?);
        if p.bits() > MAX_BITS || q.bits() > MAX_BITS {
            return Err(Refusal::Size);
        }
        if p.bits() < 2 || q.bits() < 2 {
            return Err(Refusal::Key);
        }
        if !(p.0.is_odd() && q.0.is_odd()) {
            return Err(Refusal::EvenModulus);
        }
        let mut n = BigNum::new()?;
        n.checked_mul(&p.0, &q.0, ctx)?;
        if n.num_bits() > MAX_BITS {
            return Err(Refusal::Size);
        }
        let (p1, q1) = (p.minus_one()?, q.minus_one()?);
        let dp = Secret::constant_time(parts.dp)?.modulo(&p1, ctx)?;
        let dq = Secret::constant_time(parts.dq)?.modulo(&q1, ctx)?;
        let u = Secret::constant_time(parts.u)?.modulo(&p, ctx)?;
        if !u.is_inverse(&q, &p, ctx)? {
            return Err(Refusal::Key);
        }
        let (Some(ep), Some(eq)) = (dp.inverse(&p1, ctx)?, dq.inverse(&q1, ctx)?) else {
            return Err(Refusal::Key);
        };
        let e = if ep.is_inverse(&dq, &q1, ctx)? {
            Some(ep)
        } else if eq.is_inverse(&dp, &p1, ctx)? {
            Some(eq)
        } else {
            None
        };
        let mut key = Self { n, p, q, dp, dq, u, openssl: None };
        // With e = 1 there is nothing to compute, and OpenSSL's check of its result would be none.
        if let Some(e) = e.filter(|e| e.bits() > 1 && key.n.num_bits() >= MIN_OPENSSL_BITS) {
            key.openssl = key.build(e, &p1, &q1, ctx)?;
        }
        Ok(key)
    }

    fn build(
        &self,
        e: Secret,
        p1: &Secret,
        q1: &Secret,
        ctx: &mut BigNumContextRef,
    ) -> Result<Option<Rsa<Private>>, Refusal> {
        let mut phi = Secret::zero()?;
        phi.0.checked_mul(&p1.0, &q1.0, ctx)?;
        phi.0.set_const_time();
        let Some(d) = e.inverse(&phi, ctx)? else { return Ok(None) };
        // OpenSSL wipes the secret ones when it frees the key.
        let rsa = RsaPrivateKeyBuilder::new(self.n.to_owned()?, e.0.to_owned()?, d.0.to_owned()?)?
            .set_factors(self.p.0.to_owned()?, self.q.0.to_owned()?)?
            .set_crt_params(self.dp.0.to_owned()?, self.dq.0.to_owned()?, self.u.0.to_owned()?)?
            .build();
        Ok(Some(rsa))
    }

    fn compute(&self, message: &[u8], len: usize) -> Result<Vec<u8>, Refusal> {
        let message = self.check(message)?;
        match &self.openssl {
            Some(rsa) => openssl_private(rsa, &message, len),
            None => self.theorem(&message)?.bytes(len),
        }
    }

    /// As [`compute`](Self::compute), and finds out whether OpenSSL computes what the key's parts say.
    fn compute_first(&mut self, message: &[u8], len: usize) -> Result<Vec<u8>, Refusal> {
        let message = self.check(message)?;
        let result = self.theorem(&message)?.bytes(len)?;
        if let Some(rsa) = &self.openssl
            && openssl_private(rsa, &message, len).map(Zeroizing::new) != Ok(Zeroizing::new(result.clone()))
        {
            self.openssl = None;
        }
        Ok(result)
    }

    fn check(&self, message: &[u8]) -> Result<Secret, Refusal> {
        let message = Secret::constant_time(message)?;
        if message.0 < self.n { Ok(message) } else { Err(Refusal::Message) }
    }

    /// The Chinese remainder theorem: q * (u * (m^dp - m^dq) mod p) + m^dq, with m^dp modulo p and m^dq modulo q.
    fn theorem(&self, message: &Secret) -> Result<Secret, Refusal> {
        let ctx = &mut *BigNumContext::new()?;
        let mut power = |exponent: &Secret, modulus: &Secret| -> Result<Secret, Refusal> {
            let base = message.modulo(modulus, ctx)?;
            let mut r = Secret::zero()?;
            r.0.mod_exp(&base.0, &exponent.0, &modulus.0, ctx)?;
            Ok(r)
        };
        let (mp, mq) = (power(&self.dp, &self.p)?, power(&self.dq, &self.q)?);
        let (mut difference, mut h, mut r) = (Secret::zero()?, Secret::zero()?, Secret::zero()?);
        difference.0.mod_sub(&mp.0, &mq.0, &self.p.0, ctx)?;
        h.0.mod_mul(&difference.0, &self.u.0, &self.p.0, ctx)?;
        difference.0.checked_mul(&h.0, &self.q.0, ctx)?;
        r.0.checked_add(&difference.0, &mq.0)?;
        Ok(r)
    }
}

fn openssl_private(rsa: &Rsa<Private>, message: &Secret, len: usize) -> Result<Vec<u8>, Refusal> {
    let size = rsa.size() as usize;
    let message = Zeroizing::new(message.bytes(size)?);
    // OpenSSL writes `size` bytes; the number is as long as n at most.
    let mut result = Zeroizing::new(vec![0; size]);
    rsa.private_encrypt(&message, &mut result, Padding::NONE)?;
    right_aligned(&result, len)
}

/// `number` in `len` bytes, when it fits.
fn right_aligned(number: &[u8], len: usize) -> Result<Vec<u8>, Refusal> {
    let zeros = number.iter().take_while(|&&b| b == 0).count();
    let number = &number[zeros..];
    let mut bytes = vec![0; len];
    let at = len.checked_sub(number.len()).ok_or(Refusal::Size)?;
    bytes[at..].copy_from_slice(number);
    Ok(bytes)
}

/// A number that is wiped when it is no longer needed.
struct Secret(BigNum);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.clear();
    }
}

impl Secret {
    fn zero() -> Result<Self, Refusal> {
        Ok(Self(BigNum::new()?))
    }

    fn new(bytes: &[u8]) -> Result<Self, Refusal> {
        Ok(Self(BigNum::from_slice(bytes)?))
    }

    /// A number whose value shall not show in the time that computations with it take.
    fn constant_time(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut number = Self::new(bytes)?;
        number.0.set_const_time();
        Ok(number)
    }

    fn bits(&self) -> i32 {
        self.0.num_bits()
    }

    fn bytes(&self, len: usize) -> Result<Vec<u8>, Refusal> {
        let bytes = Zeroizing::new(self.0.to_vec());
        right_aligned(&bytes, len)
    }

    fn minus_one(&self) -> Result<Self, Refusal> {
        let mut r = Self(self.0.to_owned()?);
        r.0.sub_word(1)?;
        r.0.set_const_time();
        Ok(r)
    }

    fn modulo(&self, modulus: &Self, ctx: &mut BigNumContextRef) -> Result<Self, Refusal> {
        let mut r = Self::zero()?;
        r.0.nnmod(&self.0, &modulus.0, ctx)?;
        r.0.set_const_time();
        Ok(r)
    }

    /// The inverse, if there is one.
    fn inverse(&self, modulus: &Self, ctx: &mut BigNumContextRef) -> Result<Option<Self>, Refusal> {
        let mut r = Self::zero()?;
        // OpenSSL reports "no inverse" as an error; a lack of memory looks the same here.
        if r.0.mod_inverse(&self.0, &modulus.0, ctx).is_err() {
            return Ok(None);
        }
        r.0.set_const_time();
        Ok(Some(r))
    }

    fn is_inverse(&self, of: &Self, modulus: &Self, ctx: &mut BigNumContextRef) -> Result<bool, Refusal> {
        let mut r = Self::zero()?;
        r.0.mod_mul(&self.0, &of.0, &modulus.0, ctx)?;
        Ok(r.bits() == 1)
    }
}
