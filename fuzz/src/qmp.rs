//! What management clients send: the stream of JSON, and the commands in it on a machine whose CPUs stand still.

use machine::{HostClock, Storage};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;
use vmm::devices::{Attachment, Connections, CryptoSource, Devices};
use vmm::qmp::json::{DEEPEST, LONGEST, Stream};
use vmm::qmp::{About, Conversation, LONGEST_LINE};
use vmm::{Board, Boot, Control, Identity, Options, Output, Parts, WatchdogAction};

/// Longer inputs only take longer; commands of up to [`LONGEST`] bytes are the stream's affair.
const LIMIT: usize = 4 << 10;

/// What comes out of a stream that is fed `size` bytes at a time.
fn values(input: &[u8], size: usize) -> Vec<Result<Value, String>> {
    let (mut stream, mut values) = (Stream::default(), Vec::new());
    for chunk in input.chunks(size) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let count = rest.len().min(stream.room());
            assert!(count > 0, "no room after everything was taken");
            stream.feed(&rest[..count]);
            rest = &rest[count..];
            while let Some(value) = stream.take() {
                values.push(value.map_err(|fault| fault.to_string()));
            }
        }
        assert!(stream.position() <= stream.fed());
    }
    values
}

fn depth(value: &Value) -> u32 {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The same values come out however the bytes are cut.
pub fn stream(input: &[u8]) {
    if input.len() > 4 * LONGEST {
        return;
    }
    let whole = values(input, input.len().max(1));
    for size in [1, 7] {
        assert_eq!(values(input, size), whole, "{size} bytes at a time");
    }
    for value in whole.iter().flatten() {
        assert!(value.is_object() || value.is_array());
        assert!(depth(value) <= DEEPEST, "too deep: {value}");
    }
    // Byte FF starts anew, whatever came before.
    let command = json!({"execute": "query-name"});
    let more = [input, b"\xff", command.to_string().as_bytes()].concat();
    assert_eq!(values(&more, more.len()).pop(), Some(Ok(command)));
}

pub fn stream_seeds() -> Vec<Vec<u8>> {
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels)).into_bytes();
    vec![
        b"{'execute': 'qmp_capabilities'}{\"execute\": \"query-name\", \"id\": [1, 1.5e3, null, \"\\u0041\"]}\n".to_vec(),
        b"{\"a\": {\"b\": [true, false, -1]}} \xff {\"a\": \"\\\"}\"}{\"a\":1,\"a\":2}".to_vec(),
        deep(32),
        deep(33),
        b"junk {\"a\": \"cut\n\"} ]".to_vec(),
    ]
}

/// A machine with AP or without, on which nothing runs.
fn board(ap: bool) -> Board {
    // Nothing is loaded, but a regular file is asked for, and this program is one.
    let kernel = std::env::current_exe().expect("a program has a file");
    let options = Options { kernel: Some(kernel.clone()), ap: ap.then_some(true), ..Options::default() };
    let config = options.resolve().expect("the configuration is good");
    let storage = Arc::new(Storage::new(1 << 20).expect("one MiB"));
    let clock = Arc::new(HostClock::new());
    let model = cpu::CpuModel::named("max").expect("every program has it").with_ap(ap);
    let facilities = model.facilities;
    let vm = Arc::new(cpu::Machine::new(storage.clone(), clock.clone(), model, 2));
    let source = Attachment::of(&config).expect("the built-in host");
    let source = source.map_or(CryptoSource::None, CryptoSource::Simulated);
    let to = Connections {
        storage: storage.clone(),
        vm: vm.clone(),
        clock: clock.clone(),
        facilities,
        output: Output::new(Box::new(std::io::sink())).expect("a thread"),
        vfio: None,
    };
    let devices = Devices::new(&config, source, to).expect("cards without hardware");
    let control = Arc::new(Control::new(vm.clone()).expect("a descriptor"));
    Board::new(Parts {
        storage,
        vm,
        clock,
        devices,
        control,
        boot: Boot::open(&kernel, None, "").expect("a file that is there"),
        identity: Identity { name: "fuzz".into(), uuid: Uuid::nil(), machine_type: 0x3906, cpus: 2 },
        watchdog_action: WatchdogAction::Reset,
        disassemble: cpu::table::disassemble,
    })
    .expect("a timer")
}

