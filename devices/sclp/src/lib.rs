//! The SCLP, the service-call logical processor behind SERVICE CALL: what the machine consists of,
//! and the event facility with the two operator consoles and the request to shut down.
//!
//! * [`Sclp`]: answers [`Exit::ServiceCall`], takes console input from any thread.
//! * [`Config`]: what READ SCP INFO and READ CPU INFO say.
//! * [`Consoles`], [`ConsoleSink`]: where the guest's output goes. The line-mode console converts
//!   EBCDIC and writes whole lines, the VT220 console passes bytes through. A console without a sink
//!   is not offered to the guest.
//! * [`ApConfigure`]: the hook behind CONFIGURE AP and DECONFIGURE AP.
//! * [`spec`]: command words, response codes and layouts.
//!
//! Commands complete before SERVICE CALL ends; the completion signal is posted after the SCCB has been
//! stored. Its parameter is the SCCB's address, with the last bit on while events are pending. An SCCB
//! is copied once, checked and answered in the copy. What waits for the guest is bounded.
//!
//! Deliberately absent: standby storage and CPUs (so no state-change events), extended-length SCCBs
//! (facility 140), control-program identification.
#![forbid(unsafe_code)]

mod ebcdic;
mod events;
mod info;
mod line_mode;
pub mod spec;

use std::sync::Arc;

use machine::{Exit, Floating, Outcome, Post, Storage, Vcpu};
use zarch::{ProgramCode, ProgramInterruption, RealAddress};

use events::Events;
pub use info::Config;
use spec::{HEADER, Response, Sccb};

/// Takes what the guest writes to a console. Called on a CPU's thread: never blocks, drops instead.
pub trait ConsoleSink: Send + Sync {
    /// Takes `bytes`: complete UTF-8 lines, each with its newline, from the line-mode console; raw bytes
    /// from the VT220 console.
    fn write(&self, bytes: &[u8]);
}

/// The consoles of the SCLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// Operator messages and commands, line by line (Linux: `ttyS0`, `sclp_line0`).
    LineMode,
    /// A terminal (Linux: `ttyS1`, `ttysclp0`).
    Vt220,
}

/// The consoles offered to the guest. Linux's early messages go to both where both are offered.
#[derive(Clone, Default)]
pub struct Consoles {
    /// Output of the line-mode console.
    pub line_mode: Option<Arc<dyn ConsoleSink>>,
    /// Output of the VT220 console.
    pub vt220: Option<Arc<dyn ConsoleSink>>,
}

/// How a request to configure or deconfigure an adapter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApConfigured {
    /// It was done (response 0020).
    Done,
    /// The adapter was in that state before (response 0120).
    Already,
    /// There is no such adapter (response 09F0).
    Unknown,
    /// The adapter's state does not allow it (response 05F0).
    Refused,
}

/// What CONFIGURE AP and DECONFIGURE AP act on.
pub trait ApConfigure: Send + Sync {
    /// Configures or deconfigures adapter `apid`.
    fn set_configured(&self, apid: u8, configured: bool) -> ApConfigured;
}

/// The service-call logical processor of one machine.
pub struct Sclp {
    // Configuration.
    config: Config,
    // Connections to the host; the event facility also holds the guest-visible state.
    ap: Option<Arc<dyn ApConfigure>>,
    events: Events,
}

impl Sclp {
    /// An SCLP that describes `config` and offers `consoles`; with `ap`, also the configuration of
    /// adapters.
    ///
    /// # Panics
    /// When `config` has more than [`Config::MAX_CPUS`] CPUs.
    pub fn new(config: Config, consoles: Consoles, ap: Option<Arc<dyn ApConfigure>>) -> Self {
        assert!(
            config.cpus.len() <= Config::MAX_CPUS,
            "the answer has no room for {} CPUs",
            config.cpus.len()
        );
        Self { config, ap, events: Events::new(consoles) }
    }

    /// Answers `exit` if it is a service call; `None` for every other exit.
    pub fn execute(
        &self,
        vcpu: &dyn Vcpu,
        exit: &Exit,
        post: &dyn Post,
        storage: &Storage,
    ) -> Option<Outcome> {
        let Exit::ServiceCall { command, sccb } = *exit else { return None };
        let prefix = vcpu.absolute(RealAddress(0)).0;
        Some(match self.service_call(command, sccb, prefix, storage, post) {
            Ok(cc) => Outcome::ConditionCode(cc),
            Err(interruption) => Outcome::Program(interruption),
        })
    }

