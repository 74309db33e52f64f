//! Every command, every bad SCCB, both consoles, and Linux's boot order, on a machine in memory.

use std::sync::{Arc, Mutex};

use machine::{Error, Exit, Floating, Operand, Outcome, Post, ResetKind, Storage, Vcpu, VcpuState};
use proptest::prelude::*;
use zarch::{AbsoluteAddress, IoInterruption, ProgramCode, ProgramInterruption, RealAddress};

use crate::events::INPUT_MAX;
use crate::spec::*;
use crate::*;

const AT: u64 = 0x10000;
const PREFIX: u64 = 0x4000;
const SIZE: u64 = 1 << 20;

#[derive(Default)]
struct Recorder {
    signals: Mutex<Vec<u32>>,
    text: Mutex<Vec<u8>>,
}

impl Recorder {
    fn take_signals(&self) -> Vec<u32> {
        std::mem::take(&mut self.signals.lock().unwrap())
    }

    fn take_text(&self) -> String {
        String::from_utf8(std::mem::take(&mut self.text.lock().unwrap())).unwrap()
    }
}

impl Post for Recorder {
    fn post(&self, interruption: Floating) {
        let Floating::ServiceSignal(parameter) = interruption else { panic!("{interruption:?}") };
        self.signals.lock().unwrap().push(parameter);
    }

    fn take_io(&self, _: u8) -> Option<IoInterruption> {
        None
    }

    fn clear(&self) {
        self.take_signals();
    }
}

impl ConsoleSink for Recorder {
    fn write(&self, bytes: &[u8]) {
        self.text.lock().unwrap().extend(bytes);
    }
}

impl ApConfigure for Mutex<Vec<(u8, bool)>> {
    fn set_configured(&self, apid: u8, configured: bool) -> ApConfigured {
        self.lock().unwrap().push((apid, configured));
        match apid {
            5 => ApConfigured::Done,
            6 => ApConfigured::Already,
            7 => ApConfigured::Refused,
            _ => ApConfigured::Unknown,
        }
    }
}

struct Guest {
    sclp: Sclp,
    storage: Storage,
    post: Recorder,
    line_mode: Arc<Recorder>,
    vt220: Arc<Recorder>,
}

impl Guest {
    fn with(config: Config, ap: Option<Arc<dyn ApConfigure>>) -> Self {
        let (line_mode, vt220) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
        let consoles = Consoles { line_mode: Some(line_mode.clone()), vt220: Some(vt220.clone()) };
        let sclp = Sclp::new(config, consoles, ap);
        Self { sclp, storage: Storage::new(SIZE).unwrap(), post: Recorder::default(), line_mode, vt220 }
    }

    fn new() -> Self {
        Self::with(Config::new(2), None)
    }

    /// Executes a command on an SCCB at AT and gives response code, SCCB and signal parameters.
    fn call(&self, command: u32, sccb: &[u8]) -> (u16, Vec<u8>, Vec<u32>) {
        self.storage.write(AbsoluteAddress(AT), sccb).unwrap();
        assert_eq!(
            self.sclp.service_call(command, RealAddress(AT), PREFIX, &self.storage, &self.post),
            Ok(0)
        );
        let header = self.storage.read_array::<8>(AbsoluteAddress(AT)).unwrap();
        let mut after = vec![0; usize::from(u16::from_be_bytes([header[0], header[1]])).min(4096)];
        self.storage.read(AbsoluteAddress(AT), &mut after).unwrap();
        (u16::from_be_bytes([header[6], header[7]]), after, self.post.take_signals())
    }

    fn set_masks(&self, receive: u64, send: u64) -> Vec<u32> {
        let (response, _, signals) = self.call(WRITE_EVENT_MASK, &masks(8, receive, send));
        assert_eq!(response, 0x0020);
        signals
    }

    fn read_events(&self) -> (u16, Vec<u8>, Vec<u32>) {
        self.call(READ_EVENT_DATA, &sccb(4096, [0, 0, 0, 0x80], &[]))
    }
}

/// An SCCB of `length` bytes with function code and control mask, then `data`, then zeros.
fn sccb(length: u16, control: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut bytes = [&length.to_be_bytes()[..], &control, &[0, 0], data].concat();
    bytes.resize(bytes.len().max(length.into()).min(4096), 0);
    bytes
}

/// An SCCB that is just as long as its data.
fn exact(control: [u8; 4], data: &[u8]) -> Vec<u8> {
    sccb(8 + data.len() as u16, control, data)
}

fn masks(length: u16, receive: u64, send: u64) -> Vec<u8> {
    let mut data = [&[0, 0][..], &length.to_be_bytes()].concat();
    for mask in [receive, send, 0, 0] {
        let mut bytes = mask.to_be_bytes().to_vec();
        bytes.resize(length.into(), 0);
        data.extend(bytes);
    }
    exact([0; 4], &data)
}

fn event_buffer(kind: u8, data: &[u8]) -> Vec<u8> {
    [&(6 + data.len() as u16).to_be_bytes()[..], &[kind, 0, 0, 0], data].concat()
}

