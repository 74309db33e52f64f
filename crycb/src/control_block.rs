//! The crypto control block (CRYCB) of a guest, byte for byte as SIE reads it.
//!
//! | offset | length | content |
//! |---|---|---|
//! | 00 | 24 | APCB0, used by formats 0 and 1: APM 8 bytes, AQM 2 bytes at 08, ADM 2 bytes at 10 |
//! | 48 | 24 | DEA wrapping-key mask |
//! | 60 | 32 | AES wrapping-key mask |
//! | 80 | 128 | APCB1, used by format 2: APM, AQM and ADM of 32 bytes each |
//!
//! Which format holds is not in the block but in the word that designates it (SIE block, offset FC).

use crate::{Apid, Apqi, Apqn, Mask256, Matrix, Qci, QciFlags};

/// Length of the block in bytes.
pub const CRYCB_SIZE: usize = 256;

const DEA_MASK: core::ops::Range<usize> = 0x48..0x60;
const AES_MASK: core::ops::Range<usize> = 0x60..0x80;
const APCB1: usize = 0x80;

/// The format of a CRYCB, the two rightmost bits of the word that designates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CrycbFormat {
    /// Bits 00: masks in APCB0, no wrapping keys.
    Format0,
    /// Bits 01: masks in APCB0, with wrapping-key masks.
    Format1,
    /// Bits 11: masks in APCB1.
    Format2,
}

impl CrycbFormat {
    /// The format that a machine with these abilities uses: `msax3` is facility 76 (without it there are no wrapping-key
    /// masks), `apxa` the machine's extended addressing (QCI). The choice KVM makes.
    pub const fn choose(msax3: bool, apxa: bool) -> Self {
        match (msax3, apxa) {
            (false, _) => Self::Format0,
            (true, false) => Self::Format1,
            (true, true) => Self::Format2,
        }
    }

    /// Bits 30-31 of the designation.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Format0 => 0,
            Self::Format1 => 1,
            Self::Format2 => 3,
        }
    }

    /// The designation of a block of this format at `origin`, an address below 2 GiB on a doubleword boundary.
    pub const fn designation(self, origin: u32) -> u32 {
        assert!(origin & !Self::ORIGIN == 0, "a CRYCB lies below 2 GiB on a doubleword boundary");
        origin | self.bits()
    }

    /// Origin and format of a designation; `None` for the format bits 10, which are reserved.
    pub const fn from_designation(word: u32) -> Option<(u32, Self)> {
        let format = match word & 3 {
            0 => Self::Format0,
            1 => Self::Format1,
            3 => Self::Format2,
            _ => return None,
        };
        Some((word & Self::ORIGIN, format))
    }

    const ORIGIN: u32 = 0x7fff_fff8;

    /// How many adapters the masks name: 64 or 256.
    pub const fn adapters(self) -> u16 {
        if self.is_wide() { 256 } else { 64 }
    }

    /// How many domains the masks name: 16 or 256.
    pub const fn domains(self) -> u16 {
        if self.is_wide() { 256 } else { 16 }
    }

    /// The part of `matrix` that a block of this format can hold.
    #[must_use]
    pub fn holds(self, matrix: &Matrix) -> Matrix {
        if self.is_wide() {
            return *matrix;
        }
        Matrix {
            apm: matrix.apm.below(self.adapters()),
            aqm: matrix.aqm.below(self.domains()),
            adm: matrix.adm.below(self.domains()),
        }
    }

    const fn is_wide(self) -> bool {
        matches!(self, Self::Format2)
    }
}

/// The AP control block of formats 0 and 1: 64 adapters, 16 domains. Bit 0 of each mask is its leftmost bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Apcb0 {
    /// Adapters 0-63.
    pub apm: u64,
    /// Usage domains 0-15.
    pub aqm: u16,
    /// Control domains 0-15.
    pub adm: u16,
}

impl Apcb0 {
    /// Length in bytes.
    pub const SIZE: usize = 24;

    /// The block in storage; reserved bytes are zeros.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut block = [0; Self::SIZE];
        block[..8].copy_from_slice(&self.apm.to_be_bytes());
        block[8..10].copy_from_slice(&self.aqm.to_be_bytes());
        block[16..18].copy_from_slice(&self.adm.to_be_bytes());
        block
    }

    /// The block read from storage; reserved bytes are ignored.
    pub fn from_bytes(block: &[u8; Self::SIZE]) -> Self {
        Self {
            apm: u64::from_be_bytes(block[..8].try_into().expect("8 bytes")),
            aqm: u16::from_be_bytes([block[8], block[9]]),
            adm: u16::from_be_bytes([block[16], block[17]]),
        }
    }
}

