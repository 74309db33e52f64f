//! What the commands do.
//!
//! Each is a row of [`ALL`] and a function beside it. They run in the event loop and never wait.

mod ap;
mod descriptors;
mod device;
mod life;
mod operation;
mod own;
mod query;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use serde_json::Value;

use super::About;
use super::descriptors::Sets;
use super::error::Error;
use super::schema::{NOTHING, Object, Type, may, needs, object};
use super::session::Client;
use super::table::{Arguments, EventRow, Row};
use crate::board::Board;
use crate::crash::Reason;
use crate::metrics::Process;

pub(super) use ap::{post_events as post_ap_events, watch as watch_ap};
pub(super) use life::{monitor_cont, monitor_stop};

/// Every command, by module.
pub static ALL: &[&[Row]] = &[query::ROWS, life::ROWS, device::ROWS, descriptors::ROWS, ap::ROWS, own::ROWS];

/// What a command may use.
pub struct Context<'a> {
    /// The machine.
    pub board: &'a Board,
    /// What all clients share.
    pub shared: &'a mut Shared,
    /// The client that gave the command.
    pub client: &'a mut Client,
}

impl Context<'_> {
    /// Takes a descriptor that an argument names: one of this client's by name, which is its no longer, or one of a set by its
    /// number or as `/dev/fdset/SET`, which the set keeps.
    fn take_descriptor(&mut self, argument: &str, name: &str) -> Result<OwnedFd, Error> {
        let set = name.strip_prefix("/dev/fdset/");
        match set.or(name.starts_with(|c: char| c.is_ascii_digit()).then_some(name)) {
            Some(number) => self.shared.sets.copy(argument, number, set.is_some()),
            None => self.client.descriptors.take_named(argument, name),
        }
    }
}

/// What all clients share.
pub struct Shared {
    /// What the commands say about the machine.
    pub about: About,
    /// Sets of descriptors.
    pub sets: Sets,
    /// Counters.
    pub metrics: Metrics,
    /// When the sockets were opened.
    pub since: Instant,
    /// Threads at commands that take time.
    pub threads: Threads,
    /// What the host tells of this process.
    pub(crate) process: Process,
}

/// The threads at commands that take time, each of which holds one of these. They outlive their clients: nothing takes an
/// operation on cards back.
#[derive(Debug, Default)]
pub struct Threads(Arc<()>);

/// Most of them at once. A client has one, and one for each time that it left while it waited.
const MOST_THREADS: usize = 16;

impl Threads {
    /// One more, which is counted until it is dropped.
    fn enter(&self) -> Result<Arc<()>, Error> {
        // Only the event loop makes more of them.
        if Arc::strong_count(&self.0) > MOST_THREADS {
            return Err(Error::generic(format_args!(
                "{MOST_THREADS} commands that wait for the AP host are at work already; give this one again when one of them \
                 has ended (each does within minutes), and look whether the AP host still answers"
            )));
        }
        Ok(self.0.clone())
    }
}

/// Counters of the management sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metrics {
    /// Clients now.
    pub clients: u64,
    /// Clients ever.
    pub connections: u64,
    /// Connections refused because there were too many.
    pub refused: u64,
    /// Commands answered.
    pub commands: u64,
    /// Those of them answered with an error.
    pub errors: u64,
    /// Events written for clients.
    pub events: u64,
    /// Events that were dropped since a client did not read.
    pub events_dropped: u64,
}

/// Asked whenever something has changed: the answer once there is one.
pub type Wait = Box<dyn FnMut(&Board) -> Option<Result<Value, Error>>>;

/// How a command that has not failed goes on.
pub enum Answer {
    /// It is done.
    Now(Value),
    /// It is done, but for what has to come after the reply.
    Then(Value, After),
    /// It takes time.
    Wait(Wait),
}

/// What comes after a reply.
pub enum After {
    /// Nothing.
    Nothing,
    /// Commands are taken and events told from now on.
    Negotiated {
        /// Commands may be given out of band.
        oob: bool,
    },
    /// This.
    Do(fn(&Board)),
    /// The end of the connection.
    Close,
}

/// Does `work`, which may take time, in a thread of its own; its answer when it is done. An error when too many are at work.
fn in_thread(
    context: &Context<'_>,
    work: impl FnOnce() -> Result<Value, Error> + Send + 'static,
) -> Result<Answer, Error> {
    let (tell, told) = channel();
    let at_work = context.shared.threads.enter()?;
    let control = context.board.control.clone();
    let thread = std::thread::Builder::new().name("command".into());
    thread
        .spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let bug = |_| Err(Error::generic("the command panicked; this is a bug in adjunct"));
            // The client may have gone.
            let _ = tell.send(result.unwrap_or_else(bug));
            drop(at_work);
            control.events().nudge();
        })
        .map_err(|e| {
            Error::generic(format_args!("start a thread for the command: {e}; give it again later"))
        })?;
    Ok(Answer::Wait(Box::new(move |_| told.try_recv().ok())))
}

/// Bytes of JSON from which on one of several answers has enough; a single entry of a list is far shorter than the rest of a
/// line.
const PAGE: usize = 32 << 10;

