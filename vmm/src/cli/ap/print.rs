//! What is printed.

use std::io::{self, Write};

use ap::host::{
    AdapterState, Condition, Conflict, Driver, Event, EventKind, Fate, Loss, LossCause, MatrixChange,
    MdevState, Operation, Plan, QueueState, QueueStatus, Snapshot,
};
use comfy_table::{CellAlignment, Table, presets};
use crycb::{Apqn, Mask256, Matrix};
use serde::Serialize;
use uuid::Uuid;

use super::backend::Place;
use super::grammar::command_line;

/// As JSON, one document.
pub fn json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// The columns of `lszcrypt -V`.
const COLUMNS: [&str; 11] = [
    "CARD.DOM",
    "TYPE",
    "MODE",
    "STATUS",
    "REQUESTS",
    "PENDING",
    "HWTYPE",
    "QDEPTH",
    "FUNCTIONS",
    "DRIVER",
    "SESTAT",
];

/// Cards and their queues.
pub fn list(out: &mut dyn Write, state: &Snapshot) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(COLUMNS);
    for at in 4..=7 {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for adapter in &state.adapters {
        let queues: Vec<&QueueState> =
            state.queues.iter().filter(|q| q.queue.apid() == adapter.apid()).collect();
        let sum = |count: fn(&QueueState) -> Option<u64>| {
            let counts: Vec<u64> = queues.iter().filter_map(|q| count(q)).collect();
            if counts.is_empty() { "-".into() } else { counts.iter().sum::<u64>().to_string() }
        };
        let hardware = queues.first().map_or(0, |q| q.hardware);
        let requests = sum(|q| q.requests);
        let pending = sum(|q| q.pending);
        table.add_row(row(
            format!("{}", adapter.apid()),
            adapter,
            card_status(adapter),
            [requests, pending],
            hardware,
            "cex4card",
            "-",
        ));
        for queue in queues {
            let count = |n: Option<u64>| n.map_or("-".into(), |n| n.to_string());
            table.add_row(row(
                queue.queue.to_string(),
                adapter,
                queue_status(queue),
                [count(queue.requests), count(queue.pending)],
                queue.hardware,
                queue.driver.map_or("-no-driver-", Driver::name),
                if queue.driver == Some(Driver::Default) { "usable" } else { "-" },
            ));
        }
    }
    lines(out, &table)
}

fn row(
    name: String,
    adapter: &AdapterState,
    status: &str,
    [requests, pending]: [String; 2],
    hardware: u64,
    driver: &str,
    sestat: &str,
) -> [String; 11] {
    let type_name = adapter.type_name();
    let mode = match type_name.chars().last() {
        Some('A') => "Accelerator",
        Some('C') => "CCA-Coproc",
        Some('P') => "EP11-Coproc",
        _ => "-",
    };
    [
        name,
        type_name,
        mode.into(),
        status.into(),
        requests,
        pending,
        (hardware >> 24 & 0xff).to_string(),
        format!("{:02}", (hardware & 0xf) + 1),
        functions(hardware),
        driver.into(),
        sestat.into(),
    ]
}

/// A letter for each of the bits that TAPQ tells, as lszcrypt abbreviates them.
fn functions(hardware: u64) -> String {
    let bit = |(n, letter): (u32, char)| if hardware << n >> 63 == 1 { letter } else { '-' };
    [(0, 'S'), (1, 'M'), (2, 'C'), (3, 'D'), (4, 'A'), (5, 'X'), (6, 'N'), (7, 'F')].map(bit).iter().collect()
}

fn card_status(adapter: &AdapterState) -> &'static str {
    match adapter.condition {
        Condition::Online => "online",
        Condition::Offline => "deconfig",
        Condition::Checkstop => "chkstop",
    }
}

/// A word for how a queue is.
pub fn queue_status(queue: &QueueState) -> &'static str {
    match queue {
        QueueState { chkstop: true, .. } => "chkstop",
        QueueState { config: false, .. } => "deconfig",
        QueueState { status: Some(status), .. } => QueueStatus::name(*status),
        QueueState { driver: None, .. } => "-",
        _ => "online",
    }
}

