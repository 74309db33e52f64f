//! System calls that a test answers.
//!
//! A program that links this crate, which only tests do, has its own `open`, `close` and `ioctl` in place of the C
//! library's. What a [`Script`] has opened is the script's: it is told of each call, answers it, and writes it down.
//! Everything else goes on to the host's kernel. So the layer lies below every wrapper, our own and those of other
//! crates, and nothing in the product knows of it.
//!
//! * [`Script`]: the record, and which call is refused.
//! * [`Answers`]: what a test knows about requests: how long their arguments are, and what they give.
//!
//! A script holds for what the thread that made it opens; its files may be used by any.
#![deny(unsafe_code)]

mod calls;

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the argument of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A number.
    Value,
    /// Points to so many bytes.
    Bytes(usize),
    /// Points to a block whose first word says how long it is.
    Argsz,
    /// Points to a string that ends with zero.
    Text,
}

/// One ioctl, as the kernel sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it is asked of, by the name that it was opened with.
    pub file: String,
    /// The request.
    pub request: u32,
    /// What the argument points to, before the call; of a number its eight bytes.
    pub argument: Vec<u8>,
}

/// The answer to an ioctl.
#[derive(Debug, Default)]
pub struct Answer {
    /// What it returns; below 0 it is refused with that error number.
    pub result: i32,
    /// A file that it opens, which is the result.
    pub opens: Option<String>,
    /// Where in the argument the number of that file is written instead.
    pub opens_into: Option<usize>,
    /// Bytes written back into the argument, from its beginning.
    pub argument: Vec<u8>,
}

impl Answer {
    /// Returns `result`, or refuses with an error number below 0.
    pub fn result(result: i32) -> Self {
        Self { result, ..Self::default() }
    }

    /// Returns a new file with this name.
    pub fn opens(name: impl Into<String>) -> Self {
        Self { opens: Some(name.into()), ..Self::default() }
    }
}

/// What a test knows about the requests that it answers.
pub trait Answers: Send {
    /// The name of the file that is at this path; `None` goes on to the host's kernel.
    fn path(&mut self, path: &str) -> Option<String>;

    /// What the argument of a request is.
    fn shape(&self, request: u32) -> Shape;

    /// Answers a call. `memory` is what others map of the file.
    fn answer(&mut self, call: &Call, memory: &Memory<'_>) -> Answer;
}

/// What is behind a file of a script: bytes that can be mapped.
pub struct Memory<'a>(&'a File);

impl Memory<'_> {
    /// Changes bytes, also where they are mapped.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.0.write_all_at(bytes, offset).expect("there is room");
    }

    /// The bytes as they are.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, offset).expect("there is so much");
        bytes
    }
}

/// Something that was asked of a script's kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A path was opened, as this file.
    Open(String),
    /// An ioctl.
    Ioctl(Call),
    /// The last descriptor of a file was closed.
    Close(String),
}

struct State {
    answers: Box<dyn Answers>,
    events: Vec<Event>,
    refuse: Option<(usize, i32)>,
    open: Vec<String>,
}

/// Shared by a script and the files that it has opened.
struct Shared(Mutex<State>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes a call down. The error number if it is to be refused.
    fn note(&mut self, event: Event) -> Option<i32> {
        self.events.push(event);
        self.refuse.and_then(|(n, errno)| (n == self.events.len() - 1).then_some(errno))
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Shared>>> = const { RefCell::new(None) };
}

/// A kernel that answers as a test says, for what the thread that made it opens while it lives.
pub struct Script(Arc<Shared>);

impl Script {
    /// A kernel with nothing open.
    ///
    /// # Panics
    /// If the thread has one already.
    pub fn new(answers: impl Answers + 'static) -> Self {
        let (events, open) = (Vec::new(), Vec::new());
        let state = State { answers: Box::new(answers), events, refuse: None, open };
        let shared = Arc::new(Shared(Mutex::new(state)));
        let before = CURRENT.replace(Some(shared.clone()));
        assert!(before.is_none(), "a thread has one script at a time");
        Self(shared)
    }

    /// Refuses the opening or ioctl that comes as number `n`, counted from 0 through all events, with an error number.
    pub fn refuse(&self, n: usize, errno: i32) {
        self.0.lock().refuse = Some((n, errno));
    }

    /// What was asked so far, which is forgotten.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().events)
    }

    /// The names of what is open.
    pub fn open(&self) -> Vec<String> {
        self.0.lock().open.clone()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        CURRENT.take();
    }
}

