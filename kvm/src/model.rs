//! CPU models: what the host's CPUs are and what the guest's shall be (Linux,
//! `Documentation/virt/kvm/devices/vm.rst`, group KVM_S390_VM_CPU_MODEL).

use zarch::FacilityList;

use crate::kernel::{Vm, attribute};
use crate::{Attempt, Error};

/// Doublewords of a facility list in the kernel's structures, of which [`FacilityList`] has the first four.
pub(crate) const LIST: usize = 256 * 8;
/// Size of `struct kvm_s390_vm_cpu_processor`: CPU identification, IBC, padding, list.
pub const PROCESSOR: usize = 16 + LIST;
/// Size of `struct kvm_s390_vm_cpu_machine`: CPU identification, IBC, padding, mask, list.
pub const MACHINE: usize = 16 + 2 * LIST;
/// Size of `struct kvm_s390_vm_cpu_feat`: 1024 bits.
pub const FEATURES: usize = 128;
/// Size of `struct kvm_s390_vm_cpu_subfunc`.
pub const SUBFUNCTIONS: usize = 2048;

/// Where the query results of a facility's instructions are among the subfunctions: facility, offset, length.
/// PERFORM LOCKED OPERATION comes first, at 0, and needs none.
pub const SUBFUNCTIONS_OF: [(u16, usize, usize); 17] = [
    (28, 32, 16),   // PTFF
    (17, 48, 16),   // KMAC
    (17, 64, 16),   // KMC
    (17, 80, 16),   // KM
    (17, 96, 16),   // KIMD
    (17, 112, 16),  // KLMD
    (76, 128, 16),  // PCKMO
    (77, 144, 16),  // KMCTR
    (77, 160, 16),  // KMF
    (77, 176, 16),  // KMO
    (77, 192, 16),  // PCC
    (57, 208, 16),  // PPNO, PRNO
    (146, 224, 16), // KMA
    (155, 240, 16), // KDSA
    (150, 256, 32), // SORTL
    (151, 288, 32), // DFLTCC
    (201, 320, 16), // PFCR
];

/// The facilities of AP: query, test, interruptions.
pub const AP: [u16; 3] = [12, 15, 65];

/// What the guest's CPUs shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The name it was asked for by, for messages.
    pub name: String,
    /// Machine type and facilities; `None` for all that the host offers by default.
    pub model: Option<(u16, FacilityList)>,
    /// Whether the AP facilities are on.
    pub ap: bool,
}

/// The host cannot offer all facilities of the wanted model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "CPU model {name} needs facilities that this host's KVM does not offer guests: {}; {}",
    .missing.iter().map(u16::to_string).collect::<Vec<_>>().join(", "),
    remedy(.missing)
)]
pub struct Unavailable {
    /// The wanted model.
    pub name: String,
    /// The facility bits that the host lacks, ascending.
    pub missing: Vec<u16>,
}

fn remedy(missing: &[u16]) -> &'static str {
    if missing.iter().all(|bit| AP.contains(bit)) {
        "the host itself needs AP instructions and AP interruptions: run `lszcrypt -b` on it"
    } else {
        "give --cpu-model max, or an older model"
    }
}

/// What the host's KVM offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// CPU identification that a guest gets unless told otherwise.
    pub id: u64,
    /// IBC value of a guest unless told otherwise.
    pub ibc: u16,
    /// Facilities that a guest gets unless told otherwise.
    pub default: FacilityList,
    /// Facilities that a guest may have.
    pub possible: FacilityList,
}

/// What a guest's CPUs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// CPU identification: version, number, machine type, format.
    pub id: u64,
    /// Instruction blocking control.
    pub ibc: u16,
    /// Facilities.
    pub facilities: FacilityList,
}