/// Mediated devices, with what of their matrix is in the guest.
pub fn mdevs(out: &mut dyn Write, mdevs: &[&MdevState]) -> io::Result<()> {
    for mdev in mdevs {
        let state = if mdev.attached { "in use by a VM" } else { "not in use" };
        writeln!(out, "{} {state}", mdev.uuid)?;
        for (name, matrix) in [("matrix", &mdev.matrix), ("guest_matrix", &mdev.guest_matrix)] {
            writeln!(
                out,
                "  {name:13} adapters {} domains {} control domains {}",
                numbers(&matrix.apm),
                numbers(&matrix.aqm),
                numbers(&matrix.adm)
            )?;
        }
    }
    Ok(())
}

fn numbers(mask: &Mask256) -> String {
    if mask.is_empty() {
        return "none".into();
    }
    mask.iter().map(|n| format!("{n:#04x}")).collect::<Vec<_>>().join(",")
}

fn queues(list: &[Apqn]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// What removes each of the conflicts, of which the first has been told. Every line begins with `line`.
pub fn remedies(place: &Place, conflicts: &[Conflict], line: &str) -> String {
    let mut text = String::new();
    for (at, conflict) in conflicts.iter().enumerate() {
        if at > 0 {
            text += &format!("{line}also in the way: {}", conflict.message);
        }
        for (at, way) in conflict.remedies.iter().enumerate() {
            text += &format!("{line}{}", if at == 0 { "remedy:" } else { "or:" });
            for operation in way {
                text += &format!("{line}  {}", command_line(place, operation));
            }
        }
    }
    text
}

/// Queues that lose what is on them by this cause, with how much that is where it is known.
fn losses(plan: &Plan, cause: LossCause) -> Vec<String> {
    let name = |loss: &Loss| match loss.pending {
        Some(pending) => format!("{} ({pending} pending)", loss.queue),
        None => loss.queue.to_string(),
    };
    plan.losses.iter().filter(|loss| loss.cause == cause).map(name).collect()
}

/// What a change would do.
pub fn plan(out: &mut dyn Write, place: &Place, operation: &Operation, plan: &Plan) -> io::Result<()> {
    writeln!(out, "{}", command_line(place, operation))?;
    if let Some(refusal) = &plan.refusal {
        let remedies = remedies(place, &refusal.conflicts, "\n  ");
        return writeln!(out, "  refused with {}: {}{remedies}", refusal.errno, refusal.message);
    }
    for guest in &plan.guests {
        let who = if guest.attached { "the guest of mdev" } else { "mdev (without a guest)" };
        writeln!(out, "  {who} {}", guest.mdev)?;
        let masks = [(&guest.control_domains_plugged, '+'), (&guest.control_domains_unplugged, '-')];
        for (list, sign) in [(&guest.plugged, '+'), (&guest.unplugged, '-')] {
            if !list.is_empty() {
                writeln!(out, "    {sign} {}", queues(list))?;
            }
        }
        for (mask, sign) in masks {
            if !mask.is_empty() {
                writeln!(out, "    {sign} control domains {}", numbers(mask))?;
            }
        }
    }
    for change in &plan.bindings {
        let name = |driver: Option<Driver>| driver.map_or("none", Driver::name);
        writeln!(out, "  queue {}: driver {} -> {}", change.queue, name(change.from), name(change.to))?;
    }
    for mdev in plan.told.iter().filter(|mdev| plan.guests.iter().all(|guest| guest.mdev != **mdev)) {
        writeln!(out, "  the guest of mdev {mdev} keeps its queues and is told of the change")?;
    }
    for (cause, what) in [
        (LossCause::Offline, "deconfigured"),
        (LossCause::Checkstop, "check-stopped"),
        (LossCause::Removed, "removed from the machine"),
        (LossCause::Replaced, "replaced by those of another card"),
        (LossCause::Reset, "reset"),
    ] {
        let lost = losses(plan, cause);
        if !lost.is_empty() {
            writeln!(out, "  {what}, with loss of what is on them: {}", lost.join(" "))?;
        }
    }
    let changes =
        [plan.guests.is_empty(), plan.bindings.is_empty(), plan.losses.is_empty(), plan.told.is_empty()];
    if changes == [true; 4] {
        writeln!(out, "  changes no guest, no binding, and discards nothing")?;
    }
    Ok(())
}

/// What becomes of each queue of mediated devices, or of a matrix that nobody has.
pub fn fates(out: &mut dyn Write, fates: &[(Option<Uuid>, Vec<Fate>)]) -> io::Result<()> {
    for (mdev, fates) in fates {
        match mdev {
            Some(mdev) => writeln!(out, "mdev {mdev}")?,
            None => writeln!(out, "this matrix")?,
        }
        if fates.is_empty() {
            writeln!(out, "  has no queue and no control domain")?;
        }
        for fate in fates {
            writeln!(out, "  {fate}")?;
        }
    }
    Ok(())
}

/// An event, on one line.
pub fn event(out: &mut dyn Write, event: &Event, json: bool) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, event)?;
        writeln!(out)?;
        return out.flush();
    }
    writeln!(out, "{} {}", event.number, event_text(&event.kind))?;
    out.flush()
}

