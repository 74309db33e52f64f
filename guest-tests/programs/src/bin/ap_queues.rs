//! AP queues: a request and its reply with each kind of card, full queues, replies in parts, faults, resets.
#![no_std]
#![no_main]

use programs::ap::{
    ACCELERATOR, CCA, EP11, FIRST_PART, LAST_PART, Status, apqn, dqap, function, nqap, present, receive,
    reset, send, status,
};
use programs::machine::{bytes, until};
use programs::message::{is_answered, request};
use programs::{Checks, Taken, mask, program};

program!("ap_queues", main);

const MESSAGE: u64 = programs::FREE + 0x10000;
const REPLY: u64 = programs::FREE + 0x20000;
const WHOLE: u64 = programs::FREE + 0x30000;
const ROOM: u64 = 0x3000;
const FAR: u64 = 1 << 45;
const DEPTH: u64 = 8;
const MASK: u64 = mask::BITS_64;
const CARDS: [(&str, u64); 3] = [("cca", CCA), ("accelerator", ACCELERATOR), ("ep11", EP11)];

fn main(checks: &mut Checks) {
    if let Err(taken) = present() {
        checks.equal("present.operation-exception", taken, Taken::Program(1, 4));
        return checks.none("ap_queues", "PQAP is not installed");
    }
    for (name, queue) in CARDS {
        checks.holds(format_args!("{name}.zeroize"), reset(function::ZAPQ, queue));
        round_trip(checks, name, queue);
        full(checks, name, queue);
        in_flight(checks, name, queue);
        in_parts(checks, name, queue);
        faults(checks, name, queue);
    }
    bad_messages(checks);
    others(checks);
}

/// Waits until a reply can be dequeued.
fn arrives(queue: u64) -> bool {
    until(|| status(queue).is(Status::REPLIES))
}

fn round_trip(checks: &mut Checks, name: &str, queue: u64) {
    const PSMID: u64 = 0x1122_3344_5566_7788;
    let length = request(queue, MESSAGE) as u64;
    let got = nqap(LAST_PART | queue, PSMID, MESSAGE, length, MASK);
    checks.equal(format_args!("{name}.nqap"), (got.outcome.executed(), got.status.code()), (Ok(0), 0));
    checks.equal(format_args!("{name}.nqap.operand"), got.operand, [MESSAGE + length, 0]);
    checks.holds(format_args!("{name}.arrives"), arrives(queue));
    let waiting = status(queue);
    checks.equal(format_args!("{name}.tapq"), waiting, Status(Status::REPLIES));
    let got = dqap(FIRST_PART | queue, REPLY, ROOM, MASK);
    checks.equal(
        format_args!("{name}.dqap"),
        (got.outcome.executed(), got.status),
        (Ok(0), Status(Status::EMPTY)),
    );
    // Only the low words of the pair are the identifier's.
    let want = [0xffff_ffff_1122_3344, 0xffff_ffff_5566_7788];
    checks.equal(format_args!("{name}.psmid"), got.psmid, want);
    let length = ROOM - got.operand[1];
    checks.equal(format_args!("{name}.dqap.operand"), got.operand[0], REPLY + length);
    checks.equal(format_args!("{name}.residual"), got.gr2, 0);
    checks.holds(format_args!("{name}.answered"), is_answered(queue, bytes(REPLY, length as usize)));
    let got = dqap(FIRST_PART | queue, REPLY, ROOM, MASK);
    let want = (Ok(3), Status(Status::EMPTY | 0x0010_0000));
    checks.equal(format_args!("{name}.dqap.nothing"), (got.outcome.executed(), got.status), want);
}

