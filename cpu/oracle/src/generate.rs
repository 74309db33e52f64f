//! Random cases for an instruction, from the layout of its operands.
//!
//! A [`Template`] says which bits are the opcode and what the others mean; [`Template::of_format`] knows the formats
//! of the manual. A [`Generator`] then makes an instruction ([`Generator::plan`]) and any number of states for it
//! ([`Generator::case`]): base registers point into the windows (or just across their ends, rarely to nowhere),
//! registers and storage hold the values where mistakes live. Everything follows from the seed.

use crate::layout::{CODE_PAGE, SLOT, TARGET, WINDOW_SIZE, WINDOWS};
use crate::random::{Float, Random};
use crate::{Case, State, instruction_length, psw};

/// AFP-register-control bit of control register 0.
const AFP: u64 = 1 << (63 - 45);

/// What a four-bit register field stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A general register with a number.
    Gr,
    /// An even-odd pair of general registers.
    GrPair,
    /// A floating-point register.
    Fpr,
    /// A pair of floating-point registers.
    FprPair,
    /// An access register.
    Ar,
    /// A control register.
    Cr,
    /// A mask, not a register.
    Mask,
    /// A general register with the address of an operand.
    Address,
    /// A pair: address and length of an operand.
    Buffer(Length),
    /// A general register with a branch address.
    BranchTarget,
}

/// The length in the second register of a [`Class::Buffer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// 24 bits, with a padding byte before it in one of the two (MOVE LONG, COMPARE LOGICAL LONG).
    Padded,
    /// All of the register that the addressing mode leaves, in bytes.
    Bytes,
    /// The same, nearly always even.
    Pairs,
    /// In bytes, and nothing else in the register in any addressing mode.
    Whole,
}

/// One operand field, or a group of fields that form an address. Positions count bits from the instruction's left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Four bits.
    Register {
        /// First bit.
        at: u8,
        /// Meaning.
        class: Class,
    },
    /// Base, displacement and perhaps index.
    Storage {
        /// First bit of the index field.
        index: Option<u8>,
        /// First bit of the base field; the displacement follows it.
        base: u8,
        /// Whether the displacement has 20 bits (DL, DH) instead of 12.
        long: bool,
        /// What the address is for.
        purpose: Purpose,
    },
    /// A number, or a length.
    Immediate {
        /// First bit.
        at: u8,
        /// Bits.
        width: u8,
    },
    /// A distance in halfwords.
    Relative {
        /// First bit.
        at: u8,
        /// Bits: 12, 16, 24 or 32.
        width: u8,
        /// What the address is for.
        purpose: Purpose,
    },
}

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An operand in storage.
    Data,
    /// It is a number itself (shift amounts, LOAD ADDRESS).
    Number,
    /// Execution may continue there.
    Branch,
    /// An instruction to execute is there.
    Execute,
}

/// What numbers an instruction works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Fixed-point numbers and strings of bytes.
    Bytes,
    /// Binary floating point.
    Float,
    /// Packed and zoned decimal.
    Decimal,
}

/// What a general register that no field names must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implied {
    /// Zero.
    Zero,
    /// A number of this many bits, in an otherwise zero register; now and then any number.
    Bits(u32),
    /// An address in a window, aligned on this power of two.
    Address(u64),
}

/// An instruction to make cases for.
#[derive(Clone, Debug)]
pub struct Template {
    /// The opcode in place, zeros elsewhere.
    pub opcode: [u8; 6],
    /// The fields.
    pub operands: Vec<Operand>,
    /// General registers with a meaning of their own.
    pub implied: Vec<(usize, Implied)>,
    /// What its operands contain.
    pub data: Data,
    /// Whether to execute it again on condition code 3 ([`Case::again`]).
    pub again: bool,
    /// Whether its storage operands must not overlap (results would be unpredictable).
    pub apart: bool,
    /// Whether it needs the supervisor state.
    pub privileged: bool,
}

