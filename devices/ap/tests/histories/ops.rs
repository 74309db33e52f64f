//! What can happen to the host: the operations of a history, how likely each is, and the texts that are written.

use std::collections::BTreeSet;

use proptest::prelude::*;

/// Adapters and domains of the histories; the machine's highest number of both is [`MAX`].
pub const ADAPTERS: std::ops::RangeInclusive<u8> = 3..=6;
/// See [`ADAPTERS`].
pub const DOMAINS: std::ops::RangeInclusive<u8> = 4..=7;
/// The highest adapter and domain of the machine.
pub const MAX: u8 = 8;
/// Mediated devices 0, 1, 2, and as many VMs.
pub const DEVICES: usize = 3;

/// A queue: adapter, domain.
pub type Queue = (u8, u8);
/// Numbers of adapters or domains.
pub type Numbers = BTreeSet<u8>;

/// What the number attributes are written to, with what it means.
pub const ODD_NUMBERS: &[(&str, Result<u64, &str>)] = &[
    ("0x4", Ok(4)),
    ("05\n", Ok(5)),
    ("+6", Ok(6)),
    ("8", Ok(8)),
    ("9", Ok(9)),
    ("0xff", Ok(255)),
    ("260", Ok(260)),
    ("", Err("EINVAL")),
    ("-4", Err("EINVAL")),
    ("four", Err("EINVAL")),
    ("08", Err("EINVAL")),
    ("4 5", Err("EINVAL")),
];
/// Texts that are no `ap_config`.
pub const BAD_CONFIGS: &[&str] =
    &["", ",", "\n", "0x0,0x0", "0x0,+4,0x0", "0x0,0 ,0x0", "0x0,0xg0,0x0", "0x0,0x0,-,0x0"];
/// Texts that are no `apmask`.
pub const BAD_MASKS: &[&str] = &[" ", "0xx", "g", "+", "+6-3", "+256", "-3,4", "0xfg"];
/// Texts for `driver_override`.
pub const OVERRIDES: &[&str] = &["vfio_ap", "cex4queue", "", "vfio_ap\n", "nobody"];

/// The six attributes that take a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Adapter,
    Domain,
    ControlDomain,
}

/// How a mask is written.
#[derive(Clone, Debug)]
pub enum MaskText {
    /// Ranges on or off, from left to right.
    Relative(Vec<(bool, u8, u8)>),
    /// All numbers but these.
    AllBut(Numbers),
    /// These numbers, with as few digits as will do.
    Only(Numbers),
    /// One of [`BAD_MASKS`].
    Bad(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Default,
    VfioAp,
}

/// The generation of an adapter that neither the bus nor vfio_ap takes: CEX3.
pub const OLD: u8 = 3;

/// A change by the support element. Types are generations: 7, 8 or [`OLD`].
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Add(u8, u8),
    Remove(u8),
    Type(u8, u8),
    /// The condition as a response code: 00, 03 or 04.
    Condition(u8, u8),
    AddDomain(u8),
    RemoveDomain(u8),
    AddControl(u8),
    RemoveControl(u8),
}

/// How a queue takes resets from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At once.
    Good,
    /// ZAPQ answers 00, and TAPQ answers 02 for some looks.
    Slow(u8),
    /// So many ZAPQs answer this code (02, 05, 0A) before one answers 00.
    Busy(u8, u8),
    /// ZAPQ answers 00 and TAPQ answers 02, for ever.
    Stuck,
    /// ZAPQ answers 01.
    Gone,
}

/// Where a notification byte is to be, and what the host refuses meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nib {
    Good,
    /// At absolute address 0.
    Zero,
    /// Behind the guest's storage.
    Outside,
    /// The host pins no page.
    NoPin,
    /// The host registers no interruption subclass.
    NoIsc,
    /// The queue is busy.
    Busy,
}

/// What a guest does with a queue.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// NQAP of so many bytes.
    Enqueue(u8),
    /// DQAP with room for so many bytes, in so many parts at most.
    Dequeue(u8, u8),
    /// AQIC: the subclass.
    Enable(u8, Nib),
    /// AQIC.
    Disable,
    /// RAPQ, or ZAPQ if true.
    Reset(bool),
    /// So many microseconds pass, in which replies come.
    Wait(u16),
}

#[derive(Clone, Debug)]
pub enum Op {
    Create(usize),
    Remove(usize),
    Assign(usize, Which, u8),
    Unassign(usize, Which, u8),
    /// One of [`ODD_NUMBERS`]; true: assign.
    Odd(usize, Which, bool, usize),
    /// Adapters, domains, control domains; in which form they are written.
    Config(usize, [Numbers; 3], u8),
    BadConfig(usize, usize),
    /// True: apmask.
    Mask(bool, MaskText),
    Override(Queue, usize),
    Bind(Queue, Driver),
    Unbind(Queue),
    Configure(Vec<Change>),
    Scan,
    /// Device, VM.
    Attach(usize, usize),
    Detach(usize),
    Reset(usize),
    /// Not of the host: the machine's queue behaves so from now on.
    Behave(Queue, Mode),
    /// Not of the host: whether the VM gives a device back when asked.
    Polite(usize, bool),
    /// Not of the host: the VM's guest uses one of its queues, the number says which.
    Guest(usize, u8, Act),
    /// Not of the host: from now on each queue takes resets at once, and VMs give back what they are asked for.
    Mend,
    /// Devices come and go until a watcher that does not look misses events.
    Storm,
    /// That watcher looks.
    Watch,
}

