//! Filters of system calls: rules into BPF, BPF into the kernel.
//!
//! Own code since the crate for it knows no s390x. Sources: Linux `Documentation/userspace-api/seccomp_filter.rst`, `include/uapi/linux/{filter,seccomp,audit}.h`.

use std::io;

use libc::{c_long, sock_filter, sock_fprog};

/// What the kernel tells a filter, by offset: the number of the system call, the architecture, six arguments of 8 bytes.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// Where the low half of an argument is in it.
const LOW: u32 = if cfg!(target_endian = "big") { 4 } else { 0 };

/// `AUDIT_ARCH_…` of the architecture this is compiled for, or nothing if filters were never tried there.
const NATIVE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "s390x") {
    Some(0x8000_0016)
} else {
    None
};
/// From this number on x86_64 has the calls of another ABI, which would get around the rules.
const X32: Option<u32> = if cfg!(target_arch = "x86_64") { Some(0x4000_0000) } else { None };

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_NOT_BELOW: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const SECCOMP_SET_MODE_FILTER: c_long = 1;

/// What happens with a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is carried out.
    Allow,
    /// It is carried out, and the kernel's audit log gets a line.
    Log,
    /// It fails with this errno.
    Fail(i32),
    /// The process ends with SIGSYS.
    Kill,
}

impl Verdict {
    fn code(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::Log => 0x7ffc_0000,
            Self::Fail(errno) => 0x0005_0000 | (errno as u32 & 0xffff),
            Self::Kill => 0x8000_0000,
        }
    }
}

/// A condition on the low 32 bits of an argument, all that any rule asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Whatever the arguments are.
    Always,
    /// Argument `.0` is one of these.
    OneOf(u8, &'static [u32]),
    /// Argument `.0` has none of these bits.
    Without(u8, u32),
    /// Argument `.0` has one of these bits.
    With(u8, u32),
}

/// A system call's verdict under a condition; where the condition does not hold the filter's own verdict stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its number.
    pub call: c_long,
    /// The condition.
    pub when: When,
    /// The verdict.
    pub verdict: Verdict,
}

/// The program for these rules; what none of them names gets `otherwise`. Each system call may be named once.
pub fn program(rules: &[Rule], otherwise: Verdict) -> Vec<sock_filter> {
    let native = NATIVE.unwrap_or_default();
    let mut code = vec![
        load(ARCHITECTURE),
        jump(IF_EQUAL, native, 1, 0),
        ret(Verdict::Kill), // numbers of another architecture mean other calls
        load(NUMBER),
    ];
    if let Some(first) = X32 {
        code.extend([jump(IF_NOT_BELOW, first, 0, 1), ret(otherwise)]);
    }
    for rule in rules {
        let body = body(rule, otherwise);
        let length = u8::try_from(body.len()).expect("a rule has a few instructions");
        code.push(jump(IF_EQUAL, rule.call as u32, 0, length));
        code.extend(body);
    }
    code.push(ret(otherwise));
    code
}

/// What decides once the number is that of `rule`: it ends in one verdict or the other.
fn body(rule: &Rule, otherwise: Verdict) -> Vec<sock_filter> {
    let argument = |n: u8| load(ARGUMENTS + 8 * u32::from(n) + LOW);
    let (yes, no) = (ret(rule.verdict), ret(otherwise));
    match rule.when {
        When::Always => vec![yes],
        When::Without(n, bits) => vec![argument(n), jump(IF_ANY_BIT, bits, 1, 0), yes, no],
        When::With(n, bits) => vec![argument(n), jump(IF_ANY_BIT, bits, 0, 1), yes, no],
        When::OneOf(n, values) => {
            let mut code = vec![argument(n)];
            for (i, &value) in values.iter().enumerate() {
                // Over the comparisons that follow and the other verdict.
                let rest = u8::try_from(values.len() - i).expect("a rule names a few values");
                code.push(jump(IF_EQUAL, value, rest, 0));
            }
            code.extend([no, yes]);
            code
        }
    }
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: LOAD, jt: 0, jf: 0, k: offset }
}

