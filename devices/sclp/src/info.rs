//! READ SCP INFO and READ CPU INFO: what the machine consists of.

use crate::ebcdic;
use crate::spec::{
    CPU_ENTRY, CPU_INFO_CPUS, FACILITY_AP_CONFIGURE, FACILITY_CPU_INFO, Response, SCP_INFO_CPUS, Sccb,
};

/// What the SCLP tells about the machine. The size of storage is not here: it is read from the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Addresses of the configured CPUs, in ascending order; at most [`Config::MAX_CPUS`].
    pub cpus: Vec<u8>,
    /// Load parameter; at most eight characters, padded with blanks.
    pub loadparm: String,
    /// Host-absolute-address maximum: the number of bits of a real address; 0 says nothing.
    pub hamaxpow: u8,
    /// Instruction blocking control; 0 when the machine has none.
    pub ibc: u32,
    /// Hypervisor-managed facility indications (bytes 124-127 of READ SCP INFO).
    pub hmfai: u32,
    /// Configuration characteristics, bytes 80-98 of READ SCP INFO. Linux reads ESOP in byte 85
    /// (bit 6), for example.
    pub characteristics: [u8; 19],
    /// Configuration characteristics, extension, bytes 116-119 of READ SCP INFO.
    pub characteristics_extension: [u8; 4],
    /// Features of every CPU, bytes 2-13 of a CPU entry. Linux reads SIEF2 in the first (bit 4).
    pub cpu_features: [u8; 12],
}

impl Config {
    /// How many CPU entries the answer has room for.
    pub const MAX_CPUS: usize = (4096 - SCP_INFO_CPUS) / CPU_ENTRY;

    /// A machine with CPUs 0 to `cpus - 1` and nothing optional.
    pub fn new(cpus: u8) -> Self {
        Self {
            cpus: (0..cpus).collect(),
            loadparm: String::new(),
            hamaxpow: 0,
            ibc: 0,
            hmfai: 0,
            characteristics: [0; 19],
            characteristics_extension: [0; 4],
            cpu_features: [0; 12],
        }
    }

    fn loadparm(&self) -> [u8; 8] {
        let mut codes = [ebcdic::encode(' '); 8];
        for (code, character) in codes.iter_mut().zip(self.loadparm.chars()) {
            *code = ebcdic::encode(character);
        }
        codes
    }

    fn store_cpus(&self, sccb: &mut Sccb, first: usize) {
        for (n, &address) in self.cpus.iter().enumerate() {
            let at = first + n * CPU_ENTRY;
            sccb.set(at, &[address]);
            sccb.set(at + 2, &self.cpu_features);
        }
    }

    /// READ SCP INFO, for a machine with `megabytes` MiB of storage.
    pub(crate) fn read_scp_info(&self, megabytes: u64, ap_configure: bool, sccb: &mut Sccb) -> Response {
        if sccb.length() < SCP_INFO_CPUS + self.cpus.len() * CPU_ENTRY {
            return Response::TooShort;
        }
        sccb.clear_data();
        // An increment is 1 MiB; what 16 bits cannot count goes to the 64-bit field.
        sccb.set_u16(8, u16::try_from(megabytes).unwrap_or(0));
        sccb.set(10, &[1]);
        if megabytes > u64::from(u16::MAX) {
            sccb.set(104, &megabytes.to_be_bytes());
        }
        sccb.set_u16(16, self.cpus.len() as u16);
        sccb.set_u16(18, SCP_INFO_CPUS as u16);
        sccb.set(24, &self.loadparm());
        let facilities = FACILITY_CPU_INFO | if ap_configure { FACILITY_AP_CONFIGURE } else { 0 };
        sccb.set(48, &facilities.to_be_bytes());
        sccb.set(76, &self.ibc.to_be_bytes());
        sccb.set(80, &self.characteristics);
        sccb.set(99, &[self.hamaxpow]);
        sccb.set(116, &self.characteristics_extension);
        sccb.set_u16(120, self.cpus.iter().copied().max().unwrap_or(0).into());
        sccb.set(124, &self.hmfai.to_be_bytes());
        self.store_cpus(sccb, SCP_INFO_CPUS);
        Response::Read
    }

    /// READ CPU INFO: all CPUs configured, none standby.
    pub(crate) fn read_cpu_info(&self, sccb: &mut Sccb) -> Response {
        let end = CPU_INFO_CPUS + self.cpus.len() * CPU_ENTRY;
        if sccb.length() < end {
            return Response::TooShort;
        }
        sccb.clear_data();
        sccb.set_u16(8, self.cpus.len() as u16);
        sccb.set_u16(10, CPU_INFO_CPUS as u16);
        sccb.set_u16(14, end as u16);
        self.store_cpus(sccb, CPU_INFO_CPUS);
        Response::Read
    }
}
