//! The guest's console: output that never blocks a CPU, and the escape keys in what a person types.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sclp::ConsoleSink;

use crate::sandbox::{Kind, enter_thread};

/// Bytes kept for a reader that is slower than the guest.
const CAPACITY: usize = 4 << 20;
/// Room kept for the announcement of a loss.
const NOTICE: usize = 80;
/// Bytes written at once.
const CHUNK: usize = 1 << 16;

/// Console output: a ring of fixed size that a thread of its own writes out. What does not fit is
/// dropped, counted, and announced in the stream at the place where it is missing.
pub struct Output {
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// What was dropped behind this, by who shows it.
    lost: OnceLock<Arc<AtomicU64>>,
}

#[derive(Default)]
struct State {
    ring: VecDeque<u8>,
    counts: Counts,
    /// Dropped since the last announcement.
    dropped: u64,
    /// The writer holds bytes that it has not written yet.
    writing: bool,
    /// The reader has gone; nothing is written any more.
    broken: bool,
    /// The writer is to end when everything is written.
    closed: bool,
}

/// What became of console output.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Bytes that the guest wrote.
    pub(crate) written: u64,
    /// Those of them that were dropped, for each viewer that did not see them.
    pub(crate) dropped: u64,
}

impl Output {
    /// Output to `to`.
    pub fn new(to: Box<dyn Write + Send>) -> io::Result<Arc<Self>> {
        Self::with_capacity(to, CAPACITY)
    }

    fn with_capacity(to: Box<dyn Write + Send>, capacity: usize) -> io::Result<Arc<Self>> {
        let (state, changed, lost) = (Mutex::default(), Condvar::new(), OnceLock::new());
        let output = Arc::new(Self { capacity, state, changed, lost });
        let writer = output.clone();
        std::thread::Builder::new().name("console".into()).spawn(move || {
            enter_thread(Kind::Console);
            writer.write_out(to);
        })?;
        Ok(output)
    }

    /// What became of the output so far.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.state().counts;
        counts.dropped += self.lost.get().map_or(0, |lost| lost.load(Ordering::Relaxed));
        counts
    }

    /// Counts what is dropped by who shows the output, too.
    pub(crate) fn count_also(&self, lost: Arc<AtomicU64>) {
        // There is one such, for a whole run.
        let _ = self.lost.set(lost);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_out(&self, mut to: Box<dyn Write + Send>) {
        let mut chunk = Vec::with_capacity(CHUNK);
        loop {
            chunk.clear();
            {
                let mut state = self.state();
                state.writing = false;
                self.changed.notify_all();
                while state.ring.is_empty() && state.dropped == 0 {
                    if state.closed {
                        return;
                    }
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                let length = state.ring.len().min(CHUNK);
                chunk.extend(state.ring.drain(..length));
                if state.ring.is_empty() && state.dropped > 0 {
                    chunk.extend(notice(std::mem::take(&mut state.dropped)));
                }
                state.writing = true;
            }
            if let Err(e) = to.write_all(&chunk).and_then(|()| to.flush()) {
                log::warn!("write console output: {e}; output is discarded from here on");
                let mut state = self.state();
                (state.broken, state.writing) = (true, false);
                state.ring = VecDeque::new();
                self.changed.notify_all();
                return;
            }
        }
    }

    /// Waits until everything is written, as long as `patience` at most. False when something is left.
    pub fn flush(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        while !state.broken && (state.writing || !state.ring.is_empty() || state.dropped > 0) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Lets the writer end once everything is written.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }
}

impl ConsoleSink for Output {
    fn write(&self, bytes: &[u8]) {
        let mut state = self.state();
        let length = bytes.len() as u64;
        state.counts.written += length;
        if state.broken {
            state.counts.dropped += length;
            return;
        }
        let mut room = self.capacity.saturating_sub(state.ring.len());
        if state.dropped > 0 {
            if room < bytes.len().min(self.capacity / 2) + NOTICE {
                state.dropped += length;
                state.counts.dropped += length;
                return;
            }
            let notice = notice(std::mem::take(&mut state.dropped));
            room -= notice.len();
            state.ring.extend(notice);
        }
        let fits = bytes.len().min(room);
        state.ring.extend(&bytes[..fits]);
        state.dropped += length - fits as u64;
        state.counts.dropped += length - fits as u64;
        drop(state);
        self.changed.notify_all();
    }
}

pub(crate) fn notice(dropped: u64) -> Vec<u8> {
    let text = format!("\r\n[adjunct: {dropped} bytes of console output dropped]\r\n").into_bytes();
    debug_assert!(text.len() <= NOTICE);
    text
}

/// What a person at the terminal asks the VMM itself to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EscapeAction {
    /// Ctrl-a x: end the run.
    Quit,
    /// Ctrl-a h: show the keys.
    Help,
    /// Ctrl-a p: ask the guest to power off.
    PowerDown,
}