/// Most queues of an event that are named one by one.
const MOST_NAMES: usize = 16;

/// What happened, in a line.
pub fn event_text(kind: &EventKind) -> String {
    match kind {
        EventKind::MdevCreated { mdev } => format!("mdev {mdev} created"),
        EventKind::MdevRemoved { mdev } => format!("mdev {mdev} removed"),
        EventKind::Attached { mdev } => format!("mdev {mdev} in use by a VM"),
        EventKind::Released { mdev, .. } => format!("mdev {mdev} given back to the host, which asked for it"),
        EventKind::Detached { mdev } => format!("mdev {mdev} given back"),
        EventKind::GuestMatrix { mdev, change } => {
            let queues = |sign: char, list: &[Apqn]| match list.len() {
                0..=MOST_NAMES => list.iter().map(|q| format!(" {sign}{q}")).collect::<String>(),
                count => {
                    let products = MatrixChange::products(list);
                    let product = |(a, d): &(Mask256, Mask256)| format!("{}.{}", ranges(a, 2), ranges(d, 4));
                    let products: Vec<String> = products.iter().map(product).collect();
                    format!(" {sign}{count} queues ({})", products.join(" "))
                }
            };
            let control = |sign: char, domains: &Mask256| match domains.is_empty() {
                true => String::new(),
                false => format!(" {sign}control {}", ranges(domains, 4)),
            };
            format!(
                "mdev {mdev} guest matrix:{}{}{}{}",
                queues('+', &change.plugged),
                queues('-', &change.unplugged),
                control('+', &change.control_plugged),
                control('-', &change.control_unplugged)
            )
        }
        EventKind::Assigned { mdev, attribute, value } => format!("mdev {mdev} {attribute} {value}"),
        EventKind::Bound { queue, driver } => format!("queue {queue} bound to {}", driver.name()),
        EventKind::Unbound { queue, driver } => format!("queue {queue} unbound from {}", driver.name()),
        EventKind::Masks { apmask, aqmask } => format!("apmask {apmask} aqmask {aqmask}"),
        EventKind::Configuration { added, removed } => {
            let part = |sign: char, matrix: &Matrix| {
                let masks =
                    [("adapters", matrix.apm), ("domains", matrix.aqm), ("control domains", matrix.adm)];
                let some = masks.iter().filter(|(_, mask)| !mask.is_empty());
                some.map(|(kind, mask)| format!(" {sign} {kind} {}", numbers(mask))).collect::<String>()
            };
            format!("the machine's configuration:{}{}", part('+', added), part('-', removed))
        }
        EventKind::Adapter { adapter, condition } => {
            let state = match condition {
                Condition::Online => "online",
                Condition::Offline => "offline",
                Condition::Checkstop => "check-stopped",
            };
            format!("adapter {adapter} is {state} now")
        }
        EventKind::ResetFailed { queue, response_code } => {
            format!("reset of queue {queue} failed with response code {response_code:02x}")
        }
        EventKind::Lost => "events were lost; `list` shows how things are".into(),
    }
}

/// The numbers of a mask, like `04-07,ab`.
fn ranges(mask: &Mask256, digits: usize) -> String {
    let mut runs: Vec<(u8, u8)> = Vec::new();
    for n in mask.iter() {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => runs.push((n, n)),
        }
    }
    let run = |(first, last): &(u8, u8)| match first == last {
        true => format!("{first:0digits$x}"),
        false => format!("{first:0digits$x}-{last:0digits$x}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

fn lines(out: &mut dyn Write, table: &Table) -> io::Result<()> {
    // The preset without borders indents by the padding of the first column.
    for line in table.lines() {
        writeln!(out, "{}", line.trim())?;
    }
    Ok(())
}
