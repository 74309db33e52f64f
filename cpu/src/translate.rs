//! Dynamic address translation (chapter 3, *Dynamic Address Translation*) and access-register
//! translation (chapter 5, *Access-Register Translation*). A table walk; the TLB in `access` remembers
//! the results.

use zarch::{AddressSpace, PAGE_SIZE, ProgramCode};

use crate::access::Access;
use crate::{Cpu, Leave};

/// What an address is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Real addresses: DAT is off.
    Real,
    /// Virtual addresses of the space that this address-space-control element designates.
    Virtual(u64),
}

/// Where a virtual page is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// Address of the 4K-byte block: real from [`Cpu::walk`], absolute from [`Cpu::translate`].
    pub(crate) page: u64,
    /// DAT protection: stores are refused.
    pub(crate) protected: bool,
    /// Instruction-execution protection.
    pub(crate) execution_protected: bool,
}

impl Found {
    fn real(address: u64) -> Self {
        Self { page: address & !(PAGE_SIZE - 1), protected: false, execution_protected: false }
    }
}

/// Bits of an address-space-control element.
mod asce {
    /// Real-space control.
    pub const REAL_SPACE: u64 = 0x20;
    /// Designation type, two bits.
    pub const TYPE: u64 = 0x0c;
    /// Table length.
    pub const LENGTH: u64 = 3;
}

/// Bits of region-, segment- and page-table entries.
mod entry {
    pub const INVALID: u64 = 0x20;
    pub const FORMAT: u64 = 0x400;
    pub const PROTECT: u64 = 0x200;
    pub const EXECUTION_PROTECT: u64 = 0x100;
    pub const OFFSET: u64 = 0xc0;
    pub const TYPE: u64 = 0x0c;
    pub const LENGTH: u64 = 3;
    pub const COMMON: u64 = 0x10;
    pub const PAGE_INVALID: u64 = 0x400;
    pub const PAGE_ZERO: u64 = 0x800;
}

impl Cpu {
    /// EDAT applies: the enhancement is installed and enabled by control register 0.
    fn edat(&self) -> bool {
        self.facilities.bit(8) && self.cr[0] & 1 << (63 - 40) != 0
    }

    fn execution_protection(&self) -> bool {
        self.facilities.bit(130) && self.cr[0] & 1 << (63 - 43) != 0
    }

    /// Low-address protection is on: CR0 bit 35, unless the space is private or DAT off in a private
    /// space. (The private-space bit of the effective ASCE turns it off.)
    pub(crate) fn low_address_protection(&self) -> bool {
        self.low_address_protection_of(self.data_space())
    }

    /// The same for an operand in `space`.
    pub(crate) fn low_address_protection_of(&self, space: Space) -> bool {
        self.low_address_protection_control()
            && match space {
                Space::Real => true,
                Space::Virtual(asce) => asce & 0x100 == 0,
            }
    }

    /// CR0 bit 35 alone.
    pub(crate) fn low_address_protection_control(&self) -> bool {
        self.cr[0] & 1 << (63 - 35) != 0
    }

    pub(crate) fn fetch_protection_override(&self, address: u64) -> bool {
        self.cr[0] & 1 << (63 - 38) != 0 && address < 2048
    }

    pub(crate) fn storage_protection_override(&self, key: zarch::StorageKey) -> bool {
        self.cr[0] & 1 << (63 - 39) != 0 && key.access_control() == 9
    }

    /// The space instructions come from.
    pub(crate) fn instruction_space(&self) -> Space {
        match self.psw_address_space() {
            AddressSpace::Real => Space::Real,
            AddressSpace::Home => Space::Virtual(self.cr[13]),
            _ => Space::Virtual(self.cr[1]),
        }
    }

    /// The space operands are in; the primary one in access-register mode.
    pub(crate) fn data_space(&self) -> Space {
        match self.psw_address_space() {
            AddressSpace::Real => Space::Real,
            AddressSpace::Primary | AddressSpace::AccessRegister => Space::Virtual(self.cr[1]),
            AddressSpace::Secondary => Space::Virtual(self.cr[7]),
            AddressSpace::Home => Space::Virtual(self.cr[13]),
        }
    }