/// A message data block as Linux writes it: general object, then one text object per line.
fn message(lines: &[&[u8]]) -> Vec<u8> {
    let mut objects = [&[0u8, 56, 0, 1][..], &[0; 52]].concat();
    for line in lines {
        objects.extend((10 + line.len() as u16).to_be_bytes());
        objects.extend([0, 4, 0x10, 0, 0, 0, 0, 0]);
        objects.extend(*line);
    }
    let header =
        [&(12 + objects.len() as u16).to_be_bytes()[..], &[0, 1, 0xd4, 0xc4, 0xc2, 0x40, 0, 0, 0, 1]];
    [&header.concat()[..], &objects].concat()
}

fn ebcdic(text: &str) -> Vec<u8> {
    text.chars().map(crate::ebcdic::encode).collect()
}

const ALL: u64 = 0x8080_0048_0000_0000 | 1 << 56;

#[test]
fn bad_addresses_and_lengths() {
    use ProgramCode::{Addressing, Specification};
    #[track_caller]
    fn check(command: u32, at: u64, length: u16, answer: Result<u16, ProgramCode>) {
        let guest = Guest::new();
        if at < SIZE {
            let _ = guest.storage.write(AbsoluteAddress(at), &length.to_be_bytes());
        }
        let prefix = PREFIX;
        let result = guest.sclp.service_call(command, RealAddress(at), prefix, &guest.storage, &guest.post);
        assert_eq!(result, answer.map(|_| 0).map_err(ProgramInterruption::from));
        let signals = guest.post.take_signals();
        match answer {
            Ok(response) => {
                let stored = guest.storage.read_array(AbsoluteAddress(at + 6)).unwrap();
                assert_eq!((u16::from_be_bytes(stored), signals), (response, vec![at as u32]));
            }
            Err(_) => assert!(signals.is_empty()),
        }
    }
    for (command, at, length, answer) in [
        (READ_SCP_INFO, AT + 4, 4096, Err(Specification)),
        (READ_SCP_INFO, AT + 1, 4096, Err(Specification)),
        (READ_SCP_INFO, 0, 4096, Err(Specification)),
        (READ_SCP_INFO, 0x1ff8, 8, Err(Specification)),
        (READ_SCP_INFO, 0x2000, 4096, Ok(0x0010)),
        (READ_SCP_INFO, PREFIX, 4096, Err(Specification)),
        (READ_SCP_INFO, PREFIX + 0x1000, 4096, Err(Specification)),
        (READ_SCP_INFO, PREFIX + 0x2000, 4096, Ok(0x0010)),
        (READ_SCP_INFO, 1 << 31, 4096, Err(Specification)),
        (READ_SCP_INFO, (1 << 32) + AT, 4096, Err(Specification)),
        (READ_SCP_INFO, !7, 4096, Err(Specification)),
        (READ_SCP_INFO, SIZE, 4096, Err(Addressing)),
        (READ_SCP_INFO, 0x7fff_f000, 4096, Err(Addressing)),
        (READ_SCP_INFO, SIZE - 0x1000, 4096, Ok(0x0010)),
        (READ_SCP_INFO, AT, 0, Err(Specification)),
        (READ_SCP_INFO, AT, 7, Err(Specification)),
        (0xdead_0001, AT, 7, Err(Specification)),
        (READ_SCP_INFO, AT, 8, Ok(0x0300)),
        (READ_SCP_INFO, AT, 128 + 31, Ok(0x0300)),
        (READ_SCP_INFO, AT, 128 + 32, Ok(0x0010)),
        (READ_SCP_INFO_FORCED, AT, 4096, Ok(0x0010)),
        (READ_SCP_INFO, AT, 4097, Ok(0x0100)),
        (READ_SCP_INFO, AT, 0xffff, Ok(0x0100)),
        (READ_SCP_INFO, AT + 8, 4096, Ok(0x0100)),
        (READ_SCP_INFO, AT + 0xff8, 8, Ok(0x0300)),
        (READ_SCP_INFO, AT + 0xff8, 9, Ok(0x0100)),
        (READ_CPU_INFO, AT, 16 + 31, Ok(0x0300)),
        (READ_CPU_INFO, AT, 16 + 32, Ok(0x0010)),
        (WRITE_EVENT_MASK, AT, 8, Ok(0x0300)),
        (WRITE_EVENT_MASK, AT, 12, Ok(0x74f0)),
        (READ_EVENT_DATA, AT, 8, Ok(0x60f0)),
        (WRITE_EVENT_DATA, AT, 8, Ok(0x0020)),
        (0x0004_0001, AT, 4096, Ok(0x01f0)),
        (0, AT, 0xffff, Ok(0x01f0)),
        (0xffff_ffff, AT, 8, Ok(0x01f0)),
        (CONFIGURE_AP | 0x500, AT, 4096, Ok(0x01f0)),
        (DECONFIGURE_AP | 0x500, AT, 4096, Ok(0x01f0)),
    ] {
        check(command, at, length, answer);
    }
}

#[test]
fn only_the_header_of_an_sccb_that_crosses_its_page_is_stored() {
    let guest = Guest::new();
    guest.storage.write(AbsoluteAddress(AT), &[0x55; 8192]).unwrap();
    guest.call(READ_SCP_INFO, &[0x10, 1]);
    let mut expected = [0x55; 8192];
    expected[..2].copy_from_slice(&[0x10, 1]);
    expected[6..8].copy_from_slice(&[1, 0]);
    assert_eq!(guest.storage.read_array(AbsoluteAddress(AT)).unwrap(), expected);
}

