//! Plug and unplug as a guest sees them: a machine check with a channel report, which leads to the event that the AP
//! configuration has changed, and AP instructions that find it changed.

#![forbid(unsafe_code)]

use ap::host::{Attribute, Driver, Operation};
use crycb::Apqn;
use guest_tests::{Ap, Guest, Program, Running, assemble};

/// 05 and 06 by 04 and ab.
const MDEV: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";
/// Machine check: channel report pending (bit 9), with what a machine check always says to be valid.
const REPORT_PENDING: u64 = 1 << (63 - 9);
/// A channel-report word: the channel subsystem (source 11) has event information.
const EVENT_REPORT: u64 = 0x0b00_0000;

/// Waits for channel reports. For each there is a record of 64 bytes: machine-check code; report word and condition code of
/// STCRW; condition code of a second one; length and code of CHSC's response, and its event; the code of a second one;
/// response codes of TAPQ 0504 and 06ab; the QCI block's first adapter byte.
const PROGRAM: &str = "
start:  larl %r1,cr14
        lctlg %c14,%c14,0(%r1)
        larl %r9,records
enter:  lgrl %r1,gate                   # after this report the guest does not look
        lgrl %r2,count
        cgr %r1,%r2
        je enter
        lgrl %r1,stop                   # reports, after which it ends
        cgr %r1,%r2
        je end
        larl %r1,wait
        lpswe 0(%r1)
end:    larl %r1,done
        lpswe 0(%r1)

machine_check: mvc 0(8,%r9),0xe8(%r0)
        .long 0xb2399008                # STCRW
        brasl %r14,cc
        st %r1,12(%r9)
        larl %r8,scratch
        .long 0xb2398000
        brasl %r14,cc
        st %r1,16(%r9)
        brasl %r13,event
        mvc 20(4,%r9),16(%r8)
        mvc 24(4,%r9),24(%r8)
        brasl %r13,event
        mvc 28(4,%r9),16(%r8)
        llilf %r0,0x0504
        brasl %r13,tapq
        st %r1,32(%r9)
        llilf %r0,0x06ab
        brasl %r13,tapq
        st %r1,36(%r9)
        llilf %r0,0x04000000            # QCI
        larl %r2,block
        .long 0xb2af0000
        mvc 40(1,%r9),16(%r2)
        aghi %r9,64
        lgrl %r1,count
        aghi %r1,1
        stgrl %r1,count
        j enter

event:  larl %r8,page                   # CHSC: store event information
        lgrl %r1,request
        stg %r1,0(%r8)
        .long 0xb25f0080
        br %r13
tapq:   .long 0xb2af0000                # until no reset is in progress
        lgr %r2,%r1
        srlg %r2,%r2,16
        nilf %r2,0xff
        chi %r2,2
        je tapq
        br %r13
cc:     ipm %r1
        srlg %r1,%r1,28
        nilf %r1,3
        br %r14

        .balign 8
cr14:   .quad 0x10000000                # channel reports
wait:   .quad 0x0006000180000000, 0     # enabled for machine checks
done:   .quad 0x0002000180000000, 0xfff
request: .quad 0x0010000e00000000
gate:   .quad -1
stop:   .quad -1
count:  .quad 0
scratch: .quad 0
block:  .skip 128
        .balign 4096
page:   .skip 4096
records: .skip 4096
";

/// What the guest found after one report.
#[derive(Debug, PartialEq)]
struct Seen {
    report: u64,
    event: u64,
    /// TAPQ's response codes of 05.0004 and 06.00ab.
    tapq: [u8; 2],
    /// Adapters 0 to 7 of the QCI block.
    adapters: u8,
}

struct Bench {
    program: Program,
    guest: Running,
}

impl Bench {
    fn new() -> Self {
        let program = assemble(0x2000, PROGRAM);
        let guest = Guest::new(&program, 1, Ap::Mdev(MDEV)).start();
        Self { program, guest }
    }

