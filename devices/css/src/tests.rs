//! Every instruction, every answer, every bad operand, on a CPU in memory.

use std::collections::VecDeque;

use machine::{Error, ResetKind, VcpuState};
use proptest::prelude::*;
use zarch::{AbsoluteAddress, IoInterruption};

use super::*;
use crate::report::REPORTS_MAX;

const SIZE: u64 = 1 << 20;
const PREFIX: u64 = 0x4000;
/// A page that can be fetched from and not be stored into.
const READ_ONLY: u64 = 0x8000;
const AT: u64 = 0x10000;

/// DAT off, one protected page, prefix at [`PREFIX`].
struct Cpu<'a> {
    storage: &'a Storage,
    cr6: u64,
}

impl Cpu<'_> {
    fn real(&self, operand: Operand, length: u64) -> Result<AbsoluteAddress, ProgramInterruption> {
        let at = self.absolute(RealAddress(operand.address));
        if self.storage.contains(at, length) { Ok(at) } else { Err(ProgramCode::Addressing.into()) }
    }
}

impl Vcpu for Cpu<'_> {
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
        let mut cr = [0; 16];
        cr[6] = self.cr6;
        VcpuState {
            psw: Default::default(),
            gr: [0; 16],
            ar: [0; 16],
            cr,
            fpr: [0; 16],
            fpc: 0,
            prefix: PREFIX,
        }
    }
    fn set_state(&mut self, _: &VcpuState) {}
    fn set_operating(&mut self, _: bool) {}
    fn reset(&mut self, _: ResetKind) {}
    fn fetch(&mut self, from: Operand, buffer: &mut [u8]) -> Result<(), ProgramInterruption> {
        let at = self.real(from, buffer.len() as u64)?;
        self.storage.read(at, buffer).map_err(|_| ProgramCode::Addressing.into())
    }
    fn store(&mut self, to: Operand, bytes: &[u8]) -> Result<(), ProgramInterruption> {
        self.probe_store(to, bytes.len() as u64)?;
        let at = self.real(to, bytes.len() as u64)?;
        self.storage.write(at, bytes).map_err(|_| ProgramCode::Addressing.into())
    }
    fn probe_store(&mut self, to: Operand, length: u64) -> Result<(), ProgramInterruption> {
        let at = self.real(to, length)?;
        if at.0 < READ_ONLY + PAGE_SIZE && at.0 + length > READ_ONLY {
            return Err(ProgramCode::Protection.into());
        }
        Ok(())
    }
    fn absolute(&self, real: RealAddress) -> AbsoluteAddress {
        real.absolute(PREFIX)
    }
}

/// Counts channel reports and holds I/O interruptions.
#[derive(Default)]
struct Pending {
    reports: Mutex<u32>,
    io: Mutex<VecDeque<IoInterruption>>,
}

impl Pending {
    fn take_reports(&self) -> u32 {
        std::mem::take(&mut self.reports.lock().unwrap())
    }
}

impl Post for Pending {
    fn post(&self, interruption: Floating) {
        match interruption {
            Floating::ChannelReport => *self.reports.lock().unwrap() += 1,
            Floating::Io(io) => self.io.lock().unwrap().push_back(io),
            Floating::ServiceSignal(parameter) => panic!("service signal {parameter:x}"),
        }
    }
    fn take_io(&self, isc_mask: u8) -> Option<IoInterruption> {
        let mut pending = self.io.lock().unwrap();
        let first = pending.iter().position(|io| isc_mask & 0x80 >> io.isc() != 0)?;
        pending.remove(first)
    }
    fn clear(&self) {
        self.take_reports();
        self.io.lock().unwrap().clear();
    }
}

struct Guest {
    css: Css,
    storage: Storage,
    post: Pending,
}

impl Guest {
    fn with(config: Config) -> Self {
        let storage = Storage::new(SIZE).unwrap();
        storage.write(AbsoluteAddress(AT), &[0xee; 8192]).unwrap();
        Self { css: Css::new(config), storage, post: Pending::default() }
    }

