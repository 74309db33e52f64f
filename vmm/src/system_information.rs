//! STORE SYSTEM INFORMATION (chapter 10): what the machine, the partition and the VM are called.

use uuid::Uuid;

/// Size of a system-information block.
pub const SYSIB: usize = 4096;

/// Bytes of one VM's description in block 3.2.2, the first of up to eight, and of the long names.
const VM_DESCRIPTION: usize = 32;
const VM_LONG_NAMES: usize = 2048;
const LONG_NAME: usize = 256;
/// Encoding of the long name: UTF-8.
const UTF_8: u8 = 2;
const BLANK: u8 = 0x40;

/// What the guest is told about itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the VM.
    pub name: String,
    /// UUID of the VM.
    pub uuid: Uuid,
    /// Machine type, four digits such as 0x3906.
    pub machine_type: u16,
    /// Number of CPUs.
    pub cpus: u16,
}

impl Identity {
    /// The block that `function_code`, `selector1` and `selector2` name, for the CPU `address`; `None`
    /// when there is no such information (condition code 3).
    pub fn block(
        &self,
        function_code: u8,
        selector1: u8,
        selector2: u16,
        address: u16,
    ) -> Option<[u8; SYSIB]> {
        let mut block = [0; SYSIB];
        let b = &mut block;
        match (function_code, selector1, selector2) {
            (1, 1, 1) => self.machine(b),
            (1, 2, 1) => self.cpu(b, None, address),
            (1, 2, 2) => {
                // CPU capability: smaller is faster; Linux computes its delay loop from it.
                set(b, 32, &1000u32.to_be_bytes());
                self.counts(b, 36);
            }
            (2, 2, 1) => self.cpu(b, Some(address), address),
            (2, 2, 2) => {
                set(b, 32, &1u16.to_be_bytes());
                // Shared CPUs.
                b[35] = 0x40;
                self.counts(b, 36);
                set(b, 44, &ebcdic::<8>("ADJUNCT"));
                set(b, 52, &1000u32.to_be_bytes());
                set(b, 74, &self.cpus.to_be_bytes());
            }
            (3, 2, 2) => self.vm(b),
            _ => return None,
        }
        Some(block)
    }

    /// 1.1.1, basic-machine configuration.
    fn machine(&self, b: &mut [u8; SYSIB]) {
        let digits = format!("{:04x}", self.machine_type);
        set(b, 32, &ebcdic::<16>("ADJUNCT"));
        set(b, 48, &ebcdic::<4>(&digits));
        set(b, 64, &ebcdic::<16>("ADJUNCT"));
        set(b, 80, &ebcdic::<16>(SEQUENCE));
        set(b, 96, &ebcdic::<4>(PLANT));
        set(b, 100, &ebcdic::<16>("ADJUNCT"));
        set(b, 116, &[BLANK; 32]);
    }

    /// 1.2.1 and 2.2.1, the CPU that asks.
    fn cpu(&self, b: &mut [u8; SYSIB], id: Option<u16>, address: u16) {
        set(b, 80, &ebcdic::<16>(SEQUENCE));
        set(b, 96, &ebcdic::<4>(PLANT));
        set(b, 100, &id.unwrap_or(0).to_be_bytes());
        set(b, 102, &address.to_be_bytes());
    }

    /// 3.2.2, virtual machines: one level.
    fn vm(&self, b: &mut [u8; SYSIB]) {
        b[31] = 1;
        self.counts(b, VM_DESCRIPTION + 4);
        set(b, VM_DESCRIPTION + 12, &ebcdic::<8>(&self.name));
        set(b, VM_DESCRIPTION + 20, &1000u32.to_be_bytes());
        set(b, VM_DESCRIPTION + 24, &ebcdic::<16>("KVM/Linux"));
        b[VM_DESCRIPTION + 43] = UTF_8;
        set(b, VM_DESCRIPTION + 48, self.uuid.as_bytes());
        let mut length = self.name.len().min(LONG_NAME - 1);
        while !self.name.is_char_boundary(length) {
            length -= 1;
        }
        set(b, VM_LONG_NAMES, &self.name.as_bytes()[..length]);
    }

