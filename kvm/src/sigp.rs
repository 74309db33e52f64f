//! SIGNAL PROCESSOR orders that the kernel leaves to user space (chapter 4, *CPU Signaling and Response*; Linux,
//! `arch/s390/kvm/sigp.c`): all but the senses and the signals that are interruptions.

use std::time::Duration;

use machine::ResetKind;
use zarch::{AbsoluteAddress, Facility};

use crate::rendezvous::Order;
use crate::vm::Shared;

/// Status bits of the response.
mod status {
    pub const INCORRECT_STATE: u32 = 0x200;
    pub const INVALID_PARAMETER: u32 = 0x100;
    pub const INVALID_ORDER: u32 = 0x02;
}

/// How long a CPU may take to carry out an order that the signaling program expects to be complete. A CPU
/// that is slower answers busy to the next order.
const PATIENCE: Duration = Duration::from_millis(100);

/// The answer to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Condition code 0.
    Accepted,
    /// Condition code 1, with the status.
    Status(u32),
    /// Condition code 2.
    Busy,
    /// Condition code 3.
    NotOperational,
}

/// Signals `order` to the CPU at `address` from the CPU at `from`.
pub fn signal(shared: &Shared, from: u16, address: u16, order: u8, parameter: u64) -> Response {
    let Shared { cpus, storage, .. } = shared;
    let give = |order| match cpus.give(address, order) {
        None => Response::NotOperational,
        Some(false) => Response::Busy,
        Some(true) => Response::Accepted,
    };
    let complete = |order| {
        let response = give(order);
        if response == Response::Accepted && address != from {
            cpus.wait_for(address, PATIENCE);
        }
        response
    };
    // Of a stopped CPU, with a parameter that names storage.
    let stopped = |at: u64, length: u64, order| {
        if !storage.contains(AbsoluteAddress(at), length) {
            return Response::Status(status::INVALID_PARAMETER);
        }
        match cpus.is_operating(address) {
            None => Response::NotOperational,
            Some(true) => Response::Status(status::INCORRECT_STATE),
            Some(false) => complete(order),
        }
    };
    match order {
        0x04 => give(Order::Start),
        0x05 => give(Order::Stop),
        0x06 => give(Order::Restart),
        0x09 => give(Order::StopAndStoreStatus),
        0x0b => complete(Order::Reset(ResetKind::Initial)),
        0x0c => complete(Order::Reset(ResetKind::Normal)),
        0x0d => {
            let prefix = parameter as u32 & 0x7fff_e000;
            stopped(u64::from(prefix), 0x2000, Order::SetPrefix(prefix))
        }
        0x0e => {
            let at = parameter & 0x7fff_fe00;
            stopped(at, 512, Order::StoreStatus(at))
        }
        0x17 => {
            let has = |facility| shared.facilities.has(facility);
            let (vectors, guarded) = (has(Facility::Vector), has(Facility::GuardedStorage));
            if !vectors && !guarded {
                return Response::Status(status::INVALID_ORDER);
            }
            // The length as a power of two stands in the last bits, with the guarded-storage facility; the address is a
            // multiple of it.
            let (at, length) = match (parameter & 15, parameter & !15) {
                (0, at) => (at, 1 << 10),
                (power @ 10..=12, at) if guarded => (at, 1 << power),
                _ => return Response::Status(status::INVALID_PARAMETER),
            };
            if at % length != 0 {
                return Response::Status(status::INVALID_PARAMETER);
            }
            stopped(at, length, Order::StoreAdditionalStatus { at, guarded: guarded && length > 1 << 10 })
        }
        // Set architecture: a guest is in the z/Architecture mode from the start.
        0x12 => Response::Status(status::INVALID_PARAMETER),
        _ => Response::Status(status::INVALID_ORDER),
    }
}
