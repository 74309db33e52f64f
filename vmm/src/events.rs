//! What happens to a machine, told to whoever manages it.
//!
//! Any thread posts and none ever waits: the queue is bounded, and what does not fit is counted.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ap::host::{Event as HostEvent, EventKind, MatrixChange};
use crycb::{Apqn, Mask256};
use serde_json::{Value, json};
use uuid::Uuid;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::config::WatchdogAction;
use crate::control::End;
use crate::crash::Crash;

/// Most events that wait for the event loop.
const MOST: usize = 1024;
/// Most queues that one event names of what came, and of what went.
const MOST_QUEUES: usize = 1000;

/// Why a machine was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCause {
    /// The guest's own DIAGNOSE, or its watchdog.
    Guest,
    /// A command of the management socket.
    Management,
}

/// Something that happened to a machine.
#[derive(Clone, Debug)]
pub enum Event {
    /// Every CPU is held.
    Stop,
    /// The CPUs go on.
    Resume,
    /// The machine was reset.
    Reset(ResetCause),
    /// The guest was asked to power off.
    PowerDown,
    /// The guest is about to be gone: whether it did that itself, and why in QEMU's words.
    Shutdown {
        /// By the guest itself.
        guest: bool,
        /// One of QEMU's reasons.
        reason: &'static str,
    },
    /// The guest crashed.
    Panicked(Box<Crash>),
    /// The guest's watchdog ran out.
    Watchdog(WatchdogAction),
    /// The guest's vfio-ap device is gone; what `device_del` called it.
    DeviceDeleted(Option<String>),
    /// What the guest may reach through its vfio-ap device changed.
    ApConfigChanged {
        /// The mediated device.
        mdev: Uuid,
        /// What came and went.
        change: MatrixChange,
    },
    /// Something happened on the AP host.
    ApHost {
        /// What.
        event: Box<HostEvent>,
        /// To the guest's own device.
        guest: bool,
    },
    /// The guest put a request on a queue. Told of some of them only, and while somebody listens.
    ApRequest {
        /// The queue.
        queue: Apqn,
        /// Length of the message in bytes.
        length: u64,
        /// Requests since the last of these events that none was told of.
        left_out: u64,
    },
    /// Clients of the management sockets came or went: how many there are.
    Clients(usize),
}

impl Event {
    /// The name that clients know, and the data.
    pub fn describe(&self) -> (&'static str, Option<Value>) {
        match self {
            Self::Stop => ("STOP", None),
            Self::Resume => ("RESUME", None),
            Self::Reset(cause) => {
                let (guest, reason) = match cause {
                    ResetCause::Guest => (true, "guest-reset"),
                    ResetCause::Management => (false, "host-qmp-system-reset"),
                };
                ("RESET", Some(json!({"guest": guest, "reason": reason})))
            }
            Self::PowerDown => ("POWERDOWN", None),
            Self::Shutdown { guest, reason } => ("SHUTDOWN", Some(json!({"guest": guest, "reason": reason}))),
            Self::Panicked(crash) => {
                let psw = crash.report.state.psw;
                let info = json!({
                    "type": "s390",
                    "core": crash.cpu,
                    "psw-mask": psw.mask,
                    "psw-addr": psw.address,
                    "reason": crash.reason.name(),
                });
                ("GUEST_PANICKED", Some(json!({"action": "poweroff", "info": info})))
            }
            Self::Watchdog(action) => {
                let action = match action {
                    WatchdogAction::Reset => "reset",
                    WatchdogAction::Poweroff => "poweroff",
                    WatchdogAction::None => "none",
                };
                ("WATCHDOG", Some(json!({"action": action})))
            }
            Self::DeviceDeleted(id) => {
                let mut data = json!({"path": device_path(id.as_deref())});
                if let Some(id) = id {
                    data["device"] = id.as_str().into();
                }
                ("DEVICE_DELETED", Some(data))
            }
            Self::ApConfigChanged { mdev, change } => {
                ("X_AP_CONFIG_CHANGED", Some(describe_change(mdev, change)))
            }
            Self::ApHost { event, guest } => {
                let told = match &event.kind {
                    EventKind::GuestMatrix { mdev, change } => {
                        let mut told = describe_change(mdev, change);
                        told["event"] = "guest-matrix".into();
                        told["number"] = event.number.into();
                        told
                    }
                    _ => serde_json::to_value(event).unwrap_or_default(),
                };
                ("X_AP_HOST", Some(json!({"event": told, "guest": guest})))
            }
            Self::ApRequest { queue, length, left_out } => {
                let data = json!({"queue": queue.to_string(), "length": length, "left-out": left_out});
                ("X_AP_REQUEST", Some(data))
            }
            Self::Clients(count) => ("X_CLIENTS_CHANGED", Some(json!({"clients": count}))),
        }
    }