/// Arguments of a command that answers in parts, and nothing else.
static FROM: Object = object("x-page-arg", &[may("from", Type::Int)]);

/// Where an answer that comes in parts goes on.
fn from(arguments: &Arguments<'_>) -> Result<usize, Error> {
    let from = arguments.int("from").unwrap_or(0);
    usize::try_from(from).map_err(|_| Error::generic("from: give the 'next' of an answer"))
}

/// The answer of commands that have none.
fn done() -> Answer {
    Answer::Now(Value::Object(serde_json::Map::new()))
}

/// The type of that answer.
const DONE: Type = Type::Object(&NOTHING);

static RESET_DATA: Object =
    object("ResetData", &[needs("guest", Type::Bool), needs("reason", Type::Enum("ShutdownCause", CAUSES))]);
static SHUTDOWN_DATA: Object = object(
    "ShutdownData",
    &[needs("guest", Type::Bool), needs("reason", Type::Enum("ShutdownCause", CAUSES))],
);
const CAUSES: &[&str] = &[
    "host-error",
    "host-qmp-quit",
    "host-qmp-system-reset",
    "host-signal",
    "host-ui",
    "guest-shutdown",
    "guest-reset",
    "guest-panic",
];
static PANIC_S390: Object = object(
    "GuestPanicInformationS390",
    &[
        needs("core", Type::Int),
        needs("psw-mask", Type::Int),
        needs("psw-addr", Type::Int),
        needs("reason", Type::Enum("S390CrashReason", CRASH_REASONS)),
    ],
);
const CRASH_REASONS: &[&str] = &{
    let mut names = [""; Reason::ALL.len()];
    let mut n = 0;
    while n < names.len() {
        names[n] = Reason::ALL[n].name();
        n += 1;
    }
    names
};
static PANIC_INFORMATION: Object = Object {
    name: "GuestPanicInformation",
    members: &[needs("type", Type::Enum("GuestPanicInformationType", &["s390"]))],
    variants: Some(("type", &[("s390", &PANIC_S390)])),
};
static PANICKED_DATA: Object = object(
    "GuestPanickedData",
    &[
        needs("action", Type::Enum("GuestPanicAction", &["poweroff"])),
        may("info", Type::Object(&PANIC_INFORMATION)),
    ],
);
static WATCHDOG_DATA: Object =
    object("WatchdogData", &[needs("action", Type::Enum("WatchdogAction", &["reset", "poweroff", "none"]))]);
static DELETED_DATA: Object =
    object("DeviceDeletedData", &[may("device", Type::Str), needs("path", Type::Str)]);
static AP_CHANGED_DATA: Object = object(
    "x-ApConfigChangedData",
    &[
        needs("mdev", Type::Str),
        needs("plugged", Type::Array(&Type::Str)),
        needs("plugged-count", Type::Int),
        may("plugged-products", Type::Array(&Type::Object(&AP_PRODUCT))),
        needs("unplugged", Type::Array(&Type::Str)),
        needs("unplugged-count", Type::Int),
        may("unplugged-products", Type::Array(&Type::Object(&AP_PRODUCT))),
        needs("control-plugged", Type::Array(&Type::Str)),
        needs("control-unplugged", Type::Array(&Type::Str)),
    ],
);
static AP_PRODUCT: Object = object(
    "x-ApProduct",
    &[needs("adapters", Type::Array(&Type::Str)), needs("domains", Type::Array(&Type::Str))],
);
static AP_HOST_DATA: Object =
    object("x-ApHostData", &[needs("event", Type::Any), needs("guest", Type::Bool)]);
static AP_REQUEST_DATA: Object = object(
    "x-ApRequestData",
    &[needs("queue", Type::Str), needs("length", Type::Int), needs("left-out", Type::Int)],
);
static CLIENTS_DATA: Object = object("ClientsData", &[needs("clients", Type::Int)]);

/// Every event. QEMU's DEVICE_UNPLUG_GUEST_ERROR is none of them: it tells that a guest refused to let a device go, and no
/// guest is asked about a vfio-ap device.
pub static EVENTS: &[EventRow] = &[
    EventRow { name: "STOP", data: &NOTHING, asked_for: false },
    EventRow { name: "RESUME", data: &NOTHING, asked_for: false },
    EventRow { name: "RESET", data: &RESET_DATA, asked_for: false },
    EventRow { name: "POWERDOWN", data: &NOTHING, asked_for: false },
    EventRow { name: "SHUTDOWN", data: &SHUTDOWN_DATA, asked_for: false },
    EventRow { name: "GUEST_PANICKED", data: &PANICKED_DATA, asked_for: false },
    EventRow { name: "WATCHDOG", data: &WATCHDOG_DATA, asked_for: false },
    EventRow { name: "DEVICE_DELETED", data: &DELETED_DATA, asked_for: false },
    EventRow { name: "X_AP_CONFIG_CHANGED", data: &AP_CHANGED_DATA, asked_for: true },
    EventRow { name: "X_AP_HOST", data: &AP_HOST_DATA, asked_for: true },
    EventRow { name: "X_AP_REQUEST", data: &AP_REQUEST_DATA, asked_for: true },
    EventRow { name: "X_CLIENTS_CHANGED", data: &CLIENTS_DATA, asked_for: true },
];