    /// SERVICE CALL of a CPU with the prefix `prefix`, which is in the supervisor state. Gives the
    /// condition code, always 0: accepted, and complete.
    ///
    /// # Errors
    /// Specification when the SCCB is not on a doubleword boundary, above 2 GiB, in the first 8K bytes or
    /// the prefix area, or says that it is shorter than its header; addressing when it is outside storage.
    /// Everything else is a response code in the SCCB.
    pub fn service_call(
        &self,
        command: u32,
        sccb: RealAddress,
        prefix: u64,
        storage: &Storage,
        post: &dyn Post,
    ) -> Result<u8, ProgramInterruption> {
        let area = sccb.0 & !0x1fff;
        if sccb.0 & 7 != 0 || sccb.0 >> 31 != 0 || area == 0 || area == prefix {
            return Err(ProgramCode::Specification.into());
        }
        let at = sccb.absolute(prefix);
        let mut copy = Sccb::fetch(storage, at)?;
        if copy.length() < HEADER {
            return Err(ProgramCode::Specification.into());
        }
        let response = self.perform(command, storage, &mut copy);
        copy.set_response(response);
        storage.write(at, copy.stored()).map_err(|_| ProgramCode::Addressing)?;
        // The address has its last three bits zero.
        post.post(Floating::ServiceSignal(sccb.0 as u32 | u32::from(self.events.tell())));
        Ok(0)
    }

    fn perform(&self, command: u32, storage: &Storage, sccb: &mut Sccb) -> Response {
        let name = command & spec::COMMAND;
        let known = match name {
            spec::CONFIGURE_AP | spec::DECONFIGURE_AP => self.ap.is_some(),
            _ => matches!(
                name,
                spec::READ_SCP_INFO
                    | spec::READ_SCP_INFO_FORCED
                    | spec::READ_CPU_INFO
                    | spec::READ_EVENT_DATA
                    | spec::WRITE_EVENT_DATA
                    | spec::WRITE_EVENT_MASK
            ),
        };
        if known && !sccb.fits_page() {
            return Response::Boundary;
        }
        match (name, &self.ap) {
            (spec::READ_SCP_INFO | spec::READ_SCP_INFO_FORCED, ap) => {
                self.config.read_scp_info(storage.size() >> 20, ap.is_some(), sccb)
            }
            (spec::READ_CPU_INFO, _) => self.config.read_cpu_info(sccb),
            (spec::READ_EVENT_DATA, _) => self.events.read_event_data(sccb),
            (spec::WRITE_EVENT_DATA, _) => self.events.write_event_data(sccb),
            (spec::WRITE_EVENT_MASK, _) => self.events.write_event_mask(sccb),
            (spec::CONFIGURE_AP | spec::DECONFIGURE_AP, Some(ap)) => {
                match ap.set_configured((command >> 8) as u8, name == spec::CONFIGURE_AP) {
                    ApConfigured::Done => Response::Done,
                    ApConfigured::Already => Response::NoAction,
                    ApConfigured::Unknown => Response::UnknownResource,
                    ApConfigured::Refused => Response::ImproperState,
                }
            }
            _ => Response::InvalidCommand,
        }
    }

    /// Takes what a person typed at `console`, from any thread. What exceeds
    /// [`input_room`](Self::input_room) is dropped and counted.
    pub fn input(&self, console: Console, bytes: &[u8], post: &dyn Post) {
        if self.events.input(console, bytes) {
            post.post(Floating::ServiceSignal(1));
        }
    }

    /// How many bytes of input `console` has room for: stop reading the terminal at 0. In line mode, the
    /// event buffers around unread lines count too.
    pub fn input_room(&self, console: Console) -> usize {
        self.events.input_room(console)
    }

    /// How many bytes of input were dropped (in line mode, a line too many counts as one).
    pub fn dropped_input(&self) -> u64 {
        self.events.dropped()
    }

    /// Asks the guest to shut down (signal quiesce). The event stays pending until the guest reads it or
    /// is reset; true when the guest takes such events now.
    pub fn quiesce(&self, post: &dyn Post) -> bool {
        let (taken, tell) = self.events.quiesce();
        if tell {
            post.post(Floating::ServiceSignal(1));
        }
        taken
    }

    /// Subsystem reset: masks, pending events and unread input are gone.
    pub fn reset(&self) {
        self.events.reset();
    }
}

#[cfg(test)]
mod tests;
