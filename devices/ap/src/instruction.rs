//! The instruction layer: PQAP, NQAP and DQAP as functions of register images.
//!
//! Nothing here knows a CPU. A function takes what the registers hold and what the guest may do, and answers what the
//! registers shall hold; [`ApMachine::execute`] joins it to a CPU. The engine that interprets SIE calls the same
//! functions with the view of the block that the SIE block designates.
//!
//! The architecture of these instructions is not published. The rules are those of Linux (`arch/s390/include/asm/ap.h`,
//! `drivers/s390/crypto/ap_bus.c` and `ap_queue.c`, `arch/s390/kvm/priv.c`, `vfio_ap_ops.c`). Where Linux leaves a choice it is
//! named *our reading*.

use crycb::{Apqn, CrycbFormat, CrycbView, QCI_SIZE, QciFlags};
use zarch::{AbsoluteAddress, Facility, FacilityList, ProgramCode, ProgramInterruption};
use zeroize::Zeroizing;

use crate::hardware::ApMachine;
use crate::notifier::Notifier;
use crate::queue::Dequeue;
use crate::status::{ResponseCode, Status, mode_bits};

/// Function codes of PQAP, bits 32-39 of general register 0.
mod function {
    pub const TAPQ: u8 = 0;
    pub const RAPQ: u8 = 1;
    pub const ZAPQ: u8 = 2;
    pub const AQIC: u8 = 3;
    pub const QCI: u8 = 4;
    pub const QACT: u8 = 5;
}

/// General register 0 of PQAP, bit 40: TAPQ with facilities.
const T_BIT: u64 = 1 << 23;
/// General register 0 of PQAP, bits 41-47.
const RESERVED: u64 = 0x7f_0000;
/// Bit 41 of these: a force bit (RAPQ, ZAPQ) or an option (QACT), both without effect here.
const OPTION: u64 = 1 << 22;
/// The bits of an APQN that only a machine with extended addressing has: APID above 63, APQI above 15.
const EXTENDED: u64 = 0xc0f0;
/// General register 1 of AQIC, bit 16 (IR): enable.
const ENABLE: u64 = 1 << 47;
/// General register 0 of NQAP, bit 33: the last part of the message.
const LAST_PART: u64 = 1 << 30;
/// General register 0 of NQAP, bit 41: a special command.
const SPECIAL: u64 = 1 << 22;
/// General register 0 of DQAP, bit 32: begin with the first byte of the oldest reply.
const FIRST_PART: u64 = 1 << 31;
/// The lowest adapter type that QACT knows: CEX4.
const LOWEST_TYPE: u8 = 10;

/// Who issues an AP instruction.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// The CRYCB as it is at this instruction.
    pub crycb: CrycbView<'a>,
    /// The facilities of the guest.
    pub facilities: &'a FacilityList,
    /// PSW bit 15.
    pub problem_state: bool,
    /// Where replies are reported when AQIC asks for it.
    pub notifier: &'a Notifier,
    /// Whether somebody handles AQIC. For an AQIC the caller has [entered](crate::PqapHook::enter) the guest's hook, before
    /// all else, and keeps it as it is; no other function looks at this.
    pub hook: bool,
}

impl Environment<'_> {
    fn has(&self, facility: Facility) -> bool {
        self.facilities.has(facility)
    }

    fn check_privilege(&self) -> Result<(), ProgramInterruption> {
        if self.problem_state { Err(ProgramCode::PrivilegedOperation.into()) } else { Ok(()) }
    }

    /// The queue of the APQN in general register 0, when the guest may reach it.
    fn reach(&self, gr0: u64) -> Option<Apqn> {
        let apqn = apqn(gr0);
        self.crycb.test(apqn).then_some(apqn)
    }

    /// Whether the guest addresses 256 adapters and domains.
    fn apxa(&self) -> bool {
        self.crycb.format() == CrycbFormat::Format2
    }
}

/// What PQAP leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PqapAnswer {
    /// General register 1, where it changes: the status in bits 32-63, zeros in bits 0-31.
    pub gr1: Option<u64>,
    /// General register 2, where it changes.
    pub gr2: Option<u64>,
    /// The condition code.
    pub condition_code: u8,
    /// What is stored at the logical address in general register 2; when the store fails nothing else changes.
    pub store: Option<[u8; QCI_SIZE]>,
}

