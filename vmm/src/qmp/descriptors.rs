//! Descriptors that clients send along: kept by name or in a set when a command says so, else closed.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd};

use serde_json::{Value, json};

use super::error::Error;

/// Most descriptors that one client, and all sets together, keep.
const MOST: usize = 64;
/// Most that wait for the command that they came with; what more comes is closed.
pub const MOST_ARRIVED: usize = 16;

/// Longest text beside a descriptor in a set, in bytes.
const LONGEST_TEXT: usize = 256;

/// One client's descriptors; they go with it.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// With the number of bytes received before them.
    arrived: VecDeque<(u64, OwnedFd)>,
    named: BTreeMap<String, OwnedFd>,
}

impl Descriptors {
    /// A descriptor came after `position` bytes.
    pub fn arrive(&mut self, position: u64, descriptor: OwnedFd) {
        if self.arrived.len() < MOST_ARRIVED {
            self.arrived.push_back((position, descriptor));
        }
    }

    /// A command that ended at `position` is done: what came with it and was not taken is closed.
    pub fn close_before(&mut self, position: u64) {
        self.arrived.retain(|(at, _)| *at >= position);
    }

    /// The descriptor that came with a command.
    fn take(&mut self) -> Result<OwnedFd, Error> {
        let (_, descriptor) = self.arrived.pop_front().ok_or_else(|| {
            Error::generic("no descriptor came with the command; send one with it by SCM_RIGHTS")
        })?;
        Ok(descriptor)
    }

    /// `getfd`: keeps the descriptor under `name`, instead of what has that name.
    pub fn keep(&mut self, name: &str) -> Result<(), Error> {
        let descriptor = self.take()?;
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(Error::generic(format_args!(
                "fdname: '{name}' would be taken for a number; begin it with a letter"
            )));
        }
        if !self.named.contains_key(name) && self.named.len() >= MOST {
            return Err(full());
        }
        self.named.insert(name.to_owned(), descriptor);
        Ok(())
    }

    /// `closefd`.
    pub fn close(&mut self, name: &str) -> Result<(), Error> {
        self.take_named("fdname", name).map(drop)
    }

    /// The descriptor that `argument` names, which this forgets.
    pub fn take_named(&mut self, argument: &str, name: &str) -> Result<OwnedFd, Error> {
        self.named.remove(name).ok_or_else(|| {
            let known: Vec<_> = self.named.keys().map(String::as_str).collect();
            Error::generic(format_args!(
                "{argument}: no descriptor '{name}'; this connection has [{}], and getfd takes more",
                known.join(", ")
            ))
        })
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.arrived.len() + self.named.len()
    }
}

fn full() -> Error {
    Error::generic(format_args!("{MOST} descriptors are kept already; close one first"))
}

/// The sets of descriptors, which all clients share and which go with the last of them.
#[derive(Debug, Default)]
pub struct Sets {
    sets: BTreeMap<i64, Vec<(OwnedFd, Option<String>)>>,
}

impl Sets {
    /// `add-fd`: adds what came with the command to set `id`, or to a new one.
    pub fn add(
        &mut self,
        from: &mut Descriptors,
        id: Option<i64>,
        opaque: Option<&str>,
    ) -> Result<Value, Error> {
        let descriptor = from.take()?;
        if id.is_some_and(|id| id < 0) {
            return Err(Error::generic("fdset-id: a number from 0 on is needed here"));
        }
        if opaque.is_some_and(|text| text.len() > LONGEST_TEXT) {
            return Err(Error::generic(format_args!("opaque: more than {LONGEST_TEXT} bytes; shorten it")));
        }
        if self.sets.values().map(Vec::len).sum::<usize>() >= MOST {
            return Err(full());
        }
        let id = id.unwrap_or_else(|| (0..).find(|id| !self.sets.contains_key(id)).unwrap_or_default());
        let fd = descriptor.as_raw_fd();
        self.sets.entry(id).or_default().push((descriptor, opaque.map(str::to_owned)));
        Ok(json!({"fdset-id": id, "fd": fd}))
    }

    /// `remove-fd`: closes descriptor `fd` of set `id`, or all of it.
    pub fn remove(&mut self, id: i64, fd: Option<i64>) -> Result<(), Error> {
        let set = self.sets.get_mut(&id).ok_or_else(|| {
            Error::generic(format_args!("fdset-id: no set {id}; `query-fdsets` lists them"))
        })?;
        let before = set.len();
        set.retain(|(descriptor, _)| fd.is_some_and(|fd| i64::from(descriptor.as_raw_fd()) != fd));
        let missing = fd.filter(|_| set.len() == before);
        if set.is_empty() {
            self.sets.remove(&id);
        }
        match missing {
            Some(fd) => Err(Error::generic(format_args!(
                "fd: set {id} has no descriptor {fd}; query-fdsets lists them"
            ))),
            None => Ok(()),
        }
    }

    /// A copy of the descriptor that `argument` names by its number, or (`of_set`) of the first in the set of that number.
    pub fn copy(&self, argument: &str, number: &str, of_set: bool) -> Result<OwnedFd, Error> {
        let all =
            self.sets.iter().flat_map(|(id, set)| set.iter().map(move |(descriptor, _)| (*id, descriptor)));
        let key = |(id, descriptor): (i64, &OwnedFd)| if of_set { id } else { descriptor.as_raw_fd().into() };
        let wanted = number.parse::<i64>().ok();
        let what = if of_set { "set of descriptors" } else { "descriptor in a set" };
        let found = all.into_iter().find(|entry| Some(key(*entry)) == wanted);
        let (_, found) = found.ok_or_else(|| {
            Error::generic(format_args!(
                "{argument}: no {what} has the number '{number}'; query-fdsets lists them, and add-fd makes one"
            ))
        })?;
        found.try_clone().map_err(|e| {
            Error::generic(format_args!("{argument}: copy the descriptor: {e}; close some first"))
        })
    }

    /// `query-fdsets`.
    pub fn list(&self) -> Value {
        let describe = |(descriptor, opaque): &(OwnedFd, Option<String>)| {
            let mut value = json!({"fd": descriptor.as_raw_fd()});
            if let Some(opaque) = opaque {
                value["opaque"] = opaque.as_str().into();
            }
            value
        };
        let sets = self.sets.iter();
        sets.map(|(id, set)| json!({"fdset-id": id, "fds": set.iter().map(describe).collect::<Vec<_>>()}))
            .collect()
    }

    /// Closes everything.
    pub fn clear(&mut self) {
        self.sets.clear();
    }
}