    /// What the end of a run is told as, in this order.
    pub fn of_end(end: &End) -> Vec<Self> {
        let shutdown = |guest, reason| Self::Shutdown { guest, reason };
        match end {
            End::PoweredOff => vec![shutdown(true, "guest-shutdown")],
            End::Crashed(crash) => vec![Self::Panicked(crash.clone()), shutdown(true, "guest-panic")],
            End::Watchdog => vec![shutdown(true, "guest-shutdown")],
            End::Stopped("quit") => vec![shutdown(false, "host-qmp-quit")],
            End::Stopped(by) if by.starts_with("SIG") => vec![shutdown(false, "host-signal")],
            End::Stopped(_) => vec![shutdown(false, "host-ui")],
            End::Failed(_) => vec![shutdown(false, "host-error")],
        }
    }
}

/// What came and went. So many queues that their names would be too long for a line are told as adapters by domains.
fn describe_change(mdev: &Uuid, change: &MatrixChange) -> Value {
    let mut data = json!({"mdev": mdev});
    for (name, queues) in [("plugged", &change.plugged), ("unplugged", &change.unplugged)] {
        data[name] = queues.iter().take(MOST_QUEUES).map(Apqn::to_string).collect();
        data[format!("{name}-count")] = queues.len().into();
        if queues.len() > MOST_QUEUES {
            let names =
                |mask: &Mask256, digits| mask.iter().map(|n| format!("{n:0digits$x}")).collect::<Vec<_>>();
            let products = MatrixChange::products(queues);
            let product =
                |(adapters, domains)| json!({"adapters": names(adapters, 2), "domains": names(domains, 4)});
            data[format!("{name}-products")] = products.iter().map(|(a, d)| product((a, d))).collect();
        }
    }
    for (name, mask) in
        [("control-plugged", &change.control_plugged), ("control-unplugged", &change.control_unplugged)]
    {
        data[name] = mask.iter().map(|domain| format!("{domain:04x}")).collect();
    }
    data
}

/// Where a device of this name is for `qom-list`.
pub fn device_path(id: Option<&str>) -> String {
    match id {
        Some(id) => format!("/machine/peripheral/{id}"),
        None => "/machine/peripheral-anon/device[0]".into(),
    }
}

/// The events that nobody has taken yet.
#[derive(Debug)]
pub struct Events {
    queue: Mutex<Queue>,
    wake: EventFd,
    /// Somebody wants to know of requests.
    requests: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<(SystemTime, Event)>,
    dropped: u64,
}

impl Events {
    /// None yet.
    pub fn new() -> io::Result<Self> {
        let requests = AtomicBool::new(false);
        Ok(Self { queue: Mutex::default(), wake: EventFd::new(EFD_NONBLOCK)?, requests })
    }

    /// Adds an event.
    pub fn post(&self, event: Event) {
        {
            let mut queue = self.queue();
            if queue.events.len() < MOST {
                queue.events.push_back((SystemTime::now(), event));
            } else {
                queue.dropped += 1;
            }
        }
        self.nudge();
    }

    /// Says whether anybody wants [`Event::ApRequest`].
    pub fn want_requests(&self, wanted: bool) {
        self.requests.store(wanted, Ordering::Relaxed);
    }

    /// Whether anybody does.
    pub fn requests_wanted(&self) -> bool {
        self.requests.load(Ordering::Relaxed)
    }

    /// Makes the event loop look, though there is no event.
    pub fn nudge(&self) {
        // Refused only when the counter is near 2^64; then it is readable.
        let _ = self.wake.write(1);
    }

    /// Takes all events, and how many were lost after them.
    pub fn take(&self) -> (Vec<(SystemTime, Event)>, u64) {
        let mut queue = self.queue();
        (queue.events.drain(..).collect(), std::mem::take(&mut queue.dropped))
    }

    /// Makes [`descriptor`](Self::descriptor) unready.
    pub fn clear(&self) {
        let _ = self.wake.read();
    }

    /// Readable when there is something to look at.
    pub fn descriptor(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_to_listen() {
        let events = Events::new().unwrap();
        for _ in 0..MOST + 7 {
            events.post(Event::Reset(ResetCause::Guest));
        }
        let (taken, dropped) = events.take();
        assert_eq!((taken.len(), dropped), (MOST, 7));
        assert_eq!((events.take().0.len(), events.take().1), (0, 0));
    }
}
