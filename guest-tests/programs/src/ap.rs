//! AP instructions (Linux, `arch/s390/include/asm/ap.h`), and the cards that `ap-host.json` gives the programs.

use crate::machine::until;
use crate::{Outcome, Taken, encode, mask, step, step_with};

/// A queue: adapter and domain.
pub const fn apqn(adapter: u64, domain: u64) -> u64 {
    adapter << 8 | domain
}

/// The CCA coprocessor's queue, the accelerator's, the EP11 coprocessor's, in one domain.
pub const CCA: u64 = apqn(5, 4);
/// The accelerator's queue.
pub const ACCELERATOR: u64 = apqn(6, 4);
/// The EP11 coprocessor's queue.
pub const EP11: u64 = apqn(10, 4);
/// Adapters and domains that there are.
pub const ADAPTERS: [u64; 3] = [5, 6, 10];
/// Domains.
pub const DOMAINS: [u64; 2] = [4, 0x47];

/// Function codes of PQAP.
pub mod function {
    /// Test.
    pub const TAPQ: u64 = 0;
    /// Reset.
    pub const RAPQ: u64 = 1;
    /// Zeroize.
    pub const ZAPQ: u64 = 2;
    /// Interruption control.
    pub const AQIC: u64 = 3;
    /// Query configuration.
    pub const QCI: u64 = 4;
}

/// Bits of general register 0 of TAPQ, NQAP and DQAP: facilities; last part; first part.
pub const T_BIT: u64 = 1 << 23;
/// NQAP: the last part of the message.
pub const LAST_PART: u64 = 1 << 30;
/// DQAP: the first part of the reply.
pub const FIRST_PART: u64 = 1 << 31;

/// PQAP's encoding.
pub const PQAP: u64 = encode::rre(0xb2af, 0, 0);

/// The status word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// Neither request nor reply.
    pub const EMPTY: u32 = 1 << 31;
    /// A reply waits.
    pub const REPLIES: u32 = 1 << 30;
    /// No request fits.
    pub const FULL: u32 = 1 << 29;
    /// Interruptions are enabled.
    pub const INTERRUPTIONS: u32 = 1 << 24;

    /// The response code.
    pub fn code(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// Whether a bit is on.
    pub fn is(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

impl core::fmt::Debug for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// PQAP with these registers: how it ended, general registers 1 and 2.
pub fn pqap(gr0: u64, gr1: u64, gr2: u64) -> (Outcome, u64, u64) {
    let mut gr = [0; 16];
    (gr[0], gr[1], gr[2]) = (gr0, gr1, gr2);
    let outcome = step(PQAP, &mut gr);
    (outcome, gr[1], gr[2])
}

/// A function of PQAP on a queue: condition code and status, or what happened.
pub fn function(code: u64, apqn: u64, gr1: u64, gr2: u64) -> Result<(u8, Status), Taken> {
    let (outcome, gr1, _) = pqap(code << 24 | apqn, gr1, gr2);
    Ok((outcome.executed()?, Status(gr1 as u32)))
}

/// TAPQ: the status.
pub fn status(apqn: u64) -> Status {
    Status(pqap(apqn, 0, 0).1 as u32)
}

/// TAPQ: the response code.
pub fn code(apqn: u64) -> u8 {
    status(apqn).code()
}

/// Whether there are AP instructions; else what TAPQ does.
pub fn present() -> Result<(), Taken> {
    pqap(0, 0, 0).0.executed().map(|_| ())
}

/// Resets a queue (RAPQ or ZAPQ) and waits for the end of it. True when it ends with an empty queue.
pub fn reset(code: u64, apqn: u64) -> bool {
    matches!(function(code, apqn, 0, 0), Ok((0, _)))
        && until(|| self::code(apqn) != 2)
        && status(apqn) == Status(Status::EMPTY)
}

/// What NQAP and DQAP leave behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// How the instruction ended.
    pub outcome: Outcome,
    /// The status, unless the instruction left general register 1 alone.
    pub status: Status,
    /// General register 0.
    pub gr0: u64,
    /// General register 2.
    pub gr2: u64,
    /// The pair of the program-supplied identifier.
    pub psmid: [u64; 2],
    /// Address and length of the operand.
    pub operand: [u64; 2],
}

fn transfer(instruction: u64, gr0: u64, psmid: [u64; 2], operand: [u64; 2], mask: u64) -> Transfer {
    let mut gr = [0; 16];
    (gr[0], gr[1], gr[4], gr[5]) = (gr0, 0xdead_dead, psmid[0], psmid[1]);
    (gr[6], gr[7]) = (operand[0], operand[1]);
    let outcome = step_with(instruction, &mut gr, mask);
    let status = Status(gr[1] as u32);
    Transfer { outcome, status, gr0: gr[0], gr2: gr[2], psmid: [gr[4], gr[5]], operand: [gr[6], gr[7]] }
}

/// NQAP of a message in storage.
pub fn nqap(gr0: u64, psmid: u64, at: u64, length: u64, mask: u64) -> Transfer {
    let psmid = [psmid >> 32, psmid & 0xffff_ffff];
    transfer(encode::rre(0xb2ad, 4, 6), gr0, psmid, [at, length], mask)
}

/// DQAP into a buffer.
pub fn dqap(gr0: u64, at: u64, room: u64, mask: u64) -> Transfer {
    transfer(encode::rre(0xb2ae, 4, 6), gr0, [u64::MAX; 2], [at, room], mask)
}

/// Enqueues a message: response code.
pub fn send(apqn: u64, psmid: u64, at: u64, length: usize) -> u8 {
    nqap(LAST_PART | apqn, psmid, at, length as u64, mask::BITS_64).status.code()
}

/// Waits for a reply and dequeues it: the identifier, and the reply's length. `None` when none comes.
pub fn receive(apqn: u64, at: u64) -> Option<(u64, usize)> {
    const ROOM: u64 = 0x3000;
    let mut last = None;
    until(|| {
        let got = dqap(FIRST_PART | apqn, at, ROOM, mask::BITS_64);
        last = (got.outcome.cc == 0).then_some(got);
        got.status.code() != 0x10
    });
    let got = last?;
    Some(((got.psmid[0] & 0xffff_ffff) << 32 | got.psmid[1] & 0xffff_ffff, (ROOM - got.operand[1]) as usize))
}
