//! Interruptions in the kernel's notation, `struct kvm_s390_irq`: a type of eight bytes and 64 bytes of
//! parameters, in the byte order of s390x.

use zarch::{IoInterruption, ProgramInterruption, mcic};

/// Size of one interruption in bytes.
pub const LENGTH: usize = 72;

/// Types without parameters in them.
mod kind {
    pub const STOP: u32 = 0xfffe_0000;
    pub const PROGRAM: u32 = 0xfffe_0001;
    pub const RESTART: u32 = 0xfffe_0003;
    pub const MACHINE_CHECK: u32 = 0xfffe_1000;
    pub const SERVICE: u32 = 0xffff_2401;
}

/// In the type of an I/O interruption: it is an adapter's.
const ADAPTER: u32 = 1 << 26;
/// Types of I/O interruptions are the numbers below.
const IO_END: u32 = 0xfffe_0000;
/// Interruption subclass of channel reports, in control register 14.
const CHANNEL_REPORT_SUBCLASS: u64 = 1 << 28;

/// One interruption.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Irq(pub [u8; LENGTH]);

impl std::fmt::Debug for Irq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Irq({:x}", self.kind())?;
        for (n, word) in self.0[8..].chunks(4).enumerate().filter(|(_, word)| *word != [0; 4]) {
            write!(f, " +{}:{}", n * 4, word.iter().map(|b| format!("{b:02x}")).collect::<String>())?;
        }
        write!(f, ")")
    }
}

impl Irq {
    /// An I/O interruption.
    pub fn io(io: IoInterruption) -> Self {
        let (id, number) = (io.subsystem_id, io.subsystem_id & 0xffff);
        // Subsystem-identification word: css image in bits 0-7, subchannel set in 13-14, one in 15.
        let kind = if io.is_adapter() { ADAPTER } else { number | (id >> 17 & 3) << 16 | (id >> 24) << 18 };
        Self::new(kind.min(IO_END - 1))
            .put(0, &io.subsystem_id.to_be_bytes())
            .put(4, &io.parameter.to_be_bytes())
            .put(8, &io.identification.to_be_bytes())
    }

    /// A service signal.
    pub fn service_signal(parameter: u32) -> Self {
        Self::new(kind::SERVICE).put(0, &parameter.to_be_bytes())
    }

    /// The machine check that says a channel report is pending.
    pub fn channel_report() -> Self {
        let code = mcic::CHANNEL_REPORT_PENDING | mcic::VALIDITY;
        Self::new(kind::MACHINE_CHECK)
            .put(0, &CHANNEL_REPORT_SUBCLASS.to_be_bytes())
            .put(8, &code.to_be_bytes())
    }

    /// A restart interruption.
    pub fn restart() -> Self {
        Self::new(kind::RESTART)
    }

    /// A stop of the CPU.
    pub fn stop() -> Self {
        Self::new(kind::STOP)
    }

    /// A program interruption by the intercepted instruction. The kernel adds the instruction's length, which user space
    /// does not see when EXECUTE is in play (`kvm_s390_get_ilen`).
    pub fn program(interruption: &ProgramInterruption) -> Self {
        let (class, code) = interruption.monitor.unwrap_or_default();
        Self::new(kind::PROGRAM)
            .put(0, &interruption.translation_exception_id.unwrap_or(0).to_be_bytes())
            .put(8, &code.to_be_bytes())
            .put(24, &u32::from(interruption.data_exception_code).to_be_bytes())
            .put(28, &(interruption.code as u16).to_be_bytes())
            .put(30, &class.to_be_bytes())
            .put(34, &[interruption.access_id])
    }

    /// The type.
    pub fn kind(&self) -> u32 {
        u64::from_be_bytes(self.0[..8].try_into().expect("8 bytes")) as u32
    }

    /// The I/O interruption that this is.
    pub fn as_io(&self) -> Option<IoInterruption> {
        let word = |at: usize| u32::from_be_bytes(self.0[8 + at..][..4].try_into().expect("4 bytes"));
        (self.kind() < IO_END).then(|| IoInterruption {
            subsystem_id: word(0),
            parameter: word(4),
            identification: word(8),
        })
    }

    fn new(kind: u32) -> Self {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&u64::from(kind).to_be_bytes());
        Self(bytes)
    }

    /// Puts `value` at byte `at` of the parameters.
    fn put(mut self, at: usize, value: &[u8]) -> Self {
        self.0[8 + at..][..value.len()].copy_from_slice(value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zarch::ProgramCode;

    fn check(irq: Irq, kind: u32, parameters: &[(usize, &[u8])]) {
        let mut want = [0; LENGTH];
        want[4..8].copy_from_slice(&kind.to_be_bytes());
        for (at, bytes) in parameters {
            want[8 + at..][..bytes.len()].copy_from_slice(bytes);
        }
        assert_eq!(irq, Irq(want));
        assert_eq!(irq.kind(), kind);
    }

    #[test]
    fn encodings() {
        check(Irq::restart(), 0xfffe_0003, &[]);
        check(Irq::stop(), 0xfffe_0000, &[]);
        check(Irq::service_signal(0x1234_5001), 0xffff_2401, &[(0, &[0x12, 0x34, 0x50, 1])]);
        check(
            Irq::channel_report(),
            0xfffe_1000,
            &[(0, &[0, 0, 0, 0, 0x10, 0, 0, 0]), (8, &[0x00, 0x40, 0x0f, 0x5d, 0x40, 0x33, 0, 0])],
        );
        let adapter = IoInterruption::adapter(3);
        check(Irq::io(adapter), 0x0400_0000, &[(8, &[0x98, 0, 0, 0])]);
        let io = IoInterruption { subsystem_id: 0xfe03_0007, parameter: 5, identification: 0x1800_0000 };
        check(
            Irq::io(io),
            7 | 1 << 16 | 0xfe << 18,
            &[(0, &[0xfe, 3, 0, 7]), (4, &[0, 0, 0, 5]), (8, &[0x18, 0, 0, 0])],
        );
        assert_eq!(Irq::io(io).as_io(), Some(io));
        assert_eq!(Irq::io(adapter).as_io(), Some(adapter));
        assert_eq!(Irq::restart().as_io(), None);
        // The greatest numbers stay below those of the other types.
        let last = IoInterruption { subsystem_id: u32::MAX, parameter: 0, identification: 0 };
        assert!(Irq::io(last).as_io().is_some());
    }

    #[test]
    fn program_interruptions() {
        let code = ProgramCode::PageTranslation;
        let program = ProgramInterruption { access_id: 9, ..ProgramInterruption::access(code, 0x1000_0801) };
        check(
            Irq::program(&program),
            0xfffe_0001,
            &[(0, &0x1000_0801u64.to_be_bytes()), (28, &[0, 0x11]), (34, &[9])],
        );
        // Without flags at 37: a length is only the kernel's to know.
        check(Irq::program(&ProgramInterruption::data(0xfe)), 0xfffe_0001, &[(27, &[0xfe]), (29, &[7])]);
    }
}
