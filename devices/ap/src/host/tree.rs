//! A made-up sysfs, for tests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{ApHost, Condition, Driver, Snapshot};

/// Writes a file and the directories above it.
pub fn put(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// The sysfs of a host in this state, as Linux lays it out.
pub fn make_sysfs(root: &Path, state: &Snapshot) {
    let files = [
        ("ap_max_adapter_id", state.max_adapter.0.to_string()),
        ("ap_max_domain_id", state.max_domain.0.to_string()),
        ("ap_adapter_mask", state.configuration.apm.to_string()),
        ("ap_usage_domain_mask", state.configuration.aqm.to_string()),
        ("ap_control_domain_mask", state.configuration.adm.to_string()),
        ("apmask", state.apmask.to_string()),
        ("aqmask", state.aqmask.to_string()),
        ("scans", "1".into()),
    ];
    for (name, text) in files {
        put(root, &format!("bus/ap/{name}"), &format!("{text}\n"));
    }
    for driver in Driver::ALL {
        put(root, &format!("bus/ap/drivers/{}/bind", driver.name()), "");
    }
    for adapter in &state.adapters {
        let card = format!("bus/ap/devices/card{}", adapter.apid());
        let hardware = state.queues.iter().find(|q| q.queue.apid() == adapter.apid()).unwrap().hardware;
        put(root, &format!("{card}/type"), &adapter.type_name());
        put(root, &format!("{card}/hwtype"), &(hardware >> 24 & 0xff).to_string());
        put(root, &format!("{card}/depth"), &((hardware & 15) + 1).to_string());
        put(root, &format!("{card}/ap_functions"), &format!("{:#010X}", hardware >> 32));
        put(root, &format!("{card}/config"), if adapter.condition == Condition::Offline { "0" } else { "1" });
        put(
            root,
            &format!("{card}/chkstop"),
            if adapter.condition == Condition::Checkstop { "1" } else { "0" },
        );
    }
    for queue in &state.queues {
        let device = format!("bus/ap/devices/{}", queue.queue);
        put(root, &format!("{device}/config"), if queue.config { "1" } else { "0" });
        put(root, &format!("{device}/chkstop"), if queue.chkstop { "1" } else { "0" });
        put(root, &format!("{device}/driver_override"), "\n");
        if let Some(status) = queue.status {
            put(root, &format!("{device}/status"), &format!("{}\n", status.name()));
        }
        if let Some(driver) = queue.driver {
            let target = root.join(format!("bus/ap/drivers/{}", driver.name()));
            symlink(target, root.join(format!("{device}/driver"))).unwrap();
        }
    }
    put(root, "devices/vfio_ap/matrix/mdev_supported_types/vfio_ap-passthrough/create", "");
    let host = ApHost::rehearsal(state);
    for mdev in &state.mdevs {
        let path = format!("devices/vfio_ap/matrix/{}", mdev.uuid);
        let mdev = host.mdev(mdev.uuid).unwrap();
        put(root, &format!("{path}/matrix"), &mdev.matrix_text());
        put(root, &format!("{path}/guest_matrix"), &mdev.guest_matrix_text());
        put(root, &format!("{path}/control_domains"), &mdev.control_domains_text());
        put(root, &format!("{path}/assign_domain"), "");
        put(root, &format!("{path}/remove"), "");
    }
}
