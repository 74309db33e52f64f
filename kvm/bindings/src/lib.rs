//! The KVM interface of Linux on s390x as bindgen reads it from the kernel's headers. Empty elsewhere.
//!
//! README.md says how it is made and when it can go, LICENSE.md what it is under.
#![cfg_attr(not(target_arch = "s390x"), no_std)]

#[cfg(target_arch = "s390x")]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, missing_docs, non_camel_case_types)]
#[allow(non_snake_case, non_upper_case_globals, unsafe_op_in_unsafe_fn)]
mod bindings {
    include!("s390x/bindings.rs");

    /// s390x has no coalesced MMIO; kvm-ioctls names the constant on every architecture.
    pub const KVM_COALESCED_MMIO_PAGE_OFFSET: u32 = 0;
}

#[cfg(target_arch = "s390x")]
pub use bindings::*;