    /// The space of an operand whose base register is `ar`.
    pub(crate) fn operand_space(&mut self, ar: u8, access: Access) -> Result<Space, Leave> {
        if access == Access::Instruction {
            return Ok(self.instruction_space());
        }
        if self.psw_address_space() != AddressSpace::AccessRegister {
            return Ok(self.data_space());
        }
        // Access register 0 (and no base register) means the primary space.
        match ar {
            1..=15 => self.access_register_space(ar),
            _ => Ok(Space::Virtual(self.cr[1])),
        }
    }

    /// Access-register translation of access register `ar` with the extended authorization index of
    /// control register 8 (chapter 5). Authority of private spaces is checked through the authority
    /// table.
    pub(crate) fn access_register_space(&mut self, ar: u8) -> Result<Space, Leave> {
        let alet = self.ar[ar as usize];
        let eax = self.cr[8] as u32 & 0xffff_0000;
        match self.translate_alet(alet, Some(eax >> 16)) {
            Ok(asce) => Ok(Space::Virtual(asce)),
            Err(code) => {
                self.exception = code.into();
                self.exception.access_id = ar;
                Err(Leave::Program(code))
            }
        }
    }

    /// The ASCE that an access-list-entry token designates. With an EAX, authority is checked.
    pub(crate) fn translate_alet(&mut self, alet: u32, eax: Option<u32>) -> Result<u64, ProgramCode> {
        match alet {
            0 => return Ok(self.cr[1]),
            1 => return Ok(self.cr[7]),
            _ => {}
        }
        if alet & 0xfe00_0000 != 0 {
            return Err(ProgramCode::AletSpecification);
        }
        // The effective access-list designation: bit 7 of the ALET chooses the primary ASTE's list or
        // the dispatchable-unit one.
        let designation_at = match alet & 0x0100_0000 {
            0 => (self.cr[2] & 0x7fff_ffc0) + 16,
            _ => (self.cr[5] & 0x7fff_ffc0) + 16,
        };
        let word = |cpu: &mut Cpu, at: u64| cpu.load_real::<u32>(at);
        let designation = word(self, designation_at)?;
        let (origin, length) = ((designation & 0x7fff_ff80) as u64, designation & 0x7f);
        let number = alet & 0xffff;
        if number >> 3 > length {
            return Err(ProgramCode::AlenTranslation);
        }
        let ale = origin + number as u64 * 16;
        let first = word(self, ale)?;
        if first & 0x8000_0000 != 0 {
            return Err(ProgramCode::AlenTranslation);
        }
        if (first >> 16 ^ alet >> 16) & 0xff != 0 {
            return Err(ProgramCode::AleSequence);
        }
        let aste = (word(self, ale + 8)? & 0x7fff_ffc0) as u64;
        let sequence = word(self, ale + 12)?;
        let aste_first = word(self, aste)?;
        if aste_first & 0x8000_0000 != 0 {
            return Err(ProgramCode::AsteValidity);
        }
        if word(self, aste + 20)? != sequence {
            return Err(ProgramCode::AsteSequence);
        }
        if let Some(eax) = eax
            && first & 0x0100_0000 != 0
            && first & 0xffff != eax
        {
            // The authority table of the ASTE: two bits per index, the right one is the secondary
            // authority.
            let table = (aste_first & 0x7fff_fffc) as u64;
            let length = word(self, aste + 4)? >> 4 & 0xfff;
            if eax >> 4 > length {
                return Err(ProgramCode::ExtendedAuthority);
            }
            let byte: u8 = self.load_real(table + (eax >> 2) as u64)?;
            if byte << (2 * (eax & 3)) & 0x40 == 0 {
                return Err(ProgramCode::ExtendedAuthority);
            }
        }
        self.load_real::<u64>(aste + 8)
    }