impl MaskText {
    pub fn text(&self) -> String {
        match self {
            Self::Relative(items) => {
                let item = |&(on, a, b): &(bool, u8, u8)| {
                    let sign = if on { '+' } else { '-' };
                    if a == b { format!("{sign}{a}") } else { format!("{sign}{a:#x}-{b}") }
                };
                items.iter().map(item).collect::<Vec<_>>().join(",")
            }
            Self::AllBut(out) => hex(|n| !out.contains(&n), 256, true) + "\n",
            Self::Only(numbers) => {
                hex(|n| numbers.contains(&n), 8 + 4 * u16::from(numbers.len() as u8), true)
            }
            Self::Bad(at) => BAD_MASKS[*at].to_owned(),
        }
    }
}

/// The text of `ap_config`. Empty masks may be left out, and whatever comes behind the third does not matter.
pub fn config_text(masks: &[Numbers; 3], form: u8) -> String {
    let digits = if form % 3 == 0 { 256 } else { 16 };
    let text = |mask: &Numbers| match form % 7 {
        0 if mask.is_empty() => String::new(),
        _ => hex(|n| mask.contains(&n), digits, form % 2 == 0),
    };
    let parts: Vec<String> = masks.iter().map(text).collect();
    parts.join(if form % 11 == 0 { "\n" } else { "," })
        + match form % 5 {
            0 => "\n",
            1 => ",0xff",
            _ => "",
        }
}

/// The first `bits` numbers in hexadecimal, number 0 leftmost.
fn hex(has: impl Fn(u8) -> bool, bits: u16, prefix: bool) -> String {
    let digit = |first: u16| {
        let value = (0..4).filter(|i| has((first + i) as u8)).map(|i| 8 >> i).sum();
        char::from_digit(value, 16).expect("below 16")
    };
    let digits: String = (0..bits).step_by(4).map(digit).collect();
    format!("{}{digits}", if prefix { "0x" } else { "" })
}

fn device() -> impl Strategy<Value = usize> {
    0..DEVICES
}

fn queue() -> impl Strategy<Value = Queue> {
    (ADAPTERS, DOMAINS)
}

fn numbers(range: std::ops::RangeInclusive<u8>) -> impl Strategy<Value = Numbers> {
    proptest::collection::btree_set(range, 0..=3)
}

fn numbered() -> impl Strategy<Value = (Which, u8)> {
    prop_oneof![
        3 => ADAPTERS.prop_map(|n| (Which::Adapter, n)),
        3 => DOMAINS.prop_map(|n| (Which::Domain, n)),
        1 => DOMAINS.prop_map(|n| (Which::ControlDomain, n)),
    ]
}

