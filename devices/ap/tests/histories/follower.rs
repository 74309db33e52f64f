//! Who watches the host's events: numbered, bounded, losses announced; and from any query on they tell how things are.

use std::collections::BTreeSet;

use ap::host::{EventKind, Snapshot, Watch};
use uuid::Uuid;

use crate::doubles::queue;
use crate::ops::Queue;

/// The most events that wait for a watcher.
const WAITING: u64 = 1024;

/// A watcher, and what it knows by the events alone.
pub struct Follower {
    watch: Watch,
    /// The number of the last event, taken or announced as lost.
    pub last: u64,
    /// What each mediated device's guest may reach.
    plugged: Vec<(Uuid, BTreeSet<Queue>)>,
}

fn plugged(snapshot: &Snapshot) -> Vec<(Uuid, BTreeSet<Queue>)> {
    snapshot.mdevs.iter().map(|m| (m.uuid, m.guest_matrix.apqns().map(queue).collect())).collect()
}

impl Follower {
    /// One that queries now, and knows the number of the last event.
    pub fn new(watch: Watch, last: u64, now: &Snapshot) -> Self {
        Self { watch, last, plugged: plugged(now) }
    }

    /// Takes what waits. `told` is the number of the host's last event, if somebody knows it. True when some were lost.
    pub fn take(&mut self, told: Option<u64>, now: &Snapshot) -> Result<bool, String> {
        let first = self.last;
        let waiting: Vec<_> = self.watch.try_iter().collect();
        for event in waiting {
            if event.kind == EventKind::Lost {
                if self.last != first + WAITING || Some(event.number) != told {
                    return Err(format!(
                        "events: {} were told, {first} to {} taken, lost up to {}",
                        told.unwrap_or_default(),
                        self.last,
                        event.number
                    ));
                }
                // A query tells how things are.
                (self.last, self.plugged) = (event.number, plugged(now));
                return Ok(true);
            }
            self.last += 1;
            if event.number != self.last || self.last > first + WAITING {
                return Err(format!(
                    "events: number {} after {}, {first} were taken",
                    event.number,
                    self.last - 1
                ));
            }
            self.follow(event.kind)?;
        }
        if told.is_some_and(|told| told != self.last) {
            return Err(format!("events: {told:?} told, {} taken, and nothing is lost", self.last));
        }
        for (uuid, queues) in &self.plugged {
            let now = now.mdev(*uuid).map(|m| m.guest_matrix.apqns().map(queue).collect());
            if now.as_ref() != Some(queues) {
                return Err(format!("events: those of {uuid} lead to {queues:?}, it has {now:?}"));
            }
        }
        Ok(false)
    }

    fn follow(&mut self, kind: EventKind) -> Result<(), String> {
        match kind {
            EventKind::MdevCreated { mdev } => self.plugged.push((mdev, BTreeSet::new())),
            EventKind::MdevRemoved { mdev } => self.plugged.retain(|(uuid, _)| *uuid != mdev),
            EventKind::GuestMatrix { mdev, change } => {
                let (came, went) = (change.plugged, change.unplugged);
                let Some((_, queues)) = self.plugged.iter_mut().find(|(uuid, _)| *uuid == mdev) else {
                    return Err(format!("events: {mdev} is not there"));
                };
                let fresh = came.iter().all(|q| queues.insert(queue(*q)));
                if !fresh || !went.iter().all(|q| queues.remove(&queue(*q))) {
                    return Err(format!("events: {came:?} plugged, {went:?} unplugged, wrongly"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
