//! Instructions on storage operands where the comparison with another emulator says nothing: it does
//! not know them (decimal arithmetic, PLO, TRTE, CUSE), or is wrong about them.

use std::sync::Arc;

use cpu::{Cpu, CpuModel, Machine};
use machine::{Exit, HostClock, Storage, Vcpu};
use zarch::{AbsoluteAddress, Psw, lowcore, psw_bits};

const CODE: u64 = 0x2000;
const STORAGE: u64 = 1 << 20;
const MODE_64: u64 = psw_bits::EA | psw_bits::BA;
const END: Psw = Psw { mask: psw_bits::WAIT | MODE_64, address: 0x555 };
/// SUPERVISOR CALL 0, which ends a test.
const SVC: [u8; 2] = [0x0a, 0];
/// Operands in instructions below are at displacements from register 12, which holds this.
const DATA: u64 = 0x8000;
/// Bit 21 of the PSW: decimal overflow interrupts.
const DECIMAL_OVERFLOW: u64 = 1 << 42;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal"))
        .collect()
}

/// One instruction (in hexadecimal) and what it finds.
struct Test {
    code: Vec<u8>,
    mask: u64,
    gr: [u64; 16],
    data: Vec<(u64, Vec<u8>)>,
}

fn test(code: &str) -> Test {
    let mut gr = std::array::from_fn(|r| r as u64);
    gr[12] = DATA;
    Test { code: hex(code), mask: MODE_64, gr, data: Vec::new() }
}

impl Test {
    fn gr(mut self, r: usize, value: u64) -> Self {
        self.gr[r] = value;
        self
    }

    /// Bytes at a displacement from [`DATA`].
    fn data(mut self, at: u64, bytes: &str) -> Self {
        self.data.push((DATA + at, hex(bytes)));
        self
    }

    fn mask(mut self, bits: u64) -> Self {
        self.mask |= bits;
        self
    }

    fn run(self) -> Ended {
        let storage = Arc::new(Storage::new(STORAGE).expect("the host has a mebibyte"));
        let model = CpuModel::named("max").expect("it always exists");
        let machine = Machine::new(storage.clone(), Arc::new(HostClock::new()), model, 1);
        let mut cpu: Box<Cpu> = machine.take_vcpu(0).expect("it has one CPU");
        let put = |address, bytes: &[u8]| {
            storage.write(AbsoluteAddress(address), bytes).expect("inside the storage")
        };
        for new_psw in [lowcore::SVC_NEW_PSW, lowcore::PROGRAM_NEW_PSW] {
            put(new_psw, &[END.mask, END.address].map(u64::to_be_bytes).concat());
        }
        put(CODE, &[&self.code[..], &SVC].concat());
        for (address, bytes) in &self.data {
            put(*address, bytes);
        }
        let mut state = cpu.state();
        (state.psw, state.gr) = (Psw { mask: self.mask, address: CODE }, self.gr);
        cpu.set_operating(true);
        cpu.set_state(&state);
        assert_eq!(cpu.run().expect("the engine never fails"), Exit::DisabledWait(END));
        let mut ended = Ended { program: 0, cc: 0, gr: cpu.state().gr, storage };
        ended.program = (ended.doubleword(lowcore::PROGRAM_IDENTIFICATION) >> 32) as u16;
        let old = if ended.program != 0 { lowcore::PROGRAM_OLD_PSW } else { lowcore::SVC_OLD_PSW };
        ended.cc = Psw { mask: ended.doubleword(old), address: 0 }.cc();
        ended
    }
}

/// What an instruction left behind.
struct Ended {
    /// Program-interruption code; 0 when it completed.
    program: u16,
    cc: u8,
    gr: [u64; 16],
    storage: Arc<Storage>,
}

impl Ended {
    fn doubleword(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.storage.read(AbsoluteAddress(address), &mut bytes).expect("inside the storage");
        u64::from_be_bytes(bytes)
    }

    #[track_caller]
    fn completes(&self, cc: u8) -> &Self {
        assert_eq!((self.program, self.cc), (0, cc), "program interruption and condition code");
        self
    }

    #[track_caller]
    fn interrupts(&self, program: u16) -> &Self {
        assert_eq!(self.program, program, "program interruption");
        self
    }

    #[track_caller]
    fn stored(&self, at: u64, bytes: &str) -> &Self {
        let expected = hex(bytes);
        let mut found = vec![0; expected.len()];
        self.storage.read(AbsoluteAddress(DATA + at), &mut found).expect("inside the storage");
        assert_eq!(format!("{found:02x?}"), format!("{expected:02x?}"), "storage at {at:#x}");
        self
    }

