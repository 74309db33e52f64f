//! `adjunct ctl`: the commands of a management socket from a shell.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::client::{Client, Message};
use super::console::{Place, attach};
use super::monitor::monitor;
use crate::{BAD_ARGUMENTS, HOST_FAILURE};

/// Exit status when the guest refused the command.
const REFUSED: u8 = 1;
/// Exit status when an event did not come in time.
const TIMED_OUT: u8 = 4;
/// How long the server may take to greet.
const PATIENCE: Duration = Duration::from_secs(10);

/// What `adjunct help ctl` ends with.
pub const AFTER_HELP: &str = "\
Examples:
  adjunct ctl /run/vm query-status
  adjunct ctl /run/vm device_add driver=vfio-ap id=ap0 sysfsdev=62177883-f1bb-47f0-914d-32a22e3a8804
  adjunct ctl /run/vm x-ap-assign-adapter '{\"adapter\": \"0x0a\"}'
  adjunct ctl /run/vm system_powerdown --wait SHUTDOWN
  echo 'info cpus' | adjunct ctl /run/vm monitor
  adjunct ctl /run/vm monitor                # at a terminal: Tab completes, arrows bring lines back, Ctrl-d ends
  adjunct ctl /run/vm console                # the guest's console; Ctrl-] ends

Values are numbers, booleans, lists (a,b) or text as the command's schema says; a value may be JSON too.

Exit status: 0 done; 1 the command was refused; 2 bad arguments; 3 no connection; 4 the event did not come in time.";

/// What to do at which socket.
#[derive(clap::Args)]
pub struct Arguments {
    /// The guest's management socket (`adjunct run --qmp unix:SOCKET`)
    socket: PathBuf,

    /// A command of the socket (`query-commands` lists them); or `monitor`: commands from standard input, a line each; or
    /// `console`: this terminal at the guest's console
    command: Option<String>,

    /// The command's arguments: key=value, or one JSON object
    arguments: Vec<String>,

    /// After the command wait for this event and print it; may be given several times
    #[arg(long, value_name = "EVENT")]
    wait: Vec<String>,

    /// Seconds to wait for events [default: for ever]
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    timeout: Option<f64>,

    /// Print the reply as it came, as JSON on one line
    #[arg(long)]
    json: bool,
}

/// Why it did not work, and the exit status.
type Failure = (u8, String);

/// Carries out one command; the exit status.
pub fn main(arguments: &Arguments) -> u8 {
    match control(arguments) {
        Ok(()) => 0,
        Err((status, message)) => {
            eprintln!("adjunct: {message}");
            status
        }
    }
}

fn control(arguments: &Arguments) -> Result<(), Failure> {
    let lost = |e: io::Error| (HOST_FAILURE, format!("{}: {e}", arguments.socket.display()));
    if arguments.command.is_none() && arguments.wait.is_empty() {
        return Err((BAD_ARGUMENTS, "give a command, or --wait EVENT".into()));
    }
    let timeout = match arguments.timeout.map(Duration::try_from_secs_f64) {
        Some(Err(_)) => return Err((BAD_ARGUMENTS, "--timeout: give a number of seconds".into())),
        Some(Ok(timeout)) => Some(timeout),
        None => None,
    };
    let mut client = Client::connect(&arguments.socket, PATIENCE).map_err(lost)?;
    match arguments.command.as_deref() {
        Some("monitor") => return monitor(client, arguments.json).map_err(lost),
        Some("console") => {
            let name = match &arguments.arguments[..] {
                [] => None,
                [name] => Some(name.as_str()),
                _ => return Err((BAD_ARGUMENTS, "console: give one name, or none".into())),
            };
            let place = console(&mut client, name).map_err(lost)??;
            // The guest's events are not for a console.
            drop(client);
            return match attach(&place) {
                Ok(0) => Ok(()),
                Ok(status) => Err((status, "the console has ended".into())),
                Err(e) => Err((HOST_FAILURE, format!("{}: {e}", place.path().display()))),
            };
        }
        _ => {}
    }
    let mut missing = arguments.wait.clone();
    let own: Vec<_> = missing.iter().filter(|name| name.starts_with("X_")).collect();
    if !own.is_empty() {
        let subscription = Map::from_iter([("events".to_owned(), json!(own))]);
        let (result, _) = client.execute("x-subscribe", &subscription, drop).map_err(lost)?;
        result.map_err(|e| (REFUSED, e))?;
    }
    let event = |value: &Value, missing: &mut Vec<String>| {
        if let Some(at) = missing.iter().position(|name| *name == value["event"]) {
            missing.remove(at);
            print(value, arguments.json);
        }
    };
    if let Some(name) = &arguments.command {
        let given = match parse(&mut client, name, &arguments.arguments).map_err(lost)? {
            Ok(given) => given,
            Err(problem) => return Err((BAD_ARGUMENTS, problem)),
        };
        let (result, whole) = client.execute(name, &given, |e| event(&e, &mut missing)).map_err(lost)?;
        if arguments.json {
            print(whole.get("return").unwrap_or(&whole), true);
        }
        match result {
            Ok(value) if !arguments.json => print(&value, false),
            Ok(_) => {}
            Err(description) => return Err((REFUSED, format!("{name}: {description}"))),
        }
    }
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    while !missing.is_empty() {
        match client.receive(deadline) {
            Ok(Message::Event(value)) => event(&value, &mut missing),
            Ok(Message::Reply(..)) => {}
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                return Err((TIMED_OUT, format!("{} did not come in time", missing.join(", "))));
            }
            Err(e) => return Err(lost(e)),
        }
    }
    Ok(())
}

