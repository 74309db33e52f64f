//! The matrix as a picture: adapters by domains, a glyph a cell.

use std::collections::BTreeSet;
use std::fmt;

use ap::host::{Condition, Driver, QueueStatus, Snapshot};
use crycb::{Apid, Apqi, Apqn};
use serde::Serialize;
use uuid::Uuid;

/// Whom a cell serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    /// The host's default drivers.
    Host,
    /// The guest of the mediated device asked about, or of any when none was named.
    This,
    /// The guest of another mediated device.
    Other,
    /// Assigned to a mediated device, but no guest has it.
    Assigned,
    /// Bound to vfio_ap and assigned to nobody.
    Free,
    /// In the configuration, its adapter deconfigured.
    Offline,
    /// In the configuration, its adapter check-stopped.
    Checkstopped,
    /// Bound to no driver.
    Unbound,
    /// The domain can be controlled, not used.
    Control,
    /// Not in the configuration, but assigned to a mediated device.
    Absent,
    /// Nothing.
    None,
}

impl Cell {
    /// Every one, in the order of legends.
    pub const ALL: [Self; 11] = [
        Self::Host,
        Self::This,
        Self::Other,
        Self::Assigned,
        Self::Free,
        Self::Offline,
        Self::Checkstopped,
        Self::Unbound,
        Self::Control,
        Self::Absent,
        Self::None,
    ];

    /// What stands for it.
    pub fn glyph(self) -> char {
        match self {
            Self::Host => 'H',
            Self::This => '#',
            Self::Other => 'o',
            Self::Assigned => 'a',
            Self::Free => '.',
            Self::Offline => '-',
            Self::Checkstopped => 'X',
            Self::Unbound => '?',
            Self::Control => 'c',
            Self::Absent => '+',
            Self::None => ' ',
        }
    }

    /// What a legend says of it.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Host => "the host's",
            Self::This => "in this guest",
            Self::Other => "in another guest",
            Self::Assigned => "assigned, not plugged",
            Self::Free => "free for guests",
            Self::Offline => "adapter offline",
            Self::Checkstopped => "adapter check-stopped",
            Self::Unbound => "no driver",
            Self::Control => "control only",
            Self::Absent => "assigned, not in the configuration",
            Self::None => "nothing",
        }
    }
}

/// The picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Picture {
    /// Domain numbers, the columns.
    pub domains: Vec<String>,
    /// The rows.
    pub adapters: Vec<Row>,
}

/// An adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its number.
    pub adapter: String,
    /// Its type, if it is in the configuration.
    #[serde(rename = "type")]
    pub type_name: String,
    /// A cell for each domain.
    pub cells: Vec<Cell>,
}

impl Picture {
    /// The picture of a host; `this` names the mediated device whose guest is in the foreground.
    pub fn of(state: &Snapshot, this: Option<Uuid>) -> Self {
        let mut adapters: BTreeSet<u8> = state.configuration.apm.iter().collect();
        let mut domains: BTreeSet<u8> =
            state.configuration.aqm.iter().chain(state.configuration.adm.iter()).collect();
        for mdev in &state.mdevs {
            adapters.extend(mdev.matrix.apm.iter());
            domains.extend(mdev.matrix.aqm.iter());
        }
        let row = |n: &u8| Row {
            adapter: format!("{n:02x}"),
            type_name: state
                .adapters
                .iter()
                .find(|a| a.apid().0 == *n)
                .map(|a| a.type_name())
                .unwrap_or_default(),
            cells: domains.iter().map(|d| cell(state, this, Apqn::new(Apid(*n), Apqi(*d)))).collect(),
        };
        Self {
            adapters: adapters.iter().map(row).collect(),
            domains: domains.iter().map(|n| format!("{n:02x}")).collect(),
        }
    }
}

fn cell(state: &Snapshot, this: Option<Uuid>, apqn: Apqn) -> Cell {
    let Some(queue) = state.queue(apqn) else {
        return match state.mdev_of(apqn) {
            Some(_) => Cell::Absent,
            None if state.configuration.adm.test(apqn.apqi().0)
                && !state.configuration.aqm.test(apqn.apqi().0) =>
            {
                Cell::Control
            }
            None => Cell::None,
        };
    };
    let adapter = state.adapters.iter().find(|a| a.apid() == apqn.apid());
    match adapter.map(|a| a.condition) {
        Some(Condition::Offline) => return Cell::Offline,
        Some(Condition::Checkstop) => return Cell::Checkstopped,
        _ => {}
    }
    match (queue.driver, queue.status) {
        (None, _) => Cell::Unbound,
        (Some(Driver::Default), _) => Cell::Host,
        (_, Some(QueueStatus::InUse)) => {
            let mdev = state.mdev_of(apqn).map(|m| m.uuid);
            if this.is_none() || mdev == this { Cell::This } else { Cell::Other }
        }
        (_, Some(QueueStatus::Assigned)) => Cell::Assigned,
        _ => Cell::Free,
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.adapters.iter().map(|row| row.type_name.len()).max().unwrap_or(0);
        write!(f, "   {:width$}", "")?;
        for domain in &self.domains {
            write!(f, " {domain}")?;
        }
        writeln!(f)?;
        for row in &self.adapters {
            write!(f, "{} {:width$}", row.adapter, row.type_name)?;
            for cell in &row.cells {
                write!(f, "  {}", cell.glyph())?;
            }
            writeln!(f)?;
        }
        let used: BTreeSet<Cell> = self.adapters.iter().flat_map(|row| row.cells.iter().copied()).collect();
        for cell in Cell::ALL.into_iter().filter(|cell| used.contains(cell) && *cell != Cell::None) {
            writeln!(f, "   {}  {}", cell.glyph(), cell.meaning())?;
        }
        Ok(())
    }
}
