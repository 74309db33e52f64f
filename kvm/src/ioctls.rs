//! The kernel itself: [`kernel`](crate::kernel)'s traits by ioctls.
//!
//! It stands on kvm-ioctls. Each ioctl of our own says why that has none for it. The only module with `unsafe` code.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kvm_bindings::*;
use kvm_ioctls::{DeviceFd, VcpuFd, VmFd};
use libc::{c_int, c_void, siginfo_t};
use machine::{ResetKind, Storage};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr};
use zarch::{IoInterruption, Psw};

use crate::Error;
use crate::interruption::{Irq, LENGTH};
use crate::kernel::{
    self, Access, DeviceKind, Extended, Kick, Registers, Stop, Transfer, capability, reason,
};
use crate::vm::VERSION;

// For VMs kvm-ioctls has attributes on aarch64 only, for devices it takes an answer above 0 for an error.
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);
ioctl_iow_nr!(KVM_HAS_DEVICE_ATTR, KVMIO, 0xe3, kvm_device_attr);
// For vCPUs kvm-ioctls has capabilities on x86-64 only.
ioctl_iow_nr!(KVM_ENABLE_CAP, KVMIO, 0xa3, kvm_enable_cap);
// kvm-ioctls knows ioeventfds by address, not by subchannel.
ioctl_iow_nr!(KVM_IOEVENTFD, KVMIO, 0x79, kvm_ioeventfd);
// What exists on s390 only.
ioctl_io_nr!(KVM_S390_INITIAL_RESET, KVMIO, 0x97);
ioctl_io_nr!(KVM_S390_NORMAL_RESET, KVMIO, 0xc3);
ioctl_io_nr!(KVM_S390_CLEAR_RESET, KVMIO, 0xc4);
ioctl_iow_nr!(KVM_S390_MEM_OP, KVMIO, 0xb1, kvm_s390_mem_op);
ioctl_iow_nr!(KVM_S390_GET_SKEYS, KVMIO, 0xb2, kvm_s390_skeys);
ioctl_iow_nr!(KVM_S390_SET_SKEYS, KVMIO, 0xb3, kvm_s390_skeys);
ioctl_iow_nr!(KVM_S390_IRQ, KVMIO, 0xb4, kvm_s390_irq);
ioctl_iow_nr!(KVM_S390_SET_IRQ_STATE, KVMIO, 0xb5, kvm_s390_irq_state);
ioctl_iow_nr!(KVM_S390_GET_IRQ_STATE, KVMIO, 0xb6, kvm_s390_irq_state);

/// Flags of KVM_S390_MEM_OP that bindgen does not emit by these names everywhere.
const CHECK_ONLY: u64 = 1;
const INJECT_EXCEPTION: u64 = 2;
const KEY_PROTECTION: u64 = 4;
const LOGICAL_READ: u32 = 0;
const LOGICAL_WRITE: u32 = 1;

/// Numbers of single registers, which bindgen does not emit.
const TOD_PROGRAMMABLE: u64 = KVM_REG_S390 | KVM_REG_SIZE_U32 | 1;
const CPU_TIMER: u64 = KVM_REG_S390 | KVM_REG_SIZE_U64 | 3;
const CLOCK_COMPARATOR: u64 = KVM_REG_S390 | KVM_REG_SIZE_U64 | 4;

/// Most interruptions that one CPU can have pending: an emergency signal and a call of each CPU, and its own kinds.
const MOST_PENDING: usize = 512 + 32;

/// Opens `/dev/kvm`.
pub fn open() -> Result<Arc<dyn kernel::Kvm>, Error> {
    let kvm = kvm_ioctls::Kvm::new().map_err(|e| Error::Open(e.into()))?;
    // Another architecture's, seen through an emulator of this one, opens too but answers nothing.
    match kvm.get_api_version() {
        VERSION => Ok(Arc::new(Kvm(kvm))),
        other => Err(Error::Version(other)),
    }
}

struct Kvm(kvm_ioctls::Kvm);

impl kernel::Kvm for Kvm {
    fn version(&self) -> i32 {
        self.0.get_api_version()
    }

