//! The first instructions, the interruption stubs, and the way into a step and back.
//!
//! What a CPU needs in its prefix area, by real address: E00 its registers at an interruption, E80 the step that it is
//! in or 0, E88 its stack in a step, E90 a PSW to load, EA0 its stack for what nobody expected, EA8 its number, EB0 what it
//! begins with.

use core::arch::global_asm;

use crate::machine::lowcore;

global_asm!(
    r#"
    .section .text.start, "ax", @progbits
    .globl _start
_start:
    larl %r15, {stack}
    aghi %r15, {first}
    brasl %r14, program
0:  j 0b

    .text
    .globl enter_step
enter_step:                             # %r2: registers, PSW, kind
    stmg %r6, %r15, 48(%r15)
    stg %r15, 0xe88
    stg %r2, 0xe80
    mvc 0xe90(16), 128(%r2)
    lmg %r0, %r15, 0(%r2)
    lpswe 0xe90

    .globl on_restart, on_external, on_svc, on_program, on_machine_check, on_io, on_start
on_restart:
    stmg %r0, %r15, 0xe00
    lghi %r1, 0x120
    j taken
on_external:
    stmg %r0, %r15, 0xe00
    lghi %r1, 0x130
    j taken
on_svc:
    stmg %r0, %r15, 0xe00
    lghi %r1, 0x140
    j taken
on_program:
    stmg %r0, %r15, 0xe00
    lghi %r1, 0x150
    j taken
on_machine_check:
    stmg %r0, %r15, 0xe00
    lghi %r1, 0x160
    j taken
on_io:
    stmg %r0, %r15, 0xe00
    lghi %r1, 0x170
taken:
    lg %r2, 0xe80
    ltgr %r2, %r2
    jz stray
    mvc 0(128, %r2), 0xe00
    mvc 128(16, %r2), 0(%r1)
    stg %r1, 144(%r2)
    xc 0xe80(8), 0xe80
    lg %r15, 0xe88
    lmg %r6, %r15, 48(%r15)
    br %r14
stray:
    lg %r15, 0xea0
    lgr %r2, %r1
    brasl %r14, unexpected
0:  j 0b
    .globl reset_by_diagnose
reset_by_diagnose:                      # %r2: subcode, %r3: what general register 7 holds
    stmg %r6, %r15, 48(%r15)
    larl %r1, saved
    stg %r15, 0(%r1)
    larl %r1, on_reset
    oilh %r1, 0x8000
    llihh %r5, 0x0008
    ogr %r1, %r5
    stg %r1, 0
    lgr %r4, %r2
    lgr %r7, %r3
    lghi %r2, 0
    diag %r2, %r4, 0x308
    lghi %r2, -1                        # it came back
    j 2f
on_reset:
    sam64
    lgr %r2, %r7
2:  larl %r1, saved
    lg %r15, 0(%r1)
    lmg %r6, %r15, 48(%r15)
    br %r14
    .balign 8
on_start:                               # a CPU that another one started
    lg %r15, 0xea0
    lg %r1, 0xeb0
    basr %r14, %r1
1:  larl %r2, stopped
    lpswe 0(%r2)
    j 1b
    .balign 8
stopped: .quad 0x0002000180000000, 0xfff
    .data
    .balign 8
saved: .quad 0
"#,
    stack = sym STACKS,
    first = const STACK - FRAME,
);

/// Size of a stack, and of the area below it that a callee may use.
const STACK: usize = 16 << 10;
const FRAME: usize = 160;
/// One for each CPU, one for each CPU's unexpected interruptions.
#[repr(C, align(4096))]
struct Stacks([u8; STACK * 4]);
static mut STACKS: Stacks = Stacks([0; STACK * 4]);

unsafe extern "C" {
    fn on_restart();
    fn on_external();
    fn on_svc();
    fn on_program();
    fn on_machine_check();
    fn on_io();
    fn on_start();
    fn reset_by_diagnose(subcode: u64, gr7: u64) -> u64;
}

/// Resets the machine by DIAGNOSE 308 with a subcode that keeps storage, and goes on here. Answers with general
/// register 7, which held `gr7` before, or `None` when there was no reset. The control registers are as the reset left them.
pub fn reset(subcode: u64, gr7: u64) -> Option<u64> {
    // SAFETY: the function keeps the registers that a callee keeps; PSW and registers of the reset lead back into it.
    let after = unsafe { reset_by_diagnose(subcode, gr7) };
    crate::sclp::open_console();
    (after != u64::MAX).then_some(after)
}

/// Prepares the prefix area at `area` for CPU `cpu`, 0 or 1, to take interruptions.
pub(crate) fn prepare(area: u64, cpu: u64) {
    for (at, stub) in [
        (lowcore::RESTART_NEW, on_restart as unsafe extern "C" fn()),
        (lowcore::EXTERNAL_NEW, on_external),
        (lowcore::SVC_NEW, on_svc),
        (lowcore::PROGRAM_NEW, on_program),
        (lowcore::MACHINE_CHECK_NEW, on_machine_check),
        (lowcore::IO_NEW, on_io),
    ] {
        crate::machine::store(area + at, crate::mask::BITS_64);
        crate::machine::store(area + at + 8, stub as usize as u64);
    }
    let top = |n: u64| (&raw const STACKS) as u64 + STACK as u64 * (n + 1) - FRAME as u64;
    crate::machine::store(area + 0xe80, 0);
    crate::machine::store(area + 0xea0, top(2 + cpu));
    crate::machine::store(area + 0xea8, cpu);
}

/// Lets the CPU with the prefix area at `area` begin with `main` when it is restarted.
pub(crate) fn prepare_start(area: u64, cpu: u64, main: extern "C" fn()) {
    prepare(area, cpu);
    crate::machine::store(
        area + lowcore::RESTART_NEW + 8,
        on_start as unsafe extern "C" fn() as usize as u64,
    );
    let top = (&raw const STACKS) as u64 + STACK as u64 * (cpu + 1) - FRAME as u64;
    crate::machine::store(area + 0xea0, top);
    crate::machine::store(area + 0xeb0, main as usize as u64);
}

/// An interruption outside a step.
#[unsafe(no_mangle)]
extern "C" fn unexpected(old_psw: u64) -> ! {
    use crate::machine::load;
    crate::check::give_up(format_args!(
        "interruption with old PSW at {old_psw:x}: {:x} {:x}, program code {:x}",
        load(old_psw),
        load(old_psw + 8),
        load(lowcore::PROGRAM_ILC)
    ))
}
