//! The commands and events, one row each: what dispatches them is what describes them.

use serde_json::{Map, Value};

use super::commands::{self, Answer, Context};
use super::error::Error;
use super::schema::{Object, Schema, Type};

/// A command.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// The type of its arguments.
    pub arguments: &'static Object,
    /// The type of its answer.
    pub returns: Type,
    /// Whether it may overtake others (`exec-oob`). It then may not wait for anything.
    pub oob: bool,
    /// What it does.
    pub run: fn(&mut Context<'_>, &Arguments<'_>) -> Result<Answer, Error>,
}

/// An event.
pub struct EventRow {
    /// Its name.
    pub name: &'static str,
    /// The type of its data.
    pub data: &'static Object,
    /// Whether it goes only to clients that subscribed to it.
    pub asked_for: bool,
}

/// Arguments that are of their command's type.
pub struct Arguments<'a>(&'a Map<String, Value>);

impl<'a> Arguments<'a> {
    /// `given` for the command of `row`, if they are of its type.
    pub fn checked(row: &Row, given: &'a Map<String, Value>) -> Result<Self, Error> {
        row.arguments.check(given, "")?;
        Ok(Self(given))
    }

    /// A string.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A string that the command's type requires.
    pub fn required(&self, name: &str) -> &'a str {
        self.text(name).expect("the row requires it")
    }

    /// An integer; one above the largest is that.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.0.get(name).and_then(|value| value.as_i64().or(value.as_u64().map(|_| i64::MAX)))
    }

    /// A boolean.
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.0.get(name).and_then(Value::as_bool)
    }

    /// Whatever it is.
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name)
    }

    /// All of them.
    pub fn all(&self) -> &'a Map<String, Value> {
        self.0
    }

    /// An array of strings.
    pub fn texts(&self, name: &str) -> Option<Vec<&'a str>> {
        Some(self.0.get(name)?.as_array()?.iter().filter_map(Value::as_str).collect())
    }
}

/// Every command.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    commands::ALL.iter().flat_map(|rows| rows.iter())
}

/// The command called `name`.
pub fn row(name: &str) -> Option<&'static Row> {
    rows().find(|row| row.name == name)
}

/// The event called `name`.
pub fn event(name: &str) -> Option<&'static EventRow> {
    commands::EVENTS.iter().find(|row| row.name == name)
}

/// The answer of `query-qmp-schema`.
pub fn schema() -> Value {
    let mut schema = Schema::default();
    for row in rows() {
        schema.command(row.name, row.arguments, row.returns, row.oob);
    }
    for row in commands::EVENTS {
        schema.event(row.name, row.data);
    }
    schema.into_value()
}