impl PqapAnswer {
    fn status(status: Status) -> Self {
        Self {
            gr1: Some(status.word().into()),
            gr2: None,
            condition_code: status.condition_code(),
            store: None,
        }
    }

    fn with_gr2(self, value: u64) -> Self {
        Self { gr2: Some(value), ..self }
    }
}

/// Whether PQAP with this general register 0 is AQIC.
pub(crate) fn is_aqic(gr0: u64) -> bool {
    (gr0 >> 24) as u8 == function::AQIC
}

/// The APQN that general register 0 names.
pub(crate) fn apqn(gr0: u64) -> Apqn {
    Apqn(gr0 as u16)
}

const NOT_AVAILABLE: Status = Status::code(ResponseCode::NotAvailable);

impl ApMachine {
    /// PROCESS ADJUNCT-PROCESSOR QUEUE with these general registers 0, 1 and 2.
    ///
    /// # Errors
    /// Privileged operation in the problem state; specification for a function that the guest does not have (AQIC, QCI, QACT
    /// without their facility, anything not defined), reserved bits, the T bit without facility 15, an APQN beyond the reach of
    /// a guest without extended addressing, a misaligned block.
    pub fn pqap(
        &self,
        guest: &Environment<'_>,
        gr0: u64,
        gr1: u64,
        gr2: u64,
    ) -> Result<PqapAnswer, ProgramInterruption> {
        guest.check_privilege()?;
        let code = (gr0 >> 24) as u8;
        let (available, reserved) = match code {
            function::TAPQ => (true, RESERVED),
            function::RAPQ | function::ZAPQ => (true, RESERVED & !OPTION),
            function::AQIC => (guest.has(Facility::ApInterruptions), RESERVED),
            function::QCI => (guest.has(Facility::ApQci), RESERVED),
            function::QACT => (guest.has(Facility::ApQci) && self.has_qact(), RESERVED & !OPTION),
            _ => (false, 0),
        };
        if !available
            || gr0 & reserved != 0
            || gr0 & T_BIT != 0 && !guest.has(Facility::ApFacilitiesTest)
            || gr0 & EXTENDED != 0 && code != function::QCI && !guest.apxa()
            || code == function::QCI && !gr2.is_multiple_of(8)
        {
            return Err(ProgramCode::Specification.into());
        }
        if code == function::QCI {
            let block = guest.crycb.qci_view(&self.qci()).to_bytes();
            return Ok(PqapAnswer { gr1: None, gr2: None, condition_code: 0, store: Some(block) });
        }
        let Some(apqn) = guest.reach(gr0) else { return Ok(PqapAnswer::status(NOT_AVAILABLE)) };
        Ok(match code {
            function::TAPQ => self.tapq(guest, apqn, gr0 & T_BIT != 0),
            // An emulated card holds nothing for a queue that a reset would leave.
            function::RAPQ | function::ZAPQ => PqapAnswer::status(self.reset_by_guest(apqn)),
            function::AQIC => PqapAnswer::status(self.aqic(guest, apqn, gr1, gr2)),
            _ => self.qact(apqn, gr1),
        })
    }

    /// TEST ADJUNCT-PROCESSOR QUEUE: the status, and for every installed queue, in whatever state, what it is.
    fn tapq(&self, guest: &Environment<'_>, apqn: Apqn, facilities: bool) -> PqapAnswer {
        let (status, information) = self.test(apqn);
        let answer = PqapAnswer::status(status);
        let Some(mut information) = information else { return answer };
        information.apxa &= guest.apxa();
        answer.with_gr2(if facilities {
            information.register()
        } else {
            information.register_without_facilities()
        })
    }

    /// ADJUNCT-PROCESSOR QUEUE INTERRUPTION CONTROL. General register 2 holds the notification byte's address, absolute for
    /// the guest; general register 1 the ISC in bits 61-63. As in `vfio_ap` a bad address is found before the queue is asked,
    /// and the zone and GISA fields mean nothing for a guest. Without a hook there is no queue.
    fn aqic(&self, guest: &Environment<'_>, apqn: Apqn, gr1: u64, gr2: u64) -> Status {
        if !guest.hook {
            return NOT_AVAILABLE;
        }
        if gr1 & ENABLE == 0 {
            return self.disable_interruption(apqn);
        }
        self.enable_interruption(apqn, AbsoluteAddress(gr2), gr1 as u8 & 7, guest.notifier)
    }

