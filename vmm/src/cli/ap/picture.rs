//! The matrix as a picture: adapters by domains, in each cell a sign for whom it serves, and one before it for what is wrong.

use std::collections::BTreeSet;
use std::fmt;

use ap::host::{Condition, Driver, Permissions, Snapshot};
use crycb::{Apid, Apqi, Apqn};
use serde::Serialize;
use uuid::Uuid;

/// Whom a cell serves. Another device than the one in the foreground is one sign, whatever its guest has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serves {
    /// The host's default drivers.
    Host,
    /// The guest of the mediated device in the foreground, or of any when none is.
    This,
    /// Assigned to that device, but no guest has it.
    Assigned,
    /// Assigned to another mediated device.
    Other,
    /// Left to vfio_ap and assigned to nobody.
    Free,
    /// The domain can be controlled, not used.
    Control,
    /// Nothing.
    #[default]
    None,
}

impl Serves {
    /// Every one, in the order of legends.
    pub const ALL: [Self; 7] =
        [Self::Host, Self::This, Self::Assigned, Self::Other, Self::Free, Self::Control, Self::None];

    /// What stands for it.
    pub fn glyph(self) -> char {
        match self {
            Self::Host => 'H',
            Self::This => '#',
            Self::Assigned => 'a',
            Self::Other => 'o',
            Self::Free => '.',
            Self::Control => 'c',
            Self::None => ' ',
        }
    }

    /// What a legend says of it where this mediated device is in the foreground.
    pub fn meaning(self, this: Option<Uuid>) -> &'static str {
        match (self, this) {
            (Self::Host, _) => "the host's",
            (Self::This, Some(_)) => "in this guest",
            (Self::This, None) => "in a guest",
            (Self::Assigned, Some(_)) => "this device's, not plugged",
            (Self::Assigned, None) => "assigned, not plugged",
            (Self::Other, _) => "another device's",
            (Self::Free, _) => "free for guests",
            (Self::Control, _) => "control only",
            (Self::None, _) => "nothing",
        }
    }
}

/// What keeps a cell from serving anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// Its adapter is deconfigured.
    Offline,
    /// Its adapter is check-stopped.
    Checkstopped,
    /// It is bound to no driver.
    Unbound,
    /// It is assigned, and there is no such queue.
    Absent,
}

impl Trouble {
    /// Every one, in the order of legends.
    pub const ALL: [Self; 4] = [Self::Offline, Self::Checkstopped, Self::Unbound, Self::Absent];

    /// What stands for it, before whom the cell serves.
    pub fn glyph(self) -> char {
        match self {
            Self::Offline => '-',
            Self::Checkstopped => 'X',
            Self::Unbound => '?',
            Self::Absent => '+',
        }
    }

    /// What a legend says of it.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Offline => "adapter offline",
            Self::Checkstopped => "adapter check-stopped",
            Self::Unbound => "no driver",
            Self::Absent => "not in the configuration",
        }
    }
}

/// A queue, or the place of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Whom it serves, or would.
    pub serves: Serves,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// The mediated device that it is assigned to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdev: Option<Uuid>,
}

/// The picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Picture {
    /// The mediated device in the foreground.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdev: Option<Uuid>,
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
    /// The picture of a host; `this` names the mediated device in the foreground.
    pub fn of(state: &Snapshot, this: Option<Uuid>) -> Self {
        let mut adapters: BTreeSet<u8> = state.configuration.apm.iter().collect();
        let mut domains: BTreeSet<u8> =
            state.configuration.aqm.iter().chain(state.configuration.adm.iter()).collect();
        for mdev in &state.mdevs {
            adapters.extend(mdev.matrix.apm.iter());
            domains.extend(mdev.matrix.aqm.iter());
        }
        let permissions = state.permissions();
        let row = |n: &u8| Row {
            adapter: format!("{n:02x}"),
            type_name: state
                .adapters
                .iter()
                .find(|a| a.apid().0 == *n)
                .map(|a| a.type_name())
                .unwrap_or_default(),
            cells: domains
                .iter()
                .map(|d| cell(state, &permissions, this, Apqn::new(Apid(*n), Apqi(*d))))
                .collect(),
        };
        Self {
            mdev: this,
            adapters: adapters.iter().map(row).collect(),
            domains: domains.iter().map(|n| format!("{n:02x}")).collect(),
        }
    }
}

fn cell(state: &Snapshot, permissions: &Permissions, this: Option<Uuid>, apqn: Apqn) -> Cell {
    let mdev = state.mdev_of(apqn);
    let queue = state.queue(apqn);
    let configuration = &state.configuration;
    let serves = match (mdev, queue.map(|queue| queue.driver)) {
        (_, Some(Some(Driver::Default))) => Serves::Host,
        (Some(mdev), _) if this.is_some_and(|this| this != mdev.uuid) => Serves::Other,
        (Some(mdev), Some(_)) if mdev.attached && mdev.guest_matrix.test(apqn) => Serves::This,
        (Some(_), _) => Serves::Assigned,
        (None, Some(_)) if permissions.driver(apqn) == Some(Driver::Default) => Serves::Host,
        (None, Some(_)) => Serves::Free,
        (None, None) if configuration.adm.test(apqn.apqi().0) && !configuration.aqm.test(apqn.apqi().0) => {
            Serves::Control
        }
        (None, None) => Serves::None,
    };
    let adapter = state.adapters.iter().find(|a| a.apid() == apqn.apid());
    let trouble = match (queue, adapter.map(|a| a.condition)) {
        (None, _) => mdev.map(|_| Trouble::Absent),
        (Some(_), Some(Condition::Offline)) => Some(Trouble::Offline),
        (Some(_), Some(Condition::Checkstop)) => Some(Trouble::Checkstopped),
        (Some(queue), _) => queue.driver.is_none().then_some(Trouble::Unbound),
    };
    Cell { serves, trouble, mdev: mdev.map(|mdev| mdev.uuid) }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.adapters.iter().map(|row| row.type_name.len()).max().unwrap_or(0);
        write!(f, "   {:width$}", "")?;
        for domain in &self.domains {
            write!(f, " {domain}")?;
        }
        writeln!(f)?;
        let lines = |row: &Row| {
            let cell =
                |cell: &Cell| format!(" {}{}", cell.trouble.map_or(' ', Trouble::glyph), cell.serves.glyph());
            row.cells.iter().map(cell).collect::<String>()
        };
        for row in &self.adapters {
            writeln!(f, "{} {:width$}{}", row.adapter, row.type_name, lines(row))?;
        }
        let cells = || self.adapters.iter().flat_map(|row| &row.cells);
        let used: BTreeSet<Serves> = cells().map(|cell| cell.serves).collect();
        for serves in used.into_iter().filter(|serves| *serves != Serves::None) {
            writeln!(f, "   {}  {}", serves.glyph(), serves.meaning(self.mdev))?;
        }
        // As in the cells, before the sign of whom it serves.
        let used: BTreeSet<Trouble> = cells().filter_map(|cell| cell.trouble).collect();
        for trouble in used {
            writeln!(f, "  {}   {}", trouble.glyph(), trouble.meaning())?;
        }
        Ok(())
    }
}