const fn gr(at: u8) -> Operand {
    Operand::Register { at, class: Class::Gr }
}
const fn mask(at: u8) -> Operand {
    Operand::Register { at, class: Class::Mask }
}
const fn storage(base: u8) -> Operand {
    Operand::Storage { index: None, base, long: false, purpose: Purpose::Data }
}
const fn indexed(long: bool) -> Operand {
    Operand::Storage { index: Some(12), base: 16, long, purpose: Purpose::Data }
}
const fn immediate(at: u8, width: u8) -> Operand {
    Operand::Immediate { at, width }
}
const fn branch(at: u8, width: u8) -> Operand {
    Operand::Relative { at, width, purpose: Purpose::Branch }
}

/// Operand fields by the manual's name of the format (chapter 5, *Instruction Formats*), as far as the name says
/// what they are; registers count as general ones.
const FORMATS: &[(&str, &[Operand])] = &[
    ("E", &[]),
    ("I", &[immediate(8, 8)]),
    ("RR", &[gr(8), gr(12)]),
    ("RRE", &[gr(24), gr(28)]),
    ("RRF", &[gr(24), gr(28), gr(16), mask(20)]),
    ("RRD", &[gr(16), gr(24), gr(28)]),
    ("RI-a", &[gr(8), immediate(16, 16)]),
    ("RI-b", &[gr(8), branch(16, 16)]),
    ("RI-c", &[mask(8), branch(16, 16)]),
    ("RIL-a", &[gr(8), immediate(16, 32)]),
    ("RIL-b", &[gr(8), branch(16, 32)]),
    ("RIL-c", &[mask(8), branch(16, 32)]),
    ("RIE-a", &[gr(8), immediate(16, 16), mask(32)]),
    ("RIE-b", &[gr(8), gr(12), branch(16, 16), mask(32)]),
    ("RIE-c", &[gr(8), mask(12), branch(16, 16), immediate(32, 8)]),
    ("RIE-d", &[gr(8), gr(12), immediate(16, 16)]),
    ("RIE-e", &[gr(8), gr(12), branch(16, 16)]),
    ("RIE-f", &[gr(8), gr(12), immediate(16, 8), immediate(24, 8), immediate(32, 8)]),
    ("RIE-g", &[gr(8), mask(12), immediate(16, 16)]),
    ("RIS", &[gr(8), mask(12), BRANCH_AT_16, immediate(32, 8)]),
    ("RRS", &[gr(8), gr(12), BRANCH_AT_16, mask(32)]),
    ("RX", &[gr(8), indexed(false)]),
    ("RXY", &[gr(8), indexed(true)]),
    ("RXE", &[gr(8), indexed(false), mask(32)]),
    ("RXF", &[gr(32), gr(8), indexed(false)]),
    ("RS", &[gr(8), gr(12), storage(16)]),
    ("RSY", &[gr(8), gr(12), LONG_AT_16]),
    ("RSL", &[immediate(8, 4), storage(16)]),
    ("RSI", &[gr(8), gr(12), branch(16, 16)]),
    ("S", &[storage(16)]),
    ("SI", &[immediate(8, 8), storage(16)]),
    ("SIY", &[immediate(8, 8), LONG_AT_16]),
    ("SIL", &[storage(16), immediate(32, 16)]),
    ("SS", &[immediate(8, 8), storage(16), storage(32)]),
    ("SSE", &[storage(16), storage(32)]),
    ("SSF", &[gr(8), storage(16), storage(32)]),
    ("SMI", &[mask(8), BRANCH_AT_16]),
    ("MII", &[mask(8)]),
];
const BRANCH_AT_16: Operand =
    Operand::Storage { index: None, base: 16, long: false, purpose: Purpose::Branch };
const LONG_AT_16: Operand = Operand::Storage { index: None, base: 16, long: true, purpose: Purpose::Data };