    /// QUERY ADJUNCT-PROCESSOR COMPATIBILITY TYPE. General register 1 holds a mode in bits 3-5 and the highest type that the
    /// program knows in bits 32-39; the answer, in the same places of general register 2, is the highest type not above it
    /// that the queue is compatible with, 0 for none. Our reading: every type is compatible with those from CEX4 up to itself.
    fn qact(&self, apqn: Apqn, gr1: u64) -> PqapAnswer {
        let (status, information) = self.test(apqn);
        let answer = PqapAnswer::status(status);
        let (0, Some(information)) = (answer.condition_code, information) else { return answer };
        let mode = mode_bits(information.mode);
        let same_mode = (gr1 >> 58) as u8 & 7 == mode;
        let known = (gr1 >> 24) as u8;
        let compatible =
            if same_mode && known >= LOWEST_TYPE { known.min(information.hardware_type) } else { 0 };
        answer.with_gr2(u64::from(mode) << 58 | u64::from(compatible) << 24)
    }

    /// ENQUEUE ADJUNCT-PROCESSOR QUEUE, first step: what it answers before the message is fetched. With response code 00 the
    /// caller fetches `length` bytes and goes on with [`nqap_enqueue`](Self::nqap_enqueue); with any other the instruction
    /// ends without touching the message. A length that gets 00 is at most what the card takes.
    ///
    /// # Errors
    /// Privileged operation.
    pub fn nqap_check(
        &self,
        guest: &Environment<'_>,
        gr0: u64,
        length: u64,
    ) -> Result<Status, ProgramInterruption> {
        use ResponseCode::*;
        guest.check_privilege()?;
        let Some(apqn) = guest.reach(gr0) else { return Ok(NOT_AVAILABLE) };
        let status = self.check_enqueue(apqn, length);
        Ok(match status.response_code {
            // Our reading: a machine that takes messages in one part only answers a part that is not the last so.
            Normal | MessageTooBig | FullOrNoReply if gr0 & LAST_PART == 0 => status.with(NoFirstPart),
            Normal | MessageTooBig | FullOrNoReply if gr0 & SPECIAL != 0 && !self.has_apsc() => {
                status.with(FacilityNotInstalled)
            }
            _ => status,
        })
    }

    /// ENQUEUE ADJUNCT-PROCESSOR QUEUE, second step, with the fetched message. The queue may have changed since the first
    /// step: the status says whether the message was accepted.
    pub fn nqap_enqueue(&self, gr0: u64, psmid: u64, message: Zeroizing<Vec<u8>>) -> Status {
        self.enqueue(apqn(gr0), psmid, message)
    }

    /// DEQUEUE ADJUNCT-PROCESSOR QUEUE into a buffer of `room` bytes. Either a status other than 00 ends the instruction, or
    /// the caller stores [`Dequeue::bytes`] into the buffer and calls [`Dequeue::commit`]; meanwhile the queue waits. Without
    /// the commit nothing was dequeued.
    ///
    /// Bit 32 of general register 0 begins with the first byte of the oldest reply. A reply longer than the buffer stays on
    /// the queue, and [`dqap_continuation`] is what general register 0 then holds to get the rest. Our reading: the index of
    /// the next byte stands in bits 0-31; 13 answers a continuation of nothing, also after a reset, 11 an index beyond what
    /// was dequeued. That suffices for Linux, which passes back the register as it was left.
    ///
    /// # Errors
    /// Privileged operation.
    pub fn dqap_begin(
        &self,
        guest: &Environment<'_>,
        gr0: u64,
        room: u64,
    ) -> Result<Result<Dequeue<'_>, Status>, ProgramInterruption> {
        guest.check_privilege()?;
        let Some(apqn) = guest.reach(gr0) else { return Ok(Err(NOT_AVAILABLE)) };
        let part = (gr0 & FIRST_PART == 0).then_some(gr0 >> 32);
        Ok(self.begin_dequeue(apqn, room, part))
    }

    fn has_qact(&self) -> bool {
        self.qci().flags.has(QciFlags::QACT)
    }

    fn has_apsc(&self) -> bool {
        self.qci().flags.has(QciFlags::APSC)
    }
}

