//! Commands that QEMU does not have.

use serde_json::json;

use super::{Answer, Context, DONE, EVENTS, done};
use crate::qmp::error::Error;
use crate::qmp::schema::{NOTHING, Object, Type, needs, object};
use crate::qmp::table::{self, Arguments, Row};

pub static ROWS: &[Row] = &[
    Row { name: "x-subscribe", arguments: &SUBSCRIBE, returns: DONE, oob: false, run: subscribe },
    Row { name: "x-unsubscribe", arguments: &UNSUBSCRIBE, returns: DONE, oob: false, run: unsubscribe },
    Row {
        name: "x-query-metrics",
        arguments: &NOTHING,
        returns: Type::Object(&METRICS),
        oob: true,
        run: query_metrics,
    },
];

static SUBSCRIBE: Object = object("x-subscribe-arg", &[needs("events", Type::Array(&Type::Str))]);
static UNSUBSCRIBE: Object = object("x-unsubscribe-arg", &[needs("events", Type::Array(&Type::Str))]);

/// The names of our own events among the arguments; `*` is all of them.
fn events(arguments: &Arguments<'_>) -> Result<Vec<&'static str>, Error> {
    let all = || EVENTS.iter().filter(|row| row.asked_for).map(|row| row.name);
    let mut found = Vec::new();
    for name in arguments.texts("events").unwrap_or_default() {
        match table::event(name).filter(|row| row.asked_for) {
            Some(row) => found.push(row.name),
            None if name == "*" => found.extend(all()),
            None => {
                let known = all().collect::<Vec<_>>().join(", ");
                return Err(Error::generic(format_args!(
                    "events: '{name}' is none that is subscribed to; those are {known}, and * for all"
                )));
            }
        }
    }
    Ok(found)
}

fn subscribe(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    context.client.subscriptions.extend(events(arguments)?);
    Ok(done())
}

fn unsubscribe(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    for name in events(arguments)? {
        context.client.subscriptions.remove(name);
    }
    Ok(done())
}

static METRICS: Object = object(
    "x-Metrics",
    &[
        needs("uptime-ms", Type::Int),
        needs("resets", Type::Int),
        needs("console-input-dropped", Type::Int),
        needs("qmp", Type::Object(&QMP_METRICS)),
    ],
);
static QMP_METRICS: Object = object(
    "x-QmpMetrics",
    &[
        needs("clients", Type::Int),
        needs("connections", Type::Int),
        needs("refused", Type::Int),
        needs("commands", Type::Int),
        needs("errors", Type::Int),
        needs("events", Type::Int),
        needs("events-dropped", Type::Int),
    ],
);

fn query_metrics(context: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    let metrics = context.shared.metrics;
    let uptime = u64::try_from(context.shared.since.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Answer::Now(json!({
        "uptime-ms": uptime,
        "resets": context.board.resets(),
        "console-input-dropped": context.board.devices().dropped_input(),
        "qmp": {
            "clients": metrics.clients,
            "connections": metrics.connections,
            "refused": metrics.refused,
            "commands": metrics.commands,
            "errors": metrics.errors,
            "events": metrics.events,
            "events-dropped": metrics.events_dropped,
        },
    })))
}
