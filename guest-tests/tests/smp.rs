//! Two CPUs on one storage: signals, interlocked updates, page invalidation and changing code.

#![forbid(unsafe_code)]

use guest_tests::{Ap, Ended, Guest, assemble};

/// What every program here has: the start of CPU 1 at the label `restart` with its prefix area at 10000, and
/// ends. `boot` is called with %r14.
const COMMON: &str = "
boot:   llilf %r5,0x10000
        mvc 0x1a0(96,%r5),0x1a0(%r0)
        lghi %r2,1
prefix: sigp %r5,%r2,13
        jh prefix
        jnz wrong
again:  sigp %r5,%r2,6
        jh again
        jnz wrong
        br %r14
finish: larl %r1,done
        lpswe 0(%r1)
wrong:  larl %r1,crash
        lpswe 0(%r1)
        .balign 8
done:   .quad 0x0002000180000000, 0xfff
crash:  .quad 0x0002000180000000, 0xbad
";
const CPU_1: u64 = 0x1_0000;

/// Segment table and page table of the tests with DAT: the first megabyte is mapped to itself.
const SEGMENTS: u64 = 0x10_0000;
const PAGES: u64 = 0x10_1000;

/// A guest with two CPUs, its DAT tables made.
fn guest(source: &str) -> (guest_tests::Program, Guest) {
    let program = assemble(0x2000, &format!("{source}{COMMON}"));
    assert!(program.bytes.len() < 0xe000, "below the prefix area of CPU 1");
    let guest = Guest::new(&program, 2, Ap::None);
    guest.write_doublewords(SEGMENTS, &[0x20; 512]);
    guest.write_doublewords(SEGMENTS, &[PAGES]);
    guest.write_doublewords(PAGES, &(0..256).map(|page| page << 12).collect::<Vec<_>>());
    (program, guest)
}

/// Runs a program to its end; doublewords from label `results`.
#[track_caller]
fn results(source: &str, count: u64) -> (Vec<u64>, Ended) {
    let (program, guest) = guest(source);
    let ended = guest.run().done();
    (ended.doublewords(program.label("results"), count), ended)
}

#[test]
fn signals_reach_the_other_cpu_and_come_back() {
    let source = "
        # CPU 0: what CPU 1 and a CPU that is not there answer; results are condition code and status.
start:  lctlg %c0,%c0,cr0-start+0x2000(%r0)
        larl %r8,results
        lghi %r2,1
        lghi %r5,0
        sigp %r5,%r2,1                  # sense: stopped
        brasl %r9,note
        lghi %r3,7
        lghi %r5,0
        sigp %r5,%r3,1                  # sense: not operational
        brasl %r9,note
        lghi %r5,0
        sigp %r5,%r2,0x55               # no order
        brasl %r9,note
        brasl %r14,boot
        lghi %r5,0
        sigp %r5,%r2,2                  # external call: CPU 1 is disabled for it
        brasl %r9,note
        lghi %r5,0
        sigp %r5,%r2,2                  # a second one
        brasl %r9,note
        lghi %r5,0
        sigp %r5,%r2,3                  # emergency signal
        brasl %r9,note
        lghi %r1,1
        stgrl %r1,go
        stosm 0x2f0(%r0),1              # external interruptions on
        # Until both have come back from CPU 1.
wait0:  lg %r1,0x380(%r0)
        ag %r1,0x388(%r0)
        cghi %r1,2
        jne wait0
        lghi %r5,0
        sigp %r5,%r2,1                  # sense: it runs
        brasl %r9,note
stop:   sigp %r5,%r2,5
        jh stop
stopped: lghi %r5,0
        sigp %r5,%r2,1
        jh stopped
        jz stopped
        brasl %r9,note
        j finish

note:   ipm %r1
        srlg %r1,%r1,28
        nilf %r1,3
        sllg %r1,%r1,32
        ogr %r1,%r5
        stg %r1,0(%r8)
        aghi %r8,8
        br %r9

restart: lctlg %c0,%c0,cr0-start+0x2000(%r0)
wait:   lgrl %r1,go
        ltgr %r1,%r1
        jz wait
        stosm 0x2f0(%r0),1
wait1:  lg %r1,0x380(%r0)
        ag %r1,0x388(%r0)
        cghi %r1,2
        jne wait1
        lghi %r2,0
        sigp %r5,%r2,2
        jnz wrong
        sigp %r5,%r2,3
        jnz wrong
        j .

        # Counts external calls and emergency signals in the CPU's own prefix area.
external: stmg %r0,%r2,0x300(%r0)
        lh %r1,0x86(%r0)
        lghi %r2,1
        chi %r1,0x1202
        je call
        chi %r1,0x1201
        jne wrong
        laag %r2,%r2,0x380(%r0)
        j leave
call:   laag %r2,%r2,0x388(%r0)
leave:  mvc 0x390(2,%r0),0x84(%r0)
        lmg %r0,%r2,0x300(%r0)
        lpswe 0x130(%r0)
        .balign 8
cr0:    .quad 0x60e0
go:     .quad 0
results: .skip 128
";
    // Displacements reach 4095 bytes: the control register's value is copied there.
    let source = source.replace("cr0-start+0x2000(%r0)", "0x2e8(%r0)");
    let (program, guest) = guest(&source);
    guest.write_doublewords(0x2e8, &[0x60e0]);
    guest.write_doublewords(CPU_1 + 0x2e8, &[0x60e0]);
    let ended = guest.run().done();
    let stopped = 1 << 32 | 0x40;
    let expected = [stopped, 3 << 32, 1 << 32 | 2, 0, 1 << 32 | 0x80, 0, 0, stopped];
    assert_eq!(ended.doublewords(program.label("results"), 8), expected);
    // One of each at each CPU, with the sender's address.
    assert_eq!([ended.doublewords(0x380, 2), ended.doublewords(CPU_1 + 0x380, 2)], [[1, 1], [1, 1]]);
    assert_eq!((ended.bytes(0x390, 2), ended.bytes(CPU_1 + 0x390, 2)), (vec![0, 1], vec![0, 0]));
}

