//! The floating interruption controller: interruptions that any CPU may take (Linux,
//! `Documentation/virt/kvm/devices/s390_flic.rst`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use machine::Floating;
use zarch::IoInterruption;

use crate::interruption::{Irq, LENGTH};
use crate::kernel::Device;

/// Attribute groups.
pub mod group {
    #![allow(missing_docs)] // The names are the header's without KVM_DEV_FLIC.
    pub const GET_ALL_IRQS: u32 = 1;
    pub const ENQUEUE: u32 = 2;
    pub const CLEAR_IRQS: u32 = 3;
    pub const ADAPTER_REGISTER: u32 = 6;
    pub const CLEAR_IO_IRQ: u32 = 8;
    pub const AIRQ_INJECT: u32 = 10;
}

/// Adapters are one for each interruption subclass: those of AP and virtio differ in nothing else here.
const SUBCLASSES: u32 = 8;
/// Room for the interruptions looked through when one of them is taken off: 16 pages of them.
const LOOK_THROUGH: usize = 0x10000 / LENGTH;

/// The controller of one VM.
pub struct Flic {
    device: Arc<dyn Device>,
    complained: AtomicBool,
}

impl Flic {
    /// The controller behind `device`, with an adapter registered for each interruption subclass.
    pub fn new(device: Arc<dyn Device>) -> io::Result<Self> {
        for isc in 0..SUBCLASSES {
            // struct kvm_s390_io_adapter: id, isc, maskable, swap, flags.
            let mut adapter = [0; 8];
            adapter[..4].copy_from_slice(&isc.to_be_bytes());
            adapter[4] = isc as u8;
            device.set(group::ADAPTER_REGISTER, 0, &adapter)?;
        }
        Ok(Self { device, complained: AtomicBool::new(false) })
    }

    /// Makes `floating` pending. The kernel bounds its list; a guest that fills it loses interruptions of
    /// which as many as it can hold are pending already.
    pub fn post(&self, floating: Floating) {
        let posted = match floating {
            Floating::Io(io) if io.is_adapter() => {
                self.device.set(group::AIRQ_INJECT, u64::from(io.isc()), &[])
            }
            Floating::Io(io) => self.enqueue(&Irq::io(io)),
            Floating::ServiceSignal(parameter) => self.enqueue(&Irq::service_signal(parameter)),
            Floating::ChannelReport => self.enqueue(&Irq::channel_report()),
        };
        if let Err(e) = posted
            && !self.complained.swap(true, Ordering::Relaxed)
        {
            log::warn!("post {floating:?}: {e}; further refusals are not logged");
        }
    }

    /// Makes one interruption pending.
    pub fn enqueue(&self, irq: &Irq) -> io::Result<()> {
        self.device.set(group::ENQUEUE, LENGTH as u64, &irq.0)
    }

    /// Takes an I/O interruption of a subchannel off the pending ones. Adapter interruptions cannot be taken off
    /// one by one; nothing needs that, as the kernel executes TEST PENDING INTERRUPTION itself.
    pub fn take_io(&self, isc_mask: u8) -> io::Result<Option<IoInterruption>> {
        let mut all = vec![0; LOOK_THROUGH * LENGTH];
        let count = self.device.get(group::GET_ALL_IRQS, all.len() as u64, &mut all)? as usize;
        let found = all
            .as_chunks::<LENGTH>()
            .0
            .iter()
            .take(count)
            .filter_map(|bytes| Irq(*bytes).as_io())
            .find(|io| !io.is_adapter() && isc_mask & 0x80 >> io.isc() != 0);
        let Some(io) = found else { return Ok(None) };
        self.device.set(group::CLEAR_IO_IRQ, 4, &io.subsystem_id.to_be_bytes())?;
        Ok(Some(io))
    }

    /// Clears everything that is pending.
    pub fn clear(&self) -> io::Result<()> {
        self.device.set(group::CLEAR_IRQS, 0, &[])
    }
}
