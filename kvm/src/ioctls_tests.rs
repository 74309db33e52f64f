//! Numbers, sizes and offsets against what a C compiler makes of the kernel's headers.

use std::mem::offset_of;

use c_layout::Pair;

use super::*;
use crate::flic::group;
use crate::kernel::attribute;
use crate::{interruption, model};

fn sizes_and_offsets() -> Vec<Pair> {
    let mut pairs = Vec::new();
    macro_rules! layout {
        ($($kind:ident { $($field:ident $(. $inner:ident)* = $c:literal),* $(,)? })*) => {$(
            pairs.push((format!("sizeof(struct {})", stringify!($kind)), size_of::<$kind>() as u64));
            $(pairs.push((
                format!("offsetof(struct {}, {})", stringify!($kind), $c),
                offset_of!($kind, $field $(. $inner)*) as u64,
            ));)*
        )*};
    }
    layout! {
        kvm_run {
            immediate_exit = "immediate_exit", exit_reason = "exit_reason",
            psw_mask = "psw_mask", psw_addr = "psw_addr",
            __bindgen_anon_1 = "s390_sieic", __bindgen_anon_1.s390_tsch = "s390_tsch",
            __bindgen_anon_1.s390_stsi = "s390_stsi", __bindgen_anon_1.s390_reset_flags = "s390_reset_flags",
            __bindgen_anon_1.debug.arch.type_ = "debug.arch.type",
            kvm_valid_regs = "kvm_valid_regs", kvm_dirty_regs = "kvm_dirty_regs", s = "s.regs",
            __bindgen_anon_1.s390_sieic.ipa = "s390_sieic.ipa", __bindgen_anon_1.s390_sieic.ipb = "s390_sieic.ipb",
            __bindgen_anon_1.s390_tsch.ipb = "s390_tsch.ipb",
            __bindgen_anon_1.s390_tsch.dequeued = "s390_tsch.dequeued",
            __bindgen_anon_1.s390_stsi.sel2 = "s390_stsi.sel2",
        }
        kvm_sync_regs {
            prefix = "prefix", gprs = "gprs", acrs = "acrs", crs = "crs", fpc = "fpc", gbea = "gbea", todpr = "todpr", cputm = "cputm",
            __bindgen_anon_2.__bindgen_anon_1.gscb = "gscb", __bindgen_anon_1 = "vrs", __bindgen_anon_1.fprs = "fprs", diag318 = "diag318",
        }
        kvm_s390_mem_op {
            gaddr = "gaddr", flags = "flags", size = "size", op = "op", buf = "buf",
            __bindgen_anon_1.__bindgen_anon_1.ar = "ar", __bindgen_anon_1.__bindgen_anon_1.key = "key",
        }
        kvm_s390_skeys { start_gfn = "start_gfn", count = "count", skeydata_addr = "skeydata_addr" }
        kvm_s390_irq_state { buf = "buf", len = "len" }
        kvm_s390_irq { type_ = "type", u = "u" }
        kvm_device_attr { flags = "flags", group = "group", attr = "attr", addr = "addr" }
        kvm_create_device { type_ = "type", fd = "fd" }
        kvm_enable_cap { cap = "cap", args = "args" }
        kvm_ioeventfd { datamatch = "datamatch", addr = "addr", len = "len", fd = "fd", flags = "flags" }
        kvm_userspace_memory_region {
            slot = "slot", guest_phys_addr = "guest_phys_addr", memory_size = "memory_size",
            userspace_addr = "userspace_addr",
        }
        kvm_mp_state { mp_state = "mp_state" }
    }
    pairs
}

