//! One VM.

use std::io::ErrorKind;
use std::sync::Arc;

use machine::{Floating, Post, ResetKind, Storage};
use vmm_sys_util::eventfd::EventFd;
use zarch::{Facility, FacilityList, IoInterruption};

use crate::cpu::Cpu;
use crate::flic::Flic;
use crate::kernel::{self, Device, DeviceKind, Kvm, attribute, capability};
use crate::memory;
use crate::model::{Host, Processor, Wanted};
use crate::rendezvous::Rendezvous;
use crate::report::Disassemble;
use crate::{Attempt, Error};

/// The version of the interface, which has not changed since 2007.
pub(crate) const VERSION: i32 = 12;

/// What a run cannot do without.
const NEEDED: [(u32, &str); 13] = [
    (capability::MP_STATE, "KVM_CAP_MP_STATE"),
    (capability::SYNC_REGS, "KVM_CAP_SYNC_REGS"),
    (capability::S390_CSS_SUPPORT, "KVM_CAP_S390_CSS_SUPPORT"),
    (capability::DEVICE_CTRL, "KVM_CAP_DEVICE_CTRL"),
    (capability::VM_ATTRIBUTES, "KVM_CAP_VM_ATTRIBUTES"),
    (capability::S390_USER_SIGP, "KVM_CAP_S390_USER_SIGP"),
    (capability::S390_MEM_OP, "KVM_CAP_S390_MEM_OP"),
    (capability::S390_USER_STSI, "KVM_CAP_S390_USER_STSI"),
    (capability::S390_SKEYS, "KVM_CAP_S390_SKEYS"),
    (capability::S390_INJECT_IRQ, "KVM_CAP_S390_INJECT_IRQ"),
    (capability::S390_IRQ_STATE, "KVM_CAP_S390_IRQ_STATE"),
    (capability::IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"),
    (capability::S390_VCPU_RESETS, "KVM_CAP_S390_VCPU_RESETS"),
];

/// What the VMM answers itself instead of the kernel.
const ANSWERED_HERE: [u32; 2] = [capability::S390_USER_SIGP, capability::S390_USER_STSI];
/// What gives guests more facilities where the host has it.
const MORE_FACILITIES: [u32; 3] =
    [capability::S390_VECTOR_REGISTERS, capability::S390_GS, capability::S390_BPB];

/// Who executes the guest's AP instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ap {
    /// Nobody: operation exceptions.
    None,
    /// The hardware, against the CRYCB that `vfio_ap` fills.
    Interpreted,
    /// `devices/ap`, upon an exit for each.
    Emulated,
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of CPUs, with addresses from 0.
    pub cpus: u16,
    /// Name, machine type and facilities of the CPUs; `None` for all that the host offers.
    pub name: String,
    /// See `name`.
    pub model: Option<(u16, zarch::FacilityList)>,
    /// AP.
    pub ap: Ap,
    /// The guest's TOD clock at the start.
    pub tod: u64,
    /// For crash reports.
    pub disassemble: Disassemble,
}

/// What a machine's CPUs share.
pub(crate) struct Shared {
    pub cpus: Rendezvous,
    pub flic: Flic,
    pub storage: Arc<Storage>,
    pub facilities: FacilityList,
    pub disassemble: Disassemble,
    /// Most bytes of one storage access.
    pub most_at_once: usize,
}

/// A VM of the host's KVM.
pub struct Machine {
    // Configuration.
    processor: Processor,
    // Connections to the host.
    shared: Arc<Shared>,
    vm: Arc<dyn kernel::Vm>,
}

impl Machine {
    /// A machine with `storage` and CPUs that are stopped and have been through no reset. Everything that was
    /// opened is closed again when something is refused.
    pub fn new(kvm: &dyn Kvm, options: &Options, storage: Arc<Storage>) -> Result<(Self, Vec<Cpu>), Error> {
        check(kvm)?;
        let vm = match kvm.create_vm() {
            Err(e) if e.kind() == ErrorKind::InvalidInput => return Err(Error::PageTables(e)),
            made => made.attempt(|| "make a virtual machine".into())?,
        };
        // The order matters from here on: limits, capabilities and the model come before CPUs, and the
        // capabilities that add facilities before the model is read.
        memory::limit(&*vm, storage.size())?;
        for number in ANSWERED_HERE {
            vm.enable(number).attempt(|| format!("turn on KVM capability {number}"))?;
        }
        for number in MORE_FACILITIES.into_iter().filter(|n| vm.extension(*n) > 0) {
            vm.enable(number).attempt(|| format!("turn on KVM capability {number}"))?;
        }
        let ap = options.ap != Ap::None;
        let wanted = Wanted { name: options.name.clone(), model: options.model, ap };
        let processor = Host::read(&*vm)?.processor(&wanted)?;
        processor.apply(&*vm)?;
        interpret_ap(&*vm, options.ap)?;
        vm.set_attribute(attribute::TOD, attribute::TOD_LOW, &options.tod.to_be_bytes())
            .attempt(|| "set the guest's clock".into())?;
        memory::map(&*vm, &storage)?;
        let flic = vm.create_device(DeviceKind::Flic).and_then(Flic::new);
        let shared = Arc::new(Shared {
            cpus: Rendezvous::new(options.cpus),
            flic: flic.attempt(|| "make the floating interruption controller".into())?,
            storage,
            facilities: processor.facilities,
            disassemble: options.disassemble,
            most_at_once: usize::try_from(vm.extension(capability::S390_MEM_OP)).unwrap_or(0).max(4096),
        });
        let cpus = (0..options.cpus).map(|address| cpu(&*vm, address, &shared)).collect::<Result<_, _>>()?;
        Ok((Self { processor, shared, vm }, cpus))
    }