impl Template {
    /// An instruction of a format of the manual; `None` for a format this module does not know.
    pub fn of_format(format: &str, opcode: [u8; 6]) -> Option<Template> {
        let (_, operands) = FORMATS.iter().find(|(name, _)| *name == format)?;
        Some(Template {
            opcode,
            operands: operands.to_vec(),
            implied: Vec::new(),
            data: Data::Bytes,
            again: false,
            apart: false,
            privileged: false,
        })
    }

    /// Gives the register field that begins at bit `at` another meaning.
    pub fn class(mut self, bit: u8, new: Class) -> Template {
        for operand in &mut self.operands {
            match operand {
                Operand::Register { at, class } if *at == bit => *class = new,
                _ => {}
            }
        }
        self
    }

    /// Gives every address another purpose.
    pub fn purpose(mut self, new: Purpose) -> Template {
        for operand in &mut self.operands {
            match operand {
                Operand::Storage { purpose, .. } | Operand::Relative { purpose, .. } => *purpose = new,
                _ => {}
            }
        }
        self
    }

    /// Gives a general register that no field names its meaning.
    pub fn implied(mut self, register: usize, meaning: Implied) -> Template {
        self.implied.push((register, meaning));
        self
    }

    /// Removes the field at bit `bit` (unassigned bits, which stay zero).
    pub fn without(mut self, bit: u8) -> Template {
        self.operands.retain(|operand| match operand {
            Operand::Register { at, .. } | Operand::Immediate { at, .. } | Operand::Relative { at, .. } => {
                *at != bit
            }
            Operand::Storage { base, .. } => *base != bit,
        });
        self
    }
}

/// An instruction with its fields filled in, and what its registers must hold.
#[derive(Clone, Debug)]
pub struct Plan {
    instruction: [u8; 6],
    addresses: Vec<Address>,
    registers: Vec<(usize, Class)>,
    implied: Vec<(usize, Implied)>,
    data: Data,
    again: bool,
    apart: bool,
    privileged: bool,
    execute: Option<[u8; 6]>,
}

#[derive(Clone, Copy, Debug)]
struct Address {
    index: usize,
    base: usize,
    displacement: i64,
    purpose: Purpose,
}

impl Plan {
    /// The instruction, left-aligned.
    pub fn instruction(&self) -> [u8; 6] {
        self.instruction
    }

    /// Whether a register with an address, or its pair, already has a meaning: results would be unpredictable.
    fn occupies(&self, number: usize, class: Class) -> bool {
        let of = |number: usize, class| match class {
            Class::Buffer(_) => vec![number, (number + 1) % 16],
            Class::Address => vec![number],
            Class::Gr if self.apart => vec![number],
            _ => Vec::new(),
        };
        let fields = self.registers.iter().flat_map(|(number, class)| of(*number, *class));
        let mut taken = fields.chain(self.implied.iter().map(|(number, _)| *number));
        let wanted = of(number, class);
        taken.any(|number| wanted.contains(&number))
    }
}

/// Makes cases.
#[derive(Clone, Debug)]
pub struct Generator {
    random: Random,
}

impl Generator {
    /// A generator whose cases follow from the seed.
    pub fn new(random: Random) -> Generator {
        Generator { random }
    }