    /// Total, configured, standby and reserved CPUs.
    fn counts(&self, b: &mut [u8; SYSIB], at: usize) {
        set(b, at, &self.cpus.to_be_bytes());
        set(b, at + 2, &self.cpus.to_be_bytes());
    }
}

const SEQUENCE: &str = "0000000000000000";
const PLANT: &str = "ADJ";

fn set(block: &mut [u8; SYSIB], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// `text` in EBCDIC, padded with blanks; other characters than letters, digits and a few
/// marks become blanks.
fn ebcdic<const N: usize>(text: &str) -> [u8; N] {
    let mut codes = [BLANK; N];
    for (code, character) in codes.iter_mut().zip(text.chars()) {
        *code = match character {
            '0'..='9' => 0xf0 + (character as u8 - b'0'),
            'A'..='I' => 0xc1 + (character as u8 - b'A'),
            'J'..='R' => 0xd1 + (character as u8 - b'J'),
            'S'..='Z' => 0xe2 + (character as u8 - b'S'),
            'a'..='i' => 0x81 + (character as u8 - b'a'),
            'j'..='r' => 0x91 + (character as u8 - b'j'),
            's'..='z' => 0xa2 + (character as u8 - b's'),
            '-' => 0x60,
            '/' => 0x61,
            '.' => 0x4b,
            '_' => 0x6d,
            _ => BLANK,
        };
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        Identity {
            name: name.into(),
            uuid: Uuid::from_u128(0x0102 << 112 | 0x0f),
            machine_type: 0x3906,
            cpus: 3,
        }
    }

    /// Bytes of a block at an offset.
    fn check(function: (u8, u8, u16), want: &[(usize, &[u8])]) {
        let block = identity("guest-1").block(function.0, function.1, function.2, 2).expect("exists");
        for (at, bytes) in want {
            assert_eq!(&block[*at..at + bytes.len()], *bytes, "{function:?} at {at}");
        }
    }

    #[test]
    fn blocks() {
        let plant = [0xc1, 0xc4, 0xd1, 0x40];
        check(
            (1, 1, 1),
            &[(32, &[0xc1, 0xc4, 0xd1, 0xe4]), (48, &[0xf3, 0xf9, 0xf0, 0xf6]), (80, &[0xf0; 16])],
        );
        check((1, 2, 1), &[(80, &[0xf0; 16]), (96, &plant), (100, &[0, 0, 0, 2])]);
        check((1, 2, 2), &[(32, &[0, 0, 3, 0xe8]), (36, &[0, 3, 0, 3, 0, 0, 0, 0])]);
        check((2, 2, 1), &[(96, &plant), (100, &[0, 2, 0, 2])]);
        check((2, 2, 2), &[(32, &[0, 1, 0, 0x40, 0, 3, 0, 3]), (44, &[0xc1, 0xc4]), (74, &[0, 3])]);
        // KVM/Linux
        let kvm = [0xd2, 0xe5, 0xd4, 0x61, 0xd3, 0x89, 0x95, 0xa4, 0xa7, 0x40];
        check(
            (3, 2, 2),
            &[
                (31, &[1]),
                (36, &[0, 3, 0, 3, 0, 0, 0, 0]),
                (44, &[0x87, 0xa4, 0x85, 0xa2, 0xa3, 0x60, 0xf1, 0x40]),
                (56, &kvm),
                (75, &[2]),
                (80, &[1, 2, 0, 0]),
                (95, &[0x0f]),
                (2048, b"guest-1\0"),
            ],
        );
    }

    #[test]
    fn what_does_not_exist() {
        for (function, s1, s2) in
            [(1, 1, 2), (1, 3, 1), (2, 1, 1), (3, 1, 1), (3, 2, 1), (4, 1, 1), (15, 1, 2)]
        {
            assert!(identity("x").block(function, s1, s2, 0).is_none(), "{function}.{s1}.{s2}");
        }
    }

    #[test]
    fn long_names_end_at_a_character() {
        let block = identity(&"ä".repeat(200)).block(3, 2, 2, 0).unwrap();
        assert_eq!(&block[2048..2048 + 254], "ä".repeat(127).as_bytes());
        assert_eq!(block[2048 + 254..2048 + 256], [0, 0]);
    }
}
