//! `adjunct run` at a terminal.

use crate::guest::echo_kernel;
use crate::program;
use crate::tmux::{SIGNALS, Terminal, possible};

#[test]
fn keys() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    echo_kernel(directory.path());
    let kernel = directory.path().join("kernel");
    let line = format!("{} run --memory 1M --kernel {}", program::words().join(" "), kernel.display());
    let terminal = Terminal::open(80, 24);
    terminal.run(&format!("{line}; echo 'end' $?"));
    terminal.shows("hello from the guest");
    // Nothing that the name of a directory may have.
    terminal.keys(&["a", "+", "b", "C-c", "C-d", "c", "+", "d"]);
    let screen = terminal.shows("c+d");
    assert_eq!(screen.matches("a+b").count(), 1, "only the guest echoes:\n{screen}");
    terminal.keys(&["C-a", "h"]);
    terminal.shows("Ctrl-a x  end the run");
    terminal.keys(&["C-a", "x"]);
    terminal.shows("end 4");
    terminal.is_as_before("Ctrl-a x");
}

/// Also after SIGKILL, and with a guest that takes no notice of a wish to power off.
#[test]
fn the_terminal_afterwards() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    echo_kernel(directory.path());
    let kernel = directory.path().join("kernel");
    let line = format!(
        "{} run --memory 1M --shutdown-timeout 0 --kernel {}",
        program::words().join(" "),
        kernel.display()
    );
    let terminal = Terminal::open(80, 24);
    for (keys, text) in
        [(&[][..], "hello"), (&["x", "y", "z"], "xyz"), (&["Q", "C-a"], "Q"), (&["C-a", "h"], "send Ctrl-a")]
    {
        terminal.survives(&line, &SIGNALS, |terminal| {
            terminal.shows("hello from the guest");
            if !keys.is_empty() {
                terminal.keys(keys);
            }
            terminal.shows(text);
        });
    }
}