    /// Fills in the fields of an instruction.
    pub fn plan(&mut self, template: &Template) -> Plan {
        let mut bits = Bits::new(template.opcode);
        let mut plan = Plan {
            instruction: template.opcode,
            addresses: Vec::new(),
            registers: Vec::new(),
            implied: template.implied.clone(),
            data: template.data,
            again: template.again,
            apart: template.apart,
            privileged: template.privileged,
            execute: None,
        };
        for operand in &template.operands {
            match *operand {
                Operand::Register { at, class } => {
                    let number = loop {
                        let number = self.register(class);
                        if !plan.occupies(number as usize, class) {
                            break number;
                        }
                    };
                    bits.set(at, 4, number);
                    plan.registers.push((number as usize, class));
                }
                Operand::Immediate { at, width } => {
                    let value =
                        if self.random.chance(50) { self.random.bits() } else { self.random.integer() };
                    bits.set(at, width, value);
                }
                Operand::Storage { index, base, long, purpose } => {
                    let none = |r: &mut Random, percent| if r.chance(percent) { 0 } else { 1 + r.below(15) };
                    let b = loop {
                        let b = none(&mut self.random, 4);
                        let shared = plan.apart && plan.addresses.iter().any(|a| a.base as u64 == b);
                        if !shared && !plan.occupies(b as usize, Class::Address) {
                            break b;
                        }
                    };
                    let x = if index.is_some() { none(&mut self.random, 50) } else { 0 };
                    let d = match self.random.below(4) {
                        0 => 0,
                        1 => self.random.below(16) as i64,
                        _ => self.random.below(4096) as i64,
                    };
                    let d =
                        if long && self.random.chance(70) { (self.random.bits() as i64) >> 44 } else { d };
                    bits.set(base, 4, b);
                    bits.set(base + 4, 12, d as u64);
                    if let Some(at) = index {
                        bits.set(at, 4, x);
                    }
                    if long {
                        bits.set(base + 16, 8, (d >> 12) as u64);
                    }
                    plan.addresses.push(Address {
                        index: x as usize,
                        base: b as usize,
                        displacement: d,
                        purpose,
                    });
                }
                Operand::Relative { at, width, purpose } => {
                    let target = match purpose {
                        // Within the reach of every addressing mode: the emulator does not trim such an address.
                        Purpose::Data => self.data_address() & 0x7f_ffff,
                        Purpose::Execute => TARGET,
                        Purpose::Branch | Purpose::Number => self.branch_address(template.opcode[0]) & !1,
                    };
                    bits.set(at, width, (target.wrapping_sub(SLOT) as i64 >> 1) as u64);
                }
            }
        }
        plan.instruction = bits.bytes();
        plan
    }

    /// An EXECUTE of `target`: `execute` is EX or EXRL, whose R1 bits are ORed into the target's second byte.
    pub fn execute(&mut self, execute: &Template, target: &Plan) -> Plan {
        let mut plan = self.plan(execute);
        // In this order the registers of EXECUTE's own address have the last word.
        plan.addresses.splice(0..0, target.addresses.iter().copied());
        plan.registers.extend(&target.registers);
        plan.implied.extend(&target.implied);
        plan.data = target.data;
        plan.again = target.again;
        plan.apart = target.apart;
        plan.execute = Some(target.instruction);
        // What the OR makes of operand fields is the instruction's business; it must not make another instruction.
        if matches!(target.instruction[0], 0x01 | 0xa5 | 0xa7 | 0xb2 | 0xb3 | 0xb9 | 0xc0..=0xcc | 0xe5) {
            plan.instruction[1] &= 0x0f;
        }
        plan
    }

