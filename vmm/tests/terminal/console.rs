//! `adjunct console` and `adjunct ctl SOCKET console`.

use std::path::Path;
use std::process::Stdio;

use crate::guest::{echoes, loops};
use crate::program;
use crate::tmux::{SIGNALS, Terminal, possible};

fn console(directory: &Path) -> String {
    format!("{} console {}", program::words().join(" "), directory.join("c").display())
}

fn ctl(directory: &Path, words: &str) -> String {
    format!("{} ctl {} {words}", program::words().join(" "), directory.join("qmp").display())
}

/// What the guest says is seen, what is typed goes there once, Ctrl-] leaves, and the guest's end is the end.
#[test]
fn watching_and_typing() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for target in ["unix:c", "pty"] {
        let mut guest = echoes(directory.path(), &["--console", target]);
        let lines = [
            console(directory.path()),
            ctl(directory.path(), "console"),
            ctl(directory.path(), "console console"),
        ];
        for (line, word) in lines.iter().zip(["one", "two", "three"]).skip(usize::from(target == "pty")) {
            let terminal = Terminal::open(80, 24);
            terminal.run(&format!("{line}; echo 'end' $?"));
            terminal.shows("[adjunct: connected; Ctrl-] ends]");
            // Others' words are shown, too.
            terminal.tmux(&["send-keys", "-l", word]);
            terminal.keys(&["C-c", "C-a", "."]);
            let screen = terminal.shows(&format!("{word}."));
            assert_eq!(screen.matches(word).count(), 1, "only the guest echoes:\n{screen}");
            terminal.keys(&["C-]"]);
            terminal.shows("end 0");
            terminal.is_as_before("Ctrl-]");
        }
        let terminal = Terminal::open(80, 24);
        terminal.run(&format!("{}; echo 'end' $?", ctl(directory.path(), "console")));
        terminal.shows("connected");
        guest.end();
        terminal.shows("end 0");
        terminal.is_as_before("the guest's end");
    }
}

/// However it is ended, and whatever the guest does.
#[test]
fn the_terminal_afterwards() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let _guest = echoes(directory.path(), &["--console", "unix:c"]);
    let terminal = Terminal::open(80, 24);
    terminal.survives(&console(directory.path()), &SIGNALS, |terminal| {
        terminal.shows("hello from the guest");
    });
    terminal.survives(&ctl(directory.path(), "console"), &SIGNALS, |terminal| {
        terminal.shows("connected");
        terminal.keys(&["x", "y", "z"]);
        terminal.shows("xyz");
    });
    let stopped =
        program::command().arg("ctl").arg(directory.path().join("qmp")).arg("stop").status().unwrap();
    assert!(stopped.success());
    terminal.survives(&console(directory.path()), &SIGNALS, |terminal| {
        terminal.shows("connected");
        terminal.keys(&["t", "y", "p", "e", "d"]);
    });
}

/// A guest that takes no input fills what there is for it; the key still leaves.
#[test]
fn a_guest_that_takes_nothing() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let _guest = loops(directory.path(), &["--console", "unix:c"]);
    // More than the socket, the guest's buffer and the program itself keep.
    let mut child = program::command();
    child.arg("console").arg(directory.path().join("c")).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = crate::tmux::Process(child.spawn().unwrap());
    let mut pipe = child.0.stdin.take().unwrap();
    std::thread::spawn(move || while std::io::Write::write_all(&mut pipe, &[b'x'; 4096]).is_ok() {});
    let terminal = Terminal::open(80, 24);
    let file = directory.path().join("much");
    std::fs::write(&file, "x".repeat(1 << 20)).unwrap();
    terminal.run(&format!("{}; echo 'end' $?", console(directory.path())));
    terminal.shows("connected");
    terminal.tmux(&["load-buffer", file.to_str().unwrap()]);
    terminal.tmux(&["paste-buffer"]);
    terminal.keys(&["C-]"]);
    terminal.shows("end 0");
    terminal.is_as_before("a full guest");
}

/// A console that nobody can attach to, with the remedy.
#[test]
fn none_to_attach_to() {
    let directory = tempfile::tempdir().unwrap();
    for (target, known) in [("none", "console is null"), ("file=f", "console is file")] {
        let mut guest = loops(directory.path(), &["--console", target]);
        for (words, status) in
            [(&["console"][..], 1), (&["console", "other"], 1), (&["console", "a", "b"], 2)]
        {
            let mut command = program::command();
            let output = command.arg("ctl").arg(directory.path().join("qmp")).args(words).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(status), "{error}");
            assert!(status == 2 || error.contains(known) && error.contains("--console unix:PATH"), "{error}");
        }
        guest.end();
    }
}