    /// What the guest's CPUs are.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// The registry of VFIO files: an AP device is told of this VM through it before it is opened.
    pub(crate) fn vfio(&self) -> std::io::Result<Arc<dyn Device>> {
        self.vm.create_device(DeviceKind::Vfio)
    }

    /// Signals `event` when the guest notifies queue `queue` of the virtio device at `subchannel` by DIAGNOSE 500, without
    /// an exit; or no longer. For devices with virtio queues, of which the VMM has none by now: there is no other caller
    /// than the tests.
    pub fn notification(&self, event: &EventFd, subchannel: u32, queue: u64, on: bool) -> Result<(), Error> {
        let done = self.vm.notification(event, subchannel, queue, on);
        done.attempt(|| format!("notifications of queue {queue} of subchannel {subchannel:x}"))
    }
}

fn check(kvm: &dyn Kvm) -> Result<(), Error> {
    let version = kvm.version();
    if version != VERSION {
        return Err(Error::Version(version));
    }
    let missing: Vec<_> =
        NEEDED.iter().filter(|(number, _)| kvm.extension(*number) <= 0).map(|(_, name)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::Capabilities(missing)) }
}

/// Lets SIE interpret AP instructions, or has each intercepted.
fn interpret_ap(vm: &dyn kernel::Vm, ap: Ap) -> Result<(), Error> {
    let (attribute, what) = match ap {
        Ap::Interpreted => (attribute::CRYPTO_ENABLE_APIE, "on"),
        Ap::Emulated | Ap::None => (attribute::CRYPTO_DISABLE_APIE, "off"),
    };
    // A kernel or host without AP has nothing to turn off.
    if ap != Ap::Interpreted && !vm.has_attribute(attribute::CRYPTO, attribute) {
        return Ok(());
    }
    vm.set_attribute(attribute::CRYPTO, attribute, &[])
        .attempt(|| format!("turn the interpretation of AP instructions {what}"))
}

fn cpu(vm: &dyn kernel::Vm, address: u16, shared: &Arc<Shared>) -> Result<Cpu, Error> {
    let fd = vm.create_cpu(address).attempt(|| format!("make CPU {address}"))?;
    // Through any CPU, for all.
    if address == 0 {
        fd.enable(capability::S390_CSS_SUPPORT).attempt(|| "take over the channel subsystem".into())?;
    }
    fd.set_operating(false).attempt(|| format!("stop CPU {address}"))?;
    Ok(Cpu::new(address, fd, shared.clone()))
}

impl Post for Machine {
    fn post(&self, interruption: Floating) {
        self.shared.flic.post(interruption);
    }

    fn take_io(&self, isc_mask: u8) -> Option<IoInterruption> {
        self.shared.flic.take_io(isc_mask).unwrap_or_else(|e| {
            log::warn!("look for a pending I/O interruption: {e}");
            None
        })
    }

    fn clear(&self) {
        if let Err(e) = self.shared.flic.clear() {
            log::error!("clear the floating interruptions: {e}");
        }
    }
}

impl machine::Vm for Machine {
    fn with_cpus_held(&self, action: &mut dyn FnMut()) {
        self.shared.cpus.hold(action);
    }

    fn kick(&self) {
        self.shared.cpus.kick();
    }

    fn reset_cpus(&self, kind: ResetKind, except: Option<u16>) {
        self.shared.cpus.reset(kind, except);
        if kind != ResetKind::Clear {
            return;
        }
        if let Err(e) = memory::clear_keys(&*self.vm, self.shared.storage.size()) {
            log::error!("{e}: {}", std::error::Error::source(&e).map_or(String::new(), |s| s.to_string()));
        }
        // New wrapping keys, so that what one load has wrapped is nothing to the next.
        if self.processor.facilities.has(Facility::MessageSecurityAssist3) {
            for attribute in [attribute::CRYPTO_ENABLE_AES_KW, attribute::CRYPTO_ENABLE_DEA_KW] {
                if let Err(e) = self.vm.set_attribute(attribute::CRYPTO, attribute, &[]) {
                    log::error!("make new wrapping keys: {e}");
                }
            }
        }
    }

    fn operating_cpus(&self) -> usize {
        self.shared.cpus.operating_count()
    }

    fn is_operating(&self, address: u16) -> bool {
        self.shared.cpus.is_operating(address) == Some(true)
    }

    fn cpu_addresses(&self) -> Vec<u16> {
        self.shared.cpus.addresses()
    }

    fn restart(&self, address: u16) -> bool {
        self.shared.cpus.restart(address)
    }
}
