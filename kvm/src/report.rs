//! What is said about an exit that nothing can be made of.

use std::collections::VecDeque;
use std::fmt::Write;

use crate::exit::Instruction;
use crate::kernel::{Registers, Stop};

/// How many exits before the last one are told.
const RECENT: usize = 12;

/// The last exits of a CPU, with the instruction address after each.
#[derive(Debug, Default)]
pub struct Recent(VecDeque<(Stop, u64)>);

impl Recent {
    /// Adds one and forgets the oldest.
    pub fn add(&mut self, stop: Stop, address: u64) {
        if self.0.len() == RECENT {
            self.0.pop_front();
        }
        self.0.push_back((stop, address));
    }
}

/// Turns an instruction and its address into assembler text.
pub type Disassemble = fn(&[u8], u64) -> String;

/// A report of several lines: why, where, the registers, what happened before.
pub fn report(
    why: &str,
    registers: &Registers,
    recent: &Recent,
    code: Option<[u8; 6]>,
    disassemble: Disassemble,
) -> String {
    let psw = registers.psw;
    let mut text = format!("{why}\nPSW {:016x} {:016x}", psw.mask, psw.address);
    // Writing to a string does not fail.
    if let Some((Stop::Intercept { ipa, ipb, .. }, address)) = recent.0.back() {
        let instruction = Instruction { ipa: *ipa, ipb: *ipb };
        let length = usize::from(instruction.length());
        let bytes = &instruction.bytes()[..length];
        let at = address.wrapping_sub(length as u64);
        let _ = write!(text, "\nintercepted {} {}", hex(bytes), disassemble(bytes, at));
    }
    if let Some(code) = code {
        let length =
            usize::from(Instruction { ipa: u16::from_be_bytes([code[0], code[1]]), ipb: 0 }.length());
        let bytes = &code[..length];
        let _ = write!(text, "\nat {:x}: {} {}", psw.address, hex(bytes), disassemble(bytes, psw.address));
    }
    for (name, all) in [("GR", &registers.gr), ("CR", &registers.cr)] {
        for (n, row) in all.chunks(4).enumerate() {
            let _ = write!(text, "\n{name}{:<2}", n * 4);
            row.iter().for_each(|value| {
                let _ = write!(text, " {value:016x}");
            });
        }
    }
    let _ = write!(text, "\nprefix {:08x}\nlast exits, oldest first:", registers.prefix);
    for (stop, address) in &recent.0 {
        let _ = write!(text, "\n  {address:16x} {stop:x?}");
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zarch::Psw;

    #[test]
    fn a_report_tells_everything() {
        let mut recent = Recent::default();
        for n in 0..20 {
            recent.add(Stop::Intercept { code: 4, ipa: 0x8324, ipb: 0x0308_0000 }, 0x1000 + n);
        }
        let registers = Registers {
            psw: Psw { mask: 0x0002_0001_8000_0000, address: 0xdead },
            gr: std::array::from_fn(|n| n as u64),
            cr: std::array::from_fn(|n| 0x100 + n as u64),
            prefix: 0x7000,
            ..Registers::default()
        };
        let text = report("a test", &registers, &recent, Some([0x07, 0xfe, 9, 9, 9, 9]), |bytes, at| {
            format!("text of {} bytes at {at:x}", bytes.len())
        });
        for part in [
            "a test\nPSW 0002000180000000 000000000000dead\n",
            "\nintercepted 83240308 text of 4 bytes at 100f\n",
            "\nat dead: 07fe text of 2 bytes at dead\n",
            "\nGR12 000000000000000c 000000000000000d 000000000000000e 000000000000000f\nCR0  0000000000000100",
            "\nprefix 00007000\n",
            "\n              1013 Intercept",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert_eq!(text.matches(" Intercept {").count(), RECENT, "{text}");
    }
}
