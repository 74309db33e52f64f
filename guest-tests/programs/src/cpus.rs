//! The other CPU.

use crate::{Taken, encode, entry, step};

/// Prefix area of CPU 1.
pub const PREFIX_1: u64 = 0x1e_0000;

/// SIGP orders.
pub mod order {
    /// SENSE.
    pub const SENSE: u64 = 1;
    /// EXTERNAL CALL.
    pub const EXTERNAL_CALL: u64 = 2;
    /// EMERGENCY SIGNAL.
    pub const EMERGENCY_SIGNAL: u64 = 3;
    /// START.
    pub const START: u64 = 4;
    /// STOP.
    pub const STOP: u64 = 5;
    /// RESTART.
    pub const RESTART: u64 = 6;
    /// STOP AND STORE STATUS.
    pub const STOP_AND_STORE_STATUS: u64 = 9;
    /// INITIAL CPU RESET.
    pub const INITIAL_CPU_RESET: u64 = 11;
    /// SET PREFIX.
    pub const SET_PREFIX: u64 = 13;
    /// STORE STATUS AT ADDRESS.
    pub const STORE_STATUS_AT_ADDRESS: u64 = 14;
    /// SET ARCHITECTURE.
    pub const SET_ARCHITECTURE: u64 = 18;
}

/// SIGNAL PROCESSOR: condition code and status, which is zero unless it was stored.
pub fn sigp(cpu: u64, order: u64, parameter: u64) -> Result<(u8, u32), Taken> {
    let mut gr = [0; 16];
    (gr[2], gr[3], gr[5]) = (0, parameter, cpu);
    let cc = step(encode::rs(0xae, 2, 5, order, 0), &mut gr).executed()?;
    Ok((cc, gr[2] as u32))
}

/// The same, until the CPU is not busy.
pub fn sigp_when_ready(cpu: u64, order: u64, parameter: u64) -> Result<(u8, u32), Taken> {
    loop {
        match sigp(cpu, order, parameter) {
            Ok((2, _)) => {}
            other => return other,
        }
    }
}

/// Lets CPU 1, which is stopped, run `main`. False when there is none.
pub fn start(main: extern "C" fn()) -> bool {
    entry::prepare_start(PREFIX_1, 1, main);
    sigp_when_ready(1, order::SET_PREFIX, PREFIX_1) == Ok((0, 0))
        && sigp_when_ready(1, order::RESTART, 0) == Ok((0, 0))
}

/// To be called by CPU 1 before its first step: from then on a restart is an interruption.
pub fn started() {
    entry::prepare(0, 1);
}

/// Counts rounds for ever, with `mark` in general register 7.
pub fn count(rounds: &core::sync::atomic::AtomicU64, mark: u64) -> ! {
    // SAFETY: a loop that changes nothing but the counter.
    unsafe {
        core::arch::asm!(
            "0: lg %r1, 0(%r2)", "aghi %r1, 1", "stg %r1, 0(%r2)", "j 0b",
            in("r2") rounds.as_ptr(), in("r7") mark, options(noreturn)
        )
    }
}

/// Waits until CPU 1 has stopped.
pub fn until_stopped() -> bool {
    crate::machine::until(|| sigp(1, order::SENSE, 0) == Ok((1, 0x40)))
}

/// Stops CPU 1 if it runs, and waits disabled at an address that means "done".
pub fn halt() -> ! {
    let _ = sigp_when_ready(1, order::STOP, 0);
    loop {
        let mut gr = [0; 16];
        let psw = crate::FREE + 0x1000;
        crate::machine::store_all(psw, &[crate::mask::BITS_64 | crate::mask::WAIT, 0xfff]);
        gr[1] = psw;
        step(encode::s(0xb2b2, 0, 1), &mut gr);
    }
}