    fn extension(&self, capability: u32) -> i32 {
        self.0.check_extension_raw(capability.into())
    }

    fn create_vm(&self) -> io::Result<Arc<dyn kernel::Vm>> {
        // A signal that is pending ends this, before anything is made.
        let fd = loop {
            match self.0.create_vm() {
                Err(e) if e.errno() == libc::EINTR => {}
                made => break made?,
            }
        };
        Ok(Arc::new(Vm(Arc::new(Mapped { fd, storage: Mutex::default() }))))
    }
}

/// A VM's descriptor and the storage that it maps, which lives as long as any descriptor that uses it.
struct Mapped {
    fd: VmFd,
    storage: Mutex<Vec<Arc<Storage>>>,
}

struct Vm(Arc<Mapped>);

/// What a device attribute is given, or gives.
enum Data<'a> {
    In(&'a [u8]),
    Out(&'a mut [u8]),
}

/// Sets or reads an attribute of a descriptor that has some.
fn attribute(fd: &impl AsRawFd, group: u32, attribute: u64, data: Data<'_>) -> io::Result<u32> {
    let (request, pointer) = match data {
        Data::In([]) => (KVM_SET_DEVICE_ATTR(), ptr::null()),
        Data::In(bytes) => (KVM_SET_DEVICE_ATTR(), bytes.as_ptr()),
        Data::Out(bytes) => (KVM_GET_DEVICE_ATTR(), bytes.as_mut_ptr().cast_const()),
    };
    let argument = kvm_device_attr { group, attr: attribute, addr: pointer as u64, flags: 0 };
    // SAFETY: `argument` points to a structure of the request's type, and that to memory which lives through the call
    // and is as long as the group and attribute say; for reading it is writable.
    answer(unsafe { ioctl_with_ref(fd, request, &argument) })
}

fn answer(result: c_int) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn keys(first: u64, count: usize, keys: *const u8) -> kvm_s390_skeys {
    kvm_s390_skeys { start_gfn: first, count: count as u64, skeydata_addr: keys as u64, ..Default::default() }
}

impl kernel::Vm for Vm {
    fn extension(&self, capability: u32) -> i32 {
        self.0.fd.check_extension_raw(capability.into())
    }

    fn enable(&self, capability: u32) -> io::Result<()> {
        Ok(self.0.fd.enable_cap(&kvm_enable_cap { cap: capability, ..Default::default() })?)
    }

    fn has_attribute(&self, group: u32, attribute: u64) -> bool {
        let argument = kvm_device_attr { group, attr: attribute, ..Default::default() };
        // SAFETY: `argument` is a structure of the request's type.
        unsafe { ioctl_with_ref(&self.0.fd, KVM_HAS_DEVICE_ATTR(), &argument) == 0 }
    }

    fn set_attribute(&self, group: u32, number: u64, data: &[u8]) -> io::Result<()> {
        attribute(&self.0.fd, group, number, Data::In(data)).map(drop)
    }

    fn get_attribute(&self, group: u32, number: u64, data: &mut [u8]) -> io::Result<()> {
        attribute(&self.0.fd, group, number, Data::Out(data)).map(drop)
    }

    fn set_storage(&self, storage: Arc<Storage>) -> io::Result<()> {
        assert!(storage.host_base().align_offset(1 << 20) == 0, "the kernel answers EINVAL");
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: storage.size(),
            userspace_addr: storage.host_base() as u64,
        };
        // SAFETY: the region is one mapping of that size, and `self` keeps it for as long as the VM lives.
        unsafe { self.0.fd.set_user_memory_region(region) }?;
        self.0.storage.lock().unwrap_or_else(PoisonError::into_inner).push(storage);
        Ok(())
    }

    fn create_cpu(&self, address: u16) -> io::Result<Box<dyn kernel::Cpu>> {
        let mut fd = self.0.fd.create_vcpu(address.into())?;
        let run = ptr::from_mut(fd.get_kvm_run());
        let with_keys = self.0.fd.check_extension_raw(KVM_CAP_S390_MEM_OP_EXTENSION.into()) > 0;
        Ok(Box::new(Cpu { run, fd, with_keys, _vm: self.0.clone() }))
    }

    fn create_device(&self, kind: DeviceKind) -> io::Result<Arc<dyn kernel::Device>> {
        let type_ = match kind {
            DeviceKind::Flic => kvm_device_type_KVM_DEV_TYPE_FLIC,
            DeviceKind::Vfio => kvm_device_type_KVM_DEV_TYPE_VFIO,
        };
        let fd = self.0.fd.create_device(&mut kvm_create_device { type_, fd: 0, flags: 0 })?;
        Ok(Arc::new(Device(fd)))
    }

    fn keys(&self, first: u64, buffer: &mut [u8]) -> io::Result<bool> {
        let argument = keys(first, buffer.len(), buffer.as_mut_ptr());
        // SAFETY: `argument` is a structure of the request's type that names `buffer`, which is writable.
        let result = answer(unsafe { ioctl_with_ref(&self.0.fd, KVM_S390_GET_SKEYS(), &argument) })?;
        Ok(result != KVM_S390_GET_SKEYS_NONE)
    }

    fn set_keys(&self, first: u64, bytes: &[u8]) -> io::Result<()> {
        let argument = keys(first, bytes.len(), bytes.as_ptr());
        // SAFETY: `argument` is a structure of the request's type that names `bytes`.
        answer(unsafe { ioctl_with_ref(&self.0.fd, KVM_S390_SET_SKEYS(), &argument) }).map(drop)
    }

    fn notification(&self, event: &EventFd, subchannel: u32, queue: u64, on: bool) -> io::Result<()> {
        let off = if on { 0 } else { 1 << kvm_ioeventfd_flag_nr_deassign };
        let argument = kvm_ioeventfd {
            datamatch: queue,
            addr: subchannel.into(),
            len: 8,
            fd: event.as_raw_fd(),
            flags: 1 << kvm_ioeventfd_flag_nr_datamatch | 1 << kvm_ioeventfd_flag_nr_virtio_ccw_notify | off,
            ..Default::default()
        };
        // SAFETY: `argument` is a structure of the request's type; the kernel takes its own reference to the event.
        answer(unsafe { ioctl_with_ref(&self.0.fd, KVM_IOEVENTFD(), &argument) }).map(drop)
    }
}