/// General register 0 after DQAP stored a part that ends before byte `next` of the reply.
pub fn dqap_continuation(gr0: u64, next: u64) -> u64 {
    gr0 & 0xffff_ffff & !FIRST_PART | next << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Bench, DEPTH, MAX_MESSAGE, STORAGE, apqn as queue, facilities, mask};
    use crate::queue::{AdapterState, ENABLE_TIME, RESET_TIME};
    use ProgramCode::{PrivilegedOperation, Specification};
    use crycb::{Apid, Crycb, Matrix, Qci};

    const ALL: [Facility; 3] = [Facility::ApQci, Facility::ApFacilitiesTest, Facility::ApInterruptions];
    const WIDE: CrycbFormat = CrycbFormat::Format2;
    /// AQIC's general register 1: enable on ISC 6.
    const ON: u64 = ENABLE | 6;
    const NIB: u64 = 0x1_2345;

    fn fc(function: u8, apqn: u64) -> u64 {
        u64::from(function) << 24 | apqn
    }

    /// The guest may reach 05, 06 and 07 in domains 04, 0F and AB, of which 0F and adapter 07 are not installed.
    struct Setup {
        bench: Bench,
        bytes: [u8; 256],
        format: CrycbFormat,
        facilities: FacilityList,
        problem_state: bool,
    }

    fn setup(format: CrycbFormat, has: &[Facility], problem_state: bool) -> Setup {
        let matrix = Matrix { apm: mask(&[5, 6, 7]), aqm: mask(&[4, 15, 0xab]), adm: mask(&[4]) };
        let bytes = *Crycb::new(format, &matrix).bytes();
        Setup { bench: Bench::new(false), bytes, format, facilities: facilities(has), problem_state }
    }

    impl Setup {
        fn environment(&self) -> Environment<'_> {
            Environment {
                crycb: CrycbView::new(self.format, &self.bytes),
                facilities: &self.facilities,
                problem_state: self.problem_state,
                notifier: &self.bench.guest.notifier,
                hook: self.bench.guest.hook().is_set(),
            }
        }

        fn pqap(&self, gr0: u64, gr1: u64, gr2: u64) -> Result<PqapAnswer, ProgramCode> {
            self.bench.machine.pqap(&self.environment(), gr0, gr1, gr2).map_err(|e| e.code)
        }

        fn word(&self, gr0: u64, gr1: u64, gr2: u64) -> u64 {
            let answer = self.pqap(gr0, gr1, gr2).unwrap();
            let word = answer.gr1.unwrap();
            assert_eq!(answer.condition_code, if word & 0xff_0000 == 0 { 0 } else { 3 }, "{answer:x?}");
            word
        }

        fn nqap(&self, gr0: u64, message: &[u8]) -> Status {
            let status =
                self.bench.machine.nqap_check(&self.environment(), gr0, message.len() as u64).unwrap();
            if status.condition_code() != 0 {
                return status;
            }
            self.bench.machine.nqap_enqueue(gr0, 0, Zeroizing::new(message.to_vec()))
        }
    }

    #[test]
    fn exceptions() {
        #[track_caller]
        fn check(
            (format, has, problem_state): (CrycbFormat, &[Facility], bool),
            gr0: u64,
            gr2: u64,
            want: Result<(), ProgramCode>,
        ) {
            let s = setup(format, has, problem_state);
            let before = s.bench.machine.statistics(queue(5, 4));
            assert_eq!(s.pqap(gr0, 0, gr2).map(|_| ()), want, "gr0 {gr0:x} gr2 {gr2:x}");
            assert_eq!(s.bench.machine.statistics(queue(5, 4)), before);
            assert_eq!(s.bench.machine.status(queue(5, 4)).word(), 0x8000_0000, "nothing was reset");
        }
        let all = &ALL[..];
        for function in [0, 3, 4, 5, 6, 9, 0xff] {
            check((WIDE, all, true), fc(function, 0x0504), 0, Err(PrivilegedOperation));
        }
        for function in [6, 7, 8, 9, 0x7f, 0xff] {
            check((WIDE, all, false), fc(function, 0x0504), 0, Err(Specification));
        }
        for bit in 41..=47 {
            let bit = 1 << (63 - bit);
            for function in [0, 3, 4] {
                check((WIDE, all, false), fc(function, 0x0504) | bit, 0, Err(Specification));
            }
            if bit != OPTION {
                for function in [1, 2, 5] {
                    check((WIDE, all, false), fc(function, 0x0504) | bit, 0, Err(Specification));
                }
            }
        }
        check((WIDE, all, false), fc(5, 0x0504) | OPTION, 0, Ok(()));
        // Bits 0-31 are not looked at.
        check((WIDE, all, false), fc(0, 0x0504) | 0xffff_ffff << 32, 0, Ok(()));

        // T and facility 15.
        for function in [0, 1, 2, 3, 5] {
            let without = [Facility::ApQci, Facility::ApInterruptions];
            check((WIDE, &without, false), fc(function, 0x0504) | T_BIT, 0, Err(Specification));
        }
        check((WIDE, all, false), fc(0, 0x0504) | T_BIT, 0, Ok(()));
        check((WIDE, &[], false), fc(0, 0x0504), 0, Ok(()));

        // No extended addressing.
        for (format, want) in [
            (CrycbFormat::Format0, Err(Specification)),
            (CrycbFormat::Format1, Err(Specification)),
            (WIDE, Ok(())),
        ] {
            for apqn in [0x4004, 0x8004, 0x0510, 0x0520, 0x0540, 0x0580, 0xffff] {
                check((format, all, false), fc(0, apqn), 0, want);
            }
            for apqn in [0x3f0f, 0x0504] {
                check((format, all, false), fc(0, apqn), 0, Ok(()));
            }
            check((format, all, false), fc(4, 0xffff), 0, Ok(()));
        }

        // Functions with a facility of their own.
        check((WIDE, &[Facility::ApQci], false), fc(3, 0x0504), 0, Err(Specification));
        check((WIDE, &[Facility::ApInterruptions], false), fc(3, 0x0504), 0, Ok(()));
        check((WIDE, &[Facility::ApInterruptions], false), fc(4, 0), 0, Err(Specification));
        check((WIDE, &[Facility::ApInterruptions], false), fc(5, 0x0504), 0, Err(Specification));
        check((WIDE, &[Facility::ApQci], false), fc(4, 0), 0, Ok(()));
        for misaligned in [1, 2, 4, 7, 0x1004] {
            check((WIDE, all, false), fc(4, 0), misaligned, Err(Specification));
        }

        let s = setup(WIDE, all, true);
        let (machine, environment) = (&s.bench.machine, s.environment());
        let gr0 = LAST_PART | 0x0504;
        let privileged = Some(ProgramInterruption::new(PrivilegedOperation));
        assert_eq!(machine.nqap_check(&environment, gr0, 8).err(), privileged);
        assert_eq!(machine.dqap_begin(&environment, gr0, 8).err(), privileged);
    }

    #[test]
    fn which_queue() {
        let s = setup(WIDE, &ALL, false);
        for function in [0, 1, 2, 3, 5] {
            for apqn in [0x0804, 0x0505, 0x050f, 0x0704, 0x07ab, 0, 0xffff] {
                let answer = s.pqap(fc(function, apqn) | T_BIT, ON, 0).unwrap();
                let none = PqapAnswer { gr1: Some(0x1_0000), gr2: None, condition_code: 3, store: None };
                assert_eq!(answer, none, "{function} {apqn:x}");
            }
        }
        for apqn in [0x0804, 0x0505, 0x050f, 0x0704] {
            let status = s.bench.machine.nqap_check(&s.environment(), LAST_PART | apqn, 1 << 40).unwrap();
            assert_eq!(status.word(), 0x1_0000);
            let begun = s.bench.machine.dqap_begin(&s.environment(), FIRST_PART | apqn, 8).unwrap();
            assert_eq!(begun.err().unwrap().word(), 0x1_0000);
        }
    }

    #[test]
    fn tapq() {
        let s = setup(WIDE, &ALL, false);
        let accelerator = 0xea00_0000_0eab_0303;
        let cca = 0xf200_0000_0eab_0303;
        for (apqn, gr2) in [(0x0504, accelerator), (0x05ab, accelerator), (0x0604, cca)] {
            let answer = s.pqap(fc(0, apqn) | T_BIT, 7, 7).unwrap();
            let want = PqapAnswer { gr1: Some(0x8000_0000), gr2: Some(gr2), condition_code: 0, store: None };
            assert_eq!(answer, want, "{apqn:x}");
            assert_eq!(s.pqap(fc(0, apqn), 7, 7).unwrap().gr2, Some(3), "without T");
        }
        for (state, word) in [
            (AdapterState::Deconfigured, 0x8003_0000),
            (AdapterState::CheckStopped, 0x8004_0000),
            (AdapterState::Busy, 0x8005_0000),
            (AdapterState::Configured, 0x8000_0000),
        ] {
            assert!(s.bench.machine.set_adapter_state(Apid(5), state));
            let answer = s.pqap(fc(0, 0x0504) | T_BIT, 0, 0).unwrap();
            assert_eq!((answer.gr1, answer.gr2), (Some(word), Some(accelerator)), "{state:?}");
            assert_eq!(s.word(fc(0, 0x0604), 0, 0), 0x8000_0000, "another adapter");
        }
        assert!(!s.bench.machine.set_adapter_state(Apid(7), AdapterState::Configured));
        // A guest with the narrow block sees no extended addressing.
        let narrow = setup(CrycbFormat::Format1, &ALL, false);
        assert_eq!(narrow.pqap(0x504 | T_BIT, 0, 0).unwrap().gr2, Some(accelerator & !(1 << 57)));
    }

    #[test]
    fn reset_is_seen_and_ends() {
        for function in [1, 2] {
            for option in [0, OPTION] {
                let s = setup(WIDE, &ALL, false);
                let gr0 = fc(function, 0x0504) | option;
                assert_eq!(s.word(gr0, 0, 0), 0x8000_0000);
                assert_eq!(s.word(fc(0, 0x0504), 0, 0), 0x8002_0000);
                assert_eq!(s.word(gr0, 0, 0), 0x8002_0000);
                assert_eq!(s.word(fc(3, 0x0504), ON, NIB), 0x8002_0000);
                assert_eq!(s.nqap(LAST_PART | 0x504, b"x").word(), 0x8002_0000);
                let begun = s.bench.machine.dqap_begin(&s.environment(), FIRST_PART | 0x0504, 8).unwrap();
                assert_eq!(begun.err().unwrap().word(), 0x8002_0000);
                assert_eq!(s.word(fc(0, 0x05ab), 0, 0), 0x8000_0000, "the other queue");
                s.bench.clock.advance(RESET_TIME - 1);
                assert_eq!(s.word(fc(0, 0x0504), 0, 0), 0x8002_0000);
                s.bench.clock.advance(1);
                assert_eq!(s.word(fc(0, 0x0504), 0, 0), 0x8000_0000);
            }
        }
    }

    #[test]
    fn not_operational() {
        for (state, code) in
            [(AdapterState::Deconfigured, 3), (AdapterState::CheckStopped, 4), (AdapterState::Busy, 5)]
        {
            let s = setup(WIDE, &ALL, false);
            s.bench.machine.set_adapter_state(Apid(5), state);
            for (function, gr1) in [(1, 0), (2, 0), (3, 0), (3, ON), (5, 2 << 58 | 14 << 24)] {
                let word = s.word(fc(function, 0x0504), gr1, NIB);
                assert_eq!(word, 0x8000_0000 | code << 16, "{state:?} {function}");
            }
            assert_eq!(s.nqap(LAST_PART | 0x504, b"x").word() as u64, 0x8000_0000 | code << 16);
            assert_eq!(s.nqap(SPECIAL | 0x504, &[0; 1 << 16]).word() as u64, 0x8000_0000 | code << 16);
            let begun = s.bench.machine.dqap_begin(&s.environment(), FIRST_PART | 0x0504, 8).unwrap();
            assert_eq!(begun.err().unwrap().word() as u64, 0x8000_0000 | code << 16);
        }
    }

    #[test]
    fn aqic() {
        let s = setup(WIDE, &ALL, false);
        let aqic = |gr1, gr2| s.word(fc(3, 0x0504), gr1, gr2);
        for bad in [0, STORAGE, u64::MAX] {
            assert_eq!(aqic(ON, bad), 0x0006_0000, "{bad:x}");
        }
        assert_eq!(aqic(0, 0), 0x8007_0000, "it is disabled already");
        assert_eq!(aqic(ON, STORAGE - 1), 0x8000_0000);
        assert_eq!(aqic(ON, NIB), 0x8007_0000, "enabling again");
        s.bench.clock.advance(ENABLE_TIME - 1);
        assert_eq!(s.word(fc(0, 0x0504), 0, 0), 0x8000_0000, "not yet");
        s.bench.clock.advance(1);
        assert_eq!(s.word(fc(0, 0x0504), 0, 0), 0x8100_0000);
        assert_eq!(aqic(ON, NIB), 0x8107_0000, "enabled already");
        assert_eq!(aqic(ON, 0), 0x0006_0000, "the address is looked at first");
        assert_eq!(aqic(7, 0), 0x8000_0000, "IR zero disables at once");
        assert_eq!(aqic(0, 0), 0x8007_0000);
        // Disabling stops an enabling that has not ended.
        assert_eq!(aqic(ON, NIB), 0x8000_0000);
        assert_eq!(aqic(0, 0), 0x8000_0000);
        s.bench.clock.advance(2 * ENABLE_TIME);
        assert_eq!(s.word(fc(0, 0x0504), 0, 0), 0x8000_0000);
        assert!(s.bench.posted.iscs().is_empty());
    }

    #[test]
    fn qci() {
        let s = setup(WIDE, &ALL, false);
        let answer = s.pqap(fc(4, 0), 5, 0x1000).unwrap();
        assert_eq!((answer.gr1, answer.gr2, answer.condition_code), (None, None, 0));
        let qci = Qci::from_bytes(&answer.store.unwrap());
        assert_eq!((qci.flags, qci.na, qci.nd), (s.bench.machine.qci().flags, 255, 0xab));
        let want = Matrix { apm: mask(&[5, 6, 7]), aqm: mask(&[4, 15, 0xab]), adm: mask(&[4]) };
        assert_eq!(qci.matrix, want);
        let machine = s.bench.machine.qci();
        assert_eq!((machine.matrix.apm, machine.matrix.aqm), (mask(&[5, 6]), mask(&[4, 0xab])));
    }

    #[test]
    fn qact() {
        let s = setup(WIDE, &ALL, false);
        // Adapter 05 is a CEX8 (14) accelerator (mode 2).
        for (mode, known, compatible) in [
            (2, 14, 14),
            (2, 15, 14),
            (2, 255, 14),
            (2, 13, 13),
            (2, 10, 10),
            (2, 9, 0),
            (2, 0, 0),
            (4, 14, 0),
        ] {
            let answer = s.pqap(fc(5, 0x0504), mode << 58 | known << 24, 0).unwrap();
            let want = (Some(0x8000_0000), Some(2 << 58 | compatible << 24), 0);
            assert_eq!((answer.gr1, answer.gr2, answer.condition_code), want, "mode {mode} type {known}");
        }
    }

    #[test]
    fn nqap_limits() {
        let s = setup(WIDE, &ALL, false);
        s.bench.card.close();
        let gr0 = LAST_PART | 0x504;
        assert_eq!(s.nqap(gr0, &[0; MAX_MESSAGE + 1]).word(), 0x8015_0000);
        let endless = s.bench.machine.nqap_check(&s.environment(), gr0, u64::MAX).unwrap();
        assert_eq!(endless.word(), 0x8015_0000);
        assert_eq!(s.nqap(0x504, b"x").word(), 0x8013_0000);
        for n in 1..=DEPTH {
            let word = s.nqap(gr0, &[0; MAX_MESSAGE]).word();
            assert_eq!(word, if n == DEPTH { 0x2000_0000 } else { 0 }, "{n}");
        }
        assert_eq!(s.nqap(gr0, b"x").word(), 0x2010_0000);
        assert_eq!(s.nqap(gr0, &[0; MAX_MESSAGE + 1]).word(), 0x2015_0000);
        assert_eq!(s.nqap(0x504, b"x").word(), 0x2013_0000);
        // Two steps: the second finds what happened since the first.
        assert_eq!(s.bench.machine.nqap_enqueue(gr0, 0, Zeroizing::new(vec![1])).word(), 0x2010_0000);
        let begun = s.bench.machine.dqap_begin(&s.environment(), FIRST_PART | 0x0504, 8).unwrap();
        assert_eq!(begun.err().unwrap().word(), 0x2010_0000, "no reply yet");
        s.bench.card.open();
        assert_eq!(s.nqap(LAST_PART | SPECIAL | 0x05ab, b"x").word(), 0, "a special command");
    }

    #[test]
    fn continuation_register() {
        let gr0 = 0xdead_beef_8000_0504;
        assert_eq!(dqap_continuation(gr0, 0x123), 0x0000_0123_0000_0504);
    }
}