/// As many requests as the queue takes, one more, and every reply in its turn.
fn full(checks: &mut Checks, name: &str, queue: u64) {
    let length = request(queue, MESSAGE);
    let accepted = (0..DEPTH).all(|n| send(queue, 100 + n, MESSAGE, length) == 0);
    checks.holds(format_args!("{name}.full.accepted"), accepted);
    let got = nqap(LAST_PART | queue, 200, MESSAGE, length as u64, MASK);
    let refused = (got.outcome.executed(), got.status.code(), got.status.is(Status::FULL));
    checks.equal(format_args!("{name}.full.refused"), refused, (Ok(3), 0x10, true));
    checks.equal(format_args!("{name}.full.operand"), got.operand, [MESSAGE, length as u64]);
    let mut order = [0; DEPTH as usize];
    let mut answered = 0;
    for place in &mut order {
        if let Some((psmid, length)) = receive(queue, REPLY) {
            *place = psmid;
            answered += u32::from(is_answered(queue, bytes(REPLY, length)));
        }
    }
    checks.equal(format_args!("{name}.full.order"), order, core::array::from_fn(|n| 100 + n as u64));
    checks.equal(format_args!("{name}.full.answered"), answered, DEPTH as u32);
    checks.equal(format_args!("{name}.full.empty"), status(queue), Status(Status::EMPTY));
}

/// Resets with requests on their way: none of them is ever answered.
fn in_flight(checks: &mut Checks, name: &str, queue: u64) {
    for (how, code) in [("rapq", function::RAPQ), ("zapq", function::ZAPQ)] {
        let length = request(queue, MESSAGE);
        let accepted = (0..DEPTH).all(|n| send(queue, 300 + n, MESSAGE, length) == 0);
        checks.holds(format_args!("{name}.{how}.accepted"), accepted);
        checks.holds(format_args!("{name}.{how}.ends-empty"), reset(code, queue));
        let got = dqap(FIRST_PART | queue, REPLY, ROOM, MASK);
        checks.equal(
            format_args!("{name}.{how}.discarded"),
            (got.outcome.executed(), got.status.code()),
            (Ok(3), 0x10),
        );
        // The queue works, and answers the new request only.
        let sent = send(queue, 400, MESSAGE, length);
        let reply = receive(queue, REPLY).map(|(psmid, _)| psmid);
        checks.equal(format_args!("{name}.{how}.afterwards"), (sent, reply), (0, Some(400)));
        checks.equal(format_args!("{name}.{how}.alone"), status(queue), Status(Status::EMPTY));
    }
}

/// A reply taken in parts, which is whole afterwards.
fn in_parts(checks: &mut Checks, name: &str, queue: u64) {
    const PART: u64 = 60;
    let length = request(queue, MESSAGE);
    checks.equal(format_args!("{name}.parts.sent"), send(queue, 500, MESSAGE, length), 0);
    checks.holds(format_args!("{name}.parts.arrives"), arrives(queue));
    // A continuation of nothing.
    let got = dqap(queue, REPLY, PART, MASK);
    checks.equal(format_args!("{name}.parts.no-first"), (got.outcome.cc, got.status.code()), (3, 0x13));
    bytes(WHOLE, ROOM as usize).fill(0);
    let first = dqap(FIRST_PART | queue, WHOLE, PART, MASK);
    checks.equal(format_args!("{name}.parts.first"), first.outcome.executed(), Ok(1));
    checks.equal(format_args!("{name}.parts.first.operand"), first.operand, [WHOLE + PART, 0]);
    checks.equal(format_args!("{name}.parts.first.psmid"), first.psmid, [u64::MAX; 2]);
    let total = PART + first.gr2;
    checks.holds(format_args!("{name}.parts.waits"), status(queue).is(Status::REPLIES));
    let got = dqap(first.gr0 + (1 << 40), REPLY, PART, MASK);
    checks.equal(format_args!("{name}.parts.index"), (got.outcome.cc, got.status.code()), (3, 0x11));
    // The rest, as a driver gets it: the register as it was left.
    let (mut gr0, mut at, mut count) = (first.gr0, WHOLE + PART, 1);
    let last = loop {
        let got = dqap(gr0, at, PART, MASK);
        (gr0, at, count) = (got.gr0, got.operand[0], count + 1);
        if got.outcome.executed() != Ok(1) || count > 1000 {
            break got;
        }
    };
    checks.equal(
        format_args!("{name}.parts.last"),
        (last.outcome.executed(), last.status),
        (Ok(0), Status(Status::EMPTY)),
    );
    checks.equal(format_args!("{name}.parts.psmid"), last.psmid[1] as u32, 500);
    checks.equal(format_args!("{name}.parts.length"), at, WHOLE + total);
    checks.equal(format_args!("{name}.parts.count"), count, total.div_ceil(PART));
    checks.holds(format_args!("{name}.parts.answered"), is_answered(queue, bytes(WHOLE, total as usize)));
}