/// Requests and constants, by the name that the headers give them.
fn numbers() -> Vec<Pair> {
    let mut pairs = Vec::new();
    macro_rules! requests {
        ($($name:ident)*) => {$(pairs.push((stringify!($name).to_owned(), $name() as u64));)*};
    }
    requests! {
        KVM_SET_DEVICE_ATTR KVM_GET_DEVICE_ATTR KVM_HAS_DEVICE_ATTR KVM_ENABLE_CAP KVM_IOEVENTFD
        KVM_S390_INITIAL_RESET KVM_S390_NORMAL_RESET KVM_S390_CLEAR_RESET KVM_S390_MEM_OP
        KVM_S390_GET_SKEYS KVM_S390_SET_SKEYS KVM_S390_IRQ KVM_S390_SET_IRQ_STATE KVM_S390_GET_IRQ_STATE
    }
    macro_rules! constants {
        ($($prefix:literal $module:ident { $($name:ident)* })*) => {$($(
            pairs.push((concat!($prefix, stringify!($name)).to_owned(), $module::$name.into()));
        )*)*};
    }
    constants! {
        "KVM_CAP_" capability {
            MP_STATE IOEVENTFD SYNC_REGS S390_CSS_SUPPORT DEVICE_CTRL VM_ATTRIBUTES S390_USER_SIGP
            S390_VECTOR_REGISTERS S390_MEM_OP S390_USER_STSI S390_SKEYS S390_INJECT_IRQ S390_IRQ_STATE
            IMMEDIATE_EXIT S390_GS S390_BPB S390_VCPU_RESETS
        }
        "KVM_S390_VM_" attribute {
            MEM_CTRL MEM_LIMIT_SIZE TOD TOD_LOW CRYPTO CRYPTO_ENABLE_APIE CRYPTO_DISABLE_APIE CRYPTO_ENABLE_AES_KW
            CRYPTO_ENABLE_DEA_KW CPU_MODEL CPU_PROCESSOR CPU_MACHINE CPU_PROCESSOR_FEAT CPU_PROCESSOR_SUBFUNC
            CPU_MACHINE_SUBFUNC
        }
        "KVM_EXIT_" reason { DEBUG INTR S390_SIEIC S390_RESET S390_TSCH S390_STSI }
        "KVM_DEV_FLIC_" group {
            GET_ALL_IRQS ENQUEUE CLEAR_IRQS ADAPTER_REGISTER CLEAR_IO_IRQ AIRQ_INJECT
        }
    }
    let own: [(&str, u64); 29] = [
        ("KVM_SYNC_PREFIX", KVM_SYNC_PREFIX.into()),
        ("KVM_SYNC_GPRS", KVM_SYNC_GPRS.into()),
        ("KVM_SYNC_ACRS", KVM_SYNC_ACRS.into()),
        ("KVM_SYNC_CRS", KVM_SYNC_CRS.into()),
        ("KVM_SYNC_VRS", KVM_SYNC_VRS.into()),
        ("KVM_SYNC_FPRS", KVM_SYNC_FPRS.into()),
        ("KVM_SYNC_GSCB", KVM_SYNC_GSCB.into()),
        ("KVM_MP_STATE_OPERATING", KVM_MP_STATE_OPERATING.into()),
        ("KVM_MP_STATE_STOPPED", KVM_MP_STATE_STOPPED.into()),
        ("KVM_S390_RESET_CLEAR", KVM_S390_RESET_CLEAR.into()),
        ("KVM_IOEVENTFD_FLAG_DATAMATCH", 1 << kvm_ioeventfd_flag_nr_datamatch),
        ("KVM_IOEVENTFD_FLAG_DEASSIGN", 1 << kvm_ioeventfd_flag_nr_deassign),
        ("KVM_API_VERSION", VERSION as u64),
        ("KVM_CAP_S390_MEM_OP_EXTENSION", KVM_CAP_S390_MEM_OP_EXTENSION.into()),
        ("KVM_REG_S390_TODPR", TOD_PROGRAMMABLE),
        ("KVM_REG_S390_CPU_TIMER", CPU_TIMER),
        ("KVM_REG_S390_CLOCK_COMP", CLOCK_COMPARATOR),
        ("KVM_DEV_VFIO_FILE", crate::vfio::FILE.into()),
        ("KVM_DEV_VFIO_FILE_ADD", crate::vfio::ADD),
        ("KVM_DEV_VFIO_FILE_DEL", crate::vfio::REMOVE),
        ("KVM_S390_MEMOP_F_CHECK_ONLY", CHECK_ONLY),
        ("KVM_S390_MEMOP_F_INJECT_EXCEPTION", INJECT_EXCEPTION),
        ("KVM_S390_MEMOP_F_SKEY_PROTECTION", KEY_PROTECTION),
        ("KVM_S390_MEMOP_LOGICAL_READ", LOGICAL_READ.into()),
        ("KVM_S390_MEMOP_LOGICAL_WRITE", LOGICAL_WRITE.into()),
        ("KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY", 1 << kvm_ioeventfd_flag_nr_virtio_ccw_notify),
        ("KVM_DEV_TYPE_FLIC", kvm_device_type_KVM_DEV_TYPE_FLIC.into()),
        ("KVM_DEV_TYPE_VFIO", kvm_device_type_KVM_DEV_TYPE_VFIO.into()),
        ("KVM_S390_GET_SKEYS_NONE", KVM_S390_GET_SKEYS_NONE.into()),
    ];
    pairs.extend(own.map(|(name, value)| (name.to_owned(), value)));
    pairs
}

