//! Plugging and unplugging the guest's vfio-ap device.

use std::sync::Arc;

use ap::passthrough::{BadName, Given, MdevName};
use serde_json::json;

use super::{Answer, Context, DONE, in_thread};
use crate::ap_control::{ApControl, Plugged};
use crate::events::{Event, device_path};
use crate::qmp::error::{Class, Error};
use crate::qmp::schema::{Object, Type, may, needs, object};
use crate::qmp::table::{Arguments, Row};

pub static ROWS: &[Row] = &[
    Row { name: "device_add", arguments: &ADD, returns: DONE, oob: false, run: device_add },
    Row { name: "device_del", arguments: &DELETE, returns: DONE, oob: false, run: device_del },
];

/// The only device that can be plugged.
pub const DRIVER: &str = "vfio-ap";
/// What it can be told of the device on any host.
const SYSFSDEV: (&str, &str) =
    ("sysfsdev", "the mediated device: its UUID, its path in sysfs, /dev/vfio/N or /dev/vfio/devices/vfioN");
/// And where there are files of devices.
const FD: (&str, &str) = (
    "fd",
    "descriptor of the open /dev/vfio/N or /dev/vfio/devices/vfioN: its name (getfd), its number or /dev/fdset/SET (add-fd)",
);

/// What the device can be told on the host of this guest.
pub fn properties(context: &Context<'_>) -> Vec<(&'static str, &'static str)> {
    let files = context.board.devices().ap().is_some_and(|control| control.takes_files());
    [SYSFSDEV].into_iter().chain(files.then_some(FD)).collect()
}
/// Longest name of a device.
const LONGEST_ID: usize = 127;

static ADD: Object = object(
    "device_add-arg",
    &[
        needs("driver", Type::Str),
        may("id", Type::Str),
        may("bus", Type::Str),
        may("sysfsdev", Type::Str),
        may("fd", Type::Str),
    ],
);
static DELETE: Object = object("device_del-arg", &[needs("id", Type::Str)]);

/// The AP host, if the guest has AP.
pub fn control(context: &Context<'_>) -> Result<Arc<dyn ApControl>, Error> {
    match context.board.devices().ap() {
        Some(control) => Ok(control),
        None => Err(Error::generic("the guest has no AP instructions; start it with --ap")),
    }
}

fn device_add(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    let driver = arguments.required("driver");
    if driver != DRIVER {
        let problem = format_args!("driver: no device '{driver}'; what can be plugged is '{DRIVER}'");
        return Err(Error::generic(problem));
    }
    let id = arguments.text("id").map(str::to_owned);
    if id.as_ref().is_some_and(|id| !is_name(id)) {
        return Err(Error::generic(format_args!(
            "id: begin with a letter and go on with letters, digits, '-', '.' and '_', {LONGEST_ID} at most"
        )));
    }
    if arguments.text("bus").is_some() {
        return Err(Error::generic("bus: a vfio-ap device is on no bus; leave it out"));
    }
    let (name, fd) = match (arguments.text("sysfsdev"), arguments.text("fd")) {
        (Some(sysfsdev), None) => (Some(mdev_name(sysfsdev)?), ""),
        (None, Some(fd)) => (None, fd),
        _ => return Err(Error::generic("sysfsdev, fd: give one of them, to say which device it is to be")),
    };
    let control = control(context)?;
    not_second(&*control)?;
    let device = match name {
        Some(name) => Given::Name(name),
        None if control.takes_files() => Given::File(context.take_descriptor("fd", fd)?),
        None => {
            return Err(Error::generic(
                "fd: the AP host is simulated, and its mdevs have no files that could be open; give sysfsdev with the UUID of \
                 one of them (x-query-ap lists them)",
            ));
        }
    };
    in_thread(context, move || {
        control.plug(device, id).map_err(|e| {
            // Somebody else may have been faster.
            not_second(&*control).err().unwrap_or_else(|| Error::generic(chain(&e)))
        })?;
        Ok(json!({}))
    })
}

/// An error when the guest has a device.
fn not_second(control: &dyn ApControl) -> Result<(), Error> {
    match control.plugged().map(|other| name_of(&other)) {
        None => Ok(()),
        Some(other) => Err(Error::generic(format_args!(
            "a guest can have one vfio-ap device, and this one has '{other}'; give device_del of '{other}' first"
        ))),
    }
}

fn device_del(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    let id = arguments.required("id");
    let plugged = context.board.devices().ap().and_then(|control| control.plugged());
    let named =
        |device: &Plugged| device.id.as_deref() == Some(id) || device_path(device.id.as_deref()) == id;
    let Some(device) = plugged.clone().filter(named) else {
        let there = match plugged {
            Some(device) => format!("the guest has '{}'", name_of(&device)),
            None => "the guest has none".into(),
        };
        return Err(Error::new(Class::DeviceNotFound, format_args!("id: no device '{id}'; {there}")));
    };
    let control = control(context)?;
    let run = context.board.control.clone();
    in_thread(context, move || {
        control.unplug(&device).map_err(|e| Error::generic(chain(&e)))?;
        run.events().post(Event::DeviceDeleted(device.id));
        Ok(json!({}))
    })
}

/// What `device_del` takes for a device: its name, or where it is.
pub fn name_of(device: &Plugged) -> String {
    device.id.clone().unwrap_or_else(|| device_path(None))
}

fn is_name(id: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    id.len() <= LONGEST_ID && id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.chars().all(rest)
}

/// The mediated device that this text names. Nothing is opened.
fn mdev_name(text: &str) -> Result<MdevName, Error> {
    text.parse().map_err(|e| Error::generic(format_args!("sysfsdev: {e}; {}", BadName::REMEDY)))
}

/// An error with its sources on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |e| e.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}