/// Access exceptions on the buffer: nothing is enqueued or dequeued.
fn faults(checks: &mut Checks, name: &str, queue: u64) {
    const ADDRESSING: Taken = Taken::Program(5, 4);
    const PROTECTION: Taken = Taken::Program(4, 4);
    let length = request(queue, MESSAGE);
    let got = nqap(LAST_PART | queue, 1, FAR, length as u64, MASK);
    checks.equal(
        format_args!("{name}.nqap.outside"),
        (got.outcome.taken, got.operand),
        (ADDRESSING, [FAR, length as u64]),
    );
    // The last bytes of a message that begins well.
    let end = 64 << 20;
    let got = nqap(LAST_PART | queue, 1, end - 8, length as u64, MASK);
    checks.equal(format_args!("{name}.nqap.end"), got.outcome.taken, ADDRESSING);
    checks.equal(format_args!("{name}.nqap.nothing"), status(queue), Status(Status::EMPTY));
    checks.equal(format_args!("{name}.faults.sent"), send(queue, 600, MESSAGE, length), 0);
    checks.holds(format_args!("{name}.faults.arrives"), arrives(queue));
    let got = dqap(FIRST_PART | queue, FAR, ROOM, MASK);
    checks.equal(
        format_args!("{name}.dqap.outside"),
        (got.outcome.taken, got.psmid),
        (ADDRESSING, [u64::MAX; 2]),
    );
    let got = dqap(FIRST_PART | queue, REPLY, ROOM, MASK | mask::key(2));
    checks.equal(format_args!("{name}.dqap.protected"), got.outcome.taken, PROTECTION);
    checks.holds(format_args!("{name}.dqap.kept"), status(queue).is(Status::REPLIES));
    let got = receive(queue, REPLY);
    let whole = got.is_some_and(|(psmid, length)| psmid == 600 && is_answered(queue, bytes(REPLY, length)));
    checks.holds(format_args!("{name}.dqap.afterwards"), whole);
}

fn bad_messages(checks: &mut Checks) {
    const MOST: u64 = 3 * 4096;
    request(ACCELERATOR, MESSAGE);
    let code = |gr0: u64, length: u64| {
        let got = nqap(gr0 | ACCELERATOR, 1, MESSAGE, length, MASK);
        (got.outcome.executed(), got.status.code())
    };
    checks.equal("message.too-big", code(LAST_PART, MOST + 1), (Ok(3), 0x15));
    checks.equal("message.huge", code(LAST_PART, u64::MAX), (Ok(3), 0x15));
    checks.equal("message.no-first-part", code(0, 64), (Ok(3), 0x13));
    checks.equal("message.left", status(ACCELERATOR), Status(Status::EMPTY));
    // Nonsense is answered by the card: type 82.
    bytes(MESSAGE, 64).fill(0);
    checks.equal("message.nonsense", send(ACCELERATOR, 7, MESSAGE, 64), 0);
    let reply = receive(ACCELERATOR, REPLY).map(|(psmid, _)| (psmid, bytes(REPLY, 16)[1]));
    checks.equal("message.nonsense.reply", reply, Some((7, 0x82)));
    checks.equal("message.empty", send(ACCELERATOR, 8, MESSAGE, 0), 0);
    let reply = receive(ACCELERATOR, REPLY).map(|(psmid, _)| (psmid, bytes(REPLY, 16)[1]));
    checks.equal("message.empty.reply", reply, Some((8, 0x82)));
}

/// A reset concerns one queue: neither the adapter's other queue nor another adapter's.
fn others(checks: &mut Checks) {
    let neighbour = apqn(6, 0x47);
    for (name, queue) in [("domain", neighbour), ("adapter", EP11)] {
        let length = request(queue, MESSAGE);
        let sent = send(queue, 900, MESSAGE, length);
        let done = reset(function::ZAPQ, ACCELERATOR);
        let reply = receive(queue, REPLY);
        let whole =
            reply.is_some_and(|(psmid, length)| psmid == 900 && is_answered(queue, bytes(REPLY, length)));
        checks.equal(format_args!("other-{name}"), (sent, done, whole), (0, true, true));
    }
}
