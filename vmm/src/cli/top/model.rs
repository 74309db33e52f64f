//! What is known and what the user is doing: updates and keys in, actions out. Knows neither terminal nor sockets.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ap::host::{Attribute, Driver, EventKind, Operation, Plan, QueueState, Snapshot, explain};
use crycb::{Apid, Apqi, Apqn};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use uuid::Uuid;

use super::source::Address;
use crate::cli::ap::backend::Place;
use crate::cli::ap::grammar::{command_at, command_line};
use crate::cli::ap::picture::{Cell, Picture};
use crate::cli::ap::print;

/// Most events that are kept.
const EVENTS: usize = 100;
/// Most latencies of a queue that are kept, for the widest screen.
const TREND: usize = 60;

/// What the source tells.
#[derive(Debug)]
pub enum Update {
    /// How everything is.
    State(Box<Snapshot>),
    /// Something happened.
    Event(EventKind),
    /// The answer to [`Action::Plan`].
    Plan(Operation, Box<Plan>),
    /// The answer to [`Action::Execute`]: why not, if it was refused.
    Executed(Operation, Result<(), String>),
    /// There is no connection, and a new one is tried.
    Lost(String),
}

/// What is to be done for the user.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Plan(Operation),
    Execute(Operation),
    /// Ask how everything is, now.
    Refresh,
    Quit,
}

/// What the keys mean at the moment.
#[derive(Debug)]
pub enum Mode {
    List,
    Help,
    /// The user is asked whether to do it; the plan comes when the source has made it.
    Confirm {
        operation: Operation,
        plan: Option<Box<Plan>>,
    },
}

/// A queue's figures, from the differences between two moments.
#[derive(Debug, Default)]
pub struct Figures {
    last: Option<(Duration, Counts)>,
    /// Requests a second.
    pub rate: Option<f64>,
    /// From request to reply, of those answered since the moment before.
    pub latency: Option<Duration>,
    /// Latencies, the newest last; none where nothing was answered.
    pub trend: VecDeque<Option<Duration>>,
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    requests: u64,
    answered: u64,
    answer_time: u64,
}

/// A line about what was done last.
#[derive(Debug, PartialEq)]
pub enum Message {
    Good(String),
    Bad(String),
}

#[derive(Debug)]
pub struct App {
    /// What is looked at, as the user named it.
    pub name: String,
    /// The same for the commands that are shown.
    pub place: Place,
    /// Samples nearer to each other say nothing about rates.
    shortest: Duration,
    /// Since the start.
    pub now: Duration,
    pub state: Option<Snapshot>,
    pub picture: Picture,
    /// The cell that the keys mean.
    pub selected: Apqn,
    /// Why it is as it is, when it is assigned.
    pub why: Option<String>,
    /// The mediated device that the keys mean.
    pub mdev: Option<Uuid>,
    pub figures: BTreeMap<Apqn, Figures>,
    /// When and what, the newest first.
    pub events: VecDeque<(Duration, String)>,
    pub mode: Mode,
    pub message: Option<Message>,
    pub lost: Option<String>,
    /// Busy queues come first.
    pub by_rate: bool,
}

impl App {
    pub fn new(name: &str, interval: Duration) -> Self {
        Self {
            name: name.to_owned(),
            place: Address::of(name).place(),
            shortest: interval / 2,
            now: Duration::ZERO,
            state: None,
            picture: Picture::default(),
            selected: Apqn(0),
            why: None,
            mdev: None,
            figures: BTreeMap::new(),
            events: VecDeque::new(),
            mode: Mode::List,
            message: None,
            lost: None,
            by_rate: false,
        }
    }

    /// Takes in what the source tells at `now`.
    pub fn update(&mut self, update: Update, now: Duration) -> Option<Action> {
        self.now = now;
        match update {
            Update::State(snapshot) => {
                let back = self.lost.take().is_some();
                self.count(&snapshot);
                self.state = Some(*snapshot);
                self.repaint();
                match &self.mode {
                    Mode::Confirm { operation, .. } if back => Some(Action::Plan(operation.clone())),
                    _ => None,
                }
            }
            Update::Event(kind) => {
                self.events.push_front((now, abbreviated(&kind)));
                self.events.truncate(EVENTS);
                match &self.mode {
                    // What was planned may not be what would happen now.
                    Mode::Confirm { operation, .. } => Some(Action::Plan(operation.clone())),
                    _ => Some(Action::Refresh),
                }
            }
            Update::Plan(planned, new) => {
                if let Mode::Confirm { operation, plan } = &mut self.mode
                    && *operation == planned
                {
                    *plan = Some(new);
                }
                None
            }
            Update::Executed(operation, result) => {
                let line = command_line(&self.place, &operation);
                self.message = Some(match result {
                    Ok(()) => Message::Good(format!("done: {line}")),
                    Err(why) => Message::Bad(why),
                });
                Some(Action::Refresh)
            }
            Update::Lost(why) => {
                self.lost = Some(why);
                // Rates across a gap mean nothing.
                self.figures.clear();
                None
            }
        }
    }