fn mask_text(range: std::ops::RangeInclusive<u8>) -> impl Strategy<Value = MaskText> {
    let item = |range: std::ops::RangeInclusive<u8>| {
        (any::<bool>(), range.clone(), range).prop_map(|(on, a, b)| (on, a.min(b), a.max(b)))
    };
    prop_oneof![
        6 => proptest::collection::vec(item(range.clone()), 1..=2).prop_map(MaskText::Relative),
        2 => Just(MaskText::Relative(vec![(true, 0, 255)])),
        2 => numbers(range.clone()).prop_map(MaskText::AllBut),
        1 => numbers(range).prop_map(MaskText::Only),
        1 => (0..BAD_MASKS.len()).prop_map(MaskText::Bad),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let generation = || prop_oneof![3 => 7u8..=8, 1 => Just(OLD)];
    prop_oneof![
        3 => (ADAPTERS, generation()).prop_map(|(n, t)| Change::Add(n, t)),
        3 => ADAPTERS.prop_map(Change::Remove),
        2 => (ADAPTERS, generation()).prop_map(|(n, t)| Change::Type(n, t)),
        3 => (ADAPTERS, prop_oneof![Just(0u8), Just(3), Just(4)]).prop_map(|(n, c)| Change::Condition(n, c)),
        3 => DOMAINS.prop_map(Change::AddDomain),
        2 => DOMAINS.prop_map(Change::RemoveDomain),
        1 => DOMAINS.prop_map(Change::AddControl),
        1 => DOMAINS.prop_map(Change::RemoveControl),
        1 => Just(Change::AddDomain(MAX + 1)),
    ]
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        3 => Just(Mode::Good),
        1 => (1u8..5).prop_map(Mode::Slow),
        1 => (prop_oneof![Just(2u8), Just(5), Just(0x0a)], 1u8..4).prop_map(|(code, n)| Mode::Busy(code, n)),
        2 => Just(Mode::Stuck),
        1 => Just(Mode::Gone),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let nib = prop_oneof![
        12 => Just(Nib::Good),
        1 => Just(Nib::Zero),
        1 => Just(Nib::Outside),
        1 => Just(Nib::NoPin),
        1 => Just(Nib::NoIsc),
        1 => Just(Nib::Busy),
    ];
    prop_oneof![
        9 => (0u8..40).prop_map(Act::Enqueue),
        8 => (1u8..60, 1u8..4).prop_map(|(room, parts)| Act::Dequeue(room, parts)),
        5 => (0u8..8, nib).prop_map(|(isc, nib)| Act::Enable(isc, nib)),
        1 => Just(Act::Disable),
        1 => any::<bool>().prop_map(Act::Reset),
        7 => (0u16..600).prop_map(Act::Wait),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => device().prop_map(Op::Create),
        2 => device().prop_map(Op::Remove),
        14 => (device(), numbered()).prop_map(|(d, (which, n))| Op::Assign(d, which, n)),
        6 => (device(), numbered()).prop_map(|(d, (which, n))| Op::Unassign(d, which, n)),
        2 => (device(), numbered(), any::<bool>(), 0..ODD_NUMBERS.len())
            .prop_map(|(d, (which, _), assign, at)| Op::Odd(d, which, assign, at)),
        5 => (device(), numbers(ADAPTERS), numbers(DOMAINS), numbers(DOMAINS), 0u8..30)
            .prop_map(|(d, apm, aqm, adm, form)| Op::Config(d, [apm, aqm, adm], form)),
        1 => (device(), numbers(ADAPTERS), numbers(3..=10), numbers(3..=10), 0u8..30)
            .prop_map(|(d, apm, aqm, adm, form)| Op::Config(d, [apm, aqm, adm], form)),
        1 => (device(), 0..BAD_CONFIGS.len()).prop_map(|(d, at)| Op::BadConfig(d, at)),
        3 => mask_text(ADAPTERS).prop_map(|text| Op::Mask(true, text)),
        3 => mask_text(DOMAINS).prop_map(|text| Op::Mask(false, text)),
        3 => (queue(), 0..OVERRIDES.len()).prop_map(|(q, at)| Op::Override(q, at)),
        6 => (queue(), prop_oneof![1 => Just(Driver::Default), 3 => Just(Driver::VfioAp)])
            .prop_map(|(q, driver)| Op::Bind(q, driver)),
        4 => queue().prop_map(Op::Unbind),
        9 => proptest::collection::vec(change(), 1..=3).prop_map(Op::Configure),
        1 => Just(Op::Scan),
        7 => (device(), device()).prop_map(|(d, vm)| Op::Attach(d, vm)),
        4 => device().prop_map(Op::Detach),
        3 => device().prop_map(Op::Reset),
        4 => (queue(), mode()).prop_map(|(q, mode)| Op::Behave(q, mode)),
        1 => (device(), any::<bool>()).prop_map(|(vm, polite)| Op::Polite(vm, polite)),
        65 => (device(), any::<u8>(), act()).prop_map(|(vm, pick, act)| Op::Guest(vm, pick, act)),
        1 => Just(Op::Watch),
    ]
}

/// Three beginnings: nothing there; adapters freed for guests; guests at work.
fn beginning() -> impl Strategy<Value = Vec<Op>> {
    let freed = || {
        vec![
            Op::Mask(true, MaskText::Relative(vec![(false, 3, 6)])),
            Op::Create(0),
            Op::Create(1),
            Op::Create(2),
        ]
    };
    let config = |d, apm: &[u8], aqm: &[u8]| {
        let set = |numbers: &[u8]| numbers.iter().copied().collect::<Numbers>();
        Op::Config(d, [set(apm), set(aqm), set(aqm)], 0)
    };
    let working = move || {
        let mut ops = freed();
        ops.extend([config(0, &[3, 4], &[4, 5]), config(1, &[3, 4], &[6]), config(2, &[5], &[4, 6])]);
        ops.extend([Op::Attach(0, 0), Op::Attach(1, 1), Op::Attach(2, 2)]);
        ops
    };
    (0..5).prop_map(move |n| match n {
        0 => Vec::new(),
        1 | 2 => freed(),
        _ => working(),
    })
}

/// A history of 50 to 100 operations, in one of twenty of which a watcher misses events.
pub fn history() -> impl Strategy<Value = Vec<Op>> {
    let storm = prop_oneof![19 => Just(None), 1 => (0usize..50).prop_map(Some)];
    (beginning(), proptest::collection::vec(op(), 50..=80), storm).prop_map(|(mut ops, mut more, storm)| {
        if let Some(at) = storm {
            more.insert(at, Op::Storm);
        }
        ops.extend(more);
        ops
    })
}
