//! Commands that QEMU does not have.

use serde_json::{Value, json};

use super::{Answer, Context, DONE, EVENTS, FROM, PAGE, Shared, done, from, in_thread};
use crate::metrics::{self, Figure};
use crate::qmp::error::Error;
use crate::qmp::schema::{Object, Type, may, needs, object};
use crate::qmp::table::{self, Arguments, Row};

pub static ROWS: &[Row] = &[
    Row { name: "x-subscribe", arguments: &SUBSCRIBE, returns: DONE, oob: false, run: subscribe },
    Row { name: "x-unsubscribe", arguments: &UNSUBSCRIBE, returns: DONE, oob: false, run: unsubscribe },
    Row {
        name: "x-query-metrics",
        arguments: &FROM,
        returns: Type::Object(&METRICS),
        oob: false,
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

static METRICS: Object =
    object("x-Metrics", &[needs("figures", Type::Array(&Type::Object(&FIGURE))), may("next", Type::Int)]);
static FIGURE: Object =
    object("x-Figure", &[needs("name", Type::Str), may("labels", Type::Any), needs("value", Type::Number)]);

/// The figures of `--metrics`, by the same names.
fn query_metrics(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    let from = from(arguments)?;
    let Shared { metrics, process, since, .. } = &*context.shared;
    let mut figures = metrics::of_machine(context.board, metrics, process, *since);
    let Some(control) = context.board.devices().ap() else {
        return Ok(Answer::Now(page(&figures, from)));
    };
    in_thread(context, move || {
        figures.extend(metrics::of_ap(&*control));
        Ok(page(&figures, from))
    })
}

/// As many as fit in an answer.
fn page(figures: &[Figure], from: usize) -> Value {
    let samples = figures.iter().flat_map(|figure| figure.samples.iter().map(|sample| (figure.name, sample)));
    let mut samples = samples.skip(from).peekable();
    let (mut told, mut bytes) = (Vec::new(), 0);
    while bytes < PAGE
        && let Some((name, (labels, value))) = samples.next()
    {
        let value = match *value {
            metrics::Value::Count(count) => count.into(),
            metrics::Value::Seconds(seconds) => json!(seconds),
        };
        let mut sample = json!({"name": name, "value": value});
        if !labels.is_empty() {
            let labels = labels.iter().map(|(key, label)| ((*key).to_owned(), label.as_str().into()));
            sample["labels"] = Value::Object(labels.collect());
        }
        bytes += sample.to_string().len();
        told.push(sample);
    }
    let mut answer = json!({"figures": told});
    if samples.peek().is_some() {
        answer["next"] = (from + answer["figures"].as_array().map_or(0, Vec::len)).into();
    }
    answer
}
