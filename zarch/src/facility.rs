//! The facility list that STORE FACILITY LIST EXTENDED stores (chapter 4, *Facility Indications*).

/// Facility numbers: the bit positions in the facility list, under the manual's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[allow(missing_docs)] // The names are the manual's.
pub enum Facility {
    /// Bit 0, always one here: the instructions of ESA/390 mode marked N3 (and everything without a facility).
    N3 = 0,
    ZArchitecture = 1,
    ZArchitectureActive = 2,
    DatEnhancement1 = 3,
    AsnLxReuse = 6,
    StoreFacilityListExtended = 7,
    EnhancedDat1 = 8,
    SenseRunningStatus = 9,
    ConditionalSske = 10,
    ConfigurationTopology = 11,
    /// AP QUERY CONFIGURATION INFORMATION, PQAP(QCI).
    ApQci = 12,
    IpteRange = 13,
    NonquiescingKeySetting = 14,
    /// AP facilities test: the T bit of PQAP(TAPQ).
    ApFacilitiesTest = 15,
    ExtendedTranslation2 = 16,
    MessageSecurityAssist = 17,
    LongDisplacement = 18,
    LongDisplacementFast = 19,
    HfpMultiplyAdd = 20,
    ExtendedImmediate = 21,
    ExtendedTranslation3 = 22,
    HfpUnnormalizedExtension = 23,
    Etf2Enhancement = 24,
    StoreClockFast = 25,
    ParsingEnhancement = 26,
    MoveWithOptionalSpecifications = 27,
    TodClockSteering = 28,
    Etf3Enhancement = 30,
    ExtractCpuTime = 31,
    CompareAndSwapAndStore = 32,
    CompareAndSwapAndStore2 = 33,
    GeneralInstructionsExtension = 34,
    ExecuteExtensions = 35,
    EnhancedMonitor = 36,
    FloatingPointExtension = 37,
    LoadProgramParameter = 40,
    /// FPS-sign handling, FPR-GR transfer, DFP rounding, IEEE exception simulation.
    FloatingPointSupportEnhancement = 41,
    DecimalFloatingPoint = 42,
    PfpoOption = 44,
    /// Distinct operands, fast BCR serialization, high word, population count, load/store on
    /// condition, interlocked access 1.
    DistinctOperands = 45,
    CmpscEnhancement = 47,
    DfpZonedConversion = 48,
    /// Execution hint, load and trap, miscellaneous instruction extensions 1, processor assist.
    MiscellaneousInstructions1 = 49,
    ConstrainedTransaction = 50,
    LocalTlbClearing = 51,
    InterlockedAccess2 = 52,
    /// Load/store on condition 2, load and zero rightmost byte.
    LoadStoreOnCondition2 = 53,
    EntropyEncoding = 54,
    MessageSecurityAssist5 = 57,
    MiscellaneousInstructions2 = 58,
    MiscellaneousInstructions3 = 61,
    /// Adjunct-processor interruptions, PQAP(AQIC).
    ApInterruptions = 65,
    ResetReferenceBitsMultiple = 66,
    TransactionalExecution = 73,
    StoreHypervisorInformation = 74,
    AccessExceptionFetchStoreIndication = 75,
    MessageSecurityAssist3 = 76,
    MessageSecurityAssist4 = 77,
    EnhancedDat2 = 78,
    DfpPackedConversion = 80,
    Vector = 129,
    InstructionExecutionProtection = 130,
    SideEffectAccess = 131,
    GuardedStorage = 133,
    VectorPackedDecimal = 134,
    VectorEnhancements1 = 135,
    ConfigurationZArchitecturalMode = 138,
    MultipleEpoch = 139,
    TestPendingExternalInterruption = 144,
    InsertReferenceBitsMultiple = 145,
    MessageSecurityAssist8 = 146,
    VectorEnhancements2 = 148,
    MovePageAndSetKey = 149,
    EnhancedSort = 150,
    Deflate = 151,
    VectorPackedDecimal2 = 152,
    MessageSecurityAssist9 = 155,
    Etoken = 156,
}

/// The facility list: 256 bits, bit 0 leftmost of the first doubleword.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FacilityList(pub [u64; 4]);

impl FacilityList {
    /// A list with exactly the bits in `bits` (0 to 255; others are ignored).
    pub const fn from_bits(bits: &[u16]) -> Self {
        let mut list = [0u64; 4];
        let mut n = 0;
        while n < bits.len() {
            if bits[n] < 256 {
                list[(bits[n] / 64) as usize] |= 1 << (63 - bits[n] % 64);
            }
            n += 1;
        }
        Self(list)
    }

    /// Whether bit `facility` is one.
    pub const fn has(&self, facility: Facility) -> bool {
        self.bit(facility as u16)
    }

    /// Whether bit number `bit` is one; false above 255.
    pub const fn bit(&self, bit: u16) -> bool {
        bit < 256 && self.0[(bit / 64) as usize] >> (63 - bit % 64) & 1 != 0
    }

    /// Sets bit `bit` (0 to 255) to `on`.
    pub const fn set(&mut self, bit: u16, on: bool) {
        if bit < 256 {
            let mask = 1 << (63 - bit % 64);
            let word = &mut self.0[(bit / 64) as usize];
            *word = if on { *word | mask } else { *word & !mask };
        }
    }
}
