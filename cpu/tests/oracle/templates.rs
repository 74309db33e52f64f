//! What the rows' operand fields mean to the generator, where format and checks do not say it.

use cpu::table::{Flags, Row};
use oracle::generate::{Class, Data, Implied, Length, Operand, Purpose, Template};

/// Why a row is not compared.
pub type Untestable = &'static str;

/// Mnemonics that are not compared, by reason.
const UNTESTABLE: &[(Untestable, &str)] = &[
    (
        "changes PSW, control registers or translation under the driver",
        "LPSW LPSWE LPSWEY SSM STNSM STOSM LCTL LCTLG SPX PTLB ALB IPTE IDTE CSP CSPG SAC SACF SSAR SSAIR PC PR PT PTI \
         BAKR BSA BSG LASP SCKPF RDP CRDTE",
    ),
    (
        "depends on storage keys, which the emulator keeps only in part",
        "SSKE ISKE RRBE RRBM IRBM PFMF TB IVSK",
    ),
    ("addresses real storage, which nothing protects", "LURA LURAG STURA STURG"),
    ("time", "STCK STCKE STCKF STPT STCKC SCK SCKC SPT ECTG PTFF"),
    ("tells the CPU model or configuration", "STFL STFLE STSI STIDP STAP ECAG EPCTR ESTA QCTRI QSI STPX PTF"),
    (
        "belongs to the machine: signals, channels, service processor, crypto cards",
        "SIGP DIAG SERVC SCLP PQAP NQAP DQAP SSCH MSCH STSCH TSCH CSCH HSCH RSCH XSCH TPI STCRW CHSC RCHP SAL SCHM \
         SIE CLP PCISTG",
    ),
    (
        "functions and their list are the model's",
        "KM KMC KMF KMO KMA KMCTR KMAC KIMD KLMD PCC PCKMO PPNO PRNO KDSA PFPO",
    ),
    ("the emulator has no such thing", "PLO CMPSC TRTE TRTRE"),
    ("writes trace entries through control register 12", "TRACE TRACG"),
    ("is the driver's own way back", "SVC"),
];

const SHIFTS: &str = "SLA SRA SLL SRL SLDL SRDL SLDA SRDA SLAK SRAK SLLK SRLK SLLG SRLG SLAG SRAG RLL RLLG LA LAY LAE LAEY \
                      MVCLE CLCLE MVCLU CLCLU SRNM SRNMB SRNMT MC SPKA ECAG";
const BRANCHES: &str = "BC BCT BCTG BAL BAS BIC BXH BXLE BXHG BXLEG";
const RELATIVE_DATA: &str = "LARL LRL LGRL LGFRL LLGFRL LHRL LGHRL LLHRL LLGHRL STRL STGRL STHRL CRL CGRL CGFRL CLRL CLGRL \
                             CLGFRL CHRL CGHRL CLHRL CLGHRL PFDRL";
const DECIMAL: &str =
    "AP SP ZAP CP MP DP SRP TP CVB CVBY CVBG PACK UNPK ED EDMK MVO PKA PKU UNPKA UNPKU MVN MVZ";

/// They depend on control registers in the problem state; the emulator executes some of them in the supervisor state only.
const SEMIPRIVILEGED: &str = "SPKA IPK EPAR ESAR IAC TPROT MVCOS";
/// Condition code 3: stopped after an amount of work that the CPU determines.
const CPU_DETERMINED: &str = "CKSM CLCLE CLCLU MVCLE MVCLU CLST MVST SRST SRSTU CUSE TRE TROO TROT TRTO TRTT CU12 CU14 \
                              CU21 CU24 CU41 CU42 CUTFU CUUTF";

fn is_in(list: &str, mnemonic: &str) -> bool {
    list.split_whitespace().any(|name| name == mnemonic)
}

/// First bits of the fields R1, R2 and R3, as [`Row::registers`] has them.
fn register_positions(format: &str) -> [u8; 3] {
    const NONE: u8 = 0xff;
    match format {
        "RRE" | "RRF" => [24, 28, 16],
        "RRD" => [16, 28, 24],
        "RXF" => [32, NONE, 8],
        "RR" | "RIE-b" | "RRS" | "RIE-f" => [8, 12, NONE],
        "SI" | "SIY" | "SIL" | "S" | "E" | "I" => [NONE; 3],
        _ => [8, NONE, 12],
    }
}

