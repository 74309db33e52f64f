//! What surrounds the program: `check-config`, the configuration's schema, completions in real shells, manual pages, and what
//! the documents say of the management socket.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::{Value, json};
use tempfile::TempDir;

mod program;

/// Exit status, standard output, standard error.
fn adjunct(words: &[&str]) -> (Option<i32>, String, String) {
    let output = program::command().args(words).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The output of a program that this machine may not have.
fn foreign(program: &str, arguments: &[&str]) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|directory| directory.join(program).is_file()) {
        println!("skipped: this machine has no {program}");
        return None;
    }
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{program}: {}: {errors}", output.status);
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A kernel that can be started: a branch to itself behind a short PSW.
fn kernel(directory: &Path) -> String {
    let mut image = vec![0; 0x1000];
    image[..8].copy_from_slice(&0x0008_0000_8000_0200u64.to_be_bytes());
    image[0x200..0x204].copy_from_slice(&[0xa7, 0xf4, 0, 0]);
    let path = directory.join("kernel");
    fs::write(&path, image).unwrap();
    path.display().to_string()
}

#[test]
fn configurations() {
    let directory = TempDir::new().unwrap();
    let kernel = kernel(directory.path());
    let file = directory.path().join("guest.json");
    let path = file.display().to_string();
    let check = |config: Value, status: i32, out: &str, err: &str| {
        fs::write(&file, config.to_string()).unwrap();
        let (code, said, complained) = adjunct(&["check-config", &path]);
        assert_eq!((code, said.as_str()), (Some(status), out), "{config}: {complained}");
        assert!(complained.contains(err) && complained.lines().count() <= 1, "{config}: {complained}");
        if status != 0 {
            // A guest is refused for the same reason, before it runs.
            let run = adjunct(&["run", "--config", &path, "--console", "none"]);
            assert!(run.0 == Some(2) && run.2.contains(err), "{config}: {run:?}");
        }
    };
    let mdev = "62177883-f1bb-47f0-914d-32a22e3a8804";
    check(json!({"kernel": kernel, "memory": "1M", "ap-mdev": mdev}), 0, &format!("{path}: good\n"), "");
    check(json!({"kernel": kernel, "memroy": "1M"}), 2, "", "memroy");
    check(json!({"kernel": kernel, "memory": "1Q"}), 2, "", "memory");
    check(json!({"kernel": kernel, "cpus": 0}), 2, "", "cpus");
    check(json!({"kernel": kernel, "cpu-model": "z99"}), 2, "", "no model 'z99'");
    check(json!({"kernel": kernel, "ap-mdev": "00000000-0000-0000-0000-000000000001"}), 2, "", "--ap-mdev");
    check(json!([]), 2, "", "guest.json");
    check(json!({"kernel": kernel, "cpus": null}), 2, "", "null is no value");
    // The same socket in other words.
    let twice = ["unix:/run/a", "unix:/run//a,server=on"];
    check(json!({"kernel": kernel, "qmp": twice}), 2, "", "/run/a is that of another --qmp already");
    // What only starting finds out otherwise.
    for (config, err) in [
        (json!({"kernel": "/nonexistent"}), "/nonexistent"),
        (json!({"kernel": kernel, "pidfile": "/nonexistent/pid"}), "/nonexistent is no directory"),
    ] {
        fs::write(&file, config.to_string()).unwrap();
        let (code, _, complained) = adjunct(&["check-config", &path]);
        assert!(code == Some(2) && complained.contains(err), "{config}: {complained}");
    }
    let (code, _, complained) = adjunct(&["check-config", "/nonexistent.json"]);
    assert!(code == Some(2) && complained.contains("/nonexistent.json"), "{complained}");
}