    /// A state for the instruction.
    pub fn case(&mut self, plan: &Plan) -> Case {
        let mut state = State::default();
        let width = self.random.pick(&[Float::Short, Float::Long, Float::Extended]);
        for i in 0..16 {
            state.gr[i] = self.random.integer();
            state.ar[i] = self.random.integer() as u32;
        }
        // Equal operands, and operands that differ by one, are rare among random ones.
        if self.random.chance(20) {
            let source = state.gr[self.random.below(16) as usize];
            for (number, _) in &plan.registers {
                if self.random.chance(70) {
                    state.gr[*number] = source.wrapping_add(self.random.below(3)).wrapping_sub(1);
                }
            }
        }
        self.floats(&mut state, width);
        self.fill(&mut state, plan.data, width);
        let mode = self.random.pick(&[psw::EXTENDED, psw::EXTENDED, psw::EXTENDED, psw::BASIC, 0]);
        let program_mask = if self.random.chance(60) { 0 } else { self.random.below(16) };
        state.psw_mask = psw::DAT
            | if plan.privileged && self.random.chance(90) { 0 } else { psw::PROBLEM }
            | self.random.below(4) << psw::CC_SHIFT
            | program_mask << (63 - 23)
            | mode;
        let masks = if self.random.chance(70) { 0 } else { self.random.bits() & 0xf800_0000 };
        let flags = if self.random.chance(70) { 0 } else { self.random.bits() & 0x00f8_0000 };
        let dxc = if self.random.chance(90) { 0 } else { self.random.bits() & 0xff00 };
        state.fpc = (masks | flags | dxc) as u32 | self.random.pick(&[0, 0, 0, 1, 2, 3, 7]);

        if plan.data == Data::Float && self.random.chance(2) {
            let mut cr = crate::layout::default_cr();
            cr[0] &= !AFP;
            state.cr = Some(Box::new(cr));
        }

        let mut window = plan.apart.then(|| self.random.below(2) as usize);
        for (number, class) in &plan.registers {
            self.load_register(&mut state, *number, *class, plan.instruction[0], window);
            if matches!(class, Class::Address | Class::Buffer(_)) {
                window = window.map(|window| 1 - window);
            }
        }
        for (number, implied) in &plan.implied {
            state.gr[*number] = match implied {
                _ if self.random.chance(3) => self.random.integer(),
                Implied::Zero => 0,
                Implied::Bits(width) => self.random.bits() >> (64 - width),
                Implied::Address(alignment) => self.data_address() & !(alignment - 1),
            };
        }
        let mut first = None;
        for address in &plan.addresses {
            self.load_address(&mut state, plan, *address, width, &mut first);
        }
        Case { instruction: plan.instruction, target: plan.execute, again: plan.again, state }
    }

    fn register(&mut self, class: Class) -> u64 {
        let number = self.random.below(16);
        // Wrong register numbers are a check of their own; most cases get past it.
        let right = self.random.chance(95);
        match class {
            Class::GrPair | Class::Buffer(_) if right => number & !1,
            Class::FprPair if right => number & !2,
            _ => number,
        }
    }

    /// `apart` names the window that an operand must be in.
    fn load_register(
        &mut self,
        state: &mut State,
        number: usize,
        class: Class,
        first_byte: u8,
        apart: Option<usize>,
    ) {
        match class {
            // Whether an unchanged address loses the bits between the addressing mode's and bit 32 is often the
            // CPU's choice.
            Class::Address => state.gr[number] = self.operand_address(apart) & (narrow(state) | !0xffff_ffff),
            Class::Buffer(kind) => {
                state.gr[number] = self.operand_address(apart) & (narrow(state) | !0xffff_ffff);
                let length = match self.random.below(8) {
                    0 => 0,
                    1..=5 => self.random.below(40),
                    6 => self.random.below(300),
                    _ => self.random.below(600),
                };
                // Bits that are no part of the length. Not bit 32: the emulator takes it for one of them.
                let ignored = match kind {
                    Length::Padded if self.random.chance(60) => !0xff_ffff,
                    Length::Padded => 0xff00_0000,
                    Length::Bytes | Length::Pairs if narrow(state) != !0 => !0xffff_ffff,
                    _ => 0,
                };
                let even = if kind == Length::Pairs && self.random.chance(97) { !1 } else { !0 };
                state.gr[(number + 1) % 16] = self.random.bits() & ignored | length & even;
            }
            Class::BranchTarget => {
                // Not bit 32 and above: the emulator does not trim a branch address, and its TLB then holds
                // translations that a 64-bit case must not find.
                let odd = u64::from(self.random.chance(10));
                state.gr[number] = self.branch_address(first_byte) | odd;
            }
            _ => {}
        }
    }

