//! One open device: the order in which it is opened, and the reverse in which it is closed.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use machine::Storage;
use uuid::Uuid;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::kernel::{
    AddressSpace, CONFIGURATION_CHANGED, Container, Device, Group, REQUEST, Vfio, VfioFiles, flag,
};
use super::preflight::{Path, Target};
use super::{Attempt, Error, OPEN_FILES};

/// The cure where only the kernel knows what is wrong.
const SAYS_MORE: &str = "`dmesg | grep -e vfio -e iommu` can say more";
/// The cure where KVM does not take a file.
const KVM_VFIO: &str = "use a host kernel with CONFIG_KVM_VFIO, for /dev/vfio/devices Linux 6.6 or later";

/// What the kernel signals.
#[derive(Debug)]
pub struct Signals {
    /// The host wants the device back.
    pub request: Option<EventFd>,
    /// The guest's APCB was rewritten.
    pub changed: Option<EventFd>,
}

/// Everything that is open for one mediated device. Closed in the reverse order when dropped, however far opening got.
pub struct Open {
    mdev: Uuid,
    files: Arc<dyn VfioFiles>,
    ground: Ground,
    device: Option<Box<dyn Device>>,
    /// Interruption indexes that have an event.
    signalled: Vec<u32>,
}

/// What a device stands on, with how much of it has been done.
enum Ground {
    Group { container: Box<dyn Container>, group: Box<dyn Group>, joined: bool, added: bool, mapped: bool },
    Space { space: Box<dyn AddressSpace>, mapped: bool, added: bool, attached: bool },
}

impl Open {
    /// Opens the device for the VM of `files`, with guest storage mapped; `file` is its file, if that is open already.
    pub fn new(
        vfio: &dyn Vfio,
        files: &Arc<dyn VfioFiles>,
        target: &Target,
        file: Option<OwnedFd>,
        storage: &Arc<Storage>,
    ) -> Result<(Self, Signals), Error> {
        let mut open = match target.path {
            Path::Group(number) => Self::group(vfio, files, target, number, file, storage)?,
            Path::Device(number) => Self::character_device(vfio, files, target, number, file, storage)?,
        };
        let signals = open.listen()?;
        Ok((open, signals))
    }

    /// Nothing is open yet but `ground`, which goes with it.
    fn on(ground: Ground, target: &Target, files: &Arc<dyn VfioFiles>) -> Self {
        Self { mdev: target.mdev, files: files.clone(), ground, device: None, signalled: Vec::new() }
    }

    /// Container, group, VM, device: vfio_ap refuses to open a device before its group knows the VM.
    fn group(
        vfio: &dyn Vfio,
        files: &Arc<dyn VfioFiles>,
        target: &Target,
        number: u32,
        file: Option<OwnedFd>,
        storage: &Arc<Storage>,
    ) -> Result<Self, Error> {
        let container = vfio.container().attempt("open /dev/vfio/vfio", "modprobe vfio_iommu_type1")?;
        let opened = match file {
            Some(file) => vfio.group_of(file),
            None => vfio.group(number).attempt(
                format_args!("open /dev/vfio/{number}"),
                "end the program that has it open: fuser -v /dev/vfio/*",
            )?,
        };
        let viable =
            opened.viable().attempt(format_args!("ask for the state of group {number}"), SAYS_MORE)?;
        if !viable {
            return Err(Error::NotViable { group: number });
        }
        let ground = Ground::Group { container, group: opened, joined: false, added: false, mapped: false };
        let mut open = Self::on(ground, target, files);
        let Ground::Group { container, group, joined, added, mapped } = &mut open.ground else {
            unreachable!()
        };
        group.join(container.as_fd()).attempt(
            format_args!("put group {number} into a container"),
            "end the program that has the group: fuser -v /dev/vfio/*",
        )?;
        *joined = true;
        container
            .choose_translation()
            .attempt("choose the translation of a container", "modprobe vfio_iommu_type1")?;
        files.add(group.as_fd()).attempt(format_args!("tell KVM of group {number}"), KVM_VFIO)?;
        *added = true;
        container.map(storage).attempt(mapping(storage), "ulimit -l unlimited")?;
        *mapped = true;
        let device = group.device(&target.mdev.to_string()).attempt(
            format_args!("open mdev {}", target.mdev),
            "a VM can have one vfio-ap device, and a device one VM: end the other",
        )?;
        open.device = Some(device);
        Ok(open)
    }

