//! `adjunct ctl SOCKET monitor` with a person.

use crate::guest::loops;
use crate::program;
use crate::tmux::{SIGNALS, Terminal, possible};

#[test]
fn a_conversation() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut guest = loops(directory.path(), &["--console", "none"]);
    let socket = directory.path().join("qmp");
    let line = format!("{} ctl {} monitor; echo 'end' $?", program::words().join(" "), socket.display());
    let terminal = Terminal::open(80, 24);
    terminal.run(&line);
    terminal.shows("adjunct>");
    terminal.tmux(&["send-keys", "-l", "query-stat"]);
    terminal.keys(&["Tab"]);
    terminal.shows("adjunct> query-status");
    terminal.keys(&["Enter"]);
    terminal.shows("status: running\nadjunct>");
    // An argument, and its values.
    terminal.tmux(&["send-keys", "-l", "device_add dri"]);
    terminal.keys(&["Tab"]);
    terminal.shows("adjunct> device_add driver=");
    terminal.keys(&["C-c"]);
    terminal.shows("driver=\nadjunct>");
    terminal.keys(&["Up"]);
    terminal.shows("driver=\nadjunct> query-status");
    // What somebody else does comes above the line, which stays.
    terminal.tmux(&["send-keys", "-l", "and"]);
    terminal.shows("adjunct> query-status and");
    let stopped = program::command().arg("ctl").arg(&socket).arg("stop").status().unwrap();
    assert!(stopped.success());
    let screen = terminal.shows("STOP\nadjunct> query-status and");
    assert!(screen.trim_end().ends_with("adjunct> query-status and"), "{screen}");
    terminal.keys(&["C-c"]);
    terminal.shows("and\nadjunct>");
    terminal.keys(&["C-d"]);
    terminal.shows("end 0");
    terminal.is_as_before("Ctrl-d");

    terminal.run("clear");
    terminal.shows_not("end ");
    terminal.run(&line);
    terminal.shows("adjunct>");
    guest.end();
    let screen = terminal.shows("end 0");
    assert!(screen.contains("adjunct: the guest has ended"), "{screen}");
    terminal.is_as_before("the guest's end");
}

#[test]
fn the_terminal_afterwards() {
    if !possible() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let _guest = loops(directory.path(), &["--console", "none"]);
    let socket = directory.path().join("qmp");
    let line = format!("{} ctl {} monitor", program::words().join(" "), socket.display());
    let terminal = Terminal::open(80, 24);
    // SIGINT is Ctrl-c.
    let ends: Vec<_> = SIGNALS.into_iter().filter(|(signal, _)| *signal != "INT").collect();
    for (typed, text) in
        [("", "adjunct>"), ("half a li", "half a li"), ("info status\r", "VM status: running\nadjunct>")]
    {
        terminal.survives(&line, &ends, |terminal| {
            terminal.shows("adjunct>");
            if !typed.is_empty() {
                terminal.tmux(&["send-keys", "-l", typed]);
            }
            terminal.shows(text);
        });
    }
}
