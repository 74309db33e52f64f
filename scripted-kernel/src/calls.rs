//! The functions of the C library that are replaced.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{FromRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libc::{c_char, c_int, c_uint, c_ulong, c_void};

use super::{CURRENT, Call, Event, Memory, SIZE, Shape, Shared};

/// Which descriptors are a script's. Looked at without a lock, as it is by children between fork and exec.
static OURS: [AtomicBool; 4096] = [const { AtomicBool::new(false) }; 4096];
/// Those descriptors.
static FILES: Mutex<BTreeMap<RawFd, Opened>> = Mutex::new(BTreeMap::new());

#[derive(Clone)]
struct Opened {
    script: Arc<Shared>,
    name: String,
    /// The same file by another number, which only this crate has.
    file: Arc<File>,
}

fn files() -> MutexGuard<'static, BTreeMap<RawFd, Opened>> {
    FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_ours(fd: RawFd) -> bool {
    usize::try_from(fd).ok().and_then(|fd| OURS.get(fd)).is_some_and(|ours| ours.load(Ordering::SeqCst))
}

fn refused(errno: c_int) -> c_int {
    // SAFETY: it is this thread's.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// A new file of `script`.
fn open_file(script: &Arc<Shared>, name: String) -> RawFd {
    let label = CString::new(name.as_str()).expect("a name has no zero");
    // SAFETY: the name is a string, the descriptors are new and checked.
    let (fd, file) = unsafe {
        let fd = libc::memfd_create(label.as_ptr(), libc::MFD_CLOEXEC);
        let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3);
        assert!(fd >= 0 && copy >= 0, "memory without a name in a file system");
        (fd, File::from_raw_fd(copy))
    };
    file.set_len(SIZE).expect("so much memory");
    script.lock().open.push(name.clone());
    files().insert(fd, Opened { script: script.clone(), name, file: Arc::new(file) });
    OURS[fd as usize].store(true, Ordering::SeqCst);
    fd
}

/// # Safety
/// `path` is a string that ends with zero.
unsafe fn open_path(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: as the caller says.
    let text = unsafe { CStr::from_ptr(path) }.to_str().unwrap_or_default();
    let script = CURRENT.try_with(|current| current.borrow().clone()).ok().flatten();
    if let Some(script) = script {
        let mut state = script.lock();
        if let Some(name) = state.answers.path(text) {
            let errno = state.note(Event::Open(name.clone()));
            drop(state);
            return errno.map_or_else(|| open_file(&script, name), refused);
        }
    }
    // SAFETY: as the caller says.
    unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) as c_int }
}

/// The C library's.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: as the caller says.
    unsafe { open_path(path, flags, mode) }
}

/// The C library's.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: as the caller says.
    unsafe { open_path(path, flags, mode) }
}

/// The C library's.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    if is_ours(fd) {
        OURS[fd as usize].store(false, Ordering::SeqCst);
        let closed = files().remove(&fd);
        if let Some(Opened { script, name, .. }) = closed {
            let mut state = script.lock();
            let at = state.open.iter().position(|open| *open == name).expect("it is open");
            state.open.remove(at);
            state.note(Event::Close(name));
        }
    }
    // SAFETY: whoever closes it has it.
    unsafe { libc::syscall(libc::SYS_close, fd) as c_int }
}

/// The C library's.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    let opened = if is_ours(fd) { files().get(&fd).cloned() } else { None };
    match opened {
        // SAFETY: as the caller says.
        Some(opened) => unsafe { answer(&opened, request as u32, argument) },
        // SAFETY: as the caller says.
        None => unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) as c_int },
    }
}

/// # Safety
/// `argument` is what the request takes.
unsafe fn answer(opened: &Opened, request: u32, argument: *mut c_void) -> c_int {
    let mut state = opened.script.lock();
    let pointer: *mut u8 = argument.cast();
    // SAFETY: the request takes a pointer to so many bytes, or to a string, or none.
    let bytes = unsafe {
        match state.answers.shape(request) {
            Shape::Value => (argument as u64).to_ne_bytes().to_vec(),
            Shape::Bytes(length) => std::slice::from_raw_parts(pointer, length).to_vec(),
            Shape::Argsz => {
                let length: u32 = ptr::read_unaligned(pointer.cast());
                std::slice::from_raw_parts(pointer, length as usize).to_vec()
            }
            Shape::Text => CStr::from_ptr(pointer.cast()).to_bytes().to_vec(),
        }
    };
    let call = Call { file: opened.name.clone(), request, argument: bytes };
    if let Some(errno) = state.note(Event::Ioctl(call.clone())) {
        return refused(errno);
    }
    let answer = state.answers.answer(&call, &Memory(&opened.file));
    drop(state);
    assert!(answer.argument.len() <= call.argument.len(), "an answer is no longer than the argument");
    // SAFETY: the request takes a pointer to at least so many bytes, which the kernel may write.
    unsafe { ptr::copy_nonoverlapping(answer.argument.as_ptr(), pointer, answer.argument.len()) };
    let Some(name) = answer.opens else {
        return if answer.result < 0 { refused(-answer.result) } else { answer.result };
    };
    let fd = open_file(&opened.script, name);
    let Some(offset) = answer.opens_into else { return fd };
    assert!(offset + 4 <= call.argument.len(), "the argument has room for a descriptor");
    // SAFETY: as above.
    unsafe { ptr::write_unaligned(pointer.add(offset).cast(), fd) };
    answer.result
}

/// An ioctl whose argument is a number.
#[cfg(test)]
pub fn try_ioctl(fd: RawFd, request: c_ulong, argument: usize) -> c_int {
    // SAFETY: of the files of tests no request takes a pointer.
    unsafe { libc::ioctl(fd, request, argument) }
}
