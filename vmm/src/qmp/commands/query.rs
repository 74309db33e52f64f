//! Commands that change nothing.

use serde_json::{Value, json};

use super::device::{DRIVER, properties};
use super::{Answer, Context};
use crate::events::device_path;
use crate::qmp::error::{Class, Error};
use crate::qmp::schema::{NOTHING, Object, Type, may, needs, object};
use crate::qmp::table::{self, Arguments, Row};

const fn query(
    name: &'static str,
    arguments: &'static Object,
    returns: Type,
    run: fn(&mut Context<'_>, &Arguments<'_>) -> Result<Answer, Error>,
) -> Row {
    Row { name, arguments, returns, oob: false, run }
}

pub static ROWS: &[Row] = &[
    query("query-commands", &NOTHING, Type::Array(&Type::Object(&COMMAND_INFO)), query_commands),
    query("query-qmp-schema", &NOTHING, Type::Array(&Type::Object(&SCHEMA_INFO)), query_qmp_schema),
    query("query-version", &NOTHING, Type::Object(&VERSION_INFO), query_version),
    Row { oob: true, ..query("query-status", &NOTHING, Type::Object(&STATUS_INFO), query_status) },
    query("query-name", &NOTHING, Type::Object(&NAME_INFO), query_name),
    query("query-uuid", &NOTHING, Type::Object(&UUID_INFO), query_uuid),
    query("query-kvm", &NOTHING, Type::Object(&KVM_INFO), query_kvm),
    query("query-chardev", &NOTHING, Type::Array(&Type::Object(&CHARDEV_INFO)), query_chardev),
    query("query-cpus-fast", &NOTHING, Type::Array(&Type::Object(&CPU_INFO_FAST)), query_cpus_fast),
    query("device-list-properties", &TYPE_NAME, PROPERTIES, device_list_properties),
    query("qom-list", &PATH, PROPERTIES, qom_list),
];

static COMMAND_INFO: Object = object("CommandInfo", &[needs("name", Type::Str)]);
static SCHEMA_INFO: Object = Object {
    name: "SchemaInfo",
    members: &[needs("name", Type::Str), needs("meta-type", Type::Enum("SchemaMetaType", META_TYPES))],
    variants: Some((
        "meta-type",
        &[
            ("builtin", &SCHEMA_BUILTIN),
            ("enum", &SCHEMA_ENUM),
            ("array", &SCHEMA_ARRAY),
            ("object", &SCHEMA_OBJECT),
            ("command", &SCHEMA_COMMAND),
            ("event", &SCHEMA_EVENT),
        ],
    )),
};
const META_TYPES: &[&str] = &["builtin", "enum", "array", "object", "command", "event"];
const JSON_TYPES: &[&str] = &["string", "number", "int", "boolean", "value"];
static SCHEMA_BUILTIN: Object =
    object("SchemaInfoBuiltin", &[needs("json-type", Type::Enum("JSONType", JSON_TYPES))]);
static SCHEMA_ENUM: Object = object(
    "SchemaInfoEnum",
    &[
        needs("members", Type::Array(&Type::Object(&SCHEMA_ENUM_MEMBER))),
        needs("values", Type::Array(&Type::Str)),
    ],
);
static SCHEMA_ENUM_MEMBER: Object = object("SchemaInfoEnumMember", &[needs("name", Type::Str)]);
static SCHEMA_ARRAY: Object = object("SchemaInfoArray", &[needs("element-type", Type::Str)]);
static SCHEMA_OBJECT: Object = object(
    "SchemaInfoObject",
    &[
        needs("members", Type::Array(&Type::Object(&SCHEMA_MEMBER))),
        may("tag", Type::Str),
        may("variants", Type::Array(&Type::Object(&SCHEMA_VARIANT))),
    ],
);
static SCHEMA_MEMBER: Object = object(
    "SchemaInfoObjectMember",
    &[needs("name", Type::Str), needs("type", Type::Str), may("default", Type::Any)],
);
static SCHEMA_VARIANT: Object =
    object("SchemaInfoObjectVariant", &[needs("case", Type::Str), needs("type", Type::Str)]);
static SCHEMA_COMMAND: Object = object(
    "SchemaInfoCommand",
    &[needs("arg-type", Type::Str), needs("ret-type", Type::Str), may("allow-oob", Type::Bool)],
);
static SCHEMA_EVENT: Object = object("SchemaInfoEvent", &[needs("arg-type", Type::Str)]);

fn query_commands(_: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(table::rows().map(|row| json!({"name": row.name})).collect()))
}

fn query_qmp_schema(_: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(table::schema()))
}

static VERSION_INFO: Object =
    object("VersionInfo", &[needs("qemu", Type::Object(&VERSION_TRIPLE)), needs("package", Type::Str)]);
static VERSION_TRIPLE: Object = object(
    "VersionTriple",
    &[needs("major", Type::Int), needs("minor", Type::Int), needs("micro", Type::Int)],
);

fn query_version(_: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(crate::qmp::session::version()))
}

static STATUS_INFO: Object = object(
    "StatusInfo",
    &[
        needs("running", Type::Bool),
        needs("status", Type::Enum("RunState", &["running", "paused", "shutdown"])),
    ],
);

fn query_status(context: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    let status = context.board.status();
    Ok(Answer::Now(json!({"running": status == "running", "status": status})))
}