struct Device(DeviceFd);

impl kernel::Device for Device {
    fn set(&self, group: u32, number: u64, data: &[u8]) -> io::Result<()> {
        attribute(&self.0, group, number, Data::In(data)).map(drop)
    }

    fn get(&self, group: u32, number: u64, data: &mut [u8]) -> io::Result<u32> {
        attribute(&self.0, group, number, Data::Out(data))
    }
}

struct Cpu {
    /// Shared with the kernel, which writes it during `run` and resets only. Mapped as long as `fd` lives.
    run: *mut kvm_run,
    fd: VcpuFd,
    /// Whether accesses by logical address can be checked against storage keys.
    with_keys: bool,
    _vm: Arc<Mapped>,
}

// SAFETY: `run` belongs to `fd` and is used by whoever has the value only, but for `immediate_exit`, which
// a signal handler sets atomically in the thread that runs.
unsafe impl Send for Cpu {}

impl Cpu {
    fn shared(&self) -> &kvm_run {
        // SAFETY: mapped while `fd` lives, and the kernel writes it only while `self` is borrowed mutably.
        unsafe { &*self.run }
    }

    fn shared_mut(&mut self) -> &mut kvm_run {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { &mut *self.run }
    }

    fn regs(&self) -> &kvm_sync_regs {
        // SAFETY: the member that s390 uses; any bits are valid values.
        unsafe { &self.shared().s.regs }
    }

    fn regs_mut(&mut self) -> &mut kvm_sync_regs {
        // SAFETY: as above.
        unsafe { &mut self.shared_mut().s.regs }
    }

    fn immediate_exit(&self) -> *const AtomicU8 {
        // SAFETY: inside the mapping.
        unsafe { (&raw const (*self.run).immediate_exit).cast() }
    }

