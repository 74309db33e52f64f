//! Threads that take and release locks, and every way in which they can meet.

use std::fmt;

use ap::lock::{Action, LockEvent, LockId};
use stateright::{Checker, Model, Property};

/// What one thread does with locks, by name.
#[derive(Clone, Debug)]
pub struct Program {
    /// The operation.
    pub name: &'static str,
    /// Its steps.
    pub steps: Vec<LockEvent>,
}

/// Threads, each running its program once.
#[derive(Clone, Debug)]
pub struct Threads(pub Vec<Program>);

/// Where each thread is. What it holds follows from that, its program having no branches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    next: usize,
    /// It stands in line for the lock of its next step. A writer in line keeps new readers out.
    in_line: bool,
}

/// One edge of a circular wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The operation that waits,
    pub waiter: &'static str,
    /// for this lock,
    pub lock: LockId,
    /// held by this operation.
    pub holder: &'static str,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waits for {}, held by {}", self.waiter, self.lock, self.holder)
    }
}

/// What exploring found.
#[derive(Debug)]
pub struct Explored {
    /// Different states that were reached.
    pub states: usize,
    /// The circular wait of a state in which threads are left and none can go on.
    pub deadlock: Option<Vec<Wait>>,
}

const NO_DEADLOCK: &str = "some thread can go on until all are done";
const ALL_DONE: &str = "all are done";

impl Threads {
    /// Explores every interleaving, or as many as find a deadlock.
    ///
    /// # Panics
    /// If a program keeps a lock, or no interleaving ends.
    pub fn explore(self) -> Explored {
        let end: Vec<_> =
            self.0.iter().map(|program| Place { next: program.steps.len(), in_line: false }).collect();
        for (thread, program) in self.0.iter().enumerate() {
            let kept = program.steps.iter().find(|step| self.holds(&end, thread, step.lock).is_some());
            assert_eq!(kept, None, "{} ends with a lock", program.name);
        }
        let threads = self.clone();
        let checker = self.checker().spawn_bfs().join();
        let deadlock = checker.discovery(NO_DEADLOCK).map(|path| threads.waits(path.last_state()));
        if deadlock.is_none() {
            checker.assert_any_discovery(ALL_DONE);
            assert!(checker.is_done());
        }
        Explored { states: checker.unique_state_count(), deadlock }
    }

    fn step(&self, state: &[Place], thread: usize) -> Option<LockEvent> {
        self.0[thread].steps.get(state[thread].next).copied()
    }

    /// How `thread` holds `lock`.
    fn holds(&self, state: &[Place], thread: usize, lock: LockId) -> Option<Action> {
        let done = &self.0[thread].steps[..state[thread].next];
        let last = done.iter().rfind(|event| event.lock == lock)?;
        (last.action != Action::Release).then_some(last.action)
    }

    /// The threads because of which `thread` cannot make its next step. It may be among them.
    fn obstacles(&self, state: &[Place], thread: usize) -> Vec<usize> {
        let Some(step) = self.step(state, thread) else { return Vec::new() };
        let blocks = |other: &usize| {
            let held = self.holds(state, *other, step.lock);
            let writer_in_line = *other != thread
                && state[*other].in_line
                && self.step(state, *other) == Some(LockEvent { action: Action::Lock, lock: step.lock });
            match step.action {
                Action::Release => false,
                Action::Lock => held.is_some(),
                Action::Read => held == Some(Action::Lock) || writer_in_line,
            }
        };
        (0..state.len()).filter(blocks).collect()
    }

    fn deadlocked(&self, state: &[Place]) -> bool {
        let mut actions = Vec::new();
        self.actions(&state.to_vec(), &mut actions);
        actions.is_empty() && !self.done(state)
    }

    fn done(&self, state: &[Place]) -> bool {
        (0..state.len()).all(|thread| self.step(state, thread).is_none())
    }

    /// The circle of a deadlocked state, beginning with its first thread.
    fn waits(&self, state: &[Place]) -> Vec<Wait> {
        let mut visited: Vec<usize> = Vec::new();
        let mut thread = (0..state.len()).find(|t| self.step(state, *t).is_some()).expect("one is left");
        while !visited.contains(&thread) {
            visited.push(thread);
            thread = self.obstacles(state, thread)[0];
        }
        let start = visited.iter().position(|t| *t == thread).expect("visited twice");
        let mut circle = visited.split_off(start);
        let first = (0..circle.len()).min_by_key(|i| circle[*i]).expect("a circle has a member");
        circle.rotate_left(first);
        let next = circle.iter().cycle().skip(1);
        let wait = |(waiter, holder): (&usize, &usize)| Wait {
            waiter: self.0[*waiter].name,
            lock: self.step(state, *waiter).expect("it waits").lock,
            holder: self.0[*holder].name,
        };
        circle.iter().zip(next).map(wait).collect()
    }
}

impl Model for Threads {
    type State = Vec<Place>;
    /// The thread that goes on.
    type Action = usize;

    fn init_states(&self) -> Vec<Self::State> {
        vec![vec![Place::default(); self.0.len()]]
    }

    fn actions(&self, state: &Self::State, actions: &mut Vec<usize>) {
        let can_act = |thread: &usize| {
            self.step(state, *thread).is_some()
                && (!state[*thread].in_line || self.obstacles(state, *thread).is_empty())
        };
        actions.extend((0..state.len()).filter(can_act));
    }

    fn next_state(&self, state: &Self::State, thread: usize) -> Option<Self::State> {
        let mut next = state.clone();
        if self.obstacles(state, thread).is_empty() {
            next[thread] = Place { next: state[thread].next + 1, in_line: false };
        } else {
            next[thread].in_line = true;
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NO_DEADLOCK, |model: &Self, state: &Vec<Place>| !model.deadlocked(state)),
            Property::sometimes(ALL_DONE, |model: &Self, state: &Vec<Place>| model.done(state)),
        ]
    }
}
