//! SIGNAL PROCESSOR orders (chapter 4, *CPU Signaling and Response*).

use std::time::{Duration, Instant};

use machine::ResetKind;

use crate::Cpu;
use crate::complex::{Order, wait_until};

/// Status bits of the response.
mod status {
    pub const NOT_RUNNING: u32 = 0x400;
    pub const INCORRECT_STATE: u32 = 0x200;
    pub const INVALID_PARAMETER: u32 = 0x100;
    pub const EXTERNAL_CALL_PENDING: u32 = 0x80;
    pub const STOPPED: u32 = 0x40;
    pub const INVALID_ORDER: u32 = 0x02;
}

/// The answer to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Condition code 0.
    Accepted,
    /// Condition code 1 with the status for R1.
    Status(u32),
    /// Condition code 2.
    Busy,
    /// Condition code 3.
    NotOperational,
}

impl Cpu {
    /// Signals `order` to the CPU with address `address`.
    pub fn signal(&mut self, address: u16, order: u8, parameter: u64) -> Response {
        use Response::*;
        let complex = self.complex.clone();
        let Some(target) = complex.cpus.get(address as usize) else { return NotOperational };
        let give = |order| if target.give_order(order) { Accepted } else { Busy };
        if target.busy() && !matches!(order, 0x01 | 0x02 | 0x03 | 0x15) {
            return Busy;
        }
        match order {
            // Sense.
            0x01 => {
                let mut bits = 0;
                if !target.operating() {
                    bits |= status::STOPPED;
                }
                if target.external_call_pending() {
                    bits |= status::EXTERNAL_CALL_PENDING;
                }
                if bits == 0 { Accepted } else { Status(bits) }
            }
            // External call.
            0x02 => match target.add_external_call(self.cpu_address()) {
                true => Accepted,
                false => Status(status::EXTERNAL_CALL_PENDING),
            },
            // Emergency signal.
            0x03 => {
                target.add_emergency(self.cpu_address());
                Accepted
            }
            // Start, stop, restart, stop and store status.
            0x04 => give(Order::Start),
            0x05 => give(Order::Stop),
            0x06 => give(Order::Restart),
            0x09 => give(Order::StopAndStoreStatus),
            // Initial CPU reset, CPU reset.
            0x0b => self.complete(give(Order::ResetAndStop(ResetKind::Initial)), address),
            0x0c => self.complete(give(Order::ResetAndStop(ResetKind::Normal)), address),
            // Set prefix.
            0x0d => {
                let prefix = parameter & 0x7fff_e000;
                if !complex.storage.contains(zarch::AbsoluteAddress(prefix), 0x2000) {
                    return Status(status::INVALID_PARAMETER);
                }
                if target.operating() {
                    return Status(status::INCORRECT_STATE);
                }
                self.complete(give(Order::SetPrefix(prefix)), address)
            }
            // Store status at address.
            0x0e => {
                let at = parameter & 0x7fff_fe00;
                if !complex.storage.contains(zarch::AbsoluteAddress(at), 512) {
                    return Status(status::INVALID_PARAMETER);
                }
                if target.operating() {
                    return Status(status::INCORRECT_STATE);
                }
                self.complete(give(Order::StoreStatus(at)), address)
            }
            // Set architecture: the machine is in the z/Architecture mode from the start
            // (configuration-z/Architecture-architectural-mode facility).
            0x12 => Status(status::INVALID_PARAMETER),
            // Conditional emergency signal: Linux's home ASN is of no interest here, so the signal is
            // given as if the condition held.
            0x13 => {
                target.add_emergency(self.cpu_address());
                Accepted
            }
            // Sense running status.
            0x15 => {
                let running = target.operating() && !target.is_waiting();
                if running { Accepted } else { Status(status::NOT_RUNNING) }
            }
            _ => Status(status::INVALID_ORDER),
        }
    }

    /// Waits until an order to a stopped CPU is done, so that what follows sees its effect. A CPU that
    /// does not get to it soon (its thread is not scheduled) answers busy to the next order.
    fn complete(&self, response: Response, address: u16) -> Response {
        if response == Response::Accepted && address != self.cpu_address() {
            let end = Instant::now() + Duration::from_millis(100);
            // The other CPU may be waiting for this one to attend to something.
            self.shared.leave();
            wait_until(|| !self.complex.cpus[address as usize].busy() || Instant::now() >= end);
            self.complex.enter(&self.shared);
        }
        response
    }
}