impl From<&Matrix> for Apcb0 {
    /// Keeps adapters 0-63 and domains 0-15.
    fn from(matrix: &Matrix) -> Self {
        let (apm, aqm, adm) = (matrix.apm.to_bytes(), matrix.aqm.to_bytes(), matrix.adm.to_bytes());
        Self {
            apm: u64::from_be_bytes(apm[..8].try_into().expect("8 bytes")),
            aqm: u16::from_be_bytes([aqm[0], aqm[1]]),
            adm: u16::from_be_bytes([adm[0], adm[1]]),
        }
    }
}

impl From<&Apcb0> for Matrix {
    fn from(apcb: &Apcb0) -> Self {
        Self {
            apm: widen(&apcb.apm.to_be_bytes()),
            aqm: widen(&apcb.aqm.to_be_bytes()),
            adm: widen(&apcb.adm.to_be_bytes()),
        }
    }
}

/// The AP control block of format 2: 256 adapters, 256 domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Apcb1 {
    /// Adapters.
    pub apm: Mask256,
    /// Usage domains.
    pub aqm: Mask256,
    /// Control domains.
    pub adm: Mask256,
}

impl Apcb1 {
    /// Length in bytes.
    pub const SIZE: usize = 128;

    /// The block in storage; reserved bytes are zeros.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut block = [0; Self::SIZE];
        block[..32].copy_from_slice(&self.apm.to_bytes());
        block[32..64].copy_from_slice(&self.aqm.to_bytes());
        block[64..96].copy_from_slice(&self.adm.to_bytes());
        block
    }

    /// The block read from storage; reserved bytes are ignored.
    pub fn from_bytes(block: &[u8; Self::SIZE]) -> Self {
        Self { apm: widen(&block[..32]), aqm: widen(&block[32..64]), adm: widen(&block[64..96]) }
    }
}

impl From<&Matrix> for Apcb1 {
    fn from(matrix: &Matrix) -> Self {
        Self { apm: matrix.apm, aqm: matrix.aqm, adm: matrix.adm }
    }
}

impl From<&Apcb1> for Matrix {
    fn from(apcb: &Apcb1) -> Self {
        Self { apm: apcb.apm, aqm: apcb.aqm, adm: apcb.adm }
    }
}

/// A mask of up to 256 bits, padded with zeros on the right.
fn widen(bytes: &[u8]) -> Mask256 {
    let mut wide = [0; 32];
    wide[..bytes.len()].copy_from_slice(bytes);
    Mask256::from_bytes(wide)
}

/// A CRYCB: the 256 bytes and the format in which they are designated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crycb {
    format: CrycbFormat,
    bytes: [u8; CRYCB_SIZE],
}

impl Crycb {
    /// A block whose guest may reach what of `matrix` the format can hold ([`CrycbFormat::holds`]). Every other byte is
    /// zero, the wrapping-key masks too.
    pub fn new(format: CrycbFormat, matrix: &Matrix) -> Self {
        let mut crycb = Self { format, bytes: [0; CRYCB_SIZE] };
        crycb.set_matrix(matrix);
        crycb
    }

    /// The block that these bytes are when designated as `format`.
    pub const fn from_bytes(format: CrycbFormat, bytes: [u8; CRYCB_SIZE]) -> Self {
        Self { format, bytes }
    }

    /// Replaces the masks. Both APCBs are zeroed first: a mask byte that the new masks do not cover must not keep a right
    /// from before, nor the APCB of another format (CVE-2026-80921). The wrapping-key masks stay.
    ///
    /// The caller holds off every CPU of the guest meanwhile.
    pub fn set_matrix(&mut self, matrix: &Matrix) {
        self.bytes[..DEA_MASK.start].fill(0);
        self.bytes[APCB1..].fill(0);
        match self.format {
            CrycbFormat::Format0 | CrycbFormat::Format1 => {
                self.bytes[..Apcb0::SIZE].copy_from_slice(&Apcb0::from(matrix).to_bytes());
            }
            CrycbFormat::Format2 => self.bytes[APCB1..].copy_from_slice(&Apcb1::from(matrix).to_bytes()),
        }
    }

