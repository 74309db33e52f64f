//! `adjunct top` in a real terminal, tmux's: what is on the screen after given keys, and what is left behind after its end.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use ap::host::remote::Client;
use ap::host::{Attribute, Operation};
use tempfile::TempDir;
use uuid::Uuid;

use crate::guest::loops;
use crate::program;
use crate::tmux::{Process, SIGNALS, Terminal, possible, wait};

/// The first guest of the built-in description, which has adapters 05 and 06.
const ONE: Uuid = Uuid::from_u128(0x62177883_f1bb_47f0_914d_32a22e3a8804);

/// `adjunct ap-host serve`.
struct Daemon {
    process: Process,
    directory: TempDir,
}

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = Self::serve(&directory.path().join("ap"));
        let daemon = Self { process, directory };
        wait(|| UnixStream::connect(daemon.socket()).ok(), || "the daemon does not start".into());
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("ap")
    }

    fn serve(socket: &Path) -> Process {
        let mut command = program::command();
        command.args(["ap-host", "serve", "--socket"]).arg(socket);
        Process(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

fn top(daemon: &Daemon) -> String {
    format!("{} top unix:{}", program::words().join(" "), daemon.socket().display())
}

/// What the last line of a whole frame has, by default.
const LAST: &str = "end: q";

/// Waits until what happens on the host is seen, for which there is a connection that may come a little after the first frame.
fn until_watched(daemon: &Daemon, terminal: &Terminal) {
    let mut client = Client::connect(&daemon.socket()).unwrap();
    let domain = || "5".to_owned();
    let change = || {
        for attribute in
            [Attribute::AssignControlDomain(domain()), Attribute::UnassignControlDomain(domain())]
        {
            client.execute(&Operation::Write { mdev: ONE, attribute }).unwrap();
        }
        terminal.screen().contains("unassign_control_domain").then_some(())
    };
    wait(change, || terminal.screen());
}

/// Keys to what is on the screen and done on the host, at two sizes.
#[test]
fn plugging_and_unplugging() {
    if !possible() {
        return;
    }
    for (columns, lines) in [(80, 24), (132, 43)] {
        let (daemon, terminal) = (Daemon::start(), Terminal::open(columns, lines));
        terminal.run(&top(&daemon));
        let parts = ["05 CEX8C [a] o  a  o", "> 62177883-f1bb-47f0-914d-32a22e3a8804", LAST];
        let screen = terminal.shows_all(&parts);
        assert!(screen.lines().nth(usize::from(lines) - 1).unwrap().starts_with("plug: a d c b"), "{screen}");
        until_watched(&daemon, &terminal);
        terminal.keys(&["Down", "Down", "Right"]);
        terminal.shows("0a CEX8P  . [o]");
        terminal.keys(&["Left", "a"]);
        terminal.shows("Do this?");
        let line = "--adapter 0xa";
        terminal.shows_all(&["+ 0a.0004 0a.00ab", line]);
        let mut client = Client::connect(&daemon.socket()).unwrap();
        let has = |client: &mut Client| client.snapshot().unwrap().mdev(ONE).unwrap().matrix.apm.test(10);
        assert!(!has(&mut client), "it was done before it was confirmed");
        terminal.keys(&["n"]);
        // The last of it: the plan that comes next is not to be taken for this one.
        terminal.shows_not("+ 0a.0004");
        terminal.keys(&["a"]);
        terminal.shows("+ 0a.0004");
        terminal.keys(&["y"]);
        terminal.shows("0a CEX8P [a] o  a");
        terminal.shows("mdev 62177883 guest matrix: +0a.0004 +0a.00ab");
        terminal.shows("done: adjunct ap --host unix:");
        assert!(has(&mut client));

        // Somebody else's doing is seen, too.
        let attribute = Attribute::UnassignAdapter("0xa".into());
        client.execute(&Operation::Write { mdev: ONE, attribute }).unwrap();
        terminal.shows("guest matrix: -0a.0004 -0a.00ab");
        terminal.shows("0a CEX8P [.]");
        terminal.keys(&["Right", "d"]);
        terminal.shows_all(&["This would be refused", "refused with EADDRINUSE"]);
        terminal.keys(&["y", "Escape"]);
        terminal.shows_not("refused");
        terminal.keys(&["?"]);
        terminal.shows("Shift-Tab");
        terminal.keys(&["q"]);
        terminal.shows_not("Shift-Tab");

        // The other size, and smaller than there is anything to show.
        let resize = |columns: u16, lines: u16| {
            terminal.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &lines.to_string()]);
        };
        resize(30, 10);
        terminal.shows("30x10 is too small");
        resize(lines * 3, columns / 3);
        terminal.shows(LAST);
        terminal.keys(&["q"]);
        terminal.shows_not(LAST);
        terminal.run("echo status $?");
        terminal.shows("status 0");
    }
}

