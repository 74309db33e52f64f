//! Checks, their lines and the verdict.
//!
//! A line is `ok NAME`, `FAIL NAME got … want …`, or `none NAME why` for what the machine does not have. The last one is
//! `verdict PROGRAM pass|fail|none: n ok, n failed, n none`.

use core::fmt::{Arguments, Debug};
use core::panic::PanicInfo;

use crate::machine::{cr0, set_cr0};
use crate::{entry, sclp};

/// The program's checks so far.
#[derive(Debug)]
pub struct Checks {
    program: &'static str,
    ok: u32,
    failed: u32,
    none: u32,
}

impl Checks {
    /// Runs the program to its end.
    pub fn run(program: &'static str, main: fn(&mut Checks)) -> ! {
        set_cr0(cr0::AFP);
        entry::prepare(0, 0);
        sclp::open_console();
        let mut checks = Checks { program, ok: 0, failed: 0, none: 0 };
        main(&mut checks);
        checks.end()
    }

    /// Checks that `got` is `want`.
    pub fn equal<T: PartialEq + Debug>(&mut self, name: impl core::fmt::Display, got: T, want: T) {
        if got == want {
            self.ok += 1;
            sclp::print(format_args!("ok {name}\n"));
        } else {
            self.failed += 1;
            sclp::print(format_args!("FAIL {name} got {got:x?} want {want:x?}\n"));
        }
    }

    /// Checks that something holds.
    pub fn holds(&mut self, name: impl core::fmt::Display, holds: bool) {
        self.equal(name, holds, true);
    }

    /// Notes that the machine does not have what the checks are about whose names begin with `name`.
    pub fn none(&mut self, name: impl core::fmt::Display, why: &str) {
        self.none += 1;
        sclp::print(format_args!("none {name} {why}\n"));
    }

    /// Prints the verdict and ends the run.
    pub fn end(&mut self) -> ! {
        let verdict = match (self.failed, self.ok) {
            (0, 0) => "none",
            (0, _) => "pass",
            _ => "fail",
        };
        let Self { program, ok, failed, none, .. } = self;
        sclp::print(format_args!("verdict {program} {verdict}: {ok} ok, {failed} failed, {none} none\n"));
        crate::cpus::halt()
    }
}

/// Ends the program where it cannot go on.
pub(crate) fn give_up(why: Arguments<'_>) -> ! {
    sclp::print(format_args!("FAIL {why}\nverdict fail\n"));
    crate::cpus::halt()
}

#[panic_handler]
fn panicked(info: &PanicInfo<'_>) -> ! {
    give_up(format_args!("panic: {info}"))
}