impl Host {
    /// Asks the kernel. Capabilities that add facilities have been turned on.
    pub fn read(vm: &dyn Vm) -> Result<Self, Error> {
        let (mut processor, mut machine) = ([0; PROCESSOR], [0; MACHINE]);
        vm.get_attribute(attribute::CPU_MODEL, attribute::CPU_PROCESSOR, &mut processor)
            .attempt(|| "read the default CPU model".into())?;
        vm.get_attribute(attribute::CPU_MODEL, attribute::CPU_MACHINE, &mut machine)
            .attempt(|| "read the host's CPU model".into())?;
        Ok(Self::parse(&processor, &machine))
    }

    /// From the kernel's structures.
    pub fn parse(processor: &[u8; PROCESSOR], machine: &[u8; MACHINE]) -> Self {
        let default = Processor::parse(processor);
        let possible = list(&machine[16..]);
        Self { id: default.id, ibc: default.ibc, default: default.facilities, possible }
    }

    /// The processor that is `wanted`, or what it lacks.
    pub fn processor(&self, wanted: &Wanted) -> Result<Processor, Unavailable> {
        let (id, mut facilities) = match &wanted.model {
            // Machine type: bits 32-47.
            Some((kind, list)) => (self.id & !0xffff_0000 | u64::from(*kind) << 16, *list),
            None => (self.id, self.default),
        };
        for bit in AP {
            facilities.set(bit, wanted.ap);
        }
        let missing: Vec<u16> = (0..256).filter(|&n| facilities.bit(n) && !self.possible.bit(n)).collect();
        if missing.is_empty() {
            Ok(Processor { id, ibc: self.ibc, facilities })
        } else {
            Err(Unavailable { name: wanted.name.clone(), missing })
        }
    }
}

impl Processor {
    /// The machine type, as STIDP shows it.
    pub fn machine_type(&self) -> u16 {
        (self.id >> 16) as u16
    }

    /// From `struct kvm_s390_vm_cpu_processor`.
    pub fn parse(bytes: &[u8; PROCESSOR]) -> Self {
        let half = [bytes[8], bytes[9]];
        Self { id: doubleword(bytes), ibc: u16::from_be_bytes(half), facilities: list(&bytes[16..]) }
    }

    /// As `struct kvm_s390_vm_cpu_processor`.
    pub fn bytes(&self) -> [u8; PROCESSOR] {
        let mut bytes = [0; PROCESSOR];
        bytes[..8].copy_from_slice(&self.id.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.ibc.to_be_bytes());
        for (to, word) in bytes[16..].chunks_exact_mut(8).zip(self.facilities.0) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// The host's subfunctions without those of facilities that this processor lacks.
    pub fn subfunctions(&self, mut host: [u8; SUBFUNCTIONS]) -> [u8; SUBFUNCTIONS] {
        for (facility, at, length) in SUBFUNCTIONS_OF {
            if !self.facilities.bit(facility) {
                host[at..][..length].fill(0);
            }
        }
        host
    }

    /// Makes the guest's CPUs this. They do not exist yet.
    pub fn apply(&self, vm: &dyn Vm) -> Result<(), Error> {
        vm.set_attribute(attribute::CPU_MODEL, attribute::CPU_PROCESSOR, &self.bytes())
            .attempt(|| format!("set the CPU model (facilities {:x?})", self.facilities.0))?;
        // The features are assists for SIE in the guest, of which SCLP offers none.
        if vm.has_attribute(attribute::CPU_MODEL, attribute::CPU_PROCESSOR_FEAT) {
            vm.set_attribute(attribute::CPU_MODEL, attribute::CPU_PROCESSOR_FEAT, &[0; FEATURES])
                .attempt(|| "set the CPU features".into())?;
        }
        if vm.has_attribute(attribute::CPU_MODEL, attribute::CPU_PROCESSOR_SUBFUNC) {
            let mut host = [0; SUBFUNCTIONS];
            vm.get_attribute(attribute::CPU_MODEL, attribute::CPU_MACHINE_SUBFUNC, &mut host)
                .attempt(|| "read the host's subfunctions".into())?;
            let own = self.subfunctions(host);
            vm.set_attribute(attribute::CPU_MODEL, attribute::CPU_PROCESSOR_SUBFUNC, &own)
                .attempt(|| "set the subfunctions".into())?;
        }
        Ok(())
    }
}

fn doubleword(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().expect("8 bytes"))
}

