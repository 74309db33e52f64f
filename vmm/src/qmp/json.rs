//! JSON values out of a stream of bytes, without relying on lines: clients end commands with anything or
//! nothing.
//!
//! Memory is bounded: a value that gets too long or too deep is one [`Fault`], and the rest of it is skipped.

use std::collections::VecDeque;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Longest command in bytes.
pub const LONGEST: usize = 64 << 10;
/// Most objects and arrays inside one another.
pub const DEEPEST: u32 = 32;

/// Why bytes are no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// More than [`LONGEST`] bytes.
    #[error("a command of more than {LONGEST} bytes; send a shorter one")]
    TooLong,
    /// More than [`DEEPEST`] levels.
    #[error("a command with more than {DEEPEST} levels of objects and arrays; send a flatter one")]
    TooDeep,
    /// Something else than an object between commands.
    #[error("bytes that begin no JSON object; send a command like {{\"execute\": \"query-status\"}}")]
    Junk,
    /// A line ends inside a string.
    #[error("a JSON string that its line cuts off; write the end of a line as \\n")]
    BrokenString,
    /// Byte FF, by which a client starts anew, inside a command.
    #[error("a command that the byte FF cuts off; send it again")]
    Cut,
    /// No JSON, or an object with one name twice.
    #[error("no JSON: {0}")]
    Syntax(String),
}

/// Splits bytes into JSON objects and arrays.
///
/// Strings may be in single quotes too, as QEMU allows. Byte FF, which no JSON text has, starts anew.
#[derive(Debug, Default)]
pub struct Stream {
    raw: VecDeque<u8>,
    /// Bytes taken out of `raw` since the beginning.
    position: u64,
    value: Vec<u8>,
    depth: u32,
    /// The quotation mark of the string that the stream is in.
    string: Option<u8>,
    escaped: bool,
    /// The value had a fault already: its rest is not kept.
    skipping: bool,
    /// Junk between commands was reported already.
    junk: bool,
}

impl Stream {
    /// How many bytes [`feed`](Self::feed) takes now.
    pub fn room(&self) -> usize {
        LONGEST - self.raw.len().min(LONGEST)
    }

    /// Takes bytes, of which there must be [`room`](Self::room).
    pub fn feed(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room());
        self.raw.extend(bytes);
    }

    /// Bytes consumed by what [`take`](Self::take) has returned.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes fed since the beginning.
    pub fn fed(&self) -> u64 {
        self.position + self.raw.len() as u64
    }

    /// The next value, or what is wrong with it; `None` when more bytes are needed.
    pub fn take(&mut self) -> Option<Result<Value, Fault>> {
        while let Some(byte) = self.raw.pop_front() {
            self.position += 1;
            match self.step(byte) {
                Ok(false) => {}
                Ok(true) => return Some(parse(&std::mem::take(&mut self.value))),
                Err(fault) => return Some(Err(fault)),
            }
        }
        None
    }

    /// Takes one byte; true when it ends a value.
    fn step(&mut self, byte: u8) -> Result<bool, Fault> {
        if byte == 0xff {
            return self.cut(Fault::Cut);
        }
        if self.depth == 0 {
            return self.between(byte);
        }
        match (self.string, byte) {
            (Some(_), b'\n') => return self.cut(Fault::BrokenString),
            (Some(quote), _) => self.in_string(quote, byte),
            (None, b'"' | b'\'') => {
                self.string = Some(byte);
                self.value.push(b'"');
            }
            (None, b'{' | b'[') => {
                self.depth += 1;
                self.value.push(byte);
                if self.depth > DEEPEST && !self.skipping {
                    return Err(self.skip(Fault::TooDeep));
                }
            }
            (None, b'}' | b']') => {
                self.depth -= 1;
                self.value.push(byte);
                if self.depth == 0 && !std::mem::take(&mut self.skipping) {
                    return Ok(true);
                }
            }
            (None, _) => self.value.push(byte),
        }
        if self.skipping {
            self.value.clear();
        } else if self.value.len() > LONGEST {
            return Err(self.skip(Fault::TooLong));
        }
        Ok(false)
    }

    fn between(&mut self, byte: u8) -> Result<bool, Fault> {
        match byte {
            b'{' | b'[' => {
                self.value = vec![byte];
                (self.depth, self.junk) = (1, false);
            }
            b'\n' => self.junk = false,
            b' ' | b'\t' | b'\r' => {}
            _ if self.junk => {}
            _ => {
                self.junk = true;
                return Err(Fault::Junk);
            }
        }
        Ok(false)
    }

    fn in_string(&mut self, quote: u8, byte: u8) {
        match byte {
            // Not an escape of JSON's, but of single quotes.
            b'\'' if self.escaped => self.value.push(byte),
            _ if self.escaped => self.value.extend([b'\\', byte]),
            b'\\' => {
                self.escaped = true;
                return;
            }
            _ if byte == quote => {
                self.string = None;
                self.value.push(b'"');
            }
            b'"' => self.value.extend(b"\\\""),
            _ => self.value.push(byte),
        }
        self.escaped = false;
    }

    /// Forgets the value, and skips its rest.
    fn skip(&mut self, fault: Fault) -> Fault {
        self.value = Vec::new();
        self.skipping = true;
        fault
    }

    /// Forgets the value and stands between commands again.
    fn cut(&mut self, fault: Fault) -> Result<bool, Fault> {
        let lost = self.depth > 0 && !self.skipping;
        *self = Self { raw: std::mem::take(&mut self.raw), position: self.position, ..Self::default() };
        if lost { Err(fault) } else { Ok(false) }
    }
}