/// However it ends and in whatever state: the terminal is as before.
#[test]
fn the_terminal_afterwards() {
    if !possible() {
        return;
    }
    let daemon = Daemon::start();
    let terminal = Terminal::open(80, 24);
    for (key, text) in [("", "what happened"), ("A", "Do this?"), ("?", "Shift-Tab")] {
        terminal.survives(&top(&daemon), &SIGNALS, |terminal| {
            terminal.shows("what happened");
            if !key.is_empty() {
                terminal.keys(&[key]);
            }
            terminal.shows(text);
        });
    }
    // Ctrl-c is a key.
    terminal.run(&format!("{}; echo 'end'0 $?", top(&daemon)));
    terminal.shows("what happened");
    terminal.keys(&["C-c"]);
    terminal.shows("end0 0");
    terminal.is_as_before("Ctrl-c");
}

/// The end of the daemon is told, and a new one is found.
#[test]
fn a_daemon_that_ends() {
    if !possible() {
        return;
    }
    let mut daemon = Daemon::start();
    let terminal = Terminal::open(80, 24);
    terminal.run(&format!("{} --interval 0.2", top(&daemon)));
    terminal.shows("05 CEX8C [a]");
    daemon.process.end();
    terminal.shows("no connection, trying again");
    daemon.process = Daemon::serve(&daemon.socket());
    terminal.shows_not("no connection");
    terminal.keys(&["q"]);
    terminal.shows("ready");
}

/// Without colours nothing is coloured, and a terminal that knows no places gets pages.
#[test]
fn plain_terminals() {
    if !possible() {
        return;
    }
    let daemon = Daemon::start();
    let terminal = Terminal::open(80, 24);
    // Foreground colours, not the terminal's own.
    let coloured = |screen: &str| {
        let codes = screen.split("\x1b[").skip(1).filter_map(|rest| rest.split_once('m'));
        let mut numbers = codes.flat_map(|(code, _)| code.split(';'));
        numbers.any(|n| n.parse::<u8>().is_ok_and(|n| (30..39).contains(&n) || (90..98).contains(&n)))
    };
    for (words, colours) in [("", true), ("NO_COLOR=1 ", false), ("NO_COLOR= ", true)] {
        terminal.run(&format!("{words}{}", top(&daemon)));
        terminal.shows_all(&["05 CEX8C [a]", LAST]);
        assert_eq!(coloured(&terminal.tmux(&["capture-pane", "-p", "-e"])), colours, "{words}");
        terminal.keys(&["q"]);
        terminal.shows_not(LAST);
    }
    terminal.run(&format!("TERM=dumb {} | cat", top(&daemon).replace(" top ", " top --interval 0.2 ")));
    terminal.shows("--once prints one frame");
    terminal.run(&format!("TERM=dumb {}", top(&daemon)));
    terminal.shows_all(&["05 CEX8C [a]", LAST]);
    terminal.keys(&["A"]);
    let screen = terminal.shows_all(&["Do this?", "+---"]);
    assert!(screen.is_ascii(), "{screen}");
    assert!(!coloured(&terminal.tmux(&["capture-pane", "-p", "-e"])));
    assert!(terminal.settings().starts_with("0 1 "), "no other screen, and a cursor");
    terminal.keys(&["n", "q"]);
    terminal.is_as_before("TERM=dumb");
}