    /// Address space, character device, VM, binding: binding is what opens the device.
    fn character_device(
        vfio: &dyn Vfio,
        files: &Arc<dyn VfioFiles>,
        target: &Target,
        number: u32,
        file: Option<OwnedFd>,
        storage: &Arc<Storage>,
    ) -> Result<Self, Error> {
        let space = vfio.address_space().attempt("open /dev/iommu", "modprobe iommufd")?;
        let ground = Ground::Space { space, mapped: false, added: false, attached: false };
        let mut open = Self::on(ground, target, files);
        let Ground::Space { space, mapped, added, attached } = &mut open.ground else { unreachable!() };
        space.map(storage).attempt(mapping(storage), "ulimit -l unlimited")?;
        *mapped = true;
        let opened = match file {
            Some(file) => vfio.character_device_of(file),
            None => vfio.character_device(&target.sysfs).attempt(
                format_args!("open /dev/vfio/devices/vfio{number}"),
                "end the program that has it open: fuser -v /dev/vfio/devices/*",
            )?,
        };
        let device = open.device.insert(opened);
        let file = device.as_fd();
        files.add(file).attempt(format_args!("tell KVM of /dev/vfio/devices/vfio{number}"), KVM_VFIO)?;
        *added = true;
        device.bind(space.as_fd()).attempt(
            format_args!("open mdev {}", target.mdev),
            "a VM can have one vfio-ap device, and a device one VM: end the other",
        )?;
        device
            .attach(space.id())
            .attempt(format_args!("give mdev {} the guest's storage", target.mdev), SAYS_MORE)?;
        *attached = true;
        Ok(open)
    }

    /// Checks what the device is and has the kernel signal what it can.
    fn listen(&mut self) -> Result<Signals, Error> {
        let Self { mdev, device: Some(device), signalled, .. } = self else {
            unreachable!("it has been opened")
        };
        let information = device.information().attempt(format_args!("ask what mdev {mdev} is"), SAYS_MORE)?;
        if information.flags & flag::AP == 0 {
            return Err(Error::NotAp { mdev: *mdev, flags: information.flags });
        }
        let mut signal = |index: u32, name: &str| -> Result<Option<EventFd>, Error> {
            // Older kernels know no interruption at all, before 6.15 just the first.
            if index >= information.interruptions {
                return Ok(None);
            }
            let attempt = format!("have mdev {mdev} signal {name}");
            if device.events(index).attempt(&attempt, SAYS_MORE)? == 0 {
                return Ok(None);
            }
            let event = EventFd::new(EFD_NONBLOCK).attempt("make an event descriptor", OPEN_FILES)?;
            device.signal(index, Some(&event)).attempt(&attempt, SAYS_MORE)?;
            signalled.push(index);
            Ok(Some(event))
        };
        Ok(Signals {
            request: signal(REQUEST, "requests")?,
            changed: signal(CONFIGURATION_CHANGED, "changes of the configuration")?,
        })
    }

    /// Resets the device's queues.
    pub fn reset(&self) -> io::Result<()> {
        self.device.as_ref().map_or(Ok(()), |device| device.reset())
    }

    fn close(&mut self) {
        let mdev = self.mdev;
        // The way back has no way back: what is refused is told, and the rest is done.
        let told = |what: &str, result: io::Result<()>| {
            if let Err(e) = result {
                log::warn!("mdev {mdev}: {what}: {e}");
            }
        };
        if let Some(device) = &self.device {
            for index in self.signalled.drain(..).rev() {
                told("stop its signals", device.signal(index, None));
            }
        }
        match &mut self.ground {
            Ground::Group { container, group, joined, added, mapped } => {
                // Closing resets the queues, which needs the VM and the mapping.
                self.device = None;
                if std::mem::take(mapped) {
                    told("unmap guest storage", container.unmap());
                }
                if std::mem::take(added) {
                    told("tell KVM that it goes", self.files.remove(group.as_fd()));
                }
                if std::mem::take(joined) {
                    told("take its group out of the container", group.leave());
                }
            }
            Ground::Space { space, mapped, added, attached } => {
                if let Some(device) = &self.device {
                    if std::mem::take(attached) {
                        told("take the guest's storage from it", device.detach());
                    }
                    if std::mem::take(added) {
                        told("tell KVM that it goes", self.files.remove(device.as_fd()));
                    }
                }
                self.device = None;
                if std::mem::take(mapped) {
                    told("unmap guest storage", space.unmap());
                }
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.close();
    }
}

fn mapping(storage: &Storage) -> String {
    format!("map {} bytes of guest storage for the device", storage.size())
}