#[test]
fn interlocked_updates_by_two_cpus_count_exactly() {
    let source = "
start:  brasl %r14,boot
        brasl %r14,count
other:  lgrl %r1,finished
        ltgr %r1,%r1
        jz other
        j finish
restart: brasl %r14,count
        lghi %r1,1
        stgrl %r1,finished
        j finish

count:  llilf %r7,200000
        larl %r8,results
one:    lghi %r1,1
        laag %r2,%r1,0(%r8)             # 64 bits
        laa %r2,%r1,8(%r8)              # 32 bits
        lg %r2,16(%r8)
retry:  la %r3,1(%r2)
        csg %r2,%r3,16(%r8)
        jne retry
        l %r2,24(%r8)
retry2: lr %r3,%r2
        ahi %r3,1
        cs %r2,%r3,24(%r8)
        jne retry2
        brctg %r7,one
        br %r14
        .balign 4096
finished: .quad 0
results: .skip 32
";
    let (sums, _) = results(source, 4);
    assert_eq!(sums, [400_000, 400_000 << 32, 400_000, 400_000 << 32]);
}

/// CPU 1 reads and updates a page through DAT. CPU 0 invalidates its page-table entry; what it stores into
/// the frame afterwards CPU 1 never sees, what CPU 1 would store never arrives, and CPU 1 is interrupted.
#[test]
fn after_ipte_the_other_cpu_neither_reads_nor_stores_through_the_page() {
    const ROUNDS: u64 = 1000;
    let source = "
start:  brasl %r14,boot
        lghi %r7,0
        llilf %r8,0x70000               # the frame, by real address
        llilf %r9,0x101000              # the page table
        llilf %r10,0x70000              # the page
round:  aghi %r7,1
        stg %r8,0x380(%r9)              # entry of page 70: valid
        lghi %r1,0
        stgrl %r1,seen
        stg %r1,0(%r8)                  # good data
        stgrl %r7,turn
use:    lgrl %r1,seen                   # until CPU 1 uses the page
        cghi %r1,3
        jl use
        ipte %r9,%r10
        lg %r3,8(%r8)
        mvghi 0(%r8),1                  # bad data
fault:  lgrl %r1,faulted
        cgr %r1,%r7
        jne fault
        lg %r4,8(%r8)
        cgr %r3,%r4
        jne wrong                       # CPU 1 stored after IPTE
        cgfi %r7,ROUNDS
        jl round
        stgrl %r4,results+8
        lghi %r1,-1
        stgrl %r1,turn
        j finish

restart: larl %r1,asce
        lctlg %c1,%c1,0(%r1)
        lghi %r7,0
        llilf %r8,0x70000
next:   aghi %r7,1
turns:  lgrl %r1,turn
        cghi %r1,-1
        je finish
        cgr %r1,%r7
        jne turns
        larl %r1,mapped
        lpswe 0(%r1)
read:   lg %r2,0(%r8)                   # DAT is on from here
        ltgr %r2,%r2
        jnz wrong                       # data of after IPTE
        lghi %r1,1
        laag %r2,%r1,8(%r8)
        lgrl %r2,seen
        aghi %r2,1
        stgrl %r2,seen
        j read

program: lh %r1,0x8e(%r0)
        chi %r1,0x11
        jne wrong
        lg %r1,0xa8(%r0)
        srlg %r1,%r1,12
        cghi %r1,0x70
        jne wrong
        lgrl %r1,results
        aghi %r1,1
        stgrl %r1,results
        stgrl %r7,faulted
        j next
        .balign 4096
asce:   .quad 0x100000
mapped: .quad 0x0400000180000000, read
turn:   .quad 0
seen:   .quad 0
faulted: .quad 0
results: .quad 0, 0
";
    let (found, _) = results(&source.replace("ROUNDS", &ROUNDS.to_string()), 2);
    assert_eq!(found[0], ROUNDS, "page-translation exceptions");
    assert!(found[1] >= 2 * ROUNDS, "updates through the page: {}", found[1]);
}

