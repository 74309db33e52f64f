//! Interruption codes and what is stored with them (chapter 6).

/// Program-interruption codes (chapter 6, *Program Interruption*, and its figure of codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[allow(missing_docs)] // The names are the manual's; each is the exception of that name.
pub enum ProgramCode {
    Operation = 0x01,
    PrivilegedOperation = 0x02,
    Execute = 0x03,
    Protection = 0x04,
    Addressing = 0x05,
    Specification = 0x06,
    Data = 0x07,
    FixedPointOverflow = 0x08,
    FixedPointDivide = 0x09,
    DecimalOverflow = 0x0a,
    DecimalDivide = 0x0b,
    HfpExponentOverflow = 0x0c,
    HfpExponentUnderflow = 0x0d,
    HfpSignificance = 0x0e,
    HfpDivide = 0x0f,
    SegmentTranslation = 0x10,
    PageTranslation = 0x11,
    TranslationSpecification = 0x12,
    SpecialOperation = 0x13,
    Operand = 0x15,
    TraceTable = 0x16,
    VectorProcessing = 0x1b,
    SpaceSwitchEvent = 0x1c,
    HfpSquareRoot = 0x1d,
    PcTranslationSpecification = 0x1f,
    AfxTranslation = 0x20,
    AsxTranslation = 0x21,
    LxTranslation = 0x22,
    ExTranslation = 0x23,
    PrimaryAuthority = 0x24,
    SecondaryAuthority = 0x25,
    AletSpecification = 0x28,
    AlenTranslation = 0x29,
    AleSequence = 0x2a,
    AsteValidity = 0x2b,
    AsteSequence = 0x2c,
    ExtendedAuthority = 0x2d,
    StackFull = 0x30,
    StackEmpty = 0x31,
    StackSpecification = 0x32,
    StackType = 0x33,
    StackOperation = 0x34,
    AsceType = 0x38,
    RegionFirstTranslation = 0x39,
    RegionSecondTranslation = 0x3a,
    RegionThirdTranslation = 0x3b,
    MonitorEvent = 0x40,
    Per = 0x80,
    CryptoOperation = 0x119,
}

impl ProgramCode {
    /// Whether the operation is nullified: the old PSW then holds the address of the instruction
    /// itself, so that it is executed again (chapter 5, *Types of Instruction Ending*, and the notes
    /// of each exception in chapter 6).
    pub const fn nullifies(self) -> bool {
        use ProgramCode::*;
        matches!(
            self,
            SegmentTranslation
                | PageTranslation
                | AsceType
                | RegionFirstTranslation
                | RegionSecondTranslation
                | RegionThirdTranslation
                | AfxTranslation
                | AsxTranslation
                | LxTranslation
                | ExTranslation
                | PrimaryAuthority
                | SecondaryAuthority
                | AletSpecification
                | AlenTranslation
                | AleSequence
                | AsteValidity
                | AsteSequence
                | ExtendedAuthority
                | StackFull
                | StackEmpty
                | StackSpecification
                | StackType
                | StackOperation
                | TraceTable
        )
    }
}

/// A program exception with everything that the interruption stores beside the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramInterruption {
    /// The interruption code.
    pub code: ProgramCode,
    /// Translation-exception identification (real location 168), stored for access exceptions.
    pub translation_exception_id: Option<u64>,
    /// Exception access identification (real location 160).
    pub access_id: u8,
    /// Data-exception code (real location 147 and, with AFP enabled, byte 2 of the FPC).
    pub data_exception_code: u8,
    /// Monitor class and code, for monitor events only.
    pub monitor: Option<(u16, u64)>,
}

impl ProgramInterruption {
    /// An exception that stores nothing beside its code.
    pub const fn new(code: ProgramCode) -> Self {
        Self { code, translation_exception_id: None, access_id: 0, data_exception_code: 0, monitor: None }
    }

    /// A data exception with its DXC.
    pub const fn data(dxc: u8) -> Self {
        Self { data_exception_code: dxc, ..Self::new(ProgramCode::Data) }
    }

    /// An access exception with its translation-exception identification.
    pub const fn access(code: ProgramCode, teid: u64) -> Self {
        Self { translation_exception_id: Some(teid), ..Self::new(code) }
    }
}

impl From<ProgramCode> for ProgramInterruption {
    fn from(code: ProgramCode) -> Self {
        Self::new(code)
    }
}

/// External-interruption codes (chapter 6, *External Interruption*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ExternalCode {
    /// Interrupt key.
    InterruptKey = 0x0040,
    /// Clock comparator.
    ClockComparator = 0x1004,
    /// CPU timer.
    CpuTimer = 0x1005,
    /// Malfunction alert.
    MalfunctionAlert = 0x1200,
    /// Emergency signal.
    EmergencySignal = 0x1201,
    /// External call.
    ExternalCall = 0x1202,
    /// Service signal.
    ServiceSignal = 0x2401,
}

/// An I/O interruption: what is stored at real locations 184-195 (chapter 16, *I/O Interruption*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoInterruption {
    /// Subsystem-identification word; zero for an adapter interruption.
    pub subsystem_id: u32,
    /// I/O-interruption parameter.
    pub parameter: u32,
    /// I/O-interruption-identification word: bit 0 is A (adapter interruption), bits 2-4 the ISC.
    pub identification: u32,
}

impl IoInterruption {
    /// An adapter interruption on interruption subclass `isc` (0 to 7).
    pub const fn adapter(isc: u8) -> Self {
        Self { subsystem_id: 0, parameter: 0, identification: 1 << 31 | ((isc & 7) as u32) << 27 }
    }

    /// The interruption subclass, 0 to 7.
    pub const fn isc(self) -> u8 {
        (self.identification >> 27 & 7) as u8
    }

    /// Whether this is an adapter interruption.
    pub const fn is_adapter(self) -> bool {
        self.identification >> 31 != 0
    }
}

/// Machine-check-interruption code (chapter 11): the bits used here.
pub mod mcic {
    /// Bit 9: channel report pending (CP).
    pub const CHANNEL_REPORT_PENDING: u64 = 1 << 54;
    /// The validity bits that say the stored state is good: WP, MS, PM, IA, FP, GR, CR, ST, VR, AR, PR, FC
    /// and the CPU-timer and clock-comparator bits. Linux stops the system when registers that it needs are not valid; among
    /// them, also on a CPU without the vector facility, the vector registers, whose left halves the floating-point registers
    /// would be.
    pub const VALIDITY: u64 = 1 << 43 // 20 PSW-MWP
        | 1 << 42 // 21 PSW mask and key
        | 1 << 41 // 22 program mask and cc
        | 1 << 40 // 23 instruction address
        | 1 << 38 // 25 vector registers
        | 1 << 36 // 27 floating-point registers
        | 1 << 35 // 28 general registers
        | 1 << 34 // 29 control registers
        | 1 << 32 // 31 storage
        | 1 << 30 // 33 access registers
        | 1 << 21 // 42 TOD programmable register
        | 1 << 20 // 43 floating-point-control register
        | 1 << 17 // 46 CPU timer
        | 1 << 16; // 47 clock comparator
}