    fn has_vectors(&self) -> bool {
        self.shared().kvm_valid_regs & u64::from(KVM_SYNC_VRS) != 0
    }

    fn stop(&self) -> Stop {
        let run = self.shared();
        let payload = &run.__bindgen_anon_1;
        // SAFETY: each member is what the kernel filled for that reason, and has no invalid values.
        unsafe {
            match run.exit_reason {
                reason::INTR => Stop::Interrupted,
                reason::S390_SIEIC => {
                    let sieic = payload.s390_sieic;
                    Stop::Intercept { code: sieic.icptcode, ipa: sieic.ipa, ipb: sieic.ipb }
                }
                reason::S390_TSCH => {
                    let tsch = payload.s390_tsch;
                    let io = IoInterruption {
                        subsystem_id: u32::from(tsch.subchannel_id) << 16 | u32::from(tsch.subchannel_nr),
                        parameter: tsch.io_int_parm,
                        identification: tsch.io_int_word,
                    };
                    Stop::TestSubchannel { dequeued: (tsch.dequeued != 0).then_some(io), ipb: tsch.ipb }
                }
                reason::S390_STSI => {
                    let stsi = payload.s390_stsi;
                    Stop::StoreSystemInformation {
                        address: stsi.addr,
                        ar: stsi.ar,
                        function_code: stsi.fc,
                        selector1: stsi.sel1,
                        selector2: stsi.sel2,
                    }
                }
                reason::S390_RESET => {
                    let flags = payload.s390_reset_flags;
                    Stop::Reset { clear: flags & u64::from(KVM_S390_RESET_CLEAR) != 0 }
                }
                reason::DEBUG => {
                    let debug = payload.debug.arch;
                    Stop::Debug { address: debug.addr, kind: debug.type_ }
                }
                other => Stop::Other(other),
            }
        }
    }
}

impl kernel::Cpu for Cpu {
    fn enable(&self, capability: u32) -> io::Result<()> {
        let argument = kvm_enable_cap { cap: capability, ..Default::default() };
        // SAFETY: `argument` is a structure of the request's type.
        answer(unsafe { ioctl_with_ref(&self.fd, KVM_ENABLE_CAP(), &argument) }).map(drop)
    }

    fn arm(&mut self) -> Arc<dyn Kick> {
        catch();
        RUNNING.set(self.immediate_exit());
        // SAFETY: has no preconditions.
        Arc::new(ThreadKick(unsafe { libc::pthread_self() }))
    }

    fn run(&mut self) -> io::Result<Stop> {
        let result = self.fd.run().map(drop);
        // SAFETY: inside the mapping. Cleared before anybody looks at what the kick was for.
        unsafe { (*self.immediate_exit()).store(0, Ordering::SeqCst) };
        match result {
            Ok(()) => Ok(self.stop()),
            Err(e) if [libc::EINTR, libc::EAGAIN].contains(&e.errno()) => Ok(Stop::Interrupted),
            Err(e) => Err(e.into()),
        }
    }

    fn registers(&self) -> Registers {
        let regs = self.regs();
        // SAFETY: both members are plain numbers. With vectors, floating-point registers are the left halves of
        // the first 16.
        let fpr = unsafe {
            if self.has_vectors() {
                std::array::from_fn(|n| regs.__bindgen_anon_1.vrs[n][0])
            } else {
                regs.__bindgen_anon_1.fprs
            }
        };
        Registers {
            psw: self.psw(),
            gr: regs.gprs,
            ar: regs.acrs,
            cr: regs.crs,
            fpr,
            fpc: regs.fpc,
            prefix: regs.prefix as u32,
        }
    }