    fn set(&self, label: &str, value: u64) {
        self.guest.write(self.program.label(label), &value.to_be_bytes());
    }

    fn count(&self) -> u64 {
        self.guest.doubleword(self.program.label("count"))
    }

    /// Waits for the guest's record `n` and checks what is the same in each.
    #[track_caller]
    fn record(&self, n: u64) -> Seen {
        self.guest.until("a channel report", |_| self.count() > n);
        let at = |offset: u64| self.guest.doubleword(self.program.label("records") + 64 * n + offset);
        let word = |offset: u64| at(offset & !7) >> if offset % 8 == 0 { 32 } else { 0 } & 0xffff_ffff;
        assert_eq!(at(0) & REPORT_PENDING, REPORT_PENDING, "record {n}: machine-check code {:x}", at(0));
        assert_eq!((word(12), word(16)), (0, 1), "record {n}: STCRW gives one report");
        assert_eq!((word(20), word(28)), (0x18_0001, 0x8_0005), "record {n}: CHSC gives one event");
        Seen {
            report: word(8),
            event: word(24),
            tapq: [32, 36].map(|offset| (word(offset) >> 16) as u8),
            adapters: (at(40) >> 56) as u8,
        }
    }

    #[track_caller]
    fn execute(&self, operation: &Operation) {
        self.guest.ap_host().execute(operation).unwrap_or_else(|e| panic!("{operation:?}: {e}"));
    }

    /// Ends the guest, which has taken so many reports, with one more. It may still be on its way into its wait.
    #[track_caller]
    fn end(self, reports: u64) {
        self.set("stop", reports + 1);
        self.execute(&unassign("5"));
        let count = self.program.label("count");
        assert_eq!(self.guest.end().done().doubleword(count), reports + 1);
    }
}

/// From source 5, AP; content 3, the configuration has changed.
fn seen(tapq: [u8; 2], adapters: u8) -> Seen {
    Seen { report: EVENT_REPORT, event: 0x0503, tapq, adapters }
}

fn unassign(adapter: &str) -> Operation {
    write(Attribute::UnassignAdapter(adapter.into()))
}

fn assign(adapter: &str) -> Operation {
    write(Attribute::AssignAdapter(adapter.into()))
}

fn write(attribute: Attribute) -> Operation {
    Operation::Write { mdev: uuid::Uuid::try_parse(MDEV).expect("a UUID"), attribute }
}

const QUEUE: Apqn = Apqn(0x06ab);

#[test]
fn unplug_and_plug_are_reported_and_true_when_they_are() {
    let bench = Bench::new();
    let steps = [
        (unassign("6"), seen([0, 1], 0x04)),
        (assign("6"), seen([0, 0], 0x06)),
        (unassign("5"), seen([1, 0], 0x02)),
        (Operation::Unbind { queue: QUEUE }, seen([1, 1], 0)),
        (Operation::Bind { queue: QUEUE, driver: Driver::VfioAp }, seen([1, 0], 0x02)),
        (assign("5"), seen([0, 0], 0x06)),
    ];
    let count = steps.len() as u64;
    for (n, (operation, want)) in (0..).zip(steps) {
        bench.execute(&operation);
        assert_eq!(bench.record(n), want, "after {operation:?}");
    }
    bench.end(count);
}

#[test]
fn changes_that_come_together_are_one_report() {
    let bench = Bench::new();
    bench.set("gate", 1);
    bench.execute(&unassign("6"));
    bench.record(0);
    for operation in [unassign("5"), assign("6"), unassign("6"), assign("5"), assign("6"), unassign("5")] {
        bench.execute(&operation);
    }
    assert_eq!(bench.count(), 1, "the gate is shut");
    bench.set("gate", u64::MAX);
    assert_eq!(bench.record(1), seen([1, 0], 0x02));
    bench.execute(&assign("5"));
    assert_eq!(bench.record(2), seen([0, 0], 0x06), "none came in between");
    bench.end(3);
}