    fn new() -> Self {
        Self::with(Config::default())
    }

    fn execute(&self, exit: Exit) -> Option<Outcome> {
        self.execute_with(exit, 0xff << 24)
    }

    fn execute_with(&self, exit: Exit, cr6: u64) -> Option<Outcome> {
        self.css.execute(&mut Cpu { storage: &self.storage, cr6 }, &exit, &self.post, &self.storage)
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.storage.write(RealAddress(at).absolute(PREFIX), bytes).unwrap();
    }

    fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        self.storage.read_array(AbsoluteAddress(at)).unwrap()
    }

    fn stcrw(&self) -> (Option<Outcome>, u32) {
        let outcome = self.execute(Exit::StoreChannelReportWord(at(AT)));
        (outcome, u32::from_be_bytes(self.get(AT)))
    }

    /// CHSC with a block that begins with `request`: response code and response block.
    fn chsc(&self, request: &[u8]) -> (u16, Vec<u8>) {
        self.put(AT, &[0xee; 4096]);
        self.put(AT, request);
        assert_eq!(self.execute(Exit::ChannelSubsystemCall(at(AT))), cc(0));
        let length = usize::from(u16::from_be_bytes([request[0], request[1]]));
        let page = self.get::<4096>(AT);
        let response = &page[length..];
        let end = usize::from(u16::from_be_bytes([response[0], response[1]]));
        assert!(page[request.len()..length].iter().all(|&byte| byte == 0xee), "the request stays");
        assert!(response[end..].iter().all(|&byte| byte == 0xee), "no more is stored than the length says");
        assert_eq!(response[4..8], [0; 4]);
        (u16::from_be_bytes([response[2], response[3]]), response[..end].to_vec())
    }
}

fn at(address: u64) -> Operand {
    Operand { address, ar: 0 }
}

fn cc(cc: u8) -> Option<Outcome> {
    Some(Outcome::ConditionCode(cc))
}

fn program(code: ProgramCode) -> Option<Outcome> {
    Some(Outcome::Program(code.into()))
}

fn request(length: u16, command: u16, fields: &[u8]) -> Vec<u8> {
    let mut block = [&length.to_be_bytes()[..], &command.to_be_bytes(), fields].concat();
    block.resize(16, 0);
    block
}