    #[track_caller]
    fn left(&self, r: usize, value: u64) -> &Self {
        assert_eq!(self.gr[r], value, "general register {r}: {:#x}, not {value:#x}", self.gr[r]);
        self
    }
}

/// A decimal instruction on operands at 0 and 0x20: opcode, operands, condition code, result. The
/// lengths follow from the operands.
#[track_caller]
fn decimal(opcode: u8, first: &str, second: &str, cc: u8, result: &str) {
    decimal_test(opcode, first, second).run().completes(cc).stored(0, result);
}

fn decimal_test(opcode: u8, first: &str, second: &str) -> Test {
    let lengths = (hex(first).len() - 1) << 4 | (hex(second).len() - 1);
    test(&format!("{opcode:02x}{lengths:02x} c000 c020")).data(0, first).data(0x20, second)
}

const AP: u8 = 0xfa;
const SP: u8 = 0xfb;
const ZAP: u8 = 0xf8;
const CP: u8 = 0xf9;
const MP: u8 = 0xfc;
const DP: u8 = 0xfd;

#[test]
fn decimal_addition() {
    decimal(AP, "00123c", "045c", 2, "00168c");
    decimal(AP, "123c", "00123d", 0, "000c");
    decimal(AP, "123d", "1d", 1, "124d");
    decimal(AP, "0d", "0d", 0, "0c");
    // Signs A, E and F are plus, B is minus; the result has the preferred sign.
    decimal(AP, "005f", "003b", 2, "002c");
    decimal(AP, "005a", "003e", 2, "008c");
    decimal(SP, "005c", "008c", 1, "003d");
    decimal(SP, "005d", "005d", 0, "000c");
    // Overflow keeps the rightmost digits and, on zero, the sign.
    decimal(AP, "999c", "001c", 3, "000c");
    decimal(AP, "999d", "001d", 3, "000d");
    decimal(AP, "1c", "12345c", 3, "6c");
    let nines = "9999999999999999999999999999999c";
    decimal(AP, nines, nines, 3, "9999999999999999999999999999998c");
    decimal(SP, nines, nines, 0, "0000000000000000000000000000000c");
}

#[test]
fn decimal_exceptions() {
    decimal_test(AP, "99a9", "1c").run().interrupts(7).stored(0, "99a9");
    decimal_test(AP, "999c", "a1c0").run().interrupts(7).stored(0, "999c");
    decimal_test(AP, "9990", "1c").run().interrupts(7).stored(0, "9990");
    decimal_test(AP, "999c", "1c").mask(DECIMAL_OVERFLOW).run().interrupts(10).stored(0, "000c");
    // ZAP does not look at what it replaces.
    decimal_test(ZAP, "ffff", "1c").run().completes(2).stored(0, "001c");
    // MP and DP: the second operand is shorter, and at most eight bytes.
    decimal_test(MP, "005c", "001c").run().interrupts(6);
    decimal_test(DP, "00000000000000000000005c", "00000000000000001c").run().interrupts(6);
    // MP: zeros are wanted on the left, as many bytes as the multiplier has.
    decimal_test(MP, "0110005c", "2c").run().interrupts(7).stored(0, "0110005c");
    decimal_test(DP, "00005c", "0c").run().interrupts(11).stored(0, "00005c");
    // DP: the quotient field has one byte, so one digit.
    decimal_test(DP, "010c", "1c").run().interrupts(11).stored(0, "010c");
}

#[test]
fn decimal_moves_comparisons_and_products() {
    decimal(ZAP, "ffffff", "012d", 1, "00012d");
    decimal(ZAP, "ffff", "00000d", 0, "000c");
    decimal(ZAP, "ff", "010d", 3, "0d");
    decimal(CP, "0d", "00000c", 0, "0d");
    decimal(CP, "5d", "4d", 1, "5d");
    decimal(CP, "00005c", "4c", 2, "00005c");
    decimal(MP, "00012c", "3d", 0, "00036d");
    decimal(MP, "00000c", "3d", 0, "00000d");
    decimal(
        MP,
        "0000000000000000999999999999999d",
        "999999999999999d",
        0,
        "0999999999999998000000000000001c",
    );
    decimal(DP, "00047d", "5c", 0, "009d2d");
    decimal(DP, "0000000c", "005d", 0, "000d000c");
    decimal(DP, "00000123456789012c", "001c", 0, "0123456789012c000c");
}

