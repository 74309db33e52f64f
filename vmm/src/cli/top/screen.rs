//! The terminal: frames out, and its settings back on every way out.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::sync::Once;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::terminal;
use vmm::host::{RawTerminal, restore_terminal, show_screen};

use super::draw::{Look, draw};
use super::frame;
use super::model::App;

/// Exit status after a panic, as Rust has it.
const PANICKED: i32 = 101;

/// The terminal while it shows frames.
pub struct Screen {
    way: Way,
    look: Look,
    /// Gives the settings back when dropped.
    _raw: RawTerminal,
}

enum Way {
    /// Cells that changed are written where they are. Not through standard output's own buffer: what a panic leaves there
    /// would be written on the way out.
    Cells(Box<Terminal<CrosstermBackend<BufWriter<File>>>>),
    /// The terminal knows no places: each frame comes below the one before.
    Lines,
}

impl Screen {
    /// Takes the terminal. A panic of any thread from now on gives it back and ends the process.
    pub fn enter() -> io::Result<Self> {
        restore_on_panic();
        let no_terminal = || io::Error::other("standard input is no terminal");
        let raw = RawTerminal::enter()?.ok_or_else(no_terminal)?;
        let dumb = dumb();
        let colour = !dumb && std::env::var_os("NO_COLOR").is_none_or(|text| text.is_empty());
        let way = if dumb {
            Way::Lines
        } else {
            show_screen(&raw)?;
            let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            Way::Cells(Box::new(Terminal::new(CrosstermBackend::new(BufWriter::new(out)))?))
        };
        Ok(Self { way, look: Look { colour, ascii: ascii() }, _raw: raw })
    }

    /// Shows the state; when every frame is a page of its own, only if more `changed` than figures.
    pub fn show(&mut self, app: &App, changed: bool) -> io::Result<()> {
        match &mut self.way {
            Way::Cells(terminal) => terminal.draw(|frame| draw(frame, app, self.look)).map(drop),
            Way::Lines if changed => {
                let (columns, lines) =
                    terminal::size().ok().filter(|size| size.0 > 0 && size.1 > 0).unwrap_or((80, 24));
                let text = text(&frame(app, columns, lines, self.look), "\r\n");
                io::stdout().lock().write_all(text.as_bytes())
            }
            Way::Lines => Ok(()),
        }
    }
}

fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore_terminal();
            before(panic);
            // Other threads would go on drawing.
            std::process::exit(PANICKED);
        }));
    });
}

/// Whether the terminal can do nothing but print lines.
fn dumb() -> bool {
    std::env::var("TERM").map_or(true, |term| term.is_empty() || term == "dumb")
}

/// Whether letters beyond ASCII would not arrive.
pub fn ascii() -> bool {
    let set = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    dumb() || !(locale.contains("utf-8") || locale.contains("utf8"))
}

/// A frame as lines without blanks at their ends.
pub fn text(frame: &Buffer, end: &str) -> String {
    let line = |y| {
        let line: String = (0..frame.area.width).map(|x| frame[(x, y)].symbol()).collect();
        line.trim_end().to_owned() + end
    };
    (0..frame.area.height).map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    /// Set where the test is to be the one that panics.
    const PANIC: &str = "ADJUNCT_TEST_PANIC";

    /// A panic, of another thread even, gives the terminal back, says why, and ends the process.
    #[test]
    fn a_panic_gives_the_terminal_back() {
        if std::env::var_os(PANIC).is_some() {
            let _screen = Screen::enter().unwrap();
            let other = std::thread::spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                panic!("for a test");
            });
            let _ = other.join();
            std::thread::sleep(Duration::from_secs(60));
            unreachable!("the process has ended");
        }
        if !Command::new("tmux").arg("-V").output().is_ok_and(|output| output.status.success()) {
            println!("skipped: there is no tmux (`cargo xtask test` provides it)");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let tmux = |words: &[&str]| {
            let output = Command::new("tmux")
                .arg("-S")
                .arg(directory.path().join("tmux"))
                .args(words)
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let runner = std::env::var("ADJUNCT_RUNNER").unwrap_or_default();
        let test = std::env::current_exe().unwrap();
        let name = "cli::top::screen::tests::a_panic_gives_the_terminal_back";
        let line = format!(
            "{PANIC}=1 {runner} {} --exact --nocapture {name}; echo status $?; stty -a; cat",
            test.display()
        );
        tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "40", &line]);
        let end = Instant::now() + Duration::from_secs(60);
        let screen = loop {
            let screen = tmux(&["capture-pane", "-p"]);
            if screen.contains("status") && screen.contains("echoctl") {
                break screen;
            }
            assert!(Instant::now() < end, "{screen}");
            std::thread::sleep(Duration::from_millis(20));
        };
        let flags = tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        tmux(&["kill-server"]);
        assert!(screen.contains("status 101") && screen.contains("for a test"), "{screen}");
        for setting in ["icanon", "echo", "isig", "icrnl", "opost"] {
            assert!(screen.split_whitespace().any(|word| word == setting), "{setting}: {screen}");
        }
        assert_eq!(flags.trim(), "0 1", "the screen and the cursor of before");
    }
}
