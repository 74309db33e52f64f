//! Operations on the AP host out of arguments. Each error names the argument and says what it takes.

use ap::host::{Attribute, Driver, LparChange, MaskAttribute, MdevDefinition, Operation};
use crycb::Apqn;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::qmp::error::Error;

/// The names of the operations.
pub const NAMES: &[&str] = &[
    "create-mdev",
    "remove-mdev",
    "import",
    "write",
    "reset-device",
    "write-mask",
    "driver-override",
    "bind",
    "unbind",
    "configure",
    "scan",
];

/// The names of the changes of the machine.
pub const CHANGES: &[&str] = &[
    "add-adapter",
    "remove-adapter",
    "change-type",
    "set-condition",
    "add-domain",
    "remove-domain",
    "add-control-domain",
    "remove-control-domain",
];

/// What keeps a value from being an argument.
type Check = fn(&Value) -> Result<(), String>;

/// The arguments that operations have: how each is checked, and what it takes.
const MEMBERS: &[(&str, Check, &str)] = &[
    ("mdev", is::<Uuid>, "a UUID, as 62177883-f1bb-47f0-914d-32a22e3a8804"),
    ("queue", queue, "a queue as ADAPTER.DOMAIN in hexadecimal, as 05.0004"),
    (
        "definition",
        is::<MdevDefinition>,
        "what mdevctl has, as {\"mdev_type\": \"vfio_ap-passthrough\", \"attrs\": [{\"assign_adapter\": \"5\"}]}",
    ),
    ("attribute", is::<Attribute>, "an attribute of the mdev with its text, as {\"assign_adapter\": \"5\"}"),
    ("mask", is::<MaskAttribute>, "apmask or aqmask"),
    ("value", is::<String>, "a string: numbers with + or - as \"+5,-7\", or 0x and hexadecimal digits"),
    ("driver", is::<String>, "the driver's name"),
    (
        "changes",
        changes,
        "an array, as [{\"change\": \"remove-adapter\", \"adapter\": 5}]; the changes are add-adapter, remove-adapter, \
         change-type, set-condition, add-domain, remove-domain, add-control-domain and remove-control-domain",
    ),
];

/// The operation that has these members; `place` is what stands before the names of its arguments.
pub fn parse(members: &Map<String, Value>, place: &str) -> Result<Operation, Error> {
    let bad = |name: &str, why: &str, takes: &str| {
        Error::generic(format_args!("{place}{name}: {why}; give {takes}"))
    };
    for (name, value) in members {
        if let Some((_, check, takes)) = MEMBERS.iter().find(|(known, ..)| known == name) {
            check(value).map_err(|why| bad(name, &why, takes))?;
        }
    }
    let name = members.get("operation").and_then(Value::as_str).unwrap_or_default();
    if name == "bind"
        && let Some(driver) = members.get("driver")
    {
        is::<Driver>(driver).map_err(|why| bad("driver", &why, "cex4queue or vfio_ap"))?;
    }
    // What is left is an argument that is not there or is another operation's.
    serde_json::from_value(Value::Object(members.clone())).map_err(|why| {
        let text = why.to_string();
        let missing = MEMBERS.iter().find(|(known, ..)| text == format!("missing field `{known}`"));
        match missing {
            Some((known, _, takes)) => bad(known, "missing", takes),
            None => Error::generic(format_args!(
                "{place}operation: '{name}': {text}; give one of {}",
                NAMES.join(", ")
            )),
        }
    })
}

fn is<T: DeserializeOwned>(value: &Value) -> Result<(), String> {
    serde_json::from_value::<T>(value.clone()).map(drop).map_err(|e| e.to_string())
}

fn queue(value: &Value) -> Result<(), String> {
    let text = value.as_str().ok_or("no string")?;
    text.parse::<Apqn>().map(drop).map_err(|e| e.to_string())
}