/// SHIFT AND ROUND DECIMAL of what stands at 0 by `amount` (6 bits) with rounding digit 5.
fn srp(operand: &str, amount: u64) -> Ended {
    let lengths = (hex(operand).len() - 1) << 4 | 5;
    test(&format!("f0{lengths:02x} c000 1000")).gr(1, amount).data(0, operand).run()
}

#[test]
fn decimal_shifts() {
    srp("00123c", 2).completes(2).stored(0, "12300c");
    srp("00123d", 3).completes(3).stored(0, "23000d");
    srp("00000d", 31).completes(0).stored(0, "00000c");
    srp("00100d", 31).completes(3).stored(0, "00000d");
    srp("12345c", 64 - 1).completes(2).stored(0, "01235c");
    srp("12344d", 64 - 1).completes(1).stored(0, "01234d");
    srp("00004d", 64 - 1).completes(0).stored(0, "00000c");
    srp("99999c", 64 - 32).completes(0).stored(0, "00000c");
    srp("0012fa", 0).interrupts(7);
    test("f02a c000 0000").data(0, "00123c").run().interrupts(7);
}

/// EDIT AND MARK of `source` at 0x40 into `pattern` at 0.
fn edmk(pattern: &str, source: &str) -> Ended {
    let length = hex(pattern).len() - 1;
    test(&format!("df{length:02x} c000 c040")).gr(1, u64::MAX).data(0, pattern).data(0x40, source).run()
}

#[test]
fn edits() {
    // Fill, digits with a comma, a point behind the significance starter, and CR for minus.
    let pattern = "40 20 20 6b 20 20 21 4b 20 20 40 c3 d9";
    let plus = edmk(pattern, "0257426c");
    plus.completes(2).stored(0, "40 40 f2 6b f5 f7 f4 4b f2 f6 40 40 40").left(1, DATA + 2);
    let minus = edmk(pattern, "0000026d");
    minus.completes(1).stored(0, "40 40 40 40 40 40 40 4b f2 f6 40 c3 d9").left(1, u64::MAX);
    edmk(pattern, "0000000d").completes(0);
    // Two fields: the second decides.
    edmk("40 20 21 22 20 20", "123c 4d").completes(1);
    edmk("40 20 21 22 20 20", "12 00").completes(0).stored(0, "40 f1 f2 40 40 40");
    edmk(pattern, "02a7426c").interrupts(7).stored(0, pattern);
}

#[test]
fn packing_and_unpacking() {
    // PKA of "5" and of 32 characters, whose leftmost is ignored.
    test("e900 c000 c040").data(0x40, "35").run().completes(0).stored(0, "0000000000000000000000000000005c");
    let digits = "37 31323334353637383930313233343536373839303132333435363738393031";
    test("e91f c000 c040").data(0x40, digits).run().stored(0, "1234567890123456789012345678901c");
    test("e103 c000 c040").data(0x40, "00340035").run().stored(0, "0000000000000000000000000000045c");
    test("e920 c000 c040").run().interrupts(6);
    test("e102 c000 c040").run().interrupts(6);
    // UNPK: the leftmost digits come from the leftmost byte.
    test("f331 c000 c040").data(0x40, "123c").run().stored(0, "f0f1f2c3");
    // Overlapping: the left half of a byte is not fetched again.
    test("f321 c000 c000").data(0, "123c56").run().stored(0, "f1f2c3");
    // UNPKA overlapping nothing, with a minus sign and an invalid one.
    let number = "1234567890123456789012345678901d";
    test("ea03 c000 c040").data(0x40, number).run().completes(1).stored(0, "38393031");
    test("ea00 c000 c040").run().completes(3).stored(0, "30");
}

#[test]
fn long_lengths_have_32_bits_below_64_bit_addressing() {
    // MVCLE in the 31-bit mode with a second operand of 2^31 + 4 bytes.
    let mut moved = test("a824 0000").gr(2, DATA).gr(3, 4).gr(4, DATA + 0x40).gr(5, 0x8000_0004);
    moved.mask = psw_bits::BA;
    moved.data(0x40, "01020304").run().completes(1).left(3, 0).left(5, 0x8000_0000).stored(0, "01020304");
}