/// The arguments of the command `name`, whose types the server knows; the inner error is for the user.
fn parse(
    client: &mut Client,
    name: &str,
    given: &[String],
) -> io::Result<Result<Map<String, Value>, String>> {
    if given.is_empty() {
        return Ok(Ok(Map::new()));
    }
    if let [json] = given
        && json.trim_start().starts_with('{')
    {
        return Ok(match serde_json::from_str(json) {
            Ok(Value::Object(arguments)) => Ok(arguments),
            Ok(_) => unreachable!("what begins with a brace is an object"),
            Err(e) => Err(format!("'{json}' is no JSON object: {e}")),
        });
    }
    let (schema, _) = client.execute("query-qmp-schema", &Map::new(), drop)?;
    let schema = Schema::new(schema.unwrap_or_default());
    Ok(given
        .iter()
        .map(|part| match part.split_once('=') {
            Some((key, text)) if !key.is_empty() => Ok((key.to_owned(), schema.value(name, key, text))),
            _ => Err(format!("'{part}' is not key=value, nor is it JSON")),
        })
        .collect())
}

/// What the server says of its commands, by name.
pub(super) struct Schema(BTreeMap<String, Value>);

impl Schema {
    pub(super) fn new(schema: Value) -> Self {
        let entries = schema.as_array().cloned().unwrap_or_default();
        let named = |entry: Value| Some((entry["name"].as_str()?.to_owned(), entry));
        Self(entries.into_iter().filter_map(named).collect())
    }

    /// The value that `text` is for the member `key` of a command's arguments. What is wrong is sent as text: the server
    /// knows best what to say about it.
    pub(super) fn value(&self, command: &str, key: &str, text: &str) -> Value {
        match self.of_member(command, key) {
            Some(of) => self.of_type(of, text),
            None => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        }
    }

    /// The arguments that a command has.
    pub(super) fn keys(&self, command: &str) -> Vec<&str> {
        self.members(command).iter().filter_map(|member| member["name"].as_str()).collect()
    }