static NAME_INFO: Object = object("NameInfo", &[may("name", Type::Str)]);

fn query_name(context: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(json!({"name": context.board.identity().name})))
}

static UUID_INFO: Object = object("UuidInfo", &[needs("UUID", Type::Str)]);

fn query_uuid(context: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    Ok(Answer::Now(json!({"UUID": context.board.identity().uuid})))
}

static KVM_INFO: Object = object("KvmInfo", &[needs("enabled", Type::Bool), needs("present", Type::Bool)]);

fn query_kvm(context: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    let about = &context.shared.about;
    Ok(Answer::Now(json!({"enabled": about.kvm, "present": about.kvm_present})))
}

static CHARDEV_INFO: Object = object(
    "ChardevInfo",
    &[needs("label", Type::Str), needs("filename", Type::Str), needs("frontend-open", Type::Bool)],
);

/// The guest's console, which is its only one.
fn query_chardev(context: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    let filename = &context.shared.about.console;
    Ok(Answer::Now(json!([{"label": "console", "filename": filename, "frontend-open": true}])))
}

static CPU_INFO_FAST: Object = Object {
    name: "CpuInfoFast",
    members: &[
        needs("cpu-index", Type::Int),
        needs("qom-path", Type::Str),
        needs("thread-id", Type::Int),
        may("props", Type::Object(&CPU_PROPERTIES)),
        needs("target", Type::Enum("SysEmuTarget", &["s390x"])),
    ],
    variants: Some(("target", &[("s390x", &CPU_INFO_S390)])),
};
static CPU_PROPERTIES: Object = object("CpuInstanceProperties", &[may("core-id", Type::Int)]);
static CPU_INFO_S390: Object =
    object("CpuInfoS390", &[needs("cpu-state", Type::Enum("S390CpuState", &["stopped", "operating"]))]);

fn query_cpus_fast(context: &mut Context<'_>, _: &Arguments<'_>) -> Result<Answer, Error> {
    let board = context.board;
    let describe = |address: u16| {
        json!({
            "cpu-index": address,
            "qom-path": cpu_path(address),
            "thread-id": board.thread(address).unwrap_or(0),
            "props": {"core-id": address},
            "target": "s390x",
            "cpu-state": if board.vm.is_operating(address) { "operating" } else { "stopped" },
        })
    };
    Ok(Answer::Now(board.vm.cpu_addresses().into_iter().map(describe).collect()))
}

fn cpu_path(address: u16) -> String {
    format!("/machine/unattached/device[{address}]")
}

const PROPERTIES: Type = Type::Array(&Type::Object(&PROPERTY_INFO));
static PROPERTY_INFO: Object = object(
    "ObjectPropertyInfo",
    &[
        needs("name", Type::Str),
        needs("type", Type::Str),
        may("description", Type::Str),
        may("default-value", Type::Any),
    ],
);
static TYPE_NAME: Object = object("device-list-properties-arg", &[needs("typename", Type::Str)]);
static PATH: Object = object("qom-list-arg", &[needs("path", Type::Str)]);

/// The properties that `device_add` takes of the devices that there are, on this guest's host.
fn device_list_properties(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    let name = arguments.required("typename");
    if name != DRIVER {
        return Err(Error::new(
            Class::DeviceNotFound,
            format_args!("typename: no device '{name}' can be plugged into this machine; '{DRIVER}' can"),
        ));
    }
    let properties = properties(context);
    Ok(Answer::Now(
        properties
            .iter()
            .map(|(name, what)| json!({"name": name, "type": "str", "description": what}))
            .collect(),
    ))
}

fn qom_list(context: &mut Context<'_>, arguments: &Arguments<'_>) -> Result<Answer, Error> {
    let path = arguments.required("path");
    let property = |name: &str, of: &str| json!({"name": name, "type": of});
    let container = |name: &str| property(name, "child<container>");
    let device = context.board.devices().ap().and_then(|control| control.plugged());
    let mut list = vec![property("type", "string")];
    match path.trim_end_matches('/') {
        "" => list.extend([container("objects"), property("machine", "child<adjunct-machine>")]),
        "/machine" => list.extend(["peripheral", "peripheral-anon", "unattached"].map(container)),
        "/objects" => {}
        "/machine/peripheral" | "/machine/peripheral-anon" => {
            let device = device.as_ref().map(|device| device_path(device.id.as_deref()));
            let name = device.as_ref().and_then(|at| at.strip_prefix(path.trim_end_matches('/')));
            list.extend(name.map(|name| property(&name[1..], "child<vfio-ap>")));
        }
        at if device.as_ref().is_some_and(|device| device_path(device.id.as_deref()) == at) => {
            list.extend(properties(context).iter().map(|(name, _)| property(name, "str")));
        }
        "/machine/unattached" => {
            let cpus = context.board.vm.cpu_addresses();
            list.extend(cpus.into_iter().map(|n| property(&format!("device[{n}]"), "child<s390x-cpu>")));
        }
        other if context.board.vm.cpu_addresses().into_iter().any(|n| other == cpu_path(n)) => {
            list.push(property("core-id", "uint32"));
        }
        _ => {
            return Err(Error::new(
                Class::DeviceNotFound,
                format_args!("path: nothing is at '{path}'; begin with qom-list of '/'"),
            ));
        }
    }
    Ok(Answer::Now(Value::Array(list)))
}