/// `text` as bytes: hexadecimal digits in groups, each a member as it stands in storage of a big-endian machine. On a
/// little-endian one the bytes of each group are the other way round.
///
/// # Panics
/// For anything else.
pub fn block(text: &str) -> Vec<u8> {
    let group = |digits: &str| -> Vec<u8> {
        let byte = |n| u8::from_str_radix(&digits[n..n + 2], 16).expect("hexadecimal digits");
        let mut bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        if cfg!(target_endian = "little") {
            bytes.reverse();
        }
        bytes
    };
    text.split_whitespace().flat_map(group).collect()
}

/// Bytes that a file of a script holds, all zero at first.
const SIZE: u64 = 1 << 16;

/// The number of a descriptor, for the argument of a call.
pub fn number(file: &impl AsRawFd) -> String {
    format!("{:08x}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io;

    /// The device that each request but 1 is refused of.
    struct One;

    impl Answers for One {
        fn path(&mut self, path: &str) -> Option<String> {
            path.strip_prefix("/dev/one").map(|rest| format!("one{rest}"))
        }

        fn shape(&self, _: u32) -> Shape {
            Shape::Value
        }

        fn answer(&mut self, call: &Call, _: &Memory<'_>) -> Answer {
            Answer::result(if call.request == 1 { 7 } else { -libc::ENOTTY })
        }
    }

    fn ioctl(file: &File, request: u64) -> io::Result<i32> {
        match calls::try_ioctl(file.as_raw_fd(), request, 5) {
            result if result < 0 => Err(io::Error::last_os_error()),
            result => Ok(result),
        }
    }

    #[test]
    fn only_what_a_script_opened_is_its() {
        let open = |path: &str| OpenOptions::new().read(true).write(true).open(path);
        assert_eq!(open("/dev/one").unwrap_err().raw_os_error(), Some(libc::ENOENT));
        let script = Script::new(One);
        let (one, null) = (open("/dev/one").unwrap(), open("/dev/null").unwrap());
        assert_eq!(ioctl(&one, 1).unwrap(), 7);
        assert_eq!(ioctl(&one, 2).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert!(ioctl(&null, 1).is_err());
        assert_eq!(script.open(), ["one"]);
        // Others do not know of it, but may use and close what it has opened.
        let closed = std::thread::spawn(move || {
            assert!(OpenOptions::new().read(true).open("/dev/one").is_err());
            ioctl(&one, 1).unwrap();
        });
        closed.join().unwrap();
        drop(null);
        let call = |request| {
            let argument = 5u64.to_ne_bytes().to_vec();
            Event::Ioctl(Call { file: "one".into(), request, argument })
        };
        let want = [Event::Open("one".into()), call(1), call(2), call(1), Event::Close("one".into())];
        assert_eq!((script.take(), script.open()), (want.to_vec(), Vec::new()));

        script.refuse(1, libc::EINTR);
        let one = open("/dev/one2").unwrap();
        assert_eq!(ioctl(&one, 1).unwrap_err().raw_os_error(), Some(libc::EINTR));
        script.take();
        script.refuse(0, libc::EBUSY);
        assert_eq!(open("/dev/one3").unwrap_err().raw_os_error(), Some(libc::EBUSY));
        drop(script);
        assert!(open("/dev/one").is_err());
        assert_eq!(ioctl(&one, 1).unwrap(), 7, "a file outlives its script");
    }

    #[test]
    fn blocks() {
        let want: [u8; 7] =
            if cfg!(target_endian = "big") { [1, 2, 3, 4, 5, 6, 7] } else { [4, 3, 2, 1, 6, 5, 7] };
        assert_eq!(block("01020304 0506  07"), want);
    }
}
