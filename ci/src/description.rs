//! What the built-in simulated AP host says a guest must find, read from its description.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The description's file, in the workspace.
const FILE: &str = "devices/ap/src/host/builtin.json";

/// A queue and the type of its card.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queue {
    /// Name as in the guest's sysfs: `05.0004`.
    pub name: String,
    /// Type as `lszcrypt` prints it: `CEX8C`.
    pub kind: String,
}

impl Queue {
    /// Whether the card computes RSA for `/dev/z90crypt`.
    pub fn computes_rsa(&self) -> bool {
        self.kind.ends_with(['A', 'C'])
    }
}

/// A sysfs attribute and what has to stand in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// Card or queue, as in sysfs: `card0a`, `0a.0047`.
    pub object: String,
    /// Its name.
    pub name: String,
    /// Texts that occur in it.
    pub holds: Vec<String>,
}

/// What the guest that owns one mediated device must find.
#[derive(Debug)]
pub struct Expected {
    /// Its queues, in order.
    pub queues: Vec<Queue>,
    /// Attributes that the cards themselves answer.
    pub attributes: Vec<Attribute>,
}

/// Reads what the guest with `mdev` must find.
pub fn expected(workspace: &Path, mdev: &str) -> Result<Expected> {
    let path = workspace.join(FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    parse(&text, mdev).with_context(|| format!("{}: mdev {mdev}", path.display()))
}

fn parse(text: &str, mdev: &str) -> Result<Expected> {
    let host: Value = serde_json::from_str(text)?;
    let attributes = host["mdevs"][mdev]["attrs"].as_array().context("no such mdev")?;
    let assigned = |name: &str| -> Result<Vec<u64>> {
        attributes.iter().filter_map(|a| a.get(name)).map(|v| number(v).context("a number")).collect()
    };
    let domains = assigned("assign_domain")?;
    let mut found = Expected { queues: Vec::new(), attributes: Vec::new() };
    for apid in assigned("assign_adapter")? {
        let adapters = host["adapters"].as_array().context("no adapters")?;
        let card =
            adapters.iter().find(|a| number(&a["adapter"]) == Some(apid)).context("an unknown adapter")?;
        let kind = card["type"].as_str().context("an adapter without a type")?;
        let card_name = format!("card{apid:02x}");
        let mut expect = |object: &str, name: &str, holds: Vec<String>| {
            found.attributes.push(Attribute { object: object.to_owned(), name: name.to_owned(), holds })
        };
        if let Some(serial) = card["serial"].as_str() {
            expect(&card_name, "serialnr", vec![serial.to_owned()]);
        }
        if let Some(ep11) = card.get("ep11") {
            let ordinal = ep11["api_ordinal"].as_u64().context("api_ordinal")?;
            expect(&card_name, "API_ordinalnr", vec![ordinal.to_string()]);
            expect(
                &card_name,
                "FW_version",
                vec![ep11["firmware_version"].as_str().context("version")?.to_owned()],
            );
            let modes = ep11["op_modes"].as_array().context("op_modes")?;
            let modes = modes.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            expect(&card_name, "op_modes", modes);
        }
        for domain in &domains {
            let name = format!("{apid:02x}.{domain:04x}");
            let mut patterns = Vec::new();
            valid_patterns(&card["master_keys"], &mut patterns);
            valid_patterns(&card["ep11"]["wrapping_keys"], &mut patterns);
            if !patterns.is_empty() {
                expect(&name, "mkvps", patterns);
            }
            found.queues.push(Queue { name, kind: kind.to_owned() });
        }
    }
    ensure!(!found.queues.is_empty(), "no queue is assigned");
    found.queues.sort();
    Ok(found)
}

/// A number as sysfs takes it: decimal, or hexadecimal with 0x.
fn number(value: &Value) -> Option<u64> {
    let text = value.as_str()?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The verification patterns of valid keys, wherever they stand below `value`.
fn valid_patterns(value: &Value, found: &mut Vec<String>) {
    for (name, inner) in value.as_object().into_iter().flatten() {
        match inner.as_str() {
            Some(pattern) if name == "valid" => found.push(pattern.to_owned()),
            _ => valid_patterns(inner, found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = r#"{
        "adapters": [
            {"adapter": "0x05", "type": "CEX8C", "serial": "S5",
             "master_keys": {"aes": {"new": "empty", "current": {"valid": "0x6d"}}}},
            {"adapter": "0x0a", "type": "CEX8P", "serial": "SA",
             "ep11": {"api_ordinal": 6, "firmware_version": "8.4", "op_modes": ["FIPS2011", "BSI2011"],
                      "wrapping_keys": {"current": {"valid": "0x3a"}}}}],
        "mdevs": {"m": {"attrs": [
            {"assign_adapter": "0xa"}, {"assign_adapter": "5"}, {"assign_domain": "0xab"}]}}}"#;

    #[test]
    fn queues_and_attributes_follow_from_the_description() {
        let expected = parse(HOST, "m").unwrap();
        let queue = |name: &str, kind: &str| Queue { name: name.into(), kind: kind.into() };
        assert_eq!(expected.queues, [queue("05.00ab", "CEX8C"), queue("0a.00ab", "CEX8P")]);
        let rsa: Vec<bool> = expected.queues.iter().map(Queue::computes_rsa).collect();
        assert_eq!(rsa, [true, false]);
        let check = |object: &str, name: &str, holds: &[&str]| {
            let found = expected.attributes.iter().find(|a| a.object == object && a.name == name);
            assert_eq!(found.unwrap().holds, holds, "{object} {name}");
        };
        check("card05", "serialnr", &["S5"]);
        check("05.00ab", "mkvps", &["0x6d"]);
        check("card0a", "API_ordinalnr", &["6"]);
        check("card0a", "FW_version", &["8.4"]);
        check("card0a", "op_modes", &["FIPS2011", "BSI2011"]);
        check("0a.00ab", "mkvps", &["0x3a"]);
        assert_eq!(expected.attributes.len(), 7);
    }

    #[test]
    fn an_unknown_mdev_is_an_error() {
        assert!(parse(HOST, "n").is_err());
    }
}