    /// Replaces the DEA wrapping-key mask, bytes 48-5F.
    pub fn set_dea_mask(&mut self, mask: &[u8; 24]) {
        self.bytes[DEA_MASK].copy_from_slice(mask);
    }

    /// Replaces the AES wrapping-key mask, bytes 60-7F.
    pub fn set_aes_mask(&mut self, mask: &[u8; 32]) {
        self.bytes[AES_MASK].copy_from_slice(mask);
    }

    /// The format in which the block is designated.
    pub const fn format(&self) -> CrycbFormat {
        self.format
    }

    /// The bytes as SIE sees them.
    pub const fn bytes(&self) -> &[u8; CRYCB_SIZE] {
        &self.bytes
    }

    /// The bytes, to change in place.
    pub const fn bytes_mut(&mut self) -> &mut [u8; CRYCB_SIZE] {
        &mut self.bytes
    }

    /// What SIE reads from the block.
    pub const fn view(&self) -> CrycbView<'_> {
        CrycbView { format: self.format, bytes: &self.bytes }
    }
}

/// What SIE reads from the bytes of a CRYCB, wherever they lie. Each question reads the bytes anew.
#[derive(Clone, Copy, Debug)]
pub struct CrycbView<'a> {
    format: CrycbFormat,
    bytes: &'a [u8; CRYCB_SIZE],
}

impl<'a> CrycbView<'a> {
    /// The block in `bytes`, designated as `format`.
    pub const fn new(format: CrycbFormat, bytes: &'a [u8; CRYCB_SIZE]) -> Self {
        Self { format, bytes }
    }

    /// The format of the block.
    pub const fn format(&self) -> CrycbFormat {
        self.format
    }

    /// Whether the guest may reach the queue. If not, PQAP, NQAP and DQAP answer 01.
    pub const fn test(&self, apqn: Apqn) -> bool {
        self.test_apid(apqn.apid()) && self.test_apqi(apqn.apqi())
    }

    /// Whether the adapter is in the guest's APM.
    pub const fn test_apid(&self, apid: Apid) -> bool {
        (apid.0 as u16) < self.format.adapters() && self.bit(self.offsets().0, apid.0)
    }

    /// Whether the usage domain is in the guest's AQM.
    pub const fn test_apqi(&self, apqi: Apqi) -> bool {
        (apqi.0 as u16) < self.format.domains() && self.bit(self.offsets().1, apqi.0)
    }

    /// Whether the control domain is in the guest's ADM.
    pub const fn test_control_domain(&self, domain: u8) -> bool {
        (domain as u16) < self.format.domains() && self.bit(self.offsets().2, domain)
    }

    /// Adapters.
    pub fn apm(&self) -> Mask256 {
        self.mask(self.offsets().0, self.format.adapters())
    }

    /// Usage domains.
    pub fn aqm(&self) -> Mask256 {
        self.mask(self.offsets().1, self.format.domains())
    }

    /// Control domains.
    pub fn adm(&self) -> Mask256 {
        self.mask(self.offsets().2, self.format.domains())
    }

    /// The three masks.
    pub fn matrix(&self) -> Matrix {
        Matrix { apm: self.apm(), aqm: self.aqm(), adm: self.adm() }
    }

