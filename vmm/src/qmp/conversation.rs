//! A client's conversation without a socket, for fuzzing and measurements.

use std::time::Instant;

use ap::host::Watch;

use super::About;
use super::commands::{Metrics, Shared, Threads, post_ap_events, watch_ap};
use super::descriptors::Sets;
use super::session::Session;
use crate::board::Board;
use crate::metrics::Process;

/// One client of a board that nobody else serves.
pub struct Conversation<'a> {
    board: &'a Board,
    shared: Shared,
    session: Session,
    ap: Option<Watch>,
}

impl<'a> Conversation<'a> {
    /// The greeting is waiting to be read.
    pub fn new(board: &'a Board, about: About) -> Self {
        let (sets, metrics, since) = (Sets::default(), Metrics::default(), Instant::now());
        Self {
            board,
            shared: Shared {
                about,
                sets,
                metrics,
                since,
                threads: Threads::default(),
                process: Process::open(),
            },
            session: Session::new(),
            ap: watch_ap(board, Box::new(|| {})),
        }
    }

    /// Gives the client's bytes to the session as far as there is room for them; how many that were.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.session.room());
        self.session.input(&bytes[..count], Vec::new());
        self.serve();
        count
    }

    /// Takes what the client would be sent.
    pub fn read(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while !self.session.output().is_empty() {
            all.extend_from_slice(self.session.output());
            let count = self.session.output().len();
            self.session.written(count);
            self.serve();
        }
        all
    }

    /// Looks whether commands that take time have come to their end; false while one has not. The CPUs are let go, so that
    /// `stop` does not wait for those of a board that does not run.
    pub fn settle(&mut self) -> bool {
        self.board.release();
        self.serve();
        self.session.is_idle()
    }

    fn tell(&mut self) {
        post_ap_events(self.board, self.ap.as_ref());
        let (events, lost) = self.board.control.events().take();
        for (at, event) in events {
            let (name, data) = event.describe();
            self.session.event(at, name, data.as_ref(), &mut self.shared);
        }
        if lost > 0 {
            self.session.lost(lost, &mut self.shared);
        }
    }

    fn serve(&mut self) {
        self.tell();
        while let Some(reply) = self.session.advance(self.board, &mut self.shared) {
            self.tell();
            self.session.reply(reply, self.board, &mut self.shared);
        }
        self.tell();
    }
}