/// Byte 0: its last bit a machine with AP, the one before negotiation first, the others how many bytes are sent at once. What
/// follows is sent.
pub fn commands(input: &[u8]) {
    let Some((how, bytes)) = input.split_first() else { return };
    if bytes.len() > LIMIT {
        return;
    }
    let board = board(how & 1 != 0);
    let mut client = Conversation::new(&board, About::default());
    let mut output = client.read();
    let mut say = |mut bytes: &[u8]| {
        let end = Instant::now() + Duration::from_secs(120);
        while !bytes.is_empty() {
            let count = client.send(bytes);
            bytes = &bytes[count..];
            output.extend(client.read());
            while !client.settle() {
                assert!(Instant::now() < end, "a command is not answered");
                std::thread::sleep(Duration::from_micros(50));
            }
            output.extend(client.read());
        }
    };
    if how & 2 != 0 {
        say(br#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#);
    }
    let size = usize::from(how >> 2).max(1) * 8;
    bytes.chunks(size).for_each(&mut say);
    // Whatever came, the client can begin anew.
    say(b"\xff{\"execute\":\"query-name\",\"id\":\"the last\"}");

    let text = String::from_utf8(output).expect("JSON is UTF-8");
    let mut last = Value::Null;
    for (n, line) in text.split_terminator("\r\n").enumerate() {
        assert!(line.len() + 2 <= LONGEST_LINE && !line.contains(['\r', '\n']), "a line of {}", line.len());
        let value: Value = serde_json::from_str(line).expect("a line is JSON");
        assert_eq!(n == 0, value.get("QMP").is_some(), "a greeting, and only first: {line}");
        match value.get("event") {
            Some(event) => assert!(event.is_string() && value["timestamp"]["seconds"].is_u64(), "{line}"),
            None if n > 0 => {
                let kinds = [value.get("return"), value.get("error")];
                assert_eq!(kinds.iter().flatten().count(), 1, "{line}");
                if let Some(error) = value.get("error") {
                    assert!(error["class"].is_string(), "{line}");
                    assert!(error["desc"].as_str().is_some_and(|text| !text.is_empty()), "{line}");
                }
                last = value;
            }
            None => {}
        }
    }
    assert_eq!(last["id"], "the last", "{text}");
}

pub fn command_seeds() -> Vec<Vec<u8>> {
    let mdev = "62177883-f1bb-47f0-914d-32a22e3a8804";
    let add = json!({"driver": "vfio-ap", "id": "ap0", "sysfsdev": mdev});
    let all: &[&[Value]] = &[
        &[json!({"execute": "query-qmp-schema"}), json!({"exec-oob": "query-status", "id": 7})],
        &[
            json!({"execute": "x-subscribe", "arguments": {"events": ["*"]}}),
            json!({"execute": "device_add", "arguments": add}),
            json!({"execute": "x-query-ap", "arguments": {"all": true}}),
            json!({"execute": "x-ap-assign-adapter", "arguments": {"adapter": "0x0a"}}),
            json!({"execute": "x-ap-unassign-domain", "arguments": {"domain": 4}}),
            json!({"execute": "device_del", "arguments": {"id": "ap0"}}),
        ],
        &[
            json!({"execute": "x-ap-create-mdev", "arguments": {"mdev": "11111111-2222-3333-4444-555555555555"}}),
            json!({"execute": "x-ap-unbind", "arguments": {"queue": "05.0004"}}),
            json!({"execute": "x-ap-bind", "arguments": {"queue": "05.0004", "driver": "vfio_ap"}}),
            json!({"execute": "x-ap-write-mask", "arguments": {"mask": "apmask", "value": "-7"}}),
            json!({"execute": "x-ap-plan", "arguments": {"operation": {"operation": "scan"}}}),
            json!({"execute": "x-query-ap-host", "arguments": {"from": 2}}),
        ],
        &[
            json!({"execute": "stop"}),
            json!({"execute": "query-cpus-fast"}),
            json!({"execute": "cont"}),
            json!({"execute": "system_reset"}),
            json!({"execute": "system_powerdown"}),
            json!({"execute": "inject-nmi"}),
            json!({"execute": "human-monitor-command", "arguments": {"command-line": "info status"}}),
        ],
        &[
            json!({"execute": "getfd", "arguments": {"fdname": "a"}}),
            json!({"execute": "add-fd", "arguments": {"fdset-id": 1}}),
            json!({"execute": "qom-list", "arguments": {"path": "/machine/unattached"}}),
            json!({"execute": "device-list-properties", "arguments": {"typename": "vfio-ap"}}),
            json!({"execute": "quit"}),
            json!({"execute": "query-status"}),
        ],
    ];
    let text = |commands: &[Value]| commands.iter().map(Value::to_string).collect::<String>().into_bytes();
    let with = |how: u8| move |commands: &&[Value]| [vec![how], text(commands)].concat();
    all.iter().map(with(0xff)).chain(all.iter().take(1).map(with(0x12))).collect()
}