fn list(bytes: &[u8]) -> FacilityList {
    FacilityList([0, 8, 16, 24].map(|at| doubleword(&bytes[at..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            id: 0x00ab_cdef_3906_8000,
            ibc: 0x1ff,
            default: FacilityList::from_bits(&[0, 1, 2, 76, 129]),
            possible: FacilityList::from_bits(&[0, 1, 2, 12, 15, 65, 76, 129, 156]),
        }
    }

    fn wanted(model: Option<(u16, &[u16])>, ap: bool) -> Wanted {
        let model = model.map(|(kind, bits)| (kind, FacilityList::from_bits(bits)));
        Wanted { name: "z13".into(), model, ap }
    }

    #[test]
    fn models_are_compared() {
        let host = host();
        let bits = |model, ap| {
            let processor = host.processor(&wanted(model, ap))?;
            let bits = (0..256).filter(|n| processor.facilities.bit(*n)).collect::<Vec<u16>>();
            Ok((processor.machine_type(), bits))
        };
        let missing = |missing: &[u16]| Err(Unavailable { name: "z13".into(), missing: missing.to_vec() });
        assert_eq!(bits(None, false), Ok((0x3906, vec![0, 1, 2, 76, 129])));
        assert_eq!(bits(None, true), Ok((0x3906, vec![0, 1, 2, 12, 15, 65, 76, 129])));
        // AP is as asked for, whatever the model says.
        assert_eq!(bits(Some((0x2964, &[0, 1, 12, 15])), false), Ok((0x2964, vec![0, 1])));
        assert_eq!(bits(Some((0x2964, &[0, 1])), true), Ok((0x2964, vec![0, 1, 12, 15, 65])));
        assert_eq!(bits(Some((0x2964, &[0, 61, 255, 58])), false), missing(&[58, 61, 255]));

        let bare = Host { possible: host.default, ..host.clone() };
        let refused = bare.processor(&wanted(None, true)).unwrap_err();
        assert_eq!(refused.missing, [12, 15, 65]);
        assert!(refused.to_string().contains("12, 15, 65; the host itself needs AP"), "{refused}");
        let refused = bare.processor(&wanted(Some((0, &[61])), false)).unwrap_err().to_string();
        assert!(
            refused.contains("model z13") && refused.ends_with("give --cpu-model max, or an older model")
        );
    }

    #[test]
    fn structures() {
        let processor = Processor {
            id: 0x0011_2233_8561_8000,
            ibc: 0x2ff,
            facilities: FacilityList::from_bits(&[0, 65, 255]),
        };
        let bytes = processor.bytes();
        assert_eq!(bytes[..10], [0, 0x11, 0x22, 0x33, 0x85, 0x61, 0x80, 0, 2, 0xff]);
        assert_eq!((bytes[16], bytes[24], bytes[47]), (0x80, 0x40, 1));
        assert_eq!(Processor::parse(&bytes), processor);

        let mut machine = [0; MACHINE];
        machine[16] = 0xc0; // Mask; what the host's own list says does not count.
        machine[16 + LIST] = 0xff;
        let host = Host::parse(&bytes, &machine);
        assert_eq!((host.default, host.possible), (processor.facilities, FacilityList::from_bits(&[0, 1])));
    }

    #[test]
    fn subfunctions_go_with_their_facilities() {
        let with = |bits: &[u16]| {
            let facilities = FacilityList::from_bits(bits);
            Processor { id: 0, ibc: 0, facilities }.subfunctions([0xff; SUBFUNCTIONS])
        };
        let none = with(&[]);
        assert!(none[..32].iter().all(|b| *b == 0xff), "PLO stays");
        assert!(none[32..336].iter().all(|b| *b == 0) && none[336..].iter().all(|b| *b == 0xff));
        let some = with(&[17, 151]);
        let kept: Vec<usize> = (32..336).filter(|n| some[*n] != 0).collect();
        assert_eq!(kept, (48..128).chain(288..320).collect::<Vec<_>>());
    }
}
