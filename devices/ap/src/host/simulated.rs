//! The emulated hardware as the machine below a host.

use crycb::{Apqn, Qci};

use super::{Lpar, Machine};
use crate::hardware::{ApMachine, Hardware};
use crate::queue::QueueStatistics;
use crate::status::QueueInformation;

impl Machine for ApMachine {
    fn qci(&self) -> Qci {
        Self::qci(self)
    }

    fn tapq(&self, apqn: Apqn) -> (u8, Option<QueueInformation>) {
        let (status, information) = self.test(apqn);
        (status.response_code as u8, information)
    }

    fn zapq(&self, apqn: Apqn) -> u8 {
        self.zeroize_by_host(apqn).response_code as u8
    }

    fn release_interruption(&self, apqn: Apqn) {
        self.free_interruption(apqn);
    }

    fn configure(&self, lpar: &Lpar) {
        self.apply(Hardware::of(lpar));
        // A guest gets an adapter that comes only when the host has seen it, which is after this.
        for installed in lpar.adapters() {
            self.set_adapter_state(installed.adapter.apid, installed.condition.state());
        }
    }

    fn statistics(&self, apqn: Apqn) -> Option<QueueStatistics> {
        Self::statistics(self, apqn)
    }
}