    /// What an argument may be, where that is a list.
    pub(super) fn choices(&self, command: &str, key: &str) -> Vec<&str> {
        let Some(of) = self.of_member(command, key) else { return Vec::new() };
        if of["json-type"] == "boolean" {
            return vec!["on", "off"];
        }
        of["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn members(&self, command: &str) -> &[Value] {
        let members = || self.0.get(self.0.get(command)?["arg-type"].as_str()?)?["members"].as_array();
        members().map_or(&[], Vec::as_slice)
    }

    fn of_member(&self, command: &str, key: &str) -> Option<&Value> {
        let member = self.members(command).iter().find(|member| member["name"] == key)?;
        self.0.get(member["type"].as_str()?)
    }

    fn of_type(&self, of: &Value, text: &str) -> Value {
        let json = || serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
        match (of["meta-type"].as_str(), of["json-type"].as_str()) {
            (Some("enum"), _) | (_, Some("string")) => text.into(),
            (_, Some("int")) => {
                let hex = text.strip_prefix("0x").and_then(|digits| i64::from_str_radix(digits, 16).ok());
                hex.map_or_else(json, Value::from)
            }
            (_, Some("boolean")) => match text {
                "on" | "yes" => true.into(),
                "off" | "no" => false.into(),
                _ => json(),
            },
            (Some("array"), _) if !text.starts_with('[') => {
                let element = of["element-type"].as_str().and_then(|name| self.0.get(name));
                let value = |part| element.map_or_else(|| Value::from(part), |of| self.of_type(of, part));
                text.split(',').filter(|part| !part.is_empty()).map(value).collect()
            }
            _ => json(),
        }
    }
}

/// Where the guest's console called `name` is, or else the first that can be attached to.
fn console(client: &mut Client, name: Option<&str>) -> io::Result<Result<Place, Failure>> {
    let devices = match client.execute("query-chardev", &Map::new(), drop)?.0 {
        Ok(Value::Array(devices)) => devices,
        Ok(_) => Vec::new(),
        Err(description) => return Ok(Err((REFUSED, format!("query-chardev: {description}")))),
    };
    let of = |device: &Value| {
        Some((device["label"].as_str()?.to_owned(), device["filename"].as_str()?.to_owned()))
    };
    let devices: Vec<(String, String)> = devices.iter().filter_map(of).collect();
    // QEMU's clients and monitors are among them.
    let ours = |label: &str| !label.starts_with("compat_monitor") && !label.starts_with("mon");
    let mut places = devices.iter().filter(|(label, _)| name.map_or(ours(label), |name| name == label));
    Ok(places.find_map(|(_, filename)| Place::of(filename)).ok_or_else(|| {
        let list: Vec<_> = devices.iter().map(|(label, filename)| format!("{label} is {filename}")).collect();
        let known = if list.is_empty() { "it has none".into() } else { list.join(", ") };
        let name = name.unwrap_or("console");
        let remedy = "start the guest with --console unix:PATH or pty";
        (REFUSED, format!("no {name} of this guest can be attached to ({known}); {remedy}"))
    }))
}

/// Prints a value: on one line as JSON, or for people.
pub(super) fn print(value: &Value, json: bool) {
    // A reader that has gone needs nothing more.
    let mut out = io::stdout().lock();
    let _ = out.write_all(text(value, json).as_bytes()).and_then(|()| out.flush());
}

/// What [`print`] prints.
pub(super) fn text(value: &Value, json: bool) -> String {
    let mut text = String::new();
    match value {
        _ if json => text = format!("{value}\n"),
        Value::String(lines) => text.extend(lines.lines().flat_map(|line| [line, "\n"])),
        Value::Object(members) if members.contains_key("event") => {
            let data = members.get("data").cloned().unwrap_or_default();
            text = format!("{}\n", members["event"].as_str().unwrap_or_default());
            show(&data, 1, &mut text);
        }
        _ => show(value, 0, &mut text),
    }
    text
}

/// A value for people: members a line each, what is inside them further to the right.
fn show(value: &Value, indentation: usize, text: &mut String) {
    let margin = "  ".repeat(indentation);
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match plain(member) {
                    Some(plain) => *text += &format!("{margin}{name}: {plain}\n"),
                    None => {
                        *text += &format!("{margin}{name}:\n");
                        show(member, indentation + 1, text);
                    }
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                match plain(item) {
                    Some(plain) => *text += &format!("{margin}- {plain}\n"),
                    None => {
                        let mut inner = String::new();
                        show(item, indentation + 1, &mut inner);
                        let inner = inner.strip_prefix(&format!("{margin}  ")).unwrap_or(&inner);
                        *text += &format!("{margin}- {inner}");
                    }
                }
            }
        }
        Value::Null => {}
        _ => *text += &format!("{margin}{}\n", plain(value).unwrap_or_default()),
    }
}

/// What fits behind a name.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.iter().all(|item| !item.is_array() && !item.is_object()) => {
            Some(items.iter().filter_map(plain).collect::<Vec<_>>().join(" "))
        }
        Value::Array(items) if !items.is_empty() => None,
        Value::Object(members) if !members.is_empty() => None,
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_the_schema_says() {
        let schema = Schema::new(json!([
            {"meta-type": "command", "name": "c", "arg-type": "a"},
            {"meta-type": "object", "name": "a", "members": [
                {"name": "text", "type": "str"},
                {"name": "number", "type": "int"},
                {"name": "flag", "type": "bool"},
                {"name": "list", "type": "[str]"},
                {"name": "choice", "type": "E"},
                {"name": "any", "type": "any"},
            ]},
            {"meta-type": "builtin", "name": "str", "json-type": "string"},
            {"meta-type": "builtin", "name": "int", "json-type": "int"},
            {"meta-type": "builtin", "name": "bool", "json-type": "boolean"},
            {"meta-type": "builtin", "name": "any", "json-type": "value"},
            {"meta-type": "enum", "name": "E", "values": ["5"]},
            {"meta-type": "array", "name": "[str]", "element-type": "str"},
        ]));
        for (key, text, want) in [
            ("text", "5", json!("5")),
            ("text", "true", json!("true")),
            ("number", "5", json!(5)),
            ("number", "0x0a", json!(10)),
            ("number", "five", json!("five")),
            ("flag", "on", json!(true)),
            ("flag", "false", json!(false)),
            ("list", "A,B", json!(["A", "B"])),
            ("list", "[\"A\"]", json!(["A"])),
            ("list", "", json!([])),
            ("choice", "5", json!("5")),
            ("any", "0x0a", json!("0x0a")),
            ("any", "{\"a\":1}", json!({"a": 1})),
            ("other", "5", json!(5)),
        ] {
            assert_eq!(schema.value("c", key, text), want, "{key}={text}");
        }
    }

    #[test]
    fn people_read_it() {
        let mut text = String::new();
        let value =
            json!({"a": 1, "b": {"c": "x", "d": []}, "e": [{"f": 1, "g": 2}, {"f": 3}], "h": ["i", "j"]});
        show(&value, 0, &mut text);
        assert_eq!(text, "a: 1\nb:\n  c: x\n  d: \ne:\n  - f: 1\n    g: 2\n  - f: 3\nh: i j\n");
    }
}
