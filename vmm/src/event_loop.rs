//! The event loop, in the main thread: what a person types, signals, the watchdog, management clients, the
//! end of the run.

use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::terminal::Terminal;
use vmm_sys_util::timerfd::TimerFd;

use crate::board::Board;
use crate::console::{EscapeAction, Escapes};
use crate::control::{End, HostFailure};
use crate::host::{Signals, Stopping};
use crate::log_file::LogFile;
use crate::qmp::{Server, Service};
use crate::service;
use crate::viewers::{self, Viewers};

/// How often input that could not be passed on is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// Most bytes of input taken at once.
const MOST_INPUT: usize = 4096;

/// What a descriptor is registered for.
const WAKE: u32 = 0;
const SIGNAL: u32 = 1;
const WATCHDOG: u32 = 2;
const TYPED: u32 = 3;
const RETRY: u32 = 4;
const GRACE_OVER: u32 = 5;
const ALIVE: u32 = 6;

/// Where the guest's input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Nowhere.
    None,
    /// Standard input, byte for byte.
    Raw,
    /// A person at a terminal, with escape keys.
    Typed,
}

/// Whom the event loop serves beside the machine.
pub(crate) struct Clients {
    /// Standard input.
    pub(crate) input: Input,
    /// Management clients.
    pub(crate) qmp: Server,
    /// Who watches the console.
    pub(crate) viewers: Option<Viewers>,
    /// Files that SIGHUP opens anew.
    pub(crate) logs: Vec<Arc<LogFile>>,
    /// How long a guest may take to power off when a signal asks it to, before the run ends anyway.
    pub(crate) grace: Duration,
}

/// Serves the events of `board` and the clients until the run has ended.
pub fn serve(board: &Board, signals: &Signals, clients: Clients) -> Result<(), HostFailure> {
    let Clients { input, qmp, viewers, logs, grace } = clients;
    let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new()?;
    let management = Rc::new(RefCell::new(Service::new(qmp, board)?));
    manager.add_subscriber(Box::new(management.clone()));
    let viewers = viewers.map(|viewers| viewers::Service::new(viewers, board)).transpose()?;
    let viewers = viewers.map(|service| Rc::new(RefCell::new(service)));
    if let Some(viewers) = &viewers {
        manager.add_subscriber(Box::new(viewers.clone()));
    }
    manager.add_subscriber(Box::new(Loop {
        board,
        signals,
        input,
        waitable: true,
        escapes: Escapes::default(),
        retry: TimerFd::new()?,
        logs,
        patience: grace,
        grace: TimerFd::new()?,
        alive: TimerFd::new()?,
        stopping: "",
    }));
    while !board.control.ended() {
        manager.run()?;
    }
    management.borrow_mut().finish();
    if let Some(viewers) = viewers {
        viewers.borrow_mut().finish();
    }
    Ok(())
}

struct Loop<'a> {
    board: &'a Board,
    signals: &'a Signals,
    input: Input,
    /// Whether standard input can be waited for: files cannot.
    waitable: bool,
    escapes: Escapes,
    /// Runs while input is not waited for: the guest has no room for it, or it cannot be waited for.
    retry: TimerFd,
    logs: Vec<Arc<LogFile>>,
    /// How much time a guest that was asked to power off has.
    patience: Duration,
    /// Runs while it has time.
    grace: TimerFd,
    /// Runs when systemd wants to hear that this process lives.
    alive: TimerFd,
    /// What asked it.
    stopping: &'static str,
}

impl MutEventSubscriber for Loop<'_> {
    fn init(&mut self, ops: &mut EventOps) {
        let fixed = [
            (self.board.control.wake().as_raw_fd(), WAKE),
            (self.signals.event().as_raw_fd(), SIGNAL),
            (self.board.watchdog.descriptor(), WATCHDOG),
            (self.retry.as_raw_fd(), RETRY),
            (self.grace.as_raw_fd(), GRACE_OVER),
            (self.alive.as_raw_fd(), ALIVE),
        ];
        for (descriptor, purpose) in fixed {
            let added = ops.add(Events::with_data_raw(descriptor, purpose, EventSet::IN));
            self.need(added);
        }
        if let Some(interval) = service::watchdog_interval() {
            let started = self.alive.reset(interval, Some(interval)).map_err(io::Error::from);
            self.need(started);
        }
        if self.input != Input::None && ops.add(Self::typed()).is_err() {
            self.waitable = false;
            self.start_retry();
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            SIGNAL => self.signal(),
            WATCHDOG => self.board.watchdog.timer_expired(),
            TYPED => {
                if self.room() == 0 {
                    self.need(ops.remove(Self::typed()));
                    self.start_retry();
                } else if !self.take_input() {
                    self.need(ops.remove(Self::typed()));
                }
            }
            RETRY => self.retry(ops),
            GRACE_OVER => self.board.control.end(End::Stopped(self.stopping)),
            ALIVE => {
                // It was ready, so this does not block.
                let read = self.alive.wait().map_err(io::Error::from);
                self.need(read);
                service::alive();
            }
            // The loop around this looks at the control.
            _ => {}
        }
    }
}