/// Parses one value.
fn parse(bytes: &[u8]) -> Result<Value, Fault> {
    serde_json::from_slice::<Unique>(bytes).map(|Unique(value)| value).map_err(|e| {
        // Where it stands in a stream without lines helps nobody.
        let text = e.to_string();
        Fault::Syntax(text.split(" at line ").next().unwrap_or_default().to_owned())
    })
}

/// A value whose objects name each member once.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Unique(value))) = members.next_entry::<String, Unique>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the name {name:?} is there twice")));
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// What comes of `bytes`, given `chunk` at a time.
    fn all(bytes: &[u8], chunk: usize) -> Vec<Result<Value, Fault>> {
        let mut stream = Stream::default();
        let mut found = Vec::new();
        for part in bytes.chunks(chunk.max(1)) {
            stream.feed(part);
            while let Some(next) = stream.take() {
                found.push(next);
            }
            assert!(stream.value.len() <= LONGEST + 2 && stream.room() == LONGEST);
        }
        assert_eq!(stream.position(), bytes.len() as u64);
        found
    }

    #[track_caller]
    fn check(bytes: &[u8], want: &[Result<Value, Fault>]) {
        for chunk in [1, 3, 4096] {
            assert_eq!(all(bytes, chunk), want, "{:?} by {chunk}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn values() {
        check(b"", &[]);
        check(b" \r\n{} {\"a\":[1,{}]}\n", &[Ok(json!({})), Ok(json!({"a": [1, {}]}))]);
        check(b"{\"a\":\"}{\\\"\\\\\"}{}", &[Ok(json!({"a": "}{\"\\"})), Ok(json!({}))]);
        check(b"{\n\"a\"\n:\n1}", &[Ok(json!({"a": 1}))]);
        check(b"{'a\"b':'it\\'s','c':\"it's\"}", &[Ok(json!({"a\"b": "it's", "c": "it's"}))]);
        check(b"[1,-2,1.5,true,null]", &[Ok(json!([1, -2, 1.5, true, null]))]);
        check("{\"ä\":\"€\"}".as_bytes(), &[Ok(json!({"ä": "€"}))]);
        check(b"\xff\xff{}\xff{}", &[Ok(json!({})), Ok(json!({}))]);
    }

    /// One fault each, and what comes after is understood.
    #[test]
    fn faults() {
        let syntax = |text: &str| Err(Fault::Syntax(text.into()));
        let good = || Ok(json!({"a": 1}));
        let with_good = |bytes: &[u8]| [bytes, b"\n{\"a\":1}"].concat();
        for (bytes, fault) in [
            (&b"hello, world"[..], Err(Fault::Junk)),
            (b"}", Err(Fault::Junk)),
            (b"5", Err(Fault::Junk)),
            (b"{\"a\":1,\"a\":2}", syntax("the name \"a\" is there twice")),
            (b"{\"b\":{\"c\":1,\"c\":1}}", syntax("the name \"c\" is there twice")),
            (b"{\"a\":}", syntax("expected value")),
            (b"{]", syntax("key must be a string")),
            (b"{\"a\":\"\xc3(\"}", syntax("invalid unicode code point")),
            (b"{\"a\":\"\\ud800\"}", syntax("unexpected end of hex escape")),
            (b"{\"a\":1e999}", syntax("number out of range")),
            (b"{\"a\":\"b", Err(Fault::BrokenString)),
            (b"{\"execute\":\"quit\xff", Err(Fault::Cut)),
            (&[b'['; 33], Err(Fault::TooDeep)),
        ] {
            let mut bytes = with_good(bytes);
            if fault == Err(Fault::TooDeep) {
                bytes = with_good(&[&[b'['; 33][..], b"\"]\"", &[b']'; 33]].concat());
            }
            check(&bytes, &[fault, good()]);
        }
        let long = [b"{\"a\":\"", &[b'x'; LONGEST][..], b"\"}"].concat();
        let longer = [b"{\"a\":[", &b"1,{},".repeat(LONGEST)[..], b"1]}"].concat();
        for bytes in [long, longer] {
            assert_eq!(all(&with_good(&bytes), 1000), [Err(Fault::TooLong), good()]);
        }
        let just = [b"{\"a\":\"", &[b'x'; LONGEST - 8][..], b"\"}"].concat();
        assert!(matches!(&all(&just, 1000)[..], [Ok(_)]));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z'\"\\\\{}]{0,4}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_sent_arrives(values in prop::collection::vec(json(), 0..5), chunk in 1usize..50) {
            let sent: Vec<_> = values.into_iter().map(|v| json!({"v": v})).collect();
            let bytes: String = sent.iter().map(Value::to_string).collect();
            let got: Vec<_> = all(bytes.as_bytes(), chunk).into_iter().map(Result::unwrap).collect();
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn any_bytes_are_harmless_and_ff_starts_anew(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..400),
                prop::collection::vec(prop::sample::select(b"{}[]\"'\\,:1a \n\xff".to_vec()), 0..400),
            ],
            chunk in 1usize..50,
        ) {
            let found = all(&bytes, chunk);
            prop_assert_eq!(&found, &all(&bytes, 1));
            prop_assert!(found.len() <= bytes.len());
            let again = [&bytes[..], b"\xff{\"a\":1}"].concat();
            prop_assert_eq!(all(&again, chunk).pop(), Some(Ok(json!({"a": 1}))));
        }
    }
}
