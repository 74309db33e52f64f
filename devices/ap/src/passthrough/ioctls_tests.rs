//! Numbers, sizes and offsets against what a C compiler makes of the kernel's headers.

use std::mem::offset_of;

use c_layout::Pair;

use super::*;
use crate::passthrough::kernel::{CONFIGURATION_CHANGED, REQUEST, flag};

fn pairs() -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    macro_rules! layout {
        ($($kind:ident as $c:ident $($size:expr)?; { $($field:ident $(= $name:ident)?),* })*) => {$(
            $(pairs.push((format!("sizeof(struct {})", stringify!($c)), $size as u64));)?
            $({
                #[allow(unused_mut, unused_assignments)]
                let mut name = stringify!($field);
                $(name = stringify!($name);)?
                let at = offset_of!($kind, $field) as u64;
                pairs.push((format!("offsetof(struct {}, {name})", stringify!($c)), at));
            })*
        )*};
    }
    layout! {
        vfio_group_status as vfio_group_status size_of::<vfio_group_status>(); { argsz, flags }
        vfio_device_info as vfio_device_info size_of::<vfio_device_info>(); {
            argsz, flags, num_regions, num_irqs, cap_offset
        }
        vfio_irq_info as vfio_irq_info size_of::<vfio_irq_info>(); { argsz, flags, index, count }
        IrqSet as vfio_irq_set offset_of!(IrqSet, descriptor); {
            argsz, flags, index, start, count, descriptor = data
        }
        vfio_device_bind_iommufd as vfio_device_bind_iommufd; { argsz, flags, iommufd, out_devid }
        vfio_device_attach_iommufd_pt as vfio_device_attach_iommufd_pt; { argsz, flags, pt_id }
        vfio_device_detach_iommufd_pt as vfio_device_detach_iommufd_pt; { argsz, flags }
        vfio_iommu_type1_dma_map as vfio_iommu_type1_dma_map size_of::<vfio_iommu_type1_dma_map>(); {
            argsz, flags, vaddr, iova, size
        }
        // Its last member, bytes of a bitmap that is not asked for, is C's flexible one.
        vfio_iommu_type1_dma_unmap as vfio_iommu_type1_dma_unmap size_of::<vfio_iommu_type1_dma_unmap>(); {
            argsz, flags, iova, size
        }
    }
    macro_rules! numbers {
        ($($name:ident)*) => {$(pairs.push((stringify!($name).to_owned(), $name() as u64));)*};
    }
    numbers! {
        VFIO_SET_IOMMU VFIO_GROUP_GET_STATUS VFIO_GROUP_SET_CONTAINER VFIO_GROUP_UNSET_CONTAINER VFIO_GROUP_GET_DEVICE_FD
        VFIO_DEVICE_GET_INFO VFIO_DEVICE_GET_IRQ_INFO VFIO_DEVICE_SET_IRQS VFIO_DEVICE_RESET VFIO_DEVICE_BIND_IOMMUFD
        VFIO_DEVICE_ATTACH_IOMMUFD_PT VFIO_DEVICE_DETACH_IOMMUFD_PT
    }
    let others: [(&str, u32); 12] = [
        ("VFIO_TYPE1v2_IOMMU", VFIO_TYPE1v2_IOMMU),
        ("VFIO_GROUP_FLAGS_VIABLE", VFIO_GROUP_FLAGS_VIABLE),
        ("VFIO_DEVICE_FLAGS_AP", flag::AP),
        ("VFIO_DEVICE_FLAGS_RESET", flag::RESET),
        ("VFIO_IRQ_INFO_EVENTFD", VFIO_IRQ_INFO_EVENTFD),
        ("VFIO_IRQ_SET_DATA_EVENTFD", VFIO_IRQ_SET_DATA_EVENTFD),
        ("VFIO_IRQ_SET_ACTION_TRIGGER", VFIO_IRQ_SET_ACTION_TRIGGER),
        ("VFIO_AP_REQ_IRQ_INDEX", REQUEST),
        // Newer than the headers of some: the enumeration's next.
        ("VFIO_AP_REQ_IRQ_INDEX + 1", CONFIGURATION_CHANGED),
        ("offsetofend(struct vfio_device_bind_iommufd, out_devid)", BIND_SIZE),
        ("offsetofend(struct vfio_device_attach_iommufd_pt, pt_id)", 12),
        ("offsetofend(struct vfio_device_detach_iommufd_pt, flags)", 8),
    ];
    pairs.extend(others.map(|(name, value)| (name.to_owned(), value.into())));
    pairs
}

#[test]
fn layouts_are_those_of_c() {
    let pairs = pairs();
    assert!(pairs.len() > 50, "the lists above are not empty");
    c_layout::compare(&["linux/vfio.h"], &pairs);
}

#[test]
fn without_vfio_the_refusal_is_the_systems() {
    use kernel::Vfio as _;
    if Path::new("/dev/vfio/vfio").exists() {
        return println!("skipped: this machine has VFIO");
    }
    let error = Host.container().err().expect("there is no /dev/vfio/vfio");
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    assert!(Host.group(0).is_err() && Host.character_device(Path::new("/nonexistent")).is_err());
}