/// Whether a value is of a schema, as far as ours go.
fn fits(schema: &Value, root: &Value, value: &Value) -> bool {
    let Some(schema) = schema.as_object() else { return schema.as_bool().unwrap() };
    let length = |bound: &Value, good: fn(u64, u64) -> bool| {
        value.as_str().is_none_or(|text| good(text.chars().count() as u64, bound.as_u64().unwrap()))
    };
    let is = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("the type {other} in the schema"),
    };
    let array = |of: &Value| of.as_array().unwrap().clone();
    schema.iter().all(|(key, of)| match key.as_str() {
        "$schema" | "$defs" | "title" | "description" | "format" | "default" | "then" => true,
        "$ref" => fits(root.pointer(of.as_str().unwrap().trim_start_matches('#')).unwrap(), root, value),
        "type" => is(of),
        "const" => of == value,
        "enum" => array(of).contains(value),
        "pattern" => {
            value.as_str().is_none_or(|text| Regex::new(of.as_str().unwrap()).unwrap().is_match(text))
        }
        "minLength" => length(of, |length, bound| length >= bound),
        "maxLength" => length(of, |length, bound| length <= bound),
        "minimum" => value.as_f64().is_none_or(|number| number >= of.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|number| number <= of.as_f64().unwrap()),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| fits(of, root, item))),
        "uniqueItems" => value
            .as_array()
            .is_none_or(|items| items.iter().enumerate().all(|(at, item)| !items[..at].contains(item))),
        "required" => value
            .as_object()
            .is_none_or(|members| array(of).iter().all(|name| members.contains_key(name.as_str().unwrap()))),
        "properties" => value.as_object().is_none_or(|members| {
            members.iter().all(|(name, value)| of.get(name).is_none_or(|of| fits(of, root, value)))
        }),
        "additionalProperties" => {
            assert_eq!(*of, false);
            let known = &schema["properties"];
            value.as_object().is_none_or(|members| members.keys().all(|name| known.get(name).is_some()))
        }
        "allOf" => array(of).iter().all(|of| fits(of, root, value)),
        "oneOf" => array(of).iter().filter(|of| fits(of, root, value)).count() == 1,
        "not" => !fits(of, root, value),
        "if" => !fits(of, root, value) || fits(&schema["then"], root, value),
        other => panic!("{other} in the schema"),
    })
}

/// The schema takes what the program takes, and refuses what it refuses.
#[test]
fn the_schema_says_what_is_taken() {
    let directory = TempDir::new().unwrap();
    let kernel = kernel(directory.path());
    let file = directory.path().join("guest.json");
    let schema: Value = serde_json::from_str(&adjunct(&["config-schema"]).1).unwrap();
    let check = |config: &Value, good: bool| {
        assert_eq!(fits(&schema, &schema, config), good, "the schema: {config}");
        fs::write(&file, config.to_string()).unwrap();
        let (code, _, complained) = adjunct(&["check-config", file.to_str().unwrap()]);
        assert_eq!(code, Some(if good { 0 } else { 2 }), "check-config: {config}: {complained}");
    };
    let with = |members: Value| {
        let mut config = json!({"kernel": kernel, "memory": "1M"});
        config.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        config
    };
    let place = directory.path().display();
    let mdev = "62177883-f1bb-47f0-914d-32a22e3a8804";
    for good in [
        json!({}),
        json!({"cpus": 1, "icount": true, "accel": "engine"}),
        json!({"cpus": 240, "memory": "4T", "cpu-model": "z14"}),
        json!({"memory": "4096GiB"}),
        json!({"memory": "4194304m"}),
        json!({"memory": "0002048K"}),
        json!({"log": "WARN,vmm=debug", "log-format": "json", "log-file": format!("{place}/log")}),
        json!({"qmp": [format!("unix:{place}/a"), format!("unix:{place}/b,server=on,wait=off")]}),
        json!({"console": format!("unix:{place}/c"), "metrics": format!("file={place}/m")}),
        json!({"ap-mdev": mdev, "uuid": mdev.replace('-', ""), "name": "ä b"}),
        json!({"ap-mdev": format!("/sys/devices/vfio_ap/matrix/{mdev}"), "uuid": format!("{{{mdev}}}")}),
        json!({"ap": false, "shutdown-timeout": 0, "append": "", "watchdog-action": "none", "qmp": []}),
    ] {
        check(&with(good), true);
    }
    for bad in [
        json!({"cpus": 0}),
        json!({"cpus": 241}),
        json!({"cpus": 65_535}),
        json!({"cpus": -1}),
        json!({"cpus": 1.5}),
        json!({"cpus": "2"}),
        json!({"memory": 512}),
        json!({"memory": "512"}),
        json!({"memory": "0M"}),
        json!({"memory": "1X"}),
        json!({"memory": " 1G"}),
        json!({"memory": "5T"}),
        json!({"memory": "4097G"}),
        json!({"memory": "4194305M"}),
        json!({"memory": "100K"}),
        json!({"kernel": ""}),
        json!({"append": "a\u{0}b"}),
        json!({"accel": "tcg"}),
        json!({"cpu-model": "z99"}),
        json!({"ap": "yes"}),
        json!({"ap": false, "ap-mdev": mdev}),
        json!({"ap-mdev": "5"}),
        json!({"ap-mdev": "/dev/vfio/05"}),
        json!({"name": ""}),
        json!({"name": "x".repeat(256)}),
        json!({"name": "a\u{7}"}),
        json!({"uuid": "z"}),
        json!({"icount": true, "cpus": 2}),
        json!({"icount": true, "accel": "kvm"}),
        json!({"icount": true, "ap-host": "unix:a"}),
        json!({"log": "loud"}),
        json!({"log": "warn,"}),
        json!({"log-format": "xml"}),
        json!({"shutdown-timeout": -1}),
        json!({"shutdown-timeout": 4_294_967_296u64}),
        json!({"sandbox": "half"}),
        json!({"metrics": "tcp:1"}),
        json!({"console": "tty"}),
        json!({"console": "file="}),
        json!({"console": format!("unix:{}", "x".repeat(108))}),
        json!({"console-type": "3270"}),
        json!({"qmp": "unix:a"}),
        json!({"qmp": ["tcp:h"]}),
        json!({"qmp": ["unix:a,wait=on"]}),
        json!({"qmp": ["unix:a", "unix:a"]}),
        json!({"qmp": [null]}),
        json!({"watchdog-action": "explode"}),
        json!({"memroy": "1M"}),
    ] {
        check(&with(bad), false);
    }
    for name in schema["properties"].as_object().unwrap().keys() {
        check(&with(json!({name: null})), false);
    }
    check(&json!({"memory": "1M"}), false);
    check(&json!([]), false);
}