#[test]
fn subchannel_instructions() {
    use SubchannelOperation::*;
    #[track_caller]
    fn check(
        operations: &[SubchannelOperation],
        subsystem_id: u32,
        address: u64,
        words: &[(usize, u32)],
        outcome: Option<Outcome>,
    ) {
        for &operation in operations {
            let guest = Guest::new();
            guest.put(AT, &[0; 256]);
            for &(word, value) in words {
                guest.put(AT + 4 * word as u64, &value.to_be_bytes());
            }
            let before = guest.get::<8192>(AT);
            let actual = guest.execute(Exit::Subchannel { operation, subsystem_id, operand: at(address) });
            assert_eq!(actual, outcome, "{operation:?}");
            assert_eq!(guest.get::<8192>(AT), before, "{operation:?} stored something");
        }
    }
    use ProgramCode::{Addressing, Operand, Protection, Specification};
    let (with, without) = ([Start, Modify, Store, Test], [Halt, Clear, Resume, Cancel]);
    let (fetching, storing) = ([Start, Modify], [Store, Test]);
    for (operations, subsystem_id, address, words, outcome) in [
        (&with[..], 0x1_0000, AT, &[][..], cc(3)),
        (&with, 0x1_ffff, AT, &[], cc(3)),
        (&without, 0x1_0000, 1, &[], cc(3)),
        (&without, 0x1_ffff, SIZE, &[], cc(3)),
        // Subsystem-identification words.
        (&with, 0x0_0000, AT, &[], program(Operand)),
        (&without, 0x0_0001, AT, &[], program(Operand)),
        (&with, 0x3_0000, AT, &[], program(Operand)),
        (&without, 0x9_0000, AT, &[], program(Operand)),
        (&with, 0x11_0000, AT, &[], program(Operand)),
        (&without, 0xff01_0000, AT, &[], program(Operand)),
        // Alignment before anything else, access before the operand exception.
        (&with, 0, AT + 1, &[], program(Specification)),
        (&with, 0x1_0000, SIZE + 2, &[], program(Specification)),
        (&with, 0x1_0000, SIZE, &[], program(Addressing)),
        (&with, 0, SIZE, &[], program(Addressing)),
        (&with, 0x1_0000, SIZE - 8, &[], program(Addressing)),
        (&storing, 0x1_0000, READ_ONLY, &[], program(Protection)),
        (&storing, 0, READ_ONLY, &[], program(Protection)),
        (&storing, 0x1_0000, READ_ONLY - 48, &[], program(Protection)),
        (&fetching, 0x1_0000, READ_ONLY, &[], cc(3)),
        (&[Store], 0x1_0000, READ_ONLY - 52, &[], cc(3)),
        (&[Test], 0x1_0000, READ_ONLY - 60, &[], program(Protection)),
        (&[Test], 0x1_0000, READ_ONLY - 64, &[], cc(3)),
        // Operation-request blocks.
        (&[Start], 0x1_0000, AT, &[(0, !0), (1, 0xfdfb_ff80), (2, 0x7fff_ffff)], cc(3)),
        (&[Start], 0x1_0000, AT, &[(1, 0x81)], cc(3)),
        (&[Start], 0x1_0000, SIZE - 12, &[], cc(3)),
        (&[Start], 0x1_0000, AT, &[(1, 1 << 18)], program(Operand)),
        (&[Start], 0x1_0000, AT, &[(1, 0x40)], program(Operand)),
        (&[Start], 0x1_0000, AT, &[(1, 0x20)], program(Operand)),
        (&[Start], 0x1_0000, AT, &[(1, 0x02)], program(Operand)),
        (&[Start], 0x1_0000, AT, &[(2, 1 << 31)], program(Operand)),
        // Subchannel-information blocks.
        (&[Modify], 0x1_0000, AT, &[(0, !0), (1, 0xf8ff_ffff), (6, 0x00e0_0001), (7, !0)], cc(3)),
        (&[Modify], 0x1_0000, AT, &[(1, 0x0100_0000)], program(Operand)),
        (&[Modify], 0x1_0000, AT, &[(1, 0x0400_0000)], program(Operand)),
        (&[Modify], 0x1_0000, AT, &[(6, 0x0100_0000)], program(Operand)),
        (&[Modify], 0x1_0000, AT, &[(6, 0x0000_0008)], program(Operand)),
        (&[Modify], 0x1_0000, AT, &[(6, 0x0000_0002)], program(Operand)),
        (&[Modify], 0x1_0000, AT, &[(6, 4), (11, 0x40)], cc(3)),
        (&[Modify], 0x1_0000, AT, &[(6, 4), (11, 0x20)], program(Operand)),
        (&[Modify], 0x1_0000, AT, &[(11, 0x20)], cc(3)),
    ] {
        check(operations, subsystem_id, address, words, outcome);
    }
    let guest = Guest::new();
    guest.put(SIZE - 12, &[0, 0, 0, 0, 0, 0, 0, 1]);
    let start = Exit::Subchannel { operation: Start, subsystem_id: 0x1_0000, operand: at(SIZE - 12) };
    assert_eq!(guest.execute(start), program(Addressing), "the extension of an ORB is fetched too");
}