    fn count(&mut self, snapshot: &Snapshot) {
        let now = self.now;
        self.figures.retain(|apqn, _| snapshot.queue(*apqn).is_some());
        for queue in &snapshot.queues {
            let Some(requests) = queue.requests else { continue };
            let counts = Counts {
                requests,
                answered: queue.answered.unwrap_or(0),
                answer_time: queue.answer_time.unwrap_or(0),
            };
            let figures = self.figures.entry(queue.queue).or_default();
            if figures.last.is_some_and(|(then, _)| now.saturating_sub(then) < self.shortest) {
                continue;
            }
            figures.sample(now, counts);
        }
    }

    /// Recomputes what depends on state, mediated device and selection.
    fn repaint(&mut self) {
        let Some(state) = &self.state else { return };
        if self.mdev.is_none_or(|mdev| state.mdev(mdev).is_none()) {
            let in_use = state.mdevs.iter().find(|mdev| mdev.attached);
            self.mdev = in_use.or(state.mdevs.first()).map(|mdev| mdev.uuid);
        }
        self.picture = Picture::of(state, self.mdev);
        let (row, column) = self.place();
        if let (Some(adapter), Some(domain)) = (self.adapter(row), self.domain(column)) {
            self.selected = Apqn::new(Apid(adapter), Apqi(domain));
        }
        let fates = state.mdev_of(self.selected).and_then(|mdev| explain(state, mdev.uuid).ok());
        let fate =
            fates.into_iter().flatten().find(|fate| fate.subject == ap::host::Subject::Queue(self.selected));
        self.why = fate.filter(|fate| !fate.outcome.plugged()).map(|fate| fate.reason);
    }

    fn adapter(&self, row: usize) -> Option<u8> {
        u8::from_str_radix(&self.picture.adapters.get(row)?.adapter, 16).ok()
    }

    fn domain(&self, column: usize) -> Option<u8> {
        u8::from_str_radix(self.picture.domains.get(column)?, 16).ok()
    }

    /// Row and column of the selection, or of what is nearest to it.
    pub fn place(&self) -> (usize, usize) {
        let nearest = |count: usize, number: &dyn Fn(usize) -> Option<u8>, wanted: u8| {
            (0..count).min_by_key(|at| number(*at).map_or(u8::MAX, |n| n.abs_diff(wanted))).unwrap_or(0)
        };
        (
            nearest(self.picture.adapters.len(), &|row| self.adapter(row), self.selected.apid().0),
            nearest(self.picture.domains.len(), &|column| self.domain(column), self.selected.apqi().0),
        )
    }

    /// What is in the selected cell.
    pub fn cell(&self) -> Option<Cell> {
        let (row, column) = self.place();
        self.picture.adapters.get(row)?.cells.get(column).copied()
    }

    /// The queues in the order of the table.
    pub fn queues(&self) -> Vec<&QueueState> {
        let mut queues: Vec<&QueueState> = self.state.iter().flat_map(|state| &state.queues).collect();
        if self.by_rate {
            let rate =
                |queue: &QueueState| self.figures.get(&queue.queue).and_then(|f| f.rate).unwrap_or(0.0);
            queues.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
        }
        queues
    }

