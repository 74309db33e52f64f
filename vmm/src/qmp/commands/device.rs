//! Plugging and unplugging the guest's vfio-ap device.

use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

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
/// What it can be told.
pub const PROPERTIES: &[(&str, &str)] = &[
    ("sysfsdev", "the mediated device: its path in sysfs, or its UUID"),
    ("fd", "name of a descriptor of the opened device (getfd)"),
];
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
    let mdev = match (arguments.text("sysfsdev"), arguments.text("fd")) {
        (Some(sysfsdev), None) => mdev_of(sysfsdev)?,
        (None, Some(_)) => {
            return Err(Error::generic(
                "fd: devices are opened by name, so that they can be checked before; give sysfsdev with the UUID of an mdev",
            ));
        }
        _ => return Err(Error::generic("give sysfsdev or fd, and one of them")),
    };
    let control = control(context)?;
    if let Some(other) = control.plugged() {
        return Err(Error::generic(format_args!(
            "a guest can have one vfio-ap device, and this one has '{}'; give device_del of that first",
            name_of(&other)
        )));
    }
    let device = Plugged { id, mdev };
    in_thread(context, move || {
        control.plug(&device).map_err(|e| Error::generic(chain(&e)))?;
        Ok(json!({}))
    })
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

/// The mediated device that a path in sysfs, or a UUID, names. Nothing is opened.
fn mdev_of(text: &str) -> Result<Uuid, Error> {
    let places = ["/sys/devices/vfio_ap/matrix/", "/sys/bus/mdev/devices/"];
    let name = places.iter().find_map(|place| text.strip_prefix(place)).unwrap_or(text);
    let bad = |_| {
        Error::generic(format_args!(
            "sysfsdev: '{text}' names no mediated device; give {}UUID or the UUID alone",
            places[0]
        ))
    };
    Uuid::parse_str(name.trim_end_matches('/')).map_err(bad)
}

/// An error with its sources on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |e| e.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_mediated_devices() {
        let uuid = "62177883-f1bb-47f0-914d-32a22e3a8804";
        for good in ["", "/sys/devices/vfio_ap/matrix/", "/sys/bus/mdev/devices/"] {
            assert_eq!(mdev_of(&format!("{good}{uuid}")).unwrap().to_string(), uuid);
        }
        for bad in ["", "ap0", "/etc/passwd", "/sys/devices/vfio_ap/matrix/../../x", "/dev/vfio/5"] {
            assert!(mdev_of(bad).is_err(), "{bad}");
        }
    }
}