    /// The DEA wrapping-key mask, bytes 48-5F.
    pub fn dea_mask(&self) -> &'a [u8; 24] {
        self.bytes[DEA_MASK].try_into().expect("24 bytes")
    }

    /// The AES wrapping-key mask, bytes 60-7F.
    pub fn aes_mask(&self) -> &'a [u8; 32] {
        self.bytes[AES_MASK].try_into().expect("32 bytes")
    }

    /// What the guest's PQAP(QCI) stores on a machine whose own answer is `host`.
    ///
    /// The masks are the block's. The machine's flags stay but two: APXA (with NA and ND) only where the masks have 256
    /// bits, and never APSB, since binding queues is for secure guests.
    pub fn qci_view(&self, host: &Qci) -> Qci {
        let apxa = self.format.is_wide() && host.flags.has(QciFlags::APXA);
        let mut flags = host.flags & (QciFlags::APSC | QciFlags::QACT | QciFlags::RC8A);
        let (mut na, mut nd) = (0, 0);
        if apxa {
            flags = flags | QciFlags::APXA;
            (na, nd) = (host.na, host.nd);
        }
        Qci { flags, na, nd, matrix: self.matrix() }
    }

    /// Where APM, AQM and ADM begin.
    const fn offsets(&self) -> (usize, usize, usize) {
        if self.format.is_wide() { (APCB1, APCB1 + 0x20, APCB1 + 0x40) } else { (0, 8, 0x10) }
    }

    const fn bit(&self, mask: usize, n: u8) -> bool {
        self.bytes[mask + n as usize / 8] & (0x80 >> (n % 8)) != 0
    }

    fn mask(&self, at: usize, bits: u16) -> Mask256 {
        widen(&self.bytes[at..at + usize::from(bits / 8)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CrycbFormat::*;
    use proptest::prelude::*;

    fn matrix(apids: &[u8], apqis: &[u8], control: &[u8]) -> Matrix {
        let mask = |numbers: &[u8]| numbers.iter().copied().collect();
        Matrix { apm: mask(apids), aqm: mask(apqis), adm: mask(control) }
    }

    /// The block built from `m` is zero but for the bytes in `want`, over keys and over a block full of ones too.
    fn check(format: CrycbFormat, m: &Matrix, want: &[(usize, u8)]) {
        let mut bytes = [0; CRYCB_SIZE];
        for &(at, byte) in want {
            bytes[at] = byte;
        }
        assert_eq!(Crycb::new(format, m).bytes(), &bytes, "{format:?} {m:?}");

        bytes[0x48..0x80].fill(0xff);
        let mut stale = Crycb::from_bytes(format, [0xff; CRYCB_SIZE]);
        stale.set_matrix(m);
        assert_eq!(stale.bytes(), &bytes, "{format:?} {m:?} over ones");
    }

    #[test]
    fn bytes() {
        let m = matrix(&[1, 7, 63], &[4, 15], &[0]);
        let apcb0 = [(0x00, 0x41), (0x07, 0x01), (0x08, 0x08), (0x09, 0x01), (0x10, 0x80)];
        check(Format0, &m, &apcb0);
        check(Format1, &m, &apcb0);
        check(Format2, &m, &[(0x80, 0x41), (0x87, 0x01), (0xa0, 0x08), (0xa1, 0x01), (0xc0, 0x80)]);

        let guest1 = matrix(&[5, 6], &[4, 0xab], &[4, 0xab]);
        check(Format2, &guest1, &[(0x80, 0x06), (0xa0, 0x08), (0xb5, 0x10), (0xc0, 0x08), (0xd5, 0x10)]);
        check(Format0, &guest1, &[(0x00, 0x06), (0x08, 0x08), (0x10, 0x08)]);
        check(Format2, &matrix(&[255], &[255], &[255]), &[(0x9f, 1), (0xbf, 1), (0xdf, 1)]);
        check(Format0, &matrix(&[64, 255], &[16, 255], &[16, 255]), &[]);
        check(Format2, &Matrix::EMPTY, &[]);
    }

    #[test]
    fn edges_of_the_narrow_formats() {
        let ones = [0xff; CRYCB_SIZE];
        for format in [Format0, Format1] {
            let view = CrycbView::new(format, &ones);
            for (apid, apqi, want) in
                [(63, 15, true), (64, 15, false), (63, 16, false), (255, 255, false), (0, 0, true)]
            {
                assert_eq!(view.test(Apqn::new(Apid(apid), Apqi(apqi))), want, "{format:?} {apid}.{apqi}");
            }
            assert!(view.test_control_domain(15) && !view.test_control_domain(16));
            assert_eq!((view.apm().count(), view.aqm().count(), view.adm().count()), (64, 16, 16));
        }
        assert!(CrycbView::new(Format2, &ones).test(Apqn(0xffff)));
        assert_eq!(CrycbView::new(Format2, &ones).apm(), Mask256::ALL);
    }

    #[test]
    fn designation() {
        for (format, bits) in [(Format0, 0), (Format1, 1), (Format2, 3)] {
            assert_eq!(format.bits(), bits);
            assert_eq!(format.designation(0x7fff_f800), 0x7fff_f800 | bits);
            assert_eq!(CrycbFormat::from_designation(0x7fff_f800 | bits), Some((0x7fff_f800, format)));
        }
        assert_eq!(CrycbFormat::from_designation(0x1002), None);
        assert_eq!(CrycbFormat::from_designation(0x8000_1007), Some((0x1000, Format2)));
        assert_eq!(CrycbFormat::choose(false, true), Format0);
        assert_eq!(CrycbFormat::choose(false, false), Format0);
        assert_eq!(CrycbFormat::choose(true, false), Format1);
        assert_eq!(CrycbFormat::choose(true, true), Format2);
    }

    #[test]
    fn wrapping_key_masks() {
        let mut crycb = Crycb::new(Format2, &matrix(&[5], &[4], &[]));
        crycb.set_dea_mask(&[0xdd; 24]);
        crycb.set_aes_mask(&[0xae; 32]);
        assert_eq!(crycb.bytes()[0x47..0x49], [0, 0xdd]);
        assert_eq!(crycb.bytes()[0x5f..0x61], [0xdd, 0xae]);
        assert_eq!(crycb.bytes()[0x7f..0x81], [0xae, 0x04]);
        assert_eq!((crycb.view().dea_mask(), crycb.view().aes_mask()), (&[0xdd; 24], &[0xae; 32]));
        crycb.set_matrix(&Matrix::EMPTY);
        assert_eq!(crycb.bytes()[0x80], 0);
        assert_eq!((crycb.view().dea_mask(), crycb.view().aes_mask()), (&[0xdd; 24], &[0xae; 32]));
    }

    #[test]
    fn one_bit_cleared_takes_one_adapter() {
        let mut crycb = Crycb::new(Format2, &matrix(&[5, 6], &[4, 0xab], &[]));
        assert!(crycb.view().test(Apqn(0x0504)));
        crycb.bytes_mut()[0x80] &= !0x04;
        assert!(!crycb.view().test(Apqn(0x0504)) && !crycb.view().test(Apqn(0x05ab)));
        assert!(crycb.view().test(Apqn(0x0604)));
    }

    #[test]
    fn qci_of_the_guest() {
        let host = Qci {
            flags: QciFlags(0xffff_ffff),
            na: 0x3f,
            nd: 0x54,
            matrix: Matrix { apm: Mask256::ALL, aqm: Mask256::ALL, adm: Mask256::ALL },
        };
        let m = matrix(&[5, 6], &[4, 0xab], &[4]);
        for (format, flags, na, nd) in
            [(Format2, 0xf000_0000, 0x3f, 0x54), (Format1, 0xb000_0000, 0, 0), (Format0, 0xb000_0000, 0, 0)]
        {
            let got = Crycb::new(format, &m).view().qci_view(&host);
            assert_eq!(got, Qci { flags: QciFlags(flags), na, nd, matrix: format.holds(&m) }, "{format:?}");
        }
        let plain = Qci { flags: QciFlags::QACT, na: 9, nd: 9, ..host };
        let got = Crycb::new(Format2, &m).view().qci_view(&plain);
        assert_eq!((got.flags, got.na, got.nd), (QciFlags::QACT, 0, 0));
    }

    fn formats() -> impl Strategy<Value = CrycbFormat> {
        prop_oneof![Just(Format0), Just(Format1), Just(Format2)]
    }

    prop_compose! {
        fn matrices()(apm: [u8; 32], aqm: [u8; 32], adm: [u8; 32]) -> Matrix {
            let mask = Mask256::from_bytes;
            Matrix { apm: mask(apm), aqm: mask(aqm), adm: mask(adm) }
        }
    }

    proptest! {
        #[test]
        fn the_view_reads_what_was_built(format in formats(), m in matrices()) {
            let crycb = Crycb::new(format, &m);
            prop_assert_eq!(crycb.view().matrix(), format.holds(&m));
        }

        #[test]
        fn test_agrees_with_the_masks(
            format in formats(),
            bytes in proptest::collection::vec(any::<u8>(), CRYCB_SIZE),
            raw: u16,
        ) {
            let bytes = bytes[..].try_into().unwrap();
            let (view, apqn) = (CrycbView::new(format, &bytes), Apqn(raw));
            prop_assert_eq!(view.test(apqn), view.matrix().test(apqn));
            prop_assert_eq!(view.test_control_domain(raw as u8), view.adm().test(raw as u8));
        }

        #[test]
        fn control_blocks_round_trip(m in matrices()) {
            let wide = Apcb1::from(&m);
            prop_assert_eq!(Apcb1::from_bytes(&wide.to_bytes()), wide);
            prop_assert_eq!(Matrix::from(&wide), m);
            let narrow = Apcb0::from(&m);
            prop_assert_eq!(Apcb0::from_bytes(&narrow.to_bytes()), narrow);
            prop_assert_eq!(Matrix::from(&narrow), Format0.holds(&m));
        }
    }
}