    /// Makes base (and index) plus displacement the address wanted, and puts something sensible there.
    fn load_address(
        &mut self,
        state: &mut State,
        plan: &Plan,
        a: Address,
        width: Float,
        first: &mut Option<u64>,
    ) {
        let address = match a.purpose {
            Purpose::Data => match *first {
                Some(other) if plan.apart => {
                    let second = usize::from(other & 0xff_f000 < WINDOWS[1] & 0xff_f000);
                    self.operand_address(Some(second))
                }
                // Overlap, and near misses of it.
                Some(other) if self.random.chance(25) => {
                    other.wrapping_add(self.random.below(9)).wrapping_sub(4)
                }
                _ => self.data_address(),
            },
            Purpose::Number if self.random.chance(50) => self.random.below(80).wrapping_sub(8),
            Purpose::Number => self.random.integer(),
            Purpose::Branch => self.branch_address(plan.instruction[0]) | u64::from(self.random.chance(5)),
            Purpose::Execute => TARGET | u64::from(self.random.chance(2)),
        };
        if a.base == 0 && a.index == 0 {
            return;
        }
        let sum = address.wrapping_sub(a.displacement as u64);
        let (set, other) = if a.base == 0 { (a.index, 0) } else { (a.base, a.index) };
        state.gr[set] = match other {
            0 => sum,
            other if other == set => sum >> 1,
            other => {
                if self.random.chance(50) {
                    state.gr[other] = self.random.below(0x1000);
                }
                sum.wrapping_sub(state.gr[other])
            }
        };
        // Bits above the addressing mode's are ignored.
        if self.random.chance(50) {
            state.gr[set] = state.gr[set].wrapping_add(self.random.bits() & !narrow(state));
        }
        if a.purpose == Purpose::Data {
            let source = first.replace(address);
            let length = match plan.data {
                Data::Decimal => match first_length(plan, source.is_some()) {
                    0 => 8,
                    length => length,
                },
                _ => 16,
            };
            self.place(state, address, length, plan.data, width, source);
        }
    }

    /// An address for a storage operand.
    fn data_address(&mut self) -> u64 {
        let window = self.random.pick(&WINDOWS);
        let offset = match self.random.below(20) {
            0 => {
                return self.random.pick(&[
                    0,
                    0x3_4000,
                    SLOT,
                    0x2000_0000,
                    0x8000_0000,
                    1 << 40,
                    u64::MAX - 3,
                ]);
            }
            1 => return self.random.bits(),
            // Around the page boundary of window A; near the end of the last valid page.
            2..=4 => WINDOW_SIZE as u64 / 2 - self.random.below(20),
            5 => WINDOW_SIZE as u64 - self.random.below(18),
            _ => self.random.below(WINDOW_SIZE as u64 - 40),
        };
        let alignment = self.random.pick(&[1, 2, 4, 8, 8, 16]);
        (window + offset) & !(alignment - 1)
    }

    /// The same, moved into the window given if it is in the other.
    fn operand_address(&mut self, window: Option<usize>) -> u64 {
        let address = self.data_address();
        let inside = WINDOWS.iter().find(|w| (**w..**w + WINDOW_SIZE as u64).contains(&address));
        match (inside, window) {
            (Some(from), Some(to)) => address - from + WINDOWS[to],
            _ => address,
        }
    }

    /// An even address where execution may go: in the code page, away from the instruction itself and its target.
    fn branch_address(&mut self, first_byte: u8) -> u64 {
        if self.random.chance(3) {
            return self.random.pick(&[0, 0x3_3000, 0x4_0000, 0x2_1000 - 2, 0xff_fffe, 0x3_0000]);
        }
        let own = SLOT..SLOT + instruction_length(first_byte) as u64;
        loop {
            let address = CODE_PAGE + (self.random.below(0x1000) & !1);
            // An executed relative branch goes just as far, but begins at its own place.
            let executed = address + (TARGET - SLOT);
            let free = |at: u64| !own.contains(&at) && !(TARGET..TARGET + 8).contains(&at);
            if free(address) && free(executed) {
                return address;
            }
        }
    }

