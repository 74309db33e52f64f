//! A shell in a terminal of tmux.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// What ends programs, and what the shell then sees.
pub const SIGNALS: [(&str, u8); 8] = [
    ("TERM", 4),
    ("INT", 4),
    ("QUIT", 4),
    ("HUP", 4),
    ("ABRT", 134),
    ("SEGV", 139),
    ("BUS", 135),
    ("KILL", 137),
];

/// Whether tests can run here; says why not.
pub fn possible() -> bool {
    let tmux = Command::new("tmux").arg("-V").output().is_ok_and(|output| output.status.success());
    if !tmux {
        println!("skipped: there is no tmux (`cargo xtask test` provides it)");
    } else if std::env::var_os("ADJUNCT_RUNNER").is_some() {
        println!("skipped: signals and the terminal's size would be those of the program that runs adjunct");
        return false;
    }
    tmux
}

/// A process that does not outlive the test.
pub struct Process(pub Child);

impl Process {
    pub fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until there is something.
#[track_caller]
pub fn wait<T>(mut look: impl FnMut() -> Option<T>, why: impl Fn() -> String) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(got) = look() {
            return got;
        }
        assert!(Instant::now() < end, "{}", why());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A shell in a terminal of tmux, which has a server of its own.
pub struct Terminal {
    server: PathBuf,
    /// The settings of before.
    before: String,
    _directory: TempDir,
}

impl Terminal {
    /// With a shell whose prompt is `ready`.
    pub fn open(columns: u16, lines: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = directory.path().join("tmux");
        let mut terminal = Self { server, before: String::new(), _directory: directory };
        let (columns, lines) = (columns.to_string(), lines.to_string());
        // Nobody's configuration, and the same letters everywhere.
        let shell = "env -u NO_COLOR -u ENV LC_ALL=C.UTF-8 PS1='ready ' sh";
        let start = ["-f", "/dev/null", "-u", "new-session", "-d", "-x", &columns, "-y", &lines, shell];
        terminal.tmux(&start);
        terminal.shows("ready");
        terminal.before = terminal.settings();
        terminal
    }

    pub fn tmux(&self, words: &[&str]) -> String {
        let output =
            Command::new("tmux").arg("-S").arg(&self.server).args(words).stdin(Stdio::null()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "tmux {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Runs a command of the shell.
    pub fn run(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.keys(&["Enter"]);
    }

    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen has this text; the screen.
    #[track_caller]
    pub fn shows(&self, text: &str) -> String {
        let look = || Some(self.screen()).filter(|screen| screen.contains(text));
        wait(look, || format!("{text:?} is not on the screen:\n{}", self.screen()))
    }

    /// Waits until the screen has all these texts: a program may have written one of them and not yet another.
    #[track_caller]
    pub fn shows_all(&self, texts: &[&str]) -> String {
        let look = || Some(self.screen()).filter(|screen| texts.iter().all(|text| screen.contains(text)));
        wait(look, || format!("of {texts:?} something is not on the screen:\n{}", self.screen()))
    }

    /// Waits until the screen has not this text; the screen.
    #[track_caller]
    pub fn shows_not(&self, text: &str) -> String {
        let look = || Some(self.screen()).filter(|screen| !screen.contains(text));
        wait(look, || format!("{text:?} stays on the screen:\n{}", self.screen()))
    }

    /// The settings of the terminal as stty tells them, and whether tmux has the screen and the cursor of before.
    pub fn settings(&self) -> String {
        let tty = self.tmux(&["display-message", "-p", "#{pane_tty}"]);
        let stty = Command::new("stty").args(["-a", "-F", tty.trim()]).output().unwrap();
        assert!(stty.status.success(), "{stty:?}");
        let flags = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}"]);
        flags + &String::from_utf8(stty.stdout).unwrap()
    }

    /// Waits until the settings are those of before.
    #[track_caller]
    pub fn is_as_before(&self, when: &str) {
        let settled = || (self.settings() == self.before).then_some(());
        wait(settled, || format!("{when}: {}\nwas {}", self.settings(), self.before));
    }

    /// Runs a command again and again, brings it to a state by `reach`, and ends it by each of the signals with the status
    /// that the shell is to see. The terminal is to be as before each time.
    #[track_caller]
    pub fn survives(&self, line: &str, signals: &[(&str, u8)], reach: impl Fn(&Self)) {
        for &(signal, status) in signals {
            // Nothing of the time before is taken for something new: neither keys that nobody took nor what is shown.
            self.keys(&["C-u"]);
            self.run("clear");
            wait(|| (self.screen().trim() == "ready").then_some(()), || self.screen());
            self.run(&format!("{line}; ended=$?"));
            reach(self);
            assert_ne!(self.settings(), self.before, "it has not taken the terminal:\n{}", self.screen());
            let killed = Command::new("kill").args(["-s", signal, &self.running()]).status().unwrap();
            assert!(killed.success());
            self.is_as_before(&format!("after {signal}"));
            // What the shell itself said about SIGKILL may have gone with the program's screen, and keys that nobody took
            // are now the beginning of the shell's line.
            let asked = || {
                self.keys(&["C-u"]);
                self.run("echo status=$ended");
                std::thread::sleep(Duration::from_millis(200));
                self.screen().contains(&format!("status={status}\n")).then_some(())
            };
            wait(asked, || format!("{signal}, not status {status}:\n{}", self.screen()));
        }
    }

    /// The number of the process that the shell runs.
    fn running(&self) -> String {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let child = || {
            let output = Command::new("ps").args(["-o", "pid=", "--ppid", shell.trim()]).output().unwrap();
            Some(String::from_utf8(output.stdout).unwrap().trim().to_owned()).filter(|pid| !pid.is_empty())
        };
        wait(child, || "the shell runs nothing".into())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(&self.server).arg("kill-server").output();
    }
}
