//! Commands for the guest's life: held and let go, reset, powered off; and how a client begins.

use serde_json::{Value, json};

use super::device::name_of;
use super::{After, Answer, Context, DONE, done};
use crate::board::Board;
use crate::events::ResetCause;
use crate::qmp::error::Error;
use crate::qmp::monitor;
use crate::qmp::schema::{NOTHING, Object, Type, may, needs, object};
use crate::qmp::table::{Arguments, Row};

const fn plain(
    name: &'static str,
    run: fn(&mut Context<'_>, &Arguments<'_>) -> Result<Answer, Error>,
) -> Row {
    Row { name, arguments: &NOTHING, returns: DONE, oob: false, run }
}

pub static ROWS: &[Row] = &[
    Row { arguments: &CAPABILITIES, ..plain("qmp_capabilities", qmp_capabilities) },
    plain("stop", stop),
    plain("cont", cont),
    plain("system_reset", system_reset),
    plain("system_powerdown", system_powerdown),
    plain("inject-nmi", inject_nmi),
    plain("quit", quit),
    Row { arguments: &MONITOR, returns: Type::Str, ..plain("human-monitor-command", human_monitor_command) },
    Row { arguments: &MIGRATE, ..plain("migrate", migrate) },
];

static CAPABILITIES: Object =
    object("qmp_capabilities-arg", &[may("enable", Type::Array(&Type::Enum("QMPCapability", &["oob"])))]);

fn qmp_capabilities(_: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    let oob = arguments.texts("enable").is_some_and(|enable| !enable.is_empty());
    Ok(Answer::Then(json!({}), After::Negotiated { oob }))
}

fn stop(context: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    monitor_stop(context.board, json!({}))
}

/// Holds the CPUs; `answer` once they are.
pub fn monitor_stop(board: &Board, answer: Value) -> Result<Answer, Error> {
    board.hold();
    Ok(Answer::Wait(Box::new(move |board| board.held().then(|| Ok(answer.clone())))))
}

fn cont(context: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    monitor_cont(context.board, json!({}))
}

/// Lets the CPUs go on.
pub fn monitor_cont(board: &Board, answer: Value) -> Result<Answer, Error> {
    if board.control.ended() {
        return Err(Error::generic("the guest has ended"));
    }
    board.release();
    Ok(Answer::Now(answer))
}

fn system_reset(context: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    context.board.control.request_reset(ResetCause::Management);
    Ok(done())
}

fn system_powerdown(_: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    Ok(Answer::Then(json!({}), After::Do(monitor::power_down)))
}

fn inject_nmi(context: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    monitor::restart(context.board)?;
    Ok(done())
}

fn quit(_: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    Ok(Answer::Then(json!({}), After::Do(monitor::quit)))
}

static MONITOR: Object =
    object("human-monitor-command-arg", &[needs("command-line", Type::Str), may("cpu-index", Type::Int)]);

fn human_monitor_command(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    if let Some(index) = arguments.int("cpu-index") {
        let there = u16::try_from(index).is_ok_and(|n| context.board.vm.cpu_addresses().contains(&n));
        if !there {
            return Err(Error::generic(format_args!(
                "cpu-index: there is no CPU {index}; query-cpus-fast lists them"
            )));
        }
    }
    monitor::execute(context, arguments.required("command-line"))
}

static MIGRATE: Object =
    object("migrate-arg", &[may("uri", Type::Str), may("detach", Type::Bool), may("resume", Type::Bool)]);

fn migrate(context: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    let device = context.board.devices().ap().and_then(|control| control.plugged());
    Err(Error::generic(match device.map(|device| name_of(&device)) {
        Some(id) => format!(
            "the guest has AP queues, which stay on this host: give device_del of '{id}' first; adjunct itself cannot \
             migrate yet either"
        ),
        None => "adjunct cannot migrate guests yet; power this one off and start it where it is to be".into(),
    }))
}