/// Finds the escape keys in typed input. Ctrl-a a is Ctrl-a itself; an unknown key after Ctrl-a is
/// swallowed with it.
#[derive(Debug, Default)]
pub struct Escapes {
    pending: bool,
}

const CTRL_A: u8 = 1;

impl Escapes {
    /// What [`EscapeAction::Help`] shows.
    pub const HELP: &str = "\
Ctrl-a h  this help
Ctrl-a x  end the run
Ctrl-a p  ask the guest to power off
Ctrl-a a  send Ctrl-a
";

    /// Splits `typed` into the bytes for the guest and the actions.
    pub fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, Vec<EscapeAction>) {
        let (mut bytes, mut actions) = (Vec::with_capacity(typed.len()), Vec::new());
        for &byte in typed {
            if !std::mem::take(&mut self.pending) {
                if byte == CTRL_A {
                    self.pending = true;
                } else {
                    bytes.push(byte);
                }
                continue;
            }
            match byte {
                b'a' | CTRL_A => bytes.push(CTRL_A),
                b'x' => actions.push(EscapeAction::Quit),
                b'h' | b'?' => actions.push(EscapeAction::Help),
                b'p' => actions.push(EscapeAction::PowerDown),
                _ => {}
            }
        }
        (bytes, actions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(120);

    /// A reader that takes what it is sent, one write each time the test allows it.
    struct Reader {
        go: mpsc::Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.go.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.taken.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn output(capacity: usize) -> (Arc<Output>, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (allow, go) = mpsc::channel();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let reader = Reader { go, taken: taken.clone() };
        (Output::with_capacity(Box::new(reader), capacity).unwrap(), allow, taken)
    }

    fn until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "waited in vain");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_blocked_reader_loses_bytes_and_is_told_where() {
        let (output, allow, taken) = output(200);
        output.write(b"first ");
        until(|| output.state().writing);
        output.write(&[b'x'; 150]);
        output.write(&[b'y'; 60]); // 50 fit
        output.write(b"lost");
        assert_eq!(output.state().dropped, 14);
        assert!(!output.flush(Duration::from_millis(1)));

        for _ in 0..3 {
            allow.send(()).unwrap();
        }
        assert!(output.flush(PATIENCE));
        output.write(b"last");
        assert!(output.flush(PATIENCE));
        let text = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        let (x, y) = ("x".repeat(150), "y".repeat(50));
        assert_eq!(text, format!("first {x}{y}\r\n[adjunct: 14 bytes of console output dropped]\r\nlast"));
    }

    #[test]
    fn a_loss_is_announced_before_what_follows_it() {
        let (output, allow, taken) = output(200);
        output.write(b"1");
        until(|| output.state().writing);
        output.write(&[b'2'; 201]);
        output.state().ring.drain(..150); // the reader catches up without emptying the ring
        output.write(b"3");
        for _ in 0..2 {
            allow.send(()).unwrap();
        }
        assert!(output.flush(PATIENCE));
        let text = String::from_utf8(taken.lock().unwrap().clone()).unwrap();
        assert!(text.ends_with("22\r\n[adjunct: 1 bytes of console output dropped]\r\n3"), "{text}");
    }

    #[test]
    fn a_reader_that_has_gone_costs_nothing() {
        let (output, allow, _) = output(200);
        drop(allow);
        output.write(b"x");
        until(|| output.state().broken);
        output.write(&[0; 1000]);
        assert!(output.flush(Duration::ZERO) && output.state().ring.is_empty());
    }

    #[test]
    fn escape_keys() {
        use EscapeAction::*;
        for (typed, bytes, actions) in [
            (&["ls\r"][..], "ls\r", &[][..]),
            (&["a\x01xb"], "ab", &[Quit]),
            (&["\x01", "h", "\x01p"], "", &[Help, PowerDown]),
            (&["\x01a\x01\x01"], "\x01\x01", &[]),
            (&["\x01zq"], "q", &[]),
        ] {
            let mut escapes = Escapes::default();
            let (mut got, mut did) = (Vec::new(), Vec::new());
            for part in typed {
                let (b, a) = escapes.feed(part.as_bytes());
                got.extend(b);
                did.extend(a);
            }
            assert_eq!((got.as_slice(), did.as_slice()), (bytes.as_bytes(), actions), "{typed:?}");
        }
    }
}