fn jump(code: u16, value: u32, if_so: u8, if_not: u8) -> sock_filter {
    sock_filter { code, jt: if_so, jf: if_not, k: value }
}

fn ret(verdict: Verdict) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k: verdict.code() }
}

/// Puts the calling thread, and all that it will start, under a program, in addition to those it is under already. The
/// process must have given up new privileges.
///
/// # Errors
/// `Unsupported` on an architecture that the rules are not written for, and the kernel's.
pub fn enter(program: &[sock_filter]) -> io::Result<()> {
    if NATIVE.is_none() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let length = program.len().try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions at `filter`, which outlives the call, and checks them; it writes nothing.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0 as c_long, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Calls the kernel with no arguments. For tests of filters.
#[cfg(test)]
pub fn call(number: c_long) -> c_long {
    // SAFETY: the tests name calls that take no pointers, or end before they use one.
    unsafe { libc::syscall(number, 0 as c_long, 0 as c_long, 0 as c_long, 0 as c_long) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Executes a program as the kernel would.
    fn verdict(program: &[sock_filter], call: c_long, arguments: [u64; 6]) -> u32 {
        let mut data = [0u8; 64];
        data[..4].copy_from_slice(&(call as u32).to_ne_bytes());
        data[4..8].copy_from_slice(&NATIVE.unwrap_or_default().to_ne_bytes());
        for (n, argument) in arguments.iter().enumerate() {
            data[16 + 8 * n..][..8].copy_from_slice(&argument.to_ne_bytes());
        }
        let (mut at, mut a) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            let go = |yes: bool| usize::from(if yes { i.jt } else { i.jf });
            match i.code {
                LOAD => a = u32::from_ne_bytes(data[i.k as usize..][..4].try_into().unwrap()),
                IF_EQUAL => at += go(a == i.k),
                IF_NOT_BELOW => at += go(a >= i.k),
                IF_ANY_BIT => at += go(a & i.k != 0),
                RETURN => return i.k,
                code => panic!("instruction {code:x}"),
            }
        }
    }

    #[test]
    fn rules() {
        use Verdict::*;
        let rule = |call, when, verdict| Rule { call, when, verdict };
        let rules = [
            rule(3, When::Always, Allow),
            rule(5, When::OneOf(1, &[7, 8, 9]), Allow),
            rule(6, When::Without(2, 4), Allow),
            rule(7, When::With(0, 0x10), Fail(38)),
            rule(9, When::Always, Fail(13)),
        ];
        let program = program(&rules, Kill);
        let big = 0xdead_beef_0000_0000u64;
        for (call, arguments, want) in [
            (3, [0; 6], Allow),
            (4, [0; 6], Kill),
            (5, [0, 7, 0, 0, 0, 0], Allow),
            (5, [0, 8, 0, 0, 0, 0], Allow),
            (5, [0, big | 9, 0, 0, 0, 0], Allow),
            (5, [7, 6, 0, 0, 0, 0], Kill),
            (6, [4, 4, 3, 0, 0, 0], Allow),
            (6, [0, 0, 7, 0, 0, 0], Kill),
            (7, [0x30, 0, 0, 0, 0, 0], Fail(38)),
            (7, [0x20, 0, 0, 0, 0, 0], Kill),
            (9, [0; 6], Fail(13)),
            (10, [0; 6], Kill),
        ] {
            assert_eq!(verdict(&program, call, arguments), want.code(), "{call} {arguments:?}");
        }
        if let Some(first) = X32 {
            assert_eq!(verdict(&program, i64::from(first) + 3, [0; 6]), Kill.code());
        }
        let mut foreign = program.clone();
        foreign[1].k += 1;
        assert_eq!(verdict(&foreign, 3, [0; 6]), Kill.code());
    }
}