impl Loop<'_> {
    fn typed() -> Events {
        Events::with_data(&io::stdin(), TYPED, EventSet::IN)
    }

    /// Ends the run when the host refuses what the loop cannot do without.
    fn need<T, E: Into<HostFailure>>(&self, result: Result<T, E>) {
        if let Err(error) = result {
            self.board.control.end(End::Failed(error.into()));
        }
    }

    fn room(&self) -> usize {
        self.board.devices.input_room().min(MOST_INPUT)
    }

    fn start_retry(&mut self) {
        let started = self.retry.reset(RETRY_EVERY, Some(RETRY_EVERY)).map_err(io::Error::from);
        self.need(started);
    }

    fn stop_retry(&mut self) {
        let stopped = self.retry.clear().map_err(io::Error::from);
        self.need(stopped);
    }

    fn retry(&mut self, ops: &mut EventOps) {
        // Makes the timer unready; it was ready, so this does not block.
        let read = self.retry.wait().map_err(io::Error::from);
        self.need(read);
        if self.room() == 0 {
            return;
        }
        if self.waitable {
            self.stop_retry();
            self.need(ops.add(Self::typed()));
        } else if !self.take_input() {
            self.stop_retry();
        }
    }

    /// Passes on what there is and the guest has room for. False when standard input has ended, which
    /// does not end the run.
    fn take_input(&mut self) -> bool {
        let mut buffer = [0; MOST_INPUT];
        let room = self.room();
        let length = match io::stdin().lock().read_raw(&mut buffer[..room]) {
            Ok(0) => return false,
            Ok(length) => length,
            Err(e) if [libc::EINTR, libc::EAGAIN].contains(&e.errno()) => return true,
            Err(e) => {
                log::warn!("read standard input: {e}");
                return false;
            }
        };
        let typed = &buffer[..length];
        if self.input == Input::Raw {
            self.board.devices.input(typed, &*self.board.vm);
            return true;
        }
        let (bytes, actions) = self.escapes.feed(typed);
        self.board.devices.input(&bytes, &*self.board.vm);
        for action in actions {
            match action {
                EscapeAction::Quit => self.board.control.end(End::Stopped("Ctrl-a x")),
                EscapeAction::Help => eprint!("\n{}", Escapes::HELP),
                EscapeAction::PowerDown => {
                    if !self.board.power_down() {
                        eprintln!("\nadjunct: the guest does not listen for power-off requests yet");
                    }
                }
            }
        }
        true
    }

    fn signal(&mut self) {
        for signal in self.signals.take() {
            match signal {
                Stopping::Now(name) => self.board.control.end(End::Stopped(name)),
                Stopping::Gently(name) => self.power_down(name),
                // A person's terminal has gone, and the person with it.
                Stopping::HangUp if self.input == Input::Typed || self.logs.is_empty() => {
                    self.board.control.end(End::Stopped("SIGHUP"));
                }
                Stopping::HangUp => self.logs.iter().for_each(|log| log.reopen()),
            }
        }
    }

    /// A second request, or one to a guest that would not notice, ends the run at once.
    fn power_down(&mut self, name: &'static str) {
        service::stopping();
        let hopeless = !self.stopping.is_empty() || self.patience.is_zero();
        if hopeless || !self.board.power_down() {
            return self.board.control.end(End::Stopped(name));
        }
        log::info!("{name}: asked the guest to power off within {:?}", self.patience);
        self.stopping = name;
        let started = self.grace.reset(self.patience, None).map_err(io::Error::from);
        self.need(started);
    }
}
