//! The types of commands and events. Arguments are checked against them and `query-qmp-schema` is made of
//! them, so that it cannot say anything else than what holds.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::error::Error;

/// A type of QAPI.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// A string.
    Str,
    /// A signed 64-bit integer.
    Int,
    /// A number, integer or not.
    Number,
    /// A boolean.
    Bool,
    /// Anything.
    Any,
    /// An array.
    Array(&'static Type),
    /// One of some strings: the type's name and the strings.
    Enum(&'static str, &'static [&'static str]),
    /// An object.
    Object(&'static Object),
}

/// A type of objects.
#[derive(Debug)]
pub struct Object {
    /// Its name, which no client may rely on.
    pub name: &'static str,
    /// The members that each object may have.
    pub members: &'static [Member],
    /// For a union: the name of the member that says which further members there are, with its values.
    pub variants: Option<(&'static str, &'static [(&'static str, &'static Object)])>,
}

/// A member of an object.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub of: Type,
    /// Whether it may be left out.
    pub optional: bool,
}

/// A member that must be there.
pub const fn needs(name: &'static str, of: Type) -> Member {
    Member { name, of, optional: false }
}

/// A member that may be left out.
pub const fn may(name: &'static str, of: Type) -> Member {
    Member { name, of, optional: true }
}

/// A plain object type.
pub const fn object(name: &'static str, members: &'static [Member]) -> Object {
    Object { name, members, variants: None }
}

/// Arguments or data of what has none.
pub static NOTHING: Object = object("q_empty", &[]);

impl Type {
    /// What a value of this type is, for people.
    fn describe(self) -> String {
        match self {
            Self::Str => "a string".into(),
            Self::Enum(_, values) => format!("one of {}", values.join(", ")),
            Self::Int => "an integer".into(),
            Self::Number => "a number".into(),
            Self::Bool => "true or false".into(),
            Self::Any => "a value".into(),
            Self::Array(of) => format!("an array, of which each is {}", of.describe()),
            Self::Object(object) => {
                let members: Vec<_> = object.members.iter().map(|member| member.name).collect();
                format!("an object with the members {}", members.join(", "))
            }
        }
    }

    /// Whether `value` is of this type; the error names the place `at`.
    pub fn check(self, value: &Value, at: &str) -> Result<(), Error> {
        let fits = match (self, value) {
            (Self::Any, _) | (Self::Str, Value::String(_)) | (Self::Bool, Value::Bool(_)) => true,
            (Self::Number, Value::Number(_)) => true,
            (Self::Int, Value::Number(number)) => number.is_i64() || number.is_u64(),
            (Self::Enum(_, values), Value::String(text)) => {
                if !values.contains(&text.as_str()) {
                    let values = values.join(", ");
                    return Err(Error::generic(format_args!(
                        "{at}: no value '{text}'; give one of {values}"
                    )));
                }
                true
            }
            (Self::Array(of), Value::Array(items)) => {
                return items.iter().try_for_each(|item| of.check(item, at));
            }
            (Self::Object(object), Value::Object(members)) => return object.check(members, at),
            _ => false,
        };
        if fits {
            return Ok(());
        }
        Err(Error::generic(format_args!("{at}: give {}", self.describe())))
    }
}

impl Object {
    /// Whether `members` make an object of this type; the error names the place, whose parent is `at`.
    pub fn check(&self, members: &Map<String, Value>, at: &str) -> Result<(), Error> {
        let chosen = self.variants.and_then(|(tag, variants)| {
            let value = members.get(tag)?.as_str()?;
            variants.iter().find(|(name, _)| *name == value).map(|(_, object)| *object)
        });
        let all = || self.members.iter().chain(chosen.iter().flat_map(|object| object.members));
        let place = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
        for (name, value) in members {
            match all().find(|member| member.name == name) {
                Some(member) => member.of.check(value, &place(name))?,
                None => {
                    let known: Vec<_> = all().map(|member| member.name).collect();
                    let known = if known.is_empty() { "nothing".into() } else { known.join(", ") };
                    let unknown = place(name);
                    return Err(Error::generic(format_args!("{unknown}: unknown here; known is {known}")));
                }
            }
        }
        match all().find(|member| !member.optional && !members.contains_key(member.name)) {
            Some(missing) => Err(Error::generic(format_args!(
                "{}: missing; give {}",
                place(missing.name),
                missing.of.describe()
            ))),
            None => Ok(()),
        }
    }
}

/// Collects the entries of `query-qmp-schema`.
#[derive(Debug, Default)]
pub struct Schema {
    entries: Vec<Value>,
    /// Types by name.
    types: BTreeMap<String, Value>,
}

impl Schema {
    /// Adds a command.
    pub fn command(&mut self, name: &str, arguments: &'static Object, returns: Type, oob: bool) {
        let (arg, ret) = (self.add_object(arguments), self.add(returns));
        let mut entry = json!({"meta-type": "command", "name": name, "arg-type": arg, "ret-type": ret});
        if oob {
            entry["allow-oob"] = true.into();
        }
        self.entries.push(entry);
    }

    /// Adds an event.
    pub fn event(&mut self, name: &str, data: &'static Object) {
        let data = self.add_object(data);
        self.entries.push(json!({"meta-type": "event", "name": name, "arg-type": data}));
    }

    /// Everything, commands and events first.
    pub fn into_value(mut self) -> Value {
        self.entries.extend(self.types.into_values());
        Value::Array(self.entries)
    }

    /// Adds a type and what it refers to; its name.
    fn add(&mut self, of: Type) -> String {
        let builtin = |json: &str| json!({"meta-type": "builtin", "json-type": json});
        let (name, entry) = match of {
            Type::Object(object) => return self.add_object(object),
            Type::Str => ("str".into(), builtin("string")),
            Type::Int => ("int".into(), builtin("int")),
            Type::Number => ("number".into(), builtin("number")),
            Type::Bool => ("bool".into(), builtin("boolean")),
            Type::Any => ("any".into(), builtin("value")),
            Type::Array(of) => {
                let element = self.add(*of);
                (format!("[{element}]"), json!({"meta-type": "array", "element-type": element}))
            }
            Type::Enum(name, values) => {
                let members: Vec<_> = values.iter().map(|value| json!({"name": value})).collect();
                (name.into(), json!({"meta-type": "enum", "members": members, "values": values}))
            }
        };
        self.insert(&name, entry);
        name
    }

    fn add_object(&mut self, object: &'static Object) -> String {
        if self.types.contains_key(object.name) {
            return object.name.into();
        }
        // Before its members, which may refer back to it.
        self.types.insert(object.name.into(), Value::Null);
        let mut members = Vec::new();
        for member in object.members {
            let mut entry = json!({"name": member.name, "type": self.add(member.of)});
            if member.optional {
                entry["default"] = Value::Null;
            }
            members.push(entry);
        }
        let mut entry = json!({"meta-type": "object", "members": members});
        if let Some((tag, variants)) = object.variants {
            let case =
                |(value, of): &(&str, &'static Object)| json!({"case": value, "type": self.add_object(of)});
            let variants: Vec<_> = variants.iter().map(case).collect();
            entry["tag"] = tag.into();
            entry["variants"] = variants.into();
        }
        self.types.remove(object.name);
        self.insert(object.name, entry);
        object.name.into()
    }

    fn insert(&mut self, name: &str, mut entry: Value) {
        entry["name"] = name.into();
        let before = self.types.insert(name.to_owned(), entry.clone());
        assert!(before.is_none_or(|before| before == entry), "two types are called {name}");
    }
}