/// The schema that is printed, the one that packages install, and what the program takes are one.
#[test]
fn one_schema() {
    let directory = TempDir::new().unwrap();
    let place = directory.path().display().to_string();
    assert_eq!(adjunct(&["documents", &place]).0, Some(0));
    let (code, printed, _) = adjunct(&["config-schema"]);
    assert_eq!(code, Some(0));
    assert_eq!(fs::read_to_string(directory.path().join("config.schema.json")).unwrap(), printed);
    let schema: Value = serde_json::from_str(&printed).unwrap();
    let help = adjunct(&["run", "--help"]).1;
    let properties = schema["properties"].as_object().unwrap();
    assert!(properties.len() > 20);
    for name in properties.keys() {
        assert!(help.contains(&format!("--{name}")), "{name} is no flag");
    }
    // A name of the schema is taken (a value that is not of its type is the error), another is not.
    let file = directory.path().join("c.json");
    for (name, known) in properties.keys().map(|name| (name.as_str(), true)).chain([("nonsense", false)]) {
        fs::write(&file, json!({name: {"x": [null]}}).to_string()).unwrap();
        let (code, _, complained) = adjunct(&["check-config", file.to_str().unwrap()]);
        assert!(code == Some(2) && complained.contains("unknown field") != known, "{name}: {complained}");
    }
}

/// What ends with the test, however that ends.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The rows of a document's tables whose first cell is a name in quotes: the names in their second cell, and whether each may
/// be left out.
fn rows(document: &str) -> BTreeMap<&str, BTreeMap<&str, bool>> {
    let rows = document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        let members = cells.next()?.split(", ").filter_map(|member| {
            let (member, optional) = member.strip_suffix('?').map_or((member, false), |m| (m, true));
            Some((member.strip_prefix('`')?.strip_suffix('`')?, optional))
        });
        Some((name, members.collect()))
    });
    rows.collect()
}

