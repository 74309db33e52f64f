//! How a command fails.

use std::fmt;

use serde_json::{Value, json};

/// The classes by which programs tell errors apart; most are [`Class::GenericError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Everything without a class of its own.
    GenericError,
    /// No such command, or not in this state of the connection.
    CommandNotFound,
    /// No such device.
    DeviceNotFound,
}

/// A command failed. What the client is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{description}")]
pub struct Error {
    /// For programs.
    pub class: Class,
    /// For people: what is wrong, and the remedy.
    pub description: String,
}

impl Error {
    /// An error of `class`.
    pub fn new(class: Class, description: impl fmt::Display) -> Self {
        Self { class, description: description.to_string() }
    }

    /// An error without a class of its own.
    pub fn generic(description: impl fmt::Display) -> Self {
        Self::new(Class::GenericError, description)
    }

    /// As the member `error` of a reply.
    pub fn to_value(&self) -> Value {
        json!({"class": format!("{:?}", self.class), "desc": self.description})
    }
}