#[test]
fn characters_are_what_their_form_says() {
    // CU12 %r2,%r4,1: three bytes from U+0800 on are well formed; two bytes for U+007F are not.
    let convert = |m3: u8, source: &str| {
        let length = hex(source).len() as u64;
        test(&format!("b2a7 {m3:x}024"))
            .gr(2, DATA)
            .gr(3, 8)
            .gr(4, DATA + 0x40)
            .gr(5, length)
            .data(0x40, source)
            .run()
    };
    convert(1, "e0a080").completes(0).stored(0, "0800").left(3, 6).left(5, 0);
    convert(1, "41 c1bf").completes(2).stored(0, "0041").left(5, 2);
    convert(0, "c1bf").completes(0).stored(0, "007f");
    convert(1, "f09f9880").completes(0).stored(0, "d83dde00").left(3, 4);
    convert(1, "eda080").completes(2).left(5, 3);
    // The last character is not all there.
    convert(1, "41 e0a0").completes(0).stored(0, "0041").left(5, 2);
}

#[test]
fn trte_and_trtre_select_function_codes() {
    // Two-byte arguments, one-byte codes, arguments above 255 ignored: table at 0x100 has a code at 5.
    let trte = |code: &str, start: u64| {
        let test = test(code).gr(1, DATA + 0x100).gr(2, DATA + start).gr(3, 8).gr(4, u64::MAX);
        test.data(0, "0001 0305 0005 0002").data(0x105, "77").run()
    };
    trte("b9bf a024", 0).completes(1).left(2, DATA + 4).left(3, 4).left(4, 0x77);
    trte("b9bd a024", 6).completes(1).left(2, DATA + 4).left(3, 6).left(4, 0x77);
    trte("b9bf a024", 0x200).completes(0).left(2, DATA + 0x208).left(3, 0);
    // One-byte arguments and two-byte codes: code 5 is now at 0x10a.
    let test = test("b9bf 4024").gr(1, DATA + 0x100).gr(2, DATA).gr(3, 8);
    test.data(0, "00010305").data(0x10a, "1234").run().completes(1).left(2, DATA + 3).left(4, 0x1234);
}

#[test]
fn translates_characters() {
    // Table at 0x100; general register 0 has the test character 0x44.
    let translate = |code: &str, length: u64| {
        let test = test(code).gr(0, 0x44).gr(1, DATA + 0x104).gr(2, DATA + 0x80).gr(3, length).gr(4, DATA);
        test.data(0, "0001 0002 0003").data(0x100, "11 22 33 44 00 55 00 44 66 77").run()
    };
    // TROO and TROT: the rightmost bits of the table address are ignored.
    translate("b993 1024", 6)
        .completes(0)
        .left(2, DATA + 0x86)
        .left(4, DATA + 6)
        .stored(0x80, "112211331144");
    translate("b992 1024", 2).completes(0).left(2, DATA + 0x84).stored(0x80, "1122 3344");
    // TRTO ends at the test character, unless M3 says otherwise; TRTT.
    translate("b991 0024", 6)
        .completes(1)
        .left(2, DATA + 0x82)
        .left(3, 2)
        .left(4, DATA + 4)
        .stored(0x80, "223300");
    translate("b991 1024", 6).completes(0).left(2, DATA + 0x83).left(3, 0).stored(0x80, "223344");
    translate("b990 0024", 4).completes(0).stored(0x80, "3344 0055");
    translate("b990 0024", 6).completes(1).left(3, 2);
    translate("b990 0024", 5).interrupts(6);
    translate("b993 0024", 0).completes(0).left(2, DATA + 0x80).left(4, DATA);
}

#[test]
fn cuse_finds_substrings() {
    let cuse = |substring: u64, first: &str, second: &str| {
        let lengths = [first, second].map(|s| hex(s).len() as u64);
        let test = test("b257 0024").gr(0, substring).gr(1, 0x40).gr(2, DATA).gr(3, lengths[0]);
        test.gr(4, DATA + 0x40).gr(5, lengths[1]).data(0, first).data(0x40, second).run()
    };
    cuse(2, "01020304", "ff020304").completes(0).left(2, DATA + 1).left(3, 3).left(5, 3);
    cuse(2, "010203", "ff04").completes(2).left(2, DATA + 3).left(3, 0);
    // The shorter operand is extended with the padding byte.
    cuse(3, "01024040", "ff").completes(1).left(2, DATA + 2).left(3, 2).left(4, DATA + 0x41).left(5, 0);
    cuse(0, "01", "02").completes(0).left(2, DATA);
}

/// PLO %r2,0(%r12),%r4,0x20(%r12) with the function code in register 0.
fn plo(function: u64) -> Test {
    test("ee24 c000 c020").gr(0, function).gr(1, DATA + 0x100)
}