#[test]
fn channel_reports() {
    let guest = Guest::new();
    assert_eq!(guest.stcrw(), (cc(1), 0));
    guest.css.ap_config_changed(&guest.post);
    guest.css.report(ChannelReportWord::new(3, 4, 0x1234), &guest.post);
    assert_eq!(guest.post.take_reports(), 1, "whoever takes the first takes both");
    // An operand that cannot be stored into loses nothing.
    for (address, code) in [
        (AT + 2, ProgramCode::Specification),
        (READ_ONLY, ProgramCode::Protection),
        (SIZE, ProgramCode::Addressing),
    ] {
        assert_eq!(guest.execute(Exit::StoreChannelReportWord(at(address))), program(code));
    }
    assert_eq!(guest.stcrw(), (cc(0), 0x0b00_0000));
    assert_eq!(guest.stcrw(), (cc(0), 0x0304_1234));
    assert_eq!(guest.stcrw(), (cc(1), 0));
    guest.css.report(ChannelReportWord::new(3, 4, 1), &guest.post);
    assert_eq!(guest.post.take_reports(), 1, "announced again once all were taken");
    guest.css.reset();
    assert_eq!(guest.stcrw(), (cc(1), 0));
}

#[test]
fn lost_reports_are_announced() {
    let guest = Guest::new();
    for n in 0..REPORTS_MAX as u16 + 5 {
        guest.css.report(ChannelReportWord::new(3, 4, n), &guest.post);
    }
    assert_eq!(guest.post.take_reports(), 1);
    for n in 0..REPORTS_MAX as u32 {
        let overflow = if n == REPORTS_MAX as u32 - 1 { ChannelReportWord::OVERFLOW } else { 0 };
        let (outcome, word) = guest.stcrw();
        assert_eq!((outcome, word), (cc(0), 0x0304_0000 | n | overflow));
        assert_eq!(ChannelReportWord(word).overflow(), overflow != 0);
    }
    assert_eq!(guest.stcrw(), (cc(1), 0));
}