    fn floats(&mut self, state: &mut State, width: Float) {
        for i in 0..16 {
            match width {
                Float::Short => {
                    let low = if self.random.chance(50) { 0 } else { self.random.bits() >> 32 };
                    state.fpr[i] = (self.random.float(width) as u64) << 32 | low;
                }
                Float::Long => state.fpr[i] = self.random.float(width) as u64,
                Float::Extended if i & 2 == 0 => {
                    let value = self.random.float(width);
                    (state.fpr[i], state.fpr[i + 2]) = ((value >> 64) as u64, value as u64);
                }
                Float::Extended => {}
            }
        }
        if self.random.chance(15) {
            let (from, to) = (self.random.below(16) as usize, self.random.below(16) as usize);
            state.fpr[to] = state.fpr[from] ^ self.random.pick(&[0, 0, 1, 1 << 63, 1 << 32]);
        }
    }

    /// Fills the windows.
    fn fill(&mut self, state: &mut State, data: Data, width: Float) {
        for window in 0..2 {
            let style =
                if data == Data::Decimal { self.random.pick(&[0, 3, 3, 4]) } else { self.random.below(6) };
            let bytes = &mut state.windows[window];
            match style {
                0 | 1 => bytes
                    .chunks_exact_mut(8)
                    .for_each(|c| c.copy_from_slice(&self.random.bits().to_be_bytes())),
                2 => bytes.fill(self.random.pick(&[0, 0, 0xff, 0x40, 0xf0, b'a'])),
                3 => bytes
                    .iter_mut()
                    .for_each(|b| *b = (self.random.below(10) << 4 | self.random.below(10)) as u8),
                4 => bytes.iter_mut().for_each(|b| *b = 0xf0 | self.random.below(10) as u8),
                _ => {
                    for chunk in bytes.chunks_exact_mut(16) {
                        let value = self.random.float(width);
                        match width {
                            Float::Short => {
                                chunk.copy_from_slice(&[(value as u32).to_be_bytes(); 4].concat())
                            }
                            Float::Long => chunk.copy_from_slice(&[(value as u64).to_be_bytes(); 2].concat()),
                            Float::Extended => chunk.copy_from_slice(&value.to_be_bytes()),
                        }
                    }
                }
            }
        }
    }

    /// Puts a value at an operand's address: a number, or a copy of the other operand.
    fn place(
        &mut self,
        state: &mut State,
        address: u64,
        length: usize,
        data: Data,
        width: Float,
        other: Option<u64>,
    ) {
        let source = other.and_then(|other| window_bytes(state, other)).map(|bytes| bytes.to_vec());
        let copy = self.random.chance(40);
        let Some(bytes) = window_bytes(state, address) else { return };
        let available = bytes.len();
        match (data, source) {
            (Data::Bytes, Some(source)) if copy => {
                let n = available.min(source.len());
                bytes[..n].copy_from_slice(&source[..n]);
                if self.random.chance(60) {
                    bytes[self.random.below(n.min(24) as u64) as usize] ^= 1 << self.random.below(8);
                }
            }
            (Data::Bytes, _) => {
                if self.random.chance(60) {
                    let value = self.random.integer();
                    let words =
                        if self.random.chance(50) { [value, value << 32] } else { [value << 32, value] };
                    let value: Vec<u8> = words.into_iter().flat_map(u64::to_be_bytes).collect();
                    let n = available.min(16);
                    bytes[..n].copy_from_slice(&value[..n]);
                }
            }
            (Data::Float, _) => {
                let value = self.random.float(width);
                let value = match width {
                    Float::Short => value << 96,
                    Float::Long => value << 64,
                    Float::Extended => value,
                };
                let n = available.min(16);
                bytes[..n].copy_from_slice(&value.to_be_bytes()[..n]);
            }
            (Data::Decimal, _) => {
                let n = available.min(length);
                if n > 0 {
                    self.random.packed(&mut bytes[..n]);
                }
            }
        }
    }
}