/// Commands and events that QEMU does not have stand in docs/operate.md with what they take and tell, and no others do.
#[test]
fn commands_and_events_are_documented() {
    let document = include_str!("../../docs/operate.md");
    let mut documented = rows(document);
    documented.retain(|name, _| name.starts_with("x-") || name.starts_with("X_"));

    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("qmp").display().to_string();
    let kernel = kernel(directory.path());
    let mut run = program::command();
    run.args(["run", "--kernel", &kernel, "--memory", "1M", "--console", "none", "--qmp"]);
    let _guest = Guest(run.arg(format!("unix:{socket}")).stdin(Stdio::null()).spawn().unwrap());
    let end = Instant::now() + Duration::from_secs(120);
    let schema = loop {
        let (code, schema, errors) = adjunct(&["ctl", &socket, "query-qmp-schema", "--json"]);
        match code {
            Some(0) => break schema,
            // No connection, yet.
            Some(3) if Instant::now() < end => sleep(Duration::from_millis(50)),
            _ => panic!("{code:?}: {errors}"),
        }
    };
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let entries = schema.as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut checked = 0;
    for entry in entries {
        let name = text(&entry["name"]);
        let ours = name.starts_with("x-") && entry["meta-type"] == "command"
            || name.starts_with("X_") && entry["meta-type"] == "event";
        if !ours {
            continue;
        }
        let data = entries.iter().find(|of| of["name"] == entry["arg-type"]).unwrap();
        let members = data["members"].as_array().unwrap().iter();
        let members: BTreeMap<_, _> =
            members.map(|member| (text(&member["name"]), member.get("default").is_some())).collect();
        let row =
            documented.remove(name.as_str()).unwrap_or_else(|| panic!("{name} is not in docs/operate.md"));
        let row: BTreeMap<_, _> = row.into_iter().map(|(name, may)| (name.to_owned(), may)).collect();
        assert_eq!(row, members, "{name}: what docs/operate.md says, and what the schema says");
        checked += 1;
    }
    assert!(checked > 20, "{checked} commands and events");
    assert!(documented.is_empty(), "docs/operate.md has what does not exist: {documented:?}");

    // The way of a newcomer is in it, in all three manners, with what the guest shows.
    for shown in [
        "cargo xtask demo",
        "(QEMU) x-ap-assign-adapter",
        "(QEMU) device_add",
        "$ adjunct ctl qmp x-ap-assign-adapter",
        "$ adjunct ctl qmp2 device_add",
        "$ adjunct top qmp",
        "~ # lszcrypt",
        "0a.0004  CEX8P",
    ] {
        assert!(document.contains(shown), "docs/operate.md shows no {shown}");
    }
    for path in document.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let file = path.split('#').next().unwrap();
        let there = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file);
        assert!(file.is_empty() || there.is_file(), "docs/operate.md leads to {path}");
    }
}

#[test]
fn completions() {
    let directory = TempDir::new().unwrap();
    let write = |shell: &str| {
        let (code, script, errors) = adjunct(&["completions", shell]);
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{shell}");
        let path = directory.path().join(shell);
        fs::write(&path, script).unwrap();
        path.display().to_string()
    };
    let (bash, zsh, fish) = (write("bash"), write("zsh"), write("fish"));
    let complete = |words: &str, last: &str| {
        let count = words.split(' ').count();
        let script = format!(
            "source {bash}; COMP_WORDS=({words} {last}); COMP_CWORD={count}; COMPREPLY=(); \
             _adjunct adjunct '{last}' x; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        foreign("bash", &["--norc", "-c", &script])
    };
    for (words, last, want) in [
        ("adjunct", "ru", "run"),
        ("adjunct", "check", "check-config"),
        ("adjunct run", "--ap-m", "--ap-mdev"),
        ("adjunct ap", "--gu", "--guest"),
        ("adjunct ap-host serve", "--sand", "--sandbox"),
        ("adjunct ap mdev", "cr", "create"),
    ] {
        if let Some(text) = complete(words, last) {
            assert!(text.lines().any(|line| line == want), "{words} {last}: {text}");
        }
    }
    // The grammar of the shell, and what the shell itself completes.
    foreign("zsh", &["-n", &zsh]);
    foreign("fish", &["-n", &fish]);
    if let Some(text) = foreign("fish", &["-c", &format!("source {fish}; complete -C 'adjunct ru'")]) {
        assert!(text.lines().any(|line| line.starts_with("run")), "{text}");
    }
    let (code, _, errors) = adjunct(&["completions", "elvish"]);
    assert_eq!(
        (code, errors.as_str()),
        (Some(2), "adjunct: no completions for elvish; give bash, zsh or fish\n")
    );
}

/// There is a page for each subcommand of any depth, with its flags, and `man` finds nothing wrong with it.
#[test]
fn manual_pages() {
    let directory = TempDir::new().unwrap();
    assert_eq!(adjunct(&["documents", directory.path().to_str().unwrap()]).0, Some(0));
    let pages = directory.path().join("man1");
    for (page, text) in [
        ("adjunct.1", "check\\-config"),
        ("adjunct-run.1", "\\-\\-memory"),
        ("adjunct-ap.1", "\\-\\-guest"),
        ("adjunct-ap-mdev-create.1", "SYNOPSIS"),
        ("adjunct-ap-host-serve.1", "\\-\\-sandbox"),
        ("adjunct-ctl.1", "SYNOPSIS"),
    ] {
        let roff = fs::read_to_string(pages.join(page)).expect(page);
        assert!(roff.contains(text), "{text} in {page}");
    }
    for page in fs::read_dir(&pages).unwrap() {
        let page = page.unwrap().path();
        let Some(text) = foreign("man", &["--warnings", "-l", page.to_str().unwrap()]) else { return };
        assert!(text.contains("SYNOPSIS"), "{}: {text}", page.display());
    }
}