#[test]
fn a_changed_ap_configuration() {
    let guest = Guest::new();
    let sei = request(16, 0x000e, &[0, 0, 0, 0, 0xa0, 0, 0, 0]);
    let event = [0, 24, 0, 1, 0, 0, 0, 0, 0, 0, 5, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
    let none = (0x0005, vec![0, 8, 0, 5, 0, 0, 0, 0]);
    assert_eq!(guest.chsc(&sei), none);
    // Several changes are one report and one event, also after the report was taken.
    guest.css.ap_config_changed(&guest.post);
    guest.css.ap_config_changed(&guest.post);
    assert_eq!(guest.stcrw(), (cc(0), 0x0b00_0000));
    guest.css.ap_config_changed(&guest.post);
    assert_eq!((guest.post.take_reports(), guest.stcrw()), (1, (cc(1), 0)));
    // A request block that leaves no way to store the response leaves the event.
    guest.put(READ_ONLY, &sei);
    assert_eq!(guest.execute(Exit::ChannelSubsystemCall(at(READ_ONLY))), program(ProgramCode::Protection));
    for bad in [request(24, 0x000e, &[]), request(16, 0x000e, &[0, 0, 0, 1])] {
        assert_eq!(guest.chsc(&bad).0, 0x0003);
    }
    assert_eq!(guest.chsc(&sei), (0x0001, event.clone()));
    assert_eq!(guest.chsc(&sei), none);
    // A change after the event was read is news. Notification type 0 cannot be masked.
    guest.css.ap_config_changed(&guest.post);
    assert_eq!((guest.post.take_reports(), guest.stcrw()), (1, (cc(0), 0x0b00_0000)));
    assert_eq!(guest.chsc(&request(16, 0x000e, &[])), (0x0001, event));
    guest.css.ap_config_changed(&guest.post);
    guest.css.reset();
    assert_eq!((guest.stcrw(), guest.chsc(&sei)), ((cc(1), 0), none));
}

#[test]
fn chsc_commands() {
    #[track_caller]
    fn check(length: u16, command: u16, fields: &[u8], code: u16, response_length: usize) {
        let (actual, response) = Guest::new().chsc(&request(length, command, fields));
        assert_eq!((actual, response.len()), (code, response_length));
        assert!(response[8..].iter().all(|&byte| byte == 0));
    }
    for (length, command, fields, code, response_length) in [
        // Characteristics: nothing is offered.
        (16, 0x0010, &[][..], 0x0001, 4080),
        (16, 0x0010, &[0x20], 0x0001, 4080),
        (16, 0x0010, &[0, 1], 0x0007, 8),
        (16, 0x0010, &[0, 8], 0x0007, 8),
        (16, 0x0010, &[0, 0, 1], 0x0008, 8),
        (16, 0x0010, &[0x20, 0, 0x80], 0x0008, 8),
        (16, 0x0010, &[0x80], 0x0003, 8),
        (16, 0x0010, &[0, 0x10], 0x0003, 8),
        (16, 0x0010, &[0, 0, 0, 1], 0x0003, 8),
        (16, 0x0010, &[0, 0, 0, 0, 1], 0x0003, 8),
        (16, 0x0010, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 0x0003, 8),
        (24, 0x0010, &[], 0x0003, 8),
        // Domain attributes: neither facility can be enabled.
        (0x400, 0x0031, &[0, 0, 0, 0], 0x0101, 8),
        (0x400, 0x0031, &[0, 0, 0, 2], 0x0101, 8),
        (0x400, 0x0031, &[0, 0, 0, 1], 0x0003, 8),
        (0x400, 0x0031, &[0, 0, 1, 2], 0x0003, 8),
        (0x400, 0x0031, &[1, 0, 0, 2], 0x0007, 8),
        (0x400, 0x0031, &[0x10, 0, 0, 2], 0x0003, 8),
        (0x400, 0x0031, &[0, 1, 0, 2], 0x0003, 8),
        (16, 0x0031, &[0, 0, 0, 2], 0x0003, 8),
        // Subchannel descriptions: not valid, as many as fit.
        (16, 0x0004, &[0, 0, 0, 0, 0, 0, 0, 0], 0x0001, 40),
        (16, 0x0004, &[0, 0, 0, 5, 0, 0, 0, 7], 0x0001, 104),
        (16, 0x0004, &[0, 0, 0, 0, 0, 0, 0xff, 0xff], 0x0001, 8 + 127 * 32),
        (16, 0x0004, &[0, 0, 0, 1, 0, 0, 0, 0], 0x0003, 8),
        (16, 0x0004, &[0, 0x10, 0, 0, 0, 0, 0, 0], 0x0003, 8),
        (16, 0x0004, &[0, 0, 0, 0, 1, 0, 0, 0], 0x0003, 8),
        (16, 0x0004, &[0, 0, 0, 0, 0, 0, 0, 0, 1], 0x0003, 8),
        (24, 0x0004, &[], 0x0003, 8),
        // Not here.
        (16, 0x0002, &[], 0x0004, 8),
        (0xfe0, 0x0021, &[], 0x0004, 8),
        (16, 0x0024, &[], 0x0004, 8),
        (32, 0x0033, &[], 0x0004, 8),
        (16, 0x0034, &[], 0x0004, 8),
        (16, 0x0038, &[], 0x0004, 8),
        (16, 0x0000, &[], 0x0004, 8),
        (4088, 0xffff, &[], 0x0004, 8),
    ] {
        check(length, command, fields, code, response_length);
    }
}

#[test]
fn offered_characteristics() {
    // Bits 41 and 61 of the general, bit 0, the last and one too many of the CHSC characteristics.
    let config = Config { general: vec![41, 61], chsc: vec![0, 2032 * 8 - 1, 2032 * 8] };
    let (code, response) = Guest::with(config).chsc(&request(16, 0x0010, &[]));
    let mut expected = vec![0; 4080];
    expected[..4].copy_from_slice(&[0x0f, 0xf0, 0, 1]);
    for (offset, byte) in [(8 + 5, 0x40), (8 + 7, 0x04), (8 + 2040, 0x80), (4079, 0x01)] {
        expected[offset] = byte;
    }
    assert_eq!((code, response), (0x0001, expected));
}

#[test]
fn bad_chsc_blocks() {
    #[track_caller]
    fn check(address: u64, length: u16, outcome: Option<Outcome>) {
        let guest = Guest::new();
        if address < SIZE {
            guest.put(address, &request(length, 0x0010, &[0, 0, 1]));
        }
        assert_eq!(guest.execute(Exit::ChannelSubsystemCall(at(address))), outcome);
    }
    use ProgramCode::{Addressing, Operand, Protection, Specification};
    for (address, length, outcome) in [
        (AT, 16, cc(0)),
        (AT, 4088, cc(0)),
        (AT, 0, program(Operand)),
        (AT, 8, program(Operand)),
        (AT, 15, program(Operand)),
        (AT, 17, program(Operand)),
        (AT, 20, program(Operand)),
        (AT, 4089, program(Operand)),
        (AT, 4096, program(Operand)),
        (AT, 0xfff8, program(Operand)),
        (AT + 8, 16, program(Specification)),
        (AT + 0x800, 0, program(Specification)),
        (SIZE, 16, program(Addressing)),
        (!0xfff, 16, program(Addressing)),
        (READ_ONLY, 16, program(Protection)),
        (READ_ONLY, 8, program(Operand)),
    ] {
        check(address, length, outcome);
    }
}

#[test]
fn test_pending_interruption() {
    let adapter = |isc| IoInterruption {
        parameter: 0x1234_5678,
        subsystem_id: 0x1_0007,
        ..IoInterruption::adapter(isc)
    };
    #[track_caller]
    fn check(
        pending: &[IoInterruption],
        cr6: u64,
        address: u64,
        outcome: Option<Outcome>,
        left: usize,
    ) -> Guest {
        let guest = Guest::new();
        guest.post.io.lock().unwrap().extend(pending);
        assert_eq!(guest.execute_with(Exit::TestPendingInterruption(at(address)), cr6), outcome);
        assert_eq!(guest.post.io.lock().unwrap().len(), left);
        guest
    }
    let all = 0xff << 24;
    let guest = check(&[adapter(6)], all, AT, cc(1), 0);
    assert_eq!(guest.get(AT), [0, 1, 0, 7, 0x12, 0x34, 0x56, 0x78, 0xee, 0xee]);
    let guest = check(&[adapter(6)], all, 0, cc(1), 0);
    assert_eq!(guest.get(PREFIX + 184), [0, 1, 0, 7, 0x12, 0x34, 0x56, 0x78, 0xb0, 0, 0, 0, 0, 0, 0, 0]);
    let guest = check(&[adapter(6), adapter(3)], 0x10 << 24, 0, cc(1), 1);
    assert_eq!(guest.get(PREFIX + 192), [0x98, 0, 0, 0]);
    for (pending, cr6, address, outcome, left) in [
        (&[][..], all, AT, cc(0), 0),
        (&[adapter(6)], 0, AT, cc(0), 1),
        (&[adapter(6)], 0xfd << 24, AT, cc(0), 1),
        (&[adapter(6)], 0x02 << 24, AT, cc(1), 0),
        (&[adapter(0)], 0x80 << 24, AT, cc(1), 0),
        (&[adapter(0)], !all, AT, cc(0), 1),
        // Nothing is taken by an instruction that does not complete; nothing pending, nothing accessed.
        (&[adapter(6)], all, AT + 2, program(ProgramCode::Specification), 1),
        (&[adapter(6)], all, READ_ONLY, program(ProgramCode::Protection), 1),
        (&[adapter(6)], all, SIZE, program(ProgramCode::Addressing), 1),
        (&[], all, READ_ONLY, cc(0), 0),
    ] {
        check(pending, cr6, address, outcome, left);
    }
}

#[test]
fn other_exits() {
    for (exit, outcome) in [(Exit::OtherChannelInstruction, cc(3)), (Exit::Pqap, None), (Exit::Stopped, None)]
    {
        assert_eq!(Guest::new().execute(exit), outcome);
    }
}

/// What Linux 6.12 and 7.2 do from `css_bus_init` to a plugged adapter, in their order.
#[test]
fn linux_boot() {
    let guest = Guest::new();
    let stsch = |number: u32| Exit::Subchannel {
        operation: SubchannelOperation::Store,
        subsystem_id: 0x1_0000 | number,
        operand: at(AT),
    };
    assert_eq!(guest.execute(Exit::TestPendingInterruption(at(0))), cc(0));
    assert_eq!(guest.chsc(&request(16, 0x0010, &[])).0, 0x0001);
    assert_eq!(guest.chsc(&request(0x400, 0x0031, &[0, 0, 0, 2])).0, 0x0101);
    assert_eq!(guest.chsc(&request(16, 0x0034, &[])).0, 0x0004);
    assert_eq!(guest.execute(stsch(0)), cc(3));
    assert_eq!(guest.chsc(&request(32, 0x0033, &[])).0, 0x0004);
    assert_eq!(guest.stcrw(), (cc(1), 0));
    // A card is plugged: machine check, reports until there are no more, events while the flag says so.
    guest.css.ap_config_changed(&guest.post);
    assert_eq!(guest.post.take_reports(), 1);
    assert_eq!(guest.stcrw(), (cc(0), 0x0b00_0000));
    let (code, event) = guest.chsc(&request(16, 0x000e, &[0, 0, 0, 0, 0xa0]));
    assert_eq!((code, event[7], event[8], event[10], event[11]), (1, 0, 0, 5, 3));
    assert_eq!(guest.stcrw(), (cc(1), 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No block and no operand makes the channel subsystem panic, and no event is lost by any.
    #[test]
    fn any_block(
        steps in prop::collection::vec((0usize..12, any::<u32>(), prop_oneof![Just(AT), 0u64..SIZE / 4096, any::<u64>()]), 1..12),
        length in prop_oneof![any::<u16>(), (0u16..520).prop_map(|n| n * 8), Just(16), Just(0x400)],
        command in prop_oneof![any::<u16>(), Just(0x0e), Just(0x10), Just(0x31), Just(0x04)],
        fields in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 12),
    ) {
        use SubchannelOperation::*;
        let guest = Guest::new();
        guest.css.ap_config_changed(&guest.post);
        guest.post.post(Floating::Io(IoInterruption::adapter(6)));
        for (kind, subsystem_id, address) in steps {
            let address = if address < SIZE / 4096 { address * 4096 } else { address };
            if address < SIZE - 4096 {
                guest.put(address, &request(length, command, &fields));
            }
            let operand = at(address);
            let exit = match [Start, Modify, Store, Test, Halt, Clear, Resume, Cancel].get(kind) {
                Some(&operation) => Exit::Subchannel { operation, subsystem_id, operand },
                None if kind == 8 => Exit::StoreChannelReportWord(operand),
                None if kind == 9 => Exit::TestPendingInterruption(operand),
                None => Exit::ChannelSubsystemCall(operand),
            };
            let pending = guest.css.reports().event_pending();
            let outcome = guest.execute(exit);
            let stored = matches!(exit, Exit::ChannelSubsystemCall(_)) && outcome == cc(0);
            if pending && !guest.css.reports().event_pending() {
                prop_assert!(stored && command == 0x0e);
                let absolute = RealAddress(address + 16).absolute(PREFIX);
                prop_assert_eq!(guest.get::<4>(absolute.0), [0, 24, 0, 1]);
            }
        }
    }
}