/// The bits of an address that count in the state's addressing mode.
fn narrow(state: &State) -> u64 {
    match state.psw_mask & psw::EXTENDED {
        0 => 0xff_ffff,
        psw::BASIC => 0x7fff_ffff,
        _ => !0,
    }
}

/// The bytes of an SS instruction's operand, from its L, L1 or L2 field; 0 for other formats.
fn first_length(plan: &Plan, second: bool) -> usize {
    let [first, lengths, ..] = plan.execute.unwrap_or(plan.instruction);
    match (first, second) {
        (0xf0..=0xff, false) => usize::from(lengths >> 4) + 1,
        (0xf0..=0xff, true) => usize::from(lengths & 15) + 1,
        _ => 0,
    }
}

/// The rest of the window from this address on.
fn window_bytes(state: &mut State, address: u64) -> Option<&mut [u8]> {
    let window = WINDOWS.iter().position(|w| (*w..w + WINDOW_SIZE as u64).contains(&address))?;
    Some(&mut state.windows[window][(address - WINDOWS[window]) as usize..])
}

/// An instruction as a number, for setting fields.
struct Bits(u64);

impl Bits {
    fn new(bytes: [u8; 6]) -> Bits {
        Bits(bytes.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)) << 16)
    }

    fn set(&mut self, at: u8, width: u8, value: u64) {
        let shift = 64 - u32::from(at) - u32::from(width);
        let field = (1u64 << width) - 1;
        self.0 = self.0 & !(field << shift) | (value & field) << shift;
    }

    fn bytes(self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(format: &str, opcode: [u8; 6]) -> Template {
        Template::of_format(format, opcode).expect("a known format")
    }

    #[test]
    fn the_same_seed_makes_the_same_cases() {
        let make = || {
            let mut generator = Generator::new(Random::named(1, "MVC"));
            let plan = generator.plan(&template("SS", [0xd2, 0, 0, 0, 0, 0]));
            [generator.case(&plan), generator.case(&plan)]
        };
        assert_eq!(make(), make());
        assert_ne!(make()[0], make()[1]);
    }

    #[test]
    fn fields_stay_off_the_opcode() {
        for (format, opcode, fixed) in [
            ("RXY", [0xe3, 0, 0, 0, 0, 0x04], [0xff, 0, 0, 0, 0, 0xff]),
            ("RIL-b", [0xc0, 0x05, 0, 0, 0, 0], [0xff, 0x0f, 0, 0, 0, 0]),
            ("RRE", [0xb9, 0x08, 0, 0, 0, 0], [0xff, 0xff, 0xff, 0, 0xff, 0xff]),
            ("RIE-f", [0xec, 0, 0, 0, 0, 0x55], [0xff, 0, 0, 0, 0, 0xff]),
        ] {
            let mut generator = Generator::new(Random::new(7));
            for _ in 0..1000 {
                let made = generator.plan(&template(format, opcode)).instruction();
                let kept: Vec<u8> = made.iter().zip(fixed).map(|(byte, mask)| byte & mask).collect();
                assert_eq!(kept, opcode, "{format}");
            }
        }
    }

    #[test]
    fn most_operands_are_in_a_window() {
        let mut generator = Generator::new(Random::new(3));
        let (mut inside, total) = (0, 2000);
        for _ in 0..total {
            let plan = generator.plan(&template("RXY", [0xe3, 0, 0, 0, 0, 0x04]));
            let case = generator.case(&plan);
            let a = plan.addresses[0];
            let register = |number: usize| if number == 0 { 0 } else { case.state.gr[number] };
            let address =
                register(a.base).wrapping_add(register(a.index)).wrapping_add(a.displacement as u64);
            inside += u32::from(
                WINDOWS.iter().any(|w| (*w..w + WINDOW_SIZE as u64).contains(&(address & 0xff_ffff))),
            );
        }
        assert!(inside > total * 3 / 4, "{inside} of {total}");
    }
}
