//! The IPL parameter block, which DIAGNOSE 308 sets and stores (Linux, `include/uapi/asm/ipl.h`).

/// Length of the area that DIAGNOSE 308 names.
pub const AREA: usize = 4096;

/// List header (length, flags, version) and block header (length, type).
const HEADER: usize = 8 + 8;
const VERSION_AT: usize = 7;
const TYPE_AT: usize = 12;
const TYPE_FCP: u8 = 0x00;
const TYPE_CCW: u8 = 0x02;
/// What a block of each type has at least, with the list header.
const MIN_FCP: usize = 384;
const MIN_CCW: usize = 200;

/// A block that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterBlock(Vec<u8>);

impl ParameterBlock {
    /// The block at the beginning of `area`; `None` when its lengths, version or type are wrong.
    pub fn parse(area: &[u8; AREA]) -> Option<Self> {
        let word = |at: usize| u32::from_be_bytes(area[at..at + 4].try_into().expect("4 bytes")) as usize;
        let length = word(0);
        if !(HEADER..=AREA).contains(&length) || area[VERSION_AT] > 1 || word(8) > length - 8 {
            return None;
        }
        let least = match area[TYPE_AT] {
            TYPE_FCP => MIN_FCP,
            TYPE_CCW => MIN_CCW,
            _ => return None,
        };
        (length >= least).then(|| Self(area[..length].to_vec()))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of `length` bytes, its inner block of `inner` bytes, of that version and type.
    pub fn area(length: u32, inner: u32, version: u8, kind: u8) -> [u8; AREA] {
        let mut area = [0; AREA];
        area[..4].copy_from_slice(&length.to_be_bytes());
        area[8..12].copy_from_slice(&inner.to_be_bytes());
        (area[VERSION_AT], area[TYPE_AT]) = (version, kind);
        area
    }

    #[test]
    fn lengths_and_types() {
        for (length, inner, version, kind, good) in [
            (200, 192, 1, TYPE_CCW, true),
            (4096, 192, 0, TYPE_CCW, true),
            (384, 376, 1, TYPE_FCP, true),
            (199, 191, 1, TYPE_CCW, false),
            (383, 370, 1, TYPE_FCP, false),
            (200, 193, 1, TYPE_CCW, false),
            (200, 192, 2, TYPE_CCW, false),
            (400, 392, 1, 0xff, false),
            (4097, 192, 1, TYPE_CCW, false),
            (u32::MAX, 192, 1, TYPE_CCW, false),
            (0, 0, 0, TYPE_CCW, false),
        ] {
            let block = ParameterBlock::parse(&area(length, inner, version, kind));
            assert_eq!(block.is_some(), good, "{length} {inner} {version} {kind}");
            assert!(block.is_none_or(|b| b.bytes().len() == length as usize));
        }
    }
}