#[test]
fn scp_info_byte_by_byte() {
    let mut config = Config::new(2);
    config.cpus = vec![0, 5];
    config.loadparm = "A1.".into();
    config.hamaxpow = 48;
    config.ibc = 0x1234_5678;
    config.hmfai = 0x5555_0000;
    config.characteristics[5] = 0x02;
    config.characteristics_extension = [1, 2, 3, 4];
    config.cpu_features[0] = 8;
    let ap: Arc<dyn ApConfigure> = Arc::new(Mutex::new(vec![]));
    for (ap, facilities) in [(None, [8, 0, 0, 0, 0, 0, 0, 0]), (Some(ap), [8, 0, 0, 1, 0, 0, 0, 0])] {
        let guest = Guest::with(config.clone(), ap);
        for command in [READ_SCP_INFO, READ_SCP_INFO_FORCED] {
            let mut expected = sccb(4096, [0x80, 0, 0, 0x80], &[0xee; 4088]);
            let (response, after, signals) = guest.call(command, &expected);
            assert_eq!((response, signals), (0x0010, vec![AT as u32]));
            expected[8..].fill(0);
            for (offset, bytes) in [
                (6, &[0, 0x10][..]),
                (8, &[0, 1, 1]),
                (16, &[0, 2, 0, 128]),
                (24, &[0xc1, 0xf1, 0x4b, 0x40, 0x40, 0x40, 0x40, 0x40]),
                (48, &facilities),
                (76, &[0x12, 0x34, 0x56, 0x78]),
                (85, &[2]),
                (99, &[48]),
                (116, &[1, 2, 3, 4]),
                (120, &[0, 5]),
                (124, &[0x55, 0x55, 0, 0]),
                (128, &[0, 0, 8]),
                (144, &[5, 0, 8]),
            ] {
                expected[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            assert_eq!(after, expected);
        }
    }
}

#[test]
fn storage_increments_beyond_sixteen_bits() {
    #[track_caller]
    fn check(megabytes: u64, rnmax: u16, rnmax2: u64) {
        let storage = Storage::new(SIZE).unwrap();
        storage.write(AbsoluteAddress(AT), &[0x10, 0]).unwrap();
        let mut copy = Sccb::fetch(&storage, AbsoluteAddress(AT)).unwrap();
        assert_eq!(Config::new(1).read_scp_info(megabytes, false, &mut copy), Response::Read);
        assert_eq!((copy.u16(8), copy.whole()[10]), (rnmax, 1));
        assert_eq!(copy.whole()[104..112], rnmax2.to_be_bytes());
    }
    for (megabytes, rnmax, rnmax2) in [(1, 1, 0), (65535, 65535, 0), (65536, 0, 65536), (1 << 30, 0, 1 << 30)]
    {
        check(megabytes, rnmax, rnmax2);
    }
}

#[test]
fn cpu_info_byte_by_byte() {
    let mut expected = sccb(48, [0; 4], &[0xee; 40]);
    let (response, after, _) = Guest::new().call(READ_CPU_INFO, &expected);
    assert_eq!(response, 0x0010);
    expected[6..].fill(0);
    expected[7] = 0x10;
    expected[8..16].copy_from_slice(&[0, 2, 0, 16, 0, 0, 0, 48]);
    expected[32] = 1;
    assert_eq!(after, expected);
}

#[test]
fn the_largest_configuration_fits() {
    let mut config = Config::new(0);
    config.cpus = (0..Config::MAX_CPUS as u8).collect();
    let guest = Guest::with(config, None);
    let (response, after, _) = guest.call(READ_SCP_INFO, &sccb(4096, [0; 4], &[]));
    assert_eq!((response, after[4080]), (0x0010, 247));
}

#[test]
fn event_masks_of_every_length() {
    #[track_caller]
    fn check(length: u16, receives: &[u8], sends: &[u8]) {
        let guest = Guest::new();
        let (response, after, _) = guest.call(WRITE_EVENT_MASK, &masks(length, u64::MAX, u64::MAX));
        assert_eq!(response, 0x0020);
        let length = usize::from(length);
        let mut expected = [receives, sends].map(<[u8]>::to_vec);
        expected.iter_mut().for_each(|mask| mask.resize(length, 0));
        assert_eq!(after[12 + 2 * length..], expected.concat());
    }
    let (receives, sends) = ([0x40, 0x80, 0, 0x40], [0x80, 0, 0, 0x48]);
    for length in [1, 2, 3, 4] {
        check(length, &receives[..usize::from(length)], &sends[..usize::from(length)]);
    }
    for length in [5, 8, 9, 16, 1021] {
        check(length, &receives, &sends);
    }
    let guest = Guest::new();
    for (sccb, response) in [
        (masks(0, 0, 0), 0x74f0),
        (masks(1022, 0, 0)[..4096].to_vec(), 0x0100),
        (sccb(4096, [0; 4], &[0, 0, 3, 0xfe]), 0x74f0),
        (sccb(4096, [0; 4], &[0, 0, 0xff, 0xff]), 0x74f0),
        (sccb(43, [0; 4], &[0, 0, 0, 8]), 0x0300),
        (sccb(44, [0; 4], &[0, 0, 0, 8]), 0x0020),
        (sccb(11, [0; 4], &[]), 0x0300),
    ] {
        assert_eq!(guest.call(WRITE_EVENT_MASK, &sccb).0, response);
    }
}

#[test]
fn a_console_without_a_sink_is_not_offered() {
    #[track_caller]
    fn check(line_mode: bool, vt220: bool, receives: u64, sends: u64) {
        let sink = || -> Arc<dyn ConsoleSink> { Arc::new(Recorder::default()) };
        let consoles = Consoles { line_mode: line_mode.then(sink), vt220: vt220.then(sink) };
        let guest = Guest { sclp: Sclp::new(Config::new(1), consoles, None), ..Guest::new() };
        let (_, after, _) = guest.call(WRITE_EVENT_MASK, &masks(8, ALL, 0));
        assert_eq!(after[28..], [receives.to_be_bytes(), sends.to_be_bytes()].concat());
        for (console, kind, offered) in
            [(Console::LineMode, event::MESSAGE, line_mode), (Console::Vt220, event::VT220, vt220)]
        {
            guest.sclp.input(console, b"x\n", &guest.post);
            assert_eq!(guest.post.take_signals().is_empty(), !offered);
            let (response, ..) =
                guest.call(WRITE_EVENT_DATA, &exact([0; 4], &event_buffer(kind, &message(&[]))));
            assert_eq!(response, if offered { 0x0020 } else { 0x40f0 });
            guest.read_events();
        }
    }
    for (line_mode, vt220, receives, sends) in [
        (true, true, 0x4080_0040 << 32, 0x8000_0048 << 32),
        (true, false, 0x4080_0000 << 32, 0x8000_0008 << 32),
        (false, true, 0x0000_0040 << 32, 0x0000_0048 << 32),
        (false, false, 0, 0x0000_0008 << 32),
    ] {
        check(line_mode, vt220, receives, sends);
    }
}

#[test]
fn output() {
    #[track_caller]
    fn check(receive: u64, control: [u8; 4], data: &[u8], response: u16, flags: &[u8], text: [&str; 2]) {
        let guest = Guest::new();
        guest.set_masks(receive, ALL);
        let (actual, after, _) = guest.call(WRITE_EVENT_DATA, &exact(control, data));
        let mut stored = vec![];
        let mut at = 8;
        while response != 0x73f0 && at < after.len() {
            stored.push(after[at + 3]);
            at += usize::from(u16::from_be_bytes([after[at], after[at + 1]]));
        }
        let printed = [guest.line_mode.take_text(), guest.vt220.take_text()];
        assert_eq!((actual, &stored[..], printed), (response, flags, text.map(String::from)));
    }
    let lines = |lines: &[&str]| {
        let codes: Vec<_> = lines.iter().map(|line| ebcdic(line)).collect();
        message(&codes.iter().map(|codes| &codes[..]).collect::<Vec<_>>())
    };
    let vt220 = event_buffer(event::VT220, b"a\r\n\x1b[0m");
    let hello = event_buffer(event::MESSAGE, &lines(&["Hello [x]!", "", "\u{fc}ber"]));
    let raw = |bytes: &[u8]| event_buffer(event::MESSAGE, bytes);
    let broken = |at: usize, value: u8| {
        let mut buffer = raw(&lines(&["x"]));
        buffer[at] = value;
        buffer
    };
    let flagged = |mut buffer: Vec<u8>, flags: u8| {
        buffer[3] = flags;
        buffer
    };
    for (receive, control, data, response, flags, text) in [
        (ALL, 0, vt220.clone(), 0x0020, &[0x80][..], ["", "a\r\n\x1b[0m"]),
        (0, 0, vt220.clone(), 0x0020, &[0x80], ["", "a\r\n\x1b[0m"]),
        (ALL, 0, event_buffer(event::VT220, b""), 0x0020, &[0x80], ["", ""]),
        (ALL, 0, hello.clone(), 0x0020, &[0x80], ["Hello [x]!\n\n\u{fc}ber\n", ""]),
        (ALL, 0, event_buffer(event::PRIORITY_MESSAGE, &lines(&["p"])), 0x0020, &[0x80], ["p\n", ""]),
        (1 << 63, 0, raw(&message(&[&[0xba, 0xf1, 0xbb, 0x4f]])), 0x0020, &[0x80], ["[1]|\n", ""]),
        (ALL, 0, raw(&message(&[&[0x4a, 0xf1, 0x5a, 0xbb]])), 0x0020, &[0x80], ["[1]|\n", ""]),
        (ALL, 0, raw(&message(&[&[0xc1, 0x27, 0x15, 0x25, 0, 0xc2]])), 0x0020, &[0x80], ["A    B\n", ""]),
        (ALL, 0, raw(&message(&[])), 0x0020, &[0x80], ["", ""]),
        (
            ALL,
            0,
            [hello.clone(), vt220.clone()].concat(),
            0x0020,
            &[0x80, 0x80],
            ["Hello [x]!\n\n\u{fc}ber\n", "a\r\n\x1b[0m"],
        ),
        (ALL, 0, vec![], 0x0020, &[], ["", ""]),
        (ALL, 1, vt220.clone(), 0x40f0, &[0], ["", ""]),
        // Unknown types: what comes before is printed, what comes after is not.
        (ALL, 0, event_buffer(event::OPERATOR_COMMAND, &[]), 0x40f0, &[0], ["", ""]),
        (ALL, 0, event_buffer(0, &[]), 0x40f0, &[0], ["", ""]),
        (
            ALL,
            0,
            [vt220.clone(), flagged(event_buffer(0x77, &[]), 0xff), flagged(vt220.clone(), 0x81)].concat(),
            0x40f0,
            &[0x80, 0x7f, 0x01],
            ["", "a\r\n\x1b[0m"],
        ),
        // Event buffers that do not add up: nothing at all is printed.
        (ALL, 0, [vt220.clone(), vec![0]].concat(), 0x73f0, &[], ["", ""]),
        (ALL, 0, [vt220.clone(), vec![0, 5, 0x1a, 0, 0]].concat(), 0x73f0, &[], ["", ""]),
        (ALL, 0, [vt220.clone(), vec![0, 7, 0x1a, 0, 0, 0]].concat(), 0x73f0, &[], ["", ""]),
        (ALL, 0, vec![0, 0], 0x73f0, &[], ["", ""]),
        // Message data blocks that do not add up.
        (ALL, 0, raw(&[]), 0x72f0, &[0], ["", ""]),
        (ALL, 0, raw(&[0]), 0x72f0, &[0], ["", ""]),
        (ALL, 0, raw(&[0, 11, 0, 1, 0, 0, 0, 0, 0, 0, 0]), 0x72f0, &[0], ["", ""]),
        (ALL, 0, broken(7, 200), 0x72f0, &[0], ["", ""]),
        (ALL, 0, broken(7, 71), 0x72f0, &[0], ["", ""]),
        (ALL, 0, broken(19, 0), 0x72f0, &[0], ["", ""]),
        (ALL, 0, broken(19, 3), 0x72f0, &[0], ["", ""]),
        (ALL, 0, broken(19, 68), 0x72f0, &[0], ["", ""]),
        (ALL, 0, broken(19, 67), 0x0020, &[0x80], ["", ""]),
        (ALL, 0, broken(75, 9), 0x72f0, &[0], ["", ""]),
    ] {
        check(receive, [control, 0, 0, 0], &data, response, flags, text);
    }
}

/// An operator command event as Linux's `sclp_tty.c` takes it apart.
fn command_event(text: &str) -> Vec<u8> {
    let codes = ebcdic(text);
    let n = codes.len();
    let mut data = vec![];
    for (length, id) in [(n + 16, 0x1310u16), (n + 12, 0x1212), (n + 8, 0x1320)] {
        data.extend((length as u16).to_be_bytes());
        data.extend(id.to_be_bytes());
    }
    data.extend([(n + 4) as u8, 0x31, (n + 2) as u8, 0x30]);
    event_buffer(event::OPERATOR_COMMAND, &[data, codes].concat())
}

#[test]
fn input() {
    #[track_caller]
    fn check(console: Console, typed: &[u8], events: &[Vec<u8>]) {
        let guest = Guest::new();
        guest.set_masks(ALL, 0);
        guest.sclp.input(console, typed, &guest.post);
        assert_eq!(guest.post.take_signals(), if events.is_empty() { vec![] } else { vec![1] });
        let (response, after, signals) = guest.read_events();
        assert_eq!(after[8..], if events.is_empty() { vec![0; 4088] } else { events.concat() });
        assert_eq!(response, if events.is_empty() { 0x60f0 } else { 0x0020 });
        assert_eq!(signals, [AT as u32]);
        assert_eq!(guest.read_events().0, 0x60f0);
        assert_eq!((guest.sclp.input_room(console), guest.sclp.dropped_input()), (INPUT_MAX, 0));
    }
    let line = command_event;
    use Console::{LineMode, Vt220};
    for (console, typed, events) in [
        (Vt220, &b"ls -l\r"[..], vec![event_buffer(event::VT220, b"\0ls -l\r")]),
        (Vt220, b"\x03", vec![event_buffer(event::VT220, b"\0\x03")]),
        (Vt220, b"", vec![]),
        (LineMode, b"ls -l\r", vec![line("ls -l")]),
        (LineMode, b"ls [a]|!\n", vec![line("ls [a]|!")]),
        (LineMode, b"a\r\nb\n\nc\r\r", ["a", "b", "", "c", ""].map(line).to_vec()),
        (LineMode, b"not yet", vec![]),
        (LineMode, b"100%\n", vec![line("100%%")]),
        (LineMode, b"ax\x7fb\x08\x08c\x7f\x7f\x7fd\n", vec![line("d")]),
        (LineMode, b"\xc3\xbc\xe2\x82\xac\xff\n", vec![line("\u{fc}??")]),
        (LineMode, b"\xc3\xbc\x7fo\n", vec![line("o")]),
        (LineMode, b"\x03", vec![line("^c")]),
        (LineMode, b"\x04\x1a", vec![line("^d"), line("^z")]),
        (LineMode, &[[b'a'; 249].as_slice(), b"\n"].concat(), vec![line(&"a".repeat(249))]),
        (
            LineMode,
            &[[b'a'; 248].as_slice(), b"%b\n"].concat(),
            vec![line(&("a".repeat(248) + "^n")), line("%%b")],
        ),
    ] {
        check(console, typed, &events);
    }
}

#[test]
fn reading_events() {
    #[track_caller]
    fn check(
        receive: u64,
        length: u16,
        control: [u8; 4],
        mask: u64,
        response: u16,
        types: &[u8],
        more: bool,
    ) {
        let guest = Guest::new();
        guest.sclp.input(Console::Vt220, b"typed", &guest.post);
        guest.sclp.input(Console::LineMode, b"line\n", &guest.post);
        guest.sclp.quiesce(&guest.post);
        guest.set_masks(receive, 0);
        let (actual, after, signals) =
            guest.call(READ_EVENT_DATA, &sccb(length, control, &mask.to_be_bytes())[..length.into()]);
        let mut found = vec![];
        let mut at = 8;
        while actual == 0x0020 && at + 6 <= after.len() && after[at..at + 2] != [0, 0] {
            found.push(after[at + 2]);
            at += usize::from(u16::from_be_bytes([after[at], after[at + 1]]));
        }
        assert_eq!((actual, &found[..], signals), (response, types, vec![AT as u32 | u32::from(more)]));
        let variable = actual == 0x0020 && control[3] & 0x80 != 0;
        assert_eq!(after.len(), if variable { at } else { length.into() });
        assert_eq!(after[5], if variable { control[3] & 0x7f } else { control[3] });
    }
    let (quiesce, line, vt220) = (event::QUIESCE, event::OPERATOR_COMMAND, event::VT220);
    let (any, variable, selective) = ([0; 4], [0, 0, 0, 0x81], [1, 0, 0, 0x80]);
    let only = event::mask;
    for (receive, length, control, mask, response, types, more) in [
        (ALL, 4096, any, 0, 0x0020, &[quiesce, line, vt220][..], false),
        (ALL, 4096, variable, 0, 0x0020, &[quiesce, line, vt220], false),
        (only(vt220), 4096, variable, 0, 0x0020, &[vt220], false),
        (only(line) | only(quiesce), 4096, any, 0, 0x0020, &[quiesce, line], false),
        (0, 4096, any, 0, 0x60f0, &[], false),
        (ALL, 4096, selective, only(line), 0x0020, &[line], true),
        (ALL, 4096, selective, only(quiesce) | only(vt220), 0x0020, &[quiesce, vt220], true),
        (ALL, 4096, selective, only(event::STATE_CHANGE), 0x60f0, &[], true),
        (ALL, 4096, selective, 0, 0x60f0, &[], true),
        (only(vt220), 4096, selective, only(line), 0x70f0, &[], true),
        (0, 4096, selective, 0, 0x70f0, &[], false),
        (ALL, 15, selective, 0, 0x0300, &[], true),
        (ALL, 4096, [2, 0, 0, 0], 0, 0x40f0, &[], true),
        // Too short for all, for some, for any.
        (ALL, 8 + 9 + 26 + 12, any, 0, 0x0020, &[quiesce, line, vt220], false),
        (ALL, 8 + 9 + 26 + 11, any, 0, 0x0020, &[quiesce, line, vt220], true),
        (ALL, 8 + 9 + 26, any, 0, 0x0020, &[quiesce, line], true),
        (ALL, 8 + 9, any, 0, 0x0020, &[quiesce], true),
        (ALL, 8 + 8, any, 0, 0x0020, &[vt220], true),
        (ALL, 8 + 7, any, 0, 0x0300, &[], true),
        (ALL, 8, any, 0, 0x0300, &[], true),
    ] {
        check(receive, length, control, mask, response, types, more);
    }
}

#[test]
fn the_guest_is_told_once() {
    let guest = Guest::new();
    let signals = || guest.post.take_signals();
    let at = AT as u32;
    guest.sclp.input(Console::Vt220, b"a", &guest.post);
    assert!(signals().is_empty(), "masked");
    assert_eq!(guest.set_masks(ALL, 0), [at | 1], "enabled by the mask");
    guest.sclp.input(Console::Vt220, b"b", &guest.post);
    assert!(guest.sclp.quiesce(&guest.post));
    assert!(signals().is_empty(), "told by the completion signal");
    assert_eq!(guest.call(READ_SCP_INFO, &sccb(4096, [0; 4], &[])).2, [at | 1], "still pending");
    assert_eq!(guest.read_events().2, [at]);
    guest.sclp.input(Console::Vt220, b"c", &guest.post);
    guest.sclp.input(Console::LineMode, b"d\n", &guest.post);
    assert_eq!(signals(), [1]);
    assert_eq!(guest.set_masks(event::mask(event::VT220), 0), [at | 1]);
    assert_eq!(guest.read_events().2, [at], "the line is masked");
    assert_eq!(guest.set_masks(ALL, 0), [at | 1], "and comes back");
    guest.sclp.reset();
    assert_eq!(guest.read_events(), (0x60f0, sccb_after_no_events(), vec![at]));
    assert!(!guest.sclp.quiesce(&guest.post), "the masks are gone");
    assert!(signals().is_empty());
    assert_eq!(guest.set_masks(ALL, 0), [at | 1]);
    assert_eq!(guest.read_events().1[8..], [0, 9, 0x1d, 0, 0, 0, 0, 0, 0]);
}

fn sccb_after_no_events() -> Vec<u8> {
    let mut after = sccb(4096, [0, 0, 0, 0x80], &[]);
    after[6..8].copy_from_slice(&[0x60, 0xf0]);
    after
}

#[test]
fn unread_input_is_bounded() {
    #[track_caller]
    fn check(console: Console, typed: &[u8], room: usize, dropped: u64) {
        let guest = Guest::new();
        guest.sclp.input(console, typed, &guest.post);
        assert_eq!((guest.sclp.input_room(console), guest.sclp.dropped_input()), (room, dropped));
        guest.set_masks(ALL, 0);
        let mut reads = 0;
        while guest.read_events().0 == 0x0020 {
            reads += 1;
        }
        assert!(reads <= 5, "{reads}");
        assert_eq!(guest.sclp.input_room(console), INPUT_MAX);
    }
    for (console, typed, room, dropped) in [
        (Console::Vt220, vec![b'x'; INPUT_MAX], 0, 0),
        (Console::Vt220, vec![b'x'; INPUT_MAX + 1000], 0, 1000),
        (Console::LineMode, vec![b'\n'; 1000], INPUT_MAX % 22, (1000 - INPUT_MAX / 22) as u64),
        (Console::LineMode, vec![b'%'; 1 << 20], INPUT_MAX, (1 << 20) - 4096),
    ] {
        check(console, &typed, room, dropped);
    }
}

#[test]
fn configuring_adapters() {
    let log = Arc::new(Mutex::new(vec![]));
    let guest = Guest::with(Config::new(1), Some(log.clone()));
    for (command, response, called) in [
        (0x001f_0501, 0x0020, (5, true)),
        (0x001e_0501, 0x0020, (5, false)),
        (0x001f_0601, 0x0120, (6, true)),
        (0x001e_0701, 0x05f0, (7, false)),
        (0x001f_ff01, 0x09f0, (255, true)),
    ] {
        assert_eq!(guest.call(command, &sccb(4096, [0; 4], &[])).0, response);
        assert_eq!(log.lock().unwrap().pop(), Some(called));
    }
    assert_eq!(guest.call(CONFIGURE_AP, &[0x10, 1]).0, 0x0100);
    assert_eq!(log.lock().unwrap().pop(), None);
}

/// The commands that Linux 6.12 and 7.2 issue from the decompressor to the shut-down, in their order.
#[test]
fn linux_boot() {
    let guest = Guest::new();
    let step = |command, block: Vec<u8>, response| {
        let (actual, after, signals) = guest.call(command, &block);
        assert_eq!((actual, signals), (response, vec![AT as u32]), "{command:08x}");
        after
    };
    // Decompressor: storage size; then messages on both consoles, masks opened and closed around them.
    let info = step(READ_SCP_INFO_FORCED, sccb(4096, [0x80, 0, 0, 0x80], &[]), 0x0010);
    assert_eq!((info[8..11].to_vec(), info[48]), (vec![0, 1, 1], 0x08));
    let early = |lines: &[&[u8]], text: &[u8]| {
        let offered =
            step(WRITE_EVENT_MASK, sccb(4096, [0; 4], &masks(8, 1 << 63, 0x4000_0040 << 32)[8..]), 0x0020);
        assert_eq!(
            offered[28..44],
            [(0x4080_0040u64 << 32).to_be_bytes(), (0x8000_0048u64 << 32).to_be_bytes()].concat()
        );
        step(WRITE_EVENT_DATA, exact([0; 4], &event_buffer(event::MESSAGE, &message(lines))), 0x0020);
        step(WRITE_EVENT_DATA, exact([0; 4], &event_buffer(event::VT220, text)), 0x0020);
        step(WRITE_EVENT_MASK, sccb(4096, [0; 4], &masks(8, 0, 0)[8..]), 0x0020);
    };
    early(&[&[0xba, 0xf0, 0xbb, 0x40, 0x88, 0x89]], b"[0] hi\n");
    assert_eq!(
        (guest.line_mode.take_text(), guest.vt220.take_text()),
        ("[0] hi\n".into(), "[0] hi\n".into())
    );
    // Kernel: CPUs, consoles, then the driver checks the interface and registers its listeners.
    let cpus = step(READ_CPU_INFO, sccb(4096, [0; 4], &[]), 0x0010);
    assert_eq!(cpus[8..16], [0, 2, 0, 16, 0, 0, 0, 48]);
    for (receive, send) in [
        (0, 0),
        (0, 0),
        (event::mask(event::STATE_CHANGE), 0),
        (0x8180_0000 << 32, 0x4080_0000 << 32),
        (0x8180_0048 << 32, 0x4080_0040 << 32),
    ] {
        step(WRITE_EVENT_MASK, masks(8, receive, send), 0x0020);
    }
    step(
        WRITE_EVENT_DATA,
        exact([0; 4], &event_buffer(event::MESSAGE, &message(&[&ebcdic("[1] up")]))),
        0x0020,
    );
    step(WRITE_EVENT_DATA, exact([0; 4], &event_buffer(event::VT220, b"login: ")), 0x0020);
    assert_eq!((guest.line_mode.take_text(), guest.vt220.take_text()), ("[1] up\n".into(), "login: ".into()));
    // A person types, the operator asks for a shut-down.
    guest.sclp.input(Console::Vt220, b"root\r", &guest.post);
    assert!(guest.sclp.quiesce(&guest.post));
    assert_eq!(guest.post.take_signals(), [1]);
    let read = step(READ_EVENT_DATA, sccb(4096, [0, 0, 0, 0x80], &[]), 0x0020);
    assert_eq!(read[..8], [0, 29, 0, 0, 0, 0, 0, 0x20]);
    assert_eq!(read[8..], *b"\0\x09\x1d\0\0\0\0\0\0\0\x0c\x1a\0\0\0\0root\r");
}

/// A CPU that stands still after a service call.
struct Cpu;

impl Vcpu for Cpu {
    fn address(&self) -> u16 {
        0
    }
    fn run(&mut self) -> Result<Exit, Error> {
        Ok(Exit::Stopped)
    }
    fn finish(&mut self, _: Outcome) {}
    fn gr(&self, _: u8) -> u64 {
        0
    }
    fn set_gr(&mut self, _: u8, _: u64) {}
    fn state(&self) -> VcpuState {
        let (psw, gr) = (Default::default(), [0; 16]);
        VcpuState { psw, gr, ar: [0; 16], cr: gr, fpr: gr, fpc: 0, prefix: PREFIX }
    }
    fn set_state(&mut self, _: &VcpuState) {}
    fn set_operating(&mut self, _: bool) {}
    fn reset(&mut self, _: ResetKind) {}
    fn fetch(&mut self, _: Operand, _: &mut [u8]) -> Result<(), ProgramInterruption> {
        Ok(())
    }
    fn store(&mut self, _: Operand, _: &[u8]) -> Result<(), ProgramInterruption> {
        Ok(())
    }
    fn probe_store(&mut self, _: Operand, _: u64) -> Result<(), ProgramInterruption> {
        Ok(())
    }
    fn absolute(&self, real: RealAddress) -> AbsoluteAddress {
        real.absolute(PREFIX)
    }
}

#[test]
fn exits() {
    #[track_caller]
    fn check(exit: Exit, outcome: Option<Outcome>) {
        let guest = Guest::new();
        guest.storage.write(AbsoluteAddress(AT), &sccb(4096, [0; 4], &[])).unwrap();
        assert_eq!(guest.sclp.execute(&Cpu, &exit, &guest.post, &guest.storage), outcome);
    }
    let program = |code: ProgramCode| Some(Outcome::Program(code.into()));
    let call = |at| Exit::ServiceCall { command: READ_SCP_INFO, sccb: RealAddress(at) };
    for (exit, outcome) in [
        (call(AT), Some(Outcome::ConditionCode(0))),
        (call(PREFIX), program(ProgramCode::Specification)),
        (call(SIZE), program(ProgramCode::Addressing)),
        (Exit::Stopped, None),
        (Exit::Pqap, None),
    ] {
        check(exit, outcome);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No SCCB makes the SCLP panic, and every one it accepts gets a response and one signal.
    #[test]
    fn any_sccb(
        commands in prop::collection::vec((0usize..8, any::<u32>()), 1..6),
        length in prop_oneof![any::<u16>(), 0u16..64, 4080u16..4100],
        words in prop::collection::vec(prop_oneof![0u16..80, any::<u16>()], 4..200),
        at in prop_oneof![Just(AT), (0u64..SIZE / 4).prop_map(|n| n * 8), any::<u64>()],
        typed in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let guest = Guest { sclp: Guest::with(Config::new(3), Some(Arc::new(Mutex::new(vec![])))).sclp, ..Guest::new() };
        let mut block: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        block[..2].copy_from_slice(&length.to_be_bytes());
        for (known, random) in commands {
            let command = [
                READ_SCP_INFO, READ_CPU_INFO, READ_EVENT_DATA, WRITE_EVENT_DATA, WRITE_EVENT_MASK,
                CONFIGURE_AP | random & 0xff00, READ_EVENT_DATA, random,
            ][known];
            guest.sclp.input(Console::Vt220, &typed, &guest.post);
            guest.sclp.input(Console::LineMode, &typed, &guest.post);
            guest.post.take_signals();
            let _ = guest.storage.write(AbsoluteAddress(at), &block);
            let result = guest.sclp.service_call(command, RealAddress(at), PREFIX, &guest.storage, &guest.post);
            let signals = guest.post.take_signals();
            match result {
                Ok(cc) => {
                    prop_assert_eq!(cc, 0);
                    prop_assert_eq!(signals.iter().map(|s| s & !1).collect::<Vec<_>>(), vec![at as u32]);
                    let response = guest.storage.read_array::<2>(AbsoluteAddress(at + 6)).unwrap();
                    prop_assert!(u16::from_be_bytes(response) != 0);
                }
                Err(_) => prop_assert!(signals.is_empty()),
            }
        }
    }

    /// Every event buffer that a message fits in is printed or refused, never both.
    #[test]
    fn any_message(mut buffer in prop::collection::vec(any::<u8>(), 0..40), cuts in prop::collection::vec(0u8..80, 8)) {
        let mut block = event_buffer(event::MESSAGE, &message(&[&buffer, &buffer]));
        for (n, cut) in cuts.iter().enumerate() {
            if cut % 4 == 0 {
                let at = 6 + (n * 19 + usize::from(*cut)) % (block.len() - 6);
                block[at] = *cut;
            }
        }
        buffer.clear();
        let guest = Guest::new();
        let (response, after, _) = guest.call(WRITE_EVENT_DATA, &exact([0; 4], &block));
        prop_assert!([0x0020, 0x72f0].contains(&response));
        prop_assert_eq!(after[11] & 0x80 != 0, response == 0x0020);
        prop_assert!(response == 0x0020 || guest.line_mode.take_text().is_empty());
    }
}
