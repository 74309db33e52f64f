//! Guests for those who look at guests.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use crate::program;
use crate::tmux::{Process, wait};

/// A guest that loops, below `directory`, which gets its management socket `qmp`.
pub fn loops(directory: &Path, words: &[&str]) -> Process {
    kernel(directory, &[(0x200, &[0xa7, 0xf4, 0, 0])]);
    start(directory, words)
}

/// A guest that says hello and then sends back what is typed.
pub fn echoes(directory: &Path, words: &[&str]) -> Process {
    echo_kernel(directory);
    start(directory, words)
}

fn start(directory: &Path, words: &[&str]) -> Process {
    let mut command = program::command();
    command.current_dir(directory).args(["run", "--kernel", "kernel", "--memory", "1M", "--qmp", "unix:qmp"]);
    let process = Process(command.args(words).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait(|| UnixStream::connect(directory.join("qmp")).ok(), || "the guest does not start".into());
    process
}

/// The kernel of [`echoes`], called `kernel`.
pub fn echo_kernel(directory: &Path) {
    /// Where SCCBs are: the event mask, hello, and what is read; and the header of the last as it is at first.
    const MASK: u32 = 0x4000;
    const HELLO: u32 = 0x5000;
    const READ: u32 = 0x6000;
    const HEADER: u32 = 0x5f00;
    let lgfi = |r: u8, value: u32| [&[0xc0, r << 4 | 1][..], &value.to_be_bytes()].concat();
    // SERVICE CALL, command in register 2, SCCB in register 3.
    let call =
        |command: u32, sccb: u32| [lgfi(2, command), lgfi(3, sccb), vec![0xb2, 0x20, 0x00, 0x23]].concat();
    let half = |n: usize| (n as u16).to_be_bytes();
    let hello = b"hello from the guest\r\n";
    // VT220 messages (type 1a) both ways.
    let mask = [0, 0, 0, 4, 0, 0, 0, 0x40, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0];
    let begin = [call(0x0078_0005, MASK), call(0x0076_0005, HELLO), lgfi(5, HEADER)].concat();
    let read = [
        // MVC of the header; read event data; CLHHSI of the response code with 0020.
        &[0xd2, 0x07, 0x51, 0x00, 0x50, 0x00][..],
        &call(0x0077_0005, READ),
        &[0xe5, 0x55, 0x51, 0x06, 0x00, 0x20],
    ]
    .concat();
    let back = |bytes: usize| (bytes as i16 / -2).to_be_bytes();
    let write = [
        // LH of the event's length, AHI 8, STH as the block's; MVI to the header's flag.
        &[0x48, 0x70, 0x51, 0x08, 0xa7, 0x7a, 0x00, 0x08, 0x40, 0x70, 0x51, 0x00, 0x92, 0x00, 0x51, 0x05][..],
        &call(0x0076_0005, READ),
    ]
    .concat();
    let code = [
        &begin[..],
        &read,
        &[0xa7, 0x74],
        &back(read.len()),
        &write,
        &[0xa7, 0xf4],
        &back(read.len() + 4 + write.len()),
    ]
    .concat();
    let sccb = |body: &[u8]| [&half(8 + body.len())[..], &[0; 6], body].concat();
    let event = [&half(6 + hello.len())[..], &[0x1a, 0, 0, 0], hello].concat();
    kernel(
        directory,
        &[
            (0x200, &code),
            (MASK as usize, &sccb(&mask)),
            (HELLO as usize, &sccb(&event)),
            // 4 KiB, of which only what there is need be used.
            (HEADER as usize, &[0x10, 0, 0, 0, 0, 0x80, 0, 0]),
        ],
    );
}

fn kernel(directory: &Path, parts: &[(usize, &[u8])]) {
    let mut image = vec![0; 0x7000];
    image[..8].copy_from_slice(&0x0008_0000_8000_0200u64.to_be_bytes());
    for (at, bytes) in parts {
        image[*at..][..bytes.len()].copy_from_slice(bytes);
    }
    std::fs::write(directory.join("kernel"), image).unwrap();
}