    fn set_registers(&mut self, registers: &Registers) {
        self.set_psw(registers.psw);
        let vectors = self.has_vectors();
        let regs = self.regs_mut();
        (regs.gprs, regs.acrs, regs.crs) = (registers.gr, registers.ar, registers.cr);
        (regs.fpc, regs.prefix) = (registers.fpc, registers.prefix.into());
        if vectors {
            for (n, value) in registers.fpr.into_iter().enumerate() {
                // SAFETY: the member is plain numbers.
                unsafe { regs.__bindgen_anon_1.vrs[n][0] = value };
            }
        } else {
            regs.__bindgen_anon_1.fprs = registers.fpr;
        }
        let floating = if vectors { KVM_SYNC_VRS } else { KVM_SYNC_FPRS };
        self.shared_mut().kvm_dirty_regs |=
            u64::from(KVM_SYNC_PREFIX | KVM_SYNC_GPRS | KVM_SYNC_ACRS | KVM_SYNC_CRS | floating);
    }

    fn gr(&self, r: u8) -> u64 {
        self.regs().gprs[usize::from(r)]
    }

    fn set_gr(&mut self, r: u8, value: u64) {
        self.regs_mut().gprs[usize::from(r)] = value;
        self.shared_mut().kvm_dirty_regs |= u64::from(KVM_SYNC_GPRS);
    }

    fn psw(&self) -> Psw {
        Psw { mask: self.shared().psw_mask, address: self.shared().psw_addr }
    }

    fn set_psw(&mut self, psw: Psw) {
        let run = self.shared_mut();
        (run.psw_mask, run.psw_addr) = (psw.mask, psw.address);
    }

    fn set_operating(&self, operating: bool) -> io::Result<()> {
        let mp_state = if operating { KVM_MP_STATE_OPERATING } else { KVM_MP_STATE_STOPPED };
        Ok(self.fd.set_mp_state(kvm_mp_state { mp_state })?)
    }

    fn reset(&mut self, kind: ResetKind) -> io::Result<()> {
        let request = match kind {
            ResetKind::Normal => KVM_S390_NORMAL_RESET(),
            ResetKind::Initial => KVM_S390_INITIAL_RESET(),
            ResetKind::Clear => KVM_S390_CLEAR_RESET(),
        };
        // SAFETY: the request takes no argument.
        answer(unsafe { ioctl(&self.fd, request) })?;
        if kind != ResetKind::Normal {
            // The kernel has reset what is shared, but for the prefix, which it keeps elsewhere. What was set before
            // the reset and has not been taken over must not be taken over now.
            self.regs_mut().prefix = 0;
            self.shared_mut().kvm_dirty_regs = 0;
        }
        Ok(())
    }

    fn extended(&self) -> io::Result<Extended> {
        let register = |id: u64| -> io::Result<[u8; 8]> {
            let mut value = [0; 8];
            self.fd.get_one_reg(id, &mut value)?;
            Ok(value)
        };
        let [a, b, c, d, ..] = register(TOD_PROGRAMMABLE)?;
        let mut extended = Extended {
            timer: u64::from_ne_bytes(register(CPU_TIMER)?),
            comparator: u64::from_ne_bytes(register(CLOCK_COMPARATOR)?),
            tod_programmable: u32::from_ne_bytes([a, b, c, d]),
            ..Default::default()
        };
        let regs = self.regs();
        // SAFETY: both members are plain numbers.
        unsafe {
            if self.has_vectors() {
                extended.vectors = regs.__bindgen_anon_1.vrs;
            }
            if self.shared().kvm_valid_regs & u64::from(KVM_SYNC_GSCB) != 0 {
                extended.guarded = regs.__bindgen_anon_2.__bindgen_anon_1.gscb;
            }
        }
        Ok(extended)
    }

    fn post(&self, irq: &Irq) -> io::Result<()> {
        const { assert!(size_of::<kvm_s390_irq>() == LENGTH) };
        // SAFETY: an Irq is as long as the structure, whose members have no invalid values, and it is copied.
        let argument: kvm_s390_irq = unsafe { ptr::read_unaligned(irq.0.as_ptr().cast()) };
        // SAFETY: `argument` is a structure of the request's type.
        answer(unsafe { ioctl_with_ref(&self.fd, KVM_S390_IRQ(), &argument) }).map(drop)
    }

