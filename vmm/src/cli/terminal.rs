//! What programs that take the terminal have in common: how signals end them, and their guard.

use std::thread;
use std::time::{Duration, Instant};

use vmm::host::{Signals, restore_terminal, start_guard};

/// Exit status after a signal.
pub const SIGNALLED: u8 = 4;
/// How long the main thread may take to end by itself after a signal, and how long the terminal to take its settings.
const GRACE: Duration = Duration::from_secs(1);

/// Has a second process give the terminal back should this one be killed outright.
pub fn guarded(screen: bool) {
    if let Err(e) = start_guard(screen) {
        // Behind what runs programs of another architecture, for one.
        log::info!("nothing gives the terminal back after SIGKILL: {e}");
    }
}

/// Has a thread wait for a signal and then call `tell`. Where that answers true the process ends by itself; should it not, as
/// with a terminal that takes nothing, or where it answers false, the thread gives the terminal back and ends the process.
pub fn on_signal(signals: Signals, tell: impl FnOnce() -> bool + Send + 'static) -> std::io::Result<()> {
    let wait = move || {
        while signals.wait().is_err() {
            thread::sleep(GRACE);
        }
        if tell() {
            thread::sleep(GRACE);
        }
        // Writing may wait for ever; the settings come before it.
        if let Ok(restoring) = thread::Builder::new().spawn(restore_terminal) {
            let end = Instant::now() + GRACE;
            while !restoring.is_finished() && Instant::now() < end {
                thread::sleep(Duration::from_millis(5));
            }
        }
        std::process::exit(SIGNALLED.into());
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}
