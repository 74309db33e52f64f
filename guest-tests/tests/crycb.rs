//! The CRYCB is the authority: one bit of it, changed while the guest runs, decides what the next AP
//! instructions answer.

#![forbid(unsafe_code)]

use guest_tests::{Ap, Guest, Running, assemble};

/// 05 and 06 by 04 and ab.
const MDEV: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";

/// Counts, in each phase that the test names, how often TAPQ, NQAP and DQAP of two APQNs answered that the
/// queue is not available and how often something else, and whether the QCI block names each queue.
/// The phase is read before a round, so each instruction counted in it came after the test named it.
const PROGRAM: &str = "
start:  lgrl %r11,phase
        sllg %r11,%r11,8
        larl %r12,counters
        agr %r12,%r11
        lgr %r10,%r12
        llilf %r13,FIRST
        brasl %r9,three
        llilf %r13,SECOND
        brasl %r9,three

        llilf %r0,0x04000000            # QCI
        larl %r2,block
        .long 0xb2af0000
        larl %r8,block
        tm QCI_BYTE(%r8),QCI_BIT
        brasl %r14,bit
        tm 16(%r8),0x02                 # adapter 06
        brasl %r14,bit
        tm 48+21(%r8),0x10              # domain ab
        brasl %r14,bit

        lghi %r7,1
        laag %r7,%r7,0xf8(%r12)
        lgrl %r7,stop
        ltgr %r7,%r7
        jz start
        larl %r7,done
        lpswe 0(%r7)

three:  lgr %r0,%r13                    # TAPQ
        .long 0xb2af0000
        brasl %r14,count
        llilf %r0,0x40000000            # NQAP
        ogr %r0,%r13
        larl %r4,message
        lghi %r5,64
        lgr %r2,%r13
        lgr %r3,%r13
        .long 0xb2ad0024
        brasl %r14,count
        llilf %r0,0x80000000            # DQAP
        ogr %r0,%r13
        lghi %r2,0
        larl %r4,reply
        lghi %r5,4096
        .long 0xb2ae0064
        brasl %r14,count
        br %r9

count:  ipm %r5
        srlg %r5,%r5,28
        nilf %r5,3
        chi %r5,3
        jne other
        srlg %r6,%r1,16
        nilf %r6,0xff
        chi %r6,1
        jne other
        lghi %r7,1
        laag %r7,%r7,8(%r10)
        aghi %r10,16
        br %r14
other:  lghi %r7,1
        laag %r7,%r7,0(%r10)
        aghi %r10,16
        br %r14

bit:    jo other
        lghi %r7,1
        laag %r7,%r7,8(%r10)
        aghi %r10,16
        br %r14

        .balign 8
phase:  .quad 0
stop:   .quad 0
done:   .quad 0x0002000180000000, 0xfff
block:  .skip 128
message: .skip 64
reply:  .skip 4096
        .balign 256
counters: .skip 2048
";

/// What is counted, in the order of the counters: instructions of the APQN whose bit changes, then of the
/// other one, then QCI's bits of both.
const CHANGED: [&str; 4] = ["TAPQ", "NQAP", "DQAP", "QCI"];
const UNCHANGED: [&str; 5] =
    ["TAPQ of the other", "NQAP of the other", "DQAP of the other", "QCI: adapter 06", "QCI: domain ab"];

/// A phase that nobody looks at, in which the bit changes.
const BETWEEN: u64 = 7;
/// Rounds to watch in a phase.
const ROUNDS: u64 = 50;

#[track_caller]
fn check(byte: u8, bit: u8, qci_byte: u8) {
    let source = PROGRAM.replace("QCI_BYTE", &qci_byte.to_string()).replace("QCI_BIT", &bit.to_string());
    let program = assemble(0x2000, &source.replace("FIRST", "0x0504").replace("SECOND", "0x06ab"));
    let guest = Guest::new(&program, 1, Ap::Mdev(MDEV)).start();
    let counters = |phase: u64| program.label("counters") + phase * 256;
    let go_on = |guest: &Running, phase: u64| {
        let before = guest.doubleword(counters(phase) + 0xf8);
        guest.write(program.label("phase"), &phase.to_be_bytes());
        guest.until("rounds", |guest| guest.doubleword(counters(phase) + 0xf8) >= before + ROUNDS);
        guest.write(program.label("phase"), &BETWEEN.to_be_bytes());
        let before = guest.doubleword(counters(BETWEEN) + 0xf8);
        guest.until("the phase's end", |guest| guest.doubleword(counters(BETWEEN) + 0xf8) > before + 1);
    };
    go_on(&guest, 0);
    guest.set_crycb_byte(byte, |old| old & !bit);
    go_on(&guest, 1);
    guest.set_crycb_byte(byte, |old| old | bit);
    go_on(&guest, 2);
    guest.write(program.label("stop"), &1u64.to_be_bytes());
    let ended = guest.end().done();

    for (phase, available) in [(0, true), (1, false), (2, true)] {
        let pair = |n: usize| {
            let both = ended.doublewords(counters(phase) + 16 * n as u64, 2);
            (both[0] >= ROUNDS, both[1] >= ROUNDS, both[0] == 0 || both[1] == 0)
        };
        let (yes, no) = ((true, false, true), (false, true, true));
        for (what, n) in CHANGED.into_iter().zip([0, 1, 2, 6]) {
            assert_eq!(pair(n), if available { yes } else { no }, "phase {phase}: {what}");
        }
        for (what, n) in UNCHANGED.into_iter().zip([3, 4, 5, 7, 8]) {
            assert_eq!(pair(n), yes, "phase {phase}: {what}");
        }
    }
}

/// Bit 5 of the adapter mask, which is at 128 in the CRYCB and at 16 in the QCI block.
#[test]
fn an_adapter_bit_cleared_in_the_crycb_takes_the_queue_away_at_once_and_set_again_gives_it_back() {
    check(128, 0x04, 16);
}

/// Bit 4 of the usage-domain mask, which is at 160 in the CRYCB and at 48 in the QCI block.
#[test]
fn a_domain_bit_cleared_in_the_crycb_takes_the_queue_away_at_once_and_set_again_gives_it_back() {
    check(160, 0x08, 48);
}