    /// What a key does.
    pub fn key(&mut self, key: KeyEvent) -> Option<Action> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return (key.code == KeyCode::Char('c')).then_some(Action::Quit);
        }
        match &self.mode {
            Mode::List => self.list_key(key.code),
            Mode::Help => {
                self.mode = Mode::List;
                None
            }
            Mode::Confirm { operation, plan } => {
                let refusal = plan.as_ref().and_then(|plan| plan.refusal.as_ref());
                match (key.code, refusal) {
                    (KeyCode::Char('y') | KeyCode::Enter, None) if plan.is_some() => {
                        let action = Action::Execute(operation.clone());
                        self.mode = Mode::List;
                        Some(action)
                    }
                    (KeyCode::Char('n' | 'q') | KeyCode::Esc, _) => {
                        self.mode = Mode::List;
                        None
                    }
                    (KeyCode::Char(digit @ '1'..='9'), Some(refusal)) => {
                        let at = digit as usize - '1' as usize;
                        let first = refusal.remedies().nth(at)?.first()?.clone();
                        self.confirm(first)
                    }
                    _ => None,
                }
            }
        }
    }

    fn list_key(&mut self, code: KeyCode) -> Option<Action> {
        self.message = None;
        match code {
            KeyCode::Char('q') => return Some(Action::Quit),
            KeyCode::Char('?') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Char('s') => self.by_rate = !self.by_rate,
            KeyCode::Up | KeyCode::Char('k') => self.walk(-1, 0),
            KeyCode::Down | KeyCode::Char('j') => self.walk(1, 0),
            KeyCode::Left | KeyCode::Char('h') => self.walk(0, -1),
            KeyCode::Right | KeyCode::Char('l') => self.walk(0, 1),
            KeyCode::PageUp => self.walk(-8, 0),
            KeyCode::PageDown => self.walk(8, 0),
            KeyCode::Home => self.walk(0, -256),
            KeyCode::End => self.walk(0, 256),
            KeyCode::Tab => self.other_mdev(1),
            KeyCode::BackTab => self.other_mdev(-1),
            KeyCode::Char(letter @ ('a' | 'A' | 'd' | 'D' | 'c' | 'C')) => return self.assign(letter),
            KeyCode::Char('b') => {
                return self.confirm(Operation::Bind { queue: self.selected, driver: Driver::VfioAp });
            }
            KeyCode::Char('B') => return self.confirm(Operation::Unbind { queue: self.selected }),
            _ => {}
        }
        None
    }

    fn assign(&mut self, letter: char) -> Option<Action> {
        let Some(mdev) = self.mdev else {
            self.message =
                Some(Message::Bad(format!("there is no mediated device; {} makes one", self.create_mdev())));
            return None;
        };
        let (adapter, domain) =
            (format!("{:#x}", self.selected.apid().0), format!("{:#x}", self.selected.apqi().0));
        let attribute = match letter {
            'a' => Attribute::AssignAdapter(adapter),
            'A' => Attribute::UnassignAdapter(adapter),
            'd' => Attribute::AssignDomain(domain),
            'D' => Attribute::UnassignDomain(domain),
            'c' => Attribute::AssignControlDomain(domain),
            _ => Attribute::UnassignControlDomain(domain),
        };
        self.confirm(Operation::Write { mdev, attribute })
    }

    /// The command that makes a mediated device.
    pub fn create_mdev(&self) -> String {
        command_at(&self.place, &["mdev", "create"])
    }

    fn confirm(&mut self, operation: Operation) -> Option<Action> {
        self.state.as_ref()?;
        self.mode = Mode::Confirm { operation: operation.clone(), plan: None };
        Some(Action::Plan(operation))
    }

    fn walk(&mut self, rows: isize, columns: isize) {
        let (row, column) = self.place();
        let to =
            |at: usize, by: isize, count: usize| at.saturating_add_signed(by).min(count.saturating_sub(1));
        let row = to(row, rows, self.picture.adapters.len());
        let column = to(column, columns, self.picture.domains.len());
        if let (Some(adapter), Some(domain)) = (self.adapter(row), self.domain(column)) {
            self.selected = Apqn::new(Apid(adapter), Apqi(domain));
        }
        self.repaint();
    }

    fn other_mdev(&mut self, by: isize) {
        let Some(state) = &self.state else { return };
        let count = state.mdevs.len() as isize;
        if count == 0 {
            return;
        }
        let at = state.mdevs.iter().position(|m| Some(m.uuid) == self.mdev).unwrap_or(0) as isize;
        self.mdev = Some(state.mdevs[(at + by).rem_euclid(count) as usize].uuid);
        self.repaint();
    }
}

impl Figures {
    fn sample(&mut self, now: Duration, counts: Counts) {
        (self.rate, self.latency) = (None, None);
        if let Some((then, before)) = self.last.replace((now, counts))
            // A queue that came anew counts from the beginning.
            && counts.requests >= before.requests
        {
            let seconds = now.saturating_sub(then).as_secs_f64();
            self.rate = (seconds > 0.0).then(|| (counts.requests - before.requests) as f64 / seconds);
            let answered = counts.answered.saturating_sub(before.answered);
            let time = counts.answer_time.saturating_sub(before.answer_time);
            self.latency = time.checked_div(answered).map(Duration::from_nanos);
            self.trend.push_back(self.latency);
            if self.trend.len() > TREND {
                self.trend.pop_front();
            }
        }
    }
}

/// An event in a line, with only the first part of a device's name.
fn abbreviated(kind: &EventKind) -> String {
    let text = print::event_text(kind);
    match kind {
        EventKind::MdevCreated { mdev }
        | EventKind::MdevRemoved { mdev }
        | EventKind::Attached { mdev }
        | EventKind::Released { mdev, .. }
        | EventKind::Detached { mdev }
        | EventKind::GuestMatrix { mdev, .. }
        | EventKind::Assigned { mdev, .. } => {
            let name = mdev.to_string();
            text.replace(&name, &name[..8])
        }
        _ => text,
    }
}