    /// The absolute address of the page of `address` in `space`.
    pub(crate) fn translate(&mut self, space: Space, address: u64, access: Access) -> Result<Found, Leave> {
        match space {
            Space::Real => Ok(self.prefixed(Found::real(address))),
            Space::Virtual(asce) => match self.walk(asce, address) {
                Ok(found) => Ok(self.prefixed(found)),
                Err(code) => Err(self.access_exception(code, address, access, 0)),
            },
        }
    }

    /// Prefixing applies to what translation yields, a real address.
    fn prefixed(&self, found: Found) -> Found {
        Found { page: self.real_to_absolute(found.page).0, ..found }
    }

    /// Walks the tables that `asce` designates; `page` of the result is a real address. Table origins are taken as absolute addresses, which the
    /// manual leaves to the model. `walk_entry` is the last entry looked at.
    pub(crate) fn walk(&mut self, asce: u64, address: u64) -> Result<Found, ProgramCode> {
        if asce & asce::REAL_SPACE != 0 {
            return Ok(Found::real(address));
        }
        let edat = self.edat();
        let edat2 = edat && self.facilities.bit(78);
        let iep = self.execution_protection();
        let levels = (asce & asce::TYPE) >> 2;
        // The bits left of what the top table translates must be zero.
        let reach = [31, 42, 53, 64][levels as usize];
        if reach < 64 && address >> reach != 0 {
            return Err(ProgramCode::AsceType);
        }
        let mut protected = false;
        let mut execution_protected = false;
        let mut origin = asce & !(PAGE_SIZE - 1);
        let (mut first, mut last) = (0, asce & asce::LENGTH);
        for level in (0..=levels).rev() {
            let invalid = [
                ProgramCode::SegmentTranslation,
                ProgramCode::RegionThirdTranslation,
                ProgramCode::RegionSecondTranslation,
                ProgramCode::RegionFirstTranslation,
            ][level as usize];
            let index = address >> (20 + 11 * level) & 0x7ff;
            if index >> 9 < first || index >> 9 > last {
                return Err(invalid);
            }
            let at = origin.wrapping_add(index * 8);
            self.walk_entry = at;
            let value = self.table_entry(at).ok_or(ProgramCode::Addressing)?;
            if value & entry::INVALID != 0 {
                return Err(invalid);
            }
            if (value & entry::TYPE) >> 2 != level {
                return Err(ProgramCode::TranslationSpecification);
            }
            if level == 0 {
                if asce & 0x100 != 0 && value & entry::COMMON != 0 {
                    return Err(ProgramCode::TranslationSpecification);
                }
                protected |= value & entry::PROTECT != 0;
                if edat && value & entry::FORMAT != 0 {
                    execution_protected |= iep && value & entry::EXECUTION_PROTECT != 0;
                    let page = value & !0xf_ffff | address & 0xf_f000;
                    return Ok(Found { page, protected, execution_protected });
                }
                let at = (value & !0x7ff) + (address >> 12 & 0xff) * 8;
                self.walk_entry = at;
                let value = self.table_entry(at).ok_or(ProgramCode::Addressing)?;
                if value & entry::PAGE_INVALID != 0 {
                    return Err(ProgramCode::PageTranslation);
                }
                if value & entry::PAGE_ZERO != 0 {
                    return Err(ProgramCode::TranslationSpecification);
                }
                protected |= value & entry::PROTECT != 0;
                execution_protected |= iep && value & entry::EXECUTION_PROTECT != 0;
                let page = value & !(PAGE_SIZE - 1);
                return Ok(Found { page, protected, execution_protected });
            }
            if edat {
                protected |= value & entry::PROTECT != 0;
            }
            if level == 1 && edat2 && value & entry::FORMAT != 0 {
                execution_protected |= iep && value & entry::EXECUTION_PROTECT != 0;
                let page = value & !0x7fff_ffff | address & 0x7fff_f000;
                return Ok(Found { page, protected, execution_protected });
            }
            origin = value & !(PAGE_SIZE - 1);
            (first, last) = ((value & entry::OFFSET) >> 6, value & entry::LENGTH);
        }
        unreachable!("the segment level returns")
    }
}