/// What the portable modules have written down as bytes.
fn bytes() -> Vec<Pair> {
    let offset = |c: &str, field: &str, value: usize| (format!("offsetof({c}, {field})"), value as u64);
    let mut pairs = vec![
        ("sizeof(struct kvm_s390_irq)".to_owned(), interruption::LENGTH as u64),
        ("sizeof(struct kvm_s390_io_adapter)".to_owned(), 8),
        offset("struct kvm_s390_io_adapter", "isc", 4),
        ("sizeof(struct kvm_s390_vm_cpu_processor)".to_owned(), model::PROCESSOR as u64),
        offset("struct kvm_s390_vm_cpu_processor", "ibc", 8),
        offset("struct kvm_s390_vm_cpu_processor", "fac_list", 16),
        ("sizeof(struct kvm_s390_vm_cpu_machine)".to_owned(), model::MACHINE as u64),
        offset("struct kvm_s390_vm_cpu_machine", "fac_mask", 16),
        offset("struct kvm_s390_vm_cpu_machine", "fac_list", 16 + 2048),
        ("sizeof(struct kvm_s390_vm_cpu_feat)".to_owned(), model::FEATURES as u64),
        ("sizeof(struct kvm_s390_vm_cpu_subfunc)".to_owned(), model::SUBFUNCTIONS as u64),
    ];
    for (field, at) in [
        ("io.subchannel_id", 0),
        ("io.subchannel_nr", 2),
        ("io.io_int_parm", 4),
        ("io.io_int_word", 8),
        ("ext.ext_params", 0),
        ("mchk.cr14", 0),
        ("mchk.mcic", 8),
        ("pgm.trans_exc_code", 0),
        ("pgm.mon_code", 8),
        ("pgm.data_exc_code", 24),
        ("pgm.code", 28),
        ("pgm.mon_class_nr", 30),
        ("pgm.exc_access_id", 34),
        ("pgm.flags", 37),
    ] {
        pairs.push(offset("struct kvm_s390_irq", &format!("u.{field}"), 8 + at));
    }
    let names = [
        "ptff", "kmac", "kmc", "km", "kimd", "klmd", "pckmo", "kmctr", "kmf", "kmo", "pcc", "ppno", "kma",
        "kdsa", "sortl", "dfltcc",
    ];
    for (name, (_, at, length)) in names.iter().zip(model::SUBFUNCTIONS_OF) {
        pairs.push(offset("struct kvm_s390_vm_cpu_subfunc", name, at));
        let size = format!("sizeof(((struct kvm_s390_vm_cpu_subfunc *)0)->{name})");
        pairs.push((size, length as u64));
    }
    for (kind, value) in [
        ("KVM_S390_SIGP_STOP", Irq::stop()),
        ("KVM_S390_RESTART", Irq::restart()),
        ("KVM_S390_MCHK", Irq::channel_report()),
        ("KVM_S390_INT_SERVICE", Irq::service_signal(0)),
        ("KVM_S390_PROGRAM_INT", Irq::program(&zarch::ProgramCode::Operation.into())),
        ("KVM_S390_INT_IO(1, 0, 0, 0)", Irq::io(IoInterruption::adapter(0))),
        (
            "KVM_S390_INT_IO(0, 0xfe, 1, 7)",
            Irq::io(IoInterruption { subsystem_id: 0xfe03_0007, parameter: 0, identification: 0 }),
        ),
    ] {
        pairs.push((kind.to_owned(), value.kind().into()));
    }
    pairs
}

#[test]
fn layouts_are_those_of_c() {
    let pairs = [sizes_and_offsets(), numbers(), bytes()].concat();
    assert!(pairs.len() > 120, "the lists above are not empty");
    c_layout::compare(&["linux/kvm.h"], &pairs);
}

#[test]
fn without_kvm_the_error_says_what_to_do() {
    if std::path::Path::new("/dev/kvm").exists() {
        return println!("skipped: this machine has a /dev/kvm");
    }
    let error = open().err().expect("there is no /dev/kvm");
    assert!(error.to_string().starts_with("open /dev/kvm; "), "{error}");
}

/// A kick that comes before the run begins ends it all the same, since the handler leaves a mark.
#[test]
fn a_kick_marks_the_thread_that_runs() {
    let flag = AtomicU8::new(0);
    catch();
    RUNNING.set(&raw const flag);
    // SAFETY: has no preconditions.
    let kick = ThreadKick(unsafe { libc::pthread_self() });
    kick.kick();
    while flag.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    RUNNING.set(ptr::null());
    kick.kick();
}
