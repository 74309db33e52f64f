//! The events of a daemon's host, for a program that goes on when it was too slow for them.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::client::{Client, Events, RemoteError};
use super::protocol::LineError;
use crate::host::Teller;

/// How often it is looked whether somebody still watches, and how long until the next connection.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tells `to` the events of the daemon at the socket `path`, beginning with those of `first`, until nobody watches any more or
/// `over` says so. Events are taken as fast as they come, however slow the watcher is. A connection that ends all the same, as
/// that of a program does which was stopped for a while, is followed by another, and the watcher is told that events are
/// missing.
pub fn follow(path: &Path, first: Option<Events>, to: &Teller, over: impl Fn() -> bool) {
    let mut connection = first;
    loop {
        if let Some(mut events) = connection.take() {
            match pass_on(&mut events, to, &over) {
                Ok(()) => return,
                Err(error) => log::info!("AP events: {error}; connecting again"),
            }
            if !to.lost() {
                return;
            }
        }
        std::thread::sleep(LOOK_EVERY);
        if over() || !to.is_watched() {
            return;
        }
        match Client::connect(path).and_then(Client::subscribe) {
            // Once more: there may have been events since the last word.
            Ok(events) if to.lost() => connection = Some(events),
            Ok(_) => return,
            Err(error) => log::debug!("AP events: {error}"),
        }
    }
}

/// Until nobody watches, or it is over. An error: the connection has ended.
fn pass_on(events: &mut Events, to: &Teller, over: &impl Fn() -> bool) -> Result<(), RemoteError> {
    events.look_up_every(LOOK_EVERY)?;
    while !over() && to.is_watched() {
        match events.next() {
            Some(Ok(event)) => drop(to.tell(event)),
            Some(Err(RemoteError::Broken(LineError::Io(error)))) if is_timeout(&error) => {}
            Some(Err(error)) => return Err(error),
            None => return Err(RemoteError::Closed),
        }
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
