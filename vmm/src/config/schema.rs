//! What the configuration's schema says beyond types: the values that [`Options::resolve`](super::Options::resolve) takes. Where
//! a pattern cannot say it all (multiples of 1M in K, lengths in bytes), `adjunct check-config` does.

use schemars::Schema;
use serde_json::{Map, Value, json};

use super::{LONGEST_SOCKET_PATH, MAX_COMMAND_LINE, MAX_CPUS, MAX_NAME};

const UUID: &str = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}";
/// Up to 4T in each unit.
const SIZE: &str = "^0*([1-4][Tt]\
    |([1-9][0-9]{0,2}|[1-3][0-9]{3}|40[0-8][0-9]|409[0-6])[Gg]\
    |([1-9][0-9]{0,5}|[1-3][0-9]{6}|40[0-9]{5}|41[0-8][0-9]{4}|419[0-3][0-9]{3}|4194[0-2][0-9]{2}|419430[0-4])[Mm]\
    |[1-9][0-9]{3,9}[Kk])(iB)?$";

/// Makes the schema of the fields' types that of their values.
pub(super) fn constrain(schema: &mut Schema) {
    let object = schema.ensure_object();
    let properties =
        object.get_mut("properties").and_then(Value::as_object_mut).expect("a struct has fields");
    for property in properties.values_mut().filter_map(Value::as_object_mut) {
        without_null(property);
    }
    for (name, constraints) in constraints() {
        let property = properties.get_mut(name).and_then(Value::as_object_mut).expect("a field of that name");
        let Value::Object(constraints) = constraints else { unreachable!("each is an object") };
        property.extend(constraints);
    }
    object.insert("required".into(), json!(["kernel"]));
    let when = |field: &str, value: bool, then: Value| json!({"if": {"required": [field], "properties": {field: {"const": value}}}, "then": {"properties": then}});
    let icount = json!({"cpus": {"const": 1}, "accel": {"enum": ["auto", "engine"]}, "ap-host": {"not": {"pattern": "^unix:"}}});
    let rules =
        [when("icount", true, icount), when("ap", false, json!({"ap-mdev": false, "ap-host": false}))];
    object.insert("allOf".into(), rules.to_vec().into());
}

/// What is left out is not `null`.
fn without_null(property: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = property.get_mut("type") {
        types.retain(|name| name != "null");
        if let [name] = &types[..] {
            let name = name.clone();
            property.insert("type".into(), name);
        }
    }
    if let Some(Value::Array(of)) = property.remove("anyOf") {
        let some = of.into_iter().find(|of| of["type"] != "null");
        let Some(Value::Object(some)) = some else { unreachable!("an option is of something") };
        property.extend(some);
    }
}

fn constraints() -> Vec<(&'static str, Value)> {
    let socket = format!(r"unix:[\s\S]{{1,{LONGEST_SOCKET_PATH}}}");
    let pattern = |text: String| json!({"pattern": format!("^({text})$")});
    // In any case, as the filter's own parser has it.
    let in_any_case =
        |word: &str| -> String { word.chars().map(|c| format!("[{c}{}]", c.to_ascii_uppercase())).collect() };
    let level = ["off", "error", "warn", "info", "debug", "trace"].map(in_any_case).join("|");
    let filter = format!("([^,]*=)?({level})");
    let number = "(0|[1-9][0-9]*)";
    let mut fields: Vec<_> = ["kernel", "initrd", "ap-host", "log-file", "pidfile"]
        .map(|path| (path, json!({"minLength": 1})))
        .to_vec();
    fields.extend([
        ("append", json!({"maxLength": MAX_COMMAND_LINE, "pattern": r"^[^\x00]*$"})),
        ("memory", json!({"pattern": SIZE})),
        ("cpus", json!({"minimum": 1, "maximum": MAX_CPUS})),
        (
            "ap-mdev",
            pattern(format!(
                "(/sys/devices/vfio_ap/matrix/|/sys/bus/mdev/devices/)?({UUID}|[0-9a-fA-F]{{32}})/*|/dev/vfio/{number}|\
                 /dev/vfio/devices/vfio{number}"
            )),
        ),
        (
            "name",
            json!({"minLength": 1, "maxLength": MAX_NAME, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}),
        ),
        ("uuid", pattern(format!(r"(urn:uuid:)?{UUID}|\{{{UUID}\}}|[0-9a-fA-F]{{32}}"))),
        ("log", pattern(format!("{filter}(,{filter})*"))),
        ("shutdown-timeout", json!({"maximum": u32::MAX})),
        ("metrics", pattern(format!(r"file=[\s\S]+|{socket}"))),
        ("console", pattern(format!(r"stdio|none|pty|file=[\s\S]+|{socket}"))),
        (
            "qmp",
            json!({
                "uniqueItems": true,
                "items": {"type": "string", "pattern": r"^unix:([^,]|,,)+(,(server|server=on|nowait|wait=off))*$"},
            }),
        ),
    ]);
    fields
}
