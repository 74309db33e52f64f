//! The words of QEMU's monitor for people that have a meaning here, behind `human-monitor-command`.
//!
//! What goes wrong is text in the answer, as it is there.

use serde_json::Value;

use super::commands::{After, Answer, Context, monitor_cont, monitor_stop};
use super::error::Error;
use super::{COMPATIBLE, PACKAGE};
use crate::board::{BOOT_CPU, Board};
use crate::control::End;
use crate::events::ResetCause;

type Word = fn(&mut Context<'_>) -> Result<Answer, Error>;

/// Names, what it does, and the function.
const WORDS: &[(&[&str], &str, Word)] = &[
    (&["cont", "c"], "let the guest go on", |c| monitor_cont(c.board, text(""))),
    (&["help", "?"], "this list", |_| Ok(Answer::Now(text(&help())))),
    (&["nmi"], "restart interruption at CPU 0", |c| restart(c.board).map(|()| Answer::Now(text("")))),
    (&["quit", "q"], "end the run", |_| Ok(Answer::Then(text(""), After::Do(quit)))),
    (&["stop", "s"], "hold the guest", |c| monitor_stop(c.board, text(""))),
    (&["system_powerdown"], "ask the guest to power off", |_| {
        Ok(Answer::Then(text(""), After::Do(power_down)))
    }),
    (&["system_reset"], "reset the guest and load it again", |c| {
        c.board.control.request_reset(ResetCause::Management);
        Ok(Answer::Now(text("")))
    }),
];

type Topic = fn(&mut Context<'_>) -> String;

/// What `info` knows.
const TOPICS: &[(&str, &str, Topic)] = &[
    ("cpus", "CPUs, their state and the host's threads", info_cpus),
    ("kvm", "whether KVM executes the guest", |c| {
        format!("kvm support: {}", if c.shared.about.kvm { "enabled" } else { "disabled" })
    }),
    ("name", "the guest's name", |c| c.board.identity().name.clone()),
    ("status", "whether the guest runs", |c| format!("VM status: {}", c.board.status())),
    ("uuid", "the guest's UUID", |c| c.board.identity().uuid.to_string()),
    ("version", "versions", |_| {
        let (major, minor, micro) = COMPATIBLE;
        format!("{major}.{minor}.{micro} ({PACKAGE})")
    }),
];

/// Executes one line.
pub fn execute(context: &mut Context<'_>, line: &str) -> Result<Answer, Error> {
    let words: Vec<_> = line.split_whitespace().collect();
    let say = |what: String| Ok(Answer::Now(text(&what)));
    match words[..] {
        [] => say(String::new()),
        ["info"] => say(topics()),
        ["info", topic] => match TOPICS.iter().find(|(name, ..)| *name == topic) {
            Some((_, _, show)) => say(show(context)),
            None => say(format!("no topic '{topic}'; these there are:\n{}", topics())),
        },
        [word] => match WORDS.iter().find(|(names, ..)| names.contains(&word)) {
            Some((_, _, run)) => run(context),
            None => say(format!("no command '{word}'; 'help' lists them")),
        },
        [word, ..] => say(format!("'{word}' takes nothing after it, or is no command; 'help' lists them")),
    }
}

/// Makes a restart interruption pending at CPU 0, as QEMU has it for s390x.
pub fn restart(board: &Board) -> Result<(), Error> {
    match board.vm.restart(BOOT_CPU) {
        true => Ok(()),
        false => Err(Error::generic("the machine has no CPU 0")),
    }
}

/// Asks the guest to power off.
pub fn power_down(board: &Board) {
    if !board.power_down() {
        log::info!(
            "the guest does not listen for power-off requests yet; it will find this one when it does"
        );
    }
}

/// Ends the run.
pub fn quit(board: &Board) {
    board.control.end(End::Stopped("quit"));
}

/// Text as the monitor shows it.
fn text(lines: &str) -> Value {
    let lines: String = lines.lines().map(|line| format!("{line}\r\n")).collect();
    lines.into()
}

fn help() -> String {
    let words = WORDS.iter().map(|(names, what, _)| format!("{} -- {what}\n", names.join("|")));
    let topics = TOPICS.iter().map(|(name, what, _)| format!("info {name} -- {what}\n"));
    words.chain(topics).collect()
}

fn topics() -> String {
    TOPICS.iter().map(|(name, what, _)| format!("info {name} -- {what}\n")).collect()
}

fn info_cpus(context: &mut Context<'_>) -> String {
    let board = context.board;
    let describe = |address: u16| {
        let mark = if address == BOOT_CPU { '*' } else { ' ' };
        let thread = board.thread(address).unwrap_or(0);
        let state = if board.vm.is_operating(address) { "" } else { " (stopped)" };
        format!("{mark} CPU #{address}: thread_id={thread}{state}\n")
    };
    board.vm.cpu_addresses().into_iter().map(describe).collect()
}