/// The same of a guest that has its AP host to itself.
#[test]
fn a_guest() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = loops(directory.path(), &["--console", "none", "--ap-mdev", &ONE.to_string()]);
    let socket = directory.path().join("qmp");
    let once = |keys: &str| {
        let mut command = program::command();
        command.arg("top").arg(&socket).args(["--once", "--interval", "0.1", "--press", keys]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = once("");
    assert!(text.contains("05 CEX8C [#] o  #  o") && text.contains("1 in use"), "{text}");
    assert!(text.contains("> 62177883-f1bb-47f0-914d-32a22e3a8804 +"), "{text}");
    assert!(text.contains("05.0004 CEX8C vfio_ap   in use          0.0       0     8        -"), "{text}");
    let text = once("Down Down a");
    assert!(text.contains("the guest of mdev 62177883") && text.contains("+ 0a.0004 0a.00ab"), "{text}");
    let text = once("Down Down a y");
    assert!(text.contains("done: ") && text.contains("0a CEX8P [#]"), "{text}");
    let text = once("Down Down a y B y");
    let place = format!("done: adjunct ap --guest unix:{}", socket.display());
    assert!(text.contains(&format!("{place} unbind 0a.0004")), "{text}");
    assert!(text.contains("0a.0004 this device's, not plugged, no driver"), "{text}");
    let text = once("Down Down b y");
    assert!(text.contains(&format!("{place} bind 0a.0004")) && text.contains("0a CEX8P [#]"), "{text}");
    if possible() {
        let terminal = Terminal::open(80, 24);
        terminal.run(&format!("{} top {}", program::words().join(" "), socket.display()));
        terminal.shows("0a CEX8P  #");
        // Again until it has asked for events.
        let change = || {
            for command in ["x-ap-assign-adapter", "x-ap-unassign-adapter"] {
                let mut ctl = program::command();
                let output = ctl.arg("ctl").arg(&socket).args([command, "adapter=10"]).output().unwrap();
                assert!(output.status.success(), "{output:?}");
            }
            terminal.screen().contains("guest matrix: -0a.0004").then_some(())
        };
        wait(change, || terminal.screen());
        terminal.shows("mdev 62177883 guest matrix: -0a.0004 -0a.00ab");
        terminal.shows("0a CEX8P  .");
        terminal.keys(&["A"]);
        terminal.shows("reset, with loss of what is on them: 05.0004 (0 pending)");
        terminal.keys(&["y"]);
        terminal.shows("05 CEX8C [.] o  .");
        process.end();
        terminal.shows("no connection, trying again");
        terminal.keys(&["q"]);
        terminal.shows("ready");
    }
}

/// The pictures of `docs/operate.md` show what the program shows. With `ADJUNCT_PICTURES=write` they are made anew.
#[test]
fn pictures_of_the_documents() {
    let daemon = Daemon::start();
    let words = ["--console", "none", "--ap-host", "unix:ap", "--ap-mdev", &ONE.to_string()];
    let _guest = loops(daemon.directory.path(), &words);
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pictures");
    for (name, keys) in [("top", "Down"), ("top-plan", "Down Down a"), ("top-refused", "Down Down Right d")] {
        let mut command = program::command();
        command
            .current_dir(daemon.directory.path())
            .args(["top", "unix:ap", "--once", "--svg", "--press", keys]);
        let output = command.args(["--interval", "0.2"]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let (now, path) =
            (String::from_utf8(output.stdout).unwrap(), pictures.join(name).with_extension("svg"));
        if std::env::var_os("ADJUNCT_PICTURES").is_some_and(|what| what == "write") {
            std::fs::write(&path, &now).unwrap();
        }
        let document = std::fs::read_to_string(&path).unwrap();
        let differs = document.lines().zip(now.lines()).find(|(document, now)| document != now);
        assert!(
            document == now,
            "{name}.svg: {differs:?}; `ADJUNCT_PICTURES=write cargo test -p vmm --test terminal pictures` makes it anew"
        );
    }
}

/// `--once` needs no terminal.
#[test]
fn one_frame() {
    let daemon = Daemon::start();
    let address = format!("unix:{}", daemon.socket().display());
    let once = |words: &[&str]| {
        let words = [&["top", &address, "--once"], words].concat();
        let output = program::command().args(words).stdin(Stdio::null()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), error)
    };
    let (status, text, error) = once(&[]);
    assert_eq!((status, error.as_str()), (Some(0), ""));
    assert_eq!(text.lines().count(), 24);
    assert!(text.contains("05 CEX8C [a] o  a  o") && !text.contains('\x1b'), "{text}");
    let (_, text, _) = once(&["--size", "100x30", "--press", "Down Down a"]);
    assert!(text.lines().count() == 30 && text.contains("+ 0a.0004 0a.00ab"), "{text}");
    let (_, text, _) = once(&["--press", "Down Down a y", "--looks", "3"]);
    assert!(text.contains(&format!("done: adjunct ap --host {address} assign")), "{text}");
    assert!(
        Client::connect(&daemon.socket()).unwrap().snapshot().unwrap().mdev(ONE).unwrap().matrix.apm.test(10)
    );
    let (_, text, _) = once(&["--svg"]);
    assert!(text.starts_with("<svg ") && text.contains("0a"), "{text}");

    for (words, status, part) in [
        (&["--size", "80"][..], 2, "COLUMNSxLINES"),
        (&["--press", "Dwon"], 2, "Dwon: no key"),
        (&["--interval", "0"], 2, "0.1 to 3600"),
    ] {
        let (got, _, error) = once(words);
        assert!(got == Some(status) && error.contains(part), "{words:?}: {error}");
    }
    let gone = program::command().args(["top", "unix:/nonexistent", "--once"]).output().unwrap();
    let error = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(gone.status.code() == Some(3) && error.contains("adjunct ap-host serve"), "{error}");
}