/// The generator's view of a row.
pub fn template(row: &Row) -> Result<Template, Untestable> {
    let mnemonic = row.mnemonic;
    if let Some((reason, _)) = UNTESTABLE.iter().find(|(_, list)| is_in(list, mnemonic)) {
        return Err(reason);
    }
    let [a, b, c, d, e, f, ..] = row.template().0.to_be_bytes();
    let format = row.exec.format;
    let mut t =
        Template::of_format(format, [a, b, c, d, e, f]).ok_or("its format is unknown to the generator")?;
    t.privileged = row.flags.any(Flags::PRIVILEGED);

    let positions = register_positions(format);
    let checks = [
        (Flags::EVEN_R1, 0, Class::GrPair),
        (Flags::EVEN_R2, 1, Class::GrPair),
        (Flags::EVEN_R3, 2, Class::GrPair),
        (Flags::FPR_R1, 0, Class::Fpr),
        (Flags::FPR_R2, 1, Class::Fpr),
        (Flags::FPR_R3, 2, Class::Fpr),
        (Flags::FPAIR_R1, 0, Class::FprPair),
        (Flags::FPAIR_R2, 1, Class::FprPair),
    ];
    for (flag, n, class) in checks {
        if row.flags.any(flag) {
            t = t.class(positions[n], class);
        }
    }
    let float = Flags::BFP | Flags::FPR_R1 | Flags::FPR_R2 | Flags::FPR_R3;
    if row.flags.any(float | Flags::FPAIR_R1 | Flags::FPAIR_R2) {
        t.data = Data::Float;
    }
    if is_in(DECIMAL, mnemonic) {
        t.data = Data::Decimal;
    }
    if is_in(SHIFTS, mnemonic) {
        t = t.purpose(Purpose::Number);
    }
    if is_in(BRANCHES, mnemonic) {
        t = t.purpose(Purpose::Branch);
    }
    if is_in(RELATIVE_DATA, mnemonic) {
        t = t.purpose(Purpose::Data);
    }

    t.privileged |= is_in(SEMIPRIVILEGED, mnemonic);
    t.again = is_in(CPU_DETERMINED, mnemonic);
    t.apart = t.again
        || matches!(
            mnemonic,
            "MVCP" | "MVCS" | "MVCOS" | "MVCK" | "MVCDK" | "MVCSK" | "PKA" | "PKU" | "UNPKA" | "UNPKU"
        );
    let strings =
        |t: Template| t.class(24, Class::Address).class(28, Class::Address).implied(0, Implied::Bits(8));
    let buffers = |t: Template, first: u8, length| {
        t.class(first, Class::Buffer(length)).class(first + 4, Class::Buffer(length))
    };
    Ok(match mnemonic {
        "TS" => t.without(8),
        "EX" | "EXRL" => t.purpose(Purpose::Execute),
        "BCR" | "BALR" | "BASR" | "BCTR" | "BASSM" | "BSM" => t.class(12, Class::BranchTarget),
        "BCTGR" => t.class(28, Class::BranchTarget),
        "MVCL" | "CLCL" => buffers(t, 8, Length::Padded),
        "MVCLE" | "CLCLE" => buffers(t, 8, Length::Bytes),
        "MVCLU" | "CLCLU" => buffers(t, 8, Length::Pairs),
        "MVST" | "CLST" | "SRST" => strings(t),
        "SRSTU" => strings(t).implied(0, Implied::Bits(16)),
        "TRE" => strings(t).class(24, Class::Buffer(Length::Whole)),
        "TROO" | "TROT" => strings(t).class(24, Class::Buffer(Length::Whole)).implied(1, Implied::Address(8)),
        "TRTO" | "TRTT" => strings(t)
            .class(24, Class::Buffer(Length::Whole))
            .implied(1, Implied::Address(8))
            .implied(0, Implied::Bits(16)),
        "CKSM" => t.class(28, Class::Buffer(Length::Whole)),
        "CUSE" => t
            .class(24, Class::Buffer(Length::Bytes))
            .class(28, Class::Buffer(Length::Bytes))
            .implied(0, Implied::Bits(8))
            .implied(1, Implied::Bits(8)),
        "CU12" | "CU14" | "CU21" | "CU24" | "CU41" | "CU42" | "CUTFU" | "CUUTF" => {
            t.class(24, Class::Buffer(Length::Bytes)).class(28, Class::Buffer(Length::Bytes))
        }
        "MVPG" => t.class(24, Class::Address).class(28, Class::Address).implied(0, Implied::Zero),
        "MVCOS" => t.implied(0, Implied::Zero),
        "CSST" => t.implied(0, Implied::Bits(10)).implied(1, Implied::Address(16)),
        "MVCK" | "MVCP" | "MVCS" | "MVCDK" | "MVCSK" => {
            t.implied(1, Implied::Bits(8)).implied(0, Implied::Bits(8))
        }
        "SRP" => {
            let mut t = t;
            t.operands[2] = Operand::Storage { index: None, base: 32, long: false, purpose: Purpose::Number };
            t
        }
        _ => t,
    })
}