#[test]
fn an_instruction_that_another_cpu_changed_is_executed_as_changed_after_serialization() {
    let source = "
start:  brasl %r14,boot
        lghi %r7,0
        larl %r8,patched
next:   aghi %r7,1
        sth %r7,2(%r8)
        stgrl %r7,want
sees:   lgrl %r1,seen
        cgr %r1,%r7
        jne sees
        chi %r7,LAST
        jl next
        lgrl %r1,seen
        stgrl %r1,results
        j finish

        .balign 4096
restart: lgrl %r6,want
        bcr 15,%r0
patched: lghi %r5,0
        cgr %r5,%r6
        jl wrong                        # the old instruction
        stgrl %r5,seen
        chi %r5,LAST
        jl restart
        j finish
        .balign 4096
want:   .quad 0
seen:   .quad 0
results: .quad 0
";
    let (found, _) = results(&source.replace("LAST", "1000"), 1);
    assert_eq!(found, [1000]);
}

/// A store into the instruction that comes next, and one some instructions on, by several instructions.
#[test]
fn a_cpu_executes_what_it_just_stored_into_its_own_code() {
    let source = "
start:  lghi %r7,0
        larl %r8,first
        larl %r9,second
        larl %r10,third
next:   aghi %r7,1
        sth %r7,2(%r8)
first:  lghi %r5,0
        cgr %r5,%r7
        jne wrong
        sth %r7,scratch-first(%r8)
        mvc 2(2,%r9),scratch-first(%r8)
        lghi %r4,0
        agr %r4,%r7
second: lghi %r5,0
        cgr %r5,%r4
        jne wrong
        lgr %r6,%r7
        sllg %r6,%r6,48
        stg %r6,scratch-first(%r8)
        xc 2(2,%r10),2(%r10)
        oc 2(2,%r10),scratch-first(%r8)
third:  lghi %r5,0
        cgr %r5,%r7
        jne wrong
        # An instruction behind, which the loop comes to again.
        llilh %r1,0xa7fb                # aghi %r15,n
        ogr %r1,%r7
        larl %r2,ahead
        st %r1,0(%r2)
ahead:  .long 0x07000700
        chi %r7,3000
        jl next
        stgrl %r15,results
        j finish
        .balign 8
scratch: .quad 0
results: .quad 0
";
    let (found, _) = results(source, 1);
    assert_eq!(found, [3000 * 3001 / 2]);
}

#[test]
fn a_store_into_code_by_another_virtual_address_is_executed_after_serialization() {
    // Page 80 is mapped to the frame of the code page.
    let source = "
start:  larl %r1,asce
        lctlg %c1,%c1,0(%r1)
        larl %r1,mapped
        lpswe 0(%r1)
        .balign 4096
code:   lghi %r7,0
        llilf %r8,0x80000
next:   aghi %r7,1
        sth %r7,patch-code+2(%r8)
        bcr 15,%r0
patch:  lghi %r5,0
        cgr %r5,%r7
        jne wrong
        agr %r15,%r5
        chi %r7,3000
        jl next
        larl %r1,results
        stg %r15,0(%r1)
        j finish
        .balign 4096
asce:   .quad 0x100000
mapped: .quad 0x0400000180000000, code
results: .quad 0
";
    let (program, guest) = guest(source);
    guest.write_doublewords(PAGES + 0x80 * 8, &[program.label("code")]);
    let ended = guest.run().done();
    assert_eq!(ended.doubleword(program.label("results")), 3000 * 3001 / 2);
}