fn changes(value: &Value) -> Result<(), String> {
    let changes = value.as_array().ok_or("no array")?;
    changes
        .iter()
        .enumerate()
        .try_for_each(|(n, change)| is::<LparChange>(change).map_err(|why| format!("number {n}: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(operation: Value, want: &[&str]) {
        let error = parse(operation.as_object().unwrap(), "in.").unwrap_err().description;
        for part in want {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }

    const MDEV: &str = "62177883-f1bb-47f0-914d-32a22e3a8804";

    /// Each names the argument first, and says what it takes.
    #[test]
    fn bad_arguments() {
        check(
            json!({"operation": "create-mdev", "mdev": "zz"}),
            &["in.mdev: UUID parsing failed", "; give a UUID, as 62"],
        );
        check(json!({"operation": "create-mdev", "mdev": 5}), &["in.mdev: ", "; give a UUID"]);
        check(json!({"operation": "create-mdev"}), &["in.mdev: missing; give a UUID"]);
        check(
            json!({"operation": "unbind", "queue": "99"}),
            &["in.queue: ", "; give a queue as ADAPTER.DOMAIN"],
        );
        check(json!({"operation": "unbind", "queue": 5}), &["in.queue: no string; give a queue"]);
        check(
            json!({"operation": "bind", "queue": "05.0004", "driver": "x"}),
            &["in.driver: ", "; give cex4queue or vfio_ap"],
        );
        check(
            json!({"operation": "driver-override", "queue": "05.0004", "driver": 1}),
            &["in.driver: ", "the driver's name"],
        );
        check(
            json!({"operation": "configure", "changes": 5}),
            &["in.changes: no array; give an array, as [{\"change\""],
        );
        let changes = json!([{"change": "remove-domain", "domain": 4}, {"change": "fly"}]);
        check(
            json!({"operation": "configure", "changes": changes}),
            &["in.changes: number 1: ", "`fly`", "add-control-domain"],
        );
        check(
            json!({"operation": "import", "mdev": MDEV, "definition": 1}),
            &["in.definition: ", "; give what mdevctl has"],
        );
        check(
            json!({"operation": "write", "mdev": MDEV, "attribute": {"fly": "1"}}),
            &["in.attribute: ", "{\"assign_adapter\""],
        );
        check(
            json!({"operation": "write-mask", "mask": "x", "value": "+5"}),
            &["in.mask: ", "; give apmask or aqmask"],
        );
        check(
            json!({"operation": "write-mask", "mask": "apmask", "value": 5}),
            &["in.value: ", "; give a string"],
        );
        check(json!({"operation": "write-mask", "mask": "apmask"}), &["in.value: missing; give a string"]);
        check(json!({"operation": "fly"}), &["in.operation: 'fly': ", "; give one of create-mdev"]);
        check(
            json!({"operation": "unbind", "queue": "05.0004", "mdev": MDEV}),
            &["in.operation: 'unbind': ", "`mdev`"],
        );
    }

    /// What a change lacks is told, not that there is none of its name.
    #[test]
    fn every_change_has_its_name() {
        for name in CHANGES {
            let error = changes(&json!([{"change": name}])).unwrap_err();
            assert!(error.starts_with("number 0: missing field"), "{name}: {error}");
        }
        let error = changes(&json!([{"change": "fly"}])).unwrap_err();
        assert_eq!(error.matches('`').count(), 2 + 2 * CHANGES.len(), "{error}");
    }

    #[test]
    fn every_operation_has_its_name() {
        for name in NAMES {
            let all = json!({
                "operation": name, "mdev": MDEV, "queue": "05.0004", "mask": "apmask", "value": "+5", "driver": "vfio_ap",
                "changes": [{"change": "add-domain", "domain": 4}], "attribute": {"assign_adapter": "5"},
                "definition": {"mdev_type": "vfio_ap-passthrough"},
            });
            let mut members = all.as_object().unwrap().clone();
            // Those of other operations are refused, one by one.
            let operation = loop {
                match parse(&members, "") {
                    Ok(operation) => break operation,
                    Err(error) => {
                        let other = error.description.split('`').nth(1).expect(name).to_owned();
                        members.remove(&other).expect(name);
                    }
                }
            };
            assert_eq!(serde_json::to_value(operation).unwrap()["operation"], *name);
        }
    }
}