#[test]
fn plo_compares_and_replaces() {
    // COMPARE AND LOAD.
    let equal = plo(0).gr(2, 0x11).data(0, "00000011").data(0x20, "00000022").run();
    equal.completes(0).left(2, 0x11).left(4, 0x22);
    plo(0).gr(2, 0x10).data(0, "00000011").run().completes(1).left(2, 0x11).left(4, 4);
    // COMPARE AND SWAP, 32 and 64 bits.
    plo(4).gr(2, 0x11).gr(3, 0x33).data(0, "00000011").run().completes(0).stored(0, "00000033");
    let values = "0000000000000000 0000000000000011 0000000000000000 0000000000000033";
    plo(5).data(0, "0000000000000011").data(0x20, values).run().completes(0).stored(0, "0000000000000033");
    let unequal = plo(5).data(0, "0000000000000012").data(0x20, values).run();
    unequal.completes(1).stored(0, "0000000000000012").stored(0x28, "0000000000000012");
    // DOUBLE COMPARE AND SWAP.
    let double = || plo(8).gr(2, 0x11).gr(3, 0x33).gr(4, 0x22).gr(5, 0x44).data(0, "00000011");
    double().data(0x20, "00000022").run().completes(0).stored(0, "00000033").stored(0x20, "00000044");
    double().data(0x20, "00000023").run().completes(2).stored(0, "00000011").left(4, 0x23);
    // COMPARE AND SWAP AND STORE, 64 bits in registers.
    let store = plo(14).gr(2, 0x11).gr(3, 0x33).gr(4, 0x44).data(0, "0000000000000011").run();
    store.completes(0).stored(0, "0000000000000033").stored(0x20, "0000000000000044");
    // COMPARE AND SWAP AND TRIPLE STORE: values and addresses in the list.
    let triple = plo(20).gr(2, 0x11).gr(3, 0x33).data(0, "00000011");
    let triple = [(60, 0x60u64), (92, 0x61), (124, 0x62)].into_iter().fold(triple, |test, (at, value)| {
        let target = DATA + 0x200 + 4 * (value - 0x60);
        test.data(0x20 + at, &format!("{value:08x}")).data(0x20 + at + 12, &format!("{target:016x}"))
    });
    triple.run().completes(0).stored(0, "00000033").stored(0x200, "000000600000006100000062");
}

#[test]
fn plo_checks() {
    plo(0x117).run().completes(0);
    plo(0x118).run().completes(3);
    plo(24).run().interrupts(6);
    plo(0x200).run().interrupts(6);
    // R1 is odd; the second operand is not on a word boundary; the list not on a doubleword boundary.
    test("ee34 c000 c020").gr(0, 4).run().interrupts(6);
    test("ee24 c002 c020").gr(0, 0).run().interrupts(6);
    test("ee24 c000 c024").gr(0, 5).run().interrupts(6);
    // A store that is not accessible leaves everything.
    let list = plo(16).gr(2, 0x11).gr(3, 0x33).data(0, "00000011").data(0x20 + 72, "00000000fffffff0");
    list.run().interrupts(5).stored(0, "00000011").left(2, 0x11);
}

#[test]
fn moves_beyond_one_step() {
    // MVCL clears 1 MiB less the tables in several steps, and ends at its registers.
    let cleared =
        test("0e24").gr(2, DATA).gr(3, 0xf0000).gr(4, 0).gr(5, 0xee00_0000).data(0xeffff, "aa").run();
    cleared.completes(2).left(2, DATA + 0xf0000).left(3, 0).stored(0xeffff, "ee00").stored(0, "eeee");
    // Destructive overlap.
    test("0e24").gr(2, DATA + 1).gr(3, 4).gr(4, DATA).gr(5, 4).run().completes(3).left(3, 4);
    // MVC propagates a byte and a pair, across a page too.
    test("d206 c001 c000").data(0, "ab").run().stored(0, "abababababababab");
    test("d206 cffd cffb").data(0xffb, "abcd").run().stored(0xffb, "abcdabcdabcdabcdab");
    // Logical operations feed back at short distances.
    test("d709 c001 c000")
        .data(0, "0100000000000000000000")
        .run()
        .completes(1)
        .stored(0, "0101010101010101010101");
}

#[test]
fn monitor_calls() {
    test("af10 c000").run().interrupts(6);
    test("af05 c123").run().completes(0);
}
