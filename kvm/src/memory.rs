//! Guest storage in the kernel: its limit, its slot, its keys.

use std::sync::Arc;

use machine::Storage;
use zarch::PAGE_SIZE;

use crate::kernel::{Vm, attribute};
use crate::{Attempt, Error};

/// Most keys that the kernel takes at once.
const KEYS_AT_ONCE: u64 = 8192;

/// Tells the kernel how much storage there will be, which lets it translate with fewer tables. CPUs do not
/// exist yet.
pub fn limit(vm: &dyn Vm, size: u64) -> Result<(), Error> {
    if !vm.has_attribute(attribute::MEM_CTRL, attribute::MEM_LIMIT_SIZE) {
        return Ok(());
    }
    let mut most = [0; 8];
    let asked = vm.get_attribute(attribute::MEM_CTRL, attribute::MEM_LIMIT_SIZE, &mut most);
    asked.attempt(|| "ask for the storage limit of guests".into())?;
    let most = u64::from_be_bytes(most);
    if most < size {
        return Err(Error::Storage { size, most });
    }
    vm.set_attribute(attribute::MEM_CTRL, attribute::MEM_LIMIT_SIZE, &size.to_be_bytes())
        .attempt(|| format!("limit guest storage to {size} bytes"))
}

/// Makes `storage` the guest's.
pub fn map(vm: &dyn Vm, storage: &Arc<Storage>) -> Result<(), Error> {
    vm.set_storage(storage.clone()).attempt(|| format!("give the guest {} bytes of storage", storage.size()))
}

/// Sets all storage keys to zero, as clear reset does; a guest that never used one has none.
pub fn clear_keys(vm: &dyn Vm, size: u64) -> Result<(), Error> {
    let pages = size / PAGE_SIZE;
    let used = vm.keys(0, &mut [0]).attempt(|| "ask for the key of storage at 0".into())?;
    if !used {
        return Ok(());
    }
    let zeros = [0; KEYS_AT_ONCE as usize];
    let mut first = 0;
    while first < pages {
        let count = (pages - first).min(KEYS_AT_ONCE);
        vm.set_keys(first, &zeros[..count as usize])
            .attempt(|| format!("clear the keys of storage at {:x}", first * PAGE_SIZE))?;
        first += count;
    }
    Ok(())
}