    fn pending(&self) -> io::Result<Vec<u8>> {
        let mut all = vec![0; MOST_PENDING * LENGTH];
        let mut argument =
            kvm_s390_irq_state { buf: all.as_mut_ptr() as u64, len: all.len() as u32, ..Default::default() };
        // SAFETY: `argument` is a structure of the request's type that names `all` and its length.
        let length =
            answer(unsafe { ioctl_with_mut_ref(&self.fd, KVM_S390_GET_IRQ_STATE(), &mut argument) })?;
        all.truncate(length as usize);
        Ok(all)
    }

    fn set_pending(&self, pending: &[u8]) -> io::Result<()> {
        if pending.is_empty() {
            return Ok(());
        }
        let argument = kvm_s390_irq_state {
            buf: pending.as_ptr() as u64,
            len: pending.len() as u32,
            ..Default::default()
        };
        // SAFETY: `argument` is a structure of the request's type that names `pending` and its length.
        answer(unsafe { ioctl_with_ref(&self.fd, KVM_S390_SET_IRQ_STATE(), &argument) }).map(drop)
    }

    fn access(&self, access: Access<'_>) -> io::Result<u16> {
        if access.transfer.is_empty() {
            return Ok(0);
        }
        let size = access.transfer.len() as u32;
        let (op, buffer, check) = match access.transfer {
            Transfer::Read(buffer) => (LOGICAL_READ, buffer.as_mut_ptr() as u64, 0),
            Transfer::Write(bytes) => (LOGICAL_WRITE, bytes.as_ptr() as u64, 0),
            Transfer::TestRead(_) => (LOGICAL_READ, 0, CHECK_ONLY),
            Transfer::TestWrite(_) => (LOGICAL_WRITE, 0, CHECK_ONLY),
        };
        let mut flags = check;
        if access.inject {
            flags |= INJECT_EXCEPTION;
        }
        if self.with_keys {
            flags |= KEY_PROTECTION;
        }
        let mut argument =
            kvm_s390_mem_op { gaddr: access.address, flags, size, op, buf: buffer, ..Default::default() };
        let more = kvm_s390_mem_op__bindgen_ty_1__bindgen_ty_1 {
            ar: access.ar,
            key: access.key,
            ..Default::default()
        };
        argument.__bindgen_anon_1.__bindgen_anon_1 = more;
        // SAFETY: `argument` is a structure of the request's type that names a buffer of `size` bytes, writable where
        // the operation writes it, or none for a mere check.
        let code = answer(unsafe { ioctl_with_ref(&self.fd, KVM_S390_MEM_OP(), &argument) })?;
        Ok(code as u16)
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        // No signal may write where the mapping was.
        if RUNNING.get() == self.immediate_exit() {
            RUNNING.set(ptr::null());
        }
    }
}

thread_local! {
    /// The flag that makes this thread's run end, or null. Without a destructor, as a signal handler reads it.
    static RUNNING: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

/// Catches the signal that ends runs, once for the process.
fn catch() {
    static CAUGHT: OnceLock<()> = OnceLock::new();
    CAUGHT.get_or_init(|| {
        register_signal_handler(SIGRTMIN(), on_kick).expect("a real-time signal can be caught");
    });
}

extern "C" fn on_kick(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let flag = RUNNING.get();
    if !flag.is_null() {
        // SAFETY: points into the mapping of the CPU that this thread runs, until that CPU is dropped.
        unsafe { (*flag).store(1, Ordering::SeqCst) };
    }
}

/// The thread that runs a CPU. It is used under the lock of the rendezvous, which forgets it before the thread ends.
struct ThreadKick(libc::pthread_t);

impl Kick for ThreadKick {
    fn kick(&self) {
        // SAFETY: the thread lives, see above. A signal that cannot be sent to a living thread does not exist.
        unsafe { libc::pthread_kill(self.0, SIGRTMIN()) };
    }
}

const _: () = {
    assert!(capability::S390_MEM_OP == KVM_CAP_S390_MEM_OP);
    assert!(LENGTH == size_of::<kvm_s390_irq>());
};

#[cfg(test)]
#[path = "ioctls_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "ioctls_calls_tests.rs"]
mod calls;
